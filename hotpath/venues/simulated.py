"""SIMULATED MARKET: results in it mean nothing about any real one.

Seven instruments whose prices and ticks are a function of (seed, event time) alone, so that a restart goes on with the same path and
the past can be asked for at any time. The arithmetic is hotpath/kernel/simulate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from hotpath.kernel import simulate
from hotpath.venues.catalogue import SIMULATED, resolve
from ipc import layout as l
from ipc.segment import Memory

#: one-minute candles of `history`: start of the minute, prices in ticks, volume in lots
CANDLE = np.dtype([("time_ns", "<i8"), ("open", "<i8"), ("high", "<i8"), ("low", "<i8"), ("close", "<i8"), ("volume", "<i8"),
                   ("trades", "<i8")])
#: shown wherever people see this market
BANNER: Final = "SIMULATED MARKET, results mean nothing"
_MINUTE_NS = 60_000_000_000
#: no bucket, span or grain
_NEVER = -(1 << 62)
_SECONDS_OF_YEAR = 365.25 * 86_400
#: paths: one that all share, one for each base
_PATHS: Final = ("", "BTC", "ETH", "SOL", "XRP", "DOGE")


class Character(NamedTuple):
    """How an instrument moves: the price around which it wanders, volatility a year, ticks a second, spread and displayed size."""

    price: float
    volatility: float
    ticks_per_s: float
    spread: float
    size: float


_CHARACTERS: Final = {
    "BTC/USDT": Character(60_000.0, 0.60, 14.0, 0.60, 0.8),
    "ETH/USDT": Character(2_600.0, 0.80, 10.0, 0.04, 12.0),
    "SOL/USDT": Character(145.0, 1.10, 8.0, 0.02, 150.0),
    "XRP/USDT": Character(0.58, 1.00, 6.0, 0.00015, 25_000.0),
    "BTC/USDT:USDT": Character(60_000.0, 0.60, 16.0, 0.30, 4.0),
    "ETH/USDT:USDT": Character(2_600.0, 0.80, 11.0, 0.03, 60.0),
    "DOGE/USDT:USDT": Character(0.105, 1.40, 7.0, 0.00002, 150_000.0),
}


def market(instruments: Any) -> simulate.Market:
    """Arrays for these rows of the instruments segment (ids: their places), memos empty. Raises ValueError for one not simulated."""
    rows = np.zeros(len(instruments), simulate.ROW)
    for number, (row, instrument) in enumerate(zip(rows, instruments, strict=True)):
        symbol = instrument["symbol"].decode()
        if symbol not in _CHARACTERS:
            raise ValueError(f"the simulated market has no {symbol}; choose of {', '.join(SIMULATED)}")
        character = _CHARACTERS[symbol]
        tick = int(instrument["tick_mantissa"]) * 10.0 ** int(instrument["tick_exponent"])
        lot = int(instrument["lot_mantissa"]) * 10.0 ** int(instrument["lot_exponent"])
        row["id"], row["stream"], row["path"] = number, SIMULATED.index(symbol), _PATHS.index(instrument["base"].decode())
        row["perpetual"] = int(instrument["kind"]) == l.KIND_LINEAR_PERPETUAL
        row["base"], row["spread"], row["size"] = character.price / tick, max(1.0, character.spread / tick), character.size / lot
        row["sigma"] = character.volatility / _SECONDS_OF_YEAR**0.5
        row["rate"] = character.ticks_per_s * simulate.BUCKET_NS / 1e9
    rows = rows[np.argsort(rows["stream"], kind="stable")]
    paths = np.zeros(len(_PATHS), simulate.PATH)
    for memo in (paths["node"], paths["level_at"], paths["regime_at"], rows["mid_at"], rows["span_at"]):
        memo[...] = _NEVER
    return simulate.Market(paths, rows, np.zeros(max(1, len(rows)) * simulate.MOST_EVENTS, l.TICK))


def history(seed: int, symbols: Sequence[str], until_ns: int, minutes: int, instruments: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    """The last `minutes` whole minutes before `until_ns` as CANDLE[minutes] by symbol: exactly the candles of the feed's ticks.

    `instruments`: rows of the instruments segment, where their steps may be overridden; else the catalogue's. Raises ValueError or
    CatalogueError for a symbol that is not simulated. About 0.4 s for 24 h of seven instruments.
    """
    rows = resolve(symbols, market="simulated") if instruments is None else np.array(
        [next(row for row in instruments if row["symbol"].decode() == symbol) for symbol in symbols], l.INSTRUMENT)
    arrays = market(rows)
    candles = np.zeros((len(rows), minutes), CANDLE)
    simulate.candles(seed, *arrays, until_ns // _MINUTE_NS - minutes, minutes, candles)
    return {symbols[row["id"]]: candle for row, candle in zip(arrays.rows, candles, strict=True)}


class Simulation:
    """The market as a source of ticks for the feed, from an event time on."""

    def __init__(self, seed: int, instruments: Any, start_ns: int) -> None:
        self._seed = seed
        self._market = market(instruments)
        self._bucket = -(-start_ns // simulate.BUCKET_NS)
        self._published = 0

    def resume(self, position: int, published: int, ticks: Any, marks: Any) -> tuple[int, int]:
        """The bucket of a feed line again and what follows it: (row of the tick that the line stands for, ticks made)."""
        self._bucket = position >> simulate.PLACE_BITS
        made = self.fill(ticks, marks)
        row = position & ((1 << simulate.PLACE_BITS) - 1)
        marks[:made, 1] += published - int(marks[row, 1])
        self._published = int(marks[made - 1, 1])
        return row, made

    def fill(self, ticks: Any, marks: Any) -> int:
        """The next ticks; gives how many. Takes at least MOST_EVENTS rows for each instrument, and 4."""
        self._bucket, made = simulate.fill(self._seed, *self._market, self._bucket, self._published, ticks, marks)
        self._published = int(marks[made - 1, 1])
        return int(made)


def warm_up(memory: Memory) -> None:
    """Compile the kernels."""
    rows = resolve(SIMULATED, market="simulated")
    Simulation(0, rows, 0).fill(np.zeros(512, l.TICK), np.zeros((512, 2), np.int64))
    history(0, SIMULATED[:1], 2 * _MINUTE_NS, 1)
