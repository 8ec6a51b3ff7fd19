"""One supervised role: its child, its deaths, and how long its heart has been silent. Decides nothing about others."""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control.supervise.handle import Handle
from control.supervise.policy import PERMANENT_FAILURE, Action, Deaths, Decision
from ipc import layout as l
from ipc.process import Boot

#: what a hung child gets to write its stacks before it is killed
ABORT_GRACE_S = 0.020
#: without progress for so long while work waits and the heart beats, a role is stuck
STALL_S = 15.0
#: a silent child that wants a CPU is starved, not hung, until it has had so much of one as this share of half its limit: in that time a sound one
#: beats many times, however few others leave it. Up to so much silence, or four times its limit
STARVED_SHARE, STARVED_S = 0.25, 1.0
#: signals of a process that crashed by itself
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
#: what a start may take before the forkserver itself is suspected; the first one may have to compile all kernels
BIRTH_S, FIRST_BIRTH_S = 10.0, 900.0


class State(enum.Enum):
    """Where a role is in its life, as the watchdog sees it."""

    DOWN = "down"  # waits for its (next) start
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"  # ended after it was told to
    GIVEN_UP = "given up"  # failed for good


@dataclass(frozen=True)
class Death:
    """A role's process has ended without being told to."""

    role: str
    pid: int | None
    exit_code: int | None
    cause: str
    decision: Decision


class Supervised:
    """Bookkeeping of one role. `row` is its row of the board's process table, `backlog` says how much work waits for it."""

    def __init__(self, name: str, handle: Handle, row: Any, deaths: Deaths, hang_s: float, ready_s: float,
                 backlog: Callable[[], int] = lambda: 0) -> None:
        self.name, self.handle, self.row, self.deaths = name, handle, row, deaths
        self.hang_s, self.ready_s, self._backlog = hang_s, ready_s, backlog
        self.state = State.DOWN
        self.start_at = 0.0
        self.restarts = 0
        self.lives = 0
        self.been_ready = False
        self.last_death: Death | None = None
        self.silent_s = 0.0
        self.control_silent_s = 0.0
        self._since_start_s = 0.0
        self._stuck_s = 0.0
        self._stopped_s = 0.0
        self._beat = self._control_beat = self._progress = 0
        self._hang = ""
        self._born = False
        #: CPU seconds that it had had when its silence began to be worth a look, which is at half its limit
        self._doubted_s: float | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self, boot: Boot, stop: int = l.STOP_NONE) -> None:
        """Ask for a new process. With `stop` it recovers, drains and ends."""
        self.row["stop"] = stop
        self.row["state"] = l.PROC_ABSENT
        self.row["restarts"] = self.restarts
        self.row["incarnation"] = self.lives = self.lives + 1
        self._since_start_s = self.silent_s = self.control_silent_s = self._stuck_s = self._stopped_s = 0.0
        self._hang = ""
        self._born = False
        self.state = State.STARTING if stop == l.STOP_NONE else State.STOPPING
        self.handle.start(boot)

    def tell(self, stop: int) -> None:
        """Write the stop word; the child sees it within 50 ms."""
        self.row["stop"] = stop
        self.state = State.STOPPING

    def look(self, now: float, elapsed: float) -> Death | None:
        """Take notice of what has happened; `elapsed` is the time since the last look without the watchdog's own delay, in seconds."""
        if self.state in (State.DOWN, State.GONE, State.GIVEN_UP):
            return None
        if not self.handle.is_alive():
            return self._died(now)
        if self.state is State.STARTING and not self._born and self.handle.pid is not None:
            self._born, self._since_start_s = True, 0.0  # what the forkserver took is not the child's doing
        self._since_start_s += elapsed
        self._feel(now, elapsed)
        if self.state is State.STARTING and int(self.row["state"]) in (l.PROC_READY, l.PROC_FINISHED) and self._is_own_row():
            self.state, self.been_ready = State.READY, True
        return None

    def _is_own_row(self) -> bool:
        return int(self.row["pid"]) == self.handle.pid

    def _died(self, now: float) -> Death | None:
        code = self.handle.exit_code
        self.row["state"] = l.PROC_ABSENT if self.state is State.STOPPING and code == 0 else l.PROC_FAILED
        if self.state is State.STOPPING and code == 0:
            self.state = State.GONE
            return None
        self.row["fault"] = int(bool(self._hang) or (code is not None and -code in FAULTS))  # for the next life: what it was at is to blame
        told = self.state is State.STOPPING
        decision = self.deaths.decide(now, code)
        cause = self._hang or self.handle.start_error or describe_exit(code)
        self.last_death = Death(self.name, self.handle.pid, code, cause, decision)
        if told:
            self.state = State.GONE
        elif decision.action is Action.GIVE_UP:
            self.state = State.GIVEN_UP
        else:
            self.state = State.DOWN
            self.start_at = now + decision.delay_s
            self.restarts += 1
        return self.last_death

    # ── heart ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _feel(self, now: float, elapsed: float) -> None:
        beat, control, progress = int(self.row["beat_ns"]), int(self.row["control_beat_ns"]), int(self.row["progress"])
        # a beat that has come since the last look may be almost as old as that
        self.silent_s = min(elapsed, max(0.0, now - beat / 1e9)) if beat != self._beat else self.silent_s + elapsed
        self.control_silent_s = 0.0 if control != self._control_beat else self.control_silent_s + elapsed
        # a start may be silent for long, but nobody starts while the kernel says that he is stopped
        self._stopped_s = self._stopped_s + elapsed if self.state is State.STARTING and self.handle.stopped() else 0.0
        waits = self.state is State.READY and self._backlog() > 0
        self._stuck_s = self._stuck_s + elapsed if waits and progress == self._progress else 0.0
        self._beat, self._control_beat, self._progress = beat, control, progress
        if self.silent_s <= self.hang_s / 2:
            self._doubted_s = None
        elif self._doubted_s is None:
            self._doubted_s = self.handle.load()[1]

    def hang(self) -> str:
        """Why this child must be replaced although it lives; empty while all is well."""
        if self.state not in (State.STARTING, State.READY) or self.handle.pid is None or self._hang:
            return ""
        if self.state is State.STARTING:
            if self._since_start_s > self.ready_s:
                return f"was not ready within {self.ready_s:g} s"
            if self._stopped_s > self.hang_s:
                return f"was stopped for {self._stopped_s * 1000:.0f} ms while it started"
            return ""
        if self.silent_s > self.hang_s and not self._starved():
            return f"no heartbeat for {self.silent_s * 1000:.0f} ms"
        if self._stuck_s > STALL_S:
            return f"no progress for {self._stuck_s:.0f} s while work waits"
        return ""

    def _starved(self) -> bool:
        """It is silent because others have the CPUs. One that loops uses up what it gets, one that sleeps or is stopped does not want any."""
        if self._doubted_s is None or self.silent_s > max(STARVED_S, 4 * self.hang_s):
            return False
        wants, has_s = self.handle.load()
        return wants and has_s - self._doubted_s < STARVED_SHARE * self.hang_s / 2

    def left_s(self) -> float:
        """After how much more silence it would be late."""
        return self.hang_s - self.silent_s if self.state is State.READY else self.hang_s

    def unborn(self) -> bool:
        """The forkserver has given no process for too long."""
        most = FIRST_BIRTH_S if self.lives <= 1 else BIRTH_S
        return self.state is State.STARTING and self.handle.pid is None and self._since_start_s > most

    def put_down(self, why: str) -> None:
        """End a child that hangs: its stacks first, where it can still write them."""
        self._hang = why
        if self.handle.stopped():
            self._hang += "; it was stopped"
        else:
            self.handle.abort()
            if self.handle.join(ABORT_GRACE_S):
                return
        self.handle.kill()


def describe_exit(code: int | None) -> str:
    """An exit code in words."""
    if code is None or code == 255:
        return "ended, exit code unknown"
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    if code == PERMANENT_FAILURE:
        return f"failed for good (exit code {code})"
    return f"ended with exit code {code}"
