"""What a process does that may fail, as the others see it: on the board (health reads it there without asking anybody), and in the journal.

The policy is pure (hotpath/errors.py); here its decisions are logged, counted, shown and journaled. Nothing here waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hotpath.courier import Courier, RoleLine
from hotpath.errors import Action, Decision, ErrorManager, Kind, classify
from ipc import layout as l
from ipc import messages
from ipc.process import Child

#: how often rates are counted anew, since time alone changes them
_COUNTED_NS = 60_000_000_000
_BREAKER = ("state", "failures", "opens", "since_ns", "until_ns", "failed_ns", "asked_ns")


class NoRow(Exception):
    """A process has more activities than the board has rows for; the text ends in the remedy."""


class Activities:
    """The activities of one life of a process. `tell` takes what is to be journaled; without one it goes to the recorder by and by (`pump`)."""

    def __init__(self, child: Child, tell: Callable[[messages.Event], None] | None = None) -> None:
        self._log, self._source, self._process = child.log, l.ROLES[child.role], child.processes[child.role]
        first = child.role * l.MAX_ACTIVITIES
        self._rows = child.memory.board.activities[first: first + l.MAX_ACTIVITIES]
        self._row_of: dict[str, Any] = {}
        self._adopted: list[ErrorManager] = []
        self._counted_ns = time.monotonic_ns()
        self._line = RoleLine(Path(child.boot.socket_dir), "recorder")
        self._courier = Courier(self._line, child.log)
        self._tell = tell or self._courier.take

    def adopt(self, errors: ErrorManager, resume: bool = False) -> ErrorManager:
        """Show an activity from now on; gives it. A predecessor's counts go on, and with `resume` its breaker is as it was left."""
        name = errors.activity.encode(errors="replace")[:40]
        row = next((row for row in self._rows if row["name"] in (name, b"")), None)
        if row is None:
            raise NoRow(f"{errors.activity}: the board has {l.MAX_ACTIVITIES} activities of a process, and all are taken; configure fewer")
        if row["name"] == name:
            errors.total = int(row["errors"])
            errors.resume(int(row["errors_per_h"]), int(row["recoveries_per_h"]), int(row["failed_ns"]))
            if not row["failures"]:
                errors.said = bytes(row["text"]).decode(errors="replace")
            if resume:
                for field in _BREAKER:
                    setattr(errors.breaker, field, int(row[field]))
        else:
            row["name"] = name
        self._row_of[errors.activity] = row
        self._adopted.append(errors)
        self.show(errors)
        return errors

    def show(self, errors: ErrorManager) -> None:
        """Its state onto the board."""
        row, last = self._row_of[errors.activity], errors.last
        for field in _BREAKER:
            row[field] = getattr(errors.breaker, field)
        row["errors_per_h"], row["recoveries_per_h"] = errors.rates()
        if not errors.failing:
            row["text"] = errors.said.encode(errors="replace")[:192]
        elif last is not None:
            row["text"] = last.text.encode(errors="replace")[:192]
        row["errors"] += errors.total - int(row["errors"])
        row["wall_ns"] = time.time_ns()

    def failed(self, errors: ErrorManager, kind: str, fault: BaseException | Kind, text: str, now_ns: int, times: int = 1,
               pause_s: float = 0.0) -> Decision:
        """It failed: decide, log, show, journal as an event of this `kind`. `pause_s`: how long the other side asks to be left alone."""
        known = errors.failing
        of = fault if isinstance(fault, Kind) else classify(fault)
        decision = errors.failed(of, text, now_ns, times, pause_s)
        self._process["error_count"] += times
        self._log.log(logging.DEBUG if known and decision.action is Action.CONTINUE else logging.WARNING, "%s: %s; %s", errors.activity, text,
                      decision.words())
        self.report(errors, kind, decision)
        return decision

    def succeeded(self, errors: ErrorManager, now_ns: int) -> None:
        """It worked: where it had failed before, that is logged, shown and journaled."""
        decision = errors.succeeded(now_ns)
        if decision is not None:
            self._log.info("%s: %s", errors.activity, decision.words())
            self.report(errors, "recovered", decision)

    def report(self, errors: ErrorManager, kind: str, decision: Decision) -> None:
        """A decision that was made already: onto the board and into the journal."""
        self.show(errors)
        self._tell(event_of(self._source, kind, decision))

    @property
    def waiting(self) -> int:
        """Events that the recorder has not taken yet."""
        return self._courier.waiting

    def pump(self) -> None:
        """Bring events on their way, as far as that goes without waiting; once a minute count rates anew, for activities on the monotonic clock."""
        if self._courier.waiting:
            self._courier.pump()
        if (now_ns := time.monotonic_ns()) - self._counted_ns >= _COUNTED_NS:
            self._counted_ns = now_ns
            for errors in self._adopted:
                errors.now_ns = now_ns
                self.show(errors)

    def close(self, patience_s: float = 0.0) -> None:
        """Leave the bus; what waits gets so long to be taken."""
        end = time.monotonic() + patience_s
        while self._courier.waiting and time.monotonic() < end:
            self._courier.pump()
            time.sleep(0.005)
        self._line.close()


def event_of(source: str, kind: str, decision: Decision, wall_ns: int = 0, **data: Any) -> messages.Event:
    """A decision as the journal has it."""
    text = f"{decision.activity}: {decision.words()}" if decision.action is Action.RECOVERED else decision.text
    return messages.Event(source=source, kind=kind, text=text, wall_ns=wall_ns or time.time_ns(), data=decision.data() | data)
