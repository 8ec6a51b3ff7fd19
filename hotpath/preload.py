"""Machine code for every kernel, before any process needs it: in the forkserver, and in scripts (`python -m hotpath.preload --progress`).

A module of the data plane may define `warm_up(memory)`: it calls each of its kernels that Python calls once, over a throw-away instance
with no process behind it, so that all of it is compiled and cached. What is in the cache already is only loaded (milliseconds instead of
seconds).
Nothing here makes a thread, a socket or a lock: the forkserver forks what this leaves.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipc.jit as jit  # before anything else that imports numba: it names the cache's folder
from ipc import segment

#: with this in its environment (a path), importing the module warms up at once and writes "done/total name" there: for the forkserver
ENVIRONMENT = "TRADER_PRELOAD"
#: capacities of the throw-away instance: they are no part of any kernel's types
TICKS, INSTRUMENTS, CONDITIONS = 1024, 8, 64

#: kernels of commands that run alone: compiled with the others by `python -m hotpath.preload --all`, else when they are first used; loaded into no
#: process of an instance
ALONE = ("hotpath.kernel.backtest",)
#: modules without a warm-up of their own some of whose kernels Python calls: see `_warm_up_shared`
_SHARED = "ipc.wait, ipc.ring"
_PR_SET_PDEATHSIG = 1

#: done so far, of how many, what is next
Report = Callable[[int, int, str], None]


def module_names() -> list[str]:
    """Every module of ipc and hotpath that defines kernels, or may: the processes come last, as they use the others."""
    import hotpath.kernel
    import hotpath.venues
    import ipc

    names = [f"ipc.{entry.name}" for entry in pkgutil.iter_modules(ipc.__path__)]
    names += [f"hotpath.kernel.{entry.name}" for entry in pkgutil.iter_modules(hotpath.kernel.__path__)]
    names += [f"hotpath.venues.{entry.name}" for entry in pkgutil.iter_modules(hotpath.venues.__path__)]
    return names + [f"hotpath.{name}" for name in ("armoury", "feed", "gateway", "sniper") if _exists(f"hotpath.{name}")]


def _exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def warm_up_all(report: Report, alone: bool = False) -> int:
    """Import every module (those of ALONE only where `alone` says so) and run its `warm_up`; gives the number of modules that have one.

    An exception in one is raised.
    """
    names = [name for name in module_names() if name not in ALONE] + list(ALONE if alone else ())
    modules = [importlib.import_module(name) for name in names]
    warm: list[tuple[str, Callable[[Any], None]]] = [
        (_SHARED, _warm_up_shared), *((module.__name__, module.warm_up) for module in modules if hasattr(module, "warm_up"))]
    for done, (name, warm_up) in enumerate(warm):
        report(done, len(warm), name)
        over_throw_away(warm_up)
    report(len(warm), len(warm), "")
    stamp().touch()
    return len(warm)


def _warm_up_shared(memory: Any) -> None:
    """What processes call of the shared rooms from Python. Loaded after the fork, each process would have LLVM's pages for itself (10 MB)."""
    from ipc import layout as l
    from ipc import ring, wait

    wait.spins_of(l.WAIT_ADAPTIVE)
    ring.advance(memory.orders.readers, l.RECORDER, 0)


def stamp() -> Path:
    """A file that says: the cache holds every kernel, compiled for this kind of processor."""
    from llvmlite import binding

    return Path(jit.cache_dir()) / f"complete-{binding.get_host_cpu_name()}"


def load(progress: str) -> None:
    """Every kernel into this process; what is not compiled yet is compiled in a process of its own, which ends with this one.

    A failure there is met again, and told, when this process loads.
    """
    if stamp().exists():
        warm_up_all(_into(progress))
    else:
        subprocess.run([sys.executable, "-m", "hotpath.preload", "--into", progress, "--child-of", str(os.getpid())], check=False,
                       stdin=subprocess.DEVNULL)
        warm_up_all(lambda *_: None)
    _let_go()


def _let_go() -> None:
    """Give back what numba keeps of each kernel only to compile others into it, of which each process that is forked from here would hold a share.
    From here on nothing that calls a kernel of ours can be compiled, but by a process that begins anew; numba says so where it is tried."""
    from numba.core.dispatcher import Dispatcher

    for module in [sys.modules[name] for name in module_names() if name in sys.modules]:
        for kernel in vars(module).values():
            for compiled in kernel.overloads.values() if isinstance(kernel, Dispatcher) else ():
                compiled.library._shared_module = None
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def over_throw_away(warm_up: Callable[[Any], None]) -> None:
    """One warm-up over a fresh instance of zeros, in a folder of its own that nobody else looks into."""
    before = os.environ.get("TRADER_SHM")
    with tempfile.TemporaryDirectory(prefix="trader-warm-up-") as folder:
        os.environ["TRADER_SHM"] = folder
        try:
            segment.create_all("warm-up", TICKS, INSTRUMENTS, CONDITIONS)
            warm_up(throw_away())
        finally:
            if before is None:
                del os.environ["TRADER_SHM"]
            else:
                os.environ["TRADER_SHM"] = before


def throw_away() -> segment.Memory:
    """The segments of the throw-away instance, its rings and stop words set so that every loop ends at once."""
    from ipc import layout as l

    memory = segment.Memory("warm-up")
    for ring, slots in ((memory.ticks.ring, TICKS), (memory.orders.ring, l.RING_SLOTS), (memory.reports.ring, l.RING_SLOTS)):
        ring[0]["capacity"], ring[0]["gated"] = slots, 1
    memory.board.processes["stop"] = l.STOP_NOW
    return memory


def show(done: int, total: int, name: str) -> None:
    """Progress for people: one line that is rewritten on a terminal, one line each otherwise."""
    text = f"preparing kernels {done}/{total} {name}"
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="" if done < total else "\n", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _into(path: str) -> Report:
    def write(done: int, total: int, name: str) -> None:
        with open(path, "w", encoding="utf-8") as file:  # a few bytes: one write
            file.write(f"{done}/{total} {name}".rstrip())

    return write


def main(arguments: list[str] | None = None) -> Any:
    """`python -m hotpath.preload [--progress] [--all]`"""
    parser = argparse.ArgumentParser(prog="python -m hotpath.preload", description="Compile every kernel into the cache.")
    parser.add_argument("--progress", action="store_true", help="say what is being compiled")
    parser.add_argument("--all", action="store_true", help="those that only single commands need, too: the backtest's")
    parser.add_argument("--into", metavar="FILE", help="write the progress there instead")
    parser.add_argument("--child-of", metavar="PID", type=int, help="end with this process, which started this one")
    options = parser.parse_args(arguments)
    if options.into:
        if sys.platform == "linux" and options.child_of:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != options.child_of:  # it has ended before the system could be asked to tell
                return 0
        warm_up_all(_into(options.into))
        return 0
    began = time.monotonic()
    count = warm_up_all(show if options.progress else lambda *_: None, alone=options.all)
    if options.progress:
        print(f"{count} modules ready in {time.monotonic() - began:.1f} s; cache: {jit.cache_dir()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
if _told := os.environ.pop(ENVIRONMENT, ""):
    try:
        load(_told)
    except Exception as _error:  # the forkserver must come up: a child then compiles what it needs, and fails with its own log if it cannot
        print(f"warm-up failed: {_error!r}", file=sys.stderr, flush=True)
