"""The live screen of trader-launch: one page, drawn four times a second in a thread of its own.

A failing view or terminal never reaches the supervision: the fault is shown in the picture's place, and trading goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from control.serve.page import page

#: seconds between two pictures
FRAME_S = 0.25


class Screen:
    """Shows what `view` gives (see control/supervise/view.py) until it is stopped. `ctl_line` is the command that reaches this instance."""

    def __init__(self, view: Callable[[], dict[str, Any]], ctl_line: str, console: Console | None = None) -> None:
        self._view, self._ctl_line = view, ctl_line
        self._console = console or Console()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def start(self) -> None:
        """Take the terminal over."""
        self._thread.start()

    def stop(self) -> None:
        """Give the terminal back; what was printed meanwhile is on it."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        # the thread draws by itself: rich's own refresh thread would need a second one, and a lock with it
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while not self._stop.wait(FRAME_S):
                try:
                    live.update(self.picture(), refresh=True)
                except Exception as error:  # while it is drawn: a terminal of odd measures
                    live.update(self._fault(error), refresh=True)

    def picture(self) -> RenderableType:
        """The page as it is now."""
        try:
            return page(self._view(), self._ctl_line)
        except Exception as error:
            return self._fault(error)

    def _fault(self, error: Exception) -> RenderableType:
        return Panel(Text(f"the screen cannot be drawn ({type(error).__name__}: {error}); the instance goes on\n{self._ctl_line}"))
