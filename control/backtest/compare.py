"""`trader-ctl parity RUN_A RUN_B`: two runs side by side, for people or as one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from control.record.decisions import NoSuchRun, read_run
from control.record.parity import NotComparable, Parity, compare_runs, report_of, rows_of
from control.serve.exits import EXIT_DIFFERENT, EXIT_DONE, EXIT_REFUSED, EXIT_USAGE


def compare(options: argparse.Namespace) -> int:
    """Print what differs; EXIT_DONE where nothing does, EXIT_DIFFERENT where something does."""
    data_dir = options.data_dir or Path(os.environ.get("TRADER_RUN__DATA_DIR") or "data")
    try:
        found = compare_runs(*(read_run(name, data_dir) for name in options.runs))
    except NoSuchRun as error:
        return _fail(options, str(error), EXIT_USAGE)
    except NotComparable as error:
        return _fail(options, str(error), EXIT_REFUSED)
    if options.json:
        print(json.dumps({"type": "answer", "data": report_of(found), "rows": rows_of(found)}))
    else:
        show(found)
    return EXIT_DONE if found.equal else EXIT_DIFFERENT


def show(parity: Parity) -> None:
    """As text."""
    said = report_of(parity)
    for letter in "ab":
        run = said[f"run_{letter}"]
        print(f"  {letter.upper()}  {run['mode']:9} {run['id']}: {run['decisions']:,} decisions, {run['fills']:,} fills, P&L {said[f'pnl_{letter}']}")
    print(f"  {said['matched']:,} matched, {said['matched_unequal']:,} of them unequal; {said['missing']:,} missing in B, "
          f"{said['extra']:,} extra in B")
    print(f"  apart: time median {said['time_ms']['median']:g} ms, most {said['time_ms']['most']:g} ms; "
          f"price median {said['price_bps']['median']:g} bps, most {said['price_bps']['most']:g} bps")
    causes = ", ".join(f"{cause} {text}" for cause, text in said["pnl_by_cause"].items() if text != "0")
    print(f"  P&L difference {said['pnl_difference']}" + (f" = {causes}" if causes else ""))
    rows = rows_of(parity)
    for row in rows:
        print(f"    {_line(row)}")
    left = len(parity.missing) + len(parity.extra) + len(parity.unequal) - len(rows)
    if left > 0:
        print(f"    … and {left:,} more")
    print("  no difference" if parity.equal else "  the runs differ")


def _line(row: dict[str, Any]) -> str:
    moment = f"{datetime.fromtimestamp(row['event_ns'] / 1e9, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    text = f"{row['what']:8} {moment} {row['symbol']} {row['strategy']} {row['purpose']} {row['side']} {row['size']}"
    if row["reason"]:
        text += f" ({row['reason']})"
    if row["what"] == "unequal":
        bps = "" if row["price_bps"] is None else f", {row['price_bps']:+g} bps"
        text += f": {', '.join(row['differs'])}; {row['time_ms']:+g} ms{bps}"
    return text


def _fail(options: argparse.Namespace, text: str, code: int) -> int:
    if options.json:
        print(json.dumps({"type": "refused", "code": "usage" if code == EXIT_USAGE else "not_comparable", "text": text}))
    else:
        print(f"trader-ctl: {text}", file=sys.stderr)
    return code
