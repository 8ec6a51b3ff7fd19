"""A gateway in a real process, and a test that is feed, sniper and recorder to it. For tests of the gateway alone."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotpath import gateway, preload
from hotpath.kernel import turns
from hotpath.orders import client_order_id, row_of
from hotpath.venues import catalogue, paper_ledger
from hotpath.venues.paper import PaperVenue
from ipc import board, messages, ring, segment, wait
from ipc import layout as l
from ipc.process import Boot, Child

SPOT, PERPETUAL, OTHER = 0, 1, 2
SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT", "ETH/USDT")
INSTANCE_NUMBER = 77
CASH = 10_000 * 10**8
MS = 1_000_000
#: reports that end an order; a FILL of all its lots does too
ENDS = (l.CANCELLED, l.REJECTED, l.EXPIRED, l.LOST)


def live(boot: Boot, file_limit: int, venue: Any) -> None:
    """What control/supervise/child.py does around `main`, as far as a gateway needs it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    log = logging.getLogger("gateway")
    log.handlers[:] = [logging.StreamHandler(sys.__stderr__)]
    log.setLevel(logging.WARNING)
    if file_limit >= 0:
        log.handlers[:] = [logging.NullHandler()]
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    child = Child(boot, l.GATEWAY, segment.Memory(boot.instance), log)
    board.announce(child.processes, l.GATEWAY, l.PROC_STARTING)
    os._exit(gateway.main(child, venue))


@functools.cache
def compile_kernels() -> None:
    """As the forkserver does before any child: compiling takes longer than a test waits."""
    segment.create_all("warm-up", ticks=1024, instruments=8, conditions=64)
    memory = preload.throw_away()
    turns.warm_up(memory)
    segment.remove("warm-up")


class World:
    """Segments of an instance with the gateway's surroundings in the hands of the test. Event time goes on by 1 ms a tick."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, lockstep: bool = False, **sections: Any) -> None:
        monkeypatch.setenv("TRADER_SHM", str(folder))
        self.folder, self.lockstep = folder, lockstep
        self.sections = {"paper": {"order_latency_ms": 2}, **sections}
        self.sockets = tempfile.mkdtemp(prefix="gw-")
        self.process: Any = None
        self.restarts = self.deaths = 0
        self.incarnation = 0
        self.run_id = "run"
        self.venue: Any = PaperVenue
        self.records: list[Any] = []
        self.intents: dict[int, Any] = {}
        compile_kernels()
        self.segments()

    # ── what the watchdog does ────────────────────────────────────────────────────────────────────────────────────────
    def segments(self) -> None:
        """Fresh segments: the next incarnation of the same account."""
        self.instance = f"gw{self.incarnation}"
        segment.create_all(self.instance, ticks=1024, instruments=8, conditions=64)
        self.memory = memory = segment.Memory(self.instance)
        readers = {"ticks": (l.SNIPER, l.GATEWAY, l.STRATEGIST), "orders": (l.GATEWAY, l.RECORDER), "reports": (l.SNIPER, l.RECORDER)}
        for name, slots in (("ticks", 1024), ("orders", l.RING_SLOTS), ("reports", l.RING_SLOTS)):
            region = getattr(memory, name)
            region.ring[0]["capacity"], region.ring[0]["gated"] = slots, 1
            region.readers["active"][list(readers[name])] = 1
        memory.instruments.instruments[: len(SYMBOLS)] = catalogue.resolve(SYMBOLS)
        memory.instruments.strategies["name"][:2] = [b"one", b"two"]
        for field, value in {"instance_number": INSTANCE_NUMBER, "lockstep": int(self.lockstep), "wait_strategy": l.WAIT_ADAPTIVE,
                             "initial_cash": CASH, "strategies": 2, "instruments": len(SYMBOLS)}.items():
            memory.board.run[0][field] = value
        self.incarnation += 1
        memory.board.cursors[0]["incarnation"] = self.incarnation
        self.seq, self.now, self.read = 0, 10**18, 0
        self.tick_row, self.intent_row, self.report_row = np.zeros(1, l.TICK), np.zeros(1, l.INTENT), np.zeros(1, l.REPORT)

    def start(self, crash_at: str = "", file_limit: int = -1, ready: bool = True) -> None:
        """A life of the gateway; with `crash_at` it ends at that point."""
        os.environ["TRADER_CRASH_AT"] = crash_at
        boot = Boot(role="gateway", instance=self.instance, mode="replay", market="replay", run_id=self.run_id, run_dir=str(self.folder),
                    state_dir=str(self.folder / "state"), socket_dir=self.sockets, lockstep=self.lockstep, restarts=self.restarts,
                    sections={name: messages.encode(section) for name, section in self.sections.items()})  # type: ignore[misc]
        self.process = multiprocessing.get_context("fork").Process(target=live, args=(boot, file_limit, self.venue), daemon=True)
        self.process.start()
        os.environ.pop("TRADER_CRASH_AT")
        if ready:
            self.until(lambda: self.memory.board.processes[l.GATEWAY]["state"] == l.PROC_READY)

    def respawn_if_dead(self) -> None:
        if self.process.exitcode is not None:
            assert self.process.exitcode == -signal.SIGKILL, f"the gateway ended with {self.process.exitcode}"
            self.deaths += 1
            self.restarts += 1
            self.memory.board.processes[l.GATEWAY]["state"] = l.PROC_ABSENT
            self.start(ready=False)

    def kill(self) -> None:
        """kill -9, now; whoever waits next respawns it."""
        self.process.kill()
        self.process.join()

    def until(self, true: Callable[[], Any], timeout_s: float = 10.0) -> None:
        """Wait for something; a gateway that was killed is respawned meanwhile."""
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, "it never came"
            self.respawn_if_dead()
            time.sleep(0.0002)

    def stop(self) -> paper_ledger.Statement:
        """An ordered stop; gives what the ledger says then."""
        self.memory.board.processes[l.SNIPER]["stop"] = l.STOP_DRAIN
        self.memory.board.processes[l.GATEWAY]["stop"] = l.STOP_DRAIN
        wait.ring_bells(self.memory.board.processes, 1 << l.GATEWAY)
        end = time.monotonic() + 10.0
        while (code := self.process.exitcode) != 0:
            self.journal()
            if code is not None:
                self.respawn_if_dead()
            assert time.monotonic() < end, "the gateway does not stop"
            time.sleep(0.001)
        self.collect()
        return paper_ledger.read(self.folder / "state" / "paper")

    def close(self) -> None:
        if self.process is not None and self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        segment.remove(self.instance)
        shutil.rmtree(self.sockets, ignore_errors=True)

    # ── what feed, sniper and recorder do ─────────────────────────────────────────────────────────────────────────────
    def tick(self, kind: int = l.TICK_CLOCK, instrument: int = l.NO_INSTRUMENT, price: int = 0, lots: int = 0, ask: int = 0,
             ask_lots: int = 0, after: int = MS, flags: int = 0) -> int:
        """Publish a tick; gives its sequence."""
        self.now += after
        row = self.tick_row[0]
        row["event_ns"], row["kind"], row["instrument"], row["price"], row["lots"] = self.now, kind, instrument, price, lots
        row["ask_price"], row["ask_lots"], row["flags"] = ask, ask_lots, flags
        t = self.memory.ticks
        self.until(lambda: ring.free_slots(t.ring, t.readers) > 0)
        self.seq = int(ring.publish(t.ring, t.slots, self.tick_row, 0))
        self.bell()
        return self.seq

    def quote(self, bid: int, ask: int, lots: int = 1000, instrument: int = SPOT) -> int:
        return self.tick(l.TICK_QUOTE, instrument, bid, lots, ask, lots)

    def trade(self, price: int, lots: int, instrument: int = SPOT) -> int:
        return self.tick(l.TICK_TRADE, instrument, price, lots)

    def intent(self, kind: int = l.NEW, lots: int = 0, side: int = l.BUY, instrument: int = SPOT, limit: int = 0, purpose: int = l.ENTRY,
               target: int = 0, code: int = 0, strategy: int = 0, bell: bool = True) -> int:
        """Publish an order-ring record; gives its sequence."""
        o = self.memory.orders
        self.intent_row.view("u1")[:] = 0
        row = self.intent_row[0]
        row["event_ns"], row["kind"], row["lots"], row["side"], row["instrument"] = self.now, kind, lots, side, instrument
        row["purpose"], row["order_type"], row["limit_price"] = purpose, l.LIMIT if limit else l.MARKET, limit
        row["code"], row["strategy"], row["flags"] = code, strategy, l.INTENT_REDUCE_ONLY if purpose == l.EXIT else 0
        row["order_seq"] = target or int(o.ring[0]["head"]) + 1
        seq = int(ring.publish(o.ring, o.slots, self.intent_row, 0))
        if kind == l.NEW:
            self.intents[seq] = row.copy()
        if bell:
            self.bell()
        return seq

    def bell(self) -> None:
        wait.ring_bells(self.memory.board.processes, 1 << l.GATEWAY)

    def journal(self) -> None:
        """The recorder takes everything."""
        o, r = self.memory.orders, self.memory.reports
        self.memory.board.cursors[0]["durable_orders"] = ring.head(o.ring)
        ring.advance(o.readers, l.RECORDER, int(ring.head(o.ring)))
        ring.advance(r.readers, l.RECORDER, int(ring.head(r.ring)))
        self.bell()

    def step(self) -> None:
        """The sniper has stepped the newest tick and applied all reports."""
        ring.advance(self.memory.ticks.readers, l.SNIPER, self.seq)
        ring.advance(self.memory.ticks.readers, l.STRATEGIST, self.seq)
        ring.advance(self.memory.reports.readers, l.SNIPER, int(ring.head(self.memory.reports.ring)))
        self.bell()

    def matched(self, seq: int = 0) -> None:
        """Wait until the gateway has done a tick."""
        self.until(lambda: ring.cursor(self.memory.ticks.readers, l.GATEWAY) >= (seq or self.seq))

    # ── what came of it ───────────────────────────────────────────────────────────────────────────────────────────────
    def collect(self) -> list[Any]:
        """Every report so far, as copies of the ring's records."""
        r = self.memory.reports
        while self.read < ring.head(r.ring):
            assert ring.poll(r.ring, r.slots, self.read + 1, self.report_row, 0) == ring.OK
            self.records.append(self.report_row[0].copy())
            self.read += 1
        return self.records

    def kinds(self, order_seq: int) -> list[int]:
        """Report kinds of an order, in order."""
        return [int(record["kind"]) for record in self.collect() if record["order_seq"] == order_seq]

    def mode(self) -> tuple[int, str]:
        row = self.memory.board.modes[l.MODE_OF_GATEWAY]
        return int(row["mode"]), row["cause"].decode()

    def check(self, statement: paper_ledger.Statement) -> None:
        """At most once at the venue, exactly one end, every fill once, ledger and reports agree; after `stop`, of the first incarnation."""
        at_venue = [event.client_id for event in statement.events if event.kind in (l.ACCEPTED, l.REJECTED)]
        assert len(at_venue) == len(set(at_venue)), "an order reached the venue twice"
        reported = [int(record["venue_seq"]) for record in self.collect() if record["venue_seq"]]
        assert reported == [event.venue_seq for event in statement.events], "not every venue event is one report, in order"
        records: dict[int, list[Any]] = {}
        for record in self.records:
            records.setdefault(int(record["order_seq"]), []).append(record)
        for seq, row in self.intents.items():
            own = records.get(seq, [])
            ends = [r for r in own if r["kind"] in ENDS or (r["kind"] == l.FILL and r["cum_lots"] == row["lots"])]
            assert len(ends) == 1, f"order {seq} ended {len(ends)} times: {[l.REPORT_KINDS[int(r['kind'])] for r in own]}"
            assert own[-1]["seq"] == ends[0]["seq"], f"order {seq} went on after its end"
            fills = [record for record in own if record["kind"] == l.FILL]
            assert sum(int(record["last_lots"]) for record in fills) == int(own[-1]["cum_lots"])
            sent = client_order_id(INSTANCE_NUMBER, 1, seq) in at_venue
            assert sent == any(record["kind"] not in (l.LOST, l.UNKNOWN) and record["venue_seq"] for record in own)
            state = self.memory.gateway.gateway_orders[row_of(seq)]
            if int(state["order_seq"]) > seq or (not sent and int(state["order_seq"]) != seq):
                continue  # the row is another's by now, or it was never sent: its report alone says so
            assert l.ORDER_STATES[int(state["state"])] == l.REPORT_KINDS[int(ends[0]["kind"])].replace("FILL", "FILLED")
