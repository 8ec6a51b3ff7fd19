"""The configuration of an instance: one TOML file (JSON or YAML by suffix), then TRADER_SECTION__KEY, then flags.

Each section is the frozen Struct of the room that uses it; units are in the names. Whatever is wrong is told at once: `load` raises
ConfigError with every fault, each by its path, with its source and its remedy.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from control.faults import ConfigError, Fault, check_tree, describe, resolve, words_as_values
from control.learn.config import Learning
from control.think.analysis.config import HISTORY_CANDLES, REGIME_CANDLES, Analysis
from control.think.config import Strategy
from control.think.llm.config import Llm
from hotpath.config import Hotpath, Instrument, Limits, Paper, Recovery
from ipc.messages import Name

#: exit code of a program that was given a configuration it cannot use (EX_CONFIG of sysexits.h)
EXIT_CONFIG = 78
#: prefix of overriding environment variables; the first double underscore separates section and key
ENVIRONMENT_PREFIX = "TRADER_"
#: flags that are not named like their field
FLAGS = {"run.strategies": "--strategy"}
#: strategies that look at the timeframes of [analysis]
ANALYSING = frozenset({"analyst", "llm"})

Milliseconds = Annotated[int, Meta(ge=1, le=600_000)]


class Run(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is run, and where its state is kept."""

    instance: Annotated[Name, Meta(description="name of this instance; one of a name runs at a time")] = "default"
    data_dir: Annotated[str, Meta(min_length=1, description="folder of instances/ (paper state) and runs/ (results); "
                                                            "a relative one belongs to the current folder")] = "data"
    symbols: Annotated[tuple[str, ...], Meta(max_length=1024, description="unified symbols; empty: all of the market's defaults")] = ()
    strategies: Annotated[tuple[str, ...], Meta(min_length=1, max_length=4, description="momentum, mean_reversion, analyst, llm or "
                                                                          "FILE.py:Class")] = ("momentum", "mean_reversion")
    speed: Annotated[float, Meta(gt=0, le=1e6, description='event seconds a wall second; "max": as fast as the slowest reader')] | Literal[
        "max"] = 1.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="of the simulated market and of everything random")] = 1
    begin: Annotated[str, Meta(description="minute at which the simulated market of a new paper instance begins, such as 2026-01-05T12:00 (UTC): "
                                           "with the same seed it has the same prices from there on; now: the clock's")] = "now"
    lockstep: Annotated[bool, Meta(description="the processes take turns, so that a replay is exactly repeatable")] = False
    flatten_at_end: Annotated[bool, Meta(description="close all positions when the run ends")] = False

    @property
    def event_speed(self) -> float:
        """Speed as Boot has it: 0 is as fast as the slowest reader."""
        return 0.0 if self.speed == "max" else float(self.speed)

    @property
    def begin_ns(self) -> int:
        """Event time of `begin`, 0 for now, and for what is no time."""
        from hotpath.venues.tables import nanoseconds

        return 0 if self.begin == "now" else nanoseconds(self.begin)


class Supervise(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a process is dead, and how often it may come back."""

    hang_recorder_ms: Annotated[Milliseconds, Meta(description="a recorder without a heartbeat for so long hangs and is replaced")] = 5_000
    hang_gateway_ms: Annotated[Milliseconds, Meta(description="the same of the gateway")] = 5_000
    hang_sniper_ms: Annotated[Milliseconds, Meta(description="the same of the sniper")] = 250
    hang_feed_ms: Annotated[Milliseconds, Meta(description="the same of the feed")] = 5_000
    hang_reflection_ms: Annotated[Milliseconds, Meta(description="the same of the reflection")] = 5_000
    hang_strategist_ms: Annotated[Milliseconds, Meta(description="the same of the strategist")] = 5_000
    ready_timeout_s: Annotated[int, Meta(ge=1, le=3600, description="a process that is not ready after so long is replaced")] = 60
    stop_grace_s: Annotated[int, Meta(ge=1, le=600, description="what a process gets to drain and persist before it is killed")] = 10
    restart_intensity: Annotated[int, Meta(ge=0, le=1000, description="restarts of one process within the window before safe mode")] = 5
    restart_window_s: Annotated[int, Meta(ge=1, le=86_400, description="the window of restart_intensity")] = 60
    backoff_first_ms: Annotated[Milliseconds, Meta(description="pause before the fourth restart in a window, doubled with each")] = 100
    backoff_most_ms: Annotated[Milliseconds, Meta(description="longest pause before a restart")] = 5_000

    def hang_ms(self, role: str) -> int:
        """Hang limit of a role by its name."""
        return int(getattr(self, f"hang_{role}_ms"))


class Safety(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Safe mode: no entries, working entries cancelled, positions kept or closed, until its cause is over."""

    positions: Annotated[Literal["protect", "flatten"], Meta(description="open positions in safe mode: kept with their stops, or closed")] = "protect"
    cooldown_s: Annotated[int, Meta(ge=0, le=86_400, description="safe mode stays so long after a cause that ends by itself")] = 60
    max_drawdown_bps: Annotated[int, Meta(ge=1, le=10_000, description="loss from the peak of equity that ends entries until trader-ctl resume, in "
                                                                       "bps; null: none")] | None = 2000
    unprotected_s: Annotated[int, Meta(ge=5, le=3600, description="without a sniper for so long the gateway closes all positions by itself")] = 30
    clock_jump_ms: Annotated[int, Meta(ge=10, le=3_600_000, description="a step of the wall clock that is not ignored")] = 1000


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All sections. `instruments` maps a unified symbol to what the catalogue does not know of it."""

    run: Run = Run()
    limits: Limits = Limits()
    strategy: Strategy = Strategy()
    learning: Learning = Learning()
    analysis: Analysis = Analysis()
    paper: Paper = Paper()
    hotpath: Hotpath = Hotpath()
    supervise: Supervise = Supervise()
    safety: Safety = Safety()
    recovery: Recovery = Recovery()
    llm: Llm = Llm()
    instruments: dict[str, Instrument] = {}

    def sections(self) -> dict[str, msgspec.Raw]:
        """Each section as JSON, for `Boot.sections`."""
        return {name: msgspec.Raw(msgspec.json.encode(getattr(self, name))) for name in self.__struct_fields__}


def load(path: Path | str | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration from a file (or the defaults), overridden by the environment, then by flags {"run.seed": "7"}; None is not given.

    Text from environment and flags is read as the type of its field; lists are separated by commas. Raises ConfigError with all faults.
    """
    tree = {} if path is None else _read(Path(path))
    source = "" if path is None else str(path)
    faults: list[Fault] = []
    origins: dict[str, str] = {}
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            _override(tree, f"{section}.{key}", text, name, origins)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _override(tree, dotted, value, FLAGS.get(dotted, "--" + dotted.rpartition(".")[2].replace("_", "-")), origins)
    faults += check_tree(Config, tree, source, origins)
    if faults:
        raise ConfigError(faults)
    config = msgspec.convert(words_as_values(Config, tree), Config)
    if faults := _cross_faults(config, source, origins):
        raise ConfigError(faults)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault(str(path), error.strerror or str(error), "name a readable file; `trader-ctl config template` prints one")]
                          ) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(path), f"byte {error.start} is not UTF-8", "save the file as UTF-8 text")]) from None
    try:
        match path.suffix.lower():
            case ".toml":
                tree = tomllib.loads(text)
            case ".json":
                tree = json.loads(text)
            case ".yaml" | ".yml":
                import yaml

                tree = yaml.safe_load(text)  # type: ignore[no-untyped-call]
            case suffix:
                raise ConfigError([Fault(str(path), f"suffix {suffix!r} says no format", "name it .toml, .json, .yaml or .yml")])
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and JSONDecodeError are ValueErrors
        raise ConfigError([Fault(str(path), f"not readable: {error}", f"mend it at that place so that it is {path.suffix[1:]}")]) from None
    except Exception as error:  # yaml's own errors; the module is only here when it is needed
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise ConfigError([Fault(str(path), f"not readable: {' '.join(str(error).split())}", "mend it at that place")]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError([Fault(str(path), f"holds {describe(tree)}, not sections", "see `trader-ctl config template`")])
    return tree


def _override(tree: dict[str, Any], dotted: str, value: Any, origin: str, origins: dict[str, str]) -> None:
    section, _, key = dotted.partition(".")
    if section not in tree:
        origins[section] = origin  # of a section that is not known, too
    table = tree.setdefault(section, {})
    if isinstance(table, dict):  # else the file's own fault is told
        table[key] = resolve(Config, dotted, value) if isinstance(value, str) else value
        origins[dotted] = origin


def _cross_faults(config: Config, source: str, origins: Mapping[str, str]) -> list[Fault]:
    """What no single field can say."""
    faults = []

    def fault(path: str, text: str, remedy: str) -> None:
        faults.append(Fault(path, text, remedy, origins.get(path, source)))

    slots = config.hotpath.tick_slots
    if slots & (slots - 1):
        below = 1 << (slots.bit_length() - 1)
        fault("hotpath.tick_slots", f"{slots} is not a power of two", f"use {max(below, 1024)} or {2 * below}")
    for name in ("symbols", "strategies"):
        values = getattr(config.run, name)
        if twice := sorted({value for value in values if values.count(value) > 1}):
            fault(f"run.{name}", f"{', '.join(twice)} is there more than once", "name each once")
    if config.run.begin != "now" and not config.run.begin_ns:
        fault("run.begin", f"{config.run.begin!r} is no time", "write now, 2026-01-05, 2026-01-05T12:00 (UTC) or Unix seconds")
    if config.supervise.backoff_first_ms > config.supervise.backoff_most_ms:
        fault("supervise.backoff_first_ms", "is longer than backoff_most_ms", "make it shorter")
    if ANALYSING & set(config.run.strategies):
        for text, remedy in _useless_timeframes(config):
            fault("analysis.timeframes_min", text, remedy)
    return faults


def _useless_timeframes(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with timeframes that could never be analysed, and its remedy."""
    candle_s, history = config.strategy.candle_s, config.strategy.history_minutes
    broken = [minutes for minutes in config.analysis.timeframes_min if minutes * 60 % candle_s]
    if broken:
        yield (f"{_listed(broken)} minutes are no whole number of candles of {candle_s} s",
               f"shorten strategy.candle_s so that it divides a candle of every timeframe, or leave {_listed(broken)} out")
    young = [minutes for minutes in config.analysis.timeframes_min if minutes * HISTORY_CANDLES > history]
    if young:
        yield (f"{history} minutes of history are too few for the {REGIME_CANDLES} candles of {_listed(young)} minutes that a regime needs",
               f"raise strategy.history_minutes to {max(young) * HISTORY_CANDLES}, or leave {_listed(young)} out")


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
