"""A real model on the CPU advises: what it says is noise, and the guards hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import msgspec
import psutil
import pytest

from control.think.llm.advisor import Advice
from control.think.llm.client import Client
from control.think.llm.config import Llm, Model
from control.think.llm.exchange import Recording, decode
from hotpath import arming
from ipc import layout as l
from tests import real_model
from tests.llm_scene import NOW, advised, briefing, grounds

ATTEMPTS, MINUTE_NS = 10, 60_000_000_000
KNOWN = {"BTC/USDT": arming.Facts(0, "BTC/USDT", Decimal("0.01"), Decimal("0.00001"), 10**9, -8),
         "ETH/USDT:USDT": arming.Facts(1, "ETH/USDT:USDT", Decimal("0.01"), Decimal("0.001"), 10**9, -8)}


@pytest.fixture(scope="module")
def served() -> Iterator[real_model.Served]:
    if reason := real_model.missing():
        (pytest.fail if real_model.REQUIRED else pytest.skip)(reason)
    with real_model.serving() as server:
        yield server


def llm_of(served: real_model.Served, **changes: object) -> Llm:
    given = {"base_url": served.base_url, "model": "SmolLM2-135M", "max_tokens": 500, "timeout_s": 90, "temperature": 0.8}
    return Llm(models=(Model(**(given | changes)),), deadline_s=120, most_conditions=1)


@pytest.mark.timeout(900)
def test_of_ten_attempts_one_at_least_reaches_the_sniper_unclamped_and_the_rest_is_refused_with_reasons(served: real_model.Served) -> None:
    llm, advice = llm_of(served), list[Advice]()
    client = Client(llm, {})
    by = grounds(blacklist=frozenset({"ETH"}))  # the prompt does not say so: what the model would like is refused afterwards
    for number in range(ATTEMPTS):
        asked = briefing(now_ns=NOW + number * MINUTE_NS)
        advice.append(advised(client, llm, asked, by, asked.now_ns + 1))
        client.activities[0].breaker.succeeded(number)  # each attempt is made, however many were cut off
    verdicts = [verdict for one in advice for verdict in one.verdicts]
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    assert outcomes["accepted"] >= 1, [(one.decision, one.reason) for one in advice]
    assert all(verdict.text for verdict in verdicts if verdict.outcome != "accepted")
    assert all(one.reason for one in advice)
    conditions = [condition for one in advice for condition in one.conditions]
    assert {condition.symbol for condition in conditions} == {"BTC/USDT"}
    rows = arming.compiled(conditions, NOW, KNOWN, lambda: None)
    assert len(rows) == len(conditions) * l.CONDITION.itemsize >= l.CONDITION.itemsize
    exchanges = [one.exchange for one in advice]
    assert all(exchange.tokens_in > 100 for exchange in exchanges)
    assert not any(attempt.estimated for exchange in exchanges for attempt in exchange.attempts if attempt.reply)
    assert psutil.Process(served.pid).memory_info().rss < 600e6
    replay = Recording(decode(msgspec.to_builtins(exchange)) for exchange in exchanges)
    again = [advised(replay, llm, briefing(now_ns=one.exchange.briefing_ns), by, now_ns=one.exchange.taken_ns) for one in advice]
    assert [(one.decision, one.conditions) for one in again] == [(one.decision, one.conditions) for one in advice]


@pytest.mark.timeout(300)
def test_a_model_that_nothing_constrains_is_noise_that_arms_nothing_wrong(served: real_model.Served) -> None:
    llm = llm_of(served, json="none", max_tokens=150)
    advice = advised(Client(llm, {}), llm)
    assert advice.reason
    assert all(verdict.text for verdict in advice.verdicts if verdict.outcome != "accepted")
    arming.compiled(advice.conditions, NOW, KNOWN, lambda: None)
