"""The simulated market is a function of (seed, instrument, event time), and lively enough to trade in."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from hotpath.kernel import noise
from hotpath.venues import simulated
from hotpath.venues.catalogue import SIMULATED, resolve
from ipc import layout as l

#: an event time at the start of a bucket and of a minute
START = 1_750_000_020_000_000_000
SECOND = 1_000_000_000


def take(seed: int, symbols: tuple[str, ...], start_ns: int, seconds: int, rows: int = 4096) -> np.ndarray[Any, Any]:
    simulation = simulated.Simulation(seed, resolve(symbols), start_ns)
    ticks, marks, parts = np.zeros(rows, l.TICK), np.zeros((rows, 2), np.int64), []
    while not parts or parts[-1][-1]["event_ns"] < start_ns + seconds * SECOND:
        made = simulation.fill(ticks, marks)
        parts.append(ticks[:made].copy())
    whole = np.concatenate(parts)
    return whole[whole["event_ns"] < start_ns + seconds * SECOND]


def test_same_ticks_whenever_and_however_they_are_asked_for() -> None:
    whole = take(3, SIMULATED, START, 60)
    later = take(3, SIMULATED, START + 20 * SECOND, 40, rows=1024)
    assert (whole[whole["event_ns"] >= START + 20 * SECOND] == later).all()
    assert not np.array_equal(whole, take(4, SIMULATED, START, 60)[: len(whole)])


def test_ticks_of_an_instrument_do_not_depend_on_which_others_are_chosen() -> None:
    all_of_them, chosen = take(3, SIMULATED, START, 30), take(3, ("DOGE/USDT:USDT", "ETH/USDT"), START, 30)
    for number, symbol in enumerate(("DOGE/USDT:USDT", "ETH/USDT")):
        alone, among = chosen[chosen["instrument"] == number], all_of_them[all_of_them["instrument"] == SIMULATED.index(symbol)]
        assert len(alone) > 50
        for field in ("event_ns", "kind", "flags", "price", "lots", "ask_price", "ask_lots"):
            assert (alone[field] == among[field]).all()


def test_stream_is_in_order_with_a_clock_every_100_ms() -> None:
    ticks = take(5, SIMULATED, START, 60)
    assert (np.diff(ticks["event_ns"]) >= 0).all()
    clocks = ticks[ticks["kind"] == l.TICK_CLOCK]["event_ns"]
    assert clocks.tolist() == list(range(START, START + 60 * SECOND, 100_000_000))
    data = ticks[ticks["kind"] != l.TICK_CLOCK]
    assert 40 * 60 < len(data) < 150 * 60


def test_trade_lies_on_bid_or_ask_of_the_quote_before_it_and_spreads_vary() -> None:
    ticks = take(6, SIMULATED, START, 120)
    quotes: dict[int, Any] = {}
    spreads: dict[int, set[int]] = {}
    trades = 0
    for tick in ticks[ticks["kind"] != l.TICK_CLOCK]:
        number = int(tick["instrument"])
        if tick["kind"] == l.TICK_QUOTE:
            assert 0 < tick["price"] < tick["ask_price"]
            assert tick["lots"] > 0
            assert tick["ask_lots"] > 0
            quotes[number] = tick
            spreads.setdefault(number, set()).add(int(tick["ask_price"] - tick["price"]))
        else:
            trades += 1
            sold = bool(tick["flags"] & l.FLAG_BUYER_IS_MAKER)
            assert tick["price"] == quotes[number]["price" if sold else "ask_price"]
            assert 0 < tick["lots"] <= quotes[number]["lots" if sold else "ask_lots"]
    assert trades > 1000
    assert all(len(seen) > 1 for seen in spreads.values())


def test_arrivals_are_clustered_and_calm_alternates_with_bursts() -> None:
    candles = simulated.history(8, ("BTC/USDT",), START, 1440)["BTC/USDT"]
    trades = candles["trades"].astype(float)
    assert trades.var() > 5 * trades.mean(), "a Poisson process would have both equal"
    ranges = np.log(candles["high"] / candles["low"])
    assert np.percentile(ranges, 95) > 3 * np.percentile(ranges, 20)


def test_resume_goes_on_behind_any_tick() -> None:
    rows = resolve(SIMULATED)
    ticks, marks = np.zeros(1024, l.TICK), np.zeros((1024, 2), np.int64)
    made = simulated.Simulation(9, rows, START).fill(ticks, marks)
    for at in (0, 1, made // 2, made - 1):
        again, new_marks = np.zeros(1024, l.TICK), np.zeros((1024, 2), np.int64)
        row, count = simulated.Simulation(9, rows, 0).resume(int(marks[at, 0]), int(marks[at, 1]), again, new_marks)
        shared = min(made - at, count - row)
        assert (again[row : row + shared] == ticks[at : at + shared]).all()
        assert (new_marks[row : row + shared] == marks[at : at + shared]).all()


def test_history_is_the_candles_of_the_ticks() -> None:
    history = simulated.history(11, SIMULATED, START + 4 * 60 * SECOND + 17, 3)
    ticks = take(11, SIMULATED, START + 60 * SECOND, 180)
    for number, symbol in enumerate(SIMULATED):
        trades = ticks[(ticks["instrument"] == number) & (ticks["kind"] == l.TICK_TRADE)]
        for minute, candle in enumerate(history[symbol]):
            start = START + (minute + 1) * 60 * SECOND
            own = trades[(trades["event_ns"] >= start) & (trades["event_ns"] < start + 60 * SECOND)]
            assert candle["time_ns"] == start
            price = own["price"]
            assert candle.tolist()[1:] == (price[0], price.max(), price.min(), price[-1], own["lots"].sum(), len(own))


def test_history_keeps_the_order_of_the_symbols_and_takes_overridden_steps() -> None:
    rows = resolve(("DOGE/USDT:USDT", "BTC/USDT"))
    rows[1]["tick_exponent"] = -1
    history = simulated.history(1, ("BTC/USDT", "DOGE/USDT:USDT"), START, 5, rows)
    assert 300_000 < history["BTC/USDT"]["close"][0] < 1_200_000
    assert 5_000 < history["DOGE/USDT:USDT"]["close"][0] < 20_000
    with pytest.raises(ValueError, match="no LAYER/USDT:USDT; choose of"):
        simulated.history(1, ("LAYER/USDT:USDT",), START, 5, resolve(("LAYER/USDT:USDT",)))


def test_every_symbol_breaks_out_and_reverts_several_times_an_hour() -> None:
    volatilities = []
    for symbol, candles in simulated.history(12, SIMULATED, START, 1440).items():
        close, high, low = (candles[name].astype(float) for name in ("close", "high", "low"))
        returns = np.diff(np.log(close))
        volatility = returns.std() * np.sqrt(365.25 * 1440)
        assert 0.35 < volatility < 2.0, symbol
        volatilities.append(round(float(volatility), 3))
        above = np.array([close[at] > high[at - 5 : at].max() for at in range(5, len(close))])
        below = np.array([close[at] < low[at - 5 : at].min() for at in range(5, len(close))])
        assert above.sum() / 24 > 3, symbol
        assert below.sum() / 24 > 3, symbol
        mean = np.convolve(close, np.ones(20) / 20, "valid")
        stretch = np.abs(close[19:] - mean) / np.array([close[at - 19 : at + 1].std() for at in range(19, len(close))])
        assert (np.diff((stretch > 1.8).astype(int)) == 1).sum() / 24 > 2, symbol
        assert (np.abs(returns) > 4 * returns.std()).any(), symbol
    assert max(volatilities) > 1.8 * min(volatilities)


def test_perpetual_follows_its_base_within_some_bps() -> None:
    history = simulated.history(13, ("BTC/USDT", "BTC/USDT:USDT"), START, 240)
    basis = np.log(history["BTC/USDT:USDT"]["close"] * 0.1 / (history["BTC/USDT"]["close"] * 0.01))
    assert np.abs(basis).max() < 0.003
    assert basis.std() > 0.00005


def test_a_day_of_history_is_quick() -> None:
    simulated.history(14, SIMULATED, START, 1)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        simulated.history(14, SIMULATED, START, 1440)
        took.append(time.perf_counter() - began)
    assert min(took) < 1.5, f"{min(took):.2f} s; 0.4 s were measured on an idle 2-core machine"


def test_noise_has_the_variance_that_the_scaling_counts_on() -> None:
    bits = [noise.draw(1, 2, 3, index) for index in range(20_000)]
    values = np.array([noise.gauss(np.uint64(value)) for value in bits])
    assert abs(values.mean()) < 0.03
    assert abs(values.var() - 1) < 0.05
