"""`python -m benchmarks [NAME…] [--quick] [--json FILE]`: each benchmark checks its own result, and prints what it measured.

Exit codes: 0 measured (whether a figure was reached is in the table); 1 a check failed, so that there is no result; 2 wrong names or flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks.frame import CheckFailed, Row, machine

#: what the suite runs: the modules bench_NAME.py that have a `run(quick)`
_PREFIX = "bench_"


def names() -> list[str]:
    """Benchmarks of the suite."""
    found = [entry.name for entry in pkgutil.iter_modules(benchmarks.__path__) if entry.name.startswith(_PREFIX)]
    return [name.removeprefix(_PREFIX) for name in found if "def run(quick" in (Path(benchmarks.__path__[0]) / f"{name}.py").read_text()]


def main() -> int:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names())}; all without any")
    parser.add_argument("--quick", action="store_true", help="small cases only: does it run, and is its check true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine there, too")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names())):
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(names())}")
    about, rows, failed = machine(), [], False
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for name in options.names or names():
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            made: list[Row] = importlib.import_module(f"benchmarks.{_PREFIX}{name}").run(options.quick)
        except CheckFailed as error:
            print(f"{name}: no result: {error}", file=sys.stderr)
            failed = True
            continue
        for row in made:
            rows.append(row)
            verdict = {None: "", True: f"reached {row.target:,.0f}" if row.target else "", False: f"NOT reached: {row.target or 0:,.0f}"}[row.reached]
            params = ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in row.params.items())
            print(f"{row.benchmark:16} {row.metric:22} {row.value:16,.1f} {row.unit:5} {verdict:24} {params}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
