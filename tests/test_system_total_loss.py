"""Everything is SIGKILLed, the forkserver too, and shared memory is gone: from LMDB alone the instance comes back as it was, and goes on."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from control.learn.knowledge import Applied, Knowledge
from ipc import layout as l
from ipc.segment import Memory, instance_dir
from tests.relearn import contents_of, relearned
from tests.running import Running, until

CONFIG = """
[limits]
max_open_positions = 20
max_entries_per_day = 100000
min_confidence = 0.0
"""
#: one plan a day: whatever stands behind the kill was armed before it. What fires once waits for a rebound, which comes soon wherever the price is;
#: what fires again does so in markets that make no new low, too.
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
        often = dict(rebound_bps=0, feature="return_10s_bps", value=0.0)
        return [
            entry("BTC/USDT", "again and again", **often, max_fires=900, cooldown_s=20, time_stop_s=10),
            entry("ETH/USDT", "trailing", max_fires=3, trail_distance_bps=800),
            entry("SOL/USDT", "group up", group="sol", max_fires=2, target_bps=900, cooldown_s=600),
            entry("SOL/USDT", "group down", group="sol", direction="down", max_fires=2, valid_after_s=LATER_S),
            entry("XRP/USDT", "working", order="limit", limit_price=price("XRP/USDT", 0.9)),
            entry("BTC/USDT:USDT", "later", **often, max_fires=2, valid_after_s=LATER_S, time_stop_s=10),
            entry("ETH/USDT:USDT", "far", rebound_bps=0, level=price("ETH/USDT:USDT", 1.3)),
            entry("ETH/USDT:USDT", "over", rebound_bps=0, level=price("ETH/USDT:USDT", 1.4), valid_for_s=SOON_S),
        ]
"""
#: event seconds from the start until "over" has expired, and until "later" may fire: far behind the kill
SOON_S, LATER_S = 30, 3600
#: what is open when everything dies, in the last snapshot, too
HELD = {"ETH/USDT", "SOL/USDT"}
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
    return bool(rows and rows["again and again"]["fired"] >= 2 and held >= HELD and working and now["learning"]["trades"] >= 1
                and now["event_ns"] > rows["over"]["valid_until_ns"] and {position.symbol for position in last_snapshot(running).positions} >= HELD)


def is_spoiled(running: Running) -> bool:
    """An entry that may fire no more has ended without a fill."""
    return any(row["symbol"] in {*HELD, "XRP/USDT"} and row["state"] in ("lost", "cancelled") for row in running.ctl("orders")[1]["rows"])


def set_up(running: Running, *flags: str) -> None:
    """A run in which all is there that is to be carried over. Where a process stood still for a second meanwhile, an entry was given up, as it has to
    be: then anew, in an empty folder."""
    for _ in range(1 if flags else 3):  # in lockstep nobody waits by the clock, so nothing is given up
        start(running, *flags)
        until(lambda: is_set(running) or is_spoiled(running), 60, "positions, a working entry, a spent group, learned trades")
        if not is_spoiled(running):
            return
        assert running.stop() == 0
        assert running.faults() == []
        shutil.rmtree(running.state)
        shutil.rmtree(running.folder / "runs")
    pytest.fail("in each run an entry was given up")


@pytest.mark.parametrize("flags", [(), pytest.param(("--lockstep",), marks=pytest.mark.slow)], ids=["free", "lockstep"])
def test_from_lmdb_alone_everything_comes_back_and_what_was_armed_before_fires_after(flags: tuple[str, ...], instance: Running) -> None:
    (instance.folder / "once.py").write_text(STRATEGY.format(later_s=LATER_S, soon_s=60 + SOON_S))
    set_up(instance, *flags)
    assert instance.status()["config_version"] == 1
    rows, before = armed(instance), instance.status()
    assert rows["group down"]["group_spent"]
    assert (rows["later"]["fired"], rows["trailing"]["fired"]) == (0, 1)
    instance.kill_everything()
    assert not instance_dir(instance.name).exists()

    kept, done, learned, trades = last_snapshot(instance), fires(instance), learned_so_far(instance), closed_trades(instance)
    still_open = len(instance.open_at_the_end())
    assert learned == learned_of(trades[:learned.count]), "the store is what its trades make of it"
    assert instance.newest_event_ns() < rows["later"]["valid_until_ns"] - (7 * 86_400 - 60) * 10**9, "the kill came before it may fire"
    start(instance, *flags)
    assert f"resumed: {still_open} open position{'' if still_open == 1 else 's'}, " in instance.text()
    carried_over(instance, rows, done)
    positions_kept(instance, kept)
    after = instance.status()
    assert after["event_ns"] >= kept.event_ns, "time does not go back"
    assert abs(Decimal(after["equity"]) - Decimal(before["equity"])) < Decimal("0.005") * Decimal(before["equity"])
    assert after["learning"]["trades"] >= learned.count >= 1
    assert (after["learning"]["coins"], after["learning"]["last_trade_ns"] >= learned.last_trade_ns) == (1, True)
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
    assert closed_trades(instance)[:len(trades)] == trades
    assert learned_so_far(instance) == learned_of(closed_trades(instance)), "each trade of all three runs once, to the quantum"
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
    before = sum(fires(instance).values())
    instance.start("--strategy", f"{instance.folder / 'many.py'}:Many")
    until(lambda: sum(fires(instance).values()) > before, 60, "new fires behind the last death")
    assert instance.stop() == 0, instance.text()
    assert instance.summary()["reconciled"] is True
    assert instance.faults() == []
    kept_their_word(instance)


#: several round trips a second at thirty times the pace, in few coins, so that each is soon known well enough to be sized by
QUICK = MANY.replace("time_stop_s=3", "time_stop_s=2").replace("4), (\"down\", 2)", "400), (\"down\", 400)").replace("5 * times", "5").replace(
    "group=f\"g{number}\" if number % 3 == 0 else None", "group=None").replace("enumerate(market.facts)", "enumerate(list(market.facts)[:2])")


def test_what_was_learned_and_what_waits_to_be_comes_back_exactly(instance: Running) -> None:
    """Trades close while nobody learns; then everything dies. LMDB alone says what has to be there, before anything is started again."""
    instance.config.write_text(CONFIG + "[supervise]\nhang_reflection_ms = 600000\n")
    (instance.folder / "many.py").write_text(QUICK)
    instance.start("--strategy", f"{instance.folder / 'many.py'}:Many")
    until(lambda: instance.status()["learning"]["trades"] >= 12, 60, "trades that are learned")
    instance.kill("reflection", signal.SIGSTOP)
    closed = instance.status()["trades_closed"]
    until(lambda: (now := instance.status())["trades_closed"] >= closed + 3 and now["learning"]["waiting"] >= 2, 30, "trades that nobody learns")
    instance.kill_everything()
    kept, trades = learned_so_far(instance), closed_trades(instance)
    assert kept == learned_of(trades[:kept.count]), "the store is what its trades make of it"
    everything = contents_of(instance.state / "knowledge")
    assert everything == relearned_by(instance, "once", everything), "and its evidence, too"
    waiting = len(trades) - kept.count
    assert waiting >= 1

    # so slow that nothing happens any more, but for what is told of round trips whose end was not: learned is what waited, once
    instance.start("--strategy", f"{instance.folder / 'many.py'}:Many", speed="0.001")
    until(lambda: instance.status()["trading"] == "running", 20, "book and account agree")
    all_trades = until(lambda: (now := closed_trades(instance)) and instance.status()["learning"]["trades"] == len(now) and now, 20, "all is learned")
    assert all_trades[:len(trades)] == trades
    expected, learning = learned_of(all_trades), instance.status()["learning"]
    assert learning["waiting"] == 0
    assert (learning["trades"], learning["last_trade_ns"], learning["coins"]) == (len(all_trades), expected.last_trade_ns, len(expected.coins))
    instance.kill_everything()
    assert learned_so_far(instance) == expected == learned_of(closed_trades(instance))
    everything = contents_of(instance.state / "knowledge")
    assert everything == relearned_by(instance, "again", everything)
    assert everything["state"]["since_look"] == len(all_trades) % 10, "trades since the last look go on over any loss"


def relearned_by(instance: Running, name: str, kept: dict[str, Any]) -> dict[str, Any]:
    journal = instance.journal()
    try:
        return relearned(journal, instance.folder / name, 1, Applied(**kept["applied"]))
    finally:
        journal.close()


class Known(NamedTuple):
    """What is learned: how many trades, when the last of them closed, each coin's score."""

    count: int
    last_trade_ns: int
    coins: dict[str, dict[str, int]]


def learned_so_far(running: Running) -> Known:
    """By the knowledge store alone."""
    store = Knowledge(running.state / "knowledge")
    try:
        learned = store.learned()
        return Known(learned.trades, learned.last_trade_ns,
                     {symbol: {name: getattr(score, name) for name in ("trades", "wins", "pnl", "fees", "streak", "best", "worst", "last_ns")}
                      for (family, symbol), score in store.scores().items() if family == "coin"})
    finally:
        store.close()


class Closed(NamedTuple):
    """A closed trade of the journal."""

    position: tuple[int, int]
    symbol: str
    pnl: int
    fees: int
    event_ns: int


def closed_trades(running: Running) -> list[Closed]:
    """By the journal alone, oldest first."""
    journal = running.journal()
    try:
        facts = journal.instruments()
        return [Closed((one.incarnation, one.seq), facts[one.incarnation][int(one.row["instrument"])].symbol, int(one.row["pnl"]),
                       int(one.row["fees"]), one.event_ns) for one in journal.trades()]
    finally:
        journal.close()


def learned_of(trades: list[Closed]) -> Known:
    """What these trades, and nothing else, have to have taught: written out plainly, apart from the code that learns."""
    coins: dict[str, dict[str, int]] = {}
    for symbol in {one.symbol for one in trades}:
        own, streak = [one for one in trades if one.symbol == symbol], 0
        for one in own:
            streak = (streak + 1 if streak > 0 else 1) if one.pnl > 0 else (streak - 1 if streak < 0 else -1)
        coins[symbol] = {"trades": len(own), "wins": sum(one.pnl > 0 for one in own), "pnl": sum(one.pnl for one in own),
                         "fees": sum(one.fees for one in own), "streak": streak, "best": max(0, *(one.pnl for one in own)),
                         "worst": min(0, *(one.pnl for one in own)), "last_ns": max(one.event_ns for one in own)}
    return Known(len(trades), max((one.event_ns for one in trades), default=0), coins)


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
    wanted = [position for position in kept.positions if position.symbol in HELD]
    assert len(wanted) == 2
    for position in wanted:
        row = rows[position.position_id]
        assert {name: row[name].tolist() for name in PROTECTION} == {name: getattr(position, name) for name in PROTECTION}
        assert row["best_price"] >= position.best_price
    assert {int(row["trail_distance_bps"]) for row in rows.values()} >= {800, 0}
    (order,) = [row for row in running.ctl("orders")[1]["rows"] if row["symbol"] == "XRP/USDT"]
    assert order["state"] == "cancelled", "nobody waits for an entry of the run that is gone"


def never_too_often(running: Running, rows: dict[str, dict[str, Any]]) -> None:
    found = fires(running)
    for row in rows.values():
        assert found[row["id"]] <= row["max_fires"], row["why"]
    assert found[rows["group up"]["id"]] + found[rows["group down"]["id"]] == 1


def gateway_log(running: Running) -> str:
    return max((running.folder / "runs").glob("*/logs/gateway.log")).read_text()
