"""Who advises a run: one client and one budget for all its strategies, what a predecessor left in the journal, and what no run may ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from control.record.writer import JournalWriter
from control.think.advised import Advised
from control.think.advisers import Past, engage, past_of, warnings
from control.think.armed import Armed
from control.think.llm.config import Llm
from control.think.llm.exchange import LOST, Asking, Exchange
from control.think.llm.prompt import Message, sha256_of
from control.think.planning import Planner
from control.think.strategy import StrategyError
from hotpath.config import Limits, Recovery
from ipc import layout as l
from ipc import segment
from ipc.messages import Condition, Event, Plan, Size
from tests.llm_scene import model

DAY_NS = 86_400 * 10**9
MESSAGES = (Message("system", "a"), Message("user", "b"))


def planning(*names: str) -> Any:
    return SimpleNamespace(planners=[Planner(number, name, Advised(), 15, Recovery()) for number, name in enumerate(names)])


def exchange(strategy: str = "llm", wall_ns: int = 0, **more: Any) -> Exchange:
    return Exchange(prompt_sha256=sha256_of(MESSAGES), messages=MESSAGES, strategy=strategy, asked_wall_ns=wall_ns, failure="no", **more)


def test_all_strategies_of_a_run_ask_the_same_models_within_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "x")
    now_ns = time.time_ns()
    past = Past([exchange("llm", now_ns, tokens_in=70), exchange("Mine", now_ns, tokens_in=7)],
                [Asking(prompt_sha256="lost", strategy="Mine", asked_wall_ns=now_ns, tokens=500)])
    made, asked = planning("llm", "Mine"), []

    def read() -> Past:
        asked.append(1)
        return past

    shown = engage(made, Llm(models=(model("http://h/v1"),)), Limits(), read, "paper")
    one, other = (planner.strategy for planner in made.planners)
    assert one._advisor._source is other._advisor._source
    assert one._advisor._source.budget.spent.tokens == 577, "of a question without an end the worst case"
    assert [errors.activity for errors in shown] == ["advice llm", "advice Mine", "llm 1 scripted"]
    assert (one._past, other._past) == ([past.exchanges[0]], [past.exchanges[1]])
    assert (one._lost, other._lost) == (None, past.askings[0])
    assert asked == [1]
    made = planning("llm", "Mine")
    engage(made, Llm(models=(model("http://h/v1"),)), Limits(), lambda: past._replace(same_run=False), "paper")
    anew = made.planners[1].strategy
    assert (anew._lost, anew._past[0].failure, anew._past[0].again_ns) == (None, LOST, 0), "a new start asks at once"


@pytest.mark.parametrize(("mode", "llm", "says"), [
    ("backtest", {}, "a backtest that asks one proves nothing"), ("backtest", {"ask_in_replay": True}, "a backtest that asks one proves nothing"),
    ("replay", {}, "a replay goes over the past, which a model may know, so asking one proves nothing; replay what it said: set llm.replay_from"),
    ("replay", {}, "llm.ask_in_replay = true"), ("paper", {"models": ()}, "no model is configured"), ("live", {"models": ()}, "no model")])
def test_no_model_is_asked_about_a_past_that_it_may_know(mode: str, llm: dict[str, Any], says: str) -> None:
    with pytest.raises(StrategyError, match=says):
        engage(planning("llm"), Llm(**({"models": (model("http://h/v1"),)} | llm)), Limits(), Past, mode)


def test_a_replay_that_asks_all_the_same_says_what_it_is_worth() -> None:
    llm = Llm(models=(model("http://h/v1"),), ask_in_replay=True)
    assert len(engage(planning("llm"), llm, Limits(), Past, "replay")) == 2
    (event,) = warnings(planning("llm"), llm, "replay")
    assert (event.kind, "results prove nothing" in event.text) == ("foreknowledge", True)
    assert warnings(planning("llm"), msgspec.structs.replace(llm, replay_from="x"), "replay") == []
    assert warnings(planning("llm"), llm, "paper") == []
    assert engage(planning(), Llm(), Limits(), Past, "backtest") == []


def test_a_plan_that_was_not_armed_is_told_to_the_strategy_that_made_it() -> None:
    (planner,) = planning("llm").planners
    planner.refused("sniper: no")
    assert not planner.strategy._refused, "it had given none"
    planner.given_ns = 5
    planner.refused("sniper: no")
    assert (planner.strategy._refused, planner.given_ns, planner.error) == (True, 0, "sniper: no")


@pytest.mark.parametrize(("path", "says"), [
    ("~nobody-is-called-so/runs", "determine home directory"), ("a\0b", "replay_from: "), ("x" * 5_000, "name a folder under"),
    ("half \ud800", "half")])
def test_a_recording_at_a_place_that_no_path_can_name_is_a_fault_of_the_configuration(path: str, says: str) -> None:
    with pytest.raises(StrategyError, match=says) as caught:
        engage(planning("llm"), Llm(replay_from=path), Limits(), Past, "replay")
    str(caught.value).encode()


# ── the journal ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalWriter]:
    made = JournalWriter(tmp_path / "journal", sync=False)
    made.begin_run("r", {})
    yield made
    made.close()


def told(kind: str, **data: Any) -> Event:
    return Event(source="strategist", kind=kind, text=kind, wall_ns=1, data=data)


def test_of_the_past_the_day_is_read_and_what_is_damaged_is_passed_over(journal: JournalWriter, tmp_path: Path) -> None:
    one, other = exchange(wall_ns=5), exchange("Mine", 6, again_ns=99)
    asking = Asking(prompt_sha256="x", asked_wall_ns=7, tokens=3)
    journal.append(events=[told("llm_exchange", exchange=msgspec.to_builtins(one)), told("else"), told("llm_exchange", exchange={"schema": 99}),
                           told("llm_exchange", exchange=msgspec.to_builtins(other)), told("llm_asked", asking=msgspec.to_builtins(asking)),
                           told("llm_asked", asking="?")])
    journal.close()
    now_ns = time.time_ns()
    assert past_of(tmp_path / "journal", now_ns) == Past([other, one], [asking])
    assert past_of(tmp_path / "journal", now_ns, same_run=False).exchanges[0].again_ns == 0 < other.again_ns, "a key may be mended by now"
    assert past_of(tmp_path / "journal", now_ns + DAY_NS) == Past([other, one], [asking]), "where the clock was set back it may be of today"
    assert past_of(tmp_path / "journal", now_ns + 2 * DAY_NS) == Past([other], [asking]), "of the days before only the last exchange"
    assert past_of(tmp_path / "journal", now_ns + 4 * DAY_NS) == Past([], [])


# ── what is armed ────────────────────────────────────────────────────────────────────────────────────────────────────
def condition(why: str) -> Condition:
    return Condition(symbol="BTC/USDT", side="buy", direction="up", level="100", size=Size(kind="equity_bps", value="1"), confidence=0.9, why=why,
                     stop_bps=50)


def test_what_is_armed_is_what_the_table_has_in_the_words_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    segment.create_all("armed", 1024, 8, 64)
    memory = segment.Memory("armed")
    read: list[int] = []

    def plan_of(number: int) -> Plan | None:
        read.append(number)
        return Plan(strategy="llm", due_ns=10 * number, next_due_ns=99, conditions=[condition(f"{number}/{place}") for place in range(4)]
                    ) if number != 8 else None

    armed = Armed(memory, plan_of)
    assert armed.of(0, 0) == []
    rows, states, table = memory.conditions.rows, memory.sniper.condition_states, memory.conditions.table[0]
    #: number, place, strategy, since, removed, valid until, fired, group
    given = [(3, 1, 0, 1, 0, 50, 0, 0), (3, 0, 0, 1, 0, 50, 0, 0), (3, 2, 0, 1, 0, 50, 1, 0), (3, 3, 0, 1, 0, 9, 0, 0), (4, 0, 1, 1, 0, 50, 0, 0),
             (5, 0, 0, 1, 2, 50, 0, 0), (6, 0, 0, 3, 0, 50, 0, 0), (7, 0, 0, 2, 0, 50, 0, 0), (8, 0, 0, 2, 0, 50, 0, 0), (9, 1, 0, 2, 0, 50, 0, 77)]
    for slot, (number, place, strategy, since, removed, until_ns, fired, group) in enumerate(given):
        row, own = rows[slot], number << l.PLAN_SHIFT | place
        row["condition_id"], row["strategy"], row["since"], row["removed"], row["max_fires"] = own, strategy, since, removed, 1
        row["valid_until_ns"], row["group_id"], row["group_slot"] = until_ns, group, slot
        states[slot]["condition_id"], states[slot]["fired"], states[slot]["group_done"] = own, fired, group
    states[0]["condition_id"], states[0]["fired"] = 1, 9  # of another one, whose slot it was
    table["slots_used"], table["generation"] = len(given), 2
    assert [(at, one.why) for at, one in armed.of(0, 20)] == [(30, "3/0"), (30, "3/1"), (70, "7/0")]
    assert [(at, one.why) for at, one in armed.of(1, 20)] == [(40, "4/0")]
    before = len(read)
    armed.of(1, 20)
    assert len(read) == before, "a plan is read once while it is armed"
    assert not np.any(rows["removed"][len(given):])
    segment.remove("armed")
