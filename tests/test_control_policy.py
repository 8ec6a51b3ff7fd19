"""The restart policy, by scripted histories."""

from __future__ import annotations

import pytest

from control.supervise.policy import PERMANENT_FAILURE, PROMPT, Action, Deaths, RestartPolicy

POLICY = RestartPolicy(max_restarts=5, window_s=10.0, backoff_s=0.1, max_backoff_s=1.0, jitter=0.5)


def deaths(chance: float = 0.5) -> Deaths:
    return Deaths(POLICY, chance=lambda: chance)


def test_the_first_three_deaths_in_the_window_are_answered_at_once() -> None:
    history = deaths()
    decided = [history.decide(100.0 + n / 100, -9) for n in range(PROMPT)]
    assert [(decision.action, decision.delay_s) for decision in decided] == [(Action.RESPAWN, 0.0)] * 3


def test_back_off_doubles_with_each_further_death_in_the_window() -> None:
    history = deaths()
    assert [history.decide(100.0 + n, -9).delay_s for n in range(5)] == [0.0, 0.0, 0.0, pytest.approx(0.1), pytest.approx(0.2)]


def test_deaths_that_have_left_the_window_are_no_reason_to_wait() -> None:
    history = deaths()
    for n in range(4):
        history.decide(100.0 + n, -9)
    assert history.decide(112.5, -9).delay_s == 0.0, "the second one since the window began"


def test_a_storm_of_deaths_gets_few_restarts_whatever_it_does() -> None:
    history, now, starts = deaths(), 100.0, 0
    while now < 160.0:  # each life dies at once
        now += history.decide(now, -9).delay_s + 0.001
        starts += 1
    assert starts <= 3 + 3 + 60 / POLICY.max_backoff_s


def test_back_off_is_bounded_however_many_deaths() -> None:
    policy = RestartPolicy(max_restarts=1000, window_s=1e6, backoff_s=0.1, max_backoff_s=1.0, jitter=0.0)
    assert all(policy.delay_s(count, 0.99) <= 1.0 for count in (1, 4, 10, 100, 100_000))


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0.05), (0.5, 0.1), (0.999999, 0.15)])
def test_jitter_spreads_the_delay_around_its_middle(chance: float, expected: float) -> None:
    assert POLICY.delay_s(PROMPT + 1, chance) == pytest.approx(expected, abs=1e-4)


def test_more_deaths_than_allowed_in_the_window_are_a_crash_loop() -> None:
    history = deaths()
    actions = [history.decide(100.0 + n, 1).action for n in range(6)]
    assert actions == [Action.RESPAWN] * 5 + [Action.CRASH_LOOP]
    assert history.looping(105.5)


def test_a_crash_loop_is_over_when_the_window_has_passed() -> None:
    history = deaths()
    for n in range(6):
        history.decide(100.0 + n, 1)
    assert history.looping(109.9)
    assert not history.looping(110.5), "the first death has left the window"
    assert history.decide(200.0, 1).action is Action.RESPAWN


def test_slow_deaths_never_become_a_crash_loop() -> None:
    history = deaths()
    assert all(history.decide(11.0 * n, -11).action is Action.RESPAWN for n in range(50))


def test_a_permanent_failure_is_never_restarted() -> None:
    history = deaths()
    assert history.decide(100.0, PERMANENT_FAILURE).action is Action.GIVE_UP
    assert history.looping(1e9), "it keeps the whole in safe mode for good"


def test_a_clean_exit_nobody_asked_for_counts_as_a_death() -> None:
    assert deaths().decide(100.0, 0).action is Action.RESPAWN
