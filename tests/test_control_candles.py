"""Ticks → candles: the kernel against a slow, obvious oracle, and its reading of a real ring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.think.history import resampled
from hotpath.kernel import candles
from hotpath.venues.simulated import CANDLE as MINUTE
from ipc import layout as l
from ipc import ring, segment

SECOND = 1_000_000_000
GAP_S, CANDLE_S, CAPACITY = 60, 10, 8


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    segment.create_all("candles", 1024, 8, 64)
    made = segment.Memory("candles")
    made.ticks.ring[0]["capacity"] = 1024
    yield made
    segment.remove("candles")


def tick(event_ns: int, kind: int, instrument: int = l.NO_INSTRUMENT, price: int = 0, lots: int = 0, flags: int = 0) -> Any:
    row = np.zeros(1, l.TICK)
    row[0] = (0, event_ns, 0, instrument, kind, flags, 0, price, lots, price + 1, lots)
    return row


def oracle(ticks: list[Any], instrument: int, due_ns: int, most: int) -> list[tuple[int, ...]]:
    """Candles by the words of the module: collect the session's trades, then look at each bucket."""
    trades: list[tuple[int, int, int]] = []
    seen = 0
    for row in ticks:
        at, kind = int(row["event_ns"][0]), int(row["kind"][0])
        if kind == l.TICK_SESSION:
            trades = []
        if int(row["instrument"][0]) != instrument:
            continue
        if seen and at - seen > GAP_S * SECOND:
            trades = []
        seen = at
        if kind == l.TICK_TRADE and not int(row["flags"][0]) & l.FLAG_NOT_MARKET:
            trades.append((at // (CANDLE_S * SECOND), int(row["price"][0]), int(row["lots"][0])))
    if not trades or due_ns - seen > GAP_S * SECOND:
        return []
    last = due_ns // (CANDLE_S * SECOND) - 1
    # a trade in the bucket of `due` itself has overwritten the oldest slot
    newest = max(last, trades[-1][0])
    out, close = [], 0
    for bucket in range(trades[0][0], last + 1):
        inside = [trade for trade in trades if trade[0] == bucket]
        if inside:
            prices = [price for _, price, _ in inside]
            out.append((prices[0], max(prices), min(prices), prices[-1], sum(lots for *_, lots in inside), len(inside)))
            close = prices[-1]
        else:
            out.append((close, close, close, close, 0, 0))
    kept = min(most, CAPACITY - (newest - last))
    return out[-kept:] if kept > 0 else []


steps = st.tuples(
    st.sampled_from([0, 1, SECOND // 3, SECOND, 7 * SECOND, 25 * SECOND, 59 * SECOND, 60 * SECOND, 61 * SECOND, 400 * SECOND]),
    st.sampled_from(["trade", "trade", "trade", "quote", "clock", "session", "insurance"]),
    st.integers(0, 1), st.integers(1, 50), st.integers(1, 9))


def made_of(plan: list[tuple[int, str, int, int, int]]) -> list[Any]:
    now, out = 1_700_000_000 * SECOND, []
    for step, kind, instrument, price, lots in plan:
        now += step
        match kind:
            case "trade":
                out.append(tick(now, l.TICK_TRADE, instrument, price, lots))
            case "insurance":
                out.append(tick(now, l.TICK_TRADE, instrument, 10_000, lots, l.FLAG_NOT_MARKET))
            case "quote":
                out.append(tick(now, l.TICK_QUOTE, instrument, price, lots))
            case "clock":
                out.append(tick(now, l.TICK_CLOCK))
            case _:
                out.append(tick(now, l.TICK_SESSION))
    return out


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=60), st.integers(1, 10), st.integers(0, 70))
def test_candles_equal_those_of_a_slow_oracle(memory: Any, plan: list[Any], most: int, later_s: int) -> None:
    ticks = made_of(plan)
    fold = candles.new_fold(memory, 2, CANDLE_S, CAPACITY, GAP_S)
    for row in ticks:
        fold.tick[0] = row[0]
        candles.fold_tick(fold)
    due = int(ticks[-1]["event_ns"][0]) + later_s * SECOND
    for instrument in range(2):
        out = np.zeros(most, candles.CANDLE)
        count = candles.window(fold, instrument, due, out)
        assert [tuple(row) for row in out[:count].tolist()] == oracle(ticks, instrument, due, most)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=2, max_size=60))
def test_looking_at_candles_between_ticks_changes_nothing(memory: Any, plan: list[Any]) -> None:
    plain, looked = (candles.new_fold(memory, 2, CANDLE_S, CAPACITY, GAP_S) for _ in range(2))
    out = np.zeros(CAPACITY, candles.CANDLE)
    for row in made_of(plan):
        for fold in (plain, looked):
            fold.tick[0] = row[0]
            candles.fold_tick(fold)
        for instrument in range(2):
            candles.window(looked, instrument, int(row["event_ns"][0]), out)
    due = int(row["event_ns"][0]) + 15 * SECOND
    for instrument in range(2):
        other = np.zeros(CAPACITY, candles.CANDLE)
        count = candles.window(plain, instrument, due, out)
        assert candles.window(looked, instrument, due, other) == count
        assert (out[:count] == other[:count]).all()


def publish(memory: Any, rows: list[Any]) -> None:
    for row in rows:
        ring.publish(memory.ticks.ring, memory.ticks.slots, row, 0)


def test_run_stops_before_the_first_tick_at_the_due_time(memory: Any) -> None:
    start = 1_700_000_000 * SECOND
    publish(memory, [tick(start, l.TICK_TRADE, 0, 5, 1), tick(start + 10 * SECOND, l.TICK_TRADE, 0, 99, 1)])
    fold = candles.new_fold(memory, 2, CANDLE_S, CAPACITY, GAP_S)
    assert candles.run(fold, start + 10 * SECOND, 100, 0) == candles.DUE
    assert fold.state[0]["next"] == 2
    assert fold.state[0]["due_event_ns"] == start + 10 * SECOND
    assert ring.cursor(memory.ticks.readers, l.STRATEGIST) == 1
    assert fold.rows[0]["last"] == 5
    out = np.zeros(4, candles.CANDLE)
    assert candles.window(fold, 0, start + 10 * SECOND, out) == 1
    assert out[0]["close"] == 5
    assert candles.run(fold, start + 20 * SECOND, 100, 0) == candles.IDLE
    assert ring.cursor(memory.ticks.readers, l.STRATEGIST) == 2
    assert fold.rows[0]["last"] == 99
    assert memory.board.processes[l.STRATEGIST]["metrics"][0] == 2


def test_a_lapped_reader_counts_what_it_lost_and_goes_on(memory: Any) -> None:
    start = 1_700_000_000 * SECOND
    publish(memory, [tick(start + n, l.TICK_TRADE, 0, n + 1, 1) for n in range(3000)])
    fold = candles.new_fold(memory, 2, CANDLE_S, CAPACITY, GAP_S)
    while candles.run(fold, 1 << 62, 100, 0) != candles.IDLE:
        pass
    state = fold.state[0]
    assert state["ticks"] + state["lost"] == 3000
    assert state["lost"] == 3000 - 1024 + 1
    assert fold.rows[0]["last"] == 3000


def test_a_reader_that_starts_again_does_not_move_the_cursor_back(memory: Any) -> None:
    start = 1_700_000_000 * SECOND
    publish(memory, [tick(start + n, l.TICK_TRADE, 0, 5, 1) for n in range(300)])
    ring.advance(memory.ticks.readers, l.STRATEGIST, 250)
    fold = candles.new_fold(memory, 2, CANDLE_S, CAPACITY, GAP_S)
    candles.run(fold, 1 << 62, 100, 0)
    assert ring.cursor(memory.ticks.readers, l.STRATEGIST) == 250


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(100, 200), min_size=1, max_size=9), min_size=1, max_size=12),
       st.sampled_from([1, 5, 10, 15, 20, 30, 60, 120, 300]), st.integers(0, 4))
def test_resampled_history_keeps_prices_and_volume(paths: list[list[int]], candle_s: int, offset: int) -> None:
    minutes = np.zeros(len(paths), MINUTE)
    for number, path in enumerate(paths):
        minutes[number] = ((28_000_000 + offset + number) * 60 * SECOND, path[0], max(path), min(path), path[-1], sum(path), len(path))
    first, made = resampled(minutes, candle_s)
    if candle_s < 60:
        parts = made.reshape(len(paths), -1)
        assert first == (28_000_000 + offset) * 60 // candle_s
        for minute, part in zip(minutes, parts, strict=True):
            assert (part["open"][0], part["high"].max(), part["low"].min(), part["close"][-1]) == tuple(minute)[1:5]
            assert (part["volume"].sum(), part["trades"].sum()) == tuple(minute)[5:]
            assert (part["close"][:-1] == part["open"][1:]).all()
    else:
        whole = minutes[minutes["time_ns"] >= first * candle_s * SECOND] if len(made) else minutes[:0]
        assert made["volume"].sum() == whole["volume"].sum()
        if len(made):
            assert (made["high"].max(), made["low"].min()) == (whole["high"].max(), whole["low"].min())
            assert (made["open"][0], made["close"][-1]) == (whole["open"][0], whole["close"][-1])
    assert (made["high"] >= np.maximum(made["open"], made["close"])).all()
    assert (made["low"] <= np.minimum(made["open"], made["close"])).all()


def test_generated_history_is_continued_by_ticks(memory: Any) -> None:
    fold = candles.new_fold(memory, 1, CANDLE_S, CAPACITY, GAP_S)
    made = np.zeros(20, candles.CANDLE)
    made["close"] = np.arange(20)
    start = 20 * CANDLE_S * SECOND
    candles.begin_with(fold, 0, 0, made, len(made), start)
    fold.tick[0] = tick(start + 12 * SECOND, l.TICK_TRADE, 0, 77, 3)[0]
    candles.fold_tick(fold)
    out = np.zeros(CAPACITY, candles.CANDLE)
    assert candles.window(fold, 0, start + 20 * SECOND, out) == CAPACITY
    assert out["close"].tolist() == [14, 15, 16, 17, 18, 19, 19, 77]
