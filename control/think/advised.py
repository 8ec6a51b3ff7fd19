"""Advised: the analyst's pipeline with a model in the place of its rules.

    market ─► due? ─► analyses ─► briefing ─► model ─► verdicts ─► sizes ─► conditions
              as of the analyst    prompt   (seconds)   each told    what the analyst would risk, at most

It never waits: while a model is asked, what is armed stays armed, and whatever happens then calls for the next question. An answer, NO_TRADE too,
replaces all that was armed; a failure arms nothing and keeps it, or lets the rules decide (`llm.on_failure`), and is followed by a pause that only
something that happens, or an operator, breaks off. Coins that learning has shut are not put to the model at all: the rules go on with them, which is
followed on paper, so that the restriction can be found wrong. Where nothing is left to ask about, nobody is asked.

A list that was refused, or that something learned has overtaken, is offered again with the time that is left to it: no answer is bought twice.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from control.think.analysis import pipeline, schedule
from control.think.analysis.findings import Analysis
from control.think.analysis.rules import HOLD
from control.think.analysis.timeframes import MINUTE_NS
from control.think.analyst import Analyst
from control.think.llm import situation
from control.think.llm.advisor import Advice, Advisor
from control.think.llm.config import Llm
from control.think.llm.exchange import LOST, Asking, Exchange, without_end
from control.think.llm.headlines import HeadlinesError
from control.think.llm.judgement import STRATEGY, Verdict, barred
from control.think.strategy import Clause, Condition, KnowledgeView, Market, Portfolio, equity_bps
from hotpath.activities import event_of
from hotpath.config import Limits
from hotpath.errors import Action, ErrorManager, Kind
from ipc.messages import Event

_log = logging.getLogger("strategist")
#: longest pause after failures in a row, each twice as long as the one before it
_PAUSE_MOST_S = 900.0
_SECOND_NS = 1_000_000_000


class Advised(Analyst):
    """Plans that a model proposes. `advise` before the first plan."""

    interval_s = 15

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._advisor: Advisor | None = None
        self._llm, self._limits, self._name = Llm(), Limits(), STRATEGY
        #: how advice is getting on, for the board
        self.errors = ErrorManager(f"advice {STRATEGY}")
        #: exchanges of a predecessor, newest first, and its last question where no end of that is known
        self._past: Sequence[Exchange] = ()
        self._lost: Asking | None = None
        #: analyses that the question under way is about, how long what comes of it is valid, and whether an operator wanted it
        self._analyses: dict[str, Analysis] = {}
        self._valid_for_s, self._wanted = 0, False
        #: event time of the last question: what has happened since calls for another one
        self._since_ns = 0
        #: the last question has brought nothing, and is put again then
        self._failed, self._again_ns = False, 0
        #: something was learned that no question knows of
        self._anew = False
        #: instant and conditions of the last list; it was not armed
        self._offered: tuple[int, list[Condition]] | None = None
        #: coins of it that learning had shut: what the rules say of these is for paper alone
        self._for_paper: frozenset[str] = frozenset()
        self._refused = False
        self._speed = 1.0
        #: why nobody was asked, as it was journaled last
        self._told = ""
        self._headlines_fault = ""
        #: hash of the prompt that the last list of conditions came of, and what was said then
        self.exchange, self.said = "", ""

    def advise(self, advisor: Advisor, llm: Llm, limits: Limits, name: str = STRATEGY, past: Sequence[Exchange] = (),
               lost: Asking | None = None, speed: float = 1.0) -> None:
        """Ask this one from now on. `past` are exchanges of a predecessor, newest first; `lost` is its last question, where it had no end. `speed`:
        event seconds a wall second, by which a pause is as long as an endpoint and a budget want it."""
        self._speed = speed
        self._advisor, self._llm, self._limits, self._name, self._past, self._lost = advisor, llm, limits, name, past, lost
        self.errors.activity = f"advice {name}"

    @property
    def most_stop_bps(self) -> int:
        """Beyond it learning does not widen a stop."""
        return min(super().most_stop_bps, self._llm.most_stop_bps)

    @property
    def most_target_bps(self) -> int:
        """Beyond it learning does not move a target."""
        return self._llm.most_target_bps

    @property
    def waiting(self) -> bool:
        """A model is being asked: one whose turn it is in a lockstep waits for it."""
        return self._advisor is not None and self._advisor.asking

    def refused(self) -> None:
        """The last list was not armed."""
        self._refused = True

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """What a model has answered since; None while there is no answer (without a list that is armed: what there was, or nothing)."""
        assert self._advisor is not None, "advise comes before the first plan"
        self._go_on(market.now_ns, portfolio.planned_ns)
        kept = self._kept(market, portfolio, knowledge)
        given = self._answer(market, portfolio, knowledge) if self._lost is None else self._unended(self._lost, market, portfolio, knowledge)
        if given is None and not self._advisor.busy:
            given = self._next(market, portfolio, knowledge)
        given = kept if given is None else given
        if given is not None:
            self._offered = (market.now_ns, given)
        return given

    # ── what there was ───────────────────────────────────────────────────────────────────────────────────────────────
    def _go_on(self, now_ns: int, planned_ns: int) -> None:
        """Where a predecessor was. What it took at this very instant, it has not planned by."""
        last = next((one for one in self._past if one.taken_ns < now_ns), None)
        self._past = ()
        if last is not None and planned_ns:
            self._since_ns = last.briefing_ns
            self._failed, self._again_ns = bool(last.failure), last.again_ns

    def _kept(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """None where what is armed stays by itself."""
        if portfolio.planned_ns:
            self._refused = False
            return None
        if not self._refused and self._offered is not None and self._since_ns != market.now_ns:
            self._anew = True
        return self._left(market, portfolio, knowledge) or []

    def _left(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """What of the last list may still fire, with the time that is left to it; None where that list is not known: a predecessor gave it."""
        if self._offered is None:
            return None
        given_ns, conditions = self._offered
        armed, opened = {_mark_of(one) for _, one in portfolio.armed()}, self._for_paper.difference(situation.shut(market, knowledge))
        left = [msgspec.structs.replace(one, valid_for_s=one.valid_for_s - (market.now_ns - given_ns) // _SECOND_NS) for one in conditions
                if one.symbol not in opened and (self._refused or _mark_of(one) in armed)]
        return [one for one in left if one.valid_for_s > 0]

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def _next(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """Ask where that is due. Gives what is planned without an answer, and the answer where a recording has it."""
        since = dataclasses.replace(portfolio, planned_ns=self._since_ns or portfolio.planned_ns)
        urgent = self._asked or self._anew or bool(schedule.happened(since, knowledge, market.facts))
        if market.now_ns < self._again_ns and not urgent:
            return self._without(market, portfolio, knowledge)
        why, looks = self._due(market, since, knowledge)
        if not why and (self._anew or self._failed):
            why = "something was learned" if self._anew else "the last question brought nothing"
            looks = looks or self._looks(market, since.planned_ns)
        if not why:
            return None
        self._wanted, self._asked, self._anew = self._asked, False, False
        self._since_ns, self._valid_for_s = market.now_ns, schedule.valid_for_s(self.analysis, looks)
        return self._ask(why, market, portfolio, knowledge)

    def _ask(self, why: str, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        assert self._advisor is not None
        self._analyses, self.passed = {}, {}
        shut = situation.shut(market, knowledge)
        for analyses, young in pipeline.batches(market, [symbol for symbol in market.facts if symbol not in shut], self.analysis):
            self.passed |= dict.fromkeys(young, "history is too short")
            self._analyses |= {one.symbol: one for one in analyses}
        seen = list(self._analyses.values())
        free = [one for one in seen if one.symbol not in portfolio.positions]
        if not any(not barred(one.symbol, self._name, self._limits) for one in free):
            return self._nobody("the limits let nothing be entered in any coin that is left" if free else
                                "every coin has a position open" if seen else "history is too short" if self.passed else
                                "learning has shut every coin", market, portfolio, knowledge)
        armed = [(planned_ns, one) for planned_ns, one in portfolio.armed() if not one.paper]
        brief = situation.briefing(market, portfolio, knowledge, seen, armed, self.analysis, self._limits,
                                   self._headlines(market.now_ns))
        self._advisor.start(brief, situation.grounds(market, portfolio, knowledge, seen, self.analysis, self._llm, self._limits))
        _log.info("a model is asked at %d, since %s: %d symbols", market.now_ns, why, len(seen))
        return self._answer(market, portfolio, knowledge)  # what was recorded at this instant is answered at it

    def _nobody(self, why: str, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """There is nothing to ask about before another candle has closed."""
        frame_ns = self.analysis.trade_timeframe_min * MINUTE_NS
        self._failed, self._again_ns = True, (market.now_ns // frame_ns + 1) * frame_ns
        self.errors.said = self.said = f"nobody is asked: {why}"
        if why != self._told:
            _log.info("%s", self.said)
            self._events.append(Event(source="strategist", kind="llm_not_asked", text=self.said, wall_ns=time.time_ns()))
        self._told = why
        return self._without(market, portfolio, knowledge)

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
    def _answer(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """The list that an answer makes; None where there is none, or where what is armed stays."""
        assert self._advisor is not None
        newest = {symbol: quote.last for symbol, quote in market.quotes.items() if quote.last > 0}
        advice = self._advisor.poll(market.now_ns, newest, lambda: situation.grounds(
            market, portfolio, knowledge, list(self._analyses.values()), self.analysis, self._llm, self._limits))
        if advice is None:
            return None
        self.said = f"{advice.decision}: {advice.reason}"
        _log.info("%s", self.said)
        if advice.decision == "FAILED":
            return self._failure(advice, market, portfolio, knowledge)
        self._failed, self._again_ns, self._told, self.errors.said = False, 0, "", self.said
        advice = self._held_to(advice, market, portfolio, knowledge)
        self._events += advice.journaled()
        if (works := self.errors.succeeded(market.now_ns)) is not None:
            self._events.append(event_of("strategist", "recovered", works))
        self.exchange = advice.exchange.prompt_sha256
        shut = situation.shut(market, knowledge)
        self._for_paper = frozenset(shut)
        return advice.conditions + self._decided(shut, market, portfolio, knowledge, self._valid_for_s)

    def _failure(self, advice: Advice, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """A pause begins, longer with each failure, and no shorter than it takes until a model may be asked again."""
        exchange = advice.exchange
        row = self.errors.breaker.failures + (self.errors.breaker.failed_ns != market.now_ns)  # the same instant again is the same failure
        first_s = float(self._llm.breaker_cooldown_s)
        pause_s = max(min(first_s * 2.0 ** min(row - 1, 20), max(first_s, _PAUSE_MOST_S)), exchange.wait_s * self._speed)
        self._failed, self._again_ns = True, market.now_ns + math.ceil(pause_s) * _SECOND_NS
        kind = next((Kind(one.kind) for one in reversed(exchange.attempts) if one.kind), Kind.GENERAL)
        decision = self.errors.record(kind, Action.PAUSE, advice.reason, market.now_ns, math.ceil(pause_s))
        reason = "" if exchange.asked else re.sub(r"[0-9.]+", "", advice.reason)  # figures apart, the same is told once
        exchange = msgspec.structs.replace(exchange, again_ns=self._again_ns)
        self._events += advice._replace(exchange=exchange).journaled(not reason or reason != self._told, decision)
        self._told = reason
        return self._without(market, portfolio, knowledge)

    def _unended(self, lost: Asking, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """A question of a predecessor has failed: what came of it may be what ended that one, so it is not put again at once."""
        self._lost, self._since_ns = None, lost.briefing_ns
        exchange = msgspec.structs.replace(without_end(lost), taken_ns=market.now_ns)
        return self._failure(Advice("FAILED", LOST, [], exchange, self._llm.on_failure == "rules"), market, portfolio, knowledge)

    def _without(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """What is planned without an answer, as often as the analyst would plan: by rules where they are to take over, else what is armed, with the
        coins anew that are shut."""
        rules = self._llm.on_failure == "rules" and self.errors.failing
        shut = situation.shut(market, knowledge)
        if not (rules or shut):
            return None
        looks = self._looks(market, portfolio.planned_ns)
        wanted = self._wanted or schedule.happened(portfolio, knowledge, market.facts)
        if not wanted and not schedule.due(self.analysis, looks, market.now_ns, portfolio.planned_ns):
            return None
        left, self._wanted, valid_for_s = self._left(market, portfolio, knowledge), False, schedule.valid_for_s(self.analysis, looks)
        if rules:
            self.exchange, self._for_paper = "", frozenset()
            return self._analysed(market, portfolio, knowledge, valid_for_s)
        if left is None and any(not one.paper for _, one in portfolio.armed()):
            return None  # they stand as they were armed, and what they were before is not known
        self._for_paper = frozenset(shut)
        return [one for one in left or [] if one.symbol not in shut] + self._decided(shut, market, portfolio, knowledge, valid_for_s)

    def _held_to(self, advice: Advice, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> Advice:
        """Advice as it is to be armed: what passed, by what is asked of the analyst's own trades. Each verdict is what happened in the end."""
        verdicts = tuple(one if one.condition is None else self._sized(one, one.condition, market, portfolio, knowledge) for one in advice.verdicts)
        return advice._replace(exchange=msgspec.structs.replace(advice.exchange, verdicts=verdicts),
                               conditions=[one.condition for one in verdicts if one.condition is not None])

    def _sized(self, verdict: Verdict, one: Condition, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> Verdict:
        """The verdict on a proposal that passed so far, by spread and time, and never larger than the analyst's own with such a stop.

        It has no pattern: its trades would be evidence about what the rules make of it."""
        seen, c = self._analyses[one.symbol], self.analysis
        costs_bps, spread_bps = situation.costs_bps(seen, c), market.quotes[one.symbol].spread_bps
        size, asked = self.size_of(seen, one.stop_bps, costs_bps, one.confidence, knowledge), int(one.size.value)
        refusal = (f"spread {spread_bps:.1f} bps is above {c.max_spread_bps:g}" if spread_bps > c.max_spread_bps else
                   "" if size.size_bps else f"size_bps {asked} → {size.words()}")
        one = msgspec.structs.replace(one, size=equity_bps(max(1, min(asked, size.size_bps))))
        refusal = refusal or self.least_order(one, seen, market.facts[one.symbol], portfolio)
        if refusal:
            return Verdict(outcome="refused", proposal=verdict.proposal, text=refusal)
        if size.size_bps < asked:
            verdict = Verdict(outcome="clamped", proposal=verdict.proposal, text="; ".join(filter(None, (
                verdict.text, f"size_bps {asked} → {size.words()}"))))
        clauses = list(one.clauses)
        if not math.isnan(seen.spread_bps):  # a clause on what is not there never holds
            clauses.append(Clause(feature="spread_bps", op="<", value=c.max_spread_bps))
        armed = msgspec.structs.replace(one, regime=seen.trade.regime.name,
                                        most_equity_bps=min(size.most_bps, self._llm.most_size_bps),
                                        clauses=clauses, time_stop_s=one.time_stop_s or min(HOLD * seen.trade.minutes * 60, 7 * 86_400))
        return msgspec.structs.replace(verdict, condition=armed)

    def close(self) -> None:
        """End what is under way."""
        if self._advisor is not None:
            self._advisor.close()


def _mark_of(one: Condition) -> tuple[Any, ...]:
    """What a condition is known by, which nothing learned changes in it."""
    return one.symbol, one.side, one.direction, one.level, one.rebound_bps, one.confidence, one.why
