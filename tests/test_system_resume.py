"""A paper instance that is started again: after an ordered stop, after its launcher was killed, after everything died at one instant."""

from __future__ import annotations

import dataclasses
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.learn.knowledge import Knowledge
from control.record.journal import Journal
from control.record.restore import read_tail, restore
from hotpath.venues import catalogue
from hotpath.venues.simulated import Simulation
from ipc import board, segment
from ipc import layout as l
from ipc.segment import Memory, instance_dir
from tests.running import Running, until


def test_a_killed_launcher_leaves_nothing_and_the_next_start_goes_on(instance: Running) -> None:
    instance.start()
    before = until(lambda: [row for row in instance.ctl("positions")[1]["rows"] if row["state"] == "monitoring"], 20, "an open position")
    assert instance.process is not None
    killed = time.monotonic()
    instance.process.kill()
    instance.process.wait(5)
    until(lambda: not instance.alive(), 10 - (time.monotonic() - killed), "nothing is left running")
    until(lambda: not instance_dir(instance.name).exists(), 10 - (time.monotonic() - killed), "no segment is left")
    kept, incarnation = instance.open_at_the_end(), instance.last_order()[0]
    instance.start()
    assert f"resumed: {len(kept)} open position" in instance.text()
    after, closed = {row["id"]: row for row in instance.ctl("positions")[1]["rows"]}, closed_positions(instance)
    for row in before:
        for name in ("side", "entry_price", "stop_price", "target_price", "opened_ns", "deadline_ns"):
            assert row["id"] in closed or after[row["id"]][name] == row[name], name
    event_ns = instance.status()["event_ns"]
    until(lambda: instance.last_fill_ns() > event_ns, 20, "a fill of the new run")
    assert instance.last_order()[0] == incarnation + 1, "order ids of the new run begin with a new incarnation"
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    instance.leaves_nothing()


#: one plan a day, of one condition that is far away
DAILY = """
from control.think.strategy import Condition, Strategy, equity_bps

class Daily(Strategy):
    interval_s = 86400

    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol=symbol, side="buy", direction="up", size=equity_bps(100), confidence=0.9, why="WHY", stop_bps=50,
                          level=facts.price_text(market.candles(symbol, 1).close[-1] * 2), valid_for_s=7 * 86400)
                for symbol, facts in market.facts.items()]
"""


@pytest.mark.slow
def test_a_strategy_that_has_changed_since_the_last_run_plans_at_once_and_no_other(instance: Running) -> None:
    file = instance.folder / "daily.py"

    def armed_by(word: str, symbols: tuple[str, ...], *arguments: str) -> int:
        """Starts with the strategy in this wording; gives how many plans there are once the conditions of `word` are armed, and no others."""
        instance.start("--strategy", f"{file}:Daily", *arguments, speed="2")  # so that midnight is seldom met
        until(lambda: (rows := instance.ctl("conditions")[1]["rows"]) and {(row["symbol"], row["why"]) for row in rows} == {
            (symbol, word) for symbol in symbols}, 30, f"what is armed is {word} of {symbols}")
        ticks = instance.status()["ticks"]
        until(lambda: instance.row("strategist")["progress"] > ticks + 30, 20, "the strategist has gone on")
        instance.kill_everything()
        journal = instance.journal()
        try:
            return len(list(journal.plans()))
        finally:
            journal.close()

    two, three = ("BTC/USDT", "ETH/USDT"), ("BTC/USDT", "ETH/USDT", "SOL/USDT")
    instance.config.write_text(f"[run]\nsymbols = {list(two)!r}\n")
    file.write_text(DAILY.replace("WHY", "first"))
    plans = armed_by("first", two)
    assert armed_by("first", two) == plans, "nothing has changed"
    file.write_text(DAILY.replace("WHY", "second"))
    assert armed_by("second", two) == plans + 1
    assert armed_by("second", two, "--for", "1h") == plans + 1, "nothing that it plans by has changed"
    instance.config.write_text(f"[run]\nsymbols = {list(three)!r}\n")
    assert armed_by("second", three) == plans + 2


def test_an_ordered_stop_and_a_new_start_keep_the_equity_and_the_path_of_the_prices(instance: Running) -> None:
    instance.start()
    until(instance.last_fill_ns, 20, "a first fill")
    first = ticks_so_far(instance)
    assert instance.stop() == 0
    ended, last_ns = instance.summary(), instance.newest_event_ns()
    instance.start()
    second = ticks_so_far(instance)
    assert instance.stop() == 0
    resumed = instance.summary()
    assert last_ns <= second["event_ns"][0] <= last_ns + 60 * 10**9, "right behind the last record, never before it"
    assert abs(resumed["equity_start"] - ended["equity_end"]) < 1e-3 * ended["equity_end"], "a restart neither pays nor costs"
    made = simulated(int(first["event_ns"][0]), int(second["event_ns"][-1]))
    for ticks in (first, second):
        same = made[(made["event_ns"] >= ticks["event_ns"][0])][: len(ticks)]
        assert len(ticks) > 1000
        for name in ("event_ns", "instrument", "kind", "price", "lots", "ask_price", "ask_lots"):
            assert np.array_equal(same[name], ticks[name]), name
    assert instance.faults() == []


def ticks_so_far(running: Running) -> Any:
    """Every tick of the run so far, from shared memory, while its feed stands still."""
    memory = segment.Memory(running.name, writable=False)
    until(lambda: int(memory.ticks.ring[0]["head"]) > 1500, 20, "enough of them")
    pid = running.kill("feed", signal.SIGSTOP)
    head = int(memory.ticks.ring[0]["head"])
    ticks = memory.ticks.slots[np.arange(1, head) & (len(memory.ticks.slots) - 1)].copy()
    assert running.row("feed")["pid"] == pid
    running.kill("feed", signal.SIGCONT)
    assert np.array_equal(ticks["seq"], np.arange(1, head)), "the run is short enough for its ring to hold all of it"
    return ticks


def simulated(start_ns: int, end_ns: int) -> Any:
    """The market's own ticks between two event times, by its seed and nothing else."""
    market = Simulation(7, catalogue.resolve(catalogue.default_symbols("simulated"), market="simulated"), start_ns)
    made: list[Any] = []
    ticks, marks = np.zeros(4096, l.TICK), np.zeros((4096, 2), np.int64)
    while not made or made[-1]["event_ns"][-1] <= end_ns:
        made.append(ticks[: market.fill(ticks, marks)].copy())
    return np.concatenate(made)


#: buys and sells whatever moves, at once
EAGER = """
from control.think.strategy import Condition, Strategy, equity_bps

class Eager(Strategy):
    interval_s = 10

    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol=symbol, side="buy", level=facts.price_text(market.quotes[symbol].last * 1.00002, "up"), direction="up",
                          size=equity_bps(100), confidence=0.9, stop_bps=20, target_bps=20, time_stop_s=30, why="it moves")
                for symbol, facts in market.facts.items() if symbol not in portfolio.positions and market.quotes[symbol].last > 0]
"""


def test_a_strategy_from_a_file_trades_what_it_learns_serves_a_replay_and_fresh_puts_all_of_it_aside(instance: Running) -> None:
    file = instance.folder / "eager.py"
    file.write_text(EAGER)
    instance.start("--strategy", f"{file}:Eager")
    until(lambda: instance.status()["trades_closed"] >= 3, 30, "closed trades")
    _, reply = instance.ctl("orders")
    assert {row["strategy"] for row in reply["rows"]} == {"Eager"}
    assert {row["why"] for row in reply["rows"]} == {"it moves"}
    instance.ctl("flatten")  # a trade that closes while the reflection has stopped already is learned at the next start

    def all_learned() -> bool:
        data = instance.ctl("stats")[1]["data"]
        return not instance.status()["open_positions"] and data["metrics"]["reflection"]["trades_applied"] == data["trades_closed"]

    until(all_learned, 20, "every trade is learned")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    learned = coins(instance.state / "knowledge")
    assert sum(score["trades"] for score in learned.values()) == instance.summary()["trades_closed"]

    prices = instance.folder / "flat.csv"
    prices.write_text("time,price,size\n" + "".join(f"{1_700_000_000 + second},100.0,1\n" for second in range(30)))
    replay = Running(instance.folder)
    replay.start(f"{prices}=BTC/USDT", "--knowledge", str(instance.state), mode="replay", speed="max", wait=False)
    assert replay.process is not None
    assert replay.process.wait(60) == 0, replay.text()
    (knowledge,) = (instance.folder / "runs").glob("*/state/knowledge")
    assert coins(knowledge) == learned, "the replay began with it, and added nothing as nothing was traded"

    number = instance.identity()
    instance.start("--fresh")
    assert f"the state of '{instance.name}' is archived in" in instance.text()
    assert instance.status()["equity"].startswith(("10000", "999")), "a new account"
    until(instance.last_fill_ns, 20, "a first fill of it")
    assert instance.stop() == 0
    (archived,) = (instance.folder / "archive").iterdir()
    assert coins(archived / "knowledge") == learned
    assert instance.identity() != number, "no order id of the old account can come again"
    assert instance.last_order()[0] == 1
    assert instance.faults() == []


def coins(folder: Path) -> dict[str, Any]:
    store = Knowledge(folder)
    try:
        return {symbol: msgspec.to_builtins(score) for (family, symbol), score in store.scores().items() if family == "coin"}
    finally:
        store.close()


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_when_everything_dies_at_once_no_position_is_forgotten_and_the_books_agree(rounds: int, instance: Running) -> None:
    for number in range(rounds):
        instance.start()
        until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
        time.sleep(0.37 * number % 2)
        # of an entry that nothing is filled of yet nothing may be left: it had perhaps not gone out
        before = {row["id"] for row in instance.ctl("positions")[1]["rows"] if Decimal(row["size"])}
        instance.kill_everything()
        instance.start()
        after = {row["id"] for row in instance.ctl("positions")[1]["rows"]}
        assert before <= after | closed_positions(instance)
        assert instance.stop() == 0, instance.text()
        assert instance.summary()["reconciled"] is True
        assert instance.faults() == []


def test_what_the_recorder_had_not_stored_when_everything_died_is_stored_by_the_next_start(instance: Running) -> None:
    instance.start()
    until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    instance.kill("recorder", signal.SIGSTOP)
    memory = Memory(instance.name, writable=False)
    until(lambda: board.owed(memory) >= 3, 20, "records that are not journaled")
    instance.kill_everything(memory=False)
    journal = instance.journal()
    at = journal.cursors()  # the recorder's own, on the board, may be a commit behind
    journal.close()
    kept = int(memory.orders.ring[0]["head"]) - at.orders + int(memory.reports.ring[0]["head"]) - at.reports
    instance.start()
    assert "cleared what a former run" in instance.log.read_text()
    journal = instance.journal()
    (told,) = [event for _, event in journal.events() if event.kind == "salvage"]
    journal.close()
    assert told.data["orders"] + told.data["reports"] == kept
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []


def closed_positions(running: Running) -> set[str]:
    journal = running.journal()
    try:
        return {str(int(record.row["position_id"])) for record in journal.trades()}
    finally:
        journal.close()


#: what a quote moves, and what is not kept beyond a run
MARKED = {"reserved", "equity", "peak_equity", "max_drawdown_e6", "event_ns", "day_start_equity", "best_price", "entry_seq", "exit_seq",
          "exit_working_lots", "retry_ns", "state", "attempt", "day", "entries_today", "messages_due_ns",
          "entries_due_ns", "adjusted_tick", "open_index"}


@pytest.mark.slow
def test_the_book_from_the_first_record_on_is_the_book_of_the_last_snapshot(instance: Running, tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    instance.start()
    until(lambda: instance.status()["trades_closed"] >= 8 and instance.ctl("positions")[1]["rows"], 30, "trades, and an open position")
    instance.process.kill()  # type: ignore[union-attr]
    until(lambda: not instance.alive() and not instance_dir(instance.name).exists(), 12, "the orphans have stopped in order")
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    books = []
    for how in ("snapshot", "all", "all, fills twice"):
        journal = instance.journal()
        memory = segments_like(journal)
        tail = read_tail(journal, journal.last_snapshot() if how == "snapshot" else None)
        assert restore(journal, memory, fills_twice(tail) if how == "all, fills twice" else tail)
        account = {name: memory.sniper.account[0][name].tolist() for name in l.ACCOUNT.names or () if name not in MARKED and name[0] != "_"}
        positions = {int(row["position_id"]): {name: row[name].tolist() for name in l.POSITION.names or () if name not in MARKED and name[0] != "_"}
                     for row in memory.sniper.positions if row["state"] != l.POS_FLAT}
        books.append((account, positions, memory.sniper.instrument_states["exposure_lots"].tolist()))
        journal.close()
        segment.remove("restored")
    assert books[1] == books[2], "a venue event counts once"
    assert [books[0][0], books[0][2]] == [books[1][0], books[1][2]]
    assert books[0][1].keys() == books[1][1].keys()
    for identity, position in books[0][1].items():
        again = books[1][1][identity]
        assert {name: (position[name], again[name]) for name in position if position[name] != again[name]} == {}
    assert books[0][0]["trades_closed"] >= 8
    assert books[0][1]


def fills_twice(tail: Any) -> Any:
    """What is read of a journal in which every fill was published again."""
    again = np.where(tail.reports["kind"] == l.FILL, 2, 1)
    return dataclasses.replace(tail, reports=tail.reports.repeat(again), report_incarnations=tail.report_incarnations.repeat(again))


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


def test_a_position_of_a_strategy_and_symbol_that_are_not_named_again_is_kept_until_it_closes(instance: Running) -> None:
    while not set(instance.open_at_the_end()) - {"BTC/USDT"}:  # what is open when the stop begins may close meanwhile
        instance.start("--strategy", "mean_reversion")
        until(lambda: [row for row in instance.ctl("positions")[1]["rows"] if row["state"] == "monitoring" and row["symbol"] != "BTC/USDT"], 30,
              "an open position")
        assert instance.stop() == 0
    instance.start("--strategy", "momentum", "--symbols", "BTC/USDT")
    assert "positions of the last run are kept with their protection" in instance.text()
    _, reply = instance.ctl("positions")
    until(lambda: not [row for row in instance.ctl("positions")[1]["rows"] if row["strategy"] == "mean_reversion"], 20,
          f"their time stop closes them: {reply}")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
