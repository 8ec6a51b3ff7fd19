"""The copy of the sniper's book at a commit, taken under its eyes by the recorder."""

from __future__ import annotations

from typing import Any

import numpy as np

from ipc import layout as l
from ipc.atomics import fence_acquire, load_acquire
from ipc.jit import kernel

_NUMBER = l.offset(l.COMMIT, "number")
_COUNT = l.offset(l.UNDO, "count")


@kernel
def copy_book(commit: Any, commit_lines: Any, undo: Any, undo_at: Any, undo_lines: Any, tx: Any, target: Any, line: Any) -> int:
    """Copy the lines, then undo what a running step had written: its number, 0 before the first commit, −1 when it went on meanwhile.

    A step saves a line before it writes to it, so whatever of an uncommitted write the copy holds, the log read after the copy names.
    """
    number = load_acquire(commit, 0, _NUMBER)
    if number == 0:
        return 0
    line[0] = commit_lines[number & 1]
    for k in range(target.shape[0]):
        target[k] = tx[k]
    fence_acquire()
    if undo[0].number == number:
        for k in range(load_acquire(undo, 0, _COUNT) - 1, -1, -1):
            if undo_at[k] < target.shape[0]:
                target[undo_at[k]] = undo_lines[k]
    fence_acquire()
    if load_acquire(commit, 0, _NUMBER) != number:
        return -1
    return number


def warm_up(memory: Any) -> None:
    """Compile the copy; see hotpath/preload.py."""
    s, (tx, _) = memory.sniper, memory.transactional()
    copy_book(s.commit, s.commit_lines, s.undo, s.undo_at, s.undo_lines, tx, np.zeros(1, l.LINE), np.zeros(1, l.COMMIT_LINE))
