"""The page of the live screen from one look: everything at 120 × 40, the most needed at 80 × 24 and below.

Sections are drawn at the width that there is. Where the height does not suffice, lines go from the section that is least needed; what
keeps the instance from trading, the banner and the control line stay to the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from control.serve.grid import Column, cents, grid, moment
from control.serve.view import WORKING_STATES

_PROCESSES = (Column("role", "process"), Column("state", "state"), Column("pid", "pid", 1, right=True),
              Column("restarts", "restarts", right=True), Column("heartbeat_age_ms", "heartbeat", right=True),
              Column("last_death", "last death", 2, text=True))
_POSITIONS = (Column("symbol", "position"), Column("side", "side"), Column("size", "size", 1, right=True),
              Column("entry_price", "entry", 2, right=True), Column("mark_price", "now", right=True),
              Column("unrealised_pnl", "P&L USDT", right=True), Column("stop_price", "stop", 3, right=True),
              Column("target_price", "target", 4, right=True), Column("strategy", "strategy", 5))
_TRADES = (Column("symbol", "last trades"), Column("side", "side"), Column("size", "size", 2, right=True),
           Column("entry_price", "entry", 3, right=True), Column("exit_price", "exit", 1, right=True), Column("pnl", "P&L USDT", right=True),
           Column("exit_reason", "reason"), Column("strategy", "strategy", 5), Column("event_ns", "closed (UTC)", 4))


@dataclass(frozen=True)
class Section:
    """`least` lines stay as long as any section of a higher rank has lines to give; then it goes as a whole."""

    content: RenderableType
    rank: int
    least: int


class Page:
    """Fits itself into the console's width and height."""

    def __init__(self, seen: dict[str, Any], ctl_line: str) -> None:
        self.seen, self.ctl_line = seen, ctl_line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or options.max_height
        sections = list(self.sections(width, height))
        flat = options.update(width=width, height=None)
        drawn = [console.render_lines(section.content, flat, pad=False) for section in sections]
        spare = sum(map(len, drawn)) - height
        for least_too in (False, True):
            for section, lines in sorted(zip(sections, drawn, strict=True), key=lambda pair: -pair[0].rank):
                if spare > 0:
                    keep = 0 if least_too and section.rank else max(min(section.least, len(lines)), len(lines) - spare)
                    spare -= len(lines) - keep
                    del lines[keep:]
        for line in [line for lines in drawn for line in lines][:height]:
            yield from line
            yield Segment.line()

    def sections(self, width: int, height: int) -> Iterable[Section]:
        """From top to bottom."""
        seen = self.seen
        yield Section(_head(seen), 0, 1)
        if seen["simulated"]:
            yield Section(_line(" SIMULATED MARKET: results mean nothing ", "bold black on yellow"), 0, 1)
        if height < 20:
            yield Section(_processes_in_a_line(seen["processes"]), 1, 1)
        else:
            yield Section(grid(_PROCESSES, seen["processes"], width)[0], 2, 7)
        yield Section(_account(seen, width), 3, 2)
        yield Section(_rows(_POSITIONS, seen["positions"], width, "no open positions"), 4, 4)
        yield Section(_rows(_TRADES, seen["trades"], width,
                            "no trade closed since this start" if seen["trades_closed"] else "no closed trades yet"), 5, 3)
        title = "what is waited for" if seen["positions"] else "why nothing happens"
        yield Section(Text(f"── {title} ".ljust(width, "─"), "yellow" if seen["trading"] != "running" else "dim", no_wrap=True), 1, 1)
        yield Section(Group(*(Text(reason, "bold" if number == 0 else "", overflow="fold")
                              for number, reason in enumerate(seen["why_nothing"]))), 0, 4)
        if seen["events"]:  # while it stops, they say what stays open
            rank, least = (1, 6) if seen["phase"] == "stopping" else (6, 0)
            newest = [_line(event, "dim") for event in seen["events"][-5:]]
            if rank == 1:
                newest = [Text(seen["events"][-1], overflow="fold")]
            yield Section(Group(_line("── what happened ".ljust(width, "─"), "dim"), *newest), rank, least)
        yield Section(Text.assemble("control it: ", (self.ctl_line, "bold"), "   Ctrl-C stops in order", overflow="fold"), 0, 2)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _head(seen: dict[str, Any]) -> Text:
    pace = "as fast as it can" if not seen["speed"] else f"{seen['speed']:g} ×"
    phase = (seen["phase"], "green" if seen["phase"] == "running" else "yellow")
    parts: list[Any] = [("trader ", "bold"), f"{seen['instance']} · ", phase]
    if seen["trading"] != "running":
        parts += [" · ", (seen["trading"].replace("_", " "), "bold red")]
    parts.append(f" · {moment(seen['event_ns'])} UTC · {seen['mode']}, {seen['market']} market at {pace} · run {seen['run_id']}")
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _processes_in_a_line(processes: list[dict[str, Any]]) -> Text:
    sick = [f"{one['role']} {one['state']}" for one in processes if one["state"] not in WORKING_STATES]
    beat = max((one["heartbeat_age_ms"] or 0 for one in processes), default=0)
    restarts = sum(one["restarts"] for one in processes)
    return _line(f"{len(processes) - len(sick)}/{len(processes)} processes well, {restarts} restarts, heartbeat {beat} ms"
                 + "".join(f"; {one}" for one in sick), "yellow" if sick else "")


def _account(seen: dict[str, Any], width: int) -> Text:
    """Facts one behind the other, a new line where one does not fit."""
    most = seen["limits"].get("max_entries_per_day")
    won = f" ({seen['wins'] / seen['trades_closed']:.0%} won)" if seen["trades_closed"] else ""
    facts = [
        f"equity {cents(seen['equity'])} USDT", f"cash {cents(seen['cash'])}", f"realised {cents(seen['realised_pnl'])}",
        f"fees {cents(seen['fees'])}", f"drawdown {seen['max_drawdown_pct']:.2f} %",
        f"{seen['ticks']:,} ticks, {seen['ticks_per_s']:,.0f}/s" + (f", {seen['ticks_lost']} lost" if seen["ticks_lost"] else ""),
        f"{seen['trades_closed']} trades closed{won}", f"{seen['entries_today']}{'' if most is None else f'/{most}'} entries today",
        f"{seen['conditions']} conditions armed", f"{seen['working_orders']} orders working",
    ]
    lines = [facts[0]]
    for fact in facts[1:]:
        if len(lines[-1]) + 3 + len(fact) <= width:
            lines[-1] += f"   {fact}"
        else:
            lines.append(fact)
    text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
    text.stylize("bold", 0, len(facts[0]))
    return text


def _rows(columns: tuple[Column, ...], rows: list[dict[str, Any]], width: int, nothing: str) -> RenderableType:
    return grid(columns, rows, width)[0] if rows else Text(nothing, "dim")


def page(seen: dict[str, Any], ctl_line: str) -> RenderableType:
    """The whole page from one look."""
    return Page(seen, ctl_line)
