"""Order ids and the order state machine, pure: (order, event) → order, or IllegalTransition.

```
        SEND           ACCEPTED            FILL                    FILL, all of it
 NONE ───────► SENDING ───────► ACCEPTED ───────► PARTLY_FILLED ───────────────► FILLED
   │              │ time-out, crash │ CANCELLED, EXPIRED │
   │              ▼                 └────────────────────┴──► CANCELLED, EXPIRED
   │           UNKNOWN ── proof of the venue ──► any state above, REJECTED, LOST
   └──► LOST, CANCELLED: it was never sent
```

Lots and quote are cumulative over the order, so that an event that comes twice changes nothing.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

from ipc import layout as l

#: the event of sending; every other event is a report kind of ipc/layout.py
SEND: Final = 0
#: an order in one of these has had its one terminal report
TERMINAL: Final = frozenset({l.ORD_FILLED, l.ORD_CANCELLED, l.ORD_REJECTED, l.ORD_EXPIRED, l.ORD_LOST})
#: bits of a client order id: the instance, its incarnation, the sequence on the order ring
INSTANCE_BITS, INCARNATION_BITS, SEQUENCE_BITS = 24, 16, 40
#: sequences from here on are of orders that the gateway makes itself, see hotpath/rescue.py; the order ring never comes so far
OWN_ORDERS: Final = 1 << 39
#: characters of a client order id
ID_LENGTH: Final = 16

_LIVE = frozenset({l.ORD_SENDING, l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED, l.ORD_UNKNOWN})
#: event → (state after it, states in which it may come); FILL and ACCEPTED look at the lots as well
_TRANSITIONS: Final[dict[int, tuple[int, frozenset[int]]]] = {
    SEND: (l.ORD_SENDING, frozenset({l.ORD_NONE})),
    l.ACCEPTED: (l.ORD_ACCEPTED, frozenset({l.ORD_SENDING, l.ORD_PARTLY_FILLED, l.ORD_UNKNOWN})),
    l.ADOPTED: (l.ORD_ACCEPTED, frozenset({l.ORD_NONE})),
    l.ANNOUNCED: (l.ORD_SENDING, frozenset({l.ORD_NONE})),
    l.FILL: (l.ORD_PARTLY_FILLED, _LIVE),
    l.CANCELLED: (l.ORD_CANCELLED, _LIVE | {l.ORD_NONE}),
    l.EXPIRED: (l.ORD_EXPIRED, _LIVE),
    l.REJECTED: (l.ORD_REJECTED, frozenset({l.ORD_SENDING, l.ORD_UNKNOWN})),
    l.UNKNOWN: (l.ORD_UNKNOWN, frozenset({l.ORD_SENDING, l.ORD_ACCEPTED, l.ORD_PARTLY_FILLED})),
    l.LOST: (l.ORD_LOST, frozenset({l.ORD_NONE, l.ORD_UNKNOWN})),
}


class IllegalTransition(Exception):
    """An event that cannot come in this state: the two sides disagree about the order."""


class Order(NamedTuple):
    """State (ORD_*), lots ordered, lots filled so far, and their value in quanta."""

    state: int
    lots: int
    cum_lots: int = 0
    cum_quote: int = 0


def advance(order: Order, event: int, cum_lots: int = 0, cum_quote: int = 0) -> Order:
    """The order after an event with its cumulative figures; a fill that was already counted changes nothing."""
    if event not in _TRANSITIONS:
        raise IllegalTransition(f"{event} is no event of an order")
    if event == l.FILL and cum_lots <= order.cum_lots and order.state not in (l.ORD_NONE, l.ORD_SENDING, l.ORD_UNKNOWN):
        return order
    state, sources = _TRANSITIONS[event]
    name = l.REPORT_KINDS.get(event, "SEND")
    if order.state not in sources:
        raise IllegalTransition(f"{name} in state {l.ORDER_STATES[order.state]}")
    lots, quote = max(order.cum_lots, cum_lots), max(order.cum_quote, cum_quote)
    if lots > order.lots:
        raise IllegalTransition(f"{name} of {lots} lots for an order of {order.lots}")
    if event in (l.REJECTED, l.LOST) and lots:
        raise IllegalTransition(f"{name} of an order with {lots} lots filled")
    if event in (l.FILL, l.ACCEPTED) and lots:
        state = l.ORD_FILLED if lots == order.lots else l.ORD_PARTLY_FILLED
    elif event == l.FILL:
        raise IllegalTransition("FILL of nothing")
    return Order(state, order.lots, lots, quote)


def row_of(seq: int) -> int:
    """The row of an order at the gateway, by its sequence."""
    return seq % l.RING_SLOTS if seq < OWN_ORDERS else l.RING_SLOTS + seq % l.OWN_ORDER_ROWS


def client_order_id(instance: int, incarnation: int, sequence: int) -> str:
    """16 characters for (instance number, incarnation, order-ring sequence). Raises ValueError where one does not fit."""
    for name, value, bits in (("instance", instance, INSTANCE_BITS), ("incarnation", incarnation, INCARNATION_BITS),
                              ("sequence", sequence, SEQUENCE_BITS)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} {value} does not fit {bits} bits")
    number = (instance << INCARNATION_BITS | incarnation) << SEQUENCE_BITS | sequence
    return base64.b32encode(number.to_bytes(10, "big")).decode().lower()


def parse_client_order_id(text: str) -> tuple[int, int, int]:
    """(instance, incarnation, sequence) of a client order id. Raises ValueError for what is none."""
    if len(text) != ID_LENGTH or text != text.lower():
        raise ValueError(f"{text!r} is no client order id")
    number = int.from_bytes(base64.b32decode(text.upper()), "big")
    return (number >> INCARNATION_BITS + SEQUENCE_BITS, number >> SEQUENCE_BITS & (1 << INCARNATION_BITS) - 1,
            number & (1 << SEQUENCE_BITS) - 1)
