"""Candidates: what winning trades of a strategy have in common, put forward as a pattern that later trades are to confirm. Pure.

```
 the last 200 trades of a strategy ─► pairs of traits ─► the pair whose trades stand out most ─► candidate ─► evidence, from then on
```

Traits are what is known before an entry is made: side, coin, pattern, regime, part of the day, weekday or weekend. The best of many pairs looks good
by chance, so nothing that a candidate was found by counts for it: its evidence begins with the trades that open afterwards, against what its
strategy's trades win in general, and each candidate that was ever put forward is one of the claims that the gate divides its α by. What is not
believed after `MOST_TRIED` trades or `LONGEST_NS` makes room for another one.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from msgspec import Struct

from control.learn.kinds import DAYS, HOUR_NS, Claim, Kind, day_of, hour_of

#: trades of a strategy that are looked at, and without which nothing is put forward; trades of a pair, and of each of its traits without the other
WINDOW, LEAST_SEEN, LEAST_OF_PAIR, LEAST_BESIDE = 200, 60, 20, 5
#: by how many standard errors the mean of a pair has to be above that of the other trades
STANDS_OUT: Final = 2.0
#: candidates at a time, of all strategies and of one
MOST_CANDIDATES, MOST_OF_ONE = 8, 3
#: trades, and time, after which one that is not believed is given up
MOST_TRIED, LONGEST_NS = 150, 90 * 24 * HOUR_NS
#: hours in a part of the day
_PART: Final = 4
_WEEKEND: Final = DAYS[5:]
_DAYS: Final = ("weekday", "weekend")


class Candidate(Struct, frozen=True, kw_only=True):
    """How one was found: event time, its trades in the window (which count no more), and the positions that opened first and last of them."""

    made_ns: int
    trades: int
    wins: int
    mean_bps: float
    first: int
    last: int


class Seen(NamedTuple):
    """A closed trade of the window, which is in this order."""

    closed_ns: int
    position_id: int
    traits: tuple[str, ...]
    net_bps: float


def traits_of(kind: Kind, now_ns: int) -> tuple[str, ...]:
    """What is known of an entry that opens at that event time."""
    hour = int(hour_of(now_ns)) // _PART * _PART
    found = [f"side {kind.side}", f"coin {kind.symbol}", f"{hour:02}–{hour + _PART:02} h", _DAYS[day_of(now_ns) in _WEEKEND]]
    if kind.pattern:
        found.append(f"pattern {kind.pattern}")
    if kind.regime:
        found.append(f"regime {kind.regime}")
    return tuple(found)


def names_of(kind: Kind, now_ns: int) -> set[str]:
    """Names of all the candidates that such an entry would belong to."""
    return {_name(kind.strategy, pair) for pair in combinations(traits_of(kind, now_ns), 2)}


def part_of(now_ns: int) -> int:
    """Number of the part of the week: another one where an entry gets other traits of time."""
    return now_ns // (_PART * HOUR_NS) % (7 * 24 // _PART)


def names_a_time(value: str) -> bool:
    """A candidate of that name is about a part of the day, or of the week."""
    return any(trait in _DAYS or trait.endswith(" h") for trait in value.partition(": ")[2].split(" + "))


def concerns(claim: Claim, kind: Kind, now_ns: int) -> bool:
    """An entry of that kind that opens at that event time is one of those that the claim is about."""
    return kind.values(now_ns).get(claim.family) == claim.value or (
        claim.family == "pattern" and claim.value.startswith(f"{kind.strategy}: ") and claim.value in names_of(kind, now_ns))


def _name(strategy: str, pair: Iterable[str]) -> str:
    return f"{strategy}: {' + '.join(pair)}"


def found_in(strategy: str, window: Sequence[Seen], taken: Container[str], now_ns: int) -> tuple[str, Candidate] | None:
    """(name, candidate) of the pair that stands out most among a strategy's closed trades, None where none does enough."""
    count = len(window)
    if count < LEAST_SEEN:
        return None
    total = sum(one.net_bps for one in window)
    deviation = math.sqrt(sum((one.net_bps - total / count) ** 2 for one in window) / (count - 1))
    groups: dict[tuple[str, ...], _Group] = {}
    for one in window:
        for traits in (*((trait,) for trait in one.traits), *combinations(one.traits, 2)):
            if traits not in groups:
                groups[traits] = _Group()
            groups[traits].take(one)
    best: tuple[float, str, _Group] | None = None
    for pair, group in groups.items():
        others = count - group.trades
        if len(pair) < 2 or group.trades < LEAST_OF_PAIR or others < LEAST_BESIDE or not group.sum_bps > 0 or not deviation:
            continue
        if any(group.is_no_better_in(groups[trait,]) for trait in pair):
            continue  # one of its traits alone says as much
        above = (group.mean_bps - (total - group.sum_bps) / others) / (deviation * math.sqrt(1 / group.trades + 1 / others))
        name = _name(strategy, pair)
        if above >= STANDS_OUT and name not in taken and (best is None or (above, name) > best[:2]):
            best = above, name, group
    if best is None:
        return None
    _, name, found = best
    return name, Candidate(made_ns=now_ns, trades=found.trades, wins=found.wins, mean_bps=found.mean_bps, first=found.first, last=found.last)


class _Group:
    """Trades that have the same traits."""

    __slots__ = ("first", "last", "sum_bps", "trades", "wins")

    def __init__(self) -> None:
        self.trades = self.wins = self.last = 0
        self.first, self.sum_bps = 1 << 62, 0.0

    def take(self, one: Seen) -> None:
        """One more."""
        self.trades += 1
        self.wins += one.net_bps > 0
        self.sum_bps += one.net_bps
        self.first, self.last = min(self.first, one.position_id), max(self.last, one.position_id)

    @property
    def mean_bps(self) -> float:
        """Average result."""
        return self.sum_bps / self.trades

    def is_no_better_in(self, all_of: _Group) -> bool:
        """Among all those with one of its traits there are hardly others, or they are as good."""
        others = all_of.trades - self.trades
        return others < LEAST_BESIDE or self.mean_bps <= (all_of.sum_bps - self.sum_bps) / others
