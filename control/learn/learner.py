"""What is learned of trades, as one state that only trades change: evidence for every claim, and the adaptations that came of it. Pure.

A trade speaks for or against claims about its coin, its strategy and its hour (UTC). One that is only followed on paper, since a restriction keeps it
from being made, speaks to what restricts it alone: else a restriction could never be found wrong, and a strategy would be blamed for losses that
nobody makes. It speaks to what there was when it opened. A look at everything comes after every `trades_between_looks` trades that have closed, and
at a word. What an adaptation does to an entry is `scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from control.learn import gate
from control.learn.evidence import Direction, Evidence
from control.learn.gate import Adaptation, Claim, Step

_HOUR_NS: Final = 3_600_000_000_000
_DIRECTIONS: Final[tuple[Direction, ...]] = ("loses", "wins")
#: a coin that loses at least so much a trade gets no entries, one that loses less gets half of them; a coin that wins gets half as much again
BLACKLIST_BPS, REDUCED, FAVOURED = -20.0, 0.5, 1.5

Look = Callable[[Mapping[Claim, Evidence], Iterable[Adaptation], Mapping[str, int], int], list[Step]]


class Opened(NamedTuple):
    """A trade as it opens: event time, and how far it may move (evidence.span_bps)."""

    symbol: str
    strategy: str
    opened_ns: int
    span_bps: float

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """(family, value) of every kind of trades that it belongs to."""
        return ("coin", self.symbol), ("strategy", self.strategy), ("hour", f"{self.opened_ns // _HOUR_NS % 24:02}")


class Learner:
    """The state; `look` is control/learn/gate.py's, or another one that it is to be compared with."""

    def __init__(self, trades_between_looks: int = 10, look: Look = gate.look) -> None:
        self._every, self._look = trades_between_looks, look
        self.claims: dict[Claim, Evidence] = {}
        #: those that are in the shadow or active
        self.standing: dict[Claim, Adaptation] = {}
        #: by family, claims that were tested and have begun anew
        self.ended: dict[str, int] = {}
        #: how often anything has changed
        self.version = 0
        #: what each open trade speaks to
        self._open: dict[int, list[Evidence]] = {}
        self._since_look = 0

    def opened(self, position_id: int, trade: Opened) -> None:
        """A trade opens, made or only followed; twice is once."""
        if position_id not in self._open:
            self._open[position_id] = self._speaks_to(trade)
            for evidence in self._open[position_id]:
                evidence.opened(position_id, trade.span_bps)

    def closed(self, position_id: int, net_bps: float, now_ns: int) -> list[Step]:
        """It closes, with that result after all costs; gives what changes by a look, if one is due. One that nobody saw open is passed over."""
        found = self._open.pop(position_id, None)
        if found is None:
            return []
        for evidence in found:
            evidence.closed(position_id, net_bps)
        self._since_look += 1
        return self.look(now_ns) if self._since_look >= self._every else []

    def _speaks_to(self, trade: Opened) -> list[Evidence]:
        found = []
        active = self._active(trade)
        restricting = {(one.family, one.value) for one in active if effect(one) == 0.0}
        for family, value in restricting or trade.kinds:
            for direction in _DIRECTIONS:
                claim = Claim(family, value, direction)
                found.append(self.claims.setdefault(claim, Evidence(direction=direction)))
                if claim in self.standing:
                    found.append(self.standing[claim].since)
        return found

    def look(self, now_ns: int) -> list[Step]:
        """Decide on everything."""
        self._since_look = 0
        steps = self._look(self.claims, self.standing.values(), self.ended, now_ns)
        for step in steps:
            one = step.adaptation
            if one.stage in ("shadow", "active"):
                self.standing[one.claim] = one
            else:
                self.standing.pop(one.claim, None)
                for direction in _DIRECTIONS:  # what was known of this kind begins anew
                    if self.claims.pop(Claim(one.family, one.value, direction), None) is not None:
                        self.ended[one.family] = self.ended.get(one.family, 0) + 1
        self.version += bool(steps)
        return steps

    def _active(self, trade: Opened) -> list[Adaptation]:
        return [one for one in self.standing.values() if one.stage == "active" and (one.family, one.value) in trade.kinds]

    def scale(self, symbol: str, strategy: str, now_ns: int) -> float:
        """By how much the size of an entry is multiplied; 0: none is made. A restriction of any of its kinds comes before a favour."""
        active = self._active(Opened(symbol, strategy, now_ns, 0.0))
        return min([effect(one) for one in active if one.direction == "loses"], default=max([effect(one) for one in active], default=1.0))


def effect(one: Adaptation) -> float:
    """What an active adaptation does to the size of an entry."""
    if one.direction == "wins":
        return FAVOURED if one.family == "coin" else 1.0
    return 0.0 if one.family != "coin" or one.mean_bps <= BLACKLIST_BPS else REDUCED


