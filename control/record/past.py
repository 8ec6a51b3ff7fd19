"""An account's days, recomputed from the journal alone: what was ordered, filled, closed, earned and paid, and what was held at each day's end.

The figures are those of the reconciliation (control/record/reconcile.py), taken at the end of each day. Money is in quanta. Equity is the sniper's
cash and what open positions are worth at the last price that the journal knows of their symbol (a fill's, or an order's reference), which may be
older than the last quote was then.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from control.record import records
from control.record.journal import Journal
from control.record.reconcile import Recomputation, Trip
from control.record.records import InstrumentFact, RingRows
from control.record.timeline import Day, Timeline, ring_records
from ipc import layout as l
from ipc import messages

#: an event that says that a process was started again
_RESTART = "respawn"


class Mark(NamedTuple):
    """The last price that the journal knows of a symbol, in ticks, and of when."""

    price: int
    event_ns: int


@dataclass(frozen=True)
class Close:
    """The account behind a record: the sniper's cash, deposits, what is open by position id, what it is worth, and what does not add up since the
    one before."""

    cash: int = 0
    deposits: int = 0
    fees: int = 0
    realised: int = 0
    open: dict[int, Trip] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    equity: int = 0
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """One day (or a part of one): counts, money in quanta, and the account at its end. `equity_start` is that of before, and the day's deposits."""

    day: Day
    runs: list[str]
    configs: list[str]
    orders: int
    fills: int
    trades: int
    wins: int
    fees: int
    realised: int
    deposits: int
    equity_start: int
    close: Close
    restarts: int


class Past:
    """Days of a journal, as it is when this is made. Raises JournalError."""

    def __init__(self, journal: Journal, timeline: Timeline | None = None) -> None:
        self.journal, self.timeline = journal, timeline or Timeline(journal)
        self.starts = journal.run_starts()
        self.facts = journal.instruments()
        self.exponent = next((fact.quantum_exponent for facts in self.facts.values() for fact in facts.values()), -8)

    def figures(self, upto: int | None = None) -> list[Figures]:
        """Every day, oldest first; up to the record of a number, the last day is only that part of it."""
        days = [day if upto is None or day.last <= upto else day._replace(last=upto)
                for day in self.timeline.days() if upto is None or day.first <= upto]
        restarts = self._restarts(upto)
        found: list[Figures] = []
        before = Close()
        for day, close, rows in zip(days, self._closes([day.last for day in days]), self._rows(days), strict=True):
            orders, reports, incarnations = rows
            trades = orders[orders["kind"] == l.CLOSED].view(l.TRADE)
            fills = reports[reports["kind"] == l.FILL]
            deposits = close.deposits - before.deposits
            found.append(Figures(
                day, [str(self.starts[one].data.get("run_id", one)) for one in incarnations if one in self.starts],
                list(dict.fromkeys(config_of(self.starts[one]) for one in incarnations if one in self.starts)),
                int((orders["kind"] == l.NEW).sum()), len(fills), len(trades), int((trades["pnl"] > 0).sum()), int(fills["fee"].sum()),
                int(trades["pnl"].sum()), deposits, before.equity + deposits, close, restarts[day.date]))
            before = close
        return found

    def closes(self, *numbers: int) -> list[Close]:
        """The account behind the records of some numbers, which do not fall."""
        return list(self._closes(list(numbers)))

    def between(self, first: int, last: int) -> tuple[slice, slice]:
        """Places in the timeline's tables (orders, reports) of the records with these numbers."""
        places = [slice(*np.searchsorted(numbers, (first, last + 1)).tolist())
                  for numbers in (self.timeline.order_numbers, self.timeline.report_numbers)]
        return places[0], places[1]

    def _rows(self, days: list[Day]) -> Iterator[tuple[Any, Any, list[int]]]:
        """(orders, reports, incarnations) of each day."""
        for day in days:
            orders, reports = self.between(day.first, day.last)
            of = np.concatenate([self.timeline.orders.incarnations[orders], self.timeline.reports.incarnations[reports]])
            yield self.timeline.orders.rows[orders], self.timeline.reports.rows[reports], np.unique(of).tolist()

    def _restarts(self, upto: int | None) -> dict[date, int]:
        """Processes that were started again, by the day of what was stored before; up to a record within a day, none of behind its event time."""
        days = self.timeline.days()
        counts = dict.fromkeys((day.date for day in days), 0)
        end_ns = None if upto is None or any(day.last == upto for day in days) else self.timeline.event_ns(upto)
        starts = np.array([self.timeline.event_ns(day.first) for day in days], np.int64)
        for record, event in self.journal.event_records():
            if event.kind == _RESTART and days and (end_ns is None or record.event_ns <= end_ns):
                counts[days[max(0, int(np.searchsorted(starts, record.event_ns, side="right")) - 1)].date] += 1
        return counts

    def _closes(self, numbers: list[int]) -> Iterator[Close]:
        work, marks, done, told = Recomputation(self.journal), dict[str, Mark](), 0, 0
        for number in numbers:
            orders, reports = self.between(done + 1, number)
            for record in ring_records(records.ORDER, self.timeline.orders, orders, (l.NEW,)):
                work.order(record)
            for record in ring_records(records.REPORT, self.timeline.reports, reports, (l.FILL, l.BALANCE, l.ANNOUNCED)):
                work.money(record, record.row, f"report {record.incarnation}/{record.seq}")
            for record in ring_records(records.TRADE, self.timeline.orders, orders, (l.CLOSED,)):
                work.trade(record)
            self._mark(marks, self.timeline.orders, orders, l.NEW, "reference_price")
            self._mark(marks, self.timeline.reports, reports, l.FILL, "last_price")
            done = number
            held = {identity: copy(trip) for identity, trip in work.trips.items() if trip.lots}
            yield Close(work.book, work.account.deposits, work.account.fees,
                        sum(trip.closed[1] for trip in work.trips.values() if trip.closed), held, dict(marks),
                        work.book + sum(self.worth(trip, marks.get(trip.symbol)) for trip in held.values()), tuple(work.differences[told:]))
            told = len(work.differences)

    def _mark(self, marks: dict[str, Mark], table: RingRows, place: slice, kind: int, name: str) -> None:
        """The last price of each instrument in a part of a table."""
        chosen = np.flatnonzero((table.rows["kind"][place] == kind) & (table.rows[name][place] > 0))[::-1] + place.start
        keys = table.incarnations[chosen] << 16 | table.rows["instrument"][chosen]
        for at in chosen[np.unique(keys, return_index=True)[1]].tolist()[::-1]:
            row = table.rows[at]
            fact, event_ns = self.facts.get(int(table.incarnations[at]), {}).get(int(row["instrument"])), int(row["event_ns"])
            if fact is not None and event_ns >= marks.get(fact.symbol, Mark(0, 0)).event_ns:
                marks[fact.symbol] = Mark(int(row[name]), event_ns)

    def fact(self, symbol: str) -> InstrumentFact | None:
        """The newest facts of a symbol."""
        return next((fact for incarnation in sorted(self.facts, reverse=True) for fact in self.facts[incarnation].values()
                     if fact.symbol == symbol), None)

    def worth(self, trip: Trip, mark: Mark | None) -> int:
        """What a position adds to cash, in quanta; at what it cost where no price is known."""
        fact = self.fact(trip.symbol)
        if fact is None:
            return 0
        value = mark.price * trip.lots * fact.value_quanta if mark else trip.cost
        return value if fact.kind == "spot" else trip.side * (value - trip.cost)


def config_of(start: messages.Event) -> str:
    """How a run's configuration is called: by its version, or by the beginning of its hash."""
    version = start.data.get("config_version")
    return f"v{version}" if version else str(start.data.get("config_sha256", ""))[:8]
