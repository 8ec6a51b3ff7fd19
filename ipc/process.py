"""What a child process is given (Boot), and what it holds while it runs (Child). Imports no numba: the watchdog makes Boots."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from ipc import board
from ipc import layout as l
from ipc.segment import Memory

#: modes of runs that can be made again: nothing of theirs is worth an fsync
REPEATABLE = ("replay", "backtest")


class Source(Struct, frozen=True):
    """A file to replay and the unified symbol of what it holds."""

    path: str
    symbol: str


class Boot(Struct, frozen=True, kw_only=True):
    """All that a child needs to start; travels as JSON bytes through the forkserver.

    mode: "paper" | "replay" | "backtest"; market: "simulated" | "replay".
    sections: config sections by name as JSON ("limits", "paper", "hotpath", "strategy", …); each room decodes its own Struct.
    run_dir: this run's folder (logs/, summary.json, fills.bin).
    state_dir: LMDB environments of the instance (journal/, paper/, knowledge/).
    speed: event seconds a wall second; 0 = as fast as the slowest reader.
    start_event_ns: event time at which the simulated market starts (resumed: where it stopped).
    restarts: 0 in the first life of this role in this run.
    config_version: rises with each run of the instance whose configuration is another one than the last run's.
    """

    role: str
    instance: str
    mode: str
    market: str
    run_id: str
    run_dir: str
    state_dir: str
    socket_dir: str
    sections: dict[str, msgspec.Raw] = {}
    strategies: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    speed: float = 1.0
    lockstep: bool = False
    seed: int = 0
    flatten_at_end: bool = False
    start_event_ns: int = 0
    restarts: int = 0
    config_version: int = 1

    def section(self, name: str, struct: type[Any]) -> Any:
        """A config section as its Struct; its defaults where the config says nothing."""
        raw = self.sections.get(name)
        return struct() if raw is None else msgspec.json.decode(raw, type=struct)


@dataclass
class Child:
    """A running child: its number, its memory, its log. `main(child)` of each role's module gets one, holding the role's lock already.

    `told` is a stop word from elsewhere than the watchdog: SIGTERM, or the watchdog's death.
    """

    boot: Boot
    role: int
    memory: Memory
    log: logging.Logger
    told: int = l.STOP_NONE

    @property
    def processes(self) -> Any:
        """The board's process rows."""
        return self.memory.board.processes

    def ready(self) -> None:
        """Everything is set up and recovered; the watchdog may go on with the next role."""
        board.announce(self.processes, self.role, l.PROC_READY)

    def stopping(self) -> int:
        """STOP_NONE, STOP_DRAIN or STOP_NOW."""
        return max(int(self.processes[self.role]["stop"]), self.told)

    def beat(self, progress: int, event_ns: int = 0) -> None:
        """Heartbeat from Python."""
        board.beat(self.processes, self.role, progress, event_ns)

    def metric(self, name: str, amount: int = 1) -> None:
        """Add to one of this role's METRICS."""
        self.processes[self.role]["metrics"][l.METRICS[self.role].index(name)] += amount

    def set_metric(self, name: str, value: int) -> None:
        """Set one of this role's METRICS."""
        self.processes[self.role]["metrics"][l.METRICS[self.role].index(name)] = value
