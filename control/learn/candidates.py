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
from collections import defaultdict
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
    found = [f"side {kind.side}", f"coin {kind.symbol}", f"{hour:02}–{hour + _PART:02} h", "weekend" if day_of(now_ns) in _WEEKEND else "weekday"]
    if kind.pattern:
        found.append(f"pattern {kind.pattern}")
    if kind.regime:
        found.append(f"regime {kind.regime}")
    return tuple(found)


def names_of(kind: Kind, now_ns: int) -> set[str]:
    """Names of all the candidates that such an entry would belong to."""
    return {_name(kind.strategy, pair) for pair in combinations(traits_of(kind, now_ns), 2)}


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
    pairs: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    traits: dict[str, list[float]] = defaultdict(list)
    for one in window:
        for trait in one.traits:
            traits[trait].append(one.net_bps)
        for pair in combinations(one.traits, 2):
            pairs[pair].append(one)
    best: tuple[float, str, list[Seen]] | None = None
    for pair, seen in pairs.items():
        n, gained = len(seen), sum(one.net_bps for one in seen)
        rest = count - n
        if n < LEAST_OF_PAIR or rest < LEAST_BESIDE or not gained > 0 or not deviation:
            continue
        beside = [(len(traits[trait]) - n, sum(traits[trait]) - gained) for trait in pair]
        if any(others < LEAST_BESIDE or gained / n <= sum_bps / others for others, sum_bps in beside):
            continue  # one of its traits alone says as much
        above = (gained / n - (total - gained) / rest) / (deviation * math.sqrt(1 / n + 1 / rest))
        name = _name(strategy, pair)
        if above >= STANDS_OUT and name not in taken and (best is None or (above, name) > best[:2]):
            best = above, name, seen
    if best is None:
        return None
    _, name, seen = best
    ids = [one.position_id for one in seen]
    return name, Candidate(made_ns=now_ns, trades=len(seen), wins=sum(one.net_bps > 0 for one in seen),
                           mean_bps=sum(one.net_bps for one in seen) / len(seen), first=min(ids), last=max(ids))
