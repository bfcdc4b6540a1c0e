"""A small checker for JSON-like objects: a literal description in, every problem with its key path out.

Descriptions are written as the JSON looks: a dict lists keys (a trailing "?" makes one optional), a one-element list
describes every element, and the leaves are the checkers below.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any

from textanchor.errors import shown

Checker = Callable[[Any], "str | None"]
"""Returns what was expected where the value does not fit, else None."""
Shape = Any
"""A dict, a one-element list, a Checker, or one of the combinators Named, Nullable, OneOf."""

Report = dict[str, Any]
"""Content of a JSON file that has a page."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ROUNDING = 1e-6
LARGEST = 1e15
"""Larger than anything that is measured or counted, and small enough to be squared, summed up and drawn."""


def is_text(value: Any) -> str | None:
    """A string."""
    return None if isinstance(value, str) else "a string"


def is_bool(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def is_number(value: Any) -> str | None:
    """An int or float of at most `LARGEST` in size; a bool is none, nor is nan."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    return None if fits else f"a finite number of at most {LARGEST:.0e}"


def is_count(value: Any) -> str | None:
    """An integer from 0 to `LARGEST`."""
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
    return None if fits else f"a whole number of at least 0 and at most {LARGEST:.0e}"


def is_share(value: Any) -> str | None:
    """A number in [0, 1] up to rounding, so that percentages handed in by mistake are seen."""
    fits = is_number(value) is None and -ROUNDING <= value <= 1 + ROUNDING
    return None if fits else "a share between 0 and 1 (not per cent)"


def is_object(value: Any) -> str | None:
    """A JSON object with any content."""
    return None if isinstance(value, dict) else "an object"


def is_png(value: Any) -> str | None:
    """A base64 string that decodes to a PNG file."""
    try:
        fits = isinstance(value, str) and base64.b64decode(value, validate=True).startswith(PNG_SIGNATURE)
    except (binascii.Error, ValueError):
        fits = False
    return None if fits else "a PNG file in base64"


INTERVAL = {"estimate": is_number, "low": is_number, "high": is_number}


class Named:
    """An object with free keys whose values have one shape; `at_least` entries."""

    def __init__(self, shape: Shape, *, at_least: int = 0):
        self.shape, self.at_least = shape, at_least


class Nullable:
    """The shape, or null."""

    def __init__(self, shape: Shape):
        self.shape = shape


class OneOf:
    """Any of the shapes; where none fits, the problems of the shape of the value's own kind (object or leaf) count."""

    def __init__(self, *shapes: Shape):
        self.shapes = shapes


def problems(value: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """Every place where `value` does not fit `shape`, as "key.path: what is wrong"."""
    match shape:
        case Nullable():
            if value is not None:
                yield from problems(value, shape.shape, path)
        case OneOf():
            found = [list(problems(value, option, path)) for option in shape.shapes]
            if all(found):
                same_kind = [isinstance(option, dict) == isinstance(value, dict) for option in shape.shapes]
                yield from found[same_kind.index(True) if True in same_kind else 0]
        case Named():
            yield from _problems_of_named(value, shape, path)
        case dict():
            yield from _problems_of_object(value, shape, path)
        case [element]:
            if not isinstance(value, list):
                yield _wrong(path, "a list", value)
            else:
                for i, item in enumerate(value):
                    yield from problems(item, element, f"{path}[{i}]")
        case _:
            expected = shape(value)
            if expected is not None:
                yield _wrong(path, expected, value)


def _problems_of_object(value: Any, shape: dict[str, Shape], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong(path, "an object", value)
        return
    for key, inner in shape.items():
        name, optional = key.removesuffix("?"), key.endswith("?")
        if name in value:
            yield from problems(value[name], inner, _join(path, name))
        elif not optional:
            yield f"key `{_join(path, name)}` is missing"


def _problems_of_named(value: Any, shape: Named, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong(path, "an object", value)
        return
    if len(value) < shape.at_least:
        yield f"`{path}` has {len(value)} entries, expected at least {shape.at_least}"
    for name, item in value.items():
        yield from problems(item, shape.shape, _join(path, str(name)))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, expected: str, value: Any) -> str:
    return f"`{path or 'the whole file'}` is {shown(value)}, expected {expected}"
