"""The soak's judgement: growth is seen, noise and waves are not taken for it. The soak itself is scripts/soak."""

from __future__ import annotations

import math
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tests.soak import __main__ as soak
from tests.soak.samples import Sample
from tests.soak.slope import slope

HOURS = list(np.arange(480) * 10 / 3600)


def test_growth_is_estimated_and_its_bound_lies_above_it_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(1)
    for growth in (0.0, 1.5, 5.0):
        found = [slope(HOURS, list(100 + growth * np.array(HOURS) + random.normal(0, 0.3, 480))) for _ in range(400)]
        assert abs(np.mean([one.per_h for one in found]) - growth) < 0.05
        assert np.mean([one.upper95_per_h >= growth for one in found]) >= 0.93


def test_noise_that_is_alike_from_sample_to_sample_is_not_taken_for_certainty() -> None:
    random, inside = np.random.default_rng(2), 0
    for _ in range(300):
        steps, level, values = random.normal(0, 0.1, 480), 0.0, []
        for step in steps:
            level = 0.98 * level + step  # memory that swells and shrinks over minutes
            values.append(100 + level)
        inside += slope(HOURS, values).upper95_per_h >= 0.0
    assert inside / 300 >= 0.90


def test_three_megabytes_an_hour_are_above_two_with_certainty() -> None:
    random = np.random.default_rng(3)
    values = list(80 + 3.0 * np.array(HOURS) + random.normal(0, 0.5, 480))
    assert slope(HOURS, values).upper95_per_h > 2.0


def test_what_never_changes_does_not_grow_and_too_little_says_nothing() -> None:
    assert slope(HOURS, [5.0] * 480) == pytest.approx((0.0, 0.0))
    assert slope(HOURS[:12], [5.0] * 12).upper95_per_h == math.inf


def samples(shm_per_h: float) -> list[Sample]:
    """Two hours of one process that does not grow, and of a /dev/shm that does."""
    return [Sample(at, {"sniper": {"anonymous_mb": 50.0, "shared_mb": 5.0, "descriptors": 9.0, "threads": 2.0}},
                   {"shm_mb": 80 + shm_per_h * at / 3600, "ticks": at, "trades": at, "event_h": at, "restarts": 0}) for at in range(0, 7200, 10)]


@pytest.mark.parametrize(("shm_per_h", "told"), [(0.0, []), (1.9, []), (2.5, ["/dev/shm grows by up to 2.50 MB/h (95 %), the limit is 2"])])
def test_what_grows_in_shared_memory_is_a_fault_whoever_maps_it(shm_per_h: float, told: list[str]) -> None:
    wanted = Namespace(hours=2.0, ticks=0, trades=0, event_hours=0)
    found = samples(shm_per_h)
    assert soak.faults(found, soak.growth(found, 2.0), {"reconciled": True, "ticks_lost": 0}, wanted) == told


@pytest.mark.slow
def test_two_minutes_of_it_end_with_a_report(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak", "--hours", "0.035", "--speed", "100", "--folder", str(tmp_path), "--report",
                           str(tmp_path / "soak.md")], capture_output=True, text=True, timeout=280, check=False)
    assert "samples" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(("HOLDS", "BROKEN: "))
    assert "| sniper |" in (tmp_path / "soak.md").read_text()
