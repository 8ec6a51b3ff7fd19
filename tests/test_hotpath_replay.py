"""Recordings become records exactly, merged by receive time; whatever is wrong with them is counted or named with its remedy."""

from __future__ import annotations

import gzip
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hotpath.kernel import clock
from hotpath.venues.catalogue import resolve
from hotpath.venues.frames import nanoseconds
from hotpath.venues.record import Scale, SourceError
from hotpath.venues.replay import Recording, check_sources
from ipc import layout as l
from ipc.process import Source

FIXTURES = Path(__file__).parent / "fixtures"
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "binance_ws_raw"
LOG = logging.getLogger("test.replay")
SPOT = Source(str(FIXTURES / "spot_btcusdt_sample.raw"), "BTC/USDT")
PERPETUAL = Source(str(FIXTURES / "usdm_ethusdt_sample.raw"), "ETH/USDT:USDT")
T0 = 1704067200_000_000_000
#: columns of a record
EVENT, INSTRUMENT, KIND, FLAGS, OFFSET, PRICE, LOTS, ASK, ASK_LOTS = 0, 2, 3, 4, 5, 6, 7, 8, 9


def record_all(*sources: Source, most: int = 1000) -> tuple[np.ndarray[Any, Any], Recording]:
    recording = Recording(sources, resolve(list(dict.fromkeys(source.symbol for source in sources))), LOG)
    parts = []
    while len(part := recording.take(most)):
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros((0, 10), np.int64), recording


def write(folder: Path, *lines: str, name: str = "frames.raw") -> Source:
    (folder / name).write_text("\n".join(lines) + "\n")
    return Source(str(folder / name), "BTC/USDT")


def ticker(at: int, bid: str = "100.00", ask: str = "100.01", bid_size: str = "1", ask_size: str = "1", symbol: str = "BTCUSDT") -> str:
    return f'{at} {{"stream":"x@bookTicker","data":{{"u":1,"s":"{symbol}","b":"{bid}","B":"{bid_size}","a":"{ask}","A":"{ask_size}"}}}}'


def trade(at: int, price: str = "100.00", size: str = "1") -> str:
    return f'{at} {{"stream":"x@trade","data":{{"e":"trade","s":"BTCUSDT","p":"{price}","q":"{size}","T":{at // 10**6},"m":false}}}}'


@pytest.mark.parametrize(("text", "ticks"), [
    ("61837.63000000", 6183763), ("61837.63", 6183763), ("61837", 6183700), ("0.01", 1), ("0.010", 1), ("1.", 100), (".5", 50),
    ("6.183763e4", 6183763), ("1E-2", 1), ("61837.631", -1), ("0.001", -1), ("0", -1), ("0.00", -1), ("-5", -1), ("+5", -1), ("NaN", -1),
    ("Infinity", -1), ("", -1), (".", -1), ("abc", -1), ("1_0", -1), ("1e400", -1), ("1e-400", -1), ("1e999999999", -1), ("1.2.3e1", -1),
    ("100000000.00", -1), ("٣", -1), ("9" * 60, -1), ("9" * 5000, -1),
])
def test_price_text_becomes_ticks_exactly_or_is_refused(text: str, ticks: int) -> None:
    assert Scale(1, -2, 1_000_000_00)[text] == ticks


def test_scale_knows_half_ticks_and_floors_sizes() -> None:
    assert [Scale(5, -1, 10**9)[text] for text in ("10.5", "10.3", "10")] == [21, -1, 20]
    assert [Scale(1, -3, 10**9, floor=True)[text] for text in ("1.0009", "0.0009", "2")] == [1000, -1, 2000]
    assert [Scale(1, 2, 10**9)[text] for text in ("1500", "1550")] == [15, -1]


def test_every_price_is_exact_where_floats_are_not() -> None:
    scale = Scale(1, -8, 1 << 53)
    for value in (29, 57, 58, 113_999_999, 10**15 + 1):
        assert scale[f"{value // 10**8}.{value % 10**8:08d}"] == value


def test_time_units_are_told_by_magnitude() -> None:
    assert nanoseconds(1704067200_000_000_000) == nanoseconds(1704067200_000_000) == nanoseconds(1704067200_000) == T0
    assert nanoseconds(1704067200) == nanoseconds(10**19) == nanoseconds(0) == 0


def test_fixture_becomes_these_records() -> None:
    records, recording = record_all(SPOT, PERPETUAL)
    assert records[:, [0, 2, 3, 4, 5, 6, 7, 8, 9]].tolist() == [
        [T0 + 55_000_000, 1, 2, 0, 5000, 230010, 12500, 230011, 8125],
        [T0 + 60_000_000, 0, 2, 0, 0, 4200000, 150000, 4200001, 25000],
        [T0 + 100_000_000, 0, 1, 0, -3000, 4200001, 1000, 0, 0],
        [T0 + 320_000_000, 0, 2, 0, 0, 4200050, 70000, 4200051, 90000],
        [T0 + 320_000_000, 0, 1, l.FLAG_BUYER_IS_MAKER, -3000, 4200050, 500, 0, 0],
        [T0 + 320_000_000, 1, 1, 0, 9000, 230011, 750, 0, 0],
        [T0 + 500_000_000, 1, 1, l.FLAG_BUYER_IS_MAKER | l.FLAG_NOT_MARKET, 9000, 234600, 2, 0, 0],
        [T0 + 700_000_000, 0, 2, 0, 0, 4200100, 40000, 4200100, 30000],
        [T0 + 900_000_000, 1, 2, 0, 11000, 230030, 3000, 230035, 4250],
        [T0 + 1_010_000_000, 0, 1, 0, -3000, 4200100, 20000, 0, 0],
        [T0 + 100_999_000_000, 1, 2, 0, 11000, 230200, 1000, 230201, 1000],
        [T0 + 101_000_000_000, 0, 2, 0, 0, 4205000, 100000, 4205010, 100000],
        [T0 + 101_250_000_000, 0, 1, 0, -3000, 4205010, 3000, 0, 0],
    ]
    assert recording.counts() == {"frames": 17, "frames_passed_over": 4, "frames_bad": 0, "bad_price": 0, "crossed": 0, "time_back": 0}
    assert not recording.errors()


def test_chunks_and_compression_change_nothing(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(Path(SPOT.path).read_bytes()))
    whole, _ = record_all(SPOT)
    for most in (1, 3):
        assert np.array_equal(record_all(Source(str(packed), "BTC/USDT"), most=most)[0], whole)


def test_files_of_one_symbol_follow_each_other_whatever_their_order(tmp_path: Path) -> None:
    early, late = write(tmp_path, ticker(T0), ticker(T0 + 5), name="a"), write(tmp_path, ticker(T0 + 10), ticker(T0 + 15), name="b")
    assert record_all(late, early)[0][:, EVENT].tolist() == [T0, T0 + 5, T0 + 10, T0 + 15]


@pytest.mark.parametrize(("bad", "count"), [
    ("not a frame at all", "frames_bad"),
    (f"{T0} not json", "frames_bad"),
    (f"{T0} [1, 2]", "frames_bad"),
    (f'{T0} {{"stream":"x@trade","data":{{"s":"BTCUSDT","p":"1.00"', "frames_bad"),
    (f'{T0} {{"stream":"x@trade","data":{{"s":"BTCUSDT","p":"1.00"}}}}', "frames_bad"),
    (f'{T0} {{"stream":"x@trade","data":{{"s":"BTCUSDT","p":1.00,"q":"1"}}}}', "frames_bad"),
    (f'{T0} {{"stream":"x@trade"}}', "frames_bad"),
    (f"{T0} " + "[" * 5000, "frames_bad"),
    (ticker(17040672), "frames_bad"),
    (f'{T0} {{"stream":"x@depth","data":{{}}}}', "frames_passed_over"),
    (ticker(T0, symbol="ETHUSDT"), "frames_passed_over"),
    (trade(T0, price="-1"), "bad_price"),
    (trade(T0, price="0.00"), "bad_price"),
    (trade(T0, price="NaN"), "bad_price"),
    (trade(T0, price="100.005"), "bad_price"),
    (trade(T0, price="99999999"), "bad_price"),
    (trade(T0, size="0"), "bad_price"),
    (ticker(T0, bid_size="0.00000000"), "bad_price"),
    (ticker(T0, bid="100.02", ask="100.01"), "crossed"),
])
def test_bad_input_is_counted_and_the_rest_goes_on(tmp_path: Path, bad: str, count: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records, recording = record_all(write(tmp_path, ticker(T0), bad, bad, "", trade(T0 + 9)))
    assert records[:, EVENT].tolist() == [T0, T0 + 9]
    expected = {"frames": 4, "frames_passed_over": 0, "frames_bad": 0, "bad_price": 0, "crossed": 0, "time_back": 0} | {count: 2}
    assert recording.counts() == expected
    told = [message for message in caplog.messages if count in message]
    assert len(told) == (0 if count == "frames_passed_over" else 1), "named once, then only counted"
    assert all(str(tmp_path) in message for message in told)


def test_locked_quote_is_a_quote() -> None:
    records, _ = record_all(SPOT)
    assert (records[(records[:, KIND] == 2) & (records[:, PRICE] == records[:, ASK])]).shape[0] == 1


def test_time_that_goes_back_is_clamped_and_counted(tmp_path: Path) -> None:
    records, recording = record_all(write(tmp_path, ticker(T0 + 50), ticker(T0), trade(T0 + 20), ticker(T0 + 60)))
    assert records[:, EVENT].tolist() == [T0 + 50, T0 + 50, T0 + 50, T0 + 60]
    assert recording.counts()["time_back"] == 2


@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_damaged_gzip_gives_what_came_before_and_names_the_file(tmp_path: Path, damage: str) -> None:
    rng = np.random.default_rng(1)
    body = "\n".join(ticker(T0 + at, bid_size=str(rng.integers(1, 10**9))) for at in range(20_000)).encode()
    packed = bytearray(gzip.compress(body))
    if damage == "truncated":
        del packed[len(packed) * 2 // 3 :]
    else:
        packed[len(packed) * 2 // 3 : len(packed) * 2 // 3 + 200] = b"\xff" * 200
    path = tmp_path / "damaged.gz"
    path.write_bytes(packed)
    whole = write(tmp_path, ticker(T0 + 10**9))
    records, recording = record_all(Source(str(path), "BTC/USDT"), whole)
    assert len(records) > 10_000
    assert records[-1, EVENT] == T0 + 10**9, "the other file goes on"
    (error,) = recording.errors()
    assert str(path) in error
    assert "fetch the file again" in error


def test_a_line_without_end_is_one_bad_frame(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(b"x" * (20 << 20) + b"\n" + ticker(T0).encode())
    records, recording = record_all(Source(str(path), "BTC/USDT"))
    assert len(records) == 1
    assert 1 <= recording.counts()["frames_bad"] <= 4


def test_symbol_that_does_not_fit_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records, _ = record_all(write(tmp_path, ticker(T0, symbol="ETHUSDT")))
    assert not len(records)
    assert any("is the symbol right? write PATH=SYMBOL" in message for message in caplog.messages)
    with pytest.raises(SourceError, match="ETH/USDT is no instrument of this run"):
        Recording([Source(SPOT.path, "ETH/USDT")], resolve(["BTC/USDT"]), LOG)


def test_check_sources_names_every_fault_with_its_remedy(tmp_path: Path) -> None:
    check_sources([SPOT, PERPETUAL])
    (tmp_path / "empty").touch()
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 10_000)[:20])
    (tmp_path / "table.csv").write_text("time,price\n1,2\n")
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and then nothing")
    names = ("missing", "empty", "notes.txt", "cut.gz", "table.csv", "table.parquet")
    with pytest.raises(SourceError) as raised:
        check_sources([*(Source(str(tmp_path / name), "BTC/USDT") for name in names), Source(str(tmp_path), "BTC/USDT")])
    faults = str(raised.value).splitlines()
    assert len(faults) == 7
    for fault, name, text in zip(faults, (*names, tmp_path.name), (
            "no such file; name", "is empty; fetch", "raw frames, or a table", "end in the middle; fetch", "without size",
            "no whole Parquet file", "is a folder; name the files in it"), strict=True):
        assert name in fault
        assert text in fault


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_csv_of_trades(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv.gz"
    path.write_bytes(gzip.compress(
        b"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
        b"binance,BTCUSDT,1704067200000000,1704067200003000,1,buy,42000.01,0.01\n"
        b"binance,BTCUSDT,1704067200001000,1704067200004000,2,sell,42000.00,0.02\n"
        b"binance,BTCUSDT,1704067200001000,never,3,sell,42000.00,0.02\n"
        b"binance,BTCUSDT,1704067200001000,1704067200005000,4,sell,nan,0.02\n"))
    check_sources([Source(str(path), "BTC/USDT")])
    records, recording = record_all(Source(str(path), "BTC/USDT"))
    assert records[:, [EVENT, KIND, FLAGS, OFFSET, PRICE, LOTS]].tolist() == [
        [T0 + 3_000_000, 1, 0, -3000, 4200001, 1000], [T0 + 4_000_000, 1, l.FLAG_BUYER_IS_MAKER, -3000, 4200000, 2000]]
    counts = recording.counts()
    assert (counts["frames"], counts["frames_bad"], counts["bad_price"]) == (4, 1, 1)


def test_csv_of_quotes_with_iso_times(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text("time,bid,bid_size,ask,ask_size\n2024-01-01T00:00:01Z,1.00,2,1.01,3\n2024-01-01 00:00:02.5,1.00,2,1.01,3\n"
                    "1704067203,1.00,2,1.01,3\n1704067204.25,1.02,2,1.01,3\n")
    records, recording = record_all(Source(str(path), "BTC/USDT"))
    assert (records[:, EVENT] - T0).tolist() == [10**9, 2_500_000_000, 3 * 10**9]
    assert records[0, PRICE:].tolist() == [100, 200000, 101, 300000]
    assert recording.counts()["crossed"] == 1


def test_parquet_floats_are_taken_as_the_decimals_that_they_mean(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    from datetime import UTC, datetime

    path = tmp_path / "trades.parquet"
    prices = [0.29, 61837.63, 4200.57, 1.1]
    times = [datetime(2024, 1, 1, 0, 0, at, tzinfo=UTC) for at in range(4)]
    pl.DataFrame({"timestamp": times, "price": prices, "size": [0.1, 0.00001, 2.0, 3.0],
                  "is_buyer_maker": [True, False, False, True]}).write_parquet(path)
    check_sources([Source(str(path), "BTC/USDT")])
    records, _ = record_all(Source(str(path), "BTC/USDT"))
    assert records[:, PRICE].tolist() == [29, 6183763, 420057, 110]
    assert records[:, LOTS].tolist() == [10000, 1, 200000, 300000]
    assert records[:, FLAGS].tolist() == [l.FLAG_BUYER_IS_MAKER, 0, 0, l.FLAG_BUYER_IS_MAKER]
    assert (records[:, EVENT] - T0).tolist() == [0, 10**9, 2 * 10**9, 3 * 10**9]


def table(folder: Path, *rows: bytes, header: bytes = b"timestamp,price,amount,side") -> Source:
    path = folder / "odd.csv"
    path.write_bytes(b"\n".join([header, *rows]))
    return Source(path=str(path), symbol="BTC/USDT")


GOOD = b"1700000000000,61250.10,0.5,buy"


@pytest.mark.parametrize(("odd", "records", "count"), [
    (b"1700000000000,612", 2, "bad_price"),  # cut off in the middle, as a killed recorder leaves it
    (b"17000000", 2, "frames_bad"),
    (GOOD + b",more,and more", 3, ""),
    (b'1700000000000,"61250.10,0.5,buy', 2, "bad_price"),  # a stray quotation mark damages its own row
    (b"1700000000000,61250.10,0.5,b\xffy", 3, ""),
    (b"17000\x0000000000,61250.10,0.5,buy", 2, "frames_bad"),
    (b"x" * 200_000, 2, "frames_bad"),
    (b"9999-12-31T00:00:00,61250.10,0.5,buy", 2, "frames_bad"),
    (b"1960-01-01T00:00:00,61250.10,0.5,buy", 2, "frames_bad"),
    (b"3900000000000,61250.10,0.5,buy", 2, "frames_bad"),  # one row in the year 2093
], ids=["cut", "cut time", "long", "quote", "utf8", "nul", "huge", "far", "old", "leap"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_odd_row_damages_nothing_but_itself(odd: bytes, records: int, count: str, place: int, tmp_path: Path) -> None:
    rows = [GOOD, GOOD]
    rows.insert(place, odd)
    got, recording = record_all(table(tmp_path, *rows))
    if count == "frames_bad" and odd.startswith(b"39") and place == 0:
        return  # with nothing before it, nothing says that it is wrong
    assert len(got) == records
    assert recording.errors() == []
    if count:
        assert recording.counts()[count] == 1
    assert len(set(got[:, 0].tolist())) == 1


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    _, recording = record_all(table(tmp_path, GOOD, header=b"timestamp,price,price,amount"))
    assert "names a column twice" in recording.errors()[0]


def test_a_long_pause_in_a_file_costs_one_record_and_is_told(tmp_path: Path) -> None:
    later = [b"17000%05d000,61250.10,0.5,buy" % second for second in (0, 1, 90_000, 90_001, 90_002)]
    got, recording = record_all(table(tmp_path, *later))
    assert (got[:, 0] // 10**9 % 100_000).tolist() == [0, 1, 90_001, 90_002]
    assert "more than a day after" in recording.faults()[0]


def test_parquet_of_single_floats_and_bytes(tmp_path: Path) -> None:
    pl.DataFrame({"timestamp": [1_700_000_000_000] * 2, "price": pl.Series([61250.1, 61250.2], dtype=pl.Float32), "amount": [0.5, 0.25],
                  "side": [b"buy", b"s\xff"]}).write_parquet(tmp_path / "t.parquet")
    got, recording = record_all(Source(path=str(tmp_path / "t.parquet"), symbol="BTC/USDT"))
    assert got[:, 6].tolist() == [6_125_010, 6_125_020]
    assert recording.counts()["bad_price"] == 0


def test_damaged_parquet_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trades.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    records, recording = record_all(Source(str(path), "BTC/USDT"))
    assert not len(records)
    assert str(path) in recording.errors()[0]


# ── CLOCK and SESSION ticks ──────────────────────────────────────────────────────────────────────────────────────────
def woven(times: list[int], gap_s: int = 60, rows: int = 7, end: bool = False) -> list[tuple[int, int]]:
    """(kind, event time in ms) of the ticks woven from records at these times in ms."""
    records = np.zeros((len(times), 10), np.int64)
    records[:, EVENT], records[:, KIND] = np.array(times) * 1_000_000, l.TICK_TRADE
    state, at, out = clock.new_state(), 0, []
    ticks, marks = np.zeros(rows, l.TICK), np.zeros((rows, 2), np.int64)
    while at < len(times):
        at, made = clock.weave(records, at, len(times), state, gap_s * 10**9, ticks, marks)
        out += [(int(tick["kind"]), int(tick["event_ns"]) // 10**6) for tick in ticks[:made]]
    if end:
        ticks, marks = np.zeros(64, l.TICK), np.zeros((64, 2), np.int64)
        made = clock.weave_end(state, gap_s * 10**9, ticks, marks)
        assert ticks[0]["flags"] == l.FLAG_END
        out += [(int(tick["kind"]), int(tick["event_ns"]) // 10**6) for tick in ticks[:made]]
    return out


TRADE, CLOCK, SESSION = l.TICK_TRADE, l.TICK_CLOCK, l.TICK_SESSION


def test_clock_stands_at_every_100_ms_before_the_record_behind_it() -> None:
    assert woven([1050, 1060, 1300, 1310]) == [
        (TRADE, 1050), (TRADE, 1060), (CLOCK, 1100), (CLOCK, 1200), (CLOCK, 1300), (TRADE, 1300), (TRADE, 1310)]
    assert woven([1100])[0] == (CLOCK, 1100)


def test_gap_closes_the_session_and_jumps() -> None:
    ticks = woven([1050, 100_000, 100_010])
    assert ticks[:2] == [(TRADE, 1050), (SESSION, 61_050)]
    assert ticks[2:22] == [(CLOCK, 61_100 + 100 * at) for at in range(20)]
    assert ticks[22:] == [(CLOCK, 100_000), (TRADE, 100_000), (TRADE, 100_010)]


def test_gap_that_ends_within_the_closing_clocks_goes_on_with_them() -> None:
    assert woven([1050, 61_250]) == [(TRADE, 1050), (SESSION, 61_050), (CLOCK, 61_100), (CLOCK, 61_200), (TRADE, 61_250)]


def test_quiet_minute_is_no_gap() -> None:
    ticks = woven([1050, 61_050])
    assert [kind for kind, _ in ticks].count(CLOCK) == 600
    assert SESSION not in [kind for kind, _ in ticks]


def test_end_of_data_closes_too() -> None:
    assert woven([1050], end=True) == [(TRADE, 1050), (SESSION, 61_050), *((CLOCK, 61_100 + 100 * at) for at in range(20))]


# ── the real recordings ──────────────────────────────────────────────────────────────────────────────────────────────
#: trade + bookTicker frames of each file, counted by an independent program
REAL_FRAMES = {"spot_btcusdt_20240808.gz": 37_797, "spot_btcusdt_20240809.gz": 55_281, "spot_ethusdt_20240808.gz": 30_183,
               "spot_ethusdt_20240809.gz": 43_090, "usdm_btcusdt_20230404.dat.gz": 8_962, "usdm_btcusdt_20230405.dat.gz": 48_178,
               "usdm_btcusdt_20240808.gz": 87_402, "usdm_ethusdt_20240808.gz": 68_068}


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent: the real recordings are not part of the repository")
def test_all_real_files_become_exactly_their_trade_and_ticker_frames() -> None:
    sources = [Source(str(REAL / name), f"{name[5:8].upper()}/USDT" + (":USDT" if name.startswith("usdm") else "")) for name in REAL_FRAMES]
    check_sources(sources)
    began = time.perf_counter()
    records, recording = record_all(*sources, most=2048)
    took = time.perf_counter() - began
    counts = recording.counts()
    assert {Path(sink.path).name: sink.records for sink in recording.sinks} == REAL_FRAMES
    assert len(records) == sum(REAL_FRAMES.values()) == 378_961
    assert (np.diff(records[:, EVENT]) >= 0).all()
    assert counts == {"frames": 421_692, "frames_passed_over": 42_731, "frames_bad": 0, "bad_price": 0, "crossed": 0, "time_back": 0}
    assert ((records[:, FLAGS] & l.FLAG_NOT_MARKET) != 0).sum() == 1
    assert (records[:, KIND] == l.TICK_TRADE).sum() == 82_743
    assert counts["frames"] / took > 40_000, f"{counts['frames'] / took:.0f} frames/s; 155,000 were measured on an idle machine"
