"""What is learned of trades, as one state that only trades change: evidence for every claim, and the adaptations that came of it. Pure.

A trade speaks for or against claims about each of its kinds (control/learn/kinds.py). One that is only followed on paper, since a restriction
keeps it from being made (or makes it too small to be one), speaks to that alone, the strongest that restricts it: else a restriction could never be
found wrong, and a strategy would be blamed for losses that nobody makes. It speaks to what there was when it opened: each piece of evidence has a
`birth`, and an open trade remembers the births that it speaks to. A look at everything is due after every `trades_between_looks` trades that have
closed, `hours_between_looks` after the last one if any has closed since, and at a word; it also puts candidates forward. What is due waits until
whoever keeps the state has kept the trade.

The state is the Struct `State` and pieces by their key, so that whoever keeps it stores what has changed (`take_changes`) and nothing else.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from control.learn import candidates, gate
from control.learn.candidates import Candidate, Seen
from control.learn.evidence import Direction, Evidence
from control.learn.exits import VARIANTS, parts
from control.learn.gate import STANDING, Adaptation, Stage, Step
from control.learn.kinds import COMPARED, DAYS, DIRECTIONS, FAMILIES, HOUR_NS, HOURS, MARGINS, Claim, Family, Kind, combined

#: trades that are open at once and remembered; the oldest goes first
MOST_OPEN: Final = 10_000

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
    """An open trade, and births of the evidence that it speaks to. `losing_bps` and `winning_bps` are what its strategy's trades had lost and won on
    average when it opened, not below 0; `kept_by` is the adaptation that keeps it from being made."""

    trade: Opened
    births: list[int]
    losing_bps: float = 0.0
    winning_bps: float = 0.0
    kept_by: int = 0


class Piece(Struct, kw_only=True):
    """Evidence for a claim, and when it was begun: births rise, and none is given twice."""

    birth: int
    evidence: Evidence


class State(Struct, kw_only=True):
    """What is not in a piece. `version` rises with every change of what is active; `births`, `adaptations`: how many there ever were; `ended`: claims
    of a family that were tested and have begun anew; `candidates` by name: patterns that were put forward and not given up; `due_ns`: event time at
    which a look came to be due, 0: none is."""

    version: int = 0
    births: int = 0
    adaptations: int = 0
    looks: int = 0
    since_look: int = 0
    last_look_ns: int = 0
    due_ns: int = 0
    ended: dict[Family, int] = {}
    candidates: dict[str, Candidate] = {}


class Changes(Struct):
    """What has changed since it was last taken; None is gone. `remembered`: trades that candidates are found in, with their strategy."""

    claims: dict[Claim, Piece | None]
    opened: dict[int, Open | None]
    adaptations: dict[int, Adaptation]
    remembered: dict[tuple[str, Seen], bool]


def universe(symbols: int, strategies: int, patterns: int, regimes: int) -> dict[Family, int]:
    """How many claims there can be of each family."""
    values: dict[Family, int] = {"coin": symbols, "strategy": strategies, "pattern": 2 * patterns, "regime": strategies * regimes, "hour": HOURS,
                                 "day": len(DAYS), "exits": strategies * len(VARIANTS)}
    made: dict[Family, int] = {"pattern": candidates.MOST_CANDIDATES}
    return {family: max(1, values[family] * len(DIRECTIONS[family])) + made.get(family, 0) for family in FAMILIES}


class Learner:
    """The state; `look` is control/learn/gate.py's, or another one that it is to be compared with. `claims_possible` is `universe`."""

    def __init__(self, claims_possible: Mapping[Family, int], trades_between_looks: int = 10, hours_between_looks: float = 1.0,
                 look: Look = gate.look) -> None:
        self._possible, self._every, self._every_ns, self._look = claims_possible, trades_between_looks, int(hours_between_looks * HOUR_NS), look
        self.state = State()
        self.claims: dict[Claim, Piece] = {}
        self.open: dict[int, Open] = {}
        #: those that are in the shadow or active
        self.standing: dict[Claim, Adaptation] = {}
        self._by_birth: dict[int, tuple[Claim, Evidence]] = {}
        #: births of what is counted since an adaptation's stage began
        self._since: dict[int, int] = {}
        #: closed trades by strategy, that candidates are found in
        self._window: dict[str, list[Seen]] = defaultdict(list)
        self._changes = Changes({}, {}, {}, {})

    # ── trades ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def opened(self, position_id: int, trade: Opened) -> None:
        """A trade opens, made or only followed; twice is once."""
        if position_id in self.open:
            return
        restricting = [] if trade.made or trade.exits else self._restricting(trade)
        births = self._speaks_to(trade, restricting)
        for birth in births:
            self._by_birth[birth][1].opened(position_id, trade.span_bps, trade.opened_ns)
        self.open[position_id] = self._changes.opened[position_id] = Open(
            trade=trade, births=births, losing_bps=max(0.0, -self._general_bps(trade, "loses")),
            winning_bps=max(0.0, self._general_bps(trade, "wins")),
            kept_by=min((one.number for one in restricting), default=0))
        self._touch(births)
        if len(self.open) > MOST_OPEN:
            self._forget(next(iter(self.open)))

    def closed(self, position_id: int, net_bps: float, now_ns: int, pnl: int = 0) -> None:
        """It closes, with that result after all costs (`pnl` in quanta). What nobody saw open says nothing."""
        found = self.open.get(position_id)
        if found is None:
            return
        births = [birth for birth in found.births if birth in self._by_birth]
        for birth in births:
            claim, evidence = self._by_birth[birth]
            evidence.closed(position_id, self._compared(claim, net_bps, found), found.trade.span_bps, now_ns)
        self._touch(births)
        self._avoided(found.kept_by, pnl)
        self._forget(position_id)
        if found.trade.exits:
            return  # no trade more: its position counts
        self.state.since_look += 1
        self.state.last_look_ns = self.state.last_look_ns or now_ns  # the hours before the first look count from the first trade
        self.passes(now_ns)

    def passes(self, now_ns: int) -> None:
        """It is that event time: a look may have come to be due."""
        state = self.state
        if state.since_look and not state.due_ns and (state.since_look >= self._every or now_ns - state.last_look_ns >= self._every_ns):
            state.due_ns = now_ns

    def remember(self, kind: Kind, opened_ns: int, closed_ns: int, position_id: int, net_bps: float) -> None:
        """A closed trade that candidates may be found in, whatever the order in which they come."""
        window, one = self._window[kind.strategy], Seen(closed_ns, position_id, candidates.traits_of(kind, opened_ns), net_bps)
        insort(window, one)
        self._changes.remembered[kind.strategy, one] = True
        for gone in window[:-candidates.WINDOW]:
            self._changes.remembered[kind.strategy, gone] = False
        del window[:-candidates.WINDOW]

    def _compared(self, claim: Claim, net_bps: float, found: Open) -> float:
        """A result as a claim sees it: beyond what the strategy's trades make in general, where it is compared with that."""
        if claim.family in COMPARED:
            return net_bps + found.losing_bps
        if claim.family == "exits":  # a wider stop takes a smaller size, at which the strategy's trades would make less
            return net_bps - (parts(claim.value)[1].larger - 1.0) * found.winning_bps
        return net_bps - found.winning_bps if claim.value in self.state.candidates else net_bps

    def _avoided(self, number: int, pnl: int) -> None:
        one = next((one for one in self.standing.values() if one.number == number and one.stage == "active"), None)
        if one is not None:
            one.avoided -= pnl
            one.avoided_trades += 1
            self._changes.adaptations[number] = one

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

    def _speaks_to(self, trade: Opened, restricting: Iterable[Adaptation]) -> list[int]:
        values: dict[Family, str] = {one.family: one.value for one in restricting}
        if trade.exits:
            values = {"exits": trade.exits}
        elif trade.made:
            values = trade.kind.values(trade.opened_ns)
        claims = [Claim(family, value, direction) for family, value in values.items() for direction in DIRECTIONS[family]]
        if trade.made and self.state.candidates:
            names = candidates.names_of(trade.kind, trade.opened_ns)
            claims += [Claim("pattern", name, "wins") for name in self.state.candidates if name in names]
        births = []
        for claim in claims:
            births.append(self._piece(claim).birth)
            if claim in self.standing:
                births.append(self._since[self.standing[claim].number])
        return births

    def _piece(self, claim: Claim) -> Piece:
        if claim not in self.claims:
            evidence = Evidence(direction=claim.direction, margin_bps=MARGINS.get(claim.family, 0.0))
            self.claims[claim] = self._changes.claims[claim] = Piece(birth=self._born(claim, evidence), evidence=evidence)
        return self.claims[claim]

    def _general_bps(self, trade: Opened, direction: Direction) -> float:
        """What its strategy's trades have made on average so far."""
        piece = self.claims.get(Claim("strategy", trade.kind.strategy, direction))
        return piece.evidence.mean_bps if piece is not None else 0.0

    def _born(self, claim: Claim, evidence: Evidence) -> int:
        self.state.births += 1
        self._by_birth[self.state.births] = claim, evidence
        return self.state.births

    # ── looks ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def look_if_due(self) -> list[Step]:
        """Decide, if a look is due, as of the time at which it came to be."""
        return self.look(self.state.due_ns) if self.state.due_ns else []

    def look(self, now_ns: int) -> list[Step]:
        """Decide on everything; gives what has become of it."""
        self.state.since_look, self.state.last_look_ns, self.state.due_ns = 0, now_ns, 0
        self.state.looks += 1
        there = Counter(claim.family for claim in self.claims)
        tested = {family: max(self._possible[family], there[family]) + self.state.ended.get(family, 0) for family in FAMILIES}
        wanted = self._look({claim: piece.evidence for claim, piece in self.claims.items()}, self.standing.values(), tested, now_ns)
        steps = [step for one in wanted for step in self._take(one)]
        self._give_up(now_ns)
        self._put_forward(now_ns)
        return steps

    def _give_up(self, now_ns: int) -> None:
        """Candidates that nothing has come of."""
        for name, one in list(self.state.candidates.items()):
            claim = Claim("pattern", name, "wins")
            tried = self.claims[claim].evidence.trades >= candidates.MOST_TRIED or now_ns - one.made_ns >= candidates.LONGEST_NS
            if tried and claim not in self.standing:
                self._forget_claim(claim)

    def _put_forward(self, now_ns: int) -> None:
        """A candidate of the strategy whose turn it is: a look at them all would take longer than a trade has."""
        if not self._window:
            return
        strategy = sorted(self._window)[self.state.looks % len(self._window)]
        of_it = sum(name.startswith(f"{strategy}: ") for name in self.state.candidates)
        if len(self.state.candidates) >= candidates.MOST_CANDIDATES or of_it >= candidates.MOST_OF_ONE:
            return
        if (found := candidates.found_in(strategy, self._window[strategy], self.state.candidates, now_ns)) is not None:
            self.state.candidates[found[0]] = found[1]
            self._piece(Claim("pattern", found[0], "wins"))

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
                ended = self._end_opposite(one)
        self._changes.adaptations[one.number] = one
        return [step._replace(version=version), *ended]

    def _end_opposite(self, ended: Adaptation) -> list[Step]:
        """What was known of a kind that has changed is forgotten in the other direction, too, and with it what stands on it."""
        steps = []
        for direction in DIRECTIONS[ended.family]:
            claim = Claim(ended.family, ended.value, direction)
            if (opposite := self.standing.get(claim)) is not None and claim != ended.claim:
                self.state.version += opposite.stage == "active"
                why = f"adaptation {ended.number} of the same {ended.family} was rolled back"
                stage: Stage = "rolled_back" if opposite.stage == "active" else "rejected"
                over = msgspec.structs.replace(opposite, stage=stage, since_ns=ended.since_ns, why=why)
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
        if claim.family == "pattern":
            self.state.candidates.pop(claim.value, None)

    # ── what is asked of it ──────────────────────────────────────────────────────────────────────────────────────────
    def _active(self, kind: Kind, now_ns: int) -> list[Adaptation]:
        return [one for claim, one in self.standing.items() if one.stage == "active" and candidates.concerns(claim, kind, now_ns)]

    def _restricting(self, trade: Opened) -> list[Adaptation]:
        """What keeps a trade from being made: the strongest restrictions, as with them alone it would not be made either."""
        found = [one for one in self._active(trade.kind, trade.opened_ns) if one.scale < 1.0]
        least = min((one.scale for one in found), default=0.0)
        return [one for one in found if one.scale == least]

    def scale(self, kind: Kind, now_ns: int) -> float:
        """By how much the size of such an entry is multiplied; 0: none is made."""
        return combined(one.scale for one in self._active(kind, now_ns))

    # ── keeping it ───────────────────────────────────────────────────────────────────────────────────────────────────
    def take_changes(self) -> Changes:
        """What has changed since; to be stored in one transaction with `state`."""
        taken, self._changes = self._changes, Changes({}, {}, {}, {})
        return taken

    def restore(self, state: State, claims: Mapping[Claim, Piece], opened: Mapping[int, Open], standing: Iterable[tuple[Adaptation, int]],
                remembered: Iterable[tuple[str, Seen]] = ()) -> None:
        """Go on where another one was: `standing` with the births of what they count, `remembered` what candidates are found in, in order.

        Raises ValueError where the parts contradict each other.
        """
        self.state, self.claims, self.open = state, dict(claims), dict(sorted(opened.items()))
        self._changes = Changes({}, {}, {}, {})
        self.standing, self._since, self._by_birth = {}, {}, {}
        for claim, piece in self.claims.items():
            self._by_birth[piece.birth] = claim, piece.evidence
        for one, birth in standing:
            self.standing[one.claim] = one
            self._since[one.number] = birth
            self._by_birth[birth] = one.claim, one.since
        self._window.clear()
        for strategy, seen in remembered:
            self._window[strategy].append(seen)
        self.check()

    def forget_open(self) -> None:
        """Nobody will ever tell how the open trades end: what counts them counts them as lost by the gambler."""
        counting = [birth for birth, (_, evidence) in self._by_birth.items() if evidence.running]
        for birth in counting:
            self._by_birth[birth][1].abandon()
        self._touch(counting)
        for position_id in list(self.open):
            self._forget(position_id)

    def lose(self, position_id: int) -> None:
        """Nobody will tell how an open trade ends: what counts it counts it as lost by the gambler, when its episode is over."""
        self._forget(position_id)

    def drop(self, position_id: int) -> None:
        """Nobody will tell how a pair ends: a person has moved or ended one of the two while both were open, and worth the same."""
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
        if missing := [name for name in self.state.candidates if Claim("pattern", name, "wins") not in self.claims]:
            raise ValueError(f"candidates without evidence: {missing}")
        if self._since.keys() != {one.number for one in self.standing.values()}:
            raise ValueError(f"standing adaptations: {sorted(self._since)} count, {[one.number for one in self.standing.values()]} stand")
        for claim, one in self.standing.items():
            if one.claim != claim or one.stage not in STANDING or not 0 < one.number <= self.state.adaptations:
                raise ValueError(f"adaptation {one.number} of {claim.text} cannot stand as {one.stage}")
