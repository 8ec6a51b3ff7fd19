"""The health contract: each status, each fault by name, what every process reports; all of it from shared memory."""

from __future__ import annotations

import time
from typing import Any

import pytest

from control.serve.health import LATE_TICK_MS, health
from control.serve.view import LATE_BEAT_MS
from ipc import layout as l
from tests.test_control_view import process, seen

MS = 1_000_000
NOW_NS = 10**15
#: the wall time of `seen`
WALL_NS = 10**18


@pytest.fixture
def board(memory: Any) -> Any:
    """A journal that can be written, a tick of just now, a control thread that lives."""
    memory.board.cursors[0]["journal_ok"] = 1
    memory.board.processes["control_beat_ns"] = NOW_NS - MS
    memory.ticks.ring[0]["head"] = 5
    memory.ticks.slots[5]["publish_ns"] = NOW_NS - 7 * MS
    return memory


def of(memory: Any, **facts: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    data, rows = health(seen(**facts), memory, NOW_NS)
    return data, {row["role"]: row for row in rows}


def activity(memory: Any, role: int, name: str, **words: Any) -> None:
    row = memory.board.activities[role * l.MAX_ACTIVITIES]
    row["name"] = name.encode()
    for field, value in words.items():
        row[field] = value


def test_every_process_reports_the_same_contract(board: Any) -> None:
    data, rows = of(board)
    assert data["healthy"]
    assert data["problems"] == []
    assert list(rows) == list(l.ROLES)
    for row in rows.values():
        assert {"role", "status", "last_activity_ns", "error_count", "metrics", "activities", "healthy", "state", "pid", "restarts", "problem",
                "heartbeat_age_ms"} == set(row)
        assert (row["status"], row["healthy"], row["last_activity_ns"]) == ("healthy", True, 10**18 - 12 * MS)


@pytest.mark.parametrize(("state", "status"), [
    ("starting", "starting"), ("restarting", "starting"), ("healthy", "healthy"), ("finished", "healthy"), ("failed", "failed"),
    ("stopped", "stopped"), ("stopping", "stopped"), ("absent", "stopped")])
def test_a_status_is_one_of_five_words(state: str, status: str, board: Any) -> None:
    data, rows = of(board, processes=[process(role, state=state if role == "gateway" else "healthy") for role in l.ROLES])
    assert rows["gateway"]["status"] == status
    assert data["healthy"] == (status == "healthy")


def test_what_advice_last_said_is_among_what_the_strategist_does_whether_it_works_or_not(board: Any) -> None:
    activity(board, l.STRATEGIST, "advice llm", text=b"NO_TRADE: nothing pays")
    data, rows = of(board)
    assert (rows["strategist"]["metrics"]["advice llm"], data["healthy"]) == ("NO_TRADE: nothing pays", True)
    activity(board, l.STRATEGIST, "advice llm", failures=2, text=b"m: HTTP 500")
    data, rows = of(board)
    assert (rows["strategist"]["metrics"]["advice llm"], rows["strategist"]["problem"]) == ("m: HTTP 500", "advice llm: m: HTTP 500")


def test_what_each_process_does_is_in_its_metrics(board: Any) -> None:
    sniper = board.sniper
    for place, (stop, target, deadline) in enumerate(((100, 0, 0), (0, 0, 0), (0, 0, 9))):
        row = sniper.positions[3 * place]
        row["state"], row["stop_price"], row["target_price"], row["deadline_ns"] = l.POS_OPEN, stop, target, deadline
        sniper.open_rows[place] = 3 * place
    sniper.account[0]["open_positions"], sniper.account[0]["working_orders"] = 3, 2
    data, rows = of(board)
    assert rows["sniper"]["metrics"] == {"ticks": 5, "positions": 3, "exits_armed": 2, "working_orders": 2, "ticks_lost": 0, "control_age_ms": 1}
    assert rows["feed"]["metrics"] == {"ticks": 5, "last_tick_age_ms": 7, "connection": "connected", "source": "simulated", "frames_bad": 0,
                                       "gaps": 0, "gap_ticks": 0}
    assert set(rows["strategist"]["metrics"]) == {"last_plan_ns", "plans", "plan_latency_ms", "plan_failures", "conditions", "ticks_lost"}
    assert rows["reflection"]["metrics"]["on_schedule"] is True
    assert data["databases"]["journal"] == {"writable": True, "free_mb": 0, "commit_us": 0}
    assert data["adaptation"] == {"last_trade_ns": 0, "applied": 0, "errors": 0}


def test_a_feed_without_data_is_degraded_unless_its_data_have_ended(board: Any) -> None:
    board.ticks.slots[5]["publish_ns"] = NOW_NS - (LATE_TICK_MS + 1000) * MS
    data, rows = of(board)
    assert (rows["feed"]["status"], rows["feed"]["problem"]) == ("degraded", "no tick for 6 s")
    assert data["problems"] == ["feed: no tick for 6 s"]
    _, rows = of(board, processes=[process(role, state="finished" if role == "feed" else "healthy") for role in l.ROLES])
    assert (rows["feed"]["status"], rows["feed"]["metrics"]["connection"]) == ("healthy", "ended")


@pytest.mark.parametrize(("state", "beat_ms", "tick_ms", "connection"), [
    ("healthy", 5, 7, "connected"), ("healthy", LATE_BEAT_MS, LATE_TICK_MS, "connected"), ("healthy", LATE_BEAT_MS + 1, 7, "down"),
    ("healthy", 5, LATE_TICK_MS + 1, "down"), ("restarting", None, 7, "down"), ("finished", 5, 60_000, "ended")])
def test_a_feed_is_connected_as_long_as_its_heart_beats_and_its_ticks_come(state: str, beat_ms: int | None, tick_ms: int, connection: str,
                                                                           board: Any) -> None:
    board.ticks.slots[5]["publish_ns"] = NOW_NS - tick_ms * MS
    _, rows = of(board, processes=[process(role, **({"state": state, "heartbeat_age_ms": beat_ms} if role == "feed" else {})) for role in l.ROLES])
    assert rows["feed"]["metrics"]["connection"] == connection


def test_a_silent_heart_a_silent_control_thread_and_late_learning_are_degraded(board: Any) -> None:
    board.board.processes[l.SNIPER]["control_beat_ns"] = NOW_NS - 6_000 * MS
    _, rows = of(board, reflection_behind_s=9.0, processes=[process(role, heartbeat_age_ms=1500 if role == "recorder" else 3) for role in l.ROLES])
    assert {role: row["problem"] for role, row in rows.items() if row["status"] == "degraded"} == {
        "recorder": "no heartbeat for 1500 ms", "sniper": "its control thread is silent for 6000 ms", "reflection": "closed trades wait for 9 s"}
    assert rows["reflection"]["metrics"]["on_schedule"] is False


@pytest.mark.parametrize(("state", "words"), [(l.BREAKER_CLOSED, ""), (l.BREAKER_OPEN, "; paused"), (l.BREAKER_HALF_OPEN, "; tried again"),
                                              (l.BREAKER_STOPPED, "; stopped")])
def test_an_activity_that_fails_degrades_its_process_and_says_what_its_breaker_does(state: int, words: str, board: Any) -> None:
    activity(board, l.STRATEGIST, "momentum", state=state, failures=3, opens=1, since_ns=77, errors=9, errors_per_h=4, wall_ns=WALL_NS,
             text=b"momentum raised X")
    _, rows = of(board)
    assert (rows["strategist"]["status"], rows["strategist"]["problem"]) == ("degraded", f"momentum: momentum raised X{words}")
    assert rows["strategist"]["activities"] == [{
        "name": "momentum", "breaker": l.BREAKER_STATES[state], "failures": 3, "opens": 1, "since_ns": 77, "errors": 9, "errors_per_h": 4,
        "recoveries_per_h": 0, "text": "momentum raised X"}]


def test_rates_of_an_hour_ago_are_rates_no_more(board: Any) -> None:
    for age_s, rates in ((0, (4, 2)), (3600, (4, 2)), (3601, (0, 0)), (86_400, (0, 0))):
        activity(board, l.GATEWAY, "venue", errors=9, errors_per_h=4, recoveries_per_h=2, wall_ns=WALL_NS - age_s * 10**9)
        found = of(board)[1]["gateway"]["activities"][0]
        assert ((found["errors_per_h"], found["recoveries_per_h"]), found["errors"]) == (rates, 9)


def test_an_activity_that_works_again_keeps_its_counts_and_degrades_nothing(board: Any) -> None:
    activity(board, l.GATEWAY, "ledger", failures=0, errors=9, text=b"disk full")
    _, rows = of(board)
    assert rows["gateway"]["status"] == "healthy"
    assert (rows["gateway"]["activities"][0]["errors"], rows["gateway"]["activities"][0]["text"]) == (9, "")


@pytest.mark.parametrize(("role", "name", "database"), [(l.GATEWAY, "ledger", "ledger"), (l.REFLECTION, "knowledge", "knowledge")])
def test_a_database_that_refuses_is_named(role: int, name: str, database: str, board: Any) -> None:
    activity(board, role, name, failures=1, text=b"No space left on device")
    data, _ = of(board)
    assert [one for one, facts in data["databases"].items() if not facts["writable"]] == [database]


def test_health_names_every_problem_of_the_whole(board: Any) -> None:
    board.board.cursors[0]["journal_ok"] = 0
    data, rows = of(board, trading="safe", trading_cause="crash loop",
                    processes=[process(role, state="failed" if role == "sniper" else "healthy") for role in l.ROLES])
    assert not data["healthy"]
    assert [problem.split(":")[0] for problem in data["problems"]] == [
        "sniper", "mode safe", "the journal cannot be written"]
    assert rows["sniper"]["status"] == "failed"


def test_ticks_that_the_sniper_never_saw_are_a_fault(board: Any) -> None:
    data, rows = of(board, processes=[process(role) for role in l.ROLES if role != "sniper"]
                    + [process("sniper", metrics={"ticks": 5, "lost": 3})])
    assert (rows["sniper"]["status"], data["problems"]) == ("degraded", ["sniper: 3 ticks lost"])


def test_pausing_is_healthy(board: Any) -> None:
    assert of(board, trading="reduce_only", trading_cause="paused by the operator")[0]["healthy"]


def test_health_of_a_full_book_is_made_in_a_moment(board: Any) -> None:
    board.sniper.account[0]["open_positions"] = len(board.sniper.positions)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        of(board)
        took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 0.005
