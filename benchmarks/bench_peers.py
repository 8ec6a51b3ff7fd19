"""The same trade ticks through NautilusTrader's BacktestEngine, through hftbacktest, and through our kernel: ticks a second, and our ratio.

One instrument, a random walk of trades; 1,000 levels rest away from it and none is reached: conditions of ours, stop orders of NautilusTrader's.
hftbacktest knows no stop orders: it only reads its feed, one event after the other, in a compiled loop. Ours is the whole `step` with its commit.
Each peer runs by its own documented interface, in a virtual environment of its own below TRADER_CACHE (else ~/.cache/trader)/peers, made at the first
run from PyPI with the newest Python there is; where that cannot be, it is left out with the reason.

It checks itself: each has seen every tick; NautilusTrader has accepted all orders, and nothing was filled; ours made no order and refused nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_kernel import drive
from benchmarks.frame import Missing, Row, Skipped, check, instance
from benchmarks.market import arm_rows, dormant, furnish, loop_of, walk
from ipc import layout as l

#: name, package at PyPI, script in this folder
PEERS = (("NautilusTrader", "nautilus_trader", "peer_nautilus.py"), ("hftbacktest", "hftbacktest", "peer_hftbacktest.py"))
LEVELS = 1000
#: s that an installation, and a run, may take
_INSTALL_S, _RUN_S = 600, 600
#: newest first: the peers' newest versions ask for a new Python
_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3")


def cache() -> Path:
    """Where the peers' environments are."""
    return Path(os.environ.get("TRADER_CACHE") or Path.home() / ".cache" / "trader") / "peers"


def _runs(command: list[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skipped(f"{command[0]}: {error}") from error


def environment(package: str) -> Path:
    """Python of the package's own environment, made if it is not there. Raises Skipped with pip's words where that cannot be."""
    folder = cache() / package
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists():
        return python
    why = "no Python that can make one"
    for name in (*_PYTHONS, sys.executable):
        found = shutil.which(name)
        if found is None or _runs([found, "-c", "import venv, ensurepip"], 60).returncode:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        steps = ([found, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary",
                                                      ":all:", package])
        for step in steps:
            done = _runs(step, _INSTALL_S)
            if done.returncode:
                why = next((line for line in reversed((done.stderr + done.stdout).splitlines()) if line.startswith("ERROR")), done.stderr[-300:])
                break
        else:
            stamp.touch()
            return python
    shutil.rmtree(folder, ignore_errors=True)
    raise Skipped(f"{package} cannot be installed here: {why}")


def of_peer(package: str, script: str, ticks: Path, levels: Path) -> dict[str, Any]:
    """What its script prints."""
    command = [str(environment(package)), "-W", "ignore", str(Path(__file__).parent / script), str(ticks), str(levels)]
    done = _runs(command, _RUN_S)
    check(done.returncode == 0, f"{package}: exit code {done.returncode}: {done.stderr[-500:]}")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def ours(ticks: Any, rounds: int) -> float:
    """Ticks a second of the whole step, the best of the rounds, each from the beginning of the ticks in an instance of its own."""
    took = []
    for _ in range(rounds):
        with instance(ticks=1024, instruments=1, conditions=LEVELS) as memory:
            furnish(memory, 1)
            arm_rows(memory, dormant(LEVELS, 1))
            s = loop_of(memory)
            scratch = np.zeros(1, l.INTENT), np.zeros(1, l.REPORT), np.zeros(len(ticks), np.int64)
            drive(s, ticks, 0, 1, *scratch)
            began = time.perf_counter()
            made = drive(s, ticks, 1, len(ticks), *scratch)
            took.append((time.perf_counter() - began) / (len(ticks) - 1))
            check(made == 0 and int(s.refusals.sum()) == 0, "our kernel fired nothing")
            check(int(s.line[0]["tick_seq"]) == len(ticks), "our kernel saw every tick")
    return 1 / min(took)


def run(quick: bool) -> list[Row | Missing]:
    """Ours, then each peer that there is."""
    count = 20_000 if quick else 200_000
    ticks = walk(1, count)
    ticks["kind"], ticks["ask_price"], ticks["ask_lots"] = l.TICK_TRADE, 0, 0
    levels = dormant(LEVELS, 1)
    own = ours(ticks, 3)
    params = {"ticks": count, "levels": LEVELS, "symbols": 1}
    rows: list[Row | Missing] = [Row("peers", "ticks_per_s", own, "1/s", {"engine": "trader", **params})]
    with tempfile.TemporaryDirectory(prefix="trader-peers-") as name:
        folder = Path(name)
        np.save(folder / "ticks.npy", np.stack([ticks["event_ns"], ticks["price"], ticks["lots"]], axis=1).astype(np.int64))
        np.save(folder / "levels.npy", np.stack([levels["level"], levels["direction"]], axis=1).astype(np.int64))
        for title, package, script in PEERS:
            try:
                said = of_peer(package, script, folder / "ticks.npy", folder / "levels.npy")
            except Skipped as reason:
                rows.append(Missing("peers", title, str(reason)))
                continue
            check(said["seen"] == count, f"{title} has seen {said['seen']} of {count} ticks")
            check(said.get("accepted", LEVELS) == LEVELS and said.get("filled", 0) == 0, f"{title}: {said}")
            theirs = said["seen"] / said["seconds"]
            about = {"engine": f"{title} {said['version']}", **params, "levels": LEVELS if "accepted" in said else 0}
            rows += [Row("peers", "ticks_per_s", theirs, "1/s", about), Row("peers", "ours_to_theirs", own / theirs, "ratio", about)]
    return rows
