"""Answers of the recorder, for people and scripts: names instead of ids, decimal strings instead of ticks, lots and quanta.

A query reads the newest rows backwards through an index and costs what it shows, not what is stored.
"""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.record.journal import Journal, decode_event, decode_plan, facts_of
from control.record.records import InstrumentFact, Record, decode, ring_key, ring_key_of
from control.record.run_start import changed_keys
from ipc import layout as l
from ipc import messages
from ipc.messages import Answer, Message, Query, Refused

#: a condition's id = the number of its plan (or its part of one) × this + its place there
CONDITIONS_PER_PLAN: Final = 1 << l.PLAN_SHIFT
#: report kind → order state, in words of the order state machine; FILL depends on what is left
_STATES: Final = {l.ACCEPTED: l.ORD_ACCEPTED, l.CANCELLED: l.ORD_CANCELLED, l.REJECTED: l.ORD_REJECTED, l.EXPIRED: l.ORD_EXPIRED,
                  l.UNKNOWN: l.ORD_UNKNOWN, l.LOST: l.ORD_LOST, l.ADOPTED: l.ORD_ACCEPTED}
#: longest that the recorder works on one answer, and records that it reads in one transaction
LONGEST_S: Final = 0.2
_HOUR_NS: Final = 3_600_000_000_000
PIECE: Final = 32
#: bits of an earlier order's key below its incarnation
_KEY_BITS: Final = 40
#: what an event's data say of a decision (hotpath/errors.py)
DECISION: Final = ("activity", "class", "decision", "pause_s", "in_a_row", "errors_per_h", "recoveries_per_h")
_SIDES: Final = {l.BUY: "buy", l.SELL: "sell"}
#: stands in for an instrument that no run_start names: plain ticks, lots and quanta
_NO_FACT: Final = InstrumentFact(id=-1, symbol="?", kind="unknown", quote="", tick_mantissa=1, tick_exponent=0, lot_mantissa=1,
                                 lot_exponent=0, value_quanta=1, quantum_exponent=0, maker_fee_e8=0, taker_fee_e8=0)


class _Why(Struct):
    why: str = ""


class _Whys(Struct):
    """Of a plan's payload only what `why` shows; the rest is passed over, which is many times faster."""

    conditions: list[_Why] = []


_decode_whys = msgspec.json.Decoder(_Whys).decode


class Queries:
    """Answers from one journal; `order_id` gives the venue's id of (incarnation, order sequence)."""

    def __init__(self, journal: Journal, order_id: Callable[[int, int], str] | None = None) -> None:
        self.journal = journal
        self._order_id = order_id or (lambda incarnation, seq: f"{incarnation}/{seq}")
        self._instruments: dict[int, dict[int, InstrumentFact]] = {}
        self._strategies: dict[int, list[str]] = {}
        self._why: dict[int, list[str]] = {}
        self._until = math.inf

    def answer(self, query: Query) -> Message:
        """Rows or facts; Refused where nobody here knows."""
        self._until = time.monotonic() + LONGEST_S
        match query.what:
            case "orders":
                return self._rows(self.orders(query.limit), query.limit)
            case "trades":
                return self._rows(self.trades(query.limit), query.limit)
            case "plans":
                return self._rows(self.plans(query.limit, query.argument), query.limit)
            case "events":
                return self._rows(self.events(query.limit, query.argument), query.limit)
            case "errors":
                return self._answer_errors(query)
            case "why":
                return self._answer_why(query.argument)
            case "run":
                return Answer(data=self.run())
            case "in_force":
                return Answer(rows=self.in_force())
        return Refused(code="unknown_query", text=f"what: the recorder does not know {query.what!r}",
                       remedy="ask it for orders, trades, plans, in_force, events, errors, why or run")

    def _late(self) -> bool:
        """The recorder has rings to drain: an answer that takes longer is cut off."""
        return time.monotonic() > self._until

    def _rows(self, rows: list[dict[str, Any]], limit: int) -> Answer:
        if len(rows) >= limit or not self._late():  # all that was asked for is no part of an answer, however long it took
            return Answer(rows=rows)
        return Answer(rows=rows, data={"cut_off": f"only the newest {len(rows)}: more would keep the recorder too long"})

    def _newest(self, database: str) -> Iterator[Record]:
        """Newest first, in pieces, until it is late."""
        before: bytes | None = None
        while not self._late():
            piece = self.journal.before(database, before, PIECE)
            for _, record in piece:
                yield record
                if self._late():
                    return
            if len(piece) < PIECE:
                return
            before = piece[-1][0]

    def orders(self, limit: int) -> list[dict[str, Any]]:
        """Newest orders first, each with its state by the reports so far."""
        journal = self.journal
        with journal.reading() as transaction:
            sent = []
            with transaction.cursor(journal.databases["sent"]) as cursor:
                if cursor.last():
                    for key in cursor.iterprev(values=False):
                        sent.append(bytes(key))
                        if len(sent) == limit:
                            break
            intents = [decode(transaction.get(key, db=journal.databases["orders"])) for key in sent]
            reports = _reports_of(transaction, journal, intents)
        rows = []
        for intent in intents:
            rows.append(self._order_row(intent, reports[intent.incarnation, intent.seq]))
            if self._late():
                break
        return rows

    def _order_row(self, intent: Record, reports: list[Record]) -> dict[str, Any]:
        new = intent.row
        fact = self.fact(intent.incarnation, int(new["instrument"]))
        state, cum_lots, cum_quote, fees, code, updated_ns = l.ORD_NONE, 0, 0, 0, 0, intent.event_ns
        for report in reports:
            row = report.row
            kind = int(row["kind"])
            cum_lots, cum_quote = max(cum_lots, int(row["cum_lots"])), max(cum_quote, int(row["cum_quote"]))
            if kind == l.FILL:
                fees += int(row["fee"])
                state = l.ORD_FILLED if cum_lots >= int(new["lots"]) else l.ORD_PARTLY_FILLED
            else:
                state = _STATES.get(kind, state)
            code, updated_ns = int(row["code"]), report.event_ns
        filled_ticks = cum_quote / (cum_lots * fact.value_quanta) if cum_lots else 0.0
        return {
            "id": self._order_id(intent.incarnation, intent.seq), "time_ns": intent.event_ns, "updated_ns": updated_ns,
            "symbol": fact.symbol, "strategy": self.strategy(intent.incarnation, int(new["strategy"])),
            "purpose": "exit" if new["purpose"] == l.EXIT else "entry", "side": _SIDES.get(int(new["side"]), "?"),
            "order": l.ORDER_TYPES.get(int(new["order_type"]), "?"), "state": l.ORDER_STATES[state].lower(),
            "size": fact.size_text(int(new["lots"])), "filled": fact.size_text(cum_lots),
            "limit_price": fact.price_text(int(new["limit_price"])) if new["limit_price"] else "",
            "average_price": fact.price_text(round(filled_ticks)) if cum_lots else "", "fees": fact.cash_text(fees),
            "reason": _name(l.EXIT_REASONS, int(new["code"])) if new["purpose"] == l.EXIT else "",
            "reject": _name(l.REJECTS, code) if state == l.ORD_REJECTED else "",
            "position": str(int(new["position_id"])), "plan_seq": int(new["plan_seq"]), "why": self.why(int(new["condition_id"])),
        }

    def trades(self, limit: int) -> list[dict[str, Any]]:
        """Newest closed trades first; `pnl` is after `fees`."""
        return [self.trade_row(record) for record in itertools.islice(self._newest("trades"), limit)]

    def trade_row(self, record: Record) -> dict[str, Any]:
        """A closed trade by its TRADE record."""
        trade = record.row
        fact = self.fact(record.incarnation, int(trade["instrument"]))
        return {
            "time_ns": record.event_ns, "opened_ns": int(trade["opened_ns"]),
            "held_s": round((record.event_ns - int(trade["opened_ns"])) / 1e9, 3), "symbol": fact.symbol,
            "strategy": self.strategy(record.incarnation, int(trade["strategy"])), "side": _SIDES.get(int(trade["side"]), "?"),
            "size": fact.size_text(int(trade["lots"])), "entry_price": fact.price_text(int(trade["entry_price"])),
            "exit_price": fact.price_text(int(trade["exit_price"])), "pnl": fact.cash_text(int(trade["pnl"])),
            "fees": fact.cash_text(int(trade["fees"])), "reason": _name(l.EXIT_REASONS, int(trade["exit_reason"])),
            "position": str(int(trade["position_id"])), "plan_seq": int(trade["plan_seq"]), "why": self.why(int(trade["condition_id"])),
        }

    def plans(self, limit: int, strategy: str = "") -> list[dict[str, Any]]:
        """Newest plans first (of a large one each part), their conditions as they were sent; `strategy` selects."""
        rows: list[dict[str, Any]] = []
        for record in self._newest("plans"):
            plan = decode_plan(record.payload)
            if strategy in ("", plan.strategy):
                rows.append({"plan_seq": plan.plan_seq, "time_ns": plan.due_ns, "next_ns": plan.next_due_ns, "strategy": plan.strategy,
                             "why": plan.why, "knowledge_version": plan.knowledge_version,
                             "keep": plan.keep, "part": plan.part, "more": plan.more, "conditions": len(plan.conditions),
                             "whys": [f"{condition.symbol}: {condition.why}" for condition in plan.conditions[:20]]})
                if len(rows) == limit:
                    break
        return rows

    def in_force(self) -> list[dict[str, Any]]:
        """Of each strategy the newest plan that the hot loop has taken over, and what of the configuration has changed since the run that made it."""
        configs = {incarnation: event.data.get("config") or {} for incarnation, event in self.journal.run_starts().items()}
        now, rows = configs.get(self.journal.cursors().incarnation, {}), []
        for name, plans in self.journal.in_force().items():
            if plans.plans:
                newest = plans.plans[-1]
                changed = changed_keys(configs.get(self.journal.plan_incarnation(newest.number), {}), now)
                rows.append({"strategy": name, "plan_seq": newest.number, "time_ns": newest.due_ns, "next_ns": newest.next_due_ns,
                             "changed": changed, "knowledge_version": plan.knowledge_version if (plan := self.journal.plan(newest.number)) else 0})
        return rows

    def events(self, limit: int, kind: str = "") -> list[dict[str, Any]]:
        """Newest events first; `kind` selects."""
        rows: list[dict[str, Any]] = []
        for record in self._newest("events"):
            event = decode_event(record.payload)
            if kind in ("", event.kind):
                rows.append({"number": record.seq, "time_ns": record.event_ns, "wall_ns": event.wall_ns, "source": event.source,
                             "kind": event.kind, "text": event.text, "data": event.data if event.kind != "run_start" else {}})
                if len(rows) == limit:
                    break
        return rows

    def errors(self, limit: int, since_wall_ns: int) -> list[dict[str, Any]]:
        """Newest decisions about failures first, and what works again: events whose data hold a decision.

        Rates are counted here, by the wall clock: the process that decided may have begun a moment before, and known of nothing earlier. Its own word
        stands where the answer is cut off before a row's hour was read.
        """
        rows: list[dict[str, Any]] = []
        earlier: dict[tuple[str, str], list[messages.Event]] = {}
        read_ns = 0
        for record in self._newest("events"):
            event = decode_event(record.payload)
            read_ns = event.wall_ns
            shown = event.wall_ns >= since_wall_ns and len(rows) < limit
            if not shown and event.wall_ns <= (rows[-1]["wall_ns"] if rows else since_wall_ns) - _HOUR_NS:
                break
            if "decision" in event.data:
                process = event.data.get("role", event.source)
                earlier.setdefault((process, event.data.get("activity", "")), []).append(event)
                if shown:
                    rows.append({"wall_ns": event.wall_ns, "process": process, "kind": event.kind,
                                 **{name: event.data.get(name, "") for name in DECISION}, "text": event.text})
        for (process, activity), events in earlier.items():
            _count_rates([row for row in rows if (row["process"], row["activity"]) == (process, activity)
                          and not (self._late() and row["wall_ns"] - _HOUR_NS < read_ns)], events)
        return rows

    def _answer_errors(self, query: Query) -> Message:
        try:
            hours = float(query.argument or 24)
        except ValueError:
            return Refused(code="argument", text=f"argument: {query.argument[:60]!r} is not a number of hours", remedy='say it like "24"')
        return self._rows(self.errors(query.limit, int(time.time_ns() - hours * 3.6e12)), query.limit)

    def run(self) -> dict[str, Any]:
        """What is stored, of which run."""
        stored, counts = self.journal.cursors(), {}
        with self.journal.reading() as transaction:
            for name in ("orders", "reports", "trades", "plans", "events", "snapshots"):
                counts[name] = transaction.stat(self.journal.databases[name])["entries"]
        self._facts(stored.incarnation)
        return {"incarnation": stored.incarnation, "last_order_seq": stored.orders, "last_report_seq": stored.reports,
                "last_event_ns": stored.event_ns, "records": counts, "strategies": self._strategies.get(stored.incarnation, []),
                "symbols": [fact.symbol for fact in self._instruments.get(stored.incarnation, {}).values()]}

    def why(self, condition_id: int) -> str:
        """The text of the condition that an intent came from; empty where its plan is not known."""
        number, place = divmod(condition_id, CONDITIONS_PER_PLAN)
        if number <= 0:
            return ""
        if number not in self._why:
            payload = self.journal.plan_payload(number)
            if len(self._why) >= 1000:
                self._why.clear()
            self._why[number] = [] if payload is None else [condition.why for condition in _decode_whys(payload).conditions]
        texts = self._why[number]
        return texts[place] if place < len(texts) else ""

    def _answer_why(self, argument: str) -> Message:
        try:
            ids = [int(word) for word in argument.split(",")]
        except ValueError:
            return Refused(code="argument", text=f"argument: {argument[:60]!r} is not a list of condition ids",
                           remedy='name them like "2048,2049"')
        return Answer(rows=[{"condition": str(one), "why": self.why(one)} for one in ids[:10_000]])

    def fact(self, incarnation: int, instrument: int) -> InstrumentFact:
        """What an incarnation's run_start says of an instrument."""
        return self._facts(incarnation).get(instrument, _NO_FACT)

    def _facts(self, incarnation: int) -> dict[int, InstrumentFact]:
        if incarnation not in self._instruments:
            for of, event in self.journal.run_starts().items():
                self._instruments[of] = facts_of(event)
                self._strategies[of] = list(event.data.get("strategies", []))
        return self._instruments.get(incarnation, {})

    def strategy(self, incarnation: int, strategy: int) -> str:
        """The name of an incarnation's strategy."""
        self._facts(incarnation)
        names = self._strategies.get(incarnation, [])
        return names[strategy] if strategy < len(names) else str(strategy)


def _count_rates(rows: list[dict[str, Any]], events: list[messages.Event]) -> None:
    """Failures and recoveries of one activity within the hour up to each row."""
    events = sorted(events, key=lambda event: event.wall_ns)
    times = [0 if event.data["decision"] == "recovered" else int(event.data.get("times", 1)) for event in events]
    errors, recoveries = ([0, *itertools.accumulate(counts)] for counts in (times, [int(not one) for one in times]))
    walls = [event.wall_ns for event in events]
    for row in rows:
        first, last = bisect.bisect_right(walls, row["wall_ns"] - _HOUR_NS), bisect.bisect_right(walls, row["wall_ns"])
        row["errors_per_h"], row["recoveries_per_h"] = errors[last] - errors[first], recoveries[last] - recoveries[first]


def _name(names: tuple[str, ...], code: int) -> str:
    return names[code] if code < len(names) else str(code)


def _reports_of(transaction: Any, journal: Journal, intents: list[Record]) -> dict[tuple[int, int], list[Record]]:
    """Reports of some NEW orders, oldest first: walked backwards down to what the oldest of them had already seen."""
    wanted = {(intent.incarnation, intent.seq) for intent in intents}
    found: dict[tuple[int, int], list[Record]] = {key: [] for key in wanted}
    if not intents:
        return found
    oldest = intents[-1]
    stop = ring_key(oldest.incarnation, int(oldest.row["report_seq"]))
    with transaction.cursor(journal.databases["reports"]) as cursor:
        if cursor.last():
            for key, value in cursor.iterprev():
                if key <= stop:
                    break
                # the order's sequence is the report's cause, in the header: most need no decoding
                of = (ring_key_of(key)[0], int.from_bytes(value[40:48], "little"))
                if not of[1]:  # of an order of an earlier run, whose key it has
                    earlier = int(decode(value).row["spare"])
                    of = (earlier >> _KEY_BITS, earlier & (1 << _KEY_BITS) - 1)
                if of in wanted:
                    found[of].append(decode(value))
    for reports in found.values():
        reports.reverse()
    return found


assert messages.MAX_PLAN_CONDITIONS <= CONDITIONS_PER_PLAN, "a condition's place must fit into its id"
