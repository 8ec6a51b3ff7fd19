"""What was learned, put upon whatever a strategy wants armed: nobody has to remember to ask for it, and no reply of a model gets around it.

Sizes are multiplied and rounded down, and enlarged no further than to the limits and to what the strategy itself permits (`most_equity_bps`). What a
restriction shuts, or makes smaller than the venue's least order, is armed on paper, so that the restriction can be found wrong, and is never an
order. A condition ends before an hour or a day that is shut begins. Stop or target go where a variant of the strategy's exits has them that is
active, and each position gets a twin that compares (control/think/exits.py). Each condition also gets the last price, and the funding rate of a
perpetual, as they were when it was planned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, NamedTuple, Protocol

import msgspec

from control.learn.exits import Variant, parts
from control.learn.gate import Adaptation
from control.learn.kinds import HOUR_NS, Kind, combined, hour_ends_ns
from control.think import exits
from control.think.strategy import Facts, Market
from ipc.messages import Condition, Size

_SECOND_NS = 1_000_000_000
#: decimals of a size
_SMALLEST = Decimal("1e-18")
#: hours in which what is shut is looked for: as long as a condition may be valid
_HOURS = 7 * 24
#: by how much price and equity may have moved when a condition fires, so that neither a limit nor the venue's least order stands in the way
_MOVED = 0.01


class Known(Protocol):
    """The part of a snapshot of the knowledge that changes entries."""

    #: whether what is active changes anything
    applies: bool

    def concerning(self, kind: Kind, now_ns: int) -> list[Adaptation]:
        """What is active and changes such an entry."""

    def time_is_shut(self, now_ns: int) -> bool:
        """No entries in that hour."""

    def exits(self, strategy: str) -> Adaptation | None:
        """The variant of a strategy's exits that is active, applied or not."""


class Caps(NamedTuple):
    """What a size is not enlarged beyond: limits of an entry (None: not set), the account's equity, and what it has open or working by symbol. A stop
    is not widened beyond `stop_bps`, nor a target beyond `target_bps`."""

    exposure_bps: int | None
    order_value: float | None
    equity: float
    exposure: Mapping[str, float] = {}
    stop_bps: int = 10_000
    target_bps: int = 10_000

    def equity_bps(self, symbol: str) -> float:
        """As a share of equity, a little below the limits; 0 where one is not set."""
        if self.exposure_bps is None or self.order_value is None or not self.equity > 0:
            return 0.0
        least = min(self.exposure_bps - 1e4 * self.exposure.get(symbol, 0.0) / self.equity, 1e4 * self.order_value / self.equity)
        return max(0.0, least * (1.0 - _MOVED))


class Changed(NamedTuple):
    """What an adaptation has changed: in words, and as (symbol, put on paper)."""

    text: str
    where: set[tuple[str, bool]]


class Enforced(NamedTuple):
    """Conditions as they may be armed, and what was changed of them, by the number of the adaptation."""

    conditions: list[Condition]
    changed: dict[int, Changed]


def enforced(conditions: Sequence[Condition], strategy: str, known: Known, market: Market, due_ns: int, caps: Caps) -> Enforced:
    """The conditions of one plan as they may be armed."""
    found, touched, ended = [], dict[int, tuple[Adaptation, set[tuple[str, bool]]]](), dict[int, tuple[Adaptation, set[str]]]()
    of_exits, shut = known.exits(strategy), _hours_that_are_shut(known)
    variant = None if of_exits is None else parts(of_exits.value)[1]
    for place, one in enumerate(conditions):
        fields, concerning = _one(one, strategy, known, market, due_ns, caps, shut)
        moved, twin = _exits(one, fields, variant if known.applies else None, variant, market, due_ns, place, caps)
        found.append(changed := msgspec.structs.replace(one, **fields | moved | twin))
        concerning += [of_exits] if moved and of_exits is not None else []
        for adaptation in concerning:
            touched.setdefault(adaptation.number, (adaptation, set()))[1].add((one.symbol, changed.paper))
        if changed.valid_for_s < one.valid_for_s:
            shut_ns = due_ns + (one.valid_after_s + changed.valid_for_s) * _SECOND_NS
            for adaptation in known.concerning(Kind(one.symbol, strategy, one.side), shut_ns):
                if adaptation.family in ("hour", "day"):
                    ended.setdefault(adaptation.number, (adaptation, set()))[1].add(one.symbol)
    told = {number: Changed(f"{adaptation.action} {adaptation.value} (adaptation {number}): ends before that {adaptation.family} for "
                            f"{_names(symbols)}", {(symbol, False) for symbol in symbols}) for number, (adaptation, symbols) in ended.items()}
    return Enforced(found, told | {number: Changed(_words(adaptation, where), where) for number, (adaptation, where) in touched.items()})


def _one(one: Condition, strategy: str, known: Known, market: Market, due_ns: int, caps: Caps,
         shut: Callable[[int], int | None]) -> tuple[dict[str, Any], list[Adaptation]]:
    """What changes of a condition, but for its exits, and which adaptations have changed it."""
    begins_ns = due_ns + one.valid_after_s * _SECOND_NS
    concerning = known.concerning(Kind(one.symbol, strategy, one.side, one.pattern, one.regime), begins_ns)
    scale = combined(adaptation.scale for adaptation in concerning)
    quote = market.quotes.get(one.symbol)
    facts = market.facts.get(one.symbol)
    last = quote.last if quote and quote.last > 0 else 0.0
    fields: dict[str, Any] = {"paper": one.paper or scale == 0.0, "mark": facts.price_text(last) if facts and last else None,
                              "funding_bps": market.funding_bps.get(one.symbol)}
    if 0.0 < scale != 1.0:
        size = scaled(one.size, scale, min(caps.equity_bps(one.symbol), float(one.most_equity_bps or 10_000)), caps.equity,
                      facts.lot_size if facts else _SMALLEST)
        if size is None or (scale < 1.0 and facts and last and is_too_small(one, size, facts, last, caps.equity)):
            fields["paper"] = True
        else:
            fields["size"] = size
    if not fields["paper"] and (shut_ns := shut(begins_ns)) is not None:
        fields["valid_for_s"] = min(one.valid_for_s, max(1, (shut_ns - begins_ns) // _SECOND_NS))
    changes = fields["paper"] != one.paper or fields.get("size", one.size) != one.size
    return fields, [adaptation for adaptation in concerning if adaptation.scale == scale] if changes else []


def _exits(one: Condition, fields: dict[str, Any], applied: Variant | None, variant: Variant | None, market: Market, due_ns: int, place: int,
           caps: Caps) -> tuple[dict[str, Any], dict[str, int]]:
    """(what the variant that is applied changes of a condition, with its size as it is in `fields`; what its twin compares)."""
    facts, quote = market.facts.get(one.symbol), market.quotes.get(one.symbol)
    if "size" in fields or fields["paper"] != one.paper:
        one = msgspec.structs.replace(one, size=fields.get("size", one.size), paper=fields["paper"])
    most_bps = None if applied is None else caps.stop_bps if applied.level == "stop" else caps.target_bps
    moved = exits.moved(one, applied, facts, quote, most_bps) if applied is not None else None
    if moved and "size" in moved and facts and quote and quote.last > 0 and is_too_small(one, moved["size"], facts, quote.last, caps.equity):
        moved = None  # an order that the venue refuses would compare nothing
    return moved or {}, exits.twin_of(one, variant, moved is not None, facts, quote, due_ns, place)


def _hours_that_are_shut(known: Known) -> Callable[[int], int | None]:
    """When the next hour begins, behind that of a time, in which there are no entries; None where there is none for as long as a condition may be
    valid. Looked for once for each hour, as plans have many conditions."""
    found: dict[int, int | None] = {}

    def next_shut_ns(begins_ns: int) -> int | None:
        first_ns = hour_ends_ns(begins_ns)
        if first_ns not in found:
            hours = (first_ns + number * HOUR_NS for number in range(_HOURS))
            found[first_ns] = next((at_ns for at_ns in hours if known.time_is_shut(at_ns)), None)
        return found[first_ns]

    return next_shut_ns


def is_too_small(one: Condition, size: Size, facts: Facts, last: float, equity: float) -> bool:
    """The venue would take no order of that size, in whole lots, at the last price or where the condition waits, or a little beside it."""
    prices = [last, *(float(text) for text in (one.level, one.limit_price) if text is not None)]
    high, low, lot = max(prices) * (1.0 + _MOVED), min(prices) * (1.0 - _MOVED), float(facts.lot_size)
    amount = float(size.value)
    lots = amount / lot if size.kind == "base" else (amount * equity / 1e4 if size.kind == "equity_bps" else amount) / (high * lot)
    whole = math.floor(lots + 1e-9)
    return whole < 1 or whole * lot * low < float(facts.min_notional)


def scaled(size: Size, scale: float, most_bps: float, equity: float, lot: Decimal = _SMALLEST) -> Size | None:
    """A size times a factor, rounded down, an amount of the base currency to whole lots; None where nothing is left. It is not enlarged beyond
    `most_bps` of equity, and what is given in the base currency not at all, as its value is not known before it fires."""
    if scale > 1:
        if size.kind == "base":
            return size
        most = Decimal(repr(most_bps)) if size.kind == "equity_bps" else Decimal(repr(most_bps * equity / 1e4))
        value = max(Decimal(size.value), min(Decimal(size.value) * Decimal(repr(scale)), most))
    else:
        value = Decimal(size.value) * Decimal(repr(scale))
    if size.kind == "equity_bps":
        return Size(kind=size.kind, value=str(int(value))) if value >= 1 else None
    if size.kind == "base":
        value = (value / lot).to_integral_value(ROUND_DOWN) * lot
    with localcontext(prec=60):
        value = value.quantize(_SMALLEST, ROUND_DOWN)
    return Size(kind=size.kind, value=format(value.normalize(), "f")) if value else None


def _words(adaptation: Adaptation, where: set[tuple[str, bool]]) -> str:
    smaller, followed = ({symbol for symbol, paper in where if paper is shut} for shut in (False, True))
    done = {f"size × {adaptation.scale:g}": smaller, "on paper only": followed}
    if adaptation.family == "exits":
        variant = parts(adaptation.value)[1]
        what = f"{variant.level} × {variant.percent / 100:g}" + (f", size ÷ {variant.larger:g}" if variant.larger > 1 else "")
        done = {what: {symbol for symbol, _ in where}}
    told = "; ".join(f"{what} for {_names(symbols)}" for what, symbols in done.items() if symbols)
    return f"{adaptation.action} {adaptation.claim.subject} (adaptation {adaptation.number}): {told}"


def _names(symbols: set[str]) -> str:
    return ", ".join(sorted(symbols))
