"""The windows of an instrument's features: buckets of event time, closed one after the other; what they add up to, and their extremes.

A trade goes into the bucket under way of the finest window alone. When that bucket is over it is folded into the one under way of the next window
(10 × 15.625 ms = 156.25 ms, × 6 = 937.5 ms, × 5 = 4.6875 s, × 3 = 14.0625 s), so that a tick touches a few cache lines however many windows there
are. Sums are integers, as they are subtracted again, so that nothing drifts.
"""

from __future__ import annotations

import math
from typing import Any, Final

from hotpath.kernel.commit import touch_buckets, touch_feature
from ipc import layout as l
from ipc.jit import kernel

#: the bucket under way of the finest window; 10, 60, 300 and 900 of them make one of the next
FINEST_NS: Final = 15_625_000
IN_10, IN_60, IN_300, IN_900 = 10, 60, 300, 900
SLOTS, _LAST = l.FEATURE_BUCKETS, l.FEATURE_BUCKETS - 1
#: the windows' places among the transactional arrays
_BUCKETS_1, _BUCKETS_10, _BUCKETS_60, _BUCKETS_300, _BUCKETS_900 = (l.TRANSACTIONAL.index(name) for name in l.BUCKETS)
#: a squared log return as an integer; 64 of them fit into an int64 up to returns of 30,000 %
SQUARE_UNITS = 1e14
#: lines of `FEATURE`: clock and averages with the bucket under way of 10 s; everything
HOT_LINES, ALL_LINES = 2, l.FEATURE.itemsize // l.CACHE_LINE


@kernel
def lower(low: int, price: int) -> int:
    """The lower of two prices, 0 being none."""
    return price if low == 0 or (price > 0 and price < low) else low


@kernel
def forget(s: Any, instrument: int) -> None:
    """A new session: every window starts anew. The caller has room for all of the instrument's lines."""
    touch_feature(s, instrument, ALL_LINES)
    touch_buckets(s, _BUCKETS_1, 8, instrument, 0, SLOTS)
    touch_buckets(s, _BUCKETS_10, 2, instrument, 0, SLOTS)
    touch_buckets(s, _BUCKETS_60, 1, instrument, 0, SLOTS)
    touch_buckets(s, _BUCKETS_300, 1, instrument, 0, SLOTS)
    touch_buckets(s, _BUCKETS_900, 4, instrument, 0, SLOTS)
    s.features[instrument] = s.blank_feature[0]
    for slot in range(SLOTS):
        s.buckets_1[instrument, slot].close = 0
        _put_10(s.buckets_10[instrument, slot], 0, 0, 0)
        _put_60(s.buckets_60[instrument, slot], 0, 0, 0, 0, 0, 0)
        _put_300(s.buckets_300[instrument, slot], 0, 0, 0, 0, 0, 0)
        _put_900(s.buckets_900[instrument, slot], 0, 0)


@kernel
def advance(s: Any, instrument: int, event_ns: int) -> bool:
    """Close every bucket that is over at `event_ns`; whether at once or in several calls makes no difference. True: the first lines of the
    instrument's row are saved for being written."""
    f = s.features[instrument]
    old, new = f.bucket, event_ns // FINEST_NS
    if old == 0 or new <= old:
        return False
    touch_feature(s, instrument, HOT_LINES if new // IN_10 == old // IN_10 else ALL_LINES)
    _close_1(s, instrument, old, new)
    if new // IN_10 > old // IN_10:
        _close_10(s, instrument, old // IN_10, new // IN_10)
        if new // IN_60 > old // IN_60:
            _close_60(s, instrument, old // IN_60, new // IN_60)
            if new // IN_300 > old // IN_300:
                _close_300(s, instrument, old // IN_300, new // IN_300)
                if new // IN_900 > old // IN_900:
                    _close_900(s, instrument, old // IN_900, new // IN_900)
    f.bucket = new
    return True


# ── closed buckets: slot of bucket b is b & 63, so 64 are kept; the oldest is the one just before the window ─────────────
# Each of the following closes the buckets [old, new) of one window: `old` with what has traded in it, the others empty. A sum gains what is closed
# and loses what leaves the window with that. An extreme is looked for again only when the bucket that held it leaves.
@kernel
def _close_1(s: Any, instrument: int, old: int, new: int) -> None:
    close, first = s.features[instrument].close, max(old, new - SLOTS)
    touch_buckets(s, _BUCKETS_1, 8, instrument, first, new)
    for bucket in range(first, new):
        s.buckets_1[instrument, bucket & _LAST].close = close


@kernel
def _close_10(s: Any, instrument: int, old: int, new: int) -> None:
    f, first = s.features[instrument], max(old, new - SLOTS)
    touch_buckets(s, _BUCKETS_10, 2, instrument, first, new)
    beyond = first > old
    lots, trades = (0, 0) if beyond else (f.lots_10, f.trades_10)
    sum_lots, sum_trades = f.lots_in_10, f.trades_in_10
    for bucket in range(first, new):
        _put_10(s.buckets_10[instrument, bucket & _LAST], f.close, lots, trades)
        leaving = s.buckets_10[instrument, (bucket + 1) & _LAST]
        sum_lots += lots - leaving.lots
        sum_trades += trades - leaving.trades
        lots = trades = 0
    f.lots_in_10, f.trades_in_10 = (0, 0) if beyond else (sum_lots, sum_trades)
    f.lots_60 += f.lots_10
    f.signed_60 += f.signed_10
    f.notional_60 += f.notional_10
    f.high_60 = max(f.high_60, f.high_10)
    f.low_60 = lower(f.low_60, f.low_10)
    f.lots_10 = f.signed_10 = f.notional_10 = f.trades_10 = f.high_10 = f.low_10 = 0


@kernel
def _close_60(s: Any, instrument: int, old: int, new: int) -> None:
    f, first = s.features[instrument], max(old, new - SLOTS)
    touch_buckets(s, _BUCKETS_60, 1, instrument, first, new)
    beyond, again = first > old, False
    square, lots, signed, high, low = 0, 0, 0, 0, 0
    if not beyond:
        square = _square(s.buckets_60[instrument, (old - 1) & _LAST].close, f.close)
        lots, signed, high, low = f.lots_60, f.signed_60, f.high_60, f.low_60
    squares, sum_lots, sum_signed, highest, lowest = f.squares_in_60, f.lots_in_60, f.signed_in_60, f.high_in_60, f.low_in_60
    for bucket in range(first, new):
        _put_60(s.buckets_60[instrument, bucket & _LAST], f.close, square, lots, signed, high, low)
        leaving = s.buckets_60[instrument, (bucket + 1) & _LAST]
        squares += square - leaving.square
        sum_lots += lots - leaving.lots
        sum_signed += signed - leaving.signed
        again |= _holds(leaving, highest, lowest)
        highest, lowest = max(highest, high), lower(lowest, low)
        square, lots, signed, high, low = 0, 0, 0, 0, 0
    if beyond:
        squares, sum_lots, sum_signed, highest, lowest = 0, 0, 0, 0, 0
    elif again:
        highest, lowest = _extremes(s.buckets_60, instrument, new)
    f.squares_in_60, f.lots_in_60, f.signed_in_60, f.high_in_60, f.low_in_60 = squares, sum_lots, sum_signed, highest, lowest
    f.lots_300 += f.lots_60
    f.notional_300 += f.notional_60
    f.high_300 = max(f.high_300, f.high_60)
    f.low_300 = lower(f.low_300, f.low_60)
    f.lots_60 = f.signed_60 = f.notional_60 = f.high_60 = f.low_60 = 0


@kernel
def _close_300(s: Any, instrument: int, old: int, new: int) -> None:
    f, first = s.features[instrument], max(old, new - SLOTS)
    touch_buckets(s, _BUCKETS_300, 1, instrument, first, new)
    beyond, again = first > old, False
    square, lots, notional, high, low = 0, 0, 0, 0, 0
    if not beyond:
        square = _square(s.buckets_300[instrument, (old - 1) & _LAST].close, f.close)
        lots, notional, high, low = f.lots_300, f.notional_300, f.high_300, f.low_300
    squares, sum_lots, sum_notional, highest, lowest = f.squares_in_300, f.lots_in_300, f.notional_in_300, f.high_in_300, f.low_in_300
    for bucket in range(first, new):
        _put_300(s.buckets_300[instrument, bucket & _LAST], f.close, square, lots, notional, high, low)
        leaving = s.buckets_300[instrument, (bucket + 1) & _LAST]
        squares += square - leaving.square
        sum_lots += lots - leaving.lots
        sum_notional += notional - leaving.notional
        again |= _holds(leaving, highest, lowest)
        highest, lowest = max(highest, high), lower(lowest, low)
        square, lots, notional, high, low = 0, 0, 0, 0, 0
    if beyond:
        squares, sum_lots, sum_notional, highest, lowest = 0, 0, 0, 0, 0
    elif again:
        highest, lowest = _extremes(s.buckets_300, instrument, new)
    f.squares_in_300, f.lots_in_300, f.notional_in_300, f.high_in_300, f.low_in_300 = squares, sum_lots, sum_notional, highest, lowest
    f.high_900 = max(f.high_900, f.high_300)
    f.low_900 = lower(f.low_900, f.low_300)
    f.lots_300 = f.notional_300 = f.high_300 = f.low_300 = 0


@kernel
def _close_900(s: Any, instrument: int, old: int, new: int) -> None:
    f, first = s.features[instrument], max(old, new - SLOTS)
    touch_buckets(s, _BUCKETS_900, 4, instrument, first, new)
    beyond, again = first > old, False
    high, low = (0, 0) if beyond else (f.high_900, f.low_900)
    highest, lowest = f.high_in_900, f.low_in_900
    for bucket in range(first, new):
        _put_900(s.buckets_900[instrument, bucket & _LAST], high, low)
        again |= _holds(s.buckets_900[instrument, (bucket + 1) & _LAST], highest, lowest)
        highest, lowest = max(highest, high), lower(lowest, low)
        high, low = 0, 0
    if beyond:
        highest, lowest = 0, 0
    elif again:
        highest, lowest = _extremes(s.buckets_900, instrument, new)
    f.high_in_900, f.low_in_900 = highest, lowest
    f.high_900 = f.low_900 = 0


@kernel
def _put_10(bucket: Any, close: int, lots: int, trades: int) -> None:
    bucket.close = close
    bucket.lots = lots
    bucket.trades = trades


@kernel
def _put_60(bucket: Any, close: int, square: int, lots: int, signed: int, high: int, low: int) -> None:
    bucket.close = close
    bucket.square = square
    bucket.lots = lots
    bucket.signed = signed
    bucket.high = high
    bucket.low = low


@kernel
def _put_300(bucket: Any, close: int, square: int, lots: int, notional: int, high: int, low: int) -> None:
    bucket.close = close
    bucket.square = square
    bucket.lots = lots
    bucket.notional = notional
    bucket.high = high
    bucket.low = low


@kernel
def _put_900(bucket: Any, high: int, low: int) -> None:
    bucket.high = high
    bucket.low = low


@kernel
def _holds(bucket: Any, highest: int, lowest: int) -> bool:
    """Whether a bucket that leaves its window takes an extreme of it along."""
    return bucket.high != 0 and (bucket.high == highest or bucket.low == lowest)


@kernel
def _extremes(buckets: Any, instrument: int, new: int) -> tuple[int, int]:
    """Highest and lowest of the window's closed buckets; 0 where nothing traded."""
    highest, lowest = 0, 0
    for slot in range(SLOTS):
        if slot != new & _LAST:
            bucket = buckets[instrument, slot]
            highest, lowest = max(highest, bucket.high), lower(lowest, bucket.low)
    return highest, lowest


@kernel
def _square(before: int, close: int) -> int:
    """Squared log return from one bucket's close to the next one's; 0 without the first."""
    if before <= 0:
        return 0
    move = math.log(close / before)
    return int(move * move * SQUARE_UNITS)
