"""Strict dataclass <-> YAML: an unknown key, a missing key or a wrong type is an error that names file and key.

Fields may be bool, int, float, str, Path, Literal, Any, another dataclass, and list, tuple, dict[str, ...] or unions of
these. A whole number is taken for a float; true is never taken for 1. Relative paths are relative to where you are.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from textanchor.errors import ConfigError, TextanchorError, shown
from textanchor.files import HALF_CHARACTER, MOST_LEVELS, write_text
from textanchor.strict_yaml import parse_yaml, read_yaml, to_yaml

T = TypeVar("T")
LARGEST_INTEGER = 2**63 - 1


def load_config(cls: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """A `cls` from a YAML file, after overrides such as "optimizer.lr=1e-3" (the value is read as YAML)."""
    mapping = read_yaml(path)
    for override in overrides:
        _apply_override(mapping, override)
    return from_dict(cls, mapping, source=str(path))


def _apply_override(mapping: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"override {shown(override)}: expected key=value, with dots for nested keys (optimizer.lr=1e-3)"
        )
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        why = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise ConfigError(f"override {shown(override)}: the value is not valid YAML ({why})") from error
    for i, key in enumerate(keys[:-1]):
        inner = mapping.get(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {shown(override)}: {'.'.join(keys[: i + 1])} has no keys of its own")
        mapping[key] = dict(inner)  # a copy: an alias elsewhere in the file is the same object
        mapping = mapping[key]
    mapping[keys[-1]] = value


def from_dict(cls: type[T], mapping: Mapping[str, Any], source: str = "configuration") -> T:
    """A `cls` from exactly the keys of `mapping`; ConfigError naming source, key, what was expected and found."""
    _require_recordable(mapping, source)
    return _build(cls, mapping, source, "")


def _require_recordable(value: Any, source: str) -> None:
    """ConfigError where something in `value` has no place in the record of a run, whatever the type of its field."""
    level = [("", value)]
    for _ in range(MOST_LEVELS):
        for place, entry in level:
            if expected := _expected_instead(entry):
                raise _wrong(source, place, expected, entry)
        level = [inner for place, entry in level for inner in _entries(place, entry)]
        if not level:
            return
    raise ConfigError(f"{source}: nested deeper than {MOST_LEVELS} levels, at {shown(level[0][0])}")


def _expected_instead(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "a number of 64 bits"
    if isinstance(value, str) and HALF_CHARACTER.search(value):
        return "text without halves of characters"
    return None


def _entries(place: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(_join(place, key), inner) for key, entry in value.items() for inner in (key, entry)]
    if isinstance(value, list | tuple):
        return [(f"{place}[{i}]", entry) for i, entry in enumerate(value)]
    return []


def _build(cls: type[T], mapping: Any, source: str, place: str) -> T:
    if not isinstance(mapping, Mapping):
        raise _wrong(source, place, f"the keys of {cls.__name__}", mapping)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {shown(_join(place, key))}{_nearest(key, fields)}")
    missing = [name for name, field in fields.items() if name not in mapping and _is_required(field)]
    if missing:
        raise ConfigError(f"{source}: the key {_join(place, missing[0])!r} is missing ({cls.__name__} needs it)")
    hints = _type_hints(cls)
    values = {key: _convert(hints[key], value, source, _join(place, key)) for key, value in mapping.items()}
    try:
        return cls(**values)
    except (TextanchorError, ValueError) as error:  # raised by __post_init__, which does not know the file
        where = f"{source}: {place}" if place else source
        raise ConfigError(f"{where}: {error}") from error


@cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(expected: Any, value: Any, source: str, place: str) -> Any:
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(expected, value, source, place)
    if origin is Literal:
        if any(type(choice) is type(value) and choice == value for choice in args):
            return value
        raise _wrong(source, place, _name(expected), value, _nearest(value, args))
    if dataclasses.is_dataclass(expected):
        return value if isinstance(value, expected) else _build(expected, value, source, place)  # pyright: ignore
    if (origin or expected) in (list, tuple, dict):
        return _convert_container(expected, value, source, place)
    return _convert_scalar(expected, value, source, place)


def _convert_union(expected: Any, value: Any, source: str, place: str) -> Any:
    choices = [choice for choice in typing.get_args(expected) if choice is not types.NoneType]
    if value is None and len(choices) < len(typing.get_args(expected)):
        return None
    if len(choices) == 1:  # an optional value: the error of the inner type says more
        return _convert(choices[0], value, source, place)
    for choice in choices:
        try:
            return _convert(choice, value, source, place)
        except ConfigError:
            continue
    raise _wrong(source, place, _name(expected), value)


def _convert_container(expected: Any, value: Any, source: str, place: str) -> Any:
    kind, args = typing.get_origin(expected) or expected, typing.get_args(expected)
    if kind is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(source, place, _name(expected), value)
        inner = args[1] if args else Any
        return {key: _convert(inner, entry, source, _join(place, key)) for key, entry in value.items()}
    if not isinstance(value, list | tuple):
        raise _wrong(source, place, _name(expected), value)
    if kind is list or args[1:] == (Ellipsis,):
        inners = [args[0] if args else Any] * len(value)
    else:
        inners = list(args) or [Any] * len(value)
    if len(inners) != len(value):
        raise _wrong(source, place, f"{len(inners)} values", value)
    return kind(_convert(inners[i], entry, source, f"{place}[{i}]") for i, entry in enumerate(value))


def _convert_scalar(expected: Any, value: Any, source: str, place: str) -> Any:
    if expected is Path and isinstance(value, str | Path):
        return _path(value, source, place)
    if expected is float and type(value) is int:
        return float(value)
    if expected not in (bool, int, float, str, Path):
        raise TypeError(f"{place}: fields of type {_name(expected)} cannot be read from YAML")
    if type(value) is not expected:
        raise _wrong(source, place, _name(expected), value)
    return value


def _path(value: str | Path, source: str, place: str) -> Path:
    if "\0" in str(value):
        raise _wrong(source, place, "a path, which holds no null character", value)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise _wrong(source, place, "a path; nobody of that name has a home folder here", value) from error


def _wrong(source: str, place: str, expected: str, value: Any, hint: str = "") -> ConfigError:
    found = "nothing" if value is None else f"{shown(value)} ({type(value).__name__})"
    return ConfigError(f"{source}: {place or 'the whole'}: expected {expected}, found {found}{hint}")


def _join(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _nearest(word: Any, known: Iterable[Any]) -> str:
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names) or 'none'}"


def _name(expected: Any) -> str:
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(choice) for choice in args)
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    plain |= {list: "a list", tuple: "a list", dict: "a mapping", types.NoneType: "nothing"}
    return plain.get(origin or expected) or str(getattr(expected, "__name__", expected))


def to_dict(obj: Any) -> Any:
    """`obj` (a dataclass, or values inside one) as plain dicts, lists, numbers and strings, ready for YAML or JSON."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: to_dict(getattr(obj, field.name)) for field in dataclasses.fields(obj) if field.init}
    if isinstance(obj, Mapping):
        return {key: to_dict(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_dict(value) for value in obj]
    return str(obj) if isinstance(obj, Path) else obj


def save_config(obj: Any, path: Path | str) -> None:
    """Write a dataclass as YAML that `load_config` reads back to an equal one."""
    write_text(path, to_yaml(to_dict(obj)))
