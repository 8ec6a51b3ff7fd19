"""A paper start after everything died: the book from a journal of a million ring records, more than 50,000 of them behind its last snapshot.

The journal is that of an account with a long past (benchmarks/account.py). *restore_s* is all that a start reads of it: the launcher's look for
symbols and strategies that may be open, the recorder's opening of the journal to write, the restored book, and what is armed again: the plans in
force are of the first day, so that every order since is looked at for what their conditions have fired; they have expired. *replay_s* is the book
from the first record on, without any snapshot. The best of three, kernels loaded, the journal in the page cache.

It checks itself: both books are equal, field by field, but for what no record can tell (BY_NATURE, with the reason of each), and both equal what
plain additions over the records make: cash, fees, profit, trades, what is open.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import account
from benchmarks.frame import Row, check, instance
from control.record.journal import Journal
from control.record.rearm import fires, rearm, standing
from control.record.restore import held, read_tail, restore
from control.record.writer import JournalWriter
from hotpath.venues import catalogue
from ipc import layout as l

TARGET_S = 2.0
#: ring records in all, and of the run that is repeated: (all, quick)
_RECORDS, _RUN_RECORDS = (1_000_000, 22_000), (115_000, 5_500)
_LEAST_TAIL = (50_000, 2_000)
_ROUNDS = 3

#: what a replay of the records cannot make, and why; a start has it as of the snapshot, which is a second old at most while all is well
BY_NATURE = {
    "account.equity": "made of market prices; made anew at the first quote",
    "account.peak_equity": "the highest equity at any quote",
    "account.max_drawdown_e6": "made of the peak",
    "account.day_start_equity": "equity at the first tick of the day",
    "account.event_ns": "of the last tick, not of the last record",
    "account.reserved": "cash for entries that end before anything new is sent",
    "account.messages_due_ns": "orders and cancels under the rate limit: over a second later",
    "account.entries_due_ns": "repeats are counted by configured limits, which are not in the journal",
    "position.best_price": "the best quote since the entry, which a trailing stop hangs on",
    "position.retry_ns": "exits are tried again after a configured pause",
    "position.adjusted_tick": "a tick's number, which belongs to a life of the shared memory",
    "position.open_index": "a place in a list",
    "position.rungs_done": "a rung that sells less than a lot is passed over without a record; `rungs_left` are those that sell, and is compared",
    "working.reserved": "as account.reserved",
    "working.cancel_seq": "a cancel that was asked for: the order ends with the venue's statement in any case",
}


#: fields of a trade on paper; what a rung that it sells or a stop that it moves changes is not in its records
ON_PAPER = ("state", "side", "entry_lots", "entry_quote", "target_price", "opened_ns", "deadline_ns", "condition_id", "plan_seq", "fire_index",
            "strategy", "instrument")


def book_of(memory: Any) -> dict[Any, Any]:
    """Every field of the book by name: account, open positions by id, working orders by key, exposure by instrument; BY_NATURE left out. Of trades on
    paper ON_PAPER; of closed ones which instants are still to be told, by those of the last quarter of an hour: no day of this journal is long enough
    to tell all of its own."""
    sniper = memory.sniper
    made: dict[Any, Any] = {}
    for name in l.ACCOUNT.names or ():
        made[f"account.{name}"] = sniper.account[0][name].tolist()
    for row in sniper.positions[sniper.positions["state"] != l.POS_FLAT]:
        for name in l.POSITION.names or ():
            made[f"position.{name}", int(row["position_id"])] = row[name].tolist()
        made["position.rungs_left", int(row["position_id"])] = _rungs_left(row)
    for row in sniper.working[sniper.working["order_seq"] > 0]:
        for name in l.WORKING.names or ():
            made[f"working.{name}", int(row["order_seq"])] = row[name].tolist()
    for row in sniper.papers[sniper.papers["state"] != l.POS_FLAT]:
        for name in ON_PAPER:
            made[f"paper.{name}", int(row["position_id"])] = row[name].tolist()
    for instant, told in enumerate(sniper.after[0]["told"].tolist()):
        for number in range(told, int(sniper.after[0]["closed"])):
            row = sniper.aftermath[number % l.MAX_AFTERMATH]
            if row["closed_ns"] > sniper.aftermath["closed_ns"].max() - 15 * 60 * 10**9:
                made[f"aftermath.{instant}", int(row["position_id"])] = row.tolist()
    for name in ("open_mask", "exposure_lots", "working_lots"):
        made[f"instrument.{name}"] = sniper.instrument_states[name].tolist()
    return {key: value for key, value in made.items()
            if (name := key if isinstance(key, str) else key[0]) not in BY_NATURE and not name.rpartition(".")[2].startswith("_")}


def _rungs_left(row: Any) -> list[int]:
    """Which rungs still sell something, as hotpath/kernel/exits.py has it: what they and those before them were to sell, and have not."""
    shares = [int(share) for share in row["rung_share_e4"]]
    wanted = [sum(int(row["entry_lots"]) * share // 10_000 for share in shares[: k + 1]) for k in range(int(row["rungs"]))]
    sells = [row["lots"] if sum(shares[: k + 1]) == 10_000 else wanted[k] - row["exit_lots"] for k in range(len(wanted))]
    return [k for k in range(int(row["rungs_done"]), len(sells)) if sells[k] > 0]


def differences(one: dict[Any, Any], other: dict[Any, Any]) -> list[str]:
    """What is not equal, in words."""
    return [f"{key}: {one.get(key)} and {other.get(key)}" for key in sorted(one.keys() | other.keys(), key=str) if one.get(key) != other.get(key)]


def by_addition(journal: Journal) -> dict[str, Any]:
    """What plain sums over all records say of the account and of what is open: the oracle. Perpetuals, each position by itself."""
    orders, reports = journal.table("orders"), journal.table("reports")
    new = orders.rows["kind"] == l.NEW
    keys = orders.incarnations[new] << 40 | orders.rows["seq"][new]
    of_order = dict(zip(keys.tolist(), orders.rows[["position_id", "purpose", "instrument"]][new].tolist(), strict=True))
    value_quanta = {fact.id: fact.value_quanta for fact in next(iter(journal.instruments().values())).values()}
    cash = int(reports.rows["balance"][(reports.rows["kind"] == l.BALANCE) & (reports.rows["code"] == 0)].sum())
    fees, held_lots, costs = 0, dict[int, int](), dict[int, int]()
    fills = reports.rows["kind"] == l.FILL
    told = reports.rows[["order_seq", "side", "last_lots", "last_price", "fee"]][fills].tolist()
    for incarnation, (order_seq, side, lots, price, fee) in zip(reports.incarnations[fills].tolist(), told, strict=True):
        position, purpose, instrument = of_order[incarnation << 40 | order_seq]
        quote = price * lots * value_quanta[instrument]
        fees += fee
        cash -= fee
        if purpose == l.ENTRY:
            held_lots[position] = held_lots.get(position, 0) + lots
            costs[position] = costs.get(position, 0) + quote
        else:
            removed = costs[position] * lots // held_lots[position]
            held_lots[position] -= lots
            costs[position] -= removed
            cash += -side * (quote - removed)
    trades = journal.table("trades").rows
    return {"account.cash": cash, "account.fees": fees, "account.realised_pnl": int(trades["pnl"].sum()), "account.trades_closed": len(trades),
            "account.wins": int((trades["pnl"] > 0).sum()),
            "lots": {position: lots for position, lots in held_lots.items() if lots}}


def check_books(journal: Journal, quick_book: dict[Any, Any], full_book: dict[Any, Any]) -> int:
    """Both books are equal, and are what the records add up to; gives the number of open positions. Raises CheckFailed."""
    apart = differences(quick_book, full_book)
    check(not apart, f"the book from the snapshot is not the one from the first record on: {'; '.join(apart[:5])} ({len(apart)} fields)")
    summed = by_addition(journal)
    lots = summed.pop("lots")
    apart = differences({key: full_book[key] for key in summed}, summed)
    check(not apart, f"the book is not what its records add up to: {'; '.join(apart)}")
    found = {key[1]: value for key, value in full_book.items() if key[0] == "position.lots" and value}
    check(found == lots, f"open are {found}, by the fills {lots}")
    return len(found)


def measured(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each way to the book, and what they found. Raises CheckFailed."""
    took: dict[str, list[float]] = {"restore": [], "replay": []}
    found: dict[str, Any] = {}
    with instance(ticks=1024, instruments=len(account.SYMBOLS), conditions=64) as memory:
        memory.instruments.instruments[:] = catalogue.resolve(account.SYMBOLS)
        memory.instruments.strategies["name"] = [name.encode() for name in account.STRATEGIES]
        memory.board.run[0]["instruments"], memory.board.run[0]["strategies"] = len(account.SYMBOLS), len(account.STRATEGIES)
        for _ in range(rounds):
            began = time.perf_counter()
            reader = Journal(path)
            held(reader)
            reader.close()
            writer = JournalWriter(path, sync=False)
            restore(writer, memory)
            again = rearm(writer, memory, writer.last_event_ns())
            took["restore"].append(time.perf_counter() - began)
            check(again.armed == 0 and not again.told, f"conditions of the first day were armed again: {again.armed}, {again.told}")
            plans = standing(writer, writer.in_force())
            check(len(fires(writer, plans.groups, plans.oldest_due_ns)) > 0, "no condition of the plans in force has fired")
            books = [book_of(memory)]
            tail = read_tail(writer, writer.last_snapshot())
            found["tail"] = len(tail.orders) + len(tail.reports)
            began = time.perf_counter()
            tail = read_tail(writer, None)
            found["records"] = len(tail.orders) + len(tail.reports)
            restore(writer, memory, tail)
            took["replay"].append(time.perf_counter() - began)
            books.append(book_of(memory))
            writer.close()
    journal = Journal(path)
    try:
        found["open"] = check_books(journal, *books)
    finally:
        journal.close()
    return found | {name: min(values) for name, values in took.items()}


def run(quick: bool) -> list[Row]:
    """Make the journal, measure, compare."""
    records, of_run, least = _RECORDS[quick], _RUN_RECORDS[quick], _LEAST_TAIL[quick]
    with tempfile.TemporaryDirectory(prefix="trader-bench-") as name:
        day = account.record_run(Path(name) / "run", of_run)
        days = -(-records // (len(day.orders) + len(day.reports))) + 1
        account.write(Path(name) / "journal", day, days)
        found = measured(Path(name) / "journal", _ROUNDS)
        check(found["records"] >= records, f"the journal has {found['records']} records only")
        check(found["tail"] >= least, f"only {found['tail']} records are behind the snapshot")
        size_mb = round((Path(name) / "journal" / "data.mdb").stat().st_size / 1e6)
    params = {"records": found["records"], "tail": found["tail"], "incarnations": days, "open": found["open"], "journal_mb": size_mb}
    return [Row("restore", "restore_s", round(found["restore"], 4), "s", params, None if quick else TARGET_S),
            Row("restore", "replay_s", round(found["replay"], 4), "s", params)]
