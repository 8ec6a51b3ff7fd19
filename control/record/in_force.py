"""Which plans of each strategy are in force: kept in the journal's "meta", changed in the transaction of the SWAPPED record that says so.

A plan is in force when the hot loop has taken it over, not when it is journaled: the sniper may refuse it. The newest whole plan of a strategy is,
and what was added behind it. So a start knows after the loss of everything else what was armed, without a search (control/record/rearm.py).
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

#: key of "meta" under which a strategy's plans in force are
PREFIX: Final = b"armed/"
#: longest that a condition may wait and then hold: what was planned before that has expired
LONGEST_NS: Final = 14 * 86_400_000_000_000


class ArmedPlan(Struct, frozen=True):
    """A plan that the hot loop has taken over: the number of its last part, the event time it was made for and that of the next one."""

    number: int
    due_ns: int
    next_due_ns: int


class InForce(Struct, frozen=True):
    """A strategy's plans, oldest first, and the ids of those of their conditions that did not fit a later run any more."""

    plans: list[ArmedPlan] = []
    dropped: list[int] = []

    def with_plan(self, plan: ArmedPlan, add: bool) -> InForce:
        """After one more plan: it replaces what there was, or is added to it. One that is known already changes nothing."""
        if any(known.number == plan.number for known in self.plans):
            return self
        if not add:
            return InForce([plan])
        return InForce([*(known for known in self.plans if known.due_ns + LONGEST_NS > plan.due_ns), plan], self.dropped)

    def without(self, ids: list[int]) -> InForce:
        """After a start at which these did not fit."""
        return InForce(self.plans, [*self.dropped, *ids])


decode_in_force = msgspec.json.Decoder(InForce).decode


def key_of(strategy: str) -> bytes:
    """Where a strategy's plans in force are."""
    return PREFIX + strategy.encode()
