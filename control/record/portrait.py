"""The past in names and decimal strings, for people and scripts: days, positions with their protection, trades, and what has changed since."""

from __future__ import annotations

from typing import Any

import numpy as np

from control.record import records
from control.record.journal import Journal
from control.record.past import Close, Figures, Past
from control.record.queries import Queries
from control.record.records import JournalError, decimal_text
from control.record.timeline import ring_records
from ipc import layout as l


class Portrait:
    """What a journal says of its past. Raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self.past = Past(journal)
        self.journal, self.timeline, self.queries = journal, self.past.timeline, Queries(journal)

    def money(self, quanta: int) -> str:
        """Quanta as a decimal string."""
        return decimal_text(int(quanta), self.past.exponent)

    def facts(self) -> dict[str, Any]:
        """Of the whole account."""
        return {"path": str(self.journal.path), "records": len(self.timeline.numbers), "last_seq": self.timeline.last,
                "final_seq": self.timeline.final}

    # ── days ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def day(self, figures: Figures) -> dict[str, Any]:
        """A day's row."""
        day, close = figures.day, figures.close
        return {
            "date": day.date.isoformat(), "first_seq": day.first, "last_seq": day.last, "from_ns": self.timeline.event_ns(day.first),
            "to_ns": self.timeline.event_ns(day.last), "runs": figures.runs, "configs": figures.configs, "orders": figures.orders,
            "fills": figures.fills, "trades": figures.trades, "wins": figures.wins, "fees": self.money(figures.fees),
            "realised_pnl": self.money(figures.realised), "deposits": self.money(figures.deposits),
            "equity_start": self.money(figures.equity_start), "equity_end": self.money(close.equity),
            "pnl": self.money(close.equity - figures.equity_start), "cash": self.money(close.cash), "open_positions": len(close.open),
            "restarts": figures.restarts, "differences": list(close.differences),
        }

    def trades(self, first: int, last: int, limit: int) -> list[dict[str, Any]]:
        """The newest closed trades between two numbers, oldest first; keys as `trader-ctl trades` has them."""
        orders, _ = self.past.between(first, last)
        closed = list(ring_records(records.ORDER, self.timeline.orders, orders, (l.CLOSED,)))[-limit:]
        return [self.queries.trade_row(records.Record(records.TRADE, one.incarnation, 0, one.seq, one.event_ns, 0, 0, one.payload)) for one in closed]

    # ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────────
    def held(self, number: int, close: Close) -> dict[str, Any]:
        """Positions with their protection, and orders that were working, behind a number's record; `unprotected` says why protection is not known."""
        from control.record.rebuilt import book_at

        try:
            book = book_at(self.journal, self.timeline.point(number))
        except JournalError as error:
            return {"positions": [self._bare(identity, close) for identity in close.open], "working": [], "unprotected": str(error)}
        found = {"positions": [self._position(one, close) for one in book.positions], "working": [self._working(one) for one in book.working],
                 "unprotected": ""}
        return found | {"account": {name: self.money(book.account[name]) for name in ("cash", "realised_pnl", "fees")}
                        | {name: book.account[name] for name in ("trades_closed", "wins")}, "from_snapshot": book.from_snapshot}

    def _position(self, p: dict[str, Any], close: Close) -> dict[str, Any]:
        fact, mark = p["fact"], close.marks.get(p["symbol"])

        def price(ticks: int) -> str:
            return str(fact.price_text(ticks)) if ticks else ""

        worth = p["side"] * (mark.price * p["lots"] * fact.value_quanta - p["cost"]) if mark and p["lots"] else 0
        return {
            "id": str(p["position_id"]), "symbol": p["symbol"], "strategy": p["strategy"], "side": "long" if p["side"] > 0 else "short",
            "state": l.POSITION_STATES[p["state"]], "size": fact.size_text(p["lots"]),
            "entry_price": price(p["entry_quote"] // fact.value_quanta // p["entry_lots"]) if p["entry_lots"] else "",
            "mark_price": price(mark.price) if mark else "", "mark_ns": mark.event_ns if mark else 0, "unrealised_pnl": self.money(worth),
            "fees": self.money(p["fees"]), "stop_price": price(p["stop_price"]), "target_price": price(p["target_price"]),
            "best_price": price(p["best_price"]) if p["trail_distance_bps"] else "", "trail_distance_bps": p["trail_distance_bps"],
            "trail_activation_price": price(p["trail_activation_price"]), "break_even_bps": p["break_even_bps"], "adjustments": p["adjustments"],
            "rungs_left": p["rungs"] - p["rungs_done"], "opened_ns": p["opened_ns"], "deadline_ns": p["deadline_ns"],
            "exit_reason": l.EXIT_REASONS[p["exit_reason"]], "condition_id": str(p["condition_id"]), "why": self.queries.why(p["condition_id"]),
        }

    def _bare(self, identity: int, close: Close) -> dict[str, Any]:
        """A position by its fills alone."""
        trip = close.open[identity]
        fact, mark = self.past.fact(trip.symbol), close.marks.get(trip.symbol)
        assert fact is not None, "a fill of an unknown instrument opens nothing"
        return {"id": str(identity), "symbol": trip.symbol, "side": "long" if trip.side > 0 else "short", "size": fact.size_text(trip.lots),
                "entry_price": fact.price_text(trip.entry_quote // fact.value_quanta // trip.entry_lots), "fees": self.money(trip.fees),
                "mark_price": fact.price_text(mark.price) if mark else ""}

    def _working(self, order: dict[str, Any]) -> dict[str, Any]:
        fact, seq = order["fact"], order["order_seq"]
        return {"order": f"{seq >> 40}/{seq & ((1 << 40) - 1)}", "symbol": order["symbol"], "strategy": order["strategy"],
                "purpose": "exit" if order["purpose"] == l.EXIT else "entry", "side": "buy" if order["side"] > 0 else "sell",
                "size": fact.size_text(order["lots"]), "filled": fact.size_text(order["cum_lots"]),
                "limit_price": fact.price_text(order["limit_price"]) if order["limit_price"] else "", "unknown": bool(order["unknown"]),
                "position": str(order["position_id"])}

    # ── a start at that moment ───────────────────────────────────────────────────────────────────────────────────────
    def restored(self, number: int) -> dict[str, Any]:
        """The book behind a number's record, and in `differs` what is not so any more."""
        then, now = self.past.closes(number, self.timeline.last)
        book = self.held(number, then)
        if book["unprotected"]:
            raise JournalError(book["unprotected"])
        of_now = self.held(self.timeline.last, now)
        point = self.timeline.point(number)
        return {"seq": number, "time_ns": self.timeline.event_ns(number), "incarnation": point.incarnation, "orders": point.orders,
                "reports": point.reports, "final": number <= self.timeline.final, "equity": self.money(then.equity), **book,
                "armed": self._armed(number), "last_seq": self.timeline.last, "last_ns": self.timeline.event_ns(self.timeline.last),
                "equity_now": self.money(now.equity), "differs": self._differs(number, book, of_now)}

    def _armed(self, number: int) -> dict[str, Any]:
        """What the last SWAPPED record of that life of the sniper says: how many conditions were armed, by which plan."""
        orders, _ = self.past.between(self.timeline.begins_behind(self.timeline.point(number).incarnation) + 1, number)
        swapped = self.timeline.orders.rows[orders]
        last = swapped[swapped["kind"] == l.SWAPPED][-1:]
        return {"conditions": int(last["value"].sum()), "plan_seq": int(last["plan_seq"].sum())}

    def _differs(self, number: int, then: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [{"what": name, "id": "", "symbol": "", "then": str(then["account"][name]), "now": str(now["account"].get(name, ""))}
                for name in then["account"] if then["account"][name] != now.get("account", {}).get(name)]
        closed = {one["position"]: one for one in self.trades(number + 1, self.timeline.last, 1 << 30)}
        before, after = ({one["id"]: one for one in book["positions"]} for book in (then, now))
        for identity in sorted(before.keys() | after.keys(), key=int):
            old, new = before.get(identity), after.get(identity)
            symbol = (old or new or {})["symbol"]
            if old is None or new is None:
                end = f"closed: {closed[identity]['reason']}, P&L {closed[identity]['pnl']}" if identity in closed else "not open"
                rows.append({"what": "position", "id": identity, "symbol": symbol, "then": _open(old) if old else "not open",
                             "now": _open(new) if new else end})
                continue
            rows += [{"what": key, "id": identity, "symbol": symbol, "then": str(old[key]), "now": str(new.get(key, ""))}
                     for key in ("state", "size", "stop_price", "target_price", "rungs_left", "adjustments") if old[key] != new.get(key)]
        working = [{one["order"] for one in book["working"]} for book in (then, now)]
        rows += [{"what": "working order", "id": order, "symbol": "", "then": "working" if order in working[0] else "not working",
                  "now": "working" if order in working[1] else "not working"} for order in sorted(working[0] ^ working[1])]
        orders, _ = self.past.between(number + 1, self.timeline.last)
        made = int(np.count_nonzero(self.timeline.orders.rows[orders]["kind"] == l.NEW))
        return [*rows, {"what": "orders since", "id": "", "symbol": "", "then": "", "now": str(made)}] if made else rows


def _open(position: dict[str, Any]) -> str:
    return f"{position['side']} {position['size']} at {position['entry_price']}" if position["entry_price"] else f"{position['side']}, opening"
