"""A script from its beginning to its end, or to what must never be."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import control.record.recorder as recorder_room
import control.record.salvage as salvage_room
from tests.simulation import verdict
from tests.simulation.clock import standing
from tests.simulation.deaths import Violation
from tests.simulation.lives import Desk, NoDoorman, SimJournal
from tests.simulation.script import Script
from tests.simulation.stage import Stage
from tests.simulation.world import World


class Result(NamedTuple):
    """What came of a script. `digest` is of all that was seen; `passed` counts crash points, and orders, fills and trades."""

    digest: str
    violation: Violation | None
    trace: list[str]
    passed: Counter[str]


class _Bus:
    """Stands for ipc.bus in the recorder's room."""

    Server = Desk


@contextmanager
def _replaced(snapshot_s: float) -> Iterator[None]:
    """In the recorder's room: no sockets, no thread, a disk that may refuse."""
    room = recorder_room.__dict__
    before = {name: room[name] for name in ("JournalWriter", "Doorman", "bus", "SNAPSHOT_S")}
    room.update(JournalWriter=SimJournal, Doorman=NoDoorman, bus=_Bus, SNAPSHOT_S=snapshot_s)
    salvage_room.__dict__["JournalWriter"] = SimJournal
    try:
        yield
    finally:
        room.update(before)
        salvage_room.__dict__["JournalWriter"] = before["JournalWriter"]


def run(stage: Stage, script: Script, tracing: bool = False) -> Result:
    """Carry out a script from its beginning to its end, or to what must never be."""
    world, violation = World(stage, script, tracing), None
    with _replaced(script.settings.snapshot_ms / 1000), standing(world.clock):
        try:
            world.start()
            for action in script.actions:
                world.act(action)
            world.settle()
            world.end()
        except Violation as found:
            violation = found
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            violation = Violation(f"{type(error).__name__} at {Path(where.filename).name}:{where.name}", str(error)[:500])
            world.tell(traceback.format_exc())
        if violation is not None and world.nameless and violation.rule in ("unreconciled", "accounts", "undecided"):
            world.crash.passed["left to a person"] += 1
            violation = None
        world.crash.passed.update(verdict.counted(world))
        world.crash.disarm()
        world.close()
    return Result(world.digest(), violation, world.trace, world.crash.passed)
