"""The audit trail: what happened, in the journal's order, each with its event sequence (control/record/timeline.py), in words and names.

Plans and events of the control plane have no place of their own among the ring records: they carry the number of the last record before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from control.record import records
from control.record.journal import decode_event, decode_plan
from control.record.past import Past
from control.record.queries import PIECE, Queries
from control.record.records import Record
from control.record.timeline import ring_records
from ipc import layout as l

_SIDES = {l.BUY: "buy", l.SELL: "sell", 0: ""}
#: names of what a row is, where its kind in small letters does not say it
_WHAT = {l.SWAPPED: "armed", l.REFUSED: "refused", l.LIFECYCLE: "position", l.CLOSED: "closed", l.CANCEL: "cancel", l.RELEASED: "released",
         l.MISSED: "missed", l.AFTERWARDS: "afterwards", l.PAPER_OPENED: "on paper", l.PAPER_CLOSED: "on paper", l.CONTEXT: "context"}
#: kinds of order-ring records whose lots are a size
_SIZED = frozenset((l.NEW, l.CLOSED, l.LIFECYCLE, l.PAPER_OPENED, l.PAPER_CLOSED))


class Audit:
    """Rows of the audit trail of a journal."""

    def __init__(self, past: Past) -> None:
        self.past, self.timeline, self.queries = past, past.timeline, Queries(past.journal)

    def rows(self, first: int, last: int, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` rows of what is between two numbers, oldest first."""
        found = [*self._ring(first, last, limit), *self._control("plans", first, last, limit), *self._control("events", first, last, limit)]
        return [row for _, row in sorted(found, key=lambda one: one[0])][-limit:]

    def _ring(self, first: int, last: int, limit: int) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        orders, reports = self.past.between(first, last)
        for kind, table, numbers, place, row_of in (
                (records.ORDER, self.timeline.orders, self.timeline.order_numbers, orders, self._order),
                (records.REPORT, self.timeline.reports, self.timeline.report_numbers, reports, self._report)):
            newest = slice(max(place.start, place.stop - limit), place.stop)
            for number, record in zip(numbers[newest].tolist(), ring_records(kind, table, newest), strict=True):
                yield (number, 0), {"seq": number, "time_ns": self.timeline.event_ns(number)} | row_of(record)

    # ── rings ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _order(self, record: Record) -> dict[str, Any]:
        row = record.row
        kind, fact = int(row["kind"]), self.queries.fact(record.incarnation, int(row["instrument"]))
        of_symbol = kind in (l.NEW, l.CANCEL, l.REFUSED, l.LIFECYCLE, l.CLOSED, l.CONTEXT, l.AFTERWARDS, l.PAPER_OPENED, l.PAPER_CLOSED)
        purpose = "exit" if row["purpose"] == l.EXIT else "entry"
        made = {"record": f"order {record.incarnation}/{record.seq}",
                "what": purpose if kind == l.NEW else _WHAT.get(kind) or l.INTENT_KINDS.get(kind, "order").lower(),
                "symbol": fact.symbol if of_symbol else "", "side": _SIDES.get(int(row["side"]), "") if of_symbol else "",
                "strategy": self.queries.strategy(record.incarnation, int(row["strategy"])) if of_symbol or kind == l.RELEASED else "",
                "size": fact.size_text(int(row["lots"])) if kind in _SIZED else "", "price": "",
                "position": str(int(row["position_id"]) or ""), "text": ""}
        why = self.queries.why(int(row["condition_id"])) if of_symbol else ""
        if kind == l.NEW:
            price = int(row["limit_price"]) or int(row["reference_price"])
            made["price"] = fact.price_text(price) if price else ""
            made["text"] = why if row["purpose"] == l.ENTRY else l.EXIT_REASONS[int(row["code"])]
        elif kind in (l.CLOSED, l.PAPER_CLOSED):
            trade = np.frombuffer(record.payload, l.TRADE, 1)[0]
            made["price"] = fact.price_text(int(trade["exit_price"]))
            made["text"] = (f"{l.EXIT_REASONS[int(trade['exit_reason'])]}, P&L {fact.cash_text(int(trade['pnl']))} after fees of "
                            f"{fact.cash_text(int(trade['fees']))}")
        elif kind == l.LIFECYCLE:
            made["text"] = self._lifecycle(row, fact)
        elif kind == l.PAPER_OPENED:
            made["price"] = fact.price_text(int(row["value"])) if row["value"] else ""
            made["text"] = f"twin of position {int(row['order_seq'])}" if row["order_seq"] else f"{l.POSITION_STATES[int(row['code'])]}: {why}"
        elif kind == l.CONTEXT:
            context = np.frombuffer(record.payload, l.ENTRY_CONTEXT, 1)[0]
            values = [*context["features"].tolist(), *context["more_features"].tolist()]
            made["text"] = ", ".join(f"{l.FEATURES[feature]} {value:.4g}" for feature, value in zip(l.CONTEXT_FEATURES, values, strict=True)
                                     if value == value)
        elif kind == l.AFTERWARDS:
            made["price"] = fact.price_text(int(row["reference_price"]))
            made["text"] = f"{int(row['code'])} minutes after the exit at {fact.price_text(int(row['limit_price']))}"
        elif kind == l.REFUSED:
            made["text"] = f"{l.REFUSALS[int(row['code'])]}: {why}"
        elif kind == l.SWAPPED:
            made["text"] = f"plan {int(row['plan_seq'])}: {int(row['value'])} conditions are armed"
        elif kind == l.MISSED:
            away = f" in {int(row['lots']) / 1e9:.3f} s" if row["lots"] else ""
            made["text"] = f"{int(row['value']):,} ticks{away}: {l.MISSED_CAUSES[int(row['code'])]}"
        elif kind == l.TIMER:
            made["text"] = f"no tick came; by the clock it was {int(row['value']) / 1e9:.3f} s later"
        return made

    def _lifecycle(self, row: Any, fact: records.InstrumentFact) -> str:
        text = f"{l.POSITION_STATES[int(row['leg'])]} → {l.POSITION_STATES[int(row['code'])]}"
        if row["flags"]:
            text += f" ({l.ADJUSTMENTS[int(row['flags'])]})"
        for name, price in (("stop", int(row["limit_price"])), ("target", int(row["reference_price"]))):
            text += f", {name} {fact.price_text(price)}" if price else ""
        return text.replace("_", " ")

    def _report(self, record: Record) -> dict[str, Any]:
        row = record.row
        kind, fact = int(row["kind"]), self.queries.fact(record.incarnation, int(row["instrument"]))
        own, earlier = int(row["order_seq"]), int(row["spare"])
        about = f"{record.incarnation}/{own}" if own else f"{earlier >> 40}/{earlier & ((1 << 40) - 1)}" if kind != l.BALANCE and earlier else ""
        made = {"record": f"report {record.incarnation}/{record.seq}", "what": l.REPORT_KINDS.get(kind, "report").lower(),
                "symbol": fact.symbol if about else "", "side": _SIDES.get(int(row["side"]), "") if about else "", "strategy": "", "size": "",
                "price": "", "position": "", "text": f"of order {about}" if about else ""}
        if kind == l.FILL:
            made["size"], made["price"] = fact.size_text(int(row["last_lots"])), fact.price_text(int(row["last_price"]))
            made["text"] += f", fee {fact.cash_text(int(row['fee']))}"
        elif kind == l.REJECTED:
            made["text"] += f": {l.REJECTS[int(row['code'])]}"
        elif kind == l.BALANCE:
            made["what"] = "statement" if row["code"] else "deposit"
            made["text"] = records.decimal_text(int(row["balance"]), self.past.exponent)
        return made

    # ── the control plane ────────────────────────────────────────────────────────────────────────────────────────────
    def _control(self, database: str, first: int, last: int, limit: int) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        """Sorted by when they were stored, where they stand behind the same record."""
        count = 0
        for record in self._back(database):
            behind = self.timeline.begins_behind(record.incarnation)
            number = max(behind, self.timeline.number_at(record.event_ns))
            if (place := max(number, behind + 1)) > last:  # a run's first events are of the day of its first record
                continue
            if place < first or count == limit:
                return
            count += 1
            row = _plan(record) if database == "plans" else _event(record)
            yield (number, record.wall_ns), {"seq": number, "time_ns": self.timeline.event_ns(place)} | row

    def _back(self, database: str) -> Iterator[Record]:
        """Newest first, in pieces."""
        before: bytes | None = None
        while piece := self.past.journal.before(database, before, PIECE):
            yield from (record for _, record in piece)
            before = piece[-1][0]


def _plan(record: Record) -> dict[str, Any]:
    plan = decode_plan(record.payload)
    part = f", part {plan.part + 1}" if plan.part or plan.more else ""
    text = "nothing changes" if plan.keep else plan.why or f"{len(plan.conditions)} conditions"
    return _named("plan", record, plan.strategy, text + part)


def _event(record: Record) -> dict[str, Any]:
    event = decode_event(record.payload)
    return _named("event", record, "", event.text) | {"what": event.kind}


def _named(what: str, record: Record, strategy: str, text: str) -> dict[str, Any]:
    return {"record": f"{what} {record.seq}", "what": what, "symbol": "", "side": "", "strategy": strategy, "size": "", "price": "", "position": "",
            "text": text}
