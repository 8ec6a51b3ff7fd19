"""The live screen of trader-launch: one page, drawn four times a second in a thread of its own.

A failing view or terminal never reaches the supervision: the fault is shown in the picture's place, and trading goes on.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

#: seconds between two pictures
FRAME_S = 0.25
#: colours of process states; others are yellow
_STATE_STYLES = {"healthy": "green", "finished": "cyan", "failed": "bold red", "stopped": "dim"}
#: events shown at the foot
_EVENTS = 3


class Screen:
    """Shows what `view` gives (see control/supervise/view.py) until it is stopped. `ctl_line` is the command that reaches this instance."""

    def __init__(self, view: Callable[[], dict[str, Any]], ctl_line: str, console: Console | None = None) -> None:
        self._view, self._ctl_line = view, ctl_line
        self._console = console or Console()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def start(self) -> None:
        """Take the terminal over."""
        self._thread.start()

    def stop(self) -> None:
        """Give the terminal back; what was printed meanwhile is on it."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        # the thread draws by itself: rich's own refresh thread would need a second one, and a lock with it
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while not self._stop.wait(FRAME_S):
                live.update(self.picture(), refresh=True)

    def picture(self) -> RenderableType:
        """The page as it is now."""
        try:
            return page(self._view(), self._ctl_line)
        except Exception as error:
            return Panel(f"the screen cannot be drawn ({type(error).__name__}: {error}); the instance goes on\n{self._ctl_line}")


def page(seen: dict[str, Any], ctl_line: str) -> RenderableType:
    """The whole page from one look."""
    parts: list[RenderableType] = [_head(seen)]
    if seen["simulated"]:
        parts.append(Text(" SIMULATED MARKET: results mean nothing ", style="bold black on yellow"))
    parts += [_processes(seen["processes"]), _account(seen), _positions(seen["positions"]), _trades(seen["trades"]),
              Panel("\n".join(seen["why_nothing"]), title="why nothing happens" if not seen["positions"] else "what is waited for",
                    title_align="left", border_style="yellow" if seen["trading"] != "running" else "dim")]
    parts += [Text(event, style="dim", no_wrap=True, overflow="ellipsis") for event in list(seen["events"])[-_EVENTS:]]
    parts.append(Text.assemble("control it: ", (ctl_line, "bold"), "   Ctrl-C stops in order"))
    return Group(*parts)


def _head(seen: dict[str, Any]) -> Text:
    pace = "as fast as it can" if not seen["speed"] else f"{seen['speed']:g} ×"
    trading = seen["trading"].replace("_", " ")
    phase_style = "green" if seen["phase"] == "running" else "yellow"
    return Text.assemble(("trader ", "bold"), f"{seen['instance']} · {seen['mode']} · {seen['market']} market at {pace}"
                                              f" · run {seen['run_id']} · ", (seen["phase"], phase_style), " · ",
                         (trading, "green" if trading == "running" else "bold red"), f" · event time {moment(seen['event_ns'])}")


def _processes(processes: list[dict[str, Any]]) -> Table:
    table = _table("process", "state", "pid", "restarts", "heartbeat", "last death", right=("pid", "restarts", "heartbeat"))
    for process in processes:
        age = process["heartbeat_age_ms"]
        table.add_row(process["role"], Text(process["state"], _STATE_STYLES.get(process["state"], "yellow")), str(process["pid"] or "–"),
                      Text(str(process["restarts"]), "yellow" if process["restarts"] else ""), "–" if age is None else f"{age} ms",
                      process["last_death"])
    return table


def _account(seen: dict[str, Any]) -> Text:
    lost = f", {seen['ticks_lost']} lost" if seen["ticks_lost"] else ""
    wins = f" ({seen['wins'] / seen['trades_closed']:.0%} won)" if seen["trades_closed"] else ""
    return Text.assemble(
        f"{seen['ticks']:,} ticks, {seen['ticks_per_s']:,.0f}/s{lost}   equity ", (seen["equity"], "bold"), f" USDT   cash {seen['cash']}"
        f"   realised {seen['realised_pnl']}   fees {seen['fees']}   drawdown {seen['max_drawdown_pct']:.2f} %\n"
        f"{seen['trades_closed']} trades closed{wins}   {seen['entries_today']} entries today   {seen['conditions']} conditions armed"
        f"   {seen['working_orders']} orders working")


def _positions(positions: list[dict[str, Any]]) -> RenderableType:
    if not positions:
        return Text("no open positions", style="dim")
    table = _table("position", "side", "size", "entry", "now", "P&L", "stop", "target", "strategy",
                   right=("size", "entry", "now", "P&L", "stop", "target"))
    for one in positions:
        table.add_row(one["symbol"], one["side"], one["size"], one["entry_price"], one["mark_price"], signed(one["unrealised_pnl"]),
                      one["stop_price"], one["target_price"], one["strategy"])
    return table


def _trades(trades: list[dict[str, Any]]) -> RenderableType:
    if not trades:
        return Text("no closed trades yet", style="dim")
    table = _table("last trades", "side", "size", "entry", "exit", "P&L", "reason", "strategy", "closed",
                   right=("size", "entry", "exit", "P&L"))
    for one in trades[:5]:
        table.add_row(one["symbol"], one["side"], one["size"], one["entry_price"], one["exit_price"], signed(one["pnl"]),
                      one["exit_reason"], one["strategy"], moment(one["event_ns"]))
    return table


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True, overflow="ellipsis")
    return table


def signed(money: str) -> Text:
    """Money in green or red."""
    return Text(money, "red" if money.startswith("-") else "green")


def moment(event_ns: int) -> str:
    """Event time as UTC date and time, – where there is none yet."""
    if event_ns <= 0:
        return "–"
    return datetime.datetime.fromtimestamp(event_ns // 10**9, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
