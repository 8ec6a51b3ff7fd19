"""Analyst: what its analysis of every symbol says (control/think/analysis), decided by rules.

    market ─► look ─► due? ─► analyses ─► rules ─► sizes ─► conditions
               every candle    in batches    Signal or NoTrade with its reason

It is asked once a minute. As long as no analysis is due it gives None: what is armed stays, and it was armed for long enough. An analysis replaces
all of it. `passed` says of the last one why nothing is armed in a symbol.
"""

from __future__ import annotations

import logging
import re
import time

from control.think import config
from control.think.analysis import pipeline, schedule
from control.think.analysis.conditions import condition
from control.think.analysis.config import HISTORY_CANDLES, REGIME_CANDLES
from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import Analysis
from control.think.analysis.rules import Rules
from control.think.analysis.signal import NoTrade, Signal
from control.think.analysis.sizing import Sized, record_of, sized
from control.think.analysis.timeframes import MINUTE_NS, resampled
from control.think.enforce import is_too_small
from control.think.llm.briefing import clean
from control.think.strategy import Condition, Facts, KnowledgeView, Market, Portfolio, Strategy
from ipc.messages import Event

_log = logging.getLogger("strategist")
#: characters of an event about symbols that were passed by; its data have all of them
_WORDS_MOST = 1_000
_FIGURE = re.compile(r"[-+]?[0-9][0-9.,]*")


class Analyst(Strategy):
    """Plans by analysis, between every quarter of an hour and every four."""

    interval_s = 60

    def __init__(self, settings: config.Strategy | None = None, analysis: Settings | None = None) -> None:
        super().__init__(settings, analysis)
        self._asked = False
        #: what was seen at the last look, and at which close of the traded timeframe, since which plan: it stays until one of the two is another
        self._seen: list[schedule.Look] = []
        self._seen_at = (-1, -1)
        #: why nothing is armed, by symbol, as of the last analysis; and as it was journaled, figures apart
        self.passed: dict[str, str] = {}
        self._told_passed: dict[str, str] = {}
        self._events: list[Event] = []

    def ask_now(self) -> None:
        """An operator's word: the next call analyses, whatever the schedule says."""
        self._asked = True

    def take_events(self) -> list[Event]:
        """What is to be journaled: why nothing is armed, where that has changed."""
        taken, self._events = self._events, []
        return taken

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """The conditions of an analysis where one is due, the most confident first; None where none is."""
        why, looks = self._due(market, portfolio, knowledge)
        if not why:
            return None
        conditions = self._analysed(market, portfolio, knowledge, schedule.valid_for_s(self.analysis, looks))
        self._asked = False
        _log.info("analysis at %d, since %s: %d conditions; passed by: %s", market.now_ns, why, len(conditions),
                  "; ".join(f"{symbol}: {reason}" for symbol, reason in self.passed.items()) or "none")
        return conditions

    def _due(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> tuple[str, list[schedule.Look]]:
        """Why an analysis is due ("": none is), and what was looked at."""
        why = "an operator's word" if self._asked else schedule.happened(portfolio, knowledge, market.facts)
        looks = self._looks(market, portfolio.planned_ns)
        return why or schedule.due(self.analysis, looks, market.now_ns, portfolio.planned_ns), looks

    def _looks(self, market: Market, planned_ns: int) -> list[schedule.Look]:
        """At every symbol that has candles of the traded timeframe; anew where another has closed, or a symbol was without."""
        minutes = self.analysis.trade_timeframe_min
        at = (market.now_ns // (minutes * MINUTE_NS), planned_ns)
        if at != self._seen_at or len(self._seen) < len(market.facts):
            found = (resampled(market.candles(symbol), minutes, market.now_ns) for symbol in market.facts)
            self._seen_at, self._seen = at, [schedule.look(candles, planned_ns) for candles in found if candles is not None]
        return self._seen

    def _analysed(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView, valid_for_s: int) -> list[Condition]:
        self.passed = {}
        conditions = self._decided(list(market.facts), market, portfolio, knowledge, valid_for_s)
        conditions.sort(key=lambda made: (-made.confidence, made.symbol))
        most = self.config.most_per_plan
        self.passed |= {one.symbol: f"strategy.most_per_plan = {most} others are surer" for one in conditions[most:]}
        self._tell_passed(market.now_ns)
        return conditions[:most]

    def _tell_passed(self, now_ns: int) -> None:
        """An event of the symbols in which nothing is armed for another reason than at the last analysis; that its figures are others is none."""
        plain = {symbol: _FIGURE.sub("", reason) for symbol, reason in self.passed.items()}
        anew = {symbol: self.passed[symbol] for symbol, reason in plain.items() if self._told_passed.get(symbol) != reason}
        self._told_passed = plain
        if anew:
            words = "; ".join(f"{symbol}: {reason}" for symbol, reason in anew.items())
            self._events.append(Event(source="strategist", kind="no_trade", text=clean(f"nothing is armed in {words}", _WORDS_MOST),
                                      wall_ns=time.time_ns(), data={"due_ns": now_ns, "passed": anew}))

    def _decided(self, symbols: list[str], market: Market, portfolio: Portfolio, knowledge: KnowledgeView, valid_for_s: int) -> list[Condition]:
        """What is armed by a decision about each of these symbols; `passed` says why nothing is."""
        rules = Rules(self.analysis)
        conditions: list[Condition] = []
        self.passed |= {symbol: "position is open" for symbol in symbols if symbol in portfolio.positions}
        symbols = [symbol for symbol in symbols if symbol not in portfolio.positions]
        for analyses, young in pipeline.batches(market, symbols, self.analysis):
            self.passed |= dict.fromkeys(young, "history is too short")
            for seen in analyses:
                one = rules.of(seen)
                made = one.reason if isinstance(one, NoTrade) else self._condition(one, seen, market, portfolio, knowledge, valid_for_s)
                if isinstance(made, str):
                    self.passed[seen.symbol] = made
                else:
                    conditions.append(made)
        return conditions

    def _condition(self, signal: Signal, seen: Analysis, market: Market, portfolio: Portfolio, knowledge: KnowledgeView,
                   valid_for_s: int) -> Condition | str:
        """What is armed by a signal, or why nothing is."""
        size = self.size_of(seen, signal.stop_bps, signal.cost_bps, signal.confidence, knowledge)
        if not size.size_bps:
            return f"no size: {size.words()}"
        facts = market.facts[seen.symbol]
        made = condition(signal, size, seen, facts, self.analysis, valid_for_s)
        return made if isinstance(made, str) else self.least_order(made, seen, facts, portfolio) or made

    def least_order(self, one: Condition, seen: Analysis, facts: Facts, portfolio: Portfolio) -> str:
        """Why a size is none that the venue takes, "" for one that it does, and where equity is not known yet."""
        if not portfolio.equity > 0 or not is_too_small(one, one.size, facts, seen.price, portfolio.equity):
            return ""
        return f"size {one.size.value} bps of {portfolio.equity:g} is less than the venue's least order of {facts.min_notional:f}, or than a lot"

    @property
    def most_stop_bps(self) -> int:
        """Beyond it learning does not widen a stop."""
        return self.analysis.stop_most_bps

    def size_of(self, seen: Analysis, stop_bps: float, cost_bps: float, confidence: float, knowledge: KnowledgeView) -> Sized:
        """How much is entered with such a stop."""
        return sized(self.analysis, stop_bps, cost_bps, seen.volatility_day_bps, confidence, record_of(knowledge, seen.symbol))

    def warmup_left_s(self, market: Market) -> float:
        """Seconds until the first symbol has the candles of the traded timeframe that a regime needs."""
        minutes, have = self.analysis.trade_timeframe_min, 0
        for symbol in market.facts:
            if have >= REGIME_CANDLES:
                break  # it is asked every minute: no more candles than that takes
            candles = resampled(market.candles(symbol, HISTORY_CANDLES * minutes), minutes, market.now_ns)
            have = max(have, 0 if candles is None else len(candles))
        return float(max(0, REGIME_CANDLES - have) * minutes * 60)
