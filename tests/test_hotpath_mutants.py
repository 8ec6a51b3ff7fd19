"""Seeded faults of the kernel: each is a line that a tired hand could write, and each must be found by the comparison with the reference.

A mutant is a copy of the sources with one change, compiled anew (about a minute): `scripts/test -m slow tests/test_hotpath_mutants.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: name → (file in hotpath/kernel, what stands there, what the mutant has)
MUTANTS = {
    "a level that is reached exactly does not fire": (
        "thresholds.py", "        if s.thresholds[middle].signed > signed:", "        if s.thresholds[middle].signed >= signed:"),
    "what was added fires before what was there": (
        "triggers.py", "s.thresholds[a].signed <= s.added[c].signed", "s.thresholds[a].signed < s.added[c].signed"),
    "exits come after entries": (
        "step.py", "            if not exits_of(s, tick.instrument, long_price,",
        "            if not set_off(s, tick, params) or not exits_of(s, tick.instrument, long_price,"),
    "an entry under way does not count against exposure": (
        "risk.py", "    held = state.exposure_lots + state.working_lots", "    held = state.exposure_lots"),
    "an entry takes what the order ring keeps for exits": (
        "risk.py", "    if ring_room(s) <= params.ring_reserve:", "    if ring_room(s) <= 0:"),
    "the day's entries are not counted": ("entries.py", "    account.entries_today += 1\n", ""),
    "a fill that is reported twice counts twice": (
        "reports.py", "    lots = report.cum_lots - order.cum_lots\n", "    lots = report.last_lots\n"),
    "a stop is sent for all lots while a rung is under way": (
        "exits.py", "    lots = position.lots - position.exit_working_lots ", "    lots = position.lots "),
    "the best price of a trailing stop may get worse": (
        "exits.py", "    if price > 0 and position.side * (price - position.best_price) > 0:", "    if price > 0:"),
    "a message that cancels is not counted": ("intents.py", "    if kind == l.NEW or kind == l.CANCEL:", "    if kind == l.NEW:"),
    "a stop is touched only beyond its price": (
        "exits.py", "    if position.stop_price > 0 and side * (price - position.stop_price) <= 0:",
        "    if position.stop_price > 0 and side * (price - position.stop_price) < 0:"),
    "a condition may fire once more than it may": ("entries.py", "memory.fired < condition.max_fires", "memory.fired <= condition.max_fires"),
    "the collar does not widen": ("exits.py", "collar << position.attempt", "collar"),
    "an ended entry keeps its reserved cash": (
        "reports.py", "    account.reserved -= order.reserved\n    account.working_orders", "    account.working_orders"),
    "a twin is opened as wide as its position": ("twins.py", "max(1, apart * pct // 100)", "apart"),
    "a twin pays no fee for its entry": ("twins.py", "    p.attempt = 0\n", "    p.attempt = 0\n    p.fees = 0\n"),
    "the latch does not hold": ("risk.py", "account.latched >> condition.strategy & 1\n            or ", ""),
}


def mutated(name: str) -> tuple[str, str]:
    """File in hotpath/kernel, and its text with the fault."""
    file, right, wrong = MUTANTS[name]
    text = (ROOT / "hotpath" / "kernel" / file).read_text()
    assert text.count(right) == 1, f"{file} has changed: {right!r} is there {text.count(right)} times"
    return file, text.replace(right, wrong)


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_is_there(name: str) -> None:
    assert mutated(name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str, tmp_path: Path) -> None:
    file, text = mutated(name)
    for folder in ("ipc", "hotpath", "control", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "hotpath" / "kernel" / file).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_hotpath_reference.py",
                          "tests/test_hotpath_triggers.py", "tests/test_hotpath_gate.py", "-k", "not rows"],
                         cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1000, check=False)
    assert run.returncode == 1, run.stdout[-2000:] + run.stderr[-2000:]
    assert "AssertionError" in run.stdout
