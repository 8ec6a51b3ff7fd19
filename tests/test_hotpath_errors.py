"""Failures and what follows from them: classes, decisions, rates; on the board and in the journal."""

from __future__ import annotations

import logging
from typing import Any

import ccxt
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpath.activities import Activities, NoRow, event_of
from hotpath.breaker import Breaker
from hotpath.errors import Action, ErrorManager, Hourly, Kind, classify
from ipc import bus, messages
from ipc import layout as l
from ipc.process import Boot, Child

S, H = 1_000_000_000, 3_600_000_000_000


@pytest.mark.parametrize(("error", "kind"), [
    (ccxt.RateLimitExceeded, Kind.RATE_LIMIT), (ccxt.DDoSProtection, Kind.RATE_LIMIT), (openai.RateLimitError, Kind.RATE_LIMIT),
    (ccxt.AuthenticationError, Kind.FATAL), (ccxt.PermissionDenied, Kind.FATAL), (ccxt.AccountSuspended, Kind.FATAL),
    (openai.AuthenticationError, Kind.FATAL), (openai.PermissionDeniedError, Kind.FATAL), (MemoryError, Kind.FATAL),
    (ccxt.NetworkError, Kind.NETWORK), (ccxt.RequestTimeout, Kind.NETWORK), (ccxt.ExchangeNotAvailable, Kind.NETWORK),
    (ccxt.OnMaintenance, Kind.NETWORK), (openai.APIConnectionError, Kind.NETWORK), (openai.APITimeoutError, Kind.NETWORK),
    (ConnectionResetError, Kind.NETWORK), (TimeoutError, Kind.NETWORK), (bus.BusTimeout, Kind.NETWORK),
    (ccxt.ExchangeError, Kind.API), (ccxt.InsufficientFunds, Kind.API), (openai.InternalServerError, Kind.API), (openai.BadRequestError, Kind.API),
    (ValueError, Kind.DATA), (KeyError, Kind.DATA), (ZeroDivisionError, Kind.DATA), (UnicodeDecodeError, Kind.DATA),
    (OSError, Kind.GENERAL), (RuntimeError, Kind.GENERAL), (SystemExit, Kind.GENERAL),
])
def test_an_exception_is_classified_by_its_nearest_known_base(error: type[BaseException], kind: Kind) -> None:
    assert classify(error.__new__(error)) is kind


@pytest.mark.parametrize(("kind", "actions"), [
    (Kind.FATAL, ["stop", "stop", "stop"]), (Kind.RATE_LIMIT, ["pause", "pause", "pause"]), (Kind.NETWORK, ["continue", "continue", "pause"]),
    (Kind.API, ["continue", "continue", "pause"]), (Kind.DATA, ["continue", "continue", "pause"]), (Kind.GENERAL, ["continue", "continue", "pause"]),
])
def test_what_follows_from_a_failure_depends_on_its_class_and_on_how_many_there_were(kind: Kind, actions: list[str]) -> None:
    errors = ErrorManager("venue", Breaker(3, 60 * S))
    decisions = [errors.failed(kind, "no", second * S) for second in (1, 2, 3)]
    assert [str(decision.action) for decision in decisions] == actions
    assert [decision.in_a_row for decision in decisions] == [1, 2, 3]
    assert not errors.permits(4 * S), "a decision has consequences"
    assert errors.permits(64 * S) == (kind is not Kind.FATAL)


def test_a_rate_limit_is_kept_for_as_long_as_the_other_side_says() -> None:
    errors = ErrorManager("venue", Breaker(3, 60 * S))
    decision = errors.failed(Kind.RATE_LIMIT, "429", S, pause_s=7.5)
    assert (decision.pause_s, decision.words()) == (7.5, "paused for 7.5 s")
    assert not errors.permits(8 * S)
    assert errors.permits(S + 7_500_000_000)


def test_what_has_no_breaker_goes_on_whatever_fails_unless_it_is_fatal() -> None:
    errors = ErrorManager("frames")
    assert {errors.failed(Kind.DATA, "bad", number).action for number in range(1, 200)} == {Action.CONTINUE}
    assert errors.failed(Kind.RATE_LIMIT, "slow", 200).action is Action.CONTINUE
    assert errors.permits(201)
    assert errors.failed(Kind.FATAL, "gone", 202).action is Action.STOP
    assert not errors.permits(10**15)


def test_a_recovery_is_told_once_with_the_failures_that_it_ends() -> None:
    errors = ErrorManager("ledger")
    assert errors.succeeded(1) is None
    for second in (1, 2):
        errors.failed(Kind.GENERAL, "disk full", second * S)
    over = errors.succeeded(3 * S)
    assert over is not None
    assert (over.action, over.in_a_row, over.errors_per_h, over.recoveries_per_h) == (Action.RECOVERED, 2, 2, 1)
    assert over.words() == "works again after 2 failures"
    assert errors.succeeded(4 * S) is None


@given(st.lists(st.tuples(st.integers(0, 20 * 60), st.integers(1, 5)), max_size=80))
def test_rates_count_the_last_hour_to_the_minute_in_bounded_memory(steps: list[tuple[int, int]]) -> None:
    hourly, now, all_of_it = Hourly(), 0, []
    for step, times in steps:
        now += step * S
        hourly.add(now, times)
        all_of_it.append((now, times))
        within = sum(count for when, count in all_of_it if when > now - H)
        at_most = sum(count for when, count in all_of_it if when > now - H - 60 * S)
        assert within - sum(count for when, count in all_of_it if now - H < when <= now - H + 60 * S) <= hourly.count(now) <= at_most
        assert len(hourly._minutes) <= 61


# ── on the board, and in the journal ─────────────────────────────────────────────────────────────────────────────────
def child_of(memory: Any, role: int = l.STRATEGIST) -> Child:
    boot = Boot(role=l.ROLES[role], instance="t", mode="paper", market="simulated", run_id="r", run_dir="", state_dir="", socket_dir="/nowhere")
    return Child(boot, role, memory, logging.getLogger("test"))


def test_a_failure_is_on_the_board_counted_and_told(memory: Any) -> None:
    told: list[messages.Event] = []
    one = Activities(child_of(memory), told.append)
    errors = one.adopt(ErrorManager("momentum", Breaker(2, 60 * S)))
    one.failed(errors, "strategy_error", ValueError("x"), "momentum raised ValueError: x", S)
    one.failed(errors, "strategy_error", Kind.DATA, "again", 2 * S, times=3)
    row = memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    assert (row["name"], int(row["state"]), int(row["failures"]), int(row["errors"]), row["text"]) == (b"momentum", l.BREAKER_OPEN, 2, 4, b"again")
    assert int(memory.board.processes[l.STRATEGIST]["error_count"]) == 4
    one.succeeded(errors, 62 * S)
    assert [(event.source, event.kind, event.data["decision"]) for event in told] == [
        ("strategist", "strategy_error", "continue"), ("strategist", "strategy_error", "pause"), ("strategist", "recovered", "recovered")]
    assert told[1].data == {"activity": "momentum", "class": "data", "decision": "pause", "pause_s": 60.0, "in_a_row": 2, "times": 3,
                            "errors_per_h": 4, "recoveries_per_h": 0}
    assert not memory.board.activities[: l.STRATEGIST * l.MAX_ACTIVITIES]["name"].any(), "nobody else's rows"


def test_a_successor_goes_on_with_the_breaker_that_was_left(memory: Any) -> None:
    first = Activities(child_of(memory), lambda event: None)
    errors = first.adopt(ErrorManager("momentum", Breaker(3, 60 * S)))
    for second in (10, 20, 30):
        first.failed(errors, "strategy_error", Kind.GENERAL, "no", second * S)
    left = vars(errors.breaker).copy()
    again = Activities(child_of(memory), lambda event: None).adopt(ErrorManager("momentum", Breaker(3, 60 * S)), resume=True)
    assert vars(again.breaker) == left
    assert not again.permits(89 * S)
    assert again.permits(90 * S)
    fresh = Activities(child_of(memory), lambda event: None).adopt(ErrorManager("momentum", Breaker(3, 60 * S)))
    assert (fresh.breaker.state, fresh.total) == (l.BREAKER_CLOSED, 3)


def test_what_an_activity_says_while_it_works_is_shown_until_it_fails_and_outlives_its_process(memory: Any) -> None:
    first = Activities(child_of(memory), lambda event: None)
    errors, row = first.adopt(ErrorManager("advice llm")), memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    errors.said = "NO_TRADE: " + "ä" * 200
    first.show(errors)
    assert (row["text"].decode(errors="replace")[:12], len(row["text"])) == ("NO_TRADE: ää", 192)
    first.failed(errors, "llm_error", Kind.API, "HTTP 500", 10 * S)
    assert row["text"] == b"HTTP 500"
    errors.said = "TRADE: well"
    first.succeeded(errors, 20 * S)
    assert row["text"] == b"TRADE: well"
    assert Activities(child_of(memory), lambda event: None).adopt(ErrorManager("advice llm"), resume=True).said == "TRADE: well"
    assert row["text"] == b"TRADE: well"


def test_a_successor_goes_on_with_the_rates_until_the_hour_of_the_last_failure_is_over(memory: Any) -> None:
    first = Activities(child_of(memory), lambda event: None)
    errors = first.adopt(ErrorManager("venue"))
    first.failed(errors, "venue_error", Kind.API, "no", 10 * S, times=3)
    first.succeeded(errors, 20 * S)
    first.failed(errors, "venue_error", Kind.API, "no", 30 * S)
    row = memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    again = Activities(child_of(memory), lambda event: None)
    successor = again.adopt(ErrorManager("venue"))
    assert (int(row["errors_per_h"]), int(row["recoveries_per_h"])) == (4, 1)
    assert again.failed(successor, "venue_error", Kind.API, "no", 40 * S).errors_per_h == 5
    successor.permits(40 * S + H + 60 * S)
    again.show(successor)
    assert (int(row["errors_per_h"]), int(row["recoveries_per_h"]), int(row["errors"])) == (0, 0, 5)


def test_rates_on_the_board_fall_while_nothing_happens(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"ns": 10**15}
    monkeypatch.setattr("hotpath.activities.time.monotonic_ns", lambda: now["ns"])
    monkeypatch.setattr("hotpath.activities.time.time_ns", lambda: 10**18 + now["ns"])
    one = Activities(child_of(memory), lambda event: None)
    errors, row = one.adopt(ErrorManager("frames")), memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    one.failed(errors, "feed_error", Kind.DATA, "bad", now["ns"], times=4)
    seen = []
    for _ in range(63):
        now["ns"] += 60 * S
        one.pump()
        seen.append(int(row["errors_per_h"]))
    assert seen == [4] * 59 + [0] * 4
    assert int(row["wall_ns"]) == 10**18 + now["ns"]


def test_activities_of_one_process_have_rows_of_their_own(memory: Any) -> None:
    one = Activities(child_of(memory, l.FEED), lambda event: None)
    names = [f"n{number}" for number in range(l.MAX_ACTIVITIES)]
    for name in names:
        one.adopt(ErrorManager(name))
    rows = memory.board.activities[l.FEED * l.MAX_ACTIVITIES: (l.FEED + 1) * l.MAX_ACTIVITIES]
    assert rows["name"].tolist() == [name.encode() for name in names]
    with pytest.raises(NoRow, match=r"^one more: the board has 16 activities of a process, and all are taken; configure fewer$"):
        one.adopt(ErrorManager("one more"))


def test_the_event_of_a_decision_says_what_failed_or_that_it_is_over() -> None:
    errors = ErrorManager("ledger")
    decision = errors.failed(Kind.GENERAL, "disk full", S)
    assert event_of("gateway", "ledger_error", decision, 5).text == "disk full"
    over = errors.succeeded(2 * S)
    assert over is not None
    assert event_of("gateway", "recovered", over, 5).text == "ledger: works again after 1 failure"
