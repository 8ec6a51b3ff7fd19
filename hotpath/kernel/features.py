"""Features of an instrument: O(1) a tick, rolling windows of 64 buckets, all over event time.

A window of W seconds is the bucket under way and the 63 before it, each W / 64 long and aligned to multiples of that; so it reaches back
between 63/64 W and W. windows.py closes the buckets.

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
from typing import Any

import numpy as np

from hotpath.kernel.commit import touch_feature
from hotpath.kernel.windows import FINEST_NS, HOT_LINES, IN_10, IN_60, IN_300, IN_900, SLOTS, SQUARE_UNITS, advance, lower
from ipc import layout as l
from ipc.jit import kernel

_HORIZON_1_NS, _HORIZON_2_NS, _HORIZON_3_NS = 10e9, 60e9, 300e9


@kernel
def trade(s: Any, instrument: int, event_ns: int, price: int, lots: int, sold: bool) -> None:
    """A market trade at `price` ticks; `sold`: the taker sold."""
    if not advance(s, instrument, event_ns):
        touch_feature(s, instrument, HOT_LINES)
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
    f.low_10 = lower(f.low_10, price)


@kernel
def _average(average: float, price: float, elapsed_ns: float, horizon_ns: float) -> float:
    """The average after a price has stood for some time."""
    return price + (average - price) * math.exp(-elapsed_ns / horizon_ns)


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
        return _return(s.buckets_1, instrument, f.bucket, f.close)
    if feature == l.FEATURE_RETURN_10S:
        return _return(s.buckets_10, instrument, f.bucket // IN_10, f.close)
    if feature == l.FEATURE_TRADES_PER_S:
        return (f.trades_in_10 + f.trades_10) / 10.0 if age >= SLOTS * IN_10 else np.nan
    if age < SLOTS * IN_60:
        return np.nan
    if feature == l.FEATURE_RETURN_60S:
        return _return(s.buckets_60, instrument, f.bucket // IN_60, f.close)
    if feature == l.FEATURE_VOLATILITY_60S:
        return math.sqrt(f.squares_in_60 / SQUARE_UNITS) * 1e4
    if feature == l.FEATURE_FLOW_IMBALANCE:
        lots = f.lots_in_60 + f.lots_60 + f.lots_10
        return (f.signed_in_60 + f.signed_60 + f.signed_10) / lots if lots > 0 else np.nan
    if feature == l.FEATURE_HIGH_60S:
        return _price(max(f.high_in_60, max(f.high_60, f.high_10)))
    if feature == l.FEATURE_LOW_60S:
        return _price(lower(lower(f.low_in_60, f.low_60), f.low_10))
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
    if age < SLOTS * IN_300:
        return np.nan
    if feature == l.FEATURE_RETURN_300S:
        return _return(s.buckets_300, instrument, f.bucket // IN_300, f.close)
    if feature == l.FEATURE_VOLATILITY_300S:
        return math.sqrt(f.squares_in_300 / SQUARE_UNITS) * 1e4
    lots = f.lots_in_300 + f.lots_300 + f.lots_60 + f.lots_10
    if feature == l.FEATURE_VOLUME_BURST:
        return 30.0 * (f.lots_in_10 + f.lots_10) / lots if lots > 0 else np.nan
    if feature == l.FEATURE_VWAP_DISTANCE:
        notional = f.notional_in_300 + f.notional_300 + f.notional_60 + f.notional_10
        return 1e4 * (f.close * (lots / notional) - 1.0) if notional > 0 else np.nan
    high = max(f.high_300, max(f.high_60, f.high_10))
    low = lower(lower(f.low_300, f.low_60), f.low_10)
    if feature == l.FEATURE_HIGH_300S:
        return _price(max(f.high_in_300, high))
    if feature == l.FEATURE_LOW_300S:
        return _price(lower(f.low_in_300, low))
    if age < SLOTS * IN_900:
        return np.nan
    if feature == l.FEATURE_HIGH_900S:
        return _price(max(f.high_in_900, max(f.high_900, high)))
    return _price(lower(lower(f.low_in_900, f.low_900), low))


@kernel
def _return(buckets: Any, instrument: int, bucket: int, close: int) -> float:
    """Return since the window's start in bps; NaN before the window is full."""
    before = buckets[instrument, bucket & (SLOTS - 1)].close
    return 1e4 * (close / before - 1.0) if before > 0 else np.nan


@kernel
def _price(ticks: int) -> float:
    """A price, NaN where nothing traded."""
    return ticks if ticks > 0 else np.nan
