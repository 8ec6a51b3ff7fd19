"""How much: the least of four limits, in bps of equity, times the confidence. Pure.

- *risk*: risk_bps / (stop + costs): what is lost at the stop is `risk_bps` of equity.
- *volatility*: volatility_target_bps / volatility of a day: the position adds no more than that to the account's day (volatility targeting: Moreira,
  Muir 2017; Harvey et al. 2018). Where none is known it limits nothing.
- *kelly*: kelly_share × f / (stop + costs), with f = p − (1 − p) / b of the coin's record: p the share of wins, b = mean win / mean loss (Kelly 1956;
  a share of it, since p and b are estimates: MacLean, Thorp, Ziemba 2010). f is the share of equity that is lost at the stop. Only from
  `kelly_trades` closed trades on, and never below half of the risk: after thirty trades f ≤ 0 is what half of all coins without an edge show, so it
  may make an entry smaller, and no more. To end them takes evidence (control/learn/gate.py).
- *cap*: size_most_bps.

The size is rounded down to whole bps; less than 1 bps is no trade.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from control.think.analysis.config import Analysis as Settings
from control.think.strategy import CoinStatus, KnowledgeView


class Sized(NamedTuple):
    """A size in bps of equity (0: no trade), the limit that made it, and every limit in bps of equity by its name."""

    size_bps: int
    limited_by: str
    limits: dict[str, float]

    @property
    def most_bps(self) -> int:
        """What no confidence and nothing learned may exceed."""
        return max(1, math.floor(min(self.limits.values())))

    def words(self) -> str:
        """For people."""
        return f"size {self.size_bps} bps by {self.limited_by} (" + ", ".join(f"{name} {value:.0f}" for name, value in self.limits.items()) + ")"


def kelly_fraction(record: CoinStatus) -> float:
    """f = p − (1 − p) / b; NaN where b is not known: nothing was won yet, or nothing lost."""
    if not record.wins:
        return -1.0 if record.trades else math.nan
    if record.average_win_bps <= 0 or record.average_loss_bps >= 0:
        return math.nan
    share = record.wins / record.trades
    return share + (1 - share) * record.average_loss_bps / record.average_win_bps


def record_of(knowledge: KnowledgeView, symbol: str) -> CoinStatus:
    """A coin's record; none for one that is shut, whose record stands still at its worst while it is followed on paper."""
    record = knowledge.coin(symbol)
    return record if record.scale > 0 else CoinStatus()


def sized(settings: Settings, stop_bps: float, cost_bps: float, volatility_day_bps: float, confidence: float, record: CoinStatus) -> Sized:
    """The size of one entry. Distances and volatility are bps of price."""
    at_stop = stop_bps + cost_bps
    limits = {"risk": settings.risk_bps * 1e4 / at_stop if at_stop > 0 else 0.0}
    if volatility_day_bps > 0:
        limits["volatility"] = settings.volatility_target_bps * 1e4 / volatility_day_bps
    if record.trades >= settings.kelly_trades and not math.isnan(f := kelly_fraction(record)):
        limits["kelly"] = max(settings.kelly_share * f * 1e4, settings.risk_bps / 2) * 1e4 / at_stop if at_stop > 0 else 0.0
    limits["cap"] = float(settings.size_most_bps)
    name = min(limits, key=lambda one: limits[one])
    return Sized(math.floor(limits[name] * min(1.0, max(0.0, confidence))), name, limits)
