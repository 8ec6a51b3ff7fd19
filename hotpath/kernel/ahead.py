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
_CONDITION_LINES, _INSTRUMENT_LINES = l.CONDITION.itemsize // _LINE, l.INSTRUMENT.itemsize // _LINE
_PARAMS_LINES, _ACCOUNT_LINES, _POSITION_LINES = l.PARAMS.itemsize // _LINE, l.ACCOUNT.itemsize // _LINE, l.POSITION.itemsize // _LINE


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


@kernel
def look_at_condition(s: Any, slot: int, instrument: int) -> None:
    """Ask for what a condition whose level was passed needs first: its row, its state, the facts of its instrument."""
    for line in range(_CONDITION_LINES):
        prefetch(s.rows, slot, line * _LINE)
    prefetch(s.condition_states, slot, 0)
    for line in range(_INSTRUMENT_LINES):
        prefetch(s.instruments, instrument, line * _LINE)
    for line in range(_PARAMS_LINES):
        prefetch(s.params, s.line[0].params_epoch & 1, line * _LINE)
    for line in range(_ACCOUNT_LINES):
        prefetch(s.account, 0, line * _LINE)


@kernel
def look_at_entry(s: Any, position_row: int) -> None:
    """Ask for what an order that is about to pass the gate is written to: its position, and the next slot of the order ring."""
    for line in range(_POSITION_LINES):
        prefetch(s.positions, position_row, line * _LINE)
    slot = (s.line[0].intent_seq + 1) & (s.order_slots.shape[0] - 1)
    prefetch(s.order_slots, slot, 0)
    prefetch(s.order_slots, slot, _LINE)
