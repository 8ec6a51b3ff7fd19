"""One exchange over a real socket: what an endpoint does wrong, how it is told, and that neither time nor memory grow with it."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from urllib.parse import quote

import pytest

from control.think.llm.client import Client
from control.think.llm.config import Llm, Model
from control.think.llm.wire import MOST_BYTES, Cut, Secrets, WireError, post
from hotpath.errors import Kind
from tests import llm_server as server
from tests.llm_scene import KEY, advised, model, settings
from tests.llm_server import Script, completion, proposal, reply, says, serving

GOOD = reply(proposal())


def failure_of(script: Script, key: str = KEY, timeout_s: float = 2.0, **changes: object) -> WireError:
    with serving(script) as endpoint, pytest.raises(WireError) as caught:
        post(model(endpoint.base_url, **changes), key, [], {}, timeout_s, Cut(timeout_s))
    return caught.value


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_answer_has_its_text_its_end_and_its_tokens() -> None:
    with serving(says(GOOD, usage={"prompt_tokens": 700, "completion_tokens": 80})) as endpoint:
        answer = post(model(endpoint.base_url), KEY, [], {}, 2.0, Cut(2.0))
    assert (answer.text, answer.finish_reason, answer.tokens_in, answer.tokens_out) == (GOOD, "stop", 700, 80)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "many"}, {"completion_tokens": 10**30}])
def test_tokens_that_are_not_told_or_nonsense_are_not_believed(usage: object) -> None:
    with serving(says(GOOD, usage=usage)) as endpoint:
        answer = post(model(endpoint.base_url), KEY, [], {}, 2.0, Cut(2.0))
    assert answer.tokens_in is answer.tokens_out is None


@pytest.mark.parametrize(("script", "kind", "says"), [
    (server.gives(b'{"error": {"message": "try later"}}', 500), Kind.API, "HTTP 500.*try later"),
    (server.gives(b"", 500), Kind.API, "HTTP 500"),
    (server.gives(b"no such model", 404), Kind.API, "HTTP 404: no such model"),
    (server.gives(b"", 302, location="http://127.0.0.1:9/"), Kind.API, "HTTP 302"),
    (server.gives(b"who are you", 401), Kind.FATAL, "HTTP 401.*api_key_env"),
    (server.gives(b"not for you", 403), Kind.FATAL, "HTTP 403"),
    (server.gives(b"<html>sign in</html>", content_type="text/html"), Kind.DATA, "no chat completion.*sign in"),
    (server.gives(b""), Kind.DATA, "the reply is empty"),
    (server.gives(b"[1, 2"), Kind.DATA, "no chat completion"),
    (server.gives(b"[" * 100_000), Kind.DATA, "no chat completion"),
    (server.gives(b"\xff\xfe\x00"), Kind.DATA, "no chat completion"),
    (server.gives(b'{"choices": []}'), Kind.DATA, "no choices"),
    (server.gives(b'{"choices": [{"message": {"content": ["a"]}}]}'), Kind.DATA, "no chat completion"),
    (server.gives(b'{"error": {"message": "upstream", "code": 502}}'), Kind.API, "upstream"),
    (server.gives(b'{"error": {"message": "slow down", "code": 429}}'), Kind.RATE_LIMIT, "slow down"),
    (server.gives(completion(GOOD)[:90], length=2_000), Kind.NETWORK, "RemoteProtocolError"),
    (server.gives(b"x", length=10**9), Kind.DATA, "larger than"),
    (server.gives(b"x", content_encoding="gzip"), Kind.DATA, "packed"),
    (server.resets(), Kind.NETWORK, "."),
    (server.resets(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), Kind.NETWORK, "."),
    (server.resets(b"HTTP/1.1 999999 ?\r\n\r\n"), Kind.NETWORK, "."),
])
def test_what_is_no_answer_is_classified_and_told(script: Script, kind: Kind, says: str) -> None:
    error = failure_of(script)
    assert error.kind is kind, error
    assert re.search(says, error.text), error.text
    assert error.__cause__ is error.__context__ is None, "an exception's context would carry the request along"


@pytest.mark.parametrize(("retry_after", "least_s", "most_s"), [
    ("7", 7, 7), ("0.5", 0.5, 0.5), ("", 0, 0), ("soon", 0, 0), ("-3", 0, 0), ("999999999", 3600, 3600), ("1" * 400, 0, 0),
    ("Fri, 31 Dec 2100 23:59:59 GMT", 3600, 3600), ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0)])
def test_an_endpoint_that_asks_to_be_left_alone_says_for_how_long(retry_after: str, least_s: float, most_s: float) -> None:
    error = failure_of(server.gives(b"slow down", 429, retry_after=retry_after))
    assert error.kind is Kind.RATE_LIMIT
    assert least_s <= error.pause_s <= most_s
    assert not error.billed


def test_no_endpoint_at_all_is_a_network_failure_that_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(WireError) as caught:
        post(model(f"http://127.0.0.1:{port}/v1"), KEY, [], {}, 2.0, Cut(2.0))
    assert (caught.value.kind, caught.value.billed) == (Kind.NETWORK, False)


def test_a_connection_that_never_comes_about_costs_nothing_and_one_that_breaks_later_may() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # the backlog is full
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(WireError, match="no connection within 1 s") as caught:
            post(model(f"http://127.0.0.1:{full.getsockname()[1]}/v1"), KEY, [], {}, 0.7, Cut(0.7))
        for one in waiting:
            one.close()
    assert (caught.value.kind, caught.value.billed) == (Kind.NETWORK, False)
    assert failure_of(server.resets()).billed
    assert failure_of(server.late(says(GOOD), 30), timeout_s=0.5).billed


USAGE = {"prompt_tokens": 9_000, "completion_tokens": 4_000}


@pytest.mark.parametrize(("code", "usage", "billed", "tokens"), [
    (502, USAGE, True, (9_000, 4_000)), (502, None, True, (None, None)), ("provider_failed", {"prompt_tokens": 5}, True, (5, None)),
    (None, None, True, (None, None)), (429, None, False, (None, None)), (402, None, False, (None, None)), (400, USAGE, False, (9_000, 4_000))])
def test_an_error_in_a_whole_answer_may_have_taken_tokens(code: object, usage: object, billed: bool, tokens: object) -> None:
    error = failure_of(server.gives(json.dumps({"error": {"code": code, "message": "no"}, "usage": usage}).encode()))
    assert (error.billed, error.tokens) == (billed, tokens)


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("script", [
    server.late(says(GOOD), 30), server.drips(completion(GOOD), 0.1), server.drips(completion(GOOD), 0.1, head=True),
    lambda handler: handler.server.ended.wait(30)], ids=["late headers", "dripping body", "dripping headers", "silence"])
def test_whatever_comes_too_slowly_ends_at_the_deadline(script: Script) -> None:
    began = time.monotonic()
    error = failure_of(script, timeout_s=0.7)
    assert time.monotonic() - began < 3
    assert error.kind is Kind.NETWORK
    assert "within 1 s" in error.text


def test_a_reply_that_is_cut_off_is_none_though_it_looks_whole() -> None:
    def script(handler: server.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + completion(GOOD))
        while not handler.server.ended.wait(0.1):
            handler.wfile.write(b" ")

    error = failure_of(script, timeout_s=0.7)
    assert (error.kind, error.billed) == (Kind.NETWORK, True)


def test_an_error_whose_body_drips_ends_at_the_deadline_too() -> None:
    def script(handler: server.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 500 X\r\nContent-Length: 5000\r\n\r\n")
        while not handler.server.ended.wait(0.1):
            handler.wfile.write(b"x")

    began = time.monotonic()
    assert failure_of(script, timeout_s=0.7).kind in (Kind.API, Kind.NETWORK)
    assert time.monotonic() - began < 3


def test_a_request_can_be_cut_off_from_another_thread() -> None:
    cut = Cut(30.0)
    with serving(server.late(says(GOOD), 30)) as endpoint:
        threading.Timer(0.3, cut.now).start()
        began = time.monotonic()
        with pytest.raises(WireError):
            post(model(endpoint.base_url), KEY, [], {}, 30.0, cut)
    assert time.monotonic() - began < 3


def test_a_request_that_is_cut_off_before_it_begins_fails() -> None:
    cut = Cut(30.0)
    cut.now()
    with serving(server.late(says(GOOD), 30)) as endpoint, pytest.raises(WireError):
        post(model(endpoint.base_url), KEY, [], {}, 30.0, cut)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("status", [200, 500])
def test_hundreds_of_megabytes_are_cut_off_and_never_held(status: int) -> None:
    with serving(server.endless(b"[" * 65_536, status)) as endpoint:
        tracemalloc.start()
        with pytest.raises(WireError) as caught:
            post(model(endpoint.base_url), KEY, [], {}, 20.0, Cut(20.0))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert endpoint.hung_up.wait(5), "the connection was left open"
    assert peak < 5 * MOST_BYTES
    assert "larger than" in caught.value.text if status == 200 else caught.value.kind is Kind.API


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("script", [
    server.echoes_the_key(401), server.echoes_the_key(500), server.echoes_the_key(429), server.echoes_the_key(200),
    says(f"your key is {KEY}"), says(None, refusal=f"not with {KEY}"), says("x", finish_reason=KEY),
    server.gives(b"x" * 190 + KEY.encode(), 500), server.gives(b"x" * 190 + KEY.encode())])
def test_a_key_is_in_no_text_no_exchange_and_no_log(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    with serving(script) as endpoint, caplog.at_level(logging.DEBUG):
        llm = settings(endpoint.base_url)
        client = Client(llm, {"LLM_KEY": KEY})
        advice = advised(client, llm)
        assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    told = f"{advice!r} {advice.events(1)!r} {client.__dict__!r} {caplog.text} {llm!r} {[vars(one.errors) for one in client._lines]!r}"
    assert advice.decision == "FAILED"
    assert KEY not in told
    assert KEY[:12] not in told, "half a key is a secret, too"


ODD = 'sk-abc/def+GH"IJ&<KL==4711'


@pytest.mark.parametrize("written", [
    ODD, ODD.replace("/", "\\/"), json.dumps(ODD)[1:-1].replace("/", "\\/"), "".join(f"\\u{ord(one):04X}" for one in ODD), quote(ODD), quote(ODD, ""),
    ODD.replace("+", "\\u002b").replace("<", "\\u003C"), "".join(f"%{ord(one):02x}" for one in ODD)])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_is_told_in_no_encoding(written: str, status: int) -> None:
    error = failure_of(server.gives(f'{{"error": "bad key {written}" }} x'.encode(), status), ODD)
    assert "bad key [key]" in error.text
    assert not {"abc", "4711", "%73%6b", "0073"} & set(re.split(r"[^a-z0-9%]+", error.text))


def test_what_a_model_answers_is_read_without_the_key_in_no_time() -> None:
    secrets = Secrets("sk-" + "aB3dE" * 30, "https://h/v1/openai/deployments/mine")
    for text in ("sk-" + "aB3dE" * 29, "\\", "%73", "s", "sk-"):
        began = time.thread_time()
        assert secrets.key_out_of(text * (MOST_BYTES // len(text)))
        assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("key", ["", " ", "sk with blanks", "sk-é", "sk\r\nX-Evil: 1"])
def test_a_key_that_is_missing_or_cannot_be_sent_is_told_without_it_and_nothing_is_asked(key: str) -> None:
    with serving(says(GOOD)) as endpoint:
        llm = settings(endpoint.base_url)
        advice = advised(Client(llm, {"LLM_KEY": key}), llm)
        assert endpoint.requests == []
    assert "LLM_KEY" in advice.reason
    assert not key.strip() or key not in repr(advice)


def test_only_the_host_of_an_endpoint_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    with serving(says(GOOD)) as endpoint, caplog.at_level(logging.DEBUG):
        llm = settings(endpoint.base_url + "/secret-path")
        advice = advised(Client(llm, {"LLM_KEY": KEY}), llm)
    assert advice.exchange.host.startswith("127.0.0.1:")
    assert "secret-path" not in repr(advice) + caplog.text
    echo = r"at /v1/secret-path/chat, \/v1\/secret-path\/x, %2Fv1%2Fsecret-path, or secret-path"
    for status in (200, 404, 500):
        with serving(server.gives(echo.encode(), status)) as endpoint, pytest.raises(WireError) as caught:
            post(model(endpoint.base_url + "/secret-path"), KEY, [], {}, 2.0, Cut(2.0))
        assert r"at [path]/chat, [path]\/x, [path], or [path]" in caught.value.text


@pytest.mark.parametrize("base_url", ["https://me:pw@host/v1", "https://pw@host/v1", "https://host/v1?key=pw", "ftp://pw/v1", "pw", "http://[pw/v1",
                                      "http://host:pw/v1"])
def test_a_base_url_that_could_hold_a_secret_is_refused_without_being_shown(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Model(base_url=base_url, model="m")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("key", [KEY, ""])
def test_nobody_gets_what_the_environment_says_of_an_openai_account(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OPENAI_ORG_ID", "org-mine"), ("OPENAI_PROJECT_ID", "proj-mine"), ("OPENAI_API_KEY", "sk-of-another"),
                        ("OPENAI_ADMIN_KEY", "sk-admin"), ("OPENAI_WEBHOOK_SECRET", "whsec"), ("OPENAI_CUSTOM_HEADERS",
                         "X-Proxy-Secret: hush\nAuthorization: Bearer sk-custom\nUser-Agent: mine\nHost: elsewhere\nAccept-Encoding: gzip")):
        monkeypatch.setenv(name, value)
    with serving(says(GOOD)) as endpoint:
        post(model(endpoint.base_url), key, [], {}, 2.0, Cut(2.0))
        (sent,) = endpoint.headers
        host = endpoint.base_url.removeprefix("http://").removesuffix("/v1")
    length = sent.pop("content-length")
    assert int(length) > 0
    assert sent == {"host": host, "user-agent": "trader", "accept": "application/json", "accept-encoding": "identity",
                    "content-type": "application/json", "x-stainless-raw-response": "stream"} | ({"authorization": f"Bearer {KEY}"} if key else {})


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("mode", "format", "limit"), [
    ("schema", "json_schema", "max_tokens"), ("strict", "json_schema", "max_completion_tokens"), ("object", "json_object", "max_tokens"),
    ("none", None, "max_tokens")])
def test_the_json_mode_says_how_a_reply_is_asked_for(mode: str, format: str | None, limit: str) -> None:
    with serving(says(GOOD)) as endpoint:
        llm = Llm(models=(model(endpoint.base_url, json=mode, temperature=0.5),))
        assert advised(Client(llm, {"LLM_KEY": KEY}), llm).decision == "TRADE"
        (request,) = endpoint.requests
    assert request.get("response_format", {}).get("type") == format
    assert (request[limit], request["temperature"], request["model"]) == (1000, 0.5, "scripted")
    if mode == "strict":
        assert request["response_format"]["json_schema"]["strict"] is True
        assert "maxLength" not in json.dumps(request["response_format"])
    if mode == "schema":
        kinds = request["response_format"]["json_schema"]["schema"]["properties"]["proposals"]["items"]["anyOf"]
        assert {symbol for kind in kinds for symbol in kind["properties"]["symbol"]["enum"]} == {"BTC/USDT", "ETH/USDT:USDT"}
