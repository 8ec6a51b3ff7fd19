"""`trader-ctl why`: what a number means, what an hour is asked by, and names that are as long as learning makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.learn import words
from control.learn.candidates import Candidate
from control.learn.follower import Changes
from control.learn.gate import Step
from control.learn.kinds import Claim, Kind
from control.learn.knowledge import Applied, Knowledge
from control.learn.learner import Opened
from control.learn.quick_update import Score
from control.serve import ctl
from ipc import messages
from tests.learn_scene import adaptation, learner
from tests.test_control_ctl import NAME, Role, Watchdog, folder, watchdog

LONG = "VolatilityBreakoutStrategy: coin LAYER/USDT:USDT + regime trend_down"
__all__ = ["folder", "watchdog"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Knowledge]:
    """Trades at 02, 08 and 14 UTC and on a Monday; the second adaptation is of a coin."""
    made = Knowledge(tmp_path / "knowledge", writable=True)
    one, kinds = learner(), [("hour", "02"), ("hour", "08"), ("hour", "14"), ("day", "Monday"), ("coin", "A"), ("coin", "14")]
    steps = [Step(msgspec.structs.replace(adaptation(), number=number, value=value), "it loses") for number, value in ((1, "A"), (2, "02"))]
    of_learner = one.take_changes()
    of_learner.adaptations.update({step.adaptation.number: step.adaptation for step in steps})
    one.since_birth = lambda number: 1  # type: ignore[method-assign]
    made.store(Applied(1, 9), Changes({kind: Score(trades=7) for kind in kinds}, {}, {}, steps), one, of_learner)  # type: ignore[misc]
    yield made
    made.close()


def why(store: Knowledge, argument: str) -> Any:
    return words.answer(messages.Query(what="why", argument=argument), store, learner(), -8)


def test_a_number_is_an_adaptation_first_and_says_how_the_hour_is_asked(store: Knowledge) -> None:
    text = why(store, "02").data["text"]
    assert text[0].startswith("adaptation 2: ")
    assert text[-1] == "hour 02 is asked for by: trader-ctl why hour 02"
    assert not any("is asked for by" in line for line in why(store, "1").data["text"]), "no trade was opened in that hour"


def test_an_hour_is_asked_by_its_family_whatever_adaptations_there_are(store: Knowledge) -> None:
    for argument in ("hour 02", "hour 2"):
        (line,) = why(store, argument).data["text"]
        assert line.startswith("hour 02: 7 trades"), "and no step of a coin of that name"


@pytest.mark.parametrize("argument", ["8", "08"])
def test_a_number_that_is_no_adaptation_is_an_hour(store: Knowledge, argument: str) -> None:
    assert why(store, argument).data["text"][0].startswith("hour 08: 7 trades")


def test_a_value_means_every_kind_of_that_name_and_a_family_before_it_one(store: Knowledge) -> None:
    assert [line.split(":")[0] for line in why(store, "14").data["text"]] == ["coin 14", "hour 14"]
    assert [line.split(":")[0] for line in why(store, "hour 14").data["text"]] == ["hour 14"]
    assert [line.split(":")[0] for line in why(store, "day Monday").data["text"]] == ["day Monday"]
    assert "adaptation" not in why(store, "coin A").data["text"][0]


@pytest.mark.parametrize("argument", ["hour 15", "hour", "hour noon", "coin 02", "week 3"])
def test_a_kind_that_is_not_known_is_refused_by_its_name(store: Knowledge, argument: str) -> None:
    reply = why(store, argument)
    assert isinstance(reply, messages.Refused)
    assert argument in reply.text


def test_a_candidate_of_a_long_name_is_explained_from_the_command_line_to_the_screen(
        watchdog: Watchdog, folder: Path, store: Knowledge, capsys: pytest.CaptureFixture[str]) -> None:
    one = learner()
    one.opened(7, Opened(kind=Kind("LAYER/USDT:USDT", "VolatilityBreakoutStrategy", "buy"), opened_ns=1, span_bps=100.0))
    one.state.candidates[LONG] = Candidate(made_ns=1, trades=30, wins=20, mean_bps=30.0, first=1, last=9)
    one.claims[Claim("pattern", LONG, "wins")] = one.claims[Claim("coin", "LAYER/USDT:USDT", "wins")]
    process = Role(folder, "reflection", lambda query: words.answer(query, store, one, -8))
    try:
        for command in (["why", LONG], ["why", *LONG.split()], ["knowledge", LONG], ["adaptations", LONG]):
            assert ctl.main(["--instance", NAME, *command, "--json"]) == 0
            reply = json.loads(capsys.readouterr().out)
            if command[0] == "why":
                assert reply["data"]["text"][0].startswith(f"pattern {LONG}: ")
            if command[0] == "knowledge":
                assert [row["value"] for row in reply["rows"]] == [LONG]
        assert ctl.main(["--instance", NAME, "why", LONG]) == 0
        assert LONG in " ".join(capsys.readouterr().out.split())
        assert ctl.main(["--instance", NAME, "why", "no" + LONG]) == 4
        assert "no" + LONG in capsys.readouterr().err
    finally:
        process.close()


@pytest.mark.parametrize("kind", [messages.Why, messages.Knowledge, messages.Adaptations])
def test_a_kind_of_trades_is_asked_by_a_name_of_200_characters(kind: Any) -> None:
    field = "id" if kind is messages.Why else "about"
    for length in (68, 200):
        request = kind(**{field: "x" * length})
        assert messages.decode_control_request(messages.encode(request)) == request
    with pytest.raises(msgspec.ValidationError):
        messages.decode_control_request(messages.encode(kind(**{field: "x" * 201})))


def test_words_of_a_kind_are_one_question(watchdog: Watchdog, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = Role(folder, "reflection", lambda query: messages.Answer(data={"text": [query.argument]}, rows=[]))
    try:
        assert ctl.main(["--instance", NAME, "why", "hour", "14", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data"]["text"] == ["hour 14"]
        assert ctl.main(["--instance", NAME, "why", "BTC/USDT", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data"]["text"] == ["BTC/USDT"]
    finally:
        process.close()
    with pytest.raises(SystemExit):
        ctl.main(["why", "--help"])
    assert "hour 14" in capsys.readouterr().out
