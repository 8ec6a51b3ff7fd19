"""Learning through the whole loop: the market of `learning` as ticks, traded by a strategy that knows nothing of its edges.

```
 prices with planted edges ─► ticks ─► backtest: plans, sniper, paper venue, trades on paper, journal, reflection, adaptations ─► the next plan
```

`learning` asks the learner alone, in hundreds of markets; here each trade goes all the way, and what is shut is followed by the sniper. At a full
hour some symbols have a signal, behind which their price drifts until it has come to the stop or the target (benchmarks/edges.py); the strategy
buys all of them, and pays fees and a spread. Of each market there are two runs over the same ticks, with `learning.apply` and without it.

It checks itself: the books of all runs reconcile, both arms of a pair trade the same until something is adapted, and the edges are in the prices.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import edges as market
from benchmarks.account import backtest_plan
from benchmarks.frame import Row, check
from control import config as configuration
from control.backtest.engine import Backtest
from control.learn.knowledge import Knowledge
from ipc import layout as l
from ipc.jit import kernel

#: they stand for the eight of edges.py: two lose, one wins, five bring nothing
SYMBOLS: Final = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT", "DOGE/USDT:USDT", "LAYER/USDT:USDT", "BTC/USDT", "ETH/USDT")
SEEDS, QUICK_SEEDS, MINUTES, QUICK_MINUTES = 6, 1, 116_000, 30_000
#: 2024-01-01; price of each at the beginning, in ticks
_BEGIN_NS, _FIRST_TICKS = 1_704_067_200_000_000_000, 1_000_000
_MINUTE_NS, _HOUR = 60_000_000_000, 60
#: bps on either side of the price; offset of a minute's first tick from the full minute; CLOCKs of a minute
_HALF_SPREAD_BPS, _OFFSET_NS, _CLOCKS = 0.05, 500_000_000, 5
_DAY: Final = 1440
_STRATEGY: Final = """
import numpy as np
from control.think.strategy import Condition, Strategy, equity_bps

SIGNALS = np.load(FILE)

class Signals(Strategy):
    interval_s = 3600

    def plan(self, market, portfolio, knowledge):
        hour, made = (market.now_ns - BEGIN_NS) // 3_600_000_000_000, []
        for number, (symbol, signals) in enumerate(zip(SYMBOLS, SIGNALS, strict=True)):
            last, facts = market.quotes[symbol].last, market.facts[symbol]
            if symbol in portfolio.positions or not 0 <= hour < len(signals) or not signals[hour] or not last > 0:
                continue
            for direction, sign in (("up", 1), ("down", -1)):
                made.append(Condition(symbol=symbol, side="buy", direction=direction, level=facts.price_text(last * (1 + sign * 1e-7), direction),
                                      size=equity_bps(100), confidence=0.9, stop_bps=80, target_bps=160, time_stop_s=86_400, valid_for_s=90,
                                      group=f"signal{number}", why="a signal"))
        return made
"""
_SETTINGS: Final[dict[str, Any]] = {
    "limits.max_open_positions": 100, "limits.max_entries_per_day": 100_000, "limits.min_confidence": 0.0, "limits.daily_loss_bps": 10_000,
    "limits.max_order_value": 1e6, "limits.max_repeats": 100_000, "limits.max_quote_age_ms": 120_000, "limits.price_collar_bps": 10_000,
    "limits.window_collar_bps": 10_000, "paper.initial_balance": 1e6, "paper.spot_taker_fee_bps": 5.0, "strategy.candle_s": 60,
    "strategy.history_minutes": 5, "hotpath.session_gap_s": 600, "run.symbols": list(SYMBOLS)}


@kernel
def _walk(noise: Any, own: Any, waits: Any, edges: Any, prices: Any, signals: Any) -> None:
    """Logs of prices in bps by minute and symbol, and at which hours a symbol has a signal; the edge holds until a barrier is reached from there."""
    minutes, symbols = own.shape
    since = np.full(symbols, -1, np.int64)
    next_at = np.zeros(symbols, np.int64)
    made = np.zeros(symbols, np.int64)
    gained = np.zeros(symbols)
    level = np.zeros(symbols)
    log_sigma = 0.0
    for s in range(symbols):
        next_at[s] = np.int64(waits[s, 0])
    for t in range(minutes):
        log_sigma = market.volatility(log_sigma, noise[t, 1])
        for s in range(symbols):
            move = market.move(log_sigma, noise[t, 0], own[t, s], edges[s] if since[s] >= 0 else 0.0)
            level[s] += move
            prices[t, s] = level[s]
            if since[s] >= 0:
                gained[s] += move
                if market.is_over(gained[s], t - since[s]):
                    since[s] = -1
                    made[s] += 1
                    next_at[s] = t + 1 + np.int64(waits[s, min(made[s], waits.shape[1] - 1)])
            elif t >= next_at[s] and t % 60 == 0:
                signals[s, t // 60] = True
                since[s] = t
                gained[s] = 0.0


def paths(seed: int, minutes: int) -> tuple[Any, Any]:
    """(logs of prices in bps [minutes, symbols], signals [symbols, hours])."""
    prices, signals = np.zeros((minutes, len(SYMBOLS)), np.float32), np.zeros((len(SYMBOLS), -(-minutes // _HOUR)), np.bool_)
    _walk(*market.draw(seed, minutes, len(SYMBOLS)), np.array(market.EDGES), prices, signals)
    return prices, signals


def ticks_of(prices: Any) -> Iterator[Any]:
    """TICK arrays of a day each: of each symbol and minute a trade and a quote, and a CLOCK every second of the first five of a minute."""
    symbols = prices.shape[1]
    for first in range(0, len(prices), _DAY):
        day = prices[first: first + _DAY]
        made = np.zeros((len(day), 2 * symbols + _CLOCKS), l.TICK)
        made["event_ns"] = (_BEGIN_NS + (first + np.arange(len(day), dtype=np.int64)) * _MINUTE_NS)[:, None]
        made["event_ns"] += np.concatenate([_OFFSET_NS + np.arange(2 * symbols) * 1_000_000, np.arange(1, _CLOCKS + 1) * 1_000_000_000])
        made["kind"], made["instrument"] = l.TICK_CLOCK, l.NO_INSTRUMENT
        trades, quotes = made[:, :symbols], made[:, symbols: 2 * symbols]
        at = np.rint(_FIRST_TICKS * np.exp(day * 1e-4)).astype(np.int64)
        half = np.maximum(1, np.rint(at * _HALF_SPREAD_BPS * 1e-4)).astype(np.int64)
        for part, kind in ((trades, l.TICK_TRADE), (quotes, l.TICK_QUOTE)):
            part["instrument"], part["kind"], part["lots"] = np.arange(symbols), kind, 1_000_000
        trades["price"], quotes["price"], quotes["ask_price"], quotes["ask_lots"] = at, at - half, at + half, 1_000_000
        yield made.reshape(-1)


@dataclass
class Arm:
    """What one run made."""

    equity: float
    trades: int
    #: what came to be active, by what it is called; when the first of it did
    adapted: Counter[str] = field(default_factory=Counter)
    adapted_ns: int = 1 << 62
    #: by symbol: the trades it closed before it was restricted; when those that were made opened, and their results in bps
    restricted_after: dict[str, int] = field(default_factory=dict)
    results: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    on_paper: int = 0

    def before(self, symbol: str, time_ns: int) -> list[float]:
        """Results of the trades that opened before that time."""
        return [bps for opened_ns, bps in self.results.get(symbol, []) if opened_ns < time_ns]


def arm(seed: int, minutes: int, apply: bool) -> Arm:
    """One run over the market of that seed."""
    prices, signals = paths(seed, minutes)
    with tempfile.TemporaryDirectory(prefix="trader-bench-") as name:
        folder = Path(name)
        np.save(folder / "signals.npy", signals)
        file = folder / "signals.py"
        file.write_text(_STRATEGY.replace("FILE", repr(str(folder / "signals.npy"))).replace("BEGIN_NS", str(_BEGIN_NS))
                        .replace("zip(SYMBOLS", f"zip({SYMBOLS!r}"))
        settings = configuration.load(None, _SETTINGS | {"run.strategies": f"{file}:Signals", "learning.apply": apply}, {})
        run = Backtest(backtest_plan(folder, SYMBOLS, settings), folder / "run", "loop", logging.getLogger("benchmarks"))
        try:
            for ticks in ticks_of(prices):
                run.run(ticks)
            summary = run.finish([], [])
        finally:
            run.close()
        check(summary["reconciled"] is True, f"the books of seed {seed} do not reconcile: {summary.get('differences')}")
        return _read(folder / "run" / "state" / "knowledge", float(summary["equity_end"]))


def _read(folder: Path, equity: float) -> Arm:
    store = Knowledge(folder)
    try:
        trades, steps = store.trades(), store.steps()
        made = [trade for trade in trades if trade.made]
        active = [step for step in steps if step.stage == "active"]
        found = Arm(equity, len(made), Counter(step.action for step in active), min((step.at_ns for step in active), default=1 << 62),
                    on_paper=len(trades) - len(made))
        for trade in made:
            found.results.setdefault(trade.symbol, []).append((trade.opened_ns, trade.net_bps))
        for step in steps:
            if (step.family, step.direction, step.stage) == ("coin", "loses", "active"):
                before = sum(trade.symbol == step.value and trade.closed_ns <= step.at_ns for trade in made)
                found.restricted_after.setdefault(step.value, before)
        return found
    finally:
        store.close()


def run(quick: bool) -> list[Row]:
    """Pairs of runs."""
    seeds, minutes = (QUICK_SEEDS, QUICK_MINUTES) if quick else (SEEDS, MINUTES)
    pairs = [(arm(seed, minutes, True), arm(seed, minutes, False)) for seed in range(seeds)]
    for learning, control in pairs:
        check(control.on_paper == 0, "without learning something was followed on paper")
        for symbol in SYMBOLS:
            mine, theirs = (one.before(symbol, learning.adapted_ns) for one in (learning, control))
            check(min(len(mine), len(theirs)) >= 20, f"{symbol} was hardly traded before anything was learned")
            same = min(len(mine), len(theirs))  # one that was open at that moment may have closed in one of them alone
            check(abs(len(mine) - len(theirs)) <= 1 and np.allclose(mine[:same], theirs[:same], atol=0.1),
                  f"{symbol} was traded otherwise before anything was learned")
    rows = []
    for symbol, edge in zip(SYMBOLS, market.EDGES, strict=True):
        results = [result for _, control in pairs for _, result in control.results.get(symbol, [])]
        mean = float(np.mean(results))
        rows.append(Row("learning_loop", "mean_bps", round(mean, 1), "bps", {"symbol": symbol, "trades": len(results)}))
        meant = {market.LOSES: -50.0, market.WINS: 50.0}.get(edge, 0.0)
        check(quick or abs(mean - meant) < 25.0, f"{symbol} makes {mean:.1f} bps a trade, and is meant to make {meant}")
    after = sorted(float(learning.restricted_after.get(symbol, math.inf)) for learning, _ in pairs for symbol in SYMBOLS[:2])
    gained = [1e4 * (learning.equity / control.equity - 1) for learning, control in pairs]
    adapted = sum((learning.adapted for learning, _ in pairs), Counter[str]())
    kinds = {what.replace(" ", "_"): count for what, count in sorted(adapted.items())}
    params = {"runs": seeds}
    return [
        *rows,
        Row("learning_loop", "losers_restricted", sum(one < math.inf for one in after) / len(after), "share", params),
        Row("learning_loop", "restricted_after", after[len(after) // 2], "", {**params, "of": "trades, median"}),
        Row("learning_loop", "others_restricted", sum(len(learning.restricted_after.keys() & set(SYMBOLS[2:])) for learning, _ in pairs), "", params),
        Row("learning_loop", "equity_gained", round(float(np.median(gained)), 1), "bps", {**params, "least": round(min(gained), 1)}),
        Row("learning_loop", "followed_on_paper", sum(learning.on_paper for learning, _ in pairs), "", {**params, **kinds})]
