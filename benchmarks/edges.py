"""A market whose edges lie in its prices: eight symbols, a common factor, clusters of volatility, and a drift behind each signal.

```
 return of symbol s in a minute  =  σ(t) × (√ρ × factor(t) + √(1 − ρ) × own(s, t)  +  edge(s) while its signal holds)
 log σ(t)                        =  log σ₀ + an autoregression of order 1
```

A signal comes at a random minute when no trade of the symbol is open; a trade buys at that price and ends at its stop, its target, or after a day.
All trades are long, so those that overlap win and lose together. The edge is a drift, in standard deviations of a minute: what it is worth in basis
points of a trade follows from the path, with both barriers and costs in it, and is measured by benchmarks/bench_learning.py. A trade ends at its
level though the minute's price is beyond it. Prices do not know whether somebody trades: both arms of a pair have the same paths.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ipc.jit import kernel

SYMBOLS: Final = ("AAA/USDT", "BBB/USDT", "CCC/USDT", "DDD/USDT", "EEE/USDT", "FFF/USDT", "GGG/USDT", "HHH/USDT")
STOP_BPS, TARGET_BPS, COST_BPS = 80.0, 160.0, 10.0
#: standard deviation of a minute, bps; share of the common factor; persistence and step of log σ
SIGMA_BPS, FACTOR, PERSISTENCE, STEP = 8.0, 0.6, 0.998, 0.025
#: minutes from one trade's end to the next signal, on average; after so many a trade ends by time
WAIT_MINUTES, MOST_MINUTES = 240.0, 1440
MINUTE_NS: Final = 60_000_000_000
#: drifts that make a mean of about −50, 0 and +50 bps a trade after costs, and what is worth nothing before costs
LOSES, NOTHING, WINS, WALK = -0.0322, 0.0053, 0.0367, 0.0
EDGES: Final = (LOSES, LOSES, WINS, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


class Trades(NamedTuple):
    """Arrays of one length, by the minute of their end: symbol, first and last minute, result after costs in bps."""

    symbol: Any
    opened: Any
    closed: Any
    net_bps: Any


@kernel
def volatility(log_sigma: float, shock: float) -> float:
    """log σ/σ₀ of the next minute."""
    return PERSISTENCE * log_sigma + STEP * shock


@kernel
def move(log_sigma: float, factor: float, own: float, edge: float) -> float:
    """Return of a minute in bps."""
    return SIGMA_BPS * np.exp(log_sigma) * (np.sqrt(FACTOR) * factor + np.sqrt(1.0 - FACTOR) * own + edge)


@kernel
def is_over(gained: float, minutes: int) -> bool:
    """It has come to the stop or the target, or lasted as long as any."""
    return gained <= -STOP_BPS or gained >= TARGET_BPS or minutes >= MOST_MINUTES


def draw(seed: int, minutes: int, symbols: int) -> tuple[Any, Any, Any]:
    """(shocks of the factor and of the volatility [minutes, 2], of each symbol [minutes, symbols], minutes between signals [symbols, many])."""
    chance = np.random.default_rng(seed)
    return (chance.standard_normal((minutes, 2)), chance.standard_normal((minutes, symbols), dtype=np.float32),
            chance.exponential(WAIT_MINUTES, (symbols, minutes // 30)))


@kernel
def _play(noise: Any, own: Any, waits: Any, edges: Any, after: Any, turn: int, out: Any) -> int:
    """Walk through the minutes; `out` rows (symbol, opened, closed) and result; `after` are the edges from minute `turn` on. Gives the count."""
    minutes, symbols = own.shape
    open_at = np.full(symbols, -1, np.int64)
    next_at = np.zeros(symbols, np.int64)
    made = np.zeros(symbols, np.int64)
    gained = np.zeros(symbols)
    log_sigma, count = 0.0, 0
    for s in range(symbols):
        next_at[s] = np.int64(waits[s, 0])
    for t in range(minutes):
        log_sigma = volatility(log_sigma, noise[t, 1])
        for s in range(symbols):
            edge = edges[s] if t < turn else after[s]
            if open_at[s] >= 0:
                gained[s] += move(log_sigma, noise[t, 0], own[t, s], edge)
                if is_over(gained[s], t - open_at[s]):
                    if count >= len(out):
                        return count
                    result = min(TARGET_BPS, max(-STOP_BPS, gained[s]))
                    out[count, 0], out[count, 1], out[count, 2], out[count, 3] = s, open_at[s], t, result - COST_BPS
                    count += 1
                    made[s] += 1
                    open_at[s] = -1
                    if made[s] >= waits.shape[1]:
                        next_at[s] = minutes
                    else:
                        next_at[s] = t + 1 + np.int64(waits[s, made[s]])
            elif t >= next_at[s]:
                open_at[s] = t
                gained[s] = 0.0
    return count


def play(seed: int, minutes: int, edges: tuple[float, ...] = EDGES, after: tuple[float, ...] | None = None, turn: int = 1 << 60) -> Trades:
    """All trades that close within so many minutes; from minute `turn` on the edges are those of `after`."""
    noise, own, waits = draw(seed, minutes, len(edges))
    out = np.zeros((waits.size, 4))
    count = _play(noise, own, waits, np.array(edges), np.array(after or edges), turn, out)
    rows = out[:count]
    return Trades(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2].astype(np.int64), rows[:, 3])
