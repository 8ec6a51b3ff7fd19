"""The end of a run in figures: `summary.json` and `fills.bin` in its folder, made after the children and before the segments go.

Trades, fills and plans come from the journal (this run's incarnation), ticks and latencies from shared memory; `reconciled` covers the
whole life of the account. fills.bin is an array of FILL in report order, without wall clock and pids, so that equal runs give equal bytes.
"""

from __future__ import annotations

import datetime
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from control.record import reconcile as reconciliation
from control.record.journal import Journal
from hotpath.durable import replace_file
from hotpath.orders import client_order_id
from ipc import layout as l
from ipc.segment import Memory

#: one fill: price in ticks, lots signed (+ buy), fee in quanta
FILL: Final = np.dtype([("symbol", "S32"), ("order_id", "S16"), ("event_ns", "<i8"), ("price", "<i8"), ("lots", "<i8"), ("fee", "<i8")])
#: what a summary of the simulated market says of itself
SIMULATED_NOTICE: Final = "SIMULATED MARKET: results mean nothing"
#: quantiles of a latency, by name
QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
#: bits of a key `incarnation << 40 | sequence` that are the sequence
_SEQUENCE = (1 << 40) - 1
#: records that ask the gateway for something
_INTENTS = (l.NEW, l.CANCEL, l.AMEND, l.CANCEL_ALL)
#: report kinds that say an order never came to the venue
_NEVER_SENT = (l.UNKNOWN, l.LOST)

_encode = msgspec.json.Encoder(decimal_format="number").encode


class RunFacts(Struct, frozen=True, kw_only=True):
    """What launch knows of a run. `duration_s` is wall time; `ledger_dir` is None for a venue without a ledger of ours."""

    mode: str
    market: str
    run_dir: str
    state_dir: str
    started_wall_ns: int
    duration_s: float
    instance_number: int = 0


class Latencies(Struct, frozen=True):
    """Quantiles in ns, each the upper edge of its bucket (at most 3.2 % above)."""

    p50: int = 0
    p99: int = 0
    p999: int = 0
    max: int = 0


class Summary(Struct, kw_only=True, omit_defaults=False):
    """summary.json. Cash in units of the account currency, exact; win_rate is null without trades.

    intents = NEW, CANCEL, AMEND and CANCEL_ALL records; orders = those that reached the venue; conditions_armed = conditions of all
    plans up to the last one that the sniper swapped in; equity_start = deposits of this run, or the equity with which it resumed.
    """

    mode: str
    market: str
    started_at: str
    duration_s: float
    wait_strategy: str
    ticks_published: int
    ticks_processed: int
    ticks_lost: int
    conditions_armed: int
    intents: int
    orders: int
    fills: int
    trades_closed: int
    exit_reasons: dict[str, int]
    refusals: dict[str, int]
    win_rate: float | None
    realised_pnl: Decimal
    fees: Decimal
    equity_start: Decimal
    equity_end: Decimal
    max_drawdown_pct: float
    reconciled: bool
    restarts: dict[str, int]
    decision_ns: Latencies
    tick_to_intent_ns: Latencies


def write_summary(facts: RunFacts, memory: Memory) -> dict[str, Any]:
    """Write summary.json and fills.bin into the run's folder; gives the summary as it was written, as built-in types.

    Six keys are there only when they have something to say: `notice` (simulated market), `differences` (not reconciled), `uncompared` (what
    `reconciled` does not cover), `data_unread` (recordings that could not be read to their end), `data_fault` (what was wrong inside of others),
    `foreknowledge` (a model was asked about the past).
    """
    journal = Journal(Path(facts.state_dir) / "journal")
    try:
        incarnation = int(memory.board.cursors[0]["incarnation"])
        outcome = _reconcile(journal, Path(facts.state_dir) / "paper")
        summary = _summary(facts, memory, journal, incarnation, outcome.reconciled)
        data = {kind: [event.text for of, event in journal.events() if of == incarnation and event.kind == kind]
                for kind in ("data_unread", "data_fault", "foreknowledge")}
        fills = fills_of(journal, incarnation, facts.instance_number or int(memory.board.run[0]["instance_number"]))
    finally:
        journal.close()
    written = msgspec.to_builtins(summary, builtin_types=(Decimal,))
    if facts.market == "simulated":
        written["notice"] = SIMULATED_NOTICE
    if not outcome.reconciled:
        written["differences"] = outcome.differences
    if outcome.uncompared:
        written["uncompared"] = outcome.uncompared
    written.update({kind: texts for kind, texts in data.items() if texts})
    folder = Path(facts.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "fills.bin", fills.tobytes())
    replace_file(folder / "summary.json", msgspec.json.format(_encode(written), indent=2) + b"\n")
    return written


def fills_of(journal: Journal, incarnation: int, instance: int) -> np.ndarray[Any, Any]:
    """Every fill of an incarnation as FILL rows, in report order."""
    reports = journal.rows("reports", incarnation)
    reports = reports[reports["kind"] == l.FILL]
    facts = journal.instruments().get(incarnation, {})
    fills = np.zeros(len(reports), FILL)
    fills["symbol"] = [facts[k].symbol.encode() if k in facts else b"?" for k in reports["instrument"].tolist()]
    fills["order_id"] = [(client_order_id(instance, incarnation, own) if own else client_order_id(instance, earlier >> 40, earlier & _SEQUENCE))
                         .encode() for own, earlier in zip(reports["order_seq"].tolist(), reports["spare"].tolist(), strict=True)]
    fills["event_ns"], fills["price"], fills["fee"] = reports["event_ns"], reports["last_price"], reports["fee"]
    fills["lots"] = reports["last_lots"] * reports["side"]
    return fills


def _reconcile(journal: Journal, ledger_dir: Path) -> reconciliation.Outcome:
    try:
        ledger = reconciliation.read_ledger(ledger_dir)
    except reconciliation.LedgerUnreadable as error:
        outcome = reconciliation.reconcile(journal, None)
        return outcome._replace(reconciled=False, differences=[str(error), *outcome.differences])
    return reconciliation.reconcile(journal, ledger)


def _summary(facts: RunFacts, memory: Memory, journal: Journal, incarnation: int, reconciled: bool) -> Summary:
    orders, reports = journal.rows("orders", incarnation), journal.rows("reports", incarnation)
    trades, sniper, run = journal.rows("trades", incarnation), memory.sniper, memory.board.run[0]
    account = sniper.account[0]
    fills = reports[reports["kind"] == l.FILL]
    sent = reports[(reports["order_seq"] > 0) & ~np.isin(reports["kind"], _NEVER_SENT)]
    lost = int(memory.board.processes[l.SNIPER]["metrics"][l.METRICS[l.SNIPER].index("lost")])
    line = sniper.commit_lines[int(sniper.commit[0]["number"]) & 1]
    exponent = next((fact.quantum_exponent for fact in journal.instruments().get(incarnation, {}).values()), -8)
    swapped = int(orders["plan_seq"][orders["kind"] == l.SWAPPED].max(initial=0))
    reasons = Counter(l.EXIT_REASONS[min(reason, len(l.EXIT_REASONS) - 1)] for reason in trades["exit_reason"].tolist())
    wins = int((trades["pnl"] > 0).sum())

    def cash(quanta: int) -> Decimal:
        return Decimal(int(quanta)).scaleb(exponent)

    return Summary(
        mode=facts.mode, market=facts.market,
        started_at=datetime.datetime.fromtimestamp(facts.started_wall_ns / 1e9, datetime.UTC).isoformat(timespec="milliseconds"),
        duration_s=round(facts.duration_s, 3), wait_strategy=l.WAIT_STRATEGIES[int(run["wait_strategy"])],
        ticks_published=int(memory.ticks.ring[0]["head"]), ticks_processed=int(line["ticks"]), ticks_lost=lost,
        conditions_armed=_conditions_armed(journal, incarnation, swapped),
        intents=int(np.isin(orders["kind"], _INTENTS).sum()), orders=len(np.unique(sent["order_seq"])), fills=len(fills),
        trades_closed=len(trades), exit_reasons=dict(reasons),
        refusals={name: int(count) for name, count in zip(l.REFUSALS, sniper.refusals, strict=False) if count},
        win_rate=round(wins / len(trades), 4) if len(trades) else None,
        realised_pnl=cash(trades["pnl"].sum()), fees=cash(fills["fee"].sum()),
        equity_start=cash(_equity_start(journal, incarnation, reports)), equity_end=cash(equity_of(memory)),
        max_drawdown_pct=round(int(account["max_drawdown_e6"]) / 1e4, 4), reconciled=reconciled,
        restarts={name: int(memory.board.processes[role]["restarts"]) for role, name in enumerate(l.ROLES)},
        decision_ns=latencies(sniper.decision_hist), tick_to_intent_ns=latencies(sniper.tick_to_intent_hist),
    )


def _conditions_armed(journal: Journal, incarnation: int, swapped: int) -> int:
    """Conditions of a run's plans up to the last one that was swapped in; of those in parts only the whole ones."""
    armed = 0
    coming: dict[str, int] = {}
    for of, plan in journal.plans():
        if of == incarnation and plan.plan_seq <= swapped:
            coming[plan.strategy] = len(plan.conditions) + (coming.get(plan.strategy, 0) if plan.part else 0)
            if not plan.more:
                armed += coming.pop(plan.strategy)
    return armed


def _equity_start(journal: Journal, incarnation: int, reports: np.ndarray[Any, Any]) -> int:
    """What the run resumed with, plus what was deposited in it."""
    start = journal.run_starts().get(incarnation)
    deposits = int(reports[(reports["kind"] == l.BALANCE) & (reports["code"] == 0)]["balance"].sum())
    return deposits + (int(start.data.get("equity_start", 0)) if start else 0)


def equity_of(memory: Memory) -> int:
    """The sniper's cash plus what its open positions are worth at the last quote, in quanta; the account's own figure is a tick older."""
    sniper, total = memory.sniper, int(memory.sniper.account[0]["cash"])
    for row in np.flatnonzero(sniper.positions["lots"] > 0).tolist():
        position, state = sniper.positions[row], sniper.instrument_states[row // l.MAX_STRATEGIES]
        instrument = memory.instruments.instruments[row // l.MAX_STRATEGIES]
        side, cost = int(position["side"]), int(position["cost"])
        mark = int(state["bid"] if side > 0 else state["ask"]) or int(state["last"])
        value = mark * int(position["lots"]) * int(instrument["value_quanta"]) if mark else cost
        total += value if instrument["kind"] == l.KIND_SPOT else side * (value - cost)
    return total


# ── latency histograms ───────────────────────────────────────────────────────────────────────────────────────────────
def bucket_of(value: int) -> int:
    """Bucket of a value ≥ 0: itself below 32, then 32 buckets per power of two; the same as the kernel's, written once more."""
    if value < l.HIST_SUB:
        return max(value, 0)
    exponent = value.bit_length() - 6
    return min((exponent + 1) * l.HIST_SUB + (value >> exponent) - l.HIST_SUB, l.HIST_BUCKETS - 1)


def value_of(bucket: int) -> int:
    """Largest value of a bucket; the last bucket also holds everything above it."""
    if bucket < 2 * l.HIST_SUB:
        return bucket
    exponent, sub = divmod(bucket, l.HIST_SUB)
    return ((l.HIST_SUB + sub + 1) << (exponent - 1)) - 1


def latencies(histogram: Any) -> Latencies:
    """Quantiles of a histogram; zeros where nothing was counted."""
    counts = np.asarray(histogram, np.int64)
    total = int(counts.sum())
    if not total:
        return Latencies()
    reached = np.cumsum(counts)
    quantiles = {name: value_of(int(np.searchsorted(reached, max(1, -(-total * int(share * 1000) // 1000)))))
                 for name, share in QUANTILES.items()}
    return Latencies(**quantiles, max=value_of(int(np.flatnonzero(counts)[-1])))
