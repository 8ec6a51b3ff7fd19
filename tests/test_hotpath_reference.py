"""Random ticks, reports, plans and commands through the kernel and through a slow reference: every record and the whole book agree.

`scripts/test -m slow tests/test_hotpath_reference.py` looks at 10,000 examples.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotpath.config import Hotpath, Limits
from hotpath.sniper import write_params
from ipc import layout as l
from ipc import messages
from tests import reference as slow
from tests.conftest import throw_away_memory
from tests.test_hotpath_sniper import SECOND, World

SYMBOLS = ("BTC/USDT", "BTC/USDT:USDT")
STRATEGIES = ("probe", "other")
LIMITS = Limits(max_open_positions=3, max_symbol_exposure_bps=6_000, daily_loss_bps=500, max_entries_per_day=12, min_confidence=0.5,
                max_quote_age_ms=5_000, max_order_value=6_000.0, price_collar_bps=150, window_collar_bps=10_000, max_gross_exposure_bps=9_000,
                min_equity=9_000.0, duplicate_window_ms=2_000, max_messages_per_s=2.0, max_repeats=3, repeat_window_s=30, max_adjustments=2)
HOTPATH = Hotpath()


class Pair:
    """The kernel in its world and the reference, given the same."""

    def __init__(self, memory: Any, seed: int) -> None:
        self.random = random.Random(seed)
        for number, symbol in enumerate(SYMBOLS):
            row = memory.instruments.instruments[number]
            for name in memory.instruments.instruments.dtype.names:
                row[name] = memory.instruments.instruments[0][name]
            row["symbol"], row["taker_fee_e8"], row["max_lots"] = symbol.encode(), slow.FEE_E8, slow.MAX_LOTS
        self.world = World(memory, LIMITS)
        for number, symbol in enumerate(SYMBOLS):
            row = memory.instruments.instruments[number]
            row["kind"] = (l.KIND_SPOT, l.KIND_LINEAR_PERPETUAL)[number]
            for name in ("value_quanta", "tick_mantissa", "tick_exponent", "lot_mantissa", "lot_exponent", "permitted", "max_price", "leverage",
                         "quantum_exponent"):
                row[name] = memory.instruments.instruments[0][name]
            row["symbol"], row["taker_fee_e8"], row["max_lots"] = symbol.encode(), slow.FEE_E8, slow.MAX_LOTS
            memory.instruments.strategies[number]["name"] = STRATEGIES[number].encode()
        memory.board.run[0]["instruments"] = memory.board.run[0]["strategies"] = 2
        write_params(memory, LIMITS, HOTPATH)
        self.world.rearm()
        self.world.run()
        epoch = int(memory.conditions.table[0]["params_epoch"])
        params = memory.conditions.params[epoch & 1]
        self.slow = slow.Reference({name: int(params[name]) for name in params.dtype.names if name != "spare"})
        self.slow.cash = self.slow.day_start = 10_000 * 10**8
        self.price = [10_000, 10_000]
        self.plan_seq = 0
        self.compared = 0
        self.told: list[dict[str, Any]] = []

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────
    def pass_time(self) -> None:
        steps = (0.0, 0.01, 0.1, 0.1, 0.5, 1.0, 3.0)
        self.world.now += int(SECOND * (self.random.choice(steps) if self.random.random() < 0.985 else self.random.choice((8, 70, 40_000))))

    def tick(self) -> None:
        self.pass_time()
        r, number = self.random, self.random.randrange(2)
        self.price[number] += round(r.gauss(0, 14))
        price, now = self.price[number], self.world.now
        real = r.random() > 0.03
        flags = 0 if real else l.FLAG_NOT_MARKET
        if r.random() < 0.4:
            self.world._publish(kind=l.TICK_TRADE, instrument=number, price=price, lots=r.randrange(1, 9), flags=flags)
            self.slow.market(number, now, trade=price, real=real)
            if self.random.random() < 0.7:  # the quote that goes with it
                self.quote(number, price)
        else:
            self.quote(number, price)

    def quote(self, number: int, price: int) -> None:
        r, now, real = self.random, self.world.now, self.random.random() > 0.03
        flags = 0 if real else l.FLAG_NOT_MARKET
        bid, ask = price - r.choice((0, 1, 1, 2)), price + r.choice((-1, 0, 1, 1, 1, 2, 3))
        if r.random() < 0.03:
            bid = 0
        quote = (bid, r.randrange(1, 99), ask, r.randrange(1, 99))
        self.world._publish(kind=l.TICK_QUOTE, instrument=number, price=quote[0], lots=quote[1], ask_price=quote[2], ask_lots=quote[3],
                            flags=flags)
        self.slow.market(number, now, quote=quote, real=real)

    def clock(self) -> None:
        self.pass_time()
        self.world.publish_only(kind=l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
        self.world.run()
        self.slow.clock(self.world.now)

    def plan(self) -> None:
        r, strategy = self.random, self.random.randrange(2)
        self.plan_seq += 1
        given, made = [], []
        for index in range(r.randrange(0, 10)):
            words, condition = self.condition(strategy, index)
            given.append(words)
            made.append(condition)
        groups: dict[str, int] = {}
        for words, condition in zip(given, made, strict=True):
            if "group" in words:
                condition.more["group"] = groups.setdefault(words["group"], condition.id)
        mine = [c.id for c in self.slow.conditions if c.strategy == strategy]
        add = r.random() < 0.5
        withdraw = r.sample(mine, r.randrange(0, len(mine) + 1)) if add and r.random() < 0.5 else []
        if add and len(mine) > 20:
            add, withdraw = False, []
        self.world.take(messages.Plan(
            strategy=STRATEGIES[strategy], due_ns=self.world.now, next_due_ns=self.world.now, plan_seq=self.plan_seq, add=add, withdraw=withdraw,
            conditions=[msgspec.convert(words, messages.Condition) for words in given]))
        self.world.run()
        self.slow.plan(strategy, self.plan_seq, made, add, set(withdraw))

    def condition(self, strategy: int, index: int) -> tuple[dict[str, Any], slow.Condition]:
        r = self.random
        number, up = r.randrange(2), r.random() < 0.5
        side = 1 if number == 0 or r.random() < 0.5 else -1
        kind = r.randrange(4)
        level = self.price[number] + r.randrange(-25, 26)
        if r.random() < 0.5:
            level = level // 10 * 10  # so that conditions of different plans share a level
        text = f"{level / 100:.2f}"
        words: dict[str, Any] = {
            "symbol": SYMBOLS[number], "side": "buy" if side > 0 else "sell", "direction": "up" if up else "down", "price": l.PRICE_KINDS[kind],
            "confidence": r.choice((0.4, 0.5, 0.9, 0.9, 0.9, 0.9)), "why": "random", "valid_for_s": r.choice((2, 60, 3600, 3600)),
            "max_fires": r.choice((1, 3)),
            "cooldown_s": r.choice((0, 0, 2)), "stop_bps": r.choice((0, 40, 100)), "target_bps": r.choice((0, 0, 60, 200)),
            "time_stop_s": r.choice((5, 600, 600, 600)), "max_slippage_bps": r.choice((0, 0, 5)), "break_even_bps": r.choice((0, 0, 25, 40))}
        trigger = kind
        more: dict[str, Any] = {"price_kind": kind, "clauses": [], "ladder": [], "group": 0, "limit_price": 0, "order_type": l.MARKET,
                                "stop_price": 0, "rebound_bps": 0}
        held = level * (2 if kind == l.PRICE_MID else 1)
        if r.random() < 0.2:
            trigger, words["rebound_bps"] = l.TRIGGER_TRAILING, r.choice((5, 30))
            more["rebound_bps"] = words["rebound_bps"]
            if r.random() < 0.5:
                words["level"] = text
            else:
                held = 0
        elif r.random() < 0.2:
            half = 2 if kind == l.PRICE_MID else 1
            bps = r.choice((1, 20))
            words["anchor"], words["move_bps"] = text, bps
            held = level * half + (1 if up else -1) * slow.up(level * half * bps, 10_000)
        else:
            words["level"] = text
        if r.random() < 0.3:
            words["order"], more["order_type"] = "limit", l.LIMIT
            more["limit_price"] = level + r.randrange(-30, 31)
            words["limit_price"] = f"{more['limit_price'] / 100:.2f}"
        if r.random() < 0.2:
            words["group"] = r.choice("ab")
        words["paper"] = more["paper"] = r.random() < 0.25
        more["twin"] = r.choice(((0, 0), (0, 0), (75, 0), (150, 0), (0, 75), (0, 150), (133, 67)))
        words["twin_stop_pct"], words["twin_target_pct"] = more["twin"]
        if r.random() < 0.15:
            feature, above, at = r.choice(("last", "bid", "ask")), r.random() < 0.5, self.price[number] + r.randrange(-30, 31) + 0.5
            words["clauses"] = [{"feature": feature, "op": ">" if above else "<", "value": at / 100}]
            more["clauses"] = [(feature, above, at)]
        if r.random() < 0.2 and not words["stop_bps"]:
            more["stop_price"] = level - side * 50
            words["stop_price"] = f"{more['stop_price'] / 100:.2f}"
        if r.random() < 0.2:
            words["trail_distance_bps"], words["trail_activation_bps"] = r.choice((20, 60)), r.choice((0, 20))
        if r.random() < 0.3:
            shares = r.choice(((0.5, 0.5), (0.3, 0.3), (0.0003,)))
            words["ladder"] = [{"bps": 10 + 15 * k, "share": share} for k, share in enumerate(shares)]
            more["ladder"] = [(10 + 15 * k, round(share * 10_000)) for k, share in enumerate(shares)]
        size = r.choice((("base", "5"), ("base", "1"), ("base", "0.001"), ("quote", "1000"), ("quote", "1000"), ("quote", "0.01"),
                         ("equity_bps", "2000"),
                         ("equity_bps", "1000"), ("equity_bps", "6000")))
        words["size"] = {"kind": size[0], "value": size[1]}
        more["size"] = {"base": (l.SIZE_BASE, round(float(size[1]) * 1000)), "quote": (l.SIZE_QUOTE, round(float(size[1]) * 10**8)),
                        "equity_bps": (l.SIZE_EQUITY_BPS, int(float(size[1])))}[size[0]]
        more |= {"valid_from": self.world.now, "valid_until": self.world.now + words["valid_for_s"] * SECOND, "max_fires": words["max_fires"],
                 "cooldown_ns": words["cooldown_s"] * SECOND, "time_stop_ns": words["time_stop_s"] * SECOND, "target_price": 0,
                 "confidence_e4": round(words["confidence"] * 10_000)}
        more |= {name: words.get(name, 0) for name in ("stop_bps", "target_bps", "trail_distance_bps", "trail_activation_bps", "max_slippage_bps",
                                                       "break_even_bps")}
        return words, slow.Condition(self.plan_seq << 20 | index, 0, number, strategy, trigger, 1 if up else -1, held, side, more)

    def report(self) -> None:
        r = self.random
        if self.told and r.random() < 0.15:  # the same once more
            self.give(r.choice(self.told[-5:]))
            return
        if not self.slow.orders:
            return
        order = r.choice(self.slow.orders)
        kind = r.choices((l.FILL, l.CANCELLED, l.REJECTED, l.EXPIRED, l.ACCEPTED, l.UNKNOWN), (14, 1, 1, 1, 1, 1))[0]
        fields = {"kind": kind, "order_seq": order.seq, "event_ns": self.world.now, "cum_lots": order.cum_lots, "cum_quote": order.cum_quote}
        if kind == l.FILL or (kind in (l.CANCELLED, l.EXPIRED) and r.random() < 0.3):
            left = order.lots - order.cum_lots
            lots = left if r.random() < 0.6 else r.randrange(1, left + 1)
            price = max(1, self.price[order.key[0]] + r.randrange(-3, 4))
            fields["cum_lots"] += lots
            fields["cum_quote"] += lots * price * slow.VALUE
            if kind == l.FILL:
                fields |= {"fee": slow.up(lots * price * slow.VALUE, 1000), "trade_id": len(self.told) + 1, "last_lots": lots, "last_price": price}
        elif kind == l.REJECTED and order.cum_lots:
            return
        self.told.append(fields)
        self.give(fields)

    def give(self, fields: dict[str, Any]) -> None:
        self.world.report(**fields)
        self.slow.report(fields["kind"], fields["order_seq"], fields["event_ns"], fields["cum_lots"], fields["cum_quote"], fields.get("fee", 0),
                         fields.get("trade_id", 0))

    def command(self) -> None:
        r = self.random
        positions = list(self.slow.positions.values())
        kind = r.choices((l.CMD_CLOSE_POSITION, l.CMD_FLATTEN, l.CMD_CANCEL_ENTRIES, l.CMD_ADJUST, l.CMD_RELEASE), (3, 1, 1, 9, 3))[0]
        fields = {"command": kind, "argument": 0, "reason": l.EXIT_OPERATOR, "stop_price": 0, "target_price": 0}
        if kind in (l.CMD_CLOSE_POSITION, l.CMD_ADJUST):
            if not positions:
                return
            position = r.choice(positions)
            fields["argument"] = position.id
            if kind == l.CMD_ADJUST:
                fields["stop_price"] = self.price[position.key[0]] - position.side * r.randrange(10, 99)
                fields["target_price"] = r.choice((0, self.price[position.key[0]] + position.side * r.randrange(10, 99)))
        if kind == l.CMD_RELEASE:
            fields["argument"] = r.randrange(2)
        commands, table = self.world.memory.conditions.commands, self.world.memory.conditions.table[0]
        seq = int(table["command_seq"]) + 1
        for name, value in fields.items():
            commands[seq % l.MAX_COMMANDS][name] = value
        table["command_seq"] = seq
        self.world.run()
        self.slow.command(kind, fields["argument"], fields["reason"], fields["stop_price"], fields["target_price"])

    def mode(self) -> None:
        self.slow.running = self.random.random() < 0.8
        self.world.memory.board.modes[l.MODE_OF_OPERATOR]["mode"] = l.MODE_RUNNING if self.slow.running else l.MODE_REDUCE_ONLY

    def successor(self) -> None:
        self.world.successor()
        self.world.rearm()

    # ── whether they agree ───────────────────────────────────────────────────────────────────────────────────────────
    def compare(self) -> None:
        head = int(self.world.memory.orders.ring[0]["head"])
        found = [plain(self.world.memory.orders.slots[seq % l.RING_SLOTS]) for seq in range(self.compared + 1, head + 1)]
        assert found == self.slow.records[self.compared:]
        self.compared = head
        account, s = self.world.s.account[0], self.slow
        told = {name: int(account[name]) for name in ("cash", "reserved", "open_positions", "working_orders", "entries_today", "day_start_equity",
                                                      "latched", "messages_due_ns")}
        assert told == {"cash": s.cash, "reserved": sum(order.reserved for order in s.orders), "open_positions": len(s.positions),
                        "working_orders": len(s.orders), "entries_today": s.entries_today, "day_start_equity": s.day_start,
                        "latched": sum(1 << number for number in s.latched), "messages_due_ns": s.messages_due}
        rows = self.world.s.positions
        for row in np.flatnonzero(rows["state"] != l.POS_FLAT).tolist():
            p, q = rows[row], s.positions[row // l.MAX_STRATEGIES, row % l.MAX_STRATEGIES]
            under_way = sum(order.lots - order.cum_lots for order in s.orders if order.seq in (q.exit_seq, q.rung_seq))
            assert [int(p[name]) for name in ("state", "lots", "cost", "stop_price", "target_price", "best_price", "exit_reason", "rungs_done",
                                              "adjustments", "exit_working_lots", "deadline_ns", "fees")] == [
                q.state, q.lots, q.cost, q.stop, q.target, q.best, q.reason, q.rungs_done, q.adjustments, under_way, q.deadline, q.fees]
            assert int(p["exit_working_lots"]) <= int(p["lots"])


def plain(row: Any) -> tuple[Any, ...]:
    """An order-ring record as the reference writes it."""
    name = l.INTENT_KINDS[int(row["kind"])]

    def facts(*fields: str) -> tuple[int, ...]:
        return tuple(int(row[field]) for field in fields)

    head = (int(row["seq"]), name)
    match name:
        case "NEW":
            return (*head, *facts("purpose", "side", "order_type", "lots", "limit_price", "position_id", "code", "leg", "attempt"))
        case "CANCEL":
            return (*head, *facts("order_seq"))
        case "CANCEL_ALL":
            return (*head, *facts("code"))
        case "SWAPPED":
            return (*head, *facts("plan_seq", "value"))
        case "REFUSED":
            return (*head, *facts("condition_id", "code"))
        case "CLOSED":
            return (*head, *facts("position_id", "lots", "value", "code"))
        case "LIFECYCLE":
            return (*head, *facts("position_id", "leg", "code", "flags", "limit_price", "reference_price", "attempt"))
        case "RELEASED":
            return (*head, *facts("strategy"))
        case "CONTEXT":
            return (*head, *facts("position_id"))
        case "AFTERWARDS":
            return (*head, *facts("position_id", "code", "reference_price"))
        case "PAPER_OPENED":
            return (*head, *facts("position_id", "code", "value", "limit_price", "reference_price", "lots", "order_seq"))
        case "PAPER_CLOSED":
            return (*head, *facts("position_id", "lots", "value", "code"))
    return head


ACTIONS = (("tick", 80), ("clock", 10), ("plan", 10), ("report", 45), ("command", 4), ("mode", 3), ("successor", 2))


def agree(seed: int, length: int) -> Pair:
    """A run of `length` actions; raises AssertionError where kernel and reference differ."""
    with throw_away_memory() as memory:
        pair = Pair(memory, seed)
        names, weights = zip(*ACTIONS, strict=True)
        for _ in range(length):
            getattr(pair, pair.random.choices(names, weights)[0])()
            pair.compare()
        return pair


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 30), st.integers(1, 160))
def test_kernel_and_reference_agree(seed: int, length: int) -> None:
    agree(seed, length)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 30), st.integers(1, 250))
def test_kernel_and_reference_agree_over_ten_thousand_examples(seed: int, length: int) -> None:
    agree(seed, length)


def test_the_examples_reach_every_exit_and_most_refusals() -> None:
    """What is compared is worth comparing: all in all the runs below see these."""
    reasons, refusals, causes, on_paper, afterwards, twins, of_twins = set(), set(), set(), set(), set(), set(), set()
    for seed in range(60):
        for record in agree(seed, 250).slow.records:
            match record[1]:
                case "CLOSED":
                    reasons.add(l.EXIT_REASONS[record[5]])
                case "PAPER_OPENED" if record[8]:
                    twins.add((seed, record[2]))
                case "PAPER_CLOSED":
                    (of_twins if (seed, record[2]) in twins else on_paper).add(l.EXIT_REASONS[record[5]])
                case "AFTERWARDS":
                    afterwards.add(record[3])
                case "REFUSED":
                    refusals.add(l.REFUSALS[record[3]])
                case "LIFECYCLE":
                    causes.add(l.ADJUSTMENTS[record[5]])
    assert reasons >= {"stop", "trailing", "target", "time", "operator", "rung"}, reasons
    assert causes == set(l.ADJUSTMENTS)
    assert on_paper >= {"stop", "trailing", "target", "time", "rung"}, on_paper
    assert of_twins >= {"stop", "trailing", "target", "time", "rung"}, of_twins
    assert afterwards == {5, 15}
    assert len(refusals) >= 12, refusals
