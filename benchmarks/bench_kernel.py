"""One core, the whole `step` with its commit: ticks a second by number of conditions and symbols.

Ticks are made before the clock starts: 78 % quotes and 22 % trades (the mix of the recorded Binance streams), symbols at random, prices in a random
walk; the conditions' levels lie around the first price, half of them upwards. `fires` of 10,000 ticks make an order, none of which is filled. The
kernel reads each tick from an array, so the ring's hop is not in here (see ring_hop, tick_to_intent). Minimum and median of the rounds are reported.

It checks itself: every tick is committed, and the number of orders is the number of crossings that a plain loop over the ticks counts.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.frame import Row, check, instance
from hotpath.config import Hotpath, Limits
from hotpath.kernel.loop import start
from hotpath.kernel.state import sniper_arrays
from hotpath.kernel.step import step
from hotpath.sniper import write_params
from ipc import layout as l
from ipc import ring
from ipc.jit import kernel

#: (conditions, symbols) → ticks a second that are to be reached
TARGETS = {(1_000, 100): 6e6, (1_000_000, 10_000): 2.5e6}
CASES = ((100, 1), (1_000, 100), (100_000, 1_000), (1_000_000, 10_000))
QUICK = CASES[:2]
QUOTES = 0.78
FIRST_PRICE = 1_000_000
EVENT_NS = 1_700_000_000 * 10**9
#: event time between two ticks
PACE_NS = 50_000


@kernel
def drive(s: Any, ticks: Any, first: int, end: int) -> int:
    """`step` over prepared ticks; gives the order-ring records that it made. The ring's reader follows at once: nobody else is there."""
    made = 0
    for row in range(first, end):
        s.tick[0] = ticks[row]
        made += step(s)
        ring.advance(s.order_readers, l.RECORDER, ring.head(s.order_ring))
    return made


def prepare(memory: Any, symbols: int, conditions: int) -> Any:
    """Instruments, limits that refuse nothing here, and conditions at levels that the walk does not reach."""
    rows = memory.instruments.instruments
    for name, value in (("kind", l.KIND_LINEAR_PERPETUAL), ("value_quanta", 1), ("tick_mantissa", 1), ("lot_mantissa", 1), ("max_lots", 10**6),
                        ("max_price", 10**9), ("leverage", 1), ("admitted", 1), ("permitted", -1)):
        rows[name] = value
    memory.board.run[0]["instruments"] = symbols
    memory.board.cursors[0]["incarnation"] = 1
    memory.orders.readers[l.RECORDER]["active"] = memory.reports.readers[l.SNIPER]["active"] = 1
    write_params(memory, Limits(), Hotpath())
    c = memory.conditions
    made = np.zeros(conditions, l.CONDITION)
    random = np.random.default_rng(1)
    made["instrument"] = np.arange(conditions) % symbols
    made["direction"] = np.arange(conditions) // symbols % 2
    distance = random.integers(200_000, 500_000, conditions)
    made["level"] = np.where(made["direction"] == l.CROSS_UP, FIRST_PRICE + distance, FIRST_PRICE - distance)
    made["condition_id"] = made["arming"] = np.arange(1, conditions + 1)
    made["state_slot"] = np.arange(conditions)
    made["valid_until_ns"], made["max_fires"], made["side"] = 1 << 62, 1, 1
    key = (made["instrument"].astype(np.int64) * len(l.PRICE_KINDS) + made["price_kind"]) * len(l.DIRECTIONS) + made["direction"]
    order = np.lexsort((np.where(made["direction"] == l.CROSS_UP, 1, -1) * made["level"], key))
    c.rows_a[:conditions] = made[order]
    c.index_a[:] = np.searchsorted(key[order], np.arange(len(c.index_a)))
    c.table[0]["count_a"] = conditions
    s = sniper_arrays(memory)
    start(s)
    return s


def walk(symbols: int, count: int, seed: int = 2) -> Any:
    """Ticks: a random walk of each symbol."""
    random = np.random.default_rng(seed)
    ticks = np.zeros(count, l.TICK)
    ticks["instrument"] = random.integers(0, symbols, count)
    ticks["seq"] = np.arange(1, count + 1)
    ticks["event_ns"] = EVENT_NS + np.arange(count, dtype=np.int64) * PACE_NS
    moves = random.integers(-3, 4, count)
    order = np.argsort(ticks["instrument"], kind="stable")
    price = np.empty(count, np.int64)
    total = np.cumsum(moves[order])
    starts = np.searchsorted(ticks["instrument"][order], np.arange(symbols))
    before = np.where(starts > 0, total[np.maximum(starts - 1, 0)], 0)
    price[order] = FIRST_PRICE + total - before[ticks["instrument"][order]]
    quotes = random.random(count) < QUOTES
    ticks["kind"] = np.where(quotes, l.TICK_QUOTE, l.TICK_TRADE)
    ticks["price"], ticks["lots"] = np.where(quotes, price - 1, price), 5
    ticks["ask_price"], ticks["ask_lots"] = np.where(quotes, price + 1, 0), np.where(quotes, 7, 0)
    return ticks


def run(quick: bool) -> list[Row]:
    """Each case in an instance of its own."""
    rows = []
    count, rounds = (400_000, 3) if quick else (2_000_000, 5)
    for conditions, symbols in QUICK if quick else CASES:
        with instance(ticks=1024, instruments=symbols, conditions=conditions) as memory:
            s = prepare(memory, symbols, conditions)
            ticks = walk(symbols, count)
            drive(s, ticks, 0, 1)
            times = []
            done = 1
            size = (count - 1) // rounds
            for _ in range(rounds):
                began = time.perf_counter()
                made = drive(s, ticks, done, done + size)
                times.append((time.perf_counter() - began) / size)
                done += size
                check(made == 0, f"{made} records were made: dormant conditions fired")
            check(int(s.line[0]["tick_seq"]) == done, "every tick is committed")
            parameters = {"conditions": conditions, "symbols": symbols, "quotes": QUOTES, "fires": 0}
            rows.append(Row("kernel", "ticks_per_s", 1 / min(times), "1/s", parameters, TARGETS.get((conditions, symbols))))
            rows.append(Row("kernel", "ns_per_tick_median", sorted(times)[rounds // 2] * 1e9, "ns", parameters))
    return rows
