"""A venue that times out, refuses, loses, doubles, reorders: no order goes out twice, none is forgotten, and doubt closes a symbol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpath.config import Recovery
from hotpath.intake import Intake
from hotpath.orders import row_of
from hotpath.venues.venue import VenueEvent
from ipc import layout as l
from ipc import ring
from tests.flaky_venue import flaky
from tests.gateway_world import OTHER, SPOT, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # a history that stays silent before the order is sent is not to keep it back
    made = World(tmp_path, monkeypatch, recovery=Recovery(breaker_failures=1000))
    made.venue = flaky(tmp_path)
    yield made
    made.close()


def fail(world: World, **faults: str) -> None:
    draft = world.folder / "draft"
    draft.write_text(json.dumps(faults))
    draft.replace(world.folder / "faults")


def begin(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    world.quote(300_000, 300_010, instrument=OTHER)
    world.matched()


def buy(world: World, lots: int = 30, instrument: int = SPOT, **more: int) -> int:
    seq = world.intent(lots=lots, instrument=instrument, **more)
    world.journal()
    return seq


def filled(world: World, *orders: int) -> None:
    """Go on until each of them is filled."""
    def all_filled() -> bool:
        world.tick(after=5_000_000)
        world.step()
        return all(l.FILL in world.kinds(seq) for seq in orders)

    world.until(all_filled)


def cancelled(world: World, seq: int) -> None:
    """Go on until it is."""
    def is_cancelled() -> bool:
        world.tick(after=5_000_000)
        world.step()
        return l.CANCELLED in world.kinds(seq)

    world.until(is_cancelled)


def test_an_order_that_timed_out_and_was_taken_is_unknown_and_then_goes_on_with_what_the_venue_has(world: World) -> None:
    begin(world)
    fail(world, submit="after", find="silent", history="silent", news="lost")
    seq = buy(world)
    world.until(lambda: world.kinds(seq) == [l.UNKNOWN])
    assert world.mode()[0] == l.MODE_REDUCE_ONLY
    fail(world)
    filled(world, seq)
    assert world.kinds(seq) == [l.UNKNOWN, l.ACCEPTED, l.FILL]
    world.until(lambda: world.mode()[0] == l.MODE_RUNNING)
    world.check(world.stop())


def test_an_order_that_timed_out_and_never_arrived_is_lost_only_when_it_cannot_arrive_any_more(world: World) -> None:
    begin(world)
    fail(world, submit="before", find="blind")
    seq = buy(world)
    world.until(lambda: world.kinds(seq) == [l.UNKNOWN])
    for _ in range(20):
        world.tick(after=5_000_000)
        world.step()
        world.matched()
    assert world.kinds(seq) == [l.UNKNOWN]
    fail(world)
    world.until(lambda: world.kinds(seq) == [l.UNKNOWN, l.LOST])
    world.check(world.stop())


def test_nothing_else_goes_out_for_a_symbol_in_doubt_and_other_symbols_go_on(world: World) -> None:
    begin(world)
    fail(world, submit="after", find="silent", history="silent", news="lost")
    doubtful = buy(world)
    world.until(lambda: world.kinds(doubtful) == [l.UNKNOWN])
    fail(world, find="silent", history="silent", news="lost")
    sale = world.intent(lots=10, side=l.SELL, purpose=l.EXIT)
    other = buy(world, instrument=OTHER)
    world.until(lambda: world.memory.gateway.gateway_orders[row_of(other)]["state"] != l.ORD_NONE)
    assert world.memory.gateway.gateway_orders[row_of(sale)]["state"] == l.ORD_NONE
    fail(world)
    filled(world, doubtful, other, sale)
    kinds = [(int(record["order_seq"]), int(record["kind"])) for record in world.collect()]
    assert kinds.index((doubtful, l.ACCEPTED)) < kinds.index((sale, l.ACCEPTED))
    world.check(world.stop())


def test_an_entry_into_a_symbol_in_doubt_is_given_up_after_its_second(world: World) -> None:
    begin(world)
    fail(world, submit="after", find="silent", history="silent", news="lost")
    doubtful = buy(world)
    world.until(lambda: world.kinds(doubtful) == [l.UNKNOWN])
    late = buy(world, lots=20)
    world.until(lambda: world.kinds(late) == [l.LOST])
    fail(world)
    filled(world, doubtful)
    world.check(world.stop())


def test_a_cancel_of_an_order_in_doubt_waits_for_its_fate_and_is_then_carried_out(world: World) -> None:
    begin(world)
    fail(world, submit="after", find="silent", history="silent", news="lost")
    seq = buy(world, limit=5_900_000)
    world.until(lambda: world.kinds(seq) == [l.UNKNOWN])
    world.intent(l.CANCEL, target=seq)
    world.journal()
    fail(world, cancel="silent")
    world.until(lambda: l.ACCEPTED in world.kinds(seq))
    fail(world)
    world.until(lambda: world.kinds(seq) == [l.UNKNOWN, l.ACCEPTED, l.CANCELLED])
    world.check(world.stop())


def test_an_order_that_the_venue_certainly_did_not_take_is_rejected_and_may_come_again(world: World) -> None:
    begin(world)
    fail(world, submit="refused")
    seq = buy(world)
    world.until(lambda: world.kinds(seq) == [l.REJECTED])
    assert world.collect()[-1]["code"] == l.REJ_RATE_LIMIT
    assert world.mode()[0] != l.MODE_SAFE
    fail(world)
    again = buy(world)
    filled(world, again)
    world.stop()


@pytest.mark.parametrize("news", ["lost", "twice", "backwards"])
def test_news_that_are_lost_doubled_or_out_of_order_come_out_once_and_in_order(news: str, world: World) -> None:
    begin(world)
    fail(world, news=news)
    orders = [buy(world, lots=100 + number, instrument=(SPOT, OTHER)[number % 2]) for number in range(6)]
    filled(world, *orders)
    world.check(world.stop())


@pytest.mark.parametrize("point", ["gateway.sending:2", "gateway.send:2", "gateway.sent:2", "gateway.report:3", "gateway.cursor:1"])
def test_a_gateway_that_dies_beside_a_venue_that_does_not_answer_resolves_its_orders_when_it_does(point: str, world: World) -> None:
    world.start(crash_at=point)
    world.quote(6_000_000, 6_000_100)
    world.quote(300_000, 300_010, instrument=OTHER)
    world.until(lambda: int(world.memory.ticks.readers[l.GATEWAY]["cursor"]) >= world.seq)
    orders = [buy(world, lots=100 + number, instrument=(SPOT, OTHER)[number % 2]) for number in range(4)]
    world.until(lambda: world.deaths or all(world.kinds(seq) for seq in orders))
    fail(world, find="silent", history="silent")
    world.until(lambda: world.deaths == 1)
    fail(world)

    def ended() -> bool:
        world.tick(after=5_000_000)
        world.step()
        return all(set(world.kinds(seq)) & {l.FILL, l.LOST} for seq in orders)

    world.until(ended)
    world.check(world.stop())


def test_behind_an_exit_that_waits_a_whole_ring_of_orders_is_sent_once_though_the_gateway_dies(world: World) -> None:
    begin(world)
    fail(world, submit="before", find="blind")
    doubtful = world.intent(lots=10, side=l.SELL, purpose=l.EXIT)
    world.journal()
    world.until(lambda: world.kinds(doubtful) == [l.UNKNOWN])
    fail(world, find="blind")
    waiting = world.intent(lots=10, side=l.SELL, purpose=l.EXIT)
    while world.intent(l.CANCEL_ALL) + 60 < waiting + l.RING_SLOTS:
        entries = [world.intent(lots=100, instrument=OTHER, limit=200_000, bell=False) for _ in range(50)]
        world.intent(l.CANCEL_ALL)
        world.journal()
        cancelled(world, entries[-1])
    assert len(world.collect()) > l.RING_SLOTS, "no report of the first ones is left in the ring"
    assert int(world.memory.orders.readers[l.GATEWAY]["cursor"]) == waiting - 1
    world.kill()
    world.respawn_if_dead()
    fail(world)

    def all_ended() -> bool:
        world.tick(after=5_000_000)
        world.step()
        world.journal()
        return int(world.memory.orders.readers[l.GATEWAY]["cursor"]) == ring.head(world.memory.orders.ring)

    world.until(all_ended)
    world.check(world.stop())


@given(st.lists(st.integers(1, 12), max_size=60))
def test_events_are_given_out_once_and_without_a_hole_in_whatever_order_they_come(numbers: list[int]) -> None:
    intake, out, seen = Intake(0), [], set()
    for number in numbers:
        seen.add(number)
        out += intake.take([VenueEvent(venue_seq=number, kind=l.FILL, client_id="", symbol="", event_ns=0, tick_seq=0)])
        reach = next(k for k in range(14) if k + 1 not in seen)
        assert [event.venue_seq for event in out] == list(range(1, reach + 1))
        assert intake.hole == bool(seen - set(range(1, reach + 1)))
