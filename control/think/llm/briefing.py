"""What an LLM is told: plain data, filled by whoever knows it. Text from outside (coin names, headlines, earlier reasons) is data too.

Rows are in the order of their worth, best first: where the prompt would be too long, the last ones go.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

#: characters of a text from outside that are told
TEXT_MOST = 200
#: what is not shown: control, format (which turns the direction of writing, or is invisible), ends of lines, surrogates, private, tags, and what is
#: no character. By their numbers: what is assigned else is another thing with each Python, and a prompt must not be
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff\U000f0000-\U0010ffff"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(1, 15)) + "]")


def clean(text: str, most: int = TEXT_MOST) -> str:
    """Text from outside on one line: what cannot be seen becomes a space, and what is too long ends in an ellipsis."""
    line = " ".join(_UNSEEN.sub(" ", text[: 8 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the rows: what is not known is left out."""


class MarketRow(Row, frozen=True, kw_only=True):
    """One symbol. `mark` is the price that levels are bps from, in the quote currency; `costs_bps` a round trip: both fees and the spread;
    `volatility_bps` of a day; `volume_burst` the volume of the last minute by the average minute of the last hour; `funding_bps` of a perpetual's
    next funding, above 0 where longs pay."""

    symbol: str
    mark: float
    spread_bps: float | None = None
    costs_bps: float | None = None
    return_1m_bps: float | None = None
    return_5m_bps: float | None = None
    return_15m_bps: float | None = None
    return_1h_bps: float | None = None
    return_1d_bps: float | None = None
    volatility_bps: float | None = None
    range_low_bps: float | None = None
    range_high_bps: float | None = None
    volume_burst: float | None = None
    funding_bps: float | None = None
    regime: str = ""
    score: float | None = None
    patterns: list[str] = []
    short_allowed: bool = False


class HeldRow(Row, frozen=True, kw_only=True):
    """An open position. `gain_bps` is from the average entry, `share_bps` its value in bps of equity. `stop_bps` is what is lost at the stop, from
    the entry: below 0 it locks a gain in; `target_bps` what is gained at the target."""

    symbol: str
    side: Literal["buy", "sell"]
    share_bps: int
    gain_bps: float
    stop_bps: int | None = None
    target_bps: int | None = None
    open_minutes: float = 0.0


class RiskRow(Row, frozen=True, kw_only=True):
    """The account, with what all strategies have open: `gross_exposure_bps` is its value, working entries too, and `open_risk_bps` what is lost when
    every stop is hit from here, in bps of equity; `loss_today_bps` is since 00:00 UTC; limits as [limits] has them."""

    equity: float = 0.0
    cash: float = 0.0
    open_positions: int = 0
    most_open_positions: int | None = None
    entries_today: int = 0
    most_entries_per_day: int | None = None
    gross_exposure_bps: int = 0
    most_gross_exposure_bps: int | None = None
    open_risk_bps: int = 0
    loss_today_bps: float = 0.0
    most_daily_loss_bps: int | None = None
    least_confidence_bps: int | None = None


class ActiveRow(Row, frozen=True, kw_only=True):
    """A condition that is armed. `level_bps` is its distance from the mark now; one without such a level says what it `waits_for`."""

    symbol: str
    side: Literal["buy", "sell"]
    level_bps: int | None = None
    waits_for: str = ""
    minutes_left: int
    stop_bps: int = 0
    target_bps: int = 0
    strategy: str = ""
    why: str = ""


class CoinRow(Row, frozen=True, kw_only=True):
    """What has been learned of a coin: results after fees in the account currency, streak (−: losses), status, the scale of its sizes."""

    symbol: str
    trades: int = 0
    wins: int = 0
    pnl: float = 0.0
    streak: int = 0
    status: str = ""
    scale: float = 1.0


class RuleRow(Row, frozen=True, kw_only=True):
    """What has been learned of a pattern, a regime or an hour of the day (UTC): what follows from it. `edge_bps` is of a trade, after costs or as
    `measure` says."""

    name: str
    rule: str
    trades: int = 0
    edge_bps: float | None = None
    measure: str = ""


class ResultRow(Row, frozen=True, kw_only=True):
    """A closed trade."""

    symbol: str
    side: Literal["buy", "sell"]
    result_bps: float
    closed_minutes_ago: float
    exit: str = ""
    why: str = ""


class Knowledge(Row, frozen=True, kw_only=True):
    """What the system has learned, and holds every proposal to."""

    coins: list[CoinRow] = []
    blacklist: list[str] = []
    favourites: list[str] = []
    patterns: list[RuleRow] = []
    regimes: list[RuleRow] = []
    hours: list[RuleRow] = []


class Briefing(Struct, frozen=True, kw_only=True):
    """Everything that one prompt carries. `now_ns` is the event time of the plan that asks."""

    now_ns: int
    market: list[MarketRow]
    risk: RiskRow = RiskRow()
    held: list[HeldRow] = []
    active: list[ActiveRow] = []
    knowledge: Knowledge = Knowledge()
    results: list[ResultRow] = []
    headlines: list[str] = []
