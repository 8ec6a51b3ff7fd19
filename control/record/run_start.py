"""What the first event of a run says: its facts, so that its records can be read by whoever has the journal alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from control.record.records import instrument_facts
from ipc.process import Boot
from ipc.segment import Memory

#: keys that name a place or the instance itself: they cannot matter to what a run does
_NO_MATTER: Final = ("run.instance", "run.data_dir")


def run_facts(boot: Boot, memory: Memory) -> dict[str, Any]:
    """The data of "run_start": who runs what, under which configuration, on which instruments."""
    run, instruments = memory.board.run[0], memory.instruments
    config = hashlib.sha256()
    for name, section in sorted(boot.sections.items()):
        config.update(name.encode() + b"=" + bytes(section) + b"\n")
    return {"run_id": boot.run_id, "mode": boot.mode, "market": boot.market, "seed": boot.seed, "lockstep": boot.lockstep,
            "instance": boot.instance, "instance_number": int(run["instance_number"]), "config_sha256": config.hexdigest(),
            "config_version": boot.config_version, "config": fingerprints(boot.sections, boot.strategies),
            "strategies": [row["name"].decode() for row in instruments.strategies if row["name"]],
            "initial_cash": int(run["initial_cash"]), "equity_start": int(memory.sniper.account[0]["equity"]),
            "instruments": [msgspec.to_builtins(fact) for fact in instrument_facts(instruments.instruments, int(run["instruments"]))]}


# ── the configuration's version ──────────────────────────────────────────────────────────────────────────────────────
def fingerprints(sections: Mapping[str, msgspec.Raw], strategies: tuple[str, ...]) -> dict[str, str]:
    """A short hash of each value of the configuration by its path, and of each strategy's file: what has changed can be named, no value is kept."""
    found = {}
    for name, section in sections.items():
        for key, value in msgspec.json.decode(section).items():
            for path, leaf in _leaves(f"{name}.{key}", value):
                if path not in _NO_MATTER:
                    found[path] = _hash(msgspec.json.encode(leaf, order="sorted"))
    for spec in strategies:
        file = Path(spec.rpartition(":")[0])
        if file.is_file():
            found[f"the file {file.name}"] = _hash(file.read_bytes())
    return found


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    """A table's keys one by one; a list is one value."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{path}.{key}", inner)]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def version_after(last: Mapping[str, Any] | None, now: Mapping[str, str]) -> tuple[int, list[str]]:
    """(version, changed keys) of a run with these fingerprints, behind one with that "run_start"; the first one has version 1."""
    if last is None:
        return 1, []
    version, before = int(last.get("config_version", 1)), last.get("config")
    if before is None:  # from before versions were counted: what has changed since then is not known
        return version + 1, []
    changed = changed_keys(before, now)
    return version + bool(changed), changed


def changed_keys(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Paths whose fingerprints differ; where one side has none at all (from before they were kept) nothing is known, and nothing named."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)) if before and now else []
