"""The rings' kernels, alone in one process: what each call gives at the edges, and any history of them against a plain Python model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipc import layout as l
from ipc import ring

CAPACITY = 8


class Ring:
    """A ring of its own in plain memory; the kernels see the same types as in a segment."""

    def __init__(self, dtype: np.dtype[Any] = l.TICK, capacity: int = CAPACITY) -> None:
        self.ring, self.readers = np.zeros(1, l.RING), np.zeros(l.MAX_ROLES, l.READER)
        self.slots, self.source, self.target = np.zeros(capacity, dtype), np.zeros(1, dtype), np.zeros(1, dtype)
        self.ring[0]["capacity"] = capacity

    def publish(self, price: int = 0) -> int:
        """A record that is told by its price."""
        self.source[0]["price"], self.source[0]["ask_lots"] = price, -price
        return int(ring.publish(self.ring, self.slots, self.source, 0))

    def poll(self, seq: int) -> int:
        """The result; the record is in `target`."""
        return int(ring.poll(self.ring, self.slots, seq, self.target, 0))

    def free(self) -> int:
        """Slots that may be published."""
        return int(ring.free_slots(self.ring, self.readers))

    def slot(self, seq: int) -> Any:
        """Where the record of a sequence lies."""
        return self.slots[seq & (len(self.slots) - 1)]


@pytest.fixture
def one() -> Ring:
    return Ring()


# ── publish and poll ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_untouched_ring_is_empty(one: Ring) -> None:
    assert ring.head(one.ring) == 0
    assert one.poll(1) == ring.EMPTY
    assert ring.oldest(one.ring) == 1
    assert one.free() == CAPACITY


def test_publish_numbers_records_from_one_and_writes_the_number_into_slot_and_source(one: Ring) -> None:
    assert [one.publish(10), one.publish(20)] == [1, 2]
    assert int(one.source[0]["seq"]) == 2
    assert one.slot(1)["seq"] == 1
    assert one.poll(1) == ring.OK
    assert (one.target[0]["seq"], one.target[0]["price"], one.target[0]["ask_lots"]) == (1, 10, -10)
    assert one.poll(2) == ring.OK
    assert one.poll(3) == ring.EMPTY


@pytest.mark.parametrize("dtype", [l.TICK, l.INTENT, l.REPORT], ids=["tick", "intent", "report"])
def test_every_byte_of_a_record_arrives(dtype: np.dtype[Any]) -> None:
    one = Ring(dtype)
    one.source[:] = np.frombuffer(np.random.default_rng(3).bytes(dtype.itemsize), dtype)
    ring.publish(one.ring, one.slots, one.source, 0)
    assert one.poll(1) == ring.OK
    assert one.target.tobytes() == one.source.tobytes()


def test_publish_and_poll_touch_no_row_but_their_own(one: Ring) -> None:
    source, target = np.zeros(3, l.TICK), np.zeros(3, l.TICK)
    source["price"] = (1, 2, 3)
    ring.publish(one.ring, one.slots, source, 1)
    assert ring.poll(one.ring, one.slots, 1, target, 2) == ring.OK
    assert target["price"].tolist() == [0, 0, 2]
    assert source["seq"].tolist() == [0, 1, 0]
    assert one.slots["price"].tolist() == [0, 2, 0, 0, 0, 0, 0, 0]


def test_the_last_capacity_records_can_be_read_and_the_one_before_is_lapped(one: Ring) -> None:
    for price in range(1, CAPACITY + 2):
        one.publish(price)
    assert one.poll(1) == ring.LAPPED
    for seq in range(2, CAPACITY + 2):
        assert one.poll(seq) == ring.OK
        assert one.target[0]["price"] == seq


def test_a_reader_that_was_lapped_many_times_over_is_told_so_once_for_each_try(one: Ring) -> None:
    for _ in range(10 * CAPACITY):
        one.publish()
    assert {one.poll(seq) for seq in range(1, 9 * CAPACITY + 1)} == {ring.LAPPED}
    assert one.poll(10 * CAPACITY + 1) == ring.EMPTY


def test_a_reader_goes_on_at_the_oldest_after_a_gap_and_its_loss_adds_up(one: Ring) -> None:
    for price in range(1, 31):
        one.publish(price)
    accepted, lost, seq = [], 0, 1
    while (found := one.poll(seq)) != ring.EMPTY:
        if found == ring.LAPPED:
            lost += int(ring.oldest(one.ring)) - seq
            seq = int(ring.oldest(one.ring))
        else:
            accepted.append(int(one.target[0]["price"]))
            seq += 1
    # one slot of the ring is given up with the rest: by the time it is read the writer may be in it
    assert accepted == list(range(30 - CAPACITY + 2, 31))
    assert lost == 30 - len(accepted)


def test_oldest_is_the_first_record_until_the_ring_is_full(one: Ring) -> None:
    seen = []
    for _ in range(CAPACITY + 2):
        one.publish()
        seen.append(int(ring.oldest(one.ring)))
    assert seen == [1, 1, 1, 1, 1, 1, 1, 2, 3, 4]


def test_sequences_beyond_32_bits_keep_their_slots(one: Ring) -> None:
    start = (1 << 40) + 5
    one.ring[0]["head"] = start
    assert one.publish(7) == start + 1
    assert one.poll(start + 1) == ring.OK
    assert one.slot(start + 1)["price"] == 7


# ── what the litmus needs luck for, without luck ─────────────────────────────────────────────────────────────────────
def test_a_slot_that_is_being_written_is_not_accepted_under_its_new_number(one: Ring) -> None:
    one.slot(1)["price"] = 5  # the writer stopped in the middle of its first record
    one.slot(1)["seq"] = l.BUSY
    assert one.poll(1) == ring.EMPTY


def test_a_slot_that_is_being_overwritten_is_not_accepted_under_its_old_number(one: Ring) -> None:
    for price in range(1, CAPACITY + 1):
        one.publish(price)
    assert one.poll(1) == ring.OK
    one.slot(1)["seq"] = l.BUSY  # the writer stopped in the middle of the next
    assert one.poll(1) == ring.LAPPED
    assert one.poll(CAPACITY + 1) == ring.EMPTY


@pytest.mark.parametrize("became", [l.BUSY, 1 + CAPACITY], ids=["busy", "overwritten"])
def test_a_slot_that_changes_between_the_first_and_the_second_look_is_refused(one: Ring, became: int) -> None:
    one.source[0]["ask_lots"] = became
    ring.publish(one.ring, one.slots, one.source, 0)
    # The reader's row ends on the slot's first word, so that copying the record's last word changes the slot's sequence: a writer that
    # strikes exactly in between.
    memory = np.zeros(CAPACITY * 64 + 128, np.uint8)
    memory[64:64 + CAPACITY * 64] = one.slots.view(np.uint8)
    slots = memory[64:64 + CAPACITY * 64].view(l.TICK)
    target = memory[128 + 8 - 64:128 + 8].view(l.TICK)  # slot 1 begins at byte 128
    assert int(slots[1]["seq"]) == 1
    assert ring.poll(one.ring, slots, 1, target, 0) == ring.LAPPED
    assert int(slots[1]["seq"]) == became


def test_a_writer_that_died_in_the_middle_of_a_record_writes_it_anew(one: Ring) -> None:
    one.publish(1)
    one.slot(2)["seq"], one.slot(2)["price"] = l.BUSY, 99
    assert one.publish(2) == 2
    assert one.poll(2) == ring.OK
    assert one.target[0]["price"] == 2


def test_a_source_row_carries_no_sequence_that_a_reader_could_accept_while_it_is_copied(one: Ring) -> None:
    one.source[0]["seq"] = 1  # left from an earlier publish to another ring
    one.publish()
    assert one.poll(1) == ring.OK
    one.source[0]["seq"] = 1
    assert one.publish() == 2
    assert one.slot(2)["seq"] == 2


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_publish_is_refused_room_when_the_slowest_reader_is_a_whole_ring_behind(one: Ring) -> None:
    for role in (l.SNIPER, l.GATEWAY):
        one.readers["active"][role] = 1
    for _ in range(CAPACITY):
        one.publish()
    ring.advance(one.readers, l.SNIPER, CAPACITY)
    assert ring.slowest(one.ring, one.readers) == 0
    assert one.free() == 0
    ring.advance(one.readers, l.GATEWAY, 1)
    assert one.free() == 1
    one.publish()
    assert one.free() == 0
    assert one.poll(2) == ring.OK, "what the slowest reader has not taken is still there"


def test_a_reader_that_is_not_active_holds_nobody_back(one: Ring) -> None:
    one.readers["active"][l.GATEWAY] = 1
    for _ in range(CAPACITY):
        one.publish()
    assert one.free() == 0
    one.readers["active"][l.GATEWAY] = 0
    assert one.free() == CAPACITY
    one.readers["active"][l.GATEWAY] = 1
    assert one.free() == 0


def test_a_reader_that_is_ahead_of_a_reborn_writer_gives_no_more_room_than_there_is(one: Ring) -> None:
    one.readers["active"][l.SNIPER] = 1
    one.publish()
    ring.advance(one.readers, l.SNIPER, 5)
    assert ring.slowest(one.ring, one.readers) == 1
    assert one.free() == CAPACITY


def test_every_row_of_the_reader_table_can_gate(one: Ring) -> None:
    one.publish()
    for role in range(l.MAX_ROLES):
        one.readers["active"][role] = 1
        assert one.free() == CAPACITY - 1
        ring.advance(one.readers, role, 1)
        assert ring.cursor(one.readers, role) == 1
        assert one.free() == CAPACITY


# ── any history against a plain model ────────────────────────────────────────────────────────────────────────────────
class RingHistory(RuleBasedStateMachine):
    """Publish, die half-way, read anywhere, move and switch readers; the model is a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Ring()
        self.records: list[int] = []  # price of sequence i + 1
        self.cursors: dict[int, int] = {}
        self.positions = [0] * l.MAX_ROLES
        self.half_written = False

    @rule(price=st.integers(-(1 << 62), 1 << 62))
    def publish(self, price: int) -> None:
        """Lapping whoever is there: the gate is asked, not enforced."""
        self.records.append(price)
        assert self.one.publish(price) == len(self.records)
        self.half_written = False

    @rule(count=st.integers(1, 3 * CAPACITY))
    def publish_many(self, count: int) -> None:
        """Several wraps at once."""
        for price in range(count):
            self.publish(price)

    @precondition(lambda self: not self.half_written)
    @rule()
    def die_half_way(self) -> None:
        """The writer's death between BUSY mark and publication."""
        slot = self.one.slot(len(self.records) + 1)
        slot["seq"], slot["price"] = l.BUSY, 123456
        self.half_written = True

    @rule(back=st.integers(-2, 3 * CAPACITY))
    def read(self, back: int) -> None:
        """Any sequence around the head."""
        seq = len(self.records) - back
        if seq < 1:
            return
        readable = CAPACITY - 1 if self.half_written else CAPACITY
        found = self.one.poll(seq)
        if back < 0:
            assert found == ring.EMPTY
        elif back >= readable:
            assert found == ring.LAPPED
        else:
            assert found == ring.OK
            assert (int(self.one.target[0]["seq"]), int(self.one.target[0]["price"])) == (seq, self.records[seq - 1])
            assert int(self.one.target[0]["ask_lots"]) == -self.records[seq - 1]

    @rule(role=st.integers(0, l.MAX_ROLES - 1), behind=st.integers(0, CAPACITY))
    def advance(self, role: int, behind: int) -> None:
        """A reader has come close to the head."""
        self.positions[role] = max(self.positions[role], len(self.records) - behind)
        ring.advance(self.one.readers, role, self.positions[role])
        if role in self.cursors:
            self.cursors[role] = self.positions[role]

    @rule(role=st.integers(0, l.MAX_ROLES - 1), active=st.booleans())
    def switch(self, role: int, active: bool) -> None:
        """A reader comes or goes."""
        if active:
            self.one.readers["active"][role] = 1
            self.cursors[role] = self.positions[role]
        else:
            self.one.readers["active"][role] = 0
            self.cursors.pop(role, None)

    @invariant()
    def agrees(self) -> None:
        """Head, slowest, room and oldest are the model's."""
        head = len(self.records)
        slowest = min([head, *self.cursors.values()])
        assert ring.head(self.one.ring) == head
        assert ring.slowest(self.one.ring, self.one.readers) == slowest
        assert self.one.free() == CAPACITY - (head - slowest)
        oldest = int(ring.oldest(self.one.ring))
        assert oldest == max(1, head - CAPACITY + 2)
        if head:
            assert self.one.poll(oldest) == ring.OK, "the oldest can be read even while the writer is in the slot behind it"


TestRingHistory = RingHistory.TestCase
TestRingHistory.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
