"""What runs for long beside the product ends in order when it is told to: SIGTERM ends everything that it has started, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from benchmarks.frame import Ended, surely
from benchmarks.paper import end_marked, marked
from tests.conftest import ROOT


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("line", "verdict"), [
    (("tests.storm", "--kills", "50"), "BROKEN: the storm could not go on; 0 of 50 kills were done (seed 1)"),
    (("tests.soak", "--hours", "1"), "BROKEN: ended by SIGTERM before its time"),
    (("benchmarks", "memory", "--quick"), "ended by SIGTERM at [1/1] memory: 0 of 1 are done, and nothing is reported")],
                         ids=["storm", "soak", "benchmarks"])
def test_a_sigterm_ends_everything_that_was_started_and_tells_it(line: tuple[str, ...], verdict: str, tmp_path: Path) -> None:
    shm, mark = tmp_path / "shm", f"TRADER_TEST_END={uuid.uuid4().hex}"
    shm.mkdir()
    with tempfile.TemporaryDirectory(prefix="tr-") as sockets:
        name, _, value = mark.partition("=")
        process = subprocess.Popen([sys.executable, "-m", *line], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "TRADER_SHM": str(shm), "XDG_RUNTIME_DIR": sockets, "TMPDIR": str(tmp_path), name: value})
        try:
            end = time.monotonic() + 120
            while not list(shm.rglob("sniper")) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            assert len(marked(mark)) > 1, "an instance has begun"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=100)
            assert marked(mark) == []
        finally:
            end_marked(mark)
        assert process.returncode == 1, out + err
        assert out.splitlines()[-1] == verdict, out + err
        assert list(shm.iterdir()) == []
        assert [path for path in Path(sockets).rglob("*") if path.is_socket()] == []


def test_what_clears_up_begins_again_where_the_end_comes_just_then() -> None:
    calls = []

    def clear_up() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Ended(signal.SIGTERM)

    with pytest.raises(Ended) as ended:
        surely(clear_up)
    assert (len(calls), ended.value.code, ended.value.text) == (2, 1, "ended by SIGTERM")


@pytest.mark.parametrize("flags", [("--hours", "0"), ("--speed", "-1"), ("--speed", "nan"), ("--hours", "inf")])
def test_a_soak_of_no_time_is_refused_with_the_flags_name(flags: tuple[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak", *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"argument {flags[0]}: " in done.stderr
