"""The suite: which benchmarks there are, each in a process of its own with a limit in time, and the report of a run."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import multiprocessing
import os
import pkgutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.frame import CheckFailed, Missing, Row, Skipped, end_in_order, surely

#: a benchmark is a module bench_NAME.py with a `run(quick)` that gives rows
_PREFIX = "bench_"
#: the order of a run of all: what others are compared with first, what needs a quiet machine before what fills it; others behind these
ORDER = ("ring_hop", "kernel", "risk_gate", "tick_to_intent", "swap", "backtest", "restore", "zmq_baseline", "peers", "control", "health",
         "memory", "recovery", "cold_start", "learning", "learning_loop", "walk_forward", "quick_update", "analysis")
#: s that one benchmark may take, and what it then has to clear up
LIMIT_S, _GRACE_S = 1800.0, 15.0


_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass
class Outcome:
    """What became of one benchmark; `state` is measured, skipped or failed."""

    name: str
    state: str = "failed"
    text: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)
    missing: list[Missing] = dataclasses.field(default_factory=list)
    took_s: float = 0.0
    steal_pct: float = 0.0


def names() -> list[str]:
    """Benchmarks of the suite, in the order of a run of all."""
    folder = Path(benchmarks.__path__[0])
    found = [entry.name for entry in pkgutil.iter_modules(benchmarks.__path__) if entry.name.startswith(_PREFIX)]
    known = [name.removeprefix(_PREFIX) for name in found if "\ndef run(quick" in (folder / f"{name}.py").read_text()]
    return sorted(known, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def measured(name: str, quick: bool) -> Outcome:
    """One benchmark in this process, whatever it does."""
    try:
        made = importlib.import_module(f"benchmarks.{_PREFIX}{name}").run(quick)
    except Skipped as reason:
        return Outcome(name, "skipped", str(reason))
    except CheckFailed as error:
        return Outcome(name, "failed", str(error))
    except Exception:  # whatever it is, the others are measured all the same
        return Outcome(name, "failed", traceback.format_exc().rstrip())
    return Outcome(name, "measured", rows=[row for row in made if isinstance(row, Row)], missing=[row for row in made if isinstance(row, Missing)])


def _child(name: str, quick: bool, pipe: Any) -> None:
    os.setsid()  # whoever ends this group ends what it has started, too
    end_in_order()  # so that it clears up behind itself first
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    pipe.send(measured(name, quick))
    pipe.close()


def _end(child: Any) -> None:
    if child.pid is not None:
        child.terminate()
        child.join(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.join()


def in_own_process(name: str, quick: bool, limit_s: float = LIMIT_S) -> Outcome:
    """One benchmark in a process of its own; nothing of it stays behind."""
    from benchmarks.machine import steal, steal_pct

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, quick, theirs))
    began, before = time.monotonic(), steal()
    child.start()
    theirs.close()
    outcome = Outcome(name, text=f"it did not end within {limit_s:g} s")
    try:
        if ours.poll(limit_s):
            outcome = ours.recv()
            child.join(10)
    except EOFError:
        child.join(10)
        outcome.text = f"its process ended with exit code {child.exitcode}"
    finally:
        surely(lambda: _end(child))
    outcome.took_s, outcome.steal_pct = round(time.monotonic() - began, 1), steal_pct(before)
    return outcome


def report(about: dict[str, Any], outcomes: list[Outcome]) -> dict[str, Any]:
    """What --json writes."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    return {
        "machine": about,
        "rows": [row.as_json() for row in rows],
        "targets": [{"benchmark": row.benchmark, "metric": row.metric, "params": row.params, "target": row.target, "reached": row.reached}
                    for row in rows if row.target is not None],
        "benchmarks": [{"name": outcome.name, "state": outcome.state, "text": outcome.text, "took_s": outcome.took_s,
                        "steal_pct": outcome.steal_pct, "missing": [dataclasses.asdict(one) for one in outcome.missing]} for outcome in outcomes],
    }
