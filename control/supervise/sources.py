"""What a replay reads: `PATH` or `PATH=SYMBOL`, checked before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from control.supervise.instance import LaunchError
from ipc.process import Source

#: what a file's name may say: market (spot, or USD-M perpetual) and Binance's name of the instrument
_NAME = re.compile(r"(?:^|[^a-z])(spot|usdm|um|swap|perp)_([a-z0-9]{2,12})(usdt)(?:[^a-z0-9]|$)")


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Sources of a replay in the order given. Raises LaunchError with every fault at once."""
    sources, faults = [], []
    for text in texts:
        try:
            sources.append(_source(text))
        except LaunchError as error:
            faults.append(str(error))
    if not texts:
        faults.append("replay: names no file; write trader-launch replay PATH…, each PATH or PATH=SYMBOL")
    if faults:
        raise LaunchError("\n".join(faults))
    return tuple(sources)


def _source(text: str) -> Source:
    path, separator, symbol = text.rpartition("=") if "=" in text and not os.path.exists(text) else (text, "", "")
    file = Path(path)
    if not file.is_file():
        raise LaunchError(f"{path}: {'is a folder' if file.is_dir() else 'no such file'}; name a recorded file, as PATH or PATH=SYMBOL")
    if not os.access(file, os.R_OK):
        raise LaunchError(f"{path}: may not be read by this user; chmod it")
    if not separator:
        symbol = symbol_of(file.name)
    if not symbol:
        raise LaunchError(f"{path}: its name does not say which instrument it holds; write {path}=BTC/USDT (or =BTC/USDT:USDT)")
    return Source(path=str(file.resolve()), symbol=symbol)


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
