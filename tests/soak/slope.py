"""How fast a figure grows: least squares over time, with a bound that knows that neighbouring samples are alike.

Samples of a process's memory a few seconds apart are not independent: the usual standard error would be far too small. So the samples are averaged
over blocks, and the blocks' residuals give the error, with Student's t of (blocks − 2) degrees. Memory that moves in slow waves still makes
neighbouring blocks alike; what is left of that is corrected by the blocks' own lag-1 correlation ρ: n_eff = n (1 − ρ)/(1 + ρ).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: blocks that a series is averaged into, and the least that a bound is worth something with
BLOCKS, LEAST = 40, 8
#: 95 % quantiles of Student's t by the degrees from which on they are not too small
_T95 = {0: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 6: 1.943, 8: 1.860, 10: 1.812, 15: 1.753, 20: 1.725, 30: 1.697}


class Slope(NamedTuple):
    """Growth an hour: the estimate, and what it is not above with 95 % confidence."""

    per_h: float
    upper95_per_h: float


def slope(hours: list[float], values: list[float]) -> Slope:
    """The growth of a series. Too few samples give an upper bound of infinity."""
    at, value = np.asarray(hours, float), np.asarray(values, float)
    blocks = min(BLOCKS, len(at) // 3)
    if blocks < LEAST:
        return Slope(math.nan, math.inf)
    x = np.array([part.mean() for part in np.array_split(at, blocks)])
    y = np.array([part.mean() for part in np.array_split(value, blocks)])
    centred = x - x.mean()
    growth = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - growth * centred
    together = float(rest @ rest)
    if together == 0.0:
        return Slope(growth, growth)
    alike = max(0.0, min(0.95, float(rest[1:] @ rest[:-1]) / together))
    effective = max(3.0, blocks * (1 - alike) / (1 + alike))
    error = math.sqrt(together / (effective - 2) / (centred @ centred))
    quantile = _T95[max(least for least in _T95 if least <= effective - 2)]
    return Slope(growth, growth + quantile * error)
