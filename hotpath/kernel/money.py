"""Integer money: value of a fill, cost removed by a reduction, reserve of an order, and the survey of all positions.

All in quanta; nothing rounds in our favour.
"""

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
def survey(s: Any) -> None:
    """What all open positions come to at the prices of now, into `s.own`, in one walk:

    equity: cash and what they are worth; unmarked: how many of them have no price, so that equity is a guess at cost; margin: cash that perpetuals
    bind, cost over leverage and what they have lost so far; gross: value of everything open or working, both sides added.
    """
    own = s.own[0]
    own.equity = s.account[0].cash
    own.unmarked = own.margin = own.gross = 0
    for k in range(s.account[0].open_positions):
        p = s.positions[s.open_rows[k]]
        instrument, state = s.instruments[p.instrument], s.states[p.instrument]
        if state.open_mask & ((1 << p.strategy) - 1) == 0:  # once for an instrument, whose positions share its exposure
            price = state.last if state.last > 0 else max(state.bid, state.ask)
            own.gross += quote_of(instrument, price, state.exposure_lots + state.working_lots)
        if p.lots > 0:
            value = position_value(instrument, state, p)
            own.equity += value
            if mark_price(state, p.side) <= 0:
                own.unmarked += 1
            if instrument.kind != l.KIND_SPOT:
                own.margin += p.cost // max(1, instrument.leverage) + 1 + max(0, -value)


@kernel
def reserve_of(instrument: Any, price: int, lots: int, slippage_bps: int) -> int:
    """Cash that an entry may take: its value (spot) or margin (perpetual) at `price` plus slippage, and the taker fee."""
    quote = quote_of(instrument, price, lots)
    quote += bps_of(quote, slippage_bps) + 1
    fee = fee_of(quote, instrument.taker_fee_e8)
    if instrument.kind == l.KIND_SPOT:
        return quote + fee
    return quote // max(1, instrument.leverage) + 1 + fee
