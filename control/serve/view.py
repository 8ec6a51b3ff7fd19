"""What people are told of a running instance: status, stats, and *why nothing happens* when nothing does.

Pure: everything comes from the dict that control/supervise/view.py makes ("seen") and from shared memory, read without ordering.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

from hotpath.arming import armed_slots, clauses_of, level_of, trigger_of
from ipc import board
from ipc import layout as l

#: a healthy heart beats at least this often, in ms; the watchdog's limits, which lead to a replacement, are wider
LATE_BEAT_MS = 1_000
#: process states in which a process does its work
WORKING_STATES = ("healthy", "finished")
_DAY_NS = 86_400 * 10**9
#: what to do, by how the cause of a mode begins
_REMEDIES = {
    "journal cannot write": " until it can; free space on its disk (logs/recorder.log)",
    "knowledge cannot be written": " until it can; free space on its disk (logs/reflection.log)",
    "knowledge is of another journal": "; stop, and restore journal, paper and knowledge from the same backup, or move the knowledge folder away, "
                                        "and it is learned anew (logs/reflection.log)",
    board.LEDGER: " until it can be written; free space on its disk (logs/gateway.log)",
    board.ACCOUNT: " until the sniper has applied what the venue says; a moment after each start (logs/gateway.log)",
    "paused": "; trader-ctl resume goes on",
}
#: keys of `seen` that status leaves to other commands
_NOT_STATUS = ("positions", "trades", "refusals", "limits", "events", "processes")


def decimal_text(value: int, mantissa: int, exponent: int) -> str:
    """value × mantissa × 10^exponent, exactly, without trailing zeros."""
    text = f"{Decimal(value * mantissa).scaleb(exponent):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def two_places(share: float) -> str:
    """A confidence, never rounded up: 0.6999 must not read as the limit that it misses."""
    return f"{int(share * 100 + 1e-9) / 100:.2f}"


def span(seconds: float) -> str:
    """A length of time: 12.5 s, 3 min 7 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds % 1 and seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for size, name, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def latency(nanoseconds: float) -> str:
    """A latency with a unit that keeps it short: 850 ns, 2.4 µs, 13.8 ms."""
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.1f} {unit}"
    return f"{nanoseconds:.0f} ns"


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────
def nearest_conditions(memory: Any, limit: int = 3) -> list[dict[str, Any]]:
    """Armed conditions that may still fire, nearest first: symbol, side, trigger, direction, level, distance_bps, confidence.

    The distance is in bps of the price, above 0 on the near side of the level and below 0 beyond it, where a condition waits for a fresh
    crossing; None, and last, of what waits for a feature or a rebound. Conditions whose price has not been seen in this session are left out, and so
    are expired and exhausted ones.
    """
    sniper, slots = memory.sniper, armed_slots(memory.conditions)
    rows = memory.conditions.rows[slots]
    states = sniper.instrument_states[rows["instrument"] % len(sniper.instrument_states)]
    price = np.zeros(len(rows), np.int64)
    for kind, name in enumerate(l.PRICE_KINDS):
        of_kind = rows["trigger"] == kind
        # a mid is held in half ticks and needs both sides
        values = np.where((states["bid"] > 0) & (states["ask"] > 0), states["bid"] + states["ask"], 0) if name == "mid" else states[name]
        price[of_kind] = values[of_kind]
    of_price = rows["trigger"] < len(l.PRICE_KINDS)
    price[~of_price] = np.maximum(states["last"], states["bid"])[~of_price]
    done = sniper.condition_states[slots]
    exhausted = (done["condition_id"] == rows["condition_id"]) & (done["fired"] >= rows["max_fires"])
    alive = np.flatnonzero((price > 0) & (rows["valid_until_ns"] > int(sniper.account[0]["event_ns"])) & ~exhausted)
    sign = np.where(rows["direction"][alive] == l.CROSS_UP, 1, -1)
    distance = sign * (rows["level"][alive] - price[alive]) * 10_000.0 / price[alive]
    far = ~of_price[alive]
    distance[far] = 0
    found = []
    for place in np.lexsort((np.abs(distance), distance < 0, far))[:limit]:
        row = rows[alive[place]]
        facts = memory.instruments.instruments[int(row["instrument"])]
        found.append({
            "id": int(row["condition_id"]), "symbol": facts["symbol"].decode(),
            "strategy": memory.instruments.strategies[int(row["strategy"])]["name"].decode(),
            "side": "buy" if int(row["side"]) == l.BUY else "sell", "trigger": trigger_of(row, facts),
            "price": l.PRICE_KINDS[int(row["trigger"])] if not far[place] else "", "direction": l.DIRECTIONS[int(row["direction"])],
            "level": level_of(row, facts), "distance_bps": None if far[place] else round(float(distance[place]), 1),
            "clauses": clauses_of(row, facts), "confidence": int(row["confidence_e4"]) / 10_000,
        })
    return found


# ── why nothing happens ──────────────────────────────────────────────────────────────────────────────────────────────
def why_nothing(seen: dict[str, Any]) -> list[str]:
    """What keeps entries from happening, most severe first; in the end what is waited for. Never empty while the instance runs."""
    if seen["preparing"]:
        return [f"preparing kernels {seen['preparing']}; the first start takes a minute"]
    reasons = [f"{process['role']} is {process['state']}" + (f": {process['last_death']}" if process["last_death"] else "")
               for process in seen["processes"] if process["state"] not in WORKING_STATES]
    if seen["phase"] == "stopping":
        return [*reasons, "the instance is stopping"]
    if seen["trading"] != "running":
        cause = seen["trading_cause"]
        remedy = next((text for start, text in _REMEDIES.items() if cause.startswith(start)), "")
        reasons.append(f"{seen['trading'].replace('_', ' ')}: {cause or 'no cause given'}; no new entries{remedy}")
    if any(process["role"] == "feed" and process["state"] == "finished" for process in seen["processes"]):
        reasons.append("the data has ended")
    if seen["warmup_left_s"] > 0:
        reasons.append(f"warm-up: {seen['warmup_left_s']} s of event time left")
    if failed := sum(process.get("metrics", {}).get("strategy_errors", 0) for process in seen["processes"]):
        reasons.append(f"{failed} plan{'s have' if failed > 1 else ' has'} failed; what was armed before stays until it expires; "
                       "logs/strategist.log says why")
    reasons += [f"{name} has repeated itself too often and makes no entries; look at why (trader-ctl orders), then trader-ctl release {name}"
                for name in seen["latched"]]
    reasons += _limits_reached(seen)
    if seen["refusals"]:
        most = sorted(seen["refusals"].items(), key=lambda entry: -entry[1])
        reasons.append("entries refused: " + ", ".join(f"{count} × {code}" for code, count in most))
    if not seen["conditions"]:
        reasons.append("no conditions are armed: the strategy sees nothing to do, or has not yet planned")
    elif not seen["nearest"]:
        reasons.append(f"{seen['conditions']} conditions are armed, none of which can fire: expired, used up, or no price seen yet")
    else:
        texts = [condition_text(near, seen["limits"].get("min_confidence")) for near in seen["nearest"]]
        reasons.append(f"waiting for a price; the nearest of {seen['conditions']} conditions: {texts[0]}")
        reasons += [f"  then {text}" for text in texts[1:]]
    return reasons


def _limits_reached(seen: dict[str, Any]) -> list[str]:
    limits, reached = seen["limits"], []
    missing = [f"limits.{name}" for name, value in limits.items() if value is None]
    if missing:
        reached.append(f"{', '.join(missing)} not configured: every entry is refused; set a limit")
    entries, positions = limits["max_entries_per_day"], limits["max_open_positions"]
    if entries is not None and seen["entries_today"] >= entries:
        left_s = (_DAY_NS - seen["event_ns"] % _DAY_NS) / 1e9
        pace = f", in {span(left_s / seen['speed'])} at {seen['speed']:g} ×" if seen["speed"] else ""
        reached.append(f"{seen['entries_today']}/{entries} entries today, next 00:00 UTC of event time{pace}")
    if positions is not None and len(seen["positions"]) >= positions:
        reached.append(f"{len(seen['positions'])}/{positions} positions open, next when one closes")
    return reached


def condition_text(near: dict[str, Any], least_confidence: float | None = None) -> str:
    """A near condition in words: "buy BTC/USDT when last goes up 12.3 bps to 61250"; with what it lacks for an entry."""
    distance, level = near["distance_bps"], near.get("level", "")
    if distance is None:
        way = f"when {near['trigger']}"
    elif distance >= 0:
        way = f"when {near['price']} goes {near['direction']} {distance:.1f} bps" + (f" to {level}" if level else "")
    else:
        way = f"when {near['price']} crosses {level or 'its level'} anew, {-distance:.1f} bps back"
    weak = least_confidence is not None and near["confidence"] < least_confidence
    doubt = f" (confidence {two_places(near['confidence'])}, needs {least_confidence:g})" if weak else ""
    also = "".join(f" and {clause}" for clause in near.get("clauses", ()))
    return f"{near['side']} {near['symbol']} {way}{also}{doubt}"


# ── answers to operators ─────────────────────────────────────────────────────────────────────────────────────────────
def status(seen: dict[str, Any]) -> dict[str, Any]:
    """The instance in figures; the processes are the rows of the answer."""
    return {**{name: value for name, value in seen.items() if name not in _NOT_STATUS}, "open_positions": len(seen["positions"])}


def process_rows(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each process, without its metrics."""
    return [{name: value for name, value in process.items() if name != "metrics"} for process in seen["processes"]]


def stats(seen: dict[str, Any], memory: Any) -> dict[str, Any]:
    """Counters, refusals, latencies, equity."""
    from control.record.summary import latencies  # with the journal's library; needed here alone

    names = ("ticks", "ticks_per_s", "ticks_lost", "equity", "cash", "realised_pnl", "fees", "trades_closed", "wins", "max_drawdown_pct",
             "entries_today", "working_orders", "conditions", "refusals", "uptime_s", "event_ns")
    quantiles = {name: _plain(latencies(getattr(memory.sniper, f"{name[:-3]}_hist"))) for name in ("decision_ns", "tick_to_intent_ns")}
    return {**{name: seen[name] for name in names}, **quantiles,
            "metrics": {process["role"]: process["metrics"] for process in seen["processes"]}}


def _plain(struct: Any) -> dict[str, int]:
    return {name: int(getattr(struct, name)) for name in struct.__struct_fields__}
