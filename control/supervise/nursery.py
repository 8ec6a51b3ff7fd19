"""What the forkserver loads before it forks anything, and how it is started so that it survives the terminal.

The forkserver imports this module first (see `prepare`); with TRADER_NURSERY set, importing it leaves the terminal: an own session, the
terminal's signals and SIGTERM ignored, output to a file. It ends by itself when the watchdog does, since only the watchdog holds its
"alive" pipe (children close their copy, see child.py). Nothing here may make a thread, a ZeroMQ context or a lock: forks would inherit
them half-alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

#: the watchdog's pid and the path of the forkserver's log; set in its environment alone
ENVIRONMENT = "TRADER_NURSERY"
#: path of the file where hotpath.preload says how far it is; importing it would import numba
PRELOAD_ENVIRONMENT = "TRADER_PRELOAD"
#: signals that reach every process of a terminal or of a service at once; the watchdog alone answers them, in order
SHARED_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)
#: loaded into the forkserver: the kernels first, then the roles' rooms as far as they are light (no ccxt, openai, polars)
PRELOAD = ("control.supervise.nursery", "hotpath.preload", "control.supervise.child", "control.record.recorder",
           "control.learn.reflection", "control.think.strategist", "control.supervise.settled")
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parent.parent.parent


def prepare(log: Path, preload: Sequence[str] = PRELOAD) -> Any:
    """The forkserver context of this process, its server started (it loads while the caller goes on). `log` gets its output.

    Signals are blocked while it starts, and a blocked signal stays blocked through exec, so that a Ctrl-C in its first milliseconds
    does not reach it; this works from any thread, which SIG_IGN does not.
    """
    context = multiprocessing.get_context("forkserver")
    if _serving():
        return context
    context.set_forkserver_preload(list(preload))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHARED_SIGNALS)
    kept = {name: os.environ.get(name) for name in
            (ENVIRONMENT, PRELOAD_ENVIRONMENT, "PYTHONPATH", "PYTHONSAFEPATH", "OPENBLAS_NUM_THREADS")}
    try:
        _do_without_tracker()
        os.environ[ENVIRONMENT] = f"{os.getpid()} {log}"
        os.environ[PRELOAD_ENVIRONMENT] = str(progress_file(log))
        # a folder named `control` or `ipc` where the user stands must not win; sys_path does not reach a forkserver of Python 3.11
        os.environ["PYTHONSAFEPATH"] = "1"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), kept["PYTHONPATH"])))
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads would be lost in every fork
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _do_without_tracker() -> None:
    """Spare the resource tracker's process (7 MB): nothing here uses what it tracks, and its pipe may as well lead nowhere."""
    tracker: Any = resource_tracker._resource_tracker
    if tracker._fd is None:
        tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def let_go() -> None:
    """In the watchdog, at the end: the tracker that never was must not be waited for."""
    tracker: Any = resource_tracker._resource_tracker
    if tracker._pid is None and tracker._fd is not None:
        os.close(tracker._fd)
        tracker._fd = None


def progress_file(log: Path) -> Path:
    """Where the forkserver says "done/total name" while it prepares kernels."""
    return log.with_suffix(".progress")


def _serving() -> bool:
    """The forkserver lives. Looks without reaping: that is for multiprocessing to do before it starts the next one."""
    pid = server_pid()
    if pid is None:
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def forget_main() -> None:
    """Keep children from importing the program that was started (`trader-launch`) once more as their `__mp_main__`."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    main.__file__ = None


def server_pid() -> int | None:
    """The forkserver's pid, None before the first start."""
    server: Any = multiprocessing.forkserver._forkserver
    pid: int | None = server._forkserver_pid
    return pid


def release_pipes() -> None:
    """In a forked child: let go of the pipes by which forkserver and resource tracker know that somebody still needs them.

    Python hands both to every child; kept, the forkserver would outlive the watchdog for as long as any child does.
    """
    server: Any = multiprocessing.forkserver._forkserver
    tracker: Any = resource_tracker._resource_tracker
    for owner, name in ((server, "_forkserver_alive_fd"), (tracker, "_fd")):
        descriptor = getattr(owner, name)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            setattr(owner, name, None)
    server._forkserver_address = None


def _die_with(watchdog: int) -> None:
    """A forkserver notices that its watchdog is gone when it serves; while it still prepares kernels, for minutes perhaps, the system tells it.

    The death that counts is that of the thread that started it: the main one, or the nursery's, which lives as long as anything is started.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watchdog:
            os._exit(0)


def _leave_terminal(log: str) -> None:
    with contextlib.suppress(PermissionError):  # already leads a session
        os.setsid()
    for number in SHARED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHARED_SIGNALS)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    gc.disable()  # no collection between the imports and the freeze in settled.py: it would dirty pages that forks share


if os.environ.get(ENVIRONMENT):
    _watchdog, _, _log = os.environ.pop(ENVIRONMENT).partition(" ")
    _leave_terminal(_log)
    _die_with(int(_watchdog))
