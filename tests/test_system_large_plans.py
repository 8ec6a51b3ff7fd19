"""Plans of more conditions than a message carries, through the real processes: armed whole, whoever dies between two parts; known again after
everything died; and the same in a backtest."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.record.journal import Journal
from control.record.restore import restore
from ipc import layout as l
from ipc import segment
from ipc.segment import Memory
from tests.running import BIN, Running, until
from tests.test_system_resume import segments_like

CONDITIONS = 2500
#: 2,500 conditions, of which only those of the third part are near the market; the second and the last but one are a group
LARGE = """
from control.think.strategy import Condition, Strategy, equity_bps

class Large(Strategy):
    interval_s = 10

    def plan(self, market, portfolio, knowledge):
        symbol = next(iter(market.facts))
        facts, last = market.facts[symbol], market.quotes[symbol].last
        if not last > 0:
            return []
        return [Condition(symbol=symbol, side="buy", level=facts.price_text(last * (1 + (2e-5 * (n - 2000) if n > 2000 else 0.2 + n * 1e-5)), "up"),
                          direction="up", size=equity_bps(100), confidence=0.9, stop_bps=25, target_bps=25, time_stop_s=120,
                          group="one" if n in (1, 2498) else None, why=f"number {n}")
                for n in range(2500)]
"""
BUSY = """
[limits]
max_entries_per_day = 100000
min_confidence = 0.0
[strategy]
candle_s = 10
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, BUSY)
    (tmp_path / "large.py").write_text(LARGE)
    yield made
    made.end()


def start(instance: Running) -> None:
    instance.start("--strategy", f"{instance.folder / 'large.py'}:Large", "--symbols", "BTC/USDT")


def armed(instance: Running) -> int:
    memory = Memory(instance.name, writable=False)
    table = memory.conditions.table[0]
    return int(memory.conditions.generations[int(table["generation"]) & 1]["armed"])


def plans(instance: Running, metric: str = "plans_armed") -> int:
    return int(instance.ctl("stats")[1]["data"]["metrics"]["sniper"][metric])


def test_what_a_third_part_opened_is_known_with_its_protection_after_everything_died(instance: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    start(instance)
    until(lambda: [row for row in instance.ctl("positions")[1]["rows"] if row["state"] == "monitoring"], 30, "an open position")
    assert armed(instance) == CONDITIONS
    instance.kill_everything()
    snapshot, _ = books(instance, monkeypatch, True)
    again, numbers = books(instance, monkeypatch, False)
    assert snapshot == again, "by the last snapshot, and by every plan and record"
    assert all(part > 0 and 0 < index < 500 for part, index in numbers), numbers
    start(instance)
    _, reply = instance.ctl("orders")
    whys = {row["why"] for row in reply["rows"] if row["purpose"] == "entry"}
    assert whys
    assert whys <= {f"number {n}" for n in range(2001, CONDITIONS)}
    until(lambda: armed(instance) == CONDITIONS, 30, "the next plan is armed")
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["conditions_armed"] % CONDITIONS == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []


def books(instance: Running, monkeypatch: pytest.MonkeyPatch, from_snapshot: bool) -> tuple[Any, set[tuple[int, int]]]:
    """Protection of each open position, as the next start finds it; and by which (part, index in it) the entries so far were decided."""
    journal = Journal(instance.state / "journal")
    with monkeypatch.context() as patch:
        patch.setenv("TRADER_SHM", str(instance.folder / "shm"))
        memory = segments_like(journal)
        if not from_snapshot:
            patch.setattr(journal, "last_snapshot", lambda: None)
        assert restore(journal, memory)
        found = {int(row["position_id"]): [int(row[name]) for name in ("side", "lots", "stop_price", "target_price", "condition_id")]
                 for row in memory.sniper.positions if row["state"] != l.POS_FLAT}
        segment.remove("restored")
    orders = journal.rows("orders", 1)
    entries = orders[(orders["kind"] == l.NEW) & (orders["purpose"] == l.ENTRY)]
    parts = {number: plan.part for number in set(entries["plan_seq"].tolist()) if (plan := journal.plan(number)) is not None}
    journal.close()
    return found, {(parts[number], identity & ((1 << l.PLAN_SHIFT) - 1))
                   for number, identity in zip(entries["plan_seq"].tolist(), entries["condition_id"].tolist(), strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("role", ["sniper", "strategist"])
def test_a_large_plan_is_armed_again_after_a_process_was_killed(role: str, instance: Running) -> None:
    start(instance)
    until(lambda: armed(instance) == CONDITIONS, 30, "a plan is armed")
    for number in range(3):
        time.sleep(0.13 * number)  # at any step of the next plan, which comes each third of a second
        instance.kill(role)
        until(lambda number=number: (row := instance.row(role))["restarts"] == number + 1 and row["state"] == "healthy", 30, f"the {role} is back")
        assert armed(instance) in (0, CONDITIONS), "all of a plan, or nothing yet"
        before = plans(instance)
        until(lambda before=before: plans(instance) > before, 30, "the next plan is armed")
        assert armed(instance) == CONDITIONS
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["restarts"][role] == 3
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []


# ── in lockstep ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def trades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five minutes of trades, five a second."""
    prices = 60_000 + np.random.default_rng(5).normal(0, 2.0, 1500).cumsum()
    path = tmp_path_factory.mktemp("data") / "trades.csv"
    path.write_text("time,price,size\n" + "".join(f"{1_700_000_010_000 + 200 * k},{price:.2f},0.5\n" for k, price in enumerate(prices)))
    return path


@pytest.fixture(scope="module")
def tested(trades: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backtest of them: its folder."""
    folder = tmp_path_factory.mktemp("backtest")
    (folder / "large.py").write_text(LARGE.replace("time_stop_s=120", "time_stop_s=10"))
    (folder / "busy.toml").write_text(BUSY + "\n[run]\nseed = 7\nflatten_at_end = true\n")
    done = subprocess.run([BIN / "trader-ctl", "backtest", "--data", f"{trades}=BTC/USDT", "--config", folder / "busy.toml",
                           "--strategy", f"{folder / 'large.py'}:Large,mean_reversion", "--out", folder / "run"],
                          capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_a_backtest_arms_a_large_plan_whole(tested: Path) -> None:
    summary = json.loads((tested / "run" / "summary.json").read_text())
    assert CONDITIONS * 30 <= summary["conditions_armed"] < CONDITIONS * 30 + 100
    assert summary["fills"] >= 10
    assert summary["reconciled"] is True


@pytest.mark.parametrize("crash", ["sniper.part:2", *(
    pytest.param(point, marks=pytest.mark.slow) for point in (
        "", "recorder.lmdb_commit:5", "strategist.told:7", "sniper.part:3", "recorder.committed:5", "strategist.stored:2", "strategist.stored:7",
        "strategist.told:2", "strategist.told:12"))])
def test_a_lockstep_replay_fills_as_the_backtest_does_whoever_dies_between_two_parts(crash: str, tested: Path, trades: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "trader-launch", "replay", f"{trades}=BTC/USDT", "--lockstep", "--speed", "max", "--config", tested / "busy.toml", "--strategy",
         f"{tested / 'large.py'}:Large,mean_reversion", "--instance", f"large-{os.getpid()}", "--data-dir", tmp_path, "--headless"],
        env={**os.environ, "TRADER_CRASH_AT": crash}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = (tmp_path / "runs").glob("*/summary.json")
    summary = json.loads(file.read_text())
    assert sum(summary["restarts"].values()) == (1 if crash else 0)
    assert summary["conditions_armed"] == json.loads((tested / "run" / "summary.json").read_text())["conditions_armed"], "each plan once, and whole"
    assert (tested / "run" / "fills.bin").read_bytes() == file.with_name("fills.bin").read_bytes()
