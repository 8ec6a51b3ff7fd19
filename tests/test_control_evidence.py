"""Evidence that may be looked at after every trade, and the gate that decides on it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.learn.evidence import MOST_AT_ONCE, SHARES, Evidence, span_bps

#: with stop and target of 80 and 160 bps, after 10 bps of costs
LOSS, WIN, SPAN = -90.0, 150.0, 200.0


def fed(evidence: Evidence, results: Iterable[float], span: float = SPAN) -> Evidence:
    """One trade after the other."""
    for number, result in enumerate(results):
        evidence.opened(number, span)
        evidence.closed(number, result)
    return evidence


def drawn(mean_bps: float, count: int, seed: int) -> list[float]:
    """Results whose expectation is that mean."""
    chance = random.Random(seed)
    share = (mean_bps - LOSS) / (WIN - LOSS)
    return [WIN if chance.random() < share else LOSS for _ in range(count)]


@given(st.lists(st.floats(-500, 500), max_size=60), st.sampled_from(["loses", "wins"]), st.floats(-50, 50))
def test_trades_one_after_the_other_are_the_product_of_their_bets(results: list[float], direction: str, margin: float) -> None:
    evidence = fed(Evidence(direction=direction, margin_bps=margin), results)  # type: ignore[arg-type]
    wealth = []
    for share in SHARES:
        value = 1.0
        for result in results:
            gain = (-result if direction == "loses" else result) - margin
            value *= 1.0 + share * min(1.0, max(-1.0, gain / SPAN))
        wealth.append(value)
    assert math.exp(evidence.log_e) == pytest.approx(sum(wealth) / len(SHARES), rel=1e-9)
    assert (evidence.trades, evidence.episodes) == (len(results), len(results))


@pytest.mark.parametrize(("mean_bps", "direction"), [(-50, "loses"), (50, "wins")])
def test_what_is_true_is_believed_within_a_hundred_trades(mean_bps: float, direction: str) -> None:
    reached = [fed(Evidence(direction=direction), drawn(mean_bps, 120, seed)).log_e > math.log(20) for seed in range(100)]  # type: ignore[arg-type]
    assert sum(reached) >= 95


@pytest.mark.parametrize("direction", ["loses", "wins"])
def test_looked_at_after_every_trade_noise_is_believed_less_often_than_alpha(direction: str) -> None:
    def ever(seed: int) -> bool:
        evidence = Evidence(direction=direction)  # type: ignore[arg-type]
        return any(fed(evidence, [result]).log_e >= math.log(20) for result in drawn(0.0, 250, seed))

    assert sum(ever(seed) for seed in range(600)) <= 0.05 * 600


def test_the_opposite_of_what_is_true_is_never_believed() -> None:
    assert all(fed(Evidence(direction="wins"), drawn(-50, 200, seed)).log_e < 0 for seed in range(50))


# ── trades that overlap ──────────────────────────────────────────────────────────────────────────────────────────────
def together(evidence: Evidence, episodes: list[list[float]]) -> Evidence:
    """Each list opens together and closes together."""
    numbers = itertools.count()
    for results in episodes:
        opened = [next(numbers) for _ in results]
        for number in opened:
            evidence.opened(number, SPAN)
        for number, result in zip(opened, results, strict=True):
            evidence.closed(number, result)
    return evidence


def test_trades_that_move_together_are_one_bet() -> None:
    results = drawn(-50, 100, 1)
    one, eight = fed(Evidence(direction="loses"), results), together(Evidence(direction="loses"), [[result] * 8 for result in results])
    assert eight.trades == 800
    assert eight.log_e == pytest.approx(one.log_e, rel=1e-9)


def test_noise_in_clusters_is_believed_less_often_than_alpha() -> None:
    def ever(seed: int) -> bool:
        evidence, chance = Evidence(direction="loses"), random.Random(seed + 1_000_000)
        for result in drawn(0.0, 120, seed):
            copies = 1 + int(chance.random() * 6)
            if together(evidence, [[result] * copies]).log_e >= math.log(20):
                return True
        return False

    assert sum(ever(seed) for seed in range(400)) <= 0.05 * 400


def test_independent_trades_in_one_episode_say_more_than_one_of_them() -> None:
    one, four = [], []
    for seed in range(30):
        results = drawn(-50, 400, seed)
        four.append(together(Evidence(direction="loses"), [results[at: at + 4] for at in range(0, 400, 4)]).log_e)
        one.append(fed(Evidence(direction="loses"), results[::4]).log_e)
    assert sum(four) > 1.5 * sum(one)


def test_an_episode_takes_no_more_than_its_cap_and_lasts_until_those_have_closed() -> None:
    evidence = Evidence(direction="wins")
    for number in range(3):
        evidence.opened(number, SPAN)
    assert (evidence.cap, list(evidence.running)) == (1, [0]), "nothing is known yet of how many come together"
    evidence.closed(1, WIN)
    assert (evidence.trades, evidence.episodes) == (1, 0)
    evidence.closed(0, WIN)
    assert evidence.episodes == 1
    evidence.opened(3, SPAN)
    assert evidence.cap == 3
    evidence.closed(2, WIN)
    assert (evidence.trades, evidence.episodes, list(evidence.running)) == (3, 1, [3])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.floats(-1000, 1000)), max_size=200), st.sampled_from(["loses", "wins"]))
def test_whatever_overlaps_nothing_stays_and_no_wealth_is_gone(steps: list[tuple[bool, float]], direction: str) -> None:
    evidence = Evidence(direction=direction)  # type: ignore[arg-type]
    is_open: list[int] = []
    numbers = itertools.count()
    for opens, result in steps:
        if opens or not is_open:
            is_open.append(number := next(numbers))
            evidence.opened(number, SPAN)
        else:
            evidence.closed(is_open.pop(0), result)
        assert len(evidence.running) <= evidence.cap <= MOST_AT_ONCE
        assert abs(evidence.gains) <= 1.0 + 1e-9
    for number in is_open:
        evidence.closed(number, 0.0)
    assert evidence.running == {}
    assert all(math.isfinite(log) for log in evidence.log_wealth)
    assert evidence.episodes <= evidence.trades


def test_evidence_goes_through_the_store_in_the_middle_of_an_episode() -> None:
    results = drawn(-50, 40, 3)
    straight, stored = Evidence(direction="loses"), Evidence(direction="loses")
    decode = msgspec.json.Decoder(Evidence).decode
    for number, result in enumerate(results):
        straight.opened(number, SPAN)
        stored.opened(number, SPAN)
        stored = decode(msgspec.json.encode(stored))
        straight.closed(number, result)
        stored.closed(number, result)
    assert stored == straight


@pytest.mark.parametrize(("stop", "target", "span"), [(80, 160, 200), (200, 160, 400), (80, 0, 400), (0, 0, 1000), (0, 100, 125)])
def test_the_span_is_known_when_a_trade_opens(stop: float, target: float, span: float) -> None:
    assert span_bps(stop, target) == span


@pytest.mark.parametrize("span", [0.0, -1.0, math.nan])
def test_a_span_that_is_none_is_refused(span: float) -> None:
    with pytest.raises(ValueError, match="span"):
        Evidence(direction="wins").opened(1, span)


@pytest.mark.parametrize("result", [math.nan, math.inf])
def test_a_result_that_is_no_number_is_refused_and_changes_nothing(result: float) -> None:
    evidence = Evidence(direction="wins")
    evidence.opened(1, SPAN)
    with pytest.raises(ValueError, match="result"):
        evidence.closed(1, result)
    assert (evidence.trades, evidence.running) == (0, {1: SPAN})
