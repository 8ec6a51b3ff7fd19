"""A scripted OpenAI-compatible server on a real socket: each request takes the next script, which may answer well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: what is done with a request; the last script is used again and again
Script = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request: the body is read and kept, then the script answers."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(json.loads(body))
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            script = self.server.scripts.pop(0) if len(self.server.scripts) > 1 else self.server.scripts[0]
        self.close_connection = True
        try:
            script(self)
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()  # the client has had enough

    def send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """A whole answer; `length` is what Content-Length says where that is not the truth."""
        self.send_response(status)
        for name, value in ({"content_type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server, its scripts, and what it was asked."""

    daemon_threads = True

    def __init__(self, scripts: list[Script]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts = scripts
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = threading.Event()
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what this is about


@contextmanager
def serving(*scripts: Script) -> Iterator[Server]:
    """A server that answers with these scripts, one after the other."""
    server = Server(list(scripts))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def completion(content: Any, finish_reason: str | None = "stop", usage: Any = None, **message: Any) -> bytes:
    """The body of a chat completion."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **message}}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice]}
    return json.dumps(body | ({} if usage is None else {"usage": usage})).encode()


def proposal(**changes: Any) -> dict[str, Any]:
    """A proposal that passes."""
    return {"symbol": "BTC/USDT", "side": "buy", "direction": "up", "level_bps": 20, "size_bps": 100, "confidence_bps": 8000, "stop_bps": 50,
            "target_bps": 100, "valid_minutes": 30, "clauses": [], "why": "a test"} | changes


def reply(*proposals: dict[str, Any], decision: str = "TRADE", reason: str = "so it is") -> str:
    """The text of a reply."""
    return json.dumps({"decision": decision, "reason": reason, "proposals": list(proposals)})


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def says(content: Any, finish_reason: str | None = "stop", usage: Any = None, **message: Any) -> Script:
    """A well-formed completion with this content."""
    return lambda handler: handler.send(completion(content, finish_reason, usage, **message))


def gives(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Script:
    """These bytes."""
    return lambda handler: handler.send(body, status, length, **headers)


def late(then: Script, seconds: float) -> Script:
    """The headers come late."""
    def script(handler: Handler) -> None:
        handler.server.ended.wait(seconds)
        then(handler)

    return script


def drips(body: bytes, pause_s: float, head: bool = False) -> Script:
    """A byte at a time, of the body or already of the headers."""
    def script(handler: Handler) -> None:
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        handler.wfile.write(b"" if head else lines)
        for number, byte in enumerate((lines if head else b"") + body):
            handler.wfile.write(bytes([byte]))
            if handler.server.ended.wait(pause_s if number else 0):
                return

    return script


def endless(chunk: bytes, status: int = 200, most: int = 400 << 20) -> Script:
    """Hundreds of megabytes, without saying so beforehand."""
    def script(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\r\n".encode())
        for _ in range(most // len(chunk)):
            handler.wfile.write(chunk)

    return script


def resets(after: bytes = b"") -> Script:
    """The connection is reset, after some bytes of an answer."""
    def script(handler: Handler) -> None:
        handler.wfile.write(after)
        handler.wfile.flush()
        time.sleep(0.05 if after else 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return script


def echoes_the_key(status: int) -> Script:
    """An error that repeats the Authorization header, as a careless proxy does."""
    return lambda handler: handler.send(json.dumps({"error": {"message": f"bad {handler.headers['Authorization']}"}}).encode(), status)
