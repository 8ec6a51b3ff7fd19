"""Something that waits, in one background thread, polled by a loop that must not. The thread is a daemon: it keeps no process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """One piece of work at a time. `most_s` is after how long it is overdue; nothing else is begun before it has ended all the same."""

    def __init__(self, most_s: float, clock_ns: Callable[[], int]) -> None:
        self._most_ns, self._clock_ns = int(most_s * 1e9), clock_ns
        self._thread: threading.Thread | None = None
        self._result: list[T | BaseException] = []
        self._began_ns = 0

    @property
    def busy(self) -> bool:
        """Work is under way, or its result has not been taken yet, or is what nobody waits for any more and has not ended."""
        return self._thread is not None and (self._thread.is_alive() or bool(self._result))

    @property
    def overdue(self) -> bool:
        """It has been under way for too long."""
        return not self._result and self._thread is not None and self._clock_ns() - self._began_ns > self._most_ns

    def start(self, work: Callable[[], T]) -> bool:
        """Begin; False while the last one has not ended."""
        if self.busy:
            return False
        result: list[T | BaseException] = []  # of this work: what comes too late goes nowhere
        self._result = result

        def run() -> None:
            try:
                result.append(work())
            except BaseException as error:
                result.append(error)

        self._began_ns = self._clock_ns()
        self._thread = threading.Thread(target=run, name="llm", daemon=True)
        self._thread.start()
        return True

    def poll(self) -> T | BaseException | None:
        """The result, once; None before."""
        return self._result.pop() if self._result else None

    def give_up(self) -> None:
        """Nobody waits for the result any more."""
        self._result = []
