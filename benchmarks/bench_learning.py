"""Whether learning finds the edges that are there, and none that are not: paired runs over a market whose edges lie in its prices.

```
 eight symbols, about 250 trades of each, over 116,000 minutes (benchmarks/edges.py); each trade is fed to the shipped learner (control/learn)
   edge      two symbols truly lose, one wins, five bring nothing after costs
   no edge   all eight bring nothing after costs
   turn      in the middle one loser begins to win, one brings nothing from then on, and the winner begins to lose
   all lose  all eight truly lose, so that it is the strategy
   walk      prices without any drift: every trade loses its costs, so restricting is right there
```

What happened in a run is a yes or no; its share over the seeds has a one-sided 95 % bound (Clopper and Pearson), and the bound is judged. A run is
worth the sum of its trades' results, each times the size that the learner allows (0 to 1.5), beside the same trades at full size.

It checks itself: `oracle` plays at least 50,000 trades of each edge and its means are what the edges are meant to be; and gates that must fail do
fail: one that believes nothing, one that believes everything, the shipped one with each claim judged as if it were the only one, and the shipped one
fed with each trade as if no other were open.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Final

import numpy as np

from benchmarks import edges as market
from benchmarks.frame import Row, check
from control.learn import gate
from control.learn.evidence import Evidence, span_bps
from control.learn.gate import Adaptation, Step
from control.learn.kinds import FAMILIES, Claim, Family, Kind
from control.learn.learner import Learner, Look, Opened, universe

#: seeds of the benchmark, and of --quick; of a gate that must fail; of edges that turn and of the walk; of these with --quick
SEEDS, QUICK_SEEDS, FAILING_SEEDS, TURNED_SEEDS, QUICK_FEW = 400, 20, 60, 100, 8
MINUTES: Final = 116_000
ORACLE_TRADES: Final = 50_000
#: to reach: upper bounds of the share of runs in which …
TARGETS: Final = {"loser_not_restricted": 0.10, "activation_without_edge": 0.05, "symbol_without_edge_shut": 0.05,
                  "not_better_than_control": 0.20}
STRATEGY: Final = "signals"
_LOSERS, _ZEROS = market.SYMBOLS[:2], market.SYMBOLS[3:]
_SPAN: Final = span_bps(market.STOP_BPS, market.TARGET_BPS)


def upper_bound(hits: int, count: int, confidence: float = 0.95) -> float:
    """The share at which so few hits have a probability of 1 − confidence: the upper Clopper–Pearson bound."""
    if hits >= count:
        return 1.0
    low, high = hits / count, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        at_most = sum(math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
                               + k * math.log(middle) + (count - k) * math.log1p(-middle)) for k in range(hits + 1)) if middle > 0 else 1.0
        low, high = (middle, high) if at_most > 1 - confidence else (low, middle)
    return high


class Run:
    """One market through one learner: every step it took, and what both arms made."""

    def __init__(self, trades: market.Trades, look: Look = gate.look, episodes: bool = True) -> None:
        """Without `episodes` each trade opens when it closes, so that none is seen to overlap."""
        self.learner = Learner(universe(len(market.SYMBOLS), 1, 0, 0), look=look)
        self.steps: list[tuple[int, Step]] = []
        self.with_learning = self.without = 0.0
        sizes = [0.0] * len(trades.symbol)
        seen: dict[int, Opened] = {}
        #: symbols that got no entries at some time, whatever the restriction
        self.shut: set[str] = set()
        #: trades of a symbol that had closed when it was restricted first
        self.needed: dict[str, int] = {}
        closed = Counter[str]()
        moments = [(int(minute), 1, number) for number, minute in enumerate(trades.opened)]
        moments += [(int(minute), 0, number) for number, minute in enumerate(trades.closed)]
        for minute, opens, number in sorted(moments):
            symbol, now_ns = market.SYMBOLS[int(trades.symbol[number])], minute * market.MINUTE_NS
            if opens:
                kind = Kind(symbol, STRATEGY, "buy")
                sizes[number] = self.learner.scale(kind, now_ns)
                if sizes[number] == 0.0:
                    self.shut.add(symbol)
                trade = Opened(kind=kind, opened_ns=now_ns, span_bps=_SPAN, made=sizes[number] > 0.0)
                if episodes:
                    self.learner.opened(number, trade)
                else:
                    seen[number] = trade
            else:
                if not episodes:
                    self.learner.opened(number, seen.pop(number))
                result = float(trades.net_bps[number])
                self.with_learning += sizes[number] * result
                self.without += result
                if sizes[number] > 0.0:
                    self.learner.remember(Kind(symbol, STRATEGY, "buy"), int(trades.opened[number]) * market.MINUTE_NS, now_ns, number, result)
                closed[symbol] += 1
                self.learner.closed(number, result, now_ns)
                for step in self.learner.look_if_due():
                    self.steps.append((minute, step))
                    if (one := step.adaptation).claim == Claim("coin", one.value, "loses") and one.stage == "active":
                        self.needed.setdefault(one.value, closed[one.value])

    def of(self, stage: str, direction: str, family: str = "coin", after: int = 0) -> dict[str, int]:
        """Values of a family that came to a stage at minute `after` or later, with the minute at which they first did."""
        found: dict[str, int] = {}
        for minute, step in self.steps:
            one = step.adaptation
            if (one.family, one.stage, one.direction) == (family, stage, direction) and minute >= after:
                found.setdefault(one.value, minute)
        return found

    @property
    def activated(self) -> bool:
        """Anything at all was."""
        return any(step.adaptation.stage == "active" for _, step in self.steps)

    @property
    def held(self) -> bool:
        """Both losing symbols are restricted at the end."""
        return all(Claim("coin", symbol, "loses") in self.learner.standing for symbol in _LOSERS)


# ── gates that must fail ─────────────────────────────────────────────────────────────────────────────────────────────
def believes_nothing(claims: Mapping[Claim, Evidence], standing: Iterable[Adaptation], tested: Mapping[Family, int], now_ns: int) -> list[Step]:
    """Always no."""
    return []


def _at_once(claim: Claim, evidence: Evidence, now_ns: int) -> Step:
    return Step(Adaptation(family=claim.family, value=claim.value, direction=claim.direction, stage="active", made_ns=now_ns, since_ns=now_ns,
                           trades=evidence.trades, mean_bps=evidence.mean_bps, log_e=0.0, needed=0.0, since=Evidence(direction=claim.direction)), "")


def believes_everything(claims: Mapping[Claim, Evidence], standing: Iterable[Adaptation], tested: Mapping[Family, int], now_ns: int) -> list[Step]:
    """Always yes: whatever the mean of a few trades says."""
    known = {one.claim for one in standing}
    return [_at_once(claim, evidence, now_ns) for claim, evidence in claims.items()
            if claim not in known and evidence.trades >= 5 and (evidence.mean_bps < 0) == (claim.direction == "loses")]


def each_alone(claims: Mapping[Claim, Evidence], standing: Iterable[Adaptation], tested: Mapping[Family, int], now_ns: int) -> list[Step]:
    """The same evidence, shadow and watch, but each claim at 5 % as if there were no others."""
    known = {one.claim: one for one in standing}
    return [step for claim, evidence in claims.items()
            for step in gate.look({claim: evidence}, [known[claim]] if claim in known else [], dict.fromkeys(FAMILIES, 1), now_ns,
                                  dict.fromkeys(FAMILIES, 0.05))]


#: by name: a look, and whether trades that overlap are one bet
FAILING: Final[dict[str, tuple[Look, bool]]] = {
    "always no": (believes_nothing, True), "always yes": (believes_everything, True), "no multiple-testing control": (each_alone, True),
    "no episodes": (gate.look, False)}


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def shares(seeds: int, look: Look, episodes: bool = True, progress: Callable[[], None] = lambda: None) -> tuple[Counter[str], list[Run]]:
    """How many runs had each of TARGETS, and the runs with edges."""
    hits, runs = Counter[str](), []
    for seed in range(seeds):
        run = Run(market.play(seed, MINUTES), look, episodes)
        runs.append(run)
        hits["loser_not_restricted"] += not set(_LOSERS) <= run.of("active", "loses").keys()
        hits["symbol_without_edge_shut"] += bool(run.shut & set(_ZEROS))
        hits["not_better_than_control"] += run.with_learning <= run.without
        hits["activation_without_edge"] += Run(market.play(1_000_000 + seed, MINUTES, (market.NOTHING,) * 8), look, episodes).activated
        progress()
    return hits, runs


def oracle(edges: tuple[float, ...], least: int, minutes: int = 2_000_000) -> list[tuple[int, float, float]]:
    """By symbol of one market: trades (at least so many), mean and standard deviation of a trade in bps."""
    sums = np.zeros((3, len(edges)))
    seed = 2_000_000
    while sums[0].min() < least:
        trades = market.play(seed, minutes, edges)
        for row, values in enumerate((np.ones(len(trades.symbol)), trades.net_bps, trades.net_bps**2)):
            sums[row] += np.bincount(trades.symbol, values, len(edges))
        seed += 1
    means = sums[1] / sums[0]
    return list(zip(sums[0].astype(int).tolist(), means.tolist(), np.sqrt(sums[2] / sums[0] - means**2).tolist(), strict=True))


def run(quick: bool) -> list[Row]:
    """The oracle, the paired runs, the gates that must fail, the edges that turn, the walk."""
    seeds = QUICK_SEEDS if quick else SEEDS
    rows = []
    least = ORACLE_TRADES // 10 if quick else ORACLE_TRADES
    for symbol, edge, (count, mean, deviation) in zip(market.SYMBOLS, market.EDGES, oracle(market.EDGES, least), strict=True):
        meant, within = {market.LOSES: (-50.0, 3.0), market.WINS: (50.0, 4.0)}.get(edge, (0.0, 2.0))
        params = {"symbol": symbol, "trades": count, "deviation_bps": round(deviation, 1)}
        rows.append(Row("learning", "true_mean_bps", round(mean, 2), "bps", params))
        check(abs(mean - meant) <= within + 3 * deviation / math.sqrt(count), f"{symbol} is worth {mean:.1f} bps a trade, not {meant}")
    hits, runs = shares(seeds, gate.look)
    for name, target in TARGETS.items():
        params = {"runs": seeds, "hits": hits[name]}
        rows.append(Row("learning", name, upper_bound(hits[name], seeds), "share", params, None if quick else target))
    shut = sum(market.SYMBOLS[2] in one.shut for one in runs)
    rows.append(Row("learning", "winner_shut", upper_bound(shut, seeds), "share", {"runs": seeds, "hits": shut}))
    rows.append(Row("learning", "losers_restricted_to_the_end", sum(one.held for one in runs) / seeds, "share", {"runs": seeds}))
    found = [minute / 1440 for one in runs for symbol, minute in one.of("active", "loses").items() if symbol in _LOSERS]
    rows.append(Row("learning", "loser_restricted_after", round(median(found), 1) if found else math.inf, "days", {"runs": seeds}))
    needed = sorted(one.needed.get(symbol, 10**9) for one in runs for symbol in _LOSERS)
    # the power, with volatility in clusters and trades that overlap
    rows += [Row("learning", "trades_until_restricted", needed[min(len(needed) - 1, int(share * len(needed)))], "", {"share_of_losers": share})
             for share in (0.5, 0.9, 0.99)]
    gained = [one.with_learning - one.without for one in runs]
    rows.append(Row("learning", "gained_by_learning", round(median(gained)), "bps", {"runs": seeds, "least": round(min(gained))}))
    few = QUICK_FEW if quick else FAILING_SEEDS
    for name, (look, episodes) in FAILING.items():
        failed, _ = shares(few, look, episodes)
        broken = [one for one, target in TARGETS.items()  # a few runs prove nothing by themselves
                  if (failed[one] / few if quick else 1.0 - upper_bound(few - failed[one], few)) > target]
        check(broken, f"a gate that is wrong passes: {name}")
        rows.append(Row("learning", "targets_broken", len(broken), "", {"gate": name, "runs": few, "broken": ", ".join(broken)}))
    few = QUICK_FEW if quick else TURNED_SEEDS
    return [*rows, *_turned(few), *_all_lost(few), *_walked(few)]


def _turned(seeds: int) -> list[Row]:
    """Edges that change: days until what was learned of them is taken back."""
    changes = (("a loser wins", market.SYMBOLS[0], "loses"), ("a loser brings nothing", market.SYMBOLS[1], "loses"),
               ("the winner loses", market.SYMBOLS[2], "wins"))
    took: dict[str, list[float]] = {name: [] for name, _, _ in changes}
    stuck = Counter[str]()
    for seed in range(seeds):
        one = Run(market.play(3_000_000 + seed, 2 * MINUTES, market.EDGES, (market.WINS, market.NOTHING, market.LOSES, *market.EDGES[3:]), MINUTES))
        for name, symbol, direction in changes:
            if one.of("active", direction).get(symbol, MINUTES) < MINUTES:
                if (minute := one.of("rolled_back", direction, after=MINUTES).get(symbol)) is not None:
                    took[name].append((minute - MINUTES) / 1440)
                else:
                    stuck[name] += 1
    return [Row("learning", "rolled_back_after", round(median(days), 1) if days else math.inf, "days",
                {"change": name, "adaptations": len(days) + stuck[name], "longest": round(max(days), 1) if days else None, "never": stuck[name]})
            for name, days in took.items()]


def _all_lost(seeds: int) -> list[Row]:
    """Every coin loses: whether the strategy is found, or its coins one by one before it."""
    resized, coins = [], []
    for seed in range(seeds):
        one = Run(market.play(5_000_000 + seed, MINUTES, (market.LOSES,) * 8))
        resized += [minute / 1440 for minute in one.of("active", "loses", "strategy").values()]
        coins.append(len(one.of("active", "loses")))
    return [Row("learning", "losing_strategy_resized_after", round(median(resized), 1) if resized else math.inf, "days",
                {"runs": seeds, "resized": len(resized), "coins_restricted": round(sum(coins) / seeds, 1)})]


def _walked(seeds: int) -> list[Row]:
    restricted, gained = [], []
    for seed in range(seeds):
        one = Run(market.play(4_000_000 + seed, MINUTES, (market.WALK,) * 8))
        restricted.append(len(one.of("active", "loses")))
        gained.append(one.with_learning - one.without)
    return [Row("learning", "walk_symbols_restricted", sum(restricted) / seeds, "", {"runs": seeds, "of": 8}),
            Row("learning", "walk_gained_by_learning", round(median(gained)), "bps", {"runs": seeds})]
