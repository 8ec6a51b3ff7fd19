"""The paper venue's matching: one tick against the open orders. Pure over (orders, quotes, tick): it decides, and changes only quotes.

What it decides are *actions* (fill, expire, rest), which the venue books in its ledger; so that a tick that is matched again before its
commit gives the same again. Rules:

- A market order fills at the first tick of any kind from its active time on. It takes what is displayed at the touch, then the rest at the
  touch worsened by `slippage_bps` × (rest / displayed, rounded up), at most ten times what is displayed in all; what is left expires.
  Where no quote was ever seen: all of it at the last trade worsened by `half_spread_bps`.
- An IOC order is a market order that takes nothing beyond its limit.
- A limit order that is marketable when it becomes active takes what is displayed at the touch. What is left rests, and fills at its own
  price when the opposite touch crosses it or a trade prints strictly through it, up to the size that is displayed or traded; and when its turn in the
  queue at its price has come.
- The queue: an order joins behind all that is displayed at its price on its own side, `ahead` lots. Trades at its price consume those first, and
  fill it with what they have beyond. A quote that displays less there than is thought to be ahead brings it down to that, and a touch that falls back
  behind the price to nothing; that somebody ahead has cancelled is never assumed otherwise. Where the price is not the touch, what waits there is not
  known (−1): no trade at the price fills it until a quote has shown the size, or that nobody is before it. Without quotes it is never known.
- Orders that fill on one tick share its sizes in the order of their arrival. What they took is displayed again at the next tick.
- A tick that is no market trade fills nothing and wakes nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ipc import layout as l
from ipc.jit import kernel

#: open orders that the venue holds
MAX_OPEN: Final = 1024
#: kinds of an action; EXPIRE ends the order, REST makes it a maker with `lots` ahead of it, QUEUE says how many are ahead now
ACT_FILL, ACT_EXPIRE, ACT_REST, ACT_QUEUE = 1, 2, 3, 4
#: lots ahead of a resting order where nobody can know
UNKNOWN_AHEAD: Final = -1
#: an order may take so many times what is displayed
DEPTH_TOUCHES: Final = 10
#: lots displayed where only a last price is known
UNBOUNDED_LOTS: Final = 1 << 50

#: an open order; private to the gateway, rows in the order of arrival
OPEN_ORDER = np.dtype([("active_ns", "<i8"), ("left", "<i8"), ("limit_price", "<i8"), ("instrument", "<i8"), ("side", "<i8"),
                       ("order_type", "<i8"), ("resting", "<i8"), ("ahead", "<i8")])
#: what a tick does to the open order in row `slot`
ACTION = np.dtype([("slot", "<i8"), ("kind", "<i8"), ("lots", "<i8"), ("price", "<i8"), ("liquidity", "<i8"), ("code", "<i8")])
#: actions that one tick can make: two fills and an end each, or a fill, a rest, a place in the queue
MAX_ACTIONS: Final = 3 * MAX_OPEN


@kernel
def worsen(price: int, side: int, bps: int, max_price: int) -> int:
    """A price moved by `bps` against a taker of `side`, rounded to ticks against the taker, between 1 and max_price."""
    if side > 0:
        return min(max_price, price + price // 10_000 * bps + (price % 10_000 * bps + 9_999) // 10_000)
    return max(1, price - price // 10_000 * bps - (price % 10_000 * bps + 9_999) // 10_000)


@kernel
def observe(quotes: Any, tick: Any) -> None:
    """The tick into the venue's own quotes; doing it twice changes nothing. Behind a feed's gap no price is known until one is seen."""
    if tick.kind == l.TICK_CLOCK and tick.flags & l.FLAG_GAP:
        for number in range(quotes.shape[0]):
            quote = quotes[number]
            quote.bid = quote.bid_lots = quote.ask = quote.ask_lots = quote.last = quote.last_lots = 0
        return
    if tick.kind > l.TICK_QUOTE or tick.flags & l.FLAG_NOT_MARKET:
        return
    quote = quotes[tick.instrument]
    quote.event_ns = tick.event_ns
    if tick.kind == l.TICK_TRADE:
        quote.last = tick.price
        quote.last_lots = tick.lots
    else:
        quote.bid = tick.price
        quote.bid_lots = tick.lots
        quote.ask = tick.ask_price
        quote.ask_lots = tick.ask_lots


@kernel
def touch_price(quote: Any, side: int, half_spread_bps: int, max_price: int) -> int:
    """Price in ticks that a taker of `side` meets; 0: nothing was ever seen."""
    price = quote.ask if side > 0 else quote.bid
    if price > 0:
        return price
    return worsen(quote.last, side, half_spread_bps, max_price) if quote.last > 0 else 0


@kernel
def touch_lots(quote: Any, side: int) -> int:
    """Lots displayed to a taker of `side`."""
    if side > 0:
        return max(1, quote.ask_lots) if quote.ask > 0 else UNBOUNDED_LOTS
    return max(1, quote.bid_lots) if quote.bid > 0 else UNBOUNDED_LOTS


@kernel
def _act(actions: Any, count: int, slot: int, kind: int, lots: int, price: int, liquidity: int, code: int) -> int:
    row = actions[count]
    row.slot = slot
    row.kind = kind
    row.lots = lots
    row.price = price
    row.liquidity = liquidity
    row.code = code
    return count + 1


@kernel
def _market(order: Any, slot: int, quote: Any, taken: int, slippage_bps: int, half_spread_bps: int, max_price: int,
            actions: Any, count: int) -> int:
    """A market or IOC order that is active, `taken` lots of this touch being gone on this tick."""
    price = touch_price(quote, order.side, half_spread_bps, max_price)
    shown = touch_lots(quote, order.side)
    total = min(order.left, max(0, DEPTH_TOUCHES * shown - taken))
    at_touch = min(total, max(0, shown - taken))
    if order.order_type == l.IOC:
        touches = (taken + total - shown + shown - 1) // shown
        if order.side * (order.limit_price - price) < 0:
            total = at_touch = 0
        elif order.side * (order.limit_price - worsen(price, order.side, slippage_bps * touches, max_price)) < 0:
            total = at_touch
    if at_touch > 0:
        count = _act(actions, count, slot, ACT_FILL, at_touch, price, l.TAKER, 0)
    if total > at_touch:
        touches = (taken + total - shown + shown - 1) // shown
        worse = worsen(price, order.side, slippage_bps * touches, max_price)
        count = _act(actions, count, slot, ACT_FILL, total - at_touch, worse, l.TAKER, 0)
    if total < order.left:
        count = _act(actions, count, slot, ACT_EXPIRE, order.left - total, 0, 0, l.REJ_NO_LIQUIDITY)
    return count


@kernel
def _limit_arrives(order: Any, slot: int, quote: Any, taken: int, half_spread_bps: int, max_price: int, actions: Any, count: int) -> int:
    """A limit order becomes active: what is marketable is taken, the rest rests."""
    price = touch_price(quote, order.side, half_spread_bps, max_price)
    lots = 0
    if price > 0 and order.side * (order.limit_price - price) >= 0:
        lots = min(order.left, max(0, touch_lots(quote, order.side) - taken))
        if lots > 0:
            count = _act(actions, count, slot, ACT_FILL, lots, price, l.TAKER, 0)
    if lots < order.left:
        count = _act(actions, count, slot, ACT_REST, ahead_of(UNKNOWN_AHEAD, order.side, order.limit_price, quote), 0, 0, 0)
    return count


@kernel
def ahead_of(ahead: int, side: int, limit_price: int, quote: Any) -> int:
    """Lots ahead of an order at its price after a quote, `ahead` being what was thought before (UNKNOWN_AHEAD: nothing)."""
    touch, shown = (quote.bid, quote.bid_lots) if side > 0 else (quote.ask, quote.ask_lots)
    if touch <= 0 or side * (touch - limit_price) > 0:
        return ahead  # never quoted, or better prices are displayed: what waits here is not seen
    if touch != limit_price:
        return 0
    return shown if ahead == UNKNOWN_AHEAD else min(ahead, shown)


@kernel
def _resting(order: Any, slot: int, tick: Any, quote: Any, taken: int, traded: int, actions: Any, count: int) -> int:
    """What a trade or quote of its instrument does to a resting order; `traded` lots of it have gone to others of ours, `taken` of the touch."""
    ahead = order.ahead
    if tick.kind == l.TICK_TRADE:
        lots = max(0, tick.lots - traded)
        distance = order.side * (order.limit_price - tick.price)
        if distance > 0:  # it went through: all that was ahead is filled
            ahead = 0 if tick.lots > 0 else ahead
        elif distance == 0 and ahead != UNKNOWN_AHEAD:
            ahead, lots = max(0, ahead - lots), max(0, lots - ahead)
        else:
            lots = 0
    else:
        price, shown = (tick.ask_price, tick.ask_lots) if order.side > 0 else (tick.price, tick.lots)
        ahead = ahead_of(ahead, order.side, order.limit_price, quote)
        lots = 0
        if order.side * (order.limit_price - price) >= 0:
            ahead, lots = 0, max(0, shown - taken)
    if ahead != order.ahead:
        count = _act(actions, count, slot, ACT_QUEUE, ahead, 0, 0, 0)
    if lots > 0:
        count = _act(actions, count, slot, ACT_FILL, min(order.left, lots), order.limit_price, l.MAKER, 0)
    return count


@kernel
def match(opened: Any, open_count: int, tick: Any, quotes: Any, instruments: Any, slippage_bps: int, half_spread_bps: int,
          taken: Any, actions: Any) -> int:
    """Actions of one tick, after `observe`; gives their number. `taken` is scratch, int64[instruments, 2]."""
    if tick.kind == l.TICK_TRADE and tick.flags & l.FLAG_NOT_MARKET:
        return 0
    for slot in range(open_count):
        taken[opened[slot].instrument, 0] = 0
        taken[opened[slot].instrument, 1] = 0
    count, traded = 0, 0
    for slot in range(open_count):
        order = opened[slot]
        number = order.instrument
        before = count
        if order.resting == 0:
            if tick.event_ns < order.active_ns:
                continue
            quote = quotes[number]
            gone = taken[number, (order.side + 1) // 2]
            if order.order_type != l.LIMIT:
                if touch_price(quote, order.side, half_spread_bps, instruments[number].max_price) == 0:
                    continue
                count = _market(order, slot, quote, gone, slippage_bps, half_spread_bps, instruments[number].max_price, actions, count)
            else:
                count = _limit_arrives(order, slot, quote, gone, half_spread_bps, instruments[number].max_price, actions, count)
        elif tick.kind <= l.TICK_QUOTE and tick.instrument == number:
            count = _resting(order, slot, tick, quotes[number], taken[number, (order.side + 1) // 2], traded, actions, count)
            if tick.kind == l.TICK_TRADE:
                if count > before and actions[count - 1].kind == ACT_FILL:
                    traded += actions[count - 1].lots
                continue
        for row in range(before, count):
            if actions[row].kind == ACT_FILL:
                taken[number, (order.side + 1) // 2] += actions[row].lots
    return count
