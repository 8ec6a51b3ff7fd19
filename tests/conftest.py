"""What all tests share: real market data (found, or skipped with the reason), an instance's memory, a short folder for sockets."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc import layout as l
from ipc import segment

ROOT = Path(__file__).resolve().parent.parent
#: where real market data is: TRADER_REAL_DATA, else beside the clone
REAL_DATA = Path(os.environ.get("TRADER_REAL_DATA") or ROOT.parent / "shared" / "data")
#: with this set, a test with real data that is skipped has failed
REQUIRED = bool(os.environ.get("TRADER_REQUIRE_REAL_DATA"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs real data where there is none."""
    if REAL_DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason=f"no real market data in {REAL_DATA}; name its folder in TRADER_REAL_DATA"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped real-data test fails where real data is required."""
    report = yield
    if REQUIRED and report.skipped and item.get_closest_marker("real_data"):
        report.outcome = "failed"
        report.longrepr = f"skipped although TRADER_REQUIRE_REAL_DATA is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real market data; mark the test `real_data` too."""
    return REAL_DATA


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Small segments of an instance of its own, rings ready, in the test's folder."""
    monkeypatch.setenv("TRADER_SHM", str(tmp_path / "shm"))
    with throw_away_memory() as made:
        yield made


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Any]:
    """A paper instance of its own that is not started yet; nothing of it outlives the test."""
    from tests.running import Running  # with all that trader-ctl needs, which most tests do not

    made = Running(tmp_path)
    yield made
    made.end()


@contextmanager
def throw_away_memory(conditions: int = 64) -> Iterator[Any]:
    """Small segments of an instance of its own, rings ready; removed at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    segment.create_all(name, ticks=1024, instruments=8, conditions=conditions)
    made = segment.Memory(name)
    for region, slots in ((made.ticks, 1024), (made.orders, l.RING_SLOTS), (made.reports, l.RING_SLOTS)):
        region.ring[0]["capacity"], region.ring[0]["gated"] = slots, 1
    try:
        yield made
    finally:  # also where the test inside failed: /dev/shm is memory
        segment.remove(name)


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sockets with a short path, as a socket's path is bounded."""
    folder = Path(tempfile.mkdtemp(prefix="tr-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
