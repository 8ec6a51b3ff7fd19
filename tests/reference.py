"""The sniper once more, slow and obvious: what it must answer to ticks, reports, plans and commands, as plain Python over lists and dicts.

It shares no code with the kernel. Integers are exact, so floor divisions are written as the formulas stand in RISK.md and ARCHITECTURE.md.
Two instruments (0 spot, 1 linear perpetual without leverage), two strategies; features only as far as clauses use them here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ipc import layout as l
from tests.reference_papers import Papers

VALUE, FEE_E8, SLIPPAGE_BPS, MAX_LOTS = 1000, 100_000, 20, 10**6
DAY = 86_400 * 10**9
WIDENINGS = 5


@dataclass
class Condition:
    """An armed condition, numbers as in layout.CONDITION."""

    id: int
    arming: int
    instrument: int
    strategy: int
    trigger: int
    sign: int
    level: int
    side: int
    more: dict[str, Any]
    fired: int = 0
    next_allowed: int = 0
    last_refusal: int = 0
    extreme: int = 0


@dataclass
class Position:
    """An open position."""

    id: int
    key: tuple[int, int]
    side: int
    condition: Condition
    state: int = l.POS_OPENING
    entry_seq: int = 0
    exit_seq: int = 0
    rung_seq: int = 0
    lots: int = 0
    entry_lots: int = 0
    entry_quote: int = 0
    exit_lots: int = 0
    exit_quote: int = 0
    cost: int = 0
    fees: int = 0
    stop: int = 0
    target: int = 0
    best: int = 0
    opened: int = 0
    deadline: int = 0
    activation: int = 0
    reason: int = 0
    attempt: int = 0
    retry: int = 0
    rungs_done: int = 0
    break_even: int = 0
    adjustments: int = 0
    adjusted_tick: int = -1
    stop_moved: bool = False
    target_moved: bool = False


@dataclass
class Order:
    """An order without a terminal report."""

    seq: int
    key: tuple[int, int]
    side: int
    purpose: int
    type: int
    lots: int
    limit: int
    reserved: int = 0
    cum_lots: int = 0
    cum_quote: int = 0
    last_trade: int = 0
    valid_until: int = 0
    cancelled: bool = False
    #: the first row that was free
    slot: int = 0


@dataclass
class Market:
    """What was seen of an instrument."""

    last: int = 0
    bid: int = 0
    ask: int = 0
    bid_lots: int = 0
    ask_lots: int = 0
    trade_ns: int = 0
    quote_ns: int = 0
    seen_ns: int = 0
    previous: dict[int, int] = field(default_factory=dict)

    def price(self, kind: int) -> int:
        """A price kind; mid in half ticks; 0 without."""
        if kind == l.PRICE_MID:
            return self.bid + self.ask if self.bid and self.ask else 0
        return (self.last, self.bid, self.ask)[kind]


def up(value: int, by: int) -> int:
    """Ceiling of a division."""
    return -(-value // by)


class Reference:
    """`records` are what the order ring must hold: (kind, …) tuples."""

    def __init__(self, params: dict[str, int]) -> None:
        self.params = params
        self.markets = [Market(), Market()]
        self.positions: dict[tuple[int, int], Position] = {}
        self.orders: list[Order] = []
        self.conditions: list[Condition] = []
        self.records: list[tuple[Any, ...]] = []
        self.seq = self.tick = 0
        self.now = 0
        self.cash = self.day = self.day_start = self.entries_today = 0
        self.messages_due = 0
        self.entries_due = {0: 0, 1: 0}
        self.latched: set[int] = set()
        self.groups: set[int] = set()
        self.last_entry: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.running = True
        self.arming = 0
        self.papers = Papers(self)

    # ── money ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def mark(self, position: Position) -> int:
        """Price at which a position could be closed; 0 without."""
        m = self.markets[position.key[0]]
        return (m.bid if position.side > 0 else m.ask) or m.last

    def worth(self, position: Position) -> int:
        """What a position adds to equity."""
        mark = self.mark(position)
        value = mark * position.lots * VALUE if mark else position.cost
        return value if position.key[0] == 0 else position.side * (value - position.cost)

    def held(self) -> list[Position]:
        """Positions with lots."""
        return [position for position in self.positions.values() if position.lots > 0]

    def equity(self) -> int:
        """Cash and what is held."""
        return self.cash + sum(self.worth(position) for position in self.held())

    def exposure(self, instrument: int) -> int:
        """Lots open and under way."""
        return (sum(p.lots for p in self.positions.values() if p.key[0] == instrument)
                + sum(o.lots - o.cum_lots for o in self.orders if o.key[0] == instrument and o.purpose == l.ENTRY))

    def reserve(self, instrument: int, price: int, lots: int) -> int:
        """Cash that an entry may take."""
        quote = price * lots * VALUE
        quote += quote * SLIPPAGE_BPS // 10_000 + 1
        fee = up(quote * FEE_E8, 10**8)
        return quote + fee if instrument == 0 else quote + 1 + fee

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def tell(self, kind: int, *facts: Any) -> int:
        """The next record; gives its sequence."""
        self.seq += 1
        self.records.append((self.seq, l.INTENT_KINDS[kind], *facts))
        if kind in (l.NEW, l.CANCEL):
            self.messages_due = max(self.messages_due, self.now) + self.params["message_interval_ns"]
        return self.seq

    def become(self, position: Position, state: int, cause: int = 0) -> None:
        """A transition."""
        before, position.state = position.state, state
        position.adjusted_tick = self.tick
        self.tell(l.LIFECYCLE, position.id, before, state, cause, position.stop, position.target, position.adjustments)

    # ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def report(self, kind: int, seq: int, event_ns: int, cum_lots: int = 0, cum_quote: int = 0, fee: int = 0, trade: int = 0) -> None:
        """A venue report about an order."""
        found = [order for order in self.orders if order.seq == seq]
        if not found or kind in (l.ACCEPTED, l.UNKNOWN):
            return
        order = found[0]
        now = max(event_ns, self.now)
        position = self.positions[order.key]
        before = position.state
        if cum_lots > order.cum_lots or kind == l.FILL:
            self.filled(order, position, cum_lots, cum_quote, fee, trade, now)
        if kind != l.FILL or order.cum_lots >= order.lots:
            self.ended(order, position, kind, now)
        keep, self.now = self.now, now
        if order.key in self.positions and position.state != before:
            after, position.state = position.state, before
            tick = position.adjusted_tick
            if before == l.POS_OPENING and after == l.POS_MONITORING:
                self.become(position, l.POS_OPEN)
            self.become(position, after)
            position.adjusted_tick = tick
            if before == l.POS_OPENING:
                self.tell(l.CONTEXT, position.id)
            if before in (l.POS_OPENING, l.POS_OPEN) and after == l.POS_MONITORING:
                self.papers.twin(position)
        self.close_if_flat(order.key)
        self.now = keep

    def filled(self, order: Order, position: Position, cum_lots: int, cum_quote: int, fee: int, trade: int, now: int) -> None:
        """What the cumulative figures add."""
        fee = fee if trade > order.last_trade else 0
        lots, quote = max(0, cum_lots - order.cum_lots), max(0, cum_quote - order.cum_quote)
        if cum_lots <= order.cum_lots and fee == 0:
            return
        order.cum_lots, order.cum_quote, order.last_trade = order.cum_lots + lots, order.cum_quote + quote, max(order.last_trade, trade)
        position.fees += fee
        self.cash -= fee
        spot = order.key[0] == 0
        if order.purpose == l.ENTRY:
            if position.entry_lots == 0:
                position.state, position.opened = l.POS_OPEN, now
                position.deadline = now + position.condition.more["time_stop_ns"] if position.condition.more["time_stop_ns"] else 0
            position.lots += lots
            position.entry_lots += lots
            position.entry_quote += quote
            position.cost += quote
            if spot:
                self.cash -= quote
                order.reserved -= min(order.reserved, quote + fee)
            if position.entry_lots:
                self.protect(position)
        else:
            removed = (position.cost if lots >= position.lots else position.cost * lots // position.lots) if lots else 0
            position.cost -= removed
            position.lots -= lots
            position.exit_lots += lots
            position.exit_quote += quote
            self.cash += quote if spot else position.side * (quote - removed)

    def protect(self, position: Position) -> None:
        """Stop, target and trailing from the average entry."""
        more = position.condition.more
        average = position.entry_quote // VALUE // position.entry_lots
        if more["stop_bps"] and not position.stop_moved:
            position.stop = average - position.side * (average * more["stop_bps"] // 10_000)
        if more["target_bps"] and not position.target_moved:
            position.target = average + position.side * (average * more["target_bps"] // 10_000)
        if more["trail_distance_bps"]:
            position.activation = average + position.side * (average * more["trail_activation_bps"] // 10_000)
        if position.best == 0 or position.side * (average - position.best) > 0:
            position.best = average

    def ended(self, order: Order, position: Position, kind: int, now: int) -> None:
        """An order has its terminal report."""
        self.orders.remove(order)
        if order.purpose == l.ENTRY:
            position.entry_seq = 0
            if position.entry_lots == 0:
                del self.positions[order.key]
            elif position.state == l.POS_OPEN:
                position.state = l.POS_MONITORING
            return
        if position.rung_seq == order.seq:
            position.rung_seq = 0
            position.rungs_done += order.cum_lots == order.lots
        else:
            position.exit_seq = 0
            if position.lots:
                position.state = l.POS_MONITORING
                position.attempt += order.cum_lots == order.lots
        if order.cum_lots < order.lots:
            pause = self.params["exit_retry_ns"] << min(position.attempt, 4) if kind == l.REJECTED else self.params["exit_retry_ns"]
            position.attempt += 1
            position.retry = now + pause

    def close_if_flat(self, key: tuple[int, int]) -> None:
        """The end of a round trip."""
        p = self.positions.get(key)
        if p is None or p.lots or not p.entry_lots or p.entry_seq or p.exit_seq or p.rung_seq:
            return
        p.reason = p.reason or l.EXIT_RUNG
        self.tell(l.CLOSED, p.id, p.entry_lots, p.side * (p.exit_quote - p.entry_quote) - p.fees, p.reason)
        self.papers.closed.append((p.id, self.now, p.key, p.side))
        del self.positions[key]

    # ── plans and commands ───────────────────────────────────────────────────────────────────────────────────────────
    def plan(self, strategy: int, plan_seq: int, made: list[Condition], add: bool, withdraw: set[int]) -> None:
        """A plan is armed."""
        self.conditions = [c for c in self.conditions if c.strategy != strategy or (add and c.id not in withdraw)]
        for condition in made:
            self.arming += 1
            condition.arming = self.arming
        self.conditions += made
        self.tell(l.SWAPPED, plan_seq, len(self.conditions))

    def command(self, command: int, argument: int = 0, reason: int = 0, stop: int = 0, target: int = 0) -> None:
        """An operator's command."""
        if command == l.CMD_RELEASE:
            self.latched.discard(argument)
            self.entries_due[argument] = 0
            self.tell(l.RELEASED, argument)
            return
        if command == l.CMD_ADJUST:
            for _, p in sorted(self.positions.items()):
                if p.id == argument and p.lots and not p.reason and p.adjustments < self.params["max_adjustments"]:
                    p.stop, p.target, p.adjustments = stop or p.stop, target or p.target, p.adjustments + 1
                    p.stop_moved, p.target_moved = p.stop_moved or bool(stop), p.target_moved or bool(target)
                    self.become(p, l.POS_ADJUSTING, l.ADJUST_OPERATOR)
            return
        if command != l.CMD_CLOSE_POSITION:
            self.tell(l.CANCEL_ALL, argument)
        if command != l.CMD_CANCEL_ENTRIES:
            for p in self.positions.values():
                if not p.reason and (command == l.CMD_FLATTEN or p.id == argument):
                    p.reason, p.retry = reason, 0

    # ── ticks ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def clock(self, event_ns: int) -> None:
        """A CLOCK tick: deadlines, retries, overdue entries."""
        self.begin(event_ns)
        for key in sorted(self.positions):
            self.evaluate(self.positions[key], 0)
        for order in sorted(self.orders, key=lambda order: order.slot):
            overdue = order.valid_until and event_ns >= order.valid_until
            if order.purpose == l.ENTRY and not order.cancelled and (overdue or not self.running):
                order.cancelled = True
                self.tell(l.CANCEL, order.seq)
        self.papers.clock()

    def begin(self, event_ns: int) -> None:
        """What each tick begins with."""
        self.tick += 1
        self.now = event_ns
        if event_ns // DAY != self.day and all(self.mark(p) for p in self.held()):
            self.day, self.entries_today, self.day_start, self.papers.today = event_ns // DAY, 0, self.equity(), 0

    def market(self, instrument: int, event_ns: int, trade: int = 0, quote: tuple[int, int, int, int] = (0, 0, 0, 0), real: bool = True) -> None:
        """A trade or a quote (bid, lots, ask, lots); `real` is false for what is no market trade."""
        self.begin(event_ns)
        m = self.markets[instrument]
        if real:
            if m.seen_ns and event_ns - m.seen_ns > self.params["session_gap_ns"]:
                m.previous = {}
            m.seen_ns = event_ns
            if trade:
                m.last, m.trade_ns = trade, event_ns
            else:
                (m.bid, m.bid_lots, m.ask, m.ask_lots), m.quote_ns = quote, event_ns
        stale = event_ns - m.quote_ns > self.params["max_quote_age_ns"]
        for key in sorted(key for key in self.positions if key[0] == instrument):
            p = self.positions[key]
            price = 0 if trade and (not stale or not real) else m.last if trade else (m.bid if p.side > 0 else m.ask)
            self.evaluate(p, price)
        for key in sorted(key for key in self.papers.open if key[0] == instrument):
            side = self.papers.open[key].side
            self.papers.evaluate(key, 0 if trade and (not stale or not real) else m.last if trade else (m.bid if side > 0 else m.ask))
        if not real:
            return
        kinds = (l.PRICE_LAST,) if trade else (l.PRICE_BID, l.PRICE_ASK, l.PRICE_MID)
        for kind in kinds:
            previous, new = m.previous.get(kind, 0), m.price(kind)
            if not previous or not new:
                continue
            sign = 1 if new > previous else -1
            crossed = [c for c in self.conditions if c.instrument == instrument and c.trigger == kind and c.sign == sign
                       and sign * previous < sign * c.level <= sign * new]
            for c in sorted(crossed, key=lambda c: (c.sign * c.level, c.arming)):
                self.fire(c)
        for c in sorted((c for c in self.conditions if c.instrument == instrument and c.trigger == l.TRIGGER_TRAILING), key=lambda c: c.arming):
            if c.more["price_kind"] in kinds:
                self.trail(c, m.price(c.more["price_kind"]), m.previous.get(c.more["price_kind"], 0))
        for kind in kinds:
            m.previous[kind] = m.price(kind)

    # ── exits ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def evaluate(self, p: Position, price: int) -> None:
        """One position at an executable price; 0: no level is tested."""
        if p.lots <= 0:
            if p.entry_seq and p.reason:
                self.cancel_entry(p)
            self.close_if_flat(p.key)
            return
        if p.state == l.POS_ADJUSTING and not p.rung_seq and p.adjusted_tick != self.tick:
            self.become(p, l.POS_MONITORING)
        if price and p.side * (price - p.best) > 0:
            p.best = price
        if p.exit_seq:
            return
        if p.reason:
            if self.now < p.retry:
                return
        else:
            reason = self.due(p, price)
            if not reason:
                if price and not p.entry_seq:
                    self.improve(p, price)
                return
            p.reason = reason
        if p.entry_seq:
            self.cancel_entry(p)
        under_way = sum(order.lots - order.cum_lots for order in self.orders if order.seq == p.rung_seq)
        if p.lots - under_way <= 0:
            return
        p.exit_seq = self.send_exit(p, p.lots - under_way, p.reason, 1)
        before, p.state = p.state, l.POS_CLOSING
        if before != l.POS_CLOSING:
            self.tell(l.LIFECYCLE, p.id, before, l.POS_CLOSING, 0, p.stop, p.target, p.adjustments)

    def due(self, p: Position, price: int) -> int:
        """Which exit is due."""
        if price:
            if p.stop and p.side * (price - p.stop) <= 0:
                return l.EXIT_STOP
            distance = p.condition.more["trail_distance_bps"]
            trail = p.best - p.side * (p.best * distance // 10_000)
            if p.activation and p.side * (p.best - p.activation) >= 0 and p.side * (price - trail) <= 0:
                return l.EXIT_TRAILING
            if p.target and p.side * (price - p.target) >= 0:
                return l.EXIT_TARGET
        return l.EXIT_TIME if p.deadline and self.now >= p.deadline else 0

    def free_slot(self) -> int:
        """Lowest row that no working order has."""
        return min(set(range(len(self.orders) + 1)) - {order.slot for order in self.orders})

    def cancel_entry(self, p: Position) -> None:
        """Ask for the end of a working entry, once."""
        for order in self.orders:
            if order.seq == p.entry_seq and not order.cancelled:
                order.cancelled = True
                self.tell(l.CANCEL, order.seq)

    def send_exit(self, p: Position, lots: int, reason: int, leg: int) -> int:
        """An exit with its collar."""
        reference, m = self.mark(p), self.markets[p.key[0]]
        if m.trade_ns > m.quote_ns and self.now - m.quote_ns > self.params["max_quote_age_ns"]:
            reference = m.last
        limit = 0
        if reference and p.attempt < WIDENINGS:
            bps = self.params["exit_collar_bps"] << p.attempt
            limit = max(1, reference - up(reference * bps, 10_000)) if p.side > 0 else reference + up(reference * bps, 10_000)
        kind = l.IOC if limit else l.MARKET
        seq = self.tell(l.NEW, l.EXIT, -p.side, kind, lots, limit, p.id, reason, leg, p.attempt)
        self.orders.append(Order(seq, p.key, -p.side, l.EXIT, kind, lots, limit, slot=self.free_slot()))
        return seq

    def improve(self, p: Position, price: int) -> None:
        """The ladder, then break-even."""
        more = p.condition.more
        average = p.entry_quote // VALUE // p.entry_lots
        gain, ladder = p.side * (price - average), more["ladder"]
        if (p.rungs_done < len(ladder) and not p.rung_seq and self.now >= p.retry
                and gain >= average * ladder[p.rungs_done][0] // 10_000):
            shares = [share for _, share in ladder[:p.rungs_done + 1]]
            sold = p.entry_lots - p.lots
            lots = p.lots if sum(shares) == 10_000 else sum(p.entry_lots * share // 10_000 for share in shares) - sold
            if lots <= 0:
                p.rungs_done += 1
                return
            p.rung_seq = self.send_exit(p, lots, l.EXIT_RUNG, 2 + p.rungs_done)
            if p.state != l.POS_ADJUSTING:
                self.become(p, l.POS_ADJUSTING, l.ADJUST_RUNG)
            return
        if p.break_even and gain >= average * p.break_even // 10_000:
            fees = 2 * up(p.cost * FEE_E8, 10**8)
            stop = up(p.cost + fees, p.lots * VALUE) if p.side > 0 else max(1, (p.cost - fees) // (p.lots * VALUE))
            if p.side * (price - stop) <= 0:
                return
            p.break_even = 0
            if (p.stop == 0 or p.side * (stop - p.stop) > 0) and p.adjustments < self.params["max_adjustments"]:
                p.stop, p.adjustments, p.stop_moved = stop, p.adjustments + 1, True
                self.become(p, l.POS_ADJUSTING, l.ADJUST_BREAK_EVEN)

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def live(self, c: Condition) -> bool:
        """Whether a condition may still fire."""
        return (c.more["valid_from"] <= self.now < c.more["valid_until"] and c.fired < c.more["max_fires"]
                and c.more["group"] not in self.groups)

    def trail(self, c: Condition, price: int, previous: int) -> None:
        """A trailing entry."""
        if not self.live(c) or not price:
            return
        if c.extreme == 0 and c.level and c.sign * (price - c.level) > 0:
            return
        if c.extreme == 0 or not previous or c.sign * (price - c.extreme) < 0:
            c.extreme = price
            return
        at = c.extreme + c.sign * max(1, c.extreme * c.more["rebound_bps"] // 10_000)
        if c.sign * (price - at) >= 0 and c.sign * (previous - at) < 0 and self.fire(c):
            c.extreme = price

    def fire(self, c: Condition) -> bool:
        """An entry, a refusal, or nothing; True for an entry."""
        if not self.live(c) or self.now < c.next_allowed:
            return False
        m = self.markets[c.instrument]
        price = (m.ask if c.side > 0 else m.bid) or m.last
        size_kind, size = c.more["size"]
        lots = size
        if size_kind != l.SIZE_BASE and price:
            quanta = size if size_kind == l.SIZE_QUOTE else max(0, self.equity()) * size // 10_000
            lots = quanta // (price * VALUE)
        code = self.refusal(c, price, lots)
        if code:
            if code == l.REF_REPEATED:
                latches = c.strategy not in self.latched
                self.latched.add(c.strategy)
            if c.last_refusal != code or (code == l.REF_REPEATED and latches):
                c.last_refusal = code
                self.tell(l.REFUSED, c.id, code)
            return False
        limit = c.more["limit_price"]
        key = (c.instrument, c.strategy)
        if c.more["paper"]:
            self.papers.fire(c, lots, price)
        seq = 0 if c.more["paper"] else self.tell(l.NEW, l.ENTRY, c.side, c.more["order_type"], lots, limit, self.seq + 1, 0, 0, 0)
        c.last_refusal = 0
        c.fired += 1
        c.next_allowed = self.now + c.more["cooldown_ns"]
        if c.more["paper"]:
            return True
        if c.more["group"]:
            self.groups.add(c.more["group"])
        self.orders.append(Order(seq, key, c.side, l.ENTRY, c.more["order_type"], lots, limit, reserved=self.reserve(c.instrument, price, lots),
                                 valid_until=c.more["valid_until"], slot=self.free_slot()))
        self.positions[key] = Position(seq, key, c.side, c, entry_seq=seq, stop=c.more["stop_price"], target=c.more["target_price"],
                                       break_even=c.more["break_even_bps"])
        self.entries_today += 1
        self.entries_due[c.strategy] = max(self.entries_due[c.strategy], self.now) + self.params["repeat_interval_ns"]
        self.last_entry[key] = (self.now, lots, limit if c.more["order_type"] == l.LIMIT else price, c.side)
        return True

    def clauses_hold(self, c: Condition, m: Market) -> bool:
        """Whether every clause is true."""
        for feature, above, value in c.more["clauses"]:
            left = {"last": m.last, "bid": m.bid, "ask": m.ask}[feature]
            if (feature == "last" and not left) or (feature != "last" and not (m.bid and m.ask)) or not (left > value if above else left < value):
                return False
        return True

    def order_checks(self, c: Condition, price: int, lots: int) -> list[tuple[int, Any]]:
        """Controls of an order by itself and its market."""
        q, m = self.params, self.markets[c.instrument]
        at = c.more["limit_price"] if c.more["order_type"] == l.LIMIT else price
        level = (c.level // 2 if c.trigger == l.PRICE_MID else c.level) if c.trigger != l.TRIGGER_TRAILING else (
            (m.bid + m.ask) // 2 if m.bid and m.ask else m.last)
        return [(l.REF_SLIPPAGE, c.more["max_slippage_bps"] and c.more["order_type"] == l.MARKET
                 and c.side * (price - level) > level * c.more["max_slippage_bps"] // 10_000),
                (l.REF_SIZE_ZERO, lots <= 0), (l.REF_MAX_LOTS, lots > MAX_LOTS), (l.REF_ORDER_VALUE, price * lots * VALUE > q["max_order_value"]),
                (l.REF_COLLAR, m.last and c.side * (at - m.last) > m.last * q["price_collar_bps"] // 10_000)]

    def refusal(self, c: Condition, price: int, lots: int) -> int:
        """Why there is no entry; 0 for one."""
        q, m, key = self.params, self.markets[c.instrument], (c.instrument, c.strategy)
        if c.more["paper"]:
            return self.papers.refusal(c, price, lots, self.clauses_hold(c, m))
        if not self.clauses_hold(c, m):
            return l.REF_CLAUSE
        equity = self.equity()
        at = c.more["limit_price"] if c.more["order_type"] == l.LIMIT else price
        held, value = self.exposure(c.instrument), price * lots * VALUE
        open_value = sum(max(self.markets[k].last, 0 if self.markets[k].last else max(self.markets[k].bid, self.markets[k].ask))
                         * self.exposure(k) * VALUE for k in (0, 1))
        margin = sum(p.cost + 1 + max(0, -self.worth(p)) for p in self.held() if p.key[0] == 1)
        reserved = sum(order.reserved for order in self.orders)
        last_ns, last_lots, last_price, last_side = self.last_entry.get(key, (0, 0, 0, 0))
        checks = (
            (l.REF_MODE, not self.running),
            (l.REF_CONFIDENCE, c.more["confidence_e4"] < q["min_confidence_e4"]),
            (l.REF_NO_QUOTE, not m.last and not (m.bid and m.ask)),
            (l.REF_STALE, self.now - max(m.trade_ns, m.quote_ns) > q["max_quote_age_ns"]),
            (l.REF_STALE, m.quote_ns and self.now - m.quote_ns > q["max_quote_age_ns"]),
            (l.REF_EMPTY_BOOK, m.quote_ns and not (m.bid and m.ask)),
            (l.REF_CROSSED, m.bid and m.ask and m.bid > m.ask),
            (l.REF_POSITION_OPEN, key in self.positions),
            (l.REF_SPOT_SHORT, c.side < 0 and c.instrument == 0),
            (l.REF_OPEN_POSITIONS, len(self.positions) >= q["max_open_positions"]),
            (l.REF_DAILY_ENTRIES, self.entries_today >= q["max_entries_per_day"]),
            (l.REF_MESSAGE_RATE, max(self.messages_due, self.now) + q["message_interval_ns"] - self.now > q["message_burst_ns"]),
            (l.REF_REPEATED, c.strategy in self.latched
             or max(self.entries_due[c.strategy], self.now) + q["repeat_interval_ns"] - self.now > q["repeat_window_ns"]),
            self.order_checks(c, price, lots)[0],
            (l.REF_NO_QUOTE, any(not self.mark(p) for p in self.held())),
            (l.REF_DAILY_LOSS, self.day_start <= 0 or equity <= 0
             or self.day_start - equity >= self.day_start * q["daily_loss_bps"] // 10_000),
            (l.REF_EQUITY, equity < q["min_equity"]),
            *self.order_checks(c, price, lots)[1:],
            (l.REF_DUPLICATE, last_ns and self.now - last_ns < q["duplicate_window_ns"]
             and (last_lots, last_price, last_side) == (lots, at, c.side)),
            (l.REF_SELF_MATCH, any(order.purpose == l.ENTRY and order.key[0] == c.instrument and order.side == -c.side
                                   and (order.type == l.MARKET or c.side * (at - order.limit) >= 0) for order in self.orders)),
            (l.REF_MAX_LOTS, held + lots > MAX_LOTS),
            (l.REF_SYMBOL_EXPOSURE, (held + lots) * price * VALUE > equity * q["max_symbol_exposure_bps"] // 10_000),
            (l.REF_GROSS_EXPOSURE, open_value + value > equity * q["max_gross_exposure_bps"] // 10_000),
            (l.REF_CASH, self.reserve(c.instrument, price, lots) > self.cash - reserved - margin),
        )
        return next((code for code, refused in checks if refused), 0)
