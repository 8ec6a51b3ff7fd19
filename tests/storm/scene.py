"""What a storm runs over: real data where there are some, an instance of the product with a busy configuration, one pass after the other.

A *pass* is one run of `trader-launch`. A recording has an end, and a paper instance cannot trade on recorded data, so a pass is a `replay` at a paced
speed with a state of its own; where no real data are, and for the last fifth of the kills, it is a `paper` instance on the simulated market, which
never ends. Replay and paper differ in three things: a replay does not fsync, it has no safe mode, and it begins with an empty account instead of
resuming.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Ended
from benchmarks.paper import descendants, end_marked, marked, remove_all
from ipc import bus, crash, segment
from ipc import layout as l
from tests.conftest import REAL_DATA

#: names the instance in the environment of each of its processes
MARK = "TRADER_STORM_INSTANCE"
#: strategies of busy.py
STRATEGIES = ("Darts", "Nets", "Pairs")
#: the process that all others come from; it has no row on the board
FORKSERVER = "forkserver"
#: those who end with it
ITS_OWN = ("feed", "reflection", "strategist")
#: heartbeat limits in ms: short ones, since every STOP waits for them
HANG_MS = {"recorder": 1000, "gateway": 800, "sniper": 500, "feed": 1000, "reflection": 2000, "strategist": 3000}
_BUSY = """
[limits]
max_open_positions = 1000
max_symbol_exposure_bps = 10000
daily_loss_bps = 10000
max_entries_per_day = 1000000
min_confidence = 0.0
max_quote_age_ms = 60000
max_order_value = 1e9
price_collar_bps = 10000
window_collar_bps = 10000
max_gross_exposure_bps = 1000000
min_equity = 0.0
duplicate_window_ms = 0
max_messages_per_s = 100000.0
max_repeats = 100000
max_adjustments = 1000
[paper]
initial_balance = 1000000.0
order_latency_ms = 300
[hotpath]
exit_collar_bps = 1
exit_retry_ms = 50
[supervise]
restart_intensity = 1000
restart_window_s = 1
backoff_first_ms = 1
backoff_most_ms = 50
"""


def recordings() -> list[Path]:
    """Files of real data that belong to one stretch of time, six minutes of four symbols; empty where there are none. See tests/conftest.py."""
    return sorted((REAL_DATA / "binance_ws_raw").glob("*usdt_20240808.gz"))


class Gone(Exception):
    """The target has ended before it could be hit."""


class Pass:
    """One run of the instance: started, looked at through its shared memory, stopped, and cleaned up whatever happens."""

    def __init__(self, folder: Path, speed: float, seed: int, files: list[Path]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.files = folder, files
        self.name = f"storm-{uuid.uuid4().hex[:8]}"
        self.words_file = folder / "crash-words"
        self.words = crash.map_words(str(self.words_file))
        config, self.log = folder / "busy.toml", folder / "launch.log"
        config.write_text(_BUSY + "".join(f"hang_{role}_ms = {limit}\n" for role, limit in HANG_MS.items()))
        busy = Path(__file__).with_name("busy.py")
        mode = ["replay", *map(str, files)] if files else ["paper"]
        self.memory: Any = None
        try:
            with self.log.open("w") as log:
                self.process = subprocess.Popen(
                    [str(Path(sys.executable).with_name("trader-launch")), *mode, "--headless", "--instance", self.name, "--data-dir", str(folder),
                     "--config", str(config), "--speed", str(speed), "--seed", str(seed), "--strategy",
                     ",".join(f"{busy}:{name}" for name in STRATEGIES)],
                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**os.environ, MARK: self.name, "TRADER_CRASH_WORDS": str(self.words_file)})
        except Ended:  # it may have been started all the same
            end_marked(f"{MARK}={self.name}")
            remove_all(self.name)
            raise

    def wait_until_running(self, patience_s: float) -> None:
        """Until every process is ready and the first order is out. Raises RuntimeError with what the instance has said."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end and self.process.poll() is None:
            if self.memory is None:
                with contextlib.suppress(segment.SegmentError, OSError):
                    self.memory = segment.Memory(self.name, writable=False)
            elif ((self.memory.board.processes["state"][: len(l.ROLES)] == l.PROC_READY).all()
                  and (self.memory.gateway.gateway_orders["order_seq"] > 0).any()):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the instance did not begin to trade: {self.text()}")

    @property
    def running(self) -> bool:
        """The launcher has not ended."""
        return self.process.poll() is None

    @property
    def stopping(self) -> bool:
        """The run comes to its end: a role has been told to stop, or the launcher has ended."""
        return not self.running or bool((self.memory.board.processes["stop"] != l.STOP_NONE).any())

    def pid(self, target: str) -> int:
        """The target's living process. Raises Gone."""
        if target == FORKSERVER:
            return self._forkserver()
        row = self.memory.board.processes[l.ROLES.index(target)]
        pid = int(row["pid"])
        if not pid or int(row["state"]) not in (l.PROC_READY, l.PROC_STARTING) or not Path(f"/proc/{pid}/stat").exists():
            raise Gone(target)
        return pid

    def _forkserver(self) -> int:
        """The launcher's one child that is no role, while every role is ready: whoever was away would have to wait for the next forkserver."""
        rows = self.memory.board.processes[: len(l.ROLES)]
        found = set(descendants(self.process.pid)) - {self.process.pid, *(int(pid) for pid in rows["pid"])}
        if len(found) != 1 or (rows["state"] != l.PROC_READY).any():
            raise Gone(FORKSERVER)
        return found.pop()

    @property
    def state_dir(self) -> Path:
        """Folder of journal/ and paper/."""
        if not self.files:
            return self.folder / "instances" / self.name
        (run,) = (self.folder / "runs").iterdir()
        return run / "state"

    def text(self) -> str:
        """The end of what the launcher has printed."""
        return self.log.read_text(errors="replace")[-2000:]

    def arm(self, role: int, point: str, passes: int) -> None:
        """The role stops itself at the n-th pass of a named point from now on."""
        words = self.words[role]
        words[crash.WORD_POINT] = 0
        words[crash.WORD_PASSES], words[crash.WORD_SIGNAL] = passes, signal.SIGSTOP
        words[crash.WORD_POINT] = crash.POINTS.index(point)

    def disarm(self) -> None:
        """No point is armed."""
        self.words[:, crash.WORD_POINT] = 0

    def stop(self, patience_s: float = 60.0) -> int:
        """An ordered stop; gives the exit code. Raises RuntimeError when it does not end."""
        self.disarm()
        self.process.send_signal(signal.SIGTERM)  # not SIGINT: at the end of the data a stop is under way, and a second Ctrl-C would kill
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the instance did not stop within {patience_s:g} s: {self.text()}") from None

    def image(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of the shared memory, "segment.region"; the mapping outlives the files."""
        found = {}
        for name, regions in l.segments(*self.memory.capacities).items():
            for region in regions:
                found[f"{name}.{region.name}"] = getattr(getattr(self.memory, name), region.name).copy()
        return found

    def end(self) -> None:
        """Whatever happened, nothing of it stays."""
        self.disarm()
        end_marked(f"{MARK}={self.name}")
        self.process.wait(10)
        remove_all(self.name)


def processes_of(name: str) -> list[int]:
    """Every living process that stems from the start of an instance, whoever its parent is now."""
    return marked(f"{MARK}={name}")


def left_behind(name: str, patience_s: float = 3.0) -> list[str]:
    """After an instance's end: processes, files in shared memory and sockets that are still there."""
    end = time.monotonic() + patience_s
    while processes_of(name) and time.monotonic() < end:
        time.sleep(0.05)
    found = [f"process {pid} still lives" for pid in processes_of(name)]
    folder = segment.instance_dir(name)
    return found + [f"{path} is left" for path in (*sorted(folder.parent.glob(f"{folder.name}*")), *sorted(bus.socket_dir(name).glob("*")))]
