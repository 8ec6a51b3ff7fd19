"""`trader-ctl backtest`: from flags to a finished run folder, or to an error that names the field and what to do, with nothing left half written."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from control import config as configuration
from control.faults import ConfigError
from control.learn.knowledge import KnowledgeError
from control.record.records import JournalError
from control.serve.exits import EXIT_DATA_UNREAD, EXIT_DONE, EXIT_NOT_RECONCILED, EXIT_REFUSED, EXIT_USAGE
from control.supervise.instance import EXIT_USAGE as LAUNCH_USAGE
from control.supervise.instance import LaunchError, new_run_id
from control.supervise.launch import make_plan
from control.supervise.permission import permit
from control.supervise.session import Plan
from control.think.strategy import StrategyError
from hotpath.venues.paper_ledger import LedgerError
from hotpath.venues.record import SourceError
from ipc import layout as l

#: ticks in one call of the kernel
BATCH = 1 << 17
#: records decoded at once
_CHUNK = 1 << 14


class Refused(Exception):
    """Why there is no backtest: text, and the exit code."""

    def __init__(self, text: str, code: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.code = code


class Ended(KeyboardInterrupt):
    """A signal ends the backtest. Not SystemExit, which is caught where a strategy raises it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Ending:
    """What a signal asks for. The first is heard at the next `look`: an exception in the middle of a call into C could be lost there, or tear it.
    The second is heard at once."""

    def __init__(self) -> None:
        self._number = 0

    def take(self, number: int, _: Any) -> None:
        """The signals' handler."""
        if self._number:
            raise Ended(number)
        self._number = number

    def look(self) -> None:
        """Raises Ended where a signal has come."""
        if self._number:
            raise Ended(self._number)


def backtest(options: argparse.Namespace) -> int:
    """Run it, print what it says; gives the exit code."""
    # an end by a signal unwinds, so that what is half written goes
    ending = Ending()
    before = {number: signal.signal(number, ending.take) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return _report(options, ending)
    except Ended as end:
        return 128 + end.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(options: argparse.Namespace, ending: Ending) -> int:
    log = logging.getLogger("backtest")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        summary, folder = conduct(options, log, ending)
    except Refused as error:
        return _refuse(options, str(error), error.code)
    if options.json:
        import msgspec

        reply = {"type": "done", "data": {**summary, "run_dir": str(folder)}}
        print(msgspec.json.Encoder(decimal_format="number").encode(reply).decode())
    else:
        from control.supervise.front import print_summary

        print_summary({name: value for name, value in summary.items() if not name.endswith("_ns") and name not in ("restarts", "wait_strategy")})
        print(f"  {folder / 'report.html'}")
    if not summary["reconciled"]:
        return EXIT_NOT_RECONCILED
    return EXIT_DATA_UNREAD if summary.get("data_unread") else EXIT_DONE


def conduct(options: argparse.Namespace, log: logging.Logger, ending: Ending) -> tuple[dict[str, Any], Path]:
    """The whole backtest; (summary, run folder). Raises Refused."""
    since_ns, until_ns = _time(options.since, "--from"), _time(options.until, "--to")
    if since_ns and until_ns and since_ns >= until_ns:
        raise Refused(f"--from: {options.since} is not before --to {options.until}; swap them, or leave one out")
    plan = _plan(options)
    run_id = new_run_id()
    folder = _folder(options.out, plan, run_id)
    with _draft(folder) as draft:
        try:
            return _run(plan, draft, run_id, since_ns, until_ns, log, ending), folder
        except StrategyError as error:
            raise Refused(f"--strategy: {error}") from error
        except SourceError as error:
            raise Refused(f"--data: {error}") from error
        except LaunchError as error:
            raise Refused(str(error), EXIT_REFUSED) from error
        except (JournalError, KnowledgeError, LedgerError, OSError) as error:
            raise Refused(f"--out: {draft.parent}: {error}; free space there, or name another folder", EXIT_REFUSED) from error


def _run(plan: Plan, draft: Path, run_id: str, since_ns: int, until_ns: int, log: logging.Logger,
         ending: Ending) -> dict[str, Any]:
    from control.backtest.engine import Backtest
    from control.backtest.report import write_report
    from control.backtest.results import results_of, write_tables
    from hotpath.backtest import compiled
    from hotpath.sources import ReplaySource
    from hotpath.venues.replay import Recording

    if not compiled():
        print("trader-ctl: compiling kernels; a minute or more, once after an update", file=sys.stderr)
    run = Backtest(plan, draft, run_id, log, ending.look)
    try:
        recording = Recording(plan.sources, run.memory.instruments.instruments[: len(plan.rows)], logging.getLogger("data"),
                              since_ns=since_ns, until_ns=until_ns)
        source = ReplaySource(recording, plan.config.hotpath.session_gap_s * 10**9, plan.flatten_at_end, _CHUNK)
        span = (0, 0)
        with _progress() as show:
            ticks, marks = np.zeros(BATCH, l.TICK), np.zeros((BATCH, 2), np.int64)
            while made := _fill(source, ticks, marks):
                ending.look()
                run.run(ticks[:made])
                span = (span[0] or int(ticks[0]["event_ns"]), int(ticks[made - 1]["event_ns"]))
                show(recording.share(), run.machine.ticks, span[1])
        if not span[0]:
            window = f" in that time; the data begin or end elsewhere: change {'--from' if since_ns else '--to'}" if since_ns or until_ns else ""
            raise Refused("--data: there is no trade, quote or candle" + (window or ": " + "; ".join(recording.errors() or ["the files are empty"])))
        summary = run.finish(recording.errors(), recording.faults())
        ending.look()
        results = results_of(run, summary, span)
        write_tables(results, draft)
        write_report(results, draft / "report.html")
        ending.look()
        return summary
    finally:
        run.close()


def _fill(source: Any, ticks: Any, marks: Any) -> int:
    """Fill the batch as far as the data go."""
    made = 0
    while made < len(ticks) - 64 and (more := source.fill(ticks[made:], marks[made:])):  # a session's end takes 23 at once
        made += more
    return made


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────
def _time(text: str | None, flag: str) -> int:
    from hotpath.venues.tables import nanoseconds

    if text is None:
        return 0
    if not (found := nanoseconds(text)):
        raise Refused(f"{flag}: {text!r} is no time; write 2025-05-04, 2025-05-04T12:30 (UTC) or Unix seconds")
    return found


def _plan(options: argparse.Namespace) -> Plan:
    try:
        config = configuration.load(options.config, {"run.strategies": options.strategy})
        plan = dataclasses.replace(make_plan("replay", options.data, config), mode="backtest", lockstep=True, speed=0.0)
        permit(plan)
    except ConfigError as error:
        raise Refused("\n".join(map(str, error.faults)), EXIT_REFUSED) from error
    except LaunchError as error:
        raise Refused(str(error), EXIT_USAGE if error.exit_code == LAUNCH_USAGE else EXIT_REFUSED) from error
    return plan


def _folder(out: Path | None, plan: Plan, run_id: str) -> Path:
    if out is None:
        return Path(plan.config.run.data_dir).expanduser().resolve() / "runs" / run_id
    folder = out.expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"--out: {folder} is there already and not empty; name a new folder")
    return folder


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is wanted, which takes its name when all is written, and goes when it is not."""
    draft = folder.parent / f".{folder.name}.part-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise Refused(f"--out: {error.filename}: {error.strerror}; name a writable folder", EXIT_REFUSED) from error
    try:
        yield draft
        try:
            if folder.is_dir():
                folder.rmdir()
            draft.rename(folder)
        except OSError as error:  # another run was quicker
            raise Refused(f"--out: {folder} is there by now and not empty ({error.strerror}); name a new folder", EXIT_REFUSED) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """A function of (share of the data that is read, ticks, event time): a bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda share, ticks, event_ns: None
        return
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("backtest"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
                  console=Console(stderr=True)) as bar:
        task = bar.add_task("backtest", total=1.0, text="")
        yield lambda share, ticks, event_ns: bar.update(
            task, completed=share, text=f"{ticks:,} ticks, {datetime.fromtimestamp(event_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S}")


def _refuse(options: argparse.Namespace, text: str, code: int) -> int:
    if options.json:
        import json

        print(json.dumps({"type": "refused", "code": "usage" if code == EXIT_USAGE else "refused", "text": text}))
    else:
        print("\n".join(f"trader-ctl: {line}" for line in text.splitlines()), file=sys.stderr)
    return code
