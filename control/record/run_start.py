"""What the first event of a run says: its facts, so that its records can be read by whoever has the journal alone."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from control.record.records import instrument_facts
from ipc.process import Boot
from ipc.segment import Memory


def run_facts(boot: Boot, memory: Memory) -> dict[str, Any]:
    """The data of "run_start": who runs what, under which configuration, on which instruments."""
    run, instruments = memory.board.run[0], memory.instruments
    config = hashlib.sha256()
    for name, section in sorted(boot.sections.items()):
        config.update(name.encode() + b"=" + bytes(section) + b"\n")
    return {"run_id": boot.run_id, "mode": boot.mode, "market": boot.market, "seed": boot.seed, "lockstep": boot.lockstep,
            "instance": boot.instance, "instance_number": int(run["instance_number"]), "config_sha256": config.hexdigest(),
            "strategies": [row["name"].decode() for row in instruments.strategies if row["name"]],
            "initial_cash": int(run["initial_cash"]), "equity_start": int(memory.sniper.account[0]["equity"]),
            "instruments": [msgspec.to_builtins(fact) for fact in instrument_facts(instruments.instruments, int(run["instruments"]))]}
