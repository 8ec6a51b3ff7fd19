"""The strategy `analyst`: when it thinks anew, what it keeps and passes, that it is repeatable, how long it takes, what it says of real candles."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.config import load as load_config
from control.faults import ConfigError
from control.think.analysis import pipeline, schedule
from control.think.analysis.config import REGIME_CANDLES
from control.think.analysis.config import Analysis as Settings
from control.think.analysis.schedule import Look
from control.think.analysis.timeframes import resampled
from control.think.analyst import Analyst
from control.think.config import Strategy
from control.think.strategy import Candles, CoinStatus, Condition, Facts, Held, KnowledgeView, Market, Portfolio, Quote, load
from tests.analysis_market import BEGIN, DAY, MINUTE, SYMBOL, Coins, candles, checked, market, planned, walk

HOUR = 60 * MINUTE
NOON = BEGIN + DAY + 12 * HOUR


def plan(analyst: Analyst, now: Market, planned_ns: int = 0, knowledge: KnowledgeView | None = None, held: tuple[Held, ...] = ()) -> Any:
    return analyst.plan(now, Portfolio(positions={one.symbol: one for one in held}, planned_ns=planned_ns), knowledge or Coins())


def test_a_size_below_the_venues_least_order_is_told_and_not_armed_to_be_refused_each_time_it_fires() -> None:
    now = market({SYMBOL: walk(1, 2600)}, NOON)
    given, passed = [], []
    for equity in (10_000.0, 1.0, 0.0):
        analyst = Analyst(None, Settings(least_score=0.0, least_reward_risk=0.0, stop_most_bps=5000))
        given.append(analyst.plan(now, Portfolio(equity=equity), Coins()))
        passed.append(analyst.passed.get(SYMBOL, ""))
    assert [len(one or []) for one in given] == [1, 0, 1], "where equity is not known yet the gate decides"
    assert re.fullmatch(r"size \d+ bps of 1 is less than the venue's least order of \d+, or than a lot", passed[1]), passed


# ── the schedule ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_interval_goes_from_four_hours_to_a_quarter_with_volatility() -> None:
    c = Settings(calm_bps=25, wild_bps=100)
    minutes = [schedule.interval_ns(c, [v]) // MINUTE for v in (0, 10, 25, 50, 100, 900)]
    assert minutes == [240, 240, 240, 60, 15, 15], "twice as calm as wild lies in the middle, √(240 × 15)"
    assert schedule.interval_ns(c, [10, 50, 900]) // MINUTE == 60, "the median of the symbols"
    assert schedule.interval_ns(c, [math.nan]) // MINUTE == schedule.interval_ns(c, []) // MINUTE == 15
    assert schedule.interval_ns(Settings(interval_least_min=30, interval_most_min=30), [25]) // MINUTE == 30


@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(math.nan)), max_size=9))
def test_the_interval_is_always_within_its_bounds(volatilities: list[float]) -> None:
    assert 15 * MINUTE <= schedule.interval_ns(Settings(), volatilities) <= 240 * MINUTE


def test_an_hours_volatility_is_now_of_the_last_eight_candles_and_then_of_those_before_the_plan() -> None:
    of = candles([100 * math.exp(0.001 * (n % 2) * (3 if n >= 40 else 1)) for n in range(60)])
    now = schedule.look(of, int(of.time_ns[30]))
    assert now.hour_bps == pytest.approx(30 * 2)
    assert now.planned_hour_bps == pytest.approx(10 * 2)
    assert math.isnan(schedule.look(of, BEGIN).planned_hour_bps)


def looks(hour_bps: float, planned_hour_bps: float, changed_ns: Sequence[int] = (0, 0, 0, 0)) -> list[Look]:
    return [Look(hour_bps, planned_hour_bps, since_ns) for since_ns in changed_ns]


def test_a_plan_is_due_when_its_interval_is_over_or_would_be_by_the_volatility_of_now() -> None:
    c = Settings(calm_bps=25, wild_bps=100)
    assert schedule.due(c, looks(50, 50), NOON + 60 * MINUTE - 1, NOON) == ""
    assert schedule.due(c, looks(50, 50), NOON + 60 * MINUTE, NOON) == "60 minutes are over"
    assert schedule.due(c, looks(100, 25), NOON + 15 * MINUTE, NOON) == "15 minutes are over", "it has become wild"
    assert schedule.due(c, looks(25, 50), NOON + 60 * MINUTE, NOON) == "60 minutes are over", "what is armed was armed for no longer"


def test_a_plan_is_due_at_once_where_enough_regimes_have_changed() -> None:
    c = Settings(regime_share=0.5)
    assert schedule.due(c, looks(25, 25, (NOON + 1, 0, 0, 0)), NOON + 15 * MINUTE, NOON) == ""
    assert schedule.due(c, looks(25, 25, (NOON + 1, NOON + 1, 0, NOON)), NOON + 15 * MINUTE, NOON) == "the regime of 2 of 4 symbols has changed"
    assert schedule.due(c, looks(25, 25, (NOON + 1,)), NOON + 15 * MINUTE, NOON) == "the regime of 1 of 1 symbols has changed"


def test_a_change_of_regime_in_the_candles_brings_a_plan_before_its_time() -> None:
    calm = [100 + 0.3 * math.sin(2.1 * n) for n in range(200)]
    turned = calm[:160] + [calm[159] + 0.3 * n for n in range(1, 41)]
    for closes, sooner in ((calm, False), (turned, True)):
        analyst = Analyst(analysis=Settings(calm_bps=900, wild_bps=1000, timeframes_min=(15,)))
        plans = planned(lambda n: analyst, {SYMBOL: candles(closes, wick=2e-4)}, BEGIN + 157 * 15 * MINUTE, 230)  # noqa: B023 (used at once)
        assert (len(plans) > 1) is sooner
        if sooner:
            assert 160 < (plans[1][0] - BEGIN) // (15 * MINUTE) < 157 + 15


def test_something_that_happened_brings_a_plan_in_the_same_minute() -> None:
    now = market({SYMBOL: walk(1)}, NOON + 7 * MINUTE)
    calm = Settings(calm_bps=9_000, wild_bps=9_999, regime_share=1.0)
    before = NOON + 5 * MINUTE
    assert plan(Analyst(analysis=calm), now, before) is None
    filled, older = (Held(SYMBOL, "buy", 1.0, 100.0, before + after, "open") for after in (1, -1))
    assert plan(Analyst(analysis=calm), now, before, held=(filled,)) == [], "and there is nothing to arm beside a position"
    assert plan(Analyst(analysis=calm), now, before, held=(older,)) is None
    assert plan(Analyst(analysis=calm), now, before, Coins({SYMBOL: CoinStatus(last_trade_ns=before + 1)})) is not None
    assert plan(Analyst(analysis=calm), now, before, Coins({SYMBOL: CoinStatus(last_trade_ns=before)})) is None
    assert plan(Analyst(analysis=calm), now) is not None, "the first one"


def test_an_operators_word_brings_one_plan() -> None:
    analyst = Analyst(analysis=Settings(calm_bps=9_000, wild_bps=9_999, regime_share=1.0))
    now = market({SYMBOL: walk(1)}, NOON + 7 * MINUTE)
    assert plan(analyst, now, NOON) is None
    analyst.ask_now()
    assert plan(analyst, now, NOON) is not None
    assert plan(analyst, now, NOON + 7 * MINUTE) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 59))
def test_conditions_outlast_the_time_to_the_next_plan(seed: int, offset: int) -> None:
    analyst = Analyst(analysis=Settings(least_score=0.01))
    plans = planned(lambda n: analyst, {SYMBOL: walk(seed, 2600)}, BEGIN + (1500 + offset) * MINUTE, 700)
    for (at_ns, armed), (next_ns, _) in itertools.pairwise(plans):
        assert all(at_ns + one.valid_for_s * 1_000_000_000 > next_ns + MINUTE for one in armed)
        assert 15 * MINUTE <= next_ns - at_ns <= 240 * MINUTE or next_ns % (15 * MINUTE) == 0, "sooner only when a candle shows another regime"


@pytest.mark.parametrize("interval", [25, 50, 240])
def test_an_interval_is_as_long_as_it_is_whatever_candle_is_traded(interval: int) -> None:
    analyst = Analyst(analysis=Settings(interval_least_min=interval, interval_most_min=interval, regime_share=1.0))
    calm = {SYMBOL: candles([100 + 0.3 * math.sin(2.1 * n) for n in range(400)], wick=2e-4)}
    plans = planned(lambda n: analyst, calm, BEGIN + DAY + 7 * MINUTE, 2 * interval + 5)
    assert [(at_ns - BEGIN - DAY) // MINUTE for at_ns, _ in plans] == [7, 7 + interval, 7 + 2 * interval]


# ── what is passed over ──────────────────────────────────────────────────────────────────────────────────────────────
def test_every_symbol_that_is_not_armed_has_its_reason() -> None:
    names = ["HELD", "YOUNG", "ASKED"]
    history = {f"{name}/USDT:USDT": walk(n, 3000) for n, name in enumerate(names)}
    history["YOUNG/USDT:USDT"] = candles([100.0 + n % 7 for n in range(300)], candle_s=60, begin_ns=NOON - 300 * MINUTE)
    analyst = Analyst(analysis=Settings(least_score=0.99))
    held = Held("HELD/USDT:USDT", "buy", 1.0, 100.0, NOON - HOUR, "open")
    black = Coins({"ASKED/USDT:USDT": CoinStatus(trades=30, wins=3, pnl=-9.0, status="blacklisted", scale=0.0)})  # followed on paper
    assert plan(analyst, market(history, NOON), knowledge=black, held=(held,)) == []
    assert list(analyst.passed) == ["HELD/USDT:USDT", "YOUNG/USDT:USDT", "ASKED/USDT:USDT"]
    assert [reason.rpartition(" is ")[2] for reason in analyst.passed.values()] == ["open", "too short", "nearer to 0 than 0.99"]


def test_the_journal_is_told_why_nothing_is_armed_when_that_has_changed_and_not_when_only_its_figures_have() -> None:
    analyst, of = Analyst(analysis=Settings(least_score=1.0)), {SYMBOL: walk(3), "ETH/USDT:USDT": walk(4)}
    for minute in range(0, 300, 60):
        analyst.ask_now()
        plan(analyst, market(of, NOON + minute * MINUTE))
    (event,) = analyst.take_events()
    assert (event.kind, set(event.data["passed"]), event.data["due_ns"]) == ("no_trade", set(of), NOON)
    assert f"{SYMBOL}: {event.data['passed'][SYMBOL]}" in event.text
    analyst.ask_now()
    plan(analyst, market(of, NOON + 301 * MINUTE), held=(Held(SYMBOL, "buy", 1.0, 100.0, 1, "open"),))
    (event,) = analyst.take_events()
    assert event.data["passed"] == {SYMBOL: "position is open"}
    assert analyst.take_events() == []


def test_of_more_conditions_than_a_plan_may_have_the_surest_are_armed_and_the_others_are_told() -> None:
    history = {f"C{n}/USDT:USDT": walk(n, 3000, step=9e-4) for n in range(20)}
    now = market(history, BEGIN + 2 * DAY)
    every, few = Analyst(), Analyst(Strategy(most_per_plan=2))
    whole, part = plan(every, now), plan(few, now)
    assert part == whole[:2]
    assert [one.confidence for one in whole] == sorted((one.confidence for one in whole), reverse=True)
    assert {symbol for symbol, reason in few.passed.items() if "most_per_plan" in reason} == {one.symbol for one in whole[2:]} != set()


def test_a_bounded_number_of_symbols_is_analysed_at_once() -> None:
    history = {f"C{n}/USDT:USDT": walk(n, 2000) for n in range(7)}
    batches = [[one.symbol for one in analyses] for analyses, _ in
               pipeline.batches(market(history, BEGIN + DAY), list(history), Settings(symbols_at_once=3))]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [symbol for batch in batches for symbol in batch] == list(history)


def test_it_says_how_long_it_warms_up() -> None:
    analyst = Analyst()
    young = market({SYMBOL: walk(1, 1000)}, BEGIN + 100 * MINUTE)
    assert analyst.warmup_left_s(young) == (REGIME_CANDLES - 6) * 900
    assert plan(analyst, young) == []
    assert analyst.warmup_left_s(market({SYMBOL: walk(1, 1000)}, BEGIN + REGIME_CANDLES * 15 * MINUTE)) == 0
    assert analyst.warmup_left_s(market({SYMBOL: walk(1, 10)}, BEGIN)) == REGIME_CANDLES * 900


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 1700), st.sampled_from([0.0, 1e-5, 1e-3, 0.05]), st.floats(-4, 5), st.sampled_from([10, 60, 300]))
def test_whatever_the_market_does_what_is_given_can_be_armed(seed: int, minutes: int, step: float, magnitude: float, candle_s: int) -> None:
    rng = np.random.default_rng(seed)
    count = max(1, minutes * 60 // candle_s)
    moves = rng.standard_t(3, count) * step * (rng.random(count) < rng.random())
    of = candles(list(10**magnitude * np.exp(np.cumsum(moves))), list(rng.lognormal(0, 2, count) * (rng.random(count) < 0.8)), step / 5, candle_s)
    now = market({SYMBOL: of}, int(of.time_ns[-1]) + candle_s * 1_000_000_000, ticks={SYMBOL: "0.00000001"})
    for one in checked(plan(Analyst(analysis=Settings(least_score=0.0, least_reward_risk=0.0)), now), now):
        assert math.isfinite(one.confidence)
        assert 1 <= int(one.size.value) <= Settings().size_most_bps


# ── repeatable ───────────────────────────────────────────────────────────────────────────────────────────────────────
HISTORY = {f"C{n}/USDT:USDT": walk(n, 3000) for n in range(4)}


def test_the_same_candles_give_the_same_plans_however_often_the_process_is_replaced() -> None:
    always, twice = Analyst(), Analyst()
    expected = msgspec.json.encode(planned(lambda n: always, HISTORY, BEGIN + 1500 * MINUTE, 600))
    assert expected == msgspec.json.encode(planned(lambda n: twice, HISTORY, BEGIN + 1500 * MINUTE, 600))
    every_minute = msgspec.json.encode(planned(lambda n: Analyst(), HISTORY, BEGIN + 1500 * MINUTE, 600))
    assert every_minute == expected
    assert b'"buy"' in expected
    assert b'"sell"' in expected


def test_candles_of_ten_seconds_and_of_a_minute_give_the_same_plan() -> None:
    fine = walk(5, 1500, candle_s=10)
    coarse = Candles(60, fine.time_ns[::6], fine.open[::6], fine.high.reshape(-1, 6).max(1), fine.low.reshape(-1, 6).min(1), fine.close[5::6],
                     fine.volume.reshape(-1, 6).sum(1), fine.trades.reshape(-1, 6).sum(1))
    given_ = [plan(Analyst(analysis=Settings(least_score=0.0)), market({SYMBOL: of}, BEGIN + DAY)) for of in (fine, coarse)]
    assert [one.side for one in given_[0]] == [one.side for one in given_[1]]
    assert [one.why for one in given_[0]] == [one.why for one in given_[1]]


# ── how long ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_fifty_symbols_at_every_timeframe_are_analysed_in_less_than_a_second() -> None:
    history = {f"C{n}/USDT:USDT": walk(n, 1440, candle_s=10) for n in range(50)}
    now = market(history, BEGIN + DAY)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        given_ = checked(plan(Analyst(), now), now)
        took.append(time.perf_counter() - began)
    assert given_
    assert min(took) < 1.0


# ── as it is found and configured ────────────────────────────────────────────────────────────────────────────────────
def test_it_is_built_in_and_is_given_both_sections() -> None:
    made = load("analyst", Strategy(most_per_plan=3), Settings(least_score=0.3))
    assert (type(made), made.config.most_per_plan, made.analysis.least_score, made.interval_s) == (Analyst, 3, 0.3, 60)


def test_a_users_own_class_has_its_section_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from control.think.analyst import Analyst\nclass Mine(Analyst):\n    def __init__(self, settings):\n"
                    "        super().__init__(settings)\n")
    mine = load(f"{file}:Mine", Strategy(), Settings(least_score=0.99))
    assert plan(mine, market({SYMBOL: walk(1)}, NOON)) == []
    assert "nearer to 0 than 0.99" in mine.passed[SYMBOL]


@pytest.mark.parametrize(("text", "says"), [
    ("[analysis]\ntimeframes_min = [5, 1, 15]", "analysis.timeframes_min.*do not rise"),
    ("[analysis]\ntimeframes_min = [5, 15]\ntrade_timeframe_min = 60", "analysis.trade_timeframe_min.*none of timeframes_min"),
    ("[analysis]\ninterval_least_min = 60\ninterval_most_min = 30", "analysis.interval_least_min.*make it shorter"),
    ("[analysis]\ncalm_bps = 300.0", "analysis.calm_bps.*not below wild_bps"),
    ("[analysis]\ntimeframes_min = [15, 61]", r"analysis.timeframes_min.*give .*1 to 60"),
    *[(f'[run]\nstrategies = ["{name}"]\n{text}', says) for name in ("analyst", "llm") for text, says in (
        ("[strategy]\nhistory_minutes = 120", "analysis.timeframes_min.*: 120 minutes of history are too few for the 23 candles of 15, 60 minutes "
         "that a regime needs; raise strategy.history_minutes to 1440, or leave 15, 60 out"),
        ("[strategy]\nhistory_minutes = 1439", "analysis.timeframes_min.*23 candles of 60 minutes.*raise strategy.history_minutes to 1440"),
        ("[strategy]\ncandle_s = 1800\nrange_minutes = 60\nmean_minutes = 60",
         "analysis.timeframes_min.*: 1, 5, 15 minutes are no whole number of candles of 1800 s; shorten strategy.candle_s"),
        ("[strategy]\ncandle_s = 300\nrange_minutes = 60\nmean_minutes = 60", "analysis.timeframes_min.*: 1 minutes are no whole number"))],
])
def test_settings_that_do_not_fit_together_are_named_with_a_remedy(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trader.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    assert re.search(says, "\n".join(map(str, caught.value.faults)))


def test_what_only_the_analyst_needs_is_asked_of_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "trader.toml"
    path.write_text("[strategy]\nhistory_minutes = 120")
    assert load_config(path, environment={}).strategy.history_minutes == 120


@pytest.mark.parametrize("name", ["analyst", "llm"])
def test_every_timeframe_that_is_taken_can_be_analysed_at_any_instant(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trader.toml"
    path.write_text(f'[run]\nstrategies = ["{name}"]\n[strategy]\nhistory_minutes = 360\n[analysis]\ntimeframes_min = [1, 2, 15]')
    analysis = load_config(path, environment={}).analysis
    of = candles([100 + math.sin(n) for n in range(2000)], candle_s=60)
    for offset in range(15):
        now_ns = BEGIN + (1000 + offset) * MINUTE
        end = 1000 + offset
        kept = Candles(60, *(array[end - 360: end] for array in vars(of).values() if isinstance(array, np.ndarray)))
        for minutes in analysis.timeframes_min:
            found = resampled(kept, minutes, now_ns)
            assert found is not None
            assert len(found) >= REGIME_CANDLES


# ── real candles ─────────────────────────────────────────────────────────────────────────────────────────────────────
#: tick sizes of the perpetuals
TICKS = {"BTC": "0.1", "ETH": "0.01", "SOL": "0.01", "XRP": "0.0001", "LAYER": "0.0001"}


def real(folder: Path) -> dict[str, Candles]:
    import polars

    found = {}
    for name in TICKS:
        (path,) = (folder / "ohlcv_1m").glob(f"*_{name}USDT_*.feather")
        table = polars.read_ipc(path)
        columns = [table[column].to_numpy().astype(float) for column in ("open", "high", "low", "close", "volume")]
        found[f"{name}/USDT:USDT"] = Candles(60, table["date"].dt.epoch("ns").to_numpy(), *columns, (columns[4] > 0).astype(np.int64))
    return found


@pytest.mark.real_data
def test_over_days_of_real_candles_it_trades_some_passes_some_and_is_sane(real_data: Path) -> None:
    history = real(real_data)
    begin_ns = int(max(of.time_ns[0] for of in history.values())) // DAY * DAY + 6 * DAY
    ticks = {f"{name}/USDT:USDT": tick for name, tick in TICKS.items()}
    analyst, passed = Analyst(), Counter[str]()
    armed: list[Condition] = []
    at = 0
    for n in range(2 * 1440):
        now = market(history, begin_ns + n * MINUTE, ticks)
        given_ = analyst.plan(now, Portfolio(planned_ns=at), Coins())
        if given_ is not None:
            at = now.now_ns
            for one in checked(given_, now):
                armed.append(one)
                last = now.quotes[one.symbol].last
                assert one.level is None or abs(float(one.level) / last - 1) < 0.05
            passed.update(reason.split(" ")[0] for reason in analyst.passed.values())
    assert len(armed) >= 20
    assert passed.total() > len(armed), "most of the time there is nothing to do"
    assert len({one.pattern for one in armed}) >= 5
    assert {one.regime for one in armed} == {"trend_up", "trend_down", "range", "volatile"}
    assert {one.side for one in armed} == {"buy", "sell"}
    for one in armed:
        assert 10 <= one.stop_bps <= 800
        assert one.target_bps > one.stop_bps
        assert 1 <= int(one.size.value) <= 1000
        assert 0.3 <= one.confidence <= 1
    stops = {name: np.median([one.stop_bps for one in armed if one.symbol.startswith(name)]) for name in ("BTC", "LAYER")}
    assert stops["BTC"] < stops["LAYER"], "what moves more gets a wider stop"


def test_facts_and_quotes_of_this_test_are_those_of_a_market() -> None:
    now = market({SYMBOL: walk(1, 60)}, BEGIN + HOUR)
    assert now.facts[SYMBOL] == Facts(SYMBOL, True, Decimal("0.001"), Decimal("0.001"), Decimal(5), 5.0)
    assert isinstance(now.quotes[SYMBOL], Quote)
    assert now.quotes[SYMBOL].spread_bps == pytest.approx(1)
