"""Named crash points: in tests a process can be told to end, stop or loop for ever at an exact step.

TRADER_CRASH_AT="sniper.commit:37" kills the first life of a role at the 37th pass; with ":loop" behind it that life goes round there for ever, on
its CPU and without a heartbeat. TRADER_CRASH_WORDS names a file of three words for each role (`WORD_POINT`, `WORD_PASSES`, `WORD_SIGNAL`), which
every life of it maps: whoever may write there arms a point of a running process.
"""

from __future__ import annotations

import mmap
import os
import signal
from typing import Any, Final

import numpy as np

from ipc.codes import ROLES

#: every named point, by number; the number is what kernels compare
POINTS = (
    "none",
    "sniper.undo", "sniper.commit", "sniper.committed", "sniper.copy", "sniper.copied", "sniper.part",
    "gateway.sending", "gateway.send", "gateway.sent", "gateway.report", "gateway.cursor", "gateway.rescue",
    "recorder.lmdb_commit", "recorder.committed", "recorder.cursor",
    "strategist.stored", "strategist.told",
)
#: int64 words of a role: number of the armed point (0: none), passes until it acts, the signal that is then raised in the thread that is there
WORD_POINT, WORD_PASSES, WORD_SIGNAL = range(3)
WORDS: Final = 3
#: in place of a signal: go round for ever
LOOP: Final = -1


def armed(role: str, restarts: int) -> tuple[int, int, int]:
    """(point number, how many passes until it acts, signal or LOOP) for this role; zeros unless told, and only in its first life."""
    told = os.environ.get("TRADER_CRASH_AT", "")
    name, nth, what = [*told.split(":"), "", ""][:3]
    if restarts or not told or not name.startswith(role + "."):
        return 0, 0, 0
    if name not in POINTS:
        raise ValueError(f"TRADER_CRASH_AT: {name!r} is none of {', '.join(POINTS[1:])}")
    if what not in ("", "loop"):
        raise ValueError(f"TRADER_CRASH_AT: {what!r} is not \"loop\"")
    return POINTS.index(name), int(nth or 1), LOOP if what else signal.SIGKILL


def map_words(path: str) -> np.ndarray[Any, Any]:
    """The words of all roles in the file that TRADER_CRASH_WORDS names: int64 [roles, WORDS]. Made where it is not there."""
    size = len(ROLES) * WORDS * 8
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        return np.frombuffer(mmap.mmap(descriptor, size), np.int64).reshape(len(ROLES), WORDS)
    finally:
        os.close(descriptor)


def words(role: str, restarts: int) -> np.ndarray[Any, Any]:
    """This role's words: shared ones where TRADER_CRASH_WORDS names a file, else its own as TRADER_CRASH_AT says."""
    if path := os.environ.get("TRADER_CRASH_WORDS"):
        return map_words(path)[ROLES.index(role)]
    return np.array(armed(role, restarts), np.int64)


class CrashPoint:
    """The Python half: call `reached("gateway.send")` at each point."""

    def __init__(self, role: str, restarts: int) -> None:
        told = os.environ.get("TRADER_CRASH_AT") or os.environ.get("TRADER_CRASH_WORDS")
        self.words = words(role, restarts) if told else None

    def reached(self, name: str) -> None:
        """Raise the signal in this thread, or loop in it, when this is the armed point's n-th pass."""
        if self.words is not None and POINTS[self.words[WORD_POINT]] == name:
            self.words[WORD_PASSES] -= 1
            if self.words[WORD_PASSES] == 0:
                while self.words[WORD_SIGNAL] == LOOP:
                    pass
                signal.raise_signal(int(self.words[WORD_SIGNAL]))
