"""Rules of money: the venue's account from its own events, the sniper's book from the journal's reports."""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from tests.storm.bookkeeping import Book
from tests.storm.evidence import Evidence


def account_of_the_venue(evidence: Evidence, tell: Any) -> None:
    """Cash, fees, realised profit, holdings and their parts from the events, in whole quanta and lots."""
    facts = {fact["symbol"]: fact for fact in evidence.facts.instruments}
    cash = fees = realised = deposits = 0
    held: dict[str, list[int]] = {}
    parts: dict[str, int] = {}
    drift = 0
    for event in evidence.venue_events:
        if event["kind"] == l.BALANCE and event["code"] == 0:
            cash += event["lots"]
            deposits += event["lots"]
        elif event["kind"] == l.FILL:
            fact, side, lots = facts[event["symbol"]], event["side"], event["lots"]
            quote = event["price"] * lots * int(fact["value_quanta"])
            rate = int(fact["taker_fee_e8" if event["liquidity"] == l.TAKER else "maker_fee_e8"])
            if event["fee"] != -(-quote * rate // 10**8):
                tell("cash", f"event {event['venue_seq']}: fee {event['fee']} for {quote} quanta at {rate}e-8")
            fees += event["fee"]
            cash -= event["fee"]
            holding = held.setdefault(event["symbol"], [0, 0])
            if fact["kind"] == "spot":
                cash -= side * quote
                holding[0] += side * lots
            else:
                gain = _net(holding, side, lots, quote)
                cash += gain
                realised += gain
            order = evidence.venue_orders.get(event["client_id"])
            if order is not None:
                name = f"{order['account']}|{event['symbol']}"
                parts[name] = parts.get(name, 0) + side * lots
        if event["balance"] != cash + drift:
            tell("cash", f"event {event['venue_seq']}: the ledger has {event['balance']} quanta behind it, its events make {cash + drift}")
            drift = event["balance"] - cash
    for name, made in (("cash", cash), ("fees", fees), ("realised", realised), ("deposits", deposits)):
        if evidence.account[name] != made:
            tell("cash", f"the ledger's {name} are {evidence.account[name]} quanta, its events make {made}")
    for symbol in sorted(held.keys() | evidence.holdings.keys()):
        stated = evidence.holdings.get(symbol, {"lots": 0, "cost": 0})
        if [stated["lots"], stated["cost"]] != held.get(symbol, [0, 0]):
            tell("holding", f"{symbol}: the ledger holds {stated['lots']} lots at {stated['cost']}, its events make {held.get(symbol, [0, 0])}")
    for name in sorted(parts.keys() | evidence.parts.keys()):
        if evidence.parts.get(name, 0) != parts.get(name, 0):
            tell("holding", f"{name}: the ledger has {evidence.parts.get(name, 0)} lots, its events make {parts.get(name, 0)}")


def _net(holding: list[int], side: int, lots: int, quote: int) -> int:
    """A fill into a netted perpetual [lots, cost]; gives what it realises."""
    per_lot, gain = quote // lots, 0
    if holding[0] * side < 0:
        own = abs(holding[0])
        closing = min(lots, own)
        removed = holding[1] if closing == own else holding[1] * closing // own
        gain = -side * (per_lot * closing - removed)
        holding[1] -= removed
        holding[0] += side * closing
        lots -= closing
    holding[0] += side * lots
    holding[1] += per_lot * lots
    return gain


def follow(evidence: Evidence, book: Book, tell: Any) -> None:
    """The book record by record; compared with each snapshot, and at the last commit with the sniper's memory. Takes all reports at the end."""
    snapshots = sorted(evidence.snapshots, key=lambda snapshot: int(snapshot["intent_seq"]))
    waiting = snapshots[::-1]
    line = evidence.image["sniper.commit_lines"][int(evidence.image["sniper.commit"][0]["number"]) & 1]
    for seq, row in evidence.orders:
        while waiting and int(waiting[-1]["intent_seq"]) < seq:
            _compare_snapshot(evidence, book, waiting.pop(), tell)
        book.intent(seq, row)
    while waiting:
        _compare_snapshot(evidence, book, waiting.pop(), tell)
    book.advance(int(line["report_seq"]))
    _compare_memory(evidence, book, int(line["intent_seq"]), tell)
    told = [trip for trip in book.trips.values() if trip.entry_lots and not trip.lots and not any(order.left for order in trip.orders)]
    if len(told) != len(evidence.trades):
        tell("trade", f"{len(told)} positions were opened and closed, {len(evidence.trades)} trades are journaled")
    book.advance(len(evidence.reports))
    lots: dict[str, int] = {}
    for trip in book.trips.values():
        name = f"{evidence.facts.strategies[trip.strategy]}|{evidence.facts.instruments[trip.instrument]['symbol']}"
        lots[name] = lots.get(name, 0) + trip.side * trip.lots
    for name in sorted(lots.keys() | evidence.parts.keys()):
        if lots.get(name, 0) != evidence.parts.get(name, 0):
            tell("book", f"{name}: the journal's fills make {lots.get(name, 0)} lots, the venue has {evidence.parts.get(name, 0)}")


def _compare_snapshot(evidence: Evidence, book: Book, snapshot: dict[str, Any], tell: Any) -> None:
    book.advance(int(snapshot["report_seq"]))
    what = f"snapshot at commit {snapshot['commit']}"
    _compare_account(what, snapshot["account"], book, int(snapshot["intent_seq"]), tell)
    _compare_positions(what, {int(row["position_id"]): row for row in snapshot["positions"]}, book, tell)


def _compare_memory(evidence: Evidence, book: Book, intent_seq: int, tell: Any) -> None:
    if intent_seq != len(evidence.orders):
        tell("book", f"the sniper has made {intent_seq} records, the journal has {len(evidence.orders)}")
    rows = evidence.image["sniper.positions"]
    _compare_account("the sniper's memory", evidence.image["sniper.account"][0], book, intent_seq, tell)
    _compare_positions("the sniper's memory", {int(row["position_id"]): row for row in rows if int(row["state"]) != l.POS_FLAT}, book, tell)


def _compare_account(what: str, account: Any, book: Book, intent_seq: int, tell: Any) -> None:
    working = sum(1 for seq, order in book.orders.items() if seq <= intent_seq and not order.ends)
    for name, made in (("cash", book.cash), ("fees", book.fees), ("realised_pnl", book.realised), ("trades_closed", book.closed),
                       ("working_orders", working)):
        if int(account[name]) != made:
            tell("book", f"{what}: {name} is {int(account[name])}, the journal makes {made}")


def _compare_positions(what: str, stated: dict[int, Any], book: Book, tell: Any) -> None:
    for identity, trip in book.trips.items():
        row = stated.pop(identity, None)
        if row is None:
            if trip.lots:
                tell("book", f"{what}: position {identity} of {trip.lots} lots is not there")
            continue
        made = (trip.side, trip.lots, trip.entry_lots, trip.entry_quote, trip.exit_lots, trip.exit_quote, trip.cost, trip.fees, trip.exits_left())
        names = ("side", "lots", "entry_lots", "entry_quote", "exit_lots", "exit_quote", "cost", "fees", "exit_working_lots")
        found = tuple(int(row[name]) for name in names)
        if found != made:
            tell("book", f"{what}: position {identity} is {dict(zip(names, found, strict=True))}, the journal makes {made}")
    for identity, row in stated.items():
        tell("book", f"{what}: position {identity} of {int(row['lots'])} lots is of no order")
