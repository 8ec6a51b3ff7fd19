"""From the records of the order ring to what is known: openings, contexts, closings and prices afterwards, in their order. No store, no process.

```
 LIFECYCLE opening → open, PAPER_OPENED in    a trade is open: it speaks to claims from now on (control/learn/learner.py)
 PAPER_OPENED of a twin                       a pair is open: what it compares is asked from now on (control/learn/exits.py)
 CONTEXT                                      what the market was like
 NEW of an exit                               the price at which the exit was decided
 CLOSED, PAPER_CLOSED                         its result: scores, evidence, and a look at everything where one is due
 AFTERWARDS                                   what the price did then
```

Whoever follows keeps `changes` and the record's position in one transaction, so each trade counts exactly once, whenever it dies.

Trades on paper go on over a start, as positions do, but for those that could not be restored (control/record/restore.py). Such a one is known to be
gone when another begins in its place. Nobody will tell how it would have ended, and that it was still open says something of it: what ends soon is
told, what lasts is not. So it is not left out, but counts as lost by the gambler (control/learn/evidence.py), whichever way it was going.
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from control.learn.evidence import span_bps
from control.learn.exits import OWN_EXITS, compared, pair_span_bps
from control.learn.gate import Step
from control.learn.kinds import Family
from control.learn.learner import Learner, Opened
from control.learn.quick_update import Score, updated
from control.learn.trade import Trade
from control.record.records import InstrumentFact
from ipc import layout as l
from ipc.messages import Condition

#: kinds of records that say something of a trade, and plans, which come also where no trade does: a look is due after some time, too
KINDS: Final = (l.NEW, l.LIFECYCLE, l.CONTEXT, l.CLOSED, l.AFTERWARDS, l.PAPER_OPENED, l.PAPER_CLOSED, l.SWAPPED)
_SIDES: Final = {l.BUY: "buy", l.SELL: "sell"}

ScoreKey = tuple[Family, str]


class LookUp(Protocol):
    """What the journal knows."""

    def fact(self, incarnation: int, instrument: int) -> InstrumentFact:
        """An instrument; its id is negative where it is not known."""

    def strategy(self, incarnation: int, strategy: int) -> str:
        """A strategy's name."""

    def condition(self, condition_id: int) -> Condition | None:
        """The condition of an id."""

    def exchange(self, condition_id: int) -> str:
        """Hash of the prompt that its plan came of; empty where no model was asked."""

    def entry(self, position_id: int) -> Any:
        """The NEW record (layout.INTENT) that a position began with; None where it is not there."""


class Kept(Protocol):
    """What the store has."""

    def score(self, key: ScoreKey) -> Score | None:
        """A score."""

    def opening(self, position_id: int) -> Trade | None:
        """A trade that is open."""

    def trade(self, position_id: int) -> Trade | None:
        """A trade that has closed."""


class Changes(Struct):
    """Everything that some records have changed beside the learner's own state. None is gone."""

    scores: dict[ScoreKey, Score]
    opening: dict[int, Trade | None]
    trades: dict[int, Trade]
    steps: list[Step]
    #: closed ones that were made; the event time of the last one
    closed: int = 0
    last_ns: int = 0


class Follower:
    """Takes one record after the other. A record that cannot be understood is passed over with a reason in `passed_over`."""

    def __init__(self, learner: Learner, look_up: LookUp, kept: Kept) -> None:
        self.learner, self._look_up, self._kept = learner, look_up, kept
        self.changes = Changes({}, {}, {}, [])
        self.passed_over: list[str] = []

    def take(self, incarnation: int, row: Any) -> None:
        """The next record: a row of layout.INTENT."""
        if int(row["kind"]) == l.PAPER_OPENED:
            self._lose_others(incarnation, row)
        match int(row["kind"]):
            case l.LIFECYCLE if row["leg"] == l.POS_OPENING and row["code"] == l.POS_OPEN:
                self._opened(incarnation, row, made=True)
            case l.LIFECYCLE if row["flags"] == l.ADJUST_OPERATOR:
                self._adjusted(int(row["position_id"]))
            case l.PAPER_OPENED if row["order_seq"]:
                self._twin_opened(incarnation, row)
            case l.PAPER_OPENED if row["code"] == l.POS_MONITORING:
                self._opened(incarnation, row, made=False)
            case l.CONTEXT:
                self._context(row)
            case l.NEW if row["purpose"] == l.EXIT:
                if (trade := self._open(int(row["position_id"]))) is not None:
                    trade.decided(int(row["leg"]), int(row["lots"]), self._price(incarnation, row, "reference_price"))
            case l.CLOSED | l.PAPER_CLOSED:
                self._closed(incarnation, np.array(row).view(l.TRADE)[()])
            case l.AFTERWARDS:
                self._afterwards(row)
        self.learner.passes(int(row["event_ns"]))

    def look_if_due(self) -> list[Step]:
        """Decide on everything, if that is due."""
        steps = self.learner.look_if_due()
        self.changes.steps += steps
        return steps

    def look(self, now_ns: int) -> list[Step]:
        """Decide on everything now."""
        steps = self.learner.look(now_ns)
        self.changes.steps += steps
        return steps

    def _lose_others(self, incarnation: int, row: Any) -> None:
        """A symbol and strategy have one trade on paper at a time: what was open there before is open no more, and nobody has told its end. A twin
        that has a result and waits for its position is another matter."""
        symbol = self._look_up.fact(incarnation, int(row["instrument"])).symbol
        strategy, position_id = self._look_up.strategy(incarnation, int(row["strategy"])), int(row["position_id"])
        for number, one in list(self.learner.open.items()):
            if one.trade.made or number == position_id or one.trade.kind.symbol != symbol or one.trade.kind.strategy != strategy:
                continue
            twin = self.changes.opening[number] if number in self.changes.opening else self._kept.opening(number)
            if twin is None or not twin.closed_ns:
                self.learner.lose(number)
                self.changes.opening[number] = None

    # ── one kind after the other ─────────────────────────────────────────────────────────────────────────────────────
    def _opened(self, incarnation: int, row: Any, made: bool) -> None:
        trade = self._new(incarnation, row, made)
        if trade is None:
            return
        position_id, entry = trade.position_id, self._look_up.entry(int(row["position_id"])) if made else None
        if made:
            reference = 0.0 if entry is None else self._price(incarnation, entry, "reference_price")
        else:
            reference = self._price(incarnation, row, "value")
            score = self._score(("coin", trade.symbol))  # it meets no book, so what trades of its coin have slipped is put upon it
            trade.assumed_slippage_bps = max(0.0, score.slippage_bps / score.slipped) if score.slipped else 0.0
        trade.opened_ns, trade.entry_price = int(row["event_ns"]), reference
        stop, target = self._price(incarnation, row, "limit_price"), self._price(incarnation, row, "reference_price")
        trade.stop_bps, trade.target_bps = (_apart_bps(level, reference) for level in (stop, target))
        trade.span_bps = span_bps(trade.stop_bps, trade.target_bps)
        self.learner.opened(position_id, Opened(kind=trade.kind, opened_ns=trade.opened_ns, span_bps=trade.span_bps, made=made))
        trade.version = self.learner.state.version
        self.changes.opening[position_id] = trade

    def _new(self, incarnation: int, row: Any, made: bool) -> Trade | None:
        fact = self._look_up.fact(incarnation, int(row["instrument"]))
        position_id, condition_id = int(row["position_id"]), int(row["condition_id"])
        if fact.id < 0 or int(row["side"]) not in _SIDES:
            self.passed_over.append(f"position {position_id}: instrument {int(row['instrument'])} is unknown")
            return None
        trade = Trade(position_id=position_id, symbol=fact.symbol, strategy=self._look_up.strategy(incarnation, int(row["strategy"])),
                      side=_SIDES[int(row["side"])], made=made, condition_id=condition_id, plan_seq=condition_id >> l.PLAN_SHIFT,
                      exchange=self._look_up.exchange(condition_id))
        if (condition := self._look_up.condition(condition_id)) is not None:
            trade.pattern, trade.regime, trade.why, trade.confidence = condition.pattern, condition.regime, condition.why, condition.confidence
            if condition.funding_bps is not None:
                trade.features["funding_bps"] = condition.funding_bps
            if condition.mark is not None and condition.level is not None:
                trade.distance_bps = _apart_bps(float(condition.level), float(condition.mark))
        return trade

    def _context(self, row: Any) -> None:
        if (trade := self._open(int(row["position_id"]))) is not None:
            context = np.array(row).view(l.ENTRY_CONTEXT)[()]
            values = [*context["features"].tolist(), *context["more_features"].tolist()]
            trade.features |= {l.FEATURES[feature]: value for feature, value in zip(l.CONTEXT_FEATURES, values, strict=True) if math.isfinite(value)}

    def _closed(self, incarnation: int, row: Any) -> None:
        position_id, made = int(row["position_id"]), int(row["kind"]) == l.CLOSED
        trade = self._open(position_id) or (self._new(incarnation, row, made) if made else None)
        if trade is None:
            return  # a twin whose pair is none any more, too
        fact = self._look_up.fact(incarnation, int(row["instrument"]))
        decided = trade.entry_price
        trade.opened_ns, trade.closed_ns = int(row["opened_ns"]), int(row["event_ns"])
        trade.entry_price, trade.exit_price = (float(fact.price_text(int(row[name]))) for name in ("entry_price", "exit_price"))
        trade.amount, trade.exit_reason = float(fact.size_text(int(row["lots"]))), l.EXIT_REASONS[int(row["exit_reason"])]
        trade.pnl_quanta, trade.fees_quanta = int(row["pnl"]), int(row["fees"])
        value = int(row["entry_price"]) * int(row["lots"]) * fact.value_quanta
        trade.net_bps = 1e4 * trade.pnl_quanta / value if value > 0 else 0.0
        if made and decided > 0:
            trade.entry_slippage_bps = trade.sign * 1e4 * (trade.entry_price / decided - 1)
        if made and trade.exit_reference > 0:
            trade.exit_slippage_bps = -trade.sign * 1e4 * (trade.exit_price / trade.exit_reference - 1)
        trade.net_bps -= trade.assumed_slippage_bps
        trade.pnl_quanta -= round(value * trade.assumed_slippage_bps / 1e4)
        if trade.twin and not made:
            self._one_of_pair_closed(trade.twin, position_id)
            return
        for key in trade.values.items():
            self._count(key, trade)
        self.changes.opening[position_id] = None
        self.changes.trades[position_id] = trade
        self.changes.closed += made
        self.changes.last_ns = max(self.changes.last_ns, trade.closed_ns)
        if made:
            self.learner.remember(trade.kind, trade.opened_ns, trade.closed_ns, position_id, trade.net_bps)
        self.learner.closed(position_id, trade.net_bps, trade.closed_ns, trade.pnl_quanta)
        if trade.twin:
            self._one_of_pair_closed(position_id, trade.twin)

    def _score(self, key: ScoreKey) -> Score:
        return self.changes.scores.get(key) or self._kept.score(key) or Score()

    def _count(self, key: ScoreKey, trade: Trade) -> None:
        self.changes.scores[key] = updated(self._score(key), trade)

    # ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def _twin_opened(self, incarnation: int, row: Any) -> None:
        condition, base = self._look_up.condition(int(row["condition_id"])), self._open(int(row["order_seq"]))
        what = compared(condition.twin_stop_pct, condition.twin_target_pct) if condition is not None else None
        if base is None or what is None or (twin := self._new(incarnation, row, made=False)) is None:
            return
        entry, stop, target = (self._price(incarnation, row, name) for name in ("value", "limit_price", "reference_price"))
        twin.opened_ns, twin.entry_price = int(row["event_ns"]), entry
        twin.stop_bps, twin.target_bps = _apart_bps(stop, entry), _apart_bps(target, entry)
        twin.span_bps = pair_span_bps((base.stop_bps, twin.stop_bps), (base.target_bps, twin.target_bps))
        twin.twin, base.twin, base.variant, base.adapted = base.position_id, twin.position_id, what.variant.name, what.adapted
        self.learner.opened(twin.position_id, Opened(kind=twin.kind, opened_ns=twin.opened_ns, span_bps=twin.span_bps, made=False,
                                                     exits=base.pair))
        self.changes.opening[twin.position_id] = twin

    def _adjusted(self, position_id: int) -> None:
        """A person has moved a level of a position: as long as its twin is open, too, both are worth the same, and the pair is over."""
        if (base := self._open(position_id)) is not None and base.twin and (twin := self._open(base.twin)) is not None and not twin.closed_ns:
            self._drop_pair(base.twin)

    def _drop_pair(self, twin_id: int) -> None:
        if twin_id in self.learner.open:
            self.learner.drop(twin_id)
        self.changes.opening[twin_id] = None

    def _one_of_pair_closed(self, base_id: int, twin_id: int) -> None:
        """The first of the two waits for the other. Where it is ended by a person or the end of the data, both are worth the same until then."""
        base, twin = self._open(base_id) or self.changes.trades.get(base_id) or self._kept.trade(base_id), self._open(twin_id)
        if base is None or twin is None:
            return
        if not base.closed_ns or not twin.closed_ns:
            if (base if base.closed_ns else twin).exit_reason not in OWN_EXITS:
                self._drop_pair(twin_id)
            return
        more_bps = twin.net_bps - base.net_bps - (base.exit_slippage_bps or 0.0)
        base.variant_bps = -more_bps if base.adapted else more_bps
        quanta = abs((base.pnl_quanta or twin.pnl_quanta) / (base.net_bps or twin.net_bps or 1.0))
        now_ns = max(base.closed_ns, twin.closed_ns)
        self._count(("exits", base.pair), msgspec.structs.replace(
            base, pnl_quanta=round(base.variant_bps * quanta), fees_quanta=0, net_bps=base.variant_bps, closed_ns=now_ns))
        self.changes.trades[base_id], self.changes.opening[twin_id] = base, None
        self.learner.closed(twin_id, base.variant_bps, now_ns)

    def _afterwards(self, row: Any) -> None:
        position_id = int(row["position_id"])
        trade = self.changes.trades.get(position_id) or self._kept.trade(position_id)
        price, exit_price = int(row["reference_price"]), int(row["limit_price"])
        if trade is None or price <= 0 or exit_price <= 0:
            return
        moved_bps = trade.sign * 1e4 * (price / exit_price - 1)
        if int(row["code"]) == 5:
            trade.after_5m_bps = moved_bps
        else:
            trade.after_15m_bps = moved_bps
        self.changes.trades[position_id] = trade

    def _open(self, position_id: int) -> Trade | None:
        """A trade that is open, to be changed."""
        trade = self.changes.opening[position_id] if position_id in self.changes.opening else self._kept.opening(position_id)
        if trade is not None:
            self.changes.opening[position_id] = trade
        return trade

    def _price(self, incarnation: int, row: Any, field: str) -> float:
        return float(self._look_up.fact(incarnation, int(row["instrument"])).price_text(int(row[field])))

    def take_changes(self) -> Changes:
        """What has changed since; to be stored in one transaction with the learner's."""
        taken, self.changes = self.changes, Changes({}, {}, {}, [])
        return taken


def _apart_bps(level: float, price: float) -> float:
    """Distance of a level from a price; 0 without one of them."""
    return abs(level / price - 1) * 1e4 if level > 0 and price > 0 else 0.0


def relevant(rows: np.ndarray[Any, Any], incarnations: np.ndarray[Any, Any]) -> list[tuple[int, Any]]:
    """(incarnation, row) of the records that say something of a trade."""
    chosen = np.flatnonzero(np.isin(rows["kind"], KINDS))
    return [(int(incarnations[place]), rows[place]) for place in chosen.tolist()]
