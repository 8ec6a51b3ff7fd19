"""Two runs side by side: what is paired, what is missing or extra, and a P&L difference whose causes add up to the last quantum."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from control.record.decisions import Decision, Filled, NoSuchRun, Run, read_run
from control.record.parity import PAIR_NS, NotComparable, compare_runs, report_of, rows_of
from control.record.records import InstrumentFact
from control.record.writer import JournalWriter
from control.serve.ctl import main
from ipc import layout as l

MS = 1_000_000
VALUE = 1000
FACT = InstrumentFact(id=0, symbol="BTC/USDT", kind="spot", quote="USDT", tick_mantissa=1, tick_exponent=-2, lot_mantissa=1, lot_exponent=-5,
                      value_quanta=VALUE, quantum_exponent=-8, maker_fee_e8=1, taker_fee_e8=1)


def decision(at_ms: int, price: int = 100, lots: int = 10, purpose: str = "entry", fee: int = 5, delay_ms: int = 50, **fields: Any) -> Decision:
    side = fields.pop("side", 1 if purpose == "entry" else -1)
    fills = fields.pop("fills", [Filled((at_ms + delay_ms) * MS, price, lots, fee, l.TAKER)] if price else [])
    return Decision(symbol="BTC/USDT", strategy=fields.pop("strategy", "momentum"), purpose=purpose, side=side, event_ns=at_ms * MS, seq=at_ms,
                    lots=lots, order_type=l.MARKET, limit_price=0, reference_price=fields.pop("reference_price", 100), reason="", value_quanta=VALUE,
                    fills=fills, **fields)


def run(*decisions: Decision, fact: InstrumentFact = FACT, name: str = "run") -> Run:
    return Run(Path(name), name, "backtest", list(decisions), {fact.symbol: fact})


def round_trip(at_ms: int, bought: int, sold: int, lots: int = 10) -> list[Decision]:
    return [decision(at_ms, bought, lots), decision(at_ms + 500, sold, lots, "exit")]


def test_a_run_is_equal_to_itself() -> None:
    one = run(*round_trip(0, 100, 110), *round_trip(5000, 120, 90))
    found = compare_runs(one, one)
    assert found.equal
    assert len(found.pairs) == 4
    assert set(found.causes.values()) == {0}
    assert found.pnl_a == (10 - 30) * 10 * VALUE - 4 * 5
    assert rows_of(found) == []


def test_a_missing_trade_costs_what_it_earned() -> None:
    whole, part = run(*round_trip(0, 100, 110), *round_trip(50_000, 120, 90)), run(*round_trip(0, 100, 110))
    found = compare_runs(whole, part)
    assert (len(found.pairs), len(found.missing), len(found.extra)) == (2, 2, 0)
    assert found.causes["missing"] == 30 * 10 * VALUE + 10 == found.pnl_b - found.pnl_a
    assert [row["what"] for row in rows_of(found)] == ["missing", "missing"]
    back = compare_runs(part, whole)
    assert back.causes["extra"] == -found.causes["missing"]
    assert not back.equal


@pytest.mark.parametrize(("cause", "other", "quanta"), [
    ("price", decision(0, 103), -3 * 10 * VALUE),
    ("time", decision(40, 103), -3 * 10 * VALUE),
    ("time", decision(0, 103, delay_ms=60), -3 * 10 * VALUE),
    ("fees", decision(0, 100, fee=12), -7),
])
def test_each_cause_of_a_different_entry_is_told(cause: str, other: Decision, quanta: int) -> None:
    leave = decision(500, 110, purpose="exit")
    found = compare_runs(run(decision(0), leave), run(other, leave))
    assert found.causes == dict.fromkeys(found.causes, 0) | {cause: quanta}
    assert found.pnl_b - found.pnl_a == quanta
    assert len(found.unequal) == 1
    assert found.unequal[0].price_bps == pytest.approx(300 if cause != "fees" else 0)


def test_a_larger_size_is_a_difference_of_size() -> None:
    found = compare_runs(run(*round_trip(0, 100, 110, 10)), run(*round_trip(0, 100, 110, 15)))
    assert found.causes == dict.fromkeys(found.causes, 0) | {"size": 10 * 5 * VALUE}


def test_an_order_that_was_not_filled_in_one_run_is_a_difference_of_size() -> None:
    found = compare_runs(run(decision(0, 100), decision(9000, 110, purpose="exit")), run(decision(0, 0), decision(9000, 0, purpose="exit")))
    assert found.causes["size"] + found.causes["fees"] == found.pnl_b - found.pnl_a == -(10 * 10 * VALUE - 10)
    assert found.pairs[0].price_bps is None


def test_a_sale_is_worse_at_a_lower_price() -> None:
    (_, pair) = compare_runs(run(*round_trip(0, 100, 110)), run(*round_trip(0, 100, 109))).pairs
    assert pair.price_bps == pytest.approx(1e4 / 110)


def test_the_nearest_decision_is_the_pair_and_a_far_one_is_none() -> None:
    found = compare_runs(run(decision(0), decision(8000)), run(decision(8000)))
    assert [pair.a.event_ns for pair in found.pairs] == [8000 * MS]
    assert [one.event_ns for one in found.missing] == [0]
    far = compare_runs(run(decision(0)), run(decision(PAIR_NS // MS + 1)))
    assert (len(far.pairs), len(far.missing), len(far.extra)) == (0, 1, 1)


def test_strategies_sides_and_purposes_are_never_mixed() -> None:
    found = compare_runs(run(decision(0), decision(0, side=-1)), run(decision(0, strategy="other"), decision(0, purpose="exit", side=1)))
    assert found.pairs == []
    assert (len(found.missing), len(found.extra)) == (2, 2)


def test_runs_of_other_instrument_steps_are_not_compared() -> None:
    with pytest.raises(NotComparable, match="BTC/USDT: its tick_mantissa is 1"):
        compare_runs(run(decision(0)), run(decision(0), fact=msgspec.structs.replace(FACT, tick_mantissa=5)))


@pytest.mark.parametrize("seed", range(20))
def test_the_causes_add_up_for_random_runs(seed: int) -> None:
    rng = random.Random(seed)

    def some() -> Run:
        made = []
        for k in range(60):
            purpose = rng.choice(["entry", "exit"])
            fills = [Filled((k * 1000 + 50 * part) * MS, rng.randint(80, 120), rng.randint(1, 40), rng.randint(0, 9), l.TAKER)
                     for part in range(rng.randint(0, 3))]
            if rng.random() < 0.8:
                made.append(decision(k * 1000 + rng.choice([0, 0, 3, 400]), purpose=purpose, side=rng.choice([1, -1]), fills=fills,
                                     strategy=rng.choice("ab")))
        return run(*made)

    found = compare_runs(some(), some())
    assert sum(found.causes.values()) == found.pnl_b - found.pnl_a
    assert len(found.pairs) + len(found.missing) == len(found.a.decisions)
    assert len(found.pairs) + len(found.extra) == len(found.b.decisions)
    assert report_of(found)["matched"] == len(found.pairs)


# ── from journals ────────────────────────────────────────────────────────────────────────────────────────────────────
def journaled(path: Path, run_id: str, at_ns: int, prices: list[int]) -> None:
    """A run of entries of 10 lots, each filled at its price, into a journal that may hold others."""
    writer = JournalWriter(path, sync=False)
    writer.begin_run(run_id, {"run_id": run_id, "mode": "paper", "strategies": ["momentum"], "instruments": [msgspec.to_builtins(FACT)]})
    orders, reports = np.zeros(len(prices), l.INTENT), np.zeros(len(prices), l.REPORT)
    orders["seq"] = reports["seq"] = orders["order_seq"] = reports["order_seq"] = np.arange(1, len(prices) + 1)
    orders["kind"], reports["kind"], orders["purpose"] = l.NEW, l.FILL, l.ENTRY
    orders["side"] = reports["side"] = 1
    orders["event_ns"] = reports["event_ns"] = at_ns + np.arange(len(prices)) * 1000 * MS
    orders["lots"] = reports["last_lots"] = reports["cum_lots"] = 10
    reports["last_price"], reports["liquidity"] = prices, l.TAKER
    writer.append(orders, reports)
    writer.close()


def test_a_run_of_a_paper_instance_is_found_by_its_id_among_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The instance's journal holds all its runs; a replay's and a backtest's hold their own, whatever their folder is called."""
    for name, prices in (("run-1", [100, 101]), ("run-2", [200, 201, 202])):
        (tmp_path / "data" / "runs" / name).mkdir(parents=True)
        journaled(tmp_path / "data" / "instances" / "night" / "journal", name, 10**18, prices)
    journaled(tmp_path / "renamed" / "state" / "journal", "run-3", 10**18, [200, 201, 203])
    assert [one.fills[0].price for one in read_run("run-1", tmp_path / "data").decisions] == [100, 101]
    found = read_run(str(tmp_path / "data" / "runs" / "run-2"), Path("nowhere"))
    assert (found.run_id, found.mode, [one.fills[0].price for one in found.decisions]) == ("run-2", "paper", [200, 201, 202])
    assert read_run(str(tmp_path / "renamed"), Path("nowhere")).run_id == "run-3"
    data = ["--data-dir", str(tmp_path / "data")]
    assert main(["parity", "run-2", "run-2", *data]) == 0
    assert main(["parity", "run-2", str(tmp_path / "renamed"), *data]) == 1
    assert "3 matched, 1 of them unequal" in capsys.readouterr().out
    assert main(["parity", "run-2", "run-9", *data]) == 2
    assert "there is no run of that id" in capsys.readouterr().err
    (tmp_path / "data" / "runs" / "run-4").mkdir()
    with pytest.raises(NoSuchRun, match="there is no journal of it"):
        read_run("run-4", tmp_path / "data")
