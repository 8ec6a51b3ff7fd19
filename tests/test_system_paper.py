"""A running paper instance whose processes are killed: each comes back, trading goes on, no order is sent twice, and nothing is left behind."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.record.journal import Journal, decode_event
from control.record.restore import restore
from hotpath.venues import catalogue
from ipc import layout as l
from ipc import segment
from ipc.segment import instance_dir
from tests.running import Running, until

ROLES = l.ROLES


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.end()


def last_fill_ns(running: Running) -> int:
    journal = running.journal()
    try:
        return max((int(record.row["event_ns"]) for record in journal.newest("reports", 400) if record.row["kind"] == l.FILL), default=0)
    finally:
        journal.close()


def comes_back(running: Running, role: str, pid: int, patience_s: float) -> None:
    """The role has another process than `pid`, which is healthy."""
    until(lambda: (row := running.row(role))["pid"] != pid and row["state"] == "healthy", patience_s, f"{role} is back")


def fills_behind(running: Running, event_ns: int, patience_s: float, what: str) -> None:
    until(lambda: last_fill_ns(running) > event_ns, patience_s, what)


def events(running: Running) -> list[Any]:
    journal = running.journal()
    try:
        return [decode_event(record.payload) for record in journal.newest("events", 1000)]
    finally:
        journal.close()


def orders_sent_twice(running: Running) -> list[Any]:
    """Order ids that the venue accepted more than once, and venue events or trades that were reported more than once."""
    journal = running.journal()
    try:
        reports = [record for record in journal.reports() if record.row["order_seq"] > 0]
        accepted = Counter((record.incarnation, int(record.row["order_seq"])) for record in reports if record.row["kind"] == l.ACCEPTED)
        trades = Counter(int(record.row["trade_id"]) for record in reports if record.row["kind"] == l.FILL)
        venue = Counter(int(record.row["venue_seq"]) for record in reports if record.row["venue_seq"] > 0)
        return [key for counted in (accepted, trades, venue) for key, times in counted.items() if times > 1]
    finally:
        journal.close()


def test_each_process_that_is_killed_comes_back_and_trading_goes_on(instance: Running) -> None:
    instance.start()
    until(lambda: last_fill_ns(instance), 20, "a first fill")
    for role in ROLES:
        pid = instance.kill(role)
        comes_back(instance, role, pid, 10)
        back = time.monotonic()
        assert instance.row(role)["restarts"] == 1
        event_ns = instance.status()["event_ns"]
        fills_behind(instance, event_ns, 10 - (time.monotonic() - back), f"a fill after the death of {role}")
    assert instance.stop() == 0, instance.text()
    told = [event for event in events(instance) if event.kind == "respawn"]
    assert {event.data["role"] for event in told} == set(ROLES)
    summary = instance.summary()
    assert summary["reconciled"] is True
    assert summary["ticks_lost"] == 0
    assert summary["ticks_processed"] == summary["ticks_published"]
    assert summary["restarts"] == dict.fromkeys(ROLES, 1)
    assert orders_sent_twice(instance) == []
    instance.leaves_nothing()


@pytest.mark.parametrize("role", ["sniper", "gateway"])
def test_a_process_that_is_stopped_is_taken_for_dead_and_replaced(role: str, instance: Running) -> None:
    instance.start()
    until(lambda: last_fill_ns(instance), 20, "a first fill")
    pid = instance.kill(role, signal.SIGSTOP)
    comes_back(instance, role, pid, 15)
    event_ns = instance.status()["event_ns"]
    fills_behind(instance, event_ns, 10, "a new fill")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert orders_sent_twice(instance) == []
    assert any(event.kind == "hang" and event.data["role"] == role for event in events(instance))


def test_a_killed_launcher_leaves_nothing_and_the_next_start_goes_on(instance: Running) -> None:
    instance.start()
    until(lambda: last_fill_ns(instance), 20, "a first fill")
    before = until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    assert instance.process is not None
    instance.status()
    killed = time.monotonic()
    instance.process.kill()
    instance.process.wait(5)
    until(lambda: not instance.alive(), 10 - (time.monotonic() - killed), "nothing is left running")
    until(lambda: not instance_dir(instance.name).exists(), 10 - (time.monotonic() - killed), "no segment is left")
    sent = last_order(instance)
    instance.start()
    after = {row["id"]: row for row in instance.ctl("positions")[1]["rows"]}
    closed = closed_positions(instance)
    for row in before:
        assert row["id"] in closed or after[row["id"]]["stop_price"] == row["stop_price"] or row["state"] == "opening"
    event_ns = instance.status()["event_ns"]
    fills_behind(instance, event_ns, 20, "a fill of the new run")
    assert last_order(instance)[0] == sent[0] + 1, "order ids of the new run begin with a new incarnation"
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert orders_sent_twice(instance) == []
    instance.leaves_nothing()


def last_order(running: Running) -> tuple[int, int]:
    journal = running.journal()
    try:
        (newest,) = journal.newest("orders", 1)
        return newest.incarnation, newest.seq
    finally:
        journal.close()


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_when_everything_dies_at_once_no_position_is_forgotten_and_the_books_agree(rounds: int, instance: Running) -> None:
    for number in range(rounds):
        instance.start()
        until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
        time.sleep(0.37 * number % 2)
        before = {row["id"] for row in instance.ctl("positions")[1]["rows"]}
        instance.kill_everything()
        instance.start()
        after = {row["id"] for row in instance.ctl("positions")[1]["rows"]}
        assert before <= after | closed_positions(instance)
        assert instance.stop() == 0, instance.text()
        assert instance.summary()["reconciled"] is True
        assert orders_sent_twice(instance) == []


def closed_positions(running: Running) -> set[str]:
    journal = running.journal()
    try:
        return {str(int(record.row["position_id"])) for record in journal.trades()}
    finally:
        journal.close()


#: known to the second from the journal
TIMES = ("opened_ns", "deadline_ns")
#: what a quote moves, and what is not kept beyond a run
MARKED = {"reserved", "equity", "peak_equity", "max_drawdown_e6", "event_ns", "day_start_equity", "best_price", "entry_seq", "exit_seq",
          "exit_working_lots", "retry_ns", "state", "attempt", "day", "entries_today"}


def test_the_book_from_the_first_record_on_is_the_book_of_the_last_snapshot(instance: Running, tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    instance.start()
    until(lambda: instance.status()["trades_closed"] >= 8 and instance.ctl("positions")[1]["rows"], 30, "trades, and an open position")
    instance.process.kill()  # type: ignore[union-attr]
    until(lambda: not instance.alive() and not instance_dir(instance.name).exists(), 12, "the orphans have stopped in order")
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    books = []
    for cut in (None, 0):
        journal = instance.journal()
        memory = segments_like(journal)
        if cut is not None:
            monkeypatch.setattr(journal, "last_snapshot", lambda: None)
        assert restore(journal, memory)
        account = {name: int(memory.sniper.account[0][name]) for name in l.ACCOUNT.names or () if name not in MARKED}
        positions = {int(row["position_id"]): {name: int(row[name]) for name in l.POSITION.names or () if name not in MARKED and name[0] != "_"}
                     for row in memory.sniper.positions if row["state"] != l.POS_FLAT}
        books.append((account, positions, memory.sniper.instrument_states["exposure_lots"].tolist()))
        journal.close()
        segment.remove("restored")
    assert [books[0][0], books[0][2]] == [books[1][0], books[1][2]]
    assert books[0][1].keys() == books[1][1].keys()
    for identity, position in books[0][1].items():
        again = books[1][1][identity]
        assert {name: (position[name], again[name]) for name in position if position[name] != again[name] and name not in TIMES} == {}
        assert all(abs(position[name] - again[name]) < 10**9 for name in TIMES), "a report's time is taken for the tick's that it was applied at"
    assert books[0][0]["trades_closed"] >= 8
    assert books[0][1]


def segments_like(journal: Journal) -> Any:
    """Fresh segments with the instruments and strategies of a journal's run."""
    (event,) = journal.run_starts().values()
    symbols = [fact["symbol"] for fact in event.data["instruments"]]
    segment.create_all("restored", ticks=1024, instruments=len(symbols), conditions=64)
    memory = segment.Memory("restored")
    memory.instruments.instruments[:] = catalogue.resolve(symbols)
    for number, name in enumerate(event.data["strategies"]):
        memory.instruments.strategies[number]["name"] = name.encode()
    return memory


def test_the_first_ctrl_c_stops_in_order_and_says_what_stays_open(instance: Running) -> None:
    instance.start()
    until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    assert instance.stop(signal.SIGINT) == 0
    assert "Ctrl-C: stopping in order." in instance.text()
    assert "open" in instance.text()
    assert instance.summary()["reconciled"] is True
    instance.leaves_nothing()


def test_the_second_ctrl_c_ends_everything_at_once_and_the_next_start_goes_on(instance: Running) -> None:
    instance.start()
    until(lambda: last_fill_ns(instance), 20, "a first fill")
    assert instance.process is not None
    instance.kill("sniper", signal.SIGSTOP)  # so that the ordered stop takes its time
    instance.process.send_signal(signal.SIGINT)
    until(lambda: "stopping in order" in instance.text(), 5, "the first one is understood")
    began = time.monotonic()
    assert instance.stop(signal.SIGINT, 5) == 130
    assert time.monotonic() - began < 3
    assert "Second Ctrl-C: every process is killed at once" in instance.text()
    instance.leaves_nothing()
    instance.start()
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert orders_sent_twice(instance) == []


def test_a_question_that_needs_a_stopped_process_is_answered_within_a_second(instance: Running) -> None:
    instance.start()
    pid = instance.kill("recorder", signal.SIGSTOP)
    began = time.monotonic()
    code, reply = instance.ctl("orders")
    assert (code, reply["type"], reply["role"]) == (5, "unavailable", "recorder")
    assert time.monotonic() - began < 2, "the second, and the start of trader-ctl"
    assert instance.row("recorder")["pid"] == pid
    until(lambda: instance.row("recorder")["pid"] != pid and instance.ctl("orders")[0] == 0, 20, "the recorder is replaced and answers")
    assert instance.stop() == 0


def test_a_second_instance_of_the_name_is_refused_and_the_first_goes_on(instance: Running) -> None:
    instance.start()
    second = Running(instance.folder)
    second.name = instance.name
    second.log = instance.folder / "second.log"
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(20) == 3
    assert f"instance '{instance.name}' is running already" in second.text()
    assert "stop it with trader-ctl" in second.text()
    assert instance.status()["phase"] == "running"
    assert instance.stop(signal.SIGTERM) == 0


def test_flatten_at_end_closes_every_position_before_the_end(instance: Running) -> None:
    instance.start("--flatten-at-end")
    until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    assert instance.stop() == 0
    summary = instance.summary()
    assert summary["exit_reasons"].get("flatten", 0) >= 1
    assert summary["reconciled"] is True
    instance.start()
    assert "0 open positions" in instance.text()
    assert instance.stop() == 0


def test_a_position_of_a_strategy_and_symbol_that_are_not_named_again_is_kept_until_it_closes(instance: Running) -> None:
    instance.start("--strategy", "mean_reversion")
    until(lambda: [row for row in instance.ctl("positions")[1]["rows"] if row["state"] == "open" and row["symbol"] != "BTC/USDT"], 30,
          "an open position")
    assert instance.stop() == 0
    instance.start("--strategy", "momentum", "--symbols", "BTC/USDT")
    assert "positions of the last run are kept with their protection" in instance.text()
    _, reply = instance.ctl("positions")
    until(lambda: not [row for row in instance.ctl("positions")[1]["rows"] if row["strategy"] == "mean_reversion"], 20,
          f"their time stop closes them: {reply}")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
