"""Evidence for a claim about a kind of trades, as the wealth of a gambler who doubts its opposite. Pure; microseconds.

A claim is "trades of this kind lose" or "they win": more than `margin_bps` each after all costs. Against its opposite (the expectation of each,
given what was known before, is on the other side of the margin) the gambler stakes shares of a wealth of 1 on each trade before it is known. Under
the opposite no stake has a favourable expectation, so the wealth is a supermartingale: it reaches 1/α with a probability of at most α, however often
one looks (Ville's inequality). That is what a p-value loses when it is looked at after every tenth trade. Wealth of this kind is an *e-value*; of
several claims, control/learn/gate.py says which may be believed at once.

- **Bets** (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"): a trade that may move by ±`span_bps` at most
  multiplies the wealth by 1 + share × weight × gain/span. Which share is best depends on what is not known, so the wealth is divided over a grid of
  shares that never changes, and the mean over the grid is the wealth: no tuning, no look at the future.
- **Span** is known when a trade opens (stop and target). What goes beyond it counts as the span: the claim is about the mean of returns so limited.
- **Late edges**: a gambler who has lost for a long time is slow to win. So part of the wealth waits: the m-th grid begins with the m-th `BLOCK` of
  episodes, with the share 1/(m (m + 1)) of the wealth; all shares together are 1, and what has not begun is kept as it is. Of more than `MOST_GRIDS`
  the poorest is given up: to throw wealth away is no gain.
- **A change** is found by wealth that begins anew whenever it is below 1 (an e-detector: Shin, Ramdas and Rinaldo 2024, "E-detectors"). Such wealth
  is no e-value any more: as long as nothing has changed it takes at least 1/α episodes on average until it reaches 1/α.
- **Episodes**: trades that overlap in time move together, so they are one bet. An episode takes what opens while it is under way, up to a cap that
  the episodes before it have set, each with the weight 1/cap; what opens beyond that is not counted. It is over when all that it counts have closed,
  or at an instant that is set when it begins: what is still open then counts as a whole span lost by the gambler. So one trade that stays
  open for ever holds nothing up, and to hold losers open gains nothing. The same holds for what is open at a look.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from msgspec import Struct

#: the grid: shares of the span that may be lost by one episode
SHARES: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
#: trades in one episode at most
MOST_AT_ONCE: Final = 16
#: episodes after which another grid begins; grids that are kept
BLOCK, MOST_GRIDS = 50, 20
#: an episode lasts so many mean holding times at most, within these bounds; the longest as long as there is no mean of so many trades
LONGEST_HOLDINGS, FEW_HELD = 8, 10
SHORTEST_EPISODE_NS, LONGEST_EPISODE_NS = 3_600_000_000_000, 7 * 86_400_000_000_000

#: what a trade without a stop may lose, as far as it is counted
STOPLESS_BPS: Final = 1000.0

Direction = Literal["loses", "wins"]
_SIGN: Final = {"loses": -1.0, "wins": 1.0}


class Running(Struct):
    """An open trade that the episode under way counts."""

    opened_ns: int
    span_bps: float


class Grid(Struct, kw_only=True):
    """A part of the wealth, from the episode on with which it began: log of the wealth of each share, of the episodes that are over.

    `number` is the m of its share, `began_ns` when it began. Figures are of every trade that has closed since, counted in an episode or not:
    `held_bps` is the sum of results held within their spans, `worst_bps` the lowest result.
    """

    number: int
    began_ns: int
    logs: list[float]
    trades: int = 0
    sum_bps: float = 0.0
    held_bps: float = 0.0
    worst_bps: float = 0.0

    @property
    def mean_bps(self) -> float:
        """Average result of a trade, each held within its span; 0.0 before the first."""
        return self.held_bps / self.trades if self.trades else 0.0


class Evidence(Struct, kw_only=True):
    """What speaks for one claim. All of it in basis points of a trade's entry value, after costs; times are event times."""

    direction: Direction
    margin_bps: float = 0.0
    #: a change is waited for: the wealth never stays below 1, so that what came before it costs nothing
    restarts: bool = False
    grids: list[Grid] = []
    #: how many there ever were
    begun: int = 0
    episodes: int = 0
    #: that have closed, counted in an episode or not
    trades: int = 0
    #: the episode under way: when it ends at the latest, trades that it has counted, their cap, those that are open, what the closed ones add up to
    until_ns: int = 0
    taken: int = 0
    cap: int = 1
    running: dict[int, Running] = {}
    gains: float = 0.0
    #: trades that opened while an episode was under way, counted or not, over all episodes: by it the next one's cap is set
    opened_in_all: int = 0
    #: closed trades that were counted, and how long they were open: by it an episode's length is set
    held: int = 0
    held_ns: int = 0

    def opened(self, position_id: int, span_bps: float, now_ns: int) -> None:
        """A trade opens: it belongs to the episode under way, or begins one. Raises ValueError for a span that is none."""
        if not (math.isfinite(span_bps) and span_bps > 0.0):
            raise ValueError(f"position {position_id}: a span of {span_bps} bps is none")
        self._expire(now_ns)
        if not self.running:
            self.cap = min(MOST_AT_ONCE, max(1, round(self.opened_in_all / self.episodes))) if self.episodes else 1
            self.taken, self.gains = 0, 0.0
            if not self.begun or (self.episodes >= BLOCK * self.begun and not self.restarts):
                self._begin(now_ns)
            usual_ns = LONGEST_HOLDINGS * self.held_ns // self.held if self.held >= FEW_HELD else LONGEST_EPISODE_NS
            self.until_ns = now_ns + min(LONGEST_EPISODE_NS, max(SHORTEST_EPISODE_NS, usual_ns))
        self.opened_in_all += 1
        if self.taken < self.cap:
            self.taken += 1
            self.running[position_id] = Running(now_ns, span_bps)

    def _begin(self, now_ns: int) -> None:
        """Another grid."""
        self.begun += 1
        self.grids.append(Grid(number=self.begun, began_ns=now_ns, logs=[0.0] * len(SHARES)))
        if len(self.grids) > MOST_GRIDS:
            self.grids.remove(min(self.grids[:-1], key=_wealth))

    def closed(self, position_id: int, net_bps: float, span_bps: float, now_ns: int) -> None:
        """It closes, with that result; the span is the one that it opened with. Raises ValueError for what is no number."""
        if not math.isfinite(net_bps):
            raise ValueError(f"position {position_id}: a result of {net_bps} bps is none")
        self._expire(now_ns)
        self.trades += 1
        for grid in self.grids:
            grid.trades += 1
            grid.sum_bps += net_bps
            grid.held_bps += min(span_bps, max(-span_bps, net_bps))
            grid.worst_bps = min(grid.worst_bps, net_bps)
        if (one := self.running.pop(position_id, None)) is not None:
            gain = _SIGN[self.direction] * net_bps - self.margin_bps
            self.gains += min(1.0, max(-1.0, gain / one.span_bps)) / self.cap
            self.held += 1
            self.held_ns += max(0, now_ns - one.opened_ns)
            if not self.running:
                self._settle()

    def _expire(self, now_ns: int) -> None:
        if self.running and now_ns >= self.until_ns:
            self.abandon()

    def abandon(self) -> None:
        """The episode under way is over; what it has open is lost by the gambler."""
        if self.running:
            self.gains -= len(self.running) / self.cap
            self.running.clear()
            self._settle()

    def dropped(self, position_id: int) -> None:
        """Nobody will tell how it ends, and when that came about it was worth nothing, as a pair of which both are open is: it is no part of the bet.
        Of any other, that it was still open says something of its result: nothing is valid for those but to let them run out."""
        if self.running.pop(position_id, None) is not None and not self.running:
            self._settle()

    def _settle(self) -> None:
        for grid, logs in zip(self.grids, self._wealth_with(self.gains), strict=True):
            grid.logs = logs
        self.episodes += 1

    def _wealth_with(self, gains: float) -> list[list[float]]:
        """Logs of the wealth after an episode that adds up to so much."""
        least = 0.0 if self.restarts else -math.inf
        return [[max(least, log) + math.log1p(share * gains) for log, share in zip(grid.logs, SHARES, strict=True)] for grid in self.grids]

    @property
    def most_log_e(self) -> float:
        """`log_e` is not above it; costs a glance."""
        return max(0.0, max((max(grid.logs) for grid in self.grids), default=0.0)) + 1.0

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value at this instant: of the mean over the grids, each with its share, with what is open counted as lost."""
        if not self.grids:
            return 0.0
        wealth = self._wealth_with(self.gains - len(self.running) / self.cap) if self.running else [grid.logs for grid in self.grids]
        if self.restarts:
            return _log_mean(wealth[0])
        logs = [_log_mean(logs) - _log_share(grid) for grid, logs in zip(self.grids, wealth, strict=True)]
        return _log_sum([*logs, -math.log(self.begun + 1)])

    @property
    def best(self) -> Grid:
        """The grid that holds the most wealth: the trades since it began are those that the evidence comes of."""
        return max(self.grids, key=_wealth, default=Grid(number=1, began_ns=0, logs=[0.0] * len(SHARES)))

    @property
    def mean_bps(self) -> float:
        """Average result of the trades that the evidence comes of, each held within its span."""
        return self.best.mean_bps

    @property
    def agrees(self) -> bool:
        """Their plain results say the same: they lose on average, too, or win with their worst one counted twice."""
        best = self.best
        plain_bps = best.sum_bps + (best.worst_bps if self.direction == "wins" else 0.0)
        return _SIGN[self.direction] * plain_bps > self.margin_bps * best.trades

    def check(self) -> None:
        """Raises ValueError where the parts contradict each other."""
        for wrong, text in ((self.trades < 0 or self.episodes < 0 or self.held > self.trades, "counts"),
                            (len(self.running) > self.taken or not 1 <= self.cap <= MOST_AT_ONCE or self.taken > self.cap, "the episode under way"),
                            (abs(self.gains) > 1.0 + 1e-9, "gains of an episode"),
                            (any(len(grid.logs) != len(SHARES) or not all(map(math.isfinite, grid.logs)) for grid in self.grids), "wealth"),
                            (len(self.grids) != min(self.begun, MOST_GRIDS) or (self.restarts and self.begun > 1), "grids"),
                            (not all(math.isfinite(one) for grid in self.grids for one in (grid.sum_bps, grid.held_bps, grid.worst_bps)), "sums")):
            if wrong:
                raise ValueError(f"evidence that trades {self.direction[:-1]}: {text} cannot be so: {self}")


def _log_share(grid: Grid) -> float:
    return math.log(grid.number * (grid.number + 1))


def _wealth(grid: Grid) -> float:
    """Log of what it has of the whole."""
    return _log_mean(grid.logs) - _log_share(grid)


def _log_sum(logs: list[float]) -> float:
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs))


def _log_mean(logs: list[float]) -> float:
    return _log_sum(logs) - math.log(len(logs))


def span_bps(stop_bps: float, target_bps: float) -> float:
    """How far a trade may move by the stop and target that it opens with (0: none): a quarter beyond the target, twice the stop for gaps. Without a
    target five stops; without a stop 1,000 bps at least, as nothing but time ends its losses."""
    if stop_bps > 0:
        return max(1.25 * target_bps, 2.0 * stop_bps) if target_bps > 0 else 5.0 * stop_bps
    return max(1.25 * target_bps, STOPLESS_BPS)
