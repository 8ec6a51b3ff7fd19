"""What strategies are given to see, made from shared memory: the account over all strategies, fees, and candles of one symbol at a time."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from control.think.view import View
from hotpath.config import Instrument, Paper
from hotpath.kernel import candles
from hotpath.venues.catalogue import resolve
from ipc import layout as l
from ipc import segment
from ipc.bundle import Bundle

SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT")
NOW = 1_700_006_400_000_000_000
DAY_CANDLES = 8_640

Made = Callable[..., tuple[segment.Memory, View]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))

    def make(symbols: tuple[str, ...] = SYMBOLS, history: int = 2, paper: Paper = Paper()) -> tuple[segment.Memory, View]:  # noqa: B008 (frozen)
        segment.create_all("seen", 1024, len(symbols), 64)
        memory = segment.Memory("seen")
        rows = resolve(symbols, {symbol: Instrument(tick_size="0.1", lot_size="0.001") for symbol in symbols}, paper)
        memory.instruments.instruments[: len(rows)] = rows
        memory.board.run[0]["instruments"] = len(rows)
        fold = candles.new_fold(memory, len(rows), 10, history, 60)
        if history > 2:
            filled(fold, len(rows), history)
        return memory, View(memory, fold, 10)

    yield make
    segment.remove("seen")


def filled(fold: Bundle, instruments: int, history: int) -> None:
    """A day of candles of every instrument."""
    rows = np.zeros(history, candles.CANDLE)
    for name in ("open", "high", "low", "close", "volume", "trades"):
        rows[name] = 1_000
    for number in range(instruments):
        candles.begin_with(fold, number, NOW // 10_000_000_000 - history, rows, history, NOW)


def test_fees_are_those_of_the_instruments(made: Made) -> None:
    _, view = made(paper=Paper(spot_taker_fee_bps=25.0, perpetual_taker_fee_bps=4.5))
    assert {symbol: facts.fee_bps for symbol, facts in view.facts.items()} == {"BTC/USDT": 25.0, "BTC/USDT:USDT": 4.5}


def test_exposure_and_open_risk_are_of_the_whole_account_and_positions_of_one_strategy(made: Made) -> None:
    memory, view = made()
    account, states, positions = memory.sniper.account[0], memory.sniper.instrument_states, memory.sniper.positions
    account["equity"], account["day_start_equity"] = 9_900 * 10**8, 10_000 * 10**8
    states[0]["last"], states[0]["exposure_lots"] = 600_000, 5  # 60,000.0 and 0.005 BTC
    states[1]["bid"], states[1]["ask"], states[1]["exposure_lots"], states[1]["working_lots"] = 599_000, 600_000, 10, 4
    for row, side, lots, stop in ((0, 1, 2, 590_000), (1, 1, 3, 0), (l.MAX_STRATEGIES, -1, 10, 606_000), (l.MAX_STRATEGIES + 2, 1, 0, 0)):
        positions[row]["state"], positions[row]["side"], positions[row]["lots"], positions[row]["stop_price"] = l.POS_OPEN, side, lots, stop
        positions[row]["entry_lots"], positions[row]["entry_quote"] = max(1, lots), 1
    seen = view.portfolio(0)
    assert dict(seen.exposure) == {"BTC/USDT": pytest.approx(300.0), "BTC/USDT:USDT": pytest.approx(840.0)}
    assert seen.open_risk == pytest.approx(2 * 0.001 * 1_000 + 10 * 0.001 * 600), "the one without a stop is not in it"
    assert (seen.equity, seen.day_start_equity) == (9_900, 10_000)
    assert set(seen.positions) == {"BTC/USDT", "BTC/USDT:USDT"}
    assert set(view.portfolio(1).positions) == {"BTC/USDT"}
    assert view.portfolio(1).exposure == seen.exposure


def test_nothing_open_is_no_exposure_and_no_risk(made: Made) -> None:
    _, view = made()
    seen = view.portfolio(0)
    assert (dict(seen.exposure), seen.open_risk, seen.day_start_equity) == ({}, 0.0, 0.0)


def test_candles_are_held_of_one_symbol_at_a_time_and_are_the_same_when_asked_for_again(made: Made) -> None:
    _, view = made(history=DAY_CANDLES)
    market = view.market(NOW)
    first = market.candles("BTC/USDT")
    assert market.candles("BTC/USDT") is first
    assert len(market.candles("BTC/USDT", 60)) == 360
    assert market.candles("BTC/USDT") is first
    alive = weakref.ref(first)
    del first
    assert len(market.candles("BTC/USDT:USDT")) == DAY_CANDLES
    assert alive() is None


def test_going_through_fifty_symbols_takes_the_memory_of_one(made: Made) -> None:
    symbols = tuple(f"C{number}/USDT:USDT" for number in range(50))
    _, view = made(symbols, DAY_CANDLES)
    market = view.market(NOW)
    market.candles(symbols[0])
    tracemalloc.start()
    for symbol in symbols:
        assert len(market.candles(symbol)) == DAY_CANDLES
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6, f"{peak / 1e6:.1f} MB"
