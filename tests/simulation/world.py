"""One script carried out: shared memory, a clock, three processes under the shipped watchdog, and a venue."""

from __future__ import annotations

import hashlib
import logging
import shutil
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np

from control.config import Config, Safety
from control.record.journal import Cursors
from control.record.records import JournalError, WriteFailed
from control.record.salvage import salvage
from control.supervise.chronicle import Chronicle
from control.supervise.dangers import Dangers
from control.supervise.policy import Deaths, RestartPolicy
from control.supervise.rescue import Rescue
from control.supervise.role import Supervised
from control.supervise.safety import SafeMode
from control.supervise.watchdog import Phase, Watchdog
from hotpath.arming import arm_of, compiled, facts_by_symbol
from hotpath.config import Hotpath, Limits, Paper
from ipc import board, messages
from ipc import layout as l
from ipc.process import Boot
from tests.simulation import verdict
from tests.simulation.clock import MS, Clock
from tests.simulation.deaths import CrashPoints, Died, Violation
from tests.simulation.exchange import Exchange
from tests.simulation.invariants import Witness
from tests.simulation.lives import (
    GatewayLife,
    Log,
    RecorderLife,
    SimHandle,
    SimJournal,
    SniperLife,
    ToRecorder,
    ToSniper,
)
from tests.simulation.operator import Operator
from tests.simulation.script import STRATEGIES, SYMBOLS, Script, fold, in_words
from tests.simulation.stage import TICKS, Stage

ROLES = {"recorder": l.RECORDER, "sniper": l.SNIPER, "gateway": l.GATEWAY}
_LIVES = {"recorder": RecorderLife, "sniper": SniperLife, "gateway": GatewayLife}
_MODE_WORDS, _READER_WORDS = l.MODE.itemsize // 8, l.READER.itemsize // 8
#: rounds of a tenth of a second at the end, without faults, in which everything undecided has to be decided: a breaker rests for a minute
_ROUNDS = 800
#: actions that change nothing that is looked at
_SILENT = frozenset(("tick", "wait", "fault", "disk", "clock", "crash", "cut", "away"))


class World:
    """A script's run. `tracing` keeps what happens in words."""

    def __init__(self, stage: Stage, script: Script, tracing: bool = False) -> None:
        self.stage, self.script, self.tracing = stage, script, tracing
        self.memory, self.folder, self.number = stage.memory, stage.place(), stage.number
        self.trace: list[str] = []
        self.clock, self.crash = Clock(), CrashPoints()
        stage.fresh()
        settings = script.settings
        self.lives: dict[str, Any] = {}
        self.unborn: dict[str, Boot] = {}
        self.stalled: dict[str, int] = {}
        self.births = 0
        self.cut, self.cut_at = "", 0
        self.disk_refuses = 0
        self.stored = Cursors()
        #: shared memory was lost with what was in it
        self.forgot = False
        #: what was lost cannot be told apart: the product says so, and waits for a person
        self.nameless = False
        self.max_fires: dict[int, int] = {}
        self.exchange = Exchange(self.clock, self.crash, settings.window_ms * MS, settings.remote, None)
        self.witness = self.exchange.witness = Witness(self)
        self.log, self.operator = Log(self), Operator(self)
        self._plans: list[list[Any]] = []
        self._quotes: dict[int, tuple[int, int]] = {}
        self._runs = 0
        self._facts = facts_by_symbol(self.memory.instruments.instruments[: len(SYMBOLS)])
        limits = Limits(max_open_positions=settings.max_open, max_symbol_exposure_bps=10_000, daily_loss_bps=10_000, max_entries_per_day=100_000,
                        min_confidence=0.0, max_quote_age_ms=3_600_000, max_order_value=1e9, price_collar_bps=10_000, window_collar_bps=10_000,
                        max_gross_exposure_bps=1_000_000, min_equity=1.0, duplicate_window_ms=0, max_messages_per_s=1e6,
                        max_repeats=100_000)
        self.safety = Safety(positions="flatten" if settings.flatten else "protect", cooldown_s=settings.cooldown_s, max_drawdown_bps=None,
                             unprotected_s=5, clock_jump_ms=1000)
        config = Config(limits=limits, paper=Paper(order_latency_ms=settings.latency_ms), hotpath=Hotpath(), safety=self.safety)
        self._sections = {name: msgspec.Raw(section) for name, section in config.sections().items()}
        self._seen: list[tuple[int, ...]] = []
        memory = self.memory
        self._modes = memory.board.modes.view(np.int64)
        self._looked_at = [one.view(np.int64) for one in (memory.sniper.commit, memory.orders.ring, memory.reports.ring, memory.sniper.account)]
        self._tick_words = memory.ticks.slots.view(np.int64).reshape(-1, l.TICK.itemsize // 8)
        self._tick_head, self._tick_readers = memory.ticks.ring.view(np.int64), memory.ticks.readers.view(np.int64)
        SimJournal.world = self

    def tell(self, text: str) -> None:
        """A line of the trace."""
        if self.tracing:
            self.trace.append(text)

    # ── starting, dying ───────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        """As trader-launch does, over fresh segments: supervision, and every role asked for."""
        self._runs += 1
        rows, handles, policy = self.memory.board.processes, {name: SimHandle(self, name) for name in ROLES}, RestartPolicy()
        self.roles = {name: Supervised(name, handles[name], rows[number], Deaths(policy, lambda: 0.5), 0.25 if name == "sniper" else 5.0, 1e9)
                      for name, number in ROLES.items()}
        chronicle = Chronicle(ToRecorder(self), self.log, self.clock.monotonic)
        self.dangers = Dangers(self.memory, self.safety, 10_000, self.roles["sniper"], self.roles["gateway"],
                               lambda: (self.clock.time_ns(), self.clock.monotonic_ns()))
        self.watchdog = Watchdog(self.roles, self.memory.board.modes, self._boot, chronicle, safe_mode=SafeMode(self.safety.cooldown_s),
                                 dangers=self.dangers)
        self.rescue = Rescue(self.memory, self.safety, self.roles["sniper"], ToSniper(self),
                             lambda text: chronicle.note("rescue", text, logging.WARNING))
        self.operator.recall(chronicle)
        self._look()
        for role in ROLES:
            self.turn_of(role)
        self._look()

    def _boot(self, role: str, restarts: int) -> Boot:
        return Boot(role=role, instance="simulation", mode="paper", market="simulated", run_id=f"run{self._runs}", run_dir=str(self.folder),
                    state_dir=str(self.folder), socket_dir="", sections=self._sections, strategies=STRATEGIES, restarts=restarts)

    def _born(self, role: str) -> None:
        boot, row = self.unborn.pop(role), self.memory.board.processes[ROLES[role]]
        board.announce(self.memory.board.processes, ROLES[role], l.PROC_STARTING)
        row["pid"] = self.roles[role].handle.pid
        self.lives[role] = _LIVES[role](self, boot)

    def turn_of(self, role: str, *more: Any) -> None:
        """A role lives on, begins, or dies."""
        if self.clock.now_ns < self.stalled.get(role, 0):
            return
        try:
            if role in self.lives:
                getattr(self.lives[role], "run" if role == "sniper" else "turn")(*more)
            elif role in self.unborn and (role == "recorder" or int(self.memory.board.cursors[0]["incarnation"])):
                self._born(role)
        except Died as death:
            self.tell(f"    {role} dies at {death}")
            self.ended(role, -9)
        except WriteFailed as error:
            self.tell(f"    {role} ends: {error}")
            self.ended(role, 1)
        except JournalError as error:
            raise Violation("journal", str(error)) from error

    def ended(self, role: str, code: int) -> None:
        """A role is gone by itself."""
        self.bury(role)
        handle: Any = self.roles[role].handle
        handle.exit_code = code

    def bury(self, role: str) -> None:
        """Nothing is left of a life but what it shared."""
        self.unborn.pop(role, None)
        life = self.lives.pop(role, None)
        if life is not None:
            life.close()
        if role == "sniper":
            self.cut = self.cut if self.cut == "recovery" else ""

    def meanwhile(self) -> None:
        """The gateway waits for somebody: they take turns."""
        self.turn_of("recorder")
        self.turn_of("sniper", 1)

    def lose(self, stored: bool) -> None:
        """Everything is killed and shared memory is gone; `stored`: it was still there for the next start, which stores what it holds."""
        for role in ROLES:
            self.bury(role)
        if not stored:
            self.forgot, self.nameless = True, self.nameless or self.witness.nameless_exits()
        if stored and int(self.memory.board.cursors[0]["incarnation"]):
            while True:  # a start that cannot store it does not begin
                with suppress(WriteFailed):
                    salvage(self.memory, self.folder / "journal", sync=False)
                    break
        self.stalled.clear()
        self._plans.clear()
        self.cut = ""
        self.stage.fresh()
        self.witness.fresh()
        self.start()

    # ── a script's actions ────────────────────────────────────────────────────────────────────────────────────────────
    def act(self, action: tuple[Any, ...]) -> None:
        """Carry out one action, and look at what came of it."""
        if self.tracing:
            self.tell(f"{(self.clock.event_ns // MS) % 100_000_000} ms  {in_words(action)}")
        name, *rest = action
        getattr(self, f"_{name}")(*rest)
        if name not in _SILENT:
            self.look()

    def look(self) -> None:
        """The invariants that can be seen at any time, and a line of the digest."""
        self.witness.reports()
        self.witness.venue()
        modes, venue = self._modes, self.exchange.venue
        if modes[_MODE_WORDS * l.MODE_OF_GATEWAY] == l.MODE_SAFE:
            cause = bytes(self.memory.board.modes[l.MODE_OF_GATEWAY]["cause"])
            if not cause.startswith((b"paper ledger: ", b"venue: ", b"exit order ")):
                raise Violation("unreconciled", cause.decode())
        self._seen.append((self.clock.now_ns, *(int(one[0]) for one in self._looked_at), self.stored.orders, self.stored.reports,
                           0 if venue is None else venue.ledger.meta.cash, *modes[::_MODE_WORDS].tolist()))

    def _tick(self, after_ms: int, kind: int, instrument: int, price: int, lots: int, ask: int, ask_lots: int) -> None:
        self.clock.now_ns += after_ms * MS
        if kind == l.TICK_QUOTE:
            self._quotes[instrument] = (price, ask)
        self._put(kind, instrument, price, lots, ask, ask_lots)

    def _put(self, kind: int, instrument: int, price: int, lots: int, ask: int, ask_lots: int, flags: int = 0) -> None:
        seq = int(self._tick_head[0]) + 1
        if seq - int(min(self._tick_readers[_READER_WORDS * l.SNIPER], self._tick_readers[_READER_WORDS * l.GATEWAY])) >= TICKS:
            return
        self._tick_words[seq & (TICKS - 1)] = (seq, self.clock.event_ns, 0, instrument | kind << 16 | flags << 24, price, lots, ask, ask_lots)
        self._tick_head[0] = seq

    def _silence(self, for_ms: int) -> None:
        """The market has no feed, and goes on."""
        self.clock.now_ns += for_ms * MS
        self.turn_of("sniper", TICKS, True)

    def _gap(self, away_ms: int) -> None:
        """The feed is back: it says for how long it was away."""
        self.clock.now_ns += away_ms * MS
        self._put(l.TICK_CLOCK, l.NO_INSTRUMENT, away_ms * MS, 1, 0, 0, l.FLAG_GAP)

    def _sniper(self, most: int) -> None:
        self.turn_of("sniper", most)
        self._strategist()

    def _gateway(self) -> None:
        self.turn_of("gateway")

    def _recorder(self) -> None:
        self.turn_of("recorder")
        self._strategist()

    def _watchdog(self) -> None:
        self.clock.now_ns += 20 * MS
        self._look()

    def _look(self) -> None:
        """The watchdog's turn; whoever lives and is not stalled has beaten meanwhile."""
        for role in self.lives:
            if self.clock.now_ns >= self.stalled.get(role, 0):
                row = self.memory.board.processes[ROLES[role]]
                row["beat_ns"] += 1
                row["control_beat_ns"] += 1
        now = self.clock.monotonic()
        self.watchdog.turn(now)
        if self.watchdog.phase in (Phase.STOPPING, Phase.STOPPED):  # it gave up before all were ready; somebody starts it again
            self.lose(True)
        else:
            self.rescue.turn(now, self.watchdog.safe_mode.causes)

    def _wait(self, wait_ms: int) -> None:
        self.clock.now_ns += wait_ms * MS

    def _fault(self, call: str, fault: str, for_ms: int, delay_ms: int) -> None:
        self.exchange.fail(call, fault, for_ms * MS, delay_ms * MS)

    def _disk(self, times: int) -> None:
        self.disk_refuses = times

    def _clock(self, by_ms: int) -> None:
        self.clock.stepped_ns += by_ms * MS

    def _crash(self, point: str, nth: int) -> None:
        self.crash.arm(point, nth)

    def _cut(self, phase: str, at: int) -> None:
        self.cut, self.cut_at = phase, at

    def _away(self, role: str, for_ms: int) -> None:
        self.stalled[role] = self.clock.now_ns + for_ms * MS

    def _kill(self, role: str) -> None:
        self.roles[role].handle.kill()

    def _loss(self, stored: bool) -> None:
        self.lose(stored)

    def _plan(self, strategy: int, add: bool, conditions: Any) -> None:
        due_ns = self.clock.event_ns
        rows = compiled(conditions, due_ns, self._facts, lambda: None)
        plan = messages.Plan(strategy=STRATEGIES[strategy], due_ns=due_ns, next_due_ns=due_ns + 10**9, add=add, conditions=list(conditions))
        self._plans.append([plan, rows, None, 0])

    def _strategist(self) -> None:
        """Plans on their way: journaled first, then armed; whoever does not answer is asked again."""
        recorder, sniper = self.lives.get("recorder"), self.lives.get("sniper")
        for waiting in list(self._plans):
            plan, rows, asked, number = waiting
            if not number and recorder is not None:
                if asked is None or asked[0] is not recorder:
                    waiting[2] = (recorder, recorder.ask(plan))
                elif (reply := recorder.answered(asked[1])) is not None:
                    waiting[2] = None
                    if isinstance(reply, messages.Planned):
                        waiting[3] = number = reply.plan_seq
            if number and sniper is not None and self.clock.now_ns >= self.stalled.get("sniper", 0):
                for index, condition in enumerate(plan.conditions):
                    self.max_fires[number << l.PLAN_SHIFT | index] = condition.max_fires
                sniper.control.handle(arm_of(msgspec.structs.replace(plan, plan_seq=number), rows))
                self._plans.remove(waiting)

    def _operate(self, action: str, symbol: str, price: str, wide: bool) -> None:
        self.operator.say(action, symbol, price)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def settle(self) -> None:
        """Nothing goes wrong any more, and nothing is opened: whatever is undecided has to be decided, and exits that are due be done."""
        self.tell("the faults end")
        self.exchange.heal()
        self.crash.disarm()
        self.stalled.clear()
        self.cut, self.disk_refuses = "", 0
        self._operate("pause", "", "", False)
        quiet = 0
        for _ in range(_ROUNDS):
            began = len(self.trace)
            for instrument, (bid, ask) in self._quotes.items():
                self.act(("tick", 1, l.TICK_QUOTE, instrument, bid, 10_000, ask, 10_000))
            self.act(("tick", 100, l.TICK_CLOCK, l.NO_INSTRUMENT, 0, 0, 0, 0))
            for action in (("sniper", 8), ("gateway",), ("sniper", 8), ("recorder",), ("gateway",), ("watchdog",), ("recorder",)):
                self.act(action)
            quiet = fold(self.trace, began, quiet) if self.tracing else 0
            if not (undecided := verdict.undecided(self)):
                return
        raise Violation("undecided", "; ".join(undecided))

    def end(self) -> None:
        """An ordered stop: drain in order, a last snapshot; then the accounts are compared."""
        self.tell("the ordered stop")
        self.clock.now_ns += 1100 * MS
        sniper, gateway, recorder = (self.lives[role] for role in ("sniper", "gateway", "recorder"))
        sniper.drain()
        gateway.turn()
        gateway.gateway.drain()
        self.look()
        for _ in range(8):
            sniper.news()
            recorder.turn()
        if recorder.recorder.finish():
            raise Violation("journal", "it could not be written to the end")
        self.look()
        verdict.compare(self)

    def close(self) -> None:
        """Let go of everything."""
        self.witness.over = True
        for role in ROLES:
            self.bury(role)
        shutil.rmtree(self.folder, ignore_errors=True)

    def digest(self) -> str:
        """Of everything that was looked at."""
        return hashlib.sha256(repr(self._seen).encode()).hexdigest()[:16]
