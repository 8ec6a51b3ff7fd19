"""The gateway's turns: ticks in order, matched against the open orders, without coming back to Python while there is nothing to do.

In lockstep tick n waits until the sniper has stepped n − 1; then whatever intents it made are taken before n is matched, and the tick
cursor says n when all that n caused is published. Otherwise ticks are matched as they come, and intents taken whenever they come.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hotpath.kernel.match import ACTION, MAX_ACTIONS, MAX_OPEN, OPEN_ORDER, match, observe, touch_price
from ipc import heartbeat, ring, wait
from ipc import layout as l
from ipc.atomics import copy_words, fence_release, load_acquire, load_relaxed, monotonic_ns, store_release
from ipc.bundle import Bundle
from ipc.jit import kernel
from ipc.segment import Memory

#: why `turns` comes back: its time is over; a stop word; intents are waiting; a parked intent has become durable; a tick made actions
TIME, STOP, INTENTS, DURABLE, MATCHED = range(5)
#: words of the gate's `words`: next tick; that tick is in its `tick` (1); last order-ring record taken; open orders; order-ring sequence whose
#: durability is awaited (0: none); the order cursor is held because something taken is unfinished (1); last tick matched in an earlier
#: life; actions of the tick; event time of the last tick; the process's own stop word
NEXT, HAVE, TAKEN, OPEN, AWAITED, HELD, MATCHED_BEFORE, ACTIONS, NOW, TOLD = range(10)
#: ticks between bells where nobody takes turns
_BATCH: Final = 64
_TICK_SEQ = l.offset(l.GATEWAY_HEADER, "tick_seq")
_DURABLE = l.offset(l.CURSORS, "durable_orders")
_VERSION = l.offset(l.QUOTE, "version")
_STATE = l.offset(l.GATEWAY_ORDER, "state")
_STOP_OF_SNIPER = l.offset(l.PROCESS, "stop")
_METRIC_MATCHED = l.METRICS[l.GATEWAY].index("ticks_matched")


def gate_arrays(memory: Memory, slippage_bps: int, half_spread_bps: int) -> Bundle:
    """The kernel's arrays over an instance's shared memory, see ipc/layout.py; those of the last group are private to the process."""
    t, o, r, b, gateway = memory.ticks, memory.orders, memory.reports, memory.board, memory.gateway
    instruments = memory.instruments.instruments
    return Bundle(
        tick_ring=t.ring, tick_readers=t.readers, tick_slots=t.slots, order_ring=o.ring, order_readers=o.readers, order_slots=o.slots,
        report_ring=r.ring, report_readers=r.readers, report_slots=r.slots, header=gateway.gateway, rows=gateway.gateway_orders,
        quotes=gateway.venue_quotes,
        quote_before=gateway.quote_before,  # what the running tick changes, as it was; `version` = that tick's sequence
        instruments=instruments, processes=b.processes, cursors=b.cursors,
        # private
        opened=np.zeros(MAX_OPEN, OPEN_ORDER), actions=np.zeros(MAX_ACTIONS, ACTION), taken=np.zeros((len(instruments), 2), np.int64),
        tick=np.zeros(1, l.TICK), intent=np.zeros(1, l.INTENT), report=np.zeros(1, l.REPORT), words=np.zeros(10, np.int64),
        rules=np.array([slippage_bps, half_spread_bps], np.int64),  # bps a touch, half spread bps
    )


@kernel
def _pass_over(g: Any) -> bool:
    """Go over records for others; True when the next one is for the gateway, and is in `g.intent`."""
    head = ring.head(g.order_ring)
    while g.words[TAKEN] < head and ring.poll(g.order_ring, g.order_slots, g.words[TAKEN] + 1, g.intent, 0) == ring.OK:
        if g.intent[0].kind <= l.CANCEL_ALL:
            return True
        g.words[TAKEN] += 1
    return False


@kernel
def intents_wait(g: Any) -> bool:
    """An order-ring record for the gateway is there. The cursor follows unless something that was taken is unfinished."""
    before = g.words[TAKEN]
    found = _pass_over(g)
    if g.words[TAKEN] != before and g.words[HELD] == 0:
        ring.advance(g.order_readers, l.GATEWAY, g.words[TAKEN])
    return found


@kernel
def take(g: Any) -> bool:
    """The next record for the gateway into `g.intent`; False when there is none. The cursor stays until the caller is done with it."""
    if not _pass_over(g):
        return False
    g.words[TAKEN] += 1
    return True


@kernel
def awaited_durable(g: Any) -> bool:
    """The record that is waited for is in the journal."""
    return g.words[AWAITED] != 0 and load_acquire(g.cursors, 0, _DURABLE) >= g.words[AWAITED]


@kernel
def my_turn(g: Any, lockstep: int) -> bool:
    """A tick is at hand, and in lockstep the sniper has stepped the one before it."""
    return g.words[HAVE] != 0 and (lockstep == 0 or ring.cursor(g.tick_readers, l.SNIPER) >= g.words[NEXT] - 1)


@kernel
def save_quote(g: Any) -> None:
    """Keep the quote that the tick at hand will change: a turn that is taken again must begin with what the first try saw."""
    if g.tick[0].kind <= l.TICK_QUOTE:
        store_release(g.quote_before, 0, _VERSION, 0)
        fence_release()
        copy_words(g.quote_before, 0, g.quotes, g.tick[0].instrument)
        store_release(g.quote_before, 0, _VERSION, g.words[NEXT])
        fence_release()


@kernel
def restore_quote(g: Any) -> bool:
    """Take back what an unfinished tick did to its quote; after a crash, with the next tick being that one."""
    seq = g.words[NEXT]
    if load_acquire(g.quote_before, 0, _VERSION) != seq or ring.poll(g.tick_ring, g.tick_slots, seq, g.tick, 0) != ring.OK:
        return False
    copy_words(g.quotes, g.tick[0].instrument, g.quote_before, 0)
    return True


@kernel
def match_tick(g: Any) -> int:
    """Observe and match the tick at hand; gives the number of actions. A tick that the ledger has already is only observed."""
    save_quote(g)
    observe(g.quotes, g.tick[0])
    g.words[ACTIONS] = 0
    if g.words[OPEN] > 0 and g.words[NEXT] > g.words[MATCHED_BEFORE]:
        g.words[ACTIONS] = match(g.opened, g.words[OPEN], g.tick[0], g.quotes, g.instruments, g.rules[0], g.rules[1], g.taken, g.actions)
    return g.words[ACTIONS]


@kernel
def finish_tick(g: Any) -> None:
    """All that the tick caused is published: on to the next."""
    seq = g.words[NEXT]
    g.words[NOW] = max(g.words[NOW], g.tick[0].event_ns)
    g.header[0].event_ns = g.words[NOW]
    store_release(g.header, 0, _TICK_SEQ, seq)
    ring.advance(g.tick_readers, l.GATEWAY, seq)
    heartbeat.count(g.processes, l.GATEWAY, _METRIC_MATCHED, 1)
    g.words[NEXT] = seq + 1
    g.words[HAVE] = 0


@kernel
def _told_to_stop(g: Any) -> bool:
    return heartbeat.stop_word(g.processes, l.GATEWAY) != l.STOP_NONE or load_relaxed(g.words, TOLD, 0) != 0


@kernel
def _out_of_turn(g: Any, lockstep: int) -> bool:
    """Intents need not wait for a tick: nobody takes turns, or the sniper is stopping, which ends the turns."""
    return lockstep == 0 or load_relaxed(g.processes, l.SNIPER, _STOP_OF_SNIPER) != l.STOP_NONE


@kernel
def _poll_tick(g: Any) -> bool:
    if g.words[HAVE] == 0:
        result = ring.poll(g.tick_ring, g.tick_slots, g.words[NEXT], g.tick, 0)
        if result == ring.LAPPED:
            g.words[NEXT] = max(g.words[NEXT], ring.oldest(g.tick_ring))  # else it was only being written again: look once more
            result = ring.poll(g.tick_ring, g.tick_slots, g.words[NEXT], g.tick, 0)
        g.words[HAVE] = 1 if result == ring.OK else 0
    return g.words[HAVE] != 0


@kernel
def _something(g: Any, lockstep: int) -> bool:
    """The second look before sleeping."""
    if _told_to_stop(g) or awaited_durable(g):
        return True
    _poll_tick(g)
    return my_turn(g, lockstep) or (_out_of_turn(g, lockstep) and intents_wait(g))


@kernel
def turns(g: Any, lockstep: int, spins: int, budget_ns: int) -> int:
    """Take turns until Python is needed: TIME, STOP, INTENTS, DURABLE or MATCHED. With INTENTS a tick may be at hand (`my_turn`)."""
    end = monotonic_ns() + budget_ns
    passed, idle, unrung = 0, 0, 0
    while True:
        _poll_tick(g)
        turn = my_turn(g, lockstep)
        if (turn or _out_of_turn(g, lockstep)) and intents_wait(g):
            return INTENTS
        if awaited_durable(g):
            return DURABLE
        if turn:
            if match_tick(g) > 0:
                return MATCHED
            finish_tick(g)
            if lockstep:
                wait.ring_bells(g.processes, 1 << l.SNIPER)
            idle = 0
            passed += 1
            unrung += 1
            if passed & (_BATCH - 1):
                continue
        if unrung:
            wait.ring_bells(g.processes, 1 << l.FEED)
            unrung = 0
        if _told_to_stop(g):
            return STOP
        now = monotonic_ns()
        if now >= end:
            return TIME
        if turn:
            continue
        idle += 1
        if idle < spins:
            wait.spin()
            continue
        wait.prepare_sleep(g.processes, l.GATEWAY)
        if _something(g, lockstep):
            wait.stay_awake(g.processes, l.GATEWAY)
        else:
            wait.sleep(g.processes, l.GATEWAY, end - now)
        idle = 0


@kernel
def await_durable(g: Any, budget_ns: int) -> bool:
    """Sleep until the awaited record is durable or the time is over."""
    end = monotonic_ns() + budget_ns
    while not awaited_durable(g):
        left = end - monotonic_ns()
        if left <= 0 or _told_to_stop(g):
            return False
        wait.prepare_sleep(g.processes, l.GATEWAY)
        if awaited_durable(g):
            wait.stay_awake(g.processes, l.GATEWAY)
        else:
            wait.sleep(g.processes, l.GATEWAY, left)
    return True


@kernel
def publish_report(g: Any) -> int:
    """Publish `g.report[0]`; gives its sequence, 0 when the ring is full."""
    if ring.free_slots(g.report_ring, g.report_readers) < 1:
        return 0
    g.report[0].publish_ns = monotonic_ns()
    return ring.publish(g.report_ring, g.report_slots, g.report, 0)


@kernel
def finish_publish(g: Any) -> bool:
    """A predecessor's last report, where it died in the middle of publishing that."""
    return ring.finish_publish(g.report_ring, g.report_slots, g.report, 0)


@kernel
def set_state(g: Any, row: int, state: int) -> None:
    """State of an order row: stored last, with release, so that a successor that sees it sees the rest of the row."""
    store_release(g.rows, row, _STATE, state)


@kernel
def read_reports(g: Any, first: int, count: int, target: Any) -> int:
    """Copy published reports [first, first + count) into `target`; gives how many were still there."""
    found = 0
    for seq in range(first, first + count):
        if ring.poll(g.report_ring, g.report_slots, seq, target, found) == ring.OK:
            found += 1
    return found


@kernel
def advance_orders(g: Any, seq: int) -> None:
    """Everything on the order ring up to `seq` is done with."""
    ring.advance(g.order_readers, l.GATEWAY, seq)


def warm_up(memory: Memory) -> None:
    """Compile what Python calls, over a throw-away instance."""
    g = gate_arrays(memory, 0, 0)
    turns(g, 0, 0, 0)
    take(g)
    my_turn(g, 0)
    restore_quote(g)
    match_tick(g)
    finish_tick(g)
    await_durable(g, 0)
    publish_report(g)
    finish_publish(g)
    set_state(g, 0, 0)
    read_reports(g, 1, 1, np.zeros(1, l.REPORT))
    advance_orders(g, 0)
    wait.ring_bells(g.processes, 1 << l.SNIPER)
    touch_price(g.quotes[0], 1, 0, 1)
