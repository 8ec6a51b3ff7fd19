"""Trades on paper, what the market was like at an entry, and the price after an exit: each told, none of it money.

One spot instrument: tick 0.01, lot 0.001, value_quanta 1000; an entry of 1000 lots at 100.01.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from hotpath.config import Limits
from hotpath.kernel import features
from ipc import layout as l
from ipc import messages
from tests.test_hotpath_exits import enter, fill
from tests.test_hotpath_sniper import World

MINUTE_S = 60


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6))
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def fire(world: World, plan_seq: int = 1, **more: Any) -> None:
    """A condition on paper whose level is passed while the ask is 100.01."""
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "level": "100.05", "direction": "up", "confidence": 0.9, "why": "test",
                              "size": {"kind": "base", "value": "1"}, "stop_bps": 100, "target_bps": 200, "paper": True, **more}
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=plan_seq,
                             conditions=[msgspec.convert(fields, messages.Condition)]))
    world.quote(9_999, 10_001)
    world.trade(10_010)


def trade_of(row: Any) -> Any:
    return np.array([row]).view(l.TRADE)[0]


def test_a_condition_on_paper_makes_no_order_and_moves_no_money(world: World) -> None:
    before = {name: int(world.s.account[0][name]) for name in ("cash", "reserved", "open_positions", "entries_today", "messages_due_ns", "equity")}
    fire(world)
    world.quote(10_250, 10_251)
    assert world.orders() == []
    assert {name: int(world.s.account[0][name]) for name in before} == before
    assert int(world.s.states[0]["open_mask"]) == 0
    assert int(world.s.account[0]["paper_positions"]) == 0


@pytest.mark.parametrize(("bid", "reason"), [(9_800, l.EXIT_STOP), (10_250, l.EXIT_TARGET)], ids=["stop", "target"])
def test_it_ends_where_a_position_would_have_at_the_executable_price_with_both_fees(world: World, bid: int, reason: int) -> None:
    fire(world)
    world.quote(bid, bid + 1)
    (row,) = world.orders(l.PAPER_CLOSED)
    closed = trade_of(row)
    fee_e8 = int(world.s.instruments[0]["taker_fee_e8"])
    fees = sum(-(-1000 * price * 1000 * fee_e8 // 10**8) for price in (10_001, bid))
    assert (int(closed["entry_price"]), int(closed["exit_price"]), int(closed["exit_reason"])) == (10_001, bid, reason)
    assert (int(closed["fees"]), int(closed["pnl"])) == (fees, (bid - 10_001) * 1000 * 1000 - fees)
    opened = [(l.POSITION_STATES[row["code"]], int(row["value"])) for row in world.orders(l.PAPER_OPENED)]
    assert opened == [("opening", 0), ("monitoring", 10_001)]
    assert {int(row["position_id"]) for row in (*world.orders(l.PAPER_OPENED), row)} == {int(closed["position_id"])}


def test_a_time_stop_ends_it_at_a_clock_tick(world: World) -> None:
    fire(world, time_stop_s=30)
    world.now += 31 * 10**9
    world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.run()
    (row,) = world.orders(l.PAPER_CLOSED)
    assert int(row["code"]) == l.EXIT_TIME


def test_a_limit_waits_until_the_price_meets_it_or_its_time_is_over(world: World) -> None:
    fire(world, order="limit", limit_price="99.90", valid_for_s=600)
    assert [int(row["code"]) for row in world.orders(l.PAPER_OPENED)] == [l.POS_OPENING]
    world.quote(9_980, 9_989)
    assert [int(row["value"]) for row in world.orders(l.PAPER_OPENED)] == [0, 9_989]
    world.quote(9_700, 9_701)
    assert len(world.orders(l.PAPER_CLOSED)) == 1
    world.trade(9_990)
    fire(world, plan_seq=2, order="limit", limit_price="95.00", valid_for_s=60)
    world.now += 61 * 10**9
    world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.run()
    assert (len(world.orders(l.PAPER_CLOSED)), int(world.s.account[0]["paper_positions"])) == (1, 0)


def test_a_second_one_of_the_same_strategy_and_symbol_is_refused_while_the_first_is_open(world: World) -> None:
    fire(world)
    world.trade(9_990)
    fire(world, plan_seq=2)
    assert [int(row["code"]) for row in world.orders(l.REFUSED)] == [l.REF_POSITION_OPEN]


def test_a_position_of_the_same_strategy_opens_beside_it(world: World) -> None:
    fire(world)
    world.trade(9_990)
    order = enter(world, plan_seq=2)
    assert int(order["purpose"]) == l.ENTRY
    world.quote(9_800, 9_801)
    assert [int(row["code"]) for row in world.orders()[1:]] == [l.EXIT_STOP]
    assert len(world.orders(l.PAPER_CLOSED)) == 1


def test_it_counts_as_a_fire(world: World) -> None:
    fire(world, max_fires=1)
    world.quote(9_800, 9_801)
    world.trade(9_900)
    world.quote(9_999, 10_001)
    world.trade(10_010)
    assert len(world.orders(l.PAPER_OPENED)) == 2, "opening and in, once"


def test_it_keeps_no_other_of_its_group_from_trading(world: World) -> None:
    fields = {"symbol": "BTC/USDT", "side": "buy", "direction": "up", "confidence": 0.9, "why": "test", "size": {"kind": "base", "value": "1"},
              "stop_bps": 100, "group": "one"}
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1, conditions=[
        msgspec.convert({**fields, "level": "100.05", "paper": True}, messages.Condition),
        msgspec.convert({**fields, "level": "100.08"}, messages.Condition)]))
    world.quote(9_999, 10_001)
    world.trade(10_010)
    assert (len(world.orders(l.PAPER_OPENED)), len(world.orders())) == (2, 1)


def test_of_what_an_order_would_be_refused_for_by_itself_nothing_is_followed(world: World) -> None:
    fire(world, max_slippage_bps=1, level="100.00")
    world.trade(9_990)
    fire(world, plan_seq=2, size={"kind": "base", "value": "20000"})
    assert [l.REFUSALS[int(row["code"])] for row in world.orders(l.REFUSED)][-1] in ("max_lots", "order_value")
    assert len(world.orders(l.PAPER_OPENED)) == 0


def test_a_day_has_ten_times_as_many_of_them_as_entries_are_permitted(memory: Any) -> None:
    """A coin that is shut and fires often would else leave nothing to be followed in the evening, and an hour's rule could never be found wrong."""
    world = World(memory, Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6, max_entries_per_day=2))
    world.quote(9_999, 10_000)
    for number in range(1, 23):
        world.trade(9_990)
        fire(world, plan_seq=number)
        world.quote(9_800, 9_801)
    assert len(world.orders(l.PAPER_CLOSED)) == 20
    assert [l.REFUSALS[int(row["code"])] for row in world.orders(l.REFUSED)] == ["daily_entries"] * 2


def test_what_is_left_of_a_full_ring_is_for_exits(world: World) -> None:
    fire(world)
    reserve = int(world.memory.conditions.params[int(world.memory.conditions.table[0]["params_epoch"]) & 1]["ring_reserve"])
    world.memory.orders.readers[l.RECORDER]["active"] = 1
    world.memory.orders.readers[l.RECORDER]["cursor"] = int(world.memory.orders.ring[0]["head"]) - (l.RING_SLOTS - reserve - 3)
    world.quote(9_800, 9_801)
    assert world.orders(l.PAPER_CLOSED) == []
    world.memory.orders.readers[l.RECORDER]["cursor"] = int(world.memory.orders.ring[0]["head"])
    world.quote(9_790, 9_791)
    assert len(world.orders(l.PAPER_CLOSED)) == 1


def test_one_that_is_open_survives_the_sniper(world: World) -> None:
    fire(world)
    world.successor()
    world.quote(9_800, 9_801)
    assert len(world.orders(l.PAPER_CLOSED)) == 1


def test_the_end_of_the_data_ends_it(world: World) -> None:
    fire(world)
    world.publish_only(kind=l.TICK_SESSION, instrument=l.NO_INSTRUMENT, flags=l.FLAG_END)
    world.run()
    (row,) = world.orders(l.PAPER_CLOSED)
    assert int(row["code"]) == l.EXIT_END


# ── context and aftermath ────────────────────────────────────────────────────────────────────────────────────────────
def test_an_entry_tells_what_the_market_was_like(world: World) -> None:
    for k in range(400):
        world.quote(9_990 + k % 5, 10_001, after_s=0.2)
        world.trade(9_995 + k % 7, after_s=0.1)
    order = enter(world)
    (row,) = world.orders(l.CONTEXT)
    context = np.array([row]).view(l.ENTRY_CONTEXT)[0]
    expected = np.zeros(len(l.FEATURES))
    features.values(world.s, 0, int(world.line["event_ns"]), expected)
    told = np.concatenate([context["features"], context["more_features"]])
    assert told == pytest.approx(expected[list(l.CONTEXT_FEATURES)].astype(np.float32), nan_ok=True)
    assert np.isfinite(told).sum() >= 8
    assert int(context["position_id"]) == int(order["position_id"])


def test_a_trade_on_paper_tells_it_too(world: World) -> None:
    fire(world)
    assert {int(row["position_id"]) for row in world.orders(l.CONTEXT)} == {int(world.orders(l.PAPER_OPENED)[0]["position_id"])}


def after(world: World, minutes: float) -> None:
    world.now += int(minutes * MINUTE_S * 10**9)
    world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.run()


def test_the_price_is_told_five_and_fifteen_minutes_after_the_exit(world: World) -> None:
    order = enter(world)
    world.quote(9_800, 9_801)
    fill(world, 9_800)
    assert len(world.orders(l.CLOSED)) == 1
    after(world, 4.9)
    assert world.orders(l.AFTERWARDS) == []
    world.quote(9_900, 9_901)
    after(world, 0.2)
    after(world, 9)
    assert len(world.orders(l.AFTERWARDS)) == 1
    world.quote(10_300, 10_301)
    after(world, 0.95)
    assert [(int(row["code"]), int(row["limit_price"]), int(row["reference_price"]), int(row["flags"])) for row in world.orders(l.AFTERWARDS)] == [
        (5, 9_800, 9_900, l.EXIT_STOP), (15, 9_800, 10_300, l.EXIT_STOP)]
    assert {int(row["position_id"]) for row in world.orders(l.AFTERWARDS)} == {int(order["position_id"])}
    after(world, 60)
    assert len(world.orders(l.AFTERWARDS)) == 2, "once each"


def test_a_price_of_another_time_is_not_told_as_that_of_then(world: World) -> None:
    enter(world)
    world.quote(9_800, 9_801)
    fill(world, 9_800)
    after(world, 5.5)  # the last quote is five minutes old
    assert [int(row["reference_price"]) for row in world.orders(l.AFTERWARDS)] == [0]
    after(world, 600)
    world.quote(9_900, 9_901)
    after(world, 0.01)
    assert [int(row["reference_price"]) for row in world.orders(l.AFTERWARDS)] == [0, 0]


def test_what_is_to_be_told_survives_the_sniper(world: World) -> None:
    enter(world)
    world.quote(9_800, 9_801)
    fill(world, 9_800)
    world.successor()
    after(world, 16)
    assert [int(row["code"]) for row in world.orders(l.AFTERWARDS)] == [5, 15]


def test_of_too_many_within_fifteen_minutes_the_oldest_is_not_told(world: World) -> None:
    enter(world)
    world.quote(9_800, 9_801)
    fill(world, 9_800)
    closed = world.s.after[0]
    closed["closed"] += l.MAX_AFTERMATH - 1
    for row in range(1, l.MAX_AFTERMATH):
        world.s.aftermath[row] = world.s.aftermath[0]
        world.s.aftermath[row]["position_id"] += row
    enter(world, plan_seq=2)
    world.quote(9_800, 9_801)
    fill(world, 9_800)
    after(world, 6)
    for _ in range(20):
        after(world, 0.01)
    told = [int(row["position_id"]) for row in world.orders(l.AFTERWARDS)]
    assert len(told) == len(set(told)) == l.MAX_AFTERMATH
