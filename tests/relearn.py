"""What a journal teaches whoever reads it from its beginning: what a store that was written in many lives must be equal to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from control.learn.config import Learning
from control.learn.follower import Follower, relevant
from control.learn.knowledge import Applied, Knowledge
from control.learn.learner import Learner, universe
from control.learn.lookup import JournalLookUp
from control.learn.reflection import MOST_PATTERNS, MOST_REGIMES
from control.record.journal import Journal


def relearned(journal: Journal, folder: Path, strategies: int, until: Applied | None = None, **options: Any) -> dict[str, Any]:
    """Everything, record by record, in one go (up to a position)."""
    store, settings = Knowledge(folder, writable=True, sync=False), Learning(**options)
    symbols = len(next(iter(reversed(journal.instruments().values()))))
    learner = Learner(universe(symbols, strategies, MOST_PATTERNS, MOST_REGIMES), settings.trades_between_looks, settings.hours_between_looks)
    follower = Follower(learner, JournalLookUp(journal, logging.getLogger("relearned")), store)
    table, applied = journal.table("orders"), Applied()
    for incarnation, row in relevant(table.rows, table.incarnations):
        at = Applied(incarnation, int(row["seq"]), int(row["event_ns"]))
        if until is not None and at > until:
            break
        follower.take(incarnation, row)
        applied = at
        follower.look_if_due()
        store.store(applied, follower.take_changes(), learner, learner.take_changes())
    try:
        return contents(store)
    finally:
        store.close()


def contents(store: Knowledge) -> dict[str, Any]:
    """All that is known, but for how many transactions it took and what the journal was told of it."""
    learner = Learner(universe(1, 1, 1, 1))
    store.restore(learner)
    learner.check()
    learned = store.learned()
    return msgspec.to_builtins({
        "applied": store.applied(), "trades": learned.trades, "last_trade_ns": learned.last_trade_ns, "state": store.state(),
        "scores": {"/".join(key): score for key, score in store.scores().items()},
        "claims": {claim.text: piece for claim, piece in store.claims().items()},
        "adaptations": store.adaptations(), "steps": store.steps(), "open": learner.open, "closed": store.trades()})


def contents_of(folder: Path) -> dict[str, Any]:
    """Of a store that nobody has open here."""
    store = Knowledge(folder)
    try:
        return contents(store)
    finally:
        store.close()


