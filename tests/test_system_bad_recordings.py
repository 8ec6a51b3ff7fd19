"""Damaged records and gaps in a replay, by what they must not change: every fill is that of the recording without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.record.summary import FILL
from tests.bad_input import NEW_YEAR_NS, SECOND_NS, STRATEGIES, quote, session, trade, waves
from tests.running import Running

#: seconds of a piece of the recording; each has one damaged record in its middle
PIECE_S = 6
MIDDLE_NS = PIECE_S * SECOND_NS // 2 + 5_000_000
#: damaged record, made for its time → what is said of it: the count, the field, the remedy
RECORDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no JSON": (lambda ns: f"{ns} this is no frame\n", ("frames_bad 1", "JSON is malformed")),
    "cut off": (lambda ns: trade(ns, "42000.01")[:90] + "\n", ("frames_bad 1", "truncated")),
    "no time": (lambda ns: "soon " + trade(ns, "42000.01").partition(" ")[2], ("frames_bad 1", "no receive time in ns, µs or ms")),
    "a field is missing": (lambda ns: trade(ns, "42000.01").replace('"p"', '"price"'), ("frames_bad 1", "missing required field `p`")),
    "a field of a wrong type": (lambda ns: trade(ns, "42000.01").replace('"42000.01"', "42000.01"), ("frames_bad 1", "$.p")),
    "negative price": (lambda ns: trade(ns, "-5.00"), ("bad_price 1", "price '-5.00'", "state them under [instruments")),
    "price of zero": (lambda ns: trade(ns, "0.00"), ("bad_price 1", "price '0.00'", "state them under [instruments")),
    "price that is no number": (lambda ns: trade(ns, "NaN"), ("bad_price 1", "price 'NaN'", "state them under [instruments")),
    "infinite ask": (lambda ns: quote(ns, "42000.00", "Infinity"), ("bad_price 1", "ask 'Infinity'", "state them under [instruments")),
    "size of zero": (lambda ns: quote(ns, "42000.00", "42000.02", "0"), ("bad_price 1", "bid size '0'", "state them under [instruments")),
    "crossed quote": (lambda ns: quote(ns, "42050.00", "42049.00"), ("crossed 1", "bid 42050.00 is above ask 42049.00")),
}


def replayed(folder: Path, files: list[Path], strategy: str) -> tuple[dict[str, Any], bytes]:
    """A lockstep run in `folder`: its summary and fills."""
    folder.mkdir()
    shutil.copy(STRATEGIES, folder / "wayward.py")
    running = Running(folder)
    try:
        running.start(*map(str, files), "--lockstep", "--flatten-at-end", "--strategy", f"{folder / 'wayward.py'}:{strategy}", mode="replay",
                      speed="max", wait=False)
        assert running.process is not None
        assert running.process.wait(240) == 0, running.text()
        (written,) = (folder / "runs").glob("*/summary.json")
        return json.loads(written.read_text()), written.with_name("fills.bin").read_bytes()
    finally:
        running.end()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a run over pieces that have a damaged record each; its fills were those of a run over whole ones."""
    folder, runs = tmp_path_factory.mktemp("pieces"), []
    for name in ("whole", "damaged"):
        files = []
        for number, (make, _) in enumerate(RECORDS.values()):
            start_ns = NEW_YEAR_NS + number * PIECE_S * SECOND_NS
            lines = session(waves(PIECE_S), start_ns)
            if name == "damaged":
                lines.insert(len(lines) // 2 + 2, make(start_ns + MIDDLE_NS))
            files.append(folder / f"{name}_spot_btcusdt_{number:02}.raw")
            files[-1].write_text("".join(lines))
        runs.append(replayed(folder / name, files, "Steady"))
    (whole, fills), (summary, again) = runs
    assert len(fills) // FILL.itemsize >= 10
    assert again == fills
    assert "data_fault" not in whole
    for key in ("ticks_processed", "trades_closed", "realised_pnl", "fees", "equity_end", "exit_reasons"):
        assert summary[key] == whole[key], key
    assert summary["reconciled"] is True
    return summary


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_counted_and_told_with_its_file_and_changes_no_fill(name: str, damaged: dict[str, Any]) -> None:
    number = list(RECORDS).index(name)
    (told,) = [text for text in damaged["data_fault"] if f"damaged_spot_btcusdt_{number:02}.raw (BTC/USDT): " in text]
    assert [part for part in (*RECORDS[name][1], "fetch the file again") if part not in told] == [], told
    assert "\n" not in told


def test_no_level_inside_a_gap_fires_and_it_lives_on_for_a_fresh_crossing(tmp_path: Path) -> None:
    """16 months, in which every condition expires, and then ten minutes, in which none does."""
    later_ns = NEW_YEAR_NS + 487 * 86_400 * SECOND_NS
    again_ns = later_ns + (40 + 600) * SECOND_NS
    parts = [session([42_000] * 40 + [42_030] * 160), session([60_000] * 200, later_ns),
             session([70_000] * 40 + [64_990] * 40 + [65_010] * 100, again_ns)]  # 65 000 lies in the gap, and is crossed behind it
    files = [tmp_path / f"spot_btcusdt_{number}.raw" for number in range(len(parts))]
    for file, lines in zip(files, parts, strict=True):
        file.write_text("".join(lines))
    summary, fills = replayed(tmp_path / "run", files, "Keeper")
    assert summary["exit_reasons"] == {"data_gap": 1, "end_of_data": 1}
    assert summary["reconciled"] is True
    bought, closed, bought_again, _ = np.frombuffer(fills, FILL)
    assert (bought["price"], bought["lots"] > 0) == (4_203_002, True)
    assert (closed["price"], closed["lots"] < 0) == (4_203_000, True)  # the last bid before the gap
    last_record_s = 39.801
    assert 60 <= (closed["event_ns"] - NEW_YEAR_NS) / SECOND_NS - last_record_s <= 62
    assert bought_again["price"] == 6_501_002
    assert 16 <= (bought_again["event_ns"] - again_ns) / SECOND_NS <= 17
