"""One run from segments to summary: makes everything, turns the watchdog, ends in order, leaves nothing."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.config import Config
from control.supervise import child, instance, nursery, sweep
from control.supervise.chronicle import Chronicle
from control.supervise.dangers import Dangers
from control.supervise.ending import EndOfRun, Flatten, Flattening
from control.supervise.handle import ChildProcess, Nursery
from control.supervise.instance import Identity, Places
from control.supervise.last_words import last_words
from control.supervise.notify import ServiceManager
from control.supervise.policy import Deaths, RestartPolicy
from control.supervise.rescue import Rescue
from control.supervise.role import Death, State, Supervised
from control.supervise.safety import SafeMode
from control.supervise.watchdog import Phase, Watchdog
from control.supervise.words import Words
from hotpath.courier import RoleLine
from ipc import board
from ipc import layout as l
from ipc.process import Boot, Source
from ipc.segment import Memory, instance_dir

#: signals that end a run in order; a second SIGINT ends it at once
STOP_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
#: signals that have come and that nobody has acted on yet
_signals: deque[int] = deque()
#: seconds between two notes of the event time that a paper instance has reached
_REMEMBER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run: everything that is decided before a process exists."""

    config: Config
    mode: str
    market: str
    rows: Any
    strategies: tuple[str, ...]
    strategy_names: tuple[str, ...]
    sources: tuple[Source, ...]
    for_s: float | None
    flatten_at_end: bool
    lockstep: bool
    speed: float
    seed: int
    #: still holding positions from the last run, see control/supervise/carry.py
    carried_symbols: tuple[str, ...] = ()
    carried_strategies: tuple[str, ...] = ()


class Session:
    """A running instance as trader-launch holds it; screen and control socket look at it and act through it."""

    def __init__(self, plan: Plan, places: Places, identity: Identity, say: Callable[[str], None], *,
                 entry: Callable[[bytes], None] = child.run, preload: Sequence[str] = nursery.PRELOAD) -> None:
        """`say` tells people something at once: on the screen, or as a line. `entry` and `preload`: see Nursery."""
        self.plan, self.places, self.identity, self.say = plan, places, identity, say
        self.log = logging.getLogger("watchdog")
        self.started_wall_ns = time.time_ns()
        self.ended_wall_ns = 0
        self.killed = False
        self._flatten: Flatten | None = None
        self._ending = ""
        self._remembered_at = 0.0
        self._remembers = True
        self._unstored = False
        self._told_open = ""
        self._prepared = False
        self.config_version, changed = self._config_version()
        self._resumes = plan.mode == "paper" and (places.state_dir / "journal" / "data.mdb").is_file()
        self.manager = ServiceManager(os.environ, self.log)  # before there is a child that would inherit what it takes
        self.nursery = Nursery(places.run_dir / "logs" / "forkserver.log", entry, preload)
        self.memory = self._create()
        self.processes = self.memory.board.processes
        self.line = RoleLine(places.socket_dir, "recorder")
        self.chronicle = Chronicle(self.line, self.log)
        self.watchdog = self._watchdog()
        self._to_sniper = RoleLine(places.socket_dir, "sniper")
        self._rescue = Rescue(self.memory, plan.config.safety, self.watchdog.roles["sniper"], self._to_sniper,
                              lambda text: self.chronicle.note("rescue", text, logging.WARNING))
        self.words = Words(self.memory.board.modes, self.watchdog.safe_mode, self._dangers, self._rescue,
                           lambda: self.watchdog.set_mode(time.monotonic()), self.chronicle.note)
        self._carry()
        if self._resumes:
            with instance.journal_of(places.state_dir) as journal:
                if journal is not None:
                    self.words.recall(journal)
        if changed:
            self.chronicle.note("config", f"configuration {self.config_version}: {', '.join(changed)} changed since the last run",
                                version=self.config_version, changed=changed)
        self.end = EndOfRun(self.memory, plan.mode == "replay", plan.for_s)
        #: called in each turn; what they raise ends the run: the control socket
        self.each_turn: list[Callable[[], object]] = []
        #: descriptors whose readiness ends the sleep between two turns
        self.wakers: list[Callable[[], Sequence[int]]] = [self.line.descriptors]

    # ── making ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _create(self) -> Memory:
        plan, hotpath = self.plan, self.plan.config.hotpath
        memory = instance.create_segments(
            self.places.instance, ticks=hotpath.tick_slots, instruments=max(hotpath.instrument_capacity, len(plan.rows)),
            conditions=hotpath.condition_capacity, rows=plan.rows, strategies=plan.strategy_names,
            carried_strategies=plan.carried_strategies, number=self.identity.number,
            lockstep=plan.lockstep, wait_strategy=instance.choose_wait_strategy(hotpath.wait_strategy),
            initial_cash=round(plan.config.paper.initial_balance * 10**8))
        if plan.mode == "paper":
            instance.name_state(self.places)
            # a market at its own pace waits for whoever watches stops and for the venue, not for who plans: that one may have missed ticks
            memory.ticks.readers["active"][l.STRATEGIST] = int(plan.lockstep or not plan.speed)
        return memory

    def _config_version(self) -> tuple[int, list[str]]:
        """The number of this run's configuration, and what is another than in the last run of the instance."""
        from control.record.run_start import fingerprints, version_after

        last = instance.journal_start(self.places.state_dir) if self.plan.mode == "paper" else None
        return version_after(last.data if last else None, fingerprints(self.plan.config.sections(), self.plan.strategies))

    def _carry(self) -> None:
        """Close what only serves open positions to entries, before any child starts."""
        for number, row in enumerate(self.plan.rows):
            if row["symbol"].decode() in self.plan.carried_symbols:
                self.memory.sniper.instrument_states[number]["closed_to_entries"] = 1
        if carried := (*self.plan.carried_symbols, *self.plan.carried_strategies):
            self.chronicle.note("carried", f"{', '.join(carried)}: positions of the last run are kept with their protection until they close; "
                                "nothing new is opened there", logging.WARNING)

    def _watchdog(self) -> Watchdog:
        limits = self.plan.config.supervise
        policy = RestartPolicy(max_restarts=limits.restart_intensity, window_s=limits.restart_window_s,
                               backoff_s=limits.backoff_first_ms / 1000, max_backoff_s=limits.backoff_most_ms / 1000)
        roles = {
            name: Supervised(name, ChildProcess(self.nursery, name), self.processes[number], Deaths(policy), limits.hang_ms(name) / 1000,
                             limits.ready_timeout_s, self._backlog_of(number))
            for number, name in enumerate(l.ROLES)
        }
        config = self.plan.config
        self._dangers = Dangers(self.memory, config.safety, config.limits.daily_loss_bps, roles["sniper"], roles["gateway"])
        replay = self.plan.mode == "replay"
        return Watchdog(roles, self.memory.board.modes, self.boot_of, self.chronicle, stop_grace_s=limits.stop_grace_s,
                        fail_fast=replay, restart_forkserver=self.nursery.restart, last_words=self._last_words,
                        safe_mode=SafeMode(config.safety.cooldown_s), dangers=None if replay else self._dangers)

    def _last_words(self, death: Death) -> str:
        return last_words(self.places.run_dir / "logs" / f"{death.role}.log", death.pid, death.exit_code == -signal.SIGABRT)

    def _backlog_of(self, role: int) -> Callable[[], int]:
        """Ticks that wait for a role; in lockstep they may wait for a plan, so nobody is blamed."""
        if role not in (l.SNIPER, l.GATEWAY) or self.plan.lockstep:
            return lambda: 0
        ring, reader = self.memory.ticks.ring, self.memory.ticks.readers[role]
        doubt = self.memory.board.modes[l.MODE_OF_GATEWAY]  # a ledger that cannot be written is waited for, as long as that takes
        return lambda: 0 if role == l.GATEWAY and doubt["mode"] else int(ring[0]["head"]) - int(reader["cursor"])

    def boot_of(self, role: str, restarts: int) -> Boot:
        """What a role's next life is given."""
        plan, places = self.plan, self.places
        return Boot(
            role=role, instance=places.instance, mode=plan.mode, market=plan.market, run_id=places.run_id, run_dir=str(places.run_dir),
            state_dir=str(places.state_dir), socket_dir=str(places.socket_dir), sections=plan.config.sections(), strategies=plan.strategies,
            sources=plan.sources, speed=plan.speed, lockstep=plan.lockstep, seed=plan.seed, flatten_at_end=plan.flatten_at_end,
            start_event_ns=0 if plan.market != "simulated" else
            instance.start_event_ns(self.identity, plan.config.run.begin_ns or self.started_wall_ns),
            restarts=restarts, config_version=self.config_version)

    @property
    def pid(self) -> int:
        """The watchdog's own pid."""
        return os.getpid()

    def preparing(self) -> str:
        """How far the forkserver is with its kernels, "" when it is done or says nothing."""
        if self._prepared:
            return ""
        if any(role.handle.pid is not None for role in self.watchdog.roles.values()):
            self._prepared = True
            return ""
        with contextlib.suppress(OSError):
            return nursery.progress_file(self.places.run_dir / "logs" / "forkserver.log").read_text()
        return ""

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self) -> None:
        """Turn until everything has stopped. However this ends, no child is left."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        handlers = hold_signals(STOP_SIGNALS)
        try:
            while self.watchdog.phase is not Phase.STOPPED:
                self._turn(time.monotonic())
                self._sleep(wake_read)
        finally:
            if self.watchdog.phase is not Phase.STOPPED:
                self.watchdog.stop_now()
            self._salvage()
            if self._told_open and self.what_stays_open() != self._told_open:
                self.say("Meanwhile: " + self.what_stays_open())
            self.ended_wall_ns = time.time_ns()
            self._remember()
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(wake_read)
            os.close(wake_write)

    def _turn(self, now: float) -> None:
        while _signals:
            self._take_signal(_signals.popleft())
        self.watchdog.turn(now)
        self.manager.turn(self.watchdog.phase, now)
        if self.watchdog.phase in (Phase.STARTING, Phase.RUNNING):
            self._rescue.turn(now, self.watchdog.safe_mode.causes)
            if self._ending:
                self._go_on_ending(now)
            elif cause := self.end.cause(now, self.watchdog.ready_at):
                self.stop(cause)
        if self._resumes and self.watchdog.roles["recorder"].been_ready:  # it has restored the book
            self._resumes = False
            cursors = self.memory.board.cursors[0]  # the sniper may have traded since
            count, armed = int(cursors["resumed_positions"]), int(cursors["resumed_conditions"])
            self.chronicle.note("resumed", f"resumed: {count} open position{'' if count == 1 else 's'}, conditions armed: {armed}",
                                positions=count, conditions=armed)
        if now - self._remembered_at >= _REMEMBER_S:
            self._remembered_at = now
            self._remember()
        if self.watchdog.roles["strategist"].state is State.GIVEN_UP:
            self.memory.ticks.readers["active"][l.STRATEGIST] = 0  # nobody comes who would read on
        for act in self.each_turn:
            act()

    def _sleep(self, wake: int) -> None:
        """Until the next turn, a signal or the end of a child."""
        poll = select.poll()
        for descriptor in (wake, *(one for waker in self.wakers for one in waker())):
            poll.register(descriptor, select.POLLIN)
        for role in self.watchdog.roles.values():
            descriptor = role.handle.fileno() if isinstance(role.handle, ChildProcess) else -1
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        poll.poll(math.ceil(self.watchdog.sleep_s(time.monotonic()) * 1000))
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 64)

    def _take_signal(self, number: int) -> None:
        if self._ending or self.watchdog.phase is Phase.STOPPING:
            if number == signal.SIGINT:
                self.killed = True
                self.say("Second Ctrl-C: every process is killed at once; what it has done is stored at the end. "
                         + self.what_stays_open())
                self.watchdog.stop_now()
            return
        self._told_open = self.what_stays_open()
        self.say(f"{STOP_SIGNALS[signal.Signals(number)]}: stopping in order. {self._told_open} Ctrl-C again stops at once.")
        self.stop(STOP_SIGNALS[signal.Signals(number)])

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def stop(self, cause: str) -> None:
        """Begin the end: flatten first where that is wanted, then the ordered stop."""
        if self._ending or self.watchdog.phase in (Phase.STOPPING, Phase.STOPPED):
            return
        if self.plan.flatten_at_end and self.watchdog.phase is Phase.RUNNING and cause != "end of the data":
            self._ending = cause
            self.watchdog.stop_entries("flatten at end")
            self._flatten = Flatten(self.memory, self._to_sniper, time.monotonic())
        else:
            self.watchdog.stop(cause)

    def _go_on_ending(self, now: float) -> None:
        assert self._flatten is not None
        result = self._flatten.turn(now)
        if result is Flattening.WAITING:
            return
        if result is Flattening.TIMED_OUT:
            text = f"not everything could be closed in time. {self.what_stays_open()} {self._flatten.refusal}".rstrip()
            self.chronicle.note("flatten", text, logging.WARNING)
            self.say(text)
        self.watchdog.stop(self._ending)

    def open_positions(self) -> list[tuple[str, str, str]]:
        """(side, size, symbol) of each open position, from the sniper's table."""
        found = []
        for row in self.memory.sniper.positions:
            if int(row["state"]) != l.POS_FLAT and int(row["lots"]):
                facts = self.memory.instruments.instruments[int(row["instrument"])]
                size = int(row["lots"]) * int(facts["lot_mantissa"]) * 10.0 ** int(facts["lot_exponent"])
                found.append(("long" if int(row["side"]) > 0 else "short", f"{size:.8f}".rstrip("0").rstrip("."), facts["symbol"].decode()))
        return found

    def what_stays_open(self) -> str:
        """For people: what a stop leaves open."""
        found = self.open_positions()
        if not found:
            return "No position is open."
        rest = "the paper account keeps them for the next start" if self.plan.mode == "paper" else "the replay ends with them"
        return f"{len(found)} position{'s stay' if len(found) > 1 else ' stays'} open ({rest}): " + ", ".join(map(" ".join, found)) + "."

    def _remember(self) -> None:
        """How far event time has come, so that a paper instance resumes behind it even if everything is killed."""
        reached = int(self.memory.sniper.account[0]["event_ns"])
        if self.plan.mode == "paper" and reached > self.identity.event_ns:
            self.identity.event_ns = reached
            try:
                instance.remember(self.places, self.identity)
            except OSError as error:  # a full disk is the recorder's alarm; this copy is only a convenience
                if self._remembers:
                    self.log.warning("%s: %s; it is tried again each second", self.places.state_dir / "instance.json", error.strerror)
                self._remembers = False
            else:
                self._remembers = True

    def _salvage(self) -> None:
        """Store what the recorder could not. Where that fails again, a paper instance's segments stay for its next start."""
        from control.record.records import JournalError
        from control.record.salvage import salvage

        paper = self.plan.mode == "paper"
        self._unstored = paper and board.owed(self.memory) > 0  # whatever happens now, they are not lost before they are stored
        try:
            if count := salvage(self.memory, self.places.state_dir / "journal", sync=paper, events=self.chronicle.unsaid()):
                self.log.warning("%d records that the recorder could not store are stored now", count)
            self._unstored = False
            self.chronicle.settle()
        except JournalError as error:
            text = f"the last records cannot be stored: {error}."
            if self._unstored:
                text += f" They stay in {instance_dir(self.places.instance)}, and the next start stores them; restarting the machine loses them."
            self.log.error("%s", text)
            self.say(text)

    def close(self) -> None:
        """After `run`: the forkserver, the sockets, the segments."""
        self.nursery.close()
        self.line.close()
        self._to_sniper.close()
        self.manager.close()
        if self._unstored:
            sweep.remove_folder(self.places.socket_dir)
        else:
            instance.remove_all(self.places)


def hold_signals(numbers: Iterable[int] = (signal.SIGTERM, signal.SIGHUP)) -> dict[int, Any]:
    """From now on these only enqueue, for the session to act on: an end while segments are made would leave some. Gives the former handlers.

    A SIGHUP that nohup has switched off stays so.
    """
    wanted = [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, lambda got, _: _signals.append(got)) for number in wanted}


def open_log(run_dir: Path, headless: bool) -> None:
    """The watchdog's log: always a file; lines on stderr too where there is no screen."""
    logging.raiseExceptions = False  # a full disk must not fill the terminal with what could not be logged
    handlers: list[logging.Handler] = [logging.FileHandler(run_dir / "logs" / "watchdog.log", encoding="utf-8", errors="backslashreplace")]
    if headless:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(handlers=handlers, force=True, level=logging.INFO, datefmt="%Y-%m-%dT%H:%M:%S",
                        format="%(asctime)s.%(msecs)03d %(name)s %(levelname)s %(message)s")
