"""How much: the least of four limits, in bps of equity, times the confidence. Pure.

- *risk*: risk_bps / (stop + costs): what is lost at the stop is `risk_bps` of equity.
- *volatility*: volatility_target_bps / volatility of a day: the position adds no more than that to the account's day (volatility targeting: Moreira,
  Muir 2017; Harvey et al. 2018). Where none is known it limits nothing.
- *kelly*: kelly_share × f / (stop + costs), with f = p − (1 − p) / b of the coin's record: p the share of wins, b = mean win / mean loss (Kelly 1956;
  a share of it, since p and b are estimates: MacLean, Thorp, Ziemba 2010). f is the share of equity that is lost at the stop. Only from
  `kelly_trades` closed trades on; at f ≤ 0 nothing is traded.
- *cap*: size_most_bps.

The size is rounded down to whole bps; less than 1 bps is no trade.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from control.think.analysis.config import Analysis as Settings
from control.think.strategy import CoinStatus


class Sized(NamedTuple):
    """A size in bps of equity (0: no trade), the limit that made it, and every limit in bps of equity by its name."""

    size_bps: int
    limited_by: str
    limits: dict[str, float]

    def words(self) -> str:
        """For people."""
        return f"size {self.size_bps} bps by {self.limited_by} (" + ", ".join(f"{name} {value:.0f}" for name, value in self.limits.items()) + ")"


def kelly_fraction(record: CoinStatus) -> float:
    """f = p − (1 − p) / b; NaN where b is not known: nothing lost yet, or a record of before winnings were kept."""
    losses, lost = record.trades - record.wins, record.pnl_won - record.pnl
    if not record.wins:
        return -1.0 if losses else math.nan
    if not losses or record.pnl_won <= 0 or lost <= 0:
        return math.nan
    return (record.wins - lost * record.wins / record.pnl_won) / record.trades  # (1 − p) / b, put so that only winnings divide


def sized(settings: Settings, stop_bps: float, cost_bps: float, volatility_day_bps: float, confidence: float, record: CoinStatus) -> Sized:
    """The size of one entry. Distances and volatility are bps of price."""
    at_stop = stop_bps + cost_bps
    limits = {"risk": settings.risk_bps * 1e4 / at_stop if at_stop > 0 else 0.0}
    if volatility_day_bps > 0:
        limits["volatility"] = settings.volatility_target_bps * 1e4 / volatility_day_bps
    if record.trades >= settings.kelly_trades and not math.isnan(f := kelly_fraction(record)):
        limits["kelly"] = max(0.0, settings.kelly_share * f * 1e8 / at_stop) if at_stop > 0 else 0.0
    limits["cap"] = float(settings.size_most_bps)
    name = min(limits, key=lambda one: limits[one])
    return Sized(math.floor(limits[name] * min(1.0, max(0.0, confidence))), name, limits)
