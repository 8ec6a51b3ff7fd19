"""The independent checker: reads what a storm has left and names every promise that was broken. Shares no code with hotpath or control.

| rule             | what must hold                                                                                          |
|------------------|---------------------------------------------------------------------------------------------------------|
| journal_sequence | ring records are 1, 2, 3 … under their own keys, and the cursors are the last of them                     |
| ring             | what still stands in the rings is what the journal has; nothing is half-written                          |
| sent_once        | an order at the venue is one intent, as it was made; an intent is at most one order, acknowledged once    |
| terminal         | every intent has exactly one terminal report, nothing behind it, and the venue says the same of its end   |
| event_once       | every event of the venue, fills above all, is in the journal exactly once, word for word                  |
| cash, holding    | cash, fees, lots and cost follow from the venue's events, to the last quantum                             |
| book             | the sniper's cash, fees, positions and orders follow from the journal's reports, at each snapshot and at the end |
| trade            | a closed trade is journaled once, and says what its fills make                                            |
| fires            | no condition fired more often than its plan permits, none twice under one index, of a group one           |
| exit_size        | working exits never exceed their position, at any record                                                  |
| fill_sum, unknown_order | reports add up, and are of orders that were made                                                   |
| unjudged         | every rule can be judged: whatever stops one is told, and is no traceback without a verdict             |
| leftover         | no file, no socket, no process, no zombie                                                                |
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any, NamedTuple

from ipc import layout as l
from tests.storm import check_books, check_orders
from tests.storm.bookkeeping import Book
from tests.storm.evidence import Evidence


class Finding(NamedTuple):
    """A broken promise: its rule and what was found, with the numbers that lead to it."""

    rule: str
    text: str


def check(evidence: Evidence) -> list[Finding]:
    """All rules; empty when all hold."""
    found: list[Finding] = []

    def tell(rule: str, text: str) -> None:
        found.append(Finding(rule, text))

    book = Book(evidence.facts.instruments, evidence.reports, tell)
    for judge in (lambda: _sequences(evidence, tell), lambda: _rings(evidence, tell), lambda: check_orders.events_once(evidence, tell),
                  lambda: check_orders.fires(evidence, tell), lambda: check_books.account_of_the_venue(evidence, tell),
                  lambda: check_books.follow(evidence, book, tell), lambda: check_orders.sent_once(evidence, book, tell),
                  lambda: check_orders.terminal(evidence, book, tell)):
        try:
            judge()
        except Exception as error:  # what a rule cannot even read is a finding as well, and the others are judged all the same
            at = traceback.extract_tb(error.__traceback__)[-1]
            tell("unjudged", f"{type(error).__name__}: {error} (in {at.name}, {at.filename.rpartition('/')[2]}:{at.lineno})")
    for text in evidence.leftovers:
        tell("leftover", text)
    return found


def _sequences(evidence: Evidence, tell: Any) -> None:
    for name, rows in (("orders", evidence.orders), ("reports", evidence.reports)):
        for place, (seq, row) in enumerate(rows, 1):
            if (seq, int(row["seq"])) != (place, place):
                tell("journal_sequence", f"{name}: record {seq} (it calls itself {int(row['seq'])}) stands at place {place}")
                break
        if evidence.cursors[name] != len(rows):
            tell("journal_sequence", f"{name}: the cursor says {evidence.cursors[name]}, {len(rows)} records are there")
    for name, keys, kind in (("sent", evidence.sent, l.NEW), ("trades", [seq for seq, _ in evidence.trades], l.CLOSED)):
        if keys != [seq for seq, row in evidence.orders if int(row["kind"]) == kind]:
            tell("journal_sequence", f"{name} does not list the {l.INTENT_KINDS[kind]} records")
    closed = dict(evidence.orders)
    for seq, row in evidence.trades:
        if seq in closed and closed[seq].tobytes() != row.tobytes():
            tell("journal_sequence", f"trades: record {seq} is not the order ring's")


def _rings(evidence: Evidence, tell: Any) -> None:
    for name, rows in (("orders", evidence.orders), ("reports", evidence.reports)):
        head, slots = int(evidence.image[f"{name}.ring"][0]["head"]), evidence.image[f"{name}.slots"]
        if head != len(rows):
            tell("ring", f"{name}: the ring's head is {head}, the journal has {len(rows)}")
        stored = dict(rows)
        for seq in range(max(1, head - len(slots) + 1), head + 1):
            slot = slots[seq & (len(slots) - 1)]
            if int(slot["seq"]) != seq:
                tell("ring", f"{name}: the slot of record {seq} holds {int(slot['seq'])}")
            elif seq in stored and slot.tobytes() != stored[seq].tobytes():
                tell("ring", f"{name}: record {seq} is another one in the journal")


def count_of_rules(findings: list[Finding]) -> dict[str, int]:
    """How often each rule was broken."""
    return dict(Counter(finding.rule for finding in findings))
