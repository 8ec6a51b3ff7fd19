"""The analyst as if nothing had ever been learned: a strategy file for `bench_walk_forward`."""

from __future__ import annotations

from control.think.analyst import Analyst
from control.think.strategy import CoinStatus, Condition, KnowledgeView, Market, Portfolio


class Unknown:
    """Knowledge of coins without a record. When the last trade of a coin closed is no record: the analyst plans anew by it."""

    def __init__(self, knowledge: KnowledgeView) -> None:
        self._knowledge = knowledge

    def coin(self, symbol: str) -> CoinStatus:
        """A coin that was never traded, but for when it was."""
        return CoinStatus(last_trade_ns=self._knowledge.coin(symbol).last_trade_ns)


class NoRecord(Analyst):
    """The analyst; confidence and size are made without any coin's record."""

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """As the analyst does."""
        return super().plan(market, portfolio, Unknown(knowledge))
