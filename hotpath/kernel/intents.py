"""Making order-ring records: each lands in the outbox with the step's provenance and becomes visible only after the commit."""

from __future__ import annotations

from typing import Any

from hotpath.kernel.commit import touch_account
from hotpath.kernel.features import value
from hotpath.kernel.windows import advance
from ipc import layout as l
from ipc.jit import kernel


@kernel
def count_message(s: Any, event_ns: int) -> None:
    """A message to the venue takes its place in the permitted rate (GCRA: ATM Forum TM 4.0, as a virtual schedule)."""
    touch_account(s)
    account = s.account[0]
    interval = s.params[s.line[0].params_epoch & 1].message_interval_ns
    account.messages_due_ns = max(account.messages_due_ns, event_ns) + max(0, interval)


@kernel
def claim(s: Any, kind: int, event_ns: int) -> int:
    """Next outbox row, with sequence and provenance filled in and everything else zero. The caller has checked has_room/ring_room."""
    row = s.line[0].outbox_len
    s.line[0].outbox_len = row + 1
    s.line[0].intent_seq += 1
    s.outbox[row] = s.blank_intent[0]
    out = s.outbox[row]
    out.seq = s.line[0].intent_seq
    out.event_ns = event_ns
    out.tick_seq = s.tick[0].seq
    out.report_seq = s.line[0].report_seq
    out.kind = kind
    out.instrument = l.NO_INSTRUMENT
    out.generation = s.line[0].generation
    out.params_epoch = s.line[0].params_epoch
    if kind == l.NEW:
        s.own[0].orders_made += 1
    if kind == l.NEW or kind == l.CANCEL:
        count_message(s, event_ns)
    return row


@kernel
def emit_exit(s: Any, position: Any, lots: int, reference_price: int, limit_price: int, reason: int, leg: int, event_ns: int) -> int:
    """NEW order that reduces a position, IOC with a limit or market without; leg 1 is all of it, 2 + k the k-th rung. Gives its sequence."""
    row = claim(s, l.NEW, event_ns)
    out = s.outbox[row]
    out.purpose = l.EXIT
    out.side = -position.side
    out.order_type = l.IOC if limit_price > 0 else l.MARKET
    out.limit_price = limit_price
    out.instrument = position.instrument
    out.strategy = position.strategy
    out.lots = lots
    out.reference_price = reference_price
    out.condition_id = position.condition_id
    out.position_id = position.position_id
    out.order_seq = out.seq
    out.plan_seq = position.plan_seq
    out.fire_index = position.fire_index
    out.leg = leg
    out.attempt = position.attempt
    out.code = reason
    out.flags = l.INTENT_REDUCE_ONLY
    return out.seq


@kernel
def emit_entry(s: Any, condition: Any, lots: int, reference_price: int, fire_index: int, event_ns: int) -> int:
    """NEW order that opens a position; gives its sequence, which also names the position."""
    row = claim(s, l.NEW, event_ns)
    out = s.outbox[row]
    out.purpose = l.ENTRY
    out.side = condition.side
    out.order_type = condition.order_type
    out.instrument = condition.instrument
    out.strategy = condition.strategy
    out.lots = lots
    out.limit_price = condition.limit_price
    out.reference_price = reference_price
    out.condition_id = condition.condition_id
    out.position_id = s.cursors[0].incarnation << 40 | out.seq
    out.order_seq = out.seq
    out.plan_seq = condition.plan_seq
    out.fire_index = fire_index
    return out.seq


@kernel
def open_working(s: Any, working: int, order: Any, position_row: int, valid_until_ns: int) -> None:
    """The working-order row (saved by the caller) of a NEW record: from now on the order counts."""
    s.working[working] = s.blank_working[0]
    o = s.working[working]
    o.order_seq = order.seq
    o.position_row = position_row
    o.side = order.side
    o.purpose = order.purpose
    o.lots = order.lots
    o.event_ns = order.event_ns
    o.order_type = order.order_type
    o.limit_price = order.limit_price
    o.condition_id = order.condition_id
    o.position_id = order.position_id
    o.valid_until_ns = valid_until_ns


@kernel
def emit_cancel(s: Any, order: Any, instrument: int, strategy: int, event_ns: int) -> None:
    """CANCEL of one working order."""
    row = claim(s, l.CANCEL, event_ns)
    out = s.outbox[row]
    out.purpose = order.purpose
    out.instrument = instrument
    out.strategy = strategy
    out.position_id = order.position_id
    out.order_seq = order.order_seq


@kernel
def emit_cancel_all(s: Any, code: int, event_ns: int) -> None:
    """CANCEL_ALL: every working entry (code 0) or every working order (code 1, at a stop)."""
    row = claim(s, l.CANCEL_ALL, event_ns)
    s.outbox[row].code = code


@kernel
def emit_refused(s: Any, condition: Any, code: int, reference_price: int, event_ns: int) -> None:
    """REFUSED: the gate's answer, once per condition and code."""
    row = claim(s, l.REFUSED, event_ns)
    out = s.outbox[row]
    out.purpose = l.ENTRY
    out.side = condition.side
    out.instrument = condition.instrument
    out.strategy = condition.strategy
    out.reference_price = reference_price
    out.condition_id = condition.condition_id
    out.plan_seq = condition.plan_seq
    out.code = code


@kernel
def emit_swapped(s: Any, plan_seq: int, rows: int, event_ns: int) -> None:
    """SWAPPED: from here on the generation in this record is what is armed; value = rows."""
    row = claim(s, l.SWAPPED, event_ns)
    s.outbox[row].plan_seq = plan_seq
    s.outbox[row].value = rows


@kernel
def _of(out: Any, position: Any) -> None:
    """Whose record it is: a position's, or that of a trade on paper."""
    out.side = position.side
    out.instrument = position.instrument
    out.strategy = position.strategy
    out.condition_id = position.condition_id
    out.position_id = position.position_id
    out.plan_seq = position.plan_seq
    out.fire_index = position.fire_index


@kernel
def emit_lifecycle(s: Any, position: Any, before: int, cause: int, event_ns: int) -> None:
    """LIFECYCLE: a position is now in state `code`, was in `leg`; stop is `limit_price`, target `reference_price`, exit reason `value`; it was
    adjusted `attempt` times, this time because of `flags`."""
    row = claim(s, l.LIFECYCLE, event_ns)
    out = s.outbox[row]
    _of(out, position)
    out.lots = position.lots
    out.limit_price = position.stop_price
    out.reference_price = position.target_price
    out.leg = before
    out.attempt = position.adjustments
    out.code = position.state
    out.flags = cause
    out.value = position.exit_reason


@kernel
def emit_released(s: Any, strategy: int, event_ns: int) -> None:
    """RELEASED: a person lets a strategy make entries again."""
    row = claim(s, l.RELEASED, event_ns)
    s.outbox[row].strategy = strategy


@kernel
def emit_timer(s: Any, ahead_ns: int, event_ns: int) -> None:
    """TIMER: no tick has told the time, which is so much ahead of the last one's; what follows in the same step was due by that."""
    s.outbox[claim(s, l.TIMER, event_ns)].value = ahead_ns


@kernel
def emit_missed(s: Any, code: int, instrument: int, ticks: int, time_ns: int, event_ns: int) -> None:
    """MISSED: so many ticks (`value`) were not seen, in so much event time (`lots`, in ns) where that is known, and why; levels among them are not
    chased."""
    row = claim(s, l.MISSED, event_ns)
    s.outbox[row].lots = time_ns
    s.outbox[row].code = code
    s.outbox[row].instrument = instrument
    s.outbox[row].value = ticks


@kernel
def emit_paper_opened(s: Any, position: Any, price: int, base_id: int, event_ns: int) -> None:
    """PAPER_OPENED: a condition that may not trade has fired (`code` opening), and its trade on paper is in at `value` (monitoring); stop is
    `limit_price`, target `reference_price`. Of a twin `order_seq` is the id of the position beside which it is followed, else 0."""
    row = claim(s, l.PAPER_OPENED, event_ns)
    out = s.outbox[row]
    _of(out, position)
    out.lots = position.entry_lots
    out.limit_price = position.stop_price
    out.reference_price = position.target_price
    out.order_seq = base_id
    out.code = position.state
    out.value = price


@kernel
def emit_context(s: Any, position: Any, event_ns: int) -> None:
    """CONTEXT: what the market was like when a position, or a trade on paper, opened; see layout.ENTRY_CONTEXT, which overlays the record."""
    row = claim(s, l.CONTEXT, event_ns)
    out = s.outbox[row]
    _of(out, position)
    seen_ns = max(event_ns, s.line[0].event_ns)
    advance(s, position.instrument, seen_ns)
    for k in range(12):  # one loop: each call of `value` is a copy of its code, in whatever this is called from
        found = value(s, position.instrument, l.CONTEXT_FEATURES[k], seen_ns)
        if k < 6:
            s.outbox_context[row].features[k] = found
        else:
            s.outbox_context[row].more_features[k - 6] = found


@kernel
def emit_closed(s: Any, kind: int, position: Any, pnl: int, value_quanta: int, event_ns: int) -> None:
    """CLOSED or PAPER_CLOSED: a round trip; see layout.TRADE, which overlays the record."""
    row = claim(s, kind, event_ns)
    out = s.outbox[row]
    out.purpose = l.EXIT
    _of(out, position)
    out.lots = position.entry_lots
    out.limit_price = (position.exit_quote // value_quanta + position.exit_lots // 2) // max(1, position.exit_lots)  # TRADE.exit_price
    out.reference_price = (position.entry_quote // value_quanta + position.entry_lots // 2) // max(1, position.entry_lots)  # entry_price
    out.order_seq = position.opened_ns  # TRADE.opened_ns
    out.attempt = position.attempt
    out.code = position.exit_reason  # TRADE.exit_reason
    out.value = pnl  # TRADE.pnl, after fees
    out.publish_ns = position.fees  # TRADE.fees
