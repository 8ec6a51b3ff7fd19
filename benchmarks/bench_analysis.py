"""How long the analysis takes: one plan of the strategy `analyst` over fifty symbols with a day of ten-second candles at four timeframes.

    candles ─► 1m 5m 15m 60m ─► indicators ─► regime, patterns ─► score ─► rules ─► sizes ─► conditions ─► check and rows

Nothing is kept between two plans. Each round is a whole plan, conversion and compiling of its conditions included; `stage_us` is a stage's share of a
symbol, measured alone. Copying candles out of the fold is not in it: that is the strategist's for every strategy.

It checks itself: every plan of the same candles is the same, some symbols are armed and some are passed over, each for a reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from statistics import median
from typing import Any

import msgspec
import numpy as np

from benchmarks.frame import Row, check
from control.think.analysis import pipeline
from control.think.analysis.indicators import indicators, series
from control.think.analysis.patterns import patterns
from control.think.analysis.regime import regime
from control.think.analyst import Analyst
from control.think.check import Checker
from control.think.strategy import Candles, CoinStatus, Facts, Market, Portfolio, Quote
from hotpath import arming

SYMBOLS, CANDLE_S, CANDLES, ROUNDS, QUICK_ROUNDS = 50, 10, 8640, 30, 5
#: ms that one plan may take
TARGET_MS = 1000.0
_BEGIN_NS = 1_700_006_400_000_000_000


class _Unknown:
    """Knowledge of coins that were never traded."""

    def coin(self, symbol: str) -> CoinStatus:
        return CoinStatus()


def day(seed: int) -> Candles:
    """A walk with fat tails and volatility in clusters."""
    rng = np.random.default_rng(seed)
    volatility = 3e-4 * np.exp(0.6 * np.sin(np.linspace(0, 12, CANDLES) + seed))
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, CANDLES) * volatility))
    opened = np.concatenate([close[:1], close[:-1]])
    time_ns = _BEGIN_NS + CANDLE_S * 1_000_000_000 * np.arange(CANDLES, dtype=np.int64)
    return Candles(CANDLE_S, time_ns, opened, np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999, close,
                   rng.lognormal(0, 1, CANDLES), np.ones(CANDLES, np.int64))


def market() -> Market:
    """All symbols, a day on."""
    history = {f"C{number}/USDT:USDT": day(number) for number in range(SYMBOLS)}
    facts = {symbol: Facts(symbol, True, Decimal("0.001"), Decimal("0.001"), Decimal(5), 5.0) for symbol in history}
    quotes = {symbol: Quote(float(of.close[-1]), float(of.close[-1]) * 0.99995, float(of.close[-1]) * 1.00005) for symbol, of in history.items()}
    return Market(_BEGIN_NS + CANDLES * CANDLE_S * 1_000_000_000, CANDLE_S, facts, quotes, lambda symbol, count: history[symbol])


def run(quick: bool) -> list[Row]:
    """A plan as a whole, then its stages."""
    now, rounds = market(), QUICK_ROUNDS if quick else ROUNDS
    known = {symbol: arming.Facts(number, symbol, of.tick_size, of.lot_size, 1 << 53, -8) for number, (symbol, of) in enumerate(now.facts.items())}
    checker = Checker(now.facts, known, 1000, lambda: None)
    plans: set[bytes] = set()
    took_ms = []
    for _ in range(rounds):
        analyst = Analyst()
        began = time.perf_counter_ns()
        made = checker.checked(analyst.plan(now, Portfolio(), _Unknown()), now.now_ns)
        took_ms.append((time.perf_counter_ns() - began) / 1e6)
        plans.add(msgspec.json.encode(made.conditions))
        check(len(made.conditions) + len(analyst.passed) == SYMBOLS, "a symbol was neither armed nor passed over")
        check(made.conditions and all(analyst.passed.values()) and analyst.passed, "all were armed, or none, or one was passed over without a reason")
    check(len(plans) == 1, "the same candles gave different plans")
    params = {"symbols": SYMBOLS, "timeframes": "1m 5m 15m 60m", "candles": CANDLES, "rounds": rounds}
    return [Row("analysis", f"plan_{name}_ms", value, "ms", params, TARGET_MS) for name, value in (("min", min(took_ms)), ("median", median(took_ms)))
            ] + _stages(now, rounds)


def _stages(now: Market, rounds: int) -> list[Row]:
    """Each stage alone, over one symbol's timeframes; the least of several."""
    symbol = next(iter(now.facts))
    candles = pipeline.frames(now, symbol, (1, 5, 15, 60))
    of = [series(one) for one in candles.values()]

    def least_us(stage: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(10 * rounds):
            began = time.perf_counter_ns()
            stage()
            best = min(best, time.perf_counter_ns() - began)
        return best / 1e3

    stages: dict[str, Callable[[], Any]] = {
        "timeframes": lambda: pipeline.frames(now, symbol, (1, 5, 15, 60)), "series": lambda: [series(one) for one in candles.values()],
        "indicators": lambda: [indicators(one) for one in of], "regime": lambda: [regime(one) for one in of],
        "patterns": lambda: [patterns(one) for one in of]}
    return [Row("analysis", "stage_us", least_us(stage), "us", {"stage": name}) for name, stage in stages.items()]
