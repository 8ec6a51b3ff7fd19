"""Recordings as one stream: several files merged by receive time, streamed, never held in memory.

The stream is a function of the files alone. A feed that took the place of a dead one reads from the start again, which makes the same
ticks and the same counts, and drops what its predecessor has published.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile, islice, takewhile
from typing import Any

import numpy as np

from hotpath.venues import frames, tables
from hotpath.venues.candle_tables import CLOCK_NS as CANDLE_CLOCK_NS
from hotpath.venues.record import FIELDS, Record, Sink, SourceError
from ipc.process import Source

#: records decoded at once, about 15 ms of work between two heartbeats
CHUNK = 2048
#: event time between two CLOCK ticks
CLOCK_NS = 100_000_000
_PARQUET_MAGIC, _ARROW_MAGIC = b"PAR1", b"ARROW1"


def check_sources(sources: Sequence[Source]) -> None:
    """Look at every source before anything starts: there, readable, and at its first line what its name says.

    Raises SourceError with every fault, a line each. Damage further in is found while reading.
    """
    faults = []
    for source in sources:
        try:
            _check(source.path)
        except SourceError as error:
            faults.append(str(error))
    if not sources:
        faults.append("replay: names no file; write trader-launch replay PATH…, each PATH or PATH=SYMBOL")
    if faults:
        raise SourceError("\n".join(faults))


def _check(path: str) -> None:
    if not os.path.exists(path):
        raise SourceError(f"{path}: no such file; name a recorded file, as PATH or PATH=SYMBOL")
    if os.path.isdir(path):
        raise SourceError(f"{path}: is a folder; name the files in it, e.g. {path.rstrip('/')}/*")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: may not be read by this user; chmod it")
    if os.path.getsize(path) == 0:
        raise SourceError(f"{path}: is empty; fetch the file again")
    if path.lower().endswith(tables.PARQUET_ENDINGS):
        with open(path, "rb") as file:
            whole = file.read(4) == _PARQUET_MAGIC and file.seek(-4, os.SEEK_END) and file.read(4) == _PARQUET_MAGIC
        if not whole:
            raise SourceError(f"{path}: no whole Parquet file (its first and last bytes are not PAR1); fetch or write the file again")
    elif path.lower().endswith(tables.FEATHER_ENDINGS):
        with open(path, "rb") as file:
            whole = file.read(6) == _ARROW_MAGIC and file.seek(-6, os.SEEK_END) and file.read(6) == _ARROW_MAGIC
        if not whole:
            raise SourceError(f"{path}: no whole Feather file (its first and last bytes are not ARROW1); fetch or write the file again")
    elif path.lower().endswith(tables.CSV_ENDINGS):
        tables.check_columns(path, tables.header_of(path))
    else:
        _check_frames(path)


def _check_frames(path: str) -> None:
    first = next((line for block in frames.lines(path) for line in block if line.strip()), b"")
    stamp, _, text = first.partition(b" ")
    received = frames.nanoseconds(int(stamp)) if stamp.isdigit() and len(stamp) < 20 else 0
    if not received or not text.lstrip().startswith(b"{"):
        raise SourceError(f"{path}: its first line is not `<receive time> <json frame>` but {first[:60]!r}; "
                          "name raw frames, or a table ending in .csv, .csv.gz, .parquet, .feather")


def _holds_candles(path: str) -> bool:
    """Whether a file is a table of candles; one that cannot be read is found out when it is read."""
    try:
        return tables.holds_candles(path)
    except SourceError:
        return False


class Recording:
    """All sources of a replay as one stream of records in receive time; ties are in the order of the sources.

    `instruments` are the rows of the instruments segment; `pulse` is called at least once per block read. `since_ns` and `until_ns` leave out what is
    before the one, or not before the other. Raises SourceError for a symbol that has no row.
    """

    def __init__(self, sources: Sequence[Source], instruments: Any, log: logging.Logger, pulse: Callable[[], None] = lambda: None,
                 since_ns: int = 0, until_ns: int = 0) -> None:
        ids = {row["symbol"].decode(): number for number, row in enumerate(instruments) if row["admitted"]}
        self.log = log
        self.sinks: list[Sink] = []
        for place, source in enumerate(sources):
            if source.symbol not in ids:
                raise SourceError(f"{source.path}: {source.symbol} is no instrument of this run ({', '.join(ids) or 'it has none'}); "
                                  "name it under --symbols or leave the file out")
            number = ids[source.symbol]
            self.sinks.append(Sink(source.path, place, number, instruments[number], log, pulse))
        merged: Iterator[Record] = heapq.merge(*(self._guarded(sink) for sink in self.sinks))
        if since_ns:
            merged = dropwhile(lambda record: record[0] < since_ns, merged)
        if until_ns:
            merged = takewhile(lambda record: record[0] < until_ns, merged)
        self._merged = merged
        #: event time between two CLOCK ticks: candles say nothing of what happens within a second
        self.clock_ns = CANDLE_CLOCK_NS if sources and all(_holds_candles(source.path) for source in sources) else CLOCK_NS

    def _guarded(self, sink: Sink) -> Iterator[Record]:
        """A source's records; damage ends it, is logged and kept in its `error`, and the other sources go on."""
        try:
            yield from tables.read(sink) if tables.is_table(sink.path) else frames.read(sink)
        except SourceError as error:
            sink.error = str(error)
            self.log.error("%s; %d records before it were used", error, sink.records)
        if not sink.records and not sink.error:
            sink.error = f"{sink.path}: holds no trade and no quote of {sink.symbol}; is the symbol right? write PATH=SYMBOL"
            self.log.warning("%s", sink.error)
        self.log.info("%s (%s): %d records; %s", sink.path, sink.symbol, sink.records,
                      ", ".join(f"{name} {count}" for name, count in sink.counts.items()))

    def take(self, most: int = CHUNK) -> np.ndarray[Any, Any]:
        """The next records, int64[n, FIELDS]; n = 0 at the end."""
        chunk = list(islice(self._merged, most))
        return np.array(chunk, np.int64).reshape(-1, FIELDS)

    def share(self) -> float:
        """How much of the files is read."""
        return sum(sink.read_share for sink in self.sinks) / max(1, len(self.sinks))

    def counts(self) -> dict[str, int]:
        """What was seen so far, over all sources."""
        total: dict[str, int] = {}
        for sink in self.sinks:
            for name, count in sink.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def errors(self) -> list[str]:
        """Why sources could not be read to their end, each once."""
        return [f"{sink.error}; {sink.records} records before it were used" for sink in self.sinks if sink.error]

    def faults(self) -> list[str]:
        """What was wrong inside sources that were read on: how often, and the first of each kind."""
        return [f"{sink.path} ({sink.symbol}): {name} {sink.counts[name]}; the first is {text}; "
                + ("" if name == "time_back" else "such records are passed over; ") + "fetch the file again if they are many"
                for sink in self.sinks for name, text in sink.first_faults.items()]
