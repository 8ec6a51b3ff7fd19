"""The storm's watch: a position that nobody protects is seen for as long as it lasts, and one that may wait is not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ipc import layout as l
from tests.storm.watch import DEADLINE, ENDLESS, LEVEL, UNSENT, ZOMBIE_PATIENCE_S, Watch

SECOND_NS = 10**9
UNWATCHED = "no sniper watched an open position"


def test_a_zombie_that_nobody_reaps_is_named(memory: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    watch = Watch(memory, os.getpid())
    watch._look_for_zombies(100.0)
    watch._look_for_zombies(100.0 + ZOMBIE_PATIENCE_S + 0.5)
    process.wait()
    assert any(f"process {process.pid} is a zombie" in text for text in watch.zombies)


def watched(memory: Any, beats: bool = True, ticks: bool = True, stops_at: int = 100, stands_still: range = range(0), **fields: int) -> list[str]:
    """What a watch tells of half a second with an open position of 10 lots, opened at 100, at a bid of 80 and second 1000 of the market."""
    position, quote = memory.sniper.positions[0], memory.ticks.quotes[0]
    for name, value in {"lots": 10, "side": l.BUY, "state": l.POS_MONITORING, "best_price": 100, "position_id": 7, **fields}.items():
        position[name] = value
    quote["bid"], quote["ask"], quote["event_ns"] = 80, 81, 1000 * SECOND_NS
    watch = Watch(memory, os.getpid())
    for look in range(100):
        memory.board.processes[l.SNIPER]["beat_ns"] += beats
        memory.ticks.ring[0]["head"] += ticks and look < stops_at and look not in stands_still
        watch._look(10.0 + 0.005 * look)
    return [one.text.partition(" for ")[0] for one in watch.findings(0.3)]


@pytest.mark.parametrize(("fields", "told"), [
    ({"stop_price": 90}, LEVEL), ({"stop_price": 50}, ""), ({"stop_price": 50, "target_price": 80}, LEVEL), ({"target_price": 81}, ""),
    ({"trail_activation_price": 99, "trail_distance_bps": 2000}, LEVEL), ({"trail_activation_price": 99, "trail_distance_bps": 2100}, ""),
    ({"trail_activation_price": 101, "trail_distance_bps": 10}, ""), ({"side": l.SELL, "stop_price": 81}, LEVEL),
    ({"side": l.SELL, "stop_price": 82, "target_price": 80}, ""),
    ({"deadline_ns": 999 * SECOND_NS}, DEADLINE), ({"deadline_ns": 1000 * SECOND_NS}, ""), ({"deadline_ns": 1001 * SECOND_NS}, ""),
    ({"exit_reason": l.EXIT_STOP, "stop_price": 90}, UNSENT), ({"exit_reason": l.EXIT_STOP, "retry_ns": 1001 * SECOND_NS, "stop_price": 90}, ""),
    ({"exit_reason": l.EXIT_STOP, "state": l.POS_CLOSING, "exit_seq": 5}, UNSENT),
    ({"exit_reason": l.EXIT_TIME, "exit_working_lots": 4, "exit_seq": 5, "deadline_ns": 1}, UNSENT),
    ({"exit_reason": l.EXIT_TIME, "exit_working_lots": 10, "exit_seq": 5, "state": l.POS_CLOSING}, ENDLESS)])
def test_a_position_that_waits_for_its_exit_is_seen(fields: dict[str, int], told: str, memory: Any) -> None:
    assert watched(memory, **fields) == [told] * bool(told)


def test_an_open_position_without_a_living_sniper_is_seen(memory: Any) -> None:
    assert watched(memory, beats=False) == [UNWATCHED]


@pytest.mark.parametrize("fields", [{"deadline_ns": 1}, {"exit_reason": l.EXIT_STOP}, {"stop_price": 90}])
def test_nothing_is_overdue_while_the_market_stands_still(fields: dict[str, int], memory: Any) -> None:
    assert watched(memory, stops_at=10, **fields) == []


def test_what_was_overdue_before_the_market_stood_still_is_so_behind_it(memory: Any) -> None:
    assert watched(memory, stands_still=range(20, 60), stop_price=90) == [LEVEL]


def test_an_exit_that_ends_and_is_tried_again_is_not_endless(memory: Any) -> None:
    position = memory.sniper.positions[0]
    position["lots"], position["exit_working_lots"], position["exit_reason"] = 10, 10, l.EXIT_STOP
    watch = Watch(memory, os.getpid())
    for look in range(200):
        memory.board.processes[l.SNIPER]["beat_ns"] += 1
        memory.ticks.ring[0]["head"] += 1
        position["exit_seq"] = 1 + look // 40
        watch._look(10.0 + 0.005 * look)
    assert watch.findings(0.3) == []
    assert watch.overdue[ENDLESS] > 0.15


def test_a_watch_that_cannot_look_says_so(memory: Any) -> None:
    watch = Watch(None, os.getpid())
    watch.start()
    watch.join(10)
    assert [one.rule for one in watch.findings(3.0)] == ["protection"]
    assert "nobody looked to the end: AttributeError" in watch.findings(3.0)[0].text
