"""Every byte that processes share: dtypes, codes and capacities. One file owns them all.

```
/dev/shm/trader-<instance>/
  board        modes ×5 │ processes ×8 │ activities │ cursors │ run    heartbeats, doorbells, stop words
  instruments  count │ instruments │ strategies                 append-only, ids never reused
  ticks        ring │ readers ×8 │ slots 64 B │ quotes │ intervals │ feed lines A/B
  orders       ring │ readers ×8 │ slots 128 B                  sniper → gateway, recorder   (lossless)
  reports      ring │ readers ×8 │ slots 128 B                  gateway → sniper, recorder   (lossless)
  sniper       commit A/B │ undo log │ outbox │ transactional rows │ histograms, counters
  conditions   table │ generations A/B │ rows │ thresholds, index, added, watched: A/B │ params A/B │ commands
  gateway      gateway header │ orders │ venue quotes │ the quote before the running tick

a slot:  ┌─────┬──────────────────────────────┐  writer: seq = BUSY, release fence, payload, release-store seq
         │ seq │ payload, word aligned        │  reader: acquire seq, copy words, acquire fence, seq again
         └─────┴──────────────────────────────┘
```

Every structure has one writer, named at its dtype. Sequences start at 1; 0 means "none yet". Prices are int64 ticks, sizes int64
lots, cash int64 quanta of the account currency. A dtype has explicit little-endian fields without padding; asserts at the end
relate the sizes to words, cache lines and capacities.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ipc.codes import *  # noqa: F403  (one name for everything that processes share: `layout`)

#: schema of everything in this file; part of every segment's header, bumped with any change of a layout
LAYOUT_VERSION: Final = 13
#: first word of every segment, "TRADERSM" in little-endian ASCII
MAGIC: Final = int.from_bytes(b"TRADERSM", "little")
#: bytes of a cache line; rows with different writers never share one
CACHE_LINE: Final = 64
#: slot sequence while its payload is being written
BUSY: Final = -1
#: instrument id of a tick that belongs to no instrument (CLOCK, SESSION)
NO_INSTRUMENT: Final = 0xFFFF

# ── capacities ───────────────────────────────────────────────────────────────────────────────────────────────────────
#: order- and report-ring slots
RING_SLOTS: Final = 1 << 13
#: intents a (sub-)step may make
OUTBOX_SLOTS: Final = 64
#: strategies; a strategy id is a bit of `INSTRUMENT_STATE.open_mask`
MAX_STRATEGIES: Final = 4
#: sniper's working orders
MAX_WORKING: Final = 256
#: rows that one step may touch
UNDO_LINES: Final = 8192
#: activities of a process whose errors are kept on the board: the strategist has each strategy, its advice, and the models that are asked
MAX_ACTIVITIES: Final = 16
#: conditions added since the last merge of the thresholds
MAX_ADDED: Final = 4096
#: trailing entries of one instrument: each is looked at with every tick of its price
MAX_TRAILING: Final = 64
#: closed trades whose price afterwards is still to be told; of more than these within 15 minutes the oldest is not told
MAX_AFTERMATH: Final = 512
#: first bit of `INSTRUMENT_STATE.open_mask` that is a paper trade of a strategy, not a position
PAPER_BIT: Final = 32
#: operator commands waiting for the hot loop
MAX_COMMANDS: Final = 64
#: the gateway's order rows: one for every slot of the order ring, so that none is used again while a record that it belongs to may have to be handled
#: once more; behind them those of the orders that it makes itself
OWN_ORDER_ROWS: Final = 1024
#: a condition id is plan_seq << PLAN_SHIFT | index in what was journaled under that number: a plan, or a part of one
PLAN_SHIFT: Final = 20
#: latency histogram: sub-buckets per power of two, and their count (to 2^40 ns)
HIST_SUB: Final = 32
HIST_BUCKETS: Final = 41 * HIST_SUB


def _record(*fields: tuple[str, str] | tuple[str, str, tuple[int, ...]]) -> np.dtype[Any]:
    return np.dtype(list(fields))


# ── board: modes, heartbeats, doorbells, cursors ─────────────────────────────────────────────────────────────────────
#: one mode word a line; writer: the row's owner
MODE = _record(("mode", "<i8"), ("since_wall_ns", "<i8"), ("cause", "S48"))
#: writer of each line: the process itself │ the watchdog │ shared doorbell word (atomic) │ the process (metrics)
PROCESS = _record(
    # line 0: the process
    ("pid", "<i8"), ("state", "<i8"), ("beat_ns", "<i8"), ("control_beat_ns", "<i8"), ("progress", "<i8"), ("started_ns", "<i8"),
    ("error_count", "<i8"), ("last_event_ns", "<i8"),
    # line 1: the watchdog
    # (fault: 1 where the last life hung or crashed by itself; rescue: RESCUE_*, to the gateway)
    ("stop", "<i8"), ("restarts", "<i8"), ("incarnation", "<i8"), ("fault", "<i8"), ("rescue", "<i8"), ("_watchdog", "S24"),
    # line 2: doorbell; the process sets 1 before it sleeps, whoever rings it sets 0 and wakes the futex
    ("bell", "<i4"), ("_bell", "S60"),
    # lines 3–4: what the role counts, see METRICS
    ("metrics", "<i8", (16,)),
)
#: what each role counts in `PROCESS.metrics`, by index
METRICS: Final[dict[int, tuple[str, ...]]] = {
    RECORDER: ("orders_recorded", "reports_recorded", "commits", "last_commit_us", "plans", "events", "disk_free_mb"),
    GATEWAY: ("intents", "orders_sent", "fills", "rejects", "unknown", "ticks_matched", "last_commit_us"),
    SNIPER: ("ticks", "intents", "lost", "plans_armed", "plans_refused", "commands"),
    FEED: ("ticks", "frames", "frames_passed_over", "frames_bad", "records", "connections", "bad_price", "crossed", "time_back",
           "gaps", "gap_ticks"),
    REFLECTION: ("trades_applied", "updates", "last_update_us", "last_trade_ns", "coins", "coins_adapted", "version", "adaptations",
                 "trades_since_look"),
    STRATEGIST: ("ticks", "plans", "conditions", "strategy_errors", "warmup_left_s", "last_plan_ms", "last_plan_ns",
                 "ticks_lost"),
}
#: something that a process does and that may fail: its errors and its breaker; writer: the process, row = role × MAX_ACTIVITIES + k. "" = free.
#: Times are of the activity's own clock (event time in the strategist, monotonic elsewhere); `text` says what its last failure was
ACTIVITY = _record(
    ("name", "S40"), ("state", "<i8"), ("failures", "<i8"), ("opens", "<i8"),
    ("since_ns", "<i8"), ("until_ns", "<i8"), ("failed_ns", "<i8"), ("asked_ns", "<i8"),
    ("errors", "<i8"), ("errors_per_h", "<i8"), ("recoveries_per_h", "<i8"), ("wall_ns", "<i8"),
    ("text", "S192"),
)
#: durable and barrier cursors, one line each so that each has one writer
CURSORS = _record(
    # line 0, recorder: what is durable in LMDB of both rings, the incarnation it counted up, and the last venue event in the journal when
    # it began (what the venue has beyond it is published anew); open positions and armed conditions that it resumed with
    ("durable_orders", "<i8"), ("durable_reports", "<i8"), ("incarnation", "<i8"), ("journal_ok", "<i8"),
    ("journaled_venue_seq", "<i8"), ("resumed_positions", "<i8"), ("resumed_conditions", "<i8"), ("_recorder", "S8"),
    # line 1, reflection: order-ring sequence up to which every closed trade is in the knowledge store
    ("learned_orders", "<i8"), ("_reflection", "S56"),
    # line 2, sniper's main thread: event time from which a lockstep tick waits for the next plan (0: never waits)
    ("plan_horizon_ns", "<i8"), ("_sniper", "S56"),
)
#: facts of the run; writer: the watchdog, before any child starts
RUN = _record(("instance_number", "<i8"), ("lockstep", "<i8"), ("wait_strategy", "<i8"), ("watchdog_pid", "<i8"),
              ("initial_cash", "<i8"), ("strategies", "<i8"), ("instruments", "<i8"), ("started_wall_ns", "<i8"))
#: wait strategies in `RUN.wait_strategy`
WAIT_SPIN, WAIT_FUTEX, WAIT_ADAPTIVE = range(3)
WAIT_STRATEGIES: Final = ("spin", "futex", "adaptive")

# ── instruments ──────────────────────────────────────────────────────────────────────────────────────────────────────
#: writer: the watchdog at start; append-only. Sizes are mantissa × 10^exponent. `value_quanta` = quanta of one tick × one lot.
INSTRUMENT = _record(
    ("symbol", "S32"), ("venue_symbol", "S32"), ("base", "S16"), ("quote", "S16"), ("settle", "S16"),
    ("kind", "<i8"), ("tick_mantissa", "<i8"), ("tick_exponent", "<i8"), ("lot_mantissa", "<i8"), ("lot_exponent", "<i8"),
    ("multiplier", "<i8"), ("value_quanta", "<i8"), ("min_notional", "<i8"), ("max_lots", "<i8"), ("max_price", "<i8"),
    ("maker_fee_e8", "<i8"), ("taker_fee_e8", "<i8"), ("leverage", "<i8"), ("quantum_exponent", "<i8"), ("admitted", "<i8"),
    # bit s: strategy s may open positions here
    ("permitted", "<i8"), ("_pad", "S16"),
)
#: strategy names by id
STRATEGY = _record(("name", "S64"))

# ── rings ────────────────────────────────────────────────────────────────────────────────────────────────────────────
#: a ring's header; writer: the ring's writer. `head` is the last published sequence.
RING = _record(("head", "<i8"), ("capacity", "<i8"), ("gated", "<i8"), ("_pad", "S40"))
#: a ring's reader, row = role; writer: that reader. cursor = last sequence it has finished with.
READER = _record(("cursor", "<i8"), ("active", "<i8"), ("_pad", "S48"))
#: a tick; writer: feed. QUOTE: price, lots are the bid and its size. exchange_ns = event_ns + 1000 × exchange_offset_us.
TICK = _record(
    ("seq", "<i8"), ("event_ns", "<i8"), ("publish_ns", "<i8"), ("instrument", "<u2"), ("kind", "u1"), ("flags", "u1"),
    ("exchange_offset_us", "<i4"), ("price", "<i8"), ("lots", "<i8"), ("ask_price", "<i8"), ("ask_lots", "<i8"),
)
#: an order-ring record; writer: sniper's hot loop. See TRADE for the CLOSED overlay.
INTENT = _record(
    ("seq", "<i8"), ("event_ns", "<i8"), ("tick_seq", "<i8"), ("report_seq", "<i8"),
    ("kind", "u1"), ("purpose", "u1"), ("side", "i1"), ("order_type", "u1"), ("instrument", "<u2"), ("strategy", "<u2"),
    ("lots", "<i8"), ("limit_price", "<i8"), ("reference_price", "<i8"),
    ("condition_id", "<i8"), ("position_id", "<i8"), ("order_seq", "<i8"),
    ("plan_seq", "<i4"), ("generation", "<i4"), ("params_epoch", "<i4"), ("fire_index", "<i4"),
    ("leg", "<u2"), ("attempt", "<u2"), ("code", "<u2"), ("flags", "<u2"), ("value", "<i8"), ("publish_ns", "<i8"),
)
#: a CLOSED record: one round trip of a position. Prices are volume-weighted in ticks, rounded to nearest; cash in quanta, fees > 0.
TRADE = _record(
    ("seq", "<i8"), ("event_ns", "<i8"), ("tick_seq", "<i8"), ("report_seq", "<i8"),
    ("kind", "u1"), ("purpose", "u1"), ("side", "i1"), ("order_type", "u1"), ("instrument", "<u2"), ("strategy", "<u2"),
    ("lots", "<i8"), ("exit_price", "<i8"), ("entry_price", "<i8"),
    ("condition_id", "<i8"), ("position_id", "<i8"), ("opened_ns", "<i8"),
    ("plan_seq", "<i4"), ("generation", "<i4"), ("params_epoch", "<i4"), ("fire_index", "<i4"),
    ("leg", "<u2"), ("attempt", "<u2"), ("exit_reason", "<u2"), ("flags", "<u2"), ("pnl", "<i8"), ("fees", "<i8"),
)
#: a CONTEXT record: the features of CONTEXT_FEATURES at an entry's first fill, in two parts; NaN where one has no value
ENTRY_CONTEXT = _record(
    ("seq", "<i8"), ("event_ns", "<i8"), ("tick_seq", "<i8"), ("report_seq", "<i8"),
    ("kind", "u1"), ("purpose", "u1"), ("side", "i1"), ("order_type", "u1"), ("instrument", "<u2"), ("strategy", "<u2"),
    ("features", "<f4", (6,)), ("condition_id", "<i8"), ("position_id", "<i8"), ("order_seq", "<i8"),
    ("plan_seq", "<i4"), ("generation", "<i4"), ("params_epoch", "<i4"), ("fire_index", "<i4"), ("more_features", "<f4", (6,)),
)
#: a report-ring record; writer: gateway. Lots and quote are cumulative over the order; `last_*` and `fee` belong to this fill.
REPORT = _record(
    ("seq", "<i8"), ("event_ns", "<i8"), ("venue_seq", "<i8"), ("order_seq", "<i8"),
    ("kind", "u1"), ("code", "u1"), ("side", "i1"), ("liquidity", "u1"), ("instrument", "<u2"), ("fee_currency", "<u2"),
    ("cum_lots", "<i8"), ("cum_quote", "<i8"), ("last_lots", "<i8"), ("last_price", "<i8"), ("fee", "<i8"),
    ("trade_id", "<i8"), ("venue_order_id", "<i8"), ("tick_seq", "<i8"), ("balance", "<i8"), ("publish_ns", "<i8"), ("spare", "<i8"),
)

# ── ticks segment beside the ring ────────────────────────────────────────────────────────────────────────────────────
#: newest quote and trade of an instrument; writer: feed; seqlock word `version` (odd while written)
QUOTE = _record(("version", "<i8"), ("event_ns", "<i8"), ("bid", "<i8"), ("bid_lots", "<i8"), ("ask", "<i8"), ("ask_lots", "<i8"),
                ("last", "<i8"), ("last_lots", "<i8"))
#: what the sniper has not yet taken of an instrument; writer: feed
INTERVAL = _record(("version", "<i8"), ("first_seq", "<i8"), ("last_seq", "<i8"), ("high", "<i8"), ("low", "<i8"), ("_pad", "S24"))
#: where the feed is in its source; line = seq & 1; a respawned feed goes on behind the line whose seq is the ring's head
FEED_LINE = _record(("seq", "<i8"), ("event_ns", "<i8"), ("position", "<i8"), ("records", "<i8"), ("_pad", "S32"))

# ── sniper ───────────────────────────────────────────────────────────────────────────────────────────────────────────
#: selector of the commit lines; line = number & 1; the release store of `number` is the commit
COMMIT = _record(("number", "<i8"), ("_pad", "S56"))
#: `ticks`: how many were stepped, each counted in the step itself; with those that MISSED records tell of as lapped or deadly they are `tick_seq`
COMMIT_LINE = _record(
    ("tick_seq", "<i8"), ("report_seq", "<i8"), ("command_seq", "<i8"), ("intent_seq", "<i8"), ("event_ns", "<i8"),
    ("generation", "<i4"), ("params_epoch", "<i4"), ("outbox_len", "<i4"), ("resume_index", "<i4"), ("ticks", "<i8"),
)
#: undo log header: lines saved in the step that began on commit `number`; a log of an older number is void. `tick_seq` is the tick under way,
#: 0 while reports and commands are applied; the step that killed the sniper last is the one on commit `died_on`, and it did so `deaths` times
UNDO = _record(("number", "<i8"), ("count", "<i8"), ("tick_seq", "<i8"), ("died_on", "<i8"), ("deaths", "<i8"), ("_pad", "S24"))
#: a cache line of the transactional region; where a saved one belongs is in `undo_at`
LINE = _record(("words", "<i8", (8,)))
#: the sniper's account, one row; cash and equity in quanta
ACCOUNT = _record(
    ("cash", "<i8"), ("reserved", "<i8"), ("equity", "<i8"), ("peak_equity", "<i8"), ("max_drawdown_e6", "<i8"),
    ("day", "<i8"), ("day_start_equity", "<i8"), ("entries_today", "<i8"),
    ("open_positions", "<i8"), ("trades_closed", "<i8"), ("realised_pnl", "<i8"), ("fees", "<i8"), ("event_ns", "<i8"),
    ("wins", "<i8"), ("working_orders", "<i8"), ("initial_equity", "<i8"),
    # when the messages sent so far would have been sent at the permitted rate (event ns)
    # bit s: strategy s has repeated itself too often, and makes no entry until a person releases it
    ("messages_due_ns", "<i8"), ("latched", "<i8"),
    # when the entries of each strategy so far would have been made at the permitted rate (event ns)
    ("entries_due_ns", "<i8", (MAX_STRATEGIES,)), ("paper_positions", "<i8"), ("papers_today", "<i8"),
)
#: an instrument as the sniper sees it; prices in ticks, mid in half ticks, 0 = not seen in this session
INSTRUMENT_STATE = _record(
    ("last", "<i8"), ("bid", "<i8"), ("ask", "<i8"), ("bid_lots", "<i8"), ("ask_lots", "<i8"), ("last_event_ns", "<i8"),
    ("trade_ns", "<i8"), ("quote_ns", "<i8"),
    ("prev_last", "<i8"), ("prev_bid", "<i8"), ("prev_ask", "<i8"), ("prev_mid", "<i8"), ("open_mask", "<i8"),
    ("exposure_lots", "<i8"), ("working_lots", "<i8"), ("closed_to_entries", "<i4"),
    ("watched", "<i4"),  # features whose value at the last tick is in `feature_before`, as bits
)
#: an instrument's features: what has traded in the bucket under way of each window, and sums over its closed buckets; 0 = no price
FEATURE = _record(
    # line 0
    ("bucket", "<i8"), ("since", "<i8"), ("close", "<i8"), ("ema_ns", "<i8"), ("ema_1", "<f8"), ("ema_2", "<f8"), ("ema_3", "<f8"), ("_pad", "S8"),
    # line 1
    ("lots_10", "<i8"), ("signed_10", "<i8"), ("notional_10", "<i8"), ("trades_10", "<i8"), ("high_10", "<i8"), ("low_10", "<i8"), ("_pad1", "S16"),
    # lines 2–5
    ("lots_60", "<i8"), ("signed_60", "<i8"), ("notional_60", "<i8"), ("high_60", "<i8"), ("low_60", "<i8"),
    ("lots_300", "<i8"), ("notional_300", "<i8"), ("high_300", "<i8"), ("low_300", "<i8"), ("high_900", "<i8"), ("low_900", "<i8"),
    ("lots_in_10", "<i8"), ("trades_in_10", "<i8"),
    ("squares_in_60", "<i8"), ("lots_in_60", "<i8"), ("signed_in_60", "<i8"), ("high_in_60", "<i8"), ("low_in_60", "<i8"),
    ("squares_in_300", "<i8"), ("lots_in_300", "<i8"), ("notional_in_300", "<i8"), ("high_in_300", "<i8"), ("low_in_300", "<i8"),
    ("high_in_900", "<i8"), ("low_in_900", "<i8"), ("_pad2", "S56"),
)
#: closed buckets of the windows of 1, 10, 60, 300 and 900 s, [instruments, FEATURE_BUCKETS]: what is closed together lies together
FEATURE_BUCKETS: Final = 64
BUCKET_1 = _record(("close", "<i8"))
BUCKET_10 = _record(("close", "<i8"), ("lots", "<i8"), ("trades", "<i8"), ("_pad", "S8"))
BUCKET_60 = _record(("close", "<i8"), ("square", "<i8"), ("lots", "<i8"), ("signed", "<i8"), ("high", "<i8"), ("low", "<i8"), ("_pad", "S16"))
BUCKET_300 = _record(("close", "<i8"), ("square", "<i8"), ("lots", "<i8"), ("notional", "<i8"), ("high", "<i8"), ("low", "<i8"), ("_pad", "S16"))
BUCKET_900 = _record(("high", "<i8"), ("low", "<i8"))
BUCKETS: Final = {"buckets_1": BUCKET_1, "buckets_10": BUCKET_10, "buckets_60": BUCKET_60, "buckets_300": BUCKET_300, "buckets_900": BUCKET_900}
#: a position of (instrument, strategy), row = instrument × MAX_STRATEGIES + strategy
POSITION = _record(
    ("position_id", "<i8"), ("state", "<i8"), ("side", "<i8"), ("lots", "<i8"), ("entry_lots", "<i8"), ("entry_quote", "<i8"),
    ("exit_lots", "<i8"), ("exit_quote", "<i8"),
    ("cost", "<i8"), ("fees", "<i8"), ("realised", "<i8"), ("stop_price", "<i8"), ("target_price", "<i8"), ("best_price", "<i8"),
    ("opened_ns", "<i8"), ("deadline_ns", "<i8"),
    ("stop_bps", "<i4"), ("target_bps", "<i4"), ("trail_activation_bps", "<i4"), ("trail_distance_bps", "<i4"),
    ("time_stop_ns", "<i8"), ("entry_seq", "<i8"), ("exit_seq", "<i8"), ("exit_working_lots", "<i8"), ("condition_id", "<i8"),
    ("retry_ns", "<i8"),
    ("plan_seq", "<i4"), ("generation", "<i4"), ("fire_index", "<i4"), ("attempt", "<i4"), ("exit_reason", "<i2"),
    ("twin_stop_pct", "u1"), ("twin_target_pct", "u1"),  # see CONDITION
    ("strategy", "<u2"), ("instrument", "<u2"), ("trail_activation_price", "<i8"),
    # the last entry order, which outlives its position: when, how much, at which reference price
    ("last_entry_ns", "<i8"), ("last_entry_lots", "<i8"), ("last_entry_price", "<i8"),
    ("open_index", "<i8"),  # where the row is in `open_rows`
    # line 4: ladder (distance from the entry, share of it), the rung that is being sold, what was moved, and at which tick
    ("rung_bps", "<i4", (MAX_RUNGS,)), ("rung_share_e4", "<i4", (MAX_RUNGS,)), ("rung_seq", "<i8"), ("adjusted_tick", "<i8"),
    ("rungs", "<i4"), ("rungs_done", "<i4"), ("break_even_bps", "<i4"), ("adjustments", "<i4"),
)
#: closed trades whose price afterwards is to be told: how many there ever were, of how many the first and the second instant is over
AFTER = _record(("closed", "<i8"), ("told", "<i8", (2,)), ("_pad", "S40"))
#: one of them, row = its number % MAX_AFTERMATH
AFTERMATH = _record(("position_id", "<i8"), ("closed_ns", "<i8"), ("exit_price", "<i8"), ("condition_id", "<i8"), ("instrument", "<u2"),
                    ("strategy", "<u2"), ("side", "i1"), ("exit_reason", "u1"), ("_pad", "S2"), ("plan_seq", "<i4"), ("fire_index", "<i4"),
                    ("_pad2", "S16"))
#: an order that has no terminal report yet; order_seq 0 = free
WORKING = _record(
    ("order_seq", "<i8"), ("position_row", "<i8"), ("side", "i1"), ("purpose", "u1"), ("order_type", "u1"), ("unknown", "u1"), ("_pad", "S4"),
    ("lots", "<i8"), ("cum_lots", "<i8"), ("cum_quote", "<i8"), ("reserved", "<i8"), ("event_ns", "<i8"),
    ("last_trade_id", "<i8"), ("limit_price", "<i8"), ("condition_id", "<i8"), ("position_id", "<i8"), ("cancel_seq", "<i8"),
    ("valid_until_ns", "<i8"), ("_pad2", "S16"),
)
#: what a condition has done, kept apart from its row; valid while condition_id equals the row's. `group_done` names the group that has fired, in the
#: state of its first member
CONDITION_STATE = _record(("condition_id", "<i8"), ("next_allowed_ns", "<i8"), ("fired", "<i4"), ("refused", "<i4"),
                          ("last_refusal", "<i4"), ("last_tick", "<i4"), ("group_done", "<i8"),
                          # of a trailing entry: lowest (to buy) or highest price since it was armed
                          ("extreme", "<i8"), ("spare", "<i8", (2,)))

# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────
#: the table's header; writer: sniper's main thread. Line of generation g is g & 1; params of epoch e are e & 1; slots from `slots_used` on never
#: held a condition.
TABLE = _record(("generation", "<i8"), ("params_epoch", "<i8"), ("command_seq", "<i8"), ("slots_used", "<i8"), ("_pad", "S32"))
#: what a generation uses: which half of thresholds and index, how many of `added` (half g & 1); how many conditions are armed; of which plan
GENERATION = _record(("half", "<i8"), ("added", "<i8"), ("armed", "<i8"), ("plan_seq", "<i8"), ("_pad", "S32"))
#: an armed condition, in a slot that is its own (and its CONDITION_STATE's) until nothing in use names it. Bps fields: 0 = none. It belongs to the
#: generations from `since` on and, where `removed` is not 0, before `removed`.
CONDITION = _record(
    ("condition_id", "<i8"), ("level", "<i8"), ("valid_from_ns", "<i8"), ("valid_until_ns", "<i8"), ("cooldown_ns", "<i8"),
    ("time_stop_ns", "<i8"), ("size_value", "<i8"), ("limit_price", "<i8"),
    # line 1
    ("instrument", "<u2"), ("strategy", "<u2"), ("trigger", "u1"), ("direction", "u1"), ("side", "i1"), ("order_type", "u1"),
    ("size_kind", "<i4"), ("max_fires", "<i4"), ("confidence_e4", "<i4"), ("stop_bps", "<i4"), ("target_bps", "<i4"),
    ("trail_activation_bps", "<i4"), ("trail_distance_bps", "<i4"), ("max_slippage_bps", "<i4"), ("plan_seq", "<i4"),
    ("arming", "<i4"), ("group_slot", "<i4"), ("clauses", "<i4"), ("rebound_bps", "<i4"), ("break_even_bps", "<i4"),
    # line 2: the group of which one fires: condition id of its first member, 0 = none; absolute protection, 0 = none; ladder of partial targets
    ("group_id", "<i8"), ("stop_price", "<i8"), ("target_price", "<i8"), ("since", "<i8"), ("removed", "<i8"),
    ("rung_bps", "<i4", (MAX_RUNGS,)), ("rungs", "<i4"), ("price_kind", "u1"),
    ("paper", "u1"),  # 1: followed on paper, no order is made
    # distance of its twin's stop and target from the entry, in percent of its own; 0: the same. Where both are 0 it has no twin
    ("twin_stop_pct", "u1"), ("twin_target_pct", "u1"),
    # lines 3–4: clause k is feature op value, or feature op other feature (`clause_other` < NO_FEATURE)
    ("clause_value", "<f8", (6,)), ("rung_share_e4", "<i4", (MAX_RUNGS,)),
    ("clause_feature", "u1", (6,)), ("clause_op", "u1", (6,)), ("clause_other", "u1", (6,)), ("_pad2", "S46"),
)
#: where a condition fires, sorted by (key, signed level, arming): signed = level upwards, −level downwards, so that a moving price passes them in
#: rising order; a feature's level is the order-preserving integer of its float
THRESHOLD = _record(("signed", "<i8"), ("slot", "<i4"), ("arming", "<i4"))
#: the same of conditions that are not merged yet
ADDED = _record(("key", "<i8"), ("signed", "<i8"), ("slot", "<i4"), ("arming", "<i4"))
#: first threshold of a key; the next entry is its end
INDEX = np.dtype("<i8")
#: limits by epoch; writer: sniper's main thread. −1 = not configured, which refuses.
PARAMS = _record(
    ("max_open_positions", "<i8"), ("max_symbol_exposure_bps", "<i8"), ("daily_loss_bps", "<i8"), ("max_entries_per_day", "<i8"),
    ("min_confidence_e4", "<i8"), ("ring_reserve", "<i8"), ("max_quote_age_ns", "<i8"), ("exit_retry_ns", "<i8"),
    ("session_gap_ns", "<i8"), ("taker_slippage_bps", "<i8"),
    ("max_order_value", "<i8"), ("price_collar_bps", "<i8"), ("window_collar_bps", "<i8"), ("max_gross_exposure_bps", "<i8"),
    ("min_equity", "<i8"), ("duplicate_window_ns", "<i8"), ("message_interval_ns", "<i8"), ("message_burst_ns", "<i8"),
    ("repeat_interval_ns", "<i8"), ("repeat_window_ns", "<i8"), ("max_adjustments", "<i8"), ("exit_collar_bps", "<i8"), ("spare", "<i8", (2,)),
)
#: an operator command for the hot loop, slot = seq % MAX_COMMANDS; writer: sniper's main thread
COMMAND = _record(("seq", "<i8"), ("command", "<i8"), ("argument", "<i8"), ("reason", "<i8"), ("stop_price", "<i8"), ("target_price", "<i8"),
                  ("_pad", "S16"))

# ── gateway ──────────────────────────────────────────────────────────────────────────────────────────────────────────
#: gateway header: taken = last order-ring sequence handled; venue_seq = last venue event published as a report; tick_seq, event_ns = last
#: tick of which everything is published
GATEWAY_HEADER = _record(("taken", "<i8"), ("venue_seq", "<i8"), ("tick_seq", "<i8"), ("event_ns", "<i8"), ("own_orders", "<i8"), ("_pad", "S24"))
#: an order at the gateway, its row by hotpath.orders.row_of; `state` is stored last, with release
GATEWAY_ORDER = _record(
    ("order_seq", "<i8"), ("state", "<i8"), ("cum_lots", "<i8"), ("cum_quote", "<i8"), ("lots", "<i8"), ("sent_ns", "<i8"),
    ("instrument", "<u2"), ("side", "i1"), ("purpose", "u1"), ("strategy", "<u2"), ("order_type", "u1"), ("attempts", "u1"),
    ("event_ns", "<i8"),
)


class Region:
    """A named array in a segment: `count` rows of `dtype`, starting at a cache line."""

    def __init__(self, name: str, dtype: np.dtype[Any], count: int) -> None:
        self.name, self.dtype, self.count = name, dtype, count

    @property
    def nbytes(self) -> int:
        """Bytes it takes, rounded up to whole cache lines."""
        return -(-self.dtype.itemsize * self.count // CACHE_LINE) * CACHE_LINE


def segments(ticks: int, instruments: int, conditions: int) -> dict[str, tuple[Region, ...]]:
    """All segments with their regions for given capacities (`ticks` slots: a power of two; rows of the two tables)."""
    positions = instruments * MAX_STRATEGIES
    # what a plan replaces keeps its slots until the hot loop has gone over to the new one: twice as many slots as conditions
    keys = instruments * TRIGGERS * len(DIRECTIONS) + 1

    def ring(dtype: np.dtype[Any], slots: int) -> tuple[Region, ...]:
        return Region("ring", RING, 1), Region("readers", READER, MAX_ROLES), Region("slots", dtype, slots)

    return {
        "board": (Region("modes", MODE, MODE_WORDS), Region("processes", PROCESS, MAX_ROLES),
                  Region("activities", ACTIVITY, MAX_ROLES * MAX_ACTIVITIES), Region("cursors", CURSORS, 1), Region("run", RUN, 1)),
        "instruments": (Region("instruments", INSTRUMENT, instruments), Region("strategies", STRATEGY, MAX_STRATEGIES)),
        "ticks": (*ring(TICK, ticks), Region("quotes", QUOTE, instruments), Region("intervals", INTERVAL, instruments),
                  Region("feed_lines", FEED_LINE, 2)),
        "orders": ring(INTENT, RING_SLOTS),
        "reports": ring(REPORT, RING_SLOTS),
        "sniper": (Region("commit", COMMIT, 1), Region("commit_lines", COMMIT_LINE, 2), Region("undo", UNDO, 1),
                   Region("undo_at", np.dtype("<i8"), UNDO_LINES), Region("undo_lines", LINE, UNDO_LINES), Region("outbox", INTENT, OUTBOX_SLOTS),
                   # transactional: every write is preceded by its line in the undo log
                   Region("account", ACCOUNT, 1), Region("instrument_states", INSTRUMENT_STATE, instruments),
                   Region("positions", POSITION, positions), Region("working", WORKING, MAX_WORKING),
                   # rows of the positions that are not flat, ACCOUNT.open_positions of them
                   Region("open_rows", np.dtype("<i8"), positions),
                   Region("condition_states", CONDITION_STATE, 2 * conditions), Region("features", FEATURE, instruments),
                   *(Region(name, dtype, instruments * FEATURE_BUCKETS) for name, dtype in BUCKETS.items()),
                   Region("feature_before", np.dtype("<f8"), instruments * TRIGGERS),
                   # trades on paper, of the same (instrument, strategy) as the positions; closed trades whose price afterwards is to be told
                   Region("papers", POSITION, positions), Region("after", AFTER, 1), Region("aftermath", AFTERMATH, MAX_AFTERMATH),
                   # not transactional: statistics
                   Region("refusals", np.dtype("<i8"), 64), Region("decision_hist", np.dtype("<i8"), HIST_BUCKETS),
                   Region("tick_to_intent_hist", np.dtype("<i8"), HIST_BUCKETS)),
        "conditions": (Region("table", TABLE, 1), Region("generations", GENERATION, 2), Region("rows", CONDITION, 2 * conditions),
                       Region("thresholds", THRESHOLD, 2 * conditions), Region("index", INDEX, 2 * keys), Region("added", ADDED, 2 * MAX_ADDED),
                       Region("watched", np.dtype("<i8"), 2 * instruments), Region("params", PARAMS, 2),
                       Region("commands", COMMAND, MAX_COMMANDS)),
        "gateway": (Region("gateway", GATEWAY_HEADER, 1), Region("gateway_orders", GATEWAY_ORDER, RING_SLOTS + OWN_ORDER_ROWS),
                    Region("venue_quotes", QUOTE, instruments), Region("quote_before", QUOTE, 1)),
    }


#: regions of the sniper's segment that belong to the step's transaction
TRANSACTIONAL: Final = ("account", "instrument_states", "positions", "working", "condition_states", "features", *BUCKETS, "feature_before",
                         "open_rows", "papers", "after", "aftermath")
#: bytes before the first region of a segment: magic, version, layout hash, size, capacities
HEADER_BYTES: Final = 256


def offset(dtype: np.dtype[Any], field: str) -> int:
    """Byte offset of a field in a row, for the atomics."""
    assert dtype.fields is not None
    return int(dtype.fields[field][1])


def _check() -> None:
    words = {TICK: 64, INTENT: 128, TRADE: 128, ENTRY_CONTEXT: 128, REPORT: 128, RING: 64, READER: 64, MODE: 64, PROCESS: 320, ACTIVITY: 320,
             CURSORS: 192, RUN: 64, INSTRUMENT: 256, STRATEGY: 64, QUOTE: 64, INTERVAL: 64, FEED_LINE: 64, COMMIT: 64, COMMIT_LINE: 64,
             UNDO: 64, LINE: 64, AFTER: 64, AFTERMATH: 64, ACCOUNT: 192, INSTRUMENT_STATE: 128, POSITION: 320, WORKING: 128,
             CONDITION_STATE: 64, TABLE: 64,
             GENERATION: 64, THRESHOLD: 16, ADDED: 24, CONDITION: 320, FEATURE: 384, BUCKET_1: 8, BUCKET_10: 32, BUCKET_60: 64,
             BUCKET_300: 64, BUCKET_900: 16, PARAMS: 192, COMMAND: 64, GATEWAY_HEADER: 64, GATEWAY_ORDER: 64}
    for dtype, size in words.items():
        assert dtype.itemsize == size, f"{dtype.names} takes {dtype.itemsize} bytes, not {size}"
        assert dtype.fields is not None
        for name, (field, start, *_) in dtype.fields.items():
            width = field.base.itemsize
            assert name.startswith("_") or field.kind == "S" or start % width == 0, f"{name} at {start} is not aligned"
    for slot in (TICK, INTENT, TRADE, ENTRY_CONTEXT, REPORT, COMMAND):
        assert offset(slot, "seq") == 0, "the sequence is a slot's first word"
    for shared in ("event_ns", "instrument", "strategy", "condition_id", "position_id", "plan_seq", "leg"):
        assert offset(INTENT, shared) == offset(TRADE, shared), f"TRADE overlays INTENT, but not at {shared}"
    for shared in ("event_ns", "kind", "instrument", "strategy", "condition_id", "position_id", "plan_seq", "fire_index"):
        assert offset(INTENT, shared) == offset(ENTRY_CONTEXT, shared), f"ENTRY_CONTEXT overlays INTENT, but not at {shared}"
    assert len(CONTEXT_FEATURES) == 12 and PAPER_BIT + MAX_STRATEGIES <= 63 and PAPER_BIT >= MAX_STRATEGIES
    assert offset(PROCESS, "stop") == 64 and offset(PROCESS, "bell") == 128 and offset(PROCESS, "metrics") == 192
    assert offset(CURSORS, "learned_orders") == 64 and offset(CURSORS, "plan_horizon_ns") == 128
    assert RING_SLOTS & (RING_SLOTS - 1) == 0 and RING_SLOTS > 2 * OUTBOX_SLOTS
    assert len(FEATURES) == TRIGGER_TRAILING < TRIGGERS and FEATURES[:len(PRICE_KINDS)] == PRICE_KINDS
    assert RING_SLOTS > MAX_WORKING and MAX_STRATEGIES <= 63
    assert len(REFUSALS) == REF_REPEATED + 1 and len(EXIT_REASONS) == EXIT_RUNG + 1 and len(REJECTS) == REJ_UNAVAILABLE + 1
    assert all(len(names) <= 16 for names in METRICS.values())


_check()
