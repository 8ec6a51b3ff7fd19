"""What a service manager is told: ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)). Without NOTIFY_SOCKET nobody is told anything.

The watchdog's own loop sends it, in its turn: a loop that is blocked is silent, and the manager ends and restarts the whole.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from control.supervise.watchdog import Phase

#: keep-alives within the manager's limit
_WITHIN_LIMIT = 4


class ServiceManager:
    """The manager's socket, as the environment names it; the variables are taken out of it, since no child is to speak for the whole."""

    def __init__(self, environment: MutableMapping[str, str], log: logging.Logger) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        limit_us, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._log = log
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            self._socket.setblocking(False)
        asked = limit_us.isdigit() and int(limit_us) > 0 and pid in ("", str(os.getpid()))
        #: seconds between two keep-alives; 0: none are asked for
        self.interval_s = int(limit_us) / 1e6 / _WITHIN_LIMIT if asked else 0.0
        self._said_alive_at = 0.0
        self._phase: Phase | None = None
        self._heard = True

    def turn(self, phase: Phase, now: float) -> None:
        """Say what is new, and that the loop is alive. `now` in monotonic seconds."""
        if self._socket is None:
            return
        if phase is not self._phase:
            self._phase = phase
            if phase is Phase.RUNNING:
                self._send("READY=1\nSTATUS=trading")
            elif phase is Phase.STOPPING:
                self._send("STOPPING=1\nSTATUS=stopping in order")
        if self.interval_s and now - self._said_alive_at >= self.interval_s:
            self._said_alive_at = now
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        assert self._socket is not None
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:  # told once: the manager acts on silence by itself
            if self._heard:
                self._log.warning("NOTIFY_SOCKET %s: %s; the service manager does not hear this instance", self._address.replace("\0", "@"), error)
            self._heard = False
        else:
            self._heard = True

    def close(self) -> None:
        """Nothing more is said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
