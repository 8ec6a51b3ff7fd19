"""Integer money: value of a fill, cost removed by a reduction, reserve of an order, equity. All in quanta; nothing rounds in our favour."""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.jit import kernel


@kernel
def quote_of(instrument: Any, price: int, lots: int) -> int:
    """Quanta of `lots` at `price` ticks; cannot overflow for what was admitted."""
    return price * lots * instrument.value_quanta


@kernel
def fee_of(quote: int, fee_e8: int) -> int:
    """Fee of a fill, rounded up (as the paper venue and most venues do). Split so that it cannot overflow."""
    whole, rest = quote // 100_000_000, quote % 100_000_000
    return whole * fee_e8 + (rest * fee_e8 + 99_999_999) // 100_000_000


@kernel
def bps_of(value: int, bps: int) -> int:
    """`bps` basis points of a value, divided first so that it cannot overflow; rounds towards zero risk (down)."""
    return value // 10_000 * bps + value % 10_000 * bps // 10_000


@kernel
def cost_removed(cost: int, closed: int, lots: int) -> int:
    """Part of an average cost that leaves with `closed` of `lots`: floor, and all of it with the last lot."""
    if closed >= lots:
        return cost
    return cost // lots * closed + cost % lots * closed // lots


@kernel
def mark_price(state: Any, side: int) -> int:
    """Price in ticks at which a position of `side` could be closed: bid for a long, ask for a short, else the last trade, else 0."""
    if side > 0:
        return state.bid if state.bid > 0 else state.last
    return state.ask if state.ask > 0 else state.last


@kernel
def position_value(instrument: Any, state: Any, position: Any) -> int:
    """What an open position adds to equity: its sale value (spot), its unrealised profit (perpetual). Without a price: its cost."""
    mark = mark_price(state, position.side)
    value = quote_of(instrument, mark, position.lots) if mark > 0 else position.cost
    if instrument.kind == l.KIND_SPOT:
        return value
    return position.side * (value - position.cost)


@kernel
def equity(s: Any) -> int:
    """Cash plus what every open position is worth now."""
    total = s.account[0].cash
    for instrument in range(s.states.shape[0]):
        mask = s.states[instrument].open_mask
        if mask != 0:
            for strategy in range(l.MAX_STRATEGIES):
                row = instrument * l.MAX_STRATEGIES + strategy
                if mask >> strategy & 1 and s.positions[row].lots > 0:
                    total += position_value(s.instruments[instrument], s.states[instrument], s.positions[row])
    return total


@kernel
def all_marked(s: Any) -> bool:
    """Whether every open position has a price; without one equity is a guess at cost."""
    for instrument in range(s.states.shape[0]):
        mask = s.states[instrument].open_mask
        if mask != 0:
            for strategy in range(l.MAX_STRATEGIES):
                p = s.positions[instrument * l.MAX_STRATEGIES + strategy]
                if mask >> strategy & 1 and p.lots > 0 and mark_price(s.states[instrument], p.side) <= 0:
                    return False
    return True


@kernel
def margin(s: Any) -> int:
    """Cash that open perpetuals bind: cost over leverage, and what they have lost so far."""
    bound = 0
    for instrument in range(s.states.shape[0]):
        mask = s.states[instrument].open_mask
        if mask != 0 and s.instruments[instrument].kind != l.KIND_SPOT:
            for strategy in range(l.MAX_STRATEGIES):
                p = s.positions[instrument * l.MAX_STRATEGIES + strategy]
                if mask >> strategy & 1 and p.lots > 0:
                    bound += p.cost // max(1, s.instruments[instrument].leverage) + 1
                    bound += max(0, -position_value(s.instruments[instrument], s.states[instrument], p))
    return bound


@kernel
def reserve_of(instrument: Any, price: int, lots: int, slippage_bps: int) -> int:
    """Cash that an entry may take: its value (spot) or margin (perpetual) at `price` plus slippage, and the taker fee."""
    quote = quote_of(instrument, price, lots)
    quote += bps_of(quote, slippage_bps) + 1
    fee = fee_of(quote, instrument.taker_fee_e8)
    if instrument.kind == l.KIND_SPOT:
        return quote + fee
    return quote // max(1, instrument.leverage) + 1 + fee
