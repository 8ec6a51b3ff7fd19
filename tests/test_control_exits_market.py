"""A market in which a farther target truly pays, and one in which no exits do."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from control.learn.exits import VARIANTS, Variant, compared, pair_span_bps, value_of
from control.learn.gate import Step
from control.learn.kinds import Claim, Kind
from control.learn.learner import Learner, Opened, universe
from control.learn.snapshot import Snapshot
from control.think.enforce import enforced
from control.think.exits import moved
from tests.test_control_exits import CAPS, FACTS, MINUTE_NS, NOW, WIDER, condition, learner, market, pair

SIGMA_BPS, COST_BPS, STEPS = 12.0, 10.0, 800
#: log of the wealth at which one of four claims is believed, at their share of α
NEEDED = math.log(4 / 0.004)


def paths(seed: int, trades: int, drift: float) -> Any:
    """Prices in bps behind so many entries, one a row: half of them go one way and half the other, by `drift` standard deviations a minute."""
    chance = np.random.default_rng(seed)
    ways = np.where(chance.random(trades) < 0.5, drift, -drift)
    return np.cumsum(SIGMA_BPS * (chance.standard_normal((trades, STEPS), dtype=np.float32) + ways[:, None].astype(np.float32)), axis=1)


def result(path: Any, stop: float, target: float) -> tuple[float, int]:
    """(bps before costs, minute) of a trade that ends at its level, though the price may be beyond it, or with the last minute."""
    reached = np.flatnonzero((path <= -stop) | (path >= target))
    if not len(reached):
        return float(path[-1]), STEPS
    minute = int(reached[0])
    return (target if path[minute] >= target else -stop), minute + 1


class Play:
    """A strategy in such a market: every condition goes through what was learned, every position has its twin, and all of it is learned."""

    def __init__(self, seed: int, trades: int, drift: float, cost_bps: float = COST_BPS) -> None:
        self.learner = Learner(universe(1, 1, 0, 0))
        self.steps: list[Step] = []
        self.results, self.own = [], []
        now_ns, every = NOW, paths(seed, trades, drift)
        for number in range(trades):
            standing = [one for one in self.learner.standing.values() if one.stage == "active" and one.family == "exits"]
            known = Snapshot({}, standing, now_ns, 1e-8)  # what shuts a coin is proved elsewhere
            (one,) = enforced([condition()], "momentum", known, market(), now_ns, CAPS).conditions
            gained, minutes = result(every[number], one.stop_bps, one.target_bps)
            percents = one.twin_stop_pct or 100, one.twin_target_pct or 100
            beside, later = result(every[number], one.stop_bps * percents[0] / 100, one.target_bps * percents[1] / 100)
            what = compared(one.twin_stop_pct, one.twin_target_pct)
            assert what is not None
            kind, span = Kind("BTC/USDT", "momentum", "buy"), pair_span_bps((80, one.stop_bps), (160, one.target_bps))
            self.learner.opened(2 * number, Opened(kind=kind, opened_ns=now_ns, span_bps=200.0))
            self.learner.opened(2 * number + 1, Opened(kind=kind, opened_ns=now_ns, span_bps=span, made=False,
                                                       exits=value_of("momentum", what.variant.name)))
            ended_ns = now_ns + max(minutes, later) * MINUTE_NS
            self.learner.closed(2 * number, gained - cost_bps, now_ns + minutes * MINUTE_NS)
            self.steps += self.learner.look_if_due()
            self.learner.closed(2 * number + 1, (gained - beside) * (1 if what.adapted else -1), ended_ns)
            self.results.append((gained - cost_bps) * int(one.size.value) / 300)
            self.own.append(result(every[number], 80, 160)[0] - cost_bps)
            now_ns = ended_ns + MINUTE_NS

    def activated(self) -> list[str]:
        return [step.adaptation.value for step in self.steps if (step.adaptation.family, step.adaptation.stage) == ("exits", "active")]


@pytest.mark.timeout(600)
def test_where_a_farther_target_truly_pays_it_is_found_and_profit_rises() -> None:
    found, better = 0, 0
    for seed in range(10):
        run = Play(seed, 700, drift=0.15)
        found += WIDER in run.activated()
        better += sum(run.results) > sum(run.own)
    assert found >= 9
    assert better >= 9


@pytest.mark.timeout(600)
def test_where_prices_have_no_drift_hardly_any_variant_is_ever_applied() -> None:
    """At most 2 % of runs; the share of α that they have is half a percent."""
    assert sum(bool(Play(1_000 + seed, 200, drift=0.0).activated()) for seed in range(200)) <= 4


def test_what_has_paid_and_does_not_any_more_is_taken_back() -> None:
    one = learner(trades_between_looks=10**9)
    steps: list[Step] = []
    for number in range(2_000):
        at = number * 60 * MINUTE_NS
        one.opened(number, pair(WIDER, at))
        won = random.Random(number).random() < (0.9 if number < 600 else 0.5)
        one.closed(number, 80.0 if won else -240.0 if number < 600 else -160.0, at + 30 * MINUTE_NS)
        if number % 10 == 9:
            steps += one.look(at + 31 * MINUTE_NS)
    assert [step.adaptation.stage for step in steps[:3]] == ["shadow", "active", "rolled_back"]


def believed_after(seed: int, pairs: int, restart_minutes: int, at_a_start: str) -> int:
    """How many pairs are counted until a farther target is believed to pay in a market without drift; 0: never. A position at 80 and 160 bps, its
    twin at 240, and a start each so many minutes, at which pairs whose twin is open are dropped, are lost, or go on."""
    chance, one, counted = np.random.default_rng(seed), learner(), 0
    span, claim, now, gone = pair_span_bps((80, 80), (160, 240)), Claim("exits", WIDER, "wins"), 0.0, list[int]()
    for number in range(pairs):
        now += chance.exponential(240.0)
        for lost in gone:  # another takes its place
            (one.lose if at_a_start == "lost" else one.drop)(lost)
        one.opened(number, Opened(kind=Kind("BTC/USDT", "momentum", "buy"), opened_ns=int(now * MINUTE_NS), span_bps=span, made=False, exits=WIDER))
        path = np.cumsum(8.0 * chance.standard_normal(4_000))
        (base, base_min), (twin, twin_min) = (result(path, 80, target) for target in (160, 240))
        start_min = restart_minutes - now % restart_minutes
        gone = [number] if at_a_start != "restored" and twin_min > start_min else []
        now += max(base_min, min(twin_min, start_min) if gone else twin_min)
        if not gone:
            counted += 1
            one.closed(number, twin - base, int(now * MINUTE_NS))
            evidence = one.claims[claim].evidence
            if evidence.most_log_e > NEEDED and evidence.log_e > NEEDED:
                return counted
    return 0


def test_starts_make_nothing_believed_whether_trades_on_paper_go_on_or_are_lost() -> None:
    """Pairs that last are those that a start would leave without a result: to leave them out is no choice by chance."""
    assert 0 < believed_after(1, 3_000, 480, "dropped") < 2_000
    for seed in (1, 2):
        for what in ("lost", "restored"):
            assert believed_after(seed, 3_000, 480, what) == 0, what


def test_no_variant_makes_a_loss_larger() -> None:
    assert all(one.larger == max(1.0, one.percent / 100) for one in VARIANTS.values() if one.level == "stop")
    assert all(one.larger == 1.0 for one in VARIANTS.values() if one.level == "target")
    assert moved(condition(), Variant("none", "stop", 100), FACTS, None) is None
