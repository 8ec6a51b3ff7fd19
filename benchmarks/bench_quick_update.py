"""How long a closed trade takes to be knowledge: from its records to the end of the transaction that keeps what it has changed.

```
 opening, context, exit, CLOSED ─► scores of six kinds ─► evidence of a dozen claims ─► LMDB, synced ─► (every tenth) a look at everything ─► LMDB
```

The store is full: trades of 200 coins and four strategies, with patterns, regimes and candidates. The journal's part (reading what became durable) is
not in it, the disk is: the store syncs each transaction, as in paper. A look comes behind the trade that it is due by, and is told by itself
(*look*); what comes next waits for it.

It checks itself: every trade is in the store, once, and its coin's score has risen by one.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.frame import Row, check
from control.learn.follower import Follower
from control.learn.knowledge import Applied, Knowledge
from control.learn.learner import Learner, universe
from control.learn.reflection import MOST_PATTERNS, MOST_REGIMES
from control.record.records import InstrumentFact, instrument_facts
from hotpath.venues import catalogue
from ipc import layout as l
from ipc.messages import Condition, Size

COINS, STRATEGIES, TRADES, QUICK_TRADES = 200, ("momentum", "mean_reversion", "analyst", "llm"), 3000, 300
#: trades in the store: one that is looked at in explanations, and years of them; the quick case's
FULL, QUICK_FULL = (20_000, 100_000), (2000,)
#: ms within which a trade is learned
TARGET_MS: Final = 10.0
_HOUR_NS = 3_600_000_000_000
_PATTERNS, _REGIMES = ("breakout", "pullback", "engulfing"), ("trend", "range", "volatile")


class _Journal:
    """What the journal would say: an instrument, a strategy and a condition of each number."""

    def __init__(self) -> None:
        (fact,) = instrument_facts(catalogue.resolve(("BTC/USDT",)), 1)
        self._fact = fact

    def fact(self, incarnation: int, instrument: int) -> InstrumentFact:
        return msgspec.structs.replace(self._fact, symbol=f"C{instrument}/USDT", id=instrument)

    def strategy(self, incarnation: int, strategy: int) -> str:
        return STRATEGIES[strategy]

    def condition(self, condition_id: int) -> Condition:
        return Condition(symbol="C0/USDT", side="buy", direction="up", size=Size(kind="equity_bps", value="100"), confidence=0.8, why="test",
                         level="101", mark="100", stop_bps=80, pattern=_PATTERNS[condition_id % 3], regime=_REGIMES[condition_id % 2])

    def exchange(self, condition_id: int) -> str:
        return ""

    def entry(self, position_id: int) -> Any:
        return None


class _Trading:
    """Makes the records of trades that open and close one after the other, and has them learned."""

    def __init__(self, folder: Path) -> None:
        self._store = Knowledge(folder, writable=True, sync=False)
        self._learner = Learner(universe(COINS, len(STRATEGIES), MOST_PATTERNS, MOST_REGIMES))
        self._begin()
        self._chance, self._seq, self._now_ns = np.random.default_rng(1), 0, 1_700_000_000 * 10**9

    def _begin(self) -> None:
        self._follower = Follower(self._learner, _Journal(), self._store)

    def sync(self, folder: Path) -> None:
        """From here on each transaction reaches the disk, by a successor of who has learned so far."""
        self._store.close()
        self._store = Knowledge(folder, writable=True, sync=True)
        self._learner = Learner(universe(COINS, len(STRATEGIES), MOST_PATTERNS, MOST_REGIMES))
        self._store.restore(self._learner)
        self._begin()
        gc.collect()
        gc.freeze()  # as reflection does

    def trade(self, keep: bool = True) -> tuple[float, float]:
        """One trade; gives ms from its CLOSED record to the end of its transaction, and of the look behind it (NaN: none was due)."""
        chance = self._chance
        self._now_ns += int(chance.exponential(0.05) * _HOUR_NS)
        coin, strategy, lost = int(chance.integers(COINS)), int(chance.integers(len(STRATEGIES))), chance.random() < 0.6
        position = 1 << 40 | self._seq + 1
        common = {"instrument": coin, "strategy": strategy, "side": l.BUY, "position_id": position, "condition_id": 1 << l.PLAN_SHIFT | self._seq % 6}
        self._take(l.INTENT, kind=l.LIFECYCLE, leg=l.POS_OPENING, code=l.POS_OPEN, limit_price=9_920, reference_price=10_160, **common)
        self._take(l.ENTRY_CONTEXT, kind=l.CONTEXT, features=(1.0,) * 6, more_features=(2.0,) * 6, **common)
        self._take(l.INTENT, kind=l.NEW, purpose=l.EXIT, lots=100, **common | {"reference_price": 9_920 if lost else 10_160})
        price = 9_919 if lost else 10_159
        began = time.perf_counter_ns()
        self._take(l.TRADE, kind=l.CLOSED, pnl=(price - 10_000) * 100, fees=7, lots=100, entry_price=10_000, exit_price=price,
                   opened_ns=self._now_ns - _HOUR_NS, exit_reason=l.EXIT_STOP if lost else l.EXIT_TARGET, **common)
        if keep:
            self.store()
        known = time.perf_counter_ns()
        due = self._learner.state.due_ns > 0
        self._follower.look_if_due()
        if keep and due:
            self.store()
        return (known - began) / 1e6, (time.perf_counter_ns() - known) / 1e6 if due else math.nan

    def _take(self, dtype: Any, **fields: Any) -> None:
        self._seq += 1
        row = np.zeros(1, dtype)
        for name, value in {"seq": self._seq, "event_ns": self._now_ns, **fields}.items():
            row[name] = value
        self._follower.take(1, row.view(l.INTENT)[0])

    def store(self) -> None:
        """Keep what has changed since."""
        self._store.store(Applied(1, self._seq), self._follower.take_changes(), self._learner, self._learner.take_changes())

    def counted(self) -> tuple[int, int]:
        """(trades that the store has, trades of all coins' scores)."""
        return len(self._store.trades(10**9)), sum(score.trades for (family, _), score in self._store.scores().items() if family == "coin")

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def run(quick: bool) -> list[Row]:
    """Fill the store, then one trade a transaction; for each size of the store."""
    return [row for full in (QUICK_FULL if quick else FULL) for row in _measured(full, QUICK_TRADES if quick else TRADES, quick)]


def _measured(full: int, count: int, quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="trader-bench-", dir=Path.cwd()) as name:  # /tmp may be memory
        folder = Path(name) / "knowledge"
        trading = _Trading(folder)
        try:
            for number in range(full):
                trading.trade(keep=number % 256 == 255)
            trading.store()
            began = time.perf_counter()
            trading.sync(folder)
            restored_ms = (time.perf_counter() - began) * 1e3
            took, looks = np.array([trading.trade() for _ in range(count)]).T
            check(trading.counted() == (full + count, full + count), f"{full + count} trades are {trading.counted()} in the store")
        finally:
            trading.close()
    params, looks = {"trades": count, "stored": full, "coins": COINS}, looks[~np.isnan(looks)]
    return [Row("quick_update", "p50_ms", float(np.median(took)), "ms", params),
            Row("quick_update", "p99_ms", float(np.quantile(took, 0.99)), "ms", params, None if quick else TARGET_MS),
            Row("quick_update", "max_ms", float(took.max()), "ms", params),
            Row("quick_update", "look_p50_ms", float(np.median(looks)), "ms", params),
            Row("quick_update", "look_p99_ms", float(np.quantile(looks, 0.99)), "ms", params),
            Row("quick_update", "restored_ms", restored_ms, "ms", params)]
