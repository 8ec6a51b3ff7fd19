"""Raw Binance websocket frames: lines of `<local receive time> <json>`, plain or gz, of a combined stream.

`trade` and `bookTicker` become records, everything else is counted and passed over (depth, mark price, REST answers, other symbols).
Receive times are ns, µs or ms, told apart by magnitude; exchange times are ms. A spot bookTicker states none.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct

from hotpath.venues.record import Record, Sink, SourceError
from ipc import layout as l

#: bytes taken from a file at once; a reader holds one block and one unfinished line
_BLOCK = 1 << 17
#: longest line that is still a frame
_LONGEST_LINE = 1 << 23
#: first bytes of a gzip file
_GZIP = b"\x1f\x8b"


class Envelope(Struct, gc=False):
    """A frame of a combined stream; other JSON objects decode with an empty stream."""

    stream: str = ""
    data: Raw = Raw()


class TradeFrame(Struct, gc=False):
    """`trade`; X is there in futures, where insurance fund and liquidation prints are not market trades."""

    s: str
    p: str
    q: str
    T: int = 0
    m: bool = False
    X: str = "MARKET"


class TickerFrame(Struct, gc=False):
    """`bookTicker`; T is there in futures."""

    s: str
    b: str
    B: str
    a: str
    A: str
    T: int = 0


_envelope = msgspec.json.Decoder(Envelope).decode
_trade = msgspec.json.Decoder(TradeFrame).decode
_ticker = msgspec.json.Decoder(TickerFrame).decode


def nanoseconds(time: int) -> int:
    """A Unix time of unknown unit in ns, by magnitude (valid from 1973 to 2096); 0 for what is none."""
    if 10**17 <= time < 4 * 10**18:
        return time
    if 10**14 <= time < 4 * 10**15:
        return time * 1_000
    if 10**11 <= time < 4 * 10**12:
        return time * 1_000_000
    return 0


def blocks(path: str, share: Callable[[float], None] = lambda share: None) -> Iterator[bytes]:
    """A file's bytes, decompressed where it is gzip, in blocks; `share` is told how much of it is read.

    Raises SourceError where it cannot be read on.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.peek(2)[:2] == _GZIP
            stream: Any = gzip.GzipFile(fileobj=file) if compressed else file
            # read1: whatever was decompressed before a fault is delivered first
            size = max(1, os.fstat(file.fileno()).st_size)
            while block := stream.read1(_BLOCK):
                share(file.tell() / size)
                yield block
    except EOFError:
        raise SourceError(f"{path}: the gzip data end in the middle; fetch the file again, or cut it where it is whole: "
                          f"gzip -dc {path} | gzip > whole.gz") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: corrupt gzip data ({error}); fetch the file again") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; name a readable file") from None


def lines(path: str, share: Callable[[float], None] = lambda share: None) -> Iterator[list[bytes]]:
    """A file's lines, a block's worth at a time. A broken end of file loses at most the line that it cuts."""
    rest = b""
    for block in blocks(path, share):
        whole = (rest + block).split(b"\n")
        rest = whole.pop()
        if len(rest) > _LONGEST_LINE:
            whole.append(rest[:64])  # a line without end is one bad frame, not all memory
            rest = b""
        yield whole
    if rest.strip():
        yield [rest]


def read(sink: Sink) -> Iterator[Record]:
    """Records of a file in its order. Raises SourceError where the file cannot be read on; what came before it has been yielded."""
    counts = sink.counts
    for block in lines(sink.path, sink.has_read):
        sink.pulse()
        for line in block:
            if not line or line.isspace():
                continue
            counts["frames"] += 1
            stamp, _, text = line.partition(b" ")
            received_ns = nanoseconds(int(stamp)) if stamp.isdigit() and len(stamp) < 20 else 0
            if not received_ns:
                sink.tell("frames_bad", f"no receive time in ns, µs or ms before the frame: {line[:60]!r}")
                continue
            try:
                envelope = _envelope(text)
                record = None
                if envelope.stream.endswith("@trade"):
                    trade = _trade(envelope.data)
                    if trade.s == sink.venue_symbol:
                        flags = (l.FLAG_BUYER_IS_MAKER if trade.m else 0) | (l.FLAG_NOT_MARKET if trade.X != "MARKET" else 0)
                        record = sink.trade(received_ns, trade.T * 1_000_000, trade.p, trade.q, flags)
                    else:
                        counts["frames_passed_over"] += 1
                elif envelope.stream.endswith("@bookTicker"):
                    ticker = _ticker(envelope.data)
                    if ticker.s == sink.venue_symbol:
                        record = sink.quote(received_ns, ticker.T * 1_000_000, ticker.b, ticker.B, ticker.a, ticker.A)
                    else:
                        counts["frames_passed_over"] += 1
                else:
                    counts["frames_passed_over"] += 1
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                sink.tell("frames_bad", f"not a frame: {error}: {text[:60]!r}")
                continue
            if record is not None:
                yield record

