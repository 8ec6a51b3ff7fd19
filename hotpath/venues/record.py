"""What a recording yields, record by record, before it becomes ticks: one flat tuple of integers, and the counts of what did not.

A record is (event_ns, source, instrument, kind, flags, exchange_offset_us, price, lots, ask_price, ask_lots), prices in ticks, sizes in
lots; the first two decide the order of a merge. Text becomes integers by decimal arithmetic, never by way of a float.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

#: (event_ns, source, instrument, kind, flags, exchange_offset_us, price, lots, ask_price, ask_lots)
Record = tuple[int, int, int, int, int, int, int, int, int, int]
#: integers of a record
FIELDS = 10
#: texts that a scale remembers; prices repeat, so nine of ten are found
_REMEMBERED = 1 << 15
#: a record whose time is so far ahead of the one before it in its file waits for its successor to agree
_LEAP_NS = 86_400 * 10**9
#: largest size in lots that is taken as real
_MOST_LOTS = 1 << 53
#: exchange offsets are stored in 32 bits of µs
_OFFSET_LIMIT = (1 << 31) - 1
#: digits beyond this are no number that a venue publishes
_LONGEST_TEXT = 40
_SCIENTIFIC = re.compile(r"[0-9.]{1,20}[eE][+-]?[0-9]{1,3}")


class SourceError(Exception):
    """A recording that cannot be used, or not further: the text names its path and the remedy."""


class Scale(dict[str, int]):
    """Decimal text → whole ticks or lots by `scale[text]`; −1 for whatever is none: not a number, ≤ 0, too large, not a multiple.

    Sizes (`floor`) count the whole lots in them: what a venue displays beyond its lot size cannot be traded anyway.
    """

    def __init__(self, mantissa: int, exponent: int, largest: int, floor: bool = False) -> None:
        super().__init__()
        self._largest, self._floor = largest, floor
        # (factor, divisor) by the number of digits behind the point
        shifts = [digits + exponent for digits in range(_LONGEST_TEXT + 1)]
        self._steps = [(10 ** max(-shift, 0), mantissa * 10 ** max(shift, 0)) for shift in shifts]

    def __missing__(self, text: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = value = self._convert(text)
        return value

    def _convert(self, text: str) -> int:
        whole, _, fraction = text.partition(".")
        digits = whole + fraction
        if not (digits.isascii() and digits.isdigit()) or len(text) > _LONGEST_TEXT:
            return self._convert_odd(text)
        factor, divisor = self._steps[len(fraction)]
        value, rest = divmod(int(digits) * factor, divisor)
        if value <= 0 or value > self._largest or (rest and not self._floor):
            return -1
        return value

    def _convert_odd(self, text: str) -> int:
        """Scientific notation is a number too; signs, words and NaN end here."""
        if not _SCIENTIFIC.fullmatch(text):
            return -1
        try:
            number = Decimal(text)
        except InvalidOperation:
            return -1
        return self._convert(f"{number:f}") if abs(number.adjusted()) < _LONGEST_TEXT // 2 else -1


class Sink:
    """Where a recording's reader puts what it sees: it checks, counts and makes records, in time order of this source.

    `instrument` is a row of the instruments segment and `number` its id; `source` is the recording's place among its peers.
    """

    def __init__(self, path: str, source: int, number: int, instrument: Any, log: logging.Logger,
                 pulse: Callable[[], None] = lambda: None) -> None:
        self.path, self.source, self.number, self.log, self.pulse = path, source, number, log, pulse
        self.symbol = instrument["symbol"].decode()
        self.venue_symbol = instrument["venue_symbol"].decode()
        self.prices = Scale(int(instrument["tick_mantissa"]), int(instrument["tick_exponent"]), int(instrument["max_price"]))
        self.sizes = Scale(int(instrument["lot_mantissa"]), int(instrument["lot_exponent"]), _MOST_LOTS, floor=True)
        self.counts = {"frames": 0, "frames_passed_over": 0, "frames_bad": 0, "bad_price": 0, "crossed": 0, "time_back": 0}
        #: size of a lot, as a float
        self.least_size = int(instrument["lot_mantissa"]) * 10.0 ** int(instrument["lot_exponent"])
        self.records = 0
        self.error = ""
        #: share of the file that is read, for people
        self.read_share = 0.0
        #: length of a candle in a table of candles, once it is known
        self.candle_ns = 0
        self._last_ns = self._leap_ns = 0
        #: the first fault of each kind, in words, by the name of its count
        self.first_faults: dict[str, str] = {}

    def tell(self, count: str, text: str) -> None:
        """Count a fault; the first of its kind in this source is named in the log."""
        self.counts[count] += 1
        if count not in self.first_faults:
            self.first_faults[count] = f"record {self.counts['frames']}: {text}"
            self.log.warning("%s (%s): record %d: %s; more of the kind are only counted, as %s",
                             self.path, self.symbol, self.counts["frames"], text, count)

    def in_order(self, received_ns: int) -> int:
        """The time made non-decreasing; one that goes back is counted and clamped. 0 for one that leaps ahead where its successor does not."""
        if self._last_ns and received_ns > self._last_ns + _LEAP_NS:
            agrees = self._leap_ns <= received_ns <= self._leap_ns + _LEAP_NS
            self._leap_ns = received_ns
            if not agrees:
                self.tell("frames_bad", f"its time {received_ns} is more than a day after {self._last_ns}, the one before it; left out, and believed "
                                        "from the next record on if that agrees")
                return 0
        if received_ns < self._last_ns:
            self.tell("time_back", f"its time {received_ns} is before {self._last_ns}, the one before it; taken as that")
            return self._last_ns
        self._last_ns = received_ns
        return received_ns

    def has_read(self, share: float) -> None:
        """So much of the file is read."""
        self.read_share = share

    @property
    def last_ns(self) -> int:
        """Time of the last record."""
        return self._last_ns

    def point(self, event_ns: int, price: int, lots: int, flags: int) -> Record | None:
        """A point of a candle's path as a trade of `lots`, which may be none; None where its time cannot be believed yet."""
        event_ns = self.in_order(event_ns)
        if not event_ns:
            return None
        self.records += 1
        return (event_ns, self.source, self.number, 1, flags, 0, price, lots, 0, 0)

    def trade(self, received_ns: int, exchange_ns: int, price_text: str, size_text: str, flags: int) -> Record | None:
        """A trade as a record; None when it is counted as bad. `exchange_ns` 0: not stated."""
        price, lots = self.prices[price_text], self.sizes[size_text]
        if price < 0 or lots < 0:
            self._bad_price((price_text, price, "price"), (size_text, lots, "size"))
            return None
        event_ns = self.in_order(received_ns)
        if not event_ns:
            return None
        self.records += 1
        return (event_ns, self.source, self.number, 1, flags, _offset_us(exchange_ns, event_ns), price, lots, 0, 0)

    def quote(self, received_ns: int, exchange_ns: int, bid: str, bid_size: str, ask: str, ask_size: str) -> Record | None:
        """A quote as a record; None when it is counted as bad or crossed (locked is not crossed)."""
        price, lots, ask_price, ask_lots = self.prices[bid], self.sizes[bid_size], self.prices[ask], self.sizes[ask_size]
        if price < 0 or lots < 0 or ask_price < 0 or ask_lots < 0:
            self._bad_price((bid, price, "bid"), (bid_size, lots, "bid size"), (ask, ask_price, "ask"), (ask_size, ask_lots, "ask size"))
            return None
        if price > ask_price:
            self.tell("crossed", f"bid {bid} is above ask {ask}")
            return None
        event_ns = self.in_order(received_ns)
        if not event_ns:
            return None
        self.records += 1
        return (event_ns, self.source, self.number, 2, 0, _offset_us(exchange_ns, event_ns), price, lots, ask_price, ask_lots)

    def _bad_price(self, *fields: tuple[str, int, str]) -> None:
        text, _, name = next(field for field in fields if field[1] < 0)
        self.tell("bad_price", f"{name} {text[:_LONGEST_TEXT]!r} is not a positive multiple of the instrument's step within its bounds; "
                               f'if the venue\'s steps differ, state them under [instruments."{self.symbol}"]')


def _offset_us(exchange_ns: int, event_ns: int) -> int:
    if exchange_ns == 0:
        return 0
    return max(-_OFFSET_LIMIT, min(_OFFSET_LIMIT, (exchange_ns - event_ns) // 1000))
