"""Two runs decision by decision: what both decided, what only one did, and what each difference costs. B is measured against A.

Decisions of one symbol, strategy, purpose (entry, exit) and side are paired by nearest event time, at most PAIR_NS apart. What is left of A is
*missing*, what is left of B is *extra*. A pair is *equal* when everything decided and every fill is: times, sizes, prices, fees, reasons.

P&L is made comparable by valuing every order at one price M of its symbol, the last fill in either run: side × (lots × M × value − quote) − fees.
Summed over a run's orders that is its realised P&L after fees, and what is still open valued at M. So the difference of two runs is a sum over
their orders:

| cause   | of                    | is                                                                                                |
|---------|-----------------------|---------------------------------------------------------------------------------------------------|
| missing | orders of A alone     | their value, taken away                                                                           |
| extra   | orders of B alone     | their value                                                                                       |
| fees    | pairs                 | what B pays more in fees, taken away                                                              |
| price   | pairs of one time     | A's filled lots at B's average price instead of A's                                               |
| time    | pairs of two times    | the same, where B decided or was first filled at another time                                     |
| size    | pairs                 | the rest: more or fewer lots filled, at B's price                                                 |

All in integer quanta, so the causes add up exactly.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from control.record.decisions import Decision, Run

#: event time that two decisions of one pair may lie apart
PAIR_NS: Final = 10_000_000_000
CAUSES: Final = ("missing", "extra", "price", "time", "size", "fees")
#: differences that are listed; more are counted
MOST_LISTED: Final = 100


class NotComparable(Exception):
    """Runs whose numbers mean different things."""


class Pair(NamedTuple):
    """One decision in both runs."""

    a: Decision
    b: Decision

    @property
    def time_ms(self) -> float:
        """How much later B decided."""
        return (self.b.event_ns - self.a.event_ns) / 1e6

    @property
    def price_bps(self) -> float | None:
        """How much worse B's average fill price is, in bps; None where one was not filled."""
        if not self.a.filled or not self.b.filled:
            return None
        a, b = self.a.quote * self.b.filled, self.b.quote * self.a.filled
        return self.a.side * (b - a) * 10_000 / a

    @property
    def differs(self) -> list[str]:
        """The names of what differs."""
        names = ("event_ns", "lots", "order_type", "limit_price", "reference_price", "reason", "fills")
        return [name for name in names if getattr(self.a, name) != getattr(self.b, name)]


@dataclass(frozen=True)
class Parity:
    """What was found; P&L in quanta."""

    a: Run
    b: Run
    pairs: list[Pair]
    missing: list[Decision]
    extra: list[Decision]
    pnl_a: int
    pnl_b: int
    causes: dict[str, int]

    @property
    def unequal(self) -> list[Pair]:
        """Pairs that are not equal."""
        return [pair for pair in self.pairs if pair.differs]

    @property
    def equal(self) -> bool:
        """No difference at all."""
        return not (self.missing or self.extra or self.unequal)


def compare_runs(a: Run, b: Run) -> Parity:
    """Raises NotComparable."""
    for symbol in a.facts.keys() & b.facts.keys():
        one, other = a.facts[symbol], b.facts[symbol]
        for name in ("tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "value_quanta", "quantum_exponent"):
            if getattr(one, name) != getattr(other, name):
                raise NotComparable(f"{symbol}: its {name} is {getattr(one, name)} in {a.run_id} and {getattr(other, name)} in {b.run_id}; "
                                    "run one of them again with the instrument of the other")
    pairs, missing, extra = _paired(a.decisions, b.decisions)
    marks = _marks(a, b)
    causes = dict.fromkeys(CAUSES, 0)
    for decision in missing:
        causes["missing"] -= worth(decision, marks)
    for decision in extra:
        causes["extra"] += worth(decision, marks)
    for pair in pairs:
        for cause, quanta in _costs(pair, marks).items():
            causes[cause] += quanta
    return Parity(a, b, pairs, missing, extra, sum(worth(one, marks) for one in a.decisions), sum(worth(one, marks) for one in b.decisions), causes)


def _paired(ours: list[Decision], theirs: list[Decision]) -> tuple[list[Pair], list[Decision], list[Decision]]:
    groups: dict[Any, tuple[list[Decision], list[Decision]]] = defaultdict(lambda: ([], []))
    for place, decisions in enumerate((ours, theirs)):
        for one in decisions:
            groups[one.symbol, one.strategy, one.purpose, one.side][place].append(one)
    pairs: list[Pair] = []
    missing: list[Decision] = []
    extra: list[Decision] = []
    for in_a, in_b in groups.values():
        in_a.sort(key=lambda one: one.event_ns)
        in_b.sort(key=lambda one: one.event_ns)
        near, first = [], 0
        for i, one in enumerate(in_a):
            while first < len(in_b) and in_b[first].event_ns < one.event_ns - PAIR_NS:
                first += 1
            j = first
            while j < len(in_b) and in_b[j].event_ns <= one.event_ns + PAIR_NS:
                near.append((abs(in_b[j].event_ns - one.event_ns), abs(in_b[j].lots - one.lots), i, j))
                j += 1
        taken_a, taken_b = set(), set()
        for _, _, i, j in sorted(near):
            if i not in taken_a and j not in taken_b:
                taken_a.add(i)
                taken_b.add(j)
                pairs.append(Pair(in_a[i], in_b[j]))
        missing += [one for i, one in enumerate(in_a) if i not in taken_a]
        extra += [one for j, one in enumerate(in_b) if j not in taken_b]
    pairs.sort(key=lambda pair: (pair.a.event_ns, pair.a.seq))
    missing.sort(key=lambda one: (one.event_ns, one.seq))
    extra.sort(key=lambda one: (one.event_ns, one.seq))
    return pairs, missing, extra


def _marks(a: Run, b: Run) -> dict[str, int]:
    """Price of the last fill of each symbol in either run, in ticks."""
    last: dict[str, tuple[int, int]] = {}
    for decision in (*a.decisions, *b.decisions):
        for fill in decision.fills:
            if decision.symbol not in last or fill.event_ns > last[decision.symbol][0]:
                last[decision.symbol] = (fill.event_ns, fill.price)
    return {symbol: price for symbol, (_, price) in last.items()}


def worth(decision: Decision, marks: dict[str, int]) -> int:
    """What an order adds to P&L when all lots are valued at the mark, in quanta."""
    if not decision.filled:
        return 0
    return decision.side * (decision.filled * marks[decision.symbol] * decision.value_quanta - decision.quote) - decision.fees


def _costs(pair: Pair, marks: dict[str, int]) -> dict[str, int]:
    a, b = pair
    total, fees, moved = worth(b, marks) - worth(a, marks), a.fees - b.fees, 0
    if a.filled and b.filled:
        quote = (2 * b.quote * a.filled + b.filled) // (2 * b.filled)  # A's lots at B's average price, to the nearest quantum
        moved = -a.side * (quote - a.quote)
    first = [one.fills[0].event_ns if one.fills else 0 for one in pair]
    cause = "price" if a.event_ns == b.event_ns and first[0] == first[1] else "time"
    return {"fees": fees, cause: moved, "size": total - fees - moved}


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def report_of(parity: Parity) -> dict[str, Any]:
    """As plain values: cash as decimal strings of the account currency, times in ms, prices in bps of A's."""
    fact = next(iter({**parity.a.facts, **parity.b.facts}.values()))
    times = [abs(pair.time_ms) for pair in parity.pairs]
    prices = [abs(bps) for pair in parity.pairs if (bps := pair.price_bps) is not None]
    return {
        "equal": parity.equal,
        "run_a": {"id": parity.a.run_id, "mode": parity.a.mode, "decisions": len(parity.a.decisions), "fills": _fills(parity.a)},
        "run_b": {"id": parity.b.run_id, "mode": parity.b.mode, "decisions": len(parity.b.decisions), "fills": _fills(parity.b)},
        "matched": len(parity.pairs), "matched_unequal": len(parity.unequal), "missing": len(parity.missing), "extra": len(parity.extra),
        "time_ms": {"median": median(times) if times else 0.0, "most": max(times, default=0.0)},
        "price_bps": {"median": round(median(prices), 6) if prices else 0.0, "most": round(max(prices, default=0.0), 6)},
        "pnl_a": fact.cash_text(parity.pnl_a), "pnl_b": fact.cash_text(parity.pnl_b), "pnl_difference": fact.cash_text(parity.pnl_b - parity.pnl_a),
        "pnl_by_cause": {cause: fact.cash_text(quanta) for cause, quanta in parity.causes.items()},
    }


def _fills(run: Run) -> int:
    return sum(len(decision.fills) for decision in run.decisions)


def rows_of(parity: Parity) -> list[dict[str, Any]]:
    """The first MOST_LISTED differences by time."""
    rows = [_row("missing", one, parity) for one in parity.missing] + [_row("extra", one, parity) for one in parity.extra]
    rows += [_row("unequal", pair.a, parity) | {"differs": pair.differs, "time_ms": pair.time_ms,
                                                "price_bps": None if pair.price_bps is None else round(pair.price_bps, 6),
                                                "size_b": parity.b.facts[pair.b.symbol].size_text(pair.b.filled)} for pair in parity.unequal]
    return sorted(rows, key=lambda row: row["event_ns"])[:MOST_LISTED]


def _row(what: str, one: Decision, parity: Parity) -> dict[str, Any]:
    facts = parity.a.facts.get(one.symbol) or parity.b.facts[one.symbol]
    return {"what": what, "event_ns": one.event_ns, "symbol": one.symbol, "strategy": one.strategy, "purpose": one.purpose,
            "side": "buy" if one.side > 0 else "sell", "reason": one.reason, "size": facts.size_text(one.filled)}
