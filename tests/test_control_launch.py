"""trader-launch: what it refuses and how, and real processes (stand-ins for the roles) that end without leaving anything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control import config as configuration
from control.record.run_start import fingerprints, version_after
from control.supervise import instance, sweep
from control.supervise.ending import EndOfRun
from control.supervise.instance import EXIT_BUSY, EXIT_NO_ROOM, EXIT_USAGE, Identity, LaunchError
from control.supervise.launch import make_plan, parse_duration_s
from control.supervise.sources import symbol_of
from control.supervise.watchdog import STOP_ORDER
from hotpath.venues.paper_ledger import Ledger
from ipc import layout as l
from ipc import segment
from tests.journal_scene import NOON_NS, Scene

ROOT = Path(__file__).resolve().parent.parent


# ── flags and faults ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("5m", 300), ("1h", 3600), ("1.5h", 5400), ("250ms", 0.25), ("7", 7)])
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5 minutes", "-3s", "0s", "1h30"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LaunchError, match="write 60s, 5m or 1h"):
        parse_duration_s(text)


def config(**flags: Any) -> configuration.Config:
    return configuration.load(None, {f"run.{name}": value for name, value in flags.items()}, {})


@pytest.mark.parametrize(("mode", "paths", "flags", "says"), [
    ("live", [], {}, "use one of paper, replay"),
    ("paper", ["a.gz"], {}, "did you mean trader-launch replay a.gz"),
    ("replay", [], {}, "names no file"),
    ("replay", ["/nowhere/spot_btcusdt.gz"], {}, "/nowhere/spot_btcusdt.gz: no such file"),
    ("paper", [], {"symbols": "BTC/EUR"}, "BTC/EUR"),
    ("paper", [], {"symbols": "XMR/USDT"}, "choose of"),
    ("paper", [], {"strategies": "astrology"}, "momentum"),
    ("paper", [], {"strategies": "nowhere.py:Mine"}, "there is no file"),
])
def test_a_wrong_flag_is_named_with_its_remedy(mode: str, paths: list[str], flags: dict[str, str], says: str) -> None:
    with pytest.raises(LaunchError, match=says) as caught:
        make_plan(mode, paths, config(**flags))
    assert caught.value.exit_code == EXIT_USAGE


def test_a_replay_names_every_bad_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "ticks.csv").write_text("time,price,size\n")
    with pytest.raises(LaunchError) as caught:
        make_plan("replay", [str(tmp_path), str(tmp_path / "gone.gz"), str(tmp_path / "ticks.csv")], config())
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "is a folder" in lines[0]
    assert "ticks.csv=BTC/USDT" in lines[2]


@pytest.mark.parametrize(("name", "symbol"), [
    ("spot_btcusdt_20240808.gz", "BTC/USDT"), ("usdm_ethusdt_20240808.gz", "ETH/USDT:USDT"),
    ("usdm_btcusdt_20230405.dat.gz", "BTC/USDT:USDT"), ("ticks.csv", ""), ("btcusdt.gz", ""),
])
def test_symbols_are_understood_from_file_names(name: str, symbol: str) -> None:
    assert symbol_of(name) == symbol


def test_a_stated_symbol_wins_over_the_file_name(tmp_path: Path) -> None:
    for name, line in (("spot_btcusdt_1.gz", "1723161254000000000 {}\n"), ("spot_btcusdt_2.gz", "1723161254000000000 {}\n"),
                       ("x.csv", "time,price,size\n")):
        (tmp_path / name).write_text(line)
    plan = make_plan("replay", [f"{tmp_path}/spot_btcusdt_1.gz", f"{tmp_path}/spot_btcusdt_2.gz", f"{tmp_path}/x.csv=ETH/USDT"], config())
    assert [source.symbol for source in plan.sources] == ["BTC/USDT", "BTC/USDT", "ETH/USDT"]
    assert [row["symbol"] for row in plan.rows] == [b"BTC/USDT", b"ETH/USDT"]
    assert plan.speed == 0.0, "a replay goes as fast as its slowest reader unless told otherwise"


def test_the_watchdog_imports_none_of_the_heavy_libraries() -> None:
    code = ("import sys, control.supervise.launch, control.supervise.front, control.record.summary, control.record.snapshot\n"
            "print([name for name in ('numba', 'llvmlite', 'ccxt', 'openai', 'polars', 'pandas') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_fault_on_the_command_line_ends_with_its_exit_code(tmp_path: Path) -> None:
    def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", "from control.supervise.launch import main; main()", *arguments], cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "TRADER_SHM": str(tmp_path)}, capture_output=True, text=True)

    refused = launch("replay", "gone.gz")
    assert refused.returncode == EXIT_USAGE
    assert "trader-launch: gone.gz: no such file" in refused.stderr
    (tmp_path / "wrong.toml").write_text("[run]\nseed = 'x'\n")
    refused = launch("paper", "--config", "wrong.toml")
    assert refused.returncode == configuration.EXIT_CONFIG
    assert "run.seed" in refused.stderr
    assert launch("--no-such-flag").returncode == EXIT_USAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.toml"], "a refusal leaves nothing"


# ── instance ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> instance.Places:
    (tmp_path / "shm").mkdir()
    (tmp_path / "rt").mkdir()
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "rt"))
    return instance.make_places(tmp_path / "data", "t", "paper")


def create(rows: int = 1, **changes: Any) -> segment.Memory:
    instruments = np.zeros(rows, l.INSTRUMENT)
    facts: dict[str, Any] = {"ticks": 1024, "instruments": 8, "conditions": 64, "rows": instruments, "strategies": ("a", "b"), "number": 5,
                             "lockstep": True, "wait_strategy": l.WAIT_FUTEX, "initial_cash": 10**12}
    return instance.create_segments("t", **{**facts, **changes})


def test_segments_begin_with_every_reader_registered(places: instance.Places) -> None:
    memory = create()
    active = {name: set(np.flatnonzero(getattr(memory, name).readers["active"]).tolist()) for name in ("ticks", "orders", "reports")}
    assert active == {"ticks": {l.SNIPER, l.GATEWAY, l.STRATEGIST}, "orders": {l.GATEWAY, l.RECORDER}, "reports": {l.SNIPER, l.RECORDER}}
    assert [int(getattr(memory, name).ring[0]["capacity"]) for name in active] == [1024, l.RING_SLOTS, l.RING_SLOTS]
    run = memory.board.run[0]
    assert (int(run["instance_number"]), int(run["lockstep"]), int(run["watchdog_pid"])) == (5, 1, os.getpid())
    assert [row["name"] for row in memory.instruments.strategies[:2]] == [b"a", b"b"]


def test_too_many_instruments_are_refused_before_anything_is_made(places: instance.Places) -> None:
    with pytest.raises(LaunchError, match=r"hotpath\.instrument_capacity"):
        create(rows=9)
    assert not segment.instance_dir("t").exists()


def test_a_full_shared_memory_is_a_named_refusal(places: instance.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LaunchError, match="enlarge it") as caught:
        create()
    assert caught.value.exit_code == EXIT_NO_ROOM
    assert not segment.instance_dir("t").exists()


def test_one_instance_of_a_name_at_a_time(places: instance.Places) -> None:
    with sweep.LockedName("t"):
        with pytest.raises(BlockingIOError), sweep.LockedName("t"):
            pass
        with sweep.LockedName("other"):
            pass
    with sweep.LockedName("t"):
        pass
    assert list(segment.shared_root().iterdir()) == [], "the lock's file goes with its holder"


def test_leftover_segments_are_removed_and_only_when_nobody_uses_them(places: instance.Places) -> None:
    create()
    in_use = sweep.share("t")
    with pytest.raises(LaunchError, match="still live") as caught:
        instance.clear_leftovers("t", patience_s=0.1)
    assert caught.value.exit_code == EXIT_BUSY
    assert segment.instance_dir("t").exists()
    os.close(in_use)
    assert instance.clear_leftovers("t", patience_s=0.1)
    assert not segment.instance_dir("t").exists()
    assert not instance.clear_leftovers("t", patience_s=0.1)


def test_a_paper_instance_keeps_its_number_and_a_replays_is_its_seeds(places: instance.Places) -> None:
    first = instance.identify(places, "paper", 1)
    assert 0 < first.number < 1 << 24
    assert instance.identify(places, "paper", 2).number == first.number
    assert instance.identify(places, "replay", 7).number == instance.identify(places, "replay", 7).number
    assert instance.identify(places, "replay", 7).number != instance.identify(places, "replay", 8).number


def test_event_time_resumes_behind_where_it_stopped(places: instance.Places) -> None:
    wall = 1_700_000_012_345_678_901
    assert instance.start_event_ns(Identity(number=1), wall) == 1_699_999_980_000_000_000
    assert instance.start_event_ns(Identity(number=1, event_ns=5_000_000_001), wall) == 6_000_000_000
    instance.remember(places, Identity(number=9, event_ns=123))
    assert instance.identify(places, "paper", 1) == Identity(number=9, event_ns=123)


def test_event_time_never_goes_back_behind_what_the_journal_or_the_venue_has_seen(places: instance.Places) -> None:
    instance.remember(places, Identity(number=9, event_ns=NOON_NS))  # as old as a second
    day = Scene()
    day.deposit(5)
    day.swapped(1)
    day.write(places.state_dir / "journal")
    recorded = int(max(day.orders["event_ns"].max(), day.reports["event_ns"].max()))
    assert instance.identify(places, "paper", 1).event_ns == recorded
    ledger = Ledger(places.state_dir / "paper", sync=False)  # a fill was committed there that nobody journaled
    ledger.meta.event_ns = recorded + 7
    ledger.event(kind=l.BALANCE, client_id="", symbol="", event_ns=recorded + 7, tick_seq=1)
    assert ledger.commit() is not None
    ledger.close()
    assert instance.identify(places, "paper", 1).event_ns == recorded + 7


def test_a_configuration_keeps_its_number_until_something_that_matters_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("one")
    before = fingerprints(config(seed="7").sections(), (f"{file}:Mine",))
    last = {"config_version": 4, "config": before}
    assert version_after(None, before) == (1, [])
    assert version_after(last, fingerprints(config(seed="7", data_dir="else", instance="other").sections(), (f"{file}:Mine",))) == (4, [])
    file.write_text("two")
    limits = configuration.load(None, {"limits.max_open_positions": "2"}, {})
    changed = fingerprints(limits.sections(), (f"{file}:Mine",))
    assert version_after(last, changed) == (5, ["limits.max_open_positions", "run.seed", "the file mine.py"])
    assert version_after({"config_version": 5, "config": changed}, changed) == (5, [])
    assert version_after({"run_id": "old"}, changed) == (2, []), "what it was before versions were counted is not known"
    assert all(len(value) == 16 for value in changed.values()), "hashes, no values"


def test_fresh_archives_the_state(places: instance.Places) -> None:
    (places.state_dir / "journal").mkdir()
    archived = instance.archive(places.data_dir, "t")
    assert archived is not None
    assert (archived / "journal").is_dir()
    assert not places.state_dir.exists()
    assert instance.archive(places.data_dir, "t") is None


def test_knowledge_that_is_not_there_is_refused(places: instance.Places, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="holds no knowledge store"):
        instance.copy_knowledge(tmp_path, places.state_dir)


# ── the end of a run ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_replay_is_over_when_everything_is_processed_and_durable(places: instance.Places) -> None:
    memory = create()
    end = EndOfRun(memory, replay=True, for_s=None)
    memory.ticks.ring[0]["head"] = memory.orders.ring[0]["head"] = memory.reports.ring[0]["head"] = 10
    memory.board.processes[l.FEED]["state"] = l.PROC_FINISHED
    steps = [(memory.ticks.readers[l.SNIPER], "cursor"), (memory.ticks.readers[l.GATEWAY], "cursor"),
             (memory.reports.readers[l.SNIPER], "cursor"), (memory.board.cursors[0], "durable_orders"),
             (memory.board.cursors[0], "durable_reports")]
    for row, field in steps:
        assert end.cause(0.0, 0.0) == ""
        row[field] = 10
    memory.sniper.account[0]["working_orders"] = 1
    assert end.cause(1.0, 0.0) == "", "a working order gets its grace"
    assert end.cause(3.5, 0.0) == "end of the data"
    memory.sniper.account[0]["working_orders"] = 0
    assert EndOfRun(memory, replay=True, for_s=None).cause(1.0, 0.0) == "end of the data"
    memory.board.processes[l.FEED]["state"] = l.PROC_READY
    assert end.cause(9.0, 0.0) == ""


def test_the_time_of_a_run_counts_from_readiness(places: instance.Places) -> None:
    end = EndOfRun(create(), replay=False, for_s=5.0)
    assert end.cause(1000.0, None) == ""
    assert end.cause(1004.9, 1000.0) == ""
    assert "--for 5 s" in end.cause(1005.0, 1000.0)


# ── real processes ───────────────────────────────────────────────────────────────────────────────────────────────────
class Run:
    """A trader-launch over stand-ins, as a process of its own."""

    def __init__(self, folder: Path, arguments: str = "") -> None:
        self.folder = folder
        for name in ("shm", "rt"):
            (folder / name).mkdir(exist_ok=True)
        code = f"import sys; from tests.standins import conduct; sys.exit(conduct('t', {str(folder / 'data')!r}, {arguments}))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "TRADER_SHM": str(folder / "shm"), "XDG_RUNTIME_DIR": str(folder / "rt")})

    def wait_for(self, what: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError, segment.SegmentError, IndexError):
                if found := what():
                    return found
            time.sleep(0.02)
        raise AssertionError("waited in vain; " + "\n".join(path.read_text() for path in self.folder.glob("data/runs/*/logs/*.log")))

    def processes(self) -> Any:
        return segment.Memory("t", writable=False).board.processes

    def pids(self) -> dict[str, int]:
        rows = self.processes()
        return {name: int(rows[role]["pid"]) for role, name in enumerate(l.ROLES)}

    def all_ready(self) -> dict[str, int]:
        def look() -> dict[str, int] | None:
            rows = self.processes()
            return self.pids() if all(int(rows[role]["state"]) == l.PROC_READY for role in range(len(l.ROLES))) else None

        found: dict[str, int] = self.wait_for(look)
        return found

    def forkserver(self) -> int:
        """Its pid, as the parent of a child."""
        return int(Path(f"/proc/{self.pids()['sniper']}/stat").read_text().rpartition(")")[2].split()[1])

    def run_dir(self) -> Path:
        return max(self.folder.glob("data/runs/*"))

    def text(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.run_dir() / name).read_text()
        return ""

    def end(self, timeout_s: float = 30.0) -> str:
        return self.process.communicate(timeout=timeout_s)[0]

    def left(self) -> list[str]:
        """Segments, name locks, sockets and role locks that are still there."""
        return [str(path) for where in ("shm", "rt") for path in (self.folder / where).rglob("*")
                if not path.is_dir() or path.name.startswith("trader-t")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "rt"))
    runs: list[Run] = []

    def start(arguments: str = "") -> Run:
        runs.append(Run(tmp_path, arguments))
        return runs[-1]

    yield start
    for run in runs:
        with contextlib.suppress(segment.SegmentError):
            for pid in run.pids().values():
                with contextlib.suppress(ProcessLookupError):
                    if pid:
                        os.kill(pid, signal.SIGKILL)
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


def test_a_run_starts_in_order_ends_in_reverse_and_leaves_nothing(launch: Callable[..., Run]) -> None:
    run = launch("for_s=0.5")
    pids = run.all_ready()
    server = run.forkserver()
    output = run.end()
    assert run.process.returncode == 0, output
    assert run.text("ended").split("\n")[:6] == [f"{name} 0" for name in STOP_ORDER]
    assert [line.split()[1] for line in run.text("events").splitlines() if line.startswith("ready")] == list(l.ROLES)
    assert "numba not loaded" in output
    assert run.left() == []
    run.wait_for(lambda: not any(alive(pid) for pid in [*pids.values(), server]), 5.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_stops_in_order(launch: Callable[..., Run], number: signal.Signals) -> None:
    run = launch()
    pids = run.all_ready()
    os.killpg(run.process.pid, number)
    output = run.end()
    assert run.process.returncode == 0, output
    assert "stopping in order" in output
    assert len(run.text("ended").splitlines()) == 6, "every child has stopped by itself"
    assert run.left() == []
    assert not any(map(alive, pids.values()))


def test_a_second_ctrl_c_stops_at_once_and_says_so(launch: Callable[..., Run]) -> None:
    run = launch("hang_strategist_ms=60000")
    pids = run.all_ready()
    (run.run_dir() / "hang-strategist").touch()
    time.sleep(0.1)
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    output = run.end()
    assert time.monotonic() - began < 3.0
    assert run.process.returncode == 130, output
    assert "Second Ctrl-C" in output
    assert run.left() == []
    assert not any(map(alive, pids.values()))


def test_flatten_at_end_asks_the_sniper_and_waits(launch: Callable[..., Run]) -> None:
    run = launch("for_s=0.3, positions=2")
    output = run.end()
    assert run.process.returncode == 0, output
    assert "could not be closed" not in output
    assert run.left() == []


@pytest.mark.parametrize("role", l.ROLES)
def test_a_killed_child_is_respawned_and_journaled(launch: Callable[..., Run], role: str) -> None:
    run = launch()
    pids = run.all_ready()
    os.kill(pids[role], signal.SIGKILL)
    run.wait_for(lambda: run.all_ready()[role] != pids[role], 5.0)
    run.wait_for(lambda: f"respawn {role} (pid {pids[role]}) was killed by SIGKILL" in run.text("events"), 5.0)
    assert {name: pid for name, pid in run.all_ready().items() if name != role} == {name: pid for name, pid in pids.items() if name != role}
    run.process.send_signal(signal.SIGTERM)
    assert f"restarts {{'{role}': 1}}" in run.end()
    assert run.left() == []


def test_a_hang_leaves_its_stack_in_the_log_and_is_replaced(launch: Callable[..., Run]) -> None:
    run = launch("hang_gateway_ms=500")
    pid = run.all_ready()["gateway"]
    (run.run_dir() / "hang-gateway").touch()
    run.wait_for(lambda: "hang gateway" in run.text("events"), 10.0)
    (run.run_dir() / "hang-gateway").unlink()
    run.wait_for(lambda: run.all_ready()["gateway"] != pid, 5.0)
    assert "Fatal Python error: Aborted" in run.text("logs/gateway.log")
    assert "standins.py" in run.text("logs/gateway.log")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()


def test_a_stopped_child_is_killed_and_replaced(launch: Callable[..., Run]) -> None:
    run = launch("hang_sniper_ms=500")
    pid = run.all_ready()["sniper"]
    os.kill(pid, signal.SIGSTOP)
    run.wait_for(lambda: run.all_ready()["sniper"] != pid, 10.0)
    assert "it was stopped" in run.wait_for(lambda: run.text("events") if "respawn sniper" in run.text("events") else "", 5.0)
    run.process.send_signal(signal.SIGTERM)
    assert run.end()


def test_a_child_that_ignores_the_stop_and_sigterm_is_ended_after_its_grace_and_the_others_stop_in_order(launch: Callable[..., Run]) -> None:
    run = launch("hang_feed_ms=60000, stop_grace_s=1")
    pids = run.all_ready()
    (run.run_dir() / "deaf-feed").touch()
    run.wait_for(lambda: "feed is deaf" in run.text("logs/feed.log"))
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    output = run.end()
    assert run.process.returncode == 0, output
    assert 1.0 < time.monotonic() - began < 15.0
    assert "feed has not drained within 1 s" in run.text("events") + run.text("logs/watchdog.log")
    assert not any(alive(pid) for pid in pids.values())
    assert {"sniper 0", "gateway 0", "recorder 0"} <= set(run.text("ended").split("\n"))
    assert run.left() == []


def test_a_storm_of_restarts_is_a_crash_loop_and_when_it_is_over_all_run_with_nothing_left_of_it(launch: Callable[..., Run]) -> None:
    run = launch("restart_intensity=3, restart_window_s=4, backoff_first_ms=10, backoff_most_ms=100")
    run.all_ready()
    run.wait_for(lambda: "strategist is ready" in run.text("events"))  # the last of them: up to then a crash loop ends the run
    open_before = len(list(Path(f"/proc/{run.process.pid}/fd").iterdir()))
    killed: set[int] = set()
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        for pid in set(run.pids().values()) - killed - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    assert len(killed) > 30, "each role more than its intensity"
    assert "safe mode" in run.wait_for(lambda: run.text("events") if "safe_mode safe mode" in run.text("events") else "", 10.0)
    run.wait_for(lambda: not set(run.all_ready().values()) & killed, 20.0)
    run.wait_for(lambda: "safe mode ends" in run.text("events"), 20.0)
    assert not any(alive(pid) for pid in killed)
    assert len(list(Path(f"/proc/{run.process.pid}/fd").iterdir())) <= open_before + 3, "no descriptor of a dead child is kept"
    run.process.send_signal(signal.SIGTERM)
    output = run.end()
    assert run.process.returncode == 0, output
    assert run.left() == []


def test_a_dead_forkserver_is_replaced_and_the_three_survive_it(launch: Callable[..., Run]) -> None:
    run = launch()
    pids = run.all_ready()
    os.kill(run.forkserver(), signal.SIGKILL)
    replaced = {"feed", "reflection", "strategist"}  # they die with their parent
    run.wait_for(lambda: all(run.all_ready()[name] != pids[name] for name in replaced), 10.0)
    assert all(run.pids()[name] == pids[name] for name in ("recorder", "gateway", "sniper"))
    os.kill(pids["sniper"], signal.SIGKILL)  # an orphan that the watchdog knows by its pidfd alone
    run.wait_for(lambda: run.all_ready()["sniper"] != pids["sniper"], 5.0)
    run.process.send_signal(signal.SIGTERM)
    output = run.end()
    assert run.process.returncode == 0, output
    assert run.left() == []


def test_a_killed_watchdog_leaves_nothing_and_the_three_stop_in_order(launch: Callable[..., Run]) -> None:
    run = launch()
    pids, server = run.all_ready(), run.forkserver()
    run.process.kill()
    run.wait_for(lambda: not any(alive(pid) for pid in [*pids.values(), server]), 10.0)
    assert run.text("ended").split("\n")[:3] == ["sniper 0", "gateway 0", "recorder 0"]
    assert run.left() == []


def test_a_hung_orphan_does_not_outlive_its_watchdog_by_ten_seconds(launch: Callable[..., Run]) -> None:
    run = launch("hang_sniper_ms=60000")
    pids = run.all_ready()
    (run.run_dir() / "hang-sniper").touch()
    time.sleep(0.1)
    run.process.kill()
    run.wait_for(lambda: not any(map(alive, pids.values())), 10.0)
    assert run.text("ended").split("\n")[:2] == ["gateway 0", "recorder 0"]
    assert run.left() == []


def test_a_start_right_after_a_killed_watchdog_waits_for_its_orphans(launch: Callable[..., Run]) -> None:
    first = launch()
    pids = first.all_ready()
    first.process.kill()
    second = launch("for_s=0.3")
    output = second.end()
    assert second.process.returncode == 0, output
    assert not any(map(alive, pids.values()))
    assert second.left() == []


def test_a_second_instance_of_the_name_is_refused(launch: Callable[..., Run]) -> None:
    first = launch()
    pids = first.all_ready()
    second = launch()
    assert "BlockingIOError" in second.end()
    assert all(map(alive, pids.values())), "the first is not disturbed"
    first.process.send_signal(signal.SIGTERM)
    first.end()


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("cores", "strategy"), [(1, l.WAIT_ADAPTIVE), (2, l.WAIT_ADAPTIVE), (3, l.WAIT_ADAPTIVE), (64, l.WAIT_SPIN)])
def test_only_a_machine_with_many_cores_spins_unless_told(cores: int, strategy: int) -> None:
    assert instance.choose_wait_strategy("auto", cores) == strategy
    assert instance.choose_wait_strategy("spin", cores) == l.WAIT_SPIN
    assert instance.choose_wait_strategy("futex", cores) == l.WAIT_FUTEX


def test_an_unknown_wait_strategy_is_refused_with_the_choices() -> None:
    with pytest.raises(LaunchError, match=r"hotpath\.wait_strategy: .* none of auto, spin, futex, adaptive"):
        instance.choose_wait_strategy("busy")
