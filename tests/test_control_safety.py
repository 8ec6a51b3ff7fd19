"""Safe mode: what begins it, what ends it, what it makes the gateway do, and that a cause for a person waits for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.config import Safety
from control.supervise.dangers import Dangers
from control.supervise.rescue import AWAY_S, Rescue
from control.supervise.role import State
from control.supervise.safety import CAUSES, Change, Ends, SafeMode
from ipc import layout as l
from ipc import messages, segment

CASH = 10_000 * 10**8


class Sniper:
    """As much of a Supervised as is looked at."""

    def __init__(self) -> None:
        self.state, self.been_ready = State.READY, True


class Line:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, number: bytes, payload: bytes) -> bool:
        self.sent.append(messages.decode_child_request(payload))
        return True

    def receive(self) -> None:
        return None

    def reset(self) -> None:
        pass


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> segment.Memory:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    segment.create_all("safety", ticks=1024, instruments=4, conditions=64)
    made = segment.Memory("safety")
    account = made.sniper.account[0]
    for name in ("cash", "equity", "peak_equity", "day_start_equity"):
        account[name] = CASH
    made.instruments.strategies["name"][:2] = [b"one", b"two"]
    return made


class Clocks:
    """Wall and monotonic time, in the hands of the test."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 10**18, 10**12

    def __call__(self) -> tuple[int, int]:
        return self.wall, self.monotonic

    def go_on(self, seconds: float, step: float = 0.0) -> None:
        self.monotonic += round(seconds * 1e9)
        self.wall += round((seconds + step) * 1e9)


def dangers(memory: Any, sniper: Any = None, clocks: Any = None, gateway: Any = None, **settings: Any) -> Dangers:
    return Dangers(memory, Safety(**settings), 500, sniper or Sniper(), gateway or Sniper(), clocks or Clocks())


# ── the policy ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_cause_that_ends_by_itself_keeps_safe_mode_for_a_cooldown_more() -> None:
    mode = SafeMode(60.0)
    assert mode.turn(0.0, {"journal": "full"}, 1) == Change(True, "journal", "full")
    assert mode.turn(10.0, {}, 1) is None
    assert mode.turn(69.9, {}, 1) is None
    assert mode.turn(70.0, {}, 1) == Change(False, "", "")


def test_a_cause_that_comes_back_in_the_cooldown_begins_it_anew() -> None:
    mode = SafeMode(60.0)
    mode.turn(0.0, {"crash_loop": "x"}, 1)
    mode.turn(10.0, {}, 1)
    mode.turn(50.0, {"crash_loop": "x"}, 1)
    mode.turn(60.0, {}, 1)
    assert mode.turn(119.0, {}, 1) is None
    assert mode.turn(120.0, {}, 1) == Change(False, "", "")


def test_a_daily_loss_lasts_until_the_day_is_over_though_equity_comes_back() -> None:
    mode = SafeMode(0.0)
    mode.turn(0.0, {"daily_loss": "lost"}, 19_000)
    assert mode.turn(50_000.0, {}, 19_000) is None
    assert mode.resume() == ["daily_loss"], "a person does not lift the day's limit"
    assert mode.turn(50_001.0, {}, 19_001) == Change(False, "", "")


def test_a_daily_loss_of_before_a_restart_waits_until_the_day_is_known() -> None:
    mode = SafeMode(0.0)
    mode.begin("daily_loss", "lost", 19_000)
    assert mode.turn(0.0, {}, 0) == Change(True, "daily_loss", "lost")
    assert mode.turn(1.0, {}, 19_000) is None
    assert mode.turn(2.0, {}, 19_001) == Change(False, "", "")


@pytest.mark.parametrize("cause", [name for name, ends in CAUSES.items() if ends is Ends.PERSON])
def test_what_a_person_ends_waits_for_a_person(cause: str) -> None:
    mode = SafeMode(0.0)
    mode.turn(0.0, {cause: "why"}, 1)
    assert mode.turn(10**9, {}, 10_000) is None
    assert mode.resume() == []
    assert mode.turn(10**9 + 1, {}, 10_000) == Change(False, "", "")


@given(st.lists(st.tuples(st.sampled_from(["resume", "turn"]), st.sets(st.sampled_from(sorted(CAUSES))), st.integers(0, 100)), max_size=60))
def test_it_is_safe_whenever_a_cause_is_the_case_or_has_not_been_ended(history: list[tuple[str, set[str], int]]) -> None:
    mode, now, safe = SafeMode(30.0), 0.0, False
    model: dict[str, tuple[float, int]] = {}  # cause → (last seen, its day)
    for action, present, after in history:
        now += after
        day = int(now // 1000)
        if action == "resume":
            mode.resume()
            model = {name: at for name, at in model.items() if CAUSES[name] is not Ends.PERSON}
            continue
        change = mode.turn(now, dict.fromkeys(present, "x"), day)
        safe = safe if change is None else change.safe
        for name in present:
            model[name] = (now, model.get(name, (0.0, day))[1])
        assert present <= set(mode.causes)
        assert safe == bool(mode.causes)
        for name in {name for name in model if CAUSES[name] is Ends.PERSON}:
            assert name in mode.causes
        for name in [name for name in model if name not in mode.causes]:
            del model[name]


# ── what is looked at ────────────────────────────────────────────────────────────────────────────────────────────────
def test_nothing_is_wrong_with_a_healthy_account(memory: Any) -> None:
    assert dangers(memory).present(0.0) == {}


@pytest.mark.parametrize(("equity", "causes"), [(CASH * 951 // 1000, set()), (CASH * 95 // 100, {"daily_loss"}),
                                                (CASH * 80 // 100, {"daily_loss", "drawdown"})])
def test_losses_at_their_limit_are_causes(equity: int, causes: set[str], memory: Any) -> None:
    memory.sniper.account[0]["equity"] = equity
    assert set(dangers(memory).present(0.0)) == causes


def test_an_account_that_is_not_restored_yet_has_lost_nothing(memory: Any) -> None:
    sniper = Sniper()
    sniper.been_ready = False
    memory.sniper.account[0]["equity"] = 0
    assert dangers(memory, sniper).present(0.0) == {}


def test_after_a_person_has_resumed_the_drawdown_is_counted_from_there_and_the_next_start_knows(memory: Any) -> None:
    account = memory.sniper.account[0]
    account["day_start_equity"] = account["equity"] = CASH * 79 // 100
    look = dangers(memory)
    assert set(look.present(0.0)) == {"drawdown"}
    look.forgive()
    assert look.present(0.0) == {}
    again = dangers(memory)
    again.recall(**look.to_remember(0.0))
    assert again.present(0.0) == {}
    account["day_start_equity"] = account["equity"] = CASH * 60 // 100
    assert set(again.present(0.0)) == {"drawdown"}


def test_a_peak_that_came_after_a_person_had_resumed_counts_over_a_restart(memory: Any) -> None:
    account = memory.sniper.account[0]
    look = dangers(memory)
    look.present(0.0)
    look.forgive()
    known = look.to_remember(0.0)
    account["peak_equity"] = CASH * 150 // 100
    account["day_start_equity"] = account["equity"] = CASH * 119 // 100
    again = dangers(memory)
    again.recall(known["peak"], known["forgiven"])
    assert set(again.present(0.0)) == {"drawdown"}


def test_a_sniper_that_never_came_up_is_a_cause_once_there_is_a_gateway(memory: Any) -> None:
    sniper, gateway = Sniper(), Sniper()
    sniper.state, sniper.been_ready, gateway.been_ready = State.STARTING, False, False
    look = dangers(memory, sniper, gateway=gateway)
    memory.sniper.account[0]["open_positions"] = 1
    for now in (0.0, 100.0):
        assert look.present(now) == {}, "the first start may compile for minutes"
    gateway.been_ready = True
    look.present(100.0)
    assert set(look.present(131.0)) == {"unprotected"}


def test_a_latched_strategy_is_a_cause_that_names_it(memory: Any) -> None:
    memory.sniper.account[0]["latched"] = 2
    assert "trader-ctl release two" in dangers(memory).present(0.0)["repeated"]


@pytest.mark.parametrize(("row", "cause", "causes"), [
    (l.MODE_OF_RECORDER, b"journal cannot write", {"journal"}), (l.MODE_OF_GATEWAY, b"BTC/USDT: the venue holds 30 lots", {"unreconciled"}),
    (l.MODE_OF_GATEWAY, b"paper ledger: no space", set())])
def test_the_words_of_others_are_causes(row: int, cause: bytes, causes: set[str], memory: Any) -> None:
    memory.board.modes[row]["mode"], memory.board.modes[row]["cause"] = l.MODE_SAFE, cause
    assert set(dangers(memory).present(0.0)) == causes


@pytest.mark.parametrize(("step_s", "found"), [(0.0, False), (0.9, False), (1.1, True), (-1.1, True), (3600.0, True), (-86_400.0, True)])
def test_a_step_of_the_wall_clock_in_either_direction_is_a_cause(step_s: float, found: bool, memory: Any) -> None:
    clocks = Clocks()
    look = dangers(memory, clocks=clocks)
    look.present(0.0)
    clocks.go_on(0.02, step_s)
    assert ("clock_jump" in look.present(0.02)) == found
    clocks.go_on(0.02)
    assert "clock_jump" not in look.present(0.04), "it is told once; the cool-down is the policy's"


def test_positions_without_a_sniper_are_a_cause_after_their_time(memory: Any) -> None:
    sniper = Sniper()
    look = dangers(memory, sniper, unprotected_s=30)
    memory.sniper.account[0]["open_positions"] = 1
    look.present(0.0)
    sniper.state = State.DOWN
    assert look.present(10.0) == {}
    sniper.state = State.STARTING
    assert look.present(39.9) == {}
    assert set(look.present(40.0)) == {"unprotected"}
    sniper.state = State.READY
    assert look.present(41.0) == {}


def flapping(look: Dangers, sniper: Sniper, began: float, until: float, away_s: float, well_s: float) -> float | None:
    """When the cause comes true while a sniper goes and comes; None: never."""
    now = began
    while now < until:
        sniper.state = State.DOWN if (now - began) % (away_s + well_s) < away_s else State.READY
        if "unprotected" in look.present(now):
            return now - began
        now += 0.02
    return None


def test_a_sniper_that_is_well_for_a_moment_only_does_not_begin_the_count_anew(memory: Any) -> None:
    sniper = Sniper()
    look = dangers(memory, sniper, unprotected_s=30)
    memory.sniper.account[0]["open_positions"] = 1
    look.present(0.0)
    found = flapping(look, sniper, 10.0, 200.0, away_s=5.0, well_s=1.0)
    assert found is not None
    assert 35.9 < found < 36.1, "thirty seconds without it, and six times one with it"
    sniper.state = State.READY
    assert look.present(60.0) == {}, "it watches its stops itself now"
    sniper.state = State.DOWN
    assert set(look.present(61.0)) == {"unprotected"}, "as before"


def test_a_sniper_that_was_well_for_as_long_as_it_may_be_away_has_all_that_time_again(memory: Any) -> None:
    memory.sniper.account[0]["open_positions"] = 1
    for away_s, well_s in ((29.0, 30.5), (0.04, 20.0)):  # deaths that are mended at once add up to little
        sniper = Sniper()
        look = dangers(memory, sniper, unprotected_s=30)
        look.present(0.0)
        assert flapping(look, sniper, 10.0, 500.0, away_s, well_s) is None


# ── what is done ─────────────────────────────────────────────────────────────────────────────────────────────────────
def rescue(memory: Any, sniper: Any, **settings: Any) -> tuple[Rescue, Line, list[str]]:
    line, notes = Line(), []
    return Rescue(memory, Safety(**settings), sniper, line, notes.append), line, notes


def level(memory: Any) -> int:
    return int(memory.board.processes[l.GATEWAY]["rescue"])


def test_while_the_sniper_lives_the_gateway_is_told_nothing(memory: Any) -> None:
    hand, line, _ = rescue(memory, Sniper())
    memory.sniper.account[0]["open_positions"] = 1
    for now in range(100):
        hand.turn(float(now), {"operator": "x"})
    assert level(memory) == l.RESCUE_NONE
    assert line.sent == []


def test_positions_that_are_to_be_closed_are_closed_by_the_sniper_while_it_lives(memory: Any) -> None:
    hand, line, _ = rescue(memory, Sniper(), positions="flatten")
    memory.sniper.account[0]["open_positions"] = 1
    for now in range(4):
        hand.turn(float(now), {"operator": "x"})
    assert {request.action for request in line.sent} == {"flatten"}
    memory.sniper.account[0]["open_positions"] = 0
    told = len(line.sent)
    for now in range(4, 40):
        hand.turn(float(now), {"operator": "x"})
    assert len(line.sent) == told


def test_what_an_operator_wants_flat_is_closed_without_safe_mode_as_soon_as_a_sniper_is_there_until_he_resumes(memory: Any) -> None:
    sniper = Sniper()
    sniper.state = State.STARTING
    hand, line, notes = rescue(memory, sniper)
    hand.flattens = True
    memory.sniper.account[0]["open_positions"] = 2
    for now in range(20):
        hand.turn(float(now), {})
    assert (line.sent, level(memory)) == ([], l.RESCUE_NONE)
    sniper.state = State.READY
    for now in range(20, 60):
        hand.turn(float(now), {})
    assert {request.action for request in line.sent} == {"flatten"}
    assert len(line.sent) > 30, "it is asked for until nothing is open"
    assert notes == ["flatten closes all positions"]
    told, hand.flattens = len(line.sent), False
    for now in range(60, 70):
        hand.turn(float(now), {})
    assert len(line.sent) == told


@pytest.mark.parametrize(("positions", "flattens", "expected"), [
    ("protect", False, l.RESCUE_CANCEL), ("flatten", False, l.RESCUE_FLATTEN), ("protect", True, l.RESCUE_FLATTEN)])
def test_a_sniper_that_stays_away_in_safe_mode_leaves_it_to_the_gateway(positions: str, flattens: bool, expected: int, memory: Any) -> None:
    sniper = Sniper()
    hand, _, notes = rescue(memory, sniper, positions=positions)
    hand.flattens = flattens
    hand.turn(0.0, {"crash_loop": "x"})
    sniper.state = State.DOWN
    hand.turn(1.0, {"crash_loop": "x"})
    hand.turn(0.9 + AWAY_S, {"crash_loop": "x"})
    assert level(memory) == l.RESCUE_NONE
    hand.turn(1.0 + AWAY_S, {"crash_loop": "x"})
    assert level(memory) == expected
    hand.turn(500.0, {"crash_loop": "x", "unprotected": "y"})
    hand.turn(501.0, {"crash_loop": "x", "unprotected": "y"})
    assert level(memory) == l.RESCUE_FLATTEN
    assert len(notes) == (2 if expected == l.RESCUE_CANCEL else 1)
    sniper.state = State.READY
    hand.turn(501.0, {"crash_loop": "x"})
    assert level(memory) == l.RESCUE_NONE


def test_when_safe_mode_is_over_the_gateway_leaves_it_to_the_sniper(memory: Any) -> None:
    sniper = Sniper()
    hand, _, _ = rescue(memory, sniper)
    sniper.state = State.DOWN
    for now in (0.0, 5.0):
        hand.turn(now, {"operator": "x"})
    assert level(memory) == l.RESCUE_CANCEL
    hand.turn(6.0, {})
    assert level(memory) == l.RESCUE_NONE


def test_the_rescue_word_is_the_watchdogs_and_shares_no_line_with_others(memory: Any) -> None:
    assert np.dtype(l.PROCESS).fields["rescue"][1] // l.CACHE_LINE == np.dtype(l.PROCESS).fields["stop"][1] // l.CACHE_LINE
