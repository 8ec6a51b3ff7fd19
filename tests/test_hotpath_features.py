"""Each feature against a slow oracle that looks at every raw tick; undo; and that asking in between changes nothing."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotpath.kernel import features, windows
from hotpath.kernel.commit import begin, recover
from hotpath.kernel.state import sniper_arrays
from ipc import layout as l

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
WINDOWS = (1, 10, 60, 300, 900)


class Trade(NamedTuple):
    ns: int
    price: int
    lots: int
    sold: bool


class Quote(NamedTuple):
    ns: int
    bid: int
    bid_lots: int
    ask: int
    ask_lots: int


class Oracle:
    """All ticks of a session; every feature is computed anew from them."""

    def __init__(self) -> None:
        self.trades: list[Trade] = []
        self.quote: Quote | None = None

    # ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def start_of(self, window_s: int, now: int) -> int:
        """First instant of the window: the bucket under way and 63 before it."""
        width = window_s * SECOND // 64
        return (now // width - 63) * width

    def within(self, window_s: int, now: int) -> list[Trade]:
        return self.trades[bisect_left(self.trades, self.start_of(window_s, now), key=lambda trade: trade.ns):]

    def full(self, window_s: int, now: int) -> bool:
        """The window, in whole finest buckets, has been observed since the first trade."""
        finest = SECOND // 64
        return bool(self.trades) and now // finest - self.trades[0].ns // finest >= 64 * window_s

    def price_at(self, ns: int) -> int | None:
        """Last price before an instant."""
        at = bisect_left(self.trades, ns, key=lambda trade: trade.ns)
        return self.trades[at - 1].price if at else None

    def value(self, name: str, now: int) -> float:
        if name in ("bid", "ask", "mid", "microprice", "spread_bps", "imbalance", "quote_age_s"):
            return self.of_quote(name, now)
        if not self.trades:
            return math.nan
        last = self.trades[-1].price
        if name == "last":
            return last
        if name == "trade_age_s":
            return (now - self.trades[-1].ns) / 1e9
        if name.startswith("ema_"):
            return self.average(float(name[4:-1]), now)
        window_s = 60 if name == "flow_imbalance" else 10 if name == "trades_per_s" else 300
        if found := [part for part in name.split("_") if part[:-1].isdigit()]:
            window_s = int(found[0][:-1])
        if name.startswith("return_"):
            before = self.price_at(self.start_of(window_s, now))
            if before is None or (window_s > 10 and not self.full(window_s, now)):
                return math.nan
            return 1e4 * (last / before - 1)
        if not self.full(window_s, now):
            return math.nan
        inside = self.within(window_s, now)
        match name.split("_")[0]:
            case "high" | "low":
                prices = [trade.price for trade in inside]
                return (max if name.startswith("high") else min)(prices) if prices else math.nan
            case "volatility":
                return self.volatility(window_s, now)
            case "trades":
                return len(inside) / 10
            case "flow":
                lots = sum(trade.lots for trade in inside)
                return sum(-trade.lots if trade.sold else trade.lots for trade in inside) / lots if lots else math.nan
            case "volume":
                lots = sum(trade.lots for trade in inside)
                return 30 * sum(trade.lots for trade in self.within(10, now)) / lots if lots else math.nan
            case "vwap":
                lots = sum(trade.lots for trade in inside)
                return 1e4 * (last / (sum(trade.price * trade.lots for trade in inside) / lots) - 1) if lots else math.nan
        raise AssertionError(name)

    def of_quote(self, name: str, now: int) -> float:
        q = self.quote
        if q is None:
            return math.nan
        values: dict[str, Callable[[], float]] = {
            "bid": lambda: q.bid, "ask": lambda: q.ask, "mid": lambda: (q.bid + q.ask) / 2,
            "spread_bps": lambda: 1e4 * (q.ask - q.bid) / ((q.ask + q.bid) / 2), "quote_age_s": lambda: (now - q.ns) / 1e9,
            "microprice": lambda: (q.bid * q.ask_lots + q.ask * q.bid_lots) / (q.bid_lots + q.ask_lots),
            "imbalance": lambda: (q.bid_lots - q.ask_lots) / (q.bid_lots + q.ask_lots)}
        return values[name]()

    def average(self, horizon_s: float, now: int) -> float:
        finest = SECOND // 64
        if now - self.trades[0].ns // finest * finest < horizon_s * SECOND:
            return math.nan
        average: float = self.trades[0].price
        for trade, after in zip(self.trades, [*[trade.ns for trade in self.trades[1:]], now], strict=True):
            average = trade.price + (average - trade.price) * math.exp(-(after - trade.ns) / (horizon_s * 1e9))
        return average

    def volatility(self, window_s: int, now: int) -> float:
        """Over the closed buckets of the window, each against the close before it."""
        width = window_s * SECOND // 64
        total = 0.0
        for bucket in range(now // width - 63, now // width):
            before, close = self.price_at(bucket * width), self.price_at((bucket + 1) * width)
            if before is not None and close is not None:
                total += math.log(close / before) ** 2
        return 1e4 * math.sqrt(total)


class Subject:
    """The kernel over real segments."""

    def __init__(self, memory: Any) -> None:
        self.s = sniper_arrays(memory)
        self.oracle = Oracle()
        self.out = np.zeros(len(l.FEATURES))
        begin(self.s)

    def take(self, tick: Trade | Quote) -> None:
        begin(self.s)
        state = self.s.states[0]
        if isinstance(tick, Trade):
            features.trade(self.s, 0, tick.ns, tick.price, tick.lots, tick.sold)
            state["last"], state["trade_ns"] = tick.price, tick.ns
            self.oracle.trades.append(tick)
        else:
            state["bid"], state["bid_lots"], state["quote_ns"] = tick.bid, tick.bid_lots, tick.ns
            state["ask"], state["ask_lots"] = tick.ask, tick.ask_lots
            self.oracle.quote = tick

    def values(self, now: int) -> dict[str, float]:
        begin(self.s)
        features.values(self.s, 0, now, self.out)
        return dict(zip(l.FEATURES, self.out.tolist(), strict=True))

    def check(self, now: int) -> None:
        for name, value in self.values(now).items():
            expected = self.oracle.value(name, now)
            assert value == pytest.approx(expected, rel=1e-6, abs=2e-3 if name.startswith("volatility") else 1e-9, nan_ok=True), (name, now)


@pytest.fixture
def subject(memory: Any) -> Subject:
    return Subject(memory)


def market(seed: int, seconds: float, rate: float) -> Iterator[Trade | Quote]:
    """Ticks of a random walk, `rate` a second in the mean, clustered and with pauses."""
    random = np.random.default_rng(seed)
    now, price = START + int(random.integers(0, SECOND)), 60_000.0
    while now < START + seconds * SECOND:
        now += int(random.exponential(SECOND / rate) * (0.1 if random.random() < 0.7 else 3.0) * (40 if random.random() < 0.01 else 1))
        price *= math.exp(random.normal(0, 2e-4))
        if random.random() < 0.5:
            yield Trade(now, round(price), int(random.integers(1, 500)), bool(random.random() < 0.5))
        else:
            spread = int(random.integers(1, 30))
            yield Quote(now, round(price) - spread, int(random.integers(1, 99)), round(price) + spread, int(random.integers(1, 99)))


@pytest.mark.parametrize(("seed", "seconds", "rate"), [
    pytest.param(1, 1300, 5.0, marks=pytest.mark.slow), (2, 20, 200.0), (3, 4000, 0.2), (4, 1300, 1.0)])
def test_every_feature_is_what_its_formula_says_of_the_raw_ticks(seed: int, seconds: float, rate: float, subject: Subject) -> None:
    known: set[str] = set()
    last_check = 0
    for number, tick in enumerate(market(seed, seconds, rate)):
        subject.take(tick)
        if number % 197 == 0 or tick.ns - last_check > 60 * SECOND:
            subject.check(tick.ns)
            last_check = tick.ns
            known |= {name for name, value in subject.values(tick.ns).items() if not math.isnan(value)}
    if seconds > 1000:
        assert known == set(l.FEATURES), "none stayed without a value"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(
    st.sampled_from([0, 1, 15_624_999, 15_625_000, 156_250_000, 937_500_000, SECOND, 4_687_500_000, 14_062_500_000, 61 * SECOND, 299 * SECOND,
                     300 * SECOND, 899 * SECOND, 900 * SECOND, 5000 * SECOND]) | st.integers(0, 20 * SECOND),
    st.integers(1, 200_000), st.integers(0, 10**6), st.booleans()), min_size=1, max_size=60), offset=st.integers(0, SECOND))
def test_any_times_prices_and_sizes_agree_with_the_oracle(memory: Any, steps: list[tuple[int, int, int, bool]], offset: int) -> None:
    subject = Subject(memory)
    windows.forget(subject.s, 0)
    now = START + offset
    for elapsed, price, lots, sold in steps:
        now += elapsed
        subject.take(Trade(now, price, lots, sold))
        subject.check(now)
    for elapsed in (1, 15_625_000, SECOND, 63 * SECOND, 1000 * SECOND):
        now += elapsed
        subject.check(now)


def test_asking_in_between_changes_nothing(memory: Any) -> None:
    rows = []
    for asked in (False, True):
        subject = Subject(memory)
        begin(subject.s)
        windows.forget(subject.s, 0)
        for tick in market(5, 1000, 2.0):
            subject.take(tick)
            if asked:
                subject.values(tick.ns + 7)
        rows.append(subject.values(tick.ns + SECOND))
    assert rows[0] == pytest.approx(rows[1], nan_ok=True)
    assert not any(math.isnan(value) for value in rows[0].values())


def memory_of(subject: Subject) -> list[bytes]:
    """Everything that features are kept in."""
    return [subject.s.arrays[name].tobytes() for name in ("features", *l.BUCKETS)]


def test_a_step_that_is_never_committed_leaves_no_trace(subject: Subject) -> None:
    ticks = list(market(6, 1000, 2.0))
    for tick in ticks[:-1]:
        subject.take(tick)
    for jump in (0, 20_000_000, SECOND, 10 * SECOND, 100 * SECOND, 10_000 * SECOND):
        begin(subject.s)
        before = memory_of(subject)
        features.trade(subject.s, 0, ticks[-1].ns + jump, 61_000, 5, True)
        assert memory_of(subject) != before
        recover(subject.s)
        assert memory_of(subject) == before, jump
        subject.s.undo[0]["tick_seq"] = 0
    begin(subject.s)
    windows.forget(subject.s, 0)
    recover(subject.s)
    assert memory_of(subject) == before


def test_a_new_session_knows_nothing_of_the_old_one(subject: Subject) -> None:
    for tick in market(7, 1000, 2.0):
        subject.take(tick)
    begin(subject.s)
    windows.forget(subject.s, 0)
    now = START + 5000 * SECOND
    subject.oracle.trades = []
    subject.take(Trade(now, 70_000, 3, False))
    subject.check(now)
    subject.check(now + 1000 * SECOND)


def test_other_instruments_are_not_touched(memory: Any) -> None:
    subject = Subject(memory)
    for tick in market(8, 100, 5.0):
        subject.take(tick)
    assert not any(subject.s.arrays[name][1].tobytes().strip(b"\0") for name in l.BUCKETS)
    assert subject.s.features[1]["bucket"] == 0
