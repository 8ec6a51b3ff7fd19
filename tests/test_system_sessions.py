"""Sessions of a real paper instance: beside it while it runs, after everything died, and after it has gone on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.running import Running, until


def session(instance: Running, *arguments: str) -> dict[str, Any]:
    code, reply = instance.ctl("session", *arguments, "--data-dir", str(instance.folder))
    assert code == 0, reply
    return dict(reply)


def test_any_moment_is_rebuilt_beside_a_running_instance_and_after_it_was_killed(instance: Running) -> None:
    instance.start()
    until(lambda: instance.status()["trades_closed"] >= 4 and instance.ctl("positions")[1]["rows"], 30, "trades, and an open position")
    living = session(instance, "list")
    assert living["rows"][-1]["trades"] >= 4
    assert not any(row["differences"] for row in living["rows"])
    date = living["rows"][-1]["date"]
    shown = session(instance, "show", date, "--limit", "1000")
    assert shown["data"]["unprotected"] == ""
    assert all(one["stop_price"] or one["deadline_ns"] or one["state"] == "opening" for one in shown["data"]["positions"])
    seq = next(row["seq"] for row in reversed(shown["rows"]) if row["what"] == "closed")
    before = session(instance, "restore", str(seq), "--dry-run")["data"]

    instance.kill_everything()
    again = session(instance, "restore", str(seq), "--dry-run")["data"]
    assert {key: again[key] for key in ("seq", "time_ns", "incarnation", "orders", "reports")} == {
        key: before[key] for key in ("seq", "time_ns", "incarnation", "orders", "reports")}, "a number stays what it is"
    assert again["account"] == before["account"]
    assert [one["id"] for one in again["positions"]] == [one["id"] for one in before["positions"]]
    end = session(instance, "list")["data"]["last_seq"]
    shown = session(instance, "restore", str(end), "--dry-run")["data"]["positions"]
    held = [one for one in shown if Decimal(one["size"])]  # an entry that works and has no fill is shown, too

    instance.start()
    assert f"resumed: {len(held)} open position{'' if len(held) == 1 else 's'}" in instance.text(), "a start restores what the dry run has shown"
    until(lambda: instance.status()["trades_closed"] >= 6, 30, "the next run trades on")
    assert instance.stop() == 0
    rows = session(instance, "list")["rows"]
    said = instance.summary()
    assert len({run for row in rows for run in row["runs"]}) == 2
    assert not any(row["differences"] for row in rows)
    last = session(instance, "show", rows[-1]["date"])["data"]
    if not last["positions"]:
        assert Decimal(last["equity_end"]) == Decimal(str(said["equity_end"]))
    assert again["account"] == session(instance, "restore", str(seq), "--dry-run")["data"]["account"]
