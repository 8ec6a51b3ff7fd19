"""Events of a venue in the order of their numbers, each once, whatever a connection made of them: doubled, out of order, late, lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hotpath.venues.venue import VenueEvent

#: events that wait for an earlier one at most; beyond, the rest is asked for again anyway
MOST_EARLY: Final = 4096


class Intake:
    """`last` is the number of the last event that was given out. An event is given out when every one before it was."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._early: dict[int, VenueEvent] = {}

    def take(self, events: Iterable[VenueEvent]) -> list[VenueEvent]:
        """What may be given out now."""
        for event in events:
            if event.venue_seq > self.last and len(self._early) < MOST_EARLY:
                self._early[event.venue_seq] = event
        ready = []
        while (event_or_none := self._early.pop(self.last + 1, None)) is not None:
            ready.append(event_or_none)
            self.last += 1
        return ready

    @property
    def hole(self) -> bool:
        """An event is missing before one that has come."""
        return bool(self._early)
