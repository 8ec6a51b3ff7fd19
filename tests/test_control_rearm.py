"""After the loss of everything but the journal: the same conditions are armed, with what they had done, and nothing fires beyond its maximum."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.record.in_force import LONGEST_NS, ArmedPlan, InForce
from control.record.journal import Journal
from control.record.queries import Queries
from control.record.rearm import Rearmed, parts_of, rearm
from control.record.writer import JournalWriter
from hotpath.arming import armed_slots
from hotpath.config import Limits
from ipc import layout as l
from ipc import messages, ring
from tests.conftest import throw_away_memory
from tests.test_hotpath_conditions import condition
from tests.test_hotpath_sniper import SECOND, World

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
STRATEGIES = ("alpha", "beta")
FACTS: dict[str, Any] = {"mode": "paper", "strategies": list(STRATEGIES), "instruments": []}


class Desk:
    """A journal, and beside it a plain account of what is armed: the slow, obvious version."""

    def __init__(self, folder: Path) -> None:
        self.writer = JournalWriter(folder / "journal", sync=False)
        self.now, self.runs, self.seq = 1_700_000_000 * SECOND, 0, 0
        #: by id: strategy, condition, event time of its plan, id of its group (0: none)
        self.alive: dict[int, tuple[str, messages.Condition, int, int]] = {}
        self.groups: dict[int, int] = {}
        self.fires: dict[int, list[int]] = {}
        self.begin(Rearmed())

    def begin(self, again: Rearmed) -> None:
        self.runs, self.seq = self.runs + 1, 0
        self.writer.begin_run(f"run {self.runs}", FACTS, again.events(self.now), again.changed)

    def plan(self, strategy: str, conditions: list[messages.Condition], *, add: bool = False, withdraw: list[int] | None = None, size: int = 1000,
             taken_over: bool = True) -> list[int]:
        """Journal a plan in parts of `size`; gives its conditions' ids. One that is not taken over changes nothing."""
        chunks = [conditions[first: first + size] for first in range(0, max(1, len(conditions)), size)]
        numbers = [self.writer.append(plans=[messages.Plan(
            strategy=strategy, due_ns=self.now, next_due_ns=self.now + 30 * SECOND, conditions=chunk, add=add, part=part,
            withdraw=(withdraw or []) if part == 0 else [], more=part < len(chunks) - 1)])[0] for part, chunk in enumerate(chunks)]
        ids = [number << 20 | place for number, chunk in zip(numbers, chunks, strict=True) for place in range(len(chunk))]
        if not taken_over:
            return ids
        self.record(kind=l.SWAPPED, plan_seq=numbers[-1])
        if not add:
            self.alive = {own: one for own, one in self.alive.items() if one[0] != strategy}
        for gone in withdraw or []:
            del self.alive[gone]
        first: dict[str, int] = {}
        for own, one in zip(ids, conditions, strict=True):
            self.groups[own] = first.setdefault(one.group, own) if one.group else 0
            self.alive[own] = (strategy, one, self.now, self.groups[own])
        return ids

    def fire(self, own: int) -> None:
        """The condition's order is journaled."""
        self.fires.setdefault(own, []).append(self.now)
        self.record(kind=l.NEW, purpose=l.ENTRY, condition_id=own, plan_seq=own >> 20, fire_index=len(self.fires[own]) - 1)

    def record(self, **fields: int) -> None:
        row = np.zeros(1, l.INTENT)
        self.seq += 1
        for name, value in {"seq": self.seq, "event_ns": self.now, **fields}.items():
            row[name] = value
        self.writer.append(row)

    def expected(self) -> dict[int, tuple[Any, ...]]:
        """By id: strategy, symbol, expiry, fires, when it may fire again, whether its group has fired."""
        spent = {self.groups[own] for own in self.fires}
        found = {}
        for own, (strategy, one, due_ns, group) in self.alive.items():
            until = due_ns + (one.valid_after_s + one.valid_for_s) * SECOND
            if until > self.now:
                fired = self.fires.get(own, [])
                again_ns = fired[-1] + one.cooldown_s * SECOND if fired else 0
                found[own] = (strategy, one.symbol, until, len(fired), again_ns, group != 0 and group in spent)
        return found


def prepare(memory: Any, symbols: tuple[str, ...] = SYMBOLS, strategies: tuple[str, ...] = STRATEGIES) -> None:
    """Instruments and strategies of a run in fresh segments."""
    for row, symbol in zip(memory.instruments.instruments, symbols, strict=False):
        row["symbol"], row["kind"], row["value_quanta"] = symbol.encode(), l.KIND_SPOT, 1000
        row["tick_mantissa"], row["tick_exponent"], row["lot_mantissa"], row["lot_exponent"] = 1, -2, 1, -3
        row["permitted"], row["max_lots"], row["max_price"], row["leverage"], row["quantum_exponent"] = -1, 10**6, 10**9, 1, -8
    for row, name in zip(memory.instruments.strategies, strategies, strict=False):
        row["name"] = name.encode()
    memory.board.run[0]["instruments"], memory.board.run[0]["strategies"] = len(symbols), len(strategies)


def armed(memory: Any) -> dict[int, tuple[Any, ...]]:
    """What the table says, as Desk.expected."""
    found = {}
    for slot in armed_slots(memory.conditions).tolist():
        row, state = memory.conditions.rows[slot], memory.sniper.condition_states[slot]
        known = state["condition_id"] == row["condition_id"]
        done = row["group_id"] and memory.sniper.condition_states[int(row["group_slot"])]["group_done"] == row["group_id"]
        found[int(row["condition_id"])] = (
            memory.instruments.strategies[int(row["strategy"])]["name"].decode(),
            memory.instruments.instruments[int(row["instrument"])]["symbol"].decode(), int(row["valid_until_ns"]),
            int(state["fired"]) if known else 0, int(state["next_allowed_ns"]) if known else 0, bool(done))
    return found


def restart(desk: Desk, symbols: tuple[str, ...] = SYMBOLS, strategies: tuple[str, ...] = STRATEGIES,
            capacity: int = 64) -> tuple[dict[int, tuple[Any, ...]], Rearmed]:
    """Everything but the journal is lost; what the next start arms."""
    with throw_away_memory(capacity) as memory:
        prepare(memory, symbols, strategies)
        again = rearm(desk.writer, memory, desk.now)
        table = armed(memory)
        memory.sniper.condition_states["condition_id"] = 0
        memory.sniper.condition_states["group_done"] = 0
        repeated = rearm(desk.writer, memory, desk.now)
        assert (armed(memory), repeated) == (table, again), "a recorder that died before it was done does the same again"
    desk.begin(again)
    return table, again


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    made = Desk(tmp_path)
    yield made
    made.writer.close()


def test_a_condition_comes_back_with_its_id_its_expiry_its_fires_and_its_pause(desk: Desk) -> None:
    (twice, once, _) = desk.plan("alpha", [condition(max_fires=3, cooldown_s=60), condition(symbol="ETH/USDT"), condition(valid_for_s=5)])
    desk.now += SECOND
    desk.fire(twice)
    desk.now += 9 * SECOND
    table, again = restart(desk)
    planned = desk.now - 10 * SECOND
    assert table == {twice: ("alpha", "BTC/USDT", planned + 1800 * SECOND, 1, planned + 61 * SECOND, False),
                     once: ("alpha", "ETH/USDT", planned + 1800 * SECOND, 0, 0, False)}
    assert (again.armed, again.told, again.changed) == (2, [], {})
    (event,) = again.events(1)
    assert event.text == "2 conditions of the last run armed again, with the time and the fires that are left"


def test_a_plan_that_the_sniper_never_took_over_leaves_the_one_before_it_in_force(desk: Desk) -> None:
    (old,) = desk.plan("alpha", [condition()])
    desk.now += SECOND
    desk.plan("alpha", [condition(level="102")], taken_over=False)
    table, _ = restart(desk)
    assert set(table) == {old}
    assert Queries(desk.writer).in_force() == [{"strategy": "alpha", "plan_seq": old >> 20, "time_ns": desk.now - SECOND,
                                                "next_ns": desk.now + 29 * SECOND, "changed": [], "knowledge_version": 0}]


def test_what_has_changed_since_a_plan_is_told_with_it_however_many_runs_made_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_under(config: dict[str, str] | None) -> list[str]:
        monkeypatch.setitem(FACTS, "config", config)
        restart(desk)
        (row,) = Queries(desk.writer).in_force()
        return list(row["changed"])

    desk.plan("alpha", [condition()])
    assert run_under({"run.symbols": "a", "run.speed": "1"}) == [], "the plan is of a run of which no configuration is kept"
    desk.now += SECOND
    desk.plan("alpha", [condition(level="102")])
    assert run_under({"run.symbols": "a", "run.speed": "2"}) == ["run.speed"]
    assert run_under({"run.symbols": "b", "run.speed": "1"}) == ["run.symbols"]
    assert run_under({"run.symbols": "b", "run.speed": "1", "the file x.py": "0"}) == ["run.symbols", "the file x.py"], "of two runs ago"
    desk.now += SECOND
    desk.plan("alpha", [condition(level="103")])
    assert run_under({"run.symbols": "b", "run.speed": "1", "the file x.py": "0"}) == []


def test_a_group_of_which_one_fired_stays_spent_although_that_one_is_withdrawn(desk: Desk) -> None:
    first, second, free = desk.plan("alpha", [condition(group="side"), condition(group="side", level="102"), condition(level="103")])
    desk.now += SECOND
    desk.fire(first)
    desk.plan("alpha", [], add=True, withdraw=[first])
    table, _ = restart(desk)
    assert {own: row[-1] for own, row in table.items()} == {second: True, free: False}


def test_what_does_not_fit_any_more_is_dropped_for_good_and_named(desk: Desk) -> None:
    bitcoin, ether = desk.plan("alpha", [condition(why="a rise"), condition(symbol="ETH/USDT", why="a fall")])
    (other,) = desk.plan("beta", [condition(level="102")])
    table, again = restart(desk, symbols=("BTC/USDT",), strategies=("alpha",))
    assert set(table) == {bitcoin}
    one = "1 condition of the last run dropped"
    assert again.told == [(f"{one}: ETH/USDT of alpha: symbol: 'ETH/USDT' is not traded here; {ether} (a fall)", [ether]),
                          (f"{one}: BTC/USDT of beta: strategy beta does not run any more; {other} (test)", [other])]
    assert [event.kind for event in again.events(1)] == ["rearmed", "dropped", "dropped"]
    table, again = restart(desk)
    assert (set(table), again.told) == ({bitcoin}, []), "a run without them was between"


def test_a_smaller_table_keeps_what_was_planned_first_and_names_the_rest(desk: Desk) -> None:
    ids = desk.plan("alpha", [condition(level=str(101 + k)) for k in range(70)])
    table, again = restart(desk, capacity=66)
    assert sorted(table) == ids[:66]
    ((text, dropped),) = again.told
    assert dropped == ids[66:]
    assert "hotpath.condition_capacity = 66 has no room for more" in text
    table, _ = restart(desk, capacity=128)
    assert sorted(table) == ids[:66]


def test_a_symbol_that_only_serves_open_positions_gets_no_conditions(desk: Desk, memory: Any) -> None:
    bitcoin, _ = desk.plan("alpha", [condition(), condition(symbol="ETH/USDT")])
    prepare(memory)
    memory.sniper.instrument_states["closed_to_entries"][1] = 1
    again = rearm(desk.writer, memory, desk.now)
    assert set(armed(memory)) == {bitcoin}
    assert len(again.told) == 1


def test_a_price_that_is_none_of_the_instruments_any_more_is_dropped(desk: Desk, memory: Any) -> None:
    desk.plan("alpha", [condition(level="101.01")])
    prepare(memory)
    memory.instruments.instruments[0]["tick_mantissa"] = 5
    ((text, _),) = rearm(desk.writer, memory, desk.now).told
    assert "level: 101.01 is no whole number of 0.05 of BTC/USDT" in text
    assert armed(memory) == {}


def test_a_journal_from_before_plans_were_noted_arms_nothing(desk: Desk, memory: Any) -> None:
    desk.plan("alpha", [condition()], taken_over=False)
    prepare(memory)
    assert rearm(desk.writer, memory, desk.now) == Rearmed()


def test_parts_are_found_behind_anothers_plan_and_a_missing_one_gives_none(desk: Desk) -> None:
    numbers = [desk.writer.append(plans=[messages.Plan(strategy=name, due_ns=desk.now, next_due_ns=desk.now, part=part, more=part < 2)])[0]
               for name, part in (("alpha", 0), ("beta", 0), ("alpha", 1), ("alpha", 2))]
    assert [number for number, _ in parts_of(desk.writer, numbers[-1])] == [1, 3, 4]
    lone = desk.writer.append(plans=[messages.Plan(strategy="beta", due_ns=desk.now + 1, next_due_ns=desk.now + 2, part=1)])[0]
    assert parts_of(desk.writer, lone) == []


def test_a_plan_in_force_survives_the_writers_death(desk: Desk, tmp_path: Path) -> None:
    (own,) = desk.plan("alpha", [condition()])
    desk.writer.close()
    desk.writer = JournalWriter(tmp_path / "journal", sync=False)
    desk.writer.go_on("run 1", 1)
    (added,) = desk.plan("alpha", [condition(level="102")], add=True)
    assert set(restart(desk)[0]) == {own, added}


def test_plans_that_have_expired_are_forgotten_and_a_repeated_swap_changes_nothing() -> None:
    plans = InForce([ArmedPlan(1, 0, 5)], [7])
    assert plans.with_plan(ArmedPlan(1, 0, 5), add=False) is plans
    assert plans.with_plan(ArmedPlan(2, 10, 20), add=True) == InForce([ArmedPlan(1, 0, 5), ArmedPlan(2, 10, 20)], [7])
    assert plans.with_plan(ArmedPlan(2, LONGEST_NS, 20), add=True) == InForce([ArmedPlan(2, LONGEST_NS, 20)], [7])
    assert plans.with_plan(ArmedPlan(2, 10, 20), add=False) == InForce([ArmedPlan(2, 10, 20)])


# ── against the plain account ────────────────────────────────────────────────────────────────────────────────────────
def some_conditions() -> Any:
    return st.lists(st.builds(
        lambda symbol, cents, **more: condition(symbol=symbol, level=f"{cents / 100:.2f}", **more),
        st.sampled_from(SYMBOLS), st.integers(9_900, 10_100), direction=st.sampled_from(["up", "down"]), max_fires=st.integers(1, 4),
        cooldown_s=st.integers(0, 90), valid_for_s=st.integers(1, 200), valid_after_s=st.integers(0, 60),
        group=st.sampled_from([None, None, "a", "b"])), max_size=7)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_what_a_start_arms_is_what_was_armed_whatever_was_planned_and_fired(data: st.DataObject) -> None:
    """Random plans in parts, additions, withdrawals, refusals, fires and total losses, against a dict that is told of each as it happens."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for _ in range(data.draw(st.integers(1, 25))):
            desk.now += data.draw(st.integers(0, 40)) * SECOND
            match data.draw(st.sampled_from(["plan", "plan", "fire", "fire", "fire", "restart"])):
                case "plan":
                    strategy, add = data.draw(st.sampled_from(STRATEGIES)), data.draw(st.booleans())
                    mine = [own for own, one in desk.alive.items() if one[0] == strategy]
                    gone = data.draw(st.lists(st.sampled_from(mine), unique=True)) if add and mine else []
                    desk.plan(strategy, data.draw(some_conditions()), add=add, withdraw=gone, size=data.draw(st.integers(2, 9)),
                              taken_over=data.draw(st.booleans()) or bool(gone))
                case "fire" if desk.alive:
                    desk.fire(data.draw(st.sampled_from(sorted(desk.alive))))
                case "restart":
                    symbols = tuple(data.draw(st.lists(st.sampled_from(SYMBOLS), unique=True, min_size=2)))
                    strategies = tuple(data.draw(st.lists(st.sampled_from(STRATEGIES), unique=True, min_size=1)))
                    expected = {own: row for own, row in desk.expected().items() if row[0] in strategies and row[1] in symbols}
                    table, again = restart(desk, symbols, strategies, 256)
                    assert table == expected
                    assert sorted(one for _, ids in again.told for one in ids) == sorted(desk.expected().keys() - expected.keys())
                    gone_for_good = desk.expected().keys() - expected.keys()
                    desk.alive = {own: one for own, one in desk.alive.items() if own not in gone_for_good}
        assert restart(desk, capacity=256)[0] == desk.expected()
        desk.writer.check()
        desk.writer.close()


# ── with the kernel ──────────────────────────────────────────────────────────────────────────────────────────────────
#: no limit but the conditions' own
OPEN = Limits(max_entries_per_day=1_000_000, duplicate_window_ms=0, max_messages_per_s=1e6, max_repeats=100_000, max_open_positions=1000)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_condition_fires_beyond_its_maximum_over_any_number_of_total_losses(data: st.DataObject) -> None:
    """The real kernel over random prices; now and then everything but a prefix of the order ring is lost. What is journaled keeps every promise."""
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder) / "journal", sync=False)
        now, planned = 1_700_000_000 * SECOND, False
        conditions = [one for one in data.draw(some_conditions()) if one.symbol == "BTC/USDT"] + [condition(max_fires=2, cooldown_s=3)]
        for life in range(data.draw(st.integers(2, 4))):
            with throw_away_memory() as memory:
                prepare(memory, SYMBOLS[:1], ("probe",))
                again = rearm(writer, memory, now)
                writer.begin_run(f"run {life}", FACTS, again.events(now), again.changed)
                world = World(memory, OPEN)
                world.now = now
                world.quote(9_999, 10_001)
                world.trade(10_000, after_s=0.1)
                if not planned:
                    plan = messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, conditions=conditions)
                    planned_ns, (number,) = world.now, writer.append(plans=[plan])
                    world.take(msgspec.structs.replace(plan, plan_seq=number))
                    planned = True
                for price in data.draw(st.lists(st.integers(9_890, 10_110), max_size=12)):
                    world.quote(price - 1, price + 1, after_s=data.draw(st.integers(0, 9)))
                    world.trade(price, after_s=0.1)
                    for order in world.orders():  # none is ever filled, so that the next may come
                        if (memory.sniper.working["order_seq"] == order["seq"]).any():
                            world.report(kind=l.CANCELLED, order_seq=order["seq"])
                journal_some(writer, memory, data)
                now = world.now
        promises_hold(writer, number, conditions, planned_ns)
        writer.close()


def journal_some(writer: JournalWriter, memory: Any, data: st.DataObject) -> None:
    """What a recorder had stored when everything died: the first records of the order ring, the taking over of the plan at least."""
    head = int(ring.head(memory.orders.ring))
    records = memory.orders.slots[1: 1 + head]
    least = int(np.flatnonzero(records["kind"] == l.SWAPPED)[0]) + 1 if (records["kind"] == l.SWAPPED).any() else 0
    writer.append(records[: data.draw(st.integers(least, head))].copy())


def promises_hold(journal: Journal, plan_seq: int, conditions: list[messages.Condition], planned_ns: int) -> None:
    fired: dict[int, list[int]] = {}
    for record in journal.orders():
        if record.row["kind"] == l.NEW:
            fired.setdefault(int(record.row["condition_id"]) - (plan_seq << 20), []).append(record.event_ns)
            assert int(record.row["fire_index"]) == len(fired[int(record.row["condition_id"]) - (plan_seq << 20)]) - 1
    for place, times in fired.items():
        one = conditions[place]
        assert len(times) <= (1 if one.group else one.max_fires)
        assert all(later - earlier >= one.cooldown_s * SECOND for earlier, later in itertools.pairwise(times))
        assert times[-1] < planned_ns + (one.valid_after_s + one.valid_for_s) * SECOND
    for group in ("a", "b"):
        assert len([place for place in fired if conditions[place].group == group]) <= 1
