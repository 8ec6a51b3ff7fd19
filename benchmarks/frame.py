"""What the benchmarks share: rows of results, checks, throw-away instances, pinning, quantiles."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ipc import layout as l
from ipc import segment


class CheckFailed(Exception):
    """The measurement is not what it says it is."""


class Skipped(Exception):
    """It cannot be measured here; the text says why."""


class Ended(SystemExit):
    """SIGTERM or Ctrl-C: whoever started something ends it on the way out; exit status 1."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.text = f"ended by {signal.Signals(number).name}"


def end_in_order() -> None:
    """From here on SIGTERM (a time-out, a CI that gives up) and Ctrl-C raise Ended in the main thread, once: what clears up is not torn out of it."""
    def once(number: int, _: Any) -> None:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, once)


def surely(clear_up: Callable[[], None]) -> None:
    """Clear up, which may be done twice; where Ended comes just then, again from the beginning."""
    try:
        clear_up()
    except Ended:
        clear_up()
        raise


def check(truth: object, text: str) -> None:
    """Raises CheckFailed."""
    if not truth:
        raise CheckFailed(text)


@dataclass(frozen=True)
class Row:
    """One figure; `target` is what is to be reached, by the side where better is larger for rates and smaller for everything else."""

    benchmark: str
    metric: str
    value: float
    unit: str
    params: dict[str, Any] = field(default_factory=dict)
    target: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.unit.startswith("1/") else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        """The row as the report file has it."""
        return {"benchmark": self.benchmark, "metric": self.metric, "value": self.value, "unit": self.unit, "params": self.params}

    def __str__(self) -> str:
        verdict = {None: "", True: f"reached {_short(self.target)}", False: f"NOT reached: {_short(self.target)}"}[self.reached]
        params = ", ".join(f"{key} {value:,}" if type(value) is int else f"{key} {value}" for key, value in self.params.items())
        return f"{self.benchmark:15} {self.metric:22} {_short(self.value):>14} {self.unit:5} {verdict:22} {params}".rstrip()


@dataclass(frozen=True)
class Missing:
    """A part of a benchmark that could not be measured, and why."""

    benchmark: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.benchmark:15} {self.what}: skipped: {self.why}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def real_data(folder: str) -> Path:
    """A folder of real market data: in the one that TRADER_REAL_DATA names, else beside the clone. Raises Skipped where it is not there."""
    root = Path(os.environ.get("TRADER_REAL_DATA") or Path(__file__).resolve().parent.parent.parent / "shared" / "data")
    if not (root / folder).is_dir():
        raise Skipped(f"no real market data in {root / folder}; name the folder above it in TRADER_REAL_DATA")
    return root / folder


def latency_rows(benchmark: str, sample: Any, params: dict[str, Any], target: float | None = None, prefix: str = "") -> list[Row]:
    """p50 (with its target), p99, p99.9 and the largest of a sample in ns."""
    rows = [Row(benchmark, f"{prefix}{name}_ns", float(np.quantile(sample, quantile)), "ns", params, target if name == "p50" else None)
            for name, quantile in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))]
    return [*rows, Row(benchmark, f"{prefix}max_ns", float(np.max(sample)), "ns", params)]


@contextmanager
def instance(ticks: int, instruments: int, conditions: int) -> Iterator[Any]:
    """Segments of an instance of its own, rings ready, nobody but the caller in it; removed at the end."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    before = os.environ.get("TRADER_SHM")
    with tempfile.TemporaryDirectory(prefix="trader-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        os.environ["TRADER_SHM"] = folder
        try:
            segment.create_all(name, ticks, instruments, conditions)
            memory = segment.Memory(name)
            for region, slots in ((memory.ticks, ticks), (memory.orders, l.RING_SLOTS), (memory.reports, l.RING_SLOTS)):
                region.ring[0]["capacity"], region.ring[0]["gated"] = slots, 1
            yield memory
            segment.remove(name)
        finally:
            if before is None:
                del os.environ["TRADER_SHM"]
            else:
                os.environ["TRADER_SHM"] = before


def two_cores() -> tuple[int, int]:
    """The first and the last core that this process may use. Raises Skipped where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Skipped("it needs two cores")
    return cores[0], cores[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """The calling thread on one core, until the end of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
