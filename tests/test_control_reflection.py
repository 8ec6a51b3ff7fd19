"""A store that is of another journal than the one beside it is never gone on with, and what cannot be read of a plan is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.learn import reflection as module
from control.learn.adoption import adopt
from control.learn.knowledge import Applied, Knowledge, KnowledgeError
from control.record import records
from control.record.writer import JournalWriter
from ipc import layout as l
from ipc import messages
from tests.learn_scene import World, child_of, closed, reflecting, stored, worlds


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from worlds(tmp_path, monkeypatch)


def has_learned(folder: Path, applied: Applied) -> None:
    """The store beside the journal has been written by an earlier run, up to that record."""
    store = Knowledge(folder / "knowledge", writable=True)
    stored(store, applied, closed("BTC/USDT", 5))
    store.close()


def begin_run(world: World, incarnation: int) -> None:
    """The instance has been started so often, and nothing is on the order ring yet."""
    for number in range(world.incarnation + 1, incarnation + 1):
        world.journal.begin_run(f"run {number}", {"instruments": world.journal.run_starts()[1].data["instruments"]})
    world.memory.board.cursors[0]["incarnation"] = world.incarnation = incarnation
    world.seq = world.memory.board.cursors[0]["durable_orders"] = 0


@pytest.mark.parametrize("applied", [Applied(7, 900), Applied(3, 900), Applied(2, 900), Applied(2, 4)])
def test_knowledge_of_a_record_that_the_journal_does_not_hold_is_refused_with_a_remedy(world: World, tmp_path: Path, applied: Applied) -> None:
    """Journal and ledger are of an older backup: by incarnations, by records of this incarnation or of the one before; or of another instance."""
    begin_run(world, 2)
    world.trade(0, 5)
    begin_run(world, 3)
    world.trade(0, 5)
    has_learned(tmp_path, applied)
    reflection = reflecting(world, tmp_path)
    with pytest.raises(KnowledgeError, match=rf"{tmp_path}/knowledge is of another journal: .*restore journal, paper and knowledge from the same "
                                             rf"backup, or move this folder away.*{applied.incarnation}/{applied.seq}"):
        reflection.step()
    assert world.learned() == 0, "nobody is told that something was learned"
    assert reflection.store.applied() == applied
    reflection.store.close()


def test_knowledge_of_a_lost_timeline_is_refused_though_the_journal_has_come_as_far_again(world: World, tmp_path: Path) -> None:
    world.trade(0, 5)
    reflection = reflecting(world, tmp_path)
    reflection.step()
    applied = reflection.applied
    reflection.store.close()
    store = Knowledge(tmp_path / "knowledge", writable=True)
    stored(store, Applied(applied.incarnation, applied.seq, applied.event_ns + 1))  # as many records, at another time
    store.close()
    world.trade(0, 5)
    again = reflecting(world, tmp_path)
    with pytest.raises(KnowledgeError, match="of another journal"):
        again.step()
    again.store.close()


def test_a_store_that_does_not_know_the_time_of_its_last_record_goes_on(world: World, tmp_path: Path) -> None:
    """It was written by an earlier version of the program."""
    world.trade(0, 5)
    has_learned(tmp_path, Applied(1, world.seq))
    world.trade(0, 5)
    reflection = reflecting(world, tmp_path)
    assert reflection.step() == 1
    reflection.store.close()


def test_knowledge_of_its_own_journal_goes_on_over_runs_and_reopenings(world: World, tmp_path: Path) -> None:
    for incarnation in (1, 2, 3):
        begin_run(world, incarnation)
        for reopened in (False, True):
            world.trade(0, 5)
            reflection = reflecting(world, tmp_path)
            if reopened:
                reflection.reopen()
            assert reflection.step() == 1
            assert world.learned() == world.seq
            reflection.store.close()


def test_adopted_knowledge_goes_on_beside_a_journal_that_begins_anew(world: World, tmp_path: Path) -> None:
    has_learned(tmp_path / "other", Applied(7, 900, 4711))
    adopt(tmp_path / "other" / "knowledge", tmp_path / "knowledge")
    world.trade(0, 5)
    reflection = reflecting(world, tmp_path)
    assert reflection.step() == 1
    assert reflection.store.scores()["coin", "BTC/USDT"].trades == 2
    reflection.store.close()


def test_knowledge_of_another_journal_is_safe_mode_that_names_it_until_the_folder_is_moved_away(
        world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAFE_AFTER_S", 0.0)
    has_learned(tmp_path, Applied(7, 900))
    world.trade(0, 5)
    reflection = reflecting(world, tmp_path)
    learning = module.Learning(child_of(str(tmp_path), world.memory), reflection)
    mode, shown = world.memory.board.modes[l.MODE_OF_REFLECTION], world.memory.board.activities[l.REFLECTION * l.MAX_ACTIVITIES]
    assert learning.turn(10**9) == 0
    assert (int(mode["mode"]), mode["cause"]) == (l.MODE_SAFE, b"knowledge is of another journal")
    assert b"is of another journal: stop, and restore journal, paper and knowledge from the same backup" in shown["text"]
    assert not learning.hopeless
    (tmp_path / "knowledge").rename(tmp_path / "aside")
    assert learning.turn(10**12) == 0, "the folder is open still"
    assert learning.turn(10**13) == 1, "it is learned anew"
    assert int(mode["mode"]) == l.MODE_RUNNING
    learning.close()
    reflection.store.close()


# ── plans ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def unreadable_plan(journal: JournalWriter, due_ns: int) -> int:
    """A plan as another version of the program may have written it; gives its number."""
    (number,) = journal.append(plans=[messages.Plan(strategy="momentum", due_ns=due_ns, next_due_ns=due_ns + 1)])
    payload = messages.encode({"type": "plan", "conditions": [{"coin": "BTC/USDT"}]})  # type: ignore[arg-type]
    with journal.env.begin(write=True) as transaction:
        transaction.put(records.number_key(number), records.encode(records.PLAN, 1, 0, number, 1, 1, payload), db=journal.databases["plans"])
    return number


def test_a_plan_that_cannot_be_read_is_said_once_with_what_its_trades_lack(
        world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbers = [unreadable_plan(world.journal, due_ns) for due_ns in range(20)]  # more than are kept
    reflection = reflecting(world, tmp_path)
    with caplog.at_level(logging.WARNING):
        for number in numbers + numbers:
            place = {"instrument": 0, "side": l.BUY, "condition_id": number << l.PLAN_SHIFT}
            position = 1 << 40 | world.record(kind=l.NEW, purpose=l.ENTRY, reference_price=10_000, **place)
            world.record(kind=l.LIFECYCLE, leg=l.POS_OPENING, code=l.POS_OPEN, position_id=position, limit_price=9_900, reference_price=10_200,
                         **place)
            world.record(kind=l.CLOSED, position_id=position, pnl=5, fees=7, lots=100, entry_price=10_000, exit_price=10_001, opened_ns=world.seq,
                         exit_reason=l.EXIT_STOP, **place)
        assert reflection.step() == 2 * len(numbers), "its trades are learned all the same"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(numbers)
    assert said[0].startswith(f"plan {numbers[0]} cannot be read: ")
    assert "without pattern, regime, reason, confidence, distance, the model's answer and twins" in said[0]
    reflection.store.close()
