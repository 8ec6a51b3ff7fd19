"""One request to one OpenAI-compatible endpoint: bounded in time and in bytes, its failures classified. The only module that imports openai.

The client's own time-outs are per read: an endpoint that drips a byte a second never exceeds one. So a timer cuts the connection off at the deadline,
whatever it is doing then; only the look-up of a name cannot be cut off. The body is read here, piece by piece, and never grows past MOST_BYTES.
The client's retries are off: which model is asked next, and when, is decided in control/think/llm/client.py.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
import openai
from msgspec import Struct

from control.think.llm.briefing import clean
from control.think.llm.config import Model
from control.think.llm.contract import strict
from control.think.llm.prompt import Message
from hotpath.errors import Kind, classify

#: bytes of a reply's body; of an error's body, of which an excerpt is told
MOST_BYTES, MOST_ERROR_BYTES = 2 << 20, 4_096
#: tokens that a request can have had; more is nonsense
MOST_TOKENS = 10**8
#: how long a connection may take to come about
CONNECT_S = 10.0
#: characters of a part of an endpoint's path that may be a secret by itself
_NAME_LEAST = 8
#: an endpoint that asks to be left alone for longer is asked again after so long
MOST_PAUSE_S = 3_600.0

for _chatty in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)  # they log addresses, and what comes back, which may repeat a secret

class _Said(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _Said = msgspec.field(default_factory=_Said)
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice] = []
    usage: Any = None
    error: Any = None


class Answer(Struct, frozen=True, kw_only=True):
    """What came. Tokens are None where the endpoint does not tell them."""

    text: str
    finish_reason: str
    refusal: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


class WireError(Exception):
    """A request without an answer. `kind` is a class of hotpath.errors, `pause_s` how long the endpoint asks to be left alone; `billed`: it may have
    worked on a reply; `tokens` of prompt and reply, None where the endpoint does not tell them. No secret is in the text."""

    def __init__(self, kind: Kind, text: str, pause_s: float = 0.0, billed: bool = False,
                 tokens: tuple[int | None, int | None] = (None, None)) -> None:
        super().__init__(text)
        self.kind, self.text, self.pause_s, self.billed, self.tokens = kind, text, pause_s, billed, tokens

    def anew(self) -> WireError:
        """The same without a traceback and whatever that holds on to."""
        return WireError(self.kind, self.text, self.pause_s, self.billed, self.tokens)


class Cut:
    """Cuts one request's connection off, at its deadline or when it is asked to; what is under way there then fails at once. `sent`: the endpoint has
    some of the request, so that it may work on a reply."""

    def __init__(self, after_s: float) -> None:
        self.happened = self.sent = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(after_s, self.now)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What the transport reports: a new connection among other things."""
        self.sent = self.sent or event.endswith("send_request_body.started")
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self.happened:
                    self._shut()

    def now(self) -> None:
        """Cut it off, or refuse it as soon as there is one."""
        with self._lock:
            self.happened = True
            self._shut()

    def done(self) -> None:
        """It is over."""
        self._timer.cancel()

    def _shut(self) -> None:
        if self._socket is not None:
            # not SSLSocket's own, which takes the session away from under the thread that reads
            with contextlib.suppress(OSError):  # closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Secrets:
    """What no text may tell, wherever somebody has echoed it: the key, and the path of the endpoint, which may hold one. As they are, and as JSON and
    addresses write them."""

    def __init__(self, key: str, base_url: str) -> None:
        path = urlsplit(base_url).path.rstrip("/")
        names = [path, *sorted((name for name in path.split("/") if len(name) >= _NAME_LEAST), key=len, reverse=True)]
        self._key = _written(key) if key else None
        self._path = re.compile("|".join(_written(name).pattern for name in names)) if path else None

    def key_out_of(self, text: str) -> str:
        """Without the key: what a model says of paths is its reply."""
        return self._key.sub("[key]", text) if self._key else text

    def out_of(self, text: str) -> str:
        """Without either."""
        text = self.key_out_of(text)
        return self._path.sub("[path]", text) if self._path else text


def _written(secret: str) -> re.Pattern[str]:
    """A text as it is, each character also behind a backslash (JSON's "\\/"), as JSON's or an address' number. Nothing is tried twice."""
    return re.compile("".join(f"(?>\\\\u(?i:{ord(one):04x})|%(?i:{ord(one):02x})|\\\\?{re.escape(one)})" for one in secret))


def post(model: Model, key: str, messages: list[Message], schema: dict[str, Any], timeout_s: float, cut: Cut) -> Answer:
    """Ask once. Raises WireError, and nothing else; whatever is in its text, `key` is not, nor the path of the endpoint."""
    secrets = Secrets(key, model.base_url)
    try:
        body = _body(model, key, messages, schema, timeout_s, cut, secrets)
        return _answer(body, secrets)
    except WireError as error:
        failure = error.anew()
    except Exception as error:  # openai's, its transport's, and whatever a body can provoke
        failure = _failure(error, secrets, cut, timeout_s)
    finally:
        cut.done()
    raise failure  # outside of the handler: an exception's context would carry the request, and its headers, along


def _body(model: Model, key: str, messages: list[Message], schema: dict[str, Any], timeout_s: float, cut: Cut, secrets: Secrets) -> bytes:
    def asked(request: Any) -> None:
        request.extensions["trace"] = cut.trace
        _dress(request, key)

    transport = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"request": [asked], "response": [partial(_looked_over, secrets)]})
    timeout = openai.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
    parameters = _parameters(model, messages, schema)
    with (openai.OpenAI(api_key=key or "none", base_url=model.base_url, max_retries=0, timeout=timeout, http_client=transport) as client,
          client.chat.completions.with_streaming_response.create(**parameters) as response):
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MOST_BYTES:
                raise WireError(Kind.DATA, f"the reply is larger than {MOST_BYTES} bytes", billed=True)
        if cut.happened:  # a body that ends with its connection looks whole
            raise WireError(Kind.NETWORK, f"no whole reply within {timeout_s:.0f} s", billed=True)
        return bytes(body)


def _dress(request: Any, key: str) -> None:
    """The headers of a request, whole. What openai's client takes from the environment (OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_CUSTOM_HEADERS) and
    tells of this machine is for OpenAI at most, and any endpoint may be asked."""
    headers = {"host": request.url.netloc.decode("ascii"), "user-agent": "trader", "accept": "application/json", "accept-encoding": "identity",
               "content-type": "application/json", "content-length": str(len(request.read())),
               "x-stainless-raw-response": "stream"}  # by which the client knows, when the answer is there, that it was asked for its bytes
    for name in list(request.headers):
        del request.headers[name]
    request.headers.update(headers | ({"authorization": f"Bearer {key}"} if key else {}))


def _parameters(model: Model, messages: list[Message], schema: dict[str, Any]) -> dict[str, Any]:
    """What is sent. OpenAI's newest models take the limit of a reply by its new name only; most others know just the old one."""
    parameters: dict[str, Any] = {
        "model": model.model, "messages": [{"role": message.role, "content": message.content} for message in messages],
        "max_completion_tokens" if model.json == "strict" else "max_tokens": model.max_tokens}
    if model.temperature is not None:
        parameters["temperature"] = model.temperature
    match model.json:
        case "schema":
            parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
        case "strict":
            parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": strict(schema), "strict": True}}
        case "object":
            parameters["response_format"] = {"type": "json_object"}
    return parameters


def _looked_over(secrets: Secrets, response: Any) -> None:
    """Before any of a body is read: refuse an error, and what says that it is too long or packed. Raises WireError."""
    status, headers = response.status_code, response.headers
    if status >= 300:
        excerpt = bytearray()
        for piece in response.iter_raw():
            excerpt += piece
            if len(excerpt) >= MOST_ERROR_BYTES:
                break
        raise _refused(status, headers.get("retry-after", ""), _excerpt(excerpt, secrets))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise WireError(Kind.DATA, "the reply is packed, which was not asked for: its size could not be bounded", billed=True)
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 12 or int(length) > MOST_BYTES):
        raise WireError(Kind.DATA, f"the reply is larger than {MOST_BYTES} bytes", billed=True)


def _refused(status: int, retry_after: str, excerpt: str) -> WireError:
    text = f"HTTP {status}{': ' + excerpt if excerpt else ''}"
    if status == 429:
        return WireError(Kind.RATE_LIMIT, text, _pause_s(retry_after))
    if status == 503 and retry_after:
        return WireError(Kind.RATE_LIMIT, text, _pause_s(retry_after))
    if status in (401, 403):
        return WireError(Kind.FATAL, f"{text}; is the key in api_key_env's variable the right one?")
    return WireError(Kind.API, text, billed=status >= 500 or status == 408)


def _pause_s(retry_after: str) -> float:
    """Retry-After: seconds, or a date; 0 where it says nothing that can be used."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", retry_after.strip()):
        return min(MOST_PAUSE_S, float(retry_after))
    try:
        return max(0.0, min(MOST_PAUSE_S, parsedate_to_datetime(retry_after).timestamp() - time.time()))
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0


def _answer(body: bytes, secrets: Secrets) -> Answer:
    """The answer in a body. Raises WireError."""
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        what = "is empty" if not body.strip() else f"is no chat completion ({clean(str(error), 80)}): {_excerpt(body, secrets)}"
        raise WireError(Kind.DATA, f"the reply {what}", billed=True) from None
    usage = completion.usage if isinstance(completion.usage, dict) else {}
    tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if completion.error is not None:  # some endpoints answer 200 with it
        said = completion.error if isinstance(completion.error, dict) else {"message": completion.error}
        code, text = str(said.get("code")), clean(secrets.out_of(str(said.get("message"))))
        limited = code in ("429", "rate_limit_exceeded")
        refused = limited or (code.startswith("4") and code.isdecimal() and code != "408")  # before anybody worked on it
        raise WireError(Kind.RATE_LIMIT if limited else Kind.API, f"the endpoint answered an error: {text}", billed=not refused, tokens=tokens)
    if not completion.choices:
        raise WireError(Kind.DATA, "the reply has no choices", billed=True, tokens=tokens)
    choice = completion.choices[0]
    return Answer(text=secrets.key_out_of(choice.message.content or ""), finish_reason=clean(secrets.out_of(choice.finish_reason or ""), 32),
                  refusal=clean(secrets.out_of(choice.message.refusal or "")),
                  tokens_in=tokens[0], tokens_out=tokens[1])


def _count(value: Any) -> int | None:
    """A number of tokens, or None for what is none: a reply is not worse for it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None


def _failure(error: BaseException, secrets: Secrets, cut: Cut, timeout_s: float) -> WireError:
    """Any other exception as a WireError; openai wraps what its transport, or a hook of ours, raised."""
    chain: list[BaseException] = []
    while error is not None and error not in chain and len(chain) < 10:
        chain.append(error)
        if isinstance(error, WireError):
            return error.anew()
        error = error.__cause__  # type: ignore[assignment]
    names = " ← ".join(dict.fromkeys(type(one).__name__ for one in chain))
    if cut.happened or any(isinstance(one, openai.APITimeoutError) or "Timeout" in type(one).__name__ for one in chain):
        return WireError(Kind.NETWORK, f"no {'whole reply' if cut.sent else 'connection'} within {timeout_s:.0f} s ({names})", billed=cut.sent)
    said = clean(secrets.out_of(next((str(one) for one in reversed(chain) if str(one)), "")))
    kind = Kind.NETWORK if isinstance(chain[0], openai.APIConnectionError) or "Protocol" in names or "ReadError" in names else classify(chain[0])
    return WireError(kind, f"{names}: {said}", billed=cut.sent)


def _excerpt(body: bytes | bytearray, secrets: Secrets) -> str:
    """The beginning of a body for a person; the key goes before anything is cut, as half a key is a secret, too."""
    return clean(secrets.out_of(body[:MOST_ERROR_BYTES].decode("utf-8", "replace")))
