"""Sockets between real processes: a dead, hanging or restarted server, what is too large or malformed, and who may use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from ipc import bus, messages

ROOT = Path(__file__).resolve().parent.parent
#: what a busy machine may add to a time-out
LATE_S = 2.0

Start = Callable[..., "Echo"]


class Echo:
    """tests/bus_echo.py as a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.bus_echo", str(folder), "echo", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
                                        text=True)

    def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """And wait for its death."""
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def folder(runtime_dir: Path) -> Path:
    return bus.make_socket_dir("bus")


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a server and wait until it serves."""
    started: list[Echo] = []

    def begin(*arguments: str, serving: bool = True) -> Echo:
        started.append(Echo(folder, *arguments))
        if serving:
            assert started[-1].says() == "serving"
        return started[-1]

    yield begin
    for echo in started:
        echo.kill()


@pytest.fixture
def client(folder: Path) -> Iterator[bus.Client]:
    made = bus.Client(folder, "echo")
    yield made
    made.close()


@pytest.fixture
def served(folder: Path) -> Iterator[bus.Server]:
    """A server in this process, for what is seen from inside."""
    server = bus.Server(folder, "echo", messages.decode_child_request)
    yield server
    server.close()


@pytest.fixture
def dealer(folder: Path) -> Iterator[Any]:
    """A bare socket of any language's client, connected to the server."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(bus.address(folder, "echo"))
    yield socket
    socket.close()
    context.term()


def say(text: str) -> messages.Operate:
    return messages.Operate(action="flatten", strategy=text)


def timed_out(client: bus.Client, timeout_s: float) -> float:
    """Seconds until the time-out came."""
    began = time.monotonic()
    with pytest.raises(bus.BusTimeout, match=rf"echo did not answer within {timeout_s:g} s"):
        client.ask(say("nobody hears"), timeout_s)
    return time.monotonic() - began


# ── dead, hanging, restarted ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_request_to_nobody_times_out_in_its_bound(client: bus.Client) -> None:
    assert 0.1 <= timed_out(client, 0.1) < 0.1 + LATE_S
    assert 0.0 <= timed_out(client, 0.0) < LATE_S


def test_a_request_to_a_killed_server_times_out_and_its_successor_answers(client: bus.Client, start: Start) -> None:
    first = start()
    assert client.ask(say("one"), 10) == messages.Done(text="one")
    first.kill()
    assert 0.1 <= timed_out(client, 0.1) < 0.1 + LATE_S
    start()
    assert client.ask(say("two"), 10) == messages.Done(text="two")


def test_a_client_that_never_noticed_the_restart_is_answered_by_the_successor(client: bus.Client, start: Start) -> None:
    first = start()
    client.ask(say("one"), 10)
    first.kill()
    start()
    assert client.ask(say("two"), 10) == messages.Done(text="two")


def test_a_hanging_server_costs_the_time_out_and_its_late_answer_is_nobodys(client: bus.Client, start: Start) -> None:
    echo = start()
    client.ask(say("before"), 10)
    echo.process.send_signal(signal.SIGSTOP)
    assert 0.1 <= timed_out(client, 0.1) < 0.1 + LATE_S
    echo.process.send_signal(signal.SIGCONT)
    for number in range(5):
        assert client.ask(say(f"after {number}"), 10) == messages.Done(text=f"after {number}")


def test_an_answer_to_an_earlier_request_is_not_taken_for_this_ones(client: bus.Client, served: bus.Server) -> None:
    askers: list[tuple[bytes, bytes]] = []

    def later(request: Any) -> None:
        askers.append(served.asker)

    def turn() -> None:
        served.poll(0.0, later)
        if askers:
            identity, number = askers[0]
            served.answer((identity, (int.from_bytes(number, "big") - 1).to_bytes(8, "big")), messages.Done(text="old"))
            served.answer((identity, number), messages.Done(text="right"))
            askers.clear()

    assert client.ask(say("x"), 10, while_waiting=turn) == messages.Done(text="right")


def test_whoever_waits_can_go_on_beating_its_heart(client: bus.Client) -> None:
    beats: list[float] = []
    with pytest.raises(bus.BusTimeout):
        client.ask(say("x"), 0.3, while_waiting=lambda: beats.append(time.monotonic()))
    assert len(beats) >= 3


def test_a_second_server_on_a_living_path_is_refused_by_the_lock_and_the_first_goes_on(client: bus.Client, start: Start) -> None:
    first = start()
    client.ask(say("one"), 10)
    second = start(serving=False)
    assert second.process.wait(20) == 4
    assert "held by a living process" in second.says()
    assert client.ask(say("two"), 10) == messages.Done(text="two")
    assert first.process.poll() is None


# ── too large, malformed ─────────────────────────────────────────────────────────────────────────────────────────────
def test_an_oversized_message_is_refused_and_everybody_else_is_served(client: bus.Client, start: Start, folder: Path) -> None:
    echo = start("4096")
    assert client.ask(say("x" * 3000), 10) == messages.Done(text="x" * 3000)
    with pytest.raises(bus.BusTimeout):
        client.ask(say("x" * 5000), 0.2)
    assert echo.process.poll() is None
    other = bus.Client(folder, "echo")
    assert other.ask(say("small"), 10) == messages.Done(text="small")
    assert client.ask(say("small again"), 10) == messages.Done(text="small again")
    other.close()


@pytest.mark.parametrize(("frames", "code"), [
    ([b"\0" * 8, b"not json"], "malformed"),
    ([b"\0" * 8, b""], "malformed"),
    ([b"\0" * 8, b'{"type":"status"}'], "malformed"),
    ([b"\0" * 8, b'{"type":"operate","action":"close","because":1}'], "malformed"),
    ([b"\0" * 8, b'{"type":"event","source":"","kind":"","text":"","wall_ns":1,"data":{"a":' + b"[" * 100_000], "malformed"),
    ([b"\0" * 8], "malformed"),
    ([b"", b'{"type":"ping"}'], "malformed"),
    ([b"12345678", b'{"type":"ping"}', b"more"], "malformed"),
    ([b""] * 20, "malformed"),
    ([b"\0" * 8, b'{"type":"operate","action":"close","position":"\xff"}'], "malformed"),
], ids=["no json", "empty", "unknown type", "unknown field", "bottomless", "one frame", "no id", "three frames", "many frames", "no utf-8"])
def test_a_malformed_request_is_answered_with_a_refusal_and_a_remedy(served: bus.Server, dealer: Any, frames: list[bytes], code: str) -> None:
    dealer.send_multipart(frames)
    assert served.poll(10, lambda request: messages.Done()) == 1
    assert dealer.poll(10_000)
    answer = dealer.recv_multipart()
    reply = messages.decode_reply(answer[-1])
    assert isinstance(reply, messages.Refused)
    assert reply.code == code
    assert reply.text
    assert reply.remedy
    assert answer[0] == frames[0][:8]
    assert served.malformed == 1
    dealer.send_multipart([b"\0" * 8, b'{"type":"ping"}'])
    assert served.poll(10, lambda request: messages.Done(text="still here")) == 1
    assert dealer.poll(10_000)
    assert messages.decode_reply(dealer.recv_multipart()[-1]) == messages.Done(text="still here")


def test_any_client_that_speaks_zmq_and_json_is_served(served: bus.Server, dealer: Any) -> None:
    dealer.send_multipart([b"mynumber", json.dumps({"type": "query", "what": "orders"}).encode()])
    assert served.poll(10, lambda request: messages.Answer(data={"what": request.what})) == 1
    number, payload = dealer.recv_multipart()
    assert number == b"mynumber"
    assert json.loads(payload) == {"type": "answer", "data": {"what": "orders"}, "rows": []}


def test_a_flood_is_answered_in_batches_and_none_is_left_out(served: bus.Server, dealer: Any) -> None:
    for number in range(200):
        dealer.send_multipart([number.to_bytes(8, "big"), b'{"type":"ping"}'])
    batches: list[int] = []
    while sum(batches) < 200:
        batches.append(served.poll(10, lambda request: messages.Done(), most=16))
        assert 0 < batches[-1] <= 16
    assert [int.from_bytes(dealer.recv_multipart()[0], "big") for _ in range(200)] == list(range(200))


def test_an_answer_may_come_later_and_goes_to_who_asked(served: bus.Server, dealer: Any) -> None:
    askers: list[tuple[bytes, bytes]] = []
    for number in (b"first---", b"second--"):
        dealer.send_multipart([number, b'{"type":"ping"}'])
        assert served.poll(10, lambda request: askers.append(served.asker)) == 1
    assert not dealer.poll(20)
    for asker in reversed(askers):
        served.answer(asker, messages.Done(text=asker[1].decode()))
    for number in (b"second--", b"first---"):
        assert dealer.poll(10_000)
        assert dealer.recv_multipart() == [number, messages.encode(messages.Done(text=number.decode()))]


def test_a_client_that_has_gone_is_no_error(served: bus.Server, client: bus.Client) -> None:
    with pytest.raises(bus.BusTimeout):
        client.ask(say("and gone"), 0.05)
    served.poll(1.0, lambda request: messages.Done(text="to nobody"))
    served.answer((b"never was", b"\0" * 8), messages.Done())


# ── paths and permissions ────────────────────────────────────────────────────────────────────────────────────────────
def test_sockets_are_the_users_own(folder: Path, served: bus.Server) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert (folder / "echo.sock").stat().st_mode & 0o777 == 0o600
    assert folder.parent.name == f"trader-{os.getuid()}"


def test_a_folder_that_others_could_enter_is_closed(runtime_dir: Path) -> None:
    loose = bus.socket_dir("loose")
    loose.mkdir(parents=True)
    loose.chmod(0o777)
    loose.parent.chmod(0o755)
    assert bus.make_socket_dir("loose") == loose
    assert (loose.stat().st_mode & 0o777, loose.parent.stat().st_mode & 0o777) == (0o700, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused_with_the_remedy(runtime_dir: Path) -> None:
    theirs = bus.socket_dir("theirs")
    theirs.mkdir(parents=True)
    os.chown(theirs, 12345, 12345)
    with pytest.raises(ValueError, match=rf"{theirs} belongs to user 12345; remove it or set XDG_RUNTIME_DIR"):
        bus.make_socket_dir("theirs")


def test_a_path_too_long_for_a_socket_is_refused_with_the_remedy(runtime_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"too long for a socket path \(107 bytes\); set XDG_RUNTIME_DIR .* or use a shorter --instance"):
        bus.make_socket_dir("x" * 100)


def test_the_longest_path_that_is_allowed_can_be_served(runtime_dir: Path) -> None:
    room = bus.MAX_PATH_BYTES - len(str(bus.socket_dir("x").parent)) - len("/") - len("/reflection.sock")
    folder = bus.make_socket_dir("x" * room)
    server = bus.Server(folder, "reflection", messages.decode_child_request)
    assert len(str(folder / "reflection.sock")) == bus.MAX_PATH_BYTES
    server.close()
    with pytest.raises(ValueError, match="too long"):
        bus.make_socket_dir("x" * (room + 1))


def test_only_the_instances_name_is_needed_to_find_its_sockets(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bus.socket_dir("one") == runtime_dir / f"trader-{os.getuid()}" / "one"
    for nowhere in ("", str(runtime_dir / "gone")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", nowhere)
        assert bus.socket_dir("one") == Path(tempfile.gettempdir()) / f"trader-{os.getuid()}" / "one"


def test_closing_a_server_removes_its_socket(folder: Path) -> None:
    server = bus.Server(folder, "brief", messages.decode_child_request)
    assert (folder / "brief.sock").is_socket()
    server.close()
    assert not (folder / "brief.sock").exists()


def test_a_dead_servers_socket_file_does_not_hinder_its_successor(start: Start, client: bus.Client, folder: Path) -> None:
    start().kill()
    assert (folder / "echo.sock").exists()
    start()
    assert client.ask(messages.Ping(), 10) == messages.Pong(role="echo", pid=0)
