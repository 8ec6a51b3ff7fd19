"""In which phase a stopped process is, by what stands in shared memory, in the ledger and in the journal's lock; see ARCHITECTURE for each phase.

| phase   | process  | true sign                                                                                                        |
|---------|----------|------------------------------------------------------------------------------------------------------------------|
| undo    | sniper   | the undo log belongs to the committed number and holds lines: a step is being written                            |
| commit  | sniper   | … and the line that is not selected is newer than the selected one; or the step is committed, and its reader's   |
|         |          | cursors have not followed                                                                                        |
| copy    | sniper   | the committed outbox is not (all) in the order ring                                                              |
| send    | gateway  | an order's row says SENDING, and the ledger has nothing that is not published                                    |
| report  | gateway  | the ledger, or the report ring, has a venue event beyond the published one                                       |
| journal | recorder | it holds LMDB's writer lock, or LMDB is ahead of the cursors in shared memory                                    |
| idle    | all      | none of these                                                                                                    |
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from ipc import layout as l

UNDO, COMMIT, COPY, SEND, REPORT, JOURNAL, IDLE = PHASES = ("undo", "commit", "copy", "send", "report", "journal", "idle")
#: which process can be hit in which phase
ROLE_OF: Final = {UNDO: "sniper", COMMIT: "sniper", COPY: "sniper", SEND: "gateway", REPORT: "gateway", JOURNAL: "recorder"}
#: named points of ipc/crash.py at which a process is in a phase
POINTS_OF: Final = {
    UNDO: ("sniper.undo",), COMMIT: ("sniper.commit", "sniper.committed"), COPY: ("sniper.copy",), SEND: ("gateway.sending", "gateway.send"),
    REPORT: ("gateway.sent", "gateway.report"), JOURNAL: ("recorder.lmdb_commit", "recorder.committed")}
#: what may be seen at a point: of a step that is complete memory shows only that it is under way (nothing, where it has written no row: it adopts a
#: new table); behind the last record of an outbox, that the cursors have yet to follow (nothing, where no tick or report was taken); behind a
#: commit of plans alone, nothing, as no ring's cursor moves; behind a report of the gateway's own, of which the venue knows nothing, only what the
#: row says of the order, which may never have been sent
SEEN_AT: Final = {"sniper.commit": (UNDO, COMMIT, IDLE), "sniper.committed": (COMMIT, COPY), "sniper.copy": (COPY, COMMIT, IDLE),
                  "gateway.report": (REPORT, SEND, IDLE), "recorder.committed": (JOURNAL, IDLE)}
#: states of an order that has not come to its end
_LIVE: Final = (l.ORD_SENDING, l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED, l.ORD_UNKNOWN)
#: LMDB's lock file: the writer's mutex is in its second cache line, and glibc's mutex has its owner's thread in the third word
_WRITER_AT: Final = 64
_OWNER_WORD: Final = 2


class Sight:
    """Looks at one instance's shared memory and files."""

    def __init__(self, memory: Any, state_dir: Path) -> None:
        self.memory, self._state_dir = memory, state_dir
        self._ledger: Any = None
        self._journal: Any = None

    def close(self) -> None:
        """Let go of the environments."""
        for environment in (self._ledger, self._journal):
            if environment is not None:
                environment.close()
        self._ledger = self._journal = None

    def phase(self, role: str, threads: list[int]) -> str:
        """The phase of a role whose process (`threads`: its thread ids) is stopped."""
        match role:
            case "sniper":
                return self._sniper()
            case "gateway":
                return self._gateway()
            case "recorder":
                return self._recorder(threads)
        return IDLE

    def news(self) -> bool:
        """A report waits for the sniper."""
        return int(self.memory.reports.ring[0]["head"]) > int(self.memory.reports.readers[l.SNIPER]["cursor"])

    def in_flight(self) -> int:
        """Orders that have no terminal report yet: at the gateway, or decided and not yet there."""
        rows = self.memory.gateway.gateway_orders
        live = sum(int((rows["state"] == state).sum()) for state in _LIVE)
        return max(live, int((self.memory.sniper.working["order_seq"] != 0).sum()))

    def _sniper(self) -> str:
        sniper = self.memory.sniper
        number = int(sniper.commit[0]["number"])
        line, other = sniper.commit_lines[number & 1], sniper.commit_lines[(number + 1) & 1]
        if int(sniper.undo[0]["number"]) == number:
            newer = number > 0 and (int(other["tick_seq"]), int(other["report_seq"]), int(other["intent_seq"])) > (
                int(line["tick_seq"]), int(line["report_seq"]), int(line["intent_seq"]))
            return COMMIT if newer else UNDO if int(sniper.undo[0]["count"]) else IDLE
        if int(line["intent_seq"]) > int(self.memory.orders.ring[0]["head"]):
            return COPY
        behind = (int(line["tick_seq"]) > int(self.memory.ticks.readers[l.SNIPER]["cursor"])
                  or int(line["report_seq"]) > int(self.memory.reports.readers[l.SNIPER]["cursor"]))
        return COMMIT if behind else IDLE

    def _gateway(self) -> str:
        published = int(self.memory.gateway.gateway[0]["venue_seq"])
        reports = self.memory.reports
        newest = reports.slots[int(reports.ring[0]["head"]) & (len(reports.slots) - 1)]
        committed = self._stored("_ledger", "paper", b"meta", b"ledger", msgspec.msgpack.decode, "venue_seq")
        if max(committed, int(newest["venue_seq"])) > published:
            return REPORT
        return SEND if (self.memory.gateway.gateway_orders["state"] == l.ORD_SENDING).any() else IDLE

    def _recorder(self, threads: list[int]) -> str:
        try:
            head = (self._state_dir / "journal" / "lock.mdb").read_bytes()[: 2 * _WRITER_AT]
        except OSError:
            return IDLE
        if struct.unpack_from("<3i", head, _WRITER_AT)[_OWNER_WORD] in threads:
            return JOURNAL
        stored = self._stored("_journal", "journal", b"meta", b"cursors", msgspec.json.decode, "orders", "reports")
        cursors = self.memory.board.cursors[0]
        return JOURNAL if stored > int(cursors["durable_orders"]) + int(cursors["durable_reports"]) else IDLE

    def _stored(self, attribute: str, folder: str, database: bytes, key: bytes, decode: Any, *fields: str) -> int:
        """Sum of fields of a document in LMDB as last committed; 0 where there is none yet."""
        for _ in range(2):
            environment = getattr(self, attribute)
            try:
                if environment is None:
                    environment = lmdb.open(str(self._state_dir / folder), max_dbs=8, readonly=True, create=False, lock=False)
                    setattr(self, attribute, environment)
                with environment.begin() as transaction:
                    value = transaction.get(key, db=environment.open_db(database, transaction, create=False))
                    return 0 if value is None else sum(int(decode(value).get(name, 0)) for name in fields)
            except lmdb.MapResizedError:
                environment.set_mapsize(0)
            except lmdb.Error:
                return 0
        return 0
