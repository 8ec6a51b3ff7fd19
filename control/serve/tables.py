"""Answers of the control socket as tables for people."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.serve.screen import moment, signed

#: columns of each command's rows, in order, as (key, heading); keys that a row lacks are left blank
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "status": (("role", "process"), ("state", "state"), ("pid", "pid"), ("restarts", "restarts"), ("heartbeat_age_ms", "heartbeat ms"),
               ("last_event_ns", "event time"), ("last_death", "last death")),
    "health": (("role", "process"), ("healthy", "healthy"), ("state", "state"), ("pid", "pid"), ("heartbeat_age_ms", "heartbeat ms"),
               ("restarts", "restarts"), ("problem", "problem")),
    "positions": (("id", "id"), ("symbol", "symbol"), ("side", "side"), ("state", "state"), ("size", "size"), ("entry_price", "entry"),
                  ("mark_price", "now"), ("unrealised_pnl", "P&L"), ("fees", "fees"), ("stop_price", "stop"), ("target_price", "target"),
                  ("strategy", "strategy"), ("opened_ns", "opened")),
    "conditions": (("symbol", "symbol"), ("side", "side"), ("price", "price"), ("direction", "goes"), ("level", "to"),
                   ("distance_bps", "bps away"), ("confidence", "confidence"), ("fired", "fired"), ("last_refusal", "last refusal"),
                   ("valid_until_ns", "valid until"), ("why", "why")),
    "orders": (("time_ns", "time"), ("id", "id"), ("symbol", "symbol"), ("purpose", "for"), ("side", "side"), ("order", "order"),
               ("state", "state"), ("size", "size"), ("filled", "filled"), ("average_price", "at"), ("fees", "fees"), ("reason", "reason"),
               ("reject", "reject"), ("strategy", "strategy")),
    "trades": (("time_ns", "closed"), ("symbol", "symbol"), ("side", "side"), ("size", "size"), ("entry_price", "entry"),
               ("exit_price", "exit"), ("pnl", "P&L"), ("fees", "fees"), ("reason", "reason"), ("held_s", "held s"),
               ("strategy", "strategy"), ("why", "why")),
}
#: what an answer without rows says
_EMPTY = {"positions": "no open positions", "conditions": "no conditions are armed", "orders": "no orders yet",
          "trades": "no closed trades yet"}
#: columns that are numbers
_RIGHT = {"pid", "restarts", "heartbeat_age_ms", "size", "filled", "entry_price", "exit_price", "mark_price", "unrealised_pnl", "pnl",
          "fees", "stop_price", "target_price", "level", "distance_bps", "confidence", "fired", "average_price", "held_s"}
_MONEY = {"unrealised_pnl", "pnl"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader has gone: for the command to handle, where rich would exit with 1."""
        raise BrokenPipeError


def print_answer(command: str, data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Facts first, then the rows. Into a pipe nothing is cut off: one line a row, however long."""
    console = _Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    if data:
        if data.get("simulated"):
            console.print("SIMULATED MARKET: results mean nothing", style="bold yellow")
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in data.items():
            facts.add_row(name.removesuffix("_ns") if name == "event_ns" else name, _fact(name, value))
        console.print(facts)
    if rows:
        console.print(_rows(command, rows))
    elif command in _EMPTY:
        console.print(_EMPTY[command])


def _rows(command: str, rows: list[dict[str, Any]]) -> Table:
    columns = COLUMNS.get(command) or tuple((key, key) for key in rows[0])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, heading in columns:
        table.add_column(heading, justify="right" if key in _RIGHT else "left", no_wrap=key != "why", overflow="ellipsis")
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key, _ in columns))
    return table


def _cell(key: str, value: Any) -> Text:
    if value is None or value == "":
        return Text("")
    if key.endswith("_ns"):
        return Text(moment(int(value)))
    if key in _MONEY:
        return signed(str(value))
    return Text("yes" if value is True else "no" if value is False else str(value))


def _fact(name: str, value: Any) -> Text:
    if name == "event_ns":
        return Text(moment(value))
    if name == "nearest":
        from control.serve.view import condition_text

        return Text("\n".join(map(condition_text, value)) or "none")
    if isinstance(value, dict):
        return Text("\n".join(f"{key}: {_inner(inner)}" for key, inner in value.items()) or "none")
    if isinstance(value, list):
        return Text("\n".join(map(str, value)) or "none")
    return Text(f"{value:.1f}" if isinstance(value, float) else "yes" if value is True else "no" if value is False else str(value))


def _inner(value: Any) -> str:
    return ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)
