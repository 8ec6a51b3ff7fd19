"""The quick update: a closed trade into its coin's score, and what a score means for the next plan. Pure; microseconds.

status by the score, first match (all of it after fees):

| status      | when                                                              | size of an entry |
|-------------|-------------------------------------------------------------------|------------------|
| unknown     | fewer than 5 trades                                               | × 1              |
| blacklisted | 20 trades or more, wins < 25 %, P&L < 0, last trade within 24 h   | × 0, no entries  |
| reduced     | wins < 40 % and P&L < 0, or 5 losses in a row                     | × 0.5            |
| favoured    | wins ≥ 60 % and P&L > 0                                           | × 1.5            |
| normal      | else                                                              | × 1              |

A blacklisted coin is tried again, reduced, when nothing has been traded in it for 24 h of event time: without that nothing could ever
change its score.
"""

from __future__ import annotations

from msgspec import Struct

#: trades below which a record says nothing
FEW_TRADES = 5
#: trades from which a coin may be blacklisted
ENOUGH_TRADES = 20
#: event time without a trade after which a blacklisted coin is tried again
PROBATION_NS = 24 * 3_600_000_000_000
#: losses in a row that halve the size
LOSING_STREAK = -5
#: size of an entry by status
SCALES = {"unknown": 1.0, "blacklisted": 0.0, "reduced": 0.5, "favoured": 1.5, "normal": 1.0}


class ClosedTrade(Struct, frozen=True, kw_only=True):
    """What the update needs of a round trip: P&L after fees and fees (> 0) in quanta, event time of its end."""

    symbol: str
    pnl: int
    fees: int
    closed_ns: int


class CoinScore(Struct, frozen=True, kw_only=True):
    """A coin's record. Cash in quanta; streak counts wins in a row above 0, losses in a row below; a trade of exactly 0 is no win.

    `won` is the P&L of the wins alone; 0 where there are wins: it began before that was kept, and does not know.
    """

    trades: int = 0
    wins: int = 0
    pnl: int = 0
    fees: int = 0
    streak: int = 0
    best: int = 0
    worst: int = 0
    last_ns: int = 0
    won: int = 0


def updated(score: CoinScore, trade: ClosedTrade) -> CoinScore:
    """The score after one more trade."""
    won = trade.pnl > 0
    return CoinScore(
        trades=score.trades + 1, wins=score.wins + won, pnl=score.pnl + trade.pnl, fees=score.fees + trade.fees,
        streak=max(score.streak, 0) + 1 if won else min(score.streak, 0) - 1,
        best=max(score.best, trade.pnl), worst=min(score.worst, trade.pnl), last_ns=max(score.last_ns, trade.closed_ns),
        won=score.won + trade.pnl if won and (score.won or not score.wins) else score.won)


def status(score: CoinScore, now_ns: int) -> str:
    """Status of a score at an event time; see the table above."""
    if score.trades < FEW_TRADES:
        return "unknown"
    share, losing = score.wins / score.trades, score.pnl < 0
    if score.trades >= ENOUGH_TRADES and share < 0.25 and losing and now_ns - score.last_ns < PROBATION_NS:
        return "blacklisted"
    if (share < 0.40 and losing) or score.streak <= LOSING_STREAK:
        return "reduced"
    return "favoured" if share >= 0.60 and score.pnl > 0 else "normal"
