"""Kinds of trades, and what is done when one of them is found to lose or to win. Pure.

| family   | a trade's value              | loses                                                        | wins              |
|----------|------------------------------|--------------------------------------------------------------|-------------------|
| coin     | its symbol                   | blacklist (× 0) from 20 bps a trade on, else reduce (× 0.5)  | favour (× 1.5)    |
| strategy | its strategy's name          | resize (× 0.5)                                               | resize (× 1.25)   |
| pattern  | its pattern and side         | deactivate (× 0)                                             | activate (× 1.25) |
| regime   | its strategy in its regime   | regime rule: no entries (× 0)                                | not asked         |
| hour     | hour of its opening, UTC     | hour rule: no entries (× 0)                                  | not asked         |
| day      | day of the week, UTC         | day rule: no entries (× 0)                                   | not asked         |
| exits    | strategy and variant of a pair (control/learn/exits.py) | not asked         | tighten or widen stop or target (× 1) |

A regime, an hour and a day are compared: where a strategy's trades lose in general, trades of this kind have to lose more than those did so far (a
reference that is known when a trade opens, so that the evidence stays what it is). Else a bad strategy would lose its hours one by one. A pattern can
also be a candidate that learning itself has made (control/learn/candidates.py): it is only asked whether that wins, and compared likewise.

What is not asked costs no share of α. Several together: a restriction comes before any favour, the strongest restriction before the others, and
favours are not multiplied. No factor is above `MOST_SCALE`, and what an entry is multiplied to goes through the same risk gate as every other
entry, whose limits know nothing of what was learned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from control.learn import exits
from control.learn.evidence import Direction

Family = Literal["coin", "strategy", "pattern", "regime", "hour", "day", "exits"]
FAMILIES: Final[tuple[Family, ...]] = ("coin", "strategy", "pattern", "regime", "hour", "day", "exits")
#: what is asked of a family
DIRECTIONS: Final[dict[Family, tuple[Direction, ...]]] = {
    "coin": ("loses", "wins"), "strategy": ("loses", "wins"), "pattern": ("loses", "wins"), "regime": ("loses",), "hour": ("loses",),
    "day": ("loses",), "exits": ("wins",)}
#: a coin that loses at least so much a trade gets no entries, one that loses less gets smaller ones
BLACKLIST_BPS: Final = -20.0
REDUCED, FAVOURED, LARGER = 0.5, 1.5, 1.25
MOST_SCALE: Final = FAVOURED
HOURS: Final = 24
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: families whose claims are against what the strategy's trades do in general
COMPARED: Final[tuple[Family, ...]] = ("regime", "hour", "day")
#: by how much a claim has to hold, in bps of a trade; 0 where it is not here
MARGINS: Final[dict[Family, float]] = {"exits": exits.MARGIN_BPS}
HOUR_NS: Final = 3_600_000_000_000


class Claim(NamedTuple):
    """Trades of this kind (a family and its value: coin BTC/USDT, hour 14) lose, or win, by more than the margin."""

    family: Family
    value: str
    direction: Direction

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.family} {self.value} {self.direction}"

    @property
    def subject(self) -> str:
        """Whom its action is about."""
        return subject_of(self.family, self.value)

    @property
    def measure(self) -> str:
        """What its figures are of a trade, in words that follow "bps"."""
        if self.family == "exits":
            return "more than with its own exits"
        return f"beyond what {self.strategy or 'its strategy'}'s trades make in general" if self.is_compared else "after costs"

    @property
    def is_compared(self) -> bool:
        """It is about what its trades make beyond those of their strategy in general."""
        return self.family in COMPARED or self.is_candidate

    @property
    def is_candidate(self) -> bool:
        """A pattern that learning has made, of a strategy (control/learn/candidates.py)."""
        return self.family == "pattern" and ": " in self.value

    @property
    def strategy(self) -> str:
        """Whose trades it is about, where it is about those of one; else empty."""
        match self.family:
            case "strategy":
                return self.value
            case "regime":
                return self.value.rpartition(" in ")[0]
            case "pattern":
                return self.value.partition(": ")[0] if self.is_candidate else ""
            case "exits":
                return exits.parts(self.value)[0]
        return ""

    @property
    def alone(self) -> str:
        """Of the claims with the same word here one is active at a time; "" for one that goes with any other."""
        return self.subject if self.family == "exits" else ""


class Kind(NamedTuple):
    """What is known of an entry before it is made. `pattern` and `regime` are empty where its condition names none."""

    symbol: str
    strategy: str
    side: str
    pattern: str = ""
    regime: str = ""

    def values(self, now_ns: int) -> dict[Family, str]:
        """Its value in every family that it belongs to, when it opens at that event time."""
        found: dict[Family, str] = {"coin": self.symbol, "strategy": self.strategy, "hour": hour_of(now_ns), "day": day_of(now_ns)}
        if self.pattern:
            found["pattern"] = f"{self.pattern} {self.side}"
        if self.regime:
            found["regime"] = f"{self.strategy} in {self.regime}"
        return found


def subject_of(family: str, value: str) -> str:
    """Whom an action is about: its value, or the strategy whose exits it is of."""
    return exits.parts(value)[0] if family == "exits" else value


def hour_of(now_ns: int) -> str:
    """Hour of the day, UTC, two digits."""
    return f"{now_ns // HOUR_NS % HOURS:02}"


def day_of(now_ns: int) -> str:
    """Day of the week, UTC."""
    return DAYS[(now_ns // (HOURS * HOUR_NS) + 3) % 7]  # 1970 began on a Thursday


def hour_ends_ns(now_ns: int) -> int:
    """When that hour is over."""
    return (now_ns // HOUR_NS + 1) * HOUR_NS


def action(family: Family, direction: Direction, mean_bps: float, value: str = "") -> tuple[str, float]:
    """(what it is called, by how much the size of an entry is multiplied; 0: none is made)."""
    match family, direction:
        case "coin", "loses":
            return ("blacklist", 0.0) if mean_bps <= BLACKLIST_BPS else ("reduce", REDUCED)
        case "coin", "wins":
            return "favour", FAVOURED
        case "strategy", "loses":
            return "resize", REDUCED
        case "strategy", "wins":
            return "resize", LARGER
        case "pattern", "wins":
            return "activate pattern", LARGER
        case "pattern", "loses":
            return "deactivate pattern", 0.0
        case "exits", _:
            return exits.parts(value)[1].name if value else "exits", 1.0
        case _:
            return f"{family} rule", 0.0


def combined(scales: Iterable[float]) -> float:
    """One factor of several."""
    every = list(scales)
    least = min(every, default=1.0)
    return least if least < 1.0 else max(every, default=1.0)
