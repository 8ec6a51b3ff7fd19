"""The reflection process: follows closed trades in the journal and applies the quick update of each, exactly once.

It reads behind `applied`, its own durable cursor (incarnation, sequence), which changes in the transaction of the scores. What it has
gone through of this incarnation it tells in `cursors.learned_orders`: a lockstep plan waits until that has reached what is durable.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from control.learn.knowledge import Applied, Knowledge, KnowledgeError
from control.learn.quick_update import SCALES, ClosedTrade, status
from control.record.journal import Journal
from control.record.records import JournalError
from hotpath.activities import Activities
from hotpath.breaker import Breaker
from hotpath.errors import ErrorManager, Kind
from hotpath.kernel import barriers
from ipc import board, bus, messages
from ipc import layout as l
from ipc.process import REPEATABLE, Child

#: trades in one transaction
_BATCH = 256
#: longest sleep on the doorbell; pauses after a failed write
_SLEEP_NS = 50_000_000
#: what the last trades of a run get to come to the journal
_LAST_TRADES_NS = 1_000_000_000
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.25, 5.0
#: writing that fails for so long is safe mode: entries are sized and closed by what is known of a coin
_SAFE_AFTER_S = 5.0
#: how long a replay, which can be run again, waits for a disk that refuses; exit code of a fault that a restart does not mend
_GIVE_UP_S, EXIT_CONFIG = 10.0, 78


class Reflection:
    """One life of the process: its store, the journal that it follows, and what it has examined."""

    def __init__(self, child: Child, journal: Journal | None = None) -> None:
        """`journal`: one that this process has open already, as LMDB opens an environment once a process."""
        boot = child.boot
        self._child, self._memory = child, child.memory
        self.store = self._open()
        self._journal_path = Path(boot.state_dir) / "journal"
        self._journal = journal
        self._symbols: dict[int, dict[int, str]] = {}
        self.examined = -1
        self.applied = self.store.applied()
        self._show()

    def _open(self) -> Knowledge:
        boot = self._child.boot
        return Knowledge(Path(boot.state_dir) / "knowledge", writable=True, sync=boot.mode not in REPEATABLE)

    def reopen(self) -> None:
        """LMDB's environment may be unusable after a failed write. Raises KnowledgeError; until it works nothing is applied."""
        self.store.close()
        self.store = self._open()
        self.applied = self.store.applied()

    def _incarnation(self) -> int:
        return barriers.word(self._memory.board.cursors, 0, l.offset(l.CURSORS, "incarnation"))

    def step(self) -> int:
        """Apply what has become durable since; gives the trades applied. Raises KnowledgeError, JournalError; then nothing has moved."""
        durable = barriers.word(self._memory.board.cursors, 0, barriers.DURABLE_ORDERS)  # before reading: all of it is in the journal
        if durable == self.examined:
            return 0
        if self._journal is None:
            if not self._incarnation():
                return 0  # a recorder that is still making the journal
            self._journal = Journal(self._journal_path)
        count = 0
        records = self._journal.trades((self.applied.incarnation, self.applied.seq))
        while batch := list(itertools.islice(self._closed(records), _BATCH)):
            began = time.perf_counter_ns()
            changed = self.store.apply(batch)
            count += changed
            self.applied = batch[-1][0]
            self._child.set_metric("last_update_us", (time.perf_counter_ns() - began) // 1000)
            self._show()
            row = self._child.processes[l.REFLECTION]  # trades of months may be learned at once
            self._child.beat(int(row["progress"]) + changed, int(row["last_event_ns"]))
        self.examined = durable
        barriers.set_learned(self._memory.board.cursors, self._memory.board.processes, durable)
        return count

    def _show(self) -> None:
        """The figures that the store keeps, for status: they do not begin anew with a process or a run."""
        learned, scores = self.store.learned(), self.store.coins().values()
        now_ns = max(learned.last_trade_ns, int(self._child.processes[l.STRATEGIST]["last_event_ns"]))
        for name, value in (("trades_applied", learned.trades), ("updates", learned.updates), ("last_trade_ns", learned.last_trade_ns),
                            ("coins", len(scores)), ("coins_adapted", sum(SCALES[status(score, now_ns)] != 1 for score in scores))):
            self._child.set_metric(name, value)

    def _closed(self, records: Iterator[Any]) -> Iterator[tuple[Applied, ClosedTrade | None]]:
        for record in records:
            row, position = record.row, Applied(record.incarnation, record.seq)
            symbol = self._symbol(record.incarnation, int(row["instrument"]))
            if symbol is None:
                self._child.log.warning("trade %d/%d: instrument %d is unknown; passed over", *_pair(position), int(row["instrument"]))
                yield position, None
            else:
                yield position, ClosedTrade(symbol=symbol, pnl=int(row["pnl"]), fees=int(row["fees"]), closed_ns=record.event_ns)

    def _symbol(self, incarnation: int, instrument: int) -> str | None:
        """Ids belong to an incarnation: this one's are in shared memory, older ones in the journal's run_start."""
        if incarnation == self._incarnation():
            known = self._memory.instruments.instruments
            return known[instrument]["symbol"].decode() or None if instrument < len(known) else None
        if incarnation not in self._symbols:
            assert self._journal is not None
            self._symbols = {number: {fact.id: fact.symbol for fact in facts.values()}
                             for number, facts in self._journal.instruments().items()}
            self._symbols.setdefault(incarnation, {})
        return self._symbols[incarnation].get(instrument)

    def handle(self, request: messages.ChildRequest) -> messages.Reply:
        """Ping, and Query "knowledge": the scores by symbol."""
        match request:
            case messages.Ping():
                return messages.Pong(role="reflection", pid=int(self._child.processes[l.REFLECTION]["pid"]))
            case messages.Query(what="knowledge"):
                try:
                    return self._answer(request)
                except lmdb.Error as error:
                    return messages.Unavailable(role="reflection", text=f"the knowledge cannot be read: {error}; see reflection.log")
            case _:
                return messages.Refused(code="unknown_query", text="reflection answers knowledge", remedy='ask with what = "knowledge"')

    def _answer(self, request: messages.Query) -> messages.Answer:
        now_ns = int(self._child.processes[l.STRATEGIST]["last_event_ns"])
        rows: list[dict[str, Any]] = []
        for symbol, score in sorted(self.store.coins().items()):
            if request.argument in ("", symbol):
                word = status(score, now_ns)
                rows.append({"symbol": symbol, "trades": score.trades, "wins": score.wins, "pnl_quanta": score.pnl,
                             "fees_quanta": score.fees, "streak": score.streak, "status": word, "size_scale": SCALES[word]})
        return messages.Answer(data={"applied": list(_pair(self.applied))}, rows=rows[: request.limit])

    def close(self) -> None:
        """Close both environments."""
        self.store.close()
        if self._journal is not None:
            self._journal.close()


def _pair(position: Applied) -> tuple[int, int]:
    return position.incarnation, position.seq


class Learning:
    """Steps of a reflection with pauses after failures. What fails for long is safe mode, which ends with the first step that works."""

    def __init__(self, child: Child, reflection: Reflection) -> None:
        self._child, self._reflection, self._modes = child, reflection, child.memory.board.modes
        self.activities = Activities(child)
        self.errors = self.activities.adopt(ErrorManager("knowledge", Breaker(1, int(_FIRST_RETRY_S * 1e9), int(_LONGEST_RETRY_S * 1e9))))
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
            board.set_mode(self._modes, l.MODE_OF_REFLECTION, l.MODE_SAFE, "knowledge cannot be written")
        self.hopeless = self._child.boot.mode == "replay" and failing_s > _GIVE_UP_S


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
    server = bus.Server(child.boot.socket_dir, "reflection", messages.decode_child_request)
    child.log.info("knowledge up to trade %d/%d", *_pair(reflection.applied))
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
        try:
            reflection.step()
        except (KnowledgeError, JournalError) as error:
            child.log.error("%s", error)
    server.close()
    learning.activities.close()
    reflection.close()
    return 0
