"""A strategy that fails, hangs or crashes: counted, journaled, left alone for a while, and never without what it has armed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from control.think.advisers import Past
from control.think.llm.config import MOST_MODELS, Llm, Model
from control.think.strategist import Strategist
from hotpath.errors import ErrorManager, Kind
from ipc import layout as l
from ipc import ring
from tests.strategist_scene import MINE, SECOND, START, World, settle, worlds

world = pytest.fixture(worlds)


@pytest.mark.parametrize(("price", "text"), [(1300, "RuntimeError: thirteen"), (1400, "not a list")])
def test_a_strategy_that_fails_is_counted_and_journaled_and_keeps_what_it_armed(world: World, price: int, text: str) -> None:
    strategist = world.strategist()
    for second, value in ((0, 1000), (29, price), (30, 1000), (59, 1000), (60, 1000)):
        world.tick(second, value)
    settle(strategist)
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 60], "nothing was sent that could clear conditions"
    assert world.metric("strategy_errors") == 1
    event, over = world.recorder.events()
    assert text in event.text
    assert event.data["strategy"] == "Mine"
    assert event.data["due_ns"] == START + 30 * SECOND
    assert (event.kind, event.data["decision"], event.data["in_a_row"]) == ("strategy_error", "continue", 1)
    assert (over.kind, over.text, over.data["due_ns"]) == ("recovered", "Mine: works again after 1 failure", START + 60 * SECOND)


def test_what_a_strategy_raises_may_say_anything(world: World) -> None:
    """Half a character, as surrogateescape makes of bytes, or an exception that has no words."""
    for number, raises in enumerate((r'RuntimeError("bad name \ud800")', "Wordless()")):
        world.strategy.write_text(MINE.replace('RuntimeError("thirteen")', raises) + r"""
class Wordless(Exception):
    def __str__(self):
        raise ValueError
""")
        strategist = world.strategist()
        for second in (0, 31):
            world.tick(60 * number + second, 1300)
        settle(strategist)
    said = [event.text for event in world.recorder.events() if event.kind == "strategy_error"]
    assert any(r"RuntimeError: bad name \ud800" in text for text in said), said
    assert any("Wordless: it has no words" in text for text in said), said


def test_texts_that_cannot_be_encoded_reach_the_journal_and_the_board_all_the_same(world: World) -> None:
    strategist = world.strategist()
    planner = strategist.planners[0]
    strategist.activities.failed(planner.errors, "strategy_error", Kind.GENERAL, "half \udcff", 1)
    strategist._journal_events()
    planner.errors.said = "\ud800"
    strategist.activities.succeeded(planner.errors, 2)
    planner.strategy.said = "\ud800"
    world.tick(0)
    settle(strategist)
    assert world.recorder.events()[0].text == "half ?"
    assert world.recorder.plans()[0].why == "2 conditions; ?"


def test_every_strategy_its_advice_and_every_model_have_a_row_that_a_successor_goes_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strategist, "_past", lambda self: Past())
    llm = Llm(models=tuple(Model(base_url="http://127.0.0.1:9/v1", model=f"m{number}") for number in range(MOST_MODELS)))

    def life(restarts: int) -> list[ErrorManager]:
        child = world.child((f"{world.strategy}:Mine", "llm", "analyst", "momentum"), restarts=restarts)
        child.boot.sections["llm"] = msgspec.Raw(msgspec.json.encode(llm))
        strategist = Strategist(child)
        world.made = [strategist]
        return strategist._advice

    first = life(0)
    assert len(first) == 1 + MOST_MODELS
    for number, errors in enumerate(first):
        errors.failed(Kind.FATAL, "HTTP 401", 5 + number)
    for errors in first:
        world.made[0].activities.show(errors)
    world.made[0].close()
    assert [(one.activity, one.breaker.state) for one in life(1)] == [(one.activity, l.BREAKER_STOPPED) for one in first]


def breaker(world: World) -> tuple[str, int, int]:
    """State, failures in a row and number of openings of the strategy's breaker, as health reads them."""
    row = world.memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    assert row["name"] == b"Mine"
    return l.BREAKER_STATES[int(row["state"])], int(row["failures"]), int(row["opens"])


def test_a_strategy_that_fails_three_times_in_a_row_is_left_alone_for_a_minute_and_then_asked_once(world: World) -> None:
    strategist = world.strategist()
    asked = strategist.planners[0].strategy.__class__
    calls = []
    for number, price in enumerate((1000, 1300, 1300, 1300, 1300, 1300, 1000, 1000)):
        world.tick(30 * number, price)  # what is planned at the next multiple sees it
        world.tick(30 * number + 29, price)
        settle(strategist)
        calls.append(asked.calls)
    # due at 0 (sees nothing yet) and at 30 it is well; 60, 90, 120 fail; 150 is within the pause; 180 is the trial, which fails; 210 is left out
    assert np.diff(calls).tolist() == [1, 1, 1, 1, 0, 1, 0]
    assert breaker(world) == ("open", 4, 2)
    decisions = [(event.data["decision"], event.data["pause_s"], event.data["in_a_row"]) for event in world.recorder.events()]
    assert decisions == [("continue", 0.0, 1), ("continue", 0.0, 2), ("pause", 60.0, 3), ("pause", 60.0, 4)]
    world.tick(240)
    settle(strategist)
    assert breaker(world) == ("closed", 0, 2)
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 30, 240], "what was armed kept its expiry meanwhile"
    assert world.recorder.events()[-1].data["decision"] == "recovered"
    assert int(world.memory.board.processes[l.STRATEGIST]["error_count"]) == 4


def test_a_successor_goes_on_with_the_breaker_in_event_time(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1
    strategist = world.strategist()
    for number in range(4):
        world.tick(30 * number, 1300)
        seq = world.tick(30 * number + 29, 1300)
        ring.advance(world.memory.ticks.readers, l.SNIPER, seq)
        settle(strategist)
    assert breaker(world) == ("open", 3, 1)
    world.memory.board.processes[l.STRATEGIST]["fault"] = 0
    again = world.strategist()
    assert vars(again.planners[0].errors.breaker) == vars(strategist.planners[0].errors.breaker)


def test_a_strategy_that_hung_or_crashed_is_blamed_by_the_next_life_and_after_three_times_left_alone(world: World) -> None:
    strategist = world.strategist()
    world.tick(0)
    world.tick(30)
    settle(strategist)
    row = world.memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    for number in range(3):
        row["asked_ns"] = START + (60 + number) * SECOND  # its plan was asked for, and the process was ended while it waited
        world.memory.board.processes[l.STRATEGIST]["fault"] = 1
        strategist = world.strategist(restarts=number + 1)
    assert breaker(world) == ("open", 3, 1)
    assert [event.text for event in world.recorder.events()] == ["Mine hung or crashed in plan"] * 3
    row["asked_ns"] = 0
    world.memory.board.processes[l.STRATEGIST]["fault"] = 0
    assert breaker(world) == ("open", 3, 1)


def test_in_lockstep_a_failed_strategy_moves_the_horizon_and_nothing_else(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1
    strategist = world.strategist()
    world.tick(0, 1000)
    world.tick(29, 1300)
    seq = world.tick(30, 1000)
    ring.advance(world.memory.ticks.readers, l.SNIPER, seq - 1)
    settle(strategist)
    first, second = world.sniper.plans()
    assert not first.keep
    assert second.keep
    assert second.rows == b""
    assert world.memory.board.cursors[0]["plan_horizon_ns"] == START + 60 * SECOND
    assert len(world.recorder.plans()) == 1
