"""What outlives a loss of power: LMDB environments and small files, made so that they are whole or not there.

LMDB as it is opened here (its own write calls, no writable map) keeps this order in a commit: changed pages go to places that neither of the last
two states uses; `fdatasync`; then 120 bytes within the first sector of one of two meta pages, through a descriptor with O_DSYNC. So with `sync` a
commit that has returned is there after a loss of power, one that has not is there whole or not at all. That takes a disk that writes a sector whole
and does what `fdatasync` asks for. Without `sync` nothing is ordered: a killed process loses nothing, but a machine that dies may leave any mixture
of old and new pages, which may not be readable at all. Only what can be made again is written so.

A file's name is as durable as its folder: whoever makes one syncs the folders, too.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import lmdb

#: where in each of an environment's two meta pages (its first) LMDB's magic number is, and that number
_MAGIC_AT, _MAGIC = 16, bytes.fromhex("dec0efbe")
#: where in the first one the size of a page is
_SIZE_AT = 40


def open_environment(folder: Path, *, sync: bool, mode: int = 0o644, **options: Any) -> Any:
    """An LMDB environment to be written, made where there is none. Raises lmdb.Error, OSError.

    `sync`: a commit that has returned outlives a loss of power, as does the environment itself.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "data.mdb"
    new = not begun(file)
    if new:
        with contextlib.suppress(FileNotFoundError):
            file.replace(file.with_name("data.mdb.unbegun"))  # never away: whoever is wrong about it can look
    environment = lmdb.open(str(folder), sync=sync, metasync=sync, mode=mode, **options)
    if new and sync:
        try:
            sync_folders(folder)
        except BaseException:
            environment.close()
            raise
    return environment


def begun(file: Path) -> bool:
    """Whether an environment's data file can hold a commit: both of its meta pages are there, which the first commit makes durable before it returns.

    Empty at first, and where power failed before that commit it may be too short, or blank in part. What was never LMDB's counts as begun, and so
    does what cannot be read: it is not ours to put aside. A page is as large as the file says, which may come from another machine.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(_SIZE_AT + 4)
            size = int.from_bytes(head[_SIZE_AT:], "little") if head[_MAGIC_AT:_MAGIC_AT + 4] == _MAGIC else mmap.PAGESIZE
            stream.seek(0)
            pages = [stream.read(size if 512 <= size <= 65_536 else mmap.PAGESIZE) for _ in range(2)]
    except FileNotFoundError:
        return False
    except OSError:
        return True
    written = [page for page in pages if any(page)]
    return len(written) == 2 or any(page[_MAGIC_AT:_MAGIC_AT + 4] != _MAGIC for page in written)


def replace_file(path: Path, data: bytes, durably: bool = True) -> None:
    """Write a file whole or not at all; `durably`: it is there after a loss of power once this has returned. Raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("wb") as stream:
        stream.write(data)
        if durably:
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(draft, path)
    if durably:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError where its disk fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a filesystem that knows no such thing
            raise
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """The same for a folder that may be new, and all above it; one that this user may not read was there before. Raises OSError."""
    for one in (folder.resolve(), *folder.resolve().parents):
        try:
            sync_folder(one)
        except PermissionError:
            return
