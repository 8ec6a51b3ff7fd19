"""Orders that may or may not be at the venue: each stays in exposure, and closes its symbol to other orders, until the venue proves its fate.

Proof is the order itself, or its absence once it cannot arrive any more (Venue.absent_for_good). An order that is found goes on with its events.
Nothing is ever sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotpath.orders import row_of
from hotpath.venues.venue import VenueFault
from ipc import layout as l

if TYPE_CHECKING:
    from hotpath.gateway import Gateway

#: pauses between two questions about the same order (ns)
FIRST_PAUSE_NS: Final = 50_000_000
LONGEST_PAUSE_NS: Final = 5_000_000_000


class Doubts:
    """The orders in doubt of one gateway's life, by order-ring sequence."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._venue, self._reporting = gateway, gateway.venue, gateway.reporting
        self._rows, self._log, self._clock = gateway.g.rows, gateway.child.log, gateway.clock
        #: sequence → (when to ask next, the pause after that)
        self._asked: dict[int, tuple[int, int]] = {}

    def add(self, seq: int, told: bool) -> None:
        """An order may have been sent, now at the latest. Unless the others were told before, they are told UNKNOWN."""
        # its row may be older: it was announced first, or claimed before the process stood still
        self._rows[row_of(seq)]["sent_ns"] = self._clock()
        if not told:
            self._reporting.own(l.UNKNOWN, *self._facts(seq))
        self._asked[seq] = (0, FIRST_PAUSE_NS)

    def __contains__(self, seq: int) -> bool:
        """Still in doubt: no event has told of it since."""
        order = self._reporting.orders.get(seq)
        return seq in self._asked and order is not None and order.state in (l.ORD_SENDING, l.ORD_UNKNOWN)

    @property
    def next_ns(self) -> int:
        """When the venue is to be asked (monotonic ns); 0: now, −1: nothing is in doubt."""
        return min((at for at, _ in self._asked.values()), default=-1)

    def closes(self, instrument: int) -> bool:
        """An order of this instrument is in doubt."""
        return any(int(self._rows[row_of(seq)]["instrument"]) == instrument for seq in self._asked if seq in self)

    def resolve(self) -> None:
        """Ask about each order whose time has come; one that an event has told of since is in doubt no more."""
        for seq, (at, pause) in sorted(self._asked.items()):
            if seq not in self:
                del self._asked[seq]
                continue
            if self._clock() < at:
                continue
            self._asked[seq] = (self._clock() + pause, min(2 * pause, LONGEST_PAUSE_NS))
            try:
                found = self._venue.find(self._reporting.client_id(seq))
                lost = found is None and self._venue.absent_for_good(int(self._rows[row_of(seq)]["sent_ns"]))
            except VenueFault as fault:
                self._gateway.venue_failed(fault)
                continue
            self._gateway.venue_answered()
            if lost:
                self._reporting.own(l.LOST, *self._facts(seq))
                del self._asked[seq]
            if found is not None or lost:
                self._log.warning("order %d may have been sent: the venue %s", seq, "never got it" if lost else "has it")

    def _facts(self, seq: int) -> tuple[int, int, int, int, int]:
        row = self._rows[row_of(seq)]
        return seq, int(row["instrument"]), int(row["side"]), int(row["lots"]), int(row["event_ns"])
