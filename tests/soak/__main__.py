"""`scripts/soak --hours H --speed X`: a paper instance with many small trades, every process measured every ten seconds; does anything grow?

    scripts/soak --hours 1.8 --speed 100 --report docs/soak.md

PSS is taken whole and in parts: what is the process's own (anonymous), shared memory, and pages of files. Pages of files are LMDB's maps and
libraries: they are the page cache's, which takes them back whenever somebody needs the room; a journal that grows is seen there and in `journal_mb`.
What must not grow is the rest, and descriptors, threads, and the instance's files in /dev/shm.

The last line is the verdict. Exit status 0 only if the 95 % upper bound of the growth of each process and of /dev/shm is below the limit, descriptors
and threads stay, the instance made as many ticks, trades and hours as were asked for, lost nothing, and its books reconcile; 1 if not, or where
SIGTERM or Ctrl-C ends it; 2 for wrong flags.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.frame import CheckFailed, Ended, end_in_order
from benchmarks.machine import machine
from benchmarks.paper import COMPILE_PATIENCE_S, launcher, paper
from tests.soak import steady
from tests.soak.samples import Sample, sample
from tests.soak.slope import Slope, slope

#: seconds between two samples; what is before this is warming up, at most a fifth of the run
EVERY_S, WARM_UP_S = 10.0, 1200.0
#: MB an hour that no process may grow by, with 95 % confidence
MOST_MB_PER_H = 2.0
#: room for thousands of trades that cost what they cost
CONFIG = """
[limits]
max_open_positions = 100
max_entries_per_day = 1000000
[paper]
initial_balance = 1000000.0
"""
#: what is judged of each process, and what is shown beside it
JUDGED, SHOWN = ("own_mb",), ("pss_mb", "anonymous_mb", "shared_mb", "file_mb")


def soak(hours: float, speed: float, folder: Path, say: Any) -> tuple[list[Sample], dict[str, Any]]:
    """Run, sample, stop; gives the samples and the run's summary."""
    config = folder / "soak.toml"
    config.write_text(CONFIG)
    samples: list[Sample] = []
    with paper(line=[*launcher()[:-1], f"{speed:g}", "--config", str(config), "--strategy", f"{steady.__file__}:Steady"]) as instance:
        instance.start(COMPILE_PATIENCE_S)
        instance.await_ready()
        began = time.monotonic()
        with (folder / "samples.jsonl").open("w") as file:
            while (at_s := time.monotonic() - began) < hours * 3600:
                samples.append(sample(instance, at_s))
                file.write(json.dumps(samples[-1]._asdict()) + "\n")
                file.flush()
                say(samples[-1])
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - began - at_s)))
        return samples, instance.stop()


def growth(samples: list[Sample], hours: float) -> dict[str, dict[str, Slope]]:
    """Process → figure → growth an hour, behind the warming up."""
    late = [one for one in samples if one.at_s >= min(WARM_UP_S, hours * 3600 / 5)]
    at_h = [one.at_s / 3600 for one in late]
    found = {}
    for name in late[0].processes:
        rows = [one.processes[name] for one in late if name in one.processes]
        series = {figure: [row[figure] for row in rows] for figure in rows[0]}
        series["own_mb"] = [row["anonymous_mb"] + row["shared_mb"] for row in rows]
        found[name] = {figure: slope(at_h[:len(values)], values) for figure, values in series.items()}
    return found


def shm_growth(samples: list[Sample], hours: float) -> Slope:
    """What the instance's files in shared memory grow by an hour, behind the warming up; of no process, as nobody need map them."""
    late = [one for one in samples if one.at_s >= min(WARM_UP_S, hours * 3600 / 5)]
    return slope([one.at_s / 3600 for one in late], [one.instance["shm_mb"] for one in late])


def faults(samples: list[Sample], grown: dict[str, dict[str, Slope]], summary: dict[str, Any], wanted: argparse.Namespace) -> list[str]:
    """Whatever is not as it should be, in words."""
    last, first = samples[-1].instance, samples[0].instance
    told = [f"{name}: {figure} grows by up to {of[figure].upper95_per_h:.2f} MB/h (95 %), the limit is {MOST_MB_PER_H:g}"
            for name, of in grown.items() for figure in JUDGED if not of[figure].upper95_per_h < MOST_MB_PER_H]
    shm = shm_growth(samples, wanted.hours)
    if not shm.upper95_per_h < MOST_MB_PER_H:
        told.append(f"/dev/shm grows by up to {shm.upper95_per_h:.2f} MB/h (95 %), the limit is {MOST_MB_PER_H:g}")
    for name in grown:
        for figure in ("descriptors", "threads"):
            tail = [one.processes[name][figure] for one in samples[len(samples) // 5:] if name in one.processes]
            if min(tail[-len(tail) // 10:]) > max(tail[:max(1, len(tail) // 10)]):
                told.append(f"{name}: {figure} rose from {max(tail[:max(1, len(tail) // 10)]):g} to {min(tail[-len(tail) // 10:]):g}")
    for figure, least in (("ticks", wanted.ticks), ("trades", wanted.trades), ("event_h", wanted.event_hours)):
        made = last[figure] - first[figure]
        if made < least:
            told.append(f"{made:,.0f} {figure} are less than {least:,.0f}")
    if last["restarts"]:
        told.append(f"{last['restarts']:g} restarts")
    if not summary["reconciled"] or summary["ticks_lost"]:
        told.append("the books do not reconcile, or ticks were lost")
    return told


def words(samples: list[Sample], grown: dict[str, dict[str, Slope]], wanted: argparse.Namespace) -> list[str]:
    """The report, in Markdown."""
    first, last = samples[0].instance, samples[-1].instance
    about = machine()
    lines = [f"`scripts/soak --hours {wanted.hours:g} --speed {wanted.speed:g}` on {about['processor']}, {about['cores']} cores, "
             f"Python {about['python']}", "",
             f"{samples[-1].at_s / 60:.0f} min of wall time, {last['event_h'] - first['event_h']:.1f} h of event time, "
             f"{last['ticks'] - first['ticks']:,.0f} ticks, {last['trades'] - first['trades']:,.0f} trades, {len(samples)} samples.", "",
             "| process | own memory at the end (MB) | growth, 95 % bound (MB/h) | PSS at the end (MB) | growth, 95 % bound | "
             "pages of files, growth | descriptors | threads |", "|---|---|---|---|---|---|---|---|"]
    for name, of in grown.items():
        row = next(one.processes[name] for one in reversed(samples) if name in one.processes)
        lines.append(f"| {name} | {row['anonymous_mb'] + row['shared_mb']:.1f} | {of['own_mb'].per_h:+.2f}, {of['own_mb'].upper95_per_h:.2f} | "
                     f"{row['pss_mb']:.1f} | {of['pss_mb'].per_h:+.2f}, {of['pss_mb'].upper95_per_h:.2f} | {of['file_mb'].per_h:+.2f} | "
                     f"{row['descriptors']:g} | {row['threads']:g} |")
    lines += ["", "| on disk and in /dev/shm | at the beginning (MB) | at the end (MB) |", "|---|---|---|"]
    lines += [f"| {figure.removesuffix('_mb')} | {first[figure]:.1f} | {last[figure]:.1f} |"
              for figure in ("shm_mb", "journal_mb", "paper_mb", "knowledge_mb", "logs_mb")]
    shm = shm_growth(samples, wanted.hours)
    lines += ["", f"/dev/shm: growth {shm.per_h:+.2f} MB/h, 95 % bound {shm.upper95_per_h:.2f}. "
              "Pages of files (LMDB's maps, libraries: the page cache's) are shown, and not judged."]
    return lines


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser("scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=100 / 60, help="of wall time (1.67)")
    parser.add_argument("--speed", type=float, default=100.0, help="event seconds a wall second (100)")
    parser.add_argument("--ticks", type=float, default=0, help="at least so many ticks (0)")
    parser.add_argument("--trades", type=float, default=0, help="at least so many closed trades (0)")
    parser.add_argument("--event-hours", type=float, default=0, help="at least so much event time (0)")
    parser.add_argument("--folder", type=Path, help="where samples.jsonl is kept (a temporary folder)")
    parser.add_argument("--report", type=Path, help="write the report there, in Markdown")
    wanted = parser.parse_args()
    for flag in ("hours", "speed"):
        if not 0 < getattr(wanted, flag) < math.inf:
            parser.error(f"argument --{flag}: {getattr(wanted, flag):g} is no number above 0")
    end_in_order()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="trader-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("soak", total=wanted.hours * 3600)
        try:
            samples, summary = soak(wanted.hours, wanted.speed, folder, lambda one: progress.update(
                task, completed=one.at_s, description=f"{one.instance['ticks']:,.0f} ticks, {one.instance['trades']:,.0f} trades"))
        except CheckFailed as error:
            print(f"BROKEN: {error}")
            return 1
        except Ended as ended:
            print(f"BROKEN: {ended.text} before its time")
            return 1
    grown = growth(samples, wanted.hours)
    told = faults(samples, grown, summary, wanted)
    report = words(samples, grown, wanted)
    verdict = "HOLDS: no process's own memory grows, and nothing in /dev/shm" if not told else "BROKEN: " + "; ".join(told)
    if wanted.report:
        wanted.report.parent.mkdir(parents=True, exist_ok=True)
        wanted.report.write_text("\n".join(["# Soak", "", *report, "", verdict, ""]))
    print("\n".join([*report, "", f"samples: {folder / 'samples.jsonl'}", verdict]))
    return 0 if not told else 1


if __name__ == "__main__":
    sys.exit(main())
