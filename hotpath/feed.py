"""The feed process: a source of ticks (simulated market, or recordings) into the tick ring, in event time.

One thread: make a batch, publish it in slices of at most 50 ms, answer the bus in between. A respawned feed makes the same stream again
from its source; the feed lines say where the ring's head is. A recording goes on right behind it. A market does not wait: where the simulated one is
paced, what it did meanwhile is passed over up to a CLOCK tick, which says how long and how much that was.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from hotpath.activities import Activities
from hotpath.config import Hotpath
from hotpath.errors import ErrorManager, Kind
from hotpath.kernel import clock, publish
from hotpath.venues import simulated
from hotpath.venues.record import FIELDS, SourceError
from hotpath.venues.replay import CHUNK, Recording
from ipc import board, bus, messages
from ipc import layout as l
from ipc.process import Child
from ipc.segment import Memory

#: rows of a batch; a bucket of the simulated market takes up to 4 + 48 for each instrument
BATCH = 4096
#: records decoded at once where ticks have their time: the next one waits 1 ms, not 15
_PACED_CHUNK = 128
#: longest call into the publish kernel
_SLICE_NS = 50_000_000
#: time between two looks at what the source could not use; what the reason of an end gets to reach the journal
_LOOK_NS, _LAST_WORDS_S = 1_000_000_000, 0.5
#: METRICS of what could not be used
_BAD = ("frames_bad", "bad_price", "crossed", "time_back")
#: exit code of a permanent fault in what the feed was told to read (EX_CONFIG)
EXIT_CONFIG = 78


class Stopped(Exception):
    """Told to stop while a source was being read."""


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


class Publisher:
    """The main loop's state: a batch, how far it is published, and the counts."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.arrays = publish.feed_arrays(child.memory)
        self.source = open_source(child, self.pulse)
        self.ticks = np.zeros(BATCH, l.TICK)
        self.marks = np.zeros((BATCH, 2), np.int64)
        self.row = self.made = 0
        #: row of the tick that says what was not seen; −1: there is none, or it is published
        self._gap = -1
        self.finished = False
        self._beat_ns = self._looked_ns = 0
        self.activities = Activities(child)
        self._frames, self._files = (self.activities.adopt(ErrorManager(name)) for name in ("frames", "source"))
        self._bad, self._broken = self._passed_over(), 0

    @property
    def head(self) -> int:
        """Last published sequence."""
        return int(self.arrays.ring[0]["head"])

    def pulse(self) -> None:
        """A heartbeat from within a long read. Raises Stopped."""
        now = time.monotonic_ns()
        if now - self._beat_ns > _SLICE_NS // 2:
            self._beat_ns = now
            self.child.beat(self.head, int(self.arrays.pace[2]))
            if self.child.stopping():
                raise Stopped

    def resume(self) -> None:
        """Behind a predecessor's head, if there is one; its tables are brought up. Raises SourceError."""
        publish.finish(self.arrays, self.ticks)
        head = self.head
        if not head:
            return
        line = self.arrays.lines[head & 1].copy()
        if int(line["seq"]) != head:
            raise SourceError(f"the feed line of tick {head} is of {int(line['seq'])}; start the instance anew")
        self.row, self.made = self.source.resume(head, line, self.ticks, self.marks)
        self.ticks[self.row]["seq"] = head
        publish.take_over(self.arrays, self.ticks, self.row)
        self.row += 1
        self.child.log.info("goes on behind tick %d, event time %d", head, int(line["event_ns"]))
        if self.child.boot.market == "simulated" and self.child.boot.speed and not self.child.boot.lockstep:
            self._catch_up(self.ticks[self.row - 1], head)

    def _catch_up(self, last: Any, head: int) -> None:
        """Pass over what the market did since its last tick, which was published; a CLOCK tick at or behind the present time says so."""
        slots, before_ns = self.arrays.slots, int(last["event_ns"])
        away_ns = time.monotonic_ns() - int(slots[head % len(slots)]["publish_ns"])
        now_ns, passed = before_ns + int(away_ns * self.child.boot.speed), 0
        while True:
            ticks = self.ticks[self.row: self.made]
            clocks = np.flatnonzero((ticks["kind"] == l.TICK_CLOCK) & (ticks["event_ns"] >= now_ns))
            if len(clocks):
                break
            passed += len(ticks)
            self.row, self.made = 0, self.source.fill(self.ticks, self.marks)
            self.pulse()
        passed += int(clocks[0])
        if not passed:
            return
        self.row += int(clocks[0])
        self._gap, tick = self.row, self.ticks[self.row]
        tick["flags"], tick["price"], tick["lots"] = l.FLAG_GAP, int(tick["event_ns"]) - before_ns, passed
        self.child.log.warning("away for %.3f s: %d ticks, %.3f s of the market's time, are passed over", away_ns / 1e9, passed, tick["price"] / 1e9)

    def turn(self) -> None:
        """Make a batch if there is none, and publish for at most a slice. Raises Stopped."""
        if self.row == self.made:
            self.row, self.made = 0, self.source.fill(self.ticks, self.marks)
            self.count()
            if not self.made:
                self.finish()
                return
        self.row = publish.publish_batch(self.arrays, self.ticks, self.marks, self.row, self.made, self.child.boot.speed,
                                         time.monotonic_ns() + _SLICE_NS)
        if 0 <= self._gap < self.row:
            self.child.metric("gaps")
            self.child.metric("gap_ticks", int(self.ticks[self._gap]["lots"]))
            self._gap = -1
        self.count()

    def count(self) -> None:
        """METRICS as functions of the stream, never added up, so that a respawn changes none; they only grow."""
        child, head = self.child, self.head
        names = l.METRICS[l.FEED]
        row = child.processes[l.FEED]
        now = self.source.counts() | {"ticks": head, "records": int(self.arrays.lines[head & 1]["records"])}
        for name, value in now.items():
            at = names.index(name)
            if value > row["metrics"][at]:
                row["metrics"][at] = value
        self._look()

    def _passed_over(self) -> int:
        """What of the source could not be used so far, from the METRICS of all lives."""
        metrics = self.child.processes[l.FEED]["metrics"]
        return sum(int(metrics[l.METRICS[l.FEED].index(name)]) for name in _BAD)

    def _look(self) -> None:
        """Once a second: what of the source could not be used, which is passed over, and what ended early."""
        now = time.monotonic_ns()
        if now - self._looked_ns < _LOOK_NS and not self.finished:
            return
        self._looked_ns, bad = now, self._passed_over()
        if bad > self._bad:
            self.activities.failed(self._frames, "feed_error", Kind.DATA, f"{bad - self._bad} records or frames are passed over, {bad} in all",
                                   now, bad - self._bad)
            self._bad = bad
        else:
            self.activities.succeeded(self._frames, now)
        for error in self.source.errors()[self._broken:]:
            self.activities.failed(self._files, "data_unread", Kind.DATA, error, now)
            self._broken += 1
        self.activities.pump()

    def broken(self, error: Exception) -> None:
        """The source cannot be read at all, which nothing mends while the run lasts."""
        self.activities.failed(self._files, "feed_error", Kind.FATAL, str(error), time.monotonic_ns())
        self.activities.close(_LAST_WORDS_S)

    def finish(self) -> None:
        """The data are at an end; the process stays until it is told to stop."""
        self.finished = True
        self.count()
        counts = ", ".join(f"{name} {value}" for name, value in self.source.counts().items())
        self.child.log.info("the data end after %d ticks; %s", self.head, counts)
        self._journal_faults()
        board.announce(self.child.processes, l.FEED, l.PROC_FINISHED)

    def _journal_faults(self) -> None:
        """What was wrong with the data, as events: before the end is announced, so that the run cannot end without them. Raises Stopped."""
        while self.activities.waiting:
            self.activities.pump()
            self.pulse()
            time.sleep(0.002)
        events = [messages.Event(source="feed", kind="data_fault", text=text, wall_ns=time.time_ns()) for text in self.source.faults()]
        recorder = bus.Client(self.child.boot.socket_dir, "recorder")
        for event in events:
            reply: messages.Reply | None = None
            while not isinstance(reply, messages.Done | messages.Refused):  # the same event twice is journaled once
                with contextlib.suppress(bus.BusTimeout):
                    reply = recorder.ask(event, 1.0, self.pulse)
        recorder.close()

    def handle(self, request: messages.ChildRequest) -> messages.Reply:
        """One request, one reply."""
        match request:
            case messages.Ping():
                return messages.Pong(role="feed", pid=os.getpid())
            case messages.Query(what="feed"):
                metrics = self.child.processes[l.FEED]["metrics"]
                named = {name: int(metrics[at]) for at, name in enumerate(l.METRICS[l.FEED])}
                return messages.Answer(data=named | {"market": self.child.boot.market, "finished": self.finished,
                                                     "errors": self.source.errors()})
            case messages.Query():
                return messages.Refused(code="unknown_query", text=f"the feed knows no {request.what}", remedy='ask what="feed"')
        kind = type(request).__name__.lower()
        return messages.Refused(code="not_for_feed", text=f"the feed takes no {kind}", remedy="ask sniper or recorder")


def main(child: Child) -> int:
    """The feed from attach to exit; 0 at a stop, EXIT_CONFIG where what it shall read cannot be read."""
    try:
        publisher = Publisher(child)
    except (SourceError, ValueError) as error:
        child.log.error("%s", error)
        return EXIT_CONFIG
    server = bus.Server(child.boot.socket_dir, "feed", messages.decode_child_request)
    child.ready()
    try:
        publisher.resume()
        while not child.stopping():
            if publisher.finished:
                child.beat(publisher.head, int(publisher.arrays.pace[2]))
                publisher.activities.pump()
                server.poll(0.05, publisher.handle)
            else:
                publisher.turn()
                server.poll(0.0, publisher.handle)
    except Stopped:
        child.log.info("stopped while reading, at tick %d", publisher.head)
    except SourceError as error:
        publisher.broken(error)
        return EXIT_CONFIG
    finally:
        publisher.activities.close()
        server.close()
    return 0


def warm_up(memory: Memory) -> None:
    """Compile the kernels over a throw-away instance."""
    arrays = publish.feed_arrays(memory)
    ticks, marks = np.zeros(64, l.TICK), np.zeros((64, 2), np.int64)
    records = np.array([[1_000_000_000, 0, 0, l.TICK_QUOTE, 0, 0, 1, 1, 2, 1]], np.int64)
    state = clock.new_state()
    made = clock.weave(records, 0, 1, state, 60_000_000_000, ticks, marks)[1]
    clock.weave_end(state, 60_000_000_000, ticks, marks)
    publish.publish_batch(arrays, ticks, marks, 0, made, 0.0, 0)
    publish.finish(arrays, ticks)
    publish.take_over(arrays, ticks, 0)
