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

from control.learn.evidence import BLOCK, FEW_HELD, LONGEST_EPISODE_NS, LONGEST_HOLDINGS, MOST_AT_ONCE, MOST_GRIDS, SHARES, Evidence, span_bps

#: with stop and target of 80 and 160 bps, after 10 bps of costs
LOSS, WIN, SPAN = -90.0, 150.0, 200.0


def fed(evidence: Evidence, results: Iterable[float], span: float = SPAN) -> Evidence:
    """One trade after the other."""
    for number, result in enumerate(results):
        evidence.opened(number, span, number)
        evidence.closed(number, result, span, number)
    return evidence


def drawn(mean_bps: float, count: int, seed: int) -> list[float]:
    """Results whose expectation is that mean."""
    chance = random.Random(seed)
    share = (mean_bps - LOSS) / (WIN - LOSS)
    return [WIN if chance.random() < share else LOSS for _ in range(count)]


@given(st.lists(st.floats(-500, 500), max_size=60) | st.lists(st.sampled_from([LOSS, WIN]), min_size=BLOCK, max_size=2 * BLOCK + 20),
       st.sampled_from(["loses", "wins"]), st.floats(-50, 50))
def test_trades_one_after_the_other_are_the_product_of_their_bets(results: list[float], direction: str, margin: float) -> None:
    evidence = fed(Evidence(direction=direction, margin_bps=margin), results)  # type: ignore[arg-type]
    wealth, kept = 0.0, 1.0
    for m, begins in enumerate(range(0, len(results), BLOCK), 1):  # a part of the wealth waits for every block
        grid = []
        for share in SHARES:
            value = 1.0
            for result in results[begins:]:
                gain = (-result if direction == "loses" else result) - margin
                value *= 1.0 + share * min(1.0, max(-1.0, gain / SPAN))
            grid.append(value)
        wealth += sum(grid) / len(SHARES) / (m * (m + 1))
        kept = 1 / (m + 1)
    assert math.exp(evidence.log_e) == pytest.approx(wealth + kept, rel=1e-9)
    assert evidence.log_e <= evidence.most_log_e
    assert (evidence.trades, evidence.episodes) == (len(results), len(results))
    evidence.check()


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
    assert all(fed(Evidence(direction="wins"), drawn(-50, 200, seed)).log_e < 0.3 for seed in range(50))


def test_an_edge_that_begins_late_is_found_nearly_as_soon_as_one_that_was_always_there() -> None:
    def needed(before: int, seed: int) -> int:
        evidence = fed(Evidence(direction="loses"), drawn(0.0, before, seed))
        for number, result in enumerate(drawn(-50, 400, seed + 1000), 1):
            if fed(evidence, [result]).log_e >= math.log(100):
                return number
        return 400

    at_once, late = sorted(needed(0, seed) for seed in range(60)), sorted(needed(300, seed) for seed in range(60))
    assert late[30] < 2.5 * at_once[30]


def test_what_is_said_of_a_late_edge_is_said_of_the_trades_since_it_began() -> None:
    evidence = fed(Evidence(direction="loses"), drawn(30.0, 300, 4))
    for result in drawn(-50.0, 200, 5):
        fed(evidence, [result])
        if evidence.log_e >= math.log(100):
            break
    else:
        raise AssertionError("it was not found")
    assert evidence.best is not evidence.grids[0]
    assert evidence.agrees, "though all trades together have won"
    assert sum(drawn(30.0, 300, 4)) > 0
    assert evidence.mean_bps < -20


def test_a_trade_that_nobody_will_tell_of_is_no_part_of_the_bet() -> None:
    one, other = fed(Evidence(direction="loses"), [LOSS, WIN]), fed(Evidence(direction="loses"), [LOSS, WIN])
    one.opened(7, SPAN, 7)
    one.dropped(7)
    assert (one.log_e, one.trades, one.running) == (other.log_e, other.trades, {})


def test_results_beyond_their_span_count_as_the_span_and_the_plain_ones_are_kept() -> None:
    evidence = fed(Evidence(direction="wins"), [100.0] * 9 + [-2000.0])
    assert (evidence.mean_bps, evidence.best.sum_bps, evidence.best.worst_bps) == (70.0, -1100.0, -2000.0)
    assert not evidence.agrees, "what was limited wins, what was paid loses"
    assert fed(Evidence(direction="loses"), [-50.0]).agrees
    assert not fed(Evidence(direction="wins"), [60.0, 60.0, -70.0]).agrees, "with its worst one counted twice it would not win"
    assert fed(Evidence(direction="wins"), [60.0, 60.0, 60.0, -70.0]).agrees


# ── trades that overlap ──────────────────────────────────────────────────────────────────────────────────────────────
def together(evidence: Evidence, episodes: list[list[float]]) -> Evidence:
    """Each list opens together and closes together."""
    numbers = itertools.count()
    for results in episodes:
        opened = [next(numbers) for _ in results]
        for number in opened:
            evidence.opened(number, SPAN, number)
        for number, result in zip(opened, results, strict=True):
            evidence.closed(number, result, SPAN, number)
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
        evidence.opened(number, SPAN, 0)
    assert (evidence.cap, list(evidence.running)) == (1, [0]), "nothing is known yet of how many come together"
    evidence.closed(1, WIN, SPAN, 1)
    assert (evidence.trades, evidence.episodes) == (1, 0)
    evidence.closed(0, WIN, SPAN, 1)
    assert evidence.episodes == 1
    evidence.opened(3, SPAN, 1)
    assert evidence.cap == 3
    evidence.closed(2, WIN, SPAN, 1)
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
            evidence.opened(number, SPAN, 0)
        else:
            evidence.closed(is_open.pop(0), result, SPAN, 0)
        assert len(evidence.running) <= evidence.cap <= MOST_AT_ONCE
        assert abs(evidence.gains) <= 1.0 + 1e-9
    for number in is_open:
        evidence.closed(number, 0.0, SPAN, 0)
    assert evidence.running == {}
    evidence.check()
    assert evidence.episodes <= evidence.trades


def test_evidence_goes_through_the_store_in_the_middle_of_an_episode() -> None:
    results = drawn(-50, 40, 3)
    straight, stored = Evidence(direction="loses"), Evidence(direction="loses")
    decode = msgspec.json.Decoder(Evidence).decode
    for number, result in enumerate(results):
        straight.opened(number, SPAN, number)
        stored.opened(number, SPAN, number)
        stored = decode(msgspec.json.encode(stored))
        straight.closed(number, result, SPAN, number)
        stored.closed(number, result, SPAN, number)
    assert stored == straight


@pytest.mark.parametrize(("stop", "target", "span"), [(80, 160, 200), (200, 160, 400), (80, 0, 400), (0, 0, 1000), (0, 100, 1000), (0, 2000, 2500)])
def test_the_span_is_known_when_a_trade_opens(stop: float, target: float, span: float) -> None:
    assert span_bps(stop, target) == span


@pytest.mark.parametrize("span", [0.0, -1.0, math.nan, math.inf])
def test_a_span_that_is_none_is_refused(span: float) -> None:
    with pytest.raises(ValueError, match="span"):
        Evidence(direction="wins").opened(1, span, 0)


def test_losses_that_no_stop_limits_are_seen() -> None:
    """Nine of ten win a little at their target, the tenth is held until its time is over."""
    span, chance = span_bps(0, 10), random.Random(1)
    evidence = fed(Evidence(direction="loses"), [-200.0 if chance.random() < 0.1 else 5.0 for _ in range(3000)], span)
    assert evidence.mean_bps < -10
    assert evidence.log_e > 3


def test_an_edge_that_begins_after_years_is_still_found() -> None:
    def needed(before: int) -> int:
        evidence = fed(Evidence(direction="loses"), drawn(0.0, before, 3))
        return next(number for number, result in enumerate(drawn(-50, 2000, 4), 1) if fed(evidence, [result]).log_e >= math.log(100))

    assert needed(5000) < 4 * needed(0)


def test_of_many_grids_the_poorest_is_given_up_and_none_is_gained_by_it() -> None:
    evidence = fed(Evidence(direction="loses"), drawn(0.0, BLOCK * (MOST_GRIDS + 5), 1))
    assert (len(evidence.grids), evidence.begun) == (MOST_GRIDS, MOST_GRIDS + 5)
    numbers = [grid.number for grid in evidence.grids]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == evidence.begun
    evidence.check()


@pytest.mark.parametrize("result", [math.nan, math.inf])
def test_a_result_that_is_no_number_is_refused_and_changes_nothing(result: float) -> None:
    evidence = Evidence(direction="wins")
    evidence.opened(1, SPAN, 0)
    with pytest.raises(ValueError, match="result"):
        evidence.closed(1, result, SPAN, 1)
    assert (evidence.trades, list(evidence.running)) == (0, [1])


# ── trades that stay open ────────────────────────────────────────────────────────────────────────────────────────────
def test_a_trade_that_stays_open_holds_nothing_up_and_counts_as_lost_by_the_gambler() -> None:
    evidence = Evidence(direction="loses")
    evidence.opened(1, SPAN, 0)
    assert evidence.until_ns == LONGEST_EPISODE_NS, "nothing is known yet of how long trades are open"
    evidence.opened(2, SPAN, LONGEST_EPISODE_NS)
    assert (evidence.episodes, list(evidence.running)) == (1, [2])
    assert [grid.logs for grid in evidence.grids] == [[math.log1p(-share) for share in SHARES]]
    evidence.closed(1, -5.0, SPAN, LONGEST_EPISODE_NS + 1)
    assert (evidence.trades, evidence.episodes, list(evidence.running)) == (1, 1, [2]), "its result is known, its bet is over"


def test_an_episode_lasts_some_mean_holding_times() -> None:
    evidence, hour = Evidence(direction="loses"), 3_600_000_000_000
    for number in range(FEW_HELD):
        evidence.opened(number, SPAN, 3 * number * hour)
        evidence.closed(number, LOSS, SPAN, (3 * number + 2) * hour)
    evidence.opened(99, SPAN, 50 * hour)
    assert evidence.until_ns == 50 * hour + LONGEST_HOLDINGS * 2 * hour


@pytest.mark.parametrize("direction", ["loses", "wins"])
def test_a_look_in_the_middle_of_an_episode_counts_what_is_open_as_lost(direction: str) -> None:
    evidence = fed(Evidence(direction=direction), drawn(-50 if direction == "loses" else 50, 60, 1))  # type: ignore[arg-type]
    before = evidence.log_e
    evidence.opened(100, SPAN, 100)
    assert evidence.log_e < before


def test_to_hold_losers_open_gains_nothing() -> None:
    """Winners are closed at once and losers never: who looked at closed trades alone would believe in the edge of noise."""
    believed = 0
    for seed in range(200):
        evidence, now = Evidence(direction="wins"), 0
        for number, result in enumerate(drawn(0.0, 150, seed)):
            now += 3_600_000_000_000
            evidence.opened(number, SPAN, now)
            if result > 0:
                evidence.closed(number, result, SPAN, now + 60_000_000_000)
        believed += evidence.log_e >= math.log(20)
    assert believed <= 0.05 * 200
