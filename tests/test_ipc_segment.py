"""Segments: made whole or not at all, attached only where every byte fits, gone when removed; a full /dev/shm is an error with a remedy."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipc import layout as l
from ipc import segment
from ipc.segment import Memory, Segment, SegmentError

ROOT = Path(__file__).resolve().parent.parent
#: creates an instance in TRADER_SHM and prints what it raised; with a number, no file may grow beyond that many bytes
CREATE = """
import resource, sys
from ipc import segment
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    segment.create_all("full", ticks=1024, instruments=8, conditions=64)
except segment.SegmentError as error:
    print(error)
    sys.exit(3)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where instances of this test put their segments."""
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    return tmp_path


def create(instance: str = "one", ticks: int = 64, instruments: int = 2, conditions: int = 8) -> Path:
    segment.create_all(instance, ticks=ticks, instruments=instruments, conditions=conditions)
    return segment.instance_dir(instance)


# ── create, attach, remove ───────────────────────────────────────────────────────────────────────────────────────────
def test_an_instance_is_a_private_folder_of_zeroed_files_with_their_space_reserved(root: Path) -> None:
    folder = create()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    regions = l.segments(64, 2, 8)
    assert {path.name for path in folder.iterdir()} == set(regions)
    for path in folder.iterdir():
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_size == l.HEADER_BYTES + sum(region.nbytes for region in regions[path.name])
        assert status.st_blocks * 512 >= status.st_size, "a hole is a SIGBUS that waits"
        assert not any(path.read_bytes()[l.HEADER_BYTES:])


def test_what_one_process_writes_another_reads(root: Path) -> None:
    create()
    Memory("one").orders.slots[5]["lots"] = 77
    code = "from ipc.segment import Memory; print(Memory('one').orders.slots[5]['lots'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "77"


def test_every_region_has_its_own_bytes_and_begins_at_a_cache_line(root: Path) -> None:
    create()
    memory = Memory("one")
    for name, regions in l.segments(64, 2, 8).items():
        base = np.frombuffer(Segment("one", name).memory, np.uint8).ctypes.data
        for region in regions:
            array = getattr(getattr(memory, name), region.name)
            assert (array.dtype, len(array)) == (region.dtype, region.count)
            assert (array.ctypes.data % 4096 - l.HEADER_BYTES - base % 4096) % l.CACHE_LINE == 0
            array.view(np.uint8)[:] = 0xAB
    for name, regions in l.segments(64, 2, 8).items():
        written = segment.instance_dir("one").joinpath(name).read_bytes()[l.HEADER_BYTES:]
        assert written.count(0xAB) == sum(region.dtype.itemsize * region.count for region in regions), "two regions overlap"


def test_capacities_come_from_the_file_and_not_from_the_one_who_attaches(root: Path) -> None:
    create(ticks=256, instruments=3, conditions=16)
    memory = Memory("one")
    assert memory.capacities == (256, 3, 16)
    assert (len(memory.ticks.slots), len(memory.ticks.quotes), len(memory.conditions.thresholds)) == (256, 3, 32)


def test_unknown_names_are_attribute_errors(root: Path) -> None:
    create()
    memory = Memory("one")
    with pytest.raises(AttributeError, match="tickets"):
        _ = memory.tickets
    with pytest.raises(AttributeError, match="slotts"):
        _ = memory.ticks.slotts


def test_what_is_attached_to_look_cannot_be_written(root: Path) -> None:
    create()
    looker = Memory("one", writable=False)
    with pytest.raises(ValueError, match="read-only"):
        looker.board.modes[0]["mode"] = 1


def test_creating_again_starts_from_zeroes_and_leaves_an_old_mapping_its_own_memory(root: Path) -> None:
    create()
    old = Memory("one")
    old.ticks.slots[0]["price"] = 5
    create(ticks=128)
    new = Memory("one")
    assert new.capacities[0] == 128
    assert new.ticks.slots[0]["price"] == 0
    new.ticks.slots[0]["price"] = 6
    assert old.ticks.slots[0]["price"] == 5


def test_removing_unlinks_everything_and_whoever_has_it_mapped_goes_on(root: Path) -> None:
    folder = create()
    memory = Memory("one")
    segment.remove("one")
    assert not folder.exists()
    memory.reports.slots[1]["fee"] = 3
    assert memory.reports.slots[1]["fee"] == 3
    segment.remove("one")


def test_the_transactional_lines_are_the_regions_themselves(root: Path) -> None:
    create()
    memory = Memory("one")
    lines, bases = memory.transactional()
    assert set(bases) == set(l.TRANSACTIONAL)
    memory.sniper.refusals[:] = -1
    memory.sniper.outbox.view(np.uint8)[:] = 0xFF
    assert not lines["words"].any(), "a line beyond the transaction"
    for name, first in bases.items():
        getattr(memory.sniper, name).view(np.uint8)[:] = 1
        assert lines["words"][first].tolist() == [0x0101010101010101] * 8
    assert lines["words"].all(), "a line that no region owns"


# ── what does not fit ────────────────────────────────────────────────────────────────────────────────────────────────
def patch(at: int, data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
    return write


@pytest.mark.parametrize(("spoil", "text"), [
    (patch(0, b"NOTOURSM"), "do not fit this program"),
    (patch(8, struct.pack("<q", l.LAYOUT_VERSION + 1)), f"version {l.LAYOUT_VERSION + 1}"),
    (patch(8, struct.pack("<q", 0)), "version 0"),
    (patch(16, struct.pack("<q", 1)), "size 1 do not fit"),
    (patch(24, struct.pack("<q", 128)), "layout is another program's"),
    (patch(24, struct.pack("<q", -1)), "layout is another program's"),
    (patch(56, b"\0" * 32), "layout is another program's"),
    (lambda path: os.truncate(path, path.stat().st_size - 64), "do not fit this program"),
    (lambda path: os.truncate(path, path.stat().st_size + 64), "do not fit this program"),
    (lambda path: os.truncate(path, 100), "100 bytes are too few"),
    (lambda path: os.truncate(path, 0), "0 bytes are too few"),
], ids=["magic", "version", "unfinished", "stated size", "capacity", "negative capacity", "hash", "shorter", "longer", "no header", "empty"])
@pytest.mark.parametrize("name", ["board", "orders"])
def test_a_file_that_does_not_fit_is_refused_with_its_path_and_the_remedy(root: Path, name: str, spoil: Callable[[Path], None], text: str) -> None:
    path = create() / name
    spoil(path)
    with pytest.raises(SegmentError) as raised:
        Memory("one")
    assert str(raised.value).startswith(f"{path}: ")
    assert text in str(raised.value)
    assert str(raised.value).endswith("stop the instance and start it anew")


def test_another_programs_layout_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create()
    assert l.TABLE.names is not None
    renamed = np.dtype([("epoch" if name == "generation" else name, "<i8") for name in l.TABLE.names])
    monkeypatch.setattr(l, "TABLE", renamed)
    with pytest.raises(SegmentError, match="layout is another program's; stop the instance and start it anew"):
        Memory("one")


def test_the_layout_hash_tells_capacities_and_versions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [segment.layout_hash(*capacities) for capacities in ((64, 2, 8), (128, 2, 8), (64, 3, 8), (64, 2, 16), (64, 2, 8))]
    assert len(set(hashes)) == 4
    assert hashes[0] == hashes[-1]
    monkeypatch.setattr(l, "LAYOUT_VERSION", l.LAYOUT_VERSION + 1)
    assert segment.layout_hash(64, 2, 8) not in hashes


@pytest.mark.parametrize("gone", ["board", "gateway", ""])
def test_attaching_to_what_is_not_there_asks_whether_the_instance_runs(root: Path, gone: str) -> None:
    folder = create()
    if gone:
        (folder / gone).unlink()
    else:
        segment.remove("one")
    with pytest.raises(SegmentError, match=rf"{folder}/{gone or 'board'}: No such file or directory; is instance 'one' running\?"):
        Memory("one")


# ── no room ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def is_tmpfs(path: Path) -> bool:
    mounts = Path("/proc/mounts")
    return mounts.is_file() and any(line.split()[1:3] == [str(path), "tmpfs"] for line in mounts.read_text().splitlines())


@pytest.fixture
def oversized(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """(instance, tick slots that /dev/shm could never hold: tmpfs refuses them at once, without filling anything)."""
    if not is_tmpfs(Path("/dev/shm")):
        pytest.skip("/dev/shm is no tmpfs of its own")
    monkeypatch.delenv("TRADER_SHM", raising=False)
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name, 1 << (shutil.disk_usage("/dev/shm").total // 64).bit_length()
    segment.remove(name)


def test_an_instance_that_dev_shm_cannot_hold_is_refused_with_the_remedy_and_leaves_nothing(oversized: tuple[str, int]) -> None:
    instance, ticks = oversized
    with pytest.raises(SegmentError) as raised:
        create(instance, ticks=ticks)
    text = str(raised.value)
    assert text.startswith(f"/dev/shm/trader-{instance}/ticks: ")
    for part in ("bytes of shared memory are needed", "mount -o remount,size=", " /dev/shm,", "--shm-size", "hotpath.tick_slots"):
        assert part in text
    assert not segment.instance_dir(instance).exists()


def test_a_full_shared_memory_is_refused_with_the_remedy_and_leaves_nothing(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    # a small tmpfs in a mount namespace of its own, which ends with the process
    script = ('mount -t tmpfs -o size=512k tmpfs "$0" || exit 9; '
              '"$1" -c "$2"; code=$?; ls -A "$0"; exit $((code + 20))')
    done = subprocess.run([unshare, "--mount", *user, "sh", "-c", script, str(tmp_path), sys.executable, CREATE], cwd=ROOT, text=True,
                          capture_output=True, check=False, timeout=30, env={**os.environ, "TRADER_SHM": str(tmp_path)})
    if done.returncode in (1, 9):
        pytest.skip(f"no mount in a namespace here: {done.stderr.strip()}")
    assert done.returncode == 23, done.stderr
    text, *left = done.stdout.splitlines()
    assert text.startswith(f"{tmp_path}/trader-full/")
    assert "are free; enlarge it" in text
    assert f"mount -o remount,size=256M {tmp_path}," in text
    assert left == []


def test_a_limit_on_file_sizes_is_an_error_and_leaves_nothing(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CREATE, "65536"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"{root}/trader-full/")
    assert "File too large" in done.stdout
    assert list(root.iterdir()) == []


def test_where_segments_go_can_be_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert segment.shared_root() == root
    assert segment.instance_dir("x") == root / "trader-x"
    monkeypatch.delenv("TRADER_SHM")
    if sys.platform == "linux":
        assert segment.instance_dir("x") == Path("/dev/shm/trader-x")
    here: Any = segment.shared_root()
    assert here.is_dir()
