"""Variants of exits: what a pair says, what an active one changes; a market in which one truly pays, and one in which none does."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.learn import exits as claims
from control.learn import gate
from control.learn.evidence import Evidence
from control.learn.exits import VARIANTS, compared, pair_span_bps, parts, value_of
from control.learn.gate import Adaptation, look
from control.learn.kinds import FAMILIES, Claim, Kind
from control.learn.learner import Learner, Opened, universe
from control.learn.snapshot import Snapshot
from control.think.enforce import Caps, Enforced, enforced
from control.think.exits import LEAST_SPREADS
from control.think.strategy import Facts, Market, Quote
from hotpath.arming import Facts as ArmingFacts
from hotpath.arming import row_of
from ipc import layout as l
from ipc.messages import Condition, Rung, Size

NOW = 13 * 3_600_000_000_000
MINUTE_NS = 60_000_000_000
FACTS = Facts("BTC/USDT", False, Decimal("0.01"), Decimal("0.00001"), Decimal(5), 10.0)
CAPS = Caps(2000, 1e6, 10_000.0)
WIDER = "momentum widen target"


def market(spread: float = 0.02) -> Market:
    return Market(NOW, 10, {"BTC/USDT": FACTS}, {"BTC/USDT": Quote(100.0, 100 - spread / 2, 100 + spread / 2)},
                  lambda symbol, count: None)  # type: ignore[arg-type, return-value]


def condition(**more: Any) -> Condition:
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "direction": "up", "size": Size(kind="equity_bps", value="300"), "confidence": 0.8,
                              "why": "test", "level": "100", "stop_bps": 80, "target_bps": 160, **more}
    return Condition(**fields)


def active(variant: str = "widen target", strategy: str = "momentum", stage: str = "active", mean_bps: float = 20.0, number: int = 1) -> Adaptation:
    return Adaptation(number=number, family="exits", value=value_of(strategy, variant), direction="wins", stage=stage,  # type: ignore[arg-type]
                      made_ns=0, since_ns=0, trades=50, mean_bps=mean_bps, log_e=9, needed=8, since=Evidence(direction="loses"))


def put(one: Condition, *adaptations: Adaptation, apply: bool = True, due_ns: int = NOW, spread: float = 0.02, caps: Caps = CAPS) -> Enforced:
    return enforced([one], "momentum", Snapshot({}, adaptations, NOW, 1e-8, apply), market(spread), due_ns, caps)


# ── what is applied ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("variant", "stop", "target", "size", "twin"), [
    ("tighten stop", 60, 160, "300", (133, 0)), ("widen stop", 120, 160, "200", (67, 0)), ("tighten target", 80, 120, "300", (0, 133)),
    ("widen target", 80, 240, "300", (0, 67))])
def test_an_active_variant_moves_its_level_and_the_twin_has_the_strategys_own(variant: str, stop: int, target: int, size: str,
                                                                              twin: tuple[int, int]) -> None:
    found = put(condition(), active(variant))
    (one,) = found.conditions
    assert (one.stop_bps, one.target_bps, one.size.value, (one.twin_stop_pct, one.twin_target_pct)) == (stop, target, size, twin)
    assert variant in found.changed[1].text
    assert ("size ÷ 1.5" in found.changed[1].text) == (variant == "widen stop")


@pytest.mark.parametrize(("variant", "stop", "target", "size"), [
    ("tighten stop", "99.25", "101.6", "300"), ("widen stop", "98.5", "101.6", "200"), ("widen target", "99", "102.4", "300")])
def test_levels_that_are_prices_move_from_where_the_entry_is_expected(variant: str, stop: str, target: str, size: str) -> None:
    own = condition(stop_bps=0, target_bps=0, stop_price="99", target_price="101.6")
    (one,) = put(own, active(variant)).conditions
    assert (one.stop_price, one.target_price, one.size.value) == (stop, target, size)
    anchored = condition(level=None, anchor="100", move_bps=100, stop_bps=0, stop_price="100.00")
    (one,) = put(anchored, active("widen stop")).conditions
    assert one.stop_price == "99.5", "from 101, where it fires"


def test_a_stop_at_a_price_is_measured_from_the_limit_at_which_the_entry_comes() -> None:
    """From the level that only triggers it, the loss at the stop would grow by a third."""
    own = condition(direction="down", order="limit", limit_price="99.5", stop_bps=0, target_bps=0, stop_price="99",
                    size=Size(kind="quote", value="1000"))
    (one,) = put(own, active("widen stop")).conditions
    losses = [float(found.size.value) * (99.5 - float(found.stop_price or 0)) for found in (own, one)]
    assert one.stop_price == "98.75"
    assert losses[1] <= losses[0] * (1 + 1e-9)


@pytest.mark.parametrize("trigger", [{"level": None, "feature": "volume_burst", "value": 3.0}, {"rebound_bps": 20}], ids=["feature", "rebound"])
def test_a_stop_at_a_price_stays_where_nobody_knows_at_which_price_the_entry_comes(trigger: dict[str, Any]) -> None:
    own = condition(stop_bps=0, target_bps=0, stop_price="99", **trigger)
    (one,) = put(own, active("widen stop")).conditions
    assert (one.stop_price, one.size, one.twin_stop_pct) == ("99", own.size, 0)


@pytest.mark.parametrize(("variant", "own", "caps"), [
    ("widen stop", {}, CAPS._replace(stop_bps=110)), ("widen stop", {"stop_bps": 0, "stop_price": "99.2"}, CAPS._replace(stop_bps=110)),
    ("widen target", {}, CAPS._replace(target_bps=230)), ("widen target", {"target_bps": 0, "target_price": "101.6"}, CAPS._replace(target_bps=230))],
    ids=["stop", "stop at a price", "target", "target at a price"])
def test_a_level_is_not_moved_beyond_what_its_strategy_permits(variant: str, own: dict[str, Any], caps: Caps) -> None:
    (one,) = put(condition(**own), active(variant), caps=caps).conditions
    assert {name: getattr(one, name) for name in ("stop_bps", "stop_price", "target_bps", "target_price")} == {
        "stop_bps": 80, "stop_price": None, "target_bps": 160, "target_price": None} | own
    (one,) = put(condition(**own), active(variant), caps=caps._replace(stop_bps=120, target_bps=240)).conditions
    assert (one.twin_stop_pct, one.twin_target_pct) != (0, 0)


def test_what_is_of_another_strategy_or_in_the_shadow_changes_nothing() -> None:
    (one,) = put(condition(), active(strategy="other")).conditions
    assert (one.stop_bps, one.target_bps) == (80, 160)


def test_with_learning_switched_off_nothing_changes_and_twins_go_on_comparing() -> None:
    found = put(condition(), active("widen target"), apply=False)
    (one,) = found.conditions
    assert (one.target_bps, one.twin_target_pct, one.twin_stop_pct, found.changed) == (160, 150, 0, {})


@pytest.mark.parametrize(("one", "variant", "spread"), [
    (condition(target_bps=0), "widen target", 0.02), (condition(stop_bps=0, time_stop_s=60), "widen stop", 0.02),
    (condition(stop_bps=1), "tighten stop", 0.0), (condition(stop_bps=9_000), "widen stop", 0.02),
    (condition(target_bps=9_000), "widen target", 0.02), (condition(ladder=[Rung(bps=130, share=0.5)]), "tighten target", 0.02),
    (condition(), "tighten stop", 0.4), (condition(size=Size(kind="equity_bps", value="1")), "widen stop", 0.02),
    (condition(size=Size(kind="base", value="0.00001")), "widen stop", 0.02)],
    ids=["no target", "no stop", "a stop of 1 bps", "a stop below zero", "beyond what may be asked for", "before the last rung",
         "within two spreads", "a size that cannot be smaller", "of one lot"])
def test_what_cannot_be_moved_stays_and_has_no_twin(one: Condition, variant: str, spread: float) -> None:
    found = put(one, active(variant), spread=spread)
    (same,) = found.conditions
    assert (same.stop_bps, same.target_bps, same.size, same.twin_stop_pct, same.twin_target_pct) == (one.stop_bps, one.target_bps, one.size, 0, 0)
    assert found.changed == {}


@given(st.sampled_from(sorted(VARIANTS)), st.integers(1, 9_999), st.integers(0, 10_000), st.sampled_from(["equity_bps", "quote", "base"]),
       st.integers(1, 10_000), st.booleans(), st.sampled_from([0.0, 0.02, 0.5]))
def test_the_loss_at_the_stop_never_grows_and_what_comes_of_it_can_be_armed(name: str, stop: int, target: int, kind: Any, amount: int, prices: bool,
                                                                            spread: float) -> None:
    value = {"equity_bps": str(amount), "quote": f"{amount}.37", "base": f"{Decimal(amount) * FACTS.lot_size:f}"}[kind]
    more: dict[str, Any] = {"stop_bps": stop, "target_bps": target}
    if prices:
        more = {"stop_bps": 0, "target_bps": 0, "stop_price": FACTS.price_text(100 * (1 - stop / 1e4), "down"), "target_price": "101"}
        if Decimal(more["stop_price"]) >= 100:
            return
    own = condition(size=Size(kind=kind, value=value), **more)
    (one,) = put(own, active(name), spread=spread).conditions
    known = {"BTC/USDT": ArmingFacts(0, "BTC/USDT", FACTS.tick_size, FACTS.lot_size, 10**9, -8)}
    assert len(row_of(one, "it", 0, known)) == l.CONDITION.itemsize

    def distance(of: Condition) -> Decimal:
        return Decimal(of.stop_bps) if of.stop_bps else 100 - Decimal(of.stop_price or 0)

    assert Decimal(one.size.value) * distance(one) <= Decimal(own.size.value) * distance(own)
    assert distance(one) > 0
    assert Decimal(one.size.value) <= Decimal(own.size.value)
    if distance(one) < distance(own):
        assert float(distance(one)) * (1 if one.stop_bps else 100) > LEAST_SPREADS * market(spread).quotes["BTC/USDT"].spread_bps


def test_a_stop_is_not_widened_where_the_venue_would_take_no_order_so_small() -> None:
    one = condition(size=Size(kind="quote", value="7"))
    (found,) = put(one, active("widen stop")).conditions
    assert (found.stop_bps, found.size.value, found.paper, found.twin_stop_pct) == (80, "7", False, 150)


def test_a_stop_is_not_widened_beyond_what_its_strategy_permits() -> None:
    found = enforced([condition()], "momentum", Snapshot({}, [active("widen stop")], NOW, 1e-8), market(), NOW, CAPS._replace(stop_bps=119))
    assert (found.conditions[0].stop_bps, found.conditions[0].size.value, found.changed) == (80, "300", {})


def test_a_favour_and_a_wider_stop_go_together() -> None:
    favour = msgspec.structs.replace(active(), family="coin", value="BTC/USDT", mean_bps=50.0, number=2)
    found = put(condition(), active("widen stop"), favour)
    assert (found.conditions[0].size.value, found.changed.keys()) == ("300", {1, 2})
    three = [condition(), condition(target_bps=0), condition()]
    several = enforced(three, "momentum", Snapshot({}, [active(), favour], NOW, 1e-8), market(), NOW, CAPS)
    assert [one.target_bps for one in several.conditions] == [240, 0, 240]
    assert {number: one.text for number, one in several.changed.items()} == {1: "widen target momentum (adaptation 1): target × 1.5 for BTC/USDT",
                               2: "favour BTC/USDT (adaptation 2): size × 1.5 for BTC/USDT"}


# ── whose turn it is ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_each_variant_has_its_turn_by_chance_that_is_the_same_again() -> None:
    def drawn(**more: Any) -> Counter[tuple[int, int]]:
        made = [condition(**more) for _ in range(5)]
        known = Snapshot({}, [], NOW, 1e-8)
        every = [enforced(made, "momentum", known, market(), NOW + k * 900 * 10**9, CAPS).conditions for k in range(400)]
        again = [enforced(made, "momentum", known, market(), NOW + k * 900 * 10**9, CAPS).conditions for k in range(400)]
        assert every == again
        return Counter((one.twin_stop_pct, one.twin_target_pct) for plan in every for one in plan)

    both = drawn()
    assert both.keys() == {(75, 0), (150, 0), (0, 75), (0, 150)}
    assert all(abs(count - 500) < 90 for count in both.values()), both
    assert drawn(target_bps=0).keys() == {(75, 0), (150, 0)}
    assert drawn(stop_bps=0, time_stop_s=60).keys() == {(0, 75), (0, 150)}
    assert drawn(stop_bps=0, target_bps=0, time_stop_s=60) == {(0, 0): 2000}
    assert drawn(paper=True) == {(0, 0): 2000}


def test_a_strategy_cannot_choose_its_twin() -> None:
    (one,) = put(condition(paper=True, twin_stop_pct=3, twin_target_pct=3)).conditions
    assert (one.twin_stop_pct, one.twin_target_pct) == (0, 0)
    (one,) = put(condition(twin_stop_pct=3)).conditions
    assert compared(one.twin_stop_pct, one.twin_target_pct) is not None


def test_a_twins_percentages_say_what_it_compares() -> None:
    for variant in VARIANTS.values():
        place = 0 if variant.level == "stop" else 1
        for percent, adapted in ((variant.percent, False), (variant.back, True)):
            asked = [0, 0]
            asked[place] = percent
            assert compared(*asked) == (variant, adapted)
    assert compared(0, 0) is None
    assert compared(75, 75) is None
    assert parts(value_of("my.strategy-1", "tighten stop")) == ("my.strategy-1", VARIANTS["tighten stop"])


# ── the learner and the gate ─────────────────────────────────────────────────────────────────────────────────────────
def pair(value: str = WIDER, at: int = 1) -> Opened:
    return Opened(kind=Kind("BTC/USDT", parts(value)[0], "buy", "breakout", "trend"), opened_ns=at, span_bps=400.0, made=False, exits=value)


def learner(**more: Any) -> Learner:
    return Learner(universe(4, 2, 2, 2), **more)


def test_a_pair_speaks_to_its_own_claim_alone_and_is_no_trade() -> None:
    looks: list[int] = []
    one = learner(trades_between_looks=1, look=lambda *_: looks.append(1) or [])
    one.opened(7, pair())
    one.closed(7, 80.0, 2)
    assert one.claims.keys() == {Claim("exits", WIDER, "wins")}
    assert (one.state.since_look, looks) == (0, [])
    evidence = one.claims[Claim("exits", WIDER, "wins")].evidence
    assert (evidence.trades, evidence.margin_bps) == (1, claims.MARGIN_BPS)


def test_a_wider_stop_has_to_make_up_for_its_smaller_size() -> None:
    one, wide = learner(), "momentum widen stop"
    for number in range(10):
        one.opened(number, Opened(kind=Kind("BTC/USDT", "momentum", "buy"), opened_ns=number, span_bps=200.0))
        one.closed(number, 40.0, number + 1)
    for number, value in ((20, wide), (21, "momentum tighten stop"), (22, WIDER)):
        one.opened(number, pair(value, 20))
        one.closed(number, 80.0, 30)
    counted = {claim.value: piece.evidence.mean_bps for claim, piece in one.claims.items() if claim.family == "exits"}
    assert counted == {wide: pytest.approx(60.0), "momentum tighten stop": 80.0, WIDER: 80.0}


def test_of_a_strategys_variants_one_is_active_at_a_time() -> None:
    def shadow(variant: str, strategy: str = "momentum") -> Adaptation:
        waits = Evidence(direction="wins", margin_bps=2.0)
        for number in range(12):
            waits.opened(number, 400.0, number)
            waits.closed(number, 60.0, 400.0, number)
        return msgspec.structs.replace(active(variant, strategy, "shadow"), since=waits, needed=1.0)

    strong = Evidence(direction="wins", margin_bps=2.0)
    for number in range(200):
        strong.opened(number, 400.0, number)
        strong.closed(number, 60.0, 400.0, number)
    waiting = [shadow("widen target"), shadow("widen stop"), shadow("widen stop", "other")]
    steps = look({one.claim: strong for one in waiting}, waiting, dict.fromkeys(FAMILIES, 8), 999)
    assert [(step.adaptation.value, step.adaptation.stage) for step in steps] == [(WIDER, "active"), ("other widen stop", "active")]
    steps = look({one.claim: strong for one in waiting}, [active("tighten stop"), *waiting[1:]], dict.fromkeys(FAMILIES, 8), 999)
    assert [step.adaptation.value for step in steps if step.adaptation.stage == "active"] == ["other widen stop"]


def test_the_share_of_alpha_is_taken_from_the_others() -> None:
    assert sum(gate.ALPHA.values()) == pytest.approx(0.05)
    assert gate.ALPHA.keys() == set(FAMILIES)
    assert universe(3, 2, 0, 0)["exits"] == 8


def test_a_pairs_span_is_from_the_wider_stop_to_the_wider_target() -> None:
    assert pair_span_bps((80, 80), (160, 240)) == 400.0
    assert pair_span_bps((80, 120), (160, 160)) == 350.0
    assert pair_span_bps((80, 120), (0, 0)) == 900.0
    assert pair_span_bps((0, 0), (160, 240)) == 600.0
    assert pair_span_bps((0, 0), (0, 0)) == 1000.0
