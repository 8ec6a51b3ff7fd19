"""The paper venue against a slow and obvious one: fills, rejects, fees, perpetuals through zero, and where all the cash went."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import numpy as np
import pytest

from hotpath.config import Paper
from hotpath.kernel import match as m
from hotpath.venues import catalogue, paper_ledger
from hotpath.venues.paper import PaperVenue, affordable
from hotpath.venues.paper_ledger import Ledger, LedgerError
from hotpath.venues.venue import OrderRequest, VenueEvent
from ipc import layout as l

SPOT, PERPETUAL = "BTC/USDT", "BTC/USDT:USDT"
SYMBOLS = (SPOT, PERPETUAL)
CASH = 10_000 * 10**8
MS = 1_000_000


class Market:
    """A venue with its kernel, and ticks by hand. Prices in ticks, sizes in lots; time goes on by 1 ms a tick unless told."""

    def __init__(self, folder: Path, paper: Paper | None = None, cash: int = CASH) -> None:
        self.paper = paper or Paper(order_latency_ms=0)
        self.rows = catalogue.resolve(SYMBOLS, paper=self.paper)
        self.folder = folder
        self.quotes = np.zeros(len(SYMBOLS), l.QUOTE)
        self.taken = np.zeros((len(SYMBOLS), 2), np.int64)
        self.actions = np.zeros(m.MAX_ACTIONS, m.ACTION)
        self.seq, self.now, self.orders = 0, 0, 0
        self.events: list[VenueEvent] = []
        self.open(cash)

    def open(self, cash: int = 0) -> None:
        self.ledger = Ledger(self.folder / "paper", sync=False)
        self.opened = np.zeros(m.MAX_OPEN, m.OPEN_ORDER)
        self.venue = PaperVenue(self.ledger, self.rows, self.quotes, self.paper, self.opened)
        if cash:
            self.venue.deposit(cash, 0)
            self.commit()

    def commit(self) -> list[VenueEvent]:
        events = self.ledger.commit()
        assert events is not None
        assert self.venue.check() == []
        self.events += events
        return events

    def send(self, lots: int, side: int = l.BUY, symbol: str = SPOT, limit: int = 0, client_id: str = "", **fields: Any) -> int:
        """A market order, or a limit order at `limit` ticks; gives the reject code."""
        row = self.rows[SYMBOLS.index(symbol)]
        self.orders += 1
        quantity = fields.pop("quantity", None) or text_of(lots, row["lot_mantissa"], row["lot_exponent"])
        price = text_of(limit, row["tick_mantissa"], row["tick_exponent"]) if limit else None
        return self.venue.submit(OrderRequest(
            client_id=client_id or f"order-{self.orders}", symbol=symbol, side=side, order_type=l.LIMIT if limit else l.MARKET,
            quantity=quantity, price=fields.pop("price", price), event_ns=fields.pop("event_ns", self.now), **fields))

    def tick(self, tick: Any) -> list[VenueEvent]:
        self.seq += 1
        self.now = int(tick["event_ns"])
        m.observe(self.quotes, tick)
        count = m.match(self.opened, self.venue.count, tick, self.quotes, self.rows, self.paper.slippage_bps_per_touch,
                        self.paper.half_spread_bps, self.taken, self.actions)
        if count:
            self.venue.book_actions(self.actions[:count], self.seq, self.now)
        self.venue.now_ns = max(self.venue.now_ns, self.now)
        return self.commit()

    def quote(self, bid: int, ask: int, bid_lots: int = 100, ask_lots: int = 100, symbol: str = SPOT, after: int = MS) -> list[VenueEvent]:
        return self.tick(tick_of(l.TICK_QUOTE, self.now + after, symbol, bid, bid_lots, ask, ask_lots))

    def trade(self, price: int, lots: int, symbol: str = SPOT, flags: int = 0, after: int = MS) -> list[VenueEvent]:
        return self.tick(tick_of(l.TICK_TRADE, self.now + after, symbol, price, lots, flags=flags))

    def clock(self, after: int = MS) -> list[VenueEvent]:
        return self.tick(tick_of(l.TICK_CLOCK, self.now + after))

    def position(self, symbol: str) -> tuple[int, int]:
        held = self.ledger.positions.get(symbol)
        return (held.lots, held.cost) if held else (0, 0)


def text_of(count: int, mantissa: int, exponent: int) -> str:
    units = Fraction(int(count) * int(mantissa)) * Fraction(10) ** int(exponent)
    return f"{float(units):.8f}"


def tick_of(kind: int, event_ns: int, symbol: str | None = None, price: int = 0, lots: int = 0, ask: int = 0, ask_lots: int = 0,
            flags: int = 0) -> Any:
    tick = np.zeros(1, l.TICK)
    tick[0]["event_ns"], tick[0]["kind"], tick[0]["flags"] = event_ns, kind, flags
    tick[0]["instrument"] = l.NO_INSTRUMENT if symbol is None else SYMBOLS.index(symbol)
    tick[0]["price"], tick[0]["lots"], tick[0]["ask_price"], tick[0]["ask_lots"] = price, lots, ask, ask_lots
    return tick[0]


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path)


def fills(events: list[VenueEvent]) -> list[tuple[int, int, int]]:
    return [(event.lots, event.price, event.liquidity) for event in events if event.kind == l.FILL]


def kinds(events: list[VenueEvent]) -> list[int]:
    return [event.kind for event in events]


# ── market orders ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_market_order_takes_the_displayed_size_at_the_touch(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=50)
    assert market.send(30) == l.REJ_NONE
    assert fills(market.clock()) == [(30, 6_000_100, l.TAKER)]


def test_what_is_beyond_the_displayed_size_slips_by_the_touches_it_needs(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=10)
    market.send(35)  # 10 at the touch, 25 beyond: 3 touches of 1 bps, rounded up to ticks
    assert fills(market.clock()) == [(10, 6_000_100, l.TAKER), (25, 6_000_100 + 1801, l.TAKER)]


def test_a_market_sale_slips_down(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(100)
    market.clock()
    market.quote(6_000_000, 6_000_100, bid_lots=60)
    market.send(100, l.SELL)
    assert fills(market.clock()) == [(60, 6_000_000, l.TAKER), (40, 6_000_000 - 600, l.TAKER)]


def test_a_market_order_takes_ten_touches_at_most_and_the_rest_expires(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=10)
    market.send(150)
    events = market.clock()
    assert sum(lots for lots, _, _ in fills(events)) == 100
    assert kinds(events) == [l.ACCEPTED, l.FILL, l.FILL, l.EXPIRED]
    assert (events[-1].code, events[-1].cum_lots) == (l.REJ_NO_LIQUIDITY, 100)


def test_orders_of_one_tick_share_the_displayed_size(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=100)
    market.send(70)
    market.send(60)
    assert fills(market.clock()) == [(70, 6_000_100, l.TAKER), (30, 6_000_100, l.TAKER), (30, 6_000_100 + 601, l.TAKER)]


def test_without_any_quote_the_last_trade_and_half_a_spread_decide(market: Market) -> None:
    market.send(30)
    assert fills(market.clock()) == []  # nothing was ever seen: it waits
    assert fills(market.trade(6_000_000, 1)) == [(30, 6_001_200, l.TAKER)]
    market.send(30, l.SELL)
    assert fills(market.clock()) == [(30, 5_998_800, l.TAKER)]


def test_an_order_is_active_after_its_latency_in_event_time(tmp_path: Path) -> None:
    market = Market(tmp_path, Paper(order_latency_ms=50))
    market.quote(6_000_000, 6_000_100)
    market.send(10)
    assert fills(market.clock(49 * MS)) == []
    assert fills(market.quote(6_100_000, 6_100_100, after=MS)) == [(10, 6_100_100, l.TAKER)]


def test_an_order_that_comes_late_is_active_at_the_venues_own_time(tmp_path: Path) -> None:
    market = Market(tmp_path, Paper(order_latency_ms=50))
    market.quote(6_000_000, 6_000_100, after=1000 * MS)
    market.send(10, event_ns=0)
    assert market.venue.open_orders()[0].active_ns == 1000 * MS


def test_a_tick_of_any_kind_and_instrument_wakes_a_market_order_but_one_that_is_no_market_trade(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(10)
    assert fills(market.trade(6_000_050, 5, flags=l.FLAG_NOT_MARKET)) == []
    assert fills(market.trade(6_500_000, 5, symbol=PERPETUAL)) == [(10, 6_000_100, l.TAKER)]


# ── limit orders ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_marketable_limit_takes_the_touch_and_rests_with_the_rest(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=40)
    market.send(100, limit=6_000_200)
    assert fills(market.clock()) == [(40, 6_000_100, l.TAKER)]
    assert fills(market.clock()) == []
    assert fills(market.quote(6_000_000, 6_000_150, ask_lots=25)) == [(25, 6_000_200, l.MAKER)]
    assert fills(market.trade(6_000_199, 90)) == [(35, 6_000_200, l.MAKER)]
    assert market.venue.open_orders() == []


def test_a_resting_order_needs_a_trade_strictly_through_its_price(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(50, limit=5_999_000)
    market.clock()
    assert fills(market.trade(5_999_000, 500)) == []
    assert fills(market.trade(5_998_999, 500, flags=l.FLAG_NOT_MARKET)) == []
    assert fills(market.trade(5_998_999, 20, symbol=PERPETUAL)) == []
    assert fills(market.trade(5_998_999, 20)) == [(20, 5_999_000, l.MAKER)]
    assert fills(market.quote(5_998_000, 5_999_000, ask_lots=100)) == [(30, 5_999_000, l.MAKER)]


def test_two_resting_orders_share_a_trade_by_arrival(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30, limit=5_999_000)
    market.send(30, limit=5_999_500)
    market.clock()
    assert fills(market.trade(5_998_000, 40)) == [(30, 5_999_000, l.MAKER), (10, 5_999_500, l.MAKER)]


# ── the queue at a price ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_limit_at_the_touch_waits_behind_what_is_displayed_and_then_gets_what_trades(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=100)
    market.send(50, limit=6_000_000)
    market.clock()
    assert fills(market.trade(6_000_000, 60)) == []
    assert fills(market.trade(6_000_000, 40)) == [], "the last of those before it"
    assert fills(market.trade(6_000_000, 20)) == [(20, 6_000_000, l.MAKER)]
    assert fills(market.trade(6_000_000, 500)) == [(30, 6_000_000, l.MAKER)]


def test_one_trade_may_finish_the_queue_and_fill_with_the_rest(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, ask_lots=30)
    market.send(11)
    market.clock()
    market.send(11, l.SELL, limit=6_000_100)
    market.clock()
    assert fills(market.trade(6_000_100, 37)) == [(7, 6_000_100, l.MAKER)]


def test_a_smaller_display_shortens_the_queue_and_a_larger_one_does_not_lengthen_it(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=100)
    market.send(50, limit=6_000_000)
    market.clock()
    market.quote(6_000_000, 6_000_100, bid_lots=5)
    market.quote(6_000_000, 6_000_100, bid_lots=400)
    assert fills(market.trade(6_000_000, 8)) == [(3, 6_000_000, l.MAKER)]


def test_a_touch_that_falls_back_leaves_nobody_before_the_order(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=100)
    market.send(50, limit=6_000_000)
    market.clock()
    market.quote(5_999_900, 6_000_100, bid_lots=70)
    assert fills(market.trade(6_000_000, 4)) == [(4, 6_000_000, l.MAKER)]


def test_behind_the_touch_nobody_knows_the_queue_until_the_touch_comes(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=100)
    market.send(50, limit=5_999_900)
    market.clock()
    assert fills(market.trade(5_999_900, 10_000)) == []
    market.quote(5_999_900, 6_000_100, bid_lots=30)
    assert fills(market.trade(5_999_900, 31)) == [(1, 5_999_900, l.MAKER)]


def test_without_quotes_only_a_trade_through_the_price_fills(market: Market) -> None:
    market.trade(6_000_100, 5)
    market.send(50, limit=6_000_000)
    market.clock()
    assert fills(market.trade(6_000_000, 10_000)) == []
    assert fills(market.trade(5_999_999, 7)) == [(7, 6_000_000, l.MAKER)]


def test_two_orders_at_one_price_are_filled_in_the_order_of_their_arrival(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=10)
    market.send(30, limit=6_000_000)
    market.send(30, limit=6_000_000)
    market.clock()
    assert fills(market.trade(6_000_000, 25)) == [(15, 6_000_000, l.MAKER)]
    assert fills(market.trade(6_000_000, 25)) == [(15, 6_000_000, l.MAKER), (10, 6_000_000, l.MAKER)]


def test_a_place_in_the_queue_outlives_the_venue(market: Market) -> None:
    market.quote(6_000_000, 6_000_100, bid_lots=100)
    market.send(50, limit=6_000_000)
    market.clock()
    market.trade(6_000_000, 60)
    market.ledger.close()
    market.open()
    assert fills(market.trade(6_000_000, 45)) == [(5, 6_000_000, l.MAKER)]


def test_an_order_of_a_ledger_from_before_the_queue_needs_a_trade_through_its_price(market: Market) -> None:
    market.send(50, limit=6_000_000)
    market.clock()
    market.ledger.close()
    with lmdb.open(str(market.folder / "paper"), max_dbs=5) as env, env.begin(write=True) as txn:
        orders = env.open_db(b"orders", txn)
        ((key, value),) = list(txn.cursor(orders))
        stored = msgspec.msgpack.decode(value)
        del stored["ahead"]
        txn.put(key, msgspec.msgpack.encode(stored), db=orders)
    market.open()
    assert fills(market.trade(6_000_000, 10_000)) == []
    assert fills(market.trade(5_999_999, 7)) == [(7, 6_000_000, l.MAKER)]


# ── fees ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_maker_and_taker_pay_their_own_fees_rounded_up(tmp_path: Path) -> None:
    market = Market(tmp_path, Paper(order_latency_ms=0, spot_maker_fee_bps=1.0, spot_taker_fee_bps=7.77))
    value = int(market.rows[0]["value_quanta"])
    market.quote(6_000_000, 6_000_100)
    market.send(11)
    taker = next(event for event in market.clock() if event.kind == l.FILL)
    assert taker.fee == ceil(Fraction(6_000_100 * 11 * value * 777, 10**6))
    market.send(11, limit=5_999_999)
    market.clock()
    maker = next(event for event in market.trade(5_999_998, 11) if event.kind == l.FILL)
    assert maker.fee == ceil(Fraction(5_999_999 * 11 * value, 10**4))
    assert market.ledger.meta.fees == taker.fee + maker.fee


def test_a_cancel_ends_what_is_open_and_nothing_else(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30, limit=5_999_000, client_id="resting")
    market.clock()
    market.trade(5_998_000, 10)
    assert market.venue.cancel("resting", market.now)
    assert not market.venue.cancel("resting", market.now)
    assert not market.venue.cancel("never", market.now)
    (event,) = market.commit()
    assert (event.kind, event.cum_lots) == (l.CANCELLED, 10)
    assert fills(market.trade(5_998_000, 10)) == []


# ── rejects ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("code", "order"), [
    (l.REJ_MIN_NOTIONAL, {"lots": 8}),
    (l.REJ_MIN_NOTIONAL, {"lots": 30, "limit": 1_000_000}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "0.000015"}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "0"}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "-0.001"}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "many"}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "NaN"}),
    (l.REJ_PRECISION, {"lots": 1, "quantity": "1e400"}),
    (l.REJ_PRECISION, {"lots": 30, "limit": 1, "price": "60000.001"}),
    (l.REJ_PRECISION, {"lots": 30, "limit": 1, "price": "0"}),
    (l.REJ_MAX_SIZE, {"lots": 900_000_001}),
    (l.REJ_MAX_SIZE, {"lots": 30, "limit": 100_000_001}),
    (l.REJ_NO_FUNDS, {"lots": 17_000}),
    (l.REJ_NO_FUNDS, {"lots": 30, "side": l.SELL}),
    (l.REJ_NO_FUNDS, {"lots": 200, "symbol": PERPETUAL}),
    (l.REJ_REDUCE_ONLY, {"lots": 30, "side": l.SELL, "reduce_only": True}),
])
def test_an_order_that_cannot_be_is_rejected_durably(market: Market, code: int, order: dict[str, Any]) -> None:
    market.quote(6_000_000, 6_000_100)
    market.quote(600_000, 600_010, symbol=PERPETUAL)
    assert market.send(client_id="bad", **order) == code
    (event,) = market.commit()
    assert (event.kind, event.code, event.cum_lots) == (l.REJECTED, code, 0)
    found = market.venue.find("bad")
    assert found is not None
    assert found.state == l.ORD_REJECTED
    assert fills(market.clock()) == []
    assert market.ledger.meta.cash == CASH


def test_an_unknown_symbol_is_rejected(market: Market) -> None:
    request = OrderRequest(client_id="x", symbol="NO/USDT", side=l.BUY, order_type=l.MARKET, quantity="1")
    assert market.venue.submit(request) == l.REJ_UNKNOWN_SYMBOL
    assert kinds(market.commit()) == [l.REJECTED]


def test_a_client_id_is_good_for_one_order_for_ever(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30, client_id="same")
    assert market.send(30, client_id="same") == l.REJ_DUPLICATE
    market.clock()
    assert market.send(30, client_id="same") == l.REJ_DUPLICATE
    market.ledger.close()
    market.open()
    assert market.send(30, client_id="same") == l.REJ_DUPLICATE
    assert market.commit() == []


def test_cash_that_open_orders_may_take_is_not_spent_twice(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    assert market.send(9_000, limit=5_900_000) == l.REJ_NONE
    assert market.send(9_000, limit=5_900_000) == l.REJ_NO_FUNDS
    market.venue.cancel("order-1", market.now)
    assert market.send(9_000, limit=5_900_000) == l.REJ_NONE


def test_a_spot_buy_that_became_dearer_takes_what_the_cash_allows_and_expires(tmp_path: Path) -> None:
    market = Market(tmp_path, Paper(order_latency_ms=10))
    market.quote(6_000_000, 6_000_100, ask_lots=100_000)
    assert market.send(16_000) == l.REJ_NONE
    events = market.quote(7_000_000, 7_000_100, ask_lots=100_000, after=20 * MS)
    assert kinds(events) == [l.ACCEPTED, l.FILL, l.EXPIRED]
    assert events[-1].code == l.REJ_NO_FUNDS
    per_lot = 7_000_100 * int(market.rows[0]["value_quanta"])
    assert 0 <= market.ledger.meta.cash < 2 * per_lot
    assert events[1].lots == affordable(CASH, per_lot, 100_000)


def test_affordable_is_the_most_that_fits() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        cash, per_lot, fee = rng.randrange(-5, 10**6), rng.randrange(1, 5000), rng.choice([0, 1, 99_999, 100_000, 5_000_000])
        cost = lambda lots, per_lot=per_lot, fee=fee: per_lot * lots + ceil(Fraction(per_lot * lots * fee, 10**8))  # noqa: E731
        lots = affordable(cash, per_lot, fee)
        assert lots == 0 or cost(lots) <= cash
        assert cost(lots + 1) > cash


# ── reduce only ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_each_strategy_closes_its_own_part_of_a_netted_position(market: Market) -> None:
    market.quote(600_000, 600_010, bid_lots=100, ask_lots=100, symbol=PERPETUAL)
    market.send(5, symbol=PERPETUAL, account="one")
    market.send(3, l.SELL, symbol=PERPETUAL, account="two")
    market.clock()
    assert market.position(PERPETUAL)[0] == 2
    assert market.send(5, l.SELL, PERPETUAL, account="one", reduce_only=True) == l.REJ_NONE
    assert market.send(3, l.BUY, PERPETUAL, account="two", reduce_only=True) == l.REJ_NONE
    market.clock()
    assert market.position(PERPETUAL) == (0, 0)


def test_a_reducing_order_never_reaches_beyond_its_position(market: Market) -> None:
    market.quote(600_000, 600_010, symbol=PERPETUAL)
    market.send(10, symbol=PERPETUAL)
    market.clock()
    assert market.send(11, l.SELL, PERPETUAL, reduce_only=True) == l.REJ_REDUCE_ONLY
    assert market.send(10, l.SELL, PERPETUAL, reduce_only=True) == l.REJ_NONE
    assert market.send(10, l.SELL, PERPETUAL, reduce_only=True) == l.REJ_NONE
    events = market.clock()
    assert sum(lots for lots, _, _ in fills(events)) == 10
    assert (events[-1].kind, events[-1].code) == (l.EXPIRED, l.REJ_REDUCE_ONLY)
    assert market.position(PERPETUAL) == (0, 0)


def test_an_exit_larger_than_an_order_may_be_by_now_is_taken(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(300)
    market.clock()
    market.venue._facts["BTC/USDT"]["max_lots"] = 100
    assert market.send(300, side=l.SELL, reduce_only=True) == l.REJ_NONE
    assert market.send(300) == l.REJ_MAX_SIZE


def test_what_happens_to_an_order_is_never_before_its_acceptance(market: Market) -> None:
    """A sniper ahead of the venue's ticks; then the next run cancels at the time of the last tick."""
    market.quote(6_000_000, 6_000_100)
    market.now += 10**9
    assert market.send(30, limit=5_000_000) == l.REJ_NONE
    (order,) = market.venue.open_orders()
    market.venue.cancel(order.client_id, 0)
    accepted, cancelled = market.commit()
    assert cancelled.event_ns >= accepted.event_ns


def test_an_exit_below_the_minimum_notional_is_taken(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(9)
    market.clock()
    market.quote(3_000_000, 3_000_100)
    assert market.send(9, l.SELL, reduce_only=True) == l.REJ_NONE
    assert len(fills(market.clock())) == 1


# ── perpetuals ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_fill_through_zero_closes_first_and_then_opens(market: Market) -> None:
    value = int(market.rows[1]["value_quanta"])
    market.quote(600_000, 600_010, symbol=PERPETUAL)
    market.send(7, symbol=PERPETUAL)
    market.clock()
    assert market.position(PERPETUAL) == (7, 600_010 * 7 * value)
    market.quote(610_000, 610_010, symbol=PERPETUAL)
    market.send(10, l.SELL, PERPETUAL)
    market.clock()
    assert market.position(PERPETUAL) == (-3, 610_000 * 3 * value)
    assert market.ledger.meta.realised == (610_000 - 600_010) * 7 * value
    assert market.ledger.meta.cash == CASH + market.ledger.meta.realised - market.ledger.meta.fees


def test_a_reduction_takes_the_floor_of_its_cost_and_the_last_lot_all_of_it(market: Market) -> None:
    value = int(market.rows[1]["value_quanta"])
    market.quote(600_000, 600_001, symbol=PERPETUAL)
    market.send(2, symbol=PERPETUAL)
    market.clock()
    market.quote(600_000, 600_002, symbol=PERPETUAL)
    market.send(1, symbol=PERPETUAL, reduce_only=False, quantity="0.002")
    market.clock()
    cost = (600_001 * 2 + 600_002 * 2) * value
    assert market.position(PERPETUAL) == (4, cost)
    market.send(3, l.SELL, PERPETUAL, reduce_only=True)
    market.clock()
    assert market.position(PERPETUAL) == (1, cost - cost * 3 // 4)
    market.send(1, l.SELL, PERPETUAL, reduce_only=True)
    market.clock()
    assert market.position(PERPETUAL) == (0, 0)
    assert market.ledger.meta.realised == 4 * 600_000 * value - cost


# ── the obvious venue ────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class Book:
    bid: int = 0
    ask: int = 0
    bid_lots: int = 0
    ask_lots: int = 0
    last: int = 0


@dataclass
class Wish:
    symbol: str
    side: int
    lots: int
    limit: int
    active_ns: int
    resting: bool = False
    ahead: int | None = None
    done: bool = False
    fills: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.lots - sum(lots for lots, _, _ in self.fills)


class Obvious:
    """The fill rules as one would say them, with fractions, one order at a time."""

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self.books = {symbol: Book() for symbol in SYMBOLS}
        self.wishes: list[Wish] = []

    def worse(self, price: int, side: int, bps: int) -> int:
        exact = Fraction(price) * (10_000 + side * bps) / 10_000
        return ceil(exact) if side > 0 else max(1, floor(exact))

    def touch(self, symbol: str, side: int) -> tuple[int, Fraction | float]:
        book = self.books[symbol]
        if (book.ask if side > 0 else book.bid) > 0:
            return (book.ask, Fraction(book.ask_lots)) if side > 0 else (book.bid, Fraction(book.bid_lots))
        return (self.worse(book.last, side, self.paper.half_spread_bps), float("inf")) if book.last else (0, 0.0)

    def look(self, wish: Wish) -> None:
        """What the book shows of the queue at a resting order's price."""
        book = self.books[wish.symbol]
        own, shown = (book.bid, book.bid_lots) if wish.side > 0 else (book.ask, book.ask_lots)
        if not own:
            return
        if own == wish.limit:
            wish.ahead = shown if wish.ahead is None else min(wish.ahead, shown)
        elif (own < wish.limit) == (wish.side > 0):
            wish.ahead = 0

    def tick(self, tick: Any) -> None:
        kind, now = int(tick["kind"]), int(tick["event_ns"])
        if kind == l.TICK_TRADE and tick["flags"] & l.FLAG_NOT_MARKET:
            return
        here = SYMBOLS[int(tick["instrument"])] if kind in (l.TICK_TRADE, l.TICK_QUOTE) else None
        if here and kind == l.TICK_TRADE:
            self.books[here].last = int(tick["price"])
        elif here:
            sizes = int(tick["lots"]), int(tick["ask_lots"])
            self.books[here] = Book(int(tick["price"]), int(tick["ask_price"]), *sizes, self.books[here].last)
        gone = {(symbol, side): 0 for symbol in SYMBOLS for side in (1, -1)}
        traded = 0
        for wish in self.wishes:
            if wish.done:
                continue
            price, shown = self.touch(wish.symbol, wish.side)
            key = (wish.symbol, wish.side)
            if not wish.resting:
                if now < wish.active_ns or (not wish.limit and not price):
                    continue
                if not wish.limit:
                    takes = 0
                    for lots_before in range(gone[key], gone[key] + wish.left):  # lot by lot through the book
                        if lots_before >= 10 * shown:
                            break
                        takes += 1
                    at_touch = max(0, min(takes, (int(shown) if shown != float("inf") else takes + gone[key]) - gone[key]))
                    deep = takes - at_touch
                    if at_touch:
                        wish.fills.append((at_touch, price, l.TAKER))
                    if deep:
                        touches = ceil((gone[key] + takes - Fraction(shown)) / Fraction(shown))
                        slip = self.paper.slippage_bps_per_touch * touches
                        wish.fills.append((deep, self.worse(price, wish.side, slip), l.TAKER))
                    gone[key] += takes
                    wish.done = True
                    continue
                wish.resting = True
                if price and wish.side * wish.limit >= wish.side * price and shown > gone[key]:
                    lots = int(min(wish.left, shown - gone[key]))
                    gone[key] += lots
                    wish.fills.append((lots, price, l.TAKER))
                self.look(wish)
            elif here == wish.symbol:
                if kind == l.TICK_TRADE:
                    if wish.side * int(tick["price"]) < wish.side * wish.limit:
                        wish.ahead = 0
                    got = 0
                    for _ in range(int(tick["lots"]) - traded):  # lot by lot through the queue
                        if wish.side * int(tick["price"]) > wish.side * wish.limit or wish.ahead is None:
                            break
                        if wish.ahead:
                            wish.ahead -= 1
                        elif got < wish.left:
                            got += 1
                    traded += got
                    if got:
                        wish.fills.append((got, wish.limit, l.MAKER))
                    wish.done = wish.left == 0
                    continue
                self.look(wish)
                if wish.side * wish.limit >= wish.side * price:
                    wish.ahead = 0
                if wish.side * wish.limit >= wish.side * price and shown > gone[key]:
                    lots = int(min(wish.left, shown - gone[key]))
                    gone[key] += lots
                    wish.fills.append((lots, wish.limit, l.MAKER))
            wish.done = wish.left == 0


def random_tick(rng: random.Random, now: int, prices: dict[str, int], step: int) -> Any:
    symbol = rng.choice(SYMBOLS)
    prices[symbol] = max(1000, prices[symbol] + rng.randint(-step, step))
    kind = rng.choice([l.TICK_TRADE, l.TICK_TRADE, l.TICK_QUOTE, l.TICK_QUOTE, l.TICK_CLOCK])
    if kind == l.TICK_CLOCK:
        return tick_of(kind, now)
    if kind == l.TICK_TRADE:
        return tick_of(kind, now, symbol, prices[symbol], rng.randint(1, 60), flags=rng.choice([0, 0, 0, 0, l.FLAG_NOT_MARKET]))
    spread = rng.randint(0, 20 if step > 1 else 2)
    return tick_of(kind, now, symbol, prices[symbol], rng.randint(1, 50), prices[symbol] + spread, rng.randint(1, 50))


@pytest.mark.parametrize(("seed", "step"), [*((seed, 60) for seed in range(25)), *((seed, 1) for seed in range(25))])
def test_random_orders_fill_as_the_obvious_venue_says_and_no_cash_goes_astray(tmp_path: Path, seed: int, step: int) -> None:
    """With steps of one tick prices stand, and the queues at them decide."""
    rng = random.Random(seed)
    paper = Paper(order_latency_ms=rng.choice([0, 1, 5]), slippage_bps_per_touch=rng.choice([0, 1, 7]),
                  half_spread_bps=rng.choice([0, 2, 11]))
    market, obvious = Market(tmp_path, paper, cash=10**16), Obvious(paper)
    market.rows["min_notional"] = 0
    market.venue = PaperVenue(market.ledger, market.rows, market.quotes, paper, market.opened)
    prices = dict.fromkeys(SYMBOLS, 100_000)
    wishes: dict[str, Wish] = {}
    for _ in range(400):
        market.now += rng.choice([0, 0, MS, 3 * MS])
        if rng.random() < 0.35:
            symbol = rng.choice(SYMBOLS)
            side = rng.choice([l.BUY, l.SELL])
            limit = rng.choice([0, prices[symbol] + rng.randint(-80, 80) * step // 60 - rng.randint(0, 1)])
            lots = rng.randint(1, 300)
            if market.send(lots, side, symbol, limit) == l.REJ_NONE:
                active_ns = max(market.now + paper.order_latency_ms * MS, market.venue.now_ns)
                wishes[f"order-{market.orders}"] = Wish(symbol, side, lots, limit, active_ns)
                obvious.wishes.append(wishes[f"order-{market.orders}"])
        elif rng.random() < 0.05 and market.venue.open_orders():
            chosen = rng.choice(market.venue.open_orders())
            market.venue.cancel(chosen.client_id, market.now)
            wishes[chosen.client_id].done = True
        tick = random_tick(rng, market.now, prices, step)
        market.tick(tick)
        obvious.tick(tick)
        assert set(market.ledger.open) == {name for name, wish in wishes.items() if not wish.done}
        if rng.random() < 0.02:  # a new life of the venue changes nothing
            market.ledger.close()
            market.open()
    for name, wish in wishes.items():
        found = market.venue.find(name)
        assert found is not None
        assert [(e.lots, e.price, e.liquidity) for e in market.events if e.client_id == name and e.kind == l.FILL] == wish.fills
        assert found.cum_lots == wish.lots - wish.left
    assert sum(e.kind == l.FILL for e in market.events) > 60
    check_the_books(market)


def check_the_books(market: Market) -> None:
    """Cash from the events alone: what came in, what fills moved, what perpetuals still hold."""
    cash = sum(e.lots for e in market.events if e.kind == l.BALANCE)
    lots = dict.fromkeys(SYMBOLS, 0)
    owed = 0  # Σ signed value of perpetual fills; with the open cost it makes the realised profit
    for e in (e for e in market.events if e.kind == l.FILL):
        value = e.price * e.lots * int(market.rows[SYMBOLS.index(e.symbol)]["value_quanta"])
        rate = int(market.rows[SYMBOLS.index(e.symbol)]["taker_fee_e8" if e.liquidity == l.TAKER else "maker_fee_e8"])
        assert e.fee == ceil(Fraction(value * rate, 10**8))
        cash -= e.fee
        lots[e.symbol] += e.side * e.lots
        if e.symbol == SPOT:
            cash -= e.side * value
        else:
            owed += e.side * value
    held, cost = market.position(PERPETUAL)
    cash += (cost if held > 0 else -cost) - owed
    assert market.ledger.meta.cash == cash
    assert {symbol: market.position(symbol)[0] for symbol in SYMBOLS} == lots


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_nothing_is_true_before_the_commit(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30)
    assert market.venue.events_since(1) == []
    market.ledger.close()
    market.open()
    assert market.venue.open_orders() == []
    assert market.venue.find("order-1") is None


def test_events_are_numbered_without_holes_and_come_again_after_any_of_them(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    for _ in range(5):
        market.send(30)
        market.clock()
    assert [event.venue_seq for event in market.events] == list(range(1, 12))
    market.ledger.close()
    market.open()
    for seen in range(12):
        assert market.venue.events_since(seen) == market.events[seen:]
    assert market.venue.events_since(2, limit=3) == market.events[2:5]


def test_a_turn_is_one_commit(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    before = market.ledger.commits
    for _ in range(10):
        market.send(30)
    market.clock()
    market.clock()
    assert market.ledger.commits == before + 1


def test_a_full_map_grows(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.ledger.close()
    monkeypatch.setattr(paper_ledger, "FIRST_MAP_BYTES", 128 * 1024)
    market.folder /= "small"
    market.events.clear()
    market.open(CASH)
    market.quote(6_000_000, 6_000_100, ask_lots=10_000)
    for _ in range(1500):
        market.send(9)
    events = market.clock()
    assert kinds(events)[:1500] == [l.ACCEPTED] * m.MAX_OPEN + [l.REJECTED] * (1500 - m.MAX_OPEN)
    assert len(fills(events)) >= m.MAX_OPEN
    assert market.ledger.fault == ""
    market.ledger.close()
    assert paper_ledger.read(market.folder / "paper").meta.venue_seq == len(market.events)


def test_a_commit_that_fails_acknowledges_nothing_and_is_tried_again(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30)

    def full(*_: Any) -> None:
        raise lmdb.DiskError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(market.ledger, "_write", full)
        assert market.ledger.commit() is None
        assert "No space left" in market.ledger.fault
        assert market.ledger.uncommitted
        assert market.venue.events_since(1) == []
    assert kinds(market.commit()) == [l.ACCEPTED]
    assert market.ledger.fault == ""
    assert kinds(market.clock()) == [l.FILL]


def test_a_ledger_of_a_newer_program_is_refused(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.ledger.close()
    monkeypatch.setattr(paper_ledger, "SCHEMA", 0)
    with pytest.raises(LedgerError, match="newer than this program"):
        market.open()


def test_a_reader_sees_the_account_as_committed(market: Market) -> None:
    market.quote(6_000_000, 6_000_100)
    market.send(30)
    market.clock()
    assert market.venue.balances() == {"USDT": market.ledger.meta.cash, "BTC": 30}
    market.ledger.close()
    statement = paper_ledger.read(market.folder / "paper")
    assert statement.meta.cash == market.ledger.meta.cash
    assert statement.positions[SPOT].lots == 30
    assert statement.events == market.events
    with pytest.raises(LedgerError, match="is that the state folder"):
        paper_ledger.read(market.folder / "nowhere")
