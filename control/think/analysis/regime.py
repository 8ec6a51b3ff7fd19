"""What a market is doing: trend_up, trend_down, range or volatile, by three figures and two thresholds each, so that it does not flicker.

- *efficiency* = |c_t − c_{t−20}| / Σ |c_i − c_{i−1}| over those 20 candles (Kaufman 1995, Smarter Trading): 1 is a straight line, and a random
  walk has about 1/√20 = 0.22.
- *adx* (Wilder 1978): how one-sided the highs and lows move; Wilder's own line is 25.
- *volatility_ratio* = √ mean r² of the last 8 candles / √ mean r² of the 14 to 100 candles before them, r = Δ ln c (realised volatility: Andersen,
  Bollerslev, Diebold, Labys 2003). Of independent normal returns it is 1 ± 0.27.

A market becomes *volatile* at a ratio of 2 and stays so down to 1.5; else it becomes a *trend*, in the direction of its last 20 candles, at an
efficiency of 0.40 with an ADX of 25, and stays one down to 0.25 or 20, or until the direction turns; else it is a *range*.

The name at a candle depends on the one before it (hysteresis). It is told anew at each look, from a range at the beginning of the candles that are
looked at, so that it is a function of those candles alone: nothing is remembered that a restart could lose.

confidence: each figure is 0 where it would be left, 0.5 where it is entered, 1 where it is plain (volatile: ratio 3; trend: the lesser of efficiency
0.70 and ADX 45). A range's is 1 − half of how far the market has come on its way to a trend or to volatile, the nearer of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from control.think.analysis.config import REGIME_CANDLES
from control.think.analysis.findings import Regime, RegimeName
from control.think.analysis.indicators import RECENT, Floats, Series

#: candles of the efficiency; fewest and most candles that the recent ones are compared with
SPAN, BEFORE_LEAST, BEFORE_MOST = 20, 14, 100
assert max(SPAN, RECENT + BEFORE_LEAST) + 1 == REGIME_CANDLES, "the configuration says how many candles a regime needs"


class Threshold(NamedTuple):
    """Where a figure leaves a regime, where it enters it, and where it is plain."""

    leave: float
    enter: float
    plain: float

    def clearness(self, value: float) -> float:
        """0 at `leave`, 0.5 at `enter`, 1 at `plain`, straight between."""
        if value < self.enter:
            return max(0.0, 0.5 * (value - self.leave) / (self.enter - self.leave))
        return min(1.0, 0.5 + 0.5 * (value - self.enter) / (self.plain - self.enter))


EFFICIENCY, ADX, RATIO = Threshold(0.25, 0.40, 0.70), Threshold(20, 25, 45), Threshold(1.5, 2.0, 3.0)


class Figures(NamedTuple):
    """Each of them at the last candles from the first on at which all are known; `net` is the move of SPAN candles in bps."""

    efficiency: Floats
    adx: Floats
    ratio: Floats
    net: Floats


def figures(s: Series) -> Figures:
    """Empty where there are fewer than REGIME_CANDLES."""
    first = REGIME_CANDLES - 1
    if len(s.close) < REGIME_CANDLES:
        return Figures(*(np.zeros(0) for _ in Figures._fields))
    travelled = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(s.close)))])
    net, path = s.close[SPAN:] - s.close[:-SPAN], travelled[SPAN:] - travelled[:-SPAN]
    efficiency = np.divide(np.abs(net), path, out=np.zeros_like(net), where=path > 0)
    squares = np.concatenate([[0.0, 0.0], np.cumsum(s.returns[1:] ** 2)])  # squares[k]: of the returns before candle k
    at = np.arange(first, len(s.close))
    recent, begin = at + 1 - RECENT, np.maximum(1, at + 1 - RECENT - BEFORE_MOST)
    now = (squares[at + 1] - squares[recent]) / RECENT
    before = (squares[recent] - squares[begin]) / (recent - begin)
    # what has cancelled out in the sums is no movement
    still = before <= 1e-12 * squares[-1]
    ratio = np.sqrt(np.divide(np.maximum(now, 0.0), before, out=np.where(now > 1e-12 * squares[-1], np.inf, 0.0), where=~still))
    return Figures(np.minimum(1.0, efficiency[first - SPAN:]), s.adx[first:], ratio, net[first - SPAN:])


def names(f: Figures) -> list[RegimeName]:
    """The regime at each candle, the earlier ones by hysteresis deciding on the later ones."""
    name: RegimeName = "range"
    found: list[RegimeName] = []
    for efficiency, adx, ratio, net in zip(*(one.tolist() for one in f), strict=True):
        direction: RegimeName = "trend_up" if net > 0 else "trend_down"
        if ratio >= (RATIO.leave if name == "volatile" else RATIO.enter):
            name = "volatile"
        elif name == direction:
            name = direction if efficiency >= EFFICIENCY.leave and adx >= ADX.leave else "range"
        else:
            name = direction if efficiency >= EFFICIENCY.enter and adx >= ADX.enter else "range"
        found.append(name)
    return found


def regime(s: Series) -> Regime | None:
    """The regime at the last candle; None where there are too few."""
    f = figures(s)
    told = names(f)
    if not told:
        return None
    name, efficiency, adx, ratio = told[-1], float(f.efficiency[-1]), float(f.adx[-1]), float(f.ratio[-1])
    since = next((len(told) - back for back in range(1, len(told)) if told[-1 - back] != name), 0)
    return Regime(name=name, confidence=_confidence(name, efficiency, adx, ratio), efficiency=efficiency, adx=adx,
                  volatility_ratio=ratio if math.isfinite(ratio) else math.nan,
                  since_ns=int(s.time_ns[since - len(told)]) + s.candle_ns if since else 0)


def _confidence(name: RegimeName, efficiency: float, adx: float, ratio: float) -> float:
    match name:
        case "volatile":
            return RATIO.clearness(ratio)
        case "range":
            to_trend = min(efficiency / EFFICIENCY.enter, adx / ADX.enter)
            return 1 - 0.5 * min(1.0, max(to_trend, ratio - 1, 0.0))
        case _:
            return min(EFFICIENCY.clearness(efficiency), ADX.clearness(adx))
