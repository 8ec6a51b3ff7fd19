"""What an LLM may say: one reply Struct, its JSON schema for the symbols of a prompt, that schema as OpenAI's strict mode takes it, and decoding.

Numbers are integers in bps: llama.cpp's grammar does not keep the bounds of floats (a confidence of 3.3 came under a maximum of 1) and keeps those of
integers, and an integer needs fewer tokens. The schema says the bounds of this configuration; the Struct those that hold whatever is configured. What
the Struct takes is well-formed; whether a proposal is any good is for control/think/llm/judgement.py to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from control.think.llm.briefing import clean
from control.think.llm.config import Llm

#: characters of a reply's texts
WHY_MOST, REASON_MOST = 200, 300
#: clauses of one proposal, and the largest value that one may name
CLAUSES_MOST, CLAUSE_VALUE_MOST = 3, 10_000
#: characters of an error that the model is told
_ERROR_MOST = 300

#: features whose values are told well by whole numbers; hotpath/kernel/features.py has the formulas
Feature = Literal["spread_bps", "return_1s_bps", "return_10s_bps", "return_60s_bps", "return_300s_bps", "volatility_60s_bps", "volatility_300s_bps",
                  "vwap_distance_bps", "trades_per_s", "trade_age_s", "quote_age_s"]
#: those that are never below 0, so that "below 0" never holds
NEVER_NEGATIVE = frozenset({"spread_bps", "volatility_60s_bps", "volatility_300s_bps", "trades_per_s", "trade_age_s", "quote_age_s"})
Side = Literal["buy", "sell"]
Direction = Literal["up", "down"]


class ProposedClause(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold besides when the level is crossed, in the unit that the feature's name says."""

    feature: Feature
    op: Literal[">", "<"]
    value: Annotated[int, Meta(ge=-CLAUSE_VALUE_MOST, le=CLAUSE_VALUE_MOST)]


class Proposal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry that the model would like to have armed. `level_bps` is signed, from the mark that the prompt names."""

    symbol: Annotated[str, Meta(min_length=1, max_length=32)]
    side: Side
    direction: Direction
    level_bps: Annotated[int, Meta(ge=-10_000, le=10_000)]
    size_bps: Annotated[int, Meta(ge=0, le=10_000)]
    confidence_bps: Annotated[int, Meta(ge=0, le=10_000)]
    stop_bps: Annotated[int, Meta(ge=0, le=10_000)]
    target_bps: Annotated[int, Meta(ge=0, le=10_000)]
    valid_minutes: Annotated[int, Meta(ge=0, le=7 * 1440)]
    clauses: Annotated[list[ProposedClause], Meta(max_length=CLAUSES_MOST)]
    why: Annotated[str, Meta(min_length=1, max_length=WHY_MOST)]


class Reply(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole answer. NO_TRADE is one, with its reason."""

    decision: Literal["TRADE", "NO_TRADE"]
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_MOST)]
    proposals: Annotated[list[Proposal], Meta(max_length=50)]


class BadReply(Exception):
    """A reply that is not what the contract says; the text is what the model is told for its one repair."""


_decode = msgspec.json.Decoder(Reply).decode


def decode(text: str, most: int) -> Reply:
    """A reply from a model's text. Raises BadReply, whatever the text is. `most` is how many proposals there may be."""
    try:
        reply = _decode(_json_in(text))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadReply(f"the reply is not what the contract says: {clean(str(error), _ERROR_MOST)}") from None
    if len(reply.proposals) > most:
        raise BadReply(f"the reply has {len(reply.proposals)} proposals; give at most {most}")
    if reply.decision == "TRADE" and not reply.proposals:
        raise BadReply("the decision is TRADE, and there is no proposal; give one, or decide NO_TRADE")
    return reply


def _json_in(text: str) -> str:
    """The reply without what models put around it where no grammar holds them: what they thought, and a fence."""
    inner = text.strip()  # in linear time, whatever it is: a regex that goes back and forth would hold up every thread of the process
    if inner.startswith("<think>"):
        thought, end, said = inner.partition("</think>")
        inner = said.strip() if end else thought
    if inner.startswith("```") and inner.endswith("```"):
        name, _, fenced = inner[3:-3].partition("\n")
        inner = fenced if name.strip() in ("", "json") else inner
    return inner


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Room:
    """What a proposal for a symbol may say at all; less than `least_…` would be refused whatever else it says."""

    symbol: str
    short_allowed: bool = False
    least_size_bps: int = 1
    least_stop_bps: int = 1
    least_target_bps: int = 1


def schema(rooms: Sequence[Room], settings: Llm, least_confidence_bps: int = 0) -> dict[str, Any]:
    """The JSON schema of a reply about these symbols (at least one).

    A proposal is one of up to four kinds: what may be sold short and what may not, for a price that rises and for one that falls. So where a grammar
    holds the model, a level is on its side of the mark and a spot coin is not sold. A kind's least values are those of the symbol that permits most:
    no proposal that would pass is made impossible. Without references, which not every server follows; what it permits is judged all the same.
    """
    kinds = [_proposal([room for room in rooms if room.short_allowed is short], up, settings, least_confidence_bps)
             for short in (False, True) for up in (True, False) if any(room.short_allowed is short for room in rooms)]
    return _object(decision=_one_of(("TRADE", "NO_TRADE")), reason=_text(REASON_MOST),
                   proposals=_list({"anyOf": kinds}, settings.most_conditions))


def _proposal(rooms: Sequence[Room], up: bool, settings: Llm, least_confidence_bps: int) -> dict[str, Any]:
    def whole(name: str, most: int) -> dict[str, Any]:
        return _whole(min(most, *(getattr(room, name) for room in rooms)), most)

    clauses = [_object(feature=_one_of([one for one in get_args(Feature) if (one in NEVER_NEGATIVE) is never]), op=_one_of(("<", ">")),
                       value=_whole(1 if never else -CLAUSE_VALUE_MOST, CLAUSE_VALUE_MOST)) for never in (True, False)]
    far = settings.most_level_bps
    return _object(
        symbol=_one_of([room.symbol for room in rooms]), side=_one_of(get_args(Side) if rooms[0].short_allowed else ("buy",)),
        direction=_one_of(("up" if up else "down",)), level_bps=_whole(1, far) if up else _whole(-far, -1),
        size_bps=whole("least_size_bps", settings.most_size_bps), confidence_bps=_whole(least_confidence_bps, 10_000),
        stop_bps=whole("least_stop_bps", settings.most_stop_bps), target_bps=whole("least_target_bps", settings.most_target_bps),
        valid_minutes=_whole(1, settings.most_valid_minutes), clauses=_list({"anyOf": clauses}, CLAUSES_MOST), why=_text(WHY_MOST))


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _one_of(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": most}


#: keywords of ours that OpenAI's strict mode refuses; what they say is held by the Struct
_NOT_STRICT = frozenset({"minLength", "maxLength"})


def strict(schema: Any) -> Any:
    """A schema of ours as OpenAI's strict mode takes it: every object closed, every field required, no lengths of texts, and one form where ours has
    alternatives: objects of an `anyOf` whose first keys are the same are refused. What only the alternatives say, the judgement holds."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema and all(form.get("type") == "object" for form in schema["anyOf"]):
        return strict(_widest(schema["anyOf"]))
    # keys of "properties" are names, not keywords
    kept = {key: {name: strict(entry) for name, entry in value.items()} if key == "properties" else strict(value)
            for key, value in schema.items() if key not in _NOT_STRICT}
    return kept | ({"required": list(kept["properties"]), "additionalProperties": False} if "properties" in kept else {})


def _widest(forms: Sequence[Any]) -> Any:
    """One form that takes whatever one of these takes, all of the same shape: values of each enum, the least minimum, the largest maximum."""
    first = forms[0]
    if isinstance(first, dict):
        assert all(isinstance(form, dict) and form.keys() == first.keys() for form in forms)
        found = {}
        for key in first:
            values = [form[key] for form in forms]
            match key:
                case "enum":
                    found[key] = list(dict.fromkeys(one for value in values for one in value))
                case "minimum":
                    found[key] = min(values)
                case "maximum":
                    found[key] = max(values)
                case _:
                    found[key] = _widest(values)
        return found
    assert all(form == first for form in forms)
    return first
