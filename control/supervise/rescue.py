"""What safe mode does to orders and positions: through the sniper while it lives, through the gateway alone while it does not.

The sniper cancels working entries by itself as soon as any mode word says so. What is left to do here: flatten where that is configured, or an
operator has said so, and hand both to the gateway (hotpath/rescue.py) when the sniper is away in safe mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.config import Safety
from control.supervise.ending import Flatten, Flattening, open_positions
from control.supervise.role import State, Supervised
from hotpath.courier import Line
from ipc import layout as l

#: a sniper that comes back within this time does it itself
AWAY_S = 2.0


class Rescue:
    """Called in each turn with what causes safe mode; writes the gateway's rescue word, and asks the sniper to flatten."""

    def __init__(self, memory: Any, settings: Safety, sniper: Supervised, line: Line, note: Callable[[str], None]) -> None:
        """`line` leads to the sniper; `note` tells what begins."""
        self._memory, self._settings, self._sniper, self._line, self._note = memory, settings, sniper, line, note
        self._row = memory.board.processes[l.GATEWAY]
        self._away_since: float | None = None
        self._flatten: Flatten | None = None
        #: an operator has said flatten, in this run or one before: whatever is open is closed, safe mode or not
        self.flattens = False

    def turn(self, now: float, causes: dict[str, str]) -> None:
        """`causes`: none means that safe mode is over."""
        self._row["rescue"] = level = self._level(now, causes)
        if level or self._sniper.state is not State.READY or not (self.flattens or (causes and self._settings.positions == "flatten")):
            self._flatten = None
        elif self._flatten is None:
            if open_positions(self._memory):
                self._note("flatten closes all positions" if self.flattens else "safe mode closes all positions")
                self._flatten = Flatten(self._memory, self._line, now)
        else:
            match self._flatten.turn(now):
                case Flattening.DONE:
                    self._flatten = None
                case Flattening.TIMED_OUT:  # what is still open is asked for again
                    self._flatten = Flatten(self._memory, self._line, now)

    def _level(self, now: float, causes: dict[str, str]) -> int:
        """What the gateway does alone. What it has begun it goes on with until the sniper is back."""
        if not causes or self._sniper.state is State.READY or not (self._sniper.been_ready or "unprotected" in causes):
            self._away_since = None
            return l.RESCUE_NONE
        self._away_since = now if self._away_since is None else self._away_since
        level = l.RESCUE_NONE if now - self._away_since < AWAY_S else l.RESCUE_CANCEL
        if level and ("unprotected" in causes or self.flattens or self._settings.positions == "flatten"):
            level = l.RESCUE_FLATTEN
        if level > int(self._row["rescue"]):
            self._note({l.RESCUE_CANCEL: "the sniper is away: the gateway cancels working entries",
                        l.RESCUE_FLATTEN: "the sniper is away: the gateway closes all positions by itself"}[level])
        return max(level, int(self._row["rescue"]))
