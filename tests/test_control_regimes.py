"""The regime that is filled in where a strategy names none: the analysis' own, and the same at any plan between two closes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.think.analysis.indicators import series
from control.think.analysis.regime import regime
from control.think.analysis.timeframes import resampled
from control.think.regimes import Regimes
from control.think.view import View
from hotpath.kernel import candles
from hotpath.venues.catalogue import resolve
from ipc import segment
from tests.strategist_scene import START, World, settle, worlds

SYMBOL = "BTC/USDT"
#: on a whole quarter of an hour
NOW = 1_700_001_000_000_000_000 // 900_000_000_000 * 900_000_000_000
TEN_S, KEPT = 10_000_000_000, 8_640


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[segment.Memory]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    segment.create_all("regimes", 1024, 1, 64)
    made = segment.Memory("regimes")
    made.instruments.instruments[:1] = resolve((SYMBOL,))
    made.board.run[0]["instruments"] = 1
    yield made
    segment.remove("regimes")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from worlds(tmp_path, monkeypatch)


def walk(count: int, drift_bps: float = 0.0, seed: int = 3) -> Any:
    """Candles of ten seconds around a random walk, in ticks."""
    steps = np.random.default_rng(seed).normal(drift_bps, 2.0, count)
    rows = np.zeros(count, candles.CANDLE)
    rows["close"] = np.rint(6_000_000 * np.exp(1e-4 * np.cumsum(steps)))
    rows["open"] = np.concatenate([[6_000_000], rows["close"][:-1]])
    rows["high"], rows["low"] = np.maximum(rows["open"], rows["close"]), np.minimum(rows["open"], rows["close"])
    rows["volume"] = rows["trades"] = 1
    return rows


def seen_by(memory: segment.Memory, rows: Any, now_ns: int, kept: int = KEPT) -> View:
    """A view whose session began with the first of these rows; the last of them ends at `now_ns`."""
    fold = candles.new_fold(memory, 1, 10, kept, 60)
    candles.begin_with(fold, 0, now_ns // TEN_S - len(rows), rows, len(rows), now_ns)
    return View(memory, fold, 10)


def told(view: View, now_ns: int, minutes: int = 15) -> str:
    return Regimes(view, minutes).of(SYMBOL, view.market(now_ns))


@pytest.mark.parametrize(("drift_bps", "name"), [(1.5, "trend_up"), (-1.5, "trend_down")])
def test_a_market_that_goes_one_way_is_a_trend(memory: segment.Memory, drift_bps: float, name: str) -> None:
    assert told(seen_by(memory, walk(KEPT, drift_bps), NOW), NOW) == name


def test_it_is_what_the_analysis_says_of_the_same_candles(memory: segment.Memory) -> None:
    found = set()
    for seed in range(40):
        view = seen_by(memory, walk(KEPT, seed=seed), NOW)
        of = resampled(view.market(NOW).candles(SYMBOL, 95 * 15), 15, NOW)
        assert of is not None
        assert len(of) == 95
        seen = regime(series(of))
        assert seen is not None
        assert told(view, NOW) == seen.name
        found.add(seen.name)
    assert found >= {"range", "trend_up", "trend_down"}


@pytest.mark.parametrize("began", [KEPT + 5, KEPT - 5, 3_000, 24 * 90 + 7])
def test_between_two_closes_it_is_the_same_whoever_asks_first(memory: segment.Memory, began: int) -> None:
    """Also where a day of candles slides out of what is kept meanwhile, and where one has just begun to be enough."""
    for seed in range(6):
        path = walk(began + 90, seed=seed)
        views = [(seen_by(memory, path[: began + later], NOW + later * TEN_S), NOW + later * TEN_S + past) for later in range(90)
                 for past in (0, TEN_S - 1)]
        assert len({told(view, now_ns) for view, now_ns in views}) == 1
        looked_at = {len(resampled(view.market(now_ns).candles(SYMBOL), 15, now_ns, Regimes(view, 15)._most) or ()) for view, now_ns in views}
        assert len(looked_at) == 1, "another number of candles may be another regime"


def test_it_is_told_once_between_two_closes_and_anew_behind_the_next(memory: segment.Memory) -> None:
    path = walk(KEPT + 90, 1.5)
    view = seen_by(memory, path[:KEPT], NOW)
    regimes, market = Regimes(view, 15), view.market(NOW)
    assert regimes.of(SYMBOL, market) == "trend_up"
    asked: list[str] = []
    watched = view.market(NOW + TEN_S)
    object.__setattr__(watched, "window", lambda symbol, count: asked.append(symbol))
    assert regimes.of(SYMBOL, watched) == "trend_up"
    assert asked == []
    later = seen_by(memory, walk(KEPT, -1.5), NOW + 90 * TEN_S)
    regimes._view = later
    assert regimes.of(SYMBOL, later.market(NOW + 90 * TEN_S)) == "trend_down"


def test_without_enough_candles_and_without_prices_there_is_none(memory: segment.Memory) -> None:
    assert told(seen_by(memory, walk(22 * 90), NOW), NOW) == ""
    assert told(seen_by(memory, walk(24 * 90), NOW), NOW) != ""
    assert told(seen_by(memory, walk(1_000), NOW, kept=100), NOW) == "", "not so many are kept"
    view = seen_by(memory, walk(KEPT), NOW)
    assert told(view, NOW + 61 * 1_000_000_000) == "", "its session is over"
    odd = View(memory, candles.new_fold(memory, 1, 7, KEPT, 60), 7)
    assert Regimes(odd, 15).of(SYMBOL, odd.market(NOW)) == "", "no whole number of candles"


def test_what_cannot_be_told_is_a_fault_of_the_plan_and_ends_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.strategy.write_text(PLAIN)
    strategist = world.strategist()

    def broken(*_: Any) -> str:
        raise ZeroDivisionError("no number")

    monkeypatch.setattr(Regimes, "of", broken)
    for after_s in (1, 31):
        world.tick(after_s)
        settle(strategist)
    assert not any(one.conditions for one in world.recorder.plans())
    assert "the regime of BTC/USDT cannot be told: no number" in strategist.planners[0].error


PLAIN = """
from control.think.strategy import Condition, Strategy, equity_bps

class Mine(Strategy):
    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol="BTC/USDT", side="buy", level="100.00", direction="up", size=equity_bps(100), confidence=0.5, stop_bps=50, why="x",
                          regime=named) for named in ("", "my_own")]
"""


def test_a_condition_gets_one_unless_its_strategy_has_named_its_own(world: World) -> None:
    world.strategy.write_text(PLAIN)
    strategist = world.strategist()
    fold = strategist.fold
    candles.begin_with(fold, 0, START // TEN_S - KEPT, walk(KEPT, 1.5), KEPT, START)
    world.tick(1)
    settle(strategist)
    world.tick(31)
    settle(strategist)
    plan = next(one for one in world.recorder.plans() if one.conditions)
    assert [one.regime for one in plan.conditions] == ["trend_up", "my_own"]
