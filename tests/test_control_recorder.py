"""The recorder as a real process: whatever it dies of, the journal holds each record once, and what is acknowledged is durable."""

from __future__ import annotations

import itertools
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from control.record import snapshot as snapshots
from control.record.records import JournalError
from hotpath.kernel import commit as tx
from hotpath.kernel.state import sniper_arrays
from ipc import board, bus, crash, messages, ring
from ipc import layout as l
from tests.journal_scene import INSTRUMENTS, NOON_NS, plan, position_fact
from tests.recorder_stage import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = Stage(tmp_path, "recorder-test")
    yield made
    made.close()


def test_both_rings_are_journaled_and_the_cursors_follow(stage: Stage) -> None:
    stage.start()
    assert stage.memory.board.cursors[0]["incarnation"] == 1
    for _ in range(20):
        stage.publish(orders=70, reports=90)
        stage.until(stage.durable)
    assert int(stage.memory.orders.readers[l.RECORDER]["cursor"]) == 1400
    assert stage.stop() == 0
    stage.assert_journal_is_the_rings()
    journal = stage.journal()
    assert [event.kind for _, event in journal.events()] == ["run_start", "run_end"]
    assert journal.run_starts()[1].data["strategies"] == ["momentum", "mean_reversion"]
    assert journal.instruments()[1] == dict(enumerate(INSTRUMENTS))
    journal.close()


def test_what_is_published_before_the_recorder_is_up_is_not_lost(stage: Stage) -> None:
    stage.publish(orders=5000, reports=5000)
    stage.start()
    stage.until(stage.durable)
    assert stage.stop() == 0
    stage.assert_journal_is_the_rings()


@pytest.mark.parametrize(("point", "nth"), [
    pytest.param(point, nth, marks=() if (point == "recorder.lmdb_commit") == (nth == 1) else pytest.mark.slow)
    for point in crash.POINTS if point.startswith("recorder.") for nth in (1, 4)])
def test_killed_at_a_crash_point_it_leaves_no_hole_and_no_duplicate(stage: Stage, point: str, nth: int) -> None:
    stage.start(f"{point}:{nth}")
    assert stage.process is not None
    for _ in range(nth):  # a commit each, the last of which kills
        before = int(stage.memory.board.cursors[0]["durable_orders"])
        stage.publish(orders=30, reports=40)
        stage.until(lambda before=before: stage.memory.board.cursors[0]["durable_orders"] > before or stage.process.poll() is not None)
    assert stage.process.wait(10) == -signal.SIGKILL, "the point was not reached"
    stage.publish(orders=30, reports=40)
    stage.start(f"{point}:{nth}")  # only the first life obeys
    stage.until(stage.durable)
    stage.publish(orders=3, reports=4)
    assert stage.stop() == 0
    stage.assert_journal_is_the_rings()


def test_killed_at_random_while_both_rings_run_it_leaves_no_hole_and_no_duplicate(stage: Stage) -> None:
    random = np.random.default_rng(7)
    for _ in range(4):
        stage.start()
        end = time.monotonic() + 0.1 + random.random() * 0.2
        while time.monotonic() < end:
            if all(ring.free_slots(region.ring, region.readers) > 50 for region in (stage.memory.orders, stage.memory.reports)):
                stage.publish(orders=7, reports=5)
        assert stage.process is not None
        stage.process.send_signal(signal.SIGKILL)
        stage.process.wait()
        stage.publish(orders=2, reports=9)
    stage.start()
    stage.until(stage.durable)
    assert stage.stop() == 0
    stage.assert_journal_is_the_rings()


def test_plans_and_events_are_durable_when_they_are_acknowledged(stage: Stage) -> None:
    stage.start()
    assert stage.ask(plan()) == messages.Planned(plan_seq=1, armed=2)
    assert stage.ask(plan("mean_reversion")) == messages.Planned(plan_seq=2, armed=2)
    assert stage.ask(messages.Event(source="watchdog", kind="restart", text="feed respawned", wall_ns=5)) == messages.Done()
    assert stage.process is not None
    stage.process.kill()
    stage.process.wait()
    stage.start()
    assert stage.ask(plan("mean_reversion")) == messages.Planned(plan_seq=2, armed=2)
    assert isinstance(stage.ask(messages.Ping()), messages.Pong)
    assert isinstance(stage.ask(messages.Operate(action="flatten")), messages.Refused)
    answer = stage.ask(messages.Query(what="events"))
    assert [row["kind"] for row in answer.rows] == ["restart", "run_start"]
    assert stage.stop() == 0


def test_requests_are_answered_at_once_although_the_recorder_sleeps(stage: Stage) -> None:
    stage.start()
    client = bus.Client(stage.sockets, "recorder")
    client.ask(messages.Ping())
    times = []
    for number in range(40):
        time.sleep(0.005)
        began = time.perf_counter()
        client.ask(plan(due_ns=NOON_NS + number) if number % 2 else messages.Query(what="orders"))
        times.append(time.perf_counter() - began)
    client.close()
    assert sorted(times)[20] < 0.02, "the bell was not rung: a sleep takes 50 ms"
    assert stage.stop() == 0


def test_a_full_disk_is_safe_mode_and_ends_by_itself(stage: Stage) -> None:
    """RLIMIT_FSIZE stands in for the full disk: LMDB cannot let its file grow."""
    stage.calm_s = 1.5
    stage.start()
    stage.publish(orders=100, reports=100)
    stage.until(stage.durable)
    assert stage.process is not None
    limits = resource.prlimit(stage.process.pid, resource.RLIMIT_FSIZE)
    size = (stage.folder / "state" / "journal" / "data.mdb").stat().st_size
    resource.prlimit(stage.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    mode = stage.memory.board.modes[l.MODE_OF_RECORDER]
    stage.publish(orders=3000, reports=3000)
    stage.until(lambda: mode["mode"] == l.MODE_SAFE)
    assert mode["cause"] == b"journal cannot write"
    assert stage.memory.board.cursors[0]["journal_ok"] == 0
    durable = int(stage.memory.board.cursors[0]["durable_orders"])
    assert isinstance(stage.ask(plan()), messages.Unavailable)
    assert isinstance(stage.ask(messages.Ping()), messages.Pong)
    beat = int(stage.memory.board.processes[l.RECORDER]["beat_ns"])
    time.sleep(0.2)
    assert int(stage.memory.board.processes[l.RECORDER]["beat_ns"]) > beat
    assert durable < 3100
    resource.prlimit(stage.process.pid, resource.RLIMIT_FSIZE, limits)
    stage.until(stage.durable)
    written = time.monotonic()
    errors = stage.memory.board.activities[l.RECORDER * l.MAX_ACTIVITIES]
    assert (errors["name"], int(errors["failures"])) == (b"journal", 0)
    stage.until(lambda: stage.ask(messages.Query(what="errors")).rows[:1] and stage.ask(messages.Query(what="errors")).rows[0]["kind"] == "recovered")
    newest, *failures = stage.ask(messages.Query(what="errors")).rows
    assert (newest["decision"], newest["activity"], newest["in_a_row"]) == ("recovered", "journal", len(failures))
    pauses = [row["pause_s"] for row in reversed(failures)]
    assert {row["decision"] for row in failures} == {"pause"}
    assert pauses[0] == pytest.approx(0.1, abs=0.01)
    assert all(later == pytest.approx(min(5.0, 2 * earlier), rel=0.05) for earlier, later in itertools.pairwise(pauses))
    assert stage.ask(messages.Query(what="errors", argument="0.0000001")).rows == []
    assert stage.ask(messages.Query(what="errors", argument="many")).code == "argument"
    stage.until(lambda: mode["mode"] == l.MODE_RUNNING)
    assert time.monotonic() - written > 1.0, "one write that worked is no disk that works"
    assert stage.ask(plan()) == messages.Planned(plan_seq=1, armed=2)
    assert stage.stop() == 0
    stage.assert_journal_is_the_rings()


def test_a_recorder_that_died_in_safe_mode_leaves_one_that_ends_it(stage: Stage) -> None:
    board.set_mode(stage.memory.board.modes, l.MODE_OF_RECORDER, l.MODE_SAFE, "journal cannot write")
    stage.calm_s = 1.5
    stage.start()
    stage.until(lambda: stage.memory.board.modes[l.MODE_OF_RECORDER]["mode"] == l.MODE_RUNNING)
    assert stage.stop() == 0


def test_a_journal_that_is_not_this_runs_is_a_permanent_fault(stage: Stage) -> None:
    stage.memory.board.cursors[0]["incarnation"] = 5
    stage.start(wait_ready=False)
    assert stage.process is not None
    assert stage.process.wait(20) == 78
    assert "holds incarnation 0, shared memory is of 5" in (stage.folder / "recorder.log").read_text()


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────
def book(stage: Stage, lots: int, intent_seq: int, report_seq: int) -> None:
    """What a sniper would have committed: one open position."""
    sniper = stage.memory.sniper
    sniper.account[0]["cash"] = 1000 - lots
    row = sniper.positions[l.MAX_STRATEGIES + 1]
    row["state"], row["lots"], row["side"], row["position_id"], row["stop_price"] = l.POS_OPEN, lots, l.BUY, 77, 42
    number = int(sniper.commit[0]["number"]) + 1
    line = sniper.commit_lines[number & 1]
    line["intent_seq"], line["report_seq"], line["event_ns"] = intent_seq, report_seq, NOON_NS + number
    sniper.commit[0]["number"] = number


def test_a_snapshot_is_stored_no_earlier_than_the_records_up_to_it(stage: Stage) -> None:
    stage.start()
    book(stage, 3, intent_seq=10, report_seq=4)  # committed, and not yet published
    stage.publish(orders=9, reports=4)
    time.sleep(1.5)
    journal = stage.journal()
    assert journal.last_snapshot() is None
    stage.publish(orders=1)
    stage.until(lambda: journal.last_snapshot() is not None)
    stored = journal.last_snapshot()
    assert stored is not None
    assert (stored.intent_seq, stored.report_seq, stored.account.cash) == (10, 4, 997)
    assert stored.positions[0].symbol == INSTRUMENTS[1].symbol
    assert (stored.positions[0].strategy, stored.positions[0].lots, stored.positions[0].stop_price) == ("mean_reversion", 3, 42)
    book(stage, 4, intent_seq=10, report_seq=4)
    assert stage.stop() == 0  # the last one is taken at the stop
    last, stored = journal.last_snapshot(), journal.cursors()
    assert last is not None
    assert (last.incarnation, last.intent_seq, last.report_seq) == (stored.incarnation, stored.orders, stored.reports)
    assert last.positions[0].lots == 4
    journal.close()


def test_a_snapshot_undoes_what_a_running_step_has_written(stage: Stage) -> None:
    book(stage, 3, intent_seq=0, report_seq=0)
    s = sniper_arrays(stage.memory)
    tx.begin(s)
    tx.touch_position(s, l.MAX_STRATEGIES + 1)
    tx.touch_account(s)
    s.positions[l.MAX_STRATEGIES + 1]["lots"] = 99
    tx.touch_position(s, l.MAX_STRATEGIES + 1)  # saved twice: the older bytes count
    s.account[0]["cash"] = -1
    taken = snapshots.Reader(stage.memory).take()
    assert taken is not None
    assert (taken.positions[0].lots, taken.account.cash) == (3, 997)
    tx.commit(s)
    taken = snapshots.Reader(stage.memory).take()
    assert taken is not None
    assert (taken.positions[0].lots, taken.account.cash) == (99, -1)


def test_no_snapshot_is_taken_of_a_sniper_that_is_undoing_its_predecessors_step(stage: Stage) -> None:
    """Between the undone lines and the empty log a copy would hold half of both, under the same commit and pid."""
    book(stage, 3, intent_seq=0, report_seq=0)
    row = stage.memory.board.processes[l.SNIPER]
    row["state"] = l.PROC_STARTING
    assert snapshots.Reader(stage.memory).take() is None
    row["state"] = l.PROC_READY
    reader, copy = snapshots.Reader(stage.memory), []

    def restarted(*arguments: object) -> int:
        copy.append(int(reader_copies(*arguments)))
        row["state"] = l.PROC_STARTING if len(copy) == 1 else l.PROC_READY
        return copy[-1]

    reader_copies, reader._copy_book = reader._copy_book, restarted
    assert reader.take() is not None
    assert len(copy) == 3, "neither while it starts nor across its start"


def test_snapshots_under_a_committing_sniper_are_always_of_one_commit(stage: Stage) -> None:
    """cash + lots is 1000 at every commit and at no moment in between."""
    book(stage, 0, intent_seq=0, report_seq=0)
    s = sniper_arrays(stage.memory)
    row = l.MAX_STRATEGIES + 1
    end = threading.Event()

    def commits() -> None:
        lots = 0
        while not end.is_set():
            lots = (lots + 1) % 500
            tx.begin(s)
            tx.touch_position(s, row)
            s.positions[row]["lots"] = lots
            tx.touch_account(s)
            s.account[0]["cash"] = 1000 - lots
            tx.commit(s)

    thread = threading.Thread(target=commits)
    reader, taken = snapshots.Reader(stage.memory), []
    thread.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            if (one := reader.take()) is not None:
                taken.append(one.account.cash + one.positions[0].lots)
    finally:
        end.set()
        thread.join()
    assert set(taken) == {1000}
    assert len(taken) > 20


def test_a_snapshot_is_written_back_into_fresh_segments(stage: Stage) -> None:
    book(stage, 3, intent_seq=0, report_seq=0)
    taken = snapshots.Reader(stage.memory).take()
    assert taken is not None
    unknown = msgspec.structs.replace(INSTRUMENTS[0], symbol="XRP/USDT")
    more = msgspec.structs.replace(taken, positions=[*taken.positions, position_fact(unknown, 9, l.BUY, 5, 50)])
    sniper = stage.memory.sniper
    for name in l.TRANSACTIONAL:
        getattr(sniper, name)[:] = np.zeros(1, getattr(sniper, name).dtype)
    with pytest.raises(JournalError, match=r"a position in XRP/USDT of strategy momentum is open, which this run does not have"):
        snapshots.write_back(more, stage.memory)
    for name in l.TRANSACTIONAL:
        getattr(sniper, name)[:] = np.zeros(1, getattr(sniper, name).dtype)
    snapshots.write_back(taken, stage.memory)
    row, state = sniper.positions[l.MAX_STRATEGIES + 1], sniper.instrument_states[1]
    assert (int(row["lots"]), int(row["state"]), int(row["stop_price"]), int(row["position_id"])) == (3, l.POS_OPEN, 42, 77)
    assert (int(row["instrument"]), int(row["strategy"])) == (1, 1)
    assert (int(state["open_mask"]), int(state["exposure_lots"])) == (2, 3)
    assert (int(sniper.account[0]["cash"]), int(sniper.account[0]["open_positions"])) == (997, 1)


def test_a_snapshot_has_every_field_of_the_layout() -> None:
    for struct, dtype, left in ((snapshots.Account, l.ACCOUNT, {"latched", "entries_due_ns", "paper_positions"}),
                                (snapshots.Aftermath, l.AFTERMATH, {"strategy", "instrument"}),
                                (snapshots.Position, l.POSITION, {"strategy", "instrument", "open_index", "adjusted_tick"}),
                                (snapshots.Working, l.WORKING, {"position_row"})):
        assert dtype.names is not None
        assert set(struct.__struct_fields__) - {"symbol", "strategy", "told"} == {name for name in dtype.names if not name.startswith("_")} - left
