"""Crash points: a told process dies by SIGKILL at exactly the named step, once; nobody else does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipc import crash

ROOT = Path(__file__).resolve().parent.parent
#: passes the points given on the command line and says each one that it survived
WALK = """
import sys
from ipc.crash import CrashPoint
point = CrashPoint(sys.argv[1], int(sys.argv[2]))
for name in sys.argv[3:]:
    point.reached(name)
    print(name, flush=True)
"""


def walk(monkeypatch: pytest.MonkeyPatch, told: str, role: str, restarts: int, *points: str) -> tuple[int, list[str]]:
    monkeypatch.setenv("TRADER_CRASH_AT", told)
    done = subprocess.run([sys.executable, "-c", WALK, role, str(restarts), *points], cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=30)
    return done.returncode, done.stdout.split()


def test_a_process_is_killed_at_the_named_point_in_the_named_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    code, survived = walk(monkeypatch, "gateway.send:2", "gateway", 0, "gateway.send", "gateway.sent", "gateway.send", "gateway.sent")
    assert code == -signal.SIGKILL
    assert survived == ["gateway.send", "gateway.sent"]


def test_without_a_number_the_first_pass_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    assert walk(monkeypatch, "recorder.cursor", "recorder", 0, "recorder.committed", "recorder.cursor") == (-signal.SIGKILL, ["recorder.committed"])


def test_a_process_that_is_told_to_loop_stays_at_the_point_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", "gateway.send:2:loop")
    process = subprocess.Popen([sys.executable, "-c", WALK, "gateway", "0", "gateway.send", "gateway.sent", "gateway.send"], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["gateway.send\n", "gateway.sent\n"]
        end = time.monotonic() + 30
        while cpu_seconds(process.pid) < 1.0:
            assert process.poll() is None, "it is at work"
            assert time.monotonic() < end, "it works for ever"
            time.sleep(0.05)
        assert select.select([process.stdout], [], [], 0)[0] == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("told", "role", "restarts"), [("", "gateway", 0), ("gateway.send", "gateway", 1), ("gateway.send", "recorder", 0),
                                                        ("gateway.send:3", "gateway", 0)],
                         ids=["nobody is told", "second life", "another role", "too few passes"])
def test_nobody_else_dies(monkeypatch: pytest.MonkeyPatch, told: str, role: str, restarts: int) -> None:
    assert walk(monkeypatch, told, role, restarts, "gateway.send", "gateway.send") == (0, ["gateway.send"] * 2)


def test_a_misspelt_point_is_refused_with_the_names_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", "sniper.comit")
    with pytest.raises(ValueError, match=r"TRADER_CRASH_AT: 'sniper.comit' is none of .*sniper\.commit"):
        crash.armed("sniper", 0)
    assert crash.armed("gateway", 0) == (0, 0, 0)
    monkeypatch.setenv("TRADER_CRASH_AT", "sniper.commit:3:spin")
    with pytest.raises(ValueError, match="TRADER_CRASH_AT: 'spin' is not \"loop\""):
        crash.armed("sniper", 0)


@pytest.mark.parametrize("name", crash.POINTS[1:])
def test_every_point_can_be_armed_by_its_role_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", f"{name}:37")
    role = name.partition(".")[0]
    number, passes, number_of_signal = crash.armed(role, 0)
    assert (crash.POINTS[number], passes, number_of_signal) == (name, 37, signal.SIGKILL)
    assert {crash.armed(other, 0) for other in ("sniper", "gateway", "recorder", "feed") if other != role} == {(0, 0, 0)}


def test_a_points_number_names_one_point() -> None:
    assert len(set(crash.POINTS)) == len(crash.POINTS)
    assert crash.POINTS[0] == "none", "0 is what kernels hold when nothing is armed"


#: passes a point again and again, each pass told
ROUND = """
import sys, time
from ipc.crash import CrashPoint
point = CrashPoint("gateway", 5)
while True:
    point.reached("gateway.sent")
    point.reached("gateway.send")
    print("passed", flush=True)
    time.sleep(0.01)
"""


def test_a_running_process_of_any_life_can_be_told_from_outside_to_stop_at_a_point_and_goes_on_behind_it(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRADER_CRASH_WORDS", str(tmp_path / "words"))
    words = crash.map_words(str(tmp_path / "words"))
    process = subprocess.Popen([sys.executable, "-c", ROUND], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "passed\n", "nothing is armed"
        row = words[crash.ROLES.index("gateway")]
        row[crash.WORD_PASSES], row[crash.WORD_SIGNAL] = 3, signal.SIGSTOP
        row[crash.WORD_POINT] = crash.POINTS.index("gateway.send")
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert stopped is not None
        assert stopped.si_status == signal.SIGSTOP
        assert row[crash.WORD_PASSES] == 0
        process.send_signal(signal.SIGCONT)
        while row[crash.WORD_PASSES] == 0:  # it passes again, and no more than once was asked for
            assert process.stdout.readline() == "passed\n"
        row[crash.WORD_POINT] = 0
        row[crash.WORD_PASSES], row[crash.WORD_SIGNAL] = 1, signal.SIGKILL
        row[crash.WORD_POINT] = crash.POINTS.index("gateway.sent")
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_the_words_of_another_role_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRADER_CRASH_WORDS", str(tmp_path / "words"))
    words = crash.map_words(str(tmp_path / "words"))
    words[crash.ROLES.index("recorder")] = crash.POINTS.index("gateway.send"), 1, signal.SIGKILL
    assert walk(monkeypatch, "", "gateway", 0, "gateway.send", "gateway.send") == (0, ["gateway.send"] * 2)


def test_without_a_file_of_words_they_are_what_was_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", "sniper.copy:4")
    assert crash.words("sniper", 0).tolist() == [crash.POINTS.index("sniper.copy"), 4, signal.SIGKILL]
    assert crash.words("sniper", 1).tolist()[:2] == [0, 0]
    monkeypatch.setenv("TRADER_CRASH_AT", "sniper.copy::loop")
    assert crash.words("sniper", 0).tolist() == [crash.POINTS.index("sniper.copy"), 1, crash.LOOP]
