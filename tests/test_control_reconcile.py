"""Reconciliation: equal for a day worked out by hand, and false, with words that name it, for every way to spoil one fill."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import control.record.reconcile as module
from control.record.journal import Journal
from control.record.reconcile import LedgerState, LedgerUnreadable, Outcome, read_ledger, reconcile
from control.record.writer import JournalWriter
from ipc import layout as l
from tests.journal_scene import DEPOSIT, PERPETUAL, RUN_FACTS, SPOT, Scene, market_day, position_fact


def outcome(folder: Path, day: Scene, ledger: LedgerState | None, **more: object) -> Outcome:
    day.write(folder, **more)  # type: ignore[arg-type]
    journal = Journal(folder)
    try:
        return reconcile(journal, ledger)
    finally:
        journal.close()


def nth_fill(day: Scene, n: int) -> int:
    return int(np.flatnonzero(day.reports["kind"] == l.FILL)[n])


def test_a_day_worked_out_by_hand_reconciles(tmp_path: Path) -> None:
    day, ledger = market_day()
    result = outcome(tmp_path, day, ledger)
    assert result.differences == []
    assert result.reconciled
    assert (result.account.cash, result.account.fees, result.account.deposits) == (ledger.cash, ledger.fees, DEPOSIT)


def test_an_empty_journal_and_an_empty_ledger_reconcile(tmp_path: Path) -> None:
    assert outcome(tmp_path, Scene(), LedgerState(0, {}, 0, 0, 0, 0)).reconciled


@pytest.mark.parametrize("which", [0, 2, 3, 5, 6, 8], ids=["spot_buy", "spot_sell", "short", "through_zero", "maker", "last"])
def test_a_wrong_quantity_is_seen_and_named(tmp_path: Path, which: int) -> None:
    day, ledger = market_day()
    fill = nth_fill(day, which)
    day.reports["last_lots"][fill] += 1
    result = outcome(tmp_path, day, ledger)
    assert not result.reconciled
    assert any(f"fill {fill + 1} of order" in text for text in result.differences)
    assert any(text.startswith("cash: the ledger has") for text in result.differences)


@pytest.mark.parametrize("which", [0, 2, 4, 6])
@pytest.mark.parametrize("error", [1, -1])
def test_a_fee_wrong_by_one_quantum_is_seen_and_named(tmp_path: Path, which: int, error: int) -> None:
    day, ledger = market_day()
    fill = nth_fill(day, which)
    day.reports["fee"][fill] += error
    result = outcome(tmp_path, day, ledger)
    assert not result.reconciled
    assert any(f"fill {fill + 1} of order" in text and "fee" in text for text in result.differences)
    assert f"fees: the ledger has {ledger.fees} quanta, the journal makes {ledger.fees + error} ({error:+})" in result.differences


@pytest.mark.parametrize("which", range(9))
def test_a_missing_fill_is_seen_and_named(tmp_path: Path, which: int) -> None:
    day, ledger = market_day()
    fill = nth_fill(day, which)
    day.reports = np.delete(day.reports, fill)
    day.reports["seq"] = np.arange(1, len(day.reports) + 1)
    result = outcome(tmp_path, day, ledger)
    assert not result.reconciled
    missing = f"venue event {fill + 1} before" if which < 8 else f"venue events {fill + 1} to {fill + 1} of the ledger"
    assert any(missing in text for text in result.differences), result.differences


@pytest.mark.parametrize("which", range(9))
def test_a_fill_that_is_there_twice_is_seen_and_named(tmp_path: Path, which: int) -> None:
    day, ledger = market_day()
    fill = nth_fill(day, which)
    day.reports = np.insert(day.reports, fill + 1, day.reports[fill])
    day.reports["seq"] = np.arange(1, len(day.reports) + 1)
    result = outcome(tmp_path, day, ledger)
    assert not result.reconciled
    assert any(f"fill {fill + 1} of order" in text and "is there twice" in text for text in result.differences)


def test_a_wrong_price_that_is_consistent_in_the_journal_differs_from_the_ledger(tmp_path: Path) -> None:
    """Even a fill that was forged with care (price, fee, cumulative quote) shows in the cash."""
    day, ledger = market_day()
    fill = nth_fill(day, 8)
    row = day.reports[fill]
    row["last_price"] += 1
    row["cum_quote"] = int(row["last_price"]) * 250 * SPOT.value_quanta
    row["fee"] = -(-int(row["cum_quote"]) // 1000)
    result = outcome(tmp_path, day, ledger)
    assert not result.reconciled
    assert [text.split(":")[0] for text in result.differences] == ["cash", "fees"]


@pytest.mark.parametrize("by", [-1, 1])
def test_a_ledger_that_knows_more_or_less_of_the_venue_than_the_journal_is_seen(by: int, tmp_path: Path) -> None:
    day, ledger = market_day()
    result = outcome(tmp_path, day, ledger._replace(venue_seq=ledger.venue_seq + by))
    assert len(result.differences) == 1
    assert "are missing from the" in result.differences[0]


def test_a_book_that_is_older_than_the_last_report_is_not_compared_and_that_is_told(tmp_path: Path) -> None:
    day, ledger = market_day()
    assert outcome(tmp_path / "without", day, ledger).uncompared.startswith("the sniper's book: its last snapshot is older")
    assert outcome(tmp_path / "empty", Scene(), LedgerState(0, {}, 0, 0, 0, 0)).uncompared == ""


def test_a_trade_record_with_another_pnl_than_its_fills_is_named(tmp_path: Path) -> None:
    day, ledger = market_day()
    row = int(np.flatnonzero(day.orders["kind"] == l.CLOSED)[1])
    day.orders.view(l.TRADE)["pnl"][row] += 1
    result = outcome(tmp_path, day, ledger)
    assert len(result.differences) == 1
    assert "its trade record says P&L" in result.differences[0]


@pytest.mark.parametrize(("field", "what"), [
    ("cash", "cash:"), ("fees", "fees:"), ("realised", "realised P&L:"), ("deposits", "deposits:")])
def test_a_ledger_off_by_one_quantum_is_named(tmp_path: Path, field: str, what: str) -> None:
    day, ledger = market_day()
    result = outcome(tmp_path, day, ledger._replace(**{field: getattr(ledger, field) + 1}))
    assert len(result.differences) == 1
    assert result.differences[0].startswith(what)


def test_a_ledger_that_holds_another_position_is_named(tmp_path: Path) -> None:
    day, ledger = market_day()
    result = outcome(tmp_path, day, ledger._replace(positions=ledger.positions | {"BTC/USDT": (249, 0)}))
    assert result.differences == ["BTC/USDT: the ledger holds 249 lots, the journal makes 250 (+1)"]


def test_the_snipers_book_is_compared_where_it_is_up_to_date(tmp_path: Path) -> None:
    """Positions by themselves, not netted: long 7 of 20 at cost 5,980,020,000 − 3,887,013,000, and the spot position."""
    day, ledger = market_day()
    entries = [int(row["seq"]) for row in day.orders if row["kind"] == l.NEW and row["purpose"] == l.ENTRY]
    held = [position_fact(PERPETUAL, entries[2], l.BUY, 7, 5_980_020_000 - 3_887_013_000),
            position_fact(SPOT, entries[3], l.BUY, 250, 0)]
    # unnetted: the short gains 3,299,960,000 − 3,278,000,000, the long 3,913,000,000 − 3,887,013,000
    netted = day.realised
    day.cash += (21_960_000 + 25_987_000) - netted
    book = day.snapshot(held)
    assert outcome(tmp_path / "equal", day, ledger, snapshot=book).differences == []
    day.cash += 1
    wrong = outcome(tmp_path / "cash", day, ledger, snapshot=day.snapshot(held))
    assert ["the sniper's cash is" in text for text in wrong.differences] == [True]
    day.cash -= 1
    wrong = outcome(tmp_path / "lots", day, ledger, snapshot=day.snapshot(held[:1]))
    assert ["the sniper's lots are not the 250" in text for text in wrong.differences] == [True]


def test_an_exit_that_was_sent_and_never_journaled_is_known_by_what_it_can_only_have_closed(tmp_path: Path) -> None:
    first = Scene()
    first.deposit(DEPOSIT)
    entry = first.enter(SPOT, l.BUY, 250)
    first.fill(entry, 250, 6_000_000, cash=-(15_000_000_000 + 15_000_000))
    second = Scene()  # the venue tells the next run of an order under the key of the first one, which no record of that has
    second.fills_of_earlier(SPOT, l.SELL, 250, 6_010_000, key=1 << 40 | 9, trade_id=len(first.reports) + 1)
    writer = JournalWriter(tmp_path, sync=False)
    writer.begin_run("scene", RUN_FACTS)
    writer.append(first.orders, first.reports)
    writer.begin_run("next", RUN_FACTS)
    writer.append(second.orders, second.reports)
    writer.close()
    journal = Journal(tmp_path)
    cash = DEPOSIT - 15_015_000_000 + 15_025_000_000 - 15_025_000
    result = reconcile(journal, LedgerState(cash, {}, 15_000_000 + 15_025_000, DEPOSIT, 0, len(first.reports) + 1))
    journal.close()
    assert result.differences == []


def test_the_paper_ledger_is_read_without_its_own_code(tmp_path: Path) -> None:
    from hotpath.venues.paper_ledger import Ledger

    ledger = Ledger(tmp_path / "paper", sync=False)
    ledger.meta.cash, ledger.meta.deposits, ledger.meta.fees, ledger.meta.realised, ledger.meta.event_ns = 123, 200, 7, -5, 8
    ledger.event(kind=l.BALANCE, client_id="", symbol="", event_ns=1, tick_seq=1)
    position = ledger.position("ETH/USDT:USDT")
    position.lots, position.cost = -3, 99
    assert ledger.commit() is not None
    ledger.close()
    assert read_ledger(tmp_path / "paper") == LedgerState(123, {"ETH/USDT:USDT": (-3, 99)}, 7, 200, -5, 1, 8)


def test_a_missing_ledger_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreadable, match=str(tmp_path)):
        read_ledger(tmp_path)


def test_it_shares_nothing_with_sniper_venue_or_ledger() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    ours = {name for name in imported if name.partition(".")[0] in ("hotpath", "control", "ipc")}
    assert ours == {"control.record.journal", "control.record.records", "ipc"}
