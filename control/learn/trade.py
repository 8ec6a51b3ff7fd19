"""A trade with its whole context, as the knowledge store keeps it: why it was made, what the market was like, how it ended, and what came after.

Prices and amounts are floats here: they explain and are averaged; money that must agree to the last quantum is `pnl_quanta` and `fees_quanta`.
"""

from __future__ import annotations

from msgspec import Struct

from control.learn.exits import value_of
from control.learn.kinds import Family, Kind


class Trade(Struct, kw_only=True):
    """One round trip, or one that was only followed on paper (`made` false). Times are event times; None is not known (yet).

    Slippage is what was paid beyond the price at which the order was decided, `distance_bps` how far its level was from the last price when it was
    planned, `after_5m_bps` and `after_15m_bps` how much further the price went the trade's way after its exit (above 0: it was left too early).
    `version` is that of the knowledge at its opening; `plan_seq` and `exchange` are the plan and the prompt (its hash) that it came of.

    A position with a twin has its number in `twin`, a twin that of its position. The two compare `variant`, whose exits the position has where it is
    `adapted`, else the twin; by `variant_bps` the variant made more than the strategy's own exits.
    """

    position_id: int
    symbol: str
    strategy: str
    side: str
    made: bool = True
    condition_id: int = 0
    plan_seq: int = 0
    exchange: str = ""
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
    #: of a trade on paper: what is taken off its result
    assumed_slippage_bps: float = 0.0
    #: price at which its exits were decided, on average by their lots; of each leg lots and price of the first try, as the next ones are late
    exit_reference: float = 0.0
    exits: dict[int, tuple[int, float]] = {}
    exit_reason: str = ""
    pnl_quanta: int = 0
    fees_quanta: int = 0
    net_bps: float = 0.0
    #: by name, at the first fill: layout.CONTEXT_FEATURES; and funding_bps of a perpetual, when the entry was planned
    features: dict[str, float] = {}
    after_5m_bps: float | None = None
    after_15m_bps: float | None = None
    twin: int = 0
    variant: str = ""
    adapted: bool = False
    variant_bps: float | None = None

    def decided(self, leg: int, lots: int, price: float) -> None:
        """An exit goes out: the first try of a leg, or one more for what the tries before have left."""
        self.exits.setdefault(leg, (max(1, lots), price))
        self.exit_reference = sum(lots * at for lots, at in self.exits.values()) / sum(lots for lots, _ in self.exits.values())

    @property
    def kind(self) -> Kind:
        """What was known of it before it was made."""
        return Kind(self.symbol, self.strategy, self.side, self.pattern, self.regime)

    @property
    def values(self) -> dict[Family, str]:
        """Its value in every family that it belongs to."""
        return self.kind.values(self.opened_ns)

    @property
    def pair(self) -> str:
        """What it and its twin compare, as a value of the family exits; "" without one."""
        return value_of(self.strategy, self.variant) if self.variant else ""

    @property
    def sign(self) -> int:
        """1 for a long, −1 for a short."""
        return 1 if self.side == "buy" else -1
