"""`health` from the control socket, whatever the processes do: at work, each stopped in turn, a strategy that never comes back, a storm of kills.

```
 one client, a request each 20 ms ──► control socket of a paper instance at 30 × event speed (launcher, forkserver, six roles)
   quiet      everything works
   stopped    SIGSTOP to each role in turn, for two seconds each: the watchdog replaces those whose limit is shorter
   hung       a strategy that spins for good, and is replaced again and again
   storm      SIGKILL to a random role each 75 to 225 ms: respawns, back-off, crash loops, safe mode
```

Between two requests a process that does nothing else is asked for a Pong, over the same kind of socket: what the machine itself takes at that time
is in the rows `bare`.

A round trip counts from the request's sending, or, where the answer before it was still awaited then, from when it was due: one slow answer counts
for those that wait behind it; that the client itself woke late does not. It checks itself: each request got its answer, which names all roles; health
told of what was done; the instance ends in order, or, after the storm, at least ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.frame import Row, check
from benchmarks.paper import COMPILE_PATIENCE_S, PACE_S, PATIENCE_S, Instance, launcher, paper, quantile
from ipc import bus, messages, segment
from ipc import layout as l

#: to reach, in ms
HEALTH_P99_MS = 5.0
#: s between two kills of the storm on average, and seconds for which each role is stopped
_KILL_EACH_S, _STOPPED_S = 0.15, 2.0
_SPINNING = """
import pathlib

class Spinning:
    interval_s = 10

    def plan(self, market, portfolio, knowledge):
        while pathlib.Path(__file__).with_name("spin").exists():
            pass
        return []
"""
_CONFIG = "[supervise]\nhang_strategist_ms = 1500\n"


def _answer_pongs(folder: str) -> None:
    server = bus.Server(folder, "bare", messages.decode_control_request)
    while True:
        server.poll(1.0, lambda request: messages.Pong(role="watchdog", pid=os.getpid()))


class _Asker:
    """Asks for health at its pace; `bare` keeps what a bare answer took in ms, `told` what health told."""

    def __init__(self, instance: Instance) -> None:
        self._client = bus.Client(bus.socket_dir(instance.name), "control")
        self._echo = multiprocessing.get_context("spawn").Process(target=_answer_pongs, args=(str(instance.folder),), daemon=True)
        self._echo.start()
        self._bare = bus.Client(instance.folder, "bare")
        check(isinstance(self._bare.ask(messages.Ping(), 20.0), messages.Pong), "a bare process was not answered")
        self.bare: list[float] = []
        self.told: set[str] = set()

    def ask_for(self, seconds: float) -> list[float]:
        """What the answers took within so long."""
        took: list[float] = []
        began = done = time.monotonic()
        for number in range(int(seconds / PACE_S)):
            due = began + number * PACE_S
            time.sleep(max(0.0, due - time.monotonic()))
            sent = due if done > due else time.monotonic()
            reply = self._client.ask(messages.Health(), 10.0)
            done = time.monotonic()
            took.append((done - sent) * 1000)
            check(isinstance(reply, messages.Answer) and [row["role"] for row in reply.rows] == list(l.ROLES), f"health was answered {reply}")
            self.told |= {f"{row['role']} {row['status']}" for row in reply.rows}
            time.sleep(max(0.0, due + PACE_S / 2 - time.monotonic()))
            asked = time.monotonic()
            self._bare.ask(messages.Ping(), 10.0)
            self.bare.append((time.monotonic() - asked) * 1000)
        return took

    def close(self) -> None:
        """Both clients, and the bare process."""
        self._client.close()
        self._bare.close()
        self._echo.kill()
        self._echo.join()


def run(quick: bool) -> list[Row]:
    """Each phase in an instance of its own, but for the first two."""
    seconds = 2.0 if quick else 20.0
    return [*_quiet_and_stopped(seconds), *_hung(seconds), *_storm(seconds)]


def _rows(phase: str, took: list[float], bare: list[float]) -> list[Row]:
    params = {"phase": phase, "requests": len(took), "pace_ms": PACE_S * 1000}
    return [*(Row("health", f"{name}_ms", quantile(took, share), "ms", params, HEALTH_P99_MS if name == "p99" else None)
              for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))),
            *(Row("health", f"bare_{name}_ms", quantile(bare, share), "ms", {"phase": phase}) for name, share in (("p50", 0.5), ("p99", 0.99)))]


def _quiet_and_stopped(seconds: float) -> list[Row]:
    with paper() as instance:
        instance.start(COMPILE_PATIENCE_S)
        instance.await_ready()
        asker = _Asker(instance)
        quiet, stopped = asker.ask_for(seconds), []
        bare, asker.bare = asker.bare, []
        check(not any("degraded" in told or "failed" in told for told in asker.told), f"a quiet instance has a fault: {asker.told}")
        for number, role in enumerate(l.ROLES):
            pid = int(instance.memory().board.processes[number]["pid"])
            os.kill(pid, signal.SIGSTOP)
            stopped += asker.ask_for(_STOPPED_S)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            check({f"{role} degraded", f"{role} starting"} & asker.told, f"nothing was told of the stopped {role}: {asker.told}")
            instance.await_ready()
        asker.close()
        instance.stop()
    return [*_rows("quiet", quiet, bare), *_rows("stopped", stopped, asker.bare)]


def _hung(seconds: float) -> list[Row]:
    with paper() as instance:
        strategy, config = instance.folder / "spinning.py", instance.folder / "config.toml"
        strategy.write_text(_SPINNING)
        config.write_text(_CONFIG)
        instance.line = [*launcher(), "--config", str(config), "--strategy", f"momentum,{strategy}:Spinning"]
        instance.start(COMPILE_PATIENCE_S)
        instance.await_ready()
        (instance.folder / "spin").touch()
        asker = _Asker(instance)
        took = asker.ask_for(seconds + 3.0)
        check({"strategist degraded", "strategist starting"} & asker.told, f"nothing was told of the strategy that hangs: {asker.told}")
        (instance.folder / "spin").unlink()
        asker.close()
        instance.end()
    return _rows("hung", took, asker.bare)


def _kill(name: str, ready: Any, over: Any) -> None:
    """A process of its own, between two events: the kills come when they come, and not just before a request."""
    chance, processes = random.Random(7), segment.Memory(name, writable=False).board.processes
    ready.set()
    while not over.is_set():
        pid = int(processes[chance.randrange(len(l.ROLES))]["pid"])
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # between two lives
            if Path(f"/proc/{pid}/comm").read_text().startswith("trader-"):
                os.kill(pid, signal.SIGKILL)
        time.sleep(chance.uniform(0.5, 1.5) * _KILL_EACH_S)


def _storm(seconds: float) -> list[Row]:
    with paper() as instance:
        instance.start(COMPILE_PATIENCE_S)
        instance.await_ready()
        asker = _Asker(instance)
        context = multiprocessing.get_context("spawn")
        ready, over = context.Event(), context.Event()
        killer = context.Process(target=_kill, args=(instance.name, ready, over), daemon=True)
        killer.start()
        check(ready.wait(PATIENCE_S), "the process that kills did not start")
        took = asker.ask_for(seconds)
        over.set()
        killer.join(PATIENCE_S)
        check(killer.exitcode == 0, f"the kills ended with {killer.exitcode}")
        check(any("starting" in told for told in asker.told), f"nothing was told of the storm: {asker.told}")
        asker.close()
        assert instance.process is not None
        instance.process.send_signal(signal.SIGINT)
        instance.process.wait(PATIENCE_S)
    return _rows("storm", took, asker.bare)
