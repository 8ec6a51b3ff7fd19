"""Conditions in words become rows, and rows words again. Imports no kernel: whoever shows conditions needs it, too.

The strategist compiles, where a fault can still be told to whoever wrote it; the sniper takes rows only. A row is packed in one go.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from ipc import layout as l
from ipc.messages import MAX_PLAN_CONDITIONS, MAX_ROWS_BYTES, Arm, Condition, Plan

_SECOND_NS = 1_000_000_000
_ROW = struct.Struct("<8q 2H2BbB 14i 5q 5iBBBB 6d 4i 6B6B6B46x")
_FEATURE_NUMBERS = {name: number for number, name in enumerate(l.FEATURES)}
_OPERATOR_NUMBERS = {name: number for number, name in enumerate(l.OPERATORS)}
_KIND_NUMBERS = {name: number for number, name in enumerate(l.PRICE_KINDS)}


class NotArmed(Exception):
    """A plan cannot be armed as a whole; nothing has changed. The text names the field and the remedy.

    NotArmed
    └── NotContinued    a part came whose earlier parts are not there
    """


class NotContinued(NotArmed):
    """A part of a plan came whose earlier parts are not there; send them again from the first on."""


class Facts(NamedTuple):
    """What arming needs to know of an instrument; `quantum_exponent` of its quote currency."""

    number: int
    symbol: str
    tick: Decimal
    lot: Decimal
    max_price: int
    quantum_exponent: int


def facts_by_symbol(instruments: Any) -> dict[str, Facts]:
    """Facts of INSTRUMENT rows."""
    found = {}
    for number, row in enumerate(instruments):
        if symbol := row["symbol"].decode():
            found[symbol] = Facts(number, symbol, Decimal(int(row["tick_mantissa"])).scaleb(int(row["tick_exponent"])),
                                  Decimal(int(row["lot_mantissa"])).scaleb(int(row["lot_exponent"])), int(row["max_price"]),
                                  int(row["quantum_exponent"]))
    return found


def whole(text: str, unit: Decimal, symbol: str, field: str) -> int:
    """A decimal string in whole ticks (or lots). Raises NotArmed where it is no whole number of them."""
    count = Decimal(text) / unit
    number = int(count)
    if number != count or number >= 1 << 53:
        raise NotArmed(f"{field}: {text} is no whole number of {unit} of {symbol}; round it to a multiple of {unit}")
    return number


def price_in(text: str, facts: Facts, field: str) -> int:
    """A price in ticks. Raises NotArmed where it is none of the instrument's."""
    ticks = whole(text, facts.tick, facts.symbol, field)
    if not 0 < ticks <= facts.max_price:
        raise NotArmed(f"{field}: {text} is outside the prices of {facts.symbol}; give one from {facts.tick} to {facts.max_price * facts.tick}")
    return ticks


def ordered(value: float) -> int:
    """An integer for each float, in the same order; as hotpath/kernel/thresholds.py has it."""
    bits: int = struct.unpack("<q", struct.pack("<d", value + 0.0))[0]
    return bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF


def value_of(level: int) -> float:
    """The float of such an integer."""
    value: float = struct.unpack("<d", struct.pack("<q", level if level >= 0 else level ^ 0x7FFF_FFFF_FFFF_FFFF))[0]
    return value


# ── words → rows ─────────────────────────────────────────────────────────────────────────────────────────────────────
def compiled(conditions: Sequence[Condition], due_ns: int, known: Mapping[str, Facts], while_working: Callable[[], None]) -> bytes:
    """A whole plan as its rows. Raises NotArmed with the path of the first fault; calls `while_working` with every thousand.

    Of a group's members each names the first one: `group_id` is 1 + its place in the plan.
    """
    rows: list[bytes] = []
    first: dict[str, int] = {}
    for index, condition in enumerate(conditions):
        group = 0 if condition.group is None else 1 + first.setdefault(condition.group, index)
        rows.append(row_of(condition, f"conditions[{index}]", due_ns, known, group))
        if index % MAX_PLAN_CONDITIONS == 0:
            while_working()
    return b"".join(rows)


def arm_of(plan: Plan, rows: bytes) -> Arm:
    """What the sniper is told of a journaled plan, or of a part of it."""
    return Arm(strategy=plan.strategy, due_ns=plan.due_ns, next_due_ns=plan.next_due_ns, plan_seq=plan.plan_seq, keep=plan.keep, add=plan.add,
               withdraw=plan.withdraw, part=plan.part, more=plan.more, rows=rows)


def row_of(condition: Condition, at: str, due_ns: int, known: Mapping[str, Facts], group: int = 0) -> bytes:
    """One condition as the bytes of a CONDITION row, still without id, plan, strategy, slot and arming. Raises NotArmed with the field's path."""
    c = condition
    facts = known.get(c.symbol)
    if facts is None:
        raise NotArmed(f"{at}.symbol: {c.symbol!r} is not traded here; known are {', '.join(sorted(known))}")
    if not (c.stop_bps or c.stop_price or c.time_stop_s or (c.trail_distance_bps and not c.trail_activation_bps)):
        raise NotArmed(f"{at}.stop_bps: no position may be without protection from its first fill on; give stop_bps, stop_price, time_stop_s, or a "
                       "trail_distance_bps with trail_activation_bps = 0")
    if c.side == "buy" and c.stop_bps >= 10_000:
        raise NotArmed(f"{at}.stop_bps: {c.stop_bps} is at or below a price of zero; give fewer than 10000 bps")
    if c.order == "limit" and c.limit_price is None:
        raise NotArmed(f"{at}.limit_price: a limit order needs one; give it, or use order = \"market\"")
    if c.order == "market" and c.limit_price is not None:
        raise NotArmed(f"{at}.limit_price: a market order has none; leave it out, or use order = \"limit\"")
    trigger, level, around = _trigger(c, at, facts)
    size_kind, size_value = _size(c, at, facts)
    stop, target = _protection(c, at, facts, around)
    rungs = _ladder(c, at)
    clauses = _clauses(c, at, facts) if c.clauses else _NO_CLAUSES
    valid_from_ns = due_ns + c.valid_after_s * _SECOND_NS
    up = c.direction == "up"
    return _ROW.pack(
        0, level, valid_from_ns, valid_from_ns + c.valid_for_s * _SECOND_NS, c.cooldown_s * _SECOND_NS,
        c.time_stop_s * _SECOND_NS, size_value, 0 if c.limit_price is None else price_in(c.limit_price, facts, f"{at}.limit_price"),
        facts.number, 0, trigger, l.CROSS_UP if up else l.CROSS_DOWN, l.BUY if c.side == "buy" else l.SELL,
        l.MARKET if c.order == "market" else l.LIMIT,
        size_kind, c.max_fires, int(round(c.confidence * 10_000, 6)),  # 0.29 is 2900, 0.69999 is not 7000
        c.stop_bps, c.target_bps, c.trail_activation_bps, c.trail_distance_bps, c.max_slippage_bps, 0, 0, 0, len(c.clauses),
        c.rebound_bps, c.break_even_bps,
        group, stop, target, 0, 0, *rungs[0], len(c.ladder), _KIND_NUMBERS[c.price], c.paper,
        c.twin_stop_pct, c.twin_target_pct, *clauses[0], *rungs[1], *clauses[1])


def _trigger(c: Condition, at: str, facts: Facts) -> tuple[int, int, int]:
    """(trigger, level as the row has it, level in ticks or 0): exactly one of the four ways to say it."""
    if c.level is not None and c.feature is None and c.anchor is None and not c.rebound_bps:  # as most are
        level = price_in(c.level, facts, f"{at}.level")
        return _KIND_NUMBERS[c.price], level * 2 if c.price == "mid" else level, level
    given = [name for name, there in (("feature", c.feature is not None), ("anchor", c.anchor is not None),
                                      ("level", c.level is not None and not c.rebound_bps), ("rebound_bps", c.rebound_bps > 0)) if there]
    if len(given) != 1:
        raise NotArmed(f"{at}: {'both ' + ' and '.join(given) if given else 'nothing'} says when to fire; give level, or anchor and move_bps, or "
                       "feature and value, or rebound_bps (with a level or without)")
    if c.feature is not None:
        if c.value is None:
            raise NotArmed(f"{at}.value: the value that {c.feature} is to cross is missing")
        if c.feature in l.PRICE_KINDS:
            raise NotArmed(f"{at}.feature: {c.feature} is a price; give price = \"{c.feature}\" and level")
        value = c.value / float(facts.tick) if c.feature in l.PRICE_FEATURES else c.value
        return _FEATURE_NUMBERS[c.feature], ordered(value), 0
    half = 2 if c.price == "mid" else 1  # mid is held in half ticks
    kind = _KIND_NUMBERS[c.price]
    if c.anchor is not None:
        anchor = price_in(c.anchor, facts, f"{at}.anchor") * half
        if not c.move_bps:
            raise NotArmed(f"{at}.move_bps: how far from the anchor is missing; give basis points, 1 to 10000")
        moved = anchor + -(-anchor * c.move_bps // 10_000) * (1 if c.direction == "up" else -1)  # never nearer than asked for
        if not 0 < moved <= facts.max_price * half:
            raise NotArmed(f"{at}.move_bps: {c.move_bps} bps from {c.anchor} is outside the prices of {facts.symbol}; give fewer")
        return kind, moved, moved // half
    level = price_in(c.level, facts, f"{at}.level") if c.level is not None else 0
    return (l.TRIGGER_TRAILING if c.rebound_bps else kind), level * half, level


def _protection(c: Condition, at: str, facts: Facts, level: int) -> tuple[int, int]:
    """Stop and target as prices in ticks, 0 without: on their side of the level where there is one, and not as distances as well."""
    if c.stop_price is None and c.target_price is None:
        return 0, 0
    sign = 1 if c.side == "buy" else -1
    found = []
    for name, text, bps, side in (("stop", c.stop_price, c.stop_bps, -sign), ("target", c.target_price, c.target_bps, sign)):
        if text is None:
            found.append(0)
            continue
        field = f"{at}.{name}_price"
        if bps:
            raise NotArmed(f"{field}: {name}_bps is there, too; give one of them")
        price = price_in(text, facts, field)
        if level and side * (price - level) <= 0:
            raise NotArmed(f"{field}: {text} is not {'above' if side > 0 else 'below'} the level {level * facts.tick}, where the {name} of a "
                           f"{c.side} belongs")
        found.append(price)
    return found[0], found[1]


_NO_RUNGS = ((0,) * l.MAX_RUNGS, (0,) * l.MAX_RUNGS)


def _ladder(c: Condition, at: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(distances in bps, shares of the entry in 1e-4), nearest first, padded with zeros."""
    if not c.ladder:
        return _NO_RUNGS
    bps, shares = [rung.bps for rung in c.ladder], [int(round(rung.share * 10_000, 6)) for rung in c.ladder]
    if bps != sorted(set(bps)):
        raise NotArmed(f"{at}.ladder: {', '.join(map(str, bps))} bps do not rise; put the nearest rung first")
    if sum(shares) > 10_000 or not all(shares):
        raise NotArmed(f"{at}.ladder: the shares add up to {sum(shares) / 10_000:g}; give each above 0.0001 and all of them 1 at most")
    if c.target_bps and bps[-1] >= c.target_bps:
        raise NotArmed(f"{at}.ladder[{len(bps) - 1}].bps: {bps[-1]} is not nearer than target_bps = {c.target_bps}; the target sells what is left")
    pad = (0,) * (l.MAX_RUNGS - len(bps))
    return (*bps, *pad), (*shares, *pad)


def _clauses(c: Condition, at: str, facts: Facts) -> tuple[list[float], list[int]]:
    """(values, features + operators + others), padded."""
    values, features = [0.0] * l.MAX_CLAUSES, [0] * l.MAX_CLAUSES
    operators, others = [0] * l.MAX_CLAUSES, [l.NO_FEATURE] * l.MAX_CLAUSES
    for k, clause in enumerate(c.clauses):
        price, value = clause.feature in l.PRICE_FEATURES, clause.value
        if clause.other is not None:
            if price != (clause.other in l.PRICE_FEATURES):
                raise NotArmed(f"{at}.clauses[{k}]: {clause.feature} and {clause.other} are not of one kind: one is a price; compare like with like")
            others[k] = _FEATURE_NUMBERS[clause.other]
        elif price:
            value /= float(facts.tick)
        values[k], features[k], operators[k] = value, _FEATURE_NUMBERS[clause.feature], _OPERATOR_NUMBERS[clause.op]
    return values, features + operators + others


_NO_CLAUSES = ([0.0] * l.MAX_CLAUSES, [0] * (2 * l.MAX_CLAUSES) + [l.NO_FEATURE] * l.MAX_CLAUSES)


def _size(c: Condition, at: str, facts: Facts) -> tuple[int, int]:
    if c.size.kind == "base":
        lots = whole(c.size.value, facts.lot, facts.symbol, f"{at}.size.value")
        if lots <= 0:
            raise NotArmed(f"{at}.size.value: {c.size.value} is not above zero; give a size above 0")
        return l.SIZE_BASE, lots
    value = Decimal(c.size.value)
    if value <= 0:
        raise NotArmed(f"{at}.size.value: {c.size.value} is not above zero; give a size above 0")
    if c.size.kind == "quote":
        quanta = min(int(value.scaleb(-facts.quantum_exponent)), 1 << 60)
        if not quanta:
            raise NotArmed(f"{at}.size.value: {c.size.value} is less than the account's currency has decimals for; give at least "
                           f"{Decimal(1).scaleb(facts.quantum_exponent):f}")
        return l.SIZE_QUOTE, quanta
    if value > 10_000 or value != int(value):
        raise NotArmed(f"{at}.size.value: {c.size.value} is no whole number of basis points; give 1 to 10000")
    return l.SIZE_EQUITY_BPS, int(value)


# ── row → words ──────────────────────────────────────────────────────────────────────────────────────────────────────
def armed_slots(conditions: Any) -> Any:
    """Slots (int64[n], rising) of what the published generation has armed; `conditions` is that segment."""
    generation = int(conditions.table[0]["generation"])
    rows = conditions.rows[: int(conditions.table[0]["slots_used"])]
    return np.flatnonzero((rows["since"] > 0) & (rows["since"] <= generation) & ((rows["removed"] == 0) | (rows["removed"] > generation)))


def level_of(row: Any, instrument: Any) -> str:
    """What a CONDITION row waits for, as a decimal string: a price in the quote currency, or a feature's value; "" for a rebound from now on."""
    tick = Decimal(int(instrument["tick_mantissa"])).scaleb(int(instrument["tick_exponent"]))
    trigger = int(row["trigger"])
    if len(l.PRICE_KINDS) <= trigger < l.TRIGGER_TRAILING:
        value = value_of(int(row["level"]))
        return f"{value * float(tick) if l.FEATURES[trigger] in l.PRICE_FEATURES else value:.10g}"
    if not int(row["level"]):
        return ""
    mid = int(row["price_kind"]) == l.PRICE_MID if trigger == l.TRIGGER_TRAILING else trigger == l.PRICE_MID
    return format(int(row["level"]) * tick / (2 if mid else 1), "f")


def trigger_of(row: Any, instrument: Any) -> str:
    """What a CONDITION row waits for, in words: `last up 61250`, `volume_burst up 3`, `last 50 bps up from its low, once at 61000`."""
    trigger, direction, level = int(row["trigger"]), l.DIRECTIONS[int(row["direction"])], level_of(row, instrument)
    if trigger != l.TRIGGER_TRAILING:
        return f"{l.FEATURES[trigger]} {direction} {level}"
    once = f", once at {level}" if level else ""
    extreme = "low" if direction == "up" else "high"
    return f"{l.PRICE_KINDS[int(row['price_kind'])]} {int(row['rebound_bps'])} bps {direction} from its {extreme}{once}"


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


assert _ROW.size * MAX_PLAN_CONDITIONS == l.CONDITION.itemsize * MAX_PLAN_CONDITIONS == MAX_ROWS_BYTES, "a message has room for its rows"
