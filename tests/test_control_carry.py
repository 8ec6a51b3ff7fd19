"""What the last run left open is taken along by a run that does not name it: no position is forgotten."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from control import config as configuration
from control.learn.knowledge import Applied, Knowledge
from control.record.journal import Journal
from control.record.restore import restore
from control.supervise import instance
from control.supervise.carry import take_along
from control.supervise.instance import LaunchError, Places
from control.supervise.launch import make_plan
from control.supervise.session import Session
from ipc import layout as l
from tests.journal_scene import PERPETUAL, SPOT, Scene, position_fact
from tests.learn_scene import closed, stored


def plan_of(symbols: str, strategies: str) -> Any:
    return make_plan("paper", [], configuration.load(None, {"run.symbols": symbols, "run.strategies": strategies}, {}))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A journal whose last snapshot holds BTC/USDT and ETH/USDT:USDT, both of momentum."""
    day = Scene()
    folder = tmp_path / "state"
    day.write(folder / "journal", snapshot=day.snapshot([position_fact(SPOT, 3, l.BUY, 250, 7), position_fact(PERPETUAL, 4, l.SELL, 20, 9)]))
    return folder


def test_symbols_and_strategies_of_open_positions_are_taken_along_behind_the_named_ones(state: Path) -> None:
    plan = take_along(plan_of("SOL/USDT,BTC/USDT", "mean_reversion"), state)
    assert [row["symbol"].decode() for row in plan.rows] == ["SOL/USDT", "BTC/USDT", "ETH/USDT:USDT"]
    assert (plan.strategy_names, plan.carried_strategies) == (("mean_reversion",), ("momentum",))
    assert plan.carried_symbols == ("ETH/USDT:USDT",)


def test_a_run_that_names_everything_takes_nothing_along(state: Path) -> None:
    before = plan_of("BTC/USDT,ETH/USDT:USDT", "momentum")
    plan = take_along(before, state)
    assert (plan.carried_symbols, plan.carried_strategies, len(plan.rows)) == ((), (), 2)


def test_a_first_start_and_a_replay_take_nothing_along(state: Path, tmp_path: Path) -> None:
    plan = plan_of("SOL/USDT", "momentum")
    assert take_along(plan, tmp_path / "new").carried_symbols == ()
    assert take_along(dataclasses.replace(plan, mode="replay"), state).carried_symbols == ()


def test_carried_positions_stand_in_memory_with_their_symbol_closed_to_entries(
        state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    plan = take_along(plan_of("SOL/USDT", "mean_reversion"), state)
    places = Places("carry", "run", tmp_path, state, tmp_path / "run", tmp_path / "sockets")
    for folder in (places.run_dir / "logs", places.socket_dir):
        folder.mkdir(parents=True)
    session = Session(plan, places, instance.identify(places, "paper", 1), say=print)
    try:
        memory = session.memory
        journal = Journal(state / "journal")
        assert restore(journal, memory) == "resumed: 2 open positions"
        journal.close()
        held = {(memory.instruments.instruments[int(p["instrument"])]["symbol"].decode(),
                 memory.instruments.strategies[int(p["strategy"])]["name"].decode()): int(p["lots"])
                for p in memory.sniper.positions if p["state"] != l.POS_FLAT}
        assert held == {("BTC/USDT", "momentum"): 250, ("ETH/USDT:USDT", "momentum"): 20}
        assert list(memory.sniper.instrument_states["closed_to_entries"][:3]) == [0, 1, 1]
        assert int(memory.board.run[0]["strategies"]) == 1, "nobody plans for the carried one"
    finally:
        session.close()


def test_more_strategies_than_there_are_rows_are_refused_with_the_remedy(state: Path, tmp_path: Path) -> None:
    files = []
    for number in range(l.MAX_STRATEGIES):
        files.append(tmp_path / f"s{number}.py")
        files[-1].write_text(f"class S{number}:\n    name = 's{number}'\n")
    specs = ",".join(f"{file}:S{number}" for number, file in enumerate(files))
    with pytest.raises(LaunchError, match=r"positions of momentum are still open.*--fresh"):
        take_along(plan_of("BTC/USDT", specs), state)


def test_knowledge_of_another_run_is_copied_and_its_journal_position_is_not(tmp_path: Path) -> None:
    store = Knowledge(tmp_path / "old" / "knowledge", writable=True)
    stored(store, Applied(3, 70), closed("A", 5))
    store.close()
    (tmp_path / "state").mkdir()
    instance.copy_knowledge(tmp_path / "old", tmp_path / "state")
    copy = Knowledge(tmp_path / "state" / "knowledge")
    assert (copy.scores()["coin", "A"].trades, copy.applied()) == (1, Applied())
    copy.close()
