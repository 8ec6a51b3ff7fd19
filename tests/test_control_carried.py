"""Candles over the death of the process that folds them: whenever it comes, a successor ends where an undisturbed process does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.think import carried as module
from control.think.carried import Carried, Carries
from hotpath.kernel import candles
from ipc import layout as l
from ipc import ring, segment

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
#: candles that are kept: few, so that they are written over
CAPACITY = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shm")


@pytest.fixture
def memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("TRADER_SHM", str(root))
    segment.create_all("carried", 1024, 8, 64)
    made = segment.Memory("carried")
    made.ticks.ring[0]["capacity"] = 1024
    yield made
    segment.remove("carried")


def publish(memory: Any, ticks: list[tuple[int, int, int]]) -> None:
    for after_s, instrument, price in ticks:
        row = np.zeros(1, l.TICK)
        kind = l.TICK_TRADE if price else l.TICK_SESSION
        row[0] = (0, START + after_s * SECOND, 0, instrument, kind, 0, 0, price, 5, 0, 0)
        ring.publish(memory.ticks.ring, memory.ticks.slots, row, 0)


def life(memory: Any, first: bool = False, candle_s: int = 10) -> Carried:
    return Carried(memory, candles.new_fold(memory, 2, candle_s, CAPACITY, 600), Carries.ANEW if first else Carries.ON)


def fold(one: Carried, until_s: float) -> None:
    while candles.run(one.fold, START + int(until_s * SECOND), 7, 0) == candles.MORE:
        pass


def seen(one: Carried, at_s: int) -> list[list[tuple[int, ...]]]:
    """What a plan at that time sees of each instrument."""
    found = []
    for number in range(2):
        out = np.zeros(CAPACITY, candles.CANDLE)
        count = candles.window(one.fold, number, START + at_s * SECOND, out)
        found.append([tuple(candle) for candle in out[:count].tolist()])
    return found


def ticks_of(seed: int, count: int = 300) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0, 1, 2, 5, 40], count, p=[0.3, 0.4, 0.2, 0.08, 0.02]))
    return [(int(time), int(rng.integers(0, 2)), int(rng.integers(90, 110)) if rng.random() > 0.01 else 0) for time in times]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1_000), deaths=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 29)), max_size=5))
def test_a_successor_sees_what_an_undisturbed_process_sees(seed: int, deaths: list[tuple[int, int]], memory: Any) -> None:
    """Deaths so many seconds behind a plan, in the middle of a candle as well; plans every 30 s."""
    memory.ticks.ring[0]["head"], memory.ticks.slots["seq"] = 0, 0
    ticks = ticks_of(seed)
    publish(memory, ticks)
    whole = Carried(memory, candles.new_fold(memory, 2, 10, CAPACITY, 600), Carries.NOT)
    one, later = life(memory, first=True), dict(deaths)
    for number in range(1, ticks[-1][0] // 30 + 1):
        for each in (whole, one):
            fold(each, number * 30)
        one.set_mark()
        assert seen(one, number * 30) == seen(whole, number * 30)
        if number in later:
            fold(one, number * 30 + later[number])  # it goes on, and dies before the next plan; its successor may be asked for the same one again
            one = life(memory)
            assert one.go_on()
            assert later[number] or seen(one, number * 30) == seen(whole, number * 30)


def test_there_is_nothing_to_go_on_with_in_a_first_life_under_another_configuration_or_when_the_ring_is_past_it(memory: Any) -> None:
    publish(memory, ticks_of(1))
    one = life(memory, first=True)
    assert not one.go_on()
    fold(one, 60)
    one.set_mark()
    assert not life(memory, candle_s=20).go_on()
    assert life(memory).go_on()
    assert not life(memory, first=True).go_on()
    one = life(memory)
    fold(one, 60)
    one.set_mark()
    publish(memory, [(20_000 + n, 0, 100) for n in range(1_500)])
    assert not life(memory).go_on(), "it would miss ticks, and not know which"


def test_a_mark_that_was_not_written_to_its_end_leaves_the_one_before(memory: Any) -> None:
    publish(memory, ticks_of(2))
    one = life(memory, first=True)
    for until_s in (30, 60, 90):
        fold(one, until_s)
        one.set_mark()
    older = int(one._marks["number"].argmin())
    one._marks[older]["number"], one._marks[older]["rows"]["newest"] = 0, 77
    successor = life(memory)
    assert successor.go_on()
    assert seen(successor, 90) == seen(one, 90)


def test_where_there_is_no_room_nothing_is_carried_and_all_goes_on(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    publish(memory, ticks_of(3))
    one = life(memory, first=True)
    fold(one, 60)
    one.set_mark()
    assert any(seen(one, 60))
    assert not life(memory).go_on()
    monkeypatch.undo()
    monkeypatch.setenv("TRADER_SHM", str(segment.instance_dir("carried").parent / "not there"))
    assert not life(memory, first=True).go_on()
