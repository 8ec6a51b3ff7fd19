"""What a plan sees, as the briefing that a prompt is made of and as the grounds that proposals are judged by. Pure.

Rows are in the order of their worth: the market by how far its score is from 0, results newest first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from control.learn.gate import Adaptation
from control.learn.trade import Trade
from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import Analysis
from control.think.llm.briefing import ActiveRow, Briefing, CoinRow, HeldRow, Knowledge, MarketRow, ResultRow, RiskRow, RuleRow
from control.think.llm.config import Llm
from control.think.llm.judgement import Grounds, Mark
from control.think.strategy import Candles, Condition, Held, Market, Portfolio
from hotpath.config import Limits

_MINUTE_NS = 60_000_000_000
#: closed trades that are told
RESULTS = 10
#: what an active adaptation is told as, by family
_SECTIONS = {"pattern": "patterns", "regime": "regimes", "hour": "hours", "day": "hours"}


def mark_of(market: Market, seen: Analysis) -> float:
    """What levels are bps from: the last price, or the last close where none has been seen."""
    last = market.quotes[seen.symbol].last
    return last if last > 0 else seen.price


def costs_bps(seen: Analysis, settings: Settings) -> float:
    """A round trip: both fees of the instrument and the spread."""
    return seen.costs_bps(settings.max_spread_bps)


def briefing(market: Market, portfolio: Portfolio, knowledge: Any, analyses: Sequence[Analysis], armed: Sequence[tuple[int, Condition]],
             settings: Settings, limits: Limits, headlines: Sequence[str] = ()) -> Briefing:
    """Everything that one prompt carries; `armed` are the conditions of its own that may still fire, each with the instant of its plan."""
    marks = {one.symbol: mark_of(market, one) for one in analyses}
    return Briefing(
        now_ns=market.now_ns, market=[_market_row(market, one, settings) for one in sorted(analyses, key=lambda one: (-abs(one.score), one.symbol))],
        risk=_risk(portfolio, limits), held=[_held_row(one, market, marks, portfolio.equity) for one in portfolio.positions.values()],
        active=[row for planned_ns, one in armed if (row := _active_row(planned_ns, one, marks, market.now_ns)) is not None],
        knowledge=_knowledge(market, knowledge), results=[_result_row(one, market.now_ns) for one in knowledge.results(RESULTS)],
        headlines=list(headlines))


def grounds(market: Market, portfolio: Portfolio, knowledge: Any, analyses: Sequence[Analysis], settings: Settings, llm: Llm,
            limits: Limits) -> Grounds:
    """What proposals are judged by, but for who asks. What has been learned is also put upon the plan afterwards, as upon any other
    (control/think/enforce.py)."""
    marks = {one.symbol: Mark(mark_of(market, one), 0.0 if math.isnan(one.spread_bps) else one.spread_bps, costs_bps(one, settings))
             for one in analyses}
    held = {symbol: one.side for symbol, one in portfolio.positions.items()}
    exposure = {symbol: _of_equity_bps(value, portfolio.equity) for symbol, value in portfolio.exposure.items()}
    return Grounds(facts=market.facts, marks=marks, equity=portfolio.equity, settings=llm, limits=limits, held=held,
                   exposure_bps=exposure, blacklist=frozenset(shut(market, knowledge)), least_reward_risk=settings.least_reward_risk)


def shut(market: Market, knowledge: Any) -> list[str]:
    """Symbols in which learning permits no entry."""
    return [symbol for symbol in market.facts if knowledge.coin(symbol).scale == 0]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _market_row(market: Market, seen: Analysis, settings: Settings) -> MarketRow:
    candles, mark = market.candles(seen.symbol), mark_of(market, seen)
    hour = max(1, 3600 // candles.candle_s)

    def moved(minutes: int) -> float | None:
        """Since the price at which the first of the candles of so many minutes began."""
        back, rest = divmod(minutes * 60, candles.candle_s)
        return _bps(mark / float(candles.open[-back]) - 1) if not rest and 0 < back <= len(candles) else None

    return MarketRow(
        symbol=seen.symbol, mark=mark, spread_bps=None if math.isnan(seen.spread_bps) else seen.spread_bps, costs_bps=costs_bps(seen, settings),
        return_1m_bps=moved(1), return_5m_bps=moved(5), return_15m_bps=moved(15), return_1h_bps=moved(60), return_1d_bps=moved(1440),
        volatility_bps=seen.volatility_day_bps, range_low_bps=_bps(float(candles.low[-hour:].min()) / mark - 1) if len(candles) else None,
        range_high_bps=_bps(float(candles.high[-hour:].max()) / mark - 1) if len(candles) else None, volume_burst=_volume_burst(candles),
        funding_bps=market.funding_bps.get(seen.symbol),         regime=seen.trade.regime.name, score=seen.score,
        patterns=[f"{one.name} to {one.side}" for one in seen.trade.patterns], short_allowed=seen.short_allowed)


def _volume_burst(candles: Candles) -> float | None:
    """Volume of the last minute by the average minute of the last hour; None where candles are longer, or there is no such hour."""
    minute, hour = 60 // candles.candle_s, 3600 // candles.candle_s
    whole = float(candles.volume[-hour:].sum()) if 60 % candles.candle_s == 0 and len(candles) >= hour else 0.0
    return 60 * float(candles.volume[-minute:].sum()) / whole if whole > 0 else None


def _risk(portfolio: Portfolio, limits: Limits) -> RiskRow:
    equity, began = portfolio.equity, portfolio.day_start_equity
    return RiskRow(
        equity=equity, cash=portfolio.cash, open_positions=portfolio.open_positions, most_open_positions=limits.max_open_positions,
        entries_today=portfolio.entries_today, most_entries_per_day=limits.max_entries_per_day,
        gross_exposure_bps=round(_of_equity_bps(sum(portfolio.exposure.values()), equity)), most_gross_exposure_bps=limits.max_gross_exposure_bps,
        open_risk_bps=round(_of_equity_bps(portfolio.open_risk, equity)), loss_today_bps=max(0.0, _bps(1 - equity / began)) if began > 0 else 0.0,
        most_daily_loss_bps=limits.daily_loss_bps,
        least_confidence_bps=None if limits.min_confidence is None else round(limits.min_confidence * 10_000))


def _held_row(one: Held, market: Market, marks: Mapping[str, float], equity: float) -> HeldRow:
    """At the last price also where a coin is not analysed, as learning has shut it, or its history is short."""
    sign, known, quote = 1 if one.side == "buy" else -1, one.entry_price > 0, market.quotes.get(one.symbol)
    price = quote.last if quote is not None and quote.last > 0 else marks.get(one.symbol, one.entry_price)

    def gained_at(level: float) -> int | None:
        return round(sign * _bps(level / one.entry_price - 1)) if level > 0 and known else None

    lost = gained_at(one.stop_price)
    return HeldRow(symbol=one.symbol, side=one.side, share_bps=round(_of_equity_bps(one.amount * price, equity)),
                   gain_bps=sign * _bps(price / one.entry_price - 1) if known else 0.0,
                   stop_bps=None if lost is None else -lost, target_bps=gained_at(one.target_price),
                   open_minutes=max(0.0, (market.now_ns - one.opened_ns) / _MINUTE_NS) if one.opened_ns else 0.0)


def _active_row(planned_ns: int, one: Condition, marks: Mapping[str, float], now_ns: int) -> ActiveRow | None:
    mark, price = marks.get(one.symbol), one.level if not one.rebound_bps else None
    left_ns = planned_ns + one.valid_for_s * 1_000_000_000 - now_ns
    if left_ns <= 0:
        return None
    by_level = mark is not None and price is not None
    return ActiveRow(symbol=one.symbol, side=one.side, level_bps=round(_bps(float(price) / mark - 1)) if mark and price else None,
                     waits_for="" if by_level else _waits_for(one), minutes_left=round(left_ns / _MINUTE_NS),
                     stop_bps=one.stop_bps, target_bps=one.target_bps, strategy="llm", why=one.why)


def _waits_for(one: Condition) -> str:
    """What fires a condition that has no distance from a mark: the rules arm such ones where they have taken over."""
    if one.rebound_bps:
        came_to = f", once at {one.level}" if one.level else ""
        return f"{one.price} {one.rebound_bps} bps {one.direction} from its {'low' if one.direction == 'up' else 'high'}{came_to}"
    if one.feature is not None:
        return f"{one.feature} {one.direction} through {one.value or 0:g}"
    return f"{one.price} {one.direction} through {one.level or f'{one.move_bps} bps from {one.anchor}'}"


def _knowledge(market: Market, knowledge: Any) -> Knowledge:
    coins = {symbol: knowledge.coin(symbol) for symbol in market.facts}
    rules: dict[str, list[RuleRow]] = {"patterns": [], "regimes": [], "hours": []}
    for one in knowledge.active:
        if one.family in _SECTIONS:
            rules[_SECTIONS[one.family]].append(_rule_row(one))
    return Knowledge(
        coins=[CoinRow(symbol=symbol, trades=one.trades, wins=one.wins, pnl=one.pnl, streak=one.streak, status=one.status, scale=one.scale)
               for symbol, one in coins.items() if one.trades],
        blacklist=shut(market, knowledge),
        favourites=[symbol for symbol, one in coins.items() if one.scale > 1], **rules)


def _rule_row(one: Adaptation) -> RuleRow:
    return RuleRow(name=one.value, rule="no entries" if one.scale == 0 else f"size × {one.scale:g}", trades=one.trades, edge_bps=one.mean_bps,
                   measure=one.claim.measure if one.claim.is_compared else "")


def _result_row(trade: Trade, now_ns: int) -> ResultRow:
    return ResultRow(symbol=trade.symbol, side="buy" if trade.side == "buy" else "sell", result_bps=trade.net_bps,
                     closed_minutes_ago=max(0.0, (now_ns - trade.closed_ns) / _MINUTE_NS), exit=trade.exit_reason, why=trade.why)


def _of_equity_bps(value: float, equity: float) -> float:
    return 1e4 * value / equity if equity > 0 and math.isfinite(value) else 0.0


def _bps(share: float) -> float:
    return 1e4 * share
