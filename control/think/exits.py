"""Exits as learning puts them upon a condition: a level at another distance from the entry, and the twin that goes on comparing. Pure.

A stop is not moved to where the spread alone would reach it, a target not to the last rung of a ladder or nearer. Where a stop is widened the size is
divided by as much, so that the loss at the stop does not grow. Where no such size is left, or a level cannot be moved, the condition keeps what it
has. The distance of a level that is given as a price is that from where the entry is expected; where no price says that, it is not moved.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Any, Final
from zlib import crc32

from control.learn.exits import VARIANTS, Variant
from control.think.strategy import Facts, Quote
from ipc.messages import Condition, Size

#: a stop is not tightened to fewer spreads than these
LEAST_SPREADS: Final = 2.0
#: distances in bps that a condition may have; a long's stop is above zero
_MOST_BPS, _MOST_STOP_BPS = 10_000, 9_999
_SMALLEST: Final = Decimal("1e-18")


def moved(one: Condition, variant: Variant, facts: Facts | None, quote: Quote | None, most_bps: int | None = None) -> dict[str, Any] | None:
    """The fields of a condition with a variant's exits; None where it has no such level, or it cannot be moved. It is not moved away beyond
    `most_bps` (None: as far as levels go)."""
    bps, text = (one.stop_bps, one.stop_price) if variant.level == "stop" else (one.target_bps, one.target_price)
    fields: dict[str, Any]
    if bps:
        own, new = Decimal(bps), Decimal((bps * variant.percent + 50) // 100)
        new_bps = float(new)
        fields = {f"{variant.level}_bps": int(new)}
    elif text is not None and facts is not None and (entry := _entry(one)) > 0:
        level, tick = Decimal(text), facts.tick_size
        price = ((entry + (level - entry) * variant.percent / 100) / tick).to_integral_value(ROUND_HALF_EVEN) * tick
        own, new = abs(level - entry), abs(price - entry)
        new_bps = float(new / entry * 10_000)
        if price <= 0 or (price > entry) != (level > entry):
            return None
        fields = {f"{variant.level}_price": format(price.normalize(), "f")}
    else:
        return None
    most = _MOST_STOP_BPS if variant.level == "stop" and one.side == "buy" else _MOST_BPS
    if not own > 0 or not 1.0 <= new_bps <= most or new == own or (new > own) != (variant.percent > 100):
        return None
    if most_bps is not None and new > own and new_bps > most_bps:
        return None
    if variant.level == "target" and one.ladder and new_bps <= one.ladder[-1].bps:
        return None
    if variant.level == "stop":
        if new < own and quote is not None and quote.spread_bps * LEAST_SPREADS >= new_bps:
            return None
        if new > own:
            if (size := _smaller(one.size, own, new, facts)) is None:
                return None
            fields["size"] = size
    return fields


def _entry(one: Condition) -> Decimal:
    """Price at which an entry is expected, as its condition tells; 0 where it does not: what triggers it may come at any price."""
    if one.rebound_bps:
        return Decimal(0)
    if one.limit_price is not None:
        return Decimal(one.limit_price)
    if one.level is not None:
        return Decimal(one.level)
    if one.anchor is not None:
        return Decimal(one.anchor) * (10_000 + (one.move_bps if one.direction == "up" else -one.move_bps)) / 10_000
    return Decimal(0)


def _smaller(size: Size, own: Decimal, new: Decimal, facts: Facts | None) -> Size | None:
    """A size that loses no more at the new distance than it did at its own; None where that is none."""
    unit = Decimal(1) if size.kind == "equity_bps" else facts.lot_size if size.kind == "base" and facts is not None else _SMALLEST
    value = (Decimal(size.value) * own / new / unit).to_integral_value(ROUND_DOWN) * unit
    return Size(kind=size.kind, value=format(value.normalize(), "f")) if value > 0 else None


def twin_of(one: Condition, active: Variant | None, applied: bool, facts: Facts | None, quote: Quote | None, due_ns: int,
            place: int) -> dict[str, int]:
    """What the twin of a condition compares: with what is active, else with each variant in its turn. `applied`: the condition has that variant.

    The turn is chance that a replay repeats: by when and where in its plan a condition stands, so that no variant gets the better trades.
    """
    none = {"twin_stop_pct": 0, "twin_target_pct": 0}
    if one.paper:
        return none
    if active is None:
        levels = {"stop": one.stop_bps or one.stop_price, "target": one.target_bps or one.target_price}
        possible = [variant for variant in VARIANTS.values() if levels[variant.level]]
        if not possible:
            return none
        active = possible[crc32(f"{due_ns} {place} {one.symbol}".encode()) % len(possible)]
    if not applied and moved(one, active, facts, quote) is None:
        return none
    return none | {f"twin_{active.level}_pct": active.back if applied else active.percent}
