"""The advisers of a run: models over the network, or the recorded answers of an earlier run, as [llm] says."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from control.record.journal import Journal, decode_event
from control.record.records import JournalError
from control.think.llm.briefing import clean
from control.think.llm.config import Llm
from control.think.llm.exchange import Asking, Exchange, ExchangeError, Recording, decode, without_end
from control.think.planning import Planning
from control.think.strategy import StrategyError
from hotpath.config import Limits
from hotpath.errors import ErrorManager
from ipc.messages import Event

_log = logging.getLogger("strategist")
#: events of an exchange, and of a question before it is put
KIND, ASKED = "llm_exchange", "llm_asked"
#: records that are read at once
_PIECE = 500
_DAY_NS = 86_400_000_000_000
#: days that are read for the last exchange; an interval has four hours at most
_DAYS = 2


#: what a run that asks a model about the past says of itself
_FOREKNOWLEDGE = "a model was asked about prices of the past, which it may know: results prove nothing"


class Past(NamedTuple):
    """What the journal has of exchanges and of questions, newest first; of the `same_run`, or of earlier ones alone."""

    exchanges: Sequence[Exchange] = ()
    askings: Sequence[Asking] = ()
    same_run: bool = True


def engage(planning: Planning, llm: Llm, limits: Limits, past: Callable[[], Past], mode: str,
           tell: Callable[[Event], bool] = lambda event: True, speed: float = 1.0) -> list[ErrorManager]:
    """Give every strategy that wants advice its adviser; gives how advice and models are getting on. Raises StrategyError where there is none.

    `mode` is that of the run: a backtest may ask no model, as one knows the past that is tested, and a replay only where the configuration says so.
    `tell` writes an event into the journal at once, and says whether it has it. `speed`: event seconds a wall second, 0 as fast as it goes. All of
    them ask the same models, within one budget.
    """
    advised = [planner for planner in planning.planners if hasattr(planner.strategy, "advise")]  # loaded with what it is made of, alone
    if not advised:
        return []
    from control.think.llm.advisor import Advisor

    known = past()
    models: list[ErrorManager] = []
    client = None
    if llm.replay_from:
        recording = recorded(llm.replay_from)
    elif mode == "backtest":
        raise StrategyError("strategy llm: a model knows the past, so a backtest that asks one proves nothing",
                            "replay what it said: set llm.replay_from to an instance or a run in which it was asked")
    elif not llm.models:
        raise StrategyError("strategy llm: no model is configured", "add one as [[llm.models]] (docs/llm.md), or use the strategy analyst")
    elif mode == "replay" and not llm.ask_in_replay:
        raise StrategyError("strategy llm: a replay goes over the past, which a model may know, so asking one proves nothing",
                            "replay what it said: set llm.replay_from to an instance or a run in which it was asked; or, to ask all the same, "
                            "llm.ask_in_replay = true")
    else:
        from control.think.llm.budget import spent_in
        from control.think.llm.client import Client  # which loads openai

        client = Client(llm, os.environ, spent_in(known.exchanges, time.time_ns(), known.askings))
        models = client.activities
    for planner in advised:
        own = [one for one in known.exchanges if one.strategy in ("", planner.name)]
        recalled, lost = own[0] if own else None, _lost(planner.name, own, known.askings)
        if lost is not None and not known.same_run:  # whoever starts anew does not wait for what an earlier run began
            own, lost = [without_end(lost), *own], None
        source = client or Recording(one for one in recording if one.strategy in ("", planner.name))
        advisor = Advisor(llm, source, tell, strategy=planner.name, recalled=recalled)
        planner.strategy.advise(advisor, llm, limits, planner.name, own, lost, speed or 1.0)
    return [*(planner.strategy.errors for planner in advised if hasattr(planner.strategy, "errors")), *models]


def warnings(planning: Planning, llm: Llm, mode: str) -> list[Event]:
    """What a run has to say of the models that it asks."""
    if mode != "replay" or llm.replay_from or not any(hasattr(planner.strategy, "advise") for planner in planning.planners):
        return []
    _log.warning("%s", _FOREKNOWLEDGE)
    return [Event(source="strategist", kind="foreknowledge", text=_FOREKNOWLEDGE, wall_ns=time.time_ns())]


def _lost(strategy: str, exchanges: Sequence[Exchange], askings: Sequence[Asking]) -> Asking | None:
    """The strategy's last question, where no exchange came of it."""
    last = next((one for one in askings if one.strategy == strategy), None)
    ended = last is None or any((one.prompt_sha256, one.asked_wall_ns) == (last.prompt_sha256, last.asked_wall_ns) for one in exchanges)
    return None if ended else last


def recorded(path: str | Path) -> list[Exchange]:
    """The exchanges of an instance, a run, or a journal, in their order. Raises StrategyError."""
    try:
        source = Path(path).expanduser()
        folders = [folder for folder in (source / "journal", source / "state" / "journal", source) if (folder / "data.mdb").is_file()]
    except (OSError, RuntimeError, ValueError) as error:  # it may not be looked at; no such home; what no path can have in it
        raise StrategyError(f"llm.replay_from: {clean(str(path))}: {error}", "name a folder under instances/ or runs/") from None
    for folder in folders:
        try:
            journal = Journal(folder)
        except JournalError as error:
            raise StrategyError(f"llm.replay_from: {error}", "name the folder of an instance or a run") from error
        try:
            found = [decode(event.data["exchange"]) for _, event in journal.events() if event.kind == KIND]
        except ExchangeError as error:
            raise StrategyError(f"llm.replay_from: {folder}: {error}", "name a run that this program has recorded") from error
        finally:
            journal.close()
        if not found:
            raise StrategyError(f"llm.replay_from: no model was asked in {folder}", "name a run in which the strategy llm has asked one")
        return found
    raise StrategyError(f"llm.replay_from: {clean(str(source), 400)} holds no journal", "name a folder under instances/ or runs/")


def past_of(folder: Path, wall_ns: int, same_run: bool = True) -> Past:
    """All of the UTC day of a moment of the wall clock and of the one before, which may have come after it where the clock was set back; and the last
    exchange before. What cannot be read is told and passed over. Of another run than the `same_run` no pause goes on: a key may be mended by now.
    Raises JournalError."""
    journal = Journal(folder)
    exchanges: list[Exchange] = []
    askings: list[Asking] = []
    today_ns = wall_ns // _DAY_NS * _DAY_NS
    try:
        before: bytes | None = None
        while piece := journal.before("events", before, _PIECE):
            for _, record in piece:
                if record.wall_ns < today_ns - (_DAY_NS if exchanges else _DAYS * _DAY_NS):
                    return Past(exchanges, askings, same_run)
                event = decode_event(record.payload)
                try:
                    if event.kind == KIND:
                        exchange = decode(event.data["exchange"])
                        exchanges.append(exchange if same_run else msgspec.structs.replace(exchange, again_ns=0))
                    elif event.kind == ASKED:
                        askings.append(msgspec.convert(event.data["asking"], Asking))
                except (ExchangeError, msgspec.ValidationError) as error:
                    _log.warning("what it spent is not counted for today's budget: %s", error)
            before = piece[-1][0]
        return Past(exchanges, askings, same_run)
    finally:
        journal.close()
