"""What scripts share: an instance's segments, made once by the shipped start and emptied for each, and a folder in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from control.supervise import instance
from hotpath.venues import catalogue
from ipc import layout as l
from ipc import segment
from tests.simulation.script import STRATEGIES, SYMBOLS

#: slots of the tick ring
TICKS = 1024


class Stage:
    """What scripts share: the segments, emptied for each, and a folder in memory where there is one."""

    def __init__(self) -> None:
        name = "simulation"
        root = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=root if root.is_dir() else None))
        before = os.environ.get("TRADER_SHM")
        os.environ["TRADER_SHM"] = str(self.folder)
        try:
            self.memory = instance.create_segments(
                name, ticks=TICKS, instruments=4, conditions=64, rows=catalogue.resolve(SYMBOLS), strategies=STRATEGIES, number=77,
                lockstep=False, wait_strategy=l.WAIT_FUTEX, initial_cash=10_000 * 10**8)
            segment.remove(name)  # the mapping alone keeps them
        finally:
            del os.environ["TRADER_SHM"]
            if before is not None:
                os.environ["TRADER_SHM"] = before
        self.memory.instruments.instruments["permitted"] = (1 << len(STRATEGIES)) - 1
        for ring, readers in ((self.memory.ticks, (l.SNIPER, l.GATEWAY)), (self.memory.orders, (l.GATEWAY, l.RECORDER)),
                              (self.memory.reports, (l.SNIPER, l.RECORDER))):
            ring.readers["active"] = 0
            ring.readers["active"][list(readers)] = 1
        for region_of, one in self.memory._segments.items():  # asked for at every turn: as plain attributes
            self.memory.__dict__[region_of] = SimpleNamespace(**one.regions)
        self._maps = [np.frombuffer(one.memory, np.uint8) for one in self.memory._segments.values()]
        self._empty = [mapped.copy() for mapped in self._maps]
        self.number = 77
        self._runs = 0

    def fresh(self) -> None:
        """The segments as a start of an instance makes them."""
        for mapped, empty in zip(self._maps, self._empty, strict=True):
            mapped[:] = empty

    def place(self) -> Path:
        """An empty folder for one script."""
        self._runs += 1
        place = self.folder / str(self._runs)
        place.mkdir()
        return place

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
