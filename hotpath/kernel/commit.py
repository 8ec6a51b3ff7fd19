"""The step's transaction: undo log, commit lines, outbox, recovery.

Before the first write to a row its lines go to the undo log; the log's count is stored before the row is touched. The commit point is one
release store of `commit.number`, which selects a line. Only after it is the outbox copied to the order ring, by sequence. A successor
undoes a step whose log belongs to the committed number, copies what of the outbox is not yet published, and goes on.
"""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc import ring
from ipc.atomics import fence_release, load_acquire, pause, raise_signal, store_release
from ipc.crash import LOOP, POINTS, WORD_PASSES, WORD_POINT, WORD_SIGNAL
from ipc.jit import kernel

_NUMBER = l.offset(l.COMMIT, "number")
_UNDO_NUMBER = l.offset(l.UNDO, "number")
_UNDO_COUNT = l.offset(l.UNDO, "count")
_UNDO_TICK = l.offset(l.UNDO, "tick_seq")
_ACCOUNT_LINES = l.ACCOUNT.itemsize // l.CACHE_LINE
_STATE_LINES = l.INSTRUMENT_STATE.itemsize // l.CACHE_LINE
_POSITION_LINES = l.POSITION.itemsize // l.CACHE_LINE
_WORKING_LINES = l.WORKING.itemsize // l.CACHE_LINE
_CONDITION_LINES = l.CONDITION_STATE.itemsize // l.CACHE_LINE
_FEATURE_LINES = l.FEATURE.itemsize // l.CACHE_LINE
_BEFORE_LINES = l.TRIGGERS * 8 // l.CACHE_LINE
_BEFORE, _OPEN_ROWS, _PAPERS, _AFTER, _AFTERMATH = map(l.TRANSACTIONAL.index, ("feature_before", "open_rows", "papers", "after", "aftermath"))
#: undo lines that the largest single action of a step may need
ACTION_LINES = 384
_WINDOWS = sum(l.FEATURE_BUCKETS * bucket.itemsize // l.CACHE_LINE + 1 for bucket in l.BUCKETS.values())
assert _WINDOWS + 48 < ACTION_LINES, "a gap closes all windows, and then a condition fires"
#: outbox rows that the largest single action of a step may need
_ACTION_INTENTS = 4

#: deaths in the same step of the same tick after which the tick is skipped
MOST_DEATHS = 2

CRASH_UNDO = POINTS.index("sniper.undo")
CRASH_COMMIT = POINTS.index("sniper.commit")
CRASH_COMMITTED = POINTS.index("sniper.committed")
CRASH_COPY = POINTS.index("sniper.copy")
CRASH_COPIED = POINTS.index("sniper.copied")


@kernel
def crash_at(s: Any, point: int) -> None:
    """A crash point of the tests."""
    if s.crash[WORD_POINT] == point:
        s.crash[WORD_PASSES] -= 1
        if s.crash[WORD_PASSES] == 0:
            while s.crash[WORD_SIGNAL] == LOOP:
                pause()
            raise_signal(s.crash[WORD_SIGNAL])


@kernel
def begin(s: Any) -> None:
    """Start a (sub-)step on top of the last commit: an empty undo log, an empty outbox, a private copy of the line."""
    number = s.commit[0].number
    s.undo[0].tick_seq = 0
    store_release(s.undo, 0, _UNDO_COUNT, 0)
    store_release(s.undo, 0, _UNDO_NUMBER, number)
    fence_release()
    s.line[0] = s.commit_lines[number & 1]
    s.line[0].outbox_len = 0
    s.own[0].account_saved = 0
    s.own[0].state_saved = -1


@kernel
def _save(s: Any, first: int, lines: int) -> None:
    count = s.undo[0].count
    for line in range(first, first + lines):
        s.undo_at[count] = line
        s.undo_lines[count] = s.tx[line]
        count += 1
    store_release(s.undo, 0, _UNDO_COUNT, count)
    fence_release()
    crash_at(s, CRASH_UNDO)


@kernel
def touch_account(s: Any) -> None:
    """Save the account before it is written, once in a step."""
    if s.own[0].account_saved == 0:
        _save(s, s.bases[0], _ACCOUNT_LINES)
        s.own[0].account_saved = 1


@kernel
def touch_state(s: Any, instrument: int) -> None:
    """Save an instrument's state before it is written; once, if it is the only one of the step, as it mostly is."""
    if s.own[0].state_saved != instrument:
        _save(s, s.bases[1] + instrument * _STATE_LINES, _STATE_LINES)
        s.own[0].state_saved = instrument


@kernel
def touch_position(s: Any, row: int) -> None:
    """Save a position before it is written."""
    _save(s, s.bases[2] + row * _POSITION_LINES, _POSITION_LINES)


@kernel
def touch_working(s: Any, row: int) -> None:
    """Save a working order before it is written."""
    _save(s, s.bases[3] + row * _WORKING_LINES, _WORKING_LINES)


@kernel
def touch_condition(s: Any, slot: int) -> None:
    """Save a condition's state before it is written."""
    _save(s, s.bases[4] + slot * _CONDITION_LINES, _CONDITION_LINES)


@kernel
def touch_feature(s: Any, instrument: int, lines: int) -> None:
    """Save the first lines of an instrument's feature row before they are written."""
    _save(s, s.bases[5] + instrument * _FEATURE_LINES, lines)


@kernel
def touch_buckets(s: Any, base: int, in_line: int, instrument: int, first: int, end: int) -> None:
    """Save the lines of the buckets [first, end), 64 at most, of one of an instrument's windows before they are written; `base` is the window's
    place among the transactional arrays, `in_line` the buckets of a cache line."""
    lines = l.FEATURE_BUCKETS // in_line
    line = s.bases[base] + instrument * lines
    bucket = first // in_line
    while bucket * in_line < end:
        _save(s, line + bucket % lines, 1)
        bucket += 1


@kernel
def touch_before(s: Any, instrument: int) -> None:
    """Save the features that an instrument had at its last tick before they are written."""
    _save(s, s.bases[_BEFORE] + instrument * _BEFORE_LINES, _BEFORE_LINES)


@kernel
def touch_open_row(s: Any, index: int) -> None:
    """Save the line of an entry of `open_rows` before it is written."""
    _save(s, s.bases[_OPEN_ROWS] + (index >> 3), 1)


@kernel
def touch_paper(s: Any, row: int) -> None:
    """Save a paper trade before it is written."""
    _save(s, s.bases[_PAPERS] + row * _POSITION_LINES, _POSITION_LINES)


@kernel
def touch_after(s: Any) -> None:
    """Save the counts of closed trades whose price afterwards is to be told."""
    _save(s, s.bases[_AFTER], 1)


@kernel
def touch_aftermath(s: Any, row: int) -> None:
    """Save one of those before it is written."""
    _save(s, s.bases[_AFTERMATH] + row, 1)


@kernel
def has_room(s: Any) -> bool:
    """Whether undo log and outbox can take one more action; if not, the sub-step ends and the next goes on at its resume index."""
    return s.undo[0].count + ACTION_LINES <= l.UNDO_LINES and s.line[0].outbox_len + _ACTION_INTENTS <= l.OUTBOX_SLOTS


@kernel
def ring_room(s: Any) -> int:
    """Order-ring slots that this step may still fill; looked up once a step, since readers only make more of it while we work."""
    room = s.own[0].ring_room
    if room < 0:
        room = ring.free_slots(s.order_ring, s.order_readers)
        s.own[0].ring_room = room
    return room - s.line[0].outbox_len


@kernel
def commit(s: Any) -> None:
    """Make the step true: the new line, then the release store that selects it."""
    crash_at(s, CRASH_COMMIT)
    number = s.commit[0].number + 1
    s.commit_lines[number & 1] = s.line[0]
    store_release(s.commit, 0, _NUMBER, number)
    crash_at(s, CRASH_COMMITTED)


@kernel
def copy_outbox(s: Any) -> int:
    """Publish what the committed line has and the ring has not; gives how many. The same for a running step and for recovery."""
    line = s.commit_lines[s.commit[0].number & 1]
    missing = line.intent_seq - ring.head(s.order_ring)
    for row in range(line.outbox_len - missing, line.outbox_len):
        ring.publish(s.order_ring, s.order_slots, s.outbox, row)
        crash_at(s, CRASH_COPY)
    return missing


@kernel
def count_death(s: Any, number: int) -> None:
    """A predecessor died in the step on commit `number`. If that was a tick's own work for the second time, the tick is named as deadly.

    The mark is taken away before it is counted, so that a death during a recovery is never taken for one more of the tick.
    """
    undo = s.undo[0]
    tick_seq = undo.tick_seq
    store_release(s.undo, 0, _UNDO_TICK, 0)
    if tick_seq == 0:
        return
    undo.deaths = undo.deaths + 1 if undo.died_on == number else 1
    undo.died_on = number
    if undo.deaths >= MOST_DEATHS:
        s.own[0].deadly_tick = tick_seq


@kernel
def recover(s: Any) -> int:
    """Undo an uncommitted step and publish the committed outbox. Gives the undo lines applied, −1 if nothing was ever committed."""
    number = load_acquire(s.commit, 0, _NUMBER)
    applied = 0
    if s.undo[0].number == number:
        count_death(s, number)
        applied = s.undo[0].count
        for k in range(applied - 1, -1, -1):
            s.tx[s.undo_at[k]] = s.undo_lines[k]
        fence_release()
        store_release(s.undo, 0, _UNDO_COUNT, 0)
    copy_outbox(s)
    return applied if number else -1
