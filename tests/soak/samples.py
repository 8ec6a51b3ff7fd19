"""What an instance takes at one instant: memory, descriptors and threads of each process, and what its files hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.paper import Instance, descendants
from ipc import layout as l
from ipc.segment import shared_root

#: fields of smaps_rollup (kB): everything; what is only this process's; shared memory; pages of files, which the kernel may drop at any time
_PARTS = {"Pss": "pss_mb", "Pss_Anon": "anonymous_mb", "Pss_Shmem": "shared_mb", "Pss_File": "file_mb"}


class Sample(NamedTuple):
    """One instant. `processes`: name → figure → value; `instance`: figure → value."""

    at_s: float
    processes: dict[str, dict[str, float]]
    instance: dict[str, float]


def sample(instance: Instance, at_s: float) -> Sample:
    """Look at every process of a running instance."""
    assert instance.process is not None
    memory = instance.memory()
    roles = {int(row["pid"]): name for name, row in zip(l.ROLES, memory.board.processes, strict=False)}
    processes = {}
    for pid in descendants(instance.process.pid):
        name = roles.get(pid) or ("launcher" if pid == instance.process.pid else "forkserver")
        processes[name] = of_process(Path(f"/proc/{pid}"))
    account = memory.sniper.account[0]
    return Sample(at_s, processes, {
        "ticks": instance.ticks(), "trades": int(account["trades_closed"]), "event_h": int(account["event_ns"]) / 3.6e12,
        "restarts": int(memory.board.processes["restarts"].sum()),
        "shm_mb": size_mb(shared_root() / f"trader-{instance.name}"),
        **{f"{name}_mb": size_mb(instance.folder / "instances" / instance.name / name) for name in ("journal", "paper", "knowledge")},
        "logs_mb": size_mb(instance.folder / "runs")})


def of_process(folder: Path) -> dict[str, float]:
    """Figures of one process by its folder in /proc."""
    rollup = dict(re.findall(r"^(\w+): +(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE))
    return {name: int(rollup.get(part, 0)) / 1024 for part, name in _PARTS.items()} | {
        "descriptors": len(list((folder / "fd").iterdir())), "threads": len(list((folder / "task").iterdir()))}


def size_mb(folder: Path) -> float:
    """Bytes that the files of a folder take, in MB."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 2**20
