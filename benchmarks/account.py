"""The journal of an account with a long past: what a real run has recorded, once for each day, under the ids that each day would have had.

The run is a backtest of four strategies (ladder, trailing stop, break-even, limit orders) over a random walk that is wide enough to hit stops and
targets all the time, ending with everything closed. A day is an incarnation: event time, positions, venue events and trades go on behind the day
before. The last day ends in the middle of trading, as where everything was killed; its only snapshot is the one that the sniper's memory gave then.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.frame import CheckFailed, check
from benchmarks.market import EVENT_NS, walk
from control import config as configuration
from control.backtest.engine import Backtest
from control.record import snapshot as snapshots
from control.record.journal import Journal
from control.record.writer import JournalWriter
from control.supervise.launch import make_plan
from control.supervise.permission import permit
from control.supervise.session import Plan
from hotpath.kernel import clock
from hotpath.venues import catalogue
from ipc import layout as l

DAY_NS = 86_400 * 10**9
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
#: how much wider than the walk's the steps are, and event time between two ticks
_STRETCH, _PACE_NS = 20, 1_000_000
#: records of a run per tick, roughly; the ticks behind the last entry; ticks between two looks at the rings
_RECORDS_PER_TICK, _QUIET_TICKS, _CHUNK = 0.15, 80_000, 1 << 12
#: records of each ring in one transaction, as the recorder takes them
_BATCH = 2048
_SETTINGS: dict[str, Any] = {
    "limits.max_open_positions": 1000, "limits.max_symbol_exposure_bps": 10_000, "limits.daily_loss_bps": 10_000,
    "limits.max_entries_per_day": 1_000_000, "limits.min_confidence": 0.0,
    "limits.price_collar_bps": 10_000, "limits.window_collar_bps": 10_000, "limits.duplicate_window_ms": 0,
    "limits.max_messages_per_s": 1e6, "limits.max_repeats": 100_000, "limits.repeat_window_s": 1, "paper.initial_balance": 1e6,
    "learning.apply": False}  # all four lose here, and would be shut
_STRATEGIES = """
from control.think.strategy import Condition, Strategy, equity_bps
from ipc.messages import Rung

class Base(Strategy):
    interval_s = 10
    more = {}

    def plan(self, market, portfolio, knowledge):
        if market.now_ns >= UNTIL_NS:
            return []
        made = []
        for symbol, facts in market.facts.items():
            last = market.quotes[symbol].last
            for side, direction, sign in (("buy", "up", 1), ("sell", "down", -1)):
                if not last > 0:
                    continue
                for step in (1, 4, 9):
                    level = facts.price_text(last * (1 + sign * step * 1e-4), direction)
                    more = dict(self.more)
                    if more.get("order") == "limit":
                        more["limit_price"] = level
                    made.append(Condition(symbol=symbol, side=side, level=level, direction=direction, size=equity_bps(20), confidence=0.9,
                                          time_stop_s=20, valid_for_s=20, max_fires=1000, why=f"{symbol} moves by {step} bps", **more))
        return made

class Ladder(Base):
    more = {"stop_bps": 8, "target_bps": 20, "ladder": [Rung(bps=4, share=0.4), Rung(bps=8, share=0.3)]}

class Trailing(Base):
    more = {"stop_bps": 9, "trail_activation_bps": 3, "trail_distance_bps": 4}

class BreakEven(Base):
    more = {"stop_bps": 7, "target_bps": 9, "break_even_bps": 4}

class Limits(Base):
    more = {"stop_bps": 6, "target_bps": 6, "order": "limit"}
"""
#: their names, as the orders have them
STRATEGIES = ("Ladder", "Trailing", "BreakEven", "Limits")


class Run(NamedTuple):
    """What one run has recorded, with the book of the sniper in the middle of it."""

    start: dict[str, Any]
    orders: Any
    reports: Any
    plans: Any
    snapshot: snapshots.Snapshot
    summary: dict[str, Any]


def record_run(folder: Path, records: int) -> Run:
    """A backtest of about so many ring records; its snapshot is taken when two fifths of them are there."""
    folder.mkdir(parents=True, exist_ok=True)
    trading = max(30_000, int(records / _RECORDS_PER_TICK))
    file = folder / "strategies.py"
    file.write_text(_STRATEGIES.replace("UNTIL_NS", str(EVENT_NS + trading * _PACE_NS)))
    settings = configuration.load(None, _SETTINGS | {"run.strategies": ",".join(f"{file}:{name}" for name in STRATEGIES)}, {})
    plan = backtest_plan(folder, SYMBOLS, settings)
    ticks = _ticks(trading + _QUIET_TICKS)
    run = Backtest(plan, folder / "run", "day", logging.getLogger("benchmarks"))
    book = None
    try:
        for first in range(0, len(ticks), _CHUNK):
            run.run(ticks[first: first + _CHUNK])
            line = run.memory.sniper.commit_lines[int(run.memory.sniper.commit[0]["number"]) & 1]
            if book is None and int(line["intent_seq"]) + int(line["report_seq"]) >= records * 2 // 5:
                book = snapshots.Reader(run.memory).take()
        summary = run.finish([], [])
    finally:
        run.close()
    check(summary["reconciled"] is True, f"the run does not reconcile: {summary.get('differences')}")
    if book is None or not book.positions:
        raise CheckFailed("the run had fewer records, or nothing open where its snapshot was taken")
    journal = Journal(folder / "run" / "state" / "journal")
    try:
        made = Run(journal.run_starts()[1].data, journal.rows("orders", 1), journal.rows("reports", 1), [plan for _, plan in journal.plans()], book,
                   summary)
        last = journal.last_snapshot()
        check(last is not None and not last.positions and not last.working, "something was still open at the run's end")
    finally:
        journal.close()
    return made


def backtest_plan(folder: Path, symbols: Sequence[str], settings: Any) -> Plan:
    """A backtest of these symbols whose ticks come from elsewhere; as a plan names its data, they are a recording of one trade."""
    path = folder / "nothing.csv"
    path.write_text(f"time,price,size\n{EVENT_NS // 10**9},100.0,1\n")
    rows = catalogue.resolve(symbols, settings.instruments, settings.paper, "replay")
    plan = dataclasses.replace(make_plan("replay", [f"{path}={symbol}" for symbol in symbols], settings), mode="backtest", lockstep=True,
                               speed=0.0, rows=rows)
    permit(plan)
    return plan


def _ticks(count: int) -> Any:
    ticks = walk(len(SYMBOLS), count)
    for side in ("price", "ask_price"):
        there = ticks[side] > 0
        offset = np.where(ticks["kind"] == l.TICK_QUOTE, 1 if side == "ask_price" else -1, 0)
        ticks[side][there] = (1_000_000 + (ticks[side] - offset - 1_000_000) * _STRETCH + offset)[there]
    ticks["event_ns"] = EVENT_NS + np.arange(count, dtype=np.int64) * _PACE_NS
    records = np.zeros((count, 10), np.int64)
    for column, name in enumerate(("event_ns", None, "instrument", "kind", "flags", None, "price", "lots", "ask_price", "ask_lots")):
        if name is not None:
            records[:, column] = ticks[name]
    made = np.zeros(count + count * _PACE_NS // clock.CLOCK_NS + 64, l.TICK)
    _, made_count = clock.weave(records, 0, count, clock.new_state(), 60 * 10**9, made, np.zeros((len(made), 2), np.int64))
    return made[:made_count]


# ── days ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def write(path: Path, run: Run, days: int, orders_behind: int = 0) -> None:
    """A journal of so many days, the last one cut off in the middle of trading: so many orders behind its snapshot, 0: as late as it goes."""
    writer = JournalWriter(path, sync=False)
    try:
        for day in range(days):
            writer.begin_run(f"{path.name}-day-{day}", run.start | {"run_id": f"{path.name}-day-{day}"})
            if day == 0:
                for plan in run.plans:  # of later days the orders name the same ones
                    writer.append(plans=[msgspec.structs.replace(plan, plan_seq=0)])
            orders, reports = day_of(run, day)
            if day == days - 1:
                orders, reports = _cut(orders, reports, run.snapshot.intent_seq + orders_behind if orders_behind else 0)
            _append(writer, orders, reports, book_of_day(run, day) if day == days - 1 else None)
    finally:
        writer.close()


def day_of(run: Run, day: int) -> tuple[Any, Any]:
    """The run's records as those of a later day."""
    orders, reports = run.orders.copy(), run.reports.copy()
    for rows in (orders, reports):
        rows["event_ns"][rows["event_ns"] > 0] += day * DAY_NS  # 0: before the market's first time
    orders["position_id"][orders["position_id"] > 0] += day << 40
    trades = orders.view(l.TRADE)
    trades["opened_ns"][np.isin(orders["kind"], (l.CLOSED, l.PAPER_CLOSED))] += day * DAY_NS
    orders["order_seq"][(orders["kind"] == l.PAPER_OPENED) & (orders["order_seq"] > 0)] += day << 40  # the position of a twin
    for name in ("venue_seq", "trade_id"):
        reports[name][reports[name] > 0] += day * int(run.reports[name].max())
    filled = (reports["kind"] == l.FILL) & (reports["balance"] > 0)
    reports["balance"][filled] += day * _gained(run)
    return orders, reports


def _gained(run: Run) -> int:
    """Quanta by which a whole run moves the venue's cash, its deposit included; all is closed at its end."""
    return int(run.reports[run.reports["kind"] == l.FILL][-1]["balance"])


def book_of_day(run: Run, day: int) -> snapshots.Snapshot:
    """The sniper's book in the middle of a later day."""
    shift, trades = day * DAY_NS, run.orders[run.orders["kind"] == l.CLOSED].view(l.TRADE)
    fills, first = run.reports[run.reports["kind"] == l.FILL], run.snapshot
    deposits = int(run.reports[(run.reports["kind"] == l.BALANCE) & (run.reports["code"] == 0)]["balance"].sum())
    before = {"cash": _gained(run), "equity": _gained(run), "peak_equity": _gained(run), "day_start_equity": _gained(run), "initial_equity": deposits,
              "realised_pnl": int(trades["pnl"].sum()), "fees": int(fills["fee"].sum()), "trades_closed": len(trades),
              "wins": int((trades["pnl"] > 0).sum()), "day": 1}
    account = {name: getattr(first.account, name) + day * value for name, value in before.items()}

    def later(struct: Any, **fields: int) -> Any:
        moved = {name: getattr(struct, name) + by for name, by in fields.items() if getattr(struct, name)}
        return msgspec.structs.replace(struct, **moved)

    times = dict.fromkeys(("opened_ns", "deadline_ns", "retry_ns", "last_entry_ns"), shift)
    return msgspec.structs.replace(
        first, incarnation=day + 1, event_ns=first.event_ns + shift,
        account=later(msgspec.structs.replace(first.account, **account), event_ns=shift, messages_due_ns=shift),
        positions=[later(one, position_id=day << 40, **times) for one in first.positions],
        # until when an order is valid is said by its plan, which is of the first day
        working=[later(one, position_id=day << 40, event_ns=shift, last_trade_id=day * int(run.reports["trade_id"].max())) for one in first.working],
        entries_due_ns={name: due + shift for name, due in first.entries_due_ns.items()},
        papers=[later(one, position_id=day << 40, **times) for one in first.papers],
        aftermath=[later(one, position_id=day << 40, closed_ns=shift) for one in first.aftermath])


def _cut(orders: Any, reports: Any, at: int) -> tuple[Any, Any]:
    """Up to an order, 0: the last moment at which most positions were open: where everything was killed. No report is there before its order."""
    change = np.zeros(len(orders), np.int64)
    change[(orders["kind"] == l.NEW) & (orders["purpose"] == l.ENTRY)] = 1
    change[orders["kind"] == l.CLOSED] = -1
    open_then = np.cumsum(change)
    late = at or int(np.flatnonzero(open_then >= open_then.max() - 1)[-1]) + 1
    beyond = np.flatnonzero(reports["order_seq"] > late)
    return orders[:late], reports[: beyond[0] if len(beyond) else len(reports)]


def _append(writer: JournalWriter, orders: Any, reports: Any, book: snapshots.Snapshot | None) -> None:
    """As the recorder does it: no report before its order, and a snapshot no earlier than the records up to it."""
    taken = 0
    for first in range(0, len(orders), _BATCH):
        part = orders[first: first + _BATCH]
        known = int(part[-1]["report_seq"]) if first + _BATCH < len(orders) else len(reports)
        due = book is not None and book.intent_seq <= first + len(part) and book.report_seq <= known
        writer.append(part, reports[taken: known], snapshot=book if due else None)
        taken, book = max(taken, known), None if due else book
    check(book is None, "the snapshot's place is not among the records")
