"""`python -m benchmarks [NAME…] [--quick] [--json FILE]`: each benchmark checks its own result, and prints what it measured.

Each runs in a process of its own, with a limit in time, so that none can hide or hold up the others.

Exit codes: 0 measured (whether a figure was reached is in the table); 1 a check failed, so that there is no result, or SIGTERM or Ctrl-C ended it,
and with it whatever it had started; 2 wrong names or flags.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.frame import Ended, end_in_order
from benchmarks.suite import Outcome, in_own_process, names, report

#: load above which a figure says more about the neighbours than about us
_IDLE_LOAD = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names())}; all without any")
    parser.add_argument("--quick", action="store_true", help="small cases only: does it run, and is its check true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine there, too")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names())):
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(names())}")
    end_in_order()
    from benchmarks.machine import machine  # it loads numba: not for --help

    chosen = options.names or names()
    about = {**machine(), "quick": options.quick}
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    if about["load"] > _IDLE_LOAD:
        print(f"benchmarks: others use this machine (load {about['load']}): what spins or is paced will be held up by them", file=sys.stderr)
    outcomes: list[Outcome] = []
    for number, name in enumerate(chosen, 1):
        place = f"[{number}/{len(chosen)}] {name}"
        print(f"{place} …", file=sys.stderr, flush=True)
        try:
            outcome = in_own_process(name, options.quick)
        except Ended as ended:
            print(f"{ended.text} at {place}: {len(outcomes)} of {len(chosen)} are done, and nothing is reported")
            return 1
        outcomes.append(outcome)
        for line in (*outcome.rows, *outcome.missing):
            print(line, flush=True)
        told = f": {outcome.text}" if outcome.text else ""
        print(f"{place} {outcome.state} in {outcome.took_s:.1f} s, {outcome.steal_pct} % stolen{told}", file=sys.stderr, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report(about, outcomes), indent=1) + "\n")
    targets = [row.reached for outcome in outcomes for row in outcome.rows if row.reached is not None]
    states = [outcome.state for outcome in outcomes]
    print(f"{states.count('measured')} measured, {states.count('skipped')} skipped, {states.count('failed')} failed; "
          f"{sum(targets)} of {len(targets)} targets reached")
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
