"""The adviser of a run: a model over the network, or the recorded answers of an earlier run, as [llm] says."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from control.record.journal import Journal, decode_event
from control.record.records import JournalError
from control.think.llm.config import Llm
from control.think.llm.exchange import Exchange, ExchangeError, Recording, decode
from control.think.planning import Planning
from control.think.strategy import StrategyError
from hotpath.config import Limits
from hotpath.errors import ErrorManager

_log = logging.getLogger("strategist")
#: events of an exchange
KIND = "llm_exchange"
#: records that are read at once
_PIECE = 500


def engage(planning: Planning, llm: Llm, limits: Limits, exchanges_of_today: Callable[[], Iterable[Exchange]], may_ask: bool) -> list[ErrorManager]:
    """Give every strategy that wants advice its adviser; gives how the models are getting on. Raises StrategyError where there is none.

    `may_ask`: whether a model may be asked at all; a backtest's may not, as a model knows the past that is tested.
    """
    shown: list[ErrorManager] = []
    for planner in planning.planners:
        if not hasattr(planner.strategy, "advise"):  # by its name only: what it is made of is loaded with it alone
            continue
        from control.think.llm.advisor import Advisor

        if llm.replay_from:
            planner.strategy.advise(Advisor(llm, Recording(recorded(Path(llm.replay_from).expanduser()))), llm, limits)
        elif not may_ask:
            raise StrategyError("strategy llm: a model knows the past, so a backtest that asks one proves nothing",
                                "replay what it said: set llm.replay_from to an instance or a run in which it was asked")
        elif not llm.models:
            raise StrategyError("strategy llm: no model is configured", "add one as [[llm.models]] (docs/llm.md), or use the strategy analyst")
        else:
            from control.think.llm.budget import spent_in
            from control.think.llm.client import Client  # which loads openai

            client = Client(llm, os.environ, spent_in(exchanges_of_today(), time.time_ns()))
            planner.strategy.advise(Advisor(llm, client), llm, limits)
            shown += client.activities
    return shown


def recorded(source: Path) -> list[Exchange]:
    """The exchanges of an instance, a run, or a journal, in their order. Raises StrategyError."""
    for folder in (source / "journal", source / "state" / "journal", source):
        if (folder / "data.mdb").is_file():
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
    raise StrategyError(f"llm.replay_from: {source} holds no journal", "name a folder under instances/ or runs/")


def asked_since(folder: Path, wall_ns: int) -> list[Exchange]:
    """What was asked since a moment of the wall clock; what cannot be read is told and passed over. Raises JournalError."""
    journal = Journal(folder)
    try:
        found: list[Exchange] = []
        before: bytes | None = None
        while piece := journal.before("events", before, _PIECE):
            for _, record in piece:
                if record.wall_ns < wall_ns:
                    return found
                event = decode_event(record.payload)
                if event.kind == KIND:
                    try:
                        found.append(decode(event.data["exchange"]))
                    except ExchangeError as error:
                        _log.warning("what it spent is not counted for today's budget: %s", error)
            before = piece[-1][0]
        return found
    finally:
        journal.close()
