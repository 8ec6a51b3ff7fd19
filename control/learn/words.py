"""The knowledge in words: answers to `trader-ctl knowledge`, `adaptations` and `why`, and the journal's event of a step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from control.learn import statistics
from control.learn.candidates import Candidate, concerns
from control.learn.exits import MARGIN_BPS, parts
from control.learn.gate import Adaptation
from control.learn.kinds import DIRECTIONS, FAMILIES, Claim
from control.learn.knowledge import Knowledge, StepRecord, Stood
from control.learn.learner import Learner
from control.learn.quick_update import FEW_TRADES
from control.learn.trade import Trade
from control.record.records import decimal_text
from ipc import messages

#: trades that an answer to `why` lists
_MOST_TRADES = 50


def event_of(step: StepRecord) -> messages.Event:
    """What the journal has of a step of an adaptation."""
    return messages.Event(source="reflection", kind="adaptation", text=step.text, wall_ns=time.time_ns(),
                          data={name: getattr(step, name) for name in step.__struct_fields__ if name != "why"})


def answer(query: messages.Query, store: Knowledge, learner: Learner, exponent: int) -> messages.Reply:
    """The reply to a query "knowledge", "adaptations" or "why"; a quantum of the account is 10^exponent."""
    match query.what:
        case "knowledge":
            return _knowledge(query, store, learner, exponent)
        case "adaptations":
            return messages.Answer(data={"version": learner.state.version}, rows=_adaptations(store, query.argument, exponent)[: query.limit])
        case _:
            return _why(query.argument, store, learner, exponent)


# ── knowledge ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _knowledge(query: messages.Query, store: Knowledge, learner: Learner, exponent: int) -> messages.Reply:
    """Without an argument what is known of every kind, and how the versions did; with a dimension (side, exit, …) figures by it."""
    learned, applied, state = store.learned(), store.applied(), learner.state
    data = {"version": state.version, "trades": learned.trades, "trades_since_look": state.since_look,
            "last_look_ns": state.last_look_ns if state.looks else 0, "applied": [applied.incarnation, applied.seq]}
    if query.argument and query.argument not in FAMILIES:
        if query.argument in statistics.DIMENSIONS:
            return messages.Answer(data=data, rows=statistics.by(query.argument, store.trades(), exponent)[: query.limit])
        if query.argument == "version":
            return messages.Answer(data=data, rows=statistics.by_version(store.trades(), exponent)[-query.limit:])
    rows = [row for row in _kinds(store, learner, exponent) if query.argument in ("", row["family"], row["value"])]
    if query.argument and not rows:
        return messages.Refused(code="unknown", text=f"nothing is known of {query.argument[:60]!r}",
                                remedy=f"ask for one of {', '.join((*statistics.DIMENSIONS, 'version'))}, or for a coin, strategy, pattern or hour")
    return messages.Answer(data=data, rows=rows[: query.limit])


def _kinds(store: Knowledge, learner: Learner, exponent: int) -> list[dict[str, Any]]:
    """A row for each kind of trades, by family and number of trades."""
    rows = []
    order = {family: place for place, family in enumerate(FAMILIES)}
    for (family, value), score in sorted(store.scores().items(), key=lambda item: (order[item[0][0]], -item[1].trades, item[0][1])):
        standing = [learner.standing[claim] for direction in DIRECTIONS[family] if (claim := Claim(family, value, direction)) in learner.standing]
        believed = {direction: learner.claims[claim].evidence.log_e for direction in DIRECTIONS[family]
                    if (claim := Claim(family, value, direction)) in learner.claims}
        direction, log_e = max(believed.items(), key=lambda item: item[1], default=("", 0.0))
        rows.append({
            "family": family, "value": value, "status": ", ".join(f"{one.action} ({one.stage})" for one in standing) or
            ("unknown" if score.trades < FEW_TRADES else "normal"),
            "trades": score.trades, "wins": score.wins, "mean_bps": round(score.mean_bps, 2), "average_win_bps": round(score.average_win_bps, 2),
            "average_loss_bps": round(score.average_loss_bps, 2), "trend_bps": round(score.trend_bps, 2), "streak": score.streak,
            "pnl": decimal_text(score.pnl, exponent), "fees": decimal_text(score.fees, exponent), "on_paper": score.paper_trades,
            "paper_bps": round(score.paper_bps, 2),
            "evidence": f"{direction} {_e(log_e)}" if direction else "", "confidence": _confidence(log_e),
            "avoided": _avoided(standing, exponent), "rests_on": f"{score.first}…{score.last}" if score.trades else ""})
    return rows + [_candidate_row(name, one, learner) for name, one in learner.state.candidates.items()]


def _candidate_row(name: str, one: Candidate, learner: Learner) -> dict[str, Any]:
    """A pattern that learning has made: its figures are of the trades since, beyond what its strategy wins in general."""
    claim = Claim("pattern", name, "wins")
    evidence, stood = learner.claims[claim].evidence, learner.standing.get(claim)
    untold = dict.fromkeys(("wins", "average_win_bps", "average_loss_bps", "trend_bps", "streak", "pnl", "fees", "on_paper", "paper_bps"))
    return {"family": "pattern", "value": name, "status": f"{stood.action} ({stood.stage})" if stood else "candidate", "trades": evidence.trades,
            "mean_bps": round(evidence.mean_bps, 2), **untold, "evidence": f"wins {_e(evidence.log_e)}", "confidence": _confidence(evidence.log_e),
            "avoided": "",
            "rests_on": f"made of {one.trades} trades, {one.wins} won, {one.mean_bps:+.1f} bps each: {one.first}…{one.last}"}


def _confidence(log_e: float) -> float:
    """1 − 1/e: without an edge evidence such as this, however often it is looked at, comes with a probability of 1/e at most."""
    return round(max(0.0, 1.0 - math.exp(-max(0.0, log_e))), 3)


def _avoided(standing: Iterable[Adaptation], exponent: int) -> str:
    """Loss that restrictions have avoided, in the account's currency; empty where they have kept nothing from being made."""
    kept = [one for one in standing if one.avoided_trades]
    return decimal_text(sum(one.avoided for one in kept), exponent) if kept else ""


# ── adaptations ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _adaptations(store: Knowledge, argument: str, exponent: int) -> list[dict[str, Any]]:
    rows = [_row(number, stood, exponent) for number, stood in sorted(store.adaptations().items(), reverse=True)]
    return [row for row in rows if argument in ("", str(row["number"]), row["stage"], row["value"], row["family"])]


def _row(number: int, stood: Stood, exponent: int) -> dict[str, Any]:
    one = stood.adaptation
    return {"number": number, "action": one.action, "family": one.family, "value": one.value, "direction": one.direction, "stage": one.stage,
            "size_scale": one.scale, "made_ns": one.made_ns, "since_ns": one.since_ns, "trades_before": one.trades,
            "before_bps": round(one.mean_bps, 2), "trades_since": one.since.trades, "since_bps": round(one.since.mean_bps, 2),
            "e_value": _e(one.log_e), "needed": _e(one.needed), "avoided_trades": one.avoided_trades, "avoided": decimal_text(one.avoided, exponent),
            "why": one.why}


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _won(row: dict[str, Any]) -> str:
    return "" if row["wins"] is None else f", {row['wins']} won"


def _measure(row: dict[str, Any]) -> str:
    """What the figures of a row of `knowledge` are: plain results, but for exits and candidates."""
    claim = Claim(row["family"], row["value"], "wins")
    return claim.measure if claim.family == "exits" or claim.is_candidate else "after costs"


def _why(argument: str, store: Knowledge, learner: Learner, exponent: int) -> messages.Reply:
    """Of an adaptation's number its way; of a position what led to it and what came of it; of anything else what is known of that kind: a value, or
    a family and a value (hour 14), as a number is an adaptation's where there is one."""
    number = int(argument) if argument.isascii() and argument.isdigit() and len(argument) < 20 else -1
    family, _, value = argument.partition(" ")
    if family not in FAMILIES or not value:
        family, value = "", argument
    kinds = [row for row in _kinds(store, learner, exponent) if family in ("", row["family"])
             and row["value"] == (f"{value:0>2}" if row["family"] == "hour" else value)]
    if (stood := store.adaptations().get(number)) is not None:
        return _why_adaptation(stood.adaptation, store, exponent, [f"{row['family']} {row['value']}" for row in kinds])
    if number > 0 and (trade := store.trade(number) or store.opening(number)) is not None:
        return messages.Answer(data={"text": _of_trade(trade)}, rows=[])
    if not kinds:
        return messages.Refused(code="unknown", text=f"nothing is known of {argument[:200]!r}",
                                remedy="name an adaptation (trader-ctl adaptations), a position (trader-ctl trades --json), or a kind "
                                       "(trader-ctl knowledge)")
    text = [f"{row['family']} {row['value']}: {row['trades']} trades{_won(row)}, {row['mean_bps']:+.1f} bps each {_measure(row)}; "
            f"evidence that it {row['evidence'] or 'does anything: none'} (1 is none at all); {row['status']}" for row in kinds]
    named = {(row["family"], row["value"]) for row in kinds}
    steps = [f"step {step.number}, version {step.version}: {step.text}" for step in store.steps() if (step.family, step.value) in named]
    return messages.Answer(data={"text": text + steps}, rows=[])


def _why_adaptation(one: Adaptation, store: Knowledge, exponent: int, also: Sequence[str]) -> messages.Reply:
    """`also`: kinds of trades that the same word means."""
    sense = {"loses": "lose", "wins": "win"}[one.direction]
    effect, claim = f"size × {one.scale:g}", f"trades of {one.family} {one.value} {sense}, after all costs"
    if one.claim.is_compared:
        claim = f"trades of {one.family} {one.value} make {'less' if one.direction == 'loses' else 'more'} than their strategy's in general"
    if one.family == "exits":
        variant = parts(one.value)[1]
        effect = f"{variant.level} at {variant.percent} % of its distance" + (f", size ÷ {variant.larger:g}" if variant.larger > 1 else "")
        claim = f"with this {variant.level} trades make more than {MARGIN_BPS:g} bps more than with the strategy's own; told by pairs"
    text = [f"adaptation {one.number}: {one.action} {one.claim.subject}, {one.stage.replace('_', ' ')}",
            f"claim: {claim}",
            f"evidence when it was promoted last: e-value {_e(one.log_e)}, {_e(one.needed)} were needed; {one.trades} trades, "
            f"{one.mean_bps:+.1f} bps each {one.claim.measure}",
            f"effect: {effect}" + (" (such entries are followed on paper only)" if one.scale == 0 else ""),
            f"since then: {one.since.trades} trades, {one.since.mean_bps:+.1f} bps each {one.claim.measure}"]
    if one.avoided_trades:
        text.append(f"kept from being made: {one.avoided_trades} trades, which would have {'lost' if one.avoided >= 0 else 'made'} "
                    f"{decimal_text(abs(one.avoided), exponent)} after fees on paper")
    text += [f"step {step.number}, version {step.version}: {step.text}" for step in store.steps() if step.adaptation == one.number]
    text += [f"{kind} is asked for by: trader-ctl why {kind}" for kind in also]
    trades = [trade for trade in store.trades() if trade.closed_ns >= one.from_ns
              and (trade.pair == one.value or concerns(one.claim, trade.kind, trade.opened_ns))]
    return messages.Answer(data={"text": text}, rows=[_trade_row(trade) for trade in reversed(trades[-_MOST_TRADES:])])


def _trade_row(trade: Trade) -> dict[str, Any]:
    return {"closed_ns": trade.closed_ns, "position": str(trade.position_id), "symbol": trade.symbol, "side": trade.side,
            "strategy": trade.strategy, "net_bps": round(trade.net_bps, 2), "exit": trade.exit_reason, "made": "" if trade.made else "on paper",
            "version": trade.version}


def _of_trade(trade: Trade) -> list[str]:
    text = [f"position {trade.position_id}: {trade.side} {trade.symbol} by {trade.strategy}" + ("" if trade.made else ", on paper only"),
            f"plan {trade.plan_seq}, condition {trade.condition_id}: {trade.why}"]
    if trade.exchange:
        text.append(f"its plan came with a model's answer to prompt {trade.exchange[:16]}")
    if trade.pattern or trade.regime:
        text.append(f"pattern {trade.pattern or 'none'}, regime {trade.regime or 'none'}")
    if trade.distance_bps is not None:
        text.append(f"its level was {trade.distance_bps:.1f} bps away when it was planned, confidence {trade.confidence:g}")
    if trade.features:
        text.append("at the entry: " + ", ".join(f"{name} {value:.4g}" for name, value in trade.features.items()))
    if trade.variant_bps is not None:
        whose = "it had the variant's exits" if trade.adapted else "its twin had them, on paper"
        text.append(f"{trade.variant}: {trade.variant_bps:+.1f} bps more than with the strategy's own exits ({whose})")
    slippage = [f"{what} {value:+.2f} bps" for what, value in (("entry", trade.entry_slippage_bps), ("exit", trade.exit_slippage_bps))
                if value is not None]
    if slippage:
        text.append("slippage: " + ", ".join(slippage))
    if trade.closed_ns:
        text.append(f"{trade.entry_price:g} → {trade.exit_price:g} by {trade.exit_reason}, {trade.net_bps:+.1f} bps after fees")
    after = [f"{minutes} min {value:+.1f} bps" for minutes, value in ((5, trade.after_5m_bps), (15, trade.after_15m_bps)) if value is not None]
    if after:
        text.append("the price afterwards, in the trade's direction: " + ", ".join(after))
    text.append(f"made with version {trade.version} of the knowledge; counts for " + ", ".join(f"{family} {value}"
                                                                                              for family, value in trade.values.items()))
    return text


def _e(log_e: float) -> float:
    """An e-value to read: three digits."""
    return float(f"{math.exp(min(log_e, 100.0)):.3g}")
