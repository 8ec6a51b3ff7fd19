"""Twins: a position's trade once more on paper with a stop or a target at another distance, and nothing that it keeps from happening.

One spot instrument: tick 0.01, lot 0.001, value_quanta 1000; an entry of 1000 lots at 100.00, stop 99.00, target 102.00.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from hotpath.config import Limits
from ipc import layout as l
from ipc import messages
from tests.test_hotpath_exits import at, enter, exits, fill
from tests.test_hotpath_papers import fire
from tests.test_hotpath_sniper import World


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6))
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def twins(world: World) -> list[Any]:
    return [row for row in world.orders(l.PAPER_OPENED) if row["order_seq"]]


def ended(world: World) -> list[tuple[str, int]]:
    """(reason, average exit price) of every trade on paper."""
    rows = [np.array([row]).view(l.TRADE)[0] for row in world.orders(l.PAPER_CLOSED)]
    return [(l.EXIT_REASONS[int(row["exit_reason"])], int(row["exit_price"])) for row in rows]


@pytest.mark.parametrize(("asked", "stop", "target"), [
    ({"twin_stop_pct": 75}, 9_925, 10_200), ({"twin_stop_pct": 150}, 9_850, 10_200), ({"twin_target_pct": 75}, 9_900, 10_150),
    ({"twin_target_pct": 150}, 9_900, 10_300), ({"twin_stop_pct": 67, "twin_target_pct": 133}, 9_933, 10_266),
    ({"stop_bps": 0, "stop_price": "99.10", "target_bps": 0, "target_price": "101.00", "twin_stop_pct": 150}, 9_865, 10_100)],
    ids=["tighter stop", "wider stop", "nearer target", "farther target", "both", "of prices"])
def test_its_levels_are_at_so_many_percent_of_the_positions_distances(world: World, asked: dict[str, Any], stop: int, target: int) -> None:
    order = enter(world, **{"target_bps": 200, **asked})
    (row,) = twins(world)
    assert (int(row["limit_price"]), int(row["reference_price"]), int(row["value"]), int(row["lots"])) == (stop, target, 10_000, 1000)
    assert (int(row["order_seq"]), int(row["code"])) == (int(order["position_id"]), l.POS_MONITORING)
    assert int(row["position_id"]) not in (0, int(order["position_id"]))


def test_a_condition_that_asks_for_none_has_none(world: World) -> None:
    enter(world, target_bps=200)
    assert world.orders(l.PAPER_OPENED) == []
    assert int(world.s.account[0]["paper_positions"]) == 0


def test_it_ends_by_itself_before_or_after_its_position_and_touches_no_money(world: World) -> None:
    enter(world, target_bps=200, twin_target_pct=150)
    cash = int(world.s.account[0]["cash"])
    at(world, 10_210)
    assert [reason for _, reason, _ in exits(world)] == [l.EXIT_TARGET]
    fill(world, 10_205)
    gained = int(world.s.account[0]["cash"]) - cash
    assert len(world.orders(l.CLOSED)) == 1
    assert ended(world) == []
    at(world, 10_320)
    assert ended(world) == [("target", 10_320)]
    assert int(world.s.account[0]["cash"]) - cash == gained
    assert (int(world.s.account[0]["paper_positions"]), int(world.s.states[0]["open_mask"])) == (0, 0)


def test_it_pays_the_entry_fee_of_its_position_and_the_takers_fee_at_its_end(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="100.00", twin_stop_pct=75)
    world.quote(9_999, 10_001)
    world.trade(10_010)
    order = world.orders()[-1]
    lots = int(order["lots"])
    world.report(kind=l.FILL, order_seq=order["seq"], cum_lots=lots, cum_quote=lots * 10_000 * 1000, last_lots=lots, last_price=10_000, trade_id=7,
                 fee=12_345)
    at(world, 9_920)
    (row,) = world.orders(l.PAPER_CLOSED)
    fee_e8 = int(world.s.instruments[0]["taker_fee_e8"])
    assert int(np.array([row]).view(l.TRADE)[0]["fees"]) == 12_345 + -(-lots * 9_920 * 1000 * fee_e8 // 10**8)


def test_an_entry_in_parts_has_its_twin_when_it_has_ended_at_the_average_price(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="100.00", twin_stop_pct=150)
    world.quote(9_999, 10_001)
    world.trade(10_010)
    fill(world, 10_000, lots=100)
    assert twins(world) == []
    order = world.orders()[-1]
    world.report(kind=l.FILL, order_seq=order["seq"], cum_lots=200, cum_quote=(100 * 10_000 + 100 * 9_980) * 1000, last_lots=100, last_price=9_980,
                 trade_id=5000)
    assert twins(world) == []
    world.report(kind=l.CANCELLED, order_seq=order["seq"], cum_lots=200, cum_quote=(100 * 10_000 + 100 * 9_980) * 1000)
    (row,) = twins(world)
    assert (int(row["value"]), int(row["lots"]), int(row["limit_price"])) == (9_990, 200, 9_990 - 99 * 150 // 100)


def test_a_position_that_began_to_close_before_its_entry_ended_has_none(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="100.00", twin_stop_pct=150)
    world.quote(9_999, 10_001)
    world.trade(10_010)
    entry = world.orders()[-1]
    fill(world, 10_000, lots=100)
    at(world, 9_890)
    world.report(kind=l.CANCELLED, order_seq=entry["seq"], cum_lots=100, cum_quote=100 * 10_000 * 1000)
    assert twins(world) == []


def test_what_is_not_there_cannot_be_moved(world: World) -> None:
    enter(world, twin_target_pct=150)  # without a target
    assert twins(world) == []


def test_while_a_trade_on_paper_is_open_there_a_position_opens_without_a_twin(world: World) -> None:
    fire(world, stop_bps=500)
    world.trade(9_990)
    order = enter(world, plan_seq=2, twin_stop_pct=150)
    assert int(order["purpose"]) == l.ENTRY
    assert twins(world) == []


def test_a_twin_keeps_no_position_from_opening_and_the_next_one_has_none_of_its_own(world: World) -> None:
    enter(world, target_bps=100, twin_target_pct=250)
    at(world, 10_110)
    fill(world, 10_110)
    assert len(world.orders(l.CLOSED)) == 1
    world.quote(9_999, 10_000)
    world.trade(9_990)
    second = enter(world, plan_seq=2, target_bps=100, twin_target_pct=250)
    assert int(second["purpose"]) == l.ENTRY
    assert (len(twins(world)), int(world.s.account[0]["paper_positions"])) == (1, 1)
    at(world, 9_890)
    fill(world, 9_890)
    assert ([int(row["code"]) for row in world.orders(l.CLOSED)], ended(world)) == ([l.EXIT_TARGET, l.EXIT_STOP], [("stop", 9_890)])


def test_it_is_none_of_the_days_trades_on_paper(memory: Any) -> None:
    world = World(memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6, max_entries_per_day=1))
    world.quote(9_999, 10_000)
    world.trade(10_000)
    enter(world, twin_stop_pct=75)
    at(world, 9_890)
    fill(world, 9_890)
    world.trade(9_990)
    fire(world, plan_seq=2)
    assert len([row for row in world.orders(l.PAPER_OPENED) if not row["order_seq"]]) == 2, "opening and in: one is permitted"


def test_ladder_break_even_and_time_stop_are_its_positions(world: World) -> None:
    enter(world, target_bps=400, ladder=[{"bps": 50, "share": 0.5}], break_even_bps=100, time_stop_s=600, twin_stop_pct=150)
    row = world.s.papers[0]
    assert (int(row["rungs"]), int(row["break_even_bps"])) == (1, 100)
    assert int(row["deadline_ns"]) == int(world.s.positions[0]["deadline_ns"]) > 0
    at(world, 10_060)
    assert (int(world.s.papers[0]["lots"]), int(world.s.papers[0]["exit_quote"])) == (500, 500 * 10_060 * 1000)
    world.now += 600 * 10**9
    world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.run()
    assert [reason for reason, _ in ended(world)] == ["time"]


def test_what_an_operator_moves_or_closes_is_the_position_alone(world: World) -> None:
    order = enter(world, target_bps=200, twin_stop_pct=150)
    table, commands = world.memory.conditions.table[0], world.memory.conditions.commands
    for command, fields in ((l.CMD_ADJUST, {"stop_price": 9_950}), (l.CMD_CLOSE_POSITION, {"reason": l.EXIT_OPERATOR})):
        seq = int(table["command_seq"]) + 1
        commands[seq % l.MAX_COMMANDS] = np.zeros((), l.COMMAND)
        for name, value in {"command": command, "argument": int(order["position_id"]), **fields}.items():
            commands[seq % l.MAX_COMMANDS][name] = value
        table["command_seq"] = seq
        at(world, 10_000)
    assert int(world.s.papers[0]["stop_price"]) == 9_850
    assert [reason for _, reason, _ in exits(world)] == [l.EXIT_OPERATOR]
    fill(world, 10_000)
    assert ended(world) == []
    at(world, 9_840)
    assert ended(world) == [("stop", 9_840)]


def test_it_survives_the_sniper_and_ends_with_the_data(world: World) -> None:
    enter(world, target_bps=200, twin_stop_pct=150)
    world.successor()
    world.publish_only(kind=l.TICK_SESSION, instrument=l.NO_INSTRUMENT, flags=l.FLAG_END)
    world.run()
    assert [reason for reason, _ in ended(world)] == ["end_of_data"]


def test_a_ring_with_room_for_exits_alone_begins_none(world: World) -> None:
    reserve = int(world.memory.conditions.params[int(world.memory.conditions.table[0]["params_epoch"]) & 1]["ring_reserve"])
    fields = {"symbol": "BTC/USDT", "side": "buy", "level": "100.05", "direction": "up", "confidence": 0.9, "why": "test",
              "size": {"kind": "base", "value": "1"}, "stop_bps": 100, "twin_stop_pct": 150}
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1,
                             conditions=[msgspec.convert(fields, messages.Condition)]))
    world.quote(9_999, 10_001)
    world.trade(10_010)
    world.memory.orders.readers[l.RECORDER]["cursor"] = int(world.memory.orders.ring[0]["head"]) - (l.RING_SLOTS - reserve - 3)
    fill(world, 10_000)
    assert twins(world) == []
    assert len(world.orders(l.LIFECYCLE)) == 2


def test_a_row_carries_what_is_asked_for(world: World) -> None:
    enter(world, target_bps=200, twin_stop_pct=133, twin_target_pct=67)
    row = world.s.rows[int(np.flatnonzero(world.s.rows["condition_id"])[0])]
    assert (int(row["twin_stop_pct"]), int(row["twin_target_pct"])) == (133, 67)
    position = world.s.positions[0]
    assert (int(position["twin_stop_pct"]), int(position["twin_target_pct"]), int(position["exit_reason"])) == (133, 67, l.EXIT_NONE)
