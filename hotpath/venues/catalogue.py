"""Instruments by unified symbol: what the program knows of them, what the config overrides, and what may be admitted.

An instrument is admitted only if its arithmetic is exact in int64: tick × lot a whole number of quanta, and the largest order at the
largest price below 2^62 quanta. Imports no numba: the watchdog writes the rows at start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

import numpy as np

from hotpath.config import Instrument, Paper
from ipc import layout as l

#: the account's currency and its smallest part, as a power of ten
ACCOUNT_CURRENCY: Final = "USDT"
QUANTUM_EXPONENT: Final = -8
#: bounds of exact arithmetic: quanta of the largest order, lots of an order
MAX_QUANTA: Final = 1 << 62
MAX_LOTS: Final = (1 << 31) - 1
#: highest price taken as real where nothing else is known, in the quote currency
HIGHEST_PRICE: Final = Decimal(1_000_000)
_SYMBOL = re.compile(r"^([A-Z0-9]{1,15})/([A-Z0-9]{1,15})(?::([A-Z0-9]{1,15}))?$")


class Known(NamedTuple):
    """Decimal strings as the venue publishes them; `max_price` in the quote currency."""

    tick_size: str
    lot_size: str
    min_notional: str
    max_quantity: str
    max_price: str


#: what is known without asking a venue (Binance's filters, sizes rounded to what fits exactly)
KNOWN: Final[dict[str, Known]] = {
    "BTC/USDT": Known("0.01", "0.00001", "5", "9000", "1000000"),
    "ETH/USDT": Known("0.01", "0.0001", "5", "9000", "1000000"),
    "SOL/USDT": Known("0.01", "0.001", "5", "90000", "100000"),
    "XRP/USDT": Known("0.0001", "0.1", "5", "9000000", "1000"),
    "DOGE/USDT": Known("0.00001", "1", "5", "90000000", "100"),
    "BTC/USDT:USDT": Known("0.1", "0.001", "100", "1000", "1000000"),
    "ETH/USDT:USDT": Known("0.01", "0.001", "20", "10000", "1000000"),
    "SOL/USDT:USDT": Known("0.01", "0.1", "5", "90000", "100000"),
    "XRP/USDT:USDT": Known("0.0001", "0.1", "5", "9000000", "1000"),
    "DOGE/USDT:USDT": Known("0.00001", "1", "5", "50000000", "100"),
    "LAYER/USDT:USDT": Known("0.0001", "0.1", "5", "1000000", "1000"),
}
#: instruments of the simulated market, in the order of their streams
SIMULATED: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "BTC/USDT:USDT", "ETH/USDT:USDT", "DOGE/USDT:USDT")


class Refusal(NamedTuple):
    """Why an instrument is not admitted: the config path or symbol, what is wrong, what to do."""

    path: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}; {self.remedy}"


class CatalogueError(Exception):
    """Instruments that are not admitted, all of them, in `refusals`."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("\n".join(str(refusal) for refusal in self.refusals))


def default_symbols(market: str) -> tuple[str, ...]:
    """What is traded when nobody names symbols: all of the simulated market; of a replay, whatever its sources hold (empty here)."""
    return SIMULATED if market == "simulated" else ()


def resolve(symbols: Sequence[str], overrides: Mapping[str, Instrument] | None = None, paper: Paper | None = None,
            market: str = "") -> np.ndarray[Any, Any]:
    """Rows for the instruments segment, one a symbol in the order given (its id); fees are the paper venue's.

    Raises CatalogueError with every refusal. With `market` "simulated", symbols that it does not simulate are refused too.
    """
    rows = np.zeros(len(symbols), l.INSTRUMENT)
    refusals: list[Refusal] = []
    for index, symbol in enumerate(symbols):
        try:
            if symbol in symbols[:index]:
                raise _refuse(f"symbols[{index}]", f"{symbol} is there twice", "name each symbol once")
            if market == "simulated" and symbol not in SIMULATED and _SYMBOL.match(symbol):
                raise _refuse(f"symbol {symbol}", "the simulated market has no such instrument", f"choose of {', '.join(SIMULATED)}")
            rows[index] = _row(symbol, (overrides or {}).get(symbol), paper or Paper())
        except CatalogueError as error:
            refusals += error.refusals
    if refusals:
        raise CatalogueError(refusals)
    return rows


def _refuse(path: str, text: str, remedy: str) -> CatalogueError:
    return CatalogueError([Refusal(path, text, remedy)])


def parse_symbol(symbol: str) -> tuple[str, str, str, int]:
    """(base, quote, settle, kind) of a unified symbol. Raises CatalogueError for what cannot be traded here."""
    path = f"symbol {symbol!r}"
    matched = _SYMBOL.match(symbol)
    if not matched:
        raise _refuse(path, "is not a unified symbol", "write BASE/USDT for spot or BASE/USDT:USDT for a linear perpetual, in capitals")
    base, quote, settle = matched.groups()
    if settle is not None and settle == base:
        raise _refuse(path, f"is an inverse contract, settled in {settle}", f"use the linear one, {base}/USDT:USDT")
    if quote != ACCOUNT_CURRENCY or settle not in (None, ACCOUNT_CURRENCY):
        raise _refuse(path, f"is quoted in {quote}" + (f" and settled in {settle}" if settle else ""),
                      f"the account is in {ACCOUNT_CURRENCY}: use {base}/USDT or {base}/USDT:USDT")
    return base, quote, settle or "", l.KIND_LINEAR_PERPETUAL if settle else l.KIND_SPOT


def _row(symbol: str, override: Instrument | None, paper: Paper) -> Any:
    base, quote, settle, kind = parse_symbol(symbol)
    known = KNOWN.get(symbol)
    if override is not None:
        facts = Known(override.tick_size, override.lot_size, override.min_notional, override.max_quantity, known.max_price if known else "")
    elif known is not None:
        facts = known
    else:
        raise _refuse(f"symbol {symbol!r}", "is not in the catalogue",
                      f'state it in the config: [instruments."{symbol}"] tick_size = "0.01", lot_size = "0.001"')
    path = f'instruments."{symbol}"'
    tick, lot, max_quantity = (_positive(path, name, getattr(facts, name)) for name in ("tick_size", "lot_size", "max_quantity"))
    value = tick * lot / Decimal((0, (1,), QUANTUM_EXPONENT))
    if value != int(value):
        raise _refuse(path, f"one tick × one lot is {tick * lot:f} {quote}, not a whole number of 1e{QUANTUM_EXPONENT}",
                      "use a coarser tick_size or lot_size")
    lots = int(max_quantity / lot)
    if not 1 <= lots <= MAX_LOTS:
        raise _refuse(f"{path}.max_quantity", f"{max_quantity:f} is {lots} lots, outside 1 … {MAX_LOTS}",
                      f"use at most {lot * MAX_LOTS:f}" if lots else f"use at least {lot:f}")
    highest = _highest_price(path, facts.max_price, tick, lots, int(value))
    leverage = override.leverage if override else 1
    if kind == l.KIND_SPOT and leverage != 1:
        raise _refuse(f"{path}.leverage", f"is {leverage}, but spot has none", f"remove it, or trade {base}/USDT:USDT")
    perpetual = kind == l.KIND_LINEAR_PERPETUAL
    row = np.zeros(1, l.INSTRUMENT)[0]
    for name, text in (("symbol", symbol), ("venue_symbol", base + quote), ("base", base), ("quote", quote), ("settle", settle or quote)):
        row[name] = text.encode()
    row["kind"] = kind
    row["tick_mantissa"], row["tick_exponent"] = mantissa_exponent(tick)
    row["lot_mantissa"], row["lot_exponent"] = mantissa_exponent(lot)
    row["multiplier"], row["value_quanta"], row["quantum_exponent"] = 1, int(value), QUANTUM_EXPONENT
    row["min_notional"] = _quanta(path, facts.min_notional)
    row["max_lots"], row["max_price"] = lots, highest
    row["maker_fee_e8"] = round((paper.perpetual_maker_fee_bps if perpetual else paper.spot_maker_fee_bps) * 10_000)
    row["taker_fee_e8"] = round((paper.perpetual_taker_fee_bps if perpetual else paper.spot_taker_fee_bps) * 10_000)
    row["leverage"], row["admitted"] = leverage, 1
    return row


def _highest_price(path: str, stated: str, tick: Decimal, lots: int, value: int) -> int:
    """Highest price in ticks; where none is stated, as high as the largest order leaves room for."""
    fits = (MAX_QUANTA - 1) // (lots * value)
    wanted = int((Decimal(stated) if stated else HIGHEST_PRICE) / tick)
    if stated and wanted > fits:
        raise _refuse(f"{path}.max_quantity", f"at a price of {stated} the largest order is 2^62 quanta or more",
                      f"use at most {lots * fits // wanted} lots")
    if min(wanted, fits) < 1:
        raise _refuse(f"{path}.max_quantity", "leaves no price at which the largest order stays below 2^62 quanta", "use a smaller one")
    return min(wanted, fits)


def _positive(path: str, name: str, text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise _refuse(f"{path}.{name}", f"{text!r} is not a decimal number", 'write it like "0.01"') from None
    if not number.is_finite() or number <= 0 or number > Decimal(10) ** 18 or number < Decimal(10) ** -18:
        raise _refuse(f"{path}.{name}", f"{text} is not between 1e-18 and 1e18", 'write it like "0.01"')
    return number


def _quanta(path: str, text: str) -> int:
    if text.strip("0.") == "":
        return 0
    return math.ceil(_positive(path, "min_notional", text) / Decimal((0, (1,), QUANTUM_EXPONENT)))


def mantissa_exponent(size: Decimal) -> tuple[int, int]:
    """A tick or lot size as (mantissa, exponent) without trailing zeros: 0.50 → (5, −1)."""
    _, digits, exponent = size.normalize().as_tuple()
    return int("".join(map(str, digits))), int(exponent)
