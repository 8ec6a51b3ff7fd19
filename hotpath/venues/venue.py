"""What every venue is to the gateway: one Protocol, and the Structs that pass through it.

An order goes out in decimal strings, as venues take them. Whatever comes of it is an *event* with a durable `venue_seq`, counted without holes: the
gateway publishes each as one report, in their order, and asks for those behind the last one that it published wherever one may be missing.

A call may fail. What matters then is what is known of the order:

    VenueFault
    ├── NotTaken     certain: it never arrived and never will (rate limit, maintenance, no connection)
    └── Uncertain    it may have arrived (a time-out, a connection lost meanwhile)
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class VenueFault(Exception):
    """A call to a venue that failed; see the module."""


class NotTaken(VenueFault):
    """What was asked has not been done and will not be. `code` is a reject code (REJ_RATE_LIMIT, REJ_UNAVAILABLE); `pause_ns` how long nothing is to
    be sent."""

    def __init__(self, text: str, code: int, pause_ns: int = 0) -> None:
        super().__init__(text)
        self.code, self.pause_ns = code, pause_ns


class Uncertain(VenueFault):
    """What was asked may have been done."""


class OrderRequest(Struct, frozen=True, kw_only=True):
    """An order on its way to a venue. `quantity` and `price` are decimal strings in base and quote currency; side is +1 or −1.

    `account` names the part of the account that `reduce_only` looks at, so that two strategies with opposite positions in one
    instrument can each close their own. `event_ns` is when it was decided.
    """

    client_id: str
    symbol: str
    side: int
    order_type: int
    quantity: str
    price: str | None = None
    reduce_only: bool = False
    account: str = ""
    event_ns: int = 0


class VenueOrder(Struct, kw_only=True):
    """An order as the venue has it. `state` is ORD_*, prices in ticks, cumulative quote in quanta; 0 ticks: a market order."""

    client_id: str
    venue_order_id: int
    symbol: str
    side: int
    order_type: int
    lots: int
    limit_price: int
    reduce_only: bool
    account: str
    active_ns: int
    resting: bool = False
    #: lots that were displayed at its price before it and have not traded yet; −1 where nobody can know
    ahead: int = -1
    state: int = 0
    cum_lots: int = 0
    cum_quote: int = 0
    #: event time of the last thing that happened to it
    event_ns: int = 0


class VenueEvent(Struct, frozen=True, kw_only=True, array_like=True):
    """Something that happened at the venue. `kind` is a report kind; `lots`, `price`, `fee` belong to this fill, `cum_*` to the order.

    A fill's trade id is its venue_seq. `balance` is the cash in quanta after the event. A BALANCE event of code 0 is a deposit of
    `lots` quanta, of code 1 a statement.
    """

    venue_seq: int
    kind: int
    client_id: str
    symbol: str
    event_ns: int
    tick_seq: int
    code: int = 0
    side: int = 0
    liquidity: int = 0
    lots: int = 0
    price: int = 0
    fee: int = 0
    cum_lots: int = 0
    cum_quote: int = 0
    venue_order_id: int = 0
    balance: int = 0


class VenuePosition(Struct, kw_only=True):
    """What is held of one instrument: signed lots; `cost` in quanta is what a perpetual's lots were opened at (0 for spot)."""

    symbol: str
    lots: int = 0
    cost: int = 0


class Venue(Protocol):
    """A place that takes orders. A call does not wait for a market; each may raise VenueFault, but for `news`."""

    #: how often its history is asked for what was not told (ns); 0: whatever happens there is told, always
    pull_every_ns: int

    def submit(self, order: OrderRequest) -> int:
        """Hand over an order, once: REJ_NONE or the reject code. Every answer but REJ_DUPLICATE is an event too."""

    def cancel(self, client_id: str, event_ns: int) -> bool:
        """Ask for the end of an open order; False if it is not open. Its end is an event. May be repeated."""

    def find(self, client_id: str) -> VenueOrder | None:
        """The order of that id, open or ended."""

    def absent_for_good(self, sent_ns: int) -> bool:
        """Whether an order that was sent at `sent_ns` (monotonic) or before, and is not found now, can never arrive any more."""

    def news(self) -> list[VenueEvent] | None:
        """What has happened since the last call, durable; it may come twice, late, out of order, or never. None: it cannot be written now."""

    def open_orders(self) -> list[VenueOrder]:
        """Every open order, oldest first."""

    def balances(self) -> dict[str, int]:
        """Currency → amount: quanta of the account's currency, lots of whatever spot instruments hold."""

    def positions(self) -> list[VenuePosition]:
        """Everything that is held."""

    def holdings(self) -> dict[tuple[str, str], int]:
        """What each part of the account holds: (account, symbol) → signed lots."""

    def events_since(self, venue_seq: int, limit: int = 1000) -> list[VenueEvent]:
        """Events behind `venue_seq`, in order."""
