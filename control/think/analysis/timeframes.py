"""Candles of one length become candles of a timeframe. Only whole ones that have closed: the last candle ends at or before the plan's instant.

A candle of m minutes covers [k × m, (k + 1) × m) minutes of event time since 1970, whenever the history begins and whoever asks. One that the history
begins within is dropped, and so is the one under way. So the same ticks make the same candles in a backtest, in a replay and after a restart.
"""

from __future__ import annotations

import numpy as np

from control.think.strategy import Candles

#: candles that are looked at: of what an average of 14 began with, less than 1e-7 is left after so many
MOST = 240
MINUTE_NS = 60_000_000_000


def resampled(candles: Candles, minutes: int, now_ns: int, most: int = MOST) -> Candles | None:
    """The newest closed candles of a timeframe, so many at most; None where there is none, or where it is no whole number of the candles given."""
    frame_ns, candle_ns = minutes * MINUTE_NS, candles.candle_s * 1_000_000_000
    if frame_ns % candle_ns:
        return None
    size, closed_ns = frame_ns // candle_ns, now_ns // frame_ns * frame_ns
    end = int(np.searchsorted(candles.time_ns, closed_ns))
    count = min(most, end // size)
    if not count or int(candles.time_ns[end - 1]) + candle_ns != closed_ns:
        return None  # too young, or it ends before its last frame does
    rows, starts = slice(end - count * size, end), np.arange(0, count * size, size)
    return Candles(minutes * 60, candles.time_ns[rows][::size], candles.open[rows][::size], np.maximum.reduceat(candles.high[rows], starts),
                   np.minimum.reduceat(candles.low[rows], starts), candles.close[rows][size - 1::size],
                   np.add.reduceat(candles.volume[rows], starts), np.add.reduceat(candles.trades[rows], starts))
