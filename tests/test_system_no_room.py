"""No room on a disk or in shared memory: refused at the start with the remedy; while it runs, entries stop, exits go on, and it mends itself."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.segment import instance_dir
from tests.bad_input import fill, small_filesystem
from tests.running import BUSY, Running, until

#: starts a program whose files may have 32 KB at most
SMALL_FILES = ("sh", "-c", 'ulimit -f 64 && exec "$@"', "sh")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a filesystem of its own, of 48 MB."""
    folder = tmp_path / "disk"
    with small_filesystem(folder, "48m") as why:
        if why:
            pytest.skip(why)
        yield folder


def told(running: Running) -> str:
    """What trader-launch says of its end, and nothing of how it is made."""
    assert "Traceback" not in running.text()
    return "\n".join(line for line in running.text().splitlines() if line.startswith("trader-launch: "))


def test_shared_memory_that_may_not_grow_is_refused_with_the_path_and_the_remedy(tmp_path: Path) -> None:
    running = Running(tmp_path)
    try:
        running.start(wait=False, before=SMALL_FILES)
        assert running.process is not None
        assert running.process.wait(60) == 4
        assert told(running).startswith(f"trader-launch: {instance_dir(running.name)}/")
        assert "File too large; files may not be so large here: raise ulimit -f" in told(running)
        running.leaves_nothing()
    finally:
        running.end()


@pytest.mark.parametrize("grown", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["a new instance", "one with a past"])
def test_a_start_on_a_full_disk_is_refused_with_the_folder_and_the_remedy_and_changes_nothing(grown: bool, disk: Path, tmp_path: Path) -> None:
    running = Running(disk)
    running.log = tmp_path / "launch.log"
    try:
        if grown:
            running.start()
            assert running.stop() == 0
        before = {path: path.read_bytes() for path in sorted(running.state.rglob("data.mdb"))}
        assert len(before) == 3 * grown
        ballast = fill(disk)
        running.start(wait=False)
        assert running.process is not None
        assert running.process.wait(60) == 4
        assert told(running).startswith(f"trader-launch: {disk}: its disk has ")
        assert told(running).endswith("free space there, or name another folder with --data-dir")
        assert {path: path.read_bytes() for path in sorted(running.state.rglob("data.mdb"))} == before
        running.leaves_nothing()
        ballast.unlink()
        running.start()
        assert running.stop() == 0
        assert running.summary()["reconciled"] is True
    finally:
        running.end()


def test_with_a_journal_that_cannot_grow_entries_stop_and_exits_go_on_until_it_can(tmp_path: Path) -> None:
    config = BUSY.replace("time_stop_s = 60", "time_stop_s = 240")  # so that positions are open when entries stop
    running = Running(tmp_path, config + "[safety]\ncooldown_s = 1\n")
    try:
        running.start()
        until(lambda: len([row for row in running.ctl("positions")[1]["rows"] if row["state"] in ("open", "monitoring")]) >= 3, 60, "some positions")
        recorder = int(running.row("recorder")["pid"])
        resource.prlimit(recorder, resource.RLIMIT_FSIZE, (1 << 14, resource.RLIM_INFINITY))  # not even a freed page of the journal can be used
        stuck = until(lambda: (now := running.status())["trading"] == "safe" and now, 30, "safe mode")
        held = [row for row in running.ctl("positions")[1]["rows"] if row["state"] in ("open", "monitoring")]
        assert held
        assert stuck["trading_cause"] == "journal cannot write"
        until(lambda: running.status()["open_positions"] == 0, 60, "every position is closed")
        closed = running.status()
        assert closed["trades_closed"] >= stuck["trades_closed"] + len(held)
        assert closed["entries_today"] == stuck["entries_today"], "no entry while nothing can be journaled"
        assert any(line.startswith("safe: journal cannot write; no new entries until it can") for line in closed["why_nothing"])
        problems = running.ctl("health")[1]["data"]["problems"]
        assert any("free space on its disk" in problem for problem in problems), problems
        resource.prlimit(recorder, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: running.status()["trading"] == "running", 30, "trading goes on")
        until(lambda: running.status()["entries_today"] > closed["entries_today"], 60, "a new entry")
        assert running.stop() == 0, running.text()
        assert running.summary()["reconciled"] is True
        assert running.faults() == []
        assert not any(running.summary()["restarts"].values())
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.real_data
def test_a_replay_whose_journal_cannot_grow_ends_by_itself_and_says_why(tmp_path: Path, real_data: Path) -> None:
    running = Running(tmp_path)
    try:
        running.start(str(real_data / "binance_ws_raw" / "spot_btcusdt_20240809.gz"), mode="replay", speed="20", wait=False)
        until(lambda: running.status()["phase"] == "running", 60, "it runs")
        resource.prlimit(int(running.row("recorder")["pid"]), resource.RLIMIT_FSIZE, (1 << 14, resource.RLIM_INFINITY))
        assert running.process is not None
        assert running.process.wait(60) == 5
        assert "a replay does not wait for its disk" in told(running)
        running.leaves_nothing()
    finally:
        running.end()


@pytest.mark.slow
def test_a_stop_on_a_full_disk_says_that_there_is_no_summary_and_why_and_the_next_start_runs(disk: Path, tmp_path: Path) -> None:
    running = Running(disk)
    running.log = tmp_path / "launch.log"
    try:
        running.start()
        until(lambda: running.status()["open_positions"] >= 3, 60, "some positions")
        ballast = fill(disk)
        until(lambda: running.status()["trading"] == "safe", 30, "safe mode")
        assert running.stop() == 4
        assert f"no summary could be written: {disk}" in told(running)
        assert "free space there" in told(running)
        until(lambda: not running.alive(), 3, "no process is left")
        kept = instance_dir(running.name).exists()
        assert kept == (f"They stay in {instance_dir(running.name)}" in running.log.read_text())
        ballast.unlink()
        running.start()
        assert running.stop() == 0, running.text()
        assert running.summary()["reconciled"] is True
        assert running.faults() == []
    finally:
        running.end()
