"""The gateway in a real process: at most once, one end, fills once, whatever kills it; and what waits for the journal."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotpath.orders import row_of
from ipc import board, bus, crash, messages, ring
from ipc import layout as l
from tests.gateway_world import CASH, MS, PERPETUAL, SPOT, World

#: of a sound run; what is done without a sniper has tests of its own (test_hotpath_rescue.py)
POINTS = [point for point in crash.POINTS if point.startswith("gateway.") and point != "gateway.rescue"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in lockstep."""
    made = World(tmp_path, monkeypatch, lockstep=True)
    yield made
    made.close()


# ── a scripted run ───────────────────────────────────────────────────────────────────────────────────────────────────
def intents_of(w: World, n: int) -> None:
    """What the scripted sniper decides at its n-th step: every kind of order and end, several in one turn."""
    match n:
        case 3:
            w.intent(lots=40)  # 1: spot, two fills
            w.intent(lots=30, instrument=PERPETUAL, side=l.SELL)  # 2
            w.intent(l.SWAPPED, instrument=l.NO_INSTRUMENT)  # 3: not for the gateway
            w.intent(lots=50, limit=5_990_000)  # 4: rests
        case 5:
            w.intent(lots=1)  # 5: below the minimum notional
            w.intent(lots=20, limit=5_980_000)  # 6: to be cancelled
        case 7:
            w.intent(l.CANCEL, target=6)  # 7
            w.intent(lots=40, side=l.SELL, purpose=l.EXIT)  # 8
        case 9:
            w.intent(lots=25, instrument=PERPETUAL, strategy=1)  # 9
            w.intent(lots=25, limit=5_970_000)  # 10: goes with all
        case 11:
            w.intent(l.CANCEL_ALL, instrument=l.NO_INSTRUMENT)  # 11
            w.intent(lots=30, instrument=PERPETUAL, purpose=l.EXIT)  # 12
        case 13:
            w.intent(lots=30, side=l.SELL, purpose=l.EXIT)  # 13: what order 4 got
            w.intent(lots=25, instrument=PERPETUAL, side=l.SELL, purpose=l.EXIT, strategy=1)  # 14


def tick_of(w: World, n: int) -> None:
    match n % 4:
        case 0:
            w.quote(6_000_000, 6_000_100, lots=25)
        case 1:
            w.quote(600_000 + n, 600_010 + n, instrument=PERPETUAL)
        case 2:
            w.trade(5_989_000, 15)
        case 3:
            w.tick()


def play(w: World, ticks: int = 24) -> None:
    """The whole script, turn by turn or as it comes."""
    for n in range(ticks):
        tick_of(w, n)
        if w.lockstep:
            w.matched()
        intents_of(w, n)
        w.journal()
        w.step()
        if not w.lockstep and n % 3 == 0:
            w.matched()
            w.until(lambda: ring.cursor(w.memory.orders.readers, l.GATEWAY) >= ring.head(w.memory.orders.ring))
    w.matched()


def story(w: World) -> list[tuple[int, ...]]:
    """Reports without what may differ between two runs of the same orders: clocks, ring sequences, and UNKNOWN."""
    names = ("kind", "code", "side", "liquidity", "instrument", "venue_seq", "order_seq", "event_ns", "tick_seq", "cum_lots", "cum_quote",
             "last_lots", "last_price", "fee", "trade_id", "balance")
    return [tuple(int(record[name]) for name in names) for record in w.collect() if record["kind"] != l.UNKNOWN]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The story of a lockstep run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        w = World(tmp_path_factory.mktemp("undisturbed"), patch, lockstep=True)
        w.start()
        play(w)
        w.check(w.stop())
        told = story(w)
        w.close()
    fills = [entry for entry in told if entry[0] == l.FILL]
    assert len(fills) >= 12
    assert {entry[0] for entry in told} >= {l.BALANCE, l.ACCEPTED, l.FILL, l.CANCELLED, l.REJECTED}
    return told


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("point", POINTS)
def test_a_lockstep_run_that_is_killed_at_any_pass_of_a_point_tells_the_same_story(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any, point: str) -> None:
    passes = 0
    while True:
        folder = tmp_path / str(passes)
        folder.mkdir()
        w = World(folder, monkeypatch, lockstep=True)
        try:
            w.start(crash_at=f"{point}:{passes + 1}")
            play(w)
            w.check(w.stop())
            if not w.deaths:
                break
            assert w.deaths == 1
            assert story(w) == undisturbed, f"after a death at {point}:{passes + 1}"
        finally:
            w.close()
        passes += 1
    assert passes >= 5, f"{point} was reached {passes} times"


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("point", POINTS)
def test_a_running_gateway_that_is_killed_sends_nothing_twice_and_ends_every_order_once(world: World, point: str, nth: int) -> None:
    world.start(crash_at=f"{point}:{nth}")
    play(world)
    world.check(world.stop())
    assert world.deaths == 1, f"{point}:{nth} was never reached"
    told = [int(record["kind"]) for record in world.records]
    if point in ("gateway.sending", "gateway.send"):
        assert told.count(l.UNKNOWN) == told.count(l.LOST) >= 1  # all of the turn that had no commit
    if point == "gateway.sent":
        assert told.count(l.UNKNOWN) >= 1
        assert l.LOST not in told


def test_a_row_whose_lots_are_of_a_fill_and_whose_state_is_not_is_put_right_by_the_report(world: World) -> None:
    """A gateway writes a fill's lots into the order's row, then its state: it may die between the two."""
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    world.journal()
    row = world.memory.gateway.gateway_orders[row_of(seq)]
    world.until(lambda: world.tick() and world.step() is None and l.FILL in world.kinds(seq))
    world.until(lambda: int(row["state"]) == l.ORD_FILLED)
    world.kill()
    assert int(row["cum_lots"]) == 30
    row["state"] = l.ORD_ACCEPTED
    world.until(lambda: world.deaths == 1 and int(row["state"]) == l.ORD_FILLED)
    world.check(world.stop())


@pytest.mark.parametrize("lockstep", [False, True])
def test_kill_at_any_moment_leaves_every_order_with_one_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any,
                                                            lockstep: bool) -> None:
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        w = World(folder, monkeypatch, lockstep=lockstep)
        w.start()
        try:
            for n in range(24):
                tick_of(w, n)
                if n % 5 == turn % 5:
                    time.sleep(0.0003 * turn)
                    w.kill()
                    w.respawn_if_dead()
                if w.lockstep:
                    w.matched()
                intents_of(w, n)
                w.journal()
                w.step()
            w.matched()
            w.check(w.stop())
            assert w.deaths >= 4
            if lockstep:
                assert story(w) == undisturbed
        finally:
            w.close()


def test_a_stop_in_the_middle_of_everything_ends_every_order(turns: World) -> None:
    turns.start()
    play(turns, ticks=6)
    turns.intent(lots=30)
    turns.intent(lots=40, side=l.SELL, purpose=l.EXIT)
    turns.check(turns.stop())
    assert turns.kinds(4)[-1] == l.CANCELLED


# ── the journal ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_entry_waits_for_the_journal(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    for _ in range(5):
        world.tick()
    world.matched()  # ticks do not wait
    time.sleep(0.1)
    assert world.kinds(seq) == []
    world.journal()
    world.until(lambda: world.kinds(seq))
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(seq))
    world.check(world.stop())


def test_an_exit_does_not_wait_long_for_a_journal_that_is_behind_nor_for_an_entry(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    bought = world.intent(lots=30)
    world.journal()
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(bought))
    entry = world.intent(lots=30)
    sold = world.intent(lots=30, side=l.SELL, purpose=l.EXIT)
    began = time.monotonic()
    world.until(lambda: world.kinds(sold))
    assert 0.015 < time.monotonic() - began < 0.5
    assert world.kinds(entry) == []
    world.until(lambda: world.kinds(entry) == [l.LOST], timeout_s=3.0)
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(sold))
    world.check(world.stop())


def test_an_entry_that_still_waits_is_cancelled_without_being_sent(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    one, two = world.intent(lots=30), world.intent(lots=30)
    world.intent(l.CANCEL, target=one)
    world.until(lambda: world.kinds(one))
    assert world.kinds(one) == [l.CANCELLED]
    world.intent(l.CANCEL_ALL)
    world.until(lambda: world.kinds(two))
    assert world.kinds(two) == [l.CANCELLED]
    statement = world.stop()
    world.check(statement)
    assert [event.kind for event in statement.events] == [l.BALANCE]


@pytest.mark.parametrize("point", ["gateway.report", "gateway.cursor"])
def test_what_was_never_sent_is_not_sent_by_a_successor(world: World, point: str) -> None:
    world.start(crash_at=f"{point}:1")
    world.quote(6_000_000, 6_000_100)
    world.until(lambda: world.deaths == 1 or world.collect(), timeout_s=3.0)
    one = world.intent(lots=30)
    world.intent(l.CANCEL, target=one)
    world.until(lambda: world.kinds(one))
    world.kill()
    world.journal()
    world.tick()
    world.matched()
    world.check(world.stop())
    assert world.kinds(one) == [l.CANCELLED]


def test_an_entry_need_not_wait_where_the_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = World(tmp_path, monkeypatch, hotpath={"durable_before_entry": False})
    w.start()
    w.quote(6_000_000, 6_000_100)
    seq = w.intent(lots=30)
    w.until(lambda: w.kinds(seq))
    w.check(w.stop())
    w.close()


def test_in_lockstep_a_turn_waits_for_the_journal_as_long_as_it_takes(turns: World) -> None:
    turns.start()
    turns.quote(6_000_000, 6_000_100)
    turns.matched()
    turns.intent(lots=30)
    turns.step()
    turns.tick()
    time.sleep(0.1)
    beat = int(turns.memory.board.processes[l.GATEWAY]["beat_ns"])
    assert ring.cursor(turns.memory.ticks.readers, l.GATEWAY) == 1
    time.sleep(0.1)
    assert int(turns.memory.board.processes[l.GATEWAY]["beat_ns"]) > beat
    turns.journal()
    turns.matched()
    turns.check(turns.stop())


def test_in_lockstep_a_tick_waits_for_the_snipers_step(turns: World) -> None:
    turns.start()
    turns.tick()
    turns.matched(1)
    turns.tick()
    time.sleep(0.05)
    assert ring.cursor(turns.memory.ticks.readers, l.GATEWAY) == 1
    turns.step()
    turns.matched(2)


# ── the account over runs ────────────────────────────────────────────────────────────────────────────────────────────
def test_an_empty_account_gets_its_deposit_and_a_later_run_a_statement(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    world.journal()
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(seq))
    first = world.stop()
    (deposit,) = [record for record in world.records if record["kind"] == l.BALANCE]
    assert (deposit["code"], deposit["balance"], deposit["order_seq"], deposit["venue_seq"]) == (0, CASH, 0, 1)
    world.segments()
    world.memory.board.cursors[0]["journaled_venue_seq"] = first.meta.venue_seq
    world.restarts = 0
    world.records.clear()
    world.start()
    statement = world.stop()
    (stated,) = world.records
    assert (stated["kind"], stated["code"], stated["balance"]) == (l.BALANCE, 1, first.meta.cash)
    assert stated["venue_seq"] == first.meta.venue_seq + 1
    assert statement.positions == first.positions
    assert statement.meta.cash == first.meta.cash


def test_events_that_were_published_and_never_journaled_are_published_again(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    world.journal()
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(seq))
    world.stop()
    before = [int(record["venue_seq"]) for record in world.records if record["venue_seq"]]
    world.segments()  # the machine is new, and the journal holds the deposit alone
    world.memory.board.cursors[0]["journaled_venue_seq"] = 1
    world.restarts = 0
    world.records.clear()
    world.start()
    world.stop()
    assert [int(record["venue_seq"]) for record in world.records] == [*before[1:], before[-1] + 1]
    assert {int(record["spare"]) for record in world.records[:-1]} == {1 << 40 | seq}


def test_behind_a_feeds_gap_nothing_is_filled_at_a_price_from_before_it(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    entry = world.intent(lots=10)
    world.journal()
    world.until(lambda: world.kinds(entry))
    world.tick(after=600_000_000_000, flags=l.FLAG_GAP)
    world.tick()
    world.matched()
    assert l.FILL not in world.kinds(entry)
    world.quote(5_900_000, 5_900_100)
    world.until(lambda: l.FILL in world.kinds(entry))
    prices = {int(record["last_price"]) for record in world.collect() if record["kind"] == l.FILL}
    assert all(5_899_000 < price < 5_902_000 for price in prices), prices


def test_orders_of_an_earlier_incarnation_end_and_are_told_apart(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30, limit=5_000_000)
    world.journal()
    world.until(lambda: world.kinds(seq))
    world.kill()  # and everything else: the machine
    seen = int(world.records[-1]["venue_seq"])
    world.segments()
    world.records.clear()
    world.restarts = 0
    world.memory.board.cursors[0]["journaled_venue_seq"] = seen
    world.start()
    world.stop()
    assert [(int(r["kind"]), int(r["order_seq"]), int(r["spare"])) for r in world.records] == [
        (l.CANCELLED, 0, 1 << 40 | seq), (l.BALANCE, 0, 0)]


@pytest.mark.parametrize(("cursor", "value", "found"), [
    ("incarnation", 1, "has seen incarnation 2"), ("journaled_venue_seq", 4711, "knows 2 events")])
def test_a_ledger_without_its_journal_is_refused_with_what_to_restore(
        world: World, capfd: pytest.CaptureFixture[str], cursor: str, value: int, found: str) -> None:
    world.start()
    world.stop()
    world.segments()
    world.start()
    world.stop()
    world.segments()
    world.memory.board.cursors[0][cursor] = value
    world.start(ready=False)
    world.process.join(5.0)
    assert world.process.exitcode == 78
    said = capfd.readouterr().err
    assert found in said
    assert "restore journal, paper and knowledge from the same backup, or start with --fresh" in said


def test_a_report_that_was_in_its_slot_but_not_behind_the_head_counts_as_published(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    world.intent(lots=30, limit=5_000_000)
    world.journal()
    world.until(lambda: len(world.collect()) == 2)
    world.kill()
    world.memory.gateway.gateway[0]["venue_seq"] = 1
    world.memory.reports.ring[0]["head"] = 1  # a reader that looks at the slots has the second one all the same
    world.tick()
    world.matched()
    assert world.memory.reports.ring[0]["head"] == 2
    world.check(world.stop())


def test_a_turn_that_is_taken_again_begins_with_the_quote_that_the_first_try_saw(turns: World) -> None:
    turns.start()
    turns.quote(6_000_000, 6_000_100)
    turns.matched()
    seq = turns.intent(lots=9)  # 5.40 USDT; at the quote below it would be beneath the minimum notional
    turns.step()
    turns.quote(3_000_000, 3_000_100)  # its turn waits for the journal
    turns.kill()
    quotes, before = turns.memory.gateway.venue_quotes, turns.memory.gateway.quote_before
    before[0] = quotes[SPOT]
    before[0]["version"] = turns.seq
    quotes[SPOT]["bid"], quotes[SPOT]["ask"] = 3_000_000, 3_000_100
    turns.journal()
    turns.matched()
    assert turns.kinds(seq) == [l.ACCEPTED]
    turns.check(turns.stop())


def test_a_doubt_about_an_order_outlives_the_process_but_a_full_disk_does_not(world: World) -> None:
    world.start()
    for cause, left in (("paper ledger: full", l.MODE_RUNNING), ("order 7: FILL in state LOST", l.MODE_SAFE)):
        world.kill()
        board.set_mode(world.memory.board.modes, l.MODE_OF_GATEWAY, l.MODE_SAFE, cause)
        world.tick()
        world.matched()
        assert world.mode()[0] == left


def test_a_ledger_that_cannot_be_opened_is_tried_again_by_another_life(world: World) -> None:
    (world.folder / "state").write_text("in the way")
    world.start(ready=False)
    world.process.join(5.0)
    assert world.process.exitcode == 1


# ── a full disk, questions, idle ─────────────────────────────────────────────────────────────────────────────────────
def test_a_ledger_that_cannot_be_written_acknowledges_nothing_and_goes_on_when_it_can(world: World) -> None:
    world.start()
    world.stop()
    world.memory.board.processes["stop"] = l.STOP_NONE
    world.memory.board.processes["state"] = l.PROC_ABSENT
    world.start(file_limit=0)
    world.quote(6_000_000, 6_000_100)
    seq = world.intent(lots=30)
    world.journal()
    world.until(lambda: world.mode()[0] == l.MODE_SAFE)
    assert world.mode()[1].startswith("paper ledger: ")
    errors = world.memory.board.activities[l.GATEWAY * l.MAX_ACTIVITIES]
    world.until(lambda: int(errors["failures"]) > 0)
    assert errors["name"] == b"ledger"
    assert errors["text"]
    assert world.kinds(seq) == []
    with_client(world, lambda client: client.ask(messages.Ping(), 1.0))
    resource.prlimit(world.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    world.until(lambda: world.kinds(seq) == [l.ACCEPTED])
    world.tick(after=5 * MS)
    world.until(lambda: world.kinds(seq)[-1] == l.FILL)
    assert world.mode()[0] == l.MODE_RUNNING
    assert int(errors["failures"]) == 0
    assert int(errors["errors"]) == int(world.memory.board.processes[l.GATEWAY]["error_count"]) > 0
    world.check(world.stop())


def with_client(world: World, ask: Any) -> Any:
    client = bus.Client(world.sockets, "gateway")
    try:
        return ask(client)
    finally:
        client.close()


def test_the_gateway_answers_what_the_venue_has(world: World) -> None:
    world.start()
    world.quote(6_000_000, 6_000_100)
    world.intent(lots=30, limit=5_000_000)
    bought = world.intent(lots=30)
    world.journal()
    world.tick(after=5 * MS)
    world.until(lambda: l.FILL in world.kinds(bought))

    def ask(client: bus.Client) -> None:
        assert client.ask(messages.Ping()) == messages.Pong(role="gateway", pid=world.process.pid)
        orders = client.ask(messages.Query(what="orders")).rows
        assert [(row["symbol"], row["lots"], row["state"]) for row in orders] == [("BTC/USDT", 30, "ACCEPTED")]
        assert client.ask(messages.Query(what="balances")).data["BTC"] == 30
        assert client.ask(messages.Query(what="positions")).rows == [{"symbol": "BTC/USDT", "lots": 30, "cost": 0}]
        assert isinstance(client.ask(messages.Query(what="weather")), messages.Refused)

    with_client(world, ask)
    world.check(world.stop())


def test_an_idle_gateway_beats_and_sleeps(world: World) -> None:
    world.start()
    before, cpu = int(world.memory.board.processes[l.GATEWAY]["beat_ns"]), cpu_s(world.process.pid)
    time.sleep(0.5)
    assert int(world.memory.board.processes[l.GATEWAY]["beat_ns"]) - before > 400 * MS
    assert cpu_s(world.process.pid) - cpu < 0.15


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_order_for_an_instrument_that_is_not_there_is_rejected(world: World) -> None:
    world.start()
    seq = world.intent(lots=30, instrument=7)
    world.journal()
    world.until(lambda: world.kinds(seq))
    assert world.kinds(seq) == [l.REJECTED]
    assert world.intents[seq]["instrument"] != SPOT
    world.check(world.stop())
