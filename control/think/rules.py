"""What the built-in strategies share: one window of candles a symbol, the entries that it gives, the most confident first."""

from __future__ import annotations

from typing import Literal

from control.think.strategy import Candles, Condition, Facts, KnowledgeView, Market, Portfolio, Strategy, equity_bps


def clamp(value: float) -> float:
    """Into [0, 1]."""
    return min(1.0, max(0.0, value))


class Rules(Strategy):
    """A strategy that looks at the last `window_minutes` of one symbol after the other."""

    @property
    def window_minutes(self) -> int:
        """Minutes of candles that a symbol needs: also the warm-up."""
        raise NotImplementedError

    def entries(self, facts: Facts, candles: Candles, scale: float) -> list[Condition]:
        """Conditions of one warm symbol without a position; `scale` is what its record makes of the size."""
        raise NotImplementedError

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition]:
        """The entries of every symbol that is warm, traded in that window, without a position and not given up."""
        conditions: list[Condition] = []
        needed = self._needed(market)
        for symbol, facts in market.facts.items():
            if symbol in portfolio.positions or (scale := knowledge.coin(symbol).scale) <= 0:
                continue
            candles = market.candles(symbol, self.window_minutes)
            if len(candles) >= needed and candles.trades.any():
                conditions += self.entries(facts, candles, scale)
        conditions.sort(key=lambda condition: (-condition.confidence, condition.symbol, condition.side))
        return conditions[: self.config.most_per_plan]

    def warmup_left_s(self, market: Market) -> float:
        """Seconds until the first symbol has its window of candles."""
        needed = self._needed(market)
        have = max((len(market.candles(symbol, self.window_minutes)) for symbol in market.facts), default=0)
        return float(max(0, needed - have) * market.candle_s)

    def _needed(self, market: Market) -> int:
        return max(3, self.window_minutes * 60 // market.candle_s)

    def entry(self, facts: Facts, side: Literal["buy", "sell"], direction: Literal["up", "down"], level: str, scale: float,
              confidence: float, why: str, target_bps: int) -> Condition:
        """A condition with the size, the exits and the validity that the configuration says."""
        c = self.config
        return Condition(
            symbol=facts.symbol, side=side, level=level, direction=direction, size=equity_bps(c.size_bps * scale), confidence=confidence,
            stop_bps=c.stop_bps, target_bps=target_bps, trail_activation_bps=c.trail_activation_bps,
            trail_distance_bps=c.trail_distance_bps, time_stop_s=c.time_stop_s, valid_for_s=c.valid_for_s, why=why)
