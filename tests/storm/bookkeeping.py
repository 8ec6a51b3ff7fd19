"""The book as the journal's records make it, one by one: orders, positions, cash. Slow and obvious; it is not the sniper's way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ipc import layout as l

#: reports that end an order; a fill that completes it does, too
ENDS = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)


@dataclass
class Order:
    """A NEW record and what was told of it."""

    seq: int
    row: Any
    lots: int = 0
    quote: int = 0
    #: sequences of the reports that ended it, and how many came behind the first of them
    ends: list[int] = field(default_factory=list)
    late: int = 0

    @property
    def left(self) -> int:
        """Lots that may still fill."""
        return 0 if self.ends else int(self.row["lots"]) - self.lots


@dataclass
class Trip:
    """A position from its first fill to the last."""

    instrument: int
    strategy: int
    side: int
    lots: int = 0
    entry_lots: int = 0
    entry_quote: int = 0
    exit_lots: int = 0
    exit_quote: int = 0
    cost: int = 0
    fees: int = 0
    orders: list[Order] = field(default_factory=list)

    @property
    def pnl(self) -> int:
        """After fees, in quanta; true once it is flat."""
        return self.side * (self.exit_quote - self.entry_quote) - self.fees

    def exits_left(self) -> int:
        """Lots that working exits may still close."""
        return sum(order.left for order in self.orders if int(order.row["purpose"]) == l.EXIT)


class Book:
    """Takes intents and reports in the journal's order; tells what is impossible as it meets it."""

    def __init__(self, instruments: list[dict[str, Any]], reports: list[tuple[int, Any]], tell: Any) -> None:
        """`tell(rule, text)` hears of faults."""
        self._instruments, self._reports, self._tell = instruments, reports, tell
        self.applied = 0
        self.cash = self.fees = self.realised = self.closed = 0
        self.orders: dict[int, Order] = {}
        self.trips: dict[int, Trip] = {}

    def intent(self, seq: int, row: Any) -> None:
        """An order-ring record: everything that was reported before it was made comes first."""
        self.advance(int(row["report_seq"]))
        if int(row["kind"]) == l.CLOSED:
            self._close(row.tobytes())
        if int(row["kind"]) != l.NEW:
            return
        order = self.orders[seq] = Order(seq, row)
        identity = int(row["position_id"])
        trip = self.trips.get(identity)
        if trip is None:
            trip = self.trips[identity] = Trip(int(row["instrument"]), int(row["strategy"]), int(row["side"]))
            if int(row["purpose"]) != l.ENTRY:
                self._tell("exit_size", f"order {seq} closes position {identity}, which nothing opened")
        trip.orders.append(order)
        self._weigh(identity, trip, f"when exit {seq} was made")

    def advance(self, report_seq: int) -> None:
        """Apply the reports up to a sequence."""
        while self.applied < report_seq and self.applied < len(self._reports):
            self._report(*self._reports[self.applied])
            self.applied += 1

    def _report(self, seq: int, row: Any) -> None:
        kind = int(row["kind"])
        if kind == l.BALANCE:
            self.cash += int(row["balance"]) if int(row["code"]) == 0 else 0
            return
        if kind == l.ANNOUNCED:
            self._announced(seq, row)
            return
        order = self.orders.get(int(row["order_seq"]))
        if order is None:
            self._tell("unknown_order", f"report {seq} ({l.REPORT_KINDS.get(kind, kind)}) is of order {int(row['order_seq'])}, which was not made "
                                        "before it")
            return
        if order.ends:
            order.late += 1
        if kind == l.FILL:
            self._fill(seq, order, row)
        if kind in ENDS or (kind == l.FILL and order.lots >= int(order.row["lots"])):
            order.ends.append(seq)

    def _announced(self, seq: int, row: Any) -> None:
        """The gateway closes a position of its own accord: an exit that no intent made."""
        made = np.zeros(1, l.INTENT)[0]
        for name in ("instrument", "side"):
            made[name] = row[name]
        made["kind"], made["purpose"], made["strategy"], made["lots"], made["order_type"] = l.NEW, l.EXIT, row["code"], row["last_lots"], l.MARKET
        made["flags"] = l.INTENT_REDUCE_ONLY
        held = [(identity, trip) for identity, trip in self.trips.items()
                if trip.lots and (trip.instrument, trip.strategy, trip.side) == (int(row["instrument"]), int(row["code"]), -int(row["side"]))]
        number = int(row["order_seq"])
        if len(held) != 1 or number in self.orders:
            self._tell("exit_size", f"report {seq} announces order {number}, which closes {len(held)} positions" if len(held) != 1
                       else f"report {seq} announces order {number} again")
            return
        identity, trip = held[0]
        made["position_id"] = identity
        order = self.orders[number] = Order(number, made)
        trip.orders.append(order)
        self._weigh(identity, trip, f"when the gateway announced order {number}")

    def _fill(self, seq: int, order: Order, row: Any) -> None:
        fact = self._instruments[int(row["instrument"])]
        lots, quote, fee = int(row["last_lots"]), int(row["last_price"]) * int(row["last_lots"]) * int(fact["value_quanta"]), int(row["fee"])
        order.lots += lots
        order.quote += quote
        if (order.lots, order.quote) != (int(row["cum_lots"]), int(row["cum_quote"])):
            self._tell("fill_sum", f"report {seq}: fills of order {order.seq} make {order.lots} lots for {order.quote} quanta, "
                                   f"it says {int(row['cum_lots'])} for {int(row['cum_quote'])}")
        if order.lots > int(order.row["lots"]):
            self._tell("fill_sum", f"report {seq}: {order.lots} lots of order {order.seq} are filled, {int(order.row['lots'])} were ordered")
        identity = int(order.row["position_id"])
        trip, spot = self.trips[identity], fact["kind"] == "spot"
        trip.fees += fee
        self.fees += fee
        self.cash -= fee
        if int(order.row["purpose"]) == l.ENTRY:
            trip.lots += lots
            trip.entry_lots += lots
            trip.entry_quote += quote
            trip.cost += quote
            self.cash -= quote if spot else 0
        else:
            removed = trip.cost if lots >= trip.lots else trip.cost * lots // trip.lots
            trip.cost -= removed
            trip.lots -= lots
            trip.exit_lots += lots
            trip.exit_quote += quote
            self.cash += quote if spot else trip.side * (quote - removed)
        if trip.lots < 0:
            self._tell("exit_size", f"report {seq}: position {identity} was closed by {-trip.lots} lots more than it had")
        self._weigh(identity, trip, f"at report {seq}")

    def _weigh(self, identity: int, trip: Trip, when: str) -> None:
        if trip.exits_left() > max(trip.lots, 0):
            self._tell("exit_size", f"position {identity} has {trip.lots} lots {when}, and exits of {trip.exits_left()} lots work")

    def _close(self, record: bytes) -> None:
        row = np.frombuffer(record, l.TRADE)[0]
        trip, identity = self.trips.get(int(row["position_id"])), int(row["position_id"])
        if trip is None or trip.lots or not trip.entry_lots or any(order.left for order in trip.orders):
            self._tell("trade", f"trade {int(row['seq'])} closes position {identity}, which was not flat with everything ended")
            return
        stated = (int(row["lots"]), int(row["pnl"]), int(row["fees"]))
        if stated != (trip.entry_lots, trip.pnl, trip.fees):
            self._tell("trade", f"trade {int(row['seq'])} of position {identity} says lots, P&L, fees {stated}, "
                                f"its fills make {(trip.entry_lots, trip.pnl, trip.fees)}")
        self.closed += 1
        self.realised += trip.pnl
