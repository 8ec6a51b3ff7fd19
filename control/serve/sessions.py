"""`trader-ctl session`: an account as it was at any day or event sequence, from its journal alone, beside a running instance or without one.

Days are UTC, by event time. An event sequence is the number of a ring record in the journal's order (control/record/timeline.py); `show` has it in
the first column of the audit trail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from control.serve.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
#: days that are named where one is asked for that is not there
_NAMED = 12
_ABOUT_SEQ = """\
Days are UTC, by event time. An event sequence counts the records of both rings (orders and reports) from the journal's first one on, in the order in
which they changed the book; `session show` has it in the first column. Equity is at the last price that the journal knows of each symbol."""


class _Refused(Exception):
    def __init__(self, text: str, remedy: str, code: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.remedy, self.code = remedy, code


def flags(one: argparse.ArgumentParser, anywhere: argparse.ArgumentParser, rows_at_most: Any) -> None:
    """The command line behind `trader-ctl session`."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--run", metavar="RUN", help="a run's or an account's folder, or a run's id, instead of the instance's account")
    where.add_argument("--data-dir", type=Path, metavar="DIR", help="where instances and runs are (TRADER_RUN__DATA_DIR, else data)")
    what = one.add_subparsers(dest="what", metavar="list|show|restore", required=True)
    parents, text = [anywhere, where], argparse.RawDescriptionHelpFormatter
    what.add_parser("list", help="a row for each day", description=_ABOUT_SEQ, parents=parents, formatter_class=text)
    shown = what.add_parser("show", help="portfolio, positions, P&L, trades and audit trail of a day", description=_ABOUT_SEQ, parents=parents,
                            formatter_class=text)
    shown.add_argument("date", metavar="DATE", help="as 2025-05-04")
    shown.add_argument("--limit", type=rows_at_most, default=50, metavar="N", help="trades and rows of the audit trail at most, 1 to 10000 (50)")
    back = what.add_parser("restore", help="the book as a start at that moment would restore it", description=_ABOUT_SEQ, parents=parents,
                           formatter_class=text)
    back.add_argument("moment", metavar="DATE|SEQ", help="the end of a day, or an event sequence")
    back.add_argument("--dry-run", action="store_true", help="show it; nothing else can be done with it")


def sessions(options: argparse.Namespace) -> int:
    """Carry out `session list`, `show` or `restore`."""
    from control.record.records import JournalError
    from ipc.segment import SegmentError

    try:
        if options.what == "restore" and not options.dry_run:
            raise _Refused("an account cannot be set back: what the venue has filled and charged since stays as it is",
                           "add --dry-run to see the book of then; to begin anew, start with --fresh, which archives this account", EXIT_REFUSED)
        with _journal(options) as journal:
            answer = {"list": _list, "show": _show, "restore": _restore}[options.what](journal, options)
    except _Refused as error:
        return _fail(options, str(error), error.remedy, error.code)
    except (JournalError, SegmentError) as error:
        return _fail(options, str(error), "", EXIT_REFUSED)
    if options.json:
        print(json.dumps({"type": "answer"} | answer))
    else:
        from control.serve.session_tables import print_sessions

        print_sessions(options.what, answer["data"], answer["rows"])
    return EXIT_DONE


# ── where it is ──────────────────────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def _journal(options: argparse.Namespace) -> Iterator[Any]:
    from control.record.decisions import NoSuchRun, journal_of
    from control.record.journal import Journal
    from control.record.records import NoJournal

    data_dir = options.data_dir or Path(os.environ.get("TRADER_RUN__DATA_DIR") or "data")
    if options.run:
        folder = next((one for one in (Path(options.run).expanduser(), data_dir / "runs" / options.run) if one.is_dir()), None)
        if folder is None:
            raise _Refused(f"--run: {options.run} is no folder, and there is no run of that id in {data_dir / 'runs'}",
                           "name a folder, or --data-dir")
        for path in (folder, folder / "journal", folder / "state" / "journal"):
            if (path / "data.mdb").is_file():
                break
        else:
            try:
                with journal_of(folder.resolve()) as (journal, _, _):
                    yield journal
                return
            except NoSuchRun as error:
                raise _Refused(str(error), "") from error
    else:
        name = getattr(options, "instance", None) or os.environ.get("TRADER_RUN__INSTANCE") or "default"
        if not _NAME.fullmatch(name) or not name.strip("."):
            raise _Refused(f"--instance: {name!r} is no name", "use letters, digits, _ . and -, at most 48")
        path = data_dir / "instances" / name / "journal"
        if not (path / "data.mdb").is_file():
            there = sorted(one.parent.parent.name for one in data_dir.glob("instances/*/journal/data.mdb"))
            raise _Refused(f"instance {name!r} has no account in {data_dir}",
                           f"there are: {', '.join(there)}; name one with --instance" if there else "name its data folder with --data-dir")
    try:
        journal = Journal(path)
    except NoJournal as error:
        raise _Refused(str(error), "") from error
    try:
        yield journal
    finally:
        journal.close()


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────
def _list(journal: Any, options: argparse.Namespace) -> dict[str, Any]:
    from control.record.portrait import Portrait

    portrait = Portrait(journal)
    return {"data": portrait.facts(), "rows": [portrait.day(figures) for figures in portrait.past.figures()]}


def _show(journal: Any, options: argparse.Namespace) -> dict[str, Any]:
    from control.record.audit import Audit
    from control.record.portrait import Portrait

    portrait = Portrait(journal)
    day = _day(portrait.past, options.date)
    _tell_compiling()
    figures = portrait.past.figures(day.last)[-1]
    data = portrait.day(figures) | portrait.held(day.last, figures.close) | {"trades_of_day": portrait.trades(day.first, day.last, options.limit)}
    return {"data": data, "rows": Audit(portrait.past).rows(day.first, day.last, options.limit)}


def _restore(journal: Any, options: argparse.Namespace) -> dict[str, Any]:
    from control.record.portrait import Portrait

    portrait = Portrait(journal)
    number = _number(portrait.past, options.moment)
    _tell_compiling()
    data = portrait.restored(number)
    return {"data": data, "rows": data.pop("differs")}


def _tell_compiling() -> None:
    from control.record.rebuilt import compiled

    if not compiled():
        print("trader-ctl: compiling kernels; a minute or more, once after an update", file=sys.stderr)


def _day(past: Any, text: str) -> Any:
    days = past.timeline.days()
    for day in days:
        if day.date.isoformat() == text:
            return day
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        date.fromisoformat(text)
    except ValueError:
        raise _Refused(f"DATE: {text!r} is no date", "write it as 2025-05-04") from None
    raise _Refused(f"DATE: nothing was recorded on {text}", _days(days))


def _days(days: list[Any]) -> str:
    names = [day.date.isoformat() for day in days]
    if not names:
        return "nothing was recorded yet"
    if len(names) > _NAMED:
        return f"there are {len(names)} days from {names[0]} to {names[-1]}; see trader-ctl session list"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def _number(past: Any, text: str) -> int:
    """The event sequence that is meant."""
    if not text.isascii() or not text.isdigit():
        if not _DATE.fullmatch(text):
            raise _Refused(f"DATE|SEQ: {text!r} is neither a date (YYYY-MM-DD) nor an event number",
                           "trader-ctl session list has the days, session show the numbers")
        return int(_day(past, text).last)
    number, last = int(text[:20]), past.timeline.last
    if not 1 <= number <= last:
        raise _Refused(f"SEQ: there is no event {text}", f"they go from 1 to {last}" if last else "nothing was recorded yet")
    return number


def _fail(options: argparse.Namespace, text: str, remedy: str, code: int) -> int:
    if options.json:
        print(json.dumps({"type": "refused", "code": "usage" if code == EXIT_USAGE else "refused", "text": text, "remedy": remedy}))
    else:
        print(f"trader-ctl: {text}" + (f"; {remedy}" if remedy else ""), file=sys.stderr)
    return code
