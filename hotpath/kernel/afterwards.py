"""What a price did after a trade: was it left too early, or too late? Told 5 and 15 minutes of event time after the end, as AFTERWARDS records.

Closed trades wait in a round buffer. All wait equally long, so each of the two instants has one place in it up to which everything is told, and a
CLOCK tick looks at the oldest that is not: two comparisons ten times a second, and nothing at a tick of the market. What waits outlives a start
(restore.py); an instant that passed meanwhile is told without a price.
"""

from __future__ import annotations

from typing import Any, Final

from hotpath.kernel.commit import has_room, ring_room, touch_after, touch_aftermath
from hotpath.kernel.intents import claim
from hotpath.kernel.money import mark_price
from ipc import layout as l
from ipc.jit import kernel

#: minutes of event time after the end
MINUTES: Final = (5, 15)
_FIRST, _SECOND = MINUTES
_MINUTE_NS: Final = 60_000_000_000


@kernel
def remember(s: Any, position: Any, exit_price: int, event_ns: int) -> None:
    """A trade has closed at `exit_price` ticks on average. Where too many wait, the oldest is not told."""
    touch_after(s)
    after = s.after[0]
    row = after.closed % l.MAX_AFTERMATH
    touch_aftermath(s, row)
    for instant in range(2):
        after.told[instant] = max(after.told[instant], after.closed + 1 - l.MAX_AFTERMATH)
    after.closed += 1
    one = s.aftermath[row]
    one.position_id = position.position_id
    one.closed_ns = event_ns
    one.exit_price = exit_price
    one.condition_id = position.condition_id
    one.instrument = position.instrument
    one.strategy = position.strategy
    one.side = position.side
    one.exit_reason = position.exit_reason
    one.plan_seq = position.plan_seq
    one.fire_index = position.fire_index


@kernel
def was_told(s: Any, position_id: int, minutes: int) -> None:
    """A trade's price so many minutes after its end has been told, and with it that of all before it."""
    after = s.after[0]
    instant = 1 if minutes == _SECOND else 0
    for number in range(after.told[instant], after.closed):
        if s.aftermath[number % l.MAX_AFTERMATH].position_id == position_id:
            touch_after(s)
            after.told[instant] = number + 1
            after.told[0] = max(after.told[0], after.told[1])
            return


@kernel
def tell_afterwards(s: Any, event_ns: int, ring_reserve: int) -> bool:
    """Tell what is due. False: no room in this sub-step."""
    after = s.after[0]
    for instant in range(2):
        minutes = _SECOND if instant else _FIRST
        while after.told[instant] < after.closed:
            one = s.aftermath[after.told[instant] % l.MAX_AFTERMATH]
            if event_ns < one.closed_ns + minutes * _MINUTE_NS:
                break
            if not has_room(s):
                return False
            if ring_room(s) <= ring_reserve:
                return True
            touch_after(s)
            after.told[instant] += 1
            row = claim(s, l.AFTERWARDS, event_ns)
            out = s.outbox[row]
            out.side = one.side
            out.instrument = one.instrument
            out.strategy = one.strategy
            out.limit_price = one.exit_price
            state = s.states[one.instrument]
            late = event_ns - one.closed_ns - minutes * _MINUTE_NS > _MINUTE_NS or event_ns - max(state.trade_ns, state.quote_ns) > _MINUTE_NS
            out.reference_price = 0 if late else mark_price(state, one.side)  # a price of another time would say nothing
            out.condition_id = one.condition_id
            out.position_id = one.position_id
            out.plan_seq = one.plan_seq
            out.fire_index = one.fire_index
            out.code = minutes
            out.flags = one.exit_reason
            out.value = one.closed_ns
    return True
