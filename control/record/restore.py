"""The start of a paper run: the book of the last one, from the journal alone, into fresh segments, before the sniper begins.

The newest snapshot is written back, and every record behind it is folded in (hotpath/kernel/restore.py). So it makes no difference whether the last
run was stopped in order, or everything was killed in the middle of a second. What the journal does not know yet the venue tells: the gateway
publishes every event behind the journal's last one, then states the account, which ends all orders of earlier runs.

Instruments and strategies are matched by name, since their numbers belong to a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from control.record.journal import START, Journal
from control.record.records import InstrumentFact, JournalError
from control.record.snapshot import Snapshot, write_back
from ipc import layout as l
from ipc import messages
from ipc.segment import Memory

#: bits of a key below the incarnation
_KEY_BITS = 40
#: milliseconds after which an exit that ended without effect is tried again; the sniper's own setting takes over from its first step
_EXIT_RETRY_NS = 1_000_000_000


@dataclass(frozen=True)
class Tail:
    """What is behind the last snapshot: INTENT and REPORT rows with the incarnation of each."""

    snapshot: Snapshot | None
    orders: Any
    order_incarnations: Any
    reports: Any
    report_incarnations: Any


def read_tail(journal: Journal) -> Tail:
    """The newest snapshot and every ring record behind it. Raises JournalError."""
    at = journal.last_snapshot()
    orders, of_orders = _rows(journal.orders((at.incarnation, at.intent_seq) if at else START), l.INTENT)
    reports, of_reports = _rows(journal.reports((at.incarnation, at.report_seq) if at else START), l.REPORT)
    return Tail(at, orders, of_orders, reports, of_reports)


def _rows(found: Any, dtype: Any) -> tuple[Any, Any]:
    payloads, incarnations = [], []
    for record in found:
        payloads.append(record.payload)
        incarnations.append(record.incarnation)
    return np.frombuffer(b"".join(payloads), dtype).copy(), np.array(incarnations, np.int64)


def held(journal: Journal) -> dict[tuple[str, str], InstrumentFact]:
    """(symbol, strategy) of every position that may be open, with the instrument as the run that opened it knew it. Raises JournalError."""
    facts, strategies = journal.instruments(), strategy_names(journal)
    by_symbol = {fact.symbol: fact for incarnation in sorted(facts) for fact in facts[incarnation].values()}
    tail = read_tail(journal)
    found = {(position.symbol, position.strategy) for position in tail.snapshot.positions} if tail.snapshot else set()
    for row, incarnation in zip(tail.orders, tail.order_incarnations.tolist(), strict=True):
        if row["kind"] == l.NEW:
            found.add((facts[incarnation][int(row["instrument"])].symbol, strategies[incarnation][int(row["strategy"])]))
    return {key: by_symbol[key[0]] for key in sorted(found)}


def strategy_names(journal: Journal) -> dict[int, list[str]]:
    """Names by number, for each incarnation."""
    return {incarnation: list(event.data.get("strategies", ())) for incarnation, event in journal.run_starts().items()}


def restore(journal: Journal, memory: Memory) -> str:
    """Fill the sniper's book; gives a sentence about what was found, "" in a new journal. May be repeated until the sniper starts.

    Raises JournalError where a record speaks of something that this run does not have.
    """
    from hotpath.kernel.restore import fold
    from hotpath.kernel.state import sniper_arrays

    closed = memory.sniper.instrument_states["closed_to_entries"].copy()
    memory.transactional()[0]["words"] = 0
    memory.sniper.instrument_states["closed_to_entries"] = closed
    tail = read_tail(journal)
    if tail.snapshot is None and not len(tail.reports):
        return ""
    if tail.snapshot is not None:
        write_back(tail.snapshot, memory)
    _renumber(tail, journal, memory)
    order_keys = tail.order_incarnations << _KEY_BITS
    report_keys = tail.report_incarnations << _KEY_BITS
    reports = tail.reports
    seen = np.maximum.accumulate(np.concatenate([[0], reports["venue_seq"][:-1]])) if len(reports) else reports["venue_seq"]
    twice = (reports["kind"] == l.FILL) & (reports["venue_seq"] > 0) & (reports["venue_seq"] <= seen)
    reports, report_keys = reports[~twice], report_keys[~twice]  # a venue event counts once, however often it was published
    before = np.searchsorted(report_keys | reports["seq"], order_keys | tail.orders["report_seq"], side="right")
    tail.orders["seq"] |= order_keys
    # a report names an order of its own run by sequence, an earlier one's by its key; a statement ends what is of earlier runs than its own
    own = reports["order_seq"] > 0
    reports["order_seq"][own] |= report_keys[own]
    reports["spare"] = np.where(own, reports["order_seq"], reports["spare"])
    statement = (reports["kind"] == l.BALANCE) & (reports["code"] != 0)
    reports["spare"][statement] = report_keys[statement]
    conditions = _conditions(tail, journal, memory)
    if fold(sniper_arrays(memory), tail.orders, conditions, reports, before, _EXIT_RETRY_NS) != len(tail.orders):
        raise JournalError(f"{journal.path}: more than {l.MAX_WORKING} orders were working at the end; check the account, then use --fresh")
    positions = int((memory.sniper.positions["state"] != l.POS_FLAT).sum())
    text = f"resumed: {positions} open position{'' if positions == 1 else 's'}"
    if len(tail.orders) or len(tail.reports):
        text += f", {len(tail.orders) + len(tail.reports)} records behind the last snapshot folded in"
    return text


def _renumber(tail: Tail, journal: Journal, memory: Memory) -> None:
    """Instruments and strategies of earlier runs by this run's numbers."""
    symbols = {row["symbol"].decode(): number for number, row in enumerate(memory.instruments.instruments) if row["symbol"]}
    names = {row["name"].decode(): number for number, row in enumerate(memory.instruments.strategies) if row["name"]}
    facts, strategies = journal.instruments(), strategy_names(journal)
    for incarnation in np.unique(np.concatenate([tail.order_incarnations, tail.report_incarnations])).tolist():
        numbers = np.full(1 << 16, l.NO_INSTRUMENT, np.uint16)
        for old, fact in facts.get(incarnation, {}).items():
            numbers[old] = symbols.get(fact.symbol, l.NO_INSTRUMENT)
        rows = {np.uint16(old): names.get(name, l.MAX_STRATEGIES) for old, name in enumerate(strategies.get(incarnation, []))}
        for table, of in ((tail.orders, tail.order_incarnations), (tail.reports, tail.report_incarnations)):
            mine = of == incarnation
            table["instrument"][mine] = numbers[table["instrument"][mine]]
        mine = tail.order_incarnations == incarnation
        tail.orders["strategy"][mine] = [rows.get(old, l.MAX_STRATEGIES) for old in tail.orders["strategy"][mine]]
        mine = (tail.report_incarnations == incarnation) & (tail.reports["kind"] == l.ANNOUNCED)  # its code is a strategy
        tail.reports["code"][mine] = [rows.get(np.uint16(old), l.MAX_STRATEGIES) for old in tail.reports["code"][mine]]
    trading = np.isin(tail.orders["kind"], (l.NEW, l.CLOSED, l.LIFECYCLE))
    lost = trading & ((tail.orders["instrument"] == l.NO_INSTRUMENT) | (tail.orders["strategy"] >= l.MAX_STRATEGIES))
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        raise JournalError(f"{journal.path}: order {tail.order_incarnations[first]}/{tail.orders['seq'][first]} is of a symbol or strategy that "
                           "this run does not have; name it with --symbols and --strategy, or use --fresh")
    tail.orders["instrument"][~trading] = 0
    tail.orders["strategy"][~trading & ~np.isin(tail.orders["kind"], (l.REFUSED, l.RELEASED))] = 0


def _conditions(tail: Tail, journal: Journal, memory: Memory) -> Any:
    """What each entry was armed with, by the plan that its order names."""
    from hotpath.arming import NotArmed, facts_by_symbol, row_of

    known = facts_by_symbol(memory.instruments.instruments)
    rows = np.zeros(len(tail.orders), l.CONDITION)
    plans: dict[int, messages.Plan | None] = {}
    for number in np.flatnonzero((tail.orders["kind"] == l.NEW) & (tail.orders["purpose"] == l.ENTRY)).tolist():
        order = tail.orders[number]
        plan_seq, index = int(order["plan_seq"]), int(order["condition_id"]) & ((1 << l.PLAN_SHIFT) - 1)
        plan = plans[plan_seq] if plan_seq in plans else plans.setdefault(plan_seq, journal.plan(plan_seq))
        if plan is None or index >= len(plan.conditions):
            raise JournalError(f"{journal.path}: plan {plan_seq}, which says how an open position is protected, is missing; restore the journal "
                               "from a backup, or use --fresh")
        try:
            row = row_of(plan.conditions[index], f"plan {plan_seq}.conditions[{index}]", plan.due_ns, known)
        except NotArmed as error:
            raise JournalError(f"{journal.path}: {error}") from error
        rows[number] = np.frombuffer(row, l.CONDITION)[0]
        for name in ("condition_id", "plan_seq", "strategy"):
            rows[name][number] = order[name]
    return rows

