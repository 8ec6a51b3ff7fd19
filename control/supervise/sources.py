"""What a replay reads: `PATH` or `PATH=SYMBOL`, checked before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from control.supervise.instance import LaunchError
from hotpath.venues.record import SourceError
from hotpath.venues.replay import check_sources
from ipc.process import Source

#: what a file's name may say: market (spot, or USD-M perpetual) and Binance's name of the instrument
_NAME = re.compile(r"(?:^|[^a-z])(spot|usdm|um|swap|perp)_([a-z0-9]{2,12})(usdt)(?:[^a-z0-9]|$)")


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Sources of a replay in the order given. Raises LaunchError with every fault at once."""
    sources, faults = [_source(text) for text in texts], []
    try:
        check_sources(sources)
    except SourceError as error:
        faults += str(error).splitlines()
    for source in sources:
        if not source.symbol and not any(fault.startswith(f"{source.path}:") for fault in faults):
            faults.append(f"{source.path}: its name does not say which instrument it holds; "
                          f"write {source.path}=BTC/USDT (or =BTC/USDT:USDT)")
    if faults:
        raise LaunchError("\n".join(faults))
    return tuple(msgspec.structs.replace(source, path=str(Path(source.path).resolve())) for source in sources)


def _source(text: str) -> Source:
    path, separator, symbol = text.rpartition("=") if "=" in text and not os.path.exists(text) else (text, "", "")
    return Source(path=path, symbol=symbol if separator else symbol_of(Path(path).name))


def symbol_of(name: str) -> str:
    """Unified symbol that a file's name says, "" where it says none: spot_btcusdt_20240808.gz → BTC/USDT."""
    found = _NAME.search(name.lower())
    if not found:
        return ""
    market, base, quote = found.groups()
    unified = f"{base}/{quote}".upper()
    return unified if market == "spot" else f"{unified}:{quote.upper()}"


def symbols_of(sources: Sequence[Source]) -> tuple[str, ...]:
    """Each symbol once, in the order of its first source."""
    return tuple(dict.fromkeys(source.symbol for source in sources))
