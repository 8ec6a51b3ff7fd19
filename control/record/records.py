"""What a journal record looks like: header, payload, schema, upcasts, and the facts that make its numbers readable.

```
key    ring records: incarnation u16 │ sequence u64, big-endian     numbered ones: number u64, big-endian
value  ┌ header, 64 bytes ──────────────────────────────────────────────────────────────────┬ payload ─────────────────────┐
       │ schema kind incarnation flags │ run │ seq │ event_ns │ wall_ns │ cause │ size │ ·   │ 128 ring bytes, or JSON       │
       └────────────────────────────────────────────────────────────────────────────────────┴──────────────────────────────┘
```

Ring records are stored as the 128 bytes that travelled (layout.INTENT, TRADE, REPORT); plans, events and snapshots as JSON of their
Structs. A change of any of these is a new schema: add an entry to UPCASTS and a golden journal of the old one to the tests.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from ipc import layout as l

#: schema of what is written; older ones are upcast on reading, newer ones refused
SCHEMA: Final = 6
#: record kinds in the header
ORDER, REPORT, TRADE, PLAN, EVENT, SNAPSHOT = range(1, 7)
KIND_NAMES: Final = {ORDER: "order", REPORT: "report", TRADE: "trade", PLAN: "plan", EVENT: "event", SNAPSHOT: "snapshot"}
#: header of every record; run = first 8 bytes of SHA-256 of the run id; cause = what led to it (report: its order; order: its
#: condition; trade: its position; else 0); size = bytes of the payload
HEADER: Final = np.dtype([
    ("schema", "<u2"), ("kind", "<u2"), ("incarnation", "<u2"), ("flags", "<u2"), ("run", "<u8"), ("seq", "<i8"), ("event_ns", "<i8"),
    ("wall_ns", "<i8"), ("cause", "<i8"), ("size", "<i8"), ("spare", "<i8"),
])
HEADER_BYTES: Final = 64
_HEADER: Final = struct.Struct("<HHHHQqqqqqq")
_RING_KEY: Final = struct.Struct(">HQ")
_NUMBER_KEY: Final = struct.Struct(">Q")
_KEYS: Final = np.dtype([("incarnation", ">u2"), ("seq", ">u8")])
#: a ring record as it is stored
RING_RECORD: Final = np.dtype([("header", HEADER), ("payload", np.dtype("V128"))])
#: payload dtype of each kind of ring record
ROWS: Final = {ORDER: l.INTENT, REPORT: l.REPORT, TRADE: l.TRADE}

def _snapshot_2(payload: bytes) -> bytes:
    """Schema 2 knows when the messages so far were due, and each position's last entry order."""
    tree = msgspec.json.decode(payload)
    tree["account"]["messages_due_ns"] = 0
    for position in tree["positions"]:
        position.update(last_entry_ns=0, last_entry_lots=0, last_entry_price=0)
    return msgspec.json.encode(tree)


def _condition_id_3(number: Any) -> Any:
    """Schema 3 has 20 bits for the index of a condition in its plan, not 16."""
    return number >> 16 << 20 | number & 0xFFFF


def _ring_3(payload: bytes) -> bytes:
    row = np.frombuffer(bytearray(payload), l.INTENT)
    row["condition_id"] = _condition_id_3(row["condition_id"])
    return row.tobytes()


def _snapshot_3(payload: bytes) -> bytes:
    """Schema 3 knows ladders, moved stops, and how often each strategy has made entries."""
    tree = msgspec.json.decode(payload)
    for row in (*tree["positions"], *tree["working"]):
        row["condition_id"] = _condition_id_3(row["condition_id"])
    tree["latched"], tree["entries_due_ns"] = [], {}
    for position in tree["positions"]:
        position.update(rung_seq=0, rungs=0, rungs_done=0, rung_bps=[0] * l.MAX_RUNGS, rung_share_e4=[0] * l.MAX_RUNGS, break_even_bps=0,
                        adjustments=0)
    return msgspec.json.encode(tree)


#: (kind, schema) → payload of schema + 1; a kind that is not here has not changed. Schema 4 has four more kinds of order-ring records (CONTEXT,
#: AFTERWARDS and those of trades on paper), and pattern, regime and paper in a plan's conditions: what there was is as it was. Schema 5 has twins, in
#: a plan's conditions, a snapshot's positions, and PAPER_OPENED: what there was has none. Schema 6 has trades on paper and what waits for its price
#: afterwards in a snapshot: those of before have none
UPCASTS: dict[tuple[int, int], Callable[[bytes], bytes]] = {
    (SNAPSHOT, 1): _snapshot_2, (SNAPSHOT, 2): _snapshot_3, (ORDER, 2): _ring_3, (TRADE, 2): _ring_3}


class JournalError(Exception):
    """The journal cannot be read or written as it is; the text names the record or the path, and the remedy.

    JournalError
    ├── NewerSchema     written by a later program
    ├── JournalCorrupt  a hole, a duplicate, a record that is not what its key says
    └── WriteFailed     the disk is full or broken; nothing of the transaction is stored, trying again is right
    """


class NewerSchema(JournalError):
    """Written by a later version of this program."""


class JournalCorrupt(JournalError):
    """A hole, a duplicate, or a record that is not what its key says."""


class NoJournal(JournalError):
    """There is none (yet): nothing was ever recorded there."""


class WriteFailed(JournalError):
    """The disk is full or broken; nothing of the transaction is stored."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is read: header fields, and the payload upcast to the current schema."""

    kind: int
    incarnation: int
    run: int
    seq: int
    event_ns: int
    wall_ns: int
    cause: int
    payload: bytes

    @property
    def row(self) -> Any:
        """The payload of a ring record as one row of its dtype (INTENT, TRADE or REPORT)."""
        return np.frombuffer(self.payload, ROWS[self.kind], 1)[0]


def ring_rows(region: Any, after: int, last: int) -> np.ndarray[Any, Any]:
    """Copies of a ring's slots of the sequences (after, last]; its head must have been read with acquire, so that they are complete."""
    return region.slots[np.arange(after + 1, last + 1) & (int(region.ring[0]["capacity"]) - 1)]


def ring_key(incarnation: int, seq: int) -> bytes:
    """Key of a ring record; bytes sort as (incarnation, seq)."""
    return _RING_KEY.pack(incarnation, seq)


def ring_key_of(key: bytes) -> tuple[int, int]:
    """(incarnation, seq) of a ring record's key."""
    incarnation, seq = _RING_KEY.unpack(key)
    return incarnation, seq


def number_key(number: int) -> bytes:
    """Key of a plan, event or snapshot."""
    return _NUMBER_KEY.pack(number)


def number_of(key: bytes) -> int:
    """Number of a plan, event or snapshot."""
    return int(_NUMBER_KEY.unpack(key)[0])


def run_hash(run_id: str) -> int:
    """The 8 bytes by which headers name a run."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "little")


def encode(kind: int, incarnation: int, run: int, seq: int, event_ns: int, wall_ns: int, payload: bytes, cause: int = 0) -> bytes:
    """One record's value under the current schema."""
    return _HEADER.pack(SCHEMA, kind, incarnation, 0, run, seq, event_ns, wall_ns, cause, len(payload), 0) + payload


def encode_rows(kind: int, rows: np.ndarray[Any, Any], incarnation: int, run: int, wall_ns: int) -> list[tuple[bytes, bytes]]:
    """(key, value) of each ring row (INTENT, TRADE or REPORT), built column by column: 2,000 rows take about a millisecond."""
    records = np.zeros(len(rows), RING_RECORD)
    header = records["header"]
    header["schema"], header["kind"], header["incarnation"] = SCHEMA, kind, incarnation
    header["run"], header["wall_ns"], header["size"] = run, wall_ns, rows.dtype.itemsize
    header["seq"], header["event_ns"] = rows["seq"], rows["event_ns"]
    header["cause"] = rows[{ORDER: "condition_id", REPORT: "order_seq", TRADE: "position_id"}[kind]]
    records["payload"] = np.ascontiguousarray(rows).view("V128")
    data, size = records.tobytes(), RING_RECORD.itemsize
    return [(ring_key(incarnation, seq), data[size * k:size * (k + 1)]) for k, seq in enumerate(rows["seq"].tolist())]


def decode(value: bytes) -> Record:
    """A stored value as a Record, upcast to the current schema. Raises NewerSchema, JournalCorrupt."""
    if len(value) < HEADER_BYTES:
        raise JournalCorrupt(f"a record of {len(value)} bytes is too short for its header; restore the journal from a backup")
    schema, kind, incarnation, _, run, seq, event_ns, wall_ns, cause, size, _ = _HEADER.unpack_from(value)
    if schema > SCHEMA:
        raise NewerSchema(f"the journal is of schema {schema}, this program knows up to {SCHEMA}; update trader")
    payload = bytes(value[HEADER_BYTES:])
    if len(payload) != size or kind not in KIND_NAMES:
        raise JournalCorrupt(f"{KIND_NAMES.get(kind, f'kind {kind}')} {incarnation}/{seq}: {len(payload)} bytes instead of {size}; "
                             "restore the journal from a backup")
    for older in range(schema, SCHEMA):
        upcast = UPCASTS.get((kind, older))
        payload = payload if upcast is None else upcast(payload)
    return Record(kind, incarnation, run, seq, event_ns, wall_ns, cause, payload)


class RingRows(NamedTuple):
    """Many ring records at once: their payloads (INTENT, TRADE or REPORT) and the incarnation (int64) of each."""

    rows: np.ndarray[Any, Any]
    incarnations: np.ndarray[Any, Any]


def decode_ring_rows(kind: int, found: list[tuple[bytes, bytes]]) -> RingRows | None:
    """Ring records by (key, value) in one go; None where not every one is of the current schema, of that kind, whole, and under its own key."""
    if {len(value) for _, value in found} - {RING_RECORD.itemsize}:
        return None
    keys, made = (np.frombuffer(b"".join(part), dtype) for part, dtype in zip(zip(*found, strict=True), (_KEYS, RING_RECORD), strict=True))
    header = made["header"]
    sound = ((header["schema"] == SCHEMA) & (header["kind"] == kind) & (header["size"] == made.dtype["payload"].itemsize)
             & (header["incarnation"] == keys["incarnation"]) & (header["seq"] == keys["seq"]))
    if not sound.all():
        return None
    return RingRows(np.ascontiguousarray(made["payload"]).view(ROWS[kind]), header["incarnation"].astype(np.int64))


def glance(value: bytes) -> tuple[int, int]:
    """(event_ns, cause) of a stored value by its header alone, for a search through many."""
    header = _HEADER.unpack_from(value)
    return header[6], header[8]


class InstrumentFact(Struct, frozen=True, kw_only=True):
    """An instrument as the run's first event states it, so that the journal can be read without the program's catalogue.

    Tick and lot are mantissa × 10^exponent in units of quote and base; `value_quanta` = quanta of one tick × one lot.
    """

    id: int
    symbol: str
    kind: str
    quote: str
    tick_mantissa: int
    tick_exponent: int
    lot_mantissa: int
    lot_exponent: int
    value_quanta: int
    quantum_exponent: int
    maker_fee_e8: int
    taker_fee_e8: int

    def price_text(self, ticks: float) -> str:
        """A price in ticks as a decimal string."""
        return decimal_text(int(ticks) * self.tick_mantissa, self.tick_exponent)

    def size_text(self, lots: int) -> str:
        """A size in lots as a decimal string."""
        return decimal_text(int(lots) * self.lot_mantissa, self.lot_exponent)

    def cash_text(self, quanta: int) -> str:
        """Quanta as a decimal string."""
        return decimal_text(int(quanta), self.quantum_exponent)


def instrument_facts(rows: Any, count: int) -> list[InstrumentFact]:
    """Facts of the first `count` rows of layout.INSTRUMENT."""
    numbers = ("tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "value_quanta", "quantum_exponent", "maker_fee_e8",
               "taker_fee_e8")
    return [InstrumentFact(id=k, symbol=rows[k]["symbol"].decode(), kind=l.INSTRUMENT_KINDS.get(int(rows[k]["kind"]), "unknown"),
                           quote=rows[k]["quote"].decode(), **{name: int(rows[k][name]) for name in numbers}) for k in range(count)]


def decimal_text(mantissa: int, exponent: int) -> str:
    """mantissa × 10^exponent without exponent notation and without trailing zeros behind the point."""
    text = f"{Decimal(mantissa).scaleb(exponent):f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


assert HEADER.itemsize == _HEADER.size == HEADER_BYTES, "the header is one cache line"
assert RING_RECORD.itemsize == HEADER_BYTES + l.INTENT.itemsize
assert all(row.itemsize == 128 for row in ROWS.values())
