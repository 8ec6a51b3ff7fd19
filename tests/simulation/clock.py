"""Time that stands still unless a script moves it: a stand-in for the module `time` wherever the shipped code of one process asks for it."""

from __future__ import annotations

import time as real
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import control.record.recorder
import control.record.salvage
import control.record.writer
import control.supervise.chronicle
import hotpath.armoury
import hotpath.gateway
import ipc.board

MS = 1_000_000
#: event time at the start of a script (a day's noon), and how much the monotonic clock has run by then
EPOCH_NS = 1_790_000_000 // 86_400 * 86_400 * 10**9 + 43_200 * 10**9
_BOOTED_NS = 10**12
_ASKED_BY = (hotpath.gateway, hotpath.armoury, control.record.recorder, control.record.writer, control.record.salvage,
             control.supervise.chronicle, ipc.board)


class Clock:
    """Monotonic, wall and event time. A sleep lets time pass, and nothing else."""

    def __init__(self) -> None:
        self.now_ns = _BOOTED_NS
        #: how far the wall clock has stepped
        self.stepped_ns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    @property
    def event_ns(self) -> int:
        """Event time, as the market stamps it."""
        return EPOCH_NS + self.now_ns - _BOOTED_NS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def time_ns(self) -> int:
        return self.event_ns + self.stepped_ns

    def time(self) -> float:
        return self.time_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9) + 1


@contextmanager
def standing(clock: Clock) -> Iterator[Clock]:
    """Within this the shipped code of the loop asks `clock` for the time."""
    before = [module.__dict__["time"] for module in _ASKED_BY]
    for module in _ASKED_BY:
        module.__dict__["time"] = clock
    try:
        yield clock
    finally:
        for module, was in zip(_ASKED_BY, before, strict=True):
            module.__dict__["time"] = was
