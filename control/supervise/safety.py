"""Safe mode as a policy: what puts the whole system into it, and what ends it. Pure: no clock, no process.

In safe mode nothing is opened, working entries are cancelled, and positions are protected or flattened, as configured. Each cause says who ends it:

| cause         | what it is                                                  | ends                                           |
|---------------|-------------------------------------------------------------|------------------------------------------------|
| crash_loop    | a process dies again and again                              | when it is stable, and a cool-down later       |
| unprotected   | positions are open, and no sniper has watched them for long | when one does, and a cool-down later           |
| journal       | the journal cannot be written                               | when it can be, and a cool-down later          |
| knowledge     | what is learned cannot be written                           | when it can be, and a cool-down later          |
| clock_jump    | the wall clock has stepped                                  | after a cool-down                              |
| repeated      | a strategy repeated itself and is latched                   | trader-ctl release STRATEGY, a cool-down later |
| daily_loss    | today's loss has reached limits.daily_loss_bps              | with the UTC day (event time)                  |
| drawdown      | equity is safety.max_drawdown_bps below its peak            | by a person: trader-ctl resume                 |
| unreconciled  | venue and book disagree, about the account or an order      | by a person: trader-ctl resume                 |
| operator      | trader-ctl safe                                             | by a person: trader-ctl resume                 |
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Dangers(Protocol):
    """Who says what is the case."""

    @property
    def day(self) -> int:
        """UTC day of event time."""

    def present(self, now: float) -> dict[str, str]:
        """Cause → text of what is the case now."""

    def to_remember(self, now: float) -> dict[str, int]:
        """What the next start is to know of them, where it is another than before."""


class NoDangers:
    """Of a replay: it is judged by its own time alone, and nobody's money is at stake."""

    day = 0

    def present(self, now: float) -> dict[str, str]:
        """Nothing."""
        return {}

    def to_remember(self, now: float) -> dict[str, int]:
        """Nothing."""
        return {}


class Ends(enum.Enum):
    """Who ends a cause."""

    ITSELF = "itself"  # it is gone when what it says is gone, and a cool-down later so is safe mode
    DAY = "day"
    PERSON = "person"


CAUSES: Mapping[str, Ends] = {
    "crash_loop": Ends.ITSELF, "unprotected": Ends.ITSELF, "journal": Ends.ITSELF, "knowledge": Ends.ITSELF, "clock_jump": Ends.ITSELF,
    "repeated": Ends.ITSELF,
    "daily_loss": Ends.DAY, "drawdown": Ends.PERSON, "unreconciled": Ends.PERSON, "operator": Ends.PERSON,
}


@dataclass(frozen=True)
class Change:
    """Safe mode was entered, has other causes, or has ended: `cause` is the oldest, `text` is for people, "" at the end."""

    safe: bool
    cause: str
    text: str


@dataclass
class _Active:
    text: str
    day: int
    gone_since: float | None = None


class SafeMode:
    """The causes at work. `turn` is given what is the case now; it keeps what must be ended by a day or a person."""

    def __init__(self, cooldown_s: float) -> None:
        self.cooldown_s = cooldown_s
        self._active: dict[str, _Active] = {}
        self._told: tuple[dict[str, str], dict[str, int]] = ({}, {})

    @property
    def causes(self) -> dict[str, str]:
        """Cause → what it says, oldest first."""
        return {name: active.text for name, active in self._active.items()}

    @property
    def days(self) -> dict[str, int]:
        """Cause → UTC day of event time, of causes that end with it; 0 while it is not known."""
        return {name: active.day for name, active in self._active.items() if CAUSES[name] is Ends.DAY}

    @property
    def waits_for_person(self) -> list[str]:
        """Causes that only a person ends."""
        return [name for name in self._active if CAUSES[name] is Ends.PERSON]

    def begin(self, cause: str, text: str, day: int = 0) -> None:
        """A cause from outside: the operator, or the last run."""
        self._active.setdefault(cause, _Active(text, day))

    def resume(self) -> list[str]:
        """A person ends what persons end; gives what still stands."""
        for name in self.waits_for_person:
            del self._active[name]
        return list(self._active)

    def turn(self, now: float, present: Mapping[str, str], day: int) -> Change | None:
        """`present`: causes that are the case, with a text; `day`: of event time. A Change when something is to be told."""
        for name, text in present.items():
            active = self._active.setdefault(name, _Active(text, day))
            active.gone_since, active.day = None, day or active.day
        for name, active in list(self._active.items()):
            if name in present:
                continue
            match CAUSES[name]:
                case Ends.ITSELF:
                    active.gone_since = now if active.gone_since is None else active.gone_since
                    if now - active.gone_since >= self.cooldown_s:
                        del self._active[name]
                case Ends.DAY if not active.day:  # nobody has noted it: the first that is known, as doubt only reduces risk
                    active.day = day
                case Ends.DAY if day and day != active.day:  # 0: the account is not restored yet
                    del self._active[name]
        if (self.causes, self.days) == self._told:
            return None
        self._told = (causes := self.causes, self.days)
        return Change(bool(causes), next(iter(causes), ""), "; ".join(causes.values()))
