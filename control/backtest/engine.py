"""One backtest: strategies, sniper, paper venue, journal and knowledge in one process, over ticks that somebody else brings.

What decides is the code of the processes (control/think/planning.py, hotpath/backtest.py, control/learn/reflection.py); what is recorded is a
journal as any run's, in the run's folder, so that the summary, reconciliation and parity read it like any other. The lockstep replay is the measure:
a plan that is due at t is journaled and armed before the first tick at or behind t, with every trade that closed before in the knowledge.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from control.learn.config import Learning
from control.learn.reflection import Reflection
from control.learn.snapshot import Reader
from control.record import rings
from control.record import snapshot as snapshots
from control.record.run_start import run_facts
from control.record.summary import RunFacts, write_summary
from control.record.writer import JournalWriter
from control.supervise import instance
from control.supervise.session import Plan
from control.think.advisers import Past, engage
from control.think.analysis.config import Analysis
from control.think.config import Strategy as Settings
from control.think.planning import Outcome, Planning, changes_of, decision_of
from hotpath.arming import NotArmed, arm_of
from hotpath.backtest import Machine
from hotpath.kernel import backtest as kernel
from ipc import layout as l
from ipc import messages, segment
from ipc.process import Boot, Child

#: what a run of this kind is called in its journal and summary
MODE, MARKET = "backtest", "replay"
#: slots of the tick ring, which nobody uses here
_TICK_SLOTS = 1024
#: records that one transaction of the journal takes of each ring
_BATCH = 1 << 14


class Backtest:
    """`run` as often as there are ticks, then `finish`; `close` whatever happened. `run_dir` is the folder of its results.

    Raises StrategyError where a strategy cannot be loaded, LaunchError without room for the segments.
    """

    def __init__(self, plan: Plan, run_dir: Path, run_id: str, log: logging.Logger, look: Callable[[], None] = lambda: None) -> None:
        """`look` is called before each plan; what it raises ends the run there."""
        self._look = look
        self.plan, self.run_dir, self.run_id, self.log = plan, run_dir, run_id, log
        self.started_wall_ns = time.time_ns()
        state_dir = run_dir / "state"
        state_dir.mkdir(parents=True, exist_ok=True)
        self.memory = _segments(plan)
        sections = plan.config.sections()
        # the journal is written behind the orders here, and nothing is lost that cannot be computed again
        sections["hotpath"] = msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(plan.config.hotpath, durable_before_entry=False)))
        self.boot = Boot(role="gateway", instance=MODE, mode=MODE, market=MARKET, run_id=run_id, run_dir=str(run_dir), state_dir=str(state_dir),
                         socket_dir="", sections=sections, strategies=plan.strategies, sources=plan.sources, speed=0.0, lockstep=True, seed=plan.seed,
                         flatten_at_end=plan.flatten_at_end)
        self._closers: list[Callable[[], None]] = []
        try:
            settings: Settings = self.boot.section("strategy", Settings)
            self.planning = Planning(self.memory, plan.strategies, settings, plan.config.hotpath.session_gap_s, log, lambda: None,
                                     plan.config.recovery, analysis=self.boot.section("analysis", Analysis), limits=plan.config.limits,
                                     sources=plan.sources, plan_of=lambda number: self.journal.plan(number))
            engage(self.planning, plan.config.llm, plan.config.limits, Past, MODE)
            self.journal = JournalWriter(state_dir / "journal", sync=False)
            self._closers.append(self.journal.close)
            self.memory.board.cursors[0]["incarnation"] = self.journal.begin_run(run_id, run_facts(self.boot, self.memory))
            self.reflection = Reflection(Child(self.boot, l.REFLECTION, self.memory, log), self.journal)
            self._closers.append(self.reflection.store.close)
            self._knowledge = Reader(state_dir / "knowledge", self.planning.quantum, self.reflection.store,
                                     self.boot.section("learning", Learning).apply)
            self.machine = Machine(self.memory, self.boot, self.planning.fold, self._records, log)
            self._closers.append(self.machine.close)
        except BaseException:
            self.close()
            raise
        self._learned = 0
        self._refused: set[str] = set()

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self, ticks: np.ndarray[Any, Any]) -> None:
        """The next ticks (layout.TICK) in event time; their sequences are written into them."""
        self.machine.run(ticks, self._plan)

    def _records(self) -> None:
        self._store()

    def _store(self, plans: list[messages.Plan] | None = None, events: list[messages.Event] | None = None,
               snapshot: snapshots.Snapshot | None = None) -> list[int]:
        """Everything that the rings hold, and these, into the journal; gives the plans' numbers."""
        taken = rings.take(self.memory, self.journal.stored, _BATCH)
        numbers = self.journal.append(taken.orders, taken.reports, plans, events, snapshot)
        rings.publish(self.memory, self.journal.stored)
        return numbers

    def _plan(self, event_ns: int) -> int:
        """The plans that are due before a tick of that time; gives when the next ones are."""
        self._look()
        head = int(self.memory.orders.ring[0]["head"])
        if head != self._learned:
            self._store()
            self.reflection.step()
            self._learned = head
        due_ns = self.planning.due_ns(event_ns)
        for outcome in self.planning.outcomes(due_ns, self._knowledge):
            if outcome.decision:
                self._store(events=[decision_of(outcome, time.time_ns())])
            if outcome.error:
                self._tell(outcome.error)
            if outcome.changed or outcome.events:
                self._store(events=[*changes_of(outcome, time.time_ns()), *outcome.events])
            if not outcome.plan.keep:
                self._arm(outcome)
        return due_ns + self.planning.interval_ns

    def _arm(self, outcome: Outcome) -> None:
        """As the strategist does: every part journaled, then armed."""
        parts = []
        for plan, rows in outcome.parts():
            (number,) = self._store(plans=[plan])
            parts.append(arm_of(msgspec.structs.replace(plan, plan_seq=number), rows))
        try:
            for part in parts:
                self.machine.arm(part)
        except NotArmed as error:
            outcome.planner.refused(str(error))
            self._tell(f"plan {parts[-1].plan_seq} of {outcome.planner.name} is not armed: {error}")

    def _tell(self, text: str) -> None:
        """A failure of a strategy, once of each kind."""
        if text not in self._refused:
            self._refused.add(text)
            self.log.warning("%s", text)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def finish(self, unread: list[str], faults: list[str]) -> dict[str, Any]:
        """End as at an ordered stop, write summary.json and fills.bin; gives the summary. `unread`, `faults`: what was wrong with the data."""
        self.machine.end()
        events = [messages.Event(source="feed", kind=kind, text=text, wall_ns=time.time_ns())
                  for kind, texts in (("data_unread", unread), ("data_fault", faults)) for text in texts]
        self._store(events=events, snapshot=snapshots.Reader(self.memory).take())
        self.reflection.step()
        stored = self.journal.stored
        self.journal.append(events=[messages.Event(
            source="recorder", kind="run_end", text=f"run {self.run_id} ends", wall_ns=time.time_ns(),
            data={"orders": stored.orders, "reports": stored.reports, "event_ns": stored.event_ns})])
        self.close()  # LMDB opens an environment once a process, and the summary reads them anew
        return write_summary(RunFacts(mode=MODE, market=MARKET, run_dir=str(self.run_dir), state_dir=self.boot.state_dir,
                                      started_wall_ns=self.started_wall_ns, duration_s=(time.time_ns() - self.started_wall_ns) / 1e9), self.memory)

    def samples(self) -> tuple[Any, Any, Any]:
        """(event times, equity in quanta, last prices in ticks by instrument) at equal distances."""
        tape = self.machine.tape
        count = int(tape.words[kernel.SAMPLES])
        return tape.times[:count].copy(), tape.equity[:count].copy(), tape.prices[:count].copy()

    def close(self) -> None:
        """Let go of journal, knowledge and ledger."""
        while self._closers:
            self._closers.pop()()


def _segments(plan: Plan) -> segment.Memory:
    """Private segments without a name: only the mapping keeps them, so that nothing stays however this process ends."""
    name, hotpath = f"{MODE}-{uuid.uuid4().hex[:8]}", plan.config.hotpath
    try:
        memory = instance.create_segments(
            name, ticks=_TICK_SLOTS, instruments=len(plan.rows), conditions=hotpath.condition_capacity, rows=plan.rows,
            strategies=plan.strategy_names, number=instance.replay_number(plan.seed), lockstep=True, wait_strategy=l.WAIT_FUTEX,
            initial_cash=round(plan.config.paper.initial_balance * 10**8))
    finally:
        segment.remove(name)
    memory.ticks.readers["active"] = 0
    return memory
