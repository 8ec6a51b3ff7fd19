"""The restart policy, by scripted histories."""

from __future__ import annotations

import pytest

from control.supervise.policy import PERMANENT_FAILURE, Action, Deaths, RestartPolicy

POLICY = RestartPolicy(max_restarts=3, window_s=10.0, backoff_s=0.1, max_backoff_s=1.0, jitter=0.5)


def deaths(chance: float = 0.5) -> Deaths:
    return Deaths(POLICY, chance=lambda: chance)


def test_the_first_death_is_answered_at_once() -> None:
    decision = deaths().decide(100.0, -9)
    assert (decision.action, decision.delay_s) == (Action.RESPAWN, 0.0)


def test_back_off_doubles_with_each_death_in_the_window() -> None:
    history = deaths()
    assert [history.decide(100.0 + n, -9).delay_s for n in range(3)] == [0.0, pytest.approx(0.1), pytest.approx(0.2)]


def test_back_off_is_bounded_however_many_deaths() -> None:
    policy = RestartPolicy(max_restarts=1000, window_s=1e6, backoff_s=0.1, max_backoff_s=1.0, jitter=0.0)
    assert all(policy.delay_s(count, 0.99) <= 1.0 for count in (1, 2, 10, 100, 100_000))


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0.05), (0.5, 0.1), (0.999999, 0.15)])
def test_jitter_spreads_the_delay_around_its_middle(chance: float, expected: float) -> None:
    assert POLICY.delay_s(2, chance) == pytest.approx(expected, abs=1e-4)


def test_more_deaths_than_allowed_in_the_window_are_a_crash_loop() -> None:
    history = deaths()
    actions = [history.decide(100.0 + n, 1).action for n in range(4)]
    assert actions == [Action.RESPAWN] * 3 + [Action.CRASH_LOOP]
    assert history.looping(103.5)


def test_a_crash_loop_is_over_when_the_window_has_passed() -> None:
    history = deaths()
    for n in range(4):
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
