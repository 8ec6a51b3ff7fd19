"""The whole system over recorded frames: two lockstep runs are one run, and so is a run in which a process was killed at any named step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipc.crash import POINTS

pytestmark = pytest.mark.real_data

#: many small trades, so that every named step is passed often
BUSY = """
[limits]
max_entries_per_day = 100000
min_confidence = 0.0
[strategy]
range_minutes = 1
mean_minutes = 1
interval_s = 2
candle_s = 2
stretch_sigma = 1.0
stretch_least_bps = 0.3
time_stop_s = 10
"""


def replay(folder: Path, files: list[Path], crash: str = "") -> tuple[dict[str, Any], bytes]:
    """One lockstep run in `folder`; its summary and fills."""
    folder.mkdir(parents=True)
    config = folder / "busy.toml"
    config.write_text(BUSY)
    launch = Path(sys.executable).with_name("trader-launch")
    name = f"test-{os.getpid()}-{abs(hash(folder)) % 10**6}"
    done = subprocess.run(
        [launch, "replay", *files, "--lockstep", "--speed", "max", "--flatten-at-end", "--strategy", "mean_reversion", "--config", config,
         "--instance", name, "--data-dir", folder, "--seed", "7", "--headless"],
        env={**os.environ, "TRADER_CRASH_AT": crash}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = (folder / "runs").glob("*/summary.json")
    return json.loads(summary.read_text()), summary.with_name("fills.bin").read_bytes()


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[Path]:
    """Two sessions' worth of one perpetual, which join at midnight."""
    return sorted((real_data / "binance_ws_raw").glob("usdm_btcusdt_2023*"))


@pytest.fixture(scope="module")
def undisturbed(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Fills of a run in which nobody dies."""
    summary, fills = replay(tmp_path_factory.mktemp("whole") / "run", files)
    assert summary["reconciled"] is True
    assert summary["ticks_lost"] == 0
    assert summary["fills"] >= 20
    return fills


#: killed at in every run of the tests, one of each process; the other points belong to the slow ones, and the storm meets all of them
ALWAYS = ("sniper.copy", "gateway.send", "recorder.lmdb_commit")


@pytest.mark.parametrize("point", [pytest.param(point, marks=() if point in ALWAYS else pytest.mark.slow) for point in POINTS[1:]
                                   if point != "gateway.rescue"])
def test_a_process_killed_at_a_named_step_changes_no_fill(point: str, files: list[Path], undisturbed: bytes, tmp_path: Path) -> None:
    summary, fills = replay(tmp_path / "run", files, crash=f"{point}:3")
    role = point.partition(".")[0]
    assert summary["restarts"][role] == 1, f"{point} was never reached"
    assert summary["reconciled"] is True
    assert fills == undisturbed


@pytest.mark.slow
def test_all_real_files_twice_in_lockstep_give_the_same_hundred_fills(real_data: Path, tmp_path: Path) -> None:
    every = sorted((real_data / "binance_ws_raw").glob("*.gz"))
    (first, fills), (_, again) = replay(tmp_path / "one", every), replay(tmp_path / "two", every)
    assert first["fills"] >= 100
    assert first["reconciled"] is True
    assert first["ticks_processed"] == first["ticks_published"]
    assert fills == again
