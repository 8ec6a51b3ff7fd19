"""The market of the benchmarks: instruments, limits that are all there and refuse nothing, money, ticks, and conditions as rows.

Perpetuals with a tick of 0.01 and a lot of 0.001, so that one tick × one lot is 1,000 quanta of 1e-8 USDT; the first price is 10,000.00.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hotpath.arming import arm_of, compiled, facts_by_symbol
from hotpath.armoury import Armoury
from hotpath.config import Hotpath, Limits
from hotpath.kernel.loop import start
from hotpath.kernel.state import sniper_arrays
from hotpath.sniper import write_params
from ipc import layout as l
from ipc import messages, ring
from ipc.bundle import Bundle

#: share of the ticks that are quotes; the rest are trades (the mix of recorded Binance streams)
QUOTES = 0.78
FIRST_PRICE = 1_000_000
EVENT_NS = 1_700_000_000 * 10**9
#: event time between two ticks of `walk`
PACE_NS = 50_000
#: every limit there is, each too wide to refuse what the benchmarks ask for
LIMITS = Limits(
    max_open_positions=1000, max_symbol_exposure_bps=10_000, daily_loss_bps=5000, max_entries_per_day=1_000_000, min_confidence=0.5,
    max_quote_age_ms=600_000, max_order_value=1e6, price_collar_bps=1000, window_collar_bps=5000, max_gross_exposure_bps=100_000, min_equity=100.0,
    duplicate_window_ms=0, max_messages_per_s=1e6, max_repeats=100_000, repeat_window_s=1)
#: quanta of the account: 1 billion USDT
DEPOSIT = 10**9 * 10**8
STRATEGIES = ("first", "second")


def furnish(memory: Any, symbols: int, limits: Limits = LIMITS) -> None:
    """Instruments S0/USDT:USDT …, two strategies, limits, readers of the rings, and a deposit that waits in the report ring."""
    rows = memory.instruments.instruments[:symbols]
    for name, value in (("kind", l.KIND_LINEAR_PERPETUAL), ("value_quanta", 1000), ("tick_mantissa", 1), ("tick_exponent", -2),
                        ("lot_mantissa", 1), ("lot_exponent", -3), ("max_lots", 10**6), ("max_price", 10**9), ("leverage", 1),
                        ("taker_fee_e8", 50_000), ("min_notional", 5 * 10**8), ("quantum_exponent", -8), ("admitted", 1), ("permitted", -1)):
        rows[name] = value
    rows["symbol"] = [f"S{number}/USDT:USDT".encode() for number in range(symbols)]
    memory.instruments.strategies["name"][: len(STRATEGIES)] = [name.encode() for name in STRATEGIES]
    run = memory.board.run[0]
    run["instruments"], run["strategies"] = symbols, len(STRATEGIES)
    memory.board.cursors[0]["incarnation"] = 1
    memory.orders.readers[l.RECORDER]["active"] = memory.reports.readers[l.SNIPER]["active"] = 1
    write_params(memory, limits, Hotpath())
    deposit = np.zeros(1, l.REPORT)
    deposit["kind"], deposit["balance"] = l.BALANCE, DEPOSIT
    ring.publish(memory.reports.ring, memory.reports.slots, deposit, 0)


def parts_of(rows: Any, strategy: str, plan_seq: int) -> list[messages.Arm]:
    """Rows as a plan in parts, which have the numbers from `plan_seq` on."""
    most = messages.MAX_PLAN_CONDITIONS
    return [messages.Arm(strategy=strategy, due_ns=EVENT_NS, next_due_ns=EVENT_NS, plan_seq=plan_seq + part, part=part,
                         more=first + most < len(rows), rows=rows[first: first + most].tobytes())
            for part, first in enumerate(range(0, len(rows), most))]


def arm_rows(memory: Any, rows: Any) -> None:
    """Rows as the first strategy's plan, as the sniper arms it."""
    armoury = Armoury(memory, lambda: None)
    for part in parts_of(rows, STRATEGIES[0], 1):
        armoury.arm(part)


def compiled_plan(memory: Any, plan: messages.Plan) -> messages.Arm:
    """A plan as its strategist compiles it for this instance."""
    known = facts_by_symbol(memory.instruments.instruments)
    return arm_of(plan, compiled(plan.conditions, plan.due_ns, known, lambda: None))


def loop_of(memory: Any) -> Bundle:
    """The sniper's arrays over a furnished instance, its loop started."""
    s = sniper_arrays(memory)
    start(s)
    return s


def rows_at(instruments: Any, levels: Any, directions: Any) -> Any:
    """CONDITION rows: a market order of 100 USDT when `last` crosses a level, as often as it does, buys upwards and sells downwards."""
    rows = np.zeros(len(levels), l.CONDITION)
    rows["instrument"], rows["level"], rows["direction"] = instruments, levels, directions
    rows["valid_until_ns"], rows["max_fires"], rows["confidence_e4"], rows["stop_bps"] = 1 << 62, 1 << 30, 9000, 100
    rows["side"] = np.where(rows["direction"] == l.CROSS_UP, l.BUY, l.SELL)
    rows["order_type"], rows["size_kind"], rows["size_value"], rows["plan_seq"] = l.MARKET, l.SIZE_QUOTE, 100 * 10**8, 1
    return rows


def dormant(count: int, symbols: int) -> Any:
    """Conditions on all symbols in turn at levels that `walk` does not come near, half of them upwards."""
    direction = np.arange(count) // symbols % 2
    distance = np.random.default_rng(1).integers(200_000, 500_000, count)
    return rows_at(np.arange(count) % symbols, np.where(direction == l.CROSS_UP, FIRST_PRICE + distance, FIRST_PRICE - distance), direction)


def walk(symbols: int, count: int, seed: int = 2) -> Any:
    """Ticks of symbols at random, each in a random walk of up to three ticks a step; a quote stands one tick around its price."""
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
    price_ticks(ticks, price, random.random(count) < QUOTES)
    return ticks


def price_ticks(ticks: Any, price: Any, quotes: Any) -> None:
    """Make each tick a trade at its price, or a quote one tick around it."""
    ticks["kind"] = np.where(quotes, l.TICK_QUOTE, l.TICK_TRADE)
    ticks["price"], ticks["lots"] = np.where(quotes, price - 1, price), 5
    ticks["ask_price"], ticks["ask_lots"] = np.where(quotes, price + 1, 0), np.where(quotes, 7, 0)


def trades_by_symbol(ticks: Any, symbols: int) -> list[tuple[Any, Any]]:
    """Of each symbol: places of its trades in `ticks`, and their prices."""
    places = np.flatnonzero(ticks["kind"] == l.TICK_TRADE)
    of = ticks["instrument"][places]
    order = places[np.argsort(of, kind="stable")]
    ends = np.cumsum(np.bincount(of, minlength=symbols))
    return [(part, ticks["price"][part]) for part in np.split(order, ends[:-1])]


def crossings(places: Any, prices: Any, level: int, direction: int) -> Any:
    """The oracle: places of the trades that cross a level, by comparing each trade with the one before it."""
    sign = 1 if direction == l.CROSS_UP else -1
    return places[1:][(sign * prices[:-1] < sign * level) & (sign * level <= sign * prices[1:])]
