"""`python -m tests.simulation --seeds N [--seed S]`: N scripts from seed S on; a failing one is made small, printed, and ends the run with 1."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.running import run
from tests.simulation.script import draw
from tests.simulation.shrink import smallest
from tests.simulation.stage import Stage


def main(arguments: list[str] | None = None) -> int:
    """0: all hold; 1: a seed does not; 2: what was given makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--trace", action="store_true", help="print all that happens under the first seed, as it is")
    parser.add_argument("--keep-going", action="store_true", help="name every failing seed instead of making the first one small")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds: {given.seeds} is below 1; give how many to try")
    stage, began, passed, failed = Stage(), time.monotonic(), Counter[str](), list[int]()
    try:
        for seed in range(given.seed, given.seed + given.seeds):
            script = draw(seed)
            result = run(stage, script, given.trace)
            if given.trace:
                print("\n".join(result.trace))
            passed += result.passed
            if result.violation is None:
                continue
            failed.append(seed)
            print(f"seed {seed}: {result.violation}", flush=True)
            if not given.keep_going:
                if not given.trace:
                    small, found = smallest(stage, script, result.violation)
                    print(f"{len(small.actions)} of {len(script.actions)} actions are enough ({small.settings}):")
                    print("\n".join(found.trace))
                    print(f"{found.violation}\nagain: python -m tests.simulation --seed {seed}")
                break
    finally:
        stage.close()
    taken_s = time.monotonic() - began
    print(", ".join(f"{count} {name}" for name, count in sorted(passed.items())))
    done = seed - given.seed + 1
    print(f"{done} seeds in {taken_s:.1f} s ({done / taken_s:.1f}/s): {f'{len(failed)} fail' if failed else 'all hold'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
