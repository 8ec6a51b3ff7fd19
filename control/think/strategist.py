"""The strategist process: folds ticks into candles and makes a plan at every multiple of the interval of event time.

A plan is compiled here, into the rows that the sniper arms. It goes to the recorder first, in words (durable, numbered), then to the sniper, as rows
(armed); a large one in parts, every one of which is durable before the first is armed. The process beats only from its main loop and while it
waits for an answer there, never from a thread: a strategy that hangs in `plan` stops the heartbeat, and the watchdog kills and replaces the
process. A strategy that raises or gives nonsense is counted, journaled, and keeps what it has armed until that expires.

In lockstep a plan due at t is made when the sniper has done every tick before the first one at or behind t, the journal holds what that led
to, and every trade that closed is in the knowledge store; the sniper waits at that tick for the plan of the last strategy. A successor
has its predecessor's candles and reads the ring on, and plans for nothing that its predecessor has armed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from control.learn.config import Learning
from control.learn.snapshot import Reader
from control.think.advisers import Past, engage, past_of, warnings
from control.think.analysis.config import Analysis
from control.think.armed import Words
from control.think.carried import Carries
from control.think.config import Strategy as Settings
from control.think.history import resampled
from control.think.llm.config import MOST_MODELS, Llm
from control.think.planning import Outcome, Planner, Planning, changes_of, decision_of
from control.think.remembered import standing, take_up
from control.think.strategy import StrategyError
from hotpath.activities import Activities
from hotpath.arming import arm_of
from hotpath.config import Hotpath, Limits, Recovery
from hotpath.errors import Kind
from hotpath.kernel import barriers, candles
from ipc import bus, messages, ring
from ipc import layout as l
from ipc.crash import CrashPoint
from ipc.process import Child

#: exit code for a strategy that can never be loaded (EX_CONFIG of sysexits.h)
EXIT_CONFIG = 78
#: ticks in one kernel call; longest sleep on the doorbell; one turn of a barrier
_BATCH, _SLEEP_NS, _TURN_NS = 8192, 50_000_000, 2_000_000
#: how long an answer may take before the question is put again; in lockstep it is put until it is answered
_ANSWER_S, _TRIES = 2.0, 3
assert 2 * l.MAX_STRATEGIES + MOST_MODELS <= l.MAX_ACTIVITIES, "each strategy, its advice, and each model have a row on the board"


class Strategist:
    """One life of the process. Raises StrategyError when a strategy cannot be loaded."""

    def __init__(self, child: Child) -> None:
        boot, memory = child.boot, child.memory
        self._child, self._memory, self._boot = child, memory, boot
        self.settings: Settings = boot.section("strategy", Settings)
        hotpath: Hotpath = boot.section("hotpath", Hotpath)
        self.lockstep = bool(memory.board.run[0]["lockstep"])
        self._words = Words(Path(boot.state_dir) / "journal")
        self.planning = Planning(memory, boot.strategies, self.settings, hotpath.session_gap_s, child.log, self.breathe,
                                 boot.section("recovery", Recovery), lambda planner: self.activities.show(planner.errors),
                                 boot.section("analysis", Analysis), lambda: self.lockstep and not child.stopping(), boot.section("limits", Limits),
                                 boot.sources, self._words.plan, Carries.ON if boot.restarts else Carries.ANEW)
        self.planners, self.fold, self.view = self.planning.planners, self.planning.fold, self.planning.view
        self.interval_ns = self.planning.interval_ns
        self._knowledge = Reader(Path(boot.state_dir) / "knowledge", self.planning.quantum, apply=boot.section("learning", Learning).apply)
        self._recorder, self._sniper = bus.Client(boot.socket_dir, "recorder"), bus.Client(boot.socket_dir, "sniper")
        self._server = bus.Server(boot.socket_dir, "strategist", messages.decode_child_request)
        self._crash = CrashPoint("strategist", boot.restarts)
        #: what the journal is to be told, oldest first
        self._events: list[messages.Event] = []
        self.activities = Activities(child, self._events.append)
        for planner in self.planners:
            self.activities.adopt(planner.errors, resume=True)
        llm: Llm = boot.section("llm", Llm)
        advice = engage(self.planning, llm, boot.section("limits", Limits), self._past, boot.mode, self._tell_now, boot.speed)
        self._advice = [self.activities.adopt(errors, resume=True) for errors in advice]
        self._events += [] if boot.restarts else warnings(self.planning, llm, boot.mode)
        self.next_due_ns = self._lost = 0

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def recover(self) -> None:
        """Warm up: what a predecessor saw, else generated history where there is one; then what is left in the ring, without planning for it."""
        state, cursor = self.fold.state[0], int(ring.cursor(self._memory.ticks.readers, l.STRATEGIST))
        if self.planning.carried.go_on():
            self._lost = int(state["lost"])
        elif cursor:
            state["next"] = int(ring.oldest(self._memory.ticks.ring))
        if self._boot.market == "simulated" and not int(state["ticks"]):
            self._generate(self._first_event_ns(int(state["next"])) if cursor else self._boot.start_event_ns)
        while cursor >= int(state["next"]) and not self._child.stopping():
            if candles.run(self.fold, 1 << 62, min(_BATCH, cursor + 1 - int(state["next"])), 0) == candles.IDLE:
                break
            self.breathe()
        horizon = int(barriers.word(self._memory.board.cursors, 0, barriers.PLAN_HORIZON))
        if cursor:  # without a tick that both had, the oldest one that is left tells the time
            seen_ns = int(state["event_ns"]) or self._first_event_ns(int(state["next"]))
            self.next_due_ns = (seen_ns // self.interval_ns + 1) * self.interval_ns
        if self.lockstep and horizon > 1:
            self.next_due_ns = horizon  # what the sniper waits for is what nobody has planned yet
        if not cursor and self._boot.mode == "paper":
            self._go_on()
        elif self._boot.restarts:
            self._remember()
        if self._boot.restarts:
            self._blame()

    def _past(self) -> Past:
        """What models were asked, by the journal: it is of the day's budget, and what a predecessor did last."""
        return past_of(Path(self._boot.state_dir) / "journal", time.time_ns(), self._boot.restarts > 0) if self._is_journal_there() else Past()

    def _is_journal_there(self) -> bool:
        """Waits until the recorder has begun one; False when told to stop."""
        while not int(barriers.word(self._memory.board.cursors, 0, l.offset(l.CURSORS, "incarnation"))):
            if self._child.stopping():
                return False
            self.breathe()
            time.sleep(0.005)
        return True

    def _tell_now(self, event: messages.Event) -> bool:
        """Into the journal at once; whether that has it. The heart beats meanwhile, though it is a strategy that waits for it: it is the recorder."""
        return isinstance(self._put(self._recorder, event, lambda: False), messages.Done)

    def _blame(self) -> None:
        """The strategy in whose plan a predecessor hung or crashed has failed there."""
        for planner in self.planners:
            if int(self._child.processes[l.STRATEGIST]["fault"]) and (asked_ns := planner.errors.breaker.asked_ns):
                at_ns = max(asked_ns, planner.errors.breaker.failed_ns + 1)  # asked at one instant again and again, each hang is one
                self.activities.failed(planner.errors, "strategy_error", Kind.GENERAL, f"{planner.name} hung or crashed in plan", at_ns)
                self._journal_events()

    def _go_on(self) -> None:
        """The run begins: what an earlier one planned last is armed again by the recorder, and the next plan comes when it was due, or at once where
        it would be another one by now.

        Without the recorder nothing can be planned, so its answer is waited for.
        """
        if not self._is_journal_there():
            return
        while not isinstance(answer := self._put(self._recorder, messages.Query(what="in_force"), lambda: False), messages.Answer):
            if self._child.stopping():
                return
            self.breathe()
            time.sleep(0.1)
        self._take_up(answer.rows)
        if self.next_due_ns or not all(planner.planned_ns for planner in self.planners):
            return  # what has no plan, or an outdated one, gets one at once; the others are not asked twice for one instant
        last_ns = max(planner.planned_ns for planner in self.planners)
        self.next_due_ns = (last_ns // self.interval_ns + 1) * self.interval_ns
        self._keep(self.planning.keep(self.planners[-1], self.next_due_ns - self.interval_ns, "goes on"))

    def _remember(self) -> None:
        """What of a predecessor's plans is armed, by strategy: whose turn it is depends on that. What was journaled alone is not planned."""
        if self.lockstep:  # the market waits, so the journal soon has all that the hot loop has taken over
            self._until(self._memory.board.cursors, 0, barriers.DURABLE_ORDERS, int(barriers.published(self._memory.orders.ring)))
        answer = self._put(self._recorder, messages.Query(what="in_force"), lambda: False)
        self._take_up(answer.rows if isinstance(answer, messages.Answer) else [])
        for planner in self.planners:
            if planner.planned_ns < planner.errors.breaker.failed_ns < self.next_due_ns:
                planner.planned_ns = planner.errors.breaker.failed_ns  # it was asked then, though no plan tells

    def _take_up(self, rows: list[dict[str, Any]]) -> None:
        known = standing(rows, self._memory.conditions, self._words.plan)
        for planner, spec in zip(self.planners, self._boot.strategies, strict=True):
            take_up(planner, known.get(planner.name, {}), spec, self._child.log)

    def _first_event_ns(self, seq: int) -> int:
        """Event time of the tick with that sequence, or of the oldest that is left."""
        for _ in range(8):
            if ring.poll(self._memory.ticks.ring, self._memory.ticks.slots, seq, self.fold.tick, 0) == ring.OK:
                return int(self.fold.tick[0]["event_ns"])
            seq = int(ring.oldest(self._memory.ticks.ring))
        return self._boot.start_event_ns

    def _generate(self, until_ns: int) -> None:
        from hotpath.venues import simulated  # only where there is a simulated market

        symbols = list(self.view.facts)
        minutes = min(self.settings.history_minutes, until_ns // 60_000_000_000)
        if not minutes or not symbols:
            return
        for number, rows in enumerate(simulated.history(self._boot.seed, symbols, until_ns, minutes, self.view.instruments).values()):
            first, made = resampled(rows, self.settings.candle_s)
            if len(made):
                candles.begin_with(self.fold, number, first, made, len(made), until_ns)

    # ── loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def breathe(self) -> None:
        """Heartbeat and the own socket; called from the main loop and its waits only."""
        state = self.fold.state[0]
        self._child.beat(int(state["ticks"]), int(state["event_ns"]))
        self._server.poll(0, self.handle)

    def turn(self, sleep_ns: int = _SLEEP_NS) -> int:
        """One kernel call, and a plan if one is due."""
        found = int(candles.run(self.fold, self.next_due_ns, _BATCH, sleep_ns))
        if int(self.fold.state[0]["lost"]) != self._lost:
            self._tell_lost()
        self.breathe()
        if found == candles.DUE:
            state = self.fold.state[0]
            due_ns = self.planning.due_ns(int(state["due_event_ns"]))
            if self._barrier(int(state["next"])):
                self.planning.carried.set_mark()
                if not self._late(due_ns):
                    self.plan(due_ns)
                self.next_due_ns = due_ns + self.interval_ns
        return found

    def _tell_lost(self) -> None:
        """The market has gone on without this process, which took longer for something than the tick ring lasts."""
        lost, self._lost = int(self.fold.state[0]["lost"]) - self._lost, int(self.fold.state[0]["lost"])
        self._child.metric("ticks_lost", lost)
        self._child.log.warning("%d ticks were not seen: the market went on meanwhile; candles are without them", lost)

    def _late(self, due_ns: int) -> bool:
        """The sniper is an interval ahead: the next plan is due already, and this one would only delay it. Never in lockstep."""
        return not self.lockstep and int(self._child.processes[l.SNIPER]["last_event_ns"]) >= due_ns + 2 * self.interval_ns

    def _barrier(self, seq: int) -> bool:
        """In lockstep: all that the ticks before `seq` led to is done, durable and learned. False when told to stop."""
        if not self.lockstep:
            return True
        readers, cursors = self._memory.ticks.readers, self._memory.board.cursors
        if not self._until(readers, l.SNIPER, barriers.READER_CURSOR, seq - 1):
            return False
        published = int(barriers.published(self._memory.orders.ring))
        return (self._until(cursors, 0, barriers.DURABLE_ORDERS, published)
                and self._until(cursors, 0, barriers.LEARNED_ORDERS, published))

    def _until(self, words: Any, row: int, offset: int, value: int) -> bool:
        while not barriers.await_word(words, row, offset, value, self._child.processes, l.STRATEGIST, _TURN_NS):
            self.breathe()
            if self._child.stopping():
                return False
        return True

    # ── a plan ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def plan(self, due_ns: int) -> None:
        """Ask every strategy that is due, in the order of their numbers, and arm what they give."""
        began = time.perf_counter_ns()
        left = []
        for outcome in self.planning.outcomes(due_ns, self._knowledge):
            if outcome.warmup_left_s is not None:
                left.append(outcome.warmup_left_s)
            self.activities.show(outcome.planner.errors)
            for errors in self._advice:  # before the journal has it: a successor finds no less there than on the board
                errors.now_ns = max(errors.now_ns, time.monotonic_ns() if errors.pauses else due_ns)
                self.activities.show(errors)
            self._events += outcome.events
            self._journal_events()
            if outcome.decision:
                self._report(outcome)
            if outcome.plan.keep:
                self._keep(outcome.plan)
            else:
                self._arm(outcome)
            if outcome.changed:
                self._events += changes_of(outcome, time.time_ns())
                self._journal_events()
        if left:
            self._child.set_metric("warmup_left_s", int(min(left)))
        self._child.set_metric("last_plan_ns", due_ns)
        self._child.set_metric("last_plan_ms", (time.perf_counter_ns() - began + 999_999) // 1_000_000)

    def _report(self, outcome: Outcome) -> None:
        """Count and journal a failure, or its end."""
        assert outcome.decision is not None
        if outcome.error:
            self._child.metric("strategy_errors")
            self._child.processes[l.STRATEGIST]["error_count"] += 1
            self._child.log.warning("%s; %s", outcome.error, outcome.decision.words())
        self._events.append(decision_of(outcome, time.time_ns()))
        self._journal_events()

    def _journal_events(self) -> None:
        while self._events and (reply := self._put(self._recorder, self._events[0], lambda: False)) is not None:
            event = self._events.pop(0)
            if not isinstance(reply, messages.Done):
                self._child.log.warning("not journaled: %s: %s", event.text, getattr(reply, "text", reply))

    def _keep(self, plan: messages.Plan) -> None:
        """Nothing changes for this strategy; in lockstep the sniper is told so, since it may be waiting."""
        if self.lockstep:
            self._put(self._sniper, arm_of(plan, b""), lambda: False)

    def _arm(self, outcome: Outcome) -> None:
        planner, parts = outcome.planner, []
        for plan, rows in outcome.parts():
            self.breathe()
            stored = self._put(self._recorder, plan, lambda: False)
            if not isinstance(stored, messages.Planned):
                self._refused(planner, "recorder", stored)
                if stored is not None:  # without a number it cannot be armed, and a lockstep sniper must not wait for it
                    self._keep(self.planning.keep(planner, plan.due_ns, "not journaled"))
                return
            self._crash.reached("strategist.stored")
            parts.append(arm_of(msgspec.structs.replace(plan, plan_seq=stored.plan_seq), rows))
        reply = self._tell(planner, parts)
        if isinstance(reply, messages.Planned) or (reply is None and self._is_armed(planner, parts[-1])):
            self._child.metric("plans")
            self._child.metric("conditions", len(outcome.plan.conditions))
        else:
            self._refused(planner, "sniper", reply)

    def _tell(self, planner: Planner, parts: list[messages.Arm]) -> Any:
        """The sniper's answer to the last part, or to the one that it refused. One that was replaced meanwhile is told all of them again."""
        for _ in itertools.count() if self.lockstep else range(_TRIES):
            for part in parts:
                self.breathe()
                reply = self._put(self._sniper, part, (lambda: False) if part.more else (lambda: self._is_armed(planner, parts[-1])))
                if not isinstance(reply, messages.Planned):
                    break
                self._crash.reached("strategist.told")
            if not (isinstance(reply, messages.Refused) and reply.code == "not_continued"):
                break
        return reply

    def _refused(self, planner: Planner, by: str, reply: Any) -> None:
        text = f"{by}: {getattr(reply, 'text', '') or 'no answer'}"
        planner.refused(text)
        if isinstance(reply, messages.Refused):
            self._child.metric("strategy_errors")
        self._child.log.warning("plan of %s not armed: %s", planner.name, text)

    def _is_armed(self, planner: Planner, plan: messages.Arm) -> bool:
        """Whether the last plan in the sniper's table is this very one, by its last part: an answer may be lost, and nobody else plans meanwhile.

        Of the last strategy in lockstep the horizon tells: a sniper that died between table and horizon needs the plan again.
        """
        if self.lockstep and planner is self.planners[-1]:
            return int(barriers.word(self._memory.board.cursors, 0, barriers.PLAN_HORIZON)) >= plan.next_due_ns
        conditions = self._memory.conditions
        return int(conditions.generations[int(conditions.table[0]["generation"]) & 1]["plan_seq"]) == plan.plan_seq

    def _put(self, client: bus.Client, request: Any, settled: Callable[[], bool]) -> Any:
        """The answer to a request; None without one, or when it was settled without. In lockstep it is asked for until told to stop."""
        tries = 0
        while not self._child.stopping() and not settled():
            try:
                return client.ask(request, _ANSWER_S, self.breathe)
            except bus.BusTimeout as late:
                self._child.log.warning("%s", late)
            tries += 1
            if not self.lockstep and tries >= _TRIES:
                break
        return None

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────
    def handle(self, request: messages.ChildRequest) -> messages.Reply:
        """Ping, and an operator's word that strategies plan now."""
        match request:
            case messages.Ping():
                return messages.Pong(role="strategist", pid=int(self._child.processes[l.STRATEGIST]["pid"]))
            case messages.Replan():
                asked = [planner for planner in self.planners if hasattr(planner.strategy, "ask_now")]
                for planner in asked:
                    planner.strategy.ask_now()
                return messages.Done(text=f"{', '.join(planner.name for planner in asked)} will plan at the next call" if asked else
                                     "every strategy plans at its interval anyway")
            case _:
                return messages.Refused(code="unknown_query", text="the strategist plans; it is asked nothing", remedy="ask the recorder for plans")

    def close(self) -> None:
        """Leave the bus, and whoever is being asked."""
        for planner in self.planners:
            if hasattr(planner.strategy, "close"):
                planner.strategy.close()
        self._words.close()
        self._server.close()
        self._recorder.close()
        self._sniper.close()


def main(child: Child) -> int:
    """Load the strategies, warm up, plan until told to stop. Exit code 78 when a strategy cannot be loaded."""
    try:
        strategist = Strategist(child)
    except StrategyError as error:
        child.log.error("%s", error)
        return EXIT_CONFIG
    strategist.recover()
    child.ready()
    while not child.stopping():
        strategist.turn()
    strategist.close()
    return 0
