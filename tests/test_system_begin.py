"""A simulated market that begins at a minute that somebody names, and goes on from where it stopped."""

from __future__ import annotations

from tests.running import Running, until

#: 2026-01-05T12:34 UTC
NAMED_NS = 1_767_616_440_000_000_000
HOUR_NS = 3_600_000_000_000


def test_a_new_instance_begins_at_the_minute_that_is_named_and_a_next_start_goes_on_and_says_so(instance: Running) -> None:
    instance.start("--begin", "2026-01-05T12:34:56")
    until(instance.last_fill_ns, 30, "a first fill")
    assert instance.stop() == 0
    stopped = instance.newest_event_ns()
    assert NAMED_NS < stopped < NAMED_NS + HOUR_NS
    assert "goes on where it stopped" not in instance.text()

    instance.start("--begin", "2026-03-01")
    until(lambda: instance.last_fill_ns() > stopped, 30, "a fill of the next run")
    assert "run.begin is for a new instance: " in instance.text()
    assert instance.stop() == 0
    assert stopped < instance.newest_event_ns() < stopped + HOUR_NS
    assert instance.summary()["reconciled"] is True
