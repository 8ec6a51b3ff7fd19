"""What a recorder did not live to store, or had no room for, is stored from the rings once its run is over: each record once."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.record.records import JournalError, WriteFailed
from control.record.salvage import salvage
from control.supervise import instance
from control.supervise.instance import LaunchError
from ipc import board, messages, segment
from ipc import layout as l
from tests.recorder_stage import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = Stage(tmp_path, "salvage-test")
    yield made
    made.close()


def died(stage: Stage, crash_at: str = "") -> None:
    """200 records are stored, then a recorder dies over 90 more."""
    stage.start(crash_at)
    stage.publish(orders=100, reports=100)
    if not crash_at:
        stage.until(stage.durable)
        assert stage.process is not None
        stage.process.send_signal(signal.SIGSTOP)
        stage.publish(orders=40, reports=50)
        stage.process.kill()
    assert stage.process is not None
    assert stage.process.wait(20) == -signal.SIGKILL


def journal_dir(stage: Stage) -> Path:
    return stage.folder / "state" / "journal"


def test_records_behind_the_journals_end_are_stored_once_and_told(stage: Stage) -> None:
    died(stage)
    assert board.owed(stage.memory) == 90
    assert salvage(stage.memory, journal_dir(stage), sync=True) == 90
    stage.assert_journal_is_the_rings()
    journal = stage.journal()
    (told,) = [event for _, event in journal.events() if event.kind == "salvage"]
    assert told.data == {"orders": 40, "reports": 50}
    assert {record.run for record in journal.orders()} == {next(journal.orders()).run}
    journal.close()
    assert salvage(stage.memory, journal_dir(stage), sync=True) == 0, "nothing twice"
    stage.assert_journal_is_the_rings()


@pytest.mark.parametrize("point", ["recorder.lmdb_commit", "recorder.committed"])
def test_a_recorder_killed_around_its_commit_leaves_each_record_once(point: str, stage: Stage) -> None:
    died(stage, crash_at=point)
    assert board.owed(stage.memory) > 0, "the cursors were not moved"
    salvage(stage.memory, journal_dir(stage), sync=True)
    stage.assert_journal_is_the_rings()


@pytest.mark.parametrize("what", ["incarnation", "instance"])
def test_memory_that_was_not_recorded_into_this_journal_is_refused(what: str, stage: Stage) -> None:
    died(stage)
    if what == "incarnation":
        stage.memory.board.cursors[0]["incarnation"] = 2
    else:
        stage.memory.board.run[0]["instance_number"] = 8
    before = (journal_dir(stage) / "data.mdb").read_bytes()
    with pytest.raises(JournalError, match="is not the journal of that run"):
        salvage(stage.memory, journal_dir(stage), sync=True)
    assert (journal_dir(stage) / "data.mdb").read_bytes() == before
    with pytest.raises(JournalError, match="there is no journal any more"):
        salvage(stage.memory, stage.folder / "elsewhere", sync=True)
    assert not (stage.folder / "elsewhere").exists()


def test_the_next_start_stores_them_where_they_belong_whatever_folder_it_was_given(stage: Stage) -> None:
    died(stage)
    instance.name_state(places(stage))
    assert instance.clear_leftovers(stage.instance)
    assert not segment.instance_dir(stage.instance).exists()
    stage.assert_journal_is_the_rings()


@pytest.mark.parametrize("what", ["another journal", "another layout"])
def test_records_that_find_no_home_are_kept_and_the_start_is_refused(what: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    died(stage)
    instance.name_state(places(stage))
    if what == "another journal":
        (journal_dir(stage) / "data.mdb").unlink()
    else:
        monkeypatch.setattr(l, "LAYOUT_VERSION", l.LAYOUT_VERSION + 1)
    with pytest.raises(LaunchError, match="give them up by removing that folder"):
        instance.clear_leftovers(stage.instance)
    assert segment.instance_dir(stage.instance).exists()


def test_a_replays_segments_and_those_of_a_removed_account_are_simply_removed(stage: Stage) -> None:
    died(stage)
    assert instance.clear_leftovers(stage.instance), "a replay's: no file names a state"


def test_what_the_watchdog_could_not_tell_the_recorder_is_stored_too(stage: Stage) -> None:
    died(stage)
    unsaid = messages.Event(source="watchdog", kind="mode", text="safe mode", wall_ns=5)
    salvage(stage.memory, journal_dir(stage), sync=True, events=[unsaid])
    journal = stage.journal()
    assert unsaid in [event for _, event in journal.events()]
    journal.close()


def places(stage: Stage) -> instance.Places:
    return instance.Places(stage.instance, "stage", stage.folder, stage.folder / "state", stage.folder / "run", stage.sockets)


def test_while_the_disk_is_full_the_segments_stay_and_the_start_is_refused_with_the_remedy(stage: Stage) -> None:
    stage.start()
    stage.publish(orders=100, reports=100)
    stage.until(stage.durable)
    assert stage.process is not None
    stage.process.kill()
    stage.process.wait(20)
    stage.publish(orders=3000, reports=3000)
    instance.name_state(places(stage))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((journal_dir(stage) / "data.mdb").stat().st_size, limits[1]))
    try:
        with pytest.raises(WriteFailed):
            salvage(stage.memory, journal_dir(stage), sync=True)
        with pytest.raises(LaunchError, match="start again when they can") as caught:
            instance.clear_leftovers(stage.instance)
        assert caught.value.exit_code == instance.EXIT_NO_ROOM
        assert str(segment.instance_dir(stage.instance)) in str(caught.value)
        assert segment.instance_dir(stage.instance).exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert instance.clear_leftovers(stage.instance)
    assert not segment.instance_dir(stage.instance).exists()
    stage.assert_journal_is_the_rings()


def test_nothing_is_owed_before_a_recorder_has_begun(stage: Stage) -> None:
    assert board.owed(stage.memory) == 0
    assert int(stage.memory.board.cursors[0]["incarnation"]) == 0
