"""What may be changed on the strength of evidence, and for how long. Pure: evidence in, steps of adaptations out.

```
 evidence ──e-BH over all claims of a family──► shadow ──new trades agree──► active ──watched against its forecast──► rolled back
                                                   └──they do not──► rejected
```

- **Believed** are the claims that the e-BH procedure picks (Wang and Ramdas 2022, "False discovery rate control with e-values"): of K claims the k
  largest e-values, with the largest k whose smallest is at least K/(α k). The share of false ones among them is α at most in expectation, however
  the claims depend on each other: symbols that move together need no correction. e-BH picks something only when the mean of the e-values is 1/α,
  so where no trade has an edge little is ever believed; over many looks α is approximate, see docs/learning.md. α is divided over the
  families, K counts every claim that a trade has ever spoken for or against.
- **Shadow**: believed, and counted on trades that were not there when it was picked; not applied. What they say decides.
- **Watched**: its forecast is the mean result at its promotion. A change is waited for that has brought the mean more than half the way back to 0;
  when it is found the adaptation is rolled back, and what was known of that kind of trades begins anew. A rolled back claim is one more claim
  that was tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from control.learn.evidence import Direction, Evidence

#: share of false promotions that is put up with, by family
ALPHA: Final = {"coin": 0.02, "strategy": 0.008, "pattern": 0.008, "regime": 0.007, "hour": 0.007}
#: trades without which nothing is promoted, trades in the shadow before it is decided, and at most
LEAST_TRADES, SHADOW_TRADES, MOST_SHADOW_TRADES = 30, 10, 40
#: an adaptation that holds is rolled back by chance after so many episodes on average, or later
FALSE_ALARM_EPISODES: Final = 1000

Stage = Literal["shadow", "active", "rejected", "rolled_back"]


class Claim(NamedTuple):
    """Trades of this kind (a family and its value: coin BTC/USDT, hour 14) lose, or win, by more than the margin."""

    family: str
    value: str
    direction: Direction


class Adaptation(Struct, kw_only=True):
    """One claim's way through the gate; figures in bps of a trade after costs. `trades`, `mean_bps` and `log_e` are
    those of its last promotion, and `mean_bps` is its forecast; `needed` is what it took to come into the shadow."""

    family: str
    value: str
    direction: Direction
    stage: Stage
    since_ns: int
    trades: int
    mean_bps: float
    log_e: float
    needed: float
    #: of the trades since its stage began
    since: Evidence

    @property
    def claim(self) -> Claim:
        """What it rests on."""
        return Claim(self.family, self.value, self.direction)


class Step(NamedTuple):
    """What becomes of an adaptation, and why, in words with numbers."""

    adaptation: Adaptation
    why: str


def believed(log_e: Mapping[Claim, float], alpha: float, tested: int) -> tuple[set[Claim], float]:
    """(the claims that e-BH picks at `alpha` of so many `tested`, the log e-value that the last of them had to reach)."""
    ranked = sorted(log_e.items(), key=lambda item: -item[1])
    for k in range(len(ranked), 0, -1):
        needed = math.log(tested / (alpha * k))
        if ranked[k - 1][1] >= needed:
            return {claim for claim, _ in ranked[:k]}, needed
    return set(), math.log(tested / alpha) if tested else math.inf


def watch_of(direction: Direction, forecast_bps: float) -> Evidence:
    """Evidence of a change: that the mean has moved more than half the way from its forecast to 0."""
    opposite: Direction = "wins" if direction == "loses" else "loses"
    half = forecast_bps / 2
    return Evidence(direction=opposite, margin_bps=half if opposite == "wins" else -half, restarts=True)


def look(claims: Mapping[Claim, Evidence], adaptations: Iterable[Adaptation], ended: Mapping[str, int], now_ns: int,
         alphas: Mapping[str, float] = ALPHA) -> list[Step]:
    """One look at everything: what is promoted, decided, or rolled back at `now_ns`. `ended` counts by family the claims that were tested and have
    begun anew since."""
    standing = {one.claim: one for one in adaptations if one.stage in ("shadow", "active")}
    steps: list[Step] = []
    for family, alpha in alphas.items():
        mine = {claim: evidence for claim, evidence in claims.items() if claim.family == family}
        tested = len(mine) + ended.get(family, 0)
        enough = {claim: evidence.log_e for claim, evidence in mine.items() if evidence.trades >= LEAST_TRADES}
        picked, needed = believed(enough, alpha, tested)
        for claim in sorted(picked - standing.keys()):
            evidence = mine[claim]
            made = Adaptation(family=family, value=claim.value, direction=claim.direction, stage="shadow", since_ns=now_ns,
                              trades=evidence.trades, mean_bps=evidence.mean_bps, log_e=evidence.log_e, needed=needed,
                              since=Evidence(direction=claim.direction, margin_bps=evidence.margin_bps))
            steps.append(Step(made, f"e-value {_e(evidence.log_e)} of {_e(needed)} needed among {tested} claims, {evidence.trades} trades, "
                                    f"mean {evidence.mean_bps:+.1f} bps"))
    for claim, one in standing.items():
        if step := _decide(one, claims.get(claim), now_ns):
            steps.append(step)
    return steps


def _decide(one: Adaptation, evidence: Evidence | None, now_ns: int) -> Step | None:
    since = one.since
    if one.stage == "active":
        if since.log_e < math.log(FALSE_ALARM_EPISODES):
            return None
        return Step(_to(one, "rolled_back", now_ns), f"forecast {one.mean_bps:+.1f} bps a trade, since then {since.mean_bps:+.1f} in "
                                                     f"{since.trades} trades: evidence of a change {_e(since.log_e)}")
    if since.trades < SHADOW_TRADES or evidence is None:
        return None
    sign = -1 if one.direction == "loses" else 1
    why = f"in the shadow {since.trades} trades made {since.mean_bps:+.1f} bps each, {one.mean_bps:+.1f} before"
    if evidence.log_e >= one.needed and sign * since.mean_bps > max(since.margin_bps, sign * one.mean_bps / 3):
        active = msgspec.structs.replace(one, stage="active", since_ns=now_ns, trades=evidence.trades, mean_bps=evidence.mean_bps,
                                         log_e=evidence.log_e, since=watch_of(one.direction, evidence.mean_bps))
        return Step(active, why)
    if since.trades >= MOST_SHADOW_TRADES:
        return Step(_to(one, "rejected", now_ns), why)
    return None


def _to(one: Adaptation, stage: Stage, now_ns: int) -> Adaptation:
    return msgspec.structs.replace(one, stage=stage, since_ns=now_ns)


def _e(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700.0)):.3g}"
