"""The storm's checker: on what a good run has left it finds nothing, and each planted fault it finds by its name.

The good run is a small storm of its own (12 kills); the faults are written into copies of its journal, its ledger and its shared memory.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from ipc import layout as l
from ipc import segment
from tests.conftest import ROOT
from tests.storm import checker, evidence
from tests.storm.bookkeeping import Book
from tests.storm.run import REPLAY, Storm
from tests.storm.scene import MARK, left_behind

#: rooms that must not share anything with what they check
INDEPENDENT = ("evidence", "bookkeeping", "check_books", "check_orders", "checker")
HEADER_BYTES = 64


class Remains:
    """A copy of what a run has left, to plant faults in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.state,) = (*folder.glob("runs/*/state"), *folder.glob("instances/*"))
        self.image = folder / "image"
        self.leftovers: list[str] = []

    def read(self) -> evidence.Evidence:
        return evidence.read(self.state, self.image, self.leftovers)

    def findings(self) -> list[checker.Finding]:
        return checker.check(self.read())

    def change(self, environment: str, database: str, change: Callable[[Any, Any], None]) -> None:
        """`change(transaction, database)` in an LMDB environment, committed."""
        with lmdb.open(str(self.state / environment), max_dbs=8, map_size=1 << 28) as env:
            handle = env.open_db(database.encode(), create=False)
            with env.begin(write=True, db=handle) as transaction:
                change(transaction, handle)

    # ── the ledger: MessagePack ───────────────────────────────────────────────────────────────────────────────────────
    def ledger(self, database: str, key: bytes, change: Callable[[Any], None]) -> None:
        def write(transaction: Any, _: Any) -> None:
            value = msgspec.msgpack.decode(transaction.get(key))
            change(value)
            transaction.put(key, msgspec.msgpack.encode(value))

        self.change("paper", database, write)

    def account(self, **more: int) -> None:
        self.ledger("meta", b"ledger", lambda meta: meta.update({name: meta[name] + value for name, value in more.items()}))

    # ── the journal: 64 bytes of header, then rows or JSON ────────────────────────────────────────────────────────────
    def row(self, database: str, seq: int, dtype: Any, **fields: int) -> None:
        """Other values in a ring record's row."""
        incarnation = self.read().incarnation

        def write(transaction: Any, _: Any) -> None:
            key = incarnation.to_bytes(2, "big") + seq.to_bytes(8, "big")
            value = bytearray(transaction.get(key))
            row = np.frombuffer(value, dtype, 1, HEADER_BYTES)
            for name, number in fields.items():
                row[name] = number
            transaction.put(key, bytes(value))

        self.change("journal", database, write)

    def document(self, database: str, number: int, change: Callable[[Any], None]) -> None:
        """Another JSON document under a number."""
        def write(transaction: Any, _: Any) -> None:
            value = transaction.get(number.to_bytes(8, "big"))
            document = msgspec.json.decode(value[HEADER_BYTES:])
            change(document)
            payload = msgspec.json.encode(document)
            header = np.frombuffer(bytearray(value[:HEADER_BYTES]), np.int64)
            header[6] = len(payload)
            transaction.put(number.to_bytes(8, "big"), header.tobytes() + payload)

        self.change("journal", database, write)

    def cursor(self, **more: int) -> None:
        def write(transaction: Any, _: Any) -> None:
            cursors = msgspec.json.decode(transaction.get(b"cursors"))
            transaction.put(b"cursors", msgspec.json.encode(cursors | {name: cursors[name] + value for name, value in more.items()}))

        self.change("journal", "meta", write)

    def delete(self, database: str, seq: int) -> None:
        key = self.read().incarnation.to_bytes(2, "big") + seq.to_bytes(8, "big")
        self.change("journal", database, lambda transaction, _: transaction.delete(key))

    # ── the shared memory ─────────────────────────────────────────────────────────────────────────────────────────────
    def memory(self, change: Callable[[dict[str, Any]], None]) -> None:
        with np.load(self.image.with_suffix(".npz")) as stored:
            arrays = {name: stored[name].copy() for name in stored.files}
        change(arrays)
        np.savez(self.image.with_suffix(".npz"), **arrays)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one pass of a storm that held."""
    folder = tmp_path_factory.mktemp("storm")
    result = Storm(folder, 12, seed=7, market=REPLAY, keep=True).run()
    assert not result.failure
    assert [finding for one in result.passes for finding in one.findings] == []
    return folder / "pass-001"


@pytest.fixture
def remains(good: Path, tmp_path: Path) -> Remains:
    """A copy of it."""
    shutil.copytree(good, tmp_path / "pass")
    return Remains(tmp_path / "pass")


def rows_of(found: list[tuple[int, Any]], **fields: int) -> list[tuple[int, Any]]:
    """Records with these values."""
    return [(seq, row) for seq, row in found if all(int(row[name]) == value for name, value in fields.items())]


# ── faults, each with the rule that must name it and a word that must stand in what it says ──────────────────────────────
def a_fill_twice_in_the_ledger(r: Remains) -> tuple[str, str]:
    fill = next(event for event in r.read().venue_events[::-1] if event["kind"] == l.FILL)
    number = r.read().account["venue_seq"] + 1
    event = [fill[name] for name in evidence._EVENT]
    event[0] = number
    r.change("paper", "events", lambda transaction, _: transaction.put(number.to_bytes(8, "big"), msgspec.msgpack.encode(event)))
    r.account(venue_seq=1)
    return "event_once", f"venue event {number} (FILL"


def an_event_lost_from_the_ledger(r: Remains) -> tuple[str, str]:
    r.change("paper", "events", lambda transaction, _: transaction.delete((9).to_bytes(8, "big")))
    return "event_once", "stands at place 9"


def an_order_twice(r: Remains) -> tuple[str, str]:
    client_id = next(iter(r.read().venue_orders))  # base32 says the same in capitals
    r.change("paper", "orders", lambda transaction, _: transaction.put(client_id.upper().encode(), transaction.get(client_id.encode())))
    return "sent_once", "at the venue twice"


def an_order_of_nobody(r: Remains) -> tuple[str, str]:
    client_id = next(iter(r.read().venue_orders))
    stranger = ("b" if client_id[0] != "b" else "c") + client_id[1:]
    r.change("paper", "orders", lambda transaction, _: transaction.put(stranger.encode(), transaction.get(client_id.encode())))
    return "sent_once", f"order {stranger} is at the venue, and no intent"


def an_order_acknowledged_twice(r: Remains) -> tuple[str, str]:
    events = r.read().venue_events
    first = next(event for event in events if event["kind"] == l.ACCEPTED)
    other = next(event for event in events if event["kind"] in (l.CANCELLED, l.EXPIRED) and event["client_id"] != first["client_id"])
    r.ledger("events", other["venue_seq"].to_bytes(8, "big"), lambda event: event.__setitem__(slice(1, 3), [l.ACCEPTED, first["client_id"]]))
    return "sent_once", "was acknowledged 2 times"


def cash_off_by_a_quantum(r: Remains) -> tuple[str, str]:
    r.account(cash=1)
    return "cash", "the ledger's cash are"


def a_fill_off_by_a_tick(r: Remains) -> tuple[str, str]:
    fill = next(event for event in r.read().venue_events if event["kind"] == l.FILL)
    r.ledger("events", fill["venue_seq"].to_bytes(8, "big"), lambda event: event.__setitem__(10, event[10] + 1))
    return "cash", f"event {fill['venue_seq']}"


def a_holding_off_by_a_lot(r: Remains) -> tuple[str, str]:
    symbol = next(iter(r.read().holdings))
    r.ledger("positions", symbol.encode(), lambda position: position.update(lots=position["lots"] + 1))
    return "holding", symbol


def a_strategys_part_off_by_a_lot(r: Remains) -> tuple[str, str]:
    name = next(iter(r.read().parts))
    r.change("paper", "accounts", lambda transaction, _: transaction.put(
        name.encode(), msgspec.msgpack.encode(msgspec.msgpack.decode(transaction.get(name.encode())) + 1)))
    return "holding", name


def a_report_missing_in_the_middle(r: Remains) -> tuple[str, str]:
    r.delete("reports", 11)
    return "journal_sequence", "reports: record 12"


def an_intent_missing_in_the_middle(r: Remains) -> tuple[str, str]:
    r.delete("orders", 11)
    return "journal_sequence", "orders: record 12"


def the_last_report_missing(r: Remains) -> tuple[str, str]:
    seq, row = r.read().reports[-1]
    r.delete("reports", seq)
    r.cursor(reports=-1)
    return "event_once", f"venue event {int(row['venue_seq'])}"


def an_order_without_its_end(r: Remains) -> tuple[str, str]:
    seq, row = next((seq, row) for seq, row in r.read().reports if int(row["kind"]) in (l.CANCELLED, l.EXPIRED, l.LOST))
    r.row("reports", seq, l.REPORT, kind=l.ACCEPTED)
    return "terminal", f"order {int(row['order_seq'])} "


def an_order_that_ended_twice(r: Remains) -> tuple[str, str]:
    reports = r.read().reports
    seq, row = next((seq, row) for seq, row in reports if int(row["kind"]) == l.ACCEPTED)
    r.row("reports", seq, l.REPORT, kind=l.CANCELLED)
    return "terminal", f"order {int(row['order_seq'])} "


def a_fill_twice_in_the_journal(r: Remains) -> tuple[str, str]:
    """In place of an acknowledgement, so that no sequence breaks."""
    reports = r.read().reports
    fill = next(row for _, row in reports if int(row["kind"]) == l.FILL)
    seq, _ = next((seq, row) for seq, row in reports[::-1] if int(row["kind"]) == l.ACCEPTED)
    r.row("reports", seq, l.REPORT, **{name: int(fill[name]) for name in l.REPORT.names or () if name != "seq"})
    return "event_once", f"venue event {int(fill['venue_seq'])} (FILL) is reported twice"


def a_condition_that_fired_beyond_its_maximum(r: Remains) -> tuple[str, str]:
    _, row = rows_of(r.read().orders, kind=l.NEW, purpose=l.ENTRY)[0]
    identity = int(row["condition_id"])
    place = identity & (1 << l.PLAN_SHIFT) - 1
    r.document("plans", identity >> l.PLAN_SHIFT, lambda plan: plan["conditions"][place].update(max_fires=0))
    return "fires", f"condition {identity} may fire 0 times"


def a_condition_that_fired_twice_under_one_index(r: Remains) -> tuple[str, str]:
    entries = rows_of(r.read().orders, kind=l.NEW, purpose=l.ENTRY)
    for seq, row in entries:
        for _, other in entries:
            same = all(int(row[name]) == int(other[name]) for name in ("instrument", "strategy", "side"))
            if same and int(row["condition_id"]) != int(other["condition_id"]):
                r.row("orders", seq, l.INTENT, condition_id=int(other["condition_id"]), fire_index=int(other["fire_index"]))
                return "fires", f"condition {int(other['condition_id'])} may fire"
    raise AssertionError("no two entries are alike")


def a_group_that_fired_twice(r: Remains) -> tuple[str, str]:
    by_plan: dict[int, set[int]] = {}
    for _, row in rows_of(r.read().orders, kind=l.NEW, purpose=l.ENTRY):
        by_plan.setdefault(int(row["condition_id"]) >> l.PLAN_SHIFT, set()).add(int(row["condition_id"]) & (1 << l.PLAN_SHIFT) - 1)
    plan_seq, places = next((plan, places) for plan, places in by_plan.items() if len(places) > 1)
    r.document("plans", plan_seq, lambda plan: [plan["conditions"][place].update(group="planted") for place in places])
    return "fires", f"of group planted of plan {plan_seq} one may fire"


def a_fill_that_says_more_than_its_lots(r: Remains) -> tuple[str, str]:
    seq, row = rows_of(r.read().reports, kind=l.FILL)[0]
    r.row("reports", seq, l.REPORT, cum_lots=int(row["cum_lots"]) + 1)
    return "fill_sum", f"report {seq}: fills of order {int(row['order_seq'])} make"


def a_fill_of_more_than_was_ordered(r: Remains) -> tuple[str, str]:
    _, fill = rows_of(r.read().reports, kind=l.FILL)[0]
    seq, _ = rows_of(r.read().orders, kind=l.NEW, seq=int(fill["order_seq"]))[0]
    r.row("orders", seq, l.INTENT, lots=int(fill["cum_lots"]) - 1)
    return "fill_sum", f"lots of order {seq} are filled, {int(fill['cum_lots']) - 1} were ordered"


def a_report_of_an_order_that_was_never_made(r: Remains) -> tuple[str, str]:
    seq, _ = rows_of(r.read().reports, kind=l.ACCEPTED)[0]
    r.row("reports", seq, l.REPORT, order_seq=1_000_000)
    return "unknown_order", f"report {seq} (ACCEPTED) is of order 1000000"


def an_order_of_an_instrument_that_is_none(r: Remains) -> tuple[str, str]:
    seq, _ = rows_of(r.read().orders, kind=l.NEW, purpose=l.ENTRY)[0]
    r.row("orders", seq, l.INTENT, instrument=99)
    return "unjudged", "IndexError"


def an_exit_larger_than_its_position(r: Remains) -> tuple[str, str]:
    seq, row = rows_of(r.read().orders, kind=l.NEW, purpose=l.EXIT)[0]
    r.row("orders", seq, l.INTENT, lots=10 * int(row["lots"]))
    return "exit_size", f"position {int(row['position_id'])} has"


def a_trade_off_by_a_quantum(r: Remains) -> tuple[str, str]:
    seq, row = r.read().trades[0]
    for database in ("orders", "trades"):
        r.row(database, seq, l.TRADE, pnl=int(row["pnl"]) + 1)
    return "trade", f"trade {seq} of position"


def the_snipers_cash_off_by_a_quantum(r: Remains) -> tuple[str, str]:
    def change(arrays: dict[str, Any]) -> None:
        arrays["sniper.account"]["cash"] += 1

    r.memory(change)
    return "book", "the sniper's memory: cash"


def a_position_off_by_a_lot(r: Remains) -> tuple[str, str]:
    found = r.read().snapshots
    number, snapshot = next((number, one) for number, one in enumerate(found, 1) if any(position["lots"] for position in one["positions"]))
    place = next(at for at, position in enumerate(snapshot["positions"]) if position["lots"])

    def change(document: Any) -> None:
        document["positions"][place]["lots"] += 1

    r.document("snapshots", number, change)
    return "book", f"snapshot at commit {snapshot['commit']}: position {snapshot['positions'][place]['position_id']}"


def a_position_of_nobody(r: Remains) -> tuple[str, str]:
    def change(arrays: dict[str, Any]) -> None:
        row = arrays["sniper.positions"][-1]
        row["state"], row["lots"], row["position_id"] = l.POS_MONITORING, 1, 12345
        arrays["sniper.positions"][-1] = row

    r.memory(change)
    return "book", "position 12345 of 1 lots is of no order"


def a_ring_that_the_journal_does_not_follow(r: Remains) -> tuple[str, str]:
    def change(arrays: dict[str, Any]) -> None:
        arrays["orders.slots"][5]["lots"] += 1

    r.memory(change)
    return "ring", "orders: record 5 is another one"


def a_slot_half_written(r: Remains) -> tuple[str, str]:
    def change(arrays: dict[str, Any]) -> None:
        arrays["reports.slots"][7]["seq"] = l.BUSY

    r.memory(change)
    return "ring", "reports: the slot of record 7"


FAULTS = [value for name, value in list(globals().items()) if name.startswith(("a_", "an_", "the_", "cash_")) and callable(value)]


def test_a_good_run_breaks_no_promise(remains: Remains) -> None:
    found = remains.read()
    assert found.figures()["fills"] > 20
    assert found.figures()["trades"] > 5
    assert found.snapshots
    assert checker.check(found) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named(fault: Callable[[Remains], tuple[str, str]], remains: Remains) -> None:
    rule, words = fault(remains)
    told = remains.findings()
    assert any(finding.rule == rule and words in finding.text for finding in told), told


def test_every_rule_has_a_planted_fault() -> None:
    told = {rule for room in INDEPENDENT for rule in re.findall(r'tell\("(\w+)"', (ROOT / "tests" / "storm" / f"{room}.py").read_text())}
    told |= set(re.findall(r'_tell\("(\w+)"', (ROOT / "tests" / "storm" / "bookkeeping.py").read_text()))
    planted = {rule for fault in FAULTS for rule in re.findall(r'return "(\w+)"', inspect.getsource(fault))}
    assert told - planted == {"leftover"}, "which has a test of its own, below"


# ── what is left behind, and what is seen while it runs ───────────────────────────────────────────────────────────────
def test_a_file_and_a_process_that_are_left_are_named(remains: Remains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    name = f"storm-planted-{os.getpid()}"
    assert left_behind(name) == []
    folder = segment.instance_dir(name)
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, MARK: name})
    try:
        told = left_behind(name, patience_s=0.2)
    finally:
        process.kill()
        process.wait()
    assert told == [f"process {process.pid} still lives", f"{folder} is left"]
    remains.leftovers = told
    assert [finding.text for finding in remains.findings() if finding.rule == "leftover"] == told


@pytest.mark.parametrize("room", INDEPENDENT)
def test_the_checker_shares_nothing_with_what_it_checks(room: str) -> None:
    allowed = {"ipc", "ipc.layout", "tests.storm", *(f"tests.storm.{name}" for name in INDEPENDENT)}
    tree = ast.parse((ROOT / "tests" / "storm" / f"{room}.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in named if name.partition(".")[0] in ("ipc", "hotpath", "control", "tests") and name not in allowed]
    code = f"import sys, tests.storm.{room}; print([name for name in sys.modules if name.partition('.')[0] in ('hotpath', 'control')])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_cannot_be_read_is_said_and_not_passed_over(remains: Remains) -> None:
    shutil.rmtree(remains.state / "paper")
    with pytest.raises(evidence.Unreadable, match="paper"):
        remains.read()


# ── what the gateway closes of its own accord ─────────────────────────────────────────────────────────────────────────
OWN = 1 << 39


def closed_by_the_gateway(lots: int) -> list[str]:
    """Rules that a book tells of where a position of 10 lots was opened, and the gateway announced an exit of `lots`, which filled."""
    entry = np.zeros(1, l.INTENT)[0]
    entry["seq"], entry["kind"], entry["purpose"], entry["side"], entry["lots"], entry["position_id"] = 1, l.NEW, l.ENTRY, l.BUY, 10, 77
    reports = []
    for seq, (kind, order, side, filled) in enumerate(((l.FILL, 1, l.BUY, 10), (l.ANNOUNCED, OWN, l.SELL, lots), (l.FILL, OWN, l.SELL, lots)), 1):
        report = np.zeros(1, l.REPORT)[0]
        report["seq"], report["kind"], report["order_seq"], report["side"], report["last_lots"] = seq, kind, order, side, filled
        report["last_price"], report["cum_lots"], report["cum_quote"] = 5, filled, 5 * filled
        reports.append((seq, report))
    told: list[str] = []
    book = Book([{"value_quanta": 1, "kind": "spot"}], reports, lambda rule, text: told.append(rule))
    book.intent(1, entry)
    book.advance(3)
    assert book.trips[77].lots == 10 - lots
    return told


def test_an_exit_that_the_gateway_announced_closes_its_position() -> None:
    assert closed_by_the_gateway(10) == []


def test_an_exit_of_the_gateway_above_the_position_is_named() -> None:
    assert "exit_size" in closed_by_the_gateway(11)
