"""A strategy that fails for a while is paused in event time, so runs repeat: backtest, lockstep replay, and one whose strategist is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control.record.journal import Journal, decode_event
from tests.bad_input import session, waves

BIN = Path(sys.executable).parent
CONFIG = """
[run]
seed = 7
flatten_at_end = true
[limits]
max_entries_per_day = 100000
min_confidence = 0.0
[recovery]
breaker_failures = 2
breaker_cooldown_s = 20
"""
#: fails at eleven of thirty plans; where a folder `deadly` is beside it, it kills its own process at some of them, once each
STRATEGY = '''
import os, signal
from pathlib import Path
from control.think.strategy import Condition, Strategy, equity_bps

DEADLY = Path(__file__).with_name("deadly")

class Fitful(Strategy):
    interval_s = 5

    def plan(self, market, portfolio, knowledge):
        number = market.now_ns // 5_000_000_000 % 30
        mark = DEADLY / str(number)
        if number in (8, 9, 10, 15, 20, 25) and DEADLY.is_dir() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if 9 <= number < 20:
            raise RuntimeError("a bad spell")
        return [Condition(symbol=symbol, side="buy", level=facts.price_text(market.quotes[symbol].last + 4), direction="up",
                          size=equity_bps(100), confidence=0.9, stop_bps=5000, time_stop_s=3, valid_for_s=15, why="it rises")
                for symbol, facts in market.facts.items() if market.quotes[symbol].last > 0]
'''


def events(journal: Path) -> list[Any]:
    opened = Journal(journal)
    try:
        return [decode_event(record.payload) for record in opened.newest("events", 1000)][::-1]
    finally:
        opened.close()


def decisions(found: list[Any]) -> list[tuple[int, str, int]]:
    """(event time, decision, in a row) of the strategy; one instant that was lived twice is one."""
    told = [(event.data["due_ns"], event.data["decision"], event.data["in_a_row"]) for event in found if event.source == "strategist"]
    return list(dict.fromkeys(told))


def replayed(folder: Path, source: Path, config: Path) -> tuple[bytes, list[Any], dict[str, Any]]:
    done = subprocess.run(
        [BIN / "trader-launch", "replay", source, "--lockstep", "--speed", "max", "--strategy", f"{folder / 'fitful.py'}:Fitful", "--config", config,
         "--instance", f"fitful-{os.getpid()}-{folder.name}", "--data-dir", folder, "--headless"], capture_output=True, text=True, timeout=240,
        check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (summary,) = (folder / "runs").glob("*/summary.json")
    (journal,) = summary.parent.rglob("journal")
    return summary.with_name("fills.bin").read_bytes(), events(journal), json.loads(summary.read_text())


@pytest.mark.slow
def test_backtest_lockstep_replay_and_one_with_kills_pause_a_failing_strategy_at_the_same_instants(tmp_path: Path) -> None:
    source, config = tmp_path / "spot_btcusdt.raw", tmp_path / "config.toml"
    source.write_text("\n".join(session(waves(300))))
    config.write_text(CONFIG)
    for name in ("calm", "deadly"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fitful.py").write_text(STRATEGY)
    (tmp_path / "deadly" / "deadly").mkdir()

    done = subprocess.run([BIN / "trader-ctl", "--json", "backtest", "--data", source, "--config", config, "--strategy",
                           f"{tmp_path / 'calm' / 'fitful.py'}:Fitful", "--out", tmp_path / "out"], capture_output=True, text=True, timeout=240,
                          check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    fills, wanted = (tmp_path / "out" / "fills.bin").read_bytes(), decisions(events(tmp_path / "out" / "state" / "journal"))
    assert len(fills) > 0
    assert {decision for _, decision, _ in wanted} == {"continue", "pause", "recovered"}
    pauses = [at for at, decision, _ in wanted if decision == "pause"]
    failures = [at for at, decision, _ in wanted if decision in ("continue", "pause")]
    assert all(not any(at < other < at + 20 * 10**9 for other in failures) for at in pauses), "nothing is asked within the cool-down"

    calm, told, summary = replayed(tmp_path / "calm", source, config)
    assert calm == fills
    assert decisions(told) == wanted
    assert summary["reconciled"] is True
    deadly, told, summary = replayed(tmp_path / "deadly", source, config)
    assert summary["restarts"]["strategist"] >= 3
    assert deadly == fills
    assert decisions(told) == wanted
