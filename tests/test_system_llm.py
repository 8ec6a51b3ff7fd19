"""A real model on the CPU advises, by itself and in a whole instance: what it says is noise, and the guards hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest

from control.think.llm.advisor import Advice
from control.think.llm.client import Client
from control.think.llm.config import Llm, Model
from control.think.llm.exchange import Exchange, Recording, decode
from hotpath import arming
from ipc import layout as l
from ipc.messages import Event, Plan
from tests import real_model
from tests.llm_scene import NOW, advised, briefing, grounds
from tests.running import Running, until

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


# ── a whole instance ─────────────────────────────────────────────────────────────────────────────────────────────────
#: exchanges that are waited for though one has been armed already: some are to go wrong
LEAST = 3
INSTANCE = """
[run]
symbols = ["BTC/USDT", "ETH/USDT"]
[limits]
min_confidence = 0.5
max_entries_per_day = 3
max_open_positions = 1
restricted_symbols = ["ETH/USDT"]
[llm]
most_conditions = 1
most_size_bps = 300
breaker_failures = 10
[[llm.models]]
base_url = "{url}"
model = "SmolLM2-135M"
max_tokens = 500
timeout_s = 90
temperature = 0.8
"""


class Told(NamedTuple):
    """What the journal says of the advice: exchanges, events, plans by number, numbers of the plans that the sniper has armed, order-ring records."""

    exchanges: list[Exchange]
    events: list[Event]
    plans: dict[int, Plan]
    armed: set[int]
    orders: list[Any]

    def armed_as_proposed(self) -> list[tuple[Exchange, int]]:
        """(exchange, number of its proposal) of what has reached the sniper's table unclamped."""
        return [(exchange, number) for exchange in self.exchanges for number, verdict in enumerate(exchange.verdicts)
                if verdict.outcome == "accepted" and self._is_armed(exchange, number)]

    def _is_armed(self, exchange: Exchange, number: int) -> bool:
        proposal = exchange.verdicts[number].proposal
        wanted = (proposal.symbol, proposal.side, str(proposal.size_bps), proposal.stop_bps, proposal.target_bps, proposal.valid_minutes * 60)
        return any((one.symbol, one.side, one.size.value, one.stop_bps, one.target_bps, one.valid_for_s) == wanted and not one.paper
                   for seq, plan in self.plans.items() if seq in self.armed and plan.exchange == exchange.prompt_sha256 for one in plan.conditions)


def told(instance: Running) -> Told:
    journal = instance.journal()
    try:
        events = [event for _, event in journal.events()]
        orders = [record.row for record in journal.newest("orders", 100_000)]
        return Told([decode(event.data["exchange"]) for event in events if event.kind == "llm_exchange"], events,
                    {number: plan for number, (_, plan) in enumerate(journal.plans(), 1)},
                    {int(row["plan_seq"]) for row in orders if row["kind"] == l.SWAPPED}, orders)
    finally:
        journal.close()


def settled(instance: Running, count: int) -> Told | None:
    """What is told once so many questions are answered, and what came of the last answer is armed."""
    time.sleep(0.3)  # the model needs the processor more than this does
    seen = told(instance)
    is_armed = len(seen.exchanges) >= count and (bool(seen.exchanges[-1].failure) or any(
        plan.exchange == seen.exchanges[-1].prompt_sha256 and number in seen.armed for number, plan in seen.plans.items()))
    return seen if is_armed else None


@pytest.mark.timeout(900)
def test_a_real_model_drives_an_instance_and_only_what_passes_the_guards_reaches_the_sniper(served: real_model.Served, tmp_path: Path) -> None:
    instance = Running(tmp_path / "data", INSTANCE.format(url=served.base_url))
    try:
        instance.start("--strategy", "llm", speed="15")
        for attempt in range(1, ATTEMPTS + 1):
            seen: Told = until(lambda count=attempt: settled(instance, count), 200, f"exchange {attempt}")  # type: ignore[misc]
            if attempt >= LEAST and seen.armed_as_proposed():
                break
            instance.ctl("replan")
        assert instance.stop() == 0
        after, summary, faults = told(instance), instance.summary(), instance.faults()
    finally:
        instance.end()
    as_proposed = seen.armed_as_proposed()
    assert as_proposed, [(one.failure, one.reply) for one in seen.exchanges]
    for exchange in seen.exchanges:
        about = [event for event in seen.events if event.data.get("prompt") == exchange.prompt_sha256[:16]]
        assert any(event.kind in ("llm_trade", "llm_no_trade", "llm_failed") and event.text for event in about)
        for number, verdict in enumerate(exchange.verdicts):
            if (exchange, number) not in as_proposed:
                symbols = [event.data["symbol"] for event in about if event.kind in ("llm_clamped", "llm_refused") and event.text]
                assert verdict.proposal.symbol in symbols
            assert verdict.text or verdict.outcome == "accepted"
    conditions = [one for plan in after.plans.values() for one in plan.conditions]
    assert {one.symbol for one in conditions} == {"BTC/USDT"}, "the other one is restricted"
    assert all(1 <= int(one.size.value) <= 300 and one.stop_bps > 0 and one.target_bps > 20 and one.confidence >= 0.5 for one in conditions)
    entries = Counter(int(row["event_ns"]) // (1440 * MINUTE_NS) for row in after.orders if row["kind"] == l.NEW and row["purpose"] == l.ENTRY)
    assert all(count <= 3 for count in entries.values())
    assert summary["reconciled"] is True
    assert faults == []
