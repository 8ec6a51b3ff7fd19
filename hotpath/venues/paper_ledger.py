"""The paper venue's ledger: cash, positions, orders and events in their own LMDB environment, `STATE_DIR/paper`.

Changes gather in memory and become true with `commit`, one transaction; nothing of them may be acknowledged before. With it goes the
sequence of the tick that was matched last, so that no tick is matched twice. Integers only.
A paper run syncs each commit (hotpath/durable.py): what the venue has acknowledged outlives a loss of power. A replay syncs none.

Named databases: meta {"ledger": Meta}, positions {symbol: VenuePosition}, accounts {"account|symbol": signed lots}, orders {client id:
VenueOrder}, events {venue_seq, 8 bytes big-endian: VenueEvent}; values are MessagePack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import msgspec
from msgspec import Struct

from hotpath import durable
from hotpath.orders import TERMINAL
from hotpath.venues.venue import VenueEvent, VenueOrder, VenuePosition

#: schema of what is stored; a newer one is refused
SCHEMA: Final = 1
#: map size of a new environment; doubled whenever it is full
FIRST_MAP_BYTES: Final = 16 * 1024 * 1024
_DATABASES = (b"meta", b"positions", b"accounts", b"orders", b"events")

_encode = msgspec.msgpack.Encoder().encode


class LedgerError(Exception):
    """A ledger that cannot be used; the text names its path and the remedy."""


class LedgerNotOpen(LedgerError):
    """The environment cannot be opened now: a full disk, a missing folder. Another try may do."""


class Meta(Struct, kw_only=True):
    """The account: cash, deposits, fees and realised profit of perpetuals in quanta; and how far everything is.

    `tick_seq` counts within `incarnation`.
    """

    schema: int = SCHEMA
    cash: int = 0
    deposits: int = 0
    fees: int = 0
    realised: int = 0
    venue_seq: int = 0
    incarnation: int = 0
    #: the run of that incarnation; "" in ledgers of before it was noted
    run_id: str = ""
    tick_seq: int = 0
    event_ns: int = 0


_decode_meta = msgspec.msgpack.Decoder(Meta).decode
_decode_position = msgspec.msgpack.Decoder(VenuePosition).decode
_decode_order = msgspec.msgpack.Decoder(VenueOrder).decode
_decode_event = msgspec.msgpack.Decoder(VenueEvent).decode


class Ledger:
    """The account in memory, and what of it is not yet in LMDB. One writer: the gateway. `fault` says why the last commit failed."""

    def __init__(self, folder: Path, sync: bool = True) -> None:
        self._folder, self._sync = folder, sync
        self.meta = Meta()
        self.positions: dict[str, VenuePosition] = {}
        self.accounts: dict[str, int] = {}
        #: open orders by client id, oldest first; ended ones are in LMDB only
        self.open: dict[str, VenueOrder] = {}
        self.commits = 0
        self.fault = ""
        self._dirty_orders: dict[str, VenueOrder] = {}
        self._dirty_positions: set[str] = set()
        self._dirty_accounts: set[str] = set()
        self._new_events: list[VenueEvent] = []
        self._dirty = False
        self._open()
        self._load()

    def _open(self) -> None:
        try:
            self._env = durable.open_environment(self._folder, sync=self._sync, max_dbs=len(_DATABASES), map_size=FIRST_MAP_BYTES)
            self._db = {name: self._env.open_db(name) for name in _DATABASES}
        except (lmdb.Error, OSError) as error:
            raise LedgerNotOpen(f"{self._folder}: {error}; free space there, or begin a new account with --fresh") from error

    def _load(self) -> None:
        with self._env.begin() as txn:
            stored = txn.get(b"ledger", db=self._db[b"meta"])
            if stored is None:
                return
            try:
                self.meta = _decode_meta(stored)
                if self.meta.schema > SCHEMA:
                    raise LedgerError(f"{self._folder}: schema {self.meta.schema} is newer than this program's {SCHEMA}; "
                                      "use the newer program")
                self.positions = {key.decode(): _decode_position(value) for key, value in txn.cursor(self._db[b"positions"])}
                self.accounts = {key.decode(): msgspec.msgpack.decode(value, type=int) for key, value in txn.cursor(self._db[b"accounts"])}
                orders = (_decode_order(value) for _, value in txn.cursor(self._db[b"orders"]))
                live = [order for order in orders if order.state not in TERMINAL]
            except msgspec.DecodeError as error:
                raise LedgerError(f"{self._folder}: {error}; restore it with its journal from a backup, or begin anew with --fresh") from error
            self.open = {order.client_id: order for order in sorted(live, key=lambda order: order.venue_order_id)}

    # ── changes, in memory until the commit ───────────────────────────────────────────────────────────────────────────
    def event(self, **fields: Any) -> VenueEvent:
        """Append an event under the next venue_seq."""
        self.meta.venue_seq += 1
        event = VenueEvent(venue_seq=self.meta.venue_seq, balance=self.meta.cash, **fields)
        self._new_events.append(event)
        self._dirty = True
        return event

    def touch(self) -> None:
        """`meta` was changed."""
        self._dirty = True

    def put_order(self, order: VenueOrder) -> None:
        """A new or changed order."""
        self._dirty_orders[order.client_id] = order
        if order.state in TERMINAL:
            self.open.pop(order.client_id, None)
        else:
            self.open[order.client_id] = order
        self._dirty = True

    def position(self, symbol: str) -> VenuePosition:
        """What is held of a symbol, to be changed; the caller commits."""
        if symbol not in self.positions:
            self.positions[symbol] = VenuePosition(symbol=symbol)
        self._dirty_positions.add(symbol)
        self._dirty = True
        return self.positions[symbol]

    def add_to_account(self, account: str, symbol: str, lots: int) -> None:
        """Signed lots into a part of the account."""
        key = f"{account}|{symbol}"
        self.accounts[key] = self.accounts.get(key, 0) + lots
        self._dirty_accounts.add(key)

    # ── durable ───────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def uncommitted(self) -> bool:
        """Something has changed since the last commit."""
        return self._dirty

    def commit(self) -> list[VenueEvent] | None:
        """Make every change durable; gives the new events, which may now be acknowledged. None: not written (`fault`), try again later."""
        if not self._dirty:
            return []
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    self._write(txn)
                break
            except lmdb.MapFullError:  # the transaction is aborted, and nothing is held: the map may grow
                try:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
                except (lmdb.Error, OSError) as error:
                    self.fault = str(error)
                    return None
            except (lmdb.Error, OSError) as error:
                self.fault = str(error)
                self._reopen()
                return None
        events, self._new_events = self._new_events, []
        self._dirty_orders.clear()
        self._dirty_positions.clear()
        self._dirty_accounts.clear()
        self._dirty, self.fault = False, ""
        self.commits += 1
        return events

    def _write(self, txn: Any) -> None:
        for client_id, order in self._dirty_orders.items():
            txn.put(client_id.encode(), _encode(order), db=self._db[b"orders"])
        for symbol in self._dirty_positions:
            txn.put(symbol.encode(), _encode(self.positions[symbol]), db=self._db[b"positions"])
        for key in self._dirty_accounts:
            txn.put(key.encode(), _encode(self.accounts[key]), db=self._db[b"accounts"])
        for event in self._new_events:
            txn.put(event.venue_seq.to_bytes(8, "big"), _encode(event), db=self._db[b"events"])
        txn.put(b"ledger", _encode(self.meta), db=self._db[b"meta"])

    def _reopen(self) -> None:
        """A write error may leave the environment unusable until it is opened anew. What is in memory stays, to be written again."""
        try:
            self._env.close()
            self._open()
        except LedgerError as error:
            self.fault = str(error)

    def find(self, client_id: str) -> VenueOrder | None:
        """An order by its id, open or ended."""
        order = self.open.get(client_id) or self._dirty_orders.get(client_id)
        if order is not None:
            return order
        with self._env.begin() as txn:
            stored = txn.get(client_id.encode(), db=self._db[b"orders"])
        return None if stored is None else _decode_order(stored)

    def events_since(self, venue_seq: int, limit: int) -> list[VenueEvent]:
        """Committed events behind `venue_seq`, oldest first."""
        events: list[VenueEvent] = []
        with self._env.begin() as txn:
            cursor = txn.cursor(self._db[b"events"])
            if cursor.set_range((venue_seq + 1).to_bytes(8, "big")):
                for value in cursor.iternext(keys=False, values=True):
                    events.append(_decode_event(value))
                    if len(events) == limit:
                        break
        return events

    def close(self) -> None:
        """Close the environment; what is uncommitted is dropped."""
        self._env.close()


class Statement(NamedTuple):
    """What a ledger says, for whoever compares: the account, positions by symbol, every event."""

    meta: Meta
    positions: dict[str, VenuePosition]
    events: list[VenueEvent]


def read(folder: Path) -> Statement:
    """A ledger as last committed, read by a process that does not own it. Raises LedgerError where there is none."""
    try:
        with lmdb.open(str(folder), max_dbs=len(_DATABASES), readonly=True, create=False) as env, env.begin() as txn:
            db = {name: env.open_db(name, txn, create=False) for name in _DATABASES}
            stored = txn.get(b"ledger", db=db[b"meta"])
            return Statement(
                Meta() if stored is None else _decode_meta(stored),
                {key.decode(): _decode_position(value) for key, value in txn.cursor(db[b"positions"])},
                [_decode_event(value) for _, value in txn.cursor(db[b"events"])],
            )
    except lmdb.Error as error:
        raise LedgerError(f"{folder}: {error}; is that the state folder of a paper account?") from error
