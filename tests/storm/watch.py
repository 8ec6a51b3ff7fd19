"""Protection, sampled live: for how long a position was open while nobody kept its stop.

Clocks run at each look. *Unwatched*: a position is open, and the sniper's hot loop shows no sign of life (heartbeat, commit), since it is dead,
stopped or recovering. *Overdue*, of one position: the feed's newest quote is beyond its stop, its trailing stop or its target, and no exit of it is
due; or its time is over, and none is due; or one is due, its next try may be made, and less than the position works; or an exit works, and does not
end. All are wall time, as a market does not wait; the longest of each is compared with the recovery bound. What is due is told by the market's event
time, the feed's newest: the sniper's own would hide an outage, as a recovered one goes on at the tick at which its predecessor died. Overdue runs
while ticks come: without a feed no level is tested (a position may open behind its last quote), and a recording stands still with all that waits for
its time; what was overdue before goes on being so when it is back. Zombies of the instance that nobody reaps are noted as well.
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
#: what this thread slept longer is nobody's outage; without a tick for so long, the market stands still
STALL_S, STILL_S = 20 * LOOK_S, 0.1
#: event time between two ticks of the clock, by which whatever is due goes out without a tick of its own symbol
CLOCK_NS = 100_000_000
#: a zombie must be reaped within so many seconds
ZOMBIE_PATIENCE_S = 5.0
#: share of a pass that need not have been looked at: every look that comes late leaves out what it did not see
MOST_UNSEEN = 0.5
LEVEL, DEADLINE, UNSENT, ENDLESS = OVERDUE = (
    "a stop, target or trailing stop was passed, and no exit was due", "its time was over, and no exit was due",
    "an exit was due, and less than the position worked", "an exit worked without coming to its end")


class Watch(threading.Thread):
    """Looks until it is told to end; figures in seconds."""

    def __init__(self, memory: Any, launcher: int) -> None:
        super().__init__(name="watch", daemon=True)
        self._memory, self._launcher = memory, launcher
        self._over = threading.Event()
        self.unwatched_s = 0.0
        #: longest of each kind
        self.overdue = dict.fromkeys(OVERDUE, 0.0)
        #: looks at all, and at an open position
        self.looks = self.looks_at_open = 0
        self.zombies: list[str] = []
        #: what ended the looks before their time
        self.failure = ""
        self._seen: dict[int, float] = {}
        self._signs: tuple[int, ...] = ()
        self._head = -1
        #: wall time of which this thread saw all; of it, what the market went on in; until when it goes on without another tick
        self._wall = self._market = self._moves_until = 0.0
        self._silent_since = self._looked_at = 0.0
        #: wall time in all, and that of it in which this thread did not get to look
        self._all = self._unseen = 0.0
        self._since: dict[tuple[str, int, int], float] = {}

    def run(self) -> None:
        """Until `end`."""
        zombies_at = 0.0
        try:
            while not self._over.wait(LOOK_S):
                now = time.monotonic()
                self._look(now)
                if now >= zombies_at:
                    zombies_at = now + ZOMBIES_S
                    self._look_for_zombies(now)
        except Exception as error:  # told by findings(): nobody sees the end of a thread
            self.failure = f"{type(error).__name__}: {error}"

    def end(self) -> None:
        """No more looks: the instance is being stopped."""
        self._over.set()
        self.join()

    def findings(self, bound_s: float) -> list[Finding]:
        """What lasted longer than the bound."""
        lasted = {"no sniper watched an open position": self.unwatched_s, **self.overdue}
        blind = [Finding("protection", f"nobody looked to the end: {self.failure}")] if self.failure else []
        if self._unseen > MOST_UNSEEN * self._all:
            blind.append(Finding("protection", f"of {self._all:.1f} s only {self._all - self._unseen:.1f} s were looked at: the machine is too busy"))
        return blind + [Finding("protection", f"{what} for {seconds:.2f} s; the bound is {bound_s:g} s")
                        for what, seconds in lasted.items() if seconds > bound_s]

    def _look(self, now: float) -> None:
        sniper, board, ticks = self._memory.sniper, self._memory.board, self._memory.ticks
        row = board.processes[l.SNIPER]
        signs = (int(row["beat_ns"]), int(sniper.commit[0]["number"]), int(row["pid"]))
        open_rows = [int(at) for at in (sniper.positions["lots"] > 0).nonzero()[0]]
        self.looks += 1
        self.looks_at_open += bool(open_rows)
        gap, self._looked_at = now - self._looked_at, now
        self._wall += gap if gap <= STALL_S else LOOK_S
        if self.looks > 1:
            self._all += gap
            self._unseen += gap - LOOK_S if gap > STALL_S else 0.0
        if (head := int(ticks.ring[0]["head"])) != self._head:
            self._head, self._moves_until = head, self._wall + STILL_S
        if self._wall < self._moves_until:
            self._market += gap if gap <= STALL_S else LOOK_S
        if signs != self._signs or not open_rows:
            self._signs, self._silent_since = signs, self._wall
        self.unwatched_s = max(self.unwatched_s, self._wall - self._silent_since)
        market_ns = int(ticks.quotes["event_ns"].max())
        since = {}
        for at in open_rows:
            position, quote = sniper.positions[at].copy(), ticks.quotes[at // l.MAX_STRATEGIES]
            kind = _overdue(position, int(quote["bid"]), int(quote["ask"]), market_ns)
            if kind:
                key = (kind, at, int(position["exit_seq" if kind == ENDLESS else "position_id"]))
                since[key] = self._since.get(key, self._market)
                self.overdue[kind] = max(self.overdue[kind], self._market - since[key])
        self._since = since

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


def _overdue(p: Any, bid: int, ask: int, market_ns: int) -> str:
    """What a position waits for though it should not have to, "" for nothing."""
    if not int(p["exit_reason"]):
        price = bid if int(p["side"]) > 0 else ask
        if price > 0 and _beyond(p, price):
            return LEVEL
        return DEADLINE if 0 < int(p["deadline_ns"]) <= market_ns - CLOCK_NS else ""
    if int(p["exit_working_lots"]) < int(p["lots"]):
        return UNSENT if int(p["retry_ns"]) <= market_ns - CLOCK_NS else ""
    return ENDLESS


def _beyond(p: Any, price: int) -> bool:
    """Whether the price at which a position could be closed is at or beyond one of its levels. The best price is the sniper's, or this one."""
    side, stop, target, best = (int(p[name]) for name in ("side", "stop_price", "target_price", "best_price"))
    activation, distance = int(p["trail_activation_price"]), int(p["trail_distance_bps"])
    trailing = best - side * (best * distance // 10_000)
    return bool((stop > 0 and side * (price - stop) <= 0) or (target > 0 and side * (price - target) >= 0)
                or (activation > 0 and side * (best - activation) >= 0 and side * (price - trailing) <= 0))


def _descends(pid: int, from_: int, parents: dict[int, tuple[int, str]]) -> bool:
    while pid in parents:
        pid = parents[pid][0]
        if pid == from_:
            return True
    return False
