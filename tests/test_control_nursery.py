"""A forkserver that gives no process, or does not come to say which: real processes, one for each."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.supervise import child, handle, nursery
from control.supervise.handle import Suspicion
from ipc.segment import SegmentError
from tests.owner import Owners, owners

LOG = logging.getLogger("test")
#: a life that takes its role's lock and goes on
LIFE = """
import logging, sys
from pathlib import Path
from control.supervise.child import take_own_lock
lock = take_own_lock(Path(sys.argv[1]), int(sys.argv[2]), logging.getLogger("life"))
"""


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


def test_a_forkserver_that_has_kernels_compiled_in_another_process_is_left_alone(server: Callable[[str], subprocess.Popen[bytes]],
                                                                                 tmp_path: Path) -> None:
    (tmp_path / "hotpath").mkdir()
    (tmp_path / "hotpath" / "preload.py").write_text("import time\nend = time.monotonic() + 4.0\nwhile time.monotonic() < end: pass\n")
    process = server("import subprocess, sys\n"
                     f"subprocess.run([sys.executable, '-m', 'hotpath.preload', '--into', 'x'], cwd={str(tmp_path)!r})\n"
                     "while True: pass")
    assert not asked_for_s(Suspicion(), 4.0 + handle.STILL_S + 1.0), "neither while it compiles nor while it loads"
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


# ── a life that nobody knows ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def live() -> Iterator[Owners]:
    with owners(LIFE) as made:
        yield made


def test_a_life_whose_forkserver_died_before_it_could_say_which_process_it_made_ends_when_the_next_one_comes(
        tmp_path: Path, live: Owners) -> None:
    unknown = live(tmp_path / "sniper.lock", 4)
    began = time.monotonic()
    descriptor = child.take_own_lock(tmp_path / "sniper.lock", 5, LOG)
    assert time.monotonic() - began < child._LOCK_S
    assert unknown.wait(5) == -9
    assert (tmp_path / "sniper.lock").read_text() == f"{os.getpid()} 5"
    os.close(descriptor)


def test_an_older_life_that_comes_late_ends_nobody(tmp_path: Path, live: Owners, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_LOCK_S", 0.3)
    newer = live(tmp_path / "sniper.lock", 5)
    with pytest.raises(SegmentError, match="held by a living process"):
        child.take_own_lock(tmp_path / "sniper.lock", 4, LOG)
    assert newer.poll() is None
