"""Advised: the analyst's pipeline with a model in the place of its rules.

    market ─► due? ─► analyses ─► briefing ─► model ─► verdicts ─► sizes ─► conditions
              as of the analyst    prompt   (seconds)   each told    what the analyst would risk, at most

It never waits: while a model is asked, what is armed stays armed. An answer, NO_TRADE too, replaces all that was armed; a failure arms nothing and
keeps it, or lets the rules decide (`llm.on_failure`). Coins that learning has shut are not put to the model at all: the rules go on with them, which
is followed on paper, so that the restriction can be found wrong.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from control.think.analysis import pipeline, schedule
from control.think.analysis.findings import Analysis
from control.think.analyst import Analyst
from control.think.llm import situation
from control.think.llm.advisor import Advice, Advisor
from control.think.llm.config import Llm
from control.think.llm.headlines import HeadlinesError
from control.think.llm.judgement import STRATEGY
from control.think.strategy import Condition, KnowledgeView, Market, Portfolio, equity_bps
from hotpath.config import Limits
from ipc.messages import Event

_log = logging.getLogger("strategist")


class Advised(Analyst):
    """Plans that a model proposes. `advise` before the first plan."""

    interval_s = 15

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._advisor: Advisor | None = None
        self._llm, self._limits = Llm(), Limits()
        #: analyses that the question under way is about, how long what comes of it is valid, and not before when one is asked again
        self._analyses: dict[str, Analysis] = {}
        self._valid_for_s, self._again_ns, self._failed = 0, 0, False
        #: what is armed by the last answer: instant of its plan, conditions
        self._armed: list[tuple[int, Condition]] = []
        self._events: list[Event] = []
        self._headlines_fault = ""
        #: hash of the prompt that the last list of conditions came of
        self.exchange = ""

    def advise(self, advisor: Advisor, llm: Llm, limits: Limits) -> None:
        """Ask this one from now on."""
        self._advisor, self._llm, self._limits = advisor, llm, limits

    @property
    def waiting(self) -> bool:
        """A model is being asked: one whose turn it is in a lockstep waits for it."""
        return self._advisor is not None and self._advisor.asking

    def take_events(self) -> list[Event]:
        """What is to be journaled: exchanges, verdicts, decisions about models."""
        taken, self._events = self._events, []
        return taken

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """What a model has answered since; None (at first: nothing) while there is no answer."""
        assert self._advisor is not None, "advise comes before the first plan"
        keep: list[Condition] | None = None if portfolio.planned_ns else []
        newest = {symbol: quote.last for symbol, quote in market.quotes.items() if quote.last > 0}
        advice = self._advisor.poll(market.now_ns, newest)
        if advice is None and not self._advisor.busy and market.now_ns >= self._again_ns:
            why, looks = self._due(market, portfolio, knowledge)
            if self._failed and not why:
                why = "the last question failed"
            if why:
                self._ask(why, looks, market, portfolio, knowledge)
                advice = self._advisor.poll(market.now_ns, newest)  # what was recorded at this instant is answered at it
        given = self._taken(advice, market, portfolio, knowledge) if advice is not None else None
        return keep if given is None else given

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _ask(self, why: str, looks: list[schedule.Look], market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> None:
        assert self._advisor is not None
        self._asked, self._failed, self.passed = False, False, {}
        self._valid_for_s = schedule.valid_for_s(self.analysis, looks)
        self._analyses = {}
        shut = situation.shut(market, knowledge)
        for analyses, young in pipeline.batches(market, [symbol for symbol in market.facts if symbol not in shut], self.analysis):
            self.passed |= dict.fromkeys(young, "history is too short")
            self._analyses |= {one.symbol: one for one in analyses}
        seen = list(self._analyses.values())
        brief = situation.briefing(market, portfolio, knowledge, seen, self._armed, self.analysis, self._limits,
                                   self._headlines(market.now_ns))
        self._advisor.start(brief, situation.grounds(market, portfolio, knowledge, seen, self.analysis, self._llm, self._limits,
                                                     self.trades_as or STRATEGY))
        _log.info("a model is asked at %d, since %s: %d symbols", market.now_ns, why, len(seen))

    def _headlines(self, now_ns: int) -> list[str]:
        """What llm.headlines says; none, and an event that says why, where it cannot be read."""
        assert self._advisor is not None
        fault, found = "", list[str]()
        try:
            found = self._advisor.headlines(now_ns)
        except HeadlinesError as error:
            fault = str(error)
        if fault and fault != self._headlines_fault:
            _log.warning("%s", fault)
            self._events.append(Event(source="strategist", kind="llm_headlines", text=fault, wall_ns=time.time_ns()))
        self._headlines_fault = fault
        return found

    # ── what comes of an answer ──────────────────────────────────────────────────────────────────────────────────────
    def _taken(self, advice: Advice, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """The list that an answer makes; None where what is armed stays."""
        self._events += advice.journaled()
        _log.info("%s: %s", advice.decision, advice.reason)
        self._again_ns = 0
        if advice.decision == "FAILED":
            self._failed, self._again_ns = True, market.now_ns + self._llm.breaker_cooldown_s * 1_000_000_000
            if not advice.rules:
                return None
            self.exchange = ""
            conditions = self._analysed(market, portfolio, knowledge, self._valid_for_s)
        else:
            self.exchange = advice.exchange.prompt_sha256
            conditions = [sized for one in advice.conditions if (sized := self._sized(one, knowledge, advice)) is not None]
            conditions += self._decided(situation.shut(market, knowledge), market, portfolio, knowledge, self._valid_for_s)
        self._armed = [(market.now_ns, one) for one in conditions]
        return conditions

    def _sized(self, one: Condition, knowledge: KnowledgeView, advice: Advice) -> Condition | None:
        """A proposal with what the analysis says of its symbol: never larger than the analyst's own size for such a stop."""
        seen = self._analyses.get(one.symbol)
        if seen is None or one.symbol in self.passed:
            return None
        size = self.size_of(seen, one.stop_bps, situation.costs_bps(seen, self.analysis), one.confidence, knowledge)
        asked = int(one.size.value)
        if size.size_bps < asked:
            outcome = "clamped" if size.size_bps else "refused"
            self._events.append(advice.event(outcome, f"{one.side} {one.symbol} {outcome}: size_bps {asked} → {size.words()}", one.symbol))
        if not size.size_bps:
            return None
        pattern = next((found.name for found in seen.trade.patterns if found.side == one.side), "")
        return msgspec.structs.replace(one, size=equity_bps(min(asked, size.size_bps)), pattern=pattern, regime=seen.trade.regime.name,
                                       most_equity_bps=size.most_bps)

    def close(self) -> None:
        """End what is under way."""
        if self._advisor is not None:
            self._advisor.close()
