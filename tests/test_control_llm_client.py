"""Asking models: their order, the repair, breakers, the budget, the deadline; on a scripted server, with a clock that tests set."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from control.think.llm.budget import Budget, Spent, cost_of, spent_in
from control.think.llm.client import Asked, Client
from control.think.llm.config import Llm, Model
from control.think.llm.contract import schema
from control.think.llm.exchange import Asking, Exchange
from control.think.llm.exchange import decode as decode_exchange
from control.think.llm.judgement import rooms
from control.think.llm.prompt import Prompt, prompt_of
from control.think.llm.worker import Worker
from hotpath.errors import Action, Kind
from ipc import layout as l
from tests import llm_server as server
from tests.llm_scene import KEY, Clock, briefing, grounds, model, settings
from tests.llm_server import Script, proposal, reply, says, serving

GOOD, DAY_NS = reply(proposal()), 86_400_000_000_000
USED = {"prompt_tokens": 700, "completion_tokens": 80}


def asked(client: Client, llm: Llm) -> Asked:
    prompt: Prompt = prompt_of(briefing(), llm)
    return client.ask(prompt, schema(rooms(prompt.symbols, grounds()), llm))


def client_of(llm: Llm, clock: Callable[[], int] | None = None, wall: Callable[[], int] | None = None, spent: Spent | None = None) -> Client:
    return Client(llm, {"LLM_KEY": KEY}, spent, clock or time.monotonic_ns, wall or time.time_ns)


# ── one exchange ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_exchange_has_everything_that_happened() -> None:
    with serving(says(GOOD, usage=USED)) as endpoint:
        llm = Llm(models=(model(endpoint.base_url, input_cost=2.0, output_cost=10.0),))
        exchange, decisions = asked(client_of(llm, wall=lambda: 7 * DAY_NS), llm)
    assert (exchange.reply, exchange.failure, exchange.model, exchange.finish_reason) == (GOOD, "", "scripted", "stop")
    assert (exchange.tokens_in, exchange.tokens_out, exchange.cost) == (700, 80, pytest.approx(0.0022))
    assert (exchange.asked_wall_ns, exchange.prompt_sha256) == (7 * DAY_NS, prompt_of(briefing(), llm).sha256)
    assert exchange.latency_ms >= exchange.attempts[0].latency_ms >= 0
    assert [(one.asked, one.repair, one.error, one.reply, one.estimated) for one in exchange.attempts] == [(True, False, "", GOOD, False)]
    assert decisions == []


@pytest.mark.parametrize(("script", "says"), [
    (says(GOOD, finish_reason="length"), "cut off at max_tokens = 1000"), (says(GOOD[:50], finish_reason="length"), "cut off"),
    (says(None, refusal="I cannot advise on trades"), "refuses to answer: I cannot"), (says("", finish_reason="content_filter"), "refuses"),
    (says(""), "empty"), (says(None), "empty"), (says("  \n"), "empty"), (says("x" * 200_000), "200000 characters")])
def test_an_answer_without_a_reply_is_not_asked_to_be_repaired(script: Script, says: str) -> None:
    with serving(script) as endpoint:
        llm = settings(endpoint.base_url)
        exchange, decisions = asked(client_of(llm), llm)
        assert len(endpoint.requests) == 1
    assert exchange.reply == ""
    assert says in exchange.failure
    assert [(one.kind, one.action) for one in decisions] == [(Kind.DATA, Action.CONTINUE)]


# ── repair ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_bad_reply_is_repaired_once_with_what_was_wrong() -> None:
    bad = reply(proposal(confidence_bps=3.3))
    with serving(says(bad, usage=USED), says(GOOD, usage=USED)) as endpoint:
        llm = settings(endpoint.base_url)
        exchange, decisions = asked(client_of(llm), llm)
        first, second = (request["messages"] for request in endpoint.requests)
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": bad}
    assert "Expected `int`, got `float`" in second[-1]["content"]
    assert "confidence_bps" in second[-1]["content"]
    assert exchange.reply == GOOD
    assert [(one.repair, bool(one.error)) for one in exchange.attempts] == [(False, True), (True, False)]
    assert (exchange.tokens_in, exchange.tokens_out) == (1400, 160), "what failed is counted, too"
    assert decisions == []


def test_a_reply_that_stays_bad_is_given_up_after_one_repair_and_the_next_model_gets_none() -> None:
    with serving(says("buy!")) as one, serving(says("sell!")) as two:
        llm = settings(one.base_url, two.base_url)
        exchange, decisions = asked(client_of(llm), llm)
        assert (len(one.requests), len(two.requests)) == (2, 1)
    assert exchange.failure.count("not what the contract says") == 3
    assert [decision.activity[:5] for decision in decisions] == ["llm 1", "llm 2"]


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("script", [
    server.gives(b"", 500), server.gives(b"", 429), server.gives(b"", 401), server.resets(), server.late(says(GOOD), 30), says(""), says("no"),
    server.gives(b"<html>", content_type="text/html"), server.endless(b"x" * 65_536)])
def test_where_one_model_fails_the_next_one_is_asked(script: Script) -> None:
    with serving(script) as one, serving(says(GOOD)) as two:
        llm = settings(one.base_url, two.base_url, timeout_s=1)
        exchange, decisions = asked(client_of(llm), llm)
        assert len(two.requests) == 1
    assert (exchange.reply, exchange.model, exchange.failure) == (GOOD, "scripted-1", "")
    assert [bool(one.error) for one in exchange.attempts][-1] is False
    assert len(decisions) == 1


def test_a_model_without_a_key_is_told_with_the_answer_of_another_one_and_once() -> None:
    """That it has none is found before the question is put."""
    with serving(says(GOOD)) as endpoint:
        llm = Llm(models=(model(endpoint.base_url, model="main", api_key_env="NO_KEY"), model(endpoint.base_url, model="other")))
        client, prompt = client_of(llm), prompt_of(briefing(), llm)
        for told in (["llm 1 main"], []):
            asking = client.asking(prompt, {})
            assert isinstance(asking, Asking)
            exchange, decisions = client.ask(prompt, {}, 0, asking.asked_wall_ns)
            assert exchange.model == "other"
            assert [one.activity for one in decisions] == told
        assert (client.activities[0].breaker.state, client.activities[0].total) == (l.BREAKER_STOPPED, 1)


def test_models_are_asked_in_their_order_and_no_more_than_are_needed() -> None:
    with serving(says(GOOD)) as one, serving(says(GOOD)) as two:
        llm = settings(one.base_url, two.base_url)
        assert asked(client_of(llm), llm).exchange.model == "scripted-0"
        assert two.requests == []
    assert asked(client_of(Llm()), Llm()).exchange.failure == "no model is configured in [llm]"


def test_the_deadline_of_an_exchange_bounds_all_its_models() -> None:
    with serving(server.late(says(GOOD), 30)) as slow:
        llm = Llm(models=tuple(model(slow.base_url, model=f"m{number}", timeout_s=2) for number in range(8)), deadline_s=3)
        began = time.monotonic()
        exchange, _ = asked(client_of(llm), llm)
    assert time.monotonic() - began < 5
    assert "llm.deadline_s = 3 is over" in exchange.failure
    assert sum(one.asked for one in exchange.attempts) == 2


def test_a_deadline_that_is_shorter_than_the_models_time_counts() -> None:
    with serving(server.late(says(GOOD), 30)) as slow:
        llm = settings(slow.base_url, timeout_s=30, deadline_s=1)
        began = time.monotonic()
        assert "within 1 s" in asked(client_of(llm), llm).exchange.failure
    assert time.monotonic() - began < 3


# ── breaker ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_model_that_failed_three_times_is_left_alone_for_a_minute_then_tried_once() -> None:
    clock = Clock()
    with serving(server.gives(b"", 500)) as endpoint:
        llm = settings(endpoint.base_url)
        client = client_of(llm, clock)
        actions = []
        for _ in range(5):
            clock.ns += 1_000_000_000
            actions += [decision.action for decision in asked(client, llm).decisions]
        assert len(endpoint.requests) == 3
        assert actions == [Action.CONTINUE, Action.CONTINUE, Action.PAUSE]
        exchange, decisions = asked(client, llm)
        assert (exchange.attempts[0].asked, decisions) == (False, [])
        assert "left alone for 58 s after 3 failures" in exchange.failure
        clock.ns += 58_000_000_000
        asked(client, llm)
        asked(client, llm)
        assert len(endpoint.requests) == 4, "half-open: one trial"
        endpoint.scripts[:] = [says(GOOD)]
        clock.ns += 60_000_000_000
        exchange, decisions = asked(client, llm)
        assert exchange.reply == GOOD
        assert [decision.action for decision in decisions] == [Action.RECOVERED]
    client.activities[0].breaker.check()
    assert client.activities[0].breaker.state == l.BREAKER_CLOSED


def test_a_model_that_asks_to_be_left_alone_is_for_as_long_as_it_says() -> None:
    clock = Clock()
    with serving(server.gives(b"", 429, retry_after="20"), says(GOOD)) as endpoint:
        llm = settings(endpoint.base_url)
        client = client_of(llm, clock)
        (decision,) = asked(client, llm).decisions
        assert (decision.kind, decision.action, decision.pause_s) == (Kind.RATE_LIMIT, Action.PAUSE, 20)
        clock.ns += 19_000_000_000
        assert "left alone" in asked(client, llm).exchange.failure
        clock.ns += 1_000_000_000
        assert asked(client, llm).exchange.reply == GOOD


def test_a_refused_key_is_not_tried_again_in_this_run() -> None:
    clock = Clock()
    with serving(server.gives(b"", 401)) as endpoint:
        llm = settings(endpoint.base_url)
        client = client_of(llm, clock)
        assert [one.action for one in asked(client, llm).decisions] == [Action.STOP]
        clock.ns += DAY_NS
        assert "not asked again in this run" in asked(client, llm).exchange.failure
        assert len(endpoint.requests) == 1


def test_a_key_that_is_missing_is_decided_once() -> None:
    llm = settings("http://127.0.0.1:9/v1")
    client = Client(llm, {})
    assert [len(asked(client, llm).decisions) for _ in range(3)] == [1, 0, 0]


# ── budget ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_spent_budget_asks_nothing_until_the_next_day() -> None:
    wall = Clock()
    wall.ns = 100 * DAY_NS + 5
    with serving(says(GOOD, usage={"prompt_tokens": 5_000, "completion_tokens": 900})) as endpoint:
        llm = settings(endpoint.base_url, tokens_per_day=16_000)
        client = client_of(llm, wall=wall)
        failures = [asked(client, llm).exchange.failure for _ in range(4)]
        assert [bool(failure) for failure in failures] == [False, False, True, True]
        assert "11800 of llm.tokens_per_day = 16000 are spent" in failures[2]
        assert len(endpoint.requests) == 2
        assert client.activities[0].breaker.failures == 0, "an empty purse is no failure of the model"
        wall.ns -= DAY_NS
        assert asked(client, llm).exchange.failure, "a clock that is set back makes no second budget"
        wall.ns += 2 * DAY_NS
        assert asked(client, llm).exchange.reply == GOOD


def test_the_cost_of_a_day_is_bounded_and_a_model_that_costs_nothing_is_still_asked() -> None:
    with serving(says(GOOD, usage={"prompt_tokens": 5_000, "completion_tokens": 900})) as dear, serving(says(GOOD)) as free:
        priced = model(dear.base_url, model="dear", input_cost=10.0, output_cost=50.0)
        llm = Llm(models=(priced, model(free.base_url, model="free")), cost_per_day=0.14)
        client = client_of(llm)
        exchanges = [asked(client, llm).exchange for _ in range(3)]
    assert [one.model for one in exchanges] == ["dear", "free", "free"]
    assert exchanges[0].cost == pytest.approx(0.095)
    assert "0.0950 USD of llm.cost_per_day = 0.14 are spent" in exchanges[1].attempts[0].error
    assert client.budget.spent.cost <= 0.14


@pytest.mark.parametrize(("script", "estimated", "free"), [
    (says(GOOD), True, False), (says(GOOD, usage=USED), False, False), (server.gives(b"", 500), True, False), (server.gives(b"", 429), False, True),
    (server.gives(b"", 400), False, True), (server.late(says(GOOD), 30), True, False), (server.gives(b"{"), True, False),
    (server.gives(b'{"error": {"code": 502}, "usage": {"prompt_tokens": 9, "completion_tokens": 4}}'), False, False),
    (server.gives(b'{"error": {"code": 502}, "usage": {"completion_tokens": 1000}}'), True, False),
    (server.gives(b'{"error": {"code": 400}}'), False, True)])
def test_what_was_spent_is_told_by_the_endpoint_or_estimated_too_high(script: Script, estimated: bool, free: bool) -> None:
    with serving(script) as endpoint:
        llm = settings(endpoint.base_url, timeout_s=1)
        client = client_of(llm)
        (attempt,) = asked(client, llm).exchange.attempts
    assert attempt.estimated is estimated
    assert (attempt.tokens_in == 0) is free
    assert client.budget.spent.tokens == attempt.tokens_in + attempt.tokens_out
    if estimated:
        assert attempt.tokens_in > 1_400
        assert attempt.tokens_out == 1_000, "what it thought is not seen"


def test_a_strategist_that_was_replaced_knows_what_was_spent_today() -> None:
    def at(wall_ns: int) -> Exchange:
        return Exchange(prompt_sha256="", messages=(), asked_wall_ns=wall_ns, tokens_in=10, tokens_out=5, cost=0.5)

    spent = spent_in([at(5 * DAY_NS - 1), at(5 * DAY_NS), at(6 * DAY_NS - 1)], 5 * DAY_NS + 7)
    assert spent == Spent(5, 30, 1.0)
    free, priced = Model(base_url="http://h/v1", model="m", max_tokens=100), Model(base_url="http://h/v1", model="m", max_tokens=100, output_cost=1e4)
    budget = Budget(Llm(tokens_per_day=1_000, cost_per_day=1.5), spent)
    assert "30 of llm.tokens_per_day" in budget.refusal(free, 1_000, 5 * DAY_NS)
    assert budget.refusal(free, 500, 5 * DAY_NS) == ""
    assert "1.0000 USD" in budget.refusal(priced, 100, 5 * DAY_NS)
    assert cost_of(priced, 7, 100) == 1.0
    assert budget.refusal(free, 836, 6 * DAY_NS) == ""
    assert budget.refusal(free, 837, 6 * DAY_NS) != "", "a token a byte, what a template puts around, and the reply"
    assert Budget(Llm(tokens_per_day=0)).refusal(free, 1, 0) != ""


def test_what_a_question_may_take_is_what_a_successor_counts_where_no_end_of_it_is_known() -> None:
    """And no exchange takes more, whatever its models do."""
    wall = Clock()
    with serving(says("rubbish"), says("rubbish"), server.gives(b"", 500)) as one, serving(server.gives(b"", 500)) as two:
        models = (model(one.base_url, input_cost=1.0, output_cost=2.0), model(two.base_url, input_cost=3.0, output_cost=4.0))
        llm = Llm(models=models, tokens_per_day=60_000)
        client = client_of(llm, wall=wall)
        prompt = prompt_of(briefing(), llm)
        form = schema(rooms(prompt.symbols, grounds()), llm)
        asking = client.asking(prompt, form, 7)
        assert isinstance(asking, Asking)
        assert (asking.prompt_sha256, asking.briefing_ns, asking.asked_wall_ns) == (prompt.sha256, 7, wall.ns)
        exchange, _ = client.ask(prompt, form, 7, asking.asked_wall_ns)
    assert sum(attempt.asked for attempt in exchange.attempts) == 3
    assert 0 < exchange.tokens_in + exchange.tokens_out <= asking.tokens <= 60_000
    assert 0 < exchange.cost <= asking.cost
    assert client.budget.spent == spent_in([exchange], wall.ns, [asking]), "its end is known"
    day = wall.ns // DAY_NS
    assert spent_in([], wall.ns, [asking]) == Spent(day, asking.tokens, asking.cost)
    assert spent_in([exchange], wall.ns, [asking, msgspec.structs.replace(asking, asked_wall_ns=wall.ns + 1)]) == Spent(
        day, exchange.tokens_in + exchange.tokens_out + asking.tokens, exchange.cost + asking.cost)
    assert spent_in([], wall.ns + DAY_NS, [asking]) == Spent(day + 1)


def test_an_exchange_over_midnight_is_of_the_day_on_which_it_began() -> None:
    wall = Clock()
    wall.ns = 101 * DAY_NS - 1
    with serving(says(GOOD, usage=USED)) as endpoint:
        llm = settings(endpoint.base_url)
        client = client_of(llm, wall=wall)
        prompt = prompt_of(briefing(), llm)
        form = schema(rooms(prompt.symbols, grounds()), llm)
        asking = client.asking(prompt, form)
        assert isinstance(asking, Asking)
        wall.ns += 10
        exchange = client.ask(prompt, form, 0, asking.asked_wall_ns).exchange
    assert client.budget.spent == spent_in([exchange], 101 * DAY_NS - 1) == Spent(100, 780, 0.0)


def test_two_questions_at_once_do_not_spend_the_same() -> None:
    free = Model(base_url="http://h/v1", model="m", max_tokens=100)
    budget = Budget(Llm(tokens_per_day=1_000))
    assert budget.hold(free, 336, 0) == ""
    assert "500 of llm.tokens_per_day = 1000 are spent or under way" in budget.hold(free, 400, 0)
    budget.settle(free, 336, 20, 0.0, 0)
    assert budget.spent.tokens == 20
    assert budget.hold(free, 400, 0) == ""


def test_a_clock_that_was_set_back_makes_no_second_budget_for_a_successor_either() -> None:
    free = Model(base_url="http://h/v1", model="m", max_tokens=100)
    one = Exchange(prompt_sha256="", messages=(), asked_wall_ns=101 * DAY_NS + 5, tokens_in=990)
    other = Asking(prompt_sha256="x", asked_wall_ns=102 * DAY_NS, tokens=7)
    assert spent_in([one], 100 * DAY_NS + 9) == Spent(101, 990)
    assert spent_in([one], 100 * DAY_NS + 9, [other]) == Spent(102, 7)
    budget = Budget(Llm(tokens_per_day=1_000), spent_in([one], 100 * DAY_NS + 9))
    for day in (100, 101):
        assert "990 of llm.tokens_per_day" in budget.refusal(free, 100, day * DAY_NS + 6)
    assert budget.refusal(free, 100, 102 * DAY_NS) == ""


@pytest.mark.parametrize(("why", "wait_s"), [("spent", 86_400 - 1_000), ("stopped", 86_400.0), ("key", 86_400.0), ("open", 58.0)])
def test_where_no_model_may_be_asked_the_exchange_says_why_and_for_how_long_without_the_prompt(why: str, wait_s: float) -> None:
    clock, wall = Clock(), Clock()
    wall.ns = 100 * DAY_NS + 1_000 * 1_000_000_000
    llm = settings("http://127.0.0.1:9/v1", tokens_per_day=10 if why == "spent" else 10**6)
    client = Client(llm, {} if why == "key" else {"LLM_KEY": KEY}, None, clock, wall)
    if why == "stopped":
        client.activities[0].failed(Kind.FATAL, "401", clock.ns)
    if why == "open":
        for _ in range(3):
            clock.ns += 1_000_000_000
            client.activities[0].failed(Kind.API, "500", clock.ns)
        clock.ns += 2_000_000_000
    prompt = prompt_of(briefing(), llm)
    for _ in range(2):
        answer = client.asking(prompt, schema(rooms(prompt.symbols, grounds()), llm), 7)
        assert isinstance(answer, Asked)
        assert (answer.exchange.asked, answer.exchange.messages, answer.exchange.prompt_sha256) == (False, (), prompt.sha256)
        assert answer.exchange.wait_s == wait_s
        assert answer.exchange.failure
        assert decode_exchange(msgspec.to_builtins(answer.exchange)) == answer.exchange
    assert client.budget.spent.tokens == 0


# ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_one_piece_of_work_is_under_way_at_a_time_and_its_result_is_given_once() -> None:
    go = threading.Event()
    worker: Worker[int] = Worker(60, time.monotonic_ns)
    assert worker.poll() is None
    assert worker.start(lambda: (go.wait(10) and 7) or 0)
    assert not worker.start(lambda: 8)
    assert worker.poll() is None
    go.set()
    results = [result for _ in itertools.takewhile(lambda _: worker.busy, itertools.count()) if (result := worker.poll()) is not None]
    assert results == [7]
    assert worker.start(lambda: 9)


def test_work_that_raises_gives_its_exception() -> None:
    worker: Worker[Any] = Worker(60, time.monotonic_ns)
    worker.start(lambda: 1 // 0)
    until = time.monotonic() + 10
    while (result := worker.poll()) is None and time.monotonic() < until:
        time.sleep(0.001)
    assert isinstance(result, ZeroDivisionError)


def test_work_that_never_ends_is_overdue_and_given_up_and_what_it_gives_later_goes_nowhere() -> None:
    clock, go = Clock(), threading.Event()
    worker: Worker[int] = Worker(5, clock)
    worker.start(lambda: (go.wait(10) and 7) or 0)
    assert not worker.overdue
    clock.ns += 5_000_000_001
    assert worker.overdue
    worker.give_up()
    assert worker.busy
    assert not worker.start(lambda: 8), "never two in flight"
    go.set()
    until = time.monotonic() + 10
    while worker.busy and time.monotonic() < until:
        time.sleep(0.001)
    assert not worker.busy
    assert worker.poll() is None
