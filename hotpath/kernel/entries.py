"""Entries: what becomes of a condition whose level was passed: skipped, refused, a trade on paper, or an order that counts at once."""

from __future__ import annotations

from typing import Any

from hotpath.kernel.ahead import look_at_entry
from hotpath.kernel.clauses import clauses_hold
from hotpath.kernel.commit import (
    has_room,
    ring_room,
    touch_account,
    touch_condition,
    touch_open_row,
    touch_position,
    touch_state,
    touch_working,
)
from hotpath.kernel.intents import emit_entry, emit_refused, open_working
from hotpath.kernel.money import reserve_of, survey
from hotpath.kernel.papers import gate_paper, open_paper
from hotpath.kernel.reports import find_working, guard
from hotpath.kernel.risk import gate_order, gate_price, gate_size, gate_state, reference_price, size_lots
from ipc import layout as l
from ipc.jit import kernel


@kernel
def is_live(s: Any, slot: int, event_ns: int) -> bool:
    """Whether a condition may still fire: armed in this generation, in its time, with fires left, its group not done."""
    condition = s.rows[slot]
    if condition.removed != 0 and condition.removed <= s.line[0].generation:
        return False
    if event_ns < condition.valid_from_ns or event_ns >= condition.valid_until_ns:
        return False
    if condition.group_id != 0 and s.condition_states[condition.group_slot].group_done == condition.group_id:
        return False
    memory = s.condition_states[slot]
    return memory.condition_id != condition.condition_id or memory.fired < condition.max_fires


@kernel
def fire(s: Any, slot: int, params: Any, event_ns: int) -> bool:
    """One condition whose time has come: skipped, refused, or an intent. False: no room in this sub-step, nothing was done."""
    if not is_live(s, slot, event_ns):
        return True
    condition, memory = s.rows[slot], s.condition_states[slot]
    known = memory.condition_id == condition.condition_id
    if known and event_ns < memory.next_allowed_ns:
        return True
    if not has_room(s):
        return False
    look_at_entry(s, condition.instrument * l.MAX_STRATEGIES + condition.strategy)
    state = s.states[condition.instrument]
    price = reference_price(state, condition.side)
    lots = 0
    paper = condition.paper != 0
    code = l.REF_CLAUSE
    if clauses_hold(s, condition, event_ns):
        code = gate_paper(s, condition, params, event_ns) if paper else gate_state(s, condition, params, event_ns)
    if code == l.REF_NONE and paper:
        survey(s)
        lots = size_lots(condition, s.instruments[condition.instrument], price, s.own[0].equity)
        code = gate_price(s, condition, price)
        if code == l.REF_NONE:
            code = gate_order(s, condition, params, price, lots)
    elif code == l.REF_NONE:
        survey(s)
        lots = size_lots(condition, s.instruments[condition.instrument], price, s.own[0].equity)
        code = gate_size(s, condition, params, price, lots, event_ns)
    if code != l.REF_NONE:
        _refuse(s, slot, known, code, price, params.ring_reserve, event_ns)
        return True
    working = -1 if paper else find_working(s, 0)
    if working < 0 and not paper:
        _refuse(s, slot, known, l.REF_WORKING_FULL, price, params.ring_reserve, event_ns)
        return True
    touch_condition(s, slot)
    if not known:
        fresh(memory, condition.condition_id)
    fire_index = memory.fired
    memory.fired += 1
    memory.next_allowed_ns = event_ns + condition.cooldown_ns
    memory.last_refusal = 0
    if condition.group_id != 0 and not paper:  # what is only followed keeps nobody from trading
        touch_condition(s, condition.group_slot)
        s.condition_states[condition.group_slot].group_done = condition.group_id
    if paper:
        open_paper(s, condition, lots, price, fire_index, event_ns)
        return True
    emit_entry(s, condition, lots, price, fire_index, event_ns)
    book_entry(s, condition, s.outbox[s.line[0].outbox_len - 1], working,
               reserve_of(s.instruments[condition.instrument], price, lots, params.taker_slippage_bps))
    return True


@kernel
def fresh(memory: Any, condition_id: int) -> None:
    """A slot's state begins anew, for the condition that has it now; the caller has saved it."""
    memory.condition_id = condition_id
    memory.fired = 0
    memory.refused = 0
    memory.last_refusal = 0
    memory.next_allowed_ns = 0
    memory.extreme = 0


@kernel
def _refuse(s: Any, slot: int, known: bool, code: int, price: int, ring_reserve: int, event_ns: int) -> None:
    """Count a refusal; journal it when this condition's last answer was another one. The level is not consumed."""
    s.refusals[code] += 1
    condition, memory = s.rows[slot], s.condition_states[slot]
    latches = code == l.REF_REPEATED and s.account[0].latched >> condition.strategy & 1 == 0
    if latches:
        touch_account(s)
        s.account[0].latched |= 1 << condition.strategy
    touch_condition(s, slot)
    if not known:
        fresh(memory, condition.condition_id)
    memory.refused += 1
    if (memory.last_refusal != code and ring_room(s) > ring_reserve) or (latches and ring_room(s) > 0):  # a latch outlives a crash
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
    touch_open_row(s, account.open_positions)
    index = account.open_positions
    s.open_rows[index] = row
    account.open_positions = index + 1
    account.entries_today += 1
    interval = s.params[s.line[0].params_epoch & 1].repeat_interval_ns
    account.entries_due_ns[condition.strategy] = max(account.entries_due_ns[condition.strategy], order.event_ns) + max(0, interval)
    state = s.states[condition.instrument]
    state.open_mask |= 1 << condition.strategy
    state.working_lots += order.lots
    s.positions[row] = s.blank_position[0]
    p = s.positions[row]
    p.open_index = index
    p.last_entry_ns = order.event_ns
    p.last_entry_lots = order.lots
    p.last_entry_price = order.limit_price if order.order_type == l.LIMIT else order.reference_price
    p.position_id = order.position_id
    p.state = l.POS_OPENING
    p.side = condition.side
    guard(p, condition)
    p.twin_stop_pct = condition.twin_stop_pct
    p.twin_target_pct = condition.twin_target_pct
    p.entry_seq = order.seq
    p.condition_id = condition.condition_id
    p.plan_seq = condition.plan_seq
    p.generation = order.generation
    p.fire_index = order.fire_index
    p.strategy = condition.strategy
    p.instrument = condition.instrument
    open_working(s, working, order, row, condition.valid_until_ns)
    s.working[working].reserved = reserved
