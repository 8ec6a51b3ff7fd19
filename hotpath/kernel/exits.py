"""Exits: stop, trailing, target, time, and what an operator or a data gap asks for. They come before entries and pass no entry limit.

A level is tested against the executable side (bid for a long, ask for a short), on quotes; a symbol without quotes is tested on trades.
Working exits never exceed the position: it has at most one for all of it and one for a rung of its ladder, which share its lots, and the next follows
the terminal report of its predecessor. An exit takes what is within a collar around the quote; each try without effect doubles the collar, and after
_WIDENINGS of them any price is taken: a stop is kept, whatever it costs.

A position's life: opening → open (the entry fills) → monitoring (it is done) ⇄ adjusting (stop moved, rung sold) → closing → CLOSED; an exit without
effect leads from closing back to monitoring. Each transition is a LIFECYCLE record, but for the first (NEW) and the last (CLOSED).
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.commit import has_room, ring_room, touch_account, touch_position, touch_state, touch_working
from hotpath.kernel.intents import emit_cancel, emit_exit, emit_lifecycle, open_working
from hotpath.kernel.match import worsen
from hotpath.kernel.money import bps_of, fee_of, mark_price
from hotpath.kernel.reports import EARLIER, close_if_flat, find_working
from ipc import heartbeat
from ipc import layout as l
from ipc.jit import kernel

#: tries of an exit with a collar, each twice as wide as the one before
_WIDENINGS = 5
#: order-ring slots that one evaluation may need: a transition, a cancel, an exit, its transition
_INTENTS = 4


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
def evaluate(s: Any, row: int, price: int, event_ns: int, now_ns: int, forced: int) -> bool:
    """Test one open position and send its exit if due. `price` 0: no level is tested. False: no room, try again in the next sub-step.

    `event_ns` is what records are stamped with, `now_ns` what deadlines are held against: the same, unless no tick tells the time.
    """
    position = s.positions[row]
    if position.lots <= 0 or position.state == l.POS_FLAT:
        return _unfilled(s, row, event_ns, forced)
    watched = position.state == l.POS_OPEN and position.entry_seq == 0  # its state is of a journal that did not yet know `monitoring`
    if watched or (position.state == l.POS_ADJUSTING and position.rung_seq == 0 and position.adjusted_tick != s.tick[0].seq):
        if not has_room(s):
            return False
        if ring_room(s) >= _INTENTS:
            _become(s, row, l.POS_MONITORING, l.ADJUST_NONE, event_ns)
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
        if reason == l.EXIT_NONE and position.deadline_ns > 0 and now_ns >= position.deadline_ns:
            reason = l.EXIT_TIME
        if reason == l.EXIT_NONE:
            return price <= 0 or position.entry_seq != 0 or _improve(s, row, price, event_ns)
    elif now_ns < position.retry_ns and forced == l.EXIT_NONE:
        return True
    if not has_room(s):
        return False
    touch_position(s, row)
    position.exit_reason = reason  # from here on it is due until it is done, wherever the price goes
    if ring_room(s) < _INTENTS:
        return True
    if position.entry_seq != 0:
        _cancel_entry(s, row, event_ns)
    lots = position.lots - position.exit_working_lots  # a rung may be under way
    working = find_working(s, 0)
    if working < 0 or lots <= 0:
        return True
    before = position.state
    _send(s, row, lots, reason, 1, event_ns)
    book_exit(s, s.outbox[s.line[0].outbox_len - 1], row, working)
    if before != l.POS_CLOSING:
        emit_lifecycle(s, position, before, l.ADJUST_NONE, event_ns)
    return True


@kernel
def _unfilled(s: Any, row: int, event_ns: int, forced: int) -> bool:
    """A position without lots: its entry may have to be cancelled, or its end told. False: no room."""
    position = s.positions[row]
    if not has_room(s):
        return False
    if position.entry_seq != 0 and (forced != l.EXIT_NONE or position.exit_reason != l.EXIT_NONE):  # not filled, and not wanted any more
        touch_position(s, row)
        position.exit_reason = max(position.exit_reason, forced)
        if ring_room(s) >= _INTENTS:
            _cancel_entry(s, row, event_ns)
    if position.entry_lots > 0 and ring_room(s) >= _INTENTS:  # flat, and not yet told: it became so in the journal of a run that ended at once
        touch_account(s)
        touch_state(s, position.instrument)
        touch_position(s, row)
        close_if_flat(s, row, event_ns)
    return True


@kernel
def _become(s: Any, row: int, state: int, cause: int, event_ns: int) -> None:
    """A transition of a position's life, with its record."""
    touch_position(s, row)
    position = s.positions[row]
    before = position.state
    position.state = state
    position.adjusted_tick = s.tick[0].seq
    emit_lifecycle(s, position, before, cause, event_ns)


@kernel
def _send(s: Any, row: int, lots: int, reason: int, leg: int, event_ns: int) -> None:
    """The NEW record of an exit, with its collar."""
    position = s.positions[row]
    state, params = s.states[position.instrument], s.params[s.line[0].params_epoch & 1]
    reference = mark_price(state, position.side)
    if state.trade_ns > state.quote_ns and event_ns - state.quote_ns > quote_age_ns(params):
        reference = state.last  # the quote is of another time, and it is trades that protection looks at
    collar = params.exit_collar_bps
    limit = 0
    if collar > 0 and reference > 0 and position.attempt < _WIDENINGS:
        limit = worsen(reference, -position.side, collar << position.attempt, s.instruments[position.instrument].max_price)
    emit_exit(s, position, lots, reference, limit, reason, leg, event_ns)


@kernel
def quote_age_ns(params: Any) -> int:
    """How old a quote may be before trades take over its part in protection."""
    return params.max_quote_age_ns if params.max_quote_age_ns >= 0 else params.session_gap_ns


# ── what is better than to wait ──────────────────────────────────────────────────────────────────────────────────────
@kernel
def _improve(s: Any, row: int, price: int, event_ns: int) -> bool:
    """No exit is due: sell the next rung of the ladder, or move the stop to break-even, if the price has come that far. False: no room."""
    position = s.positions[row]
    if position.rungs_done >= position.rungs and position.break_even_bps == 0:
        return True
    average = position.entry_quote // s.instruments[position.instrument].value_quanta // position.entry_lots
    gain = position.side * (price - average)
    rung = position.rungs_done
    if (rung < position.rungs and position.rung_seq == 0 and event_ns >= position.retry_ns
            and gain >= bps_of(average, position.rung_bps[rung])):
        return _sell_rung(s, row, rung, event_ns)
    if position.break_even_bps > 0 and gain >= bps_of(average, position.break_even_bps):
        return _break_even(s, row, price, event_ns)
    return True


@kernel
def _sell_rung(s: Any, row: int, rung: int, event_ns: int) -> bool:
    """What this rung and those before it were to sell, and have not; with the last of a ladder that adds up to all, whatever is left.

    False: no room.
    """
    position = s.positions[row]
    if not has_room(s):
        return False
    working = find_working(s, 0)
    if ring_room(s) < _INTENTS or working < 0:
        return True
    share, wanted = 0, 0
    for k in range(rung + 1):
        share += position.rung_share_e4[k]
        wanted += bps_of(position.entry_lots, position.rung_share_e4[k])
    lots = position.lots if share == 10_000 else min(wanted - position.exit_lots, position.lots)
    touch_position(s, row)
    if lots <= 0:
        position.rungs_done += 1  # less than a lot
        return True
    _send(s, row, lots, l.EXIT_RUNG, 2 + rung, event_ns)
    book_exit(s, s.outbox[s.line[0].outbox_len - 1], row, working)
    if position.state != l.POS_ADJUSTING:
        _become(s, row, l.POS_ADJUSTING, l.ADJUST_RUNG, event_ns)
    return True


@kernel
def break_even_price(position: Any, instrument: Any) -> int:
    """Price in ticks at which what is left earns its cost and two taker fees, rounded to the gaining side."""
    fees = 2 * fee_of(position.cost, instrument.taker_fee_e8)
    per_tick = position.lots * instrument.value_quanta
    if position.side > 0:
        return (position.cost + fees + per_tick - 1) // per_tick
    return max(1, (position.cost - fees) // per_tick)


@kernel
def _break_even(s: Any, row: int, price: int, event_ns: int) -> bool:
    """Move the stop to where nothing is lost, once, if that is nearer than it was and still behind the price. False: no room."""
    position = s.positions[row]
    stop = break_even_price(position, s.instruments[position.instrument])
    if position.side * (price - stop) <= 0:
        return True
    if not has_room(s):
        return False
    if ring_room(s) < _INTENTS:
        return True
    touch_position(s, row)
    position.break_even_bps = 0
    if (position.stop_price == 0 or position.side * (stop - position.stop_price) > 0) and may_adjust(s, position):
        position.stop_price = stop
        position.stop_bps = 0
        position.adjustments += 1
        _become(s, row, l.POS_ADJUSTING, l.ADJUST_BREAK_EVEN, event_ns)
    return True


@kernel
def may_adjust(s: Any, position: Any) -> bool:
    """Whether stop or target of a position may still be moved."""
    return position.adjustments < s.params[s.line[0].params_epoch & 1].max_adjustments


@kernel
def adjust(s: Any, position_id: int, stop_price: int, target_price: int, event_ns: int) -> None:
    """An operator moves stop or target (0: as it is) of a position; nothing happens if it is closing, gone, or was adjusted as often as it may be."""
    for k in range(s.account[0].open_positions):
        row = s.open_rows[k]
        position = s.positions[row]
        if position.position_id != position_id or position.lots <= 0 or position.exit_reason != l.EXIT_NONE or not may_adjust(s, position):
            continue
        touch_position(s, row)
        if stop_price > 0:
            position.stop_price = stop_price
            position.stop_bps = 0
        if target_price > 0:
            position.target_price = target_price
            position.target_bps = 0
        position.adjustments += 1
        _become(s, row, l.POS_ADJUSTING, l.ADJUST_OPERATOR, event_ns)


@kernel
def book_exit(s: Any, order: Any, row: int, working: int) -> None:
    """The NEW record `order` closes position `row`, or sells a rung of it: no other exit of its kind goes out before it has ended."""
    touch_account(s)
    touch_position(s, row)
    touch_working(s, working)
    s.account[0].working_orders += 1
    p = s.positions[row]
    p.exit_working_lots += order.lots
    if order.leg > 1:
        p.rung_seq = order.seq
    else:
        p.state = l.POS_CLOSING
        p.exit_seq = order.seq
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
def cancel_overdue(s: Any, event_ns: int, now_ns: int, stale: bool) -> bool:
    """Cancel working entries whose condition has expired, and all of them while entries are not allowed, or prices are stale. False: no room."""
    if s.account[0].working_orders == 0:
        return True
    allowed = not stale and heartbeat.severest_mode(s.modes) == l.MODE_RUNNING
    for row in range(l.MAX_WORKING):
        order = s.working[row]
        if (order.order_seq == 0 or order.order_seq >= EARLIER or order.purpose != l.ENTRY or order.cancel_seq != 0
                or (allowed and (order.valid_until_ns == 0 or now_ns < order.valid_until_ns))):
            continue
        if not has_room(s):
            return False
        if ring_room(s) < _INTENTS:
            return True
        touch_working(s, row)
        position = s.positions[order.position_row]
        emit_cancel(s, order, position.instrument, position.strategy, event_ns)
        order.cancel_seq = s.line[0].intent_seq
    return True


@kernel
def exits_of(s: Any, instrument: int, price_long: int, price_short: int, event_ns: int, now_ns: int, forced: int) -> bool:
    """Evaluate every open position of an instrument; prices are what a long and a short could trade at, 0 = not tested."""
    mask = s.states[instrument].open_mask
    for strategy in range(l.MAX_STRATEGIES):
        if mask >> strategy & 1:
            row = instrument * l.MAX_STRATEGIES + strategy
            price = price_long if s.positions[row].side > 0 else price_short
            if not evaluate(s, row, price, event_ns, now_ns, forced):
                return False
    return True


@kernel
def exits_everywhere(s: Any, event_ns: int, now_ns: int, forced: int) -> bool:
    """Deadlines, retries and forced exits of all open positions, without testing levels."""
    if s.account[0].open_positions == 0:
        return True
    for instrument in range(s.states.shape[0]):
        if s.states[instrument].open_mask != 0 and not exits_of(s, instrument, 0, 0, event_ns, now_ns, forced):
            return False
    return True
