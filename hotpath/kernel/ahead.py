"""Looking ahead: the cache lines of a tick that comes soon are asked for while the one at hand is worked on.

With ten thousand symbols a tick's lines are in no cache, and waiting for them one after the other is most of its time. Hints only: what they name may
be overwritten or torn meanwhile, and nothing depends on it.
"""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.atomics import prefetch
from ipc.jit import kernel

#: so many ticks before its turn
DISTANCE = 4
_LINE, _KINDS = l.CACHE_LINE, len(l.PRICE_KINDS)


@kernel
def look_ahead(s: Any, instrument: int, kind: int) -> None:
    """Ask for what a tick of that kind looks at first: its instrument's state, the quiet intervals of its prices, features that a trade moves."""
    if instrument >= s.states.shape[0]:
        return
    prefetch(s.states, instrument, 0)
    prefetch(s.states, instrument, _LINE)
    prefetch(s.bounds, instrument * _KINDS, 0)
    if kind == l.TICK_TRADE:
        prefetch(s.features, instrument, 0)
        prefetch(s.features, instrument, _LINE)
        prefetch(s.features, instrument, 2 * _LINE)
        prefetch(s.features, instrument, 3 * _LINE)
    else:
        prefetch(s.bounds, instrument * _KINDS, _LINE)


@kernel
def look_ahead_in_ring(s: Any, seq: int) -> None:
    """The same for the tick that is DISTANCE behind `seq` in the ring, if it is there."""
    slot = s.tick_slots[(seq + DISTANCE) & (s.tick_slots.shape[0] - 1)]
    if slot.seq == seq + DISTANCE:
        look_ahead(s, slot.instrument, slot.kind)
