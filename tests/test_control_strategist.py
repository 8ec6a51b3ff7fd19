"""The strategist against real shared memory and real sockets, with a recorder and a sniper that only note what they are told."""

from __future__ import annotations

import logging
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.learn.evidence import Evidence
from control.learn.gate import Adaptation
from control.learn.snapshot import Snapshot
from control.think import strategist as module
from control.think.analysis.config import Analysis
from control.think.config import Strategy as Settings
from control.think.strategist import Strategist
from hotpath.config import Paper
from hotpath.venues.catalogue import SIMULATED, resolve
from ipc import bus, messages, ring, segment, wait
from ipc import layout as l
from ipc.process import Boot, Child

SECOND = 1_000_000_000
START = 1_700_000_010 * SECOND
SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT")

MINE = """
import time
from control.think.strategy import Condition, Strategy, equity_bps

class Mine(Strategy):
    calls = 0

    def plan(self, market, portfolio, knowledge):
        Mine.calls += 1
        last = market.quotes["BTC/USDT"].last
        if last == 13.0:
            raise RuntimeError("thirteen")
        if last == 14.0:
            return "nonsense"
        if last == 15.0:
            time.sleep(3600)
        seen = [len(market.candles(symbol)) for symbol in market.facts]
        return [Condition(symbol="BTC/USDT", side="buy", level="100.00", direction="up", size=equity_bps(100), confidence=0.5 + 0.4 * n,
                          stop_bps=50, why=f"last {last} candles {seen}") for n in range(2)]
"""


def rows_of(plan: messages.Arm) -> Any:
    return np.frombuffer(plan.rows, l.CONDITION)


class Peer:
    """A recorder or sniper that notes requests and answers; `deaf` swallows so many requests first."""

    def __init__(self, folder: str, name: str, answer: Callable[[Any], Any]) -> None:
        self.told: list[Any] = []
        self.deaf = 0
        self._server = bus.Server(folder, name, messages.decode_child_request)
        self._answer, self._over = answer, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _handle(self, request: Any) -> Any:
        if self.deaf:
            self.deaf -= 1
            return None
        self.told.append(request)
        return self._answer(request)

    def _run(self) -> None:
        while not self._over:
            self._server.poll(0.01, self._handle)
        self._server.close()

    def close(self) -> None:
        self._over = True
        self._thread.join()

    def plans(self) -> list[Any]:
        """In words to the recorder, as rows to the sniper."""
        return [one for one in self.told if isinstance(one, messages.Plan | messages.Arm)]

    def events(self) -> list[messages.Event]:
        return [one for one in self.told if isinstance(one, messages.Event)]


class World:
    """An instance without processes: memory, two peers, and a strategist that is turned by hand."""

    def __init__(self, folder: Path) -> None:
        segment.create_all("plan", 1024, 8, 64)
        self.memory = segment.Memory("plan")
        self.memory.ticks.ring[0]["capacity"] = 1024
        self.memory.orders.ring[0]["capacity"] = l.RING_SLOTS
        rows = resolve(SYMBOLS)
        self.memory.instruments.instruments[: len(rows)] = rows
        self.memory.board.run[0]["instruments"] = len(rows)
        self.memory.board.cursors[0]["incarnation"] = 1
        #: what of earlier runs is in force, as the recorder tells it
        self.in_force: list[dict[str, Any]] = []
        self.folder = folder
        self.numbers = iter(range(1, 1000))
        self.recorder = Peer(str(folder), "recorder", self._number)
        self.sniper = Peer(str(folder), "sniper", self._arm)
        self.strategy = folder / "mine.py"
        self.strategy.write_text(MINE)
        self.made: list[Strategist] = []

    def _number(self, request: Any) -> Any:
        if isinstance(request, messages.Plan):
            return messages.Planned(plan_seq=next(self.numbers), armed=len(request.conditions))
        if isinstance(request, messages.Query) and request.what == "in_force":
            return messages.Answer(rows=self.in_force)
        return messages.Done()

    def _arm(self, request: Any) -> Any:
        names = [row["name"] for row in self.memory.instruments.strategies if row["name"]]
        if self.memory.board.run[0]["lockstep"] and request.strategy.encode() == names[-1] and not request.more:
            self.memory.board.cursors[0]["plan_horizon_ns"] = request.next_due_ns
        return messages.Planned(plan_seq=request.plan_seq, generation=1, armed=len(rows_of(request)))

    def child(self, strategies: tuple[str, ...] = (), market: str = "replay", restarts: int = 0, **settings: Any) -> Child:
        sections = {"strategy": msgspec.Raw(msgspec.json.encode(Settings(**settings)))}
        boot = Boot(role="strategist", instance="plan", mode="paper", market=market, run_id="r", run_dir=str(self.folder),
                    state_dir=str(self.folder), socket_dir=str(self.folder), strategies=strategies or (f"{self.strategy}:Mine",),
                    sections=sections, start_event_ns=START, lockstep=bool(self.memory.board.run[0]["lockstep"]), restarts=restarts)
        names = self.memory.instruments.strategies
        for number, spec in enumerate(boot.strategies):
            names[number]["name"] = spec.rpartition(":")[2].encode()
        return Child(boot, l.STRATEGIST, self.memory, logging.getLogger("strategist"))

    def strategist(self, strategies: tuple[str, ...] = (), **settings: Any) -> Strategist:
        for earlier in self.made:
            earlier.close()
        made = Strategist(self.child(strategies, **settings))
        self.made = [made]
        made.recover()
        return made

    def tick(self, after_s: float, price: int = 1000, instrument: int = 0) -> int:
        row = np.zeros(1, l.TICK)
        row[0] = (0, START + int(after_s * SECOND), 0, instrument, l.TICK_TRADE, 0, 0, price, 5, 0, 0)
        seq = int(ring.publish(self.memory.ticks.ring, self.memory.ticks.slots, row, 0))
        wait.ring_bells(self.memory.board.processes, 1 << l.STRATEGIST)
        return seq

    def metric(self, name: str) -> int:
        return int(self.memory.board.processes[l.STRATEGIST]["metrics"][l.METRICS[l.STRATEGIST].index(name)])

    def close(self) -> None:
        for one in (*self.made, self.recorder, self.sniper):
            one.close()
        segment.remove("plan")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = World(tmp_path)
    yield made
    made.close()


def settle(strategist: Strategist) -> None:
    while strategist.turn(0) != module.candles.IDLE:
        pass


def test_a_plan_is_numbered_by_the_recorder_and_then_armed_by_the_sniper(world: World) -> None:
    strategist = world.strategist()
    for second in range(41):
        world.tick(second, 1000 + second)
    settle(strategist)
    stored, armed = world.recorder.plans(), world.sniper.plans()
    # START is 1 700 000 010: the multiples of 30 s are START itself and START + 30 s
    assert [(plan.due_ns - START, plan.next_due_ns - plan.due_ns) for plan in stored] == [(0, 30 * SECOND), (30 * SECOND, 30 * SECOND)]
    assert [plan.plan_seq for plan in stored] == [0, 0]
    assert [plan.plan_seq for plan in armed] == [1, 2]
    assert [rows_of(plan)["level"].tolist() for plan in armed] == [[10_000] * len(plan.conditions) for plan in stored]
    assert [rows_of(plan)["valid_from_ns"].tolist() for plan in armed] == [[plan.due_ns] * len(plan.conditions) for plan in stored]
    assert [plan.strategy for plan in armed] == ["Mine", "Mine"]
    assert stored[1].conditions[0].why == "last 10.29 candles [3, 0]", "all before the due time and nothing after it"
    assert sorted(rows_of(armed[0])["confidence_e4"]) == [5000, 9000]
    assert (world.metric("plans"), world.metric("conditions"), world.metric("ticks")) == (2, 4, 41)


def test_missed_intervals_are_skipped(world: World) -> None:
    strategist = world.strategist()
    for second in (0, 1, 200, 201):
        world.tick(second)
    settle(strategist)
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 180]


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


def blacklisting(symbol: str) -> Adaptation:
    return Adaptation(number=4, family="coin", value=symbol, direction="loses", stage="active", made_ns=0, since_ns=0, trades=50, mean_bps=-50.0,
                      log_e=9, needed=8, since=Evidence(direction="wins"))


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
    told = world.recorder._answer
    last = messages.Answer(rows=[{"time_ns": START, "knowledge_version": 0}])
    monkeypatch.setattr(world.recorder, "_answer", lambda request: last if isinstance(request, messages.Query) and request.what == "plans"
                        else told(request))
    successor = Strategist(world.child((f"{world.folder / 'keeping.py'}:Keeping",), restarts=1))
    world.made = [successor]
    successor.recover()
    assert successor.planners[0].given_ns == START


def test_a_plan_that_a_predecessor_had_journaled_and_not_armed_is_not_its_last_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In lockstep the horizon tells: what is due next was not armed, and what was armed before it is what may be kept."""
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = START + 60 * SECOND
    told = world.recorder._answer
    rows = [{"time_ns": START + after * SECOND, "knowledge_version": after} for after in (60, 30, 0)]
    monkeypatch.setattr(world.recorder, "_answer", lambda request: messages.Answer(rows=rows) if isinstance(request, messages.Query)
                        and request.what == "plans" else told(request))
    ring.advance(world.memory.ticks.readers, l.STRATEGIST, world.tick(50))
    successor = Strategist(world.child(restarts=1))
    world.made = [successor]
    successor.recover()
    assert (successor.next_due_ns, successor.planners[0].given_ns) == (START + 60 * SECOND, START + 30 * SECOND)
    assert (successor.planners[0].planned_ns, successor.planners[0].version) == (START + 30 * SECOND, 30)


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


def test_in_lockstep_a_plan_waits_for_sniper_journal_and_knowledge(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1
    strategist = world.strategist()
    world.tick(0)
    settle(strategist)
    assert len(world.sniper.plans()) == 1
    world.tick(10)
    seq = world.tick(30)
    world.memory.orders.ring[0]["head"] = 7
    thread = threading.Thread(target=settle, args=(strategist,))
    thread.start()
    cursors = world.memory.board.cursors
    for release in (lambda: ring.advance(world.memory.ticks.readers, l.SNIPER, seq - 2),
                    lambda: ring.advance(world.memory.ticks.readers, l.SNIPER, seq - 1),
                    lambda: cursors["durable_orders"].fill(7), lambda: cursors["learned_orders"].fill(6)):
        release()
        time.sleep(0.06)
        assert len(world.recorder.plans()) == 1
        assert thread.is_alive()
    cursors["learned_orders"] = 7
    thread.join(5)
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 30]


def test_several_strategies_are_sent_in_the_order_of_their_numbers(world: World) -> None:
    slow = world.folder / "slow.py"
    slow.write_text(MINE.replace("class Mine(Strategy):", "class Slow(Strategy):\n    interval_s = 60").replace("Mine.calls", "Slow.calls"))
    world.memory.board.run[0]["lockstep"] = 1
    strategist = world.strategist((f"{world.strategy}:Mine", f"{slow}:Slow"))
    for second in (0, 30, 60):
        seq = world.tick(second)
        ring.advance(world.memory.ticks.readers, l.SNIPER, seq - 1)
        settle(strategist)
    # 60 s plans fall on START + 30 s; in between the slow one keeps what it has, and says so
    assert [((plan.due_ns - START) // SECOND, plan.strategy, plan.keep) for plan in world.sniper.plans()] == [
        (0, "Mine", False), (0, "Slow", False), (30, "Mine", False), (30, "Slow", False), (60, "Mine", False), (60, "Slow", True)]


def test_a_successor_has_candles_again_and_does_not_plan_twice(world: World) -> None:
    strategist = world.strategist()
    for second in range(35):
        world.tick(second)
    settle(strategist)
    assert len(world.sniper.plans()) == 2
    strategist = world.strategist()
    settle(strategist)
    assert len(world.sniper.plans()) == 2
    world.tick(60)
    settle(strategist)
    due, why = world.sniper.plans()[-1].due_ns, world.recorder.plans()[-1].conditions[0].why
    assert (due - START) // SECOND == 60
    assert "candles [6, 0]" in why, "its candles go back to the ring's oldest tick"


def test_a_lockstep_successor_plans_what_the_sniper_waits_for(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.memory.board.cursors[0]["plan_horizon_ns"] = 1
    strategist = world.strategist()
    world.tick(0)
    settle(strategist)
    seq = world.tick(30)
    ring.advance(world.memory.ticks.readers, l.SNIPER, seq - 1)
    strategist = world.strategist()  # its predecessor died before it planned for START + 30 s
    settle(strategist)
    strategist = world.strategist()  # this one had sent it
    settle(strategist)
    assert [(plan.due_ns - START) // SECOND for plan in world.sniper.plans()] == [0, 30]


def test_a_plan_is_sent_again_when_nobody_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.1)
    world.recorder.deaf, world.sniper.deaf = 1, 1
    strategist = world.strategist()
    world.tick(0)
    settle(strategist)
    assert [plan.plan_seq for plan in world.sniper.plans()] == [1]


def test_a_plan_that_was_armed_is_not_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.1)

    def arm_and_say_nothing(request: Any) -> None:
        world.memory.conditions.generations[1]["plan_seq"] = request.plan_seq
        world.memory.conditions.table[0]["generation"] = 1

    world.sniper._answer = arm_and_say_nothing
    strategist = world.strategist()
    world.tick(0)
    settle(strategist)
    assert len(world.sniper.plans()) == 1
    assert world.metric("plans") == 1


# ── large plans ──────────────────────────────────────────────────────────────────────────────────────────────────────
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


def test_the_simulated_market_begins_warm(world: World) -> None:
    rows = resolve(SIMULATED)
    world.memory.instruments.instruments[: len(rows)] = rows
    world.memory.board.run[0]["instruments"] = len(rows)
    strategist = world.strategist(("momentum", "mean_reversion"), market="simulated", history_minutes=60)
    market = strategist.view.market(START)
    for symbol in SIMULATED:
        candles = market.candles(symbol)
        assert len(candles) == 360
        assert candles.volume.sum() > 0
        assert (candles.high >= candles.low).all()
        assert market.quotes[symbol].last == candles.close[-1]
    world.tick(0, int(rows[0]["tick_mantissa"]) * 6_000_000)
    settle(strategist)
    confidence = [value / 10_000 for plan in world.sniper.plans() for value in rows_of(plan)["confidence_e4"]]
    assert len(world.sniper.plans()) == 2
    assert len(confidence) >= 10
    assert min(confidence) < 0.7 <= max(confidence), "on both sides of the usual limit"
    assert world.metric("warmup_left_s") == 0
    assert world.metric("last_plan_ms") >= 1


def test_the_analyst_is_warm_then_too_and_arms_by_what_it_sees_within_a_second(world: World) -> None:
    rows = resolve(SIMULATED)
    world.memory.instruments.instruments[: len(rows)] = rows
    world.memory.board.run[0]["instruments"] = len(rows)
    strategist = world.strategist(("analyst",), market="simulated")
    strategist.planning.planners[0].strategy.analysis = Analysis(least_score=0.0, least_reward_risk=0.0)
    price = int(rows[0]["tick_mantissa"]) * 6_000_000
    for second in (31, 61):
        world.tick(second, price)
    settle(strategist)
    stored, armed = world.recorder.plans(), world.sniper.plans()
    assert (len(stored), len(armed)) == (1, 1)
    assert stored[0].conditions
    assert len(rows_of(armed[0])) == len(stored[0].conditions)
    for one in stored[0].conditions:
        assert one.pattern in one.why
        assert f"in {one.regime} (" in one.why
    assert (world.metric("warmup_left_s"), world.metric("strategy_errors"), strategist.planners[0].error) == (0, 0, "")
    assert world.metric("last_plan_ms") < 1000


def test_a_plan_counts_with_the_fees_that_the_venue_takes(world: World) -> None:
    rows = resolve(SIMULATED, paper=Paper(spot_taker_fee_bps=25.0, perpetual_taker_fee_bps=12.5))
    world.memory.instruments.instruments[: len(rows)] = rows
    world.memory.board.run[0]["instruments"] = len(rows)
    strategist = world.strategist(("analyst",), market="simulated")
    strategist.planning.planners[0].strategy.analysis = Analysis(least_score=0.0, least_reward_risk=0.0, stop_atr=4.0, target_atr=20.0)
    assert {facts.symbol: facts.fee_bps for facts in strategist.view.facts.values()} == {
        symbol: 12.5 if ":" in symbol else 25.0 for symbol in SIMULATED}
    for second in (31, 61):
        world.tick(second, int(rows[0]["tick_mantissa"]) * 6_000_000)
    settle(strategist)
    (stored,) = world.recorder.plans()
    assert stored.conditions
    for one in stored.conditions:
        (told,) = re.findall(r"after costs of ([0-9.]+) bps", one.why)
        assert float(told) >= (25.0 if ":" in one.symbol else 50.0)


def test_it_answers_ping_and_refuses_what_it_does_not_know(world: World) -> None:
    strategist = world.strategist()
    assert isinstance(strategist.handle(messages.Ping()), messages.Pong)
    assert isinstance(strategist.handle(messages.Query(what="else")), messages.Refused)


# ── a run begins with what an earlier one had armed ──────────────────────────────────────────────────────────────────
def test_what_is_in_force_is_not_planned_again_before_the_next_plan_is_due(world: World) -> None:
    world.in_force = [{"strategy": "Mine", "plan_seq": 9, "time_ns": START, "next_ns": START + 30 * SECOND}]
    strategist = world.strategist()
    assert strategist.next_due_ns == START + 30 * SECOND
    for second in range(5, 65, 5):
        world.tick(second)
    settle(strategist)
    assert [(plan.due_ns - START) // SECOND for plan in world.recorder.plans()] == [30, 60]


def test_a_strategy_without_a_plan_gets_one_at_once_and_the_others_keep_theirs(world: World) -> None:
    world.in_force = [{"strategy": "momentum", "plan_seq": 9, "time_ns": START, "next_ns": START + 30 * SECOND}]
    strategist = world.strategist(("momentum", f"{world.strategy}:Mine"))
    for second in range(5, 35, 5):
        world.tick(second)
    settle(strategist)
    assert [(plan.strategy, (plan.due_ns - START) // SECOND) for plan in world.recorder.plans()] == [("Mine", 0), ("momentum", 30), ("Mine", 30)]


@pytest.mark.parametrize(("changed", "at_once"), [
    (["run.symbols"], True), (["strategy.interval_s"], True), (["instruments.BTC/USDT.tick_size"], True),
    (["paper.spot_taker_fee_bps"], True), (["paper.order_latency_ms"], False), (["the file mine.py"], True),
    (["run.speed", "strategy.candle_s"], True), (["the file other.py", "run.speed", "limits.min_confidence", "run.strategies"], False), ([], False)])
def test_a_strategy_whose_plan_was_made_under_another_configuration_plans_at_once(changed: list[str], at_once: bool, world: World) -> None:
    """Also within the interval that the old plan was made for."""
    world.in_force = [{"strategy": "Mine", "plan_seq": 9, "time_ns": START, "next_ns": START + 30 * SECOND, "changed": changed}]
    strategist = world.strategist()
    for second in (5, 10, 35):
        world.tick(second)
    settle(strategist)
    assert [(plan.due_ns - START) // SECOND for plan in world.recorder.plans()] == ([0, 30] if at_once else [30])


def test_in_lockstep_the_sniper_is_told_until_when_it_waits_for_no_plan(world: World) -> None:
    world.memory.board.run[0]["lockstep"] = 1
    world.in_force = [{"strategy": "Mine", "plan_seq": 9, "time_ns": START, "next_ns": START + 30 * SECOND}]
    world.strategist()
    assert [(arm.keep, arm.next_due_ns - START) for arm in world.sniper.plans()] == [(True, 30 * SECOND)]
    assert world.memory.board.cursors[0]["plan_horizon_ns"] == START + 30 * SECOND


def test_the_schedule_is_asked_for_until_the_recorder_knows_it(world: World) -> None:
    answers = iter([messages.Unavailable(role="recorder"), messages.Refused(code="journal", text="not readable"),
                    messages.Answer(rows=[{"strategy": "Mine", "plan_seq": 9, "time_ns": START, "next_ns": START + 30 * SECOND}])])
    world.recorder._answer = lambda request: next(answers)
    assert world.strategist().next_due_ns == START + 30 * SECOND


@pytest.mark.parametrize("spec", ["momentun", "FILE:Missing"])
def test_a_strategy_that_cannot_be_loaded_is_a_permanent_fault(world: World, spec: str, caplog: pytest.LogCaptureFixture) -> None:
    child = world.child()
    child.boot = msgspec.structs.replace(child.boot, strategies=(spec.replace("FILE", str(world.strategy)),))
    world.memory.instruments.strategies[0]["name"] = b""
    assert module.main(child) == 78
    assert spec.rpartition(":")[2] in caplog.text


def run_main(folder: str, shm: str) -> None:
    import os

    os.environ["TRADER_SHM"] = shm
    boot = Boot(role="strategist", instance="plan", mode="paper", market="replay", run_id="r", run_dir=folder, state_dir=folder,
                socket_dir=folder, strategies=(f"{folder}/mine.py:Mine",))
    os._exit(module.main(Child(boot, l.STRATEGIST, segment.Memory("plan"), logging.getLogger("strategist"))))


def test_a_strategy_that_hangs_stops_the_heartbeat_of_its_process(world: World, tmp_path: Path) -> None:
    world.child()  # writes the strategy's name
    process = multiprocessing.get_context("spawn").Process(target=run_main, args=(str(tmp_path), str(tmp_path)))
    process.start()
    row = world.memory.board.processes[l.STRATEGIST]
    try:
        until(lambda: row["state"] == l.PROC_READY)
        world.tick(0)
        until(lambda: len(world.sniper.plans()) == 1)
        before = int(row["beat_ns"])
        until(lambda: row["beat_ns"] > before)  # beats without a tick, too
        world.tick(29, 1500)
        world.tick(30, 1500)
        time.sleep(0.3)
        before = int(row["beat_ns"])
        time.sleep(0.5)
        assert row["beat_ns"] == before, "the heart does not beat while the strategy hangs"
        assert process.is_alive()
    finally:
        process.kill()
        process.join()


def test_the_process_stops_when_told(world: World, tmp_path: Path) -> None:
    world.child()
    process = multiprocessing.get_context("spawn").Process(target=run_main, args=(str(tmp_path), str(tmp_path)))
    process.start()
    row = world.memory.board.processes[l.STRATEGIST]
    try:
        until(lambda: row["state"] == l.PROC_READY)
        row["stop"] = l.STOP_DRAIN
        wait.ring_bells(world.memory.board.processes, 1 << l.STRATEGIST)
        process.join(5)
        assert process.exitcode == 0
    finally:
        process.kill()


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
