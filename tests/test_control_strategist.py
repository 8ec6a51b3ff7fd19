"""The strategist against real shared memory and real sockets, with a recorder and a sniper that only note what they are told."""

from __future__ import annotations

import logging
import multiprocessing
import re
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.think import strategist as module
from control.think.analysis.config import Analysis
from hotpath.config import Paper
from hotpath.venues.catalogue import SIMULATED, resolve
from ipc import layout as l
from ipc import messages, ring, segment, wait
from ipc.process import Boot, Child
from tests.strategist_scene import MINE, SECOND, START, World, rows_of, settle, until, worlds

world = pytest.fixture(worlds)


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
