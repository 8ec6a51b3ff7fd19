"""The knowledge store: one LMDB environment, `state_dir/knowledge`, written by reflection alone and read by whoever plans.

| database    | key                        | value (JSON)                                                                            |
|-------------|----------------------------|-----------------------------------------------------------------------------------------|
| scores      | family NUL value           | Score: what trades of this kind have made                                               |
| trades      | era u16, position id u64   | Trade: a closed trade with its context; an era is the journal that they come of         |
| opening     | position id u64            | Trade: one that is open, as far as it is known                                          |
| open        | position id u64            | Open: what it speaks to                                                                 |
| claims      | family NUL value NUL direction | Piece: evidence                                                                     |
| adaptations | number u64                 | Stood: an adaptation, standing or over                                                  |
| steps       | number u64                 | StepRecord: each step that an adaptation took, with the knowledge's version then        |
| remembered  | strategy NUL closed_ns u64, position id u64 | Seen: one of a strategy's trades that candidates are found in          |
| meta        | b"applied"                 | Applied: the last order-ring record (incarnation, sequence, time) that is in all of this |
| meta        | b"state", b"learned"       | State of the learner; Learned: how many trades, in how many updates, when               |
| meta        | b"told", b"era", b"schema" | steps that the journal has as events; eras so far; schema of the store                  |

Everything that a record changes is stored in one transaction with `applied`, so each trade counts exactly once, whenever the writer dies. Paper runs
sync each commit (hotpath/durable.py); what a loss of power may cost was not committed, and is applied again from the journal.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import lmdb
import msgspec
from msgspec import Struct

from control.learn.candidates import Seen
from control.learn.follower import Changes, ScoreKey
from control.learn.gate import STANDING, Adaptation, Step
from control.learn.kinds import FAMILIES, Claim, Family, subject_of
from control.learn.learner import Changes as LearnerChanges
from control.learn.learner import Learner, Open, Piece, State
from control.learn.quick_update import Score
from control.learn.trade import Trade
from hotpath import durable

#: bytes of a new store's map; it doubles when it is full
FIRST_MAP_BYTES: Final = 16 << 20
SCHEMA: Final = 4
#: trades that figures and explanations are made of
MOST_TRADES: Final = 20_000
#: of which a few newest are looked for
_LOOKED_THROUGH: Final = 1000
DATABASES: Final = ("scores", "trades", "opening", "open", "claims", "adaptations", "steps", "remembered", "meta")
_APPLIED, _LEARNED, _STATE, _TOLD, _ERA, _SCHEMA = b"applied", b"learned", b"state", b"told", b"era", b"schema"
_TRADE_KEY: Final = struct.Struct(">HQ")
_NUMBER, _SEEN_KEY = struct.Struct(">Q"), struct.Struct(">QQ")
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


class KnowledgeError(Exception):
    """The store cannot be opened, read or written; the text names the path and the remedy.

    KnowledgeError
    └── OtherJournal    it has learned what the journal beside it does not hold: one of the two was restored without the other
    """


class OtherJournal(KnowledgeError):
    """It has learned what the journal beside it does not hold."""


class Applied(Struct, frozen=True, order=True):
    """Position of an order-ring record in the journal, and its event time, which tells it from one in the same place of another journal (0: that is
    not known, as it was stored by an earlier version)."""

    incarnation: int = 0
    seq: int = 0
    event_ns: int = 0


class Learned(Struct, frozen=True):
    """What has been learned so far: trades, the transactions that took them in, event time at which the last of them closed."""

    trades: int = 0
    updates: int = 0
    last_trade_ns: int = 0


class Known(NamedTuple):
    """What a plan is made with: every score, what is active, and the version."""

    scores: dict[ScoreKey, Score]
    active: list[Adaptation]
    version: int


class Stood(Struct, kw_only=True):
    """An adaptation, and the birth of what it counts since its stage began (0: it is over)."""

    adaptation: Adaptation
    birth: int


class StepRecord(Struct, kw_only=True):
    """A step of an adaptation, as the journal's event tells it."""

    number: int
    version: int
    at_ns: int
    adaptation: int
    family: str
    value: str
    direction: str
    action: str
    stage: str
    scale: float
    trades: int
    mean_bps: float
    log_e: float
    needed: float
    why: str

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.action} {subject_of(self.family, self.value)}: {self.stage.replace('_', ' ')}: {self.why}"


_DECODERS: dict[Any, Any] = {kind: msgspec.json.Decoder(kind).decode
                             for kind in (Score, Trade, Seen, Open, Piece, Stood, StepRecord, Applied, Learned, State, int)}


class Knowledge:
    """The store, opened once a process. Raises KnowledgeError."""

    def __init__(self, path: Path | str, writable: bool = False, sync: bool = True) -> None:
        self.path = Path(path)
        self._known: tuple[Any, Known] | None = None
        try:
            if writable:
                self.env = durable.open_environment(self.path, sync=sync, mode=0o600, map_size=FIRST_MAP_BYTES, max_dbs=len(DATABASES))
                with self.env.begin(write=True) as transaction:
                    self._db = {name: self.env.open_db(name.encode(), transaction) for name in DATABASES}
                    self._begin_store(transaction)
            else:
                self.env = lmdb.open(str(self.path), map_size=0, max_dbs=len(DATABASES), readonly=True, create=False)
                self._db = {name: self.env.open_db(name.encode(), create=False) for name in DATABASES}
        except (lmdb.Error, OSError) as error:
            raise KnowledgeError(f"{self.path}: {error}; is it a knowledge store that this user may use?") from error
        if writable:
            self.env.reader_check()
        elif (schema := self._meta(_SCHEMA, int)) != SCHEMA:
            self.env.close()
            raise KnowledgeError(f"{self.path}: has schema {schema or 1}, this program reads {SCHEMA}; start the instance once, which learns anew")

    def _begin_store(self, transaction: Any) -> None:
        """A store of an older schema holds counts that evidence cannot be made of: what the journal still has is learned anew."""
        value = transaction.get(_SCHEMA, db=self._db["meta"])
        schema = None if value is None else _DECODERS[int](value)
        if schema is not None and schema > SCHEMA:
            raise KnowledgeError(f"{self.path}: schema {schema} is of a later version of this program, which knows {SCHEMA}; update trader")
        if schema is None or schema < SCHEMA:
            for database in self._db.values():
                transaction.drop(database, delete=False)
            transaction.put(_SCHEMA, _encode(SCHEMA), db=self._db["meta"])

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def _begin(self) -> Any:
        try:
            return self.env.begin()
        except lmdb.MapResizedError:  # the writer has grown the map
            self.env.set_mapsize(0)
            return self.env.begin()

    def _get(self, database: str, key: bytes, kind: type[T]) -> T | None:
        try:
            with self._begin() as transaction:
                value = transaction.get(key, db=self._db[database])
        except lmdb.Error as error:
            raise KnowledgeError(f"{self.path}: {error}") from error
        return None if value is None else self._decoded(database, key, value, kind)

    def _meta(self, key: bytes, kind: type[T]) -> T | None:
        return self._get("meta", key, kind)

    def _all(self, database: str, kind: type[T], first: bytes = b"") -> Iterator[tuple[bytes, T]]:
        with self._begin() as transaction, transaction.cursor(self._db[database]) as cursor:
            for key, value in cursor.iternext() if cursor.set_range(first) else ():
                yield bytes(key), self._decoded(database, key, value, kind)

    def _decoded(self, database: str, key: bytes, value: bytes, kind: type[T]) -> T:
        try:
            found: T = _DECODERS[kind](value)
        except msgspec.DecodeError as error:
            raise KnowledgeError(f"{self.path}: {database} {bytes(key)!r} cannot be read: {error}; move the folder away, and it is learned anew "
                                 "from the journal") from None
        return found

    def applied(self) -> Applied:
        """Up to which record everything is in."""
        return self._meta(_APPLIED, Applied) or Applied()

    def learned(self) -> Learned:
        """How much has been learned of this journal."""
        return self._meta(_LEARNED, Learned) or Learned()

    def known(self) -> Known:
        """What a plan is made with, as of one instant. Decoded anew only where something has been learned since."""
        with self._begin() as transaction:
            meta = self._db["meta"]
            stamp = (transaction.get(_APPLIED, db=meta), transaction.get(_STATE, db=meta))
            if self._known is None or self._known[0] != stamp:
                state = State() if stamp[1] is None else self._decoded("meta", _STATE, stamp[1], State)
                stood = [self._decoded("adaptations", key, value, Stood) for key, value in transaction.cursor(self._db["adaptations"])]
                scores = {_score_key(key): self._decoded("scores", key, value, Score) for key, value in transaction.cursor(self._db["scores"])}
                self._known = stamp, Known(scores, [one.adaptation for one in stood if one.adaptation.stage == "active"], state.version)
            return self._known[1]

    def state(self) -> State:
        """The learner's state."""
        return self._meta(_STATE, State) or State()

    def scores(self) -> dict[ScoreKey, Score]:
        """All scores, as of one instant."""
        return {_score_key(key): score for key, score in self._all("scores", Score)}

    def count_of(self, family: Family) -> int:
        """How many kinds of a family are known."""
        prefix = _key_of(family, "")
        with self._begin() as transaction, transaction.cursor(self._db["scores"]) as cursor:
            keys = cursor.iternext(values=False) if cursor.set_range(prefix) else ()
            return sum(1 for _ in itertools.takewhile(lambda key: bytes(key).startswith(prefix), keys))

    def score(self, key: ScoreKey) -> Score | None:
        """One score."""
        return self._get("scores", _key_of(*key), Score)

    def opening(self, position_id: int) -> Trade | None:
        """A trade that is open."""
        return self._get("opening", _NUMBER.pack(position_id), Trade)

    def trade(self, position_id: int) -> Trade | None:
        """A closed trade of this journal."""
        return self._get("trades", _TRADE_KEY.pack(self._meta(_ERA, int) or 0, position_id), Trade)

    def trades(self, most: int = MOST_TRADES) -> list[Trade]:
        """Closed trades, of earlier journals too, in the order of their ends: of so many that opened last."""
        with self._begin() as transaction, transaction.cursor(self._db["trades"]) as cursor:
            newest = itertools.islice(cursor.iterprev(), most) if cursor.last() else ()
            found = [self._decoded("trades", key, value, Trade) for key, value in newest]
        return sorted(found, key=lambda trade: (trade.closed_ns, trade.position_id))

    def newest_trades(self, most: int) -> list[Trade]:
        """Of the `_LOOKED_THROUGH` that opened last, the ones that were made, by their ends, newest first."""
        found: list[Trade] = []
        with self._begin() as transaction, transaction.cursor(self._db["trades"]) as cursor:
            for value in itertools.islice(cursor.iterprev(keys=False), _LOOKED_THROUGH) if cursor.last() else ():
                trade = _DECODERS[Trade](value)
                found += [trade] if trade.made else []
                if len(found) == most:
                    break
        return sorted(found, key=lambda trade: (-trade.closed_ns, trade.position_id))

    def claims(self) -> dict[Claim, Piece]:
        """All evidence."""
        return {Claim(*key.decode().split("\0")): piece for key, piece in self._all("claims", Piece)}  # type: ignore[arg-type]

    def adaptations(self) -> dict[int, Stood]:
        """All adaptations by number."""
        return {_NUMBER.unpack(key)[0]: stood for key, stood in self._all("adaptations", Stood)}

    def steps(self, after: int = 0) -> list[StepRecord]:
        """All steps behind a number, in order."""
        return [step for _, step in self._all("steps", StepRecord, first=_NUMBER.pack(after + 1))]

    def told(self) -> int:
        """Steps that the journal has as events."""
        return self._meta(_TOLD, int) or 0

    def restore(self, learner: Learner) -> None:
        """Let a learner go on where the store is. Raises KnowledgeError where its parts contradict each other."""
        opened = {_NUMBER.unpack(key)[0]: one for key, one in self._all("open", Open)}
        standing = [(stood.adaptation, stood.birth) for stood in self.adaptations().values() if stood.adaptation.stage in STANDING]
        try:
            remembered = [(key[:-_SEEN_KEY.size - 1].decode(), one) for key, one in self._all("remembered", Seen)]
            learner.restore(self.state(), self.claims(), opened, standing, remembered)
        except ValueError as error:
            raise KnowledgeError(f"{self.path}: {error}; move the folder away, and it is learned anew from the journal") from None

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def store(self, applied: Applied, changes: Changes, learner: Learner, of_learner: LearnerChanges) -> None:
        """What the records up to `applied` have changed, in one transaction. Raises KnowledgeError when nothing could be stored."""
        self._write(lambda transaction: self._put_all(transaction, applied, changes, learner, of_learner))

    def begin_journal(self) -> None:
        """What follows is of another journal: what is open, and up to which record of the old one it was learned, goes. Raises KnowledgeError."""
        learner = Learner(dict.fromkeys(FAMILIES, 1))
        self.restore(learner)
        learner.forget_open()
        forgotten = learner.take_changes()

        def work(transaction: Any) -> None:
            meta = self._db["meta"]
            self._put_all(transaction, Applied(), Changes({}, {}, {}, []), learner, forgotten)
            transaction.delete(_APPLIED, db=meta)
            transaction.delete(_LEARNED, db=meta)
            transaction.drop(self._db["opening"], delete=False)
            era = transaction.get(_ERA, db=meta)
            transaction.put(_ERA, _encode((0 if era is None else _DECODERS[int](era)) + 1), db=meta)
            with transaction.cursor(self._db["steps"]) as steps:
                transaction.put(_TOLD, _encode(_NUMBER.unpack(steps.key())[0] if steps.last() else 0), db=meta)

        self._write(work)

    def tell(self, number: int) -> None:
        """The journal has all steps up to this number."""
        self._write(lambda transaction: transaction.put(_TOLD, _encode(number), db=self._db["meta"]))

    def _write(self, work: Any) -> None:
        while True:
            try:
                with self.env.begin(write=True) as transaction:
                    work(transaction)
                return
            except lmdb.MapFullError:
                try:
                    self.env.set_mapsize(2 * int(self.env.info()["map_size"]))
                except (lmdb.Error, OSError, OverflowError) as error:
                    raise KnowledgeError(f"{self.path}: the map cannot grow: {error}") from error
            except lmdb.Error as error:
                raise KnowledgeError(f"{self.path}: {error}; free space on that disk") from error

    def _put_all(self, transaction: Any, applied: Applied, changes: Changes, learner: Learner, of_learner: LearnerChanges) -> None:
        def put(database: str, key: bytes, value: Any) -> None:
            if value is None:
                transaction.delete(key, db=self._db[database])
            else:
                transaction.put(key, _encode(value), db=self._db[database])

        meta = self._db["meta"]
        era = transaction.get(_ERA, db=meta)
        era = 0 if era is None else _DECODERS[int](era)
        for score_key, score in changes.scores.items():
            put("scores", _key_of(*score_key), score)
        for position_id, trade in changes.opening.items():
            put("opening", _NUMBER.pack(position_id), trade)
        for position_id, trade in changes.trades.items():
            put("trades", _TRADE_KEY.pack(era, position_id), trade)
        for claim, piece in of_learner.claims.items():
            put("claims", _key_of(*claim), piece)
        for position_id, one in of_learner.opened.items():
            put("open", _NUMBER.pack(position_id), one)
        for (strategy, seen), kept in of_learner.remembered.items():
            put("remembered", strategy.encode() + b"\0" + _SEEN_KEY.pack(seen.closed_ns, seen.position_id), seen if kept else None)
        for number, adaptation in of_learner.adaptations.items():
            put("adaptations", _NUMBER.pack(number), Stood(adaptation=adaptation, birth=learner.since_birth(number)))
        with transaction.cursor(self._db["steps"]) as cursor:
            last = _NUMBER.unpack(cursor.key())[0] if cursor.last() else 0
        for number, step in enumerate(changes.steps, last + 1):
            put("steps", _NUMBER.pack(number), _recorded(number, step))
        value = transaction.get(_LEARNED, db=meta)
        learned = Learned() if value is None else _DECODERS[Learned](value)
        put("meta", _APPLIED, applied)
        put("meta", _STATE, learner.state)
        put("meta", _LEARNED, Learned(learned.trades + changes.closed, learned.updates + bool(changes.closed),
                                      max(learned.last_trade_ns, changes.last_ns)))


def _recorded(number: int, step: Step) -> StepRecord:
    one = step.adaptation
    return StepRecord(number=number, version=step.version, at_ns=one.since_ns, adaptation=one.number, family=one.family, value=one.value,
                      direction=one.direction, action=one.action, stage=one.stage, scale=one.scale, trades=one.trades, mean_bps=one.mean_bps,
                      log_e=one.log_e, needed=one.needed, why=step.why)


def _key_of(*words: str) -> bytes:
    return "\0".join(words).encode()


def _score_key(key: bytes) -> ScoreKey:
    family, _, value = key.decode().partition("\0")
    return family, value  # type: ignore[return-value]
