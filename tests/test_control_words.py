"""What an operator has said, what the day ends and what a drawdown counts from: over restarts exactly, through a journal of its own on the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from control.config import Safety
from control.record.journal import Journal
from control.record.writer import JournalWriter
from control.supervise.chronicle import Chronicle
from control.supervise.dangers import Dangers
from control.supervise.role import State
from control.supervise.safety import SafeMode
from control.supervise.watchdog import Watchdog
from control.supervise.words import Words
from hotpath import courier
from ipc import layout as l
from ipc import messages

TODAY = 19_000


class ToJournal:
    """A recorder that journals each event at once, or answers what the test says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reply: messages.Reply | None = None
        self._replies: list[tuple[bytes, bytes]] = []

    def send(self, number: bytes, payload: bytes) -> bool:
        event = messages.decode_child_request(payload)
        assert isinstance(event, messages.Event)
        if self.reply is None:
            store(self.path, event)
        self._replies.append((number, messages.encode(self.reply or messages.Done())))
        return True

    def receive(self) -> tuple[bytes, bytes] | None:
        return self._replies.pop(0) if self._replies else None

    def reset(self) -> None:
        self._replies.clear()


def store(path: Path, event: messages.Event) -> None:
    writer = JournalWriter(path, sync=False)
    try:
        writer.append(events=[event])
    finally:
        writer.close()


class Run:
    """One start of an instance, as far as words go: a watchdog that has no roles, over an account that is restored later."""

    def __init__(self, memory: Any, path: Path, daily_loss_bps: int | None = None, **settings: Any) -> None:
        self.memory, self.now = memory, 1000.0
        self.account = memory.sniper.account[0]
        self.sniper, gateway = SimpleNamespace(state=State.STARTING, been_ready=False), SimpleNamespace(been_ready=True)
        memory.board.modes[:] = 0
        memory.sniper.account[:] = 0
        self.line = ToJournal(path)
        self.chronicle = Chronicle(self.line, logging.getLogger("test"), lambda: self.now)
        self.rescue = SimpleNamespace(flattens=False)
        self.dangers = Dangers(memory, Safety(cooldown_s=0, **settings), daily_loss_bps, self.sniper, gateway, lambda: (0, 0))  # type: ignore[arg-type]
        self.dog = Watchdog({}, memory.board.modes, lambda *_: None, self.chronicle, safe_mode=SafeMode(0.0), dangers=self.dangers)  # type: ignore[arg-type]
        self.words = Words(memory.board.modes, self.dog.safe_mode, self.dangers, self.rescue, lambda: self.dog.set_mode(self.now),
                           self.chronicle.note)
        if (path / "data.mdb").exists():
            journal = Journal(path)
            self.words.recall(journal)
            journal.close()
        self.turn()  # before anybody lives

    def restored(self, equity: int, *, peak: int = 100, day: int = TODAY, day_start: int = 0) -> Run:
        """The sniper is there, with the account as the last snapshot has it."""
        self.account["day"], self.account["peak_equity"] = day, peak
        self.sniper.state, self.sniper.been_ready = State.READY, True
        self.account["day_start_equity"] = day_start or equity
        return self.at(equity)

    def at(self, equity: int) -> Run:
        self.account["equity"] = equity
        self.account["peak_equity"] = max(int(self.account["peak_equity"]), equity)
        self.turn()
        return self

    def turn(self) -> None:
        self.now += 2.0
        self.dog.turn(self.now)
        self.chronicle.pump()

    @property
    def causes(self) -> set[str]:
        return set(self.dog.safe_mode.causes)

    @property
    def paused(self) -> bool:
        return int(self.memory.board.modes[l.MODE_OF_OPERATOR]["mode"]) == l.MODE_REDUCE_ONLY


@pytest.fixture
def start(memory: Any, tmp_path: Path) -> Callable[..., Run]:
    """Everything of before is gone but the journal."""
    return lambda daily_loss_bps=None, **settings: Run(memory, tmp_path / "journal", daily_loss_bps, **settings)


# ── what the day ends ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_daily_loss_stands_over_any_number_of_restarts_of_its_day_and_ends_with_it(start: Callable[..., Run]) -> None:
    assert start(500).restored(94, day_start=100).causes == {"daily_loss"}
    for _ in range(3):
        again = start(500)
        assert again.causes == {"daily_loss"}, "while the account is not restored"
        assert again.restored(99, day_start=100).causes == {"daily_loss"}, "equity has come back, the day is the same"
    assert start(500).causes == {"daily_loss"}, "and this one dies before it is"
    assert start(500).restored(99, day=TODAY + 1).causes == set()


def test_a_daily_loss_ends_while_the_instance_runs(start: Callable[..., Run]) -> None:
    assert start(500).restored(94, day_start=100).causes == {"daily_loss"}
    next_day = start(500).restored(99)
    next_day.account["day"] = TODAY + 1
    next_day.turn()
    assert next_day.causes == set()
    assert start(500).restored(99, day=TODAY + 1).causes == set()


def test_a_daily_loss_that_an_older_version_noted_with_one_day_for_all_ends_with_that_day(start: Callable[..., Run], tmp_path: Path) -> None:
    store(tmp_path / "journal", old_safe_mode({"daily_loss": "lost"}, day=TODAY))
    assert start(500).restored(100).causes == {"daily_loss"}
    assert start(500).restored(100, day=TODAY + 1).causes == set()


def test_a_daily_loss_that_was_noted_without_its_day_is_of_the_first_that_is_known(start: Callable[..., Run], tmp_path: Path) -> None:
    store(tmp_path / "journal", old_safe_mode({"daily_loss": "lost"}, day=0))
    assert start(500).restored(100).causes == {"daily_loss"}
    assert start(500).restored(100).causes == {"daily_loss"}
    assert start(500).restored(100, day=TODAY + 1).causes == set()


def test_a_loss_that_is_there_on_the_next_day_too_is_of_that_day(start: Callable[..., Run]) -> None:
    run = start(500).restored(94, day_start=100)
    run.account["day"] = TODAY + 1
    run.at(94)
    assert run.at(100).causes == {"daily_loss"}
    assert start(500).restored(100, day=TODAY + 1).causes == {"daily_loss"}


def old_safe_mode(causes: dict[str, str], **data: int) -> messages.Event:
    return messages.Event(source="watchdog", kind="safe_mode", text="safe mode", wall_ns=1, data={"safe": True, "causes": causes, **data})


# ── a drawdown that a person has seen ────────────────────────────────────────────────────────────────────────────────
def test_the_drawdown_after_a_resume_counts_from_the_highest_equity_since_over_restarts(start: Callable[..., Run]) -> None:
    assert start(max_drawdown_bps=2000).restored(100).at(80).causes == {"drawdown"}
    seen = start(max_drawdown_bps=2000).restored(80)
    assert seen.causes == {"drawdown"}
    assert seen.words.resume() == ("running", "resumed: entries again")
    assert seen.causes == set()
    assert seen.at(99).at(85).causes == set()
    for _ in range(2):
        again = start(max_drawdown_bps=2000).restored(85)
        assert again.causes == set()
    assert again.at(80).causes == set()
    assert again.at(79).causes == {"drawdown"}, "20 % below 99"


def test_a_second_resume_counts_from_below_the_first(start: Callable[..., Run]) -> None:
    run = start(max_drawdown_bps=2000).restored(100).at(80)
    run.words.resume()
    run.at(90).at(72)
    assert run.causes == {"drawdown"}
    run.words.resume()
    assert start(max_drawdown_bps=2000).restored(72).at(58).causes == set()
    assert start(max_drawdown_bps=2000).restored(72).at(57).causes == {"drawdown"}


def test_a_peak_that_an_older_version_noted_with_safe_mode_is_not_lost_when_safe_mode_changes(start: Callable[..., Run], tmp_path: Path) -> None:
    store(tmp_path / "journal", old_safe_mode({}, day=TODAY, peak=99, forgiven=100))
    run = start(max_drawdown_bps=2000).restored(85)
    run.words.safe("asked for")
    run.words.resume()
    assert start(max_drawdown_bps=2000).restored(85).at(79).causes == {"drawdown"}


def test_a_rising_equity_is_noted_once_a_second_at_most_and_not_at_all_before_a_person_has_resumed(start: Callable[..., Run]) -> None:
    run = start(max_drawdown_bps=2000).restored(100)
    before = run.chronicle.taken
    for equity in range(101, 150):
        run.at(equity)
    assert run.chronicle.taken == before, "the account itself remembers"
    run.at(110)
    run.words.resume()
    before = run.chronicle.taken
    for equity in range(111, 131):
        run.account["equity"] = equity
        run.now += 0.1
        run.dog.turn(run.now)
    assert 1 <= run.chronicle.taken - before <= 2


# ── what an operator says ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("word", "stands"), [("pause", (True, False, False)), ("flatten", (True, True, False)), ("safe", (False, False, True))])
def test_a_word_stands_from_the_moment_it_is_said_though_the_loop_takes_no_further_turn(
        word: str, stands: tuple[bool, ...], start: Callable[..., Run]) -> None:
    run = start().restored(100)
    getattr(run.words, word)("said")
    assert run.chronicle.brought(run.chronicle.taken) is False, "its answer has not been looked at"
    run.chronicle.pump()
    assert run.chronicle.brought(run.chronicle.taken)
    for _ in range(2):
        again = start().restored(100)
        assert (again.paused, again.rescue.flattens, "operator" in again.causes) == stands
    again.words.resume()
    freed = start().restored(100)
    assert (freed.paused, freed.rescue.flattens, freed.causes) == (False, False, set())


def test_safe_before_a_stop_in_the_same_turn_is_noted_and_so_is_a_resume(start: Callable[..., Run]) -> None:
    run = start().restored(100)
    run.words.safe("asked for")
    run.dog.stop("SIGTERM")
    run.turn()
    assert int(run.memory.board.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_SAFE
    again = start().restored(100)
    assert again.causes == {"operator"}
    again.words.resume()
    again.dog.stop("SIGTERM")
    again.turn()
    assert int(again.memory.board.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_REDUCE_ONLY
    assert start().restored(100).causes == set()


def test_a_pause_does_not_take_a_flatten_back(start: Callable[..., Run]) -> None:
    run = start().restored(100)
    run.words.flatten("all")
    run.words.pause("pause")
    run.turn()
    assert start().rescue.flattens


# ── what the journal has of it ───────────────────────────────────────────────────────────────────────────────────────
def test_an_event_that_the_recorder_refused_is_not_in_the_journal(start: Callable[..., Run]) -> None:
    run = start().restored(100)
    run.line.reply = messages.Refused(code="journal", text="no", remedy="")
    run.words.pause("said")
    run.chronicle.pump()
    word = run.chronicle.taken
    assert (run.chronicle.waiting, run.chronicle.brought(word)) == (0, False)
    run.line.reply = None
    run.words.pause("again")
    run.chronicle.pump()
    assert run.chronicle.brought(word + 1)


def test_an_event_that_was_dropped_among_too_many_is_never_taken_for_journaled(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "MOST_WAITING", 3)
    run = start().restored(100)
    run.line.reply = messages.Unavailable(role="recorder", text="full")
    run.words.pause("said")
    word = run.chronicle.taken
    for number in range(4):
        run.chronicle.note("other", str(number))
    run.line.reply = None
    for _ in range(8):
        run.turn()
    assert run.chronicle.waiting == 0
    assert not run.chronicle.brought(word)
    assert run.chronicle.brought(word + 4)


def test_what_somebody_else_has_stored_at_the_end_is_in_the_journal(start: Callable[..., Run]) -> None:
    run = start().restored(100)
    run.line.reply = messages.Unavailable(role="recorder", text="full")
    run.words.pause("said")
    run.chronicle.pump()
    assert not run.chronicle.brought(run.chronicle.taken)
    run.chronicle.settle()
    assert run.chronicle.brought(run.chronicle.taken)
