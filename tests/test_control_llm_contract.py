"""The contract: which replies are taken, what the schema says, OpenAI's strict form of it, and what becomes of each proposal."""

from __future__ import annotations

import math
import re
import time
from decimal import Decimal
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.think.llm.config import Llm
from control.think.llm.contract import NEVER_NEGATIVE, BadReply, Feature, Proposal, Reply, Room, decode, schema, strict
from control.think.llm.judgement import Mark, Verdict, judge, rooms
from control.think.strategy import Facts
from hotpath.config import Limits
from ipc.messages import Condition
from tests.llm_scene import FACTS, grounds
from tests.llm_server import proposal, reply

COARSE = Facts("BTC/USDT", False, Decimal(70_000), Decimal(1), Decimal(5), 10.0)
DUST = Facts("BTC/USDT", False, Decimal(1), Decimal("1e-18"), Decimal(5), 10.0)
BOTH = [Room("BTC/USDT", False, 5, 2, 22), Room("SOL/USDT", False, 9, 1, 30), Room("ETH/USDT:USDT", True, 5, 2, 12)]


def verdicts(*proposals: dict[str, Any], decision: str = "TRADE", **changes: Any) -> list[Verdict]:
    return judge(decode(reply(*proposals, decision=decision), 50), grounds(**changes))


def verdict(changes: dict[str, Any], **by: Any) -> Verdict:
    (one,) = verdicts(proposal(**changes), **by)
    return one


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_reply_is_taken_also_from_between_thoughts_and_fences() -> None:
    plain = reply(proposal())
    for text in (plain, f"\n {plain} ", f"```json\n{plain}\n```", f"```\n{plain}\n```", f"<think>{{so}} it ```is</think>\n{plain}",
                 f" <think>\n\n</think>\n\n``` json \n\n{plain}\n\n```\n", f"```json\n{plain}```"):
        assert decode(text, 5) == decode(plain, 5)


@pytest.mark.parametrize("text", [
    "```\n" + "\n" * 100_000 + "x", "```json" + " \n" * 50_000 + "```x", "```" * 33_333, "```\n" * 25_000 + "x", "```" + " " * 100_000 + "x",
    " " * 100_000 + "x", "\n" * 100_000, "<think>" * 14_000, "<think>" + "</think" * 14_000, " " * 50_000 + "<think>" + " " * 50_000 + "x",
    "<" * 100_000, "[" * 100_000, "{" * 100_000, "[1," * 33_000, '{"a":' * 20_000, '"' + "x" * 100_000, '"' + "\\" * 99_999, "1" * 100_000,
    "-" * 100_000, "0." + "1" * 100_000, "1e" + "9" * 100_000, '{"decision": ' + "9" * 100_000,
    '{"reason": "' + "x" * 100_000 + '"}', '{"' + "x" * 100_000 + '": 1}',
    "\ud800" * 100_000, "💥" * 100_000, "\x00" * 100_000, '{"proposals": [' + "{}," * 33_000 + "{}]}"], ids=lambda text: repr(text[:12]))
def test_whatever_a_model_says_is_read_in_no_time(text: str) -> None:
    """While it is read no other thread goes on: a strategist whose heart stands still is killed, and its successor asks again."""
    began = time.thread_time()
    with pytest.raises(BadReply):
        decode(text, 5)
    assert time.thread_time() - began < 0.05


@pytest.mark.parametrize(("text", "says"), [
    ("", "not what the contract says"), ("I would buy.", "not what the contract says"), (reply(proposal())[:-9], "truncated"),
    (reply(proposal(confidence_bps=3.3)), "confidence_bps"), (reply(proposal(confidence_bps=10_001)), "<= 10000.*confidence_bps"),
    (reply(proposal(size_bps="all")), "size_bps"), (reply(proposal(side="hold")), "hold.*side"), (reply(proposal(stop_bps=-1)), "stop_bps"),
    (reply(proposal(leverage=20)), "leverage"), (reply(proposal(why="x" * 201)), "why"), (reply(proposal(why="")), "why"),
    (reply(proposal(clauses=[{"feature": "moon", "op": ">", "value": 1}])), "moon"),
    (reply(proposal(clauses=[{"feature": "spread_bps", "op": "<", "value": 1}] * 4)), "clauses"),
    (reply(proposal(level_bps=10**30)), "level_bps"), (reply(), "TRADE, and there is no proposal"),
    (reply(*[proposal()] * 6), "6 proposals; give at most 5"), (reply(proposal(), reason=""), "reason"), (reply(decision="HOLD"), "HOLD"),
    ('{"decision": "NO_TRADE"}', "reason"), ("[" * 50_000, "not what"), (f"[{reply(proposal())}]", "Expected `object`"), ("null", "null"),
    ('{"decision": "NO_TRADE", "reason": "\\ud800", "proposals": []}', "not what"), (reply(proposal()) * 2, "trailing")])
def test_any_other_reply_is_refused_in_words_that_help_to_mend_it(text: str, says: str) -> None:
    with pytest.raises(BadReply, match=says) as caught:
        decode(text, 5)
    assert len(str(caught.value)) < 400


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────────
def kinds(form: dict[str, Any]) -> list[dict[str, Any]]:
    return [kind["properties"] for kind in form["properties"]["proposals"]["items"]["anyOf"]]


def test_the_schema_keeps_levels_on_their_side_and_spot_coins_from_being_sold() -> None:
    form = schema(BOTH, Llm(), 7000)
    assert [(kind["symbol"]["enum"], kind["side"]["enum"], kind["direction"]["enum"]) for kind in kinds(form)] == [
        (["BTC/USDT", "SOL/USDT"], ["buy"], ["up"]), (["BTC/USDT", "SOL/USDT"], ["buy"], ["down"]),
        (["ETH/USDT:USDT"], ["buy", "sell"], ["up"]), (["ETH/USDT:USDT"], ["buy", "sell"], ["down"])]
    assert [(kind["level_bps"]["minimum"], kind["level_bps"]["maximum"]) for kind in kinds(form)] == [(1, 300), (-300, -1)] * 2
    assert [kind["target_bps"]["minimum"] for kind in kinds(form)] == [22, 22, 12, 12], "of a kind, what its cheapest symbol permits"
    assert {kind["confidence_bps"]["minimum"] for kind in kinds(form)} == {7000}
    assert len(kinds(schema(BOTH[:1], Llm()))) == 2


def test_the_schema_keeps_clauses_possible_and_has_every_feature_once() -> None:
    for kind in kinds(schema(BOTH, Llm())):
        never, signed = (clause["properties"] for clause in kind["clauses"]["items"]["anyOf"])
        assert sorted(never["feature"]["enum"] + signed["feature"]["enum"]) == sorted(get_args(Feature))
        assert set(never["feature"]["enum"]) == NEVER_NEGATIVE
        assert (never["value"]["minimum"], signed["value"]["minimum"]) == (1, -10_000)


def every(form: Any) -> Any:
    if isinstance(form, dict):
        yield form
        for value in form.values():
            yield from every(value)
    elif isinstance(form, list):
        for value in form:
            yield from every(value)


def test_every_object_is_closed_every_integer_bounded_every_text_and_list_has_an_end_and_the_struct_has_every_field() -> None:
    parts = [part for part in every(schema(BOTH, Llm())) if isinstance(part.get("type"), str)]
    for part in parts:
        match part["type"]:
            case "object":
                assert part["additionalProperties"] is False
                assert part["required"] == list(part["properties"])
            case "integer":
                assert -10_000 <= part["minimum"] <= part["maximum"] <= 10_080
            case "string":
                assert "enum" in part or part["maxLength"] <= 300
            case "array":
                assert part["maxItems"] <= 5
            case other:
                pytest.fail(f"{other} is no type that all grammars bound")
    assert set(schema(BOTH, Llm())["properties"]) == set(Reply.__struct_fields__)
    assert set(kinds(schema(BOTH, Llm()))[0]) == {field.name for field in msgspec.structs.fields(decode(reply(proposal()), 5).proposals[0])}


def test_the_least_that_a_symbol_needs_is_told_by_its_facts_and_one_that_could_never_pass_is_left_out() -> None:
    found = rooms(["BTC/USDT", "ETH/USDT:USDT", "XRP/USDT"], grounds())
    assert found == [Room("BTC/USDT", False, 5, 2, 22), Room("ETH/USDT:USDT", True, 5, 2, 12)]
    assert [room.least_target_bps for room in rooms(FACTS, grounds(least_reward_risk=1.5))] == [56, 31]
    assert rooms(FACTS, grounds(least_reward_risk=75.0)) == rooms(["ETH/USDT:USDT"], grounds(least_reward_risk=75.0))
    assert [room.symbol for room in rooms(FACTS, grounds(marks={"BTC/USDT": Mark(60_000.0, 1.0, 1_600.0)}))] == []
    assert rooms(FACTS, grounds(equity=0.0)) == rooms(FACTS, grounds(marks={"BTC/USDT": Mark(math.nan)})) == []


def test_strict_form_closes_objects_requires_all_fields_and_drops_what_openai_refuses() -> None:
    loose = {"type": "object", "properties": {
        "maxLength": {"type": "string", "minLength": 1, "maxLength": 9},
        "parts": {"type": "array", "maxItems": 2, "items": {"anyOf": [{"type": "integer", "minimum": 1}, {
            "type": "object", "properties": {"n": {"enum": ["minLength", "maxLength"]}}}]}}}}
    assert strict(loose) == {
        "type": "object", "additionalProperties": False, "required": ["maxLength", "parts"], "properties": {
            "maxLength": {"type": "string"},
            "parts": {"type": "array", "maxItems": 2, "items": {"anyOf": [{"type": "integer", "minimum": 1}, {
                "type": "object", "additionalProperties": False, "required": ["n"], "properties": {"n": {"enum": ["minLength", "maxLength"]}}}]}}}}
    ours = strict(schema(BOTH, Llm()))
    assert not {"minLength", "maxLength"} & {key for part in every(ours) for key in part}
    assert ours["type"] == "object", "OpenAI wants no alternatives at the root"
    assert strict(ours) == ours


def test_strict_form_has_no_alternatives_as_openai_refuses_those_that_begin_with_the_same_key_and_takes_whatever_they_take() -> None:
    ours = strict(schema(BOTH, Llm(), 7000))
    assert not [part for part in every(ours) if "anyOf" in part]
    kind = ours["properties"]["proposals"]["items"]["properties"]
    assert list(kind) == list(Proposal.__struct_fields__)
    assert (kind["symbol"]["enum"], kind["side"]["enum"], kind["direction"]["enum"]) == (
        ["BTC/USDT", "SOL/USDT", "ETH/USDT:USDT"], ["buy", "sell"], ["up", "down"])
    assert (kind["level_bps"], kind["target_bps"]["minimum"], kind["confidence_bps"]["minimum"]) == (
        {"type": "integer", "minimum": -300, "maximum": 300}, 12, 7000)
    clause = kind["clauses"]["items"]["properties"]
    assert set(clause["feature"]["enum"]) == set(get_args(Feature))
    assert clause["value"] == {"type": "integer", "minimum": -10_000, "maximum": 10_000}
    assert [part["type"] for part in every(strict(schema(BOTH[:1], Llm()))) if "properties" in part] == ["object"] * 3


# ── judgement ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_good_proposal_becomes_the_condition_that_it_says() -> None:
    one = verdict({"clauses": [{"feature": "spread_bps", "op": "<", "value": 3}], "why": "over\nthe \x1b[31mrange"})
    assert (one.outcome, one.text) == ("accepted", "")
    condition = one.condition
    assert condition is not None
    assert (condition.symbol, condition.side, condition.direction, condition.level) == ("BTC/USDT", "buy", "up", "60120")
    assert (condition.size.kind, condition.size.value, condition.confidence) == ("equity_bps", "100", 0.8)
    assert (condition.stop_bps, condition.target_bps, condition.valid_for_s) == (50, 100, 1800)
    assert [(clause.feature, clause.op, clause.value) for clause in condition.clauses] == [("spread_bps", "<", 3.0)]
    assert condition.why == "llm: over the [31mrange"


def test_a_target_that_is_just_worth_its_stop_passes() -> None:
    assert verdict({"stop_bps": 50, "target_bps": 92}, least_reward_risk=1.0).outcome == "accepted"


@pytest.mark.parametrize(("changes", "by", "says"), [
    ({"symbol": "XRP/USDT"}, {}, "XRP/USDT is not one of the symbols"),
    ({}, {"blacklist": frozenset({"BTC/USDT"})}, "blacklisted"), ({}, {"blacklist": frozenset({"BTC"})}, "blacklisted"),
    ({"symbol": "XRP/USDT"}, {"blacklist": frozenset({"XRP/USDT"})}, "XRP/USDT is blacklisted"),
    ({}, {"limits": Limits(restricted_symbols=("BTC/USDT",))}, "restricted_symbols"),
    ({}, {"limits": Limits(permissions={"llm": ("ETH/USDT:USDT",)})}, "permissions"), ({}, {"limits": Limits(min_confidence=None)}, "not set"),
    ({}, {"limits": Limits(max_order_value=None)}, "not set"), ({}, {"limits": Limits(max_symbol_exposure_bps=None)}, "not set"),
    ({"confidence_bps": 6_999}, {}, "below 7000"), ({"side": "sell"}, {}, "cannot be sold short"),
    ({"symbol": "ETH/USDT:USDT", "side": "sell"}, {"held": {"ETH/USDT:USDT": "buy"}}, "a position in ETH/USDT:USDT is open"),
        ({}, {"held": {"BTC/USDT": "buy"}}, "a position in BTC/USDT is open"),
    ({"level_bps": -20}, {}, "wrong side"), ({"level_bps": 0}, {}, "wrong side"), ({"direction": "down"}, {}, "wrong side"),
    ({"level_bps": 301}, {}, "farther from the mark than 300"), ({"level_bps": -9_999, "direction": "down"}, {}, "farther"),
    ({"stop_bps": 0}, {}, "no stop"), ({"stop_bps": 501}, {}, "more than 500"), ({"stop_bps": 1}, {}, "within the spread"),
    ({"target_bps": 0}, {}, "does not pay the costs"), ({"target_bps": 21}, {}, "does not pay the costs"), ({"target_bps": 1_501}, {}, "1500"),
    ({"stop_bps": 50, "target_bps": 91}, {"least_reward_risk": 1.0}, "with costs of 21.0 bps bring 0.99 of what is at risk, less than 1"),
    ({"valid_minutes": 0}, {}, "no time"), ({"size_bps": 4}, {}, "too small"), ({"size_bps": 0}, {}, "too small"),
    ({}, {"exposure_bps": {"BTC/USDT": 2000.0}}, "too small.*max_symbol_exposure"),
    ({"clauses": [{"feature": "spread_bps", "op": ">", "value": 3}, {"feature": "spread_bps", "op": "<", "value": 3}]}, {}, "never true"),
    ({"clauses": [{"feature": "trades_per_s", "op": "<", "value": 0}]}, {}, "its clause trades_per_s < 0 is never true"),
    ({"clauses": [{"feature": "spread_bps", "op": "<", "value": -3}]}, {}, "its clause spread_bps < -3 is never true"),
    ({}, {"newest": {"BTC/USDT": 60_120.0}}, "has passed the level"), ({}, {"equity": 0.0}, "equity"), ({}, {"equity": math.nan}, "equity"),
    ({}, {"marks": {"BTC/USDT": Mark(math.nan)}}, "costs|no price"), ({}, {"marks": {"BTC/USDT": Mark(1e30, 1, 21)}}, "no price"),
    ({}, {"marks": {"BTC/USDT": Mark(1e19, 1, 21)}, "facts": {"BTC/USDT": DUST}}, "makes no condition"),
    ({}, {"marks": {"BTC/USDT": Mark(60_000.0, math.nan, 21)}}, "spread"), ({}, {"marks": {"BTC/USDT": Mark(60_000.0, 1, math.nan)}}, "costs"),
    ({"direction": "down", "level_bps": -1}, {"facts": {"BTC/USDT": COARSE}}, "too coarse"),
])
def test_a_proposal_that_cannot_be_armed_is_refused_with_its_reason(changes: dict[str, Any], by: dict[str, Any], says: str) -> None:
    one = verdict(changes, **by)
    assert one.outcome == "refused"
    assert one.condition is None
    assert re.search(says, one.text), one.text


@pytest.mark.parametrize(("changes", "by", "size", "says"), [
    ({"size_bps": 2_000}, {}, "500", "size_bps 2000 → 500: llm.most_size_bps"),
    ({"size_bps": 400}, {"exposure_bps": {"BTC/USDT": 1_800.5}}, "199", "limits.max_symbol_exposure_bps"),
    ({"size_bps": 400}, {"limits": Limits(max_order_value=150.0)}, "150", "limits.max_order_value"),
    ({"valid_minutes": 500}, {}, "100", "valid_minutes 500 → 240")])
def test_what_is_only_too_much_is_clamped_and_told(changes: dict[str, Any], by: dict[str, Any], size: str, says: str) -> None:
    one = verdict(changes, **by)
    assert one.outcome == "clamped"
    assert says in one.text
    assert one.condition is not None
    assert one.condition.size.value == size
    assert one.condition.valid_for_s <= 240 * 60


def test_numbers_that_were_computed_with_numpy_are_numbers() -> None:
    marks = {"BTC/USDT": Mark(np.float64(60_000.0), np.float64(1.0), np.float64(21.0))}
    by = {"marks": marks, "equity": np.float64(10_000.0), "exposure_bps": {"BTC/USDT": np.float64(1_950.0)}}
    assert verdict({}, **by).text == "size_bps 100 → 50: limits.max_symbol_exposure_bps"


def test_of_two_proposals_that_wait_for_one_level_the_first_counts() -> None:
    found = verdicts(proposal(symbol="ETH/USDT:USDT"), proposal(symbol="ETH/USDT:USDT", side="sell"), proposal(symbol="ETH/USDT:USDT", level_bps=21))
    assert [one.outcome for one in found] == ["accepted", "refused", "accepted"]
    assert "another proposal" in found[1].text


def test_one_bad_proposal_does_not_take_the_others_along_and_no_trade_takes_all() -> None:
    assert [one.outcome for one in verdicts(proposal(stop_bps=0), proposal())] == ["refused", "accepted"]
    assert [one.text for one in verdicts(proposal(), decision="NO_TRADE")] == ["the decision is NO_TRADE"]
    assert verdicts(decision="NO_TRADE") == []


PROPOSALS = st.fixed_dictionaries({
    "symbol": st.sampled_from(["BTC/USDT", "ETH/USDT:USDT", "XRP/USDT", "x"]), "side": st.sampled_from(["buy", "sell"]),
    "direction": st.sampled_from(["up", "down"]), "level_bps": st.integers(-10_000, 10_000) | st.integers(-50, 50),
    "size_bps": st.integers(0, 10_000),
    "confidence_bps": st.integers(0, 10_000), "stop_bps": st.integers(0, 10_000) | st.integers(0, 100), "target_bps": st.integers(0, 10_000),
    "valid_minutes": st.integers(0, 10_080), "why": st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()),
    "clauses": st.lists(st.fixed_dictionaries({"feature": st.sampled_from(["spread_bps", "trades_per_s"]), "op": st.sampled_from("<>"),
                                               "value": st.integers(-100, 100)}), max_size=3)})


@given(st.lists(PROPOSALS, min_size=1, max_size=6), st.floats(1e-6, 1e9), st.floats(1, 1e9), st.sampled_from(["1e-8", "0.01", "0.5", "1000"]))
def test_whatever_is_proposed_what_is_armed_keeps_to_facts_and_limits(proposed: list[dict[str, Any]], price: float, equity: float,
                                                                               tick: str) -> None:
    facts = {symbol: Facts(symbol, one.short_allowed, Decimal(tick), one.lot_size, one.min_notional, one.fee_bps) for symbol, one in FACTS.items()}
    marks = {symbol: Mark(price, 1.0, 11.0) for symbol in facts}
    by = grounds(facts=facts, marks=marks, equity=equity, held={"ETH/USDT:USDT": "buy"})
    for one in judge(decode(reply(*proposed), 50), by):
        assert one.text or one.outcome == "accepted"
        if one.condition is None:
            assert one.outcome == "refused"
            continue
        condition = one.condition
        assert msgspec.convert(msgspec.to_builtins(condition), Condition) == condition
        assert condition.level is not None
        level, up = Decimal(condition.level), condition.direction == "up"
        assert level % Decimal(tick) == 0
        assert level > Decimal(price) if up else level < Decimal(price)
        assert abs(float(level) - price) <= price * 0.03 + float(tick) * 1.01
        assert condition.side == "buy" or facts[condition.symbol].short_allowed
        assert (condition.symbol, condition.side) != ("ETH/USDT:USDT", "sell")
        assert 1 <= int(condition.size.value) <= 500
        assert float(condition.size.value) * equity / 1e4 <= 25_000 * 1.0001
        assert float(condition.size.value) * equity / 1e4 >= 4.9999
        assert 1 < condition.stop_bps <= 500
        assert 11 < condition.target_bps <= 1_500
        assert condition.confidence >= 0.7
        assert 60 <= condition.valid_for_s <= 240 * 60
