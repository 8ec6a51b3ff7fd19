"""When a run is over, and how positions are closed before it is: end of the data, end of the time, flatten first."""

from __future__ import annotations

import enum
from typing import Any

from hotpath.courier import Line
from ipc import layout as l
from ipc import messages

#: seconds that working orders get after everything else is done
WORKING_GRACE_S = 2.0
#: seconds that a flatten gets before the run ends with what is still open
FLATTEN_PATIENCE_S = 10.0


def is_drained(memory: Any) -> bool:
    """Every tick processed and matched, every record durable. Reads words that others write; a wrong "no" is mended a turn later."""
    ticks, orders, reports, cursors = memory.ticks, memory.orders, memory.reports, memory.board.cursors[0]
    head = int(ticks.ring[0]["head"])
    return (
        all(int(ticks.readers[role]["cursor"]) >= head for role in (l.SNIPER, l.GATEWAY))
        and int(reports.readers[l.SNIPER]["cursor"]) >= int(reports.ring[0]["head"])
        and int(cursors["durable_orders"]) >= int(orders.ring[0]["head"])
        and int(cursors["durable_reports"]) >= int(reports.ring[0]["head"])
    )


def open_orders(memory: Any) -> int:
    """Working orders by the sniper's account."""
    return int(memory.sniper.account[0]["working_orders"])


def open_positions(memory: Any) -> int:
    """Open positions by the sniper's account."""
    return int(memory.sniper.account[0]["open_positions"])


class EndOfRun:
    """Says when a run is over by itself: its data at an end (replay), or its time (`for_s`, from readiness on)."""

    def __init__(self, memory: Any, replay: bool, for_s: float | None) -> None:
        self._memory, self._replay, self._for_s = memory, replay, for_s
        self._drained_at: float | None = None

    def cause(self, now: float, ready_at: float | None) -> str:
        """Why the run is over; empty while it is not."""
        if ready_at is not None and self._for_s is not None and now - ready_at >= self._for_s:
            return f"the time is over (--for {self._for_s:g} s)"
        if self._replay and int(self._memory.board.processes[l.FEED]["state"]) == l.PROC_FINISHED and is_drained(self._memory):
            if self._drained_at is None:
                self._drained_at = now
            if open_orders(self._memory) == 0 or now - self._drained_at >= WORKING_GRACE_S:
                return "end of the data"
        else:
            self._drained_at = None
        return ""


class Flattening(enum.Enum):
    """How far a flatten has come."""

    WAITING = "waiting"
    DONE = "done"
    TIMED_OUT = "timed out"


class Flatten:
    """Asks the sniper to close every position and waits for it, a turn at a time."""

    def __init__(self, memory: Any, line: Line, now: float) -> None:
        self._memory, self._line = memory, line
        self._until = now + FLATTEN_PATIENCE_S
        self._asked_at: float | None = None
        self._number = 0
        self.refusal = ""

    def turn(self, now: float) -> Flattening:
        """Ask until it is answered, then look until nothing is open."""
        while (reply := self._line.receive()) is not None:
            answer = messages.decode_reply(reply[1])
            if isinstance(answer, messages.Refused):
                self.refusal = answer.text
        if open_positions(self._memory) == 0 and open_orders(self._memory) == 0:
            return Flattening.DONE
        if now >= self._until:
            return Flattening.TIMED_OUT
        # an entry that was under way may have filled after the last request, or the sniper may have died with it: ask again
        if self._asked_at is not None and now - self._asked_at >= 1.0:
            self._line.reset()
            self._asked_at = None
        if self._asked_at is None:
            self._number += 1
            request = messages.encode(messages.Operate(action="flatten"))
            if self._line.send(self._number.to_bytes(8, "big"), request):
                self._asked_at = now
        return Flattening.WAITING
