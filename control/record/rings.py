"""From both rings into the journal: what it does not have yet, and the cursors that say how far it is.

The rings are gated: nothing is lost meanwhile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from control.record.journal import Cursors
from control.record.records import ring_rows
from ipc import layout as l
from ipc import ring
from ipc.segment import Memory


class Taken(NamedTuple):
    """Copies of ring records, INTENT and REPORT, behind what is stored."""

    orders: np.ndarray[Any, Any]
    reports: np.ndarray[Any, Any]


def take(memory: Memory, stored: Cursors, most: int) -> Taken:
    """At most `most` records of each ring that are not stored. The report ring's head is read first, so that no report comes before its intent."""
    o, r = memory.orders, memory.reports
    report_head = int(ring.head(r.ring))
    order_head = int(ring.head(o.ring))
    orders = ring_rows(o, stored.orders, min(order_head, stored.orders + most))
    if order_head > stored.orders + most:  # the reports' intents may be among what is left
        return Taken(orders, ring_rows(r, stored.reports, stored.reports))
    return Taken(orders, ring_rows(r, stored.reports, min(report_head, stored.reports + most)))


def publish(memory: Memory, stored: Cursors) -> None:
    """Let everybody see what is stored: the rings' writers go on there."""
    cursors = memory.board.cursors[0]
    cursors["durable_orders"], cursors["durable_reports"], cursors["journal_ok"] = stored.orders, stored.reports, 1
    ring.advance(memory.orders.readers, l.RECORDER, stored.orders)
    ring.advance(memory.reports.readers, l.RECORDER, stored.reports)
