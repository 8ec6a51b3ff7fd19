"""What a loss of power may leave of an LMDB environment: the data file as it was when the last commit returned, and any part of what came after.

The order that is assumed is LMDB's own with `sync` and `metasync` and without a writable map (hotpath/durable.py says it; strace -e
pwrite64,writev,fdatasync shows it): changed pages, fdatasync, 120 bytes of one meta page through O_DSYNC. So before the meta page is written any of
the changed pages may be on the disk, whole, in part (by sectors), or not at all, and the file may have any length in between; the meta page only
behind all of them.
"""

from __future__ import annotations

import mmap
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = mmap.PAGESIZE
SECTOR = 512
#: the bytes of a meta page that a commit writes, all of them in one sector
META = range(32, 152)


class Commit(NamedTuple):
    """The data file before and after one commit."""

    before: bytes
    after: bytes

    @property
    def data_pages(self) -> list[int]:
        """Numbers of the pages that the commit changed, meta pages aside."""
        return [page for page in range(2, -(-len(self.after) // PAGE)) if self.page(self.after, page) != self.page(self.before, page)]

    @property
    def meta_pages(self) -> list[int]:
        """Numbers of the meta pages that it changed."""
        return [page for page in (0, 1) if self.page(self.after, page) != self.page(self.before, page)]

    @staticmethod
    def page(data: bytes, number: int) -> bytes:
        """A page; zeros where the file does not reach."""
        return data[number * PAGE:(number + 1) * PAGE].ljust(PAGE, b"\0")

    def check(self) -> None:
        """It is what the module says: one meta page, and of that one sector, within the bytes that a commit writes."""
        assert len(self.meta_pages) == 1
        old, new = (self.page(data, self.meta_pages[0]) for data in self)
        assert {at for at in range(PAGE) if old[at] != new[at]} <= set(META)
        assert META.stop <= SECTOR

    def without_meta(self, choose: random.Random) -> bytes:
        """An image of before the meta page was written: each changed page whole, torn or not there, the file cut anywhere behind its old end."""
        data = bytearray(self.before.ljust(len(self.after), b"\0"))
        for number in choose.sample(self.data_pages, len(self.data_pages)):
            new, how = self.page(self.after, number), choose.random()
            for sector in range(PAGE // SECTOR):
                if how < 0.3 or (how < 0.7 and choose.random() < 0.5):
                    at = sector * SECTOR
                    data[number * PAGE + at:number * PAGE + at + SECTOR] = new[at:at + SECTOR]
        return bytes(data[:choose.choice((len(self.before), len(self.after), choose.randint(len(self.before), len(self.after))))])

    def all_but_meta(self) -> bytes:
        """Every changed page is there, the meta page is not."""
        data = bytearray(self.after)
        for number in self.meta_pages:
            data[number * PAGE:(number + 1) * PAGE] = self.page(self.before, number)
        return bytes(data)

    def meta_alone(self) -> bytes:
        """What the order excludes, and a file without fsync may be: the meta page before the pages that it names."""
        data = bytearray(self.before)
        for number in self.meta_pages:
            data[number * PAGE:(number + 1) * PAGE] = self.page(self.after, number)
        return bytes(data)


def images(commit: Commit, seed: int, count: int) -> Iterator[tuple[bytes, bool]]:
    """(data file, whether the commit is in it): `count` of before the meta page, and the two ends."""
    choose = random.Random(seed)
    for _ in range(count):
        yield commit.without_meta(choose), False
    yield commit.before, False
    yield commit.all_but_meta(), False
    yield commit.after, True


def put(folder: Path, data: bytes) -> Path:
    """A data file in a folder of its own, without a lock file, as after a start of the machine."""
    folder.mkdir(parents=True)
    (folder / "data.mdb").write_bytes(data)
    return folder


def writes_through(folder: Path) -> bool:
    """Whether this process has the folder's data file open with O_DSYNC, as LMDB does for its meta pages when it syncs them."""
    for descriptor in Path("/proc/self/fd").iterdir():
        if os.path.realpath(descriptor) == str((folder / "data.mdb").resolve()):
            flags = re.search(r"^flags:\s*(\d+)$", (Path("/proc/self/fdinfo") / descriptor.name).read_text(), re.MULTILINE)
            if flags and int(flags[1], 8) & os.O_DSYNC:
                return True
    return False
