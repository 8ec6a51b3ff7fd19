"""Loaded last into the forkserver: make what is loaded cheap to share and to keep.

A collection in a child would write to the header of each object and so copy every page that it shares with the forkserver; so all that is
loaded leaves the collector's sight. And the pages of LLVM that compiling or loading kernels touched are given back: a forkserver needs
them no more, and a child that does reads them again (they are 50 MB here, of the 300 that a paper run may take).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing.process
import sys
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4


def untouched_files() -> Iterator[tuple[int, int]]:
    """(address, bytes) of this process's file mappings none of whose pages it has ever written: dropping those loses nothing."""
    start = end = 0
    named = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(part, 16) for part in words[0].split("-"))
            named = len(words) > 5 and words[5].startswith("/") and words[1].endswith("p")
        elif words[0] == "Anonymous:" and named and words[1] == "0":
            yield start, end - start


def drop_untouched() -> None:
    """Give those pages back to the kernel; a later touch reads them from the page cache again."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    for address, size in list(untouched_files()):
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_DONTNEED)


def settle() -> None:
    """Freeze and drop."""
    gc.collect()
    gc.freeze()
    gc.enable()
    if sys.platform == "linux":
        drop_untouched()
        with contextlib.suppress(AttributeError):  # glibc alone has it: what compiling has left free in the heap, 12 MB
            ctypes.CDLL(None).malloc_trim(0)


if not multiprocessing.process.parent_process() and not gc.isenabled():  # only the forkserver disabled it, in nursery.py
    try:
        settle()
    except Exception as error:  # nothing here is needed to start a child
        print(f"settling failed: {error!r}", file=sys.stderr, flush=True)
        gc.enable()
