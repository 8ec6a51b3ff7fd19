"""What to do about a failure: go on, pause, or stop. Pure: no clock, no process; the breaker says how long a pause is.

| class      | for instance                                       | what follows                                                     |
|------------|----------------------------------------------------|------------------------------------------------------------------|
| fatal      | a key that is refused, no memory                   | stop: it is not tried again in this run                          |
| rate limit | the other side asks for fewer requests             | pause at once, for as long as it says, else for a cool-down      |
| network    | no connection, no answer in time                   | go on; pause when the breaker opens                              |
| API        | the other side answered with an error of its own   | the same                                                         |
| data       | what came cannot be used                           | the same                                                         |
| general    | everything else                                    | the same                                                         |
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

from hotpath.breaker import Breaker
from ipc import layout as l

_HOUR_NS, _MINUTE_NS = 3_600_000_000_000, 60_000_000_000


class Kind(enum.StrEnum):
    """Classes of failures."""

    FATAL = "fatal"
    NETWORK = "network"
    API = "api"
    RATE_LIMIT = "rate_limit"
    DATA = "data"
    GENERAL = "general"


class Action(enum.StrEnum):
    """What is done about one."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"
    RECOVERED = "recovered"


#: classes by the names of exceptions, the nearest base first: those of Python, ccxt and openai, none of which is imported for it
KINDS: Final[dict[str, Kind]] = {
    "RateLimitExceeded": Kind.RATE_LIMIT, "RateLimitError": Kind.RATE_LIMIT, "DDoSProtection": Kind.RATE_LIMIT,
    "AuthenticationError": Kind.FATAL, "PermissionDenied": Kind.FATAL, "PermissionDeniedError": Kind.FATAL, "MemoryError": Kind.FATAL,
    "NetworkError": Kind.NETWORK, "APIConnectionError": Kind.NETWORK, "ConnectionError": Kind.NETWORK, "TimeoutError": Kind.NETWORK,
    "gaierror": Kind.NETWORK, "BusTimeout": Kind.NETWORK,
    "BaseError": Kind.API, "APIError": Kind.API,
    "ValueError": Kind.DATA, "TypeError": Kind.DATA, "LookupError": Kind.DATA, "ArithmeticError": Kind.DATA, "AttributeError": Kind.DATA,
}


def classify(error: BaseException) -> Kind:
    """The class of an exception."""
    return next((KINDS[base.__name__] for base in type(error).__mro__ if base.__name__ in KINDS), Kind.GENERAL)


class Decision(NamedTuple):
    """What was decided about a failure that happened so many times, or that it is over. `in_a_row` counts failures, the rates those of the last
    hour."""

    activity: str
    kind: Kind
    action: Action
    pause_s: float
    in_a_row: int
    errors_per_h: int
    recoveries_per_h: int
    text: str
    times: int = 1

    def words(self) -> str:
        """The decision for people."""
        match self.action:
            case Action.PAUSE:
                return f"paused for {self.pause_s:g} s"
            case Action.STOP:
                return "not tried again in this run"
            case Action.RECOVERED:
                return f"works again after {self.in_a_row} failure{'s' if self.in_a_row > 1 else ''}"
        return "goes on"

    def data(self) -> dict[str, Any]:
        """The decision for the journal: what an event's data hold beside what else they tell."""
        return {"activity": self.activity, "class": str(self.kind), "decision": str(self.action), "pause_s": self.pause_s,
                "in_a_row": self.in_a_row, "times": self.times, "errors_per_h": self.errors_per_h, "recoveries_per_h": self.recoveries_per_h}


class Hourly:
    """How often something happened within the last hour, to the minute; sixty numbers however often that is."""

    def __init__(self) -> None:
        self._minutes: dict[int, int] = {}

    def add(self, now_ns: int, times: int = 1) -> None:
        """It happened."""
        self._minutes[now_ns // _MINUTE_NS] = self._minutes.get(now_ns // _MINUTE_NS, 0) + times
        self._minutes = {minute: count for minute, count in self._minutes.items() if minute > (now_ns - _HOUR_NS) // _MINUTE_NS}

    def count(self, now_ns: int) -> int:
        """Times within the hour that ends now."""
        return sum(count for minute, count in self._minutes.items() if minute > (now_ns - _HOUR_NS) // _MINUTE_NS)


class ErrorManager:
    """The failures of one activity, and what follows from each. One without a breaker is never paused, whatever fails."""

    def __init__(self, activity: str, breaker: Breaker | None = None) -> None:
        self.activity = activity
        self.pauses = breaker is not None
        self.breaker = breaker or Breaker(failures=1 << 62)
        self.errors, self.recoveries = Hourly(), Hourly()
        self.total = 0
        self.last: Decision | None = None
        #: what it said last, for an activity that people hear of while it works, too
        self.said = ""
        #: latest time of the activity's own clock that it was told
        self.now_ns = 0

    @property
    def failing(self) -> bool:
        """The last try failed."""
        return self.breaker.failures > 0

    def resume(self, errors_per_h: int, recoveries_per_h: int, last_ns: int) -> None:
        """Go on with the rates that a predecessor left. When each was is not known any more: all of it counts as of its last failure."""
        self.now_ns = last_ns
        self.errors.add(last_ns, errors_per_h)
        self.recoveries.add(last_ns, recoveries_per_h)

    def rates(self) -> tuple[int, int]:
        """(errors, recoveries) within the hour that ends at the latest time that it was told."""
        return self.errors.count(self.now_ns), self.recoveries.count(self.now_ns)

    def permits(self, now_ns: int) -> bool:
        """Whether the activity may go on now; who asks, tries, and says what came of it."""
        self.now_ns = max(self.now_ns, now_ns)
        return self.breaker.permits(now_ns)

    def failed(self, kind: Kind, text: str, now_ns: int, times: int = 1, pause_s: float = 0.0) -> Decision:
        """It failed, so many times since it was last told. `pause_s` is how long the other side asks to be left alone."""
        breaker = self.breaker
        if kind is Kind.FATAL:
            breaker.stop(now_ns)
        elif kind is Kind.RATE_LIMIT and self.pauses:
            breaker.trip(now_ns, int(pause_s * 1e9) or breaker.cooldown_ns)
        else:
            breaker.failed(now_ns)
        action = {l.BREAKER_STOPPED: Action.STOP, l.BREAKER_OPEN: Action.PAUSE}.get(breaker.state, Action.CONTINUE)
        return self._counted(kind, action, text, now_ns, breaker.pause_ns(now_ns) / 1e9, times)

    def record(self, kind: Kind, action: Action, text: str, now_ns: int, pause_s: float = 0.0, times: int = 1) -> Decision:
        """Count a failure about which somebody else has decided, such as the restart policy about a death; for an activity without a breaker."""
        self.breaker.failed(now_ns)
        return self._counted(kind, action, text, now_ns, pause_s, times)

    def _counted(self, kind: Kind, action: Action, text: str, now_ns: int, pause_s: float, times: int) -> Decision:
        self.total += times
        self.errors.add(now_ns, times)
        return self._decided(kind, action, pause_s, self.breaker.failures, text, now_ns, times)

    def succeeded(self, now_ns: int) -> Decision | None:
        """It worked; a Decision where it had failed before."""
        failures, self.now_ns = self.breaker.failures, max(self.now_ns, now_ns)
        self.breaker.succeeded(now_ns)
        if not failures:
            return None
        self.recoveries.add(now_ns)
        kind, text = (self.last.kind, self.last.text) if self.last else (Kind.GENERAL, "")
        return self._decided(kind, Action.RECOVERED, 0.0, failures, text, now_ns)

    def _decided(self, kind: Kind, action: Action, pause_s: float, in_a_row: int, text: str, now_ns: int, times: int = 1) -> Decision:
        self.now_ns = max(self.now_ns, now_ns)
        self.last = Decision(self.activity, kind, action, pause_s, in_a_row, self.errors.count(now_ns), self.recoveries.count(now_ns), text, times)
        return self.last
