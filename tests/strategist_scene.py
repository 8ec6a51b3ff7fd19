"""An instance without processes around a strategist: real shared memory and sockets, a recorder and a sniper that only note what they are told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.think import strategist as module
from control.think.config import Strategy as Settings
from control.think.strategist import Strategist
from hotpath.venues.catalogue import resolve
from ipc import bus, messages, ring, segment, wait
from ipc import layout as l
from ipc.process import Boot, Child

SECOND = 1_000_000_000
START = 1_700_000_010 * SECOND
SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT")

MINE = """
import time
from control.think.strategy import Condition, Strategy, equity_bps

class Mine(Strategy):
    calls = 0

    def plan(self, market, portfolio, knowledge):
        Mine.calls += 1
        last = market.quotes["BTC/USDT"].last
        if last == 13.0:
            raise RuntimeError("thirteen")
        if last == 14.0:
            return "nonsense"
        if last == 15.0:
            time.sleep(3600)
        seen = [len(market.candles(symbol)) for symbol in market.facts]
        return [Condition(symbol="BTC/USDT", side="buy", level="100.00", direction="up", size=equity_bps(100), confidence=0.5 + 0.4 * n,
                          stop_bps=50, why=f"last {last} candles {seen}") for n in range(2)]
"""


def rows_of(plan: messages.Arm) -> Any:
    return np.frombuffer(plan.rows, l.CONDITION)


class Peer:
    """A recorder or sniper that notes requests and answers; `deaf` swallows so many requests first."""

    def __init__(self, folder: str, name: str, answer: Callable[[Any], Any]) -> None:
        self.told: list[Any] = []
        self.deaf = 0
        self._server = bus.Server(folder, name, messages.decode_child_request)
        self._answer, self._over = answer, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _handle(self, request: Any) -> Any:
        if self.deaf:
            self.deaf -= 1
            return None
        self.told.append(request)
        return self._answer(request)

    def _run(self) -> None:
        while not self._over:
            self._server.poll(0.01, self._handle)
        self._server.close()

    def close(self) -> None:
        self._over = True
        self._thread.join()

    def plans(self) -> list[Any]:
        """In words to the recorder, as rows to the sniper."""
        return [one for one in self.told if isinstance(one, messages.Plan | messages.Arm)]

    def events(self) -> list[messages.Event]:
        return [one for one in self.told if isinstance(one, messages.Event)]


class World:
    """An instance without processes: memory, two peers, and a strategist that is turned by hand."""

    def __init__(self, folder: Path) -> None:
        segment.create_all("plan", 1024, 8, 64)
        self.memory = segment.Memory("plan")
        self.memory.ticks.ring[0]["capacity"] = 1024
        self.memory.orders.ring[0]["capacity"] = l.RING_SLOTS
        rows = resolve(SYMBOLS)
        self.memory.instruments.instruments[: len(rows)] = rows
        self.memory.board.run[0]["instruments"] = len(rows)
        self.memory.board.cursors[0]["incarnation"] = 1
        #: what of earlier runs is in force, as the recorder tells it
        self.in_force: list[dict[str, Any]] = []
        self.folder = folder
        self.numbers = iter(range(1, 1000))
        self.recorder = Peer(str(folder), "recorder", self._number)
        self.sniper = Peer(str(folder), "sniper", self._arm)
        self.strategy = folder / "mine.py"
        self.strategy.write_text(MINE)
        self.made: list[Strategist] = []

    def _number(self, request: Any) -> Any:
        if isinstance(request, messages.Plan):
            return messages.Planned(plan_seq=next(self.numbers), armed=len(request.conditions))
        if isinstance(request, messages.Query) and request.what == "in_force":
            return messages.Answer(rows=self.in_force)
        return messages.Done()

    def _arm(self, request: Any) -> Any:
        names = [row["name"] for row in self.memory.instruments.strategies if row["name"]]
        if self.memory.board.run[0]["lockstep"] and request.strategy.encode() == names[-1] and not request.more:
            self.memory.board.cursors[0]["plan_horizon_ns"] = request.next_due_ns
        return messages.Planned(plan_seq=request.plan_seq, generation=1, armed=len(rows_of(request)))

    def child(self, strategies: tuple[str, ...] = (), market: str = "replay", restarts: int = 0, **settings: Any) -> Child:
        sections = {"strategy": msgspec.Raw(msgspec.json.encode(Settings(**settings)))}
        boot = Boot(role="strategist", instance="plan", mode="paper", market=market, run_id="r", run_dir=str(self.folder),
                    state_dir=str(self.folder), socket_dir=str(self.folder), strategies=strategies or (f"{self.strategy}:Mine",),
                    sections=sections, start_event_ns=START, lockstep=bool(self.memory.board.run[0]["lockstep"]), restarts=restarts)
        names = self.memory.instruments.strategies
        for number, spec in enumerate(boot.strategies):
            names[number]["name"] = spec.rpartition(":")[2].encode()
        return Child(boot, l.STRATEGIST, self.memory, logging.getLogger("strategist"))

    def strategist(self, strategies: tuple[str, ...] = (), **settings: Any) -> Strategist:
        for earlier in self.made:
            earlier.close()
        made = Strategist(self.child(strategies, **settings))
        self.made = [made]
        made.recover()
        return made

    def tick(self, after_s: float, price: int = 1000, instrument: int = 0) -> int:
        row = np.zeros(1, l.TICK)
        row[0] = (0, START + int(after_s * SECOND), 0, instrument, l.TICK_TRADE, 0, 0, price, 5, 0, 0)
        seq = int(ring.publish(self.memory.ticks.ring, self.memory.ticks.slots, row, 0))
        wait.ring_bells(self.memory.board.processes, 1 << l.STRATEGIST)
        return seq

    def metric(self, name: str) -> int:
        return int(self.memory.board.processes[l.STRATEGIST]["metrics"][l.METRICS[l.STRATEGIST].index(name)])

    def close(self) -> None:
        for one in (*self.made, self.recorder, self.sniper):
            one.close()
        segment.remove("plan")


def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One for a test; to be made a fixture."""
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = World(tmp_path)
    yield made
    made.close()


def settle(strategist: Strategist) -> None:
    while strategist.turn(0) != module.candles.IDLE:
        pass


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
