"""What the built-in strategies ask for, how a user's class is found, and what is refused of what it gives."""

from __future__ import annotations

import math
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.think import mean_reversion, momentum
from control.think.check import Checker
from control.think.config import Strategy as Settings
from control.think.strategy import (
    Candles,
    CoinStatus,
    Condition,
    Facts,
    Held,
    Market,
    Portfolio,
    Quote,
    Size,
    StrategyError,
    equity_bps,
    load,
    name_of,
)
from hotpath import arming
from ipc import layout as l
from ipc import messages

NOW = 1_700_000_040 * 1_000_000_000 // 60_000_000_000 * 60_000_000_000
SPOT = Facts("BTC/USDT", False, Decimal("0.01"), Decimal("0.00001"), Decimal(5), 10.0)
PERPETUAL = Facts("BTC/USDT:USDT", True, Decimal("0.1"), Decimal("0.001"), Decimal(5), 5.0)


class Coins:
    """Knowledge with given scales."""

    def __init__(self, **scales: float) -> None:
        self.scales = scales

    def coin(self, symbol: str) -> CoinStatus:
        return CoinStatus(scale=self.scales.get(symbol.partition("/")[0], 1.0))


def candles(closes: list[float], volumes: list[float] | None = None, width: float = 1.0, candle_s: int = 10) -> Candles:
    close = np.array(closes, float)
    volume = np.ones(len(close)) if volumes is None else np.array(volumes, float)
    time_ns = NOW - candle_s * 1_000_000_000 * np.arange(len(close), 0, -1)
    return Candles(candle_s, time_ns, close, close + width, close - width, close, volume, (volume > 0).astype(np.int64))


def market(facts: list[Facts], made: dict[str, Candles]) -> Market:
    def window(symbol: str, count: int) -> Candles:
        have = made[symbol]
        return Candles(have.candle_s, *(array[-count:] for array in vars(have).values() if isinstance(array, np.ndarray)))

    quotes = {one.symbol: Quote(100.0, 99.9, 100.1) for one in facts}
    return Market(NOW, 10, {one.symbol: one for one in facts}, quotes, window)


def walk(seed: int, count: int = 60, start: float = 60_000.0, step: float = 3e-4) -> list[float]:
    return list(start * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, step, count))))


def waves(count: int) -> list[float]:
    """Up and down around 60 000, ending at the average."""
    return [60_000.0 + 50 * math.sin(math.pi * n / 3) for n in range(1, count + 1)]


# ── momentum ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_momentum_arms_a_buy_above_the_range_and_a_sale_below_it_where_short_is_allowed() -> None:
    made = {SPOT.symbol: candles(walk(1)), PERPETUAL.symbol: candles(walk(1))}
    found = momentum.Momentum(Settings()).plan(market([SPOT, PERPETUAL], made), Portfolio(), Coins())
    assert sorted((one.symbol, one.side, one.direction) for one in found) == [
        ("BTC/USDT", "buy", "up"), ("BTC/USDT:USDT", "buy", "up"), ("BTC/USDT:USDT", "sell", "down")]
    window = candles(walk(1)[-30:])
    for one in found:
        level = float(one.level)
        assert level > window.high.max() if one.side == "buy" else level < window.low.min()
        assert abs(level / window.close[-1] - 1) < 0.02
        assert min(one.stop_bps, one.target_bps, one.trail_distance_bps, one.time_stop_s) > 0
        assert one.size == equity_bps(500)
        assert "volume" in one.why


def test_momentum_says_nothing_before_it_is_warm_while_a_position_is_open_or_where_nothing_was_traded() -> None:
    strategy = momentum.Momentum(Settings())
    young = market([SPOT], {SPOT.symbol: candles(walk(1, 29))})
    assert strategy.plan(young, Portfolio(), Coins()) == []
    assert strategy.warmup_left_s(young) == 10
    warm = market([SPOT], {SPOT.symbol: candles(walk(1))})
    assert strategy.warmup_left_s(warm) == 0
    held = Portfolio(positions={SPOT.symbol: Held(SPOT.symbol, "buy", 1.0, 60_000.0, NOW, "open")})
    assert strategy.plan(warm, held, Coins()) == []
    assert strategy.plan(market([SPOT], {SPOT.symbol: candles(walk(1), [0.0] * 60)}), Portfolio(), Coins()) == []


def test_a_strategy_asks_for_its_size_whatever_a_coins_record_says() -> None:
    """What was learned is put upon its plan by somebody else (control/think/enforce.py), on whose plan ever."""
    warm = market([SPOT], {SPOT.symbol: candles(waves(60))})
    for kind in (momentum.Momentum, mean_reversion.MeanReversion):
        assert {one.size.value for scale in (0.0, 0.5, 1.5) for one in kind(Settings()).plan(warm, Portfolio(), Coins(BTC=scale))} == {"500"}


def test_momentums_confidence_rises_with_the_burst_and_with_the_squeeze() -> None:
    bursts = [momentum.confidence(burst, 1.0) for burst in (0.0, 0.25, 0.5, 1, 2, 4, 100)]
    assert bursts == sorted(bursts)
    assert bursts[0] == bursts[2] < bursts[3] < bursts[4] < bursts[5] == bursts[6]
    tight = [momentum.confidence(1.0, squeeze) for squeeze in (9, 1.25, 1.0, 0.8, 0.5, 0.1)]
    assert tight == sorted(tight)
    assert momentum.confidence(1, 1) == pytest.approx(0.60, abs=0.005)
    assert momentum.confidence(2, 0.8) == pytest.approx(0.78, abs=0.005)
    assert momentum.confidence(1e9, 0) == 1.0


def test_burst_and_squeeze_measure_what_they_say() -> None:
    steady = candles(walk(3, 30))
    assert momentum.volume_burst(steady) == pytest.approx(1)
    assert momentum.volume_burst(candles(walk(3, 30), [1.0] * 24 + [3.0] * 6)) == pytest.approx(3)
    assert momentum.volume_burst(candles([100.0] * 3)) == 1.0
    ratios = [momentum.squeeze(candles(walk(seed, 120), width=0.0)) for seed in range(200)]
    assert 0.8 < float(np.mean(ratios)) < 1.05, "a random walk has a squeeze of about 1, a little less for its few steps"
    zigzag = candles([100 + 0.01 * (-1) ** n for n in range(30)], width=0.0)
    assert momentum.squeeze(zigzag) < 0.5
    assert momentum.squeeze(candles([100.0] * 30, width=0.0)) == 1.0


# ── mean reversion ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_mean_reversion_buys_the_fall_onto_the_lower_band_and_sells_the_rise_onto_the_upper() -> None:
    closes = waves(18)
    found = mean_reversion.MeanReversion(Settings()).plan(market([PERPETUAL], {PERPETUAL.symbol: candles(closes)}), Portfolio(), Coins())
    mean, band = float(np.mean(closes)), 1.5 * float(np.std(closes))
    sides = {one.side: one for one in found}
    assert abs(closes[-1] - mean) < band, "the price is between the bands"
    assert (sides["buy"].direction, sides["sell"].direction) == ("down", "up")
    assert float(sides["buy"].level) == pytest.approx(mean - band, abs=0.11)
    assert float(sides["sell"].level) == pytest.approx(mean + band, abs=0.11)
    assert sides["buy"].target_bps == math.ceil(1e4 * band / mean)


def test_mean_reversion_waits_for_the_return_where_the_price_is_beyond_the_band() -> None:
    closes = [100_000.0 + (-1) ** n * 40 for n in range(17)] + [99_700.0]
    found = mean_reversion.MeanReversion(Settings()).plan(market([SPOT], {SPOT.symbol: candles(closes)}), Portfolio(), Coins())
    assert [(one.side, one.direction) for one in found] == [("buy", "up")]
    assert float(found[0].level) > closes[-1]
    assert "return" in found[0].why


def test_mean_reversion_leaves_narrow_bands_and_still_markets_alone() -> None:
    strategy = mean_reversion.MeanReversion(Settings())
    for closes in ([60_000.0] * 18, [60_000.0 + (-1) ** n for n in range(18)]):
        assert strategy.plan(market([SPOT], {SPOT.symbol: candles(closes)}), Portfolio(), Coins()) == []


def test_mean_reversions_confidence_falls_with_volatility_and_rises_with_the_edge() -> None:
    calm = [mean_reversion.confidence(ratio, 6, 3, False) for ratio in (0.2, 0.5, 1.0, 1.5, 3.0)]
    assert calm == sorted(calm, reverse=True)
    assert calm[0] == calm[1] > calm[2] > calm[3] == calm[4]
    assert mean_reversion.confidence(1, 6, 3, False) == pytest.approx(0.70)
    assert mean_reversion.confidence(2, 6, 3, False) == pytest.approx(0.55)
    assert mean_reversion.confidence(1, 30, 3, True) == pytest.approx(0.90)
    assert mean_reversion.confidence(0, 1e9, 0, True) == 1.0


def checked(output: Any, facts: dict[str, Facts]) -> list[Condition]:
    """The conditions that pass, in a run of these instruments with room for 1,000."""
    known = {symbol: arming.Facts(number, symbol, one.tick_size, one.lot_size, 1 << 53, -8) for number, (symbol, one) in enumerate(facts.items())}
    found = Checker(facts, known, 1000, lambda: None).checked(output, NOW)
    assert len(found.rows) == len(found.conditions) * l.CONDITION.itemsize
    return found.conditions


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["momentum", "mean_reversion"])
def test_one_run_gives_conditions_on_both_sides_of_the_usual_limit_and_all_are_usable(name: str) -> None:
    strategy = load(name, Settings())
    rng = np.random.default_rng(7)
    seen: list[float] = []
    for seed in range(40):
        made = {one.symbol: candles(walk(seed), list(rng.lognormal(0, 0.8, 60)), width=3.0) for one in (SPOT, PERPETUAL)}
        now = market([SPOT, PERPETUAL], made)
        seen += [one.confidence for one in checked(strategy.plan(now, Portfolio(), Coins()), now.facts)]
    assert sum(value < 0.7 for value in seen) >= 5
    assert sum(value >= 0.7 for value in seen) >= 5
    assert all(0 <= value <= 1 for value in seen)


@pytest.mark.parametrize("name", ["momentum", "mean_reversion"])
def test_a_plan_for_fifty_symbols_takes_less_than_fifty_milliseconds(name: str) -> None:
    facts = [Facts(f"C{n}/USDT:USDT", True, Decimal("0.01"), Decimal("0.001"), Decimal(5), 5.0) for n in range(50)]
    now = market(facts, {one.symbol: candles(walk(n)) for n, one in enumerate(facts)})
    strategy = load(name, Settings())
    took = []
    for _ in range(5):
        began = time.perf_counter()
        found = checked(strategy.plan(now, Portfolio(), Coins()), now.facts)
        took.append(time.perf_counter() - began)
    assert len(found) >= 50
    assert min(took) < 0.05


def test_prices_become_whole_ticks_in_the_direction_asked_for() -> None:
    assert SPOT.price_text(100.001, "up") == "100.01"
    assert SPOT.price_text(100.009, "down") == "100"
    assert SPOT.price_text(6000012 * 0.01, "up") == "60000.12", "float noise is no tick"
    assert SPOT.price_text(0.0001) == "0.01"
    assert Facts("X/USDT", False, Decimal("0.00001"), Decimal(1), Decimal(5), 10.0).price_text(1.23e-5, "up") == "0.00002"
    for bad in (math.nan, math.inf, 0.0, -1.0):
        with pytest.raises(ValueError, match="is no price"):
            SPOT.price_text(bad)


@pytest.mark.parametrize(("field", "value", "text"), [
    ("candle_s", 7, "whole number of candles"), ("candle_s", 600, "longer than the range")])
def test_settings_that_do_not_fit_together_are_named(field: str, value: int, text: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: .*{text}"):
        msgspec.convert({field: value}, Settings)
    with pytest.raises(ValueError, match="time_stop_s"):
        Settings(stop_bps=0, time_stop_s=0)


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
GOOD = """
from control.think.strategy import Condition, Strategy, equity_bps

class Mine(Strategy):
    interval_s = 60
    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol="BTC/USDT", side="buy", level="1.00", direction="up", size=equity_bps(100), confidence=0.9, why="always",
                          stop_bps=self.config.stop_bps)]

class Plain:
    def plan(self, market, portfolio, knowledge):
        return []
"""


def test_a_users_class_is_loaded_by_path_with_the_settings_or_without(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    assert name_of(f"{file}:Mine") == "Mine"
    mine = load(f"{file}:Mine", Settings(stop_bps=77))
    assert mine.plan(None, None, None)[0].stop_bps == 77
    assert load(f"{file}:Plain", Settings()).plan(None, None, None) == []


@pytest.mark.parametrize(("spec", "source", "text"), [
    ("momentun", None, "none of momentum, mean_reversion"),
    ("FILE", None, "FILE.py:Class"),
    ("FILE:not-a-name", GOOD, "FILE.py:Class"),
    ("FILE:Mine", None, "there is no file"),
    ("FILE:Missing", GOOD, "has no class Missing"),
    ("FILE:Mine", "import nothing_of_that_name", "importing it raised ModuleNotFoundError"),
    ("FILE:Mine", "def broken(:\n", "SyntaxError in line 1"),
    ("FILE:Mine", "raise SystemExit(3)", "importing it raised SystemExit"),
    ("FILE:Mine", "Mine = 3", "has no class Mine"),
    ("FILE:Mine", "class Mine:\n    pass", "no method plan"),
    ("FILE:Mine", "class Mine:\n    def plan(self): return []", "making it raised TypeError"),
    ("FILE:Mine", "class Mine:\n    def __init__(self): 1 / 0\n    def plan(self, a, b, c): return []", "ZeroDivisionError"),
    ("FILE:Mine", "class Mine:\n    interval_s = 0.5\n    def plan(self, a, b, c): return []", "interval_s is 0.5"),
])
def test_a_strategy_that_cannot_be_loaded_is_named_with_a_remedy(tmp_path: Path, spec: str, source: str | None, text: str) -> None:
    file = tmp_path / "mine.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(StrategyError, match=text) as caught:
        load(spec.replace("FILE", str(file)), Settings())
    assert caught.value.remedy


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def usable(**changes: Any) -> Condition:
    fields: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "level": "100.01", "direction": "up", "size": equity_bps(100),
                              "confidence": 0.9, "why": "test", "stop_bps": 50}
    return Condition(**(fields | changes))


class Awkward:
    """Its repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(("output", "path"), [
    (None, "not a list"),
    ("text", "not a list"),
    (Awkward(), "not a list"),
    ((one for one in ()), "not a list"),
    ([usable()] * 1001, "1001 conditions"),
    ([None], r"conditions\[0\] is None"),
    ([usable(), {"symbol": "BTC/USDT"}], r"conditions\[1\]"),
    ([usable(symbol="DOGE/USDT")], r"conditions\[0\].symbol"),
    ([usable(symbol=7)], r"conditions\[0\].symbol"),
    ([usable(side="hold")], r"conditions\[0\].side"),
    ([usable(side="sell")], r"conditions\[0\].side: BTC/USDT is spot"),
    ([usable(level=100.0)], r"conditions\[0\].level"),
    ([usable(level="nan")], r"conditions\[0\].level"),
    ([usable(level="-1")], r"conditions\[0\].level"),
    ([usable(level="0")], r"conditions\[0\].level"),
    ([usable(level="100.001")], r"conditions\[0\].level"),
    ([usable(confidence=math.nan)], r"conditions\[0\].confidence"),
    ([usable(confidence=1.5)], r"conditions\[0\].confidence"),
    ([usable(confidence=np.float64("nan"))], r"conditions\[0\].confidence"),
    ([usable(stop_bps=np.float64(1.5))], r"conditions\[0\].stop_bps"),
    ([usable(confidence=None)], r"conditions\[0\].confidence"),
    ([usable(stop_bps=0)], r"conditions\[0\].stop_bps: no position may be without protection"),
    ([usable(stop_bps=-5)], r"conditions\[0\].stop_bps"),
    ([usable(stop_bps=10_000)], r"conditions\[0\].stop_bps"),
    ([usable(stop_bps=1.5)], r"conditions\[0\].stop_bps"),
    ([usable(order="limit")], r"conditions\[0\].limit_price"),
    ([usable(order="limit", limit_price="99.999")], r"conditions\[0\].limit_price"),
    ([usable(size=5)], r"conditions\[0\].size"),
    ([usable(size=Size(kind="equity_bps", value="0"))], r"conditions\[0\].size.value"),
    ([usable(size=Size(kind="equity_bps", value="1.5"))], r"conditions\[0\].size.value"),
    ([usable(size=Size(kind="equity_bps", value="10001"))], r"conditions\[0\].size.value"),
    ([usable(size=Size(kind="base", value="0.000001"))], r"conditions\[0\].size.value"),
    ([usable(size=Size(kind="base", value="1e5"))], r"conditions\[0\].size.value"),
    ([usable(valid_for_s=0)], r"conditions\[0\].valid_for_s"),
    ([usable(why="")], r"conditions\[0\].why"),
    ([usable(why=Awkward())], r"conditions\[0\]"),
])
def test_nonsense_is_refused_as_a_whole_by_its_path_and_with_a_remedy(output: Any, path: str) -> None:
    with pytest.raises(StrategyError, match=path) as caught:
        checked(output, {"BTC/USDT": SPOT})
    assert caught.value.remedy
    assert len(str(caught.value)) < 600


def test_numbers_computed_from_candles_are_numbers() -> None:
    closes = candles([100.0, 101.0]).close
    given = usable(confidence=closes[0] / closes[1], stop_bps=np.int64(50), time_stop_s=np.int32(60))
    (one,) = checked([given], {"BTC/USDT": SPOT})
    assert (one.confidence, one.stop_bps, one.time_stop_s) == (100 / 101, 50, 60)
    assert {type(value) for value in (one.confidence, one.stop_bps, one.time_stop_s)} == {float, int}


def test_what_is_usable_passes_unchanged_and_survives_the_wire() -> None:
    given = [usable(), usable(stop_bps=0, time_stop_s=60), usable(size=Size(kind="quote", value="25.5")),
             usable(order="limit", limit_price="100.02")]
    assert checked(tuple(given), {"BTC/USDT": SPOT}) == given
    plan = messages.Plan(strategy="x", due_ns=1, next_due_ns=2, conditions=given)
    assert messages.decode_child_request(messages.encode(plan)) == plan
    assert checked([], {}) == []
