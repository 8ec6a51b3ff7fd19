"""Which strategy may open positions in which symbol: the configuration's words as a bit of each instrument."""

from __future__ import annotations

from control.supervise.instance import LaunchError
from control.supervise.session import Plan


def permit(plan: Plan) -> None:
    """Set `permitted` in the plan's instrument rows. Raises LaunchError for a symbol or strategy that is not of this run."""
    limits = plan.config.limits
    symbols = [row["symbol"].decode() for row in plan.rows]
    names = (*plan.strategy_names, *plan.carried_strategies)
    for field, given, known in (
            ("limits.restricted_symbols", limits.restricted_symbols, symbols), ("limits.permissions", tuple(limits.permissions), names),
            *((f"limits.permissions.{name}", wanted, symbols) for name, wanted in limits.permissions.items())):
        if unknown := [one for one in given if one not in known]:
            raise LaunchError(f"{field}: {', '.join(unknown)} is not of this run, which has {', '.join(known)}; correct or remove it")
    for row, symbol in zip(plan.rows, symbols, strict=True):
        bits = sum(1 << number for number, name in enumerate(names) if symbol in limits.permissions.get(name, symbols))
        row["permitted"] = 0 if symbol in limits.restricted_symbols else bits
