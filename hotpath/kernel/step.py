"""One tick through the sniper: reports → market → exits → crossed entries → commit → order ring. All branching is in `substep`.

A tick that makes more than one outbox of intents goes on in sub-steps, each a commit of its own; `resume_index` says how far it came:
0 = reports and market not applied yet, 1 + k = the first k conditions that it set off are done.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel import commit as tx
from hotpath.kernel.afterwards import tell_afterwards
from hotpath.kernel.ahead import foresee
from hotpath.kernel.exits import adjust, cancel_overdue, exits_everywhere, exits_of, quote_age_ns
from hotpath.kernel.features import trade
from hotpath.kernel.intents import emit_cancel_all, emit_missed, emit_released, emit_swapped, emit_timer
from hotpath.kernel.money import survey
from hotpath.kernel.papers import papers_everywhere, papers_of
from hotpath.kernel.reports import apply_report
from hotpath.kernel.triggers import anchor, lose_anchors, set_off
from hotpath.kernel.windows import forget
from ipc import layout as l
from ipc import ring
from ipc.jit import kernel

#: nanoseconds of a UTC day
_DAY_NS = 86_400_000_000_000
#: reports that one sub-step applies
_REPORTS = 64
#: undo lines that a statement may need: it may end every working order
_STATEMENT_LINES = 20 * l.MAX_WORKING


@kernel
def open_step(s: Any) -> None:
    """Begin; the order ring's room is not known yet."""
    tx.begin(s)
    s.own[0].ring_room = -1


@kernel
def adopt(s: Any) -> None:
    """Take over a newly published table generation and params epoch; the journal learns it by a SWAPPED record."""
    s.line[0].params_epoch = s.table[0].params_epoch
    generation = s.table[0].generation
    if generation != s.line[0].generation and tx.ring_room(s) > 0:
        s.line[0].generation = generation
        emit_swapped(s, s.generations[generation & 1].plan_seq, s.generations[generation & 1].armed, s.line[0].event_ns)


@kernel
def apply_reports(s: Any, exit_retry_ns: int) -> bool:
    """Apply what the gateway has published; False when there is more than this sub-step has room for."""
    for _ in range(_REPORTS):
        if ring.poll(s.report_ring, s.report_slots, s.line[0].report_seq + 1, s.report, 0) != ring.OK:
            return True
        if tx.ring_room(s) < 4:
            return True  # the journal is far behind: reports wait in their ring, ticks go on
        if not tx.has_room(s):
            return False
        if s.report[0].kind == l.BALANCE and s.undo[0].count + _STATEMENT_LINES > l.UNDO_LINES:
            return False
        s.line[0].report_seq += 1
        apply_report(s, exit_retry_ns)
    return False


@kernel
def apply_commands(s: Any, event_ns: int) -> None:
    """Operator commands: mark positions for their exit, cancel what is working. The exits themselves go the usual way."""
    lines = 5 * s.account[0].open_positions  # one command may mark every open position: all of them, or none in this sub-step
    while (s.line[0].command_seq < s.table[0].command_seq and tx.has_room(s) and tx.ring_room(s) > 3
           and s.undo[0].count + lines + tx.ACTION_LINES <= l.UNDO_LINES):
        command = s.commands[(s.line[0].command_seq + 1) % l.MAX_COMMANDS]
        s.line[0].command_seq += 1
        if command.command == l.CMD_RELEASE:
            tx.touch_account(s)
            s.account[0].latched &= ~(1 << command.argument)
            s.account[0].entries_due_ns[command.argument] = 0
            emit_released(s, command.argument, event_ns)
            continue
        if command.command == l.CMD_ADJUST:
            adjust(s, command.argument, command.stop_price, command.target_price, event_ns)
            continue
        if command.command != l.CMD_CLOSE_POSITION:
            emit_cancel_all(s, command.argument, event_ns)
        if command.command == l.CMD_CANCEL_ENTRIES:
            continue
        for k in range(s.account[0].open_positions):
            row = s.open_rows[k]
            p = s.positions[row]
            if (command.command == l.CMD_FLATTEN or p.position_id == command.argument) and p.exit_reason == 0:
                tx.touch_position(s, row)
                p.exit_reason = command.reason
                p.retry_ns = 0


@kernel
def new_day(s: Any, event_ns: int) -> None:
    """At the first tick of a UTC event day the daily limits start anew; after a restart, once every open position has a price."""
    day = event_ns // _DAY_NS
    if day == s.account[0].day:
        return
    survey(s)
    if s.own[0].unmarked == 0:
        tx.touch_account(s)
        s.account[0].day = day
        s.account[0].entries_today = 0
        s.account[0].papers_today = 0
        s.account[0].day_start_equity = s.own[0].equity


@kernel
def observe(s: Any, tick: Any, session_gap_ns: int) -> None:
    """The tick into its instrument's state. After a gap the price conditions re-anchor: the previous prices are forgotten."""
    tx.touch_state(s, tick.instrument)
    state = s.states[tick.instrument]
    if tick.flags & l.FLAG_NOT_MARKET != 0:
        return
    if state.last_event_ns > 0 and tick.event_ns - state.last_event_ns > session_gap_ns:
        lose_anchors(s, tick.instrument)
        forget(s, tick.instrument)
    state.last_event_ns = tick.event_ns
    if tick.kind == l.TICK_TRADE:
        state.last = tick.price
        state.trade_ns = tick.event_ns
        trade(s, tick.instrument, tick.event_ns, tick.price, tick.lots, tick.flags & l.FLAG_BUYER_IS_MAKER != 0)
    else:
        state.bid = tick.price
        state.bid_lots = tick.lots
        state.ask = tick.ask_price
        state.ask_lots = tick.ask_lots
        state.quote_ns = tick.event_ns


@kernel
def lose_sight(s: Any) -> bool:
    """The feed was away: what lies between the last price it saw and the next is not a move that anybody saw. False: no room."""
    for instrument in range(s.states.shape[0]):
        state = s.states[instrument]
        if state.prev_last | state.prev_bid | state.prev_ask | state.prev_mid | state.watched != 0:
            if not tx.has_room(s):
                return False
            tx.touch_state(s, instrument)
            lose_anchors(s, instrument)
    return True


@kernel
def mark_account(s: Any, event_ns: int) -> None:
    """Equity, its peak and the deepest drawdown (millionths), ten times an event second; while a position has no price they stay as they were."""
    tx.touch_account(s)
    account = s.account[0]
    account.event_ns = event_ns
    survey(s)
    if s.own[0].unmarked > 0:
        return
    account.equity = s.own[0].equity
    account.peak_equity = max(account.peak_equity, account.equity)
    if account.peak_equity > 0:
        drawdown = (account.peak_equity - account.equity) * 1000 // (account.peak_equity // 1000 + 1)
        account.max_drawdown_e6 = max(account.max_drawdown_e6, drawdown)


@kernel
def substep(s: Any) -> bool:
    """One transaction's worth of `s.tick[0]`; True when the tick is done."""
    tick = s.tick[0]
    open_step(s)
    line = s.line[0]
    fresh = line.resume_index == 0
    if fresh:
        adopt(s)
        params = s.params[line.params_epoch & 1]
        if not apply_reports(s, params.exit_retry_ns):
            return False
        line.event_ns = tick.event_ns
        s.own[0].ahead_ns = 0
        apply_commands(s, tick.event_ns)
        new_day(s, tick.event_ns)
        if tick.kind <= l.TICK_QUOTE:
            if not tx.has_room(s):
                return False  # before anything of the tick is applied: the next sub-step begins anew
            foresee(s, tick)
            observe(s, tick, params.session_gap_ns)
        line.resume_index = 1
    s.undo[0].tick_seq = tick.seq  # from here on a death is this tick's
    params = s.params[line.params_epoch & 1]
    if tick.kind == l.TICK_TRADE or tick.kind == l.TICK_QUOTE:
        state = s.states[tick.instrument]
        if state.open_mask != 0:
            long_price, short_price = 0, 0
            if tick.kind == l.TICK_QUOTE:
                long_price, short_price = state.bid, state.ask
            elif tick.flags & l.FLAG_NOT_MARKET == 0 and tick.event_ns - state.quote_ns > quote_age_ns(params):
                long_price, short_price = state.last, state.last  # no quote, or none any more: a stop is then kept by trades
            if not exits_of(s, tick.instrument, long_price, short_price, tick.event_ns, tick.event_ns, l.EXIT_NONE):
                return False
            if state.open_mask >> l.PAPER_BIT != 0 and not papers_of(s, tick.instrument, long_price, short_price, tick.event_ns, l.EXIT_NONE,
                                                                            params.ring_reserve):
                return False
        if tick.flags & l.FLAG_NOT_MARKET == 0:
            if not set_off(s, tick, params):
                return False
            if not fresh:
                if not tx.has_room(s):
                    return False
                tx.touch_state(s, tick.instrument)
            anchor(s, tick)
    else:
        forced = l.EXIT_NONE
        if tick.kind == l.TICK_SESSION:
            forced = l.EXIT_END if tick.flags & l.FLAG_END else l.EXIT_DATA_GAP
        blind = tick.kind == l.TICK_CLOCK and tick.flags & l.FLAG_GAP != 0
        if not exits_everywhere(s, tick.event_ns, tick.event_ns, forced):
            return False
        if not cancel_overdue(s, tick.event_ns, tick.event_ns, blind):
            return False
        if blind and not lose_sight(s):
            return False
        if not papers_everywhere(s, tick.event_ns, forced, params.ring_reserve) or not tell_afterwards(s, tick.event_ns, params.ring_reserve):
            return False
        if not tx.has_room(s):
            return False
        if tick.kind == l.TICK_SESSION and tx.ring_room(s) > 0:
            emit_cancel_all(s, 0, tick.event_ns)
        if blind and tx.ring_room(s) > 0:
            emit_missed(s, l.MISSED_FEED, l.NO_INSTRUMENT, tick.lots, tick.price, tick.event_ns)
        mark_account(s, tick.event_ns)
    line.tick_seq = tick.seq
    line.ticks += 1
    line.resume_index = 0
    return True


@kernel
def finish(s: Any) -> int:
    """Commit, then make the intents visible and let readers of our cursors go on; gives how many intents there were."""
    tx.commit(s)
    made = tx.copy_outbox(s)
    tx.crash_at(s, tx.CRASH_COPIED)
    if s.report_readers[l.SNIPER].cursor != s.line[0].report_seq:
        ring.advance(s.report_readers, l.SNIPER, s.line[0].report_seq)
    return made


@kernel
def step(s: Any) -> int:
    """`s.tick[0]` through as many sub-steps as it takes; gives the number of order-ring records made."""
    made = 0
    done = False
    while not done:
        done = substep(s)
        made += finish(s)
    ring.advance(s.tick_readers, l.SNIPER, s.tick[0].seq)
    return made


@kernel
def skip(s: Any) -> int:
    """`s.tick[0]` has killed two predecessors in the same step: pass it over, close its symbol to entries, and say so in the journal."""
    open_step(s)
    tick = s.tick[0]
    if tick.instrument < s.states.shape[0]:
        tx.touch_state(s, tick.instrument)
        s.states[tick.instrument].closed_to_entries = 1
    if tx.ring_room(s) > 0:
        emit_missed(s, l.MISSED_DEADLY, tick.instrument, 1, 0, tick.event_ns)
    s.line[0].tick_seq = tick.seq
    s.line[0].resume_index = 0
    made = finish(s)
    ring.advance(s.tick_readers, l.SNIPER, tick.seq)
    return made


@kernel
def step_without_tick(s: Any) -> int:
    """Reports, commands and a new table between ticks, as a transaction of their own."""
    open_step(s)
    if s.line[0].resume_index != 0:
        return 0
    adopt(s)
    params = s.params[s.line[0].params_epoch & 1]
    apply_reports(s, params.exit_retry_ns)
    apply_commands(s, s.line[0].event_ns)
    return finish(s)


@kernel
def step_by_clock(s: Any, now_ns: int) -> int:
    """`substep_by_clock`, committed where it changed anything; gives the number of order-ring records made."""
    return finish(s) if substep_by_clock(s, now_ns) else 0


@kernel
def substep_by_clock(s: Any, now_ns: int) -> bool:
    """No tick tells the time, which is `now_ns` by the monotonic clock: deadlines and retries of exits, and what entries are not to outlive.

    Records bear the last tick's time, so that event time never goes back when ticks come again; a TIMER record says how far ahead of it this was.
    Gives whether there is anything to commit.
    """
    open_step(s)
    if s.line[0].resume_index != 0 or tx.ring_room(s) < 1:
        return False
    params, event_ns = s.params[s.line[0].params_epoch & 1], s.line[0].event_ns
    s.own[0].ahead_ns = now_ns - event_ns  # what is told meanwhile is told at that time: a pause begins there
    emit_timer(s, now_ns - event_ns, event_ns)
    if exits_everywhere(s, event_ns, now_ns, l.EXIT_NONE):
        cancel_overdue(s, event_ns, now_ns, params.max_quote_age_ns >= 0 and now_ns - event_ns > params.max_quote_age_ns)
    if s.line[0].outbox_len == 1:  # nothing was due: nothing to tell
        s.line[0].outbox_len = 0
        s.line[0].intent_seq -= 1
        return s.undo[0].count > 0
    return True
