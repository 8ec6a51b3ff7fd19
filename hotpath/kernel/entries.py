"""Entries: which armed levels a price has crossed, found by search in the sorted rows, and what becomes of each.

Rows of (instrument, price kind, direction) are sorted by the order in which a moving price passes them: rising for `up`, falling for `down`,
by arming within a level. A level fires iff previous < level ≤ new (mirrored down); only the previous price is state, so a swap of the table or
a successor process migrates nothing. A tick costs what it crosses, not what is armed.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.clauses import clauses_hold
from hotpath.kernel.commit import has_room, ring_room, touch_account, touch_condition, touch_position, touch_state, touch_working
from hotpath.kernel.intents import emit_entry, emit_refused, open_working
from hotpath.kernel.money import equity, reserve_of
from hotpath.kernel.reports import find_working
from hotpath.kernel.risk import gate_size, gate_state, reference_price, size_lots
from ipc import layout as l
from ipc.jit import kernel

_DIRECTIONS = len(l.DIRECTIONS)
_KINDS = len(l.PRICE_KINDS)


@kernel
def first_beyond(rows: Any, start: int, end: int, sign: int, price: int) -> int:
    """First row in [start, end) whose sign × level is greater than sign × price (rows ascend in sign × level)."""
    low, high = start, end
    while low < high:
        middle = (low + high) >> 1
        if sign * rows[middle].level > sign * price:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def crossed_range(rows: Any, index: Any, instrument: int, kind: int, direction: int, previous: int, new: int) -> tuple[int, int]:
    """Rows [first, end) that the move previous → new crosses, in passing order; empty without a previous price."""
    if previous <= 0 or new <= 0 or previous == new:
        return 0, 0
    sign = 1 if direction == l.CROSS_UP else -1
    if sign * (new - previous) <= 0:
        return 0, 0
    key = (instrument * _KINDS + kind) * _DIRECTIONS + direction
    start, end = index[key], index[key + 1]
    if start == end:
        return 0, 0
    return first_beyond(rows, start, end, sign, previous), first_beyond(rows, start, end, sign, new)


@kernel
def is_quiet(s: Any, bound: int, previous: int, new: int) -> bool:
    """Whether a move cannot pass any level: both prices are in the interval around the price that was looked up last."""
    b = s.bounds[bound]
    return b.generation == s.line[0].generation and b.low <= new and new <= b.high and b.low <= previous and previous <= b.high


@kernel
def look_around(s: Any, rows: Any, index: Any, bound: int, price: int) -> None:
    """Note the widest interval around `price` in which no move passes a level of (instrument, kind) = `bound`, in either direction."""
    key = bound * _DIRECTIONS
    b = s.bounds[bound]
    b.low, b.high = 1, 1 << 62
    up = first_beyond(rows, index[key], index[key + 1], 1, price)  # the first level above the price: reached, it fires
    if up < index[key + 1]:
        b.high = rows[up].level - 1
    if up > index[key]:
        b.low = rows[up - 1].level  # below it, it would be armed again
    down = first_beyond(rows, index[key + 1], index[key + 2], -1, price)
    if down < index[key + 2]:
        b.low = max(b.low, rows[down].level + 1)
    if down > index[key + 1]:
        b.high = min(b.high, rows[down - 1].level)
    b.generation = s.line[0].generation


@kernel
def fire(s: Any, condition: Any, params: Any, event_ns: int) -> bool:
    """One crossed condition: skipped, refused, or an intent. False: no room in this sub-step, nothing was done."""
    slot = condition.state_slot
    memory = s.condition_states[slot]
    known = memory.condition_id == condition.condition_id
    if known and (memory.fired >= condition.max_fires or event_ns < memory.next_allowed_ns):
        return True
    if event_ns < condition.valid_from_ns or event_ns >= condition.valid_until_ns:
        return True
    if condition.group_id != 0 and s.condition_states[condition.group_slot].group_done == condition.group_id:
        return True
    if not has_room(s):
        return False
    state = s.states[condition.instrument]
    price = reference_price(state, condition.side)
    lots = 0
    code = gate_state(s, condition, params, event_ns) if clauses_hold(s, condition, event_ns) else l.REF_CLAUSE
    if code == l.REF_NONE:
        equity_now = equity(s)
        lots = size_lots(condition, s.instruments[condition.instrument], price, equity_now)
        code = gate_size(s, condition, params, price, lots, equity_now, event_ns)
    if code != l.REF_NONE:
        _refuse(s, condition, known, code, price, params.ring_reserve, event_ns)
        return True
    working = find_working(s, 0)
    if working < 0:
        _refuse(s, condition, known, l.REF_WORKING_FULL, price, params.ring_reserve, event_ns)
        return True
    touch_condition(s, slot)
    if not known:
        _fresh(memory, condition.condition_id)
    fire_index = memory.fired
    memory.fired += 1
    memory.next_allowed_ns = event_ns + condition.cooldown_ns
    memory.last_refusal = 0
    if condition.group_id != 0:
        touch_condition(s, condition.group_slot)
        s.condition_states[condition.group_slot].group_done = condition.group_id
    emit_entry(s, condition, lots, price, fire_index, event_ns)
    book_entry(s, condition, s.outbox[s.line[0].outbox_len - 1], working,
               reserve_of(s.instruments[condition.instrument], price, lots, params.taker_slippage_bps))
    return True


@kernel
def _fresh(memory: Any, condition_id: int) -> None:
    memory.condition_id = condition_id
    memory.fired = 0
    memory.refused = 0
    memory.last_refusal = 0
    memory.next_allowed_ns = 0


@kernel
def _refuse(s: Any, condition: Any, known: bool, code: int, price: int, ring_reserve: int, event_ns: int) -> None:
    """Count a refusal; journal it when this condition's last answer was another one. The level is not consumed."""
    s.refusals[code] += 1
    memory = s.condition_states[condition.state_slot]
    touch_condition(s, condition.state_slot)
    if not known:
        _fresh(memory, condition.condition_id)
    memory.refused += 1
    if memory.last_refusal != code and ring_room(s) > ring_reserve:
        memory.last_refusal = code
        emit_refused(s, condition, code, price, event_ns)


@kernel
def book_entry(s: Any, condition: Any, order: Any, working: int, reserved: int) -> None:
    """The NEW record `order` of a condition counts at once: in positions, working orders, exposure, reserved cash and the day's entries."""
    row = condition.instrument * l.MAX_STRATEGIES + condition.strategy
    touch_account(s)
    touch_state(s, condition.instrument)
    touch_position(s, row)
    touch_working(s, working)
    account = s.account[0]
    account.reserved += reserved
    account.working_orders += 1
    account.open_positions += 1
    account.entries_today += 1
    state = s.states[condition.instrument]
    state.open_mask |= 1 << condition.strategy
    state.working_lots += order.lots
    s.positions[row] = s.blank_position[0]
    p = s.positions[row]
    p.last_entry_ns = order.event_ns
    p.last_entry_lots = order.lots
    p.last_entry_price = order.limit_price if order.order_type == l.LIMIT else order.reference_price
    p.position_id = order.position_id
    p.state = l.POS_OPENING
    p.side = condition.side
    p.stop_price = condition.stop_price
    p.target_price = condition.target_price
    p.stop_bps = condition.stop_bps
    p.target_bps = condition.target_bps
    p.trail_activation_bps = condition.trail_activation_bps
    p.trail_distance_bps = condition.trail_distance_bps
    p.time_stop_ns = condition.time_stop_ns
    p.entry_seq = order.seq
    p.condition_id = condition.condition_id
    p.plan_seq = condition.plan_seq
    p.generation = order.generation
    p.fire_index = order.fire_index
    p.strategy = condition.strategy
    p.instrument = condition.instrument
    open_working(s, working, order, row, condition.valid_until_ns)
    s.working[working].reserved = reserved
