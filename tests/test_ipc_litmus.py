"""Rings and doorbells between two real processes on real shared memory: no torn record, no lost wake-up, no uncounted loss.

Each promise is tested twice: the product's own code keeps it, and the same litmus catches a variant that does not.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from ipc import layout as l
from ipc import segment, wait
from tests.litmus import (
    HESITANT,
    LOOKED_BEFORE,
    ONE_LOOK,
    POLLED,
    PUBLISHED,
    RUNG_AFTER,
    SLOWLY,
    UNMARKED,
    Partner,
    play_read_gated,
)

#: tests in which something goes wrong only while two processes truly run at the same time
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else False,
                                     reason="a race needs two cores")


@pytest.fixture(scope="module")
def partners() -> Iterator[tuple[Partner, Partner]]:
    """Two processes, ready to play, each on a core of its own however busy both are; the second starts when the first has compiled what both need."""
    first = Partner()
    try:
        first.hear(120)
        second = Partner()
        try:
            second.hear(60)
            if hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(first.process.pid, {cores[0]})
                os.sched_setaffinity(second.process.pid, {cores[-1]})
            yield first, second
        finally:
            second.close()
    finally:
        first.close()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An instance in the machine's real shared memory."""
    monkeypatch.delenv("TRADER_SHM", raising=False)
    name = f"litmus-{uuid.uuid4().hex[:8]}"
    segment.create_all(name, ticks=1024, instruments=1, conditions=8)
    yield segment.Memory(name)
    segment.remove(name)


def lapping(partners: tuple[Partner, Partner], shared: Any, capacity: int, written: int, read: int, *, write_pauses: int = 0, read_pauses: int = 0,
            wanted: int = 20_000) -> tuple[dict[str, int], dict[str, int]]:
    """(writer's, reader's counts) of a writer that asks nobody and a reader that it laps."""
    shared.ticks.ring[0]["capacity"] = capacity
    writer, reader = partners
    writer.tell("write", shared.instance, way=written, pauses=write_pauses, seconds=1.0)
    reader.tell("read", shared.instance, way=read, pauses=read_pauses, wanted=wanted, seconds=1.0)
    return writer.hear(), reader.hear()


# ── torn slots, lapping ──────────────────────────────────────────────────────────────────────────────────────────────
@needs_two_cores
@pytest.mark.parametrize("capacity", [8, 1024])
def test_no_record_is_torn_and_every_lost_one_is_counted_when_the_writer_laps_the_reader(
        partners: tuple[Partner, Partner], shared: Any, capacity: int) -> None:
    wrote, got = lapping(partners, shared, capacity, PUBLISHED, POLLED, wanted=500_000)
    assert wrote["published"] > 100_000, "a second on a machine with other work"
    assert got["lapped"] > 0
    assert got["accepted"] > capacity
    assert got["torn"] == 0
    assert got["accepted"] + got["lost"] == wrote["published"]


def test_a_slow_reader_counts_exactly_what_it_lost(partners: tuple[Partner, Partner], shared: Any) -> None:
    wrote, got = lapping(partners, shared, 64, PUBLISHED, POLLED, read_pauses=100)
    assert got["lost"] > 64
    assert got["torn"] == 0
    assert got["accepted"] + got["lost"] == wrote["published"]


@needs_two_cores
@pytest.mark.parametrize(("read", "read_pauses"), [(POLLED, 30), (HESITANT, 25)])
def test_no_record_is_torn_when_writing_and_reading_one_takes_long(
        partners: tuple[Partner, Partner], shared: Any, read: int, read_pauses: int) -> None:
    wrote, got = lapping(partners, shared, 8, SLOWLY, read, write_pauses=20, read_pauses=read_pauses)
    assert got["lapped"] > 0
    assert got["torn"] == 0
    assert got["accepted"] + got["lost"] == wrote["published"]


@needs_two_cores
def test_the_litmus_catches_a_writer_that_does_not_mark_the_slot_as_busy(partners: tuple[Partner, Partner], shared: Any) -> None:
    _, got = lapping(partners, shared, 8, UNMARKED, POLLED, write_pauses=20, read_pauses=30)
    assert got["torn"] > 0


@needs_two_cores
def test_the_litmus_catches_a_reader_without_a_second_look(partners: tuple[Partner, Partner], shared: Any) -> None:
    _, got = lapping(partners, shared, 8, SLOWLY, ONE_LOOK, write_pauses=20, read_pauses=25)
    assert got["torn"] > 0


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_gated_writer_never_passes_the_slowest_reader_over_many_wraps(partners: tuple[Partner, Partner], shared: Any) -> None:
    count, ticks = 60_000, shared.ticks
    ticks.ring[0]["capacity"] = 64
    for role in (l.SNIPER, l.GATEWAY):
        ticks.readers[role]["active"] = 1
    assert ticks.readers[l.STRATEGIST]["active"] == 0, "a reader that is not active and stays at 0 holds nobody back"
    writer, fast = partners
    fast.tell("read_gated", shared.instance, role=l.SNIPER, count=count, pauses=0, seconds=10)
    writer.tell("write_gated", shared.instance, count=count, others=1 << l.SNIPER | 1 << l.GATEWAY, seconds=10)
    slow = play_read_gated(shared, l.GATEWAY, count, pauses=200, seconds=10)
    wrote = writer.hear()
    assert wrote["published"] == count
    assert wrote["waited"] > 0, "the gate was never closed"
    assert fast.hear() == slow == {"accepted": count, "lapped": 0, "torn": 0, "beyond": 0}
    assert ticks.readers[l.STRATEGIST]["cursor"] == 0


# ── lost wake-ups ────────────────────────────────────────────────────────────────────────────────────────────────────
def ping_pong(partners: tuple[Partner, Partner], shared: Any, rounds: int, *, spins: int, way: int = RUNG_AFTER, jitter: tuple[int, int],
              timeout_ns: int = wait.MAX_SLEEP_NS) -> tuple[dict[str, int], dict[str, int]]:
    """(writer's, reader's counts) of rounds of publish, ring, sleep; they end after a second at the latest."""
    shared.ticks.ring[0]["capacity"] = 64
    writer, reader = partners
    reader.tell("pong", shared.instance, rounds=rounds, jitter=jitter[1], timeout_ns=timeout_ns, seconds=1.0)
    writer.tell("ping", shared.instance, rounds=rounds, jitter=jitter[0], spins=spins, way=way, timeout_ns=timeout_ns, seconds=1.0)
    return writer.hear(), reader.hear()


def in_bound(counts: dict[str, int]) -> bool:
    """No sleep outlasted its bound, give or take what a busy machine lets a process wait for a core."""
    return counts["longest_ns"] < wait.MAX_SLEEP_NS + 1_000_000_000


@needs_two_cores
def test_no_wake_up_is_lost_when_publishing_meets_falling_asleep(partners: tuple[Partner, Partner], shared: Any) -> None:
    rounds = sleeps = second_looks = 0
    for _ in range(20):  # until enough is seen, on a machine with other work too
        wrote, got = ping_pong(partners, shared, 100_000, spins=1 << 18, jitter=(10, 30))
        assert (wrote["lost"], got["lost"]) == (0, 0)
        assert in_bound(got)
        rounds, sleeps, second_looks = rounds + wrote["rounds"], sleeps + got["sleeps"], second_looks + got["second_looks"]
        if rounds > 10_000 and sleeps > 100 and second_looks > 10:
            return
    pytest.fail(f"publishing hardly met falling asleep, nothing is proved: {rounds} rounds, {sleeps} sleeps, {second_looks} second looks")


def test_no_wake_up_is_lost_when_both_sides_sleep(partners: tuple[Partner, Partner], shared: Any) -> None:
    sleeps = 0
    for _ in range(20):
        wrote, got = ping_pong(partners, shared, 50_000, spins=0, jitter=(20, 20))
        assert (wrote["lost"], got["lost"]) == (0, 0)
        assert in_bound(wrote)
        assert in_bound(got)
        sleeps += min(wrote["sleeps"], got["sleeps"])
        if sleeps > 1000:
            return
    pytest.fail(f"both sides hardly slept, nothing is proved: {sleeps} sleeps")


@needs_two_cores
def test_the_litmus_catches_a_writer_that_looks_at_the_bell_before_it_publishes(partners: tuple[Partner, Partner], shared: Any) -> None:
    for _ in range(20):  # on a machine with other work the two may miss each other for a while
        _, got = ping_pong(partners, shared, 100_000, spins=1 << 18, way=LOOKED_BEFORE, jitter=(50, 20), timeout_ns=20_000_000)
        if got["lost"]:
            break
    assert got["lost"] > 0
    assert in_bound(got), "even a lost wake-up costs no more than the longest sleep"
