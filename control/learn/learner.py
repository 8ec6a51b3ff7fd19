"""What is learned of trades, as one state that only trades change: evidence for every claim, and the adaptations that came of it. Pure.

A trade speaks for or against claims about each of its kinds (control/learn/kinds.py). One that is only followed on paper, since a restriction
keeps it from being made, speaks to what restricts it alone: else a restriction could never be found wrong, and a strategy would be blamed for losses
that nobody makes. It speaks to what there was when it opened: each piece of evidence has a `birth`, and an open trade remembers the births that it
speaks to. A look at everything comes after every `trades_between_looks` trades that have closed, after `hours_between_looks`, and at a word.

The state is the Struct `State` and pieces by their key, so that whoever keeps it stores what has changed (`take_changes`) and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from control.learn import gate
from control.learn.evidence import Direction, Evidence
from control.learn.exits import VARIANTS, parts
from control.learn.gate import STANDING, Adaptation, Step
from control.learn.kinds import COMPARED, DIRECTIONS, FAMILIES, HOURS, MARGINS, Claim, Family, Kind, combined

#: trades that are open at once and remembered; the oldest goes first
MOST_OPEN: Final = 10_000
_HOUR_NS: Final = 3_600_000_000_000

Look = Callable[[Mapping[Claim, Evidence], Iterable[Adaptation], Mapping[Family, int], int], list[Step]]


class Opened(Struct, frozen=True, kw_only=True):
    """A trade as it opens: its kind, event time, how far it may move (evidence.span_bps), and whether it is made or only followed on paper.

    With `exits` it is a pair (control/learn/exits.py), under the number of its twin: it speaks to that value alone, and its result is a difference.
    """

    kind: Kind
    opened_ns: int
    span_bps: float
    made: bool = True
    exits: str = ""


class Open(Struct, kw_only=True):
    """An open trade, and births of the evidence that it speaks to."""

    trade: Opened
    births: list[int]


class Piece(Struct, kw_only=True):
    """Evidence for a claim, and when it was begun: births rise, and none is given twice."""

    birth: int
    evidence: Evidence


class State(Struct, kw_only=True):
    """What is not in a piece. `version` rises with every change of what is active; `births`, `adaptations`: how many there ever were; `ended`: claims
    of a family that were tested and have begun anew."""

    version: int = 0
    births: int = 0
    adaptations: int = 0
    since_look: int = 0
    last_look_ns: int = 0
    ended: dict[Family, int] = {}


class Changes(Struct):
    """What has changed since it was last taken; None is gone."""

    claims: dict[Claim, Piece | None]
    opened: dict[int, Open | None]
    adaptations: dict[int, Adaptation]


def universe(symbols: int, strategies: int, patterns: int, regimes: int) -> dict[Family, int]:
    """How many claims there can be of each family."""
    values: dict[Family, int] = {"coin": symbols, "strategy": strategies, "pattern": 2 * patterns, "regime": strategies * regimes, "hour": HOURS,
                                 "exits": strategies * len(VARIANTS)}
    return {family: max(1, values[family] * len(DIRECTIONS[family])) for family in FAMILIES}


class Learner:
    """The state; `look` is control/learn/gate.py's, or another one that it is to be compared with. `claims_possible` is `universe`."""

    def __init__(self, claims_possible: Mapping[Family, int], trades_between_looks: int = 10, hours_between_looks: float = 1.0,
                 look: Look = gate.look) -> None:
        self._possible, self._every, self._every_ns, self._look = claims_possible, trades_between_looks, int(hours_between_looks * _HOUR_NS), look
        self.state = State()
        self.claims: dict[Claim, Piece] = {}
        self.open: dict[int, Open] = {}
        #: those that are in the shadow or active
        self.standing: dict[Claim, Adaptation] = {}
        self._by_birth: dict[int, tuple[Claim, Evidence]] = {}
        #: births of what is counted since an adaptation's stage began
        self._since: dict[int, int] = {}
        self._changes = Changes({}, {}, {})

    # ── trades ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, position_id: int, trade: Opened) -> None:
        """A trade opens, made or only followed; twice is once."""
        if position_id in self.open:
            return
        births = self._speaks_to(trade)
        for birth in births:
            evidence = self._by_birth[birth][1]
            evidence.opened(position_id, trade.span_bps, trade.opened_ns, self._more_bps(*self._by_birth[birth], trade))
        self.open[position_id] = self._changes.opened[position_id] = Open(trade=trade, births=births)
        self._touch(births)
        if len(self.open) > MOST_OPEN:
            self._forget(next(iter(self.open)))

    def closed(self, position_id: int, net_bps: float, now_ns: int) -> list[Step]:
        """It closes, with that result after all costs; gives what changes by a look, if one is due. One that nobody saw open is passed over."""
        found = self.open.get(position_id)
        if found is None:
            return []
        births = [birth for birth in found.births if birth in self._by_birth]
        for birth in births:
            self._by_birth[birth][1].closed(position_id, net_bps, found.trade.span_bps, now_ns)
        self._touch(births)
        self._forget(position_id)
        if found.trade.exits:
            return []  # no trade more: its position counts
        self.state.since_look += 1
        due = self.state.since_look >= self._every or (self.state.last_look_ns and now_ns - self.state.last_look_ns >= self._every_ns)
        return self.look(now_ns) if due else []

    def _forget(self, position_id: int) -> None:
        del self.open[position_id]
        self._changes.opened[position_id] = None

    def _touch(self, births: Iterable[int]) -> None:
        for birth in births:
            claim = self._by_birth[birth][0]
            if (piece := self.claims.get(claim)) is not None and piece.birth == birth:
                self._changes.claims[claim] = piece
            else:
                one = self.standing[claim]
                self._changes.adaptations[one.number] = one

    def _speaks_to(self, trade: Opened) -> list[int]:
        values: dict[Family, str] = {"exits": trade.exits} if trade.exits else trade.kind.values(trade.opened_ns)
        if not trade.made and not trade.exits:
            values = {one.family: one.value for one in self._active(values) if one.scale == 0.0}
        births = []
        for family, value in values.items():
            for direction in DIRECTIONS[family]:
                claim = Claim(family, value, direction)
                if claim not in self.claims:
                    self.claims[claim] = Piece(birth=self._born(claim, evidence := Evidence(
                        direction=direction, margin_bps=MARGINS.get(family, 0.0))), evidence=evidence)
                births.append(self.claims[claim].birth)
                if claim in self.standing:
                    births.append(self._since[self.standing[claim].number])
        return births

    def _more_bps(self, claim: Claim, evidence: Evidence, trade: Opened) -> float:
        """By how much a claim is bolder of this trade: what is compared by what its strategy's trades have lost on average so far, a wider stop by
        what they would make less at the smaller size that it takes."""
        if claim.family in COMPARED:
            return max(0.0, -self._mean_bps(trade.kind.strategy, "loses"))
        if claim.family == "exits" and evidence.direction == "wins":
            return (parts(claim.value)[1].larger - 1.0) * max(0.0, self._mean_bps(trade.kind.strategy, "wins"))
        return 0.0

    def _mean_bps(self, strategy: str, direction: Direction) -> float:
        """What a strategy's trades have made on average so far; 0.0 without any."""
        piece = self.claims.get(Claim("strategy", strategy, direction))
        return piece.evidence.mean_bps if piece is not None else 0.0

    def _born(self, claim: Claim, evidence: Evidence) -> int:
        self.state.births += 1
        self._by_birth[self.state.births] = claim, evidence
        return self.state.births

    # ── looks ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def look(self, now_ns: int) -> list[Step]:
        """Decide on everything; gives what has become of it."""
        self.state.since_look, self.state.last_look_ns = 0, now_ns
        there = Counter(claim.family for claim in self.claims)
        tested = {family: max(self._possible[family], there[family]) + self.state.ended.get(family, 0) for family in FAMILIES}
        wanted = self._look({claim: piece.evidence for claim, piece in self.claims.items()}, self.standing.values(), tested, now_ns)
        return [step for one in wanted for step in self._take(one)]

    def _take(self, step: Step) -> list[Step]:
        one = step.adaptation
        before = self.standing.get(one.claim)
        if one.number == 0:
            self.state.adaptations += 1
            one.number = self.state.adaptations
        elif before is None:
            return []  # its kind began anew within this look
        if "active" in (one.stage, before.stage if before else ""):
            self.state.version += 1
        version, ended = self.state.version, list[Step]()
        if one.stage in STANDING:
            if (counted := self._since.pop(one.number, 0)):
                self._by_birth.pop(counted)
            self._since[one.number] = self._born(one.claim, one.since)
            self.standing[one.claim] = one
        else:
            self._forget_claim(one.claim)
            if one.stage == "rolled_back":
                ended = self._end_twin(one)
        self._changes.adaptations[one.number] = one
        return [step._replace(version=version), *ended]

    def _end_twin(self, ended: Adaptation) -> list[Step]:
        """What was known of a kind that has changed is forgotten in the other direction, too, and with it what stands on it."""
        steps = []
        for direction in DIRECTIONS[ended.family]:
            claim = Claim(ended.family, ended.value, direction)
            if (twin := self.standing.get(claim)) is not None and claim != ended.claim:
                self.state.version += twin.stage == "active"
                why = f"adaptation {ended.number} of the same {ended.family} was rolled back"
                over = msgspec.structs.replace(twin, stage="rolled_back" if twin.stage == "active" else "rejected", since_ns=ended.since_ns, why=why)
                self._changes.adaptations[over.number] = over
                steps.append(Step(over, why, self.state.version))
            self._forget_claim(claim)
        return steps

    def _forget_claim(self, claim: Claim) -> None:
        """What stands on it is over, and its evidence begins anew."""
        if (stood := self.standing.pop(claim, None)) is not None:
            self._by_birth.pop(self._since.pop(stood.number))
        if (piece := self.claims.pop(claim, None)) is not None:
            self._by_birth.pop(piece.birth)
            self._changes.claims[claim] = None
            self.state.ended[claim.family] = self.state.ended.get(claim.family, 0) + 1

    # ── what is asked of it ──────────────────────────────────────────────────────────────────────────────────────────
    def _active(self, values: Mapping[Family, str]) -> list[Adaptation]:
        return [one for one in self.standing.values() if one.stage == "active" and values.get(one.family) == one.value]

    def scale(self, kind: Kind, now_ns: int) -> float:
        """By how much the size of such an entry is multiplied; 0: none is made."""
        return combined(one.scale for one in self._active(kind.values(now_ns)))

    # ── keeping it ───────────────────────────────────────────────────────────────────────────────────────────────────
    def take_changes(self) -> Changes:
        """What has changed since; to be stored in one transaction with `state`."""
        taken, self._changes = self._changes, Changes({}, {}, {})
        return taken

    def restore(self, state: State, claims: Mapping[Claim, Piece], opened: Mapping[int, Open], standing: Iterable[tuple[Adaptation, int]]) -> None:
        """Go on where another one was: `standing` with the births of what they count. Raises ValueError where the parts contradict each other."""
        self.state, self.claims, self.open = state, dict(claims), dict(sorted(opened.items()))
        self._changes = Changes({}, {}, {})
        self.standing, self._since, self._by_birth = {}, {}, {}
        for claim, piece in self.claims.items():
            self._by_birth[piece.birth] = claim, piece.evidence
        for one, birth in standing:
            self.standing[one.claim] = one
            self._since[one.number] = birth
            self._by_birth[birth] = one.claim, one.since
        self.check()

    def forget_open(self) -> None:
        """Nobody will ever tell how the open trades end: what counts them counts them as lost by the gambler."""
        counting = [birth for birth, (_, evidence) in self._by_birth.items() if evidence.running]
        for birth in counting:
            self._by_birth[birth][1].abandon()
        self._touch(counting)
        for position_id in list(self.open):
            self._forget(position_id)

    def drop(self, position_id: int) -> None:
        """Nobody will tell how an open trade ends, for a reason that has nothing to do with its result."""
        births = [birth for birth in self.open[position_id].births if birth in self._by_birth]
        for birth in births:
            self._by_birth[birth][1].dropped(position_id)
        self._touch(births)
        self._forget(position_id)

    def since_birth(self, number: int) -> int:
        """Birth of what a standing adaptation counts; 0 for one that is over."""
        return self._since.get(number, 0)

    def check(self) -> None:
        """Raises ValueError where the parts contradict each other."""
        for evidence in (found for _, found in self._by_birth.values()):
            evidence.check()
        births = [piece.birth for piece in self.claims.values()] + list(self._since.values())
        if len(births) != len(set(births)) or set(births) != self._by_birth.keys() or max(births, default=0) > self.state.births:
            raise ValueError(f"births of evidence: {sorted(births)} of {self.state.births}")
        if self._since.keys() != {one.number for one in self.standing.values()}:
            raise ValueError(f"standing adaptations: {sorted(self._since)} count, {[one.number for one in self.standing.values()]} stand")
        for claim, one in self.standing.items():
            if one.claim != claim or one.stage not in STANDING or not 0 < one.number <= self.state.adaptations:
                raise ValueError(f"adaptation {one.number} of {claim.text} cannot stand as {one.stage}")
