"""The journal: what is written is read back, in order, without hole or duplicate; old schemas are read, newer ones refused."""

from __future__ import annotations

import base64
import json
import multiprocessing
import struct
import time
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from control.record import journal as journals
from control.record import records
from control.record.journal import DATABASES, Journal
from control.record.queries import CONDITIONS_PER_PLAN, Queries
from control.record.summary import _conditions_armed
from control.record.writer import SNAPSHOTS_KEPT, JournalWriter
from ipc import layout as l
from ipc import messages
from ipc.messages import Query
from tests.journal_scene import NOON_NS, PERPETUAL, RUN_FACTS, SPOT, Scene, market_day, plan, position_fact

GOLDEN = Path(__file__).parent / "fixtures"


def written(folder: Path, day: Scene | None = None) -> JournalWriter:
    writer = JournalWriter(folder, sync=False)
    writer.begin_run("scene", RUN_FACTS)
    if day is not None:
        writer.append(day.orders, day.reports)
    return writer


def rows(dtype: np.dtype[Any], first: int, count: int, **fields: int) -> np.ndarray[Any, Any]:
    made = np.zeros(count, dtype)
    made["seq"] = np.arange(first, first + count)
    made["event_ns"] = NOON_NS + made["seq"]
    for name, value in fields.items():
        made[name] = value
    return made


def event(kind: str = "note", number: int = 0) -> messages.Event:
    return messages.Event(source="test", kind=kind, text=f"event {number}", wall_ns=number)


# ── writing and reading ──────────────────────────────────────────────────────────────────────────────────────────────
def test_ring_records_come_back_byte_for_byte(tmp_path: Path) -> None:
    day, _ = market_day()
    writer = written(tmp_path, day)
    assert writer.rows("orders", 1).tobytes() == day.orders.tobytes()
    assert writer.rows("reports", 1).tobytes() == day.reports.tobytes()
    assert writer.rows("trades", 1).tobytes() == day.orders[day.orders["kind"] == l.CLOSED].tobytes()
    assert (writer.stored.orders, writer.stored.reports) == (len(day.orders), len(day.reports))
    writer.check()
    writer.close()


def test_headers_say_what_led_to_a_record(tmp_path: Path) -> None:
    day, _ = market_day()
    writer = written(tmp_path, day)
    report = next(record for record in writer.reports() if record.row["kind"] == l.FILL)
    assert (report.cause, report.run, report.incarnation) == (int(report.row["order_seq"]), records.run_hash("scene"), 1)
    trade = next(writer.trades())
    assert trade.cause == int(trade.row["position_id"])
    assert time.time_ns() - trade.wall_ns < 60 * 10**9
    writer.close()


def test_trades_are_followed_by_position_across_incarnations(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.append(rows(l.INTENT, 1, 3000, kind=l.CLOSED))
    writer.begin_run("second", RUN_FACTS)
    writer.append(rows(l.INTENT, 1, 5, kind=l.CLOSED))
    seen = [(record.incarnation, record.seq) for record in writer.trades((1, 2990))]
    assert seen == [(1, seq) for seq in range(2991, 3001)] + [(2, seq) for seq in range(1, 6)]
    assert sum(1 for _ in writer.trades()) == 3005
    assert list(writer.trades((2, 5))) == []
    writer.check()
    writer.close()


@pytest.mark.parametrize("first", [1, 3, 10], ids=["again", "overlap", "hole"])
def test_records_that_do_not_follow_are_refused(tmp_path: Path, first: int) -> None:
    writer = written(tmp_path)
    writer.append(rows(l.INTENT, 1, 4))
    with pytest.raises(records.JournalCorrupt, match="do not follow 4"):
        writer.append(rows(l.INTENT, first, 3))
    writer.check()
    assert writer.stored.orders == 4
    writer.close()


def test_a_start_after_a_stop_is_a_new_incarnation_and_a_respawn_is_not(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.append(rows(l.INTENT, 1, 4))
    writer.close()
    again = JournalWriter(tmp_path, sync=False)
    again.go_on("scene", 1)
    again.append(rows(l.INTENT, 5, 1))
    with pytest.raises(records.JournalCorrupt, match="shared memory is of 2"):
        again.go_on("scene", 2)
    assert again.begin_run("scene", RUN_FACTS) == 1  # killed between the commit and the word in shared memory
    assert again.begin_run("other", RUN_FACTS) == 2
    assert (again.stored.orders, again.stored.reports) == (0, 0)
    again.append(rows(l.INTENT, 1, 2))
    assert again.rows("orders", 1)["seq"].tolist() == [1, 2, 3, 4, 5]
    assert again.rows("orders", 2)["seq"].tolist() == [1, 2]
    assert sorted(again.run_starts()) == [1, 2]
    again.check()
    again.close()


def test_the_map_grows_under_a_reader_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import control.record.journal as module

    monkeypatch.setattr(module, "FIRST_MAP_BYTES", 1 << 19)
    writer = written(tmp_path)
    asks, answers = multiprocessing.get_context("spawn").Pipe(), None
    reader = multiprocessing.get_context("spawn").Process(target=_count_orders, args=(str(tmp_path), asks[1]))
    reader.start()
    try:
        assert asks[0].recv() == 0
        for first in range(1, 20_001, 2000):
            writer.append(rows(l.INTENT, first, 2000))
        assert writer.env.info()["map_size"] > 1 << 19
        asks[0].send("count")
        answers = asks[0].recv()
    finally:
        asks[0].send("end")
        reader.join(20)
    assert answers == 20_000
    writer.close()


def _count_orders(path: str, pipe: Any) -> None:
    journal = Journal(path)
    pipe.send(sum(1 for _ in journal.orders()))
    while pipe.recv() == "count":
        pipe.send(sum(1 for _ in journal.orders()))
    journal.close()


def test_a_failed_write_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    writer = written(tmp_path)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(records.WriteFailed, match="free space"):
        writer.append(rows(l.INTENT, 1, 4), plans=[plan()], events=[event()], before_commit=fail)
    assert writer.stored.orders == 0
    assert writer.append(rows(l.INTENT, 1, 4), plans=[plan()], events=[event()]) == [1]
    assert [one.kind for _, one in writer.events()] == ["run_start", "note"]
    writer.check()
    writer.close()


def test_check_sees_a_hole_and_a_cursor_that_lies(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.append(rows(l.INTENT, 1, 4), rows(l.REPORT, 1, 4))
    with writer.env.begin(write=True) as transaction:
        transaction.delete(records.ring_key(1, 4), db=writer.databases["reports"])
    with pytest.raises(records.JournalCorrupt, match="reports: the cursor says 1/4, the last record is 1/3"):
        writer.check()
    with writer.env.begin(write=True) as transaction:
        transaction.delete(records.ring_key(1, 2), db=writer.databases["orders"])
    with pytest.raises(records.JournalCorrupt, match="orders: 1/3 follows 1/1"):
        writer.check()
    writer.close()


def test_without_a_journal_a_reader_says_so(tmp_path: Path) -> None:
    with pytest.raises(records.JournalError, match="there is no journal"):
        Journal(tmp_path / "nothing")


# ── plans, events, snapshots ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_part_of_a_plan_has_a_number_of_its_own_and_keeps_it_when_it_is_asked_for_again(tmp_path: Path) -> None:
    parts = [msgspec.structs.replace(plan(why=f"part {number}"), part=number, more=number < 2) for number in range(3)]
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("run", RUN_FACTS)
    assert [writer.append(plans=[part]) for part in (parts[0], parts[0], parts[1])] == [[1], [1], [2]]
    writer.close()
    again = JournalWriter(tmp_path, sync=False)  # the answer was lost with the recorder
    again.go_on("run", 1)
    assert [again.append(plans=[part]) for part in (parts[1], parts[2], parts[2])] == [[2], [3], [3]]
    assert [again.append(plans=[part]) for part in parts] == [[1], [2], [3]], "a successor of the strategist makes the same plan"
    other = [msgspec.structs.replace(part, whole="another") for part in parts]
    assert again.append(plans=[other[0]]) == [4], "or another one"
    queries = Queries(again)
    assert [queries.why((number << l.PLAN_SHIFT) + 1) for number in (1, 2, 3)] == ["part 0 1", "part 1 1", "part 2 1"]
    assert [(row["plan_seq"], row["part"], row["more"]) for row in queries.plans(10)] == [(4, 0, True), (3, 2, False), (2, 1, True), (1, 0, True)]
    again.close()


def test_conditions_that_were_armed_are_those_of_whole_plans(tmp_path: Path) -> None:
    def parts(due_ns: int, count: int, strategy: str = "momentum") -> list[messages.Plan]:
        return [msgspec.structs.replace(plan(strategy, due_ns), part=number, more=number < 2) for number in range(count)]

    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("run", RUN_FACTS)
    writer.append(plans=[*parts(1, 3), *parts(2, 2), *parts(2, 3), plan("mean_reversion", 3), *parts(4, 1)])
    assert _conditions_armed(writer, 1, 99) == 2 * (3 + 3 + 1)
    assert _conditions_armed(writer, 1, 3) == 2 * 3
    writer.close()


def test_a_repeated_plan_keeps_its_number_and_a_changed_one_does_not(tmp_path: Path) -> None:
    writer = written(tmp_path)
    assert writer.append(plans=[plan(), plan("mean_reversion"), plan()]) == [1, 2, 1]
    writer.close()
    again = JournalWriter(tmp_path, sync=False)
    again.go_on("scene", 1)
    assert again.append(plans=[plan("mean_reversion"), plan()]) == [2, 1]
    assert again.append(plans=[plan(why="another view")]) == [3]
    assert again.append(plans=[plan(due_ns=NOON_NS + 1)]) == [4]
    assert [one.plan_seq for _, one in again.plans()] == [1, 2, 3, 4]
    assert again.plan(2) == msgspec.structs.replace(plan("mean_reversion"), plan_seq=2)
    assert again.begin_run("next", RUN_FACTS) == 2
    assert again.append(plans=[plan(due_ns=NOON_NS + 1)]) == [5]  # another run's plan is another plan, and numbers go on
    again.close()


def test_rates_of_what_failed_are_counted_from_the_journal_whatever_each_life_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures by the minute of the wall clock, each told by a process that had just begun; two activities, and one failure of five at once."""
    hour, now = 3_600 * 10**9, time.time_ns()
    told = [(-200, "venue", "continue", 1), (-90, "venue", "continue", 1), (-59, "venue", "pause", 5), (-58, "ledger", "pause", 1),
            (-30, "venue", "recovered", 5), (-1, "venue", "continue", 1), (0, "venue", "recovered", 1)]
    events = [messages.Event(source="gateway", kind="x", text=f"{minute} {activity}", wall_ns=now + minute * hour // 60, data={
        "activity": activity, "class": "api", "decision": decision, "pause_s": 0.0, "in_a_row": 1, "times": times, "errors_per_h": 1,
        "recoveries_per_h": 0}) for minute, activity, decision, times in told]
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("run", RUN_FACTS)
    writer.append(events=[*events[:5], messages.Event(source="gateway", kind="note", text="nothing failed", wall_ns=now), *events[5:]])
    expected = [("0 venue", 6, 2), ("-1 venue", 6, 1), ("-30 venue", 5, 1), ("-58 ledger", 1, 0), ("-59 venue", 6, 0), ("-90 venue", 1, 0),
                ("-200 venue", 1, 0)]
    for hours, limit in ((24.0, 50), (24.0, 3), (1.25, 50), (0.25, 50), (2.0, 1)):
        rows = Queries(writer).errors(limit, now - int(hours * hour))
        wanted = [one for one in expected if int(one[0].split()[0]) > -60 * hours][:limit]
        assert [(row["text"], row["errors_per_h"], row["recoveries_per_h"]) for row in rows] == wanted
    cut_off, looks = Queries(writer), iter(range(100))
    monkeypatch.setattr(cut_off, "_late", lambda: next(looks) > 3)
    rows = cut_off.errors(50, now - 24 * hour)
    assert [(row["text"], row["errors_per_h"], row["recoveries_per_h"]) for row in rows] == [
        ("0 venue", 1, 0), ("-1 venue", 1, 0), ("-30 venue", 1, 0)], "cut off before its hour was read: what its own process knew"
    writer.close()


def test_an_event_that_is_sent_twice_is_journaled_once(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.append(events=[event(number=1), event(number=1)])
    writer.close()
    again = JournalWriter(tmp_path, sync=False)
    again.append(events=[event(number=1), event(number=2)])
    assert [one.text for _, one in again.events()][1:] == ["event 1", "event 2"]
    again.close()


def test_the_last_event_time_is_that_of_records_and_snapshots(tmp_path: Path) -> None:
    day, _ = market_day()
    writer = written(tmp_path, day)
    assert writer.last_event_ns() == max(int(day.orders["event_ns"].max()), int(day.reports["event_ns"].max()))
    book = day.snapshot([position_fact(SPOT, 3, l.BUY, 250, 7)])
    writer.append(snapshot=book, plans=[plan()])
    assert writer.last_snapshot() == book
    assert writer.last_event_ns() == book.event_ns > int(day.orders["event_ns"].max())
    writer.append(rows(l.INTENT, len(day.orders) + 1, 2))
    writer.begin_run("next", RUN_FACTS)
    assert writer.last_event_ns() == book.event_ns
    assert writer.snapshot_until(1, book.intent_seq, book.report_seq) == book
    assert writer.snapshot_until(2, 0, 0) == book
    assert writer.snapshot_until(1, book.intent_seq - 1, book.report_seq) is None
    assert writer.snapshot_until(1, book.intent_seq, book.report_seq - 1) is None
    writer.close()


@pytest.mark.parametrize("chunk", [1, 3, 1 << 14])
def test_a_table_of_ring_records_is_what_the_single_records_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(journals, "TABLE_CHUNK", chunk)
    day, _ = market_day()
    writer = written(tmp_path, day)
    writer.begin_run("next", RUN_FACTS)
    writer.append(day.orders[:5], day.reports[:7])
    for database, read in (("orders", writer.orders), ("reports", writer.reports), ("trades", writer.trades)):
        for after in ((0, 0), (1, 3), (1, 1 << 40), (2, 0), (2, 2), (9, 0)):
            for until in (journals.END, (1, 4), (1, journals.LAST_SEQ), (2, 3), (0, 0)):
                expected = [one for one in read(after) if (one.incarnation, one.seq) <= until]
                found = writer.table(database, after, until)
                assert found.rows.tobytes() == b"".join(one.payload for one in expected)
                assert found.incarnations.tolist() == [one.incarnation for one in expected]
    writer.close()


@pytest.mark.parametrize("change", ["key", "cut", "kind"])
def test_a_table_names_the_record_that_is_not_what_it_should_be(tmp_path: Path, change: str) -> None:
    day, _ = market_day()
    writer = written(tmp_path, day)
    with writer.env.begin(write=True) as transaction:
        database = writer.databases["reports"]
        key = records.ring_key(1, 3)
        value = bytearray(transaction.get(key, db=database))
        if change == "key":
            value[16:24] = struct.pack("<q", 4)
        elif change == "kind":
            value[2:4] = struct.pack("<H", 77)
        transaction.put(key, bytes(value[:-1] if change == "cut" else value), db=database)
    with pytest.raises(records.JournalCorrupt, match=r"1/[34]"):
        writer.table("reports")
    writer.close()


def test_only_the_newest_snapshots_are_kept(tmp_path: Path) -> None:
    writer = written(tmp_path)
    for number in range(SNAPSHOTS_KEPT + 10):
        writer.append(snapshot=msgspec.structs.replace(Scene().snapshot([]), tick_seq=number))
    newest = writer.last_snapshot()
    assert newest is not None
    assert newest.tick_seq == SNAPSHOTS_KEPT + 9
    assert len(writer.newest("snapshots", 1000)) == SNAPSHOTS_KEPT
    writer.close()


# ── queries ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_orders_and_trades_are_readable(tmp_path: Path) -> None:
    day, _ = market_day()
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("scene", RUN_FACTS)
    writer.append(plans=[plan()])
    writer.append(day.orders, day.reports)
    queries = Queries(writer, lambda incarnation, seq: f"id-{incarnation}-{seq}")
    orders = queries.orders(100)
    assert [order["id"] for order in orders] == [f"id-1-{seq}" for seq in sorted((int(row["seq"]) for row in day.orders
                                                                                 if row["kind"] == l.NEW), reverse=True)]
    first = orders[-1]
    assert {name: first[name] for name in ("symbol", "strategy", "purpose", "side", "order", "state", "size", "filled", "average_price",
                                           "fees", "why")} == {
        "symbol": "BTC/USDT", "strategy": "momentum", "purpose": "entry", "side": "buy", "order": "market", "state": "filled",
        "size": "0.01", "filled": "0.01", "average_price": "60003.61", "fees": "0.60003606", "why": "range breakout 0"}
    assert [order["state"] for order in orders[:2]] == ["filled", "partly_filled"]
    trades = queries.trades(1)
    assert trades == [{
        "time_ns": trades[0]["time_ns"], "opened_ns": trades[0]["opened_ns"], "held_s": trades[0]["held_s"], "symbol": "ETH/USDT:USDT",
        "strategy": "momentum", "side": "sell", "size": "0.011", "entry_price": "2999.96", "exit_price": "2980", "pnl": "0.1965442",
        "fees": "0.0230558", "reason": "stop", "position": "5", "plan_seq": 1, "why": "range breakout 1"}]
    writer.close()


def test_every_query_answers_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    day, _ = market_day()
    writer = written(tmp_path, day)
    writer.append(plans=[plan(), plan("mean_reversion")], events=[event("restart", 5)])
    queries = Queries(writer)
    for what in ("orders", "trades", "plans", "events", "run"):
        assert isinstance(queries.answer(Query(what=what)), messages.Answer)
        assert messages.encode(queries.answer(Query(what=what)))
    assert [row["strategy"] for row in queries.plans(10, "momentum")] == ["momentum"]
    assert [row["text"] for row in queries.events(10, "restart")] == ["event 5"]
    assert queries.run()["symbols"] == ["BTC/USDT", "ETH/USDT:USDT"]
    why = queries.answer(Query(what="why", argument=f"{2 * CONDITIONS_PER_PLAN + 1},7"))
    assert why == messages.Answer(rows=[{"condition": str(2 * CONDITIONS_PER_PLAN + 1), "why": "range breakout 1"},
                                        {"condition": "7", "why": ""}])
    assert isinstance(queries.answer(Query(what="why", argument="x")), messages.Refused)
    refused = queries.answer(Query(what="positions"))
    assert isinstance(refused, messages.Refused)
    assert "positions" in refused.text
    writer.close()


def test_100_rows_take_less_than_10_ms_among_many_records(tmp_path: Path) -> None:
    writer = written(tmp_path)
    orders = rows(l.INTENT, 1, 40_000, kind=l.SWAPPED, instrument=0, lots=10)
    orders["kind"][::20] = l.NEW
    orders["kind"][1::20] = l.CLOSED
    orders["order_seq"] = orders["seq"]
    reports = rows(l.REPORT, 1, 4_000, kind=l.ACCEPTED, cum_lots=10)
    reports["order_seq"] = np.repeat(orders["seq"][::20], 2)
    reports["kind"][1::2] = l.FILL
    orders["report_seq"] = np.searchsorted(reports["order_seq"], orders["seq"])
    writer.append(orders, reports)
    queries = Queries(writer)
    assert queries.orders(1)[0]["state"] == "filled"
    for query in (queries.orders, queries.trades):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            assert len(query(100)) == 100
            times.append(time.perf_counter() - began)
        assert min(times) < 0.010
    writer.close()


# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def golden(folder: Path, schema: int) -> Path:
    """The stored journal of a schema as an environment; made once by `dump` below from `market_day`."""
    stored = json.loads((GOLDEN / f"journal_schema_{schema}.json").read_text())
    with lmdb.open(str(folder), max_dbs=len(DATABASES)) as env:
        for name in DATABASES:
            database = env.open_db(name.encode())
            with env.begin(write=True, db=database) as transaction:
                for key, value in stored[name]:
                    transaction.put(base64.b64decode(key), base64.b64decode(value))
    return folder


def dump(folder: Path) -> str:
    """A journal as text, for the golden file of a new schema: key and value of each record in base64."""
    journal = Journal(folder)
    stored = {}
    for name in DATABASES:
        with journal.reading() as transaction, transaction.cursor(journal.databases[name]) as cursor:
            stored[name] = [[base64.b64encode(part).decode() for part in item] for item in cursor]
    journal.close()
    return json.dumps(stored, indent=0)


def test_the_golden_journals_of_older_schemas_are_all_here() -> None:
    assert [path.name for path in sorted(GOLDEN.glob("journal_schema_*"))] == [f"journal_schema_{k}.json" for k in range(1, records.SCHEMA)]


@pytest.mark.parametrize("schema", range(1, records.SCHEMA))
def test_the_golden_journal_of_an_older_schema_is_read(schema: int, tmp_path: Path) -> None:
    journal = Journal(golden(tmp_path, schema))
    journal.check()
    assert journal.cursors() == journals.Cursors(1, 11, 17, NOON_NS + 10**12)
    orders, reports, trades = (journal.rows(name, 1) for name in ("orders", "reports", "trades"))
    assert orders["kind"].tolist() == [l.SWAPPED, l.NEW, l.NEW, l.CLOSED, l.NEW, l.NEW, l.NEW, l.CLOSED, l.NEW, l.NEW, l.REFUSED]
    fills = reports[reports["kind"] == l.FILL]
    assert fills["last_price"].tolist() == [6_000_000, 6_000_601, 6_050_003, 300_000, 299_990, 299_001, 298_000, 301_000, 6_010_007]
    assert fills["fee"].tolist()[:3] == [24_000_000, 36_003_606, 60_500_030]
    assert trades["pnl"].tolist() == [60_500_030_000 - 60_003_606_000 - 120_503_636, 3_299_960_000 - 3_278_000_000 - 2_305_580]
    assert [one.conditions[1].why for _, one in journal.plans()] == ["range breakout 1"]
    assert journal.instruments()[1][0] == SPOT
    book = journal.last_snapshot()
    assert book is not None
    assert (book.report_seq, book.positions[0].lots) == (17, 250)
    assert (book.account.messages_due_ns, book.positions[0].last_entry_ns) == (0 if schema == 1 else 77, 0), "what schema 1 did not know"
    assert (book.latched, book.positions[0].rungs, book.positions[0].rung_bps) == ([], 0, [0, 0, 0, 0]), "what schema 2 did not know"
    assert (book.positions[0].twin_stop_pct, book.positions[0].twin_target_pct) == (0, 0), "what schema 4 did not know"
    assert (book.papers, book.aftermath, book.account.papers_today) == ([], [], 0), "what schema 5 did not know"
    assert {one.twin_target_pct for _, plan in journal.plans() for one in plan.conditions} == {0}
    journal.close()


def test_a_newer_schema_is_refused_with_the_remedy(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.append(rows(l.INTENT, 1, 1))
    with writer.env.begin(write=True) as transaction:
        value = transaction.get(records.ring_key(1, 1), db=writer.databases["orders"])
        transaction.put(records.ring_key(1, 1), struct.pack("<H", records.SCHEMA + 1) + value[2:], db=writer.databases["orders"])
    with pytest.raises(records.NewerSchema, match="update trader"):
        list(writer.orders())
    writer.close()


def test_an_older_schema_is_upcast_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SCHEMA", 1)
    value = records.encode(records.EVENT, 1, 2, 3, 4, 5, b"one")
    monkeypatch.setattr(records, "SCHEMA", 3)  # whatever the newest is
    monkeypatch.setattr(records, "UPCASTS", {
        (records.EVENT, 1): lambda payload: payload + b" two", (records.EVENT, 2): lambda payload: payload + b" three",
        (records.PLAN, 1): lambda payload: b"not this"})
    assert records.decode(value).payload == b"one two three"


@pytest.mark.parametrize("value", [b"", b"short", records.encode(records.EVENT, 1, 2, 3, 4, 5, b"payload")[:-1],
                                   records.encode(99, 1, 2, 3, 4, 5, b"")])
def test_a_damaged_record_is_named(value: bytes) -> None:
    with pytest.raises(records.JournalCorrupt, match="restore the journal"):
        records.decode(value)


@pytest.mark.parametrize(("mantissa", "exponent", "text"), [(0, -8, "0"), (1, -8, "0.00000001"), (-123450, -4, "-12.345"), (100, 0, "100"),
                                                            (100, 2, "10000"), (6_000_100, -2, "60001")])
def test_decimal_text(mantissa: int, exponent: int, text: str) -> None:
    assert records.decimal_text(mantissa, exponent) == text


def test_an_order_of_an_earlier_run_shows_how_it_ended(tmp_path: Path) -> None:
    day = Scene()
    day.deposit(10**12)
    lost, filled = day.enter(SPOT, l.BUY, 1000), day.enter(PERPETUAL, l.BUY, 5)
    day.write(tmp_path)
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("next", RUN_FACTS)
    later = Scene()
    later.fills_of_earlier(PERPETUAL, l.BUY, 5, 300_000, 1 << 40 | filled, trade_id=9)
    later._report(kind=l.CANCELLED, spare=1 << 40 | lost)
    writer.append(reports=later.reports)
    rows = {row["symbol"]: row for row in Queries(writer).orders(10)}
    assert {symbol: (row["state"], row["filled"]) for symbol, row in rows.items()} == {
        "BTC/USDT": ("cancelled", "0"), "ETH/USDT:USDT": ("filled", "0.005")}
    writer.close()
