"""A whole paper instance as a user starts it: its first tick, the memory of all its processes, round trips of its control socket.

The simulated market at 30 × event speed with all default symbols and strategies (launcher, forkserver, six roles), headless or with the live screen
on a pseudo-terminal of 120 × 40. `scripts/run` starts it in the project's own .venv; with another Python the `trader-launch` beside that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import check, surely
from ipc import bus, messages, segment
from ipc import layout as l
from ipc.segment import Memory, SegmentError, shared_root

ROOT = Path(__file__).resolve().parent.parent
#: what must be met by any start of the tests: seconds, MB, ms
FIRST_TICK_S, PSS_MB, CONTROL_P99_MS = 3.0, 300.0, 50.0
#: seconds between two requests
PACE_S = 0.02
#: seconds that a start, or a stop, may take before it counts as failed; the first start may compile
PATIENCE_S, COMPILE_PATIENCE_S = 40.0, 600.0
COLUMNS, ROWS = 120, 40
#: names the instance in the environment of each of its processes
MARK = "TRADER_BENCH_INSTANCE"
#: requests in turn, and the answers that belong to them
MIX: tuple[tuple[Any, type], ...] = (
    (messages.Status(), messages.Answer), (messages.Positions(), messages.Answer), (messages.Health(), messages.Answer),
    (messages.Conditions(), messages.Answer), (messages.Stats(), messages.Answer), (messages.Orders(limit=50), messages.Answer),
    (messages.Status(), messages.Answer), (messages.Trades(limit=50), messages.Answer), (messages.Ping(), messages.Pong),
    (messages.Pause(), messages.Done), (messages.Resume(), messages.Done),
)


def launcher() -> list[str]:
    """The trader-launch of the Python that runs this, as scripts/run calls it in the end."""
    return [str(Path(sys.executable).parent / "trader-launch"), "paper", "--speed", "30"]


def command() -> list[str]:
    """scripts/run in the project's own .venv, else the launcher alone: another environment is not to be prepared by a benchmark."""
    return [str(ROOT / "scripts" / "run")] if Path(sys.prefix) == ROOT / ".venv" else launcher()


@dataclass
class Process:
    """One row of the memory table, in MB."""

    name: str
    pid: int
    pss: float
    rss: float


class Instance:
    """A paper instance under a name of its own in `folder`; with `screen` on a pseudo-terminal, else headless."""

    def __init__(self, folder: Path, screen: bool, line: list[str], environment: dict[str, str] | None = None) -> None:
        self.folder, self.screen, self.name, self.line = folder, screen, f"bench-{uuid.uuid4().hex[:8]}", line
        # as on a user's machine, Python may keep the bytecode of a first start
        self._environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | (environment or {})
        self._environment[MARK] = self.name
        self._drawn = bytearray()
        self._memory: Memory | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = PATIENCE_S) -> float:
        """Start it; gives seconds from the command to the first tick that the sniper has processed."""
        line = [*self.line, "--instance", self.name, "--data-dir", str(self.folder), *(() if self.screen else ("--headless",))]
        self._memory = None
        self._drawn.clear()
        began = time.monotonic()
        self.process = self._on_terminal(line) if self.screen else self._into_file(line)
        while not self.ticks():
            took = time.monotonic() - began
            check(self.process.poll() is None, f"the instance ended with exit code {self.process.poll()}: {self.text()}")
            check(took < patience_s, f"no tick within {patience_s:g} s: {self.text()}")
            time.sleep(0.005)
        return time.monotonic() - began

    def _into_file(self, line: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "launch.log").open("wb") as log:
            return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True)

    def _on_terminal(self, line: list[str]) -> subprocess.Popen[bytes]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        process = subprocess.Popen(line, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                   env={**self._environment, "TERM": "xterm-256color"})
        os.close(slave)
        threading.Thread(target=self._drain, args=(master,), daemon=True).start()
        return process

    def _drain(self, master: int) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody holds the other side any more
            while piece := os.read(master, 65536):
                self._drawn += piece
                del self._drawn[:-200_000]
        os.close(master)

    def text(self) -> str:
        """The end of what it has printed or drawn."""
        return self._drawn[-3000:].decode(errors="replace") if self.screen else (self.folder / "launch.log").read_text()[-3000:]

    def memory(self) -> Memory:
        """Its segments, read only. Raises SegmentError while they are not there."""
        if self._memory is None:
            self._memory = Memory(self.name, writable=False)
        return self._memory

    def ticks(self) -> int:
        """Ticks that the sniper has processed, 0 while there is no instance."""
        try:
            return int(self.memory().ticks.readers[l.SNIPER]["cursor"])
        except (SegmentError, OSError):
            return 0

    def await_ready(self) -> None:
        """Until every role is healthy."""
        states = self.memory().board.processes["state"][: len(l.ROLES)]
        end = time.monotonic() + PATIENCE_S
        while not (states == l.PROC_READY).all():
            check(time.monotonic() < end, f"not ready within {PATIENCE_S:g} s")
            time.sleep(0.01)

    # ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def processes(self) -> list[Process]:
        """The launcher and all that descend from it, with what they take now."""
        assert self.process is not None
        pids = descendants(self.process.pid)
        strangers = mapping(str(shared_root() / f"trader-{self.name}")) - set(pids) - {os.getpid()}
        check(not strangers, f"processes {sorted(strangers)} use the instance's memory and are not in the sum")
        roles = {int(row["pid"]): name for name, row in zip(l.ROLES, self.memory().board.processes, strict=False)}
        check(set(roles) <= set(pids), f"roles {sorted(set(roles) - set(pids))} are not in the sum")
        return [measured(pid, roles.get(pid) or ("launcher" if pid == self.process.pid else "forkserver")) for pid in pids]

    def segments_mb(self) -> float:
        """Shared memory that its segments reserve, in MB."""
        return sum(path.stat().st_size for path in (shared_root() / f"trader-{self.name}").iterdir() if path.is_file()) / 2**20

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def round_trips_ms(self, requests: int) -> list[float]:
        """So many requests of the mix, one each PACE_S, each counted from when it was meant to be sent."""
        client = bus.Client(bus.socket_dir(self.name), "control")
        took = []
        try:
            began = time.monotonic()
            for number in range(requests):
                due = began + number * PACE_S
                time.sleep(max(0.0, due - time.monotonic()))
                request, answer = MIX[number % len(MIX)]
                reply = client.ask(request, 5.0)
                took.append((time.monotonic() - due) * 1000)
                check(isinstance(reply, answer), f"{request} was answered {reply}")
        finally:
            client.close()
        return took

    # ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def stop(self) -> dict[str, Any]:
        """Ctrl-C; gives summary.json. Checks exit code, books and lost ticks."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE_S)
        check(code == 0, f"ended with exit code {code}: {self.text()}")
        summary: dict[str, Any] = json.loads(max((self.folder / "runs").glob("*/summary.json")).read_text())
        check(summary["reconciled"], "the books do not reconcile")
        check(summary["ticks_lost"] == 0 and summary["ticks_processed"] == summary["ticks_published"], f"ticks are missing: {summary}")
        check(not self.screen or b"SIMULATED MARKET" in self._drawn, "no screen was drawn")
        return summary

    def stopped(self) -> dict[str, Any]:
        """Once every role is healthy: `stop`."""
        self.await_ready()
        return self.stop()

    def end(self) -> None:
        """Whatever happened, nothing of it stays: no process, no segment, no socket."""
        end_marked(f"{MARK}={self.name}")
        if self.process is not None:
            self.process.wait(PATIENCE_S)
        remove_all(self.name)


def marked(mark: str) -> list[int]:
    """Every living process that has `mark`, NAME=value, in its environment: all that stem from one start, whoever their parents are now."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_marked(mark: str) -> None:
    """Kill them, and those that they start meanwhile. Raises CheckFailed where some do not end."""
    end = time.monotonic() + PATIENCE_S
    while pids := marked(mark):
        check(time.monotonic() < end, f"processes {pids} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove_all(name: str) -> None:
    """An instance's files in shared memory, its lock, and its sockets; nobody is there any more."""
    folder = segment.instance_dir(name)
    for one in (folder, bus.socket_dir(name)):
        shutil.rmtree(one, ignore_errors=True)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)


def descendants(root: int) -> list[int]:
    """`root` and every living process below it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    parents.setdefault(int(words[1]), []).append(int(folder.name))
    found, new = [root], [root]
    while new:
        new = [child for parent in new for child in parents.get(parent, ())]
        found += new
    return found


def mapping(path: str) -> set[int]:
    """Pids of this user's processes that map a file below `path`."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{path}/" in (folder / "maps").read_text():
                    found.add(int(folder.name))
    return found


def measured(pid: int, name: str) -> Process:
    """Memory of one process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    megabytes = {key: int(kilobytes) / 1024 for key, kilobytes in re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE)}
    check(0 < megabytes["Pss"] <= megabytes["Rss"], f"{pid}: {megabytes}")
    return Process(name, pid, megabytes["Pss"], megabytes["Rss"])


def quantile(sample: list[float], share: float) -> float:
    """The smallest value that at least `share` of the sample do not exceed."""
    ordered = sorted(sample)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1))]


@contextlib.contextmanager
def paper(screen: bool = False, environment: dict[str, str] | None = None, line: list[str] | None = None) -> Iterator[Instance]:
    """An instance that is not started yet, in a folder of its own; nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="trader-bench-") as folder:
        made = Instance(Path(folder), screen, line or command(), environment)
        try:
            yield made
        finally:
            surely(made.end)
