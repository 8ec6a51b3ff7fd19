"""The supervising loop, with a fake clock, fake children and a real board: scripted histories, no process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from control.supervise.chronicle import Chronicle
from control.supervise.policy import PERMANENT_FAILURE, Deaths, RestartPolicy
from control.supervise.role import STALL_S, State, Supervised
from control.supervise.view import View
from control.supervise.watchdog import TURN_S, Phase, Watchdog
from hotpath.courier import AGAIN_S, PATIENCE_S
from ipc import layout as l
from ipc import messages
from ipc.process import Boot


@dataclass
class FakeChild:
    """A child without a process; `dies_of_abort` and `stopped_` script how it answers a hang."""

    row: Any
    pid: int | None = None
    start_error: str = ""
    exit_code: int | None = None
    dies_of_abort: bool = True
    stopped_: bool = False
    load_: tuple[bool, float] = (False, 0.0)
    born: bool = True
    asked: bool = False
    boots: list[Boot] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    next_pid: int = 1000

    def start(self, boot: Boot) -> None:
        self.boots.append(boot)
        self.exit_code, self.start_error, self.asked = None, "", True
        self.pid = None
        if self.born:
            self.be_born()

    def be_born(self) -> None:
        self.next_pid += 1
        self.pid = self.row["pid"] = self.next_pid
        self.row["state"] = l.PROC_STARTING

    def is_alive(self) -> bool:
        return self.asked and self.exit_code is None

    def die(self, code: int) -> None:
        self.exit_code = code

    def terminate(self) -> None:
        self.signals.append("TERM")

    def abort(self) -> None:
        self.signals.append("ABRT")
        if self.dies_of_abort:
            self.die(-6)

    def kill(self) -> None:
        self.signals.append("KILL")
        if self.pid is None:
            self.asked = False
        self.die(-9)

    def join(self, timeout_s: float) -> bool:
        return not self.is_alive()

    def stopped(self) -> bool:
        return self.stopped_

    def load(self) -> tuple[bool, float]:
        return self.load_


class FakeLine:
    """A recorder that takes or does not take events, as the script says."""

    def __init__(self) -> None:
        self.up = True
        self.answers = True
        self.answer: messages.Reply = messages.Done()
        self.taken: list[messages.Event] = []
        self.replies: list[tuple[bytes, bytes]] = []
        self.resets = 0

    def send(self, number: bytes, payload: bytes) -> bool:
        if not self.up:
            return False
        event = messages.decode_child_request(payload)
        assert isinstance(event, messages.Event)
        self.taken.append(event)
        if self.answers:
            self.replies.append((number, messages.encode(self.answer)))
        return True

    def receive(self) -> tuple[bytes, bytes] | None:
        return self.replies.pop(0) if self.replies else None

    def reset(self) -> None:
        self.resets += 1


class World:
    """A watchdog over six fake children, and the time."""

    def __init__(self, *, fail_fast: bool = False, backlog: Callable[[], int] = lambda: 0) -> None:
        self.now = 1000.0
        self.rows = np.zeros(l.MAX_ROLES, l.PROCESS)
        self.modes = np.zeros(l.MODE_WORDS, l.MODE)
        self.line = FakeLine()
        self.chronicle = Chronicle(self.line, logging.getLogger("test"), clock=lambda: self.now)
        policy = RestartPolicy(max_restarts=4, window_s=60.0, backoff_s=0.5, max_backoff_s=5.0, jitter=0.0)
        self.children = {name: FakeChild(self.rows[number], next_pid=1000 * (number + 1)) for number, name in enumerate(l.ROLES)}
        roles = {name: Supervised(name, self.children[name], self.rows[number], Deaths(policy), 2.0, 30.0, backlog)
                 for number, name in enumerate(l.ROLES)}
        self.forkserver_restarts = 0
        self.dog = Watchdog(roles, self.modes, self.boot, self.chronicle, stop_grace_s=10.0, fail_fast=fail_fast,
                            restart_forkserver=self.restart_forkserver)
        self.silent: set[str] = set()
        self.stuck: set[str] = set()

    def boot(self, role: str, restarts: int) -> Boot:
        return Boot(role=role, instance="t", mode="paper", market="simulated", run_id="r", run_dir="", state_dir="", socket_dir="",
                    restarts=restarts)

    def restart_forkserver(self) -> bool:
        self.forkserver_restarts += 1
        for child in self.children.values():
            child.born = True  # the new one gives processes
            if child.pid is None and child.asked:
                child.start_error = "the forkserver gave no process"
                child.die(255)
        return True

    def turn(self, times: int = 1, step_s: float = TURN_S) -> None:
        for _ in range(times):
            self.now += step_s
            for number, name in enumerate(l.ROLES):
                if self.children[name].is_alive() and name not in self.silent:
                    self.rows[number]["beat_ns"] = self.rows[number]["control_beat_ns"] = int(self.now * 1e9)
                    self.rows[number]["progress"] += name not in self.stuck
            self.dog.turn(self.now)

    def for_s(self, seconds: float) -> None:
        self.turn(round(seconds / TURN_S))

    def ready(self, *names: str) -> None:
        for name in names or l.ROLES:
            self.rows[l.ROLES.index(name)]["state"] = l.PROC_READY
        self.turn()

    def events(self, kind: str) -> list[str]:
        return [event.text for event in self.line.taken if event.kind == kind]

    def state(self, name: str) -> State:
        return self.dog.roles[name].state

    def obey_stop(self, *but: str) -> list[str]:
        """Turn until stopped; children end when they are told to, except those in `but`. Gives the order of their ends."""
        order = []
        for _ in range(3000):
            for number, name in enumerate(l.ROLES):
                child = self.children[name]
                if child.is_alive() and int(self.rows[number]["stop"]) and name not in but:
                    child.die(0)
                    order.append(name)
            self.turn()
            if self.dog.phase is Phase.STOPPED:
                return order
        raise AssertionError("did not stop")


@pytest.fixture
def world() -> World:
    made = World()
    made.turn()
    return made


@pytest.fixture
def running(world: World) -> World:
    world.ready()
    world.turn(20)  # until the events of the start are journaled
    assert world.dog.phase is Phase.RUNNING
    assert world.chronicle.waiting == 0
    return world


# ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_all_roles_start_at_once(world: World) -> None:
    assert all(len(child.boots) == 1 for child in world.children.values())


def test_readiness_is_announced_in_order_whatever_the_order_of_becoming_ready(world: World) -> None:
    world.ready("strategist", "feed")
    assert world.events("ready") == []
    assert world.dog.phase is Phase.STARTING
    world.ready("recorder")
    world.ready("sniper")
    world.ready("gateway")
    world.ready("reflection")
    world.turn(10)
    assert [text.split()[0] for text in world.events("ready")] == list(l.ROLES)
    assert world.dog.phase is Phase.RUNNING


def test_a_role_that_never_becomes_ready_is_replaced(world: World) -> None:
    world.ready("recorder", "gateway", "feed", "reflection", "strategist")
    world.for_s(30.5)
    assert len(world.children["sniper"].boots) == 2
    assert "was not ready within 30 s" in world.events("hang")[0]


def test_a_role_that_is_stopped_while_it_starts_is_replaced_after_its_heartbeat_limit(running: World) -> None:
    sniper = running.children["sniper"]
    sniper.die(-9)
    running.turn()
    running.for_s(0.5)
    assert len(sniper.boots) == 2, "its successor has begun, and is not ready"
    sniper.stopped_ = True
    running.for_s(2.5)
    assert sniper.signals == ["KILL"]
    assert "was stopped for" in running.events("hang")[0]
    assert "while it started" in running.events("hang")[0]


def test_what_the_forkserver_takes_to_prepare_is_not_held_against_its_children() -> None:
    world = World()
    for child in world.children.values():
        child.born = False
    world.turn()
    world.for_s(120.0)  # it compiles kernels
    for child in world.children.values():
        child.be_born()
    world.for_s(20.0)
    assert world.events("hang") == []
    world.ready()
    world.turn(10)
    assert world.dog.phase is Phase.RUNNING


def test_a_forkserver_that_gives_no_process_is_replaced(running: World) -> None:
    child = running.children["gateway"]
    child.born = False
    child.die(-9)
    running.for_s(10.5)
    assert running.forkserver_restarts == 1
    running.for_s(6.0)
    assert child.is_alive()
    assert child.pid is not None


def test_a_state_left_by_a_former_life_is_not_taken_for_readiness(running: World) -> None:
    child = running.children["sniper"]
    child.born = False
    child.die(-9)
    running.turn(2)
    running.rows[l.SNIPER]["state"] = l.PROC_READY  # as a dying process might still write
    running.turn()
    assert running.state("sniper") is State.STARTING


# ── death ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", l.ROLES)
def test_a_killed_child_is_respawned_at_once_and_it_is_journaled(running: World, name: str) -> None:
    pid = running.children[name].pid
    running.children[name].die(-9)
    running.turn(3)
    child = running.children[name]
    assert child.is_alive()
    assert child.pid != pid
    assert child.boots[-1].restarts == 1
    assert int(running.rows[l.ROLES.index(name)]["restarts"]) == 1
    assert f"{name} (pid {pid}) was killed by SIGKILL" in running.events("respawn")[0]


def test_a_child_that_dies_again_while_it_recovers_is_back_at_once_and_the_fourth_death_waits_for_its_back_off(running: World) -> None:
    child = running.children["feed"]
    for _ in range(3):
        child.die(1)
        running.turn()
        assert child.is_alive(), "nothing is waited for"
    child.die(1)
    running.for_s(0.4)
    assert not child.is_alive()
    running.for_s(0.2)
    assert child.is_alive()


def test_what_follows_from_each_death_is_in_its_event_and_so_is_that_it_is_over(running: World) -> None:
    for _ in range(5):
        running.children["feed"].die(1)
        running.for_s(3.0)
        running.ready("feed")
    decided = [(event.kind, event.data["decision"], event.data["pause_s"], event.data["in_a_row"], event.data["class"])
               for event in running.line.taken if "decision" in event.data]
    assert decided == [*(("respawn", "continue", 0.0, number, "general") for number in (1, 2, 3)), ("respawn", "pause", 0.5, 4, "general"),
                       ("crash_loop", "pause", 5.0, 5, "general")]
    running.for_s(4.0)
    running.ready("feed")
    running.for_s(61.0)
    (over,) = [event for event in running.line.taken if event.kind == "recovered"]
    assert (over.text, over.data["activity"], over.data["errors_per_h"], over.data["recoveries_per_h"]) == (
        "feed: works again after 5 failures", "feed", 5, 1)


def test_a_permanent_failure_is_a_stop_and_a_hang_is_left_for_the_next_life_to_know(running: World) -> None:
    running.children["reflection"].die(PERMANENT_FAILURE)
    running.silent.add("strategist")
    running.for_s(3.0)
    decided = {event.data["role"]: (event.data["class"], event.data["decision"]) for event in running.line.taken if "decision" in event.data}
    assert decided == {"reflection": ("fatal", "stop"), "strategist": ("general", "continue")}
    assert [int(row["fault"]) for row in running.rows[: len(l.ROLES)]] == [int(name == "strategist") for name in l.ROLES]
    running.silent.clear()
    running.children["strategist"].die(-9)
    running.turn()
    assert not running.rows["fault"].any(), "the last life was killed, and had not hung"
    running.for_s(3.0)
    running.children["strategist"].die(-11)
    running.turn()
    assert running.rows["fault"].any(), "nobody but itself is to blame for a segmentation fault"


def test_the_loop_wakes_when_a_pause_before_a_restart_is_over(running: World) -> None:
    assert running.dog.sleep_s(running.now) == TURN_S
    child = running.children["feed"]
    for _ in range(3):
        child.die(1)
        running.turn()
        running.ready("feed")
    child.die(1)
    running.turn()  # its fourth death: half a second's pause
    assert running.dog.sleep_s(running.now) == TURN_S
    assert running.dog.sleep_s(running.now + 0.495) == pytest.approx(0.005)
    assert running.dog.sleep_s(running.now + 10.0) == 0.0
    running.dog.stop("test")
    assert running.dog.sleep_s(running.now + 10.0) == TURN_S, "nobody waits for a feed any more"


def test_a_crash_loop_ends_in_safe_mode_and_keeps_trying(running: World) -> None:
    child = running.children["sniper"]
    for _ in range(5):
        child.die(1)
        running.for_s(6.0)
    assert int(running.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_SAFE
    assert running.modes[l.MODE_OF_WATCHDOG]["cause"] == b"sniper: crash loop"
    assert running.dog.phase is Phase.RUNNING
    assert child.is_alive()
    assert running.events("crash_loop")


def test_safe_mode_ends_when_the_role_has_been_stable_for_a_window(running: World) -> None:
    for _ in range(5):
        running.children["sniper"].die(1)
        running.for_s(3.0)
    running.ready("sniper")
    running.for_s(61.0)
    assert int(running.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_RUNNING
    assert "safe mode ends" in running.events("safe_mode")[-1]


def test_a_permanent_failure_before_readiness_ends_the_run_and_says_why(world: World) -> None:
    world.children["feed"].die(PERMANENT_FAILURE)
    world.turn()
    assert world.dog.phase is Phase.STOPPING
    assert "feed" in world.dog.failure
    assert "logs/feed.log" in world.dog.failure


def test_a_permanent_failure_later_leaves_the_others_running_in_safe_mode(running: World) -> None:
    running.children["strategist"].die(PERMANENT_FAILURE)
    running.for_s(5.0)
    assert running.dog.phase is Phase.RUNNING
    assert len(running.children["strategist"].boots) == 1
    assert "strategist" in running.dog.failure, "the run ends with its own exit code"
    assert int(running.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_SAFE


def test_a_crash_loop_ends_a_replay() -> None:
    world = World(fail_fast=True)
    world.turn()
    world.ready()
    for _ in range(5):
        world.children["feed"].die(1)
        world.for_s(3.0)
    assert world.dog.phase is Phase.STOPPING
    assert "feed dies again and again" in world.dog.failure


def test_entries_that_were_stopped_stay_stopped(running: World) -> None:
    running.dog.stop_entries("flatten at end")
    running.turn(50)
    assert int(running.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_REDUCE_ONLY


# ── hang ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_silent_heart_is_aborted_for_its_stack_and_respawned(running: World) -> None:
    running.silent.add("gateway")
    running.for_s(2.5)
    child = running.children["gateway"]
    assert child.signals == ["ABRT"]
    assert len(child.boots) == 2
    assert "no heartbeat for 20" in running.events("hang")[0]


def test_a_child_that_survives_its_abort_is_killed(running: World) -> None:
    running.children["gateway"].dies_of_abort = False
    running.silent.add("gateway")
    running.for_s(2.5)
    assert running.children["gateway"].signals == ["ABRT", "KILL"]
    assert len(running.events("hang")) == 1


def test_a_stopped_process_is_killed_without_an_abort(running: World) -> None:
    running.children["sniper"].stopped_ = True
    running.silent.add("sniper")
    running.for_s(2.5)
    assert running.children["sniper"].signals == ["KILL"]


def test_the_watchdogs_own_delay_is_not_held_against_a_child(running: World) -> None:
    running.silent.add("gateway")
    running.turn(10, step_s=5.0)  # the watchdog slept for 50 s; only 10 turns of it count
    assert running.children["gateway"].signals == []


def test_a_hang_is_judged_after_its_limit_and_not_before(running: World) -> None:
    running.silent.add("sniper")
    running.for_s(1.8)
    assert running.children["sniper"].signals == []
    running.for_s(0.4)
    assert running.children["sniper"].signals == ["ABRT"]


def test_a_silent_child_that_gets_no_cpu_is_starved_and_gets_four_times_its_limit(running: World) -> None:
    running.silent.add("sniper")
    running.children["sniper"].load_ = (True, 1.0)
    running.for_s(7.9)
    assert running.children["sniper"].signals == []
    running.for_s(0.3)
    assert running.children["sniper"].signals == ["ABRT"]


def test_a_silent_child_that_gets_its_cpu_loops_and_is_replaced_at_its_limit(running: World) -> None:
    child = running.children["sniper"]
    running.silent.add("sniper")
    for _ in range(110):
        running.turn()
        child.load_ = (True, child.load_[1] + TURN_S / 2)
    assert child.signals == ["ABRT"]


def test_a_silent_child_that_loops_where_others_leave_it_little_is_replaced_when_it_has_used_what_a_sound_one_needs(running: World) -> None:
    child = running.children["sniper"]
    running.silent.add("sniper")
    turns = 0
    while not child.signals:
        running.turn()
        child.load_ = (True, child.load_[1] + TURN_S / 10)
        turns += 1
    assert 2.0 < turns * TURN_S < 4.0, "a quarter of a second of its own, a tenth of the time, from half its limit on"


def test_a_beating_role_without_progress_is_replaced_while_work_waits() -> None:
    world = World(backlog=lambda: 5)
    world.turn()
    world.ready()
    world.stuck.add("sniper")
    world.for_s(STALL_S + 1.0)
    assert world.children["sniper"].signals == ["ABRT"]
    assert "no progress" in world.events("hang")[0]


def test_no_progress_without_work_is_no_fault(running: World) -> None:
    running.stuck.update(l.ROLES)
    running.for_s(STALL_S + 5.0)
    assert all(child.signals == [] for child in running.children.values())


def test_a_silent_control_thread_of_the_sniper_is_an_alarm_and_no_kill(running: World) -> None:
    frozen = int(running.rows[l.SNIPER]["control_beat_ns"])
    for _ in range(400):
        running.now += TURN_S
        for number in range(len(l.ROLES)):
            running.rows[number]["beat_ns"] = int(running.now * 1e9)
        running.rows[l.SNIPER]["control_beat_ns"] = frozen
        running.dog.turn(running.now)
    assert len(running.events("alarm")) == 1
    assert running.children["sniper"].signals == []


# ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_stop_goes_in_the_reverse_order_of_readiness(running: World) -> None:
    running.dog.stop("test")
    assert running.obey_stop() == ["strategist", "feed", "sniper", "gateway", "reflection", "recorder"]
    assert int(running.modes[l.MODE_OF_WATCHDOG]["mode"]) == l.MODE_REDUCE_ONLY
    assert all(len(child.boots) == 1 for child in running.children.values())


def test_a_child_that_does_not_drain_gets_term_then_kill(running: World) -> None:
    running.dog.stop("test")
    running.obey_stop("strategist")
    assert running.children["strategist"].signals == ["TERM", "KILL"]
    assert int(running.rows[l.STRATEGIST]["stop"]) == l.STOP_NOW


def test_a_recorder_that_is_dead_at_the_stop_gets_another_life_to_drain(running: World) -> None:
    running.dog.stop("test")
    running.turn()
    running.children["recorder"].die(-9)
    order = running.obey_stop()
    assert len(running.children["recorder"].boots) == 2
    assert order[-1] == "recorder"


def test_a_recorder_that_dies_while_it_drains_is_tried_twice_more(running: World) -> None:
    running.dog.stop("test")
    for _ in range(3000):
        for number, name in enumerate(l.ROLES):
            if running.children[name].is_alive() and int(running.rows[number]["stop"]):
                running.children[name].die(-11 if name == "recorder" else 0)
        running.turn()
        if running.dog.phase is Phase.STOPPED:
            break
    assert running.dog.phase is Phase.STOPPED
    assert len(running.children["recorder"].boots) == 3


def test_a_strategist_that_dies_at_the_stop_is_not_started_again(running: World) -> None:
    running.dog.stop("test")
    running.children["strategist"].die(-9)
    running.children["feed"].die(-9)
    running.obey_stop()
    assert len(running.children["strategist"].boots) == 1
    assert len(running.children["feed"].boots) == 1


def test_a_stop_before_anybody_was_born_calls_the_starts_off() -> None:
    world = World()
    for child in world.children.values():
        child.born = False
    world.turn()
    world.dog.stop("Ctrl-C")
    world.for_s(1.0)
    assert world.dog.phase is Phase.STOPPED
    assert all(len(child.boots) == 1 for child in world.children.values())


def test_stop_now_kills_everything_at_once(running: World) -> None:
    running.dog.stop_now()
    assert running.dog.phase is Phase.STOPPED
    assert all(child.signals == ["KILL"] for child in running.children.values())


# ── the journal's events ─────────────────────────────────────────────────────────────────────────────────────────────
def test_events_wait_while_the_recorder_is_down_and_come_in_order(running: World) -> None:
    running.line.up = False
    for name in ("feed", "sniper", "gateway"):
        running.children[name].die(-9)
        running.turn()
    assert running.events("respawn") == []
    running.line.up = True
    running.turn(10)
    assert [text.split()[0] for text in running.events("respawn")] == ["feed", "sniper", "gateway"]
    assert running.chronicle.waiting == 0


def test_a_recorder_that_cannot_write_is_not_asked_again_at_once(running: World) -> None:
    """Its answer wakes the loop: asked again with each, both would be at nothing else."""
    running.line.answer = messages.Unavailable(role="recorder", text="the journal cannot be written")
    running.chronicle.note("test", "hello")
    for _ in range(50):
        running.chronicle.pump()
    assert len(running.events("test")) == 1
    running.for_s(AGAIN_S * 3)
    assert 2 <= len(running.events("test")) <= 4
    running.line.answer = messages.Done()
    running.for_s(AGAIN_S * 1.5)
    assert running.chronicle.waiting == 0


def test_an_unanswered_event_is_sent_again_on_a_fresh_socket(running: World) -> None:
    running.line.answers = False
    running.chronicle.note("test", "hello")
    running.for_s(PATIENCE_S * 2.5)
    assert len(running.events("test")) == 3
    assert running.line.resets == 2
    running.line.answers = True
    running.for_s(PATIENCE_S * 1.5)
    assert running.chronicle.waiting == 0


def test_a_process_that_has_ended_is_shown_as_restarting_before_the_watchdog_has_come_to_it_until_its_successor_is_ready(running: World) -> None:
    def shown() -> dict[str, Any]:
        memory = SimpleNamespace(board=SimpleNamespace(processes=running.rows), ticks=SimpleNamespace(readers={l.SNIPER: {"cursor": 0}}))
        return View(SimpleNamespace(memory=memory, watchdog=running.dog)).processes()[l.SNIPER]
    assert (shown()["state"], shown()["pid"]) == ("healthy", running.children["sniper"].pid)
    running.children["sniper"].die(-9)  # its row still says so, and nobody has looked
    assert running.state("sniper") is State.READY
    assert (shown()["state"], shown()["pid"]) == ("restarting", None)
    running.for_s(0.2)
    assert (shown()["state"], shown()["pid"]) == ("starting", running.children["sniper"].pid)
    running.ready("sniper")
    assert (shown()["state"], shown()["restarts"]) == ("healthy", 1)
