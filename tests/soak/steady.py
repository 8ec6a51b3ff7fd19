"""A strategy for a soak: some trades a minute in every symbol whatever was learned of it, as what runs for hours is the program, not the idea."""

from __future__ import annotations

from typing import Any

from control.think.strategy import Condition, Market, Strategy, equity_bps

#: event seconds between two plans
INTERVAL_S = 120


class Steady(Strategy):
    """On the slightest move one entry of each side that a symbol allows; stop, target and time stop close by."""

    interval_s = INTERVAL_S

    def plan(self, market: Market, portfolio: Any, knowledge: Any) -> list[Condition]:
        """One or two conditions a symbol, one group."""
        made = []
        for symbol, facts in market.facts.items():
            last = market.quotes[symbol].last
            if last <= 0:
                continue
            for side, sign in (("buy", 1), ("sell", -1)) if facts.short_allowed else (("buy", 1),):
                level = facts.price_text(last * (1 + sign * 1e-4))
                made.append(Condition(
                    symbol=symbol, side=side, direction="up" if sign > 0 else "down", level=level, size=equity_bps(5), confidence=0.9, stop_bps=20,
                    target_bps=20, trail_activation_bps=10, trail_distance_bps=5, time_stop_s=60, valid_for_s=INTERVAL_S,
                    group=symbol.replace("/", ".").replace(":", "."), why="it moves"))
        return made
