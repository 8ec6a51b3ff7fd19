"""Under a service manager: what a real instance says on NOTIFY_SOCKET, and that it is silent when its supervising loop is."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipc import layout as l
from ipc.segment import Memory
from tests.conftest import ROOT
from tests.running import Running

LIMIT_S = 1.6


class Manager:
    """The manager's end of the socket: what was said, and when."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self.said: list[tuple[float, str]] = []

    def listen(self, seconds: float, until: str = "") -> bool:
        """Take what is said; True as soon as something begins with `until`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                text = self.socket.recv(4096).decode()
            except TimeoutError:
                return False
            self.said.append((time.monotonic(), text))
            if until and text.startswith(until):
                return True
        return False

    def pauses(self) -> list[float]:
        """Seconds between two words, of any kind."""
        times = [when for when, _ in self.said]
        return [after - before for before, after in itertools.pairwise(times)]


#: ptrace(2): requests, the event of a stop that was asked for; waitpid(2): a stopped thread too
PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_EVENT_STOP, WALL = 7, 17, 0x4206, 0x4207, 128, 0x40000000


@contextmanager
def main_thread_stopped(pid: int) -> Iterator[None]:
    """As a debugger holds it: the main thread of a child of ours stands still, and no other thread does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes, libc.ptrace.restype = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p), ctypes.c_long

    def ptrace(request: int, signal_: int = 0) -> None:
        if libc.ptrace(request, pid, None, signal_) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    while (status := os.waitpid(pid, WALL)[1]) >> 16 != PTRACE_EVENT_STOP:
        ptrace(PTRACE_CONT, os.WSTOPSIG(status))  # a signal came first
    states = {task.name: (task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()}
    assert [name for name, state in states.items() if state in "Tt"] == [str(pid)]
    assert len(states) > 1
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)


@pytest.fixture(params=["path", pytest.param("abstract", marks=pytest.mark.slow)])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = str(tmp_path / "notify") if request.param == "path" else f"@trader-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", str(round(LIMIT_S * 1e6)))
    made = Manager(path)
    yield made
    made.socket.close()


def test_a_service_manager_hears_when_all_are_ready_that_the_loop_lives_and_that_it_stops(manager: Manager, tmp_path: Path) -> None:
    instance = Running(tmp_path)
    try:
        instance.start(wait=False)
        assert manager.listen(240, "READY=1"), instance.text()
        states = Memory(instance.name, writable=False).board.processes["state"][: len(l.ROLES)]
        assert (states == l.PROC_READY).all(), "it is ready when every process is, not before"
        assert [text for _, text in manager.said if not text.startswith("WATCHDOG=1")] == ["READY=1\nSTATUS=trading"]

        manager.said.clear()
        manager.listen(2 * LIMIT_S)
        assert {text for _, text in manager.said} == {"WATCHDOG=1"}
        assert max(manager.pauses()) < LIMIT_S / 2, "told faster than half the limit"

        assert instance.process is not None
        with main_thread_stopped(instance.process.pid):
            manager.listen(0.2)
            manager.said.clear()
            manager.listen(1.5 * LIMIT_S)
            assert instance.ctl("health")[0] == 0, "the process lives, and its other threads work"
            manager.listen(LIMIT_S)
            assert manager.said == [], "a blocked loop is silent: nobody else speaks for it"
        assert manager.listen(5, "WATCHDOG=1")

        manager.said.clear()
        instance.process.terminate()
        assert manager.listen(20, "STOPPING=1")
        assert instance.process.wait(30) == 0, instance.text()
        assert instance.faults() == []
    finally:
        instance.end()


def test_no_child_inherits_the_managers_socket(manager: Manager, tmp_path: Path) -> None:
    instance = Running(tmp_path)
    try:
        instance.start()
        pids = [int(row["pid"]) for row in Memory(instance.name, writable=False).board.processes[: len(l.ROLES)]]
        for pid in pids:
            parent = re.search(r"^PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert parent
            for process in (pid, int(parent[1])):
                if process != instance.process.pid:  # type: ignore[union-attr]
                    assert b"NOTIFY_SOCKET" not in Path(f"/proc/{process}/environ").read_bytes()
        assert instance.stop() == 0, instance.text()
    finally:
        instance.end()


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    instance = Running(tmp_path)
    try:
        instance.start()
        assert instance.stop() == 0, instance.text()
        assert instance.log.read_text().count("the service manager does not hear this instance") == 1
    finally:
        instance.end()


def test_the_unit_says_how_it_is_watched_and_ended() -> None:
    unit = (ROOT / "scripts" / "trader@.service").read_text()
    for line in ("Type=notify", "WatchdogSec=10", "KillMode=mixed", "Restart=on-failure"):
        assert re.search(rf"^{re.escape(line)}$", unit, re.MULTILINE), line
