"""What the benchmarks share: rows of results, checks, throw-away instances, and what the machine is."""

from __future__ import annotations

import os
import platform
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipc import layout as l
from ipc import segment


class CheckFailed(Exception):
    """The measurement is not what it says it is."""


def check(truth: object, text: str) -> None:
    """Raises CheckFailed."""
    if not truth:
        raise CheckFailed(text)


@dataclass(frozen=True)
class Row:
    """One figure; `target` is what is to be reached, by the side where better is larger for rates and smaller for times."""

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


def machine() -> dict[str, Any]:
    """Processor, cores, steal time since boot in percent, Python and numba."""
    from importlib.metadata import version

    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                 platform.processor())
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return {"processor": model, "cores": os.cpu_count(), "steal_pct": round(100 * fields[7] / max(1, sum(fields)), 2),
            "load": os.getloadavg()[0], "python": platform.python_version(), "numba": version("numba")}
