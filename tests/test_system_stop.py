"""How a paper instance ends: by signals early and late, once and twice, with and without its positions; and that only one of a name runs."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.running import Running, until


def test_the_first_ctrl_c_of_a_terminal_stops_in_order_and_says_what_stays_open(instance: Running) -> None:
    instance.start()
    until(lambda: [row for row in instance.ctl("positions")[1]["rows"] if row["state"] == "monitoring"], 20, "an open position")
    assert instance.process is not None
    os.killpg(instance.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert instance.process.wait(40) == 0, instance.text()
    assert "Ctrl-C: stopping in order." in instance.text()
    left = instance.open_at_the_end()
    assert f"{len(left)} position" in instance.text() or not left, "what had not closed while it stopped"
    assert all(symbol in instance.text() for symbol in left)
    assert [event.kind for event in instance.events()][-1] == "run_end"
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    instance.leaves_nothing()


def test_the_second_ctrl_c_ends_everything_at_once_and_the_next_start_goes_on(instance: Running) -> None:
    instance.start()
    until(instance.last_fill_ns, 20, "a first fill")
    assert instance.process is not None
    instance.kill("sniper", signal.SIGSTOP)  # so that the ordered stop takes its time
    instance.process.send_signal(signal.SIGINT)
    until(lambda: "stopping in order" in instance.text(), 5, "the first one is understood")
    began = time.monotonic()
    assert instance.stop(signal.SIGINT, 5) == 130
    assert time.monotonic() - began < 3
    assert "Second Ctrl-C: every process is killed at once" in instance.text()
    instance.leaves_nothing()
    instance.start()
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []


@pytest.mark.parametrize(("number", "after_s"), [
    *((signal.SIGTERM, after_s) for after_s in (0.45, 0.8)), *((signal.SIGINT, after_s) for after_s in (0.2, 0.35, 0.6))])
def test_a_signal_while_it_starts_leaves_nothing(number: signal.Signals, after_s: float, instance: Running) -> None:
    """Before, while and after segments are made: the times span that on any machine that is not far slower or faster."""
    instance.start(wait=False)
    time.sleep(after_s)
    assert instance.stop(number) in (0, 130, -number)
    assert "Traceback" not in instance.text()
    instance.leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_a_launcher_that_ends_while_kernels_are_compiled(number: signal.Signals, instance: Running,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(instance.folder / "cache"))
    instance.start(wait=False)
    until(lambda: len(instance.alive()) >= 3, 20, "launcher, forkserver and compiler run")
    assert instance.stop(number) == (0 if number == signal.SIGINT else -signal.SIGKILL), instance.text()
    until(lambda: not instance.alive(), 10, "nothing is left running")


def test_under_nohup_a_lost_terminal_ends_nothing_and_sigterm_stops_in_order(instance: Running) -> None:
    instance.start(before=("nohup",))
    assert instance.process is not None
    instance.process.send_signal(signal.SIGHUP)
    event_ns = instance.status()["event_ns"]
    until(lambda: instance.status()["event_ns"] > event_ns + 10**9, 10, "it runs on")
    assert instance.stop(signal.SIGTERM) == 0
    assert "SIGTERM: stopping in order." in instance.text()
    assert instance.summary()["reconciled"] is True
    instance.leaves_nothing()


def test_a_second_instance_of_the_name_is_refused_and_the_first_goes_on(instance: Running) -> None:
    instance.start()
    second = Running(instance.folder)
    second.name, second.log = instance.name, instance.folder / "second.log"
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(20) == 3
    assert f"instance '{instance.name}' is running already" in second.text()
    assert "stop it with trader-ctl" in second.text()
    trades = instance.last_fill_ns()
    until(lambda: instance.last_fill_ns() > trades, 10, "the first one trades on")
    assert sum(row["restarts"] for row in instance.ctl("status")[1]["rows"]) == 0
    assert instance.stop(signal.SIGTERM) == 0


def test_flatten_at_end_closes_every_position_before_the_time_is_over(instance: Running) -> None:
    instance.start("--flatten-at-end", "--for", "4s")
    assert instance.process is not None
    assert instance.process.wait(40) == 0, instance.text()
    summary = instance.summary()
    assert summary["exit_reasons"].get("flatten", 0) >= 1
    assert summary["reconciled"] is True
    assert instance.open_at_the_end() == []
    assert instance.faults() == []
    instance.start()
    assert "resumed: 0 open positions" in instance.text()
    assert instance.stop() == 0
