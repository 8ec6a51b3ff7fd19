"""What the analysis says of a symbol, in numbers with units: what rules, and whoever else decides, are given. No formula, no TA-Lib.

All of it are Structs, so that msgspec writes it as JSON as it stands; a figure that the history is too short for is NaN here and null there.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from msgspec import Struct

Side = Literal["buy", "sell"]
#: what a market is doing; see regime.py
RegimeName = Literal["trend_up", "trend_down", "range", "volatile"]
#: every pattern that there is; see patterns.py. Learning judges each by its name, so a name is never reused for something else
PatternName = Literal["range_breakout", "squeeze", "trend_pullback", "failed_breakout", "band_stretch", "engulfing", "three_outside",
                      "marubozu", "hammer", "shooting_star"]
PATTERNS: tuple[str, ...] = get_args(PatternName)
REGIMES: tuple[str, ...] = get_args(RegimeName)


class Indicators(Struct, frozen=True, kw_only=True):
    """The last values at a timeframe. Distances are bps of the last close; periods are in indicators.py."""

    ema_fast_bps: float
    ema_slow_bps: float
    #: 0 … 100
    rsi: float
    #: MACD line − its signal
    macd_histogram_bps: float
    #: 0 at the lower Bollinger band, 1 at the upper one
    band_position: float
    #: upper − lower band
    band_width_bps: float
    atr_bps: float
    #: 0 … 100
    adx: float
    #: change of on-balance volume / volume, over the same candles: −1 all fell, 1 all rose
    volume_flow: float
    #: standard deviation of a candle's return about zero, of the last few candles
    volatility_bps: float


class Regime(Struct, frozen=True, kw_only=True):
    """What the market is doing, how clearly (0 … 1), and the figures that say so.

    `since_ns` is when that began, 0 where it has been so for as long as there is history.
    """

    name: RegimeName
    confidence: float
    #: Kaufman's efficiency ratio, 0 … 1
    efficiency: float
    adx: float
    #: volatility of the last candles / of those before them
    volatility_ratio: float
    since_ns: int


class Pattern(Struct, frozen=True, kw_only=True):
    """A pattern at the last closed candle: whom it favours, how strongly (0 … 1), and the price at which that is decided."""

    name: PatternName
    side: Side
    strength: float
    level: float


class Score(Struct, frozen=True, kw_only=True):
    """Components in [−1, 1], above 0 for buying; `total` is weighted by the regime. See score.py."""

    trend: float
    reversion: float
    momentum: float
    volume: float
    pattern: float
    total: float


class Frame(Struct, frozen=True, kw_only=True):
    """One timeframe: `candles` is how many were looked at."""

    minutes: int
    candles: int
    indicators: Indicators
    regime: Regime
    patterns: tuple[Pattern, ...]
    score: Score


class Analysis(Struct, frozen=True, kw_only=True):
    """A symbol at an instant, over its timeframes, shortest first. `trade` is the one that is traded."""

    symbol: str
    now_ns: int
    #: last close
    price: float
    #: NaN without a quote
    spread_bps: float
    short_allowed: bool
    #: of one side of a trade, by the instrument
    fee_bps: float
    frames: tuple[Frame, ...]
    trade: Frame
    #: over all timeframes, in [−1, 1]
    score: float
    #: standard deviation of a day's return, by the last few candles of the traded timeframe or by all of them, whichever is more
    volatility_day_bps: float

    def costs_bps(self, widest_bps: float) -> float:
        """What entry and exit cost together: both fees and the spread; `widest_bps` stands for a spread that is not known."""
        return 2 * self.fee_bps + (widest_bps if math.isnan(self.spread_bps) else self.spread_bps)
