"""The processes of the ZeroMQ baseline: a subscriber that matches in plain Python, and the publisher's half. No numba, no shared memory.

A tick and an order are packed words; the conditions are what `benchmarks/firing.py` says, a list of each symbol's levels. A trade is compared with
the symbol's trade before it, level by level; an order goes back by a PUB socket of its own.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import zmq

#: sequence, instrument, 1 = quote, price (of a quote: bid), ask price
TICK = struct.Struct("<qqqqq")
#: sequence of the tick, condition id, side, lots, reference price, fire index
ORDER = struct.Struct("<qqqqqq")
_END = b""
_POLL_MS = 20_000


def _pair(folder: Path, out: str, back: str) -> tuple[Any, Any, Any]:
    """Context, PUB and SUB, without limits of their queues: nothing may be dropped."""
    context = zmq.Context()
    publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
    for one in (publisher, subscriber):
        one.setsockopt(zmq.SNDHWM, 0)
        one.setsockopt(zmq.RCVHWM, 0)
        one.setsockopt(zmq.LINGER, 0)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    publisher.bind(f"ipc://{folder}/{out}")
    subscriber.connect(f"ipc://{folder}/{back}")
    return context, publisher, subscriber


def be_matcher(folder: Path, conditions: list[tuple[int, int, int, int]], size_quanta: int, value_quanta: int) -> None:
    """Until the end comes: each tick against its symbol's conditions (condition id, instrument, level, side: a buy upwards, a sale downwards)."""
    _, publisher, subscriber = _pair(folder, "orders", "ticks")
    levels: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for condition_id, instrument, level, side in conditions:
        levels[instrument].append((condition_id, level, side))
    last: dict[int, int] = {}
    quotes: dict[int, tuple[int, int]] = {}
    fires: dict[int, int] = defaultdict(int)
    while (data := subscriber.recv()) != _END:
        if len(data) == 1:  # are you there?
            publisher.send(data)
            continue
        seq, instrument, is_quote, price, ask = TICK.unpack(data)
        if is_quote:
            quotes[instrument] = price, ask
            continue
        before = last.get(instrument)
        last[instrument] = price
        if before is None or instrument not in quotes:
            continue
        for condition_id, level, side in levels[instrument]:
            if before < level <= price if side > 0 else before > level >= price:
                bid, offered = quotes[instrument]
                reference = offered if side > 0 else bid
                publisher.send(ORDER.pack(seq, condition_id, side, size_quanta // (reference * value_quanta), reference, fires[condition_id]))
                fires[condition_id] += 1
    publisher.send(_END)


class Publisher:
    """This side: sends ticks, notes when each order came."""

    def __init__(self, folder: Path) -> None:
        self._context, self._out, self._in = _pair(folder, "ticks", "orders")
        end = time.monotonic() + 20
        while not self._in.poll(20):  # subscriptions take a while to arrive
            if time.monotonic() > end:
                raise TimeoutError("the matching process did not answer")
            self._out.send(b"?")
        time.sleep(0.2)
        while self._in.poll(0):
            self._in.recv()
        self.orders: list[tuple[int, ...]] = []
        self.seen_ns: list[int] = []

    def _take(self) -> bool:
        """What has come; False once the end has."""
        while self._in.poll(0):
            data = self._in.recv()
            if data == _END:
                return False
            if len(data) == ORDER.size:
                self.seen_ns.append(time.monotonic_ns())
                self.orders.append(ORDER.unpack(data))
        return True

    def publish(self, packed: list[bytes], interval_ns: int) -> list[int]:
        """One tick each `interval_ns` (0: at once), orders taken meanwhile; gives when each was due."""
        due_ns = []
        base = time.monotonic_ns() + 1_000_000
        for number, data in enumerate(packed):
            due = base + number * interval_ns
            while interval_ns and time.monotonic_ns() < due:
                self._take()
            self._out.send(data)
            due_ns.append(due)
        return due_ns

    def end(self) -> None:
        """Take the rest, until the other side has said that it is through."""
        self._out.send(_END)
        while self._in.poll(_POLL_MS):
            if not self._take():
                self._context.destroy(linger=0)
                return
        raise TimeoutError("the matching process did not end")
