"""What a tick sets off, in this order: levels of the prices that it carries (by kind; falling before it is rising does not happen, a move has one
direction), levels of features (by number), trailing entries (by arming). Levels in the order in which the move passes them, within a level by arming.

A tick that makes more than one outbox of intents goes on in the next sub-step: `resume_index` counts what has been looked at.
"""

from __future__ import annotations

import math
from typing import Any

from hotpath.kernel.commit import has_room, touch_before, touch_condition, touch_state
from hotpath.kernel.entries import fire, fresh, is_live
from hotpath.kernel.features import value
from hotpath.kernel.money import bps_of
from hotpath.kernel.thresholds import beyond, bound_of, is_quiet, key_of, look_around, ordered, span, span_added
from hotpath.kernel.windows import advance
from ipc import layout as l
from ipc.jit import kernel

_KINDS = len(l.PRICE_KINDS)
#: bits of the features that are no price kind
_FEATURES = (1 << l.TRIGGER_TRAILING) - (1 << _KINDS)


@kernel
def price_of(state: Any, kind: int) -> int:
    """A price kind's value now; mid in half ticks; 0: none."""
    if kind == l.PRICE_LAST:
        return state.last
    if kind == l.PRICE_BID:
        return state.bid
    if kind == l.PRICE_ASK:
        return state.ask
    return state.bid + state.ask if state.bid > 0 and state.ask > 0 else 0


@kernel
def previous_of(state: Any, kind: int) -> int:
    """A price kind's value before the tick at hand; 0: none, or forgotten."""
    if kind == l.PRICE_LAST:
        return state.prev_last
    if kind == l.PRICE_BID:
        return state.prev_bid
    if kind == l.PRICE_ASK:
        return state.prev_ask
    return state.prev_mid


@kernel
def carries(tick_kind: int, kind: int) -> bool:
    """Whether a tick moves a price kind: trades the last price, quotes the others."""
    return (kind == l.PRICE_LAST) == (tick_kind == l.TICK_TRADE)


@kernel
def set_off(s: Any, tick: Any, params: Any) -> bool:
    """Fire what the tick sets off, from the resume index on; False when the sub-step is full."""
    state = s.states[tick.instrument]
    examined = 0
    for kind in range(_KINDS):
        if carries(tick.kind, kind):
            previous, new = previous_of(state, kind), price_of(state, kind)
            if previous != new and previous > 0 and new > 0 and not is_quiet(s, bound_of(s, tick.instrument, kind), previous, new):
                examined = _pass(s, tick, params, kind, previous, new, examined)
                if examined < 0:
                    return False
    watched = s.watched[(s.line[0].generation & 1) * s.states.shape[0] + tick.instrument]
    features = watched & _FEATURES
    if features != 0:
        examined = _features(s, tick, params, features, examined)
        if examined < 0:
            return False
    if watched >> l.TRIGGER_TRAILING & 1 and not _trailing(s, tick, params, examined):
        return False
    return (features == 0 and state.watched == 0) or _keep_features(s, tick, features)


@kernel
def _pass(s: Any, tick: Any, params: Any, trigger: int, previous: int, new: int, examined: int) -> int:
    """Fire what the move previous → new of one trigger passes; gives how many were looked at so far, −1 when the sub-step is full."""
    sign, direction = (1, l.CROSS_UP) if new > previous else (-1, l.CROSS_DOWN)
    done = s.line[0].resume_index - 1
    key, to = key_of(tick.instrument, trigger, direction), sign * new
    a, b, c, d = beyond(s, key, sign * previous)
    while True:
        main = a < b and s.thresholds[a].signed <= to
        added = c < d and s.added[c].key == key and s.added[c].signed <= to
        if main and (not added or s.thresholds[a].signed <= s.added[c].signed):  # what was added was armed later
            slot = s.thresholds[a].slot
            a += 1
        elif added:
            slot = s.added[c].slot
            c += 1
        else:
            break
        examined += 1
        if examined > done:
            if not fire(s, slot, params, tick.event_ns):
                return -1
            s.line[0].resume_index = 1 + examined
    look_around(s, tick.instrument, trigger, new)
    return examined


# ── features ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@kernel
def _features(s: Any, tick: Any, params: Any, watched: int, examined: int) -> int:
    """Features that a condition waits for, evaluated at each market tick of their instrument; one that was not watched at the last tick, or had
    no value then, is only anchored."""
    number = tick.instrument
    if not has_room(s):
        return -1
    advance(s, number, tick.event_ns)
    known = s.states[number].watched
    for feature in range(_KINDS, l.TRIGGER_TRAILING):
        if watched >> feature & 1:
            s.values[feature] = value(s, number, feature, tick.event_ns)
            before = s.feature_before[number * l.TRIGGERS + feature]
            if known >> feature & 1 and not math.isnan(before) and not math.isnan(s.values[feature]):
                previous, new = ordered(before), ordered(s.values[feature])
                if previous != new and not is_quiet(s, bound_of(s, number, feature), previous, new):
                    examined = _pass(s, tick, params, feature, previous, new, examined)
                    if examined < 0:
                        return -1
    return examined


@kernel
def _keep_features(s: Any, tick: Any, watched: int) -> bool:
    """The features of this tick are the previous ones of the next; last of all, since a resumed sub-step looks at the same moves. False: no room."""
    number = tick.instrument
    if not has_room(s):
        return False
    touch_before(s, number)
    for feature in range(_KINDS, l.TRIGGER_TRAILING):
        if watched >> feature & 1:
            s.feature_before[number * l.TRIGGERS + feature] = s.values[feature]
    if s.states[number].watched != watched:
        touch_state(s, number)
        s.states[number].watched = watched
    return True


# ── trailing entries ─────────────────────────────────────────────────────────────────────────────────────────────────
@kernel
def _trailing(s: Any, tick: Any, params: Any, examined: int) -> bool:
    """Every trailing entry of the instrument, of which there are at most MAX_TRAILING. False: no room."""
    done = s.line[0].resume_index - 1
    key = key_of(tick.instrument, l.TRIGGER_TRAILING, 0)
    at, end = span(s, key)
    while at < end:
        examined += 1
        if examined > done:
            if not _trail(s, s.thresholds[at].slot, tick, params):
                return False
            s.line[0].resume_index = 1 + examined
        at += 1
    at, end = span_added(s)
    while at < end:
        if s.added[at].key == key:
            examined += 1
            if examined > done:
                if not _trail(s, s.added[at].slot, tick, params):
                    return False
                s.line[0].resume_index = 1 + examined
        at += 1
    return True


@kernel
def _trail(s: Any, slot: int, tick: Any, params: Any) -> bool:
    """A trailing entry at a tick: follow the extreme, or fire when the price comes back from it by the rebound. False: no room.

    From `valid_from` on, and once the price has come to the level (if there is one), the lowest price is kept (to fire upwards; the highest
    downwards). It fires where the price passes that by `rebound_bps`, and then begins anew.
    """
    row = s.rows[slot]
    state = s.states[row.instrument]
    if not carries(tick.kind, row.price_kind) or not is_live(s, slot, tick.event_ns):
        return True
    price, previous = price_of(state, row.price_kind), previous_of(state, row.price_kind)
    if price <= 0:
        return True
    sign = 1 if row.direction == l.CROSS_UP else -1
    memory = s.condition_states[slot]
    extreme = memory.extreme if memory.condition_id == row.condition_id else 0
    if extreme == 0 and row.level > 0 and sign * (price - row.level) > 0:
        return True
    if extreme == 0 or previous <= 0 or sign * (price - extreme) < 0:
        if not has_room(s):
            return False
        _follow(s, row, slot, price)
        return True
    at = extreme + sign * max(1, bps_of(extreme, row.rebound_bps))
    if sign * (price - at) < 0 or sign * (previous - at) >= 0:
        return True
    fired = memory.fired
    if not fire(s, slot, params, tick.event_ns):
        return False
    if s.condition_states[slot].fired != fired:
        _follow(s, row, slot, price)  # the room that a fire asks for is for this, too
    return True


@kernel
def _follow(s: Any, row: Any, slot: int, price: int) -> None:
    """The extreme is `price`."""
    touch_condition(s, slot)
    memory = s.condition_states[slot]
    if memory.condition_id != row.condition_id:
        fresh(memory, row.condition_id)
    memory.extreme = price


@kernel
def anchor(s: Any, tick: Any) -> None:
    """Move the previous prices of the kinds that this tick carries; the caller has saved the state."""
    state = s.states[tick.instrument]
    if tick.kind == l.TICK_TRADE:
        state.prev_last = state.last
    else:
        state.prev_bid = state.bid
        state.prev_ask = state.ask
        state.prev_mid = price_of(state, l.PRICE_MID)


@kernel
def lose_anchors(s: Any, instrument: int) -> None:
    """Forget every previous value of an instrument: what lies between then and now is not a move. The caller has saved the state."""
    state = s.states[instrument]
    state.prev_last = state.prev_bid = state.prev_ask = state.prev_mid = 0
    state.watched = 0
