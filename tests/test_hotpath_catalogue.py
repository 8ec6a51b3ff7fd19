"""The catalogue admits only what is exact, and says what to do about the rest."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hotpath.config import Instrument, Paper
from hotpath.venues import catalogue
from hotpath.venues.catalogue import CatalogueError, resolve
from ipc import layout as l


def test_every_known_instrument_is_admitted_and_exact() -> None:
    rows = resolve(list(catalogue.KNOWN))
    assert rows["admitted"].all()
    for row in rows:
        tick, lot = (Decimal(int(row[f"{name}_mantissa"])).scaleb(int(row[f"{name}_exponent"])) for name in ("tick", "lot"))
        assert tick * lot / Decimal("1e-8") == int(row["value_quanta"]) > 0
        assert int(row["max_price"]) * int(row["max_lots"]) * int(row["value_quanta"]) < 1 << 62
        assert 0 < int(row["max_lots"]) < 1 << 31


def test_simulated_market_has_spot_and_perpetuals() -> None:
    rows = resolve(catalogue.default_symbols("simulated"), market="simulated")
    assert len(rows) >= 6
    assert set(rows["kind"].tolist()) == {l.KIND_SPOT, l.KIND_LINEAR_PERPETUAL}
    assert catalogue.default_symbols("replay") == ()


def test_row_says_what_the_symbol_says() -> None:
    spot, perpetual = resolve(["BTC/USDT", "BTC/USDT:USDT"], paper=Paper(spot_taker_fee_bps=7.5, perpetual_maker_fee_bps=1.5))
    assert (spot["symbol"], spot["venue_symbol"], spot["base"], spot["settle"]) == (b"BTC/USDT", b"BTCUSDT", b"BTC", b"USDT")
    assert (int(spot["kind"]), int(spot["taker_fee_e8"])) == (l.KIND_SPOT, 75_000)
    assert (int(perpetual["kind"]), int(perpetual["maker_fee_e8"])) == (l.KIND_LINEAR_PERPETUAL, 15_000)
    assert int(spot["min_notional"]) == 5 * 10**8


def test_override_states_an_unknown_instrument() -> None:
    row = resolve(["PEPE/USDT"], {"PEPE/USDT": Instrument(tick_size="0.00000001", lot_size="1", max_quantity="2000000000")})[0]
    assert (int(row["tick_mantissa"]), int(row["tick_exponent"]), int(row["value_quanta"])) == (1, -8, 1)
    assert int(row["max_price"]) * int(row["max_lots"]) < 1 << 62


def test_override_with_half_ticks_and_leverage() -> None:
    row = resolve(["BTC/USDT:USDT"], {"BTC/USDT:USDT": Instrument(tick_size="0.50", lot_size="0.001", max_quantity="100", leverage=5)})[0]
    assert (int(row["tick_mantissa"]), int(row["tick_exponent"]), int(row["leverage"])) == (5, -1, 5)


@pytest.mark.parametrize(("symbol", "override", "text", "remedy"), [
    ("btcusdt", None, "not a unified symbol", "BASE/USDT"),
    ("BTC/USD:BTC", None, "inverse", "BTC/USDT:USDT"),
    ("ETH/BTC", None, "quoted in BTC", "ETH/USDT"),
    ("BTC/USDT:USDC", None, "settled in USDC", "BTC/USDT:USDT"),
    ("FOO/USDT", None, "not in the catalogue", '[instruments."FOO/USDT"]'),
    ("FOO/USDT", {"tick_size": "0.00001", "lot_size": "0.0001"}, "not a whole number", "coarser"),
    ("FOO/USDT", {"tick_size": "-1", "lot_size": "1"}, "between", 'like "0.01"'),
    ("FOO/USDT", {"tick_size": "cheap", "lot_size": "1"}, "not a decimal number", 'like "0.01"'),
    ("FOO/USDT", {"tick_size": "NaN", "lot_size": "1"}, "between", 'like "0.01"'),
    ("FOO/USDT", {"tick_size": "0.01", "lot_size": "0.001", "max_quantity": "9000000"}, "9000000000 lots", "at most"),
    ("BTC/USDT:USDT", {"tick_size": "100", "lot_size": "1", "max_quantity": "500000000"}, "2^62", "at most"),
    ("BTC/USDT", {"tick_size": "0.01", "lot_size": "0.001", "leverage": 3}, "spot has none", "BTC/USDT:USDT"),
])
def test_refusal_names_symbol_and_remedy(symbol: str, override: dict[str, object] | None, text: str, remedy: str) -> None:
    with pytest.raises(CatalogueError) as raised:
        resolve([symbol], {symbol: Instrument(**override)} if override else {})  # type: ignore[arg-type]
    (refusal,) = raised.value.refusals
    assert symbol in refusal.path or symbol in refusal.text
    assert text in refusal.text
    assert remedy in refusal.remedy


def test_all_refusals_are_told_at_once() -> None:
    with pytest.raises(CatalogueError) as raised:
        resolve(["BTC/USDT", "FOO/USDT", "BTC/USDT", "LAYER/USDT:USDT"], market="simulated")
    assert [refusal.text for refusal in raised.value.refusals] == [
        "the simulated market has no such instrument", "BTC/USDT is there twice", "the simulated market has no such instrument"]
