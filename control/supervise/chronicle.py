"""What the watchdog has to say: into its log, on the screen, and to the journal, where events wait while the recorder is down."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hotpath.courier import Courier, Line
from ipc import messages


class Chronicle(Courier):
    """Events on their way to the journal; also the newest ones for the screen."""

    def __init__(self, line: Line, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(line, log, clock)
        self.newest: deque[str] = deque(maxlen=20)

    def note(self, kind: str, text: str, level: int = logging.INFO, **data: Any) -> None:
        """Log an event, show it, and journal it as soon as the recorder takes it."""
        self._log.log(level, "%s", text)
        self.newest.append(text)
        self.keep(kind, text, **data)

    def keep(self, kind: str, text: str, **data: Any) -> None:
        """Journal an event that is for the next start alone."""
        self.take(messages.Event(source="watchdog", kind=kind, text=text, wall_ns=time.time_ns(), data=data))
        self.pump()  # now, not with the next turn: an operator may be waiting until it is journaled
