"""What a condition may ask for beyond a level: clauses, groups of which one fires, a later beginning, protection as prices."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from hotpath.arming import NotArmed, armed_slots, clauses_of
from ipc import layout as l
from ipc import messages
from tests.test_hotpath_sniper import SECOND, World


def quoted(memory: Any) -> World:
    """100.00 bid, 100.02 ask, last 100.01; levels are crossed by trades at 101.00."""
    made = World(memory)
    made.quote(10_000, 10_002)
    made.trade(10_001)
    return made


@pytest.fixture
def world(memory: Any) -> World:
    return quoted(memory)


def condition(**more: Any) -> messages.Condition:
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "level": "101", "direction": "up", "confidence": 0.9, "why": "test",
                              "size": {"kind": "equity_bps", "value": "500"}, "stop_bps": 100, **more}
    return msgspec.convert(fields, messages.Condition)


def arm(world: World, *conditions: messages.Condition, plan_seq: int = 1) -> None:
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=plan_seq, conditions=list(conditions)))
    world.run()


def cross(world: World, price: int = 10_100) -> int:
    """Trade below, then at `price` with a fresh quote around it; how many orders there are now."""
    world.trade(price - 50, after_s=0.1)
    world.quote(price - 1, price + 1, after_s=0.1)
    world.trade(price, after_s=0.1)
    return len(world.orders())


# ── clauses ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_features_of_messages_and_kernel_are_the_same() -> None:
    assert get_args(messages.FeatureName) == l.FEATURES
    assert {name for name in l.FEATURES if name.startswith(("high", "low", "ema")) or name in ("last", "bid", "ask", "mid", "microprice")} \
        == l.PRICE_FEATURES


@pytest.mark.parametrize(("clause", "fires"), [
    ({"feature": "spread_bps", "op": "<", "value": 2.0}, True),  # 1.98 bps around 101.00
    ({"feature": "spread_bps", "op": "<", "value": 1.9}, False),
    ({"feature": "spread_bps", "op": ">", "value": 1.9}, True),
    ({"feature": "last", "op": ">", "value": 100.99}, True),  # prices are in the quote currency
    ({"feature": "last", "op": ">", "value": 101.00}, False),  # at the edge neither operator holds
    ({"feature": "last", "op": "<", "value": 101.00}, False),
    ({"feature": "last", "op": "<", "value": 101.01}, True),
    ({"feature": "bid", "op": "<", "other": "ask"}, True),
    ({"feature": "bid", "op": ">", "other": "ask"}, False),
    ({"feature": "ask", "op": ">", "other": "bid", "value": 1.0001}, True),  # 101.01 against 100.99 × 1.0001
    ({"feature": "ask", "op": ">", "other": "bid", "value": 1.0003}, False),
    ({"feature": "imbalance", "op": "<", "value": 0.1}, True),
    ({"feature": "high_60s", "op": ">", "value": 0.01}, False),  # its window is not full: without a value nothing holds
    ({"feature": "high_60s", "op": "<", "value": 1e9}, False),
    ({"feature": "last", "op": ">", "other": "ema_10s"}, False),
])
def test_a_clause_must_hold_at_the_tick_that_crosses(clause: dict[str, Any], fires: bool, world: World) -> None:
    arm(world, condition(clauses=[clause]))
    assert cross(world) == int(fires)
    assert int(world.s.refusals[l.REF_CLAUSE]) == int(not fires)


def test_clauses_are_told_as_they_were_given(world: World) -> None:
    arm(world, condition(clauses=[{"feature": "spread_bps", "op": "<", "value": 2}, {"feature": "last", "op": ">", "value": 100.99},
                                  {"feature": "last", "op": ">", "other": "high_60s", "value": 0.9995},
                                  {"feature": "bid", "op": "<", "other": "ask"}]))
    row = world.memory.conditions.rows[armed_slots(world.memory.conditions)[0]]
    assert clauses_of(row, world.memory.instruments.instruments[0]) == [
        "spread_bps < 2", "last > 100.99", "last > 0.9995 × high_60s", "bid < ask"]


def test_all_clauses_must_hold_and_six_is_the_most(world: World) -> None:
    true, false = {"feature": "bid", "op": "<", "other": "ask"}, {"feature": "bid", "op": ">", "other": "ask"}
    with pytest.raises(msgspec.ValidationError, match="length <= 6"):
        condition(clauses=[true] * 7)
    arm(world, condition(clauses=[true] * 5 + [false]), condition(clauses=[true] * 6))
    assert cross(world) == 1
    assert int(world.orders()[0]["condition_id"]) & 0xFFFFF == 1


def test_a_window_that_is_full_makes_its_clause_true(world: World) -> None:
    for _ in range(70):
        world.trade(10_001, after_s=1)
    lively = [{"feature": "last", "op": ">", "other": "high_60s", "value": 0.9999}, {"feature": "trades_per_s", "op": ">", "value": 0.5}]
    arm(world, condition(clauses=[*lively, {"feature": "volatility_60s_bps", "op": ">", "value": 1.0}]))
    assert cross(world) == 0, "no closed bucket of the minute has moved"
    arm(world, condition(clauses=[*lively, {"feature": "volatility_60s_bps", "op": "<", "value": 1.0}]), plan_seq=2)
    world.trade(10_001, after_s=2)
    assert cross(world) == 0, "now one has"
    arm(world, condition(clauses=lively), plan_seq=3)
    assert cross(world) == 1


def test_a_crossing_that_found_its_clause_false_is_not_consumed(world: World) -> None:
    arm(world, condition(clauses=[{"feature": "spread_bps", "op": "<", "value": 1.0}]))
    assert cross(world) == 0
    assert [int(row["code"]) for row in world.orders(l.REFUSED)] == [l.REF_CLAUSE]
    world.trade(10_050)
    world.quote(10_099, 10_100)
    world.trade(10_100, after_s=0.1)
    assert len(world.orders()) == 1


def test_a_price_is_compared_with_a_price_only(world: World) -> None:
    with pytest.raises(NotArmed, match=r"conditions\[0\].clauses\[1\]: spread_bps and last are not of one kind"):
        arm(world, condition(clauses=[{"feature": "bid", "op": "<", "other": "ask"}, {"feature": "spread_bps", "op": "<", "other": "last"}]))


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_of_a_group_one_fires(world: World) -> None:
    arm(world, condition(group="a", level="101.00"), condition(group="a", level="101.05"), condition(level="101.20"))
    cross(world, 10_110)
    assert [int(row["condition_id"]) & 0xFFFFF for row in world.orders()] == [0]
    assert not world.s.refusals.any(), "the other one did not even try"


def two_ways(world: World, plan_seq: int) -> None:
    arm(world, condition(group="a", level="101", max_fires=5), condition(group="a", level="99", direction="down", max_fires=5), plan_seq=plan_seq)


def flat(world: World) -> None:
    """Fill the entry and its exit, so that the position is free for the next one."""
    entry = world.orders()[-1]
    world.fill(entry, 10_101)
    world.quote(9_000, 9_002, after_s=0.1)
    world.fill(world.orders()[-1], 9_000)
    world.quote(10_000, 10_002, after_s=0.1)
    world.trade(10_001, after_s=0.1)


def test_a_group_that_has_fired_stays_so_for_a_successor_and_a_new_plans_group_is_another(world: World) -> None:
    two_ways(world, 1)
    assert cross(world) == 1
    flat(world)
    done = len(world.orders())
    world.successor()
    assert cross(world) == done
    world.trade(9_850)
    assert len(world.orders()) == done, "nor does the other one fire, which never has"
    world.quote(10_000, 10_002)
    two_ways(world, 2)
    assert cross(world) == done + 1


def test_a_refused_member_leaves_the_group_to_the_others(world: World) -> None:
    arm(world, condition(group="a", level="101", confidence=0.1), condition(group="a", level="101.05"))
    assert cross(world, 10_110) == 1
    assert int(world.orders()[0]["condition_id"]) & 0xFFFFF == 1


# ── time and protection ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_condition_begins_later_and_lasts_from_then_on(world: World) -> None:
    arm(world, condition(valid_after_s=60, valid_for_s=60, confidence=0.1))
    begins = world.now + 60 * SECOND

    def crossed_at(event_ns: int) -> int:
        """Refusals so far: a condition that is not valid is not even refused."""
        world.now = event_ns - SECOND // 5
        world.trade(10_000, after_s=0.1)
        world.trade(10_100, after_s=0.1)
        return int(world.s.refusals[l.REF_CONFIDENCE])

    assert crossed_at(begins - 1) == 0
    assert crossed_at(begins + SECOND) == 1
    assert crossed_at(begins + 60 * SECOND - 1) == 2
    assert crossed_at(begins + 60 * SECOND) == 2


def test_stop_and_target_as_prices_are_kept_whatever_the_fill(world: World) -> None:
    arm(world, condition(stop_bps=0, stop_price="100.5", target_price="102.25"))
    cross(world)
    world.fill(world.orders()[0], 10_110)
    position = world.s.positions[0]
    assert (int(position["stop_price"]), int(position["target_price"])) == (10_050, 10_225)
    world.quote(10_051, 10_053)
    assert len(world.orders()) == 1
    world.quote(10_050, 10_052)
    assert [int(row["code"]) for row in world.orders()[1:]] == [l.EXIT_STOP]


@pytest.mark.parametrize(("more", "says"), [
    ({"stop_bps": 0, "stop_price": "101"}, r"stop_price: 101 is not below the level 101"),
    ({"stop_price": "100"}, r"stop_price: stop_bps is there, too"),
    ({"target_price": "100"}, r"target_price: 100 is not above the level"),
    ({"side": "sell", "direction": "down", "stop_bps": 0, "stop_price": "100"}, r"stop_price: 100 is not above the level"),
    ({"stop_bps": 0, "stop_price": "99.005"}, r"stop_price: 99.005 is no whole number of 0.01"),
])
def test_protection_on_the_wrong_side_is_refused_by_its_field(more: dict[str, Any], says: str, world: World) -> None:
    with pytest.raises(NotArmed, match=says):
        arm(world, condition(**more))
