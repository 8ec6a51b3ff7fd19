"""A real instance under test: trader-launch as a process of its own, asked with trader-ctl, killed with signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control.record.journal import Journal, decode_event
from control.record.reconcile import Recomputation, read_ledger
from control.serve import ctl
from ipc import bus
from ipc import layout as l
from ipc.segment import instance_dir
from tests.books import Books, book_disagrees, fills_disagree, fills_file

BIN = Path(sys.executable).parent
#: names the instance in the environment of each of its processes
MARK = "RUNNING_UNDER_TEST"
#: minute at which the simulated market of a new instance begins; TESTS_BEGIN in the environment names another (now: that of the clock)
BEGIN = "2026-01-05T12:00"
#: many small trades on the simulated market, and no limit that ends them
BUSY = """
[limits]
max_entries_per_day = 100000
min_confidence = 0.0
[strategy]
range_minutes = 1
mean_minutes = 5
interval_s = 10
candle_s = 10
stretch_sigma = 0.5
stretch_least_bps = 1.0
time_stop_s = 60
"""


def until(condition: Callable[[], Any], patience_s: float, what: str) -> Any:
    """What `condition` gives as soon as it is true. Fails with `what` when the time is over."""
    end = time.monotonic() + patience_s
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {patience_s:g} s: {what}"
        time.sleep(0.02)
    return result


class Running:
    """One instance in a folder; start it as often as you like."""

    def __init__(self, folder: Path, config: str = BUSY) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, f"test-{uuid.uuid4().hex[:8]}"
        self.config = folder / "busy.toml"
        self.config.write_text(config)
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "launch.log"

    def start(self, *arguments: str, mode: str = "paper", speed: str = "30", wait: bool = True, before: tuple[str, ...] = ()) -> None:
        """trader-launch, headless; with `wait` until every process is ready. `before` is a program that starts it, such as nohup."""
        begin = ("--begin", os.environ.get("TESTS_BEGIN", BEGIN)) if mode == "paper" else ()  # the same prices at every time of day
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, str(BIN / "trader-launch"), mode, "--headless", "--instance", self.name, "--data-dir", str(self.folder), "--config",
                 str(self.config), "--speed", speed, "--seed", "7", *begin, *arguments],
                stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True, env={**os.environ, MARK: self.name})
        if wait:  # the first start of all may have to compile the kernels
            until(lambda: self.process is None or self.process.poll() is not None or self.status()["phase"] == "running", 240, "it runs")
            assert self.process.poll() is None, self.text()

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def ctl(self, *arguments: str) -> tuple[int, Any]:
        """(exit code, reply) of a trader-ctl command. In this process: a program of its own takes a third of a second to begin."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = ctl.main(["--instance", self.name, "--json", *arguments])
        return code, json.loads(printed.getvalue()) if printed.getvalue().strip() else {}

    def status(self) -> dict[str, Any]:
        """The facts of `trader-ctl status`; {"phase": ""} while nobody answers."""
        _, reply = self.ctl("status")
        return dict(reply.get("data") or {"phase": ""})

    def row(self, role: str) -> dict[str, Any]:
        """A process as status shows it."""
        _, reply = self.ctl("status")
        rows: list[dict[str, Any]] = reply["rows"]
        return next(row for row in rows if row["role"] == role)

    def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        """A signal to a role's process; gives its pid."""
        pid = int(self.row(role)["pid"])
        os.kill(pid, number)
        return pid

    def forkserver(self) -> int:
        """Its pid, as the parent of a child that does not die with it."""
        return int(Path(f"/proc/{self.row('sniper')['pid']}/stat").read_text().rpartition(")")[2].split()[1])

    def journal(self) -> Journal:
        """Its journal, to be read while it runs."""
        return Journal(self.state / "journal")

    def last_fill_ns(self) -> int:
        """Event time of the newest fill; 0 before the first, and before there is a journal."""
        if not (self.state / "journal" / "data.mdb").exists():
            return 0
        journal = self.journal()
        try:
            return max((int(record.row["event_ns"]) for record in journal.newest("reports", 400) if record.row["kind"] == l.FILL), default=0)
        finally:
            journal.close()

    def last_order(self) -> tuple[int, int]:
        """(incarnation, sequence) of the newest order-ring record."""
        journal = self.journal()
        try:
            (newest,) = journal.newest("orders", 1)
            return newest.incarnation, newest.seq
        finally:
            journal.close()

    def newest_event_ns(self) -> int:
        """Event time up to which the journal goes."""
        journal = self.journal()
        try:
            return journal.last_event_ns()
        finally:
            journal.close()

    def events(self) -> list[Any]:
        """What the journal has of processes and operators, oldest first."""
        journal = self.journal()
        try:
            return [decode_event(record.payload) for record in journal.newest("events", 1000)][::-1]
        finally:
            journal.close()

    def open_at_the_end(self) -> list[str]:
        """Symbols of the positions that are open by the journal's orders and fills, the last snapshot or not."""
        if not (self.state / "journal" / "data.mdb").exists():
            return []
        journal = self.journal()
        try:
            work = Recomputation(journal)
            work.read()
            return [trip.symbol for trip in work.trips.values() if trip.lots]
        finally:
            journal.close()

    def identity(self) -> int:
        """The instance's number, which is part of every order id."""
        return int(json.loads((self.state / "instance.json").read_text())["number"])

    @property
    def state(self) -> Path:
        """Folder of what a paper instance resumes from."""
        return self.folder / "instances" / self.name

    def stop(self, number: int = signal.SIGINT, patience_s: float = 40) -> int:
        """An ordered stop by a signal; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(patience_s)

    def summary(self) -> dict[str, Any]:
        """summary.json of the last run that has one."""
        newest = max((self.folder / "runs").glob("*/summary.json"))
        return dict(json.loads(newest.read_text()))

    def faults(self) -> list[str]:
        """After an ordered stop: whatever is wrong with its books, in words."""
        newest = max((self.folder / "runs").glob("*/summary.json"))
        journal = self.journal()
        try:
            books = Books(journal)
            return [*books.faults(), *fills_disagree(books, fills_file(newest.with_name("fills.bin"))),
                    *book_disagrees(journal, read_ledger(self.state / "paper"))]
        finally:
            journal.close()

    def alive(self) -> list[int]:
        """Every living process that stems from a start of it, whoever its parent is now: they inherit a mark in their environment."""
        if self.process is not None:
            self.process.poll()
        mark = f"{MARK}={self.name}".encode()
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and mark in _environment(entry)]

    def kill_everything(self, memory: bool = True) -> None:
        """Launcher and children at once; with `memory` their shared memory is gone too, as when the machine dies."""
        assert self.process is not None
        pids = self.alive()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(5)
        until(lambda: not self.alive() and not any(map(_holds_files, pids)), 5, "all are dead")
        if memory:
            shutil.rmtree(instance_dir(self.name), ignore_errors=True)

    def leaves_nothing(self) -> None:
        """No process, no segment, no socket."""
        until(lambda: not self.alive(), 3, f"no process is left: {self.alive()}")  # the forkserver ends just behind the launcher
        assert not instance_dir(self.name).exists()
        assert list(bus.socket_dir(self.name).glob("*.sock")) == []

    def end(self) -> None:
        """Whatever happened in the test, nothing of it stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        end = time.monotonic() + 12
        while self.alive() and time.monotonic() < end:
            time.sleep(0.1)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in (instance_dir(self.name), bus.socket_dir(self.name)):
            shutil.rmtree(folder, ignore_errors=True)
        instance_dir(self.name).with_name(f"{instance_dir(self.name).name}.lock").unlink(missing_ok=True)


def _holds_files(pid: int) -> bool:
    """Whether a killed process may still have files open, locks of LMDB among them: its memory, and so its environment, goes before. While such a
    lock is held, a reader is told of the commit before the one in which a writer was killed."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def _environment(process: Path) -> list[bytes]:
    """Of a process of /proc; empty for one that has ended, and for a zombie."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
