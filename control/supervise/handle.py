"""A child as the watchdog sees it: start, is_alive, terminate, abort, kill, join.

Its death is known by a pidfd, never by multiprocessing's sentinel alone: that closes when the *forkserver* dies, while sniper, gateway and
recorder live on. Starting talks to the forkserver, which may still be loading kernels or be gone; it happens in one thread, so that the
supervising loop never waits for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import process as mp_process
from pathlib import Path
from typing import Any, Protocol

import msgspec

from control.supervise import nursery
from ipc.process import Boot

#: clock ticks of /proc in a second
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: a forkserver that uses no CPU for so long does not load: it is stuck
STILL_S = 2.0


class Handle(Protocol):
    """What the watchdog needs of a child; tests have one without a process."""

    @property
    def pid(self) -> int | None:
        """None until the process exists."""

    @property
    def start_error(self) -> str:
        """Why the start failed; empty while it has not."""

    @property
    def exit_code(self) -> int | None:
        """None while alive; negative for a signal; 255 where nobody could learn it."""

    def start(self, boot: Boot) -> None:
        """Ask for a new process; returns at once."""

    def is_alive(self) -> bool:
        """A process is asked for or exists. The heartbeat says whether it answers."""

    def terminate(self) -> None:
        """SIGTERM."""

    def abort(self) -> None:
        """SIGABRT: faulthandler writes the stack of every thread to the log, then the process ends."""

    def kill(self) -> None:
        """SIGKILL."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; True when it has come."""

    def stopped(self) -> bool:
        """The kernel says that the process is stopped (SIGSTOP, a debugger): it cannot answer a SIGABRT."""

    def load(self) -> tuple[bool, float]:
        """(some thread of it wants a CPU or waits for a page now, CPU seconds that it has had)."""


class Suspicion:
    """Of a forkserver that gives no process. One that uses a CPU still loads its kernels, or has them compiled, which takes long on a busy machine:
    killed meanwhile, it would begin anew, and never come to an end."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._used_s = self._since = 0.0

    def replaced(self) -> bool:
        """Asked again and again while somebody waits for it: kill it once it has used no CPU for STILL_S."""
        pid, now = nursery.server_pid(), time.monotonic()
        if pid is None:
            return False
        used_s = _load(pid)[1] + _compiler_s(pid)
        if pid != self._pid or used_s != self._used_s:
            self._pid, self._used_s, self._since = pid, used_s, now
        if now - self._since < STILL_S:
            return False
        self._pid = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True


class Nursery:
    """Starts children through the forkserver, one after the other, in a thread of its own."""

    def __init__(self, log: Path, entry: Callable[[bytes], None], preload: Sequence[str] = nursery.PRELOAD) -> None:
        """`entry` runs in each child; `preload` names the modules that the forkserver loads."""
        self._log, self._entry, self._preload = log, entry, preload
        self._context = nursery.prepare(log, preload)
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._suspicion = Suspicion()
        self._thread = threading.Thread(target=self._serve, name="nursery", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            request()

    def request(self, act: Callable[[], None]) -> None:
        """Run `act` in the nursery's thread."""
        self._requests.put(act)

    def bear(self, role: str, payload: bytes) -> Any:
        """Fork a child; blocks. Raises OSError or EOFError where the forkserver dies meanwhile."""
        nursery.prepare(self._log, self._preload)  # a new forkserver where the last one is dead
        process = self._context.Process(target=self._entry, args=(payload,), name=role)
        process.start()
        mp_process._children.discard(process)  # type: ignore[attr-defined]  # else the next start of any child reaps it behind our back
        return process

    def restart(self) -> bool:
        """Kill a forkserver that does not answer; the next start makes a new one. Gives whether it was killed, see `Suspicion`."""
        return self._suspicion.replaced()

    def close(self) -> None:
        """No more starts; the forkserver ends with this process at the latest."""
        self._requests.put(None)
        self._thread.join(1.0)
        nursery.let_go()


class ChildProcess:
    """One role's process, over all its lives."""

    def __init__(self, nursery_: Nursery, role: str) -> None:
        self._nursery, self.role = nursery_, role
        self._process: Any = None
        self._pidfd = -1
        self._life = 0
        self.pid: int | None = None
        self.start_error = ""
        self.exit_code: int | None = None
        self._asked = False
        self._lock = threading.Lock()

    def start(self, boot: Boot) -> None:
        """As Handle; the former life must have ended."""
        self._forget()
        self._life += 1
        self._asked, self.start_error, self.exit_code, self.pid = True, "", None, None
        payload, life = msgspec.json.encode(boot), self._life
        self._nursery.request(lambda: self._bear(payload, life))

    def _bear(self, payload: bytes, life: int) -> None:
        with self._lock:
            if life != self._life or not self._asked:  # killed before it was born
                return
        try:
            process = self._nursery.bear(self.role, payload)
        except (OSError, EOFError) as error:
            self.start_error, self._asked = f"the forkserver gave no process: {error}", False
            return
        with self._lock:
            if life != self._life:  # called off meanwhile, and the role has another life already
                process.kill()
                return
            self._process = process
            try:
                self._pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:  # dead already, and reaped by the forkserver
                self._pidfd = -1
            self.pid = process.pid
            if not self._asked:
                self._signal(signal.SIGKILL)

    def is_alive(self) -> bool:
        """As Handle."""
        if self.pid is None:
            return self._asked
        if self.exit_code is not None:
            return False
        if self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]:
            return True
        self.exit_code = self._reap()
        return False

    def _reap(self) -> int:
        """Exit code from the kernel where the orphan has become our own child (the forkserver died), else from the forkserver."""
        if self._pidfd >= 0:
            with contextlib.suppress(ChildProcessError):
                ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                if ended is not None:
                    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self._process.join(0.2)
        code = self._process.exitcode
        return 255 if code is None else int(code)

    def fileno(self) -> int:
        """The pidfd, readable when the process has ended; −1 without one."""
        return self._pidfd if self.exit_code is None else -1

    def terminate(self) -> None:
        """As Handle."""
        self._signal(signal.SIGTERM)

    def abort(self) -> None:
        """As Handle."""
        self._signal(signal.SIGABRT)

    def kill(self) -> None:
        """As Handle; a start that is still waiting for the forkserver is called off."""
        with self._lock:
            self._asked = False
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def join(self, timeout_s: float) -> bool:
        """As Handle."""
        if self._pidfd >= 0 and self.exit_code is None:
            select.select([self._pidfd], [], [], timeout_s)
        return not self.is_alive()

    def stopped(self) -> bool:
        """As Handle."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except (OSError, IndexError):
            return False

    def load(self) -> tuple[bool, float]:
        """As Handle."""
        return _load(self.pid)

    def _forget(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1
        if self._process is not None:
            with contextlib.suppress(ValueError, OSError):
                mp_process._children.discard(self._process)  # type: ignore[attr-defined]
        self._process = None


def _compiler_s(forkserver: int) -> float:
    """CPU seconds of the process in which a forkserver has kernels compiled that no cache holds (hotpath/preload.py); 0.0 where there is none, and
    where the kernel does not tell children (CONFIG_PROC_CHILDREN)."""
    used_s = 0.0
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{forkserver}/task/{forkserver}/children").read_text().split():
            if b"-m\0hotpath.preload\0" in Path(f"/proc/{child}/cmdline").read_bytes():  # the roles have the forkserver's own
                used_s += _load(int(child))[1]
    return used_s


def _load(pid: int | None) -> tuple[bool, float]:
    """(some thread of a process wants a CPU or waits for a page now, CPU seconds that it has had)."""
    try:
        folder = Path(f"/proc/{pid}")
        words = (folder / "stat").read_text().rpartition(")")[2].split()
        wants = any((task / "stat").read_text().rpartition(")")[2].split()[0] in "RD" for task in (folder / "task").iterdir())
        return wants, (int(words[11]) + int(words[12])) / _TICKS_PER_S
    except (OSError, IndexError):
        return False, 0.0
