"""Configuration of the data plane. control/config.py composes it; each process gets the sections it names."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Bps = Annotated[int, Meta(ge=0, le=10_000)]
FeeBps = Annotated[float, Meta(ge=0, le=1000)]


def _about(text: str) -> Meta:
    return Meta(description=text)


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Risk limits. A limit set to null refuses every entry: nothing trades without its limit."""

    max_open_positions: Annotated[int, Meta(ge=1, le=1000, description="open at once, entries under way included")] | None = 5
    max_symbol_exposure_bps: Annotated[Bps, _about("position and working orders of one symbol, in bps of equity")] | None = 2000
    daily_loss_bps: Annotated[Bps, _about("loss since 00:00 UTC of event time that ends entries, in bps of equity then")] | None = 500
    max_entries_per_day: Annotated[int, Meta(ge=1, le=1_000_000, description="entries from 00:00 UTC of event time on")] | None = 20
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0, description="conditions with less are refused")] | None = 0.7
    max_quote_age_ms: Annotated[int, Meta(ge=1, le=3_600_000, description="no entry is made on an older quote")] | None = 10_000
    max_order_value: Annotated[float, Meta(gt=0, le=1e12, description="largest entry order, in USDT")] | None = 25_000.0
    price_collar_bps: Annotated[Bps, _about("how much worse than the last trade an entry's price may be, in bps")] | None = 200
    window_collar_bps: Annotated[Bps, _about("the same against the average price of the last minute")] | None = 500
    max_gross_exposure_bps: Annotated[int, Meta(ge=0, le=1_000_000, description="positions and working entries of all symbols, both sides added, "
                                                "in bps of equity")] | None = 10_000
    min_equity: Annotated[float, Meta(ge=0, le=1e12, description="with less equity nothing is opened, in USDT")] | None = 100.0
    duplicate_window_ms: Annotated[int, Meta(ge=0, le=3_600_000, description="an entry that repeats the last one of its strategy and symbol (side, "
                                             "size, price) so soon is refused")] | None = 1_000
    max_messages_per_s: Annotated[float, Meta(gt=0, le=1e6, description="orders and cancels a second of event time, and as many at once; exits "
                                              "pass, and count")] | None = 20.0
    max_repeats: Annotated[int, Meta(ge=1, le=100_000, description="entries of one strategy within repeat_window_s; one more latches it until "
                                     "trader-ctl release STRATEGY")] | None = 60
    repeat_window_s: Annotated[int, Meta(ge=1, le=86_400, description="event time over which max_repeats counts")] = 60
    max_adjustments: Annotated[int, Meta(ge=0, le=1000, description="times that stop or target of one position may be moved, trailing aside")] = 3
    restricted_symbols: Annotated[tuple[str, ...], _about("nothing is opened in these")] = ()
    permissions: Annotated[dict[str, tuple[str, ...]], _about("symbols that a strategy may open positions in; one that is not named may in all")] = {}


class Paper(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The paper venue: what it starts with and how it fills."""

    initial_balance: Annotated[float, Meta(gt=0, le=1e9, description="deposit of a new account, in USDT")] = 10_000.0
    order_latency_ms: Annotated[int, Meta(ge=0, le=60_000, description="event time from an order's sending to its matching")] = 50
    slippage_bps_per_touch: Annotated[Bps, _about("cost of each displayed size that an order takes beyond the first")] = 1
    half_spread_bps: Annotated[Bps, _about("half the spread where no quote has been seen, around the last trade")] = 2
    spot_maker_fee_bps: Annotated[FeeBps, _about("fee of a spot order that waited in the book")] = 10.0
    spot_taker_fee_bps: Annotated[FeeBps, _about("fee of a spot order that took from the book")] = 10.0
    perpetual_maker_fee_bps: Annotated[FeeBps, _about("fee of a perpetual's order that waited in the book")] = 2.0
    perpetual_taker_fee_bps: Annotated[FeeBps, _about("fee of a perpetual's order that took from the book")] = 5.0


class Instrument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An instrument the catalogue does not know, or overrides of one: decimal strings, as the venue publishes them."""

    tick_size: Annotated[str, _about("smallest step of a price")]
    lot_size: Annotated[str, _about("smallest step of a size")]
    min_notional: Annotated[str, _about("smallest price × size of an order")] = "5"
    max_quantity: Annotated[str, _about("largest size of an order")] = "9000"
    leverage: Annotated[int, Meta(ge=1, le=125, description="of a perpetual")] = 1


class Hotpath(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Capacities and behaviour of the loop."""

    tick_slots: Annotated[int, Meta(ge=1024, le=1 << 22, description="slots of the tick ring, a power of two; 64 bytes each")] = 1 << 17
    condition_capacity: Annotated[int, Meta(ge=64, le=1 << 22, description="conditions armed at once")] = 16_384
    instrument_capacity: Annotated[int, Meta(ge=4, le=16_384, description="instruments of a run")] = 64
    wait_strategy: Annotated[Literal["auto", "spin", "futex", "adaptive"],
                             _about("how processes wait: spin is fastest and takes a core each")] = "auto"
    durable_before_entry: Annotated[bool, _about("an entry is sent only when the journal has it on disk; without, a loss of the "
                                                 "whole machine may leave a condition with a fire too few counted, and it fires once more")] = True
    exit_retry_ms: Annotated[int, Meta(ge=1, le=60_000, description="event time between two attempts of a refused exit")] = 500
    exit_collar_bps: Annotated[int, Meta(ge=0, le=10_000, description="how much worse than the quote an exit may fill at its first try, doubled with "
                                         "each; the sixth, and all of them with 0, takes any price")] = 100
    session_gap_s: Annotated[int, Meta(ge=1, le=86_400, description="event time without data after which a new session begins")] = 60


class Recovery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When something that fails is left alone for a while: a strategy (in event time), the venue (by the clock). A database has pauses of its own."""

    breaker_failures: Annotated[int, Meta(ge=1, le=1000, description="failures in a row of one strategy, or of calls to the venue, after which "
                                          "it is not asked for a while; conditions stay armed until they expire, exits are tried all the same")] = 3
    breaker_cooldown_s: Annotated[int, Meta(ge=1, le=86_400, description="for how long, event time of a strategy, else the clock's; then it is "
                                            "asked once, and asked on if that works")] = 60
