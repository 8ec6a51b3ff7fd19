"""The paper venue: takes orders as an exchange would, fills them from the ticks, and keeps its own durable account.

Nothing that it says is true before `commit`: orders, fills and cash change in memory, go to the ledger in one transaction, and only then
come out as events. Fills are decided by hotpath/kernel/match.py; here they are booked. Integers only:

- value of a fill = price in ticks × lots × value_quanta; fee = value × fee_e8 / 1e8, rounded up, in the quote currency.
- Spot: a buy takes value + fee from the cash, a sale brings value − fee. Nothing is sold that is not there.
- Linear perpetual: the fee always leaves the cash. An opening fill adds its value to the cost. A reducing fill takes cost × closed // lots
  out of it (all of it with the last lot) and brings side × (value − that cost) into the cash. A fill across zero closes first, then opens.
- Free cash = cash − what open orders may still take − margin (cost / leverage) of positions. An order that opens is refused without it.
- Orders that reduce only are exempt from the minimum notional, and never exceed what their part of the account holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from hotpath.config import Paper
from hotpath.kernel import match as m
from hotpath.venues.paper_ledger import Ledger
from hotpath.venues.venue import OrderRequest, VenueEvent, VenueOrder, VenuePosition
from ipc import layout as l

#: a client id in an event that belongs to no order
NO_ORDER: Final = ""
_E8 = 100_000_000


def fee_of(value: int, fee_e8: int) -> int:
    """Fee in quanta, rounded up."""
    return -(-value * fee_e8 // _E8)


class PaperVenue:
    """hotpath.venues.venue.Venue over a Ledger. `opened[:count]` are the open orders for the matching kernel."""

    pull_every_ns = 0

    def __init__(self, ledger: Ledger, instruments: Any, quotes: Any, paper: Paper, opened: Any) -> None:
        """`instruments`, `quotes`: shared rows by instrument id; `opened`: OPEN_ORDER rows, filled from the ledger's open orders."""
        self.ledger = ledger
        self._quotes, self._opened = quotes, opened
        self._latency_ns = paper.order_latency_ms * 1_000_000
        self._half_spread_bps = paper.half_spread_bps
        self._facts: dict[str, dict[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        for number, row in enumerate(instruments):
            if row["admitted"]:
                facts: dict[str, Any] = {name: int(row[name]) for name in (
                    "kind", "value_quanta", "min_notional", "max_lots", "max_price", "maker_fee_e8", "taker_fee_e8", "leverage")}
                facts["tick"] = Decimal(int(row["tick_mantissa"])).scaleb(int(row["tick_exponent"]))
                facts["lot"] = Decimal(int(row["lot_mantissa"])).scaleb(int(row["lot_exponent"]))
                facts["base"] = row["base"].decode()
                self._facts[row["symbol"].decode()] = facts
                self._numbers[row["symbol"].decode()] = number
        #: the venue's clock: event time of the last tick it saw
        self.now_ns = ledger.meta.event_ns
        #: sequence of that tick
        self.tick_seq = ledger.meta.tick_seq
        self._slots: list[VenueOrder] = []
        for order in ledger.open.values():
            if order.symbol in self._numbers:  # others have no ticks in this run; they wait
                self._open(order)

    @property
    def count(self) -> int:
        """Open orders in `opened`."""
        return len(self._slots)

    # ── Venue ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def submit(self, order: OrderRequest) -> int:
        """Take an order: an ACCEPTED or REJECTED event; a client id that was ever used is refused without one."""
        if self.ledger.find(order.client_id) is not None:
            return l.REJ_DUPLICATE
        facts = self._facts.get(order.symbol)
        lots = price = 0
        code = l.REJ_UNKNOWN_SYMBOL
        if facts is not None:
            lots = _whole(order.quantity, facts["lot"])
            price = 0 if order.order_type == l.MARKET else _whole(order.price or "", facts["tick"])
            code = self._refusal(order, facts, lots, price)
        made = VenueOrder(
            client_id=order.client_id, venue_order_id=self.ledger.meta.venue_seq + 1, symbol=order.symbol, side=order.side,
            order_type=order.order_type, lots=max(lots, 0), limit_price=max(price, 0), reduce_only=order.reduce_only, account=order.account,
            active_ns=max(order.event_ns + self._latency_ns, self.now_ns), state=l.ORD_REJECTED if code else l.ORD_ACCEPTED)
        self.ledger.put_order(made)
        self._event(made, l.REJECTED if code else l.ACCEPTED, max(order.event_ns, self.now_ns), code=code)
        if code == l.REJ_NONE:
            self._open(made)
        return code

    def cancel(self, client_id: str, event_ns: int) -> bool:
        """End an open order at once."""
        order = self.ledger.open.get(client_id)
        if order is None:
            return False
        self._end(order, l.CANCELLED, max(event_ns, self.now_ns), l.REJ_NONE)
        self._compact()
        return True

    def find(self, client_id: str) -> VenueOrder | None:
        """The order of that id, open or ended."""
        return self.ledger.find(client_id)

    def absent_for_good(self, sent_ns: int) -> bool:
        """An order that is not in the ledger never got there."""
        return True

    def news(self) -> list[VenueEvent] | None:
        """The ledger's commit: what it makes durable may be told. None: it cannot be written (`ledger.fault`)."""
        return self.ledger.commit()

    def open_orders(self) -> list[VenueOrder]:
        """Every open order, oldest first."""
        return list(self.ledger.open.values())

    def balances(self) -> dict[str, int]:
        """USDT in quanta, and lots of every base currency held by spot instruments."""
        held = {self._facts[symbol]["base"]: position.lots for symbol, position in self.ledger.positions.items()
                if symbol in self._facts and self._facts[symbol]["kind"] == l.KIND_SPOT and position.lots}
        return {"USDT": self.ledger.meta.cash} | held

    def positions(self) -> list[VenuePosition]:
        """Everything that is held."""
        return [position for position in self.ledger.positions.values() if position.lots]

    def holdings(self) -> dict[tuple[str, str], int]:
        """Signed lots by (account, symbol)."""
        return {(account, symbol): lots for key, lots in self.ledger.accounts.items() for account, _, symbol in [key.partition("|")] if lots}

    def events_since(self, venue_seq: int, limit: int = 1000) -> list[VenueEvent]:
        """Committed events behind `venue_seq`, in order."""
        return self.ledger.events_since(venue_seq, limit)

    # ── the account ───────────────────────────────────────────────────────────────────────────────────────────────────
    def deposit(self, quanta: int, event_ns: int) -> None:
        """Cash from outside."""
        self.ledger.meta.cash += quanta
        self.ledger.meta.deposits += quanta
        self._balance(event_ns, 0, quanta)

    def state_balance(self, event_ns: int) -> None:
        """Say what cash there is, for a journal that begins anew."""
        self._balance(event_ns, 1, 0)

    def _balance(self, event_ns: int, code: int, quanta: int) -> None:
        self.ledger.event(kind=l.BALANCE, client_id=NO_ORDER, symbol="", event_ns=event_ns, tick_seq=self.tick_seq, code=code,
                          lots=quanta)

    def free_cash(self) -> int:
        """Quanta that a new order may take."""
        free = self.ledger.meta.cash
        for position in self.ledger.positions.values():
            if position.cost and position.symbol in self._facts:
                free -= position.cost // max(1, self._facts[position.symbol]["leverage"])
        for order in self.ledger.open.values():
            facts = self._facts.get(order.symbol)
            if facts is not None and not order.reduce_only:
                price = order.limit_price or self._touch(order.symbol, order.side)
                free -= self._needed(facts, order.side, order.lots - order.cum_lots, price)
        return free

    def _needed(self, facts: dict[str, Any], side: int, lots: int, price: int) -> int:
        value = price * lots * facts["value_quanta"]
        if facts["kind"] == l.KIND_SPOT:
            return value + fee_of(value, facts["taker_fee_e8"]) if side > 0 else 0
        return value // max(1, facts["leverage"]) + fee_of(value, facts["taker_fee_e8"])

    def _touch(self, symbol: str, side: int) -> int:
        """Price that a taker meets now; 0 where nothing was ever seen."""
        number = self._numbers[symbol]
        return int(m.touch_price(self._quotes[number], side, self._half_spread_bps, self._facts[symbol]["max_price"]))

    def _refusal(self, order: OrderRequest, facts: dict[str, Any], lots: int, price: int) -> int:
        """REJ_NONE, or why an order is not taken."""
        limit = order.order_type != l.MARKET
        if lots <= 0 or (limit and price <= 0):
            return l.REJ_PRECISION
        if price > facts["max_price"] or len(self.ledger.open) >= m.MAX_OPEN:
            return l.REJ_MAX_SIZE
        held = self.ledger.accounts.get(f"{order.account}|{order.symbol}", 0)
        if order.reduce_only:  # bounded by what is held, whatever the largest order is by now
            return l.REJ_NONE if held * order.side < 0 and lots <= abs(held) else l.REJ_REDUCE_ONLY
        if lots > facts["max_lots"]:
            return l.REJ_MAX_SIZE
        if facts["kind"] == l.KIND_SPOT and order.side < 0 and lots > self._sellable(order.symbol):
            return l.REJ_NO_FUNDS
        price = price or self._touch(order.symbol, order.side)
        if not price:
            return l.REJ_NONE  # nothing was ever seen: a buy is tested when it fills
        if price * lots * facts["value_quanta"] < facts["min_notional"]:
            return l.REJ_MIN_NOTIONAL
        needed = self._needed(facts, order.side, lots, price)
        return l.REJ_NONE if needed == 0 or needed <= self.free_cash() else l.REJ_NO_FUNDS

    def _sellable(self, symbol: str) -> int:
        position = self.ledger.positions.get(symbol)
        return (position.lots if position else 0) - sum(
            order.lots - order.cum_lots for order in self.ledger.open.values() if order.symbol == symbol and order.side < 0)

    # ── what a tick does ──────────────────────────────────────────────────────────────────────────────────────────────
    def book_actions(self, actions: Any, tick_seq: int, event_ns: int) -> None:
        """Book what the kernel decided for a tick. An order that runs out of funds or of what it may reduce ends there."""
        self.now_ns = max(self.now_ns, event_ns)
        self.tick_seq = tick_seq
        self.ledger.meta.tick_seq, self.ledger.meta.event_ns = tick_seq, self.now_ns
        self.ledger.touch()
        for action in actions:
            order = self._slots[int(action["slot"])]
            if order.state not in (l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED):
                continue  # ended by an earlier action of this tick
            kind = int(action["kind"])
            if kind in (m.ACT_REST, m.ACT_QUEUE):
                order.resting, order.ahead = True, int(action["lots"])
                self.ledger.put_order(order)
            elif kind == m.ACT_EXPIRE:
                self._end(order, l.EXPIRED, event_ns, int(action["code"]))
            else:
                self._fill(order, int(action["lots"]), int(action["price"]), int(action["liquidity"]), event_ns)
        self._compact()

    def _fill(self, order: VenueOrder, lots: int, price: int, liquidity: int, event_ns: int) -> None:
        facts = self._facts[order.symbol]
        fee_e8 = facts["taker_fee_e8" if liquidity == l.TAKER else "maker_fee_e8"]
        position = self.ledger.position(order.symbol)
        possible, code = lots, l.REJ_NONE
        if order.reduce_only:
            held = -order.side * self.ledger.accounts.get(f"{order.account}|{order.symbol}", 0)
            if held < possible:
                possible, code = max(held, 0), l.REJ_REDUCE_ONLY
        if facts["kind"] == l.KIND_SPOT:
            fits = position.lots if order.side < 0 else affordable(self.ledger.meta.cash, price * facts["value_quanta"], fee_e8)
            if fits < possible:
                possible, code = max(fits, 0), l.REJ_NO_FUNDS
        if possible:
            value = price * possible * facts["value_quanta"]
            fee = fee_of(value, fee_e8)
            self._book(position, facts, order.side, possible, value, fee)
            self.ledger.add_to_account(order.account, order.symbol, order.side * possible)
            order.cum_lots += possible
            order.cum_quote += value
            order.state = l.ORD_FILLED if order.cum_lots == order.lots else l.ORD_PARTLY_FILLED
            self.ledger.put_order(order)
            self._event(order, l.FILL, event_ns, liquidity=liquidity, lots=possible, price=price, fee=fee)
        if possible < lots:
            self._end(order, l.EXPIRED, event_ns, code)

    def _book(self, position: VenuePosition, facts: dict[str, Any], side: int, lots: int, value: int, fee: int) -> None:
        """Cash, fees, lots and cost of a fill; `value` is price × lots × value_quanta."""
        meta = self.ledger.meta
        meta.cash -= fee
        meta.fees += fee
        if facts["kind"] == l.KIND_SPOT:
            meta.cash -= side * value
            position.lots += side * lots
            return
        per_lot = value // lots
        closed = min(lots, abs(position.lots)) if position.lots * side < 0 else 0
        if closed:
            removed = position.cost if closed == abs(position.lots) else position.cost * closed // abs(position.lots)
            gain = -side * (per_lot * closed - removed)
            meta.cash += gain
            meta.realised += gain
            position.cost -= removed
        position.cost += per_lot * (lots - closed)
        position.lots += side * lots

    def _end(self, order: VenueOrder, kind: int, event_ns: int, code: int) -> None:
        order.state = l.ORD_CANCELLED if kind == l.CANCELLED else l.ORD_EXPIRED
        self.ledger.put_order(order)
        self._event(order, kind, event_ns, code=code)

    def _event(self, order: VenueOrder, kind: int, event_ns: int, **fields: Any) -> None:
        # an order may be accepted at its own time while the venue still matches older ticks: what follows is not before that
        order.event_ns = event_ns = max(event_ns, order.event_ns)
        self.ledger.event(kind=kind, client_id=order.client_id, symbol=order.symbol, event_ns=event_ns, tick_seq=self.tick_seq,
                          side=order.side, cum_lots=order.cum_lots, cum_quote=order.cum_quote,
                          venue_order_id=order.venue_order_id, **fields)

    # ── open orders, as the kernel sees them ──────────────────────────────────────────────────────────────────────────
    def _open(self, order: VenueOrder) -> None:
        self._slots.append(order)
        self._write_slot(len(self._slots) - 1)

    def _write_slot(self, slot: int) -> None:
        order = self._slots[slot]
        self._opened[slot] = (order.active_ns, order.lots - order.cum_lots, order.limit_price, self._numbers[order.symbol], order.side,
                              order.order_type, int(order.resting), order.ahead)

    def _compact(self) -> None:
        """Drop what has ended; the rest keeps its order of arrival."""
        self._slots = [order for order in self._slots if order.state in (l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED)]
        for slot in range(len(self._slots)):
            self._write_slot(slot)

    def check(self) -> Sequence[str]:
        """What contradicts itself in the account; empty when nothing does."""
        faults = []
        for symbol, position in self.ledger.positions.items():
            parts = sum(lots for key, lots in self.ledger.accounts.items() if key.partition("|")[2] == symbol)
            if parts != position.lots:
                faults.append(f"{symbol}: {position.lots} lots held, {parts} in its accounts")
            if position.cost < 0 or (position.lots == 0 and position.cost):
                faults.append(f"{symbol}: cost {position.cost} for {position.lots} lots")
            if symbol in self._facts and self._facts[symbol]["kind"] == l.KIND_SPOT and position.lots < 0:
                faults.append(f"{symbol}: {position.lots} lots of spot")
        return faults


def affordable(cash: int, per_lot: int, fee_e8: int) -> int:
    """Most lots whose value and fee do not exceed the cash."""
    if cash <= 0:
        return 0
    lots = cash * _E8 // (per_lot * (_E8 + fee_e8))
    while lots > 0 and per_lot * lots + fee_of(per_lot * lots, fee_e8) > cash:  # the fee's rounding
        lots -= 1
    return lots


def _whole(text: str, unit: Decimal) -> int:
    """A decimal string in whole units, −1 where it is none."""
    try:
        count = Decimal(text) / unit
        return int(count) if count == count.to_integral_value() and 0 < count < 1 << 62 else -1
    except (InvalidOperation, OverflowError):
        return -1
