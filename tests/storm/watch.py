"""Protection, sampled live: for how long a position was open while nobody kept its stop.

Two clocks run at each look. *Unwatched*: a position is open, and the sniper's hot loop shows no sign of life (heartbeat, commit), since it is dead,
stopped or recovering. *Overdue*: the feed's newest quote has passed a position's stop, and no exit of it is due. Both are wall time, as a market
does not wait; the longest of each is compared with the recovery bound. Event time would hide an outage: a recovered sniper goes on at the tick at
which its predecessor died. Zombies of the instance that nobody reaps are noted as well.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from ipc import layout as l
from tests.storm.checker import Finding

#: seconds between two looks, and between two looks for zombies
LOOK_S, ZOMBIES_S = 0.004, 1.0
#: a zombie must be reaped within so many seconds
ZOMBIE_PATIENCE_S = 5.0


class Watch(threading.Thread):
    """Looks until it is told to end; figures in seconds."""

    def __init__(self, memory: Any, launcher: int) -> None:
        super().__init__(name="watch", daemon=True)
        self._memory, self._launcher = memory, launcher
        self._over = threading.Event()
        self.unwatched_s = self.overdue_s = 0.0
        #: looks at all, and at an open position
        self.looks = self.looks_at_open = 0
        self.zombies: list[str] = []
        self._seen: dict[int, float] = {}
        self._signs: tuple[int, ...] = ()
        self._silent_since = 0.0
        self._overdue_since: dict[int, float] = {}
        self._looked_at = 0.0

    def run(self) -> None:
        """Until `end`."""
        zombies_at = 0.0
        while not self._over.wait(LOOK_S):
            now = time.monotonic()
            self._look(now)
            if now >= zombies_at:
                zombies_at = now + ZOMBIES_S
                self._look_for_zombies(now)

    def end(self) -> None:
        """No more looks: the instance is being stopped."""
        self._over.set()
        self.join()

    def findings(self, bound_s: float) -> list[Finding]:
        """What lasted longer than the bound."""
        lasted = (("no sniper watched an open position", self.unwatched_s), ("a stop was passed, and no exit was due", self.overdue_s))
        return [Finding("protection", f"{what} for {seconds:.2f} s; the bound is {bound_s:g} s") for what, seconds in lasted if seconds > bound_s]

    def _look(self, now: float) -> None:
        sniper, board = self._memory.sniper, self._memory.board
        row = board.processes[l.SNIPER]
        signs = (int(row["beat_ns"]), int(sniper.commit[0]["number"]), int(row["pid"]))
        open_rows = [int(at) for at in (sniper.positions["lots"] > 0).nonzero()[0]]
        self.looks += 1
        self.looks_at_open += bool(open_rows)
        gap = now - self._looked_at
        if signs != self._signs or not open_rows:
            self._signs, self._silent_since = signs, now
        elif gap > 20 * LOOK_S:
            self._silent_since += gap  # what this thread slept too long is nobody's outage
        self._looked_at = now
        self.unwatched_s = max(self.unwatched_s, now - self._silent_since)
        overdue = {}
        for at in open_rows:
            position = sniper.positions[at]
            side, stop = int(position["side"]), int(position["stop_price"])
            quote = self._memory.ticks.quotes[at // l.MAX_STRATEGIES]
            price = int(quote["bid"] if side > 0 else quote["ask"])
            if stop > 0 and price > 0 and side * (price - stop) <= 0 and not int(position["exit_reason"]):
                overdue[at] = self._overdue_since.get(at, now)
                self.overdue_s = max(self.overdue_s, now - overdue[at])
        self._overdue_since = overdue

    def _look_for_zombies(self, now: float) -> None:
        """Dead children of the launcher or of its children that nobody has waited for."""
        parents: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                except OSError:
                    continue
                parents[int(entry.name)] = (int(parent), state)
        dead = {pid for pid, (_, state) in parents.items() if state == "Z" and _descends(pid, self._launcher, parents)}
        self._seen = {pid: self._seen.get(pid, now) for pid in dead}
        self.zombies += [f"process {pid} is a zombie for {now - since:.0f} s" for pid, since in self._seen.items()
                         if ZOMBIE_PATIENCE_S < now - since <= ZOMBIE_PATIENCE_S + ZOMBIES_S]


def _descends(pid: int, from_: int, parents: dict[int, tuple[int, str]]) -> bool:
    while pid in parents:
        pid = parents[pid][0]
        if pid == from_:
            return True
    return False
