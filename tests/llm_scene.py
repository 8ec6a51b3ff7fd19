"""What the tests about the LLM share: two instruments, a briefing, grounds to judge by, a configuration, and an advisor that is waited for."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

from control.think.llm.advisor import Advice, Advisor
from control.think.llm.briefing import Briefing, CoinRow, Knowledge, MarketRow, ResultRow, RiskRow, RuleRow
from control.think.llm.client import Client
from control.think.llm.config import Llm, Model
from control.think.llm.exchange import Recording
from control.think.llm.judgement import Grounds, Mark
from control.think.strategy import Facts

NOW = 1_700_000_040 * 1_000_000_000
KEY = "sk-test-0123456789abcdef"
SPOT = Facts("BTC/USDT", False, Decimal("0.01"), Decimal("0.00001"), Decimal(5), 10.0)
PERPETUAL = Facts("ETH/USDT:USDT", True, Decimal("0.01"), Decimal("0.001"), Decimal(5), 5.0)
FACTS = {facts.symbol: facts for facts in (SPOT, PERPETUAL)}


def briefing(**changes: Any) -> Briefing:
    given: dict[str, Any] = {
        "now_ns": NOW,
        "market": [MarketRow(symbol="BTC/USDT", mark=60_000.0, spread_bps=1.0, costs_bps=21.0, return_5m_bps=12.5, volatility_bps=8.0,
                             regime="trend", score=0.6, patterns=["squeeze"]),
                   MarketRow(symbol="ETH/USDT:USDT", mark=3_000.0, spread_bps=1.0, costs_bps=11.0, short_allowed=True)],
        "risk": RiskRow(equity=10_000.0, cash=9_000.0, most_open_positions=5),
        "knowledge": Knowledge(coins=[CoinRow(symbol="BTC/USDT", trades=40, wins=25, pnl=120.0, status="favourite", scale=1.2)], blacklist=["DOGE"],
                               hours=[RuleRow(name="03 UTC", rule="no entries", trades=30)]),
        "results": [ResultRow(symbol="BTC/USDT", side="buy", result_bps=35.0, closed_minutes_ago=12, exit="target")],
        "headlines": ["Bitcoin rises"]}
    return Briefing(**(given | changes))


def grounds(**changes: Any) -> Grounds:
    marks = {"BTC/USDT": Mark(60_000.0, 1.0, 21.0), "ETH/USDT:USDT": Mark(3_000.0, 1.0, 11.0)}
    return Grounds(**({"facts": FACTS, "marks": marks, "equity": 10_000.0} | changes))


def model(base_url: str, **changes: Any) -> Model:
    return Model(**({"base_url": base_url, "model": "scripted", "api_key_env": "LLM_KEY", "timeout_s": 2, "max_tokens": 1000} | changes))


def settings(*base_urls: str, timeout_s: int = 2, **changes: Any) -> Llm:
    models = tuple(model(url, model=f"scripted-{number}", timeout_s=timeout_s) for number, url in enumerate(base_urls))
    return Llm(**({"models": models, "deadline_s": 10} | changes))


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.ns


def advised(source: Client | Recording, llm: Llm, asked: Briefing | None = None, by: Grounds | None = None,
            now_ns: int = NOW + 30_000_000_000) -> Advice:
    """One exchange, waited for."""
    advisor = Advisor(llm, source)
    assert advisor.start(asked or briefing(), by or grounds())
    return wait_for(advisor, now_ns)


def wait_for(advisor: Advisor, now_ns: int = NOW + 30_000_000_000, most_s: float = 150.0) -> Advice:
    until = time.monotonic() + most_s
    while (advice := advisor.poll(now_ns)) is None:
        assert time.monotonic() < until, "no advice"
        time.sleep(0.005)
    return advice
