"""When a dead child comes back: restart intensity in a window, back-off with jitter, permanent failure. Pure: no clock, no process.

The first deaths in a window are answered at once: a child that is killed again while it recovers must not wait, for nobody does its work
meanwhile. Each further one waits for a growing back-off. In OTP's words, more than `max_restarts` deaths within `window_s` are a crash loop.
OTP's supervisor would then die itself; this one goes into safe mode (no new positions, protection kept) and retries at its longest delay,
because a position without a process is the worse risk.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import random

#: deaths in a window that are answered at once
PROMPT = 3
#: exit code of a child that no restart will mend, such as a configuration fault (EX_CONFIG of sysexits.h)
PERMANENT_FAILURE = 78


class Action(enum.Enum):
    """What to do about a death."""

    RESPAWN = "respawn"
    CRASH_LOOP = "crash loop"  # respawn too, but slowly, and in safe mode
    GIVE_UP = "give up"


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """Limits of restarts; the same for every role."""

    max_restarts: int = 5
    window_s: float = 60.0
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    jitter: float = 0.2

    def delay_s(self, deaths: int, chance: float) -> float:
        """Seconds to wait after the n-th death in the window: none after the first PROMPT, then doubling, spread by ± jitter.

        `chance` is in [0, 1).
        """
        if deaths <= PROMPT:
            return 0.0
        doubled = self.backoff_s * 2.0 ** min(deaths - PROMPT - 1, 60)
        return min(self.max_backoff_s, doubled) * (1.0 + self.jitter * (2.0 * chance - 1.0))


@dataclass(frozen=True)
class Decision:
    """What to do, after how long, and how many deaths in the window led to it."""

    action: Action
    delay_s: float
    deaths: int


@dataclass
class Deaths:
    """The deaths of one role within the window."""

    policy: RestartPolicy
    chance: Callable[[], float] = random
    _times: deque[float] = field(default_factory=deque)
    _gave_up: bool = False

    def decide(self, now_s: float, exit_code: int | None) -> Decision:
        """Record a death and say what follows from it. `exit_code` is negative for a signal, None where nobody could learn it."""
        self._forget(now_s)
        self._times.append(now_s)
        deaths = len(self._times)
        if exit_code == PERMANENT_FAILURE:
            self._gave_up = True
            return Decision(Action.GIVE_UP, 0.0, deaths)
        if deaths > self.policy.max_restarts:
            return Decision(Action.CRASH_LOOP, self.policy.max_backoff_s, deaths)
        return Decision(Action.RESPAWN, self.policy.delay_s(deaths, self.chance()), deaths)

    def looping(self, now_s: float) -> bool:
        """Too many deaths within the window that ends now, or given up for good."""
        self._forget(now_s)
        return self._gave_up or len(self._times) > self.policy.max_restarts

    def calm(self, now_s: float) -> bool:
        """No death within the window that ends now."""
        self._forget(now_s)
        return not self._times

    def _forget(self, now_s: float) -> None:
        while self._times and now_s - self._times[0] > self.policy.window_s:
            self._times.popleft()
