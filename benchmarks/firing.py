"""A market in which one tick of ten fires: 1,000 conditions on 100 symbols, and an oracle that names every order they must make.

Each symbol's last price climbs and descends six steps, 2 bps apart and a little noise around each. Between two steps lies one level for the way up
(a buy) and one for the way down (a sale), so that each step fires one condition. Of ten ticks of a symbol one is a step, one a trade on the spot and
eight are quotes; in each round every symbol comes once, in an order of its own, so that no branch is learned by heart. A symbol fires again no sooner
than 801 ticks later.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from benchmarks.frame import check
from benchmarks.market import EVENT_NS, FIRST_PRICE, LIMITS, STRATEGIES, crossings, price_ticks, trades_by_symbol
from ipc import layout as l
from ipc import messages

SYMBOLS = 100
CONDITIONS = 1000
#: event time between two ticks
PACE_NS = 10_000
#: ticks between two fires of a symbol, at least
LEAST_DISTANCE = 801
#: every control is set; here the window of duplicates too, which is shorter than LEAST_DISTANCE ticks
FIRING_LIMITS = msgspec.structs.replace(LIMITS, duplicate_window_ms=1)
_STEPS = CONDITIONS // SYMBOLS // 2
_STEP, _NOISE = 200, 40
_ABOVE = {"up": 100, "down": 90}
_OF_TEN = 10
#: an order in USDT
_SIZE = 100
#: what must be true of an intent
EXPECTED = np.dtype([("tick_seq", "<i8"), ("condition_id", "<i8"), ("instrument", "<i8"), ("side", "<i8"), ("lots", "<i8"),
                     ("reference_price", "<i8"), ("fire_index", "<i8")])


def _levels() -> list[tuple[int, int, str]]:
    """(symbol, level in ticks, direction) of each condition, by its number in the plan."""
    return [(symbol, FIRST_PRICE + _STEP * step + _ABOVE[direction], direction)
            for symbol in range(SYMBOLS) for step in range(_STEPS) for direction in ("up", "down")]


def plan(plan_seq: int = 1, strategy: str = STRATEGIES[0]) -> messages.Plan:
    """The conditions as a strategist sends them: market orders of 100 USDT with stop, target, a bound on slippage and a clause."""
    conditions = [
        {"symbol": f"S{symbol}/USDT:USDT", "side": "buy" if direction == "up" else "sell", "level": f"{level / 100:.2f}", "direction": direction,
         "size": {"kind": "quote", "value": str(_SIZE)}, "confidence": 0.9, "why": "a level", "stop_bps": 100, "target_bps": 200,
         "max_slippage_bps": 50, "valid_for_s": 7 * 86_400, "max_fires": 1000, "clauses": [{"feature": "spread_bps", "op": "<", "value": 5.0}]}
        for symbol, level, direction in _levels()]
    return msgspec.convert({"type": "plan", "strategy": strategy, "due_ns": EVENT_NS, "next_due_ns": EVENT_NS, "plan_seq": plan_seq,
                            "conditions": conditions}, messages.Plan)


def ticks(count: int, seed: int = 5) -> Any:
    """`count` ticks (whole rounds of all symbols), not published yet."""
    check(count % SYMBOLS == 0, f"{count} ticks are no whole rounds of {SYMBOLS} symbols")
    random = np.random.default_rng(seed)
    rounds = count // SYMBOLS
    made = np.zeros(count, l.TICK)
    symbol = np.argsort(random.random((rounds, SYMBOLS)), axis=1).ravel()
    number = np.repeat(np.arange(rounds), SYMBOLS)
    phase, begin = random.integers(0, _OF_TEN, SYMBOLS)[symbol], random.integers(0, 2 * _STEPS, SYMBOLS)[symbol]
    steps = (begin + (number + _OF_TEN - phase) // _OF_TEN) % (2 * _STEPS)
    price = FIRST_PRICE + _STEP * np.minimum(steps, 2 * _STEPS - steps) + random.integers(-_NOISE, _NOISE + 1, count)
    made["instrument"] = symbol
    made["event_ns"] = EVENT_NS + np.arange(count, dtype=np.int64) * PACE_NS
    quotes = ((number - phase) % (_OF_TEN // 2) != 0) | (number == 0)
    price_ticks(made, price, quotes)
    return made


def expected(made: Any, plan_seq: int = 1, value_quanta: int = 1000) -> Any:
    """Every order that these ticks must make, in their order, by comparing each trade of a symbol with the one before it."""
    of_symbol = trades_by_symbol(made, SYMBOLS)
    quotes = [np.flatnonzero((made["kind"] == l.TICK_QUOTE) & (made["instrument"] == symbol)) for symbol in range(SYMBOLS)]
    parts = []
    for number, (symbol, level, direction) in enumerate(_levels()):
        up = direction == "up"
        places = crossings(*of_symbol[symbol], level, l.CROSS_UP if up else l.CROSS_DOWN)
        part = np.zeros(len(places), EXPECTED)
        quote = quotes[symbol][np.searchsorted(quotes[symbol], places) - 1]
        part["tick_seq"], part["condition_id"], part["instrument"] = places + 1, plan_seq << l.PLAN_SHIFT | number, symbol
        part["side"] = l.BUY if up else l.SELL
        part["reference_price"] = made["ask_price" if up else "price"][quote]
        part["lots"] = _SIZE * 10**8 // (part["reference_price"] * value_quanta)
        part["fire_index"] = np.arange(len(places))
        parts.append(part)
    return np.sort(np.concatenate(parts), order="tick_seq")


def check_intents(intents: Any, wanted: Any) -> None:
    """Each order is the one that the oracle names, and there is no other."""
    check(len(intents) == len(wanted), f"{len(intents)} orders were made, the oracle names {len(wanted)}")
    check((intents["kind"] == l.NEW).all() and (intents["purpose"] == l.ENTRY).all(), "every intent is a new entry")
    for name in EXPECTED.names or ():
        wrong = np.flatnonzero(intents[name] != wanted[name])
        check(not len(wrong), f"{len(wrong)} orders have another {name} than the oracle's, the first is order {wrong[:1]}")
