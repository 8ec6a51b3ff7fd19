"""The backtest's loop: gateway, sniper and the strategist's fold take the turns of a lockstep replay, over an array of ticks, in one call.

The turn of tick n: the intents that the sniper made up to n − 1 are taken, n is matched against the open orders, its reports are published;
then the sniper applies them and steps n. A plan that is due comes before n. Matching, step and fold are the kernels of the processes; what is
left out is what only keeps processes apart: the tick ring, the wait for each other, the quote saved against a crash.

`run` comes back where Python must act, with the tick at hand in `words[ROW]`, and goes on there when it is called again: the gateway's half of a
tick is done when `gate.words[NEXT]` is behind it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hotpath.kernel.ahead import look_ahead
from hotpath.kernel.candles import fold_tick
from hotpath.kernel.match import match, observe
from hotpath.kernel.step import adopt, finish, open_step, step, step_without_tick
from hotpath.kernel.turns import ACTIONS, HAVE, NEXT, NOW, OPEN, TAKEN, intents_wait
from ipc import layout as l
from ipc import ring
from ipc.bundle import Bundle
from ipc.jit import kernel

#: why `run` comes back: all ticks are done; a plan is due before the tick at hand; intents are to be carried out before it is matched; it made
#: actions that are to be booked; the rings hold records for the journal
DONE, DUE, INTENTS, MATCHED, RECORDS = range(5)
#: words of `Tape.words`: row of the tick at hand, rows in all, event time of the next plan, samples taken, event time between two samples and of the
#: next one
ROW, END, DUE_NS, SAMPLES, EVERY_NS, SAMPLE_NS = range(6)
#: records in a ring at which they are taken out: a tick's own must find the room that a replay's recorder leaves them
_RECORDS: Final = l.RING_SLOTS // 8
#: samples at most; when they are full every other one goes, and the time between two is doubled
MOST_SAMPLES: Final = 1 << 14


def new_tape(instruments: int, every_ns: int) -> Bundle:
    """What the loop notes for the report: equity, and each instrument's last price, at equal distances of event time."""
    words = np.zeros(8, np.int64)
    words[EVERY_NS] = every_ns
    return Bundle(words=words, times=np.zeros(MOST_SAMPLES, np.int64), equity=np.zeros(MOST_SAMPLES, np.int64),
                  prices=np.zeros((MOST_SAMPLES, max(1, instruments)), np.int64))


@kernel
def _halve(t: Any) -> None:
    kept = t.times.shape[0] // 2
    for row in range(kept):
        t.times[row] = t.times[2 * row]
        t.equity[row] = t.equity[2 * row]
        for number in range(t.prices.shape[1]):
            t.prices[row, number] = t.prices[2 * row, number]
    t.words[SAMPLES] = kept
    t.words[EVERY_NS] *= 2


@kernel
def sample(s: Any, t: Any, event_ns: int) -> None:
    """Note equity and prices, right behind a step that has marked the account."""
    if t.words[SAMPLES] == t.times.shape[0]:
        _halve(t)
    row = t.words[SAMPLES]
    t.times[row] = event_ns
    t.equity[row] = s.account[0].equity
    for number in range(t.prices.shape[1]):
        state = s.states[number]
        t.prices[row, number] = state.last if state.last > 0 else state.bid
    t.words[SAMPLES] = row + 1
    t.words[SAMPLE_NS] = (event_ns // t.words[EVERY_NS] + 1) * t.words[EVERY_NS]


@kernel
def _waiting(head: int, readers: Any) -> bool:
    return head - ring.cursor(readers, l.RECORDER) >= _RECORDS


@kernel
def gateways_half(s: Any, g: Any, tick: Any) -> int:
    """Take what waits, match the tick: DONE, or INTENTS or MATCHED where the venue has something to do, with the tick in `g.tick`."""
    if ring.head(g.order_ring) > g.words[TAKEN] and intents_wait(g):
        g.tick[0] = tick
        g.words[HAVE] = 1
        return INTENTS
    observe(g.quotes, tick)
    g.words[ACTIONS] = 0
    if g.words[OPEN] > 0:
        g.words[ACTIONS] = match(g.opened, g.words[OPEN], tick, g.quotes, g.instruments, g.rules[0], g.rules[1], g.taken, g.actions)
        if g.words[ACTIONS] > 0:
            g.tick[0] = tick
            g.words[HAVE] = 1
            return MATCHED
    g.words[NOW] = max(g.words[NOW], tick.event_ns)
    g.words[NEXT] = tick.seq + 1
    return DONE


@kernel
def run(s: Any, g: Any, f: Any, t: Any, ticks: Any) -> int:
    """From `words[ROW]` to `words[END]` of `ticks`, until Python is needed."""
    row, end = t.words[ROW], t.words[END]
    while row < end:
        tick = ticks[row]
        seq = s.line[0].tick_seq + 1
        if g.words[NEXT] == seq:
            if tick.event_ns >= t.words[DUE_NS]:
                t.words[ROW] = row
                return DUE
            if _waiting(ring.head(s.order_ring), s.order_readers) or _waiting(ring.head(s.report_ring), s.report_readers):
                t.words[ROW] = row
                return RECORDS
            tick.seq = seq
            reason = gateways_half(s, g, tick)
            if reason != DONE:
                t.words[ROW] = row
                return reason
        look_ahead(s, ticks, row, end)
        s.tick[0] = tick
        step(s)
        f.tick[0] = tick
        fold_tick(f)
        if tick.kind >= l.TICK_CLOCK and tick.event_ns >= t.words[SAMPLE_NS]:
            sample(s, t, tick.event_ns)
        row += 1
    t.words[ROW] = row
    return DONE


@kernel
def take_table(s: Any) -> int:
    """Adopt a newly armed table between two ticks, as a sniper does that waits for a plan; gives the records made."""
    open_step(s)
    adopt(s)
    return finish(s)


@kernel
def take_reports(s: Any) -> int:
    """Apply what the gateway has published, without a tick: at the end. Gives the records made."""
    return step_without_tick(s)


def warm_up(memory: Any) -> None:
    """Compile the loop."""
    from hotpath.kernel.candles import new_fold
    from hotpath.kernel.loop import start
    from hotpath.kernel.state import sniper_arrays
    from hotpath.kernel.turns import gate_arrays

    s = sniper_arrays(memory)
    start(s)
    run(s, gate_arrays(memory, 0, 0), new_fold(memory, 2, 10, 8, 60), new_tape(2, 1), np.zeros(0, l.TICK))
    take_table(s)
    take_reports(s)
