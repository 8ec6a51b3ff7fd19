"""The sniper's kernel over real shared segments: crossings, the gate, protection, and recovery after a step that was never committed."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hotpath.arming import NotArmed, arm_of, compiled, facts_by_symbol
from hotpath.armoury import Armoury
from hotpath.config import Hotpath, Limits
from hotpath.kernel import loop
from hotpath.kernel.commit import begin as begin_step
from hotpath.kernel.commit import recover, touch_account, touch_position, touch_state
from hotpath.kernel.state import sniper_arrays
from hotpath.kernel.step import step, step_without_tick, substep
from hotpath.sniper import Control, write_params
from ipc import layout as l
from ipc import messages, ring

SECOND = 1_000_000_000


class World:
    """One instrument (tick 0.01, lot 0.001, 1000 quanta), ticks and reports by hand."""

    def __init__(self, memory: Any, limits: Limits | None = None) -> None:
        self.memory = memory
        row = memory.instruments.instruments[0]
        row["symbol"], row["kind"], row["value_quanta"] = b"BTC/USDT", l.KIND_SPOT, 1000
        row["tick_mantissa"], row["tick_exponent"], row["lot_mantissa"], row["lot_exponent"] = 1, -2, 1, -3
        row["permitted"] = -1
        row["max_lots"], row["max_price"], row["leverage"], row["quantum_exponent"] = 10**6, 10**9, 1, -8
        memory.instruments.strategies[0]["name"] = b"probe"
        memory.board.run[0]["instruments"] = memory.board.run[0]["strategies"] = 1
        memory.orders.readers[l.RECORDER]["active"] = memory.reports.readers[l.SNIPER]["active"] = 1
        write_params(memory, limits or Limits(), Hotpath())
        self.s = sniper_arrays(memory)
        loop.start(self.s)
        self.armoury = self.rearm()
        self.now = 1_700_000_000 * SECOND
        self._tick, self._report = np.zeros(1, l.TICK), np.zeros(1, l.REPORT)
        self.report(kind=l.BALANCE, balance=10_000 * 10**8)

    def rearm(self) -> Armoury:
        """The main thread's half anew; it merges often, so that both the main and the added thresholds are looked at."""
        self.armoury = Armoury(self.memory, self.run, most_added=4)
        return self.armoury

    def take(self, plan: messages.Plan) -> tuple[int, int]:
        """A plan as its strategist compiles it, armed."""
        known = facts_by_symbol(self.memory.instruments.instruments)
        return self.armoury.arm(arm_of(plan, compiled(plan.conditions, plan.due_ns, known, lambda: None)))

    def run(self) -> None:
        self.s.own[0]["stop"] = l.STOP_NONE
        self.memory.board.processes[l.SNIPER]["stop"] = l.STOP_NONE
        while ring.head(self.memory.ticks.ring) > int(self.line["tick_seq"]) or loop.between_ticks(self.s):
            self._turn()

    def _turn(self) -> None:
        seq = int(self.line["tick_seq"]) + 1
        if ring.poll(self.memory.ticks.ring, self.memory.ticks.slots, seq, self.s.tick, 0) == ring.OK:
            step(self.s)
        else:
            step_without_tick(self.s)

    @property
    def line(self) -> Any:
        return self.s.commit_lines[int(self.s.commit[0]["number"]) & 1]

    def quote(self, bid: int, ask: int, after_s: float = 1) -> None:
        self.now += int(after_s * SECOND)
        self._publish(kind=l.TICK_QUOTE, price=bid, lots=10, ask_price=ask, ask_lots=10)

    def trade(self, price: int, flags: int = 0, after_s: float = 1) -> None:
        self.now += int(after_s * SECOND)
        self._publish(kind=l.TICK_TRADE, price=price, lots=1, flags=flags)

    def _publish(self, **fields: Any) -> None:
        self.publish_only(**fields)
        self.run()

    def publish_only(self, **fields: Any) -> None:
        self._tick[0] = np.zeros((), l.TICK)
        for name, value in {"event_ns": self.now, **fields}.items():
            self._tick[0][name] = value
        ring.publish(self.memory.ticks.ring, self.memory.ticks.slots, self._tick, 0)

    def successor(self) -> Any:
        """A new process's arrays over the same memory, recovered."""
        self.s = sniper_arrays(self.memory)
        loop.start(self.s)
        return self.s

    def run_loop(self) -> None:
        """The hot loop itself, until everything published is processed."""
        self.s.own[0]["stop"] = l.STOP_NONE
        self.memory.board.processes[l.SNIPER]["stop"] = l.STOP_NONE
        worker = threading.Thread(target=loop.run, args=(self.s, 0, 1, 0, 0.0))
        worker.start()
        end = time.monotonic() + 120  # the first call may compile the loop
        while int(self.line["tick_seq"]) < ring.head(self.memory.ticks.ring) and time.monotonic() < end:
            time.sleep(0.001)
        self.s.own[0]["stop"] = l.STOP_DRAIN
        worker.join(120)

    def report(self, **fields: Any) -> None:
        self._report[0] = np.zeros((), l.REPORT)
        for name, value in {"event_ns": self.now, **fields}.items():
            self._report[0][name] = value
        ring.publish(self.memory.reports.ring, self.memory.reports.slots, self._report, 0)
        self.run()

    def fill(self, order: Any, price: int) -> None:
        lots = int(order["lots"])
        self.report(kind=l.FILL, order_seq=order["seq"], cum_lots=lots, cum_quote=lots * price * 1000, last_lots=lots, last_price=price,
                    trade_id=order["seq"])

    def arm(self, level: str, direction: str = "up", confidence: float = 0.9, plan_seq: int = 1, **more: Any) -> None:
        condition = messages.Condition(symbol="BTC/USDT", side="buy", level=level, direction=direction, confidence=confidence, why="test",
                                       size=messages.Size(kind="equity_bps", value="500"), stop_bps=100, target_bps=200, **more)  # type: ignore[arg-type]
        self.take(messages.Plan(strategy="probe", due_ns=self.now, next_due_ns=self.now, plan_seq=plan_seq, conditions=[condition]))
        self.run()

    def orders(self, kind: int = l.NEW) -> list[Any]:
        records = self.memory.orders.slots[1 : 1 + ring.head(self.memory.orders.ring)]
        return [row.copy() for row in records if row["kind"] == kind]


@pytest.fixture
def world(memory: Any) -> World:
    made = World(memory)
    made.quote(9_999, 10_000)
    made.trade(10_000)
    return made


def test_a_level_fires_once_when_the_price_passes_it_and_not_when_it_only_touches_from_beyond(world: World) -> None:
    world.arm("100.05")
    world.trade(10_004)
    assert world.orders() == []
    world.trade(10_005)
    assert len(world.orders()) == 1
    world.trade(10_000)
    world.trade(10_010)
    assert len(world.orders()) == 1, "max_fires is 1"


def test_a_condition_armed_beyond_its_level_waits_for_a_fresh_crossing(world: World) -> None:
    world.arm("99.00")
    world.trade(10_010)
    assert world.orders() == []
    world.trade(9_890)
    world.trade(9_901)
    assert len(world.orders()) == 1


def test_a_print_that_is_no_market_trade_fires_nothing(world: World) -> None:
    world.arm("100.05")
    world.trade(10_200, flags=l.FLAG_NOT_MARKET)
    world.trade(10_001)
    assert world.orders() == []


def test_no_condition_fires_on_the_first_tick_after_a_gap(world: World) -> None:
    world.arm("100.05")
    world.trade(10_100, after_s=61)
    assert world.orders() == []


@pytest.mark.parametrize(("confidence", "orders", "refusals"), [(0.7, 1, 0), (0.6999, 0, 1)])
def test_the_gate_stands_exactly_at_the_least_confidence(world: World, confidence: float, orders: int, refusals: int) -> None:
    world.arm("100.05", confidence=confidence)
    world.trade(10_010)
    assert (len(world.orders()), int(world.s.refusals[l.REF_CONFIDENCE])) == (orders, refusals)


def test_without_a_configured_limit_nothing_trades(memory: Any) -> None:
    world = World(memory, Limits(daily_loss_bps=None))
    world.quote(9_999, 10_000)
    world.trade(10_000)
    world.arm("100.05")
    world.trade(10_010)
    assert world.orders() == []
    assert world.s.refusals[l.REF_NO_LIMIT] == 1
    assert [row["code"] for row in world.orders(l.REFUSED)] == [l.REF_NO_LIMIT]


def test_an_order_counts_from_its_commit_and_a_fill_gets_its_stop_and_target(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    (order,) = world.orders()
    account = world.s.account[0]
    assert (account["open_positions"], account["entries_today"], account["working_orders"]) == (1, 1, 1)
    assert account["reserved"] > int(order["lots"]) * 10_000 * 1000
    world.fill(order, 10_000)
    position = world.s.positions[0]
    assert (position["stop_price"], position["target_price"]) == (9_900, 10_200)
    assert (account["reserved"], account["working_orders"]) == (0, 0)
    assert account["cash"] == 10_000 * 10**8 - int(order["lots"]) * 10_000 * 1000


def test_the_stop_sends_one_exit_of_the_whole_position_and_its_fill_closes_the_trade(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    world.fill(world.orders()[0], 10_000)
    world.quote(9_901, 9_902)
    assert len(world.orders()) == 1
    world.quote(9_900, 9_901)
    world.quote(9_800, 9_801)
    entry, stop = world.orders()
    assert (stop["purpose"], stop["code"], stop["lots"], stop["side"]) == (l.EXIT, l.EXIT_STOP, entry["lots"], l.SELL)
    world.fill(stop, 9_900)
    (closed,) = (row.view(l.TRADE) for row in world.orders(l.CLOSED))
    assert closed["pnl"] == -100 * 1000 * int(entry["lots"])
    assert world.s.positions[0]["state"] == l.POS_FLAT


def test_a_rejected_exit_is_decided_anew_under_a_new_id(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    world.fill(world.orders()[0], 10_000)
    world.quote(9_900, 9_901)
    world.report(kind=l.REJECTED, order_seq=world.orders()[1]["seq"])
    world.quote(9_990, 9_991)
    assert [int(row["attempt"]) for row in world.orders()] == [0, 0, 1]


def test_a_report_that_comes_twice_changes_nothing(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    (order,) = world.orders()
    world.fill(order, 10_000)
    before = world.s.account.tobytes(), world.s.positions.tobytes()
    world.fill(order, 10_000)
    assert (world.s.account.tobytes(), world.s.positions.tobytes()) == before


def test_recovery_undoes_a_step_that_was_not_committed(world: World) -> None:
    before = world.s.tx.tobytes()
    begin_step(world.s)
    touch_account(world.s)
    world.s.account[0]["cash"] = 1
    touch_position(world.s, 2)
    world.s.positions[2]["lots"] = 77
    touch_account(world.s)
    world.s.account[0]["cash"] = 2
    for number, instrument in enumerate((0, 1, 1, 0)):
        touch_state(world.s, instrument)
        world.s.states[instrument]["last"] = 1000 + number
    assert recover(world.s) > 0
    assert world.s.tx.tobytes() == before
    assert recover(world.s) == 0


def test_a_tick_that_kills_twice_in_one_step_is_skipped_and_its_symbol_takes_no_entries(world: World) -> None:
    world.arm("100.05")
    world.publish_only(kind=l.TICK_TRADE, price=10_010, lots=1)
    deadly = ring.head(world.memory.ticks.ring)
    for _ in range(2):
        dies_in_the_step(world.successor(), deadly)
    assert world.successor().own[0]["deadly_tick"] == deadly
    world.run_loop()
    assert world.orders() == []
    (missed,) = world.orders(l.MISSED)
    assert (missed["code"], missed["instrument"], missed["value"]) == (l.MISSED_DEADLY, 0, 1)
    world.arm("100.20", plan_seq=2)
    world.trade(10_030)
    assert world.orders() == []
    assert world.s.refusals[l.REF_SYMBOL_CLOSED] == 1


def test_a_tick_whose_step_was_cut_short_once_is_taken_by_the_successor(world: World) -> None:
    world.arm("100.05")
    world.publish_only(kind=l.TICK_TRADE, price=10_010, lots=1)
    dies_in_the_step(world.successor(), ring.head(world.memory.ticks.ring))
    world.successor()
    world.successor()  # the recovery itself was cut short: no death of the tick's
    world.run_loop()
    assert len(world.orders()) == 1
    assert len(world.orders(l.MISSED)) == 0


def dies_in_the_step(s: Any, seq: int) -> None:
    """All of a tick's step but its commit."""
    assert ring.poll(s.tick_ring, s.tick_slots, seq, s.tick, 0) == ring.OK
    assert substep(s)


def test_decisions_are_timed_for_orders_alone(world: World) -> None:
    world.arm("100.05", confidence=0.1)
    world.publish_only(kind=l.TICK_TRADE, price=10_010, lots=1)
    world.run_loop()
    assert len(world.orders(l.REFUSED)) == 1
    assert world.s.decision_hist.sum() == 0
    world.arm("100.20", plan_seq=2)
    world.publish_only(kind=l.TICK_TRADE, price=10_030, lots=1)
    world.run_loop()
    assert len(world.orders()) == world.s.decision_hist.sum() == 1
    assert world.memory.board.processes[l.SNIPER]["metrics"][1] == 1


@pytest.mark.parametrize(("ask", "orders"), [(10_025, 1), (10_026, 0)])
def test_an_entry_is_refused_beyond_its_slippage_and_sent_exactly_at_it(world: World, ask: int, orders: int) -> None:
    world.arm("100.05", max_slippage_bps=20)
    world.quote(ask - 1, ask)
    world.trade(10_005)
    assert len(world.orders()) == orders
    assert world.s.refusals[l.REF_SLIPPAGE] == 1 - orders


def test_recovery_leaves_a_committed_step_alone(world: World) -> None:
    world.arm("100.05")
    world.trade(10_010)
    before = world.s.tx.tobytes()
    assert recover(world.s) == 0
    assert world.s.tx.tobytes() == before


@pytest.mark.parametrize("level", ["100.005", "0"])
def test_a_level_off_the_grid_arms_nothing_and_says_where(world: World, level: str) -> None:
    world.arm("100.05")
    generation = int(world.memory.conditions.table[0]["generation"])
    with pytest.raises(NotArmed, match=r"conditions\[0\]\.level"):
        world.arm(level, plan_seq=2)
    assert int(world.memory.conditions.table[0]["generation"]) == generation


def test_closing_a_symbol_with_two_positions_is_refused_with_their_ids(world: World) -> None:
    boot = SimpleNamespace(restarts=0)
    child: Any = SimpleNamespace(memory=world.memory, processes=world.memory.board.processes, metric=lambda *_: None, boot=boot)
    control = Control(child, world.armoury)
    for row, identity in ((0, 71), (1, 72)):
        world.s.positions[row]["state"], world.s.positions[row]["position_id"] = l.POS_OPEN, identity
    refused = control.handle(messages.Operate(action="close", position="BTC/USDT"))
    assert isinstance(refused, messages.Refused)
    assert (refused.code, refused.remedy) == ("ambiguous", "close by id: 71, 72")
    assert isinstance(control.handle(messages.Operate(action="close", position="72")), messages.Done)
    assert int(world.memory.conditions.commands[1]["argument"]) == 72
