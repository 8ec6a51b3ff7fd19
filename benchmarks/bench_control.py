"""Answers of the control socket while a paper instance trades: a round trip from one client, headless and with the live screen.

One request each 20 ms: status, health, stats, positions, conditions, orders, trades, ping and pause with resume in turn. A round trip counts from the
instant it was meant to be sent, so that one slow answer also counts for those that waited behind it.

It checks itself: every request got the answer that belongs to it; the instance lost no tick, ended with exit code 0, and its books reconcile.
"""

from __future__ import annotations

import time

from benchmarks.frame import Row
from benchmarks.paper import COMPILE_PATIENCE_S, CONTROL_P99_MS, PACE_S, paper, quantile


def run(quick: bool) -> list[Row]:
    """Each way to start it."""
    rows = []
    for screen in (False,) if quick else (False, True):
        with paper(screen) as instance:
            instance.start(COMPILE_PATIENCE_S)
            instance.await_ready()
            before, began = instance.ticks(), time.monotonic()
            took = instance.round_trips_ms(200 if quick else 1000)
            ticks_per_s = (instance.ticks() - before) / (time.monotonic() - began)
            instance.stop()
        params = {"screen": screen, "requests": len(took), "pace_ms": PACE_S * 1000, "ticks_per_s": round(ticks_per_s)}
        rows += [Row("control", f"{name}_ms", quantile(took, share), "ms", params, CONTROL_P99_MS if name == "p99" else None)
                 for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))]
    return rows
