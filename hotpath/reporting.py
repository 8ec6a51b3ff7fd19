"""Orders and their reports: the shared row of each order, and one report for each thing that happened to it.

Publication of a report is the commit towards the others; the row follows it. Whatever is here and not yet published is found again by a
successor: venue events in the venue, the gateway's own ones by the row and the order ring, whose cursor is held back for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hotpath.kernel import turns as k
from hotpath.orders import TERMINAL, IllegalTransition, Order, advance, client_order_id, parse_client_order_id, row_of
from hotpath.venues.paper import NO_ORDER
from hotpath.venues.venue import VenueEvent
from ipc import board, crash
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.process import Child

#: rejects that say nothing about the order: it may go another time
_PASSING: Final = (l.REJ_RATE_LIMIT, l.REJ_UNAVAILABLE)


class Own(NamedTuple):
    """A report of the gateway itself, without a venue_seq: UNKNOWN, LOST, or the end of what was never sent."""

    kind: int
    seq: int
    instrument: int
    side: int
    lots: int
    event_ns: int
    code: int = 0


class Reporting:
    """Rows, reports and the states between them, of one gateway's life."""

    def __init__(self, child: Child, g: Bundle, symbols: list[str], instance: int, incarnation: int,
                 clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`symbols` by instrument; `clock` gives monotonic ns."""
        self.child, self.g, self.symbols, self._clock = child, g, symbols, clock
        self.instance, self.incarnation = instance, incarnation
        self.crash = crash.CrashPoint("gateway", child.boot.restarts)
        self._numbers = {symbol: number for number, symbol in enumerate(symbols) if symbol}
        #: the last tick that was finished, and the venue's event time
        self.tick_seq, self.now_ns = 0, 0
        #: orders without their terminal report, by order-ring sequence
        self.orders: dict[int, Order] = {}
        #: sequences that must not be handled again: their end was published in an earlier life
        self.ended: frozenset[int] = frozenset()
        #: committed, and not yet published
        self.outgoing: deque[VenueEvent | Own] = deque()

    def own(self, kind: int, seq: int, instrument: int, side: int, lots: int, event_ns: int, code: int = 0) -> None:
        """A report of the gateway itself, to be published in its turn."""
        self.outgoing.append(Own(kind, seq, instrument, side, lots, max(event_ns, self.now_ns), code))

    def claim_row(self, seq: int, lots: int, instrument: int, side: int, event_ns: int, purpose: int = 0, strategy: int = 0,
                  order_type: int = 0) -> None:
        """Make the order's row its own, in state NONE; the state is stored first and last, so that a half-written row says nothing."""
        at = row_of(seq)
        k.set_state(self.g, at, l.ORD_NONE)
        row = self.g.rows[at]
        for name, value in (("order_seq", seq), ("cum_lots", 0), ("cum_quote", 0), ("lots", lots), ("sent_ns", self._clock()),
                            ("instrument", instrument), ("side", side), ("purpose", purpose), ("strategy", strategy),
                            ("order_type", order_type), ("attempts", 1), ("event_ns", event_ns)):
            row[name] = value

    def client_id(self, seq: int) -> str:
        """The id under which the venue knows an order of this incarnation."""
        return client_order_id(self.instance, self.incarnation, seq)

    def publish(self) -> bool:
        """One report for each event that is committed; False when the ring is full before the last one."""
        while self.outgoing:
            item = self.outgoing[0]
            self._write_report(item)
            if not k.publish_report(self.g):
                return False
            self.crash.reached("gateway.report")
            self.outgoing.popleft()
            self._published(item)
        return True

    def _write_report(self, item: VenueEvent | Own) -> None:
        report = self.g.report[0]
        self.g.report.view("u1")[:] = 0
        report["kind"], report["code"], report["side"], report["event_ns"] = item.kind, item.code, item.side, item.event_ns
        if isinstance(item, Own):
            report["order_seq"], report["instrument"], report["tick_seq"] = item.seq, item.instrument, self.tick_seq
            order = self.orders.get(item.seq)
            if order is not None:
                report["cum_lots"], report["cum_quote"] = order.cum_lots, order.cum_quote
            if item.kind == l.ANNOUNCED:
                report["last_lots"] = item.lots
            return
        report["instrument"] = self._numbers.get(item.symbol, l.NO_INSTRUMENT)
        report["venue_seq"], report["venue_order_id"], report["tick_seq"] = item.venue_seq, item.venue_order_id, item.tick_seq
        report["liquidity"], report["cum_lots"], report["cum_quote"] = item.liquidity, item.cum_lots, item.cum_quote
        if item.kind == l.BALANCE:
            report["balance"] = item.balance if item.code else item.lots
            return
        report["order_seq"], report["spare"] = self._whose(item)
        if item.kind == l.FILL:
            report["last_lots"], report["last_price"], report["fee"], report["trade_id"] = item.lots, item.price, item.fee, item.venue_seq
            report["balance"] = item.balance

    def _whose(self, event: VenueEvent) -> tuple[int, int]:
        """(order-ring sequence, 0) of an order of this incarnation, (0, incarnation << 40 | sequence) of an earlier one."""
        if event.client_id == NO_ORDER:
            return 0, 0
        instance, incarnation, seq = parse_client_order_id(event.client_id)
        return (seq, 0) if (instance, incarnation) == (self.instance, self.incarnation) else (0, incarnation << 40 | seq)

    def _published(self, item: VenueEvent | Own) -> None:
        """The report is out: so is the order's new state."""
        if isinstance(item, Own):
            seq, cum_lots, cum_quote = item.seq, 0, 0
            if seq not in self.orders and item.kind in (l.LOST, l.CANCELLED):
                self._row_of_never_sent(item)
                return
        else:
            seq, cum_lots, cum_quote = self._whose(item)[0], item.cum_lots, item.cum_quote
            self.g.header[0]["venue_seq"] = item.venue_seq
        for name, kind in (("fills", l.FILL), ("rejects", l.REJECTED), ("unknown", l.UNKNOWN)):
            if item.kind == kind:
                self.child.metric(name)
        if not seq:
            return
        try:
            order = advance(self.orders.get(seq, Order(l.ORD_NONE, item.lots)), item.kind, cum_lots, cum_quote)
        except IllegalTransition as fault:
            self.child.log.error("order %d: %s", seq, fault)
            self.safe(f"order {seq}: {fault}")
            return
        at = row_of(seq)
        row = self.g.rows[at]
        if item.kind == l.REJECTED and int(row["purpose"]) == l.EXIT and item.code not in _PASSING:  # its position is unprotected until the next
            text = f"exit order {seq} was rejected: {l.REJECTS[item.code]}"
            self.child.log.error("%s; it is tried again with growing pauses", text)
            self.safe(text)
        row["cum_lots"], row["cum_quote"] = order.cum_lots, order.cum_quote
        k.set_state(self.g, at, order.state)
        if order.state in TERMINAL:
            del self.orders[seq]
        else:
            self.orders[seq] = order

    def _row_of_never_sent(self, item: Own) -> None:
        row = self.g.rows[row_of(item.seq)]
        if int(row["state"]) == l.ORD_NONE or int(row["state"]) in TERMINAL:
            self.claim_row(item.seq, item.lots, item.instrument, item.side, item.event_ns)
            k.set_state(self.g, row_of(item.seq), advance(Order(l.ORD_NONE, item.lots), item.kind).state)

    # ── what is in doubt may only reduce risk ─────────────────────────────────────────────────────────────────────────
    def safe(self, cause: str) -> None:
        """No new positions until somebody has looked: the venue and this gateway disagree about an order."""
        board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_SAFE, cause)

    def ledger_fails(self, cause: str) -> None:
        """No new positions until the ledger can be written; a doubt about an order is not overwritten."""
        if not self._mode()["mode"]:
            self.safe(board.LEDGER + cause)

    def relieved(self) -> None:
        """The ledger can be written (again)."""
        self._end_mode(board.LEDGER)

    def cleared(self) -> None:
        """A person has looked: the doubt is over, until there is a new one."""
        if not self._mode()["cause"].startswith((board.LEDGER.encode(), board.VENUE.encode())):
            board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_RUNNING, "")

    def venue_fails(self, cause: str) -> None:
        """No new positions until the venue answers again."""
        if not self._mode()["mode"]:
            board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_REDUCE_ONLY, board.VENUE + cause)

    def venue_works(self) -> None:
        """The venue has answered."""
        self._end_mode(board.VENUE)

    def _end_mode(self, begins: str) -> None:
        if self._mode()["cause"].startswith(begins.encode()):
            board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_RUNNING, "")

    def account_in_doubt(self) -> None:
        """No new positions until the book has been compared with the account; a worse doubt is not overwritten."""
        if not self._mode()["mode"]:
            board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_REDUCE_ONLY, board.ACCOUNT)

    def is_account_in_doubt(self) -> bool:
        """Whether nobody has compared them yet; a gateway that died over it leaves that to its successor."""
        return bool(self._mode()["mode"]) and self._mode()["cause"] == board.ACCOUNT.encode()

    def account_agrees(self) -> None:
        """Book and account are the same."""
        if self.is_account_in_doubt():
            board.set_mode(self.child.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_RUNNING, "")

    def _mode(self) -> Any:
        return self.child.memory.board.modes[l.MODE_OF_GATEWAY]
