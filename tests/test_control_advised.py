"""The strategy `llm` itself: when it asks, what it does with answers and without them, and what a successor of it knows."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from control.think import advised as module
from control.think.llm.advisor import Advisor
from control.think.llm.config import Llm
from control.think.llm.exchange import Asking, Recording
from control.think.strategy import CoinStatus, Held
from hotpath.config import Limits
from ipc.messages import Event
from tests.advice_scene import BTC, ETH, GOOD, NOON, Learned, Scene
from tests.analysis_market import BEGIN, MINUTE, upside_down
from tests.llm_server import proposal, reply

HOUR = 60 * MINUTE
QUARTER = 15 * MINUTE
SHUT = CoinStatus(trades=60, wins=10, scale=0.0, status="blacklisted")
#: whatever the candles are like, the rules find something
EAGER: dict[str, Any] = {"least_score": 0.0, "least_reward_risk": 0.0, "stop_most_bps": 5000}


def filled(now_ns: int, symbol: str = BTC) -> Held:
    return Held(symbol, "buy", 0.01, 100.0, now_ns, "open", 99.0, 102.0)


# ── what comes of an answer ──────────────────────────────────────────────────────────────────────────────────────────
def test_an_answer_is_armed_with_what_the_analyst_asks_of_a_trade() -> None:
    scene = Scene()
    scene.model.holds.clear()
    assert scene.plan(NOON, waits=False) == [], "nothing is armed while it is asked for the first time"
    scene.model.holds.set()
    (one,) = scene.plan(NOON + 15_000_000_000) or []
    assert (one.symbol, one.stop_bps, one.target_bps, one.pattern) == (BTC, 50, 150, "")
    assert one.regime
    assert [(clause.feature, clause.op, clause.value) for clause in one.clauses] == [("spread_bps", "<", 6.0)]
    assert one.time_stop_s == 24 * 900
    assert 0 < int(one.size.value) <= one.most_equity_bps
    assert scene.strategy.exchange == scene.exchanges()[0].prompt_sha256
    assert scene.strategy.said == scene.strategy.errors.said == "TRADE: so it is"


@pytest.mark.parametrize(("changes", "settings", "more", "says"), [
    ({}, {}, {"spread_bps": 9.0}, "spread 9.0 bps is above 6"),
    ({"stop_bps": 500, "target_bps": 22}, {}, {}, "target 22 and stop 500 bps with costs of 11.0 bps bring 0.02 of what is at risk, less than 0.5"),
    ({}, {"least_reward_risk": 5.0}, {}, "less than 5"), ({}, {"risk_bps": 0.005}, {}, "size_bps 50 → size 0 bps by risk")])
def test_a_proposal_that_the_analyst_would_not_make_is_refused_with_its_reason(changes: dict[str, Any], settings: dict[str, Any],
                                                                               more: dict[str, Any], says: str) -> None:
    scene = Scene(reply(GOOD | changes), settings=settings)
    assert scene.plan(NOON, **more) == []
    (refused,) = (event for event in scene.events if event.kind == "llm_refused")
    assert says in refused.text
    assert refused.text.startswith(f"buy {BTC} refused: ")


def test_a_size_that_no_venue_takes_is_refused_and_not_armed_to_be_refused_each_time_it_fires() -> None:
    """The proposal is large enough; what the analyst's risk leaves of it is not."""
    scene = Scene(settings={"risk_bps": 0.03})
    assert scene.plan(NOON) == []
    (refused,) = (event for event in scene.events if event.kind == "llm_refused")
    assert re.search(r"size \d+ bps of 10000 is less than the venue's least order of \d+", refused.text), refused.text


def test_a_verdict_is_what_became_of_the_proposal_in_the_end() -> None:
    """In the recorded exchange as in the events: one that the prompt's terms let pass may still be worth too little."""
    scene = Scene(reply(GOOD, proposal(symbol=ETH, level_bps=30, stop_bps=50, target_bps=350, size_bps=600)), 
                  settings={"least_reward_risk": 5.0, "risk_bps": 1.0})
    (armed,) = scene.plan(NOON) or []
    one, other = scene.exchanges()[0].verdicts
    assert (one.outcome, one.condition, "less than 5" in one.text) == ("refused", None, True)
    assert (other.outcome, other.condition) == ("clamped", armed)
    assert re.fullmatch(r"size_bps 600 → 500.*; size_bps 500 → size \d+ bps .*", other.text), other.text
    assert scene.kinds() == ["llm_exchange", "llm_trade", "llm_refused", "llm_clamped"]
    assert scene.events[1].data["conditions"] == 1


def test_no_trade_empties_what_is_armed_and_its_reason_is_told() -> None:
    scene = Scene(reply(GOOD), reply(decision="NO_TRADE", reason="nothing pays"))
    scene.plan(NOON)
    scene.strategy.ask_now()
    assert scene.plan(NOON + MINUTE) == []
    assert scene.strategy.said == scene.strategy.errors.said == "NO_TRADE: nothing pays"
    assert scene.kinds("llm_no_trade") == ["llm_no_trade"]


# ── no stage is there in vain ────────────────────────────────────────────────────────────────────────────────────────
def told_with(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[dict[str, Any], Any]:
    """What the model is told of BTC, and what is armed, where the analysis of it says something else."""
    real = module.pipeline.batches

    def other(market: Any, symbols: Any, settings: Any) -> Any:
        for analyses, young in real(market, symbols, settings):
            frame = dict(changes.get("trade", {}))
            if "regime" in frame:
                frame["regime"] = msgspec.structs.replace(analyses[0].trade.regime, name=frame["regime"])
            own = {name: value for name, value in changes.items() if name != "trade"}
            yield [msgspec.structs.replace(one, trade=msgspec.structs.replace(one.trade, **frame), **own) for one in analyses], young

    monkeypatch.setattr(module.pipeline, "batches", other)
    scene = Scene(seeds=(1,))
    made = scene.plan(NOON) or []
    monkeypatch.undo()
    (row,) = scene.model.told[0]["market"]
    return row, made[0]


def test_regime_volatility_pattern_and_score_each_change_what_a_model_is_told_or_what_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, armed = told_with(monkeypatch)
    other = "volatile" if before["regime"] != "volatile" else "range"
    row, made = told_with(monkeypatch, trade={"regime": other})
    assert (row["regime"], made.regime) == (other, other)
    assert before["regime"] == armed.regime != other
    row, made = told_with(monkeypatch, volatility_day_bps=20 * before["volatility_bps"])
    assert row["volatility_bps"] > before["volatility_bps"]
    assert int(made.size.value) < int(armed.size.value)
    row, made = told_with(monkeypatch, trade={"patterns": ()})
    assert "patterns" not in row
    assert told_with(monkeypatch, trade={"patterns": (module_pattern(),)})[0]["patterns"] == ["squeeze to buy"]
    row, made = told_with(monkeypatch, score=-0.77)
    assert row["score"] == -0.77 != before["score"]


def module_pattern() -> Any:
    from control.think.analysis.findings import Pattern

    return Pattern(name="squeeze", side="buy", strength=0.5, level=100.0)


def test_other_candles_are_another_prompt() -> None:
    scene = Scene(seeds=(1,))
    scene.plan(NOON)
    turned = Scene(seeds=(1,))
    turned.history = {BTC: upside_down(scene.history[BTC])}
    turned.plan(NOON)
    assert scene.exchanges()[0].prompt_sha256 != turned.exchanges()[0].prompt_sha256


# ── what happens while it is asked ───────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("what", ["a fill", "a closed trade", "an operator", "something learned"])
def test_whatever_happens_while_a_model_thinks_calls_for_the_next_question(what: str) -> None:
    scene = Scene()
    scene.plan(NOON)
    scene.model.holds.clear()
    scene.strategy.ask_now()
    scene.plan(NOON + MINUTE, waits=False)
    happened_ns = NOON + MINUTE + 20_000_000_000
    match what:
        case "a fill":
            scene.held[ETH] = filled(happened_ns, ETH)
        case "a closed trade":
            scene.learned.records[ETH] = CoinStatus(trades=1, last_trade_ns=happened_ns)
        case "an operator":
            scene.strategy.ask_now()
        case _:
            scene.planned_ns = 0  # as Planning says it
    scene.plan(NOON + 2 * MINUTE, waits=False)
    scene.model.holds.set()
    scene.plan(NOON + 3 * MINUTE)
    assert scene.asked == [NOON, NOON + MINUTE], "the answer is taken first"
    scene.plan(NOON + 4 * MINUTE)
    assert scene.asked[2:] == [NOON + 4 * MINUTE]
    scene.minutes(NOON + 5 * MINUTE, 10)
    assert len(scene.asked) == 3, "once"


def test_a_position_that_opened_while_the_model_was_thinking_is_not_added_to() -> None:
    scene = Scene()
    scene.model.holds.clear()
    scene.plan(NOON, waits=False)
    scene.held[BTC] = filled(NOON + 5)
    scene.model.holds.set()
    assert scene.plan(NOON + MINUTE) == []
    assert [event.text for event in scene.events if event.kind == "llm_refused"] == [f"buy {BTC} refused: a position in {BTC} is open"]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def failing(**llm: Any) -> Scene:
    return Scene(reply(GOOD), "", llm=Llm(**({"breaker_cooldown_s": 60} | llm)))


def test_a_failure_keeps_what_is_armed_and_pauses_longer_each_time_until_it_works_again() -> None:
    scene = failing()
    assert scene.plan(NOON)
    scene.strategy.ask_now()
    scene.minutes(NOON + MINUTE, 60)
    since = [(at - NOON) // MINUTE for at in scene.asked]
    assert since == [0, 1, 2, 4, 8, 16, 31, 46], "the pause doubles up to a quarter of an hour"
    assert len(scene.lists) == 1, "what was armed stays"
    failed = [event for event in scene.events if event.kind == "llm_failed"]
    assert [event.data["pause_s"] for event in failed] == [60, 120, 240, 480, 900, 900, 900]
    assert {(event.data["activity"], event.data["class"], event.data["decision"]) for event in failed} == {("advice llm", "api", "pause")}
    assert (scene.strategy.errors.failing, scene.strategy.errors.last.text) == (True, "scripted: HTTP 500")  # type: ignore[union-attr]
    scene.model.replies = [reply(GOOD)]
    scene.strategy.ask_now()
    scene.plan(NOON + 62 * MINUTE)
    assert not scene.strategy.errors.failing
    assert scene.events[-1].data["decision"] == "recovered"
    assert len(scene.lists) == 2


@pytest.mark.parametrize("what", ["an operator", "a fill"])
def test_an_operators_word_and_what_happens_end_a_pause(what: str) -> None:
    scene = failing(breaker_cooldown_s=86_400)
    scene.plan(NOON)
    scene.strategy.ask_now()
    scene.minutes(NOON + MINUTE, 3)
    assert len(scene.asked) == 2
    if what == "an operator":
        scene.strategy.ask_now()
    else:
        scene.held[ETH] = filled(NOON + 4 * MINUTE - 1, ETH)
    scene.minutes(NOON + 4 * MINUTE, 10)
    assert scene.asked[2:] == [NOON + 4 * MINUTE], "and only once"


@pytest.mark.parametrize(("speed", "minutes"), [(1.0, 60), (2.0, 120)])
def test_a_pause_that_an_endpoint_wants_is_one_of_the_wall_clock(speed: float, minutes: int) -> None:
    scene = Scene("", speed=speed)
    scene.model.wait_s = 3600.0
    scene.minutes(NOON, 130)
    assert [(at_ns - NOON) // MINUTE for at_ns in scene.asked][:2] == [0, minutes]


def test_where_nobody_may_be_asked_the_journal_has_neither_prompt_nor_the_same_reason_twice_and_it_waits_as_long_as_that_lasts() -> None:
    scene = Scene()
    scene.plan(NOON)
    scene.model.closed, scene.model.wait_s = "1200 of llm.tokens_per_day = 1000 are spent", 7200.0
    scene.strategy.ask_now()
    scene.minutes(NOON + MINUTE, 150)
    assert len(scene.asked) == 1, "only what may be put is announced"
    unasked = [one for one in scene.exchanges() if not one.asked]
    assert [(one.taken_ns - NOON) // MINUTE for one in unasked][::-1] == [1, 121]
    assert all(len(msgspec.json.encode(one)) < 1000 for one in unasked)
    assert scene.kinds("llm_failed") == ["llm_failed"], "the same reason once"
    scene.model.closed = "m: left alone for 50 s"
    scene.strategy.ask_now()
    scene.plan(NOON + 160 * MINUTE)
    scene.model.closed = "m: left alone for 20 s"
    scene.strategy.ask_now()
    scene.plan(NOON + 161 * MINUTE)
    assert scene.kinds("llm_failed") == ["llm_failed"] * 2
    assert scene.strategy.errors.failing


def test_nothing_is_asked_that_the_journal_does_not_take() -> None:
    scene = Scene(tell=lambda event: False)
    assert scene.plan(NOON) == []
    assert scene.model.told == []
    assert "the journal does not take" in scene.strategy.said


def test_rules_take_over_as_often_as_the_analyst_would_plan_and_no_more() -> None:
    scene = Scene("", llm=Llm(on_failure="rules"), settings=EAGER | {"calm_bps": 25, "wild_bps": 26, "interval_least_min": 30})
    scene.minutes(NOON, 120)
    assert scene.lists[0][1], "the rules find something"
    apart = [later - earlier for (earlier, _), (later, _) in zip(scene.lists, scene.lists[1:], strict=False)]
    assert apart
    assert min(apart) >= QUARTER, "new conditions begin anew with what they wait for"
    assert len(scene.asked) > 5, "meanwhile it is asked again"
    assert {one.why.partition(":")[0] for _, made in scene.lists for one in made} != {"llm"}


def test_what_the_rules_arm_meanwhile_lasts_until_they_plan_again() -> None:
    scene = Scene("", llm=Llm(on_failure="rules"), settings=EAGER | {"interval_least_min": 20, "interval_most_min": 20, "regime_share": 1.0})
    scene.minutes(NOON, 100)
    assert len(scene.lists) >= 3
    for (at_ns, made), (next_ns, _) in zip(scene.lists, scene.lists[1:], strict=False):
        assert next_ns - at_ns <= 20 * MINUTE
        assert all(at_ns + one.valid_for_s * 1_000_000_000 > next_ns for one in made)


# ── nothing to ask about ─────────────────────────────────────────────────────────────────────────────────────────────
def test_where_history_is_too_short_nobody_is_asked_and_the_journal_says_so_once() -> None:
    scene = Scene()
    scene.minutes(BEGIN + 2 * HOUR, 225)
    assert scene.asked == []
    assert scene.kinds() == ["llm_not_asked"]
    assert scene.strategy.errors.said == "nobody is asked: history is too short"
    assert not scene.strategy.errors.failing
    scene.minutes(BEGIN + 2 * HOUR + 225 * MINUTE, 10)
    assert scene.asked == [BEGIN + 23 * QUARTER], "as soon as a candle has made it long enough"


def test_coins_that_are_shut_are_followed_on_paper_whatever_the_model_does() -> None:
    shut = Learned(BTC=SHUT)
    for replies, closed in (((reply(proposal(symbol=ETH, level_bps=9, stop_bps=50, target_bps=150)),), ""), (("",), ""), (("",), "no budget")):
        scene = Scene(*replies, learned=shut, settings=EAGER)
        scene.model.closed = closed
        made = scene.plan(NOON)
        assert BTC in {one.symbol for one in made or []}, (replies, closed)
    scene = Scene(learned=Learned(BTC=SHUT, ETH=SHUT), settings=EAGER | {"calm_bps": 25, "wild_bps": 26, "interval_least_min": 30})
    scene.minutes(NOON, 90)
    assert (scene.asked, scene.kinds()) == ([], ["llm_not_asked"])
    assert len(scene.lists) >= 2
    assert {one.symbol for one in scene.lists[0][1]} <= {BTC, ETH}
    assert scene.lists[0][1]


def test_a_failing_model_does_not_end_what_it_had_said_when_shut_coins_are_planned_anew() -> None:
    scene = Scene(reply(proposal(symbol=ETH, level_bps=9, stop_bps=50, target_bps=150, valid_minutes=120)), "", learned=Learned(BTC=SHUT),
                  settings=EAGER | {"calm_bps": 25, "wild_bps": 26, "interval_least_min": 30})
    scene.minutes(NOON, 100)
    assert len(scene.lists) >= 2
    ends = {at + one.valid_for_s * 1_000_000_000 for at, made in scene.lists for one in made if one.symbol == ETH}
    assert ends == {NOON + 120 * MINUTE}, "it keeps its expiry"
    assert len({at for at, made in scene.lists if any(one.symbol == ETH for one in made)}) >= 2


def test_where_every_coin_has_a_position_nobody_is_asked() -> None:
    scene = Scene()
    scene.held = {BTC: filled(1), ETH: filled(1, ETH)}
    scene.plan(NOON)
    assert (scene.asked, scene.strategy.said) == ([], "nobody is asked: every coin has a position open")


@pytest.mark.parametrize(("held", "limits"), [
    ((), Limits(restricted_symbols=(BTC, ETH))), ((BTC,), Limits(restricted_symbols=(ETH,))), ((), Limits(permissions={"llm": ()}))])
def test_where_the_limits_let_nothing_be_entered_nobody_is_asked_and_nothing_has_failed(held: tuple[str, ...], limits: Limits) -> None:
    scene = Scene(limits=limits)
    scene.held = {symbol: filled(1, symbol) for symbol in held}
    scene.plan(NOON)
    assert (scene.asked, scene.strategy.said) == ([], "nobody is asked: the limits let nothing be entered in any coin that is left")
    assert not scene.strategy.errors.failing


# ── a list that does not get there ───────────────────────────────────────────────────────────────────────────────────
def test_a_refused_list_is_offered_again_with_the_time_that_is_left_and_no_answer_is_bought_twice() -> None:
    scene = Scene(reply(GOOD | {"valid_minutes": 10}))
    (first,) = scene.plan(NOON, arms=False) or []
    (again,) = scene.plan(NOON + MINUTE, arms=False) or []
    assert again == msgspec.structs.replace(first, valid_for_s=first.valid_for_s - 60)
    assert scene.plan(NOON + 3 * MINUTE) == [msgspec.structs.replace(first, valid_for_s=first.valid_for_s - 180)]
    assert scene.plan(NOON + 4 * MINUTE) is None
    assert len(scene.asked) == 1


def test_what_was_overtaken_by_something_learned_stays_armed_while_the_model_is_asked_anew_but_what_has_fired() -> None:
    scene = Scene(reply(GOOD, proposal(symbol=ETH, level_bps=30, stop_bps=50, target_bps=150, valid_minutes=60)))
    first = scene.plan(NOON) or []
    assert len(first) == 2
    scene.armed = [(at, msgspec.structs.replace(one, stop_bps=75)) for at, one in scene.armed if one.symbol == ETH]  # as learning has moved it
    scene.planned_ns = 0
    scene.model.holds.clear()
    given = scene.plan(NOON + 2 * MINUTE, waits=False)
    assert [(one.symbol, one.valid_for_s) for one in given or []] == [(ETH, 58 * 60)]
    assert len(scene.asked) == 2
    scene.model.holds.set()
    scene.plan(NOON + 3 * MINUTE)
    assert len(scene.asked) == 2


# ── what is told of what is armed, and what a successor knows ────────────────────────────────────────────────────────
def test_what_has_fired_or_is_on_paper_is_not_told_as_active() -> None:
    scene = Scene(reply(GOOD, proposal(symbol=ETH, level_bps=30, stop_bps=50, target_bps=150, valid_minutes=60)))
    scene.plan(NOON)
    scene.strategy.ask_now()
    scene.plan(NOON + MINUTE)
    assert sorted(row["symbol"] for row in scene.model.told[-1]["active"]) == [BTC, ETH]
    scene.armed = [(at, msgspec.structs.replace(one, paper=True)) for at, one in scene.armed if one.symbol == ETH]
    scene.strategy.ask_now()
    scene.plan(NOON + 2 * MINUTE)
    assert scene.model.told[-1]["active"] == []


def run(respawned: bool) -> list[tuple[int, str, int]]:
    """Four hours with answers, failures and their pauses, and a fill; with a successor every seven minutes. Instants, prompts, and ends of pauses."""
    scene = Scene(reply(GOOD | {"valid_minutes": 200}), "", "", reply(decision="NO_TRADE", reason="wait"), reply(GOOD),
                  settings={"calm_bps": 25, "wild_bps": 26, "interval_least_min": 30}, llm=Llm(breaker_cooldown_s=240))
    for minute in range(240):
        if respawned and minute % 7 == 3:
            errors = scene.strategy.errors
            scene.successor(past=scene.exchanges())
            scene.strategy.errors = errors  # the board has them
        if minute == 100:
            scene.held[ETH] = filled(NOON + 100 * MINUTE - 1, ETH)
        scene.plan(NOON + minute * MINUTE)
    return [(one.briefing_ns, one.prompt_sha256, one.again_ns) for one in scene.exchanges()]


def test_a_successor_asks_when_its_predecessor_would_have_and_the_same() -> None:
    undisturbed = run(respawned=False)
    assert len(undisturbed) >= 6
    assert run(respawned=True) == undisturbed


def test_an_answer_that_is_journaled_and_not_planned_by_is_not_bought_again() -> None:
    scene = Scene(reply(GOOD), reply(GOOD | {"level_bps": 77}))
    first = scene.plan(NOON)
    scene.strategy.ask_now()
    scene.plan(NOON + MINUTE, arms=True)
    given, events = scene.lists[-1][1], len(scene.exchanges())
    scene.armed, scene.planned_ns = [(NOON, one) for one in first or []], NOON  # it died before that was armed
    scene.successor(past=scene.exchanges())
    scene.strategy.ask_now()
    assert scene.plan(NOON + MINUTE) == given
    assert (len(scene.model.told), len(scene.exchanges())) == (2, events), "neither asked nor journaled again"


def test_a_question_without_an_end_has_failed_and_is_put_again_after_a_pause_that_doubles_with_each_up_to_a_quarter_of_an_hour() -> None:
    """What came of it may be what ended the process: without a pause every successor asks the same at once, and ends of the same."""
    scene = Scene(llm=Llm(breaker_cooldown_s=60))
    for minute in range(80):
        scene.model.holds.clear()
        scene.plan(NOON + minute * MINUTE, waits=False)
        if scene.asked[-1:] == [NOON + minute * MINUTE]:
            errors = scene.strategy.errors
            scene.model.holds.set()
            scene.successor(past=scene.exchanges(), lost=Asking(prompt_sha256="lost", strategy="llm", briefing_ns=NOON + minute * MINUTE,
                                                                tokens=70, cost=0.5, headlines=("so",)))
            scene.strategy.errors = errors  # the board has them
    since = [(at - NOON) // MINUTE for at in scene.asked]
    assert since == [0, 2, 5, 10, 19, 35, 51, 67], "a minute after each the next life takes it for failed, and the pause begins"
    failed = [event for event in scene.events if event.kind == "llm_failed"]
    assert [event.data["pause_s"] for event in failed[:7]] == [60, 120, 240, 480, 900, 900, 900]
    assert "no end of the question is known" in failed[0].text
    one = scene.exchanges()[-1]
    assert (one.prompt_sha256, one.messages, one.tokens_in, one.cost, one.headlines) == ("lost", (), 70, 0.5, ("so",)), "spent, and to be replayed"
    assert (one.briefing_ns, one.taken_ns, one.again_ns) == (NOON, NOON + MINUTE, NOON + 2 * MINUTE)


@pytest.mark.parametrize("fills", [False, True])
def test_a_replay_takes_a_question_without_an_end_for_failed_as_the_run_did(fills: bool) -> None:
    """Also where something has happened since, which ends the pause in both."""
    def story(scene: Scene, lost: Callable[[], Asking] | None) -> tuple[list[Any], list[Any]]:
        for minute in range(40):
            if minute == 20:
                scene.strategy.ask_now()
                if lost:
                    scene.model.holds.clear()
            if minute == 21 and fills:
                scene.held[ETH] = filled(NOON + 20 * MINUTE + 1, ETH)
            scene.plan(NOON + minute * MINUTE, waits=not (lost and minute == 20))
            if minute == 20 and lost:
                scene.model.holds.set()
                scene.successor(past=scene.exchanges(), lost=lost())
        return [(one.briefing_ns, one.taken_ns, one.again_ns, one.failure) for one in scene.exchanges()][::-1], scene.lists

    asked: list[Asking] = []
    first = Scene(llm=Llm(breaker_cooldown_s=60), tell=lambda event: not asked.append(msgspec.convert(event.data["asking"], Asking)))
    live = story(first, lambda: asked[-1])
    again = Scene(llm=first.llm)
    again.strategy.advise(Advisor(first.llm, Recording(first.exchanges()[::-1])), first.llm, Limits())
    assert story(again, None) == live
    assert [(begun - NOON) // MINUTE for begun, *_ in live[0]] == [0, 20, 21 if fills else 22]


def test_a_users_own_strategy_is_judged_by_its_own_permissions() -> None:
    scene = Scene()
    scene.strategy.advise(Advisor(scene.llm, scene.model, strategy="Mine"), scene.llm,  # type: ignore[arg-type]
                          Limits(permissions={"Mine": (ETH,)}), "Mine")
    scene.plan(NOON)
    (refused,) = (event for event in scene.events if event.kind == "llm_refused")
    assert "does not let Mine open" in refused.text
    assert scene.strategy.errors.activity == "advice Mine"
    assert scene.exchanges()[0].strategy == "Mine"


def test_events_can_be_journaled() -> None:
    scene = failing()
    scene.minutes(NOON, 3)
    assert all(msgspec.json.decode(msgspec.json.encode(event), type=Event) for event in scene.events)
    assert math.isfinite(scene.strategy.errors.last.pause_s if scene.strategy.errors.last else 0.0)
    assert dataclasses.is_dataclass(scene.portfolio())
