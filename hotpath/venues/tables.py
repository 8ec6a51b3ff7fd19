"""Tables of trades, quotes or candles: CSV (plain or gz), Parquet and Feather, told apart by their columns.

A table with open, high, low and close is one of candles (hotpath/venues/candle_tables.py), with a bid and an ask one of quotes, else one of trades.
Times are Unix s, ms, µs or ns by magnitude, ISO 8601, or a Parquet timestamp; without a zone they are UTC. Prices are taken as the text that the
file holds; a Parquet float as the shortest text that means it. polars is imported where it is used: no other process than the feed pays for it, and
only with a table to read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import numpy as np

from hotpath.venues import candle_tables, frames
from hotpath.venues.record import Record, Sink, SourceError
from ipc import layout as l

if TYPE_CHECKING:
    import polars as pl

#: columns by the names that recorders give them, best first
_NAMES = {
    "time": ("local_timestamp", "received_at", "receive_time", "timestamp", "time", "ts", "datetime", "date"),
    "exchange_time": ("exchange_timestamp", "exchange_time", "transact_time", "event_time"),
    "price": ("price", "p"),
    "size": ("amount", "qty", "quantity", "size", "volume", "q"),
    "bid": ("bid_price", "best_bid_price", "bid"),
    "bid_size": ("bid_amount", "bid_size", "bid_qty", "best_bid_qty", "bid_quantity"),
    "ask": ("ask_price", "best_ask_price", "ask"),
    "ask_size": ("ask_amount", "ask_size", "ask_qty", "best_ask_qty", "ask_quantity"),
    "side": ("side", "taker_side"),
    "buyer_is_maker": ("is_buyer_maker", "buyer_is_maker", "m"),
}
_QUOTES = ("time", "bid", "bid_size", "ask", "ask_size")
_TRADES = ("time", "price", "size")
#: ns in the unit of a number below a limit: s, ms, µs, ns
_UNITS = ((4 * 10**9, 10**9), (4 * 10**12, 10**6), (4 * 10**15, 10**3), (4 * 10**18, 1))
#: rows taken from a Parquet file at once
_ROWS = 1 << 15
#: file name endings of tables; everything else is taken for raw frames
CSV_ENDINGS, PARQUET_ENDINGS, FEATHER_ENDINGS = (".csv", ".csv.gz"), (".parquet", ".pq"), (".feather", ".arrow")


def is_table(path: str) -> bool:
    """The file's name says that it is a table."""
    return path.lower().endswith(CSV_ENDINGS + PARQUET_ENDINGS + FEATHER_ENDINGS)


def check_columns(path: str, names: Sequence[str]) -> None:
    """Raises SourceError for a table whose columns make neither trades nor quotes nor candles."""
    if candle_tables.are_candles(names):
        candle_tables.columns_of(path, names)
    else:
        columns_of(path, names)


def holds_candles(path: str) -> bool:
    """The file is a table of candles. Raises SourceError where its columns cannot be read."""
    return is_table(path) and candle_tables.are_candles(names_of(path))


def names_of(path: str) -> list[str]:
    """Column names of a table. Raises SourceError."""
    if path.lower().endswith(CSV_ENDINGS):
        return header_of(path)
    import polars as pl

    try:
        return _lazy(path).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None


def columns_of(path: str, names: Sequence[str]) -> dict[str, str]:
    """Our column names → the table's. Raises SourceError naming what is missing and how it may be called."""
    lower = {name.strip().lower(): name for name in names}
    found = {ours: next(lower[name] for name in theirs if name in lower)
             for ours, theirs in _NAMES.items() if not lower.keys().isdisjoint(theirs)}
    quotes = "bid" in found or "ask" in found
    missing = [column for column in (_QUOTES if quotes else _TRADES) if column not in found]
    if missing:
        accepted = "; ".join(f"{column}: {', '.join(_NAMES[column])}" for column in missing)
        kind = "quotes" if quotes else "trades"
        raise SourceError(f"{path}: a table of {kind} without {', '.join(missing)} (it has {', '.join(names)[:200]}); "
                          f"name its columns in the first line ({accepted})")
    if "timestamp" in lower and found["time"] != lower["timestamp"]:
        found.setdefault("exchange_time", lower["timestamp"])  # both are there: `timestamp` is the exchange's (Tardis)
    return found


def header_of(path: str) -> list[str]:
    """Column names of a CSV file's first line. Raises SourceError."""
    first = b""
    for block in frames.lines(path):
        first = next((line for line in block if line.strip()), b"")
        if first:
            break
    return first.decode("utf-8", "replace").lstrip("\ufeff").replace('"', "").strip().split(",")


def read(sink: Sink) -> Iterator[Record]:
    """Records of a table in its order. Raises SourceError where it cannot be read on; what came before it has been yielded."""
    if candle_tables.are_candles(names_of(sink.path)):
        yield from _candles(sink)
        return
    tables = _csv(sink) if sink.path.lower().endswith(CSV_ENDINGS) else _arrow(sink)
    for table in tables:
        sink.pulse()
        columns = columns_of(sink.path, list(table))
        height = len(next(iter(table.values())))
        take = [table[columns[column]] if column in columns else [None] * height for column in _NAMES]
        for time, exchange, price, size, bid, bid_size, ask, ask_size, side, maker in zip(*take, strict=True):
            sink.counts["frames"] += 1
            received_ns = nanoseconds(time)
            if not received_ns:
                sink.tell("frames_bad", f"{time!r} is no time")
                continue
            exchange_ns = nanoseconds(exchange) if exchange else 0
            if "bid" in columns:
                record = sink.quote(received_ns, exchange_ns, bid or "", bid_size or "", ask or "", ask_size or "")
            else:
                sold = (side or "").lower() in ("sell", "s", "ask") or (maker or "").lower() in ("true", "1", "t")
                record = sink.trade(received_ns, exchange_ns, price or "", size or "", l.FLAG_BUYER_IS_MAKER if sold else 0)
            if record is not None:
                yield record


def _candles(sink: Sink) -> Iterator[Record]:
    """Records of a table of candles; it is small, and read whole."""
    time, prices, volume = candle_tables.columns_of(sink.path, names_of(sink.path))
    wanted = [time, *prices, *([volume] if volume else [])]
    columns: dict[str, list[str | None]] = {name: [] for name in wanted}
    damage: SourceError | None = None
    try:
        for table in _csv(sink) if sink.path.lower().endswith(CSV_ENDINGS) else _arrow(sink, wanted):
            for name, column in columns.items():
                column += table[name]
    except SourceError as error:
        damage = error  # what came before it is used
    height = len(columns[time])
    yield from candle_tables.read(sink, [*(columns[name] for name in prices), columns[volume] if volume else [None] * height],
                                  [nanoseconds(text) for text in columns[time]])
    if damage is not None:
        raise damage


def _csv(sink: Sink) -> Iterator[dict[str, list[str | None]]]:
    """A CSV file's columns in pieces, as texts: a float would lose what the file says. A damaged row damages nothing but itself."""
    path = sink.path
    names = header_of(path)
    check_columns(path, names)
    if len(set(names)) < len(names):
        raise SourceError(f"{path}: its first line names a column twice ({', '.join(names)[:200]}); give each a name of its own")
    first = True
    for block in frames.lines(path, sink.has_read):
        body = block
        if first:
            start = next((at for at, line in enumerate(block) if line.strip()), -1)
            first = start < 0
            body = block[start + 1 :] if start >= 0 else []
        rows = [_row(line, len(names)) for line in body if line.strip()]
        if rows:
            yield dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _row(line: bytes, columns: int) -> list[str | None]:
    """A line's fields, one for each column: what a short line lacks is None."""
    try:
        found = next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:
        found = []
    return [*found[:columns], *[None] * (columns - len(found))]


def _lazy(path: str) -> pl.LazyFrame:
    import polars as pl

    return pl.scan_ipc(path) if path.lower().endswith(FEATHER_ENDINGS) else pl.scan_parquet(path)


def _unreadable(path: str, error: Exception) -> SourceError:
    kind = "Feather" if path.lower().endswith(FEATHER_ENDINGS) else "Parquet"
    return SourceError(f"{path}: no readable {kind} ({str(error)[:200]}); fetch or write the file again")


def _arrow(sink: Sink, wanted: Sequence[str] = ()) -> Iterator[dict[str, list[str | None]]]:
    """The columns of a Parquet or Feather file in pieces, as texts; without `wanted` those of trades or quotes."""
    import polars as pl

    try:
        table = _lazy(sink.path)
        names = wanted or columns_of(sink.path, table.collect_schema().names()).values()
        table = table.select(list(dict.fromkeys(names)))
        rows = int(table.select(pl.len()).collect().item())
        for start in range(0, rows, _ROWS):
            sink.has_read(start / rows)
            yield {series.name: _texts(series) for series in table.slice(start, _ROWS).collect()}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(sink.path, error) from None


def _texts(series: pl.Series) -> list[str | None]:
    """A Parquet column as texts; timestamps become ns."""
    import polars as pl

    if isinstance(series.dtype, pl.Datetime):
        if series.dtype.time_zone is None:
            series = series.dt.replace_time_zone("UTC")
        return [None if value is None else str(value) for value in series.dt.timestamp("ns").to_list()]
    if series.dtype == pl.Float32:
        return [None if value is None else str(np.float32(value)) for value in series.to_list()]
    if series.dtype.is_float():
        return [None if value is None else repr(value) for value in series.to_list()]  # shortest text that means this float
    if series.dtype == pl.Binary:
        return [None if value is None else value.decode("utf-8", "replace") for value in series.to_list()]
    return series.cast(pl.String).to_list()


def nanoseconds(text: str | None) -> int:
    """Unix ns of a time as text: a number by magnitude (fractions too) or ISO 8601; 0 for what is none."""
    if not text:
        return 0
    if text.isascii() and text.isdigit() and len(text) < 20:
        whole = int(text)
        return frames.nanoseconds(whole) or (whole * 1_000_000_000 if 10**8 <= whole < 4 * 10**9 else 0)
    try:
        number = Decimal(text)
        if number.is_finite() and 10**8 <= number < 4 * 10**18:
            return int(number * next(unit for limit, unit in _UNITS if number < limit))
        return 0
    except InvalidOperation:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return frames.nanoseconds((int(moment.timestamp()) * 1_000_000 + moment.microsecond) * 1000)
