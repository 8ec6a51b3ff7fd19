"""From the command to the first tick that the sniper has processed: with an empty kernel cache, and with a warm one.

Cold: the cache's folder is a new one (XDG_CACHE_HOME), so that every kernel is compiled first; once. Warm: kernels are compiled and the instance has
run once, which is not counted, so that bytecode is there, too; the best of the starts, and their median. The tick is looked for every 5 ms in shared
memory.

It checks itself: after the cold start the folder holds the compiled kernels; each instance became healthy, lost no tick, ended with exit code 0, and
its books reconcile.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.frame import Row, check
from benchmarks.paper import COMPILE_PATIENCE_S, launcher, paper

WARM_S = 2.5
_STARTS, _QUICK_STARTS = 5, 2


def cold_s() -> float:
    """One start with an empty cache; by trader-launch itself, as scripts/run would compile before it."""
    with tempfile.TemporaryDirectory(prefix="trader-cold-") as cache:
        with paper(environment={"XDG_CACHE_HOME": cache}, line=launcher()) as instance:
            took = instance.start(COMPILE_PATIENCE_S)
            instance.stopped()
        check(list(Path(cache).glob("trader/kernels/*/complete-*")), "the cache was filled")
    return took


def warm_s(starts: int) -> list[float]:
    """Starts over a warm cache, in s."""
    took = []
    with paper() as instance:
        instance.start(COMPILE_PATIENCE_S)
        instance.stopped()
        for _ in range(starts):
            took.append(instance.start())
            instance.stopped()
    return took


def run(quick: bool) -> list[Row]:
    """Warm first: its figure is the one that is to be reached."""
    warm = warm_s(_QUICK_STARTS if quick else _STARTS)
    params = {"cache": "warm", "starts": len(warm)}
    rows = [Row("cold_start", "first_tick_s", statistics.median(warm), "s", params, WARM_S),
            Row("cold_start", "first_tick_min_s", min(warm), "s", params)]
    return [*rows, Row("cold_start", "first_tick_s", cold_s(), "s", {"cache": "cold", "starts": 1})]
