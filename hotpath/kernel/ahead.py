"""Looking ahead: the cache lines of a tick that comes soon are asked for while the one at hand is worked on.

With ten thousand symbols a tick's lines are in no cache, and waiting for them one after the other is most of its time. Hints only: what they name may
be overwritten or torn meanwhile, and nothing depends on it.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.windows import ALL_LINES, FINEST_NS, IN_10, IN_60, IN_300, IN_900, SLOTS
from ipc import layout as l
from ipc.atomics import prefetch
from ipc.jit import kernel

#: so many ticks before its turn what is surely looked at is asked for; so many before it what that names
FAR, NEAR = 8, 4
_LINE, _KINDS = l.CACHE_LINE, len(l.PRICE_KINDS)
_CONDITION_LINES, _INSTRUMENT_LINES = l.CONDITION.itemsize // _LINE, l.INSTRUMENT.itemsize // _LINE
_PARAMS_LINES, _ACCOUNT_LINES, _POSITION_LINES = l.PARAMS.itemsize // _LINE, l.ACCOUNT.itemsize // _LINE, l.POSITION.itemsize // _LINE


@kernel
def look_ahead(s: Any, ticks: Any, row: int, end: int) -> None:
    """For the ticks of [row, end) that come FAR and NEAR behind `row`."""
    if row + FAR < end:
        _from_afar(s, ticks[row + FAR].instrument, ticks[row + FAR].kind)
        if ticks[row + NEAR].kind == l.TICK_TRADE:
            _windows(s, ticks[row + NEAR].instrument, ticks[row + NEAR].event_ns)


@kernel
def look_ahead_in_ring(s: Any, seq: int) -> None:
    """The same for those that are in the ring already."""
    last = s.tick_slots.shape[0] - 1
    slot = s.tick_slots[(seq + FAR) & last]
    if slot.seq == seq + FAR:
        _from_afar(s, slot.instrument, slot.kind)
        slot = s.tick_slots[(seq + NEAR) & last]
        if slot.kind == l.TICK_TRADE:
            _windows(s, slot.instrument, slot.event_ns)


@kernel
def _from_afar(s: Any, instrument: int, kind: int) -> None:
    """What a tick of that kind looks at first: its instrument's state, the quiet intervals of its prices, features that a trade moves."""
    if instrument >= s.states.shape[0]:
        return
    prefetch(s.states, instrument, 0)
    prefetch(s.states, instrument, _LINE)
    prefetch(s.watched, (s.line[0].generation & 1) * s.states.shape[0] + instrument, 0)
    prefetch(s.bounds, instrument * _KINDS, 0)
    if kind == l.TICK_TRADE:
        for line in range(ALL_LINES):
            prefetch(s.features, instrument, line * _LINE)
    else:
        prefetch(s.bounds, instrument * _KINDS, _LINE)


@kernel
def _windows(s: Any, instrument: int, event_ns: int) -> None:
    """The buckets that a trade at that time closes, and those that leave their windows with that."""
    if instrument >= s.states.shape[0]:
        return
    old, new = s.features[instrument].bucket, event_ns // FINEST_NS
    if old == 0 or new <= old:
        return
    _buckets(s.buckets_1, instrument, 8, old, new)
    if new // IN_10 > old // IN_10:
        _buckets(s.buckets_10, instrument, 2, old // IN_10, new // IN_10)
        if new // IN_60 > old // IN_60:
            _buckets(s.buckets_60, instrument, 1, old // IN_60, new // IN_60)
            if new // IN_300 > old // IN_300:
                _buckets(s.buckets_300, instrument, 1, old // IN_300, new // IN_300)
                if new // IN_900 > old // IN_900:
                    _buckets(s.buckets_900, instrument, 4, old // IN_900, new // IN_900)


@kernel
def _buckets(buckets: Any, instrument: int, in_line: int, old: int, new: int) -> None:
    bucket = max(old - 1, new - SLOTS + 1) // in_line * in_line
    while bucket <= new:
        prefetch(buckets, instrument * SLOTS + (bucket & (SLOTS - 1)), 0)
        bucket += in_line


@kernel
def foresee(s: Any, tick: Any) -> None:
    """A price that leaves the interval in which nothing fires: ask for the condition that it passes first, before the tick is worked on."""
    if tick.kind == l.TICK_TRADE:
        _leaves(s, tick.instrument, l.PRICE_LAST, tick.price)
    else:
        _leaves(s, tick.instrument, l.PRICE_BID, tick.price)
        _leaves(s, tick.instrument, l.PRICE_ASK, tick.ask_price)


@kernel
def _leaves(s: Any, instrument: int, kind: int, price: int) -> None:
    bound = s.bounds[instrument * _KINDS + kind]
    if price > bound.high:
        _look_at_condition(s, bound.above, instrument)
    elif price < bound.low:
        _look_at_condition(s, bound.below, instrument)


@kernel
def _look_at_condition(s: Any, slot: int, instrument: int) -> None:
    """What a condition whose level is passed needs first: its row, its state, the facts of its instrument, the limits, the account."""
    if slot < 0:
        return
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
