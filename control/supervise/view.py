"""What an instance looks like at this moment, as one plain dict: for screen, log lines, control socket. Reads shared memory only.

Words are read without ordering: every number is a number that was there, not all of the same instant.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from decimal import Decimal
from typing import Any

import numpy as np

from control.serve.view import decimal_text, nearest_conditions, why_nothing
from ipc import board
from ipc import layout as l

#: newest closed trades that are shown
_TRADES = 8
#: seconds over which ticks a second are averaged
_RATE_S = 2.0
#: fields of a process on the board
_WORDS = l.PROCESS.names or ()


def money(quanta: int) -> str:
    """Quanta of the account currency with two places, for people."""
    return f"{Decimal(quanta).scaleb(-8):.2f}"


class View:
    """Looks at a session; call it for a dict, from any thread."""

    def __init__(self, session: Any) -> None:
        self._session, self._memory = session, session.memory
        self._began = time.monotonic()
        self._rates: deque[tuple[float, int]] = deque([(self._began, self._ticks())])
        self._lock, self._vitals_lock = threading.Lock(), threading.Lock()
        self._learned, self._behind_at = -1, self._began

    def __call__(self) -> dict[str, Any]:
        """Everything that a person wants to see."""
        with self._lock:
            seen = self._look()
        return {**seen, "why_nothing": why_nothing(seen)}

    def vitals(self) -> dict[str, Any]:
        """What health is made of, see control/serve/health.py: a fraction of everything, and no lock that a look holds. To be called now and then."""
        session, cursors = self._session, self._memory.board.cursors[0]
        mode, cause = board.severest(self._memory.board.modes)
        now, durable, learned = time.monotonic(), int(cursors["durable_orders"]), int(cursors["learned_orders"])
        with self._vitals_lock:
            if learned >= durable or learned != self._learned:
                self._learned, self._behind_at = learned, now
            behind_s = now - self._behind_at
        return {"phase": session.watchdog.phase.value, "market": session.plan.market, "trading": l.MODES[mode], "trading_cause": cause,
                "processes": self.processes(),
                "reflection_behind_s": behind_s, "wall_ns": time.time_ns()}

    def _ticks(self) -> int:
        return int(self._memory.ticks.readers[l.SNIPER]["cursor"])

    def _look(self) -> dict[str, Any]:
        session, memory = self._session, self._memory
        plan, account = session.plan, memory.sniper.account[0]
        mode, cause = board.severest(memory.board.modes)
        ticks = self._ticks()
        return {
            "instance": session.places.instance, "run_id": session.places.run_id, "mode": plan.mode, "market": plan.market,
            "simulated": plan.market == "simulated", "speed": plan.speed, "lockstep": plan.lockstep, "phase": session.watchdog.phase.value,
            "trading": l.MODES[mode], "trading_cause": cause, "uptime_s": time.monotonic() - self._began, "pid": session.pid,
            "event_ns": int(account["event_ns"]), "processes": self.processes(), "preparing": session.preparing(),
            "ticks": ticks, "ticks_per_s": self._rate(ticks), "ticks_lost": self._metric(l.SNIPER, "lost"),
            **{name: money(int(account[name])) for name in ("equity", "cash", "realised_pnl", "fees")},
            "trades_closed": int(account["trades_closed"]), "wins": int(account["wins"]),
            "max_drawdown_pct": int(account["max_drawdown_e6"]) / 10_000, "entries_today": int(account["entries_today"]),
            "working_orders": int(account["working_orders"]), "positions": self.positions(), "trades": self.trades(),
            "config_version": session.config_version, "learning": self.learning(),
            "refusals": self.refusals(),
            "latched": [self._strategy(number) for number in range(l.MAX_STRATEGIES) if int(account["latched"]) >> number & 1],
            "conditions": self.conditions_armed(),
            "nearest": nearest_conditions(memory),
            "warmup_left_s": self._metric(l.STRATEGIST, "warmup_left_s"),
            "limits": {"max_entries_per_day": plan.config.limits.max_entries_per_day,
                       "max_open_positions": plan.config.limits.max_open_positions,
                       "min_confidence": plan.config.limits.min_confidence},
            "events": list(session.chronicle.newest),
        }

    def _metric(self, role: int, name: str) -> int:
        return int(self._memory.board.processes[role]["metrics"][l.METRICS[role].index(name)])

    def _rate(self, ticks: int) -> float:
        now = time.monotonic()
        self._rates.append((now, ticks))
        while len(self._rates) > 2 and now - self._rates[0][0] > _RATE_S:
            self._rates.popleft()
        (first, before), (last, after) = self._rates[0], self._rates[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def processes(self) -> list[dict[str, Any]]:
        """State, pid, restarts and heartbeat of each process, in the order of readiness."""
        now, rows = time.monotonic_ns(), []
        for number, (name, words) in enumerate(zip(l.ROLES, self._memory.board.processes.tolist(), strict=False)):  # in one go: many times faster
            row, role = dict(zip(_WORDS, words, strict=True)), self._session.watchdog.roles[name]
            alive = role.handle.pid is not None and role.handle.exit_code is None
            rows.append({
                "role": name, "state": self._state(role, row), "pid": role.handle.pid if alive else None, "restarts": role.restarts,
                "heartbeat_age_ms": round((now - row["beat_ns"]) / 1e6) if alive and row["beat_ns"] else None,
                "progress": row["progress"], "last_event_ns": row["last_event_ns"],
                "last_death": role.last_death.cause if role.last_death else "",
                "metrics": dict(zip(l.METRICS[number], row["metrics"].tolist(), strict=False)),
            })
        return rows

    @staticmethod
    def _state(role: Any, row: Any) -> str:
        if role.state.value in ("starting", "down", "given up", "gone"):
            return {"down": "restarting", "gone": "stopped", "given up": "failed"}.get(role.state.value, role.state.value)
        if role.state.value == "ready" and role.handle.exit_code is not None:
            return "restarting"  # it has ended, and the watchdog has not come to it yet
        return l.PROC_STATES[row["state"]]

    def positions(self) -> list[dict[str, Any]]:
        """Open positions, valued at the side that would close them."""
        sniper, found = self._memory.sniper, []
        for p in sniper.positions[sniper.positions["state"] != l.POS_FLAT]:
            number = int(p["instrument"])
            facts, state = self._memory.instruments.instruments[number], sniper.instrument_states[number]
            side, value = int(p["side"]), int(facts["value_quanta"])
            mark = int(state["bid"] if side > 0 else state["ask"]) or int(state["last"])
            tick = (int(facts["tick_mantissa"]), int(facts["tick_exponent"]))
            entry = int(p["entry_quote"]) // value // int(p["entry_lots"]) if int(p["entry_lots"]) else 0
            found.append({
                "id": str(int(p["position_id"])), "symbol": facts["symbol"].decode(), "side": "long" if side > 0 else "short",
                "size": decimal_text(int(p["lots"]), int(facts["lot_mantissa"]), int(facts["lot_exponent"])),
                "entry_price": decimal_text(entry, *tick), "mark_price": decimal_text(mark, *tick),
                "unrealised_pnl": money(side * (mark * int(p["lots"]) * value - int(p["cost"])) if mark else 0),
                "stop_price": decimal_text(int(p["stop_price"]), *tick), "target_price": decimal_text(int(p["target_price"]), *tick),
                "strategy": self._strategy(int(p["strategy"])), "state": l.POSITION_STATES[int(p["state"])],
                "opened_ns": int(p["opened_ns"]),
            })
        return found

    def _strategy(self, number: int) -> str:
        return str(self._memory.instruments.strategies[number]["name"].decode())

    def trades(self) -> list[dict[str, Any]]:
        """Newest closed trades first, as far as the order ring still holds them."""
        slots, found = self._memory.orders.slots, []
        closed = slots[(slots["kind"] == l.CLOSED) & (slots["seq"] > 0)].view(l.TRADE)
        for record in closed[np.argsort(-closed["seq"])[:_TRADES]]:
            facts = self._memory.instruments.instruments[int(record["instrument"])]
            tick = (int(facts["tick_mantissa"]), int(facts["tick_exponent"]))
            found.append({
                "symbol": facts["symbol"].decode(), "side": "long" if int(record["side"]) > 0 else "short",
                "event_ns": int(record["event_ns"]), "entry_price": decimal_text(int(record["entry_price"]), *tick),
                "exit_price": decimal_text(int(record["exit_price"]), *tick),
                "size": decimal_text(int(record["lots"]), int(facts["lot_mantissa"]), int(facts["lot_exponent"])),
                "pnl": money(int(record["pnl"])), "fees": money(int(record["fees"])),
                "exit_reason": l.EXIT_REASONS[int(record["exit_reason"])], "strategy": self._strategy(int(record["strategy"])),
            })
        return found

    def refusals(self) -> dict[str, int]:
        """Refused entries by code."""
        counts = self._memory.sniper.refusals
        return {name: int(counts[code]) for code, name in enumerate(l.REFUSALS) if int(counts[code])}

    def learning(self) -> dict[str, int]:
        """What is known of the instance's closed trades, over all of its runs: so many are in the knowledge, the last one closed then; so many are
        closed and not in it yet; of so many coins something is known, and for so many entries have another size than normal."""
        learned = self._metric(l.REFLECTION, "trades_applied")
        return {"trades": learned, "last_trade_ns": self._metric(l.REFLECTION, "last_trade_ns"),
                "waiting": max(0, int(self._memory.sniper.account[0]["trades_closed"]) - learned),
                "coins": self._metric(l.REFLECTION, "coins"), "adapted": self._metric(l.REFLECTION, "coins_adapted")}

    def conditions_armed(self) -> int:
        """Conditions of the live generation."""
        conditions = self._memory.conditions
        return int(conditions.generations[int(conditions.table[0]["generation"]) & 1]["armed"])
