"""What a backtest gives beyond the summary: round trips and equity as Parquet, and the figures of each symbol, read back from its journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from control.record.journal import Journal
from control.record.records import InstrumentFact
from ipc import layout as l

if TYPE_CHECKING:
    from control.backtest.engine import Backtest


@dataclass(frozen=True)
class Trip:
    """A closed position. Prices in the quote currency, size in base, cash in the account currency, times in event ns."""

    symbol: str
    strategy: str
    side: str
    opened_ns: int
    closed_ns: int
    size: float
    entry_price: float
    exit_price: float
    pnl: float
    fees: float
    exit_reason: str
    why: str


@dataclass(frozen=True)
class Results:
    """Everything that tables and report show. `prices` holds each symbol's last price at `times`, NaN before the first."""

    run_id: str
    summary: dict[str, Any]
    span_ns: tuple[int, int]
    seed: int
    strategies: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    paper: dict[str, Any]
    trips: list[Trip]
    times: Any
    equity: Any
    prices: dict[str, Any]

    @property
    def drawdown_pct(self) -> Any:
        """Fall of equity below its highest so far, in percent, at `times`."""
        peak = np.maximum.accumulate(self.equity) if len(self.equity) else self.equity
        return 100.0 * (peak - self.equity) / np.maximum(peak, 1e-9)


def results_of(run: Backtest, summary: dict[str, Any], span_ns: tuple[int, int]) -> Results:
    """Of a run that is finished."""
    journal = Journal(Path(run.boot.state_dir) / "journal")
    try:
        incarnation = int(run.memory.board.cursors[0]["incarnation"])
        facts = journal.instruments()[incarnation]
        trips = list(_trips(journal, incarnation, facts, run.plan.strategy_names))
    finally:
        journal.close()
    times, equity, prices = run.samples()
    scale = 10.0 ** next(iter(facts.values())).quantum_exponent
    import msgspec

    return Results(
        run_id=run.run_id, summary=summary, span_ns=span_ns, seed=run.plan.seed, strategies=run.plan.strategy_names,
        sources=tuple((Path(source.path).name, source.symbol) for source in run.plan.sources), paper=msgspec.structs.asdict(run.plan.config.paper),
        trips=trips, times=times, equity=equity * scale,
        prices={fact.symbol: np.where(prices[:, number] > 0, prices[:, number] * _tick(fact), np.nan) for number, fact in facts.items()})


def _tick(fact: InstrumentFact) -> float:
    return float(fact.tick_mantissa * 10.0 ** fact.tick_exponent)


def _trips(journal: Journal, incarnation: int, facts: dict[int, InstrumentFact], strategies: tuple[str, ...]) -> Iterator[Trip]:
    plans: dict[int, Any] = {}
    for row in journal.rows("trades", incarnation):
        fact, number = facts[int(row["instrument"])], int(row["plan_seq"])
        if number not in plans:
            plans[number] = journal.plan(number)
        at = int(row["condition_id"]) & ((1 << l.PLAN_SHIFT) - 1)
        conditions = plans[number].conditions if plans[number] else ()
        lot, cash = fact.lot_mantissa * 10.0 ** fact.lot_exponent, 10.0 ** fact.quantum_exponent
        yield Trip(
            symbol=fact.symbol, strategy=strategies[int(row["strategy"])], side="long" if row["side"] > 0 else "short",
            opened_ns=int(row["opened_ns"]), closed_ns=int(row["event_ns"]), size=int(row["lots"]) * lot,
            entry_price=int(row["entry_price"]) * _tick(fact), exit_price=int(row["exit_price"]) * _tick(fact), pnl=int(row["pnl"]) * cash,
            fees=int(row["fees"]) * cash, exit_reason=l.EXIT_REASONS[int(row["exit_reason"])],
            why=conditions[at].why if at < len(conditions) else "")


def write_tables(results: Results, folder: Path) -> None:
    """trades.parquet and equity.parquet; times are UTC."""
    import polars as pl

    columns = {name: [getattr(trip, name) for trip in results.trips] for name in Trip.__dataclass_fields__}
    kinds = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
    schema = {name: kinds[str(field.type)] for name, field in Trip.__dataclass_fields__.items()}
    trades = pl.DataFrame(columns, schema=schema).with_columns(
        pl.from_epoch(f"{name}_ns", time_unit="ns").dt.replace_time_zone("UTC").alias(name) for name in ("opened", "closed"))
    trades.drop("opened_ns", "closed_ns").select("symbol", "strategy", "side", "opened", "closed", pl.exclude(
        "symbol", "strategy", "side", "opened", "closed")).write_parquet(folder / "trades.parquet")
    pl.DataFrame({"time_ns": results.times, "equity": results.equity, "drawdown_pct": results.drawdown_pct}).with_columns(
        pl.from_epoch("time_ns", time_unit="ns").dt.replace_time_zone("UTC").alias("time")).select("time", "equity", "drawdown_pct").write_parquet(
        folder / "equity.parquet")


def by_symbol(results: Results) -> list[dict[str, Any]]:
    """The figures of each symbol, those that were never traded too."""
    rows = []
    for symbol in results.prices:
        trips = [trip for trip in results.trips if trip.symbol == symbol]
        pnl = [trip.pnl for trip in trips]
        rows.append({
            "symbol": symbol, "trades": len(trips), "wins": sum(one > 0 for one in pnl), "pnl": sum(pnl), "fees": sum(trip.fees for trip in trips),
            "best": max(pnl, default=0.0), "worst": min(pnl, default=0.0),
            "held_s": sum(trip.closed_ns - trip.opened_ns for trip in trips) / 1e9 / max(1, len(trips))})
    return rows
