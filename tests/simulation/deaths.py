"""Processes die here by an exception that nothing of the shipped code catches; whoever runs them throws the object away."""

from __future__ import annotations

from collections import Counter


class Died(BaseException):
    """A process has ended at once, at the named point."""


class Violation(Exception):
    """What must never be has been seen. `rule` names it in a word, so that a smaller script can be compared."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class CrashPoints:
    """Stands for ipc.crash.CrashPoint in every process of a script: dies at the n-th pass of an armed point, once."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self._armed: dict[str, int] = {}

    def arm(self, name: str, nth: int) -> None:
        """The n-th pass from now on is a death."""
        self._armed[name] = nth

    def disarm(self) -> None:
        """Nobody dies any more."""
        self._armed.clear()

    def reached(self, name: str) -> None:
        """As CrashPoint.reached."""
        self.passed[name] += 1
        left = self._armed.get(name)
        if left is None:
            return
        if left > 1:
            self._armed[name] = left - 1
            return
        del self._armed[name]
        self.passed[f"died at {name}"] += 1
        raise Died(name)
