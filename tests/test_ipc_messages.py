"""Messages: whatever one side can say the other understands as the same; whatever else arrives is one named error and never a half-read message."""

from __future__ import annotations

import contextlib
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc import layout as l
from ipc import messages

UNIONS: dict[str, tuple[Any, Any]] = {
    "child": (messages.ChildRequest, messages.decode_child_request),
    "control": (messages.ControlRequest, messages.decode_control_request),
    "reply": (messages.Reply, messages.decode_reply),
}
MEMBERS = [(name, member) for name, (union, _) in UNIONS.items() for member in get_args(union)]
#: what a decoder may raise (the last for text that is no UTF-8); a server answers each with a refusal
MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
#: any text that JSON can carry
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
#: what a field of type `Any` may hold
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def values(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Every value that a message's type allows, from the type itself: a new message is tested as soon as it exists."""
    match kind:
        case msgspec.inspect.StructType():
            return st.builds(kind.cls, **{field.name: values(field.type) for field in kind.fields})
        case msgspec.inspect.UnionType():
            return st.one_of([values(one) for one in kind.types])
        case msgspec.inspect.IntType():
            return st.integers(kind.ge if kind.ge is not None else -(1 << 63), kind.le if kind.le is not None else (1 << 63) - 1)
        case msgspec.inspect.FloatType():
            least = kind.ge if kind.ge is not None else kind.gt
            return st.floats(least, kind.le, exclude_min=kind.gt is not None, allow_nan=False, allow_infinity=False)
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern.removesuffix("$") + r"\Z")
        case msgspec.inspect.StrType():
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=kind.min_length or 0, max_size=kind.max_length or 20)
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.ListType():
            return st.lists(values(kind.item_type), max_size=2)
        case msgspec.inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.AnyType():
            return JSON
    raise AssertionError(f"no values for {kind}: add its type here")


CONDITION: dict[str, Any] = {
    "symbol": "BTC/USDT", "side": "buy", "level": "61250", "direction": "up", "size": {"kind": "equity_bps", "value": "200"}, "confidence": 0.8,
    "why": "breakout", "stop_bps": 80}


def plan(**changes: Any) -> bytes:
    """A plan of one condition as it travels, with changes in the condition."""
    return json.dumps({"type": "plan", "strategy": "momentum", "due_ns": 1, "next_due_ns": 2, "conditions": [{**CONDITION, **changes}]}).encode()


# ── round trip ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("union", "member"), MEMBERS, ids=[f"{union}-{member.__name__}" for union, member in MEMBERS])
def test_every_message_comes_back_as_it_was_sent(union: str, member: Any) -> None:
    decode = UNIONS[union][1]

    @settings(max_examples=10, deadline=None)
    @given(values(msgspec.inspect.type_info(member)))
    def travels(message: Any) -> None:
        came = decode(messages.encode(message))
        assert came == message
        assert type(came) is member

    travels()


@pytest.mark.parametrize("union", UNIONS)
def test_a_messages_tag_is_its_name_in_lower_case_and_its_own(union: str) -> None:
    members = get_args(UNIONS[union][0])
    tags = [member.__struct_config__.tag for member in members]
    assert tags == [member.__name__.lower() for member in members]
    assert len(set(tags)) == len(tags)


def test_a_message_can_be_written_by_hand() -> None:
    message = messages.decode_child_request(plan())
    assert isinstance(message, messages.Plan)
    assert message.conditions[0].size == messages.Size(kind="equity_bps", value="200")
    assert message.conditions[0].valid_for_s == 1800
    assert messages.decode_control_request(b'{"type": "close", "id": "7"}') == messages.Close(id="7")
    assert json.loads(messages.encode(messages.Ping())) == {"type": "ping"}


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("changes", "field"), [
    ({"level": -1}, "level"), ({"level": "-1"}, "level"), ({"level": "1e5"}, "level"), ({"level": "NaN"}, "level"), ({"level": ""}, "level"),
    ({"level": "1" * 19}, "level"), ({"level": 1}, "level"), ({"ladder": [{"bps": 0, "share": 1}]}, "ladder[0].bps"),
    ({"pattern": "x" * 49}, "pattern"),
    ({"limit_price": "0x10"}, "limit_price"),
    ({"confidence": 1.01}, "confidence"), ({"confidence": -0.1}, "confidence"), ({"confidence": "high"}, "confidence"),
    ({"stop_bps": -80}, "stop_bps"), ({"stop_bps": 10_001}, "stop_bps"), ({"stop_bps": 0.5}, "stop_bps"), ({"stop_bps": 10**30}, "stop_bps"),
    ({"time_stop_s": 8 * 86_400}, "time_stop_s"), ({"valid_for_s": 0}, "valid_for_s"), ({"max_fires": 0}, "max_fires"),
    ({"side": "long"}, "side"), ({"direction": "sideways"}, "direction"), ({"price": "vwap"}, "price"), ({"order": "stop"}, "order"),
    ({"size": {"kind": "lots", "value": "1"}}, "size.kind"), ({"size": {"kind": "base", "value": "-1"}}, "size.value"),
    ({"size": {"kind": "base"}}, "size"), ({"size": "1"}, "size"), ({"size": {"kind": "base", "value": "1", "unit": "BTC"}}, "size"),
    ({"why": ""}, "why"), ({"why": "x" * 501}, "why"), ({"symbol": "X"}, "symbol"), ({"symbol": "X" * 33}, "symbol"),
], ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else value)
def test_a_faulty_condition_is_refused_with_the_path_of_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        messages.decode_child_request(plan(**changes))
    assert f"$.conditions[0].{field}" in str(raised.value) or (f"`{field}`" in str(raised.value))


@pytest.mark.parametrize(("text", "says"), [
    (b'{"type":"plan","strategy":"x","due_ns":1}', "missing required field `next_due_ns`"),
    (b'{"type":"plan","strategy":"../x","due_ns":1,"next_due_ns":2}', "$.strategy"),
    (b'{"type":"plan","strategy":"x","due_ns":1,"next_due_ns":2,"stoploss":3}', "unknown field `stoploss`"),
    (b'{"type":"query","what":"orders","limit":0}', "$.limit"),
    (b'{"type":"query","what":"orders","limit":10001}', "$.limit"),
    (b'{"type":"query","what":"orders","limit":1e300}', "$.limit"),
    (b'{"type":"operate","action":"buy"}', "$.action"),
    (b'{"type":"status"}', "Invalid value 'status'"),
    (b'{"type":"Ping"}', "Invalid value 'Ping'"),
    (b'{"type":7}', "$.type"),
    (b"{}", "missing required field `type`"),
    (b"[]", "Expected `object`, got `array`"),
    (b"null", "Expected `object`, got `null`"),
    (b"", "truncated"),
    (b'{"type":"ping"', "truncated"),
    (b'{"type":"ping"} {"type":"ping"}', "trailing characters"),
    (b'{"type":"ping",}', "malformed"),
    (b"{'type':'ping'}", "malformed"),
    (b"\x00\x01\x02", "malformed"),
    (b'{"type":"operate","action":"close","strategy":"\\ud800","position":""}', "malformed"),
    (b'{"type":"plan","strategy":"x","due_ns":NaN,"next_due_ns":2}', "malformed"),
], ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else "")
def test_what_is_no_request_is_one_named_error(text: bytes, says: str) -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        messages.decode_child_request(text)
    assert says in str(raised.value)


@pytest.mark.parametrize("text", [
    b'{"type":"plan","strategy":"x","due_ns":9223372036854775808,"next_due_ns":2}',
    b'{"type":"plan","strategy":"x","due_ns":1,"next_due_ns":9223372036854775808}',
    b'{"type":"plan","strategy":"x","due_ns":1,"next_due_ns":2,"plan_seq":2147483648}',
    b'{"type":"event","source":"s","kind":"k","text":"t","wall_ns":9223372036854775808}',
], ids=["due_ns", "next_due_ns", "plan_seq", "wall_ns"])
def test_an_integer_that_shared_memory_or_journal_cannot_hold_is_refused(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        messages.decode_child_request(text)


def test_a_plan_has_a_bound() -> None:
    most: Any = {"type": "plan", "strategy": "x", "due_ns": 1, "next_due_ns": 2, "conditions": [CONDITION] * messages.MAX_PLAN_CONDITIONS}
    encoded = json.dumps(most).encode()
    assert len(messages.decode_child_request(encoded).conditions) == messages.MAX_PLAN_CONDITIONS
    assert len(encoded) < messages.MAX_MESSAGE_BYTES
    most["conditions"].append(CONDITION)
    with pytest.raises(msgspec.ValidationError, match=r"length <= 1000 .*\$\.conditions"):
        messages.decode_child_request(json.dumps(most).encode())


def test_the_rows_of_a_message_have_the_same_bound() -> None:
    most = messages.Arm(strategy="x", due_ns=1, next_due_ns=2, plan_seq=3, rows=bytes(l.CONDITION.itemsize * messages.MAX_PLAN_CONDITIONS))
    encoded = messages.encode(most)
    assert messages.decode_child_request(encoded) == most
    assert len(encoded) < messages.MAX_MESSAGE_BYTES
    with pytest.raises(msgspec.ValidationError, match=r"length <= 320000 .*\$\.rows"):
        messages.decode_child_request(messages.encode(msgspec.structs.replace(most, rows=most.rows + b"x")))


def test_a_bottomless_message_is_an_error_and_no_crash() -> None:
    for opening in (b"[", b'{"a":'):
        with pytest.raises(MALFORMED):
            messages.decode_child_request(b'{"type":"event","source":"s","kind":"k","text":"t","wall_ns":1,"data":{"a":' + opening * 100_000)


@pytest.mark.parametrize("tag", ["plan", "arm", "event", "query", "operate", "planned", "answer"])
def test_the_operators_socket_takes_no_message_of_the_inside(tag: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"Invalid value '{tag}'"):
        messages.decode_control_request(json.dumps({"type": tag}).encode())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(UNIONS)), st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_noise_is_refused_by_name(union: str, noise: bytes) -> None:
    with pytest.raises(MALFORMED):
        UNIONS[union][1](noise)


@settings(max_examples=100, deadline=None)
@given(values(msgspec.inspect.type_info(messages.ChildRequest)), st.data())
def test_a_message_that_was_cut_or_has_one_wrong_byte_is_never_an_unnamed_error(message: Any, data: st.DataObject) -> None:
    encoded = messages.encode(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MALFORMED):
        messages.decode_child_request(encoded[:cut])
    wrong = encoded[:cut] + bytes([data.draw(st.integers(0, 255))]) + encoded[cut + 1:]
    with contextlib.suppress(*MALFORMED):  # some bytes do not matter
        messages.decode_child_request(wrong)


def test_rows_travel_as_they_are_and_either_form_is_understood() -> None:
    arm = messages.Arm(strategy="x", due_ns=1, next_due_ns=2, plan_seq=3, rows=bytes(range(256)))
    encoded = messages.encode(arm)
    assert arm.rows in encoded
    assert messages.decode_child_request(encoded) == arm
    assert messages.decode_child_request(msgspec.json.encode(arm)) == arm
    for length in range(len(encoded)):
        with pytest.raises(msgspec.DecodeError):
            messages.decode_child_request(encoded[:length])
    with pytest.raises(msgspec.DecodeError):
        messages.decode_child_request(msgspec.msgpack.encode({"type": "arm", "strategy": "x", "due_ns": 1, "next_due_ns": 2, "rows": "words"}))
