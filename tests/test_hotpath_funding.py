"""Funding rates out of recordings: known at an instant is what had been received before it, and nothing in a file can raise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hotpath.venues.funding import Rates
from ipc.process import Source

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
SYMBOL = "BTC/USDT:USDT"


def frame(second: float, rate: object, symbol: str = "BTCUSDT") -> bytes:
    data = {"e": "markPriceUpdate", "s": symbol, "p": "60000.1", "i": "60000", "r": rate, "T": 0}
    return b"%d %s\n" % (START + int(second * SECOND), json.dumps({"stream": "btcusdt@markPrice@1s", "data": data}).encode())


def rates(folder: Path, *files: bytes, symbol: str = SYMBOL, name: str = "frames{}.gz") -> Rates:
    paths = [folder / name.format(number) for number in range(len(files))]
    for path, body in zip(paths, files, strict=True):
        path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return Rates([Source(str(path), symbol) for path in paths])


def test_at_an_instant_the_newest_rate_before_it_is_known(tmp_path: Path) -> None:
    of = rates(tmp_path, frame(1, "0.00010000") + frame(2, "-0.00002754") + frame(3, "0.0005"))
    assert of.before(START + SECOND) == {}, "what is received at the instant is not known before it"
    assert of.before(START + SECOND + 1) == {SYMBOL: pytest.approx(1.0)}
    assert of.before(START + 2 * SECOND + 1) == {SYMBOL: pytest.approx(-0.2754)}
    assert of.before(START + 2 * SECOND + 1) == {SYMBOL: pytest.approx(-0.2754)}
    assert of.before(START + 90 * SECOND) == {SYMBOL: pytest.approx(5.0)}


def test_a_successor_that_reads_from_the_start_knows_the_same(tmp_path: Path) -> None:
    body = b"".join(frame(second, f"{second}e-6") for second in range(100))
    step, once = rates(tmp_path, body), Rates([Source(str(tmp_path / "frames0.gz"), SYMBOL)])
    stepped = [step.before(START + second * SECOND) for second in range(80)]
    assert once.before(START + 79 * SECOND) == stepped[-1]


def test_files_of_one_symbol_that_join_are_one_history_in_whatever_order_they_are_named(tmp_path: Path) -> None:
    of = rates(tmp_path, frame(60, "0.0006"), frame(1, "0.0001") + frame(30, "0.0003"))
    assert [of.before(START + second * SECOND)[SYMBOL] for second in (2, 31, 61)] == pytest.approx([1.0, 3.0, 6.0])


@pytest.mark.parametrize("bad", [
    frame(1, ""), frame(1, "soon"), frame(1, "NaN"), frame(1, "1e99"), frame(1, 0.0001), frame(1, None), frame(1, "0.5"),
    frame(1, "0.0001", "ETHUSDT"),
    b"soon " + frame(1, "0.0001").partition(b" ")[2], frame(1, "0.0001")[:-20] + b"\n", b'1700000001000000000 {"stream":"btcusdt@markPrice@1s"}\n',
    b'1700000001000000000 {"stream":"btcusdt@trade","data":{"s":"BTCUSDT"}}\n', b"\xff\xfe@markPrice\n", b"\n"])
def test_what_is_no_rate_is_passed_over(bad: bytes, tmp_path: Path) -> None:
    of = rates(tmp_path, bad + frame(2, "0.0002"))
    assert of.before(START + 2 * SECOND) == {}
    assert of.before(START + 3 * SECOND) == {SYMBOL: pytest.approx(2.0)}


def test_a_damaged_file_ends_and_the_others_go_on(tmp_path: Path) -> None:
    whole = gzip.compress(frame(1, "0.0001") * 10_000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good.raw").write_bytes(frame(1, "0.0003", "ETHUSDT"))
    of = Rates([Source(str(tmp_path / "cut.gz"), SYMBOL), Source(str(tmp_path / "good.raw"), "ETH/USDT:USDT"),
                Source(str(tmp_path / "none.raw"), "SOL/USDT:USDT")])
    assert of.before(START + 9 * SECOND)["ETH/USDT:USDT"] == pytest.approx(3.0)


def test_spot_and_tables_have_none_and_are_not_read(tmp_path: Path) -> None:
    assert rates(tmp_path, frame(1, "0.0001"), symbol="BTC/USDT").before(START + 9 * SECOND) == {}
    assert rates(tmp_path, b"time,price\n", name="table{}.csv").before(START + 9 * SECOND) == {}
    assert Rates([]).before(START) == {}


def test_reading_on_gives_a_sign_of_life_with_every_block(tmp_path: Path) -> None:
    (tmp_path / "long.raw").write_bytes((b"x" * 199 + b"\n") * 5_000 + frame(1, "0.0001"))
    beats: list[int] = []
    of = Rates([Source(str(tmp_path / "long.raw"), SYMBOL)], lambda: beats.append(1))
    assert beats == [], "nothing is read before it is asked for"
    assert of.before(START + 9 * SECOND) == {SYMBOL: pytest.approx(1.0)}
    assert len(beats) >= 7


@pytest.mark.real_data
def test_a_real_recording_has_its_rates(real_data: Path) -> None:
    of = Rates([Source(str(real_data / "binance_ws_raw" / f"usdm_btcusdt_{day}.dat.gz"), SYMBOL) for day in ("20230404", "20230405")])
    assert of.before(1_680_652_702 * SECOND) == {SYMBOL: pytest.approx(0.2754)}
    assert of.before(1_680_652_801 * SECOND) == {SYMBOL: pytest.approx(0.2760)}
    assert of.before(1_680_653_300 * SECOND) == {SYMBOL: pytest.approx(0.2846)}
