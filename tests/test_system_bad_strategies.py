"""A user's strategy that raises, hangs or gives nonsense, in a running instance: counted, told with the remedy, nothing that was armed is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc import bus, messages
from tests.bad_input import STRATEGIES, session, waves
from tests.running import BUSY, Running, until

#: hangs are found soon, and the second one is a crash loop; what fails is asked again at its next plan
IMPATIENT = BUSY + """
[supervise]
hang_strategist_ms = 1000
restart_intensity = 1
restart_window_s = 6
backoff_most_ms = 500
[safety]
cooldown_s = 1
[recovery]
breaker_cooldown_s = 10
"""
#: mood of the strategy → what is said of it: the path of the fault, and the remedy
MOODS = {
    "raise": ("Wayward raised ZeroDivisionError", "mend it at line ", "wayward.py; logs/strategist.log has the whole stack"),
    "exit": ("Wayward raised SystemExit", "mend it at line "),
    "number": ("Wayward: plan gave 42, not a list", "return a list of Condition"),
    "words": ("Wayward: conditions[0] is 'buy low', not a Condition", "make it with control.think.strategy.Condition("),
    "nan level": ("conditions[0].level: Expected `str | null`, got `float`", "see Condition in ipc/messages.py"),
    "nan text": ("conditions[0].level: Expected `str` matching", "see Condition in ipc/messages.py"),
    "nan confidence": ("conditions[1].confidence is nan", "give a number from 0 to 1"),
    "negative size": ("conditions[0].size.value: Expected `str` matching", "see Condition in ipc/messages.py"),
    "no size": ("conditions[0].size.value: 0 is not above zero", "give a size above 0"),
    "unknown symbol": ("conditions[0].symbol: 'DOGE/EUR' is not traded here", "use one of BTC/USDT, "),
    "unknown side": ("conditions[0].side: Invalid enum value 'hold'", "see Condition in ipc/messages.py"),
    "no protection": ("conditions[0].stop_bps: no position may be without protection", "give stop_bps, stop_price, time_stop_s"),
    "million": ("plan gave 1000000 conditions", "return at most 16384, or raise hotpath.condition_capacity"),
}


class Moody:
    """A running instance with a strategy whose mood is set from outside, beside one that trades."""

    def __init__(self, folder: Path) -> None:
        self.running = Running(folder, IMPATIENT)
        shutil.copy(STRATEGIES, folder / "wayward.py")
        self._mood = folder / "mood"
        self._client = bus.Client(bus.socket_dir(self.running.name), "control")

    def start(self) -> None:
        """Until its condition is armed; from then on its mood is bad, so that it arms nothing new."""
        self.set("good")
        self.running.start("--strategy", f"momentum,{self.running.folder / 'wayward.py'}:Wayward")
        until(self.armed, 20, "the good mood's condition is armed")
        self.set("raise")
        until(self.errors, 20, "the first error")

    def set(self, mood: str) -> None:
        """From the next plan on."""
        draft = self._mood.with_suffix(".new")
        draft.write_text(mood)
        draft.replace(self._mood)

    def ask(self, request: Any) -> Any:
        """A reply of the control socket."""
        return self._client.ask(request, 5.0)

    def armed(self) -> list[int]:
        """Ids of its conditions."""
        return [row["id"] for row in self.ask(messages.Conditions(limit=1000)).rows if row["strategy"] == "Wayward"]

    def errors(self) -> list[str]:
        """What the journal has of strategies' errors."""
        return [event.text for event in self.running.events() if event.kind == "strategy_error"]

    def metric(self, name: str) -> int:
        """One of the strategist's counts."""
        return int(self.ask(messages.Stats()).data["metrics"]["strategist"][name])

    def end(self) -> None:
        """Whatever happened."""
        self._client.close()
        self.running.end()


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moody]:
    made = Moody(tmp_path_factory.mktemp("moody"))
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("mood", MOODS)
def test_a_bad_plan_is_counted_and_told_and_what_was_armed_stays(mood: str, moody: Moody) -> None:
    armed, count, said = moody.armed(), moody.metric("strategy_errors"), len(moody.errors())
    plans = moody.metric("plans")
    assert armed
    moody.set(mood)
    # one more of the mood before may be under way
    until(lambda: any(MOODS[mood][0] in text for text in moody.errors()[said:]), 10, f"an error for {mood!r}")
    text = next(text for text in moody.errors()[said:] if MOODS[mood][0] in text)
    assert [part for part in MOODS[mood] if part not in text] == [], text
    assert "\n" not in text
    assert moody.metric("strategy_errors") > count
    assert moody.armed() == armed
    until(lambda: moody.metric("plans") > plans, 10, "the other strategy plans on")
    status = moody.ask(messages.Status()).data
    assert (status["phase"], status["trading"]) == ("running", "running")
    assert any("failed; what was armed before stays until it expires; logs/strategist.log says why" in reason for reason in status["why_nothing"])


def test_one_that_hangs_is_replaced_and_one_that_goes_on_hanging_ends_in_safe_mode_until_it_is_mended(moody: Moody) -> None:
    armed = moody.armed()
    moody.set("hang")
    until(lambda: moody.ask(messages.Status()).data["trading"] == "safe", 20, "safe mode")
    assert moody.ask(messages.Status()).data["trading_cause"] == "strategist: crash loop"
    assert moody.armed() == armed
    assert next(row["restarts"] for row in moody.ask(messages.Status()).rows if row["role"] == "strategist") >= 2
    texts = {kind: [event.text for event in moody.running.events() if event.kind == kind] for kind in ("hang", "respawn", "crash_loop", "safe_mode")}
    assert "strategist" in texts["hang"][0]
    # where it hung: the function, the file, the line
    assert "no heartbeat for" in texts["respawn"][0]
    assert "in hang (" in texts["respawn"][0]
    assert "wayward.py, line " in texts["respawn"][0]
    assert "2 deaths in 6 s are a crash loop; safe mode" in texts["crash_loop"][0]
    assert "see logs/strategist.log" in texts["crash_loop"][0]
    assert "no new positions, protection goes on" in texts["safe_mode"][0]
    moody.set("good")
    until(lambda: moody.ask(messages.Status()).data["trading"] == "running", 20, "trading goes on when it is mended")
    until(lambda: moody.armed() != armed, 20, "it plans anew")
    assert moody.running.stop() == 0, moody.running.text()
    assert moody.running.faults() == []
    assert moody.running.summary()["reconciled"] is True


@pytest.mark.parametrize(("text", "says"), [
    ("import nothing_there\nclass Mine: pass\n", ("mine.py: importing it raised ModuleNotFoundError", "'nothing_there'", "mend the file")),
    ("class Mine:\n    def __init__(self): raise OSError('no key')\n    def plan(self, m, p, k): return []\n", ("making it raised OSError: no key",)),
], ids=["at its import", "when it is made"])
def test_one_that_cannot_be_made_ends_the_start_with_the_reason(text: str, says: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    running = Running(tmp_path)
    try:
        running.start("--strategy", f"{tmp_path / 'mine.py'}:Mine", wait=False)
        assert running.process is not None
        assert running.process.wait(240) == 5
        (told,) = [line for line in running.text().splitlines() if line.startswith("trader-launch:")]
        assert [part for part in says if part not in told] == [], told
        assert "Traceback" not in running.text()
        running.leaves_nothing()
    finally:
        running.end()


@pytest.mark.slow
def test_in_lockstep_nobody_waits_for_a_strategy_that_hangs_for_good(tmp_path: Path) -> None:
    shutil.copy(STRATEGIES, tmp_path / "wayward.py")
    (tmp_path / "mood").write_text("hang")
    (tmp_path / "spot_btcusdt.raw").write_text("".join(session(waves(20))))
    running = Running(tmp_path, IMPATIENT)
    try:
        running.start(str(tmp_path / "spot_btcusdt.raw"), "--lockstep", "--strategy", f"{tmp_path / 'wayward.py'}:Wayward", mode="replay",
                      speed="max", wait=False)
        assert running.process is not None
        assert running.process.wait(240) == 5
        told = running.text().splitlines()[-1]
        assert "strategist dies again and again" in told
        assert "wayward.py, line " in told
        running.leaves_nothing()
    finally:
        running.end()
