"""A start's book: whichever snapshot it begins with, it is the book that all records from the first one on make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import account
from benchmarks.bench_restore import book_of, by_addition, differences, measured
from benchmarks.frame import CheckFailed, instance
from control.record.journal import Journal
from control.record.records import JournalError, number_key
from control.record.restore import Point, held, read_tail, restore
from control.record.writer import JournalWriter
from hotpath.venues import catalogue
from ipc import layout as l


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> account.Run:
    """A real run of some 6,000 ring records."""
    return account.record_run(tmp_path_factory.mktemp("day"), 6_000)


@pytest.fixture
def memory() -> Iterator[Any]:
    with instance(ticks=1024, instruments=len(account.SYMBOLS), conditions=64) as made:
        made.instruments.instruments[:] = catalogue.resolve(account.SYMBOLS)
        made.instruments.strategies["name"] = [name.encode() for name in account.STRATEGIES]
        yield made


def test_the_book_of_20000_records_from_a_snapshot_is_the_one_from_the_first_record_on(day: account.Run, tmp_path: Path) -> None:
    account.write(tmp_path / "journal", day, 4)
    found = measured(tmp_path / "journal", rounds=1)
    assert found["records"] >= 20_000
    assert found["tail"] >= 2_000
    assert found["open"] >= 2


@pytest.mark.parametrize("orders_behind", [1, 7, 30, 200])
def test_positions_that_were_open_at_the_snapshot_end_up_alike(day: account.Run, tmp_path: Path, memory: Any, orders_behind: int) -> None:
    account.write(tmp_path / "journal", day, 2, orders_behind)
    journal = Journal(tmp_path / "journal")
    snapshot = journal.last_snapshot()
    assert snapshot is not None
    assert restore(journal, memory)
    book = book_of(memory)
    assert restore(journal, memory, read_tail(journal, None))
    assert differences(book, book_of(memory)) == []
    if orders_behind < 30:
        assert {position.position_id for position in snapshot.positions} & {key[1] for key in book if key[0] == "position.lots"}
    journal.close()


def test_a_book_that_is_not_what_its_records_make_is_found(day: account.Run, tmp_path: Path) -> None:
    snapshot = msgspec.structs.replace(day.snapshot, account=msgspec.structs.replace(day.snapshot.account, cash=day.snapshot.account.cash + 1))
    account.write(tmp_path / "journal", day._replace(snapshot=snapshot), 2)
    with pytest.raises(CheckFailed, match=r"account\.cash"):
        measured(tmp_path / "journal", rounds=1)


def test_a_book_up_to_a_point_is_that_of_a_journal_that_ends_there(day: account.Run, tmp_path: Path, memory: Any) -> None:
    account.write(tmp_path / "whole", day, 2)
    account.write(tmp_path / "cut", day, 2, orders_behind=50)
    cut, whole = Journal(tmp_path / "cut"), Journal(tmp_path / "whole")
    stored = cut.cursors()
    restore(cut, memory)
    book = book_of(memory)
    point = Point(stored.incarnation, stored.orders, stored.reports)
    for since in (whole.last_snapshot(), None):
        restore(whole, memory, read_tail(whole, since, point))
        assert differences(book, book_of(memory)) == []
    assert by_addition(cut)["account.cash"] == book["account.cash"]
    cut.close()
    whole.close()


def test_only_a_plan_that_may_protect_something_is_missed(day: account.Run, tmp_path: Path, memory: Any) -> None:
    account.write(tmp_path / "journal", day, 2)
    writer = JournalWriter(tmp_path / "journal", sync=False)
    restore(writer, memory)
    needed = {int(row["plan_seq"]) for row in memory.sniper.positions[memory.sniper.positions["state"] != l.POS_FLAT]}
    kept = book_of(memory)
    assert len(day.plans) > len(needed) > 0

    def forget(numbers: set[int]) -> None:
        with writer.env.begin(write=True) as transaction:
            for number in numbers:
                assert transaction.delete(number_key(number), db=writer.databases["plans"])

    forget({plan.plan_seq for plan in day.plans} - needed)
    restore(writer, memory)
    assert differences(kept, book_of(memory)) == []
    forget(needed)
    with pytest.raises(JournalError, match=r"plan \d+, which says how an open position is protected, is missing"):
        restore(writer, memory)
    writer.close()


def test_what_may_be_open_is_told_before_the_book_is_made(day: account.Run, tmp_path: Path, memory: Any) -> None:
    account.write(tmp_path / "journal", day, 2, orders_behind=30)
    journal = Journal(tmp_path / "journal")
    restore(journal, memory)
    positions = memory.sniper.positions[memory.sniper.positions["state"] != l.POS_FLAT]
    opened = {(account.SYMBOLS[int(row["instrument"])], account.STRATEGIES[int(row["strategy"])]) for row in positions}
    assert opened
    assert opened <= held(journal).keys()
    journal.close()
