"""A Signal and its size become a Condition: the pattern says how it is entered, the regime what must hold besides.

| entry   | patterns                                          | trigger (to buy; to sell it is mirrored)                                            |
|---------|---------------------------------------------------|-------------------------------------------------------------------------------------|
| break   | range_breakout, squeeze, engulfing, three_outside,| last price crosses a tenth of an ATR (a tick at least) above the pattern's level    |
|         | marubozu                                          |                                                                                     |
| rebound | trend_pullback, failed_breakout, hammer,          | last price comes half an ATR up from its low since it was armed, while it is above  |
|         | shooting_star                                     | the pattern's level: below that the pattern has failed                              |
| return  | band_stretch                                      | last price crosses the band upwards                                                 |

Clauses: the spread is below `max_spread_bps` (where there are quotes: a recording of candles has none, and a clause on what is not there never
holds); a break outside of a trend wants more volume in 10 s than the last 5 minutes had on average; in volatile the last 5 minutes have moved by less
than an ATR. In a trend the stop trails at its distance once it has been earned.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from control.think.analysis.config import Analysis as Settings
from control.think.analysis.findings import Analysis, Pattern, PatternName
from control.think.analysis.signal import Signal
from control.think.analysis.sizing import Sized
from control.think.strategy import Clause, Condition, Facts, equity_bps

Entry = Literal["break", "rebound", "return"]
ENTRIES: Final[dict[PatternName, Entry]] = {
    "range_breakout": "break", "squeeze": "break", "engulfing": "break", "three_outside": "break", "marubozu": "break", "trend_pullback": "rebound",
    "failed_breakout": "rebound", "hammer": "rebound", "shooting_star": "rebound", "band_stretch": "return"}
#: of an ATR: how far behind its level a break is believed, and how much of it a rebound takes
BEYOND: Final = 0.1
REBOUND: Final = 0.5


def condition(signal: Signal, size: Sized, seen: Analysis, facts: Facts, settings: Settings, valid_for_s: int) -> Condition | str:
    """What is armed, or why nothing can be. `size` is at least 1 bps."""
    pattern = next((one for one in seen.trade.patterns if (one.name, one.side) == (signal.pattern, signal.side)), None)
    if pattern is None:
        return f"the candles show no {signal.pattern} to {signal.side}"
    atr_bps, tick = seen.trade.indicators.atr_bps, float(facts.tick_size)
    buy, entry = signal.side == "buy", ENTRIES[pattern.name]
    beyond = max(BEYOND * atr_bps / 1e4 * pattern.level, tick) if entry == "break" else 0.0
    price = pattern.level + beyond if buy else pattern.level - beyond
    if not (math.isfinite(price) and price >= tick and atr_bps > 0):
        return f"{price:g} is no price to wait for"
    text = facts.price_text(price, "up" if buy else "down")
    trails = signal.regime in ("trend_up", "trend_down")
    rebound_bps = max(1, min(10_000, round(REBOUND * atr_bps))) if entry == "rebound" else 0
    words = {"break": f"break of {text}", "rebound": f"{rebound_bps} bps back from the {'low' if buy else 'high'}, "
             f"{'above' if buy else 'below'} {text}", "return": f"return across {text}"}[entry]
    return Condition(
        symbol=signal.symbol, side=signal.side, direction="up" if buy else "down", size=equity_bps(size.size_bps), confidence=signal.confidence,
        level=None if rebound_bps else text, rebound_bps=rebound_bps, stop_bps=signal.stop_bps, target_bps=signal.target_bps,
        trail_activation_bps=signal.stop_bps if trails else 0, trail_distance_bps=signal.stop_bps if trails else 0,
        time_stop_s=signal.time_stop_s, valid_for_s=valid_for_s, clauses=_clauses(signal, entry, pattern, seen, settings),
        pattern=signal.pattern, regime=signal.regime, most_equity_bps=size.most_bps, why=f"{words}: {signal.why}; {size.words()}"[:500])


def _clauses(signal: Signal, entry: Entry, pattern: Pattern, seen: Analysis, settings: Settings) -> list[Clause]:
    clauses = []
    if not math.isnan(seen.spread_bps):
        clauses.append(Clause(feature="spread_bps", op="<", value=settings.max_spread_bps))
    if entry == "rebound":
        clauses.append(Clause(feature="last", op=">" if signal.side == "buy" else "<", value=pattern.level))
    if entry == "break" and signal.regime in ("range", "volatile"):
        clauses.append(Clause(feature="volume_burst", op=">", value=1.0))
    if signal.regime == "volatile":
        clauses.append(Clause(feature="volatility_300s_bps", op="<", value=round(seen.trade.indicators.atr_bps, 1)))
    return clauses
