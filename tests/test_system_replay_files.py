"""Recorded files through the real command, free running: every frame once, tables as good as frames, the built-in strategies' defaults trade.

What is expected is counted here from the files alone, with gzip and json.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import signal
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from control.record.journal import Journal
from hotpath.venues.catalogue import resolve
from hotpath.venues.replay import Recording
from ipc import bus, messages
from ipc.process import Source
from tests.running import BUSY, Running, until

pytestmark = pytest.mark.real_data

CLOCK_NS, SECOND_NS, GAP_NS, CLOSING_NS = 100_000_000, 10**9, 60 * 10**9, 2 * 10**9
#: frames in all eight files
TRADES, QUOTES = 82_743, 296_218
#: a run of a few seconds on an idle machine; others use it too
PATIENCE_S = 90.0
LIVELY = BUSY.replace("interval_s = 10", "interval_s = 2").replace("candle_s = 10", "candle_s = 2").replace("time_stop_s = 60", "time_stop_s = 10")


class Frame(NamedTuple):
    """A trade or quote of a file; `trade` is (price, size, exchange ms, sold, of the market), None for a quote."""

    ns: int
    trade: tuple[str, str, int, bool, bool] | None


def frames(path: Path) -> Iterator[Frame]:
    """Trades and quotes of a file of raw frames."""
    with gzip.open(path, "rt") as file:
        for line in file:
            stamp, _, text = line.partition(" ")
            frame = json.loads(text)
            kind = frame.get("stream", "").partition("@")[2]
            if kind in ("trade", "bookTicker"):
                data, received = frame["data"], int(stamp)
                trade = (data["p"], data["q"], data["T"], data["m"], data.get("X", "MARKET") == "MARKET") if kind == "trade" else None
                yield Frame(received if received > 10**17 else received * 1000, trade)


class Expected(NamedTuple):
    """Of some files: frames by kind, and all ticks, the clock's and those between sessions included."""

    trades: int
    quotes: int
    ticks: int


def expected_of(paths: Sequence[Path]) -> Expected:
    """What a replay of these files has to publish."""
    found = [frame for path in paths for frame in frames(path)]
    times = sorted(frame.ns for frame in found)
    others = clocks(times[0] - 1, times[0])
    for before, now in pairwise(times):
        if now - before > GAP_NS:  # a session ends a minute behind its last frame, and the clock goes on for two seconds
            end = before + GAP_NS
            others += 1 + clocks(end - 1, end + CLOSING_NS) + clocks(now - 1, now)
        else:
            others += clocks(before, now)
    trades = sum(frame.trade is not None for frame in found)
    return Expected(trades, len(found) - trades, len(found) + others)


def clocks(after_ns: int, until_ns: int) -> int:
    """Multiples of 100 ms in (after, until]."""
    return until_ns // CLOCK_NS - after_ns // CLOCK_NS


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "one", "")
    yield made
    made.end()


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "binance_ws_raw"


def replayed(one: Running, *arguments: object, speed: str = "max") -> dict[str, Any]:
    """A replay from start to end; its summary."""
    one.start(*map(str, arguments), mode="replay", speed=speed, wait=False)
    return ended(one)


def ended(one: Running) -> dict[str, Any]:
    """The summary of a replay that is under way, once it is over."""
    assert one.process is not None
    assert one.process.wait(PATIENCE_S) == 0, one.text()
    one.leaves_nothing()
    return one.summary()


def run_dir(one: Running) -> Path:
    return max((one.folder / "runs").glob("*/summary.json")).parent


def counted(one: Running) -> dict[str, int]:
    """What the feed says at the end that it has read."""
    (line,) = [line for line in (run_dir(one) / "logs" / "feed.log").read_text().splitlines() if "the data end after" in line]
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)(?:,|$)", line.partition(";")[2])}


def faultless(summary: dict[str, Any], expected: Expected) -> None:
    """Every tick processed once, and the books agree."""
    assert (summary["ticks_published"], summary["ticks_processed"], summary["ticks_lost"]) == (expected.ticks, expected.ticks, 0)
    assert summary["reconciled"] is True


# ── every frame once ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_all_eight_files_are_processed_frame_by_frame_and_traded_with_the_defaults(folder: Path, running: Running) -> None:
    paths = sorted(folder.glob("*.gz"))
    expected = expected_of(paths)
    assert (len(paths), expected.trades, expected.quotes) == (8, TRADES, QUOTES)
    summary = replayed(running, *paths)
    faultless(summary, expected)
    seen = counted(running)
    assert seen["frames"] - seen["frames_passed_over"] == TRADES + QUOTES
    assert (seen["frames_bad"], seen["bad_price"], seen["crossed"], seen["time_back"]) == (0, 0, 0, 0)
    assert summary["trades_closed"] > 0
    assert sum(summary["exit_reasons"].values()) == summary["trades_closed"]
    assert not any(summary["restarts"].values())


def test_one_symbols_files_that_join_are_one_session(folder: Path, running: Running) -> None:
    paths = sorted(folder.glob("spot_btcusdt_2024080[89].gz"))
    summary = replayed(running, *paths)
    faultless(summary, expected_of(paths))
    assert summary["conditions_armed"] > 0
    assert "data_gap" not in summary["exit_reasons"]


#: writes down what the last plan saw
WITNESS = """
import json
from pathlib import Path

class Witness:
    interval_s = 30

    def plan(self, market, portfolio, knowledge):
        seen = {}
        for symbol in market.facts:
            candles = market.candles(symbol)
            seen[symbol] = [candles.time_ns.tolist(), candles.high.tolist(), candles.low.tolist(), candles.close.tolist(),
                            candles.trades.tolist()]
        Path(FILE).write_text(json.dumps(seen))
        return []
"""


def test_a_feed_that_is_killed_twice_in_the_middle_loses_and_doubles_no_frame(folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.glob("spot_*usdt_2024080[89].gz"))
    expected = expected_of(paths)
    notes, strategy = tmp_path / "notes.json", tmp_path / "witness.py"
    strategy.write_text(WITNESS.replace("FILE", repr(str(notes))))
    one = Running(tmp_path / "one")
    try:
        one.start("--strategy", f"momentum,{strategy}:Witness", *map(str, paths), mode="replay", speed="max", wait=False)
        until(lambda: (bus.socket_dir(one.name) / "control.sock").exists(), PATIENCE_S, "it answers")
        client = bus.Client(bus.socket_dir(one.name), "control")
        killed: list[int] = []
        for share in (0.3, 0.6):
            killed.append(kill_the_feed(one, client, int(share * expected.ticks), killed))
        client.close()
        summary = ended(one)
    finally:
        one.end()
    faultless(summary, expected)
    assert len(set(killed)) == summary["restarts"]["feed"] == 2
    assert summary["fills"] > 0
    seen = counted(one)
    assert seen["frames"] - seen["frames_passed_over"] == expected.trades + expected.quotes
    for symbol, told in json.loads(notes.read_text()).items():
        assert told == candles_of([path for path in paths if symbol.replace("/", "").lower() in path.name], told[0]), symbol


def kill_the_feed(one: Running, client: bus.Client, ticks: int, before: list[int]) -> int:
    """SIGKILL to a feed that has published so many ticks; its pid."""
    def pid() -> int:
        reply = client.ask(messages.Status(), 5.0)
        (row,) = [row for row in reply.rows if row["role"] == "feed"]
        return int(row["pid"] or 0) if reply.data.get("ticks", 0) >= ticks and row["state"] in ("ready", "healthy") else 0

    found = int(until(lambda: (number := pid()) not in (0, *before) and number, PATIENCE_S, f"a feed at tick {ticks}"))
    os.kill(found, signal.SIGKILL)
    return found


def candles_of(paths: Sequence[Path], starts: Sequence[int]) -> list[list[float]]:
    """[starts, highs, lows, closes, counts] of the 10 s candles of market trades, folded here."""
    buckets: dict[int, list[float]] = {}
    for path in paths:
        for frame in frames(path):
            if frame.trade is not None and frame.trade[4]:
                buckets.setdefault(frame.ns // (10 * SECOND_NS) * 10 * SECOND_NS, []).append(float(frame.trade[0]))
    close, rows = 0.0, []
    for start in starts:
        prices = buckets.get(start) or [close]
        close = prices[-1]
        rows.append([start, max(prices), min(prices), close, len(buckets.get(start, []))])
    return [list(column) for column in zip(*rows, strict=True)]


# ── pace ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_a_paced_replay_takes_its_event_time_divided_by_its_speed(folder: Path, running: Running) -> None:
    path = folder / "spot_btcusdt_20240809.gz"
    times = [frame.ns for frame in frames(path)]
    seconds = (times[-1] - times[0]) / SECOND_NS / 100
    summary = replayed(running, path, speed="100")
    faultless(summary, expected_of([path]))
    stamps = {what: datetime.fromisoformat(line.split()[0]) for line in running.log.read_text().splitlines()
              for what in ("feed is ready", "stopping: end of the data") if what in line}
    took = (stamps["stopping: end of the data"] - stamps["feed is ready"]).total_seconds()
    assert 0.8 * seconds < took < seconds + 5, "readiness is noticed a moment after it is there, and so is the end"


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def tables(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The trades of one recording as raw frames, CSV and Parquet, under names that say no symbol."""
    made = tmp_path_factory.mktemp("tables")
    raw, rows = made / "recorded.gz", []
    with gzip.open(raw, "wt") as file, gzip.open(folder / "usdm_ethusdt_20240808.gz", "rt") as source:
        for line in source:
            data = json.loads(line.partition(" ")[2]).get("data", {})
            if data.get("e") == "trade" and data["X"] == "MARKET":
                file.write(line)
                rows.append({"local_timestamp": int(line.split()[0]), "price": data["p"], "amount": data["q"], "transact_time": data["T"],
                             "side": "sell" if data["m"] else "buy"})
    table = pl.DataFrame(rows)
    assert table.height > 10_000
    table.write_csv(made / "recorded.csv")
    table.with_columns(pl.col("price", "amount").cast(pl.Float64), pl.from_epoch("local_timestamp", time_unit="ns"),
                       pl.from_epoch("transact_time", time_unit="ms")).write_parquet(made / "recorded.parquet")
    return [raw, made / "recorded.csv", made / "recorded.parquet"]


def test_trades_as_csv_or_parquet_are_the_records_of_the_frames(tables: list[Path]) -> None:
    rows, log = resolve(("ETH/USDT:USDT",)), logging.getLogger("tables")
    raw, *others = (Recording([Source(path=str(path), symbol="ETH/USDT:USDT")], rows, log).take(1 << 20) for path in tables)
    assert len(raw) > 10_000
    assert all(np.array_equal(raw, other) for other in others)


@pytest.mark.slow
def test_tables_with_a_stated_symbol_are_traded_like_the_frames_to_the_last_fill(tables: list[Path], tmp_path: Path) -> None:
    fills = []
    for path in tables:
        one = Running(tmp_path / path.suffix[1:], LIVELY)
        try:
            summary = replayed(one, f"{path}=ETH/USDT:USDT", "--lockstep", "--flatten-at-end", "--strategy", "momentum")
        finally:
            one.end()
        assert summary["reconciled"] is True
        fills.append((run_dir(one) / "fills.bin").read_bytes())
    assert len(fills[0]) > 0
    assert fills == fills[:1] * 3


# ── strategies ───────────────────────────────────────────────────────────────────────────────────────────────────────
#: confidence = 0.5 + the last minute's range in bps / 50, at most 1: 10 bps are 0.70
MINE = """
from control.think.strategy import Condition, Strategy, equity_bps

class Ranges(Strategy):
    interval_s = 10

    def plan(self, market, portfolio, knowledge):
        conditions = []
        for symbol, facts in market.facts.items():
            candles = market.candles(symbol, 1)
            if len(candles) == 6 and symbol not in portfolio.positions:
                high, low = candles.high.max(), candles.low.min()
                conditions.append(Condition(
                    symbol=symbol, side="buy", level=facts.price_text(high + float(facts.tick_size), "up"), direction="up",
                    size=equity_bps(300), confidence=min(1.0, round(0.5 + 1e4 * (high / low - 1) / 50, 4)), stop_bps=15, target_bps=25,
                    time_stop_s=30, valid_for_s=20, why=f"minute's high; range {1e4 * (high / low - 1):.1f} bps"))
        return conditions
"""


class Planned(NamedTuple):
    """A run's plans as (due, conditions), its fills and its summary."""

    plans: list[tuple[int, list[messages.Condition]]]
    fills: bytes
    summary: dict[str, Any]


def planned(folder: Path, *arguments: object) -> Planned:
    """A lockstep replay with the default limits."""
    one = Running(folder, "")
    try:
        summary = replayed(one, *arguments, "--lockstep", "--flatten-at-end")
    finally:
        one.end()
    (data,) = run_dir(one).rglob("journal/data.mdb")
    journal = Journal(data.parent)
    try:
        plans = [(plan.due_ns, plan.conditions) for _, plan in journal.plans()]
    finally:
        journal.close()
    return Planned(plans, (run_dir(one) / "fills.bin").read_bytes(), summary)


def on_both_sides(run: Planned) -> None:
    """The limit on confidence has refused some that fired, and let others trade."""
    confidences = [condition.confidence for _, conditions in run.plans for condition in conditions]
    assert min(confidences) < 0.7 <= max(confidences)
    assert run.summary["refusals"]["confidence"] > 0
    assert run.summary["fills"] > 0
    assert run.summary["trades_closed"] > 0
    assert run.summary["reconciled"] is True


@pytest.mark.slow
def test_a_users_class_plans_the_same_twice_with_confidences_on_both_sides_of_the_limit(folder: Path, tmp_path: Path) -> None:
    strategy = tmp_path / "mine.py"
    strategy.write_text(MINE)
    first, again = (planned(tmp_path / name, "--strategy", f"{strategy}:Ranges", folder / "spot_btcusdt_20240809.gz") for name in ("a", "b"))
    assert sum(len(conditions) for _, conditions in first.plans) >= 20
    assert first.plans == again.plans
    assert first.fills == again.fills
    on_both_sides(first)
    by_why = {condition.why: condition.confidence for _, conditions in first.plans for condition in conditions}
    for why, confidence in by_why.items():
        assert confidence == pytest.approx(min(1.0, 0.5 + float(why.split()[-2]) / 50), abs=0.0011), why


@pytest.mark.slow
def test_the_defaults_have_conditions_that_trade_and_conditions_that_are_not_trusted(folder: Path, tmp_path: Path) -> None:
    on_both_sides(planned(tmp_path / "run", *sorted(folder.glob("usdm_*_20240808.gz"))))
