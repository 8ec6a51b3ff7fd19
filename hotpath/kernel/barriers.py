"""Waiting for a word to reach a value, and telling others that it has: the barriers between planner, recorder and learner."""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc import ring, wait
from ipc.atomics import load_acquire, store_release
from ipc.jit import kernel

#: byte offsets in `board.cursors` and in a ring's reader row, for `await_word`
DURABLE_ORDERS = l.offset(l.CURSORS, "durable_orders")
LEARNED_ORDERS = l.offset(l.CURSORS, "learned_orders")
PLAN_HORIZON = l.offset(l.CURSORS, "plan_horizon_ns")
READER_CURSOR = l.offset(l.READER, "cursor")


@kernel
def word(words: Any, row: int, offset: int) -> int:
    """The word, with everything before its store."""
    return load_acquire(words, row, offset)


@kernel
def await_word(words: Any, row: int, offset: int, value: int, processes: Any, role: int, sleep_ns: int) -> bool:
    """Whether the word is at least `value`, after at most one sleep on the role's own doorbell."""
    if load_acquire(words, row, offset) >= value:
        return True
    wait.prepare_sleep(processes, role)
    if load_acquire(words, row, offset) >= value:
        wait.stay_awake(processes, role)
        return True
    wait.sleep(processes, role, sleep_ns)
    return load_acquire(words, row, offset) >= value


@kernel
def set_learned(cursors: Any, processes: Any, seq: int) -> None:
    """Every trade closed up to this order-ring sequence is in the knowledge store; the strategist may be waiting for it."""
    store_release(cursors, 0, LEARNED_ORDERS, seq)
    wait.ring_bells(processes, 1 << l.STRATEGIST)


@kernel
def published(order_ring: Any) -> int:
    """Last sequence of a ring."""
    return ring.head(order_ring)


def warm_up(memory: Any) -> None:
    """Compile what Python calls."""
    cursors, processes = memory.board.cursors, memory.board.processes
    word(cursors, 0, DURABLE_ORDERS)
    await_word(cursors, 0, DURABLE_ORDERS, 1, processes, l.STRATEGIST, 0)
    await_word(memory.ticks.readers, l.SNIPER, READER_CURSOR, 1, processes, l.STRATEGIST, 0)
    set_learned(cursors, processes, 0)
    published(memory.orders.ring)
