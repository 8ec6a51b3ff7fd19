"""Request and reply over ZeroMQ ipc sockets: a server a process, a client for whoever asks.

Frames of a request: 8 bytes of request id, the message. The reply echoes the id. A second bind on a living ipc path silently succeeds in
ZeroMQ, so take the role's lock before `Server`. Contexts are made after the fork, never before.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from ipc import messages

#: longest ipc path that the kernel takes
MAX_PATH_BYTES = 107


class BusTimeout(Exception):
    """No answer in time."""


def socket_dir(instance: str) -> Path:
    """The instance's 0700 folder of sockets, under XDG_RUNTIME_DIR or the temp folder; only its name is needed to find it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    root = Path(base) if base and os.path.isdir(base) else Path(tempfile.gettempdir())
    return root / f"trader-{os.getuid()}" / instance


def make_socket_dir(instance: str) -> Path:
    """Create the folder, private to this user. Raises ValueError where it belongs to somebody else or its path is too long."""
    folder = socket_dir(instance)
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = part.stat()
        if status.st_uid != os.getuid():
            raise ValueError(f"{part} belongs to user {status.st_uid}; remove it or set XDG_RUNTIME_DIR")
        part.chmod(0o700)
    if len(str(folder / "reflection.sock").encode()) > MAX_PATH_BYTES:
        raise ValueError(f"{folder}: too long for a socket path ({MAX_PATH_BYTES} bytes); set XDG_RUNTIME_DIR to a shorter folder "
                         "or use a shorter --instance name")
    return folder


def address(folder: Path | str, name: str) -> str:
    """ZeroMQ address of a role's socket (or "control") in a socket folder."""
    return f"ipc://{folder}/{name}.sock"


class Server:
    """A ROUTER socket that decodes requests with one typed decoder and answers each with a Struct, at once or later."""

    def __init__(self, folder: Path | str, name: str, decode: Callable[[bytes], Any],
                 max_bytes: int = messages.MAX_MESSAGE_BYTES) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self.socket.setsockopt(zmq.LINGER, 200)
        self.socket.setsockopt(zmq.RCVHWM, 1000)
        self._path = Path(folder) / f"{name}.sock"
        self._path.unlink(missing_ok=True)
        self.socket.bind(address(folder, name))
        self._path.chmod(0o600)
        self._decode = decode
        self.malformed = 0
        #: who sent the request that `handle` is given, for an answer that comes later
        self.asker: tuple[bytes, bytes] = (b"", b"")

    def poll(self, timeout_s: float, handle: Callable[[Any], Any], most: int = 64) -> int:
        """Answer what has come within the time-out: `handle(request)` gives the reply. Bad frames get a Refused, never an exception.

        A handler that gives None has kept `asker` and calls `answer` itself later.
        """
        if not self.socket.poll(int(timeout_s * 1000)):
            return 0
        done = 0
        while done < most:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            done += 1
            if len(frames) != 3 or len(frames[1]) != 8:
                self.malformed += 1
                reply: Any = messages.Refused(code="malformed", text=f"a request has 2 frames (8-byte id, message), not {len(frames) - 1}",
                                              remedy="send [id, payload] from a DEALER socket")
                self._send([frames[0], frames[1][:8] if len(frames) > 1 else b"", messages.encode(reply)])
                continue
            self.asker = (frames[0], frames[1])
            try:
                request = self._decode(frames[2])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
                self.malformed += 1
                reply = messages.Refused(code="malformed", text=str(error)[:500], remedy="see ipc/messages.py for the fields of each type")
            else:
                reply = handle(request)
            if reply is not None:
                self.answer((frames[0], frames[1]), reply)
        return done

    def answer(self, asker: tuple[bytes, bytes], reply: Any) -> None:
        """Send a reply to whoever asked; a client that has gone is counted."""
        self._send([*asker, messages.encode(reply)])

    def _send(self, frames: list[bytes]) -> None:
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):  # the client has gone; nothing is lost that it could still hear
            self.malformed += 1

    def close(self) -> None:
        """Close and unlink."""
        self.socket.close()
        self._context.term()
        self._path.unlink(missing_ok=True)


class Client:
    """A DEALER socket for one server. Not shared between threads."""

    def __init__(self, folder: Path | str, name: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._address = address(folder, name)
        self.name = name
        self._ids = itertools.count(1)
        self._socket: zmq.Socket[bytes] | None = None

    def ask(self, request: Any, timeout_s: float = 1.0, while_waiting: Callable[[], None] | None = None) -> Any:
        """Send and wait for the reply to exactly this request. Raises BusTimeout; late replies of earlier requests are dropped.

        `while_waiting` is called every 20 ms, for a caller that has a heart to beat.
        """
        if self._socket is None:
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES)
            self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
            self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
            self._socket.connect(self._address)
        number = next(self._ids).to_bytes(8, "big")
        self._socket.send_multipart([number, messages.encode(request)])
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            if self._socket.poll(int(1000 * (min(left, 0.02) if while_waiting else left)) + 1):
                frames = self._socket.recv_multipart()
                if len(frames) == 2 and frames[0] == number:
                    return messages.decode_reply(frames[1])
            if while_waiting:
                while_waiting()
        self.close()  # a fresh socket next time: what was queued here must not arrive later
        raise BusTimeout(f"{self.name} did not answer within {timeout_s:g} s")

    def close(self) -> None:
        """Drop the connection and whatever is queued."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
