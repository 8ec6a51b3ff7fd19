"""Markets for the analysis: candles from a list of closes, and a minute-by-minute run of a strategy that plans by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from control.think.check import Checker
from control.think.strategy import Candles, CoinStatus, Condition, Facts, Market, Portfolio, Quote
from hotpath import arming

MINUTE = 60_000_000_000
DAY = 1440 * MINUTE
#: midnight, so that every timeframe begins here
BEGIN = 1_700_006_400_000_000_000 // DAY * DAY
SYMBOL = "BTC/USDT:USDT"


class Coins:
    """Knowledge with given records."""

    def __init__(self, records: Mapping[str, CoinStatus] | None = None) -> None:
        self.records = dict(records or {})

    def coin(self, symbol: str) -> CoinStatus:
        return self.records.get(symbol, CoinStatus())


def candles(closes: Sequence[float], volumes: Sequence[float] | None = None, wick: float = 0.0, candle_s: int = 900,
            begin_ns: int = BEGIN) -> Candles:
    """Each opens where the one before it closed, and reaches `wick` (a share of the price) beyond its body."""
    close = np.array(closes, float)
    opened = np.concatenate([close[:1], close[:-1]])
    volume = np.ones(len(close)) if volumes is None else np.array(volumes, float)
    time_ns = begin_ns + candle_s * 1_000_000_000 * np.arange(len(close), dtype=np.int64)
    return Candles(candle_s, time_ns, opened, np.maximum(opened, close) * (1 + wick), np.minimum(opened, close) * (1 - wick), close, volume,
                   (volume > 0).astype(np.int64))


def upside_down(of: Candles, around: float = 200.0) -> Candles:
    """Rising becomes falling."""
    return Candles(of.candle_s, of.time_ns, around - of.open, around - of.low, around - of.high, around - of.close, of.volume, of.trades)


def facts(symbol: str = SYMBOL, tick: str = "0.001") -> Facts:
    return Facts(symbol, ":" in symbol, Decimal(tick), Decimal("0.001"), Decimal(5), 5.0 if ":" in symbol else 10.0)


def market(history: Mapping[str, Candles], now_ns: int, ticks: Mapping[str, str] | None = None, spread_bps: float = 1.0) -> Market:
    """As View gives it: candles that have closed at `now_ns`, and a quote around the last close."""
    def window(symbol: str, count: int) -> Candles:
        of = history[symbol]
        end = int(np.searchsorted(of.time_ns + of.candle_s * 1_000_000_000, now_ns, side="right"))
        first = max(0, end - min(count, 86_400 // of.candle_s))
        return Candles(of.candle_s, *(array[first:end] for array in vars(of).values() if isinstance(array, np.ndarray)))

    quotes = {}
    for symbol in history:
        last = window(symbol, 1).close
        price = float(last[-1]) if len(last) else float("nan")
        quotes[symbol] = Quote(price, price * (1 - spread_bps / 2e4), price * (1 + spread_bps / 2e4))
    return Market(now_ns, next(iter(history.values())).candle_s, {symbol: facts(symbol, (ticks or {}).get(symbol, "0.001")) for symbol in history},
                  quotes, window)


def walk(seed: int, minutes: int = 3000, start: float = 100.0, step: float = 6e-4, candle_s: int = 60) -> Candles:
    """A random walk with fat tails, whose volatility comes in clusters."""
    rng = np.random.default_rng(seed)
    count = minutes * 60 // candle_s
    volatility = step * np.exp(0.6 * np.sin(np.arange(count) / count * rng.uniform(6, 20) + seed))
    closes = start * np.exp(np.cumsum(rng.standard_t(4, count) * volatility * (candle_s / 60) ** 0.5))
    return candles(list(closes), list(rng.lognormal(0, 1, count)), wick=step / 3, candle_s=candle_s)


def checked(given: Any, of: Market) -> list[Condition]:
    """The conditions that the strategist would arm. Raises StrategyError."""
    known = {symbol: arming.Facts(number, symbol, one.tick_size, one.lot_size, 1 << 53, -8) for number, (symbol, one) in enumerate(of.facts.items())}
    return Checker(of.facts, known, 1000, lambda: None).checked(given, of.now_ns).conditions


def planned(strategies: Any, history: Mapping[str, Candles], begin_ns: int, minutes: int, **more: Any) -> list[tuple[int, list[Condition]]]:
    """(event time, what was armed) of every plan in a run; `strategies(n)` gives the strategy that is asked at minute n."""
    plans: list[tuple[int, list[Condition]]] = []
    for n in range(minutes):
        now = market(history, begin_ns + n * MINUTE, **more)
        given = strategies(n).plan(now, Portfolio(planned_ns=plans[-1][0] if plans else 0), Coins())
        if given is not None:
            plans.append((now.now_ns, checked(given, now)))
    return plans
