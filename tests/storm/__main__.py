"""`scripts/storm --kills N --seed S`: real processes over recorded data, killed N times, then an independent check of everything they left.

    scripts/storm --kills 200 --seed 1
    scripts/storm --kills 50 --targets sniper,gateway --signals KILL,STOP --json storm.json

Each kill: a target, a phase and a signal by the seed; the target is brought to the phase (tests/storm/aim.py), hit, and awaited until it works again.
When the data end, the next pass begins. The last line is the verdict; exit status 0 only if all holds, 1 if not, 2 for wrong flags. SIGTERM or Ctrl-C
end it and everything that it has started; that is 1, too.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.frame import end_in_order
from tests.storm import report
from tests.storm.run import BOTH, BOUND_S, REPLAY, SHIPPED_BOUND_S, SIGNALS, SIMULATED, SPEED, TARGETS, Storm, signals_for
from tests.storm.scene import recordings


def _several(allowed: tuple[str, ...]) -> object:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if unknown := [name for name in chosen if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(allowed)}")
        if not chosen:
            raise argparse.ArgumentTypeError(f"name at least one of {', '.join(allowed)}")
        return chosen

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser("scripts/storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=_count, default=50, help="how many processes are killed (50)")
    parser.add_argument("--seed", type=int, default=1, help="of targets, phases, signals and moments (1)")
    parser.add_argument("--targets", type=_several(TARGETS), default=TARGETS,  # type: ignore[arg-type]
                        help="of " + ",".join(TARGETS) + " (all); the forkserver is not stopped")
    parser.add_argument("--signals", type=_several(SIGNALS), default=SIGNALS, help="of KILL,STOP,SEGV,TERM (all)")  # type: ignore[arg-type]
    parser.add_argument("--speed", type=_above_zero, default=SPEED, help=f"event seconds a wall second ({SPEED:g})")
    parser.add_argument("--bound", type=_above_zero, default=BOUND_S,
                        help="seconds for which a position may be without protection: the longest heartbeat limit of who keeps it, and one for the "
                             f"respawn ({BOUND_S:g}; the limits as shipped make {SHIPPED_BOUND_S:g})")
    market = parser.add_mutually_exclusive_group()
    market.add_argument("--simulated", dest="market", action="store_const", const=SIMULATED, default=BOTH,
                        help="all in a paper instance on the simulated market, though there are real data (the last fifth of the kills is)")
    market.add_argument("--replay", dest="market", action="store_const", const=REPLAY, help="all over recorded data, none on the simulated market")
    parser.add_argument("--folder", type=Path, help="where passes are kept that broke a promise (a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the whole report there")
    given = parser.parse_args()
    if given.json and not given.json.parent.is_dir():
        parser.error(f"argument --json: there is no folder {given.json.parent}")
    if not any(signals_for(target, given.signals) for target in given.targets):
        parser.error("argument --signals: a forkserver is not stopped; name KILL, SEGV or TERM")
    if given.market == REPLAY and not recordings():
        parser.error("argument --replay: there are no recorded data; name their folder in TRADER_REAL_DATA")
    end_in_order()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="trader-storm-"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=given.kills)
        result = Storm(folder, given.kills, given.seed, given.targets, given.signals, given.bound, market=given.market, speed=given.speed,
                       say=lambda text, done: progress.update(task, description=f"{text:<32}", completed=done)).run()
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(report.document(result))))
    if report.holds(result):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"what the passes left is in {folder}")
    print("\n".join(report.words(result)))
    return 0 if report.holds(result) else 1


if __name__ == "__main__":
    sys.exit(main())
