"""What people and programs see of a session: the screen or log lines, the control socket, the summary at the end."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from control.serve.health import health
from control.serve.view import latency, span
from control.supervise.session import Session
from control.supervise.view import View
from control.supervise.watchdog import Phase
from control.supervise.words import Words

#: seconds between two log lines of a headless run, between two of health, and between two looks at it
LINE_S, HEALTH_S, VITALS_S = 10.0, 30.0, 1.0
#: longest that a thread of this process keeps the others waiting: health is answered within 5 ms, while the screen is drawn, too
_SWITCH_S = 0.000_1
#: amounts of the account currency in summary.json, which has them to the last digit
_MONEY = ("realised_pnl", "fees", "equity_start", "equity_end")
#: preparing kernels that are in the cache takes less, and is not worth a line
QUICK_S = 3.0


class Front:
    """Opened before a session runs and closed after; a failing screen never stops the trading. Is the control socket's Facade."""

    def __init__(self, session: Session, headless: bool) -> None:
        self.session, self.headless = session, headless
        self.look = View(session)
        self.vitals = self.look.vitals
        self._screen: Any = None
        self._control: Any = None
        self._line_at = self._health_at = self._vitals_at = 0.0
        self._opened_at = time.monotonic()
        self._prepared = ""
        self._was_running = False
        self._said: list[str] = []
        #: why there is no summary although there was a run
        self.unwritten = ""
        session.say = self.say

    # ── what the control socket needs ────────────────────────────────────────────────────────────────────────────────
    @property
    def memory(self) -> Any:
        """The instance's segments."""
        return self.session.memory

    @property
    def sockets(self) -> Path:
        """The instance's folder of sockets."""
        return self.session.places.socket_dir

    def stop(self, cause: str) -> None:
        """Begin the ordered end."""
        self.session.stop(cause)

    @property
    def words(self) -> Words:
        """What an operator says that lasts."""
        return self.session.words

    def noted(self) -> int:
        """Events of the watchdog so far."""
        return self.session.chronicle.taken

    def journaled(self, number: int) -> bool:
        """The journal has that one of them."""
        return self.session.chronicle.brought(number)

    def stopping(self) -> bool:
        """The ordered end has begun."""
        return self.session.watchdog.phase not in (Phase.STARTING, Phase.RUNNING)

    def note(self, kind: str, text: str) -> None:
        """Log and journal what an operator did."""
        self.session.chronicle.note(kind, text)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def open(self) -> None:
        """Bind the control socket, start the screen."""
        from control.serve.control import ControlSocket

        session = self.session
        sys.setswitchinterval(_SWITCH_S)
        self._control = ControlSocket(self)
        session.each_turn.append(self._control.poll)
        session.each_turn.append(self._health)
        session.wakers.append(self._control.descriptors)
        plan = session.plan
        if plan.market == "simulated":
            pace = {0.0: " Event time runs as fast as it can.", 1.0: ""}.get(plan.speed, f" Event time runs at {plan.speed:g} x.")
            session.say(f"SIMULATED MARKET: results mean nothing.{pace}")
        if self.headless:
            session.each_turn.append(self._lines)
            session.say(f"instance {session.places.instance}, run {session.places.run_id}: {self.ctl_line()}")
            return
        from control.serve.screen import Screen

        self._screen = Screen(self.look, self.ctl_line())
        self._screen.start()

    def say(self, text: str) -> None:
        """Tell people at once: on stderr, or while the screen is up at its foot, and on stderr when it is gone."""
        if self._screen is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.session.chronicle.newest.append(text)
            self._said.append(text)

    def ctl_line(self) -> str:
        """The command that controls this very instance."""
        return f"scripts/ctl --instance {self.session.places.instance} status"

    def _lines(self) -> None:
        """A line every ten seconds and when all are ready; while kernels are compiled, a line for each step."""
        now = time.monotonic()
        prepared = self.session.preparing()
        if now - self._opened_at > QUICK_S and prepared != self._prepared:
            self._prepared = prepared
            if prepared:
                self.session.log.info("preparing kernels: %s; the first start takes a minute or two", prepared)
        running = self.session.watchdog.phase is Phase.RUNNING
        if running and (not self._was_running or now - self._line_at >= LINE_S):
            self._line_at, self._was_running = now, True
            seen = self.look()
            self.session.log.info(
                "%s ticks (%.0f/s), equity %s, %d open, %d trades closed, fees %s, %d conditions armed%s", f"{seen['ticks']:,}",
                seen["ticks_per_s"], seen["equity"], len(seen["positions"]), seen["trades_closed"], seen["fees"], seen["conditions"],
                f"; {seen['trading']}: {seen['trading_cause']}" if seen["trading"] != "running" else "")

    def _health(self) -> None:
        """A look each second, and a line in the log each thirty."""
        now = time.monotonic()
        if now - self._vitals_at < VITALS_S:
            return
        self._vitals_at, vitals = now, self.vitals()
        if self.session.watchdog.phase is Phase.RUNNING and now - self._health_at >= HEALTH_S:
            self._health_at = now
            data, rows = health(vitals, self.memory, time.monotonic_ns())
            of = {row["role"]: row for row in rows}
            journal = data["databases"]["journal"]
            self.session.log.log(
                logging.INFO if data["healthy"] else logging.WARNING, "health: %s; last tick %d ms ago, %d positions with %d exits armed, %d errors, "
                "commits take %.1f ms, %d MB free", "; ".join(data["problems"]) or "all is well", of["feed"]["metrics"]["last_tick_age_ms"],
                of["sniper"]["metrics"]["positions"], of["sniper"]["metrics"]["exits_armed"], sum(row["error_count"] for row in rows),
                journal["commit_us"] / 1000, journal["free_mb"])

    def close(self) -> None:
        """Give the terminal back, unbind the socket."""
        for part, name in ((self._screen, "stop"), (self._control, "close")):
            if part is not None:
                with contextlib.suppress(Exception):
                    getattr(part, name)()
        self._screen = self._control = None
        for text in self._said:
            self.say(text)
        self._said.clear()

    def summarise(self) -> dict[str, Any]:
        """Write summary.json and fills.bin, and print what they say; the children have ended, the segments are still there."""
        from control.record.records import JournalError
        from control.record.summary import RunFacts, write_summary

        session = self.session
        places, plan = session.places, session.plan
        if not int(session.memory.board.cursors[0]["incarnation"]):  # stopped while kernels were still prepared, for one
            session.say("ended before anything was recorded: there is no summary")
            return {}
        facts = RunFacts(
            mode=plan.mode, market=plan.market, run_dir=str(places.run_dir), state_dir=str(places.state_dir),
            started_wall_ns=session.started_wall_ns, duration_s=(session.ended_wall_ns - session.started_wall_ns) / 1e9)
        try:
            summary = write_summary(facts, session.memory)
        except (JournalError, OSError) as error:
            where = f"{error.filename or places.run_dir}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            self.unwritten = (f"no summary could be written: {where}; free space there; what is not journaled is put in order "
                              "at the next start")
            session.log.error("%s", self.unwritten)
            return {}
        print_summary(summary)
        print(f"  {places.run_dir / 'summary.json'}")
        return summary


def print_summary(summary: dict[str, Any]) -> None:
    """A short table for people on stdout: the names of summary.json, values with their units."""
    for name, value in summary.items():
        print(f"  {name:20} {_with_unit(name, value)}".rstrip())
    sys.stdout.flush()


def _with_unit(name: str, value: Any) -> str:
    if name in _MONEY and value is not None:
        return f"{value:,.2f} USDT"
    match value:
        case dict() if name.endswith("_ns"):
            return ", ".join(f"{key} {latency(one)}" for key, one in value.items()) if value.get("max") else "none"
        case dict():
            return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
        case list():
            return "; ".join(map(str, value)) or "none"
        case None:
            return "–"
        case bool():
            return "yes" if value else "NO"
        case int():
            return f"{value:,}"
    match name:
        case "duration_s":
            return span(value)
        case "win_rate":
            return f"{value:.0%}"
        case "max_drawdown_pct":
            return f"{value:.2f} %"
    return str(value)
