"""Names that users of freqtrade would type, answered with ours and the value converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: seconds of freqtrade's time frame letters
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Word:
    """A name of theirs: our path ("" where we have none), how a value is converted, and the rule in words."""

    path: str
    rule: str
    convert: Callable[[Any], Any] | None = None


def _bps(ratio: Any) -> int:
    return round(abs(float(ratio)) * 10_000)


def _first_roi(table: Any) -> int:
    """The target that freqtrade's table starts with: {"0": 0.04, "30": 0.02} → 400."""
    return _bps(table[min(table, key=int)] if isinstance(table, dict) else table)


def _timeframe_s(text: Any) -> int:
    return int(str(text)[:-1]) * _UNIT_S[str(text)[-1]]


WORDS: dict[str, Word] = {
    "stoploss": Word("strategy.stop_bps", "a stop is a distance in bps: |stoploss| × 10 000", _bps),
    "minimal_roi": Word("strategy.target_bps", "one target in bps: its first entry × 10 000; later entries become strategy.time_stop_s",
                        _first_roi),
    "trailing_stop": Word("strategy.trail_distance_bps", "trailing is on when the distance is above 0; 0 is off",
                          lambda on: None if on else 0),
    "trailing_stop_positive": Word("strategy.trail_distance_bps", "ratio × 10 000", _bps),
    "trailing_stop_positive_offset": Word("strategy.trail_activation_bps", "ratio × 10 000", _bps),
    "timeframe": Word("strategy.candle_s", "a candle in seconds", _timeframe_s),
    "max_open_trades": Word("limits.max_open_positions", "the same number; −1, no limit, is not offered",
                            lambda count: int(count) if int(count) >= 1 else None),
    "stake_amount": Word("strategy.size_bps", "a size is a share of equity in bps: stake_amount / wallet × 10 000, of a wallet of 10 000 "
                                              "the same number", lambda stake: round(float(stake))),
    "tradable_balance_ratio": Word("limits.max_symbol_exposure_bps", "the share of equity in one symbol, in bps", _bps),
    "dry_run_wallet": Word("paper.initial_balance", "the same number, in USDT",
                           lambda wallet: float(wallet.get("USDT", 0) if isinstance(wallet, dict) else wallet) or None),
    "fee": Word("paper.spot_taker_fee_bps", "ratio × 10 000, which strategies count with, too; maker and perpetual fees have their own fields",
                lambda ratio: float(ratio) * 10_000),
    "pair_whitelist": Word("run.symbols", "the same list", list),
    "strategy": Word("run.strategies", "a list of momentum, mean_reversion, analyst, llm or FILE.py:Class; their parameters are in [strategy]"),
    "strategy_path": Word("run.strategies", "name the file: FILE.py:Class"),
    "bot_name": Word("run.instance", "the same name", str),
    "user_data_dir": Word("run.data_dir", "the same folder", str),
    "max_entry_position_adjustment": Word("", "a position is not averaged; remove it"),
    "dry_run": Word("", "the mode is the command's first word: trader-launch paper; remove it"),
    "stake_currency": Word("", "the account is kept in USDT; remove it"),
    "trading_mode": Word("", "the symbol says it: BTC/USDT is spot, BTC/USDT:USDT a linear perpetual; remove it"),
    "margin_mode": Word("", "the symbol says it: BTC/USDT is spot, BTC/USDT:USDT a linear perpetual; remove it"),
    "exchange": Word("", "paper and replay need no exchange; its pair_whitelist is run.symbols here"),
}


def answer(name: str, value: Any) -> tuple[str, str] | None:
    """(what it is, what to write instead) for one of freqtrade's names, else None."""
    word = WORDS.get(name)
    if word is None:
        return None
    if not word.path:
        return "is freqtrade's name", word.rule
    try:
        converted = word.convert(value) if word.convert else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        converted = None
    ours = word.path if converted is None else f"{word.path} = {_toml(converted)}"
    return "is freqtrade's name", f"write {ours} ({word.rule})"


def _toml(value: Any) -> str:
    import json

    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
