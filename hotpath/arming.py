"""Arming: conditions in words become sorted rows in shared memory, swapped by generation while the hot loop runs.

Two buffers; the buffer of generation g is g & 1. The other one is written, then the generation is published. A third generation waits until
the loop has committed the second, since only then is the first buffer free. What a condition has done (fired, next allowed) lives in
`condition_states` and is kept over swaps by its slot; a slot is given away only when no generation in use names its old condition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from ipc import layout as l
from ipc.messages import Condition, Plan
from ipc.segment import Memory

#: a condition id is plan_seq << PLAN_SHIFT | index in the plan
PLAN_SHIFT = 16
_SECOND_NS = 1_000_000_000


class NotArmed(Exception):
    """A plan cannot be armed as a whole; nothing has changed. The text names the field and the remedy."""


def ticks_of(text: str, instrument: Any, field: str, mantissa: str, exponent: str) -> int:
    """A decimal string in whole ticks (or lots). Raises NotArmed where it is no whole number of them."""
    unit = Decimal(int(instrument[mantissa])).scaleb(int(instrument[exponent]))
    count = Decimal(text) / unit
    if count != count.to_integral_value() or count >= 1 << 53:
        symbol = instrument["symbol"].decode()
        raise NotArmed(f"{field}: {text} is no whole number of {unit} of {symbol}; round it to a multiple of {unit}")
    return int(count)


def row_of(condition: Condition, at: str, plan: Plan, index: int, strategy: int, symbols: dict[str, int], instruments: Any) -> Any:
    """One condition as a CONDITION row, still without state slot. Raises NotArmed with the path of the field."""
    if condition.symbol not in symbols:
        raise NotArmed(f"{at}.symbol: {condition.symbol!r} is not traded here; known are {', '.join(sorted(symbols))}")
    number = symbols[condition.symbol]
    instrument = instruments[number]
    if not (condition.stop_bps or condition.stop_price or condition.time_stop_s
            or (condition.trail_distance_bps and not condition.trail_activation_bps)):
        raise NotArmed(f"{at}: no position may be without protection from its first fill on; give stop_bps, stop_price, time_stop_s, or a "
                       "trail_distance_bps with trail_activation_bps = 0")
    if condition.side == "buy" and condition.stop_bps >= 10_000:
        raise NotArmed(f"{at}.stop_bps: {condition.stop_bps} is at or below a price of zero; give fewer than 10000 bps")
    if condition.order == "limit" and condition.limit_price is None:
        raise NotArmed(f"{at}.limit_price: a limit order needs one; give it, or use order = \"market\"")
    row = np.zeros((), l.CONDITION)
    row["condition_id"] = plan.plan_seq << PLAN_SHIFT | index
    level = ticks_of(condition.level, instrument, f"{at}.level", "tick_mantissa", "tick_exponent")
    if not 0 < level <= int(instrument["max_price"]):
        raise NotArmed(f"{at}.level: {condition.level} is outside the prices of {condition.symbol}")
    row["level"] = level * 2 if condition.price == "mid" else level
    row["valid_from_ns"] = plan.due_ns + condition.valid_after_s * _SECOND_NS
    row["valid_until_ns"] = plan.due_ns + (condition.valid_after_s + condition.valid_for_s) * _SECOND_NS
    row["cooldown_ns"] = condition.cooldown_s * 1_000_000_000
    row["time_stop_ns"] = condition.time_stop_s * 1_000_000_000
    row["size_kind"], row["size_value"] = _size(condition, at, instrument)
    _protection(row, condition, at, instrument, level)
    _clauses(row, condition, at, instrument)
    if condition.limit_price is not None:
        row["limit_price"] = ticks_of(condition.limit_price, instrument, f"{at}.limit_price", "tick_mantissa", "tick_exponent")
        if not 0 < row["limit_price"] <= int(instrument["max_price"]):
            raise NotArmed(f"{at}.limit_price: {condition.limit_price} is outside the prices of {condition.symbol}")
    row["instrument"] = number
    row["strategy"] = strategy
    row["price_kind"] = l.PRICE_KINDS.index(condition.price)
    row["direction"] = l.DIRECTIONS.index(condition.direction)
    row["side"] = l.BUY if condition.side == "buy" else l.SELL
    row["order_type"] = l.MARKET if condition.order == "market" else l.LIMIT
    row["max_fires"] = condition.max_fires
    row["confidence_e4"] = int(round(condition.confidence * 10_000, 6))  # 0.29 is 2900, 0.69999 is not 7000
    for name in ("stop_bps", "target_bps", "trail_activation_bps", "trail_distance_bps", "max_slippage_bps"):
        row[name] = getattr(condition, name)
    row["plan_seq"] = plan.plan_seq
    return row


def _protection(row: Any, condition: Condition, at: str, instrument: Any, level: int) -> None:
    """Stop and target as prices: on their side of the level, and not as distances as well."""
    sign = 1 if condition.side == "buy" else -1
    for name, side in (("stop", -sign), ("target", sign)):
        text = getattr(condition, f"{name}_price")
        if text is None:
            continue
        field = f"{at}.{name}_price"
        if getattr(condition, f"{name}_bps"):
            raise NotArmed(f"{field}: {name}_bps is there, too; give one of them")
        price = ticks_of(text, instrument, field, "tick_mantissa", "tick_exponent")
        if not 0 < price <= int(instrument["max_price"]) or side * (price - level) <= 0:
            raise NotArmed(f"{field}: {text} is not {'above' if side > 0 else 'below'} the level {condition.level}, where the {name} of a "
                           f"{condition.side} belongs")
        row[f"{name}_price"] = price


def _clauses(row: Any, condition: Condition, at: str, instrument: Any) -> None:
    row["clauses"] = len(condition.clauses)
    tick = float(Decimal(int(instrument["tick_mantissa"])).scaleb(int(instrument["tick_exponent"])))
    for k, clause in enumerate(condition.clauses):
        price, other = clause.feature in l.PRICE_FEATURES, clause.other in l.PRICE_FEATURES
        if clause.other is not None and price != other:
            raise NotArmed(f"{at}.clauses[{k}]: {clause.feature} and {clause.other} are not of one kind: one is a price; compare like with like")
        row["clause_feature"][k] = l.FEATURES.index(clause.feature)
        row["clause_op"][k] = l.OPERATORS.index(clause.op)
        row["clause_other"][k] = l.NO_FEATURE if clause.other is None else l.FEATURES.index(clause.other)
        row["clause_value"][k] = clause.value / tick if price and clause.other is None else clause.value


def clauses_of(row: Any, instrument: Any) -> list[str]:
    """The clauses of a CONDITION row in words: `spread_bps < 2`, `last > 0.9995 × high_60s`; prices in the quote currency."""
    tick = float(Decimal(int(instrument["tick_mantissa"])).scaleb(int(instrument["tick_exponent"])))
    texts = []
    for k in range(int(row["clauses"])):
        feature, value, other = l.FEATURES[int(row["clause_feature"][k])], float(row["clause_value"][k]), int(row["clause_other"][k])
        if other != l.NO_FEATURE:
            right = ("" if value == 1 else f"{value:g} × ") + l.FEATURES[other]
        else:
            right = f"{value * tick if feature in l.PRICE_FEATURES else value:.10g}"
        texts.append(f"{feature} {l.OPERATORS[int(row['clause_op'][k])]} {right}")
    return texts


def _size(condition: Condition, at: str, instrument: Any) -> tuple[int, int]:
    value = Decimal(condition.size.value)
    if value <= 0:
        raise NotArmed(f"{at}.size.value: {condition.size.value} is not above zero")
    if condition.size.kind == "quote":
        return l.SIZE_QUOTE, min(int(value.scaleb(-int(instrument["quantum_exponent"]))), 1 << 60)
    if condition.size.kind == "equity_bps":
        if value > 10_000 or value != int(value):
            raise NotArmed(f"{at}.size.value: {condition.size.value} is no whole number of basis points up to 10000")
        return l.SIZE_EQUITY_BPS, int(value)
    return l.SIZE_BASE, ticks_of(condition.size.value, instrument, f"{at}.size.value", "lot_mantissa", "lot_exponent")


def _join_groups(rows: Any, conditions: Sequence[Condition]) -> None:
    """Name in each member of a group the group's first member, in whose state it stands whether one of them has fired."""
    first: dict[str, int] = {}
    for index, condition in enumerate(conditions):
        if condition.group is not None:
            leader = first.setdefault(condition.group, index)
            rows["group_id"][index], rows["group_slot"][index] = rows["condition_id"][leader], rows["state_slot"][leader]


class Armoury:
    """Everything armed, by strategy; the only writer of the condition table."""

    def __init__(self, memory: Memory, while_waiting: Callable[[], None]) -> None:
        self._memory = memory
        self._while_waiting = while_waiting
        run = memory.board.run[0]
        self._instruments = memory.instruments.instruments[: int(run["instruments"])]
        self.symbols = {row["symbol"].decode(): number for number, row in enumerate(self._instruments)}
        self.strategies = [row["name"].decode() for row in memory.instruments.strategies[: int(run["strategies"])]]
        self._capacity = len(memory.conditions.rows_a)
        self._rows: dict[int, Any] = {}
        self._last_plans: dict[int, int] = {}
        self._arming = 0
        self._reload()

    def _buffer(self, generation: int) -> tuple[Any, Any, str]:
        c = self._memory.conditions
        return (c.rows_b, c.index_b, "b") if generation & 1 else (c.rows_a, c.index_a, "a")

    def _reload(self) -> None:
        """A successor takes over what its predecessor had published."""
        table = self._memory.conditions.table[0]
        rows, _, letter = self._buffer(int(table["generation"]))
        armed = rows[: int(table[f"count_{letter}"])].copy()
        for strategy in range(len(self.strategies)):
            self._rows[strategy] = armed[armed["strategy"] == strategy]
            self._last_plans[strategy] = int(self._rows[strategy]["plan_seq"].max(initial=0))
        self._arming = int(armed["arming"].max()) if len(armed) else 0

    def arm(self, plan: Plan) -> tuple[int, int]:
        """Replace a strategy's conditions by the plan's; gives (generation, rows armed in all). Raises NotArmed; then nothing has changed."""
        if plan.strategy not in self.strategies:
            raise NotArmed(f"strategy: {plan.strategy!r} does not run here; running are {', '.join(self.strategies)}")
        strategy = self.strategies.index(plan.strategy)
        last = self._last_plans.get(strategy, 0)
        if plan.plan_seq == last:  # asked twice: armed anew its conditions would have forgotten what they fired
            return int(self._memory.conditions.table[0]["generation"]), sum(map(len, self._rows.values()))
        if plan.plan_seq < last:
            raise NotArmed(f"plan_seq: {plan.plan_seq} is older than {last}, which is armed; send the newest plan")
        rows = np.zeros(len(plan.conditions), l.CONDITION)
        for index, condition in enumerate(plan.conditions):
            rows[index] = row_of(condition, f"conditions[{index}]", plan, index, strategy, self.symbols, self._instruments)
        others = [kept for number, kept in self._rows.items() if number != strategy]
        count = len(rows) + sum(map(len, others))
        if count > self._capacity:
            raise NotArmed(f"conditions: {count} are more than hotpath.condition_capacity = {self._capacity}; raise it or plan fewer")
        rows["arming"] = np.arange(self._arming + 1, self._arming + 1 + len(rows))
        rows["state_slot"] = self._slots(len(rows))
        _join_groups(rows, plan.conditions)
        self._arming += len(rows)
        armed = self._publish(np.concatenate([*others, rows]), plan.plan_seq)
        self._rows[strategy], self._last_plans[strategy] = rows, plan.plan_seq
        return armed

    def _slots(self, count: int) -> Any:
        """State slots that the generation in use does not name."""
        table = self._memory.conditions.table[0]
        taken = np.zeros(self._capacity, bool)
        rows, _, letter = self._buffer(int(table["generation"]))
        taken[rows["state_slot"][: int(table[f"count_{letter}"])]] = True
        free = np.flatnonzero(~taken)
        if len(free) < count:
            raise NotArmed(f"conditions: no state slot is free for {count} more; raise hotpath.condition_capacity above {self._capacity}")
        return free[:count]

    def _publish(self, rows: Any, plan_seq: int) -> tuple[int, int]:
        table = self._memory.conditions.table[0]
        generation = int(table["generation"]) + 1
        self._wait_committed(generation - 1)
        sign = np.where(rows["direction"] == l.CROSS_UP, 1, -1)
        key = (rows["instrument"].astype(np.int64) * len(l.PRICE_KINDS) + rows["price_kind"]) * len(l.DIRECTIONS) + rows["direction"]
        order = np.lexsort((rows["arming"], sign * rows["level"], key))
        buffer, index, letter = self._buffer(generation)
        buffer[: len(rows)] = rows[order]
        index[:] = np.searchsorted(key[order], np.arange(len(index)))
        table[f"count_{letter}"] = len(rows)
        table[f"plan_seq_{letter}"] = plan_seq
        table["generation"] = generation
        return generation, len(rows)

    def _wait_committed(self, generation: int) -> None:
        """Until the hot loop has taken `generation`, so that the buffer before it is free. It does so between two ticks."""
        sniper = self._memory.sniper
        end = time.monotonic() + 2.0
        while int(sniper.commit_lines[int(sniper.commit[0]["number"]) & 1]["generation"]) != generation:
            if time.monotonic() > end:
                raise NotArmed("the hot loop did not take the last plan within 2 s; try again")
            self._while_waiting()
            time.sleep(0.0002)
