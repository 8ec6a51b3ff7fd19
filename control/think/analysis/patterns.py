"""Patterns at the last closed candle, each with the side that it favours, a strength from 0 to 1, and the price at which it is decided.

| name            | what it is (to buy; to sell it is mirrored)                               | strength                        | level      |
|-----------------|---------------------------------------------------------------------------|---------------------------------|------------|
| range_breakout  | closed above the highest high of the 20 candles before it                 | distance / ATR                  | its high   |
| squeeze         | Bollinger bands narrower than in 4 of 5 of the last 100 candles           | how far down within that fifth  | high of 20 |
|                 | (Bollinger 2001), and closed above their middle                           |                                 |            |
| trend_pullback  | fast EMA above the slow one; a low of the last 3 came down to the fast    | distance of the EMAs / ATR      | slow EMA   |
|                 | one, from an ATR above it or more, and the close held the slow one        |                                 |            |
| failed_breakout | one of the last 3 lows was under the lowest low of the 20 candles before  | distance of the close / ATR     | that low   |
|                 | them, and the close is back above it                                      |                                 |            |
| band_stretch    | closed below the lower Bollinger band                                     | distance / half the bands' width| the band   |
| engulfing       | TA-Lib CDLENGULFING                                                       | range of the candle / 2 ATR     | its high   |
| three_outside   | CDL3OUTSIDE: an engulfing that the next candle confirmed                  | the same                        | its high   |
| marubozu        | CDLMARUBOZU: a long candle without shadows                                | the same                        | its high   |
| hammer          | CDLHAMMER, to buy only                                                    | the same                        | its low    |
| shooting_star   | CDLHAMMER of the mirrored candles, to sell only                           | the same                        | its high   |

Of TA-Lib's 61 these were taken. Most of the others have no side, say nearly the same (harami, closing marubozu), or need gaps, which a market that
never closes does not have: in 30 days of five perpetuals at 15 minutes CDLPIERCING never came, and CDLMORNINGSTAR 3 to 11 times. For the same reason
TA-Lib's own shooting star, which wants a gap up, is replaced by the hammer upside down. Candlestick patterns alone have brought nothing in tests on
stocks (Marshall, Young, Rose 2006): they are worth what learning finds by their names.
"""

from __future__ import annotations

import numpy as np

from control.think.analysis.findings import Pattern, PatternName, Side
from control.think.analysis.indicators import Floats, Series
from control.think.analysis.ta import talib

#: candles of a range; candles in which a breakout fails or a pullback ends; candles that a squeeze is compared with, and the share that is narrow
RANGE, TURN, WIDTHS, NARROW = 20, 3, 100, 0.2
#: candles that TA-Lib's patterns are given: they average over 10 and look back 5 at most
_SHAPES = 30
_CANDLESTICKS: tuple[tuple[PatternName, str], ...] = (("engulfing", "CDLENGULFING"), ("three_outside", "CDL3OUTSIDE"), ("marubozu", "CDLMARUBOZU"))


def patterns(s: Series) -> tuple[Pattern, ...]:
    """All of them, the strongest first; none where nothing moves or the history is too short for an ATR."""
    if not s.atr[-1] > 0:
        return ()
    found = [*_structures(s, "buy", s.high, s.low, s.close, 1.0), *_structures(s, "sell", -s.low, -s.high, -s.close, -1.0), *_candlesticks(s)]
    return tuple(sorted((one for one in found if one.strength > 0), key=lambda one: (-one.strength, one.name)))


def _structures(s: Series, side: Side, high: Floats, low: Floats, close: Floats, sign: float) -> list[Pattern]:
    """Those of one side; to sell, prices come upside down. All in bps, so that the last close is 0."""
    found: list[Pattern] = []
    atr = float(s.atr[-1])

    def add(name: PatternName, strength: float, level_bps: float) -> None:
        found.append(Pattern(name=name, side=side, strength=min(1.0, max(0.0, strength)), level=s.price_at(sign * level_bps)))

    if len(close) <= RANGE + TURN:
        return found
    before = float(high[-1 - RANGE:-1].max())
    if close[-1] > before:
        add("range_breakout", float(close[-1] - before) / atr, float(high[-1]))
    widths = (s.upper - s.lower)[-WIDTHS:]
    widths = widths[~np.isnan(widths)]
    if len(widths) > RANGE and sign * s.middle[-1] < close[-1]:
        rank = float(np.mean(widths < widths[-1]))
        add("squeeze", 1 - rank / NARROW if widths[-1] > 0 else 0.0, float(high[-RANGE:].max()))
    floor = float(low[-RANGE - TURN:-TURN].min())
    if low[-TURN:].min() < floor < close[-1]:
        add("failed_breakout", float(close[-1] - floor) / atr, floor)
    fast, slow = sign * s.ema_fast[-RANGE:], sign * float(s.ema_slow[-1])
    if fast[-1] > slow and low[-TURN:].min() <= fast[-1] and close[-1] > slow and np.nanmax(high[-RANGE:-TURN] - fast[:-TURN]) >= atr:
        add("trend_pullback", float(fast[-1] - slow) / atr, slow)
    band = float(s.lower[-1] if sign > 0 else -s.upper[-1])
    if close[-1] < band and widths[-1] > 0:
        add("band_stretch", (band - float(close[-1])) / (float(widths[-1]) / 2), band)
    return found


def _candlesticks(s: Series) -> list[Pattern]:
    """TA-Lib's, and the hammer upside down."""
    shape = [np.ascontiguousarray(one[-_SHAPES:]) for one in (s.open, s.high, s.low, s.close)]
    mirrored = [-shape[0], -shape[2], -shape[1], -shape[3]]
    strength = min(1.0, float(s.high[-1] - s.low[-1]) / (2 * float(s.atr[-1])))
    high, low = s.price_at(float(s.high[-1])), s.price_at(float(s.low[-1]))
    found = []
    for name, function in _CANDLESTICKS:
        if said := int(getattr(talib, function)(*shape)[-1]):
            found.append(Pattern(name=name, side="buy" if said > 0 else "sell", strength=strength, level=high if said > 0 else low))
    if talib.CDLHAMMER(*shape)[-1]:
        found.append(Pattern(name="hammer", side="buy", strength=strength, level=low))
    if talib.CDLHAMMER(*mirrored)[-1]:
        found.append(Pattern(name="shooting_star", side="sell", strength=strength, level=high))
    return found
