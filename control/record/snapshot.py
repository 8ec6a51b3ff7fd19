"""The sniper's book at one commit: read from its shared memory without stopping it, and written back into fresh segments at a start.

Fields are named as in ipc/layout.py but instruments and strategies are by name, so that a snapshot outlives ids and layouts.
Prices are ticks, sizes lots, cash quanta, times event ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct

from control.record.records import JournalError
from ipc import layout as l
from ipc.segment import Memory

#: times that `take` looks again when the sniper commits under its eyes
TRIES: Final = 64


class Account(Struct, frozen=True, kw_only=True):
    """layout.ACCOUNT."""

    cash: int
    reserved: int
    equity: int
    peak_equity: int
    max_drawdown_e6: int
    day: int
    day_start_equity: int
    entries_today: int
    open_positions: int
    trades_closed: int
    realised_pnl: int
    fees: int
    event_ns: int
    wins: int
    working_orders: int
    initial_equity: int
    messages_due_ns: int
    papers_today: int = 0


class Position(Struct, frozen=True, kw_only=True):
    """layout.POSITION with its protection; `entry_seq`, `exit_seq` and `rung_seq` name working orders."""

    symbol: str
    strategy: str
    position_id: int
    state: int
    side: int
    lots: int
    entry_lots: int
    entry_quote: int
    exit_lots: int
    exit_quote: int
    cost: int
    fees: int
    realised: int
    stop_price: int
    target_price: int
    best_price: int
    opened_ns: int
    deadline_ns: int
    stop_bps: int
    target_bps: int
    trail_activation_bps: int
    trail_distance_bps: int
    time_stop_ns: int
    entry_seq: int
    exit_seq: int
    exit_working_lots: int
    condition_id: int
    retry_ns: int
    plan_seq: int
    generation: int
    fire_index: int
    attempt: int
    exit_reason: int
    trail_activation_price: int = 0
    last_entry_ns: int
    last_entry_lots: int
    last_entry_price: int
    rung_seq: int
    rungs: int
    rungs_done: int
    rung_bps: list[int]
    rung_share_e4: list[int]
    break_even_bps: int
    adjustments: int
    twin_stop_pct: int = 0
    twin_target_pct: int = 0


class Working(Struct, frozen=True, kw_only=True):
    """layout.WORKING; symbol and strategy name the position it belongs to."""

    symbol: str
    strategy: str
    order_seq: int
    side: int
    purpose: int
    lots: int
    cum_lots: int
    cum_quote: int
    reserved: int
    event_ns: int
    last_trade_id: int
    order_type: int
    limit_price: int
    condition_id: int
    position_id: int
    cancel_seq: int
    unknown: int
    valid_until_ns: int = 0


class Aftermath(Struct, frozen=True, kw_only=True):
    """layout.AFTERMATH: a closed trade whose price afterwards is still to be told; `told` of its two instants are over (0 or 1)."""

    symbol: str
    strategy: str
    position_id: int
    closed_ns: int
    exit_price: int
    condition_id: int
    side: int
    exit_reason: int
    plan_seq: int
    fire_index: int
    told: int = 0


class Snapshot(Struct, frozen=True, kw_only=True):
    """All of it: true after order-ring record `intent_seq` was made and report-ring record `report_seq` was applied."""

    commit: int
    incarnation: int
    event_ns: int
    tick_seq: int
    intent_seq: int
    report_seq: int
    account: Account
    positions: list[Position]
    working: list[Working]
    #: strategies that may make no entry until a person releases them
    latched: list[str]
    #: layout.ACCOUNT.entries_due_ns by strategy
    entries_due_ns: dict[str, int]
    #: trades on paper that are open or wait for their limit, twins of positions among them; their orders are 0
    papers: list[Position] = []
    #: oldest first
    aftermath: list[Aftermath] = []


class Reader:
    """Takes snapshots of a living sniper. A running step's writes are undone in the copy with the step's own undo log."""

    def __init__(self, memory: Memory, latched_elsewhere: Sequence[str] = ()) -> None:
        """`latched_elsewhere`: strategies that do not run here, and that nobody has released."""
        from hotpath.kernel.book import copy_book, room_for  # numba: the watchdog reads journals, and must stay without it

        self._copy_book = copy_book
        self._memory, self._latched_elsewhere = memory, list(latched_elsewhere)
        self._tx, _ = memory.transactional()
        self._copy, self._first, self._held = room_for(memory)
        self._line = np.zeros(1, l.COMMIT_LINE)

    def commit_number(self) -> int:
        """The sniper's last commit; 0 before the first."""
        return int(self._memory.sniper.commit[0]["number"])

    def take(self) -> Snapshot | None:
        """The book at a commit; None where nothing was ever committed, or the sniper was too quick for TRIES looks."""
        s = self._memory.sniper
        sniper = self._memory.board.processes[l.SNIPER]
        for _ in range(TRIES):
            life = int(sniper["pid"]), int(sniper["state"])
            number = self._copy_book(s.commit, s.commit_lines, s.undo, s.undo_at, s.undo_lines, self._tx, self._copy, self._first,
                                     self._held["instrument_states"], self._held["after"], self._line)
            if number == 0:
                return None
            # a successor that starts undoes a step, and empties the undo log without a commit
            if number > 0 and life[1] != l.PROC_STARTING and (int(sniper["pid"]), int(sniper["state"])) == life:
                return self._decode(number)
        return None

    def _decode(self, number: int) -> Snapshot:
        memory, held = self._memory, self._held
        positions, working, account = held["positions"], held["working"], held["account"][0]
        on_paper = held["instrument_states"]["open_mask"][:, None] >> (l.PAPER_BIT + np.arange(l.MAX_STRATEGIES)) & 1
        line = self._line[0]
        strategies = {row["name"].decode(): number for number, row in enumerate(memory.instruments.strategies) if row["name"]}
        return Snapshot(
            commit=number, incarnation=int(memory.board.cursors[0]["incarnation"]), event_ns=int(line["event_ns"]),
            tick_seq=int(line["tick_seq"]), intent_seq=int(line["intent_seq"]), report_seq=int(line["report_seq"]),
            account=Account(**_numbers(Account, account)),
            positions=[Position(**self._owner(row), **_numbers(Position, positions[row]))
                       for row in np.flatnonzero(positions["state"] != l.POS_FLAT)],
            working=[Working(**self._owner(int(working[row]["position_row"])), **_numbers(Working, working[row]))
                     for row in np.flatnonzero(working["order_seq"])],
            latched=self._latched_elsewhere + [name for name, number in strategies.items() if int(account["latched"]) >> number & 1],
            entries_due_ns={name: int(account["entries_due_ns"][number]) for name, number in strategies.items()},
            papers=[Position(**self._owner(row), **_numbers(Position, held["papers"][row])) for row in np.flatnonzero(on_paper)],
            aftermath=self._aftermath(),
        )

    def _aftermath(self) -> list[Aftermath]:
        first, second = self._held["after"][0]["told"].tolist()
        found = []
        for number in range(second, int(self._held["after"][0]["closed"])):
            one = self._held["aftermath"][number % l.MAX_AFTERMATH]
            owner = self._owner(int(one["instrument"]) * l.MAX_STRATEGIES + int(one["strategy"]))
            found.append(Aftermath(**owner, **_numbers(Aftermath, one), told=int(number < first)))
        return found

    def _owner(self, position_row: Any) -> dict[str, Any]:
        instrument, strategy = divmod(int(position_row), l.MAX_STRATEGIES)
        return {"symbol": self._memory.instruments.instruments[instrument]["symbol"].decode(),
                "strategy": self._memory.instruments.strategies[strategy]["name"].decode()}


def latched_elsewhere(snapshot: Snapshot | None, memory: Memory) -> list[str]:
    """Strategies that the last run's snapshot has latched and that this run does not have: they stay so until they run, and are released."""
    here = {row["name"].decode() for row in memory.instruments.strategies}
    return [name for name in snapshot.latched if name not in here] if snapshot else []


def write_back(snapshot: Snapshot, memory: Memory) -> None:
    """Put a snapshot into fresh segments before the sniper starts. Its orders become orders of an earlier incarnation, under keys
    incarnation << 40 | sequence, until the venue has told what became of them. Raises JournalError for what this run does not have; trades on paper,
    and prices that are still to be told, are left out where it does not: they are no money.
    """
    symbols = {row["symbol"].decode(): k for k, row in enumerate(memory.instruments.instruments) if row["symbol"]}
    strategies = {row["name"].decode(): k for k, row in enumerate(memory.instruments.strategies) if row["name"]}

    def place(symbol: str, strategy: str) -> tuple[int, int]:
        if symbol not in symbols or strategy not in strategies:
            raise JournalError(f"a position in {symbol} of strategy {strategy} is open, which this run does not have; name both, or use --fresh")
        return symbols[symbol], symbols[symbol] * l.MAX_STRATEGIES + strategies[strategy]

    def key(seq: int) -> int:
        return seq if seq == 0 or seq >= 1 << 40 else snapshot.incarnation << 40 | seq

    def protection(row: Any, position: Position, instrument: int, number: int) -> None:
        for name in Position.__struct_fields__[2:]:
            row[name] = getattr(position, name)
        row["instrument"], row["strategy"] = instrument, number % l.MAX_STRATEGIES
        for name in ("entry_seq", "exit_seq", "rung_seq"):
            row[name] = key(getattr(position, name))

    account = memory.sniper.account[0]
    for name in Account.__struct_fields__:
        account[name] = getattr(snapshot.account, name)
    account["open_positions"], account["working_orders"] = len(snapshot.positions), len(snapshot.working)
    for name, number in strategies.items():
        account["latched"] |= int(name in snapshot.latched) << number
        account["entries_due_ns"][number] = snapshot.entries_due_ns.get(name, 0)
    for at, position in enumerate(snapshot.positions):
        instrument, number = place(position.symbol, position.strategy)
        row, state = memory.sniper.positions[number], memory.sniper.instrument_states[instrument]
        protection(row, position, instrument, number)
        row["open_index"], memory.sniper.open_rows[at] = at, number
        state["open_mask"] |= 1 << (number % l.MAX_STRATEGIES)
        state["exposure_lots"] += position.lots
    for at, order in enumerate(snapshot.working):
        instrument, number = place(order.symbol, order.strategy)
        row = memory.sniper.working[at]
        for name in Working.__struct_fields__[2:]:
            row[name] = getattr(order, name)
        row["order_seq"], row["position_row"] = key(order.order_seq), number
        if order.purpose == l.ENTRY:
            memory.sniper.instrument_states[instrument]["working_lots"] += order.lots - order.cum_lots
    for paper in snapshot.papers:
        if paper.symbol in symbols and paper.strategy in strategies:
            instrument, number = place(paper.symbol, paper.strategy)
            protection(memory.sniper.papers[number], paper, instrument, number)
            memory.sniper.instrument_states[instrument]["open_mask"] |= 1 << (l.PAPER_BIT + number % l.MAX_STRATEGIES)
            account["paper_positions"] += 1
    waiting = [one for one in snapshot.aftermath if one.symbol in symbols and one.strategy in strategies][-l.MAX_AFTERMATH:]
    for row, one in zip(memory.sniper.aftermath, waiting, strict=False):
        for name in Aftermath.__struct_fields__[2:-1]:
            row[name] = getattr(one, name)
        row["instrument"], row["strategy"] = symbols[one.symbol], strategies[one.strategy]
    after = memory.sniper.after[0]
    after["closed"], after["told"][0] = len(waiting), sum(one.told for one in waiting)


def _numbers(struct: type[Struct], row: Any) -> dict[str, Any]:
    return {name: row[name].tolist() for name in struct.__struct_fields__ if name not in ("symbol", "strategy", "told")}
