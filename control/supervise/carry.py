"""Positions that the last run left open, in symbols or strategies that this run does not name: they are taken along, so that none is forgotten.

Such a symbol gets its prices and such a strategy its row, so that stop, target and time exits go on. Neither opens anything new: the strategy has no
process that plans for it, and the symbol is closed to entries.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from control.supervise.instance import EXIT_FAILED, LaunchError
from control.supervise.session import Plan
from hotpath.venues import catalogue
from ipc import layout as l


def take_along(plan: Plan, state_dir: Path) -> Plan:
    """The plan with every symbol and strategy that still holds a position. Raises LaunchError where one cannot be taken."""
    held = _open_positions(state_dir) if plan.mode == "paper" else []
    named = [row["symbol"].decode() for row in plan.rows]
    symbols = tuple(dict.fromkeys(symbol for symbol, _ in held if symbol not in named))
    strategies = tuple(dict.fromkeys(strategy for _, strategy in held if strategy not in plan.strategy_names))
    if len(plan.strategy_names) + len(strategies) > l.MAX_STRATEGIES:
        raise LaunchError(f"positions of {', '.join(strategies)} are still open, and {l.MAX_STRATEGIES} strategies are the most; "
                          "name fewer with --strategy until they are closed, or archive the account with --fresh")
    if not symbols:
        return dataclasses.replace(plan, carried_strategies=strategies)
    try:
        rows = catalogue.resolve((*named, *symbols), plan.config.instruments, plan.config.paper, plan.market)
    except catalogue.CatalogueError as error:
        raise LaunchError(f"positions in {', '.join(symbols)} are still open: {error}") from error
    return dataclasses.replace(plan, rows=rows, carried_symbols=symbols, carried_strategies=strategies)


def _open_positions(state_dir: Path) -> list[tuple[str, str]]:
    """(symbol, strategy) of what the journal's last snapshot holds."""
    if not (state_dir / "journal" / "data.mdb").is_file():
        return []
    from control.record.journal import Journal
    from control.record.records import JournalError

    try:
        journal = Journal(state_dir / "journal")
        try:
            snapshot = journal.last_snapshot()
        finally:
            journal.close()
    except JournalError as error:
        raise LaunchError(f"{error}; restore it from a backup, or begin anew with --fresh", EXIT_FAILED) from error
    return [(position.symbol, position.strategy) for position in snapshot.positions if position.lots] if snapshot else []
