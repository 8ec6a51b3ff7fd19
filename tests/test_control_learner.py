"""The learner: which claims a trade speaks to, what a look changes, and that it finds the edges of a market whose edges lie in its prices."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import bench_learning, edges
from control.learn.evidence import Evidence
from control.learn.gate import Adaptation, Claim, Step
from control.learn.learner import BLACKLIST_BPS, FAVOURED, REDUCED, Learner, Opened

HOUR_NS = 3_600_000_000_000


def trade(symbol: str = "BTC/USDT", hour: int = 14) -> Opened:
    return Opened(symbol, "momentum", hour * HOUR_NS, 200.0)


def active(family: str = "coin", value: str = "BTC/USDT", direction: str = "loses", mean_bps: float = -50.0, stage: str = "active") -> Adaptation:
    return Adaptation(family=family, value=value, direction=direction, stage=stage, since_ns=0, trades=50, mean_bps=mean_bps,  # type: ignore[arg-type]
                      log_e=9.0, needed=8.0, since=Evidence(direction="wins"))


def learner_with(*adaptations: Adaptation) -> Learner:
    made = Learner()
    made.standing = {one.claim: one for one in adaptations}
    return made


# ── what a trade speaks to ───────────────────────────────────────────────────────────────────────────────────────────
def test_a_trade_speaks_for_and_against_its_coin_its_strategy_and_its_hour() -> None:
    learner = Learner()
    learner.opened(1, trade())
    learner.closed(1, -90.0, 15 * HOUR_NS)
    assert {claim for claim, evidence in learner.claims.items() if evidence.trades == 1} == {
        Claim(family, value, direction) for family, value in (("coin", "BTC/USDT"), ("strategy", "momentum"), ("hour", "14"))
        for direction in ("loses", "wins")}


def test_a_trade_speaks_to_what_is_watched_of_its_kind() -> None:
    one, other = active(), active(value="ETH/USDT")
    learner = learner_with(one, other)
    learner.opened(1, trade())
    learner.closed(1, 150.0, 15 * HOUR_NS)
    assert (one.since.trades, other.since.trades) == (1, 0)


def test_a_trade_that_is_not_made_speaks_to_what_restricts_it_alone() -> None:
    learner = learner_with(active())
    learner.opened(1, trade())
    learner.closed(1, -90.0, 15 * HOUR_NS)
    assert {claim.family for claim in learner.claims} == {"coin"}
    assert learner.standing[active().claim].since.trades == 1


def test_a_trade_speaks_to_what_there_was_when_it_opened() -> None:
    learner = Learner(look=lambda *_: [])
    learner.opened(1, trade())
    one = active(stage="shadow")
    learner.standing[one.claim] = one
    learner.closed(1, -90.0, 15 * HOUR_NS)
    assert one.since.trades == 0, "it was there when the claim was picked"


def test_an_opening_that_is_told_twice_counts_once() -> None:
    learner = Learner()
    for _ in range(2):
        learner.opened(1, trade())
    assert {evidence.opened_in_all for evidence in learner.claims.values()} == {1}


def test_an_end_that_nobody_saw_begin_is_passed_over() -> None:
    learner = Learner()
    assert learner.closed(7, -90.0, HOUR_NS) == []
    assert learner.claims == {}


def test_a_look_comes_after_so_many_trades_and_at_a_word() -> None:
    looks: list[int] = []

    def look(claims: Any, standing: Any, ended: Any, now_ns: int) -> list[Step]:
        looks.append(now_ns)
        return []

    learner = Learner(10, look)
    for number in range(25):
        learner.opened(number, trade())
        learner.closed(number, -90.0, number)
    assert looks == [9, 19]
    learner.look(99)
    for number in range(25, 35):
        learner.opened(number, trade())
        learner.closed(number, -90.0, number)
    assert looks == [9, 19, 99, 34]


# ── what an adaptation does ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("adaptations", "scale"), [
    ([], 1.0), ([active()], 0.0), ([active(mean_bps=BLACKLIST_BPS + 1)], REDUCED), ([active(direction="wins", mean_bps=50)], FAVOURED),
    ([active(value="ETH/USDT")], 1.0), ([active(stage="shadow")], 1.0), ([active("hour", "14")], 0.0), ([active("hour", "15")], 1.0),
    ([active("strategy", "momentum")], 0.0), ([active("strategy", "other")], 1.0), ([active("hour", "14", "wins", 50.0)], 1.0),
    ([active(direction="wins", mean_bps=50), active("hour", "14")], 0.0)],
    ids=["nothing", "blacklisted", "reduced", "favoured", "another coin", "in the shadow", "its hour", "another hour", "its strategy",
         "another strategy", "a good hour", "a restriction comes first"])
def test_the_size_of_an_entry_follows_from_what_is_active(adaptations: list[Adaptation], scale: float) -> None:
    assert learner_with(*adaptations).scale("BTC/USDT", "momentum", 14 * HOUR_NS) == scale


def test_what_is_rolled_back_begins_anew_and_still_counts_as_tested() -> None:
    learner = Learner(look=lambda *_: [])
    for number in range(5):
        learner.opened(number, trade())
        learner.closed(number, -90.0, number)
    one = active()
    learner.standing[one.claim] = one
    learner._look = lambda *_: [Step(active(stage="rolled_back"), "it turned")]
    learner.look(6)
    assert learner.standing == {}
    assert not {claim for claim in learner.claims if claim.family == "coin"}
    assert {claim.family for claim in learner.claims} == {"strategy", "hour"}
    assert (learner.ended, learner.version) == ({"coin": 2}, 1)


# ── the market whose edges lie in its prices ─────────────────────────────────────────────────────────────────────────
def test_the_bound_is_the_one_of_clopper_and_pearson() -> None:
    for hits, count in ((0, 20), (12, 400), (29, 400), (3, 10)):
        bound = bench_learning.upper_bound(hits, count)
        at_most = sum(math.comb(count, k) * bound**k * (1 - bound) ** (count - k) for k in range(hits + 1))
        assert at_most == pytest.approx(0.05, abs=1e-6)
    assert bench_learning.upper_bound(12, 400) <= 0.05 < bench_learning.upper_bound(13, 400)
    assert bench_learning.upper_bound(29, 400) <= 0.10 < bench_learning.upper_bound(31, 400)
    assert bench_learning.upper_bound(5, 5) == 1.0


def test_trades_of_the_market_end_at_a_level_or_in_time_and_do_not_overlap_in_one_symbol() -> None:
    trades = edges.play(3, 20_000)
    assert len(trades.symbol) > 200
    levels = {-edges.STOP_BPS - edges.COST_BPS, edges.TARGET_BPS - edges.COST_BPS}
    late = trades.closed - trades.opened >= edges.MOST_MINUTES
    assert all(result in levels for result in trades.net_bps[~late].tolist())
    for symbol in range(8):
        mine = trades.symbol == symbol
        assert (trades.opened[mine][1:] > trades.closed[mine][:-1]).all()


def test_the_same_seed_is_the_same_market_whatever_its_edges_are() -> None:
    one, two = edges.play(3, 5_000), edges.play(3, 5_000)
    assert all((mine == other).all() for mine, other in zip(one, two, strict=True))
    assert sum(edges.play(3, 50_000, (edges.WINS,) * 8).net_bps > 0) > sum(edges.play(3, 50_000, (edges.LOSES,) * 8).net_bps > 0)


def test_twenty_seeds_of_the_learning_proof() -> None:
    rows = {(row.metric, row.params.get("gate", "")): row for row in bench_learning.run(quick=True)}
    assert rows["loser_not_restricted", ""].params["hits"] <= 2
    for name in ("activation_without_edge", "symbol_without_edge_shut"):
        assert rows[name, ""].params["hits"] <= 2
    assert rows["not_better_than_control", ""].params["hits"] <= 1
    assert all(rows["targets_broken", gate].value >= 1 for gate in bench_learning.FAILING)
    assert rows["rolled_back_after", ""].params["never"] == 0
