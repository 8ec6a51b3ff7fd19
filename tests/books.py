"""What must be true of an account's journal however often its processes died: an oracle that reads the records alone, order by order.

Slow and obvious on purpose: it shares no code with the sniper, the gateway or the reconciliation.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from control.record.journal import Journal, decode_event
from control.record.reconcile import LedgerState
from control.record.summary import FILL
from hotpath.orders import parse_client_order_id
from ipc import layout as l

#: reports that end an order; a fill that completes it does, too
_ENDS = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)

#: (incarnation, sequence) on the order ring
Key = tuple[int, int]


@dataclass
class _Order:
    """A NEW record and every report about it, in the order of the journal."""

    row: Any
    reports: list[Any] = field(default_factory=list)

    @property
    def fills(self) -> list[Any]:
        return [report for report in self.reports if report["kind"] == l.FILL]

    @property
    def filled(self) -> int:
        return sum(int(report["last_lots"]) for report in self.fills)

    def ends(self) -> list[int]:
        """Places among the reports at which it ended: there may be one."""
        return [at for at, report in enumerate(self.reports)
                if report["kind"] in _ENDS or (report["kind"] == l.FILL and report["cum_lots"] >= self.row["lots"])]


def _own_order(report: Any, position: int) -> Any:
    """The NEW record that an order of the gateway itself would have, by its announcement."""
    row = np.zeros(1, l.INTENT)[0]
    for name, value in (("kind", l.NEW), ("purpose", l.EXIT), ("side", report["side"]), ("lots", report["last_lots"]), ("position_id", position),
                        ("instrument", report["instrument"]), ("strategy", report["code"]), ("report_seq", report["seq"] - 1)):
        row[name] = value
    return row


class Books:
    """Everything that a journal says about orders, positions and the venue's events."""

    def __init__(self, journal: Journal) -> None:
        journal.check()
        self.orders: dict[Key, _Order] = {}
        self.closed: dict[int, list[Any]] = defaultdict(list)
        self.events = [decode_event(record.payload) for record in journal.newest("events", 1 << 30)][::-1]
        for record in journal.orders():
            if record.row["kind"] == l.NEW:
                self.orders[record.incarnation, record.seq] = _Order(record.row)
        for record in journal.trades():
            self.closed[int(record.row["position_id"])].append(record.row)
        self.reports = [(record.incarnation, record.row) for record in journal.reports()]
        self.unknown: list[Key] = []
        held: dict[tuple[int, int], int] = {}
        for incarnation, report in self.reports:
            # an order of an earlier life of the shared memory is named whole, in `spare`
            earlier = int(report["spare"]) if report["kind"] != l.BALANCE else 0
            key = (earlier >> 40, earlier & (1 << 40) - 1) if earlier else (incarnation, int(report["order_seq"]))
            if report["kind"] == l.ANNOUNCED:
                self.orders[key] = _Order(_own_order(report, held.get((int(report["code"]), int(report["instrument"])), 0)))
            elif key in self.orders:
                row = self.orders[key].row
                self.orders[key].reports.append(report)
                if report["kind"] == l.FILL and row["purpose"] == l.ENTRY:
                    held[int(row["strategy"]), int(row["instrument"])] = int(row["position_id"])
            elif key[1]:
                self.unknown.append(key)
        #: lives of the shared memory that were stopped in order: nothing of them is left undecided
        self.whole = {incarnation for incarnation, event in journal.events() if event.kind == "run_end"}

    def faults(self) -> list[str]:
        """Whatever is wrong, in words; empty when the books are sound."""
        return [*self._of_the_venue(), *self._of_orders(), *self._of_entries(), *self._of_positions()]

    def _of_the_venue(self) -> list[str]:
        sequences = [int(report["venue_seq"]) for _, report in self.reports if report["venue_seq"] > 0]
        trades = Counter(int(report["trade_id"]) for _, report in self.reports if report["kind"] == l.FILL)
        faults = [f"trade {trade} is reported {times} times" for trade, times in trades.items() if times > 1]
        if sequences != list(range(1, len(sequences) + 1)):
            strange = next(at for at, seq in enumerate(sequences) if seq != at + 1)
            faults.append(f"venue events are not 1, 2, 3…: event {sequences[strange]} stands at place {strange + 1}")
        # an order may be accepted at its own time while the venue still matches older ticks; fills are the venue's time
        fills = [report for _, report in self.reports if report["kind"] == l.FILL]
        faults += [f"time goes back from trade {int(before['trade_id'])} to trade {int(after['trade_id'])}"
                   for before, after in itertools.pairwise(fills) if after["event_ns"] < before["event_ns"]]
        return faults + [f"a report names order {key}, which nobody sent" for key in self.unknown]

    def _of_orders(self) -> list[str]:
        faults = []
        for key, order in self.orders.items():
            kinds = Counter(int(report["kind"]) for report in order.reports)
            ends, cumulative = order.ends(), 0
            if kinds[l.ACCEPTED] > 1:
                faults.append(f"order {key} was accepted {kinds[l.ACCEPTED]} times: it was sent twice")
            if any(report["kind"] == l.REJECTED and report["code"] == l.REJ_DUPLICATE for report in order.reports):
                faults.append(f"order {key} went out under an id that was used before")
            if len(ends) > 1 or (ends and ends[0] != len(order.reports) - 1):
                faults.append(f"order {key} ended and went on: {[l.REPORT_KINDS[int(report['kind'])] for report in order.reports]}")
            if not ends and key[0] in self.whole:
                faults.append(f"order {key} never ended, and its run was stopped in order")
            events = [report for report in order.reports if report["venue_seq"] > 0]  # what the gateway itself says of it, it says when it notices
            if any(after["event_ns"] < before["event_ns"] for before, after in itertools.pairwise(events)):
                faults.append(f"order {key}: time goes back between its reports")
            for fill in order.fills:
                cumulative += int(fill["last_lots"])
                if int(fill["cum_lots"]) != cumulative or fill["last_lots"] <= 0:
                    faults.append(f"order {key}: its fills add up to {cumulative}, a report says {int(fill['cum_lots'])}")
            if cumulative > order.row["lots"]:
                faults.append(f"order {key}: {cumulative} lots filled of {int(order.row['lots'])}")
        return faults

    def _entries(self) -> dict[Key, _Order]:
        return {key: order for key, order in self.orders.items() if order.row["purpose"] == l.ENTRY}

    def _of_entries(self) -> list[str]:
        fired = Counter((int(order.row["condition_id"]), int(order.row["fire_index"])) for order in self._entries().values())
        named = Counter(int(order.row["position_id"]) for order in self._entries().values())
        return [*(f"condition {condition} fired its shot {index} {times} times" for (condition, index), times in fired.items() if times > 1),
                *(f"position {position} was opened {times} times" for position, times in named.items() if times > 1)]

    def _of_positions(self) -> list[str]:
        faults = []
        exits: dict[int, list[tuple[Key, _Order]]] = defaultdict(list)
        for key, order in self.orders.items():
            if order.row["purpose"] == l.EXIT:
                exits[int(order.row["position_id"])].append((key, order))
        for key, entry in self._entries().items():
            position, leaving = int(entry.row["position_id"]), exits.pop(int(entry.row["position_id"]), [])
            leaving.sort(key=lambda one: (one[0][0], int(one[1].row["report_seq"])))  # as they were decided
            left = sum(order.filled for _, order in leaving)
            if left > entry.filled:
                faults.append(f"position {position}: {entry.filled} lots in, {left} out")
            if any(order.row["side"] != -entry.row["side"] for _, order in leaving):
                faults.append(f"position {position}: an exit is on the side of its entry")
            # a rung may be under way beside the exit of the rest, and the gateway closes by itself while the sniper is away
            faults += [f"position {position}: exit {after} went out while exit {before} was undecided"
                       for kind in (True, False)
                       for (before, first), (after, second) in itertools.pairwise([one for one in leaving if (one[1].row["leg"] == 1) == kind])
                       if before[0] == after[0] and second.row["leg"]
                       and not (first.ends() and int(first.reports[-1]["seq"]) <= int(second.row["report_seq"]))]
            told = self.closed.get(position, [])
            if len(told) > 1 or (told and not int(told[0]["lots"]) == entry.filled == left):
                faults.append(f"position {position}: {entry.filled} lots in, {left} out, closed as {[int(row['lots']) for row in told]}")
            if not told and entry.filled and left == entry.filled and key[0] in self.whole:
                faults.append(f"position {position} is flat, and nobody said so")
        return faults + [f"an exit of position {position}, which nobody opened" for position in exits]


def book_disagrees(journal: Journal, ledger: LedgerState) -> list[str]:
    """After an ordered stop: what the sniper's last book holds that the venue's account does not, or the other way round."""
    snapshot = journal.last_snapshot()
    if snapshot is None:
        return ["there is no snapshot"]
    held = Counter[str]()
    for position in snapshot.positions:
        held[position.symbol] += position.side * position.lots
    faults = [f"order {order.order_seq} is still working in the book" for order in snapshot.working]
    return faults + [f"{symbol}: {held[symbol]} lots in the book, {ledger.positions.get(symbol, (0, 0))[0]} at the venue"
                     for symbol in {*held, *ledger.positions} if held[symbol] != ledger.positions.get(symbol, (0, 0))[0]]


def fills_file(path: Path) -> Any:
    """fills.bin as rows."""
    return np.frombuffer(path.read_bytes(), FILL)


def fills_disagree(books: Books, fills: Any) -> list[str]:
    """What fills.bin of a run says that its journal does not, order id by order id; an id is of one order for ever."""
    faults, filled = [], Counter[Key]()
    for row in fills:
        _, incarnation, seq = parse_client_order_id(row["order_id"].decode())
        filled[incarnation, seq] += abs(int(row["lots"]))
    for key, lots in filled.items():
        if key not in books.orders or books.orders[key].filled != lots:
            faults.append(f"fills.bin: order {key} has {lots} lots, the journal "
                          f"{books.orders[key].filled if key in books.orders else 'does not know it'}")
    return faults
