"""The storm finds faults of the product, not only of what it has left: each mutant forgets one thing of recovery, and a short storm must break on it.

A mutant is a copy of the sources with one change. Those of the kernel are compiled anew: `scripts/test -m slow tests/test_system_storm_mutants.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REAL_DATA, ROOT

#: name → (file, what stands there, what the mutant has, target of the storm, a rule that must be broken; "": whichever)
MUTANTS = {
    "what the venue has and nobody was told is forgotten": (
        "hotpath/takeover.py", '    gateway.intake = Intake(int(g.header[0]["venue_seq"]))\n',
        '    g.header[0]["venue_seq"] = g.header[0]["venue_seq"] if first else gateway.ledger.meta.venue_seq\n'
        '    gateway.intake = Intake(int(g.header[0]["venue_seq"]))\n', "gateway", "event_once"),
    "what the report ring says is not looked at": (
        "hotpath/takeover.py", "    published = _published_reports(gateway)\n", "    published = _published_reports(gateway)[:0]\n", "gateway",
        "event_once"),
    "an order that may have been sent is taken for never sent": (
        "hotpath/takeover.py", "if order.state == l.ORD_SENDING and gateway.lockstep and seq < OWN_ORDERS and gateway.venue.find(",
        "if order.state == l.ORD_SENDING or gateway.venue.find(", "gateway", "terminal"),
    "the uncommitted step is not undone": (
        "hotpath/kernel/commit.py", "            s.tx[s.undo_at[k]] = s.undo_lines[k]\n", "            pass\n", "sniper", "book"),
    "an exit without effect is not tried again": (
        "hotpath/kernel/exits.py", "    elif now_ns < position.retry_ns and forced == l.EXIT_NONE:\n",
        "    elif position.attempt > 0 and forced == l.EXIT_NONE:\n", "reflection", "protection"),
    "the committed outbox is not copied": ("hotpath/kernel/commit.py", "    copy_outbox(s)\n    return applied", "    return applied", "sniper", ""),
}


def mutated(name: str) -> tuple[str, str]:
    """File, and its text with the fault."""
    file, right, wrong, *_ = MUTANTS[name]
    text = (ROOT / file).read_text()
    assert text.count(right) == 1, f"{file} has changed: {right!r} is there {text.count(right)} times"
    return file, text.replace(right, wrong)


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_is_there(name: str) -> None:
    assert mutated(name)


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_storm_breaks_on_a_mutant(name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    sources = tmp_path_factory.getbasetemp() / "mutant"  # one folder for all: kernels that do not change are compiled once
    for folder in ("ipc", "hotpath", "control", "benchmarks", "tests"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", sources)
    file, text = mutated(name)
    (sources / file).write_text(text)
    *_, target, rule = MUTANTS[name]
    environment = os.environ | {"PYTHONPATH": str(sources), "XDG_CACHE_HOME": str(sources / "cache"), "TRADER_REAL_DATA": str(REAL_DATA)}
    subprocess.run([sys.executable, "-m", "hotpath.preload"], cwd=sources, env=environment, timeout=1200, check=True)
    run = subprocess.run([sys.executable, "-m", "tests.storm", "--kills", "120", "--seed", "1", "--targets", target, "--signals", "KILL",
                          "--folder", str(tmp_path / "storm"), "--json", str(tmp_path / "storm.json")],
                         cwd=sources, env=environment, capture_output=True, text=True, timeout=400,
                         check=False)
    assert run.returncode == 1, run.stdout[-3000:] + run.stderr[-3000:]
    told = json.loads((tmp_path / "storm.json").read_text())
    assert not rule or rule in {finding["rule"] for finding in told["findings"]}, run.stdout[-3000:]
    assert run.stdout.splitlines()[-1].startswith("BROKEN: ")
