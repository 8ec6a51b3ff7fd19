"""What may be spent on an LLM in a day: tokens and USD. Pure; whoever asks brings the wall clock. A day is one of UTC.

A request is made only where its worst case still fits: the prompt as it is estimated and the longest reply. That is held until the request has ended,
so that two at once do not spend the same. So a day's budget is not exceeded, as far as the endpoint tells the truth about its tokens, or the estimate
is not too low where it tells nothing. An exchange belongs to the day on which it began.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct

from control.think.llm.config import Llm, Model
from control.think.llm.exchange import Asking, Exchange

_DAY_NS = 86_400_000_000_000
#: tokens that a chat template puts around a prompt, at most
_FRAME_TOKENS = 64


class Spent(Struct, frozen=True):
    """What was spent on a day (days since 1970)."""

    day: int = 0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, tokens: int, cost: float) -> Spent:
        """With so much more."""
        return Spent(self.day, self.tokens + tokens, self.cost + cost)


def spent_in(exchanges: Iterable[Exchange], wall_ns: int, askings: Iterable[Asking] = ()) -> Spent:
    """What recorded exchanges spent today: how a strategist that was replaced knows its budget. Of a question without an end it is the worst case.

    Where the clock was set back, today is the latest day on which somebody was asked: it has its budget once.
    """
    exchanges, askings, ended = list(exchanges), list(askings), set()
    spent = Spent(max([wall_ns, *(one.asked_wall_ns for one in exchanges), *(one.asked_wall_ns for one in askings)]) // _DAY_NS)
    for one in exchanges:
        ended.add((one.prompt_sha256, one.asked_wall_ns))
        if one.asked_wall_ns // _DAY_NS == spent.day:
            spent = spent.plus(one.tokens_in + one.tokens_out, one.cost)
    for asking in askings:
        if asking.asked_wall_ns // _DAY_NS == spent.day and (asking.prompt_sha256, asking.asked_wall_ns) not in ended:
            spent = spent.plus(asking.tokens, asking.cost)
    return spent


def seconds_left(wall_ns: int) -> float:
    """Until the day is over."""
    return (_DAY_NS - wall_ns % _DAY_NS) / 1e9


def tokens_of(prompt_bytes: int) -> int:
    """Tokens of a prompt, estimated too high: no tokenizer makes more than one of a byte. English has four bytes a token, a prompt of numbers 1.9,
    scripts that are rare in what a tokenizer was made of 1.2 (measured with that of SmolLM2)."""
    return prompt_bytes + _FRAME_TOKENS


def cost_of(model: Model, tokens_in: int, tokens_out: int) -> float:
    """USD."""
    return (tokens_in * model.input_cost + tokens_out * model.output_cost) / 1e6


class Budget:
    """What is left of a day, for every strategy of a run."""

    def __init__(self, settings: Llm, spent: Spent | None = None) -> None:
        self._settings, self.spent = settings, spent or Spent()
        #: worst case of what is under way
        self._held = Spent()
        self._lock = threading.Lock()

    def refusal(self, model: Model, prompt_bytes: int, wall_ns: int) -> str:
        """Why this request is not made, or nothing."""
        with self._lock:
            return self._refusal(model, prompt_bytes, wall_ns)

    def hold(self, model: Model, prompt_bytes: int, wall_ns: int) -> str:
        """Why this request is not made, or nothing: then its worst case is held until it is settled."""
        with self._lock:
            if not (refusal := self._refusal(model, prompt_bytes, wall_ns)):
                self._held = self._held.plus(*worst_of(model, prompt_bytes))
            return refusal

    def settle(self, model: Model, prompt_bytes: int, tokens: int, cost: float, wall_ns: int) -> None:
        """A request that was held for has ended, and has taken so much."""
        held_tokens, held_cost = worst_of(model, prompt_bytes)
        with self._lock:
            self._today(wall_ns)
            self._held = self._held.plus(-held_tokens, -held_cost) if self._held.tokens > held_tokens else Spent()
            self.spent = self.spent.plus(tokens, cost)

    def within(self, tokens: int, cost: float, wall_ns: int) -> tuple[int, float]:
        """So much of it as the day still permits."""
        with self._lock:
            self._today(wall_ns)
            return (min(tokens, max(0, self._settings.tokens_per_day - self.spent.tokens)),
                    min(cost, max(0.0, self._settings.cost_per_day - self.spent.cost)))

    def _refusal(self, model: Model, prompt_bytes: int, wall_ns: int) -> str:
        self._today(wall_ns)
        tokens, worst = worst_of(model, prompt_bytes)
        under_way = " or under way" if self._held.tokens else ""
        if self.spent.tokens + self._held.tokens + tokens > self._settings.tokens_per_day:
            return (f"{self.spent.tokens + self._held.tokens} of llm.tokens_per_day = {self._settings.tokens_per_day} are spent{under_way}, and a "
                    f"request may take {tokens}; it goes on at 00:00 UTC")
        if worst and self.spent.cost + self._held.cost + worst > self._settings.cost_per_day:
            return (f"{self.spent.cost + self._held.cost:.4f} USD of llm.cost_per_day = {self._settings.cost_per_day:g} are spent{under_way}, and a "
                    f"request may cost {worst:.4f}; it goes on at 00:00 UTC")
        return ""

    def _today(self, wall_ns: int) -> None:
        if wall_ns // _DAY_NS > self.spent.day:  # a clock that is set back makes no second day's budget
            self.spent = Spent(wall_ns // _DAY_NS)


def worst_of(model: Model, prompt_bytes: int) -> tuple[int, float]:
    """(tokens, USD) that a request may take."""
    tokens_in = tokens_of(prompt_bytes)
    return tokens_in + model.max_tokens, cost_of(model, tokens_in, model.max_tokens)
