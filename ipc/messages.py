"""Every message on a socket, as tagged Structs: {"type": "...", ...}, in JSON (rows in MessagePack). One union a direction, one typed decoder each.

A request is three ZeroMQ frames behind the identity: request id (8 bytes, chosen by the client, echoed), payload.
Times are Unix nanoseconds of event time unless the name says wall. Prices and sizes are decimal strings: no float meets money.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ipc.texts import encoded

#: largest payload that a socket accepts
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
#: conditions that one message may carry, in words or as rows; a larger plan goes in parts
MAX_PLAN_CONDITIONS = 1000
#: bytes of their rows (layout.CONDITION)
MAX_ROWS_BYTES = MAX_PLAN_CONDITIONS * 320
#: characters of what people name a kind of trades by; a candidate's name holds its strategy's, a pattern's and a regime's
MAX_ABOUT = 200

Bps = Annotated[int, Meta(ge=0, le=10_000)]
#: Unix time; bounded so that shared memory can hold it with what is added to it
Nanoseconds = Annotated[int, Meta(ge=0, le=2**62)]
DecimalText = Annotated[str, Meta(pattern=r"^[0-9]{1,18}(\.[0-9]{1,18})?$")]
Symbol = Annotated[str, Meta(min_length=3, max_length=32)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,48}$")]
#: what a strategy calls something, "" without
Word = Annotated[str, Meta(max_length=48, pattern=r"^[A-Za-z0-9_ .+-]*$")]
#: a journaled plan's number, 0 before it has one; a part's place in its plan; ids of conditions
PlanNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
PlanPart = Annotated[int, Meta(ge=0, le=2**20)]
ConditionIds = Annotated[list[Annotated[int, Meta(ge=0, le=2**62)]], Meta(max_length=10_000)]


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=lambda name: name.lower(), kw_only=True):
    """Base of all messages; the tag is the class name in lower case."""


class Size(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much: `quote` and `base` are decimal strings in the instrument's currencies, `equity_bps` a share of equity."""

    kind: Literal["quote", "base", "equity_bps"]
    value: DecimalText


#: what the sniper knows of an instrument at each tick; formulas and units are in hotpath/kernel/features.py
FeatureName = Literal[
    "last", "bid", "ask", "mid", "microprice", "spread_bps", "imbalance", "ema_10s", "ema_60s", "ema_300s", "return_1s_bps",
    "return_10s_bps", "return_60s_bps", "return_300s_bps", "volatility_60s_bps", "volatility_300s_bps", "volume_burst", "flow_imbalance",
    "high_60s", "low_60s", "high_300s", "low_300s", "high_900s", "low_900s", "vwap_distance_bps", "trades_per_s", "trade_age_s",
    "quote_age_s"]


class Clause(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold besides, at the tick that fires: feature op value, or feature op value × other.

    A price is in the quote currency, everything else in the unit that its name says. A feature without a value (its window is not full yet)
    makes its clause false.
    """

    feature: FeatureName
    op: Literal[">", "<"]
    value: Annotated[float, Meta(ge=-1e12, le=1e12)] = 1.0
    other: FeatureName | None = None


class Rung(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A partial target: at `bps` from the average entry, `share` of what was entered is closed."""

    bps: Annotated[int, Meta(ge=1, le=10_000)]
    share: Annotated[float, Meta(ge=0.0001, le=1.0)]


class Condition(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry that the strategist asks for: enter when its trigger crosses in `direction` while every clause holds.

    The trigger is one of four: `price` crosses `level`; `price` crosses what lies `move_bps` from `anchor` (in the direction); `feature` crosses
    `value`; `price` comes back by `rebound_bps` from its lowest (up) or highest (down) since the condition was armed, or since it came to `level`.

    Stop and target are prices, or distances in bps from the entry fill; 0 means none, but a stop or a time stop must be there. From
    `break_even_bps` of gain on the stop is where nothing is lost, fees included. `ladder` closes parts before the target. Of the conditions of
    a plan that name the same `group` one fires. Valid from `valid_after_s` behind the plan's time, for `valid_for_s`.

    `pattern` and `regime` are what its strategy saw (a regime that it does not name is filled in); learning judges trades by them. `mark` is the last
    price when it was planned. Learning enlarges a size to `most_equity_bps` of equity at most (0: to the limits). One that is `paper` makes no order:
    it is followed as if it did, since learning keeps its kind from trading and wants to know if that is right.
    `twin_stop_pct` and `twin_target_pct` are learning's, too: beside its position the same trade is followed on paper with a stop, or a target,
    at so many percent of its distance (0: the same; both 0: no twin).
    """

    symbol: Symbol
    side: Literal["buy", "sell"]
    direction: Literal["up", "down"]
    size: Size
    confidence: Annotated[float, Meta(ge=0.0, le=1.0)]
    why: Annotated[str, Meta(min_length=1, max_length=500)]
    level: DecimalText | None = None
    price: Literal["last", "bid", "ask", "mid"] = "last"
    anchor: DecimalText | None = None
    move_bps: Bps = 0
    feature: FeatureName | None = None
    value: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    rebound_bps: Bps = 0
    order: Literal["market", "limit"] = "market"
    limit_price: DecimalText | None = None
    stop_bps: Bps = 0
    target_bps: Bps = 0
    trail_activation_bps: Bps = 0
    trail_distance_bps: Bps = 0
    time_stop_s: Annotated[int, Meta(ge=0, le=7 * 86_400)] = 0
    valid_for_s: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 1800
    max_fires: Annotated[int, Meta(ge=1, le=1000)] = 1
    cooldown_s: Annotated[int, Meta(ge=0, le=86_400)] = 0
    max_slippage_bps: Bps = 0
    clauses: Annotated[list[Clause], Meta(max_length=6)] = []
    group: Name | None = None
    valid_after_s: Annotated[int, Meta(ge=0, le=7 * 86_400)] = 0
    stop_price: DecimalText | None = None
    target_price: DecimalText | None = None
    break_even_bps: Bps = 0
    ladder: Annotated[list[Rung], Meta(max_length=4)] = []
    pattern: Word = ""
    regime: Word = ""
    mark: DecimalText | None = None
    most_equity_bps: Bps = 0
    paper: bool = False
    twin_stop_pct: Annotated[int, Meta(ge=0, le=255)] = 0
    twin_target_pct: Annotated[int, Meta(ge=0, le=255)] = 0
    #: of a perpetual when it was planned, above 0 where longs pay; not known: None
    funding_bps: Annotated[float, Meta(ge=-10_000, le=10_000)] | None = None


# ── control plane, between processes ─────────────────────────────────────────────────────────────────────────────────
class Ping(Message, frozen=True):
    """Are you there? → Pong."""


class Plan(Message, frozen=True):
    """All conditions of one strategy in words, for the journal. strategist → recorder (plan_seq 0), which answers with its number.

    `due_ns` is the event time it was made for, `next_due_ns` the event time of the next one. With `keep` nothing changes but the
    due time: the strategy failed, and what is armed keeps its expiry. With `add` its earlier conditions stay, but for those whose ids are in
    `withdraw`. A plan of more conditions than a message carries goes in parts, `part` 0 first; each is journaled under a number of its own, and
    all but the last one say that there is `more`, and all name the `whole` by its hash, so that equal parts are parts of equal plans.
    `knowledge_version` is that of what was known when it was made, `exchange` the hash of the prompt that it came of.
    """

    strategy: Name
    due_ns: Nanoseconds
    next_due_ns: Nanoseconds
    plan_seq: PlanNumber = 0
    why: str = ""
    keep: bool = False
    add: bool = False
    withdraw: ConditionIds = []
    part: PlanPart = 0
    more: bool = False
    whole: Annotated[str, Meta(max_length=64)] = ""
    knowledge_version: PlanNumber = 0
    exchange: Annotated[str, Meta(max_length=64)] = ""
    conditions: Annotated[list[Condition], Meta(max_length=MAX_PLAN_CONDITIONS)] = []


class Arm(Message, frozen=True):
    """A journaled plan, or a part of it, as the strategist compiled it: `rows` are its conditions in their order (layout.CONDITION).

    strategist → sniper. What it has in common with Plan means the same. Nothing is armed before the last part. → Planned; Refused with code
    `not_continued` where the parts before this one are not there (the sniper was replaced meanwhile): then they are sent again from the first on.
    """

    strategy: Name
    due_ns: Nanoseconds
    next_due_ns: Nanoseconds
    plan_seq: PlanNumber = 0
    keep: bool = False
    add: bool = False
    withdraw: ConditionIds = []
    part: PlanPart = 0
    more: bool = False
    rows: Annotated[bytes, Meta(max_length=MAX_ROWS_BYTES)] = b""


class Event(Message, frozen=True):
    """Something that happened in the control plane, for the journal."""

    source: str
    kind: str
    text: str
    wall_ns: Nanoseconds
    data: dict[str, Any] = {}


class Query(Message, frozen=True):
    """What a process knows: `what` names it, `limit` bounds the rows, `argument` selects. → Answer."""

    what: Name
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100
    argument: str = ""


class Operate(Message, frozen=True):
    """An operator's command for the sniper: close one position, flatten all, cancel working entries, move stop or target of a position, let a
    strategy make entries again. For the gateway: compare the book with the venue's account anew."""

    action: Literal["close", "flatten", "cancel_entries", "adjust", "release", "compare"]
    position: str = ""
    strategy: str = ""
    stop: DecimalText | None = None
    target: DecimalText | None = None


# ── operator, on the control socket ──────────────────────────────────────────────────────────────────────────────────
class Status(Message, frozen=True):
    """The instance and its processes."""


class Health(Message, frozen=True):
    """Health of each process and of the whole."""


class Positions(Message, frozen=True):
    """Open positions."""


class Conditions(Message, frozen=True):
    """Armed conditions with their distance."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Orders(Message, frozen=True):
    """Newest orders first."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 50


class Trades(Message, frozen=True):
    """Newest closed trades first."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 50


class Stats(Message, frozen=True):
    """Counters, refusals, latencies, equity."""


class Errors(Message, frozen=True):
    """What failed within the last hours and what was decided about it, newest first."""

    hours: Annotated[float, Meta(gt=0, le=8760)] = 24.0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 50


class Knowledge(Message, frozen=True):
    """What is known of each kind of trades, or figures by one dimension (`about`: side, exit, …, version), or what is known of one coin."""

    about: Annotated[str, Meta(max_length=MAX_ABOUT)] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Adaptations(Message, frozen=True):
    """What was learned and changes plans, or did, newest first; `about` selects a stage, a family, or a value."""

    about: Annotated[str, Meta(max_length=MAX_ABOUT)] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Why(Message, frozen=True):
    """Explain an adaptation by its number, a position by its id, or a kind of trades by its value or its family and value (hour 14)."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ABOUT)]


class Replan(Message, frozen=True):
    """Let every strategy that chooses its own time plan now. Also what the strategist is asked."""


class Reflect(Message, frozen=True):
    """Look at what trades say now, and decide. Also what reflection is asked."""


class Pause(Message, frozen=True):
    """No new entries until resume; exits go on."""


class Resume(Message, frozen=True):
    """Entries again."""


class Safe(Message, frozen=True):
    """Safe mode until resume: no entries, working entries cancelled, positions as `safety.positions` says."""


class Close(Message, frozen=True):
    """Close one position by its id (or by SYMBOL)."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]


class Adjust(Message, frozen=True):
    """Move stop or target of one position, given by its id (or SYMBOL)."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    stop: DecimalText | None = None
    target: DecimalText | None = None


class Release(Message, frozen=True):
    """Let a strategy make entries again that has repeated itself too often."""

    strategy: Name


class Flatten(Message, frozen=True):
    """Pause, cancel working entries and close all positions."""


class Stop(Message, frozen=True):
    """Stop the instance in order."""


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Pong(Message, frozen=True):
    """Alive."""

    role: str
    pid: int


class Done(Message, frozen=True):
    """The request was carried out."""

    text: str = ""
    data: dict[str, Any] = {}


class Planned(Message, frozen=True):
    """A plan is durable (from the recorder) or armed (from the sniper: generation > 0)."""

    plan_seq: int
    generation: int = 0
    armed: int = 0
    refused: list[str] = []


class Answer(Message, frozen=True):
    """Rows and facts that a query asked for."""

    data: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []


class Refused(Message, frozen=True):
    """Not done: what is wrong, with the field, and what to do."""

    code: str
    text: str
    remedy: str = ""


class Unavailable(Message, frozen=True):
    """The process that knows is not there, or did not answer in time."""

    role: str
    text: str = ""


#: what a child accepts on its own socket
ChildRequest = Ping | Plan | Arm | Event | Query | Operate | Reflect | Replan
#: what the control socket accepts
ControlRequest = (Ping | Status | Health | Positions | Conditions | Orders | Trades | Stats | Errors | Knowledge | Adaptations | Why | Reflect |
                  Replan | Pause | Resume | Safe | Close | Adjust | Release | Flatten | Stop)
Reply = Pong | Done | Planned | Answer | Refused | Unavailable

_json, _json_child = msgspec.json.Encoder(), msgspec.json.Decoder(ChildRequest)
_packed, _packed_arm = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Arm)
decode_control_request = msgspec.json.Decoder(ControlRequest).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def encode(message: Any) -> bytes:
    """A message as JSON; rows as MessagePack, since JSON has bytes only as base64, which takes longer than arming them."""
    return encoded(_packed if isinstance(message, Arm) else _json, message)


def decode_child_request(payload: bytes) -> ChildRequest:
    """A request: in MessagePack, whose maps begin beyond ASCII, only rows. Raises msgspec.DecodeError."""
    return _packed_arm.decode(payload) if payload[:1] > b"\x7f" else _json_child.decode(payload)
