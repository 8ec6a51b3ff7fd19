"""From a market to an Analysis of each symbol: candles → timeframes → indicators → patterns → regime → score. Remembers nothing.

A bounded number of symbols is analysed at once: `batches` gives `symbols_at_once` analyses, of a few kilobytes each, and goes on when those are
decided on. Candles are held of one symbol at a time (control/think/view.py): a day of 10 s candles and its timeframes are half a megabyte.

Within a batch one follows the other. Threads were measured for fifty symbols at four timeframes (AMD EPYC, two cores): one after the other 36 ms,
two threads 39 ms, four 35 ms. A TA-Lib call on 240 candles takes 2 to 5 µs, so that it hardly matters that it lets go of the GIL; what lies between
needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import Analysis, Frame
from control.think.analysis.indicators import RECENT, indicators, series
from control.think.analysis.patterns import patterns
from control.think.analysis.regime import regime
from control.think.analysis.score import overall, score
from control.think.analysis.timeframes import resampled
from control.think.strategy import Candles, Market

_DAY_MIN = 1440


def batches(market: Market, symbols: Sequence[str], settings: Settings) -> Iterator[tuple[list[Analysis], list[str]]]:
    """(analyses, symbols whose history is too short) of so many symbols after the other."""
    for first in range(0, len(symbols), settings.symbols_at_once):
        young: list[str] = []
        made = []
        for symbol in symbols[first: first + settings.symbols_at_once]:
            found = analysis(market, symbol, frames(market, symbol, settings.timeframes_min), settings.trade_timeframe_min)
            if found is None:
                young.append(symbol)
            else:
                made.append(found)
        yield made, young


def frames(market: Market, symbol: str, timeframes_min: Sequence[int]) -> dict[int, Candles]:
    """Closed candles of those timeframes of which there are any, by minutes."""
    candles = market.candles(symbol)
    found = {minutes: resampled(candles, minutes, market.now_ns) for minutes in timeframes_min}
    return {minutes: one for minutes, one in found.items() if one is not None}


def frame(minutes: int, candles: Candles) -> Frame | None:
    """One timeframe; None where there are too few candles to tell its regime."""
    s = series(candles)
    told = regime(s)
    if told is None:
        return None
    of, seen = indicators(s), patterns(s)
    return Frame(minutes=minutes, candles=len(candles), indicators=of, regime=told, patterns=seen, score=score(of, told, seen))


def analysis(market: Market, symbol: str, candles: Mapping[int, Candles], trade_min: int) -> Analysis | None:
    """A symbol by its candles; None where the traded timeframe is too young."""
    found = [one for minutes, given in candles.items() if (one := frame(minutes, given)) is not None]
    trade = next((one for one in found if one.minutes == trade_min), None)
    if trade is None:
        return None
    return Analysis(
        symbol=symbol, now_ns=market.now_ns, price=float(next(iter(candles.values())).close[-1]), spread_bps=market.quotes[symbol].spread_bps,
        short_allowed=market.facts[symbol].short_allowed, fee_bps=market.facts[symbol].fee_bps, frames=tuple(found), trade=trade,
        score=overall([one.score for one in found]), volatility_day_bps=_volatility_day_bps(candles[trade_min], trade_min))


def _volatility_day_bps(candles: Candles, minutes: int) -> float:
    """Standard deviation of a day's return, by the last few candles or by all that are looked at, whichever is more: a lull is not believed."""
    squares = np.diff(np.log(candles.close)) ** 2
    return 1e4 * math.sqrt(max(float(squares[-RECENT:].mean()), float(squares.mean())) * _DAY_MIN / minutes)
