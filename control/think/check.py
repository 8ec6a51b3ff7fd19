"""Is what a strategy gave usable? All of it, or none: a bad answer arms nothing. What is usable is compiled into rows, since that is the check."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from control.think.strategy import Facts, StrategyError
from hotpath import arming
from ipc.messages import MAX_PLAN_CONDITIONS, Condition

#: repr of what a strategy gave, in an error's text
_SHOWN = 80


class Checked(NamedTuple):
    """A plan in words, and as the rows (layout.CONDITION) that the sniper arms."""

    conditions: list[Condition]
    rows: bytes


class Checker:
    """Looks through what strategies give: `known` are the instruments as the sniper has them, `most` the conditions that it has room for.

    `while_working` is called with every thousand conditions, for a caller that has a heart to beat.
    """

    def __init__(self, facts: Mapping[str, Facts], known: Mapping[str, arming.Facts], most: int, while_working: Callable[[], None]) -> None:
        self._facts, self._known, self._most, self._while_working = facts, known, most, while_working

    def checked(self, output: Any, due_ns: int, changed: Callable[[list[Condition]], list[Condition]] = lambda conditions: conditions) -> Checked:
        """The conditions, each converted anew, `changed` as a whole, and compiled. Raises StrategyError with the first fault's path and remedy."""
        if not isinstance(output, list | tuple):
            raise StrategyError(f"plan gave {_shown(output)}, not a list", "return a list of Condition, empty to arm nothing")
        if len(output) > self._most:
            raise StrategyError(f"plan gave {len(output)} conditions", f"return at most {self._most}, or raise hotpath.condition_capacity")
        conditions = []
        for index, entry in enumerate(islice(output, self._most)):
            conditions.append(_condition(entry, f"conditions[{index}]", self._facts))
            if index % MAX_PLAN_CONDITIONS == 0:
                self._while_working()
        conditions = changed(conditions)
        try:
            return Checked(conditions, arming.compiled(conditions, due_ns, self._known, self._while_working))
        except arming.NotArmed as error:
            text, _, remedy = str(error).partition("; ")
            raise StrategyError(text, remedy or "see Condition in ipc/messages.py for what each field takes") from None


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
    if condition.side == "sell" and not facts[condition.symbol].short_allowed:
        raise StrategyError(f"{at}.side: {condition.symbol} is spot and cannot be sold short", "ask for sell entries in perpetuals only")
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

