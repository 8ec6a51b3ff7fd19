"""Generated one-minute candles as candles of the configured length, so that strategies are warm at the first tick of a simulated market."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotpath.kernel.candles import CANDLE

_MINUTE_NS = 60_000_000_000


def resampled(minutes: np.ndarray[Any, Any], candle_s: int) -> tuple[int, np.ndarray[Any, Any]]:
    """(first bucket, CANDLE array) of consecutive minutes with time_ns, open, high, low, close, volume, trades; -1 without any.

    Shorter candles: within a minute the price is taken to go open → low → high → close when the minute rose and open → high → low → close
    when it fell, in three straight parts; volume and trades are divided evenly, the remainder first. So the candles of a minute have
    exactly its open, high, low, close, volume and trades. Longer ones are merged; a leading part of one is dropped.
    """
    if len(minutes) == 0:
        return -1, np.zeros(0, CANDLE)
    if candle_s < 60:
        return int(minutes["time_ns"][0]) // (candle_s * 1_000_000_000), _split(minutes, 60 // candle_s)
    return _merge(minutes, candle_s // 60)


def _split(minutes: np.ndarray[Any, Any], parts: int) -> np.ndarray[Any, Any]:
    rose = minutes["close"] >= minutes["open"]
    second, third = np.where(rose, minutes["low"], minutes["high"]), np.where(rose, minutes["high"], minutes["low"])
    corners = np.stack([minutes["open"], second, third, minutes["close"]], axis=1)
    out = np.zeros((len(minutes), parts), CANDLE)
    for part in range(parts):
        begin, end = _on_path(corners, part / parts), _on_path(corners, (part + 1) / parts)
        inside = [corners[:, corner] for corner in (1, 2) if part / parts <= corner / 3 <= (part + 1) / parts]
        here = out[:, part]
        here["open"], here["close"] = begin, end
        here["high"], here["low"] = np.max([begin, end, *inside], axis=0), np.min([begin, end, *inside], axis=0)
        for name in ("volume", "trades"):
            here[name] = minutes[name] // parts + (part < minutes[name] % parts)
    return out.reshape(-1)


def _on_path(corners: np.ndarray[Any, Any], at: float) -> np.ndarray[Any, Any]:
    """Prices at a share of the minute, in whole ticks."""
    leg = min(2, int(at * 3))
    share = at * 3 - leg
    return np.rint(corners[:, leg] + share * (corners[:, leg + 1] - corners[:, leg])).astype(np.int64)


def _merge(minutes: np.ndarray[Any, Any], count: int) -> tuple[int, np.ndarray[Any, Any]]:
    numbers = minutes["time_ns"] // _MINUTE_NS
    minutes = minutes[-int(numbers[0]) % count:]
    if len(minutes) == 0:
        return -1, np.zeros(0, CANDLE)
    starts = np.arange(0, len(minutes), count)
    out = np.zeros(len(starts), CANDLE)
    out["open"] = minutes["open"][starts]
    out["close"] = minutes["close"][np.minimum(starts + count, len(minutes)) - 1]
    out["high"], out["low"] = np.maximum.reduceat(minutes["high"], starts), np.minimum.reduceat(minutes["low"], starts)
    out["volume"], out["trades"] = np.add.reduceat(minutes["volume"], starts), np.add.reduceat(minutes["trades"], starts)
    return int(minutes["time_ns"][0]) // (_MINUTE_NS * count), out
