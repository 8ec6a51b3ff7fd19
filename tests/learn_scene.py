"""Reflection under test: trades, a store that they are put into, and an instance whose recorder is the test."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.learn import reflection as module
from control.learn.evidence import Evidence
from control.learn.follower import Changes
from control.learn.gate import Adaptation
from control.learn.knowledge import Applied, Knowledge
from control.learn.learner import Learner, universe
from control.learn.quick_update import Score, updated
from control.learn.trade import Trade
from control.record import records
from control.record.writer import JournalWriter
from hotpath.kernel import barriers
from hotpath.venues.catalogue import resolve
from ipc import layout as l
from ipc import segment, wait
from ipc.process import Boot, Child

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
#: quanta of one USDT
USDT = 100_000_000
HOUR_NS = 3_600_000_000_000


def closed(symbol: str = "A", pnl: int = 1, number: int = 1, made: bool = True, net_bps: float = 0.0) -> Trade:
    return Trade(position_id=number, symbol=symbol, strategy="momentum", side="buy", made=made, pnl_quanta=pnl, fees_quanta=3, closed_ns=number,
                 net_bps=net_bps)


def learner() -> Learner:
    return Learner(universe(8, 2, 24, 4))


def stored(store: Knowledge, applied: Applied, *trades: Trade) -> None:
    scores = {}
    for trade in trades:
        key = ("coin", trade.symbol)
        scores[key] = updated(scores.get(key) or store.score(key) or Score(), trade)  # type: ignore[arg-type, call-overload]
    one = learner()
    store.restore(one)
    store.store(applied, Changes(scores, {}, {trade.position_id: trade for trade in trades}, [], len(trades),  # type: ignore[arg-type]
                                 max((trade.closed_ns for trade in trades), default=0)), one, one.take_changes())


def adaptation(mean_bps: float = -50.0, direction: str = "loses") -> Adaptation:
    return Adaptation(number=1, family="coin", value="A", direction=direction, stage="active", made_ns=0, since_ns=0,  # type: ignore[arg-type]
                      trades=50, mean_bps=mean_bps, log_e=9, needed=8, since=Evidence(direction="wins"))


class World:
    """An instance whose recorder is this test: it writes order-ring records and moves the durable cursor."""

    def __init__(self, folder: Path) -> None:
        segment.create_all("learn", 1024, 8, 64)
        self.folder, self.memory = folder, segment.Memory("learn")
        rows = resolve(SYMBOLS)
        self.memory.instruments.instruments[: len(rows)] = rows
        self.memory.board.run[0]["instruments"] = len(rows)
        self.journal = JournalWriter(folder / "journal", sync=False)
        self.memory.board.cursors[0]["incarnation"] = self.journal.begin_run(
            "first", {"instruments": msgspec.to_builtins(records.instrument_facts(rows, len(rows)))})
        self.seq = 0
        self.incarnation = 1

    def record(self, **fields: int) -> int:
        """An order-ring record, some behind the last one, and durable; gives its sequence."""
        self.seq += 3
        row = np.zeros(1, l.TRADE if fields["kind"] in (l.CLOSED, l.PAPER_CLOSED) else l.INTENT)
        row["seq"], row["event_ns"] = self.seq, self.seq
        for name, value in fields.items():
            row[name] = value
        ((key, value),) = records.encode_rows(records.ORDER, row, self.incarnation, 0, 0)
        with self.journal.env.begin(write=True) as transaction:
            transaction.put(key, value, db=self.journal.databases["orders"])
        self.memory.board.cursors[0]["durable_orders"] = self.seq
        wait.ring_bells(self.memory.board.processes, 1 << l.REFLECTION)
        return self.seq

    def trade(self, instrument: int, pnl: int, decided: tuple[int, ...] = (), exit_reference: int = 10_001) -> int:
        """A position of 100 lots opens and closes; gives its id. `decided` are the lots of its exit orders."""
        place = {"instrument": instrument, "side": l.BUY}
        position = self.incarnation << 40 | self.record(kind=l.NEW, purpose=l.ENTRY, reference_price=10_000, **place)
        self.record(kind=l.LIFECYCLE, leg=l.POS_OPENING, code=l.POS_OPEN, position_id=position, limit_price=9_900, reference_price=10_200, **place)
        for lots in decided:
            self.record(kind=l.NEW, purpose=l.EXIT, position_id=position, lots=lots, reference_price=exit_reference, **place)
        self.record(kind=l.CLOSED, position_id=position, pnl=pnl, fees=7, lots=100, entry_price=10_000, exit_price=10_001, opened_ns=self.seq,
                    exit_reason=l.EXIT_STOP, **place)
        return position

    def learned(self) -> int:
        return int(barriers.word(self.memory.board.cursors, 0, barriers.LEARNED_ORDERS))

    def close(self) -> None:
        self.journal.close()
        segment.remove("learn")


def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One for a test; to be made a fixture."""
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = World(tmp_path)
    yield made
    made.close()


def child_of(folder: str, memory: Any) -> Child:
    boot = Boot(role="reflection", instance="learn", mode="paper", market="replay", run_id="r", run_dir=folder, state_dir=folder,
                socket_dir=folder)
    return Child(boot, l.REFLECTION, memory, logging.getLogger("reflection"))


def reflecting(world: World, folder: Path) -> module.Reflection:
    """The process's object in this one, over this test's own journal."""
    reflection = module.Reflection(child_of(str(folder), world.memory))
    reflection._journal = world.journal
    return reflection


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)
