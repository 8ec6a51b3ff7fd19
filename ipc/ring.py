"""Single-writer rings in shared memory. Vocabulary: claim, publish, poll, sequence, gap.

The writer of a *gated* ring asks `free_slots` first and never passes its slowest active reader: nothing is lost for those. A *broadcast* ring may lap
a reader, as any ring may one that is not active; that reader counts exactly what it lost.
"""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.atomics import copy_words, fence_acquire, fence_release, load_acquire, load_relaxed, store_relaxed, store_release
from ipc.jit import kernel

#: results of `poll`
EMPTY, OK, LAPPED = 0, 1, 2
_SEQ = 0
_HEAD = l.offset(l.RING, "head")
_CURSOR = l.offset(l.READER, "cursor")
_ACTIVE = l.offset(l.READER, "active")


@kernel
def head(ring: Any) -> int:
    """Last published sequence (0: none)."""
    return load_acquire(ring, 0, _HEAD)


@kernel
def cursor(readers: Any, role: int) -> int:
    """Last sequence that a reader has finished with."""
    return load_acquire(readers, role, _CURSOR)


@kernel
def slowest(ring: Any, readers: Any) -> int:
    """Cursor of the slowest active reader, or the head without any."""
    least = load_acquire(ring, 0, _HEAD)
    for role in range(l.MAX_ROLES):
        if load_relaxed(readers, role, _ACTIVE) != 0:
            least = min(least, load_acquire(readers, role, _CURSOR))
    return least


@kernel
def free_slots(ring: Any, readers: Any) -> int:
    """Slots that may be published before the slowest active reader would be lapped."""
    return ring[0].capacity - (load_relaxed(ring, 0, _HEAD) - slowest(ring, readers))


@kernel
def publish(ring: Any, slots: Any, source: Any, row: int) -> int:
    """Publish `source[row]` under the next sequence, which is written into both; gives the sequence. Does not ring bells."""
    seq = ring[0].head + 1
    at = seq & (ring[0].capacity - 1)
    store_relaxed(slots, at, _SEQ, l.BUSY)
    fence_release()
    source[row].seq = l.BUSY
    copy_words(slots, at, source, row)
    store_release(slots, at, _SEQ, seq)
    source[row].seq = seq
    store_release(ring, 0, _HEAD, seq)
    return seq


@kernel
def poll(ring: Any, slots: Any, seq: int, target: Any, row: int) -> int:
    """Copy the record with sequence `seq` to `target[row]`: OK, EMPTY (not published yet) or LAPPED (overwritten)."""
    at = seq & (ring[0].capacity - 1)
    seen = load_acquire(slots, at, _SEQ)
    if seen == seq:
        copy_words(target, row, slots, at)
        fence_acquire()
        if load_relaxed(slots, at, _SEQ) == seq:
            return OK
        fence_acquire()  # whoever looks for the oldest sequence now must see a head that is at least as new
        return LAPPED
    # BUSY or older: not there yet, unless the head proves that it was there and is gone
    if load_acquire(ring, 0, _HEAD) >= seq:
        # the slot may have been published between the two loads
        if load_acquire(slots, at, _SEQ) == seq:
            copy_words(target, row, slots, at)
            fence_acquire()
            if load_relaxed(slots, at, _SEQ) == seq:
                return OK
        return LAPPED
    return EMPTY


@kernel
def finish_publish(ring: Any, slots: Any, target: Any, row: int) -> bool:
    """A predecessor of the writer died between a slot and the head: a reader may have the record already, so it counts as published. It is then in
    `target[row]`."""
    seq = load_acquire(ring, 0, _HEAD) + 1
    if poll(ring, slots, seq, target, row) != OK:
        return False
    store_release(ring, 0, _HEAD, seq)
    return True


@kernel
def oldest(ring: Any) -> int:
    """Oldest sequence that a broadcast reader can still hope to read; the slot behind it may be in the writer's hands."""
    return max(1, load_acquire(ring, 0, _HEAD) - ring[0].capacity + 2)


@kernel
def advance(readers: Any, role: int, seq: int) -> None:
    """A reader has finished with everything up to `seq`."""
    store_release(readers, role, _CURSOR, seq)

