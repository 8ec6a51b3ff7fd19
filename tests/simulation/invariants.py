"""What must hold after each step, seen from outside: orders as they reach the venue, reports as they are published, the sniper's book at each commit.

Nothing here asks the code under test what it thinks; the numbers are DESIGN's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hotpath.orders import OWN_ORDERS, TERMINAL, client_order_id, parse_client_order_id
from hotpath.venues.venue import OrderRequest
from ipc import layout as l
from tests.simulation.deaths import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

_ENDS = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)
_NEWS = (l.ACCEPTED, l.FILL, *_ENDS)
_EARLIER = 1 << 40
_ADOPTED = 1 << 60

#: (incarnation, sequence)
Key = tuple[int, int]


class Witness:
    """Watches one script from its beginning to its end, through all deaths and losses."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: orders that were handed to the venue, ever
        self.ids: set[str] = set()
        #: orders that may be at the venue without anybody having been told: client id → (symbol, since when)
        self.doubtful: dict[str, tuple[str, int]] = {}
        #: NEW records by (incarnation, sequence), and the entries that each condition has made, over all runs
        self.orders: dict[Key, Any] = {}
        self.fired: dict[int, list[Key]] = {}
        #: its terminal report, as (incarnation, sequence on the ring)
        self.ended: dict[Key, Key] = {}
        self.announced: set[int] = set()
        self._untold: set[str] = set()
        #: the script has ended: nobody looks any more
        self.over = False
        self.fresh()

    def fresh(self) -> None:
        """New shared memory; what the journal does not have of the old one was never told."""
        stored = (self.world.stored.incarnation, self.world.stored.reports)
        self.ended = {key: at for key, at in self.ended.items() if at <= stored}
        # an entry that the journal does not have never went out (hotpath.durable_before_entry; without it one could, and be made once more)
        known = (self.world.stored.incarnation, self.world.stored.orders)
        self.fired = {condition: [key for key in keys if key <= known] for condition, keys in self.fired.items()}
        self._seen_orders = self._seen_reports = 0
        self._venue_seq = -1
        self._working: set[int] = set()
        self._ends: list[tuple[int, int]] = []
        self._book = b""
        self._mode = 0
        self.announced.clear()
        memory = self.world.memory
        self._states = memory.sniper.instrument_states
        self._orders_head, self._reports_head = memory.orders.ring.view(np.int64), memory.reports.ring.view(np.int64)
        self._modes = memory.board.modes.view(np.int64)

    def _fail(self, rule: str, text: str) -> None:
        raise Violation(rule, text)

    @property
    def incarnation(self) -> int:
        return int(self.world.memory.board.cursors[0]["incarnation"])

    # ── what reaches the venue ────────────────────────────────────────────────────────────────────────────────────────
    def submitting(self, order: OrderRequest) -> None:
        """An order is handed over."""
        self.reports()
        _, incarnation, seq = parse_client_order_id(order.client_id)
        if order.client_id in self.ids:
            self._fail("twice", f"order {incarnation}/{seq} is sent a second time")
        if any(self._may_be_there(*doubtful) for doubtful in self.doubtful.items() if doubtful[1][0] == order.symbol):
            self._fail("doubt", f"order {incarnation}/{seq} goes out for {order.symbol} while another order there is in doubt")
        if seq >= OWN_ORDERS and seq not in self.announced:
            self._fail("unannounced", f"order {seq} of the gateway goes out before anybody was told of it")
        if not order.reduce_only:
            stored = self.world.stored
            if (stored.incarnation, stored.orders) < (incarnation, seq):
                self._fail("undurable", f"entry {incarnation}/{seq} goes out, and the journal ends at {stored.orders}")
            if int(self.world.memory.board.processes[l.GATEWAY]["rescue"]):
                self._fail("rescue", f"entry {incarnation}/{seq} goes out while the gateway stands in for the sniper")
        self.ids.add(order.client_id)
        self._untold.add(order.client_id)

    def _may_be_there(self, client_id: str, since: tuple[str, int]) -> bool:
        """Until it is told, or its absence can be proved."""
        exchange = self.world.exchange
        return (exchange.order(client_id) is not None or any(order.client_id == client_id for _, order in exchange.in_flight)
                or exchange.clock.now_ns - since[1] <= exchange.window_ns)

    def in_doubt(self, order: OrderRequest) -> None:
        """Whoever handed it over does not know whether it arrived."""
        self.doubtful[order.client_id] = (order.symbol, self.world.clock.now_ns)

    def gateway_dies(self) -> None:
        """What it had handed over and not told of is in doubt."""
        self.reports()
        for client_id in self._untold:
            if (order := self.world.exchange.order(client_id)) is not None:
                self.doubtful[client_id] = (order.symbol, self.world.clock.now_ns)

    def nameless_exits(self) -> bool:
        """Exits have gone out that the journal will never have, in a symbol where positions of several strategies could be meant."""
        stored, positions = self.world.stored, self.world.memory.sniper.positions
        meant: dict[tuple[int, int], set[int]] = {}
        for (incarnation, seq), row in self.orders.items():
            if incarnation == self.incarnation and stored.orders < seq < OWN_ORDERS and int(row["purpose"]) == l.EXIT:
                meant.setdefault((int(row["instrument"]), -int(row["side"])), set()).add(int(row["strategy"]))
        for (instrument, side), strategies in meant.items():
            for strategy, p in enumerate(positions[instrument * l.MAX_STRATEGIES:][: l.MAX_STRATEGIES]):
                if int(p["state"]) != l.POS_FLAT and int(p["side"]) == side:
                    strategies.add(strategy)
        return any(len(strategies) > 1 for strategies in meant.values())

    def venue(self) -> None:
        """Exits that may still fill never exceed what is held; nothing that only reduces has crossed zero."""
        left: dict[tuple[str, str], int] = {}
        exchange = self.world.exchange
        for order in exchange.open_orders():
            if order.reduce_only:
                key = (order.account, order.symbol)
                left[key] = left.get(key, 0) + order.side * (order.lots - order.cum_lots)
        holdings = exchange.holdings()
        for key, lots in left.items():
            held = holdings.get(key, 0)
            if lots * held > 0 or abs(lots) > abs(held):
                self._fail("exceeds", f"{key[1]} of {key[0]}: {held} lots held, and exits for {lots} work at the venue")

    # ── what is published ─────────────────────────────────────────────────────────────────────────────────────────────
    def reports(self) -> None:
        """Each report that is new on the ring."""
        if self.over:
            return
        self._records()
        head = int(self._reports_head[0])
        if self._seen_reports == head:
            return
        region = self.world.memory.reports
        while self._seen_reports < head:
            self._seen_reports += 1
            self._report(region.slots[self._seen_reports & (len(region.slots) - 1)], self._seen_reports)

    def _report(self, row: Any, at: int) -> None:
        kind, venue_seq, own, earlier = (int(row[name]) for name in ("kind", "venue_seq", "order_seq", "spare"))
        self.world.tell(f"    report {at}: {l.REPORT_KINDS[kind]} of {own or earlier}, event {venue_seq}, {int(row['cum_lots'])} lots")
        if venue_seq:
            expected = (int(self.world.memory.board.cursors[0]["journaled_venue_seq"]) if self._venue_seq < 0 else self._venue_seq) + 1
            if venue_seq != expected:
                self._fail("events", f"report {at} tells venue event {venue_seq}, {expected} is next")
            if venue_seq > (durable := self.world.exchange.durable()):
                self._fail("acknowledged", f"report {at} tells venue event {venue_seq}, durable is {durable}")
            self._venue_seq = venue_seq
        if kind == l.BALANCE:
            if int(row["code"]):  # everything of earlier runs is told
                self._statement()
            return
        key = (self.incarnation, own) if own else (earlier >> 40, earlier & _EARLIER - 1)
        if kind == l.ANNOUNCED:
            self.announced.add(own)
            self.orders[key] = row.copy()
        if key in self.ended:
            self._fail("ended", f"report {at} tells {l.REPORT_KINDS[kind]} of order {key}, which has ended")
        client_id = client_order_id(self.world.number, *key)
        if kind in _NEWS:
            self.doubtful.pop(client_id, None)
            self._untold.discard(client_id)
        order = self.orders.get(key)
        lots = None if order is None else int(order["last_lots" if "last_lots" in order.dtype.names else "lots"])
        if kind in _ENDS or (kind == l.FILL and lots == int(row["cum_lots"])):
            self._end(key, client_id, kind, at)

    def _end(self, key: Key, client_id: str, kind: int, at: int) -> None:
        self.ended[key] = (self.incarnation, at)
        if key[0] == self.incarnation:
            self._ends.append((at, key[1]))
        exchange = self.world.exchange
        if any(order.client_id == client_id for _, order in exchange.in_flight):
            self._fail("forgotten", f"order {key} is told {l.REPORT_KINDS[kind]} while it is on its way to the venue")
        order = exchange.order(client_id)
        if order is not None and order.state not in TERMINAL:
            self._fail("forgotten", f"order {key} is told {l.REPORT_KINDS[kind]}, and is {l.ORDER_STATES[order.state]} at the venue")

    def _statement(self) -> None:
        now = self.incarnation
        flying = {order.client_id for _, order in self.world.exchange.in_flight}
        for client_id in list(self.doubtful):
            if parse_client_order_id(client_id)[1] < now:
                if client_id in flying:
                    self._fail("forgotten", f"the account is stated while order {parse_client_order_id(client_id)[1:]} is on its way to the venue")
                del self.doubtful[client_id]

    # ── the sniper's book ─────────────────────────────────────────────────────────────────────────────────────────────
    def before_step(self) -> None:
        """The mode under which the step decides."""
        self._mode = max(self._modes[:: l.MODE.itemsize // 8].tolist())

    def stepped(self, tick_seq: int) -> None:
        """The sniper has committed; `tick_seq` names the tick, 0 without one."""
        self._records()
        memory = self.world.memory
        if tick_seq:
            tick = memory.ticks.slots[tick_seq & (len(memory.ticks.slots) - 1)]
            if tick["kind"] == l.TICK_QUOTE and not tick["flags"] & l.FLAG_NOT_MARKET:
                self._protected(int(tick["instrument"]), int(tick["price"]), int(tick["ask_price"]), int(tick["event_ns"]))
            elif tick["kind"] == l.TICK_CLOCK:
                self.in_time(int(tick["event_ns"]))
        book = b"".join((memory.sniper.account.tobytes(), memory.sniper.positions.tobytes(), memory.sniper.working.tobytes()))
        if book != self._book:
            self._book = book
            self._check_book()

    def _records(self) -> None:
        head = int(self._orders_head[0])
        if self._seen_orders == head:
            return
        region = self.world.memory.orders
        while self._seen_orders < head:
            self._seen_orders += 1
            row = region.slots[self._seen_orders & (len(region.slots) - 1)].copy()
            kind, seq = int(row["kind"]), int(row["seq"])
            self.world.tell(f"    record {seq}: {l.INTENT_KINDS[kind]} {self._words(row)}")
            if seq != self._seen_orders:
                self._fail("records", f"slot {self._seen_orders} of the order ring holds record {seq}")
            if kind != l.NEW:
                continue
            self.orders[self.incarnation, seq] = row
            self._working.add(seq)
            if int(row["purpose"]) == l.ENTRY:
                if self._mode != l.MODE_RUNNING:
                    self._fail("mode", f"entry {seq} is made in mode {l.MODES[self._mode]}")
                self._shot(row)

    def _words(self, row: Any) -> str:
        if int(row["kind"]) == l.NEW:
            return (f"{'entry' if row['purpose'] == l.ENTRY else 'exit'} {int(row['side'] * row['lots'])} lots of {int(row['instrument'])} "
                    f"for strategy {int(row['strategy'])}, limit {int(row['limit_price'])}, position {int(row['position_id']) & _EARLIER - 1}")
        return f"of {int(row['order_seq'])}, code {int(row['code'])}, position {int(row['position_id']) & _EARLIER - 1}"

    def _shot(self, row: Any) -> None:
        condition = int(row["condition_id"])
        made = self.fired.setdefault(condition, [])
        made.append((self.incarnation, int(row["seq"])))
        if len(made) > (most := self.world.max_fires.get(condition, 0)):
            self._fail("fires", f"condition {condition} fires {len(made)} times of {most}: orders {made}")

    def _check_book(self) -> None:
        sniper = self.world.memory.sniper
        account, positions = sniper.account[0], sniper.positions
        working = [sniper.working[row] for row in np.flatnonzero(sniper.working["order_seq"])]
        held = np.flatnonzero(positions["state"] != l.POS_FLAT)
        if int(account["working_orders"]) != len(working) or int(account["open_positions"]) != len(held):
            self._fail("book", f"the account counts {account['working_orders']} orders and {account['open_positions']} positions, there are "
                               f"{len(working)} and {len(held)}")
        if len(held) > self.world.script.settings.max_open:
            self._fail("limit", f"{len(held)} positions are open, {self.world.script.settings.max_open} may be")
        if int(account["reserved"]) != sum(int(order["reserved"]) for order in working):
            self._fail("book", f"{account['reserved']} quanta are reserved, the working orders have {[int(order['reserved']) for order in working]}")
        entering, leaving = dict[int, int](), dict[int, int]()
        for order in working:
            row, left = int(order["position_row"]), int(order["lots"]) - int(order["cum_lots"])
            if int(order["purpose"]) == l.ENTRY:
                entering[row // l.MAX_STRATEGIES] = entering.get(row // l.MAX_STRATEGIES, 0) + left
                spot = int(self.world.memory.instruments.instruments[row // l.MAX_STRATEGIES]["kind"]) == l.KIND_SPOT
                if spot and not int(order["cum_lots"]) and not int(order["reserved"]) and int(order["order_seq"]) < _EARLIER:
                    self._fail("book", f"entry {order['order_seq']} works, and no cash is reserved for it")
            elif int(order["lots"]) < _ADOPTED and not self._crossed(order):
                leaving[row] = leaving.get(row, 0) + left
        for row, lots in leaving.items():
            if lots > int(positions[row]["lots"]):
                self._fail("exceeds", f"position {row}: {int(positions[row]['lots'])} lots, and exits for {lots} work in the book")
        for number in range(len(self._states)):
            state, exposed = self._states[number], sum(int(positions[row]["lots"]) for row in held if row // l.MAX_STRATEGIES == number)
            if int(state["working_lots"]) != entering.get(number, 0) or int(state["exposure_lots"]) != exposed:
                self._fail("exposure", f"instrument {number}: {entering.get(number, 0)} lots under way and {exposed} held, counted are "
                                       f"{state['working_lots']} and {state['exposure_lots']}")
        self._check_working({int(order["order_seq"]) for order in working})

    def _crossed(self, order: Any) -> bool:
        """An exit that the sniper decided before it heard of another one (of the gateway, or of the last run and lost with it): unless it has
        reached the venue it is told LOST, or refused there."""
        key = int(order["order_seq"])
        if key >= OWN_ORDERS or not (self.announced or self.world.forgot):
            return False
        client_id, exchange = client_order_id(self.world.number, self.incarnation, key), self.world.exchange
        there = exchange.order(client_id)
        return (there is None or there.state in TERMINAL) and all(flying.client_id != client_id for _, flying in exchange.in_flight)

    def _check_working(self, keys: set[int]) -> None:
        """Every order without its end works in the book, and no other."""
        line = sniper_line(self.world.memory)
        self.reports()
        applied = int(line["report_seq"])
        for at, seq in list(self._ends):
            if at <= applied:
                self._working.discard(seq)
                self._ends.remove((at, seq))
        own = {key for key in keys if key < OWN_ORDERS}
        if own != self._working:
            self._fail("exposure", f"orders {sorted(self._working)} have not ended, orders {sorted(own)} work in the book")

    def _protected(self, instrument: int, bid: int, ask: int, event_ns: int) -> None:
        for strategy in range(2):
            p = self.world.memory.sniper.positions[instrument * l.MAX_STRATEGIES + strategy]
            if int(p["state"]) == l.POS_FLAT or int(p["lots"]) <= 0:
                continue
            side = int(p["side"])
            price = bid if side > 0 else ask
            due = int(p["exit_reason"]) != l.EXIT_NONE
            stop = int(p["stop_price"])
            if stop > 0 and side * (price - stop) <= 0 and not due and not int(p["exit_seq"]):
                self._fail("unprotected", f"position {instrument}/{strategy} ({side * int(p['lots'])} lots) at {price} is beyond its stop {stop}")
            self._sent(p, event_ns)

    def in_time(self, event_ns: int) -> None:
        """Nothing is held beyond its deadline, and exits that are due work, at a time that the sniper has heard of."""
        positions = self.world.memory.sniper.positions
        for row in np.flatnonzero(positions["state"] != l.POS_FLAT):
            p = positions[row]
            if int(p["lots"]) > 0:
                if 0 < int(p["deadline_ns"]) <= event_ns and not int(p["exit_seq"]) and int(p["exit_reason"]) == l.EXIT_NONE:
                    self._fail("unprotected", f"position {row} is held beyond its time")
                self._sent(p, event_ns)

    def _sent(self, p: Any, event_ns: int) -> None:
        """An exit that is due works, or waits for its next try."""
        if (int(p["exit_reason"]) != l.EXIT_NONE and not int(p["exit_seq"]) and int(p["lots"]) > int(p["exit_working_lots"])
                and event_ns >= int(p["retry_ns"])):
            self._fail("unprotected", f"an exit of position {int(p['instrument'])}/{int(p['strategy'])} is due and does not go out")


def sniper_line(memory: Any) -> Any:
    """The sniper's committed line."""
    return memory.sniper.commit_lines[int(memory.sniper.commit[0]["number"]) & 1]
