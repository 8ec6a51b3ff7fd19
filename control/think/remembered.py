"""What of each strategy is armed as a life of the strategist begins: by the journal what the hot loop has taken over, by the sniper's table what it
is about to. A plan that is journaled alone may have been refused, or never have been told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from control.think.planning import Planner, Standing
from ipc.messages import Plan


def standing(rows: Sequence[Mapping[str, Any]], conditions: Any, plan_of: Callable[[int], Plan | None]) -> dict[str, Mapping[str, Any]]:
    """By strategy the plan that is armed, as the recorder's answer to `in_force` has them. Between two changes of the table the loop takes over the
    first one, so no other plan than the newest there can be armed and not be told yet."""
    found = {row["strategy"]: row for row in rows}
    number = int(conditions.generations[int(conditions.table[0]["generation"]) & 1]["plan_seq"])
    if number and number not in (row.get("plan_seq") for row in rows) and (newest := plan_of(number)) is not None:
        row = found.get(newest.strategy, {})
        if newest.due_ns > row.get("time_ns", 0):
            found[newest.strategy] = {**row, "time_ns": newest.due_ns, "knowledge_version": newest.knowledge_version, "changed": []}
    return found


def take_up(planner: Planner, row: Mapping[str, Any], spec: str, log: logging.Logger) -> None:
    """Go on with that plan, or plan at once where it would be another one by now."""
    changed = _other_plan(row.get("changed", []), spec)
    if changed:
        log.info("%s plans at once: %s changed since its last plan", planner.name, ", ".join(changed))
    planner.armed = Standing(row.get("time_ns", 0), row.get("knowledge_version", 0))
    planner.planned_ns = planner.given_ns = 0 if changed else planner.armed.given_ns


def _other_plan(changed: list[str], spec: str) -> list[str]:
    """Of what has changed in the configuration, that by which a strategy may plan something else: symbols and their facts, settings, its own file."""
    facts = ("run.symbols", "paper.spot_taker_fee_bps", "paper.perpetual_taker_fee_bps", f"the file {Path(spec.rpartition(':')[0]).name}")
    return [key for key in changed if key in facts or key.startswith(("strategy.", "analysis.", "instruments.", "llm."))]
