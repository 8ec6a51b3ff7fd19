"""`trader-ctl`: asks a running instance over its control socket, tests strategies on recorded data, compares runs. Tables for people, one line of
JSON for scripts.

Exit codes, stable: 0 done (parity: no difference); 1 parity found differences; 2 wrong usage; 3 no such instance is running; 4 refused (a faulty
configuration too); 5 timed out, or the process that knows is not there; 6 the books of a backtest do not reconcile; 7 data of a backtest could not be
read to their end. Only what a command needs is imported: starting takes longer than asking.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from control.serve.exits import EXIT_DONE, EXIT_NOT_RUNNING, EXIT_REFUSED, EXIT_TIMED_OUT, EXIT_USAGE
from control.serve.sessions import flags as session_flags
from control.serve.sessions import sessions

#: seconds for an answer; the instance itself answers `unavailable` after 1 s
PATIENCE_S = 3.0
#: seconds that an ordered stop may take before `stop` gives up waiting for it
STOP_PATIENCE_S = 30.0
#: seconds that a socket may be gone while its instance binds it anew
REBIND_S = 0.25
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}")

_COMMANDS = {
    "status": "the instance and its processes", "health": "what is well and what is not", "positions": "open positions",
    "conditions": "armed conditions, nearest first, with their text why", "orders": "newest orders first", "trades": "newest trades first",
    "stats": "counters, refusals, latencies, equity", "errors": "what failed, what was decided about it, and what works again; newest first",
    "knowledge": "what is known of each kind of trades, or figures by one dimension",
    "adaptations": "what was learned and changes plans, with its evidence; newest first",
    "why": "explain an adaptation, a position, or a kind of trades", "reflect": "look at what trades say now, and decide",
    "replan": "let the strategies that choose their own time (analyst, llm) plan now",
    "pause": "no new entries until resume; exits go on",
    "resume": "entries again; ends what a person ends of safe mode",
    "safe": "safe mode until resume: no entries, working entries cancelled, positions as configured",
    "close": "close one position", "adjust": "move stop or target of a position",
    "release": "let a strategy make entries again that repeated itself too often", "flatten": "pause, cancel working entries, close all positions",
    "stop": "stop the instance in order and wait until it has gone", "config": "print or check a configuration file",
    "backtest": "strategies over recorded data in this one process, with the paper venue's fills; writes a run folder with a report",
    "parity": "compare two runs decision by decision: backtest, replay or paper",
    "session": "an account as it was at any day or event, from its journal: list, show, restore",
}
#: how the help of each command ends: commands to copy
_EXAMPLES = {
    "status": ("trader-ctl status", "trader-ctl status --json | jq .data.equity"), "health": ("trader-ctl health --json | jq .data.healthy",),
    "positions": ("trader-ctl positions", "trader-ctl --instance night positions"), "conditions": ("trader-ctl conditions --limit 5",),
    "orders": ("trader-ctl orders --limit 10",), "trades": ("trader-ctl trades --json | jq '.rows[].pnl'",), "stats": ("trader-ctl stats",),
    "errors": ("trader-ctl errors", "trader-ctl errors --hours 1 --json | jq '.rows[].text'"),
    "knowledge": ("trader-ctl knowledge", "trader-ctl knowledge exit", "trader-ctl knowledge version --json | jq '.rows[].profit_factor'"),
    "adaptations": ("trader-ctl adaptations", "trader-ctl adaptations active"),
    "why": ("trader-ctl why 3", "trader-ctl why BTC/USDT", "trader-ctl why hour 14"), "reflect": ("trader-ctl reflect",),
    "replan": ("trader-ctl replan",),
    "pause": ("trader-ctl pause",), "resume": ("trader-ctl resume",), "safe": ("trader-ctl safe",),
    "close": ("trader-ctl close BTC/USDT", "trader-ctl close 4097"),
    "adjust": ("trader-ctl adjust BTC/USDT --stop 60500", "trader-ctl adjust 4097 --target 62000"),
    "release": ("trader-ctl release momentum",),
    "flatten": ("trader-ctl flatten",), "stop": ("trader-ctl stop", "trader-ctl flatten && trader-ctl stop"),
    "config": ("trader-ctl config template > trader.toml", "trader-ctl config check trader.toml"),
    "backtest": ("trader-ctl backtest --data spot_btcusdt_20240808.gz --strategy momentum",
                 "trader-ctl backtest --data candles.feather=BTC/USDT:USDT --from 2025-05-04 --to 2025-05-11 --out week",
                 "trader-ctl backtest --data ticks.parquet=ETH/USDT --strategy mine.py:Mine --json | jq .data.realised_pnl"),
    "session": ("trader-ctl session list", "trader-ctl session show 2025-05-04 --limit 20", "trader-ctl session restore 4711 --dry-run",
                "trader-ctl session list --run week --json | jq '.rows[].pnl'"),
    "parity": ("trader-ctl parity week data/runs/20250511T080000Z-1a2b", "trader-ctl parity week other --json | jq .data.pnl_difference"),
}
_EXIT_CODES = ("exit codes: 0 done; 1 parity found differences; 2 wrong usage; 3 no such instance is running; 4 refused; 5 timed out or unavailable; "
               "6 not reconciled; 7 data not read to the end")
_EPILOG = f"""\
{_EXIT_CODES}

examples:
  trader-ctl status
  trader-ctl --instance night --json positions
  trader-ctl trades --limit 10
  trader-ctl close BTC/USDT
  trader-ctl config template > trader.toml && trader-ctl config check trader.toml
"""


def parser() -> argparse.ArgumentParser:
    """The command line; --instance and --json are understood before and after the command."""
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument("--instance", default=argparse.SUPPRESS, metavar="NAME",
                          help="the instance that is asked (TRADER_RUN__INSTANCE, else default)")
    anywhere.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the reply as one line of JSON")
    top = argparse.ArgumentParser(prog="trader-ctl", description="Ask or tell a running instance of trader.", epilog=_EPILOG,
                                  formatter_class=argparse.RawDescriptionHelpFormatter, parents=[anywhere])
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in _COMMANDS.items():
        examples = "".join(f"  {line}\n" for line in _EXAMPLES[name])
        one = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[anywhere],
                                  epilog=f"{_EXIT_CODES}\n\nexamples:\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in ("knowledge", "adaptations"):
            one.add_argument("about", nargs="?", default="", metavar="ABOUT", help="coin, strategy, pattern, regime, hour, side, exit, holding time, "
                             "slippage, distance, variant, version; or one of those" if name == "knowledge" else "a stage, a family or a value")
        if name in ("conditions", "orders", "trades", "errors", "knowledge", "adaptations"):
            one.add_argument("--limit", type=_rows_at_most, default=50, metavar="N", help="rows at most, 1 to 10000 (50)")
        if name == "errors":
            one.add_argument("--hours", type=_hours, default=24.0, metavar="H", help="how far back, by the wall clock, up to 8760 (24)")
        elif name == "why":
            one.add_argument("id", nargs="+", metavar="ID", help="an adaptation's number, a position's id, or a kind of trades: its value (BTC/USDT, "
                             "momentum, Monday), or its family and value (hour 14), as a number alone is an adaptation's where there is one")
        elif name == "close":
            one.add_argument("id", metavar="ID", help="a position's id or its symbol")
        elif name == "backtest":
            _backtest_flags(one)
        elif name == "parity":
            one.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, or its id under the data folder's runs/")
            one.add_argument("--data-dir", type=Path, metavar="DIR", help="where run ids are looked up (TRADER_RUN__DATA_DIR, else data)")
        elif name == "session":
            session_flags(one, anywhere, _rows_at_most)
        elif name == "adjust":
            one.add_argument("id", metavar="ID", help="a position's id or its symbol")
            one.add_argument("--stop", metavar="PRICE", help="the new stop")
            one.add_argument("--target", metavar="PRICE", help="the new target")
        elif name == "release":
            one.add_argument("strategy", metavar="STRATEGY", help="its name")
        elif name == "config":
            what = one.add_subparsers(dest="what", metavar="template|check", required=True)
            what.add_parser("template", help="print a commented file with all defaults", parents=[anywhere])
            check = what.add_parser("check", help="name every fault of a file", parents=[anywhere])
            check.add_argument("file", metavar="FILE", type=Path)
    return top


def _backtest_flags(one: argparse.ArgumentParser) -> None:
    one.add_argument("--data", nargs="+", required=True, metavar="PATH",
                     help="recorded frames, or tables (CSV, Parquet, Feather) of trades, quotes or candles; each PATH or PATH=SYMBOL")
    one.add_argument("--from", dest="since", metavar="TIME", help="leave out what is before: 2025-05-04, 2025-05-04T12:30 (UTC), Unix seconds")
    one.add_argument("--to", dest="until", metavar="TIME", help="leave out what is not before")
    one.add_argument("--strategy", metavar="NAME", help="momentum, mean_reversion, analyst, llm or FILE.py:Class; several by commas")
    one.add_argument("--config", type=Path, metavar="FILE", help="TOML, JSON or YAML; the same as of paper and replay")
    one.add_argument("--out", type=Path, metavar="DIR", help="a new folder for the results (else runs/RUN_ID in the data folder)")


def _rows_at_most(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 10_000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 10000")


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = float("nan")
    if 0 < hours <= 8760:
        return hours
    raise argparse.ArgumentTypeError(f"{text!r} is no number of hours above 0 and up to 8760")


def main(arguments: list[str] | None = None) -> int:
    """Entry of `trader-ctl`."""
    options = parser().parse_args(arguments)
    options.json = getattr(options, "json", False)
    if options.command == "why":
        options.id = " ".join(options.id)
    try:
        code = _act(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `trader-ctl trades | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_DONE
    except KeyboardInterrupt:
        return 130
    return code


def _act(options: argparse.Namespace) -> int:
    match options.command:
        case "config":
            return configure(options)
        case "backtest":
            from control.backtest.command import backtest

            return backtest(options)
        case "parity":
            from control.backtest.compare import compare

            return compare(options)
        case "session":
            return sessions(options)
    return ask(options)


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────
def configure(options: argparse.Namespace) -> int:
    """`config template` and `config check FILE`."""
    if options.what == "template":
        from control.template import template

        print(template(), end="")
        return EXIT_DONE
    from control.config import load
    from control.faults import ConfigError

    try:
        load(options.file)
    except ConfigError as error:
        faults = error.faults
    else:
        faults = []
    if options.json:
        import json

        print(json.dumps({"type": "refused" if faults else "done", "faults": [fault.__dict__ for fault in faults]}))
    elif faults:
        print("\n".join(map(str, faults)), file=sys.stderr)
        print(f"{options.file}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", file=sys.stderr)
    else:
        print(f"{options.file}: all is well")
    return EXIT_REFUSED if faults else EXIT_DONE


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def ask(options: argparse.Namespace) -> int:
    """Send the command, show the reply."""
    from ipc import bus, messages

    instance = getattr(options, "instance", None) or os.environ.get("TRADER_RUN__INSTANCE") or "default"
    if not _NAME.fullmatch(instance):
        return _fail(options, EXIT_USAGE, f"--instance: {instance!r} is no name", "use letters, digits, _ . and -, at most 48")
    folder = bus.socket_dir(instance)
    if not _listens_soon(folder):
        others = running(folder.parent)
        hint = f"running: {', '.join(others)}; name one with --instance" if others else "start it: scripts/run, or trader-launch paper"
        return _fail(options, EXIT_NOT_RUNNING, f"no instance {instance!r} is running", hint)
    kind = getattr(messages, options.command.capitalize())
    try:
        request = messages.decode_control_request(messages.encode(
            kind(**{name: getattr(options, name) for name in kind.__struct_fields__ if hasattr(options, name)})))
    except Exception as error:  # msgspec.ValidationError: a limit out of range, an empty id
        return _fail(options, EXIT_USAGE, str(error), f"see trader-ctl {options.command} --help")
    client = bus.Client(folder, "control")
    try:
        reply = client.ask(request, PATIENCE_S)
    except bus.BusTimeout as error:
        if not listens(folder):
            return _fail(options, EXIT_NOT_RUNNING, f"instance {instance!r} has just ended", "start it again")
        return _fail(options, EXIT_TIMED_OUT, str(error), "the watchdog is stopped or overloaded; try again")
    finally:
        client.close()
    if options.command == "stop" and isinstance(reply, messages.Done) and not _gone(folder):
        return _fail(options, EXIT_TIMED_OUT, f"{instance!r} is still stopping after {STOP_PATIENCE_S:g} s", "see trader-ctl status")
    return show(reply, options)


def listens(folder: Path) -> bool:
    """Somebody accepts connections on the control socket; the file alone may be left of a killed instance."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(folder / "control.sock"))
        except TimeoutError:
            return True  # its queue is full, so it is there
        except OSError:
            return False
    return True


def _listens_soon(folder: Path) -> bool:
    """As `listens`; an instance that cuts its connections binds its socket anew within some milliseconds."""
    end = time.monotonic() + REBIND_S
    while not listens(folder):
        if not folder.is_dir() or time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def running(root: Path) -> list[str]:
    """Names of this user's running instances."""
    with contextlib.suppress(OSError):
        return sorted(folder.name for folder in root.iterdir() if listens(folder))
    return []


def _gone(folder: Path) -> bool:
    end = time.monotonic() + STOP_PATIENCE_S
    while time.monotonic() < end:
        if not folder.exists():  # the last thing that goes, after the children
            return True
        time.sleep(0.05)
    return not folder.exists()


def show(reply: Any, options: argparse.Namespace) -> int:
    """Print a reply; gives the exit code that belongs to it."""
    from ipc import messages

    match reply:
        case messages.Refused():
            code = EXIT_REFUSED
        case messages.Unavailable():
            code = EXIT_TIMED_OUT
        case _:
            code = EXIT_DONE
    if options.json:
        print(messages.encode(reply).decode())
    elif code == EXIT_REFUSED:
        _fail(options, code, reply.text, reply.remedy)
    elif code == EXIT_TIMED_OUT:
        _fail(options, code, f"unavailable: {reply.role}: {reply.text}", "")
    elif isinstance(reply, messages.Done):
        print(reply.text or "done")
    else:
        from control.serve.tables import print_answer

        print_answer(options.command, reply.data, reply.rows)
    return code


def _fail(options: argparse.Namespace, code: int, text: str, remedy: str) -> int:
    if options.json:
        from ipc import messages

        names = {EXIT_USAGE: "usage", EXIT_NOT_RUNNING: "not_running", EXIT_TIMED_OUT: "timed_out"}
        print(messages.encode(messages.Refused(code=names.get(code, "refused"), text=text, remedy=remedy)).decode())
    else:
        print(f"trader-ctl: {text}" + (f"; {remedy}" if remedy else ""), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
