"""Funding rates of perpetuals out of raw frames (`markPrice`), read along with event time: at an instant, those that had been received before it.

What is known at an instant is a function of the files, so that a backtest, a replay and a process that was replaced know the same. A file is read a
second time for it, beside the feed, by whoever plans; a line that has no such frame costs a search in its first characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

import msgspec
from msgspec import Raw, Struct

from hotpath.venues import frames, tables
from hotpath.venues.record import SourceError
from ipc.process import Source

_STREAM = b"@markPrice"
#: characters of a line within which the name of its stream ends
_NAMED_WITHIN = 120
#: a larger rate is none that a venue takes, in bps of a position's value
MOST_BPS = 1_000.0


class MarkPriceFrame(Struct, gc=False):
    """`markPrice`: r is the rate of the next funding, empty where there is none."""

    s: str
    r: str = ""


class _Envelope(Struct, gc=False):
    data: Raw = Raw()


_envelope = msgspec.json.Decoder(_Envelope).decode
_mark_price = msgspec.json.Decoder(MarkPriceFrame).decode


class Rates:
    """The newest rate of each perpetual of some recordings. `pulse` is called at least once per block read."""

    def __init__(self, sources: Sequence[Source], pulse: Callable[[], None] = lambda: None) -> None:
        self._files = [(source.symbol, _rates(source, pulse)) for source in sources if ":" in source.symbol and not tables.is_table(source.path)]
        #: of each file the rate that comes next, None at its end; nothing is read before it is asked for
        self._next: list[tuple[int, float] | None] = [(-1, 0.0)] * len(self._files)
        self._known: dict[str, tuple[int, float]] = {}

    def before(self, now_ns: int) -> dict[str, float]:
        """Rates in bps of a position's value by symbol, above 0 where longs pay. Time goes forward only."""
        for number, (symbol, rates) in enumerate(self._files):
            while (found := self._next[number]) is not None and found[0] < now_ns:
                if found[0] >= max(0, self._known.get(symbol, found)[0]):
                    self._known[symbol] = found
                self._next[number] = next(rates, None)
        return {symbol: bps for symbol, (_, bps) in self._known.items()}


def _rates(source: Source, pulse: Callable[[], None]) -> Iterator[tuple[int, float]]:
    """(receive time, rate in bps) of a file's frames. What is wrong in the file is the feed's to tell; here it is passed over."""
    venue_symbol = source.symbol.partition(":")[0].replace("/", "")
    try:
        for block in frames.lines(source.path):
            pulse()
            for line in block:
                if _STREAM not in line[:_NAMED_WITHIN]:
                    continue
                stamp, _, text = line.partition(b" ")
                received_ns = frames.nanoseconds(int(stamp)) if stamp.isdigit() and len(stamp) < 20 else 0
                bps = _bps(text, venue_symbol)
                if received_ns and bps is not None:
                    yield received_ns, bps
    except SourceError:
        return


def _bps(text: bytes, venue_symbol: str) -> float | None:
    try:
        frame = _mark_price(_envelope(text).data)
        bps = float(Decimal(frame.r) * 10_000) if frame.s == venue_symbol and frame.r else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError):
        return None
    return bps if bps is not None and abs(bps) <= MOST_BPS else None
