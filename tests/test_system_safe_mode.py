"""Safe mode in real instances: what a person began, what a dying sniper brings about, and that the gateway closes everything when nobody else can."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from hotpath.orders import OWN_ORDERS
from ipc import bus, messages
from ipc import layout as l
from tests.running import BUSY, Running, until

#: a second death within a minute is a crash loop, and the next life is a while away
SHORT = """
[supervise]
restart_intensity = 1
restart_window_s = 30
backoff_first_ms = 20000
backoff_most_ms = 20000
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Running] = []

    def start(config: str, *arguments: str) -> Running:
        made.append(Running(tmp_path, config))
        made[-1].start(*arguments)
        return made[-1]

    yield start
    for running in made:
        running.end()


def open_positions(running: Running) -> list[dict[str, Any]]:
    return [row for row in running.ctl("positions")[1].get("rows", []) if row["state"] == "monitoring"]


def kill_again_and_again(running: Running, role: str, times: int) -> None:
    """Each life as soon as it is there."""
    killed = {None}
    for _ in range(times):
        pid = until(lambda: (row := running.row(role))["pid"] not in killed and row["pid"], 30, f"a new {role}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed.add(pid)


def own_orders(running: Running) -> list[Any]:
    journal = running.journal()
    try:
        return [record.row for record in journal.newest("reports", 5000) if record.row["kind"] == l.ANNOUNCED]
    finally:
        journal.close()


def test_a_sniper_that_dies_again_and_again_leaves_its_positions_to_the_gateway_which_closes_them(make: Any) -> None:
    running = make(BUSY + SHORT.replace("20000", "10000") + '[safety]\npositions = "flatten"\ncooldown_s = 1\n')
    until(lambda: len(open_positions(running)) >= 2, 40, "two open positions")
    kill_again_and_again(running, "sniper", 2)
    status = until(lambda: (seen := running.status())["trading"] == "safe" and seen, 10, "safe mode")
    assert "crash loop" in status["trading_cause"]
    announced = until(lambda: own_orders(running), 15, "the gateway closes positions by itself")
    assert all(int(row["order_seq"]) >= OWN_ORDERS for row in announced)
    until(lambda: running.row("sniper")["state"] == "healthy", 40, "the sniper is back")
    until(lambda: running.ctl("positions")[1].get("rows") == [], 10, "its book is flat too")
    kinds = [event.kind for event in running.events()]
    assert "rescue" in kinds
    assert "safe_mode" in kinds
    assert running.stop() == 0
    assert running.summary()["reconciled"] is True
    assert running.faults() == []
    running.leaves_nothing()


@pytest.mark.slow
def test_protected_positions_are_closed_by_the_gateway_when_nobody_has_watched_them_for_too_long(make: Any) -> None:
    running = make(BUSY + SHORT + "[safety]\nunprotected_s = 5\ncooldown_s = 1\n")
    until(lambda: open_positions(running), 40, "an open position")
    began = time.monotonic()
    kill_again_and_again(running, "sniper", 2)
    until(lambda: own_orders(running), 20, "the gateway closes it")
    assert time.monotonic() - began > 5.0, "not before its time"
    assert any("the sniper has been away" in str(event.data.get("causes")) for event in running.events() if event.kind == "safe_mode")
    until(lambda: running.row("sniper")["state"] == "healthy", 40, "the sniper is back")
    until(lambda: running.status()["trading"] == "running", 90, "safe mode ends when the loop is over")
    assert running.stop() == 0
    assert running.summary()["reconciled"] is True
    assert running.faults() == []


def test_safe_mode_by_a_persons_word_ends_entries_and_outlives_a_restart_until_resume(make: Any) -> None:
    running = make(BUSY)
    until(running.last_fill_ns, 30, "a first fill")
    code, reply = running.ctl("safe")
    assert (code, reply["type"]) == (0, "done")
    status = until(lambda: (seen := running.status())["trading"] == "safe" and seen, 5, "safe mode")
    assert "resume" in status["trading_cause"]
    until(lambda: running.status()["working_orders"] == 0, 70, "no entry works any more, and time stops have closed the rest")
    entries = running.status()["entries_today"]
    until(lambda: any(event.kind == "safe_mode" for event in running.events()), 5, "it is journaled")
    running.kill_everything()
    running.start()
    status = until(lambda: (seen := running.status())["trading"] == "safe" and seen, 5, "safe mode still")
    assert status["entries_today"] <= entries + 2, "what was under way at the word may have been journaled after it"
    code, reply = running.ctl("resume")
    assert code == 0
    assert "entries again" in reply["text"]
    until(lambda: running.status()["trading"] == "running", 5, "entries again")
    assert running.stop() == 0
    assert running.faults() == []


def test_safe_mode_that_flattens_has_the_living_sniper_close_every_position_and_opens_none(make: Any) -> None:
    running = make(BUSY + '[safety]\npositions = "flatten"\n')
    held = until(lambda: len(seen := open_positions(running)) >= 2 and seen, 60, "two open positions")
    mark, sniper = running.last_order(), running.row("sniper")["pid"]
    assert running.ctl("safe")[0] == 0
    until(lambda: running.ctl("positions")[1].get("rows") == [] and running.status()["working_orders"] == 0, 20, "all are closed")
    status = running.status()
    assert status["trading"] == "safe"
    entries = status["entries_today"]
    time.sleep(1.0)
    assert (running.status()["entries_today"], running.ctl("positions")[1]["rows"]) == (entries, [])
    assert running.row("sniper")["pid"] == sniper
    assert running.stop() == 0
    assert running.summary()["reconciled"] is True
    assert running.faults() == []
    journal = running.journal()
    try:
        exits = [record.row for record in journal.orders(mark) if record.row["kind"] == l.NEW and record.row["purpose"] == l.EXIT]
    finally:
        journal.close()
    closed = {int(row["position_id"]) for row in exits if row["code"] == l.EXIT_FLATTEN}
    assert closed & {int(row["id"]) for row in held}, "by the sniper, and because all was to be closed"
    assert own_orders(running) == [], "the gateway leaves it to him"


@pytest.mark.slow
def test_a_pause_outlives_a_restart_until_resume(make: Any) -> None:
    running = make(BUSY)
    assert running.ctl("pause")[0] == 0
    until(lambda: any(event.kind == "pause" for event in running.events()), 5, "it is journaled")
    for _ in range(2):
        running.kill_everything()
        running.start()
        assert running.status()["trading"] == "reduce_only"
    assert running.ctl("resume")[0] == 0
    until(lambda: any(event.kind == "resume" for event in running.events()), 5, "it is journaled")
    running.kill_everything()
    running.start()
    until(lambda: running.status()["trading"] == "running", 5, "entries again")
    assert running.stop() == 0


def test_a_flatten_that_was_answered_outlives_everybody_who_heard_it(make: Any) -> None:
    """No exit reaches the venue, and what the sniper has marked is in memory alone: only the word itself is left."""
    running = make(BUSY.replace("time_stop_s = 60", "time_stop_s = 7200"))
    held = until(lambda: len(seen := open_positions(running)) >= 2 and seen, 60, "two open positions")
    pids = {role: running.row(role)["pid"] for role in ("gateway", "feed")}
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    code, reply = running.ctl("flatten")
    assert (code, reply["type"]) == (0, "done"), reply
    assert "not in the journal" not in reply["text"]
    running.kill_everything()
    mark = running.last_order()
    assert set(running.open_at_the_end()) & {row["symbol"] for row in held}
    running.start()
    assert running.status()["trading"] == "reduce_only"
    until(lambda: running.ctl("positions")[1].get("rows") == [] and running.status()["working_orders"] == 0, 20, "all are closed")
    assert running.ctl("resume")[0] == 0
    running.kill_everything()
    journal = running.journal()
    try:
        (paused,) = [event for event in [journal.lasting("pause")] if event is not None]
        exits = [record.row for record in journal.orders(mark) if record.row["kind"] == l.NEW and record.row["purpose"] == l.EXIT]
    finally:
        journal.close()
    assert {int(row["position_id"]) for row in exits if row["code"] == l.EXIT_FLATTEN} & {int(row["id"]) for row in held}
    assert paused.kind == "resume"
    running.start()
    until(lambda: running.status()["trading"] == "running", 5, "entries again")
    until(lambda: open_positions(running), 60, "and positions that nobody closes at once")
    assert running.stop() == 0
    assert running.summary()["reconciled"] is True
    assert running.faults() == []


def test_safe_mode_by_a_word_that_came_just_before_a_stop_is_there_at_the_next_start(make: Any) -> None:
    running = make(BUSY)
    assert running.process is not None
    os.kill(running.process.pid, signal.SIGSTOP)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(bus.address(bus.socket_dir(running.name), "control"))
        for number, word in enumerate(("safe", "stop")):  # both are read between two turns of the loop
            dealer.send_multipart([number.to_bytes(8, "big"), b'{"type":"%s"}' % word.encode()])
        time.sleep(0.2)
        os.kill(running.process.pid, signal.SIGCONT)
        replies = {}
        while len(replies) < 2:
            assert dealer.poll(20_000), replies
            number, payload = dealer.recv_multipart()
            replies[int.from_bytes(number, "big")] = messages.decode_reply(payload)
    assert all(isinstance(reply, messages.Done) and "not in the journal" not in reply.text for reply in replies.values()), replies
    assert running.process.wait(40) == 0
    running.start()
    assert running.status()["trading"] == "safe"
    assert "operator" in running.status()["trading_cause"]
    assert running.ctl("resume")[0] == 0
    assert running.stop() == 0, "right behind its answer"
    running.start()
    until(lambda: running.status()["trading"] == "running", 5, "entries again")
    assert running.stop() == 0
    assert running.faults() == []


@pytest.mark.slow
def test_a_drawdown_ends_entries_until_a_person_resumes(make: Any) -> None:
    running = make(BUSY + "[safety]\nmax_drawdown_bps = 15\n")
    status = until(lambda: (seen := running.status())["trading"] == "safe" and seen, 120, "fees and losses of 15 basis points")
    assert "below its peak" in status["trading_cause"]
    code, reply = running.ctl("resume")
    assert code == 0, reply
    until(lambda: running.status()["trading"] == "running", 20, "counted from here")
    assert running.stop() == 0


@pytest.mark.slow
def test_a_paused_instance_says_so_when_safe_mode_still_stands(make: Any) -> None:
    running = make(BUSY + SHORT)
    until(running.last_fill_ns, 30, "a first fill")
    kill_again_and_again(running, "strategist", 2)
    until(lambda: running.status()["trading"] == "safe", 10, "a crash loop of the strategist")
    code, reply = running.ctl("resume")
    assert code == 0
    assert "still safe" in reply["text"]
    assert "strategist: crash loop" in reply["text"]
    until(lambda: running.row("strategist")["state"] == "healthy", 40, "it is back")
    assert running.stop() == 0
