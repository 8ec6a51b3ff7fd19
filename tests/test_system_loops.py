"""A sniper whose kernel goes round for ever, in a real instance: it has its CPU, beats no more, is found out, and its successor goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipc import crash
from ipc import layout as l
from tests.running import Running, until


@pytest.mark.parametrize(("point", "passes"), [
    pytest.param("sniper.undo", 500, marks=pytest.mark.slow), pytest.param("sniper.commit", 500, marks=pytest.mark.slow), ("sniper.copy", 2)])
def test_a_sniper_that_loops_is_ended_with_its_stack_and_nothing_is_lost_or_done_twice(
        point: str, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_CRASH_WORDS", str(tmp_path / "words"))
    words = crash.map_words(str(tmp_path / "words"))[l.SNIPER]
    instance = Running(tmp_path)
    try:
        instance.start()
        until(instance.last_fill_ns, 40, "a first fill")
        before = instance.row("sniper")
        words[crash.WORD_PASSES], words[crash.WORD_SIGNAL] = passes, crash.LOOP
        words[crash.WORD_POINT] = crash.POINTS.index(point)
        until(lambda: words[crash.WORD_PASSES] <= 0, 60, "it comes to the point")
        words[crash.WORD_POINT] = 0  # for those after it; it stays there itself

        hang = until(lambda: [event for event in instance.events() if event.kind == "hang"], 20, "its hang is journaled")[0]
        # the hang is journaled before the process has ended
        after = until(lambda: (row := instance.row("sniper"))["pid"] != before["pid"] and row["state"] == "healthy" and row, 20, "its successor")
        assert after["restarts"] == 1, "one death, and no other"
        silent = re.search(r"sniper \(pid (\d+)\).*no heartbeat for (\d+) ms(.*)", hang.text)
        assert silent, hang.text
        assert int(silent[1]) == before["pid"]
        assert int(silent[2]) >= 250
        assert "stopped" not in silent[3]
        assert "Fatal Python error: Aborted" in max((tmp_path / "runs").glob("*/logs/sniper.log")).read_text(), "it has written where it was"
        print(f"{point}: found after {silent[2]} ms without a heartbeat")

        fill_ns = instance.last_fill_ns()
        until(lambda: instance.last_fill_ns() > fill_ns, 40, "it trades on")
        assert instance.stop() == 0, instance.text()
        summary = instance.summary()
        assert (summary["reconciled"], summary["ticks_lost"], summary["ticks_processed"]) == (True, 0, summary["ticks_published"])
        assert instance.faults() == []
        instance.leaves_nothing()
    finally:
        instance.end()
