"""The supervising loop: readiness in order, heartbeats, hangs, respawn, ordered stop. A `turn` never waits, but for a 20 ms abort.

All roles start at once; only readiness is reported in order, and a role that needs an earlier one waits for it by itself. Before a silent
heart is judged, the watchdog subtracts its own delay: time counts against a child only as far as the watchdog itself was running.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from typing import Any

from control.supervise.chronicle import Chronicle
from control.supervise.policy import Action
from control.supervise.role import Death, State, Supervised
from control.supervise.safety import Dangers, NoDangers, SafeMode
from hotpath.errors import Action as Follows
from hotpath.errors import ErrorManager, Kind
from ipc import board
from ipc import layout as l
from ipc.process import Boot

#: time between two turns
TURN_S = 0.020
#: most time between two turns that counts against a child; what is beyond is the watchdog's own delay
COUNTED_S = 2 * TURN_S
#: a told child that outlives its grace gets SIGTERM, and after this SIGKILL
LAST_GRACE_S = 1.0
#: lives that a role gets to drain once a stop was told
DRAIN_LIVES = 2
#: who stops when: nothing new is planned, no tick comes, what was decided ends, all of it is learned, and recorded
STOP_ORDER = ("strategist", "feed", "sniper", "gateway", "reflection", "recorder")
#: roles that must have drained before their segments go; the others may just end
MUST_DRAIN = ("sniper", "gateway", "recorder")


class Phase(enum.Enum):
    """Where the whole is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Watchdog:
    """Keeps the roles of one instance alive. Pure of processes and clocks: it acts on handles and on the board it is given."""

    def __init__(self, roles: Mapping[str, Supervised], modes: Any, boot_of: Callable[[str, int], Boot], chronicle: Chronicle, *,
                 stop_grace_s: float = 10.0, fail_fast: bool = False, restart_forkserver: Callable[[], bool] = lambda: False,
                 last_words: Callable[[Death], str] = lambda death: "", safe_mode: SafeMode | None = None,
                 dangers: Dangers | None = None) -> None:
        """`roles` in the order of readiness. `fail_fast`: a role that fails for good or loops ends the run, as nobody waits for a mend.

        `last_words`: what a dead child's log says of its death. `dangers` says which causes of safe mode are the case.
        """
        self.roles = dict(roles)
        self._modes, self._boot_of, self._chronicle = modes, boot_of, chronicle
        self._stop_grace_s, self._fail_fast, self._restart_forkserver = stop_grace_s, fail_fast, restart_forkserver
        self._last_words, self._dangers = last_words, dangers or NoDangers()
        self.safe_mode = safe_mode or SafeMode(cooldown_s=0.0)
        self.phase = Phase.STARTING
        self.failure = ""
        self.stop_cause = ""
        self.ready_at: float | None = None
        self._last_turn: float | None = None
        self._announced = 0
        self._stopping: list[str] = []
        self._told_at: float | None = None
        self._drain_lives: dict[str, int] = {}
        self._mode = (l.MODE_RUNNING, "")
        self._entries_stopped = ""
        self._control_silent: set[str] = set()
        #: deaths by role, for the journal; what follows from them is the restart policy's to say
        self._errors = {name: ErrorManager(name) for name in self.roles}

    # ── the loop's body ──────────────────────────────────────────────────────────────────────────────────────────────
    def turn(self, now: float) -> None:
        """Look at every role and act. `now` in monotonic seconds."""
        elapsed = 0.0 if self._last_turn is None else min(now - self._last_turn, COUNTED_S)
        self._last_turn = now
        for role in self.roles.values():
            self._supervise(role, now, elapsed)
        if self.phase is Phase.STARTING:
            self._announce_readiness(now)
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            self.set_mode(now)
        elif self.phase is Phase.STOPPING:
            self._go_on_stopping(now)
        self._chronicle.pump()

    def _supervise(self, role: Supervised, now: float, elapsed: float) -> None:
        death = role.look(now, elapsed)
        if death is not None:
            self._mourn(role, death, now)
        elif role.state is State.READY and role.deaths.calm(now) and (over := self._errors[role.name].succeeded(int(now * 1e9))):
            self._chronicle.note("recovered", f"{role.name}: {over.words()}", role=role.name, **over.data())
        if why := role.hang():
            self._chronicle.note("hang", f"{role.name} (pid {role.handle.pid}) hangs: {why}; replacing it", logging.WARNING,
                                 role=role.name, why=why)
            role.put_down(why)
        elif role.unborn() and self._restart_forkserver():
            self._chronicle.note("forkserver", "the forkserver does not answer; it is replaced", logging.WARNING)
        self._watch_control_thread(role)
        if role.state is State.DOWN and now >= role.start_at and self.phase is not Phase.STOPPED and self._wanted(role):
            role.start(self._boot_of(role.name, role.restarts))

    def sleep_s(self, now: float) -> float:
        """How long nothing has to be done, unless something wakes the loop: a turn at most, less where a role's pause ends before, or one that
        stays silent will be late."""
        waits = [role.start_at - now for role in self.roles.values() if role.state is State.DOWN and self._wanted(role)]
        late = [left for role in self.roles.values() if (left := role.left_s()) > 0]
        return max(0.0, min([TURN_S, *waits, *late]))

    def _wanted(self, role: Supervised) -> bool:
        """While stopping, only who still has to drain comes back, and only until its own turn comes."""
        return self.phase is not Phase.STOPPING or (role.name in MUST_DRAIN and role.name in self._stopping[1:])

    def _mourn(self, role: Supervised, death: Death, now: float) -> None:
        decision, facts = death.decision, {"role": role.name, "pid": death.pid, "exit_code": death.exit_code, "restarts": role.restarts}
        gives_up = role.state is State.GONE or decision.action is Action.GIVE_UP
        follows = Follows.STOP if gives_up else Follows.PAUSE if decision.delay_s else Follows.CONTINUE
        facts |= self._errors[role.name].record(Kind.FATAL if decision.action is Action.GIVE_UP else Kind.GENERAL, follows, death.cause,
                                                int(now * 1e9), 0.0 if gives_up else decision.delay_s).data()
        words = self._last_words(death)
        what = f"{role.name} (pid {death.pid}) {death.cause}" + (f": {words}" if words else "")
        if role.state is State.GONE:
            self._chronicle.note("death", f"{what} while it was stopping", logging.WARNING, **facts)
        elif decision.action is Action.GIVE_UP:
            self._chronicle.note("gave_up", f"{what}; it is not started again, see its log", logging.ERROR, **facts)
            self.failure = self.failure or f"{what}; see logs/{role.name}.log"
            self._give_up(self.failure)
        elif decision.action is Action.CRASH_LOOP:
            self._chronicle.note("crash_loop", f"{what}: {decision.deaths} deaths in {role.deaths.policy.window_s:g} s are a crash loop; "
                                 f"safe mode, next try in {decision.delay_s:g} s; see logs/{role.name}.log", logging.ERROR, **facts)
            self._give_up(f"{role.name} dies again and again: {death.cause}" + (f": {words}" if words else "") + f"; see logs/{role.name}.log")
        else:
            when = f" in {decision.delay_s:.2f} s" if decision.delay_s else ""
            self._chronicle.note("respawn", f"{what}; respawning it{when}", logging.WARNING, **facts)

    def _give_up(self, why: str) -> None:
        """End the run where going on without the role makes no sense: before it ever was ready, or in a replay."""
        if self.phase is Phase.STARTING or self._fail_fast:
            self.failure = self.failure or why
            self.stop(why)

    def _watch_control_thread(self, role: Supervised) -> None:
        """The sniper's main thread has a heartbeat of its own; its silence is an alarm, never a kill, since the loop trades on."""
        if role.name != "sniper" or role.state is not State.READY:
            self._control_silent.discard(role.name)
        elif role.control_silent_s > max(role.hang_s, 5.0) and role.name not in self._control_silent:
            self._control_silent.add(role.name)
            self._chronicle.note("alarm", f"{role.name}: its control thread is silent for {role.control_silent_s:.0f} s; "
                                 "plans and commands wait, exits go on", logging.ERROR, role=role.name)
        elif role.control_silent_s == 0.0:
            self._control_silent.discard(role.name)

    def _announce_readiness(self, now: float) -> None:
        names = list(self.roles)
        while self._announced < len(names) and self.roles[names[self._announced]].state is State.READY:
            role = self.roles[names[self._announced]]
            self._chronicle.note("ready", f"{role.name} is ready (pid {role.handle.pid})", role=role.name, pid=role.handle.pid)
            self._announced += 1
        if self._announced == len(names):
            self.phase, self.ready_at = Phase.RUNNING, now

    def set_mode(self, now: float) -> None:
        """Enter safe mode, or leave it, as things are now. In each turn, and at once when a person has said a word."""
        present = self._dangers.present(now)
        if looping := [role.name for role in self.roles.values() if role.deaths.looping(now)]:
            present["crash_loop"] = f"{looping[0]}: crash loop"
        change = self.safe_mode.turn(now, present, self._dangers.day)
        if drawdown := self._dangers.to_remember(now):  # first: safe mode that has ended by `resume` is never known without it
            self._chronicle.keep("drawdown", "from which equity a drawdown counts", **drawdown)
        if change is None:
            return
        if change.safe:
            self._put_mode(l.MODE_SAFE, change.text)
            text = f"safe mode: {change.text}; no new positions, protection goes on"
        else:
            self._put_mode(*((l.MODE_REDUCE_ONLY, self._entries_stopped) if self._entries_stopped else (l.MODE_RUNNING, "")))
            text = "safe mode ends"
        self._chronicle.note("safe_mode", text, logging.WARNING, safe=change.safe, cause=change.cause, causes=self.safe_mode.causes,
                             days=self.safe_mode.days)

    def _put_mode(self, mode: int, cause: str) -> None:
        self._mode = (mode, cause)
        board.set_mode(self._modes, l.MODE_OF_WATCHDOG, mode, cause)

    def stop_entries(self, cause: str) -> None:
        """No new positions from now on; exits go on."""
        self._entries_stopped = cause
        if self._mode[0] == l.MODE_RUNNING:
            self._put_mode(l.MODE_REDUCE_ONLY, cause)

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def stop(self, cause: str) -> None:
        """Begin the ordered stop: no new positions, then role by role."""
        if self.phase in (Phase.STOPPING, Phase.STOPPED):
            return
        self.phase, self.stop_cause = Phase.STOPPING, cause
        self.stop_entries("stopping")
        self._stopping = [name for name in STOP_ORDER if name in self.roles]
        self._chronicle.note("stop", f"stopping: {cause}", cause=cause)

    def stop_now(self) -> None:
        """Kill every child at once."""
        for role in self.roles.values():
            role.handle.kill()
        for role in self.roles.values():
            role.handle.join(1.0)
        self.phase = Phase.STOPPED

    def _go_on_stopping(self, now: float) -> None:
        while self._stopping:
            role = self.roles[self._stopping[0]]
            if not self._has_stopped(role, now):
                return
            self._stopping.pop(0)
            self._told_at = None
        self.phase = Phase.STOPPED

    def _has_stopped(self, role: Supervised, now: float) -> bool:
        """Move one role towards its end; True when it is there."""
        if self._told_at is None:
            self._told_at = now
            if role.state in (State.STARTING, State.READY):
                role.tell(l.STOP_DRAIN)
                if role.handle.pid is None and not role.been_ready:
                    role.handle.kill()  # the forkserver still prepares kernels; nobody waits for a process that would only leave
        if role.state is State.STOPPING:
            self._press(role, now - self._told_at)
            return False
        if role.state is State.GIVEN_UP or role.name not in MUST_DRAIN or not role.been_ready:
            return True
        # it has died before or while it drained: what it owes to the journal or the venue needs another life
        lives = self._drain_lives.get(role.name, 0)
        if role.state is State.GONE and (role.handle.exit_code == 0 or lives >= DRAIN_LIVES):
            return True
        self._drain_lives[role.name] = lives + 1
        self._told_at = now
        role.restarts += role.state is State.GONE
        role.start(self._boot_of(role.name, role.restarts), stop=l.STOP_DRAIN)
        return False

    def _press(self, role: Supervised, waited_s: float) -> None:
        if waited_s > self._stop_grace_s + LAST_GRACE_S:
            role.handle.kill()
        elif waited_s > self._stop_grace_s and int(role.row["stop"]) != l.STOP_NOW:
            role.row["stop"] = l.STOP_NOW
            role.handle.terminate()
            self._chronicle.note("slow_stop", f"{role.name} has not drained within {self._stop_grace_s:g} s; it is ended", logging.WARNING,
                                 role=role.name)
