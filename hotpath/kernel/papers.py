"""Trades on paper: what a condition that learning keeps from trading would have made, so that a restriction can be found wrong.

A condition marked `paper` fires as any other and passes the gate's controls of the market, of itself and of its order, but for those of the account
and of rates; PER_ENTRY times as many a day as entries are permitted. No order is made, nothing is reserved, no position opens, no group is taken.
What is followed lies in `papers`, rows like those of positions, one a strategy and instrument. It enters at the price that an order would have met
(a limit order waits until it would) and ends at its stop, trailing stop, target, rungs or time at the executable price of that tick, with the
taker's fee both ways and no slippage. Ticks that the sniper has missed are missed here, too. PAPER_OPENED and PAPER_CLOSED tell of it as LIFECYCLE
and CLOSED do of a position. A position's twin (twins.py) lies in the same row and ends in the same ways; while it is there, nothing else is
followed.

What is open outlives a start, as positions do (restore.py): it waits for its first price there, and what was due meanwhile ends at that.
"""

from __future__ import annotations

from typing import Any, Final

from hotpath.kernel.commit import has_room, ring_room, touch_account, touch_paper, touch_state
from hotpath.kernel.exits import break_even_price, level_reason
from hotpath.kernel.intents import emit_closed, emit_context, emit_paper_opened
from hotpath.kernel.money import bps_of, fee_of, mark_price, quote_of
from hotpath.kernel.reports import guard, protect
from hotpath.kernel.risk import gate_market
from ipc import layout as l
from ipc.jit import kernel

#: how many a day for each entry that is permitted: so that what fires often in the morning leaves others something in the evening
PER_ENTRY: Final = 10
#: records that one evaluation may make
_RECORDS = 3


@kernel
def gate_paper(s: Any, condition: Any, params: Any, event_ns: int) -> int:
    """The controls that a trade on paper has to pass; a refusal code."""
    if (params.min_confidence_e4 < 0 or params.max_quote_age_ns < 0 or params.max_entries_per_day < 0 or params.max_order_value < 0
            or params.price_collar_bps < 0 or params.window_collar_bps < 0):
        return l.REF_NO_LIMIT
    if condition.confidence_e4 < params.min_confidence_e4:
        return l.REF_CONFIDENCE
    if s.instruments[condition.instrument].permitted >> condition.strategy & 1 == 0:
        return l.REF_PERMISSION
    code = gate_market(s, condition, params, event_ns)
    if code != l.REF_NONE:
        return code
    row = condition.instrument * l.MAX_STRATEGIES + condition.strategy
    if s.positions[row].state != l.POS_FLAT or s.papers[row].state != l.POS_FLAT:
        return l.REF_POSITION_OPEN
    if condition.side < 0 and s.instruments[condition.instrument].kind == l.KIND_SPOT:
        return l.REF_SPOT_SHORT
    if s.account[0].papers_today >= PER_ENTRY * params.max_entries_per_day:
        return l.REF_DAILY_ENTRIES
    if ring_room(s) <= params.ring_reserve + _RECORDS:
        return l.REF_RING_RESERVE
    return l.REF_NONE


@kernel
def open_paper(s: Any, condition: Any, lots: int, price: int, fire_index: int, event_ns: int) -> None:
    """A condition has fired: its trade opens at `price`, or waits for its limit."""
    row = condition.instrument * l.MAX_STRATEGIES + condition.strategy
    number = s.cursors[0].incarnation << 40 | (s.line[0].intent_seq + 1)  # of its first record, whenever that comes: nobody else gets it now
    book_paper(s, condition, row, number, lots, fire_index, s.line[0].generation)
    p = s.papers[row]
    emit_paper_opened(s, p, 0, 0, event_ns)
    if p.last_entry_price == 0 or p.side * (price - p.last_entry_price) <= 0:
        _enter(s, p, price, event_ns)


@kernel
def book_paper(s: Any, condition: Any, row: int, position_id: int, lots: int, fire_index: int, generation: int) -> None:
    """The trade of a condition takes its row, which is free, and waits for its entry."""
    touch_account(s)
    touch_state(s, condition.instrument)
    touch_paper(s, row)
    s.account[0].paper_positions += 1
    s.account[0].papers_today += 1
    s.states[condition.instrument].open_mask |= 1 << (l.PAPER_BIT + condition.strategy)
    s.papers[row] = s.blank_position[0]
    p = s.papers[row]
    p.position_id = position_id
    p.state = l.POS_OPENING
    p.side = condition.side
    p.entry_lots = lots
    guard(p, condition)
    p.condition_id = condition.condition_id
    p.plan_seq = condition.plan_seq
    p.generation = generation
    p.fire_index = fire_index
    p.strategy = condition.strategy
    p.instrument = condition.instrument
    p.last_entry_price = condition.limit_price if condition.order_type == l.LIMIT else 0
    p.deadline_ns = condition.valid_until_ns


@kernel
def _enter(s: Any, p: Any, price: int, event_ns: int) -> None:
    """It is in, at `price`, and tells; the row has been saved."""
    book_paper_entry(s, p, price, event_ns)
    emit_paper_opened(s, p, price, 0, event_ns)
    emit_context(s, p, event_ns)


@kernel
def book_paper_entry(s: Any, p: Any, price: int, event_ns: int) -> None:
    """It is in, at `price`; the row has been saved."""
    instrument = s.instruments[p.instrument]
    p.state = l.POS_MONITORING
    p.lots = p.entry_lots
    p.entry_quote = p.cost = quote_of(instrument, price, p.lots)
    p.fees = fee_of(p.entry_quote, instrument.taker_fee_e8)
    p.opened_ns = event_ns
    p.deadline_ns = event_ns + p.time_stop_ns if p.time_stop_ns > 0 else 0
    protect(p, instrument.value_quanta)


@kernel
def evaluate_paper(s: Any, row: int, price: int, event_ns: int, forced: int, ring_reserve: int) -> bool:
    """Test one trade on paper at `price`, its executable side (0: no level is tested). False: no room, try again in the next sub-step."""
    p = s.papers[row]
    if not has_room(s):
        return False
    if ring_room(s) <= ring_reserve + _RECORDS:  # what is left is for exits
        return True
    if p.state == l.POS_OPENING:
        _wait(s, row, event_ns, forced)
        return True
    if price > 0 and p.side * (price - p.best_price) > 0:
        touch_paper(s, row)
        p.best_price = price
    reason = p.exit_reason if p.exit_reason != l.EXIT_NONE else forced
    if reason == l.EXIT_NONE and price > 0:
        reason = level_reason(p, price)
    if reason == l.EXIT_NONE and p.deadline_ns > 0 and event_ns >= p.deadline_ns:
        reason = l.EXIT_TIME
    mark = price if price > 0 else mark_price(s.states[p.instrument], p.side)
    if reason != l.EXIT_NONE:
        touch_paper(s, row)
        p.exit_reason = reason  # from here on it is due until it is done, as a position's is
        if mark > 0:  # else nothing has traded since the start that it was restored at: it meets the first price
            _sell(s, p, p.lots, mark)
            _end(s, row, event_ns)
    elif price > 0 and (p.rungs_done < p.rungs or p.break_even_bps > 0):
        _improve(s, row, price, event_ns)
    return True


@kernel
def _wait(s: Any, row: int, event_ns: int, forced: int) -> None:
    """An entry with a limit: it is met, its time is over, or it waits on."""
    p = s.papers[row]
    state = s.states[p.instrument]
    price = mark_price(state, -p.side)
    if forced != l.EXIT_NONE or event_ns >= p.deadline_ns:
        free_paper(s, row)
    elif price > 0 and p.side * (price - p.last_entry_price) <= 0:
        touch_paper(s, row)
        _enter(s, p, price, event_ns)


@kernel
def _improve(s: Any, row: int, price: int, event_ns: int) -> None:
    """A rung of the ladder is sold, or the stop moves to break-even."""
    p = s.papers[row]
    average = p.entry_quote // s.instruments[p.instrument].value_quanta // p.entry_lots
    gain = p.side * (price - average)
    rung = p.rungs_done
    if rung < p.rungs and gain >= bps_of(average, p.rung_bps[rung]):
        touch_paper(s, row)
        share, wanted = 0, 0
        for k in range(rung + 1):
            share += p.rung_share_e4[k]
            wanted += bps_of(p.entry_lots, p.rung_share_e4[k])
        lots = p.lots if share == 10_000 else min(wanted - p.exit_lots, p.lots)
        p.rungs_done += 1
        if lots > 0:
            _sell(s, p, lots, price)
        if p.lots == 0:
            p.exit_reason = l.EXIT_RUNG
            _end(s, row, event_ns)
    elif p.break_even_bps > 0 and gain >= bps_of(average, p.break_even_bps):
        stop = break_even_price(p, s.instruments[p.instrument])
        if p.side * (price - stop) > 0:
            touch_paper(s, row)
            p.break_even_bps = 0
            if p.stop_price == 0 or p.side * (stop - p.stop_price) > 0:
                p.stop_price = stop


@kernel
def _sell(s: Any, p: Any, lots: int, price: int) -> None:
    """So many lots are closed at `price`, fee included; the row has been saved."""
    instrument = s.instruments[p.instrument]
    quote = quote_of(instrument, price, lots)
    p.cost -= p.cost if lots >= p.lots else p.cost // p.lots * lots + p.cost % p.lots * lots // p.lots
    p.lots -= lots
    p.exit_lots += lots
    p.exit_quote += quote
    p.fees += fee_of(quote, instrument.taker_fee_e8)


@kernel
def _end(s: Any, row: int, event_ns: int) -> None:
    """Nothing is left: tell the round trip, and the row is free."""
    p = s.papers[row]
    pnl = p.side * (p.exit_quote - p.entry_quote) - p.fees
    emit_closed(s, l.PAPER_CLOSED, p, pnl, s.instruments[p.instrument].value_quanta, event_ns)
    free_paper(s, row)


@kernel
def free_paper(s: Any, row: int) -> None:
    """The row of a trade on paper is free for another."""
    p = s.papers[row]
    touch_account(s)
    touch_state(s, p.instrument)
    touch_paper(s, row)
    s.account[0].paper_positions -= 1
    s.states[p.instrument].open_mask &= ~(1 << (l.PAPER_BIT + p.strategy))
    p.state = l.POS_FLAT
    p.lots = 0


@kernel
def papers_of(s: Any, instrument: int, price_long: int, price_short: int, event_ns: int, forced: int, ring_reserve: int) -> bool:
    """Evaluate every trade on paper of an instrument; prices are what a long and a short could trade at, 0 = not tested."""
    mask = s.states[instrument].open_mask >> l.PAPER_BIT
    for strategy in range(l.MAX_STRATEGIES):
        if mask >> strategy & 1:
            row = instrument * l.MAX_STRATEGIES + strategy
            price = price_long if s.papers[row].side > 0 else price_short
            if not evaluate_paper(s, row, price, event_ns, forced, ring_reserve):
                return False
    return True


@kernel
def papers_everywhere(s: Any, event_ns: int, forced: int, ring_reserve: int) -> bool:
    """Deadlines and ends of all trades on paper, without testing levels."""
    if s.account[0].paper_positions == 0:
        return True
    for instrument in range(s.states.shape[0]):
        if s.states[instrument].open_mask >> l.PAPER_BIT != 0 and not papers_of(s, instrument, 0, 0, event_ns, forced, ring_reserve):
            return False
    return True
