"""What is known as of one instant, for one plan: records of kinds of trades, and what is active. The strategist's side of the knowledge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import lmdb

from control.learn.candidates import concerns, names_a_time, part_of
from control.learn.follower import ScoreKey
from control.learn.gate import Adaptation
from control.learn.kinds import Kind, combined, day_of, hour_of
from control.learn.knowledge import Knowledge, KnowledgeError
from control.learn.quick_update import FEW_TRADES, Score
from control.learn.trade import Trade
from control.think.strategy import CoinStatus
from hotpath import durable

#: status of a coin by what is active for it
_WORDS = {"blacklist": "blacklisted", "reduce": "reduced", "favour": "favoured"}


class Snapshot:
    """See KnowledgeView in control/think/strategy.py. `apply` false: nothing that is active binds anybody, so that nobody is told of it either; but
    for the variant of exits, whose twins go on comparing."""

    def __init__(self, scores: Mapping[ScoreKey, Score], active: Iterable[Adaptation], now_ns: int, quantum: float, apply: bool = True,
                 version: int = 0, results: Callable[[int], list[Trade]] = lambda most: []) -> None:
        self.scores, self.version = scores, version
        standing = list(active)
        self.active = standing if apply else []
        self._exits = {one.claim.subject: one for one in standing if one.family == "exits"}
        self._now_ns, self._quantum, self.applies, self._results = now_ns, quantum, apply, results

    def coin(self, symbol: str) -> CoinStatus:
        """Record of a symbol."""
        score = self.scores.get(("coin", symbol)) or Score()
        mine = [one for one in self.active if one.family == "coin" and one.value == symbol]
        word = next((_WORDS[one.action] for one in mine), "unknown" if score.trades < FEW_TRADES else "normal")
        return CoinStatus(trades=score.trades, wins=score.wins, pnl=score.pnl * self._quantum, streak=score.streak, status=word,
                          scale=combined(one.scale for one in mine), mean_bps=score.mean_bps, trend_bps=score.trend_bps,
                          average_win_bps=score.average_win_bps, average_loss_bps=score.average_loss_bps,
                          last_trade_ns=score.last_ns)

    def results(self, most: int) -> list[Trade]:
        """The trades that closed last, newest first."""
        return self._results(most)

    def concerning(self, kind: Kind, now_ns: int) -> list[Adaptation]:
        """What is active and changes such an entry at that time."""
        return [one for one in self.active if concerns(one.claim, kind, now_ns)]

    def exits(self, strategy: str) -> Adaptation | None:
        """The variant of a strategy's exits that is active, applied or not."""
        return self._exits.get(strategy)

    def stamp(self, now_ns: int, version: int | None = None) -> int:
        """Differs where something else is active, or would be at that time: hours, and parts of the day that a candidate names, begin and end."""
        part = part_of(now_ns) if any(one.family == "pattern" and names_a_time(one.value) for one in self.active) else 0
        return (self.version if version is None else version) << 8 | part << 1 | self.time_is_shut(now_ns)

    def time_is_shut(self, now_ns: int) -> bool:
        """No entries in the hour, or on the day, of that time, whatever they are."""
        return any((one.family, one.value) in (("hour", hour_of(now_ns)), ("day", day_of(now_ns))) and one.scale == 0.0 for one in self.active)


class Reader:
    """Snapshots for the strategist. A store that is not there yet is empty; one that cannot be read is an error at that plan."""

    def __init__(self, path: Path | str, quantum: float, store: Knowledge | None = None, apply: bool = True) -> None:
        """`store`: one that this process has open already, as LMDB opens an environment once a process."""
        self._path, self._quantum, self._apply = Path(path), quantum, apply
        self._store = store

    def snapshot(self, now_ns: int) -> Snapshot:
        """What is known at an event time. Raises KnowledgeError."""
        if self._store is None and durable.begun(self._path / "data.mdb"):
            self._store = Knowledge(self._path)
        if self._store is None:
            return Snapshot({}, [], now_ns, self._quantum, self._apply)
        try:
            known = self._store.known()
        except lmdb.Error as error:
            raise KnowledgeError(f"{self._store.path}: {error}") from error
        return Snapshot(known.scores, known.active, now_ns, self._quantum, self._apply, known.version if self._apply else 0,
                        self._store.newest_trades)
