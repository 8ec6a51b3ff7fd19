"""No ticks: exits keep their timers, entries do not wait at the venue, and what the feed did not see when it is back is chased by nobody."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hotpath.kernel import loop
from hotpath.kernel.commit import touch_position
from hotpath.kernel.step import step_by_clock
from hotpath.sniper import silence_ns
from ipc import layout as l
from tests.test_hotpath_sniper import SECOND, World


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory)
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def opened(world: World, time_stop_s: int = 60) -> Any:
    """A position that was opened at the present time."""
    world.arm("100.05", time_stop_s=time_stop_s)
    world.trade(10_010)
    (order,) = world.orders()
    world.fill(order, 10_000)
    return world.s.positions[0]


def exits(world: World) -> list[Any]:
    return [row for row in world.orders() if row["purpose"] == l.EXIT]


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_time_stop_is_kept_without_ticks_and_the_journal_hears_by_which_clock(world: World) -> None:
    deadline = int(opened(world)["deadline_ns"])
    assert deadline > world.now
    step_by_clock(world.s, deadline - 1)
    assert exits(world) == []
    assert world.orders(l.TIMER) == [], "nothing was due, so there is nothing to tell"
    before = int(world.line["intent_seq"])
    step_by_clock(world.s, deadline)
    (exit_order,), (timer,) = exits(world), world.orders(l.TIMER)
    assert (int(exit_order["code"]), int(exit_order["event_ns"])) == (l.EXIT_TIME, world.now), "event time does not run ahead of the ticks"
    assert (int(timer["value"]), int(timer["event_ns"]), int(timer["seq"])) == (deadline - world.now, world.now, before + 1)
    step_by_clock(world.s, deadline + SECOND)
    assert len(exits(world)) == 1, "one exit is under way"


def test_an_exit_without_effect_is_tried_again_after_its_pause_by_the_same_clock(world: World) -> None:
    clock = int(opened(world)["deadline_ns"])
    pause = int(world.s.params[int(world.line["params_epoch"]) & 1]["exit_retry_ns"])
    step_by_clock(world.s, clock)
    for tries in range(1, 6):
        world.report(kind=l.REJECTED, order_seq=exits(world)[-1]["seq"])
        step_by_clock(world.s, clock + 1)
        assert len(exits(world)) == tries
        clock += pause << min(tries - 1, 4)
        step_by_clock(world.s, clock - 1)
        assert len(exits(world)) == tries, "a venue that refuses has a reason that may last"
        step_by_clock(world.s, clock)
        assert len(exits(world)) == tries + 1
    assert len(world.orders(l.TIMER)) == 6


def test_where_nothing_is_due_nothing_is_committed(world: World) -> None:
    opened(world)
    before = int(world.s.commit[0]["number"])
    step_by_clock(world.s, world.now + SECOND)
    assert int(world.s.commit[0]["number"]) == before


def test_no_level_is_tested_against_a_price_that_may_be_old(world: World) -> None:
    position = opened(world, time_stop_s=0)
    touch_position(world.s, 0)
    position["stop_price"] = 10_500  # as if the last quote were beyond it
    step_by_clock(world.s, world.now + 3600 * SECOND)
    assert exits(world) == []


def test_a_working_entry_is_cancelled_when_the_price_it_was_made_for_is_stale(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="99.00", valid_for_s=3600)
    world.trade(10_010)
    assert len(world.orders()) == 1
    limit = int(world.s.params[int(world.line["params_epoch"]) & 1]["max_quote_age_ns"])
    step_by_clock(world.s, world.now + limit)
    assert world.orders(l.CANCEL) == []
    step_by_clock(world.s, world.now + limit + 1)
    step_by_clock(world.s, world.now + limit + 2)
    assert len(world.orders(l.CANCEL)) == 1


def test_a_working_entry_does_not_outlive_its_condition_without_ticks(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="99.00", valid_for_s=5)
    world.trade(10_010)
    step_by_clock(world.s, world.now + 3 * SECOND)
    assert world.orders(l.CANCEL) == []
    step_by_clock(world.s, world.now + 5 * SECOND)
    assert len(world.orders(l.CANCEL)) == 1


@pytest.mark.parametrize(("silence", "speed", "beats", "due"), [
    (20_000_000, 1000.0, False, True), (0, 1000.0, False, False), (60 * SECOND, 1000.0, False, False), (20_000_000, 1.0, False, False),
    (20_000_000, 1000.0, True, False)])
def test_time_passes_after_so_long_without_a_tick_and_a_feed_at_the_speed_of_the_market(silence: int, speed: float, beats: bool, due: bool,
                                                                                        world: World) -> None:
    opened(world)
    last = world.memory.ticks.slots[int(world.line["tick_seq"])]
    last["publish_ns"] = time.monotonic_ns()
    world.successor()  # when the last tick came it knows from the ring, and from nobody else
    world.s.own[0]["stop"] = l.STOP_NONE
    own, feed = world.memory.board.processes[l.SNIPER], world.memory.board.processes[l.FEED]
    worker = threading.Thread(target=loop.run, args=(world.s, 0, 1, silence, speed))
    worker.start()
    # 100 s of the market's time at a thousand times the speed, as the loop itself has seen them pass
    enough_ns = last["publish_ns"] + 100_000_000
    end = time.monotonic() + 120  # the first call may compile the loop
    while (int(own["beat_ns"]) < enough_ns or (due and not exits(world))) and time.monotonic() < end:
        feed["beat_ns"] = time.monotonic_ns() if beats else 0
        time.sleep(0.001)
    world.s.own[0]["stop"] = l.STOP_DRAIN
    worker.join(120)
    assert int(own["beat_ns"]) >= enough_ns
    assert len(exits(world)) == (1 if due else 0)
    assert int(own["metrics"][l.METRICS[l.SNIPER].index("intents")]) == len(exits(world)), "an order counts, whichever clock it was due by"


@pytest.mark.parametrize(("market", "lockstep", "speed", "ns"), [
    ("simulated", False, 1.0, SECOND), ("simulated", False, 30.0, SECOND), ("simulated", False, 0.1, 4 * SECOND),
    ("simulated", False, 0.0, 0), ("simulated", True, 1.0, 0), ("replay", False, 1.0, 0)])
def test_time_goes_on_by_itself_where_a_market_would_and_never_in_a_recording(market: str, lockstep: bool, speed: float, ns: int) -> None:
    assert silence_ns(SimpleNamespace(market=market, lockstep=lockstep, speed=speed)) == ns  # type: ignore[arg-type]


# ── the feed is back ─────────────────────────────────────────────────────────────────────────────────────────────────
def gap(world: World, away_s: float = 2, ticks: int = 77) -> None:
    world.now += int(away_s * SECOND)
    world._publish(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT, flags=l.FLAG_GAP, price=int(away_s * SECOND), lots=ticks)


def test_a_level_that_was_passed_while_the_feed_was_away_is_not_chased(world: World) -> None:
    world.arm("100.05")
    gap(world)
    world.trade(10_010)
    assert world.orders() == []
    (missed,) = world.orders(l.MISSED)
    assert [int(missed[name]) for name in ("code", "instrument", "value", "lots")] == [l.MISSED_FEED, l.NO_INSTRUMENT, 77, 2 * SECOND]
    world.trade(10_000)
    world.trade(10_010)
    assert len(world.orders()) == 1, "a fresh crossing fires"


def test_a_clock_tick_without_a_gap_changes_no_crossing(world: World) -> None:
    world.arm("100.05")
    world._publish(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
    world.trade(10_010)
    assert len(world.orders()) == 1
    assert world.orders(l.MISSED) == []


def test_a_stop_that_was_passed_while_the_feed_was_away_is_kept_at_the_first_quote(world: World) -> None:
    stop = int(opened(world)["stop_price"])
    gap(world)
    assert exits(world) == [], "no price is known yet"
    world.quote(stop - 50, stop - 49)
    assert [int(row["code"]) for row in exits(world)] == [l.EXIT_STOP]


def test_what_works_at_the_venue_is_cancelled_when_the_feed_comes_back_from_a_gap(world: World) -> None:
    world.arm("100.05", order="limit", limit_price="99.00", valid_for_s=3600)
    world.trade(10_010)
    gap(world)
    assert len(world.orders(l.CANCEL)) == 1
