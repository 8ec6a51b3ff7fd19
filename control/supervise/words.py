"""What an operator says that holds until he takes it back: pause, flatten, safe. Each is noted as it is said, and a start takes up what stands.

With them goes what only a day ends, and from which equity a drawdown counts that a person has seen: no restart may loosen either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from control.supervise.safety import CAUSES, Ends, SafeMode
from ipc import board
from ipc import layout as l


class Dangers(Protocol):
    """As much of control.supervise.dangers as is needed."""

    @property
    def day(self) -> int:
        """UTC day of event time."""

    def recall(self, peak: int, forgiven: int) -> None:
        """As the last run remembered it."""

    def forgive(self) -> None:
        """The drawdown is counted anew, from here."""


class Rescue(Protocol):
    """As much of control.supervise.rescue as is needed."""

    flattens: bool


class Words:
    """Of one instance. Whatever it notes outlives the instance as soon as the journal has it."""

    def __init__(self, modes: Any, safe_mode: SafeMode, dangers: Dangers, rescue: Rescue, tell: Callable[[], None],
                 note: Callable[..., None]) -> None:
        """`modes`: the board's (layout.MODE). `tell` makes a changed safe mode known at once, `note` is Chronicle.note."""
        self._modes, self._safe_mode, self._dangers, self._rescue, self._tell, self._note = modes, safe_mode, dangers, rescue, tell, note

    def recall(self, journal: Any) -> None:
        """What stands by the journal of the runs before, before anything moves."""
        paused, safe, drawdown = (journal.lasting(kind) for kind in ("pause", "safe_mode", "drawdown"))
        if paused is not None and paused.kind == "pause":
            board.set_mode(self._modes, l.MODE_OF_OPERATOR, l.MODE_REDUCE_ONLY, board.PAUSED)
            self._rescue.flattens = bool(paused.data.get("flatten"))
        if (known := drawdown or safe) is not None:  # of safe_mode: as it was before drawdown had an event of its own
            self._dangers.recall(int(known.data.get("peak", 0)), int(known.data.get("forgiven", 0)))
        if safe is None:
            return
        days = safe.data.get("days", {})  # before it there was one `day` for all causes, that of the event
        for cause, text in safe.data.get("causes", {}).items():
            if CAUSES.get(cause) in (Ends.PERSON, Ends.DAY):
                self._safe_mode.begin(cause, text, int(days.get(cause, safe.data.get("day", 0))))

    def pause(self, text: str) -> None:
        """No new entries until `resume`. A flatten that was said before still stands."""
        board.set_mode(self._modes, l.MODE_OF_OPERATOR, l.MODE_REDUCE_ONLY, board.PAUSED)
        self._note("pause", text, flatten=self._rescue.flattens)

    def flatten(self, text: str) -> None:
        """Paused, and whatever is open, or still comes of an order under way, is closed: until `resume`, by whichever run."""
        self._rescue.flattens = True
        self.pause(text)

    def safe(self, text: str) -> None:
        """Safe mode until `resume`."""
        self._safe_mode.begin("operator", text, self._dangers.day)
        self._tell()

    def resume(self) -> tuple[str, str]:
        """What a person ends has ended. Gives how the instance trades now (of layout.MODES), and a text that names what still stands."""
        board.set_mode(self._modes, l.MODE_OF_OPERATOR, l.MODE_RUNNING, "")
        self._rescue.flattens = False
        if "drawdown" in self._safe_mode.causes:
            self._dangers.forgive()
        self._safe_mode.resume()
        self._tell()
        causes = self._safe_mode.causes
        mode, cause = board.severest([row for number, row in enumerate(self._modes) if number != l.MODE_OF_WATCHDOG])
        if causes:
            mode, cause = l.MODE_SAFE, "; ".join(causes.values())
        elif cause == board.ACCOUNT:  # it is being compared anew
            mode, cause = l.MODE_RUNNING, ""
        text = "resumed: entries again" if mode == l.MODE_RUNNING else f"resumed, but the instance is still {l.MODES[mode]}: {cause}"
        self._note("resume", text)
        return l.MODES[mode], text
