"""Tables of candles: CSV, Parquet or Feather with open, high, low, close (and volume), expanded into trades along one path.

A candle says where its price was, not in which order. It becomes four trades:

```
 time      begin      + 1/3            + 2/3            end − 1 ms
 rising    open       low              high             close          close ≥ open
 falling   open       high             low              close
```

So the price first goes against the candle's direction. A position on the side that wins in the end meets its bad extreme before its good one: a stop
and a target within that candle are a stop. One on the other side meets the good one first; no single path is the worse one for both. Each trade has
a quarter of the candle's volume, rounded down to lots, the close what is left; the aggressor is a buyer where the path rises, a seller where it falls
or stands. A candle without volume has trades of size 0: they move the price and fill nothing that waits.

There are no quotes: no spread is invented. A market order is filled at the path's price worsened by `paper.half_spread_bps`, whatever its size; a
limit order only by what trades strictly through it, up to that trade's size. Orders made at one point are filled at its price, since the clock stands
at every second. Times are the candles' beginnings. The length of a candle is the commonest distance between two rows, a minute where there is one
row only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from hotpath.venues.record import Record, Sink, SourceError
from ipc import layout as l

#: a table with all of these columns is one of candles
COLUMNS = ("open", "high", "low", "close")
#: names of the column of a candle's beginning, best first, and of its volume in the base currency
TIMES, VOLUMES = ("open_time", "date", "timestamp", "time", "datetime", "ts", "start"), ("volume", "vol", "amount", "qty", "v")
#: event time between two CLOCK ticks where all records come from candles
CLOCK_NS = 1_000_000_000
#: the close comes so long before the next candle's beginning, and is seen by a plan made then
CLOSE_NS = 1_000_000
_MINUTE_NS = 60_000_000_000


def are_candles(names: Sequence[str]) -> bool:
    """Whether a table with these columns is one of candles."""
    return set(COLUMNS) <= {name.strip().lower() for name in names}


def columns_of(path: str, names: Sequence[str]) -> tuple[str, list[str], str | None]:
    """The table's names of time, the four prices, and volume (None: it has none). Raises SourceError."""
    lower = {name.strip().lower(): name for name in names}
    time = next((lower[name] for name in TIMES if name in lower), None)
    if time is None:
        raise SourceError(f"{path}: a table of candles without a time (it has {', '.join(names)[:200]}); name the column of their beginning "
                          f"{', '.join(TIMES)}")
    return time, [lower[name] for name in COLUMNS], next((lower[name] for name in VOLUMES if name in lower), None)


def read(sink: Sink, texts: Sequence[list[str | None]], times: Sequence[int]) -> Iterator[Record]:
    """Records of a whole table; `texts` are its prices by column and its volume, `times` its beginnings in ns (0: none)."""
    sink.candle_ns = length_ns(times)
    third = sink.candle_ns // 3
    for at, (begin, *words) in enumerate(zip(times, *texts, strict=True)):
        sink.counts["frames"] += 1
        if at % 4096 == 0:
            sink.read_share = at / max(1, len(times))
            sink.pulse()
        prices = [sink.prices[word or ""] for word in words[:4]]
        opened, high, low, close = prices
        lots = _lots(sink, words[4])
        if not begin:
            sink.tell("frames_bad", "its time is none")
            continue
        if min(prices) < 0 or lots < 0 or low > min(opened, close) or high < max(opened, close):
            sink.tell("bad_price", f"open, high, low, close, volume {', '.join(map(str, words))} are no candle of positive multiples of the "
                                   f'instrument\'s steps; if the venue\'s steps differ, state them under [instruments."{sink.symbol}"]')
            continue
        if begin < sink.last_ns:
            sink.tell("time_back", f"its time {begin} is before the end of the one before it; left out")
            continue
        path = (opened, low, high, close) if close >= opened else (opened, high, low, close)
        moments = (begin, begin + third, begin + 2 * third, begin + sink.candle_ns - CLOSE_NS)
        before = path[0]
        for point, (moment, price) in enumerate(zip(moments, path, strict=True)):
            size = lots // 4 if point < 3 else lots - 3 * (lots // 4)
            record = sink.point(moment, price, size, 0 if price > before else l.FLAG_BUYER_IS_MAKER)
            if record is not None:
                yield record
            before = price
    sink.read_share = 1.0


def length_ns(times: Sequence[int]) -> int:
    """The commonest distance between two beginnings."""
    distances = Counter(later - earlier for earlier, later in pairwise(times) if 0 < earlier < later)
    return distances.most_common(1)[0][0] if distances else _MINUTE_NS


def _lots(sink: Sink, text: str | None) -> int:
    """A volume in whole lots, down to 0; −1 for what is none."""
    if text is None:
        return 0
    lots = sink.sizes[text]
    if lots >= 0:
        return lots
    try:
        return 0 if 0 <= float(text) < sink.least_size else -1
    except ValueError:
        return -1
