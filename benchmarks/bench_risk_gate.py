"""One decision of the risk gate, every control configured: state, size, exposure, money, to the end and accepted; and the cheapest refusal.

The book is made by the kernel itself from `benchmarks/firing.py`'s ticks and plan: 100 symbols with quotes, trades and features, without an open
position and with five. Then the gate alone is asked about every armed condition in turn, over and over: reference price, controls of state, equity,
size, controls of size. What surrounds it (crossing, clauses, undo log, commit, ring) is in `kernel` and `tick_to_intent`. Each round is some 20,000
decisions; a figure is the rounds' median, beside it their minimum: one look at the clock costs a fifth of a decision.

It checks itself: every answer is the expected code, and every size is what the quotes say.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks import firing
from benchmarks.actors import armed
from benchmarks.frame import Row, check, instance
from benchmarks.market import furnish
from hotpath.arming import armed_slots
from hotpath.kernel.money import survey
from hotpath.kernel.risk import gate_size, gate_state, reference_price, size_lots
from hotpath.kernel.step import step
from ipc import board, ring
from ipc import layout as l
from ipc.jit import kernel

TARGET_NS = 150.0
OPEN = (0, 5)
#: rounds of the book's making: every symbol has had its trade and its quotes after ten
_ROUNDS = 30


@kernel
def decide(s: Any, conditions: Any, times: int, event_ns: int, codes: Any, lots: Any) -> None:
    """The gate's answer about each condition, `times` over, as `fire` asks for it."""
    params = s.params[s.line[0].params_epoch & 1]
    for _ in range(times):
        for row in range(len(conditions)):
            condition = conditions[row]
            price = reference_price(s.states[condition.instrument], condition.side)
            lots[row] = 0
            code = gate_state(s, condition, params, event_ns)
            if code == l.REF_NONE:
                survey(s)
                lots[row] = size_lots(condition, s.instruments[condition.instrument], price, s.own[0].equity)
                code = gate_size(s, condition, params, price, lots[row], event_ns)
            codes[row] = code


def _end(memory: Any, order: Any, filled: bool) -> None:
    """The venue's word on an order: filled whole at its reference price, or cancelled."""
    report = np.zeros(1, l.REPORT)
    report["kind"], report["order_seq"] = l.FILL if filled else l.CANCELLED, order["order_seq"]
    report["instrument"], report["side"] = order["instrument"], order["side"]
    if filled:
        report["cum_lots"] = report["last_lots"] = order["lots"]
        report["last_price"] = order["reference_price"]
        report["cum_quote"] = order["lots"] * order["reference_price"] * int(memory.instruments.instruments[0]["value_quanta"])
        report["trade_id"] = order["order_seq"]
    ring.publish(memory.reports.ring, memory.reports.slots, report, 0)


def book(memory: Any, opened: int) -> tuple[Any, Any]:
    """The sniper's arrays behind some rounds of ticks, `opened` positions left open; and the armed conditions of the other symbols."""
    s = armed(memory, [firing.plan()])
    ticks, record = firing.ticks(_ROUNDS * firing.SYMBOLS), np.zeros(1, l.INTENT)
    taken, held = 0, set[int]()
    for row in range(len(ticks)):
        ticks["seq"][row] = row + 1
        s.tick[0] = ticks[row]
        step(s)
        while ring.poll(s.order_ring, s.order_slots, taken + 1, record, 0) == ring.OK:
            taken += 1
            if record[0]["kind"] == l.NEW:
                filled = len(held) < opened and row > len(ticks) // 2
                _end(memory, record[0], filled)
                if filled:
                    held.add(int(record[0]["instrument"]))
        ring.advance(s.order_readers, l.RECORDER, taken)
    check(int(s.account[0]["open_positions"]) == opened == len(held), f"{int(s.account[0]['open_positions'])} positions are open, not {opened}")
    rows = s.rows[armed_slots(memory.conditions)]
    return s, rows[~np.isin(rows["instrument"], list(held))].copy()


def timed(s: Any, conditions: Any, times: int, rounds: int, code: int) -> list[float]:
    """ns a decision of each round; every answer is `code`."""
    codes, lots = np.zeros(len(conditions), np.int64), np.zeros(len(conditions), np.int64)
    event_ns = int(s.line[0]["event_ns"]) + 2_000_000  # behind the window in which an order would be a duplicate
    took = []
    for number in range(rounds + 1):
        codes[:] = -1
        began = time.perf_counter_ns()
        decide(s, conditions, times, event_ns, codes, lots)
        if number:
            took.append((time.perf_counter_ns() - began) / (times * len(conditions)))
        check((codes == code).all(), f"the gate said {[l.REFUSALS[one] for one in np.unique(codes)]}, not {l.REFUSALS[code]}")
    if code == l.REF_NONE:
        states = s.states[conditions["instrument"]]
        price = np.where(conditions["side"] > 0, states["ask"], states["bid"])
        wanted = conditions["size_value"] // (price * s.instruments["value_quanta"][conditions["instrument"]])
        check((lots == wanted).all() and (lots > 0).all(), "a size is not what the quote says")
    return took


def run(quick: bool) -> list[Row]:
    """Accepted without and with open positions, and refused by the first control."""
    rounds, times = (11, 5) if quick else (51, 20)
    rows = []
    for opened in OPEN:
        with instance(ticks=1024, instruments=firing.SYMBOLS, conditions=2048) as memory:
            furnish(memory, firing.SYMBOLS, firing.FIRING_LIMITS)
            s, conditions = book(memory, opened)
            cases: list[tuple[str, int, float | None]] = [("accepted", l.REF_NONE, TARGET_NS)]
            if not opened:
                cases.append(("refused", l.REF_MODE, None))
            for answer, code, target in cases:
                if code == l.REF_MODE:
                    board.set_mode(memory.board.modes, l.MODE_OF_OPERATOR, l.MODE_REDUCE_ONLY, "benchmark")
                took = timed(s, conditions, times, rounds, code)
                params = {"answer": answer, "code": l.REFUSALS[code], "symbols": firing.SYMBOLS, "open_positions": opened,
                          "decisions": rounds * times * len(conditions)}
                rows.append(Row("risk_gate", "p50_ns", float(np.median(took)), "ns", params, target))
                rows.append(Row("risk_gate", "min_ns", min(took), "ns", params))
    return rows
