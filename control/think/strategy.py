"""What a strategy sees and gives, and how one is found by its name. Imports neither numba nor shared memory.

A strategy is a class with `plan(market, portfolio, knowledge) -> list[Condition] | None`; deriving from `Strategy` is convenient, not needed:

```python
from control.think.strategy import Condition, Strategy, equity_bps

class Breakout(Strategy):
    interval_s = 60

    def plan(self, market, portfolio, knowledge):
        conditions = []
        for symbol, facts in market.facts.items():
            candles = market.candles(symbol, minutes=15)
            if len(candles) and symbol not in portfolio.positions:
                conditions.append(Condition(
                    symbol=symbol, side="buy", level=facts.price_text(candles.high.max() * 1.0005, "up"), direction="up",
                    size=equity_bps(200), confidence=0.8, stop_bps=50, target_bps=80, time_stop_s=600, why="15 minute high"))
        return conditions
```

A condition may wait for a level, a move from an anchor, a feature or a rebound, and say how its position is protected and sold (stop, target,
break-even, trailing, ladder): ipc/messages.py has every field.

`plan` is called at each multiple of `interval_s` of event time with everything before that instant and nothing after it. What it
gives replaces all that this strategy had armed; hotpath.condition_capacity is the most. None instead of a list keeps what is armed, each condition
to its own expiry: for a strategy that has nothing new to say. Where there is no list of it yet,
or its last one was refused, None is a fault. It is called in the strategist's main thread: one
that does not come back misses the heartbeat, and the watchdog replaces the process. The same file runs in paper, replay and backtest;
reading a clock or a file in it breaks that.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from control.think import config
from control.think.analysis.config import Analysis
from ipc.messages import Clause, Condition, Rung, Size

__all__ = ["Candles", "Clause", "CoinStatus", "Condition", "Facts", "Held", "KnowledgeView", "Market", "Portfolio", "Rung", "Size",
           "Strategy", "StrategyError", "equity_bps", "load", "look_over", "name_of"]

#: built-in strategies by name: module and class
BUILT_IN = {"momentum": ("control.think.momentum", "Momentum"), "mean_reversion": ("control.think.mean_reversion", "MeanReversion"),
            "analyst": ("control.think.analyst", "Analyst"),
            "llm": ("control.think.advised", "Advised")}
_ROUNDINGS = {"up": ROUND_CEILING, "down": ROUND_FLOOR, "nearest": ROUND_HALF_EVEN}


class StrategyError(Exception):
    """A strategy that cannot be loaded, or whose output cannot be used; the text ends in the remedy."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(f"{text}; {remedy}")
        self.text, self.remedy = text, remedy


@dataclass(frozen=True)
class Candles:
    """Consecutive closed candles, oldest first; all arrays have one length n. A candle without trades repeats the last close, volume 0.

    time_ns: int64 start of each (Unix); open, high, low, close: float64 in the quote currency; volume: float64 in the base currency;
    trades: int64. candle_s is their length.
    """

    candle_s: int
    time_ns: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    trades: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True)
class Facts:
    """An instrument: its symbol, whether it may be sold short, its smallest steps in price and size, and the fee of an order that takes from the
    book, in bps of its value."""

    symbol: str
    short_allowed: bool
    tick_size: Decimal
    lot_size: Decimal
    min_notional: Decimal
    fee_bps: float

    def price_text(self, price: float, rounding: Literal["up", "down", "nearest"] = "nearest") -> str:
        """A price as the decimal string of a whole number of ticks, at least one. Raises ValueError for what is not a finite price."""
        if not math.isfinite(price) or price <= 0:
            raise ValueError(f"{self.symbol}: {price} is no price")
        exact = round(Decimal(repr(float(price))) / self.tick_size, 6)  # the noise of floats is no reason to go a tick further
        ticks = max(Decimal(1), exact.to_integral_value(_ROUNDINGS[rounding]))
        return format((ticks * self.tick_size).normalize(), "f")


@dataclass(frozen=True)
class Quote:
    """Newest prices before the plan's instant; NaN where none has been seen in this session."""

    last: float
    bid: float
    ask: float

    @property
    def spread_bps(self) -> float:
        """Spread in bps of the mid (NaN without a quote)."""
        return 2e4 * (self.ask - self.bid) / (self.ask + self.bid) if self.bid > 0 else math.nan


@dataclass(frozen=True)
class Market:
    """The market as it was before `now_ns`. Candles are copied when asked for, so asking for few minutes is cheap."""

    now_ns: int
    candle_s: int
    facts: Mapping[str, Facts]
    quotes: Mapping[str, Quote]
    #: (symbol, most candles) → Candles
    window: Callable[[str, int], Candles]
    #: rate of a perpetual's next funding in bps of a position's value, above 0 where longs pay; only symbols of which it is known
    funding_bps: Mapping[str, float] = field(default_factory=dict)

    def candles(self, symbol: str, minutes: float | None = None) -> Candles:
        """The last closed candles of a symbol: at most `minutes`, or all that are kept. Fewer (or none) while it is warming up."""
        count = 1 << 30 if minutes is None else max(1, round(minutes * 60 / self.candle_s))
        return self.window(symbol, count)


@dataclass(frozen=True)
class Held:
    """An open (or opening, or closing) position of this strategy. Amount in the base currency; state as in layout.POSITION_STATES."""

    symbol: str
    side: Literal["buy", "sell"]
    amount: float
    entry_price: float
    opened_ns: int
    state: str
    #: 0.0: none
    stop_price: float = 0.0
    target_price: float = 0.0


@dataclass(frozen=True)
class Portfolio:
    """The account in its currency, and this strategy's positions by symbol. `planned_ns`: event time of its last list of conditions, 0 without.

    `armed()` gives what of that may still fire, as it was armed, each with the event time of its plan."""

    cash: float = 0.0
    equity: float = 0.0
    open_positions: int = 0
    entries_today: int = 0
    positions: Mapping[str, Held] = field(default_factory=dict)
    planned_ns: int = 0
    #: value of what all strategies together have open or working, by symbol, both sides added, at the last price
    exposure: Mapping[str, float] = field(default_factory=dict)
    #: what all open positions together lose from now to their stops; those without one are not in it
    open_risk: float = 0.0
    #: equity at 00:00 UTC of event time, or when the run began; 0 where it is not known yet
    day_start_equity: float = 0.0
    armed: Callable[[], list[tuple[int, Condition]]] = list


@dataclass(frozen=True)
class CoinStatus:
    """What has been learned of a coin: trades, wins, P&L after fees in the account currency, streak (−: losses), status, and averages of its trades
    in bps. By `scale` the size of its entries will be multiplied, whoever asks for them (0: they are only followed on paper).

    `last_trade_ns`: when its last trade closed."""

    trades: int = 0
    wins: int = 0
    pnl: float = 0.0
    streak: int = 0
    status: str = "unknown"
    scale: float = 1.0
    mean_bps: float = 0.0
    trend_bps: float = 0.0
    average_win_bps: float = 0.0
    average_loss_bps: float = 0.0
    last_trade_ns: int = 0


class KnowledgeView(Protocol):
    """What a strategy may know of a symbol's record; a symbol never traded has status "unknown" and scale 1."""

    def coin(self, symbol: str) -> CoinStatus:
        """Record of a symbol."""
        ...


class Strategy:
    """Base of strategies. interval_s 0 is the configured one; `self.config` is the section [strategy], `self.analysis` is [analysis]."""

    interval_s: int = 0

    def __init__(self, settings: config.Strategy | None = None, analysis: Analysis | None = None) -> None:
        self.config = settings or config.Strategy()
        self.analysis = analysis or Analysis()

    def plan(self, market: Market, portfolio: Portfolio, knowledge: KnowledgeView) -> list[Condition] | None:
        """All conditions that shall be armed from now on; None where what is armed shall stay."""
        raise NotImplementedError

    def warmup_left_s(self, market: Market) -> float:
        """Seconds until the first symbol has the candles that it needs; 0 when one has."""
        return 0.0


def equity_bps(bps: float) -> Size:
    """A size as a share of equity, at least 1 bps."""
    return Size(kind="equity_bps", value=str(max(1, min(10_000, math.floor(bps)))))


def name_of(spec: str) -> str:
    """The name under which a strategy trades: a built-in one's own, else the class's. Loads nothing. Raises StrategyError."""
    if spec in BUILT_IN:
        return spec
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,47}", name):
        raise StrategyError(f"strategy {spec!r} is none of {', '.join(BUILT_IN)} and not of the form FILE.py:Class",
                            "name a built-in one, or a file and the class in it")
    return name


def look_over(path: Path, name: str) -> None:
    """Refuse a file that cannot be read as Python or says nothing of the class, without running any of it. Raises StrategyError."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise StrategyError(f"{path}{place}: {error.msg}", "mend that line") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StrategyError(f"{path}: not readable as Python: {error}", "give a Python file that this user may read") from None
    said = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    if name in said:
        return
    # an imported or computed class is found out only by running the file
    text = ast.dump(tree)
    if f"'{name}'" not in text and "'*'" not in text:
        raise StrategyError(f"{path}: has no class {name}", f"name one that it defines: {', '.join(sorted(said))}" if said
                            else f"define it there: class {name}: with plan(self, market, portfolio, knowledge)")


def load(spec: str, settings: config.Strategy, analysis: Analysis | None = None) -> Any:
    """The strategy that `spec` names, made. A user's own __init__ is given [strategy] alone; what derives from Strategy has [analysis] from then on.

    Raises StrategyError with a remedy; whatever a user's file raises becomes its text.
    """
    name = name_of(spec)
    if spec in BUILT_IN:
        module, name = BUILT_IN[spec]
        built: Strategy = getattr(importlib.import_module(module), name)(settings, analysis)
        return built
    path = Path(spec.rpartition(":")[0]).expanduser()
    if not path.is_file():
        raise StrategyError(f"strategy {spec!r}: there is no file {path}", "give its path from the current folder, or the whole one")
    kind: Any = getattr(_module(path), name, None)
    if not inspect.isclass(kind):
        raise StrategyError(f"strategy {spec!r}: {path.name} has no class {name}", "name a class that the file defines")
    if not callable(getattr(kind, "plan", None)):
        raise StrategyError(f"strategy {spec!r}: {name} has no method plan(market, portfolio, knowledge)", "see control/think/strategy.py")
    try:
        made = _make(kind, settings)
        inspect.signature(made.plan).bind(None, None, None)
        interval = getattr(made, "interval_s", 0)
    except Exception as error:
        raise StrategyError(f"strategy {spec!r}: making it raised {type(error).__name__}: {error}",
                            "its __init__ takes nothing or the section [strategy], plan takes (market, portfolio, knowledge)") from error
    if isinstance(made, Strategy) and analysis is not None:
        made.analysis = analysis
    if isinstance(interval, bool) or not isinstance(interval, int) or not 0 <= interval <= 86_400:
        raise StrategyError(f"strategy {spec!r}: interval_s is {interval!r}", "give whole seconds, or 0 for the configured interval")
    return made


def _module(path: Path) -> Any:
    title = f"strategy_{path.stem}"
    found = importlib.util.spec_from_file_location(title, path)
    if found is None or found.loader is None:
        raise StrategyError(f"{path} cannot be imported", "give a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[title] = module  # dataclasses and pickles look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # what lies beside it may be imported, but shadows nothing of ours
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        place = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise StrategyError(f"{path}: importing it raised {type(error).__name__}{place}: {error}", "mend the file") from error
    return module


def _make(kind: Any, settings: config.Strategy) -> Any:
    try:
        inspect.signature(kind).bind(settings)
    except TypeError:
        return kind()
    return kind(settings)
