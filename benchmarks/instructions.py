"""Instructions of a tick, counted by valgrind's callgrind: what may not grow unseen, whatever else the machine is doing.

    python -m benchmarks.instructions [--update]

The workload (workload.py) runs under callgrind, which counts only while the workload says so: 200,000 ticks, and no interpreter, import or start.
Kernels are compiled for a generic processor into a cache of their own before, since valgrind does not know every instruction of this one and numba
keeps one cache a processor. The count is compared with instructions.json beside this file, which names the numba it was made with: another numba
makes other code, so then it is only told.

Exit codes: 0 within the bound, or not to be counted here (the reason is printed); 1 more instructions than the bound allows, or a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.workload import CONDITIONS, SYMBOLS

BOUND = Path(__file__).with_suffix(".json")
TICKS = 200_000
#: how much more than the bound is let pass
TOLERANCE = 0.03
_TAKEN_S = 900.0
_COUNT = re.compile(r"Collected : (\d+)")


class RunFailed(Exception):
    """The workload did not come to its end; the text has its last words."""


def environment() -> dict[str, str]:
    """The same for the compiling and the counted runs."""
    home = Path(os.environ.get("TRADER_CACHE") or Path.home() / ".cache" / "trader") / "generic"
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "XDG_CACHE_HOME": str(home), "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def compile_first() -> None:
    """Fill the cache. Raises RunFailed when a second run still compiles something, which would be counted."""
    command = [sys.executable, "-m", "benchmarks.workload", "1000"]
    for _ in range(2):
        done = subprocess.run(command, env={**environment(), "NUMBA_DEBUG_CACHE": "1"}, capture_output=True, text=True, check=False, timeout=_TAKEN_S)
        if done.returncode:
            raise RunFailed(done.stderr[-1000:])
    if saved := [line for line in done.stdout.splitlines() if "data saved" in line or "index saved" in line]:
        raise RunFailed(f"the warm run compiled something: {saved[0]}")


def counted(ticks: int) -> int:
    """Instructions of so many ticks. Raises RunFailed."""
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null", sys.executable, "-m", "benchmarks.workload",
               str(ticks)]
    run = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         check=False, timeout=_TAKEN_S)
    count = _COUNT.search(run.stdout)
    if run.returncode or count is None:
        raise RunFailed(run.stdout[-1000:])
    if not int(count[1]):
        raise RunFailed("callgrind counted nothing: it did not hear the workload's request to start")
    return int(count[1])


def verdict(per_tick: float, bound: float) -> tuple[int, str]:
    """Exit code, and what is to be done."""
    change = per_tick / bound - 1
    told = f"{per_tick:.1f} instructions a tick, {change:+.1%} against the bound of {bound:.1f}"
    if per_tick > bound * (1 + TOLERANCE):
        return 1, (f"{told}: more than {TOLERANCE:.0%}. Find what has grown (count the commits in between). If it is meant, say why in the commit "
                   "and move the bound: python -m benchmarks.instructions --update")
    if per_tick < bound * (1 - TOLERANCE):
        return 0, f"{told}: keep what was won: python -m benchmarks.instructions --update"
    return 0, f"{told}: within {TOLERANCE:.0%}"


def main(arguments: list[str] | None = None) -> int:
    """Count, compare, or write the bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write what is counted as the new bound")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None or platform.machine() != "x86_64":
        print("instructions: skipped: it needs valgrind on x86-64 (Debian, Ubuntu: sudo apt install valgrind)")
        return 0
    began = time.monotonic()
    try:
        compile_first()
        ready = time.monotonic()
        per_tick = counted(TICKS) / TICKS
    except (RunFailed, subprocess.TimeoutExpired) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1
    print(f"instructions: {CONDITIONS:,} conditions on {SYMBOLS} symbols; compiled in {ready - began:.0f} s, "
          f"counted in {time.monotonic() - ready:.0f} s", flush=True)
    made_with = {"numba": version("numba"), "llvmlite": version("llvmlite")}
    if options.update:
        BOUND.write_text(json.dumps({"instructions_per_tick": round(per_tick, 1), **made_with}, indent=1) + "\n")
        print(f"instructions: {per_tick:.1f} a tick is the bound from now on")
        return 0
    bound = json.loads(BOUND.read_text())
    code, text = verdict(per_tick, bound["instructions_per_tick"])
    if any(bound[name] != made_with[name] for name in made_with):
        print(f"instructions: {text}; not judged: the bound was made with numba {bound['numba']}, this is {made_with['numba']}")
        return 0
    print(f"instructions: {text}", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
