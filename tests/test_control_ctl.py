"""trader-ctl and the control socket over real ZeroMQ sockets: every command, every fault, the exit codes, and no waiting for the dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import zmq

from control.config import Safety
from control.serve import attendant, control, ctl
from control.serve.control import MAX_COMMAND_BYTES, ControlSocket
from control.supervise.dangers import Dangers
from control.supervise.safety import SafeMode
from control.supervise.words import Words
from ipc import bus, messages
from ipc import layout as l
from tests.test_control_view import seen

NAME = "ctl-test"


class Watchdog:
    """A supervising loop that only turns the control socket, and notes what it was told."""

    def __init__(self, memory: Any, folder: Path) -> None:
        self.memory, self.sockets = memory, folder
        self.notes: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.safe_mode, self.rescue = SafeMode(0.0), SimpleNamespace(flattens=False)
        self.words = Words(memory.board.modes, self.safe_mode, Dangers(memory, Safety(), 500, None, None), self.rescue, lambda: None, self.note)
        self.unwritten: set[int] = set()
        self.turns: list[float] = []
        self.looks: Callable[[], dict[str, Any]] = seen
        self.socket = ControlSocket(self)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def look(self) -> dict[str, Any]:
        return self.looks()

    def vitals(self) -> dict[str, Any]:
        return seen()

    def stop(self, cause: str) -> None:
        self.stopped.append(cause)

    def noted(self) -> int:
        return len(self.notes)

    def journaled(self, number: int) -> bool:
        return number not in self.unwritten

    def stopping(self) -> bool:
        return bool(self.stopped)

    def note(self, kind: str, text: str, **data: Any) -> None:
        self.notes.append(f"{kind}: {text}")
        self.data.append(data)

    def _run(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            self.socket.poll()
            self.turns.append(time.monotonic() - began)
            poller = zmq.Poller()
            for descriptor in self.socket.descriptors():
                poller.register(descriptor, zmq.POLLIN)
            poller.poll(20)
        self.socket.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


class Role:
    """A process that answers on its socket, in a thread."""

    def __init__(self, folder: Path, name: str, handle: Callable[[Any], Any]) -> None:
        self.asked: list[Any] = []
        self._handle = handle
        self._end = threading.Event()
        self._server = bus.Server(folder, name, messages.decode_child_request)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _answer(self, request: Any) -> Any:
        self.asked.append(request)
        return self._handle(request)

    def _run(self) -> None:
        while not self._end.is_set():
            self._server.poll(0.005, self._answer)
        self._server.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def folder(runtime_dir: Path) -> Path:
    return bus.make_socket_dir(NAME)


@pytest.fixture
def watchdog(memory: Any, folder: Path) -> Iterator[Watchdog]:
    one = Watchdog(memory, folder)
    yield one
    one.close()


@pytest.fixture
def sniper(folder: Path) -> Iterator[Role]:
    def handle(request: Any) -> Any:
        match request:
            case messages.Query(what="positions"):
                return messages.Answer(rows=[{"id": "9", "symbol": "BTC/USDT", "unrealised_pnl": "-1.50"}])
            case messages.Query(what="conditions"):
                return messages.Answer(rows=[{"id": 65537, "symbol": "BTC/USDT", "distance_bps": 3.1}])
            case messages.Operate(action="close", position="nothing"):
                return messages.Refused(code="no_such_position", text="no open position 'nothing'", remedy="trader-ctl positions")
        return messages.Done(text="told the hot loop")

    one = Role(folder, "sniper", handle)
    yield one
    one.close()


@pytest.fixture
def recorder(folder: Path) -> Iterator[Role]:
    def handle(request: Any) -> Any:
        if request.what == "why":
            return messages.Answer(rows=[{"condition": one, "why": f"because {one}"} for one in request.argument.split(",")])
        if request.what == "errors":
            return messages.Answer(rows=[{"process": "gateway", "text": "disk full", "argument": request.argument}])
        return messages.Answer(rows=[{"id": "abc", "symbol": "BTC/USDT", "limit": request.limit}])

    one = Role(folder, "recorder", handle)
    yield one
    one.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """trader-ctl in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    try:
        code = ctl.main(["--instance", NAME, *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def ask(folder: Path, request: Any, timeout_s: float = 2.0) -> Any:
    client = bus.Client(folder, "control")
    try:
        return client.ask(request, timeout_s)
    finally:
        client.close()


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("said", ["HTTP 500: <s>[INST] oh [/INST]", "[red]x[/red]", "it moves [/i]", "[bold", "[link=file:///x]y",
                                  "\\[x] :warning: [/]"])
def test_what_a_model_or_an_endpoint_says_is_text_and_no_markup(capsys: pytest.CaptureFixture[str], folder: Path, memory: Any, said: str) -> None:
    def handle(request: Any) -> Any:
        match request:
            case messages.Query(what="why") if "," not in request.argument and not request.argument.isdigit():
                return messages.Answer(data={"text": ["position 1: buy", f"because: llm: {said}"]})
            case messages.Query(what="why"):
                return messages.Answer(rows=[{"condition": one, "why": f"llm: {said}"} for one in request.argument.split(",")])
            case messages.Query(what="conditions"):
                return messages.Answer(rows=[{"id": 65537, "symbol": "BTC/USDT", "distance_bps": 3.1}])
        return messages.Answer(rows=[{"id": said, "symbol": said, "text": said, "why": said, said: said}])

    row = memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES]
    row["name"], row["text"], row["failures"] = b"advice llm", said.encode(), 1
    roles = [Role(folder, name, handle) for name in ("recorder", "sniper", "reflection")]
    try:
        for command in ("why BTC/USDT", "health", "errors", "conditions", "trades", "orders", "positions", "knowledge"):
            code, out, err = run(capsys, *command.split())
            assert (code, err) == (0, ""), command
            assert said in out, command
    finally:
        for role in roles:
            role.close()


@pytest.mark.usefixtures("sniper", "recorder", "watchdog")
@pytest.mark.parametrize(("command", "shows"), [
    ("status", "strategist"), ("health", "healthy"), ("positions", "-1.50"), ("conditions", "because 65537"), ("orders", "abc"),
    ("trades", "BTC/USDT"), ("stats", "tick to intent"), ("pause", "paused"), ("resume", "resumed"), ("safe", "safe mode"),
    ("close 9", "closing position"), ("flatten", "no position is open"), ("errors", "disk full"),
])
def test_each_command_is_done_for_people_and_for_scripts(capsys: pytest.CaptureFixture[str], command: str, shows: str) -> None:
    code, out, err = run(capsys, *command.split())
    assert (code, err) == (0, "")
    assert shows in out
    for arguments in (["--json", *command.split()], [*command.split(), "--json"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert json.loads(out)["type"] in ("answer", "done")
        assert out.count("\n") == 1


def test_limits_and_ids_reach_the_process_that_knows(capsys: pytest.CaptureFixture[str], watchdog: Watchdog, sniper: Role,
                                                     recorder: Role) -> None:
    run(capsys, "trades", "--limit", "7")
    assert recorder.asked[-1] == messages.Query(what="trades", limit=7)
    run(capsys, "errors", "--hours", "0.5", "--limit", "3")
    assert recorder.asked[-1] == messages.Query(what="errors", limit=3, argument="0.5")
    run(capsys, "close", "ETH/USDT")
    assert sniper.asked[-1] == messages.Operate(action="close", position="ETH/USDT")
    assert watchdog.notes == ["operator: close ETH/USDT"]


def test_pause_and_resume_set_the_operators_mode_word_alone(watchdog: Watchdog, folder: Path, memory: Any) -> None:
    ask(folder, messages.Pause())
    assert [int(row["mode"]) for row in memory.board.modes] == [0, l.MODE_REDUCE_ONLY, 0, 0, 0]
    memory.board.modes[l.MODE_OF_RECORDER]["mode"], memory.board.modes[l.MODE_OF_RECORDER]["cause"] = l.MODE_SAFE, b"journal cannot write"
    reply = ask(folder, messages.Resume())
    assert "still safe: journal cannot write" in reply.text
    assert int(memory.board.modes[l.MODE_OF_OPERATOR]["mode"]) == l.MODE_RUNNING
    assert len(watchdog.notes) == 2


def test_a_word_that_lasts_is_answered_when_the_journal_has_it_and_else_says_that_it_has_not(watchdog: Watchdog, folder: Path, memory: Any) -> None:
    watchdog.unwritten = {1}
    threading.Timer(0.3, watchdog.unwritten.clear).start()
    began = time.monotonic()
    assert ask(folder, messages.Pause()).text == "paused: no new entries until resume; exits go on"
    assert time.monotonic() - began >= 0.25
    watchdog.unwritten = {2}
    assert "not in the journal yet" in ask(folder, messages.Safe()).text
    assert int(memory.board.modes[l.MODE_OF_OPERATOR]["mode"]) == l.MODE_REDUCE_ONLY, "it holds meanwhile"


def test_a_word_that_lasts_does_not_wait_for_what_is_noted_behind_it(watchdog: Watchdog, folder: Path) -> None:
    began = time.monotonic()
    watchdog.unwritten = {1, 2}
    threading.Timer(0.1, lambda: watchdog.note("later", "")).start()
    threading.Timer(0.2, lambda: watchdog.unwritten.discard(1)).start()
    assert "not in the journal" not in ask(folder, messages.Pause()).text
    assert time.monotonic() - began < 0.8


def test_flatten_too_is_answered_when_it_would_outlive_the_instance_and_not_only_its_pause(watchdog: Watchdog, folder: Path, sniper: Any) -> None:
    watchdog.unwritten = {2}
    assert "not in the journal yet" in ask(folder, messages.Flatten()).text
    assert watchdog.data == [{"flatten": False}, {"flatten": True}]


def test_a_flatten_that_no_sniper_has_taken_is_a_pause_and_outlives_nothing(watchdog: Watchdog, folder: Path) -> None:
    assert isinstance(ask(folder, messages.Flatten()), messages.Unavailable)
    assert (watchdog.data, watchdog.rescue.flattens) == ([{"flatten": False}], False)


def test_a_word_that_nobody_could_store_is_not_told_as_stored_when_the_instance_ends(watchdog: Watchdog, folder: Path) -> None:
    watchdog.unwritten = {1}
    said: list[Any] = []
    asking = threading.Thread(target=lambda: said.append(ask(folder, messages.Pause())))
    asking.start()
    while not watchdog.notes:
        time.sleep(0.005)
    watchdog.close()
    asking.join()
    assert "the next start does not know of it" in said[0].text


def test_safe_mode_is_not_promised_where_the_instance_is_stopping(watchdog: Watchdog, folder: Path) -> None:
    watchdog.stopped.append("trader-ctl stop")
    reply = ask(folder, messages.Safe())
    assert (reply.code, watchdog.safe_mode.causes) == ("stopping", {})
    assert "trader-ctl pause" in reply.remedy


def test_resume_ends_safe_mode_and_says_which_causes_stand(watchdog: Watchdog, folder: Path, memory: Any) -> None:
    ask(folder, messages.Safe())
    assert list(watchdog.safe_mode.causes) == ["operator"]
    watchdog.safe_mode.begin("daily_loss", "5.10% lost", 1)
    assert "still safe: 5.10% lost" in ask(folder, messages.Resume()).text
    watchdog.safe_mode.turn(0.0, {}, 2)
    assert ask(folder, messages.Resume()).text == "resumed: entries again"


def test_flatten_pauses_first(watchdog: Watchdog, folder: Path, sniper: Role, memory: Any) -> None:
    assert isinstance(ask(folder, messages.Flatten()), messages.Done)
    assert int(memory.board.modes[l.MODE_OF_OPERATOR]["mode"]) == l.MODE_REDUCE_ONLY
    assert sniper.asked == [messages.Operate(action="flatten")]


def test_stop_waits_until_the_instance_has_gone(capsys: pytest.CaptureFixture[str], watchdog: Watchdog, folder: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "STOP_PATIENCE_S", 0.3)
    code, _, err = run(capsys, "stop")
    assert code == ctl.EXIT_TIMED_OUT
    assert "still stopping" in err
    assert watchdog.stopped == ["trader-ctl stop"]
    monkeypatch.setattr(ctl, "STOP_PATIENCE_S", 10.0)
    threading.Timer(0.3, lambda: os.rename(folder, folder.parent / "gone")).start()
    assert run(capsys, "stop")[0] == 0


def test_any_client_can_speak_plain_json(watchdog: Watchdog, folder: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.connect(bus.address(folder, "control"))
        plain.send_multipart([b"my-id-01", b'{"type": "status"}'])
        assert plain.poll(2000)
        number, payload = plain.recv_multipart()
    assert number == b"my-id-01"
    assert json.loads(payload)["data"]["instance"] == "night"


# ── who is not there ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.usefixtures("runtime_dir")
def test_an_instance_that_does_not_run_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "status")
    assert (code, out) == (ctl.EXIT_NOT_RUNNING, "")
    assert "scripts/run" in err
    code, out, _ = run(capsys, "status", "--json")
    assert code == ctl.EXIT_NOT_RUNNING
    assert json.loads(out)["code"] == "not_running"


def test_the_socket_file_of_a_killed_instance_is_no_instance(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "control.sock"))
    assert run(capsys, "status")[0] == ctl.EXIT_NOT_RUNNING


@pytest.mark.usefixtures("watchdog")
def test_the_names_of_those_that_run_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["--instance", "other", "status"]) == ctl.EXIT_NOT_RUNNING
    assert f"running: {NAME}" in capsys.readouterr().err


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("command", ["positions", "conditions", "orders", "trades", "close 9", "flatten"])
def test_a_query_that_needs_a_dead_process_is_unavailable_within_a_second(capsys: pytest.CaptureFixture[str], command: str) -> None:
    began = time.monotonic()
    code, out, _ = run(capsys, *command.split(), "--json")
    assert code == ctl.EXIT_TIMED_OUT
    assert json.loads(out)["type"] == "unavailable"
    assert time.monotonic() - began < 1.2  # this process and its imports included


def test_conditions_are_shown_without_their_why_when_the_recorder_is_dead(watchdog: Watchdog, folder: Path, sniper: Role) -> None:
    began = time.monotonic()
    reply = ask(folder, messages.Conditions())
    assert time.monotonic() - began < 1.0
    assert reply.rows == [{"id": 65537, "symbol": "BTC/USDT", "distance_bps": 3.1, "why": ""}]


def test_a_command_that_was_unavailable_never_reaches_a_later_process(watchdog: Watchdog, folder: Path) -> None:
    assert isinstance(ask(folder, messages.Close(id="9")), messages.Unavailable)
    late = Role(folder, "sniper", lambda _: messages.Done())
    time.sleep(0.4)
    late.close()
    assert late.asked == []


def test_waiting_for_the_dead_delays_nobody_else(watchdog: Watchdog, folder: Path) -> None:
    dead = [threading.Thread(target=ask, args=(folder, messages.Orders())) for _ in range(20)]
    for thread in dead:
        thread.start()
    time.sleep(0.1)
    took = []
    for _ in range(50):
        began = time.monotonic()
        assert isinstance(ask(folder, messages.Status()), messages.Answer)
        took.append(time.monotonic() - began)
    for thread in dead:
        thread.join()
    assert np.median(took) < 0.05
    assert np.median(watchdog.turns) < 0.02


def test_health_is_answered_while_the_loop_is_at_something_else(watchdog: Watchdog, folder: Path) -> None:
    """Whatever acts waits for the loop; what shared memory knows does not."""
    entered, leave = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        entered.set()
        leave.wait(20)
        return seen()

    watchdog.looks = slow
    asking = threading.Thread(target=ask, args=(folder, messages.Status(), 20.0))
    asking.start()
    assert entered.wait(10)
    for _ in range(20):
        assert isinstance(ask(folder, messages.Health(), 10.0), messages.Answer)
        assert isinstance(ask(folder, messages.Ping(), 10.0), messages.Pong)
    assert not leave.is_set()
    assert asking.is_alive()
    leave.set()
    asking.join()


def test_commands_that_wait_for_a_blocked_loop_are_bounded(watchdog: Watchdog, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendant, "MOST_WAITING", 0)
    reply = ask(folder, messages.Pause())
    assert (reply.code, reply.remedy) == ("busy", "ask again in a second")
    assert not memory_modes(watchdog).any()


def memory_modes(watchdog: Watchdog) -> Any:
    return watchdog.memory.board.modes["mode"]


def test_a_process_answers_under_the_right_number_when_many_ask(watchdog: Watchdog, folder: Path, recorder: Role) -> None:
    replies: dict[int, Any] = {}

    def one(limit: int) -> None:
        replies[limit] = ask(folder, messages.Trades(limit=limit))

    threads = [threading.Thread(target=one, args=(limit,)) for limit in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {limit: reply.rows[0]["limit"] for limit, reply in replies.items()} == {limit: limit for limit in range(1, 41)}


def test_too_many_questions_at_once_are_refused(watchdog: Watchdog, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_PENDING", 0)
    reply = ask(folder, messages.Orders())
    assert (reply.code, reply.remedy) == ("busy", "ask again in a second")


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────
NESTED = b'{"type": "close", "id": ' + b"[" * 60_000


@pytest.mark.parametrize(("frames", "says"), [
    ([b"12345678", b"not json"], "malformed"), ([b"12345678", b""], "malformed"), ([b"12345678", b"\xff\xfe"], "malformed"),
    ([b"12345678", b'{"type": "status"'], "malformed"), ([b"12345678", b'{"type": "explode"}'], "malformed"),
    ([b"12345678", b'{"type": "status", "extra": 1}'], "malformed"), ([b"12345678", b'{"type": "orders", "limit": 0}'], "malformed"),
    ([b"12345678", b'{"type": "orders", "limit": "many"}'], "malformed"), ([b"12345678", b'{"type": "close"}'], "malformed"),
    ([b"12345678", b'{"type": "plan", "strategy": "x"}'], "malformed"), ([b"12345678", NESTED], "malformed"),
    ([b'{"type": "status"}'], "malformed"), ([b"short", b'{"type": "status"}'], "malformed"),
    ([b"12345678"] + [b"x"] * 5000, "malformed"),
])
def test_a_malformed_message_is_refused_with_the_reason_and_the_socket_goes_on(watchdog: Watchdog, folder: Path, frames: list[bytes],
                                                                              says: str) -> None:
    before = watchdog.memory.board.modes.tobytes()
    with zmq.Context() as context, context.socket(zmq.DEALER) as bad:
        bad.setsockopt(zmq.LINGER, 0)
        bad.connect(bus.address(folder, "control"))
        bad.send_multipart(frames)
        assert bad.poll(2000)
        reply = messages.decode_reply(bad.recv_multipart()[-1])
    assert reply.code == says
    assert reply.text
    assert reply.remedy
    assert isinstance(ask(folder, messages.Ping()), messages.Pong)
    assert watchdog.memory.board.modes.tobytes() == before
    assert watchdog.stopped == watchdog.notes == []


def test_an_oversized_message_loses_its_sender_and_nobody_else(watchdog: Watchdog, folder: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as big:
        big.setsockopt(zmq.LINGER, 0)
        big.connect(bus.address(folder, "control"))
        big.send_multipart([b"12345678", b'{"type": "close", "id": "' + b"x" * MAX_COMMAND_BYTES + b'"}'])
        assert not big.poll(300)
    assert isinstance(ask(folder, messages.Ping()), messages.Pong)


def pour(raw: socket.socket, most: int) -> int:
    """Send until the other side hangs up; gives the bytes that it took."""
    sent = 0
    try:
        while sent < most:
            sent += raw.send(bytes(1 << 16))
    except (BrokenPipeError, ConnectionResetError):
        return sent
    raise AssertionError(f"{sent} bytes were taken")


def greeted(folder: Path) -> socket.socket:
    """A connection that has shaken hands as a DEALER and may send what ZeroMQ's own sockets never would."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(5.0)
    raw.connect(str(folder / "control.sock"))
    raw.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    raw.sendall(bytes((4, len(ready))) + ready)
    heard = b""
    while b"READY" not in heard:  # what is sent earlier is taken for a part of the handshake
        heard += raw.recv(4096)
    return raw


def test_a_message_of_endless_frames_is_cut_off_before_it_fills_the_memory(watchdog: Watchdog, folder: Path) -> None:
    before = control._resident_bytes()
    frame = b"\x03" + struct.pack(">Q", 60_000) + bytes(60_000)  # long, and more to come
    sent = 0
    with greeted(folder) as raw, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        end = time.monotonic() + 20
        while not watchdog.socket.cut and time.monotonic() < end:
            raw.sendall(frame)
            sent += len(frame)
    assert watchdog.socket.cut == 1
    assert sent > control.MOST_GROWTH_BYTES // 2
    with contextlib.suppress(bus.BusTimeout):  # what came while it was cutting is cut off, too
        ask(folder, messages.Ping())
    assert isinstance(ask(folder, messages.Ping()), messages.Pong)
    assert control._resident_bytes() - before < 2 * control.MOST_GROWTH_BYTES


def test_an_endless_message_is_cut_off(watchdog: Watchdog, folder: Path) -> None:
    """A client that announces 2^62 bytes and goes on sending is disconnected, not stored."""
    with greeted(folder) as raw:
        raw.sendall(b"\x02" + struct.pack(">Q", 1 << 62))
        sent = pour(raw, 64 << 20)
    assert sent < 8 << 20
    assert isinstance(ask(folder, messages.Ping()), messages.Pong)


def test_a_fault_inside_an_answer_is_refused_and_the_supervision_goes_on(watchdog: Watchdog, folder: Path) -> None:
    watchdog.looks = lambda: {}[0]
    reply = ask(folder, messages.Status())
    assert reply.code == "internal"
    assert "KeyError" in reply.text
    watchdog.looks = lambda: seen() | {"nearest": [object()]}  # cannot be sent
    with pytest.raises(bus.BusTimeout):
        ask(folder, messages.Status(), 0.3)
    watchdog.looks = seen
    assert isinstance(ask(folder, messages.Status()), messages.Answer)


def test_an_answer_of_a_process_that_is_no_reply_is_unavailable(watchdog: Watchdog, folder: Path) -> None:
    odd = Role(folder, "recorder", lambda _: {"type": "nonsense"})
    reply = ask(folder, messages.Orders())
    odd.close()
    assert isinstance(reply, messages.Unavailable)
    assert "not understood" in reply.text


@pytest.mark.usefixtures("watchdog", "sniper")
def test_what_the_sniper_refuses_is_exit_code_4_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "close", "nothing")
    assert (code, out) == (ctl.EXIT_REFUSED, "")
    assert "no open position 'nothing'; trader-ctl positions" in err


def test_a_watchdog_that_does_not_answer_is_exit_code_5(capsys: pytest.CaptureFixture[str], folder: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "PATIENCE_S", 0.2)
    silent = bus.Server(folder, "control", messages.decode_control_request)
    code, _, err = run(capsys, "status")
    silent.close()
    assert code == ctl.EXIT_TIMED_OUT
    assert "did not answer" in err


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("arguments", [[], ["explode"], ["close"], ["orders", "--limit", "many"], ["orders", "--limit", "0"], ["close", ""],
                                       ["--instance", "../x", "status"], ["config"], ["config", "explode"], ["config", "check"]])
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == ctl.EXIT_USAGE
    assert err


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "9000", "a day"])
def test_hours_that_cannot_be_are_named_with_what_can(capsys: pytest.CaptureFixture[str], hours: str) -> None:
    code, _, err = run(capsys, "errors", f"--hours={hours}")
    assert code == ctl.EXIT_USAGE
    assert f"argument --hours: '{hours}' is no number of hours above 0 and up to 8760" in err


# ── configuration, and the program itself ────────────────────────────────────────────────────────────────────────────
def test_the_template_is_printed_and_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "config", "template")
    (tmp_path / "trader.toml").write_text(out)
    assert code == 0
    assert run(capsys, "config", "check", str(tmp_path / "trader.toml"))[0] == 0


def test_a_faulty_configuration_is_exit_code_4_with_every_fault(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "trader.toml"
    path.write_text("stoploss = -0.1\n[limits]\ndaily_loss_bps = -1\n")
    code, _, err = run(capsys, "config", "check", str(path))
    assert code == ctl.EXIT_REFUSED
    assert "strategy.stop_bps = 1000" in err
    assert "limits.daily_loss_bps" in err
    assert "2 faults" in err
    code, out, _ = run(capsys, "config", "check", str(path), "--json")
    assert code == ctl.EXIT_REFUSED
    assert [fault["path"] for fault in json.loads(out)["faults"]] == ["stoploss", "limits.daily_loss_bps"]


@pytest.mark.usefixtures("watchdog")
def test_the_program_loads_only_what_a_command_needs() -> None:
    code = f"""import sys
from control.serve import ctl
code = ctl.main(["--instance", {NAME!r}, "status", "--json"])
heavy = [name for name in ("numba", "numpy", "typer", "rich", "lmdb", "control.config") if name in sys.modules]
sys.exit(f"loaded {{heavy}}" if heavy else code)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("watchdog")
def test_a_reader_that_has_gone_is_no_error() -> None:
    line = f"{sys.executable} -m control.serve.ctl --instance {NAME} status | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=30,
                          cwd=Path(__file__).resolve().parent.parent)
    assert (done.returncode, done.stderr) == (0, "")


# ── the documentation ────────────────────────────────────────────────────────────────────────────────────────────────
def documented() -> tuple[list[bytes], list[bytes]]:
    """Every JSON example of a request and of a reply in CONTROL.md."""
    text = (Path(__file__).resolve().parent.parent / "CONTROL.md").read_text()
    requests, replies = text.partition("## Requests")[2].split("## Replies")
    return tuple([match.encode() for match in re.findall(r"`(\{.*?\})` \|", part)] for part in (requests, replies))  # type: ignore[return-value]


def test_every_documented_message_is_understood_and_none_is_missing() -> None:
    requests, replies = documented()
    assert {type(messages.decode_control_request(text)) for text in requests} == set(get_args(messages.ControlRequest))
    assert {type(messages.decode_reply(text)) for text in replies} == set(get_args(messages.Reply)) - {messages.Planned}
    for text in (*requests, *replies):
        assert set(json.loads(text)) <= {"type", *json.loads(messages.encode(decode_any(text)))}, "a field that nobody reads"


def decode_any(text: bytes) -> Any:
    try:
        return messages.decode_control_request(text)
    except msgspec.ValidationError:
        return messages.decode_reply(text)


def test_the_documented_client_gets_its_answer(watchdog: Watchdog, folder: Path) -> None:
    text = (Path(__file__).resolve().parent.parent / "CONTROL.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0].replace("/default/", f"/{NAME}/").replace('"trades", "limit": 10', '"ping"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert "'pong'" in done.stdout, done.stderr
