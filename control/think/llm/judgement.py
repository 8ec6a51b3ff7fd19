"""What becomes of each proposal of an LLM: a condition as proposed, a clamped one, or a refusal with its reason. Pure; nothing in it is trusted.

Knowledge and limits are held here whatever the reply says. The sniper's gate holds the limits once more at the tick that fires; here a proposal that
it would refuse anyway is refused where the reason can still be told to a person, and to the model in its next prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import msgspec
from msgspec import Struct

from control.think.llm.briefing import clean
from control.think.llm.config import Llm
from control.think.llm.contract import NEVER_NEGATIVE, WHY_MOST, Proposal, Reply, Room, Side
from control.think.strategy import Clause, Condition, Facts, equity_bps
from hotpath.config import Limits

#: name under which the LLM's conditions are traded
STRATEGY = "llm"


@dataclass(frozen=True)
class Mark:
    """What levels are bps from, as the prompt told it: a price, the spread, and the costs of a round trip (both fees and the spread)."""

    price: float
    spread_bps: float = 0.0
    costs_bps: float = 0.0


@dataclass(frozen=True)
class Grounds:
    """What proposals are judged by. `marks` has exactly the symbols of the prompt; `newest` the last prices now, where they are known."""

    facts: Mapping[str, Facts]
    marks: Mapping[str, Mark]
    equity: float
    settings: Llm = field(default_factory=Llm)
    limits: Limits = field(default_factory=Limits)
    strategy: str = STRATEGY
    held: Mapping[str, Side] = field(default_factory=dict)
    #: position and working orders by symbol, in bps of equity
    exposure_bps: Mapping[str, float] = field(default_factory=dict)
    #: symbols or coins that are left alone
    blacklist: frozenset[str] = frozenset()
    newest: Mapping[str, float] = field(default_factory=dict)
    #: (target − costs) / (stop + costs) that is asked of a proposal
    least_reward_risk: float = 0.0


def barred(symbol: str, strategy: str, limits: Limits) -> str:
    """Why the limits let a strategy enter nothing in a symbol, whatever is proposed; "" where they do not."""
    if symbol in limits.restricted_symbols:
        return f"{symbol} is in limits.restricted_symbols"
    if symbol not in limits.permissions.get(strategy, (symbol,)):
        return f"limits.permissions does not let {strategy} open positions in {symbol}"
    return ""


def rooms(symbols: Iterable[str], grounds: Grounds) -> list[Room]:
    """What proposals for these symbols may say at all: those that have a mark, and of which something could pass."""
    found = []
    for symbol in symbols:
        facts, mark = grounds.facts.get(symbol), grounds.marks.get(symbol)
        if facts is None or mark is None or not all(map(math.isfinite, (mark.price, mark.spread_bps, mark.costs_bps))) or not grounds.equity > 0:
            continue
        if symbol in grounds.held or barred(symbol, grounds.strategy, grounds.limits):
            continue
        least_value = max(float(facts.min_notional), float(facts.lot_size) * mark.price)
        room = Room(symbol, facts.short_allowed, max(1, math.ceil(least_value / grounds.equity * 10_000)), math.floor(mark.spread_bps) + 1,
                    max(math.floor(mark.costs_bps) + 1, _least_target_bps(math.floor(mark.spread_bps) + 1, mark, grounds)))
        settings = grounds.settings
        if (room.least_size_bps <= settings.most_size_bps and room.least_stop_bps <= settings.most_stop_bps
                and room.least_target_bps <= settings.most_target_bps):
            found.append(room)
    return found


class Verdict(Struct, frozen=True, kw_only=True):
    """What became of a proposal. `text` says what was clamped, or why it was refused; a refused one has no condition."""

    outcome: Literal["accepted", "clamped", "refused"]
    proposal: Proposal
    text: str = ""
    condition: Condition | None = None


class _Refused(Exception):
    """A proposal that is not armed; the text is the reason."""


def judge(reply: Reply, grounds: Grounds) -> list[Verdict]:
    """A verdict on each proposal, in their order."""
    verdicts: list[Verdict] = []
    armed: set[tuple[str, str, str | None]] = set()
    for proposal in reply.proposals:
        try:
            if reply.decision == "NO_TRADE":
                raise _Refused("the decision is NO_TRADE")
            condition, clamped = _condition(proposal, grounds)
            key = (condition.symbol, condition.direction, condition.level)
            if key in armed:
                raise _Refused(f"another proposal waits for the same level of {condition.symbol}")
            armed.add(key)
        except _Refused as refused:
            verdicts.append(Verdict(outcome="refused", proposal=proposal, text=str(refused)))
        else:
            verdicts.append(Verdict(outcome="clamped" if clamped else "accepted", proposal=proposal, text="; ".join(clamped), condition=condition))
    return verdicts


def _condition(proposal: Proposal, grounds: Grounds) -> tuple[Condition, list[str]]:
    """The condition and what was clamped. Raises _Refused."""
    facts, mark = grounds.facts.get(proposal.symbol), grounds.marks.get(proposal.symbol)
    if proposal.symbol in grounds.blacklist or proposal.symbol.partition("/")[0] in grounds.blacklist:
        raise _Refused(f"{clean(proposal.symbol)} is blacklisted")
    if proposal.symbol in grounds.facts and (why := barred(proposal.symbol, grounds.strategy, grounds.limits)):
        raise _Refused(why)
    if proposal.symbol in grounds.held:
        raise _Refused(f"a position in {proposal.symbol} is open")
    if facts is None or mark is None:
        raise _Refused(f"{clean(proposal.symbol)} is not one of the symbols of the prompt")
    for reason in _faults(proposal, grounds, facts, mark):
        raise _Refused(reason)
    level = _level(proposal, facts, mark, grounds.newest.get(proposal.symbol))
    size, clamped = _size(proposal, grounds, facts, float(level))
    minutes = min(proposal.valid_minutes, grounds.settings.most_valid_minutes)
    if minutes < proposal.valid_minutes:
        clamped.append(f"valid_minutes {proposal.valid_minutes} → {minutes}: llm.most_valid_minutes")
    condition = Condition(
        symbol=proposal.symbol, side=proposal.side, direction=proposal.direction, level=level, size=equity_bps(size),
        confidence=proposal.confidence_bps / 10_000, stop_bps=proposal.stop_bps, target_bps=proposal.target_bps, valid_for_s=minutes * 60,
        clauses=[Clause(feature=clause.feature, op=clause.op, value=float(clause.value)) for clause in proposal.clauses],
        why=f"{grounds.strategy}: {clean(proposal.why, WHY_MOST) or 'no reason given'}")
    try:
        return msgspec.convert(msgspec.to_builtins(condition), Condition), clamped  # constructors check nothing; converting does
    except msgspec.ValidationError as error:
        raise _Refused(f"it makes no condition: {error}") from None


def _faults(proposal: Proposal, grounds: Grounds, facts: Facts, mark: Mark) -> Iterator[str]:
    """Every reason to refuse a proposal that needs no price."""
    settings, limits, symbol = grounds.settings, grounds.limits, proposal.symbol
    if limits.min_confidence is None:
        yield "limits.min_confidence is not set, so nothing is entered"
    elif proposal.confidence_bps < round(limits.min_confidence * 10_000):
        yield f"confidence_bps {proposal.confidence_bps} is below {round(limits.min_confidence * 10_000)}, limits.min_confidence"
    if proposal.side == "sell" and not facts.short_allowed:
        yield f"{symbol} is spot and cannot be sold short"
    if proposal.level_bps * (1 if proposal.direction == "up" else -1) <= 0:
        yield f"level_bps {proposal.level_bps} lies on the wrong side of the mark for a price that goes {proposal.direction}"
    if abs(proposal.level_bps) > settings.most_level_bps:
        yield f"level_bps {proposal.level_bps} is farther from the mark than {settings.most_level_bps}, llm.most_level_bps"
    if proposal.stop_bps == 0:
        yield "it has no stop"
    if proposal.stop_bps > settings.most_stop_bps:
        yield f"stop_bps {proposal.stop_bps} is more than {settings.most_stop_bps}, llm.most_stop_bps"
    if not proposal.stop_bps > mark.spread_bps:
        yield f"stop_bps {proposal.stop_bps} lies within the spread of {mark.spread_bps:.1f} bps"
    if not proposal.target_bps > mark.costs_bps:
        yield f"target_bps {proposal.target_bps} does not pay the costs of {mark.costs_bps:.1f} bps"
    worth = (proposal.target_bps - mark.costs_bps) / (proposal.stop_bps + mark.costs_bps) if proposal.stop_bps + mark.costs_bps else math.inf
    if worth < grounds.least_reward_risk:
        yield (f"target {proposal.target_bps} and stop {proposal.stop_bps} bps with costs of {mark.costs_bps:.1f} bps bring {worth:.2f} "
               f"of what is at risk, less than {grounds.least_reward_risk:g}")
    if proposal.target_bps > settings.most_target_bps:
        yield f"target_bps {proposal.target_bps} is more than {settings.most_target_bps}, llm.most_target_bps"
    if proposal.valid_minutes == 0:
        yield "it is valid for no time"
    for one in proposal.clauses:
        if one.op == "<" and one.value <= 0 and one.feature in NEVER_NEGATIVE:
            yield f"its clause {one.feature} < {one.value} is never true"
    for above in proposal.clauses:
        if any(above.op == ">" and below.op == "<" and above.feature == below.feature and above.value >= below.value for below in proposal.clauses):
            yield f"its clauses about {above.feature} are never true together"


def _least_target_bps(stop_bps: int, mark: Mark, grounds: Grounds) -> int:
    """The nearest target that could be worth a stop so far away, rather one too near than one too far: each is judged by itself."""
    return math.ceil(grounds.least_reward_risk * (stop_bps + mark.costs_bps) + mark.costs_bps - 1e-9)


def _level(proposal: Proposal, facts: Facts, mark: Mark, newest: float | None) -> str:
    """The level as a decimal string, rounded away from the mark. Raises _Refused."""
    up = proposal.direction == "up"
    try:
        text = facts.price_text(mark.price * (1 + proposal.level_bps / 10_000), "up" if up else "down")
    except (ValueError, ArithmeticError):
        raise _Refused(f"the mark of {proposal.symbol} is {mark.price}, which is no price") from None
    level = float(text)
    if level <= mark.price if up else level >= mark.price:
        raise _Refused(f"a tick of {facts.tick_size} is too coarse for a level {proposal.level_bps} bps from {mark.price}")
    if newest is not None and (level <= newest if up else level >= newest):
        raise _Refused(f"the price has passed the level {text} meanwhile: it is {newest}")
    return text


def _size(proposal: Proposal, grounds: Grounds, facts: Facts, level: float) -> tuple[int, list[str]]:
    """The size in bps of equity, and why it is smaller than proposed. Raises _Refused."""
    limits, symbol = grounds.limits, proposal.symbol
    if not (math.isfinite(grounds.equity) and grounds.equity > 0):
        raise _Refused(f"the equity is {grounds.equity}, of which there is no share")
    if limits.max_symbol_exposure_bps is None or limits.max_order_value is None:
        raise _Refused("limits.max_symbol_exposure_bps or limits.max_order_value is not set, so nothing is entered")
    bounds = [(float(grounds.settings.most_size_bps), "llm.most_size_bps"),
              (limits.max_symbol_exposure_bps - grounds.exposure_bps.get(symbol, 0.0), "limits.max_symbol_exposure_bps"),
              (limits.max_order_value / grounds.equity * 10_000, "limits.max_order_value")]
    size, clamped = float(proposal.size_bps), list[str]()
    for most, name in bounds:
        if size > most:
            clamped.append(f"size_bps {size:.0f} → {max(0, math.floor(most))}: {name}")
            size = max(0, math.floor(most))
    value, least = float(grounds.equity * size / 10_000), max(facts.min_notional, facts.lot_size * Decimal(repr(level)))
    if size < 1 or Decimal(repr(value)) < least:
        text = f"{value:.2f} is too small: the least order of {symbol} is {least:.2f}"
        raise _Refused(f"{text} ({'; '.join(clamped)})" if clamped else text)
    return int(size), clamped
