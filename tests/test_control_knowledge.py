"""The knowledge store: scores that equal their trades, what survives its writer, and what a plan sees of it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.learn.adoption import adopt
from control.learn.follower import Changes
from control.learn.gate import Adaptation
from control.learn.knowledge import SCHEMA, Applied, Knowledge, KnowledgeError, Learned
from control.learn.quick_update import TREND_WEIGHT, Score, updated
from control.learn.snapshot import Reader, Snapshot
from tests.learn_scene import USDT, adaptation, closed, learner, stored, until


@given(st.lists(st.integers(-1000, 1000), max_size=50))
def test_a_score_equals_what_all_its_trades_say(results: list[int]) -> None:
    score, trend = Score(), None
    for number, pnl in enumerate(results, 1):
        score = updated(score, closed(pnl=pnl, number=number, net_bps=pnl / 10))
        score = updated(score, closed(pnl=pnl, number=number, made=False, net_bps=1.0))
        trend = pnl / 10 if trend is None else (1 - TREND_WEIGHT) * trend + TREND_WEIGHT * pnl / 10
    streak = 0
    for pnl in reversed(results):
        if streak and (pnl > 0) != (streak > 0):
            break
        streak += 1 if pnl > 0 else -1
    won, lost = [pnl / 10 for pnl in results if pnl > 0], [pnl / 10 for pnl in results if pnl <= 0]
    count = len(results)
    assert (score.trades, score.wins, score.pnl, score.fees, score.streak) == (count, len(won), sum(results), 3 * count, streak)
    assert (score.best, score.worst, score.last_ns, score.last) == (max([0, *results]), min([0, *results]), count, count)
    assert (score.first, score.paper_trades) == (min(1, count), count)
    assert [score.mean_bps, score.average_win_bps, score.average_loss_bps, score.trend_bps, score.paper_bps] == pytest.approx(
        [sum(results) / 10 / count if count else 0, sum(won) / len(won) if won else 0, sum(lost) / len(lost) if lost else 0, trend or 0, count])


def test_what_was_learned_is_counted_with_the_scores_and_survives_the_writer(tmp_path: Path) -> None:
    store = Knowledge(tmp_path / "k", writable=True)
    assert (store.learned(), store.applied()) == (Learned(), Applied())
    stored(store, Applied(1, 9), closed(number=70), closed(number=60, pnl=-4))
    stored(store, Applied(2, 3))
    store.close()
    store = Knowledge(tmp_path / "k", writable=True)
    assert (store.learned(), store.applied()) == (Learned(trades=2, updates=1, last_trade_ns=70), Applied(2, 3))
    assert store.scores()["coin", "A"].pnl == -3
    assert [trade.position_id for trade in store.trades()] == [60, 70], "in the order of their ends"
    store.close()


def test_a_store_of_an_older_schema_begins_anew_and_one_of_a_newer_is_refused(tmp_path: Path) -> None:
    store = Knowledge(tmp_path / "k", writable=True)
    stored(store, Applied(1, 9), closed())
    with store.env.begin(write=True) as transaction:
        transaction.delete(b"schema", db=store._db["meta"])
    store.close()
    with pytest.raises(KnowledgeError, match="schema 1"):
        Knowledge(tmp_path / "k")
    store = Knowledge(tmp_path / "k", writable=True)
    assert (store.applied(), store.scores()) == (Applied(), {})
    with store.env.begin(write=True) as transaction:
        transaction.put(b"schema", str(SCHEMA + 1).encode(), db=store._db["meta"])
    store.close()
    for writable in (True, False):
        with pytest.raises(KnowledgeError, match=rf"update trader|reads {SCHEMA}"):
            Knowledge(tmp_path / "k", writable=writable)


@pytest.mark.parametrize("database", ["claims", "adaptations", "open", "meta"])
def test_a_damaged_store_names_the_place_and_the_remedy(tmp_path: Path, database: str) -> None:
    store = Knowledge(tmp_path / "k", writable=True)
    key = {"claims": b"coin\0A\0loses", "meta": b"state"}.get(database, (7).to_bytes(8, "big"))
    with store.env.begin(write=True) as transaction:
        transaction.put(key, b"{oh no", db=store._db[database])
    with pytest.raises(KnowledgeError, match=f"{database}.*learned anew"):
        store.restore(learner())
    store.close()


def test_a_reader_sees_an_absent_store_as_empty_and_a_grown_one_whole(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "k", 1e-8)
    assert reader.snapshot(0).coin("A").status == "unknown"
    store = Knowledge(tmp_path / "k", writable=True, sync=False)
    stored(store, Applied(1, 1), closed(pnl=2 * USDT))
    assert reader._store is None
    # readers live in other processes: a second environment on one path in this one is not allowed by LMDB
    process = multiprocessing.get_context("spawn").Process(target=read_while_it_grows, args=(str(tmp_path),))
    process.start()
    until((tmp_path / "seen").exists)
    store.env.set_mapsize(1 << 17)
    stored(store, Applied(1, 2), *(closed(f"COIN{n}", number=n + 2) for n in range(3000)))  # grows the map
    assert store.env.info()["map_size"] > 1 << 17
    (tmp_path / "grown").touch()
    process.join(20)
    assert process.exitcode == 0


def read_while_it_grows(folder: str) -> None:
    reader = Reader(Path(folder) / "k", 1e-8)
    coin = reader.snapshot(0).coin("A")
    assert (coin.trades, coin.pnl, coin.scale) == (1, 2.0, 1.0)
    (Path(folder) / "seen").touch()
    until((Path(folder) / "grown").exists)
    assert reader.snapshot(0).coin("COIN2999").trades == 1


def test_knowledge_adopted_from_another_run_keeps_what_was_learned_and_begins_a_new_journal(tmp_path: Path) -> None:
    store = Knowledge(tmp_path / "old", writable=True)
    stored(store, Applied(3, 70), closed(pnl=5, number=7))
    one = learner()
    store.restore(one)
    one.opened(8, module_opened("A"))
    store.store(Applied(3, 71), Changes({}, {8: closed(number=8)}, {}, []), one, one.take_changes())
    store.close()
    adopt(tmp_path / "old", tmp_path / "new")
    copy = Knowledge(tmp_path / "new", writable=True)
    assert (copy.applied(), copy.learned(), copy.opening(8), copy.trade(7)) == (Applied(), Learned(), None, None)
    again = learner()
    copy.restore(again)
    assert again.open == {}
    assert [piece.evidence.running for piece in again.claims.values()] == [{}] * len(again.claims), "nobody will tell how those end"
    assert copy.scores()["coin", "A"].trades == 1
    stored(copy, Applied(1, 1), closed(pnl=5, number=7))
    assert (copy.scores()["coin", "A"].trades, len(copy.trades())) == (2, 2), "a position of the new journal may bear an old number"
    copy.close()
    with pytest.raises(KnowledgeError):
        adopt(tmp_path / "nowhere", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def module_opened(symbol: str) -> Any:
    from control.learn.kinds import Kind
    from control.learn.learner import Opened

    return Opened(kind=Kind(symbol, "momentum", "buy"), opened_ns=5, span_bps=100.0)


@pytest.mark.parametrize(("trades", "active", "status", "scale"), [
    (4, [], "unknown", 1.0), (5, [], "normal", 1.0), (50, [adaptation()], "blacklisted", 0.0), (50, [adaptation(-5)], "reduced", 0.5),
    (50, [adaptation(40, "wins")], "favoured", 1.5)])
def test_a_coins_status_is_what_is_active_for_it(trades: int, active: list[Adaptation], status: str, scale: float) -> None:
    coin = Snapshot({("coin", "A"): Score(trades=trades)}, active, 0, 1e-8).coin("A")
    assert (coin.status, coin.scale) == (status, scale)
    assert Snapshot({("coin", "A"): Score(trades=trades)}, active, 0, 1e-8, apply=False).coin("A").scale == 1.0
