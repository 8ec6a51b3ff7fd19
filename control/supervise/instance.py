"""An instance on disk and in shared memory: its name's lock, its folders, its segments, what it resumes.

```
DATA_DIR/instances/NAME/           journal/ paper/ knowledge/ instance.json     a paper instance's state: it resumes
DATA_DIR/archive/NAME-<time>/      what --fresh put aside
DATA_DIR/runs/RUN_ID/              logs/ summary.json fills.bin                 (replay: state/ too, always empty at first)
/dev/shm/trader-NAME/              segments; removed at the end
<runtime>/trader-<uid>/NAME/       sockets, role locks; removed at the end
```
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from control.supervise import sweep
from hotpath.durable import replace_file, sync_folders
from ipc import bus, segment
from ipc import layout as l

#: exit codes of trader-launch
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BUSY, EXIT_NO_ROOM, EXIT_ROLE_FAILED, EXIT_NOT_RECONCILED = range(7)
#: and of a second Ctrl-C
EXIT_KILLED = 130
#: seconds that the processes of a former run get to end
LEFTOVER_PATIENCE_S = 10.0
#: free bytes of its disk without which no run begins: logs, and the first pages of journal, ledger and knowledge
LEAST_ROOM_BYTES = 4 << 20
#: who reads which ring; each has its row active from the creation on, so that nothing is lost before it is up
READERS = {"ticks": (l.SNIPER, l.GATEWAY, l.STRATEGIST), "orders": (l.GATEWAY, l.RECORDER), "reports": (l.SNIPER, l.RECORDER)}
#: file beside the segments of a paper run: where its state is
_STATE = "state_dir"
_MINUTE_NS = 60_000_000_000
_SECOND_NS = 1_000_000_000


class LaunchError(Exception):
    """The run cannot begin; the text says what is wrong and what to do."""

    def __init__(self, text: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Identity(Struct, kw_only=True):
    """instance.json: what a paper instance keeps beside its LMDB environments."""

    number: int
    event_ns: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Places:
    """Where everything of a run is."""

    instance: str
    run_id: str
    data_dir: Path
    state_dir: Path
    run_dir: Path
    socket_dir: Path


def new_run_id() -> str:
    """UTC time and four random digits: sorts by time, never twice."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(2)


def require_room(data_dir: Path) -> None:
    """Refuse a disk that is (nearly) full before anything is written there. Raises LaunchError."""
    folder = next(one for one in (data_dir, *data_dir.parents) if one.exists())
    try:
        room = os.statvfs(folder)
    except OSError:
        return  # making the folders tells it better
    if room.f_blocks and room.f_bavail * room.f_frsize < LEAST_ROOM_BYTES:
        raise LaunchError(f"{data_dir}: its disk has {room.f_bavail * room.f_frsize >> 10} KB left, {LEAST_ROOM_BYTES >> 10} KB are needed; "
                          "free space there, or name another folder with --data-dir", EXIT_NO_ROOM)


def make_places(data_dir: Path, instance: str, mode: str) -> Places:
    """Make the folders of a new run. A replay's state is its own; a paper run's is the instance's."""
    run_id = new_run_id()
    run_dir = data_dir / "runs" / run_id
    state_dir = data_dir / "instances" / instance if mode == "paper" else run_dir / "state"
    try:
        for folder in (run_dir / "logs", state_dir):
            folder.mkdir(parents=True, exist_ok=True)
        sockets = bus.make_socket_dir(instance)
    except OSError as error:
        raise LaunchError(f"{error.filename}: {error.strerror}; name a writable folder with --data-dir", EXIT_NO_ROOM) from error
    except ValueError as error:
        raise LaunchError(str(error)) from error
    return Places(instance, run_id, data_dir, state_dir, run_dir, sockets)


def archive(data_dir: Path, instance: str) -> Path | None:
    """Put a paper instance's state aside (--fresh); gives its new place, None where there was none."""
    state = data_dir / "instances" / instance
    if not state.is_dir():
        return None
    target = data_dir / "archive" / f"{instance}-{new_run_id()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    state.rename(target)
    for folder in (state.parent, target.parent):
        sync_folders(folder)
    return target


def copy_knowledge(source: Path, state_dir: Path) -> None:
    """Begin with the knowledge of an instance or a run (--knowledge FROM). Raises LaunchError where there is none."""
    from control.learn.adoption import adopt
    from control.learn.knowledge import KnowledgeError

    for candidate in (source / "knowledge", source / "state" / "knowledge", source):
        if (candidate / "data.mdb").is_file():
            try:
                adopt(candidate, state_dir / "knowledge")
            except KnowledgeError as error:
                raise LaunchError(f"--knowledge: {error}") from error
            return
    raise LaunchError(f"{source}: holds no knowledge store; name a folder under instances/ or runs/")


# ── identity and time ────────────────────────────────────────────────────────────────────────────────────────────────
def replay_number(seed: int) -> int:
    """Number of an instance whose run can be made again, a backtest's too: a function of the seed, so that order ids repeat."""
    return int.from_bytes(hashlib.sha256(f"replay {seed}".encode()).digest()[:3], "big")


def identify(places: Places, mode: str, seed: int) -> Identity:
    """The instance's number (24 bits, part of every order id) and where its event time stopped.

    A replay's number is a function of the seed, so that order ids repeat; a paper instance's is random once, then kept.
    """
    path = places.state_dir / "instance.json"
    if mode != "paper":
        return Identity(number=replay_number(seed), seed=seed)
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError) as error:
        last = journal_start(places.state_dir)  # it may be torn where power failed, or be gone; the journal has it, too
        if last is None and not isinstance(error, FileNotFoundError):
            raise LaunchError(f"{path}: not readable: {error}; restore it, or begin anew with --fresh", EXIT_FAILED) from error
        said = last.data if last else {}
        known = Identity(number=int(said.get("instance_number", 0)) or 1 + secrets.randbelow((1 << 24) - 1), seed=int(said.get("seed", seed)))
        try:
            remember(places, known, durably=True)
        except OSError as full:
            raise no_room(full, path) from full
    # the file is as old as a second; whatever has become known to anybody later is in the journal or at the venue, and time never goes back before it
    known.event_ns = max(known.event_ns, journal_event_ns(places.state_dir), ledger_event_ns(places.state_dir))
    return known


def no_room(error: OSError, path: Path) -> LaunchError:
    """What cannot be written, in words; a failed write alone does not name its file."""
    return LaunchError(f"{error.filename or path}: {error.strerror or error}; free space there and make it writable, or name another folder "
                       "with --data-dir", EXIT_NO_ROOM)


def remember(places: Places, identity: Identity, durably: bool = False) -> None:
    """Store instance.json, whole or not at all; `durably`: so that it outlives a power failure right after. Where a later one is torn by a power
    failure, all that counts of it is in the journal by then."""
    replace_file(places.state_dir / "instance.json", msgspec.json.format(msgspec.json.encode(identity)), durably)
    if durably:
        sync_folders(places.state_dir)


@contextmanager
def journal_of(state_dir: Path) -> Iterator[Any]:
    """An instance's journal to be read, None where nothing was ever recorded. Raises LaunchError for a damaged one."""
    from control.record.journal import Journal
    from control.record.records import JournalError, NoJournal

    try:
        try:
            journal = Journal(state_dir / "journal")
        except NoJournal:
            yield None
            return
        try:
            yield journal
        finally:
            journal.close()
    except JournalError as error:
        raise LaunchError(f"{error}; restore it from a backup, or begin anew with --fresh", EXIT_FAILED) from error


def journal_event_ns(state_dir: Path) -> int:
    """Event time of the journal's newest record, 0 without any: the market must not go on before it. Raises LaunchError."""
    with journal_of(state_dir) as journal:
        return 0 if journal is None else int(journal.last_event_ns())


def ledger_event_ns(state_dir: Path) -> int:
    """Event time of the last thing that happened at the paper venue, 0 without any; a damaged ledger is told by the gateway."""
    from control.record.reconcile import LedgerUnreadable, read_ledger

    try:
        return read_ledger(state_dir / "paper").event_ns
    except LedgerUnreadable:
        return 0


def journal_start(state_dir: Path) -> Any:
    """The newest "run_start" event of the journal, None without any. Raises LaunchError."""
    with journal_of(state_dir) as journal:
        starts = {} if journal is None else journal.run_starts()
        return starts[max(starts)] if starts else None


def start_event_ns(identity: Identity, begin_ns: int) -> int:
    """Event time at which the simulated market starts: the minute of `begin_ns` at first, then the second behind where it stopped."""
    if identity.event_ns:
        return -(-identity.event_ns // _SECOND_NS) * _SECOND_NS
    return begin_ns // _MINUTE_NS * _MINUTE_NS


# ── shared memory ────────────────────────────────────────────────────────────────────────────────────────────────────
def clear_leftovers(instance: str, patience_s: float = LEFTOVER_PATIENCE_S) -> bool:
    """Remove the segments of a former run once its processes are gone; True when there were any. The caller holds the name.

    Records that are in them and not yet in that run's journal are stored first. Raises LaunchError while somebody still lives, and where they
    cannot be stored.
    """
    try:
        descriptor = sweep.claim(instance, patience_s)
    except TimeoutError:
        raise LaunchError(f"processes of a former run of {instance!r} still live after {patience_s:g} s: {_living(instance)}; "
                          "end them (kill -9), then start again", EXIT_BUSY) from None
    try:
        sweep.remove_folder(bus.socket_dir(instance))
        existed = segment.instance_dir(instance).exists()
        if existed:
            _salvage_leftovers(instance)
        segment.remove(instance)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return existed


def name_state(places: Places) -> None:
    """Note beside a paper run's segments where its journal is: what they hold is owed to that one, wherever the next start looks."""
    (segment.instance_dir(places.instance) / _STATE).write_text(str(places.state_dir.resolve()))


def _salvage_leftovers(instance: str) -> None:
    from control.record.records import JournalError
    from control.record.salvage import salvage

    folder = segment.instance_dir(instance)
    try:
        state_dir = Path((folder / _STATE).read_text())
    except OSError:
        return  # a replay's, or never finished: nobody waits for what is in them
    if not state_dir.is_dir():
        return  # the account itself was removed
    try:
        salvage(segment.Memory(instance, writable=False), state_dir / "journal", sync=True)
    except (JournalError, segment.SegmentError) as error:
        raise LaunchError(f"{folder} may hold records of the last run that are not in its journal yet, and they cannot be stored: {error}; "
                          "start again when they can, or give them up by removing that folder", EXIT_NO_ROOM) from error


def _living(instance: str) -> str:
    try:
        rows = segment.Memory(instance, writable=False).board.processes
    except segment.SegmentError:
        return "unknown processes"
    found = [f"{name} (pid {int(rows[role]['pid'])})" for role, name in enumerate(l.ROLES)
             if int(rows[role]["pid"]) and os.path.exists(f"/proc/{int(rows[role]['pid'])}")]
    return ", ".join(found) or "unknown processes"


def create_segments(instance: str, *, ticks: int, instruments: int, conditions: int, rows: np.ndarray[Any, Any], strategies: Sequence[str],
                    carried_strategies: Sequence[str] = (), number: int, lockstep: bool, wait_strategy: int, initial_cash: int) -> segment.Memory:
    """Create and fill all segments. `rows` are of `layout.INSTRUMENT`; `initial_cash` in quanta. Raises LaunchError."""
    if len(rows) > instruments:
        raise LaunchError(f"{len(rows)} instruments are more than hotpath.instrument_capacity = {instruments}; "
                          "raise it or name fewer symbols")
    if len(strategies) > l.MAX_STRATEGIES:
        raise LaunchError(f"{len(strategies)} strategies are more than {l.MAX_STRATEGIES}; name fewer")
    try:
        segment.create_all(instance, ticks, instruments, conditions)
        memory = segment.Memory(instance)
    except segment.SegmentError as error:
        raise LaunchError(str(error), EXIT_NO_ROOM) from error
    for name, slots in (("ticks", ticks), ("orders", l.RING_SLOTS), ("reports", l.RING_SLOTS)):
        region = getattr(memory, name)
        region.ring[0]["capacity"], region.ring[0]["gated"] = slots, 1
        region.readers["active"][list(READERS[name])] = 1
    memory.instruments.instruments[: len(rows)] = rows
    for row, name in enumerate((*strategies, *carried_strategies)):
        memory.instruments.strategies[row]["name"] = name.encode()[:64]
    facts: dict[str, int] = {
        "instance_number": number, "lockstep": int(lockstep), "wait_strategy": wait_strategy, "watchdog_pid": os.getpid(),
        "initial_cash": initial_cash, "strategies": len(strategies), "instruments": len(rows), "started_wall_ns": time.time_ns(),
    }
    for field, value in facts.items():
        memory.board.run[0][field] = value
    return memory


def remove_all(places: Places) -> None:
    """Segments and sockets of an instance whose processes have all ended."""
    segment.remove(places.instance)
    sweep.remove_folder(places.socket_dir)


def choose_wait_strategy(configured: str, cores: int | None = None) -> int:
    """The wait strategy of a config value: `auto` spins a little and then sleeps; for good only with 8 cores, as four processes then spin."""
    if configured == "auto":
        return l.WAIT_SPIN if (cores or os.cpu_count() or 1) >= 8 else l.WAIT_ADAPTIVE
    if configured not in l.WAIT_STRATEGIES:
        raise LaunchError(f"hotpath.wait_strategy: {configured!r} is none of auto, {', '.join(l.WAIT_STRATEGIES)}")
    return l.WAIT_STRATEGIES.index(configured)
