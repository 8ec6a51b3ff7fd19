"""What a strategy sees, made from shared memory and the fold: instruments as Facts, candles and quotes as Market, the book as Portfolio."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np

from control.think.strategy import Candles, Facts, Held, Market, Portfolio, Quote
from hotpath.kernel.candles import CANDLE, window
from hotpath.venues.funding import Rates
from ipc import layout as l
from ipc.bundle import Bundle
from ipc.segment import Memory

#: attempts to read the book between two commits of the sniper
_ATTEMPTS = 50


def decimal_of(mantissa: int, exponent: int) -> Decimal:
    """mantissa × 10^exponent, exactly."""
    return Decimal(int(mantissa)).scaleb(int(exponent))


def float_of(count: Any, mantissa: int, exponent: int) -> Any:
    """count × mantissa × 10^exponent as the nearest float (arrays too); a power of ten below one divides, which rounds only once."""
    scaled = count * int(mantissa)
    return scaled / float(10**-int(exponent)) if exponent < 0 else scaled * float(10 ** int(exponent))


def facts_of(instrument: Any) -> Facts:
    """Facts of one row of the instruments segment."""
    return Facts(
        symbol=instrument["symbol"].decode(), short_allowed=int(instrument["kind"]) == l.KIND_LINEAR_PERPETUAL,
        tick_size=decimal_of(instrument["tick_mantissa"], instrument["tick_exponent"]),
        lot_size=decimal_of(instrument["lot_mantissa"], instrument["lot_exponent"]),
        min_notional=decimal_of(instrument["min_notional"], instrument["quantum_exponent"]), fee_bps=int(instrument["taker_fee_e8"]) / 1e4)


class View:
    """Makes Market and Portfolio for one plan after the other."""

    def __init__(self, memory: Memory, fold: Bundle, candle_s: int, funding: Rates | None = None) -> None:
        self._memory, self._fold, self._candle_s, self._funding = memory, fold, candle_s, funding or Rates(())
        self.instruments = memory.instruments.instruments[: int(memory.board.run[0]["instruments"])].copy()
        self.facts = {facts.symbol: facts for facts in map(facts_of, self.instruments)}
        self._number = {symbol: number for number, symbol in enumerate(self.facts)}
        self._scratch = np.zeros(fold.candles.shape[1], CANDLE)

    def market(self, now_ns: int) -> Market:
        """The market before `now_ns`; valid until the fold goes on. It holds the candles of the symbol that was asked for last: a day of candles of
        ten seconds is half a megabyte a symbol, and a strategy goes through its symbols one by one."""
        kept: dict[tuple[str, int], Candles] = {}

        def candles(symbol: str, count: int) -> Candles:
            key = (symbol, min(count, len(self._scratch)))
            if key not in kept:
                if kept and next(iter(kept))[0] != symbol:
                    kept.clear()
                kept[key] = self._window(*key, now_ns)
            return kept[key]

        quotes = {symbol: self._quote(number, now_ns) for symbol, number in self._number.items()}
        return Market(now_ns, self._candle_s, self.facts, quotes, candles, self._funding.before(now_ns))

    @property
    def kept_s(self) -> int:
        """Seconds of candles that are kept."""
        return len(self._scratch) * self._candle_s

    def session_of(self, symbol: str) -> int:
        """Number of the candle that the symbol's session began with; −1 without one."""
        return int(self._fold.rows[self._number[symbol]]["first"])

    def _window(self, symbol: str, count: int, now_ns: int) -> Candles:
        number = self._number[symbol]
        instrument, candle_ns = self.instruments[number], self._candle_s * 1_000_000_000
        found = window(self._fold, number, now_ns, self._scratch[:count])
        rows = self._scratch[:found]
        tick = (instrument["tick_mantissa"], instrument["tick_exponent"])
        end = now_ns // candle_ns
        candles = Candles(
            self._candle_s, np.arange(end - found, end, dtype=np.int64) * candle_ns,
            float_of(rows["open"], *tick), float_of(rows["high"], *tick), float_of(rows["low"], *tick), float_of(rows["close"], *tick),
            float_of(rows["volume"], instrument["lot_mantissa"], instrument["lot_exponent"]), rows["trades"].copy())
        for array in vars(candles).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False  # several strategies share them
        return candles

    def _quote(self, number: int, now_ns: int) -> Quote:
        row, instrument = self._fold.rows[number], self.instruments[number]
        if now_ns - int(row["seen_ns"]) > int(self._fold.state[0]["gap_ns"]):
            return Quote(math.nan, math.nan, math.nan)
        prices = [float_of(int(row[name]), instrument["tick_mantissa"], instrument["tick_exponent"]) if row[name] > 0 else math.nan
                  for name in ("last", "bid", "ask")]
        return Quote(*prices)

    def portfolio(self, strategy: int) -> Portfolio:
        """The account and the positions of one strategy, read between two commits of the sniper (the last attempt is taken as it is)."""
        sniper, count = self._memory.sniper, len(self.instruments)
        for _ in range(_ATTEMPTS):
            before = int(sniper.commit[0]["number"])
            account, positions, states = sniper.account[0].copy(), sniper.positions.copy(), sniper.instrument_states[:count].copy()
            if int(sniper.commit[0]["number"]) == before:
                break
        scale = 10.0 ** int(self.instruments[0]["quantum_exponent"]) if len(self.instruments) else 1.0
        held, exposure, open_risk = {}, {}, 0.0
        for number, symbol in enumerate(self.facts):
            instrument, state = self.instruments[number], states[number]
            row = positions[number * l.MAX_STRATEGIES + strategy]
            if int(row["state"]) != l.POS_FLAT:
                held[symbol] = self._held(symbol, instrument, row)
            if not (lots := int(state["exposure_lots"]) + int(state["working_lots"])):
                continue
            price = int(state["last"]) or max(int(state["bid"]), int(state["ask"]))  # as the risk gate counts it
            lot_value = int(instrument["value_quanta"]) * scale
            exposure[symbol] = price * lots * lot_value
            open_risk += lot_value * sum(int(one["lots"]) * max(0, int(one["side"]) * (price - int(one["stop_price"])))
                                         for one in positions[number * l.MAX_STRATEGIES: (number + 1) * l.MAX_STRATEGIES] if one["stop_price"] > 0)
        return Portfolio(float(account["cash"]) * scale, float(account["equity"]) * scale, int(account["open_positions"]),
                         int(account["entries_today"]), held, exposure=exposure, open_risk=open_risk,
                         day_start_equity=float(account["day_start_equity"]) * scale)

    def _held(self, symbol: str, instrument: Any, row: Any) -> Held:
        lots, entry_lots = int(row["lots"]), int(row["entry_lots"])
        ticks = int(row["entry_quote"]) / int(instrument["value_quanta"]) / entry_lots if entry_lots else math.nan
        return Held(symbol, "buy" if int(row["side"]) > 0 else "sell",
                    float_of(lots, instrument["lot_mantissa"], instrument["lot_exponent"]),
                    float_of(ticks, instrument["tick_mantissa"], instrument["tick_exponent"]), int(row["opened_ns"]),
                    l.POSITION_STATES[int(row["state"])],
                    *(float_of(int(row[name]), instrument["tick_mantissa"], instrument["tick_exponent"]) for name in ("stop_price", "target_price")))
