"""The simulated market: ticks and prices as a pure function of (seed, instrument, event time), in O(1) at any time.

A log price is a sum of octaves of hashed value noise, each as strong as its period's square root, so that it wanders like a price at
every horizon from 0.4 s to 5 days; nodes are scaled by a volatility regime, and two streams of steps add jumps. Everything is drawn
from a counter hash (splitmix64), nothing from what was drawn before: arrays called `memo` only remember, their content changes no
result.

Time is cut into buckets of 400 ms, numbered from the Unix epoch; a price is a straight line inside one. The ticks of an instrument in a
bucket begin with a quote; a trade lies on the bid or the ask of the quote before it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from hotpath.kernel.clock import CLOCK_NS, put
from hotpath.kernel.noise import GOLDEN, draw, gauss, mix, noise, part, unit
from ipc import layout as l
from ipc.jit import kernel

#: event time of a bucket
BUCKET_NS = 400_000_000
#: CLOCK ticks in a bucket; buckets in a minute, and in a span, within which an instrument's activity is the same (2 s)
CLOCKS, BUCKETS_A_MINUTE, SPAN = 4, 150, 5
#: most ticks of one instrument in a bucket
MOST_EVENTS = 48
#: bits for the place of a tick in its bucket
PLACE_BITS = 10
#: octaves of the price, as powers of two of buckets: 0.4 s to 4.9 days
OCTAVES = 21
#: octaves up to this (7 min) feel the volatility regime; slower ones would turn a change of regime into a jump
REGIME_OCTAVE = 10
#: the regime is the same for 2^this buckets (13 s); so many of them are remembered
REGIME_GRAIN, REGIMES = 5, 64
#: variance per second of octaves with unit amplitude √period: 8/3 from the faster ones, 2 from the slower ones
VARIANCE = 14.0 / 3.0
#: share of an asset's moves that it has in common with all
CORRELATION = 0.6
#: kinds of random streams; the path or instrument and the octave are added below
_NODES, _SLOW, _MIDDLE, _BURST, _JUMP_TIME, _JUMP_SIZE, _BASIS, _ACTIVITY, _COUNT, _EVENT = range(1, 11)
_MARKET_PATH = 0


#: a path: what every instrument of a base shares, and path 0 what all share. All of it is a memo.
PATH = np.dtype([
    # by octave: node left of a bucket, its value and its right neighbour's
    ("node", "<i8", (OCTAVES,)), ("left", "<f8", (OCTAVES,)), ("right", "<f8", (OCTAVES,)),
    ("level_at", "<i8", (2,)), ("level", "<f8", (2,)),  # by the bucket's parity
    ("regime_at", "<i8", (REGIMES,)), ("regime", "<f8", (REGIMES,)),  # by grain
])
#: an instrument: facts, then memos
ROW = np.dtype([
    ("base", "<f8"), ("sigma", "<f8"), ("rate", "<f8"), ("spread", "<f8"), ("size", "<f8"),  # ticks, √s, a bucket, ticks, lots
    ("path", "<i8"), ("stream", "<i8"), ("perpetual", "<i8"), ("id", "<i8"),
    ("mid_at", "<i8", (2,)), ("mid", "<f8", (2,)),  # by the bucket's parity
    ("span_at", "<i8"), ("span_rate", "<f8"), ("span_none", "<f8"), ("span_spread", "<f8"), ("span_size", "<f8"),
])


class Market(NamedTuple):
    """The market's arrays, made by hotpath/venues/simulated.py.

    Kernels take them apart: in numba each use of an array in a tuple costs two atomic operations (a day of candles: 2.2 s, not 0.4).
    """

    paths: Any  # PATH[]
    rows: Any  # ROW[], in the order of their streams
    scratch: Any  # TICK[]: a bucket's ticks before they are sorted


@kernel
def regime(seed: int, path: int, bucket: int) -> float:
    """Volatility as a multiple of the normal: swings of 27 and 7 min, and bursts of a minute or two in a quarter of all 7-min blocks."""
    calm = 0.45 * noise(seed, _SLOW, path, 12, bucket) + 0.35 * noise(seed, _MIDDLE, path, 10, bucket)
    value = math.exp(calm - 0.25)
    block = bucket >> 10
    bits = draw(seed, _BURST, path, block)
    if part(bits, 0) < 0.25:
        centre = 0.2 + 0.6 * part(bits, 1)
        width = 0.05 + 0.1 * part(bits, 2)
        distance = abs(float(bucket - (block << 10)) / 1024.0 - centre)
        if distance < width:
            value *= 1.0 + (1.0 + 2.0 * part(bits, 3)) * (1.0 - distance / width)
    return value


@kernel
def volatility(seed: int, paths: Any, path: int, bucket: int) -> float:
    """The regime of the grain that a bucket lies in."""
    grain = bucket >> REGIME_GRAIN
    slot = grain & (REGIMES - 1)
    if paths[path].regime_at[slot] != grain:
        paths[path].regime[slot] = regime(seed, path, grain << REGIME_GRAIN)
        paths[path].regime_at[slot] = grain
    return paths[path].regime[slot]


@kernel
def _node(seed: int, paths: Any, path: int, octave: int, node: int) -> float:
    value = gauss(draw(seed, _NODES, path << 5 | octave, node)) * math.sqrt(float(1 << octave) * (BUCKET_NS * 1e-9 / VARIANCE))
    if octave <= REGIME_OCTAVE:
        value *= volatility(seed, paths, path, node << octave)
    return value


@kernel
def _jumps(seed: int, path: int, octave: int, bucket: int) -> float:
    """A level that steps at one random moment of each block; in six of ten blocks it is 0."""
    block = bucket >> octave
    moment = unit(draw(seed, _JUMP_TIME, path << 5 | octave, block))
    if float(bucket - (block << octave)) >= moment * float(1 << octave):
        block += 1
    bits = draw(seed, _JUMP_SIZE, path << 5 | octave, block)
    if unit(bits) < 0.6:
        return 0.0
    size = gauss(mix(bits))
    return size * abs(size)


@kernel
def level(seed: int, paths: Any, path: int, bucket: int) -> float:
    """Log price of a path at a bucket's start, in units of its volatility of one second."""
    memo = paths[path]
    slot = bucket & 1
    if memo.level_at[slot] == bucket:
        return memo.level[slot]
    total = 0.0
    size = 1.0
    for octave in range(OCTAVES):
        node = bucket >> octave
        if memo.node[octave] != node:
            if memo.node[octave] == node - 1:
                memo.left[octave] = memo.right[octave]
            else:
                memo.left[octave] = _node(seed, paths, path, octave, node)
            memo.right[octave] = _node(seed, paths, path, octave, node + 1)
            memo.node[octave] = node
        left = memo.left[octave]
        total += left + (memo.right[octave] - left) * (float(bucket - (node << octave)) * size)
        size *= 0.5
    total += 4.0 * _jumps(seed, path, 11, bucket) + 12.0 * _jumps(seed, path, 14, bucket)
    memo.level_at[slot] = bucket
    memo.level[slot] = total
    return total


@kernel
def mid(seed: int, paths: Any, rows: Any, at: int, bucket: int) -> float:
    """Price of an instrument at a bucket's start, in ticks. A perpetual is its base's price and a basis of a few bps."""
    row = rows[at]
    slot = bucket & 1
    if row.mid_at[slot] == bucket:
        return row.mid[slot]
    common = level(seed, paths, _MARKET_PATH, bucket)
    own = level(seed, paths, row.path, bucket)
    log = row.sigma * (CORRELATION * common + math.sqrt(1.0 - CORRELATION * CORRELATION) * own)
    if row.perpetual:
        member = row.stream
        log += 0.0004 * noise(seed, _BASIS, member, 12, bucket) + 0.00008 * noise(seed, _BASIS, member | 64, 5, bucket)
    value = row.base * math.exp(log)
    row.mid_at[slot] = bucket
    row.mid[slot] = value
    return value


@kernel
def _span(seed: int, paths: Any, rows: Any, at: int, span: int) -> None:
    """What holds for a span of an instrument: how many ticks, how wide, how large."""
    row = rows[at]
    start = span * SPAN
    turbulence = (CORRELATION * volatility(seed, paths, _MARKET_PATH, start)
                  + (1.0 - CORRELATION) * volatility(seed, paths, row.path, start))
    member = row.stream
    cluster = 0.6 * noise(seed, _ACTIVITY, member, 3, start) + 0.4 * noise(seed, _ACTIVITY, member | 64, 6, start)
    activity = turbulence * math.sqrt(turbulence) * math.exp(cluster - 0.17)
    rate = min(row.rate * activity, 0.7 * MOST_EVENTS)
    row.span_rate = rate
    row.span_none = math.exp(-rate)
    row.span_spread = math.sqrt(turbulence)
    row.span_size = math.sqrt(activity)
    row.span_at = span


@kernel
def count_events(seed: int, paths: Any, rows: Any, at: int, bucket: int) -> int:
    """How many ticks an instrument has in a bucket: Poisson, at the span's rate."""
    row = rows[at]
    span = bucket // SPAN
    if row.span_at != span:
        _span(seed, paths, rows, at, span)
    left = unit(draw(seed, _COUNT, row.stream, bucket))
    rate = row.span_rate
    share = row.span_none
    count = 0
    while left >= share and count < MOST_EVENTS:
        left -= share
        count += 1
        share *= rate / float(count)
    return count


@kernel
def events(seed: int, paths: Any, rows: Any, at: int, bucket: int, count: int, out: Any, first: int) -> None:
    """The ticks of one instrument in a bucket into out[first:first + count], in time order; `instrument` is the place in `rows`."""
    row = rows[at]
    start = mid(seed, paths, rows, at, bucket)
    change = mid(seed, paths, rows, at, bucket + 1) - start
    member = row.stream
    key = draw(seed, _EVENT, member, bucket)
    begin = unit(key) * 0.6  # arrivals lie close together, and not always at the same place
    bid, ask, bid_lots, ask_lots = 0, 0, 0, 0
    size = row.size * row.span_size
    width = row.spread * row.span_spread
    buys_below = 0.5 + 0.3 * max(-1.0, min(1.0, change / row.spread))
    for index in range(count):
        bits = mix(key + np.uint64(index + 1) * GOLDEN)
        more = mix(bits)
        share = (float(index) + part(bits, 0)) / float(count)
        share = begin + (1.0 - begin) * share * share
        tick = out[first + index]
        tick.seq = 0
        tick.event_ns = bucket * BUCKET_NS + int(share * BUCKET_NS)
        tick.publish_ns = 0
        tick.instrument = at
        tick.exchange_offset_us = -3000 - int(part(bits, 1) * 9000.0)
        if index == 0 or part(bits, 2) < 0.45:
            spread = max(1, int(width * (0.5 + part(bits, 3)) + 0.5))
            bid = max(1, math.floor(start + change * share - 0.5 * float(spread) + 0.5))
            ask = bid + spread
            bid_lots = 1 + int(size * (0.1 + 3.0 * part(more, 0) * part(more, 1)))
            ask_lots = 1 + int(size * (0.1 + 3.0 * part(more, 2) * part(more, 3)))
            tick.kind = l.TICK_QUOTE
            tick.flags = 0
            tick.price, tick.lots, tick.ask_price, tick.ask_lots = bid, bid_lots, ask, ask_lots
        else:
            buys = part(bits, 3) < buys_below
            displayed = ask_lots if buys else bid_lots
            tick.kind = l.TICK_TRADE
            tick.flags = 0 if buys else l.FLAG_BUYER_IS_MAKER
            tick.price = ask if buys else bid
            tick.lots = 1 + int(float(displayed - 1) * part(more, 0) * part(more, 1))
            tick.ask_price, tick.ask_lots = 0, 0


@kernel
def fill(seed: int, paths: Any, rows: Any, scratch: Any, bucket: int, published: int, ticks: Any, marks: Any) -> tuple[int, int]:
    """Whole buckets, their ticks and CLOCKs in time order, until no further one surely fits: (next bucket, ticks made).

    `marks[row]` = (bucket << PLACE_BITS | place in it, data ticks up to here), beginning behind `published` ones.
    """
    row = 0
    instruments = rows.shape[0]
    order = np.empty(scratch.shape[0], np.int64)
    while row + CLOCKS + instruments * MOST_EVENTS <= ticks.shape[0]:
        made = 0
        for at in range(instruments):
            count = count_events(seed, paths, rows, at, bucket)
            if count > 0:
                events(seed, paths, rows, at, bucket, count, scratch, made)
                for new in range(made, made + count):
                    place = new
                    while place > 0 and scratch[order[place - 1]].event_ns > scratch[new].event_ns:
                        order[place] = order[place - 1]
                        place -= 1
                    order[place] = new
                made += count
        clock = 0
        taken = 0
        for place in range(made + CLOCKS):
            clock_ns = bucket * BUCKET_NS + clock * CLOCK_NS
            if clock < CLOCKS and (taken == made or clock_ns <= scratch[order[taken]].event_ns):
                put(ticks, row, clock_ns, l.TICK_CLOCK, 0)
                clock += 1
            else:
                ticks[row] = scratch[order[taken]]
                ticks[row].instrument = rows[ticks[row].instrument].id
                taken += 1
                published += 1
            marks[row, 0] = bucket << PLACE_BITS | place
            marks[row, 1] = published
            row += 1
        bucket += 1
    return bucket, row


@kernel
def candles(seed: int, paths: Any, rows: Any, scratch: Any, first_minute: int, minutes: int, out: Any) -> None:
    """Minutes of trades folded into out[instrument, minute]; a minute without a trade repeats the close before it (at first: the mid)."""
    for minute in range(minutes):
        for at in range(rows.shape[0]):
            candle = out[at, minute]
            candle.time_ns = (first_minute + minute) * BUCKETS_A_MINUTE * BUCKET_NS
            candle.volume = 0
            candle.trades = 0
        start = (first_minute + minute) * BUCKETS_A_MINUTE
        for bucket in range(start, start + BUCKETS_A_MINUTE):
            for at in range(rows.shape[0]):
                count = count_events(seed, paths, rows, at, bucket)
                if count < 2:
                    continue  # the first one is always a quote
                events(seed, paths, rows, at, bucket, count, scratch, 0)
                candle = out[at, minute]
                for index in range(count):
                    tick = scratch[index]
                    if tick.kind == l.TICK_TRADE:
                        if candle.trades == 0:
                            candle.open = candle.high = candle.low = tick.price
                        candle.high = max(candle.high, tick.price)
                        candle.low = min(candle.low, tick.price)
                        candle.close = tick.price
                        candle.volume += tick.lots
                        candle.trades += 1
        for at in range(rows.shape[0]):
            candle = out[at, minute]
            if candle.trades == 0:
                last = out[at, minute - 1].close if minute > 0 else int(mid(seed, paths, rows, at, start))
                candle.open = candle.high = candle.low = candle.close = last
