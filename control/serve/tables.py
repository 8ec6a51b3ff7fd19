"""Answers of the control socket as tables for people: with units, aligned, as wide as the terminal. Scripts take --json."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from control.serve.grid import Column, cents, grid, moment, signed
from control.serve.view import latency, span

#: columns of each command's rows, in order
COLUMNS: dict[str, tuple[Column, ...]] = {
    "status": (Column("role", "process"), Column("state", "state"), Column("pid", "pid", right=True),
               Column("restarts", "restarts", right=True), Column("heartbeat_age_ms", "heartbeat", right=True),
               Column("last_event_ns", "event time (UTC)", 1), Column("last_death", "last death", text=True)),
    "health": (Column("role", "process"), Column("status", "status"), Column("pid", "pid", 2, right=True),
               Column("heartbeat_age_ms", "heartbeat", 1, right=True), Column("error_count", "errors", right=True),
               Column("restarts", "restarts", right=True), Column("metrics", "what it does", text=True)),
    "errors": (Column("wall_ns", "time (UTC)"), Column("process", "process", 1), Column("activity", "activity"), Column("class", "class", 3),
               Column("decision", "decision"), Column("in_a_row", "in a row", 4, right=True),
               Column("errors_per_h", "errors/h", 2, right=True), Column("recoveries_per_h", "recovered/h", 5, right=True),
               Column("text", "text", text=True)),
    "positions": (Column("id", "id"), Column("symbol", "symbol"), Column("side", "side"), Column("state", "state", 4),
                  Column("size", "size", right=True), Column("entry_price", "entry", 1, right=True), Column("mark_price", "now", 1, right=True),
                  Column("unrealised_pnl", "P&L USDT", right=True), Column("fees", "fees USDT", 3, right=True),
                  Column("stop_price", "stop", 2, right=True), Column("target_price", "target", 2, right=True),
                  Column("strategy", "strategy", 5), Column("opened_ns", "opened (UTC)", 6)),
    "conditions": (Column("symbol", "symbol"), Column("side", "side"), Column("trigger", "when", text=True),
                   Column("distance_bps", "bps away", right=True),
                   Column("confidence", "confidence", right=True), Column("fired", "fired", 5, right=True),
                   Column("last_refusal", "last refusal", 3), Column("valid_until_ns", "valid until (UTC)", 4), Column("why", "why", 6, text=True)),
    "orders": (Column("time_ns", "time (UTC)", 2), Column("id", "id", 4), Column("symbol", "symbol"), Column("purpose", "for"),
               Column("side", "side"), Column("order", "order", 5), Column("state", "state"), Column("size", "size", 1, right=True),
               Column("filled", "filled", right=True), Column("average_price", "at", right=True), Column("fees", "fees USDT", 3, right=True),
               Column("reason", "reason", 1), Column("reject", "reject"), Column("strategy", "strategy", 6)),
    "trades": (Column("time_ns", "closed (UTC)", 3), Column("symbol", "symbol"), Column("side", "side"), Column("size", "size", 4, right=True),
               Column("entry_price", "entry", 1, right=True), Column("exit_price", "exit", 1, right=True), Column("pnl", "P&L USDT", right=True),
               Column("fees", "fees USDT", 2, right=True), Column("reason", "reason"), Column("held_s", "held", 2, right=True),
               Column("strategy", "strategy", 5), Column("why", "why", 6, text=True)),
    "knowledge": (Column("family", "kind"), Column("value", "value"), Column("status", "status"), Column("trades", "trades", right=True),
                  Column("wins", "won", 1, right=True), Column("mean_bps", "bps a trade", right=True), Column("pnl", "P&L USDT", 2, right=True),
                  Column("average_win_bps", "bps won", 3, right=True), Column("average_loss_bps", "bps lost", 3, right=True),
                  Column("trend_bps", "trend bps", 2, right=True), Column("streak", "streak", 4, right=True),
                  Column("on_paper", "on paper", 4, right=True), Column("evidence", "evidence", 1), Column("confidence", "confidence", 3, right=True),
                  Column("avoided", "avoided USDT", 3, right=True), Column("rests_on", "rests on", 6)),
    "adaptations": (Column("number", "no.", right=True), Column("action", "what"), Column("value", "for"), Column("stage", "stage"),
                    Column("size_scale", "size ×", right=True), Column("before_bps", "bps before", right=True),
                    Column("trades_before", "trades", 2, right=True), Column("since_bps", "bps since", right=True),
                    Column("trades_since", "trades", 2, right=True), Column("avoided", "avoided USDT", 3, right=True),
                    Column("since_ns", "since (UTC)", 3), Column("why", "why", 4, text=True)),
    "why": (Column("closed_ns", "closed (UTC)"), Column("position", "position", 3), Column("symbol", "symbol"), Column("side", "side"),
            Column("strategy", "strategy", 2), Column("net_bps", "bps", right=True), Column("exit", "exit"), Column("made", "made"),
            Column("version", "version", 1, right=True)),
    "audit": (Column("seq", "seq", right=True), Column("time_ns", "time (UTC)", 1), Column("record", "record", 4), Column("what", "what"),
              Column("symbol", "symbol"), Column("side", "side", 2), Column("size", "size", 2, right=True), Column("price", "price", 2, right=True),
              Column("strategy", "strategy", 3), Column("text", "text", text=True)),
    "session list": (Column("date", "day (UTC)"), Column("seq", "events", 3), Column("runs", "runs", 4, right=True), Column("configs", "config", 5),
                     Column("orders", "orders", 3, right=True), Column("fills", "fills", 4, right=True), Column("trades", "trades", right=True),
                     Column("fees", "fees USDT", 2, right=True), Column("realised_pnl", "realised USDT", 1, right=True),
                     Column("equity_start", "equity from", 2, right=True), Column("equity_end", "to", right=True),
                     Column("pnl", "P&L USDT", right=True), Column("open_positions", "open", 3, right=True),
                     Column("restarts", "restarts", 5, right=True), Column("differs", "books")),
    "session working": (Column("order", "order"), Column("symbol", "symbol"), Column("purpose", "for"), Column("side", "side"),
                        Column("size", "size", right=True), Column("filled", "filled", right=True), Column("limit_price", "limit", right=True),
                        Column("strategy", "strategy", 5)),
    "session positions": (Column("id", "id", 3), Column("symbol", "symbol"), Column("side", "side"), Column("state", "state", 4),
                          Column("size", "size", right=True), Column("entry_price", "entry", 1, right=True),
                          Column("mark_price", "last known", 1, right=True), Column("unrealised_pnl", "P&L USDT", right=True),
                          Column("stop_price", "stop", 2, right=True), Column("target_price", "target", 2, right=True),
                          Column("protection", "and", 4, text=True), Column("strategy", "strategy", 5), Column("opened_ns", "opened (UTC)", 6)),
    "session differs": (Column("what", "what"), Column("id", "id", 1), Column("symbol", "symbol"), Column("then", "then"),
                        Column("now", "now", text=True)),
}
#: what an answer without rows says
_EMPTY = {"knowledge": "no trade has closed yet", "adaptations": "nothing was learned yet that changes anything",
          "positions": "no open positions", "conditions": "no conditions are armed", "orders": "no orders yet",
          "trades": "no closed trades yet", "session list": "nothing was recorded yet", "errors": "nothing has failed"}
#: a trade's side in the journal is that of its entry
_TRADE_SIDES = {"buy": "long", "sell": "short"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader has gone: for the command to handle, where rich would exit with 1."""
        raise BrokenPipeError


def print_answer(command: str, data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Facts first, then the rows. Into a pipe nothing is cut off: one line a row, however long, without blanks at its end."""
    terminal = sys.stdout.isatty()
    # what is shown comes from anywhere, a model's words too: it is text, and neither markup nor emoji
    console = _Console(width=None if terminal else 400, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        if data.get("simulated"):
            console.print("SIMULATED MARKET: results mean nothing", style="bold yellow")
        if data:
            console.print(_facts(command, data))
        if rows:
            if data:
                console.print()
            _print_rows(console, command, rows, console.width if terminal else None)
        elif command in _EMPTY:
            console.print(_EMPTY[command])
    for line in captured.get().splitlines():
        print(line.rstrip())


def _print_rows(console: Console, command: str, rows: list[dict[str, Any]], width: int | None) -> None:
    if command == "trades":
        rows = [{**row, "side": _TRADE_SIDES.get(row.get("side", ""), row.get("side"))} for row in rows]
    if command == "conditions":
        rows = [{**row, "last_refusal": "" if row.get("last_refusal") == "none" else row.get("last_refusal")} for row in rows]
    if command == "errors":
        rows = [{**row, "decision": f"pause {span(row['pause_s'])}"} if row.get("pause_s") else row for row in rows]
    if command == "health":
        rows = [{**row, "metrics": _metrics(row.get("metrics") or {})} for row in rows]
    if command == "knowledge" and "family" not in rows[0]:
        command = ""  # figures by one dimension
    columns = COLUMNS.get(command) or tuple(Column(key, key) for key in rows[0])
    table, missing = grid(columns, rows, width)
    console.print(table)
    if missing:
        console.print(f"without {', '.join(missing)}: the terminal is too narrow; --json gives all", style="dim")


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _facts(command: str, data: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    try:
        facts = {"status": _status, "health": _health, "stats": _stats, "knowledge": _knowledge, "why": _why}.get(command, _plainly)(data)
    except (KeyError, TypeError, ValueError):  # another version's answer: shown as it is
        facts = _plainly(data)
    for name, fact in facts.items():
        table.add_row(Text(name), Text(fact) if isinstance(fact, str) else fact)
    return table


def _status(data: dict[str, Any]) -> dict[str, Any]:
    pace = "as fast as it can" if not data["speed"] else f"{data['speed']:g} ×"
    facts: dict[str, Any] = {
        "instance": f"{data['instance']}: {data['mode']}, {data['market']} market at {pace}" + (", lockstep" if data["lockstep"] else ""),
        "run": f"{data['run_id']}, {data['phase']} for {span(data['uptime_s'])}, launcher pid {data['pid']}",
        "entries": "allowed" if data["trading"] == "running" else f"none: {data['trading'].replace('_', ' ')}, {data['trading_cause']}",
        "event time": f"{moment(data['event_ns'])} UTC",
        **_account(data),
        "open": f"{data['open_positions']} positions, {data['working_orders']} orders",
        "conditions": f"{data['conditions']} armed",
        "learned": _learned(data["learning"]),
        "configuration": f"version {data['config_version']}",
    }
    if data["preparing"]:
        facts["preparing"] = f"kernels {data['preparing']}"
    return facts | {"why nothing": "\n".join(data["why_nothing"])}


def _learned(data: dict[str, Any]) -> str:
    if not data["trades"]:
        return f"no trade yet, {data['waiting']} waiting"
    return (f"{data['trades']} trades, the last of {moment(data['last_trade_ns'])} UTC, {data['waiting']} waiting; {data['coins']} coins known, "
            f"{data['adapted']} with another size")


def _account(data: dict[str, Any]) -> dict[str, Any]:
    won = f", {data['wins']} won ({data['wins'] / data['trades_closed']:.0%})" if data["trades_closed"] else ""
    return {
        "ticks": f"{data['ticks']:,}, {data['ticks_per_s']:,.0f}/s, {data['ticks_lost']} lost",
        "equity": Text.assemble(f"{cents(data['equity'])} USDT, cash {cents(data['cash'])}, realised ", signed(cents(data["realised_pnl"])),
                                f", fees {cents(data['fees'])}, drawdown {data['max_drawdown_pct']:.2f} %"),
        "trades": f"{data['trades_closed']} closed{won}; {data['entries_today']} entries today",
    }


def _health(data: dict[str, Any]) -> dict[str, Any]:
    learned = data["adaptation"]
    last = f", the last of {moment(learned['last_trade_ns'])} UTC" if learned["applied"] else ""
    facts = {
        "healthy": "yes" if data["healthy"] else "no",
        "instance": data["phase"],
        "entries": "allowed" if data["trading"] == "running" else f"none: {data['trading'].replace('_', ' ')}",
        "problems": "\n".join(data["problems"]) or "none",
    }
    for name, one in data["databases"].items():
        commit = f"last commit {latency(1000 * one['commit_us'])}" if one["commit_us"] else "no commit yet"
        facts[name] = f"{'writable' if one['writable'] else 'cannot be written'}, {one['free_mb']:,} MB free, {commit}"
    return facts | {"learned": f"{learned['applied']} trades{last}, {learned['errors']} errors"}


def _knowledge(data: dict[str, Any]) -> dict[str, Any]:
    looked = f"{moment(data['last_look_ns'])} UTC" if data["last_look_ns"] else "never"
    return {"version": str(data["version"]), "learned": f"{data['trades']} trades",
            "last look": f"{looked}; {data['trades_since_look']} trades since"}


def _why(data: dict[str, Any]) -> dict[str, Any]:
    return {"": "\n".join(data["text"])}


def _metrics(metrics: dict[str, Any]) -> str:
    """What a process does: numbers with the unit that their name ends in, moments in UTC."""
    return ", ".join(_metric(*one) for one in metrics.items())


def _metric(name: str, value: Any) -> str:
    stem, _, unit = name.rpartition("_")
    if isinstance(value, int) and not isinstance(value, bool):
        match unit:
            case "ns":
                return f"{stem.replace('_', ' ')} {moment(value)}" + (" UTC" if value > 0 else "")
            case "us" | "ms":
                size = 1000 if unit == "us" else 1_000_000
                return f"{stem.replace('_', ' ')} {latency(value * size) if value else '0 s'}"
            case "mb":
                return f"{stem.replace('_', ' ')} {value:,} MB"
        return f"{name.replace('_', ' ')} {value:,}"
    return f"{name.replace('_', ' ')} {_words(value)}"


def _stats(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "uptime": span(data["uptime_s"]), "event time": f"{moment(data['event_ns'])} UTC", **_account(data),
        "conditions": f"{data['conditions']} armed; {data['working_orders']} orders working",
        "refused entries": ", ".join(f"{count} × {code}" for code, count in data["refusals"].items()) or "none",
        "decision": _latencies(data["decision_ns"], "tick read → intent published"),
        "tick to intent": _latencies(data["tick_to_intent_ns"], "published by the feed → intent readable"),
        **{role: _metrics(metrics) for role, metrics in data["metrics"].items()},
    }


def _latencies(quantiles: dict[str, int], what: str) -> str:
    if not quantiles["max"]:
        return f"none yet   ({what})"
    return "   ".join(f"{name} {latency(value)}" for name, value in quantiles.items()) + f"   ({what})"


def _plainly(data: dict[str, Any]) -> dict[str, Any]:
    return {name: _words(value) for name, value in data.items()}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    return "yes" if value is True else "no" if value is False else str(value).replace("_", " ")
