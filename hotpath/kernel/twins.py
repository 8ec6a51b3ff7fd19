"""Twins: beside a position the same trade on paper with its stop or target at another distance, so that the two can be compared in pairs.

A twin begins when the entry order has ended: only then are price and size of the entry what they remain, and until then neither its ladder nor its
break-even has moved. It is a copy of the position at that instant, its entry fees included, but for the distances that its condition asks for
(`twin_stop_pct`, `twin_target_pct`), and lies in the row of the trades on paper (papers.py), where it ends as those do. A position that has begun to
close by then, that a person has adjusted, whose level is not there to be moved, or whose row is taken has no twin: all of that is known before either
of the two has a result. A twin makes no order, reserves nothing, and does not count as one of the day's trades on paper; positions never look at it.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.commit import ring_room, touch_account, touch_paper, touch_state
from hotpath.kernel.intents import emit_paper_opened
from ipc import layout as l
from ipc.jit import kernel

#: order-ring slots beyond the reserve that the beginning of a twin leaves
_RECORDS = 3


@kernel
def _moved(average: int, level: int, sign: int, pct: int) -> int:
    """A level at `pct` percent of its distance from the entry, rounded down to whole ticks, at least one from it and above zero; the level itself
    at 0 percent. `sign` is the side of the entry on which it belongs; 0 where it is not there, or not on that side."""
    apart = sign * (level - average)
    if pct == 0:
        return level
    if level <= 0 or apart <= 0:
        return 0
    return max(1, average + sign * max(1, apart * pct // 100))


@kernel
def open_twin(s: Any, row: int, event_ns: int) -> None:
    """The entry of a position has ended: its twin begins, if one is asked for. The caller has room for a record."""
    base = s.positions[row]
    stop_pct, target_pct = base.twin_stop_pct, base.twin_target_pct
    if (stop_pct == 0 and target_pct == 0) or s.papers[row].state != l.POS_FLAT:
        return
    if base.lots <= 0 or base.lots != base.entry_lots or base.exit_reason != l.EXIT_NONE or base.adjustments != 0:
        return
    average = base.entry_quote // s.instruments[base.instrument].value_quanta // base.entry_lots
    stop = _moved(average, base.stop_price, -base.side, stop_pct)
    target = _moved(average, base.target_price, base.side, target_pct)
    if (stop_pct != 0 and stop == 0) or (target_pct != 0 and target == 0):
        return
    if ring_room(s) <= s.params[s.line[0].params_epoch & 1].ring_reserve + _RECORDS:
        return
    book_twin(s, row, s.cursors[0].incarnation << 40 | (s.line[0].intent_seq + 1), stop, target)
    emit_paper_opened(s, s.papers[row], average, base.position_id, event_ns)


@kernel
def book_twin(s: Any, row: int, position_id: int, stop: int, target: int) -> None:
    """The twin of the position of a row, with these levels, takes the row beside it, which is free."""
    base = s.positions[row]
    touch_account(s)
    touch_state(s, base.instrument)
    touch_paper(s, row)
    s.account[0].paper_positions += 1
    s.states[base.instrument].open_mask |= 1 << (l.PAPER_BIT + base.strategy)
    s.papers[row] = s.positions[row]
    p = s.papers[row]
    p.position_id = position_id
    p.state = l.POS_MONITORING
    p.stop_price = stop
    p.target_price = target
    p.attempt = 0
