"""Which strategy may open positions where, from the configuration to a bit of each instrument."""

from __future__ import annotations

from typing import Any

import pytest

from control import config as configuration
from control.supervise.instance import LaunchError
from control.supervise.launch import make_plan
from control.supervise.permission import permit

SYMBOLS = "BTC/USDT,ETH/USDT,SOL/USDT"


def permitted(**limits: Any) -> list[int]:
    flags = {"run.symbols": SYMBOLS, "run.strategies": "momentum,mean_reversion", **{f"limits.{name}": value for name, value in limits.items()}}
    plan = make_plan("paper", [], configuration.load(None, flags, {}))
    permit(plan)
    return [int(row["permitted"]) for row in plan.rows]


def test_without_words_every_strategy_may_trade_everything() -> None:
    assert permitted() == [0b11, 0b11, 0b11]


def test_a_strategy_that_is_named_may_trade_what_is_named() -> None:
    assert permitted(permissions={"momentum": ["BTC/USDT", "SOL/USDT"]}) == [0b11, 0b10, 0b11]
    assert permitted(permissions={"momentum": [], "mean_reversion": ["ETH/USDT"]}) == [0b00, 0b10, 0b00]


def test_in_a_restricted_symbol_nothing_is_opened() -> None:
    assert permitted(restricted_symbols=["ETH/USDT"]) == [0b11, 0, 0b11]


@pytest.mark.parametrize(("limits", "says"), [
    ({"restricted_symbols": ["XRP/USDT"]}, r"limits.restricted_symbols: XRP/USDT is not of this run"),
    ({"permissions": {"astrology": ["BTC/USDT"]}}, r"limits.permissions: astrology is not of this run, which has momentum, mean_reversion"),
    ({"permissions": {"momentum": ["BTC/EUR"]}}, r"limits.permissions.momentum: BTC/EUR is not of this run"),
])
def test_what_is_not_of_the_run_is_refused_by_its_path(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(LaunchError, match=says):
        permitted(**limits)
