"""Texts from outside in what is encoded: half a character (a lone surrogate, which a file's name or an exception may have) is in no UTF-8."""

from __future__ import annotations

from typing import Any

import msgspec


def encoded(encoder: Any, value: Any) -> bytes:
    """By one of msgspec's encoders; half a character becomes "?", and so ends nobody."""
    try:
        return bytes(encoder.encode(value))
    except UnicodeEncodeError:
        return bytes(encoder.encode(_whole(msgspec.to_builtins(value, builtin_types=(bytes,)))))


def _whole(value: Any) -> Any:
    """Plain data whose texts can be encoded."""
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {_whole(key): _whole(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_whole(entry) for entry in value]
    return value
