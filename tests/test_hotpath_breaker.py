"""The circuit breaker: opens, cools down, tries once; never twice at once, never too early; the same instant asked twice gives the same answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotpath.breaker import Breaker
from ipc import layout as l

S = 1_000_000_000


def test_three_failures_in_a_row_open_it_for_the_cool_down_and_then_one_trial_decides() -> None:
    breaker = Breaker(3, 60 * S)
    for second in (1, 2):
        assert breaker.permits(second * S)
        breaker.failed(second * S)
    assert breaker.state == l.BREAKER_CLOSED
    assert breaker.permits(3 * S)
    breaker.failed(3 * S)
    assert (breaker.state, breaker.opens, breaker.pause_ns(13 * S)) == (l.BREAKER_OPEN, 1, 50 * S)
    assert not breaker.permits(63 * S - 1)
    assert breaker.permits(63 * S)
    assert breaker.state == l.BREAKER_HALF_OPEN
    assert not breaker.permits(64 * S), "one trial at a time"
    breaker.failed(65 * S)
    assert (breaker.state, breaker.opens) == (l.BREAKER_OPEN, 2)
    assert not breaker.permits(125 * S - 1)
    assert breaker.permits(125 * S)
    breaker.succeeded(126 * S)
    assert (breaker.state, breaker.failures) == (l.BREAKER_CLOSED, 0)
    assert breaker.permits(127 * S)


def test_a_success_between_failures_begins_the_row_anew() -> None:
    breaker = Breaker(2, S)
    for second in range(1, 9):
        breaker.failed(second * S)
        breaker.succeeded(second * S + 1)
    assert breaker.opens == 0


def test_pauses_double_with_each_failed_trial_up_to_the_longest() -> None:
    breaker, now, pauses = Breaker(1, S, 5 * S), 0, []
    for _ in range(5):
        assert breaker.permits(now)
        breaker.failed(now)
        pauses.append(breaker.pause_ns(now) // S)
        now = breaker.until_ns
    assert pauses == [1, 2, 4, 5, 5]
    assert breaker.permits(now)
    breaker.succeeded(now)
    breaker.failed(now + S)
    assert breaker.pause_ns(now + S) == S, "the next pause is a first one again"


def test_a_trial_of_which_nothing_is_heard_is_made_again_after_a_cool_down() -> None:
    breaker = Breaker(1, 10 * S)
    breaker.failed(S)
    assert breaker.permits(11 * S)  # and whoever asked was killed
    assert not breaker.permits(20 * S)
    assert breaker.permits(21 * S)


def test_what_is_stopped_is_never_permitted_again() -> None:
    breaker = Breaker(3, S)
    breaker.stop(S)
    assert [breaker.permits(now * S) for now in (1, 2, 3, 10**6)] == [False] * 4


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), max_size=60), st.integers(1, 4), st.integers(1, 60))
def test_an_instant_that_is_lived_twice_changes_nothing(history: list[tuple[int, bool, bool]], failures: int, cooldown: int) -> None:
    """A process is killed behind its question, and its successor, with the same breaker, asks again at the same instant of event time."""
    once, twice = Breaker(failures, cooldown), Breaker(failures, cooldown)
    now = 0
    for step, works, killed in history:
        now += step
        permitted = once.permits(now)
        if killed and twice.permits(now) and not works:
            twice.failed(now)  # told, and the process died before it could act on it
        again = twice.permits(now)
        if permitted:
            (once.succeeded if works else once.failed)(now)
        if again:
            (twice.succeeded if works else twice.failed)(now)
        assert vars(once) == vars(twice)


class Machine(RuleBasedStateMachine):
    """Any history, against a list of all that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(3, 10, 40)
        self.now = 1
        self.row = 0
        self.trial_at: int | None = None
        self.closed_until = 0
        self.permitted = False

    @rule(step=st.integers(1, 25))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.permitted = False

    @rule()
    def ask(self) -> None:
        self.permitted = self.breaker.permits(self.now)
        if self.permitted and self.row >= 3:
            assert self.now >= self.closed_until, "permitted within the cool-down"
            assert self.trial_at in (None, self.now) or self.now >= self.trial_at + 10, "two trials at once"
            self.trial_at = self.now
        if not self.permitted:
            assert self.row >= 3, "refused without three failures in a row"

    @precondition(lambda self: self.permitted)
    @rule()
    def it_fails(self) -> None:
        before = self.breaker.failures
        self.breaker.failed(self.now)
        assert self.breaker.failures == before + 1 or self.breaker.failed_ns == self.now
        # a trial after a pause that was asked for opens it again, though it is not the third failure
        self.row, self.trial_at, self.permitted = max(self.breaker.failures, self.row if self.row >= 3 else 0), None, False
        if self.row >= 3:
            pause = self.breaker.pause_ns(self.now)
            assert 10 <= pause <= 40
            self.closed_until = self.now + pause

    @precondition(lambda self: self.permitted)
    @rule()
    def it_works(self) -> None:
        self.breaker.succeeded(self.now)
        self.row, self.trial_at, self.permitted = 0, None, False
        assert self.breaker.state == l.BREAKER_CLOSED

    @rule(pause=st.integers(1, 100))
    def it_asks_to_be_left_alone(self, pause: int) -> None:
        self.breaker.trip(self.now, pause)
        self.row, self.trial_at, self.permitted, self.closed_until = max(3, self.breaker.failures), None, False, self.now + pause
        assert not self.breaker.permits(self.now + pause - 1)

    @invariant()
    def holds(self) -> None:
        self.breaker.check()


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAnyHistory = Machine.TestCase


def test_a_breaker_that_never_opened_costs_nothing_to_ask() -> None:
    breaker = Breaker()
    assert all(breaker.permits(now) for now in range(1000))
    assert breaker.opens == 0


@pytest.mark.parametrize("failures", [1, 3, 5])
def test_it_opens_at_its_own_number_of_failures(failures: int) -> None:
    breaker = Breaker(failures, S)
    for number in range(failures):
        assert breaker.state == l.BREAKER_CLOSED
        breaker.failed(number + 1)
    assert breaker.state == l.BREAKER_OPEN
