"""The storm itself: passes over the data, kill after kill by a seeded plan, and what was seen of it."""

from __future__ import annotations

import math
import random
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.frame import Ended, surely
from benchmarks.paper import descendants
from control.config import Supervise
from ipc import layout as l
from tests.storm import checker, evidence
from tests.storm import sight as phases
from tests.storm.aim import Aim, Shot
from tests.storm.scene import FORKSERVER, HANG_MS, ITS_OWN, Gone, Pass, left_behind, recordings
from tests.storm.sight import Sight
from tests.storm.watch import Watch

#: every process but the launcher, whose end is the run's
TARGETS = (*l.ROLES, FORKSERVER)
SIGNALS = ("KILL", "STOP", "SEGV", "TERM")
#: those that end or stop a process where it stands; a TERM is obeyed in its own time, when the process has left the phase
HARD = ("KILL", "STOP", "SEGV")
#: of all kills, how many are planned for each busy phase; the rest are at any moment, of any target
SHARE = 0.1
#: markets of a storm: recorded data while there are some, in a replay; the last fifth of the kills in a paper instance, which syncs and never ends
REPLAY, SIMULATED, BOTH = "replay", "simulated", "both"
SIMULATED_SHARE = 5
#: those who keep protection, and seconds for which a position may be without it: their longest hang limit, and RESPAWN_S for a respawn and what a
#: busy machine adds; with the storm's limits, and with those that are shipped
KEEPERS = ("sniper", "gateway", "feed", "recorder")
RESPAWN_S = 1.0
BOUND_S = max(HANG_MS[role] for role in KEEPERS) / 1000 + RESPAWN_S
SHIPPED_BOUND_S = max(Supervise().hang_ms(role) for role in KEEPERS) / 1000 + RESPAWN_S
#: event seconds a wall second; seconds for a start, for a role's return, and for the stillness before a stop
SPEED, START_S, RETURN_S = 3.0, 300.0, 30.0
#: a kill is followed by the next one before its target is back, once in so many
HASTE = 8
#: tries at a target that is just not there
_TRIES = 40


@dataclass
class PassResult:
    """What one pass has left: the checker's findings, and figures."""

    findings: list[checker.Finding]
    figures: dict[str, int]
    #: seconds: for how long nobody watched, and the longest of each kind of `watch.OVERDUE`
    unwatched_s: float
    overdue_s: dict[str, float]
    looks: int
    looks_at_open: int
    exit_code: int
    unplanned: int


@dataclass
class Result:
    """A whole storm."""

    seed: int
    kills: int
    targets: tuple[str, ...]
    signals: tuple[str, ...]
    bound_s: float
    shots: list[Shot] = field(default_factory=list)
    passes: list[PassResult] = field(default_factory=list)
    failure: str = ""
    wall_s: float = 0.0


def plan_of(kills: int, rng: random.Random, targets: tuple[str, ...], signals: tuple[str, ...]) -> list[Shot]:
    """Targets, phases and signals of all kills: each busy phase of the targets alike, the rest at any moment; shuffled by the seed.

    In a phase only by what hits there; where that is not wanted, all are at any moment.
    """
    hard = tuple(name for name in signals if name in HARD)
    busy = [phase for phase in phases.PHASES if phases.ROLE_OF.get(phase) in targets and hard]
    share = max(1, math.ceil(kills * SHARE)) if busy else 0
    wanted = [phase for phase in busy for _ in range(share)][:kills]
    rng.shuffle(wanted)
    made = [(phases.ROLE_OF[phase], phase) for phase in wanted]
    hit = tuple(target for target in targets if signals_for(target, signals))
    made += [(hit[number % len(hit)], phases.IDLE) for number in range(kills - len(made))]
    rng.shuffle(made)
    return [Shot(number, target, rng.choice(signals_for(target, signals) if phase == phases.IDLE else hard), phase)
            for number, (target, phase) in enumerate(made, 1)]


def signals_for(target: str, signals: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the signals that a target is hit with: a forkserver that stands still is found by the next start that it does not give, ten seconds
    later, and nobody starts while all live."""
    return tuple(name for name in signals if target != FORKSERVER or name != "STOP")


def deaths_of(shot: Shot) -> int:
    """Roles that a kill ends: with a forkserver three, and a SIGTERM it ignores."""
    if shot.target != FORKSERVER:
        return 1
    return 0 if shot.signal == "TERM" else len(ITS_OWN)


class Storm:
    """Runs passes until every kill is done."""

    def __init__(self, folder: Path, kills: int, seed: int, targets: tuple[str, ...] = TARGETS, signals: tuple[str, ...] = SIGNALS,
                 bound_s: float = BOUND_S, say: Callable[[str, int], None] = lambda text, done: None, market: str = BOTH, speed: float = SPEED,
                 keep: bool = False) -> None:
        """`say(text, kills done)` hears how it goes on. `keep`: passes that broke nothing stay in the folder, too."""
        self._folder, self._say, self._speed, self._keep = folder, say, speed, keep
        self._rng = random.Random(seed)
        self._files = [] if market == SIMULATED else recordings()
        #: kills that are left to the simulated market
        self._simulated = kills // SIMULATED_SHARE if market == BOTH else 0
        self.result = Result(seed, kills, targets, signals, bound_s)
        self._left = plan_of(kills, self._rng, targets, signals)[::-1]
        self._began = 0.0

    def run(self) -> Result:
        """All kills, with a check after each pass. What makes going on impossible is told as `failure`."""
        self._began = time.monotonic()
        number = 0
        while self._left and not self.result.failure:
            number += 1
            try:
                recorded = bool(self._files) and len(self._left) > self._simulated
                scene = Pass(self._folder / f"pass-{number:03}", self._speed, self.result.seed + number, self._files if recorded else [])
                try:
                    self._one_pass(scene, number)
                finally:
                    surely(scene.end)
            except (RuntimeError, evidence.Unreadable) as error:
                self.result.failure = f"pass {number}: {error}"
            except Ended as ended:
                self.result.failure = f"pass {number}: {ended.text}"
            except Exception:  # whatever it is, it is no verdict in favour
                self.result.failure = f"pass {number}: {traceback.format_exc().rstrip()}"
        self.result.wall_s = time.monotonic() - self._began
        return self.result

    def _one_pass(self, scene: Pass, number: int) -> None:
        self._say(f"pass {number} starts", len(self.result.shots))
        scene.wait_until_running(START_S)
        watch = Watch(scene.memory, scene.process.pid)
        watch.start()
        sight = Sight(scene.memory, scene.state_dir)
        done_before = len(self.result.shots)
        try:
            self._shoot(scene, Aim(scene, sight, self._rng), self._simulated if scene.files else 0)
            self._await_calm(scene)
            restarts = int(scene.memory.board.processes["restarts"][: len(l.ROLES)].sum())
        finally:
            watch.end()
            sight.close()
        self._say(f"pass {number} is checked", len(self.result.shots))
        code = scene.stop()
        leftovers = [*left_behind(scene.name), *watch.zombies]
        evidence.keep_image(scene.folder / "image", scene.image())
        found = evidence.read(scene.state_dir, scene.folder / "image", leftovers)
        findings = checker.check(found)
        if code:
            findings.append(checker.Finding("exit_code", f"trader-launch ended with {code}: {scene.text()[-600:]}"))
        findings += watch.findings(self.result.bound_s)
        planned = sum(deaths_of(shot) for shot in self.result.shots[done_before:])
        self.result.passes.append(PassResult(findings, found.figures(), watch.unwatched_s, watch.overdue, watch.looks, watch.looks_at_open, code,
                                             max(0, restarts - planned)))
        if not findings and not self._keep:
            shutil.rmtree(scene.folder, ignore_errors=True)

    def _shoot(self, scene: Pass, aim: Aim, leave: int) -> None:
        """One kill after the other, until the data end, or so many are left."""
        tries, hasty = 0, list[tuple[Shot, int, dict[str, int]]]()
        while len(self._left) > leave and not scene.stopping:
            shot = self._left[-1]
            shot.market = REPLAY if scene.files else SIMULATED
            shot.moment_s = time.monotonic() - self._began
            before = {role: int(scene.memory.board.processes[l.ROLES.index(role)]["pid"]) for role in ITS_OWN}
            try:
                pid = aim.hit(shot)
            except Gone:  # it is just being replaced, or the data are at their end
                tries += 1
                if tries > _TRIES and not scene.stopping:
                    raise RuntimeError(f"{shot.target} is not there to be hit: {scene.text()}") from None
                time.sleep(0.1)
                continue
            tries = 0
            self._left.pop()
            self.result.shots.append(shot)
            self._say(f"{shot.signal} {shot.target} in {shot.phase}", len(self.result.shots))
            if shot.phase != shot.wanted != phases.IDLE:
                self._aim_again(shot)
            if self._rng.randrange(HASTE) or shot.target == FORKSERVER:
                self._await_return(scene, shot, pid, before)
            else:
                hasty.append((shot, pid, before))
            if self._left and self._left[-1].target == FORKSERVER:  # whoever is dead, or found hanging, while it is away waits for the next one
                for missed in hasty:
                    self._await_return(scene, *missed)
                    missed[0].recovery_ms = None
                hasty.clear()

    def _aim_again(self, missed: Shot) -> None:
        """A phase that was not met in time (no order was under way) is aimed at once more, in place of a later kill at any moment."""
        later = next((shot for shot in self._left if shot.wanted == phases.IDLE), None)
        if later is not None:
            later.target, later.wanted, later.signal = missed.target, missed.wanted, missed.signal

    def _await_return(self, scene: Pass, shot: Shot, pid: int, before: dict[str, int]) -> None:
        """Until the role works again in a new process, and so does who ended with a forkserver (`before`: their pids). Raises RuntimeError when one
        does not come back."""
        hit = time.monotonic()
        waits = {shot.target: pid} if shot.target != FORKSERVER else before if deaths_of(shot) else {}
        seen: dict[str, int] = {}
        while waits and not scene.stopping:
            for role, old in list(waits.items()):
                row = scene.memory.board.processes[l.ROLES.index(role)]
                beat = int(row["beat_ns"])
                if int(row["pid"]) != old and int(row["state"]) == l.PROC_READY and seen.setdefault(role, beat) != beat:
                    del waits[role]
                    if not waits:
                        shot.recovery_ms = (time.monotonic() - hit) * 1000
            if time.monotonic() - hit > RETURN_S:
                raise RuntimeError(f"{' and '.join(waits)} did not come back within {RETURN_S:g} s after {shot.signal} to {shot.target} in "
                                   f"{shot.phase} (kill {shot.number}): {scene.text()}")
            time.sleep(0.002)
        if not deaths_of(shot) and not scene.stopping and pid not in descendants(scene.process.pid):
            raise RuntimeError(f"the forkserver ended of a {shot.signal} (kill {shot.number}): {scene.text()}")
        time.sleep(self._rng.random() * 0.1)

    def _await_calm(self, scene: Pass) -> None:
        """Until every role is back. Bounded: whoever is not back by then is found out at the stop."""
        end = time.monotonic() + RETURN_S
        while not scene.stopping and time.monotonic() < end:
            if (scene.memory.board.processes["state"][: len(l.ROLES)] == l.PROC_READY).all():
                return
            time.sleep(0.01)
