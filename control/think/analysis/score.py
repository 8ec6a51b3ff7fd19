"""The score of a timeframe, and of a symbol over its timeframes: in [−1, 1], above 0 for buying.

| component | formula                                                             | why                                                        |
|-----------|---------------------------------------------------------------------|------------------------------------------------------------|
| trend     | tanh((fast EMA − slow EMA) / ATR)                                   | side and steepness of the trend, in the coin's own measure |
| reversion | 1 − 2 × %b, within [−1, 1]                                          | 1 at the lower band, −1 at the upper one                   |
| momentum  | mean of (RSI − 50) / 30 and tanh(4 × MACD histogram / ATR)          | how fast it goes, and whether it gains speed               |
| volume    | volume flow: change of OBV / volume                                 | whether volume went the same way                           |
| pattern   | strongest pattern to buy − strongest pattern to sell                | what the last candles look like                            |

A component without its figures is 0: it says nothing. total = Σ weight × component, by the regime:

| regime    | trend | reversion | momentum | volume | pattern |                                                                  |
|-----------|-------|-----------|----------|--------|---------|------------------------------------------------------------------|
| trend     | 0.40  | 0         | 0.20     | 0.15   | 0.25    | what stretches in a trend goes on                                |
| range     | 0.05  | 0.45      | 0.05     | 0.10   | 0.35    | what stretches in a range comes back                             |
| volatile  | 0.20  | 0         | 0.20     | 0.15   | 0.25    | adds up to 0.8: in disorder nothing is worth as much             |

The symbol's score is the mean over its timeframes; the n-th shortest that is there has the weight n. The weights are a stance, not a finding: none of
them was fitted to data, since a fit of so many would be one to the past (Bailey, Borwein, López de Prado, Zhu 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from control.think.analysis.findings import Indicators, Pattern, Regime, RegimeName, Score


class Weights(NamedTuple):
    """Of the components of a score."""

    trend: float
    reversion: float
    momentum: float
    volume: float
    pattern: float


_TREND = Weights(0.40, 0.0, 0.20, 0.15, 0.25)
WEIGHTS: dict[RegimeName, Weights] = {"trend_up": _TREND, "trend_down": _TREND, "range": Weights(0.05, 0.45, 0.05, 0.10, 0.35),
                                      "volatile": Weights(0.20, 0.0, 0.20, 0.15, 0.25)}


def score(of: Indicators, regime: Regime, patterns: Sequence[Pattern]) -> Score:
    """The components and their total at one timeframe."""
    atr = of.atr_bps if of.atr_bps > 0 else math.inf
    rates = [_within((of.rsi - 50) / 30), _known(math.tanh(4 * of.macd_histogram_bps / atr))]
    parts = Weights(
        trend=_known(math.tanh((of.ema_fast_bps - of.ema_slow_bps) / atr)), reversion=_within(1 - 2 * of.band_position),
        momentum=sum(rates) / 2, volume=_within(of.volume_flow),
        pattern=max((one.strength for one in patterns if one.side == "buy"), default=0.0)
        - max((one.strength for one in patterns if one.side == "sell"), default=0.0))
    total = sum(weight * part for weight, part in zip(WEIGHTS[regime.name], parts, strict=True))
    return Score(**parts._asdict(), total=_within(total))


def overall(scores: Sequence[Score]) -> float:
    """Over the timeframes, shortest first; 0 without any."""
    weights = range(1, len(scores) + 1)
    return sum(weight * one.total for weight, one in zip(weights, scores, strict=True)) / max(1, sum(weights))


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _within(value: float) -> float:
    return min(1.0, max(-1.0, _known(value)))
