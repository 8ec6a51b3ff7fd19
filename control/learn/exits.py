"""Variants of a strategy's exits, and what a pair says of one: a position and its twin (hotpath/kernel/twins.py), which differ in one level. Pure.

A pair speaks to one claim: with the variant the strategy's trades make more than with its own exits, by `MARGIN_BPS` a trade at least. Both of a
pair have the same entry and the same market, so what is common to them is not there in their difference. It is always variant minus own, whichever of
the two was the position; the exit slippage of the position is taken out, as its twin has none.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

#: by how much a variant has to be better, in bps of a trade: beyond what costs and prices between two ticks may feign
MARGIN_BPS: Final = 2.0
#: exits that are the strategy's own: how a trade ends that nobody and no end of the data ends
OWN_EXITS: Final = frozenset({"stop", "trailing", "target", "time", "rung"})


class Variant(NamedTuple):
    """One level at another distance from the entry, in percent of the strategy's own."""

    name: str
    level: Literal["stop", "target"]
    percent: int

    @property
    def back(self) -> int:
        """The strategy's own distance in percent of the variant's."""
        return round(10_000 / self.percent)

    @property
    def larger(self) -> float:
        """By how much the loss at the stop grows, and an entry has to be smaller; 1.0 where it does not grow."""
        return max(1.0, self.percent / 100) if self.level == "stop" else 1.0


VARIANTS: Final = {one.name: one for one in (Variant("tighten stop", "stop", 75), Variant("widen stop", "stop", 150),
                                             Variant("tighten target", "target", 75), Variant("widen target", "target", 150))}


class Compared(NamedTuple):
    """What a twin compares: `adapted` where its position has the variant's exits, and the twin the strategy's own."""

    variant: Variant
    adapted: bool


_BY_PERCENT: Final = {(percent if one.level == "stop" else 0, percent if one.level == "target" else 0): Compared(one, adapted)
                      for one in VARIANTS.values() for percent, adapted in ((one.percent, False), (one.back, True))}
assert len(_BY_PERCENT) == 2 * len(VARIANTS), "a twin's percentages say what it compares"


def compared(stop_pct: int, target_pct: int) -> Compared | None:
    """What a condition's twin compares; None where it has none that is known here."""
    return _BY_PERCENT.get((stop_pct, target_pct))


def value_of(strategy: str, variant: str) -> str:
    """The value of such a claim."""
    return f"{strategy} {variant}"


def parts(value: str) -> tuple[str, Variant]:
    """(strategy, variant) of it. Raises KeyError for what is none."""
    strategy, *words = value.rsplit(" ", 2)
    return strategy, VARIANTS[" ".join(words)]


def pair_span_bps(stops: tuple[float, float], targets: tuple[float, float]) -> float:
    """How far the results of two trades with one entry may be apart: from the wider stop to the wider target, and a quarter more for gaps. Without
    targets five stops are one, as of a single trade (evidence.span_bps); without stops a target is one."""
    stop, target = max(stops), max(targets)
    return 1.25 * ((stop or target) + (target or 5.0 * stop)) or 1000.0
