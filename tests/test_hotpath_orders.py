"""The order state machine: every path that a venue may take, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hotpath.orders import ID_LENGTH, SEND, TERMINAL, IllegalTransition, Order, advance, client_order_id, parse_client_order_id
from ipc import layout as l

EVENTS = (SEND, *l.REPORT_KINDS)


@given(st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 40) - 1))
def test_an_order_id_leads_back_to_what_it_was_made_of(instance: int, incarnation: int, seq: int) -> None:
    text = client_order_id(instance, incarnation, seq)
    assert len(text) == ID_LENGTH
    assert text == text.lower()
    assert text.isascii()
    assert text.isalnum()
    assert parse_client_order_id(text) == (instance, incarnation, seq)


def test_an_order_id_is_base32_of_its_ten_bytes() -> None:
    assert client_order_id(0, 0, 0) == "a" * 16
    assert client_order_id((1 << 24) - 1, (1 << 16) - 1, (1 << 40) - 1) == "7" * 16
    assert client_order_id(1, 1, 1) == "aaaacaabaaaaaaab"


@pytest.mark.parametrize("text", ["", "a" * 15, "A" * 16, "a" * 15 + "1", "a" * 17, "ä" * 16])
def test_what_is_no_order_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the text is base64's own where that refuses)
        parse_client_order_id(text)


@pytest.mark.parametrize("parts", [(1 << 24, 0, 0), (0, 1 << 16, 0), (0, 0, 1 << 40), (-1, 0, 0)])
def test_a_number_that_does_not_fit_is_refused(parts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        client_order_id(*parts)


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", [event for event in EVENTS if event != l.FILL])
def test_nothing_follows_a_terminal_report(state: int, event: int) -> None:
    with pytest.raises(IllegalTransition):
        advance(Order(state, 10, 4, 400), event, 5, 500)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_only_a_fill_that_was_counted_may_come_again_after_the_end(state: int) -> None:
    order = Order(state, 10, 4, 400)
    assert advance(order, l.FILL, 4, 400) == order
    with pytest.raises(IllegalTransition):
        advance(order, l.FILL, 5, 500)


def test_an_order_is_sent_once() -> None:
    sent = advance(Order(l.ORD_NONE, 10), SEND)
    assert sent.state == l.ORD_SENDING
    with pytest.raises(IllegalTransition):
        advance(sent, SEND)


def test_an_order_is_lost_only_when_it_was_unknown_or_never_sent_and_has_no_fill() -> None:
    assert advance(Order(l.ORD_NONE, 10), l.LOST).state == l.ORD_LOST
    assert advance(Order(l.ORD_UNKNOWN, 10), l.LOST).state == l.ORD_LOST
    for state in (l.ORD_SENDING, l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED):
        with pytest.raises(IllegalTransition):
            advance(Order(state, 10), l.LOST)
    with pytest.raises(IllegalTransition, match="with 3 lots filled"):
        advance(Order(l.ORD_UNKNOWN, 10, 3, 30), l.LOST)


def test_an_unknown_order_goes_on_with_what_the_venue_proves() -> None:
    unknown = Order(l.ORD_UNKNOWN, 10, 3, 30)
    assert advance(unknown, l.ACCEPTED, 3, 30).state == l.ORD_PARTLY_FILLED
    assert advance(unknown, l.FILL, 3, 30).state == l.ORD_PARTLY_FILLED
    assert advance(unknown, l.FILL, 10, 100) == Order(l.ORD_FILLED, 10, 10, 100)
    assert advance(unknown, l.CANCELLED, 4, 40) == Order(l.ORD_CANCELLED, 10, 4, 40)
    assert advance(Order(l.ORD_UNKNOWN, 10), l.ACCEPTED).state == l.ORD_ACCEPTED
    assert advance(Order(l.ORD_UNKNOWN, 10), l.REJECTED).state == l.ORD_REJECTED


def test_more_than_was_ordered_is_never_filled() -> None:
    with pytest.raises(IllegalTransition, match="11 lots for an order of 10"):
        advance(Order(l.ORD_ACCEPTED, 10), l.FILL, 11, 110)


@given(st.sampled_from(EVENTS), st.integers(0, len(l.ORDER_STATES) - 1), st.integers(0, 12), st.integers(0, 12))
def test_whatever_comes_gives_an_order_that_makes_sense_or_is_illegal(event: int, state: int, had: int, cum: int) -> None:
    before = Order(state, 10, min(had, 10), 10 * min(had, 10))
    try:
        after = advance(before, event, cum, 10 * cum)
    except IllegalTransition:
        return
    assert before.cum_lots <= after.cum_lots <= after.lots == 10
    assert after.state != l.ORD_NONE
    assert after == before or before.state not in TERMINAL
    if event == l.FILL and after != before:
        assert (after.state == l.ORD_FILLED) == (after.cum_lots == 10)


class AnOrderAtAVenue(RuleBasedStateMachine):
    """A venue that answers as venues do, late and twice; the machine must follow and agree with it."""

    @initialize(lots=st.integers(1, 20))
    def ordered(self, lots: int) -> None:
        self.order = Order(l.ORD_NONE, lots)
        self.venue_lots = 0  # what the venue has filled
        self.venue_state = l.ORD_NONE  # NONE: has not got it
        self.told: list[tuple[int, int]] = []
        self.terminal_reports = 0

    def report(self, kind: int) -> None:
        self.told.append((kind, self.venue_lots))
        self.order = advance(self.order, kind, self.venue_lots, 7 * self.venue_lots)
        self.terminal_reports += self.order.state in TERMINAL

    def at(self, *states: int) -> bool:
        return self.order.state in states

    @precondition(lambda self: self.at(l.ORD_NONE))
    @rule()
    def send(self) -> None:
        self.order = advance(self.order, SEND)

    @precondition(lambda self: self.at(l.ORD_NONE))
    @rule(kind=st.sampled_from([l.LOST, l.CANCELLED]))
    def never_sent(self, kind: int) -> None:
        self.report(kind)

    @precondition(lambda self: self.at(l.ORD_SENDING, l.ORD_UNKNOWN) and self.venue_state == l.ORD_NONE)
    @rule(takes=st.booleans())
    def venue_answers(self, takes: bool) -> None:
        self.venue_state = l.ORD_ACCEPTED if takes else l.ORD_REJECTED
        self.report(l.ACCEPTED if takes else l.REJECTED)

    @precondition(lambda self: self.at(l.ORD_SENDING, l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED))
    @rule()
    def time_out(self) -> None:
        self.report(l.UNKNOWN)

    @precondition(lambda self: self.at(l.ORD_UNKNOWN) and self.venue_state == l.ORD_NONE)
    @rule()
    def venue_never_got_it(self) -> None:
        self.report(l.LOST)

    @precondition(lambda self: self.venue_state == l.ORD_ACCEPTED and self.order.state not in TERMINAL)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        self.venue_lots += data.draw(st.integers(1, self.order.lots - self.venue_lots))
        self.report(l.FILL)

    @precondition(lambda self: self.venue_state == l.ORD_ACCEPTED and self.order.state not in TERMINAL)
    @rule(kind=st.sampled_from([l.CANCELLED, l.EXPIRED]))
    def ends(self, kind: int) -> None:
        self.report(kind)

    @precondition(lambda self: any(kind == l.FILL for kind, _ in self.told))
    @rule(data=st.data())
    def a_fill_comes_twice(self, data: st.DataObject) -> None:
        lots = data.draw(st.sampled_from([lots for kind, lots in self.told if kind == l.FILL]))
        before = self.order
        self.order = advance(before, l.FILL, lots, 7 * lots)
        assert self.order == before or (before.state == l.ORD_UNKNOWN and self.order.cum_lots == before.cum_lots)

    @precondition(lambda self: self.order.state in TERMINAL)
    @rule(event=st.sampled_from([event for event in EVENTS if event != l.FILL]))
    def anything_else_after_the_end(self, event: int) -> None:
        with pytest.raises(IllegalTransition):
            advance(self.order, event, self.venue_lots, 7 * self.venue_lots)

    @invariant()
    def lots_agree_and_the_end_comes_once(self) -> None:
        if not hasattr(self, "order"):
            return
        assert self.order.cum_lots == self.venue_lots <= self.order.lots
        assert self.order.cum_quote == 7 * self.venue_lots
        assert self.terminal_reports == (self.order.state in TERMINAL)
        assert (self.order.state == l.ORD_FILLED) == (self.venue_lots == self.order.lots and self.order.state in TERMINAL)


AnOrderAtAVenue.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnOrderAtAVenue = AnOrderAtAVenue.TestCase
