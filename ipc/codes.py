"""The codes of shared memory and of the journal: roles, modes, kinds, states, reasons, features; each number with its name.

A code that was ever written into a journal keeps its number; new ones are added at the end.
"""

from __future__ import annotations

from typing import Final

# ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────────────
#: role numbers are row numbers of `board.processes` and of every ring's reader table
RECORDER, GATEWAY, SNIPER, FEED, REFLECTION, STRATEGIST, WATCHDOG, SPARE_ROLE = range(8)
#: order in which roles become ready; stop is the reverse
ROLES: Final = ("recorder", "gateway", "sniper", "feed", "reflection", "strategist")
#: rows of the process table and readers of a ring
MAX_ROLES: Final = 8

#: process states in `PROCESS.state`
PROC_ABSENT, PROC_STARTING, PROC_READY, PROC_STOPPING, PROC_FINISHED, PROC_FAILED = range(6)
PROC_STATES: Final = ("absent", "starting", "healthy", "stopping", "finished", "failed")
#: stop words in `PROCESS_ORDERS.stop`: go on, stop in order (drain and persist), stop at once
STOP_NONE, STOP_DRAIN, STOP_NOW = range(3)
#: states of an activity, in `ACTIVITY.state`: those of its breaker, and ended by a fault that no pause mends
BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_STOPPED = range(4)
BREAKER_STATES: Final = ("closed", "open", "half_open", "stopped")
#: operating modes, least to most severe; the gate takes the most severe of the words
MODE_RUNNING, MODE_REDUCE_ONLY, MODE_HALTED, MODE_SAFE = range(4)
MODES: Final = ("running", "reduce_only", "halted", "safe")
#: rows of `board.modes`, one writer each
MODE_OF_WATCHDOG, MODE_OF_OPERATOR, MODE_OF_GATEWAY, MODE_OF_RECORDER, MODE_OF_REFLECTION = range(5)
MODE_WORDS: Final = 5

# ── codes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
#: tick kinds
TICK_TRADE, TICK_QUOTE, TICK_CLOCK, TICK_SESSION = 1, 2, 3, 4
#: tick flags: the buyer was the maker (the aggressor sold); not a market trade (excluded from triggers, features and fills);
#: on SESSION: the data ends here; on CLOCK: the feed was away, for `price` ns of event time, and `lots` ticks were not seen
FLAG_BUYER_IS_MAKER, FLAG_NOT_MARKET, FLAG_END, FLAG_GAP = 1, 2, 4, 8
#: instrument kinds: spot is long only; a linear perpetual goes both ways
KIND_SPOT, KIND_LINEAR_PERPETUAL = 1, 2
INSTRUMENT_KINDS: Final = {KIND_SPOT: "spot", KIND_LINEAR_PERPETUAL: "linear_perpetual"}
#: sides as signs, so that signed lots = side × lots
BUY, SELL = 1, -1
#: order types; IOC is a limit order that takes what it can at once and never rests
MARKET, LIMIT, IOC = 1, 2, 3
ORDER_TYPES: Final = {MARKET: "market", LIMIT: "limit", IOC: "ioc"}
#: price kinds; each is also the trigger and the feature of that number. Mid is held in half ticks (bid + ask)
PRICE_LAST, PRICE_BID, PRICE_ASK, PRICE_MID = range(4)
PRICE_KINDS: Final = ("last", "bid", "ask", "mid")
#: crossing directions
CROSS_UP, CROSS_DOWN = 0, 1
DIRECTIONS: Final = ("up", "down")
#: ways to say a size: quote currency quanta, lots, basis points of equity
SIZE_QUOTE, SIZE_BASE, SIZE_EQUITY_BPS = 1, 2, 3

#: order-ring record kinds
(NEW, CANCEL, AMEND, CANCEL_ALL, SWAPPED, REFUSED, TIMER, MISSED, CLOSED, LIFECYCLE, RELEASED, CONTEXT, AFTERWARDS, PAPER_OPENED,
 PAPER_CLOSED) = range(1, 16)
INTENT_KINDS: Final = {NEW: "NEW", CANCEL: "CANCEL", AMEND: "AMEND", CANCEL_ALL: "CANCEL_ALL", SWAPPED: "SWAPPED",
                       REFUSED: "REFUSED", TIMER: "TIMER", MISSED: "MISSED", CLOSED: "CLOSED", LIFECYCLE: "LIFECYCLE",
                       RELEASED: "RELEASED", CONTEXT: "CONTEXT", AFTERWARDS: "AFTERWARDS", PAPER_OPENED: "PAPER_OPENED",
                       PAPER_CLOSED: "PAPER_CLOSED"}
#: report-ring record kinds
(ACCEPTED, FILL, CANCELLED, REJECTED, EXPIRED, UNKNOWN, LOST, ADOPTED, FUNDING, BALANCE, ANNOUNCED) = range(1, 12)
REPORT_KINDS: Final = {ACCEPTED: "ACCEPTED", FILL: "FILL", CANCELLED: "CANCELLED", REJECTED: "REJECTED", EXPIRED: "EXPIRED",
                       UNKNOWN: "UNKNOWN", LOST: "LOST", ADOPTED: "ADOPTED", FUNDING: "FUNDING", BALANCE: "BALANCE",
                       ANNOUNCED: "ANNOUNCED"}
#: what the gateway does by itself while the sniper cannot, in `PROCESS.rescue`: nothing; cancel working entries; cancel everything and flatten
RESCUE_NONE, RESCUE_CANCEL, RESCUE_FLATTEN = range(3)
#: intent purposes
ENTRY, EXIT = 1, 2
#: exit reasons, in the order in which they are tested on one tick
EXIT_NONE, EXIT_DATA_GAP, EXIT_STOP, EXIT_TRAILING, EXIT_TARGET, EXIT_TIME, EXIT_OPERATOR, EXIT_FLATTEN, EXIT_END, EXIT_RUNG = range(10)
EXIT_REASONS: Final = ("none", "data_gap", "stop", "trailing", "target", "time", "operator", "flatten", "end_of_data", "rung")
#: position states: an entry is under way, it has begun to fill, it is done and protection is watched, protection or size is being changed,
#: an exit of all of it is under way; `flat` is what CLOSED leaves behind
POS_FLAT, POS_OPENING, POS_OPEN, POS_CLOSING, POS_MONITORING, POS_ADJUSTING = range(6)
POSITION_STATES: Final = ("flat", "opening", "open", "closing", "monitoring", "adjusting")
#: why a position is adjusted, in `LIFECYCLE.flags`: the stop went to break-even, the operator moved stop or target, a rung of the ladder is sold
ADJUST_NONE, ADJUST_BREAK_EVEN, ADJUST_OPERATOR, ADJUST_RUNG = range(4)
ADJUSTMENTS: Final = ("none", "break_even", "operator", "rung")
#: refusal codes of the risk gate; a code is an index into `sniper.refusals`
(REF_NONE, REF_NO_LIMIT, REF_MODE, REF_CONFIDENCE, REF_OPEN_POSITIONS, REF_POSITION_OPEN, REF_SYMBOL_EXPOSURE, REF_DAILY_LOSS,
 REF_DAILY_ENTRIES, REF_NO_QUOTE, REF_STALE, REF_CROSSED, REF_SPOT_SHORT, REF_SIZE_ZERO, REF_MIN_NOTIONAL, REF_MAX_LOTS, REF_CASH,
 REF_RING_RESERVE, REF_SLIPPAGE, REF_WORKING_FULL, REF_SYMBOL_CLOSED, REF_CLAUSE, REF_ORDER_VALUE, REF_COLLAR, REF_WINDOW_COLLAR,
 REF_GROSS_EXPOSURE, REF_EQUITY, REF_EMPTY_BOOK, REF_SELF_MATCH, REF_DUPLICATE, REF_MESSAGE_RATE, REF_PERMISSION, REF_REPEATED) = range(33)
REFUSALS: Final = ("none", "no_limit_configured", "mode", "confidence", "open_positions", "position_open", "symbol_exposure",
                   "daily_loss", "daily_entries", "no_quote", "stale", "crossed_book", "spot_short", "size_zero", "min_notional",
                   "max_lots", "no_funds", "ring_reserve", "slippage", "working_orders_full", "symbol_closed",
                   "clause", "order_value", "price_collar", "window_collar", "gross_exposure", "equity", "empty_book", "self_match",
                   "duplicate_order", "message_rate", "permission", "repeated_execution")
#: reject codes of a venue, in `REPORT.code`
(REJ_NONE, REJ_MIN_NOTIONAL, REJ_PRECISION, REJ_NO_FUNDS, REJ_UNKNOWN_SYMBOL, REJ_MAX_SIZE, REJ_DUPLICATE, REJ_NO_LIQUIDITY, REJ_REDUCE_ONLY,
 REJ_RATE_LIMIT, REJ_UNAVAILABLE) = range(11)
REJECTS: Final = ("none", "min_notional", "precision", "no_funds", "unknown_symbol", "max_size", "duplicate_id", "no_liquidity",
                  "reduce_only", "rate_limit", "unavailable")
#: order states in `GATEWAY_ORDER.state`; the machine itself is hotpath/orders.py
(ORD_NONE, ORD_SENDING, ORD_ACCEPTED, ORD_PARTLY_FILLED, ORD_FILLED, ORD_CANCELLED, ORD_REJECTED, ORD_EXPIRED, ORD_UNKNOWN,
 ORD_LOST) = range(10)
ORDER_STATES: Final = ("NONE", "SENDING", "ACCEPTED", "PARTLY_FILLED", "FILLED", "CANCELLED", "REJECTED", "EXPIRED", "UNKNOWN",
                       "LOST")
#: features by number; kernel/features.py has their formulas
(FEATURE_LAST, FEATURE_BID, FEATURE_ASK, FEATURE_MID, FEATURE_MICROPRICE, FEATURE_SPREAD, FEATURE_IMBALANCE, FEATURE_EMA_1, FEATURE_EMA_2,
 FEATURE_EMA_3, FEATURE_RETURN_1S, FEATURE_RETURN_10S, FEATURE_RETURN_60S, FEATURE_RETURN_300S, FEATURE_VOLATILITY_60S,
 FEATURE_VOLATILITY_300S, FEATURE_VOLUME_BURST, FEATURE_FLOW_IMBALANCE, FEATURE_HIGH_60S, FEATURE_LOW_60S, FEATURE_HIGH_300S,
 FEATURE_LOW_300S, FEATURE_HIGH_900S, FEATURE_LOW_900S, FEATURE_VWAP_DISTANCE, FEATURE_TRADES_PER_S, FEATURE_TRADE_AGE,
 FEATURE_QUOTE_AGE) = range(28)
FEATURES: Final = (
    "last", "bid", "ask", "mid", "microprice", "spread_bps", "imbalance", "ema_10s", "ema_60s", "ema_300s", "return_1s_bps", "return_10s_bps",
    "return_60s_bps", "return_300s_bps", "volatility_60s_bps", "volatility_300s_bps", "volume_burst", "flow_imbalance", "high_60s", "low_60s",
    "high_300s", "low_300s", "high_900s", "low_900s", "vwap_distance_bps", "trades_per_s", "trade_age_s", "quote_age_s")
#: what is journaled of the market at an entry, in the order of layout.ENTRY_CONTEXT
CONTEXT_FEATURES: Final = (
    FEATURE_SPREAD, FEATURE_IMBALANCE, FEATURE_RETURN_10S, FEATURE_RETURN_60S, FEATURE_RETURN_300S, FEATURE_VOLATILITY_60S,
    FEATURE_VOLATILITY_300S, FEATURE_VOLUME_BURST, FEATURE_FLOW_IMBALANCE, FEATURE_VWAP_DISTANCE, FEATURE_TRADES_PER_S, FEATURE_QUOTE_AGE)
#: what a condition waits for, `CONDITION.trigger`: a price or a feature of that number crosses a level, or a price comes back from its extreme
TRIGGER_TRAILING: Final = 28
#: triggers of an instrument, and keys of its thresholds: key = (instrument × TRIGGERS + trigger) × 2 + direction
TRIGGERS: Final = 32
#: operators of a clause, in `CONDITION.clause_op`; most clauses that a condition may have
OP_ABOVE, OP_BELOW = range(2)
OPERATORS: Final = (">", "<")
MAX_CLAUSES: Final = 6
#: `CONDITION.clause_other` of a clause that compares with a value
NO_FEATURE: Final = 255
#: rungs of a ladder of partial targets
MAX_RUNGS: Final = 4
#: those that are prices, in ticks
PRICE_FEATURES: Final = frozenset({"last", "bid", "ask", "mid", "microprice", "ema_10s", "ema_60s", "ema_300s", "high_60s", "low_60s",
                                   "high_300s", "low_300s", "high_900s", "low_900s"})
#: liquidity of a fill
LIQUIDITY_NONE, TAKER, MAKER = range(3)
#: `MISSED.code`: ticks were lapped; a tick was skipped because the sniper died of it; the feed was away
MISSED_LAPPED, MISSED_DEADLY, MISSED_FEED = range(3)
MISSED_CAUSES: Final = ("the sniper was too slow", "the sniper died of it twice", "the feed was away")
#: operator commands that reach the hot loop
CMD_CLOSE_POSITION, CMD_FLATTEN, CMD_CANCEL_ENTRIES, CMD_ADJUST, CMD_RELEASE = 1, 2, 3, 4, 5
#: `NEW.flags`: an exit may never increase the position
INTENT_REDUCE_ONLY = 1
