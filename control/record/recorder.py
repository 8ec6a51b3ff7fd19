"""The recorder: both rings into the journal, plans and events acknowledged when they are durable, queries answered.

A turn: take the report ring's head, then drain the order ring to its head, then the reports up to the head that was taken (so no report is
stored before its intent), commit, move the cursors that others wait for, ring their bells, answer. Nothing is held across a wait. While the
disk refuses, the recorder's mode word is safe, entries stop by themselves, and it tries again with back-off.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from typing import Any, Final

import lmdb
import msgspec
import numpy as np

from control.record import rings
from control.record import snapshot as snapshots
from control.record.doorman import Doorman
from control.record.queries import Queries
from control.record.rearm import Rearmed, rearm
from control.record.records import JournalError, WriteFailed
from control.record.restore import restore
from control.record.run_start import run_facts
from control.record.writer import JournalWriter
from hotpath.activities import Activities
from hotpath.breaker import Breaker
from hotpath.errors import ErrorManager, Kind
from ipc import board, bus, messages, ring, wait
from ipc import layout as l
from ipc.crash import CrashPoint
from ipc.process import Child

#: longest sleep: a question on the bus rings no bell, and operators are answered within 50 ms
QUESTION_NS = 20_000_000
#: exit code of a fault that a restart does not mend
EXIT_CONFIG: Final = 78
#: ring records that one transaction takes of each ring
BATCH: Final = 2048
#: seconds between snapshots, between looks at the free room on the disk, and for dead readers of the journal
SNAPSHOT_S: Final = 1.0
ROOM_S: Final = 1.0
READER_CHECK_S: Final = 60.0
#: back-off while the journal cannot be written
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 5.0
#: what the recorder itself has to tell while it cannot write: the newest
MOST_TOLD: Final = 1000
#: how long writing must have worked before entries are taken again: on a full disk LMDB now and then finds a freed page
CALM_S: Final = 5.0
#: how long a replay, which can be run again, waits for a disk that refuses
GIVE_UP_S: Final = 10.0
#: tries at the end before records are left behind
LAST_TRIES: Final = 10
#: who waits for a recorder's cursor
_WAITING = 1 << l.GATEWAY | 1 << l.SNIPER | 1 << l.REFLECTION | 1 << l.STRATEGIST


def main(child: Child) -> int:
    """The recorder's process; see ipc/process.py."""
    try:
        recorder = Recorder(child)
    except WriteFailed as error:
        child.log.error("%s", error)
        board.set_mode(child.memory.board.modes, l.MODE_OF_RECORDER, l.MODE_SAFE, "journal cannot write")
        return 1
    except JournalError as error:
        child.log.error("%s", error)
        return EXIT_CONFIG
    try:
        child.ready()
        return recorder.run()
    finally:
        recorder.close()


class Recorder:
    """One recorder over a child's memory."""

    def __init__(self, child: Child) -> None:
        self.child, self.log, self.memory = child, child.log, child.memory
        boot = child.boot
        self._path, self._sync = f"{boot.state_dir}/journal", boot.mode != "replay"
        self.journal: JournalWriter | None = JournalWriter(self._path, self._sync)
        self._crash = CrashPoint("recorder", boot.restarts)
        self._adopt_run()
        self.snapshots = snapshots.Reader(self.memory, snapshots.latched_elsewhere(self.journal.last_snapshot(), self.memory))
        self._snapshot: snapshots.Snapshot | None = None
        self._snapshot_commit = 0
        self._snapshot_at = self._checked_at = time.monotonic()
        self._queries = Queries(self.journal, _order_ids(int(self.memory.board.run[0]["instance_number"])))
        self._plans: list[tuple[tuple[bytes, bytes], messages.Plan]] = []
        self._events: list[tuple[tuple[bytes, bytes], messages.Event]] = []
        self._told: deque[messages.Event] = deque(maxlen=MOST_TOLD)
        self._activities = Activities(child, self._told.append)
        self._errors = self._activities.adopt(ErrorManager("journal", Breaker(1, int(FIRST_RETRY_S * 1e9), int(LONGEST_RETRY_S * 1e9))))
        self._failing_since = 0.0
        self._room_at = 0.0
        #: since when writing works again; 0 while there is nothing to recover from. A predecessor may have died in safe mode
        self._calm_since = time.monotonic() if self.memory.board.modes[l.MODE_OF_RECORDER]["mode"] == l.MODE_SAFE else 0.0
        self.server = bus.Server(boot.socket_dir, "recorder", messages.decode_child_request)
        self._doorman = Doorman(self.server, child)
        self._doorman.start()

    def _adopt_run(self) -> None:
        """Fresh segments: a new incarnation, durable before anybody sees it. Else shared memory's cursors are set from the journal."""
        assert self.journal is not None
        cursors, boot = self.memory.board.cursors[0], self.child.boot
        if cursors["incarnation"] == 0:  # nobody trades before the word is set, so the sniper's book may be filled
            again = Rearmed()
            if boot.mode == "paper":
                if text := restore(self.journal, self.memory):
                    self.log.info("%s", text)
                again = rearm(self.journal, self.memory, max(boot.start_event_ns, self.journal.last_event_ns()))
                cursors["resumed_positions"] = (self.memory.sniper.positions["lots"] > 0).sum()
                cursors["resumed_conditions"] = again.armed
            told = again.events(time.time_ns())
            for event in told:
                self.log.info("%s", event.text)
            incarnation = self.journal.begin_run(boot.run_id, run_facts(boot, self.memory), told, again.changed)
        else:
            incarnation = int(cursors["incarnation"])
            self.journal.go_on(boot.run_id, incarnation)
        for database, stored in (("orders", self.journal.stored.orders), ("reports", self.journal.stored.reports)):
            if (last := self.journal.sequence_at(database)) != stored:
                raise JournalError(f"{self._path}: {database} end at {last}, its cursor says {stored}; restore the journal from a backup, "
                                   "or start with --fresh")
        rings.publish(self.memory, self.journal.stored)
        cursors["journaled_venue_seq"] = self.journal.last_venue_seq()
        cursors["incarnation"] = incarnation
        self.log.info("incarnation %d, order ring from %d, report ring from %d", incarnation, self.journal.stored.orders,
                      self.journal.stored.reports)

    def run(self) -> int:
        """Until the stop word; then everything that is left, and the end of the run."""
        while not self.child.stopping():
            self.server.poll(0.0, self.handle)
            self._doorman.turn.set()
            worked = self.turn()
            if self._failing_since and self.child.boot.mode == "replay" and time.monotonic() - self._failing_since > GIVE_UP_S:
                self.log.error("a replay does not wait for its disk: free space there, then start it anew")
                return EXIT_CONFIG
            self._beat()
            if not worked:
                self._sleep()
        return self.finish()

    def turn(self) -> bool:
        """One transaction, if there is something for it; True when there may be more at once."""
        failing = self._errors.failing
        self._activities.pump()
        if not self._errors.permits(time.monotonic_ns()):
            self._refuse_waiting()
            return False
        if failing and not self._reopen():
            return False
        assert self.journal is not None
        if self._calm_since and not failing and time.monotonic() - self._calm_since >= CALM_S:
            self._recovered()
        self._take_snapshot()
        orders, reports = rings.take(self.memory, self.journal.stored, BATCH)
        due = self._snapshot_due(orders, reports)
        if not (len(orders) or len(reports) or self._plans or self._events or self._told or due or failing):
            return False
        began, told = time.monotonic_ns(), list(self._told)
        try:
            numbers = self.journal.append(orders, reports, [plan for _, plan in self._plans], [*told, *(event for _, event in self._events)],
                                          self._snapshot if due else None,
                                          before_commit=lambda: self._crash.reached("recorder.lmdb_commit"))
        except WriteFailed as error:
            self._failed(error)
            return False
        self._crash.reached("recorder.committed")
        rings.publish(self.memory, self.journal.stored)
        self._crash.reached("recorder.cursor")
        wait.ring_bells(self.child.processes, _WAITING)
        for _ in told:
            self._told.popleft()
        if failing:
            self._failing_since = 0.0
            self._calm_since = time.monotonic()
            self._activities.succeeded(self._errors, time.monotonic_ns())
            self.log.info("the journal can be written again; entries in %g s if it stays so", CALM_S)
        self._acknowledge(numbers)
        if due:
            self._snapshot = None
        self._count(len(orders), len(reports), (time.monotonic_ns() - began) // 1000)
        return True

    # ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _take_snapshot(self) -> None:
        now = time.monotonic()
        if self._snapshot is None and now - self._snapshot_at >= SNAPSHOT_S and self.snapshots.commit_number() != self._snapshot_commit:
            self._snapshot = self.snapshots.take()
            if self._snapshot is not None:  # else the sniper was too quick: at the next turn
                self._snapshot_at, self._snapshot_commit = now, self._snapshot.commit
        if now - self._checked_at >= READER_CHECK_S and self.journal is not None:
            self.journal.env.reader_check()
            self._checked_at = now

    def _snapshot_due(self, orders: np.ndarray[Any, Any], reports: np.ndarray[Any, Any]) -> bool:
        """A snapshot is stored no earlier than the records up to it: the sniper commits before it publishes."""
        assert self.journal is not None
        stored = self.journal.stored
        return self._snapshot is not None and (self._snapshot.intent_seq <= stored.orders + len(orders)
                                               and self._snapshot.report_seq <= stored.reports + len(reports))

    # ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _failed(self, error: Exception) -> None:
        self._calm_since = 0.0
        self._failing_since = self._failing_since or time.monotonic()
        if not self._errors.failing:
            self.memory.board.cursors[0]["journal_ok"] = 0
            board.set_mode(self.memory.board.modes, l.MODE_OF_RECORDER, l.MODE_SAFE, "journal cannot write")
        self._activities.failed(self._errors, "journal_error", Kind.GENERAL, str(error), time.monotonic_ns())
        self._refuse_waiting()

    def _reopen(self) -> bool:
        """LMDB's environment may be unusable after a failed write, and whether the last commit counted is for the file to say."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None
        try:
            self.journal = JournalWriter(self._path, self._sync)
            self.journal.go_on(self.child.boot.run_id, int(self.memory.board.cursors[0]["incarnation"]))
        except (JournalError, OSError) as error:
            if self.journal is not None:
                self.journal.close()
                self.journal = None
            self._failed(error)
            return False
        self._queries.journal = self.journal
        return True

    def _recovered(self) -> None:
        self._calm_since = 0.0
        board.set_mode(self.memory.board.modes, l.MODE_OF_RECORDER, l.MODE_RUNNING, "")

    def _refuse_waiting(self) -> None:
        """Nobody waits for a journal that cannot be written; whoever asked may ask again."""
        for asker, _ in (*self._plans, *self._events):
            self.server.answer(asker, messages.Unavailable(role="recorder", text="the journal cannot be written; see recorder.log"))
        self._plans.clear()
        self._events.clear()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def handle(self, request: Any) -> Any:
        """Reply to one request; None for a plan or an event, which are answered when they are durable."""
        match request:
            case messages.Ping():
                return messages.Pong(role="recorder", pid=os.getpid())
            case messages.Plan():
                self._plans.append((self.server.asker, request))
                return None
            case messages.Event():
                self._events.append((self.server.asker, request))
                return None
            case messages.Query():
                if self.journal is None:
                    return messages.Unavailable(role="recorder", text="the journal cannot be opened; see recorder.log")
                try:
                    return self._queries.answer(request)
                except (JournalError, lmdb.Error, msgspec.MsgspecError) as error:
                    return messages.Refused(code="journal", text=f"{request.what}: {error}", remedy="a record there cannot be read; see recorder.log")
        return messages.Refused(code="not_here", text="the recorder takes no operator commands", remedy="send them to the sniper")

    def _acknowledge(self, numbers: list[int]) -> None:
        for (asker, plan), number in zip(self._plans, numbers, strict=True):
            self.server.answer(asker, messages.Planned(plan_seq=number, armed=len(plan.conditions)))
        for asker, _ in self._events:
            self.server.answer(asker, messages.Done())
        self.child.metric("plans", len(self._plans))
        self.child.metric("events", len(self._events))
        self._plans.clear()
        self._events.clear()

    # ── the loop's rest ──────────────────────────────────────────────────────────────────────────────────────────────
    def _beat(self) -> None:
        stored = self.journal.stored if self.journal is not None else None
        if stored is not None:
            self.child.beat(stored.orders + stored.reports, stored.event_ns)
        else:
            self.child.beat(int(self.child.processes[self.child.role]["progress"]))
        self.child.processes[self.child.role]["control_beat_ns"] = time.monotonic_ns()
        if (now := time.monotonic()) - self._room_at >= ROOM_S:
            self._room_at = now
            with contextlib.suppress(OSError):  # what it said last stays
                room = os.statvfs(self._path)
                self.child.set_metric("disk_free_mb", room.f_bavail * room.f_frsize >> 20)

    def _count(self, orders: int, reports: int, commit_us: int) -> None:
        self.child.metric("orders_recorded", orders)
        self.child.metric("reports_recorded", reports)
        self.child.metric("commits")
        self.child.set_metric("last_commit_us", commit_us)

    def _sleep(self) -> None:
        processes, role = self.child.processes, self.child.role
        wait.prepare_sleep(processes, role)
        if self._nothing():
            wait.sleep(processes, role, QUESTION_NS)
        else:
            wait.stay_awake(processes, role)

    def _nothing(self) -> bool:
        """The second look before sleeping."""
        if self.child.stopping() or self.server.socket.poll(0):
            return False
        if self._errors.failing:
            return True
        assert self.journal is not None
        stored = self.journal.stored
        return bool(ring.head(self.memory.orders.ring) == stored.orders and ring.head(self.memory.reports.ring) == stored.reports)

    def finish(self) -> int:
        """At the end the others have stopped: drain all, a last snapshot, "run_end"."""
        self._snapshot_at = 0.0
        for _ in range(LAST_TRIES):
            self.server.poll(0.0, self.handle)
            while self.turn():
                self._beat()
            if not self._errors.failing:
                break
            time.sleep(min(0.5, self._errors.breaker.pause_ns(time.monotonic_ns()) / 1e9))
            self._beat()
        if self._errors.failing or self.journal is None:
            self.log.error("the journal could not be written to the end: order ring from %d, report ring from %d are missing",
                           *[int(self.memory.board.cursors[0][name]) for name in ("durable_orders", "durable_reports")])
            return 1
        stored = self.journal.stored
        event = messages.Event(source="recorder", kind="run_end", text=f"run {self.child.boot.run_id} ends", wall_ns=time.time_ns(),
                               data={"orders": stored.orders, "reports": stored.reports, "event_ns": stored.event_ns})
        try:
            self.journal.append(events=[event])
        except WriteFailed as error:
            self.log.error("%s", error)
            return 1
        return 0

    def close(self) -> None:
        """Let go of socket and journal."""
        self._doorman.close()
        self.server.close()
        if self.journal is not None:
            self.journal.close()
            self.journal = None


def _order_ids(instance: int) -> Any:
    from hotpath.orders import client_order_id

    return lambda incarnation, seq: client_order_id(instance, incarnation, seq)
