"""A little market day, written into a journal by hand: what the tests of journal, queries, reconciliation and summary look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from control.record import snapshot as snapshots
from control.record.reconcile import LedgerState
from control.record.records import InstrumentFact
from control.record.writer import JournalWriter
from ipc import layout as l
from ipc import messages

#: 10,000 USDT in quanta of 1e-8
DEPOSIT = 10_000 * 10**8
#: event time of the first record
NOON_NS = 1_700_000_000_000_000_000
SPOT = InstrumentFact(id=0, symbol="BTC/USDT", kind="spot", quote="USDT", tick_mantissa=1, tick_exponent=-2, lot_mantissa=1,
                      lot_exponent=-5, value_quanta=10, quantum_exponent=-8, maker_fee_e8=100_000, taker_fee_e8=100_000)
PERPETUAL = InstrumentFact(id=1, symbol="ETH/USDT:USDT", kind="linear_perpetual", quote="USDT", tick_mantissa=1, tick_exponent=-2,
                           lot_mantissa=1, lot_exponent=-3, value_quanta=1000, quantum_exponent=-8, maker_fee_e8=20_000,
                           taker_fee_e8=50_000)
INSTRUMENTS = (SPOT, PERPETUAL)
RUN_FACTS: dict[str, Any] = {"run_id": "scene", "mode": "paper", "strategies": ["momentum", "mean_reversion"],
                             "instruments": [msgspec.to_builtins(fact) for fact in INSTRUMENTS]}


class Scene:
    """Collects ring records; `write` stores them. Positions are numbered by their entry's sequence, as the sniper does."""

    def __init__(self) -> None:
        self.orders = np.zeros(0, l.INTENT)
        self.reports = np.zeros(0, l.REPORT)
        self.cash, self.fees, self.realised = 0, 0, 0
        self._filled: dict[int, tuple[int, int]] = {}

    def _order(self, **fields: int) -> int:
        row = np.zeros(1, l.INTENT)
        row["seq"] = len(self.orders) + 1
        row["event_ns"] = NOON_NS + 10**9 * len(self.orders)
        row["report_seq"] = len(self.reports)
        for name, value in fields.items():
            row[name] = value
        self.orders = np.concatenate([self.orders, row])
        return len(self.orders)

    def _report(self, **fields: int) -> int:
        row = np.zeros(1, l.REPORT)
        row["seq"] = row["venue_seq"] = len(self.reports) + 1
        row["event_ns"] = self.orders["event_ns"][-1] + 1 if len(self.orders) else NOON_NS
        for name, value in fields.items():
            row[name] = value
        self.reports = np.concatenate([self.reports, row])
        return len(self.reports)

    def deposit(self, quanta: int) -> None:
        """A BALANCE report."""
        self.cash += quanta
        self._report(kind=l.BALANCE, balance=quanta)

    def swapped(self, plan_seq: int) -> None:
        """The sniper has taken a plan."""
        self._order(kind=l.SWAPPED, plan_seq=plan_seq, value=1)

    def refused(self, instrument: InstrumentFact) -> None:
        """The gate has said no."""
        self._order(kind=l.REFUSED, instrument=instrument.id, code=l.REF_CONFIDENCE)

    def enter(self, instrument: InstrumentFact, side: int, lots: int, strategy: int = 0, condition: int = 0) -> int:
        """NEW entry, accepted; gives its sequence, which is the position's number too."""
        seq = self._order(kind=l.NEW, purpose=l.ENTRY, side=side, order_type=l.MARKET, instrument=instrument.id, strategy=strategy,
                          lots=lots, order_seq=len(self.orders) + 1, position_id=len(self.orders) + 1, condition_id=condition,
                          plan_seq=condition >> 20)
        self._report(kind=l.ACCEPTED, order_seq=seq, side=side, instrument=instrument.id)
        return seq

    def leave(self, position: int, lots: int, reason: int = l.EXIT_STOP) -> int:
        """NEW exit of a position, accepted."""
        entry = self.orders[position - 1]
        side = -int(entry["side"])
        seq = self._order(kind=l.NEW, purpose=l.EXIT, side=side, order_type=l.MARKET, instrument=int(entry["instrument"]),
                          strategy=int(entry["strategy"]), lots=lots, order_seq=len(self.orders) + 1, position_id=position, code=reason,
                          condition_id=int(entry["condition_id"]), plan_seq=int(entry["plan_seq"]))
        self._report(kind=l.ACCEPTED, order_seq=seq, side=side, instrument=int(entry["instrument"]))
        return seq

    def fill(self, order: int, lots: int, price: int, cash: int, realised: int = 0, liquidity: int = l.TAKER) -> int:
        """FILL; `cash` and `realised` are what the test's author says it moves, fee included. Gives the report's sequence."""
        new = self.orders[order - 1]
        fact = INSTRUMENTS[int(new["instrument"])]
        quote = price * lots * fact.value_quanta
        rate = fact.maker_fee_e8 if liquidity == l.MAKER else fact.taker_fee_e8
        fee = (quote * rate + 10**8 - 1) // 10**8
        before = self._filled.get(order, (0, 0))
        total = self._filled[order] = (before[0] + lots, before[1] + quote)
        self.cash += cash
        self.realised += realised
        self.fees += fee
        return self._report(kind=l.FILL, order_seq=order, side=int(new["side"]), instrument=fact.id, liquidity=liquidity, last_lots=lots,
                            last_price=price, fee=fee, cum_lots=total[0], cum_quote=total[1], trade_id=len(self.reports) + 1)

    def fills_of_earlier(self, fact: InstrumentFact, side: int, lots: int, price: int, key: int, trade_id: int) -> None:
        """FILL of an order of an earlier incarnation, which its key names."""
        quote = price * lots * fact.value_quanta
        seq = self._report(kind=l.FILL, side=side, instrument=fact.id, liquidity=l.TAKER, last_lots=lots, last_price=price, cum_lots=lots,
                           cum_quote=quote, fee=(quote * fact.taker_fee_e8 + 10**8 - 1) // 10**8, trade_id=trade_id, spare=key)
        self.reports["venue_seq"][seq - 1] = trade_id

    def closed(self, position: int, lots: int, entry_price: int, exit_price: int, pnl: int, fees: int, reason: int = l.EXIT_STOP) -> None:
        """CLOSED record of a position."""
        entry = self.orders[position - 1]
        self._order(kind=l.CLOSED, purpose=l.EXIT, side=int(entry["side"]), instrument=int(entry["instrument"]), lots=lots,
                    strategy=int(entry["strategy"]), position_id=position, condition_id=int(entry["condition_id"]),
                    plan_seq=int(entry["plan_seq"]))
        trade = self.orders.view(l.TRADE)[-1]
        trade["entry_price"], trade["exit_price"], trade["pnl"], trade["fees"] = entry_price, exit_price, pnl, fees
        trade["exit_reason"], trade["opened_ns"] = reason, entry["event_ns"]

    def snapshot(self, positions: list[snapshots.Position]) -> snapshots.Snapshot:
        """The sniper's book after everything so far."""
        numbers = dict.fromkeys(snapshots.Account.__struct_fields__, 0)
        account = snapshots.Account(**numbers | {"cash": self.cash, "equity": self.cash, "event_ns": NOON_NS})
        return snapshots.Snapshot(commit=9, incarnation=1, event_ns=NOON_NS + 10**12, tick_seq=1000, intent_seq=len(self.orders),
                                  report_seq=len(self.reports), account=account, positions=positions, working=[],
                                  latched=[], entries_due_ns={})

    def write(self, folder: Path, plans: list[messages.Plan] | None = None, snapshot: snapshots.Snapshot | None = None) -> None:
        """Into a new journal."""
        writer = JournalWriter(folder, sync=False)
        writer.begin_run("scene", RUN_FACTS)
        writer.append(plans=plans or [])
        writer.append(self.orders, self.reports, snapshot=snapshot)
        writer.close()


def position_fact(fact: InstrumentFact, position_id: int, side: int, lots: int, cost: int) -> snapshots.Position:
    """A position in a snapshot."""
    numbers: dict[str, Any] = dict.fromkeys(snapshots.Position.__struct_fields__[2:], 0) | {"rung_bps": [0] * 4, "rung_share_e4": [0] * 4}
    return snapshots.Position(symbol=fact.symbol, strategy="momentum",
                              **numbers | {"position_id": position_id, "side": side, "lots": lots, "cost": cost, "state": l.POS_OPEN})


def market_day() -> tuple[Scene, LedgerState]:
    """Round trips in spot and perpetual, a fill through zero at the venue, and two positions that stay open; and what the ledger says.

    Every amount is worked out by hand below, none by code of the project.
    """
    day = Scene()
    day.deposit(DEPOSIT)
    day.swapped(1)
    # spot: buy 0.01 BTC in two fills at 60,000.00 and 60,006.01, sell all at 60,500.03
    a = day.enter(SPOT, l.BUY, 1000, condition=1 << 20)
    day.fill(a, 400, 6_000_000, cash=-(24_000_000_000 + 24_000_000))
    day.fill(a, 600, 6_000_601, cash=-(36_003_606_000 + 36_003_606))
    x = day.leave(a, 1000, l.EXIT_TARGET)
    day.fill(x, 1000, 6_050_003, cash=60_500_030_000 - 60_500_030)
    day.closed(a, 1000, 6_000_361, 6_050_003, pnl=60_500_030_000 - 60_003_606_000 - 120_503_636, fees=120_503_636, reason=l.EXIT_TARGET)
    # perpetual: short 0.011 ETH in two fills (7 at 3,000.00, 4 at 2,999.90); at the venue a long of 20 by another strategy crosses zero
    b = day.enter(PERPETUAL, l.SELL, 11, condition=1 << 20 | 1)
    day.fill(b, 7, 300_000, cash=-1_050_000)
    day.fill(b, 4, 299_990, cash=-599_980, liquidity=l.TAKER)
    # venue: cost 2,100,000,000 + 1,199,960,000 = 3,299,960,000 for −11 lots
    c = day.enter(PERPETUAL, l.BUY, 20, strategy=1)
    # 20 at 2,990.01: quote 5,980,020,000, fee 2,990,010; 11 of them close at 3,289,011,000: gain 3,299,960,000 − 3,289,011,000
    day.fill(c, 20, 299_001, cash=10_949_000 - 2_990_010, realised=10_949_000)
    # venue: +9 lots, cost 2,691,009,000. Maker fill of the short's exit: 11 bought at 2,980.00 → +20 lots, cost 5,969,009,000
    y = day.leave(b, 11)
    day.fill(y, 11, 298_000, cash=-655_600, liquidity=l.MAKER)
    day.closed(b, 11, 299_996, 298_000, pnl=3_299_960_000 - 3_278_000_000 - 2_305_580, fees=2_305_580)
    # the long sells 13 of 20 at 3,010.00: quote 3,913,000,000, fee 1,956,500; removed ⌊5,969,009,000 × 13 / 20⌋ = 3,879,855,850
    z = day.leave(c, 20, l.EXIT_TIME)
    day.fill(z, 13, 301_000, cash=3_913_000_000 - 3_879_855_850 - 1_956_500, realised=33_144_150)
    # spot stays open: 250 lots at 60,100.07: quote 15,025,017,500, fee 15,025,018 (rounded up from 15,025,017.5)
    d = day.enter(SPOT, l.BUY, 250)
    day.fill(d, 250, 6_010_007, cash=-(15_025_017_500 + 15_025_018))
    day.refused(PERPETUAL)
    return day, LedgerState(cash=day.cash, positions={"BTC/USDT": (250, 0), "ETH/USDT:USDT": (7, 5_969_009_000 - 3_879_855_850)},
                            fees=day.fees, deposits=DEPOSIT, realised=day.realised, venue_seq=len(day.reports))


def plan(strategy: str = "momentum", due_ns: int = NOON_NS, why: str = "range breakout") -> messages.Plan:
    """A plan of two conditions."""
    conditions = [messages.Condition(symbol="BTC/USDT", side="buy", level="60000", direction="up", confidence=0.8,
                                     size=messages.Size(kind="equity_bps", value="200"), why=f"{why} {k}", stop_bps=80) for k in (0, 1)]
    return messages.Plan(strategy=strategy, due_ns=due_ns, next_due_ns=due_ns + 30 * 10**9, why=why, conditions=conditions)
