"""From the sniper's death to the first tick of its successor, while the simulated market runs at 20,000 ticks a second.

Half of the deaths are crashes (SIGKILL, SIGSEGV in turn), counted from the signal; half are hangs, counted from the moment at which the heartbeat is
late by the limit (supervise.hang_sniper_ms): two thirds of them a sniper that is stopped (SIGSTOP), one third a kernel that goes round for ever
(ipc/crash.py). Every tenth successor is killed again as soon as it has a process, before it has taken a tick: then it counts from the first death to
the first tick of the last successor. Deaths come one to two seconds apart.

Everything is as it is shipped but for the window in which deaths are counted, which is a second and not a minute: so each death, with the second kill
during its recovery, is what it is to an instance that has been well for a window. Within one window 200 deaths in a row would be safe mode.

It checks itself: the market made its ticks; every death got a successor that committed a tick of its own; no tick was lost, so the ring bridged each
gap; the instance ended with exit code 0, and its books reconcile.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.frame import Row, check
from benchmarks.paper import COMPILE_PATIENCE_S, Instance, launcher, paper, quantile
from control.config import Supervise
from ipc import crash
from ipc import layout as l

#: ticks a second that the market is paced to
TICKS_PER_S = 20_000
#: how many may take longer than the limit, of how many, and the limit
LATE, DEATHS, LIMIT_MS = 2, 200, 100.0
_QUICK_DEATHS = 20
_PATIENCE_S = 20.0
#: event time to wall time at which the default symbols make that many ticks, about; measured anew in each run
_SPEED = 278
#: ms, as shipped
_HANG_MS = Supervise().hang_sniper_ms
#: s: supervise.restart_window_s here
_WINDOW_S = 1
_KINDS = ("crash", "stop", "loop")


class Deaths:
    """Kills the sniper of a running instance and looks when the next one ticks."""

    def __init__(self, instance: Instance, words: Path, seed: int) -> None:
        self._instance, self._random = instance, random.Random(seed)
        self._words = crash.map_words(str(words))[l.SNIPER]
        memory = instance.memory()
        self._row: Any = memory.board.processes[l.SNIPER]
        self._commit, self._lines = memory.sniper.commit[0], memory.sniper.commit_lines

    def crash_ms(self, number: int, again: bool) -> float:
        """A death by a signal."""
        old = int(self._row["pid"])
        began = time.monotonic_ns()
        os.kill(old, number)
        return (self._successor_ns(old, again) - began) / 1e6

    def stop_ms(self, again: bool) -> float:
        """A sniper that stands still."""
        old = int(self._row["pid"])
        os.kill(old, signal.SIGSTOP)
        time.sleep(0.02)  # the beat of its last instant is visible
        return self._since_late_ms(old, again)

    def loop_ms(self, again: bool) -> float:
        """A sniper whose kernel goes round for ever in the middle of a step."""
        old, end = int(self._row["pid"]), time.monotonic() + _PATIENCE_S
        self._words[crash.WORD_PASSES], self._words[crash.WORD_SIGNAL] = 1, crash.LOOP
        self._words[crash.WORD_POINT] = crash.POINTS.index("sniper.commit")
        while self._words[crash.WORD_PASSES] > 0:
            check(time.monotonic() < end, "the sniper does not come to the point at which it is to loop")
            time.sleep(0.0005)
        self._words[crash.WORD_POINT] = 0  # it stays where it is, for ever; the next one passes
        return self._since_late_ms(old, again)

    def _since_late_ms(self, old: int, again: bool) -> float:
        late = int(self._row["beat_ns"]) + _HANG_MS * 1_000_000
        return (self._successor_ns(old, again) - late) / 1e6

    def _successor_ns(self, old: int, again: bool) -> int:
        """When another process has committed a tick of its own (monotonic ns)."""
        end, known, committed = time.monotonic() + _PATIENCE_S, {old}, 0
        while True:
            if (pid := int(self._row["pid"])) not in known:
                known.add(pid)
                committed = self._committed()
                if again:
                    again = False
                    os.kill(pid, signal.SIGKILL)
            elif pid != old and self._committed() > committed:
                return time.monotonic_ns()
            check(time.monotonic() < end, f"no successor took a tick within {_PATIENCE_S:g} s: {self._instance.text()}")
            time.sleep(0.0005)

    def _committed(self) -> int:
        """The last tick that was committed; what a successor recovers changes nothing of that."""
        return int(self._lines[int(self._commit["number"]) & 1]["tick_seq"])

    def rest(self) -> None:
        """Until the next one: all ticks taken, and a while more."""
        end = time.monotonic() + _PATIENCE_S
        while int(self._instance.memory().ticks.ring[0]["head"]) - self._instance.ticks() > TICKS_PER_S // 10 or self._row["state"] != l.PROC_READY:
            check(time.monotonic() < end, "the sniper does not catch up")
            time.sleep(0.01)
        time.sleep(_WINDOW_S + self._random.random())


def run(quick: bool) -> list[Row]:
    """All deaths in one instance."""
    count = _QUICK_DEATHS if quick else DEATHS
    took: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory(prefix="trader-bench-") as folder:
        words = Path(folder) / "crash-words"
        environment = {"TRADER_SUPERVISE__RESTART_WINDOW_S": str(_WINDOW_S), "TRADER_CRASH_WORDS": str(words)}
        with paper(environment=environment, line=[*launcher()[:-1], str(_SPEED)]) as instance:
            instance.start(COMPILE_PATIENCE_S)
            instance.await_ready()
            deaths = Deaths(instance, words, 1)
            time.sleep(2.0)
            before, began = instance.ticks(), time.monotonic()
            for number in range(count):
                again = number % 20 in (8, 19)  # of both kinds
                if number % 2 == 0:
                    took["crash"].append(deaths.crash_ms((signal.SIGKILL, signal.SIGSEGV)[number // 2 % 2], again))
                elif number // 2 % 3 < 2:
                    took["stop"].append(deaths.stop_ms(again))
                else:
                    took["loop"].append(deaths.loop_ms(again))
                deaths.rest()
            ticks_per_s = (instance.ticks() - before) / (time.monotonic() - began)
            summary = instance.stop()
    check(ticks_per_s >= 0.9 * TICKS_PER_S, f"the market made {ticks_per_s:,.0f} ticks/s, not {TICKS_PER_S:,}")
    check(summary["restarts"]["sniper"] >= count, f"{summary['restarts']['sniper']} restarts for {count} deaths")
    every = [one for sample in took.values() for one in sample]
    params = {"ticks_per_s": round(ticks_per_s), "hang_limit_ms": _HANG_MS, "restart_window_s": _WINDOW_S}
    rows = [Row("recovery", f"{kind}_{name}_ms", quantile(sample, share), "ms", {"deaths": len(sample), **params})
            for kind, sample in took.items() for name, share in (("p50", 0.5), ("p90", 0.9), ("max", 1.0))]
    late = sum(one > LIMIT_MS for one in every)
    return [*rows, Row("recovery", "later_than_100_ms", late, "", {"deaths": len(every), **params}, LATE * count // DEATHS)]
