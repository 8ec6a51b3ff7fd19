"""Two real processes that try to break what rings and doorbells promise: the kernels they run, and how a test starts and hears them.

A partner is a process of its own (`python -m tests.litmus`) with everything compiled; it is told what to play as a JSON line and answers with
what it counted. Every word of a record's payload is a function of its sequence, so that a reader proves each record it accepts. The broken
variants (no BUSY mark, no second look, a look at the bell too early) are what gives the litmus its teeth: it must catch them.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ipc import layout as l
from ipc import ring, segment, wait
from ipc.atomics import (
    fence_acquire,
    fence_release,
    load_acquire,
    load_bell,
    load_relaxed,
    monotonic_ns,
    pause,
    store_relaxed,
    store_release,
)
from ipc.jit import kernel

ROOT = Path(__file__).resolve().parent.parent
#: how a record is written: `ring.publish`; word by word with a pause in the middle; the same without the BUSY mark
PUBLISHED, SLOWLY, UNMARKED = range(3)
#: how a record is read: `ring.poll`, with a pause behind each; word by word with a pause in the middle; the same without the second look
POLLED, HESITANT, ONE_LOOK = range(3)
#: how a bell is rung: `wait.ring_bells` after the publish; looked at before the publish, which is what a missing fence allows the core to do
RUNG_AFTER, LOOKED_BEFORE = range(2)
#: what is counted of one side's sleeps
SLEEP_COUNTS = ("sleeps", "longest_ns", "timeouts", "lost", "second_looks")
#: torn records after which a reader has seen enough
_ENOUGH_TORN = 10
_SEQ = 0
_HEAD = l.offset(l.RING, "head")
_CURSOR = l.offset(l.READER, "cursor")
_ACTIVE = l.offset(l.READER, "active")
_BELL = l.offset(l.PROCESS, "bell")
#: a player's own words on its board row: when it had rung last, and for which sequence
_RUNG_NS = l.offset(l.PROCESS, "metrics")
_RUNG_SEQ = _RUNG_NS + 8
_WORDS = l.TICK.itemsize // 8
#: how late behind its time a sleep ends on a machine that has a core for it
_HELD_UP_NS = 2_000_000


@kernel
def word(seq: int, number: int) -> int:
    """What word `number` of a record's payload says, of its sequence alone (below 2^33: an overflow is undefined in a kernel)."""
    return seq * 0x1F3D5B79 + number * 0x2545F491


@kernel
def torn(rows: Any, row: int, seq: int) -> bool:
    """Whether an accepted record holds anything that is not of `seq`."""
    if load_relaxed(rows, row, _SEQ) != seq:
        return True
    for number in range(1, _WORDS):  # noqa: SIM110  (numba has no generator expressions)
        if load_relaxed(rows, row, 8 * number) != word(seq, number):
            return True
    return False


@kernel
def publish_slowly(ticks: Any, slots: Any, marked: bool, pauses: int) -> None:
    """`ring.publish` with the time between two words drawn out; `marked` False leaves the old sequence in the slot meanwhile."""
    seq = ticks[0].head + 1
    at = seq & (ticks[0].capacity - 1)
    if marked:
        store_relaxed(slots, at, _SEQ, l.BUSY)
        fence_release()
    for number in range(1, _WORDS):
        store_relaxed(slots, at, 8 * number, word(seq, number))
        if number == _WORDS // 2:
            for _ in range(pauses):
                pause()
    store_release(slots, at, _SEQ, seq)
    store_release(ticks, 0, _HEAD, seq)


@kernel
def poll_slowly(ticks: Any, slots: Any, seq: int, target: Any, second_look: bool, pauses: int) -> int:
    """`ring.poll` with the time between two words drawn out, if wished without the second look at the sequence."""
    at = seq & (ticks[0].capacity - 1)
    if load_acquire(slots, at, _SEQ) == seq:
        store_relaxed(target, 0, _SEQ, seq)
        for number in range(1, _WORDS):
            store_relaxed(target, 0, 8 * number, load_relaxed(slots, at, 8 * number))
            if number == _WORDS // 2:
                for _ in range(pauses):
                    pause()
        fence_acquire()
        if second_look and load_relaxed(slots, at, _SEQ) != seq:
            return ring.LAPPED
        return ring.OK
    gone = load_acquire(ticks, 0, _HEAD) >= seq and load_acquire(slots, at, _SEQ) != seq
    return ring.LAPPED if gone else ring.EMPTY


@kernel
def write_ticks(ticks: Any, slots: Any, readers: Any, source: Any, way: int, pauses: int, deadline_ns: int) -> int:
    """Publish as fast as it goes from the reader's start until it has enough (it is inactive again); gives the number published."""
    while load_acquire(readers, l.SNIPER, _ACTIVE) == 0 and monotonic_ns() < deadline_ns:
        pause()
    while load_acquire(readers, l.SNIPER, _ACTIVE) != 0:
        if way == PUBLISHED:
            for number in range(1, _WORDS):
                store_relaxed(source, 0, 8 * number, word(ticks[0].head + 1, number))
            ring.publish(ticks, slots, source, 0)
        else:
            publish_slowly(ticks, slots, way == SLOWLY, pauses)
        if ticks[0].head & 1023 == 0 and monotonic_ns() >= deadline_ns:
            break
    store_release(readers, l.FEED, _ACTIVE, 1)  # the writer has finished
    return ticks[0].head


@kernel
def read_ticks(ticks: Any, slots: Any, readers: Any, target: Any, way: int, pauses: int, wanted: int, found: Any, deadline_ns: int) -> None:
    """Read until `wanted` records are accepted, some are torn, or the time is over; then drain. `found`: accepted, lost, torn, times lapped."""
    seq = 1
    store_release(readers, l.SNIPER, _ACTIVE, 1)
    while True:
        if way == POLLED:
            result = ring.poll(ticks, slots, seq, target, 0)
        else:
            result = poll_slowly(ticks, slots, seq, target, way == HESITANT, pauses)
        if result == ring.OK:
            found[0] += 1
            found[2] += torn(target, 0, seq)
            seq += 1
            if way == POLLED:
                for _ in range(pauses):
                    pause()
        elif result == ring.LAPPED:
            oldest = ring.oldest(ticks)
            if oldest > seq:  # else the loss was seen before the head that caused it (weakly ordered machines): look again
                found[1] += oldest - seq
                found[3] += 1
                seq = oldest
        else:
            pause()
        if load_relaxed(readers, l.SNIPER, _ACTIVE) != 0:
            if found[0] >= wanted or found[2] >= _ENOUGH_TORN or monotonic_ns() >= deadline_ns:
                store_release(readers, l.SNIPER, _ACTIVE, 0)
        elif (load_acquire(readers, l.FEED, _ACTIVE) != 0 and ring.head(ticks) < seq) or monotonic_ns() >= deadline_ns + 1_000_000_000:
            return


@kernel
def write_gated(ticks: Any, slots: Any, readers: Any, processes: Any, source: Any, count: int, others: int, deadline_ns: int) -> int:
    """Publish `count` records, never past the slowest reader, asleep while there is no room; gives the number of times it waited."""
    waited = 0
    while ticks[0].head < count and monotonic_ns() < deadline_ns:
        if ring.free_slots(ticks, readers) > 0:
            for number in range(1, _WORDS):
                store_relaxed(source, 0, 8 * number, word(ticks[0].head + 1, number))
            ring.publish(ticks, slots, source, 0)
            if ticks[0].head & 15 == 0 or ticks[0].head == count:
                wait.ring_bells(processes, others)
            continue
        waited += 1
        wait.ring_bells(processes, others)
        wait.prepare_sleep(processes, l.FEED)
        if ring.free_slots(ticks, readers) <= 0:
            wait.sleep(processes, l.FEED, wait.MAX_SLEEP_NS)
        else:
            wait.stay_awake(processes, l.FEED)
    return waited


@kernel
def read_gated(ticks: Any, slots: Any, readers: Any, processes: Any, role: int, target: Any, count: int, pauses: int, found: Any,
               deadline_ns: int) -> None:
    """Read `count` records in order. `found`: accepted, refused as lapped, torn, times the writer was seen beyond the gate."""
    seq = 1
    while seq <= count and monotonic_ns() < deadline_ns:
        result = ring.poll(ticks, slots, seq, target, 0)
        if result == ring.OK:
            found[0] += 1
            found[2] += torn(target, 0, seq)
            found[3] += ring.head(ticks) - (seq - 1) > ticks[0].capacity
            if seq & 63 == 0:
                for _ in range(pauses):
                    pause()
            ring.advance(readers, role, seq)
            if seq & 15 == 0 or seq == count:
                wait.ring_bells(processes, 1 << l.FEED)
            seq += 1
        elif result == ring.LAPPED:
            found[1] += 1
            return
        else:
            wait.ring_bells(processes, 1 << l.FEED)
            wait.prepare_sleep(processes, role)
            if ring.head(ticks) < seq:
                wait.sleep(processes, role, wait.MAX_SLEEP_NS)
            else:
                wait.stay_awake(processes, role)


@kernel
def await_turn(words: Any, row: int, offset: int, value: int, processes: Any, role: int, other: int, spins: int, timeout_ns: int, found: Any) -> None:
    """One wait as all processes wait. `found`: sleeps, longest sleep in ns, full time-outs, lost wake-ups, times the second look found it.

    Lost: the sleep ended with its time although the other had published and finished ringing when half of that time was still to come. One that
    ended later than that was held up by a machine with other work: it may have been woken long before.
    """
    for _ in range(spins):
        if load_acquire(words, row, offset) >= value:
            return
        pause()
    wait.prepare_sleep(processes, role)
    if load_acquire(words, row, offset) >= value:
        wait.stay_awake(processes, role)
        found[4] += 1
        return
    began = monotonic_ns()
    wait.sleep(processes, role, timeout_ns)
    now = monotonic_ns()
    found[0] += 1
    found[1] = max(found[1], now - began)
    if now - began >= timeout_ns:
        found[2] += 1
        in_time = now - began < timeout_ns + _HELD_UP_NS
        if in_time and load_acquire(processes, other, _RUNG_SEQ) >= value and load_relaxed(processes, other, _RUNG_NS) <= now - timeout_ns // 2:
            found[3] += 1


@kernel
def publish_and_ring(ticks: Any, slots: Any, source: Any, processes: Any, way: int, pauses: int) -> None:
    """Publish, wake the reader, and leave the time when that was done."""
    sleeps = load_bell(processes, l.SNIPER, _BELL) != 0
    for _ in range(pauses):
        pause()
    if way == RUNG_AFTER:
        ring.publish(ticks, slots, source, 0)
        wait.ring_bells(processes, 1 << l.SNIPER)
    else:
        ring.publish(ticks, slots, source, 0)
        if sleeps:
            wait.ring_bell(processes, l.SNIPER)
    store_relaxed(processes, l.FEED, _RUNG_NS, monotonic_ns())
    store_release(processes, l.FEED, _RUNG_SEQ, ring.head(ticks))


@kernel
def ping(ticks: Any, slots: Any, readers: Any, processes: Any, source: Any, rounds: int, jitter: int, spins: int, way: int,
         timeout_ns: int, found: Any, deadline_ns: int) -> int:
    """Publish, ring, wait until the reader's cursor is there (asleep or, with `spins` > 0, awake). Gives the rounds done.

    `jitter` moves the moment of publishing over the moment at which the reader falls asleep.
    """
    for seq in range(1, rounds + 1):
        publish_and_ring(ticks, slots, source, processes, way, (seq * 7919) % jitter)
        while ring.cursor(readers, l.SNIPER) < seq:
            await_turn(readers, l.SNIPER, _CURSOR, seq, processes, l.FEED, l.SNIPER, spins, timeout_ns, found)
            if monotonic_ns() >= deadline_ns:
                return seq
    return rounds


@kernel
def pong(ticks: Any, slots: Any, readers: Any, processes: Any, target: Any, rounds: int, jitter: int, timeout_ns: int, found: Any,
         deadline_ns: int) -> int:
    """The other side: wait for the head, take the record, advance the cursor, ring."""
    for seq in range(1, rounds + 1):
        while ring.head(ticks) < seq:
            await_turn(ticks, 0, _HEAD, seq, processes, l.SNIPER, l.FEED, (seq * 104729) % jitter, timeout_ns, found)
            if monotonic_ns() >= deadline_ns:
                return seq
        if ring.poll(ticks, slots, seq, target, 0) != ring.OK:
            return seq - 1
        ring.advance(readers, l.SNIPER, seq)
        wait.ring_bells(processes, 1 << l.FEED)
        store_relaxed(processes, l.SNIPER, _RUNG_NS, monotonic_ns())
        store_release(processes, l.SNIPER, _RUNG_SEQ, seq)
    return rounds


# ── what a partner can be told to play ───────────────────────────────────────────────────────────────────────────────
def _deadline(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def _counts(names: tuple[str, ...], found: Any) -> dict[str, int]:
    return dict(zip(names, found.tolist(), strict=True))


def play_write(memory: Any, way: int, pauses: int, seconds: float) -> dict[str, int]:
    """The lapping writer."""
    t = memory.ticks
    return {"published": write_ticks(t.ring, t.slots, t.readers, np.zeros(1, l.TICK), way, pauses, _deadline(seconds))}


def play_read(memory: Any, way: int, pauses: int, wanted: int, seconds: float) -> dict[str, int]:
    """The lapped reader."""
    t, found = memory.ticks, np.zeros(4, np.int64)
    read_ticks(t.ring, t.slots, t.readers, np.zeros(1, l.TICK), way, pauses, wanted, found, _deadline(seconds))
    return _counts(("accepted", "lost", "torn", "lapped"), found)


def play_write_gated(memory: Any, count: int, others: int, seconds: float) -> dict[str, int]:
    """The gated writer."""
    t = memory.ticks
    waited = write_gated(t.ring, t.slots, t.readers, memory.board.processes, np.zeros(1, l.TICK), count, others, _deadline(seconds))
    return {"published": int(t.ring[0]["head"]), "waited": waited}


def play_read_gated(memory: Any, role: int, count: int, pauses: int, seconds: float) -> dict[str, int]:
    """A reader of the gated ring."""
    t, found = memory.ticks, np.zeros(4, np.int64)
    read_gated(t.ring, t.slots, t.readers, memory.board.processes, role, np.zeros(1, l.TICK), count, pauses, found, _deadline(seconds))
    return _counts(("accepted", "lapped", "torn", "beyond"), found)


def play_ping(memory: Any, rounds: int, jitter: int, spins: int, way: int, timeout_ns: int, seconds: float) -> dict[str, int]:
    """The first of a ping-pong."""
    t, found = memory.ticks, np.zeros(5, np.int64)
    done = ping(t.ring, t.slots, t.readers, memory.board.processes, np.zeros(1, l.TICK), rounds, jitter, spins, way, timeout_ns, found,
                _deadline(seconds))
    return {"rounds": done, **_counts(SLEEP_COUNTS, found)}


def play_pong(memory: Any, rounds: int, jitter: int, timeout_ns: int, seconds: float) -> dict[str, int]:
    """The second of a ping-pong."""
    t, found = memory.ticks, np.zeros(5, np.int64)
    done = pong(t.ring, t.slots, t.readers, memory.board.processes, np.zeros(1, l.TICK), rounds, jitter, timeout_ns, found, _deadline(seconds))
    return {"rounds": done, **_counts(SLEEP_COUNTS, found)}


PLAYS: dict[str, Callable[..., dict[str, int]]] = {
    "write": play_write, "read": play_read, "write_gated": play_write_gated, "read_gated": play_read_gated, "ping": play_ping, "pong": play_pong}


def warm_up(instance: str) -> None:
    """Compile everything, or load it, on an instance that nobody uses."""
    segment.create_all(instance, ticks=64, instruments=1, conditions=8)
    memory = segment.Memory(instance)
    memory.ticks.ring[0]["capacity"] = 64
    try:
        play_write(memory, PUBLISHED, 0, 0.0)
        play_read(memory, POLLED, 0, 0, 0.0)
        play_write_gated(memory, 0, 0, 0.0)
        play_read_gated(memory, l.SNIPER, 0, 0, 0.0)
        play_ping(memory, 0, 1, 0, RUNG_AFTER, 0, 0.0)
        play_pong(memory, 0, 1, 0, 0.0)
    finally:
        segment.remove(instance)


# ── a partner as a test sees it ──────────────────────────────────────────────────────────────────────────────────────
class Partner:
    """A process that plays; close it in any case."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.litmus"], cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def tell(self, play: str, instance: str, **arguments: Any) -> None:
        """Let it play in an instance's memory, wherever the instance is."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"play": play, "instance": instance, "arguments": arguments}) + "\n")

    def hear(self, patience_s: float = 20.0) -> dict[str, int]:
        """What it counted."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], patience_s)
        assert ready, f"a partner is silent after {patience_s:g} s (exit code {self.process.poll()})"
        line = self.process.stdout.readline()
        assert line, f"a partner has died (exit code {self.process.wait(5)})"
        return dict(json.loads(line))

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Be a partner: one JSON line in, one out."""
    warm_up(f"warm-{os.getpid()}")
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for told in map(json.loads, sys.stdin):
        print(json.dumps(PLAYS[told["play"]](segment.Memory(told["instance"]), **told["arguments"])), flush=True)


if __name__ == "__main__":
    main()
