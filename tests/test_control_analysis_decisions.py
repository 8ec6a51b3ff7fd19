"""From an analysis to what is armed: score, rules, sizes and conditions; and that no stage is there in vain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.think.analysis import pipeline, sizing
from control.think.analysis.conditions import ENTRIES, condition
from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import PATTERNS, REGIMES, Analysis, Frame, Indicators, Pattern, Regime
from control.think.analysis.rules import ALLOWED, ONWARD, REACH, TURNING, Rules
from control.think.analysis.score import WEIGHTS, overall, score
from control.think.analysis.signal import NoTrade, Signal
from control.think.analysis.sizing import kelly_fraction, sized
from control.think.analyst import Analyst
from control.think.strategy import CoinStatus, Condition, Portfolio
from tests.analysis_market import BEGIN, DAY, MINUTE, SYMBOL, Coins, candles, checked, facts, market, walk

REGIME = Regime(name="trend_up", confidence=0.8, efficiency=0.6, adx=40, volatility_ratio=1.0, since_ns=0)
INDICATORS = Indicators(ema_fast_bps=-10, ema_slow_bps=-40, rsi=65, macd_histogram_bps=5, band_position=0.8, band_width_bps=200, atr_bps=50, adx=40,
                        volume_flow=0.4, volatility_bps=40)
PULLBACK = Pattern(name="trend_pullback", side="buy", strength=0.6, level=99.5)


def seen(regime: str = "trend_up", patterns: tuple[Pattern, ...] = (PULLBACK,), symbol: str = SYMBOL, spread_bps: float = 1.0, total: float = 0.4,
         volatility_day_bps: float = 400.0, fee_bps: float | None = None, **figures: float) -> Analysis:
    of, told = msgspec.structs.replace(INDICATORS, **figures), msgspec.structs.replace(REGIME, name=regime)
    frame = Frame(minutes=15, candles=96, indicators=of, regime=told, patterns=patterns, score=score(of, told, patterns))
    return Analysis(symbol=symbol, now_ns=BEGIN, price=100.0, spread_bps=spread_bps, short_allowed=":" in symbol,
                    fee_bps=facts(symbol).fee_bps if fee_bps is None else fee_bps, frames=(frame,), trade=frame, score=total,
                    volatility_day_bps=volatility_day_bps)


def decided(of: Analysis, **options: Any) -> Signal | NoTrade:
    return Rules(Settings(**options)).of(of)


def reason(of: Analysis, **options: Any) -> str:
    found = decided(of, **options)
    assert isinstance(found, NoTrade)
    return found.reason


def armed(of: Analysis, record: CoinStatus = CoinStatus(), **options: Any) -> Condition | str:  # noqa: B008
    """Rules, size and condition in a row, checked as a plan is."""
    c = Settings(**options)
    signal = decided(of, **options)
    if isinstance(signal, NoTrade):
        return signal.reason
    size = sized(c, signal.stop_bps, signal.cost_bps, of.volatility_day_bps, signal.confidence, record)
    made = condition(signal, size, of, facts(of.symbol), c, 3600) if size.size_bps else size.words()
    if isinstance(made, Condition):
        checked([made], market({of.symbol: walk(1, 60)}, BEGIN + 60 * MINUTE))
    return made


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_score_is_what_its_table_says() -> None:
    found = score(INDICATORS, REGIME, [PULLBACK, Pattern(name="hammer", side="sell", strength=0.25, level=1.0)])
    assert found.trend == pytest.approx(math.tanh(30 / 50))
    assert found.reversion == pytest.approx(-0.6)
    assert found.momentum == pytest.approx((0.5 + math.tanh(0.4)) / 2)
    assert found.volume == pytest.approx(0.4)
    assert found.pattern == pytest.approx(0.35)
    assert found.total == pytest.approx(0.40 * found.trend + 0.20 * found.momentum + 0.15 * 0.4 + 0.25 * 0.35)
    ranging = score(INDICATORS, msgspec.structs.replace(REGIME, name="range"), [PULLBACK])
    assert ranging.total == pytest.approx(0.05 * found.trend - 0.45 * 0.6 + 0.05 * found.momentum + 0.10 * 0.4 + 0.35 * 0.6)


def test_weights_are_of_every_regime_and_leave_a_score_within_one() -> None:
    assert set(WEIGHTS) == set(ALLOWED) == set(REACH) == set(REGIMES)
    assert {name: round(sum(of), 9) for name, of in WEIGHTS.items()} == {"trend_up": 1, "trend_down": 1, "range": 1, "volatile": 0.8}
    assert ONWARD | TURNING == set(PATTERNS) == set(ENTRIES)


def test_what_is_not_known_says_nothing() -> None:
    unknown = Indicators(**dict.fromkeys(Indicators.__struct_fields__, math.nan))
    assert score(unknown, REGIME, ()).total == 0
    without_macd = score(msgspec.structs.replace(INDICATORS, macd_histogram_bps=math.nan), REGIME, ())
    assert without_macd.momentum == pytest.approx(0.25)


def test_longer_timeframes_weigh_more() -> None:
    one, other = score(INDICATORS, REGIME, [PULLBACK]), score(msgspec.structs.replace(INDICATORS, volume_flow=-1.0), REGIME, ())
    assert overall([one, other]) == pytest.approx((one.total + 2 * other.total) / 3)
    assert overall([]) == 0


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_signal_has_stop_and_target_by_atr_and_regime_and_its_costs() -> None:
    found = decided(seen())
    assert isinstance(found, Signal)
    assert (found.side, found.pattern, found.regime, found.stop_bps, found.target_bps, found.cost_bps, found.time_stop_s) == (
        "buy", "trend_pullback", "trend_up", 75, 150, 11.0, 24 * 900)
    ranging = decided(seen("range", (Pattern(name="failed_breakout", side="buy", strength=0.6, level=99.5),)))
    assert isinstance(ranging, Signal)
    assert (ranging.stop_bps, ranging.target_bps) == (60, 112)
    assert msgspec.convert(msgspec.to_builtins(found), Signal) == found


def test_every_trade_that_is_not_made_has_its_reason() -> None:
    assert reason(seen(spread_bps=9)) == "spread 9.0 bps is above 6"
    assert reason(seen(spread_bps=-1)).startswith("spread -1.0 bps")
    assert reason(seen(total=0.1)) == "score +0.10 is nearer to 0 than 0.15"
    assert reason(seen(total=-0.4, symbol="BTC/USDT")) == "score -0.40 is to sell, and spot cannot be sold short"
    assert reason(seen(patterns=())) == "no pattern to buy"
    assert reason(seen(total=-0.4)) == "no pattern to sell"
    assert reason(seen("range")) == "trend_pullback to buy is not traded in range"
    assert reason(seen("trend_down")) == "trend_pullback to buy is not traded in trend_down", "it is against the trend"
    assert reason(seen(atr_bps=10)).startswith("target 30 and stop 15 bps with costs of 11.0 bps bring 0.73")
    assert reason(seen(atr_bps=900)) == "a stop of 1350 bps is wider than 800"
    assert reason(seen(atr_bps=math.nan)) == "nothing moves: there is no ATR"


def test_what_a_spread_costs_where_none_is_known_is_the_widest_that_is_traded() -> None:
    found = decided(seen(spread_bps=math.nan))
    assert isinstance(found, Signal)
    assert found.cost_bps == 16.0


def test_spot_costs_more_so_that_less_of_it_is_worth_while() -> None:
    assert isinstance(decided(seen(atr_bps=25)), Signal)
    assert "with costs of 21.0 bps bring" in reason(seen(atr_bps=25, symbol="BTC/USDT"))


def test_costs_are_told_by_the_fee_of_the_instrument_whatever_kind_it_is() -> None:
    found, dear = decided(seen(fee_bps=5)), decided(seen(fee_bps=12.5))
    assert isinstance(found, Signal)
    assert isinstance(dear, Signal)
    assert (found.cost_bps, dear.cost_bps) == (11.0, 26.0)
    assert "with costs of 51.0 bps bring" in reason(seen(fee_bps=25)), "what pays at one fee does not at another"
    small, smaller = armed(seen(fee_bps=0, volatility_day_bps=1.0), risk_bps=1.0), armed(seen(fee_bps=12.5, volatility_day_bps=1.0), risk_bps=1.0)
    assert isinstance(small, Condition)
    assert isinstance(smaller, Condition)
    assert int(smaller.size.value) < int(small.size.value), "fees are part of what is lost at the stop"


def test_confidence_is_what_its_formula_says() -> None:
    found = decided(seen())
    assert isinstance(found, Signal)
    assert found.confidence == pytest.approx(0.30 + 0.65 * (0.40 * 0.8 + 0.25 * 0.6 + 0.20 * 0.8 + 0.15 * 1), abs=1e-4)


def test_of_several_patterns_the_strongest_that_the_regime_allows_is_traded() -> None:
    strong = Pattern(name="band_stretch", side="buy", strength=0.9, level=99.0)
    found = decided(seen(patterns=(strong, PULLBACK)))
    assert isinstance(found, Signal)
    assert found.pattern == "trend_pullback"


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_each_limit_makes_the_size_where_it_is_the_least() -> None:
    c = Settings(risk_bps=10, volatility_target_bps=30, size_most_bps=1000, kelly_share=0.25)
    assert sized(c, 189, 11, 400, 1.0, CoinStatus()) == (500, "risk", {"risk": 500, "volatility": 750, "cap": 1000})
    assert sized(c, 89, 11, 400, 1.0, CoinStatus())[:2] == (750, "volatility")
    assert sized(c, 39, 11, 200, 1.0, CoinStatus())[:2] == (1000, "cap")
    # 40 trades, half of them won, a win 1.02 losses: f = 0.5 − 0.5 / 1.02 = 0.0098
    record = CoinStatus(trades=40, wins=20, average_win_bps=102, average_loss_bps=-100)
    assert kelly_fraction(record) == pytest.approx(0.5 - 0.5 / 1.02)
    found = sized(c, 389, 11, 100, 1.0, record)
    assert found.limits["kelly"] == pytest.approx(0.25 * (0.5 - 0.5 / 1.02) * 1e8 / 400)
    assert sized(msgspec.structs.replace(c, risk_bps=40, size_most_bps=10_000, volatility_target_bps=1000), 389, 11, 100, 1.0, record)[:2] == (
        612, "kelly")
    assert sized(c, 89, 11, 400, 0.8, CoinStatus()).size_bps == 600, "times the confidence"
    assert set(sized(c, 89, 11, math.nan, 0.8, CoinStatus()).limits) == set(sized(c, 89, 11, 0.0, 0.8, CoinStatus()).limits) == {"risk", "cap"}


@pytest.mark.parametrize(("record", "f"), [
    (CoinStatus(trades=30, wins=12, average_win_bps=100, average_loss_bps=-100), 0.4 - 0.6), (CoinStatus(trades=30, wins=0, mean_bps=-90), -1.0),
    (CoinStatus(trades=30, wins=15, average_win_bps=100, average_loss_bps=-100), 0.0)])
def test_a_record_without_an_edge_halves_the_risk_and_no_more(record: CoinStatus, f: float) -> None:
    """Half of all coins whose trades bring nothing show that after thirty: to end entries is the gate's to decide."""
    assert kelly_fraction(record) == pytest.approx(f)
    found, plain = sized(Settings(), 80, 11, 30, 1.0, record), sized(Settings(), 80, 11, 30, 1.0, CoinStatus())
    assert (found.limited_by, found.limits["kelly"]) == ("kelly", found.limits["risk"] / 2)
    assert 0 < found.size_bps < plain.size_bps


@pytest.mark.parametrize("record", [
    CoinStatus(trades=29, wins=0, mean_bps=-90), CoinStatus(trades=30, wins=30, average_win_bps=90)])
def test_kelly_says_nothing_of_few_trades_nor_where_a_mean_is_not_known(record: CoinStatus) -> None:
    assert "kelly" not in sized(Settings(), 80, 11, 300, 0.9, record).limits


def test_a_days_volatility_is_that_of_the_last_candles_or_of_all_whichever_is_more() -> None:
    def of(*moves_bps: float) -> float:
        closes = [100 * math.exp(0.5e-4 * move * (-1) ** n) for n, move in enumerate(moves_bps)]
        now = market({SYMBOL: candles(closes)}, BEGIN + len(closes) * 15 * MINUTE)
        found = pipeline.analysis(now, SYMBOL, pipeline.frames(now, SYMBOL, (15,)), 15)
        assert found is not None
        return found.volatility_day_bps

    assert of(*[20.0] * 60) == pytest.approx(20 * math.sqrt(96))
    assert of(*[20.0] * 60, *[60.0] * 9) == pytest.approx(60 * math.sqrt(96), rel=0.05)
    assert of(*[20.0] * 60, *[1.0] * 9) == pytest.approx(20 * math.sqrt(96 * 59 / 68), rel=0.02), "a lull is not believed"


@given(st.floats(1, 9_999), st.floats(0, 500), st.one_of(st.floats(0, 20_000), st.just(math.nan)), st.floats(0, 1), st.integers(0, 500),
       st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 10_000), st.floats(0.1, 1000), st.floats(0.1, 10_000))
def test_a_size_is_never_above_cap_risk_and_volatility_target(stop_bps: float, cost_bps: float, day_bps: float, confidence: float, trades: int,
                                                              share: float, won: float, lost: float, cap: int, risk: float, target: float) -> None:
    wins = int(trades * share)
    record = CoinStatus(trades=trades, wins=wins, average_win_bps=won if wins else 0.0, average_loss_bps=-lost if trades > wins else 0.0)
    c = Settings(size_most_bps=cap, risk_bps=risk, volatility_target_bps=target)
    found = sized(c, stop_bps, cost_bps, day_bps, confidence, record)
    assert 0 <= found.size_bps <= cap
    assert found.size_bps * (stop_bps + cost_bps) / 1e4 <= risk * (1 + 1e-9)
    assert math.isnan(day_bps) or found.size_bps * day_bps / 1e4 <= target * (1 + 1e-9)
    assert found.size_bps <= found.limits[found.limited_by] == min(found.limits.values())
    if trades >= 30 and wins and lost > 0 and wins < trades and won > 0 and kelly_fraction(record) <= 0:
        assert found.size_bps * (stop_bps + cost_bps) / 1e4 <= risk / 2 * (1 + 1e-9)


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_pattern_says_how_it_is_entered() -> None:
    back = armed(seen())
    assert isinstance(back, Condition)
    assert (back.rebound_bps, back.level, back.direction) == (25, None, "up")
    assert [(one.feature, one.op, one.value) for one in back.clauses] == [("spread_bps", "<", 6.0), ("last", ">", 99.5)]
    assert (back.trail_activation_bps, back.trail_distance_bps) == (75, 75)
    broken = armed(seen("range", (Pattern(name="range_breakout", side="sell", strength=0.6, level=99.0),), total=-0.4))
    assert isinstance(broken, Condition)
    assert (broken.level, broken.direction, broken.rebound_bps, broken.trail_distance_bps) == ("98.95", "down", 0, 0)
    assert [one.feature for one in broken.clauses] == ["spread_bps", "volume_burst"]
    returned = armed(seen("range", (Pattern(name="band_stretch", side="buy", strength=0.6, level=99.0),)))
    assert isinstance(returned, Condition)
    assert (returned.level, returned.direction) == ("99", "up")
    wild = armed(seen("volatile", (Pattern(name="failed_breakout", side="buy", strength=0.6, level=99.0),)))
    assert isinstance(wild, Condition)
    assert ("volatility_300s_bps", "<", 50.0) in [(one.feature, one.op, one.value) for one in wild.clauses]


def test_without_quotes_nothing_waits_for_a_spread() -> None:
    made = armed(seen(spread_bps=math.nan))
    assert isinstance(made, Condition)
    assert [one.feature for one in made.clauses] == ["last"]


def test_a_condition_says_what_it_came_of_in_words_and_for_the_journal() -> None:
    made = armed(seen())
    assert isinstance(made, Condition)
    assert (made.pattern, made.regime) == ("trend_pullback", "trend_up")
    for said in ("25 bps back from the low, above 99.5", "trend_pullback (0.60) in trend_up", "score +0.40", "ATR 50 bps", "costs of 11.0 bps",
                 "size ", "risk", "volatility", "cap"):
        assert said in made.why


def test_a_signal_for_a_pattern_that_is_not_there_arms_nothing() -> None:
    of = seen()
    signal = decided(of)
    assert isinstance(signal, Signal)
    size = sized(Settings(), 75, 11, 400, 0.8, CoinStatus())
    other = msgspec.structs.replace(signal, pattern="hammer")
    assert condition(other, size, of, facts(), Settings(), 60) == "the candles show no hammer to buy"


# ── no stage is decoration ───────────────────────────────────────────────────────────────────────────────────────────
BREAK = Pattern(name="range_breakout", side="buy", strength=0.6, level=100.2)


@pytest.mark.parametrize(("changed", "differs"), [
    ({"regime": "range"}, {"stop_bps", "target_bps", "trail_distance_bps", "clauses", "regime"}),
    ({"regime": "volatile"}, {"stop_bps", "target_bps", "clauses", "regime"}),
    ({"atr_bps": 100.0}, {"stop_bps", "target_bps", "size", "level"}),
    ({"volatility_day_bps": 1500.0}, {"size"}),
    ({"patterns": (PULLBACK,)}, {"rebound_bps", "level", "clauses", "pattern"}),
    ({"patterns": (msgspec.structs.replace(BREAK, strength=0.2),)}, {"confidence", "size"}),
    ({"patterns": (msgspec.structs.replace(BREAK, level=100.9),)}, {"level"}),
    ({"total": 0.2}, {"confidence", "size"}),
    ({"spread_bps": 5.0}, {"why"}),
])
def test_changing_regime_volatility_pattern_or_score_changes_the_condition(changed: dict[str, Any], differs: set[str]) -> None:
    before, after = armed(seen(patterns=(BREAK,))), armed(seen(**({"patterns": (BREAK,)} | changed)))
    assert isinstance(before, Condition)
    assert isinstance(after, Condition)
    assert {name for name in Condition.__struct_fields__ if getattr(before, name) != getattr(after, name)} >= differs


@pytest.mark.parametrize("changed", [{"regime": "trend_down"}, {"atr_bps": 10.0}, {"atr_bps": 900.0}, {"patterns": ()}, {"total": 0.05},
                                     {"total": -0.4}, {"spread_bps": 7.0}])
def test_changing_them_further_takes_the_condition_away(changed: dict[str, Any]) -> None:
    assert isinstance(armed(seen(patterns=(BREAK,))), Condition)
    assert isinstance(armed(seen(**({"patterns": (BREAK,)} | changed))), str)


HISTORY = {f"C{n}/USDT:USDT": walk(n, step=9e-4) for n in range(30)}


def conditions() -> list[Condition]:
    now = market(HISTORY, BEGIN + 2 * DAY)
    given_ = Analyst().plan(now, Portfolio(), Coins())
    assert given_ is not None
    return checked(given_, now)


ALL_RANGE = {"regime": lambda s: Regime(name="range", confidence=0.8, efficiency=0.2, adx=15, volatility_ratio=1.0, since_ns=0)}
NO_PATTERN = {"patterns": lambda s: ()}
NO_SCORE = {"overall": lambda scores: 0.0}


@pytest.mark.parametrize("without", [ALL_RANGE, NO_PATTERN, NO_SCORE, {"score": "upside down"}, {"indicators": "calm"}],
                         ids=["regime", "pattern", "score", "score upside down", "volatility"])
def test_a_plan_over_candles_is_another_one_without_one_of_the_stages(without: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = conditions()
    assert len(before) >= 5
    of = pipeline.indicators

    def flipped(*given_: Any) -> Any:
        found = score(*given_)
        return msgspec.structs.replace(found, total=-found.total)

    def calm(*given_: Any) -> Any:
        found = of(*given_)
        return msgspec.structs.replace(found, atr_bps=found.atr_bps / 2, volatility_bps=found.volatility_bps / 2)

    for name, stage in without.items():
        monkeypatch.setattr(pipeline, name, {"upside down": flipped, "calm": calm}[stage] if isinstance(stage, str) else stage)
    after = conditions()
    assert after != before
    same = sum(one in before for one in after)
    assert same < len(before) / 2, "and not by a little"


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(REGIMES), st.sampled_from(PATTERNS), st.sampled_from(["buy", "sell"]), st.floats(0.01, 1),
       st.floats(allow_nan=True, allow_infinity=True), st.floats(-1, 1), st.floats(allow_nan=True, allow_infinity=True),
       st.one_of(st.floats(1e-9, 1e6), st.just(math.inf), st.just(math.nan)), st.one_of(st.floats(0, 50), st.just(math.nan)))
def test_nothing_that_is_not_a_number_reaches_a_condition(regime: str, name: str, side: str, strength: float, atr_bps: float, total: float,
                                                          day_bps: float, level: float, spread_bps: float) -> None:
    pattern = Pattern(name=name, side=side, strength=strength, level=level)  # type: ignore[arg-type]
    made = armed(seen(regime, (pattern,), total=total, atr_bps=atr_bps, volatility_day_bps=day_bps, spread_bps=spread_bps))
    if isinstance(made, Condition):
        assert "nan" not in msgspec.json.encode(made).decode()
        assert "inf" not in msgspec.json.encode(made).decode()
    else:
        assert made


def test_the_record_of_a_coin_that_is_shut_does_not_judge_it_any_more() -> None:
    bad = CoinStatus(trades=40, wins=2, pnl=-9.0, status="blacklisted")
    assert sizing.record_of(Coins({SYMBOL: bad}), SYMBOL) == bad
    assert sizing.record_of(Coins({SYMBOL: replace(bad, scale=0.0)}), SYMBOL) == CoinStatus(), "it stands still at its worst"
