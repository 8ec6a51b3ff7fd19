"""Who still uses an instance's segments, and how the last one removes them.

Every process of an instance holds a shared flock on its `board` segment for as long as it lives. Segments are removed only under the
exclusive one, so never under somebody. The kernel drops a flock with the process, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from ipc import segment


def board_path(instance: str) -> Path:
    """The file whose flock says that an instance's segments are in use."""
    return segment.instance_dir(instance) / "board"


def share(instance: str) -> int:
    """Say that this process uses the segments; gives the descriptor, which is to stay open. Raises SegmentError when they are gone."""
    try:
        descriptor = os.open(board_path(instance), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise segment.SegmentError(f"{board_path(instance)}: {error.strerror}; the instance has ended") from error
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def claim(instance: str, timeout_s: float) -> int | None:
    """Wait until nobody uses the segments: the descriptor with the exclusive lock, or None where there are no segments.

    Raises TimeoutError while somebody still lives.
    """
    try:
        descriptor = os.open(board_path(instance), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not segment.locked(descriptor, timeout_s):
        os.close(descriptor)
        raise TimeoutError(f"{board_path(instance)} is in use")
    return descriptor


def leave(instance: str, sockets: Path, in_use: int, patience_s: float = 0.0, keep: bool = False) -> bool:
    """As an orphan that ends: remove segments (unless `keep`) and sockets if nobody else uses them. True when they are gone.

    The folder of the sockets stays: a new instance of the name may be about to put its own there.
    """
    if not segment.locked(in_use, patience_s):
        return False
    for path in (*sockets.glob("*.sock"), *sockets.glob("*.lock")):
        with contextlib.suppress(OSError):
            path.unlink()
    try:
        with LockedName(instance, text="an orphan that cleans up"):
            if not keep:
                segment.remove(instance)
    except OSError:  # a new instance holds the name already, and removes them itself
        return False
    return True


class LockedName:
    """Holds the name of an instance: an exclusive flock on `<shared root>/trader-<instance>.lock`, which is removed at the end.

    Raises BlockingIOError when somebody else holds it. As the file may be removed between open and lock, the locked file must still be the
    one that the path names.
    """

    def __init__(self, instance: str, text: str = "") -> None:
        self.path = segment.shared_root() / f"trader-{instance}.lock"
        self.text = text
        self.descriptor = -1

    def __enter__(self) -> LockedName:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                        break
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, (self.text or str(os.getpid())).encode())
        self.descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder of sockets with what is in it."""
    shutil.rmtree(folder, ignore_errors=True)
