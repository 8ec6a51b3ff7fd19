"""The feed process: a source of ticks (hotpath/sources.py) into the tick ring, in event time.

One thread: make a batch, publish it in slices of at most 50 ms, answer the bus in between. A respawned feed makes the same stream again
from its source; the feed lines say where the ring's head is. A recording goes on right behind it. A market does not wait: where the simulated one is
paced, what it did meanwhile is passed over up to a CLOCK tick, which says how long and how much that was.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import numpy as np

from hotpath.activities import Activities
from hotpath.errors import ErrorManager, Kind
from hotpath.kernel import clock, publish
from hotpath.sources import open_source
from hotpath.venues.record import SourceError
from ipc import board, bus, messages
from ipc import layout as l
from ipc.process import Child
from ipc.segment import Memory

#: rows of a batch; a bucket of the simulated market takes up to 4 + 48 for each instrument
BATCH = 4096
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
