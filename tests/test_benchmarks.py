"""The benchmark suite itself: rows and verdicts, which benchmarks there are, that a failed check cannot pass for a figure, and their oracles."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import firing, instructions, market, suite, workload
from benchmarks.frame import CheckFailed, Missing, Row, check, latency_rows
from ipc import layout as l

ROOT = Path(__file__).resolve().parent.parent
#: every benchmark that is promised
PROMISED = {"backtest", "ring_hop", "tick_to_intent", "kernel", "risk_gate", "swap", "zmq_baseline", "peers", "memory", "cold_start", "control",
            "restore", "health", "recovery", "learning", "walk_forward", "analysis"}


@pytest.mark.parametrize(("unit", "value", "target", "reached"), [
    ("1/s", 6e6, 6e6, True), ("1/s", 5.9e6, 6e6, False), ("ns", 300, 300, True), ("ns", 301, 300, False), ("MB", 1, None, None),
    ("ratio", 1.6, 1.5, False)])
def test_a_rate_is_to_be_large_and_everything_else_small(unit: str, value: float, target: float | None, reached: bool | None) -> None:
    assert Row("b", "m", value, unit, {}, target).reached is reached


def test_a_row_of_the_report_has_its_five_keys_and_survives_json() -> None:
    row = Row("kernel", "ticks_per_s", 1.5, "1/s", {"symbols": 100}, 1.0)
    assert json.loads(json.dumps(row.as_json())) == {
        "benchmark": "kernel", "metric": "ticks_per_s", "value": 1.5, "unit": "1/s", "params": {"symbols": 100}}


def test_a_printed_row_says_whether_its_target_is_reached() -> None:
    assert "NOT reached: 300" in str(Row("b", "m", 301.0, "ns", {}, 300.0))
    assert "reached" not in str(Row("b", "m", 301.0, "ns"))


def test_latencies_give_quantiles_and_only_the_median_is_judged() -> None:
    rows = latency_rows("b", np.arange(1, 1001), {}, 400.0)
    assert [row.metric for row in rows] == ["p50_ns", "p99_ns", "p999_ns", "max_ns"]
    assert [row.reached for row in rows] == [False, None, None, None]


def test_a_check_that_fails_raises() -> None:
    check(1, "fine")
    with pytest.raises(CheckFailed, match="not so"):
        check([], "not so")


def test_every_promised_benchmark_is_there_in_the_order_of_a_run() -> None:
    names = suite.names()
    assert set(names) >= PROMISED
    assert [name for name in suite.ORDER if name in names] == names


@pytest.fixture
def benches(tmp_path: Path) -> dict[str, str]:
    """A copy of the suite with benchmarks of the test's own instead; the environment to run it in."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__init__", "__main__", "suite", "frame", "machine"):
        (folder / f"{name}.py").write_text((ROOT / "benchmarks" / f"{name}.py").read_text())
    bodies = {
        "good": "return [Row('good', 'm', 1.0, 'ns', {}, 0.5)]", "wrong": "check(False, 'the oracle says no')\n    return []",
        "broken": "return [][0]", "elsewhere": "raise Skipped('two suns are needed')", "dead": "os._exit(7)",
        "partly": "return [Row('partly', 'm', 2.0, 'ns'), Missing('partly', 'the rest', 'not built')]"}
    for name, body in bodies.items():
        (folder / f"bench_{name}.py").write_text(textwrap.dedent("""\
            import os
            from benchmarks.frame import Missing, Row, Skipped, check


            def run(quick):
                """) + "    " + body + "\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = environment["PYTHONPATH"].partition(os.pathsep)[0]
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], env=environment, cwd=folder, capture_output=True, text=True,
                          check=False, timeout=120)


def test_a_failed_benchmark_fails_the_command_and_hides_no_other(benches: dict[str, str], tmp_path: Path) -> None:
    done = run(benches, "--quick", "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    states = {one["name"]: (one["state"], one["text"].splitlines()[-1] if one["text"] else "") for one in report["benchmarks"]}
    assert states == {
        "good": ("measured", ""), "partly": ("measured", ""), "wrong": ("failed", "the oracle says no"),
        "elsewhere": ("skipped", "two suns are needed"),
        "broken": ("failed", "IndexError: list index out of range"), "dead": ("failed", "its process ended with exit code 7")}
    assert [row["benchmark"] for row in report["rows"]] == ["good", "partly"]
    assert [target["reached"] for target in report["targets"]] == [False]
    assert {"processor", "cores", "pinning", "steal_pct", "core_hop_ns", "clock_ns"} <= set(report["machine"])
    assert "the rest: skipped: not built" in done.stdout


def test_a_target_that_is_not_reached_is_no_failure(benches: dict[str, str]) -> None:
    done = run(benches, "good", "partly", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "NOT reached: 0.5" in done.stdout


def test_an_unknown_name_is_refused_with_the_known_ones(benches: dict[str, str]) -> None:
    done = run(benches, "nothing")
    assert done.returncode == 2
    assert "there are" in done.stderr


def test_a_benchmark_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "_GRACE_S", 0.1)
    began = time.monotonic()
    outcome = suite.in_own_process("cold_start", True, limit_s=0.01)
    assert outcome.state == "failed"
    assert "did not end" in outcome.text
    assert time.monotonic() - began < 20


# ── oracles ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def slow_orders(ticks: Any) -> list[tuple[int, int]]:
    """(tick, number of the condition) of every crossing, one tick after the other."""
    levels = [(symbol, level, direction) for symbol, level, direction in firing._levels()]
    last: dict[int, int] = {}
    found = []
    for place, tick in enumerate(ticks):
        if tick["kind"] != l.TICK_TRADE:
            continue
        symbol, price = int(tick["instrument"]), int(tick["price"])
        before = last.get(symbol)
        last[symbol] = price
        for number, (of, level, direction) in enumerate(levels):
            if of == symbol and before is not None and (before < level <= price if direction == "up" else before > level >= price):
                found.append((place + 1, number))
    return found


def test_the_oracle_of_orders_is_a_plain_loops() -> None:
    ticks = firing.ticks(6_000)
    wanted = firing.expected(ticks)
    assert [(int(row["tick_seq"]), int(row["condition_id"]) & 0xFFFF) for row in wanted] == slow_orders(ticks)
    assert 0.08 < len(wanted) / len(ticks) < 0.11


def test_no_symbol_fires_again_before_its_distance() -> None:
    wanted = firing.expected(firing.ticks(50_000))
    for symbol in range(firing.SYMBOLS):
        assert (np.diff(wanted["tick_seq"][wanted["instrument"] == symbol]) >= firing.LEAST_DISTANCE).all()


def test_an_order_that_is_not_the_oracles_is_found() -> None:
    wanted = firing.expected(firing.ticks(5_000))
    intents = np.zeros(len(wanted), l.INTENT)
    intents["kind"], intents["purpose"] = l.NEW, l.ENTRY
    for name in firing.EXPECTED.names or ():
        intents[name] = wanted[name]
    firing.check_intents(intents, wanted)
    intents["lots"][3] += 1
    with pytest.raises(CheckFailed, match="another lots"):
        firing.check_intents(intents, wanted)
    with pytest.raises(CheckFailed, match="oracle names"):
        firing.check_intents(intents[:-1], wanted)


def test_a_walk_moves_three_ticks_at_most_and_each_symbol_for_itself() -> None:
    ticks = market.walk(7, 5_000)
    for symbol in range(7):
        own = ticks[ticks["instrument"] == symbol]
        price = np.where(own["kind"] == l.TICK_QUOTE, own["price"] + 1, own["price"])
        assert (abs(np.diff(price)) <= 3).all()
        assert abs(int(price[0]) - market.FIRST_PRICE) <= 3


# ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("per_tick", "code", "text"), [
    (103.0, 0, "within"), (103.1, 1, "--update"), (97.0, 0, "within"), (96.9, 0, "keep what was won")])
def test_more_instructions_than_the_bound_allows_fail_with_the_way_out(per_tick: float, code: int, text: str) -> None:
    got, told = instructions.verdict(per_tick, 100.0)
    assert got == code
    assert text in told


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64")
def test_asking_valgrind_for_something_does_nothing_without_it() -> None:
    ask = workload.client_request()
    gc.collect()
    for what in (workload.START, workload.STOP):
        assert ask(what) is None


@pytest.mark.parametrize(("said", "why"), [("Collected : 0", "counted nothing"), ("no count at all", "no count")])
def test_a_run_under_valgrind_that_counts_nothing_is_no_good_run(said: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said))
    with pytest.raises(instructions.RunFailed, match=why):
        instructions.counted(1000)


def test_the_bound_is_in_the_repository() -> None:
    bound = json.loads(instructions.BOUND.read_text())
    assert bound["instructions_per_tick"] > 0
    assert {"numba", "llvmlite"} < set(bound)


def test_a_part_that_is_missing_says_why() -> None:
    assert str(Missing("swap", "rows", "not built")).endswith("rows: skipped: not built")
