"""Machine code for every kernel, before any process needs it: in the forkserver, and in scripts (`python -m hotpath.preload --progress`).

A module of the data plane may define `warm_up(memory)`: it calls each of its kernels that Python calls once, over a throw-away instance
with no process behind it, so that all of it is compiled and cached. What is in the cache already is only loaded (milliseconds instead of
seconds).
Nothing here makes a thread, a socket or a lock: the forkserver forks what this leaves.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ipc.jit as jit  # before anything else that imports numba: it names the cache's folder
from ipc import segment

#: with this in its environment (a path), importing the module warms up at once and writes "done/total name" there: for the forkserver
ENVIRONMENT = "TRADER_PRELOAD"
#: capacities of the throw-away instance: they are no part of any kernel's types
TICKS, INSTRUMENTS, CONDITIONS = 1024, 8, 64

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
    return names + [f"hotpath.{name}" for name in ("feed", "gateway", "sniper") if _exists(f"hotpath.{name}")]


def _exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def warm_up_all(report: Report) -> int:
    """Import every module and run its `warm_up`; gives the number of modules that have one. An exception in one is raised."""
    modules = [importlib.import_module(name) for name in module_names()]
    warm = [module for module in modules if hasattr(module, "warm_up")]
    for done, module in enumerate(warm):
        report(done, len(warm), module.__name__)
        _run(module)
    report(len(warm), len(warm), "")
    return len(warm)


def _run(module: ModuleType) -> None:
    """One module's warm-up over a fresh instance of zeros, in a folder of its own that nobody else looks into."""
    before = os.environ.get("TRADER_SHM")
    with tempfile.TemporaryDirectory(prefix="trader-warm-up-") as folder:
        os.environ["TRADER_SHM"] = folder
        try:
            segment.create_all("warm-up", TICKS, INSTRUMENTS, CONDITIONS)
            module.warm_up(throw_away())
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
            file.write(f"{done}/{total} {name}")

    return write


def main(arguments: list[str] | None = None) -> Any:
    """`python -m hotpath.preload [--progress]`"""
    parser = argparse.ArgumentParser(prog="python -m hotpath.preload", description="Compile every kernel into the cache.")
    parser.add_argument("--progress", action="store_true", help="say what is being compiled")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    count = warm_up_all(show if options.progress else lambda *_: None)
    if options.progress:
        print(f"{count} modules ready in {time.monotonic() - began:.1f} s; cache: {jit.cache_dir()}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
if _told := os.environ.pop(ENVIRONMENT, ""):
    try:
        warm_up_all(_into(_told))
    except Exception as _error:  # the forkserver must come up: a child then compiles what it needs, and fails with its own log if it cannot
        print(f"warm-up failed: {_error!r}", file=sys.stderr, flush=True)
