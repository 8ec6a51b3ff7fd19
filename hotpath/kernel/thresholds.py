"""The sorted thresholds of the armed conditions: which of them a move passes, found by search.

A key is (instrument, trigger, direction). Its thresholds are sorted by the order in which a moving price passes them: `signed` is the level for `up`
and minus the level for `down`, so that both rise. A threshold fires iff previous < level ≤ new (mirrored down); only the previous value is state, so
a swap or a successor migrates nothing, and a tick costs what it passes, not what is armed. Beside the main array of a generation there are the
conditions that were added since; both are searched, and passed as if they were one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ipc import layout as l
from ipc.jit import kernel

_DIRECTIONS = len(l.DIRECTIONS)
_KINDS = len(l.PRICE_KINDS)


@kernel
def key_of(instrument: int, trigger: int, direction: int) -> int:
    """A key as a number."""
    return (instrument * l.TRIGGERS + trigger) * _DIRECTIONS + direction


@kernel
def ordered(value: float) -> int:
    """An integer for each float, in the same order; −0 is as 0. Undefined for NaN."""
    bits: Any = np.float64(value + 0.0).view(np.int64)
    return bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF


@kernel
def first_beyond(s: Any, start: int, end: int, signed: int) -> int:
    """First of the thresholds [start, end) that is greater than `signed`."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if s.thresholds[middle].signed > signed:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def first_added(s: Any, start: int, end: int, key: int, signed: int) -> int:
    """First of the added ones [start, end) that is behind (key, signed)."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        row = s.added[middle]
        if row.key > key or (row.key == key and row.signed > signed):
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def span(s: Any, key: int) -> tuple[int, int]:
    """[first, end) of a key's main thresholds in the generation of the running step."""
    g = s.generations[s.line[0].generation & 1]
    at = g.half * (s.index.shape[0] // 2) + key
    base = g.half * (s.thresholds.shape[0] // 2)
    return base + s.index[at], base + s.index[at + 1]


@kernel
def span_added(s: Any) -> tuple[int, int]:
    """[first, end) of what was added since the merge, of all keys."""
    half = s.line[0].generation & 1
    return half * l.MAX_ADDED, half * l.MAX_ADDED + s.generations[half].added


@kernel
def beyond(s: Any, key: int, signed: int) -> tuple[int, int, int, int]:
    """Main thresholds [a, b) of a key that are greater than `signed`; and added ones [c, d), of which those of the key come first."""
    a, b = span(s, key)
    if a < b:
        a = first_beyond(s, a, b, signed)
    c, d = span_added(s)
    if c < d:
        c = first_added(s, c, d, key, signed)
    return a, b, c, d


@kernel
def bound_of(s: Any, instrument: int, trigger: int) -> int:
    """Row of `bounds` for a trigger of an instrument; those of its prices lie together, since every quote looks at three of them."""
    if trigger < _KINDS:
        return instrument * _KINDS + trigger
    return s.states.shape[0] * _KINDS + instrument * l.TRIGGERS + trigger


@kernel
def is_quiet(s: Any, bound: int, previous: int, new: int) -> bool:
    """Whether a move cannot pass anything: both values are in the interval around the value that was looked up last."""
    b = s.bounds[bound]
    return b.generation == s.line[0].generation and b.low <= new and new <= b.high and b.low <= previous and previous <= b.high


@kernel
def look_around(s: Any, instrument: int, trigger: int, value: int) -> None:
    """Note the widest interval around `value` in which no move passes anything of (instrument, trigger), in either direction; and what a move out of
    it passes first."""
    key = key_of(instrument, trigger, l.CROSS_UP)
    low, high = -(1 << 62) - (1 << 62), (1 << 62) - 1 + (1 << 62)
    below, above = -1, -1
    start, end = span(s, key)
    at = first_beyond(s, start, end, value)
    if at < end:
        high = s.thresholds[at].signed - 1  # reached, it fires
        above = s.thresholds[at].slot
    if at > start:
        low = s.thresholds[at - 1].signed  # below it, it would be armed again
    start, end = span(s, key + 1)
    at = first_beyond(s, start, end, -value)
    if at < end:
        low = max(low, -s.thresholds[at].signed + 1)
        below = s.thresholds[at].slot
    if at > start:
        high = min(high, -s.thresholds[at - 1].signed)
    start, end = span_added(s)
    if start < end:
        at = first_added(s, start, end, key, value)
        if at < end and s.added[at].key == key:
            high = min(high, s.added[at].signed - 1)
            above = s.added[at].slot
        if at > start and s.added[at - 1].key == key:
            low = max(low, s.added[at - 1].signed)
        at = first_added(s, start, end, key + 1, -value)
        if at < end and s.added[at].key == key + 1:
            low = max(low, -s.added[at].signed + 1)
            below = s.added[at].slot
        if at > start and s.added[at - 1].key == key + 1:
            high = min(high, -s.added[at - 1].signed)
    b = s.bounds[bound_of(s, instrument, trigger)]
    b.low, b.high = low, high
    b.below, b.above = below, above
    b.generation = s.line[0].generation
