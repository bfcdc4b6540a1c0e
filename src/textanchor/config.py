"""Strict dataclass <-> YAML: an unknown key, a missing key or a wrong type is an error that names file and key.

Fields may be bool, int, float, str, Path, Literal, Any, another dataclass, and list, tuple, dict[str, ...] or unions of
these. A whole number is taken for a float; true is never taken for 1. Relative paths are relative to where you are.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from textanchor.errors import ConfigError, TextanchorError
from textanchor.files import write_text

T = TypeVar("T")


def load_config(cls: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """A `cls` from a YAML file, after overrides such as "optimizer.lr=1e-3" (the value is read as YAML)."""
    mapping = read_yaml(path)
    for override in overrides:
        _apply_override(mapping, override)
    return from_dict(cls, mapping, source=str(path))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds; ConfigError naming file and line where it is not one."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(content).__name__}")
    return content


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice (PyYAML keeps the last) and reads 1e-3 as a number (YAML 1.1: a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


class _StrictDumper(yaml.SafeDumper):
    """YAML with the text "1e-3" in quotes, because `_StrictLoader` would read it as a number."""


for _side in (_StrictLoader, _StrictDumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def _apply_override(mapping: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: expected key=value, with dots for nested keys (optimizer.lr=1e-3)")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error
    for i, key in enumerate(keys[:-1]):
        inner = mapping.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[: i + 1])} has no keys of its own")
        mapping = inner
    mapping[keys[-1]] = value


def from_dict(cls: type[T], mapping: Mapping[str, Any], source: str = "configuration") -> T:
    """A `cls` from exactly the keys of `mapping`; ConfigError naming source, key, what was expected and found."""
    return _build(cls, mapping, source, "")


def _build(cls: type[T], mapping: Any, source: str, place: str) -> T:
    if not isinstance(mapping, Mapping):
        raise _wrong(source, place, f"the keys of {cls.__name__}", mapping)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {_join(place, key)!r}{_nearest(key, fields)}")
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
        return Path(value).expanduser()
    if expected is float and type(value) is int:
        return float(value)
    if expected not in (bool, int, float, str, Path):
        raise TypeError(f"{place}: fields of type {_name(expected)} cannot be read from YAML")
    if type(value) is not expected:
        raise _wrong(source, place, _name(expected), value)
    return value


def _wrong(source: str, place: str, expected: str, value: Any, hint: str = "") -> ConfigError:
    found = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
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
    text = yaml.dump(to_dict(obj), Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
    write_text(path, text)
