"""Health and errors of a running instance: told by the watchdog alone, whatever the processes do, and kept in the journal."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from ipc import bus, messages
from ipc import layout as l
from tests.running import BUSY, Running, until

#: a process's silence is told long before it is replaced
PATIENT = BUSY + """
[supervise]
hang_recorder_ms = 4000
hang_feed_ms = 4000
"""


def test_health_tells_what_stopped_and_hangs_and_errors_what_was_done_about_it(tmp_path: Path) -> None:
    running = Running(tmp_path, PATIENT)
    client = bus.Client(bus.socket_dir(running.name), "control")
    took: list[float] = []

    def health() -> tuple[dict[str, Any], dict[str, Any]]:
        began = time.monotonic()
        reply = client.ask(messages.Health(), 10.0)
        took.append(time.monotonic() - began)
        return reply.data, {row["role"]: row for row in reply.rows}

    try:
        running.start()
        data, rows = until(lambda: (now := health())[0]["healthy"] and now[1]["recorder"]["metrics"]["disk_free_mb"] and now, 60, "all is well")
        assert {row["status"] for row in rows.values()} == {"healthy"}
        assert list(rows) == list(l.ROLES)
        assert all(facts["writable"] for facts in data["databases"].values())
        assert rows["feed"]["metrics"]["connection"] == "connected"
        assert all(abs(row["last_activity_ns"] - time.time_ns()) < 5 * 10**9 for row in rows.values())
        until(lambda: health()[1]["strategist"]["metrics"]["last_plan_ns"] > 0, 60, "a plan")

        pid = int(rows["recorder"]["pid"])
        os.kill(pid, signal.SIGSTOP)
        _, rows = until(lambda: (now := health())[1]["recorder"]["status"] == "degraded" and now, 7, "the stopped recorder is told")
        assert rows["recorder"]["problem"].startswith("no heartbeat for ")
        until(lambda: health()[1]["recorder"]["pid"] not in (None, pid), 30, "it is replaced")
        until(lambda: health()[0]["healthy"], 30, "all is well again")
        pid = int(rows["feed"]["pid"])
        os.kill(pid, signal.SIGSTOP)
        _, rows = until(lambda: (now := health())[1]["feed"]["status"] == "degraded" and now, 7, "the stopped feed is told")
        assert rows["feed"]["metrics"]["connection"] == "down"
        until(lambda: (now := health()[1]["feed"])["pid"] not in (None, pid) and now["metrics"]["connection"] == "connected", 30, "the next one")
        until(lambda: health()[0]["healthy"], 30, "all is well again")
        running.kill("strategist")
        until(lambda: health()[1]["strategist"]["restarts"] == 1 and health()[0]["healthy"], 30, "the strategist is back")

        def decided() -> dict[str, Any]:
            code, reply = running.ctl("errors", "--hours", "1")
            assert code == 0
            return {row["process"]: row for row in reply["rows"]}

        found = until(lambda: {"recorder", "strategist"} <= set(now := decided()) and now, 30, "both deaths are journaled")
        assert (found["recorder"]["class"], found["recorder"]["decision"], found["recorder"]["in_a_row"]) == ("general", "continue", 1)
        assert "no heartbeat for" in found["recorder"]["text"]
        assert "it was stopped" in found["recorder"]["text"]
        assert "SIGKILL" in found["strategist"]["text"]
        assert all(row["errors_per_h"] == 1 for row in found.values())
        assert sorted(took)[len(took) // 2] < 0.25, "answered at once, however slow this machine is"
        assert running.stop() == 0, running.text()
        assert "health: " in running.text()
        assert running.faults() == []
    finally:
        client.close()
        running.end()
