"""When to think anew: between `interval_least_min` and `interval_most_min` by the market's volatility, sooner when something has happened.

    interval = most × (least / most)^x,   x = ln(v / calm) / ln(wild / calm)

where v is the median over the symbols of an hour's volatility in bps, within calm and wild: √ mean r² of the last 8 candles of the traded timeframe,
times √(60 min / that timeframe). In a calm market it is the longest, in a wild one the shortest, and each doubling of v between them shortens it
by the same factor.

Sooner: where there has been no plan yet; where a position was filled or a trade closed since the last one; where the regime of `regime_share` of the
symbols has changed since; or at an operator's word. All of it but that word is read from event time, candles, the book and the coins' records. What
is due at an instant is therefore the same in a backtest, in a replay, and for a process that was replaced since the last plan.

Volatility and regimes are those of closed candles of the traded timeframe; whether the interval is over is asked every minute, so that 45 minutes
are 45 minutes whatever candle is traded. Conditions are valid for a little longer (`valid_for_s`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from control.think.analysis.config import Analysis as Settings
from control.think.analysis.indicators import RECENT, series
from control.think.analysis.regime import regime
from control.think.analysis.timeframes import MINUTE_NS
from control.think.strategy import Candles, KnowledgeView, Portfolio

#: seconds that conditions stay valid behind the end of the interval: the next plan is made within a minute of it, and then travels
_GRACE_S = 120


class Look(NamedTuple):
    """A symbol at the close of a candle: an hour's volatility now and at the last plan (NaN: unknown), and since when its regime is what it is."""

    hour_bps: float
    planned_hour_bps: float
    since_ns: int


def look(candles: Candles, planned_ns: int) -> Look:
    """Of the candles of the traded timeframe."""
    told = regime(series(candles))
    planned = int(np.searchsorted(candles.time_ns + candles.candle_s * 1_000_000_000, planned_ns, side="right"))
    return Look(_hour_bps(candles, len(candles)), _hour_bps(candles, planned), told.since_ns if told else 0)


def _hour_bps(candles: Candles, count: int) -> float:
    """An hour's volatility by the first so many of them."""
    if count <= RECENT:
        return math.nan
    returns = np.diff(np.log(candles.close[count - RECENT - 1: count]))
    return 1e4 * math.sqrt(float(np.mean(returns**2)) * 3600 / candles.candle_s)


def interval_ns(settings: Settings, volatilities_bps: Iterable[float]) -> int:
    """The time to the next analysis in whole minutes; the shortest where nothing is known."""
    known = [one for one in volatilities_bps if not math.isnan(one)]
    v = min(settings.wild_bps, max(settings.calm_bps, median(known) if known else math.inf))
    x = math.log(v / settings.calm_bps) / math.log(settings.wild_bps / settings.calm_bps)
    longest, shortest = settings.interval_most_min, settings.interval_least_min
    return max(shortest, math.floor(longest * (shortest / longest) ** x + 1e-9)) * MINUTE_NS


def happened(portfolio: Portfolio, knowledge: KnowledgeView, symbols: Iterable[str]) -> str:
    """What calls for a plan whatever the market does, or nothing."""
    planned_ns = portfolio.planned_ns
    if not planned_ns:
        return "the first plan"
    for symbol, held in portfolio.positions.items():
        if held.opened_ns > planned_ns:
            return f"{symbol} was filled"
    for symbol in symbols:
        if knowledge.coin(symbol).last_trade_ns > planned_ns:
            return f"a trade of {symbol} has closed"
    return ""


def due(settings: Settings, looks: Sequence[Look], now_ns: int, planned_ns: int) -> str:
    """Why a plan is due at `now_ns` by what the candles look like, or nothing. Pure."""
    changed = sum(one.since_ns > planned_ns for one in looks)
    if looks and changed >= max(1, math.ceil(settings.regime_share * len(looks) - 1e-9)):
        return f"the regime of {changed} of {len(looks)} symbols has changed"
    # what is armed was armed for the interval that followed from the volatility of then
    interval = min(interval_ns(settings, (one.hour_bps for one in looks)), interval_ns(settings, (one.planned_hour_bps for one in looks)))
    return f"{interval // MINUTE_NS} minutes are over" if now_ns - planned_ns >= interval else ""


def valid_for_s(settings: Settings, looks: Iterable[Look]) -> int:
    """How long the conditions of a plan hold: until the next one has surely been made."""
    return interval_ns(settings, (one.hour_bps for one in looks)) // 1_000_000_000 + _GRACE_S
