"""What stays armed: a strategy that gives no list, what is learned meanwhile, and a successor that goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from control.learn.evidence import Evidence
from control.learn.gate import Adaptation
from control.learn.snapshot import Snapshot
from control.think.armed import Words
from control.think.strategist import Strategist
from ipc import layout as l
from ipc import messages, ring
from tests.strategist_scene import SECOND, START, World, rows_of, settle, worlds

world = pytest.fixture(worlds)


KEEPING = """
from control.think.strategy import Condition, Strategy, equity_bps

class Keeping(Strategy):
    def plan(self, market, portfolio, knowledge):
        if market.quotes["BTC/USDT"].last == 16.0:
            return None
        return [Condition(symbol="BTC/USDT", side="buy", level="100.00", direction="up", size=equity_bps(100), confidence=0.9, stop_bps=50,
                          why=f"planned {portfolio.planned_ns}")]
"""


def keeping(world: World, **more: Any) -> Strategist:
    (world.folder / "keeping.py").write_text(KEEPING)
    return world.strategist((f"{world.folder / 'keeping.py'}:Keeping",), **more)


def blacklisting(symbol: str) -> Adaptation:
    return Adaptation(number=4, family="coin", value=symbol, direction="loses", stage="active", made_ns=0, since_ns=0, trades=50, mean_bps=-50.0,
                      log_e=9, needed=8, since=Evidence(direction="wins"))


def test_none_instead_of_a_list_keeps_what_is_armed_and_is_no_failure(world: World) -> None:
    strategist = keeping(world)
    for second, price in ((0, 1000), (29, 1600), (30, 1600), (59, 1000), (60, 1000)):
        world.tick(second, price)
    settle(strategist)
    plans = world.recorder.plans()
    assert [(plan.due_ns - START) // SECOND for plan in plans] == [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 60]
    assert [plan.conditions[0].why for plan in plans] == ["planned 0", f"planned {START}"], "it is told when it gave its last list"
    assert (world.metric("strategy_errors"), world.recorder.events(), strategist.planners[0].error) == (0, [], "")
    assert len(strategist.planners[0].conditions) == 1


def test_none_moves_the_horizon_in_lockstep(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    strategist = keeping(world)
    for outcome in strategist.planning.outcomes(START, strategist._knowledge):
        assert not outcome.plan.keep
    strategist.fold.rows["last"], strategist.fold.rows["seen_ns"] = 1600, START
    (outcome,) = strategist.planning.outcomes(START + 30 * SECOND, strategist._knowledge)
    assert (outcome.plan.keep, outcome.plan.why, outcome.error, outcome.plan.next_due_ns) == (True, "nothing new", "", START + 60 * SECOND)


def test_what_is_kept_is_planned_anew_when_something_was_learned_since(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was armed with what was known then: a coin that is shut since must not go on until the strategy has something new to say."""
    strategist = keeping(world)
    known: dict[str, Any] = {"active": [], "version": 0}
    monkeypatch.setattr(strategist._knowledge, "snapshot", lambda now_ns: Snapshot({}, known["active"], now_ns, 1e-8, version=known["version"]))
    (outcome,) = strategist.planning.outcomes(START, strategist._knowledge)
    assert not outcome.plan.conditions[0].paper
    strategist.fold.rows["last"], strategist.fold.rows["seen_ns"] = 1600, START
    known |= {"active": [blacklisting("BTC/USDT")], "version": 1}
    (outcome,) = strategist.planning.outcomes(START + 30 * SECOND, strategist._knowledge)
    assert "plan gave None" in outcome.error, "asked as if it had never planned, it may not keep"
    assert (outcome.plan.keep, outcome.plan.conditions) == (False, []), "so nothing is armed any more"
    assert "something was learned" in outcome.plan.why
    strategist.fold.rows["last"] = 1000
    (outcome,) = strategist.planning.outcomes(START + 60 * SECOND, strategist._knowledge)
    assert (outcome.plan.conditions[0].paper, outcome.plan.knowledge_version, list(outcome.changed)) == (True, 1, [4])
    strategist.fold.rows["last"], strategist.fold.rows["seen_ns"] = 1600, START + 60 * SECOND
    (outcome,) = strategist.planning.outcomes(START + 90 * SECOND, strategist._knowledge)
    assert outcome.plan.keep


def test_a_strategy_that_fails_or_plans_seldom_keeps_nothing_that_was_shut_since(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strategist = world.strategist(interval_s=3600)
    known: dict[str, Any] = {"active": [], "version": 0}
    monkeypatch.setattr(strategist._knowledge, "snapshot", lambda now_ns: Snapshot({}, known["active"], now_ns, 1e-8, version=known["version"]))
    start = START // (3600 * SECOND) * 3600 * SECOND
    planning, planner = strategist.planning, strategist.planners[0]
    assert planning.interval_ns == 60 * SECOND
    (outcome,) = planning.outcomes(start, strategist._knowledge)
    assert not outcome.plan.keep
    (outcome,) = planning.outcomes(start + 60 * SECOND, strategist._knowledge)
    assert outcome.plan.keep, "not due"
    known |= {"active": [blacklisting("BTC/USDT")], "version": 1}
    (outcome,) = planning.outcomes(start + 120 * SECOND, strategist._knowledge)
    assert {one.paper for one in outcome.plan.conditions if one.symbol == "BTC/USDT"} == {True}, "due, since something was learned"
    known["version"] = 2
    monkeypatch.setattr(planner.strategy, "plan", lambda *_: 1 / 0)
    (outcome,) = planning.outcomes(start + 180 * SECOND, strategist._knowledge)
    assert (outcome.plan.keep, outcome.plan.conditions) == (False, [])
    assert "ZeroDivisionError" in outcome.error
    (outcome,) = planning.outcomes(start + 240 * SECOND, strategist._knowledge)
    assert outcome.plan.keep, "there is nothing left to end"


def test_at_the_borders_of_an_hour_that_is_shut_every_strategy_plans_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strategist = world.strategist(interval_s=3600)
    hour = 3600 * SECOND
    start = START // hour * hour
    rule = msgspec.structs.replace(blacklisting("x"), family="hour", value=f"{(start // hour + 1) % 24:02}")
    monkeypatch.setattr(strategist._knowledge, "snapshot", lambda now_ns: Snapshot({}, [rule], now_ns, 1e-8, version=1))
    plans = []
    for minute in range(30, 150):
        (outcome,) = strategist.planning.outcomes(start + minute * 60 * SECOND, strategist._knowledge)
        if not outcome.plan.keep:
            plans.append((minute, {one.paper for one in outcome.plan.conditions}))
    assert [plan for plan in plans if plan[1]] == [(30, {False}), (60, {True}), (120, {False})]


def test_what_learning_changes_in_a_plan_is_armed_so_and_is_an_event_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strategist = world.strategist()
    active = [blacklisting("BTC/USDT")]
    monkeypatch.setattr(strategist._knowledge, "snapshot", lambda now_ns: Snapshot({}, active, now_ns, 1e-8, version=1))
    for second in (0, 31, 61):
        world.tick(second)
    settle(strategist)
    plans = world.recorder.plans()
    assert len(plans) == 3
    assert {(one.symbol, one.paper) for plan in plans for one in plan.conditions} == {("BTC/USDT", True)}
    assert all(rows_of(arm)["paper"].all() for arm in world.sniper.plans())
    (event,) = world.recorder.events()
    assert (event.kind, event.data["adaptation"]) == ("knowledge_applied", 4)
    assert "on paper only for BTC/USDT" in event.text


def test_none_where_there_is_nothing_to_keep_is_a_failure(world: World) -> None:
    strategist = keeping(world)
    strategist.fold.rows["last"], strategist.fold.rows["seen_ns"] = 1600, START
    (outcome,) = strategist.planning.outcomes(START, strategist._knowledge)
    assert "plan gave None, not a list" in outcome.error


def test_what_the_sniper_refused_is_not_there_to_be_kept(world: World) -> None:
    strategist = keeping(world)
    world.sniper._answer = lambda request: messages.Refused(code="no", text="not today")
    world.tick(0)
    settle(strategist)
    assert (len(world.sniper.plans()), strategist.planners[0].given_ns) == (1, 0)


def test_a_successor_knows_when_its_predecessor_gave_its_last_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strategist = keeping(world)
    for second, price in ((0, 1000), (29, 1600), (31, 1600)):
        world.tick(second, price)
    settle(strategist)
    assert strategist.planners[0].planned_ns == START + 30 * SECOND, "it was asked then, and kept what was armed"
    strategist.close()
    world.in_force = [{"strategy": "Keeping", "time_ns": START, "knowledge_version": 0, "plan_seq": 1, "changed": []}]
    successor = Strategist(world.child((f"{world.folder / 'keeping.py'}:Keeping",), restarts=1))
    world.made = [successor]
    successor.recover()
    assert successor.planners[0].given_ns == START


def test_a_successor_goes_on_with_what_is_in_force_or_is_about_to_be_not_with_what_is_journaled(world: World,
                                                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """In lockstep the horizon tells what is due next; a plan for it that is journaled was not armed."""
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = START + 60 * SECOND
    world.in_force = [{"strategy": "Mine", "time_ns": START + 30 * SECOND, "knowledge_version": 7, "plan_seq": 3, "changed": []}]
    ring.advance(world.memory.ticks.readers, l.STRATEGIST, world.tick(50))
    parts = {4: messages.Plan(strategy="Mine", due_ns=START + 60 * SECOND, next_due_ns=0, knowledge_version=9),
             5: messages.Plan(strategy="Other", due_ns=START + 60 * SECOND, next_due_ns=0, knowledge_version=9)}
    monkeypatch.setattr(Words, "plan", lambda self, number: parts.get(number))
    table = world.memory.conditions
    for number, seconds, version in ((0, 30, 7), (3, 30, 7), (5, 30, 7), (4, 60, 9)):
        table.generations[int(table.table[0]["generation"]) & 1]["plan_seq"] = number  # the newest plan that the sniper has taken
        successor = Strategist(world.child(restarts=1))
        world.made = [successor]
        successor.recover()
        planner = successor.planners[0]
        assert (successor.next_due_ns, planner.given_ns, planner.planned_ns) == (START + 60 * SECOND, *[START + seconds * SECOND] * 2), number
        assert (planner.armed.given_ns, planner.armed.version) == (START + seconds * SECOND, version), number
        successor.close()
    world.made = []


def knowing(strategist: Strategist, known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategist._knowledge, "snapshot", lambda now_ns: Snapshot({}, known["active"], now_ns, 1e-8, version=known["version"]))


@pytest.mark.parametrize("by", ["sniper", "recorder"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_shut_is_ended_until_that_is_armed_however_seldom_the_strategy_plans(world: World, monkeypatch: pytest.MonkeyPatch, by: str,
                                                                                     fails: bool) -> None:
    """Also where the strategy gives nothing any more, so that all is taken away."""
    known: dict[str, Any] = {"active": [], "version": 0}
    strategist = keeping(world, interval_s=3600)
    knowing(strategist, known, monkeypatch)
    world.tick(0)
    world.tick(1, 1600 if fails else 1000)
    settle(strategist)
    assert len(world.sniper.plans()) == 1
    known |= {"active": [blacklisting("BTC/USDT")], "version": 1}
    peer = getattr(world, by)
    answer = peer._answer
    no = messages.Refused(code="no", text="not now")
    peer._answer = lambda request: no if isinstance(request, messages.Plan | messages.Arm) else answer(request)
    for second in range(30, 300, 30):
        world.tick(second, 1600 if fails else 1000)
        settle(strategist)
    assert strategist.planners[0].armed.version == 0, "what was armed before is"
    tried = len(peer.plans())
    assert 4 <= tried <= 10, "again and again, with a pause"
    peer._answer = answer
    for second in range(300, 900, 30):
        world.tick(second, 1600 if fails else 1000)
        settle(strategist)
    last = world.recorder.plans()[-1]
    assert (len(peer.plans()), [one.paper for one in last.conditions]) == (tried + 1, [] if fails else [True]), "once"
    assert rows_of(world.sniper.plans()[-1])["paper"].tolist() == ([] if fails else [1])


def test_a_successor_ends_what_was_shut_and_is_still_armed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predecessor had journaled the plan that would have, and the sniper had refused that."""
    known: dict[str, Any] = {"active": [blacklisting("BTC/USDT")], "version": 1}
    (world.folder / "keeping.py").write_text(KEEPING)
    world.in_force = [{"strategy": "Keeping", "time_ns": START, "knowledge_version": 0, "plan_seq": 1, "changed": []}]
    ring.advance(world.memory.ticks.readers, l.STRATEGIST, world.tick(70))
    successor = Strategist(world.child((f"{world.folder / 'keeping.py'}:Keeping",), restarts=1, interval_s=3600))
    world.made = [successor]
    knowing(successor, known, monkeypatch)
    successor.recover()
    world.tick(130)
    settle(successor)
    (plan,) = world.recorder.plans()
    assert [one.paper for one in plan.conditions] == [True]


def test_a_successor_has_the_candles_of_its_predecessor_though_the_ring_has_lost_them(world: World) -> None:
    strategist = world.strategist()
    for second in range(0, 600):
        world.tick(second, 1000 + second)
    settle(strategist)
    undisturbed = strategist.view.market(START + 600 * SECOND).candles("BTC/USDT")
    for second in range(600, 1500):
        world.tick(second, 1000)
    settle(strategist)
    oldest = int(ring.oldest(world.memory.ticks.ring))
    assert oldest > 300
    successor = Strategist(world.child(restarts=1))
    world.made.append(successor)
    successor.recover()
    settle(successor)
    candles = successor.view.market(START + 1500 * SECOND).candles("BTC/USDT")
    assert len(candles) == 150
    assert candles.close[:60].tolist() == undisturbed.close.tolist()
    assert world.metric("ticks_lost") == 0
