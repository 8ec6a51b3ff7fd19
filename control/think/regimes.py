"""The regime of each symbol, for conditions whose strategy names none: learning judges every trade by the market that it was made in.

It is that of the timeframe that the analysis trades (control/think/analysis/regime.py), at the last of its candles that has closed, and told anew
with each. Always of as many candles as are kept as long as the next one lasts: so it is the same at each plan between two closes, whoever asks
first.
"""

from __future__ import annotations

import math

from control.think.analysis.indicators import series
from control.think.analysis.regime import regime
from control.think.analysis.timeframes import MINUTE_NS, MOST, resampled
from control.think.strategy import Market
from control.think.view import View


class Regimes:
    """By candles of so many minutes."""

    def __init__(self, view: View, minutes: int) -> None:
        self._view, self._minutes = view, minutes
        self._most = min(MOST, view.kept_s // (minutes * 60) - 1)
        #: by symbol: close of the last candle and begin of the session that it was told at, and its name
        self._told: dict[str, tuple[tuple[int, int], str]] = {}

    def of(self, symbol: str, market: Market) -> str:
        """trend_up, trend_down, range or volatile; "" where too little is known: fewer than REGIME_CANDLES of its candles, no prices any more."""
        if self._most < 1 or math.isnan(market.quotes[symbol].last):
            return ""
        at = market.now_ns // (self._minutes * MINUTE_NS), self._view.session_of(symbol)
        if symbol not in self._told or self._told[symbol][0] != at:
            self._told[symbol] = at, self._name(symbol, market)
        return self._told[symbol][1]

    def _name(self, symbol: str, market: Market) -> str:
        candles = resampled(market.candles(symbol), self._minutes, market.now_ns, self._most)
        seen = None if candles is None else regime(series(candles))
        return "" if seen is None else seen.name
