"""Exits: stop, trailing, target, time, and what an operator or a data gap asks for. They come before entries and pass no entry limit.

A level is tested against the executable side (bid for a long, ask for a short), on quotes; a symbol without quotes is tested on trades.
A working exit never exceeds the position: a position has at most one, and the next follows the terminal report of its predecessor.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.commit import has_room, ring_room, touch_account, touch_position, touch_state, touch_working
from hotpath.kernel.intents import emit_cancel, emit_exit, open_working
from hotpath.kernel.money import bps_of, mark_price
from hotpath.kernel.reports import EARLIER, close_if_flat, find_working
from ipc import heartbeat
from ipc import layout as l
from ipc.jit import kernel


@kernel
def level_reason(position: Any, price: int) -> int:
    """Which level of a position `price` (its executable side, in ticks) has reached; EXIT_NONE if none."""
    side = position.side
    if position.stop_price > 0 and side * (price - position.stop_price) <= 0:
        return l.EXIT_STOP
    if trailing_active(position) and side * (price - trailing_level(position)) <= 0:
        return l.EXIT_TRAILING
    if position.target_price > 0 and side * (price - position.target_price) >= 0:
        return l.EXIT_TARGET
    return l.EXIT_NONE


@kernel
def trailing_active(position: Any) -> bool:
    """Whether the best price has moved far enough from the entry; `retry`-proof, since best_price only improves."""
    return position.trail_activation_price > 0 and position.side * (position.best_price - position.trail_activation_price) >= 0


@kernel
def trailing_level(position: Any) -> int:
    """The trailing stop: distance from the best price seen."""
    return position.best_price - position.side * bps_of(position.best_price, position.trail_distance_bps)


@kernel
def evaluate(s: Any, row: int, price: int, event_ns: int, forced: int) -> bool:
    """Test one open position and send its exit if due. `price` 0: no level is tested. False: no room, try again in the next sub-step."""
    position = s.positions[row]
    if position.lots <= 0 or position.state == l.POS_FLAT:
        if not has_room(s):
            return False
        if position.entry_seq != 0 and (forced != l.EXIT_NONE or position.exit_reason != l.EXIT_NONE):  # not filled, and not wanted any more
            touch_position(s, row)
            position.exit_reason = max(position.exit_reason, forced)
            if ring_room(s) > 1:
                _cancel_entry(s, row, event_ns)
        if position.entry_lots <= 0 or position.entry_seq != 0 or position.exit_seq != 0:
            return True
        if ring_room(s) > 1:  # flat, and not yet told: it became so in the journal of a run that ended at once
            touch_account(s)
            touch_state(s, position.instrument)
            touch_position(s, row)
            close_if_flat(s, row, event_ns)
        return True
    if price > 0 and position.side * (price - position.best_price) > 0:
        if not has_room(s):
            return False
        touch_position(s, row)
        position.best_price = price
    if position.exit_seq != 0:
        return True
    reason = position.exit_reason
    if reason == l.EXIT_NONE:
        reason = forced
        if reason == l.EXIT_NONE and price > 0:
            reason = level_reason(position, price)
        if reason == l.EXIT_NONE and position.deadline_ns > 0 and event_ns >= position.deadline_ns:
            reason = l.EXIT_TIME
        if reason == l.EXIT_NONE:
            return True
    elif event_ns < position.retry_ns and forced == l.EXIT_NONE:
        return True
    if not has_room(s):
        return False
    touch_position(s, row)
    position.exit_reason = reason  # from here on it is due until it is done, wherever the price goes
    if ring_room(s) < 2:
        return True
    if position.entry_seq != 0:
        _cancel_entry(s, row, event_ns)
    working = find_working(s, 0)
    if working < 0:
        return True
    emit_exit(s, position, position.lots, mark_price(s.states[position.instrument], position.side), event_ns)
    book_exit(s, s.outbox[s.line[0].outbox_len - 1], row, working)
    return True


@kernel
def book_exit(s: Any, order: Any, row: int, working: int) -> None:
    """The NEW record `order` closes position `row`: no other exit goes out before it has ended."""
    touch_account(s)
    touch_position(s, row)
    touch_working(s, working)
    s.account[0].working_orders += 1
    p = s.positions[row]
    p.state = l.POS_CLOSING
    p.exit_seq = order.seq
    p.exit_working_lots = order.lots
    p.exit_reason = order.code
    open_working(s, working, order, row, 0)


@kernel
def _cancel_entry(s: Any, row: int, event_ns: int) -> None:
    position = s.positions[row]
    working = find_working(s, position.entry_seq)
    if working >= 0 and s.working[working].cancel_seq == 0 and position.entry_seq < EARLIER:
        touch_working(s, working)
        emit_cancel(s, s.working[working], position.instrument, position.strategy, event_ns)
        s.working[working].cancel_seq = s.line[0].intent_seq


@kernel
def cancel_overdue(s: Any, event_ns: int) -> bool:
    """Cancel working entries whose condition has expired, and all of them while entries are not allowed. False: no room in this sub-step."""
    if s.account[0].working_orders == 0:
        return True
    allowed = heartbeat.severest_mode(s.modes) == l.MODE_RUNNING
    for row in range(l.MAX_WORKING):
        order = s.working[row]
        if (order.order_seq == 0 or order.order_seq >= EARLIER or order.purpose != l.ENTRY or order.cancel_seq != 0
                or (allowed and (order.valid_until_ns == 0 or event_ns < order.valid_until_ns))):
            continue
        if not has_room(s):
            return False
        if ring_room(s) < 2:
            return True
        touch_working(s, row)
        position = s.positions[order.position_row]
        emit_cancel(s, order, position.instrument, position.strategy, event_ns)
        order.cancel_seq = s.line[0].intent_seq
    return True


@kernel
def exits_of(s: Any, instrument: int, price_long: int, price_short: int, event_ns: int, forced: int) -> bool:
    """Evaluate every open position of an instrument; prices are what a long and a short could trade at, 0 = not tested."""
    mask = s.states[instrument].open_mask
    for strategy in range(l.MAX_STRATEGIES):
        if mask >> strategy & 1:
            row = instrument * l.MAX_STRATEGIES + strategy
            price = price_long if s.positions[row].side > 0 else price_short
            if not evaluate(s, row, price, event_ns, forced):
                return False
    return True


@kernel
def exits_everywhere(s: Any, event_ns: int, forced: int) -> bool:
    """Deadlines, retries and forced exits of all open positions, without testing levels."""
    for instrument in range(s.states.shape[0]):
        if s.states[instrument].open_mask != 0 and not exits_of(s, instrument, 0, 0, event_ns, forced):
            return False
    return True
