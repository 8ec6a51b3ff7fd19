"""The first thing that runs in a forked child: isolation, log, lock, memory; then the role's own `main(child) -> exit code`.

However the watchdog ends, nothing stays. Feed, reflection and strategist die with the forkserver (PR_SET_PDEATHSIG), which ends with
the watchdog. Sniper, gateway and recorder watch the watchdog's pidfd and then act as if a stop had been told, in that order: each waits
until the locks of those before it are free. Whoever leaves last removes segments and sockets. SIGTERM takes the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib
import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from control.supervise import nursery, sweep
from ipc import board
from ipc import layout as l
from ipc.process import Boot, Child
from ipc.segment import Memory, SegmentError, take_lock

#: where each role's `main` lives
MODULES = {
    "recorder": "control.record.recorder",
    "gateway": "hotpath.gateway",
    "sniper": "hotpath.sniper",
    "feed": "hotpath.feed",
    "reflection": "control.learn.reflection",
    "strategist": "control.think.strategist",
}
#: who must have left before this role stops on its own; a role that is not here dies with its parent
LEAVES_AFTER: dict[str, tuple[str, ...]] = {"sniper": (), "gateway": ("sniper",), "recorder": ("sniper", "gateway")}
#: seconds that the three have from the watchdog's death to the last one's exit: begin to stop by now, be gone by now
ORPHAN_STOPS_BY_S = {"sniper": 0.0, "gateway": 4.0, "recorder": 7.0}
ORPHAN_GONE_BY_S = {"sniper": 4.0, "gateway": 7.0, "recorder": 9.0}
#: seconds that a killed predecessor may take to be gone; that the lock is waited for then
_DYING_S, _LOCK_S = 0.25, 10.0
#: exit code of a child whose main raised
EXIT_CRASHED = 1
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def run(payload: bytes) -> None:
    """Be the role that `payload` (a Boot as JSON) names; ends the process with the role's exit code."""
    nursery.release_pipes()
    boot = msgspec.json.decode(payload, type=Boot)
    log = _isolate(boot)
    try:
        code = _live(boot, log)
    except SegmentError as error:
        log.error("%s", error)
        code = EXIT_CRASHED
    except BaseException:
        log.exception("%s ended with an exception", boot.role)
        code = EXIT_CRASHED
    logging.shutdown()
    sys.exit(code)


def _isolate(boot: Boot) -> logging.Logger:
    """Leave the terminal for an own session and a log file; die with the parent where the role may."""
    if hasattr(os, "setsid"):
        os.setsid()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, nursery.SHARED_SIGNALS)
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(_PR_SET_NAME, f"trader-{boot.role}".encode()[:15])  # as ps and top show it
        if boot.role not in LEAVES_AFTER:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # a SIGABRT for a hang wants a stack, not a core of every mapped segment
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    folder = Path(boot.run_dir) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    stream = os.open(folder / f"{boot.role}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for standard in (1, 2):
        os.dup2(stream, standard)
    faulthandler.enable(file=stream, all_threads=True)
    logging.raiseExceptions = False  # a full disk is told by the recorder, not by each line that is lost
    logging.basicConfig(stream=os.fdopen(stream, "w", buffering=1, encoding="utf-8", errors="backslashreplace"), force=True, level=logging.INFO,
                        format=f"%(asctime)s.%(msecs)03d {boot.role} %(process)d %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    return logging.getLogger(boot.role)


def take_own_lock(path: Path, restarts: int, log: logging.Logger) -> int:
    """The role's lock, with this life's number in it: two lives of one role never overlap. Raises SegmentError where it cannot be had."""
    try:
        descriptor = take_lock(path, _DYING_S)
    except SegmentError:
        _end_unknown_life(path, restarts, log)
        descriptor = take_lock(path, _LOCK_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {restarts}".encode(), 0)
    return descriptor


def _end_unknown_life(path: Path, restarts: int, log: logging.Logger) -> None:
    """An earlier life that is not dying is known to nobody: its forkserver died before it could say which process it had made. Nobody would notice if
    it hung."""
    known = path.read_text().split()
    if len(known) == 2 and int(known[1]) < restarts:
        with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(int(known[0])), "rb") as process:
            if _held(path):  # else its number may be another's by now
                log.warning("process %s, an earlier life that nobody watches, still has %s; it is ended", known[0], path.name)
                signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)


def _live(boot: Boot, log: logging.Logger) -> int:
    role = l.ROLES.index(boot.role)
    memory = Memory(boot.instance)
    in_use = sweep.share(boot.instance)  # before the lock: while anybody shares, nobody removes the segments
    own_lock = take_own_lock(Path(boot.socket_dir) / f"{boot.role}.lock", boot.restarts, log)
    child = Child(boot, role, memory, log)
    board.announce(child.processes, role, l.PROC_STARTING)
    guard = Guard(child, int(memory.board.run[0]["watchdog_pid"]), in_use)
    guard.start()
    if "hotpath.preload" not in sys.modules:
        log.warning("the kernels were not preloaded; see forkserver.log in this folder")
    try:
        code = int(importlib.import_module(MODULES[boot.role]).main(child))
        state = l.PROC_FAILED if code else l.PROC_ABSENT
        log.info("ends with exit code %d", code)
    except BaseException:
        state = l.PROC_FAILED
        raise
    finally:
        board.announce(child.processes, role, state)
        if guard.orphaned:
            guard.sweep()
    # both descriptors stay open until the process is gone: that is what proves it
    del own_lock
    return code


class Guard(threading.Thread):
    """Watches the watchdog's life and SIGTERM, and tells the role to stop when its turn has come."""

    def __init__(self, child: Child, watchdog_pid: int, in_use: int) -> None:
        super().__init__(name="guard", daemon=True)
        self.child, self.watchdog_pid, self.in_use = child, watchdog_pid, in_use
        self.orphaned = False
        self._signals, wake = os.pipe()
        os.set_blocking(wake, False)
        # the wake-up is written even while a kernel keeps Python's handlers from running; a library (asyncio) may replace it
        signal.signal(signal.SIGTERM, lambda number, _: os.write(wake, bytes([number])))
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Wait for either, then act."""
        try:
            watchdog = os.pidfd_open(self.watchdog_pid)
        except ProcessLookupError:
            self._orphan()
            return
        poll = select.poll()
        poll.register(watchdog, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        termination = None
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == watchdog:
                    self._orphan()
                    return
                if signal.SIGTERM in os.read(self._signals, 64) and termination is None:
                    self.child.log.info("SIGTERM")
                    termination = threading.Thread(target=self._terminate, name="termination", daemon=True)
                    termination.start()

    def _terminate(self) -> None:
        self._await_turn(time.monotonic() + ORPHAN_STOPS_BY_S.get(self.child.boot.role, 0.0))
        self.child.told = l.STOP_DRAIN

    def _orphan(self) -> None:
        role, began = self.child.boot.role, time.monotonic()
        if role not in LEAVES_AFTER:
            os._exit(0)
        self.orphaned = True
        self.child.log.warning("the watchdog (pid %d) is gone; stopping in order", self.watchdog_pid)
        self._await_turn(began + ORPHAN_STOPS_BY_S[role])
        self.child.told = l.STOP_DRAIN
        # the stop word's writer is dead, which its pidfd proves; kernels read the word, not `told`
        self.child.processes[self.child.role]["stop"] = l.STOP_DRAIN
        time.sleep(max(0.0, began + ORPHAN_GONE_BY_S[role] - time.monotonic()))
        self.child.log.error("did not stop in time")
        faulthandler.dump_traceback()
        self.sweep()
        os.kill(os.getpid(), signal.SIGKILL)

    def sweep(self) -> None:
        """Remove what is left if this was the last process; the recorder, last by order, gives the others a moment to be gone.

        A paper instance's segments stay while they hold what its journal does not: the next start stores it.
        """
        patience_s = 0.5 if self.child.boot.role == "recorder" else 0.0
        owed = board.owed(self.child.memory) if self.child.boot.mode == "paper" else 0
        if sweep.leave(self.child.boot.instance, Path(self.child.boot.socket_dir), self.in_use, patience_s, keep=owed > 0):
            self.child.log.info("was the last: sockets are removed, %s",
                                f"the segments stay, as {owed} records in them are not in the journal" if owed else "and the segments")

    def _await_turn(self, deadline: float) -> None:
        """Until the locks of those who leave before this role are free, or the watchdog's own stop word comes, or the deadline."""
        folder, row = Path(self.child.boot.socket_dir), self.child.processes[self.child.role]
        for earlier in LEAVES_AFTER.get(self.child.boot.role, ()):
            while time.monotonic() < deadline and not int(row["stop"]) and _held(folder / f"{earlier}.lock"):
                time.sleep(0.02)


def _held(path: Path) -> bool:
    """Somebody alive holds the lock. Looks with a shared lock for an instant: two lookers never disturb each other."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
