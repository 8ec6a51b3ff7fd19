"""How every process is doing: one contract for all of them, read from shared memory alone, so that no process can delay the answer.

`status` is starting, healthy, degraded (it works, with a fault that `problem` names), failed or stopped. Pure: what the watchdog knows of its
children comes in `seen` (control/supervise/view.py), all else from the board and the rings, read without ordering.
"""

from __future__ import annotations

from typing import Any

from control.serve.view import LATE_BEAT_MS, WORKING_STATES
from ipc import layout as l

#: statuses by the state that a process is in
STATUSES = {"starting": "starting", "restarting": "starting", "healthy": "healthy", "finished": "healthy", "failed": "failed"}
#: without a tick for so long, or so long behind the closed trades, something is wrong
LATE_TICK_MS, LATE_REFLECTION_S = 5_000, 5.0
#: what was counted in an hour is no rate any more when it is older
_HOUR_NS = 3_600_000_000_000


def health(seen: dict[str, Any], memory: Any, now_ns: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """({healthy, problems, databases, adaptation…}, a row for each process); `now_ns` is monotonic."""
    rows, problems = [], []
    all_activities, error_counts = activities_of(memory, seen["wall_ns"]), memory.board.processes["error_count"].tolist()
    for process in seen["processes"]:
        number = l.ROLES.index(process["role"])
        activities = all_activities[number]
        metrics = _METRICS[process["role"]](process, seen, memory, now_ns)
        works = process["state"] in WORKING_STATES
        problem = "; ".join(_faults(process, seen, activities, metrics)) if works else process["state"]
        status = "degraded" if works and problem else STATUSES.get(process["state"], "stopped")
        age_ms = process["heartbeat_age_ms"]
        rows.append({
            "role": process["role"], "status": status, "healthy": not problem, "state": process["state"], "pid": process["pid"],
            "heartbeat_age_ms": age_ms, "last_activity_ns": 0 if age_ms is None else seen["wall_ns"] - age_ms * 1_000_000,
            "error_count": error_counts[number], "restarts": process["restarts"], "problem": problem,
            "metrics": metrics, "activities": activities})
        if problem:
            problems.append(f"{process['role']}: {problem}")
    if seen["trading"] in ("halted", "safe"):
        problems.append(f"mode {seen['trading']}: {seen['trading_cause']}")
    databases = databases_of(rows, memory)
    if not databases["journal"]["writable"] and seen["phase"] == "running":
        problems.append("the journal cannot be written: no entries until it can; free space on its disk, see logs/recorder.log")
    data = {"healthy": not problems, "phase": seen["phase"], "trading": seen["trading"], "problems": problems, "databases": databases,
            "adaptation": _adaptation(rows)}
    return data, rows


def activities_of(memory: Any, wall_ns: int) -> list[list[dict[str, Any]]]:
    """By role, what a process does that may fail: the state of its breaker, its errors. `text` is its last failure while that lasts.

    A process that lives counts its rates anew each minute; those of one that does not are over after an hour.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in l.ROLES]
    for at, row in enumerate(memory.board.activities[: len(l.ROLES) * l.MAX_ACTIVITIES].tolist()):  # in one go: a tenth of the time of a field each
        name, state, failures, opens, since_ns, _, _, _, errors, errors_per_h, recoveries_per_h, shown_ns, text = row
        if name:
            if wall_ns - shown_ns > _HOUR_NS:
                errors_per_h = recoveries_per_h = 0
            found[at // l.MAX_ACTIVITIES].append({
                "name": name.decode(errors="replace"), "breaker": l.BREAKER_STATES[state % len(l.BREAKER_STATES)], "failures": failures,
                "opens": opens, "since_ns": since_ns, "errors": errors, "errors_per_h": errors_per_h, "recoveries_per_h": recoveries_per_h,
                "text": text.decode(errors="replace") if failures else ""})
    return found


def databases_of(rows: list[dict[str, Any]], memory: Any) -> dict[str, dict[str, Any]]:
    """Each LMDB environment: whether it can be written, room on its disk, how long its last commit took."""
    of = {row["role"]: row for row in rows}
    failing = {one["name"] for row in rows for one in row["activities"] if one["failures"]}
    room = of["recorder"]["metrics"]["disk_free_mb"]  # of one disk: they lie side by side
    return {
        "journal": {"writable": bool(memory.board.cursors[0]["journal_ok"]), "free_mb": room, "commit_us": of["recorder"]["metrics"]["commit_us"]},
        "ledger": {"writable": "ledger" not in failing, "free_mb": room, "commit_us": of["gateway"]["metrics"]["commit_us"]},
        "knowledge": {"writable": "knowledge" not in failing, "free_mb": room, "commit_us": of["reflection"]["metrics"]["commit_us"]},
    }


def _adaptation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was learned of closed trades, event time at which the last of them closed, and how often that failed."""
    reflection = next(row for row in rows if row["role"] == "reflection")
    return {"last_trade_ns": reflection["metrics"]["last_trade_ns"], "applied": reflection["metrics"]["trades_applied"],
            "errors": reflection["error_count"]}


def _faults(process: dict[str, Any], seen: dict[str, Any], activities: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """What is wrong with a process that works, the worst first."""
    faults = []
    if (process["heartbeat_age_ms"] or 0) > LATE_BEAT_MS:
        faults.append(f"no heartbeat for {process['heartbeat_age_ms']} ms")
    if process["role"] == "sniper" and metrics["control_age_ms"] > 5 * LATE_BEAT_MS:
        faults.append(f"its control thread is silent for {metrics['control_age_ms']} ms")
    if process["role"] == "feed" and process["state"] == "healthy" and seen["phase"] == "running" and metrics["last_tick_age_ms"] > LATE_TICK_MS:
        faults.append(f"no tick for {metrics['last_tick_age_ms'] / 1000:.0f} s")
    if process["role"] == "sniper" and metrics["ticks_lost"]:
        faults.append(f"{metrics['ticks_lost']} ticks lost")
    if process["role"] == "reflection" and not metrics["on_schedule"]:
        faults.append(f"closed trades wait for {seen['reflection_behind_s']:.0f} s")
    for one in activities:
        if one["failures"]:
            paused = {"open": "; paused", "half_open": "; tried again", "stopped": "; stopped"}.get(one["breaker"], "")
            faults.append(f"{one['name']}: {one['text']}{paused}")
    return faults


# ── what each process counts ─────────────────────────────────────────────────────────────────────────────────────────
def _recorder(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    counted = process["metrics"]
    return {"commits": counted["commits"], "commit_us": counted["last_commit_us"], "disk_free_mb": counted["disk_free_mb"],
            "events": counted["events"]}


def _gateway(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    counted = process["metrics"]
    return {"orders_sent": counted["orders_sent"], "fills": counted["fills"], "rejects": counted["rejects"], "unknown": counted["unknown"],
            "commit_us": counted["last_commit_us"]}


def _sniper(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    sniper = memory.sniper
    account, row = sniper.account[0], memory.board.processes[l.SNIPER]
    count, armed = int(account["open_positions"]), 0
    if count:
        positions = sniper.positions[sniper.open_rows[:count] % len(sniper.positions)]
        armed = int(((positions["stop_price"] != 0) | (positions["target_price"] != 0) | (positions["deadline_ns"] != 0)
                     | (positions["trail_activation_price"] != 0)).sum())
    return {"ticks": process["metrics"]["ticks"], "positions": count, "exits_armed": armed,
            "working_orders": int(account["working_orders"]), "ticks_lost": process["metrics"]["lost"],
            "control_age_ms": max(0, now_ns - int(row["control_beat_ns"])) // 1_000_000 if int(row["control_beat_ns"]) else 0}


def _feed(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    ticks, counted = memory.ticks, process["metrics"]
    head = int(ticks.ring[0]["head"])
    published_ns = int(ticks.slots[head % len(ticks.slots)]["publish_ns"]) if head else now_ns
    age_ms = max(0, now_ns - published_ns) // 1_000_000
    silent = (process["heartbeat_age_ms"] or 0) > LATE_BEAT_MS or age_ms > LATE_TICK_MS
    connection = "ended" if process["state"] == "finished" else "connected" if process["state"] == "healthy" and not silent else "down"
    return {"ticks": head, "last_tick_age_ms": age_ms, "connection": connection, "source": seen["market"],
            "frames_bad": counted["frames_bad"], "gaps": counted["gaps"], "gap_ticks": counted["gap_ticks"]}


def _reflection(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    counted = process["metrics"]
    return {"on_schedule": seen["reflection_behind_s"] <= LATE_REFLECTION_S, "trades_applied": counted["trades_applied"],
            "last_trade_ns": counted["last_trade_ns"], "commit_us": counted["last_update_us"]}


def _strategist(process: dict[str, Any], seen: dict[str, Any], memory: Any, now_ns: int) -> dict[str, Any]:
    counted = process["metrics"]
    rows = memory.board.activities[l.STRATEGIST * l.MAX_ACTIVITIES: (l.STRATEGIST + 1) * l.MAX_ACTIVITIES]
    advice = {row["name"].decode(errors="replace"): row["text"].decode(errors="replace") for row in rows if row["name"].startswith(b"advice ")}
    return {"last_plan_ns": counted["last_plan_ns"], "plans": counted["plans"], "plan_latency_ms": counted["last_plan_ms"],
            "plan_failures": counted["strategy_errors"], "conditions": counted["conditions"], "ticks_lost": counted["ticks_lost"], **advice}


_METRICS = {"recorder": _recorder, "gateway": _gateway, "sniper": _sniper, "feed": _feed, "reflection": _reflection, "strategist": _strategist}
