"""A position's life: its transitions, its ladder, its stop at break-even, what an operator moves, and exits whose collar widens.

One spot instrument: tick 0.01, lot 0.001, value_quanta 1000; an entry of 1000 lots at 100.00.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hotpath.arming import NotArmed
from hotpath.config import Hotpath, Limits
from hotpath.kernel.exits import break_even_price
from hotpath.sniper import write_params
from ipc import layout as l
from ipc import messages
from tests.test_hotpath_sniper import World

ENTRY = 10_000


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6))
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def enter(world: World, plan_seq: int = 1, side: str = "buy", **more: Any) -> Any:
    """A position of 1000 lots, filled at 100.00."""
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": side, "level": "100.05", "direction": "up", "confidence": 0.9, "why": "test",
                              "size": {"kind": "base", "value": "1"}, "stop_bps": 100, **more}
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=plan_seq,
                                    conditions=[msgspec.convert(fields, messages.Condition)]))
    world.quote(9_999, 10_001)
    world.trade(10_010)
    order = world.orders()[-1]
    world.fill(order, ENTRY)
    return order


def at(world: World, bid: int) -> None:
    world.quote(bid, bid + 1, after_s=0.1)


def exits(world: World) -> list[tuple[int, int, int]]:
    """(lots, reason, leg) of every exit so far."""
    return [(int(order["lots"]), int(order["code"]), int(order["leg"])) for order in world.orders() if order["purpose"] == l.EXIT]


def fill(world: World, price: int, lots: int | None = None, at_: int = -1) -> None:
    """The venue fills the last order (or the one at `at_`)."""
    order = world.orders()[at_]
    lots = int(order["lots"]) if lots is None else lots
    world.report(kind=l.FILL, order_seq=order["seq"], cum_lots=lots, cum_quote=lots * price * 1000, last_lots=lots, last_price=price,
                 trade_id=1000 + int(order["seq"]))


def life(world: World) -> list[tuple[str, str, str]]:
    """(before, after, cause) of each transition."""
    return [(l.POSITION_STATES[row["leg"]], l.POSITION_STATES[row["code"]], l.ADJUSTMENTS[row["flags"]]) for row in world.orders(l.LIFECYCLE)]


def position(world: World) -> Any:
    return world.s.positions[0]


# ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_each_transition_of_a_life_is_a_record(world: World) -> None:
    enter(world)
    assert life(world) == [("opening", "open", "none"), ("open", "monitoring", "none")]
    at(world, 9_900)
    assert life(world)[2:] == [("monitoring", "closing", "none")]
    fill(world, 9_900)
    assert len(world.orders(l.CLOSED)) == 1
    assert position(world)["state"] == l.POS_FLAT


def test_an_entry_that_fills_in_parts_is_open_until_it_is_done(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="100.00")
    world.quote(9_999, 10_001)
    world.trade(10_010)
    fill(world, ENTRY, lots=100)
    assert life(world) == [("opening", "open", "none")]
    world.report(kind=l.CANCELLED, order_seq=world.orders()[-1]["seq"], cum_lots=100, cum_quote=100 * ENTRY * 1000)
    assert life(world)[1:] == [("open", "monitoring", "none")]


def test_an_exit_without_effect_leads_back_to_monitoring_and_closing_again(world: World) -> None:
    enter(world)
    at(world, 9_900)
    world.report(kind=l.EXPIRED, order_seq=world.orders()[-1]["seq"])
    at(world, 9_950)
    assert life(world)[2:] == [("monitoring", "closing", "none"), ("closing", "monitoring", "none")]
    world.quote(9_950, 9_951, after_s=1)
    assert life(world)[4:] == [("monitoring", "closing", "none")]


# ── the collar ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_exits_collar_doubles_with_each_try_and_the_sixth_takes_any_price(world: World) -> None:
    enter(world)
    limits = []
    for _ in range(7):
        world.quote(9_900, 9_901, after_s=10)
        order = world.orders()[-1]
        limits.append((int(order["order_type"]), int(order["limit_price"])))
        world.report(kind=l.EXPIRED, order_seq=order["seq"])
    assert limits == [(l.IOC, 9_801), (l.IOC, 9_702), (l.IOC, 9_504), (l.IOC, 9_108), (l.IOC, 8_316), (l.MARKET, 0), (l.MARKET, 0)]


def test_a_collar_lies_around_the_trades_where_the_quote_is_of_another_time(world: World) -> None:
    enter(world)
    for _ in range(4):
        world.trade(10_000, after_s=4)
    world.trade(9_500, after_s=1)
    assert (int(world.orders()[-1]["order_type"]), int(world.orders()[-1]["limit_price"])) == (l.IOC, 9_405)


def test_without_a_collar_an_exit_is_a_market_order_at_once(world: World) -> None:
    write_params(world.memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6), Hotpath(exit_collar_bps=0))
    enter(world)
    at(world, 9_900)
    assert (int(world.orders()[-1]["order_type"]), int(world.orders()[-1]["limit_price"])) == (l.MARKET, 0)


def test_a_try_that_fills_in_part_is_followed_by_one_for_the_rest(world: World) -> None:
    enter(world)
    at(world, 9_900)
    first = world.orders()[-1]
    fill(world, 9_900, lots=300)
    world.report(kind=l.EXPIRED, order_seq=first["seq"], cum_lots=300, cum_quote=300 * 9_900 * 1000)
    world.quote(9_900, 9_901, after_s=10)
    assert [lots for lots, *_ in exits(world)] == [1000, 700]
    assert int(world.orders()[-1]["attempt"]) == 1


def test_what_an_entry_brings_while_its_exit_is_under_way_is_closed_by_another_attempt(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="100.00")
    world.quote(9_999, 10_001)
    world.trade(10_010)
    entry = world.orders()[-1]
    fill(world, ENTRY, lots=100)
    at(world, 9_900)
    first = world.orders()[-1]
    world.report(kind=l.FILL, order_seq=entry["seq"], cum_lots=150, cum_quote=150 * ENTRY * 1000, last_lots=50, last_price=ENTRY, trade_id=90)
    world.report(kind=l.CANCELLED, order_seq=entry["seq"], cum_lots=150, cum_quote=150 * ENTRY * 1000)
    world.report(kind=l.FILL, order_seq=first["seq"], cum_lots=100, cum_quote=100 * 9_900 * 1000, last_lots=100, last_price=9_900, trade_id=91)
    world.quote(9_900, 9_901, after_s=10)
    assert [(lots, leg) for lots, _, leg in exits(world)] == [(100, 1), (50, 1)]
    assert [int(row["attempt"]) for row in world.orders() if row["purpose"] == l.EXIT] == [0, 1], "position, leg and attempt name one order"


# ── ladder ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LADDER = [{"bps": 50, "share": 0.3}, {"bps": 100, "share": 0.3}]


def test_a_ladder_sells_each_rung_at_its_distance_and_the_target_the_rest(world: World) -> None:
    enter(world, ladder=LADDER, target_bps=200)
    at(world, 10_049)
    assert exits(world) == []
    at(world, 10_050)
    assert exits(world) == [(300, l.EXIT_RUNG, 2)]
    fill(world, 10_050)
    at(world, 10_099)
    at(world, 10_100)
    assert exits(world)[1:] == [(300, l.EXIT_RUNG, 3)]
    fill(world, 10_100)
    at(world, 10_200)
    assert exits(world)[2:] == [(400, l.EXIT_TARGET, 1)]
    fill(world, 10_200)
    (trade,) = world.orders(l.CLOSED)
    assert (int(trade["lots"]), int(trade["code"])) == (1000, l.EXIT_TARGET)
    assert int(trade["value"]) == (300 * 50 + 300 * 100 + 400 * 200) * 1000
    assert life(world)[2:] == [("monitoring", "adjusting", "rung"), ("adjusting", "monitoring", "none"), ("monitoring", "adjusting", "rung"),
                               ("adjusting", "monitoring", "none"), ("monitoring", "closing", "none")]


def test_what_a_rung_leaves_unsold_is_tried_again(world: World) -> None:
    enter(world, ladder=[{"bps": 50, "share": 0.5}, {"bps": 100, "share": 0.5}])
    at(world, 10_050)
    rung = world.orders()[-1]
    fill(world, 10_050, lots=50)
    world.report(kind=l.EXPIRED, order_seq=rung["seq"], cum_lots=50, cum_quote=50 * 10_050 * 1000)
    world.quote(10_050, 10_051, after_s=10)
    assert exits(world) == [(500, l.EXIT_RUNG, 2), (450, l.EXIT_RUNG, 2)]
    fill(world, 10_050)
    at(world, 10_100)
    assert exits(world)[2:] == [(500, l.EXIT_RUNG, 3)]


def test_a_ladder_of_everything_closes_the_position_with_its_last_rung(world: World) -> None:
    enter(world, ladder=[{"bps": 50, "share": 0.333}, {"bps": 100, "share": 0.667}])
    at(world, 10_050)
    fill(world, 10_050)
    at(world, 10_100)
    fill(world, 10_100)
    assert [lots for lots, *_ in exits(world)] == [333, 667]
    (trade,) = world.orders(l.CLOSED)
    assert int(trade["code"]) == l.EXIT_RUNG


def test_a_jump_over_two_rungs_sells_one_after_the_other(world: World) -> None:
    enter(world, ladder=LADDER)
    at(world, 10_150)
    at(world, 10_150)
    assert exits(world) == [(300, l.EXIT_RUNG, 2)]
    fill(world, 10_150)
    at(world, 10_150)
    assert exits(world)[1:] == [(300, l.EXIT_RUNG, 3)]


def test_a_stop_while_a_rung_is_under_way_sells_the_rest_and_never_more(world: World) -> None:
    enter(world, ladder=LADDER)
    at(world, 10_050)
    at(world, 9_900)
    assert exits(world) == [(300, l.EXIT_RUNG, 2), (700, l.EXIT_STOP, 1)]
    fill(world, 9_900)
    at(world, 9_900)
    assert len(exits(world)) == 2, "the rung's lots are on their way"
    world.report(kind=l.EXPIRED, order_seq=world.orders()[-2]["seq"])
    world.quote(9_900, 9_901, after_s=10)
    assert exits(world)[2:] == [(300, l.EXIT_STOP, 1)]
    fill(world, 9_900)
    assert len(world.orders(l.CLOSED)) == 1


def test_a_rung_without_effect_is_tried_again_and_one_below_a_lot_is_passed_over(world: World) -> None:
    enter(world, ladder=[{"bps": 50, "share": 0.0005}, {"bps": 60, "share": 0.5}])
    at(world, 10_060)
    at(world, 10_060)
    assert exits(world) == [(500, l.EXIT_RUNG, 3)]
    world.report(kind=l.EXPIRED, order_seq=world.orders()[-1]["seq"])
    world.quote(10_060, 10_061, after_s=10)
    assert exits(world)[1:] == [(500, l.EXIT_RUNG, 3)]


# ── break-even ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("kind", "side", "stop"), [(l.KIND_SPOT, "buy", 10_020), (l.KIND_LINEAR_PERPETUAL, "sell", 9_980)])
def test_the_stop_goes_to_where_nothing_is_lost(kind: int, side: str, stop: int, world: World) -> None:
    instrument = world.memory.instruments.instruments[0]
    instrument["taker_fee_e8"], instrument["kind"] = 100_000, kind  # 10 bps
    enter(world, side=side, break_even_bps=50)
    sign = 1 if side == "buy" else -1
    far, near = (9_999 + sign * 50, 9_999 + sign * 51) if side == "buy" else (9_950, 9_949)
    at(world, far)
    assert int(position(world)["stop_price"]) == ENTRY - sign * 100
    at(world, near)
    assert int(position(world)["stop_price"]) == stop == break_even_price(position(world), instrument)
    assert life(world)[2:] == [("monitoring", "adjusting", "break_even")]
    at(world, near)
    assert life(world)[3:] == [("adjusting", "monitoring", "none")]
    at(world, stop if side == "buy" else stop - 1)
    assert exits(world) == [(1000, l.EXIT_STOP, 1)]


def test_a_stop_at_break_even_is_behind_the_price_or_stays(world: World) -> None:
    world.memory.instruments.instruments[0]["taker_fee_e8"] = 100_000
    enter(world, break_even_bps=10)
    at(world, 10_020)
    assert int(position(world)["stop_price"]) == 9_900, "20 bps of fees are not earned yet"
    at(world, 10_021)
    assert int(position(world)["stop_price"]) == 10_020


def filled_in_two(world: World, **moved: str) -> tuple[int, int]:
    """(stop, target) of an entry that fills 100 lots at 100.00 and, after an adjustment, 900 at 101.00."""
    world.arm("100.05", order="limit", limit_price="101")
    world.quote(9_999, 10_001)
    world.trade(10_010)
    order = world.orders()[-1]
    fill(world, ENTRY, lots=100)
    assert isinstance(adjust(world, **moved), messages.Done)
    whole = int(order["lots"])
    world.report(kind=l.FILL, order_seq=order["seq"], cum_lots=whole, cum_quote=(100 * ENTRY + (whole - 100) * 10_100) * 1000, last_lots=whole - 100,
                 last_price=10_100, trade_id=9)
    return int(position(world)["stop_price"]), int(position(world)["target_price"])


def test_a_stop_that_was_moved_stays_when_more_of_the_entry_fills_and_the_target_goes_on(world: World) -> None:
    stop, target = filled_in_two(world, stop="99.5")
    assert stop == 9_950
    assert target > 10_200


def test_a_target_that_was_moved_stays_when_more_of_the_entry_fills_and_the_stop_goes_on(world: World) -> None:
    stop, target = filled_in_two(world, target="103")
    assert target == 10_300
    assert stop > 9_900


# ── the operator ─────────────────────────────────────────────────────────────────────────────────────────────────────
def adjust(world: World, **more: Any) -> messages.Reply:
    from types import SimpleNamespace

    from hotpath.sniper import Control

    boot = SimpleNamespace(restarts=0)
    child: Any = SimpleNamespace(memory=world.memory, processes=world.memory.board.processes, metric=lambda name: None, boot=boot)
    reply = Control(child, world.armoury).handle(messages.Operate(action="adjust", position="BTC/USDT", **more))
    world.run()
    return reply


def test_an_operator_moves_stop_and_target_as_often_as_is_allowed(world: World) -> None:
    enter(world)
    for k, stop in enumerate(("99.1", "99.2", "99.3")):
        assert isinstance(adjust(world, stop=stop, target="103"), messages.Done)
        assert (int(position(world)["stop_price"]), int(position(world)["adjustments"])) == (9_910 + 10 * k, k + 1)
    refused = adjust(world, stop="99.4")
    assert isinstance(refused, messages.Refused)
    assert "adjusted 3 times, which is limits.max_adjustments" in refused.text
    assert int(position(world)["target_price"]) == 10_300
    assert life(world)[2:] == [("monitoring", "adjusting", "operator"), ("adjusting", "adjusting", "operator"),
                               ("adjusting", "adjusting", "operator")]


@pytest.mark.parametrize(("more", "says"), [
    ({"stop": "100"}, "stop: 100 is not below 99.99"), ({"target": "99"}, "target: 99 is not above 99.99"), ({}, "neither stop nor target"),
    ({"stop": "99.005"}, "stop: 99.005 is no whole number of 0.01")])
def test_protection_on_the_wrong_side_is_refused(more: dict[str, str], says: str, world: World) -> None:
    enter(world)
    reply = adjust(world, **more)
    assert isinstance(reply, messages.Refused)
    assert says in reply.text
    assert int(position(world)["adjustments"]) == 0


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("ladder", "more", "says"), [
    ([{"bps": 50, "share": 0.5}, {"bps": 40, "share": 0.5}], {}, r"ladder: 50, 40 bps do not rise"),
    ([{"bps": 50, "share": 0.5}, {"bps": 60, "share": 0.6}], {}, r"ladder: the shares add up to 1.1"),
    ([{"bps": 50, "share": 0.5}], {"target_bps": 50}, r"ladder\[0\].bps: 50 is not nearer than target_bps = 50"),
])
def test_a_ladder_that_cannot_be_climbed_is_refused(ladder: list[dict[str, float]], more: dict[str, int], says: str, world: World) -> None:
    with pytest.raises(NotArmed, match=says):
        enter(world, ladder=ladder, **more)
