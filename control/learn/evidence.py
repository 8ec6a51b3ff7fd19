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
- **A change** is found by wealth that begins anew whenever it is below 1 (an e-detector: Shin, Ramdas and Rinaldo 2024, "E-detectors"). Such wealth
  is no e-value any more: as long as nothing has changed it takes at least 1/α episodes on average until it reaches 1/α.
- **Episodes**: trades that overlap in time move together, so they are one bet. An episode takes what opens while it is under way, up to a cap that
  the episodes before it have set, each with the weight 1/cap; what opens beyond that is not counted. It is over when all that it counts have closed.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from msgspec import Struct

#: the grid: shares of the span that may be lost by one episode
SHARES: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
#: trades in one episode at most
MOST_AT_ONCE: Final = 16

Direction = Literal["loses", "wins"]
_SIGN: Final = {"loses": -1.0, "wins": 1.0}


class Evidence(Struct, kw_only=True):
    """What speaks for one claim. All of it in basis points of a trade's entry value, after costs; `running` has the open trades that count."""

    direction: Direction
    margin_bps: float = 0.0
    #: a change is waited for: the wealth never stays below 1, so that what came before it costs nothing
    restarts: bool = False
    #: log of the wealth of each share, of the episodes that are over
    log_wealth: list[float] = []
    episodes: int = 0
    #: of every closed trade, counted in an episode or not
    trades: int = 0
    sum_bps: float = 0.0
    #: the episode under way: trades that it has counted, their cap, the span of each that is open, what the closed ones add up to
    taken: int = 0
    cap: int = 1
    running: dict[int, float] = {}
    gains: float = 0.0
    #: trades that opened while an episode was under way, counted or not, over all episodes: by it the next one's cap is set
    opened_in_all: int = 0

    def opened(self, position_id: int, span_bps: float) -> None:
        """A trade opens: it belongs to the episode under way, or begins one. Raises ValueError for a span that is none."""
        if not span_bps > 0.0:
            raise ValueError(f"position {position_id}: a span of {span_bps} bps is none")
        if not self.running:
            self.cap = min(MOST_AT_ONCE, max(1, round(self.opened_in_all / self.episodes))) if self.episodes else 1
            self.taken, self.gains = 0, 0.0
        self.opened_in_all += 1
        if self.taken < self.cap:
            self.taken += 1
            self.running[position_id] = span_bps

    def closed(self, position_id: int, net_bps: float) -> None:
        """It closes, with that result. Raises ValueError for what is no number."""
        if not math.isfinite(net_bps):
            raise ValueError(f"position {position_id}: a result of {net_bps} bps is none")
        self.trades += 1
        self.sum_bps += net_bps
        span_bps = self.running.pop(position_id, 0.0)
        if span_bps > 0.0:
            gain = _SIGN[self.direction] * net_bps - self.margin_bps
            self.gains += min(1.0, max(-1.0, gain / span_bps)) / self.cap
            if not self.running:
                self._settle()

    def _settle(self) -> None:
        before = self.log_wealth or [0.0] * len(SHARES)
        if self.restarts:
            before = [max(0.0, log) for log in before]
        self.log_wealth = [log + math.log1p(share * self.gains) for log, share in zip(before, SHARES, strict=True)]
        self.episodes += 1

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value: of the mean over the grid."""
        if not self.log_wealth:
            return 0.0
        most = max(self.log_wealth)
        return most + math.log(sum(math.exp(log - most) for log in self.log_wealth) / len(SHARES))

    @property
    def mean_bps(self) -> float:
        """Average result of a trade; 0.0 before the first."""
        return self.sum_bps / self.trades if self.trades else 0.0


def span_bps(stop_bps: float, target_bps: float) -> float:
    """How far a trade may move by the stop and target that it opens with (0: none): a quarter beyond the target, twice the stop for gaps. Without a
    target five stops, without both 1,000 bps."""
    if target_bps > 0:
        return max(1.25 * target_bps, 2.0 * stop_bps)
    return 5.0 * stop_bps if stop_bps > 0 else 1000.0
