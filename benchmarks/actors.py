"""The two actors of a run between processes: a publisher that also takes the gateway's part, and the sniper's own loop in a process of its own.

The publisher sends each tick when it is due and meanwhile polls the order ring: it notes when it saw an intent, and ends the order with a CANCELLED
report, so that its level may fire again. It never runs more than AHEAD ticks before the sniper, and has answered every intent of the ticks before
those: the orders of a run do not depend on who was held up when. What is late stays late: a latency counts from when its tick was due.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from benchmarks.firing import FIRING_LIMITS, LEAST_DISTANCE, SYMBOLS
from benchmarks.frame import check, instance
from benchmarks.market import compiled_plan, furnish
from hotpath.armoury import Armoury
from hotpath.kernel import loop
from hotpath.kernel.state import sniper_arrays
from ipc import layout as l
from ipc import messages, ring, wait
from ipc.atomics import monotonic_ns
from ipc.bundle import Bundle
from ipc.jit import kernel

#: ticks that the publisher may be before the sniper: no symbol fires twice among them
AHEAD = 500
assert AHEAD < LEAST_DISTANCE
#: an unpaced wait of the publisher that is worth a nap, and what it naps less than it
_NAP_NS, _EARLY_NS = 150_000, 60_000
#: how long the sniper may stand still
_PATIENCE_NS = 5_000_000_000
#: places of `words`: last order-ring record taken, orders seen, other records seen
_TAKEN, _ORDERS, _OTHERS = range(3)
_TICK_SLOTS = 1 << 17


class Wire(NamedTuple):
    """The publisher's arrays; see ipc/layout.py for each dtype."""

    tick_ring: Any
    tick_readers: Any
    tick_slots: Any
    order_ring: Any
    order_readers: Any
    order_slots: Any
    report_ring: Any
    report_slots: Any
    processes: Any
    # private
    record: Any  # INTENT[1]
    report: Any  # REPORT[1]
    words: Any  # int64[4]
    intents: Any  # INTENT[orders]
    seen_ns: Any  # int64[orders]
    due_ns: Any  # int64[ticks]


def wire(memory: Any, ticks: int, orders: int) -> Wire:
    """The publisher's arrays over an instance, with room for so many ticks and orders."""
    t, o, r = memory.ticks, memory.orders, memory.reports
    report = np.zeros(1, l.REPORT)
    report["kind"] = l.CANCELLED
    return Wire(t.ring, t.readers, t.slots, o.ring, o.readers, o.slots, r.ring, r.slots, memory.board.processes, np.zeros(1, l.INTENT), report,
                np.zeros(4, np.int64), np.zeros(orders, l.INTENT), np.zeros(orders, np.int64), np.zeros(ticks, np.int64))


@kernel
def watch(w: Any) -> None:
    """Take what is in the order ring."""
    while ring.poll(w.order_ring, w.order_slots, w.words[_TAKEN] + 1, w.record, 0) == ring.OK:
        now = monotonic_ns()
        w.words[_TAKEN] += 1
        at = w.words[_ORDERS]
        if w.record[0].kind != l.NEW or at == len(w.intents):
            w.words[_OTHERS] += 1
        else:
            w.intents[at] = w.record[0]
            w.seen_ns[at] = now
            w.words[_ORDERS] += 1
            w.report[0].order_seq = w.record[0].order_seq
            ring.publish(w.report_ring, w.report_slots, w.report, 0)
        ring.advance(w.order_readers, l.RECORDER, w.words[_TAKEN])


@kernel
def publish(w: Any, ticks: Any, first: int, end: int, interval_ns: int, together: int) -> bool:
    """Ticks [first, end), one each `interval_ns` (0: at once), `together` of them at a time; True when the sniper has done all of them in time."""
    base = monotonic_ns() + 100_000
    sent = base
    cursor = ring.cursor(w.tick_readers, l.SNIPER)
    for row in range(first, end):
        due = base + (row - first) // together * together * interval_ns
        w.due_ns[row] = due
        while True:
            if row - cursor >= AHEAD:
                cursor = ring.cursor(w.tick_readers, l.SNIPER)
            watch(w)
            now = monotonic_ns()
            if now >= due and row - cursor < AHEAD:
                break
            if now - sent > _PATIENCE_NS:
                return False
            if together > 1 and due - now > _NAP_NS:
                wait.nap(w.processes, l.FEED, due - now - _EARLY_NS)
            else:
                wait.spin()
        ticks[row].publish_ns = now
        ring.publish(w.tick_ring, w.tick_slots, ticks, row)
        sent = now
    last = monotonic_ns() + _PATIENCE_NS
    while ring.cursor(w.tick_readers, l.SNIPER) < end:
        watch(w)
        if monotonic_ns() > last:
            return False
    watch(w)
    return True


def be_sniper(memory: Any, core: int, plans: list[messages.Plan], ready: Any) -> None:
    """The sniper's process without its main thread: plans armed, then the loop, spinning, until its stop word."""
    os.sched_setaffinity(0, {core})
    s = armed(memory, plans)
    ready.set()
    loop.run(s, 0, wait.spins_of(l.WAIT_SPIN), 0, 0.0)


def armed(memory: Any, plans: list[messages.Plan]) -> Bundle:
    """The sniper's arrays with the plans armed."""
    s = sniper_arrays(memory)
    loop.start(s)

    def take() -> None:
        loop._without_tick(s, 0)

    armoury = Armoury(memory, take)
    for plan in plans:
        armoury.arm(compiled_plan(memory, plan))
    return s


class Sniper:
    """The other process, from the publisher's side."""

    def __init__(self, memory: Any, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("fork")
        self.memory, ready = memory, context.Event()
        self.process = context.Process(target=target, args=(memory, *arguments, ready), daemon=True)
        self.process.start()
        check(ready.wait(120), "the sniper was not ready within 120 s")

    def stop(self) -> None:
        """Its stop word; it must end, and have lost nothing."""
        self.memory.board.processes[l.SNIPER]["stop"] = l.STOP_NOW
        self.process.join(10)
        check(self.process.exitcode == 0, f"the sniper ended with {self.process.exitcode}")
        lost = int(self.memory.board.processes[l.SNIPER]["metrics"][l.METRICS[l.SNIPER].index("lost")])
        check(lost == 0, f"{lost} ticks were lost")


@contextmanager
def sniper(target: Callable[..., None], *arguments: Any, conditions: int = 16_384) -> Iterator[Sniper]:
    """A furnished instance of 100 symbols with the sniper's process in it; `target(memory, *arguments, ready)` is what that runs."""
    with instance(ticks=_TICK_SLOTS, instruments=SYMBOLS, conditions=conditions) as memory:
        furnish(memory, SYMBOLS, FIRING_LIMITS)
        made = Sniper(memory, target, arguments)
        try:
            yield made
            made.stop()
        finally:
            made.process.kill()
            made.process.join()


def compile_publisher() -> None:
    """Compile what the publisher runs, before any clock does."""
    with instance(ticks=1024, instruments=1, conditions=64) as memory:
        publish(wire(memory, 1, 1), np.zeros(1, l.TICK), 0, 0, 0, 1)
