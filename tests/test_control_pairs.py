"""Pairs of a position and its twin, from the journal: what each says once, through kills, ends by a person, and restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.learn import reflection as module
from control.learn import words
from control.learn.evidence import Evidence
from control.learn.gate import Step
from control.learn.kinds import Claim
from ipc import layout as l
from ipc import messages
from ipc.messages import Size
from tests.learn_scene import World, child_of
from tests.relearn import contents, relearned
from tests.test_control_exits import active


class Pairs(World):
    """Positions of 100 lots at 100.00 with a stop of 99.00 and a target of 102.00, and their twins with a target of 103.00."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.twin_pct = 150
        self.plan(150)
        self.value = int(self.journal.instruments()[1][0].value_quanta) * 100 * 10_000

    def at(self, symbol: int) -> None:
        """What begins and ends from now on is of this instrument."""
        self.place["instrument"] = symbol
        self.value = int(self.journal.instruments()[1][symbol].value_quanta) * 100 * 10_000

    def plan(self, percent: int) -> None:
        one = messages.Condition(symbol="BTC/USDT", side="buy", direction="up", size=Size(kind="base", value="1"), confidence=0.8, why="test",
                                 level="100", stop_bps=100, target_bps=200, twin_target_pct=percent)
        (number,) = self.journal.append(plans=[messages.Plan(strategy="momentum", due_ns=1, next_due_ns=2, conditions=[one])])
        self.place = {"instrument": 0, "side": l.BUY, "condition_id": number << l.PLAN_SHIFT}

    def begin(self, **of_twin: int) -> tuple[int, int]:
        """A position and its twin; gives their ids. `of_twin` are fields of its record."""
        base = self.incarnation << 40 | self.record(kind=l.NEW, purpose=l.ENTRY, reference_price=10_000, **self.place)
        self.record(kind=l.LIFECYCLE, leg=l.POS_OPENING, code=l.POS_OPEN, position_id=base, limit_price=9_900, reference_price=10_200, **self.place)
        twin = self.incarnation << 40 | self.seq + 3
        self.record(kind=l.PAPER_OPENED, code=l.POS_MONITORING, position_id=twin, order_seq=base, value=10_000, limit_price=9_900,
                    reference_price=10_300, lots=100, **self.place, **of_twin)
        return base, twin

    def begin_run(self) -> None:
        """Another run of the instance."""
        self.journal.begin_run("second", {"instruments": msgspec.to_builtins(list(self.journal.instruments()[1].values()))})
        self.memory.board.cursors[0]["incarnation"] = self.incarnation = 2
        self.seq = self.memory.board.cursors[0]["durable_orders"] = 0

    def exit(self, base: int, price: int, lots: int = 100, leg: int = 1) -> None:
        self.record(kind=l.NEW, purpose=l.EXIT, position_id=base, reference_price=price, lots=lots, leg=leg, **self.place)

    def end(self, position: int, price: int, kind: int = l.CLOSED, reason: int = l.EXIT_TARGET) -> None:
        self.record(kind=kind, position_id=position, pnl=self.value // 10_000 * (price - 10_000), fees=0, lots=100, entry_price=10_000,
                    exit_price=price, opened_ns=5, exit_reason=reason, **self.place)

    def reflection(self, folder: Path) -> Any:
        made = module.Reflection(child_of(str(folder), self.memory))
        made._journal = self.journal
        made.step()
        return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pairs]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = Pairs(tmp_path)
    yield made
    made.close()


def evidence_of(reflection: Any, value: str = "0 widen target") -> Evidence:
    found: Evidence = reflection.learner.claims[Claim("exits", value, "wins")].evidence
    return found


def test_a_pair_speaks_when_both_have_closed_and_without_the_positions_exit_slippage(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.exit(base, 10_200)
    world.end(base, 10_190)  # 10 bps of slippage
    reflection = world.reflection(tmp_path)
    assert (evidence_of(reflection).trades, evidence_of(reflection).running.keys()) == (0, {twin})
    world.end(twin, 10_300, l.PAPER_CLOSED)
    reflection.step()
    evidence = evidence_of(reflection)
    assert (evidence.trades, evidence.running, evidence.mean_bps) == (1, {}, pytest.approx(100.0, abs=0.2))
    trade = reflection.store.trade(base)
    assert (trade.variant, trade.adapted, trade.variant_bps) == ("widen target", False, pytest.approx(100.0, abs=0.2))
    assert (trade.exit_slippage_bps, trade.net_bps) == (pytest.approx(9.8, abs=0.05), pytest.approx(190.0))
    assert (reflection.store.opening(twin), reflection.store.trade(twin), reflection.learner.open) == (None, None, {})
    reflection.store.close()


def test_a_twin_is_no_trade_on_paper_of_anything(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.end(twin, 9_900, l.PAPER_CLOSED, l.EXIT_STOP)
    world.exit(base, 10_200)
    world.end(base, 10_200)
    reflection = world.reflection(tmp_path)
    scores = reflection.store.scores()
    assert {key: (score.trades, score.paper_trades) for key, score in scores.items()} == {
        ("coin", "BTC/USDT"): (1, 0), ("strategy", "0"): (1, 0), ("hour", "00"): (1, 0), ("day", "Thursday"): (1, 0),
        ("exits", "0 widen target"): (1, 0)}
    assert (scores["exits", "0 widen target"].mean_bps, scores["exits", "0 widen target"].pnl) == (pytest.approx(-300.0), -3 * world.value // 100)
    assert reflection.learner.state.since_look == 1
    assert {claim.family: piece.evidence.trades for claim, piece in reflection.learner.claims.items()} == {
        "coin": 1, "strategy": 1, "hour": 1, "day": 1, "exits": 1}
    reflection.store.close()


def test_of_an_adapted_position_the_difference_is_still_variant_minus_own(world: Pairs, tmp_path: Path) -> None:
    world.plan(67)
    base, twin = world.begin()
    world.end(twin, 10_160, l.PAPER_CLOSED)
    world.exit(base, 10_240)
    world.end(base, 10_240)
    reflection = world.reflection(tmp_path)
    assert evidence_of(reflection).mean_bps == pytest.approx(80.0)
    trade = reflection.store.trade(base)
    assert (trade.adapted, trade.variant_bps) == (True, pytest.approx(80.0))
    reflection.store.close()


@pytest.mark.parametrize("first", ["position", "twin"])
def test_where_the_first_of_two_is_ended_by_a_person_or_the_datas_end_there_is_no_pair(world: Pairs, tmp_path: Path, first: str) -> None:
    base, twin = world.begin()
    if first == "position":
        world.end(base, 10_050, reason=l.EXIT_OPERATOR)
        world.end(twin, 10_300, l.PAPER_CLOSED)
    else:
        world.end(twin, 10_050, l.PAPER_CLOSED, l.EXIT_DATA_GAP)
        world.end(base, 10_050, reason=l.EXIT_DATA_GAP)
    reflection = world.reflection(tmp_path)
    evidence = evidence_of(reflection)
    assert (evidence.trades, evidence.running, reflection.store.opening(twin)) == (0, {}, None)
    assert reflection.store.scores()["coin", "BTC/USDT"].paper_trades == 0
    assert ("exits", "0 widen target") not in reflection.store.scores()
    reflection.store.close()


def test_a_person_who_ends_the_second_one_decides_nothing_of_the_first(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.exit(base, 10_200)
    world.end(base, 10_200)
    world.end(twin, 10_100, l.PAPER_CLOSED, l.EXIT_END)
    reflection = world.reflection(tmp_path)
    assert evidence_of(reflection).mean_bps == pytest.approx(-100.0)
    reflection.store.close()


@pytest.mark.parametrize("late", [False, True], ids=["while both are open", "when the twin has closed"])
def test_a_person_who_moves_a_level_ends_the_pair_unless_its_twin_has_a_result(world: Pairs, tmp_path: Path, late: bool) -> None:
    base, twin = world.begin()
    if late:
        world.end(twin, 9_900, l.PAPER_CLOSED, l.EXIT_STOP)
    world.record(kind=l.LIFECYCLE, leg=l.POS_MONITORING, code=l.POS_ADJUSTING, flags=l.ADJUST_OPERATOR, position_id=base, **world.place)
    world.exit(base, 10_050)
    world.end(base, 10_050, reason=l.EXIT_TRAILING)
    if not late:
        world.end(twin, 9_900, l.PAPER_CLOSED, l.EXIT_STOP)
    reflection = world.reflection(tmp_path)
    assert evidence_of(reflection).trades == int(late)
    reflection.store.close()


@pytest.mark.parametrize("twin_first", [False, True], ids=["position first", "twin first"])
def test_a_pair_that_is_open_goes_on_in_the_next_run_and_counts(world: Pairs, tmp_path: Path, twin_first: bool) -> None:
    base, twin = world.begin()
    world.reflection(tmp_path).store.close()
    world.begin_run()
    reflection = world.reflection(tmp_path)
    if twin_first:
        world.end(twin, 10_300, l.PAPER_CLOSED)
    world.exit(base, 10_200)
    world.end(base, 10_200)
    if not twin_first:
        reflection.step()
        assert (evidence_of(reflection).trades, evidence_of(reflection).running.keys()) == (0, {twin})
        world.end(twin, 10_300, l.PAPER_CLOSED)
    reflection.step()
    evidence = evidence_of(reflection)
    assert (evidence.trades, evidence.running, reflection.store.opening(twin)) == (1, {}, None)
    assert evidence.mean_bps == pytest.approx(100.0)
    assert reflection.store.scores()["coin", "BTC/USDT"].trades == 1
    reflection.store.close()


@pytest.mark.parametrize("base_closed", [False, True], ids=["its position is open", "its position has a result"])
def test_a_pair_whose_twin_was_not_restored_is_lost_by_the_gambler_once_another_has_its_place(world: Pairs, tmp_path: Path,
                                                                                              base_closed: bool) -> None:
    base, twin = world.begin()
    world.reflection(tmp_path).store.close()
    world.begin_run()
    reflection = world.reflection(tmp_path)
    if base_closed:
        world.exit(base, 10_200)
        world.end(base, 10_200)
    reflection.step()
    before = evidence_of(reflection).log_e
    assert twin in reflection.learner.open
    other, next_twin = world.begin()
    reflection.step()
    assert twin not in reflection.learner.open
    assert (evidence_of(reflection).running.keys(), reflection.store.opening(twin)) == ({twin}, None), "it is still a part of the bet"
    assert evidence_of(reflection).log_e == before < 0.0, "as lost as what is open"
    world.end(next_twin, 10_300, l.PAPER_CLOSED)
    world.exit(other, 10_200)
    world.end(other, 10_200)
    world.end(twin, 10_300, l.PAPER_CLOSED)
    reflection.step()
    assert evidence_of(reflection).trades == 1, "nobody listens to it any more"
    world.begin(event_ns=evidence_of(reflection).until_ns)
    reflection.step()
    assert (evidence_of(reflection).episodes, twin in evidence_of(reflection).running) == (1, False)
    assert evidence_of(reflection).log_e < 0.0
    reflection.store.close()


def test_a_pair_of_which_the_twin_has_a_result_outlives_a_new_run(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.end(twin, 9_900, l.PAPER_CLOSED, l.EXIT_STOP)
    reflection = world.reflection(tmp_path)
    world.begin_run()
    world.exit(base, 10_200)
    world.end(base, 10_200)
    reflection.step()
    assert evidence_of(reflection).trades == 1
    assert reflection.store.opening(twin) is None
    reflection.store.close()


def test_slippage_of_a_ladder_is_of_each_rung_since_it_was_decided(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.exit(base, 10_100, lots=50, leg=2)
    world.exit(base, 10_200, lots=50)
    world.exit(base, 10_180, lots=20)  # the try before has left 20
    world.end(base, 10_145)
    world.end(twin, 10_300, l.PAPER_CLOSED)
    reflection = world.reflection(tmp_path)
    decided = (50 * 10_100 + 50 * 10_200) / 100
    trade = reflection.store.trade(base)
    assert trade.exit_reference == pytest.approx(decided / 100)
    assert trade.exit_slippage_bps == pytest.approx(1e4 * (1 - 10_145 / decided))
    reflection.store.close()


def test_pairs_of_many_lives_are_what_one_reading_learns(world: Pairs, tmp_path: Path) -> None:
    chance, is_open, reflection = random.Random(5), list[tuple[int, int, bool, int]](), world.reflection(tmp_path)
    for number in range(300):
        symbol = next(one for one in range(3) if one not in {there[3] for there in is_open})  # a symbol has one at a time
        world.at(symbol)
        base, twin = world.begin()
        is_open.append((base, twin, chance.random() < 0.97, symbol))
        while len(is_open) > chance.choice((0, 0, 0, 2)):
            base, twin, pays, symbol = is_open.pop(chance.randrange(len(is_open)))
            world.at(symbol)
            ends = [(base, 10_200, l.CLOSED), (twin, 10_300 if pays else 9_900, l.PAPER_CLOSED)]
            chance.shuffle(ends)
            world.exit(base, 10_201)
            for position, price, kind in ends:
                world.end(position, price, kind)
                if chance.random() < 0.1:
                    reflection.step()
                    reflection.store.close()  # killed
                    reflection = world.reflection(tmp_path)
        if number == 150:
            reflection.step()
    reflection.step()
    kept = contents(reflection.store)
    assert kept["scores"]["exits/0 widen target"]["trades"] > 250
    again = relearned(world.journal, tmp_path / "again", int(world.memory.board.run[0]["strategies"]) or 1)
    assert again == kept
    assert any(one["adaptation"]["family"] == "exits" for one in kept["adaptations"].values()), "it was even believed"
    reflection.store.close()


def test_it_is_all_told_in_words(world: Pairs, tmp_path: Path) -> None:
    base, twin = world.begin()
    world.exit(base, 10_200)
    world.end(base, 10_200)
    world.end(twin, 10_300, l.PAPER_CLOSED)
    reflection = world.reflection(tmp_path)
    reflection.learner._look = lambda *_: [Step(active("widen stop", "0", number=0), "it is better")]
    assert isinstance(reflection.handle(messages.Reflect()), messages.Done)

    def ask(what: str, argument: str = "") -> Any:
        return words.answer(messages.Query(what=what, argument=argument), reflection.store, reflection.learner, -8)

    (row,) = ask("knowledge", "exits").rows
    assert (row["value"], row["trades"], row["mean_bps"]) == ("0 widen target", 1, 100.0)
    (row,) = ask("knowledge", "variant").rows
    assert (row["variant"], row["pairs"], row["variant_bps"]) == ("0 widen target", 1, 100.0)
    assert "more than with its own exits" in ask("why", "0 widen target").data["text"][0]
    assert any("100.0 bps more than with the strategy's own exits" in line for line in ask("why", str(base)).data["text"])
    (row,) = ask("adaptations").rows
    assert (row["action"], row["family"], row["stage"]) == ("widen stop", "exits", "active")
    text = ask("why", "1").data["text"]
    assert "effect: stop at 150 % of its distance, size ÷ 1.5" in text
    assert any("told by pairs" in line for line in text)
    assert reflection.steps[0].text == "widen stop 0: active: it is better"
    reflection.store.close()
