"""Waiting for a futex and a socket at once: a thread that rings the process's doorbell when a request comes in."""

from __future__ import annotations

import contextlib
import select
import threading

import zmq

from ipc import bus, wait
from ipc.process import Child


class Doorman(threading.Thread):
    """Rings the recorder's bell when its server has something to read.

    It looks at the socket's descriptor alone, never at the socket, which belongs to the recorder's own thread. After a ring it waits
    until that thread has looked (`turn`), since only looking makes the descriptor unreadable again.
    """

    def __init__(self, server: bus.Server, child: Child) -> None:
        super().__init__(name="doorman", daemon=True)
        self._descriptor = int(server.socket.getsockopt(zmq.FD))
        self._processes, self._role = child.processes, child.role
        self._closed = False
        self.turn = threading.Event()

    def run(self) -> None:
        """Until closed."""
        while not self._closed:
            with contextlib.suppress(OSError, ValueError):  # the socket is closed at the end
                if select.select([self._descriptor], [], [], 0.2)[0] and not self._closed:
                    self.turn.clear()
                    wait.ring_bells(self._processes, 1 << self._role)
                    self.turn.wait(0.05)

    def close(self) -> None:
        """Before the socket is closed."""
        self._closed = True
        self.turn.set()
        self.join(1.0)
