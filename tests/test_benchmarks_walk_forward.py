"""The walk over real candles: its bootstrap against a slow oracle and known cases, buy-and-hold by hand, whole days, and a quick run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_walk_forward as walk
from benchmarks import blocks, no_record
from benchmarks.frame import CheckFailed, Missing, Row, Skipped
from control.backtest.results import Trip
from control.think.strategy import CoinStatus
from ipc import layout as l


# ── the bootstrap ────────────────────────────────────────────────────────────────────────────────────────────────────
def slow_interval(of: list[float], block: int, resamples: int, seed: int, confidence: float) -> tuple[float, float]:
    """One block after the other, one day after the other."""
    rng, means = np.random.default_rng(seed), []
    count = len(of)
    starts = rng.integers(count, size=(resamples, -(-count // block)))
    for row in starts.tolist():
        days: list[float] = []
        for start in row:
            for step in range(block):
                if len(days) < count:
                    days.append(of[(start + step) % count])
        means.append(sum(days) / count)
    tail = blocks.expanded_tail(count // block, confidence)
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


@pytest.mark.parametrize(("count", "block"), [(30, 3), (31, 3), (28, 7), (12, 1)])
def test_an_interval_is_a_slow_loops(count: int, block: int) -> None:
    figures = np.random.default_rng(count).normal(3, 10, count)
    found = blocks.interval(figures, block, 500, seed=5)
    assert found is not None
    assert found.mean == pytest.approx(figures.mean())
    assert (found.low, found.high) == pytest.approx(slow_interval(figures.tolist(), block, 500, 5, 0.95))


def test_blocks_are_days_in_a_row_round_the_end_and_each_day_counts_as_often() -> None:
    picked = blocks.chosen(30, 3, 20_000, seed=2)
    assert picked.shape == (20_000, 30)
    first, second, third = (picked[:, at::3] for at in range(3))
    assert np.array_equal(second, (first + 1) % 30)
    assert np.array_equal(third, (first + 2) % 30)
    shares = np.bincount(picked.ravel(), minlength=30) / picked.size
    assert abs(shares * 30 - 1).max() < 0.03
    assert blocks.chosen(10, 3, 4, seed=2).shape == (4, 10), "the last block is cut"


def test_a_constant_has_an_interval_without_a_width_and_too_few_blocks_have_none() -> None:
    assert blocks.interval(np.full(30, -4.5)) == pytest.approx((-4.5, -4.5, -4.5))
    assert blocks.interval(np.zeros(30)) == (0.0, 0.0, 0.0)
    assert blocks.interval(np.ones(11), block=3) is None
    assert blocks.interval(np.ones(12), block=3) is not None


def test_the_same_seed_draws_the_same_days_of_two_series() -> None:
    of = np.random.default_rng(1).normal(0, 1, 30)
    one, two = blocks.interval(of, seed=3), blocks.interval(of + 7, seed=3)
    assert one is not None
    assert two is not None
    assert two == pytest.approx(tuple(figure + 7 for figure in one))


@pytest.mark.parametrize(("freedom", "probability", "quantile"), [
    (1, 0.975, 12.7062), (9, 0.975, 2.26216), (9, 0.95, 1.83311), (29, 0.975, 2.04523), (200, 0.975, 1.97190)])
def test_students_quantiles_are_the_tables(freedom: int, probability: float, quantile: float) -> None:
    assert blocks.student_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-5)


def coverage(series: Any, block: int, seed: int) -> float:
    """Share of these series, [series, days] with a mean of 0, whose interval covers it."""
    found = [blocks.interval(one, block, 1000, seed) for one in series]
    return sum(one is not None and one.low <= 0 <= one.high for one in found) / len(found)


def test_it_covers_the_mean_of_independent_days_at_about_the_nominal_rate() -> None:
    """400 series of thirty days: 95 % would be 380 ± 4.4; plain quantiles of the resamples cover some 91 %."""
    days = np.random.default_rng(8).normal(0, 1, (400, 30))
    assert 0.92 <= coverage(days, 3, 1) <= 0.985
    heavy = np.random.default_rng(9).standard_t(4, (400, 30))
    assert 0.92 <= coverage(heavy, 3, 1) <= 0.99


def test_blocks_keep_what_days_have_to_do_with_each_other() -> None:
    """Sums of three days each, so that neighbours share two: single days take them for more than they are."""
    steps = np.random.default_rng(10).normal(0, 1, (300, 32))
    days = steps[:, :-2] + steps[:, 1:-1] + steps[:, 2:]
    in_blocks, single = coverage(days, 3, 1), coverage(days, 1, 1)
    assert in_blocks > single + 0.05
    assert in_blocks > 0.8


# ── buy and hold ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_buy_and_hold_by_hand() -> None:
    """One doubles, one halves: 0.5 × 2 + 0.5 × 0.5 of what 1 buys at 1 % a side, and 1 % of it at the end."""
    worth = walk.held([10.0, 4.0], [[10.0, 4.0], [15.0, 4.0], [20.0, 2.0]], 0.01)
    assert worth.tolist() == pytest.approx([1.0, 1 / 1.01, 1.25 / 1.01, 1.25 / 1.01 * 0.99])
    assert walk.held([5.0], [[5.0]], 0.0).tolist() == [1.0, 1.0]


def test_a_drawdown_is_the_largest_fall_below_the_highest_so_far() -> None:
    assert walk.drawdown_pct(np.array([1.0, 2.0, 1.5, 3.0, 1.8, 2.9])) == pytest.approx(40.0)
    assert walk.drawdown_pct(np.array([1.0, 1.0, 2.0])) == 0.0


# ── no record ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Record:
    """Knowledge of a coin that has done well."""

    def coin(self, symbol: str) -> CoinStatus:
        return CoinStatus(trades=40, wins=40, pnl=9.0, streak=40, status="normal", average_win_bps=50.0, last_trade_ns=77)


def test_without_a_record_only_the_time_of_the_last_trade_is_known() -> None:
    assert no_record.Unknown(Record()).coin("BTC/USDT:USDT") == CoinStatus(last_trade_ns=77)


# ── days ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_ticks_are_cut_at_midnight_utc() -> None:
    ticks = np.zeros(6, l.TICK)
    ticks["event_ns"] = np.array([0, walk.DAY_NS - 1, walk.DAY_NS, walk.DAY_NS + 1, 3 * walk.DAY_NS, 3 * walk.DAY_NS]) + 5 * walk.DAY_NS
    found = list(walk.by_day(ticks))
    assert [(day, len(part)) for day, part in found] == [(5, 2), (6, 2), (8, 2)]
    found[1][1]["seq"] = 7
    assert ticks["seq"].tolist() == [0, 0, 7, 7, 0, 0], "they are the ticks themselves"


def minutes(first_ns: int, count: int) -> Any:
    return np.column_stack([first_ns + walk.MINUTE_NS * np.arange(count), np.ones(count), np.ones(count)]).astype(float)


def test_whole_days_are_those_that_all_files_have_without_a_gap() -> None:
    late, long = minutes(10 * walk.DAY_NS + walk.MINUTE_NS, 3 * 1440), minutes(9 * walk.DAY_NS, 6 * 1440)
    assert walk.whole_days([late, long]) == (11, 2)
    assert walk.whole_days([long]) == (9, 6)
    with pytest.raises(CheckFailed, match="missing"):
        walk.whole_days([np.delete(late, 2000, axis=0), long])
    with pytest.raises(CheckFailed, match="no day"):
        walk.whole_days([late[:1000], long])


def test_daily_returns_are_of_the_equity_at_the_days_beginning() -> None:
    one = walk.Walk({}, [], np.array([1000.0, 1010.0, 1004.95]), walk.Learned(0, Counter(), (), "", 0.0, 0.0))
    assert one.daily_bps.tolist() == pytest.approx([100.0, -50.0])
    assert one.return_pct == pytest.approx(0.495)


def trip(closed_ns: int, pnl: float = 1.0) -> Trip:
    return Trip("BTC/USDT:USDT", "analyst", "long", closed_ns - 1, closed_ns, 1.0, 100.0, 101.0, pnl, 0.1, "target", "")


def test_a_prefix_with_other_trades_is_found() -> None:
    walk.check_prefix([trip(1), trip(12, -3.0)], [trip(1), trip(11), trip(15)], 10)  # what was closed by its end is no part of it
    for other in ([trip(1), trip(2)], [trip(1, 2.0)], []):
        with pytest.raises(CheckFailed, match="fewer days"):
            walk.check_prefix(other, [trip(1), trip(11)], 10)


def test_without_data_it_is_skipped_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_REAL_DATA", str(tmp_path))
    with pytest.raises(Skipped, match="TRADER_REAL_DATA"):
        walk.run(True)


# ── real candles ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.real_data
def test_a_quick_run_trades_learns_of_it_and_checks_itself(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_REAL_DATA", str(real_data))
    found = walk.run(True)
    rows = {(row.params["strategy"], row.params.get("learning"), row.metric): row for row in found if isinstance(row, Row)}
    assert {name for name, _, _ in rows} == {"buy and hold", *(case.name for case in walk.CASES)}
    for case in walk.CASES:
        for arm in case.arms:
            assert rows[case.name, arm.learning, "trades"].value > 0
            assert rows[case.name, arm.learning, "fees_pct"].value > 0
    assert rows["analyst", "applied", "adaptations_active"].value == 0, "thirty trades are the least that it takes"
    arms = sum(len(case.arms) for case in walk.CASES)
    assert len([row for row in found if isinstance(row, Missing)]) == 1 + arms + arms - len(walk.CASES), "no interval of two days"
    assert rows["buy and hold", None, "net_return_pct"].params == {"strategy": "buy and hold", "symbols": 2, "days": 2}
