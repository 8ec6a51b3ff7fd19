"""Sessions: any day, any event sequence, from the journal alone, equal to the run's own summary and to a plain recomputation."""

from __future__ import annotations

import json
import random
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import account
from benchmarks.bench_restore import book_of, differences
from benchmarks.frame import instance
from control.record import reconcile as reconciliation
from control.record.audit import Audit
from control.record.journal import Journal
from control.record.past import Past
from control.record.portrait import Portrait
from control.record.rebuilt import book_at
from control.record.restore import read_tail, restore
from control.record.timeline import Timeline
from control.record.writer import JournalWriter
from control.serve import ctl
from hotpath.orders import OWN_ORDERS
from hotpath.venues import catalogue
from ipc import layout as l
from ipc import messages
from tests.journal_scene import NOON_NS, PERPETUAL, RUN_FACTS, SPOT, Scene, market_day, plan

DAYS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def day(folder: Path) -> account.Run:
    """A real run of some 6,000 records, in folder/base/run."""
    return account.record_run(folder / "base", 6_000)


@pytest.fixture(scope="module")
def past(folder: Path, day: account.Run) -> Past:
    """Three days of it, the last one cut off where most is open."""
    account.write(folder / "days", day, DAYS)
    shutil.copytree(folder / "days", folder / "read")  # LMDB opens an environment once a process, and the command opens the other
    return Past(Journal(folder / "read"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = ctl.main(["session", *map(str, arguments)])
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# ── the order of everything ──────────────────────────────────────────────────────────────────────────────────────────
def test_every_record_has_one_number_and_an_order_stands_behind_the_reports_that_it_knew(past: Past) -> None:
    timeline = past.timeline
    assert timeline.numbers.tolist() == list(range(1, timeline.last + 1))
    orders, reports = timeline.orders, timeline.reports
    of_report = {(incarnation, int(seq)): number for incarnation, seq, number in
                 zip(reports.incarnations.tolist(), reports.rows["seq"], timeline.report_numbers.tolist(), strict=True)}
    of_order = {}
    for incarnation, row, number in zip(orders.incarnations.tolist(), orders.rows, timeline.order_numbers.tolist(), strict=True):
        of_order[incarnation, int(row["seq"])] = number
        known = int(row["report_seq"])
        assert not known or of_report[incarnation, known] < number
        assert of_report.get((incarnation, known + 1), number + 1) > number
    for incarnation, row in zip(reports.incarnations.tolist(), reports.rows, strict=True):
        if row["order_seq"]:
            assert of_order[incarnation, int(row["order_seq"])] < of_report[incarnation, int(row["seq"])], "no report before its order"
    for number in range(1, timeline.last + 1, 97):
        point = timeline.point(number)
        before = sum(1 for key, one in of_order.items() if one <= number and key[0] == point.incarnation)
        assert (point.orders, timeline.begins_behind(point.incarnation) + point.orders + point.reports) == (before, number)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_number_stays_what_it_is_once_an_order_stands_behind_it(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the recorder takes of the rings at each turn: every order it knows, and of the reports what it saw first."""
    choose = random.Random(seed)
    count = choose.randint(2, 12)
    known = sorted(choose.randint(0, 10) for _ in range(count))
    orders, reports = np.zeros(count, l.INTENT), np.zeros(12, l.REPORT)
    orders["seq"], orders["report_seq"], orders["kind"], orders["event_ns"] = np.arange(1, count + 1), known, l.SWAPPED, NOON_NS
    reports["seq"], reports["event_ns"] = np.arange(1, 13), NOON_NS
    writer = JournalWriter(tmp_path_factory.mktemp("order"), sync=False)
    writer.begin_run("run", RUN_FACTS)
    seen: dict[tuple[str, int], int] = {}
    taken = told = 0
    while taken < count:
        taken_now, told_now = choose.randint(taken, count), choose.randint(told, 12)
        writer.append(orders[taken:taken_now], reports[told:told_now])
        taken, told = taken_now, told_now
        timeline = Timeline(writer)
        numbers = {**{("order", k + 1): n for k, n in enumerate(timeline.order_numbers.tolist())},
                   **{("report", k + 1): n for k, n in enumerate(timeline.report_numbers.tolist())}}
        assert len(set(numbers.values())) == len(numbers)
        assert {key: numbers[key] for key in seen} == seen
        seen |= {key: number for key, number in numbers.items() if number <= timeline.final}
    writer.close()


def test_days_are_utc_and_what_was_before_the_markets_first_time_belongs_to_it(tmp_path: Path) -> None:
    noon, count = 1_700_000_000 // 86_400 * 86_400 * 10**9 + 43_200 * 10**9, 6
    times = [0, 0, noon, noon + 43_200 * 10**9 - 1, noon + 43_200 * 10**9, noon]  # time never goes back
    orders = np.zeros(count, l.INTENT)
    orders["seq"], orders["kind"], orders["event_ns"] = np.arange(1, count + 1), l.SWAPPED, times
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("run", RUN_FACTS)
    writer.append(orders)
    assert [(one.date.isoformat(), one.first, one.last) for one in Timeline(writer).days()] == [("2023-11-14", 1, 4), ("2023-11-15", 5, 6)]
    writer.close()


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_run_is_what_its_own_summary_says(folder: Path, day: account.Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--run", folder / "base" / "run", "--json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    said = json.loads((folder / "base" / "run" / "summary.json").read_text(), parse_float=Decimal)
    assert (row["fills"], row["trades"], row["open_positions"], row["differences"]) == (said["fills"], said["trades_closed"], 0, [])
    for ours, theirs in (("fees", "fees"), ("realised_pnl", "realised_pnl"), ("equity_start", "equity_start"), ("equity_end", "equity_end")):
        assert Decimal(row[ours]) == said[theirs], ours
    assert Decimal(row["pnl"]) == said["equity_end"] - said["equity_start"]
    assert row["runs"] == ["day"]


def test_at_the_end_of_each_day_it_is_what_the_reconciliation_makes_of_a_journal_that_ends_there(past: Past, tmp_path: Path) -> None:
    for number, figures in enumerate(past.figures()):
        path = copy_until(past, figures.day.last, tmp_path / str(number))
        journal = Journal(path)
        outcome = reconciliation.reconcile(journal, None)
        journal.close()
        assert outcome.differences == []
        assert (figures.close.fees, figures.close.deposits) == (outcome.account.fees, outcome.account.deposits)
        lots: dict[str, int] = {}
        for trip in figures.close.open.values():
            lots[trip.symbol] = lots.get(trip.symbol, 0) + trip.side * trip.lots
        assert {symbol: held.lots for symbol, held in outcome.account.holdings.items() if held.lots} == {k: v for k, v in lots.items() if v}
        if not figures.close.open:
            assert figures.close.cash == outcome.account.cash == figures.close.equity
    assert figures.close.open, "the last day ends with something open"


def copy_until(past: Past, number: int, path: Path) -> Path:
    """A journal that ends with the record of a number."""
    timeline = past.timeline
    writer = JournalWriter(path, sync=False)
    point = timeline.point(number)
    for incarnation in range(1, point.incarnation + 1):
        writer.begin_run(f"run-{incarnation}", past.starts[incarnation].data)
        orders, reports = (table.rows[table.incarnations == incarnation] for table in (timeline.orders, timeline.reports))
        if incarnation == point.incarnation:
            orders, reports = orders[:point.orders], reports[:point.reports]
        writer.append(orders, reports)
    writer.close()
    return path


def by_hand(past: Past, number: int) -> dict[str, Any]:
    """The plain recomputation: record by record in the journal's order, nothing shared with the reconciliation or the fold."""
    timeline, events = past.timeline, []
    for kind, table, numbers in (("order", timeline.orders, timeline.order_numbers), ("report", timeline.reports, timeline.report_numbers)):
        keep = numbers <= number
        events += [(at, kind, incarnation, row) for at, incarnation, row in
                   zip(numbers[keep].tolist(), table.incarnations[keep].tolist(), table.rows[keep], strict=True)]
    orders: dict[tuple[int, int], Any] = {}
    lots: dict[int, int] = {}
    costs: dict[int, int] = {}
    made = {"cash": 0, "fees": 0, "realised_pnl": 0, "trades_closed": 0}
    value = {k: fact.value_quanta for k, fact in past.facts[1].items()}
    for _, kind, incarnation, row in sorted(events, key=lambda event: event[0]):
        if kind == "order" and row["kind"] == l.NEW:
            orders[incarnation, int(row["seq"])] = row
        elif kind == "order" and row["kind"] == l.CLOSED:
            made["trades_closed"] += 1
            made["realised_pnl"] += int(row["value"])
        elif kind == "report" and row["kind"] == l.BALANCE and row["code"] == 0:
            made["cash"] += int(row["balance"])
        elif kind == "report" and row["kind"] == l.FILL:
            order = orders[incarnation, int(row["order_seq"])]
            position, size = int(order["position_id"]), int(row["last_lots"])
            quote = int(row["last_price"]) * size * value[int(row["instrument"])]
            made["fees"] += int(row["fee"])
            made["cash"] -= int(row["fee"])
            if order["purpose"] == l.ENTRY:
                lots[position], costs[position] = lots.get(position, 0) + size, costs.get(position, 0) + quote
            else:
                removed = costs[position] * size // lots[position]
                lots[position], costs[position] = lots[position] - size, costs[position] - removed
                made["cash"] -= int(row["side"]) * (quote - removed)
    return made | {"open": {position: (size, costs[position]) for position, size in lots.items() if size}}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_the_book_at_any_sequence_is_the_plain_recomputation(past: Past, share: float) -> None:
    number = max(1, round(share * past.timeline.last))
    expected = by_hand(past, number)
    book, close = book_at(past.journal, past.timeline.point(number)), past.closes(number)[0]
    assert {name: book.account[name] for name in expected if name != "open"} == {name: expected[name] for name in expected if name != "open"}
    assert {one["position_id"]: (one["lots"], one["cost"]) for one in book.positions if one["lots"]} == expected["open"]
    assert (close.cash, close.fees, close.realised) == (expected["cash"], expected["fees"], expected["realised_pnl"])
    assert {identity: (trip.lots, trip.cost) for identity, trip in close.open.items()} == expected["open"]
    assert close.differences == ()
    assert all(one["stop_price"] or one["stop_bps"] for one in book.positions), "every one has its stop, whoever is asked about whenever"


def test_a_book_without_what_was_closed_is_the_book_with_it(past: Past) -> None:
    with instance(ticks=1024, instruments=len(account.SYMBOLS), conditions=64) as memory:
        memory.instruments.instruments[:] = catalogue.resolve(account.SYMBOLS)
        memory.instruments.strategies["name"] = [name.encode() for name in account.STRATEGIES]
        for number in (past.timeline.last // 5, past.timeline.last // 2, past.figures()[1].day.last):
            point = past.timeline.point(number)
            book = book_at(past.journal, point)
            assert not book.from_snapshot
            assert restore(past.journal, memory, read_tail(past.journal, None, point))
            whole = book_of(memory)
            assert {name: book.account[name] for name in ("cash", "fees", "realised_pnl", "trades_closed", "wins")} == {
                name: whole[f"account.{name}"] for name in ("cash", "fees", "realised_pnl", "trades_closed", "wins")}
            found = {(f"position.{name}", one["position_id"]): value for one in book.positions for name, value in one.items() if name != "strategy"}
            assert differences({key: found[key] for key in whole if key in found}, {key: whole[key] for key in whole if key in found}) == []
            assert {key[1] for key in whole if key[0] == "position.lots"} == {one["position_id"] for one in book.positions}


def test_strategies_that_are_long_gone_need_no_place(day: account.Run, tmp_path: Path) -> None:
    """Five days under other names, more than a book has rows for."""
    writer = JournalWriter(tmp_path / "names", sync=False)
    for number in range(5):
        names = [f"{name}{number}" for name in account.STRATEGIES]
        writer.begin_run(f"run-{number}", day.start | {"run_id": f"run-{number}", "strategies": names})
        writer.append(plans=[msgspec.structs.replace(one, plan_seq=0) for one in day.plans] if not number else [])
        orders, reports = account.day_of(day, number)
        writer.append(orders[:1500] if number == 4 else orders, reports[:int(orders[1499]["report_seq"])] if number == 4 else reports)
    past = Past(writer)
    book = book_at(writer, past.timeline.point(past.timeline.last))
    assert book.positions
    assert {one["strategy"] for one in book.positions} <= {f"{name}4" for name in account.STRATEGIES}
    assert book.account["cash"] == past.figures()[-1].close.cash
    assert [figures.trades for figures in past.figures()][:4] == [day.summary["trades_closed"]] * 4
    writer.close()


# ── spot, mixed accounts, other runs' exits ──────────────────────────────────────────────────────────────────────────
def test_equity_is_cash_and_what_is_open_at_the_last_known_price(tmp_path: Path) -> None:
    scene, _ = market_day()
    scene.write(tmp_path, plans=[plan()])
    portrait = Portrait(Journal(tmp_path))
    (figures,) = portrait.past.figures()
    # spot: 250 lots at 60,100.07 (its own fill); perpetual: 7 lots long, bought at 2,990.01, last sold at 3,010.00
    assert {trip.symbol: trip.lots for trip in figures.close.open.values()} == {SPOT.symbol: 250, PERPETUAL.symbol: 7}
    spot = 6_010_007 * 250 * SPOT.value_quanta
    perpetual = (301_000 - 299_001) * 7 * PERPETUAL.value_quanta
    rounding = 5_980_020_000 - 5_980_020_000 * 13 // 20 - 299_001 * 7 * PERPETUAL.value_quanta
    assert figures.close.equity == figures.close.cash + spot + perpetual - rounding
    assert (figures.orders, figures.fills, figures.trades, figures.wins) == (7, 9, 2, 2)
    portrait.journal.close()


# ── the audit trail ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_audit_trail_has_every_record_with_its_number_and_why(past: Past) -> None:
    figures = past.figures()[1]
    rows = Audit(past).rows(figures.day.first, figures.day.last, 1 << 20)
    ring = [row["seq"] for row in rows if row["record"].startswith(("order", "report"))]
    assert ring == list(range(figures.day.first, figures.day.last + 1))
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
    assert sum(row["what"] == "fill" for row in rows) == figures.fills
    assert sum(row["what"] == "closed" for row in rows) == figures.trades
    entries = [row for row in rows if row["what"] == "entry"]
    assert entries
    assert all("moves by" in row["text"] and row["symbol"] and row["strategy"] in account.STRATEGIES for row in entries)
    assert {row["what"] for row in rows} >= {"entry", "exit", "fill", "closed", "armed", "refused", "position", "accepted", "deposit", "run_start"}
    newest = Audit(past).rows(figures.day.first, figures.day.last, 7)
    assert newest == rows[-7:]


def test_events_and_plans_stand_in_the_day_that_they_belong_to(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, sync=False)
    for number in range(2):
        scene = Scene()
        scene.deposit(5)
        scene.swapped(1)
        scene.orders["event_ns"] += number * account.DAY_NS
        scene.reports["event_ns"] += number * account.DAY_NS
        writer.begin_run(f"run-{number}", {**RUN_FACTS, "run_id": f"run-{number}"})
        writer.append(events=[messages.Event(source="watchdog", kind="ready", text=f"before {number}", wall_ns=number)])
        writer.append(scene.orders, scene.reports, plans=[plan(due_ns=NOON_NS + number * account.DAY_NS)])
        writer.append(events=[messages.Event(source="watchdog", kind="respawn", text=f"behind {number}", wall_ns=number)])
    past = Past(writer)
    for number, figures in enumerate(past.figures()):
        rows = Audit(past).rows(figures.day.first, figures.day.last, 100)
        assert [row["text"] for row in rows if row["what"] in ("ready", "respawn")] == [f"before {number}", f"behind {number}"]
        assert [row["what"] for row in rows] == ["run_start", "ready", "deposit", "armed", "plan", "respawn"]
        assert [row["seq"] for row in rows] == [2 * number, 2 * number, 2 * number + 1, *[2 * number + 2] * 3]
        assert (figures.restarts, figures.runs) == (1, [f"run-{number}"])
    writer.close()


def test_a_day_alone_and_its_end_restored_say_what_the_list_says_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer, respawns = JournalWriter(tmp_path / "journal", sync=False), (1, 0, 2)
    for number, times in enumerate(respawns):
        scene = Scene()
        scene.deposit(5)
        scene.swapped(number + 1)
        scene.orders["event_ns"] += number * account.DAY_NS
        scene.reports["event_ns"] += number * account.DAY_NS
        writer.begin_run(f"run-{number}", {**RUN_FACTS, "run_id": f"run-{number}"})
        writer.append(scene.orders, scene.reports, plans=[plan(due_ns=NOON_NS + number * account.DAY_NS)])
        writer.append(events=[messages.Event(source="watchdog", kind="respawn", text=f"{k}", wall_ns=number) for k in range(times)])
    past = Past(writer)
    assert [figures.restarts for figures in past.figures()] == list(respawns)
    assert [past.figures(upto)[-1].restarts for upto in range(1, past.timeline.last + 1)] == [1, 1, 0, 0, 2, 2], "none of a later day"
    writer.close()
    rows = json.loads(run(capsys, "list", "--run", tmp_path, "--json")[1])["rows"]
    assert [row["restarts"] for row in rows] == list(respawns)
    for row in rows:
        agrees_with_the_list(row, tmp_path, capsys)


def test_every_day_of_a_real_run_alone_is_what_the_list_says_of_it(folder: Path, past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "--run", folder / "days", "--json")[1])["rows"]
    assert len(rows) == DAYS
    for row in rows:
        agrees_with_the_list(row, folder / "days", capsys)


def agrees_with_the_list(row: dict[str, Any], where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` of a day and `restore` of its end, by date and by number."""
    code, out, err = run(capsys, "show", row["date"], "--run", where, "--json")
    assert code == 0, err
    shown = json.loads(out)["data"]
    assert {name: shown[name] for name in row} == row
    for moment in (row["date"], row["last_seq"]):
        code, out, err = run(capsys, "restore", moment, "--dry-run", "--run", where, "--json")
        assert code == 0, out + err
        then = json.loads(out)["data"]
        assert (then["seq"], then["account"]["cash"], then["equity"], then["time_ns"]) == (
            row["last_seq"], row["cash"], row["equity_end"], row["to_ns"])
        assert sum(one["size"] != "0" for one in then["positions"]) == row["open_positions"]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_day_is_shown_for_people_and_for_scripts(folder: Path, past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    last = past.figures()[-1]
    name = last.day.date.isoformat()
    code, out, _ = run(capsys, "show", name, "--run", folder / "days", "--limit", 5, "--json")
    assert code == 0
    said = json.loads(out)
    assert {one["id"] for one in said["data"]["positions"] if one["size"] != "0"} == {str(identity) for identity in last.close.open}
    assert all(one["stop_price"] or one["state"] == "opening" for one in said["data"]["positions"])
    assert len(said["rows"]) == len(said["data"]["trades_of_day"]) == 5
    assert said["data"]["account"]["cash"] == said["data"]["cash"]
    code, out, _ = run(capsys, "show", name, "--run", folder / "days", "--limit", 5)
    assert code == 0
    for word in ("positions", "trades", "audit trail", str(last.day.last), "trailing by 4 bps", "out by"):
        assert word in out


def test_a_dry_run_shows_the_book_of_then_and_what_has_changed(folder: Path, past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    number = past.timeline.last - 300
    code, out, _ = run(capsys, "restore", number, "--dry-run", "--run", folder / "days", "--json")
    assert code == 0
    said = json.loads(out)
    expected = by_hand(past, number)
    assert {one["id"] for one in said["data"]["positions"] if one["size"] != "0"} == {str(one) for one in expected["open"]}
    assert Decimal(said["data"]["account"]["cash"]) == Decimal(expected["cash"]).scaleb(-8)
    now = by_hand(past, past.timeline.last)
    gone = {row["id"] for row in said["rows"]  # flat, with its trade record or still without it
            if (row["what"] == "position" and row["now"].startswith("closed")) or (row["what"] == "size" and row["now"] == "0")}
    assert {str(one) for one in expected["open"].keys() - now["open"].keys()} <= gone
    new = {row["id"] for row in said["rows"] if row["what"] == "position" and row["then"] == "not open"}
    assert {str(one) for one in now["open"].keys() - expected["open"].keys()} <= new
    last = past.timeline.last
    code, out, _ = run(capsys, "restore", last, "--dry-run", "--run", folder / "days")
    assert code == 0
    assert "since then: none" in out
    assert "dry run: nothing was changed" in out
    code, by_day, _ = run(capsys, "restore", past.figures()[0].day.date, "--dry-run", "--run", folder / "days", "--json")
    assert json.loads(by_day)["data"]["seq"] == past.figures()[0].day.last


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["restore", "4711"], 4, "an account cannot be set back"),
    (["restore", "2023-11-14"], 4, "--dry-run"),
    (["restore", "0", "--dry-run"], 2, "they go from 1 to"),
    (["restore", "99999999999999999999999999", "--dry-run"], 2, "there is no event"),
    (["restore", "-1", "--dry-run"], 2, ""),
    (["restore", "², 3", "--dry-run"], 2, "is neither a date (YYYY-MM-DD) nor an event number"),
    (["restore", "foo", "--dry-run"], 2, "DATE|SEQ: 'foo' is neither a date (YYYY-MM-DD) nor an event number"),
    (["restore", "2023-13-01", "--dry-run"], 2, "is no date"),
    (["restore", "2023-11-20", "--dry-run"], 2, "there are 2023-11-14, 2023-11-15, 2023-11-16"),
    (["show", "2023-11-20"], 2, "there are 2023-11-14, 2023-11-15, 2023-11-16"),
    (["show", "2023-13-01"], 2, "write it as 2025-05-04"),
    (["show", "yesterday"], 2, "is no date"),
    (["show"], 2, "DATE"),
    (["show", "2023-11-14", "--limit", "0"], 2, "1 to 10000"),
    ([], 2, "list|show|restore"),
])
def test_bad_input_is_named_with_its_remedy(folder: Path, past: Past, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int,
                                            told: str) -> None:
    found, out, err = run(capsys, *arguments, *(["--run", folder / "days"] if arguments else []))
    assert (found, out) == (code, "")
    assert told in err


def test_where_there_is_no_account_those_that_there_are_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("night", "day"):
        market_day()[0].write(tmp_path / "instances" / name / "journal")
    code, _, err = run(capsys, "list", "--data-dir", tmp_path, "--instance", "noon")
    assert (code, "there are: day, night" in err) == (2, True)
    code, _, err = run(capsys, "list", "--data-dir", tmp_path, "--instance", "../instances/day")
    assert (code, "is no name" in err) == (2, True)
    code, out, _ = run(capsys, "list", "--data-dir", tmp_path, "--instance", "day", "--json")
    assert (code, len(json.loads(out)["rows"])) == (0, 1)
    code, _, err = run(capsys, "list", "--run", tmp_path / "nowhere")
    assert (code, "is no folder" in err) == (2, True)
    (tmp_path / "instances" / "day" / "journal" / "data.mdb").write_bytes(b"nothing of ours" * 1000)
    code, out, _ = run(capsys, "list", "--data-dir", tmp_path, "--instance", "day", "--json")
    assert (code, json.loads(out)["type"]) == (4, "refused")


def test_an_account_in_which_nothing_happened_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = JournalWriter(tmp_path / "journal", sync=False)
    writer.begin_run("run", RUN_FACTS)
    writer.close()
    assert run(capsys, "list", "--run", tmp_path)[:2] == (0, "nothing was recorded yet\n")
    code, _, err = run(capsys, "show", "2023-11-14", "--run", tmp_path)
    assert (code, "nothing was recorded yet" in err) == (2, True)
    assert run(capsys, "restore", "1", "--dry-run", "--run", tmp_path)[0] == 2


def test_a_plan_that_is_missing_leaves_the_day_readable_and_the_protection_unknown(folder: Path, day: account.Run, tmp_path: Path,
                                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    account.write(tmp_path / "journal", day._replace(plans=[]), 1, orders_behind=40)
    journal = Journal(tmp_path / "journal")
    date = Timeline(journal).days()[-1].date
    journal.close()
    code, out, _ = run(capsys, "show", date, "--run", tmp_path, "--json", "--limit", 1)
    assert code == 0
    assert "which says how an open position is protected, is missing" in json.loads(out)["data"]["unprotected"]
    assert json.loads(out)["data"]["positions"]
    code, _, err = run(capsys, "restore", date, "--run", tmp_path, "--dry-run")
    assert (code, "is missing" in err) == (4, True)


def test_an_order_of_the_gateway_itself_closes_what_it_was_announced_for(tmp_path: Path) -> None:
    """Two strategies hold the same symbol; the gateway closes the part of the first while the sniper is down; no order-ring record stands for it."""
    scene = Scene()
    scene.deposit(10_000 * 10**8)
    scene.swapped(1)
    first = scene.enter(SPOT, l.BUY, 1000, strategy=0, condition=1 << 20)
    scene.fill(first, 1000, 6_000_000, cash=0)
    second = scene.enter(SPOT, l.BUY, 500, strategy=1, condition=1 << 20 | 1)
    scene.fill(second, 500, 6_000_000, cash=0)
    own, quote = OWN_ORDERS | 1, 6_100_000 * 1000 * SPOT.value_quanta
    told: dict[str, int] = {"order_seq": own, "side": l.SELL, "instrument": SPOT.id}
    scene._report(kind=l.ANNOUNCED, last_lots=1000, code=0, venue_seq=0, **told)
    scene._report(kind=l.FILL, last_lots=1000, last_price=6_100_000, cum_lots=1000, cum_quote=quote, fee=-(-quote // 1000), liquidity=l.TAKER,
                  trade_id=99, **told)
    scene.closed(first, 1000, 6_000_000, 6_100_000, pnl=quote - 60_000_000_000 - 60_000_000 - 61_000_000, fees=121_000_000)
    scene.reports["venue_seq"] = np.where(scene.reports["kind"] == l.ANNOUNCED, 0, np.cumsum(scene.reports["kind"] != l.ANNOUNCED))
    scene.write(tmp_path, plans=[plan()])
    past = Past(Journal(tmp_path))
    (figures,) = past.figures()
    assert figures.close.differences == ()
    assert {identity: trip.lots for identity, trip in figures.close.open.items()} == {second: 500}
    for number, lots in ((past.timeline.last, {second: 500}), (past.timeline.last - 2, {first: 1000, second: 500})):
        book = book_at(past.journal, past.timeline.point(number))
        assert {one["position_id"]: one["lots"] for one in book.positions} == lots
        assert book.account["cash"] == past.closes(number)[0].cash
    past.journal.close()
