"""The promise of the backtest: over the same data it decides and fills what the real processes do in lockstep, byte for byte, on every real file."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.learn.knowledge import Knowledge
from control.record.summary import FILL
from tests.test_system_replay import BUSY

pytestmark = pytest.mark.real_data

BIN = Path(sys.executable).parent
#: two strategies that trade often, with levels near enough that every kind of exit happens, and limits that end nothing
LIVELY = """
[run]
seed = 7
flatten_at_end = true
strategies = ["momentum", "mean_reversion"]
""" + BUSY + """
stop_bps = 2
target_bps = 3
trail_activation_bps = 1
trail_distance_bps = 1
"""


def ctl(*arguments: object) -> tuple[int, dict[str, Any]]:
    """(exit code, reply) of trader-ctl with --json."""
    done = subprocess.run([BIN / "trader-ctl", "--json", *map(str, arguments)], capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.strip(), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def backtest(folder: Path, files: list[Path], config: Path, *arguments: object) -> dict[str, Any]:
    """A backtest into `folder`; its summary."""
    code, reply = ctl("backtest", "--data", *files, "--config", config, "--out", folder, *arguments)
    assert code == 0, reply
    return dict(reply["data"])


def replay(folder: Path, files: list[Path], config: Path) -> Path:
    """A lockstep replay through the real processes; its run folder."""
    done = subprocess.run(
        [BIN / "trader-launch", "replay", *files, "--lockstep", "--speed", "max", "--config", config, "--instance", f"bt-{os.getpid()}",
         "--data-dir", folder, "--headless"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = (folder / "runs").glob("*/summary.json")
    return summary.parent


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[Path]:
    """Every file of raw Binance frames."""
    found = sorted((real_data / "binance_ws_raw").glob("*.gz"))
    assert len(found) == 8
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "lively.toml"
    path.write_text(LIVELY)
    return path


@pytest.fixture(scope="module")
def run(files: list[Path], config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A backtest of all files: its folder and its summary."""
    folder = tmp_path_factory.mktemp("backtest") / "all"
    return folder, backtest(folder, files, config)


def test_a_lockstep_replay_of_some_real_files_is_the_backtest_byte_for_byte(files: list[Path], config: Path, tmp_path: Path) -> None:
    some = files[1::4]
    summary = backtest(tmp_path / "some", some, config)
    assert summary["fills"] >= 20
    assert summary["reconciled"] is True
    replayed = replay(tmp_path, some, config)
    assert (tmp_path / "some" / "fills.bin").read_bytes() == (replayed / "fills.bin").read_bytes()


@pytest.mark.slow
def test_a_lockstep_replay_of_all_real_files_is_the_backtest_byte_for_byte(run: tuple[Path, dict[str, Any]], files: list[Path], config: Path,
                                                                          tmp_path: Path) -> None:
    """Order ids are in fills.bin too: not only the fills are the same, every order ring record between them was."""
    folder, summary = run
    assert summary["fills"] >= 100
    assert len(summary["exit_reasons"]) >= 4, summary["exit_reasons"]
    assert summary["reconciled"] is True
    replayed = replay(tmp_path, files, config)
    assert (folder / "fills.bin").read_bytes() == (replayed / "fills.bin").read_bytes()
    code, reply = ctl("parity", folder, replayed)
    data = reply["data"]
    assert (code, data["equal"], data["missing"], data["extra"], data["matched_unequal"]) == (0, True, 0, 0, 0)
    assert data["matched"] == data["run_a"]["decisions"] == data["run_b"]["decisions"] >= 100
    assert (data["pnl_difference"], data["time_ms"]["most"], data["price_bps"]["most"]) == ("0", 0.0, 0.0)
    other = json.loads((replayed / "summary.json").read_text())
    for name in ("ticks_published", "ticks_processed", "conditions_armed", "intents", "orders", "fills", "trades_closed", "exit_reasons", "refusals",
                 "realised_pnl", "fees", "equity_end", "max_drawdown_pct"):
        assert summary[name] == other[name], name
    code, reply = ctl("parity", replayed.name, folder, "--data-dir", tmp_path)  # by its id
    assert (code, reply["data"]["equal"]) == (0, True)


def test_a_trade_knows_the_funding_rate_that_its_perpetual_had_and_in_a_backtest_the_same(real_data: Path, config: Path, tmp_path: Path) -> None:
    some = sorted((real_data / "binance_ws_raw").glob("usdm_btcusdt_2023*"))
    backtest(tmp_path / "some", some, config)
    known = []
    for folder in (tmp_path / "some", replay(tmp_path, some, config)):
        store = Knowledge(folder / "state" / "knowledge")
        known.append([(one.opened_ns, one.features["funding_bps"]) for one in store.trades()])
        store.close()
    assert known[0] == known[1]
    rates = {rate for _, rate in known[0]}
    assert len(rates) >= 2
    stated = {float(rate) * 1e4 for file in some for rate in re.findall(rb'"r":"([0-9.-]+)"', gzip.decompress(file.read_bytes()))}
    assert {round(rate, 6) for rate in rates} <= {round(rate, 6) for rate in stated}


@pytest.mark.slow
def test_two_backtests_are_one_and_another_seed_changes_only_the_order_ids(run: tuple[Path, dict[str, Any]], files: list[Path], config: Path,
                                                                         tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run
    backtest(tmp_path / "again", files, config)
    assert (tmp_path / "again" / "fills.bin").read_bytes() == (folder / "fills.bin").read_bytes()
    monkeypatch.setenv("TRADER_RUN__SEED", "8")
    backtest(tmp_path / "other", files, config)
    first, second = (np.frombuffer((path / "fills.bin").read_bytes(), FILL) for path in (folder, tmp_path / "other"))
    assert all(np.array_equal(first[name], second[name]) for name in ("symbol", "event_ns", "price", "lots", "fee"))
    assert not np.any(first["order_id"] == second["order_id"])
    assert ctl("parity", folder, tmp_path / "other")[0] == 0


@pytest.mark.slow
def test_another_latency_is_found_and_explained_to_the_last_quantum(run: tuple[Path, dict[str, Any]], files: list[Path], config: Path,
                                                                   tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, summary = run
    monkeypatch.setenv("TRADER_PAPER__ORDER_LATENCY_MS", "400")
    slower = backtest(tmp_path / "slow", files, config)
    code, reply = ctl("parity", folder, tmp_path / "slow")
    data = reply["data"]
    assert (code, data["equal"]) == (1, False)
    assert data["matched"] > 0
    assert data["matched_unequal"] > 0
    causes = {name: float(text) for name, text in data["pnl_by_cause"].items()}
    assert sum(causes.values()) == pytest.approx(float(data["pnl_difference"]), abs=1e-7)
    # everything is closed at the end, so each run's P&L is what it realised
    assert float(data["pnl_a"]) == pytest.approx(float(summary["realised_pnl"]), abs=1e-7)
    assert float(data["pnl_difference"]) == pytest.approx(float(slower["realised_pnl"]) - float(summary["realised_pnl"]), abs=1e-7)
    assert reply["rows"]


@pytest.mark.slow
def test_a_users_class_with_limit_orders_fills_alike_in_both(real_data: Path, tmp_path: Path) -> None:
    """Limit orders wait in the queue at the touch: the ledger commits each place in it, and both take the same turns."""
    strategy = tmp_path / "maker.py"
    strategy.write_text('''
from control.think.strategy import Condition, Strategy, equity_bps

class Maker(Strategy):
    interval_s = 5

    def plan(self, market, portfolio, knowledge):
        made = []
        for symbol, facts in market.facts.items():
            quote = market.quotes[symbol]
            if symbol not in portfolio.positions and quote.bid > 0:
                made.append(Condition(symbol=symbol, side="buy", price="mid", level=facts.price_text(quote.ask), direction="up", order="limit",
                                      limit_price=facts.price_text(quote.ask), size=equity_bps(100), confidence=0.9, stop_bps=5, target_bps=5,
                                      time_stop_s=20, valid_for_s=30, why="what was the ask is the bid now: join it"))
        return made
''')
    config = tmp_path / "maker.toml"
    config.write_text(f'[run]\nflatten_at_end = true\nstrategies = ["{strategy}:Maker"]\n[limits]\nmax_entries_per_day = 100000\n')
    files = sorted((real_data / "binance_ws_raw").glob("usdm_*_20240808.gz"))
    summary = backtest(tmp_path / "run", files, config)
    replayed = replay(tmp_path / "replay", files, config)
    fills = np.frombuffer((tmp_path / "run" / "fills.bin").read_bytes(), FILL)
    assert summary["fills"] >= 20
    assert summary["reconciled"] is True
    assert fills.tobytes() == (replayed / "fills.bin").read_bytes()
    rates = fills["fee"] * 10_000 // (fills["price"] * np.abs(fills["lots"]))
    assert len(np.unique(rates)) > 1, "maker and taker fills"


@pytest.mark.slow
def test_a_part_of_the_data_by_time_is_what_the_whole_has_there(files: list[Path], config: Path, tmp_path: Path) -> None:
    whole = backtest(tmp_path / "whole", files[:1], config)
    part = backtest(tmp_path / "part", files[:1], config, "--from", "2024-08-08T23:56", "--to", "2024-08-08T23:58")
    fills = np.frombuffer((tmp_path / "part" / "fills.bin").read_bytes(), FILL)
    assert 0 < part["ticks_published"] < whole["ticks_published"]
    first = 1_723_161_360 * 10**9  # 2024-08-08 23:56 UTC
    assert len(fills)
    assert fills["event_ns"].min() >= first
    assert fills["event_ns"].max() < first + (120 + 62) * 10**9  # the end of the data closes what is open a minute behind it


@pytest.mark.slow
def test_candles_are_one_path_in_both(real_data: Path, tmp_path: Path) -> None:
    import polars as pl

    config, files = tmp_path / "candles.toml", []
    config.write_text("""
[run]
flatten_at_end = true
[limits]
max_entries_per_day = 1000
min_confidence = 0.5
[strategy]
candle_s = 60
interval_s = 300
range_minutes = 30
mean_minutes = 30
stop_bps = 60
target_bps = 80
time_stop_s = 3600
valid_for_s = 600
""")
    for name in ("BTC", "LAYER"):
        (path,) = (real_data / "ohlcv_1m").glob(f"*_{name}USDT_*.feather")
        files.append(tmp_path / f"um_{name.lower()}usdt_hours.feather")
        pl.read_ipc(path).head(600).write_ipc(files[-1])
    summary = backtest(tmp_path / "run", files, config)
    replayed = replay(tmp_path / "replay", files, config)
    assert summary["fills"] >= 50
    assert (tmp_path / "run" / "fills.bin").read_bytes() == (replayed / "fills.bin").read_bytes()
    assert ctl("parity", tmp_path / "run", replayed)[0] == 0
