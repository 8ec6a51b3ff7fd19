"""Strategies that trade as often as they can, and in every way there is: what they earn does not matter, that orders are always under way does."""

from __future__ import annotations

from typing import Any

from control.think.strategy import Condition, Market, Rung, Size, Strategy, equity_bps

#: event seconds between two plans of a strategy, and for how long what they arm is valid
INTERVAL_S, VALID_S = 2, 6


def _quoted(market: Market) -> list[tuple[str, Any, Any]]:
    """(symbol, facts, quote) of every symbol whose last trade and quote are known."""
    found = []
    for symbol, facts in market.facts.items():
        quote = market.quotes[symbol]
        if quote.last > 0 and quote.bid > 0 and quote.ask > 0:
            found.append((symbol, facts, quote))
    return found


def _size() -> Size:
    return equity_bps(5)


class Darts(Strategy):
    """Market orders on the slightest move either way; stop, target and a ladder close by; several fires a condition."""

    interval_s = INTERVAL_S

    def plan(self, market: Market, portfolio: Any, knowledge: Any) -> list[Condition]:
        """Two or three conditions a symbol."""
        made = []
        for symbol, facts, quote in _quoted(market):
            for side in ("buy", "sell") if facts.short_allowed else ("buy",):
                for direction, sign in (("up", 1), ("down", -1)):
                    made.append(Condition(
                        symbol=symbol, side=side, direction=direction, level=facts.price_text(quote.last * (1 + sign * 2e-5)), size=_size(),
                        confidence=0.9, stop_bps=2, target_bps=3, ladder=[Rung(bps=1, share=0.4), Rung(bps=2, share=0.3)], time_stop_s=2,
                        valid_for_s=VALID_S, max_fires=3, cooldown_s=1, why="it moves"))
        return made


class Nets(Strategy):
    """Limit orders that rest behind the touch until they fill or their time is over; break-even and trailing."""

    interval_s = INTERVAL_S

    def plan(self, market: Market, portfolio: Any, knowledge: Any) -> list[Condition]:
        """Two or four conditions a symbol."""
        made = []
        for symbol, facts, quote in _quoted(market):
            for side in ("buy", "sell") if facts.short_allowed else ("buy",):
                limit = facts.price_text(quote.bid * (1 - 3e-5) if side == "buy" else quote.ask * (1 + 3e-5))
                for direction, sign in (("up", 1), ("down", -1)):
                    made.append(Condition(
                        symbol=symbol, side=side, direction=direction, price="bid", level=facts.price_text(quote.bid * (1 + sign * 1e-5)),
                        order="limit", limit_price=limit, size=_size(), confidence=0.9, stop_bps=4, target_bps=4, break_even_bps=2,
                        trail_activation_bps=1, trail_distance_bps=1, time_stop_s=4, valid_for_s=VALID_S, max_fires=2, cooldown_s=1,
                        why="it may come back"))
        return made


class Pairs(Strategy):
    """Groups of which one fires: a price, a feature and a rebound wait for the same entry."""

    interval_s = INTERVAL_S

    def plan(self, market: Market, portfolio: Any, knowledge: Any) -> list[Condition]:
        """Three conditions a symbol, one group."""
        made = []
        for symbol, facts, quote in _quoted(market):
            side = "sell" if facts.short_allowed and market.now_ns // 10**9 % 4 < 2 else "buy"
            group = symbol.replace("/", ".").replace(":", ".")
            basis = {"symbol": symbol, "side": side, "size": _size(), "confidence": 0.9, "stop_bps": 3, "target_bps": 2, "time_stop_s": 1,
                     "valid_for_s": VALID_S, "group": group}
            made += [
                Condition(direction="up", level=facts.price_text(quote.last * (1 + 4e-5)), why="up", **basis),
                Condition(direction="down", level=facts.price_text(quote.last * (1 - 4e-5)), why="down", **basis),
                Condition(direction="up", feature="imbalance", value=0.3, why="they buy", **basis),
                Condition(direction="up", rebound_bps=1, why="it comes back", **basis),
            ]
        return made
