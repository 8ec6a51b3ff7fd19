"""Memory of a paper run: PSS of each of its processes a minute after its first tick, and their sum.

PSS of /proc/PID/smaps_rollup: what is shared counts by its share. All that descends from the launcher is in it, headless and with the live screen;
a third run has room for a million conditions (`hotpath.condition_capacity`). `segments_mb` is what its segments reserve of shared memory: what of
them a process has touched is in its PSS, the rest is in no process's.

It checks itself: every process that maps the instance's segments is in the sum, every role is; no tick was lost, the books reconcile.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.frame import Row
from benchmarks.paper import COMPILE_PATIENCE_S, PSS_MB, paper

MILLION = 1_000_000
_SETTLE_S, _QUICK_SETTLE_S = 60.0, 15.0


def run(quick: bool) -> list[Row]:
    """Each way to start it."""
    rows = []
    settle_s = _QUICK_SETTLE_S if quick else _SETTLE_S
    cases: tuple[tuple[bool, int], ...] = ((False, 0), (False, MILLION)) if quick else ((False, 0), (True, 0), (False, MILLION))
    for screen, capacity in cases:
        with paper(screen, {"TRADER_HOTPATH__CONDITION_CAPACITY": str(capacity)} if capacity else None) as instance:
            instance.start(COMPILE_PATIENCE_S)
            instance.await_ready()
            time.sleep(settle_s)
            processes, reserved = instance.processes(), instance.segments_mb()
            instance.stop()
        params: dict[str, Any] = {"screen": screen, "after_s": settle_s} | ({"condition_capacity": capacity} if capacity else {})
        rows += [Row("memory", "pss_mb", one.pss, "MB", {"process": one.name, **params}) for one in processes]
        rows.append(Row("memory", "pss_sum_mb", sum(one.pss for one in processes), "MB", {"processes": len(processes), **params},
                        None if capacity else PSS_MB))
        rows.append(Row("memory", "segments_mb", reserved, "MB", params))
    return rows
