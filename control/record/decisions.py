"""A run's decisions, read from its journal: every order that was decided (NEW), with what was filled of it. By symbol and strategy, not by their ids,
so that runs of different programs, instances and times can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from control.record.journal import Journal
from control.record.records import InstrumentFact, JournalError
from ipc import layout as l


class NoSuchRun(Exception):
    """A run that cannot be found or read; the text says where it was looked for and what to do."""


class Filled(NamedTuple):
    """One fill: event time, price in ticks, lots, fee in quanta, liquidity."""

    event_ns: int
    price: int
    lots: int
    fee: int
    liquidity: int


@dataclass
class Decision:
    """An order as it was decided, prices in ticks; `reason` is that of an exit. `value_quanta` = quanta of one tick × one lot."""

    symbol: str
    strategy: str
    purpose: str
    side: int
    event_ns: int
    seq: int
    lots: int
    order_type: int
    limit_price: int
    reference_price: int
    reason: str
    value_quanta: int
    fills: list[Filled] = field(default_factory=list)

    @property
    def filled(self) -> int:
        """Lots filled."""
        return sum(fill.lots for fill in self.fills)

    @property
    def quote(self) -> int:
        """What the fills are worth, in quanta."""
        return sum(fill.price * fill.lots for fill in self.fills) * self.value_quanta

    @property
    def fees(self) -> int:
        """Fees of the fills, in quanta."""
        return sum(fill.fee for fill in self.fills)


@dataclass(frozen=True)
class Run:
    """A run by its folder: its id, its mode, its decisions in the order in which they were made, the facts of its instruments by symbol."""

    folder: Path
    run_id: str
    mode: str
    decisions: list[Decision]
    facts: dict[str, InstrumentFact]


def read_run(name: str, data_dir: Path) -> Run:
    """The run of a folder, or of an id under `data_dir`/runs. Raises NoSuchRun."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = data_dir / "runs" / name
    if not folder.is_dir():
        raise NoSuchRun(f"{name}: is no folder, and there is no run of that id in {data_dir / 'runs'}; name a run's folder, or its data folder with "
                        "--data-dir")
    folder = folder.resolve()
    try:
        with journal_of(folder) as (journal, incarnation, facts):
            start = journal.run_starts()[incarnation].data
            decisions = _decisions(journal, incarnation, facts, start.get("strategies", []))
    except JournalError as error:
        raise NoSuchRun(str(error)) from error
    return Run(folder, str(start["run_id"]), str(start["mode"]), decisions, {fact.symbol: fact for fact in facts.values()})


@contextmanager
def journal_of(folder: Path) -> Iterator[tuple[Journal, int, dict[int, InstrumentFact]]]:
    """The journal that holds a run: its own, or its instance's, which holds many; there the run's first event tells its incarnation."""
    own = folder / "state" / "journal"
    data_dir = folder.parent.parent
    for path in [own] if own.is_dir() else sorted([*data_dir.glob("instances/*/journal"), *data_dir.glob("archive/*/journal")]):
        journal = Journal(path)
        try:
            starts = {str(event.data.get("run_id")): incarnation for incarnation, event in journal.run_starts().items()}
            # a run's own journal holds that run alone, whatever its folder is called
            incarnation = starts.get(folder.name) or (next(iter(starts.values())) if path == own and len(starts) == 1 else 0)
            if incarnation:
                yield journal, incarnation, journal.instruments()[incarnation]
                return
        finally:
            journal.close()
    raise NoSuchRun(f"{folder}: there is no journal of it, neither in it nor of an instance under {data_dir}; name the folder of a run that has one")


def _decisions(journal: Journal, incarnation: int, facts: dict[int, InstrumentFact], strategies: list[str]) -> list[Decision]:
    orders, reports = journal.rows("orders", incarnation), journal.rows("reports", incarnation)
    found: dict[int, Decision] = {}
    for row in orders[orders["kind"] == l.NEW]:
        fact, strategy = facts[int(row["instrument"])], int(row["strategy"])
        entry = row["purpose"] == l.ENTRY
        found[int(row["seq"])] = Decision(
            symbol=fact.symbol, strategy=strategies[strategy] if strategy < len(strategies) else f"strategy {strategy}",
            purpose="entry" if entry else "exit", side=int(row["side"]), event_ns=int(row["event_ns"]), seq=int(row["seq"]), lots=int(row["lots"]),
            order_type=int(row["order_type"]), limit_price=int(row["limit_price"]), reference_price=int(row["reference_price"]),
            reason="" if entry else l.EXIT_REASONS[int(row["code"])], value_quanta=fact.value_quanta)
    for row in reports[reports["kind"] == l.FILL]:
        if (decision := found.get(int(row["order_seq"]))) is not None:  # else of an order that an earlier run decided
            decision.fills.append(Filled(*(_int(row, name) for name in ("event_ns", "last_price", "last_lots", "fee", "liquidity"))))
    return list(found.values())


def _int(row: Any, name: str) -> int:
    return int(row[name])
