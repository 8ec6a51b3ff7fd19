"""The board from plain Python: states, heartbeats, stop words and modes, without numba, so that the watchdog can use it too.

The same words are read and written by kernels through ipc/heartbeat.py. Every store here is one aligned 8-byte word, which x86-64 and
aarch64 never tear; nothing else is published through these words, so no ordering is needed.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ipc import layout as l

#: how the cause of the gateway's mode begins where it ends by itself: when the ledger can be written again, when the venue answers, when book and
#: account have been compared. The gateway says it, and whoever shows or judges a mode tells it from a doubt that a person has to end
LEDGER, VENUE, ACCOUNT = PASSING = ("paper ledger: ", "venue: ", "account: not compared with the book yet")
#: what the operator's mode word says while he pauses; a start takes it up again
PAUSED = "paused by the operator"


def announce(processes: Any, role: int, state: int) -> None:
    """Set the own state; STARTING also sets pid and start time."""
    row = processes[role]
    if state == l.PROC_STARTING:
        row["pid"] = os.getpid()
        row["started_ns"] = time.monotonic_ns()
    row["state"] = state
    row["beat_ns"] = row["control_beat_ns"] = time.monotonic_ns()


def beat(processes: Any, role: int, progress: int, event_ns: int) -> None:
    """I am alive, have done `progress` things, and am at event time `event_ns`. Kernels have their own in ipc/heartbeat.py."""
    row = processes[role]
    row["progress"] = progress
    row["last_event_ns"] = event_ns
    row["beat_ns"] = time.monotonic_ns()


def set_mode(modes: Any, writer: int, mode: int, cause: str) -> None:
    """Set one of the mode words; `cause` is shown to people."""
    row = modes[writer]
    row["cause"] = cause.encode()[:48]
    row["since_wall_ns"] = time.time_ns()
    row["mode"] = mode


def severest(modes: Any) -> tuple[int, str]:
    """The most severe of the modes and its cause ("" while all run)."""
    row = max(modes, key=lambda one: int(one["mode"]))
    return int(row["mode"]), row["cause"].decode(errors="replace") if int(row["mode"]) else ""


def owed(memory: Any) -> int:
    """Records of both rings that are not known to be in the journal. Exact where no recorder runs."""
    cursors = memory.board.cursors[0]
    if not cursors["incarnation"]:
        return 0
    return int(memory.orders.ring[0]["head"] - cursors["durable_orders"] + memory.reports.ring[0]["head"] - cursors["durable_reports"])
