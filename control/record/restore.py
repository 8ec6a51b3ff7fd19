"""The start of a paper run: the book of the last one, from the journal alone, into fresh segments, before the sniper begins.

The newest snapshot is written back, and every record behind it is folded in (hotpath/kernel/restore.py). So it makes no difference whether the last
run was stopped in order, or everything was killed in the middle of a second. What the journal does not know yet the venue tells: the gateway
publishes every event behind the journal's last one, then states the account, which ends all orders of earlier runs.

Instruments and strategies are matched by name, since their numbers belong to a run. Trades on paper go on likewise, and prices that are still to
be told afterwards; what of these is of a symbol or strategy that this run does not have, or by a plan that is missing, is simply not there.

What no record can tell is as of the snapshot, or made anew: all that market prices make (equity, its peak and drawdown, the best price that a
trailing stop hangs on), the pause before an exit is tried again, and what counts against the limits of messages and repeats. The benchmark
`restore` compares everything else with the book that all records from the first one on make, and has the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from control.record.journal import END, START, Journal, facts_of
from control.record.records import InstrumentFact, JournalError
from control.record.snapshot import Snapshot, write_back
from ipc import layout as l
from ipc import messages
from ipc.segment import Memory

#: bits of a key below the incarnation
_KEY_BITS = 40
#: milliseconds after which an exit that ended without effect is tried again; the sniper's own setting takes over from its first step
_EXIT_RETRY_NS = 1_000_000_000
#: records of what is followed without money
_FOLLOWED = (l.PAPER_OPENED, l.PAPER_CLOSED, l.AFTERWARDS)


class Point(NamedTuple):
    """A place in the journal: behind record `orders` of the order ring and record `reports` of the report ring of an incarnation."""

    incarnation: int
    orders: int
    reports: int


@dataclass(frozen=True)
class Tail:
    """What is behind a snapshot: INTENT and REPORT rows with the incarnation of each, in the journal's order."""

    snapshot: Snapshot | None
    orders: Any
    order_incarnations: Any
    reports: Any
    report_incarnations: Any


def read_tail(journal: Journal, since: Snapshot | None, until: Point | None = None) -> Tail:
    """Every ring record behind a snapshot (None: from the first one on), up to a point (None: to the end). Raises JournalError."""
    tables = []
    for number, database in enumerate(("orders", "reports")):
        after = (since.incarnation, since.report_seq if number else since.intent_seq) if since else START
        tables.append(journal.table(database, after, (until.incarnation, until[1 + number]) if until else END))
    orders, reports = tables
    return Tail(since, orders.rows, orders.incarnations, reports.rows, reports.incarnations)


def held(journal: Journal) -> dict[tuple[str, str], InstrumentFact]:
    """(symbol, strategy) of every position that may be open, with the instrument as the run that opened it knew it. Raises JournalError."""
    starts = journal.run_starts()
    facts = {incarnation: facts_of(starts[incarnation]) for incarnation in sorted(starts)}
    by_symbol = {fact.symbol: fact for known in facts.values() for fact in known.values()}
    tail = read_tail(journal, journal.last_snapshot())
    found = {(position.symbol, position.strategy) for position in tail.snapshot.positions} if tail.snapshot else set()
    for place in _last_entries(tail).tolist():
        row, incarnation = tail.orders[place], int(tail.order_incarnations[place])
        found.add((facts[incarnation][int(row["instrument"])].symbol, _strategies(starts[incarnation])[int(row["strategy"])]))
    return {key: by_symbol[key[0]] for key in sorted(found)}


def _strategies(run_start: Any) -> list[str]:
    """Names by number."""
    return list(run_start.data.get("strategies", ()))


def _last_entries(tail: Tail) -> Any:
    """Places in `orders` of the last entry of each (incarnation, instrument, strategy): only their positions may be open at the end."""
    return _last(tail, (tail.orders["kind"] == l.NEW) & (tail.orders["purpose"] == l.ENTRY))


def _last(tail: Tail, among: Any) -> Any:
    places = np.flatnonzero(among)[::-1]
    entries = tail.orders[places]
    keys = tail.order_incarnations[places] << 32 | entries["instrument"].astype(np.int64) << 16 | entries["strategy"]
    return np.sort(places[np.unique(keys, return_index=True)[1]])


def restore(journal: Journal, memory: Memory, tail: Tail | None = None) -> str:
    """Fill the sniper's book; gives a sentence about what was found, "" in a new journal. May be repeated until the sniper starts.

    `tail` is what is restored instead of the newest snapshot and all that is behind it; its rows are changed. Raises JournalError where a record
    speaks of something that this run does not have.
    """
    from hotpath.kernel.restore import fold
    from hotpath.kernel.state import sniper_arrays

    closed = memory.sniper.instrument_states["closed_to_entries"].copy()
    memory.transactional()[0]["words"] = 0
    memory.sniper.instrument_states["closed_to_entries"] = closed
    tail = tail or read_tail(journal, journal.last_snapshot())
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
    positions = int((memory.sniper.positions["lots"] > 0).sum())
    text = f"resumed: {positions} open position{'' if positions == 1 else 's'}"
    if len(tail.orders) or len(tail.reports):
        text += f", {len(tail.orders) + len(tail.reports)} records behind the last snapshot folded in"
    return text


def _renumber(tail: Tail, journal: Journal, memory: Memory) -> None:
    """Instruments and strategies of earlier runs by this run's numbers."""
    symbols = {row["symbol"].decode(): number for number, row in enumerate(memory.instruments.instruments) if row["symbol"]}
    names = {row["name"].decode(): number for number, row in enumerate(memory.instruments.strategies) if row["name"]}
    starts = journal.run_starts()
    for incarnation in np.unique(np.concatenate([tail.order_incarnations, tail.report_incarnations])).tolist():
        instruments, strategies = np.full(1 << 16, l.NO_INSTRUMENT, np.uint16), np.full(1 << 16, l.MAX_STRATEGIES, np.uint16)
        if (start := starts.get(incarnation)) is not None:
            for old, fact in facts_of(start).items():
                instruments[old] = symbols.get(fact.symbol, l.NO_INSTRUMENT)
            for old, name in enumerate(_strategies(start)):
                strategies[old] = names.get(name, l.MAX_STRATEGIES)
        for table, of in ((tail.orders, tail.order_incarnations), (tail.reports, tail.report_incarnations)):
            first, last = np.searchsorted(of, (incarnation, incarnation + 1))
            table["instrument"][first:last] = instruments[table["instrument"][first:last]]
            if table is tail.orders:
                table["strategy"][first:last] = strategies[table["strategy"][first:last]]
            else:  # the code of an ANNOUNCED report is a strategy
                named = first + np.flatnonzero(table["kind"][first:last] == l.ANNOUNCED)
                table["code"][named] = strategies[table["code"][named]]
    trading, followed = (np.isin(tail.orders["kind"], kinds) for kinds in ((l.NEW, l.CLOSED, l.LIFECYCLE), _FOLLOWED))
    unknown = (tail.orders["instrument"] == l.NO_INSTRUMENT) | (tail.orders["strategy"] >= l.MAX_STRATEGIES)
    lost = trading & unknown
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        raise JournalError(f"{journal.path}: order {tail.order_incarnations[first]}/{tail.orders['seq'][first]} is of a symbol or strategy that "
                           "this run does not have; name it with --symbols and --strategy, or use --fresh")
    tail.orders["instrument"][~trading & ~(followed & ~unknown)] = 0
    tail.orders["strategy"][~trading & ~followed & ~np.isin(tail.orders["kind"], (l.REFUSED, l.RELEASED))] = 0
    tail.orders["strategy"][followed & unknown] = l.MAX_STRATEGIES  # passed over


def _conditions(tail: Tail, journal: Journal, memory: Memory) -> Any:
    """What each entry was armed with: of one that may be open at the end all of it, by the plan that its order names; of others what its order says,
    as nobody asks any more how they were protected. The same of trades on paper, where one whose plan is missing is passed over, and of positions
    that have closed before their twin. `tail` is renumbered already."""
    rows, orders = np.zeros(len(tail.orders), l.CONDITION), tail.orders
    for name in ("condition_id", "plan_seq", "strategy", "instrument", "side"):
        rows[name] = orders[name]
    armed = _Armed(journal, memory)
    closed, over = ((orders["kind"] == kind) for kind in (l.CLOSED, l.PAPER_CLOSED))
    entries = _last_entries(tail)
    entries = entries[~np.isin(orders["position_id"][entries], orders["position_id"][closed])]
    for number in entries.tolist():
        if (fault := armed.into(rows, number, orders[number])):
            raise JournalError(f"{journal.path}: {fault}")
    opened = (orders["kind"] == l.PAPER_OPENED) & (orders["strategy"] < l.MAX_STRATEGIES)
    papers = _last(tail, opened & ((orders["order_seq"] != 0) | (orders["code"] == l.POS_OPENING)))
    for number in papers[~np.isin(orders["position_id"][papers], orders["position_id"][over])].tolist():
        base = int(orders["order_seq"][number])
        entry = (orders["position_id"] == base) & (orders["kind"] == l.NEW) & (orders["purpose"] == l.ENTRY)
        of = np.flatnonzero(entry).tolist() if base else [number]
        if any(armed.into(rows, place, orders[place]) for place in of):
            orders["strategy"][number] = l.MAX_STRATEGIES
    return rows


class _Armed:
    """Conditions as they were armed, from the plans of the journal; each plan is read once."""

    def __init__(self, journal: Journal, memory: Memory) -> None:
        from hotpath.arming import facts_by_symbol

        self._journal, self._known = journal, facts_by_symbol(memory.instruments.instruments)
        self._plans: dict[int, messages.Plan | None] = {}

    def into(self, rows: Any, number: int, order: Any) -> str:
        """Put what an order-ring record names into its place; gives why not, "" where it could."""
        from hotpath.arming import NotArmed, row_of

        plan_seq, index = int(order["plan_seq"]), int(order["condition_id"]) & ((1 << l.PLAN_SHIFT) - 1)
        plan = self._plans[plan_seq] if plan_seq in self._plans else self._plans.setdefault(plan_seq, self._journal.plan(plan_seq))
        if plan is None or index >= len(plan.conditions):
            return (f"plan {plan_seq}, which says how an open position is protected, is missing; restore the journal from a backup, or use "
                    "--fresh")
        try:
            row = row_of(plan.conditions[index], f"plan {plan_seq}.conditions[{index}]", plan.due_ns, self._known)
        except NotArmed as error:
            return str(error)
        rows[number] = np.frombuffer(row, l.CONDITION)[0]
        for name in ("condition_id", "plan_seq", "strategy"):
            rows[name][number] = order[name]
        return ""
