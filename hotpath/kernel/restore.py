"""The book from the journal: what followed the last snapshot is folded in, record by record, with the code that the hot loop itself uses.

Runs once, over fresh segments, before the sniper starts. Orders stand under keys incarnation << 40 | sequence (see reports.py); they end when the
venue states its account. A round trip is closed by its CLOSED record alone: one that is flat without it is closed by the sniper, which then tells.

Trades on paper (papers.py, twins.py) and prices that are still to be told (afterwards.py) go on, too. A rung that one of those has sold since the
snapshot, and a stop that it has moved, are not in its records: they come again where the price still says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hotpath.kernel import commit as tx
from hotpath.kernel.afterwards import remember, was_told
from hotpath.kernel.entries import book_entry
from hotpath.kernel.exits import book_exit
from hotpath.kernel.papers import book_paper, book_paper_entry, free_paper
from hotpath.kernel.reports import clear_position, find_working, settle_report
from hotpath.kernel.state import sniper_arrays
from hotpath.kernel.step import new_day
from hotpath.kernel.twins import book_twin
from ipc import layout as l
from ipc.jit import kernel


@kernel
def _report(s: Any, report: Any, exit_retry_ns: int) -> None:
    tx.begin(s)
    s.line[0].event_ns = report.event_ns
    s.report[0] = report
    settle_report(s, exit_retry_ns)


@kernel
def _order(s: Any, order: Any, condition: Any) -> bool:
    """One order-ring record; False where the book has no place for it."""
    row = order.instrument * l.MAX_STRATEGIES + order.strategy
    if order.strategy >= l.MAX_STRATEGIES:
        return True  # a refusal, or a trade on paper, of a strategy or symbol that this run does not have
    if order.kind == l.NEW:
        working = find_working(s, 0)
        if working < 0:
            return False
        tx.begin(s)
        if order.purpose == l.ENTRY:
            new_day(s, order.event_ns)
            book_entry(s, condition, order, working, 0)  # its cash is not reserved: it ends before anything new is sent
        elif s.positions[row].position_id == order.position_id:
            book_exit(s, order, row, working)
    elif order.kind == l.LIFECYCLE and s.positions[row].position_id == order.position_id:
        if order.leg == l.POS_OPENING:  # of the tick at which the first fill was applied: a report's own time is a little before
            p = s.positions[row]
            p.opened_ns = order.event_ns
            p.deadline_ns = order.event_ns + p.time_stop_ns if p.time_stop_ns > 0 else 0
        if order.flags == l.ADJUST_BREAK_EVEN or order.flags == l.ADJUST_OPERATOR:
            p = s.positions[row]
            if p.stop_price != order.limit_price:
                p.stop_price = order.limit_price
                p.stop_bps = 0
            if p.target_price != order.reference_price:
                p.target_price = order.reference_price
                p.target_bps = 0
            p.adjustments = order.attempt
            if order.flags == l.ADJUST_BREAK_EVEN:
                p.break_even_bps = 0
    elif order.kind == l.REFUSED and order.code == l.REF_REPEATED:
        s.account[0].latched |= 1 << order.strategy
    elif order.kind == l.RELEASED:
        s.account[0].latched &= ~(1 << order.strategy)
        s.account[0].entries_due_ns[order.strategy] = 0
    elif order.kind == l.CLOSED and s.positions[row].position_id == order.position_id:
        tx.begin(s)
        account = s.account[0]
        account.realised_pnl += order.value  # TRADE.pnl
        account.trades_closed += 1
        if order.value > 0:
            account.wins += 1
        s.positions[row].exit_reason = order.code
        remember(s, s.positions[row], order.limit_price, order.event_ns)  # TRADE.exit_price
        clear_position(s, row)
    elif order.kind == l.AFTERWARDS:
        tx.begin(s)
        was_told(s, order.position_id, order.code)
    elif order.kind == l.PAPER_OPENED or order.kind == l.PAPER_CLOSED:
        tx.begin(s)
        _paper(s, order, condition, row)
    return True


@kernel
def _paper(s: Any, order: Any, condition: Any, row: int) -> None:
    """A trade on paper fires, is in, or ends; a twin begins. What else is in its row is over by then: a limit whose time ran out leaves no record."""
    p = s.papers[row]
    mine = p.state != l.POS_FLAT and p.position_id == order.position_id
    if p.state != l.POS_FLAT and mine == (order.kind == l.PAPER_CLOSED):
        free_paper(s, row)
    if order.kind == l.PAPER_CLOSED:
        return
    if order.order_seq != 0:
        if s.positions[row].state != l.POS_FLAT and s.positions[row].position_id == order.order_seq:
            book_twin(s, row, order.position_id, order.limit_price, order.reference_price)
    elif order.code == l.POS_OPENING:
        new_day(s, order.event_ns)
        if condition.valid_until_ns > 0:  # else nobody knows how it is protected, or asks any more
            book_paper(s, condition, row, order.position_id, order.lots, order.fire_index, order.generation)
        else:
            tx.touch_account(s)
            s.account[0].papers_today += 1
    elif mine and p.state == l.POS_OPENING:
        tx.touch_paper(s, row)
        book_paper_entry(s, p, order.value, order.event_ns)


@kernel
def fold(s: Any, orders: Any, conditions: Any, reports: Any, reports_before: Any, exit_retry_ns: int) -> int:
    """Fold `orders` (INTENT, seq = key), with `reports_before[k]` of `reports` (REPORT, order_seq = key) applied before the k-th.

    `conditions[k]` (CONDITION) is what an entry was armed with. Gives how many orders found a place.
    """
    done = 0
    for k in range(orders.shape[0]):
        for report in range(done, reports_before[k]):
            _report(s, reports[report], exit_retry_ns)
        done = max(done, reports_before[k])
        if not _order(s, orders[k], conditions[k]):
            return k
    for report in range(done, reports.shape[0]):
        _report(s, reports[report], exit_retry_ns)
    tx.begin(s)
    return orders.shape[0]


def warm_up(memory: Any) -> None:
    """Compile the fold."""
    fold(sniper_arrays(memory), np.zeros(1, l.INTENT), np.zeros(1, l.CONDITION), np.zeros(0, l.REPORT), np.zeros(1, np.int64), 0)
