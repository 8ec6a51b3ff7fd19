"""What a running instance costs, and how soon it works: `python benchmarks/bench_instance.py [--seconds 30] [--json]`.

Topology: one paper instance as `scripts/run` starts it (simulated market at 30 × event speed, all roles), in a folder of its own, with the
live screen on a pseudo-terminal of 120 × 40 and the control socket in use. Measured:

- first tick: from the start of the `trader-launch` command until shared memory shows a tick that the sniper has processed; kernels in the cache,
  a new instance (24 h of history are generated too). The best of three starts.
- memory: the sum of PSS of the launcher, the forkserver and all roles (/proc/PID/smaps_rollup), at the end of the run.
- control: round trips of status, health, positions, conditions, orders, trades and stats in turn over one zmq DEALER socket while it trades.

Its own result is checked: the run must end with exit 0, reconciled, no tick lost. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ipc import bus, messages, segment
from ipc import layout as l

#: seconds to the first tick, MB of PSS, ms of a control round trip
FIRST_TICK_S, MOST_PSS_MB, CONTROL_P99_MS = 3.0, 300.0, 50.0
QUESTIONS = (messages.Status, messages.Health, messages.Positions, messages.Conditions, messages.Orders, messages.Trades, messages.Stats)
STARTS = 3


class Screen:
    """trader-launch on a pseudo-terminal that somebody reads."""

    def __init__(self, folder: Path, instance: str) -> None:
        self.instance = instance
        self.began = time.monotonic()
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
            launch = str(Path(sys.executable).with_name("trader-launch"))
            os.execv(launch, [launch, "paper", "--speed", "30", "--instance", instance, "--data-dir", str(folder)])
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                if not os.read(self._terminal, 65536):
                    return
            except OSError:
                return

    def first_tick_s(self) -> float:
        """Seconds from the command to the first processed tick."""
        while time.monotonic() - self.began < 120:
            try:
                memory = segment.Memory(self.instance, writable=False)
                while not int(memory.ticks.readers[l.SNIPER]["cursor"]):
                    time.sleep(0.002)
                return time.monotonic() - self.began
            except segment.SegmentError:
                time.sleep(0.002)
        raise SystemExit("no tick within 120 s; is the instance's log in the data folder?")

    def pids(self) -> list[int]:
        """The launcher and everything below it."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                children.setdefault(parent, []).append(int(entry.name))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def stop(self) -> int:
        """Ctrl-C; gives the exit code."""
        os.kill(self.pid, signal.SIGINT)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def pss_mb(pid: int) -> float:
    """Proportional set size of a process in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def name_of(pid: int) -> str:
    """What a process is called."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def round_trips_ms(instance: str, seconds: float) -> np.ndarray[Any, Any]:
    """Round trips of all questions in turn for a time."""
    client = bus.Client(bus.socket_dir(instance), "control")
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        for question in QUESTIONS:
            began = time.perf_counter()
            reply = client.ask(question(), 3.0)
            found.append((time.perf_counter() - began) * 1000)
            if not isinstance(reply, messages.Answer):
                raise SystemExit(f"{question.__name__} was answered with {reply}")
            time.sleep(0.01)
    client.close()
    return np.array(found)


def measure(seconds: float) -> dict[str, Any]:
    """All figures."""
    folder = Path(tempfile.mkdtemp(prefix="trader-bench-"))
    try:
        subprocess.run([sys.executable, "-m", "hotpath.preload"], check=True, cwd=Path(__file__).resolve().parent.parent)
        starts = []
        for number in range(STARTS):
            screen = Screen(folder, f"bench-{os.getpid()}-{number}")
            starts.append(screen.first_tick_s())
            if number < STARTS - 1:
                assert screen.stop() == 0, "an instance did not end in order"
        time.sleep(3)
        trips = round_trips_ms(screen.instance, seconds)
        memory = segment.Memory(screen.instance, writable=False)
        ticks = int(memory.ticks.readers[l.SNIPER]["cursor"])
        processes = {f"{name_of(pid)} {pid}": round(pss_mb(pid), 1) for pid in screen.pids()}
        assert screen.stop() == 0, "the instance did not end in order"
        summary = json.loads(max((folder / "runs").glob("*/summary.json")).read_text())
        assert (summary["reconciled"], summary["ticks_lost"]) == (True, 0), summary
        return {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "first_tick_s": round(min(starts), 2), "first_tick_all_s": [round(one, 2) for one in starts],
            "pss_mb": round(sum(processes.values()), 1), "pss_by_process_mb": processes,
            "control_ms": {name: round(float(np.quantile(trips, q)), 2) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
            "control_requests": len(trips), "ticks": ticks,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def targets(found: dict[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(what, measured, at most, met)."""
    rows = [("first tick, s", found["first_tick_s"], FIRST_TICK_S), ("sum of PSS, MB", found["pss_mb"], MOST_PSS_MB),
            ("control p99, ms", found["control_ms"]["p99"], CONTROL_P99_MS)]
    return [(what, measured, most, measured <= most) for what, measured, most in rows]


def main() -> int:
    """Measure, print, and say whether every target is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the control socket is asked (30)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    found = measure(options.seconds)
    rows = targets(found)
    if options.json:
        print(json.dumps({**found, "met": all(met for *_, met in rows)}))
    else:
        print(found["machine"])
        for what, measured, most, met in rows:
            print(f"{what:<18}{measured:>9}   at most {most:<6g} {'met' if met else 'NOT MET'}")
        print(f"starts, s         {found['first_tick_all_s']}")
        print(f"control, ms       {found['control_ms']} over {found['control_requests']} requests; {found['ticks']:,} ticks meanwhile")
        for name, size in found["pss_by_process_mb"].items():
            print(f"  {name:<28}{size:>7} MB")
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
