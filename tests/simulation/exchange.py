"""The venue behind a bad connection. The paper venue and its ledger are the truth; what goes wrong between it and the gateway is told by the script.

An order whose call timed out may arrive later, up to the receive window: until that is over its absence proves nothing. What is on its way outlives
the gateway, and is in the ledger, durably, from the moment it arrives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import msgspec

from hotpath.venues.paper import PaperVenue
from hotpath.venues.paper_ledger import Ledger, Meta
from hotpath.venues.venue import NotTaken, OrderRequest, Uncertain, VenueEvent, VenueOrder
from ipc import layout as l
from tests.simulation.clock import MS, Clock
from tests.simulation.deaths import CrashPoints, Died

#: faults of each call; see SimVenue
FAULTS = {
    "submit": ("late", "after", "lost", "limited", "closed", "refused"),
    "find": ("silent",),
    "cancel": ("silent", "after"),
    "history": ("silent",),
    "orders": ("silent",),
    "holdings": ("silent",),
    "news": ("lost", "gaps", "twice", "backwards", "late"),
    "ledger": ("full",),
    "line": ("maintenance", "cut"),
}


class Exchange:
    """What of the venue outlives a gateway: orders on their way, the faults at work, and who watches."""

    def __init__(self, clock: Clock, crash: CrashPoints, window_ns: int, remote: bool, witness: Any) -> None:
        """`remote`: what it takes is durable there at once, whatever becomes of the gateway; else with the gateway's commit, as on paper."""
        self.clock, self.crash, self.window_ns, self.remote, self.witness = clock, crash, window_ns, remote, witness
        #: (when it arrives, the order)
        self.in_flight: list[tuple[int, OrderRequest]] = []
        #: call → (fault, until, how long a late order takes)
        self._faults: dict[str, tuple[str, int, int]] = {}
        #: the ledger is written whatever the disk says: it is the venue's own, not the gateway's
        self.by_itself = False
        self.venue: SimVenue | None = None

    def fail(self, call: str, fault: str, for_ns: int, delay_ns: int = 0) -> None:
        """From now on a call goes wrong."""
        self._faults[call] = (fault, self.clock.now_ns + for_ns, min(delay_ns, self.window_ns))

    def order(self, client_id: str) -> VenueOrder | None:
        """The order as it is at the venue, whatever the connection says."""
        return None if self.venue is None else self.venue.ledger.find(client_id)

    def durable(self) -> int:
        """Number of the last event that outlives everything."""
        ledger: Any = None if self.venue is None else self.venue.ledger
        return 0 if ledger is None else ledger.durable()

    def open_orders(self) -> list[VenueOrder]:
        """Those that are open there."""
        return [] if self.venue is None else list(self.venue.ledger.open.values())

    def holdings(self) -> dict[tuple[str, str], int]:
        """What is held there."""
        return {} if self.venue is None else PaperVenue.holdings(self.venue)

    def heal(self) -> None:
        """Everything works again."""
        self._faults.clear()

    def fault(self, call: str) -> str:
        """What goes wrong with a call now, "" for nothing."""
        fault, until, _ = self._faults.get(call, ("", 0, 0))
        return fault if self.clock.now_ns < until else ""

    def delay_ns(self) -> int:
        """How long a late order takes."""
        return self._faults["submit"][2]


class SimLedger(Ledger):
    """The shipped ledger on a disk that may be full."""

    exchange: Exchange

    def _write(self, txn: Any) -> None:
        self.exchange.crash.reached("ledger.write")
        if self.exchange.fault("ledger") and not self.exchange.by_itself:
            raise lmdb.DiskError("no space left")
        super()._write(txn)

    def durable(self) -> int:
        """Number of the last event that is in LMDB."""
        with self._env.begin() as txn:
            stored = txn.get(b"ledger", db=self._db[b"meta"])
        return 0 if stored is None else msgspec.msgpack.decode(stored, type=Meta).venue_seq


def open_ledger(exchange: Exchange, folder: Path) -> SimLedger:
    """The ledger as its last commit left it."""
    ledger = SimLedger.__new__(SimLedger)
    ledger.exchange = exchange
    ledger.__init__(folder, sync=False)  # type: ignore[misc]
    return ledger


class SimVenue(PaperVenue):
    """Faults: submit = late (no answer, it arrives in a while) | after (taken, no answer) | lost (no answer, it never arrives) | limited | closed
    (certainly not taken) | refused; cancel = silent | after (done, no answer); news = lost | gaps (the first of each) | twice | backwards | late;
    line = maintenance (every order is certainly not taken, every question fails) | cut (no answer, nothing happens); the others = silent."""

    pull_every_ns = 50 * MS

    def __init__(self, exchange: Exchange, ledger: Ledger, *rest: Any) -> None:
        super().__init__(ledger, *rest)
        self.exchange = exchange
        self._told: list[VenueEvent] = []
        self._held: list[VenueEvent] = []
        exchange.venue = self

    # ── what arrives by itself ────────────────────────────────────────────────────────────────────────────────────────
    def arrivals(self) -> None:
        """Orders whose time has come; each is durable as soon as it is there."""
        exchange = self.exchange
        for at, order in list(exchange.in_flight):
            if at <= exchange.clock.now_ns:
                super().submit(order)
                self._keep()
                exchange.in_flight.remove((at, order))

    def _keep(self) -> None:
        """Durable now, and told when the gateway asks."""
        self.exchange.by_itself = True
        try:
            self._told += self.ledger.commit() or []
        finally:
            self.exchange.by_itself = False

    def _asked(self, call: str) -> str:
        self.arrivals()
        self.exchange.crash.reached(f"venue.{call}")
        if self.exchange.fault("line"):
            raise Uncertain("no answer")
        return self.exchange.fault(call)

    # ── Venue ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def submit(self, order: OrderRequest) -> int:
        self.arrivals()
        self.exchange.witness.submitting(order)
        try:
            code = self._submit(order)
            if self.exchange.remote:
                self._keep()
            self.exchange.witness.venue()
            self.exchange.crash.reached("venue.submitted")
        except (Uncertain, Died):
            self.exchange.witness.in_doubt(order)
            raise
        return code

    def _submit(self, order: OrderRequest) -> int:
        exchange = self.exchange
        exchange.crash.reached("venue.submit")
        if exchange.fault("line") == "maintenance":
            raise NotTaken("maintenance", l.REJ_UNAVAILABLE, 50 * MS)
        if exchange.fault("line") == "cut":
            raise Uncertain("no connection")
        match exchange.fault("submit"):
            case "late":
                exchange.in_flight.append((exchange.clock.now_ns + exchange.delay_ns(), order))
                raise Uncertain("no answer")
            case "after":
                super().submit(order)
                self._keep()
                raise Uncertain("no answer")
            case "lost":
                raise Uncertain("no answer")
            case "limited":
                raise NotTaken("too many requests", l.REJ_RATE_LIMIT, 20 * MS)
            case "closed":
                raise NotTaken("not trading", l.REJ_UNAVAILABLE)
            case "refused":
                self._refuses = True
                try:
                    return super().submit(order)
                finally:
                    self._refuses = False
        return super().submit(order)

    _refuses = False

    def _refusal(self, order: OrderRequest, facts: dict[str, Any], lots: int, price: int) -> int:
        return l.REJ_MIN_NOTIONAL if self._refuses else super()._refusal(order, facts, lots, price)

    def cancel(self, client_id: str, event_ns: int) -> bool:
        match self._asked("cancel"):
            case "silent":
                raise Uncertain("no answer")
            case "after":
                super().cancel(client_id, event_ns)
                self._keep()
                raise Uncertain("no answer")
        ended = super().cancel(client_id, event_ns)
        if self.exchange.remote:
            self._keep()
        return ended

    def find(self, client_id: str) -> VenueOrder | None:
        if self._asked("find"):
            raise Uncertain("no answer")
        return super().find(client_id)

    def absent_for_good(self, sent_ns: int) -> bool:
        return self.exchange.clock.now_ns - sent_ns > self.exchange.window_ns

    def open_orders(self) -> list[VenueOrder]:
        if self._asked("orders"):
            raise Uncertain("no answer")
        return super().open_orders()

    def holdings(self) -> dict[tuple[str, str], int]:
        if self._asked("holdings"):
            raise Uncertain("no answer")
        return super().holdings()

    def events_since(self, venue_seq: int, limit: int = 1000) -> list[VenueEvent]:
        if self._asked("history"):
            raise Uncertain("no answer")
        return super().events_since(venue_seq, limit)

    def news(self) -> list[VenueEvent] | None:
        """What the connection makes of what has happened; asking is the ledger's commit."""
        self.arrivals()
        events = super().news()
        if events is None:
            return None
        self.exchange.crash.reached("ledger.committed")
        told, self._told = self._told + events, []
        match "cut" if self.exchange.fault("line") else self.exchange.fault("news"):
            case "lost" | "cut":
                return []
            case "gaps":
                return told[1:]
            case "twice":
                return told + told
            case "backwards":
                return told[::-1]
            case "late":
                self._held += told
                return []
        held, self._held = self._held, []
        return told + held
