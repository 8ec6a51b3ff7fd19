"""What was said to a model and what it said, whole: so that a person can read it, and a run can be replayed without any network.

The journal has each exchange in an event; a replay answers from them by the prompt's hash, in the order in which they were recorded. Before a model
is asked the journal has what that may cost at most, so that an exchange of which no end is known is still of the day's budget.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from control.think.llm.judgement import Verdict
from control.think.llm.prompt import Message, Prompt, sha256_of

#: number of this layout; an exchange of another one is refused
SCHEMA = 1
#: the failure of a question whose end nobody saw
LOST = "the process ended while a model was asked: no end of the question is known"


class Attempt(Struct, frozen=True, kw_only=True):
    """One request to one model. `error` is empty where its reply was taken; `kind` is a class of hotpath.errors. Tokens that the endpoint did not
    tell are `estimated`. `asked` is false where no request was made: the breaker was open, there was no key, the budget was spent."""

    model: str
    host: str
    asked: bool = True
    repair: bool = False
    error: str = ""
    kind: str = ""
    finish_reason: str = ""
    reply: str = ""
    latency_ms: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    estimated: bool = False


class Asking(Struct, frozen=True, kw_only=True):
    """A question that is about to be put: what it may take at most, in tokens and USD. Its exchange has the same hash, wall clock and headlines."""

    prompt_sha256: str
    strategy: str = ""
    briefing_ns: int = 0
    asked_wall_ns: int = 0
    tokens: int = 0
    cost: float = 0.0
    headlines: tuple[str, ...] = ()


class Exchange(Struct, frozen=True, kw_only=True):
    """One question with all its attempts. `failure` says why there is no `reply`; exactly one of the two is there.

    `briefing_ns` is the event time of the plan that asked, `taken_ns` of the plan that took the answer, `asked_wall_ns` the wall clock when it was
    sent. `host` is all of the endpoint that is kept. Tokens and cost (USD) are of all attempts. Where nobody was asked, the prompt's hash is there
    without its `messages`. After a failure no model can be asked for `wait_s`, and none is before the event time `again_ns` unless something happens.
    """

    schema: int = SCHEMA
    strategy: str = ""
    prompt_sha256: str
    messages: tuple[Message, ...]
    briefing_ns: int = 0
    taken_ns: int = 0
    asked_wall_ns: int = 0
    reply: str = ""
    failure: str = ""
    model: str = ""
    host: str = ""
    finish_reason: str = ""
    latency_ms: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    #: of the briefing, all of them: a replay asks with the same
    headlines: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    wait_s: float = 0.0
    again_ns: int = 0

    @property
    def asked(self) -> bool:
        """Whether a model was asked at all."""
        return bool(self.messages)


def without_end(asking: Asking) -> Exchange:
    """What is known of a question whose end nobody saw: it has failed, and what it may have taken counts as taken. Its text was not kept."""
    return Exchange(prompt_sha256=asking.prompt_sha256, messages=(), strategy=asking.strategy, briefing_ns=asking.briefing_ns, failure=LOST,
                    asked_wall_ns=asking.asked_wall_ns, tokens_in=asking.tokens, cost=asking.cost, headlines=asking.headlines)


class ExchangeError(Exception):
    """A recorded exchange that cannot be read.

    ExchangeError
    └── NotRecorded    a replay asks what was not asked in the recording
    """


class NotRecorded(ExchangeError):
    """A replay came to a prompt that the recording has not; the text says where it differs."""


def decode(value: Any) -> Exchange:
    """An exchange as an event has it. Raises ExchangeError for another layout, for what is damaged, and where the hash is not the prompt's."""
    try:
        exchange = msgspec.convert(value, Exchange)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ExchangeError(f"no exchange with an LLM: {error}") from None
    if exchange.schema != SCHEMA:
        raise ExchangeError(f"an exchange of layout {exchange.schema}, and this program reads {SCHEMA}; use the program that recorded it")
    if (exchange.messages or not exchange.failure) and sha256_of(exchange.messages) != exchange.prompt_sha256:
        raise ExchangeError(f"the exchange {exchange.prompt_sha256[:12]} is damaged: its prompt has another hash")
    return exchange


class Recording:
    """Exchanges in the order in which they were recorded, that a replay is answered from."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._waiting: dict[str, deque[Exchange]] = defaultdict(deque)
        self._order = deque(exchanges)
        for exchange in self._order:
            self._waiting[exchange.prompt_sha256].append(exchange)

    def headlines(self, briefing_ns: int) -> tuple[str, ...]:
        """Those of the exchange of that instant; none where there was none, which its prompt will tell."""
        return next((exchange.headlines for exchange in self._order if exchange.briefing_ns == briefing_ns), ())

    def answer(self, prompt: Prompt) -> Exchange:
        """The next exchange that was recorded for this prompt. Raises NotRecorded, which says how the prompt differs; asks nobody."""
        if waiting := self._waiting.get(prompt.sha256):
            exchange = waiting.popleft()
            while self._order and self._order[0] is not exchange:
                self._order.popleft()  # of a prompt that the replay passed over
            if self._order:
                self._order.popleft()
            return exchange
        following = self._order[0] if self._order else None
        raise NotRecorded(f"the prompt {prompt.sha256[:12]} was not recorded" + (
            "; the recording has no more exchanges" if following is None else
            f"; recorded next is {following.prompt_sha256[:12]}, and {_difference(prompt.messages, following.messages)}"))


def _difference(ours: tuple[Message, ...], theirs: tuple[Message, ...]) -> str:
    """Where two prompts first differ, with what stands there."""
    if not theirs:
        return "its text was not kept, since nobody was asked"
    for ask, recorded in zip(ours, theirs, strict=False):
        if ask != recorded:
            pairs = zip(ask.content, recorded.content, strict=False)
            at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ask.content), len(recorded.content)))
            start = max(0, at - 20)
            return (f"the {ask.role} message differs at character {at}: it was {recorded.content[start: at + 40]!r} and is "
                    f"{ask.content[start: at + 40]!r}")
    return f"it had {len(theirs)} messages, not {len(ours)}"
