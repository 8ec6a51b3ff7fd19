"""The board, from kernels and from plain Python: both see one truth, and each writer touches its own words only."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import numpy as np
import pytest

from ipc import board, heartbeat
from ipc import layout as l


@pytest.fixture
def processes() -> np.ndarray[Any, Any]:
    return np.zeros(l.MAX_ROLES, l.PROCESS)


@pytest.fixture
def modes() -> np.ndarray[Any, Any]:
    return np.zeros(4, l.MODE)


def changed(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> set[tuple[int, str]]:
    """(row, field) of everything that differs."""
    assert before.dtype.names is not None
    return {(row, name) for name in before.dtype.names for row in range(len(before)) if before[row][name].tobytes() != after[row][name].tobytes()}


@pytest.mark.parametrize("beat", [heartbeat.beat, board.beat], ids=["kernel", "python"])
def test_a_beat_is_the_progress_the_event_time_and_now(processes: Any, beat: Any) -> None:
    before, began = processes.copy(), time.monotonic_ns()
    beat(processes, l.GATEWAY, 41, 1_700_000_000_000_000_000)
    row = processes[l.GATEWAY]
    assert (row["progress"], row["last_event_ns"]) == (41, 1_700_000_000_000_000_000)
    assert began <= row["beat_ns"] <= time.monotonic_ns(), "the kernel's clock is Python's"
    assert changed(before, processes) == {(l.GATEWAY, "progress"), (l.GATEWAY, "last_event_ns"), (l.GATEWAY, "beat_ns")}


def test_a_kernel_reads_its_own_stop_word(processes: Any) -> None:
    processes[l.SNIPER]["stop"] = l.STOP_DRAIN
    processes[l.FEED]["stop"] = l.STOP_NOW
    assert [heartbeat.stop_word(processes, role) for role in range(4)] == [l.STOP_NONE, l.STOP_NONE, l.STOP_DRAIN, l.STOP_NOW]


def test_counting_adds_to_one_metric_of_one_role(processes: Any) -> None:
    before = processes.copy()
    heartbeat.count(processes, l.FEED, 8, 3)
    heartbeat.count(processes, l.FEED, 8, 4)
    heartbeat.count(processes, l.FEED, 15, -1)
    assert processes[l.FEED]["metrics"].tolist() == [0] * 8 + [7] + [0] * 6 + [-1]
    assert changed(before, processes) == {(l.FEED, "metrics")}


def test_announcing_a_start_says_who_and_since_when(processes: Any) -> None:
    began = time.monotonic_ns()
    board.announce(processes, l.RECORDER, l.PROC_STARTING)
    row = processes[l.RECORDER]
    assert (row["pid"], row["state"]) == (os.getpid(), l.PROC_STARTING)
    assert began <= row["started_ns"] <= row["beat_ns"] <= time.monotonic_ns()
    assert row["control_beat_ns"] == row["beat_ns"]


def test_announcing_any_other_state_keeps_pid_and_start(processes: Any) -> None:
    board.announce(processes, l.RECORDER, l.PROC_STARTING)
    processes[l.RECORDER]["pid"] = 4711
    before = processes.copy()
    for state in (l.PROC_READY, l.PROC_STOPPING, l.PROC_FAILED):
        board.announce(processes, l.RECORDER, state)
        assert processes[l.RECORDER]["state"] == state
    assert changed(before, processes) == {(l.RECORDER, name) for name in ("state", "beat_ns", "control_beat_ns")}


def test_the_most_severe_of_the_modes_rules_for_kernels_and_for_python() -> None:
    modes = np.zeros(l.MODE_WORDS, l.MODE)
    for all_words in itertools.product(range(len(l.MODES)), repeat=l.MODE_WORDS):
        modes["mode"] = all_words
        modes["cause"] = [f"cause {mode}".encode() for mode in all_words]
        worst = max(all_words)
        assert heartbeat.severest_mode(modes) == worst
        assert board.severest(modes) == (worst, f"cause {worst}" if worst else "")


def test_a_mode_has_one_writers_row_a_time_and_a_cause(modes: Any) -> None:
    began = time.time_ns()
    board.set_mode(modes, l.MODE_OF_RECORDER, l.MODE_SAFE, "journal cannot write")
    row = modes[l.MODE_OF_RECORDER]
    assert (row["mode"], row["cause"]) == (l.MODE_SAFE, b"journal cannot write")
    assert began <= row["since_wall_ns"] <= time.time_ns()
    assert not modes[:l.MODE_OF_RECORDER].view(np.uint8).any()
    board.set_mode(modes, l.MODE_OF_RECORDER, l.MODE_RUNNING, "")
    assert board.severest(modes) == (l.MODE_RUNNING, "")


@pytest.mark.parametrize("cause", ["x" * 48, "x" * 49, "ü" * 40, "x" + "ü" * 40, "€" * 1000],
                         ids=["fits", "one more", "even", "cut in a letter", "long"])
def test_a_long_cause_is_cut_and_can_still_be_shown(modes: Any, cause: str) -> None:
    board.set_mode(modes, l.MODE_OF_OPERATOR, l.MODE_HALTED, cause)
    mode, shown = board.severest(modes)
    assert mode == l.MODE_HALTED
    assert shown.rstrip("\N{REPLACEMENT CHARACTER}") == cause[:len(shown.rstrip("\N{REPLACEMENT CHARACTER}"))]
    assert len(shown) >= 16
    assert not modes[l.MODE_OF_GATEWAY].tobytes().strip(b"\0"), "the next row is untouched"
