"""Heartbeats, stop words and modes on the board, from kernels; ipc/board.py has what Python needs."""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.atomics import load_relaxed, monotonic_ns, store_relaxed
from ipc.jit import kernel

_BEAT = l.offset(l.PROCESS, "beat_ns")
_PROGRESS = l.offset(l.PROCESS, "progress")
_STOP = l.offset(l.PROCESS, "stop")
_EVENT = l.offset(l.PROCESS, "last_event_ns")
_MODE = l.offset(l.MODE, "mode")
_METRICS = l.offset(l.PROCESS, "metrics")


@kernel
def beat(processes: Any, role: int, progress: int, event_ns: int) -> None:
    """I am alive, have done `progress` things, and am at event time `event_ns`. From kernels and from Python."""
    store_relaxed(processes, role, _PROGRESS, progress)
    store_relaxed(processes, role, _EVENT, event_ns)
    store_relaxed(processes, role, _BEAT, monotonic_ns())


@kernel
def beat_ns(processes: Any, role: int) -> int:
    """When a role last was alive (monotonic)."""
    return load_relaxed(processes, role, _BEAT)


@kernel
def stop_word(processes: Any, role: int) -> int:
    """What the watchdog tells this role: STOP_NONE, STOP_DRAIN, STOP_NOW."""
    return load_relaxed(processes, role, _STOP)


@kernel
def severest_mode(modes: Any) -> int:
    """The most severe of the mode words."""
    worst = l.MODE_RUNNING
    for row in range(l.MODE_WORDS):
        worst = max(worst, load_relaxed(modes, row, _MODE))
    return worst


@kernel
def count(processes: Any, role: int, metric: int, amount: int) -> None:
    """Add to one of the role's own metrics; only that role does."""
    store_relaxed(processes, role, _METRICS + 8 * metric, load_relaxed(processes, role, _METRICS + 8 * metric) + amount)
