"""What of a strategy's plans may still fire, in words: its rows in the sniper's table tell which, the journal what they say.

Nothing of it is remembered, so that a process that was replaced knows what its predecessor knew: a condition's id is the number of its plan and the
place in it (layout.PLAN_SHIFT), and a plan is in the journal before it is armed. Read between two steps of the sniper as it is; in lockstep it waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from control.record.journal import Journal
from control.record.records import JournalError
from hotpath.arming import armed_slots
from ipc import layout as l
from ipc.messages import Condition, Plan
from ipc.segment import Memory

_log = logging.getLogger("strategist")


class Words:
    """Plans by their number, of a journal that somebody else writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal: Journal | None = None

    def plan(self, number: int) -> Plan | None:
        """None for one that cannot be read, which is told."""
        try:
            self._journal = self._journal or Journal(self._folder)
            return self._journal.plan(number)
        except JournalError as error:
            _log.warning("plan %d is armed and cannot be read: %s", number, error)
            return None

    def close(self) -> None:
        """Close what was opened."""
        if self._journal is not None:
            self._journal.close()


class Armed:
    """`plan_of` gives a plan, or the part of one, by its number; None where it is not there."""

    def __init__(self, memory: Memory, plan_of: Callable[[int], Plan | None]) -> None:
        self._memory, self._plan_of = memory, plan_of
        #: the plans of what was armed when it was asked last, by number
        self._plans: dict[int, Plan | None] = {}

    def of(self, strategy: int, now_ns: int) -> list[tuple[int, Condition]]:
        """(event time of its plan, condition as it was armed) of what has neither expired nor fired as often as it may, in the order of the plan."""
        slots, states = armed_slots(self._memory.conditions), self._memory.sniper.condition_states
        rows = self._memory.conditions.rows[slots]
        done = states[slots]
        fired = (done["condition_id"] == rows["condition_id"]) & (done["fired"] >= rows["max_fires"])
        fired |= (rows["group_id"] != 0) & (states["group_done"][rows["group_slot"]] == rows["group_id"])
        ids = sorted(rows["condition_id"][(rows["strategy"] == strategy) & (rows["valid_until_ns"] > now_ns) & ~fired].tolist())
        numbers = {own >> l.PLAN_SHIFT for own in ids}
        self._plans = {number: self._plans[number] if number in self._plans else self._plan_of(number) for number in numbers}
        found = []
        for own in ids:
            plan, place = self._plans[own >> l.PLAN_SHIFT], own & (1 << l.PLAN_SHIFT) - 1
            if plan is not None and place < len(plan.conditions):
                found.append((plan.due_ns, plan.conditions[place]))
        return found
