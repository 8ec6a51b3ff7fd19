"""The order of everything in a journal: one number for each ring record, and the days that they belong to.

**Event sequence**: records of both rings, counted from the journal's first one on. Incarnations follow each other; within one an order-ring record
stands behind the reports that the sniper had applied when it made it (its `report_seq`), which is the order in which things happened to the book.
A number never changes once an order-ring record stands behind it; those of the newest reports of a living instance (behind `final`) may still move
by what the sniper made before it applied them. Where a record was lost, its number is missing.

**Days** are UTC, by event time, which never goes back from one record to the next; what was made before a market's first time belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from control.record.journal import START, Journal
from control.record.records import Record, RingRows
from control.record.restore import Point

_DAY_NS = 86_400 * 10**9


class Day(NamedTuple):
    """A day with records: their numbers from `first` to `last`."""

    date: date
    first: int
    last: int


class Timeline:
    """Every ring record up to what was stored when it was made, as tables with the number and the event time of each. Raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        stored = journal.cursors()  # first, so that no report is read whose order is not
        self.end = Point(stored.incarnation, stored.orders, stored.reports)
        self.orders = journal.table("orders", START, (stored.incarnation, stored.orders))
        self.reports = journal.table("reports", START, (stored.incarnation, stored.reports))
        #: records before each incarnation
        self._base = self._bases()
        self.order_numbers, self.report_numbers = self._numbers()
        numbers = np.concatenate([self.report_numbers, self.order_numbers])
        times = np.concatenate([self.reports.rows["event_ns"], self.orders.rows["event_ns"]])
        in_order = np.argsort(numbers, kind="stable")
        self.numbers: Any = numbers[in_order]
        self.times: Any = _monotone(times[in_order])
        self.last = int(self.numbers[-1]) if len(self.numbers) else 0
        #: numbers up to this one never change
        self.final = int(self.order_numbers[-1]) if len(self.order_numbers) else 0

    def _bases(self) -> dict[int, int]:
        bases, total = {}, 0
        for incarnation in np.unique(np.concatenate([self.orders.incarnations, self.reports.incarnations])).tolist():
            bases[incarnation] = total
            orders, reports = (_of(table, incarnation) for table in (self.orders, self.reports))
            known = int(orders["report_seq"][-1]) if len(orders) else 0
            total += (int(orders["seq"][-1]) if len(orders) else 0) + max(known, int(reports["seq"][-1]) if len(reports) else 0)
        return bases

    def _numbers(self) -> tuple[Any, Any]:
        order_numbers, report_numbers = np.zeros(len(self.orders.rows), np.int64), np.zeros(len(self.reports.rows), np.int64)
        for incarnation, base in self._base.items():
            orders, reports = _of(self.orders, incarnation), _of(self.reports, incarnation)
            order_numbers[_place(self.orders, incarnation)] = base + orders["seq"] + orders["report_seq"]
            made_before = np.searchsorted(orders["report_seq"], reports["seq"], side="left")
            report_numbers[_place(self.reports, incarnation)] = base + reports["seq"] + made_before
        return order_numbers, report_numbers

    def point(self, number: int) -> Point:
        """The place behind the record of a number, 1 to `last`."""
        incarnation = max((one for one, base in self._base.items() if base < number), default=0)
        orders = int(np.searchsorted(self.order_numbers[_place(self.orders, incarnation)], number, side="right"))
        reports = int(np.searchsorted(self.report_numbers[_place(self.reports, incarnation)], number, side="right"))
        return Point(incarnation, orders, reports)

    def begins_behind(self, incarnation: int) -> int:
        """Number of the last record before an incarnation."""
        return self._base.get(incarnation, self.last)

    def event_ns(self, number: int) -> int:
        """Event time of a record, or of the last one before a number that is missing."""
        at = int(np.searchsorted(self.numbers, number, side="right"))
        return int(self.times[at - 1]) if at else 0

    def number_at(self, event_ns: int) -> int:
        """Number of the last record up to an event time; 0 before the first."""
        at = int(np.searchsorted(self.times, event_ns, side="right"))
        return int(self.numbers[at - 1]) if at else 0

    def days(self) -> list[Day]:
        """Every day that has records, oldest first."""
        if not len(self.times):
            return []
        of = self.times // _DAY_NS
        firsts = np.flatnonzero(np.diff(of, prepend=-1))
        lasts = np.append(firsts[1:], len(of)) - 1
        return [Day((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(of[first]))).date(), int(self.numbers[first]), int(self.numbers[last]))
                for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]


def _monotone(times: Any) -> Any:
    """Never back; what was made before the market's first time (0: a deposit, the first plan) takes that time."""
    known = np.where(times > 0, np.arange(len(times)), len(times))
    following = np.minimum.accumulate(known[::-1])[::-1]
    filled = np.where(following < len(times), times[np.minimum(following, len(times) - 1)], 0)
    return np.maximum.accumulate(filled) if len(times) else times


def _place(table: RingRows, incarnation: int) -> slice:
    first, last = np.searchsorted(table.incarnations, (incarnation, incarnation + 1)).tolist()
    return slice(first, last)


def _of(table: RingRows, incarnation: int) -> Any:
    return table.rows[_place(table, incarnation)]


def ring_records(kind: int, table: RingRows, place: slice, kinds: tuple[int, ...] = ()) -> Iterator[Record]:
    """Rows of a table one by one, only those of some kinds where they are named; without run and wall time."""
    rows, incarnations = table.rows[place], table.incarnations[place]
    if kinds:
        chosen = np.isin(rows["kind"], kinds)
        rows, incarnations = rows[chosen], incarnations[chosen]
    data, size = rows.tobytes(), rows.dtype.itemsize
    for at, (incarnation, seq, event_ns) in enumerate(zip(incarnations.tolist(), rows["seq"].tolist(), rows["event_ns"].tolist(), strict=True)):
        yield Record(kind, incarnation, 0, seq, event_ns, 0, 0, data[at * size:(at + 1) * size])
