"""What sets a condition off: prices, moves from an anchor, features, rebounds; in which order, and while conditions come and go."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotpath.arming import NotArmed, NotContinued, armed_slots, compiled, facts_by_symbol, ordered, trigger_of, value_of
from hotpath.armoury import Armoury
from hotpath.kernel import thresholds
from hotpath.kernel.rows import first_fault
from ipc import layout as l
from ipc import messages
from ipc.jit import kernel
from tests.test_hotpath_conditions import arm, condition, quoted
from tests.test_hotpath_sniper import World


@pytest.fixture
def world(memory: Any) -> World:
    return quoted(memory)


def other(**more: Any) -> messages.Condition:
    """A condition without a level of its own."""
    return condition(**{"level": None, **more})


def change(world: World, *conditions: messages.Condition, plan_seq: int, withdraw: tuple[int, ...] = ()) -> None:
    world.take(messages.Plan(strategy="probe", due_ns=world.now, next_due_ns=world.now, plan_seq=plan_seq, add=True,
                                    conditions=list(conditions), withdraw=list(withdraw)))
    world.run()


def fired(world: World) -> list[int]:
    """Conditions that were fired or refused, in that order, by their index in their plan."""
    records = sorted([*world.orders(), *world.orders(l.REFUSED)], key=lambda row: int(row["seq"]))
    return [int(row["condition_id"]) & 0xFFFFF for row in records]


# ── percent moves ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("direction", "side", "before", "at"), [("up", "buy", 10_051, 10_052), ("down", "buy", 9_951, 9_950)])
def test_a_move_from_an_anchor_is_a_level_that_is_never_nearer_than_asked_for(world: World, direction: str, side: str, before: int, at: int) -> None:
    arm(world, other(anchor="100.01", move_bps=50, direction=direction, side=side))  # 50.005 ticks away
    world.trade(before)
    assert not world.orders()
    world.trade(at)
    assert len(world.orders()) == 1


# ── features ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_feature_that_crosses_its_value_fires_and_one_that_is_there_already_waits(world: World) -> None:
    arm(world, other(feature="spread_bps", value=5.0, direction="up"))
    world.quote(10_000, 10_004)  # 4 bps: the first look
    assert not world.orders()
    world.quote(10_000, 10_006)
    assert len(world.orders()) == 1
    arm(world, other(feature="spread_bps", value=5.5, direction="up"), plan_seq=2)
    world.quote(10_000, 10_007)
    assert len(world.orders()) == 1, "it was beyond its value when it was armed"


def test_a_price_feature_is_in_the_quote_currency(world: World) -> None:
    arm(world, other(feature="microprice", value=100.5, direction="up"))
    world.quote(10_000, 10_002)
    world.quote(10_050, 10_052)  # microprice 100.51
    assert len(world.orders()) == 1


def test_a_feature_without_a_value_is_only_anchored(world: World) -> None:
    arm(world, other(feature="spread_bps", value=0.5, direction="up"), other(feature="high_60s", value=1.0, direction="up"))
    world.quote(0, 10_001)  # no bid, no spread
    world.quote(10_000, 10_001)  # the first value, beyond
    assert not world.orders()
    world.quote(10_000, 10_000)
    world.quote(10_000, 10_001)
    assert len(world.orders()) == 1


def test_what_was_not_watched_meanwhile_is_anchored_anew(world: World) -> None:
    arm(world, other(feature="spread_bps", value=5.0, direction="up"))
    world.quote(10_000, 10_002)
    arm(world, plan_seq=2)
    world.quote(10_000, 10_008)
    arm(world, other(feature="spread_bps", value=5.0, direction="up"), plan_seq=3)
    world.quote(10_000, 10_008)
    assert not world.orders(), "what lay between was not a move"
    world.quote(10_000, 10_002)
    world.quote(10_000, 10_008)
    assert len(world.orders()) == 1


def test_features_are_anchored_anew_after_a_session_gap(world: World) -> None:
    arm(world, other(feature="spread_bps", value=5.0, direction="up"))
    world.quote(10_000, 10_002)
    world.quote(10_000, 10_008, after_s=100)
    assert not fired(world)


# ── trailing entries ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_trailing_buy_fires_when_the_price_comes_back_from_its_low(world: World) -> None:
    arm(world, other(rebound_bps=100, direction="up"))
    for price in (10_000, 9_900, 9_950, 9_800, 9_897):
        world.trade(price)
    assert not world.orders(), "100 bps from 98.00 are 98.98"
    world.quote(9_897, 9_899)
    world.trade(9_898)
    assert len(world.orders()) == 1


def test_a_trailing_entry_with_a_level_begins_there(world: World) -> None:
    arm(world, condition(level="99", rebound_bps=100, direction="up"))
    for price in (9_950, 9_901, 10_050):
        world.trade(price)
    assert not world.orders()
    world.trade(9_900)
    world.trade(9_999)
    assert len(world.orders()) == 1


def test_a_trailing_sale_mirrors_it_and_a_refused_one_waits_for_the_next_time(world: World) -> None:
    world.memory.instruments.instruments[0]["kind"] = l.KIND_LINEAR_PERPETUAL
    arm(world, other(rebound_bps=100, direction="down", side="sell", confidence=0.1, max_fires=5))
    for price in (10_100, 9_999, 9_990, 9_980):
        world.trade(price)
    assert [int(row["code"]) for row in world.orders(l.REFUSED)] == [l.REF_CONFIDENCE]
    assert int(world.s.refusals[l.REF_CONFIDENCE]) == 1, "refused once, not at every tick beyond"


def test_the_extreme_is_forgotten_over_a_session_gap_and_kept_over_a_swap_and_by_a_successor(world: World) -> None:
    arm(world, other(rebound_bps=100, direction="up"))
    world.trade(9_800)
    world.trade(9_950, after_s=100)
    assert not world.orders(), "98.00 was in another session"
    world.trade(9_900)
    change(world, condition(level="150"), plan_seq=2)
    world.successor()
    world.rearm()
    world.quote(9_998, 10_000)
    world.trade(9_999)
    assert len(world.orders()) == 1


def test_more_trailing_entries_than_each_tick_can_look_at_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(l, "MAX_TRAILING", 9)
    with pytest.raises(NotArmed, match="more than 9 with rebound_bps in BTC/USDT"):
        arm(world, *[other(rebound_bps=10 + k) for k in range(l.MAX_TRAILING)], other(rebound_bps=5))
    assert not len(armed_slots(world.memory.conditions))


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_prices_come_first_then_features_then_trailing_entries(world: World) -> None:
    weak: dict[str, Any] = {"confidence": 0.1}
    arm(world, other(rebound_bps=100, price="bid", **weak), other(feature="imbalance", value=0.0, **weak),
        other(feature="spread_bps", value=5.0, **weak), condition(price="mid", level="100.5", **weak), condition(price="bid", level="100.5", **weak),
        condition(price="bid", level="100.4", **weak), condition(price="bid", level="100.4", **weak))
    world._publish(kind=l.TICK_QUOTE, price=9_900, lots=10, ask_price=9_902, ask_lots=30)
    world._publish(kind=l.TICK_QUOTE, price=10_060, lots=30, ask_price=10_080, ask_lots=10)
    assert fired(world) == [5, 6, 4, 3, 2, 1, 0]


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("more", "says"), [
    ({}, r"\[0\]: nothing says when to fire; give level"),
    ({"level": "101", "feature": "spread_bps", "value": 1.0}, r"\[0\]: both feature and level say"),
    ({"anchor": "100", "rebound_bps": 5, "move_bps": 5}, r"\[0\]: both anchor and rebound_bps"),
    ({"anchor": "100"}, r"\[0\].move_bps: how far from the anchor is missing"),
    ({"anchor": "100", "move_bps": 10_000, "direction": "down"}, r"\[0\].move_bps: 10000 bps from 100 is outside the prices"),
    ({"feature": "spread_bps"}, r"\[0\].value: the value that spread_bps is to cross is missing"),
    ({"feature": "last", "value": 1.0}, r'\[0\].feature: last is a price; give price = "last" and level'),
])
def test_a_trigger_that_is_none_or_two_is_refused_by_its_field(more: dict[str, Any], says: str, world: World) -> None:
    with pytest.raises(NotArmed, match=says):
        arm(world, other(**more))


def test_triggers_are_told_as_they_were_given(world: World) -> None:
    arm(world, condition(level="101.5"), condition(price="mid", level="101.5", direction="down"), other(feature="volume_burst", value=3.25),
        other(feature="high_60s", value=101.5), other(rebound_bps=50, price="bid"), condition(level="99", rebound_bps=50, direction="down"),
        other(anchor="100", move_bps=100))
    rows = world.memory.conditions.rows[armed_slots(world.memory.conditions)]
    rows = rows[np.argsort(rows["arming"])]
    assert [trigger_of(row, world.memory.instruments.instruments[0]) for row in rows] == [
        "last up 101.50", "mid down 101.50", "volume_burst up 3.25", "high_60s up 101.5", "bid 50 bps up from its low",
        "last 50 bps down from its high, once at 99.00", "last up 101.00"]


# ── adds, removals, swaps ────────────────────────────────────────────────────────────────────────────────────────────
def test_what_is_added_fires_beside_what_is_there_and_what_is_withdrawn_does_not(world: World) -> None:
    arm(world, condition(level="101", confidence=0.1), condition(level="102", confidence=0.1), condition(level="103", confidence=0.1))
    change(world, condition(level="101.5", confidence=0.1), condition(level="102", confidence=0.1), plan_seq=2, withdraw=(1 << 20 | 2,))
    world.trade(10_500)
    assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    (swapped,) = [row for row in world.orders(l.SWAPPED) if row["plan_seq"] == 2]
    assert int(swapped["value"]) == 4


def test_at_one_level_what_was_merged_fires_before_what_was_added_later(world: World) -> None:
    arm(world, *[condition(level="101", confidence=0.1)] * 5)  # more than may be added: merged at once
    line = world.memory.conditions.generations[1]
    assert int(line["added"]) == 0
    change(world, condition(level="101", confidence=0.1), condition(level="100.9", confidence=0.1), plan_seq=2)
    assert int(world.memory.conditions.generations[0]["added"]) == 2
    world.trade(10_100)
    assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)] == [
        (2, 1), *((1, k) for k in range(5)), (2, 0)]


def test_an_unknown_condition_cannot_be_withdrawn_and_then_nothing_changes(world: World) -> None:
    arm(world, condition())
    generation = int(world.memory.conditions.table[0]["generation"])
    with pytest.raises(NotArmed, match="withdraw: 77 is no armed condition of probe"):
        change(world, condition(), plan_seq=2, withdraw=(77,))
    assert int(world.memory.conditions.table[0]["generation"]) == generation
    assert len(armed_slots(world.memory.conditions)) == 1


def test_what_a_condition_did_is_kept_while_others_come_and_go(world: World) -> None:
    arm(world, condition(level="101", confidence=0.1), condition(level="150"))
    world.trade(10_100)
    for plan_seq in range(2, 60):  # merges with nearly each: four may be added
        change(world, *[condition(level=f"{140 + k}") for k in range(9)], plan_seq=plan_seq,
               withdraw=tuple((plan_seq - 1) << 20 | k for k in range(9)) if plan_seq > 2 else ())
    world.trade(10_000)
    world.trade(10_100)
    assert len(world.orders(l.REFUSED)) == 1, "the same refusal is journaled once"
    assert int(world.s.refusals[l.REF_CONFIDENCE]) == 2
    assert len(armed_slots(world.memory.conditions)) == 11


def test_a_groups_first_member_keeps_the_groups_state_when_it_is_withdrawn(world: World) -> None:
    arm(world, condition(level="101", group="a"), condition(level="99", direction="down", group="a"))
    world.trade(10_100)
    assert len(world.orders()) == 1
    for plan_seq in range(2, 30):
        change(world, *[condition(level="150", group="b") for _ in range(20)], plan_seq=plan_seq,
               withdraw=(1 << 20,) if plan_seq == 2 else tuple((plan_seq - 1) << 20 | k for k in range(20)))
    world.trade(9_900)
    assert len(world.orders()) == 1, "the group had fired"


def test_a_successor_keeps_the_state_of_a_group_whose_first_member_was_withdrawn(world: World) -> None:
    arm(world, condition(level="101", group="a"), condition(level="99", direction="down", group="a"))
    world.trade(10_100)
    change(world, plan_seq=2, withdraw=(1 << 20,))
    for plan_seq in range(3, 10):
        world.successor()
        world.rearm()
        change(world, *[condition(level="150", group="b") for _ in range(8)], plan_seq=plan_seq)
    world.trade(9_900)
    assert len(world.orders()) == 1, "the group had fired"


def test_what_was_removed_gives_way_when_its_slots_are_needed(world: World) -> None:
    world.armoury = Armoury(world.memory, world.run, most_added=64)
    arm(world, *[condition(level=f"{101 + k}") for k in range(64)])
    world.rearm()
    change(world, condition(level="300"), plan_seq=2, withdraw=(1 << 20,))  # merged: all of them are in the main thresholds
    change(world, *[condition(level="301")] * 14, plan_seq=3, withdraw=tuple(1 << 20 | k for k in range(1, 15)))
    for plan_seq in range(4, 9):
        arm(world, *[condition(level=f"{101 + k}", confidence=0.1) for k in range(64)], plan_seq=plan_seq)
    world.trade(10_250)
    assert len(world.orders(l.REFUSED)) == 2


def test_a_tick_of_many_refusals_looks_at_every_trailing_entry_once(world: World) -> None:
    """The tick takes several sub-steps, features among them: none of it is skipped or done twice."""
    trailing = [other(rebound_bps=100, price="bid", confidence=0.1, max_fires=9) for _ in range(9)]
    levels = [other(feature="spread_bps", value=2.0 + k / 100, direction="up", confidence=0.1, max_fires=9) for k in range(40)]
    more = [condition(price="bid", level=f"{99.01 + k / 100:.2f}", confidence=0.1, max_fires=9) for k in range(15)]
    arm(world, *trailing, *levels, *more)
    world.quote(9_900, 9_901)
    world.quote(9_900, 9_901)
    assert not fired(world)
    world.quote(10_050, 10_060)
    assert fired(world) == [*range(49, 64), *range(9, 49), *range(9)]
    assert int(world.s.refusals[l.REF_CONFIDENCE]) == 64


def test_the_whole_capacity_can_be_replaced_at_once(world: World) -> None:
    for plan_seq in range(1, 8):
        arm(world, *[condition(level=f"{101 + k}") for k in range(64)], plan_seq=plan_seq)
    assert len(armed_slots(world.memory.conditions)) == 64
    with pytest.raises(NotArmed, match=r"65 are more than hotpath\.condition_capacity = 64"):
        arm(world, *[condition(level=f"{101 + k}") for k in range(65)], plan_seq=9)


# ── the table against a list ─────────────────────────────────────────────────────────────────────────────────────────
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_table_finds_what_a_list_finds_whatever_was_added_and_removed(data: st.DataObject) -> None:
    """Random plans, additions, withdrawals and successors; then moves over the levels fire what a plain list says, in its order."""
    from tests.conftest import throw_away_memory

    with throw_away_memory() as memory:
        world = World(memory)
        world.quote(10_000, 10_001)
        world.trade(10_000)
        alive: list[tuple[int, int, int, str]] = []  # (arming, id, level, direction)
        arming = 0
        for plan_seq in range(1, data.draw(st.integers(2, 12)) + 1):
            levels = data.draw(st.lists(st.tuples(st.integers(9_990, 10_010), st.sampled_from(["up", "down"])), max_size=5))
            made = [condition(level=f"{level / 100:.2f}", direction=direction, confidence=0.1, max_fires=1000) for level, direction in levels]
            add = data.draw(st.booleans())
            gone = data.draw(st.lists(st.sampled_from(alive), unique=True)) if add and alive else []
            if not add:
                alive.clear()
                arm(world, *made, plan_seq=plan_seq)
            else:
                change(world, *made, plan_seq=plan_seq, withdraw=tuple(entry[1] for entry in gone))
            alive = [entry for entry in alive if entry not in gone]
            for index, (level, direction) in enumerate(levels):
                arming += 1
                alive.append((arming, plan_seq << 20 | index, level, direction))
            if data.draw(st.booleans()):
                world.successor()
                world.rearm()
            new = data.draw(st.integers(9_985, 10_015))
            previous = int(world.s.states[0]["prev_last"])
            sign = 1 if new > previous else -1
            expected = sorted(((sign * level, number, identity) for number, identity, level, direction in alive
                               if direction == ("up" if sign > 0 else "down") and sign * previous < sign * level <= sign * new))
            before = world.s.condition_states[["condition_id", "refused"]].copy()
            world.trade(new)
            changed = np.flatnonzero(world.s.condition_states[["condition_id", "refused"]] != before)
            seen = sorted(int(world.s.rows[slot]["condition_id"]) for slot in changed)
            assert seen == sorted(identity for *_, identity in expected)
            assert {int(world.memory.conditions.rows[slot]["condition_id"]) for slot in armed_slots(memory.conditions)} == {e[1] for e in alive}


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, width=64), st.floats(allow_nan=False, width=64))
def test_levels_of_features_are_in_the_order_of_their_floats(a: float, b: float) -> None:
    assert (ordered(a) < ordered(b)) == (a < b)
    assert (ordered(a) == ordered(b)) == (a == b)
    assert value_of(ordered(a)) == a
    assert _ordered(a) == ordered(a)


@kernel
def _ordered(value: float) -> int:
    return thresholds.ordered(value)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
PRICE_TEXTS = st.sampled_from(["0.01", "99.99", "100", "101", "150.5", "1000000"])
BPS = st.sampled_from([0, 1, 50, 9_999, 10_000])
CONDITIONS = st.fixed_dictionaries(
    {"side": st.sampled_from(["buy", "sell"]), "direction": st.sampled_from(["up", "down"]), "order": st.sampled_from(["market", "limit"]),
     "size": st.fixed_dictionaries({"kind": st.sampled_from(["quote", "base", "equity_bps"]),
                                    "value": st.sampled_from(["0.000000000001", "0.00000001", "0.001", "1", "10000", "999999999999999999"])}),
     "confidence": st.floats(0, 1)},
    optional={"level": PRICE_TEXTS, "price": st.sampled_from(l.PRICE_KINDS), "anchor": PRICE_TEXTS, "move_bps": BPS,
              "feature": st.sampled_from(l.FEATURES), "value": st.floats(-1e12, 1e12), "rebound_bps": BPS, "limit_price": PRICE_TEXTS,
              "stop_bps": BPS, "target_bps": BPS, "trail_activation_bps": BPS, "trail_distance_bps": BPS,
              "time_stop_s": st.sampled_from([0, 1, 604_800]),
              "stop_price": PRICE_TEXTS, "target_price": PRICE_TEXTS, "break_even_bps": BPS, "max_slippage_bps": BPS,
              "group": st.sampled_from(["a", "b"]), "valid_after_s": st.sampled_from([0, 604_800]),
              "clauses": st.lists(st.fixed_dictionaries({"feature": st.sampled_from(l.FEATURES), "op": st.sampled_from(l.OPERATORS),
                                                         "value": st.floats(-1e12, 1e12)}), max_size=2),
              "ladder": st.lists(st.fixed_dictionaries({"bps": st.integers(1, 10_000), "share": st.floats(0.0001, 1)}), max_size=4)})


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CONDITIONS, min_size=1, max_size=5))
def test_whatever_the_strategist_compiles_the_sniper_arms(world: World, given: list[dict[str, Any]]) -> None:
    known = facts_by_symbol(world.memory.instruments.instruments)
    fit = []
    for words in given:
        one = msgspec.convert({"symbol": "BTC/USDT", "why": "any", "stop_bps": 10, **words}, messages.Condition)
        try:
            compiled([one], world.now, known, lambda: None)
        except NotArmed:
            continue
        fit.append(one)
    rows = rows_of(world, *fit)
    spot = rows["side"] == l.SELL  # a strategist refuses these by itself, where the strategy's author sees it (control/think/check.py)
    rows["side"][spot] = l.BUY
    rows["stop_bps"][spot & (rows["stop_bps"] == 10_000)] = 9_999
    assert first_fault(rows, 0, np.zeros(8, np.int64), world.memory.instruments.instruments, 1) == (-1, 0)


def rows_of(world: World, *conditions: messages.Condition) -> Any:
    """CONDITION rows as a strategist compiles them."""
    known = facts_by_symbol(world.memory.instruments.instruments)
    return np.frombuffer(bytearray(compiled(conditions, world.now, known, lambda: None)), l.CONDITION)


def tell(world: World, rows: Any, plan_seq: int = 1, **more: Any) -> tuple[int, int]:
    """What the strategist tells the sniper."""
    fields: dict[str, Any] = {"strategy": "probe", "due_ns": 7, "next_due_ns": 8, "plan_seq": plan_seq, "rows": rows.tobytes(), **more}
    return world.armoury.arm(messages.Arm(**fields))


def test_rows_are_armed_under_the_number_of_their_plan_and_asked_twice_once(world: World) -> None:
    rows = rows_of(world, condition(level="101", confidence=0.1), other(feature="spread_bps", value=5.0, confidence=0.1), condition(level="102"))
    assert tell(world, rows, 3) == (1, 3)
    world.run()
    world.quote(10_000, 10_002)
    world.quote(10_000, 10_008)
    world.trade(10_100)
    assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)] == [(3, 1), (3, 0)]
    assert tell(world, rows, 3) == (1, 3), "asked twice"
    with pytest.raises(NotArmed, match="plan_seq: 2 is older than 3"):
        tell(world, rows, 2)


@pytest.mark.parametrize(("field", "value", "says"), [
    ("instrument", 1, "instrument: is not one of this run"), ("trigger", 29, "trigger"), ("direction", 2, "direction"),
    ("side", 0, "side: is neither"),
    ("side", -1, "side: spot cannot be sold short"), ("order_type", l.IOC, "order_type"), ("level", 0, "level"), ("level", 10**9 + 1, "level"),
    ("limit_price", 1, "limit_price"), ("order_type", l.LIMIT, "limit_price"), ("size_kind", 4, "size_kind"), ("size_value", 0, "size_value"),
    ("size_value", 10_001, "size_value"), ("max_fires", 0, "max_fires"), ("confidence_e4", 10_001, "confidence"), ("target_bps", -1, "bps"),
    ("break_even_bps", 10_001, "bps"), ("stop_bps", 0, "protection"), ("stop_bps", 10_000, "protection"), ("stop_price", -1, "stop_price"),
    ("valid_until_ns", 0, "valid_until_ns"), ("cooldown_ns", -1, "cooldown_ns"), ("clauses", 7, "clauses"), ("clauses", -1, "clauses"),
    ("rungs", 5, "rungs"), ("rungs", 1, "rungs"), ("group_id", 3, "group_id"), ("group_id", 1, "group_id"), ("group_id", -1, "group_id"),
])
def test_a_row_that_may_not_be_armed_is_named_and_then_nothing_is(field: str, value: int, says: str, world: World) -> None:
    rows = rows_of(world, condition(), condition())
    rows[field][1] = value
    with pytest.raises(NotArmed, match=rf"rows\[1\].*{says}"):
        tell(world, rows)
    assert not len(armed_slots(world.memory.conditions))


@pytest.mark.parametrize(("field", "value"), [("clause_feature", 28), ("clause_op", 2), ("clause_other", 28), ("clause_value", float("nan"))])
def test_a_row_with_a_clause_that_is_none_is_refused(field: str, value: float, world: World) -> None:
    rows = rows_of(world, condition(clauses=[{"feature": "spread_bps", "op": "<", "value": 2}]))
    rows[field][0, 0] = value
    with pytest.raises(NotArmed, match="clauses"):
        tell(world, rows)


def test_a_successor_knows_the_last_plan_even_where_it_has_no_condition(world: World) -> None:
    arm(world, condition())
    assert tell(world, rows_of(world), 2) == (2, 0)
    world.run()
    world.successor()
    world.rearm()
    assert tell(world, rows_of(world), 2) == (2, 0), "asked twice"


def test_bytes_that_are_no_whole_rows_are_refused(world: World) -> None:
    with pytest.raises(NotArmed, match="321 bytes are no whole rows of 320"):
        tell(world, np.zeros(321, np.uint8))


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("most_added", [4, 64])
def test_a_plan_in_parts_is_armed_at_its_last_one_in_one_generation(most_added: int, world: World) -> None:
    world.armoury = Armoury(world.memory, world.run, most_added)
    arm(world, condition(level="101", confidence=0.1))
    rows = rows_of(world, *[condition(level=f"{101 + k}", confidence=0.1) for k in range(25)])
    assert tell(world, rows[:10], 2, more=True) == (1, 1)
    assert tell(world, rows[:10], 2, more=True) == (1, 1), "asked twice"
    assert tell(world, rows[10:20], 3, part=1, more=True) == (1, 1)
    assert tell(world, rows[10:20], 3, part=1, more=True) == (1, 1), "asked twice"
    world.trade(10_100)
    assert [int(row["plan_seq"]) for row in world.orders(l.REFUSED)] == [1], "the former plan holds until then"
    assert tell(world, rows[20:], 4, part=2) == (2, 25)
    assert tell(world, rows[20:], 4, part=2) == (2, 25), "asked twice"
    world.trade(10_000)
    world.trade(12_500)
    assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)][1:] == [
        *((2, k) for k in range(10)), *((3, k) for k in range(10)), *((4, k) for k in range(5))]
    (swapped,) = [row for row in world.orders(l.SWAPPED) if row["plan_seq"] != 1]
    assert (int(swapped["plan_seq"]), int(swapped["value"])) == (4, 25)


def test_a_group_holds_over_the_parts_of_its_plan(world: World) -> None:
    rows = rows_of(world, condition(level="150"), condition(level="102", group="a"), condition(level="101", group="a"),
                   condition(level="103", group="a"), condition(level="99", direction="down", group="b"))
    assert rows["group_id"].tolist() == [0, 2, 2, 2, 5]
    tell(world, rows[:2], 1, more=True)
    tell(world, rows[2:], 2, part=1)
    world.run()
    world.trade(10_100)
    world.trade(10_350)
    assert [int(row["condition_id"]) for row in world.orders()] == [2 << 20], "one of the three"
    world.trade(9_890)
    told = [*world.orders()[1:], *world.orders(l.REFUSED)]
    assert [int(row["condition_id"]) for row in told] == [2 << 20 | 2], "the other group is its own"


def test_a_plan_in_parts_that_comes_again_is_not_armed_anew(world: World) -> None:
    rows = rows_of(world, condition(level="150"), condition(level="101", confidence=0.1), condition(level="102"))
    parts = [(rows[:1], {"plan_seq": 4, "more": True}), (rows[1:2], {"plan_seq": 5, "part": 1, "more": True}), (rows[2:], {"plan_seq": 6, "part": 2})]
    for part, fields in parts:
        tell(world, part, **fields)
    world.run()
    world.trade(10_100)
    for successor in (False, True):
        if successor:
            world.rearm()
        before = world.memory.conditions.table.tobytes()
        for part, fields in parts:
            assert tell(world, part, **fields)[1] == 3
        world.run()
        assert world.memory.conditions.table.tobytes() == before
    slots = armed_slots(world.memory.conditions)
    assert world.memory.sniper.condition_states["refused"][slots].tolist().count(1) == 1, "what it has done is not forgotten"


@pytest.mark.parametrize("group", [1, 4, 7])
def test_a_group_that_no_earlier_row_leads_is_refused_in_a_later_part(group: int, world: World) -> None:
    rows = rows_of(world, *[condition()] * 6)
    rows["group_id"][1], rows["group_id"][4] = 2, group
    tell(world, rows[:3], 1, more=True)
    with pytest.raises(NotArmed, match=r"rows\[4\]\.group_id"):
        tell(world, rows[3:], 2, part=1)


def test_a_refused_row_in_the_last_part_changes_nothing_and_loses_nothing(world: World) -> None:
    arm(world, condition(level="101", confidence=0.1), condition(level="102", confidence=0.1))
    world.trade(10_100)
    before = (int(world.memory.conditions.table[0]["generation"]), armed_slots(world.memory.conditions).tolist())
    rows = rows_of(world, *[condition(level=f"{101 + k}") for k in range(20)])
    for plan_seq in range(2, 200, 2):  # no slot is lost by it
        tell(world, rows[:10], plan_seq, more=True)
        rows["max_fires"][17] = 0
        with pytest.raises(NotArmed, match=r"rows\[17\]\.max_fires"):
            tell(world, rows[10:], plan_seq + 1, part=1)
        with pytest.raises(NotContinued):
            tell(world, rows[10:], plan_seq + 1, part=1)
    assert (int(world.memory.conditions.table[0]["generation"]), armed_slots(world.memory.conditions).tolist()) == before
    world.trade(10_250)
    assert [int(row["condition_id"]) & 0xFFFFF for row in world.orders(l.REFUSED)] == [0, 1], "the first had been refused, and is known to have been"
    rows["max_fires"][17] = 1
    tell(world, rows[:10], 300, more=True)
    assert tell(world, rows[10:], 301, part=1)[1] == 20


def test_a_part_that_does_not_go_on_with_what_is_there_is_told_apart_from_a_bad_one(world: World) -> None:
    rows = rows_of(world, condition(), condition(), condition())
    with pytest.raises(NotContinued, match="send its parts again from the first on"):
        tell(world, rows[1:2], 2, part=1, more=True)
    tell(world, rows[:1], 1, more=True)
    world.successor()
    world.rearm()  # a sniper that was replaced between two parts
    with pytest.raises(NotContinued):
        tell(world, rows[1:2], 2, part=1, more=True)
    for number in range(3):
        assert tell(world, rows[number: number + 1], number + 1, part=number, more=number < 2)[1] == (3 if number == 2 else 0)
    assert int(world.memory.conditions.table[0]["generation"]) == 1
    tell(world, rows[:1], 4, more=True)
    with pytest.raises(NotContinued):
        tell(world, rows[2:], 6, part=2)
    tell(world, rows[:1], 7, more=True)
    with pytest.raises(NotContinued):  # of another time: its strategist has died
        tell(world, rows[1:2], 8, part=1, due_ns=1)


def test_a_first_part_forgets_what_came_of_a_plan_whose_strategist_died(world: World) -> None:
    rows = rows_of(world, *[condition(level=f"{101 + k}", confidence=0.1) for k in range(6)])
    tell(world, rows[:2], 1, more=True)
    tell(world, rows[2:4], 2, part=1, more=True)
    tell(world, rows[:2], 3, more=True)  # its successor's plan
    assert tell(world, rows[4:], 4, part=1)[1] == 4
    world.trade(10_700)
    assert [int(row["plan_seq"]) for row in world.orders(l.REFUSED)] == [3, 3, 4, 4]


def test_more_parts_than_there_is_room_for_are_refused_at_the_first_too_many(world: World) -> None:
    rows = rows_of(world, *[condition()] * 40)
    tell(world, rows, 1, more=True)
    with pytest.raises(NotArmed, match=r"80 are more than hotpath\.condition_capacity = 64"):
        tell(world, rows, 2, part=1, more=True)


def test_a_part_may_add_and_withdraw(world: World) -> None:
    arm(world, condition(level="101", confidence=0.1), condition(level="102", confidence=0.1))
    rows = rows_of(world, *[condition(level=f"{103 + k}", confidence=0.1) for k in range(4)])
    tell(world, rows[:2], 2, more=True, add=True, withdraw=[1 << 20])
    assert tell(world, rows[2:], 3, part=1, add=True)[1] == 5
    world.trade(10_650)
    assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)] == [
        (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_a_plan_of_2500_conditions_takes_three_parts_and_one_generation() -> None:
    from tests.conftest import throw_away_memory

    with throw_away_memory(conditions=4096) as memory:
        world = quoted(memory)
        world.armoury = Armoury(memory, world.run)
        rows = rows_of(world, *[condition(level=f"{101 + k / 100:.2f}", confidence=0.1) for k in range(2500)])
        for number in range(3):
            part = rows[1000 * number: 1000 * (number + 1)]
            generation, armed = tell(world, part, 1 + number, part=number, more=number < 2)
            assert (generation, armed) == ((1, 2500) if number == 2 else (0, 0))
        world.trade(12_598)
        assert [(int(row["plan_seq"]), int(row["condition_id"]) & 0xFFFFF) for row in world.orders(l.REFUSED)] == [
            (1 + k // 1000, k % 1000) for k in range(2499)]
