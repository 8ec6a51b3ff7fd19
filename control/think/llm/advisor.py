"""The LLM as a decision maker: a briefing goes in, and some plans later comes advice: conditions, NO_TRADE with its reason, or a failure.

```python
advisor = Advisor(settings, Client(settings, os.environ), journal)              # or, in a replay: Advisor(settings, recording)
...                                                                             # at each plan, none of which waits:
if (advice := advisor.poll(now_ns, newest_prices)) is None and not advisor.busy and it_is_time:
    advisor.start(briefing, grounds)
```

A failure arms nothing, and what is armed keeps its expiry; `advice.rules` says that the rule strategies are to take over (`llm.on_failure`). The
exchange comes with its advice, whole. A replay asks nobody and gives each answer at the event time at which it was taken.

Before anybody is asked the journal has what that may cost at most. Where it does not take that, or no model may be asked now, nobody is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from control.think.llm import headlines
from control.think.llm.briefing import Briefing, clean
from control.think.llm.config import Llm
from control.think.llm.contract import BadReply, decode, schema
from control.think.llm.exchange import Asking, Exchange, Recording
from control.think.llm.judgement import STRATEGY, Grounds, Verdict, judge, rooms
from control.think.llm.prompt import Prompt, prompt_of
from control.think.llm.worker import Worker
from hotpath.activities import event_of
from hotpath.errors import Action, Decision
from ipc.messages import Condition, Event

if TYPE_CHECKING:
    from control.think.llm.client import Asked, Client  # which loads openai: a replay needs none

#: what an exchange may take beyond its deadline before it is given up: the look-up of a name, which nothing can cut off
_GRACE_S = 5


class Advice(NamedTuple):
    """What came of one exchange. `reason` is the model's, or why there is none; `decisions` are about models that failed or work again. `known`: the
    journal has the exchange already."""

    decision: Literal["TRADE", "NO_TRADE", "FAILED"]
    reason: str
    conditions: list[Condition]
    exchange: Exchange
    rules: bool = False
    decisions: tuple[Decision, ...] = ()
    known: bool = False

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """On each proposal."""
        return self.exchange.verdicts

    def journaled(self, told: bool = True, decision: Decision | None = None) -> list[Event]:
        """For the journal: the exchange itself, whole; what was decided, and proposals that were clamped or refused (not unless `told`); what failed
        of the models. `decision` is what follows for whoever asked."""
        wall_ns, exchange = time.time_ns(), self.exchange
        text = (f"{exchange.model or 'no model'}: {self.decision}, {exchange.latency_ms / 1000:.1f} s, {exchange.tokens_in} + {exchange.tokens_out} "
                f"tokens, {exchange.cost:.4f} USD")
        return [*([] if self.known else [_event("llm_exchange", text, wall_ns, {"exchange": msgspec.to_builtins(exchange)})]),
                *(self.events(wall_ns, decision) if told else []),
                *(event_of("strategist", "llm_error" if one.action is not Action.RECOVERED else "recovered", one, wall_ns) for one in self.decisions)]

    def events(self, wall_ns: int, decision: Decision | None = None) -> list[Event]:
        """What was decided, and each proposal that was clamped or refused."""
        exchange = self.exchange
        about = {"prompt": exchange.prompt_sha256[:16], "briefing_ns": exchange.briefing_ns, "model": exchange.model}
        kind = {"TRADE": "llm_trade", "NO_TRADE": "llm_no_trade", "FAILED": "llm_failed"}[self.decision]
        follows = " (the rules take over)" if self.rules else " (what is armed keeps its expiry)" if self.decision == "FAILED" else ""
        told = [_event(kind, f"{self.decision}: {self.reason}{follows}", wall_ns, about | {
            "host": exchange.host, "latency_ms": exchange.latency_ms, "tokens_in": exchange.tokens_in, "tokens_out": exchange.tokens_out,
            "cost": exchange.cost, "attempts": len(exchange.attempts), "conditions": len(self.conditions)} | (decision.data() if decision else {}))]
        for number, verdict in enumerate(self.verdicts):
            if verdict.outcome != "accepted":
                symbol = clean(verdict.proposal.symbol)
                told.append(_event(f"llm_{verdict.outcome}", f"{verdict.proposal.side} {symbol} {verdict.outcome}: {verdict.text}", wall_ns,
                                   about | {"symbol": symbol, "proposal": number}))
        return told


def _event(kind: str, text: str, wall_ns: int, data: dict[str, Any]) -> Event:
    return Event(source="strategist", kind=kind, text=text, wall_ns=wall_ns, data=data)


class _Waiting(NamedTuple):
    """What has been asked and not been answered yet. `answer` is what is known at once: of a recording, of the journal, or that nobody is asked."""

    prompt: Prompt
    grounds: Grounds
    briefing_ns: int
    answer: Exchange | None = None
    known: bool = False
    decisions: tuple[Decision, ...] = ()
    asking: Asking | None = None
    headlines: tuple[str, ...] = ()


class Advisor:
    """One adviser; one exchange at a time. `source` is a Client, or a Recording that is replayed.

    `tell` writes an event into the journal and says whether that has it. `recalled`: the last exchange there, which a predecessor may have taken and
    not planned by; the same question at the same instant is answered by it.
    """

    def __init__(self, settings: Llm, source: Client | Recording, tell: Callable[[Event], bool] = lambda event: True,
                 clock_ns: Callable[[], int] = time.monotonic_ns, strategy: str = STRATEGY, recalled: Exchange | None = None) -> None:
        self._settings, self._source, self._tell, self._strategy, self._recalled = settings, source, tell, strategy, recalled
        self._worker: Worker[Asked] = Worker(settings.deadline_s + _GRACE_S, clock_ns)
        self._waiting: _Waiting | None = None

    @property
    def busy(self) -> bool:
        """An exchange is under way, or an old one that was given up has not ended yet."""
        return self._waiting is not None or self._worker.busy

    @property
    def asking(self) -> bool:
        """A model is being asked, which takes as long as it takes; what a recording will answer is not asked for."""
        return self._waiting is not None and self._waiting.answer is None

    def headlines(self, now_ns: int) -> list[str]:
        """Those of a question at that instant: what llm.headlines has now; in a replay, and where a predecessor has asked it, what it had then.

        Raises HeadlinesError.
        """
        if self._recalled is not None and self._recalled.briefing_ns == now_ns:
            return list(self._recalled.headlines)
        return list(self._source.headlines(now_ns)) if isinstance(self._source, Recording) else headlines.read(self._settings.headlines)

    def start(self, briefing: Briefing, grounds: Grounds) -> bool:
        """Begin an exchange; False while another one is under way. Raises NotRecorded in a replay that goes another way than its recording."""
        if self.busy:
            return False
        least = round((grounds.limits.min_confidence or 0.0) * 10_000)
        grounds = replace(grounds, settings=self._settings, strategy=self._strategy)
        free = {room.symbol: room for room in rooms(grounds.marks, grounds)}
        prompt = prompt_of(briefing, self._settings, least, grounds.least_reward_risk, free)
        told = {symbol: mark for symbol, mark in grounds.marks.items() if symbol in prompt.symbols}
        waiting = _Waiting(prompt, replace(grounds, marks=told), briefing.now_ns, headlines=tuple(briefing.headlines))
        possible, recalled = [free[symbol] for symbol in prompt.symbols], self._recalled
        if not possible:
            waiting = waiting._replace(answer=self._failed(waiting, "the briefing has no symbol that could be traded; nothing was asked"))
        elif isinstance(self._source, Recording):
            waiting = waiting._replace(answer=self._source.answer(prompt))
        elif recalled is not None and (recalled.prompt_sha256, recalled.briefing_ns) == (prompt.sha256, briefing.now_ns):
            waiting = waiting._replace(answer=recalled, known=True)
        else:
            waiting = self._put(waiting, self._source, schema(possible, self._settings, least))
        self._recalled, self._waiting = None, waiting
        return True

    def _put(self, waiting: _Waiting, client: Client, form: dict[str, Any]) -> _Waiting:
        """Ask, once the journal has what that may take."""
        prompt, briefing_ns = waiting.prompt, waiting.briefing_ns
        asking = client.asking(prompt, form, briefing_ns)
        if not isinstance(asking, Asking):
            return waiting._replace(answer=asking.exchange, decisions=tuple(asking.decisions))
        asking = msgspec.structs.replace(asking, strategy=self._strategy, headlines=waiting.headlines)
        text = f"a model is asked, which takes {asking.tokens} tokens and {asking.cost:.4f} USD at most"
        if not self._tell(_event("llm_asked", text, time.time_ns(), {"asking": msgspec.to_builtins(asking)})):
            return waiting._replace(answer=self._failed(waiting, "the journal does not take what would be asked; nothing was asked"))
        self._worker.start(lambda: client.ask(prompt, form, briefing_ns, asking.asked_wall_ns))
        return waiting._replace(asking=asking)

    def poll(self, now_ns: int, newest: Mapping[str, float] | None = None, grounds: Callable[[], Grounds] | None = None) -> Advice | None:
        """The advice, once it is there; never waits. `newest` are the last prices now: a level that the price has passed meanwhile is refused.
        `grounds` gives what has changed since it was asked: equity, what is held, what is left alone."""
        if self._waiting is None:
            return None
        waiting = self._waiting
        decisions = waiting.decisions
        if waiting.answer is not None:
            if now_ns < waiting.answer.taken_ns:
                return None
            exchange = waiting.answer
        elif self._worker.overdue:
            self._worker.give_up()
            exchange = self._failed(waiting, f"no answer within {self._settings.deadline_s + _GRACE_S} s; it has been given up")
        elif (asked := self._worker.poll()) is None:
            return None
        elif isinstance(asked, BaseException):  # a fault of ours; it must not end the strategist
            exchange = self._failed(waiting, f"asking failed with {type(asked).__name__}")
        else:
            exchange, decisions = asked.exchange, tuple(asked.decisions)
        self._waiting = None
        by = waiting.grounds
        if grounds is not None:
            now = grounds()
            by = replace(by, equity=now.equity, held=now.held, exposure_bps=now.exposure_bps, blacklist=now.blacklist)
        exchange = msgspec.structs.replace(exchange, strategy=self._strategy, headlines=waiting.headlines)
        return self._advice(exchange, replace(by, newest=newest or {}), now_ns, decisions)._replace(known=waiting.known)

    def close(self) -> None:
        """End what is under way. The thread is not waited for: it is cut off, and could not keep the process from ending."""
        if not isinstance(self._source, Recording):
            self._source.cut()

    def _failed(self, waiting: _Waiting, why: str) -> Exchange:
        """An exchange without an end. What it may have taken counts as taken."""
        asking = waiting.asking
        if asking is None:
            return Exchange(prompt_sha256=waiting.prompt.sha256, messages=(), briefing_ns=waiting.briefing_ns, failure=why)
        return Exchange(prompt_sha256=waiting.prompt.sha256, messages=waiting.prompt.messages, briefing_ns=waiting.briefing_ns, failure=why,
                        asked_wall_ns=asking.asked_wall_ns, tokens_in=asking.tokens, cost=asking.cost)

    def _advice(self, exchange: Exchange, grounds: Grounds, now_ns: int, decisions: tuple[Decision, ...]) -> Advice:
        failure, reply = exchange.failure, None
        if not failure:
            try:
                reply = decode(exchange.reply, self._settings.most_conditions)
            except BadReply as bad:  # recorded under another configuration
                failure = str(bad)
        verdicts = judge(reply, grounds) if reply is not None else []
        exchange = msgspec.structs.replace(exchange, taken_ns=now_ns, verdicts=tuple(verdicts))
        if reply is None:
            return Advice("FAILED", failure, [], exchange, self._settings.on_failure == "rules", decisions)
        conditions = [verdict.condition for verdict in verdicts if verdict.condition is not None]
        return Advice(reply.decision, clean(reply.reason, 300), conditions, exchange, False, decisions)
