"""Suites by name."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textanchor.errors import ConfigError
from textanchor.evaluation.suite import AbstractSuite, SuiteOptions, require_places

if TYPE_CHECKING:
    from torch import nn

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
    "team": _CLOSED,
    "pope_scenes": f"{_SUITES}.pope:pope_scenes",
    "chair_scenes": f"{_SUITES}.captions:chair_scenes",
    "text": f"{_SUITES}.text:text_suite",
}
"""Name -> factory; a factory for several names takes the name as its first argument."""

PATH_SUITES: dict[str, str] = {
    "folder": f"{_SUITES}.folder:folder_suites",
    "pope": f"{_SUITES}.folder:pope_suites",
    "chair": f"{_SUITES}.folder:chair_suites",
    "language": f"{_SUITES}.language:local_suites",
    "lm_eval": f"{_SUITES}.language:standard_suites",
}
"""What stands before `:PATH` -> factory of the suites in the user's files there; lm_eval has a task's name there."""

EIGHT_TASKS = ("existence", "color", "position", "count", "comparison", "words", "digits", "easy_vqa")
"""Diverse and closed; shape and size ask of the same scenes what color and comparison ask."""
GROUPS: dict[str, tuple[str, ...]] = {
    "tasks": EIGHT_TASKS,
    "all-offline": (*EIGHT_TASKS, "pope_scenes", "chair_scenes", "text"),
    "language": (*(f"lm_eval:{task}" for task in ("mmlu", "gsm8k", "hellaswag", "arc_easy", "piqa")), "text"),
}
"""Names that stand for several suites."""

DEFAULT_ITEMS = 200
OTHER_DEFAULTS = {"pope_scenes": 300, "chair_scenes": 100, "text": 160}
"""Items where no number is asked for: of each POPE strategy, captions, and all shipped held-out texts."""


def load_suite(name: str, *, num_items: int, seed: int = 0, **settings: Any) -> AbstractSuite:
    """The suite with that name, with about `num_items` items drawn by `seed`; ConfigError for an unknown name.

    `settings` go to the suite's factory; one that it does not take is a ConfigError too.
    """
    if name not in SUITES:
        kind, colon, rest = name.partition(":")
        near = get_close_matches(kind, PATH_SUITES if colon else [*SUITES, *GROUPS], n=1)
        hint = f"did you mean {near[0] + colon + rest!r}? " if near else ""
        files = [f"{kind}:PATH" for kind in PATH_SUITES if kind != "lm_eval"]
        known = ", ".join([*SUITES, *GROUPS, *files, "lm_eval:TASK"])
        raise ConfigError(f"unknown suite {name!r}; {hint}the suites are {known}")
    factory = _factory(SUITES[name])
    first = (name,) if SUITES[name] == _CLOSED else ()
    known = inspect.signature(factory).parameters
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ConfigError(f"suite {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return factory(*first, num_items=num_items, seed=seed, **settings)


def load_suites(
    names: Sequence[str],
    *,
    num_items: int | None = None,
    seed: int = 0,
    base: "nn.Module | None" = None,
    options: SuiteOptions | None = None,
) -> list[AbstractSuite]:
    """The named suites in order, each once; a name may be a group, or a kind of file with its path: "folder:PATH".

    `num_items` of each suite: its own default unless given, all of the user's files. The text suite measures the
    divergence from `base`, where there is one.
    """
    options = options or SuiteOptions()
    suites: list[AbstractSuite] = []
    for name in dict.fromkeys(member for given in names for member in GROUPS.get(given, (given,))):
        kind, colon, path = name.partition(":")
        if colon and kind in PATH_SUITES:
            suites += _factory(PATH_SUITES[kind])(Path(path), num_items=num_items, seed=seed, options=options)
            continue
        settings: dict[str, Any] = {"base": base} if name == "text" else {}
        if SUITES.get(name) == _CLOSED or name == "pope_scenes":
            settings["free_answers"] = options.free_answers
        count = OTHER_DEFAULTS.get(name, DEFAULT_ITEMS) if num_items is None else num_items
        suites.append(load_suite(name, num_items=count, seed=seed, **settings))
    require_places(suites)
    return suites


def _factory(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
