"""Features of an instrument: O(1) a tick, rolling windows of 64 buckets, all over event time.

A window of W seconds is the bucket under way and the 63 before it, each W / 64 long and aligned to multiples of that; so it reaches back
between 63/64 W and W. A trade goes into the bucket under way of the finest window alone. When that bucket is over it is folded into the one
under way of the next window (10 × 15.625 ms = 156.25 ms, × 6 = 937.5 ms, × 5 = 4.6875 s, × 3 = 14.0625 s), so that a tick touches a few cache
lines however many windows there are. Sums are integers where they are subtracted again, so that nothing drifts.

Only market trades and quotes count. A quote changes no window: what is derived from it is computed when somebody asks. `value` computes one
feature at a time, for a clause or a trigger that names it; a feature without the data that it needs is NaN, and every comparison with NaN is
false.

| feature               | formula                                                                                       | unit  |
|-----------------------|-----------------------------------------------------------------------------------------------|-------|
| last, bid, ask        | price of the last trade; best quote                                                           | ticks |
| mid                   | (bid + ask) / 2                                                                               | ticks |
| microprice            | (bid × ask size + ask × bid size) / (bid size + ask size); Stoikov 2018, first approximation  | ticks |
| spread_bps            | (ask − bid) / mid                                                                             | bps   |
| imbalance             | (bid size − ask size) / (bid size + ask size)                                                 | −1…1  |
| ema_10s … ema_300s    | exponential average of the last price over time, d ema / dt = (last − ema) / horizon; exact   | ticks |
|                       | for a price that stays between trades                                                         |       |
| return_1s … _300s     | last / price at the window's start − 1                                                        | bps   |
| volatility_60s, _300s | square root of the sum of squared log returns of the window's closed buckets (realised        | bps   |
|                       | volatility: Andersen, Bollerslev, Diebold, Labys 2003), not annualised                        |       |
| volume_burst          | volume of 10 s / (volume of 300 s / 30)                                                       | ratio |
| flow_imbalance        | (bought − sold volume) / volume of 60 s, by the side that took                                | −1…1  |
| high_60s … low_900s   | highest and lowest trade of 60 s, 300 s, 900 s                                                | ticks |
| vwap_distance_bps     | last / (traded value / volume of 300 s) − 1                                                   | bps   |
| trades_per_s          | trades of 10 s / 10                                                                           | 1/s   |
| trade_age_s, quote_age_s | event time since the last trade, since the last quote                                     | s     |
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from hotpath.kernel.commit import touch_feature, touch_ring
from ipc import layout as l
from ipc.jit import kernel

#: the bucket under way of the finest window; 10, 60, 300 and 900 of them make one of the next
FINEST_NS: Final = 15_625_000
_IN_10, _IN_60, _IN_300, _IN_900 = 10, 60, 300, 900
_SLOTS = l.FEATURE_BUCKETS
#: a squared log return as an integer; 64 of them fit into an int64 up to returns of 30,000 %
_SQUARE_UNITS = 1e14
_HORIZON_1_NS, _HORIZON_2_NS, _HORIZON_3_NS = 10e9, 60e9, 300e9
#: lines of `FEATURE`: clock and averages with the bucket under way of 10 s; everything
_HOT_LINES, _ALL_LINES = 2, l.FEATURE.itemsize // l.CACHE_LINE


@kernel
def forget(s: Any, instrument: int) -> None:
    """A new session: every window starts anew. The caller has room for all of the instrument's lines."""
    touch_feature(s, instrument, _ALL_LINES)
    s.features[instrument] = s.blank_feature[0]
    for ring in range(l.FEATURE_RINGS):
        _fill(s, instrument, ring, 0, _SLOTS, 0)


@kernel
def trade(s: Any, instrument: int, event_ns: int, price: int, lots: int, sold: bool) -> None:
    """A market trade at `price` ticks; `sold`: the taker sold."""
    advance(s, instrument, event_ns)
    touch_feature(s, instrument, _HOT_LINES)
    f = s.features[instrument]
    if f.bucket == 0:
        f.bucket = f.since = event_ns // FINEST_NS
        f.ema_1 = f.ema_2 = f.ema_3 = price
    else:
        left = math.exp((f.ema_ns - event_ns) / _HORIZON_3_NS)  # of the distance; 300 s are five times 60 s, and these six times 10 s
        f.ema_3 = f.close + (f.ema_3 - f.close) * left
        left = left * left * left * left * left
        f.ema_2 = f.close + (f.ema_2 - f.close) * left
        left = left * left * left
        f.ema_1 = f.close + (f.ema_1 - f.close) * left * left
    f.ema_ns = event_ns
    f.close = price
    f.lots_10 += lots
    f.signed_10 += -lots if sold else lots
    f.notional_10 += price * lots
    f.trades_10 += 1
    f.high_10 = max(f.high_10, price)
    f.low_10 = _lower(f.low_10, price)


@kernel
def _average(average: float, price: float, elapsed_ns: float, horizon_ns: float) -> float:
    """The average after a price has stood for some time."""
    return price + (average - price) * math.exp(-elapsed_ns / horizon_ns)


@kernel
def _lower(low: int, price: int) -> int:
    """The lower of two prices, 0 being none."""
    return price if low == 0 or (price > 0 and price < low) else low


@kernel
def advance(s: Any, instrument: int, event_ns: int) -> None:
    """Close every bucket that is over at `event_ns`; whether at once or in several calls makes no difference."""
    f = s.features[instrument]
    old, new = f.bucket, event_ns // FINEST_NS
    if old == 0 or new <= old:
        return
    touch_feature(s, instrument, _HOT_LINES if new // _IN_10 == old // _IN_10 else _ALL_LINES)
    _fill(s, instrument, l.RING_CLOSE_1, old, new, f.close)
    if new // _IN_10 > old // _IN_10:
        _close_10(s, instrument, old // _IN_10, new // _IN_10)
        if new // _IN_60 > old // _IN_60:
            _close_60(s, instrument, old // _IN_60, new // _IN_60)
            if new // _IN_300 > old // _IN_300:
                _close_300(s, instrument, old // _IN_300, new // _IN_300)
                if new // _IN_900 > old // _IN_900:
                    _close_900(s, instrument, old // _IN_900, new // _IN_900)
    f.bucket = new


@kernel
def _close_10(s: Any, instrument: int, old: int, new: int) -> None:
    f = s.features[instrument]
    _fill(s, instrument, l.RING_CLOSE_10, old, new, f.close)
    f.lots_in_10 = _sum(s, instrument, l.RING_LOTS_10, old, new, f.lots_10, f.lots_in_10)
    f.trades_in_10 = _sum(s, instrument, l.RING_TRADES_10, old, new, f.trades_10, f.trades_in_10)
    f.lots_60 += f.lots_10
    f.signed_60 += f.signed_10
    f.notional_60 += f.notional_10
    f.high_60 = max(f.high_60, f.high_10)
    f.low_60 = _lower(f.low_60, f.low_10)
    f.lots_10 = f.signed_10 = f.notional_10 = f.trades_10 = f.high_10 = f.low_10 = 0


@kernel
def _close_60(s: Any, instrument: int, old: int, new: int) -> None:
    f = s.features[instrument]
    square = _square(s.feature_rings[instrument, l.RING_CLOSE_60 * _SLOTS + ((old - 1) & (_SLOTS - 1))], f.close)
    _fill(s, instrument, l.RING_CLOSE_60, old, new, f.close)
    f.squares_in_60 = _sum(s, instrument, l.RING_SQUARE_60, old, new, square, f.squares_in_60)
    f.lots_in_60 = _sum(s, instrument, l.RING_LOTS_60, old, new, f.lots_60, f.lots_in_60)
    f.signed_in_60 = _sum(s, instrument, l.RING_SIGNED_60, old, new, f.signed_60, f.signed_in_60)
    f.high_in_60 = _highest(s, instrument, l.RING_HIGH_60, old, new, f.high_60)
    f.low_in_60 = _lowest(s, instrument, l.RING_LOW_60, old, new, f.low_60)
    f.lots_300 += f.lots_60
    f.notional_300 += f.notional_60
    f.high_300 = max(f.high_300, f.high_60)
    f.low_300 = _lower(f.low_300, f.low_60)
    f.lots_60 = f.signed_60 = f.notional_60 = f.high_60 = f.low_60 = 0


@kernel
def _close_300(s: Any, instrument: int, old: int, new: int) -> None:
    f = s.features[instrument]
    square = _square(s.feature_rings[instrument, l.RING_CLOSE_300 * _SLOTS + ((old - 1) & (_SLOTS - 1))], f.close)
    _fill(s, instrument, l.RING_CLOSE_300, old, new, f.close)
    f.squares_in_300 = _sum(s, instrument, l.RING_SQUARE_300, old, new, square, f.squares_in_300)
    f.lots_in_300 = _sum(s, instrument, l.RING_LOTS_300, old, new, f.lots_300, f.lots_in_300)
    f.notional_in_300 = _sum(s, instrument, l.RING_NOTIONAL_300, old, new, f.notional_300, f.notional_in_300)
    f.high_in_300 = _highest(s, instrument, l.RING_HIGH_300, old, new, f.high_300)
    f.low_in_300 = _lowest(s, instrument, l.RING_LOW_300, old, new, f.low_300)
    f.high_900 = max(f.high_900, f.high_300)
    f.low_900 = _lower(f.low_900, f.low_300)
    f.lots_300 = f.notional_300 = f.high_300 = f.low_300 = 0


@kernel
def _close_900(s: Any, instrument: int, old: int, new: int) -> None:
    f = s.features[instrument]
    f.high_in_900 = _highest(s, instrument, l.RING_HIGH_900, old, new, f.high_900)
    f.low_in_900 = _lowest(s, instrument, l.RING_LOW_900, old, new, f.low_900)
    f.high_900 = f.low_900 = 0


# ── rings of closed buckets: slot of bucket b is b & 63, so 64 are kept; the oldest is the one just before the window ────
@kernel
def _fill(s: Any, instrument: int, ring: int, old: int, new: int, value: int) -> None:
    """Close the buckets [old, new) with one value each."""
    first = max(old, new - _SLOTS)
    touch_ring(s, instrument, ring, first, new)
    for bucket in range(first, new):
        s.feature_rings[instrument, ring * _SLOTS + (bucket & (_SLOTS - 1))] = value


@kernel
def _sum(s: Any, instrument: int, ring: int, old: int, new: int, value: int, total: int) -> int:
    """Close bucket `old` with `value` and the empty ones up to `new` with 0; gives the new sum over the 63 closed buckets of the window."""
    if new - old >= _SLOTS:
        _fill(s, instrument, ring, old, new, 0)
        return 0
    touch_ring(s, instrument, ring, old, new)
    for bucket in range(old, new):
        s.feature_rings[instrument, ring * _SLOTS + (bucket & (_SLOTS - 1))] = value
        total += value - s.feature_rings[instrument, ring * _SLOTS + ((bucket + 1) & (_SLOTS - 1))]
        value = 0
    return total


@kernel
def _highest(s: Any, instrument: int, ring: int, old: int, new: int, value: int) -> int:
    """As `_sum`, the highest of them; 0 where nothing traded."""
    _put(s, instrument, ring, old, new, value)
    highest = 0
    for slot in range(_SLOTS):
        if slot != new & (_SLOTS - 1):
            highest = max(highest, s.feature_rings[instrument, ring * _SLOTS + slot])
    return highest


@kernel
def _lowest(s: Any, instrument: int, ring: int, old: int, new: int, value: int) -> int:
    """As `_sum`, the lowest of them; 0 where nothing traded."""
    _put(s, instrument, ring, old, new, value)
    lowest = 0
    for slot in range(_SLOTS):
        if slot != new & (_SLOTS - 1):
            lowest = _lower(lowest, s.feature_rings[instrument, ring * _SLOTS + slot])
    return lowest


@kernel
def _put(s: Any, instrument: int, ring: int, old: int, new: int, value: int) -> None:
    """Close bucket `old` with `value` and the empty ones up to `new` with 0."""
    if new - old <= _SLOTS:
        _fill(s, instrument, ring, old, old + 1, value)
        old += 1
    _fill(s, instrument, ring, old, new, 0)


@kernel
def _square(before: int, close: int) -> int:
    """Squared log return from one bucket's close to the next one's; 0 without the first."""
    if before <= 0:
        return 0
    move = math.log(close / before)
    return int(move * move * _SQUARE_UNITS)


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@kernel
def value(s: Any, instrument: int, feature: int, event_ns: int) -> float:
    """A feature at `event_ns`, NaN where it has no value; `advance` has been called for that time."""
    state = s.states[instrument]
    if feature == l.FEATURE_LAST:
        return state.last if state.last > 0 else np.nan
    if feature <= l.FEATURE_IMBALANCE or feature == l.FEATURE_QUOTE_AGE:
        return _of_quote(state, feature, event_ns)
    f = s.features[instrument]
    if f.bucket == 0:
        return np.nan
    if feature == l.FEATURE_TRADE_AGE:
        return (event_ns - state.trade_ns) / 1e9
    age = f.bucket - f.since  # in finest buckets
    if feature <= l.FEATURE_EMA_3:
        return _of_average(f, feature, event_ns)
    if feature == l.FEATURE_RETURN_1S:
        return _return(s, instrument, l.RING_CLOSE_1, f.bucket, f.close)
    if feature == l.FEATURE_RETURN_10S:
        return _return(s, instrument, l.RING_CLOSE_10, f.bucket // _IN_10, f.close)
    if feature == l.FEATURE_TRADES_PER_S:
        return (f.trades_in_10 + f.trades_10) / 10.0 if age >= _SLOTS * _IN_10 else np.nan
    if age < _SLOTS * _IN_60:
        return np.nan
    if feature == l.FEATURE_RETURN_60S:
        return _return(s, instrument, l.RING_CLOSE_60, f.bucket // _IN_60, f.close)
    if feature == l.FEATURE_VOLATILITY_60S:
        return math.sqrt(f.squares_in_60 / _SQUARE_UNITS) * 1e4
    if feature == l.FEATURE_FLOW_IMBALANCE:
        lots = f.lots_in_60 + f.lots_60 + f.lots_10
        return (f.signed_in_60 + f.signed_60 + f.signed_10) / lots if lots > 0 else np.nan
    if feature == l.FEATURE_HIGH_60S:
        return _price(max(f.high_in_60, max(f.high_60, f.high_10)))
    if feature == l.FEATURE_LOW_60S:
        return _price(_lower(_lower(f.low_in_60, f.low_60), f.low_10))
    return _of_minutes(s, instrument, feature, age)


@kernel
def values(s: Any, instrument: int, event_ns: int, out: Any) -> None:
    """All features of an instrument into float64[len(layout.FEATURES)]."""
    advance(s, instrument, event_ns)
    for feature in range(len(out)):
        out[feature] = value(s, instrument, feature, event_ns)


@kernel
def _of_quote(state: Any, feature: int, event_ns: int) -> float:
    """Features of the newest quote."""
    if state.bid <= 0 or state.ask <= 0:
        return np.nan
    if feature == l.FEATURE_BID:
        return state.bid
    if feature == l.FEATURE_ASK:
        return state.ask
    if feature == l.FEATURE_MID:
        return (state.bid + state.ask) / 2.0
    if feature == l.FEATURE_SPREAD:
        return 2e4 * (state.ask - state.bid) / (state.bid + state.ask)
    if feature == l.FEATURE_QUOTE_AGE:
        return (event_ns - state.quote_ns) / 1e9
    shown = state.bid_lots + state.ask_lots
    if shown <= 0:
        return np.nan
    if feature == l.FEATURE_MICROPRICE:
        return state.bid + (state.ask - state.bid) * (state.bid_lots / shown)
    return (state.bid_lots - state.ask_lots) / shown


@kernel
def _of_average(f: Any, feature: int, event_ns: int) -> float:
    """An exponential average, once its horizon has passed."""
    elapsed = event_ns - f.ema_ns
    lived_ns = event_ns - f.since * FINEST_NS
    if feature == l.FEATURE_EMA_1:
        return _average(f.ema_1, f.close, elapsed, _HORIZON_1_NS) if lived_ns >= _HORIZON_1_NS else np.nan
    if feature == l.FEATURE_EMA_2:
        return _average(f.ema_2, f.close, elapsed, _HORIZON_2_NS) if lived_ns >= _HORIZON_2_NS else np.nan
    return _average(f.ema_3, f.close, elapsed, _HORIZON_3_NS) if lived_ns >= _HORIZON_3_NS else np.nan


@kernel
def _of_minutes(s: Any, instrument: int, feature: int, age: int) -> float:
    """Features of 300 s and 900 s."""
    f = s.features[instrument]
    if age < _SLOTS * _IN_300:
        return np.nan
    if feature == l.FEATURE_RETURN_300S:
        return _return(s, instrument, l.RING_CLOSE_300, f.bucket // _IN_300, f.close)
    if feature == l.FEATURE_VOLATILITY_300S:
        return math.sqrt(f.squares_in_300 / _SQUARE_UNITS) * 1e4
    lots = f.lots_in_300 + f.lots_300 + f.lots_60 + f.lots_10
    if feature == l.FEATURE_VOLUME_BURST:
        return 30.0 * (f.lots_in_10 + f.lots_10) / lots if lots > 0 else np.nan
    if feature == l.FEATURE_VWAP_DISTANCE:
        notional = f.notional_in_300 + f.notional_300 + f.notional_60 + f.notional_10
        return 1e4 * (f.close * (lots / notional) - 1.0) if notional > 0 else np.nan
    high = max(f.high_300, max(f.high_60, f.high_10))
    low = _lower(_lower(f.low_300, f.low_60), f.low_10)
    if feature == l.FEATURE_HIGH_300S:
        return _price(max(f.high_in_300, high))
    if feature == l.FEATURE_LOW_300S:
        return _price(_lower(f.low_in_300, low))
    if age < _SLOTS * _IN_900:
        return np.nan
    if feature == l.FEATURE_HIGH_900S:
        return _price(max(f.high_in_900, max(f.high_900, high)))
    return _price(_lower(_lower(f.low_in_900, f.low_900), low))


@kernel
def _return(s: Any, instrument: int, ring: int, bucket: int, close: int) -> float:
    """Return since the window's start in bps; NaN before the window is full."""
    before = s.feature_rings[instrument, ring * _SLOTS + (bucket & (_SLOTS - 1))]
    return 1e4 * (close / before - 1.0) if before > 0 else np.nan


@kernel
def _price(ticks: int) -> float:
    """A price, NaN where nothing traded."""
    return ticks if ticks > 0 else np.nan
