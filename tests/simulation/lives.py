"""Lives of processes: each is an object over the shared memory that is made by the shipped start, and thrown away when it dies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import control.record.recorder as recorder_room
from control.record.records import WriteFailed
from control.record.writer import JournalWriter
from hotpath import takeover
from hotpath.armoury import Armoury
from hotpath.config import Hotpath, Limits
from hotpath.gateway import Gateway
from hotpath.kernel import commit as tx
from hotpath.kernel.loop import between_ticks, drain, start
from hotpath.kernel.state import sniper_arrays
from hotpath.kernel.step import skip, step, step_by_clock, step_without_tick, substep, substep_by_clock
from hotpath.sniper import Control, write_params
from ipc import layout as l
from ipc import messages
from ipc.process import Boot, Child
from tests.simulation.deaths import Died
from tests.simulation.exchange import SimVenue, open_ledger

if TYPE_CHECKING:
    from tests.simulation.world import World

_TICK, _REPORT = 0, 1  # words of a commit line
#: numba types of the bundles, which take milliseconds to find
_TYPES: dict[str, Any] = {}


def typed(name: str, bundle: Any) -> Any:
    """A bundle that need not be looked at again."""
    if name in _TYPES:
        bundle.numba_type = _TYPES[name]
    return bundle


def _remember(name: str, bundle: Any) -> None:
    _TYPES[name] = bundle.numba_type


class SniperLife:
    """What hotpath.sniper.main makes, its loop a step at a time."""

    def __init__(self, world: World, boot: Boot) -> None:
        self.world, memory = world, world.memory
        self.s = typed("sniper", sniper_arrays(memory))
        if world.cut == "recovery":
            world.cut = ""
            self._recover_in_part(world.cut_at)
        start(self.s)
        _remember("sniper", self.s)
        write_params(memory, boot.section("limits", Limits), boot.section("hotpath", Hotpath))
        self._line = self.s.line.view(np.int64)
        self._slots, self._mask = memory.ticks.slots, len(memory.ticks.slots) - 1
        child = Child(boot, l.SNIPER, memory, world.log)
        self.control = Control(child, Armoury(memory, self.news))
        self.control._crash = world.crash  # type: ignore[assignment]
        child.ready()

    def run(self, most: int, silent: bool = False) -> None:
        """At most so many ticks; without one, what has come between ticks. `silent`: none has come for long, so it lets time pass by the clock."""
        s, ring = self.s, self.world.memory.ticks.ring
        for _ in range(most):
            seq = int(self._line[_TICK]) + 1
            if seq > int(ring[0]["head"]):
                break
            s.tick[0] = self._slots[seq & self._mask]
            self.world.witness.before_step()
            if self.world.cut:
                cut, self.world.cut = self.world.cut, ""
                substep(s)
                self._die_in_step(cut, self.world.cut_at)
            if seq != int(s.own[0]["deadly_tick"]):
                step(s)
                self.world.witness.stepped(seq)
            else:
                skip(s)
                self.world.witness.stepped(0)
        if between_ticks(s):
            self.world.witness.before_step()
            if self.world.cut and self.world.cut_at % 2:  # the others wait for a tick
                self._die_behind(lambda: step_without_tick(s))
            else:
                step_without_tick(s)
            self.world.witness.stepped(0)
        if silent and int(ring[0]["head"]) == int(self._line[_TICK]) > 0:
            self._by_clock(self.world.clock.event_ns)

    def _by_clock(self, now_ns: int) -> None:
        self.world.witness.before_step()
        if self.world.cut:
            cut, self.world.cut = self.world.cut, ""
            if substep_by_clock(self.s, now_ns):
                self._die_in_step(cut, self.world.cut_at)
        elif step_by_clock(self.s, now_ns):
            self.world.crash.passed["due by the clock"] += 1
        self.world.witness.stepped(0)
        self.world.witness.in_time(now_ns)

    def news(self) -> None:
        """What has come, without any tick."""
        step_without_tick(self.s)
        self.world.witness.stepped(0)

    def _die_in_step(self, phase: str, at: int) -> None:
        """The memory as a death leaves it: behind `at` (modulo) saved lines, before or behind the commit, among the copies, before the cursors."""
        s = self.s
        ring, slots = s.order_ring[0], s.order_slots
        if phase == "undo":
            count = int(s.undo[0]["count"])
            kept = at % (count + 1)
            for k in range(count - 1, kept - 1, -1):  # what is not saved was not written
                s.tx[s.undo_at[k]] = s.undo_lines[k]
            s.undo[0]["count"] = kept
        if phase in ("committed", "copy", "copied"):
            tx.commit(s)
        if phase in ("copy", "copied"):
            head, before = int(ring["head"]), slots.copy() if phase == "copy" else slots
            made = int(tx.copy_outbox(s))
            if phase == "copy" and made:
                kept = head + at % made
                for seq in range(kept + 1, head + made + 1):
                    slots[seq % len(slots)] = before[seq % len(slots)]
                ring["head"] = kept
        self.world.crash.passed[f"died at sniper.{phase}"] += 1
        raise Died(f"sniper.{phase}")

    def _die_behind(self, step: Callable[[], int]) -> None:
        """A step that is one transaction is made, and what of it comes behind the death is taken back. Where it commits nothing nobody dies."""
        s, number, head, slots = self.s, int(self.s.commit[0]["number"]), int(self.s.order_ring[0]["head"]), self.s.order_slots.copy()
        applied = int(s.report_readers[l.SNIPER]["cursor"])
        step()
        if int(s.commit[0]["number"]) == number:
            return
        s.report_readers[l.SNIPER]["cursor"] = applied
        s.commit[0]["number"] = number  # the line is written and not selected: not committed; _die_in_step commits where that is wanted
        made = int(s.order_ring[0]["head"]) - head
        for seq in range(head + 1, head + made + 1):
            s.order_slots[seq % len(slots)] = slots[seq % len(slots)]
        s.order_ring[0]["head"] = head
        cut, self.world.cut = self.world.cut, ""
        self.world.crash.passed["died between ticks"] += 1
        self._die_in_step(cut, self.world.cut_at)

    def _recover_in_part(self, at: int) -> None:
        """A second death, in the middle of the recovery: some lines are undone, the log stands."""
        s = self.s
        count = int(s.undo[0]["count"])
        if s.undo[0]["number"] == s.commit[0]["number"]:
            for k in range(count - 1, count - 1 - at % (count + 1), -1):
                s.tx[s.undo_at[k]] = s.undo_lines[k]
        self.world.crash.passed["died at sniper.recovery"] += 1
        raise Died("sniper.recovery")

    def drain(self) -> None:
        """As at an ordered stop, without waiting."""
        drain(self.s, 0)
        self.world.witness.stepped(0)

    def close(self) -> None:
        """Nothing but memory."""


class _Surroundings:
    """Who asks a gateway that breathes: nobody; but the others live on meanwhile."""

    def __init__(self, world: World) -> None:
        self._world = world

    def poll(self, timeout_s: float, handle: Any) -> None:
        """Some time passes, and whoever lives takes a turn."""
        self._world.meanwhile()


class SimGateway(Gateway):
    """Never stays in the kernel: there is no other process that could wake it."""

    BUDGET_NS = 0


class GatewayLife:
    """What hotpath.gateway.main makes, a turn at a time."""

    def __init__(self, world: World, boot: Boot) -> None:
        self.world = world
        self.ledger = open_ledger(world.exchange, world.folder / "paper")
        try:
            child = Child(boot, l.GATEWAY, world.memory, world.log)
            run, cursors = world.memory.board.run[0], world.memory.board.cursors[0]
            self.gateway = SimGateway(child, self.ledger, _Surroundings(world), int(run["instance_number"]), int(cursors["incarnation"]),
                                      lambda *parts: SimVenue(world.exchange, *parts), world.clock.monotonic_ns)
            typed("gate", self.gateway.g)
            self.gateway.crash = self.gateway.reporting.crash = world.crash  # type: ignore[assignment]
            takeover.take_over(self.gateway)
            _remember("gate", self.gateway.g)
            world.crash.reached("gateway.taken_over")
            child.ready()
        except BaseException:
            self.close()
            raise

    def turn(self) -> None:
        """One turn."""
        self.gateway.turn()
        if self.gateway.comparing:
            self.gateway.compare_book()

    def close(self) -> None:
        """What is uncommitted is gone."""
        self.world.witness.gateway_dies()
        self.world.exchange.venue = None
        self.ledger.close()


class SimJournal(JournalWriter):
    """The shipped writer on a disk that may refuse; tells what is stored, durably."""

    world: World

    def _write(self, *parts: Any) -> None:
        if self.world.disk_refuses > 0:
            self.world.disk_refuses -= 1
            raise WriteFailed("no space left")
        super()._write(*parts)

    def append(self, *parts: Any, **more: Any) -> list[int]:
        self.world.witness.reports()
        numbers = super().append(*parts, **more)
        self.world.stored = self.stored
        return numbers


class Desk:
    """Stands for a bus.Server in the recorder's process: requests are handed over, replies are kept until they are fetched."""

    def __init__(self, *_: Any) -> None:
        self.asker: tuple[bytes, bytes] = (b"", b"")
        self.answers: dict[tuple[bytes, bytes], Any] = {}

    def poll(self, timeout_s: float, handle: Any) -> int:
        """Nobody comes by himself."""
        return 0

    def answer(self, asker: tuple[bytes, bytes], reply: Any) -> None:
        """Keep it."""
        self.answers[asker] = reply

    def close(self) -> None:
        """Nothing to let go."""


class NoDoorman:
    """Nobody comes by a socket."""

    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        """No thread."""

    close = start


class RecorderLife:
    """The shipped Recorder, a turn at a time."""

    def __init__(self, world: World, boot: Boot) -> None:
        self.world = world
        child = Child(boot, l.RECORDER, world.memory, world.log)
        self.recorder = recorder_room.Recorder(child)
        self.recorder._crash = world.crash  # type: ignore[assignment]
        self._asked = 0
        child.ready()

    def ask(self, request: Any) -> Any:
        """Hand a request over; gives its number, for `answered`, or the reply itself."""
        self._asked += 1
        desk: Any = self.recorder.server
        desk.asker = (b"", self._asked.to_bytes(8, "big"))
        reply = self.recorder.handle(request)
        return self._asked if reply is None else reply

    def answered(self, number: int) -> Any:
        """The reply to a request, None as long as there is none."""
        desk: Any = self.recorder.server
        return desk.answers.pop((b"", number.to_bytes(8, "big")), None)

    def turn(self) -> None:
        """One transaction at most."""
        self.recorder.turn()
        self.recorder._beat()

    def close(self) -> None:
        """Let go of the journal."""
        self.recorder.close()


class SimHandle:
    """control.supervise.handle.Handle over a life."""

    start_error = ""

    def __init__(self, world: World, role: str) -> None:
        self._world, self._role = world, role
        self.pid: int | None = None
        self.exit_code: int | None = None

    def start(self, boot: Boot) -> None:
        """As Handle; the start itself is the role's first turn."""
        self._world.births += 1
        self.pid, self.exit_code = 1000 + self._world.births, None
        self._world.unborn[self._role] = boot

    def is_alive(self) -> bool:
        """As Handle."""
        return self.exit_code is None

    def kill(self) -> None:
        """As Handle."""
        if self.exit_code is None:
            self._world.bury(self._role)
            self.exit_code = -9

    terminate = abort = kill

    def join(self, timeout_s: float) -> bool:
        """As Handle."""
        return self.exit_code is not None

    def load(self) -> tuple[bool, float]:
        """Nothing here is starved."""
        return False, 0.0

    def stopped(self) -> bool:
        """As Handle."""
        return False


class ToRecorder:
    """control.supervise.chronicle.Line to whichever recorder lives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: tuple[bytes, Any, Any] | None = None

    def send(self, number: bytes, payload: bytes) -> bool:
        """As Line."""
        recorder = self._world.lives.get("recorder")
        if recorder is not None:
            self._sent = (number, recorder, recorder.ask(messages.decode_child_request(payload)))
        return recorder is not None

    def receive(self) -> tuple[bytes, bytes] | None:
        """As Line."""
        if self._sent is None:
            return None
        number, recorder, asked = self._sent
        reply = (recorder.answered(asked) if self._world.lives.get("recorder") is recorder else None) if isinstance(asked, int) else asked
        if reply is None:
            return None
        self._sent = None
        return number, messages.encode(reply)

    def reset(self) -> None:
        """As Line."""
        self._sent = None


class ToSniper(ToRecorder):
    """The same to the sniper's main thread, which answers at once."""

    def send(self, number: bytes, payload: bytes) -> bool:
        """As Line."""
        sniper = self._world.lives.get("sniper")
        if sniper is not None:
            self._sent = (number, sniper, sniper.control.handle(messages.decode_child_request(payload)))
        return sniper is not None


class Log(logging.Logger):
    """What the processes say, into the trace."""

    def __init__(self, world: World) -> None:
        super().__init__("simulation", logging.WARNING)
        self._world = world

    def handle(self, record: logging.LogRecord) -> None:
        """As Logger."""
        self._world.tell(f"    {record.levelname.lower()}: {record.getMessage()}")

