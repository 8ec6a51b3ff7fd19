"""A paper venue behind a bad connection: what goes wrong is read from a file at each call, so that a test can change it while the gateway runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hotpath.venues.paper import PaperVenue
from hotpath.venues.venue import NotTaken, OrderRequest, Uncertain, VenueEvent, VenueOrder
from ipc import layout as l

MS = 1_000_000


class FlakyVenue(PaperVenue):
    """Faults: submit = before | after | refused; find = silent | blind; cancel, history = silent; news = lost | twice | backwards."""

    pull_every_ns = 50 * MS
    faults = Path("faults")

    def _fault(self, call: str) -> str:
        try:
            return str(json.loads(self.faults.read_text()).get(call, ""))
        except OSError:
            return ""

    def submit(self, order: OrderRequest) -> int:
        match self._fault("submit"):
            case "before":
                raise Uncertain("no answer")
            case "after":
                super().submit(order)
                raise Uncertain("no answer")
            case "refused":
                raise NotTaken("too many requests", l.REJ_RATE_LIMIT, 20 * MS)
        return super().submit(order)

    def find(self, client_id: str) -> VenueOrder | None:
        match self._fault("find"):
            case "silent":
                raise Uncertain("no answer")
            case "blind":
                return None
        return super().find(client_id)

    def absent_for_good(self, sent_ns: int) -> bool:
        return self._fault("find") != "blind"

    def cancel(self, client_id: str, event_ns: int) -> bool:
        if self._fault("cancel"):
            raise Uncertain("no answer")
        return super().cancel(client_id, event_ns)

    def events_since(self, venue_seq: int, limit: int = 1000) -> list[VenueEvent]:
        if self._fault("history"):
            raise Uncertain("no answer")
        return super().events_since(venue_seq, limit)

    def news(self) -> list[VenueEvent] | None:
        events = super().news()
        match self._fault("news"):
            case "lost":
                return None if events is None else []
            case "twice":
                return None if events is None else events + events
            case "backwards":
                return None if events is None else events[::-1]
        return events


def flaky(folder: Path) -> Any:
    """The class, with its file of faults in a folder."""
    return type("Flaky", (FlakyVenue,), {"faults": folder / "faults"})
