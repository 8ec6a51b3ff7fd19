"""Run by hftbacktest's own Python: the same trade ticks through its feed, read one by one in compiled code; see bench_peers.py.

    python peer_hftbacktest.py TICKS.npy     prints one line of JSON: version, events seen, seconds

TICKS: int64[n, 3], event ns, price in ticks, lots.
"""

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from hftbacktest import BUY_EVENT, EXCH_EVENT, LOCAL_EVENT, TRADE_EVENT, BacktestAsset, HashMapMarketDepthBacktest
from hftbacktest.types import event_dtype
from numba import njit


@njit
def read(hbt):
    """Wait for each event of the feed (2); the last one comes with the end (1)."""
    seen = 0
    while hbt.wait_next_feed(False, 1_000_000_000) == 2:
        seen += len(hbt.last_trades(0))
        hbt.clear_last_trades(0)
    return seen + len(hbt.last_trades(0))


def made(rows):
    """A backtest over the ticks, and the data that it reads, which must live as long."""
    data = np.zeros(len(rows), event_dtype)
    data["ev"] = TRADE_EVENT | BUY_EVENT | EXCH_EVENT | LOCAL_EVENT
    data["exch_ts"] = data["local_ts"] = rows[:, 0]
    data["px"], data["qty"] = rows[:, 1] / 100, rows[:, 2] / 1000
    asset = (BacktestAsset().data([data]).linear_asset(1.0).constant_order_latency(0, 0).risk_adverse_queue_model().no_partial_fill_exchange()
             .trading_value_fee_model(0.0, 0.0).tick_size(0.01).lot_size(0.001).last_trades_capacity(1000))
    return HashMapMarketDepthBacktest([asset]), data


def main():
    rows = np.load(sys.argv[1])
    warm, few = made(rows[:100])
    read(warm)  # compiled before the clock starts
    hbt, data = made(rows)
    began = time.perf_counter()
    seen = read(hbt)
    took = time.perf_counter() - began
    print(json.dumps({"version": version("hftbacktest"), "seen": int(seen), "seconds": took}))
    del few, data


main()
