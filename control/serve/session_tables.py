"""`trader-ctl session` for people: the same tables as of the living instance, and headings between them."""

from __future__ import annotations

from typing import Any

from control.serve.grid import cents, moment
from control.serve.tables import print_answer


def print_sessions(what: str, data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The answer to `session list`, `show` or `restore`."""
    {"list": _list, "show": _show, "restore": _restore}[what](data, rows)


def _list(data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    shown = [{**row, "runs": str(len(row["runs"])), "configs": ", ".join(row["configs"]), "seq": f"{row['first_seq']}–{row['last_seq']}",
              "differs": "does not add up" if row["differences"] else "",
              **{key: cents(row[key]) for key in ("equity_start", "equity_end", "realised_pnl")}} for row in rows]
    print_answer("session list", {}, shown)


def _show(data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    facts = {
        "day": f"{data['date']}, events {data['first_seq']} to {data['last_seq']}, {moment(data['from_ns'])} to {moment(data['to_ns'])} UTC",
        "runs": ", ".join(data["runs"]) + f"; configuration {', '.join(data['configs'])}; restarted processes: {data['restarts']}",
        "equity": f"{cents(data['equity_start'])} → {cents(data['equity_end'])} USDT, P&L {cents(data['pnl'])}; cash {cents(data['cash'])}",
        "trades": f"{data['trades']} closed, {data['wins']} won; realised {cents(data['realised_pnl'])}, fees {cents(data['fees'])}; "
                  f"{data['orders']} orders, {data['fills']} fills",
    }
    print_answer("session show", facts | _warnings(data), [])
    _held(data)
    _section("trades", "trades", data["trades_of_day"])
    _section("audit trail", "audit", rows)


def _restore(data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    account = data["account"]
    facts = {
        "event": f"{data['seq']}, {moment(data['time_ns'])} UTC; incarnation {data['incarnation']}, order ring {data['orders']}, "
                 f"report ring {data['reports']}",
        "account": f"cash {cents(account['cash'])} USDT, equity {cents(data['equity'])}; realised {cents(account['realised_pnl'])}, fees "
                   f"{cents(account['fees'])}; {account['trades_closed']} trades closed, {account['wins']} won",
        "armed": f"{data['armed']['conditions']} conditions, at plan {data['armed']['plan_seq']}",
        "book": "a snapshot and the records behind it" if data["from_snapshot"] else "all records from the first one on; no snapshot of then is kept",
        "now": f"event {data['last_seq']}, {moment(data['last_ns'])} UTC, equity {cents(data['equity_now'])}",
    }
    if not data["final"]:
        facts["not final"] = "the sniper may still be making records that belong before this one"
    print_answer("session restore", facts | _warnings(data), [])
    _held(data)
    _section("since then", "session differs", rows)
    print("\ndry run: nothing was changed")


def _warnings(data: dict[str, Any]) -> dict[str, str]:
    found = {"protection": f"not known: {data['unprotected']}"} if data["unprotected"] else {}
    return found | ({"does not add up": "\n".join(data["differences"][:5])} if data.get("differences") else {})


def _held(data: dict[str, Any]) -> None:
    _section("positions", "session positions", [{**one, "protection": _protection(one)} for one in data["positions"]])
    if data["working"]:
        _section("working orders", "session working", data["working"])


def _protection(position: dict[str, Any]) -> str:
    """What protects a position beside stop and target."""
    told = []
    if position.get("trail_distance_bps"):
        told.append(f"trailing by {position['trail_distance_bps']} bps, from {position['trail_activation_price'] or 'the entry'} on")
    if position.get("break_even_bps"):
        told.append(f"break-even at {position['break_even_bps']} bps")
    if position.get("rungs_left"):
        told.append(f"{position['rungs_left']} rungs left")
    if position.get("deadline_ns"):
        told.append(f"out by {moment(position['deadline_ns'])}")
    return ", ".join(told)


def _section(title: str, command: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}{'' if rows else ': none'}")
    if rows:
        print_answer(command, {}, rows)
