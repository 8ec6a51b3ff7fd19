"""The closed loop with real processes: trade → quick update → look → adaptation → the next plan → trade again, over kills and restarts."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.learn.knowledge import Applied
from ipc import layout as l
from tests.llm_server import Handler, completion, proposal, reply, serving
from tests.relearn import contents_of, relearned
from tests.running import Running, until

#: fees of 30 bps a trade that is closed after two seconds: each one loses, each by nearly the same, and by more than what a coin is only reduced for
LOSER = """
from control.think.strategy import Condition, Strategy, equity_bps

class Loser(Strategy):
    interval_s = 2

    def plan(self, market, portfolio, knowledge):
        made = []
        for symbol in ("BTC/USDT", "ETH/USDT"):
            last = market.quotes[symbol].last
            if symbol in portfolio.positions or not last > 0:
                continue
            facts = market.facts[symbol]
            for direction, factor in (("up", 1.00001), ("down", 0.99999)):
                made.append(Condition(symbol=symbol, side="buy", level=facts.price_text(last * factor, direction), direction=direction,
                                      size=equity_bps(200), confidence=0.9, stop_bps=25, target_bps=40, time_stop_s=2, valid_for_s=30,
                                      group="g" + symbol[:3], why="it loses"))
        return made
"""
CONFIG = """
[limits]
max_entries_per_day = 100000
min_confidence = 0.0
duplicate_window_ms = 0
max_repeats = 100000
[paper]
spot_taker_fee_bps = 15.0
[learning]
trades_between_looks = 5
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, CONFIG)
    (tmp_path / "loser.py").write_text(LOSER)
    yield made
    made.end()


def start(running: Running, speed: str = "60") -> None:
    running.start("--strategy", f"{running.folder / 'loser.py'}:Loser", speed=speed)


def adaptations(running: Running, stage: str = "") -> list[dict[str, Any]]:
    code, reply = running.ctl("adaptations", *([stage] if stage else []))
    return list(reply["rows"]) if code == 0 else []


def records(running: Running, *kinds: int) -> list[Any]:
    journal = running.journal()
    try:
        return [record for record in journal.orders() if int(record.row["kind"]) in kinds]
    finally:
        journal.close()


def instrument(running: Running, symbol: str) -> int:
    journal = running.journal()
    try:
        return next(number for facts in journal.instruments().values() for number, fact in facts.items() if fact.symbol == symbol)
    finally:
        journal.close()


def of_instrument(running: Running, number: int, *kinds: int) -> list[Any]:
    return [record for record in records(running, *kinds) if int(record.row["instrument"]) == number]


def on_paper(running: Running, number: int, kind: int) -> list[Any]:
    """Of trades on paper that are no twin of a position."""
    opened = of_instrument(running, number, l.PAPER_OPENED)
    twins = {int(record.row["position_id"]) for record in opened if record.row["order_seq"]}
    return [record for record in of_instrument(running, number, kind) if int(record.row["position_id"]) not in twins]


def test_a_coin_that_loses_is_found_shut_followed_on_paper_and_all_of_it_outlives_everything(instance: Running) -> None:
    start(instance)
    until(lambda: instance.status()["learning"]["trades"] >= 5, 60, "trades that are learned at once")
    rows = {row["value"]: row for row in instance.ctl("knowledge", "coin")[1]["rows"]}
    assert rows["BTC/USDT"]["trades"] >= 1
    assert rows["BTC/USDT"]["mean_bps"] < 0

    instance.kill("reflection")
    shadow = until(lambda: adaptations(instance, "shadow"), 90, "something is believed, and waits in the shadow")
    assert {row["family"] for row in shadow} <= {"coin", "strategy", "hour"}
    instance.kill_everything()
    start(instance)
    (shut, *_) = until(lambda: [row for row in adaptations(instance, "active") if row["action"] == "blacklist"], 120, "a coin is shut")
    number = instrument(instance, shut["value"])
    until(lambda: len(on_paper(instance, number, l.PAPER_CLOSED)) >= 5, 60, "what is shut is followed on paper")

    # what was armed before is gone, and no plan brings it back
    code, why = instance.ctl("why", str(shut["number"]))
    assert code == 0
    assert any("on paper only" in line for line in why["data"]["text"])
    assert any(event.kind == "adaptation" and event.data["stage"] == "active" for event in instance.events())
    assert any(event.kind == "knowledge_applied" for event in instance.events())
    since = on_paper(instance, number, l.PAPER_OPENED)[0]
    assert not [record for record in of_instrument(instance, number, l.NEW)
                if record.row["purpose"] == l.ENTRY and (record.incarnation, record.seq) > (since.incarnation, since.seq)]
    code, version = instance.ctl("knowledge", "version")
    assert code == 0
    versions = {row["version"]: row for row in version["rows"]}
    assert versions[0]["trades"] >= 30, "it opened them before it knew anything"
    assert sum(row["on_paper"] for number, row in versions.items() if number) >= 5

    instance.kill("reflection", signal.SIGKILL)
    until(lambda: instance.status()["learning"]["waiting"] == 0, 30, "a successor has learned what waited")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    kept = contents_of(instance.state / "knowledge")
    journal = instance.journal()
    try:
        again = relearned(journal, instance.folder / "again", 1, Applied(**kept["applied"]), trades_between_looks=5)
    finally:
        journal.close()
    assert again == kept, "whoever reads the journal from its beginning knows the same"
    assert any(key.startswith("exits/Loser ") for key in kept["scores"]), "positions had twins, and pairs were told"


def test_a_shut_coin_is_not_traded_though_a_model_proposes_it(instance: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The knowledge of one run is that of the next, in which a model wants what it has found to lose."""
    start(instance)
    until(lambda: [row for row in adaptations(instance, "active") if row["family"] == "coin" and row["size_scale"] == 0], 200, "a coin is shut")
    (shut, *_) = [row["value"] for row in adaptations(instance, "active") if row["family"] == "coin" and row["size_scale"] == 0]
    instance.ctl("flatten")
    until(lambda: instance.status()["open_positions"] == 0, 30, "flat")
    assert instance.stop() == 0

    def wants_it(handler: Handler) -> None:
        handler.send(completion(reply(*[proposal(symbol=symbol, side="buy", direction=direction, level_bps=level_bps, size_bps=100,
                                                 confidence_bps=9000, stop_bps=25, target_bps=120, valid_minutes=60, clauses=[], why="I like it")
                                        for symbol, direction, level_bps in (("BTC/USDT", "up", 4), ("ETH/USDT", "up", 4), ("SOL/USDT", "up", 4),
                                                                             ("SOL/USDT", "down", -4))])))

    monkeypatch.setenv("LLM_TEST_KEY", "sk-test")
    with serving(wants_it) as server:
        instance.config.write_text(CONFIG + f'[[llm.models]]\nbase_url = "{server.base_url}"\nmodel = "fond"\napi_key_env = "LLM_TEST_KEY"\n')
        instance.start("--strategy", "llm", speed="30")
        instance.ctl("resume")
        until(lambda: [row for row in instance.ctl("orders")[1]["rows"] if row["strategy"] == "llm"], 60, "it trades what it may")
        assert not [row for row in instance.ctl("orders")[1]["rows"] if row["strategy"] == "llm" and row["symbol"] == shut]
        assert any(shut in event.text for event in instance.events() if event.kind == "llm_refused")
        prompt = server.requests[-1]["messages"][1]["content"]
        assert shut in json.loads(prompt.partition("<<<DATA")[2].partition("DATA>>>")[0])["knowledge"]["blacklist"]
        assert instance.stop() == 0
