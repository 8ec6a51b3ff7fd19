"""The owner's lock: it proves life, not a time-out; a second owner is refused, and takes over the moment the first is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.segment import SegmentError, held, locked, take_lock
from tests.owner import Owners, owners

OWN = """
import sys
from pathlib import Path
from ipc.segment import take_lock
lock = take_lock(Path(sys.argv[1]))
"""


@pytest.fixture
def own() -> Iterator[Owners]:
    """Start a process that holds a lock."""
    with owners(OWN) as made:
        yield made


def test_a_second_owner_is_refused_while_the_first_lives_and_takes_over_after_its_death(tmp_path: Path, own: Owners) -> None:
    path = tmp_path / "sniper.lock"
    first = own(path)
    with pytest.raises(SegmentError, match=rf"{path}: held by a living process"):
        take_lock(path)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(SegmentError, match="held by a living process"):
        take_lock(path, timeout_s=0.05)
    first.kill()
    first.wait(10)
    os.close(take_lock(path))


def test_waiting_for_a_lock_ends_when_its_owner_is_killed(tmp_path: Path, own: Owners) -> None:
    path = tmp_path / "sniper.lock"
    first = own(path)
    threading.Timer(0.1, first.kill).start()
    began = time.monotonic()
    with held(path, timeout_s=20):
        assert time.monotonic() - began < 10
    first.wait(10)


def test_waiting_for_a_lock_ends_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "sniper.lock"
    with held(path):
        began = time.monotonic()
        with pytest.raises(SegmentError):
            take_lock(path, timeout_s=0.1)
        assert 0.1 <= time.monotonic() - began < 5


def test_a_lock_is_free_after_the_with(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with held(path), pytest.raises(SegmentError), held(path):
        pass
    with held(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_refused_try_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    with held(tmp_path / "a.lock"):
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for _ in range(20):
            with pytest.raises(SegmentError):
                take_lock(tmp_path / "a.lock")
        assert before == 0 or len(os.listdir("/proc/self/fd")) == before


def test_a_program_that_the_owner_starts_does_not_keep_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    descriptor = take_lock(path)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        os.close(descriptor)
        os.close(take_lock(path, timeout_s=10))  # the starter can go on a moment before the new program has let go
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_locks_of_different_files_are_independent_and_an_open_file_can_be_asked(tmp_path: Path) -> None:
    with held(tmp_path / "a.lock"), held(tmp_path / "b.lock"):
        looker = os.open(tmp_path / "a.lock", os.O_RDWR)
        assert not locked(looker)
        os.close(looker)
    looker = os.open(tmp_path / "a.lock", os.O_RDWR)
    assert locked(looker)
    os.close(looker)
