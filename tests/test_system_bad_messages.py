"""A running instance whose control socket is flooded, or whose name is taken again: memory stays bounded, others are answered, it trades on."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from control.serve.control import MOST_GROWTH_BYTES
from ipc import bus, messages
from tests.bad_input import greeted, resident_bytes
from tests.running import BIN, Running, until

#: growth that may be seen: a busy machine notices late that there is too much
MOST_SEEN_BYTES = 4 * MOST_GROWTH_BYTES
#: seconds of each flood
FLOOD_S = 2.0
#: what a flooding client sends, over and over, on a connection that is made anew whenever it is cut
FLOODS = {
    "one message of endless large frames": (b"\x03" + struct.pack(">Q", 60_000) + bytes(60_000)) * 4,
    "one message of endless small frames": b"\x01\x01x" * 20_000,
    "a frame without end": b"\x02" + struct.pack(">Q", 1 << 62) + bytes(1 << 20),
    "no ZeroMQ at all": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
}


@pytest.fixture(scope="module")
def trading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("flooded"))
    try:
        running.start()
        yield running
        # nothing of it has reached the books
        assert running.stop() == 0, running.text()
        assert running.summary()["reconciled"] is True
        assert running.faults() == []
        assert not any(running.summary()["restarts"].values())
    finally:
        running.end()


def pour(path: Path, data: bytes, until_s: float) -> None:
    """Send it again and again; a cut connection is made anew."""
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), greeted(path) as raw:
            while time.monotonic() < until_s:
                raw.sendall(data)


@pytest.mark.parametrize("name", ["one message of endless small frames", *(
    pytest.param(name, marks=pytest.mark.slow) for name in FLOODS if "small" not in name)])
def test_a_flood_is_cut_off_while_others_are_answered_and_trading_goes_on(name: str, trading: Running) -> None:
    assert trading.process is not None
    before = trading.status()
    most, answers = resident_bytes(trading.process.pid) + MOST_SEEN_BYTES, []
    path = bus.socket_dir(trading.name) / "control.sock"
    end = time.monotonic() + FLOOD_S
    flood = threading.Thread(target=pour, args=(path, FLOODS[name], end))
    flood.start()
    grown = 0
    while flood.is_alive():
        answers.append(trading.ctl("status")[0])
        grown = max(grown, resident_bytes(trading.process.pid))
    assert grown < most
    # a question whose connection was cut with the flood's is unanswered, 5; never 3: the instance is there
    assert set(answers) <= {0, 5}
    assert answers.count(0) >= len(answers) / 2, answers
    until(lambda: trading.ctl("status")[0] == 0, 10, "an answer behind the flood")
    after = trading.status()
    assert after["ticks"] > before["ticks"]
    assert (after["phase"], after["trading"], after["ticks_lost"]) == ("running", "running", 0)


def test_one_that_asks_without_listening_is_no_burden(trading: Running) -> None:
    assert trading.process is not None
    most, asked = resident_bytes(trading.process.pid) + MOST_SEEN_BYTES, 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf:
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.connect(bus.address(bus.socket_dir(trading.name), "control"))
        end = time.monotonic() + FLOOD_S
        while time.monotonic() < end:
            if deaf.poll(100, zmq.POLLOUT):
                deaf.send_multipart([b"12345678", messages.encode(messages.Orders(limit=10_000))], zmq.NOBLOCK)
                asked += 1
        assert asked > 100
        assert trading.ctl("status")[0] == 0
    assert resident_bytes(trading.process.pid) < most


def test_a_second_instance_of_the_name_is_refused_and_the_first_trades_on(trading: Running) -> None:
    assert trading.process is not None
    before = trading.status()
    done = subprocess.run([str(BIN / "trader-launch"), "paper", "--headless", "--instance", trading.name, "--data-dir", str(trading.folder),
                           "--fresh"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr == (f"trader-launch: instance '{trading.name}' is running already (pid {trading.process.pid}); stop it with "
                           f"trader-ctl --instance {trading.name} stop, or choose another --instance\n")
    after = until(lambda: (now := trading.status())["ticks"] > before["ticks"] and now, 10, "ticks go on")
    assert (after["run_id"], after["phase"], after["trading"]) == (before["run_id"], "running", "running")
