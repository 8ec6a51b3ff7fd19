"""The copy of the sniper's book at a commit, taken under its eyes by the recorder.

Account, instruments, positions and working orders are copied as they lie. Of trades on paper and of what waits for its price afterwards only the rows
in use are, so that the copy of an account that has none takes no longer: the sniper commits every few microseconds, and a copy that a commit has
fallen into is taken anew.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ipc import layout as l
from ipc.atomics import fence_acquire, load_acquire
from ipc.jit import kernel
from ipc.segment import Memory

#: regions of the copy, all of the first four
HELD: Final = ("account", "instrument_states", "positions", "working", "papers", "after", "aftermath")
_NUMBER = l.offset(l.COMMIT, "number")
_COUNT = l.offset(l.UNDO, "count")
_PAPER_LINES = l.POSITION.itemsize // l.CACHE_LINE
#: places in `first`: end of what is copied whole, first lines of the others
_WHOLE, _PAPERS, _AFTER, _AFTERMATH = range(4)
assert l.AFTERMATH.itemsize == l.AFTER.itemsize == l.CACHE_LINE


def room_for(memory: Memory) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """(room for a copy, `first` of copy_book, the regions that are HELD in that room). What is never copied takes addresses, and no memory."""
    tx, bases = memory.transactional()
    copy = np.zeros(len(tx), l.LINE)
    words, held = copy.view(np.int64), {}
    for name in HELD:
        region = getattr(memory.sniper, name)
        start = bases[name] * 8
        held[name] = words[start:start + region.nbytes // 8].view(region.dtype)
    first = np.array([bases["condition_states"], bases["papers"], bases["after"], bases["aftermath"]], np.int64)
    return copy, first, held


@kernel
def _copy(tx: Any, target: Any, first: int, lines: int) -> None:
    for k in range(first, first + lines):
        target[k] = tx[k]


@kernel
def _undo_running(undo: Any, undo_at: Any, undo_lines: Any, number: int, target: Any, first: Any) -> None:
    """A step saves a line before it writes to it, so whatever of an uncommitted write the copy holds, the log read after the copy names."""
    if undo[0].number == number:
        for k in range(load_acquire(undo, 0, _COUNT) - 1, -1, -1):
            at = undo_at[k]
            if at < first[_WHOLE] or at >= first[_PAPERS]:
                target[at] = undo_lines[k]


@kernel
def copy_book(commit: Any, commit_lines: Any, undo: Any, undo_at: Any, undo_lines: Any, tx: Any, target: Any, first: Any, states: Any,
              after: Any, line: Any) -> int:
    """Copy the lines, then undo what a running step had written: its number, 0 before the first commit, −1 when it went on meanwhile.

    `first`, and `states` and `after` in `target`, are of `room_for`: as of the commit they say which further rows are in use.
    """
    number = load_acquire(commit, 0, _NUMBER)
    if number == 0:
        return 0
    line[0] = commit_lines[number & 1]
    _copy(tx, target, 0, first[_WHOLE])
    _copy(tx, target, first[_AFTER], 1)
    fence_acquire()
    _undo_running(undo, undo_at, undo_lines, number, target, first)
    for instrument in range(states.shape[0]):
        mask = states[instrument].open_mask >> l.PAPER_BIT
        for strategy in range(l.MAX_STRATEGIES):
            if mask >> strategy & 1:
                _copy(tx, target, first[_PAPERS] + (instrument * l.MAX_STRATEGIES + strategy) * _PAPER_LINES, _PAPER_LINES)
    for k in range(max(after[0].told[1], after[0].closed - l.MAX_AFTERMATH), after[0].closed):
        _copy(tx, target, first[_AFTERMATH] + k % l.MAX_AFTERMATH, 1)
    fence_acquire()
    _undo_running(undo, undo_at, undo_lines, number, target, first)
    fence_acquire()
    if load_acquire(commit, 0, _NUMBER) != number:
        return -1
    return number


def warm_up(memory: Any) -> None:
    """Compile the copy; see hotpath/preload.py."""
    s, (tx, _) = memory.sniper, memory.transactional()
    copy, first, held = room_for(memory)
    copy_book(s.commit, s.commit_lines, s.undo, s.undo_at, s.undo_lines, tx, copy, first, held["instrument_states"], held["after"],
              np.zeros(1, l.COMMIT_LINE))
