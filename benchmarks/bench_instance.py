"""A whole paper instance as a user starts it: time to the first tick, memory of all its processes, answers of the control socket.

    python benchmarks/bench_instance.py [--json] [--starts N] [--requests N] [--settle SECONDS]

Topology: `scripts/run` on the simulated market at 30 × event speed with all default symbols and strategies (launcher, forkserver, six
roles), once headless and once with the live screen on a pseudo-terminal of 120 × 40; one client of the control socket in this process.
With another Python than the project's own .venv, the `trader-launch` beside that Python is started instead.

Method
- First tick: from just before the command to the sniper's tick cursor in shared memory ≥ 1, looked at every 5 ms. One start before is not
  counted (it prepares what is missing and warms the page cache), then the best of `--starts`.
- Memory: Pss of /proc/PID/smaps_rollup, summed over the launcher and all that descend from it, `--settle` seconds after the first tick.
- Control: one request each 20 ms, status, health, stats, positions, conditions, orders, trades, ping and pause with resume in turn. A round
  trip counts from the instant it was *meant* to be sent, so that one slow answer also counts for those that waited behind it.

It checks itself: every process that maps the instance's segments is in the sum, all requests got the answer that belongs to them, no tick is
lost, the screen was drawn, the instance ends with exit code 0 and reconciles. Exit code 1 when a target is missed, 2 when a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipc import bus, messages
from ipc import layout as l
from ipc.segment import Memory, SegmentError, shared_root

ROOT = Path(__file__).resolve().parent.parent
#: what must be met: seconds, MB, ms
FIRST_TICK_S, PSS_MB, CONTROL_P99_MS = 3.0, 300.0, 50.0
#: seconds between two requests
PACE_S = 0.02
#: seconds that a start, or a stop, may take before it counts as failed; the first start may compile
PATIENCE_S, COMPILE_PATIENCE_S = 40.0, 600.0
COLUMNS, ROWS = 120, 40
#: requests in turn, and the answers that belong to them
MIX: tuple[tuple[Any, type], ...] = (
    (messages.Status(), messages.Answer), (messages.Positions(), messages.Answer), (messages.Health(), messages.Answer),
    (messages.Conditions(), messages.Answer), (messages.Stats(), messages.Answer), (messages.Orders(limit=50), messages.Answer),
    (messages.Status(), messages.Answer), (messages.Trades(limit=50), messages.Answer), (messages.Ping(), messages.Pong),
    (messages.Pause(), messages.Done), (messages.Resume(), messages.Done),
)


class CheckFailed(Exception):
    """The measurement is not what it says it is."""


def check(truth: object, text: str) -> None:
    """Raises CheckFailed."""
    if not truth:
        raise CheckFailed(text)


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
        self.folder, self.screen, self.name, self._line = folder, screen, f"bench-{uuid.uuid4().hex[:8]}", line
        self._environment = {**os.environ, **(environment or {})}
        self._drawn = bytearray()
        self._memory: Memory | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = PATIENCE_S) -> float:
        """Start it; gives seconds from the command to the first tick that the sniper has processed."""
        line = [*self._line, "--instance", self.name, "--data-dir", str(self.folder), *(() if self.screen else ("--headless",))]
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

    def end(self) -> None:
        """Whatever happened, nothing of it stays: the children leave by themselves when the launcher is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


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


# ── the benchmark ────────────────────────────────────────────────────────────────────────────────────────────────────
def bench(folder: Path, screen: bool, starts: int, requests: int, settle_s: float) -> dict[str, Any]:
    """All figures of one way to start it."""
    instance = Instance(folder, screen, command())
    try:
        instance.start(COMPILE_PATIENCE_S)
        instance.stop()
        first_ticks = []
        for left in reversed(range(starts)):
            first_ticks.append(instance.start())
            if left:
                instance.await_ready()
                instance.stop()
        began, before = time.monotonic(), instance.ticks()
        instance.await_ready()
        took = instance.round_trips_ms(requests)
        time.sleep(max(0.0, began + settle_s - time.monotonic()))
        ticks_per_s = (instance.ticks() - before) / (time.monotonic() - began)
        processes = instance.processes()
        summary = instance.stop()
    finally:
        instance.end()
    return {
        "first_tick_s": min(first_ticks), "first_ticks_s": first_ticks, "pss_mb": sum(one.pss for one in processes),
        "processes": [vars(one) for one in processes], "requests": len(took), "control_p50_ms": quantile(took, 0.5),
        "control_p99_ms": quantile(took, 0.99), "control_max_ms": max(took), "ticks_per_s": ticks_per_s, "fills": summary["fills"],
    }


def machine() -> str:
    """What it ran on."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    load = os.getloadavg()[0]
    return (f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
            f"Python {platform.python_version()}; load before: {load:.1f}")


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Each target, met or not."""
    return {"first_tick_s": figures["first_tick_s"] < FIRST_TICK_S, "pss_mb": figures["pss_mb"] <= PSS_MB,
            "control_p99_ms": figures["control_p99_ms"] <= CONTROL_P99_MS}


def show(name: str, figures: dict[str, Any]) -> None:
    """One table for people."""
    verdict = {key: "met" if true else "NOT MET" for key, true in met(figures).items()}
    every = ", ".join(f"{one:.2f}" for one in figures["first_ticks_s"])
    print(f"\n{name}")
    print(f"  {'':30}{'measured':>12}  {'target':<10}")
    for text, value, target, key in (
        ("first tick, best", f"{figures['first_tick_s']:.2f} s", f"< {FIRST_TICK_S:g} s", "first_tick_s"),
        ("memory, sum of PSS", f"{figures['pss_mb']:.0f} MB", f"≤ {PSS_MB:g} MB", "pss_mb"),
        ("control round trip, p99", f"{figures['control_p99_ms']:.1f} ms", f"≤ {CONTROL_P99_MS:g} ms", "control_p99_ms"),
        ("control round trip, p50", f"{figures['control_p50_ms']:.1f} ms", "", ""),
        ("control round trip, max", f"{figures['control_max_ms']:.1f} ms", "", ""),
        ("ticks", f"{figures['ticks_per_s']:,.0f} /s", "", ""),
    ):
        print(f"  {text:30}{value:>12}  {target:<10}{verdict.get(key, '')}".rstrip())
    print(f"  starts: {every} s; {figures['requests']} requests; {figures['fills']} fills")
    for one in figures["processes"]:
        print(f"    {one['name']:12}{one['pss']:8.1f} MB PSS{one['rss']:8.1f} MB RSS")


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the tables")
    parser.add_argument("--starts", type=int, default=5, help="counted starts of each way (5)")
    parser.add_argument("--requests", type=int, default=1000, help="control requests of each way (1000)")
    parser.add_argument("--settle", type=float, default=30.0, metavar="SECONDS", help="from the first tick to the look at memory (30)")
    options = parser.parse_args()
    results, where = {}, machine()
    for name, screen in (("headless", False), ("live screen", True)):
        folder = Path(tempfile.mkdtemp(prefix="trader-bench-"))
        try:
            results[name] = bench(folder, screen, options.starts, options.requests, options.settle)
        except CheckFailed as error:
            print(f"bench_instance: {name}: {error}", file=sys.stderr)
            return 2
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({"machine": where, "results": results, "met": {name: met(figures) for name, figures in results.items()}}))
    else:
        print(where)
        for name, figures in results.items():
            show(name, figures)
    return 0 if all(true for figures in results.values() for true in met(figures).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
