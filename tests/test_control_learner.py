"""The learner: which claims a trade speaks to, what a look changes, and that it finds the edges of a market whose edges lie in its prices."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from benchmarks import bench_learning, edges
from control.learn import gate
from control.learn.evidence import Evidence
from control.learn.gate import Adaptation, Step
from control.learn.kinds import BLACKLIST_BPS, FAVOURED, LARGER, MOST_SCALE, REDUCED, Claim, Family, Kind, action, combined
from control.learn.learner import Learner, Open, Opened, Piece, State, universe

HOUR_NS = 3_600_000_000_000
KIND = Kind("BTC/USDT", "momentum", "buy", "breakout", "trend")
POSSIBLE = universe(8, 2, 10, 3)


def trade(kind: Kind = KIND, hour: int = 14, made: bool = True) -> Opened:
    return Opened(kind=kind, opened_ns=hour * HOUR_NS, span_bps=200.0, made=made)


def adaptation(family: str = "coin", value: str = "BTC/USDT", direction: str = "loses", mean_bps: float = -50.0, stage: str = "active") -> Adaptation:
    return Adaptation(family=family, value=value, direction=direction, stage=stage, made_ns=0, since_ns=0, trades=50,  # type: ignore[arg-type]
                      mean_bps=mean_bps, log_e=9.0, needed=8.0, since=Evidence(direction="wins"))


def learner(look: Any = gate.look, every: int = 10, hours: float = 1e6) -> Learner:
    return Learner(POSSIBLE, every, hours, look)


def learner_with(*adaptations: Adaptation) -> Learner:
    """One whose first look gives these, and its later ones nothing."""
    steps = [Step(one, "") for one in adaptations]
    made = learner(lambda *_: [steps.pop(0) for _ in range(len(steps))])
    made.look(1)
    return made


# ── what a trade speaks to ───────────────────────────────────────────────────────────────────────────────────────────
def test_a_trade_speaks_for_and_against_each_of_its_kinds() -> None:
    one = learner()
    one.opened(1, trade())
    one.closed(1, -90.0, 15 * HOUR_NS)
    both = {Claim(family, value, direction) for family, value in (("coin", "BTC/USDT"), ("strategy", "momentum"),  # type: ignore[arg-type]
                                                                  ("pattern", "breakout buy")) for direction in ("loses", "wins")}
    assert {claim for claim, piece in one.claims.items() if piece.evidence.trades == 1} == {
        *both, Claim("regime", "momentum in trend", "loses"), Claim("hour", "14", "loses"), Claim("day", "Thursday", "loses")}


def test_a_condition_without_pattern_and_regime_makes_no_claim_of_them() -> None:
    one = learner()
    one.opened(1, trade(Kind("BTC/USDT", "momentum", "buy")))
    assert {claim.family for claim in one.claims} == {"coin", "strategy", "hour", "day"}


def test_a_trade_speaks_to_what_is_watched_of_its_kind() -> None:
    mine, other = adaptation(), adaptation(value="ETH/USDT")
    one = learner_with(mine, other)
    one.opened(1, trade(made=False))
    one.closed(1, 150.0, 15 * HOUR_NS)
    assert (mine.since.trades, other.since.trades) == (1, 0)


def test_a_trade_that_is_not_made_speaks_to_what_restricts_it_alone() -> None:
    one = learner_with(mine := adaptation())
    one.opened(1, trade(made=False))
    one.closed(1, -90.0, 15 * HOUR_NS)
    assert {claim.family for claim in one.claims} == {"coin"}
    assert mine.since.trades == 1


def test_a_trade_speaks_to_what_there_was_when_it_opened() -> None:
    mine = adaptation(stage="shadow")
    steps = [[Step(mine, "")]]
    one = learner(lambda *_: steps.pop() if steps else [])
    one.opened(1, trade())
    one.look(2)
    one.closed(1, -90.0, 15 * HOUR_NS)
    assert mine.since.trades == 0, "it was there when the claim was picked"


def test_a_trade_does_not_speak_to_what_began_anew_after_it_opened() -> None:
    one = learner_with(adaptation())
    one.opened(1, trade())
    one._look = lambda *_: [Step(msgspec.structs.replace(next(iter(one.standing.values())), stage="rolled_back"), "")]
    one.look(3)
    one._look = lambda *_: []
    one.opened(2, trade())
    one.closed(1, -90.0, 15 * HOUR_NS)
    assert one.claims[Claim("coin", "BTC/USDT", "loses")].evidence.trades == 0
    assert one.claims[Claim("strategy", "momentum", "loses")].evidence.trades == 1
    one.check()


def test_an_hour_has_to_be_worse_than_what_its_strategy_does_in_general() -> None:
    """A strategy that always loses has no bad hours; one hour that is worse than the others is one."""
    one, chance = learner(every=10**9), random.Random(3)
    for number in range(600):
        hour, worse = number % 24, number % 24 == 14
        opened = trade(hour=hour + 24 * (number // 24))
        one.opened(number, opened)
        one.closed(number, (-150.0 if worse else -40.0) + chance.uniform(-20, 20), opened.opened_ns + HOUR_NS // 2)
        one.look_if_due()
    log_e = {claim.value: piece.evidence.log_e for claim, piece in one.claims.items() if claim.family == "hour"}
    assert log_e["14"] == max(log_e.values())
    assert all(value < 1.0 for hour, value in log_e.items() if hour != "14")
    assert one.claims[Claim("strategy", "momentum", "loses")].evidence.log_e > 20


def test_an_hour_that_is_no_worse_than_the_others_any_more_is_opened_again() -> None:
    """Its strategy loses 40 bps a trade all along; hour 14 first 150, later no more than the others."""
    def hours_alone(claims: Mapping[Claim, Evidence], standing: Any, possible: Mapping[Family, int], now_ns: int) -> list[Step]:
        return gate.look({claim: evidence for claim, evidence in claims.items() if claim.family == "hour"}, standing, possible, now_ns)

    one, chance, number = learner(hours_alone), random.Random(5), 0

    def day(worse_bps: float) -> None:
        nonlocal number
        for hour in range(24):
            number += 1
            opened = trade(hour=hour + number // 24 * 24)
            shut = one.scale(opened.kind, opened.opened_ns) == 0.0
            one.opened(number, msgspec.structs.replace(opened, made=not shut))
            mean_bps = worse_bps if hour == 14 else -40.0
            one.closed(number, mean_bps + chance.uniform(-30, 30), opened.opened_ns + HOUR_NS // 2)
            one.look_if_due()

    claim = Claim("hour", "14", "loses")
    for _ in range(120):
        day(-150.0)
    assert one.standing[claim].stage == "active"
    for _ in range(120):
        day(-40.0)
    assert claim not in one.standing
    one.check()


def test_what_a_restriction_has_avoided_is_counted_once_and_for_the_strongest() -> None:
    one = learner_with(mine := adaptation(), hour := adaptation("hour", "14"), reduced := adaptation("strategy", "momentum"))
    for number, (pnl, made) in enumerate(((-500, False), (200, False), (-90, True))):
        one.opened(number, trade(made=made))
        one.closed(number, pnl / 10, 15 * HOUR_NS, pnl)
    assert [(found.avoided, found.avoided_trades) for found in (mine, hour, reduced)] == [(300, 2), (0, 0), (0, 0)]
    assert one.take_changes().adaptations[mine.number].avoided == 300


def test_a_trade_that_the_strongest_restriction_keeps_from_being_made_speaks_to_that_alone() -> None:
    """Else a strategy would stay at half its size for losses of coins that it does not trade any more."""
    one = learner_with(coin := adaptation(), resized := adaptation("strategy", "momentum"), hour := adaptation("hour", "14"))
    one.opened(1, trade(made=False))
    one.closed(1, -90.0, 15 * HOUR_NS)
    assert [found.since.trades for found in (coin, hour, resized)] == [1, 1, 0]
    assert {claim.family for claim in one.claims} == {"coin", "hour"}


def test_a_resize_is_lifted_by_what_is_made_while_what_it_was_for_is_shut() -> None:
    steps = [Step(adaptation(value=value, mean_bps=-50.0), "") for value in "AB"]
    resized = adaptation("strategy", "momentum", mean_bps=-30.0)
    resized.since = gate.watch_of("loses", -30.0)
    steps.append(Step(resized, ""))
    one = Learner(universe(4, 1, 0, 0), 10, 1e6, lambda *given: [steps.pop(0) for _ in range(len(steps))] or gate.look(*given))
    one.look(1)
    chance, now_ns = random.Random(4), HOUR_NS
    for number in range(1, 1200):
        kind, now_ns = Kind("ABCD"[number % 4], "momentum", "buy"), now_ns + HOUR_NS
        won = chance.random() < ((-50.0 if kind.symbol in "AB" else 20.0) + 90.0) / 240.0
        one.opened(number, Opened(kind=kind, opened_ns=now_ns, span_bps=200.0, made=one.scale(kind, now_ns) > 0))
        one.closed(number, 150.0 if won else -90.0, now_ns + HOUR_NS // 4)
        one.look_if_due()
        if resized.claim not in one.standing:
            break
    assert resized.claim not in one.standing
    assert {claim.value for claim in one.standing} >= {"A", "B"}


def test_a_trade_that_has_become_too_small_to_be_made_speaks_to_what_made_it_so() -> None:
    """Else a strategy that is halved below the venue's least order would never be found to win again."""
    one = learner_with(mine := adaptation("strategy", "momentum"))
    one.opened(1, trade(made=False))
    one.closed(1, 150.0, 15 * HOUR_NS)
    assert (mine.since.trades, {claim.family for claim in one.claims}) == (1, {"strategy"})


def test_an_opening_that_is_told_twice_counts_once() -> None:
    one = learner()
    for _ in range(2):
        one.opened(1, trade())
    assert {piece.evidence.opened_in_all for piece in one.claims.values()} == {1}


def test_an_end_that_nobody_saw_begin_is_passed_over() -> None:
    one = learner()
    one.closed(7, -90.0, HOUR_NS)
    assert (one.claims, one.state.since_look) == ({}, 0)


def looked(hours: float = 1.0) -> tuple[Learner, list[int]]:
    """One that looks whenever it is due, as reflection does, and the times at which it has."""
    looks: list[int] = []

    def look(claims: Any, standing: Any, tested: Any, now_ns: int) -> list[Step]:
        looks.append(now_ns)
        return []

    return learner(look, hours=hours), looks


def test_a_look_comes_after_so_many_trades_after_so_many_hours_and_at_a_word() -> None:
    one, looks = looked()

    def closes(number: int, now_ns: int) -> None:
        one.opened(number, trade())
        one.closed(number, -90.0, now_ns)
        one.look_if_due()

    for number in range(25):
        closes(number, number + 1)
    assert looks == [10, 20]
    one.look(99)
    for number in range(25, 35):
        closes(number, number + 100)
    assert looks == [10, 20, 99, 134]
    closes(99, 134 + HOUR_NS)
    assert looks[-1] == 134 + HOUR_NS


def test_a_look_comes_after_so_many_hours_though_no_other_trade_closes() -> None:
    one, looks = looked()
    one.opened(1, trade())
    one.closed(1, -90.0, 5)
    for now_ns in (6, 4 + HOUR_NS, 5 + HOUR_NS, 9 + HOUR_NS):
        one.passes(now_ns)
        one.look_if_due()
    assert looks == [5 + HOUR_NS], "an hour after the first trade, and not again before another one has closed"


def test_what_is_due_is_looked_at_as_of_then_whenever_that_is_done() -> None:
    one, looks = looked()
    for number in range(12):
        one.opened(number, trade())
        one.closed(number, -90.0, number + 1)
    assert (looks, one.state.due_ns) == ([], 10)
    another, later = looked()
    another.restore(one.state, one.claims, one.open, [])
    another.look_if_due()
    assert (later, another.state.due_ns, another.look_if_due()) == ([10], 0, [])


# ── what an adaptation does ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("adaptations", "scale"), [
    ([], 1.0), ([adaptation()], 0.0), ([adaptation(mean_bps=BLACKLIST_BPS + 1)], REDUCED),
    ([adaptation(direction="wins", mean_bps=50)], FAVOURED), ([adaptation(value="ETH/USDT")], 1.0), ([adaptation(stage="shadow")], 1.0),
    ([adaptation("hour", "14")], 0.0), ([adaptation("hour", "15")], 1.0), ([adaptation("strategy", "momentum")], REDUCED),
    ([adaptation("strategy", "other")], 1.0), ([adaptation("strategy", "momentum", "wins", 50.0)], LARGER),
    ([adaptation("pattern", "breakout buy")], 0.0), ([adaptation("pattern", "breakout sell")], 1.0),
    ([adaptation("pattern", "breakout buy", "wins", 50.0)], LARGER), ([adaptation("regime", "momentum in trend")], 0.0),
    ([adaptation("regime", "momentum in range")], 1.0), ([adaptation(direction="wins", mean_bps=50), adaptation("hour", "14")], 0.0),
    ([adaptation(direction="wins", mean_bps=50), adaptation("pattern", "breakout buy", "wins", 50.0)], FAVOURED)],
    ids=["nothing", "blacklisted", "reduced", "favoured", "another coin", "in the shadow", "its hour", "another hour", "its strategy",
         "another strategy", "a good strategy", "its pattern", "the pattern's other side", "a good pattern", "its regime", "another regime",
         "a restriction comes first", "favours are not multiplied"])
def test_the_size_of_an_entry_follows_from_what_is_active(adaptations: list[Adaptation], scale: float) -> None:
    assert learner_with(*adaptations).scale(KIND, 14 * HOUR_NS) == scale


def test_no_factor_is_above_the_largest() -> None:
    every = [action(family, direction, mean)[1] for family in gate.ALPHA for direction in ("loses", "wins")  # type: ignore[arg-type]
             for mean in (-100.0, -1.0, 100.0)]
    assert max(every) == MOST_SCALE
    assert min(every) == 0.0
    assert max(combined(random.Random(seed).choices(every, k=5)) for seed in range(500)) <= MOST_SCALE


def test_a_rejected_claim_begins_anew_alone() -> None:
    """A favour that does not hold in the shadow must not lift the blacklist of the same coin."""
    one = learner_with(adaptation(), adaptation(direction="wins", mean_bps=40.0, stage="shadow"))
    one.opened(1, trade(made=False))
    wins = one.standing[Claim("coin", "BTC/USDT", "wins")]
    one._look = lambda *_: [Step(msgspec.structs.replace(wins, stage="rejected"), "it did not hold")]
    assert [step.adaptation.stage for step in one.look(3)] == ["rejected"]
    assert [found.direction for found in one.standing.values()] == ["loses"]
    assert one.scale(KIND, 14 * HOUR_NS) == 0.0
    assert Claim("coin", "BTC/USDT", "loses") in one.claims
    one.check()


def test_every_step_is_told_with_the_version_behind_it() -> None:
    one = learner_with(adaptation(), adaptation(direction="wins", mean_bps=40.0))
    assert one.state.version == 2
    loses = one.standing[Claim("coin", "BTC/USDT", "loses")]
    one._look = lambda *_: [Step(msgspec.structs.replace(loses, stage="rolled_back"), "it turned"),
                            Step(msgspec.structs.replace(one.standing[Claim("coin", "BTC/USDT", "wins")], stage="rolled_back"), "it, too")]
    told = one.look(3)
    assert [(step.adaptation.direction, step.adaptation.stage, step.version) for step in told] == [
        ("loses", "rolled_back", 3), ("wins", "rolled_back", 4)], "the second step came too late: its twin's end is told once"
    one.check()


def test_of_more_values_than_were_thought_possible_each_counts() -> None:
    tested: list[int] = []

    def look(claims: object, standing: object, possible: Mapping[Family, int], now_ns: int) -> list[Step]:
        tested.append(possible["pattern"])
        return []

    one = Learner(universe(1, 1, 0, 0), look=look)
    for number in range(30):
        one.opened(number, trade(Kind("A/USDT", "s", "buy", f"rsi {number}", "")))
    one.look(1)
    assert tested == [60]


def test_what_is_rolled_back_begins_anew_in_both_directions_and_still_counts_as_tested() -> None:
    one = learner_with(adaptation(), adaptation(direction="wins", mean_bps=40.0, stage="shadow"))
    for number in range(5):
        one.opened(number, trade())
        one.closed(number, -90.0, number)
    loses = one.standing[Claim("coin", "BTC/USDT", "loses")]
    one._look = lambda *_: [Step(msgspec.structs.replace(loses, stage="rolled_back"), "it turned")]
    tested: list[int] = []
    one.look(6)
    assert one.standing == {}
    assert {claim.family for claim in one.claims} == {"strategy", "pattern", "regime", "hour", "day"}
    assert (one.state.ended, one.state.version) == ({"coin": 2}, 2)
    assert {number: found.stage for number, found in one.take_changes().adaptations.items()} == {1: "rolled_back", 2: "rejected"}
    one._look = lambda claims, standing, every, now_ns: tested.append(every["coin"]) or []
    one.look(7)
    assert tested == [POSSIBLE["coin"] + 2]
    one.check()


# ── keeping it ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Kept:
    """What a store would have: every change applied, everything through JSON."""

    def __init__(self) -> None:
        self.claims: dict[Claim, bytes] = {}
        self.opened: dict[int, bytes] = {}
        self.adaptations: dict[int, tuple[bytes, int]] = {}
        self.state = b""

    def take(self, one: Learner) -> None:
        changes = one.take_changes()
        for mine, found in ((self.claims, changes.claims), (self.opened, changes.opened)):
            for key, value in found.items():
                if value is None:
                    mine.pop(key, None)  # type: ignore[call-overload]
                else:
                    mine[key] = msgspec.json.encode(value)  # type: ignore[index]
        for number, found in changes.adaptations.items():
            self.adaptations[number] = msgspec.json.encode(found), one.since_birth(number)
        self.state = msgspec.json.encode(one.state)

    def restored(self) -> Learner:
        standing = [(msgspec.json.decode(text, type=Adaptation), birth) for text, birth in self.adaptations.values() if birth]
        again = learner()
        again.restore(msgspec.json.decode(self.state, type=State),
                      {claim: msgspec.json.decode(text, type=Piece) for claim, text in self.claims.items()},
                      {number: msgspec.json.decode(text, type=Open) for number, text in self.opened.items()}, standing)
        return again


def test_one_that_is_stored_and_restored_all_the_time_learns_the_same() -> None:
    chance = random.Random(5)
    straight, stored, kept = learner(), learner(), Kept()
    is_open: list[tuple[int, float]] = []
    made: list[tuple[list[Any], list[Any]]] = []

    def told(steps: list[Step]) -> list[Any]:
        return [(step.adaptation.claim, step.adaptation.stage, step.why) for step in steps]

    for number in range(1500):
        kind = Kind(chance.choice(["A/USDT", "B/USDT", "C/USDT"]), "momentum", "buy", chance.choice(["", "breakout"]), "trend")
        mean = {"A/USDT": -60, "B/USDT": 60 if number < 900 else -60}.get(kind.symbol, 0)
        result = 150.0 if chance.random() < (mean + 90) / 240 else -90.0
        now = number * 60_000_000_000
        for one in (straight, stored):
            one.opened(number, Opened(kind=kind, opened_ns=now, span_bps=200.0, made=one.scale(kind, now) > 0))
        is_open.append((number, result))
        while len(is_open) > chance.randrange(4):
            position, gain = is_open.pop(0)
            for one in (straight, stored):
                one.closed(position, gain, now)
            made.append((told(straight.look_if_due()), told(stored.look_if_due())))
        if number % 7 == 0:
            kept.take(stored)
            stored = kept.restored()
    for mine, other in made:
        assert mine == other
    assert {"shadow", "active", "rolled_back"} <= {stage for steps, _ in made for _, stage, _ in steps}
    assert (stored.state, stored.claims, stored.open, stored.standing) == (straight.state, straight.claims, straight.open, straight.standing)
    straight.check()


@pytest.mark.parametrize("fault", ["a birth twice", "an adaptation that is over", "wealth that is none", "a birth that never was"])
def test_parts_that_contradict_each_other_are_refused(fault: str) -> None:
    one, kept = learner_with(adaptation()), Kept()
    one.opened(1, trade(made=False))
    kept.take(one)
    piece = msgspec.json.decode(kept.claims[Claim("coin", "BTC/USDT", "wins")], type=Piece)
    found, birth = kept.adaptations[1]
    match fault:
        case "a birth twice":
            kept.adaptations[1] = found, piece.birth
        case "an adaptation that is over":
            kept.adaptations[1] = found.replace(b'"stage":"active"', b'"stage":"rejected"'), birth
        case "wealth that is none":
            piece.evidence.grids[0].logs = [0.0]
        case _:
            piece.birth = 99
    kept.claims[Claim("coin", "BTC/USDT", "wins")] = msgspec.json.encode(piece)
    with pytest.raises(ValueError, match=r"cannot|births|standing"):
        kept.restored()


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


@pytest.mark.timeout(900)
def test_twenty_seeds_of_the_learning_proof() -> None:
    found = bench_learning.run(quick=True)
    rows = {(row.metric, row.params.get("gate", "")): row for row in found}
    assert rows["loser_not_restricted", ""].params["hits"] <= 2
    for name in ("activation_without_edge", "symbol_without_edge_shut"):
        assert rows[name, ""].params["hits"] <= 2
    assert rows["not_better_than_control", ""].params["hits"] <= 1
    assert all(rows["targets_broken", gate].value >= 1 for gate in bench_learning.FAILING)
    assert all(row.params["never"] == 0 for row in found if row.metric == "rolled_back_after" and row.params["change"] != "a loser brings nothing")
