"""Publish a batch of ticks: pacing, gating, doorbells, heartbeat and stop word in one call without the GIL.

A tick's mark (where the source stands behind it) goes to feed line `seq & 1` before the tick itself: whatever instruction the feed dies
at, the line of the ring's head is whole. Behind the tick the quote table and the interval of its instrument are brought up; a successor
does the head's once more, which changes nothing if it was done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ipc import heartbeat, ring, wait
from ipc import layout as l
from ipc.atomics import fence_release, monotonic_ns, store_relaxed, store_release
from ipc.jit import kernel
from ipc.segment import Memory

#: ticks between heartbeats, bells and looks at stop word and deadline, at full speed
_BATCH = 32
#: readers of ticks
_READERS = 1 << l.SNIPER | 1 << l.GATEWAY | 1 << l.STRATEGIST
#: a step of event time above this is a jump between sessions: nobody waits for it
_JUMP_NS = 5_000_000_000
#: a paced feed that is this late (suspended, or held back by a reader) goes on from here and does not catch up in a burst
_LATE_NS = 250_000_000
#: ticks of an accelerated market that are due within this are published together: a wake-up of four processes costs more
_TOGETHER_NS = 1_000_000
#: words of `pace`: monotonic and event time that belong together (0: none yet), event time of the last tick
_BASE_MONOTONIC, _BASE_EVENT, _PREVIOUS = range(3)
_Q_VERSION = l.offset(l.QUOTE, "version")
_I_VERSION = l.offset(l.INTERVAL, "version")
_L_SEQ = l.offset(l.FEED_LINE, "seq")


class Feed(NamedTuple):
    """Arrays by name; see ipc/layout.py for each dtype. `pace` is private to the process."""

    ring: Any
    readers: Any
    slots: Any
    quotes: Any
    intervals: Any
    lines: Any
    processes: Any
    pace: Any  # int64[8]


def feed_arrays(memory: Memory) -> Feed:
    """The kernel's arrays over an instance's shared memory."""
    t = memory.ticks
    return Feed(t.ring, t.readers, t.slots, t.quotes, t.intervals, t.feed_lines, memory.board.processes, np.zeros(8, np.int64))


@kernel
def write_line(lines: Any, seq: int, event_ns: int, position: int, records: int) -> None:
    """Where the source stands behind tick `seq`, stored whole before its sequence."""
    line = lines[seq & 1]
    store_relaxed(lines, seq & 1, _L_SEQ, l.BUSY)
    fence_release()
    line.event_ns = event_ns
    line.position = position
    line.records = records
    store_release(lines, seq & 1, _L_SEQ, seq)


@kernel
def update_tables(f: Feed, tick: Any, taken: int) -> None:
    """The tick into its instrument's quote and into the interval that the sniper has not taken (its cursor: `taken`)."""
    if tick.kind > l.TICK_QUOTE:
        return
    at = tick.instrument
    quote = f.quotes[at]
    version = quote.version + 1 + (quote.version & 1)  # odd already: its writer died here
    store_relaxed(f.quotes, at, _Q_VERSION, version)
    fence_release()
    quote.event_ns = tick.event_ns
    if tick.kind == l.TICK_QUOTE:
        quote.bid = tick.price
        quote.bid_lots = tick.lots
        quote.ask = tick.ask_price
        quote.ask_lots = tick.ask_lots
    elif tick.flags & l.FLAG_NOT_MARKET == 0:
        quote.last = tick.price
        quote.last_lots = tick.lots
    store_release(f.quotes, at, _Q_VERSION, version + 1)
    if tick.flags & l.FLAG_NOT_MARKET:
        return
    low = tick.price
    high = tick.ask_price if tick.kind == l.TICK_QUOTE else tick.price
    interval = f.intervals[at]
    fresh = interval.last_seq <= taken or interval.low == 0
    version = interval.version + 1 + (interval.version & 1)  # odd already: its writer died here
    store_relaxed(f.intervals, at, _I_VERSION, version)
    fence_release()
    if fresh:
        interval.first_seq = tick.seq
        interval.high = high
        interval.low = low
    else:
        interval.high = max(interval.high, high)
        interval.low = min(interval.low, low)
    interval.last_seq = tick.seq
    store_release(f.intervals, at, _I_VERSION, version + 1)


@kernel
def _ahead_ns(f: Feed, event_ns: int, speed: float, now_ns: int) -> int:
    """Wall time until a tick is due; ≤ 0: now. Sets a new base at the start, across a jump, and when much too late."""
    pace = f.pace
    if pace[_BASE_EVENT] == 0 or event_ns - pace[_PREVIOUS] > _JUMP_NS:
        pace[_BASE_EVENT] = event_ns
        pace[_BASE_MONOTONIC] = now_ns
        pace[_PREVIOUS] = event_ns
        return 0
    ahead = pace[_BASE_MONOTONIC] + int((event_ns - pace[_BASE_EVENT]) / speed) - now_ns
    if ahead < -_LATE_NS:
        pace[_BASE_EVENT] = event_ns
        pace[_BASE_MONOTONIC] = now_ns
    return ahead


@kernel
def publish_batch(f: Feed, ticks: Any, marks: Any, first: int, count: int, speed: float, deadline_ns: int) -> int:
    """Publish rows [first, count), each when it is due (speed: event seconds a second; 0 = at once) and there is room for it.

    Gives the next row: `count` when all are out, less at the stop word or the deadline (monotonic). Rings the readers' bells before
    it waits.
    """
    row = first
    room = 0
    unrung = 0
    taken = ring.cursor(f.readers, l.SNIPER)
    together = _TOGETHER_NS if speed > 1.0 else 0
    heartbeat.beat(f.processes, l.FEED, f.ring[0].head, f.pace[_PREVIOUS])
    while row < count:
        tick = ticks[row]
        wait_ns = 0
        if speed > 0.0:
            wait_ns = _ahead_ns(f, tick.event_ns, speed, monotonic_ns()) - together
        if room <= 0 and f.ring[0].gated != 0:
            room = ring.free_slots(f.ring, f.readers)
            taken = ring.cursor(f.readers, l.SNIPER)
        full = room <= 0 and f.ring[0].gated != 0
        if unrung >= _BATCH or ((wait_ns > 0 or full) and unrung > 0):
            wait.ring_bells(f.processes, _READERS)
            unrung = 0
            taken = ring.cursor(f.readers, l.SNIPER)
            heartbeat.beat(f.processes, l.FEED, f.ring[0].head, f.pace[_PREVIOUS])
            if heartbeat.stop_word(f.processes, l.FEED) != l.STOP_NONE or monotonic_ns() >= deadline_ns:
                break
        if wait_ns > 0 or full:
            left = deadline_ns - monotonic_ns()
            heartbeat.beat(f.processes, l.FEED, f.ring[0].head, f.pace[_PREVIOUS])
            if left <= 0 or heartbeat.stop_word(f.processes, l.FEED) != l.STOP_NONE:
                break
            if wait_ns > 0:
                wait.nap(f.processes, l.FEED, min(wait_ns + together, left))
            else:
                wait.prepare_sleep(f.processes, l.FEED)
                if ring.free_slots(f.ring, f.readers) <= 0:
                    wait.sleep(f.processes, l.FEED, left)
                else:
                    wait.stay_awake(f.processes, l.FEED)
            continue
        write_line(f.lines, f.ring[0].head + 1, tick.event_ns, marks[row, 0], marks[row, 1])
        tick.publish_ns = monotonic_ns()
        ring.publish(f.ring, f.slots, ticks, row)
        update_tables(f, tick, taken)
        f.pace[_PREVIOUS] = tick.event_ns
        room -= 1
        unrung += 1
        row += 1
    if unrung > 0:
        wait.ring_bells(f.processes, _READERS)
    heartbeat.beat(f.processes, l.FEED, f.ring[0].head, f.pace[_PREVIOUS])
    return row


@kernel
def finish(f: Feed, ticks: Any) -> bool:
    """A successor's first act: the tick in whose publication its predecessor died, which readers may have taken; `ticks[0]` is overwritten."""
    return ring.finish_publish(f.ring, f.slots, ticks, 0)


@kernel
def take_over(f: Feed, ticks: Any, row: int) -> None:
    """A successor's next act: the tables behind the head tick (`ticks[row]`, its sequence set), if its predecessor died in between."""
    update_tables(f, ticks[row], ring.cursor(f.readers, l.SNIPER))
    f.pace[_PREVIOUS] = ticks[row].event_ns
