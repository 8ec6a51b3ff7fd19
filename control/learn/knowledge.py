"""The knowledge store: one LMDB environment, `state_dir/knowledge`, written by reflection alone and read by whoever plans.

| database | key              | value (JSON)                                                                        |
|----------|------------------|-------------------------------------------------------------------------------------|
| coins    | unified symbol   | CoinScore                                                                           |
| meta     | b"applied"       | Applied: the last closed trade (incarnation, order-ring sequence) that is in `coins` |

A score and `applied` change in one transaction, so each trade counts exactly once, whenever the writer dies.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import msgspec
from msgspec import Struct

from control.learn.quick_update import SCALES, ClosedTrade, CoinScore, status, updated
from control.think.strategy import CoinStatus

#: bytes of a new store's map; it doubles when it is full
FIRST_MAP_BYTES = 16 << 20
_APPLIED = b"applied"
_encode = msgspec.json.Encoder().encode
_decode_score = msgspec.json.Decoder(CoinScore).decode


class KnowledgeError(Exception):
    """The store cannot be opened or written; the text names the path and the remedy."""


class Applied(Struct, frozen=True, order=True):
    """Position of a closed trade in the journal."""

    incarnation: int = 0
    seq: int = 0


_decode_applied = msgspec.json.Decoder(Applied).decode


class Knowledge:
    """The store, opened once a process. Raises KnowledgeError."""

    def __init__(self, path: Path | str, writable: bool = False, sync: bool = True) -> None:
        self.path = Path(path)
        try:
            if writable:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.env = lmdb.open(str(self.path), map_size=FIRST_MAP_BYTES if writable else 0, max_dbs=2, readonly=not writable,
                                 create=writable, sync=sync, metasync=sync, mode=0o600)
            self._coins = self.env.open_db(b"coins", create=writable)
            self._meta = self.env.open_db(b"meta", create=writable)
        except (lmdb.Error, OSError) as error:
            raise KnowledgeError(f"{self.path}: {error}; is it a knowledge store that this user may use?") from error
        if writable:
            self.env.reader_check()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _begin(self) -> Any:
        try:
            return self.env.begin()
        except lmdb.MapResizedError:  # the writer has grown the map
            self.env.set_mapsize(0)
            return self.env.begin()

    def applied(self) -> Applied:
        """Up to which trade the scores are."""
        with self._begin() as transaction:
            value = transaction.get(_APPLIED, db=self._meta)
        return Applied() if value is None else _decode_applied(value)

    def coins(self) -> dict[str, CoinScore]:
        """All scores by symbol, as of one instant."""
        with self._begin() as transaction, transaction.cursor(self._coins) as cursor:
            return {key.decode(): _decode_score(value) for key, value in cursor}

    def apply(self, trades: Iterable[tuple[Applied, ClosedTrade | None]]) -> int:
        """Add trades behind `applied`, in order, in one transaction; gives how many changed a score.

        A trade at or before `applied` is passed over; None moves the cursor only. Raises KnowledgeError when nothing could be stored.
        """
        batch = list(trades)
        while True:
            try:
                return self._store(batch)
            except lmdb.MapFullError:
                try:
                    self.env.set_mapsize(2 * int(self.env.info()["map_size"]))
                except (lmdb.Error, OSError, OverflowError) as error:
                    raise KnowledgeError(f"{self.path}: the map cannot grow: {error}") from error
            except lmdb.Error as error:
                raise KnowledgeError(f"{self.path}: {error}; free space on that disk") from error

    def _store(self, batch: list[tuple[Applied, ClosedTrade | None]]) -> int:
        count = 0
        with self.env.begin(write=True) as transaction:
            value = transaction.get(_APPLIED, db=self._meta)
            applied = Applied() if value is None else _decode_applied(value)
            for position, trade in batch:
                if position <= applied:
                    continue
                applied = position
                if trade is not None:
                    key = trade.symbol.encode()
                    known = transaction.get(key, db=self._coins)
                    score = CoinScore() if known is None else _decode_score(known)
                    transaction.put(key, _encode(updated(score, trade)), db=self._coins)
                    count += 1
            transaction.put(_APPLIED, _encode(applied), db=self._meta)
        return count


class Snapshot:
    """All scores as of one instant, for one plan; see KnowledgeView in control/think/strategy.py."""

    def __init__(self, scores: dict[str, CoinScore], now_ns: int, quantum: float) -> None:
        self._scores, self._now_ns, self._quantum = scores, now_ns, quantum

    def coin(self, symbol: str) -> CoinStatus:
        """Record of a symbol."""
        score = self._scores.get(symbol)
        if score is None:
            return CoinStatus()
        word = status(score, self._now_ns)
        return CoinStatus(score.trades, score.wins, score.pnl * self._quantum, score.streak, word, SCALES[word])


class Reader:
    """Snapshots for the strategist. A store that is not there yet is empty; one that cannot be read is an error at that plan."""

    def __init__(self, path: Path | str, quantum: float, store: Knowledge | None = None) -> None:
        """`store`: one that this process has open already, as LMDB opens an environment once a process."""
        self._path, self._quantum = Path(path), quantum
        self._store = store

    def snapshot(self, now_ns: int) -> Snapshot:
        """What is known at an event time. Raises KnowledgeError."""
        if self._store is None and (self._path / "data.mdb").exists():
            try:
                self._store = Knowledge(self._path)
            except KnowledgeError:
                if (self._path / "data.mdb").stat().st_size > 0:
                    raise
        return Snapshot(self._store.coins() if self._store else {}, now_ns, self._quantum)


def adopt(source: Path | str, target: Path | str) -> None:
    """Copy another run's knowledge for an instance whose journal begins anew: the scores stay, `applied` goes. Raises KnowledgeError."""
    target = Path(target)
    origin = Knowledge(source)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=False)
        origin.env.copy(str(target), compact=True)
    except (lmdb.Error, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise KnowledgeError(f"{source} → {target}: {error}") from error
    finally:
        origin.close()
    copy = Knowledge(target, writable=True)
    with copy.env.begin(write=True) as transaction:
        transaction.delete(_APPLIED, db=copy._meta)
    copy.close()
