"""What goes on while one process stands still, and what does not: each is stopped for a while (SIGSTOP, its hang limit far away), then goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc import layout as l
from ipc import ring
from ipc.segment import Memory
from tests.running import BUSY, Running, until

#: nobody is replaced while it stands still
PATIENT = """
[supervise]
hang_recorder_ms = 600000
hang_gateway_ms = 600000
hang_sniper_ms = 600000
hang_feed_ms = 600000
hang_reflection_ms = 600000
hang_strategist_ms = 600000
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, BUSY + PATIENT)
    made.start()
    yield made
    made.end()


@contextmanager
def standing_still(instance: Running, *roles: str) -> Iterator[None]:
    pids = [instance.kill(role, signal.SIGSTOP) for role in roles]
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def monitored(instance: Running) -> list[dict[str, Any]]:
    return [row for row in instance.ctl("positions")[1].get("rows", []) if row["state"] == "monitoring"]


def sound(instance: Running) -> None:
    """An ordered stop, and books in order."""
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.summary()["ticks_lost"] == 0
    assert instance.faults() == []
    instance.leaves_nothing()


def new_orders(instance: Running, after: tuple[int, int], purpose: int) -> list[Any]:
    """NEW records behind a position of the journal, with the terminal report of each."""
    journal = instance.journal()
    try:
        wanted = [record.row for record in journal.orders(after) if record.row["kind"] == l.NEW and record.row["purpose"] == purpose]
        ends: dict[int, set[int]] = {}
        for record in journal.reports():
            ends.setdefault(int(record.row["order_seq"]), set()).add(int(record.row["kind"]))
        return [(int(row["event_ns"]), ends.get(int(row["seq"]), set())) for row in wanted]
    finally:
        journal.close()


def test_without_a_recorder_ticks_and_exits_go_on_and_nothing_is_opened(instance: Running) -> None:
    position = until(lambda: monitored(instance), 40, "an open position")[0]
    mark = instance.last_order()
    with standing_still(instance, "recorder"):
        began = instance.status()
        time.sleep(1.5)  # entries that were sent with the last commit fill; later ones are given up after a second
        settled = instance.status()
        instance.ctl("close", position["id"])
        until(lambda: position["id"] not in {row["id"] for row in instance.ctl("positions")[1]["rows"]}, 10, "an exit that the journal does not have")
        now = until(lambda: (seen := instance.status())["ticks"] > began["ticks"] + 1_500 and seen, 30, "ticks go on")
        assert now["entries_today"] >= settled["entries_today"], "the sniper decides on"
        time.sleep(1.5)  # those that it decided until now are given up, too, before the recorder goes on
    until(lambda: instance.last_order() > mark, 10, "the journal goes on")
    until(instance.last_fill_ns, 10, "fills are journaled")
    entries = [(when, ends) for when, ends in new_orders(instance, mark, l.ENTRY) if settled["event_ns"] <= when < now["event_ns"]]
    assert all(l.FILL not in ends for _, ends in entries), "nothing was opened that is not journaled"
    sound(instance)


def test_without_a_recorder_and_without_waiting_for_it_entries_stop_at_the_rings_reserve_and_exits_go_on(tmp_path: Path) -> None:
    # what is armed when nothing more can be planned does not expire before it fires
    instance = Running(tmp_path, BUSY + "valid_for_s = 7200\n" + PATIENT + "[hotpath]\ndurable_before_entry = false\n")
    try:
        instance.start()
        until(lambda: monitored(instance), 40, "an open position")
        orders = Memory(instance.name).orders
        with standing_still(instance, "recorder"):
            # thousands of records fit in: it counts as that much farther behind, until it says itself where it is
            orders.readers[l.RECORDER]["cursor"] = int(ring.head(orders.ring)) - (l.RING_SLOTS - l.RING_SLOTS // 4)
            time.sleep(0.2)  # a step that had looked before is over
            began = instance.status()
            until(lambda: instance.ctl("stats")[1]["data"]["refusals"].get("ring_reserve"), 60, "an entry is refused for the ring's sake")
            until(lambda: instance.status()["trades_closed"] > began["trades_closed"], 30, "an exit, though nothing but the reserve is left")
            now = until(lambda: (seen := instance.status())["ticks"] > began["ticks"] + 1_500 and seen, 30, "ticks go on")
            assert now["entries_today"] == began["entries_today"], "nothing is opened"
        until(lambda: instance.status()["entries_today"] > now["entries_today"], 40, "entries again, as soon as it has caught up")
        sound(instance)
    finally:
        instance.end()


def test_a_feed_that_stands_still_is_told_by_health_and_ticks_go_on_with_it(instance: Running) -> None:  # entries: test_system_no_feed.py
    until(instance.last_fill_ns, 40, "a first fill")
    with standing_still(instance, "feed"):
        time.sleep(0.5)
        after = instance.status()
        time.sleep(2.0)
        assert instance.status()["ticks"] == after["ticks"]
        health = instance.ctl("health")[1]
        assert next(row for row in health["rows"] if row["role"] == "feed")["metrics"]["last_tick_age_ms"] > 1_500
    until(lambda: instance.status()["ticks"] > after["ticks"] + 1_500, 20, "ticks again")
    sound(instance)


@contextmanager
def held_without_a_feed(instance: Running) -> Iterator[tuple[tuple[int, int], list[dict[str, Any]]]]:
    """The feed stands still while positions are open: they, and a place of the journal before they are left."""
    for _ in range(20):
        until(lambda: monitored(instance), 40, "an open position")
        with standing_still(instance, "feed"):
            time.sleep(0.5)  # what was published has been taken, and journaled; time goes on after a second
            mark = instance.last_order()
            if held := monitored(instance):
                yield mark, held
                return
    pytest.fail("no position was open without a feed")


def test_without_a_feed_a_position_is_left_when_its_time_is_over(instance: Running) -> None:
    with held_without_a_feed(instance) as (mark, held):
        assert max(row["deadline_ns"] for row in held) <= instance.status()["event_ns"] + 60 * 10**9, "a minute of event time is two seconds here"
        until(lambda: not monitored(instance), 30, "every position's time stop")
        journal = instance.journal()
        try:
            rows = [record.row for record in journal.orders(mark)]
        finally:
            journal.close()
        timers = [row for row in rows if row["kind"] == l.TIMER]
        left = [row for row in rows if row["kind"] == l.NEW and row["purpose"] == l.EXIT]
        assert {str(int(row["position_id"])) for row in left} >= {row["id"] for row in held}
        assert {int(row["code"]) for row in left} <= {l.EXIT_TIME}
        assert len(timers) >= 1
        assert len({int(row["event_ns"]) for row in (*timers, *left)}) == 1, "event time stands still without ticks"
    sound(instance)


def test_a_feed_that_dies_counts_what_it_did_not_see(instance: Running) -> None:
    until(instance.last_fill_ns, 40, "a first fill")
    mark = instance.last_order()
    instance.kill("feed")
    missed = until(lambda: missed_behind(instance, mark), 30, "the gap is in the journal")
    assert [int(row["code"]) for row in missed] == [l.MISSED_FEED]
    assert int(missed[0]["value"]) > 0
    assert 0 < int(missed[0]["lots"]) < 30 * 30 * 10**9
    until(lambda: instance.last_fill_ns() > int(missed[0]["event_ns"]), 40, "trading goes on behind it")
    sound(instance)


def missed_behind(instance: Running, after: tuple[int, int]) -> list[Any]:
    journal = instance.journal()
    try:
        return [record.row for record in journal.orders(after) if record.row["kind"] == l.MISSED]
    finally:
        journal.close()


def test_without_a_gateway_intents_wait_and_go_out_once_when_it_is_back(instance: Running) -> None:
    closing = ""
    for _ in range(10):  # a position may have been on its way out before the gateway stood still
        until(lambda: monitored(instance), 40, "an open position")
        with standing_still(instance, "gateway"):
            time.sleep(0.3)
            if rows := monitored(instance):
                instance.ctl("close", rows[0]["id"])
                time.sleep(1.0)
                held = {row["id"]: row["state"] for row in instance.ctl("positions")[1]["rows"]}
                closing = rows[0]["id"] if held.get(rows[0]["id"]) == "closing" else ""
        if closing:
            break
    assert closing, "its exit waits for the gateway"
    until(lambda: closing not in {row["id"] for row in instance.ctl("positions")[1]["rows"]}, 10, "the exit is filled")
    sound(instance)


def test_without_strategist_and_reflection_what_is_armed_trades_on_for_longer_than_the_ring_lasts(tmp_path: Path) -> None:
    instance = Running(tmp_path, BUSY + PATIENT + "[hotpath]\ntick_slots = 1024\n")
    try:
        instance.start()
        until(instance.last_fill_ns, 40, "a first fill")
        assert instance.status()["conditions"]
        with standing_still(instance, "strategist", "reflection"):
            before = instance.status()
            until(lambda: instance.status()["ticks"] > before["ticks"] + 4 * 1024, 40, "the market waits for nobody who plans")
            until(lambda: instance.status()["trades_closed"] > before["trades_closed"], 40, "positions are closed by their own protection")
            assert instance.status()["trading"] == "running"
            plans = strategist(instance)["plans"]
        until(lambda: instance.ctl("health")[1]["data"]["healthy"], 20, "both are well again")
        until(lambda: strategist(instance)["plans"] > plans, 20, "it plans again")
        assert strategist(instance)["ticks_lost"] >= 3 * 1024
        sound(instance)
    finally:
        instance.end()


def test_a_strategist_that_is_given_up_holds_back_no_market_even_at_full_speed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("class Mine:\n    def plan(self, market, portfolio, knowledge): return []\n")
    instance = Running(tmp_path, BUSY + "[hotpath]\ntick_slots = 1024\n")
    try:
        instance.start("--strategy", f"momentum,{mine}:Mine", speed="max")
        until(lambda: instance.status()["trades_closed"], 40, "it trades")
        mine.write_text("class Mine:\n")
        instance.kill("strategist")
        until(lambda: instance.row("strategist")["state"] == "failed", 20, "its successor cannot read the strategy, and is the last one")
        before = instance.status()["ticks"]
        until(lambda: instance.status()["ticks"] > before + 100_000, 40, "the market goes on without it")
        until(lambda: not instance.ctl("positions")[1].get("rows"), 40, "every position comes to its time stop")
        assert instance.stop() == 5
        assert instance.summary()["reconciled"] is True
        instance.leaves_nothing()
    finally:
        instance.end()


def strategist(instance: Running) -> dict[str, Any]:
    """Its metrics."""
    found: dict[str, Any] = next(row["metrics"] for row in instance.ctl("health")[1]["rows"] if row["role"] == "strategist")
    return found
