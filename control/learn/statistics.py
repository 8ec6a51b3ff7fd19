"""What trades say by coin, strategy, pattern, regime, hour, side, exit, holding time, slippage and distance; and whether the bot gets better. Pure.

These are figures to read. None of them changes anything: that takes evidence (control/learn/gate.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from control.learn.trade import Trade
from control.record.records import decimal_text

#: upper bounds in seconds of holding times, and their names
_HELD: Final = ((60, "below 1 min"), (300, "1–5 min"), (1800, "5–30 min"), (7200, "30 min–2 h"), (86_400, "2–24 h"), (math.inf, "above 24 h"))
#: upper bounds in bps of slippage and of a condition's distance
_BPS: Final = ((0.5, "below 0.5 bps"), (2, "0.5–2 bps"), (5, "2–5 bps"), (20, "5–20 bps"), (100, "20–100 bps"), (math.inf, "above 100 bps"))


def _within(bounds: tuple[tuple[float, str], ...], value: float) -> str:
    return next(name for bound, name in bounds if value < bound)


def _slippage(trade: Trade) -> str:
    known = [one for one in (trade.entry_slippage_bps, trade.exit_slippage_bps) if one is not None]
    return _within(_BPS, max(0.0, sum(known))) if known else ""


#: by dimension: a trade's value in it, "" where it has none
DIMENSIONS: Final[dict[str, Callable[[Trade], str]]] = {
    "coin": lambda trade: trade.symbol, "strategy": lambda trade: trade.strategy,
    "pattern": lambda trade: f"{trade.pattern} {trade.side}" if trade.pattern else "",
    "regime": lambda trade: f"{trade.strategy} in {trade.regime}" if trade.regime else "",
    "hour": lambda trade: trade.values["hour"], "day": lambda trade: trade.values["day"], "side": lambda trade: trade.side,
    "exit": lambda trade: trade.exit_reason,
    "holding time": lambda trade: _within(_HELD, max(0, trade.closed_ns - trade.opened_ns) / 1e9), "slippage": _slippage,
    "variant": lambda trade: trade.pair if trade.variant_bps is not None else "",
    "distance": lambda trade: "" if trade.distance_bps is None else _within(_BPS, trade.distance_bps)}


def by(dimension: str, trades: Iterable[Trade], exponent: int) -> list[dict[str, Any]]:
    """Figures of each value of a dimension, those with most trades first. Raises KeyError for a dimension that there is not."""
    value_of, groups = DIMENSIONS[dimension], dict[str, list[Trade]]()
    for trade in trades:
        if value := value_of(trade):
            groups.setdefault(value, []).append(trade)
    rows = [{dimension.replace(" ", "_"): value, **figures(group, exponent)} for value, group in groups.items()]
    return sorted(rows, key=lambda row: (-row["trades"] - row["on_paper"], str(next(iter(row.values())))))


def by_version(trades: Iterable[Trade], exponent: int) -> list[dict[str, Any]]:
    """Figures by the version of the knowledge that a trade opened with, oldest first: does the bot get better?"""
    groups: dict[int, list[Trade]] = {}
    for trade in trades:
        groups.setdefault(trade.version, []).append(trade)
    return [{"version": version, **figures(group, exponent)} for version, group in sorted(groups.items())]


def figures(trades: list[Trade], exponent: int) -> dict[str, Any]:
    """Of trades in the order of their ends. Money as decimal text (a quantum is 10^exponent), averages in bps of the entry value.

    `profit_factor` is what winners made over what losers lost (None without a loser), `sharpe` the mean over the standard deviation of a trade (not
    annualised: figures of few and of many trades can be compared), `drawdown_bps` the deepest fall of the sum of results, `after_5m_bps` and
    `after_15m_bps` how much further the price went a trade's way. What was followed on paper is counted apart; `variant_bps` is what variants of
    exits would have made more, by `pairs` (control/learn/exits.py).
    """
    made, paper = [one for one in trades if one.made], [one for one in trades if not one.made]
    won = [one.net_bps for one in made if one.pnl_quanta > 0]
    lost = [one.net_bps for one in made if one.pnl_quanta <= 0]
    count = len(made)
    mean = sum(one.net_bps for one in made) / count if count else 0.0
    deviation = math.sqrt(sum((one.net_bps - mean) ** 2 for one in made) / (count - 1)) if count > 1 else 0.0
    total = peak = drawdown = 0.0
    for one in made:
        total += one.net_bps
        peak = max(peak, total)
        drawdown = max(drawdown, peak - total)
    later = {name: [value for one in made if (value := getattr(one, name)) is not None] for name in ("after_5m_bps", "after_15m_bps")}
    pairs = [one.variant_bps for one in made if one.variant_bps is not None]
    return {
        "trades": count, "wins": len(won), "win_rate": round(len(won) / count, 4) if count else None,
        "pnl": decimal_text(sum(one.pnl_quanta for one in made), exponent), "fees": decimal_text(sum(one.fees_quanta for one in made), exponent),
        "mean_bps": round(mean, 2),
        "average_win_bps": round(sum(won) / len(won), 2) if won else None, "average_loss_bps": round(sum(lost) / len(lost), 2) if lost else None,
        "profit_factor": round(sum(won) / -sum(lost), 3) if sum(lost) < 0 else None,
        "sharpe": round(mean / deviation, 3) if deviation else None, "drawdown_bps": round(drawdown, 2),
        **{name: round(sum(values) / len(values), 2) if values else None for name, values in later.items()},
        "pairs": len(pairs), "variant_bps": round(sum(pairs) / len(pairs), 2) if pairs else None,
        "on_paper": len(paper), "paper_mean_bps": round(sum(one.net_bps for one in paper) / len(paper), 2) if paper else None}
