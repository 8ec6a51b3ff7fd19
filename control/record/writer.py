"""Writing the journal: the recorder's half. One transaction holds the records of both rings, the cursors that say so, and what else came.

A full map is doubled between transactions and the transaction repeated. Any other failure leaves nothing behind and is told as WriteFailed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec
import numpy as np

from control.record import in_force, records
from control.record.in_force import ArmedPlan, InForce
from control.record.journal import LASTING, RUN_PREFIX, Cursors, Journal, decode_event
from control.record.records import JournalCorrupt, WriteFailed, encode, encode_rows, number_key, number_of, ring_key, run_hash
from control.record.snapshot import Snapshot
from ipc import layout as l
from ipc import messages

#: snapshots that are kept
SNAPSHOTS_KEPT: Final = 64
#: events compared with a new one: a sender that heard no answer sends again
EVENTS_COMPARED: Final = 256
#: newest parts of plans that a start looks through for each strategy's last plan; more where that is not all of it
PLANS_COMPARED: Final = 64
#: times that the map may double within one transaction
_DOUBLINGS: Final = 8

_NO_ORDERS = np.zeros(0, l.INTENT)
_NO_REPORTS = np.zeros(0, l.REPORT)


class _Part(msgspec.Struct, frozen=True):
    """Of a plan's payload what tells one part of one plan from another; the rest is passed over, which is many times faster."""

    strategy: str
    due_ns: int
    next_due_ns: int
    plan_seq: int
    add: bool = False
    part: int = 0


_decode_part = msgspec.json.Decoder(_Part).decode


class JournalWriter(Journal):
    """The one writer of a journal; makes it if there is none.

    `sync` False (replays, which can be run again) skips fsync: a killed process loses nothing, a dying machine may leave nothing that can be read.
    Paper and live runs sync every commit (hotpath/durable.py).
    """

    def __init__(self, path: Path | str, sync: bool = True) -> None:
        super().__init__(path, writable=True, sync=sync)
        self.env.reader_check()
        self.stored = self.cursors()
        self._run = 0
        self._numbers = {name: self._last_number(name) for name in ("plans", "events", "snapshots")}
        self._newest_plans = self._plans_so_far()
        self._in_force = self.in_force()
        self._events = deque((_same(decode_event(record.payload)) for record in reversed(self.newest("events", EVENTS_COMPARED))),
                             EVENTS_COMPARED)

    def begin_run(self, run_id: str, data: dict[str, Any], events: Sequence[messages.Event] = (),
                  carried: Mapping[str, InForce] | None = None) -> int:
        """Count up the incarnation and journal "run_start" and `events` behind it, durably; gives the incarnation.

        `carried`: what of earlier runs' plans stays in force, by strategy, where that has changed. A run that began already keeps all of its own.
        """
        value = self._get("meta", b"run_id")
        self._run = run_hash(run_id)
        if value is not None and value.decode() == run_id:
            return self.stored.incarnation
        incarnation = self.stored.incarnation + 1
        if incarnation >= 1 << 16:
            raise JournalCorrupt(f"{self.path}: 65,535 runs are as many as order ids can tell apart; start with --fresh")
        event = messages.Event(source="recorder", kind="run_start", text=f"run {run_id} begins", wall_ns=time.time_ns(), data=data)
        before, self.stored = self.stored, Cursors(incarnation, 0, 0, self.stored.event_ns)
        self._newest_plans.clear()
        armed = {in_force.key_of(name): msgspec.json.encode(plans) for name, plans in (carried or {}).items()}
        try:
            self.append(events=[event, *events], meta={b"run_id": run_id.encode(), **armed,
                                                       RUN_PREFIX + b"%05d" % incarnation: number_key(self._numbers["events"] + 1)})
        except BaseException:
            self.stored = before
            raise
        self._in_force.update(carried or {})
        return incarnation

    def go_on(self, run_id: str, incarnation: int) -> None:
        """A respawned recorder's start. Raises JournalCorrupt when the journal is not the one that the shared memory speaks of."""
        if incarnation != self.stored.incarnation:
            raise JournalCorrupt(f"{self.path}: holds incarnation {self.stored.incarnation}, shared memory is of {incarnation}; "
                                 "stop the instance and start it anew")
        self._run = run_hash(run_id)

    def append(self, orders: np.ndarray[Any, Any] = _NO_ORDERS, reports: np.ndarray[Any, Any] = _NO_REPORTS,
               plans: list[messages.Plan] | None = None, events: list[messages.Event] | None = None, snapshot: Snapshot | None = None,
               meta: dict[bytes, bytes] | None = None, before_commit: Callable[[], None] | None = None) -> list[int]:
        """Store everything in one transaction; gives the plans' numbers.

        `orders` (INTENT) and `reports` (REPORT) must follow what is stored without hole or overlap, else JournalCorrupt. WriteFailed:
        nothing is stored. What is word for word the same part of its strategy's newest plan keeps its number; so does an event that is repeated.
        """
        self._follows("orders", orders, self.stored.orders)
        self._follows("reports", reports, self.stored.reports)
        wall_ns = time.time_ns()
        numbers = dict(self._numbers)
        puts: list[tuple[str, list[tuple[bytes, bytes]]]] = []
        event_ns = max(self.stored.event_ns, *(int(rows["event_ns"].max()) for rows in (orders, reports) if len(rows)), 0)
        incarnation = self.stored.incarnation
        if len(orders):
            stored = encode_rows(records.ORDER, orders, incarnation, self._run, wall_ns)
            puts.append(("orders", stored))
            puts.append(("sent", [(stored[k][0], b"") for k in np.flatnonzero(orders["kind"] == l.NEW)]))
            closed = orders[orders["kind"] == l.CLOSED].view(l.TRADE)
            puts.append(("trades", encode_rows(records.TRADE, closed, incarnation, self._run, wall_ns)))
        if len(reports):
            puts.append(("reports", encode_rows(records.REPORT, reports, incarnation, self._run, wall_ns)))

        def numbered(database: str, kind: int, payload: bytes, when_ns: int) -> None:
            numbers[database] += 1
            value = encode(kind, incarnation, self._run, numbers[database], when_ns, wall_ns, payload)
            puts.append((database, [(number_key(numbers[database]), value)]))

        plan_numbers: list[int] = []
        parts_of = {strategy: list(newest) for strategy, newest in self._newest_plans.items()} if plans else self._newest_plans
        new_plans: dict[int, messages.Plan] = {}
        for plan in plans or []:
            parts = parts_of.setdefault(plan.strategy, [])
            number = self._number_of(plan, parts, new_plans)
            if not number:
                number = numbers["plans"] + 1
                new_plans[number] = msgspec.structs.replace(plan, plan_seq=number)
                numbered("plans", records.PLAN, messages.encode(new_plans[number]), plan.due_ns)
                parts[plan.part:] = [_Part(plan.strategy, plan.due_ns, plan.next_due_ns, number, plan.add, plan.part)]
            plan_numbers.append(number)
        new_events: list[bytes] = []
        for event in events or []:
            if (same := _same(event)) not in self._events and same not in new_events:
                numbered("events", records.EVENT, messages.encode(event), event_ns)
                if event.kind in LASTING:
                    meta = {**(meta or {}), LASTING[event.kind]: messages.encode(event)}
                new_events.append(same)
        if snapshot is not None:
            event_ns = max(event_ns, snapshot.event_ns)
            numbered("snapshots", records.SNAPSHOT, msgspec.json.encode(snapshot), snapshot.event_ns)
        after = Cursors(incarnation, int(orders["seq"][-1]) if len(orders) else self.stored.orders,
                        int(reports["seq"][-1]) if len(reports) else self.stored.reports, event_ns)
        taken_over = self._taken_over(orders)
        puts.append(("meta", [(b"cursors", msgspec.json.encode(after)), *(meta or {}).items(),
                              *((in_force.key_of(name), msgspec.json.encode(plans)) for name, plans in taken_over.items())]))
        self._write(puts, numbers["snapshots"] - SNAPSHOTS_KEPT, before_commit)
        self.stored, self._numbers = after, numbers
        self._newest_plans = parts_of
        self._in_force.update(taken_over)
        self._events.extend(new_events)
        return plan_numbers

    def _number_of(self, plan: messages.Plan, parts: list[_Part], new: dict[int, messages.Plan]) -> int:
        """Number of this very part of its strategy's newest plan, where it is stored or about to be; else 0."""
        if plan.part >= len(parts) or (parts[plan.part].due_ns, parts[plan.part].part) != (plan.due_ns, plan.part):
            return 0
        number = parts[plan.part].plan_seq
        known = new.get(number) or self.plan(number)
        return number if known is not None and msgspec.structs.replace(known, plan_seq=plan.plan_seq) == plan else 0

    def _taken_over(self, orders: np.ndarray[Any, Any]) -> dict[str, InForce]:
        """What is in force, by strategy, where the hot loop has taken over plans by these order-ring records."""
        changed: dict[str, InForce] = {}
        for number in orders["plan_seq"][orders["kind"] == l.SWAPPED].tolist():
            part = next((parts[-1] for parts in self._newest_plans.values() if parts and parts[-1].plan_seq == number), None)
            if part is None:
                payload = self.plan_payload(number)
                if payload is None:
                    continue  # no conditions at all: a table without a plan
                part = _decode_part(payload)
            known = changed.get(part.strategy) or self._in_force.get(part.strategy) or InForce()
            changed[part.strategy] = known.with_plan(ArmedPlan(number, part.due_ns, part.next_due_ns), part.add)
        return changed

    def _plans_so_far(self) -> dict[str, list[_Part]]:
        """By strategy the parts of its newest plan in this run, as far as it is among the newest records."""
        found: dict[str, list[_Part]] = {}
        count, looked_at, more = PLANS_COMPARED, 0, True
        while more:
            newest = self.newest("plans", count)
            mine = [record for record in newest[looked_at:] if record.incarnation == self.stored.incarnation]
            for part in map(_decode_part, (record.payload for record in mine)):
                parts = found.setdefault(part.strategy, [])
                if not parts or part.part == parts[0].part - 1:
                    parts.insert(0, part)
            more = len(mine) == count - looked_at and any(parts[0].part for parts in found.values())
            count, looked_at = 2 * count, len(newest)
        return {strategy: parts for strategy, parts in found.items() if not parts[0].part}

    def counts(self) -> dict[str, int]:
        """Last numbers of plans, events and snapshots."""
        return dict(self._numbers)

    def _write(self, puts: list[tuple[str, list[tuple[bytes, bytes]]]], oldest_snapshot: int,
               before_commit: Callable[[], None] | None) -> None:
        for _ in range(_DOUBLINGS):
            try:
                with self.env.begin(write=True) as transaction:
                    for database, items in puts:
                        # ring records arrive in key order; append=True would save a search and lose the check for duplicates
                        with transaction.cursor(self.databases[database]) as cursor:
                            _, added = cursor.putmulti(items, overwrite=database == "meta")
                            if added != len(items) and database != "meta":
                                raise JournalCorrupt(f"{self.path}: {database} holds a record already that is to be written now; "
                                                     "two recorders must never share a journal")
                    if oldest_snapshot > 0:
                        transaction.delete(number_key(oldest_snapshot), db=self.databases["snapshots"])
                    if before_commit is not None:
                        before_commit()
                return
            except lmdb.MapFullError:
                try:
                    self.env.set_mapsize(self.env.info()["map_size"] * 2)
                except (lmdb.Error, OSError, OverflowError) as error:
                    raise WriteFailed(f"{self.path}: the map cannot grow: {error}") from error
            except (lmdb.Error, OSError) as error:
                raise WriteFailed(f"{self.path}: {error}; free space on its disk") from error
        raise WriteFailed(f"{self.path}: still full after {_DOUBLINGS} doublings of its map")

    def _follows(self, name: str, rows: np.ndarray[Any, Any], last: int) -> None:
        if len(rows) and not np.array_equal(rows["seq"], np.arange(last + 1, last + 1 + len(rows))):
            raise JournalCorrupt(f"{name}: {rows['seq'][0]}…{rows['seq'][-1]} ({len(rows)} records) do not follow {last}")

    def _last_number(self, database: str) -> int:
        with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
            return number_of(cursor.key()) if cursor.last() else 0

    def sequence_at(self, database: str) -> int:
        """Last sequence of the stored incarnation by the keys themselves, for a comparison with the cursors."""
        with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
            following = ring_key(self.stored.incarnation + 1, 0) if self.stored.incarnation < 0xFFFF else b"\xff" * 10
            if not (cursor.prev() if cursor.set_range(following) else cursor.last()):
                return 0
            incarnation, seq = records.ring_key_of(cursor.key())
            return seq if incarnation == self.stored.incarnation else 0


def _same(event: messages.Event) -> bytes:
    """What makes a repeated event the same one: all of it, its sender's wall clock included."""
    return messages.encode(event)
