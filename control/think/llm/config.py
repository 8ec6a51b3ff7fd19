"""Configuration of the LLM that advises: section [llm]; without a model there is none. No secret is in here, only names of variables with one."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

#: models that may be configured
MOST_MODELS = 8
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def _about(text: str) -> Meta:
    return Meta(description=text)


def _bps(text: str) -> Meta:
    return Meta(ge=1, le=10_000, description=text)


class Model(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model at an OpenAI-compatible endpoint. Models are asked in the order of their tables, the next one where one fails."""

    base_url: Annotated[str, _about("where the endpoint is, up to /v1; no key, user or password in it")]
    model: Annotated[str, Meta(min_length=1, max_length=200, description="the model's name there")]
    api_key_env: Annotated[str, _about('NAME of the environment variable that holds the key; "": the endpoint needs none')] = ""
    input_cost: Annotated[float, Meta(ge=0, le=10_000, description="price of a million tokens of the prompt, in USD")] = 0.0
    output_cost: Annotated[float, Meta(ge=0, le=10_000, description="price of a million tokens of the reply, in USD")] = 0.0
    max_tokens: Annotated[int, Meta(ge=64, le=100_000, description="longest reply; a longer one is cut off, and cannot be used")] = 2_000
    timeout_s: Annotated[int, Meta(ge=1, le=600, description="one request, from the connection to the last byte")] = 60
    json: Annotated[Literal["schema", "strict", "object", "none"],
                    _about("how the reply is constrained: by our JSON schema; by that as OpenAI takes it; to any JSON; not at all")] = "schema"
    temperature: Annotated[float, Meta(ge=0, le=2, description="randomness of the reply; not sent where it is not given")] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what no type can say; the text has nothing of the value, which may be a secret in the wrong place."""
        try:
            url = urlsplit(self.base_url)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("base_url: is no http:// or https:// address; write it like https://api.openai.com/v1")
        if "@" in url.netloc or url.query or url.fragment:
            raise ValueError("base_url: has a user, a password or a query in it; put the key into an environment variable, "
                             "and its name into api_key_env")
        if self.api_key_env and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env: is not the name of an environment variable; "
                             "write the name of one (like OPENAI_API_KEY) that holds the key, never the key")

    @property
    def host(self) -> str:
        """Host and port of the endpoint, which is what is shown of it."""
        return urlsplit(self.base_url).netloc


class Llm(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An LLM that proposes conditions. What it says is data: validated, then held to knowledge and limits. docs/llm.md has examples.

    Distances are bps of the mark, sizes bps of equity. A day is one of the wall clock, in UTC.
    """

    models: Annotated[tuple[Model, ...], Meta(max_length=MOST_MODELS, description="in the order in which they are asked; none: no LLM")] = ()
    replay_from: Annotated[str, _about("folder of an instance or a run whose recorded answers are given again; nobody is asked")] = ""
    headlines: Annotated[str, _about("file with a headline a line, best first, that a program of yours writes; it is read with each question")] = ""
    ask_in_replay: Annotated[bool, _about("in a replay ask the models, though they may know what came of those prices; results prove nothing")
                             ] = False
    on_failure: Annotated[Literal["keep", "rules"], _about("no answer: what is armed keeps its expiry; or the rule strategies take over")] = "keep"
    deadline_s: Annotated[int, Meta(ge=1, le=3600, description="a whole exchange: every model that is asked, and the repair of a reply")] = 120
    breaker_failures: Annotated[int, Meta(ge=1, le=1000, description="failures in a row after which a model is left alone for a while")] = 3
    breaker_cooldown_s: Annotated[int, Meta(ge=1, le=86_400, description="for how long, by the clock; then it is tried once")] = 60
    tokens_per_day: Annotated[int, Meta(ge=0, le=10**12, description="prompts and replies; a request that might exceed it is not made")] = 2_000_000
    cost_per_day: Annotated[float, Meta(ge=0, le=1e6, description="the same in USD, by the models' prices")] = 5.0
    prompt_bytes: Annotated[int, Meta(ge=4_000, le=1_000_000, description="longest prompt; what is worth least is left out, which is told")] = 24_000
    most_conditions: Annotated[int, Meta(ge=1, le=50, description="conditions that one reply may propose")] = 5
    most_size_bps: Annotated[int, _bps("largest entry; a larger one is clamped")] = 500
    most_level_bps: Annotated[int, _bps("farthest level from the mark; a farther one is refused")] = 300
    most_stop_bps: Annotated[int, Meta(ge=1, le=9_999, description="farthest stop from the entry; a farther one is refused")] = 500
    most_target_bps: Annotated[int, _bps("farthest target from the entry; a farther one is refused")] = 1_500
    most_valid_minutes: Annotated[int, Meta(ge=1, le=7 * 1440, description="longest validity; a longer one is clamped")] = 240
