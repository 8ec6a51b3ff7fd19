"""Candles as a path of trades: which extreme comes first, where the volume goes, what is no candle, and that three formats say the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hotpath.sources import ReplaySource
from hotpath.venues import candle_tables, catalogue
from hotpath.venues.record import SourceError
from hotpath.venues.replay import Recording, check_sources
from ipc import layout as l
from ipc.process import Source

SYMBOL = "BTC/USDT:USDT"  # tick 0.1, lot 0.001
MINUTE = 60 * 10**9
START = 1_746_316_800 * 10**9  # 2025-05-04 00:00 UTC
EVENT, KIND, FLAGS, PRICE, LOTS = 0, 3, 4, 6, 7


def table(*rows: tuple[float, float, float, float, float], begin: int = START, every: int = MINUTE) -> pl.DataFrame:
    """(open, high, low, close, volume), one a minute."""
    names = ("open", "high", "low", "close", "volume")
    frame = pl.DataFrame({name: [row[at] for row in rows] for at, name in enumerate(names)}, schema=dict.fromkeys(names, pl.Float64))
    return frame.with_columns(pl.Series("date", [begin + k * every for k in range(len(rows))]).cast(pl.Datetime("ns", "UTC"))).select("date", *names)


def recording(*paths: Path, **fields: Any) -> Recording:
    return Recording([Source(path=str(path), symbol=SYMBOL) for path in paths], catalogue.resolve((SYMBOL,)), logging.getLogger("candles"), **fields)


def records(path: Path, **fields: Any) -> Any:
    return recording(path, **fields).take(1 << 20)


def feather(folder: Path, frame: pl.DataFrame) -> Path:
    path = folder / "candles.feather"
    frame.write_ipc(path)
    return path


def test_a_rising_candle_goes_to_its_low_first_and_a_falling_one_to_its_high(tmp_path: Path) -> None:
    found = records(feather(tmp_path, table((100.0, 103.0, 99.0, 102.0, 1.0), (102.0, 104.0, 98.0, 99.0, 1.0))))
    assert found[:, PRICE].tolist() == [1000, 990, 1030, 1020, 1020, 1040, 980, 990]
    offsets = [0, 20 * 10**9, 40 * 10**9, MINUTE - 10**6]
    assert (found[:, EVENT] - START).tolist() == [*offsets, *(MINUTE + one for one in offsets)]
    assert set(found[:, KIND].tolist()) == {l.TICK_TRADE}
    down, up = l.FLAG_BUYER_IS_MAKER, 0
    assert found[:4, FLAGS].tolist() == [down, down, up, down]


def test_the_volume_is_split_in_four_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    found = records(feather(tmp_path, table(*((100.0, 101.0, 99.0, 100.0, volume) for volume in (0.0117, 0.0, 0.0004)))))
    assert found[:, LOTS].tolist() == [2, 2, 2, 5, 0, 0, 0, 0, 0, 0, 0, 0]


def test_csv_parquet_and_feather_of_the_same_candles_are_the_same_records(tmp_path: Path) -> None:
    frame = table(*((100.0 + k / 10, 101.5 + k / 10, 99.0, 100.3, 1.234) for k in range(50)))
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("date").dt.epoch("ms").alias("date")).write_csv(tmp_path / "a.csv")
    first = records(feather(tmp_path, frame))
    assert len(first) == 200
    assert all(np.array_equal(first, records(tmp_path / name)) for name in ("a.parquet", "a.csv"))


@pytest.mark.parametrize(("row", "count"), [
    ((100.0, 99.9, 99.0, 99.5, 1.0), "bad_price"), ((100.0, 101.0, 100.5, 100.8, 1.0), "bad_price"),
    ((100.05, 101.0, 99.0, 100.0, 1.0), "bad_price"), ((0.0, 101.0, 0.0, 100.0, 1.0), "bad_price"),
    ((float("nan"), 101.0, 99.0, 100.0, 1.0), "bad_price"), ((100.0, 101.0, 99.0, 100.0, -1.0), "bad_price"),
])
def test_what_is_no_candle_is_counted_and_left_out(tmp_path: Path, row: Any, count: str) -> None:
    good = (100.0, 101.0, 99.0, 100.0, 1.0)
    made = recording(feather(tmp_path, table(good, row, good)))
    assert len(made.take(100)) == 8
    assert made.counts()[count] == 1
    assert made.faults()


def test_a_candle_that_goes_back_in_time_is_left_out(tmp_path: Path) -> None:
    frame = table(*[(100.0, 101.0, 99.0, 100.0, 1.0)] * 3)
    made = recording(feather(tmp_path, pl.concat([frame, frame[1:2]])))
    assert len(made.take(100)) == 12
    assert made.counts()["time_back"] == 1


def test_the_clock_of_candles_stands_at_every_second_and_a_missing_minute_is_a_new_session(tmp_path: Path) -> None:
    row = (100.0, 101.0, 99.0, 100.0, 1.0)
    frame = pl.concat([table(row, row), table(row, begin=START + 4 * MINUTE)])
    source = ReplaySource(recording(feather(tmp_path, frame)), MINUTE, False, 1024)
    ticks, marks = np.zeros(4096, l.TICK), np.zeros((4096, 2), np.int64)
    made = 0
    while more := source.fill(ticks[made:], marks[made:]):
        made += more
    ticks = ticks[:made]
    clocks = ticks["event_ns"][ticks["kind"] == l.TICK_CLOCK]
    assert np.all(clocks % 10**9 == 0)
    assert 3 * 59 <= len(clocks) <= 3 * 61 + 3
    assert int((ticks["kind"] == l.TICK_SESSION).sum()) == 1


def test_candles_beside_trades_keep_the_fine_clock(tmp_path: Path) -> None:
    pl.DataFrame({"timestamp": [START // 10**6], "price": [100.0], "amount": [1.0]}).write_csv(tmp_path / "trades.csv")
    path = feather(tmp_path, table((100.0, 101.0, 99.0, 100.0, 1.0)))
    assert recording(path).clock_ns == 10**9
    assert recording(path, tmp_path / "trades.csv").clock_ns == 10**8


def test_candles_longer_than_the_session_gap_are_refused_with_the_key_to_set(tmp_path: Path) -> None:
    row = (100.0, 101.0, 99.0, 100.0, 1.0)
    source = ReplaySource(recording(feather(tmp_path, table(row, row, row, every=5 * MINUTE))), MINUTE, False, 1024)
    with pytest.raises(SourceError, match=r"candles of 300 s are longer than hotpath.session_gap_s = 60; set it to 300"):
        source.fill(np.zeros(64, l.TICK), np.zeros((64, 2), np.int64))


def test_a_table_without_a_time_or_cut_in_the_middle_is_named(tmp_path: Path) -> None:
    path = feather(tmp_path, table((100.0, 101.0, 99.0, 100.0, 1.0)))
    with pytest.raises(SourceError, match="a table of candles without a time"):
        candle_tables.columns_of("x.csv", ["open", "high", "low", "close"])
    (tmp_path / "cut.feather").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match="no whole Feather file"):
        check_sources([Source(path=str(tmp_path / "cut.feather"), symbol=SYMBOL)])


def test_a_part_by_time_is_cut_out_of_the_merged_stream(tmp_path: Path) -> None:
    path = feather(tmp_path, table(*[(100.0, 101.0, 99.0, 100.0, 1.0)] * 5))
    found = records(path, since_ns=START + MINUTE, until_ns=START + 3 * MINUTE)
    assert (len(found), int(found[0, EVENT]), int(found[-1, EVENT])) == (8, START + MINUTE, START + 3 * MINUTE - 10**6)
