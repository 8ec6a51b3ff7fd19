"""A forkserver that gives no process: one that works is waited for, one that stands still is replaced. Real processes, one for each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from control.supervise import handle, nursery
from control.supervise.handle import Suspicion


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        monkeypatch.setattr(nursery, "server_pid", lambda: started[-1].pid)
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def asked_for_s(suspicion: Suspicion, seconds: float) -> bool:
    """The watchdog asks in each of its turns."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if suspicion.replaced():
            return True
        time.sleep(0.02)
    return False


def test_a_forkserver_that_still_loads_kernels_is_left_alone(server: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = server("while True: pass")
    assert not asked_for_s(Suspicion(), handle.STILL_S + 2.0)
    assert process.poll() is None


def test_a_forkserver_that_stands_still_is_killed_and_its_successor_is_given_its_own_time(
        server: Callable[[str], subprocess.Popen[bytes]]) -> None:
    first, suspicion = server("import time; time.sleep(600)"), Suspicion()
    assert asked_for_s(suspicion, handle.STILL_S + 2.0)
    assert first.wait(5) == -9
    second = server("import time; time.sleep(600)")
    assert not suspicion.replaced(), "another one, seen for the first time"
    assert second.poll() is None


def test_without_a_forkserver_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "server_pid", lambda: None)
    assert not Suspicion().replaced()
