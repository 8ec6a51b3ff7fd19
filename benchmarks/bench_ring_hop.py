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

from benchmarks.frame import Row, check, instance, latency_rows, pinned, two_cores
from benchmarks.machine import clock_cost
from ipc import layout as l
from ipc import ring, wait
from ipc.atomics import monotonic_ns
from ipc.jit import kernel

TARGET_NS = 300.0
_PATIENCE_NS = 50_000_000
#: round trips before those that count
_WARM = 200


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


def _other_side(memory: Any, back: tuple[Any, Any], core: int, rounds: list[tuple[int, int, bool]]) -> None:
    os.sched_setaffinity(0, {core})
    got = np.zeros(1, l.TICK)
    for first, count, sleeping in rounds:
        answer(memory.board.processes, memory.ticks.ring, memory.ticks.slots, *back, got, first, count, sleeping)


def round_trips(cases: list[tuple[int, bool]]) -> list[Any]:
    """Round trips in ns of each case (count, through the futex), warmed up before."""
    first_core, last_core = two_cores()
    rounds = []
    first = 1
    for count, sleeping in cases:
        rounds += [(first, _WARM, sleeping), (first + _WARM, count, sleeping)]
        first += _WARM + count
    with instance(ticks=1024, instruments=1, conditions=8) as memory, instance(ticks=1024, instruments=1, conditions=8) as second:
        there, back = (memory.ticks.ring, memory.ticks.slots), (second.ticks.ring, second.ticks.slots)
        record, got = np.zeros(1, l.TICK), np.zeros(1, l.TICK)
        answer(memory.board.processes, *there, *back, got, 1, 0, False)  # compiled before the fork
        ask(memory.board.processes, *there, *back, record, got, np.zeros(0, np.int64), 1, False)
        partner = multiprocessing.get_context("fork").Process(target=_other_side, args=(memory, back, last_core, rounds), daemon=True)
        partner.start()
        taken = []
        try:
            with pinned(first_core):
                for first, count, sleeping in rounds:
                    times = np.zeros(count, np.int64)
                    wrong = ask(memory.board.processes, *there, *back, record, got, times, first, sleeping)
                    check(wrong == 0, f"{wrong} answers carried another question's number")
                    taken.append(times)
            partner.join(10)
            check(partner.exitcode == 0, "the other side did not end")
        finally:
            partner.kill()
    return taken[1::2]


def spinning_p50_ns(count: int = 200_000) -> float:
    """One way, spinning: what other benchmarks compare themselves with in their own run."""
    return float(np.median(round_trips([(count, False)])[0])) / 2


def run(quick: bool) -> list[Row]:
    """Spinning, then through the futex."""
    spun, slept = round_trips([(20_000, False), (2_000, True)] if quick else [(500_000, False), (20_000, True)])
    return [Row("ring_hop", "clock_ns", clock_cost(100_000), "ns"),
            *latency_rows("ring_hop", spun / 2, {"wait": "spin", "hops": 2 * len(spun)}, TARGET_NS),
            *latency_rows("ring_hop", slept / 2, {"wait": "futex", "hops": 2 * len(slept)})]
