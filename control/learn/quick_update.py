"""The quick update: a closed trade into the scores of its coin, strategy, pattern, regime and hour. Pure; microseconds.

A score only counts; what is done about it is decided by evidence (control/learn/gate.py). Trades on paper are counted apart. A score of exits counts
pairs: by how much a variant made more than the strategy's own exits (control/learn/exits.py).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from control.learn.trade import Trade

#: weight of the newest trade in the trend
TREND_WEIGHT = 0.1
#: trades below which a record says nothing
FEW_TRADES = 5


class Score(Struct, kw_only=True):
    """A kind's record, of its trades after fees. Cash in quanta; streak counts wins in a row above 0, losses in a row below; a trade of exactly 0
    is no win. `trend_bps` is the average of its trades, newer ones weighing more. It rests on all trades of its kind from the one that closed first
    to the one that closed last: `first` and `last` are their positions, `first_ns` and `last_ns` when they closed. `slippage_bps` is a sum over the
    `slipped` trades whose entry and exit are both known."""

    trades: int = 0
    wins: int = 0
    pnl: int = 0
    fees: int = 0
    streak: int = 0
    best: int = 0
    worst: int = 0
    sum_bps: float = 0.0
    #: of the winning ones alone
    won_bps: float = 0.0
    trend_bps: float = 0.0
    first_ns: int = 0
    last_ns: int = 0
    first: int = 0
    last: int = 0
    paper_trades: int = 0
    paper_bps: float = 0.0
    slippage_bps: float = 0.0
    slipped: int = 0

    @property
    def mean_bps(self) -> float:
        """Average result; 0.0 without trades."""
        return self.sum_bps / self.trades if self.trades else 0.0

    @property
    def average_win_bps(self) -> float:
        """Average of the winning trades; 0.0 without."""
        return self.won_bps / self.wins if self.wins else 0.0

    @property
    def average_loss_bps(self) -> float:
        """Average of the others, not above 0; 0.0 without."""
        losses = self.trades - self.wins
        return (self.sum_bps - self.won_bps) / losses if losses else 0.0


def updated(score: Score, trade: Trade) -> Score:
    """The score after one more trade."""
    if not trade.made:
        return msgspec.structs.replace(score, paper_trades=score.paper_trades + 1, paper_bps=score.paper_bps + trade.net_bps)
    won, pnl = trade.pnl_quanta > 0, trade.pnl_quanta
    slips = [one for one in (trade.entry_slippage_bps, trade.exit_slippage_bps) if one is not None]
    return Score(
        trades=score.trades + 1, wins=score.wins + won, pnl=score.pnl + pnl, fees=score.fees + trade.fees_quanta,
        streak=max(score.streak, 0) + 1 if won else min(score.streak, 0) - 1, best=max(score.best, pnl), worst=min(score.worst, pnl),
        sum_bps=score.sum_bps + trade.net_bps, won_bps=score.won_bps + (trade.net_bps if won else 0.0),
        trend_bps=score.trend_bps + TREND_WEIGHT * (trade.net_bps - score.trend_bps) if score.trades else trade.net_bps,
        first_ns=score.first_ns or trade.closed_ns, last_ns=max(score.last_ns, trade.closed_ns), first=score.first or trade.position_id,
        last=trade.position_id, paper_trades=score.paper_trades, paper_bps=score.paper_bps,
        slippage_bps=score.slippage_bps + (sum(slips) if len(slips) == 2 else 0.0), slipped=score.slipped + (len(slips) == 2))

