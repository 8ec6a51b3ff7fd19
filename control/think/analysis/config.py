"""Configuration of the analysis and of the strategy that trades by it. control/config.py composes it as section [analysis]."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

#: candles of a timeframe from which its regime can be told
REGIME_CANDLES = 23
#: history of a timeframe, in its candles, that has so many whole ones at any instant
HISTORY_CANDLES = REGIME_CANDLES + 1

#: the most history that is kept, a day, has HISTORY_CANDLES of an hour
Minutes = Annotated[int, Meta(ge=1, le=60)]


class Analysis(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the strategy `analyst` looks at, what it asks of a trade, how large it may be, and when it thinks anew. Times are event time."""

    timeframes_min: Annotated[tuple[Minutes, ...], Meta(min_length=1, max_length=8, description="candles that are analysed, in minutes, rising; "
                              "a longer one weighs more")] = (1, 5, 15, 60)
    trade_timeframe_min: Annotated[Minutes, Meta(description="the one of them that is traded: its pattern, regime and ATR make the entry")] = 15
    symbols_at_once: Annotated[int, Meta(ge=1, le=1000, description="symbols that are analysed before the first of them is decided "
                               "on; candles are held of one at a time")] = 16
    least_score: Annotated[float, Meta(ge=0, le=1, description="a score nearer to 0 is no trade")] = 0.15
    max_spread_bps: Annotated[float, Meta(gt=0, le=1000, description="a wider spread is no trade, and no entry; also the cost where none is known")
                              ] = 6.0
    stop_atr: Annotated[float, Meta(gt=0, le=20, description="stop in ATR of the traded timeframe, before the regime's factor")] = 1.5
    target_atr: Annotated[float, Meta(gt=0, le=50, description="target, likewise")] = 3.0
    stop_most_bps: Annotated[int, Meta(ge=1, le=5000, description="a wider stop is no trade")] = 800
    least_reward_risk: Annotated[float, Meta(ge=0, le=20, description="(target − costs) / (stop + costs) below this is no trade")] = 1.0
    risk_bps: Annotated[float, Meta(gt=0, le=1000, description="loss at the stop, costs included, in bps of equity at most")] = 10.0
    volatility_target_bps: Annotated[float, Meta(gt=0, le=10_000, description="standard deviation that one position may add to a day of the "
                                                 "account, in bps of equity")] = 30.0
    kelly_share: Annotated[float, Meta(gt=0, le=1, description="share of the Kelly fraction that may be lost at the stop")] = 0.25
    kelly_trades: Annotated[int, Meta(ge=30, le=100_000, description="closed trades of a coin from which its Kelly fraction counts")] = 30
    size_most_bps: Annotated[int, Meta(ge=1, le=10_000, description="size of an entry in bps of equity at most")] = 1000
    interval_least_min: Annotated[int, Meta(ge=1, le=1440, description="time between two analyses in a wild market")] = 15
    interval_most_min: Annotated[int, Meta(ge=1, le=1440, description="the same in a calm one")] = 240
    calm_bps: Annotated[float, Meta(gt=0, le=10_000, description="median volatility of an hour at and below which the market is calm")] = 25.0
    wild_bps: Annotated[float, Meta(gt=0, le=10_000, description="the same at and above which it is wild")] = 150.0
    regime_share: Annotated[float, Meta(gt=0, le=1, description="share of the symbols whose change of regime brings the next analysis at once")
                            ] = 0.25

    def __post_init__(self) -> None:
        """Raises ValueError for what no single field can say."""
        if list(self.timeframes_min) != sorted(set(self.timeframes_min)):
            raise ValueError("timeframes_min: they do not rise; name each once, the shortest first")
        if self.trade_timeframe_min not in self.timeframes_min:
            raise ValueError(f"trade_timeframe_min: {self.trade_timeframe_min} is none of timeframes_min; name one of them")
        if self.interval_least_min > self.interval_most_min:
            raise ValueError("interval_least_min: is longer than interval_most_min; make it shorter")
        if self.calm_bps >= self.wild_bps:
            raise ValueError("calm_bps: is not below wild_bps; make it smaller")
