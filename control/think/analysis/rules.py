"""The rules: Signal or NoTrade by score, regime, pattern and costs; every NoTrade says by which figure.

1. A spread above `max_spread_bps` is no trade; one that is not known counts as that much.
2. |score| below `least_score` is no trade. Its sign is the side; spot is not sold short.
3. The strongest pattern of the traded timeframe on that side that its regime allows (ALLOWED) makes the trade; without one there is none. In a trend
   those by which a move goes on must go with it.
4. stop = stop_atr × ATR, target = target_atr × ATR, both by the regime's factor (REACH). A stop above `stop_most_bps` is no trade, nor is
   (target − costs) / (stop + costs) below `least_reward_risk`, with costs = 2 × fee + spread, the fee being the instrument's.
5. confidence = 0.30 + 0.65 × (0.40 × |score| / 0.5 + 0.25 × strength of the pattern + 0.20 × clearness of the regime + 0.15 × share of the
   timeframes whose score has that side), each within [0, 1]. It is an order of signals, not a probability. A coin's record is not in it: a few
   dozen trades would lift or drop signals past `limits.min_confidence` by luck; what records say needs evidence (docs/learning.md).

The position is closed after HOLD candles of the traded timeframe.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import Analysis, Frame, Pattern, PatternName, RegimeName, Side
from control.think.analysis.signal import NoTrade, Signal


class Reach(NamedTuple):
    """Factors of a regime for stop and target."""

    stop: float
    target: float


#: a range's ends are near; in disorder a stop needs room
REACH: Final[dict[RegimeName, Reach]] = {"trend_up": Reach(1.0, 1.0), "trend_down": Reach(1.0, 1.0), "range": Reach(0.8, 0.75),
                                         "volatile": Reach(1.25, 1.1)}
#: patterns by which a move goes on
ONWARD: Final[frozenset[PatternName]] = frozenset({"range_breakout", "squeeze", "trend_pullback", "engulfing", "three_outside", "marubozu"})
#: patterns by which it turns
TURNING: Final[frozenset[PatternName]] = frozenset({"failed_breakout", "band_stretch", "hammer", "shooting_star"})
#: in disorder only what is decided by a price that many look at
ALLOWED: Final[dict[RegimeName, frozenset[PatternName]]] = {
    "trend_up": ONWARD | {"hammer"}, "trend_down": ONWARD | {"shooting_star"},
    "range": TURNING | {"squeeze", "range_breakout", "engulfing", "three_outside"},
    "volatile": frozenset({"range_breakout", "failed_breakout", "three_outside"})}
#: candles of the traded timeframe that a position lasts at most
HOLD: Final = 24
_TRENDS: Final[dict[RegimeName, Side]] = {"trend_up": "buy", "trend_down": "sell"}


class Rules:
    """Decides each symbol by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(self, seen: Analysis) -> Signal | NoTrade:
        """One symbol."""
        c, frame = self._settings, seen.trade

        def no(reason: str) -> NoTrade:
            return NoTrade(symbol=seen.symbol, reason=reason)

        spread_bps = c.max_spread_bps if math.isnan(seen.spread_bps) else seen.spread_bps
        if not 0 <= spread_bps <= c.max_spread_bps:
            return no(f"spread {spread_bps:.1f} bps is above {c.max_spread_bps:g}")
        if abs(seen.score) < c.least_score or not seen.score:
            return no(f"score {seen.score:+.2f} is nearer to 0 than {c.least_score:g}")
        side: Side = "buy" if seen.score > 0 else "sell"
        if side == "sell" and not seen.short_allowed:
            return no(f"score {seen.score:+.2f} is to sell, and spot cannot be sold short")
        pattern = pattern_for(frame, side)
        if isinstance(pattern, str):
            return no(pattern)
        atr_bps = frame.indicators.atr_bps
        if not atr_bps > 0:
            return no("nothing moves: there is no ATR")
        reach = REACH[frame.regime.name]
        if (distance := round(c.stop_atr * reach.stop * atr_bps, 6)) > c.stop_most_bps:
            return no(f"a stop of {distance:.0f} bps is wider than {c.stop_most_bps}")
        stop_bps = max(1, math.ceil(distance))
        target_bps = math.floor(round(c.target_atr * reach.target * atr_bps, 6))
        cost_bps = seen.costs_bps(c.max_spread_bps)
        if (worth := (target_bps - cost_bps) / (stop_bps + cost_bps)) < c.least_reward_risk or target_bps < 1:
            return no(f"target {target_bps} and stop {stop_bps} bps with costs of {cost_bps:.1f} bps bring {worth:.2f} of what is at risk, "
                      f"less than {c.least_reward_risk:g}")
        return Signal(
            symbol=seen.symbol, side=side, confidence=confidence(seen, side, pattern), pattern=pattern.name, regime=frame.regime.name,
            stop_bps=stop_bps, target_bps=min(target_bps, 9_999), cost_bps=cost_bps, time_stop_s=min(HOLD * frame.minutes * 60, 7 * 86_400),
            why=f"{pattern.name} ({pattern.strength:.2f}) in {frame.regime.name} ({frame.regime.confidence:.2f}: efficiency "
                f"{frame.regime.efficiency:.2f}, ADX {frame.regime.adx:.0f}, volatility × {frame.regime.volatility_ratio:.2f}), "
                f"score {seen.score:+.2f}; ATR {atr_bps:.0f} bps, brings {worth:.2f} of what is at risk after costs of {cost_bps:.1f} bps")


def pattern_for(frame: Frame, side: Side) -> Pattern | str:
    """The strongest pattern on a side that the regime allows, or why there is none."""
    name = frame.regime.name
    here = [one for one in frame.patterns if one.side == side]
    allowed = [one for one in here if one.name in ALLOWED[name] and (one.name not in ONWARD or _TRENDS.get(name, side) == side)]
    if allowed:
        return allowed[0]
    return f"no pattern to {side}" if not here else f"{here[0].name} to {side} is not traded in {name}"


def confidence(seen: Analysis, side: Side, pattern: Pattern) -> float:
    """By the formula above, in [0, 1]."""
    sign = 1 if side == "buy" else -1
    agreeing = sum(sign * one.score.total > 0 for one in seen.frames) / len(seen.frames)
    value = 0.30 + 0.65 * (0.40 * min(1.0, abs(seen.score) / 0.5) + 0.25 * pattern.strength + 0.20 * seen.trade.regime.confidence + 0.15 * agreeing)
    return round(min(1.0, max(0.0, value)), 4)
