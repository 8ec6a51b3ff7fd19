"""Latency histograms: log-linear, HIST_SUB sub-buckets per power of two, so that any quantile is within 3.2 %."""

from __future__ import annotations

from typing import Any

from ipc import layout as l
from ipc.jit import kernel


@kernel
def bucket_of(value: int) -> int:
    """Bucket of a latency in ns: values below 32 have their own, above it 32 buckets per power of two."""
    if value < l.HIST_SUB:
        return max(value, 0)
    exponent = 0
    while value >> exponent >= 2 * l.HIST_SUB:
        exponent += 1
    return min((exponent + 1) * l.HIST_SUB + (value >> exponent) - l.HIST_SUB, l.HIST_BUCKETS - 1)


@kernel
def record(histogram: Any, value: int) -> None:
    """Count one latency."""
    histogram[bucket_of(value)] += 1
