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

from control.think.rules import Rules, clamp
from control.think.strategy import Candles, Condition, Facts

#: expected range of a random walk in units of σ √n
_WALK = math.sqrt(8 / math.pi)


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


class Momentum(Rules):
    """Breakouts of the range of `range_minutes`."""

    @property
    def window_minutes(self) -> int:
        """The range."""
        return self.config.range_minutes

    def entries(self, facts: Facts, candles: Candles, scale: float) -> list[Condition]:
        """A buy above the range and, where short is allowed and there is a price below it, a sale below it."""
        burst, tightness = volume_burst(candles), squeeze(candles)
        high, low, tick = float(candles.high.max()), float(candles.low.min()), float(facts.tick_size)
        beyond = self.config.breakout_bps / 10_000
        features = f"volume {burst:.2f} × its mean, range {tightness:.2f} of a random walk's"
        trust, target_bps = confidence(burst, tightness), self.config.target_bps
        above = facts.price_text(max(high * (1 + beyond), high + tick), "up")
        found = [self.entry(facts, "buy", "up", above, scale, trust,
                            f"breakout above the {self.config.range_minutes} min range at {above}: {features}", target_bps)]
        level = min(low * (1 - beyond), low - tick)
        if facts.short_allowed and level >= tick:
            below = facts.price_text(level, "down")
            found.append(self.entry(facts, "sell", "down", below, scale, trust,
                                    f"breakout below the {self.config.range_minutes} min range at {below}: {features}", target_bps))
        return found
