"""Where ticks come from: the simulated market, or recordings with CLOCK and SESSION ticks woven in. A source is a function of its seed or its
files, so a respawned feed finds its place in it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from hotpath.config import Hotpath
from hotpath.kernel import clock
from hotpath.venues import simulated
from hotpath.venues.record import FIELDS, SourceError
from hotpath.venues.replay import CHUNK, Recording
from ipc.process import Child

#: records decoded at once where ticks have their time: the next one waits 1 ms, not 15
_PACED_CHUNK = 128


class TickSource(Protocol):
    """What the main loop publishes from."""

    def resume(self, head: int, line: Any, ticks: Any, marks: Any) -> tuple[int, int]:
        """Go on behind tick `head`, which feed line `line` belongs to: (row of that tick, ticks made) in a first batch."""

    def fill(self, ticks: Any, marks: Any) -> int:
        """The next ticks and their marks; how many. 0: the end."""

    def counts(self) -> dict[str, int]:
        """METRICS of the source so far."""

    def errors(self) -> list[str]:
        """What broke and ended early."""

    def faults(self) -> list[str]:
        """What was wrong and was passed over."""


class SimulatedSource:
    """The simulated market; it has no end and no faults."""

    def __init__(self, seed: int, instruments: Any, start_ns: int) -> None:
        self._simulation = simulated.Simulation(seed, instruments, start_ns)

    def resume(self, head: int, line: Any, ticks: Any, marks: Any) -> tuple[int, int]:
        """At once: the line names the bucket."""
        return self._simulation.resume(int(line["position"]), int(line["records"]), ticks, marks)

    def fill(self, ticks: Any, marks: Any) -> int:
        """The next buckets."""
        return self._simulation.fill(ticks, marks)

    def counts(self) -> dict[str, int]:
        """Nothing is read."""
        return {}

    def errors(self) -> list[str]:
        """Nothing breaks."""
        return []

    def faults(self) -> list[str]:
        """Nothing is wrong."""
        return []


class ReplaySource:
    """Recordings with CLOCK and SESSION ticks woven in.

    `gap_ns`: what makes a new session; `flatten`: end with a SESSION tick; `chunk`: records decoded at once.
    """

    def __init__(self, recording: Recording, gap_ns: int, flatten: bool, chunk: int) -> None:
        self._recording, self._gap_ns, self._flatten, self._chunk = recording, gap_ns, flatten, chunk
        self._state = clock.new_state(recording.clock_ns)
        self._records = np.zeros((0, FIELDS), np.int64)
        self._next = 0
        self._ended = False

    def resume(self, head: int, line: Any, ticks: Any, marks: Any) -> tuple[int, int]:
        """Read from the start up to the head: that alone gives the same counts. Raises SourceError where the files are not the same."""
        done = 0
        while True:
            made = self.fill(ticks, marks)
            if done + made >= head or not made:
                break
            done += made
        row = head - done - 1
        if not made or int(ticks[row]["event_ns"]) != int(line["event_ns"]) or int(marks[row, 0]) != int(line["position"]):
            raise SourceError(f"tick {head} is not what it was in the recordings: a file has changed during the run; start the replay anew")
        return row, made

    def fill(self, ticks: Any, marks: Any) -> int:
        """The next records, woven."""
        made = 0
        while not made:
            if self._next == len(self._records):
                self._records, self._next = self._recording.take(self._chunk), 0
                self._check_lengths()
                if not len(self._records):
                    if self._ended or not self._flatten:
                        return 0
                    self._ended = True
                    return int(clock.weave_end(self._state, self._gap_ns, ticks, marks))
            self._next, made = clock.weave(self._records, self._next, len(self._records), self._state, self._gap_ns, ticks, marks)
        return made

    def _check_lengths(self) -> None:
        """Between two points of a candle that is longer than the session gap there would be a new session. Raises SourceError."""
        for sink in self._recording.sinks:
            if sink.candle_ns > self._gap_ns:
                raise SourceError(f"{sink.path}: candles of {sink.candle_ns // 10**9} s are longer than hotpath.session_gap_s = "
                                  f"{self._gap_ns // 10**9}; set it to {sink.candle_ns // 10**9} or more")

    def counts(self) -> dict[str, int]:
        """Frames and faults of all files."""
        return self._recording.counts() | {"connections": len(self._recording.sinks)}

    def errors(self) -> list[str]:
        """One text a damaged file."""
        return self._recording.errors()

    def faults(self) -> list[str]:
        """One text a file and kind of fault."""
        return self._recording.faults()


def open_source(child: Child, pulse: Callable[[], None]) -> TickSource:
    """The source that the boot names. Raises SourceError (or ValueError) for what cannot be read at all."""
    boot = child.boot
    instruments = child.memory.instruments.instruments[: int(child.memory.board.run[0]["instruments"])]
    if boot.market == "simulated":
        child.log.info("%s: seed %d, %d instruments, from event time %d",
                       simulated.BANNER, boot.seed, len(instruments), boot.start_event_ns)
        return SimulatedSource(boot.seed, instruments, boot.start_event_ns)
    if boot.market != "replay":
        raise ValueError(f"market {boot.market!r} is none of simulated, replay")
    hotpath: Hotpath = boot.section("hotpath", Hotpath)
    recording = Recording(boot.sources, instruments, child.log, pulse)
    chunk = _PACED_CHUNK if boot.speed else CHUNK
    return ReplaySource(recording, hotpath.session_gap_s * 1_000_000_000, boot.flatten_at_end, chunk)
