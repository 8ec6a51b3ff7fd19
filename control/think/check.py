"""Is what a strategy gave usable? All of it, or none: a bad answer arms nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from control.think.strategy import Facts, StrategyError
from hotpath import arming
from ipc.messages import MAX_PLAN_CONDITIONS, Condition, Plan

#: repr of what a strategy gave, in an error's text
_SHOWN = 80
_PLAN = Plan(strategy="checked", due_ns=0, next_due_ns=0)


def checked(output: Any, facts: Mapping[str, Facts]) -> list[Condition]:
    """The conditions, each converted anew and checked by its fields. Raises StrategyError that names the first fault's path and remedy."""
    if not isinstance(output, list | tuple):
        raise StrategyError(f"plan gave {_shown(output)}, not a list", "return a list of Condition, empty to arm nothing")
    if len(output) > MAX_PLAN_CONDITIONS:
        raise StrategyError(f"plan gave {len(output)} conditions", f"return at most {MAX_PLAN_CONDITIONS}")
    return [_condition(entry, f"conditions[{index}]", facts) for index, entry in enumerate(output)]


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's own __repr__
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _condition(entry: Any, at: str, facts: Mapping[str, Facts]) -> Condition:
    if not isinstance(entry, Condition):
        raise StrategyError(f"{at} is {_shown(entry)}, not a Condition", "make it with control.think.strategy.Condition(...)")
    try:
        plain = msgspec.to_builtins(entry, enc_hook=_plain)
        if isinstance(plain["confidence"], float) and not math.isfinite(plain["confidence"]):
            raise StrategyError(f"{at}.confidence is {plain['confidence']}", "give a number from 0 to 1")
        # Struct constructors check nothing; converting does
        condition = msgspec.convert(plain, Condition)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise StrategyError(f"{at}{_path(str(error))}", "see Condition in ipc/messages.py for what each field takes") from None
    if condition.symbol not in facts:
        raise StrategyError(f"{at}.symbol: {condition.symbol!r} is not traded here", f"use one of {', '.join(sorted(facts))}")
    _values(condition, at, facts[condition.symbol])
    return condition


def _plain(value: Any) -> Any:
    """A number that was computed from candles, as Python's own. Raises TypeError for anything else."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    raise TypeError(f": {_shown(value)} is no plain value")


def _path(text: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.size.value`" as ".size.value: Expected `int`, got `str`"."""
    what, _, where = text.partition(" - at `$")
    return f"{where.rstrip('`')}: {what}"


def _values(condition: Condition, at: str, facts: Facts) -> None:
    """What the sniper would refuse to arm, told by it."""
    if condition.side == "sell" and not facts.short_allowed:
        raise StrategyError(f"{at}.side: {facts.symbol} is spot and cannot be sold short", "ask for sell entries in perpetuals only")
    known = {facts.symbol: arming.Facts(0, facts.symbol, facts.tick_size, facts.lot_size, 1 << 53, -8)}
    try:
        arming.row_of(condition, at, _PLAN, 0, 0, known)
    except arming.NotArmed as error:
        text, _, remedy = str(error).partition("; ")
        raise StrategyError(text, remedy or "see Condition in ipc/messages.py for what each field takes") from None
