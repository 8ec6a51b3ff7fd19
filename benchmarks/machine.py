"""What a report says about the machine: processor, cores, who steals from it, and what its clock and its cores' cache lines cost."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Skipped, check, pinned, two_cores
from ipc import layout as l
from ipc.atomics import load_acquire, monotonic_ns, pause, store_release
from ipc.jit import kernel

#: round trips of the hop, and of its warm-up
_TRIPS, _WARM = 100_000, 1_000
_ASKED, _ANSWERED = range(2)


@kernel
def clock_cost(count: int) -> float:
    """ns of one look at the clock."""
    began = monotonic_ns()
    last = began
    for _ in range(count):
        last = monotonic_ns()
    return (last - began) / count


@kernel
def answer(words: Any, count: int) -> None:
    """The other core: each word that changes is answered by another one."""
    for k in range(1, count + 1):
        while load_acquire(words, _ASKED, 0) < k:
            pause()
        store_release(words, _ANSWERED, 0, k)


@kernel
def ask(words: Any, first: int, times: Any) -> None:
    """Round trips first, first + 1, …, each in ns."""
    for k in range(len(times)):
        began = monotonic_ns()
        store_release(words, _ASKED, 0, first + k)
        while load_acquire(words, _ANSWERED, 0) < first + k:
            pause()
        times[k] = monotonic_ns() - began


def _answer_on(core: int, words: Any, count: int) -> None:
    os.sched_setaffinity(0, {core})
    answer(words, count)


def hop_ns() -> float:
    """One way of a word between two pinned processes: half of the median round trip, nothing else in it but two looks at the clock a trip."""
    first, last = two_cores()
    with mmap.mmap(-1, 2 * l.CACHE_LINE) as memory:
        words = np.frombuffer(memory, l.RING, 2)
        answer(words, 0)
        ask(words, 1, np.zeros(0, np.int64))
        partner = multiprocessing.get_context("fork").Process(target=_answer_on, args=(last, words, _WARM + _TRIPS), daemon=True)
        partner.start()
        times = np.zeros(_TRIPS, np.int64)
        with pinned(first):
            ask(words, 1, np.zeros(_WARM, np.int64))
            ask(words, 1 + _WARM, times)
        partner.join(10)
        check(partner.exitcode == 0 and int(words[_ANSWERED]["head"]) == _WARM + _TRIPS, "every question of the hop was answered")
        del words
    return float(np.median(times)) / 2


def steal() -> tuple[int, int]:
    """Time that the host kept from this machine, and all time, since boot; in clock ticks of all cores."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return fields[7], sum(fields[:8])


def steal_pct(before: tuple[int, int]) -> float:
    """Share of the time since `before` that the host kept, in percent."""
    stolen, total = steal()
    return round(100 * (stolen - before[0]) / max(1, total - before[1]), 2)


def machine() -> dict[str, Any]:
    """Everything above, with the versions that compile the kernels."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                 platform.processor())
    try:
        hop: float | None = round(hop_ns(), 1)
    except Skipped:
        hop = None
    return {"processor": model, "cores": os.cpu_count(), "usable_cores": sorted(os.sched_getaffinity(0)),
            "pinning": "sched_setaffinity: two actors on the first and the last usable core", "steal_pct": steal_pct((0, 0)),
            "load": round(os.getloadavg()[0], 2), "clock_ns": round(clock_cost(200_000), 1), "core_hop_ns": hop, "kernel": platform.release(),
            "python": platform.python_version(), "numba": version("numba")}
