"""Where gateway, venue and book might disagree: refused exits, a ledger of another run, positions nobody can explain, a slot written twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.record.reconcile import read_ledger
from hotpath.kernel import turns as k
from ipc import board, ring
from ipc import layout as l
from tests.gateway_world import CASH, OTHER, PERPETUAL, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


def next_run(world: World, held: int = 0) -> None:
    """A run has ended, or died; a new one of the account, whose book holds so many lots of SPOT."""
    world.kill()
    seen = max((int(record["venue_seq"]) for record in world.collect()), default=0)
    cash = read_ledger(world.folder / "state" / "paper").cash
    world.segments()
    world.records.clear()
    world.intents.clear()
    world.restarts = 0
    world.memory.board.cursors[0]["journaled_venue_seq"] = seen
    sniper = world.memory.sniper
    sniper.account[0]["cash"] = cash
    sniper.positions[0]["state"], sniper.positions[0]["side"], sniper.positions[0]["lots"] = l.POS_OPEN if held else l.POS_FLAT, l.BUY, held


def bought(world: World, lots: int) -> None:
    """A first run that ends with so many lots of SPOT."""
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=lots)
    world.journal()
    world.until(lambda: world.tick() and l.FILL in world.kinds(seq))


DOUBT = (l.MODE_REDUCE_ONLY, board.ACCOUNT)


def test_no_entry_goes_out_before_the_book_is_the_accounts_but_an_exit_does(world: World) -> None:
    bought(world, 30)
    next_run(world, held=30)
    world.start()
    assert world.mode() == DOUBT
    world.quote(6_000_000, 6_000_100)
    entry, leave = world.intent(lots=10, instrument=OTHER), world.intent(lots=30, side=l.SELL, purpose=l.EXIT)
    world.journal()
    world.until(lambda: world.kinds(leave))
    assert (world.kinds(entry), world.mode()) == ([], DOUBT)
    world.until(lambda: world.kinds(entry) == [l.LOST])  # the sniper has not said what it knows within the entry's second: it was never sent
    assert world.mode() == DOUBT


def test_when_the_sniper_has_taken_the_statement_and_agrees_entries_go_out(world: World) -> None:
    bought(world, 30)
    next_run(world, held=30)
    world.start()
    world.quote(6_000_000, 6_000_100)
    entry = world.intent(lots=10)
    world.journal()
    world.step()
    world.until(lambda: l.ACCEPTED in world.kinds(entry))
    assert world.mode() == (l.MODE_RUNNING, "")


@pytest.mark.parametrize(("held", "cash", "cause"), [
    (29, 0, "BTC/USDT: the venue holds 30 lots, the book 29"), (0, 0, "BTC/USDT: the venue holds 30 lots, the book 0"),
    (30, 1, "cash: venue and book differ by ")])
def test_a_book_that_is_not_the_accounts_opens_nothing_until_a_person_has_looked(world: World, held: int, cash: int, cause: str) -> None:
    bought(world, 30)
    next_run(world, held)
    world.memory.sniper.account[0]["cash"] += cash
    world.start()
    world.step()
    world.until(lambda: world.mode()[0] == l.MODE_SAFE)
    assert world.mode()[1].startswith(cause)


def test_strategies_that_were_opposed_in_a_perpetual_are_no_difference_though_their_cash_is(world: World) -> None:
    """The venue nets them and realises what the book does not: one long, the other short above it and closed again, the first still held."""
    world.start()
    prices = {}

    def deal(lots: int, side: int, price: int, strategy: int, purpose: int = l.ENTRY) -> None:
        world.quote(price, price + 10, instrument=PERPETUAL)
        world.matched()
        seq = world.intent(lots=lots, side=side, instrument=PERPETUAL, strategy=strategy, purpose=purpose)
        world.journal()
        world.until(lambda: world.tick() and world.step() is None and l.FILL in world.kinds(seq))
        prices[seq] = next(int(record["last_price"]) for record in world.collect() if record["order_seq"] == seq and record["kind"] == l.FILL)

    deal(50, l.BUY, 600_000, 0)
    deal(30, l.SELL, 610_000, 1)
    deal(30, l.BUY, 620_000, 1, l.EXIT)
    fees = sum(int(record["fee"]) for record in world.collect() if record["kind"] == l.FILL)
    next_run(world)
    value = int(world.memory.instruments.instruments[PERPETUAL]["value_quanta"])
    row = world.memory.sniper.positions[PERPETUAL * l.MAX_STRATEGIES]
    row["state"], row["side"], row["lots"], row["instrument"], row["cost"] = l.POS_OPEN, l.BUY, 50, PERPETUAL, prices[1] * 50 * value
    book = CASH - fees + (prices[2] - prices[3]) * 30 * value
    assert int(world.memory.sniper.account[0]["cash"]) != book, "the venue's cash is another one"
    world.memory.sniper.account[0]["cash"] = book
    world.start()
    world.step()
    world.until(lambda: world.mode() == (l.MODE_RUNNING, ""))


def test_a_ledger_that_knows_less_than_the_journal_beside_it_is_refused_and_left_alone(world: World) -> None:
    bought(world, 30)
    next_run(world, held=30)
    shutil.rmtree(world.folder / "state" / "paper")
    world.start(ready=False)
    world.process.join(10.0)
    assert world.process.exitcode == 78
    assert world.collect() == []


def test_a_position_in_the_book_alone_is_a_doubt_too(world: World) -> None:
    world.start()
    next_run(world, held=7)
    world.start()
    world.step()
    world.until(lambda: world.mode() == (l.MODE_SAFE, "BTC/USDT: the venue holds 0 lots, the book 7"))


def test_a_gateway_that_dies_before_it_has_compared_leaves_that_to_its_successor(world: World) -> None:
    bought(world, 30)
    next_run(world, held=30)
    world.start()
    world.kill()
    assert world.mode() == DOUBT
    world.step()
    world.until(lambda: world.mode() == (l.MODE_RUNNING, ""))
    assert world.deaths == 1


def test_a_ledger_of_another_run_with_the_same_number_is_refused(world: World) -> None:
    bought(world, 30)
    world.stop()
    world.incarnation -= 1  # the journal is a backup of before that run, and counts up to the same number again
    next_run(world, held=30)
    world.run_id = "later"
    world.start(ready=False)
    world.process.join(5.0)
    assert world.process.exitcode == 78
    assert world.collect() == []


def test_an_exit_that_the_venue_refuses_is_told_and_stops_entries(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30, side=l.SELL, purpose=l.EXIT)
    world.journal()
    world.until(lambda: world.kinds(seq) == [l.REJECTED])
    world.until(lambda: world.mode()[0])
    assert world.mode() == (l.MODE_SAFE, f"exit order {seq} was rejected: reduce_only")


def test_an_entry_that_the_venue_refuses_is_no_alarm(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    world.matched()  # an order is judged by the quotes that the venue has seen
    seq = world.intent(lots=1)
    world.journal()
    world.until(lambda: world.kinds(seq) == [l.REJECTED])
    assert world.mode()[0] == l.MODE_RUNNING


def test_a_slot_that_is_being_written_again_throws_nobody_back(memory: Any) -> None:
    """A feed that was killed between a slot and the head writes the slot once more: a reader that meets it looks again."""
    memory.board.run[0]["instruments"] = 1
    g = k.gate_arrays(memory, 0, 0)
    tick = np.zeros(1, l.TICK)
    tick["kind"] = l.TICK_CLOCK
    for _ in range(900):
        ring.publish(memory.ticks.ring, memory.ticks.slots, tick, 0)
    g.words[k.NEXT] = 900
    memory.ticks.slots[900 & 1023]["seq"] = 0  # in the writer's hands
    assert k.turns(g, 0, 1, 1_000_000) == k.TIME
    assert (int(g.words[k.NEXT]), int(g.words[k.HAVE])) == (900, 0)
    memory.ticks.slots[900 & 1023]["seq"] = 900
    k.turns(g, 0, 1, 1_000_000)
    assert int(g.words[k.NEXT]) == 901
