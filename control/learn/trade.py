"""A trade with its whole context, as the knowledge store keeps it: why it was made, what the market was like, how it ended, and what came after.

Prices and amounts are floats here: they explain and are averaged; money that must agree to the last quantum is `pnl_quanta` and `fees_quanta`.
"""

from __future__ import annotations

from msgspec import Struct

from control.learn.kinds import Family, Kind


class Trade(Struct, kw_only=True):
    """One round trip, or one that was only followed on paper (`made` false). Times are event times; None is not known (yet).

    Slippage is what was paid beyond the price at which the order was decided, `distance_bps` how far its level was from the last price when it was
    planned, `after_5m_bps` and `after_15m_bps` how much further the price went the trade's way after its exit (above 0: it was left too early).
    `version` is that of the knowledge at its opening.
    """

    position_id: int
    symbol: str
    strategy: str
    side: str
    made: bool = True
    condition_id: int = 0
    pattern: str = ""
    regime: str = ""
    why: str = ""
    confidence: float | None = None
    version: int = 0
    opened_ns: int = 0
    closed_ns: int = 0
    entry_price: float = 0.0
    exit_price: float = 0.0
    amount: float = 0.0
    stop_bps: float = 0.0
    target_bps: float = 0.0
    span_bps: float = 0.0
    distance_bps: float | None = None
    entry_slippage_bps: float | None = None
    exit_slippage_bps: float | None = None
    #: price at which the last exit was decided
    exit_reference: float = 0.0
    exit_reason: str = ""
    pnl_quanta: int = 0
    fees_quanta: int = 0
    net_bps: float = 0.0
    #: by name, at the first fill: layout.CONTEXT_FEATURES; and funding_bps of a perpetual, when the entry was planned
    features: dict[str, float] = {}
    after_5m_bps: float | None = None
    after_15m_bps: float | None = None

    @property
    def kind(self) -> Kind:
        """What was known of it before it was made."""
        return Kind(self.symbol, self.strategy, self.side, self.pattern, self.regime)

    @property
    def values(self) -> dict[Family, str]:
        """Its value in every family that it belongs to."""
        return self.kind.values(self.opened_ns)

    @property
    def sign(self) -> int:
        """1 for a long, −1 for a short."""
        return 1 if self.side == "buy" else -1
