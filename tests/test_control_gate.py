"""The gate: what is believed, what waits in the shadow, what is applied, and what is taken back."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.learn.evidence import Evidence, Grid, span_bps
from control.learn.gate import ALPHA, LEAST_TRADES, MOST_SHADOW_TRADES, SHADOW_TRADES, Adaptation, Step, believed, look
from control.learn.kinds import FAMILIES, Claim, Family

LOSS, WIN, SPAN = -90.0, 150.0, span_bps(80, 160)
CLAIMS = [Claim("coin", f"C{number}", "loses") for number in range(12)]


def results(mean_bps: float, count: int, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [WIN if chance.random() < (mean_bps - LOSS) / (WIN - LOSS) else LOSS for _ in range(count)]


# ── which claims are believed ────────────────────────────────────────────────────────────────────────────────────────
@given(st.lists(st.floats(-5, 12), max_size=12), st.floats(0.001, 0.2), st.integers(0, 20))
def test_believed_is_what_the_definition_of_e_bh_says(values: list[float], alpha: float, more: int) -> None:
    log_e, tested = dict(zip(CLAIMS, values, strict=False)), len(values) + more
    picked, needed = believed(log_e, alpha, tested)
    sizes = [k for k in range(1, len(values) + 1) if sum(value >= math.log(tested / (alpha * k)) for value in values) >= k]
    bar = math.log(tested / (alpha * max(sizes))) if sizes else math.inf
    assert picked == {claim for claim, value in log_e.items() if value >= bar}
    assert not picked or needed == pytest.approx(bar)


def test_something_is_believed_only_where_the_mean_of_the_e_values_is_one_over_alpha() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        values = [chance.gauss(1, 3) for _ in CLAIMS]
        picked, _ = believed(dict(zip(CLAIMS, values, strict=True)), 0.02, len(CLAIMS))
        if picked:
            assert sum(math.exp(value) for value in values) / len(values) >= 1 / 0.02


def test_a_claim_that_began_anew_still_counts_as_tested() -> None:
    log_e = {CLAIMS[0]: math.log(3 / 0.02)}
    assert believed(log_e, 0.02, 3)[0]
    assert not believed(log_e, 0.02, 4)[0]


# ── the way through the gate ─────────────────────────────────────────────────────────────────────────────────────────
class Bench:
    """One coin's trades, one look after each tenth."""

    def __init__(self, coins: int = 8) -> None:
        self.claims = {Claim("coin", f"C{number}", direction): Evidence(direction=direction)
                       for number in range(coins) for direction in ("loses", "wins")}
        self.known: dict[Claim, Adaptation] = {}
        self.steps: list[Step] = []
        self.trades = 0

    def trade(self, coin: str, result: float) -> None:
        self.trades += 1
        every = [evidence for claim, evidence in self.claims.items() if claim.value == coin]
        every += [one.since for one in self.known.values() if one.value == coin and one.stage in ("shadow", "active")]
        for evidence in every:
            evidence.opened(self.trades, SPAN, self.trades)
            evidence.closed(self.trades, result, SPAN, self.trades)
        if self.trades % 10 == 0:
            self.look()

    def look(self) -> list[Step]:
        standing = [one for one in self.known.values() if one.stage in ("shadow", "active")]
        made = look(self.claims, standing, dict.fromkeys(FAMILIES, len(self.claims)), self.trades)
        for step in made:
            self.known[step.adaptation.claim] = step.adaptation
        self.steps += made
        return made

    def stages(self, coin: str = "C0") -> list[str]:
        return [step.adaptation.stage for step in self.steps if step.adaptation.value == coin]


def test_a_losing_coin_goes_through_the_shadow_and_stays_restricted() -> None:
    bench = Bench()
    for result in results(-50, 300, 4):
        bench.trade("C0", result)
    assert bench.stages() == ["shadow", "active"]
    (one,) = bench.known.values()
    assert (one.direction, one.trades >= LEAST_TRADES, one.log_e >= one.needed) == ("loses", True, True)
    assert one.mean_bps < 0
    shadow, active = bench.steps
    assert active.adaptation.since_ns - shadow.adaptation.since_ns >= SHADOW_TRADES
    assert "e-value" in shadow.why
    assert "in the shadow" in active.why


def test_a_winning_coin_is_found_too() -> None:
    bench = Bench()
    for result in results(50, 300, 5):
        bench.trade("C0", result)
    assert [one.direction for one in bench.known.values()] == ["wins"]
    assert bench.stages() == ["shadow", "active"]


def test_few_trades_are_not_enough_whatever_they_say() -> None:
    bench = Bench(coins=1)
    for _ in range(LEAST_TRADES - 1):
        bench.trade("C0", -SPAN)
    assert bench.look() == []
    bench.trade("C0", -SPAN)
    assert bench.stages() == ["shadow"]


def test_what_does_not_go_on_in_the_shadow_is_rejected() -> None:
    bench = Bench()
    while not bench.stages():
        bench.trade("C0", LOSS)
    for result in [WIN, LOSS] * MOST_SHADOW_TRADES:
        bench.trade("C0", result)
    assert bench.stages()[:2] == ["shadow", "rejected"]
    assert "in the shadow" in bench.steps[1].why


def test_an_edge_that_turns_is_rolled_back_and_says_why() -> None:
    bench = Bench()
    for result in results(-50, 200, 6):
        bench.trade("C0", result)
    assert bench.stages() == ["shadow", "active"]
    turned = bench.trades
    for result in results(50, 200, 7):
        bench.trade("C0", result)
    assert bench.stages()[:3] == ["shadow", "active", "rolled_back"]
    assert bench.steps[2].adaptation.since_ns - turned <= 50
    assert "evidence of a change" in bench.steps[2].why


def test_an_edge_that_is_gone_is_rolled_back_later() -> None:
    bench = Bench()
    for result in results(-50, 200, 6):
        bench.trade("C0", result)
    for result in results(0, 600, 8):
        bench.trade("C0", result)
    assert "rolled_back" in bench.stages()


@pytest.mark.parametrize("mean_bps", [-50, 50])
def test_an_edge_that_holds_is_seldom_rolled_back(mean_bps: float) -> None:
    back = 0
    for seed in range(40):
        bench = Bench(coins=2)
        for result in results(mean_bps, 400, seed):
            bench.trade("C0", result)
        back += "rolled_back" in bench.stages()
    assert back <= 4


def test_a_market_without_edge_changes_nothing() -> None:
    changed = 0
    for seed in range(60):
        bench = Bench()
        streams = [results(0, 150, 100 * seed + number) for number in range(8)]
        for row in zip(*streams, strict=True):
            for number, result in enumerate(row):
                bench.trade(f"C{number}", result)
        changed += any(step.adaptation.stage == "active" for step in bench.steps)
    assert changed <= 3


def test_families_share_alpha() -> None:
    assert sum(ALPHA.values()) == pytest.approx(0.05)
    strong = Evidence(direction="loses", trades=50, begun=1, grids=[
        Grid(number=1, began_ns=0, logs=[math.log(4 / ALPHA["hour"]) + 0.01] * 6, trades=50, sum_bps=-50 * 30.0, held_bps=-50 * 30.0)])
    claims = {Claim("hour", "14", "loses"): strong, Claim("hour", "15", "loses"): Evidence(direction="loses"),
              **{Claim("coin", f"C{number}", "loses"): Evidence(direction="loses") for number in range(100)}}
    tested = dict.fromkeys(FAMILIES, 2)
    assert [step.adaptation.value for step in look(claims, [], tested, 1)] == ["14"], "a hundred coins take nothing from the hours"
    assert look(claims, [], {**tested, "hour": 3}, 1) == []


@pytest.mark.parametrize(("direction", "sum_bps", "worst_bps"), [("loses", 100.0, -90.0), ("wins", -100.0, -5000.0), ("wins", 3000.0, -4000.0)],
                         ids=["what was paid wins", "what was paid loses", "one more of the worst would lose"])
def test_evidence_whose_plain_results_say_the_opposite_is_not_promoted(direction: str, sum_bps: float, worst_bps: float) -> None:
    sign = -1 if direction == "loses" else 1
    grid = Grid(number=1, began_ns=0, logs=[20.0] * 6, trades=50, sum_bps=sum_bps, held_bps=sign * 1500.0, worst_bps=worst_bps)
    one = Evidence(direction=direction, trades=50, begun=1, grids=[grid])  # type: ignore[arg-type]
    claims, tested = {Claim("coin", "C0", direction): one}, dict.fromkeys(FAMILIES, 2)  # type: ignore[arg-type]
    assert look(claims, [], tested, 1) == []
    grid.sum_bps, grid.worst_bps = sign * 1500.0, -90.0
    assert len(look(claims, [], tested, 1)) == 1


def test_what_is_not_put_forward_lowers_no_bar_for_others() -> None:
    """Seven with much evidence whose plain results say the opposite, and one that needs them to be believed."""
    def evidence(log_e: float, sum_bps: float) -> Evidence:
        grid = Grid(number=1, began_ns=0, logs=[log_e + math.log(2)] * 6, trades=50, sum_bps=sum_bps, held_bps=-900.0)
        return Evidence(direction="loses", trades=50, begun=1, grids=[grid])

    claims = {Claim("coin", f"C{number}", "loses"): evidence(15.0, 500.0) for number in range(7)}
    claims[Claim("coin", "C7", "loses")] = evidence(math.log(120.0), -900.0)
    assert look(claims, [], dict.fromkeys(FAMILIES, 16), 1) == []


def test_an_adaptation_goes_through_the_store() -> None:
    bench = Bench()
    for result in results(-50, 120, 4):
        bench.trade("C0", result)
    one = next(iter(bench.known.values()))
    assert msgspec.json.decode(msgspec.json.encode(one), type=Adaptation) == one


@pytest.mark.parametrize(("family", "value", "measure"), [
    ("coin", "BTC/USDT", "after costs"), ("strategy", "momentum", "after costs"), ("pattern", "breakout buy", "after costs"),
    ("hour", "14", "beyond what its strategy's trades make in general"),
    ("regime", "momentum in trend", "beyond what momentum's trades make in general"),
    ("pattern", "momentum: side buy + regime trend", "beyond what momentum's trades make in general"),
    ("exits", "momentum widen stop", "more than with its own exits")])
def test_a_step_says_what_its_figures_are(family: Family, value: str, measure: str) -> None:
    """Of what is compared they are not what its trades have lost: 107 bps beyond the others are 150 where those lose 43."""
    claim = Claim(family, value, "wins" if family in ("exits", "pattern") else "loses")
    assert claim.measure == measure
    evidence = Evidence(direction=claim.direction)
    for number in range(200):
        evidence.opened(number, SPAN, 2 * number)
        evidence.closed(number, WIN if claim.direction == "wins" else LOSS, SPAN, 2 * number + 1)
    (step,) = look({claim: evidence}, [], dict.fromkeys(FAMILIES, 10), 1000)
    assert step.why.endswith(f"bps {measure}")
