"""The control socket's own thread: what shared memory knows is answered at once, whatever the supervising loop is at; the rest waits for it.

The loop takes what waits with `poll`, in its own turn, so that everything that acts happens in one thread. The socket belongs to this thread alone:
replies go back to it through a queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from ipc import bus, messages

#: commands that wait for the loop; beyond, operators are told to come again
MOST_WAITING = 1000
#: longest sleep of the thread, in ms: a wake-up that got lost costs no more
_SLEEP_MS = 200

_log = logging.getLogger("control")


class Attendant:
    """Used like a bus.Server. `at_once` gives the reply to what needs nobody, None for the rest; it is called in the thread and must not wait."""

    def __init__(self, folder: Path, name: str, decode: Callable[[bytes], Any], max_bytes: int, at_once: Callable[[Any], Any]) -> None:
        self._server = bus.Server(folder, name, decode, max_bytes)
        self._at_once = at_once
        self._waiting: deque[tuple[tuple[bytes, bytes], Any]] = deque()
        self._replies: deque[tuple[tuple[bytes, bytes], Any]] = deque()
        self._loop_bell, self._own_bell = _Bell(), _Bell()
        self._closing = False
        #: who sent the request that `handle` is given
        self.asker: tuple[bytes, bytes] = (b"", b"")
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    # ── the loop's side ──────────────────────────────────────────────────────────────────────────────────────────────
    def fileno(self) -> int:
        """Readable when a command waits for `poll`."""
        return self._loop_bell.reads

    def poll(self, handle: Callable[[Any], Any]) -> None:
        """Let `handle` answer what waits; None: the answer comes later, by `answer`."""
        self._loop_bell.silence()
        while self._waiting:
            self.asker, request = self._waiting.popleft()
            if (reply := handle(request)) is not None:
                self.answer(self.asker, reply)

    def answer(self, asker: tuple[bytes, bytes], reply: Any) -> None:
        """A reply to whoever asked."""
        self._replies.append((asker, reply))
        self._own_bell.ring()

    def close(self) -> None:
        """Send what is answered, and unbind."""
        self._closing = True
        self._own_bell.ring()
        self._thread.join()
        self._loop_bell.close()
        self._own_bell.close()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._server.socket, zmq.POLLIN)
        poller.register(self._own_bell.reads, zmq.POLLIN)
        while not self._closing:
            rung = {descriptor for descriptor, _ in poller.poll(_SLEEP_MS)}
            try:
                self._turn(self._own_bell.reads in rung)
            except Exception:
                _log.exception("control socket")
        self._turn(False)
        self._server.close()

    def _turn(self, rung: bool) -> None:
        if rung:  # each call into the system gives the interpreter away, and may wait for it
            self._own_bell.silence()
        while self._replies:
            self._server.answer(*self._replies.popleft())
        self._server.poll(0.0, self._take)

    def _take(self, request: Any) -> Any:
        try:
            if (reply := self._at_once(request)) is not None:
                return reply
        except Exception as error:
            _log.exception("%s", type(request).__name__)
            return messages.Refused(code="internal", text=f"{type(error).__name__}: {error}"[:300], remedy="see the watchdog's log")
        if len(self._waiting) >= MOST_WAITING:
            return messages.Refused(code="busy", text=f"{MOST_WAITING} commands wait", remedy="ask again in a second")
        self._waiting.append((self._server.asker, request))
        self._loop_bell.ring()
        return None


class _Bell:
    """A pipe that is readable once rung."""

    def __init__(self) -> None:
        self.reads, self._writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # rung often enough
            os.write(self._writes, b"!")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reads, 4096)

    def close(self) -> None:
        os.close(self.reads)
        os.close(self._writes)
