"""Fold ticks into candles of one length per instrument: the strategist's reading of the tick ring, without the GIL.

Bucket b covers [b × candle_ns, (b + 1) × candle_ns) of event time and lives in slot b % capacity. Only market trades make candles; a
candle without trades repeats the last close with volume 0, so that a window of n candles is always n × candle_ns long. A gap above
`gap_ns` in a symbol, or a SESSION tick for all, begins a new session: what was before it says nothing about what comes.

`run` stops *before* the first tick at or behind the due time, so that a plan made then has seen everything before it and nothing after.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ipc import heartbeat, ring, wait
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.jit import kernel

#: a candle: prices in ticks, volume in lots
CANDLE = np.dtype([(name, "<i8") for name in ("open", "high", "low", "close", "volume", "trades")])
#: an instrument: its first and newest bucket in this session (−1: none), its newest tick and prices (0: not seen in this session)
FOLD_ROW = np.dtype([(name, "<i8") for name in ("first", "newest", "seen_ns", "last", "bid", "ask", "sessions", "spare")])
#: the fold: next sequence to read, event time of the newest tick folded, ticks folded, ticks lost, event time of the tick that stopped
#: `run` with DUE, length of a candle, gap that begins a session
FOLD = np.dtype([(name, "<i8") for name in ("next", "event_ns", "ticks", "lost", "due_event_ns", "candle_ns", "gap_ns", "spare")])

#: what `run` came back for: no tick within the sleep, the batch is done, a plan is due before the next tick
IDLE, MORE, DUE = range(3)
#: ticks between cursor moves
_CURSOR_EVERY = 64
_METRIC_TICKS = l.METRICS[l.STRATEGIST].index("ticks")


def new_fold(memory: Any, instruments: int, candle_s: int, capacity: int, gap_s: int) -> Bundle:
    """A fold that has read nothing; it begins at the ring's first tick. Candles take 48 B × instruments × capacity, touched when used."""
    state = np.zeros(1, FOLD)
    state["next"], state["candle_ns"], state["gap_ns"] = 1, candle_s * 1_000_000_000, gap_s * 1_000_000_000
    rows = np.zeros(instruments, FOLD_ROW)
    rows["first"] = rows["newest"] = -1
    return Bundle(
        # private: FOLD, 1 row; FOLD_ROW, one an instrument; CANDLE, (instruments, capacity); TICK, 1 row: the tick at hand
        state=state, rows=rows, candles=np.zeros((instruments, capacity), CANDLE), tick=np.zeros(1, l.TICK),
        ring=memory.ticks.ring, slots=memory.ticks.slots, readers=memory.ticks.readers, processes=memory.board.processes)


@kernel
def forget(row: Any) -> None:
    """A new session of one instrument."""
    row.first = -1
    row.newest = -1
    row.last = 0
    row.bid = 0
    row.ask = 0
    row.sessions += 1


@kernel
def _flat(candles: Any, instrument: int, slot: int, close: int) -> None:
    candle = candles[instrument, slot]
    candle.open = close
    candle.high = close
    candle.low = close
    candle.close = close
    candle.volume = 0
    candle.trades = 0


@kernel
def fill(f: Any, instrument: int, bucket: int) -> None:
    """Candles without trades from behind the newest up to and with `bucket`; at most the capacity is written."""
    row = f.rows[instrument]
    capacity = f.candles.shape[1]
    close = f.candles[instrument, row.newest % capacity].close
    for empty in range(max(row.newest + 1, bucket - capacity + 1), bucket + 1):
        _flat(f.candles, instrument, empty % capacity, close)
    row.newest = max(row.newest, bucket)


@kernel
def add_trade(f: Any, instrument: int, event_ns: int, price: int, lots: int) -> None:
    """One market trade into its candle."""
    row = f.rows[instrument]
    bucket = event_ns // f.state[0].candle_ns
    slot = bucket % f.candles.shape[1]
    if row.newest < 0 or bucket > row.newest:
        if row.newest < 0:
            row.first = bucket
        elif bucket > row.newest + 1:
            fill(f, instrument, bucket - 1)
        row.newest = bucket
        _flat(f.candles, instrument, slot, price)
    candle = f.candles[instrument, slot]
    candle.high = max(candle.high, price)
    candle.low = min(candle.low, price)
    candle.close = price
    candle.volume += lots
    candle.trades += 1


@kernel
def fold_tick(f: Any) -> None:
    """`f.tick[0]` into candles and newest prices."""
    tick = f.tick[0]
    f.state[0].event_ns = tick.event_ns
    f.state[0].ticks += 1
    if tick.kind == l.TICK_SESSION:
        for number in range(f.rows.shape[0]):
            forget(f.rows[number])
        return
    if tick.instrument >= f.rows.shape[0]:
        return  # CLOCK, or an instrument that came after this fold was made
    row = f.rows[tick.instrument]
    if row.seen_ns != 0 and tick.event_ns - row.seen_ns > f.state[0].gap_ns:
        forget(row)
    row.seen_ns = tick.event_ns
    if tick.kind == l.TICK_QUOTE:
        row.bid = tick.price
        row.ask = tick.ask_price
    elif tick.kind == l.TICK_TRADE and tick.flags & l.FLAG_NOT_MARKET == 0:
        row.last = tick.price
        add_trade(f, tick.instrument, tick.event_ns, tick.price, tick.lots)


@kernel
def _advance(f: Any, seq: int) -> None:
    """Everything up to `seq` is read; a successor that reads old ticks again does not move the cursor back."""
    if seq > ring.cursor(f.readers, l.STRATEGIST):
        ring.advance(f.readers, l.STRATEGIST, seq)
        wait.ring_bells(f.processes, 1 << l.FEED)


@kernel
def run(f: Any, due_ns: int, batch: int, sleep_ns: int) -> int:
    """Fold at most `batch` ticks before `due_ns`: IDLE (slept once, at most `sleep_ns`), MORE, or DUE: the tick at hand is not taken."""
    state = f.state[0]
    began = state.ticks
    result = MORE
    for _ in range(batch):
        found = ring.poll(f.ring, f.slots, state.next, f.tick, 0)
        if found == ring.OK:
            if f.tick[0].event_ns >= due_ns:
                state.due_event_ns = f.tick[0].event_ns
                result = DUE
                break
            fold_tick(f)
            state.next += 1
            if state.next % _CURSOR_EVERY == 0:
                _advance(f, state.next - 1)
        elif found == ring.LAPPED:
            oldest = max(ring.oldest(f.ring), state.next)  # else it was only being written again: look once more
            state.lost += oldest - state.next
            state.next = oldest
        else:
            result = IDLE
            break
    _advance(f, state.next - 1)
    if state.ticks != began:
        heartbeat.count(f.processes, l.STRATEGIST, _METRIC_TICKS, state.ticks - began)
    elif result == IDLE and sleep_ns > 0:
        wait.prepare_sleep(f.processes, l.STRATEGIST)
        if ring.head(f.ring) < state.next and heartbeat.stop_word(f.processes, l.STRATEGIST) == l.STOP_NONE:
            wait.sleep(f.processes, l.STRATEGIST, sleep_ns)
        else:
            wait.stay_awake(f.processes, l.STRATEGIST)
    return result


@kernel
def window(f: Any, instrument: int, due_ns: int, out: Any) -> int:
    """Copy the last closed candles before `due_ns` into `out`, oldest first: how many (≤ len(out)); the last one ends at or before due."""
    row = f.rows[instrument]
    if row.newest < 0 or due_ns - row.seen_ns > f.state[0].gap_ns:
        return 0
    capacity = f.candles.shape[1]
    end = due_ns // f.state[0].candle_ns - 1
    if end > row.newest:
        fill(f, instrument, end)
    start = max(row.first, end - out.shape[0] + 1, row.newest - capacity + 1)
    for bucket in range(start, end + 1):
        out[bucket - start] = f.candles[instrument, bucket % capacity]
    return max(0, end - start + 1)


@kernel
def begin_with(f: Any, instrument: int, first: int, candles: Any, count: int, seen_ns: int) -> None:
    """Begin an instrument's session with `count` generated candles from bucket `first` on; the newest that fit are kept."""
    row = f.rows[instrument]
    capacity = f.candles.shape[1]
    for number in range(max(0, count - capacity), count):
        f.candles[instrument, (first + number) % capacity] = candles[number]
    row.first = first
    row.newest = first + count - 1
    row.seen_ns = seen_ns
    row.last = candles[count - 1].close


def warm_up(memory: Any) -> None:
    """Compile what Python calls."""
    f = new_fold(memory, 2, 10, 8, 60)
    run(f, 0, 1, 0)
    out = np.zeros(8, CANDLE)
    begin_with(f, 0, 1, out, 1, 1)
    window(f, 0, 30_000_000_000, out)
    ring.cursor(f.readers, l.STRATEGIST)
    ring.head(f.ring)
    wait.ring_bells(f.processes, 1 << l.FEED)
    wait.prepare_sleep(f.processes, l.STRATEGIST)
    wait.stay_awake(f.processes, l.STRATEGIST)
    wait.sleep(f.processes, l.STRATEGIST, 0)
