"""Candles outlive the process that folds them: a successor goes on where its predecessor stood at its last plan, not with what a ring still holds.

A ring of ticks lasts hours, an analysis looks at a day. Without this a strategist that was replaced had nothing to look at until that much time had
passed again. The candles lie in a file beside the instance's segments and are written in place, as ever; at each plan a mark is set:

    mark 0 │ mark 1 │ candles            mark: number, sequence of the next tick …, each instrument's row, its open candle

Ticks behind the mark are folded again from the ring: they make the same candles in the same slots, since a candle is begun anew by its first tick,
and the one that was open at the mark is in the mark. A mark is complete with its number, which is written last; of the two the newer one counts. What
was killed while it wrote one leaves the other. The file goes with the segments; it is of one run.
"""

from __future__ import annotations

import enum
import logging
import mmap
import os
from pathlib import Path

import numpy as np

from hotpath.kernel import candles
from ipc import ring
from ipc.bundle import Bundle
from ipc.segment import Memory, instance_dir

#: a larger table is kept in the process alone
MOST_BYTES = 1 << 29
_PAGE = 4096
_log = logging.getLogger("strategist")


class Carries(enum.Enum):
    """Whether candles are kept for a successor: no (a backtest has none); in a new file, by the first life of a run; in the file that is there."""

    NOT, ANEW, ON = range(3)


class Carried:
    """A fold whose candles are in a file. Where there is none, or no room for one, nothing is carried."""

    def __init__(self, memory: Memory, fold: Bundle, carries: Carries) -> None:
        path, (count, capacity) = instance_dir(memory.instance) / "candles", fold.candles.shape
        self._mark = np.dtype([("number", "<i8"), ("capacity", "<i8"), ("state", candles.FOLD), ("rows", candles.FOLD_ROW, (count,)),
                               ("open", candles.CANDLE, (count,))])
        head = -(-2 * self._mark.itemsize // _PAGE) * _PAGE
        size = head + fold.candles.nbytes
        self.fold, self._marks = fold, np.zeros(2, self._mark)
        if carries is Carries.NOT or not count or size > MOST_BYTES or not path.parent.is_dir():
            return
        try:
            if carries is Carries.ANEW:
                path.unlink(missing_ok=True)
            shared = _mapped(path, size)
        except OSError as error:
            _log.warning("candles are not kept for a successor: %s", error)
            return
        self._marks = np.frombuffer(shared, self._mark, 2)
        table = np.frombuffer(shared, candles.CANDLE, count * capacity, head).reshape(count, capacity)
        self.fold = Bundle(**fold.arrays | {"candles": table})

    def set_mark(self) -> None:
        """Everything before the tick at hand is in the candles. To be called when a plan is due, before any of it, also if it is passed over."""
        fold, (older, newer) = self.fold, np.argsort(self._marks["number"]).tolist()
        mark = self._marks[older]
        number, mark["number"] = int(self._marks[newer]["number"]) + 1, 0
        mark["capacity"], mark["state"], mark["rows"] = fold.candles.shape[1], fold.state[0], fold.rows
        mark["open"] = fold.candles[np.arange(len(fold.rows)), fold.rows["newest"] % fold.candles.shape[1]]
        mark["number"] = number

    def go_on(self) -> bool:
        """Be where a predecessor set its last mark; False where there is none, or where the ring does not hold what came behind it."""
        fold, mark = self.fold, self._marks[int(self._marks["number"].argmax())]
        state, capacity = mark["state"], fold.candles.shape[1]
        same = all(int(state[name]) == int(fold.state[0][name]) for name in ("candle_ns", "gap_ns")) and int(mark["capacity"]) == capacity
        if not int(mark["number"]) or not same or int(state["next"]) < int(ring.oldest(fold.ring)):
            return False
        fold.state[0], fold.rows[:] = state, mark["rows"]
        known = np.flatnonzero(fold.rows["newest"] >= 0)
        fold.candles[known, fold.rows["newest"][known] % capacity] = mark["open"][known]
        return True


def _mapped(path: Path, size: int) -> mmap.mmap:
    """The file, as large as that: what is there of that size, else a new one of zeros whose room is reserved. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
            try:
                reserve = os.posix_fallocate if hasattr(os, "posix_fallocate") else lambda descriptor, _, size: os.ftruncate(descriptor, size)
                reserve(descriptor, 0, size)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
