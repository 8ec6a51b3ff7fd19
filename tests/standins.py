"""Stand-ins for the six roles, in real processes: they beat, obey and leave traces in the run's folder. For tests of the supervision alone.

`hang-ROLE` in the run's folder makes a stand-in stop beating, `deaf-ROLE` beat on and obey nothing; each leaves a line in `ended` when it has
stopped in order.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from control.config import Config
from control.supervise import child, instance, nursery, sweep
from control.supervise.instance import Identity
from control.supervise.session import Plan, Session, open_log
from hotpath.venues import catalogue
from ipc import bus, messages
from ipc import layout as l
from ipc.process import Boot, Child

#: what the forkserver loads for stand-ins: no kernels, so that it is up in a moment
PRELOAD = ("control.supervise.nursery", "control.supervise.child", "tests.standins")


def run(payload: bytes) -> None:
    """As control.supervise.child.run, with stand-ins for the roles' mains."""
    child.MODULES = dict.fromkeys(l.ROLES, "tests.standins")
    child.run(payload)


def main(own: Child) -> int:
    """Any role."""
    folder, role = Path(own.boot.run_dir), own.boot.role
    if role == "recorder":
        own.memory.board.cursors[0]["incarnation"] = 1
    server = bus.Server(own.boot.socket_dir, role, messages.decode_child_request)

    def handle(request: Any) -> Any:
        match request:
            case messages.Event():
                with (folder / "events").open("a") as file:
                    file.write(f"{request.kind} {request.text}\n")
            case messages.Operate(action="flatten"):
                own.memory.sniper.account[0]["open_positions"] = 0
        return messages.Done()

    own.ready()
    turns = 0
    while not own.stopping():
        server.poll(0.01, handle)
        turns += 1
        own.beat(turns)
        while (folder / f"hang-{role}").exists():
            time.sleep(0.01)
        while (folder / f"deaf-{role}").exists():
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                own.log.info("%s is deaf", role)
            own.beat(turns := turns + 1)
            time.sleep(0.01)
    server.poll(0.0, handle)
    server.close()
    with (folder / "ended").open("a") as file:
        file.write(f"{role} {own.boot.restarts}\n")
    return 0


def plan(name: str, data_dir: Path, *, for_s: float | None = None, flatten: bool = False, **supervise: int) -> Plan:
    """A paper run of stand-ins over small segments."""
    tree = {"run": {"instance": name, "data_dir": str(data_dir)}, "supervise": supervise, "safety": {"cooldown_s": 1},
            "hotpath": {"tick_slots": 1024, "condition_capacity": 64, "instrument_capacity": 8}}
    config = msgspec.convert(tree, Config)
    return Plan(config=config, mode="paper", market="simulated", rows=catalogue.resolve(["BTC/USDT"], {}, config.paper, "simulated"),
                strategies=("momentum",), strategy_names=("momentum",), sources=(), for_s=for_s, flatten_at_end=flatten, lockstep=False,
                speed=1.0, seed=1)


def conduct(name: str, data_dir: str, for_s: float | None = None, positions: int = 0, **supervise: int) -> int:
    """A whole run, as trader-launch does it without screen, socket and summary."""
    nursery.forget_main()
    folder = Path(data_dir)
    with sweep.LockedName(name):
        instance.clear_leftovers(name)
        places = instance.make_places(folder, name, "paper")
        open_log(places.run_dir, headless=True)
        session = Session(plan(name, folder, for_s=for_s, flatten=positions > 0, **supervise), places, Identity(number=7),
                          lambda text: print(text, flush=True), entry=run, preload=PRELOAD)
        session.memory.sniper.account[0]["open_positions"] = positions
        (places.run_dir / "pid").write_text(str(os.getpid()))
        try:
            session.run()
        finally:
            session.close()
    print("numba loaded" if "numba" in sys.modules else "numba not loaded", flush=True)
    print("restarts", {role: one.restarts for role, one in session.watchdog.roles.items() if one.restarts}, flush=True)
    return 130 if session.killed else 0


def boot_of(payload: bytes) -> Boot:
    """The Boot in a payload."""
    return msgspec.json.decode(payload, type=Boot)
