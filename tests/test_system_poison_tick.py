"""A tick of which the sniper dies again and again: real processes, killed at the same step of the same tick."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc import crash
from ipc import layout as l
from ipc.segment import Memory
from tests.running import BUSY, Running, until
from tests.test_system_deaths import PATIENT, missed_behind, sound


class Poison:
    """Lets every life of the sniper stop itself where it is about to commit."""

    def __init__(self, running: Running, words: Path) -> None:
        self.running, self.memory = running, Memory(running.name)
        self._words = crash.map_words(str(words))[l.SNIPER]

    def arm(self) -> None:
        """The life that comes there next stands still at its next commit."""
        self._words[crash.WORD_PASSES], self._words[crash.WORD_SIGNAL] = 1, signal.SIGSTOP
        self._words[crash.WORD_POINT] = crash.POINTS.index("sniper.commit")

    def disarm(self) -> None:
        """Nobody stops any more."""
        self._words[crash.WORD_POINT] = 0

    def stands_at(self, before: int = 0) -> tuple[int, int]:
        """(pid, sequence of the tick that is under way, 0 for none) of a life that stands there; `before` is the pid of its predecessor."""
        pid = until(lambda: (row := self.running.row("sniper"))["pid"] != before and row["pid"], 30, "a life of the sniper")
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", 30, "it is about to commit")
        return int(pid), int(self.memory.sniper.undo[0]["tick_seq"])

    def tick(self, seq: int) -> Any:
        """A tick of the ring."""
        return self.memory.ticks.slots[seq & (len(self.memory.ticks.slots) - 1)].copy()


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poison]:
    words = tmp_path / "crash-words"
    monkeypatch.setenv("TRADER_CRASH_WORDS", str(words))
    running = Running(tmp_path, BUSY + PATIENT)
    running.start("--symbols", "BTC/USDT,ETH/USDT")
    yield Poison(running, words)
    running.end()


def test_a_tick_that_kills_two_lives_is_skipped_its_symbol_takes_no_entries_and_everything_goes_on(poison: Poison) -> None:
    running, memory = poison.running, poison.memory
    until(running.last_fill_ns, 60, "a first fill")
    poison.arm()
    while True:
        first, deadly = poison.stands_at()
        if deadly and poison.tick(deadly)["kind"] in (l.TICK_TRADE, l.TICK_QUOTE):
            break
        poison.arm()  # a step of reports alone, or of the clock: the next one
        os.kill(first, signal.SIGCONT)
    tick, mark, number = poison.tick(deadly), running.last_order(), int(memory.sniper.commit[0]["number"])
    symbol = memory.instruments.instruments[tick["instrument"]]["symbol"].decode()

    poison.arm()  # the successor is to die of it, too
    os.kill(first, signal.SIGKILL)
    second, again = poison.stands_at(first)
    assert again == deadly, "it has taken the same tick"
    assert int(memory.sniper.commit[0]["number"]) == number, "nothing of it was ever committed"
    poison.disarm()
    os.kill(second, signal.SIGKILL)

    (missed,) = until(lambda: missed_behind(running, mark), 30, "the journal says that a tick was passed over")
    assert [int(missed[name]) for name in ("code", "instrument", "value", "event_ns")] == [
        l.MISSED_DEADLY, int(tick["instrument"]), 1, int(tick["event_ns"])]
    assert memory.sniper.instrument_states["closed_to_entries"].nonzero()[0].tolist() == [int(tick["instrument"])]
    until(lambda: running.ctl("stats")[1]["data"]["refusals"].get("symbol_closed"), 60, f"an entry in {symbol} is refused for it")
    until(lambda: opened(running, mark), 60, "the other symbol trades on")
    until(lambda: not [row for row in running.ctl("positions")[1]["rows"] if row["symbol"] == symbol], 60, f"what was open in {symbol} is left")
    assert int(tick["instrument"]) not in opened(running, mark)
    assert [int(row["code"]) for row in missed_behind(running, mark)] == [l.MISSED_DEADLY], "one tick, once"
    assert running.status()["trading"] == "running"
    sound(running)
    assert running.summary()["restarts"]["sniper"] == 2


def opened(running: Running, after: tuple[int, int]) -> set[int]:
    """Instruments of the entries behind a position of the journal."""
    journal = running.journal()
    try:
        return {int(record.row["instrument"]) for record in journal.orders(after) if record.row["kind"] == l.NEW and record.row["purpose"] == l.ENTRY}
    finally:
        journal.close()
