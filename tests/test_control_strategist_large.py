"""Plans of more conditions than a message carries: in parts, journaled before the first is armed, and told anew where they were torn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from control.think import strategist as module
from ipc import layout as l
from ipc import messages, segment
from tests.strategist_scene import SECOND, START, World, rows_of, settle, worlds

world = pytest.fixture(worlds)


LARGE = """
from control.think.strategy import Condition, Strategy, equity_bps

class Large(Strategy):
    def plan(self, market, portfolio, knowledge):
        last = market.quotes["BTC/USDT"].last
        return [Condition(symbol="BTC/USDT", side="buy", level=f"{100 + n / 100:.2f}", direction="up", size=equity_bps(100), confidence=0.9,
                          stop_bps=0 if last == 13.0 and n == 2400 else 50, why=f"number {n}", group="a" if n in (5, 2005) else None)
                for n in range(2500)]
"""


@pytest.fixture
def large(world: World) -> str:
    """The strategy of 2,500 conditions, in an instance that has room for them."""
    segment.remove("plan")
    segment.create_all("plan", 1024, 8, 4096)
    before, world.memory = world.memory, segment.Memory("plan")
    for region in ("instruments", "strategies"):
        getattr(world.memory.instruments, region)[:] = getattr(before.instruments, region)
    world.memory.board.run[:], world.memory.board.cursors[:] = before.board.run, before.board.cursors
    world.memory.ticks.ring[0]["capacity"], world.memory.orders.ring[0]["capacity"] = 1024, l.RING_SLOTS
    (world.folder / "large.py").write_text(LARGE)
    return f"{world.folder}/large.py:Large"


def test_a_large_plan_is_journaled_in_parts_and_then_told_to_the_sniper(world: World, large: str) -> None:
    strategist = world.strategist((large,))
    world.tick(0)
    settle(strategist)
    stored, told = world.recorder.plans(), world.sniper.plans()
    assert [(plan.part, plan.more, len(plan.conditions)) for plan in stored] == [(0, True, 1000), (1, True, 1000), (2, False, 500)]
    assert [(plan.part, plan.more, len(rows_of(plan))) for plan in told] == [(0, True, 1000), (1, True, 1000), (2, False, 500)]
    assert [plan.plan_seq for plan in told] == [1, 2, 3]
    assert [plan.conditions[0].why for plan in stored] == ["number 0", "number 1000", "number 2000"]
    assert [int(rows_of(plan)["level"][0]) for plan in told] == [10_000, 11_000, 12_000]
    assert [np.flatnonzero(rows_of(plan)["group_id"]).tolist() for plan in told] == [[5], [], [5]]
    assert int(rows_of(told[2])["group_id"][5]) == 6, "the first member's place in the whole plan, from 1"
    assert (world.metric("plans"), world.metric("conditions")) == (1, 2500)


def test_a_fault_in_the_last_part_is_told_by_its_place_in_the_whole_plan_and_nothing_is_sent(world: World, large: str) -> None:
    strategist = world.strategist((large,))
    world.tick(0, 1300)
    world.tick(30)
    settle(strategist)
    (event, *_) = world.recorder.events()
    assert "conditions[2400].stop_bps: no position may be without protection" in event.text
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans() if plan.part == 0] == [0]


def test_more_conditions_than_the_instance_holds_are_refused_with_the_key_that_says_how_many(world: World) -> None:
    (world.folder / "large.py").write_text(LARGE)
    strategist = world.strategist((f"{world.folder}/large.py:Large",))
    world.tick(0)
    settle(strategist)
    (event,) = world.recorder.events()
    assert "2500 conditions; return at most 64, or raise hotpath.condition_capacity" in event.text
    assert world.sniper.plans() == []


@pytest.mark.parametrize("lockstep", [0, 1])
def test_a_sniper_that_was_replaced_between_two_parts_is_told_all_of_them_again(lockstep: int, world: World, large: str) -> None:
    world.memory.board.run[0]["lockstep"] = lockstep
    world.memory.board.cursors[0]["plan_horizon_ns"] = lockstep
    collected: list[int] = []
    lives = iter([2, 1, 100])  # parts that each life takes
    left = next(lives)

    def arm(request: Any) -> Any:
        nonlocal left
        if not left:
            collected.clear()
            left = next(lives)
        if request.part != len(collected) and request.part:
            return messages.Refused(code="not_continued", text="part")
        left -= 1
        del collected[request.part:]
        collected.append(request.plan_seq)
        return world._arm(request)

    world.sniper._answer = arm
    strategist = world.strategist((large,))
    world.tick(0)
    settle(strategist)
    assert collected == [1, 2, 3]
    assert [plan.part for plan in world.sniper.plans()] == [0, 1, 2, 0, 1, 0, 1, 2]
    assert len(world.recorder.plans()) == 3, "they are journaled once"
    assert (world.metric("plans"), world.metric("strategy_errors")) == (1, 0)


def test_a_sniper_that_never_has_the_earlier_parts_is_given_up_outside_of_lockstep(world: World, large: str) -> None:
    def arm(request: Any) -> Any:
        return messages.Refused(code="not_continued", text="part") if request.part else world._arm(request)

    world.sniper._answer = arm
    strategist = world.strategist((large,))
    world.tick(0)
    settle(strategist)
    assert [plan.part for plan in world.sniper.plans()] == [0, 1] * module._TRIES
    assert (world.metric("plans"), world.metric("strategy_errors")) == (0, 1)


def test_a_part_that_the_recorder_does_not_take_leaves_the_sniper_untold(world: World, large: str) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1

    def number(request: Any) -> Any:
        return messages.Unavailable(role="recorder") if getattr(request, "part", 0) == 1 else world._number(request)

    world.recorder._answer = number
    strategist = world.strategist((large,))
    world.tick(0)
    settle(strategist)
    (kept,) = world.sniper.plans()
    assert kept.keep
    assert world.memory.board.cursors[0]["plan_horizon_ns"] == START + 30 * SECOND


def test_a_lockstep_successor_of_a_strategist_that_died_between_two_parts_arms_its_own_plan(world: World, large: str) -> None:
    class Died(BaseException):
        pass

    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1
    strategist = world.strategist((large,))
    ask, asked = strategist._sniper.ask, []

    def dies(request: Any, *more: Any) -> Any:
        asked.append(request)
        if len(asked) == 2:
            raise Died
        return ask(request, *more)

    strategist._sniper.ask = dies  # type: ignore[method-assign]
    world.tick(0)
    with pytest.raises(Died):
        settle(strategist)
    successor = world.strategist((large,))
    settle(successor)
    assert [(plan.part, plan.plan_seq) for plan in world.sniper.plans()] == [(0, 1), (0, 4), (1, 5), (2, 6)]
    assert world.memory.board.cursors[0]["plan_horizon_ns"] == START + 30 * SECOND
