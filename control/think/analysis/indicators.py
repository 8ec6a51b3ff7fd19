"""Indicators by TA-Lib, over candles in bps of their last close.

Prices go in as differences from the last close, in bps: every figure is then a distance that can be compared across coins, and the squares inside
TA-Lib's Bollinger bands lose no digits to the size of the price. What TA-Lib answers for nothing to measure (an RSI of 0 where no price ever
moved) is NaN here, as is what the history is too short for.

| figure                   | TA-Lib                            | candles it needs | source                                          |
|--------------------------|-----------------------------------|------------------|-------------------------------------------------|
| ema_fast_bps, _slow_bps  | EMA 8, 21                         | 8, 21            |                                                 |
| rsi                      | RSI 14                            | 15               | Wilder 1978, New Concepts in Technical Trading  |
| macd_histogram_bps       | MACD 12, 26, 9                    | 34               | Appel 2005, Technical Analysis: Power Tools     |
| band_position, _width    | BBANDS 20, 2 σ: %b and width      | 20               | Bollinger 2001, Bollinger on Bollinger Bands    |
| atr_bps                  | ATR 14                            | 15               | Wilder 1978                                     |
| adx                      | ADX 10                            | 20               | Wilder 1978 (there 14)                          |
| volume_flow              | OBV: its change over 20 / volume  | 21               | Granville 1963                                  |
| volatility_bps           | (own) √ mean r², 8 candles        | 9                | Andersen, Bollerslev, Diebold, Labys 2003       |

ADX is of 10, since a day's history has 23 whole hours. MACD has no value at the hour, then.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from control.think.analysis.findings import Indicators
from control.think.analysis.ta import talib
from control.think.strategy import Candles

Floats = npt.NDArray[np.float64]

EMA_FAST, EMA_SLOW, RSI, ATR, ADX, BAND, BAND_SIGMA = 8, 21, 14, 14, 10, 20, 2.0
#: candles whose returns are the volatility of now
RECENT = 8


class Series(NamedTuple):
    """A timeframe's candles and indicators, all of one length: prices in bps from the last close, returns r as differences of logarithms."""

    candle_ns: int
    time_ns: npt.NDArray[np.int64]
    price: float
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    returns: Floats
    ema_fast: Floats
    ema_slow: Floats
    atr: Floats
    adx: Floats
    upper: Floats
    middle: Floats
    lower: Floats

    def price_at(self, bps: float) -> float:
        """The price that lies so many bps from the last close."""
        return self.price * (1 + bps / 1e4)


def series(candles: Candles) -> Series:
    """Of at least one candle."""
    price = float(candles.close[-1])
    opened, high, low, close = (np.ascontiguousarray((one / price - 1) * 1e4) for one in (candles.open, candles.high, candles.low, candles.close))
    returns = np.concatenate([[math.nan], np.diff(np.log(candles.close))])
    upper, middle, lower = talib.BBANDS(close, BAND, BAND_SIGMA, BAND_SIGMA)
    return Series(candles.candle_s * 1_000_000_000, candles.time_ns, price, opened, high, low, close, np.array(candles.volume), returns,
                  talib.EMA(close, EMA_FAST), talib.EMA(close, EMA_SLOW), talib.ATR(high, low, close, ATR), talib.ADX(high, low, close, ADX),
                  upper, middle, lower)


def indicators(s: Series) -> Indicators:
    """The last values."""
    moved = bool(np.any(s.close != s.close[-1]))
    width = float(s.upper[-1] - s.lower[-1])
    return Indicators(
        ema_fast_bps=float(s.ema_fast[-1]), ema_slow_bps=float(s.ema_slow[-1]), rsi=float(talib.RSI(s.close, RSI)[-1]) if moved else math.nan,
        macd_histogram_bps=float(talib.MACD(s.close)[2][-1]), band_position=float(-s.lower[-1]) / width if width > 0 else math.nan,
        band_width_bps=width, atr_bps=float(s.atr[-1]), adx=float(s.adx[-1]), volume_flow=volume_flow(s), volatility_bps=volatility_bps(s))


def volume_flow(s: Series) -> float:
    """How much of the last candles' volume was traded in candles that rose, less that in those that fell; NaN where nothing was traded."""
    if len(s.volume) <= BAND:
        return math.nan
    total = float(s.volume[-BAND:].sum())
    balance = talib.OBV(s.close, s.volume)
    return min(1.0, max(-1.0, float(balance[-1] - balance[-1 - BAND]) / total)) if total > 0 else math.nan


def volatility_bps(s: Series) -> float:
    """Standard deviation about zero of the last candles' returns."""
    return 1e4 * math.sqrt(float(np.mean(s.returns[-RECENT:] ** 2))) if len(s.returns) > RECENT else math.nan
