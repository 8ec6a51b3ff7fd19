"""Bad input at the start through the real commands, one table: fault → exit code, message with the field or path and the remedy, nothing changed.

What is wrong later is beside it: damaged recordings, bad strategies, bad messages, no room (test_system_bad_*.py, test_system_no_room.py).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.running import BIN, BUSY, Running, until

#: 2024-01-01 00:00 UTC, and 16 months behind it
MONDAY, LATER = 1_704_067_200_000_000_000, 1_746_057_600_000_000_000
SECOND = 1_000_000_000


def quote(at_ns: int, bid: float, ask: float) -> str:
    return f'{at_ns} {{"stream":"btcusdt@bookTicker","data":{{"u":1,"s":"BTCUSDT","b":"{bid}","B":"5.0","a":"{ask}","A":"5.0"}}}}'


def trade(at_ns: int, price: str, size: str = "0.5") -> str:
    return f'{at_ns} {{"stream":"btcusdt@trade","data":{{"e":"trade","s":"BTCUSDT","t":1,"p":"{price}","q":"{size}","T":1,"m":false}}}}'


def recording(path: Path, *faults: str, start_ns: int = MONDAY, seconds: int = 20, price: float = 42_000.0) -> Path:
    """Quotes and trades a tenth of a second apart, with faults in their middle."""
    lines = []
    for tenth in range(10 * seconds):
        at = start_ns + tenth * SECOND // 10
        lines += [quote(at, price, price + 0.01), trade(at + 1, f"{price + 0.01:.2f}")]
        if tenth == 5 * seconds:
            lines += faults
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return path


class Fault(NamedTuple):
    """How it comes about, what the command exits with, what it says."""

    arguments: Callable[[Path], list[str]]
    exit_code: int
    says: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


def config(text: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "bad.toml").write_text(text)
        return ["paper", "--config", str(folder / "bad.toml")]

    return write


def file(name: str, data: bytes | None) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        if data is not None:
            (folder / name).write_bytes(data)
        return ["replay", str(folder / name), "--speed", "max"]

    return write


def strategy(text: str, name: str = "Mine") -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "mine.py").write_text(text)
        return ["paper", "--strategy", f"{folder / 'mine.py'}:{name}"]

    return write


def cut(folder: Path) -> list[str]:
    path = recording(folder / "spot_btcusdt_cut.gz", seconds=60)
    path.write_bytes(path.read_bytes()[:-200])
    return ["replay", str(path), "--speed", "max"]


def damaged(folder: Path) -> list[str]:
    path = recording(folder / "spot_btcusdt_damaged.gz", seconds=60)
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # the checksum
    path.write_bytes(bytes(data))
    return ["replay", str(path), "--speed", "max"]


AT_START = {
    "unknown symbol": Fault(lambda _: ["paper", "--symbols", "BTC/EUR"], 2, ("BTC/EUR", "choose of")),
    "symbol that no file holds": Fault(
        lambda folder: ["replay", str(recording(folder / "spot_btcusdt.gz")), "--symbols", "ETH/USDT"], 2,
        ("--symbols: ETH/USDT", "they hold BTC/USDT")),
    "missing file": Fault(file("spot_btcusdt_gone.gz", None), 2, ("spot_btcusdt_gone.gz: no such file", "name a recorded file")),
    "empty file": Fault(file("spot_btcusdt_empty.gz", b""), 2, ("spot_btcusdt_empty.gz: is empty", "fetch the file again")),
    "file of noise": Fault(file("spot_btcusdt_noise.gz", bytes(range(1, 256)) * 40), 2, ("spot_btcusdt_noise.gz", "name raw frames")),
    "file without a symbol": Fault(lambda folder: ["replay", str(recording(folder / "ticks.gz"))], 2, ("ticks.gz", "=BTC/USDT")),
    "truncated file": Fault(cut, 1, ("spot_btcusdt_cut.gz: the gzip data end in the middle", "fetch the file again")),
    "damaged file": Fault(damaged, 1, ("spot_btcusdt_damaged.gz", "fetch the file again")),
    "misspelt key": Fault(config("[limits]\nmax_open_position = 3\n"), 78, ("limits.max_open_position", "max_open_positions")),
    "value of a wrong type": Fault(config("[run]\nseed = 'x'\n"), 78, ("run.seed",)),
    "value out of bounds": Fault(config("[limits]\nmin_confidence = 1.5\n"), 78, ("limits.min_confidence",)),
    "name of freqtrade": Fault(config("stoploss = -0.10\nmax_open_trades = 3\n"), 78, ("stoploss", "strategy.stop_bps = 1000", "max_open_trades",
                                                                                      "limits.max_open_positions = 3")),
    "no TOML": Fault(config("[limits\n"), 78, ("bad.toml", "line 1")),
    "missing configuration": Fault(lambda folder: ["paper", "--config", str(folder / "gone.toml")], 78, ("gone.toml",)),
    "nonsense in the environment": Fault(lambda _: ["paper"], 78, ("TRADER_LIMITS__MAX_OPEN_POSITIONS", "whole number"),
                                         (("TRADER_LIMITS__MAX_OPEN_POSITIONS", "many"),)),
    "misspelt key in the environment": Fault(lambda _: ["paper"], 78, ("TRADER_LIMITS__MAX_OPEN_POSITION", "max_open_positions"),
                                             (("TRADER_LIMITS__MAX_OPEN_POSITION", "3"),)),
    "missing strategy": Fault(lambda _: ["paper", "--strategy", "nowhere.py:Mine"], 2, ("nowhere.py", "there is no file")),
    "unknown strategy": Fault(lambda _: ["paper", "--strategy", "astrology"], 2, ("astrology", "momentum")),
    "strategy that does not compile": Fault(strategy("class Mine\n"), 2, ("--strategy", "mine.py, line 1", "mend that line")),
    "strategy file without the class": Fault(strategy("class Yours: pass\n"), 2, ("--strategy", "no class Mine", "Yours")),
    "strategy without plan": Fault(strategy("class Mine: pass\n"), 5, ("strategist", "plan")),
    "no time": Fault(lambda _: ["paper", "--for", "soon"], 2, ("--for 'soon'", "write 60s, 5m or 1h")),
    "files for paper": Fault(lambda _: ["paper", "x.gz"], 2, ("paper takes no files", "trader-launch replay x.gz")),
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A paper instance with a past, at rest."""
    made = Running(tmp_path_factory.mktemp("grown"))
    made.start()
    until(lambda: made.ctl("positions")[1]["rows"], 20, "an open position")
    assert made.stop() == 0
    yield made
    made.end()


def fingerprint(running: Running) -> tuple[Any, ...]:
    """What must not change: everything journaled but events, the last book, the ledger, the identity."""
    journal = running.journal()
    try:
        state = running.folder / "instances" / running.name
        return (journal.cursors(), journal.last_snapshot(), len(list(journal.plans())), (state / "instance.json").read_bytes(),
                json.loads((state / "instance.json").read_bytes())["number"])
    finally:
        journal.close()


def launch(running: Running, arguments: list[str], environment: dict[str, str] | None = None, limit: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "trader-launch"), *arguments, "--instance", running.name, "--data-dir", str(running.folder), "--headless"], text=True,
        env={**os.environ, **(environment or {})}, capture_output=True, timeout=60, check=False, cwd=running.folder,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None)


@pytest.mark.parametrize("name", AT_START)
def test_a_fault_at_the_start_has_its_exit_code_and_remedy_and_changes_nothing(name: str, grown: Running, tmp_path: Path) -> None:
    fault, before = AT_START[name], fingerprint(grown)
    done = launch(grown, fault.arguments(tmp_path), dict(fault.environment))
    assert done.returncode == fault.exit_code, done.stdout[-500:] + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("trader-launch:")]
    assert [text for text in fault.says if text not in "\n".join(said)] == [], done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if fault.exit_code != 5:  # a run that began and ended has its records
        assert fingerprint(grown) == before


def test_a_full_shared_memory_is_refused_with_the_remedy(grown: Running, tmp_path: Path) -> None:
    before = fingerprint(grown)
    (tmp_path / "shm").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", str(tmp_path / "shm")], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small /dev/shm needs root")
    try:
        done = launch(grown, ["paper"], {"TRADER_SHM": str(tmp_path / "shm")})
        assert done.returncode == 4
        assert "bytes of shared memory are needed" in done.stderr
        assert "mount -o remount,size=" in done.stderr
        assert list((tmp_path / "shm").iterdir()) == [], "nothing is left"
    finally:
        subprocess.run(["umount", str(tmp_path / "shm")], check=True)
    assert fingerprint(grown) == before


#: one damaged record, the count it ends in, and what is said of it
IN_FILES = {
    "no JSON": (f"{MONDAY + 10 * SECOND} nonsense", "frames_bad 1", "nonsense"),
    "a field is missing": (f'{MONDAY + 10 * SECOND} {{"stream":"btcusdt@trade","data":{{"s":"BTCUSDT","q":"1"}}}}', "frames_bad 1", "`p`"),
    "negative price": (trade(MONDAY + 10 * SECOND, "-1.00"), "bad_price 1", "price '-1.00' is not a positive multiple"),
    "price of zero": (trade(MONDAY + 10 * SECOND, "0.00"), "bad_price 1", "price '0.00'"),
    "price that is no number": (trade(MONDAY + 10 * SECOND, "NaN"), "bad_price 1", "price 'NaN'"),
    "crossed quote": (quote(MONDAY + 10 * SECOND, 42_001.0, 42_000.0), "crossed 1", "bid 42001.0 is above ask 42000.0"),
    "time that goes back": (trade(MONDAY + 2 * SECOND, "42000.00"), "time_back 1", "taken as that"),
}


def test_damaged_records_are_counted_told_and_passed_over(tmp_path: Path) -> None:
    faults = [line for line, _, _ in IN_FILES.values()]
    running = Running(tmp_path)
    running.start("--strategy", "mean_reversion", str(recording(tmp_path / "spot_btcusdt.gz", *faults)), mode="replay", speed="max", wait=False)
    assert running.process is not None
    assert running.process.wait(60) == 0, running.text()
    summary = running.summary()
    told = " ".join(summary["data_fault"])
    # two bad frames and three bad prices: each kind is counted, and its first one told
    for count in ("frames_bad 2", "bad_price 3", "crossed 1", "time_back 1"):
        assert count in told
    for text in ("nonsense", "price '-1.00' is not a positive multiple", "bid 42001.0 is above ask 42000.0", "taken as that"):
        assert text in told
    assert "spot_btcusdt.gz (BTC/USDT)" in told
    assert summary["reconciled"] is True
    # 200 quotes, 200 trades, the trade whose time was clamped, and a clock tick at each tenth of a second
    assert summary["ticks_processed"] == summary["ticks_published"] == 200 + 200 + 1 + 200


@pytest.mark.slow
def test_a_full_disk_stops_entries_and_what_is_to_be_closed_is_closed_once_and_trading_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48M", "none", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    running = Running(disk, BUSY + "[safety]\ncooldown_s = 1\n")
    ballast = disk / "ballast"
    try:
        running.start()
        until(lambda: running.ctl("positions")[1]["rows"], 20, "an open position")
        with contextlib.suppress(OSError), ballast.open("wb") as stream:
            while True:
                stream.write(bytes(1 << 16))
                stream.flush()
        status = until(lambda: (now := running.status())["trading"] == "safe" and now, 60, "safe mode on a full disk")
        assert "journal" in status["trading_cause"] or "paper ledger" in status["trading_cause"]
        until(lambda: any("cannot be written" in problem or "cannot write" in problem for problem in running.ctl("health")[1]["data"]["problems"]),
              60, "health names it, too; now and then a write finds a freed page")
        # the ledger is on the full disk, too: an exit that it cannot keep waits (tests/test_system_no_room.py has either disk alone)
        closing = [row["id"] for row in running.ctl("positions")[1]["rows"] if row["state"] in ("open", "monitoring")]
        for one in closing:
            running.ctl("close", one)
        ballast.unlink()
        until(lambda: not {row["id"] for row in running.ctl("positions")[1]["rows"]} & set(closing), 20, "what was to be closed is closed")
        until(lambda: running.status()["trading"] == "running", 20, "trading goes on")
        fills = running.status()["trades_closed"]
        until(lambda: running.status()["trades_closed"] > fills, 20, "new trades")
        assert running.stop() == 0, running.text()
        assert running.summary()["reconciled"] is True
        assert running.faults() == []
    finally:
        running.end()
        time.sleep(0.2)
        subprocess.run(["umount", "-l", str(disk)], check=False)
