"""Suites by name."""

import importlib
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from textanchor.errors import ConfigError
from textanchor.evaluation.suite import AbstractSuite

_SUITES = "textanchor.evaluation.suites"
_CLOSED = f"{_SUITES}.closed:closed_suite"

SUITES: dict[str, str] = {
    "existence": _CLOSED,
    "shape": _CLOSED,
    "color": _CLOSED,
    "position": _CLOSED,
    "count": _CLOSED,
    "size": _CLOSED,
    "comparison": _CLOSED,
    "caption": _CLOSED,
    "easy_vqa": _CLOSED,
    "digits": _CLOSED,
    "words": _CLOSED,
    "photograph": _CLOSED,
    "pope_scenes": f"{_SUITES}.pope:pope_scenes",
    "chair_scenes": f"{_SUITES}.chair:chair_scenes",
    "text": f"{_SUITES}.text:text_suite",
}
"""Name -> factory; a factory for several names takes the name as its first argument."""

EIGHT_TASKS = ("existence", "shape", "color", "position", "count", "easy_vqa", "digits", "words")
GROUPS: dict[str, tuple[str, ...]] = {
    "tasks": EIGHT_TASKS,
    "all-offline": (*EIGHT_TASKS, "pope_scenes", "chair_scenes", "text"),
}
"""Names that stand for several suites."""


def load_suite(name: str, *, num_items: int, seed: int = 0, **settings: Any) -> AbstractSuite:
    """The suite with that name, with about `num_items` items drawn by `seed`; ConfigError for an unknown name.

    `settings` go to the suite's factory; one that it does not take is a ConfigError too.
    """
    if name not in SUITES:
        near = get_close_matches(name, [*SUITES, *GROUPS], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown suite {name!r}; {hint}The suites are {', '.join([*SUITES, *GROUPS])}")
    module, factory_name = SUITES[name].split(":")
    factory = getattr(importlib.import_module(module), factory_name)
    first = (name,) if SUITES[name] == _CLOSED else ()
    known = inspect.signature(factory).parameters
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ConfigError(f"suite {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return factory(*first, num_items=num_items, seed=seed, **settings)


def load_suites(names: Sequence[str], *, num_items: int, seed: int = 0) -> list[AbstractSuite]:
    """The named suites in order, each once; a name may be a group such as "all-offline"."""
    flat = [member for name in names for member in GROUPS.get(name, (name,))]
    return [load_suite(name, num_items=num_items, seed=seed) for name in dict.fromkeys(flat)]
