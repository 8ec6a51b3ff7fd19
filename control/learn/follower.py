"""From the records of the order ring to what is known: openings, contexts, closings and prices afterwards, in their order. No store, no process.

```
 LIFECYCLE opening → open, PAPER_OPENED in    a trade is open: it speaks to claims from now on (control/learn/learner.py)
 CONTEXT                                      what the market was like
 NEW of an exit                               the price at which the exit was decided
 CLOSED, PAPER_CLOSED                         its result: scores, evidence, and a look at everything where one is due
 AFTERWARDS                                   what the price did then
```

Whoever follows keeps `changes` and the record's position in one transaction, so each trade counts exactly once, whenever it dies.
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct

from control.learn.evidence import span_bps
from control.learn.gate import Step
from control.learn.kinds import Family
from control.learn.learner import Learner, Opened
from control.learn.quick_update import Score, updated
from control.learn.trade import Trade
from control.record.records import InstrumentFact
from ipc import layout as l
from ipc.messages import Condition

#: kinds of records that say something of a trade
KINDS: Final = (l.NEW, l.LIFECYCLE, l.CONTEXT, l.CLOSED, l.AFTERWARDS, l.PAPER_OPENED, l.PAPER_CLOSED)
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
        self._incarnation = 0

    def take(self, incarnation: int, row: Any) -> None:
        """The next record: a row of layout.INTENT."""
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._drop_papers(incarnation)
        match int(row["kind"]):
            case l.LIFECYCLE if row["leg"] == l.POS_OPENING and row["code"] == l.POS_OPEN:
                self._opened(incarnation, row, made=True)
            case l.PAPER_OPENED if row["code"] == l.POS_MONITORING:
                self._opened(incarnation, row, made=False)
            case l.CONTEXT:
                self._context(row)
            case l.NEW if row["purpose"] == l.EXIT:
                if (trade := self._open(int(row["position_id"]))) is not None:
                    trade.exit_reference = self._price(incarnation, row, "reference_price")
            case l.CLOSED | l.PAPER_CLOSED:
                self._closed(incarnation, np.array(row).view(l.TRADE)[()])
            case l.AFTERWARDS:
                self._afterwards(row)

    def look(self, now_ns: int) -> list[Step]:
        """Decide on everything now."""
        steps = self.learner.look(now_ns)
        self.changes.steps += steps
        return steps

    def _drop_papers(self, incarnation: int) -> None:
        """A run begins with no trades on paper: how those that were open would have ended nobody will tell."""
        for position_id in [number for number, one in self.learner.open.items() if not one.trade.made and number >> 40 < incarnation]:
            self.learner.drop(position_id)
            self.changes.opening[position_id] = None

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
                      side=_SIDES[int(row["side"])], made=made, condition_id=condition_id)
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
        trade = self._open(position_id) or self._new(incarnation, row, made)
        if trade is None:
            return
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
        for key in trade.values.items():
            known = self.changes.scores.get(key) or self._kept.score(key) or Score()
            self.changes.scores[key] = updated(known, trade)
        self.changes.opening[position_id] = None
        self.changes.trades[position_id] = trade
        self.changes.closed += made
        self.changes.last_ns = max(self.changes.last_ns, trade.closed_ns)
        self.changes.steps += self.learner.closed(position_id, trade.net_bps, trade.closed_ns)

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
