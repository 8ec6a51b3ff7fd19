"""What the table of bad input is made of: recorded frames, a strategy that misbehaves on demand, a filesystem without room, raw ZeroMQ bytes."""

from __future__ import annotations

import contextlib
import json
import mmap
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

#: 2024-01-01 00:00:00 UTC
NEW_YEAR_NS = 1_704_067_200_000_000_000
SECOND_NS = 1_000_000_000
STRATEGIES = Path(__file__).parent / "fixtures" / "wayward.py"


# ── recordings ───────────────────────────────────────────────────────────────────────────────────────────────────────
def quote(ns: int, bid: str, ask: str, size: str = "2.0", asked: str = "2.0") -> str:
    """A bookTicker of BTC/USDT as it is recorded."""
    frame = {"stream": "btcusdt@bookTicker", "data": {"u": 1, "s": "BTCUSDT", "b": bid, "B": size, "a": ask, "A": asked}}
    return f"{ns} {json.dumps(frame)}\n"


def trade(ns: int, price: str, size: str = "0.01") -> str:
    """A trade of BTC/USDT as it is recorded."""
    data = {"e": "trade", "E": ns // 10**6, "s": "BTCUSDT", "t": 1, "p": price, "q": size, "T": ns // 10**6, "m": False, "M": True}
    return f"{ns} {json.dumps({'stream': 'btcusdt@trade', 'data': data})}\n"


def session(prices: list[int], start_ns: int = NEW_YEAR_NS) -> list[str]:
    """A quote and a trade for each price, five a second; the spread is 0.02."""
    lines = []
    for number, price in enumerate(prices):
        ns = start_ns + number * SECOND_NS // 5
        lines += [quote(ns, f"{price}.00", f"{price}.02"), trade(ns + 1_000_000, f"{price}.01")]
    return lines


def waves(seconds: int, low: int = 42_000, high: int = 42_040) -> list[int]:
    """Prices up and down between two levels, a step of 4 each fifth of a second."""
    way = [*range(low, high, 4), *range(high, low, -4)]
    return [way[number % len(way)] for number in range(seconds * 5)]


# ── no room ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def small_filesystem(folder: Path, size: str) -> Iterator[str]:
    """A tmpfs of `size` on `folder`; gives why it cannot be had, "" where it is there."""
    folder.mkdir()
    mount = shutil.which("mount")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True,
                          check=False) if mount else None
    if done is None or done.returncode:
        yield f"no tmpfs can be mounted here: {done.stderr.strip() if done else 'there is no mount'}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def fill(folder: Path) -> Path:
    """Take whatever room is left in a folder's filesystem; unlink the file that this gives to relieve it."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for block in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(block)):
                    pass
    return ballast


# ── the control socket, below ZeroMQ ─────────────────────────────────────────────────────────────────────────────────
def greeted(path: Path) -> socket.socket:
    """A connection that has shaken hands as a DEALER and may send what ZeroMQ's own sockets never would."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(5.0)
    raw.connect(str(path))
    raw.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    raw.sendall(bytes((4, len(ready))) + ready)
    return raw


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
