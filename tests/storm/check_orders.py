"""Rules of orders: sent once, ended once, told once, fired as often as permitted."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from typing import Any

from ipc import layout as l
from tests.storm.bookkeeping import Book
from tests.storm.evidence import Evidence

_ENDED = {l.ORD_FILLED: "FILLED", l.ORD_CANCELLED: "CANCELLED", l.ORD_REJECTED: "REJECTED", l.ORD_EXPIRED: "EXPIRED"}
_END_OF = {l.FILL: l.ORD_FILLED, l.CANCELLED: l.ORD_CANCELLED, l.REJECTED: l.ORD_REJECTED, l.EXPIRED: l.ORD_EXPIRED}
#: a condition's id: number of its plan, place in it
_PLACE = (1 << l.PLAN_SHIFT) - 1


def order_seq_of(evidence: Evidence, client_id: str) -> int:
    """Order-ring sequence that a client order id names; 0 for one of another instance or incarnation, and for what is none."""
    try:
        number = int.from_bytes(base64.b32decode(client_id.upper()), "big")
    except ValueError:
        return 0
    own = (evidence.facts.instance_number, evidence.incarnation)
    return number & (1 << 40) - 1 if (number >> 56, number >> 40 & 0xFFFF) == own else 0


def sent_once(evidence: Evidence, book: Book, tell: Any) -> None:
    """Orders at the venue against intents, and against what the gateway announced of its own; `book` has taken every report."""
    made = {seq: order.row for seq, order in book.orders.items()}
    at_venue: dict[int, str] = {}
    answers = Counter(event["client_id"] for event in evidence.venue_events if event["kind"] in (l.ACCEPTED, l.REJECTED))
    twice = Counter(event["client_id"] for event in evidence.venue_events if event["code"] == l.REJ_DUPLICATE)
    for client_id, order in evidence.venue_orders.items():
        seq = order_seq_of(evidence, client_id)
        row = made.get(seq)
        if row is None:
            tell("sent_once", f"order {client_id} is at the venue, and no intent of this run made it")
            continue
        if seq in at_venue:
            tell("sent_once", f"intent {seq} is at the venue twice: {at_venue[seq]} and {client_id}")
        at_venue[seq] = client_id
        if answers[client_id] != 1 or twice[client_id]:
            tell("sent_once", f"order {client_id} (intent {seq}) was acknowledged {answers[client_id]} times")
        fact = evidence.facts.instruments[int(row["instrument"])]
        wanted = (fact["symbol"], int(row["side"]), int(row["order_type"]), int(row["lots"]), int(row["limit_price"]),
                  bool(int(row["flags"]) & l.INTENT_REDUCE_ONLY), evidence.facts.strategies[int(row["strategy"])])
        got = tuple(order[name] for name in ("symbol", "side", "order_type", "lots", "limit_price", "reduce_only", "account"))
        if wanted != got:
            tell("sent_once", f"intent {seq} is {wanted}, the venue has {got}")
    attempts = Counter((int(row["position_id"]), int(row["leg"]), int(row["attempt"])) for row in made.values()
                       if int(row["purpose"]) == l.EXIT and int(row["leg"]))
    for (position, leg, attempt), count in attempts.items():
        if count > 1:
            tell("sent_once", f"attempt {attempt} of leg {leg} of position {position} was made {count} times")


def events_once(evidence: Evidence, tell: Any) -> None:
    """What the venue says has happened, against what was reported."""
    events: dict[int, dict[str, Any]] = {}
    for place, event in enumerate(evidence.venue_events, 1):
        if (event["key"], event["venue_seq"]) != (place, place):
            tell("event_once", f"the ledger's event {event['key']} (it calls itself {event['venue_seq']}) stands at place {place}")
            break
    for event in evidence.venue_events:
        events[event["venue_seq"]] = event
    if evidence.account["venue_seq"] != len(evidence.venue_events):
        tell("event_once", f"the ledger counts {evidence.account['venue_seq']} events, and has {len(evidence.venue_events)}")
    told: dict[int, int] = {}
    for seq, row in evidence.reports:
        number = int(row["venue_seq"])
        if number <= 0:
            continue
        if number in told:
            tell("event_once", f"venue event {number} ({l.REPORT_KINDS[int(row['kind'])]}) is reported twice: {told[number]} and {seq}")
        told[number] = seq
        event = events.get(number)
        if event is None:
            tell("event_once", f"report {seq} tells venue event {number}, which the ledger does not have")
        elif (differ := _differences(evidence, event, row)):
            tell("event_once", f"report {seq} of venue event {number}: {', '.join(differ)}")
    for number in events.keys() - told.keys():
        tell("event_once", f"venue event {number} ({l.REPORT_KINDS[events[number]['kind']]} of {events[number]['client_id'] or 'the account'}) "
                           "was never reported")


def _differences(evidence: Evidence, event: dict[str, Any], row: Any) -> list[str]:
    pairs = {name: (event[name], int(row[name])) for name in ("kind", "code", "event_ns", "tick_seq")}
    if event["kind"] == l.BALANCE:
        pairs["balance"] = (event["balance"] if event["code"] else event["lots"], int(row["balance"]))
    else:
        pairs |= {name: (event[name], int(row[name])) for name in ("side", "liquidity", "cum_lots", "cum_quote", "venue_order_id")}
        pairs["order"] = (order_seq_of(evidence, event["client_id"]), int(row["order_seq"]))
        pairs["symbol"] = (event["symbol"], evidence.facts.instruments[int(row["instrument"])]["symbol"])
    if event["kind"] == l.FILL:
        pairs |= {"lots": (event["lots"], int(row["last_lots"])), "price": (event["price"], int(row["last_price"])),
                  "fee": (event["fee"], int(row["fee"])), "trade_id": (event["venue_seq"], int(row["trade_id"])),
                  "balance": (event["balance"], int(row["balance"]))}
    return [f"{name} is {theirs} in the ledger, {ours} in the journal" for name, (theirs, ours) in pairs.items() if theirs != ours]


def terminal(evidence: Evidence, book: Book, tell: Any) -> None:
    """Each intent's end; `book` has taken every report."""
    kinds = {seq: int(row["kind"]) for seq, row in evidence.reports}
    by_seq = {order_seq_of(evidence, client_id): order for client_id, order in evidence.venue_orders.items()}
    for seq, order in book.orders.items():
        name = f"order {seq} ({'entry' if int(order.row['purpose']) == l.ENTRY else 'exit'} of position {int(order.row['position_id'])})"
        if len(order.ends) != 1 or order.late:
            tell("terminal", f"{name} has {len(order.ends)} terminal reports {order.ends}, and {order.late} reports behind the first")
            continue
        end = kinds[order.ends[0]]
        venue = by_seq.get(seq)
        if end == l.LOST and venue is not None:
            tell("terminal", f"{name} was given up as lost, but the venue has it")
        elif end == l.FILL and venue is None:
            tell("terminal", f"{name} is filled, but the venue never had it")
        elif venue is not None and venue["state"] != _END_OF.get(end):
            tell("terminal", f"{name} ended with {l.REPORT_KINDS[end]}, at the venue it is {_ENDED.get(venue['state'], 'working')}")
        if venue is not None and (venue["cum_lots"], venue["cum_quote"]) != (order.lots, order.quote):
            tell("terminal", f"{name}: its fills make {order.lots} lots for {order.quote}, the venue says {venue['cum_lots']} for "
                             f"{venue['cum_quote']}")
    unknown = {int(row["order_seq"]) for _, row in evidence.reports if int(row["kind"]) == l.UNKNOWN}
    for seq in unknown - {seq for seq, order in book.orders.items() if order.ends}:
        tell("terminal", f"order {seq} was left unknown")


def fires(evidence: Evidence, tell: Any) -> None:
    """Entries against the conditions of the journaled plans."""
    fired: dict[int, list[int]] = defaultdict(list)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for seq, row in evidence.orders:
        if int(row["kind"]) != l.NEW or int(row["purpose"]) != l.ENTRY:
            continue
        identity = int(row["condition_id"])
        plan = evidence.plans.get(identity >> l.PLAN_SHIFT)
        if plan is None or (identity & _PLACE) >= len(plan["conditions"]):
            tell("fires", f"entry {seq} is of condition {identity}, which no journaled plan has")
            continue
        condition = plan["conditions"][identity & _PLACE]
        fact = evidence.facts.instruments[int(row["instrument"])]
        if (fact["symbol"], evidence.facts.strategies[int(row["strategy"])], "buy" if int(row["side"]) > 0 else "sell") != (
                condition["symbol"], plan["strategy"], condition["side"]):
            tell("fires", f"entry {seq} is not what its condition {identity} asks for")
        fired[identity].append(int(row["fire_index"]))
        if condition.get("group"):
            groups[identity >> l.PLAN_SHIFT, condition["group"]].append(seq)
    for identity, indices in fired.items():
        most = evidence.plans[identity >> l.PLAN_SHIFT]["conditions"][identity & _PLACE].get("max_fires", 1)
        if len(indices) > most or sorted(indices) != list(range(len(indices))):
            tell("fires", f"condition {identity} may fire {most} times, and fired {len(indices)} times, under the indices {sorted(indices)}")
    for (plan_seq, group), entries in groups.items():
        if len(entries) > 1:
            tell("fires", f"of group {group} of plan {plan_seq} one may fire, these entries came of it: {entries}")
