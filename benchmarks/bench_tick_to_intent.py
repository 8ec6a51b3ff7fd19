"""From a tick's due time to its order intent, readable in the order ring: two pinned processes, all controls of the gate, a constant rate.

The publisher on the first core sends 100,000 ticks/s (`benchmarks/firing.py`: 1,000 conditions with a clause on 100 symbols, one tick of ten fires)
and polls the order ring meanwhile; the sniper's own loop spins on the last core, with commit, heartbeats and bells as in a run. A latency counts from
when the tick was due, not from when it was sent, so that a stall also counts for the ticks that waited behind it; and to when the publisher saw the
intent, so that it holds the way there and the way back. `loop_*` and `decision_*` are what the sniper's own histograms say: from the publisher's
stamp to the intent published, the way there alone; and from the tick taken to the intent published (upper edges of buckets of 3 %).

It checks itself: every order is the one that a plain comparison of neighbouring trades names, with tick, condition, side, lots, price and fire index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import actors, firing
from benchmarks.bench_ring_hop import spinning_p50_ns
from benchmarks.frame import Row, check, latency_rows, pinned, two_cores
from control.record.summary import latencies

#: what a decision may add to a hop, and the whole, ns
ABOVE_HOP_NS, TARGET_NS = 500.0, 1000.0
TICKS_PER_S = 100_000
#: ticks before those that count
_WARM = 20_000


def measured(count: int, interval_ns: int) -> tuple[Any, dict[str, Any], float]:
    """`count` ticks behind the warm-up, each order checked: latencies in ns of their orders, the loop's histograms, ns a tick from first to last."""
    here, there = two_cores()
    actors.compile_publisher()
    ticks = firing.ticks(_WARM + count)
    wanted = firing.expected(ticks)
    with actors.sniper(actors.be_sniper, there, [firing.plan()]) as sniper, pinned(here):
        w = actors.wire(sniper.memory, len(ticks), len(wanted) + 1)
        check(actors.publish(w, ticks, 0, _WARM, interval_ns or 1000, 1), "the sniper did not follow the warm-up")
        kept = {"loop": sniper.memory.sniper.tick_to_intent_hist, "decision": sniper.memory.sniper.decision_hist}
        before = {name: histogram.copy() for name, histogram in kept.items()}
        check(actors.publish(w, ticks, _WARM, len(ticks), interval_ns, 1), "the sniper did not follow")
        took_ns = float(w.seen_ns[: len(wanted)].max() - w.due_ns[_WARM]) / count
        histograms = {name: histogram - before[name] for name, histogram in kept.items()}
    orders = int(w.words[1])
    firing.check_intents(w.intents[:orders], wanted)
    check(int(sniper.memory.sniper.refusals.sum()) == 0, "nothing was refused")
    late = w.seen_ns[:orders] - w.due_ns[wanted["tick_seq"] - 1]
    return late[wanted["tick_seq"] > _WARM], histograms, took_ns


def run(quick: bool) -> list[Row]:
    """A hop of the ring, then the whole way."""
    hop = spinning_p50_ns(20_000 if quick else 200_000)
    count = 100_000 if quick else 1_050_000
    late, histograms, _ = measured(count, 10**9 // TICKS_PER_S)
    check(quick or len(late) >= 100_000, f"{len(late)} samples are fewer than 100,000")
    check(all(int(histogram.sum()) == len(late) for histogram in histograms.values()), "the loop counted every order")
    params = {"conditions": firing.CONDITIONS, "symbols": firing.SYMBOLS, "ticks_per_s": TICKS_PER_S, "fire_rate": round(len(late) / count, 4),
              "samples": len(late), "ring_hop_ns": round(hop, 1)}
    return [*latency_rows("tick_to_intent", late, params, min(TARGET_NS, hop + ABOVE_HOP_NS)),
            *(Row("tick_to_intent", f"{whose}_{name}_ns", float(getattr(latencies(histogram), name)), "ns", params)
              for whose, histogram in histograms.items() for name in ("p50", "p99", "p999", "max")),
            Row("tick_to_intent", "late_share", float(np.mean(late > 100_000)), "share", params | {"later_than_ns": 100_000})]


