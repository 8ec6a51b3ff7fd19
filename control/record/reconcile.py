"""Reconciliation: cash, positions, fees and P&L recomputed from the journal alone, and compared with the ledger to the last quantum.

Pure Python on purpose, and nothing here is shared with the sniper, the venue or the ledger: an error that both sides made together would
otherwise cancel out. The rules (integers; quanta of the account currency):

- A fill is worth quote = price ticks × lots × value_quanta; its fee is ⌈quote × fee_e8 / 10^8⌉ of the maker or taker rate.
- Spot: a buy takes quote + fee from the cash, a sale adds quote − fee.
- Linear perpetual: the fee always leaves the cash. Opening adds quote to the cost. Closing c of n lots removes ⌊cost × c / n⌋ (all of
  it with the last lot) and adds side × (quote − removed) to the cash. A fill through zero closes first, then opens with the rest.

Three accounts are made: the venue's (netted by instrument, all incarnations) against the ledger; each position's against its CLOSED record;
and the sum of the positions against the sniper's own book in the last snapshot, where that is up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgspec

from control.record.journal import Journal
from control.record.records import InstrumentFact, JournalError, Record
from ipc import layout as l

#: differences that are told; more of them are counted
MOST_TOLD = 50


class LedgerState(NamedTuple):
    """What the paper ledger says: quanta; positions {symbol: (signed lots, cost)}; `venue_seq` = number of its last event."""

    cash: int
    positions: dict[str, tuple[int, int]]
    fees: int
    deposits: int
    realised: int
    venue_seq: int
    #: event time of the last commit
    event_ns: int = 0


class LedgerUnreadable(Exception):
    """There is no ledger at the path, or it is not one."""


@dataclass
class Holding:
    """Signed lots, and for a perpetual what they were opened at."""

    lots: int = 0
    cost: int = 0


@dataclass
class Account:
    """The venue's account as the reports make it."""

    cash: int = 0
    deposits: int = 0
    fees: int = 0
    realised: int = 0
    holdings: dict[str, Holding] = field(default_factory=dict)


@dataclass
class Trip:
    """A position by its fills: what went in, what came out, what is left at which cost."""

    name: str
    symbol: str
    side: int = 0
    lots: int = 0
    cost: int = 0
    entry_lots: int = 0
    entry_quote: int = 0
    exit_quote: int = 0
    fees: int = 0
    closed: tuple[int, int, int] | None = None  # lots, pnl, fees of the CLOSED record


class Outcome(NamedTuple):
    """Equal or not, what differs in words, what was computed, and why the sniper's own book was left out ("" where it was not)."""

    reconciled: bool
    differences: list[str]
    account: Account
    uncompared: str = ""


def read_ledger(folder: Path | str) -> LedgerState:
    """The paper ledger as last committed, read-only and in these few lines alone. Raises LedgerUnreadable."""
    try:
        with lmdb.open(str(folder), max_dbs=8, readonly=True, create=False) as env, env.begin() as transaction:
            databases = {name: env.open_db(name, transaction, create=False) for name in (b"meta", b"positions")}
            stored = transaction.get(b"ledger", db=databases[b"meta"])
            if stored is None:
                return LedgerState(0, {}, 0, 0, 0, 0)
            meta = msgspec.msgpack.decode(stored)
            held = [msgspec.msgpack.decode(value) for _, value in transaction.cursor(databases[b"positions"])]
    except (lmdb.Error, msgspec.DecodeError) as error:
        raise LedgerUnreadable(f"{folder}: {error}; is that the state folder of a paper account?") from error
    return LedgerState(meta["cash"], {one["symbol"]: (one["lots"], one["cost"]) for one in held}, meta["fees"], meta["deposits"],
                       meta["realised"], meta["venue_seq"], meta.get("event_ns", 0))


def reconcile(journal: Journal, ledger: LedgerState | None) -> Outcome:
    """Recompute everything from the first record on, and compare; without a ledger the journal is compared with itself only."""
    work = Recomputation(journal)
    try:
        work.read()
        work.compare_trips()
        work.compare_book()
        if ledger is not None:
            work.compare_ledger(ledger)
    except JournalError as error:
        work.tell(str(error))
    told = work.differences
    if len(told) > MOST_TOLD:
        told = [*told[:MOST_TOLD], f"… and {len(told) - MOST_TOLD} more"]
    return Outcome(not work.differences, told, work.account, work.uncompared)


def _order_key(incarnation: int, row: Any) -> tuple[int, int]:
    """(incarnation, sequence) of a report's order: of its own run, or of an earlier one, which stands in `spare`."""
    own, earlier = int(row["order_seq"]), int(row["spare"])
    return (incarnation, own) if own else (earlier >> 40, earlier & ((1 << 40) - 1))


class _Order(NamedTuple):
    side: int
    purpose: int
    lots: int
    symbol: str
    position_id: int
    strategy: str = ""


class Recomputation:
    """The three accounts as they grow, record by record: `account` (the venue's), `trips` by position id, `book` (the sniper's cash)."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.account = Account()
        self.differences: list[str] = []
        self._facts = journal.instruments()
        self._strategies = {incarnation: list(event.data.get("strategies", ())) for incarnation, event in journal.run_starts().items()}
        #: the newest position of each strategy in each symbol
        self._positions: dict[tuple[str, str], int] = {}
        self._orders: dict[tuple[int, int], _Order] = {}
        self._filled: dict[tuple[int, int], tuple[int, int]] = {}
        self._fills: dict[int, str] = {}
        self.trips: dict[int, Trip] = {}
        self.book = 0  # the sniper's cash: deposits and what each position by itself has moved
        self._book_knows_all = True
        self._venue_seq = 0
        self._drift = 0
        self._last_report = (0, 0)
        self.uncompared = ""

    def tell(self, difference: str) -> None:
        self.differences.append(difference)

    # ── from the first record on ─────────────────────────────────────────────────────────────────────────────────────
    def read(self) -> None:
        """The whole journal."""
        for record in self.journal.orders():
            self.order(record)
        for record in self.journal.reports():
            self.report(record)
        for record in self.journal.trades():
            self.trade(record)

    def order(self, record: Record) -> None:
        """An order-ring record, before any report about it."""
        row = record.row
        if row["kind"] == l.NEW:
            fact = self._facts.get(record.incarnation, {}).get(int(row["instrument"]))
            self._orders[record.incarnation, record.seq] = _Order(int(row["side"]), int(row["purpose"]), int(row["lots"]),
                                                                 fact.symbol if fact else "", int(row["position_id"]),
                                                                 self._strategy(record.incarnation, int(row["strategy"])))

    def trade(self, record: Record) -> None:
        """A CLOSED record, behind the fills of its position."""
        trade = record.row
        trip = self.trips.get(int(trade["position_id"]))
        name = f"trade {record.incarnation}/{record.seq} (position {int(trade['position_id'])})"
        if trip is None:
            self.tell(f"{name} was closed, but no fill of it is in the journal")
        elif trip.closed is not None:
            self.tell(f"{name} was closed twice")
        else:
            trip.closed = (int(trade["lots"]), int(trade["pnl"]), int(trade["fees"]))

    def _strategy(self, incarnation: int, number: int) -> str:
        return dict(enumerate(self._strategies.get(incarnation, []))).get(number, "")

    def _announced(self, record: Record) -> None:
        """An order of the gateway itself: it closes what its strategy holds there. No record of the order ring stands for it."""
        row = record.row
        fact, strategy = self._facts.get(record.incarnation, {}).get(int(row["instrument"])), self._strategy(record.incarnation, int(row["code"]))
        if fact is not None and (position := self._positions.get((strategy, fact.symbol))) is not None:
            order = _Order(int(row["side"]), l.EXIT, int(row["last_lots"]), fact.symbol, position, strategy)
            self._orders[_order_key(record.incarnation, row)] = order

    def report(self, record: Record) -> None:
        """A report, in the order of the report ring."""
        row = record.row
        kind, venue_seq = int(row["kind"]), int(row["venue_seq"])
        self._last_report = (record.incarnation, record.seq)
        name = f"{l.REPORT_KINDS.get(kind, 'report')} {record.incarnation}/{record.seq}"
        if venue_seq > 0:
            if venue_seq <= self._venue_seq:
                self.tell(f"{name} repeats venue event {venue_seq}: it is in the journal twice")
                if kind == l.FILL:
                    name += " (twice)"
            elif venue_seq > self._venue_seq + 1:
                first, last = self._venue_seq + 1, venue_seq - 1
                self.tell(f"venue event{f' {first}' if first == last else f's {first} to {last}'} before {name} "
                          f"{'is' if first == last else 'are'} missing from the journal")
            self._venue_seq = max(self._venue_seq, venue_seq)
        self.money(record, row, name)

    def money(self, record: Record, row: Any, name: str) -> None:
        """What a report (with its row and name) moves: fills and balances do."""
        kind = int(row["kind"])
        if kind == l.BALANCE:
            self._balance(name, int(row["code"]), int(row["balance"]))
        elif kind == l.ANNOUNCED:
            self._announced(record)
        elif kind == l.FILL:
            self._fill(record, name, row)

    def _balance(self, name: str, code: int, balance: int) -> None:
        if code == 0:
            self.account.cash += balance
            self.account.deposits += balance
            self.book += balance
        elif balance != self.account.cash + self._drift:
            self.tell(f"{name}: the venue states {balance} quanta of cash, the journal makes {self.account.cash + self._drift}")
            self._drift = balance - self.account.cash

    def _fill(self, record: Record, name: str, row: Any) -> None:
        fact = self._facts.get(record.incarnation, {}).get(int(row["instrument"]))
        trade_id, key = int(row["trade_id"]), _order_key(record.incarnation, row)
        name = f"fill {trade_id} of order {key[0]}/{key[1]} ({fact.symbol if fact else 'unknown instrument'}, {name})"
        if fact is None:
            self.tell(f"{name}: the journal has no run_start that knows instrument {int(row['instrument'])}")
            return
        if trade_id in self._fills:
            self.tell(f"{name} is there twice, first as {self._fills[trade_id]}")
        self._fills[trade_id] = f"{record.incarnation}/{record.seq}"
        side, lots, price, fee = int(row["side"]), int(row["last_lots"]), int(row["last_price"]), int(row["fee"])
        quote = price * lots * fact.value_quanta
        self._check_fee(name, fact, quote, fee, int(row["liquidity"]))
        self._check_cumulative(key, name, quote, lots, int(row["cum_lots"]), int(row["cum_quote"]))
        self._venue(fact, side, lots, quote, fee)
        self._check_balance(name, int(row["balance"]))
        order = self._orders.get(key) or self._unjournaled_exit(fact.symbol, side, key, record)
        if order is None:
            self.tell(f"{name}: the journal has no such order")
            self._book_knows_all = False
        elif (order.side, order.symbol) != (side, fact.symbol):
            self.tell(f"{name}: the order was of another side or instrument")
        else:
            self._position(fact, order, lots, quote, fee)

    def _unjournaled_exit(self, symbol: str, side: int, key: tuple[int, int], record: Record) -> _Order | None:
        """An exit does not wait for the journal, so a run that ended at once may have sent one that it never stored. It can only have closed a
        position of its symbol and the other side; where exactly one is open, it is that one's. Told by the next run, under its key."""
        open_there = [(position, trip) for position, trip in self.trips.items() if trip.symbol == symbol and trip.lots and trip.side == -side]
        if key[0] == record.incarnation or len(open_there) != 1:
            return None
        order = self._orders[key] = _Order(side, l.EXIT, open_there[0][1].lots, symbol, open_there[0][0])
        return order

    def _check_fee(self, name: str, fact: InstrumentFact, quote: int, fee: int, liquidity: int) -> None:
        rate = fact.maker_fee_e8 if liquidity == l.MAKER else fact.taker_fee_e8
        expected = -(-quote * rate // 10**8)
        if fee != expected:
            self.tell(f"{name}: fee {fee}, but {expected} quanta by the {'maker' if liquidity == l.MAKER else 'taker'} rate")

    def _check_cumulative(self, key: tuple[int, int], name: str, quote: int, lots: int, cum_lots: int, cum_quote: int) -> None:
        lots_before, quote_before = self._filled.get(key, (0, 0))
        if lots <= 0:
            self.tell(f"{name}: {lots} lots")
        if (lots_before + lots, quote_before + quote) != (cum_lots, cum_quote):
            self.tell(f"{name}: {lots} lots for {quote} quanta after {lots_before} for {quote_before} do not make "
                      f"the stated {cum_lots} for {cum_quote}")
        order = self._orders.get(key)
        if order is not None and cum_lots > order.lots:
            self.tell(f"{name}: {cum_lots} lots filled of {order.lots} ordered")
        self._filled[key] = (cum_lots, cum_quote)

    def _check_balance(self, name: str, stated: int) -> None:
        """A venue that states its cash with each fill lets the first wrong one be named; what follows is measured against that."""
        if stated and stated != self.account.cash + self._drift:
            self.tell(f"{name}: the venue's cash after it is {stated} quanta, the journal makes {self.account.cash + self._drift}")
            self._drift = stated - self.account.cash

    # ── the three accounts ───────────────────────────────────────────────────────────────────────────────────────────
    def _venue(self, fact: InstrumentFact, side: int, lots: int, quote: int, fee: int) -> None:
        """A fill into the venue's netted account."""
        account, held = self.account, self.account.holdings.setdefault(fact.symbol, Holding())
        account.fees += fee
        account.cash -= fee
        if fact.kind == "spot":
            account.cash -= side * quote
            held.lots += side * lots
            return
        left, left_quote = lots, quote
        if held.lots * side < 0:
            own = abs(held.lots)
            closing = min(lots, own)
            closing_quote = quote if closing == lots else quote // lots * closing  # the price is whole ticks: quote divides by lots
            removed = held.cost if closing == own else held.cost * closing // own
            gain = -side * (closing_quote - removed)
            account.cash += gain
            account.realised += gain
            held.cost -= removed
            held.lots += side * closing
            left, left_quote = lots - closing, quote - closing_quote
        held.lots += side * left
        held.cost += left_quote

    def _position(self, fact: InstrumentFact, order: _Order, lots: int, quote: int, fee: int) -> None:
        """A fill into its position's own account, and what that does to the sniper's cash."""
        trip = self.trips.setdefault(order.position_id, Trip(f"position {order.position_id} ({fact.symbol})", fact.symbol))
        trip.fees += fee
        self.book -= fee
        spot = fact.kind == "spot"
        if order.purpose == l.ENTRY:
            self._positions[order.strategy, fact.symbol] = order.position_id
            trip.side = order.side
            trip.lots += lots
            trip.entry_lots += lots
            trip.entry_quote += quote
            trip.cost += quote
            self.book -= quote if spot else 0
            return
        if lots > trip.lots:
            self.tell(f"{trip.name}: {lots} lots closed of {trip.lots} held")
        removed = trip.cost if lots >= trip.lots else trip.cost * lots // trip.lots
        trip.cost -= removed
        trip.lots -= lots
        trip.exit_quote += quote
        self.book += quote if spot else trip.side * (quote - removed)

    # ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────
    def compare_trips(self) -> None:
        for trip in self.trips.values():
            if trip.closed is None:
                continue
            made = (trip.entry_lots, trip.side * (trip.exit_quote - trip.entry_quote) - trip.fees, trip.fees)
            if trip.lots:
                self.tell(f"{trip.name} was closed, but by its fills {trip.lots} lots are still open")
            for what, stated, computed in zip(("lots", "P&L", "fees"), trip.closed, made, strict=True):
                if stated != computed:
                    self.tell(f"{trip.name}: its trade record says {what} {stated}, its fills make {computed}")

    def compare_book(self) -> None:
        """The sniper's cash and positions in the last snapshot, if no report came after it."""
        snapshot = self.journal.last_snapshot()
        if snapshot is None or (snapshot.incarnation, snapshot.report_seq) != self._last_report:
            if self._last_report != (0, 0):
                self.uncompared = "the sniper's book: its last snapshot is older than the last report"
            return
        if not self._book_knows_all:
            self.uncompared = "the sniper's book: an exit was filled that the journal does not know"
            return
        if snapshot.account.cash != self.book:
            self.tell(f"the sniper's cash is {snapshot.account.cash} quanta, the journal makes {self.book}")
        held = {position.position_id: position.lots for position in snapshot.positions if position.lots}
        for identity, trip in self.trips.items():
            if held.pop(identity, 0) != trip.lots:
                self.tell(f"{trip.name}: the sniper's lots are not the {trip.lots} that its fills make")
            elif not trip.lots and trip.closed is None:
                self.tell(f"{trip.name} is flat by its fills, but has no trade record")
        for identity, lots in held.items():
            self.tell(f"position {identity}: the sniper holds {lots} lots that no fill made")

    def compare_ledger(self, ledger: LedgerState) -> None:
        made = self.account
        for what, stated, computed in (("cash", ledger.cash, made.cash), ("fees", ledger.fees, made.fees),
                                       ("deposits", ledger.deposits, made.deposits), ("realised P&L", ledger.realised, made.realised)):
            if stated != computed:
                self.tell(f"{what}: the ledger has {stated} quanta, the journal makes {computed} ({computed - stated:+})")
        for symbol in sorted(ledger.positions.keys() | made.holdings.keys()):
            lots, cost = ledger.positions.get(symbol, (0, 0))
            held = made.holdings.get(symbol, Holding())
            if lots != held.lots:
                self.tell(f"{symbol}: the ledger holds {lots} lots, the journal makes {held.lots} ({held.lots - lots:+})")
            if cost != held.cost:
                self.tell(f"{symbol}: the ledger's cost is {cost} quanta, the journal makes {held.cost} ({held.cost - cost:+})")
        if ledger.venue_seq > self._venue_seq:
            self.tell(f"venue events {self._venue_seq + 1} to {ledger.venue_seq} of the ledger are missing from the journal")
        if ledger.venue_seq < self._venue_seq:
            self.tell(f"venue events {ledger.venue_seq + 1} to {self._venue_seq} of the journal are missing from the ledger")
