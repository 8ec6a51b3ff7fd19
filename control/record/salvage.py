"""What no recorder could store: records of both rings behind the journal's end, appended once every process of their run is gone.

A disk that is full at a stop, or everything killed at once, leaves such a rest. Both rings wait for the recorder, so all of it is still there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lmdb
import msgspec

from control.record.journal import LASTING
from control.record.records import JournalError, ring_rows
from control.record.writer import JournalWriter
from ipc import board, messages
from ipc.segment import Memory


def salvage(memory: Memory, journal: Path, sync: bool, events: Sequence[messages.Event] = ()) -> int:
    """Append what the rings hold and the journal does not, and `events`; how many ring records. Nobody else may use either. Events alone are worth it
    where one of them has to outlive the run: a person's pause that no recorder has heard of.

    Raises JournalError, also where the journal is not the one that this memory was recorded into.
    """
    if not board.owed(memory) and not any(event.kind in LASTING for event in events):
        return 0
    try:
        return _append(memory, journal, sync, events)
    except (lmdb.Error, msgspec.MsgspecError, OSError) as error:
        raise JournalError(f"{journal}: {error}") from error


def _append(memory: Memory, journal: Path, sync: bool, events: Sequence[messages.Event]) -> int:
    if not (journal / "data.mdb").is_file():
        raise JournalError(f"{journal}: there is no journal any more")
    writer = JournalWriter(journal, sync)
    try:
        stored, start = writer.stored, writer.run_starts().get(writer.stored.incarnation)
        incarnation, number = int(memory.board.cursors[0]["incarnation"]), int(memory.board.run[0]["instance_number"])
        if start is None or stored.incarnation != incarnation or start.data.get("instance_number") != number:
            raise JournalError(f"{journal}: is not the journal of that run ({number}/{incarnation}) any more")
        writer.go_on(str(start.data["run_id"]), stored.incarnation)
        orders = ring_rows(memory.orders, stored.orders, int(memory.orders.ring[0]["head"]))
        reports = ring_rows(memory.reports, stored.reports, int(memory.reports.ring[0]["head"]))
        count = len(orders) + len(reports)
        if not count:
            writer.append(events=list(events))
        else:
            text = f"{count} records that the recorder could not store are stored now"
            writer.append(orders, reports, events=[*events, messages.Event(source="watchdog", kind="salvage", text=text, wall_ns=time.time_ns(),
                                                                  data={"orders": len(orders), "reports": len(reports)})])
        return count
    finally:
        writer.close()
