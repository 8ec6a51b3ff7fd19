"""The sniper process: a thread in the hot loop, and the main thread that arms plans, takes commands and answers questions.

The main thread writes the condition table, params and commands; the loop writes everything else of the sniper. Its own heartbeat is
`control_beat_ns`: its hang is an alarm, never a kill.
"""

from __future__ import annotations

import math
import threading
import time
from decimal import Decimal
from typing import Any

import msgspec

from hotpath.arming import NotArmed, NotContinued, armed_slots, clauses_of, level_of, price_in, trigger_of
from hotpath.armoury import Armoury
from hotpath.config import Hotpath, Limits
from hotpath.kernel import loop
from hotpath.kernel.clock import CLOCK_NS
from hotpath.kernel.state import sniper_arrays
from ipc import bus, crash, messages, wait
from ipc import layout as l
from ipc.process import Boot, Child

#: longest wait for working orders to end at an ordered stop
_DRAIN_NS = 3_000_000_000
#: time without a tick after which the market is taken to go on without its feed; no less than so many CLOCK ticks
_SILENCE_NS, _SILENT_CLOCKS = 1_000_000_000, 4


def silence_ns(boot: Boot) -> int:
    """After how long without a tick time goes on by the monotonic clock; 0 for a recording, and wherever ticks come as fast as they can."""
    if boot.market != "simulated" or boot.lockstep or not boot.speed:
        return 0
    return max(_SILENCE_NS, int(_SILENT_CLOCKS * CLOCK_NS / boot.speed))


def write_params(memory: Any, limits: Limits, hotpath: Hotpath) -> None:
    """Limits as a new params epoch; a limit that is not configured becomes −1, which refuses."""
    table = memory.conditions.table[0]
    epoch = int(table["params_epoch"]) + 1
    row = memory.conditions.params[epoch & 1]

    def number(value: float | None, scale: int = 1) -> int:
        return -1 if value is None else math.ceil(round(value * scale, 6))

    row["max_open_positions"] = number(limits.max_open_positions)
    row["max_symbol_exposure_bps"] = number(limits.max_symbol_exposure_bps)
    row["daily_loss_bps"] = number(limits.daily_loss_bps)
    row["max_entries_per_day"] = number(limits.max_entries_per_day)
    row["min_confidence_e4"] = number(limits.min_confidence, 10_000)
    row["max_quote_age_ns"] = number(limits.max_quote_age_ms, 1_000_000)
    quanta = 10 ** -int(memory.instruments.instruments[0]["quantum_exponent"])
    row["max_order_value"] = number(limits.max_order_value, quanta)
    row["min_equity"] = number(limits.min_equity, quanta)
    for name in ("price_collar_bps", "window_collar_bps", "max_gross_exposure_bps"):
        row[name] = number(getattr(limits, name))
    row["duplicate_window_ns"] = number(limits.duplicate_window_ms, 1_000_000)
    row["message_interval_ns"] = -1 if limits.max_messages_per_s is None else math.ceil(1e9 / limits.max_messages_per_s)
    row["message_burst_ns"] = 1_000_000_000
    row["repeat_window_ns"] = limits.repeat_window_s * 1_000_000_000
    row["repeat_interval_ns"] = -1 if limits.max_repeats is None else limits.repeat_window_s * 1_000_000_000 // limits.max_repeats
    row["max_adjustments"], row["exit_collar_bps"] = limits.max_adjustments, hotpath.exit_collar_bps
    row["ring_reserve"] = l.RING_SLOTS // 4
    row["exit_retry_ns"] = hotpath.exit_retry_ms * 1_000_000
    row["session_gap_ns"] = hotpath.session_gap_s * 1_000_000_000
    row["taker_slippage_bps"] = 20
    table["params_epoch"] = epoch


class Control:
    """The main thread's half: requests from the bus into the shared tables."""

    def __init__(self, child: Child, armoury: Armoury) -> None:
        self._child, self._memory, self._armoury = child, child.memory, armoury
        self._crash = crash.CrashPoint("sniper", child.boot.restarts)

    def handle(self, request: messages.ChildRequest) -> messages.Reply:
        """One request, one reply."""
        match request:
            case messages.Ping():
                return messages.Pong(role="sniper", pid=int(self._child.processes[l.SNIPER]["pid"]))
            case messages.Arm():
                return self._arm(request)
            case messages.Operate():
                return self._operate(request)
            case messages.Query(what="positions"):
                return messages.Answer(rows=self.positions())
            case messages.Query(what="conditions"):
                return messages.Answer(rows=self.conditions(request.limit))
            case _:
                return messages.Refused(code="unknown_query", text="the sniper answers positions and conditions",
                                        remedy="ask the recorder for orders and trades")

    def _arm(self, plan: messages.Arm) -> messages.Reply:
        reply: messages.Reply
        table, over = self._memory.conditions.table[0], not plan.more
        if plan.plan_seq <= 0 and not plan.keep:
            return messages.Refused(code="not_durable", text="plan_seq: 0 is no journaled plan", remedy="send the plan to the recorder first")
        try:
            if plan.keep:
                generation, armed = int(table["generation"]), 0
            else:
                generation, armed = self._armoury.arm(plan)
                self._crash.reached("sniper.part")
                self._child.metric("plans_armed", int(over))
            reply = messages.Planned(plan_seq=plan.plan_seq, generation=generation, armed=armed)
        except NotContinued as error:
            return messages.Refused(code="not_continued", text=str(error), remedy="send its parts again from the first on")
        except NotArmed as error:
            over = True
            self._child.metric("plans_refused")
            self._child.log.warning("plan %d of %s refused: %s", plan.plan_seq, plan.strategy, error)
            reply = messages.Refused(code="not_armed", text=str(error), remedy="what was armed before stays until it expires")
        # In lockstep the loop waits for the plan of the last strategy, all parts of it; a refused one must not stop the run.
        if over and self._child.boot.lockstep and plan.strategy == self._armoury.strategies[-1]:
            cursors = self._memory.board.cursors[0]
            cursors["plan_horizon_ns"] = max(int(cursors["plan_horizon_ns"]), plan.next_due_ns)  # what comes late a second time is not waited for
        wait.ring_bells(self._child.processes, 1 << l.SNIPER)
        return reply

    def _operate(self, request: messages.Operate) -> messages.Reply:
        rows = self._memory.sniper.positions
        command: dict[str, int] = {"argument": 0, "reason": l.EXIT_NONE, "stop_price": 0, "target_price": 0}
        if request.action in ("close", "adjust"):
            found = [row for row in rows if row["state"] != l.POS_FLAT
                     and request.position in (str(int(row["position_id"])), self._symbol(int(row["instrument"])))]
            if not found:
                return messages.Refused(code="no_such_position", text=f"no open position {request.position!r}",
                                        remedy="trader-ctl positions lists their ids")
            if len(found) > 1:
                return messages.Refused(code="ambiguous", text=f"{len(found)} positions are open in {request.position}",
                                        remedy=f"{request.action} by id: " + ", ".join(str(int(row["position_id"])) for row in found))
            command["argument"] = int(found[0]["position_id"])
        if request.action == "adjust":
            try:
                command["stop_price"], command["target_price"] = self._moved(request, found[0])
            except NotArmed as error:
                return messages.Refused(code="not_adjusted", text=str(error), remedy="")
        if request.action == "release":
            if request.strategy not in self._armoury.strategies:
                return messages.Refused(code="no_such_strategy", text=f"strategy: {request.strategy!r} does not run here",
                                        remedy=f"running are {', '.join(self._armoury.strategies)}")
            command["argument"] = self._armoury.strategies.index(request.strategy)
        command["command"], command["reason"] = {
            "close": (l.CMD_CLOSE_POSITION, l.EXIT_OPERATOR), "flatten": (l.CMD_FLATTEN, l.EXIT_FLATTEN), "adjust": (l.CMD_ADJUST, l.EXIT_NONE),
            "cancel_entries": (l.CMD_CANCEL_ENTRIES, l.EXIT_NONE), "release": (l.CMD_RELEASE, l.EXIT_NONE)}[request.action]
        table = self._memory.conditions.table[0]
        seq = int(table["command_seq"]) + 1
        if seq - int(self._line()["command_seq"]) >= l.MAX_COMMANDS:
            return messages.Refused(code="busy", text="too many commands are waiting for the hot loop", remedy="try again in a second")
        row = self._memory.conditions.commands[seq % l.MAX_COMMANDS]
        for name, value in command.items():
            row[name] = value
        row["seq"] = seq
        table["command_seq"] = seq
        self._child.metric("commands")
        wait.ring_bells(self._child.processes, 1 << l.SNIPER)
        open_now = int((rows["state"] != l.POS_FLAT).sum())
        return messages.Done(text=f"{request.action}: told the hot loop",
                             data={"open_positions": open_now, "position_id": str(command["argument"])})

    def _moved(self, request: messages.Operate, position: Any) -> tuple[int, int]:
        """New stop and target in ticks, 0 where it stays. Raises NotArmed where a price is on the wrong side, or the position may not be adjusted."""
        number, side = int(position["instrument"]), int(position["side"])
        facts = self._armoury.facts(self._symbol(number))
        most = int(self._memory.conditions.params[int(self._memory.conditions.table[0]["params_epoch"]) & 1]["max_adjustments"])
        if int(position["adjustments"]) >= most:
            raise NotArmed(f"it was adjusted {most} times, which is limits.max_adjustments; close it, or raise the limit for the next start")
        if position["exit_reason"] != l.EXIT_NONE or position["lots"] <= 0:
            raise NotArmed("it is closing, or has not been filled yet; look again with trader-ctl positions")
        if request.stop is None and request.target is None:
            raise NotArmed("neither stop nor target is given; add --stop PRICE or --target PRICE")
        state, moved = self._memory.sniper.instrument_states[number], []
        now = int(state["bid"] if side > 0 else state["ask"]) or int(state["last"])
        for name, text, sign in (("stop", request.stop, -side), ("target", request.target, side)):
            price = 0 if text is None else price_in(text, facts, name)
            if price and now and sign * (price - now) <= 0:
                raise NotArmed(f"{name}: {text} is not {'above' if sign > 0 else 'below'} {now * facts.tick}, where it could be sold now; to end the "
                               "position, close it")
            moved.append(price)
        return moved[0], moved[1]

    def _line(self) -> Any:
        sniper = self._memory.sniper
        return sniper.commit_lines[int(sniper.commit[0]["number"]) & 1]

    def _symbol(self, instrument: int) -> str:
        return str(self._memory.instruments.instruments[instrument]["symbol"].decode())

    def _strategy(self, number: int) -> str:
        """Its name; of one that only closes what an earlier run opened, too."""
        return str(self._memory.instruments.strategies[number]["name"].decode())

    def _decimal(self, instrument: int, value: int, unit: str) -> str:
        row = self._memory.instruments.instruments[instrument]
        return str(Decimal(int(value) * int(row[f"{unit}_mantissa"])).scaleb(int(row[f"{unit}_exponent"])))

    def _cash(self, quanta: int) -> str:
        return str(Decimal(int(quanta)).scaleb(int(self._memory.instruments.instruments[0]["quantum_exponent"])))

    def positions(self) -> list[dict[str, Any]]:
        """Open positions in words and decimals."""
        rows = []
        for p in self._memory.sniper.positions:
            if p["state"] == l.POS_FLAT:
                continue
            number = int(p["instrument"])
            state = self._memory.sniper.instrument_states[number]
            value = int(self._memory.instruments.instruments[number]["value_quanta"])
            mark = int(state["bid"] or state["last"]) if p["side"] > 0 else int(state["ask"] or state["last"])
            unrealised = int(p["side"]) * (mark * int(p["lots"]) * value - int(p["cost"])) if mark else 0
            entry = int(p["entry_quote"]) // value // int(p["entry_lots"]) if p["entry_lots"] else 0
            rows.append({
                "id": str(int(p["position_id"])), "symbol": self._symbol(number), "strategy": self._strategy(int(p["strategy"])),
                "side": "long" if p["side"] > 0 else "short", "state": l.POSITION_STATES[int(p["state"])],
                "size": self._decimal(number, p["lots"], "lot"), "entry_price": self._decimal(number, entry, "tick"),
                "mark_price": self._decimal(number, mark, "tick"), "unrealised_pnl": self._cash(unrealised), "fees": self._cash(p["fees"]),
                "stop_price": self._decimal(number, p["stop_price"], "tick"), "target_price": self._decimal(number, p["target_price"], "tick"),
                "best_price": self._decimal(number, p["best_price"], "tick"), "adjustments": int(p["adjustments"]),
                "rungs_left": int(p["rungs"] - p["rungs_done"]), "opened_ns": int(p["opened_ns"]),
                "deadline_ns": int(p["deadline_ns"]), "exit_reason": l.EXIT_REASONS[int(p["exit_reason"])], "condition_id": int(p["condition_id"]),
            })
        return rows

    def conditions(self, limit: int) -> list[dict[str, Any]]:
        """Armed conditions with their distance from the price, nearest first."""
        conditions = self._memory.conditions
        rows: list[dict[str, Any]] = []
        for slot in armed_slots(conditions).tolist():
            c = conditions.rows[slot]
            number = int(c["instrument"])
            instrument, state = self._memory.instruments.instruments[number], self._memory.sniper.instrument_states[number]
            trigger = int(c["trigger"])
            now = 0
            if trigger < len(l.PRICE_KINDS):
                now = int(state["bid"] + state["ask"]) if trigger == l.PRICE_MID else int(state[l.PRICE_KINDS[trigger]])
            states = self._memory.sniper.condition_states
            memory = states[slot]
            known = memory["condition_id"] == c["condition_id"]
            spent = int(c["group_id"]) and int(states[int(c["group_slot"])]["group_done"]) == int(c["group_id"])
            rows.append({
                "id": int(c["condition_id"]), "symbol": self._symbol(number), "strategy": self._strategy(int(c["strategy"])),
                "side": "buy" if c["side"] > 0 else "sell", "trigger": trigger_of(c, instrument), "direction": l.DIRECTIONS[int(c["direction"])],
                "level": level_of(c, instrument), "distance_bps": round((int(c["level"]) - now) * 10_000 / now, 1) if now else None,
                "clauses": clauses_of(c, instrument),
                "confidence": int(c["confidence_e4"]) / 10_000, "valid_until_ns": int(c["valid_until_ns"]),
                "fired": int(memory["fired"]) if known else 0, "max_fires": int(c["max_fires"]),
                "next_allowed_ns": int(memory["next_allowed_ns"]) if known else 0, "group_spent": bool(spent),
                "last_refusal": l.REFUSALS[int(memory["last_refusal"])] if known else "none",
            })
        rows.sort(key=lambda row: abs(row["distance_bps"]) if row["distance_bps"] is not None else 1e9)
        return rows[:limit]


def main(child: Child) -> int:
    """Recover, run the loop in its thread, serve the bus; at a stop drain what is working."""
    boot, memory, processes = child.boot, child.memory, child.processes
    hotpath: Hotpath = boot.section("hotpath", Hotpath)
    while not int(memory.board.cursors[0]["incarnation"]):  # the recorder sets it when the book of the last run is restored
        if child.stopping():
            return 0
        child.beat(0)
        time.sleep(0.005)
    s = sniper_arrays(memory, crash.words("sniper", boot.restarts))
    applied = loop.start(s)
    child.log.info("recovered: %s", "first start" if applied < 0 else f"{applied} undo lines applied")
    write_params(memory, boot.section("limits", Limits), hotpath)
    if boot.lockstep and memory.board.cursors[0]["plan_horizon_ns"] == 0:
        memory.board.cursors[0]["plan_horizon_ns"] = 1  # the first tick waits for the first plan
    worker = threading.Thread(
        target=loop.run, name="hot-loop",
        args=(s, int(boot.lockstep), wait.spins_of(int(memory.board.run[0]["wait_strategy"])), silence_ns(boot), float(boot.speed)))
    worker.start()

    def beat() -> None:
        processes[l.SNIPER]["control_beat_ns"] = time.monotonic_ns()

    try:
        control = Control(child, Armoury(memory, beat))
        server = bus.Server(boot.socket_dir, "sniper", messages.decode_child_request)
        child.ready()
        while worker.is_alive() and not child.stopping():
            server.poll(0.05, control.handle)
            beat()
    finally:  # however this thread ends, the loop does not trade on without it: the watchdog starts both anew
        s.own[0]["stop"] = child.stopping() or l.STOP_DRAIN
        wait.ring_bells(processes, 1 << l.SNIPER)
        worker.join()
    if child.stopping() == l.STOP_DRAIN:
        left = loop.drain(s, time.monotonic_ns() + _DRAIN_NS)
        if left:
            child.log.warning("%d orders still working at the stop; they are resolved at the next start", left)
    server.close()
    return 0


def warm_up(memory: Any) -> None:
    """Compile the loop: a start, a run that is told to stop, a drain."""
    # what a life does before its first tick is done once where it is forked from: decoders are made, types are found
    write_params(memory, msgspec.json.decode(b"{}", type=Limits), msgspec.json.decode(b"{}", type=Hotpath))
    Armoury(memory, lambda: None)
    s = sniper_arrays(memory)
    loop.start(s)
    s.own[0]["stop"] = l.STOP_DRAIN
    loop.run(s, 0, 1, 0, 0.0)
    loop.drain(s, 0)
    wait.ring_bells(s.processes, 1 << l.SNIPER)
