"""A whole backtest in one process: both rules strategies, the kernel, the paper venue, the journal, reflection; ticks a second.

*In memory* the ticks (four perpetuals, 78 % quotes, a random walk of some 20 bps a minute, CLOCK ticks between) are made before the clock starts, and
*In memory* the ticks (four perpetuals, 78 % quotes, a random walk of some 20 bps a minute, CLOCK ticks between) are there before it starts, and
paces are measured. *From Parquet* the same ticks are read from a table of trades and one of quotes a symbol, decoded and merged by the feed's code.

It checks itself: every tick was stepped, orders were made and filled, and the journal reconciles with the venue's ledger to the last quantum.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Row, check
from benchmarks.market import EVENT_NS, QUOTES, walk
from control import config as configuration
from control.backtest.engine import Backtest
from control.supervise.launch import make_plan
from control.supervise.permission import permit
from hotpath.kernel import clock
from hotpath.sources import ReplaySource
from hotpath.venues.replay import Recording
from ipc import layout as l

TARGET = 3e6
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
#: event time between two ticks
PACES_NS = (100_000, 1_000_000)
#: how much wider than the walk's the steps are
_STRETCH = 8
_GAP_NS = 60 * 10**9
_CHUNK = 1 << 16
#: as a backtest that trades: the limits of a day are those of its length
SETTINGS: dict[str, Any] = {"limits.max_entries_per_day": 100_000, "limits.min_confidence": 0.0, "strategy.range_minutes": 2,
                            "strategy.mean_minutes": 2, "strategy.stretch_sigma": 1.0, "strategy.stretch_least_bps": 2}


def stretched(count: int, pace_ns: int) -> Any:
    """The ticks of the walk, further apart in price and at another pace."""
    ticks = walk(len(SYMBOLS), count)
    for side in ("price", "ask_price"):
        there = ticks[side] > 0
        offset = np.where(ticks["kind"] == l.TICK_QUOTE, 1 if side == "ask_price" else -1, 0)
        middle = ticks[side] - offset
        ticks[side][there] = (1_000_000 + (middle - 1_000_000) * _STRETCH + offset)[there]
    ticks["event_ns"] = EVENT_NS + np.arange(count, dtype=np.int64) * pace_ns
    return ticks


def woven(ticks: Any) -> Any:
    """The same with the feed's CLOCK ticks between."""
    records = np.zeros((len(ticks), 10), np.int64)
    for column, name in enumerate(("event_ns", None, "instrument", "kind", "flags", None, "price", "lots", "ask_price", "ask_lots")):
        if name is not None:
            records[:, column] = ticks[name]
    span_ns = int(ticks["event_ns"][-1] - ticks["event_ns"][0])
    made = np.zeros(len(ticks) + span_ns // clock.CLOCK_NS + 64, l.TICK)
    at, count = clock.weave(records, 0, len(records), clock.new_state(), _GAP_NS, made, np.zeros((len(made), 2), np.int64))
    check(at == len(records), "not every tick was woven in")
    return made[:count]


def tables(ticks: Any, folder: Path, facts: Any) -> list[str]:
    """A Parquet table of trades and one of quotes for each symbol; gives PATH=SYMBOL of each."""
    import polars as pl

    sources = []
    for number, symbol in enumerate(SYMBOLS):
        tick, lot = (10.0 ** int(facts[number][f"{unit}_exponent"]) * int(facts[number][f"{unit}_mantissa"]) for unit in ("tick", "lot"))
        for kind, columns in ((l.TICK_TRADE, {"price": ("price", tick), "quantity": ("lots", lot)}),
                              (l.TICK_QUOTE, {"bid_price": ("price", tick), "bid_qty": ("lots", lot), "ask_price": ("ask_price", tick),
                                              "ask_qty": ("ask_lots", lot)})):
            mine = ticks[(ticks["instrument"] == number) & (ticks["kind"] == kind)]
            path = folder / f"{symbol.partition('/')[0].lower()}_{kind}.parquet"
            pl.DataFrame({"timestamp": mine["event_ns"], **{name: np.round(mine[field] * unit, 8) for name, (field, unit) in columns.items()}}
                         ).write_parquet(path)
            sources.append(f"{path}={symbol}")
    return sources


def planned(sources: list[str]) -> Any:
    """What `trader-ctl backtest --data …` would decide."""
    plan = dataclasses.replace(make_plan("replay", sources, configuration.load(None, SETTINGS, {})), mode="backtest", lockstep=True, speed=0.0)
    permit(plan)
    return plan


def whole(plan: Any, folder: Path, ticks: Any, count: int) -> tuple[float, dict[str, Any], float]:
    """(s from the first tick to the written summary, summary, s of the ticks alone); without ticks they are read from the plan's sources."""
    run = Backtest(plan, folder, "bench", logging.getLogger("benchmarks"))
    try:
        began = time.perf_counter()
        if ticks is None:
            recording = Recording(plan.sources, run.memory.instruments.instruments[: len(plan.rows)], logging.getLogger("data"))
            source = ReplaySource(recording, _GAP_NS, False, 2048)
            batch, marks = np.zeros(_CHUNK, l.TICK), np.zeros((_CHUNK, 2), np.int64)
            while made := source.fill(batch, marks):
                run.run(batch[:made])
        else:
            for first in range(0, len(ticks), _CHUNK):
                run.run(ticks[first : first + _CHUNK])
        stepped = time.perf_counter() - began
        summary = run.finish([], [])
        took = time.perf_counter() - began
    finally:
        run.close()
    check(summary["ticks_processed"] >= count, f"{summary['ticks_processed']} ticks were stepped of {count}")
    check(summary["reconciled"] is True, f"the journal does not reconcile: {summary.get('differences')}")
    check(summary["fills"] >= 10 and summary["trades_closed"] >= 2, f"only {summary['fills']} fills and {summary['trades_closed']} trades")
    return took, summary, stepped


def run(quick: bool) -> list[Row]:
    """In memory at two paces, then from Parquet."""
    count, from_tables = (2_000_000, 200_000) if quick else (10_000_000, 1_000_000)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="trader-bench-") as name:
        folder = Path(name)
        # the instruments' tick and lot are the catalogue's, so the tables can only be written once they are known
        probe = tables(stretched(64, PACES_NS[0]), folder, _facts())
        plan = planned(probe)
        whole(plan, folder / "warm", woven(stretched(400_000, PACES_NS[1])), 400_000)
        for pace_ns in PACES_NS:
            ticks = woven(stretched(count, pace_ns))
            took, summary, stepped = whole(plan, folder / str(pace_ns), ticks, len(ticks))
            params = {"from": "memory", "ticks": len(ticks), "symbols": len(SYMBOLS), "quotes": QUOTES, "event_us_between": pace_ns // 1000,
                      "fills": summary["fills"], "trades": summary["trades_closed"]}
            rows.append(Row("backtest", "ticks_per_s", len(ticks) / took, "1/s", params, TARGET))
            rows.append(Row("backtest", "ns_per_tick_without_end", stepped / len(ticks) * 1e9, "ns", params))
        ticks = stretched(from_tables, PACES_NS[1])
        plan = planned(tables(ticks, folder, plan.rows))
        took, summary, _ = whole(plan, folder / "tables", None, len(ticks))
        rows.append(Row("backtest", "ticks_per_s", len(ticks) / took, "1/s", {"from": "Parquet", "ticks": len(ticks), "symbols": len(SYMBOLS),
                                                                          "event_us_between": PACES_NS[1] // 1000, "fills": summary["fills"]}))
    return rows


def _facts() -> Any:
    """INSTRUMENT rows of the symbols, from the catalogue."""
    from hotpath.venues import catalogue

    settings = configuration.load(None, {}, {})
    return catalogue.resolve(SYMBOLS, settings.instruments, settings.paper, "replay")
