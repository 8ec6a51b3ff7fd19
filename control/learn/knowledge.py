"""The knowledge store: one LMDB environment, `state_dir/knowledge`, written by reflection alone and read by whoever plans.

| database | key              | value (JSON)                                                                        |
|----------|------------------|-------------------------------------------------------------------------------------|
| coins    | unified symbol   | CoinScore                                                                           |
| meta     | b"applied"       | Applied: the last closed trade (incarnation, order-ring sequence) that is in `coins` |
| meta     | b"learned"       | Learned: how many trades of this journal are in `coins`, in how many updates, when   |

A score, `applied` and `learned` change in one transaction, so each trade counts exactly once, whenever the writer dies. Paper runs sync each commit
(hotpath/durable.py); what a loss of power may cost was not committed, and is applied again from the journal.
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
from hotpath import durable

#: bytes of a new store's map; it doubles when it is full
FIRST_MAP_BYTES = 16 << 20
_APPLIED, _LEARNED = b"applied", b"learned"
_encode = msgspec.json.Encoder().encode
_decode_score = msgspec.json.Decoder(CoinScore).decode


class KnowledgeError(Exception):
    """The store cannot be opened or written; the text names the path and the remedy."""


class Applied(Struct, frozen=True, order=True):
    """Position of a closed trade in the journal."""

    incarnation: int = 0
    seq: int = 0


class Learned(Struct, frozen=True):
    """What has been learned so far: trades, the transactions that took them in, event time at which the last of them closed."""

    trades: int = 0
    updates: int = 0
    last_trade_ns: int = 0


_decode_applied = msgspec.json.Decoder(Applied).decode
_decode_learned = msgspec.json.Decoder(Learned).decode


class Knowledge:
    """The store, opened once a process. Raises KnowledgeError."""

    def __init__(self, path: Path | str, writable: bool = False, sync: bool = True) -> None:
        self.path = Path(path)
        try:
            if writable:
                self.env = durable.open_environment(self.path, sync=sync, mode=0o600, map_size=FIRST_MAP_BYTES, max_dbs=2)
            else:
                self.env = lmdb.open(str(self.path), map_size=0, max_dbs=2, readonly=True, create=False)
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

    def learned(self) -> Learned:
        """How much has been learned of this journal. A store from before this was counted says it by its scores."""
        with self._begin() as transaction:
            value = transaction.get(_LEARNED, db=self._meta)
            counted = value is not None or transaction.get(_APPLIED, db=self._meta) is None
        if counted:
            return Learned() if value is None else _decode_learned(value)
        scores = self.coins().values()
        return Learned(sum(score.trades for score in scores), 0, max((score.last_ns for score in scores), default=0))

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
        count, learned = 0, self.learned()
        last_ns = learned.last_trade_ns
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
                    last_ns = max(last_ns, trade.closed_ns)
            transaction.put(_APPLIED, _encode(applied), db=self._meta)
            transaction.put(_LEARNED, _encode(Learned(learned.trades + count, learned.updates + bool(count), last_ns)), db=self._meta)
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
        return CoinStatus(score.trades, score.wins, score.pnl * self._quantum, score.streak, word, SCALES[word],
                          score.won * self._quantum, score.last_ns)


class Reader:
    """Snapshots for the strategist. A store that is not there yet is empty; one that cannot be read is an error at that plan."""

    def __init__(self, path: Path | str, quantum: float, store: Knowledge | None = None) -> None:
        """`store`: one that this process has open already, as LMDB opens an environment once a process."""
        self._path, self._quantum = Path(path), quantum
        self._store = store

    def snapshot(self, now_ns: int) -> Snapshot:
        """What is known at an event time. Raises KnowledgeError."""
        if self._store is None and durable.begun(self._path / "data.mdb"):
            self._store = Knowledge(self._path)
        return Snapshot(self._store.coins() if self._store else {}, now_ns, self._quantum)


def adopt(source: Path | str, target: Path | str) -> None:
    """Copy another run's knowledge for an instance whose journal begins anew: the scores stay, `applied` and `learned` go. Raises KnowledgeError."""
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
        for key in (_APPLIED, _LEARNED):
            transaction.delete(key, db=copy._meta)
    copy.close()
