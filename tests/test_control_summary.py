"""summary.json and fills.bin: the figures of a day worked out by hand, and the latency histogram's buckets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from control.record import summary as summaries
from control.record.records import JournalError
from control.record.summary import FILL, RunFacts, bucket_of, latencies, value_of, write_summary
from control.supervise import instance as instances
from hotpath.kernel import histogram
from hotpath.orders import client_order_id
from hotpath.venues.paper_ledger import Ledger
from ipc import layout as l
from ipc import segment
from ipc.segment import Memory
from tests.journal_scene import DEPOSIT, NOON_NS, market_day, plan
from tests.recorder_stage import instrument_rows

#: the keys that scripts may rely on, in order
KEYS = ["mode", "market", "started_at", "duration_s", "wait_strategy", "ticks_published", "ticks_processed", "ticks_lost",
        "conditions_armed", "intents", "orders", "fills", "trades_closed", "exit_reasons", "refusals", "win_rate", "realised_pnl", "fees",
        "equity_start", "equity_end", "max_drawdown_pct", "reconciled", "restarts", "decision_ns", "tick_to_intent_ns"]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    monkeypatch.setenv("TRADER_SHM", str(tmp_path))
    made = instances.create_segments("summary-test", ticks=1024, instruments=8, conditions=64, rows=instrument_rows(),
                                     strategies=("momentum", "mean_reversion"), number=7, lockstep=False, wait_strategy=l.WAIT_ADAPTIVE,
                                     initial_cash=DEPOSIT)
    yield made
    segment.remove("summary-test")


def facts(folder: Path, market: str = "replay") -> RunFacts:
    return RunFacts(mode="replay", market=market, run_dir=str(folder / "run"), state_dir=str(folder / "state"), started_wall_ns=NOON_NS,
                    duration_s=12.3456)


def make_state(folder: Path, memory: Memory, spoil_cash: int = 0) -> None:
    """A journal and a ledger of the day, and shared memory as the sniper leaves it."""
    day, expected = market_day()
    day.write(folder / "state" / "journal", plans=[plan(), plan("mean_reversion")])
    ledger = Ledger(folder / "state" / "paper", sync=False)
    ledger.meta.cash, ledger.meta.fees = expected.cash + spoil_cash, expected.fees
    ledger.meta.deposits, ledger.meta.realised, ledger.meta.venue_seq = expected.deposits, expected.realised, expected.venue_seq
    for symbol, (lots, cost) in expected.positions.items():
        ledger.position(symbol).lots = lots
        ledger.position(symbol).cost = cost
    assert ledger.commit() is not None
    ledger.close()
    memory.board.cursors[0]["incarnation"] = 1
    memory.ticks.ring[0]["head"] = 500
    memory.board.processes[l.SNIPER]["metrics"][l.METRICS[l.SNIPER].index("lost")] = 3
    memory.board.processes[l.FEED]["restarts"] = 2
    sniper = memory.sniper
    sniper.commit[0]["number"] = 7
    sniper.commit_lines[1]["tick_seq"], sniper.commit_lines[1]["ticks"] = 499, 496
    sniper.refusals[l.REF_CONFIDENCE] = 4
    sniper.account[0]["cash"], sniper.account[0]["max_drawdown_e6"] = 900 * 10**8, 12_345
    for instrument, side, lots, cost, bid, ask in ((0, 1, 250, 0, 6_000_000, 6_000_100), (1, -1, 7, 2_093_000_000, 298_000, 298_100)):
        row = sniper.positions[instrument * l.MAX_STRATEGIES]
        row["lots"], row["side"], row["cost"] = lots, side, cost
        sniper.instrument_states[instrument]["bid"], sniper.instrument_states[instrument]["ask"] = bid, ask
    sniper.decision_hist[bucket_of(1000)] = 99
    sniper.decision_hist[bucket_of(1_000_000)] = 1


def test_the_summary_of_a_day(tmp_path: Path, memory: Memory) -> None:
    make_state(tmp_path, memory)
    given = write_summary(facts(tmp_path), memory)
    text = (tmp_path / "run" / "summary.json").read_text()
    written = json.loads(text)
    assert list(written) == [*KEYS, "uncompared"] == list(given), "that day has no snapshot"
    assert {name: written[name] for name in KEYS[:16]} == {
        "mode": "replay", "market": "replay", "started_at": "2023-11-14T22:13:20.000+00:00", "duration_s": 12.346,
        "wait_strategy": "adaptive",
        "ticks_published": 500, "ticks_processed": 496, "ticks_lost": 3, "conditions_armed": 2, "intents": 7, "orders": 7, "fills": 9,
        "trades_closed": 2, "exit_reasons": {"target": 1, "stop": 1}, "refusals": {"confidence": 4}, "win_rate": 1.0}
    assert '"realised_pnl": 3.95574784' in text  # exact: (375,920,364 + 19,654,420) quanta
    assert '"equity_start": 10000' in text
    # 900 + 250 lots at the bid of 60,000.00 − the short's loss of 7 lots at the ask of 2,981.00 against its cost
    assert '"equity_end": 1050.06' in text
    assert (written["max_drawdown_pct"], written["reconciled"], written["restarts"]["feed"]) == (1.2345, True, 2)
    assert written["decision_ns"] == {"p50": value_of(bucket_of(1000)), "p99": value_of(bucket_of(1000)),
                                      "p999": value_of(bucket_of(1_000_000)), "max": value_of(bucket_of(1_000_000))}
    assert written["tick_to_intent_ns"] == {"p50": 0, "p99": 0, "p999": 0, "max": 0}


def test_fills_bin_names_orders_and_signs_lots(tmp_path: Path, memory: Memory) -> None:
    make_state(tmp_path, memory)
    write_summary(facts(tmp_path), memory)
    first = (tmp_path / "run" / "fills.bin").read_bytes()
    fills = np.frombuffer(first, FILL)
    assert fills["symbol"].tolist() == [b"BTC/USDT"] * 3 + [b"ETH/USDT:USDT"] * 5 + [b"BTC/USDT"]
    assert fills["lots"].tolist() == [400, 600, -1000, -7, -4, 20, 11, -13, 250]
    assert fills["order_id"][0].decode() == client_order_id(7, 1, 2)
    assert fills["fee"].tolist()[:2] == [24_000_000, 36_003_606]
    write_summary(facts(tmp_path), memory)
    assert (tmp_path / "run" / "fills.bin").read_bytes() == first


def test_a_ledger_that_disagrees_is_told(tmp_path: Path, memory: Memory) -> None:
    make_state(tmp_path, memory, spoil_cash=1)
    given = write_summary(facts(tmp_path, "simulated"), memory)
    assert given["reconciled"] is False
    assert [text.partition(":")[0] for text in given["differences"]] == ["cash"]
    assert given["notice"] == summaries.SIMULATED_NOTICE


def test_without_a_ledger_nothing_is_reconciled(tmp_path: Path, memory: Memory) -> None:
    day, _ = market_day()
    day.write(tmp_path / "state" / "journal")
    memory.board.cursors[0]["incarnation"] = 1
    given = write_summary(facts(tmp_path), memory)
    assert given["reconciled"] is False
    assert str(tmp_path) in given["differences"][0]


def test_without_a_journal_there_is_no_summary(tmp_path: Path, memory: Memory) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        write_summary(facts(tmp_path), memory)
    assert not (tmp_path / "run").exists()


# ── latencies ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_buckets_are_the_kernels_and_within_a_thirty_second() -> None:
    random = np.random.default_rng(1)
    values = [*range(300), *(int(2.0 ** exponent) for exponent in random.uniform(5, 40, 2000)), *((1 << k) - 1 for k in range(1, 41))]
    for value in values:
        bucket = bucket_of(value)
        assert bucket == histogram.bucket_of(value)
        if bucket < l.HIST_BUCKETS - 1:
            assert value <= value_of(bucket) <= value + value // 32
            assert bucket_of(value_of(bucket)) == bucket
            assert bucket_of(value_of(bucket) + 1) == bucket + 1


def test_quantiles_agree_with_sorted_samples() -> None:
    samples = (np.random.default_rng(2).lognormal(8, 2, 5000)).astype(np.int64)
    counts = np.zeros(l.HIST_BUCKETS, np.int64)
    for sample in samples.tolist():
        counts[bucket_of(sample)] += 1
    found, ordered = latencies(counts), np.sort(samples)
    for name, rank in (("p50", 2500), ("p99", 4950), ("p999", 4995), ("max", 5000)):
        exact = int(ordered[rank - 1])
        assert exact <= getattr(found, name) <= exact + exact // 32
