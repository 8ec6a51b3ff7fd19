"""All arrays that the sniper's kernel works on, as one bundle: shared memory as it lies there, and a little private scratch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ipc import layout as l
from ipc.bundle import Bundle
from ipc.crash import WORDS
from ipc.segment import Memory

#: what the process keeps for itself: when the running tick was taken and when time last passed without one (monotonic), how far ahead of the last
#: tick's time the market's clock is then, order-ring slots free in this step (−1: not known), its own stop word, orders made so far and how many of
#: them the metric has, the tick that is to be skipped because two predecessors died of it, the state that a report's position was in, what of the
#: running step the undo log has (account or not, instrument of the state saved last or −1), and the last survey of money.py
OWN = np.dtype([("taken_ns", "<i8"), ("timed_ns", "<i8"), ("ahead_ns", "<i8"), ("ring_room", "<i8"), ("stop", "<i8"), ("orders_made", "<i8"),
                ("orders_told", "<i8"), ("deadly_tick", "<i8"), ("state_before", "<i8"), ("account_saved", "<i8"), ("state_saved", "<i8"),
                ("equity", "<i8"), ("unmarked", "<i8"), ("margin", "<i8"), ("gross", "<i8")])


#: values between which nothing of an (instrument, trigger) can fire, as of a generation; found again whenever it is not known. `below` and `above`
#: are the slots of the conditions that fire first beyond them, −1 without
BOUND = np.dtype([("low", "<i8"), ("high", "<i8"), ("generation", "<i8"), ("below", "<i4"), ("above", "<i4")])


def _aligned(count: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Zeros that begin at a cache line, as shared memory does."""
    size = count * np.dtype(dtype).itemsize
    room = np.zeros(size + l.CACHE_LINE, np.uint8)
    first = -room.ctypes.data % l.CACHE_LINE
    return room[first: first + size].view(dtype)


def _no_bounds(instruments: int) -> np.ndarray[Any, Any]:
    bounds = _aligned(instruments * (len(l.PRICE_KINDS) + l.TRIGGERS), BOUND)
    bounds["generation"] = bounds["below"] = bounds["above"] = -1
    return bounds


def sniper_arrays(memory: Memory, crash: np.ndarray[Any, Any] | None = None) -> Bundle:
    """The kernel's arrays over an instance's shared memory; see ipc/layout.py for each dtype. `crash`: the words of ipc/crash.py."""
    s, t, o, r, c, b = memory.sniper, memory.ticks, memory.orders, memory.reports, memory.conditions, memory.board
    tx, bases = memory.transactional()
    return Bundle(
        # the sniper's own segment
        commit=s.commit, commit_lines=s.commit_lines, undo=s.undo,
        undo_at=s.undo_at, undo_lines=s.undo_lines,
        outbox=s.outbox, outbox_context=s.outbox.view(l.ENTRY_CONTEXT),
        tx=tx,  # the transactional region as lines
        bases=np.array([bases[name] for name in l.TRANSACTIONAL], np.int64),  # first line of each transactional array
        account=s.account, states=s.instrument_states, positions=s.positions, open_rows=s.open_rows,
        papers=s.papers, after=s.after, aftermath=s.aftermath,
        working=s.working, condition_states=s.condition_states,
        features=s.features, feature_before=s.feature_before,
        **{name: getattr(s, name).reshape(len(s.features), l.FEATURE_BUCKETS) for name in l.BUCKETS},
        refusals=s.refusals, decision_hist=s.decision_hist, tick_to_intent_hist=s.tick_to_intent_hist,
        # rings
        tick_ring=t.ring, tick_readers=t.readers, tick_slots=t.slots, intervals=t.intervals,
        order_ring=o.ring, order_readers=o.readers, order_slots=o.slots,
        report_ring=r.ring, report_readers=r.readers, report_slots=r.slots,
        # what others write and the kernel reads
        table=c.table, generations=c.generations, rows=c.rows, thresholds=c.thresholds, index=c.index, added=c.added, watched=c.watched,
        params=c.params, commands=c.commands,
        instruments=memory.instruments.instruments, processes=b.processes, modes=b.modes, cursors=b.cursors,
        # private to the process
        line=_aligned(1, l.COMMIT_LINE),  # the line that the running step will commit
        tick=_aligned(1, l.TICK), report=_aligned(1, l.REPORT),
        crash=np.zeros(WORDS, np.int64) if crash is None else crash,  # armed crash point (tests)
        own=_aligned(1, OWN), bounds=_no_bounds(len(s.instrument_states)),
        blank_intent=_aligned(1, l.INTENT), blank_working=_aligned(1, l.WORKING), blank_position=_aligned(1, l.POSITION),
        blank_feature=_aligned(1, l.FEATURE),
        values=_aligned(l.TRIGGERS, np.float64),  # features at the running tick
    )
