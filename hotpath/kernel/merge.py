"""The writer's half of the thresholds: what is added is sorted; what was added since the last merge goes into a fresh main array, what was removed
leaves it.

Runs in the sniper's main thread, without the GIL, on the half that no generation in use names; so the hot loop never waits for it.
"""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.atomics import store_release
from ipc.jit import kernel

_GENERATION = l.offset(l.TABLE, "generation")


@kernel
def in_order(added: Any, spare: Any) -> Any:
    """Added thresholds by key and level, and among equals as they stand; in one of the two arrays, which are of one length.

    A merge sort: numpy's lexsort takes twice as long, since it sorts once for each column and then gathers.
    """
    count, run = added.shape[0], 1
    while run < count:
        for first in range(0, count, 2 * run):
            middle, end = min(first + run, count), min(first + 2 * run, count)
            i, j = first, middle
            for at in range(first, end):
                if i < middle and (j >= end or added[i].key < added[j].key
                                   or (added[i].key == added[j].key and added[i].signed <= added[j].signed)):
                    spare[at] = added[i]
                    i += 1
                else:
                    spare[at] = added[j]
                    j += 1
        added, spare = spare, added
        run *= 2
    return added


@kernel
def merge(c: Any, half: int, added: Any, count: int) -> int:
    """Main thresholds of `half` without those of removed conditions, and `added[:count]` (both sorted), into the other half; gives their number."""
    keys = c.index.shape[0] // 2 - 1
    capacity = c.thresholds.shape[0] // 2
    source, target = half * capacity, (1 - half) * capacity
    index, new_index = half * (keys + 1), (1 - half) * (keys + 1)
    made, at = 0, 0
    for key in range(keys):
        c.index[new_index + key] = made
        i, end = source + c.index[index + key], source + c.index[index + key + 1]
        while i < end or (at < count and added[at].key == key):
            if i < end and (at >= count or added[at].key != key or c.thresholds[i].signed <= added[at].signed):
                signed, slot, arming = c.thresholds[i].signed, c.thresholds[i].slot, c.thresholds[i].arming
                i += 1
                if c.rows[slot].removed != 0:
                    continue
            else:
                signed, slot, arming = added[at].signed, added[at].slot, added[at].arming
                at += 1
            row = c.thresholds[target + made]
            row.signed = signed
            row.slot = slot
            row.arming = arming
            made += 1
    c.index[new_index + keys] = made
    return made


@kernel
def publish(c: Any, generation: int) -> None:
    """From here on the hot loop may take the generation, whose line and arrays are whole."""
    store_release(c.table, 0, _GENERATION, generation)
