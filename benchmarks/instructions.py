"""Instructions of a tick, counted by valgrind's callgrind: what may not grow unseen, whatever else the machine is doing.

    python -m benchmarks.instructions [--update]

The workload (workload.py) runs twice under callgrind, 10,000 and 810,000 ticks, both at the same time; the difference over 800,000 ticks has no
interpreter, import or start in it. Kernels are compiled for a generic processor into a cache of their own before, since valgrind does not know every
instruction of this one and numba keeps one cache a processor. The count is compared with instructions.json beside this file, which names the numba it
was made with: another numba makes other code, so then it is only told.

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
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.workload import CONDITIONS, MOST, SYMBOLS

BOUND = Path(__file__).with_suffix(".json")
SHORT, LONG = 10_000, MOST
#: how much more than the bound is let pass: start-up differs by some instructions a tick from run to run
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


def counted(folder: Path) -> dict[int, int]:
    """Instructions of the whole process, by length of the run."""
    runs = {}
    for ticks in (SHORT, LONG):
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / f'callgrind.{ticks}'}", sys.executable, "-m",
                   "benchmarks.workload", str(ticks)]
        runs[ticks] = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True)
    found = {}
    try:
        for ticks, run in runs.items():
            text = run.communicate(timeout=_TAKEN_S)[0]
            count = _COUNT.search(text)
            if run.returncode or count is None:
                raise RunFailed(text[-1000:])
            found[ticks] = int(count[1])
    finally:
        for run in runs.values():
            run.kill()
    return found


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
        with tempfile.TemporaryDirectory(prefix="trader-callgrind-") as folder:
            found = counted(Path(folder))
    except (RunFailed, subprocess.TimeoutExpired) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1
    per_tick = (found[LONG] - found[SHORT]) / (LONG - SHORT)
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
