"""Rows that the strategist has compiled: are they fit to be armed, what do they wait for, and into their slots with them.

Every field that the hot loop follows is looked at, since it checks nothing itself. In kernels, since numpy copies structured rows field by field.
"""
from __future__ import annotations

import math
from typing import Any, Final

from hotpath.kernel.thresholds import key_of
from ipc import layout as l
from ipc.jit import kernel

#: what may be wrong, by the code that `first_fault` gives
FAULTS: Final = (
    "", "instrument: is not one of this run", "trigger: is none", "direction: is neither up nor down", "side: is neither buy nor sell",
    "side: spot cannot be sold short", "order_type: is neither market nor limit", "level: is outside the instrument's prices",
    "limit_price: is outside the instrument's prices, or a market order has one", "size_kind: is none",
    "size_value: is not above zero", "max_fires: is below one",
    "confidence_e4: is not within 0 to 10000", "a distance in bps is not within 0 to 10000", "stop_bps: no position may be without protection from "
    "its first fill on", "stop_price or target_price: is outside the instrument's prices", "valid_until_ns: is not behind valid_from_ns",
    "time_stop_ns or cooldown_ns: is negative", "clauses: a feature, operator or number of them is none", "rungs: the ladder does not rise, or adds "
    "up to more than the position", "group_id: is not that of a group's first row at or before this one",
    "since or removed: is not 0",
)


@kernel
def first_fault(rows: Any, first: int, groups: Any, instruments: Any, count: int) -> tuple[int, int]:
    """(place, code) of the first row that may not be armed; (−1, 0) when all may. `count` instruments are in use.

    The rows stand in their plan from place `first` on; `groups` (int64) has the group of each row before them, and gets theirs.
    """
    for number in range(rows.shape[0]):
        row, place = rows[number], first + number
        groups[place] = row.group_id
        code = 1 if row.instrument >= count else 21 if row.since != 0 or row.removed != 0 else _fault(row, instruments[row.instrument])
        if code == 0 and row.group_id != 0 and (not 1 <= row.group_id <= place + 1 or groups[row.group_id - 1] != row.group_id):
            code = 20
        if code != 0:
            return place, code
    return -1, 0


@kernel
def tally(rows: Any, counts: Any) -> None:
    """Add rows to counts[instrument, trigger]."""
    for number in range(rows.shape[0]):
        counts[rows[number].instrument, rows[number].trigger] += 1


@kernel
def tally_removed(c: Any, slots: Any, counts: Any) -> None:
    """Take those of `slots` off counts[instrument, trigger]."""
    for at in range(slots.shape[0]):
        row = c.rows[slots[at]]
        counts[row.instrument, row.trigger] -= 1


@kernel
def place(c: Any, rows: Any, first: int, slots: Any, made: Any, strategy: int, plan_seq: int, generation: int, arming: int) -> None:
    """Rows into their slots, slots[first:] of the plan's, and what they wait for into made[first:] (ADDED, not sorted yet).

    `arming` is that of the plan's first row. A group's first member keeps the group's state, so the others name its id and its slot.
    """
    for number in range(rows.shape[0]):
        at = first + number
        slot = slots[at]
        c.rows[slot] = rows[number]
        row = c.rows[slot]
        row.since = generation
        row.removed = 0
        row.strategy = strategy
        row.plan_seq = plan_seq
        row.condition_id = (plan_seq << l.PLAN_SHIFT) + number
        row.arming = arming + at
        if row.group_id != 0:
            row.group_slot = slots[row.group_id - 1]
            row.group_id = c.rows[row.group_slot].condition_id
        entry = made[at]
        trailing = row.trigger == l.TRIGGER_TRAILING  # all under one key, in the order of their arming
        entry.key = key_of(row.instrument, row.trigger, 0 if trailing else row.direction)
        entry.signed = 0 if trailing else (row.level if row.direction == l.CROSS_UP else -row.level)
        entry.slot = slot
        entry.arming = row.arming


@kernel
def _fault(row: Any, instrument: Any) -> int:
    most = instrument.max_price
    if row.trigger > l.TRIGGER_TRAILING or row.price_kind > l.PRICE_MID or row.paper > 1:
        return 2
    if row.direction > l.CROSS_DOWN:
        return 3
    if row.side != l.BUY and row.side != l.SELL:
        return 4
    if row.side == l.SELL and instrument.kind == l.KIND_SPOT:
        return 5
    if row.order_type != l.MARKET and row.order_type != l.LIMIT:
        return 6
    if row.trigger <= l.PRICE_MID and not 0 < row.level <= (2 * most if row.trigger == l.PRICE_MID else most):
        return 7
    if row.trigger == l.TRIGGER_TRAILING and (not 0 <= row.level <= 2 * most or not 0 < row.rebound_bps <= 10_000):
        return 7
    if (row.order_type == l.LIMIT) != (row.limit_price > 0) or not 0 <= row.limit_price <= most:
        return 8
    if row.size_kind < l.SIZE_QUOTE or row.size_kind > l.SIZE_EQUITY_BPS:
        return 9
    if row.size_value <= 0 or row.size_value > (10_000 if row.size_kind == l.SIZE_EQUITY_BPS else 1 << 60):
        return 10
    if row.max_fires < 1:
        return 11
    if not 0 <= row.confidence_e4 <= 10_000:
        return 12
    for bps in (row.stop_bps, row.target_bps, row.trail_activation_bps, row.trail_distance_bps, row.max_slippage_bps, row.break_even_bps):
        if not 0 <= bps <= 10_000:
            return 13
    if row.stop_bps == 0 and row.stop_price == 0 and row.time_stop_ns == 0 and (row.trail_distance_bps == 0 or row.trail_activation_bps > 0):
        return 14
    if row.stop_bps == 10_000 and row.side == l.BUY:
        return 14
    if not 0 <= row.stop_price <= most or not 0 <= row.target_price <= most:
        return 15
    if row.valid_until_ns <= row.valid_from_ns or row.valid_from_ns < 0:
        return 16
    if row.time_stop_ns < 0 or row.cooldown_ns < 0:
        return 17
    if _clause_fault(row):
        return 18
    return 19 if _ladder_fault(row) else 0


@kernel
def _clause_fault(row: Any) -> bool:
    if not 0 <= row.clauses <= l.MAX_CLAUSES:
        return True
    for k in range(row.clauses):
        other = row.clause_other[k]
        if (row.clause_feature[k] >= l.TRIGGER_TRAILING or row.clause_op[k] > l.OP_BELOW or math.isnan(row.clause_value[k])
                or (other != l.NO_FEATURE and other >= l.TRIGGER_TRAILING)):
            return True
    return False


@kernel
def _ladder_fault(row: Any) -> bool:
    if not 0 <= row.rungs <= l.MAX_RUNGS:
        return True
    before, total = 0, 0
    for k in range(row.rungs):
        if not before < row.rung_bps[k] <= 10_000 or not 0 < row.rung_share_e4[k] <= 10_000:
            return True
        before = row.rung_bps[k]
        total += row.rung_share_e4[k]
    return total > 10_000
