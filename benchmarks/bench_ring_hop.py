"""One-way latency of a ring between two pinned processes: half of a round trip, spinning and through the futex.

One process publishes a tick and waits for its answer on another ring, the other answers each. The record is 64 bytes, copied twice a hop with the
slot protocol of `ipc/ring.py`. The clock is read twice a round trip; its cost is reported. It checks itself: every answer carries the number of
its question.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np

from benchmarks.frame import Row, check, instance
from ipc import layout as l
from ipc import ring, wait
from ipc.atomics import monotonic_ns
from ipc.jit import kernel

TARGET_NS = 300.0
_PATIENCE_NS = 50_000_000


@kernel
def take(processes: Any, role: int, of: Any, slots: Any, seq: int, target: Any, sleeping: bool) -> None:
    """Wait for a record."""
    while ring.poll(of, slots, seq, target, 0) != ring.OK:
        if not sleeping:
            wait.spin()
            continue
        wait.prepare_sleep(processes, role)
        if ring.head(of) < seq:
            wait.sleep(processes, role, _PATIENCE_NS)
        else:
            wait.stay_awake(processes, role)


@kernel
def ask(processes: Any, out: Any, out_slots: Any, back: Any, back_slots: Any, record: Any, got: Any, times: Any, first: int, sleeping: bool) -> int:
    """Round trips; gives how many answers carried the wrong number."""
    wrong = 0
    for k in range(len(times)):
        began = monotonic_ns()
        record[0].price = first + k
        ring.publish(out, out_slots, record, 0)
        if sleeping:
            wait.ring_bells(processes, 1 << l.GATEWAY)
        take(processes, l.SNIPER, back, back_slots, first + k, got, sleeping)
        times[k] = monotonic_ns() - began
        wrong += got[0].price != first + k
    return wrong


@kernel
def answer(processes: Any, out: Any, out_slots: Any, back: Any, back_slots: Any, got: Any, first: int, count: int, sleeping: bool) -> None:
    """The other side."""
    for k in range(count):
        take(processes, l.GATEWAY, out, out_slots, first + k, got, sleeping)
        ring.publish(back, back_slots, got, 0)
        if sleeping:
            wait.ring_bells(processes, 1 << l.SNIPER)


@kernel
def clock_cost(count: int) -> float:
    """ns of one look at the clock."""
    began = monotonic_ns()
    last = began
    for _ in range(count):
        last = monotonic_ns()
    return (last - began) / count


def _other_side(memory: Any, back: Any, rounds: list[tuple[int, int, bool]]) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    got = np.zeros(1, l.TICK)
    for first, count, sleeping in rounds:
        answer(memory.board.processes, memory.ticks.ring, memory.ticks.slots, *back, got, first, count, sleeping)


def run(quick: bool) -> list[Row]:
    """Spinning, then through the futex."""
    if len(os.sched_getaffinity(0)) < 2:
        check(False, "two cores are needed")
    counts = (20_000, 2_000) if quick else (500_000, 20_000)
    with instance(ticks=1024, instruments=1, conditions=8) as memory, instance(ticks=1024, instruments=1, conditions=8) as second:
        back = (second.ticks.ring, second.ticks.slots)
        warm = 200
        rounds = [(1, warm, False), (1 + warm, warm, True), (1 + 2 * warm, counts[0], False), (1 + 2 * warm + counts[0], counts[1], True)]
        answer(memory.board.processes, memory.ticks.ring, memory.ticks.slots, *back, np.zeros(1, l.TICK), 1, 0, False)  # compiled before the fork
        partner = multiprocessing.get_context("fork").Process(target=_other_side, args=(memory, back, rounds), daemon=True)
        partner.start()
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            rows = [Row("ring_hop", "clock_ns", clock_cost(100_000), "ns")]
            record, got = np.zeros(1, l.TICK), np.zeros(1, l.TICK)
            for first, count, sleeping in rounds:
                times = np.zeros(count, np.int64)
                wrong = ask(memory.board.processes, memory.ticks.ring, memory.ticks.slots, *back, record, got, times, first, sleeping)
                check(wrong == 0, f"{wrong} answers carried another question's number")
                if count == warm:
                    continue
                parameters = {"wait": "futex" if sleeping else "spin", "hops": 2 * count}
                for name, quantile in (("p50_ns", 0.5), ("p99_ns", 0.99), ("p999_ns", 0.999)):
                    rows.append(Row("ring_hop", name, float(np.quantile(times, quantile)) / 2, "ns", parameters,
                                    TARGET_NS if name == "p50_ns" and not sleeping else None))
            partner.join(10)
            check(partner.exitcode == 0, "the other side did not end")
        finally:
            os.sched_setaffinity(0, before)
            partner.kill()
    return rows
