"""Sniper, gateway and paper venue in one process, over private segments: what a lockstep replay does, without the processes.

Everything that decides is the code of the processes: the sniper's `step`, its armoury, the gateway with its paper venue and ledger. Here is only what
stands between them: the turns (hotpath/kernel/backtest.py), and who is called when a turn needs Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hotpath import takeover
from hotpath.armoury import Armoury
from hotpath.config import Hotpath, Limits
from hotpath.gateway import Gateway
from hotpath.kernel import backtest as k
from hotpath.kernel import turns
from hotpath.kernel.loop import drain, start
from hotpath.kernel.state import sniper_arrays
from hotpath.sniper import write_params
from hotpath.venues.paper_ledger import Ledger
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.jit import cache_dir
from ipc.messages import Arm
from ipc.process import Boot, Child
from ipc.segment import Memory

#: event time between two samples of equity at the start; doubled whenever they would be too many
SAMPLE_NS = 1_000_000_000
_SERVE = {k.INTENTS: turns.INTENTS, k.MATCHED: turns.MATCHED}


class Nobody:
    """Who asks a gateway that has no socket. It is polled only where the gateway waits for somebody else, and here there is nobody."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def poll(self, timeout_s: float, handle: Any) -> None:
        """Raises OSError: the ledger cannot be written, which a living gateway would wait for."""
        raise OSError(f"the paper ledger cannot be written: {self._ledger.fault or 'its reports find no room'}")


class Machine:
    """The data plane of one backtest. The journal has begun its run already: `memory.board.cursors` names the incarnation.

    `records` is called when the rings hold records: it takes them out and moves the recorder's cursors.
    """

    def __init__(self, memory: Memory, boot: Boot, fold: Bundle, records: Callable[[], None], log: logging.Logger) -> None:
        self.memory, self._records = memory, records
        self.s = sniper_arrays(memory)
        start(self.s)
        write_params(memory, boot.section("limits", Limits), boot.section("hotpath", Hotpath))
        self.ledger = Ledger(Path(boot.state_dir) / "paper", sync=False)
        run = memory.board.run[0]
        child = Child(boot, l.GATEWAY, memory, log)
        self.gateway = Gateway(child, self.ledger, Nobody(self.ledger), int(run["instance_number"]), int(memory.board.cursors[0]["incarnation"]))
        takeover.take_over(self.gateway)
        self.armoury = Armoury(memory, self._take_table)
        self.tape = k.new_tape(int(run["instruments"]), SAMPLE_NS)
        self._fold = fold

    def _take_table(self) -> None:
        k.take_table(self.s)

    def arm(self, plan: Arm) -> None:
        """A plan, or a part of it, as the sniper is told of it. Raises NotArmed; then nothing has changed."""
        self.armoury.arm(plan)
        k.take_table(self.s)

    def run(self, ticks: Any, due: Callable[[int], int]) -> None:
        """All of `ticks` (TICK, in event time), whose sequences are written. `due(event_ns)` plans before a tick of that time; it says when again."""
        words = self.tape.words
        words[k.ROW], words[k.END] = 0, len(ticks)
        while (reason := int(k.run(self.s, self.gateway.g, self._fold, self.tape, ticks))) != k.DONE:
            if reason == k.DUE:
                words[k.DUE_NS] = due(int(ticks[words[k.ROW]]["event_ns"]))
            elif reason == k.RECORDS:
                self._records()
            else:
                self.gateway.serve(_SERVE[reason])

    @property
    def ticks(self) -> int:
        """Sequence of the last tick that was stepped."""
        return int(self.s.line[0]["tick_seq"])

    def end(self) -> None:
        """As at an ordered stop: what works is cancelled, what was decided at the last tick is never filled, and the account knows it."""
        self._records()
        drain(self.s, 0)
        self.gateway.serve(turns.INTENTS)
        self.gateway.drain()
        while int(self.memory.reports.ring[0]["head"]) > int(self.s.line[0]["report_seq"]):
            k.take_reports(self.s)
            self._records()
        self._records()
        self.memory.ticks.ring[0]["head"] = self.ticks

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()


def compiled() -> bool:
    """Whether the loop is in the cache of kernels; else the first backtest waits for it."""
    return any(Path(cache_dir()).rglob("backtest.run-*.nbi"))
