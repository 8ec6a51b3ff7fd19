"""Configuration of the data plane. control/config.py composes it; each process gets the sections it names."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Bps = Annotated[int, Meta(ge=0, le=10_000)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Risk limits. A limit set to null refuses every entry: nothing trades without its limit."""

    max_open_positions: Annotated[int, Meta(ge=1, le=1000)] | None = 5
    max_symbol_exposure_bps: Bps | None = 2000
    daily_loss_bps: Bps | None = 500
    max_entries_per_day: Annotated[int, Meta(ge=1, le=1_000_000)] | None = 20
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = 0.7
    max_quote_age_ms: Annotated[int, Meta(ge=1, le=3_600_000)] | None = 10_000


class Paper(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The paper venue: what it starts with and how it fills."""

    initial_balance: Annotated[float, Meta(gt=0, le=1e9)] = 10_000.0
    order_latency_ms: Annotated[int, Meta(ge=0, le=60_000)] = 50
    slippage_bps_per_touch: Bps = 1
    half_spread_bps: Bps = 2
    spot_maker_fee_bps: Annotated[float, Meta(ge=0, le=1000)] = 10.0
    spot_taker_fee_bps: Annotated[float, Meta(ge=0, le=1000)] = 10.0
    perpetual_maker_fee_bps: Annotated[float, Meta(ge=0, le=1000)] = 2.0
    perpetual_taker_fee_bps: Annotated[float, Meta(ge=0, le=1000)] = 5.0


class Instrument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An instrument the catalogue does not know, or overrides of one: decimal strings, as the venue publishes them."""

    tick_size: str
    lot_size: str
    min_notional: str = "5"
    max_quantity: str = "9000"
    leverage: Annotated[int, Meta(ge=1, le=125)] = 1


class Hotpath(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Capacities and behaviour of the loop."""

    tick_slots: Annotated[int, Meta(ge=1024, le=1 << 22)] = 1 << 17
    condition_capacity: Annotated[int, Meta(ge=64, le=1 << 22)] = 16_384
    instrument_capacity: Annotated[int, Meta(ge=4, le=16_384)] = 64
    wait_strategy: str = "auto"
    durable_before_entry: bool = True
    exit_retry_ms: Annotated[int, Meta(ge=1, le=60_000)] = 500
    session_gap_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
