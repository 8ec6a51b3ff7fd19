"""Run by NautilusTrader's own Python: trade ticks through its BacktestEngine while stop orders rest; see bench_peers.py.

    python peer_nautilus.py TICKS.npy LEVELS.npy     prints one line of JSON: version, ticks seen by the strategy, seconds, orders filled

TICKS: int64[n, 3], event ns, price in ticks, lots. LEVELS: int64[m, 2], price in ticks, 0 = a buy above the market, 1 = a sale below it.
"""

import json
import sys
import time
from decimal import Decimal

import nautilus_trader
import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, RiskEngineConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import TradeTick
from nautilus_trader.model.enums import AccountType, AggressorSide, OmsType, OrderSide, TriggerType
from nautilus_trader.model.identifiers import TradeId
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy


class Resting(Strategy):
    """Counts trades; at the first one the stop orders are sent, and from the second one on the clock runs."""

    def __init__(self, instrument, levels):
        super().__init__()
        self.instrument, self.levels, self.seen, self.filled, self.accepted = instrument, levels, 0, 0, 0

    def on_start(self):
        self.subscribe_trade_ticks(self.instrument.id)

    def on_trade_tick(self, tick):
        self.seen += 1
        if self.seen == 2:
            self.began = time.perf_counter()
        if self.seen > 1:
            return
        for price, down in self.levels:
            self.submit_order(self.order_factory.stop_market(
                self.instrument.id, OrderSide.SELL if down else OrderSide.BUY, Quantity(0.001, 3), Price(price / 10, 1),
                trigger_type=TriggerType.LAST_PRICE))

    def on_order_accepted(self, event):
        self.accepted += 1

    def on_order_filled(self, event):
        self.filled += 1


def main():
    rows, levels = np.load(sys.argv[1]), np.load(sys.argv[2])
    instrument = TestInstrumentProvider.btcusdt_perp_binance()
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True)))
    engine.add_venue(instrument.id.venue, OmsType.NETTING, AccountType.MARGIN, [Money(1_000_000, USDT)], default_leverage=Decimal(1))
    engine.add_instrument(instrument)
    engine.add_data([
        TradeTick(instrument.id, Price(price / 10, 1), Quantity(lots / 1000, 3), AggressorSide.BUYER, TradeId(str(number)), event_ns, event_ns)
        for number, (event_ns, price, lots) in enumerate(rows.tolist())])
    strategy = Resting(instrument, levels.tolist())
    engine.add_strategy(strategy)
    engine.run()
    took = time.perf_counter() - strategy.began
    print(json.dumps({"version": nautilus_trader.__version__, "seen": strategy.seen, "seconds": took, "accepted": strategy.accepted,
                      "filled": strategy.filled}))


main()
