"""A running paper instance whose processes are killed and stopped: each comes back, trading goes on, and no order is sent twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from ipc import bus, messages
from ipc import layout as l
from tests.running import BUSY, Running, until

ROLES = l.ROLES


def comes_back(running: Running, role: str, pid: int, patience_s: float) -> None:
    """The role has another process than `pid`, which is healthy."""
    until(lambda: (row := running.row(role))["pid"] not in (None, pid) and row["state"] == "healthy", patience_s, f"{role} is back")


def trades_on(running: Running, patience_s: float, what: str) -> None:
    """There is a fill at a later event time than now."""
    event_ns = running.status()["event_ns"]
    until(lambda: running.last_fill_ns() > event_ns, patience_s, f"a fill {what}")


def test_each_process_that_is_killed_comes_back_and_trading_goes_on(instance: Running) -> None:
    instance.start()
    until(instance.last_fill_ns, 20, "a first fill")
    killed = {}
    for role in ROLES:
        killed[role] = instance.kill(role)
        comes_back(instance, role, killed[role], 10)
        row = instance.row(role)
        assert (row["restarts"], row["last_death"]) == (1, "was killed by SIGKILL")
        trades_on(instance, 10, f"after the death of {role}")
    assert instance.stop() == 0, instance.text()
    told = [event for event in instance.events() if event.kind == "respawn"]
    assert {event.data["role"]: event.data["pid"] for event in told} == killed
    assert all(event.data["role"] in event.text for event in told)
    assert len(told) == len(ROLES)
    summary = instance.summary()
    assert summary["reconciled"] is True
    assert summary["ticks_lost"] == 0
    assert summary["restarts"] == dict.fromkeys(ROLES, 1)
    assert instance.faults() == []
    instance.leaves_nothing()


def test_sniper_gateway_and_recorder_killed_at_one_instant_go_on_where_they_were(instance: Running) -> None:
    instance.start()
    until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    pids = {role: int(instance.row(role)["pid"]) for role in ("sniper", "gateway", "recorder")}
    for _ in range(2):
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for role, pid in pids.items():
            comes_back(instance, role, pid, 10)
        trades_on(instance, 10, "after all three have died")
        pids = {role: int(instance.row(role)["pid"]) for role in pids}
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []


@pytest.mark.parametrize("role", ["sniper", pytest.param("gateway", marks=pytest.mark.slow)])
def test_a_process_that_is_stopped_is_taken_for_dead_and_replaced(role: str, instance: Running) -> None:
    instance.start()
    until(instance.last_fill_ns, 20, "a first fill")
    pid = instance.kill(role, signal.SIGSTOP)
    comes_back(instance, role, pid, 15)
    trades_on(instance, 10, f"after the hang of {role}")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    assert [event.data["role"] for event in instance.events() if event.kind == "hang"] == [role]


def test_processes_that_are_dead_when_the_stop_comes_still_bring_their_books_to_an_end(instance: Running) -> None:
    instance.start()
    until(lambda: instance.ctl("positions")[1]["rows"], 20, "an open position")
    pids = [int(instance.row(role)["pid"]) for role in ("sniper", "gateway", "recorder")]
    assert instance.process is not None
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(40) == 0, instance.text()
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    instance.leaves_nothing()


def test_a_question_that_needs_a_stopped_process_is_answered_within_a_second(instance: Running) -> None:
    instance.start()
    pid = instance.kill("recorder", signal.SIGSTOP)
    client = bus.Client(bus.socket_dir(instance.name), "control")
    waited_s = []
    for _ in range(2):  # the better of two on a noisy machine
        began = time.monotonic()
        reply = client.ask(messages.Orders(limit=5), 5.0)
        waited_s.append(time.monotonic() - began)
        assert isinstance(reply, messages.Unavailable)
        assert reply.role == "recorder"
    client.close()
    assert min(waited_s) <= 1.0
    code, told = instance.ctl("orders")
    assert (code, told["type"], told["role"]) == (5, "unavailable", "recorder")
    assert instance.row("recorder")["pid"] == pid, "the watchdog has not replaced it meanwhile"
    until(lambda: instance.row("recorder")["pid"] != pid and instance.ctl("orders")[0] == 0, 20, "the recorder is replaced and answers")
    assert instance.stop() == 0
    assert instance.faults() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_kills_and_stops_leaves_sound_books(seed: int, tmp_path: Path) -> None:
    """A minute in which one to three processes at a time die or stop, twice a second."""
    running = Running(tmp_path, BUSY + "[supervise]\nrestart_intensity = 1000\nbackoff_most_ms = 300\n")
    chance, hit = random.Random(seed), Counter[str]()
    try:
        running.start()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.05, 1.0))
            number = signal.SIGKILL if chance.random() < 0.85 else signal.SIGSTOP
            _, reply = running.ctl("status")
            for row in chance.sample(reply["rows"], chance.choice([1, 1, 1, 2, 2, 3])):
                if row["pid"] is not None and row["state"] == "healthy":
                    os.kill(int(row["pid"]), number)
                    hit[row["role"]] += 1
        for role in ROLES:
            comes_back(running, role, 0, 40)
        trades_on(running, 30, "after the storm")
        assert running.stop() == 0, running.text()
        summary = running.summary()
        assert summary["reconciled"] is True
        assert summary["ticks_lost"] == 0
        assert sum(hit.values()) >= 60
        assert running.faults() == []
        running.leaves_nothing()
    finally:
        running.end()
