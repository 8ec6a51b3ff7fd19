"""Configuration of learning. control/config.py composes it as section [learning]."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Learning(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When it is looked at what trades say, and whether that changes plans. What it takes to be believed is not configured: docs/learning.md."""

    apply: Annotated[bool, Meta(description="what was learned changes plans; false: it is learned and told, and changes nothing")] = True
    trades_between_looks: Annotated[int, Meta(ge=1, le=10_000, description="reflection after so many closed trades")] = 10
    hours_between_looks: Annotated[float, Meta(gt=0, le=8760, description="or after so many hours, if a trade has closed since")] = 1.0
