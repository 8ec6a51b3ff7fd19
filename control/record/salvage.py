"""What no recorder could store: records of both rings behind the journal's end, appended once every process of their run is gone.

A disk that is full at a stop, or everything killed at once, leaves such a rest. Both rings wait for the recorder, so all of it is still there.
"""

from __future__ import annotations

import time
from pathlib import Path

from control.record.records import ring_rows
from control.record.writer import JournalWriter
from ipc import board, messages
from ipc.segment import Memory


def salvage(memory: Memory, journal: Path, sync: bool) -> int:
    """Append what the rings hold and the journal does not; how many records. Nobody else may use either.

    0 too where the journal is not the one that this memory was recorded into. Raises JournalError.
    """
    if not board.owed(memory) or not (journal / "data.mdb").is_file():
        return 0
    writer = JournalWriter(journal, sync)
    try:
        stored, start = writer.stored, writer.run_starts().get(writer.stored.incarnation)
        if start is None or stored.incarnation != int(memory.board.cursors[0]["incarnation"]):
            return 0
        if start.data.get("instance_number") != int(memory.board.run[0]["instance_number"]):
            return 0
        writer.go_on(str(start.data["run_id"]), stored.incarnation)
        orders = ring_rows(memory.orders, stored.orders, int(memory.orders.ring[0]["head"]))
        reports = ring_rows(memory.reports, stored.reports, int(memory.reports.ring[0]["head"]))
        count = len(orders) + len(reports)
        if count:
            text = f"{count} records that the recorder could not store are stored now"
            writer.append(orders, reports, events=[messages.Event(source="watchdog", kind="salvage", text=text, wall_ns=time.time_ns(),
                                                                  data={"orders": len(orders), "reports": len(reports)})])
        return count
    finally:
        writer.close()
