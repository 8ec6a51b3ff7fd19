"""Making plans: what every strategy of a run wants armed at an instant of event time. No process, no bus, no clock.

The strategist (one process of a running instance) and a backtest both plan here, so that what one arms the other arms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from control.learn.knowledge import KnowledgeError
from control.learn.snapshot import Reader, Snapshot
from control.think.analysis.config import Analysis
from control.think.armed import Armed
from control.think.carried import Carried, Carries
from control.think.check import Checked, Checker
from control.think.config import Strategy as Settings
from control.think.enforce import Caps, Changed, enforced
from control.think.regimes import Regimes
from control.think.strategy import StrategyError, load, name_of
from control.think.view import View
from hotpath.activities import event_of
from hotpath.arming import facts_by_symbol
from hotpath.breaker import Breaker
from hotpath.config import Limits, Recovery
from hotpath.errors import Decision, ErrorManager, Kind, classify
from hotpath.kernel import candles
from hotpath.venues.funding import Rates
from ipc import layout as l
from ipc import messages
from ipc.process import Source
from ipc.segment import Memory

#: characters of an error that travel
_ERROR_CHARACTERS = 400
#: between two looks at a strategy that waits, where time stands still
_WAIT_S = 0.01
#: between two instants at which strategies may be due; between two tries to arm what ends what was shut
_LONGEST_NS, _AGAIN_NS = 60_000_000_000, 15_000_000_000


class Standing(NamedTuple):
    """What of a strategy is armed: event time of the list (0: nothing is), version of the knowledge that it was made with, and what of that was
    active then (−1: not known yet)."""

    given_ns: int = 0
    version: int = 0
    stamp: int = -1


class Planner:
    """One strategy of this process: its number, its name, and how it is getting on. Its failures and their breaker are in event time."""

    def __init__(self, number: int, name: str, strategy: Any, interval_s: int, recovery: Recovery) -> None:
        self.number, self.name, self.strategy = number, name, strategy
        self.errors = ErrorManager(name, Breaker(recovery.breaker_failures, recovery.breaker_cooldown_s * 1_000_000_000))
        self.interval_ns = (int(getattr(strategy, "interval_s", 0)) or interval_s) * 1_000_000_000
        self.planned_ns = 0
        #: event time of its last list of conditions, 0 where it was refused; since then it has kept what was armed
        self.given_ns = 0
        self.armed = self._armed_before = Standing()
        #: event time of its last plan; before `again_ns` one that was not armed is not made anew because of what was learned
        self._made_ns = self.again_ns = 0
        self.error = ""
        self.conditions: list[messages.Condition] = []
        #: adaptations that its last plan was changed by, and all that each has changed since then, as enforce.Changed has it
        self.changed: dict[int, set[tuple[str, bool]]] = {}

    def tell(self, changed: dict[int, Changed]) -> dict[int, str]:
        """What of the changes of a plan has not been told, in words by number: another adaptation, or another symbol."""
        before = {number: self.changed.get(number, set()) for number in changed}
        self.changed = {number: before[number] | one.where for number, one in changed.items()}
        return {number: one.text for number, one in changed.items() if one.where - before[number]}

    def arms(self, armed: Standing, made_ns: int) -> None:
        """This is armed now, unless it is `refused`."""
        self._armed_before, self.armed, self._made_ns = self.armed, armed, made_ns

    def refused(self, text: str) -> None:
        """Its last plan was not armed: what was armed before it is. One that wants to hear of its list does."""
        if self.given_ns and hasattr(self.strategy, "refused"):
            self.strategy.refused()
        self.error, self.given_ns, self.armed, self.again_ns = text, 0, self._armed_before, self._made_ns + _AGAIN_NS


class Outcome(NamedTuple):
    """What became of one strategy at one instant: a plan to be journaled and armed, or one with `keep` where nothing changes.

    The plan has all conditions, `rows` are the same compiled. `error` says why a strategy that was asked gave nothing that can be used;
    `warmup_left_s` is None for one that was not asked. `decision` is what follows from a failure, or that there is none any more.
    """

    planner: Planner
    plan: messages.Plan
    rows: bytes = b""
    error: str = ""
    warmup_left_s: float | None = None
    decision: Decision | None = None
    #: what this plan was changed by that the one before was not, in words by the number of the adaptation
    changed: Mapping[int, str] = {}
    #: what the strategy itself has to tell the journal
    events: Sequence[messages.Event] = ()

    def parts(self) -> Iterator[tuple[messages.Plan, bytes]]:
        """The plan and its rows as they travel: one message with no more conditions than it carries after the other."""
        most, size, count = messages.MAX_PLAN_CONDITIONS, l.CONDITION.itemsize, len(self.plan.conditions)
        whole = hashlib.sha256(self.rows).hexdigest() if count > most else ""
        for first in range(0, max(1, count), most):
            yield (msgspec.structs.replace(self.plan, part=first // most, more=first + most < count, whole=whole,
                                           conditions=self.plan.conditions[first: first + most]),
                   self.rows[first * size: (first + most) * size])


class Planning:
    """The strategies of a run, the candles that they look at, and when they are due. Raises StrategyError where one cannot be loaded.

    `while_working` is called during the work on what a strategy gave, never while the strategy itself is at work; `before_asking` before that.
    `may_wait` says whether time stands still meanwhile, as in lockstep: then one that waits for an answer from elsewhere is asked again with it.
    `plan_of` gives a plan of the journal by its number: the words of what is armed. `carries`: the candles are kept for a successor.
    """

    def __init__(self, memory: Memory, strategies: Sequence[str], settings: Settings, session_gap_s: int, log: logging.Logger,
                 while_working: Callable[[], None], recovery: Recovery | None = None,
                 before_asking: Callable[[Planner], None] = lambda planner: None, analysis: Analysis | None = None,
                 may_wait: Callable[[], bool] = lambda: False, limits: Limits | None = None, sources: Sequence[Source] = (),
                 plan_of: Callable[[int], messages.Plan | None] = lambda number: None,
                 carries: Carries = Carries.NOT) -> None:
        self._limits, self._armed = limits or Limits(), Armed(memory, plan_of)
        self._log, self._before_asking, self._may_wait, self._while_working = log, before_asking, may_wait, while_working
        names = [row["name"].decode() for row in memory.instruments.strategies]
        self.planners = [Planner(number, names[number] or name_of(spec), load(spec, settings, analysis), settings.interval_s,
                                 recovery or Recovery()) for number, spec in enumerate(strategies)]
        if len({planner.name for planner in self.planners}) < len(self.planners):
            raise StrategyError(f"strategies {', '.join(strategies)}: two of one name", "name each once; a class counts, not its file")
        # what is learned is not waited for longer than a minute, however seldom a strategy plans
        self.interval_ns = min(_LONGEST_NS, *(planner.interval_ns for planner in self.planners), settings.interval_s * 1_000_000_000)
        capacity = max(2, -(-settings.history_minutes * 60 // settings.candle_s))
        self.fold = candles.new_fold(memory, int(memory.board.run[0]["instruments"]), settings.candle_s, capacity, session_gap_s)
        self.carried = Carried(memory, self.fold, carries)
        self.fold = self.carried.fold
        self.view = View(memory, self.fold, settings.candle_s, Rates(sources, while_working))
        self._regimes = Regimes(self.view, (analysis or Analysis()).trade_timeframe_min)
        self._checker = Checker(self.view.facts, facts_by_symbol(self.view.instruments), len(memory.conditions.thresholds) // 2, while_working)
        #: quanta → units of the account currency
        self.quantum = 10.0 ** int(self.view.instruments[0]["quantum_exponent"]) if len(self.view.instruments) else 1.0

    def due_ns(self, event_ns: int) -> int:
        """The instant of the plan that is due before a tick of that time."""
        return event_ns // self.interval_ns * self.interval_ns

    def outcomes(self, due_ns: int, knowledge: Reader) -> Iterator[Outcome]:
        """Ask every strategy that is due, in the order of their numbers; the caller arms one before the next is asked.

        What a strategy has armed was planned with what was known then. Where that has changed it is due, and where it gives no list (it fails, is
        paused, would keep what it has), nothing of it is to be armed any more: it may be what has been shut. That holds until something else is
        armed indeed: a plan that recorder or sniper refuses, or do not answer, is made anew a little later.
        """
        market = self.view.market(due_ns)
        known, unread = self._known(due_ns, knowledge)
        for planner in self.planners:
            since_ns = due_ns - planner.planned_ns
            stale = since_ns > 0 and due_ns >= planner.again_ns and known is not None and self._is_outdated(planner, known, due_ns)
            wanted = stale or since_ns >= planner.interval_ns or (since_ns > 0 and due_ns % planner.interval_ns == 0)  # never twice for one instant
            error, left, decision, why, given = "", None, None, "not due", None
            changed: dict[int, Changed] = {}
            if wanted and not planner.errors.permits(due_ns):
                wanted, why = False, "stopped" if planner.errors.breaker.state == l.BREAKER_STOPPED else "paused after failures"
            if wanted:
                planner.planned_ns = due_ns
                self._before_asking(planner)
                try:
                    if known is None:
                        raise KnowledgeError(unread)
                    given, changed = self._ask(planner, market, due_ns, known, 0 if stale else planner.given_ns)
                    left = self._warmup(planner, market)
                except (KnowledgeError, StrategyError) as failure:
                    error = str(failure)
                    decision = planner.errors.failed(_kind_of(failure), error, due_ns)
                else:
                    decision = planner.errors.succeeded(due_ns)
                    if given is None:
                        planner.error, why = "", "nothing new"
            told = planner.strategy.take_events() if wanted and hasattr(planner.strategy, "take_events") else ()
            said = str(getattr(planner.strategy, "said", ""))[:_ERROR_CHARACTERS]
            why = f"error: {error}" if error else why
            if given is not None or stale:
                assert known is not None
                planner.given_ns = due_ns if given is not None else 0
                why = "" if given is not None else f"nothing is armed: something was learned, and there is no plan ({why})"
                given = given or Checked([], b"")
                planner.error, planner.conditions = error, given.conditions
                planner.arms(Standing(planner.given_ns, known.version, known.stamp(due_ns)), due_ns)
                fresh = planner.tell(changed)
                plan = messages.Plan(strategy=planner.name, due_ns=due_ns, next_due_ns=due_ns + self.interval_ns,
                                     why=why or f"{len(given.conditions)} conditions" + (f"; {said}" if said else ""),
                                     knowledge_version=known.version,
                                     exchange=str(getattr(planner.strategy, "exchange", ""))[:64], conditions=given.conditions)
                yield Outcome(planner, plan, given.rows, error, left, decision, fresh, told)
            else:
                planner.error = error or planner.error
                yield Outcome(planner, self.keep(planner, due_ns, why), b"", error, left, decision, {}, told)

    def _known(self, due_ns: int, reader: Reader) -> tuple[Snapshot | None, str]:
        """What is known, or why that cannot be read."""
        try:
            return reader.snapshot(due_ns), ""
        except KnowledgeError as error:
            return None, str(error)

    def _is_outdated(self, planner: Planner, known: Snapshot, due_ns: int) -> bool:
        """Whether something else is active by now than when it gave the list that is armed."""
        armed = planner.armed
        if armed.stamp < 0:  # of a list that a predecessor gave
            armed = planner.armed = armed._replace(stamp=known.stamp(armed.given_ns, armed.version))
        return armed.given_ns > 0 and known.stamp(due_ns) != armed.stamp

    def keep(self, planner: Planner, due_ns: int, why: str) -> messages.Plan:
        """The plan that changes nothing."""
        return messages.Plan(strategy=planner.name, due_ns=due_ns, next_due_ns=due_ns + self.interval_ns, keep=True, why=why)

    def _ask(self, planner: Planner, market: Any, due_ns: int, knowledge: Snapshot, planned_ns: int) -> tuple[Checked | None, dict[int, Changed]]:
        """What a strategy wants armed (None where it keeps what is) with what was learned put upon it, and by which adaptations that changed it.

        Raises StrategyError for whatever it raises or gives amiss.
        """
        portfolio = dataclasses.replace(self.view.portfolio(planner.number), planned_ns=planned_ns,
                                        armed=lambda: self._armed.of(planner.number, due_ns))
        limits = Caps(self._limits.max_symbol_exposure_bps, self._limits.max_order_value, portfolio.equity, portfolio.exposure,
                      _most(planner.strategy, "most_stop_bps"), _most(planner.strategy, "most_target_bps"))
        try:
            output = planner.strategy.plan(market, portfolio, knowledge)
            while self._may_wait() and getattr(planner.strategy, "waiting", False):
                self._while_working()
                time.sleep(_WAIT_S)
                later = planner.strategy.plan(market, portfolio, knowledge)
                output = output if later is None else later
        except (Exception, SystemExit) as error:
            self._log.warning("%s raised at %d", planner.name, due_ns, exc_info=True)
            raise StrategyError(f"{planner.name} raised {type(error).__name__}: {_words_of(error)}",
                                f"mend it{_place(error)}; logs/strategist.log has the whole stack") from error
        if output is None and planned_ns:
            return None, {}  # before the first list it is a forgotten `return`
        changed: dict[int, Changed] = {}

        def put_upon(conditions: list[messages.Condition]) -> list[messages.Condition]:
            try:
                found = enforced([self._named(one, market) for one in conditions], planner.name, knowledge, market, due_ns, limits)
            except ArithmeticError as error:  # a size or a level of a magnitude that nothing could be counted with
                raise StrategyError(f"a condition cannot be counted with: {error!r}", "give sizes and levels that a venue takes") from error
            changed.update(found.changed)
            return found.conditions

        try:
            return self._checker.checked(output, due_ns, put_upon), changed
        except StrategyError as error:
            raise StrategyError(f"{planner.name}: {error.text}", error.remedy) from None

    def _named(self, one: messages.Condition, market: Any) -> messages.Condition:
        """With the regime of its symbol where it names none. Raises StrategyError: what a library of numbers may raise ends no strategist."""
        if one.regime:
            return one
        try:
            return msgspec.structs.replace(one, regime=self._regimes.of(one.symbol, market))
        except Exception as error:
            self._log.warning("the regime of %s cannot be told", one.symbol, exc_info=True)
            raise StrategyError(f"the regime of {one.symbol} cannot be told: {_words_of(error)}", "name a regime in the condition itself") from error

    def _warmup(self, planner: Planner, market: Any) -> float:
        """Seconds until a strategy that says so is warm; what only informs must not fail a plan."""
        try:
            return float(max(0.0, min(1e9, planner.strategy.warmup_left_s(market))))
        except Exception:
            return 0.0


def decision_of(outcome: Outcome, wall_ns: int) -> messages.Event:
    """The journal's event of what follows from a strategy's failure, or of its end. The outcome has a decision."""
    assert outcome.decision is not None
    return event_of("strategist", "strategy_error" if outcome.error else "recovered", outcome.decision, wall_ns,
                    strategy=outcome.planner.name, due_ns=outcome.plan.due_ns)


def changes_of(outcome: Outcome, wall_ns: int) -> list[messages.Event]:
    """The journal's events of what was learned and has changed a plan for the first time."""
    return [messages.Event(source="strategist", kind="knowledge_applied", text=f"{outcome.planner.name}: {text}", wall_ns=wall_ns,
                           data={"strategy": outcome.planner.name, "adaptation": number, "due_ns": outcome.plan.due_ns})
            for number, text in outcome.changed.items()]


def _kind_of(failure: KnowledgeError | StrategyError) -> Kind:
    """What a strategy raised, else what it gave: nonsense is bad data."""
    if isinstance(failure, KnowledgeError):
        return Kind.GENERAL
    return classify(failure.__cause__) if failure.__cause__ is not None else Kind.DATA


def _most(strategy: Any, name: str) -> int:
    """How far a strategy lets learning move a level, in bps, if it says so."""
    most = getattr(strategy, name, 0)
    return most if isinstance(most, int) and most > 0 else 10_000


def _words_of(error: BaseException) -> str:
    """What an exception says, as text that can be written anywhere."""
    try:
        text = str(error)
    except Exception:  # a user's own __str__
        text = "it has no words"
    return text[:_ERROR_CHARACTERS].encode(errors="backslashreplace").decode()


def _place(error: BaseException) -> str:
    """Where an exception came from, in words."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" at line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
