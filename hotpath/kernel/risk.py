"""The risk gate: every control before an entry becomes an intent. A pure decision over what is committed; gives a refusal code.

Order of the controls: state of the system, then of the condition, then of the market, then counts, then size. A limit of −1 is not
configured, and refuses. An order counts from the commit that made it.
"""

from __future__ import annotations

from typing import Any

from hotpath.kernel.commit import ring_room
from hotpath.kernel.money import bps_of, quote_of, reserve_of
from ipc import heartbeat
from ipc import layout as l
from ipc.jit import kernel

#: working-order rows that entries leave for exits
_WORKING_RESERVE = l.MAX_WORKING // 4


@kernel
def size_lots(condition: Any, instrument: Any, price: int, equity_now: int) -> int:
    """Lots that a condition asks for at `price` ticks: floor, so that rounding never adds risk. Percent divides first."""
    if condition.size_kind == l.SIZE_BASE:
        return condition.size_value
    quanta = condition.size_value
    if condition.size_kind == l.SIZE_EQUITY_BPS:
        quanta = bps_of(max(0, equity_now), condition.size_value)
    per_lot = price * instrument.value_quanta
    return quanta // per_lot if per_lot > 0 else 0


@kernel
def gate_state(s: Any, condition: Any, params: Any, event_ns: int) -> int:
    """Controls that need neither size nor equity."""
    if heartbeat.severest_mode(s.modes) != l.MODE_RUNNING:
        return l.REF_MODE
    if (params.max_open_positions < 0 or params.max_symbol_exposure_bps < 0 or params.daily_loss_bps < 0
            or params.max_entries_per_day < 0 or params.min_confidence_e4 < 0 or params.max_quote_age_ns < 0
            or params.max_order_value < 0 or params.price_collar_bps < 0 or params.window_collar_bps < 0 or params.max_gross_exposure_bps < 0
            or params.min_equity < 0 or params.duplicate_window_ns < 0 or params.message_interval_ns < 0 or params.repeat_interval_ns < 0):
        return l.REF_NO_LIMIT
    if condition.confidence_e4 < params.min_confidence_e4:
        return l.REF_CONFIDENCE
    if s.instruments[condition.instrument].permitted >> condition.strategy & 1 == 0:
        return l.REF_PERMISSION
    code = gate_market(s, condition, params, event_ns)
    if code != l.REF_NONE:
        return code
    if s.positions[condition.instrument * l.MAX_STRATEGIES + condition.strategy].state != l.POS_FLAT:
        return l.REF_POSITION_OPEN
    if condition.side < 0 and s.instruments[condition.instrument].kind == l.KIND_SPOT:
        return l.REF_SPOT_SHORT
    account = s.account[0]
    if account.open_positions >= params.max_open_positions:
        return l.REF_OPEN_POSITIONS
    if account.entries_today >= params.max_entries_per_day:
        return l.REF_DAILY_ENTRIES
    if max(account.messages_due_ns, event_ns) + params.message_interval_ns - event_ns > params.message_burst_ns:
        return l.REF_MESSAGE_RATE
    if (account.latched >> condition.strategy & 1
            or max(account.entries_due_ns[condition.strategy], event_ns) + params.repeat_interval_ns - event_ns > params.repeat_window_ns):
        return l.REF_REPEATED
    if account.working_orders >= l.MAX_WORKING - _WORKING_RESERVE:
        return l.REF_WORKING_FULL
    if ring_room(s) <= params.ring_reserve:
        return l.REF_RING_RESERVE
    return l.REF_NONE


@kernel
def gate_market(s: Any, condition: Any, params: Any, event_ns: int) -> int:
    """Controls of the market alone."""
    state = s.states[condition.instrument]
    if state.closed_to_entries != 0:
        return l.REF_SYMBOL_CLOSED
    if state.last == 0 and (state.bid == 0 or state.ask == 0):
        return l.REF_NO_QUOTE
    if event_ns - max(state.trade_ns, state.quote_ns) > params.max_quote_age_ns:
        return l.REF_STALE
    if state.quote_ns != 0 and event_ns - state.quote_ns > params.max_quote_age_ns:
        return l.REF_STALE
    if state.quote_ns != 0 and (state.bid == 0 or state.ask == 0):
        return l.REF_EMPTY_BOOK
    if state.bid > 0 and state.ask > 0 and state.bid > state.ask:
        return l.REF_CROSSED
    return l.REF_NONE


@kernel
def gate_price(s: Any, condition: Any, price: int) -> int:
    """The condition's own bound of how far beyond its level it may be entered."""
    quote = s.states[condition.instrument]
    level = (quote.bid + quote.ask) >> 1 if quote.bid > 0 and quote.ask > 0 else quote.last  # of a trigger that is no level
    if condition.trigger <= l.PRICE_MID:
        level = condition.level >> 1 if condition.trigger == l.PRICE_MID else condition.level  # mid is held in half ticks
    if (condition.max_slippage_bps > 0 and condition.order_type == l.MARKET
            and condition.side * (price - level) > bps_of(level, condition.max_slippage_bps)):
        return l.REF_SLIPPAGE
    return l.REF_NONE


@kernel
def gate_order(s: Any, condition: Any, params: Any, price: int, lots: int) -> int:
    """Controls of a sized order by itself and its market: value and collars."""
    instrument, state = s.instruments[condition.instrument], s.states[condition.instrument]
    if lots <= 0:
        return l.REF_SIZE_ZERO
    if lots > instrument.max_lots:
        return l.REF_MAX_LOTS
    if quote_of(instrument, price, lots) < instrument.min_notional:
        return l.REF_MIN_NOTIONAL
    if quote_of(instrument, price, lots) > params.max_order_value:
        return l.REF_ORDER_VALUE
    at = condition.limit_price if condition.order_type == l.LIMIT else price
    # a price that is worse than the market's: a limit far on the better side only waits
    if state.last > 0 and condition.side * (at - state.last) > bps_of(state.last, params.price_collar_bps):
        return l.REF_COLLAR
    f = s.features[condition.instrument]
    if f.bucket != 0 and condition.side * (at - f.ema_2) > f.ema_2 * params.window_collar_bps / 10_000.0:
        return l.REF_WINDOW_COLLAR
    return l.REF_NONE


@kernel
def gate_size(s: Any, condition: Any, params: Any, price: int, lots: int, event_ns: int) -> int:
    """Controls over a sized order at its reference price; `survey` was taken before."""
    code = gate_price(s, condition, price)
    if code != l.REF_NONE:
        return code
    instrument = s.instruments[condition.instrument]
    state = s.states[condition.instrument]
    account, own = s.account[0], s.own[0]
    equity_now = own.equity
    if own.unmarked > 0:
        return l.REF_NO_QUOTE
    day_start = account.day_start_equity
    if day_start <= 0 or equity_now <= 0 or day_start - equity_now >= bps_of(day_start, params.daily_loss_bps):
        return l.REF_DAILY_LOSS
    if equity_now < params.min_equity:
        return l.REF_EQUITY
    code = gate_order(s, condition, params, price, lots)
    if code != l.REF_NONE:
        return code
    at = condition.limit_price if condition.order_type == l.LIMIT else price
    p = s.positions[condition.instrument * l.MAX_STRATEGIES + condition.strategy]
    if (p.last_entry_ns != 0 and event_ns - p.last_entry_ns < params.duplicate_window_ns and p.side == condition.side
            and p.last_entry_lots == lots and p.last_entry_price == at):
        return l.REF_DUPLICATE
    if state.working_lots > 0 and meets_own_order(s, condition, at):
        return l.REF_SELF_MATCH
    held = state.exposure_lots + state.working_lots
    if held + lots > instrument.max_lots:
        return l.REF_MAX_LOTS
    if quote_of(instrument, price, held + lots) > bps_of(equity_now, params.max_symbol_exposure_bps):
        return l.REF_SYMBOL_EXPOSURE
    if own.gross + quote_of(instrument, price, lots) > bps_of(equity_now, params.max_gross_exposure_bps):
        return l.REF_GROSS_EXPOSURE
    if reserve_of(instrument, price, lots, params.taker_slippage_bps) > account.cash - account.reserved - own.margin:
        return l.REF_CASH
    return l.REF_NONE


@kernel
def meets_own_order(s: Any, condition: Any, price: int) -> bool:
    """Whether an entry could trade with an own entry that waits on the other side. Exits are market orders, which never wait."""
    for row in range(l.MAX_WORKING):
        order = s.working[row]
        if (order.order_seq != 0 and order.purpose == l.ENTRY and order.side == -condition.side
                and s.positions[order.position_row].instrument == condition.instrument
                and (order.order_type == l.MARKET or condition.side * (price - order.limit_price) >= 0)):
            return True
    return False


@kernel
def reference_price(state: Any, side: int) -> int:
    """Price in ticks at which an order of `side` would trade now: ask for a buy, bid for a sale, else the last trade."""
    if side > 0:
        return state.ask if state.ask > 0 else state.last
    return state.bid if state.bid > 0 else state.last

