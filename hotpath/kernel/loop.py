"""The sniper's hot loop: one uninterrupted call without the GIL. Batches, heartbeat, stop word and sleeping are inside it.

If each batch came back to Python, another thread holding the GIL would stall it (p99 3 ms, worst 67–830 ms were measured while a plan was
being decoded); in here nothing of the control plane can.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel import commit as tx
from hotpath.kernel.ahead import look_ahead_in_ring
from hotpath.kernel.histogram import record
from hotpath.kernel.intents import emit_cancel_all, emit_missed
from hotpath.kernel.state import OWN
from hotpath.kernel.step import adopt, apply_reports, finish, open_step, skip, step, step_by_clock, step_without_tick
from hotpath.kernel.triggers import lose_anchors
from ipc import heartbeat, ring, wait
from ipc import layout as l
from ipc.atomics import load_acquire, load_relaxed, monotonic_ns
from ipc.jit import kernel

#: ticks between heartbeats and bells
_BATCH = 64
#: time between two looks at deadlines while no ticks come
_TIMER_NS = 50_000_000
#: pause while a full order ring keeps reports and commands waiting
_FULL_NAP_NS = 1_000_000
_HORIZON = l.offset(l.CURSORS, "plan_horizon_ns")
_STOP = l.offset(OWN, "stop")
_GENERATION = l.offset(l.TABLE, "generation")
_COMMANDS = l.offset(l.TABLE, "command_seq")
_READERS_OF_ORDERS = 1 << l.GATEWAY | 1 << l.RECORDER
_WAITING_FOR_TICKS = 1 << l.FEED | 1 << l.GATEWAY | 1 << l.STRATEGIST
_METRIC_TICKS, _METRIC_INTENTS, _METRIC_LOST = 0, 1, 2


@kernel
def start(s: Any) -> int:
    """Recover what a predecessor left and load its line; gives the undo lines applied, −1 at a first start."""
    applied = tx.recover(s)
    s.line[0] = s.commit_lines[s.commit[0].number & 1]
    ring.advance(s.report_readers, l.SNIPER, s.line[0].report_seq)
    ring.advance(s.tick_readers, l.SNIPER, s.line[0].tick_seq)
    if s.line[0].tick_seq > 0 and ring.poll(s.tick_ring, s.tick_slots, s.line[0].tick_seq, s.tick, 0) == ring.OK:
        s.own[0].taken_ns = s.tick[0].publish_ns  # how long no tick has come is known at once
    return applied


@kernel
def between_ticks(s: Any) -> bool:
    """Reports, a new table or commands that have come without a tick."""
    return (ring.head(s.report_ring) > s.line[0].report_seq or load_acquire(s.table, 0, _GENERATION) != s.line[0].generation
            or load_acquire(s.table, 0, _COMMANDS) != s.line[0].command_seq)


@kernel
def may_step(s: Any, seq: int, event_ns: int, lockstep: int) -> bool:
    """In lockstep a tick waits until the gateway has matched it, and from the horizon on for the plan that is due."""
    if lockstep == 0:
        return True
    if ring.cursor(s.tick_readers, l.GATEWAY) < seq:
        return False
    horizon = load_acquire(s.cursors, 0, _HORIZON)
    return horizon == 0 or event_ns < horizon


@kernel
def gap(s: Any, expected: int) -> int:
    """The reader was lapped: count the loss, test protection against the interval's extremes, forget the previous prices. Gives the next seq."""
    oldest = ring.oldest(s.tick_ring)
    if oldest <= expected:
        return expected  # it was only being written again: look once more
    lost = oldest - expected
    for instrument in range(s.states.shape[0]):
        if s.states[instrument].last_event_ns == 0:
            continue
        open_step(s)
        tx.touch_state(s, instrument)
        state = s.states[instrument]
        lose_anchors(s, instrument)
        interval = s.intervals[instrument]
        for strategy in range(l.MAX_STRATEGIES):
            p = s.positions[instrument * l.MAX_STRATEGIES + strategy]
            if state.open_mask >> strategy & 1 and p.lots > 0 and p.exit_reason == 0 and interval.low > 0:
                worst = interval.low if p.side > 0 else interval.high
                if p.stop_price > 0 and p.side * (worst - p.stop_price) <= 0:
                    tx.touch_position(s, instrument * l.MAX_STRATEGIES + strategy)
                    p.exit_reason = l.EXIT_STOP
        finish(s)
    # the cursor moves last: a death in between takes all of it again, which changes nothing
    open_step(s)
    adopt(s)
    if tx.ring_room(s) > 0:
        emit_missed(s, l.MISSED_LAPPED, l.NO_INSTRUMENT, lost, 0, s.line[0].event_ns)
    s.line[0].tick_seq = oldest - 1
    s.line[0].resume_index = 0
    finish(s)
    heartbeat.count(s.processes, l.SNIPER, _METRIC_LOST, lost)
    return oldest


@kernel
def stop_word(s: Any) -> int:
    """The watchdog's word, or the own process's (SIGTERM, or the watchdog is gone)."""
    return max(heartbeat.stop_word(s.processes, l.SNIPER), load_relaxed(s.own, 0, _STOP))


@kernel
def time_passes(s: Any, silence_ns: int, speed: float) -> bool:
    """No tick has come for `silence_ns` (0: time is what ticks say), and no heartbeat of the feed: deadlines by the monotonic clock, that much
    late. A living feed that is silent is held back, and so is its market. Gives whether anything was due.
    """
    own, now = s.own[0], monotonic_ns()
    silent = now - own.taken_ns
    if silence_ns == 0 or own.taken_ns == 0 or silent < silence_ns or now - own.timed_ns < _TIMER_NS:
        return False
    if now - heartbeat.beat_ns(s.processes, l.FEED) < silence_ns:
        return False
    own.timed_ns = now
    return step_by_clock(s, s.line[0].event_ns + int((silent - silence_ns) * speed)) > 0


@kernel
def run(s: Any, lockstep: int, spins: int, silence_ns: int, speed: float) -> int:
    """Until the stop word: take ticks in order. Gives the stop word.

    `silence_ns`, `speed`: after so long without a tick the market's clock goes on at that speed, see `time_passes`; 0 where it stands still then.
    """
    seq = s.line[0].tick_seq + 1
    processed, idle = 0, 0
    have = False
    own = s.own[0]
    while True:
        if own.orders_told != own.orders_made:
            heartbeat.count(s.processes, l.SNIPER, _METRIC_INTENTS, own.orders_made - own.orders_told)
            own.orders_told = own.orders_made
        stop = stop_word(s)
        if stop != l.STOP_NONE:
            return stop
        for _ in range(_BATCH):
            if not have:
                result = ring.poll(s.tick_ring, s.tick_slots, seq, s.tick, 0)
                if result == ring.EMPTY:
                    break
                if result == ring.LAPPED:
                    seq = gap(s, seq)
                    continue
                have = True
            if not may_step(s, seq, s.tick[0].event_ns, lockstep):
                break
            own.taken_ns = monotonic_ns()
            look_ahead_in_ring(s, seq)
            orders = own.orders_made
            made = step(s) if seq != own.deadly_tick else skip(s)
            if own.orders_made != orders:
                now = monotonic_ns()
                record(s.decision_hist, now - own.taken_ns)
                record(s.tick_to_intent_hist, now - s.tick[0].publish_ns)
            if made:
                wait.ring_bells(s.processes, _READERS_OF_ORDERS)
            if lockstep:
                wait.ring_bells(s.processes, 1 << l.GATEWAY)
            have = False
            idle = 0
            processed += 1
            seq += 1
        if processed:
            heartbeat.count(s.processes, l.SNIPER, _METRIC_TICKS, processed)
            wait.ring_bells(s.processes, _WAITING_FOR_TICKS)
            processed = 0
            heartbeat.beat(s.processes, l.SNIPER, seq, s.line[0].event_ns)
            continue
        # Reports between ticks would make a lockstep run depend on timing; a new table must be taken all the same, or the horizon never moves.
        if (lockstep == 0 and between_ticks(s)) or load_acquire(s.table, 0, _GENERATION) != s.line[0].generation:
            reports, commands, generation = s.line[0].report_seq, s.line[0].command_seq, s.line[0].generation
            if _without_tick(s, lockstep):
                wait.ring_bells(s.processes, _READERS_OF_ORDERS)
            heartbeat.beat(s.processes, l.SNIPER, seq, s.line[0].event_ns)
            if s.line[0].report_seq == reports and s.line[0].command_seq == commands and s.line[0].generation == generation:
                wait.nap(s.processes, l.SNIPER, _FULL_NAP_NS)  # the order ring is full: nothing can be taken before its readers have gone on
            idle = 0
            continue
        idle += 1
        if idle < spins:
            wait.spin()
            if idle & 1023 == 0:
                heartbeat.beat(s.processes, l.SNIPER, seq, s.line[0].event_ns)
                if time_passes(s, silence_ns, speed):
                    wait.ring_bells(s.processes, _READERS_OF_ORDERS)
            continue
        heartbeat.beat(s.processes, l.SNIPER, seq, s.line[0].event_ns)
        if time_passes(s, silence_ns, speed):
            wait.ring_bells(s.processes, _READERS_OF_ORDERS)
        wait.prepare_sleep(s.processes, l.SNIPER)
        if _nothing(s, seq, have, lockstep):
            wait.sleep(s.processes, l.SNIPER, wait.MAX_SLEEP_NS)
        else:
            wait.stay_awake(s.processes, l.SNIPER)
        idle = 0


@kernel
def _nothing(s: Any, seq: int, have: bool, lockstep: int) -> bool:
    """The second look before sleeping."""
    if stop_word(s) != l.STOP_NONE:
        return False
    if load_acquire(s.table, 0, _GENERATION) != s.line[0].generation or (lockstep == 0 and between_ticks(s)):
        return False
    if have:
        return not may_step(s, seq, s.tick[0].event_ns, lockstep)
    return ring.head(s.tick_ring) < seq


@kernel
def _without_tick(s: Any, lockstep: int) -> int:
    if lockstep == 0:
        return step_without_tick(s)
    open_step(s)
    adopt(s)
    return finish(s)


@kernel
def drain(s: Any, deadline_ns: int) -> int:
    """At an ordered stop: cancel what is working and apply reports until nothing is, or the time is over. Gives the orders still working."""
    open_step(s)
    if s.account[0].working_orders > 0 and tx.ring_room(s) > 0:
        emit_cancel_all(s, 1, s.line[0].event_ns)
    finish(s)
    wait.ring_bells(s.processes, _READERS_OF_ORDERS)
    while True:
        before = s.line[0].report_seq
        if ring.head(s.report_ring) > before:
            open_step(s)
            apply_reports(s, 0)
            finish(s)
            wait.ring_bells(s.processes, _READERS_OF_ORDERS)
            if s.line[0].report_seq > before:
                continue
        if s.account[0].working_orders == 0 or monotonic_ns() >= deadline_ns:
            return s.account[0].working_orders
        heartbeat.beat(s.processes, l.SNIPER, s.line[0].tick_seq, s.line[0].event_ns)
        wait.prepare_sleep(s.processes, l.SNIPER)
        if ring.head(s.report_ring) == s.line[0].report_seq:
            wait.sleep(s.processes, l.SNIPER, 5_000_000)
        else:
            wait.stay_awake(s.processes, l.SNIPER)

