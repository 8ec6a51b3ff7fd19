"""The feed is gone and stays away: what works at the venue is cancelled once its price is stale, and a position is left when its time is over.

Without ticks no level is tested, so that nothing fires by itself; what could still open a position is an entry order that works.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc import layout as l
from ipc.segment import Memory
from tests.bad_input import STRATEGIES
from tests.running import Running, until
from tests.test_system_deaths import PATIENT, missed_behind, monitored, sound

#: limits.max_quote_age_ms here, and after how long without a tick time goes on without the feed; event time runs as fast as the clock on the wall
AGE_NS, SILENCE_NS = 2_000_000_000, 1_000_000_000
#: what a busy machine may add to a look that is made every 50 ms
LATE_NS = 1_000_000_000
LIMITS = "[limits]\nmax_entries_per_day = 100000\nmax_quote_age_ms = 2000\n"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, LIMITS + PATIENT)
    shutil.copy(STRATEGIES, tmp_path)
    made.start("--symbols", "BTC/USDT,ETH/USDT", "--strategy", f"{tmp_path / STRATEGIES.name}:Patient", speed="1")
    yield made
    made.end()


def records(instance: Running, after: tuple[int, int], *kinds: int) -> list[Any]:
    """Order-ring records behind a position of the journal."""
    journal = instance.journal()
    try:
        return [record.row for record in journal.orders(after) if record.row["kind"] in kinds]
    finally:
        journal.close()


def ends(instance: Running, order_seq: int) -> list[int]:
    """Kinds of the reports that end an order."""
    journal = instance.journal()
    try:
        return [int(record.row["kind"]) for record in journal.reports()
                if int(record.row["order_seq"]) == order_seq and record.row["kind"] in (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)]
    finally:
        journal.close()


def resting(memory: Memory) -> list[Any]:
    """Working entries that nobody has asked to cancel."""
    rows = memory.sniper.working.copy()
    return [row for row in rows if row["order_seq"] and row["purpose"] == l.ENTRY and row["order_type"] == l.LIMIT and not row["cancel_seq"]]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_an_entry_that_works_ends_when_its_price_is_stale_and_a_position_when_its_time_is_over(how: str, instance: Running) -> None:
    memory = Memory(instance.name)
    until(lambda: resting(memory) and monitored(instance), 60, "an entry that rests, and a position")
    forkserver, feed = instance.forkserver(), int(instance.row("feed")["pid"])
    if how == "killed":  # nobody can be born before the forkserver is given up, which takes ten seconds
        os.kill(forkserver, signal.SIGSTOP)
        os.kill(feed, signal.SIGKILL)
    else:
        os.kill(feed, signal.SIGSTOP)
    try:
        time.sleep(0.3)  # what was published has been taken, and journaled
        mark, held, (entry, *more) = instance.last_order(), monitored(instance), resting(memory)
        ticks, head = instance.status()["ticks"], int(memory.ticks.ring[0]["head"])
        assert held, "its time is six seconds"
        assert not more
        until(lambda: ends(instance, int(entry["order_seq"])), 20, "the entry is ended, at the venue")
        until(lambda: not monitored(instance), 20, "the position's time is over")
        assert (int(memory.ticks.ring[0]["head"]), instance.status()["ticks"]) == (head, ticks), "no feed has come back meanwhile"
        last_ns = int(memory.ticks.slots[head & (len(memory.ticks.slots) - 1)]["event_ns"])
        assert resting(memory) == []
    finally:
        os.kill(forkserver if how == "killed" else feed, signal.SIGCONT)
    assert ends(instance, int(entry["order_seq"])) == [l.CANCELLED]
    away = [row for row in records(instance, mark, l.NEW, l.CANCEL, l.TIMER) if int(row["event_ns"]) <= last_ns]
    assert [int(row["order_seq"]) for row in away if row["kind"] == l.CANCEL] == [int(entry["order_seq"])]
    cancelled = next(at for at, row in enumerate(away) if row["kind"] == l.CANCEL)
    ahead_ns = max(int(row["value"]) for row in away[:cancelled] if row["kind"] == l.TIMER)
    assert AGE_NS < ahead_ns <= AGE_NS + LATE_NS, "how far the clock was ahead of the last tick, once it went on by itself"
    orders = [row for row in away if row["kind"] == l.NEW]
    assert {int(row["purpose"]) for row in orders} == {l.EXIT}, "nothing is opened"
    assert {int(row["code"]) for row in orders} == {l.EXIT_TIME}
    assert {str(int(row["position_id"])) for row in orders} == {row["id"] for row in held}
    until(lambda: instance.status()["ticks"] > ticks + 50, 40, "ticks again")
    if how == "killed":
        assert [int(row["code"]) for row in missed_behind(instance, mark)] == [l.MISSED_FEED]
    until(lambda: resting(memory), 40, "entries again")
    sound(instance)
