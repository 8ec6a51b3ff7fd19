"""A recorder as a process of its own, with both rings in the test's hands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from control.record.journal import Journal
from control.record.recorder import CALM_S
from control.supervise import instance as instances
from ipc import bus, ring, segment, wait
from ipc import layout as l
from ipc.process import Boot
from tests.journal_scene import INSTRUMENTS, NOON_NS

_MAIN = """
import logging, sys
import msgspec
from control.record import recorder
from ipc import board, layout as l
from ipc.process import Boot, Child
from ipc.segment import Memory
logging.basicConfig(level=logging.INFO)
recorder.CALM_S = float(sys.argv[2])
boot = msgspec.json.decode(sys.argv[1].encode(), type=Boot)
child = Child(boot, l.RECORDER, Memory(boot.instance), logging.getLogger("recorder"))
board.announce(child.processes, l.RECORDER, l.PROC_STARTING)
sys.exit(recorder.main(child))
"""


def instrument_rows() -> np.ndarray[Any, Any]:
    rows = np.zeros(len(INSTRUMENTS), l.INSTRUMENT)
    for row, fact in zip(rows, INSTRUMENTS, strict=True):
        for name in ("tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "value_quanta", "quantum_exponent", "maker_fee_e8",
                     "taker_fee_e8"):
            row[name] = getattr(fact, name)
        row["symbol"], row["quote"], row["admitted"] = fact.symbol.encode(), b"USDT", 1
        row["kind"] = l.KIND_SPOT if fact.kind == "spot" else l.KIND_LINEAR_PERPETUAL
    return rows


class Stage:
    """Segments, a recorder process, and both rings in the test's hands."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.instance, self.lives, self.calm_s = folder, name, 0, CALM_S
        self.memory = instances.create_segments(name, ticks=1024, instruments=8, conditions=64, rows=instrument_rows(),
                                                strategies=("momentum", "mean_reversion"), number=7, lockstep=False,
                                                wait_strategy=l.WAIT_FUTEX, initial_cash=10**12)
        for region in (self.memory.orders, self.memory.reports):  # the recorder alone holds the writers back
            region.readers["active"] = 0
            region.readers["active"][l.RECORDER] = 1
        self.sockets = folder / "s"
        self.sockets.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._order, self._report = np.zeros(1, l.INTENT), np.zeros(1, l.REPORT)

    def start(self, crash_at: str = "", wait_ready: bool = True) -> None:
        boot = Boot(role="recorder", instance=self.instance, mode="paper", market="simulated", run_id="stage",
                    run_dir=str(self.folder / "run"), state_dir=str(self.folder / "state"), socket_dir=str(self.sockets),
                    strategies=("momentum", "mean_reversion"),
                    restarts=self.lives)
        self.lives += 1
        self.memory.board.processes[l.RECORDER]["state"] = l.PROC_ABSENT
        log = (self.folder / "recorder.log").open("ab")
        self.process = subprocess.Popen([sys.executable, "-c", _MAIN, msgspec.json.encode(boot).decode(), str(self.calm_s)], stdout=log, stderr=log,
                                        env=os.environ | {"TRADER_CRASH_AT": crash_at})
        log.close()
        if wait_ready:
            self.until(lambda: self.memory.board.processes[l.RECORDER]["state"] == l.PROC_READY)

    def until(self, done: Any, timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end, (self.folder / "recorder.log").read_text()
            time.sleep(0.001)

    def publish(self, orders: int = 0, reports: int = 0) -> None:
        """Records that name their own sequence; NEW, CLOSED and SWAPPED in turn, and a FILL each."""
        for _ in range(orders):
            seq = int(self.memory.orders.ring[0]["head"]) + 1
            self._order["kind"], self._order["event_ns"] = (l.NEW, l.CLOSED, l.SWAPPED)[seq % 3], NOON_NS + seq
            self._order["order_seq"] = self._order["lots"] = seq
            ring.publish(self.memory.orders.ring, self.memory.orders.slots, self._order, 0)
        for _ in range(reports):
            seq = int(self.memory.reports.ring[0]["head"]) + 1
            self._report["kind"], self._report["order_seq"], self._report["event_ns"] = l.FILL, seq, NOON_NS + seq
            ring.publish(self.memory.reports.ring, self.memory.reports.slots, self._report, 0)
        wait.ring_bells(self.memory.board.processes, 1 << l.RECORDER)

    def durable(self) -> bool:
        cursors = self.memory.board.cursors[0]
        return bool(cursors["durable_orders"] == self.memory.orders.ring[0]["head"]
                    and cursors["durable_reports"] == self.memory.reports.ring[0]["head"])

    def stop(self) -> int:
        assert self.process is not None
        self.memory.board.processes[l.RECORDER]["stop"] = l.STOP_DRAIN
        wait.ring_bells(self.memory.board.processes, 1 << l.RECORDER)
        code = self.process.wait(20)
        self.memory.board.processes[l.RECORDER]["stop"] = l.STOP_NONE
        return code

    def ask(self, request: Any, timeout_s: float = 5.0) -> Any:
        client = bus.Client(self.sockets, "recorder")
        try:
            return client.ask(request, timeout_s)
        finally:
            client.close()

    def journal(self) -> Journal:
        return Journal(self.folder / "state" / "journal")

    def assert_journal_is_the_rings(self) -> None:
        """Each published record once, under its own key, nothing else."""
        journal = self.journal()
        journal.check()
        for name, region in (("orders", self.memory.orders), ("reports", self.memory.reports)):
            rows, head = journal.rows(name, 1), int(region.ring[0]["head"])
            assert rows["seq"].tolist() == list(range(1, head + 1))
            assert rows["order_seq"].tolist() == list(range(1, head + 1))
        assert [record.seq for record in journal.trades()] == [seq for seq in range(1, int(self.memory.orders.ring[0]["head"]) + 1)
                                                               if seq % 3 == 1]
        journal.close()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        segment.remove(self.instance)
