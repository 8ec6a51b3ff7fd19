"""What the analysis says of candles: timeframes, indicators, regime and patterns, each against an oracle or a planted series."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.think.analysis import indicators, patterns, regime
from control.think.analysis.findings import PATTERNS, REGIMES
from control.think.analysis.indicators import RECENT, Series, series
from control.think.analysis.regime import ADX, EFFICIENCY, RATIO, Figures, names
from control.think.analysis.ta import talib
from control.think.analysis.timeframes import MOST, resampled
from control.think.strategy import Candles
from tests.analysis_market import BEGIN, MINUTE, candles, upside_down, walk


# ── timeframes ───────────────────────────────────────────────────────────────────────────────────────────────────────
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([10, 30, 60, 300]), st.sampled_from([1, 5, 15, 60]), st.integers(0, 200), st.integers(1, 600),
       st.integers(0, 7200))
def test_a_timeframe_has_whole_closed_candles_and_says_what_a_slow_grouping_says(seed: int, candle_s: int, minutes: int, offset: int, count: int,
                                                                                 after_s: int) -> None:
    rng = np.random.default_rng(seed)
    given_ = candles(list(rng.uniform(50, 60, count)), list(rng.uniform(0, 5, count)), 0.001, candle_s, BEGIN + offset * candle_s * 1_000_000_000)
    now_ns = int(given_.time_ns[0]) + after_s * 1_000_000_000
    made = resampled(given_, minutes, now_ns)
    size, frame_ns = minutes * 60 // candle_s, minutes * MINUTE
    groups: dict[int, list[int]] = {}
    for place, time_ns in enumerate(given_.time_ns.tolist()):
        groups.setdefault(time_ns // frame_ns, []).append(place)
    closed = [(frame, places) for frame, places in groups.items() if (frame + 1) * frame_ns <= now_ns and len(places) == size]
    last = now_ns // frame_ns - 1
    if size * candle_s != minutes * 60 or not closed or closed[-1][0] != last:
        assert made is None
        return
    assert made is not None
    closed = closed[-MOST:]
    assert made.time_ns.tolist() == [frame * frame_ns for frame, _ in closed]
    assert int(made.time_ns[-1]) + frame_ns <= now_ns < int(made.time_ns[-1]) + 2 * frame_ns
    for name, of in (("open", lambda part: part[0]), ("high", max), ("low", min), ("close", lambda part: part[-1]), ("volume", math.fsum)):
        assert getattr(made, name) == pytest.approx([of([getattr(given_, name)[place] for place in places]) for _, places in closed])


def test_a_timeframe_knows_nothing_of_what_came_later() -> None:
    whole = walk(1, 900)
    for now_ns in (BEGIN + 400 * MINUTE, BEGIN + 407 * MINUTE):
        changed = Candles(60, *(np.where(whole.time_ns >= now_ns, array * 3, array) if array.dtype == float else array
                                for array in vars(whole).values() if isinstance(array, np.ndarray)))
        for minutes in (1, 5, 15, 60):
            one, other = resampled(whole, minutes, now_ns), resampled(changed, minutes, now_ns)
            assert one is not None
            assert other is not None
            assert one.close.tolist() == other.close.tolist()
            assert one.high.tolist() == other.high.tolist()


# ── indicators ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_indicators_are_ta_libs_in_bps_of_the_last_close_and_atr_is_wilders() -> None:
    of = walk(3, 200)
    found = indicators.indicators(series(of))
    price = of.close[-1]
    assert found.rsi == pytest.approx(talib.RSI(of.close, 14)[-1])
    assert found.adx == pytest.approx(talib.ADX(of.high, of.low, of.close, 10)[-1])
    assert found.ema_fast_bps == pytest.approx((talib.EMA(of.close, 8)[-1] / price - 1) * 1e4, abs=1e-6)
    upper, _, lower = talib.BBANDS(of.close, 20)
    assert found.band_position == pytest.approx((price - lower[-1]) / (upper[-1] - lower[-1]), rel=1e-4)
    ranges = [max(of.high[n], of.close[n - 1]) - min(of.low[n], of.close[n - 1]) for n in range(1, len(of))]
    atr = sum(ranges[:14]) / 14
    for one in ranges[14:]:
        atr = (atr * 13 + one) / 14
    assert found.atr_bps == pytest.approx(atr / price * 1e4)


def test_a_coins_price_says_nothing_about_its_indicators() -> None:
    of = walk(4, 200)
    tiny = Candles(60, of.time_ns, *(getattr(of, name) * 1e-7 for name in ("open", "high", "low", "close")), of.volume, of.trades)
    for one, other in zip(vars_of(of), vars_of(tiny), strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6, nan_ok=True)


def vars_of(of: Candles) -> list[float]:
    found = indicators.indicators(series(of))
    return [getattr(found, name) for name in found.__struct_fields__]


def test_what_the_history_is_too_short_for_has_no_value() -> None:
    short = indicators.indicators(series(candles([100, 101, 100.5])))
    assert all(math.isnan(getattr(short, name)) for name in short.__struct_fields__)
    hours = indicators.indicators(series(walk(5, 23)))
    assert [name for name in hours.__struct_fields__ if math.isnan(getattr(hours, name))] == ["macd_histogram_bps"], "23 hours lack MACD alone"


def test_a_market_that_stands_still_or_trades_nothing_has_no_rsi_no_band_and_no_flow() -> None:
    still = indicators.indicators(series(candles([100.1] * 60, [0.0] * 60)))
    assert math.isnan(still.rsi)
    assert math.isnan(still.band_position)
    assert math.isnan(still.volume_flow)
    assert (still.atr_bps, still.volatility_bps, still.band_width_bps) == (0, 0, 0)


def test_volume_flow_is_the_share_of_volume_in_rising_less_that_in_falling_candles() -> None:
    closes, volumes = [100.0], [7.0]
    for n in range(30):
        closes.append(closes[-1] + (1 if n % 3 else -1))
        volumes.append(float(n % 5))
    last = range(len(closes) - 20, len(closes))
    signed = sum(volumes[n] * math.copysign(1, closes[n] - closes[n - 1]) for n in last)
    assert indicators.volume_flow(series(candles(closes, volumes))) == pytest.approx(signed / sum(volumes[n] for n in last))


# ── regime ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def climb(count: int = 80, step: float = 0.2, noise: float = 0.1) -> Candles:
    return candles([100 + step * n + noise * (-1) ** n for n in range(count)], wick=2e-4)


def sideways(count: int = 80, size: float = 0.3) -> Candles:
    return candles([100 + size * math.sin(2.1 * n) for n in range(count)], wick=2e-4)


def outbreak() -> Candles:
    """Sideways, and four times as much of it in the last eight candles."""
    return candles([100 + (1.2 if n >= 72 else 0.3) * math.sin(2.1 * n) for n in range(80)], wick=2e-4)


@pytest.mark.parametrize(("of", "name"), [(climb(), "trend_up"), (upside_down(climb()), "trend_down"), (sideways(), "range"),
                                          (outbreak(), "volatile"), (candles([100.0] * 60), "range")])
def test_a_planted_series_has_its_regime(of: Candles, name: str) -> None:
    told = regime.regime(series(of))
    assert told is not None
    assert told.name == name
    assert 0.5 <= told.confidence <= 1
    assert name in REGIMES


def test_efficiency_is_the_net_move_over_the_path() -> None:
    closes = [100.0] * 10 + [100 + n - (n % 4 == 3) * 2 for n in range(21)]
    steps = np.diff(closes)[-20:]
    told = regime.regime(series(candles(closes)))
    assert told is not None
    assert told.efficiency == pytest.approx(abs(sum(steps)) / sum(abs(steps)))
    straight = regime.regime(series(candles([100.0 + n for n in range(40)])))
    there_and_back = regime.regime(series(candles([100.0] * 20 + [100.0 + n for n in range(11)] + [110.0 - n for n in range(1, 11)])))
    assert straight is not None
    assert there_and_back is not None
    assert (straight.efficiency, there_and_back.efficiency) == (pytest.approx(1), pytest.approx(0))


def test_efficiency_of_a_random_walk_is_about_one_over_the_root_of_its_candles() -> None:
    rng = np.random.default_rng(1)
    found = [told.efficiency for _ in range(300) if (told := regime.regime(series(candles(list(100 + np.cumsum(rng.normal(0, 0.1, 60)))))))]
    assert float(np.mean(found)) == pytest.approx(1 / math.sqrt(20), rel=0.1)


def test_the_volatility_ratio_is_that_of_the_last_eight_returns_to_those_before() -> None:
    of = walk(6, 150)
    returns = np.diff(np.log(of.close))
    told = regime.figures(series(of))
    for back in range(1, 60):
        end = len(returns) - back + 1
        now, before = returns[end - RECENT: end], returns[max(0, end - RECENT - 100): end - RECENT]
        assert told.ratio[-back] == pytest.approx(math.sqrt(np.mean(now**2) / np.mean(before**2)))


def told(*rows: tuple[float, float, float, float]) -> list[str]:
    return list(names(Figures(*(np.array(column, float) for column in zip(*rows, strict=True)))))


def test_a_trend_is_entered_high_and_left_low_so_that_it_does_not_flicker() -> None:
    between = [((EFFICIENCY.enter if n % 2 else EFFICIENCY.leave + 0.01), (ADX.enter if n % 2 else ADX.leave), 1.0, 5.0) for n in range(20)]
    assert told(*between)[1:] == ["trend_up"] * 19, "entered once, and never left"
    assert told((0.39, 60, 1, 5), (0.99, 24, 1, 5)) == ["range", "range"], "one figure alone enters nothing"
    assert told((0.5, 30, 1, 5), (0.24, 30, 1, 5)) == ["trend_up", "range"]
    assert told((0.5, 30, 1, 5), (0.5, 19, 1, 5)) == ["trend_up", "range"]
    assert told((0.5, 30, 1, 5), (0.3, 30, 1, -5), (0.5, 30, 1, -5)) == ["trend_up", "range", "trend_down"], "it turns by way of a range"


def test_volatile_comes_before_a_trend_and_is_left_at_half_its_excess() -> None:
    assert told((0.9, 60, RATIO.enter, 5), (0.9, 60, RATIO.leave, 5), (0.9, 60, RATIO.leave - 0.01, 5)) == ["volatile", "volatile", "trend_up"]
    assert told((0.1, 10, RATIO.enter - 0.01, 5)) == ["range"]


def test_a_regime_says_since_when_it_is_what_it_is() -> None:
    of = candles([100 + 0.3 * math.sin(2.1 * n) for n in range(60)] + [100 + 0.3 * n for n in range(25)], wick=2e-4)
    history = [found.name for end in range(30, len(of) + 1) if (found := regime.regime(series(head(of, end))))]
    now = regime.regime(series(of))
    assert now is not None
    assert now.name == "trend_up"
    turned = max(n for n in range(1, len(history)) if history[n] != history[n - 1])
    assert now.since_ns == int(of.time_ns[29 + turned]) + 900 * 1_000_000_000, "when that candle closed"
    always = regime.regime(series(climb()))
    assert always is not None
    assert always.since_ns == 0


def head(of: Candles, count: int) -> Candles:
    return Candles(of.candle_s, *(array[:count] for array in vars(of).values() if isinstance(array, np.ndarray)))


def test_too_few_candles_have_no_regime() -> None:
    assert regime.regime(series(head(climb(), 22))) is None
    assert regime.regime(series(head(climb(), 23))) is not None


def test_what_has_cancelled_out_is_no_movement() -> None:
    for closes in ([100.0] * 40 + [103.0] + [103.0] * 40, [1e5] * 200, [100.0] * 60 + [101.0]):
        told_ = regime.regime(series(candles(closes)))
        assert told_ is not None
        assert told_.name in ("range", "volatile")
        assert 0 <= told_.confidence <= 1


# ── patterns ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def breakout() -> Candles:
    return candles([*sideways(60).close, 101.2], wick=2e-4)


def narrowing() -> Candles:
    return candles([100 + (0.05 if n > 95 else 1.0) * math.sin(2.1 * n) for n in range(119)] + [100.04], wick=2e-4)


def pullback() -> Candles:
    return candles([100 + 0.4 * n for n in range(40)] + [116.2, 115.4, 114.4, 113.7, 113.6], wick=2e-4)


def failure() -> Candles:
    return candles([*sideways(60).close, 99.2, 100.0], wick=2e-4)


def stretch() -> Candles:
    return candles([*sideways(60).close, 99.2], wick=2e-4)


def shaped(body: tuple[float, float, float, float]) -> Candles:
    """Falling, then one candle of this open, high, low, close."""
    of = candles([100 - 0.1 * n for n in range(40)] + [body[3]], wick=2e-4)
    for array, value in zip((of.open, of.high, of.low, of.close), body, strict=True):
        array[-1] = value
    return of


ENGULFED = shaped((96.1, 96.62, 96.05, 96.6))
THREE = candles([100 - 0.1 * n for n in range(40)] + [96.6, 96.9], wick=2e-4)
THREE.open[-2] = 96.05  # TA-Lib wants it to open below the close before it
MARUBOZU = shaped((96.1, 97.3, 96.1, 97.3))
HAMMER = shaped((96.1, 96.14, 95.5, 96.13))


@pytest.mark.parametrize(("name", "of"), [
    ("range_breakout", breakout()), ("squeeze", narrowing()), ("trend_pullback", pullback()), ("failed_breakout", failure()),
    ("band_stretch", stretch()), ("engulfing", ENGULFED), ("three_outside", THREE), ("marubozu", MARUBOZU)])
def test_a_planted_pattern_is_found_to_buy_and_upside_down_to_sell(name: str, of: Candles) -> None:
    (bought,) = [one for one in patterns.patterns(series(of)) if one.name == name]
    assert bought.side == "buy"
    assert 0 < bought.strength <= 1
    (sold,) = [one for one in patterns.patterns(series(upside_down(of))) if one.name == name]
    assert sold.side == "sell"
    assert sold.strength == pytest.approx(bought.strength, rel=0.1)
    assert sold.level == pytest.approx(200 - bought.level)


def test_a_hammer_is_to_buy_and_upside_down_it_is_a_shooting_star_to_sell() -> None:
    assert [(one.side, one.level) for one in patterns.patterns(series(HAMMER)) if one.name == "hammer"] == [("buy", pytest.approx(95.5))]
    found = patterns.patterns(series(upside_down(HAMMER)))
    assert [(one.side, one.level) for one in found if one.name == "shooting_star"] == [("sell", pytest.approx(104.5))]
    assert "hammer" not in {one.name for one in found}


def test_levels_and_strengths_are_those_of_the_table() -> None:
    of = breakout()
    atr = float(talib.ATR(of.high, of.low, of.close, 14)[-1])
    found = {one.name: one for one in patterns.patterns(series(of))}
    assert found["range_breakout"].level == pytest.approx(of.high[-1])
    assert found["range_breakout"].strength == pytest.approx(min(1, (of.close[-1] - of.high[-21:-1].max()) / atr))
    of = failure()
    found = {one.name: one for one in patterns.patterns(series(of))}
    assert found["failed_breakout"].level == pytest.approx(of.low[-23:-3].min())
    of = stretch()
    upper, _, lower = talib.BBANDS(of.close, 20)
    found = {one.name: one for one in patterns.patterns(series(of))}
    assert found["band_stretch"].level == pytest.approx(lower[-1])
    assert found["band_stretch"].strength == pytest.approx((lower[-1] - of.close[-1]) / ((upper[-1] - lower[-1]) / 2), rel=1e-4)


def test_nothing_is_seen_where_nothing_moves() -> None:
    assert patterns.patterns(series(candles([100.0] * 60))) == ()


def test_candlesticks_need_no_more_than_the_candles_that_they_are_given() -> None:
    of = series(walk(8, 240))
    for end in range(60, 240):
        part = Series(of.candle_ns, of.time_ns[:end], of.price, *(array[:end] for array in of[3:]))
        whole: list[Any] = [np.ascontiguousarray(one[:end]) for one in (of.open, of.high, of.low, of.close)]
        expected = {name for name, function in patterns._CANDLESTICKS if getattr(talib, function)(*whole)[-1]}
        assert {one.name for one in patterns._candlesticks(part)} - {"hammer", "shooting_star"} == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 260), st.sampled_from([0.0, 1e-6, 1e-3, 0.1]), st.floats(-6, 6))
def test_whatever_the_candles_are_patterns_are_of_the_list_and_their_figures_finite(seed: int, count: int, step: float, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    of = candles(list(10**magnitude * np.exp(np.cumsum(rng.standard_t(3, count) * step * (rng.random(count) < 0.7)))), wick=step / 4)
    s = series(of)
    for one in patterns.patterns(s):
        assert one.name in PATTERNS
        assert 0 < one.strength <= 1
        assert math.isfinite(one.level)
    found = regime.regime(s)
    assert (found is None) == (count < 23)
    if found:
        assert 0 <= found.confidence <= 1
        assert 0 <= found.efficiency <= 1


def test_the_analysis_loads_no_library_of_tables_and_keeps_nobody_from_loading_one() -> None:
    """TA-Lib's package would: 23 MB in the strategist."""
    code = ("import sys, control.think.analysis.pipeline as pipeline; loaded = {'polars', 'pandas'} & set(sys.modules); import polars; "
            "print(loaded, polars.Series([1, 2]).sum())")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set() 3"
