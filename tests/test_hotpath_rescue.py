"""A gateway that closes everything by itself while the sniper is away: what is held and no lot more, whoever dies; and the sniper's book follows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hotpath.rescue
from hotpath.orders import OWN_ORDERS
from hotpath.venues import paper_ledger
from ipc import layout as l
from tests.flaky_venue import flaky
from tests.gateway_world import OTHER, PERPETUAL, SPOT, World
from tests.test_hotpath_protection import entered
from tests.test_hotpath_sniper import World as SniperWorld
from tests.test_hotpath_venue_faults import fail


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


def prices(world: World) -> None:
    world.quote(6_000_000, 6_000_100)
    world.quote(600_000, 600_010, instrument=PERPETUAL)
    world.quote(300_000, 300_010, instrument=OTHER)


def go_on(world: World) -> None:
    world.tick(after=5_000_000)
    world.step()
    world.journal()


def hold(world: World, lots: int = 100, instrument: int = SPOT, side: int = l.BUY, strategy: int = 0) -> int:
    """A position."""
    seq = world.intent(lots=lots, instrument=instrument, side=side, strategy=strategy)
    world.journal()

    def is_filled() -> bool:
        go_on(world)
        return l.FILL in world.kinds(seq)

    world.until(is_filled)
    return seq


def rescue(world: World, level: int) -> None:
    world.memory.board.processes[l.GATEWAY]["rescue"] = level
    world.bell()


def own(world: World) -> list[Any]:
    """Reports of the gateway's own orders."""
    return [record for record in world.collect() if record["order_seq"] >= OWN_ORDERS]


def held(statement: paper_ledger.Statement) -> dict[str, int]:
    return {symbol: position.lots for symbol, position in statement.positions.items() if position.lots}


def flat(world: World, count: int) -> None:
    """Until so many own orders are filled."""
    def done() -> bool:
        go_on(world)
        return sum(record["kind"] == l.FILL and record["cum_lots"] == record["last_lots"] for record in own(world)) >= count

    world.until(done)


def never_crossed(statement: paper_ledger.Statement, first: dict[str, int]) -> None:
    """By the venue's own events no close was larger than what it closed."""
    lots: dict[str, int] = {}
    for event in statement.events:
        if event.kind == l.FILL:
            before = lots.get(event.symbol, 0)
            lots[event.symbol] = before + event.side * event.lots
            if before * event.side < 0:
                assert lots[event.symbol] * before >= 0, f"{event.symbol} went from {before} to {lots[event.symbol]}"
    assert {symbol: value for symbol, value in lots.items() if value} == first


def test_everything_that_is_held_is_closed_long_and_short_each_announced_before_it_is_sent(world: World) -> None:
    world.start()
    prices(world)
    hold(world)
    hold(world, 40, PERPETUAL, l.SELL, strategy=1)
    rescue(world, l.RESCUE_FLATTEN)
    flat(world, 2)
    for seq in {int(record["order_seq"]) for record in own(world)}:
        assert world.kinds(seq) == [l.ANNOUNCED, l.ACCEPTED, l.FILL]
    announced = {int(record["instrument"]): record for record in own(world) if record["kind"] == l.ANNOUNCED}
    assert [(int(announced[k]["side"]), int(announced[k]["last_lots"]), int(announced[k]["code"])) for k in (SPOT, PERPETUAL)] == [
        (l.SELL, 100, 0), (l.BUY, 40, 1)]
    statement = world.stop()
    assert held(statement) == {}
    never_crossed(statement, {})


def test_working_orders_end_first_and_the_snipers_own_exits_end_unsent(world: World) -> None:
    world.start()
    prices(world)
    hold(world)
    entry = world.intent(lots=50, limit=200_000, instrument=OTHER)
    working = world.intent(lots=100, side=l.SELL, purpose=l.EXIT, limit=7_000_000)
    world.journal()
    world.until(lambda: l.ACCEPTED in world.kinds(entry) and l.ACCEPTED in world.kinds(working))
    rescue(world, l.RESCUE_FLATTEN)
    late = world.intent(lots=100, side=l.SELL, purpose=l.EXIT)
    opens = world.intent(lots=10)
    world.journal()
    flat(world, 1)
    assert world.kinds(entry)[-1] == world.kinds(working)[-1] == l.CANCELLED
    assert world.kinds(late) == world.kinds(opens) == [l.LOST]
    statement = world.stop()
    assert held(statement) == {}
    never_crossed(statement, {})


def test_only_working_entries_end_where_positions_are_to_be_protected(world: World) -> None:
    world.start()
    prices(world)
    hold(world)
    entry = world.intent(lots=50, limit=200_000, instrument=OTHER)
    world.journal()
    world.until(lambda: l.ACCEPTED in world.kinds(entry))
    rescue(world, l.RESCUE_CANCEL)
    world.until(lambda: world.kinds(entry)[-1] == l.CANCELLED)
    opens = world.intent(lots=10)
    exit_ = world.intent(lots=60, side=l.SELL, purpose=l.EXIT)
    world.journal()

    def sold() -> bool:
        go_on(world)
        return l.FILL in world.kinds(exit_)

    world.until(sold)
    assert world.kinds(opens) == [l.CANCELLED]
    assert own(world) == []
    assert held(world.stop()) == {"BTC/USDT": 40}


def test_nothing_is_closed_while_an_order_of_its_symbol_is_in_doubt(world: World, tmp_path: Path) -> None:
    world.venue = flaky(tmp_path)
    world.start()
    prices(world)
    hold(world)
    fail(world, submit="after", find="silent", history="silent", news="lost")
    doubtful = world.intent(lots=60, side=l.SELL, purpose=l.EXIT)
    world.journal()
    world.until(lambda: world.kinds(doubtful) == [l.UNKNOWN])
    rescue(world, l.RESCUE_FLATTEN)
    for _ in range(50):
        go_on(world)
        world.matched()
    assert own(world) == []
    fail(world)
    flat(world, 1)
    statement = world.stop()
    assert held(statement) == {}
    never_crossed(statement, {})


def test_what_is_announced_waits_for_a_doubt_that_came_after_it(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sniper is back between announcement and sending, and its exit of another strategy in that symbol is in doubt at once."""
    monkeypatch.setattr(hotpath.rescue, "EXIT_PATIENCE_NS", 1_000_000_000)
    world.venue = flaky(tmp_path)
    world.start()
    prices(world)
    for strategy in (0, 1):
        hold(world, strategy=strategy)
    rescue(world, l.RESCUE_FLATTEN)
    world.until(lambda: own(world))
    fail(world, submit="after", find="silent", history="silent", news="lost")
    rescue(world, l.RESCUE_NONE)
    other = 1 - int(own(world)[0]["code"])
    doubtful = world.intent(lots=100, side=l.SELL, purpose=l.EXIT, strategy=other)
    world.memory.board.cursors[0]["durable_orders"] = doubtful  # and no report, so that the announced order waits its second
    world.bell()
    world.until(lambda: world.kinds(doubtful) == [l.UNKNOWN])
    end = time.monotonic() + 2
    while time.monotonic() < end:
        go_on(world)
        world.matched()
    assert [int(record["kind"]) for record in own(world)] == [l.ANNOUNCED]
    fail(world)
    flat(world, 1)
    statement = world.stop()
    assert held(statement) == {}
    never_crossed(statement, {})


def test_a_report_ring_without_room_never_moves_the_order_cursor_beyond_the_ring(world: World) -> None:
    world.start()
    prices(world)
    hold(world)
    reports, orders = world.memory.reports, world.memory.orders
    for reader in (l.SNIPER, l.RECORDER):
        reports.readers[reader]["cursor"] = int(reports.ring[0]["head"]) - l.RING_SLOTS  # nobody takes anything
    rescue(world, l.RESCUE_FLATTEN)
    for _ in range(20):
        world.tick(after=5_000_000)
        world.matched()
        assert int(orders.readers[l.GATEWAY]["cursor"]) <= int(orders.ring[0]["head"])
    assert own(world) == []
    world.kill()
    world.until(lambda: world.deaths == 1)
    flat(world, 1)
    statement = world.stop()
    assert held(statement) == {}
    never_crossed(statement, {})


@pytest.mark.parametrize("point", ["gateway.rescue:1", "gateway.rescue:2", "gateway.sent:3", "gateway.sent:4", "gateway.report:9",
                                   "gateway.cursor:5"])
def test_a_gateway_that_dies_while_it_closes_closes_the_rest_and_nothing_twice(point: str, world: World) -> None:
    world.start(crash_at=point)
    prices(world)
    hold(world)
    hold(world, 40, PERPETUAL, l.SELL, strategy=1)
    rescue(world, l.RESCUE_FLATTEN)

    def is_flat() -> bool:
        go_on(world)
        accounts = paper_ledger.read(world.folder / "state" / "paper").positions
        return not any(position.lots for position in accounts.values())

    world.until(is_flat)
    statement = world.stop()
    assert world.deaths == 1, "the point was never reached"
    never_crossed(statement, {})
    reported = [int(record["venue_seq"]) for record in world.collect() if record["venue_seq"]]
    assert reported == [event.venue_seq for event in statement.events]
    for seq in {int(record["order_seq"]) for record in own(world)}:
        kinds = world.kinds(seq)
        assert kinds[0] == l.ANNOUNCED
        assert sum(kind in (l.FILL, l.LOST, l.CANCELLED, l.EXPIRED, l.REJECTED) for kind in kinds) == 1


# ── the sniper's book ────────────────────────────────────────────────────────────────────────────────────────────────
OWN = OWN_ORDERS | 1


@pytest.fixture
def sniper(memory: Any) -> SniperWorld:
    made = SniperWorld(memory)
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def announce(sniper: SniperWorld, lots: int) -> None:
    sniper.report(kind=l.ANNOUNCED, order_seq=OWN, side=l.SELL, last_lots=lots, instrument=0, code=0)


def close(sniper: SniperWorld, lots: int) -> None:
    quote = 9_800 * lots * int(sniper.memory.instruments.instruments[0]["value_quanta"])
    sniper.report(kind=l.FILL, order_seq=OWN, side=l.SELL, cum_lots=lots, cum_quote=quote, last_lots=lots, last_price=9_800, trade_id=9)


def test_an_announced_close_is_a_working_exit_and_its_fill_closes_the_round_trip(sniper: SniperWorld) -> None:
    order = entered(sniper)
    lots = int(order["lots"])
    announce(sniper, lots)
    sniper.quote(9_800, 9_810)  # far below the stop: the exit is under way already
    assert len(sniper.orders()) == 1
    account = sniper.s.account[0]
    assert (account["working_orders"], account["open_positions"]) == (1, 1)
    close(sniper, lots)
    sniper.quote(9_800, 9_810)
    assert (account["working_orders"], account["open_positions"]) == (0, 0)
    (closed,) = sniper.orders(l.CLOSED)
    assert closed.view(l.TRADE)["exit_reason"] == l.EXIT_FLATTEN


def test_an_announced_close_that_is_lost_leaves_the_position_to_its_protection(sniper: SniperWorld) -> None:
    order = entered(sniper)
    announce(sniper, int(order["lots"]))
    sniper.report(kind=l.LOST, order_seq=OWN)
    for _ in range(20):
        sniper.quote(9_800, 9_810)
    assert [int(exit_["purpose"]) for exit_ in sniper.orders()] == [l.ENTRY, l.EXIT]


def test_an_announcement_without_a_position_changes_nothing(sniper: SniperWorld) -> None:
    announce(sniper, 10)
    sniper.quote(9_999, 10_000)
    assert sniper.s.account[0]["working_orders"] == 0


def test_an_exit_that_was_decided_before_the_gateway_closed_ends_without_reopening_anything(sniper: SniperWorld) -> None:
    order = entered(sniper)
    lots = int(order["lots"])
    sniper.quote(9_800, 9_810)
    exit_ = sniper.orders()[1]
    announce(sniper, lots)
    close(sniper, lots)
    sniper.quote(9_800, 9_810)
    assert sniper.orders(l.CLOSED) == [], "its own exit is still under way"
    sniper.report(kind=l.LOST, order_seq=exit_["seq"])
    sniper.quote(9_800, 9_810)
    assert len(sniper.orders(l.CLOSED)) == 1
    assert len(sniper.orders()) == 2
    account = sniper.s.account[0]
    assert (account["working_orders"], account["open_positions"]) == (0, 0)
