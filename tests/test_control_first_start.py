"""A start that finds half of what a start leaves: an empty journal, a torn identity; and answers of a recorder that has little time."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest

from control.record import queries as asked
from control.record.journal import DATABASES, Journal
from control.record.queries import Queries
from control.record.records import JournalCorrupt, NoJournal, WriteFailed, number_key
from control.record.writer import JournalWriter
from control.supervise import instance
from control.supervise.carry import take_along
from control.supervise.instance import Identity, LaunchError, Places
from ipc import layout as l
from ipc import messages
from tests.journal_scene import NOON_NS, RUN_FACTS, plan
from tests.test_control_carry import plan_of


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "state").mkdir()
    return Places("t", "run", tmp_path, tmp_path / "state", tmp_path / "run", tmp_path)


def half_made(folder: Path, databases: int) -> None:
    """What a process leaves that is killed while it makes a journal: an empty file (−1), or its first databases."""
    folder.mkdir()
    if databases < 0:
        (folder / "data.mdb").touch()
        return
    with lmdb.open(str(folder), max_dbs=8) as env:
        for name in DATABASES[:databases]:
            env.open_db(name.encode())


@pytest.mark.parametrize("databases", [-1, 0, 3, 7])
def test_a_journal_that_was_never_finished_is_none_yet_and_is_finished_by_the_next_start(databases: int, places: Places) -> None:
    half_made(places.state_dir / "journal", databases)
    with pytest.raises(NoJournal):
        Journal(places.state_dir / "journal")
    assert instance.journal_event_ns(places.state_dir) == 0
    assert take_along(plan_of("SOL/USDT", "momentum"), places.state_dir).carried_symbols == ()
    assert instance.identify(places, "paper", 1).number > 0
    writer = JournalWriter(places.state_dir / "journal", sync=False)
    assert writer.begin_run("run", RUN_FACTS) == 1
    writer.close()
    Journal(places.state_dir / "journal").close()


def test_what_is_no_journal_is_not_taken_for_none(places: Places) -> None:
    (places.state_dir / "journal").mkdir()
    (places.state_dir / "journal" / "data.mdb").write_bytes(b"nothing of ours" * 1000)
    with pytest.raises(JournalCorrupt, match="restore it from a backup"):
        Journal(places.state_dir / "journal")
    with pytest.raises(LaunchError, match="--fresh"):
        instance.journal_event_ns(places.state_dir)


def test_a_folder_that_cannot_be_made_may_be_there_at_the_next_try(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match="Not a directory"):
        JournalWriter(tmp_path / "file" / "journal")


@pytest.mark.parametrize("torn", [b"", b'{"numb', None])
def test_a_torn_or_lost_identity_is_made_anew_from_the_journal(torn: bytes | None, places: Places) -> None:
    if torn is not None:
        (places.state_dir / "instance.json").write_bytes(torn)
        with pytest.raises(LaunchError, match="begin anew with --fresh"):
            instance.identify(places, "paper", 1)
    writer = JournalWriter(places.state_dir / "journal", sync=False)
    writer.begin_run("run", {**RUN_FACTS, "instance_number": 4711, "seed": 12})
    writer.append(snapshot=None, orders=swapped(1))
    writer.close()
    known = instance.identify(places, "paper", 1)
    assert known == Identity(number=4711, seed=12, event_ns=NOON_NS)
    assert json.loads((places.state_dir / "instance.json").read_text())["number"] == 4711


def swapped(count: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(count, l.INTENT)
    rows["seq"], rows["kind"], rows["event_ns"] = np.arange(1, count + 1), l.SWAPPED, NOON_NS
    return rows


# ── a recorder has rings to drain ────────────────────────────────────────────────────────────────────────────────────
def many_plans(folder: Path, count: int, conditions: int) -> JournalWriter:
    writer = JournalWriter(folder, sync=False)
    writer.begin_run("run", RUN_FACTS)
    condition = plan().conditions[0]
    for number in range(count):
        writer.append(plans=[messages.Plan(strategy="momentum", due_ns=NOON_NS + number, next_due_ns=NOON_NS + number + 1,
                                           conditions=[condition] * conditions)])
    return writer


def test_an_answer_that_would_take_too_long_is_cut_off_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = many_plans(tmp_path, 40, 1)
    queries, looks = Queries(writer), itertools.count()
    decoded: list[bytes] = []

    def decode_plan(payload: bytes) -> messages.Plan:
        decoded.append(payload)
        return decode(payload)

    decode = asked.decode_plan
    monkeypatch.setattr(asked, "decode_plan", decode_plan)
    monkeypatch.setattr(asked, "time", SimpleNamespace(monotonic=lambda: next(looks) * asked.LONGEST_S / 8))  # eight looks are too many
    reply = queries.answer(messages.Query(what="plans", limit=10_000))
    assert isinstance(reply, messages.Answer)
    assert 0 < len(decoded) <= 8 < 40, "what comes behind the time is not even read"
    assert (len(reply.rows), reply.data["cut_off"].split(":")[0]) == (len(decoded), f"only the newest {len(decoded)}")
    nobody = queries.answer(messages.Query(what="plans", limit=10_000, argument="nobody"))
    assert isinstance(nobody, messages.Answer)
    assert "cut_off" in nobody.data, "what shows no row takes time too"
    few = queries.answer(messages.Query(what="plans", limit=3))
    assert isinstance(few, messages.Answer)
    assert (len(few.rows), few.data) == (3, {})
    whole = queries.answer(messages.Query(what="plans", limit=len(reply.rows)))
    assert isinstance(whole, messages.Answer)
    assert (len(whole.rows), whole.data) == (len(reply.rows), {}), "late, and yet all that was asked for"
    writer.close()


def test_the_words_behind_many_trades_are_found_quickly(tmp_path: Path) -> None:
    writer = many_plans(tmp_path, 40, 1000)
    closed = np.zeros(40, l.TRADE)
    closed["seq"], closed["kind"], closed["event_ns"] = np.arange(1, 41), l.CLOSED, NOON_NS
    closed["condition_id"] = closed["seq"] << 20 | 5
    writer.append(closed.view(l.INTENT))
    queries = Queries(writer)
    began = time.perf_counter()
    rows = queries.trades(40)
    assert time.perf_counter() - began < 1.0, "40 plans of 1000 conditions"
    assert [row["why"] for row in rows] == [plan().conditions[0].why] * 40
    writer.close()


def test_pieces_join_without_hole_or_double(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("run", RUN_FACTS)
    writer.append(events=[messages.Event(source="test", kind="note", text=str(number), wall_ns=number) for number in range(2 * asked.PIECE + 7)])
    rows = Queries(writer).events(10_000, "note")
    assert [row["text"] for row in rows] == [str(number) for number in reversed(range(2 * asked.PIECE + 7))]
    assert writer.before("events", number_key(1), 5) == []
    writer.close()
