"""A storm over a real instance: fifty kills at every phase, and everything that it left is as it must be. Two hundred with the slow ones."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ipc import layout as l
from tests.conftest import ROOT
from tests.storm import report
from tests.storm import sight as phases
from tests.storm.aim import POINT, Shot
from tests.storm.checker import Finding
from tests.storm.run import BOTH, BOUND_S, KEEPERS, SHIPPED_BOUND_S, SIGNALS, SIMULATED, TARGETS, PassResult, Result, Storm, deaths_of, plan_of
from tests.storm.scene import FORKSERVER, HANG_MS, recordings
from tests.storm.watch import OVERDUE


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "market"), [(50, BOTH), pytest.param(200, BOTH, marks=pytest.mark.slow),
                                               pytest.param(40, SIMULATED, marks=pytest.mark.slow)])
def test_whatever_is_killed_in_whatever_phase_nothing_is_lost_and_nothing_twice(kills: int, market: str, tmp_path: Path) -> None:
    result = Storm(tmp_path, kills, seed=20 + kills, market=market).run()
    told = report.document(result)
    assert report.holds(result), "\n".join(report.words(result))
    assert told["kills"] == kills
    on_simulated = kills // 5 if recordings() and market == BOTH else kills
    assert told["markets"] == {"replay": kills - on_simulated, "simulated": on_simulated}
    assert told["figures"]["fills"] >= 2 * kills
    assert told["looks_at_an_open_position"] > told["looks"] / 2
    assert list(tmp_path.iterdir()) == [], "what held is removed"


def test_a_storm_of_one_target_and_one_signal_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.storm", "--kills", "3", "--seed", "5",
                           "--targets", "gateway", "--signals", "KILL", "--folder",
                           str(tmp_path / "storm"), "--json", str(tmp_path / "storm.json")], cwd=ROOT, capture_output=True, text=True, timeout=200,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("HOLDS: 3 kills, ")
    assert "  by target: gateway 3" in lines
    assert "  by signal: KILL 3" in lines
    assert '"holds": true' in (tmp_path / "storm.json").read_text()


@pytest.mark.parametrize(("flags", "words"), [(("--targets", "sniper,watchdog"), "watchdog is none of recorder"),
                                              (("--targets", "forkserver", "--signals", "STOP"), "a forkserver is not stopped"),
                                              (("--kills", "0"), "above 0"),
                                              (("--signals", "HUP"), "HUP is none of KILL, STOP, SEGV, TERM"), (("--targets", ""), "at least one"),
                                              (("--bound", "-1"), "argument --bound: '-1' is no number above 0"),
                                              (("--speed", "0"), "argument --speed: '0' is no number above 0"), (("--speed", "nan"), "--speed"),
                                              (("--simulated", "--replay"), "--replay: not allowed with argument --simulated"),
                                              (("--json", "/no/where/storm.json"), "argument --json: there is no folder /no/where")])
def test_a_wrong_flag_is_refused_with_what_is_possible(flags: tuple[str, ...], words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.storm", *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr


# ── the plan of the kills ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("kills", [20, 50, 200, 1000])
def test_every_busy_phase_gets_a_tenth_of_the_kills_and_any_moment_the_rest(kills: int) -> None:
    plan = plan_of(kills, random.Random(1), TARGETS, SIGNALS)
    wanted = Counter(shot.wanted for shot in plan)
    assert [shot.number for shot in plan] == list(range(1, kills + 1))
    assert all(wanted[phase] == kills // 10 for phase in phases.ROLE_OF)
    assert {shot.target for shot in plan if shot.wanted == phases.IDLE} == set(TARGETS)
    assert all(shot.target == phases.ROLE_OF.get(shot.wanted, shot.target) for shot in plan)


def test_the_seed_makes_the_plan() -> None:
    def made(seed: int) -> list[Shot]:
        return plan_of(50, random.Random(seed), l.ROLES, SIGNALS)

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_what_is_obeyed_in_its_own_time_is_not_planned_for_a_phase() -> None:
    plan = plan_of(200, random.Random(2), l.ROLES, SIGNALS)
    assert {shot.wanted for shot in plan if shot.signal == "TERM"} == {phases.IDLE}
    assert {shot.signal for shot in plan if shot.wanted != phases.IDLE} == {"KILL", "STOP", "SEGV"}
    alone = plan_of(30, random.Random(1), l.ROLES, ("TERM",))
    assert {(shot.signal, shot.wanted) for shot in alone} == {("TERM", phases.IDLE)}


def test_a_plan_keeps_to_its_targets_and_signals() -> None:
    plan = plan_of(30, random.Random(1), ("recorder", "feed"), ("STOP",))
    assert {shot.target for shot in plan} == {"recorder", "feed"}
    assert {shot.wanted for shot in plan} == {phases.JOURNAL, phases.IDLE}
    assert {shot.signal for shot in plan} == {"STOP"}
    assert all(shot.target == "recorder" for shot in plan if shot.wanted == phases.JOURNAL)


def test_a_forkserver_is_killed_and_never_stopped() -> None:
    shots = [shot for shot in plan_of(400, random.Random(4), TARGETS, SIGNALS) if shot.target == FORKSERVER]
    assert {shot.wanted for shot in shots} == {phases.IDLE}
    assert {(shot.signal, deaths_of(shot)) for shot in shots} == {("KILL", 3), ("SEGV", 3), ("TERM", 0)}
    assert FORKSERVER not in {shot.target for shot in plan_of(30, random.Random(1), ("feed", FORKSERVER), ("STOP",))}


def test_the_bound_follows_from_the_heartbeat_limits_of_who_keeps_protection() -> None:
    assert max(HANG_MS[role] for role in KEEPERS) / 1000 + 1.0 == BOUND_S
    assert SHIPPED_BOUND_S == 6.0, "five seconds for gateway, feed and recorder"


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────────────────────────
def done(kills: int = 100, in_flight: int = 50, findings: tuple[Finding, ...] = (), failure: str = "", **met: int) -> Result:
    """A result in which the kills were met as told, the rest idle."""
    result = Result(seed=1, kills=kills, targets=l.ROLES, signals=SIGNALS, bound_s=3.0, failure=failure)
    met = dict.fromkeys(phases.ROLE_OF, kills // 10) | met
    order = [phase for phase, count in met.items() for _ in range(count)]
    order += [phases.IDLE] * (kills - len(order))
    result.shots = [Shot(number, phases.ROLE_OF.get(phase, "feed"), "KILL", phase, phase, POINT, seen=phase, in_flight=int(number < in_flight))
                    for number, phase in enumerate(order)]
    result.passes = [PassResult(list(findings), {"entries": 7, "exits": 8, "fills": 9}, 0.1, dict.fromkeys(OVERDUE, 0.0), 10, 9, 0, 0)]
    return result


def test_the_verdict_holds_where_all_holds() -> None:
    assert report.verdict(done()) == "HOLDS: 100 kills, 15 orders, 9 fills; nothing lost, nothing twice, nothing left"


@pytest.mark.parametrize(("result", "words"), [
    (done(findings=(Finding("cash", "off by one"),)), "1 promises broken"), (done(failure="it died"), "the storm could not go on"),
    (done(undo=4), "4 kills in undo are less than 5%"), (done(in_flight=20), "20 kills with an order in flight are less than 30%"),
    (done(copy=0), "0 kills in copy are less than 5%")], ids=["a finding", "a failure", "a phase", "in flight", "a phase never met"])
def test_the_verdict_is_broken_by_each(result: Result, words: str) -> None:
    assert not report.holds(result)
    assert report.words(result)[-1].startswith("BROKEN: ")
    assert words in report.verdict(result)


def obeyed(result: Result, phase: str) -> Result:
    """All kills in a phase but one are TERMs."""
    for shot in [shot for shot in result.shots if shot.phase == phase][1:]:
        shot.signal = "TERM"
    return result


def test_a_kill_that_is_obeyed_in_its_own_time_counts_for_no_phase() -> None:
    result = obeyed(done(), phases.COPY)
    assert "1 kills in copy are less than 5%" in report.verdict(result)
    assert report.document(result)["phases"][phases.COPY]["kills"] == 1
    assert not report.holds(result)


def test_a_point_at_which_memory_shows_another_phase_breaks_the_verdict() -> None:
    result = done()
    next(shot for shot in result.shots if shot.phase == phases.SEND).seen = phases.IDLE
    assert not report.holds(result)
    assert "at 1 points memory shows another phase" in report.words(result)[-1]


@pytest.mark.parametrize("error", [RuntimeError, IndexError, KeyError])
def test_whatever_goes_wrong_is_told_and_holds_nothing(error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scene:
        def __init__(self, *_: object) -> None:
            self.process, self.ended = None, False

        def wait_until_running(self, _: float) -> None:
            raise error("instrument 99")

        def end(self) -> None:
            self.ended = True

    monkeypatch.setattr("tests.storm.run.Pass", Scene)
    result = Storm(tmp_path, 3, seed=1).run()
    assert not report.holds(result)
    assert "instrument 99" in result.failure
    assert report.words(result)[-1].startswith("BROKEN: the storm could not go on")


def test_kills_that_were_not_done_break_the_verdict() -> None:
    result = done()
    result.kills = 101
    assert "100 of 101 kills were done" in report.verdict(result)
