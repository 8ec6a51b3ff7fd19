"""Each control of the risk gate: what it refuses, and what it lets pass at its exact edge. Tick 0.01, lot 0.001, equity 10,000 USDT."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hotpath.config import Hotpath, Limits
from hotpath.sniper import write_params
from ipc import board, messages, ring
from ipc import layout as l
from tests.test_hotpath_protection import clock, entered, fill_ring, resting
from tests.test_hotpath_sniper import World

#: order-ring slots that entries leave for exits and cancels
RESERVE = l.RING_SLOTS // 4
#: slots that the largest single action of a step may take, whatever it then takes
ONE_ACTION = 4

#: everything that is not under test lets pass
OPEN = {"max_open_positions": 1000, "max_symbol_exposure_bps": 10_000, "daily_loss_bps": 10_000, "max_entries_per_day": 1_000_000,
        "min_confidence": 0.0, "max_quote_age_ms": 3_600_000, "max_order_value": 1e9, "price_collar_bps": 10_000, "window_collar_bps": 10_000,
        "max_gross_exposure_bps": 1_000_000, "min_equity": 0.0, "duplicate_window_ms": 0, "max_messages_per_s": 1e6}


def limits(**more: Any) -> Limits:
    return msgspec.convert({**OPEN, **more}, Limits)


@pytest.fixture
def world(memory: Any) -> World:
    """One spot instrument; last 100.00, quoted 99.99 to 100.01."""
    made = World(memory, limits())
    made.quote(9_999, 10_001)
    made.trade(10_000)
    return made


def limit(world: World, **more: Any) -> None:
    write_params(world.memory, limits(**more), Hotpath())


def ask_for(world: World, value: str = "100", plan_seq: int = 0, kind: str = "quote", at: int = 10_000, **more: Any) -> int:
    """Arm a buy just above the last price and cross it at a quote of `at` ± 1 tick; REF_NONE, or why it was refused."""
    world.plans = plan_seq or getattr(world, "plans", 0) + 1  # type: ignore[attr-defined]
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "level": f"{at / 100:.2f}", "direction": "up", "confidence": 0.9, "why": "test",
                              "size": {"kind": kind, "value": value}, "stop_bps": 100, **more}
    before, refused = len(world.orders()), world.s.refusals.copy()
    world.trade(at - 5, after_s=0.01)
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=world.plans,  # type: ignore[attr-defined]
                                    conditions=[msgspec.convert(fields, messages.Condition)]))
    world.run()
    world.quote(at - 1, at + 1, after_s=0.01)
    world.trade(at, after_s=0.01)
    codes = [code for code in range(len(l.REFUSALS)) if world.s.refusals[code] != refused[code]]
    assert len(codes) + (len(world.orders()) - before) == 1
    return codes[0] if codes else l.REF_NONE


def rejected(world: World) -> None:
    """The venue refuses the last order: nothing stays of it."""
    world.report(kind=l.REJECTED, order_seq=world.orders()[-1]["seq"])


# 0.999 lots of 100.01: 99.90999 USDT is the most under 100, and what 100 USDT buy
def test_the_largest_order_value(world: World) -> None:
    limit(world, max_order_value=99.90998)
    assert ask_for(world) == l.REF_ORDER_VALUE
    limit(world, max_order_value=99.90999)
    assert ask_for(world) == l.REF_NONE


@pytest.mark.parametrize(("last", "code"), [
    (10_000, l.REF_NONE), (9_900, l.REF_NONE), (9_899, l.REF_COLLAR), (10_500, l.REF_NONE)])
def test_the_collar_around_the_last_trade(last: int, code: int, world: World) -> None:
    """1 % of the last trade: 9,900 ticks reach 9,999, 9,899 do not. A limit that is better than the market only waits."""
    limit(world, price_collar_bps=100)
    fields = {"order": "limit", "limit_price": "99.99" if last < 10_001 else "100.01"}
    world.s.states[0]["last"] = last
    world.trade(last - 5, after_s=0.01)
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1, conditions=[msgspec.convert(
        {"symbol": "BTC/USDT", "side": "buy", "level": f"{last / 100:.2f}", "direction": "up", "confidence": 0.9, "why": "test", "stop_bps": 100,
         "size": {"kind": "quote", "value": "100"}, **fields}, messages.Condition)]))
    world.run()
    world.trade(last, after_s=0.01)
    assert (len(world.orders()) == 1) == (code == l.REF_NONE)
    assert bool(world.s.refusals[l.REF_COLLAR]) == (code == l.REF_COLLAR)


def test_the_collar_around_the_average_of_a_minute(world: World) -> None:
    for _ in range(300):
        world.trade(10_000, after_s=1)
    limit(world, window_collar_bps=100)
    assert ask_for(world, at=10_090) == l.REF_NONE
    rejected(world)
    assert ask_for(world, at=10_110) == l.REF_WINDOW_COLLAR


def test_gross_exposure_counts_what_works_on_every_symbol(world: World) -> None:
    limit(world, max_gross_exposure_bps=100)
    assert ask_for(world, "99") == l.REF_NONE  # 0.989 lots are 98.9 USDT of 100
    world.memory.instruments.strategies[1]["name"] = b"other"
    row = world.s.states[0]
    assert int(row["working_lots"]) == 989
    world.s.positions[0]["state"] = l.POS_FLAT  # as if it were another strategy's
    assert ask_for(world, "1.2") == l.REF_GROSS_EXPOSURE
    world.s.positions[0]["state"] = l.POS_FLAT
    assert ask_for(world, "1.0") == l.REF_NONE


def test_the_least_equity(world: World) -> None:
    limit(world, min_equity=10_000.00000001)
    assert ask_for(world) == l.REF_EQUITY
    limit(world, min_equity=10_000.0)
    assert ask_for(world) == l.REF_NONE


def test_a_book_with_one_side_is_empty(world: World) -> None:
    world.s.states[0]["ask"] = 0
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1, conditions=[msgspec.convert(
        {"symbol": "BTC/USDT", "side": "buy", "level": "100.05", "direction": "up", "confidence": 0.9, "why": "test", "stop_bps": 100,
         "size": {"kind": "quote", "value": "100"}}, messages.Condition)]))
    world.run()
    world.trade(10_005)
    assert int(world.s.refusals[l.REF_EMPTY_BOOK]) == 1


def test_the_same_order_again_within_the_window(world: World) -> None:
    limit(world, duplicate_window_ms=1000)
    assert ask_for(world) == l.REF_NONE
    first = int(world.orders()[-1]["event_ns"])
    rejected(world)
    assert ask_for(world) == l.REF_DUPLICATE
    assert ask_for(world, "99") == l.REF_NONE, "another size is another order"
    rejected(world)
    assert ask_for(world) == l.REF_NONE, "it is the last one that counts"
    rejected(world)
    world.now = int(world.orders()[-1]["event_ns"]) + 1_000_000_000 - 30_000_000 - 1
    assert ask_for(world) == l.REF_DUPLICATE
    world.now -= 30_000_000 - 1
    assert ask_for(world) == l.REF_NONE, "a window later it may"
    assert int(world.orders()[-1]["event_ns"]) - first > 1_000_000_000


def test_the_rate_of_messages_with_a_second_at_once(world: World) -> None:
    limit(world, max_messages_per_s=4)
    for _ in range(4):
        assert ask_for(world) == l.REF_NONE
        rejected(world)
    assert ask_for(world) == l.REF_MESSAGE_RATE
    world.now += 250_000_000
    assert ask_for(world) == l.REF_NONE
    rejected(world)
    assert ask_for(world) == l.REF_MESSAGE_RATE


def test_an_exit_passes_the_rate_and_counts(world: World) -> None:
    limit(world, max_messages_per_s=2)
    assert ask_for(world) == l.REF_NONE
    world.fill(world.orders()[-1], 10_001)
    due = int(world.s.account[0]["messages_due_ns"])
    for _ in range(3):
        world.quote(9_000, 9_002, after_s=0.001)
        world.report(kind=l.CANCELLED, order_seq=world.orders()[-1]["seq"])
        world.now += 10_000_000_000
    assert len(world.orders()) >= 3
    assert int(world.s.account[0]["messages_due_ns"]) > due


@pytest.mark.parametrize(("permitted", "code"), [(0, l.REF_PERMISSION), (0b10, l.REF_PERMISSION), (0b01, l.REF_NONE)])
def test_a_strategy_opens_only_where_it_may(permitted: int, code: int, world: World) -> None:
    world.memory.instruments.instruments[0]["permitted"] = permitted
    assert ask_for(world) == code


@pytest.mark.parametrize(("waits_at", "code"), [("100.01", l.REF_SELF_MATCH), ("100.02", l.REF_NONE)])
def test_an_order_never_meets_an_own_one(waits_at: str, code: int, world: World) -> None:
    """A sale of another strategy waits in the book; a buy at 100.01 would take it."""
    world.memory.instruments.instruments[0]["kind"] = l.KIND_LINEAR_PERPETUAL
    working, position = world.s.working[0], world.s.positions[1]
    position["instrument"], position["strategy"], position["state"] = 0, 1, l.POS_OPENING
    working["order_seq"], working["position_row"], working["side"], working["purpose"] = 1 << 39, 1, l.SELL, l.ENTRY
    working["order_type"], working["limit_price"], working["lots"] = l.LIMIT, int(float(waits_at) * 100 + 0.5), 5
    world.s.states[0]["working_lots"] = 5
    assert ask_for(world) == code


@pytest.mark.parametrize("name", [name for name in OPEN])
def test_a_limit_that_is_not_configured_refuses(name: str, world: World) -> None:
    limit(world, **{name: None})
    assert ask_for(world) == l.REF_NO_LIMIT


# ── repeated execution ───────────────────────────────────────────────────────────────────────────────────────────────
def command(world: World, **fields: int) -> None:
    commands, table = world.memory.conditions.commands, world.memory.conditions.table[0]
    seq = int(table["command_seq"]) + 1
    for name, value in fields.items():
        commands[seq % l.MAX_COMMANDS][name] = value
    table["command_seq"] = seq
    world.run()


def test_a_strategy_that_repeats_itself_too_often_is_latched_until_a_person_releases_it(world: World) -> None:
    limit(world, max_repeats=3, repeat_window_s=60)
    for _ in range(3):  # as many as are allowed
        assert ask_for(world) == l.REF_NONE
        rejected(world)
    assert ask_for(world) == l.REF_REPEATED
    world.now += 3600 * 10**9
    assert ask_for(world) == l.REF_REPEATED, "time alone releases nobody"
    world.successor()
    assert ask_for(world) == l.REF_REPEATED
    command(world, command=l.CMD_RELEASE, argument=0)
    assert [int(row["strategy"]) for row in world.orders(l.RELEASED)] == [0]
    assert ask_for(world) == l.REF_NONE


def test_a_latch_is_journaled_each_time(world: World) -> None:
    limit(world, max_repeats=1, repeat_window_s=60)
    for _ in range(2):
        assert ask_for(world) == l.REF_NONE
        rejected(world)
        assert ask_for(world) == l.REF_REPEATED
        command(world, command=l.CMD_RELEASE, argument=0)
    assert [int(row["code"]) for row in world.orders(l.REFUSED)] == [l.REF_REPEATED] * 2


@pytest.mark.parametrize(("side", "direction", "at", "code"), [("buy", "up", 10_003, l.REF_NONE), ("buy", "up", 10_004, l.REF_SLIPPAGE)])
def test_the_slippage_of_what_is_no_level_is_from_the_middle_of_the_quote(side: str, direction: str, at: int, code: int, memory: Any) -> None:
    world = World(memory, limits())  # a symbol without trades
    condition = msgspec.convert({
        "symbol": "BTC/USDT", "side": side, "feature": "imbalance", "value": 0.0, "direction": direction, "confidence": 0.9, "why": "test",
        "size": {"kind": "quote", "value": "100"}, "stop_bps": 100, "max_slippage_bps": 2}, messages.Condition)
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=1, conditions=[condition]))
    world._publish(kind=l.TICK_QUOTE, price=9_999, lots=1, ask_price=at, ask_lots=2)
    world._publish(kind=l.TICK_QUOTE, price=9_999, lots=2, ask_price=at, ask_lots=1)
    assert len(world.orders()) == (code == l.REF_NONE)
    assert int(world.s.refusals[l.REF_SLIPPAGE]) == (code == l.REF_SLIPPAGE)


def test_entries_at_the_permitted_rate_are_never_too_many(world: World) -> None:
    limit(world, max_repeats=3, repeat_window_s=60)
    for _ in range(9):
        assert ask_for(world) == l.REF_NONE
        rejected(world)
        world.now += 20 * 10**9


def test_without_a_limit_of_repetitions_nothing_is_opened(world: World) -> None:
    limit(world, max_repeats=None)
    assert ask_for(world) == l.REF_NO_LIMIT


@pytest.mark.parametrize(("room", "code"), [(RESERVE + 1, l.REF_NONE), (RESERVE, l.REF_RING_RESERVE), (1, l.REF_RING_RESERVE),
                                            (0, l.REF_RING_RESERVE)])
def test_an_entry_leaves_the_order_ring_its_reserve(room: int, code: int, world: World) -> None:
    world.arm("100.05")
    fill_ring(world, room)
    before = ring.head(world.memory.orders.ring)
    world.trade(10_010)
    assert world.s.refusals[l.REF_RING_RESERVE] == (code != l.REF_NONE)
    assert world.s.refusals.sum() == world.s.refusals[l.REF_RING_RESERVE]
    assert len(world.orders()) == (code == l.REF_NONE)
    assert ring.head(world.memory.orders.ring) - before == (code == l.REF_NONE), "a refusal is counted, and takes nothing of the reserve"
    fill_ring(world, l.RING_SLOTS)  # the recorder is back
    world.trade(10_000)
    world.trade(10_010)
    assert len(world.orders()) == 1, "its level was not used up"


@pytest.mark.parametrize("room", [RESERVE + 1, RESERVE, ONE_ACTION])
def test_an_exit_takes_of_the_order_rings_reserve(room: int, world: World) -> None:
    entered(world)
    fill_ring(world, room)
    world.quote(9_800, 9_801)
    assert [int(order["code"]) for order in world.orders()] == [0, l.EXIT_STOP]


@pytest.mark.parametrize("room", [RESERVE, ONE_ACTION])
def test_a_cancel_takes_of_the_order_rings_reserve(room: int, world: World) -> None:
    order = resting(world)
    fill_ring(world, room)
    board.set_mode(world.memory.board.modes, l.MODE_OF_OPERATOR, l.MODE_HALTED, "test")
    clock(world)
    assert [int(cancel["order_seq"]) for cancel in world.orders(l.CANCEL)] == [int(order["seq"])]
