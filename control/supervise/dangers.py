"""What is the case now that puts the system into safe mode, as far as shared memory and the clocks tell. See control/supervise/safety.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from control.config import Safety
from control.supervise.role import State, Supervised
from ipc import board
from ipc import layout as l

#: least seconds between two notes of a new peak
REMEMBER_S = 1.0


class Dangers:
    """Looks at the account, at the others' mode words, at the sniper and at the clocks; called in every turn of the supervising loop."""

    def __init__(self, memory: Any, settings: Safety, daily_loss_bps: int | None, sniper: Supervised, gateway: Supervised,
                 clocks: Callable[[], tuple[int, int]] = lambda: (time.time_ns(), time.monotonic_ns())) -> None:
        """`clocks` gives (wall ns, monotonic ns)."""
        self._memory, self._settings, self._daily_loss_bps, self._clocks = memory, settings, daily_loss_bps, clocks
        self._sniper, self._gateway = sniper, gateway
        self._apart: int | None = None
        #: equity from which the drawdown is counted: its peak since a person last resumed
        self._peak = 0
        #: the account's own peak by then: a higher one came later, and counts
        self._forgiven = 0
        #: what of both has been given to be remembered, and when
        self._remembered: tuple[int, int] | None = None
        self._remembered_at = 0.0
        #: the sniper's absence, those that it came back from for a moment only, and since when it is well
        self._alone_since: float | None = None
        self._alone_s = self._well_since = 0.0

    @property
    def day(self) -> int:
        """UTC day of event time."""
        return int(self._memory.sniper.account[0]["day"])

    def present(self, now: float) -> dict[str, str]:
        """Cause → text."""
        found: dict[str, str] = {}
        self._account(found)
        self._words(found)
        if text := self._unprotected(now):
            found["unprotected"] = text
        if text := self._clock_jump():
            found["clock_jump"] = text
        return found

    def to_remember(self, now: float) -> dict[str, int]:
        """From which equity a drawdown counts that a person has seen, and what the account's own peak was then; empty where that is known already.

        A new peak is told each second at most, as the account's own is in each second's snapshot, and only while it is below that one.
        """
        known = (self._peak, self._forgiven)
        if not self._forgiven or known == self._remembered or (self._remembered is not None and now - self._remembered_at < REMEMBER_S):
            return {}
        self._remembered, self._remembered_at = known, now
        return {"peak": self._peak, "forgiven": self._forgiven}

    def recall(self, peak: int, forgiven: int) -> None:
        """As the last run remembered it."""
        self._peak, self._forgiven = peak, forgiven

    def forgive(self) -> None:
        """A person has seen the drawdown and resumed: it is counted anew, from here."""
        account = self._memory.sniper.account[0]
        self._peak, self._forgiven = int(account["equity"]), int(account["peak_equity"])
        self._remembered = None

    def _account(self, found: dict[str, str]) -> None:
        if not self._sniper.been_ready:
            return  # the account is not restored yet
        account = self._memory.sniper.account[0]
        equity, start = int(account["equity"]), int(account["day_start_equity"])
        if self._daily_loss_bps is not None and start > 0 and (start - equity) * 10_000 >= start * self._daily_loss_bps:
            found["daily_loss"] = f"{(start - equity) / start:.2%} lost since 00:00 UTC; limits.daily_loss_bps is {self._daily_loss_bps}"
        most = self._settings.max_drawdown_bps
        if (own := int(account["peak_equity"])) > self._forgiven:  # from here on the account itself remembers
            self._peak, self._forgiven = max(self._peak, own), 0
        self._peak = max(self._peak, equity)
        if most is not None and (self._peak - equity) * 10_000 >= self._peak * most > 0:
            found["drawdown"] = f"equity is {(self._peak - equity) / self._peak:.2%} below its peak; safety.max_drawdown_bps is {most}"
        if latched := int(account["latched"]):
            names = [row["name"].decode() for number, row in enumerate(self._memory.instruments.strategies) if latched >> number & 1]
            found["repeated"] = f"{', '.join(names)}: repeated itself too often; look why, then trader-ctl release {names[-1] if names else ''}"

    def _words(self, found: dict[str, str]) -> None:
        modes = self._memory.board.modes
        for writer, cause in ((l.MODE_OF_RECORDER, "journal"), (l.MODE_OF_REFLECTION, "knowledge")):
            if int(modes[writer]["mode"]) == l.MODE_SAFE:
                found[cause] = modes[writer]["cause"].decode(errors="replace")
        cause = modes[l.MODE_OF_GATEWAY]["cause"].decode(errors="replace")
        if int(modes[l.MODE_OF_GATEWAY]["mode"]) == l.MODE_SAFE and not cause.startswith(board.PASSING):
            found["unreconciled"] = cause

    def _unprotected(self, now: float) -> str:
        """Positions, and for too long nobody who watches their stops."""
        # before there is a gateway nobody could close anything; the first start may still compile
        if self._sniper.state in (State.READY, State.STOPPING, State.GONE) or not self._gateway.been_ready:
            if self._alone_since is not None:
                self._alone_s += now - self._alone_since
                self._alone_since, self._well_since = None, now
            if now - self._well_since >= self._settings.unprotected_s:  # one that dies again in a moment has protected nothing
                self._alone_s = 0.0
            return ""
        self._alone_since = now if self._alone_since is None else self._alone_since
        alone_s = self._alone_s + now - self._alone_since
        if alone_s < self._settings.unprotected_s or not int(self._memory.sniper.account[0]["open_positions"]):
            return ""
        return f"the sniper has been away for {self._settings.unprotected_s} s while positions are open"

    def _clock_jump(self) -> str:
        wall, monotonic = self._clocks()
        apart = wall - monotonic
        before, self._apart = self._apart, apart
        if before is None or abs(apart - before) < self._settings.clock_jump_ms * 1_000_000:
            return ""
        return f"the wall clock has stepped by {(apart - before) / 1e9:+.3f} s"
