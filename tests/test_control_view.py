"""What people are told: the nearest condition, why nothing happens, and the page on the screen."""

from __future__ import annotations

import io
import re
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from control.serve.grid import padded, with_aligned_prices
from control.serve.health import health
from control.serve.screen import Screen, page
from control.serve.tables import print_answer
from control.serve.view import latency, nearest_conditions, process_rows, span, stats, status, two_places, why_nothing
from ipc import layout as l

DAY_NS = 86_400 * 10**9
NEAR = {"id": 1, "symbol": "BTC/USDT", "strategy": "momentum", "side": "buy", "price": "last", "direction": "up", "level": "61250",
        "distance_bps": 12.3, "confidence": 0.8}


def process(role: str, **facts: Any) -> dict[str, Any]:
    return {"role": role, "state": "healthy", "pid": 7, "restarts": 0, "heartbeat_age_ms": 12, "progress": 5, "last_event_ns": DAY_NS,
            "last_death": "", "metrics": {name: 5 * (name == "ticks") for name in l.METRICS[l.ROLES.index(role)]}} | facts


def seen(**facts: Any) -> dict[str, Any]:
    """An instance at peace, as control/supervise/view.py sees it."""
    given: dict[str, Any] = {
        "instance": "night", "run_id": "r1", "mode": "paper", "market": "simulated", "simulated": True, "speed": 30.0, "lockstep": False,
        "phase": "running", "trading": "running", "trading_cause": "", "uptime_s": 9.0, "pid": 1, "event_ns": DAY_NS, "preparing": "",
        "processes": [process(role) for role in l.ROLES], "ticks": 1000, "ticks_per_s": 50.0, "ticks_lost": 0, "equity": "10000.00",
        "cash": "9000.00", "realised_pnl": "-1.00", "fees": "2.00", "trades_closed": 2, "wins": 1, "max_drawdown_pct": 0.5,
        "entries_today": 3, "working_orders": 0, "positions": [], "trades": [], "refusals": {}, "latched": [], "conditions": 4, "nearest": [NEAR],
        "warmup_left_s": 0, "limits": {"max_entries_per_day": 20, "max_open_positions": 5, "min_confidence": 0.7},
        "events": ["recorder is ready"], "wall_ns": 10**18, "reflection_behind_s": 0.0,
    }
    given |= facts
    return given | {"why_nothing": why_nothing(given)}


POSITION = {"id": "9", "symbol": "BTC/USDT", "side": "long", "size": "0.1", "entry_price": "61000", "mark_price": "61010",
            "unrealised_pnl": "1.00", "stop_price": "60500", "target_price": "62000", "strategy": "momentum", "state": "open",
            "opened_ns": DAY_NS}
TRADE = {"symbol": "ETH/USDT", "side": "short", "event_ns": DAY_NS, "entry_price": "2500", "exit_price": "2490", "size": "1", "pnl": "9.50",
         "fees": "0.50", "exit_reason": "target", "strategy": "momentum"}


# ── nearest condition ────────────────────────────────────────────────────────────────────────────────────────────────
def arm(memory: Any, *conditions: dict[str, int]) -> None:
    """Generation 1 with these rows; instrument 0 has bid 9990, ask 10010, last 10000 ticks."""
    memory.instruments.instruments[0]["symbol"], memory.instruments.strategies[0]["name"] = b"BTC/USDT", b"momentum"
    state = memory.sniper.instrument_states[0]
    state["bid"], state["ask"], state["last"] = 9990, 10010, 10000
    memory.sniper.account[0]["event_ns"] = 1000
    for number, condition in enumerate(conditions):
        row = memory.conditions.rows[number]
        given = {"condition_id": number + 1, "valid_until_ns": 2000, "max_fires": 1, "side": l.BUY, "since": 1} | condition
        for name, value in given.items():
            row[name] = value
    memory.conditions.rows["removed"][len(conditions):] = 1
    memory.conditions.table[0]["slots_used"] = len(conditions)
    memory.conditions.table[0]["generation"] = 1


def test_the_nearest_condition_is_first_and_those_beyond_their_level_are_last(memory: Any) -> None:
    arm(memory, {"level": 10100, "direction": l.CROSS_UP}, {"level": 9999, "direction": l.CROSS_UP},
        {"level": 9970, "direction": l.CROSS_DOWN, "side": l.SELL}, {"level": 10020, "direction": l.CROSS_UP})
    found = nearest_conditions(memory, 4)
    assert [(near["id"], near["distance_bps"], near["side"]) for near in found] == [
        (4, 20.0, "buy"), (3, 30.0, "sell"), (1, 100.0, "buy"), (2, -1.0, "buy")]
    assert found[0]["symbol"] == "BTC/USDT"
    assert len(nearest_conditions(memory, 2)) == 2


@pytest.mark.parametrize(("kind", "level", "bps"), [(l.PRICE_LAST, 10010, 10.0), (l.PRICE_BID, 10000, 10.0), (l.PRICE_ASK, 10030, 20.0),
                                                    (l.PRICE_MID, 20020, 10.0)])
def test_the_distance_is_measured_from_the_price_that_the_condition_names(memory: Any, kind: int, level: int, bps: float) -> None:
    arm(memory, {"level": level, "direction": l.CROSS_UP, "trigger": kind})
    assert nearest_conditions(memory)[0]["distance_bps"] == pytest.approx(bps, abs=0.1)


def test_what_cannot_fire_is_not_near(memory: Any) -> None:
    arm(memory, {"level": 10001, "valid_until_ns": 1000}, {"level": 10001, "instrument": 1}, {"level": 10001})
    done = memory.sniper.condition_states[2]
    done["condition_id"], done["fired"] = 3, 1
    assert nearest_conditions(memory) == []
    memory.sniper.instrument_states[0]["bid"] = 0  # a mid needs both sides
    arm(memory, {"level": 20002, "trigger": l.PRICE_MID})
    memory.sniper.instrument_states[0]["bid"] = 0
    assert nearest_conditions(memory) == []


def test_a_table_that_was_never_written_has_no_near_condition(memory: Any) -> None:
    assert nearest_conditions(memory) == []


def test_a_full_table_is_looked_through_in_a_moment(memory: Any) -> None:
    arm(memory, *({"level": 10001 + number, "direction": l.CROSS_UP} for number in range(64)))
    began = time.perf_counter()
    assert nearest_conditions(memory)[0]["id"] == 1
    assert time.perf_counter() - began < 0.05


# ── why nothing happens ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("facts", "says"), [
    ({"preparing": "3/7 hotpath.sniper"}, "preparing kernels 3/7 hotpath.sniper"),
    ({"processes": [process("sniper", state="restarting", last_death="killed by SIGKILL")]}, "sniper is restarting: killed by SIGKILL"),
    ({"trading": "safe", "trading_cause": "journal cannot write"}, "safe: journal cannot write; no new entries until it can; free space on its disk"),
    ({"trading": "safe", "trading_cause": "knowledge is of another journal"}, "no new entries; stop, and restore journal, paper and knowledge from "
     "the same backup, or move the knowledge folder away"),
    ({"trading": "reduce_only", "trading_cause": "paused by the operator"},
     "reduce only: paused by the operator; no new entries; trader-ctl resume goes on"),
    ({"processes": [process("feed", state="finished")]}, "the data has ended"),
    ({"warmup_left_s": 90}, "warm-up: 90 s of event time left"),
    ({"latched": ["momentum"]}, "momentum has repeated itself too often and makes no entries; look at why (trader-ctl orders), then trader-ctl "
     "release momentum"),
    ({"nearest": [NEAR | {"distance_bps": None, "trigger": "spread_bps up 5"}]}, "buy BTC/USDT when spread_bps up 5"),
    ({"entries_today": 20}, "20/20 entries today, next 00:00 UTC"),
    ({"positions": [POSITION] * 5}, "5/5 positions open"),
    ({"limits": {"max_entries_per_day": None, "max_open_positions": 5}}, "limits.max_entries_per_day not configured"),
    ({"refusals": {"stale": 1, "confidence": 28}}, "entries refused: 28 × confidence, 1 × stale"),
    ({"conditions": 0, "nearest": []}, "no conditions are armed"),
    ({"nearest": []}, "4 conditions are armed, none of which can fire"),
    ({}, "the nearest of 4 conditions: buy BTC/USDT when last goes up 12.3 bps to 61250"),
    ({"nearest": [NEAR, NEAR | {"symbol": "ETH/USDT"}]}, "then buy ETH/USDT when"),
    ({"nearest": [NEAR | {"distance_bps": -2.0}]}, "crosses 61250 anew, 2.0 bps back"),
    ({"nearest": [NEAR | {"clauses": ["spread_bps < 2"]}]}, "to 61250 and spread_bps < 2"),
    ({"nearest": [NEAR | {"confidence": 0.6999}]}, "(confidence 0.69, needs 0.7)"),
    ({"entries_today": 20, "event_ns": DAY_NS + 23 * 3600 * 10**9}, "of event time, in 2 min at 30 ×"),
    ({"phase": "stopping"}, "the instance is stopping"),
])
def test_each_reason_why_nothing_happens_is_told(facts: dict[str, Any], says: str) -> None:
    assert says in "\n".join(seen(**facts)["why_nothing"])


def test_the_most_severe_reason_comes_first_and_a_peaceful_instance_only_waits() -> None:
    many = seen(trading="safe", trading_cause="x", entries_today=20, processes=[process("gateway", state="failed")])["why_nothing"]
    assert many[0].startswith("gateway is failed")
    assert many[1].startswith("safe")
    assert len(seen()["why_nothing"]) == 1


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_status_and_stats_are_plain_values(memory: Any) -> None:
    import msgspec

    memory.sniper.decision_hist[40] = 3
    for data in (status(seen()), stats(seen(), memory)):
        assert msgspec.json.decode(msgspec.json.encode(data)) == data
    assert stats(seen(), memory)["decision_ns"]["p50"] > 0
    assert stats(seen(), memory)["metrics"]["sniper"]["ticks"] == 5
    assert "metrics" not in process_rows(seen())[0]


# ── screen and tables ────────────────────────────────────────────────────────────────────────────────────────────────
def drawn(**facts: Any) -> str:
    console = Console(file=io.StringIO(), width=160, height=60)
    console.print(page(seen(**facts), "scripts/ctl --instance night status"))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_page_shows_what_a_person_looks_for() -> None:
    text = drawn(positions=[POSITION], trades=[TRADE])
    for part in ("night", "SIMULATED MARKET: results mean nothing", "30 ×", "strategist", "12 ms", "1,000 ticks, 50/s", "10,000.00", "0.50 %",
                 "BTC/USDT", "61010", "ETH/USDT", "target", "scripts/ctl --instance night status", "recorder is ready", "50% won",
                 "what is waited for"):
        assert part in text
    assert "SIMULATED" not in drawn(simulated=False, market="replay")
    assert "why nothing happens" in drawn()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50), (50, 12), (30, 6), (20, 3)])
def test_the_page_fits_and_keeps_what_is_most_needed(width: int, height: int) -> None:
    busy = seen(positions=[POSITION] * 5, trades=[TRADE] * 8, refusals={"confidence": 3}, events=[f"event {n}" for n in range(8)])
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(page(busy, "scripts/ctl --instance night status"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "SIMULATED MARKET" in lines[1]
    for height_needed, part in ((12, "scripts/ctl --instance night status"), (12, "5/5 positions open"), (24, "ETH/USDT"), (24, "strategist"),
                                (40, "event 7")):
        assert height < height_needed or any(part in line for line in lines), part


def test_what_stays_open_is_read_while_the_instance_stops() -> None:
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(page(seen(phase="stopping", positions=[POSITION] * 5, trades=[TRADE] * 5, events=["one", "2 positions stay open: long 1 X"]), "c"))
    assert "2 positions stay open" in console.file.getvalue()  # type: ignore[attr-defined]


def test_prices_of_a_symbol_have_as_many_decimals() -> None:
    rows = with_aligned_prices([{"symbol": "A", "entry_price": "2495.9", "pnl": "-1"}, {"symbol": "A", "entry_price": "2496"},
                                {"symbol": "A", "exit_price": "2495.97"}, {"symbol": "B", "entry_price": "61000"}])
    assert [row.get("entry_price", row.get("exit_price")) for row in rows] == ["2495.90", "2496.00", "2495.97", "61000"]
    assert padded("none", 2) == "none"


def test_figures_have_the_unit_that_keeps_them_short() -> None:
    assert [latency(ns) for ns in (0, 850, 2431, 13_823_000, 2e9)] == ["0 ns", "850 ns", "2.4 µs", "13.8 ms", "2.0 s"]
    assert [span(s) for s in (0, 4.25, 59.6, 187, 7500, 90_000)] == ["0 s", "4.2 s", "60 s", "3 min 7 s", "2 h 5 min", "1 d 1 h"]
    assert [two_places(share) for share in (0.7, 0.6999, 1.0)] == ["0.70", "0.69", "1.00"]


def test_a_view_that_fails_is_shown_and_does_not_raise() -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("no such row")

    console = Console(file=io.StringIO(), width=120)
    console.print(Screen(broken, "scripts/ctl status").picture())
    assert "no such row" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_screen_draws_in_its_own_thread_and_gives_the_terminal_back() -> None:
    looks = []

    def view() -> dict[str, Any]:
        looks.append(time.monotonic())
        return seen()

    console = Console(file=io.StringIO(), width=120, height=50, force_terminal=True)
    screen = Screen(view, "scripts/ctl status", console)
    screen.start()
    end = time.monotonic() + 5
    while len(looks) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    screen.stop()
    assert len(looks) >= 3
    assert np.diff(looks).min() > 0.1
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert written.rindex("\x1b[?1049l") > written.index("\x1b[?1049h")  # the alternate screen was left


@pytest.mark.parametrize("width", [80, 120, 400])
def test_a_table_leaves_columns_out_before_it_cuts_values(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: width < 400, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    row = {"time_ns": DAY_NS, "symbol": "DOGE/USDT:USDT", "side": "buy", "size": "5494", "entry_price": "0.09084", "exit_price": "0.09057",
           "pnl": "-1.98171327", "fees": "0.49833327", "reason": "stop", "held_s": 187.382, "strategy": "mean_reversion", "why": "because " * 30}
    print_answer("trades", {}, [row])
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for part in ("DOGE/USDT:USDT", "long", "-1.98", "stop"):
        assert part in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    assert ("too narrow" in out) == (width < 400)


def printed(command: str, data: dict[str, Any], rows: list[dict[str, Any]], width: int, capsys: pytest.CaptureFixture[str],
            monkeypatch: pytest.MonkeyPatch) -> str:
    """An answer on a terminal of a width."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    print_answer(command, data, rows)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    return out


@pytest.mark.parametrize("width", [80, 100, 140])
def test_health_says_what_each_process_does_in_words_on_every_terminal(width: int, memory: Any, capsys: pytest.CaptureFixture[str],
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {role: dict.fromkeys(l.METRICS[number], 0) for number, role in enumerate(l.ROLES)}
    metrics["strategist"] |= {"last_plan_ns": DAY_NS, "last_plan_ms": 36}
    metrics["reflection"] |= {"last_trade_ns": DAY_NS, "trades_applied": 3, "last_update_us": 4026}
    metrics["recorder"] |= {"disk_free_mb": 66_029, "last_commit_us": 4818}
    faults = {"role": "sniper", "state": "failed"}
    data, rows = health(seen(trading="safe", trading_cause="the journal", processes=[
        process(role, metrics=metrics[role], pid=12_345, restarts=7) | (faults if role == "sniper" else {}) for role in l.ROLES]), memory, 10**15)
    out = printed("health", data, rows, width, capsys, monkeypatch)
    words = " ".join(out.split())
    for part in ("healthy no", "entries none: safe", "sniper: failed", "mode safe: the journal",
                 "3 trades, the last of 1970-01-02 00:00:00 UTC, 0 errors", "last plan 1970-01-02 00:00:00 UTC"):
        assert part in words, part
    for name in ("journal", "ledger", "knowledge"):
        assert re.search(rf"^{name} +(writable|cannot be written), 66,029 MB free, (last commit 4\.[08] ms|no commit yet)$", out, re.MULTILINE), name
    assert str(DAY_NS) not in out
    assert f"{DAY_NS:,}" not in out
    assert {"process", "status", "errors", "restarts", "what it does"} <= set(re.split(r"  +", next(
        line for line in out.splitlines() if line.startswith("process")).strip()))
    for part in ("plan latency", "exits armed", "connection", "unknown"):
        assert part in words
    assert ("too narrow" in out) == (width < 100)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_what_failed_leaves_room_for_its_text_on_every_terminal(width: int, capsys: pytest.CaptureFixture[str],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"wall_ns": DAY_NS, "process": "strategist", "kind": "strategy_error", "activity": "mean_reversion", "class": "general",
           "decision": "pause", "pause_s": 60.0, "in_a_row": 20, "errors_per_h": 20, "recoveries_per_h": 0, "text": "because it would not " * 9}
    out = printed("errors", {}, [row], width, capsys, monkeypatch)
    assert "pause 1 min" in out
    assert "because it would not because" in out, "a line of text is thirty characters at least"
    assert ("errors/h" in out.splitlines()[0]) == (width > 100)


@pytest.mark.parametrize("command", ["status", "health", "errors", "positions", "conditions", "orders", "trades", "stats"])
def test_an_answer_without_rows_or_with_odd_ones_is_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(command, {}, [])
    print_answer(command, status(seen()) if command == "status" else {}, [{"symbol": "BTC/USDT", "new": None, "pnl": "-1"}])
    assert capsys.readouterr().out
