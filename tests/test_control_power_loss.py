"""Power fails: what was acknowledged is there, what was not is there whole or not at all. Journal, paper ledger, knowledge, small files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from control.learn.knowledge import Applied, Knowledge
from control.record.journal import DATABASES, Journal
from control.record.records import JournalError, NoJournal
from control.record.writer import JournalWriter
from control.supervise import instance
from control.supervise.instance import Identity, Places
from hotpath import durable
from hotpath.orders import client_order_id
from hotpath.venues import paper_ledger
from hotpath.venues.paper_ledger import Ledger
from hotpath.venues.venue import VenueOrder
from ipc import layout as l
from ipc import messages
from tests import power
from tests.journal_scene import DEPOSIT, NOON_NS, RUN_FACTS, SPOT, market_day, plan, position_fact
from tests.learn_scene import closed, stored
from tests.relearn import contents

COMMITS = 9


class Room(NamedTuple):
    """An environment: how its shipped class opens it, what one more commit does, and all that can be read of it by its shipped reader."""

    open: Callable[[Path, bool], Any]
    commit: Callable[[Any, int], None]
    read: Callable[[Path], Any]


# ── the three rooms ──────────────────────────────────────────────────────────────────────────────────────────────────
def _journal(folder: Path, sync: bool) -> Any:
    writer = JournalWriter(folder, sync)
    writer.begin_run("scene", RUN_FACTS)
    return writer


def _record(writer: Any, number: int) -> None:
    """Turns as the recorder's: records of both rings, now and then a plan, an event, a snapshot; one is larger than a page."""
    day, _ = market_day()
    first, last = (len(day.orders) * k // COMMITS for k in (number, number + 1))
    known = int(day.orders["report_seq"][last - 1])
    filler = [messages.Event(source="test", kind="filler", text="x" * 9000, wall_ns=number)] if number % 4 == 3 else []
    writer.append(day.orders[first:last], day.reports[writer.stored.reports:max(known, writer.stored.reports)],
                  plans=[plan(due_ns=NOON_NS + number)] if number % 3 == 0 else [], events=filler,
                  snapshot=day.snapshot([position_fact(SPOT, 3, l.BUY, number, 7)]) if number % 3 == 1 else None)


def _read_journal(folder: Path) -> Any:
    journal = Journal(folder)
    try:
        journal.check()
        with journal.reading() as transaction:
            return [[(bytes(key), bytes(value)) for key, value in transaction.cursor(journal.databases[name])] for name in DATABASES]
    finally:
        journal.close()


def _ledger(folder: Path, sync: bool) -> Any:
    return Ledger(folder, sync)


def _trade(ledger: Any, number: int) -> None:
    """An order with its acceptance and its fill, acknowledged by the commit."""
    order = VenueOrder(client_id=client_order_id(1, 1, number + 1), venue_order_id=number + 1, symbol="BTC/USDT", side=l.BUY, lots=10,
                       order_type=l.MARKET, limit_price=0, reduce_only=False, account="momentum", active_ns=NOON_NS,
                       state=l.ORD_FILLED if number % 2 else l.ORD_ACCEPTED)
    ledger.put_order(order)
    ledger.meta.cash += DEPOSIT - number
    ledger.position("BTC/USDT").lots += 10
    ledger.event(kind=l.FILL, client_id=order.client_id, symbol="BTC/USDT", side=l.BUY, event_ns=NOON_NS + number, tick_seq=number, lots=10)
    assert ledger.commit() is not None


def _read_ledger(folder: Path) -> Any:
    statement = paper_ledger.read(folder)
    reopened = Ledger(folder)  # as a gateway that takes over
    try:
        return msgspec.to_builtins([statement.meta, statement.positions, statement.events, reopened.open, reopened.accounts])
    finally:
        reopened.close()


def _learn(store: Any, number: int) -> None:
    stored(store, Applied(1, number + 1), *(closed(f"C{number * k}/USDT", 5 + k, number * 3 + k) for k in range(1, 3)))


def _read_knowledge(folder: Path) -> Any:
    store = Knowledge(folder)
    try:
        return contents(store)
    finally:
        store.close()


ROOMS = {"journal": Room(_journal, _record, _read_journal), "ledger": Room(_ledger, _trade, _read_ledger),
         "knowledge": Room(lambda folder, sync: Knowledge(folder, writable=True, sync=sync), _learn, _read_knowledge)}


def _commits(room: Room, folder: Path, sync: bool = True) -> list[tuple[power.Commit, Any, Any]]:
    """Each commit of a little history: the file before and after it, and what was readable before and after it."""
    made, environment = [], room.open(folder, sync)
    before, known = (folder / "data.mdb").read_bytes(), _readable(room, folder)
    for number in range(COMMITS):
        room.commit(environment, number)
        after = (folder / "data.mdb").read_bytes()
        now = _readable(room, folder)
        made.append((power.Commit(before, after), known, now))
        before, known = after, now
    environment.close()
    return made


def _readable(room: Room, folder: Path) -> Any:
    """Read from a copy: LMDB opens an environment once a process."""
    copy = power.put(folder.parent / "copy", (folder / "data.mdb").read_bytes())
    try:
        return room.read(copy)
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ROOMS)
def test_after_a_loss_of_power_the_last_acknowledged_state_is_there_or_the_one_that_was_being_written(name: str, tmp_path: Path) -> None:
    room = ROOMS[name]
    for number, (commit, acknowledged, newer) in enumerate(_commits(room, tmp_path / "env")):
        commit.check()
        assert acknowledged != newer
        for k, (data, whole) in enumerate(power.images(commit, seed=number, count=12)):
            folder = power.put(tmp_path / f"{number}-{k}", data)
            assert room.read(folder) == (newer if whole else acknowledged)
            shutil.rmtree(folder)


@pytest.mark.parametrize("name", ROOMS)
def test_what_comes_back_can_be_written_on(name: str, tmp_path: Path) -> None:
    """The commit that was lost is made again over its torn pages."""
    room = ROOMS[name]
    commit, _, newer = _commits(room, tmp_path / "env")[-1]
    for k, (data, whole) in enumerate(power.images(commit, seed=7, count=6)):
        if whole:
            continue
        folder = power.put(tmp_path / str(k), data)
        environment = room.open(folder, True)
        room.commit(environment, COMMITS - 1)
        environment.close()
        if name == "journal":  # its header has the wall clock
            assert [len(items) for items in room.read(folder)] == [len(items) for items in newer]
        else:
            assert room.read(folder) == newer


@pytest.mark.parametrize("name", ROOMS)
def test_a_paper_run_syncs_every_commit_and_a_replay_none(name: str, tmp_path: Path) -> None:
    """Pages by fdatasync, the meta page through O_DSYNC; never through a writable map, whose order would be the kernel's."""
    for sync in (True, False):
        folder = tmp_path / str(sync)
        environment = ROOMS[name].open(folder, sync)
        flags = getattr(environment, "env", None) or environment._env
        assert {flag: flags.flags()[flag] for flag in ("sync", "metasync", "writemap", "map_async")} == {
            "sync": sync, "metasync": sync, "writemap": False, "map_async": False}
        if sync:
            assert power.writes_through(folder)
        environment.close()


@pytest.mark.slow
def test_a_file_without_fsync_may_have_lost_everything(tmp_path: Path) -> None:
    """Why only what can be made again is written so: the meta page may be on the disk before what it names."""
    commits = _commits(ROOMS["journal"], tmp_path / "env", sync=False)
    unreadable = 0
    for number, (commit, before, after) in enumerate(commits):
        folder = power.put(tmp_path / str(number), commit.meta_alone())
        # in a process of its own: a page that is not there may be read as whatever was there, or beyond the file's end
        done = subprocess.run([sys.executable, "-c", "import sys; from pathlib import Path; from tests.test_control_power_loss import _read_journal;"
                               "found = _read_journal(Path(sys.argv[1])); sys.stdout.write(repr(found))", str(folder)],
                              capture_output=True, text=True, check=False)
        unreadable += done.returncode != 0 or done.stdout not in (repr(before), repr(after))
    assert unreadable > 0


# ── the first start ──────────────────────────────────────────────────────────────────────────────────────────────────
BLANK = power.PAGE * 2


@pytest.mark.parametrize("name", ROOMS)
@pytest.mark.parametrize("left", ["nothing", "short", "blank", "first meta", "second meta", "longer"])
def test_power_lost_before_the_first_commit_leaves_an_environment_that_has_not_begun(name: str, left: str, tmp_path: Path) -> None:
    room = ROOMS[name]
    made = room.open(tmp_path / "made", True)
    metas = (tmp_path / "made" / "data.mdb").read_bytes()[:BLANK]
    made.close()
    page = power.PAGE
    data = {"nothing": b"", "short": metas[:page], "blank": bytes(BLANK), "first meta": metas[:page] + bytes(page),
            "second meta": bytes(page) + metas[page:], "longer": bytes(3 * page)}[left]
    folder = power.put(tmp_path / "env", data)
    assert not durable.begun(folder / "data.mdb")
    if name == "journal":
        with pytest.raises(NoJournal):
            Journal(folder)
    environment = room.open(folder, True)
    room.commit(environment, 0)
    environment.close()
    assert durable.begun(folder / "data.mdb")
    room.read(folder)


def test_an_environment_with_other_pages_and_one_that_cannot_be_read_have_begun(tmp_path: Path) -> None:
    made = JournalWriter(tmp_path / "made")
    made.close()
    whole = bytearray((tmp_path / "made" / "data.mdb").read_bytes())
    size = 4 * power.PAGE
    whole[40:44] = size.to_bytes(4, "little")  # as a machine with larger pages writes it
    larger = bytes(whole[:power.PAGE]) + bytes(size - power.PAGE) + bytes(whole[power.PAGE:2 * power.PAGE]) + bytes(size)
    assert durable.begun(power.put(tmp_path / "other", larger) / "data.mdb")
    (tmp_path / "strange" / "data.mdb").mkdir(parents=True)
    assert durable.begun(tmp_path / "strange" / "data.mdb")
    with pytest.raises((JournalError, OSError)):
        JournalWriter(tmp_path / "strange")
    assert (tmp_path / "strange" / "data.mdb").is_dir()


def test_what_is_put_aside_is_kept(tmp_path: Path) -> None:
    folder = power.put(tmp_path / "env", bytes(3 * power.PAGE))
    JournalWriter(folder).close()
    assert (folder / "data.mdb.unbegun").read_bytes() == bytes(3 * power.PAGE)


@pytest.mark.parametrize("data", [b"nothing of ours" * 1000, b"x", bytes(BLANK // 2) + b"something" * 10])
def test_what_is_not_ours_is_never_removed(data: bytes, tmp_path: Path) -> None:
    folder = power.put(tmp_path / "env", data)
    with pytest.raises(JournalError):
        JournalWriter(folder)
    assert (folder / "data.mdb").read_bytes() == data


# ── names and small files ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order, by the name of the file or folder."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        seen.append(("rename", os.path.basename(target)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return seen


@pytest.mark.parametrize("name", ROOMS)
def test_a_new_environment_is_durable_by_name_and_one_that_is_there_costs_no_fsync(name: str, tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    folder = tmp_path / "data" / "instances" / "x" / name
    ROOMS[name].open(folder, True).close()
    assert steps[:5] == [("fsync", part) for part in (name, "x", "instances", "data", tmp_path.name)]
    steps.clear()
    ROOMS[name].open(folder, True).close()
    assert steps == []
    ROOMS[name].open(tmp_path / "replay" / name, False).close()
    assert steps == [], "nothing of a replay is worth an fsync"


def test_the_identity_is_written_synced_renamed_and_its_folder_synced(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    (tmp_path / "state").mkdir()
    places = Places("t", "run", tmp_path, tmp_path / "state", tmp_path / "run", tmp_path)
    number = instance.identify(places, "paper", 1).number
    assert steps[:3] == [("fsync", "instance.json.new"), ("rename", "instance.json"), ("fsync", "state")]
    assert instance.identify(places, "paper", 1).number == number
    steps.clear()
    instance.remember(places, Identity(number=number, event_ns=5))
    assert steps == [("rename", "instance.json")], "each second, by the watchdog: what counts of it is in the journal"


def test_a_result_is_whole_and_its_name_durable(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    durable.replace_file(tmp_path / "summary.json", b"one")
    durable.replace_file(tmp_path / "summary.json", b"two")
    assert (tmp_path / "summary.json").read_bytes() == b"two"
    assert steps == [("fsync", "summary.json.new"), ("rename", "summary.json"), ("fsync", tmp_path.name)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_an_order_is_on_the_disk_before_the_gateway_may_see_its_cursor(tmp_path: Path) -> None:
    """The recorder moves the durable cursor behind the commit: whatever image the next commit leaves, the order that was sent is in it."""
    folder = tmp_path / "env"
    writer = _journal(folder, True)
    _record(writer, 0)
    sent = writer.stored.orders  # what rings.publish would say now
    before = (folder / "data.mdb").read_bytes()
    _record(writer, 1)
    commit = power.Commit(before, (folder / "data.mdb").read_bytes())
    writer.close()
    assert sent > 0
    for k, (data, _) in enumerate(power.images(commit, seed=3, count=20)):
        journal = Journal(power.put(tmp_path / str(k), data))
        assert np.array_equal(journal.rows("orders", 1)["seq"][:sent], np.arange(1, sent + 1))
        journal.close()
