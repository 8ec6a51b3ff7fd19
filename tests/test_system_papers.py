"""What is on paper over a start of a real instance: open twins and prices that are still to be told, after a stop and after a total loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.learn.exits import OWN_EXITS
from control.learn.knowledge import Applied, Knowledge
from ipc import layout as l
from tests.relearn import contents_of, relearned
from tests.running import BUSY, Running, until

#: buys and sells whatever moves, and keeps it for ten minutes of event time at most
HOLDER = """
from control.think.strategy import Condition, Strategy, equity_bps

class Holder(Strategy):
    interval_s = 10

    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol=symbol, side="buy", level=facts.price_text(market.quotes[symbol].last * 1.00002, "up"), direction="up",
                          size=equity_bps(100), confidence=0.9, stop_bps=30, target_bps=30, time_stop_s=600, why="it moves")
                for symbol, facts in market.facts.items() if symbol not in portfolio.positions and market.quotes[symbol].last > 0]
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, BUSY)
    (tmp_path / "holder.py").write_text(HOLDER)
    yield made
    made.end()


class Seen:
    """What the journal tells by now: ids of twins that are open with their positions', and of prices afterwards."""

    def __init__(self, running: Running) -> None:
        journal = running.journal()
        try:
            rows = [(record.incarnation, record.row) for record in journal.orders()]
        finally:
            journal.close()
        opened = {int(row["position_id"]): int(row["order_seq"]) for _, row in rows if row["kind"] == l.PAPER_OPENED and row["order_seq"]}
        self.ended = {int(row["position_id"]): (incarnation, l.EXIT_REASONS[int(row["code"])]) for incarnation, row in rows
                      if row["kind"] == l.PAPER_CLOSED}
        self.open_twins = {twin: base for twin, base in opened.items() if twin not in self.ended}
        self.closed = {int(row["position_id"]): l.EXIT_REASONS[int(row["code"])] for _, row in rows if row["kind"] == l.CLOSED}
        self.told = {(int(row["position_id"]), int(row["code"])): int(row["reference_price"]) for _, row in rows if row["kind"] == l.AFTERWARDS}


@pytest.mark.parametrize("killed", [False, True], ids=["an ordered stop", "everything killed"])
def test_twins_and_prices_afterwards_go_on_with_the_next_start(instance: Running, killed: bool) -> None:
    def start() -> None:
        instance.start("--strategy", f"{instance.folder / 'holder.py'}:Holder", speed="60")

    start()
    until(lambda: len((seen := Seen(instance)).open_twins) >= 3 and len(seen.closed) >= 3, 60, "open twins, and closed trades")
    if killed:
        instance.kill_everything()
    else:
        assert instance.stop() == 0
    before = Seen(instance)
    waiting = {number for number in before.closed if (number, 15) not in before.told}
    assert before.open_twins
    assert waiting
    start()
    assert "resumed: " in instance.text()

    def gone_on() -> Any:
        now = Seen(instance)
        return now if before.open_twins.keys() <= now.ended.keys() and waiting <= {number for number, minutes in now.told if minutes == 15} else None

    after = until(gone_on, 40, "each twin ends, and each price is told")
    assert {after.ended[twin][0] for twin in before.open_twins} == {2}
    priced = {number for number in waiting if after.told[number, 15] > 0}
    assert priced, "the market has gone on where it was"
    paired = {base: after.ended[twin][1] for twin, base in before.open_twins.items() if {after.ended[twin][1], after.closed.get(base)} <= OWN_EXITS}
    assert paired
    until(lambda: instance.status()["learning"]["waiting"] == 0, 20, "all of it is learned")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    store = Knowledge(instance.state / "knowledge")
    try:
        trades = {number: store.trade(number) for number in (*paired, *priced)}
    finally:
        store.close()
    assert all(trade is not None and trade.variant_bps is not None for number, trade in trades.items() if number in paired)
    assert all(trade is not None and trade.after_15m_bps is not None for number, trade in trades.items() if number in priced)
    kept = contents_of(instance.state / "knowledge")
    journal = instance.journal()
    try:
        assert relearned(journal, instance.folder / "again", 1, Applied(**kept["applied"])) == kept
    finally:
        journal.close()
