"""What a pass has left, read by its own code: journal and ledger straight from LMDB, the shared memory from copies that were taken after the end.

Imports nothing of hotpath or control: an error that writer and reader shared would otherwise cancel out. Of ipc it takes the dtypes and codes alone.
One run, one incarnation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec
import numpy as np

from ipc import layout as l

#: header of a journal record: schema kind incarnation flags │ run │ seq event_ns wall_ns cause size spare
_HEADER: Final = struct.Struct("<HHHHQqqqqqq")
_RING_KEY: Final = struct.Struct(">HQ")
#: the journal's schema that this reader knows
_SCHEMA: Final = 6
#: fields of a venue's event in the order in which the ledger stores them
_EVENT: Final = ("venue_seq", "kind", "client_id", "symbol", "event_ns", "tick_seq", "code", "side", "liquidity", "lots", "price", "fee",
                 "cum_lots", "cum_quote", "venue_order_id", "balance")
#: what of the shared memory is kept
_KEPT: Final = ("board.cursors", "orders.ring", "orders.slots", "reports.ring", "reports.slots", "sniper.commit", "sniper.commit_lines",
                "sniper.account", "sniper.positions", "sniper.working", "gateway.gateway", "gateway.gateway_orders", "ticks.ring", "ticks.readers")


class Unreadable(Exception):
    """The evidence cannot be read: nothing can be said of the run."""


@dataclass
class Facts:
    """What the run's first event states."""

    instance_number: int
    strategies: list[str]
    instruments: list[dict[str, Any]]


@dataclass
class Evidence:
    """All of it. Ring records as (key sequence, row); rows are INTENT, TRADE or REPORT of ipc/layout.py."""

    facts: Facts
    incarnation: int
    orders: list[tuple[int, Any]]
    reports: list[tuple[int, Any]]
    trades: list[tuple[int, Any]]
    sent: list[int]
    plans: dict[int, dict[str, Any]]
    snapshots: list[dict[str, Any]]
    cursors: dict[str, int]
    account: dict[str, int]
    holdings: dict[str, dict[str, Any]]
    parts: dict[str, int]
    venue_orders: dict[str, dict[str, Any]]
    venue_events: list[dict[str, Any]]
    image: dict[str, np.ndarray[Any, Any]]
    leftovers: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        """How much there was to check."""
        kinds = [int(row["kind"]) for _, row in self.orders]
        purposes = [int(row["purpose"]) for _, row in self.orders if int(row["kind"]) == l.NEW]
        told = [int(row["kind"]) for _, row in self.reports]
        return {"order_records": len(kinds), "entries": purposes.count(l.ENTRY), "exits": purposes.count(l.EXIT), "fills": told.count(l.FILL),
                "unknown": told.count(l.UNKNOWN), "lost": told.count(l.LOST), "rejected": told.count(l.REJECTED),
                "announced": told.count(l.ANNOUNCED), "trades": len(self.trades),
                "plans": len(self.plans), "snapshots": len(self.snapshots), "ticks": int(self.image["ticks.ring"][0]["head"]),
                "missed": kinds.count(l.MISSED)}


def keep_image(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Store what of the shared memory is looked at later."""
    np.savez(path.with_suffix(".npz"), **{name: arrays[name] for name in _KEPT})


def read(state_dir: Path, image: Path, leftovers: list[str]) -> Evidence:
    """Everything below a run's state folder. Raises Unreadable."""
    try:
        journal = _databases(state_dir / "journal", ("orders", "sent", "trades", "reports", "plans", "events", "snapshots", "meta"))
        ledger = _databases(state_dir / "paper", ("meta", "positions", "accounts", "orders", "events"))
        with np.load(image.with_suffix(".npz")) as stored:
            kept = {name: stored[name] for name in stored.files}
        return Evidence(**_journal(journal), **_ledger(ledger), image=kept, leftovers=leftovers)
    except (lmdb.Error, OSError, KeyError, ValueError, msgspec.DecodeError) as error:
        raise Unreadable(f"{state_dir}: {type(error).__name__}: {error}") from error


def _databases(folder: Path, names: tuple[str, ...]) -> dict[str, list[tuple[bytes, bytes]]]:
    found = {}
    with lmdb.open(str(folder), max_dbs=len(names), readonly=True, create=False) as environment:
        for name in names:
            database = environment.open_db(name.encode(), create=False)
            with environment.begin() as transaction, transaction.cursor(database) as cursor:
                found[name] = [(bytes(key), bytes(value)) for key, value in cursor]
    return found


def _payload(value: bytes) -> bytes:
    schema, size = _HEADER.unpack_from(value)[0], _HEADER.unpack_from(value)[9]
    if schema != _SCHEMA or len(value) != _HEADER.size + size:
        raise ValueError(f"a record of schema {schema} with {len(value)} bytes; this checker knows schema {_SCHEMA}")
    return value[_HEADER.size:]


def _journal(found: dict[str, list[tuple[bytes, bytes]]]) -> dict[str, Any]:
    meta = dict(found["meta"])
    cursors = msgspec.json.decode(meta[b"cursors"])
    incarnation = int(cursors["incarnation"])

    def rows(name: str, dtype: np.dtype[Any]) -> list[tuple[int, Any]]:
        made = []
        for key, value in found[name]:
            of, seq = _RING_KEY.unpack(key)
            if of != incarnation:
                raise ValueError(f"{name}: a record of incarnation {of} in a journal of {incarnation}; this checker reads one run")
            made.append((seq, np.frombuffer(bytearray(_payload(value)), dtype)[0]))
        return made

    def documents(name: str) -> dict[int, dict[str, Any]]:
        return {int.from_bytes(key, "big"): msgspec.json.decode(_payload(value)) for key, value in found[name]}

    start = documents("events")[int.from_bytes(meta[b"run_start/%05d" % incarnation], "big")]["data"]
    return {"facts": Facts(int(start["instance_number"]), start["strategies"], start["instruments"]), "incarnation": incarnation,
            "orders": rows("orders", l.INTENT), "reports": rows("reports", l.REPORT), "trades": rows("trades", l.TRADE),
            "sent": [_RING_KEY.unpack(key)[1] for key, _ in found["sent"]], "plans": documents("plans"),
            "snapshots": list(documents("snapshots").values()), "cursors": {name: int(value) for name, value in cursors.items()}}


def _ledger(found: dict[str, list[tuple[bytes, bytes]]]) -> dict[str, Any]:
    decode = msgspec.msgpack.decode
    return {"account": decode(dict(found["meta"])[b"ledger"]), "holdings": {key.decode(): decode(value) for key, value in found["positions"]},
            "parts": {key.decode(): decode(value) for key, value in found["accounts"]},
            "venue_orders": {key.decode(): decode(value) for key, value in found["orders"]},
            "venue_events": [dict(zip(_EVENT, decode(value), strict=True)) | {"key": int.from_bytes(key, "big")} for key, value in found["events"]]}
