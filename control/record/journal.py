"""The journal: everything that happened, in one LMDB environment with one writer (the recorder) and any number of readers.

| database  | key                  | value                                                                             |
|-----------|----------------------|-----------------------------------------------------------------------------------|
| orders    | incarnation, seq     | every order-ring record                                                           |
| sent      | incarnation, seq     | empty: which of them are NEW orders                                               |
| trades    | incarnation, seq     | the CLOSED ones among the order-ring records                                      |
| reports   | incarnation, seq     | every report-ring record                                                          |
| plans     | plan number          | every plan, before it is armed; a large one in parts, each under its own number   |
| events    | event number         | what the control plane did; "run_start" carries the instruments' facts            |
| snapshots | snapshot number      | the sniper's book at a commit, the newest 64                                      |
| meta      | name                 | "cursors": what of both rings is stored, written in the transaction of the records;|
|           |                      | "run_start/N": event number of incarnation N's first event; "run_id";             |
|           |                      | "safe_mode", "pause", "drawdown": the event that began, ended or changed it last; |
|           |                      | "armed/STRATEGY": which of its plans are in force                                 |

An incarnation is one life of the shared memory. Readers hold no transaction while they wait, and take the writer's growing of the map
in their stride. Numbers of plans, events and snapshots go on across incarnations.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec
import numpy as np
from msgspec import Struct

from control.record import records
from control.record.in_force import PREFIX, InForce, decode_in_force
from control.record.records import (
    InstrumentFact,
    JournalCorrupt,
    JournalError,
    NoJournal,
    Record,
    RingRows,
    WriteFailed,
    decode,
    decode_ring_rows,
    number_key,
    number_of,
    ring_key,
    ring_key_of,
)
from control.record.snapshot import Snapshot
from hotpath import durable
from ipc import messages

#: databases of the environment
DATABASES: Final = ("orders", "sent", "trades", "reports", "plans", "events", "snapshots", "meta")
#: bytes of the map of a new journal; it doubles when it is full (a map costs addresses, not disk)
FIRST_MAP_BYTES: Final = 1 << 26
#: records that an iterator takes in one read transaction
CHUNK: Final = 1024
#: key of "meta" under which the event number of an incarnation's "run_start" is
RUN_PREFIX: Final = b"run_start/"
#: keys of "meta" under which the event is that began, ended or changed it last: safe mode, a person's pause, a drawdown that he has seen
LASTING: Final = {"safe_mode": b"safe_mode", "pause": b"pause", "resume": b"pause", "drawdown": b"drawdown"}
#: and the table of ring records, which is read without looking at each
TABLE_CHUNK: Final = 1 << 14
#: first position, before every record; the last sequence that a key has room for; the last position
START: Final = (0, 0)
LAST_SEQ: Final = (1 << 64) - 1
END: Final = (0xFFFF, LAST_SEQ)
_KIND_OF: Final = {"orders": records.ORDER, "reports": records.REPORT, "trades": records.TRADE}

decode_plan = msgspec.json.Decoder(messages.Plan).decode
decode_event = msgspec.json.Decoder(messages.Event).decode
decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class Cursors(Struct, frozen=True):
    """What is stored: the newest incarnation and the last sequence of both rings in it; the last event time of any record."""

    incarnation: int = 0
    orders: int = 0
    reports: int = 0
    event_ns: int = 0


decode_cursors = msgspec.json.Decoder(Cursors).decode


class Journal:
    """Reading. Safe beside a writing recorder; open it after the fork, once a process and path."""

    def __init__(self, path: Path | str, writable: bool = False, sync: bool = True) -> None:
        """Open an existing journal. Raises NoJournal when there is none, WriteFailed where a writer may have more luck later."""
        self.path = Path(path)
        if not writable and not durable.begun(self.path / "data.mdb"):
            raise NoJournal(f"{self.path}: there is no journal; has this instance run before?")
        try:
            if writable:
                self.env = durable.open_environment(self.path, sync=sync, mode=0o600, map_size=FIRST_MAP_BYTES, max_dbs=len(DATABASES),
                                                    max_readers=64)
            else:
                self.env = lmdb.open(str(self.path), map_size=0, max_dbs=len(DATABASES), max_readers=64, readonly=True, create=False)
            try:
                if writable:
                    with self.env.begin(write=True) as transaction:  # all of them or none
                        self.databases = {name: self.env.open_db(name.encode(), transaction) for name in DATABASES}
                else:
                    self.databases = {name: self.env.open_db(name.encode(), create=False) for name in DATABASES}
            except BaseException:
                self.env.close()
                raise
        except lmdb.NotFoundError as error:
            raise NoJournal(f"{self.path}: nothing was recorded there yet") from error
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise JournalCorrupt(f"{self.path}: {error}; restore it from a backup, or start with --fresh") from error
        except lmdb.Error as error:
            kind = WriteFailed if writable else JournalError
            raise kind(f"{self.path}: {error}; free space on its disk, and let this user read and write there") from error
        except OSError as error:
            raise WriteFailed(f"{self.path}: {error.strerror}; free space there and make it writable") from error
        self._resize = threading.Lock()

    def close(self) -> None:
        """Close the environment; no iterator of this journal may be in use."""
        self.env.close()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A read transaction; never hold it across a wait."""
        try:
            transaction = self.env.begin()
        except lmdb.MapResizedError:  # the writer has grown the map
            with self._resize:
                self.env.set_mapsize(0)
            transaction = self.env.begin()
        with transaction:
            yield transaction

    # ── ring records by position ─────────────────────────────────────────────────────────────────────────────────────
    def orders(self, after: tuple[int, int] = START) -> Iterator[Record]:
        """Order-ring records behind position (incarnation, seq), in order; `record.row` is an INTENT (or a TRADE where CLOSED)."""
        return self._walk("orders", ring_key(*after))

    def reports(self, after: tuple[int, int] = START) -> Iterator[Record]:
        """Report-ring records behind a position; `record.row` is a REPORT."""
        return self._walk("reports", ring_key(*after))

    def trades(self, after: tuple[int, int] = START) -> Iterator[Record]:
        """Closed trades behind a position, the way reflection follows them; `record.row` is a TRADE."""
        return self._walk("trades", ring_key(*after))

    def rows(self, database: str, incarnation: int) -> np.ndarray[Any, Any]:
        """All payloads of one incarnation of "orders", "reports" or "trades", as one array of their dtype."""
        return self.table(database, (incarnation, 0), (incarnation, LAST_SEQ)).rows

    def table(self, database: str, after: tuple[int, int] = START, until: tuple[int, int] = END, most: int = 1 << 62) -> RingRows:
        """Payloads of "orders", "reports" or "trades" behind `after` up to `until`, checked as single records are and ten times as fast; where there
        are more than `most`, as many or up to a chunk more of them."""
        last, at, kind = ring_key(*until), ring_key(*after), _KIND_OF[database]
        rows, incarnations, more = [], [], True
        while more:
            with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
                if not cursor.set_range(at) or (cursor.key() == at and not cursor.next()):
                    break
                found = list(itertools.islice(cursor.iternext(), TABLE_CHUNK))
            at, more = found[-1][0], len(found) == TABLE_CHUNK
            if at > last:
                found, more = [item for item in found if item[0] <= last], False
            if found:
                made = decode_ring_rows(kind, found) or _one_by_one(database, kind, found)
                rows.append(made.rows)
                incarnations.append(made.incarnations)
                more = more and sum(map(len, incarnations)) < most
        return RingRows(np.concatenate(rows) if rows else np.zeros(0, records.ROWS[kind]),
                        np.concatenate(incarnations) if incarnations else np.zeros(0, np.int64))

    # ── numbered records ─────────────────────────────────────────────────────────────────────────────────────────────
    def plans(self, after: int = 0) -> Iterator[tuple[int, messages.Plan]]:
        """(incarnation, plan) in order of their numbers."""
        return ((record.incarnation, decode_plan(record.payload)) for record in self._walk("plans", number_key(after)))

    def plan(self, number: int) -> messages.Plan | None:
        """The plan of a number."""
        payload = self.plan_payload(number)
        return None if payload is None else decode_plan(payload)

    def plan_payload(self, number: int) -> bytes | None:
        """The same as its JSON."""
        value = self._get("plans", number_key(number)) if number > 0 else None
        return None if value is None else decode(value).payload

    def plan_incarnation(self, number: int) -> int:
        """The incarnation that made the plan of a number; 0 for one that is not there."""
        value = self._get("plans", number_key(number))
        return 0 if value is None else decode(value).incarnation

    def events(self, after: int = 0) -> Iterator[tuple[int, messages.Event]]:
        """(incarnation, event) in order of their numbers."""
        return ((record.incarnation, decode_event(record.payload)) for record in self._walk("events", number_key(after)))

    def event_records(self) -> Iterator[tuple[Record, messages.Event]]:
        """Every event with its record, in order of their numbers."""
        return ((record, decode_event(record.payload)) for record in self._walk("events", number_key(0)))

    def newest(self, database: str, limit: int) -> list[Record]:
        """The newest records of a database, newest first."""
        found: list[Record] = []
        with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
            if not cursor.last():
                return []
            for value in cursor.iterprev(keys=False):
                if len(found) >= limit:
                    break
                found.append(decode(value))
        return found

    def before(self, database: str, key: bytes | None, limit: int) -> list[tuple[bytes, Record]]:
        """Up to `limit` records before a key (None: the end), newest first, each with its key."""
        found: list[tuple[bytes, Record]] = []
        with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
            there = cursor.last() if key is None else cursor.set_range(key) and cursor.prev()
            for at, value in cursor.iterprev() if there else ():
                found.append((bytes(at), decode(value)))
                if len(found) == limit:
                    break
        return found

    def last_snapshot(self) -> Snapshot | None:
        """The newest snapshot."""
        newest = self.newest("snapshots", 1)
        return decode_snapshot(newest[0].payload) if newest else None

    def last_venue_seq(self) -> int:
        """Number of the last venue event that is journaled; reports of the gateway itself carry none. 0 without any."""
        with self.reading() as transaction, transaction.cursor(self.databases["reports"]) as cursor:
            for value in cursor.iterprev(keys=False) if cursor.last() else ():
                if (venue_seq := int(decode(value).row["venue_seq"])) > 0:
                    return venue_seq
        return 0

    def snapshot_until(self, incarnation: int, orders: int, reports: int) -> Snapshot | None:
        """The newest snapshot that knows nothing of what is behind these records of an incarnation; None where there is none (any more)."""
        for record in self.newest("snapshots", 1 << 30):
            found = decode_snapshot(record.payload)
            if (found.incarnation, found.intent_seq) <= (incarnation, orders) and (found.incarnation, found.report_seq) <= (incarnation, reports):
                return found
        return None

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def cursors(self) -> Cursors:
        """What is stored."""
        value = self._get("meta", b"cursors")
        return Cursors() if value is None else decode_cursors(value)

    def run_starts(self) -> dict[int, messages.Event]:
        """The "run_start" event of each incarnation."""
        starts = {}
        with self.reading() as transaction, transaction.cursor(self.databases["meta"]) as cursor:
            cursor.set_range(RUN_PREFIX)
            for key, number in cursor.iternext():
                if not key.startswith(RUN_PREFIX):
                    break
                starts[int(key[len(RUN_PREFIX):])] = decode_event(decode(transaction.get(number, db=self.databases["events"])).payload)
        return starts

    def instruments(self) -> dict[int, dict[int, InstrumentFact]]:
        """Instrument facts by incarnation and id."""
        return {incarnation: facts_of(event) for incarnation, event in self.run_starts().items()}

    def lasting(self, kind: str) -> messages.Event | None:
        """The event that began, ended or changed it last: "safe_mode", "pause" or "drawdown"."""
        value = self._get("meta", LASTING[kind])
        return None if value is None else decode_event(value)

    def in_force(self) -> dict[str, InForce]:
        """Plans in force, by strategy."""
        found = {}
        with self.reading() as transaction, transaction.cursor(self.databases["meta"]) as cursor:
            for key, value in cursor.iternext() if cursor.set_range(PREFIX) else ():
                if not key.startswith(PREFIX):
                    break
                found[key[len(PREFIX):].decode()] = decode_in_force(value)
        return found

    def last_event_ns(self) -> int:
        """Event time of the newest record; 0 in an empty journal."""
        return self.cursors().event_ns

    def check(self) -> None:
        """Every ring record is under its own key, none is missing or twice, and the cursors are the last keys. Raises JournalCorrupt."""
        last: dict[str, tuple[int, int]] = {}
        for database in ("orders", "reports"):
            incarnation = seq = 0
            for record in self._walk(database, b""):
                expected = seq + 1 if record.incarnation == incarnation else 1
                if record.seq != expected or int(record.row["seq"]) != expected:
                    raise records.JournalCorrupt(f"{database}: {record.incarnation}/{record.seq} follows {incarnation}/{seq}")
                incarnation, seq = record.incarnation, record.seq
            last[database] = (incarnation, seq)
        cursors = self.cursors()
        stated = {"orders": cursors.orders, "reports": cursors.reports}
        for database, (incarnation, seq) in last.items():
            if stated[database] != (seq if incarnation == cursors.incarnation else 0):
                raise records.JournalCorrupt(f"{database}: the cursor says {cursors.incarnation}/{stated[database]}, "
                                             f"the last record is {incarnation}/{seq}")

    # ── below ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _get(self, database: str, key: bytes) -> bytes | None:
        with self.reading() as transaction:
            value: bytes | None = transaction.get(key, db=self.databases[database])
            return value

    def _walk(self, database: str, after: bytes) -> Iterator[Record]:
        """Records with keys behind `after`; each CHUNK in a read transaction of its own, closed before anything is given out."""
        while True:
            chunk: list[Record] = []
            with self.reading() as transaction, transaction.cursor(self.databases[database]) as cursor:
                if not cursor.set_range(after) or (cursor.key() == after and not cursor.next()):
                    return
                for key, value in cursor.iternext():
                    chunk.append(_under_its_key(database, key, value))
                    after = key
                    if len(chunk) == CHUNK:
                        break
            yield from chunk
            if len(chunk) < CHUNK:
                return


def _under_its_key(database: str, key: bytes, value: bytes) -> Record:
    record = decode(value)
    if (ring_key_of(key) if len(key) == 10 else (record.incarnation, number_of(key))) != (record.incarnation, record.seq):
        raise records.JournalCorrupt(f"{database}: record {record.incarnation}/{record.seq} is under key {key.hex()}")
    return record


def _one_by_one(database: str, kind: int, found: list[tuple[bytes, bytes]]) -> RingRows:
    """Records of older schemas, or one that is not what it should be, which is named."""
    made = [_under_its_key(database, key, value) for key, value in found]
    return RingRows(np.frombuffer(b"".join(record.payload for record in made), records.ROWS[kind]),
                    np.array([record.incarnation for record in made], np.int64))


def facts_of(run_start: messages.Event) -> dict[int, InstrumentFact]:
    """Instrument facts by id of a "run_start" event."""
    facts = msgspec.convert(run_start.data.get("instruments", []), list[InstrumentFact])
    return {fact.id: fact for fact in facts}
