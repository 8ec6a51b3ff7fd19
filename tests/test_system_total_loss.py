"""Everything is SIGKILLed, the forkserver too, and shared memory is gone: from LMDB alone the instance comes back as it was, and goes on."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from control.learn.knowledge import Knowledge
from ipc import layout as l
from ipc.segment import Memory, instance_dir
from tests.running import Running, until

CONFIG = """
[limits]
max_open_positions = 20
max_entries_per_day = 100000
min_confidence = 0.0
"""
#: one plan a day: whatever stands behind the kill was armed before it. What fires waits for a rebound, which comes soon wherever the price is.
STRATEGY = """
from control.think.strategy import Condition, Strategy, equity_bps

LATER_S, SOON_S = {later_s}, {soon_s}

class Once(Strategy):
    interval_s = 86400

    def plan(self, market, portfolio, knowledge):
        if portfolio.positions:
            raise RuntimeError("one plan is enough")
        def entry(symbol, why, **more):
            fields = dict(symbol=symbol, side="buy", direction="up", size=equity_bps(200), confidence=0.9, why=why, stop_bps=900,
                          valid_for_s=7 * 86400, rebound_bps=1)
            return Condition(**fields | more)
        def price(symbol, factor):
            return market.facts[symbol].price_text(market.candles(symbol, 1).close[-1] * factor)
        return [
            entry("BTC/USDT", "again and again", max_fires=900, cooldown_s=20, time_stop_s=10),
            entry("ETH/USDT", "trailing", max_fires=3, trail_distance_bps=800),
            entry("SOL/USDT", "group up", group="sol", max_fires=2, target_bps=900, cooldown_s=600),
            entry("SOL/USDT", "group down", group="sol", direction="down", max_fires=2, valid_after_s=LATER_S),
            entry("XRP/USDT", "working", order="limit", limit_price=price("XRP/USDT", 0.9)),
            entry("BTC/USDT:USDT", "later", max_fires=2, valid_after_s=LATER_S, time_stop_s=10),
            entry("ETH/USDT:USDT", "far", rebound_bps=0, level=price("ETH/USDT:USDT", 1.3)),
            entry("ETH/USDT:USDT", "over", rebound_bps=0, level=price("ETH/USDT:USDT", 1.4), valid_for_s=SOON_S),
        ]
"""
#: event seconds from the start until "over" has expired, and until "later" may fire: far behind the kill
SOON_S, LATER_S = 30, 3600
#: of a position: what is not allowed to change over a total loss
PROTECTION = ("position_id", "side", "lots", "entry_lots", "stop_price", "target_price", "stop_bps", "target_bps", "trail_activation_bps",
              "trail_distance_bps", "opened_ns", "deadline_ns", "condition_id")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path, CONFIG)
    yield made
    made.end()


def start(running: Running, *arguments: str, speed: str = "30") -> None:
    running.start("--strategy", f"{running.folder / 'once.py'}:Once", *arguments, speed=speed)


def armed(running: Running) -> dict[str, dict[str, Any]]:
    """Conditions by their text."""
    return {row["why"]: row for row in running.ctl("conditions")[1]["rows"]}


def fires(running: Running) -> Counter[int]:
    """How often each condition has fired by the journal, each fire under its own index."""
    if not (running.state / "journal" / "data.mdb").exists():
        return Counter()
    journal, found = running.journal(), Counter[int]()
    try:
        for record in journal.orders():
            if record.row["kind"] == l.NEW and record.row["purpose"] == l.ENTRY:
                assert int(record.row["fire_index"]) == found[int(record.row["condition_id"])], "a fire was forgotten"
                found[int(record.row["condition_id"])] += 1
        return found
    finally:
        journal.close()


def last_snapshot(running: Running) -> Any:
    journal = running.journal()
    try:
        return journal.last_snapshot()
    finally:
        journal.close()


def is_set(running: Running) -> bool:
    """All that is to be carried over is there."""
    rows, now = armed(running), running.status()
    held = {row["symbol"] for row in running.ctl("positions")[1]["rows"] if row["state"] == "monitoring"}
    working = [row for row in running.ctl("orders")[1]["rows"] if row["symbol"] == "XRP/USDT" and row["state"] == "accepted"]
    return bool(rows and rows["again and again"]["fired"] >= 2 and {"ETH/USDT", "SOL/USDT"} <= held and working and now["learning"]["trades"] >= 1
                and now["event_ns"] > rows["over"]["valid_until_ns"])


@pytest.mark.parametrize("flags", [(), pytest.param(("--lockstep",), marks=pytest.mark.slow)], ids=["free", "lockstep"])
def test_from_lmdb_alone_everything_comes_back_and_what_was_armed_before_fires_after(flags: tuple[str, ...], instance: Running) -> None:
    now = datetime.datetime.now(datetime.UTC)
    since_midnight_s = now.hour * 3600 + now.minute * 60  # plans are made for midnight, the market begins at this minute
    (instance.folder / "once.py").write_text(STRATEGY.format(later_s=since_midnight_s + LATER_S, soon_s=since_midnight_s + 60 + SOON_S))
    start(instance, *flags)
    assert instance.status()["config_version"] == 1
    until(lambda: is_set(instance), 110, "positions, a working entry, a spent group, learned trades")
    rows, status = armed(instance), instance.status()
    assert rows["group down"]["group_spent"]
    assert (rows["later"]["fired"], rows["trailing"]["fired"]) == (0, 1)
    instance.kill_everything()
    assert not instance_dir(instance.name).exists()

    kept, held, done, learned = last_snapshot(instance), len(instance.open_at_the_end()), fires(instance), learned_trades(instance)
    assert instance.newest_event_ns() < rows["later"]["valid_until_ns"] - (7 * 86_400 - 60) * 10**9, "the kill came before it may fire"
    start(instance, *flags)
    assert f"resumed: {held} open position{'' if held == 1 else 's'}, " in instance.text()
    carried_over(instance, rows, done)
    positions_kept(instance, kept)
    after = instance.status()
    assert after["event_ns"] >= kept.event_ns, "time does not go back"
    assert abs(Decimal(after["equity"]) - Decimal(status["equity"])) < Decimal("0.005") * Decimal(status["equity"])
    assert after["learning"]["trades"] >= learned >= 1
    assert (after["learning"]["coins"], after["learning"]["last_trade_ns"] >= status["learning"]["last_trade_ns"]) == (1, True)
    assert after["config_version"] == 1
    assert [event.text for event in instance.events() if event.kind == "config"] == []

    instance.kill_everything()  # a second time, and on at another pace
    start(instance, *flags, speed="300")
    assert instance.status()["config_version"] == 2
    (changed,) = [event for event in instance.events() if event.kind == "config"]
    assert changed.text == "configuration 2: run.speed changed since the last run"
    until(lambda: fires(instance)[rows["later"]["id"]] == 2, 60, "what was armed before both kills fires, twice")
    until(lambda: instance.status()["trading"] == "running", 10, "book and account agree")
    assert instance.stop() == 0
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    never_too_often(instance, rows)
    assert "the book agrees with the venue's account" in gateway_log(instance)


#: many fires of conditions that may fire a few times, pause between, or exclude each other
MANY = """
from control.think.strategy import Condition, Strategy, equity_bps

class Many(Strategy):
    interval_s = 120

    def plan(self, market, portfolio, knowledge):
        return [Condition(symbol=symbol, side="buy", direction=direction, size=equity_bps(100), confidence=0.9, why=f"{symbol} {direction} {times}",
                          stop_bps=50, time_stop_s=3, rebound_bps=1, max_fires=times, cooldown_s=5 * times, valid_for_s=600,
                          group=f"g{number}" if number % 3 == 0 else None)
                for number, symbol in enumerate(market.facts) for direction, times in (("up", 4), ("down", 2))]
"""


@pytest.mark.parametrize("rounds", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_no_condition_fires_too_often_however_often_everything_dies(rounds: int, instance: Running) -> None:
    (instance.folder / "many.py").write_text(MANY)
    for number in range(rounds):
        instance.start("--strategy", f"{instance.folder / 'many.py'}:Many")
        before = sum(fires(instance).values())
        until(lambda before=before, number=number: sum(fires(instance).values()) > before + number % 4, 60, "new fires")  # type: ignore[misc]
        instance.kill_everything()
    instance.start("--strategy", f"{instance.folder / 'many.py'}:Many")
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    kept_their_word(instance)


def kept_their_word(running: Running) -> None:
    """By the plans in words and the NEW orders alone: maximum, pause, group and expiry of every condition that fired."""
    journal, times, groups = running.journal(), dict[int, list[int]](), Counter[tuple[int, str]]()
    conditions: dict[int, tuple[int, Any]] = {}
    for _, plan in journal.plans():
        conditions |= {plan.plan_seq << l.PLAN_SHIFT | place: (plan.due_ns, one) for place, one in enumerate(plan.conditions)}
    for record in journal.orders():
        if record.row["kind"] == l.NEW and record.row["purpose"] == l.ENTRY:
            times.setdefault(int(record.row["condition_id"]), []).append(record.event_ns)
    journal.close()
    assert fires(running)
    for own, fired in times.items():
        due_ns, one = conditions[own]
        assert len(fired) <= one.max_fires
        assert all(later - earlier >= one.cooldown_s * 10**9 for earlier, later in itertools.pairwise(fired))
        assert due_ns <= fired[0] <= fired[-1] < due_ns + one.valid_for_s * 10**9
        if one.group:
            groups[own >> l.PLAN_SHIFT, one.group] += len(fired)
    assert set(groups.values()) <= {1}


def carried_over(running: Running, before: dict[str, dict[str, Any]], done: Counter[int]) -> None:
    """The same conditions with the same ends and the fires that the journal knew, but for what has expired."""
    after = until(lambda: armed(running), 10, "conditions")
    assert set(after) == set(before) - {"over"}
    for why, row in after.items():
        for name in ("id", "symbol", "strategy", "side", "trigger", "level", "valid_until_ns", "max_fires", "group_spent"):
            assert row[name] == before[why][name], (why, name)
        if why == "again and again":  # it goes on
            assert row["fired"] >= done[row["id"]] >= 2
        else:
            assert row["fired"] == done[row["id"]] == before[why]["fired"], why
    assert after["group up"]["next_allowed_ns"] == before["group up"]["next_allowed_ns"] > 0
    journal = running.journal()
    assert len(list(journal.plans())) == 1, "nobody planned again"
    journal.close()


def positions_kept(running: Running, kept: Any) -> None:
    """Everything that protects a position is as the last snapshot had it; a trailing stop has not become looser."""
    memory = Memory(running.name, writable=False)
    rows = {int(row["position_id"]): row for row in memory.sniper.positions if row["state"] != l.POS_FLAT}
    wanted = [position for position in kept.positions if position.symbol in ("ETH/USDT", "SOL/USDT")]
    assert len(wanted) == 2
    for position in wanted:
        row = rows[position.position_id]
        assert {name: row[name].tolist() for name in PROTECTION} == {name: getattr(position, name) for name in PROTECTION}
        assert row["best_price"] >= position.best_price
    assert {int(row["trail_distance_bps"]) for row in rows.values()} >= {800, 0}
    (order,) = [row for row in running.ctl("orders")[1]["rows"] if row["symbol"] == "XRP/USDT"]
    assert order["state"] == "cancelled", "nobody waits for an entry of the run that is gone"


def learned_trades(running: Running) -> int:
    store = Knowledge(running.state / "knowledge")
    try:
        learned = store.learned()
        assert learned.trades == sum(score.trades for score in store.coins().values())
        return learned.trades
    finally:
        store.close()


def never_too_often(running: Running, rows: dict[str, dict[str, Any]]) -> None:
    found = fires(running)
    for row in rows.values():
        assert found[row["id"]] <= row["max_fires"], row["why"]
    assert found[rows["group up"]["id"]] + found[rows["group down"]["id"]] == 1


def gateway_log(running: Running) -> str:
    return max((running.folder / "runs").glob("*/logs/gateway.log")).read_text()
