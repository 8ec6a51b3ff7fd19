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

from control.think.momentum import clamp
from control.think.strategy import Candles, Condition, Facts, KnowledgeView, Market, Portfolio, Strategy, equity_bps


def volatility_ratio(candles: Candles) -> float:
    """Mean absolute return of the last minute's candles over the whole window's; 1 where nothing moved."""
    moves = np.abs(np.diff(np.log(candles.close)))
    mean = float(moves.mean()) if len(moves) else 0.0
    return float(moves[-max(1, 60 // candles.candle_s):].mean()) / mean if mean > 0 else 1.0


def confidence(ratio: float, band_bps: float, least_bps: float, returning: bool) -> float:
    """Confidence of a return to the average, in [0.45, 1]; see the module's text."""
    edge = clamp(band_bps / (4 * least_bps)) if least_bps > 0 else 1.0
    return round(min(1.0, 0.45 + 0.30 * clamp(1.5 - ratio) + 0.20 * edge + (0.10 if returning else 0.0)), 4)


class MeanReversion(Strategy):
    """Bands around the average of `mean_minutes`."""

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition]:
        """One or two conditions for every warm symbol without a position whose bands are wide enough, the most confident first."""
        conditions: list[Condition] = []
        needed = self._needed(market)
        for symbol, facts in market.facts.items():
            if symbol in portfolio.positions:
                continue
            candles = market.candles(symbol, self.config.mean_minutes)
            if len(candles) < needed or not candles.trades.any():
                continue
            mean, band = float(candles.close.mean()), self.config.stretch_sigma * float(candles.close.std())
            if 0 < band < mean and 1e4 * band / mean >= self.config.stretch_least_bps:
                ratio = volatility_ratio(candles)
                conditions.append(self._condition(facts, True, mean, band, ratio, candles.close[-1] <= mean - band))
                if facts.short_allowed:
                    conditions.append(self._condition(facts, False, mean, band, ratio, candles.close[-1] >= mean + band))
        conditions.sort(key=lambda condition: (-condition.confidence, condition.symbol, condition.side))
        return conditions[: self.config.most_per_plan]

    def _needed(self, market: Market) -> int:
        return max(3, self.config.mean_minutes * 60 // market.candle_s)

    def _condition(self, facts: Facts, buy: bool, mean: float, band: float, ratio: float, returning: bool) -> Condition:
        c = self.config
        text = facts.price_text(mean - band if buy else mean + band, "down" if buy else "up")
        band_bps = 1e4 * band / mean
        upwards = buy == returning  # a buy fires on the way up where it returns, on the way down where it still falls
        return Condition(
            symbol=facts.symbol, side="buy" if buy else "sell", level=text, direction="up" if upwards else "down",
            size=equity_bps(c.size_bps), confidence=confidence(ratio, band_bps, c.stretch_least_bps, returning),
            stop_bps=c.stop_bps, target_bps=min(10_000, max(1, math.ceil(band_bps))) if c.target_bps else 0,
            trail_activation_bps=c.trail_activation_bps, trail_distance_bps=c.trail_distance_bps, time_stop_s=c.time_stop_s,
            valid_for_s=c.valid_for_s,
            why=f"{'return across' if returning else 'stretch onto'} the {'lower' if buy else 'upper'} band at {text}, "
                f"{c.stretch_sigma:g} σ = {band_bps:.1f} bps from the {c.mean_minutes} min average; "
                f"last minute's volatility {ratio:.2f} of the window's")

    def warmup_left_s(self, market: Market) -> float:
        """Seconds until the first symbol has a whole window of candles."""
        needed = self._needed(market)
        have = max((len(market.candles(symbol, self.config.mean_minutes)) for symbol in market.facts), default=0)
        return float(max(0, needed - have) * market.candle_s)
