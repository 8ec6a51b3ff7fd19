"""Trades on paper and prices afterwards, once more, slow and obvious; part of tests/reference.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipc import layout as l

VALUE, FEE_E8 = 1000, 100_000
MINUTE = 60 * 10**9


def fee(quote: int) -> int:
    """Rounded up."""
    return -(-quote * FEE_E8 // 10**8)


@dataclass
class Paper:
    """A trade on paper."""

    id: int
    key: tuple[int, int]
    side: int
    more: dict[str, Any]
    wanted: int
    limit: int
    deadline: int
    lots: int = 0
    cost: int = 0
    quote: int = 0
    sold: int = 0
    proceeds: int = 0
    fees: int = 0
    stop: int = 0
    target: int = 0
    best: int = 0
    activation: int = 0
    rungs_done: int = 0
    break_even: int = 0


class Papers:
    """`reference` is the whole; see hotpath/kernel/papers.py and afterwards.py for the rules."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference
        self.open: dict[tuple[int, int], Paper] = {}
        self.closed: list[tuple[int, int, tuple[int, int], int]] = []
        self.told = [0, 0]
        self.today = 0

    def refusal(self, c: Any, price: int, lots: int, clauses_hold: bool) -> int:
        """Why there is no trade on paper; 0 for one."""
        r, key = self.reference, (c.instrument, c.strategy)
        q, m = r.params, r.markets[c.instrument]
        for code, wrong in (
                (l.REF_CLAUSE, not clauses_hold), (l.REF_CONFIDENCE, c.more["confidence_e4"] < q["min_confidence_e4"]),
                (l.REF_NO_QUOTE, not m.last and not (m.bid and m.ask)), (l.REF_STALE, r.now - max(m.trade_ns, m.quote_ns) > q["max_quote_age_ns"]),
                (l.REF_STALE, m.quote_ns and r.now - m.quote_ns > q["max_quote_age_ns"]), (l.REF_EMPTY_BOOK, m.quote_ns and not (m.bid and m.ask)),
                (l.REF_CROSSED, m.bid and m.ask and m.bid > m.ask), (l.REF_POSITION_OPEN, key in r.positions or key in self.open),
                (l.REF_SPOT_SHORT, c.side < 0 and c.instrument == 0), (l.REF_DAILY_ENTRIES, self.today >= 10 * q["max_entries_per_day"]),
                *r.order_checks(c, price, lots)):
            if wrong:
                return code
        return 0

    def fire(self, c: Any, lots: int, price: int) -> None:
        """A condition has fired."""
        r, more = self.reference, c.more
        limit = more["limit_price"] if more["order_type"] == l.LIMIT else 0
        p = Paper(r.seq + 1, (c.instrument, c.strategy), c.side, more, lots, limit, more["valid_until"], stop=more["stop_price"],
                  break_even=more["break_even_bps"])
        self.open[p.key] = p
        self.today += 1
        r.tell(l.PAPER_OPENED, p.id, l.POS_OPENING, 0, p.stop, 0, lots, 0)
        if not limit or p.side * (price - limit) <= 0:
            self.enter(p, price)

    def enter(self, p: Paper, price: int) -> None:
        """In at a price."""
        more, side = p.more, p.side
        p.lots, p.quote = p.wanted, price * p.wanted * VALUE
        p.cost, p.fees, p.best = p.quote, fee(p.quote), price
        p.deadline = self.reference.now + more["time_stop_ns"] if more["time_stop_ns"] else 0
        if more["stop_bps"]:
            p.stop = price - side * (price * more["stop_bps"] // 10_000)
        if more["target_bps"]:
            p.target = price + side * (price * more["target_bps"] // 10_000)
        if more["trail_distance_bps"]:
            p.activation = price + side * (price * more["trail_activation_bps"] // 10_000)
        self.reference.tell(l.PAPER_OPENED, p.id, l.POS_MONITORING, price, p.stop, p.target, p.wanted, 0)
        self.reference.tell(l.CONTEXT, p.id)

    def twin(self, base: Any) -> None:
        """A position's entry is over: its twin, with stop and target at so many percent of their distances."""
        more = base.condition.more
        if more["twin"] == (0, 0) or base.key in self.open or base.reason or base.adjustments or base.lots != base.entry_lots:
            return
        average, levels = base.entry_quote // VALUE // base.entry_lots, []
        for level, sign, percent in ((base.stop, -base.side, more["twin"][0]), (base.target, base.side, more["twin"][1])):
            distance = sign * (level - average)
            if percent and (not level or distance <= 0):
                return
            levels.append(max(1, average + sign * max(1, distance * percent // 100)) if percent else level)
        p = Paper(self.reference.seq + 1, base.key, base.side, more, base.lots, 0, base.deadline, base.lots, base.cost, base.entry_quote,
                  fees=base.fees, stop=levels[0], target=levels[1], best=base.best, activation=base.activation, break_even=base.break_even)
        self.open[p.key] = p
        self.reference.tell(l.PAPER_OPENED, p.id, l.POS_MONITORING, average, p.stop, p.target, p.wanted, base.id)

    def evaluate(self, key: tuple[int, int], price: int) -> None:
        """At an executable price; 0: no level is tested."""
        r, p = self.reference, self.open[key]
        m, more = r.markets[key[0]], p.more
        if not p.lots:
            entry = (m.ask if p.side > 0 else m.bid) or m.last
            if r.now >= p.deadline:
                del self.open[key]
            elif entry and p.side * (entry - p.limit) <= 0:
                self.enter(p, entry)
            return
        if price and p.side * (price - p.best) > 0:
            p.best = price
        trail = p.best - p.side * (p.best * more["trail_distance_bps"] // 10_000)
        reason = 0
        if price:
            for code, reached in ((l.EXIT_STOP, p.stop and p.side * (price - p.stop) <= 0),
                                  (l.EXIT_TRAILING, p.activation and p.side * (p.best - p.activation) >= 0 and p.side * (price - trail) <= 0),
                                  (l.EXIT_TARGET, p.target and p.side * (price - p.target) >= 0)):
                reason = reason or (code if reached else 0)
        if not reason and p.deadline and r.now >= p.deadline:
            reason = l.EXIT_TIME
        average = p.quote // VALUE // p.wanted
        if reason:
            self.sell(p, p.lots, price or (m.bid if p.side > 0 else m.ask) or m.last, reason)
        elif price:
            self.improve(p, price, average)

    def improve(self, p: Paper, price: int, average: int) -> None:
        """The ladder, then break-even."""
        gain, ladder = p.side * (price - average), p.more["ladder"]
        if p.rungs_done < len(ladder) and gain >= average * ladder[p.rungs_done][0] // 10_000:
            shares = [share for _, share in ladder[:p.rungs_done + 1]]
            lots = p.lots if sum(shares) == 10_000 else sum(p.wanted * share // 10_000 for share in shares) - p.sold
            p.rungs_done += 1
            if lots > 0:
                self.sell(p, min(lots, p.lots), price, l.EXIT_RUNG)
        elif p.break_even and gain >= average * p.break_even // 10_000:
            fees = 2 * fee(p.cost)
            stop = -(-(p.cost + fees) // (p.lots * VALUE)) if p.side > 0 else max(1, (p.cost - fees) // (p.lots * VALUE))
            if p.side * (price - stop) > 0:
                p.break_even = 0
                p.stop = stop if p.stop == 0 or p.side * (stop - p.stop) > 0 else p.stop

    def sell(self, p: Paper, lots: int, price: int, reason: int) -> None:
        """So many lots are out; with the last ones the trade is over."""
        p.cost -= p.cost * lots // p.lots
        p.lots -= lots
        p.sold += lots
        p.proceeds += price * lots * VALUE
        p.fees += fee(price * lots * VALUE)
        if not p.lots:
            self.reference.tell(l.PAPER_CLOSED, p.id, p.wanted, p.side * (p.proceeds - p.quote) - p.fees, reason)
            del self.open[p.key]

    def clock(self) -> None:
        """A CLOCK tick."""
        for key in sorted(self.open):
            self.evaluate(key, 0)
        r = self.reference
        for instant, minutes in enumerate((5, 15)):
            while self.told[instant] < len(self.closed):
                number, closed_ns, key, side = self.closed[self.told[instant]]
                if r.now < closed_ns + minutes * MINUTE:
                    break
                self.told[instant] += 1
                m = r.markets[key[0]]
                late = r.now - closed_ns > (minutes + 1) * MINUTE or r.now - max(m.trade_ns, m.quote_ns) > MINUTE
                r.tell(l.AFTERWARDS, number, minutes, 0 if late else (m.bid if side > 0 else m.ask) or m.last)
