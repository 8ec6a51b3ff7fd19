"""What may be changed on the strength of evidence, and for how long. Pure: evidence in, steps of adaptations out.

```
 evidence ──e-BH over all claims of a family──► shadow ──new trades agree──► active ──watched against its forecast──► rolled back
                                                   └──they do not──► rejected
```

- **Believed** are the claims that the e-BH procedure picks (Wang and Ramdas 2022, "False discovery rate control with e-values"): of K claims the k
  largest e-values, with the largest k whose smallest is at least K/(α k). The share of false ones among them is α at most in expectation, however
  the claims depend on each other: symbols that move together need no correction. e-BH picks something only when the mean of the e-values is 1/α,
  so where no trade has an edge little is ever believed. α is divided over the families. K is how many claims of the family there can be (what has
  not been traded has an e-value of 1), and one more for each that began anew. What is bounded is the share at one look, whenever that is; that
  anything at all is ever promoted where nothing has an edge has a probability of K × α/K = α while none begins anew, by Ville's inequality, and of
  α (1 + ln(K'/K)) at most when they are K' in the end: candidates are given up all the time, and after 5,000 it is five times as much.
- **Agreement**: results beyond their span are held to it as evidence. Where that turns a sign, the claim is not put forward (`Evidence.agrees`).
- **Shadow**: believed, and counted on trades that were not there when it was picked; not applied. What they say decides.
- **Watched**: its forecast is the mean result at its promotion. A change is waited for that has brought the mean more than half the way back to 0;
  when it is found the adaptation is rolled back, and what was known of that kind of trades begins anew, in both directions. A claim that was
  rejected begins anew alone.
- **One at a time**: of a strategy's variants of exits one is active; another waits in the shadow, where nothing counts for it meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from control.learn.evidence import Direction, Evidence
from control.learn.kinds import Claim, Family, action

#: share of false promotions that is put up with, by family
ALPHA: Final[dict[Family, float]] = {"coin": 0.02, "strategy": 0.007, "pattern": 0.008, "regime": 0.005, "hour": 0.004, "day": 0.002,
                                      "exits": 0.004}
#: trades without which nothing is promoted, trades in the shadow before it is decided, and at most
LEAST_TRADES, SHADOW_TRADES, MOST_SHADOW_TRADES = 30, 10, 40
#: an adaptation that holds is rolled back by chance after so many episodes on average, or later
FALSE_ALARM_EPISODES: Final = 1000

Stage = Literal["shadow", "active", "rejected", "rolled_back"]
#: stages in which an adaptation is not over
STANDING: Final = ("shadow", "active")


class Adaptation(Struct, kw_only=True):
    """One claim's way through the gate; figures in bps of a trade after costs, times are event times. `trades`, `mean_bps` and `log_e` are
    those of its last promotion, which rests on what closed between `from_ns` and then; `mean_bps` is its forecast; `needed` is what it took to come
    into the shadow. `avoided` is what the trades on paper lost that it kept from being made (quanta, at the size that was asked for), and
    `avoided_trades` how many those were."""

    number: int = 0
    family: Family
    value: str
    direction: Direction
    stage: Stage
    made_ns: int
    since_ns: int
    trades: int
    mean_bps: float
    log_e: float
    needed: float
    from_ns: int = 0
    avoided: int = 0
    avoided_trades: int = 0
    #: of the trades since its stage began
    since: Evidence
    #: the last step, in words with numbers
    why: str = ""

    @property
    def claim(self) -> Claim:
        """What it rests on."""
        return Claim(self.family, self.value, self.direction)

    @property
    def action(self) -> str:
        """What it is called."""
        return action(self.family, self.direction, self.mean_bps, self.value)[0]

    @property
    def scale(self) -> float:
        """By how much it multiplies the size of an entry when it is active."""
        return action(self.family, self.direction, self.mean_bps, self.value)[1]


class Step(NamedTuple):
    """What becomes of an adaptation, and why, in words with numbers."""

    adaptation: Adaptation
    why: str
    #: of the knowledge behind it
    version: int = 0


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


def look(claims: Mapping[Claim, Evidence], standing: Iterable[Adaptation], tested: Mapping[Family, int], now_ns: int,
         alphas: Mapping[Family, float] = ALPHA) -> list[Step]:
    """One look at everything: what is promoted, decided, or rolled back at `now_ns`. `tested` is K of each family."""
    known = {one.claim: one for one in standing}
    steps: list[Step] = []
    for family, alpha in alphas.items():
        # below 1/α an e-value is of no use to any number of others
        promising = {claim: evidence for claim, evidence in claims.items()
                     if claim.family == family and evidence.trades >= LEAST_TRADES and evidence.most_log_e >= -math.log(alpha)
                     and evidence.best.trades >= LEAST_TRADES and evidence.agrees}
        picked, needed = believed({claim: evidence.log_e for claim, evidence in promising.items()}, alpha, tested[family])
        steps += [_promoted(claim, promising[claim], needed, tested[family], now_ns) for claim in sorted(picked - known.keys())]
    taken = {claim.alone for claim, one in known.items() if one.stage == "active"} - {""}
    for claim, one in known.items():
        step = _decide(one, claims.get(claim), now_ns)
        if step is None or (step.adaptation.stage == "active" and claim.alone in taken):
            continue  # its turn comes when the other is over
        if step.adaptation.stage == "active" and claim.alone:
            taken.add(claim.alone)
        steps.append(step)
    return steps


def _promoted(claim: Claim, evidence: Evidence, needed: float, tested: int, now_ns: int) -> Step:
    why = (f"e-value {_e(evidence.log_e)} of {_e(needed)} needed among {tested} claims, {evidence.best.trades} trades, "
           f"mean {evidence.mean_bps:+.1f} bps {claim.measure}")
    made = Adaptation(family=claim.family, value=claim.value, direction=claim.direction, stage="shadow", made_ns=now_ns, since_ns=now_ns,
                      trades=evidence.best.trades, mean_bps=evidence.mean_bps, log_e=evidence.log_e, needed=needed,
                      from_ns=evidence.best.began_ns, why=why,
                      since=Evidence(direction=claim.direction, margin_bps=evidence.margin_bps))
    return Step(made, why)


def _decide(one: Adaptation, evidence: Evidence | None, now_ns: int) -> Step | None:
    since = one.since
    if one.stage == "active":
        if since.log_e < math.log(FALSE_ALARM_EPISODES):
            return None
        return _to(one, "rolled_back", now_ns, f"forecast {one.mean_bps:+.1f} bps a trade {one.claim.measure}, since then "
                                               f"{since.mean_bps:+.1f} in {since.trades} trades: evidence of a change {_e(since.log_e)}")
    if since.trades < SHADOW_TRADES or evidence is None:
        return None
    sign = -1 if one.direction == "loses" else 1
    why = f"in the shadow {since.trades} trades made {since.mean_bps:+.1f} bps each {one.claim.measure}, {one.mean_bps:+.1f} before"
    if evidence.log_e >= one.needed and evidence.agrees and sign * since.mean_bps > max(since.margin_bps, sign * one.mean_bps / 3):
        active = msgspec.structs.replace(one, stage="active", since_ns=now_ns, trades=evidence.best.trades, mean_bps=evidence.mean_bps,
                                         log_e=evidence.log_e, from_ns=evidence.best.began_ns,
                                         since=watch_of(one.direction, evidence.mean_bps), why=why)
        return Step(active, why)
    return _to(one, "rejected", now_ns, why) if since.trades >= MOST_SHADOW_TRADES else None


def _to(one: Adaptation, stage: Stage, now_ns: int, why: str) -> Step:
    return Step(msgspec.structs.replace(one, stage=stage, since_ns=now_ns, why=why), why)


def _e(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700.0)):.3g}"
