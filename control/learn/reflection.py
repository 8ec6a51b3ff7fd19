"""The reflection process: follows what becomes of trades in the journal, updates scores and evidence exactly once, looks at everything in its turn.

It reads behind `applied`, its own durable cursor (incarnation, sequence of the order ring), which changes in the transaction of what it learned. A
journal that does not hold that record is another one, of an older backup say: nothing is learned then, and a person is told.
What it has gone through of this incarnation it tells in `cursors.learned_orders`: a lockstep plan waits until that has reached what is durable. Each
step of an adaptation is stored with the state that it belongs to, and becomes an event of the journal afterwards; the store remembers how many the
recorder has acknowledged, so that a kill in between tells one twice rather than never.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import lmdb

from control.learn import words
from control.learn.config import Learning as Settings
from control.learn.follower import Follower, relevant
from control.learn.knowledge import Applied, Knowledge, KnowledgeError, OtherJournal, StepRecord
from control.learn.learner import Learner, universe
from control.learn.lookup import JournalLookUp
from control.record.journal import Journal
from control.record.records import JournalError
from hotpath.activities import Activities
from hotpath.breaker import Breaker
from hotpath.courier import RoleLine
from hotpath.errors import ErrorManager, Kind
from hotpath.kernel import barriers
from ipc import board, bus, messages
from ipc import layout as l
from ipc.process import REPEATABLE, Child

#: records that say something of a trade, in one transaction
_BATCH = 256
#: records that are read at once
_READ = 1 << 16
#: longest sleep on the doorbell; pauses after a failed write
_SLEEP_NS = 50_000_000
#: what the last trades of a run get to come to the journal
_LAST_TRADES_NS = 1_000_000_000
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.25, 5.0
#: writing that fails for so long is safe mode: entries are sized and closed by what is known of a coin
_SAFE_AFTER_S = 5.0
#: how long a replay, which can be run again, waits for a disk that refuses; exit code of a fault that a restart does not mend
_GIVE_UP_S, EXIT_CONFIG = 10.0, 78
#: until an unanswered step is told again
_TELL_AGAIN_NS = 1_000_000_000
#: patterns and regimes that conditions may name (four that are filled in, and as many of a strategy's own): bounds of how many claims there can be,
#: known before any trade is
MOST_PATTERNS, MOST_REGIMES = 24, 8


class Reflection:
    """One life of the process: its store, the journal that it follows, and what it has examined."""

    def __init__(self, child: Child, journal: Journal | None = None) -> None:
        """`journal`: one that this process has open already, as LMDB opens an environment once a process."""
        boot = child.boot
        self._child, self._memory = child, child.memory
        self._settings: Settings = boot.section("learning", Settings)
        self._journal_path = Path(boot.state_dir) / "journal"
        self._journal = journal
        self._follower: Follower | None = None
        self.examined = -1
        #: false after a reopening that failed: nothing is taken before one works
        self.whole = False
        self.store = self._open()
        self._go_on()

    def _open(self) -> Knowledge:
        boot = self._child.boot
        return Knowledge(Path(boot.state_dir) / "knowledge", writable=True, sync=boot.mode not in REPEATABLE)

    def reopen(self) -> None:
        """LMDB's environment may be unusable after a failed write. Raises KnowledgeError; until it works nothing is applied."""
        self._follower, self.whole = None, False
        self.store.close()
        self.store = self._open()
        self._go_on()

    def _go_on(self) -> None:
        """Be where the store is: what was not stored has not been learned. Raises KnowledgeError."""
        run = self._memory.board.run[0]
        symbols, strategies = int(run["instruments"]), max(1, int(run["strategies"]))
        learner = Learner(universe(symbols, strategies, MOST_PATTERNS, MOST_REGIMES), self._settings.trades_between_looks,
                          self._settings.hours_between_looks)
        self.store.restore(learner)
        applied, told = self.store.applied(), self.store.told()
        self.learner, self.applied, self.read, self._follower = learner, applied, applied, None
        self.told, self.steps = told, self.store.steps(told)
        self.examined, self.whole = -1, True
        self._show()

    def _incarnation(self) -> int:
        return barriers.word(self._memory.board.cursors, 0, l.offset(l.CURSORS, "incarnation"))

    def _following(self) -> Follower | None:
        if self._journal is None:
            if not self._incarnation():
                return None  # a recorder that is still making the journal
            self._journal = Journal(self._journal_path)
        if self._follower is None:
            look_up = JournalLookUp(self._journal, self._child.log)
            self._compare(look_up)
            self._follower = Follower(self.learner, look_up, self.store)
        return self._follower

    def _compare(self, look_up: JournalLookUp) -> None:
        """What was learned last has been read from this journal. A count alone does not say so: the journal may have come as far again."""
        if (one := self.applied) == Applied():
            return
        row = look_up.order(one.incarnation, one.seq)
        if row is None or one.event_ns not in (0, int(row["event_ns"])):
            raise OtherJournal(f"{self.store.path} is of another journal: stop, and restore journal, paper and knowledge from the same backup, or "
                                   "move this folder away, and it is learned anew from the journal; it has learned record "
                                   f"{one.incarnation}/{one.seq}, which {self._journal_path} does not hold")

    def step(self) -> int:
        """Apply what has become durable since; gives the trades that closed. Raises KnowledgeError, JournalError; then nothing of it is stored."""
        durable = barriers.word(self._memory.board.cursors, 0, barriers.DURABLE_ORDERS)  # before reading: all of it is in the journal
        if not self.whole:
            self.reopen()
        if durable == self.examined or (follower := self._following()) is None:
            return 0
        assert self._journal is not None
        count = 0
        self._look_if_due(follower)  # of trades that a predecessor has stored
        while True:
            table = self._journal.table("orders", (self.read.incarnation, self.read.seq), most=_READ)
            if not len(table.rows):
                break
            happened = relevant(table.rows, table.incarnations)
            for first in range(0, len(happened), _BATCH):
                count += self._apply(follower, happened[first: first + _BATCH])
            self.read = Applied(int(table.incarnations[-1]), int(table.rows["seq"][-1]))  # what says nothing of a trade is not read again
            self._alive()
        self.examined = durable
        barriers.set_learned(self._memory.board.cursors, self._memory.board.processes, durable)
        return count

    def _apply(self, follower: Follower, batch: list[tuple[int, Any]]) -> int:
        """Take some records and store what they have changed; gives the trades that closed. A look has a transaction of its own, behind the one of
        the trades that it comes of: they are known first."""
        began, closed = time.perf_counter_ns(), 0
        for number, (incarnation, row) in enumerate(batch):
            follower.take(incarnation, row)
            if not self.learner.state.due_ns and number < len(batch) - 1:
                continue
            for text in follower.passed_over:
                self._child.log.warning("%s; passed over", text)
            follower.passed_over.clear()
            if count := self._store(follower, Applied(incarnation, int(row["seq"]), int(row["event_ns"]))):
                self._child.set_metric("last_update_us", (time.perf_counter_ns() - began) // 1000)
            closed += count
            self._look_if_due(follower)
            began = time.perf_counter_ns()
        self._alive(len(batch))
        return closed

    def _look_if_due(self, follower: Follower) -> None:
        if self.learner.state.due_ns:
            follower.look_if_due()
            self._store(follower, self.applied)

    def _alive(self, progress: int = 0) -> None:
        """Trades of months may be learned at once: that is no hang."""
        row = self._child.processes[l.REFLECTION]
        self._child.beat(int(row["progress"]) + progress, int(row["last_event_ns"]))

    def _store(self, follower: Follower, applied: Applied) -> int:
        changes = follower.take_changes()
        self.store.store(applied, changes, self.learner, self.learner.take_changes())
        self.applied = applied
        if changes.steps:
            self.steps = self.store.steps(self.told)
            for step in changes.steps:
                self._child.log.info("%s: %s", step.adaptation.claim.text, step.why)
        if changes.closed or changes.steps:
            self._show()
        return changes.closed

    def look(self) -> list[StepRecord]:
        """A person wants everything decided now, of what `step` has brought. Raises KnowledgeError, JournalError."""
        follower = self._following()
        if follower is None:
            return []
        before = len(self.steps) + self.told
        follower.look(max(self.learner.state.last_look_ns, self.store.learned().last_trade_ns, int(self._child.processes[l.SNIPER]["last_event_ns"])))
        self._store(follower, self.applied)
        return self.store.steps(before)

    def _show(self) -> None:
        """The figures that the store keeps, for status: they do not begin anew with a process or a run."""
        learned, state = self.store.learned(), self.learner.state
        coins = self.store.count_of("coin")
        active = [one for one in self.learner.standing.values() if one.stage == "active"]
        for name, value in (("trades_applied", learned.trades), ("updates", learned.updates), ("last_trade_ns", learned.last_trade_ns),
                            ("coins", coins), ("coins_adapted", len({one.value for one in active if one.family == "coin"})),
                            ("version", state.version), ("adaptations", len(active)), ("trades_since_look", state.since_look)):
            self._child.set_metric(name, value)

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────
    def handle(self, request: messages.ChildRequest) -> messages.Reply:
        """Ping; Reflect; Query "knowledge", "adaptations", "why"."""
        match request:
            case messages.Ping():
                return messages.Pong(role="reflection", pid=int(self._child.processes[l.REFLECTION]["pid"]))
            case messages.Reflect():
                return self._reflect()
            case messages.Query(what="knowledge" | "adaptations" | "why"):
                try:
                    exponent = int(self._memory.instruments.instruments[0]["quantum_exponent"])
                    return words.answer(request, self.store, self.learner, exponent)
                except (lmdb.Error, KnowledgeError) as error:
                    return messages.Unavailable(role="reflection", text=f"the knowledge cannot be read: {error}; see reflection.log")
            case _:
                return messages.Refused(code="unknown_query", text="reflection answers knowledge, adaptations and why",
                                        remedy='ask with what = "knowledge"')

    def _reflect(self) -> messages.Reply:
        try:
            self.step()
            since = self.learner.state.since_look
            steps = self.look()
        except (KnowledgeError, JournalError) as error:
            self.whole = False
            return messages.Unavailable(role="reflection", text=str(error))
        told = "; ".join(step.text for step in steps) or "nothing changes"
        return messages.Done(text=f"looked at {since} trade{'' if since == 1 else 's'} since the last look: {told}",
                             data={"steps": len(steps), "version": self.learner.state.version})

    def close(self) -> None:
        """Close both environments."""
        self.store.close()
        if self._journal is not None:
            self._journal.close()


class Teller:
    """Brings the steps to the journal as events, one after the other, without waiting; `store.tell` when the recorder has one."""

    def __init__(self, child: Child, reflection: Reflection) -> None:
        self._reflection, self._log = reflection, child.log
        self._line = RoleLine(Path(child.boot.socket_dir), "recorder")
        self._sent_ns = 0

    def turn(self, now_ns: int) -> None:
        """Take an answer, or send what is next. Raises KnowledgeError."""
        one = self._reflection
        if not one.steps:
            return
        number = one.steps[0].number.to_bytes(8, "big")
        while (reply := self._line.receive()) is not None:
            if reply[0] == number and isinstance(messages.decode_reply(reply[1]), messages.Done):
                one.store.tell(one.steps[0].number)
                one.told = one.steps.pop(0).number
                self._sent_ns = 0
                return
        if not self._sent_ns or now_ns - self._sent_ns > _TELL_AGAIN_NS:
            if self._sent_ns:
                self._line.reset()
            taken = self._line.send(number, messages.encode(words.event_of(one.steps[0])))
            self._sent_ns = now_ns if taken else 0

    def close(self) -> None:
        """Leave the bus."""
        self._line.close()


class Learning:
    """Steps of a reflection with pauses after failures. What fails for long is safe mode, which ends with the first step that works."""

    def __init__(self, child: Child, reflection: Reflection) -> None:
        self._child, self._reflection, self._modes = child, reflection, child.memory.board.modes
        self.activities = Activities(child)
        self.errors = self.activities.adopt(ErrorManager("knowledge", Breaker(1, int(_FIRST_RETRY_S * 1e9), int(_LONGEST_RETRY_S * 1e9))))
        self._teller = Teller(child, reflection)
        self._failing_since_ns = 0
        if int(self._modes[l.MODE_OF_REFLECTION]["mode"]):  # a predecessor's: what works now ends it
            self._failing_since_ns = time.monotonic_ns()
        self.hopeless = False

    def turn(self, now_ns: int) -> int:
        """A step if one may be tried; gives the trades applied."""
        self.activities.pump()
        if not self.errors.permits(now_ns):
            return 0
        try:
            count = self._reflection.step()
            self._teller.turn(now_ns)
        except (KnowledgeError, JournalError) as error:
            self._failed(error, now_ns)
            return 0
        self.activities.succeeded(self.errors, now_ns)
        if self._failing_since_ns:
            self._failing_since_ns = 0
            board.set_mode(self._modes, l.MODE_OF_REFLECTION, l.MODE_RUNNING, "")
        return count

    def _failed(self, error: Exception, now_ns: int) -> None:
        self.activities.failed(self.errors, "knowledge_error", Kind.GENERAL, str(error), now_ns)
        try:
            self._reflection.reopen()
        except KnowledgeError as again:
            self._child.log.warning("%s", again)
        self._failing_since_ns = self._failing_since_ns or now_ns
        failing_s = (now_ns - self._failing_since_ns) / 1e9
        if failing_s >= _SAFE_AFTER_S and int(self._modes[l.MODE_OF_REFLECTION]["mode"]) != l.MODE_SAFE:
            cause = "knowledge is of another journal" if isinstance(error, OtherJournal) else "knowledge cannot be written"
            board.set_mode(self._modes, l.MODE_OF_REFLECTION, l.MODE_SAFE, cause)
        self.hopeless = self._child.boot.mode == "replay" and failing_s > _GIVE_UP_S

    def close(self) -> None:
        """Leave the bus."""
        self.activities.close()
        self._teller.close()


def await_last_trades(child: Child) -> None:
    """The others have stopped: what they closed last is learned now if it comes to the journal at once, else by the next start."""
    memory, end_ns = child.memory, time.monotonic_ns() + _LAST_TRADES_NS
    published = int(barriers.published(memory.orders.ring))
    while time.monotonic_ns() < end_ns and not barriers.await_word(memory.board.cursors, 0, barriers.DURABLE_ORDERS, published, child.processes,
                                                                   l.REFLECTION, _SLEEP_NS):
        child.beat(int(child.processes[l.REFLECTION]["progress"]))


def main(child: Child) -> int:
    """Follow the journal until told to stop."""
    processes, cursors = child.processes, child.memory.board.cursors
    reflection = Reflection(child)
    gc.collect()
    gc.freeze()  # what is known stays: to look through it for garbage takes longer than a trade has
    server = bus.Server(child.boot.socket_dir, "reflection", messages.decode_child_request)
    child.log.info("knowledge of version %d up to record %d/%d", reflection.learner.state.version, reflection.applied.incarnation,
                   reflection.applied.seq)
    child.ready()
    learning, progress = Learning(child, reflection), 0
    while not child.stopping():
        server.poll(0, reflection.handle)
        progress += learning.turn(time.monotonic_ns())
        if learning.hopeless:
            child.log.error("a replay does not wait for its disk: free space there, then start it anew")
            return EXIT_CONFIG
        child.beat(progress, int(processes[l.STRATEGIST]["last_event_ns"]))
        if learning.errors.failing:
            time.sleep(0.05)
        else:
            barriers.await_word(cursors, 0, barriers.DURABLE_ORDERS, reflection.examined + 1, processes, l.REFLECTION, _SLEEP_NS)
    if child.stopping() == l.STOP_DRAIN:
        await_last_trades(child)
        end_ns = time.monotonic_ns() + _LAST_TRADES_NS
        try:
            reflection.step()
            while reflection.steps and time.monotonic_ns() < end_ns:  # the recorder is the last to stop
                learning.turn(time.monotonic_ns())
                time.sleep(0.002)
        except (KnowledgeError, JournalError) as error:
            child.log.error("%s", error)
    server.close()
    learning.close()
    reflection.close()
    return 0
