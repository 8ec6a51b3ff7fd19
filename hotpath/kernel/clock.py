"""Weave CLOCK and SESSION ticks between the records of a recording.

A CLOCK stands at every 100 ms of event time (1 s where all records come from candles), before the first record at or behind it. Where records
are further apart than a session gap, one SESSION tick follows the last one by that gap, then CLOCKs for 2 s, so that what it closes is filled; then
time jumps to the next record.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ipc import layout as l
from ipc.jit import kernel

#: event time between CLOCK ticks
CLOCK_NS = 100_000_000
#: event time of CLOCK ticks behind a SESSION tick
AFTER_SESSION_NS = 2_000_000_000
#: words of a weave's state: last record's time (0: none yet), next CLOCK, phase, records taken, event time between two CLOCKs
LAST, NEXT, PHASE, TAKEN, EVERY = range(5)
#: phases: between records; CLOCKs behind a SESSION tick; jumped to the next record
_FLOWING, _CLOSING, _JUMPED = range(3)
#: columns of a record, see hotpath/venues/record.py
_EVENT, _INSTRUMENT, _KIND, _FLAGS, _OFFSET, _PRICE, _LOTS, _ASK, _ASK_LOTS = 0, 2, 3, 4, 5, 6, 7, 8, 9


def new_state(every_ns: int = CLOCK_NS) -> np.ndarray[Any, Any]:
    """State of a weave that has made nothing yet."""
    state = np.zeros(8, np.int64)
    state[EVERY] = every_ns
    return state


@kernel
def next_clock(event_ns: int, every_ns: int) -> int:
    """First multiple of `every_ns` at or behind a time."""
    return -(-event_ns // every_ns) * every_ns


@kernel
def put(ticks: Any, row: int, event_ns: int, kind: int, flags: int) -> None:
    """A tick that belongs to no instrument."""
    tick = ticks[row]
    tick.seq = 0
    tick.event_ns = event_ns
    tick.publish_ns = 0
    tick.instrument = l.NO_INSTRUMENT
    tick.kind = kind
    tick.flags = flags
    tick.exchange_offset_us = 0
    tick.price = 0
    tick.lots = 0
    tick.ask_price = 0
    tick.ask_lots = 0


@kernel
def _put_record(ticks: Any, row: int, record: Any) -> None:
    tick = ticks[row]
    tick.seq = 0
    tick.event_ns = record[_EVENT]
    tick.publish_ns = 0
    tick.instrument = record[_INSTRUMENT]
    tick.kind = record[_KIND]
    tick.flags = record[_FLAGS]
    tick.exchange_offset_us = record[_OFFSET]
    tick.price = record[_PRICE]
    tick.lots = record[_LOTS]
    tick.ask_price = record[_ASK]
    tick.ask_lots = record[_ASK_LOTS]


@kernel
def weave(records: Any, first: int, count: int, state: Any, gap_ns: int, ticks: Any, marks: Any) -> tuple[int, int]:
    """Records [first, count) into `ticks` until either ends: (next record, ticks made). `marks[row]` = records taken, twice."""
    row = 0
    at = first
    while at < count:
        event_ns = records[at, _EVENT]
        while True:
            if row == ticks.shape[0]:
                return at, row
            if state[LAST] == 0 and state[PHASE] == _FLOWING:
                state[PHASE] = _JUMPED
                state[NEXT] = next_clock(event_ns, state[EVERY])
            if state[PHASE] == _FLOWING and event_ns - state[LAST] > gap_ns:
                state[PHASE] = _CLOSING
                state[NEXT] = next_clock(state[LAST] + gap_ns, state[EVERY])
                put(ticks, row, state[LAST] + gap_ns, l.TICK_SESSION, 0)
            elif state[PHASE] == _CLOSING and state[NEXT] > state[LAST] + gap_ns + AFTER_SESSION_NS:
                state[PHASE] = _JUMPED
                state[NEXT] = next_clock(event_ns, state[EVERY])
                continue
            elif state[NEXT] <= event_ns:
                put(ticks, row, state[NEXT], l.TICK_CLOCK, 0)
                state[NEXT] += state[EVERY]
            else:
                _put_record(ticks, row, records[at])
                state[LAST] = event_ns
                state[PHASE] = _FLOWING
                state[TAKEN] += 1
                marks[row, 0] = marks[row, 1] = state[TAKEN]
                row += 1
                break
            marks[row, 0] = marks[row, 1] = state[TAKEN]
            row += 1
        at += 1
    return at, row


@kernel
def weave_end(state: Any, gap_ns: int, ticks: Any, marks: Any) -> int:
    """The end of the data, to close positions on: SESSION with FLAG_END and the CLOCKs behind it; gives the ticks made (≤ 22)."""
    if state[LAST] == 0:
        return 0
    end_ns = state[LAST] + gap_ns
    put(ticks, 0, end_ns, l.TICK_SESSION, l.FLAG_END)
    row = 1
    clock_ns = next_clock(end_ns, state[EVERY])
    while clock_ns <= end_ns + AFTER_SESSION_NS:
        put(ticks, row, clock_ns, l.TICK_CLOCK, 0)
        clock_ns += state[EVERY]
        row += 1
    for made in range(row):
        marks[made, 0] = marks[made, 1] = state[TAKEN]
    return row
