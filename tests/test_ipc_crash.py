"""Crash points: a told process dies by SIGKILL at exactly the named step, once; nobody else does."""

from __future__ import annotations

import signal
import subprocess
import sys
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


@pytest.mark.parametrize(("told", "role", "restarts"), [("", "gateway", 0), ("gateway.send", "gateway", 1), ("gateway.send", "recorder", 0),
                                                        ("gateway.send:3", "gateway", 0)],
                         ids=["nobody is told", "second life", "another role", "too few passes"])
def test_nobody_else_dies(monkeypatch: pytest.MonkeyPatch, told: str, role: str, restarts: int) -> None:
    assert walk(monkeypatch, told, role, restarts, "gateway.send", "gateway.send") == (0, ["gateway.send"] * 2)


def test_a_misspelt_point_is_refused_with_the_names_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", "sniper.comit")
    with pytest.raises(ValueError, match=r"TRADER_CRASH_AT: 'sniper.comit' is none of .*sniper\.commit"):
        crash.armed("sniper", 0)
    assert crash.armed("gateway", 0) == (0, 0)


@pytest.mark.parametrize("name", crash.POINTS[1:])
def test_every_point_can_be_armed_by_its_role_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TRADER_CRASH_AT", f"{name}:37")
    role = name.partition(".")[0]
    number, passes = crash.armed(role, 0)
    assert (crash.POINTS[number], passes) == (name, 37)
    assert {crash.armed(other, 0) for other in ("sniper", "gateway", "recorder", "feed") if other != role} == {(0, 0)}


def test_a_points_number_names_one_point() -> None:
    assert len(set(crash.POINTS)) == len(crash.POINTS)
    assert crash.POINTS[0] == "none", "0 is what kernels hold when nothing is armed"
