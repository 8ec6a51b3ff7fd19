"""One core, the whole `step` with its commit: ticks a second by number of conditions and symbols.

Ticks are made before the clock starts: 78 % quotes and 22 % trades (the mix of the recorded Binance streams), symbols at random, prices in a random
walk. Almost all conditions lie dormant far from it, half of them upwards; a few lie in its way, as many as make one tick of a thousand cross a level
(the rate that came out is in the parameters). What fires passes the whole gate and becomes an order, which the driver ends at once with a REJECTED
report, so that the level fires again at the next crossing. The kernel reads each tick from an array: the ring's hop is not in here (see ring_hop,
tick_to_intent). Minimum and median of the rounds are reported; of the million conditions also what their instance takes of memory when all are armed
(PSS of the process afterwards, less what it was before; the ticks are not in it).

Growth: the same ticks over 1,000 and over 1,000,000 conditions on 100 symbols, round by round in turn; the ratio of the minima.

It checks itself: every tick is committed; each tick on which a plain comparison of neighbouring trades finds a crossing has made one order and no
other tick any, and every further crossing on such a tick was refused, as the position was open by then.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.frame import Row, check, instance
from benchmarks.market import QUOTES, arm_rows, crossings, dormant, furnish, loop_of, rows_at, trades_by_symbol, walk
from benchmarks.paper import measured as pss_of
from hotpath.kernel.ahead import look_ahead
from hotpath.kernel.step import step
from ipc import layout as l
from ipc import ring
from ipc.jit import kernel

#: (conditions, symbols) → ticks a second that are to be reached
TARGETS = {(1_000, 100): 6e6, (1_000_000, 10_000): 2.5e6}
CASES = ((100, 1), (1_000, 100), (100_000, 1_000), (1_000_000, 10_000))
QUICK = CASES[:2]
#: how much dearer a tick may be with a thousand times as many dormant conditions
GROWTH_TARGET = 1.5
GROWTH = ((1_000, 100), (1_000_000, 100))
QUICK_GROWTH = ((1_000, 100), (100_000, 100))
#: ticks that cross a level
FIRE_RATE = 0.001


@kernel
def drive(s: Any, ticks: Any, first: int, end: int, record: Any, report: Any, made_on: Any) -> int:
    """`step` over prepared ticks; gives the number of orders, and in `made_on` the tick of each.

    The ring's only reader follows at once, and each order is ended by a report, which the next tick applies.
    """
    orders = 0
    for row in range(first, end):
        look_ahead(s, ticks, row, end)
        s.tick[0] = ticks[row]
        made = step(s)
        if made:
            head = ring.head(s.order_ring)
            for seq in range(head - made + 1, head + 1):
                ring.poll(s.order_ring, s.order_slots, seq, record, 0)
                if record[0].kind == l.NEW:
                    made_on[orders] = row
                    orders += 1
                    report[0].order_seq = record[0].order_seq
                    ring.publish(s.report_ring, s.report_slots, report, 0)
            ring.advance(s.order_readers, l.RECORDER, head)
    return orders


class World:
    """A furnished instance with its conditions armed, its ticks, and what an oracle says of them."""

    def __init__(self, memory: Any, conditions: int, symbols: int, ticks: Any) -> None:
        self.params: dict[str, Any] = {"conditions": conditions, "symbols": symbols}
        self._ticks = ticks
        furnish(memory, symbols)
        live, self._crossed = in_the_way(ticks, symbols, conditions)
        arm_rows(memory, np.concatenate([live, dormant(conditions - len(live), symbols)]))
        self.s = loop_of(memory)
        self.done = self.orders = 0
        self._record, self._report = np.zeros(1, l.INTENT), np.zeros(1, l.REPORT)
        self._report["kind"] = l.REJECTED
        self._made_on = np.zeros(len(ticks), np.int64)
        self.times: list[float] = []
        self.pss_mb = 0.0

    def round(self, count: int, timed: bool = True) -> None:
        """The next ticks; notes s a tick."""
        end = self.done + count
        began = time.perf_counter()
        self.orders += drive(self.s, self._ticks, self.done, end, self._record, self._report, self._made_on[self.orders:])
        if timed:
            self.times.append((time.perf_counter() - began) / count)
        self.done = end

    def check(self) -> None:
        """Against the oracle."""
        check(int(self.s.line[0]["tick_seq"]) == self.done, "every tick is committed")
        crossed = self._crossed[self._crossed < self.done]
        ticks = np.unique(crossed)
        check(np.array_equal(ticks, self._made_on[: self.orders]),
              f"{self.orders} orders were made, and {len(ticks)} ticks cross a level; or on other ticks")
        refused = self.s.refusals.copy()
        check(int(refused[l.REF_POSITION_OPEN]) == len(crossed) - len(ticks) and int(refused.sum()) == len(crossed) - len(ticks),
              f"refusals {refused.nonzero()[0]} are not those of {len(crossed) - len(ticks)} further crossings")
        self.params |= {"quotes": QUOTES, "fire_rate": round(len(ticks) / self.done, 6)}


def in_the_way(ticks: Any, symbols: int, most: int) -> tuple[Any, Any]:
    """Conditions at prices of the walk, until FIRE_RATE of the ticks cross one; and the places of all crossings in `ticks`, in order."""
    random = np.random.default_rng(3)
    of = trades_by_symbol(ticks, symbols)
    levels: list[tuple[int, int, int]] = []
    crossed: list[Any] = []
    while sum(map(len, crossed)) < FIRE_RATE * len(ticks) and len(levels) < most:
        symbol, direction = int(random.integers(symbols)), len(levels) % 2
        places, prices = of[symbol]
        if len(prices) < 2:
            continue
        level = int(random.choice(prices))
        if (symbol, level, direction) not in levels:
            levels.append((symbol, level, direction))
            crossed.append(crossings(places, prices, level, direction))
    instruments, prices, directions = (np.array(column) for column in zip(*levels, strict=True))
    return rows_at(instruments, prices, directions), np.sort(np.concatenate(crossed))


def measured(cases: tuple[tuple[int, int], ...], symbols: int, count: int, rounds: int) -> list[World]:
    """The same ticks over each case, round by round in turn."""
    with ExitStack() as stack:
        ticks = walk(symbols, count)
        before_mb = pss_of(os.getpid(), "kernel").pss
        worlds = [World(stack.enter_context(instance(ticks=1024, instruments=symbols, conditions=conditions)), conditions, symbols, ticks)
                  for conditions, _ in cases]
        for world in worlds:
            world.round(count // 10, timed=False)
        for _ in range(rounds):
            for world in worlds:
                world.round((count - count // 10) // rounds)
        for world in worlds:
            world.check()
            world.pss_mb = pss_of(os.getpid(), "kernel").pss - before_mb
        return worlds


def run(quick: bool) -> list[Row]:
    """Each case in an instance of its own, then the two of the growth side by side."""
    rows = []
    count, rounds = (400_000, 3) if quick else (2_000_000, 5)
    for case in QUICK if quick else CASES:
        world, = measured((case,), case[1], count, rounds)
        rows.append(Row("kernel", "ticks_per_s", 1 / min(world.times), "1/s", world.params, TARGETS.get(case)))
        rows.append(Row("kernel", "ns_per_tick_median", sorted(world.times)[rounds // 2] * 1e9, "ns", world.params))
        if case == CASES[-1]:
            rows.append(Row("kernel", "pss_mb", world.pss_mb, "MB", world.params))
    few, many = measured(QUICK_GROWTH if quick else GROWTH, 100, count, 2 * rounds)
    params = {"from": few.params["conditions"], "to": many.params["conditions"], "symbols": 100, "fire_rate": many.params["fire_rate"]}
    rows.append(Row("kernel", "growth", min(many.times) / min(few.times), "ratio", params, None if quick else GROWTH_TARGET))
    return rows
