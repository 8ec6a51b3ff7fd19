"""From the order ring to the venue: what waits, what goes out, what never will.

An order is submitted at most once: its row says SENDING before it goes out, and whoever finds that row later asks the venue instead of sending
(hotpath/doubt.py). An entry waits until the journal has it and its symbol is free of doubt, and is given up after a second. An exit or cancel
waits 20 ms for the journal and then goes anyway; while its symbol is in doubt, or the venue takes nothing, it goes on waiting. Meanwhile they are
*parked*: ticks and other orders go on. In lockstep the turn itself waits for the journal, as long as it takes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from hotpath.kernel import turns as k
from hotpath.orders import SEND, TERMINAL, Order, advance, row_of
from hotpath.venues.venue import NotTaken, OrderRequest, Uncertain, VenueFault
from ipc import layout as l

if TYPE_CHECKING:
    from hotpath.gateway import Gateway

#: how long an exit or cancel waits for the journal, and after how long an entry is given up
EXIT_PATIENCE_NS: Final = 20_000_000
ENTRY_PATIENCE_NS: Final = 1_000_000_000


class Intent(NamedTuple):
    """What the gateway needs of an order-ring record, and until when it may wait (monotonic ns)."""

    seq: int
    kind: int
    event_ns: int
    purpose: int
    side: int
    order_type: int
    instrument: int
    strategy: int
    lots: int
    limit_price: int
    order_seq: int
    code: int
    flags: int
    deadline_ns: int

    @property
    def is_entry(self) -> bool:
        """An order that opens."""
        return self.kind == l.NEW and self.purpose == l.ENTRY


class Dispatch:
    """The sending half of a gateway."""

    def __init__(self, gateway: Gateway, waits_for_journal: bool) -> None:
        self.gateway, self._waits_for_journal = gateway, waits_for_journal
        self.g, self.venue, self.reporting, self.doubts = gateway.g, gateway.venue, gateway.reporting, gateway.doubts
        self.child, self._clock = gateway.child, gateway.clock
        memory = gateway.child.memory
        rows = memory.instruments.instruments[: int(memory.board.run[0]["instruments"])]
        self._units = [(int(row["lot_mantissa"]), int(row["lot_exponent"]), int(row["tick_mantissa"]), int(row["tick_exponent"]))
                       for row in rows]
        self._accounts = [row["name"].decode() or f"strategy-{number}" for number, row in enumerate(memory.instruments.strategies)]
        #: taken, and not yet done with
        self.parked: list[Intent] = []
        #: submitted since the last news
        self.sent = 0
        #: the venue takes nothing until then (monotonic ns)
        self._held_until = 0

    def take(self) -> None:
        """Everything that waits on the order ring."""
        now = self._clock()
        while k.take(self.g):
            row = self.g.intent[0]
            seq = int(row["seq"])
            if seq not in self.reporting.ended:
                intent = Intent(
                    seq, int(row["kind"]), int(row["event_ns"]), int(row["purpose"]), int(row["side"]), int(row["order_type"]),
                    int(row["instrument"]), int(row["strategy"]), int(row["lots"]), int(row["limit_price"]), int(row["order_seq"]),
                    int(row["code"]), int(row["flags"]), 0)
                self.parked.append(intent._replace(deadline_ns=now + (ENTRY_PATIENCE_NS if intent.is_entry else EXIT_PATIENCE_NS)))
            if seq > int(self.g.header[0]["taken"]):
                self.child.metric("intents")

    def left_ns(self) -> int:
        """Until the first of those who wait must be looked at again."""
        return min(intent.deadline_ns for intent in self.parked) - self._clock()

    def handle(self, stopping: bool) -> bool:
        """Carry out what may go. False: told to stop while waiting in lockstep."""
        waiting, self.parked = self.parked, []
        for at, intent in enumerate(waiting):
            if intent.kind == l.NEW and self._handled(intent.seq):
                continue
            if not stopping and self._waits_for_journal and int(self.g.cursors[0]["durable_orders"]) < intent.seq:
                if self.gateway.lockstep:
                    if not self._await_journal(intent.seq):
                        self.parked = waiting[at:]
                        return False
                elif self._clock() < intent.deadline_ns:
                    self.parked.append(intent)
                    continue
                elif intent.is_entry:
                    self._give_up(intent, "the journal did not take it")
                    continue
            if not stopping and self._must_wait(intent):
                if intent.is_entry and self._clock() >= intent.deadline_ns:
                    self._give_up(intent, "book and account are not compared, an order of its symbol is in doubt, or the venue takes none")
                else:
                    self._again(intent)
                continue
            self._carry_out(intent, stopping)
        return True

    def _await_journal(self, seq: int) -> bool:
        self.g.words[k.AWAITED] = seq
        while not k.await_durable(self.g, self.gateway.BUDGET_NS):
            if self.gateway.breathe(0.0):
                return False
        return True

    def _must_wait(self, intent: Intent) -> bool:
        """A new order waits for the doubts of its symbol and for the venue, one that opens for the comparison of book and account, too; a cancel
        waits for the doubt of its order."""
        if intent.kind != l.NEW:
            return intent.kind == l.CANCEL and intent.order_seq in self.doubts
        if self._clock() < self._held_until or self.doubts.closes(intent.instrument):
            return True
        # asked last: a breaker that permits a trial waits for what comes of it
        return intent.is_entry and (self.gateway.comparing or not self.gateway.venue_errors.permits(self._clock()))

    def _again(self, intent: Intent) -> None:
        """Look at it once more, a little later; an entry keeps its deadline."""
        self.parked.append(intent if intent.is_entry else intent._replace(deadline_ns=self._clock() + EXIT_PATIENCE_NS))

    def _give_up(self, intent: Intent, why: str) -> None:
        self.child.log.warning("entry %d: %s within %d ms; dropped", intent.seq, why, ENTRY_PATIENCE_NS // 10**6)
        self.never_sent(intent, l.LOST)

    def _carry_out(self, intent: Intent, stopping: bool) -> None:
        if intent.kind == l.NEW:
            rescue = self.gateway.rescue.level
            if stopping or rescue == l.RESCUE_FLATTEN or self._is_being_closed(intent):
                self.never_sent(intent, l.LOST)
            elif rescue and intent.purpose == l.ENTRY:
                self.never_sent(intent, l.CANCELLED)
            else:
                self._send(intent)
        elif intent.kind == l.CANCEL:
            if not self._cancel(intent.order_seq, intent.event_ns):
                self._again(intent)
        elif intent.kind == l.CANCEL_ALL:  # code 0: working entries; 1: everything
            every = intent.code != 0
            wanted = [seq for seq in self.reporting.orders if seq < intent.seq and (every or self._purpose(seq) == l.ENTRY)]
            done = [self._cancel(seq, intent.event_ns) for seq in wanted if seq not in self.doubts]
            for parked in [parked for parked in self.parked if parked.kind == l.NEW and (every or parked.purpose == l.ENTRY)]:
                self._cancel(parked.seq, intent.event_ns)
            if not all(done) or any(seq in self.doubts for seq in wanted):
                self._again(intent)
        else:
            self.child.log.error("order-ring record %d: kind %d is not carried out by this gateway", intent.seq, intent.kind)

    def _is_being_closed(self, intent: Intent) -> bool:
        """An exit that was decided before the sniper heard that the gateway closes its position: both together would exceed it."""
        return intent.purpose == l.EXIT and self.gateway.rescue.closes(intent.instrument, intent.strategy)

    def _send(self, intent: Intent) -> None:
        """orders[n] = SENDING → taken → submit."""
        g, reporting, seq = self.g, self.reporting, intent.seq
        row = g.rows[row_of(seq)]
        if int(row["state"]) != l.ORD_NONE and int(row["state"]) not in TERMINAL:
            self.child.log.error("order %d: its row is taken by order %d, which still works; not sent", seq, int(row["order_seq"]))
            self.never_sent(intent, l.LOST)
            return
        reporting.claim_row(seq, intent.lots, intent.instrument, intent.side, intent.event_ns, intent.purpose, intent.strategy,
                            intent.order_type)
        reporting.orders[seq] = order = advance(Order(l.ORD_NONE, intent.lots), SEND)
        k.set_state(g, row_of(seq), order.state)
        self.gateway.crash.reached("gateway.sending")
        g.header[0]["taken"] = max(seq, int(g.header[0]["taken"]))
        self.gateway.crash.reached("gateway.send")
        self.submit(seq, intent.instrument, intent.side, intent.order_type, intent.lots, intent.limit_price,
                    bool(intent.flags & l.INTENT_REDUCE_ONLY), intent.strategy, intent.event_ns)

    def _handled(self, seq: int) -> bool:
        """An earlier life may have sent it: a row that names the order is the proof."""
        row = self.g.rows[row_of(seq)]
        return int(row["order_seq"]) == seq and int(row["state"]) != l.ORD_NONE

    def submit(self, seq: int, instrument: int, side: int, order_type: int, lots: int, limit_price: int, reduce_only: bool, strategy: int,
               event_ns: int) -> None:
        """Hand the order of a row in SENDING to the venue, and note what is known of it then."""
        reporting, client_id = self.reporting, self.reporting.client_id(seq)
        symbol = reporting.symbols[instrument] if instrument < len(reporting.symbols) else ""
        lot, lot_exponent, tick, tick_exponent = self._units[instrument] if symbol else (1, 0, 1, 0)
        request = OrderRequest(
            client_id=client_id, symbol=symbol or f"instrument {instrument}", side=side, order_type=order_type,
            quantity=f"{Decimal(lots * lot).scaleb(lot_exponent):f}",
            price=f"{Decimal(limit_price * tick).scaleb(tick_exponent):f}" if order_type != l.MARKET else None,
            reduce_only=reduce_only, account=self._accounts[strategy], event_ns=event_ns)
        facts = (seq, instrument, side, lots, event_ns)
        try:
            code = self.venue.submit(request)
        except NotTaken as fault:
            self.child.log.warning("order %d was not taken: %s", seq, fault)
            self._held_until = self._clock() + fault.pause_ns
            self.gateway.venue_failed(fault)
            reporting.own(l.REJECTED, *facts, fault.code)
            return
        except Uncertain as fault:
            self.child.log.warning("order %d may have been taken: %s", seq, fault)
            self.gateway.venue_failed(fault)
            self.doubts.add(seq, told=False)
            return
        self.gateway.venue_answered()
        self.sent += 1
        self.child.metric("orders_sent")
        if code == l.REJ_DUPLICATE:
            reporting.safe(f"order id {client_id} was used before")
            reporting.own(l.REJECTED, *facts, code)

    def _cancel(self, seq: int, event_ns: int) -> bool:
        """Ask for an order's end. False: it could not be asked for now."""
        for at, parked in enumerate(self.parked):
            if parked.seq == seq and parked.kind == l.NEW:
                del self.parked[at]
                self.never_sent(parked, l.CANCELLED)
                return True
        try:
            self.venue.cancel(self.reporting.client_id(seq), event_ns)
        except VenueFault as fault:
            self.gateway.venue_failed(fault)
            return False
        return True

    def never_sent(self, intent: Intent, kind: int) -> None:
        """The one report of an order that the venue never sees."""
        self.reporting.own(kind, intent.seq, intent.instrument, intent.side, intent.lots, intent.event_ns)

    def _purpose(self, seq: int) -> int:
        return int(self.g.rows[row_of(seq)]["purpose"])
