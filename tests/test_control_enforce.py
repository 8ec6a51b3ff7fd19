"""What was learned, put upon any plan: smaller, larger, on paper, or over before an hour that is shut."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.learn.evidence import Evidence
from control.learn.gate import Adaptation
from control.learn.kinds import MOST_SCALE
from control.learn.snapshot import Snapshot
from control.think.enforce import Caps, Changed, Enforced, enforced, scaled
from control.think.planning import Planner
from control.think.strategy import Facts, Market, Quote
from hotpath.config import Recovery
from ipc.messages import Condition, Size

HOUR_NS = 3_600_000_000_000
#: 13:50
NOW = 13 * HOUR_NS + 50 * 60_000_000_000
FACTS = Facts("BTC/USDT", False, Decimal("0.01"), Decimal("0.00001"), Decimal(5), 10.0)


def market() -> Market:
    return Market(NOW, 10, {"BTC/USDT": FACTS}, {"BTC/USDT": Quote(100.0, 99.9, 100.1)}, lambda symbol, count: None)  # type: ignore[arg-type, return-value]


def condition(**more: Any) -> Condition:
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "direction": "up", "size": Size(kind="equity_bps", value="500"), "confidence": 0.8,
                              "why": "test", "level": "101", "stop_bps": 50, **more}
    return Condition(**fields)


def active(family: str, value: str, direction: str = "loses", mean_bps: float = -50.0, number: int = 1) -> Adaptation:
    return Adaptation(number=number, family=family, value=value, direction=direction, stage="active", made_ns=0, since_ns=0,  # type: ignore[arg-type]
                      trades=50, mean_bps=mean_bps, log_e=9, needed=8, since=Evidence(direction="wins"))


CAPS = Caps(2000, 1e6, 10_000.0)


def put(one: Condition, *adaptations: Adaptation, apply: bool = True, strategy: str = "momentum", caps: Caps = CAPS) -> Enforced:
    return enforced([one], strategy, Snapshot({}, adaptations, NOW, 1e-8, apply), market(), NOW, caps)


def words(found: Enforced) -> dict[int, str]:
    return {number: one.text for number, one in found.changed.items()}


def test_nothing_learned_changes_nothing_but_the_mark() -> None:
    found = put(condition())
    assert found.changed == {}
    (one,) = found.conditions
    assert (one.size.value, one.paper, one.mark, one.valid_for_s) == ("500", False, "100", 1800)
    assert one.funding_bps is None


def test_a_condition_carries_the_funding_rate_as_it_is_known_whatever_the_strategy_says_of_it() -> None:
    knowledge = Snapshot({}, (), NOW, 1e-8, True)
    for known, told in (({"BTC/USDT": 1.5}, 1.5), ({}, None)):
        (one,) = enforced([condition(funding_bps=99.0)], "momentum", knowledge, replace(market(), funding_bps=known), NOW, CAPS).conditions
        assert one.funding_bps == told


@pytest.mark.parametrize(("adaptation", "size"), [
    (active("coin", "BTC/USDT", mean_bps=-5), "250"), (active("coin", "BTC/USDT", "wins", 40), "750"), (active("strategy", "momentum"), "250"),
    (active("pattern", "breakout buy", "wins", 40), "625"), (active("coin", "ETH/USDT"), "500"), (active("pattern", "breakout sell"), "500")],
    ids=["reduced", "favoured", "strategy resized", "pattern activated", "another coin", "the pattern's other side"])
def test_the_size_is_multiplied(adaptation: Adaptation, size: str) -> None:
    found = put(condition(pattern="breakout"), adaptation)
    assert (found.conditions[0].size.value, found.conditions[0].paper) == (size, False)
    assert bool(found.changed) == (size != "500")


@pytest.mark.parametrize("adaptation", [active("coin", "BTC/USDT"), active("pattern", "breakout buy"), active("regime", "momentum in volatile"),
                                        active("hour", "13"), active("day", "Thursday")], ids=["coin", "pattern", "regime", "hour", "day"])
def test_what_is_shut_is_followed_on_paper_only_with_its_whole_size(adaptation: Adaptation) -> None:
    found = put(condition(pattern="breakout", regime="volatile"), adaptation, active("coin", "BTC/USDT", "wins", 40, number=2))
    (one,) = found.conditions
    assert (one.paper, one.size.value, one.valid_for_s) == (True, "500", 1800)
    assert "on paper only for BTC/USDT" in found.changed[1].text


def test_a_strategy_cannot_take_the_paper_off() -> None:
    assert put(condition(paper=True)).conditions[0].paper
    assert put(condition(paper=False), active("coin", "BTC/USDT")).conditions[0].paper


def test_a_condition_ends_before_an_hour_that_is_shut() -> None:
    assert put(condition(valid_for_s=1800), active("hour", "14")).conditions[0].valid_for_s == 600
    assert put(condition(valid_for_s=500), active("hour", "14")).conditions[0].valid_for_s == 500
    assert put(condition(valid_for_s=7 * 86_400), active("hour", "13")).conditions[0].paper, "it would begin in it"
    assert put(condition(valid_for_s=7 * 86_400, valid_after_s=900), active("hour", "13")).conditions[0].valid_for_s == 23 * 3600 - 300
    assert put(condition(valid_for_s=7 * 86_400, valid_after_s=900), active("hour", "14")).conditions[0].paper, "it begins in it"


@pytest.mark.parametrize(("day", "days"), [("Friday", 0), ("Saturday", 1), ("Tuesday", 4), ("Wednesday", 5)])
def test_a_condition_ends_before_a_day_that_is_shut_however_far_it_is(day: str, days: int) -> None:
    assert put(condition(valid_for_s=7 * 86_400), active("day", day)).conditions[0].valid_for_s == (days * 24 + 10) * 3600 + 600


def test_shut_hours_of_a_large_plan_are_looked_for_once_for_each_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = Snapshot({}, [active("day", "Wednesday")], NOW, 1e-8), list[int]()
    monkeypatch.setattr(known, "time_is_shut", lambda at_ns: bool(asked.append(at_ns)))
    enforced([condition(valid_for_s=7 * 86_400)] * 500, "momentum", known, market(), NOW, CAPS)
    assert len(asked) == 7 * 24


def test_an_entry_that_belongs_to_a_candidate_that_wins_is_larger() -> None:
    good = active("pattern", "momentum: side buy + regime trend", "wins", 40)
    assert [put(condition(regime=regime), good, strategy=strategy).conditions[0].size.value
            for regime, strategy in (("trend", "momentum"), ("range", "momentum"), ("trend", "other"))] == ["625", "500", "500"]
def test_a_condition_that_an_hours_rule_ends_sooner_is_told() -> None:
    assert words(put(condition(valid_for_s=1800), active("hour", "14"))) == {1: "hour rule 14 (adaptation 1): ends before that hour for BTC/USDT"}
    assert put(condition(valid_for_s=500), active("hour", "14")).changed == {}
    assert words(put(condition(valid_for_s=7 * 86_400, valid_after_s=900), active("hour", "13"))) == {
        1: "hour rule 13 (adaptation 1): ends before that hour for BTC/USDT"}
    known = Snapshot({}, [active("hour", "14")], NOW, 1e-8)
    both = enforced([condition(valid_for_s=1800), condition(valid_after_s=900)], "momentum", known, market(), NOW, CAPS)
    assert words(both) == {1: "hour rule 14 (adaptation 1): on paper only for BTC/USDT"}, "of two that it changes the graver is told"


def test_with_learning_switched_off_nothing_is_put_upon_a_plan() -> None:
    found = put(condition(), active("coin", "BTC/USDT"), active("hour", "14", number=2), apply=False)
    assert (found.conditions[0].paper, found.conditions[0].valid_for_s, found.changed) == (False, 1800, {})


@pytest.mark.parametrize(("size", "caps", "most", "expected"), [
    (("equity_bps", "500"), Caps(600, 1e6, 10_000.0), 0, "594"), (("equity_bps", "500"), Caps(2000, 520.0, 10_000.0), 0, "514"),
    (("equity_bps", "500"), CAPS, 550, "550"), (("equity_bps", "500"), CAPS, 400, "500"),
    (("equity_bps", "500"), Caps(None, 1e6, 10_000.0), 0, "500"), (("equity_bps", "500"), Caps(2000, 1e6, 10_000.0, {"BTC/USDT": 1400.0}), 0, "594"),
    (("equity_bps", "500"), Caps(2000, 1e6, 10_000.0, {"BTC/USDT": 1900.0}), 0, "500"),
    (("quote", "500"), Caps(600, 1e6, 10_000.0), 0, "594"), (("quote", "500"), CAPS, 0, "750"), (("base", "2"), CAPS, 0, "2"),
    (("quote", "900"), Caps(600, 1e6, 10_000.0), 0, "900")],
    ids=["exposure", "order value", "the strategy's own", "never smaller", "no limit set", "beside what is held", "no room beside it",
         "quote to the limit", "quote", "base", "above the limit"])
def test_a_favour_goes_no_further_than_the_limits(size: tuple[str, str], caps: Caps, most: int, expected: str) -> None:
    """Else the gate would refuse what it has made too large, and a favoured coin would not be traded at all. Equity and price may move a little."""
    one = condition(size=Size(kind=size[0], value=size[1]), most_equity_bps=most)  # type: ignore[arg-type]
    assert put(one, active("coin", "BTC/USDT", "wins", 40), caps=caps).conditions[0].size.value == expected


@pytest.mark.parametrize(("kind", "value"), [("base", "123456789012345678"), ("quote", "99999999999999999999")])
def test_a_size_of_many_digits_can_be_scaled(kind: Any, value: str) -> None:
    found = scaled(Size(kind=kind, value=value), 0.5, 0.0, 0.0)
    assert found is not None
    assert Decimal(found.value) == Decimal(value) / 2


def test_only_what_changes_a_condition_is_told() -> None:
    base = condition(size=Size(kind="base", value="1"))
    assert put(base, active("coin", "BTC/USDT", "wins", 40)).changed == {}, "what is given in the base currency is not enlarged"
    both = put(condition(), active("coin", "BTC/USDT", "wins", 40), active("hour", "13", number=2))
    assert words(both) == {2: "hour rule 13 (adaptation 2): on paper only for BTC/USDT"}
    small = put(condition(size=Size(kind="quote", value="9")), active("strategy", "momentum"))
    assert words(small) == {1: "resize momentum (adaptation 1): on paper only for BTC/USDT"}


@pytest.mark.parametrize("small_first", [True, False])
def test_what_is_put_on_paper_and_what_is_only_made_smaller_by_the_same_adaptation_are_told_apart(small_first: bool) -> None:
    two = [condition(size=Size(kind="quote", value="9")), condition()]
    known = Snapshot({}, [active("strategy", "momentum")], NOW, 1e-8)
    found = enforced(two if small_first else two[::-1], "momentum", known, market(), NOW, CAPS)
    assert words(found) == {1: "resize momentum (adaptation 1): size × 0.5 for BTC/USDT; on paper only for BTC/USDT"}
    assert found.changed[1].where == {("BTC/USDT", True), ("BTC/USDT", False)}


def test_what_an_adaptation_changes_is_told_once_for_each_symbol_and_again_when_it_had_changed_nothing_for_a_plan() -> None:
    planner = Planner(0, "momentum", object(), 60, Recovery())
    halved, other, paper = Changed("A", {("A", False)}), Changed("B", {("B", False)}), Changed("A on paper", {("A", True)})
    told = [planner.tell(changed) for changed in ({1: halved}, {1: halved}, {1: other, 2: other}, {1: halved}, {1: paper}, {}, {1: halved})]
    assert told == [{1: "A"}, {}, {1: "B", 2: "B"}, {}, {1: "A on paper"}, {}, {1: "A"}]


def test_a_candidate_that_names_a_part_of_the_day_has_plans_looked_at_again_when_that_ends() -> None:
    plain, timed = (Snapshot({}, [active("pattern", f"momentum: side buy + {trait}", "wins", 40)], NOW, 1e-8)
                    for trait in ("regime trend", "12–16 h"))
    assert plain.stamp(NOW) == plain.stamp(NOW + 3 * HOUR_NS)
    assert timed.stamp(NOW) == timed.stamp(NOW + 2 * HOUR_NS) != timed.stamp(NOW + 3 * HOUR_NS)


def test_an_amount_of_the_base_currency_is_reduced_to_whole_lots_and_one_of_no_lot_is_on_paper() -> None:
    for value, expected, paper in (("0.12003", "0.06001", False), ("0.00001", "0.00001", True), ("1.5", "0.75", False)):
        (found,) = put(condition(size=Size(kind="base", value=value)), active("coin", "BTC/USDT", mean_bps=-5)).conditions
        assert (found.size.value, found.paper) == (expected, paper)


@given(st.sampled_from(["quote", "base"]), st.decimals(Decimal("0.000001"), Decimal(10) ** 9, places=6))
def test_a_reduced_size_is_rounded_down_and_is_a_size_again(kind: Any, value: Decimal) -> None:
    size = scaled(Size(kind=kind, value=f"{value:f}"), 0.5, 0.0, 0.0)
    assert size is not None
    assert 0 <= value / 2 - Decimal(size.value) < Decimal("1e-17")
    assert "E" not in size.value


@given(st.integers(1, 10_000), st.sampled_from([0.5, 1.25, 1.5]), st.integers(0, 10_000))
def test_a_scaled_share_of_equity_is_never_more_than_the_factor(bps: int, scale: float, most: int) -> None:
    size = scaled(Size(kind="equity_bps", value=str(bps)), scale, most, 10_000.0)
    if size is None:
        assert bps * scale < 1
        return
    assert 1 <= int(size.value) <= bps * min(scale, MOST_SCALE)
    assert scale < 1 or bps <= int(size.value) <= max(bps, most)


@pytest.mark.parametrize(("size", "equity", "paper"), [
    (("equity_bps", "100"), 500.0, True), (("equity_bps", "100"), 2000.0, False), (("quote", "9"), 1e4, True), (("quote", "10"), 1e4, True),
    (("quote", "10.4"), 1e4, False),
    (("base", "0.05"), 1e4, True), (("base", "0.2"), 1e4, False), (("equity_bps", "1"), 1e9, True)])
def test_what_would_become_too_small_for_the_venue_is_followed_on_paper(size: tuple[str, str], equity: float, paper: bool) -> None:
    """Else nothing would be traded, nothing followed, and the restriction could never be found wrong."""
    one = condition(size=Size(kind=size[0], value=size[1]))  # type: ignore[arg-type]
    (found,) = put(one, active("strategy", "momentum"), caps=Caps(2000, 1e6, equity)).conditions
    assert found.paper is paper
    assert (found.size == one.size) is paper, "on paper it keeps its whole size"


PERPETUAL = Facts("BTC/USDT", True, Decimal("0.1"), Decimal("0.001"), Decimal(100), 10.0)


@pytest.mark.parametrize(("last", "bps", "paper"), [(95_000.0, 300, True), (60_000.0, 220, True), (40_000.0, 300, False), (95_000.0, 450, False),
                                                    (50_200.0, 210, True)],
                         ids=["one lot of two", "not two lots", "three of seven", "two of four", "enough only if the price stays"])
def test_what_would_be_too_small_in_whole_lots_is_followed_on_paper(last: float, bps: int, paper: bool) -> None:
    """The sniper rounds down to lots, and the venue refuses less than its least order: there would be neither an order nor a trade on paper."""
    there = Market(NOW, 10, {"BTC/USDT": PERPETUAL}, {"BTC/USDT": Quote(last, last - 0.1, last + 0.1)},  # type: ignore[arg-type]
                   lambda symbol, count: None)  # type: ignore[arg-type, return-value]
    one = condition(size=Size(kind="equity_bps", value=str(bps)), level=str(last))
    (found,) = enforced([one], "momentum", Snapshot({}, [active("strategy", "momentum")], NOW, 1e-8), there, NOW, CAPS).conditions
    assert found.paper is paper
    lots = math.floor(10_000.0 * int(found.size.value) / 1e4 / (last * 0.001))
    assert paper or lots * 0.001 * last >= 100
