"""Tables for people that fit: what is empty is left out, what is least needed goes first, prices of a symbol align at their point."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from control.serve.view import span, two_places

#: columns between two columns of a table
_GAP = 2
#: a column of running text is not narrower than this
_LEAST_TEXT = 30
#: keys whose values are prices of the row's symbol
_PRICES = ("entry_price", "exit_price", "mark_price", "average_price", "stop_price", "target_price", "level")
#: keys whose values are amounts of the account currency; those with a sign are coloured by it
_MONEY = ("unrealised_pnl", "pnl", "fees")
_SIGNED = ("unrealised_pnl", "pnl")
#: colours of process states
_STATES = {"healthy": "green", "finished": "cyan", "failed": "bold red", "stopped": "dim", "starting": "yellow", "restarting": "bold yellow",
           "degraded": "bold yellow"}


@dataclass(frozen=True)
class Column:
    """`rank` 0 is always shown; the highest goes first where the width does not suffice. `text` is running text, which folds."""

    key: str
    heading: str
    rank: int = 0
    right: bool = False
    text: bool = False


def grid(columns: Sequence[Column], rows: Sequence[dict[str, Any]], width: int | None) -> tuple[Table, list[str]]:
    """(the table, headings of what did not fit). No width: everything is shown. Columns without a value in any row are left out."""
    rows = with_aligned_prices(rows)
    cells = {column: [cell(column.key, row.get(column.key)) for row in rows] for column in columns}
    shown = [column for column in columns if any(one.cell_len for one in cells[column])]
    missing: list[Column] = []
    if width is not None:
        while len(shown) > 1 and _width(shown, cells) > width and max(column.rank for column in shown):
            missing.append(max(shown, key=lambda column: column.rank))
            shown.remove(missing[-1])
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(Text(column.heading), justify="right" if column.right else "left", no_wrap=not column.text,
                         overflow="fold" if column.text else "ellipsis")
    for number in range(len(rows)):
        table.add_row(*(cells[column][number] for column in shown))
    return table, [column.heading for column in missing]


def _width(columns: Sequence[Column], cells: dict[Column, list[Text]]) -> int:
    total = _GAP * (len(columns) - 1)
    for column in columns:
        widest = max([len(column.heading), *(one.cell_len for one in cells[column])])
        total += min(widest, _LEAST_TEXT) if column.text else widest
    return total


def with_aligned_prices(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the rows in which all prices of a symbol have as many decimals."""
    decimals: dict[str, int] = {}
    for row in rows:
        for key in _PRICES:
            text = str(row.get(key) or "")
            decimals[row.get("symbol", "")] = max(decimals.get(row.get("symbol", ""), 0), len(text.partition(".")[2]))
    return [{key: padded(str(value), decimals[row.get("symbol", "")]) if key in _PRICES and value else value for key, value in row.items()}
            for row in rows]


def padded(number: str, decimals: int) -> str:
    """A decimal string with at least so many decimals; text that is no number stays as it is."""
    whole, _, part = number.partition(".")
    return f"{whole}.{part.ljust(decimals, '0')}" if decimals and whole.lstrip("-").isdigit() else number


def cell(key: str, value: Any) -> Text:
    """One value as its key wants it."""
    if value is None or value == "":
        return Text("")
    if key.endswith("_ns"):
        return Text(moment(int(value)))
    if key in _MONEY:
        text = cents(str(value))
        return signed(text) if key in _SIGNED else Text(text)
    if key in ("state", "status"):
        return Text(str(value).replace("_", " "), _STATES.get(value, ""))
    if key == "heartbeat_age_ms":
        return Text(f"{value} ms")
    if key == "held_s":
        return Text(span(float(value)))
    if key == "distance_bps":
        return Text(f"{value:.1f}")
    if key == "confidence":
        return Text(two_places(value))
    return Text("yes" if value is True else "no" if value is False else str(value))


def cents(amount: str) -> str:
    """An amount of the account currency with two decimals, for people; scripts get all of it. What is no number stays."""
    try:
        return f"{float(amount):,.2f}"
    except ValueError:
        return amount


def signed(amount: str) -> Text:
    """An amount in green or red."""
    return Text(amount, "red" if amount.startswith("-") else "green")


def moment(event_ns: int) -> str:
    """Event time as UTC date and time, – where there is none yet."""
    if event_ns <= 0:
        return "–"
    return datetime.datetime.fromtimestamp(event_ns // 10**9, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
