"""Events on their way to the journal, for a sender that must never wait: they are kept while the recorder is down or its disk refuses.

One event is on its way at a time; without an answer it is sent again, on a fresh socket, so that an event is journaled at least once and in
order. (A DEALER that queued them all would hand a respawned recorder whatever its kernel buffer happened to hold.)
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from ipc import bus, messages

#: events that wait at most; beyond, the oldest is dropped
MOST_WAITING = 10_000
#: seconds until an unanswered event is sent again, and one that the recorder could not take
PATIENCE_S = 1.0
AGAIN_S = 0.1


class Line(Protocol):
    """A way to a role that never waits: `send` says whether it was taken, `receive` gives a reply or None."""

    def send(self, number: bytes, payload: bytes) -> bool:
        """Take a request if that is possible now."""

    def receive(self) -> tuple[bytes, bytes] | None:
        """(request number, payload) of a reply that has come."""

    def reset(self) -> None:
        """Forget whatever was sent."""


class RoleLine:
    """The socket of a role, as a Line."""

    def __init__(self, sockets: Path, role: str) -> None:
        self._address = bus.address(sockets, role)
        self._socket: zmq.Socket[bytes] | None = None

    def send(self, number: bytes, payload: bytes) -> bool:
        """As Line."""
        if self._socket is None:
            # the process's one context, made here and not before the fork: one of its own would be waited for wherever this is forgotten
            self._socket = zmq.Context.instance().socket(zmq.DEALER)
            for option, value in ((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.RECONNECT_IVL, 10), (zmq.RECONNECT_IVL_MAX, 200),
                                  (zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)):
                self._socket.setsockopt(option, value)
            self._socket.connect(self._address)
        try:
            self._socket.send_multipart([number, payload], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> tuple[bytes, bytes] | None:
        """As Line."""
        if self._socket is None:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return (frames[0], frames[1]) if len(frames) == 2 else None

    def reset(self) -> None:
        """As Line."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def descriptors(self) -> list[int]:
        """What becomes readable when a reply may have come, for the caller's sleep."""
        return [] if self._socket is None else [int(self._socket.getsockopt(zmq.FD))]

    def close(self) -> None:
        """Leave the bus."""
        self.reset()


class Courier:
    """Takes events, and brings them to the recorder as far as each `pump` comes without waiting."""

    def __init__(self, line: Line, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._line, self._log, self._clock = line, log, clock
        self._waiting: deque[bytes] = deque()
        self._number = 0
        self._sent_at: float | None = None
        self._not_before = 0.0
        #: events that were ever taken; the newest of them that will never be journaled, as it was dropped or refused
        self.taken = self._lost = 0

    def take(self, event: messages.Event) -> None:
        """To be journaled as soon as the recorder takes it."""
        if len(self._waiting) >= MOST_WAITING:
            self._lose_first()
            self._sent_at = None
        self._waiting.append(messages.encode(event))
        self.taken += 1

    def pump(self) -> None:
        """Send what waits, as far as it goes without waiting."""
        now = self._clock()
        while (reply := self._line.receive()) is not None:
            number, payload = reply
            if self._sent_at is None or number != self._number.to_bytes(8, "big") or not self._waiting:
                continue  # late answer to an earlier attempt
            self._hear(payload)
            self._sent_at = None
        if self._sent_at is not None and now - self._sent_at >= PATIENCE_S:
            self._line.reset()
            self._sent_at = None
        if self._sent_at is None and self._waiting and now >= self._not_before:
            self._number += 1
            if self._line.send(self._number.to_bytes(8, "big"), self._waiting[0]):
                self._sent_at = now

    def _hear(self, payload: bytes) -> None:
        try:
            reply = messages.decode_reply(payload)
        except msgspec.DecodeError as error:
            self._log.error("the recorder's answer to an event is not understood: %s", error)
            self._lose_first()
            return
        match reply:
            case messages.Unavailable():
                self._not_before = self._clock() + AGAIN_S
            case messages.Refused():  # asking again will not help
                self._log.error("the recorder refused an event: %s: %s", reply.code, reply.text)
                self._lose_first()
            case _:
                self._waiting.popleft()

    def _lose_first(self) -> None:
        self._waiting.popleft()
        self._lost = self.taken - len(self._waiting)

    def brought(self, number: int) -> bool:
        """Event `number`, as `taken` counts, is in the journal. A no is no proof where one behind it was lost."""
        return self._lost < number <= self.taken - len(self._waiting)

    def settle(self) -> None:
        """Somebody else has journaled what waited: the recorder is gone."""
        self._waiting.clear()

    def unsaid(self) -> list[messages.Event]:
        """Events that no recorder has acknowledged, oldest first."""
        return [event for payload in self._waiting if isinstance(event := messages.decode_child_request(payload), messages.Event)]

    @property
    def waiting(self) -> int:
        """Events that are not yet acknowledged."""
        return len(self._waiting)
