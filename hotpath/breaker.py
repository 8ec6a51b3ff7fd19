"""A circuit breaker: what fails again and again is left alone for a while, then tried once. Pure: whoever asks brings the time.

```
          `failures` in a row               the cool-down is over
  closed ────────────────────► open ───────────────────────────► half-open: one trial
     ▲                          ▲                                     │
     │                          └──────── it fails, too ──────────────┤      (each time twice as long, up to `longest_ns`)
     └───────────────────────────────── it succeeds ──────────────────┘
```

The clock may be event time: then a process that was killed and asks the same question at the same instant again gets the same answer, and the same
failure counts once. That keeps a lockstep replay repeatable through a crash.
"""

from __future__ import annotations

from ipc import layout as l

#: cool-down of one that says nothing else
COOLDOWN_NS = 60_000_000_000


class Breaker:
    """One breaker. `failures` in a row open it for `cooldown_ns`; a failed trial doubles that, up to `longest_ns` (0: never longer)."""

    def __init__(self, failures: int = 3, cooldown_ns: int = COOLDOWN_NS, longest_ns: int = 0) -> None:
        self.limit, self.cooldown_ns, self.longest_ns = failures, cooldown_ns, max(longest_ns, cooldown_ns)
        self.state = l.BREAKER_CLOSED
        #: failures in a row; times that it has opened; since when it is in its state
        self.failures = self.opens = self.since_ns = 0
        #: until when it is open at least; when it failed last; since when a try is under way, 0 without one
        self.until_ns = self.failed_ns = self.asked_ns = 0

    def permits(self, now_ns: int) -> bool:
        """Whether it may be tried now. Open and cooled down, it becomes half-open and permits one trial, which ends in `succeeded` or `failed`.

        A trial of which nothing is heard for a cool-down counts for nothing, and another one is permitted.
        """
        if self.state == l.BREAKER_OPEN and now_ns >= self.until_ns:
            self.asked_ns = 0
            self._become(l.BREAKER_HALF_OPEN, now_ns)
        waits = self.state == l.BREAKER_HALF_OPEN and self.asked_ns and self.asked_ns < now_ns < self.asked_ns + self.cooldown_ns
        if waits or self.state in (l.BREAKER_OPEN, l.BREAKER_STOPPED):
            return False
        self.asked_ns = now_ns
        return True

    def failed(self, now_ns: int) -> None:
        """It was tried and failed. The same instant twice is one failure."""
        self.asked_ns = 0
        if self.failures and now_ns == self.failed_ns:
            return
        last_pause_ns = self.until_ns - self.failed_ns  # it failed when it was opened
        self.failures += 1
        self.failed_ns = now_ns
        if self.state == l.BREAKER_HALF_OPEN:
            self._open(now_ns, max(self.cooldown_ns, min(self.longest_ns, 2 * last_pause_ns)))
        elif self.state == l.BREAKER_CLOSED and self.failures >= self.limit:
            self._open(now_ns, self.cooldown_ns)

    def trip(self, now_ns: int, pause_ns: int) -> None:
        """It failed, and is known to fail for so long: open at once (a rate limit)."""
        self.asked_ns = 0
        self.failures += 1
        self.failed_ns = now_ns
        self._open(now_ns, pause_ns)

    def stop(self, now_ns: int) -> None:
        """It failed in a way that no pause mends: nothing is permitted any more."""
        self.failures += 1
        self.failed_ns, self.asked_ns = now_ns, 0
        self._become(l.BREAKER_STOPPED, now_ns)

    def succeeded(self, now_ns: int) -> None:
        """It was tried and worked."""
        self.failures = self.asked_ns = 0
        if self.state != l.BREAKER_CLOSED:
            self._become(l.BREAKER_CLOSED, now_ns)

    def pause_ns(self, now_ns: int) -> int:
        """How long nothing is permitted from now on."""
        return max(0, self.until_ns - now_ns) if self.state == l.BREAKER_OPEN else 0

    def _open(self, now_ns: int, pause_ns: int) -> None:
        self.opens += self.state != l.BREAKER_OPEN
        self._become(l.BREAKER_OPEN, now_ns)
        self.until_ns = now_ns + pause_ns

    def _become(self, state: int, now_ns: int) -> None:
        self.state, self.since_ns = state, now_ns

    def check(self) -> None:
        """What always holds; raises AssertionError."""
        assert self.state != l.BREAKER_CLOSED or self.failures < self.limit
        assert self.state == l.BREAKER_CLOSED or self.failures
        assert not self.asked_ns or self.state in (l.BREAKER_CLOSED, l.BREAKER_HALF_OPEN)
        assert self.state != l.BREAKER_OPEN or self.since_ns == self.failed_ns <= self.until_ns
