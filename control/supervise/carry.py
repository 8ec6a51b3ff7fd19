"""Positions that the last run left open, in symbols or strategies that this run does not name: they are taken along, so that none is forgotten.

Such a symbol gets its prices and such a strategy its row, so that stop, target and time exits go on. Neither opens anything new: the strategy has no
process that plans for it, and the symbol is closed to entries.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from control.supervise.instance import LaunchError, journal_of
from control.supervise.session import Plan
from hotpath.venues import catalogue
from ipc import layout as l


def take_along(plan: Plan, state_dir: Path) -> Plan:
    """The plan with every symbol and strategy that still holds a position. Raises LaunchError where one cannot be taken."""
    held = _held(state_dir) if plan.mode == "paper" else {}
    named = [row["symbol"].decode() for row in plan.rows]
    symbols = tuple(dict.fromkeys(symbol for symbol, _ in held if symbol not in named))
    strategies = tuple(dict.fromkeys(strategy for _, strategy in held if strategy not in plan.strategy_names))
    if len(plan.strategy_names) + len(strategies) > l.MAX_STRATEGIES:
        raise LaunchError(f"positions of {', '.join(strategies)} are still open, and {l.MAX_STRATEGIES} strategies are the most; "
                          "name fewer with --strategy until they are closed, or archive the account with --fresh")
    try:
        rows = catalogue.resolve((*named, *symbols), plan.config.instruments, plan.config.paper, plan.market)
    except catalogue.CatalogueError as error:
        raise LaunchError(f"positions in {', '.join(symbols)} are still open: {error}") from error
    for row in rows:
        for (symbol, _), fact in held.items():
            if symbol == row["symbol"].decode():
                _same_units(symbol, row, fact)
    return dataclasses.replace(plan, rows=rows, carried_symbols=symbols, carried_strategies=strategies)


def _same_units(symbol: str, row: Any, fact: Any) -> None:
    """Sizes and prices of an open position are in lots and ticks: neither may have changed under it."""
    for name in ("tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "value_quanta"):
        if int(row[name]) != getattr(fact, name):
            raise LaunchError(f"{symbol}: a position is open, and its {name} has changed from {getattr(fact, name)} to {int(row[name])}; "
                              "undo the change in [instruments] until it is closed, or archive the account with --fresh")


def _held(state_dir: Path) -> dict[tuple[str, str], Any]:
    """What the journal says may be open; see control/record/restore.py."""
    from control.record.restore import held

    with journal_of(state_dir) as journal:
        return {} if journal is None else held(journal)
