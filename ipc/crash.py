"""Named crash points: in tests a process can be told to SIGKILL itself at an exact step. TRADER_CRASH_AT="sniper.commit:37"."""

from __future__ import annotations

import os
import signal

#: every named point, by number; the number is what kernels compare
POINTS = (
    "none",
    "sniper.undo", "sniper.commit", "sniper.committed", "sniper.copy", "sniper.copied", "sniper.part",
    "gateway.sending", "gateway.send", "gateway.sent", "gateway.report", "gateway.cursor", "gateway.rescue",
    "recorder.lmdb_commit", "recorder.committed", "recorder.cursor",
    "strategist.stored", "strategist.told",
)


def armed(role: str, restarts: int) -> tuple[int, int]:
    """(point number, how many passes until it kills) for this role; (0, 0) unless told, and only in its first life."""
    told = os.environ.get("TRADER_CRASH_AT", "")
    name, _, nth = told.partition(":")
    if restarts or not told or not name.startswith(role + "."):
        return 0, 0
    if name not in POINTS:
        raise ValueError(f"TRADER_CRASH_AT: {name!r} is none of {', '.join(POINTS[1:])}")
    return POINTS.index(name), int(nth or 1)


class CrashPoint:
    """The Python half: call `reached("gateway.send")` at each point."""

    def __init__(self, role: str, restarts: int) -> None:
        self.point, self.left = armed(role, restarts)

    def reached(self, name: str) -> None:
        """SIGKILL the own process when this is the armed point's n-th pass."""
        if self.point and POINTS[self.point] == name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
