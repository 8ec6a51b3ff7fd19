"""What the mean of a few weeks of days is worth: an interval by resampling blocks of whole days. Pure.

A day is one figure of the whole account, so what the symbols of a day have in common stays together, and a block of days keeps what one day has to
do with the next. Blocks of `block` days begin anywhere and go round at the end (the circular block bootstrap: Politis and Romano 1992), so that each
day counts as often as any other. `block` ≈ n^(1/3), the order that is best for a mean's variance (Hall, Horowitz, Jing 1995): 3 for thirty days.

The quantiles of resampled means are too near to each other where there are few blocks. So they are taken further out, at the probabilities of the
normal distribution that belong to Student's quantile with m − 1 degrees of freedom times √(m / (m − 1)), m = n / block (the expanded percentile
interval: Hesterberg 2015, "What teachers should know about the bootstrap"). `tests/test_benchmarks_walk_forward.py` counts how often it covers.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np

#: days of a block; resamples; below so many blocks there is no interval
BLOCK_DAYS: Final = 3
RESAMPLES: Final = 10_000
LEAST_BLOCKS: Final = 4


class Interval(NamedTuple):
    """A mean and what it lies between with the confidence asked for, in the unit of the figures."""

    mean: float
    low: float
    high: float


def chosen(days: int, block: int, resamples: int, seed: int) -> Any:
    """int64[resamples, days]: which days each resample has: blocks of that many in a row, round the end, the last cut where it is too long."""
    starts = np.random.default_rng(seed).integers(days, size=(resamples, -(-days // block)))
    return ((starts[:, :, None] + np.arange(block)) % days).reshape(resamples, -1)[:, :days]


def interval(of: Any, block: int = BLOCK_DAYS, resamples: int = RESAMPLES, seed: int = 1, confidence: float = 0.95) -> Interval | None:
    """Of the mean of daily figures; None where there are fewer than LEAST_BLOCKS blocks. The same seed picks the same days of any two series."""
    figures = np.asarray(of, float)
    blocks = len(figures) // block
    if blocks < LEAST_BLOCKS:
        return None
    means = figures[chosen(len(figures), block, resamples, seed)].mean(axis=1)
    tail = expanded_tail(blocks, confidence)
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(figures.mean()), float(low), float(high))


def expanded_tail(blocks: int, confidence: float) -> float:
    """Probability that is cut off at each end of the resampled means."""
    out = student_quantile((1 + confidence) / 2, blocks - 1) * math.sqrt(blocks / (blocks - 1))
    return NormalDist().cdf(-out)


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's distribution, above the median; by halving, its density summed by Simpson's rule."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        x = np.linspace(0.0, middle, 4001)
        density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        below = 0.5 + middle / 12_000 * float(density[0] + 4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum() + density[-1])
        low, high = (middle, high) if below < probability else (low, middle)
    return high
