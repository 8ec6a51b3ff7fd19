"""A failing script made small: whatever may be left out while the same rule is broken is left out: deaths and faults, then all in halves."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.deaths import Violation
from tests.simulation.running import Result, run
from tests.simulation.script import Action, Script
from tests.simulation.stage import Stage

#: runs that may be spent on it
MOST_RUNS = 1500
_DISTURBING = ("fault", "disk", "clock", "crash", "cut", "away", "kill", "loss", "operate", "plan")


def smallest(stage: Stage, script: Script, violation: Violation) -> tuple[Script, Result]:
    """The smallest script found that breaks the same rule, and its run with a trace."""
    left = MOST_RUNS

    def fails(actions: list[Action]) -> bool:
        nonlocal left
        left -= 1
        found = run(stage, script._replace(actions=tuple(actions))).violation
        return found is not None and found.rule == violation.rule

    actions = list(script.actions)
    low, high = 0, len(actions)
    while low < high and left > 0:  # the shortest beginning
        middle = (low + high) // 2
        if fails(actions[:middle]):
            high = middle
        else:
            low = middle + 1
    if fails(actions[:high]):
        actions = actions[:high]
    actions = _without(actions, lambda action: action[0] in _DISTURBING, fails)
    size = len(actions) // 2
    while size and left > 0:
        at = 0
        while at < len(actions) and left > 0:
            shorter = actions[:at] + actions[at + size:]
            if fails(shorter):
                actions = shorter
            else:
                at += size
        size //= 2
    small = script._replace(actions=tuple(actions))
    return small, run(stage, small, tracing=True)


def _without(actions: list[Action], which: Callable[[Action], bool], fails: Callable[[list[Action]], bool]) -> list[Action]:
    for action in [action for action in actions if which(action)]:
        shorter = [one for one in actions if one is not action]
        if fails(shorter):
            actions = shorter
    return actions
