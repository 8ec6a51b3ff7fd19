"""What may be spent on an LLM in a day: tokens and USD. Pure; whoever asks brings the wall clock. A day is one of UTC.

A request is made only where its worst case still fits: the prompt as it is estimated and the longest reply. So a day's budget is not exceeded, as
far as the endpoint tells the truth about its tokens, or the estimate is not too low where it tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from control.think.llm.config import Llm, Model
from control.think.llm.exchange import Exchange

_DAY_NS = 86_400_000_000_000
#: bytes of a token, at least: English has four, numbers in JSON two
_TOKEN_BYTES = 2


class Spent(Struct, frozen=True):
    """What was spent on a day (days since 1970)."""

    day: int = 0
    tokens: int = 0
    cost: float = 0.0


def spent_in(exchanges: Iterable[Exchange], wall_ns: int) -> Spent:
    """What recorded exchanges spent today: how a strategist that was replaced knows its budget."""
    today = wall_ns // _DAY_NS
    same = [exchange for exchange in exchanges if exchange.asked_wall_ns // _DAY_NS == today]
    return Spent(today, sum(one.tokens_in + one.tokens_out for one in same), sum(one.cost for one in same))


def tokens_of(size_bytes: int) -> int:
    """Tokens of a text, estimated rather too high."""
    return -(-size_bytes // _TOKEN_BYTES)


def cost_of(model: Model, tokens_in: int, tokens_out: int) -> float:
    """USD."""
    return (tokens_in * model.input_cost + tokens_out * model.output_cost) / 1e6


class Budget:
    """What is left of a day."""

    def __init__(self, settings: Llm, spent: Spent | None = None) -> None:
        self._settings, self.spent = settings, spent or Spent()

    def refusal(self, model: Model, prompt_bytes: int, wall_ns: int) -> str:
        """Why this request is not made, or nothing."""
        self._today(wall_ns)
        tokens_in = tokens_of(prompt_bytes)
        if self.spent.tokens + tokens_in + model.max_tokens > self._settings.tokens_per_day:
            return (f"{self.spent.tokens} of llm.tokens_per_day = {self._settings.tokens_per_day} are spent, and a request may take "
                    f"{tokens_in + model.max_tokens}; it goes on at 00:00 UTC")
        worst = cost_of(model, tokens_in, model.max_tokens)
        if worst and self.spent.cost + worst > self._settings.cost_per_day:
            return (f"{self.spent.cost:.4f} USD of llm.cost_per_day = {self._settings.cost_per_day:g} are spent, and a request may cost "
                    f"{worst:.4f}; it goes on at 00:00 UTC")
        return ""

    def spend(self, tokens: int, cost: float, wall_ns: int) -> None:
        """A request was made."""
        self._today(wall_ns)
        self.spent = Spent(self.spent.day, self.spent.tokens + tokens, self.spent.cost + cost)

    def _today(self, wall_ns: int) -> None:
        if wall_ns // _DAY_NS > self.spent.day:  # a clock that is set back makes no second day's budget
            self.spent = Spent(wall_ns // _DAY_NS)
