"""Momentum: a breakout of the last N minutes' range, believed the more the more is traded and the tighter the range was.

For each warm symbol it arms a buy that fires when the last price crosses `breakout_bps` beyond the range's high (at least one tick), and
for instruments that may be sold short a sale below its low. Two features give the confidence, the same for both sides:

- *burst* = volume of the last minute / mean volume of a minute before it in the range. Even trading is 1.
- *squeeze* = width of the range / (1.6 × σ × √n), where σ is the standard deviation of the n candle returns in the range and 1.6 σ √n the
  width expected of a random walk (Feller 1951: E[range] = √(8/π) σ √n). 1 is a walk, below it the price was held together.

confidence = 0.40 + 0.35 × clamp((log2(burst) + 1) / 3) + 0.25 × clamp((1.25 − squeeze) / 0.75), clamp to [0, 1]. So even trading in a range
as wide as a walk's gives 0.60; twice the volume in a range of 0.8 gives 0.78. With a usual limit of 0.7 the first is armed and refused when
it fires, the second trades.
"""

from __future__ import annotations

import math

import numpy as np

from control.think.strategy import Candles, Condition, Facts, KnowledgeView, Market, Portfolio, Strategy, equity_bps

#: expected range of a random walk in units of σ √n
_WALK = math.sqrt(8 / math.pi)


def clamp(value: float) -> float:
    """Into [0, 1]."""
    return min(1.0, max(0.0, value))


def volume_burst(candles: Candles) -> float:
    """Volume of the last minute over a mean minute before it; 1 where there is nothing to compare with."""
    minute = max(1, 60 // candles.candle_s)
    before = candles.volume[:-minute]
    mean = float(before.mean()) * minute if len(before) else 0.0
    return float(candles.volume[-minute:].sum()) / mean if mean > 0 else 1.0


def squeeze(candles: Candles) -> float:
    """Width of the range in units of a random walk's with the same candles; 1 where nothing moved."""
    if len(candles) < 3:
        return 1.0
    sigma = float(np.log(candles.close[1:] / candles.close[:-1]).std())
    expected = _WALK * sigma * math.sqrt(len(candles))
    return math.log(float(candles.high.max() / candles.low.min())) / expected if expected > 0 else 1.0


def confidence(burst: float, tightness: float) -> float:
    """Confidence of a breakout from its burst and its squeeze, in [0.4, 1]; see the module's text."""
    amount = clamp((math.log2(burst) + 1) / 3) if burst > 0 else 0.0
    return round(0.40 + 0.35 * amount + 0.25 * clamp((1.25 - tightness) / 0.75), 4)


class Momentum(Strategy):
    """Breakouts of the range of `range_minutes`."""

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition]:
        """One or two conditions for every warm symbol without a position, the most confident first."""
        conditions: list[Condition] = []
        needed = self._needed(market)
        for symbol, facts in market.facts.items():
            if symbol in portfolio.positions:
                continue
            candles = market.candles(symbol, self.config.range_minutes)
            if len(candles) >= needed and candles.trades.any():
                conditions += self._both_sides(facts, candles)
        conditions.sort(key=lambda condition: (-condition.confidence, condition.symbol, condition.side))
        return conditions[: self.config.most_per_plan]

    def _needed(self, market: Market) -> int:
        return max(1, self.config.range_minutes * 60 // market.candle_s)

    def _both_sides(self, facts: Facts, candles: Candles) -> list[Condition]:
        burst, tightness = volume_burst(candles), squeeze(candles)
        high, low = float(candles.high.max()), float(candles.low.min())
        tick = float(facts.tick_size)
        beyond = self.config.breakout_bps / 10_000
        up = self._condition(facts, True, max(high * (1 + beyond), high + tick), burst, tightness)
        down_level = min(low * (1 - beyond), low - tick)
        if not facts.short_allowed or down_level < tick:
            return [up]
        return [up, self._condition(facts, False, down_level, burst, tightness)]

    def _condition(self, facts: Facts, buy: bool, level: float, burst: float, tightness: float) -> Condition:
        c = self.config
        text = facts.price_text(level, "up" if buy else "down")
        return Condition(
            symbol=facts.symbol, side="buy" if buy else "sell", level=text, direction="up" if buy else "down",
            size=equity_bps(c.size_bps), confidence=confidence(burst, tightness), stop_bps=c.stop_bps, target_bps=c.target_bps,
            trail_activation_bps=c.trail_activation_bps, trail_distance_bps=c.trail_distance_bps, time_stop_s=c.time_stop_s,
            valid_for_s=c.valid_for_s,
            why=f"breakout {'above' if buy else 'below'} the {c.range_minutes} min range at {text}: volume {burst:.2f} × its mean, "
                f"range {tightness:.2f} of a random walk's")

    def warmup_left_s(self, market: Market) -> float:
        """Seconds until the first symbol has a whole range of candles."""
        needed = self._needed(market)
        have = max((len(market.candles(symbol, self.config.range_minutes)) for symbol in market.facts), default=0)
        return float(max(0, needed - have) * market.candle_s)
