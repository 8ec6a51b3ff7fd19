"""What is wrong with a configuration, all at once: each fault by its path, with its source and what to do.

msgspec stops at the first fault; a person wants them all. So each field is converted on its own, against the type that its Struct
declares, and what a field accepts is told from that same type.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from control import freqtrade

#: what stands for null in TOML and in the environment, which have none
NOTHING = ("none", "null")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `path` is the field ("limits.max_open_positions") or file, `source` where its value came from."""

    path: str
    text: str
    remedy: str
    source: str = ""

    def __str__(self) -> str:
        origin = f" (from {self.source})" if self.source else ""
        return f"{self.path}{origin}: {self.text}; {self.remedy}"


class ConfigError(Exception):
    """A configuration that cannot be used, with all its faults; a program ends with exit code 78."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def check_tree(root: type[Any], tree: Mapping[str, Any], source: str, origins: Mapping[str, str]) -> list[Fault]:
    """All faults of a tree of plain values that is to become the Struct `root`; `origins` names sources by path where they differ."""
    return list(_Check(root, source, origins).section(root, tree, ""))


@dataclass(frozen=True)
class _Check:
    root: type[Any]
    source: str
    origins: Mapping[str, str]

    def fault(self, path: str, text: str, remedy: str) -> Fault:
        return Fault(path, text, remedy, self.origins.get(path, self.source))

    def section(self, struct: type[Any], tree: Mapping[str, Any], prefix: str) -> Iterator[Fault]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        for key, value in tree.items():
            if key in fields:
                yield from self.value(fields[key].type, value, f"{prefix}{key}")
            else:
                yield self.fault(f"{prefix}{key}", *self.unknown(list(fields), prefix, str(key), value))
        for key, field in fields.items():
            if field.required and key not in tree:
                yield self.fault(f"{prefix}{key}", "is missing", f"give {accepts(field.type)}")

    def value(self, kind: Any, value: Any, path: str) -> Iterator[Fault]:
        info = inspect.type_info(kind)
        if isinstance(info, inspect.StructType):
            if isinstance(value, dict):
                faults = list(self.section(info.cls, value, f"{path}."))
                yield from faults or self.whole(info.cls, value, path)
            else:  # freqtrade has a word where we have a section: strategy
                known = freqtrade.answer(path, value)
                yield self.fault(path, *(known or (f"is a section, not {describe(value)}", f"write [{path}] and its fields below")))
        elif isinstance(info, inspect.DictType) and isinstance(info.value_type, inspect.StructType):
            if not isinstance(value, dict):
                yield self.fault(path, f"is a table of sections, not {describe(value)}", f'write [{path}."NAME"] and its fields below')
                return
            for key, entry in value.items():
                yield from self.value(info.value_type.cls, entry, f"{path}.{json.dumps(key)}")
        elif (listed := struct_of_list(info)) is not None:
            yield from self.tables(listed, _parts(info)[0].max_length, value, path)
        else:
            try:
                msgspec.convert(nothing_as_null(kind, value), kind)
            except msgspec.ValidationError:
                yield self.fault(path, f"is {describe(value)}", f"give {accepts(kind)}")

    def tables(self, struct: type[Any], most: int | None, value: Any, path: str) -> Iterator[Fault]:
        """A list of tables; of what stands there instead nothing is shown, as somebody may have put a secret there."""
        if not isinstance(value, list | tuple) or not all(isinstance(entry, dict) for entry in value):
            yield self.fault(path, "is not a list of tables", f"write [[{path}]] and its fields below, once for each")
            return
        if most is not None and len(value) > most:
            yield self.fault(path, f"has {len(value)} tables", f"give at most {most}")
        for index, entry in enumerate(value):
            yield from self.value(struct, entry, f"{path}[{index}]")

    def whole(self, struct: type[Any], value: dict[str, Any], path: str) -> Iterator[Fault]:
        """What a section's own check says ("field: text; remedy"), once each of its fields is well."""
        try:
            msgspec.convert(words_as_values(struct, value), struct)
        except msgspec.ValidationError as error:
            said = str(error).partition(" - at `$")[0]
            field, _, rest = said.partition(": ")
            text, _, remedy = (rest or said).partition("; ")
            yield self.fault(f"{path}.{field}" if rest else path, text, remedy or "change it")

    def unknown(self, here: list[str], prefix: str, key: str, value: Any) -> tuple[str, str]:
        everywhere = [path for path, _ in leaves(self.root)]
        if moved := [path for path in everywhere if path.rpartition(".")[2] == key]:
            return "stands in the wrong section", f"write it as {moved[0]}"
        if known := freqtrade.answer(key, value):
            return known
        if near := difflib.get_close_matches(key, here, 1, 0.6):
            return "is not known", f"did you mean {prefix}{near[0]}?"
        if near := difflib.get_close_matches(key, [path.rpartition(".")[2] for path in everywhere], 1, 0.75):
            return "is not known", f"did you mean {next(path for path in everywhere if path.endswith('.' + near[0]))}?"
        return "is not known", f"remove it; known here: {', '.join(here)}"


def struct_of_list(info: Any) -> type[Any] | None:
    """The Struct of a list of tables; None for every other type."""
    if isinstance(info, inspect.Metadata):
        return struct_of_list(info.type)
    listed = isinstance(info, inspect.VarTupleType | inspect.ListType) and isinstance(info.item_type, inspect.StructType)
    return info.item_type.cls if listed else None


def leaves(struct: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, type) of every plain field below a Struct; tables of sections, and lists of them, are left out."""
    for field in msgspec.structs.fields(struct):
        info = inspect.type_info(field.type)
        if isinstance(info, inspect.StructType):
            yield from leaves(info.cls, f"{prefix}{field.encode_name}.")
        elif not isinstance(info, inspect.DictType) and struct_of_list(info) is None:
            yield f"{prefix}{field.encode_name}", field.type


def resolve(struct: type[Any], path: str, text: str) -> Any:
    """Text from the environment or a flag as the plain value that its field takes; unchanged where it fits nothing."""
    kind = dict(leaves(struct)).get(path)
    if kind is None:
        return text
    if any(isinstance(part, inspect.VarTupleType | inspect.ListType) for part in _parts(inspect.type_info(kind))):
        return [part.strip() for part in text.split(",") if part.strip()]
    value = nothing_as_null(kind, text)
    if value is None:
        return None
    try:
        return msgspec.to_builtins(msgspec.convert(value, kind, strict=False))
    except msgspec.ValidationError:
        return text


def words_as_values(struct: type[Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with "none" turned into null where a field may be null."""
    kinds = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    result: dict[str, Any] = {}
    for key, value in tree.items():
        info = inspect.type_info(kinds[key])
        if isinstance(info, inspect.StructType):
            result[key] = words_as_values(info.cls, value)
        elif (listed := struct_of_list(info)) is not None:
            result[key] = [words_as_values(listed, entry) for entry in value]
        else:
            result[key] = nothing_as_null(kinds[key], value)
    return result


def nothing_as_null(kind: Any, value: Any) -> Any:
    """null for the word "none" where a field may be null."""
    if not isinstance(value, str) or value.lower() not in NOTHING:
        return value
    return None if any(isinstance(part, inspect.NoneType) for part in _parts(inspect.type_info(kind))) else value


def _parts(info: Any) -> list[Any]:
    if isinstance(info, inspect.Metadata):
        return _parts(info.type)
    return [part for inner in info.types for part in _parts(inner)] if isinstance(info, inspect.UnionType) else [info]


def description(kind: Any) -> str:
    """The Meta(description=…) of a field's type, or nothing."""
    def walk(info: Any) -> str:
        if isinstance(info, inspect.Metadata):
            return str((info.extra_json_schema or {}).get("description", "")) or walk(info.type)
        return next((text for inner in info.types if (text := walk(inner))), "") if isinstance(info, inspect.UnionType) else ""

    return walk(inspect.type_info(kind))


def accepts(kind: Any) -> str:
    """What a field takes, in words: "a whole number from 1 to 1000 or \"none\""."""
    return " or ".join(_accepts(part) for part in _parts(inspect.type_info(kind)))


def _accepts(info: Any) -> str:
    match info:
        case inspect.IntType():
            return f"a whole number{_bounds(info)}"
        case inspect.FloatType():
            return f"a number{_bounds(info)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return '"none"'
        case inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in info.values)
        case inspect.VarTupleType() | inspect.ListType():
            least, most = info.min_length, info.max_length
            count = f"{least or 0} to {most}" if most else f"{least} or more" if least else ""
            return f"a list of {count + ' times ' if count else ''}{_accepts(info.item_type)}"
        case inspect.StrType():
            if info.pattern:
                return f"text like {info.pattern}"
            return f"text of {info.min_length} or more characters" if info.min_length else "text"
        case inspect.Metadata():
            return _accepts(info.type)
    return "another kind of value"


def _bounds(info: Any) -> str:
    low = f" from {info.ge:,}" if info.ge is not None else f" above {info.gt:,}" if info.gt is not None else ""
    high = f" to {info.le:,}" if info.le is not None else f" below {info.lt:,}" if info.lt is not None else ""
    return (low + high).replace(",", "_")


def describe(value: Any) -> str:
    """A value as people see it in their file, short."""
    match value:
        case dict():
            return "a table"
        case list():
            text = json.dumps(value, default=str)
        case bool() | str() | None:
            text = json.dumps(value)
        case _:
            text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
