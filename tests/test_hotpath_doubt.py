"""Where gateway, venue and book might disagree: refused exits, a ledger of another run, positions nobody can explain, a slot written twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.record.reconcile import read_ledger
from hotpath.kernel import turns as k
from ipc import layout as l
from ipc import ring
from tests.gateway_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


def filled(world: World, lots: int = 30) -> None:
    """A run that bought, and ended in order."""
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=lots)
    world.journal()
    world.tick(after=5_000_000)
    world.until(lambda: l.FILL in world.kinds(seq))
    world.stop()


def next_run(world: World, run_id: str = "run", ready: bool = True) -> None:
    """The next incarnation of the account; the journal knows all that the venue told."""
    known = max(int(record["venue_seq"]) for record in world.records)
    world.segments()
    world.memory.sniper.account[0]["cash"] = read_ledger(world.folder / "state" / "paper").cash
    world.memory.board.cursors[0]["journaled_venue_seq"] = known
    world.restarts = 0
    world.records.clear()
    world.run_id = run_id
    world.start(ready=ready)


def hold(world: World, lots: int, side: int = l.BUY) -> None:
    """What the sniper's book says."""
    row = world.memory.sniper.positions[0]
    row["state"], row["instrument"], row["side"], row["lots"] = l.POS_OPEN if lots else l.POS_FLAT, 0, side, lots


@pytest.mark.parametrize(("lots", "mode"), [(30, l.MODE_RUNNING), (29, l.MODE_SAFE), (0, l.MODE_SAFE)])
def test_positions_of_the_venue_that_the_book_does_not_have_stop_entries_before_the_first_order(lots: int, mode: int, world: World) -> None:
    filled(world)
    next_run(world)
    hold(world, lots)
    world.step()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    world.journal()
    world.until(lambda: world.kinds(seq))
    assert world.mode() == (mode, "" if mode == l.MODE_RUNNING else f"BTC/USDT: the venue holds 30 lots, the book {lots}")


def test_a_ledger_of_another_run_with_the_same_number_is_refused(world: World) -> None:
    filled(world)
    world.incarnation -= 1  # the journal is a backup of before that run, and counts up to the same number again
    next_run(world, run_id="later", ready=False)
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
