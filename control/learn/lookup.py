"""What the journal knows of a trade's origin: its instrument, its strategy, its condition, the order that it began with."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.record.journal import Journal
from control.record.queries import Queries
from control.record.records import InstrumentFact, decode, ring_key
from ipc import layout as l
from ipc.messages import Condition

#: plans whose conditions are kept
_MOST_PLANS: Final = 16


class _Planned(Struct):
    conditions: list[Condition] = []
    exchange: str = ""


_decode_planned = msgspec.json.Decoder(_Planned).decode


class JournalLookUp:
    """See LookUp in control/learn/follower.py."""

    def __init__(self, journal: Journal, log: logging.Logger) -> None:
        """`log` is told once of each plan that cannot be read."""
        self._journal, self._queries, self._log = journal, Queries(journal), log
        self._plans: dict[int, _Planned] = {}
        self._unreadable: set[int] = set()

    def fact(self, incarnation: int, instrument: int) -> InstrumentFact:
        """An instrument."""
        return self._queries.fact(incarnation, instrument)

    def strategy(self, incarnation: int, strategy: int) -> str:
        """A strategy's name."""
        return self._queries.strategy(incarnation, strategy)

    def condition(self, condition_id: int) -> Condition | None:
        """The condition of an id."""
        conditions, place = self._planned(condition_id).conditions, condition_id & ((1 << l.PLAN_SHIFT) - 1)
        return conditions[place] if place < len(conditions) else None

    def exchange(self, condition_id: int) -> str:
        """Hash of the prompt that its plan came of; empty where no model was asked."""
        return self._planned(condition_id).exchange

    def _planned(self, condition_id: int) -> _Planned:
        number = condition_id >> l.PLAN_SHIFT
        if number not in self._plans:
            payload = self._journal.plan_payload(number)
            if payload is None:
                return _Planned()
            if len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            try:
                self._plans[number] = _decode_planned(payload)
            except msgspec.DecodeError as error:  # of another version of the program: what it called its conditions is not known
                self._plans[number] = _Planned()
                if number not in self._unreadable:
                    self._unreadable.add(number)
                    self._log.warning("plan %d cannot be read: %s; its trades are learned without pattern, regime, reason, confidence, distance, "
                                      "the model's answer and twins", number, error)
        return self._plans[number]

    def entry(self, position_id: int) -> Any:
        """The NEW record that a position began with."""
        return self.order(position_id >> 40, position_id & ((1 << 40) - 1))

    def order(self, incarnation: int, seq: int) -> Any:
        """A record of the order ring; None where the journal does not hold it."""
        with self._journal.reading() as transaction:
            value = transaction.get(ring_key(incarnation, seq), db=self._journal.databases["orders"])
        return None if value is None else decode(value).row
