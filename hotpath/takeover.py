"""What a gateway does with what its predecessor left: the first start of an instance, and every respawn, take this one path.

Three witnesses are asked, in this order. The *report ring* says what was published, and publication is the commit. The *order rows* say
what may have been sent. The *venue* says what arrived. So every order ends in exactly one terminal report, and every fill is published
once:

- an event behind the last one that was published is published now;
- a row in SENDING or UNKNOWN without any report is asked at the venue: found, it goes on with the venue's events; not found, where that is
  proof, it is LOST. It is never sent again.
- In lockstep the turn is the transaction: what the ledger does not have of an interrupted turn never reached the venue, so the same turn is
  taken once more. That is the order's first sending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hotpath.intake import Intake
from hotpath.kernel import turns as k
from hotpath.orders import OWN_ORDERS, TERMINAL, IllegalTransition, Order, advance, row_of
from ipc import layout as l
from ipc import wait

if TYPE_CHECKING:
    from hotpath.gateway import Gateway


def take_over(gateway: Gateway) -> bool:
    """Bring rows, ledger and rings together; then publish what is missing and stand at the next tick. False: told to stop before it was done; then
    nothing else is to be done with it, as it does not know yet what was handled before."""
    g, ledger, reporting = gateway.g, gateway.ledger, gateway.reporting
    first = ledger.meta.incarnation != reporting.incarnation
    if first and ledger.meta.venue_seq:  # an account with a past: before anything goes out, the book has to agree with it
        reporting.account_in_doubt()
    _stand_at_next_tick(gateway, first)
    if first and not _first_of_incarnation(gateway):
        return False
    k.finish_publish(g)
    published = _published_reports(gateway)
    if len(published):
        g.header[0]["venue_seq"] = max(int(g.header[0]["venue_seq"]), int(published["venue_seq"].max()))
    _rows_from_reports(gateway, published)
    _ask_for_unknown(gateway)
    gateway.intake = Intake(int(g.header[0]["venue_seq"]))
    while not gateway.pull():
        if gateway.breathe(0.1):
            return False
    g.words[k.TAKEN] = int(g.order_readers[l.GATEWAY]["cursor"])  # what lies behind it is handled again: rows and reports say what is done
    g.words[k.OPEN] = gateway.venue.count
    reporting.relieved()  # the ledger could be opened; a doubt about an order stays
    while not reporting.publish():
        if gateway.breathe(0.005):
            return False
    wait.ring_bells(g.processes, 1 << l.SNIPER | 1 << l.RECORDER)
    gateway.comparing = reporting.is_account_in_doubt()
    gateway.child.log.info("incarnation %d: %s at tick %d, %d open orders, %d reports published before", reporting.incarnation,
                           "first start" if first else "goes on", int(g.words[k.NEXT]), gateway.venue.count, len(published))
    return True


def _stand_at_next_tick(gateway: Gateway, first: bool) -> None:
    g, ledger = gateway.g, gateway.ledger
    g.words[k.NEXT] = max(int(g.tick_readers[l.GATEWAY]["cursor"]), int(g.header[0]["tick_seq"])) + 1
    g.words[k.MATCHED_BEFORE] = 0 if first else ledger.meta.tick_seq
    k.restore_quote(g)
    # not the quotes' time: they may have seen the tick of the turn that was cut short
    g.words[k.NOW] = max(ledger.meta.event_ns, int(g.header[0]["event_ns"]))
    gateway.stand(int(g.words[k.NOW]), int(g.words[k.NEXT]) - 1)


def _first_of_incarnation(gateway: Gateway) -> bool:
    """Fresh segments: a deposit into an empty account, else a statement; orders of earlier incarnations have nobody left who wants them."""
    ledger, venue = gateway.ledger, gateway.venue
    run = gateway.child.memory.board.run[0]
    if gateway.ledger.meta.venue_seq == 0:
        venue.deposit(int(run["initial_cash"]), venue.now_ns)
    else:
        began = gateway.clock()
        while not venue.absent_for_good(began):  # what an earlier run sent may still arrive: it is to be ended and told before the account is stated
            if gateway.breathe(0.02):
                return False
        while not gateway.cancel_all():
            if gateway.breathe(0.2):
                return False
        venue.state_balance(venue.now_ns)
    # the journal alone says what is known: what was published and not journaled was lost with the shared memory
    gateway.g.header[0]["venue_seq"] = int(gateway.g.cursors[0]["journaled_venue_seq"])
    ledger.meta.incarnation, ledger.meta.run_id, ledger.meta.tick_seq = gateway.reporting.incarnation, gateway.child.boot.run_id, 0
    ledger.touch()
    while ledger.commit() is None:  # its events are read back from the ledger, with whatever else was not published
        gateway.reporting.ledger_fails(ledger.fault)
        if gateway.breathe(0.2):
            return False
    return True


def _published_reports(gateway: Gateway) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Reports that are still in the ring, oldest first."""
    ring = gateway.g.report_ring[0]
    head, capacity = int(ring["head"]), int(ring["capacity"])
    first = max(1, head - capacity + 1)
    reports = np.zeros(max(1, head - first + 1), l.REPORT)
    return reports[: k.read_reports(gateway.g, first, head - first + 1, reports)]


def _rows_from_reports(gateway: Gateway, published: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
    """Order rows as the published reports have them: the predecessor may have died between a report and its row."""
    g = gateway.g
    ended = set()
    terminal = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)
    for report in published[published["order_seq"] > 0]:
        seq, kind = int(report["order_seq"]), int(report["kind"])
        at = row_of(seq)
        row = g.rows[at]
        if kind in terminal:
            ended.add(seq)
        if int(row["order_seq"]) != seq or int(row["state"]) in TERMINAL:
            continue
        try:
            before = _order_of(row)
            if kind == l.FILL:  # its lots may be in the row already and its state not: it died between the two
                before = before._replace(cum_lots=min(before.cum_lots, int(report["cum_lots"]) - int(report["last_lots"])))
            order = advance(before, kind, int(report["cum_lots"]), int(report["cum_quote"]))
        except IllegalTransition:
            continue  # the row had it already
        row["cum_lots"], row["cum_quote"] = order.cum_lots, order.cum_quote
        k.set_state(g, at, order.state)
    gateway.reporting.ended = frozenset(ended)
    for row in np.sort(g.rows[g.rows["order_seq"] > 0], order="order_seq"):  # as they were made, which is the order of a CANCEL_ALL
        if int(row["state"]) != l.ORD_NONE and int(row["state"]) not in TERMINAL:
            gateway.reporting.orders[int(row["order_seq"])] = _order_of(row)


def _order_of(row: Any) -> Order:
    return Order(int(row["state"]), int(row["lots"]), int(row["cum_lots"]), int(row["cum_quote"]))


def _ask_for_unknown(gateway: Gateway) -> None:
    """Orders that may or may not have been sent: the venue knows."""
    g, reporting = gateway.g, gateway.reporting
    for seq, order in sorted(reporting.orders.items()):
        if order.state not in (l.ORD_SENDING, l.ORD_UNKNOWN):
            continue
        if order.state == l.ORD_SENDING and gateway.lockstep and seq < OWN_ORDERS and gateway.venue.find(reporting.client_id(seq)) is None:
            k.set_state(g, row_of(seq), l.ORD_NONE)
            del reporting.orders[seq]
            continue
        gateway.doubts.add(seq, told=order.state == l.ORD_UNKNOWN)
    gateway.doubts.resolve()
