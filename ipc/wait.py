"""How a process waits for others: spin, futex, or adaptive (spin a little, then sleep).

Each process has one doorbell, a futex word in its board row. It sets the word to 1, looks once more, and sleeps on it; whoever published
something for it swaps the word to 0 and wakes. Both sides need a full fence between their store and their load, else one of seven
wake-ups is lost (measured); every sleep ends within 50 ms all the same.
"""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.atomics import exchange_bell, fence_full, futex_wait, futex_wake, load_bell, pause
from ipc.jit import kernel

#: longest sleep: what a lost wake-up may cost
MAX_SLEEP_NS = 50_000_000
#: spins before an adaptive wait sleeps, about 20 µs
ADAPTIVE_SPINS = 400
_BELL = l.offset(l.PROCESS, "bell")


@kernel
def ring_bell(processes: Any, role: int) -> None:
    """Wake `role` if it sleeps. The caller has published and passed a full fence."""
    if load_bell(processes, role, _BELL) != 0 and exchange_bell(processes, role, _BELL, 0) != 0:
        futex_wake(processes, role, _BELL)


@kernel
def ring_bells(processes: Any, mask: int) -> None:
    """After a publish: full fence, then wake every role of the bit mask that sleeps."""
    fence_full()
    for role in range(l.MAX_ROLES):
        if mask >> role & 1:
            ring_bell(processes, role)


@kernel
def prepare_sleep(processes: Any, role: int) -> None:
    """Announce that `role` is about to sleep; look once more at everything you wait for, then `sleep` or `stay_awake`."""
    exchange_bell(processes, role, _BELL, 1)
    fence_full()


@kernel
def sleep(processes: Any, role: int, timeout_ns: int) -> None:
    """Sleep until the bell rings or the time is over (at most MAX_SLEEP_NS)."""
    futex_wait(processes, role, _BELL, 1, min(timeout_ns, MAX_SLEEP_NS))
    exchange_bell(processes, role, _BELL, 0)


@kernel
def nap(processes: Any, role: int, timeout_ns: int) -> None:
    """Sleep for a time (at most MAX_SLEEP_NS) that no bell cuts short: the doorbell stays 0, so nobody rings it. For pacing."""
    futex_wait(processes, role, _BELL, 0, min(timeout_ns, MAX_SLEEP_NS))


@kernel
def stay_awake(processes: Any, role: int) -> None:
    """Take back `prepare_sleep`."""
    exchange_bell(processes, role, _BELL, 0)


@kernel
def spins_of(strategy: int) -> int:
    """Spins before sleeping."""
    if strategy == l.WAIT_SPIN:
        return 1 << 62
    return 0 if strategy == l.WAIT_FUTEX else ADAPTIVE_SPINS


@kernel
def spin() -> None:
    """One turn of a spin loop."""
    pause()
