"""What must be so at the end: nothing is undecided, and journal, ledger and book say the same to the last quantum."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from control.record.reconcile import LedgerState, reconcile
from ipc import board
from ipc import layout as l
from tests.books import Books, book_disagrees
from tests.simulation.deaths import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World


def undecided(world: World) -> list[str]:
    """What still waits for something, in words."""
    found = [f"{role} does not live" for role in world.roles if role not in world.lives]
    sniper, exchange = world.memory.sniper, world.exchange
    if exchange.in_flight:
        found.append(f"{len(exchange.in_flight)} orders are on their way")
    found += [f"an order of {symbol} is in doubt" for symbol, _ in world.witness.doubtful.values()]
    if owed := board.owed(world.memory):
        found.append(f"{owed} records are not in the journal")
    working = sniper.working[np.flatnonzero(sniper.working["order_seq"])]
    found += [f"order {int(order['order_seq'])} works{' and was to be cancelled' if order['cancel_seq'] else ''}" for order in working]
    found += [f"order {order.client_id} works at the venue" for order in exchange.open_orders()]
    held = sniper.positions[np.flatnonzero(sniper.positions["state"] != l.POS_FLAT)]
    found += [f"position {int(p['instrument'])}/{int(p['strategy'])} was to be closed: {l.EXIT_REASONS[int(p['exit_reason'])]}"
              for p in held if p["exit_reason"] != l.EXIT_NONE]
    return found


def compare(world: World) -> None:
    """Raises Violation with every difference."""
    journal, ledger = world.lives["recorder"].recorder.journal, world.lives["gateway"].ledger
    meta = ledger.meta
    state = LedgerState(meta.cash, {symbol: (held.lots, held.cost) for symbol, held in ledger.positions.items()}, meta.fees, meta.deposits,
                        meta.realised, meta.venue_seq)
    if ledger.uncommitted:
        raise Violation("accounts", "the ledger has changes that are not committed")
    outcome = reconcile(journal, state)
    # an exit does not wait for the journal: what was lost with shared memory is known to the venue alone
    books = [] if world.forgot else Books(journal).faults()
    faults = [*outcome.differences, *books, *book_disagrees(journal, state), *world.exchange.venue.check()]  # type: ignore[union-attr]
    if outcome.uncompared:
        world.crash.passed["book not compared"] += 1
    if faults:
        raise Violation("accounts", "; ".join(faults[:6]))


def counted(world: World) -> Counter[str]:
    """What a script has made happen, for whoever asks whether it happens at all."""
    counts = Counter[str]()
    for key, row in world.witness.orders.items():
        counts["orders ended" if key in world.witness.ended else "orders without end"] += 1
        counts["of the gateway" if key[1] >= 1 << 39 else "entries" if row["purpose"] == l.ENTRY else "exits"] += 1
    counts["trades"] += int(world.memory.sniper.account[0]["trades_closed"])
    return counts
