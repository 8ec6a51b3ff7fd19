"""No room on a disk or in shared memory: refused at the start with the remedy; while it runs, entries stop and it mends itself.

Exits go on while only the journal's disk is full. A paper venue that cannot write its ledger fills nothing, and its market waits for it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.record.reconcile import read_ledger
from ipc import layout as l
from ipc.segment import Memory, instance_dir
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


def test_a_paper_venue_whose_ledger_cannot_grow_stands_still_with_its_market_and_fills_everything_once_when_it_can(tmp_path: Path) -> None:
    config = BUSY.replace("time_stop_s = 60", "time_stop_s = 600")  # so that positions are open when the disk is full
    running = Running(tmp_path, config + "[safety]\ncooldown_s = 1\n[hotpath]\ntick_slots = 4096\n")
    try:
        running.start()
        until(lambda: len(held(running)) >= 2, 60, "some positions")
        memory, pids = Memory(running.name), [int(running.row(role)["pid"]) for role in ("recorder", "gateway")]
        for pid in pids:  # both are on one disk, as they mostly are; not even a page that was freed can be written again
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 12, resource.RLIM_INFINITY))
        time.sleep(0.3)  # a commit that was under way is over
        events, closing = read_ledger(running.state / "paper").venue_seq, [row["id"] for row in held(running)]
        assert closing
        for one in closing:
            running.ctl("close", one)
        until(lambda: memory.board.modes[l.MODE_OF_GATEWAY]["mode"] == l.MODE_SAFE, 30, "the gateway cannot write its ledger")
        health = until(lambda: (now := running.ctl("health")[1]["data"])["databases"]["ledger"]["writable"] is False and now, 10, "health says so")
        assert any(problem.startswith("gateway: ledger: ") for problem in health["problems"]), health["problems"]
        assert running.status()["trading"] == "safe"
        until(lambda: decided(memory) >= set(closing), 10, "every exit is decided, and waits on the order ring")
        until(lambda: stands_still(memory), 30, "the market waits for its venue")
        stuck = running.status()
        assert {row["id"] for row in running.ctl("positions")[1]["rows"]} >= set(closing), "nothing is filled that cannot be kept"
        assert read_ledger(running.state / "paper").venue_seq == events
        assert stuck["trading"] == "safe"
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: not {row["id"] for row in running.ctl("positions")[1]["rows"]} & set(closing), 30, "what was to be closed is closed")
        until(lambda: running.status()["trading"] == "running", 30, "trading goes on")
        until(lambda: running.status()["entries_today"] > stuck["entries_today"], 60, "a new entry")
        assert running.stop() == 0, running.text()
        assert running.summary()["reconciled"] is True
        assert running.faults() == [], "nothing is lost, and nothing is filled twice"
        assert not any(running.summary()["restarts"].values())
    finally:
        running.end()


def held(running: Running) -> list[dict[str, Any]]:
    """Positions that nothing closes yet."""
    return [row for row in running.ctl("positions")[1].get("rows", []) if row["state"] in ("open", "monitoring")]


def decided(memory: Memory) -> set[str]:
    """Positions whose exit is on the order ring."""
    rows = memory.orders.slots[memory.orders.slots["kind"] == l.NEW]
    return {str(int(row["position_id"])) for row in rows if row["purpose"] == l.EXIT}


def stands_still(memory: Memory) -> bool:
    """Not a tick within half a second."""
    head = int(memory.ticks.ring[0]["head"])
    time.sleep(0.5)
    return int(memory.ticks.ring[0]["head"]) == head


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
