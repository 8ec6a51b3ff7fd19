"""What a plain system of the same shape does: ticks over ZeroMQ PUB/SUB to a process that matches in plain Python, orders back the same way.

`benchmarks/firing.py`'s ticks and conditions, two pinned processes, messages of packed words over ipc. It has no gate, no commit, no features, only
matching. Ticks a second: all at once, from the first sent to the last order back. Latency: at a constant rate that it can follow, from when a tick
was due to when its order was back, as in `tick_to_intent`. Ours: the same ticks through rings and the sniper's whole loop, at once and at that rate.

It checks itself: both make exactly the orders that a comparison of neighbouring trades names.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_tick_to_intent, firing
from benchmarks.frame import Row, check, latency_rows, pinned, two_cores
from benchmarks.zmq_peer import TICK, Publisher, be_matcher
from ipc import layout as l

TICKS_PER_S = 2_000
_VALUE_QUANTA = 1000


def _on_core(core: int, folder: Path, conditions: Any) -> None:
    os.sched_setaffinity(0, {core})
    be_matcher(folder, conditions, 100 * 10**8, _VALUE_QUANTA)


def conditions() -> list[tuple[int, int, int, int]]:
    """(condition id, instrument, level in ticks, side) of the plan."""
    plan = firing.plan()
    symbols = [int(one.symbol.partition("/")[0][1:]) for one in plan.conditions]
    return [(plan.plan_seq << l.PLAN_SHIFT | number, symbol, round(float(one.level or 0) * 100), 1 if one.side == "buy" else -1)
            for number, (symbol, one) in enumerate(zip(symbols, plan.conditions, strict=True))]


def over_zmq(count: int, interval_ns: int) -> tuple[Any, float]:
    """Latencies in ns of the orders of `count` ticks, and ns a tick."""
    here, there = two_cores()
    ticks = firing.ticks(count)
    ticks["seq"] = np.arange(1, count + 1)
    packed = [TICK.pack(int(one["seq"]), int(one["instrument"]), int(one["kind"] == l.TICK_QUOTE), int(one["price"]), int(one["ask_price"]))
              for one in ticks]
    with tempfile.TemporaryDirectory(prefix="tz-") as name:
        other = multiprocessing.get_context("spawn").Process(target=_on_core, args=(there, Path(name), conditions()), daemon=True)
        other.start()
        try:
            with pinned(here):
                publisher = Publisher(Path(name))
                due = publisher.publish(packed, interval_ns)
                publisher.end()
            other.join(20)
            check(other.exitcode == 0, f"the matching process ended with {other.exitcode}")
        finally:
            other.kill()
    wanted = firing.expected(ticks)
    names = ("tick_seq", "condition_id", "side", "lots", "reference_price", "fire_index")
    check(publisher.orders == list(zip(*(wanted[name].tolist() for name in names), strict=True)), "its orders are not the oracle's")
    seen = np.array(publisher.seen_ns)
    return seen - np.array(due)[wanted["tick_seq"] - 1], float(seen.max() - due[0]) / count


def run(quick: bool) -> list[Row]:
    """Theirs and ours, at once and at a rate."""
    many, few = (40_000, 4_000) if quick else (400_000, 20_000)
    _, their_ns = over_zmq(many, 0)
    late, _ = over_zmq(few, 10**9 // TICKS_PER_S)
    _, _, our_ns = bench_tick_to_intent.measured(many, 0)
    ours, _, _ = bench_tick_to_intent.measured(few, 10**9 // TICKS_PER_S)
    params = {"conditions": firing.CONDITIONS, "symbols": firing.SYMBOLS}
    paced = {**params, "ticks_per_s": TICKS_PER_S}
    return [
        Row("zmq_baseline", "ticks_per_s", 1e9 / their_ns, "1/s", {"over": "zmq", **params}),
        Row("zmq_baseline", "ticks_per_s", 1e9 / our_ns, "1/s", {"over": "rings", **params}),
        Row("zmq_baseline", "ours_to_theirs", their_ns / our_ns, "ratio", params),
        *latency_rows("zmq_baseline", late, {"over": "zmq", **paced}),
        *latency_rows("zmq_baseline", ours, {"over": "rings", **paced}),
        Row("zmq_baseline", "their_p50_to_ours", float(np.median(late) / np.median(ours)), "ratio", paced),
    ]
