"""Configuration of the strategist and its two built-in strategies. control/config.py composes it as section [strategy]."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

#: seconds of a candle: a minute is a whole number of candles, or a candle a whole number of minutes
_CANDLES_S = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600)


def _bps(least: int, about: str) -> Meta:
    return Meta(ge=least, le=10_000, description=about)


class Strategy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When plans are made and what the built-in strategies ask for. Times are event time; distances are bps of the entry price.

    A user's own class gets this Struct too and may use of it what it likes.
    """

    candle_s: Annotated[int, Meta(ge=1, le=3600, description="a candle in seconds")] = 10
    interval_s: Annotated[int, Meta(ge=1, le=3600, description="a plan is made at each multiple of so many seconds")] = 30
    history_minutes: Annotated[int, Meta(ge=1, le=1440, description="candles that are kept, and generated history that is read")] = 1440
    range_minutes: Annotated[int, Meta(ge=1, le=240, description="momentum: the range that a breakout leaves; also the warm-up")] = 5
    breakout_bps: Annotated[float, Meta(ge=0, le=1000, description="momentum: how far beyond the range's edge the level is armed")] = 0.5
    mean_minutes: Annotated[int, Meta(ge=1, le=240, description="mean_reversion: the moving average; also the warm-up")] = 3
    stretch_sigma: Annotated[float, Meta(gt=0, le=20, description="mean_reversion: bands in standard deviations of the closes")] = 1.5
    stretch_least_bps: Annotated[float, Meta(ge=0, le=1000, description="mean_reversion: a band nearer to the average is not traded")] = 3.0
    size_bps: Annotated[int, _bps(1, "size of an entry in bps of equity, before the coin's record scales it")] = 500
    stop_bps: Annotated[int, _bps(0, "stop; 0 is none")] = 30
    target_bps: Annotated[int, _bps(0, "target; 0 is none")] = 45
    trail_activation_bps: Annotated[int, _bps(0, "gain from which the stop trails")] = 20
    trail_distance_bps: Annotated[int, _bps(0, "distance of the trailing stop behind the best price; 0 is none")] = 12
    time_stop_s: Annotated[int, Meta(ge=0, le=7 * 86_400, description="a position is closed after so long; 0 is never")] = 240
    valid_for_s: Annotated[int, Meta(ge=1, le=7 * 86_400, description="a condition expires after so long unless a plan renews it")] = 90
    most_per_plan: Annotated[int, Meta(ge=1, le=1000, description="conditions a strategy arms at once")] = 200

    def __post_init__(self) -> None:
        """Raises ValueError for what no single field can say."""
        if self.candle_s not in _CANDLES_S:
            raise ValueError(f"candle_s: {self.candle_s} is none of {', '.join(map(str, _CANDLES_S))}; "
                             "a minute must be a whole number of candles, or a candle of minutes")
        if not (self.stop_bps or self.time_stop_s):
            raise ValueError("stop_bps: without a stop there must be a time_stop_s; set one of the two above 0")
        if self.candle_s > 60 * min(self.range_minutes, self.mean_minutes):
            raise ValueError(f"candle_s: {self.candle_s} s is longer than the range or the average; shorten it, or lengthen "
                             "range_minutes and mean_minutes")
