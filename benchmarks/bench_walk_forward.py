"""Real candles, walked forward: what the strategies made of 29 days of five perpetuals, fees in, with and without learning, beside buy-and-hold.

    one-minute candles ─► plan ─► sniper ─► paper venue ─► journal ─► reflection ─► knowledge ─► next plan     (control/backtest, all of it)

`../shared/data/ohlcv_1m` (or the folder that TRADER_REAL_DATA names). Nothing is fitted, so there is no part of the data to fit on: the shipped
settings are run once from the first day to the last, and whatever is learned on the way is learned of trades that have closed by then. That is a walk
forward with steps as small as they can be. It is checked: a run that ends after a third of the days has, trade by trade, what the whole run has until
then.

What is run was set down before the first result was seen, but for the arm without records:

- `analyst` as shipped, over candles of a minute, and once more as `analyst, all` with `limits.min_confidence = 0`: every condition that fires is
  entered, so that there is more to learn of.
- `mean_reversion` and `momentum` as shipped, with six times as long a candle (60 s instead of 10 s, the data have no shorter ones): times × 6, and
  distances × √6, as a walk's are.
- Limits as shipped: 20 entries a day, 5 positions, 2,000 bps of equity in a symbol. Perpetuals at 5 bps of fee and 2 bps of half spread a side. All
  is closed at the end.
- Learning: `learning.apply` true (*applied*) and false (*not applied*), with the same seed and data. The analyst reads each coin's record in both,
  for its confidence and its share of Kelly; a third run of it reads none (*no record*, benchmarks/no_record.py).
- Buy-and-hold: a fifth of the account in each symbol at its first open, sold at its last close, with one fee and one half spread for each of the two.

The data have no funding, so nobody pays any; and of a minute they have four prices whose order is assumed (hotpath/venues/candle_tables.py).

Intervals are of the mean of daily returns, 95 %, by blocks of three whole days of the account with all its symbols (benchmarks/blocks.py); with and
without learning the same days are drawn, and the difference is taken day by day.

It checks itself: the prefix; books that reconcile; every trade learned of; the sum of the trades is what the equity has gained; and where nothing was
active, learning has changed no trade.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks import no_record
from benchmarks.blocks import BLOCK_DAYS, RESAMPLES, Interval, interval
from benchmarks.frame import Missing, Row, check, real_data
from control import config as configuration
from control.backtest.engine import Backtest
from control.backtest.results import Trip, results_of
from control.learn.gate import ALPHA
from control.learn.knowledge import Knowledge
from control.learn.learner import universe
from control.learn.reflection import MOST_PATTERNS, MOST_REGIMES
from control.supervise.launch import make_plan
from control.supervise.permission import permit
from hotpath.sources import ReplaySource
from hotpath.venues.replay import Recording
from ipc import layout as l

FOLDER: Final = "ohlcv_1m"
MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 1440 * MINUTE_NS
#: of --quick
QUICK_DAYS, QUICK_COINS = 2, ("BTC", "LAYER")
#: share of candles that may be none: one has a high that is no multiple of its symbol's tick
MOST_BAD: Final = 1e-4
#: a prefix is so much of the days
PREFIX: Final = 3
_BATCH, _CHUNK = 1 << 17, 1 << 14
#: all cases: candles of a minute, and nothing left open
SETTINGS: Final[dict[str, Any]] = {"run.flatten_at_end": True, "strategy.candle_s": 60, "strategy.interval_s": 60}
#: the shipped settings of momentum and mean_reversion in candles six times as long: times × 6, distances × √6
SIX_TIMES: Final[dict[str, Any]] = {
    "strategy.interval_s": 180, "strategy.range_minutes": 30, "strategy.mean_minutes": 18, "strategy.time_stop_s": 1440, "strategy.valid_for_s": 540,
    "strategy.breakout_bps": 1.2, "strategy.stretch_least_bps": 7.3, "strategy.stop_bps": 73, "strategy.target_bps": 110,
    "strategy.trail_activation_bps": 49, "strategy.trail_distance_bps": 29}


class Arm(NamedTuple):
    """One run of a case: what it is called, its strategy, and whether what was learned changes plans."""

    learning: str
    strategy: str
    apply: bool


class Case(NamedTuple):
    """What is compared: a name, runs of which the first is compared with the others, and what is set otherwise than for all cases."""

    name: str
    arms: tuple[Arm, ...]
    settings: dict[str, Any]


def _arms(strategy: str) -> tuple[Arm, ...]:
    return Arm("applied", strategy, True), Arm("not applied", strategy, False)


_ANALYST: Final = (*_arms("analyst"), Arm("no record", f"{Path(no_record.__file__)}:{no_record.NoRecord.__name__}", False))
CASES: Final = (Case("analyst", _ANALYST, {}), Case("analyst, all", _ANALYST, {"limits.min_confidence": 0.0}),
                Case("mean_reversion", _arms("mean_reversion"), SIX_TIMES), Case("momentum", _arms("momentum"), SIX_TIMES))


class Learned(NamedTuple):
    """What the knowledge has at the end of a run."""

    trades: int
    #: steps of adaptations by stage, and what came to be active, in words
    steps: Counter[str]
    active: tuple[str, ...]
    #: the claim that is nearest to be believed, and by how much its log e-value falls short of what it takes alone
    nearest: str
    short: float
    #: mean loss of stopped trades beyond their stops, in bps of the entry price
    beyond_stop_bps: float


@dataclasses.dataclass(frozen=True)
class Walk:
    """One run. `equity` is the account's at the beginning and at the end of each whole UTC day."""

    summary: dict[str, Any]
    trips: list[Trip]
    equity: Any
    learned: Learned
    #: candles that were passed over, as they are none
    bad: int = 0

    @property
    def daily_bps(self) -> Any:
        """Return of each day in bps of the equity at its beginning."""
        return 1e4 * (self.equity[1:] / self.equity[:-1] - 1)

    @property
    def return_pct(self) -> float:
        """Of the whole time, in percent of the initial equity."""
        return float(100 * (self.equity[-1] / self.equity[0] - 1))


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def by_day(ticks: Any) -> Iterator[tuple[int, Any]]:
    """(UTC day since 1970, its ticks) of ticks in event time."""
    days = ticks["event_ns"] // DAY_NS
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(ticks)]
    for first, end in pairwise(cuts):
        if end > first:
            yield int(days[first]), ticks[first:end]


def walked(case: Case, arm: Arm, files: Iterable[Path], first_day: int, days: int, folder: Path) -> Walk:
    """A whole backtest of `days` days from UTC day `first_day` on, as `trader-ctl backtest` does it."""
    name = f"{case.name}, learning {arm.learning}"
    config = configuration.load(None, {**SETTINGS, **case.settings, "run.strategies": arm.strategy, "learning.apply": arm.apply}, {})
    plan = dataclasses.replace(make_plan("replay", [str(path) for path in files], config), mode="backtest", lockstep=True, speed=0.0)
    permit(plan)
    equity = np.full(days + 1, np.nan)
    equity[0] = config.paper.initial_balance
    quiet = logging.getLogger("walk_forward.data")
    quiet.setLevel(logging.CRITICAL)  # what is wrong with the data is counted here, once and not for every run
    run = Backtest(plan, folder, "walk", logging.getLogger("benchmarks"))
    try:
        quantum = run.planning.quantum
        recording = Recording(plan.sources, run.memory.instruments.instruments[: len(plan.rows)], quiet,
                              since_ns=first_day * DAY_NS, until_ns=(first_day + days) * DAY_NS)
        source = ReplaySource(recording, config.hotpath.session_gap_s * 10**9, plan.flatten_at_end, _CHUNK)
        batch, marks = np.zeros(_BATCH, l.TICK), np.zeros((_BATCH, 2), np.int64)
        began, count = time.monotonic(), 0
        while made := source.fill(batch, marks):
            count += made
            for day, ticks in by_day(batch[:made]):
                run.run(ticks)
                # what closes the rest comes a minute behind the last day
                at = min(day - first_day + 1, days)
                if math.isnan(equity[at]) and at > 1 and at % 10 == 1:
                    _tell(f"{name}: {at - 1} of {days} days, {time.monotonic() - began:.0f} s")
                equity[at] = int(run.memory.sniper.account[0]["equity"]) * quantum
        summary = run.finish(recording.errors(), recording.faults())
        trips = results_of(run, summary, (first_day * DAY_NS, (first_day + days) * DAY_NS)).trips
    finally:
        run.close()
        del run
        gc.collect()  # some 90 MB hang in circles, and there are many runs
    equity[-1] = float(summary["equity_end"])
    learned = _learned(folder / "state" / "knowledge", len(plan.rows))
    check(summary["ticks_processed"] >= count, f"{summary['ticks_processed']} ticks were stepped of {count}")
    check(summary["reconciled"] is True, f"the books do not reconcile: {summary.get('differences')}")
    counts = recording.counts()
    bad = sum(counts.get(name, 0) for name in ("frames_bad", "bad_price", "time_back"))
    check(not summary.get("data_unread") and bad <= MOST_BAD * counts["frames"], f"{summary.get('data_unread')}, {summary.get('data_fault')}")
    check(not np.isnan(equity).any(), "there are days without data")
    check(learned.trades == len(trips) == summary["trades_closed"],
          f"{learned.trades} trades were learned of, {len(trips)} read, {summary['trades_closed']} closed")
    gained = equity[-1] - equity[0]
    check(abs(sum(trip.pnl for trip in trips) - gained) < 1e-6 * equity[0], f"the trades do not add up to what was gained, {gained:.4f}")
    _tell(f"{name}: {days} days in {time.monotonic() - began:.0f} s, {len(trips)} trades")
    return Walk(summary, trips, equity, learned, bad)


def _learned(path: Path, symbols: int) -> Learned:
    store = Knowledge(path)
    try:
        steps, possible = store.steps(), universe(symbols, 1, MOST_PATTERNS, MOST_REGIMES)
        short = {claim: math.log(possible[claim.family] / ALPHA[claim.family]) - piece.evidence.log_e for claim, piece in store.claims().items()}
        nearest = min(short, key=lambda one: short[one], default=None)
        stopped = [-trade.sign * 1e4 * (trade.exit_price / trade.entry_price - 1) - trade.stop_bps
                   for trade in store.trades() if trade.made and trade.exit_reason == "stop"]
        return Learned(store.learned().trades, Counter(step.stage for step in steps),
                       tuple(f"{step.action} {step.value}" for step in steps if step.stage == "active"),
                       "" if nearest is None else nearest.text, math.nan if nearest is None else short[nearest],
                       float(np.mean(stopped)) if stopped else math.nan)
    finally:
        store.close()


def _tell(text: str) -> None:
    print(f"walk_forward: {text}", file=sys.stderr, flush=True)


# ── buy and hold ─────────────────────────────────────────────────────────────────────────────────────────────────────
def held(opened: Any, closes: Any, side_cost: float) -> Any:
    """Worth of 1 that was put into all symbols alike: [0] before, [t] at closes[t − 1], all of it sold at the last.

    `opened` [symbols] are the prices that were bought at, `closes` [times, symbols]; `side_cost` is what buying and selling each cost, as a share
    of the value. Bought is so much that value and cost are 1 together; sold is what is left of it less the cost.
    """
    worth = (np.asarray(closes, float) / np.asarray(opened, float)).mean(axis=1) / (1 + side_cost)
    worth[-1] *= 1 - side_cost
    return np.concatenate([[1.0], worth])


def drawdown_pct(worth: Any) -> float:
    """Largest fall below the highest so far, in percent."""
    peak = np.maximum.accumulate(worth)
    return float(100 * ((peak - worth) / peak).max())


def candles(path: Path) -> Any:
    """float64[rows, 3]: begin in ns, open, close."""
    import polars as pl

    table = pl.read_ipc(path)
    return np.column_stack([table["date"].dt.epoch("ns").to_numpy().astype(float), table["open"].to_numpy(), table["close"].to_numpy()])


def whole_days(tables: Sequence[Any]) -> tuple[int, int]:
    """(first, count) of the whole UTC days that all tables of candles have. Raises CheckFailed where there is none, or a minute is missing."""
    spans = [(int(table[0, 0]), int(table[-1, 0]) + MINUTE_NS) for table in tables]
    first, end = max(-(-begin // DAY_NS) for begin, _ in spans), min(end // DAY_NS for _, end in spans)
    check(end > first, "there is no day that all files have")
    for table in tables:
        inside = table[(table[:, 0] >= first * DAY_NS) & (table[:, 0] < end * DAY_NS), 0]
        check(len(inside) == (end - first) * 1440 and bool((np.diff(inside) == MINUTE_NS).all()), "minutes are missing")
    return first, end - first


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(quick: bool) -> list[Row | Missing]:
    """Buy-and-hold, then each case with and without learning."""
    found = sorted(real_data(FOLDER).glob("*USDT_1m_*.feather"))
    files = [path for path in found if not quick or any(f"_{coin}USDT_" in path.name for coin in QUICK_COINS)]
    check(len(files) >= 2, f"{len(files)} files of candles were found")
    tables = [candles(path) for path in files]
    first_day, days = whole_days(tables)
    days = min(days, QUICK_DAYS) if quick else days
    params = {"symbols": len(files), "days": days}
    within = [table[(table[:, 0] >= first_day * DAY_NS) & (table[:, 0] < (first_day + days) * DAY_NS)] for table in tables]
    rows = [*_held_rows(within, params)]
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="trader-bench-") as name:
            walks = [walked(case, arm, files, first_day, days, Path(name) / arm.learning) for arm in case.arms]
            part = walked(case, case.arms[0], files, first_day, max(1, days // PREFIX), Path(name) / "part")
        check_prefix(part.trips, walks[0].trips, (first_day + max(1, days // PREFIX)) * DAY_NS)
        applied, not_applied = walks[:2]
        if not applied.learned.active:
            check(applied.trips == not_applied.trips and np.array_equal(applied.equity, not_applied.equity),
                  "nothing was active, and the trades are others")
        rows += _case_rows(case, walks, params)
    return rows


def check_prefix(part: list[Trip], whole: list[Trip], until_ns: int) -> None:
    """What a run that ended at `until_ns` closed by itself before is what the whole run closed by then. Raises CheckFailed."""
    mine, theirs = ([trip for trip in trips if trip.closed_ns < until_ns] for trips in (part, whole))
    check(mine == theirs, f"a run over fewer days has {len(mine)} trades until then, the whole one {len(theirs)}, or they are others")


def _held_rows(tables: list[Any], params: dict[str, Any]) -> Iterator[Row | Missing]:
    paper = configuration.load(None, {}, {}).paper
    cost = (paper.perpetual_taker_fee_bps + paper.half_spread_bps) / 1e4
    worth = held([table[0, 1] for table in tables], np.column_stack([table[:, 2] for table in tables]), cost)
    at_days = worth[::1440]
    about = {"strategy": "buy and hold", **params}
    yield Row("walk_forward", "net_return_pct", 100 * (worth[-1] - 1), "%", about)
    yield Row("walk_forward", "max_drawdown_pct", drawdown_pct(worth), "%", about)
    yield _mean_row("mean_day_bps", 1e4 * (at_days[1:] / at_days[:-1] - 1), about)


def _case_rows(case: Case, walks: list[Walk], params: dict[str, Any]) -> Iterator[Row | Missing]:
    for arm, one in zip(case.arms, walks, strict=True):
        about = {"strategy": case.name, "learning": arm.learning, **params}
        by_symbol = Counter(trip.symbol.partition("/")[0] for trip in one.trips)
        values = [trip.size * trip.entry_price for trip in one.trips]
        bps = [1e4 * trip.pnl / value for trip, value in zip(one.trips, values, strict=True)]
        learned = one.learned
        yield Row("walk_forward", "trades", len(one.trips), "", {
            **about, **by_symbol, "win_rate": one.summary["win_rate"], "mean_bps": round(float(np.mean(bps)), 1) if bps else None,
            "mean_size_bps": round(1e4 * float(np.mean(values)) / one.equity[0]) if values else None,
            "beyond_stop_bps": round(learned.beyond_stop_bps, 1), "candles_passed_over": one.bad})
        yield Row("walk_forward", "refused", sum(one.summary["refusals"].values()), "", {**about, **one.summary["refusals"]})
        yield Row("walk_forward", "net_return_pct", one.return_pct, "%", about)
        yield Row("walk_forward", "fees_pct", 100 * float(one.summary["fees"]) / one.equity[0], "%", about)
        yield Row("walk_forward", "max_drawdown_pct", one.summary["max_drawdown_pct"], "%", about)
        yield _mean_row("mean_day_bps", one.daily_bps, about)
        yield Row("walk_forward", "adaptations_active", learned.steps["active"], "", {
            **about, **{stage: learned.steps[stage] for stage in ("shadow", "rejected", "rolled_back")}, "active": ", ".join(learned.active),
            "nearest": learned.nearest, "evidence_short_by": f"{math.exp(learned.short):.3g} ×"})
    for arm, other in zip(case.arms[1:], walks[1:], strict=True):
        yield _mean_row("gained_a_day_bps", walks[0].daily_bps - other.daily_bps, {"strategy": case.name, "over": arm.learning, **params})


def _mean_row(metric: str, daily_bps: Any, about: dict[str, Any]) -> Row | Missing:
    found: Interval | None = interval(daily_bps)
    if found is None:
        return Missing("walk_forward", f"{about['strategy']}: interval of {metric}", f"{len(daily_bps)} days are too few blocks of {BLOCK_DAYS}")
    return Row("walk_forward", metric, found.mean, "bps", {**about, "low": round(found.low, 2), "high": round(found.high, 2),
                                                           "block_days": BLOCK_DAYS, "resamples": RESAMPLES})
