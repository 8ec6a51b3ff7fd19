"""Aiming: stop a process, look in which phase it is, let it go on, until it is where the storm wants to hit it; then send the signal.

*Sampling* stops the target at random moments (SIGSTOP) and classifies what it finds. What sampling does not meet within its time is met *by point*:
the process stops itself in the middle of the phase, at a named crash point that is armed from outside (ipc/crash.py). Either way it stands still when
it is looked at and when it is hit, and the report says which way it was. SIGKILL ends it without one more instruction; SIGSTOP is left as it is, so
that the watchdog must find the hang; SIGSEGV goes to each of its threads, as a fault would to the one that makes it; SIGTERM is obeyed in its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ipc import layout as l
from tests.storm import sight as phases
from tests.storm.scene import Gone, Pass
from tests.storm.sight import Sight

SAMPLE, POINT = "sample", "point"
#: seconds of sampling, and of waiting for a point, before something else is tried
SAMPLE_S, POINT_S = 0.15, 2.0
#: seconds within which a signalled process must stand still
_STILL_S = 1.0
#: passes of a point up to which its hit is chosen at random
_PASSES = {"sniper.undo": 400, "sniper.commit": 100, "sniper.committed": 100, "sniper.copy": 4}
_PASSES_ELSE = 3
#: most steps are of prices alone, which a successor makes again without a trace; so most hits of these points are in a step that begins with a
#: report, within so many passes
_WITH_NEWS = {"sniper.undo": 9, "sniper.commit": 1, "sniper.committed": 1}
_NEWS_SHARE = 0.75
#: seconds for which the sniper is held to wait for a report
_HOLD_S = 0.2
_SYS_TGKILL = {"x86_64": 234, "aarch64": 131}


@dataclass
class Shot:
    """One kill: who was hit, with what, in which phase, how that was found, and how long until the role worked again (None: not seen)."""

    number: int
    target: str
    signal: str
    wanted: str
    phase: str = phases.IDLE
    by: str = SAMPLE
    point: str = ""
    #: at a point: what memory shows there
    seen: str = ""
    looks: int = 0
    in_flight: int = 0
    recovery_ms: float | None = None
    market: str = ""
    moment_s: float = 0.0


class Aim:
    """Aims at the processes of one pass."""

    def __init__(self, scene: Pass, sight: Sight, rng: random.Random) -> None:
        self._scene, self._sight, self._rng = scene, sight, rng

    def hit(self, shot: Shot) -> int:
        """Bring the target to the wanted phase, as far as can be, and send the signal; gives the pid. Raises Gone."""
        pid = self._scene.pid(shot.target)
        try:
            if shot.wanted == phases.IDLE:
                shot.phase = self._look_once(shot, pid)
            elif (found := self._sample(shot, pid)) is not None:
                shot.phase = found
            else:
                pid = self._by_point(shot, pid)
            shot.in_flight = self._sight.in_flight()
            self._strike(pid, shot.signal)
        except (ProcessLookupError, FileNotFoundError):
            raise Gone(shot.target) from None
        finally:
            self._scene.disarm()
        return pid

    # ── finding the phase ─────────────────────────────────────────────────────────────────────────────────────────────
    def _look_once(self, shot: Shot, pid: int) -> str:
        """A random moment: whatever phase it is."""
        time.sleep(self._rng.random() * 0.05)
        shot.looks = 1
        return self._stop_and_look(shot.target, pid)

    def _sample(self, shot: Shot, pid: int) -> str | None:
        """Random moments until one is in the wanted phase; the target stands still then. None: not within the time, and it runs."""
        end = time.monotonic() + SAMPLE_S
        while time.monotonic() < end:
            shot.looks += 1
            if self._stop_and_look(shot.target, pid) == shot.wanted:
                return shot.wanted
            if shot.target == "sniper":  # a little work gathers meanwhile, in which it can be met
                time.sleep(self._rng.random() * 0.008)
            os.kill(pid, signal.SIGCONT)
            time.sleep(self._rng.random() * (0.0003 if shot.target == "sniper" else 0.004))
        return None

    def _by_point(self, shot: Shot, pid: int) -> int:
        """Arm a point of the phase and wait until the target stands there; as it is found, where it does not come there in time."""
        role = l.ROLES.index(shot.target)
        shot.point = self._rng.choice(phases.POINTS_OF[shot.wanted])
        passes = self._rng.randint(1, _PASSES.get(shot.point, _PASSES_ELSE))
        if shot.point in _WITH_NEWS and self._rng.random() < _NEWS_SHARE and self._hold_until_news(shot.target, pid):
            passes = self._rng.randint(1, _WITH_NEWS[shot.point])
        self._scene.arm(role, shot.point, passes)
        os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + POINT_S
        while time.monotonic() < end:
            if _stands_still(pid):
                shot.phase, shot.by, shot.seen = shot.wanted, POINT, self._sight.phase(shot.target, _threads(pid))
                return pid
            if not Path(f"/proc/{pid}").exists():
                raise Gone(shot.target)
            time.sleep(0.0005)
        self._scene.disarm()
        shot.phase, shot.point = self._stop_and_look(shot.target, pid), ""
        return pid

    def _hold_until_news(self, role: str, pid: int) -> bool:
        """Stop the sniper until a report waits for it: its next step is then one of orders, positions and cash. False: none has come in time.

        It is held for less than its heartbeat limit at a time, or the watchdog would replace it.
        """
        end = time.monotonic() + POINT_S / 2
        while time.monotonic() < end:
            self._stop_and_look(role, pid)
            until = time.monotonic() + _HOLD_S
            while time.monotonic() < until:
                if self._sight.news():
                    return True
                time.sleep(0.001)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)
        return False

    def _stop_and_look(self, role: str, pid: int) -> str:
        os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + _STILL_S
        while not _stands_still(pid):
            if time.monotonic() > end:
                raise Gone(role)
        return self._sight.phase(role, _threads(pid))

    # ── the signal ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _strike(self, pid: int, name: str) -> None:
        match name:
            case "STOP":
                return  # it stands still already
            case "KILL":
                os.kill(pid, signal.SIGKILL)
                return
            case "SEGV":
                for thread in _threads(pid):
                    _signal_thread(pid, thread, signal.SIGSEGV)
            case "TERM":
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def _stands_still(pid: int) -> bool:
    """Every thread of the process is stopped. Raises FileNotFoundError where it is gone."""
    for name in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{name}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[0] not in (b"T", b"t"):
                return False
    return True


def _signal_thread(pid: int, thread: int, number: int) -> None:
    """tgkill(2), which Python offers for the own process only."""
    ctypes.CDLL(None).syscall(_SYS_TGKILL[os.uname().machine], pid, thread, number)
