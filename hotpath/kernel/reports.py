"""Venue reports into the sniper's book: orders, positions, cash. A fill is applied as what its cumulative figures add to ours.

An order that an earlier incarnation of the instance sent is known by `REPORT.spare`, and works here under that key until the venue has told what
became of it. An order that the gateway makes itself while the sniper is down is announced by a report before it is sent.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.afterwards import remember
from hotpath.kernel.commit import touch_account, touch_open_row, touch_position, touch_state, touch_working
from hotpath.kernel.intents import emit_closed, emit_context, emit_lifecycle
from hotpath.kernel.money import bps_of, cost_removed, survey
from hotpath.kernel.twins import open_twin
from ipc import layout as l
from ipc.jit import kernel

#: keys of working orders from here on are of an earlier incarnation: incarnation << 40 | sequence; an order of this one has its sequence alone
EARLIER = 1 << 40
#: doublings of the pause before a rejected exit is tried again: 500 ms become 8 s
_MOST_DOUBLINGS = 4
#: lots of an adopted order: nobody knows any more how many it was for
_ADOPTED_LOTS = 1 << 60


@kernel
def find_working(s: Any, order_seq: int) -> int:
    """Row of a working order, −1 if it is not working."""
    for row in range(l.MAX_WORKING):
        if s.working[row].order_seq == order_seq:
            return row
    return -1


@kernel
def guard(position: Any, condition: Any) -> None:
    """A new position gets the protection that its condition asks for; distances become prices when it fills."""
    position.stop_price = condition.stop_price
    position.target_price = condition.target_price
    position.stop_bps = condition.stop_bps
    position.target_bps = condition.target_bps
    position.trail_activation_bps = condition.trail_activation_bps
    position.trail_distance_bps = condition.trail_distance_bps
    position.time_stop_ns = condition.time_stop_ns
    position.break_even_bps = condition.break_even_bps
    position.rungs = condition.rungs
    for k in range(l.MAX_RUNGS):
        position.rung_bps[k] = condition.rung_bps[k]
        position.rung_share_e4[k] = condition.rung_share_e4[k]


@kernel
def protect(position: Any, value_quanta: int) -> None:
    """Set stop and target from the average entry price, where they are distances; one that was moved is none any more."""
    average = position.entry_quote // value_quanta // position.entry_lots
    side = position.side
    if position.stop_bps > 0:
        position.stop_price = average - side * bps_of(average, position.stop_bps)
    if position.target_bps > 0:
        position.target_price = average + side * bps_of(average, position.target_bps)
    activation = average + side * bps_of(average, position.trail_activation_bps)
    position.trail_activation_price = activation if position.trail_distance_bps > 0 else 0
    if position.best_price == 0 or side * (average - position.best_price) > 0:
        position.best_price = average


@kernel
def _apply_fill(s: Any, order: Any, report: Any, event_ns: int) -> None:
    lots = report.cum_lots - order.cum_lots
    quote = report.cum_quote - order.cum_quote
    fee = report.fee if report.trade_id > order.last_trade_id else 0
    if lots <= 0 and fee == 0:
        return  # a report that was sent twice
    lots = max(0, lots)
    quote = max(0, quote)
    order.cum_lots += lots
    order.cum_quote += quote
    order.last_trade_id = max(order.last_trade_id, report.trade_id)
    position = s.positions[order.position_row]
    state = s.states[position.instrument]
    instrument = s.instruments[position.instrument]
    account = s.account[0]
    spot = instrument.kind == l.KIND_SPOT
    position.fees += fee
    account.fees += fee
    account.cash -= fee
    if order.purpose == l.ENTRY:
        if position.entry_lots == 0:
            position.state = l.POS_OPEN
            position.opened_ns = event_ns
            position.deadline_ns = event_ns + position.time_stop_ns if position.time_stop_ns > 0 else 0
        position.lots += lots
        position.entry_lots += lots
        position.entry_quote += quote
        position.cost += quote
        if spot:
            account.cash -= quote
        released = min(order.reserved, quote + fee) if spot else 0
        order.reserved -= released
        account.reserved -= released
        state.working_lots -= lots
        state.exposure_lots += lots
        if position.entry_lots > 0:
            protect(position, instrument.value_quanta)
    else:
        removed = cost_removed(position.cost, lots, position.lots) if lots > 0 else 0
        position.cost -= removed
        position.lots -= lots
        position.exit_lots += lots
        position.exit_quote += quote
        position.exit_working_lots = max(0, position.exit_working_lots - lots)  # of an adopted order nobody knew them
        state.exposure_lots -= lots
        gain = position.side * (quote - removed)
        position.realised += gain
        account.cash += quote if spot else gain


@kernel
def _finish_order(s: Any, working_row: int, instrument_id: int, event_ns: int, exit_retry_ns: int) -> None:
    """A working order has ended: give back what it held."""
    order = s.working[working_row]
    position = s.positions[order.position_row]
    account = s.account[0]
    account.reserved -= order.reserved
    account.working_orders -= 1
    if order.purpose == l.ENTRY:
        s.states[instrument_id].working_lots -= order.lots - order.cum_lots
        position.entry_seq = 0
        if position.entry_lots == 0:
            clear_position(s, order.position_row)
        elif position.state == l.POS_OPEN:
            position.state = l.POS_MONITORING
    else:
        if order.lots < _ADOPTED_LOTS:
            position.exit_working_lots = max(0, position.exit_working_lots - (order.lots - order.cum_lots))
        if position.rung_seq == order.order_seq:
            position.rung_seq = 0
            position.rungs_done += 1 if order.cum_lots >= order.lots else 0  # else the rest of it is tried again
        elif position.exit_seq == order.order_seq:  # else of the gateway, beside an exit whose end is still to come
            position.exit_seq = 0
            if position.lots > 0:
                position.state = l.POS_MONITORING  # the exit is decided anew, under a new id
                position.attempt += 1 if order.cum_lots >= order.lots else 0  # its entry has gone on filling: another attempt closes the rest
        if order.cum_lots < order.lots:
            position.attempt += 1
            position.retry_ns = event_ns + s.own[0].ahead_ns + exit_retry_ns
    order.order_seq = 0


@kernel
def clear_position(s: Any, row: int) -> None:
    """Free a position's row; it and its instrument's state have been saved."""
    position = s.positions[row]
    s.states[position.instrument].open_mask &= ~(1 << position.strategy)
    left = s.account[0].open_positions - 1
    s.account[0].open_positions = left
    if position.open_index != left:  # the last of the list takes its place
        last = s.open_rows[left]
        touch_open_row(s, position.open_index)
        touch_position(s, last)
        s.open_rows[position.open_index] = last
        s.positions[last].open_index = position.open_index
    position.state = l.POS_FLAT
    position.exit_working_lots = 0
    position.position_id = 0
    position.lots = 0


@kernel
def close_if_flat(s: Any, row: int, event_ns: int) -> None:
    """When nothing is left and nothing is under way: the round trip's CLOSED record, and the row is free."""
    position = s.positions[row]
    if position.state == l.POS_FLAT or position.lots != 0 or position.entry_lots == 0:
        return
    if position.entry_seq != 0 or position.exit_seq != 0 or position.rung_seq != 0:
        return
    if position.exit_reason == l.EXIT_NONE and position.rungs > 0:
        position.exit_reason = l.EXIT_RUNG  # the ladder has closed all of it
    account = s.account[0]
    pnl = position.side * (position.exit_quote - position.entry_quote) - position.fees
    emit_closed(s, l.CLOSED, position, pnl, s.instruments[position.instrument].value_quanta, event_ns)
    remember(s, position, s.outbox[s.line[0].outbox_len - 1].limit_price, event_ns)
    account.realised_pnl += pnl
    account.trades_closed += 1
    if pnl > 0:
        account.wins += 1
    clear_position(s, row)


@kernel
def _finish_earlier(s: Any, until: int, event_ns: int) -> None:
    """The venue has told everything of earlier incarnations: what still works under such a key never got there. See apply_reports for room."""
    for row in range(l.MAX_WORKING):
        key = s.working[row].order_seq
        if key >= EARLIER and key < until:
            position_row = s.working[row].position_row
            instrument_id = s.positions[position_row].instrument
            touch_working(s, row)
            touch_account(s)
            touch_position(s, position_row)
            touch_state(s, instrument_id)
            _finish_order(s, row, instrument_id, event_ns, 0)


@kernel
def is_terminal(kind: int) -> bool:
    """Whether a report ends its order; a fill does when nothing is left."""
    return kind == l.CANCELLED or kind == l.REJECTED or kind == l.EXPIRED or kind == l.LOST


@kernel
def _open_exit(s: Any, working: int, row: int, key: int, side: int, lots: int, event_ns: int) -> None:
    """An exit that the sniper did not make begins to work, beside one of its own that may be under way."""
    touch_working(s, working)
    touch_account(s)
    touch_position(s, row)
    position = s.positions[row]
    s.working[working] = s.blank_working[0]
    order = s.working[working]
    order.order_seq = key
    order.position_row = row
    order.side = side
    order.purpose = l.EXIT
    order.order_type = l.MARKET
    order.lots = lots
    order.event_ns = event_ns
    order.position_id = position.position_id
    s.account[0].working_orders += 1
    if position.exit_seq == 0:
        position.exit_seq = key
        position.state = l.POS_CLOSING


@kernel
def _adopt_exit(s: Any, report: Any) -> int:
    """An order of an earlier incarnation that the journal never saw has filled: only an exit may go out unjournaled. It gets a working row if
    exactly one position can be meant, beside an exit that was decided before this was heard; gives the row, or −1."""
    found, count = -1, 0
    for strategy in range(l.MAX_STRATEGIES):
        row = report.instrument * l.MAX_STRATEGIES + strategy
        p = s.positions[row]
        if s.states[report.instrument].open_mask >> strategy & 1 and p.lots > 0 and p.side == -report.side:
            found = row
            count += 1
    working = find_working(s, 0)
    if count != 1 or working < 0:
        return -1
    _open_exit(s, working, found, report.spare, report.side, _ADOPTED_LOTS, report.event_ns)  # its terminal report ends it
    return working


@kernel
def _announced(s: Any, report: Any, key: int) -> int:
    """The gateway is about to close a position: its order works from now on. Gives the position's row, −1 where nothing is held there."""
    row = report.instrument * l.MAX_STRATEGIES + report.code
    working = find_working(s, 0)
    if (report.code >= l.MAX_STRATEGIES or report.instrument >= s.states.shape[0] or working < 0 or find_working(s, key) >= 0
            or s.positions[row].lots <= 0 or s.positions[row].side == report.side):
        return -1
    position = s.positions[row]
    s.own[0].state_before = position.state
    _open_exit(s, working, row, key, report.side, report.last_lots, report.event_ns)
    position.exit_working_lots += report.last_lots
    if position.exit_reason == l.EXIT_NONE:
        position.exit_reason = l.EXIT_FLATTEN
    return row


@kernel
def settle_report(s: Any, exit_retry_ns: int) -> int:
    """Apply `s.report[0]` to the book (transactional; at most two dozen undo lines, but for a statement); gives the row of the position that it
    concerns, −1 for none."""
    report = s.report[0]
    kind = report.kind
    if kind == l.BALANCE:
        if report.code == 0:  # a deposit
            touch_account(s)
            account = s.account[0]
            account.cash += report.balance
            account.initial_equity += report.balance
            survey(s)
            account.equity = s.own[0].equity
            account.peak_equity = max(account.peak_equity, account.equity)
            account.day_start_equity += report.balance
        else:  # a statement: the venue has told everything that is behind it
            _finish_earlier(s, report.spare if report.spare > 0 else 1 << 62, max(report.event_ns, s.line[0].event_ns))
        return -1
    key = report.order_seq if report.order_seq > 0 else report.spare
    if kind == l.ACCEPTED or key == 0:
        return -1
    if kind == l.ANNOUNCED:
        return _announced(s, report, key)
    if kind != l.FILL and kind != l.UNKNOWN and not is_terminal(kind):
        return -1  # of an order, but not about its fate
    row = find_working(s, key)
    if row < 0:
        if key < EARLIER or kind != l.FILL or report.instrument >= s.states.shape[0]:
            return -1  # already ended: a report sent twice
        row = _adopt_exit(s, report)
        if row < 0:
            return -1
    touch_working(s, row)
    if kind == l.UNKNOWN:
        s.working[row].unknown = 1  # stays in exposure until the venue proves otherwise
        return -1
    order = s.working[row]
    touch_account(s)
    touch_position(s, order.position_row)
    instrument_id = s.positions[order.position_row].instrument
    touch_state(s, instrument_id)
    position_row = order.position_row
    s.own[0].state_before = s.positions[position_row].state
    event_ns = max(report.event_ns, s.line[0].event_ns)
    order.unknown = 0
    if report.cum_lots > order.cum_lots or kind == l.FILL:
        _apply_fill(s, order, report, event_ns)
    if kind != l.FILL or order.cum_lots >= order.lots:
        if kind == l.REJECTED:  # the venue has a reason that may last
            exit_retry_ns <<= min(s.positions[position_row].attempt, _MOST_DOUBLINGS)
        _finish_order(s, row, instrument_id, event_ns, exit_retry_ns)
    return position_row


@kernel
def apply_report(s: Any, exit_retry_ns: int) -> None:
    """Settle `s.report[0]`, tell how its position went on, begin its twin, or close the round trip that it has ended: at most four
    intents."""
    row = settle_report(s, exit_retry_ns)
    if row >= 0:
        event_ns = max(s.report[0].event_ns, s.line[0].event_ns)
        position, before = s.positions[row], s.own[0].state_before
        after = position.state
        if after != before and after != l.POS_FLAT:
            if before == l.POS_OPENING and after == l.POS_MONITORING:
                position.state = l.POS_OPEN
                emit_lifecycle(s, position, before, l.ADJUST_NONE, event_ns)
                position.state = after
                before = l.POS_OPEN
            emit_lifecycle(s, position, before, l.ADJUST_NONE, event_ns)
        if s.own[0].state_before == l.POS_OPENING and after != l.POS_OPENING and after != l.POS_FLAT:
            emit_context(s, position, event_ns)
        if after == l.POS_MONITORING and (s.own[0].state_before == l.POS_OPENING or s.own[0].state_before == l.POS_OPEN):
            open_twin(s, row, event_ns)
        close_if_flat(s, row, event_ns)
