"""Swapping plans under the loop: from a plan received to its conditions armed, and what the loop feels of it, while 100,000 ticks/s flow.

The sniper's process is built as in a run: its loop in a thread on the last core, its control thread beside the publisher on the first. The publisher
sends 50 ticks each 0.5 ms and sleeps in between. `benchmarks/firing.py`'s plan stays armed for one strategy and goes on firing; plans of another
strategy, dormant, are swapped as fast as they come, one each 20 ms: 1,000 conditions in one message, 100,000 in parts. A swap counts from the bytes
of the first message (all are decoded in it) to the commit by which the loop has taken its generation. The loop's worst stall is the longest way from
a tick's stamp to its intent, by the loop's own histogram (one tick of ten has one): phases with and without swaps follow in turn, and the longest of
each are compared. A host that takes the core away does so in any of them, so the medians of the phases' longest are told, too. In a third kind of
phase the control thread holds the GIL for 2 s.

It checks itself: no tick is lost, the orders of all phases are exactly the oracle's, every plan was armed whole under its number.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

import msgspec
import numpy as np

from benchmarks import actors, firing
from benchmarks.frame import Missing, Row, check, pinned, two_cores
from benchmarks.market import EVENT_NS, STRATEGIES, compiled_plan, dormant, parts_of
from control.record.summary import latencies
from hotpath.armoury import Armoury
from hotpath.kernel import loop
from ipc import layout as l
from ipc import messages, wait

#: ns that arming may take at p99, and what a stall may be longer with swaps, ns
ONE_P99_NS, PARTS_P99_NS, STALL_NS = 5e6, 150e6, 1e6
LARGE = 100_000
TICKS_PER_S, TOGETHER = 100_000, 50
#: s of a phase with or without swaps, of one with a held GIL, of the hold itself; s between two plans
_PHASE_S, _GIL_PHASE_S, _HOLD_S, _PAUSE_S = 2.0, 2.5, 2.0, 0.02
QUIET, ONE, GIL, PARTS = "none", "one message", "GIL held for 2 s", "parts"


def one_message(memory: Any, plan_seq: int) -> list[bytes]:
    """A plan of the second strategy, 1,000 conditions that the ticks do not come near; each number has other levels."""
    plan = firing.plan(plan_seq, STRATEGIES[1])
    conditions = [msgspec.structs.replace(one, level=f"{15_000 + plan_seq % 100 + number}.00" if one.direction == "up" else f"{5_000 + number}.00")
                  for number, one in enumerate(plan.conditions)]
    return [messages.encode(compiled_plan(memory, msgspec.structs.replace(plan, conditions=conditions)))]


def in_parts(plan_seq: int) -> list[bytes]:
    """The same of 100,000, numbered from `plan_seq` on."""
    rows = dormant(LARGE, firing.SYMBOLS)
    rows["valid_from_ns"] = EVENT_NS
    return [messages.encode(part) for part in parts_of(rows, STRATEGIES[1], plan_seq)]


def _arm(armoury: Armoury, received: list[bytes]) -> tuple[int, int]:
    """The sniper's part: from what was received to a published generation; gives it and the number of conditions armed."""
    for text in received:
        plan = messages.decode_child_request(text)
        assert isinstance(plan, messages.Arm)
        armed = armoury.arm(plan)
    return armed


def be_armourer(memory: Any, here: int, there: int, plan: messages.Plan, pipe: Any, ready: Any) -> None:
    """The sniper's process: what the phase asks of its control thread, until "end"; answers each with the ns that its swaps took."""
    s = actors.armed(memory, [plan])

    def on_its_core() -> None:
        os.sched_setaffinity(0, {there})
        loop.run(s, 0, wait.spins_of(l.WAIT_SPIN), 0, 0.0)

    worker = threading.Thread(target=on_its_core)
    worker.start()
    os.sched_setaffinity(0, {here})
    armoury = Armoury(memory, lambda: None)
    ready.set()
    try:
        _serve(memory, armoury, pipe)
    finally:
        memory.board.processes[l.SNIPER]["stop"] = l.STOP_NOW
        worker.join()


def _serve(memory: Any, armoury: Armoury, pipe: Any) -> None:
    number = 1
    while (phase := pipe.recv()) != "end":
        took = []
        if phase == GIL:
            began = time.monotonic_ns()
            ctypes.PyDLL(None).usleep(int(_HOLD_S * 1e6))  # PyDLL keeps the GIL during the call
            took.append(time.monotonic_ns() - began)
        while phase in (ONE, PARTS) and not pipe.poll(_PAUSE_S):
            received = one_message(memory, number + 1) if phase == ONE else in_parts(number + 1)
            number += len(received)
            began = time.monotonic_ns()
            generation, armed = _arm(armoury, received)
            while int(memory.sniper.commit_lines[int(memory.sniper.commit[0]["number"]) & 1]["generation"]) != generation:
                time.sleep(0)
            took.append(time.monotonic_ns() - began)
            check(armed == firing.CONDITIONS + (LARGE if phase == PARTS else firing.CONDITIONS), f"{armed} conditions are armed")
        pipe.recv()  # the publisher has ended the phase
        pipe.send(took)


def phases(quick: bool, kind: str) -> list[str]:
    """In turn, so that a slow minute of the machine is in all of them."""
    one = [QUIET, kind] if kind == PARTS else [QUIET, kind, GIL]
    return one if quick else one * 5


def measured(kind: str, quick: bool) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """By kind of phase: what its swaps took, and its longest way from a tick to its intent, in ns."""
    from multiprocessing import Pipe

    here, there = two_cores()
    actors.compile_publisher()
    order = phases(quick, kind)
    warm = TICKS_PER_S // 5
    lengths = [int((_GIL_PHASE_S if phase == GIL else _PHASE_S) * TICKS_PER_S) for phase in order]
    ticks = firing.ticks(warm + sum(lengths))
    wanted = firing.expected(ticks)
    took: dict[str, list[int]] = {phase: [] for phase in order}
    longest: dict[str, list[int]] = {phase: [] for phase in order}
    ours, theirs = Pipe()
    interval_ns = 10**9 // TICKS_PER_S
    capacity = 1 << 18 if kind == PARTS else 16_384
    with actors.sniper(be_armourer, here, there, firing.plan(), theirs, conditions=capacity) as sniper, pinned(here):
        w = actors.wire(sniper.memory, len(ticks), len(wanted) + 1)
        check(actors.publish(w, ticks, 0, warm, interval_ns, TOGETHER), "the sniper did not follow the warm-up")
        first = warm
        for phase, length in zip(order, lengths, strict=True):
            before = sniper.memory.sniper.tick_to_intent_hist.copy()
            ours.send(phase)
            check(actors.publish(w, ticks, first, first + length, interval_ns, TOGETHER), f"the sniper did not follow while: {phase}")
            ours.send("over")
            check(ours.poll(30), "the sniper's control thread did not answer")
            took[phase] += ours.recv()
            longest[phase].append(latencies(sniper.memory.sniper.tick_to_intent_hist - before).max)
            first += length
        ours.send("end")
    firing.check_intents(w.intents[: int(w.words[1])], wanted)
    check(all(hold >= _HOLD_S * 1e9 for hold in took.get(GIL, ())), "the GIL was not held so long")
    return took, longest


def rows_for(kind: str, conditions: int, target_ns: float, quick: bool) -> list[Row | Missing]:
    """The figures of one kind of plan."""
    took, longest = measured(kind, quick)
    params = {"plan": kind, "conditions": conditions, "ticks_per_s": TICKS_PER_S, "swaps": len(took[kind])}
    check(took[kind], "no plan was swapped")
    rows: list[Row | Missing] = [
        Row("swap", f"{name}_ms", float(np.quantile(took[kind], share)) / 1e6, "ms", params, target_ns / 1e6 if name == "p99" else None)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))]
    for phase in longest:
        about = {"while": phase, "plan": kind, "phases": len(longest[phase])}
        rows.append(Row("swap", "longest_ms", float(np.max(longest[phase])) / 1e6, "ms", about))
        if phase != QUIET:
            beyond, of_medians = (float(of(longest[phase]) - of(longest[QUIET])) / 1e6 for of in (np.max, np.median))
            rows += [Row("swap", "stall_beyond_ms", beyond, "ms", about, STALL_NS / 1e6),
                     Row("swap", "stall_beyond_median_ms", of_medians, "ms", about)]
    return rows


def run(quick: bool) -> list[Row | Missing]:
    """Plans of 1,000 in one message, then of 100,000 in parts."""
    rows = rows_for(ONE, firing.CONDITIONS, ONE_P99_NS, quick)
    return rows + rows_for(PARTS, LARGE, PARTS_P99_NS, quick)
