"""Shared-memory files: create, attach, unlink, and the locks that prove who lives.

Files under /dev/shm/trader-<instance>/ by open + mmap. `multiprocessing.shared_memory` is not used: its tracker unlinks what others use.
Space is reserved with posix_fallocate, so that a full /dev/shm is an error at start and not a SIGBUS later. The header's version is
stored last. A segment is never truncated while it is mapped.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import mmap
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ipc import layout

_HEADER = struct.Struct("<qqqqqqq32s")  # magic, version, size, ticks, instruments, conditions, spare, layout hash
_VERSION_AT = 8


class SegmentError(Exception):
    """A segment cannot be made or used; the text names the path and the remedy."""


def shared_root() -> Path:
    """Where instances put their segments: TRADER_SHM, else /dev/shm, else the temp folder (macOS)."""
    named = os.environ.get("TRADER_SHM")
    if named:
        return Path(named)
    return Path("/dev/shm") if sys.platform == "linux" else Path(os.environ.get("TMPDIR", "/tmp"))


def instance_dir(instance: str) -> Path:
    """Folder of an instance's segments."""
    return shared_root() / f"trader-{instance}"


def layout_hash(ticks: int, instruments: int, conditions: int) -> bytes:
    """32 bytes that differ whenever a dtype, its order, or a capacity does."""
    digest = hashlib.sha256(str(layout.LAYOUT_VERSION).encode())
    for name, regions in layout.segments(ticks, instruments, conditions).items():
        for region in regions:
            digest.update(f"{name}.{region.name}:{_described(region.dtype)}:{region.count}".encode())
    return digest.digest()


@functools.cache  # every segment that is made or mapped asks, and numpy takes its time
def _described(dtype: np.dtype[Any]) -> str:
    return str(dtype.descr)


def create_all(instance: str, ticks: int, instruments: int, conditions: int) -> None:
    """Make all segments of an instance, zeroed and reserved. Raises SegmentError; leaves nothing behind when it does."""
    folder = instance_dir(instance)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SegmentError(f"{error.filename}: {error.strerror}; name a writable folder in TRADER_SHM") from error
    digest = layout_hash(ticks, instruments, conditions)
    try:
        for name, regions in layout.segments(ticks, instruments, conditions).items():
            size = layout.HEADER_BYTES + sum(region.nbytes for region in regions)
            _create(folder / name, size, (ticks, instruments, conditions), digest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _create(path: Path, size: int, capacities: tuple[int, int, int], digest: bytes) -> None:
    try:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SegmentError(f"{path}: {error.strerror}; name a writable folder in TRADER_SHM") from error
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as memory:
            memory[: _HEADER.size] = _HEADER.pack(layout.MAGIC, 0, size, *capacities, 0, digest)
            memory[_VERSION_AT : _VERSION_AT + 8] = struct.pack("<q", layout.LAYOUT_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.ENOMEM):
            free = shutil.disk_usage(path.parent).free
            raise SegmentError(
                f"{path}: {size} bytes of shared memory are needed and {free} are free; enlarge it "
                f"(mount -o remount,size=256M {path.parent.parent}, or docker run --shm-size=256m), "
                "or lower hotpath.tick_slots and hotpath.condition_capacity") from error
        limit = "; files may not be so large here: raise ulimit -f" if error.errno == errno.EFBIG else ""
        raise SegmentError(f"{path}: {error.strerror}{limit}") from error
    finally:
        os.close(descriptor)


class Segment:
    """A mapped segment; `regions[name]` is a structured array over the shared bytes."""

    def __init__(self, instance: str, name: str, writable: bool = True) -> None:
        path = instance_dir(instance) / name
        try:
            descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise SegmentError(f"{path}: {error.strerror}; is instance {instance!r} running?") from error
        try:
            size = os.fstat(descriptor).st_size
            if size < layout.HEADER_BYTES:
                raise SegmentError(f"{path}: {size} bytes are too few for a segment; stop the instance and start it anew")
            self.memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        finally:
            os.close(descriptor)
        magic, version, stated, ticks, instruments, conditions, _, digest = _HEADER.unpack_from(self.memory)
        if magic != layout.MAGIC or version != layout.LAYOUT_VERSION or stated != size:
            raise SegmentError(f"{path}: magic {magic:#x}, version {version}, size {stated} do not fit this program "
                               f"(version {layout.LAYOUT_VERSION}, {size} bytes); stop the instance and start it anew")
        if digest != layout_hash(ticks, instruments, conditions):
            raise SegmentError(f"{path}: its layout is another program's; stop the instance and start it anew")
        self.capacities = (ticks, instruments, conditions)
        self.regions: dict[str, np.ndarray[Any, Any]] = {}
        start = layout.HEADER_BYTES
        for region in layout.segments(*self.capacities)[name]:
            self.regions[region.name] = np.frombuffer(self.memory, region.dtype, region.count, start)
            start += region.nbytes


class Memory:
    """All segments of an instance. Arrays are attributes: `memory.ticks.slots`, `memory.board.processes`, …"""

    def __init__(self, instance: str, writable: bool = True) -> None:
        self.instance = instance
        board = Segment(instance, "board", writable)
        self.capacities = board.capacities
        self._segments = {name: board if name == "board" else Segment(instance, name, writable)
                          for name in layout.segments(*board.capacities)}

    def __getattr__(self, name: str) -> _Regions:
        try:
            return _Regions(self._segments[name])
        except KeyError:
            raise AttributeError(name) from None

    def transactional(self) -> tuple[np.ndarray[Any, Any], dict[str, int]]:
        """The sniper's transactional region as LINEs, and the first line of each array in it."""
        segment = self._segments["sniper"]
        start, bases, first = layout.HEADER_BYTES, {}, -1
        for region in layout.segments(*self.capacities)["sniper"]:
            if region.name in layout.TRANSACTIONAL:
                first = start if first < 0 else first
                bases[region.name] = (start - first) // layout.CACHE_LINE
                end = start + region.nbytes
            start += region.nbytes
        lines = (end - first) // layout.CACHE_LINE
        return np.frombuffer(segment.memory, layout.LINE, lines, first), bases


class _Regions:
    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __getattr__(self, name: str) -> np.ndarray[Any, Any]:
        try:
            return self._segment.regions[name]
        except KeyError:
            raise AttributeError(name) from None


def remove(instance: str) -> None:
    """Unlink everything of an instance; whoever has it mapped keeps its pages."""
    shutil.rmtree(instance_dir(instance), ignore_errors=True)


@contextmanager
def held(path: Path, timeout_s: float = 0.0) -> Iterator[int]:
    """Hold an exclusive flock on `path` (close-on-exec). Raises SegmentError when another process keeps it beyond the time-out."""
    descriptor = take_lock(path, timeout_s)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_lock(path: Path, timeout_s: float = 0.0) -> int:
    """As `held`, without the with: gives the descriptor; the lock lasts until it is closed or the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not locked(descriptor, timeout_s):
        os.close(descriptor)
        raise SegmentError(f"{path}: held by a living process")
    return descriptor


def locked(descriptor: int, timeout_s: float = 0.0) -> bool:
    """Whether the exclusive flock on an open file could be had within the time."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
