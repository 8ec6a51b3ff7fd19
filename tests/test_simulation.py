"""The whole loop in one process: seeds hold, replay exactly, and find planted faults; scripts that once broke a rule hold now."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from ipc import layout as l
from ipc.messages import Condition, Size
from tests.conftest import ROOT
from tests.simulation.__main__ import main
from tests.simulation.mutants import MOST_SEEDS, MUTANTS, mutated, seeds_until_found
from tests.simulation.running import run
from tests.simulation.script import GATEWAY_POINTS, RECORDER_POINTS, SNIPER_POINTS, Action, Script, Settings, draw
from tests.simulation.shrink import smallest
from tests.simulation.stage import Stage

SETTINGS = Settings(window_ms=200, remote=False, flatten=False, latency_ms=0, max_open=6, cooldown_s=0, snapshot_ms=20)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def holds(stage: Stage, *actions: Action, settings: Settings = SETTINGS) -> list[str]:
    """What happens, in words; nothing of it may break a rule."""
    result = run(stage, Script(0, settings, actions), tracing=True)
    assert result.violation is None, "\n".join([*result.trace, str(result.violation)])
    return result.trace


def quote(bid: int, instrument: int = 0, after_ms: int = 5) -> Action:
    return ("tick", after_ms, l.TICK_QUOTE, instrument, bid, 200, bid + 300, 200)


def buy(level: str = "59900.00", **more: object) -> Action:
    """A plan of one purchase, when the bid falls to a level."""
    return ("plan", 0, False, (Condition(symbol="BTC/USDT", side="buy", direction="down", size=Size(kind="base", value="0.00060"), confidence=0.9,  # type: ignore[arg-type]
                                         why="scripted", price="bid", level=level, **{"stop_bps": 20, **more}),))


#: an entry of 60 lots goes out with the last of these
BOUGHT: tuple[Action, ...] = (quote(6_000_000), buy(), ("sniper", 2), ("recorder",), ("sniper", 1), quote(5_989_000), ("sniper", 1), ("recorder",))


# ── seeds ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_hundred_seeds_hold_and_reach_what_they_are_about(stage: Stage) -> None:
    passed = set()
    for seed in range(1, 101):
        result = run(stage, draw(seed))
        assert result.violation is None, f"seed {seed}: {result.violation}; python -m tests.simulation --seed {seed}"
        passed |= set(result.passed)
    dying = {f"died at {point}" for point in (*(f"sniper.{phase}" for phase in SNIPER_POINTS), *RECORDER_POINTS, *GATEWAY_POINTS)}
    assert len(passed & dying) > len(dying) // 2
    assert {"trades", "entries", "exits", "venue.find", "venue.cancel", "due by the clock"} <= passed


@pytest.mark.parametrize("seed", [3, 18, 77])
def test_two_runs_of_a_seed_are_the_same_to_the_last_step(seed: int, stage: Stage) -> None:
    first, again = run(stage, draw(seed), tracing=True), run(stage, draw(seed), tracing=True)
    assert first.digest == again.digest
    assert first.trace == again.trace
    other = run(stage, draw(seed + 1))
    assert other.digest != first.digest


@pytest.mark.parametrize("name", ["an entry does not wait for the journal", "an order in doubt is forgotten",
                                  "what may have been sent is sent again", "what is armed again has never fired"])
def test_planted_faults_are_found_quickly(name: str, stage: Stage) -> None:
    assert seeds_until_found(stage, name, 30)[0]


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_is_there(name: str) -> None:
    with mutated(name):
        pass


def test_a_failing_script_is_made_small_and_fails_in_the_same_way(stage: Stage) -> None:
    with mutated("an entry does not wait for the journal"):
        script = next(script for script in map(draw, range(1, 100)) if run(stage, script).violation is not None)
        violation = run(stage, script).violation
        assert violation is not None
        small, found = smallest(stage, script, violation)
    assert found.violation is not None
    assert found.violation.rule == violation.rule == "undurable"
    assert len(small.actions) < 20 < len(script.actions)
    assert any("plan of strategy" in line for line in found.trace)


def test_the_command_says_how_it_went() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.simulation", "--seeds", "2", "--seed", "7"], cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 seeds in" in done.stdout
    assert "all hold" in done.stdout


@pytest.mark.parametrize("seeds", ["0", "-3"])
def test_fewer_seeds_than_one_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seeds", seeds])
    assert ended.value.code == 2
    assert f"--seeds: {seeds} is below 1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_failing_seed_as_a_short_trace_and_the_seed_alone_prints_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    with mutated("an order in doubt is forgotten"):  # seen when the end comes, after hundreds of rounds
        assert main(["--seeds", "100"]) == 1
        first = capsys.readouterr().out.splitlines()
        found = next(line for line in first if line.startswith("seed "))
        seed = found.split()[1].rstrip(":")
        assert main(["--seed", seed]) == 1
        again = capsys.readouterr().out.splitlines()
        assert main(["--seed", seed, "--trace"]) == 1
        whole = capsys.readouterr().out.splitlines()
    assert found in again
    at, told = first.index(found), f"again: python -m tests.simulation --seed {seed}"
    assert first[at: first.index(told) + 1] == again[again.index(found): again.index(told) + 1], "word for word"
    assert 5 < first.index(told) - at < 80
    assert any(line.endswith("rounds in which nothing happens") for line in first)
    assert found in whole
    assert main(["--seed", seed]) == 0, "without the fault it holds"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", MUTANTS)
def test_each_planted_fault_is_found_within_a_thousand_seeds(name: str, stage: Stage) -> None:
    seeds, text = seeds_until_found(stage, name)
    print(f"{seeds or 'never':>5}  {name:<55} {text[:130]}")
    assert 0 < seeds <= MOST_SEEDS


# ── what seeds have found ────────────────────────────────────────────────────────────────────────────────────────────
def test_book_and_account_are_compared_only_when_the_venue_has_told_everything(stage: Stage) -> None:
    trace = holds(stage, *BOUGHT, ("gateway",), ("fault", "line", "cut", 10, 1), quote(5_989_100), ("gateway",), ("operate", "resume", "", "", False))
    assert any("FILL of 2" in line for line in trace)


def test_a_run_begins_when_no_order_of_the_one_before_can_arrive_any_more(stage: Stage) -> None:
    trace = holds(stage, *BOUGHT, ("fault", "submit", "late", 10, 150), ("gateway",), ("loss", True))
    assert any("ACCEPTED of 1099511627778" in line for line in trace)


def test_an_exit_that_was_decided_before_the_gateway_began_to_close_is_not_sent_beside_its_order(stage: Stage) -> None:
    away = (("away", "sniper", 2_600), ("operate", "safe", "", "", False), *(("watchdog",),) * 16, ("wait", 2_100), ("watchdog",), ("watchdog",))
    trace = holds(stage, *BOUGHT, ("gateway",), quote(5_989_100), ("gateway",), ("sniper", 1), ("recorder",), *away, ("wait", 300),
                  quote(5_900_000), ("sniper", 1), ("sniper", 2), ("gateway",), ("watchdog",), ("gateway",), ("gateway",),
                  settings=SETTINGS._replace(flatten=True))
    assert any("ANNOUNCED" in line for line in trace)
    assert any("LOST of" in line for line in trace)


def test_an_order_of_the_gateway_is_looked_for_from_when_it_was_sent_not_from_when_it_was_announced(stage: Stage) -> None:
    alone = (("away", "sniper", 20_000), ("operate", "safe", "", "", False), *(("watchdog",),) * 16, ("wait", 2_100), ("watchdog",), ("watchdog",))
    trace = holds(stage, *BOUGHT, ("gateway",), quote(5_989_100), ("gateway",), ("sniper", 1), ("recorder",), *alone,
                  ("fault", "submit", "late", 5_000, 150), ("gateway",), ("wait", 400), ("gateway",), ("wait", 30), ("gateway",),  # it stood still
                  settings=SETTINGS._replace(flatten=True))
    assert any("ANNOUNCED" in line for line in trace)
    assert any("may have been taken" in line for line in trace)


def test_an_exit_that_only_the_venue_knows_is_recognised_although_the_sniper_has_decided_another_one_meanwhile(stage: Stage) -> None:
    trace = holds(stage, *BOUGHT, ("gateway",), quote(5_989_100), ("gateway",), ("sniper", 1), ("recorder",), quote(5_970_000), ("sniper", 1),
                  ("gateway",), ("wait", 30), ("gateway",), quote(5_970_100), ("gateway",), ("disk", 1), ("loss", False), ("watchdog",),
                  ("recorder",), quote(5_970_000), ("sniper", 1), ("sniper", 1), ("gateway",))
    first_of_next_run = next(at for at, line in enumerate(trace) if "FILL of 1099511627782" in line)
    assert any("NEW exit" in line for line in trace[first_of_next_run - 6: first_of_next_run]), "it has decided another one"
