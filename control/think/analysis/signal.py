"""What the rules say of a symbol: which way, how sure, by which pattern, and how far stop and target are; or that nothing is to be done, and why.

    analysis ─► rules.py ─► Signal ─► sizing.py ─► conditions.py ─► armed
                        └─► NoTrade(reason)

A Signal says nothing of size, level or order: those come of sizing.py and conditions.py.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from control.think.analysis.findings import PatternName, RegimeName, Side
from ipc.messages import Symbol

Distance = Annotated[int, Meta(ge=1, le=9_999)]


class Signal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trade that is wanted. Stop and target are bps from the entry, `cost_bps` what entry and exit cost together: fees and spread."""

    symbol: Symbol
    side: Side
    confidence: Annotated[float, Meta(ge=0, le=1)]
    pattern: PatternName
    regime: RegimeName
    stop_bps: Distance
    target_bps: Distance
    cost_bps: Annotated[float, Meta(ge=0, le=10_000)]
    time_stop_s: Annotated[int, Meta(ge=60, le=7 * 86_400)]
    why: Annotated[str, Meta(min_length=1, max_length=300)]


class NoTrade(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That nothing is to be done in a symbol, and why."""

    symbol: Symbol
    reason: Annotated[str, Meta(min_length=1, max_length=300)]
