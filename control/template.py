"""The commented configuration file that `trader-ctl config template` prints, made from the Structs, so that it cannot lag."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import Any

import msgspec

from control.config import Config
from control.faults import accepts, description, struct_of_list

_HEAD = """\
# Configuration of trader. Every line here is a default: uncomment what you change.
# TRADER_SECTION__KEY in the environment overrides a line (TRADER_LIMITS__MAX_OPEN_POSITIONS=3), a flag overrides both.
# Check it: trader-ctl config check FILE
"""


def template() -> str:
    """All sections with their defaults, commented out; it loads as it stands, and with every line uncommented too."""
    parts = [_HEAD]
    lists: list[str] = []
    for field in msgspec.structs.fields(Config):
        info = msgspec.inspect.type_info(field.type)
        if isinstance(info, msgspec.inspect.StructType):
            parts.append(_section(field.encode_name, info.cls, getattr(Config(), field.encode_name)))
            lists += [_example(f"[[{field.encode_name}.{inner.encode_name}]]", listed) for inner in msgspec.structs.fields(info.cls)
                      if (listed := struct_of_list(msgspec.inspect.type_info(inner.type))) is not None]
        elif isinstance(info, msgspec.inspect.DictType) and isinstance(info.value_type, msgspec.inspect.StructType):
            parts.append(_example(f'[{field.encode_name}."SYMBOL"]', info.value_type.cls))
    return "\n".join([*parts, *lists])


def _section(name: str, struct: type[Any], defaults: Any) -> str:
    lines = [*_comment(inspect.getdoc(struct) or ""), f"[{name}]"]
    for field in msgspec.structs.fields(struct):
        if struct_of_list(msgspec.inspect.type_info(field.type)) is not None:
            continue  # its example stands at the end
        about = description(field.type)
        lines.append(f"# {about + ': ' if about else ''}{accepts(field.type)}")
        lines.append(f"#{field.encode_name} = {toml(getattr(defaults, field.encode_name))}")
    return "\n".join(lines) + "\n"


def _example(head: str, struct: type[Any]) -> str:
    lines = [*_comment(inspect.getdoc(struct) or ""), f"#{head}"]
    for field in msgspec.structs.fields(struct):
        about = description(field.type)
        needed = "needed" if field.required else f"default {toml(field.default)}"
        lines.append(f"#{field.encode_name} = {'…' if field.required else toml(field.default)}"
                     f"   # {about + ': ' if about else ''}{accepts(field.type)}, {needed}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 120)]


def toml(value: Any) -> str:
    """A plain value as TOML; null, which TOML has not, is the word "none"."""
    if value is None:
        return '"none"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(entry) for entry in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return json.dumps(value)
