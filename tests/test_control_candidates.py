"""Candidates: what winning trades have in common is put forward, proves itself on later trades or not, and makes room again."""

from __future__ import annotations

import random

import pytest

from control.learn.candidates import LEAST_SEEN, LONGEST_NS, MOST_CANDIDATES, MOST_OF_ONE, MOST_TRIED, WINDOW, Seen, found_in, names_of, traits_of
from control.learn.gate import STANDING
from control.learn.kinds import FAMILIES, HOUR_NS, Claim, Kind
from control.learn.learner import Learner, Opened, universe

COINS, REGIMES, SIDES = ("A/USDT", "B/USDT", "C/USDT", "D/USDT"), ("trend", "range"), ("buy", "sell")
GOOD = "momentum: side buy + regime trend"


def test_traits_are_what_is_known_before_an_entry() -> None:
    kind = Kind("A/USDT", "momentum", "buy", "breakout", "trend")
    assert traits_of(kind, 14 * HOUR_NS) == ("side buy", "coin A/USDT", "12–16 h", "weekday", "pattern breakout", "regime trend")
    assert traits_of(Kind("A/USDT", "momentum", "sell"), 50 * HOUR_NS) == ("side sell", "coin A/USDT", "00–04 h", "weekend")
    assert len(names_of(kind, 0)) == 15
    assert GOOD in names_of(kind, 0)
    assert GOOD not in names_of(kind._replace(strategy="other"), 0)


def seen(number: int, traits: tuple[str, ...], net_bps: float) -> Seen:
    return Seen(number, number, traits, net_bps)


def window(good_bps: float = 60.0, other_bps: float = -20.0, count: int = 160) -> list[Seen]:
    """Trades of two sides and two regimes in turn; where both are good each makes so much."""
    found = []
    for number in range(count):
        traits = (f"side {SIDES[number % 2]}", f"regime {REGIMES[number // 2 % 2]}")
        good = traits == ("side buy", "regime trend")
        found.append(seen(number, traits, (good_bps if good else other_bps) + (number % 7 - 3)))
    return found


def test_the_pair_whose_trades_stand_out_is_found_with_what_it_was_made_of() -> None:
    name, made = found_in("momentum", window(), (), 9) or ("", None)
    assert name == GOOD
    assert made is not None
    assert (made.made_ns, made.trades, made.wins, made.first, made.last) == (9, 40, 40, 0, 156)
    assert made.mean_bps == pytest.approx(60.0, abs=0.5)


@pytest.mark.parametrize(("trades", "taken"), [
    (window()[:LEAST_SEEN - 1], ()), (window(), (GOOD,)), (window(-5.0, -20.0), ()), (window(-20.0, -20.0), ()), ([], ()),
    ([seen(number, ("side buy", "regime trend"), 50.0) for number in range(100)], ()),
    ([seen(number, ("side buy", "regime trend" if number % 2 else "regime range"), 50.0 if number % 2 else -50.0) for number in range(100)], ())],
    ids=["few trades", "already there", "it loses, too", "nothing stands out", "no trades", "there are no others", "one trait says as much"])
def test_what_does_not_stand_out_or_is_there_already_is_not_put_forward(trades: list[Seen], taken: tuple[str, ...]) -> None:
    assert found_in("momentum", trades, taken, 9) is None


class Bench:
    """A learner fed with trades of one strategy in which one pair is worth so much, and the others something else."""

    def __init__(self, seed: int) -> None:
        self.chance, self.learner, self.number = random.Random(seed), Learner(universe(4, 1, 0, 2)), 0
        self.steps: list[tuple[int, str, str, str]] = []

    def trade(self, good_bps: float, other_bps: float) -> None:
        chance, self.number = self.chance, self.number + 1
        kind = Kind(chance.choice(COINS), "momentum", chance.choice(SIDES), "", chance.choice(REGIMES))
        opened_ns = self.number * HOUR_NS
        mean_bps = good_bps if (kind.side, kind.regime) == ("buy", "trend") else other_bps
        result = 150.0 if chance.random() < (mean_bps + 90) / 240 else -90.0
        self.learner.opened(self.number, Opened(kind=kind, opened_ns=opened_ns, span_bps=200.0))
        self.learner.remember(kind, opened_ns, opened_ns + HOUR_NS // 2, self.number, result)
        self.learner.closed(self.number, result, opened_ns + HOUR_NS // 2)
        for step in self.learner.look_if_due():
            self.steps.append((self.number, step.adaptation.family, step.adaptation.value, step.adaptation.stage))


def test_a_pattern_that_truly_wins_is_found_by_later_trades_and_one_that_was_luck_is_not() -> None:
    true, luck = 0, 0
    for seed in range(12):
        bench = Bench(seed)
        for _ in range(1500):
            bench.trade(70.0, -10.0)
        bench.learner.check()
        true += any(value == GOOD and stage == "active" for _, _, value, stage in bench.steps)
        luck += any(family == "pattern" and value != GOOD and "trend" not in value and stage == "active" for _, family, value, stage in bench.steps)
    assert true >= 10
    assert luck <= 1


def test_without_an_edge_hardly_anything_that_was_made_is_believed() -> None:
    believed, made = 0, 0
    for seed in range(60):
        bench = Bench(1000 + seed)
        for _ in range(600):
            bench.trade(0.0, 0.0)
        made += bool(bench.learner.state.candidates or bench.learner.state.ended.get("pattern"))
        believed += any(family == "pattern" and stage == "active" for _, family, _, stage in bench.steps)
    assert made > 30, "noise makes candidates all the time"
    assert believed <= 1


def test_nothing_that_a_candidate_was_made_of_counts_for_it() -> None:
    bench = Bench(1)
    while not bench.learner.state.candidates:
        bench.trade(70.0, -10.0)
    (name, made), *_ = bench.learner.state.candidates.items()
    evidence = bench.learner.claims[Claim("pattern", name, "wins")].evidence
    assert (evidence.trades, evidence.log_e) == (0, 0.0)
    assert made.trades >= 20


def test_a_candidate_of_which_nothing_comes_makes_room_and_still_counts_as_tested() -> None:
    bench = Bench(2)
    bench.trade(0.0, 0.0)
    one = bench.learner
    name, made = found_in("momentum", window(), (), 9) or ("", None)
    assert made is not None
    for number in range(MOST_OF_ONE):
        one.state.candidates[f"{name}{number}"] = made
        one._piece(Claim("pattern", f"{name}{number}", "wins"))
    one.look(LONGEST_NS)
    assert len(one.state.candidates) == MOST_OF_ONE
    one.look(made.made_ns + LONGEST_NS)
    assert one.state.candidates == {}
    assert one.state.ended["pattern"] == MOST_OF_ONE
    one.check()


def test_candidates_are_tried_so_often_and_then_given_up() -> None:
    bench = Bench(3)
    for _ in range(6000):
        bench.trade(0.0, 0.0)
        assert len(bench.learner.state.candidates) <= min(MOST_CANDIDATES, MOST_OF_ONE)
        for name in bench.learner.state.candidates:
            claim = Claim("pattern", name, "wins")
            standing = bench.learner.standing.get(claim)
            assert bench.learner.claims[claim].evidence.trades < MOST_TRIED + 10 or (standing is not None and standing.stage in STANDING)
    assert bench.learner.state.ended["pattern"] > 3


def test_the_window_does_not_depend_on_the_order_in_which_trades_come() -> None:
    kind = Kind("A/USDT", "momentum", "buy")
    trades = [(number, number // 3, number) for number in range(2 * WINDOW)]
    windows = []
    for seed in range(3):
        one = Learner(dict.fromkeys(FAMILIES, 1))
        given = sorted(trades, key=lambda trade: trade[1]) if seed == 0 else random.Random(seed).sample(trades, len(trades))
        for number, closed_ns, net in given:
            one.remember(kind, closed_ns, closed_ns, number, float(net))
        windows.append(one._window)
    assert windows[0] == windows[1] == windows[2]
    assert [len(found) for found in windows[0].values()] == [WINDOW]
