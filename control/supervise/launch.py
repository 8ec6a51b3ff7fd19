"""`trader-launch MODE`: reads flags and configuration, holds the instance's name, runs a session, prints the summary.

Exit codes: 0 done (an ordered stop by Ctrl-C too); 1 unexpected failure, or a recording that could not be read to its end; 2 wrong flags,
symbols or files; 3 the instance is running already, or its former processes still live; 4 no room (shared memory, disk, folders); 5 a process
failed for good; 6 the books do not reconcile; 78 a configuration fault; 130 a second Ctrl-C killed everything.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from control import config as configuration
from control.config import Config
from control.faults import ConfigError
from control.supervise import instance, nursery, sweep
from control.supervise.carry import take_along
from control.supervise.instance import (
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_KILLED,
    EXIT_NO_ROOM,
    EXIT_NOT_RECONCILED,
    EXIT_OK,
    EXIT_ROLE_FAILED,
    EXIT_USAGE,
    LaunchError,
)
from control.supervise.permission import permit
from control.supervise.session import STOP_SIGNALS, Plan, Session, hold_signals, open_log
from control.supervise.sources import parse_sources, symbols_of
from control.think.strategy import StrategyError, look_over, name_of
from hotpath.venues import catalogue
from ipc.process import Source
from ipc.segment import shared_root

MODES = ("paper", "replay")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_EXAMPLES = """Examples:

trader-launch paper --strategy momentum --symbols BTC/USDT,ETH/USDT --for 60s

trader-launch paper --instance night --speed 30 --headless

trader-launch paper --instance again --seed 7 --begin 2026-01-05T12:00

trader-launch replay spot_btcusdt_20240808.gz spot_btcusdt_20240809.gz --speed max

trader-launch replay quotes.csv=BTC/USDT --lockstep --seed 7
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


def parse_duration_s(text: str) -> float:
    """60s, 5m, 1h, 1.5h, 250ms or plain seconds. Raises LaunchError."""
    found = _DURATION.fullmatch(text.strip())
    if not found or float(found[1]) <= 0:
        raise LaunchError(f"--for {text!r} is no duration; write 60s, 5m or 1h")
    return float(found[1]) * _UNIT_S[found[2]]


@app.command(epilog=_EXAMPLES)
def launch(
    mode: Annotated[str, typer.Argument(help="paper or replay")],
    paths: Annotated[list[str] | None, typer.Argument(help="replay: recorded files, each PATH or PATH=SYMBOL")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML, JSON or YAML file; trader-ctl config template prints one")] = None,
    instance_name: Annotated[str | None, typer.Option("--instance", help="name of this instance; one of a name runs at a time")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="folder of instances/ and runs/")] = None,
    symbols: Annotated[str | None, typer.Option("--symbols", help="unified symbols, separated by commas")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="momentum, mean_reversion, analyst, llm or FILE.py:Class; several by commas"
                                                 )] = None,
    speed: Annotated[str | None, typer.Option("--speed", help="event seconds a wall second, or max")] = None,
    lockstep: Annotated[bool | None, typer.Option("--lockstep", help="processes take turns: exactly repeatable")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="end after this time: 60s, 5m, 1h")] = None,
    seed: Annotated[str | None, typer.Option("--seed", help="of the simulated market and of everything random")] = None,
    begin: Annotated[str | None, typer.Option("--begin", help="paper: UTC minute at which a new instance's market begins, such as 2026-01-05T12:00"
                                              )] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="paper: archive the instance's state and begin anew")] = False,
    knowledge: Annotated[Path | None, typer.Option("--knowledge", help="replay: begin with the knowledge of this instance or run")] = None,
    flatten_at_end: Annotated[bool | None, typer.Option("--flatten-at-end", help="close all positions when the run ends")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="log lines instead of the screen")] = False,
) -> None:
    """Run the whole loop: paper trading on the simulated market, or a replay of recorded market data."""
    flags: dict[str, Any] = {
        "run.instance": instance_name, "run.data_dir": data_dir, "run.symbols": symbols, "run.strategies": strategy, "run.speed": speed,
        "run.lockstep": lockstep, "run.seed": seed, "run.begin": begin, "run.flatten_at_end": flatten_at_end,
    }
    try:
        plan = make_plan(mode, paths or [], configuration.load(config, flags), for_, speed_given=speed is not None)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # up to here it ends the process at once
        code = run(plan, fresh=fresh, knowledge=knowledge, headless=headless or not sys.stdout.isatty())
    except KeyboardInterrupt:
        code = EXIT_KILLED
    except ConfigError as error:
        code = _fail(str(error), configuration.EXIT_CONFIG)
    except LaunchError as error:
        code = _fail(str(error), error.exit_code)
    raise typer.Exit(code)


def _fail(text: str, code: int) -> int:
    print("\n".join(f"trader-launch: {line}" for line in text.splitlines()), file=sys.stderr)
    return code


def make_plan(mode: str, paths: list[str], config: Config, for_: str | None = None, speed_given: bool = False) -> Plan:
    """Everything that can be decided, and refused, before a process or a file exists. Raises LaunchError."""
    if mode not in MODES:
        raise LaunchError(f"MODE is {mode!r}; use one of {', '.join(MODES)}")
    if mode == "paper" and paths:
        raise LaunchError(f"paper takes no files ({paths[0]}); did you mean trader-launch replay {paths[0]}?")
    sources = parse_sources(paths) if mode == "replay" else ()
    market = "replay" if mode == "replay" else "simulated"
    symbols, sources = _choose_symbols(config.run.symbols, sources, market)
    try:
        rows = catalogue.resolve(symbols, config.instruments, config.paper, market)
        names = tuple(name_of(spec) for spec in config.run.strategies)
    except catalogue.CatalogueError as error:
        raise LaunchError(str(error)) from error
    except StrategyError as error:
        raise LaunchError(f"{error}; {error.remedy}" if error.remedy not in str(error) else str(error)) from error
    strategies = tuple(_absolute(spec) for spec in config.run.strategies)
    # a recording is best read as fast as it goes; the simulated market keeps to the clock unless told otherwise
    speed = 0.0 if mode == "replay" and not speed_given and config.run.speed == 1.0 else config.run.event_speed
    return Plan(config=config, mode=mode, market=market, rows=rows, strategies=strategies, strategy_names=names, sources=sources,
                for_s=None if for_ is None else parse_duration_s(for_), flatten_at_end=config.run.flatten_at_end,
                lockstep=config.run.lockstep, speed=speed, seed=config.run.seed)


def _choose_symbols(wanted: tuple[str, ...], sources: tuple[Source, ...], market: str) -> tuple[tuple[str, ...], tuple[Source, ...]]:
    if market == "simulated":
        return wanted or catalogue.default_symbols(market), sources
    held = symbols_of(sources)
    if missing := [symbol for symbol in wanted if symbol not in held]:
        raise LaunchError(f"--symbols: {', '.join(missing)} is in none of the files; they hold {', '.join(held)}")
    return wanted or held, tuple(source for source in sources if not wanted or source.symbol in wanted)


def _absolute(spec: str) -> str:
    """A strategy file by its whole path: children may run in another folder. Raises LaunchError where it is missing."""
    path, separator, name = spec.rpartition(":")
    if not separator:
        return spec
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise LaunchError(f"--strategy {spec}: there is no file {file}; give its path from the current folder")
    try:
        look_over(file, name)
    except StrategyError as error:
        raise LaunchError(f"--strategy {spec}: {error}") from error
    return f"{file}:{name}"


def run(plan: Plan, *, fresh: bool, knowledge: Path | None, headless: bool) -> int:
    """Hold the name, clear what a former run left, run the session, summarise; gives the exit code. Raises LaunchError."""
    name = plan.config.run.instance
    with ExitStack() as stack:
        try:
            stack.enter_context(sweep.LockedName(name))
        except BlockingIOError:
            raise LaunchError(f"instance {name!r} is running already (pid {_holder(name)}); stop it with "
                              f"trader-ctl --instance {name} stop, or choose another --instance", EXIT_BUSY) from None
        except OSError as error:
            raise LaunchError(f"{error.filename or shared_root()}: {error.strerror}; free space there, or set TRADER_SHM to a folder of this "
                              "user's own", EXIT_NO_ROOM) from error
        data_dir = Path(plan.config.run.data_dir).expanduser().resolve()
        try:
            places = prepare(plan, data_dir, fresh, knowledge)
            open_log(places.run_dir, headless)
        except OSError as error:
            raise instance.no_room(error, data_dir) from error
        hold_signals(STOP_SIGNALS)  # an end between the segments' making and the session's run would leave them
        try:
            plan = take_along(plan, places.state_dir)
            permit(plan)
            identity = instance.identify(places, plan.mode, plan.seed)
            if identity.event_ns and plan.config.run.begin_ns:
                print(f"run.begin is for a new instance: {name!r} goes on where it stopped; --fresh archives it and begins anew", file=sys.stderr)
            session = Session(plan, places, identity, say=lambda text: print(text, file=sys.stderr))
        except BaseException:
            instance.remove_all(places)
            raise
        return _conduct(session, headless)


def prepare(plan: Plan, data_dir: Path, fresh: bool, knowledge: Path | None) -> instance.Places:
    """Folders of the run, with nothing of a former one in the way; the caller holds the name."""
    name = plan.config.run.instance
    instance.require_room(data_dir)
    if instance.clear_leftovers(name):  # first: while its processes live, they write the state
        print(f"cleared what a former run of {name!r} left", file=sys.stderr)
    if fresh and plan.mode == "paper" and (archived := instance.archive(data_dir, name)):
        print(f"the state of {name!r} is archived in {archived}", file=sys.stderr)
    places = instance.make_places(data_dir, name, plan.mode)
    if knowledge is not None:
        if plan.mode != "replay":
            raise LaunchError("--knowledge is for a replay; a paper instance keeps its own")
        instance.copy_knowledge(knowledge.expanduser(), places.state_dir)
    return places


def _holder(name: str) -> str:
    try:
        return (shared_root() / f"trader-{name}.lock").read_text() or "unknown"
    except OSError:
        return "unknown"


def _conduct(session: Session, headless: bool) -> int:
    """Run with screen and control socket around; whatever happens, nothing stays behind."""
    from control.supervise.front import Front

    front = Front(session, headless)
    summary: dict[str, Any] = {}
    failed = False
    try:
        try:
            front.open()
            session.run()
        except Exception:
            failed = True
            session.log.exception("the watchdog failed; every child is ended")
            traceback.print_exc()
        finally:
            front.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not session.killed:
            summary = front.summarise()
    except KeyboardInterrupt:  # the session takes it only while it runs
        session.killed = True
        session.say("Ctrl-C: no summary is written. No process runs.")
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing is left to stop, and removing what is left is not to be cut short
        session.close()
    if failed:
        return EXIT_FAILED
    if session.killed:
        return EXIT_KILLED
    if session.watchdog.failure:
        return _fail(f"{session.watchdog.failure} (in {session.places.run_dir})", EXIT_ROLE_FAILED)
    if front.unwritten:
        return _fail(front.unwritten, EXIT_NO_ROOM)
    if summary.get("reconciled") is False:
        return EXIT_NOT_RECONCILED
    return _fail("\n".join(summary["data_unread"]), EXIT_FAILED) if summary.get("data_unread") else EXIT_OK


def main() -> None:
    """Entry of `trader-launch`."""
    nursery.forget_main()
    hold_signals()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app()


__all__ = ["EXIT_USAGE", "app", "launch", "main", "make_plan", "parse_duration_s", "prepare", "run"]
