"""Trades on paper, twins and prices that are still to be told over a start: from a snapshot, from the records behind it, and how they go on.

One spot instrument: tick 0.01, lot 0.001, value_quanta 1000; an entry of 1000 lots at about 100.00. The sniper's own kernels make the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.record import snapshot as snapshots
from control.record.records import instrument_facts, number_key, ring_rows
from control.record.restore import restore
from control.record.writer import JournalWriter
from hotpath.config import Hotpath, Limits
from hotpath.kernel import commit as tx
from hotpath.kernel import loop
from hotpath.kernel.state import sniper_arrays
from hotpath.sniper import write_params
from ipc import layout as l
from ipc import messages, ring
from tests.conftest import throw_away_memory
from tests.test_hotpath_exits import at, enter, fill
from tests.test_hotpath_papers import after, fire, trade_of
from tests.test_hotpath_sniper import World

LIMITS = Limits(max_symbol_exposure_bps=10_000, max_order_value=1e6)
#: what no record tells: as of the snapshot, or made anew
BY_NATURE = {"best_price", "adjusted_tick", "open_index", "retry_ns"}


class Life(World):
    """A sniper whose plans are journaled; its book can be looked at whenever, and a start be made of it."""

    def __init__(self, memory: Any, folder: Path) -> None:
        super().__init__(memory, LIMITS)
        self.writer = JournalWriter(folder / "journal", sync=False)
        rows = memory.instruments.instruments
        memory.board.cursors[0]["incarnation"] = self.writer.begin_run("first", {
            "strategies": ["probe"], "instruments": msgspec.to_builtins(instrument_facts(rows, 1))})
        self.snapshots: list[snapshots.Snapshot] = []
        self.quote(9_999, 10_000)
        self.trade(10_000)

    def take(self, plan: messages.Plan) -> tuple[int, int]:
        assert self.writer.append(plans=[msgspec.structs.replace(plan, plan_seq=0)]) == [plan.plan_seq]
        return super().take(plan)

    def _publish(self, **fields: Any) -> None:
        super()._publish(**fields)
        self.look()

    def report(self, **fields: Any) -> None:
        super().report(**fields)
        self.look()

    def look(self) -> None:
        """Remember the book as it is."""
        if hasattr(self, "snapshots") and (taken := snapshots.Reader(self.memory).take()) is not None:
            self.snapshots.append(msgspec.json.decode(msgspec.json.encode(taken), type=snapshots.Snapshot))

    def end(self, snapshot: snapshots.Snapshot | None) -> None:
        """Everything dies; the journal has every record, and that snapshot."""
        rows = [ring_rows(region, 0, int(ring.head(region.ring))) for region in (self.memory.orders, self.memory.reports)]
        self.writer.append(*rows, snapshot=snapshot)

    @contextmanager
    def started(self, symbol: bytes = b"BTC/USDT") -> Iterator[Resumed]:
        """The next start, of a run that has this symbol."""
        with throw_away_memory() as memory:
            memory.instruments.instruments[:] = self.memory.instruments.instruments
            memory.instruments.instruments[0]["symbol"] = symbol
            memory.instruments.strategies[:] = self.memory.instruments.strategies
            restore(self.writer, memory)
            yield Resumed(memory, self.now)


class Resumed(World):
    """The sniper of the next start."""

    def __init__(self, memory: Any, now: int) -> None:
        self.memory, self.now = memory, now
        memory.board.run[0]["instruments"] = memory.board.run[0]["strategies"] = 1
        memory.board.cursors[0]["incarnation"] = 2
        memory.orders.readers[l.RECORDER]["active"] = memory.reports.readers[l.SNIPER]["active"] = 1
        write_params(memory, LIMITS, Hotpath())
        self.s = sniper_arrays(memory)
        loop.start(self.s)
        self.armoury = self.rearm()
        self._tick, self._report = np.zeros(1, l.TICK), np.zeros(1, l.REPORT)

    def closed(self) -> list[tuple[str, int]]:
        """(reason, average exit price) of every trade on paper that has ended here."""
        rows = [trade_of(row) for row in self.orders(l.PAPER_CLOSED)]
        return [(l.EXIT_REASONS[int(row["exit_reason"])], int(row["exit_price"])) for row in rows]


@pytest.fixture
def life(memory: Any, tmp_path: Path) -> Iterator[Life]:
    made = Life(memory, tmp_path)
    yield made
    made.writer.close()


def book(memory: Any) -> dict[str, Any]:
    """What is on paper, and what is to be told."""
    sniper = memory.sniper
    papers = [{name: row[name].tolist() for name in l.POSITION.names or () if name not in BY_NATURE and name[0] != "_"}
              for row in sniper.papers[sniper.papers["state"] != l.POS_FLAT]]
    (first, second), closed = sniper.after[0]["told"].tolist(), int(sniper.after[0]["closed"])
    waiting = [(number < first, *(sniper.aftermath[number % l.MAX_AFTERMATH][name].tolist() for name in l.AFTERMATH.names or () if name[0] != "_"))
               for number in range(second, closed)]
    return {"papers": papers, "waiting": waiting, "open_mask": sniper.instrument_states["open_mask"].tolist(),
            "count": int(sniper.account[0]["paper_positions"]), "today": int(sniper.account[0]["papers_today"])}


def waits(life: Life) -> None:
    fire(life, order="limit", limit_price="99.90")


def is_in(life: Life) -> None:
    waits(life)
    life.quote(9_985, 9_989)


def has_ended(life: Life) -> None:
    is_in(life)
    life.quote(9_800, 9_801)


def rung_sold(life: Life) -> None:
    fire(life, target_bps=0, ladder=[{"bps": 50, "share": 0.5}, {"bps": 100, "share": 0.5}])
    life.quote(10_060, 10_061)


def twin(life: Life) -> None:
    enter(life, target_bps=200, twin_target_pct=150, trail_activation_bps=150, trail_distance_bps=300, time_stop_s=3600)


def twin_without_its_position(life: Life) -> None:
    twin(life)
    at(life, 10_210)
    fill(life, 10_205)


def told_once(life: Life) -> None:
    twin_without_its_position(life)
    life.quote(10_150, 10_151)
    after(life, 5.1)
    life.look()


def told_twice(life: Life) -> None:
    told_once(life)
    after(life, 10)
    life.look()


def expired_and_another(life: Life) -> None:
    fire(life, order="limit", limit_price="99.90", valid_for_s=10)
    life.now += 20 * 10**9
    life.quote(9_999, 10_000)
    after(life, 0.01)
    life.trade(10_000)
    enter(life, plan_seq=2, target_bps=200, twin_stop_pct=75)


@pytest.mark.parametrize("past", [waits, is_in, has_ended, twin, twin_without_its_position, told_once, told_twice, expired_and_another])
def test_from_any_snapshot_or_none_the_records_make_what_there_was(life: Life, past: Callable[[Life], None]) -> None:
    past(life)
    there = book(life.memory)
    assert there["today"] + there["count"] + len(there["waiting"]) > 0
    life.end(None)
    with life.started() as run:
        assert book(run.memory) == there
    for snapshot in life.snapshots:
        life.writer.append(snapshot=snapshot)
        with life.started() as run:
            assert book(run.memory) == there, (snapshot.intent_seq, snapshot.report_seq)
    assert len(life.snapshots) > 3


@pytest.mark.parametrize("past", [told_once, twin], ids=["a price is to be told", "a twin is open"])
def test_a_snapshot_is_without_what_a_running_step_has_written(life: Life, past: Callable[[Life], None]) -> None:
    past(life)
    life.look()
    before, s = life.snapshots[-1], life.s
    assert before.papers or before.aftermath
    tx.begin(s)
    tx.touch_state(s, 0)
    tx.touch_paper(s, 0)
    tx.touch_after(s)
    s.states[0]["open_mask"] ^= 1 << l.PAPER_BIT  # one ends, or another begins
    s.papers[0]["lots"], s.papers[0]["state"] = 1, l.POS_FLAT
    row = int(s.after[0]["closed"]) % l.MAX_AFTERMATH
    tx.touch_aftermath(s, row)
    s.after[0]["closed"] += 1
    s.after[0]["told"] = s.after[0]["closed"]
    s.aftermath[row]["position_id"] = 99
    life.look()
    now = life.snapshots[-1]
    assert (now.papers, now.aftermath, now.commit) == (before.papers, before.aftermath, before.commit)


def test_a_snapshot_has_what_its_records_do_not_tell(life: Life) -> None:
    """A rung that is sold, and the best price of a trailing stop."""
    rung_sold(life)
    there = life.s.papers[:1].copy()
    assert (int(there[0]["rungs_done"]), int(there[0]["lots"])) == (1, 500)
    life.end(life.snapshots[-1])
    with life.started() as run:
        assert run.s.papers[:1].tobytes() == there.tobytes()
        run.quote(10_110, 10_111)
        assert [(int(row["lots"]), int(row["code"])) for row in run.orders(l.PAPER_CLOSED)] == [(1000, l.EXIT_RUNG)]


@pytest.mark.parametrize("past", [is_in, twin], ids=["a trade on paper", "a twin"])
@pytest.mark.parametrize(("bid", "end"), [(9_700, ("stop", 9_700)), (10_400, ("target", 10_400)), (10_010, None)])
def test_what_is_restored_meets_the_first_price_of_the_run(life: Life, past: Callable[[Life], None], bid: int, end: tuple[str, int] | None) -> None:
    past(life)
    life.end(life.snapshots[-1])
    with life.started() as run:
        run.quote(bid, bid + 1)
        assert run.closed() == ([end] if end else [])
        assert int(run.s.account[0]["paper_positions"]) == (0 if end else 1)


@pytest.mark.parametrize("forced", [False, True], ids=["its time is over", "a gap of the data"])
def test_what_was_due_before_there_is_a_price_ends_at_the_first_one_and_not_at_its_entry(life: Life, forced: bool) -> None:
    fire(life, time_stop_s=30)
    life.end(life.snapshots[-1])
    life.now += (0 if forced else 100) * 10**9
    with life.started() as run:
        for _ in range(2):
            run.now += 10**8
            run.publish_only(kind=l.TICK_SESSION if forced else l.TICK_CLOCK, instrument=l.NO_INSTRUMENT)
            run.run()
        assert run.closed() == []
        run.quote(10_020, 10_021)
        assert run.closed() == [("data_gap" if forced else "time", 10_020)]


def test_a_limit_that_waited_is_met_after_the_start_or_its_time_is_over(life: Life) -> None:
    waits(life)
    life.end(life.snapshots[-1])
    with life.started() as run:
        after(run, 0.01)
        run.quote(9_990, 9_991)
        assert run.orders(l.PAPER_OPENED) == []
        run.quote(9_985, 9_989)
        assert [(int(row["code"]), int(row["value"])) for row in run.orders(l.PAPER_OPENED)] == [(l.POS_MONITORING, 9_989)]
    with life.started() as run:
        after(run, 60 * 24)
        assert (run.orders(l.PAPER_OPENED), int(run.s.account[0]["paper_positions"])) == ([], 0)


def test_prices_afterwards_are_told_over_a_start_each_once_and_without_a_price_where_the_instant_was_missed(life: Life) -> None:
    told_once(life)
    life.end(life.snapshots[-1])
    with life.started() as run:
        run.now += 9 * 60 * 10**9
        run.quote(10_300, 10_301)
        after(run, 0.95)
        assert [(int(row["code"]), int(row["limit_price"]), int(row["reference_price"]), int(row["flags"])) for row in run.orders(l.AFTERWARDS)] == [
            (15, 10_205, 10_300, l.EXIT_TARGET)]
    with life.started() as run:
        after(run, 12)
        assert [(int(row["code"]), int(row["reference_price"])) for row in run.orders(l.AFTERWARDS)] == [(15, 0)]


def test_what_this_run_does_not_have_is_left_out(life: Life) -> None:
    is_in(life)
    snapshot = life.snapshots[-1]
    assert snapshot.papers
    one = snapshots.Aftermath(symbol="BTC/USDT", strategy="probe", position_id=7, closed_ns=life.now, exit_price=1, condition_id=1, side=1,
                              exit_reason=1, plan_seq=1, fire_index=0, told=1)
    life.end(msgspec.structs.replace(snapshot, aftermath=[one, msgspec.structs.replace(one, position_id=8, told=0)]))
    with life.started() as run:
        assert [row[:2] for row in book(run.memory)["waiting"]] == [(True, 7), (False, 8)]
    with life.started(b"ETH/USDT") as run:
        assert book(run.memory) | {"today": 0} == {"papers": [], "waiting": [], "open_mask": [0] * 8, "count": 0, "today": 0}


def test_a_trade_on_paper_whose_plan_is_missing_is_not_there(life: Life) -> None:
    is_in(life)
    life.end(None)
    with life.started() as run:
        assert book(run.memory)["count"] == 1
    with life.writer.env.begin(write=True) as transaction:
        assert transaction.delete(number_key(1), db=life.writer.databases["plans"])
    with life.started() as run:
        assert book(run.memory) | {"today": 1} == {"papers": [], "waiting": [], "open_mask": [0] * 8, "count": 0, "today": 1}


def test_more_than_the_sniper_has_room_for_is_the_newest(life: Life) -> None:
    has_ended(life)
    many = [snapshots.Aftermath(symbol="BTC/USDT", strategy="probe", position_id=number, closed_ns=number, exit_price=1, condition_id=1, side=1,
                                exit_reason=1, plan_seq=1, fire_index=0) for number in range(1, l.MAX_AFTERMATH + 4)]
    life.end(msgspec.structs.replace(life.snapshots[-1], aftermath=many))
    with life.started() as run:
        assert [row[1] for row in book(run.memory)["waiting"]] == list(range(4, l.MAX_AFTERMATH + 4))
