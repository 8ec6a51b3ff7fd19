"""Doorbells and waits in one process, step by step: what is remembered, what is not, and how long a sleep may last."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from ipc import layout as l
from ipc import wait

#: a time that no sleep reaches unless nothing woke it
LONG_NS = 50_000_000
#: a busy machine may wake a process late
LATE_NS = 1_000_000_000


@pytest.fixture
def processes() -> np.ndarray[Any, Any]:
    made = np.zeros(l.MAX_ROLES, l.PROCESS)
    wait.prepare_sleep(made, l.FEED)  # compiled before anything is timed
    wait.sleep(made, l.FEED, 0)
    wait.nap(made, l.FEED, 0)
    wait.stay_awake(made, l.FEED)
    wait.ring_bells(made, 0)
    return made


def slept_ns(processes: Any, role: int, timeout_ns: int) -> int:
    began = time.monotonic_ns()
    wait.sleep(processes, role, timeout_ns)
    return time.monotonic_ns() - began


def test_a_bell_that_rings_between_getting_ready_and_falling_asleep_is_not_missed(processes: Any) -> None:
    wait.prepare_sleep(processes, l.SNIPER)
    assert processes[l.SNIPER]["bell"] == 1
    wait.ring_bells(processes, 1 << l.SNIPER)
    assert processes[l.SNIPER]["bell"] == 0
    assert slept_ns(processes, l.SNIPER, LONG_NS) < LONG_NS


def test_a_bell_that_rang_before_is_not_remembered_which_is_why_there_is_a_second_look(processes: Any) -> None:
    wait.ring_bells(processes, 1 << l.SNIPER)
    wait.prepare_sleep(processes, l.SNIPER)
    assert slept_ns(processes, l.SNIPER, 10_000_000) >= 10_000_000


def test_no_sleep_lasts_longer_than_the_bound_whatever_was_asked_for(processes: Any) -> None:
    wait.prepare_sleep(processes, l.SNIPER)
    assert wait.MAX_SLEEP_NS <= slept_ns(processes, l.SNIPER, 3600_000_000_000) < wait.MAX_SLEEP_NS + LATE_NS
    assert wait.MAX_SLEEP_NS == 50_000_000


@pytest.mark.parametrize("timeout_ns", [0, -1, -5_000_000_000])
def test_a_time_that_is_over_is_no_sleep(processes: Any, timeout_ns: int) -> None:
    wait.prepare_sleep(processes, l.SNIPER)
    assert slept_ns(processes, l.SNIPER, timeout_ns) < LONG_NS
    assert processes[l.SNIPER]["bell"] == 0


def test_after_sleeping_or_staying_awake_nobody_rings_for_nothing(processes: Any) -> None:
    wait.prepare_sleep(processes, l.SNIPER)
    wait.stay_awake(processes, l.SNIPER)
    assert processes[l.SNIPER]["bell"] == 0
    wait.prepare_sleep(processes, l.SNIPER)
    wait.sleep(processes, l.SNIPER, 1)
    assert processes[l.SNIPER]["bell"] == 0


def test_only_the_roles_of_the_mask_are_woken(processes: Any) -> None:
    for role in range(l.MAX_ROLES):
        wait.prepare_sleep(processes, role)
    wait.ring_bells(processes, 1 << l.RECORDER | 1 << l.STRATEGIST | 1 << l.SPARE_ROLE)
    assert processes["bell"].tolist() == [0, 1, 1, 1, 1, 0, 1, 0]


def test_a_bell_touches_nothing_else_on_the_board(processes: Any) -> None:
    processes["metrics"], processes["stop"], processes["beat_ns"] = 7, 2, 9
    before = processes.copy()
    wait.prepare_sleep(processes, l.GATEWAY)
    wait.ring_bells(processes, 0xFF)
    assert processes.tobytes() == before.tobytes()


def test_who_died_asleep_is_rung_for_without_harm(processes: Any) -> None:
    wait.prepare_sleep(processes, l.GATEWAY)  # and never comes back
    wait.ring_bells(processes, 1 << l.GATEWAY)
    wait.ring_bells(processes, 1 << l.GATEWAY)
    assert processes[l.GATEWAY]["bell"] == 0


def test_a_nap_is_not_cut_short_by_bells(processes: Any) -> None:
    took: list[int] = []

    def napping() -> None:
        began = time.monotonic_ns()
        wait.nap(processes, l.FEED, 20_000_000)
        took.append(time.monotonic_ns() - began)

    napper = threading.Thread(target=napping)
    napper.start()
    while napper.is_alive():
        wait.ring_bells(processes, 1 << l.FEED)
    napper.join()
    assert 20_000_000 <= took[0] < 20_000_000 + LATE_NS


def test_a_sleeper_is_woken_from_another_thread_without_the_lock_of_python(processes: Any) -> None:
    took: list[int] = []

    def sleeping() -> None:
        wait.prepare_sleep(processes, l.SNIPER)
        took.append(slept_ns(processes, l.SNIPER, LONG_NS))

    for _ in range(5):
        sleeper = threading.Thread(target=sleeping)
        sleeper.start()
        while sleeper.is_alive():
            wait.ring_bells(processes, 1 << l.SNIPER)
        sleeper.join()
    assert min(took) < LONG_NS


def test_spins_before_a_sleep_are_none_some_or_endless() -> None:
    assert wait.spins_of(l.WAIT_FUTEX) == 0
    assert wait.spins_of(l.WAIT_ADAPTIVE) == wait.ADAPTIVE_SPINS
    assert wait.spins_of(l.WAIT_SPIN) > 1 << 60
