"""Mean reversion: a stretch from the moving average, in calm volatility, is expected to come back.

The average and the standard deviation are of the closes of the last `mean_minutes`; the bands lie `stretch_sigma` deviations from it, and
bands nearer than `stretch_least_bps` are not traded. Below the lower band it arms a buy for the *return* across it; while the price is
between the bands, a buy for the fall onto it. Mirrored at the upper band for instruments that may be sold short. The target is the average.
Confidence:

- *calm* = clamp(1.5 − v), where v = mean absolute candle return of the last minute / that of the whole window: 1 is as always, above it
  something is going on that may not come back.
- *edge* = clamp(band distance in bps / (4 × stretch_least_bps)): what there is to earn.
- *return* = 1 where the price comes back across the band, 0 where it still falls onto it.

confidence = 0.45 + 0.30 × calm + 0.20 × edge + 0.10 × return. So a band at 2 × the least distance in even volatility gives 0.70, a doubled
volatility 0.55, a return from beyond a far band 0.90.
"""

from __future__ import annotations

import math

import numpy as np

from control.think.rules import Rules, clamp
from control.think.strategy import Candles, Condition, Facts


def volatility_ratio(candles: Candles) -> float:
    """Mean absolute return of the last minute's candles over the whole window's; 1 where nothing moved."""
    moves = np.abs(np.diff(np.log(candles.close)))
    mean = float(moves.mean()) if len(moves) else 0.0
    return float(moves[-max(1, 60 // candles.candle_s):].mean()) / mean if mean > 0 else 1.0


def confidence(ratio: float, band_bps: float, least_bps: float, returning: bool) -> float:
    """Confidence of a return to the average, in [0.45, 1]; see the module's text."""
    edge = clamp(band_bps / (4 * least_bps)) if least_bps > 0 else 1.0
    return round(min(1.0, 0.45 + 0.30 * clamp(1.5 - ratio) + 0.20 * edge + (0.10 if returning else 0.0)), 4)


class MeanReversion(Rules):
    """Bands around the average of `mean_minutes`."""

    @property
    def window_minutes(self) -> int:
        """The average."""
        return self.config.mean_minutes

    def entries(self, facts: Facts, candles: Candles, scale: float) -> list[Condition]:
        """A buy at the lower band and, where short is allowed, a sale at the upper; none where the bands are too near."""
        c, last = self.config, float(candles.close[-1])
        mean, band = float(candles.close.mean()), self.config.stretch_sigma * float(candles.close.std())
        band_bps, least_bps = 1e4 * band / mean, max(c.stretch_least_bps, c.stretch_fees * facts.round_trip_bps)
        if not 0 < band < mean or band_bps < least_bps:
            return []
        ratio = volatility_ratio(candles)
        found = []
        for sign in (1, -1) if facts.short_allowed else (1,):
            level = facts.price_text(mean - sign * band, "down" if sign > 0 else "up")
            returning = sign * (mean - last) >= band
            upwards = (sign > 0) == returning  # a buy fires on the way up where it returns, on the way down where it still falls
            found.append(self.entry(
                facts, "buy" if sign > 0 else "sell", "up" if upwards else "down", level, scale,
                confidence(ratio, band_bps, least_bps, returning),
                f"{'return across' if returning else 'stretch onto'} the {'lower' if sign > 0 else 'upper'} band at {level}, "
                f"{c.stretch_sigma:g} σ = {band_bps:.1f} bps from the {c.mean_minutes} min average; "
                f"last minute's volatility {ratio:.2f} of the window's",
                min(10_000, max(1, math.ceil(band_bps))) if c.target_bps else 0))
        return found
