"""The sniper's book as a start at any point of the journal's past would restore it, in private memory: nothing of a running instance is touched.

Where a snapshot of before the point is still kept, it is what a start does. Else the book begins with the first record, as a start without
snapshots would; what was closed by the point then counts by its trade records alone (cash, fees, profit), so that strategies and symbols which are
long gone need no place. Imports the compiled kernels.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from control.record.journal import Journal, facts_of
from control.record.records import InstrumentFact, JournalError
from control.record.restore import Point, Tail, read_tail, restore
from ipc import layout as l
from ipc import segment
from ipc.jit import cache_dir

_KINDS = {name: number for number, name in l.INSTRUMENT_KINDS.items()}
#: reports behind which an order does nothing any more
_ENDS = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)


def compiled() -> bool:
    """Whether the fold is in the cache of kernels; else the first book waits for it."""
    return any(Path(cache_dir()).rglob("restore.fold-*.nbi"))


class Book(NamedTuple):
    """`account` (layout.ACCOUNT), open positions (layout.POSITION) and working orders (layout.WORKING) as plain values, each position and order with
    `symbol`, `strategy` and the `fact` of its instrument; `from_snapshot`: whether market prices up to it are in it."""

    account: dict[str, Any]
    positions: list[dict[str, Any]]
    working: list[dict[str, Any]]
    from_snapshot: bool


def book_at(journal: Journal, point: Point) -> Book:
    """The book behind a point's last record. Raises JournalError, SegmentError."""
    starts = {incarnation: start for incarnation, start in journal.run_starts().items() if incarnation <= point.incarnation}
    if not starts:
        return Book(dict.fromkeys(_values(np.zeros(1, l.ACCOUNT)[0]), 0), [], [], False)
    facts: dict[str, InstrumentFact] = {}
    for incarnation in sorted(starts):
        facts |= {fact.symbol: fact for fact in facts_of(starts[incarnation]).values()}
    memory = _memory(list(facts.values()), list(starts[max(starts)].data.get("strategies", ())))
    snapshot = journal.snapshot_until(*point)
    tail, closed = read_tail(journal, snapshot, point), None
    if snapshot is None:
        tail, closed = without_closed(tail, {incarnation: facts_of(start) for incarnation, start in starts.items()})
    restore(journal, memory, tail)
    account = _values(memory.sniper.account[0])
    if closed is not None:
        for name, value in (("cash", closed["pnl"].sum()), ("fees", closed["fees"].sum()), ("realised_pnl", closed["pnl"].sum()),
                            ("trades_closed", len(closed)), ("wins", (closed["pnl"] > 0).sum())):
            account[name] += int(value)
    return _book(memory, facts, account, snapshot is not None)


def _memory(facts: list[InstrumentFact], strategies: list[str]) -> Any:
    """Segments without a name, as a backtest has them, with the instruments as the journal knows them."""
    name = f"past-{uuid.uuid4().hex[:8]}"
    try:
        segment.create_all(name, 1024, max(4, len(facts)), 64)
        memory = segment.Memory(name)
    finally:
        segment.remove(name)
    for row, fact in zip(memory.instruments.instruments, facts, strict=False):
        row["symbol"], row["quote"], row["kind"] = fact.symbol.encode(), fact.quote.encode(), _KINDS.get(fact.kind, 0)
        for field in ("tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "value_quanta", "quantum_exponent", "maker_fee_e8",
                      "taker_fee_e8"):
            row[field] = getattr(fact, field)
        row["max_price"] = (1 << 53) - 1  # whatever was armed then was a price
    if len(strategies) > l.MAX_STRATEGIES:
        raise JournalError(f"the run had {len(strategies)} strategies, this program keeps {l.MAX_STRATEGIES}")
    memory.instruments.strategies["name"][: len(strategies)] = [name.encode() for name in strategies]
    return memory


def without_closed(tail: Tail, facts: dict[int, dict[int, InstrumentFact]]) -> tuple[Tail, Any]:
    """(a tail from the first record on without all that has ended in it, the CLOSED records that were left out, as TRADE).

    Symbols in which an order filled that no ring record stands for stay whole: whose it was depends on everything that was open there.
    """
    orders, reports = tail.orders, tail.reports
    keys = tail.order_incarnations << 40 | orders["seq"]
    of_report = np.where(reports["order_seq"] > 0, tail.report_incarnations << 40 | reports["order_seq"], reports["spare"])
    closed = orders["kind"] == l.CLOSED
    sent = orders["kind"] == l.NEW
    filled = np.isin(keys, of_report[reports["kind"] == l.FILL])
    stated = tail.report_incarnations[(reports["kind"] == l.BALANCE) & (reports["code"] != 0)].max(initial=0)
    over = np.isin(keys, of_report[np.isin(reports["kind"], _ENDS)]) | (tail.order_incarnations < stated)
    never = sent & (orders["purpose"] == l.ENTRY) & ~filled & over
    ended = np.concatenate([orders["position_id"][closed], orders["position_id"][never], orders["position_id"][orders["kind"] == l.PAPER_OPENED]])
    numbers = {symbol: number for number, symbol in enumerate(sorted({fact.symbol for known in facts.values() for fact in known.values()}))}
    of_order, symbols = (_symbols(*table, facts, numbers) for table in ((orders, tail.order_incarnations), (reports, tail.report_incarnations)))
    unsaid = np.isin(reports["kind"], (l.FILL, l.ANNOUNCED)) & ~np.isin(of_report, keys[sent])
    gone = (orders["position_id"] > 0) & np.isin(orders["position_id"], ended) & ~np.isin(of_order, symbols[unsaid])
    left = ~np.isin(of_report, keys[gone & sent]) | (reports["kind"] == l.BALANCE)
    return (Tail(None, orders[~gone], tail.order_incarnations[~gone], reports[left], tail.report_incarnations[left]),
            orders[closed & gone].view(l.TRADE))


def _symbols(rows: Any, incarnations: Any, facts: dict[int, dict[int, InstrumentFact]], numbers: dict[str, int]) -> Any:
    """A number for the symbol of each row, the same in all incarnations; −1 where it has none."""
    found = np.full(len(rows), -1)
    for incarnation, known in facts.items():
        table = np.full(1 << 16, -1)
        for instrument, fact in known.items():
            table[instrument] = numbers[fact.symbol]
        place = slice(*np.searchsorted(incarnations, (incarnation, incarnation + 1)).tolist())
        found[place] = table[rows["instrument"][place]]
    return found


def _book(memory: Any, facts: dict[str, InstrumentFact], account: dict[str, Any], from_snapshot: bool) -> Book:
    sniper = memory.sniper

    def owner(row: int) -> dict[str, Any]:
        instrument, strategy = divmod(row, l.MAX_STRATEGIES)
        symbol = memory.instruments.instruments[instrument]["symbol"].decode()
        return {"symbol": symbol, "strategy": memory.instruments.strategies[strategy]["name"].decode(), "fact": facts[symbol]}

    positions = [_values(sniper.positions[row]) | owner(row) for row in np.flatnonzero(sniper.positions["state"] != l.POS_FLAT).tolist()]
    working = [_values(row) | owner(int(row["position_row"])) for row in sniper.working[sniper.working["order_seq"] > 0]]
    return Book(account, sorted(positions, key=lambda one: one["position_id"]), sorted(working, key=lambda one: one["order_seq"]), from_snapshot)


def _values(row: Any) -> dict[str, Any]:
    return {name: row[name].tolist() for name in row.dtype.names if not name.startswith("_")}
