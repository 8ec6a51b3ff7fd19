"""What must hold when things are late, missing or full: protection, limits, and entries that end."""

from __future__ import annotations

from typing import Any

import pytest

from hotpath.arming import NotArmed
from hotpath.config import Limits
from ipc import board, messages, ring
from ipc import layout as l
from tests.test_hotpath_sniper import SECOND, World


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory)
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def entered(world: World) -> Any:
    """A long of one order, filled at 100.00; its stop is at 99.00."""
    world.arm("100.05")
    world.trade(10_010)
    (order,) = world.orders()
    world.fill(order, 10_000)
    return order


def clock(world: World, after_s: float = 0.1) -> None:
    world.now += int(after_s * 1_000_000_000)
    world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.run()


def fill_ring(world: World, room: int = 0) -> None:
    """The recorder stands still, so that the order ring takes only so many records more."""
    head = ring.head(world.memory.orders.ring)
    ring.advance(world.memory.orders.readers, l.RECORDER, head - (l.RING_SLOTS - room))


def test_a_stop_is_kept_by_trades_when_quotes_come_no_more(world: World) -> None:
    entered(world)
    for _ in range(4):
        world.trade(10_000, after_s=3)
    world.trade(9_899, after_s=3)
    assert [int(order["code"]) for order in world.orders()] == [0, l.EXIT_STOP]


def test_a_trade_below_the_stop_closes_nothing_while_the_quote_is_fresh(world: World) -> None:
    entered(world)
    world.quote(9_999, 10_000)
    world.trade(9_800)
    assert len(world.orders()) == 1


def test_while_a_position_has_no_price_equity_peak_and_drawdown_stay_as_they_were(world: World) -> None:
    entered(world)
    world.quote(10_500, 10_510)
    clock(world)
    account, state = world.s.account[0], world.s.states[0]
    before = (int(account["equity"]), int(account["peak_equity"]), int(account["max_drawdown_e6"]))
    for name in ("last", "bid", "ask"):
        state[name] = 0  # as after a start: the book is restored, and no tick of the symbol has come
    clock(world)
    assert (int(account["equity"]), int(account["peak_equity"]), int(account["max_drawdown_e6"])) == before
    world.quote(10_400, 10_410)
    clock(world)
    assert int(account["equity"]) < before[0]


def test_the_daily_loss_counts_a_deposit_that_came_behind_the_first_tick(memory: Any) -> None:
    world = World(memory, Limits(daily_loss_bps=500, max_symbol_exposure_bps=10_000))
    deposit = int(world.s.account[0]["cash"])
    for name in ("cash", "equity", "day_start_equity"):
        world.s.account[0][name] = 0
    world.quote(9_999, 10_000)
    world.report(kind=l.BALANCE, balance=deposit)
    world.trade(10_000)
    world.s.account[0]["cash"] = deposit * 94 // 100
    world.arm("100.05")
    world.trade(10_010)
    assert world.orders() == []
    assert world.s.refusals[l.REF_DAILY_LOSS] == 1


def resting(world: World, **more: Any) -> Any:
    """A limit entry that waits at the venue."""
    world.arm("100.05", order="limit", limit_price="90.00", **more)
    world.trade(10_010)
    (order,) = world.orders()
    return order


def test_a_resting_entry_is_cancelled_when_its_condition_expires(world: World) -> None:
    order = resting(world, valid_for_s=30)
    world.quote(9_999, 10_000)
    clock(world)
    assert world.orders(l.CANCEL) == []
    clock(world, 30)
    clock(world)
    assert [int(cancel["order_seq"]) for cancel in world.orders(l.CANCEL)] == [int(order["seq"])], "once"
    world.report(kind=l.CANCELLED, order_seq=order["seq"])
    account = world.s.account[0]
    assert (account["open_positions"], account["working_orders"], account["reserved"]) == (0, 0, 0)


def test_resting_entries_are_cancelled_when_entries_are_no_longer_allowed(world: World) -> None:
    order = resting(world)
    board.set_mode(world.memory.board.modes, l.MODE_OF_OPERATOR, l.MODE_HALTED, "test")
    clock(world)
    assert [int(cancel["order_seq"]) for cancel in world.orders(l.CANCEL)] == [int(order["seq"])]


def test_closing_a_position_that_is_not_filled_yet_cancels_its_entry(world: World) -> None:
    order = resting(world)
    commands, table = world.memory.conditions.commands, world.memory.conditions.table[0]
    commands[1]["command"], commands[1]["argument"], commands[1]["reason"] = l.CMD_CLOSE_POSITION, order["position_id"], l.EXIT_OPERATOR
    table["command_seq"] = 1
    clock(world)
    assert [int(cancel["order_seq"]) for cancel in world.orders(l.CANCEL)] == [int(order["seq"])]
    world.fill(order, 9_000)  # it was too late
    clock(world)
    assert [int(exit_["code"]) for exit_ in world.orders()[1:]] == [l.EXIT_OPERATOR]


def test_margin_of_open_perpetuals_is_not_spent_twice(memory: Any) -> None:
    world = World(memory, Limits(max_symbol_exposure_bps=10_000, max_gross_exposure_bps=20_000))
    for number, name in enumerate((b"BTC/USDT:USDT", b"ETH/USDT:USDT")):
        memory.instruments.instruments[number] = memory.instruments.instruments[0]
        row = memory.instruments.instruments[number]
        row["symbol"], row["kind"] = name, l.KIND_LINEAR_PERPETUAL
    memory.board.run[0]["instruments"] = 2
    world.armoury = type(world.armoury)(memory, world.run)
    for number in (0, 1):
        world.publish_only(kind=l.TICK_QUOTE, instrument=number, price=9_999, lots=10, ask_price=10_000, ask_lots=10)
        world.publish_only(kind=l.TICK_TRADE, instrument=number, price=10_000, lots=1)
    world.run()
    conditions = [messages.Condition(symbol=symbol, side="buy", level="100.05", direction="up", confidence=0.9, why="test", stop_bps=100,
                                     size=messages.Size(kind="equity_bps", value=size))
                  for symbol, size in (("BTC/USDT:USDT", "9000"), ("ETH/USDT:USDT", "2000"))]
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1, conditions=conditions))
    world.run()
    world.publish_only(kind=l.TICK_TRADE, instrument=0, price=10_010, lots=1)
    world.run()
    (order,) = world.orders()
    world.fill(order, 10_000)
    world.publish_only(kind=l.TICK_TRADE, instrument=1, price=10_010, lots=1)
    world.run()
    assert len(world.orders()) == 1
    assert world.s.refusals[l.REF_CASH] == 1


def test_nothing_is_entered_while_an_open_position_has_no_price(world: World) -> None:
    other = world.s.positions[l.MAX_STRATEGIES]  # of instrument 1, as a restart leaves it
    other["state"], other["side"], other["lots"], other["cost"], other["instrument"] = l.POS_OPEN, l.BUY, 5, 5_000_000, 1
    world.s.states[1]["open_mask"] = 1
    world.s.account[0]["open_positions"], world.s.open_rows[0] = 1, l.MAX_STRATEGIES
    world.arm("100.05")
    world.trade(10_010)
    assert world.orders() == []
    assert world.s.refusals[l.REF_NO_QUOTE] == 1


def test_a_plan_that_is_armed_twice_fires_once(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    generation = int(world.memory.conditions.table[0]["generation"])
    world.arm("100.05")
    assert int(world.memory.conditions.table[0]["generation"]) == generation
    world.report(kind=l.REJECTED, order_seq=world.orders()[0]["seq"])
    world.trade(10_000)
    world.trade(10_010)
    assert len(world.orders()) == 1


def test_an_exit_that_is_rejected_is_tried_again_with_growing_pauses_for_ever(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    world.fill(world.orders()[0], 10_010)
    pauses, last = [], 0
    for attempt in range(7):
        while len(world.orders()) < 2 + attempt:
            world.quote(9_000, 9_002, after_s=0.1)
        pauses.append(round((world.now - last) / SECOND, 1))
        world.report(kind=l.REJECTED, order_seq=world.orders()[-1]["seq"])
        last = world.now
    assert pauses[1:] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_an_older_plan_is_refused(world: World) -> None:
    world.arm("100.05", plan_seq=7)
    with pytest.raises(NotArmed, match="plan_seq: 6 is older than 7"):
        world.arm("100.05", plan_seq=6)


def test_an_exit_that_meets_a_full_ring_goes_out_later_though_the_price_has_come_back(world: World) -> None:
    entered(world)
    fill_ring(world)
    world.quote(9_800, 9_801)
    world.quote(9_999, 10_000)
    assert len(world.orders()) == 1
    ring.advance(world.memory.orders.readers, l.RECORDER, ring.head(world.memory.orders.ring))
    clock(world)
    assert [int(order["code"]) for order in world.orders()] == [0, l.EXIT_STOP]


@pytest.mark.parametrize(("fields", "says"), [
    ({"stop_bps": 0, "trail_distance_bps": 20, "trail_activation_bps": 50}, "no position may be without protection"),
    ({"stop_bps": 10_000}, "stop_bps: 10000 is at or below a price of zero"),
    ({"order": "limit", "limit_price": "0"}, "limit_price: 0 is outside the prices"),
])
def test_what_would_not_protect_is_not_armed(world: World, fields: dict[str, Any], says: str) -> None:
    condition = messages.Condition(**{  # type: ignore[arg-type]
        "symbol": "BTC/USDT", "side": "buy", "level": "100.05", "direction": "up", "confidence": 0.9, "why": "test", "stop_bps": 100,
        "size": messages.Size(kind="equity_bps", value="500"), **fields})
    with pytest.raises(NotArmed, match=says):
        world.take(messages.Plan(strategy="probe", due_ns=1, next_due_ns=2, plan_seq=9, conditions=[condition]))


def test_a_report_that_is_not_about_an_orders_fate_ends_none(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    (order,) = world.orders()
    world.report(kind=l.ADOPTED, order_seq=order["seq"])
    assert world.s.account[0]["working_orders"] == 1
