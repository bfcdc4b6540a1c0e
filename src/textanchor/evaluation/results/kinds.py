"""What kinds of suites there are: which rows are of a kind, what they amount to, and the lines that tell of it.

A new kind is a file beside this one with `summarise` and `lines`, and an entry in `KINDS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from textanchor.evaluation.results import chair, language, pope, tasks, text
from textanchor.evaluation.results.values import Metrics, Summary, Values
from textanchor.stats import ratio_values


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of suite."""

    name: str
    """As retention.json has it."""
    marks: tuple[str, ...] = ()
    """Metrics that only rows of this kind have."""
    key: str
    """Where a summary tells of it."""
    only_one: str = ""
    """Of which a summary holds one suite, as an error calls it; empty for kinds that stand by their suites' names."""
    summarise: Callable[[Metrics], Summary]
    lines: Callable[[Any], list[str]]
    """What is printed of `key`."""


POPE = Kind(name="pope", marks=("said_yes",), key="pope", only_one="POPE", summarise=pope.summarise, lines=pope.lines)
CHAIR = Kind(
    name="chair", marks=("num_mentions",), key="chair", only_one="CHAIR", summarise=chair.summarise, lines=chair.lines
)
TEXT = Kind(name="text", marks=("num_tokens",), key="text", only_one="text", summarise=text.summarise, lines=text.lines)
TASK = Kind(name="task", key="tasks", summarise=tasks.summarise, lines=tasks.lines)
CAPTIONS = Kind(name="captions", marks=("cider_d",), key="tasks", summarise=tasks.summarise, lines=tasks.lines)
LANGUAGE = Kind(
    name="language",
    marks=("chance", "gold_tokens"),
    key="language",
    summarise=language.summarise,
    lines=language.lines,
)
KINDS = (TASK, POPE, CHAIR, CAPTIONS, TEXT, LANGUAGE)
"""In the order in which they are told and their marks are looked for."""


def kind_of(metrics: Metrics) -> Kind:
    """The kind of the suite that has these metrics; some of lm-eval's tasks have none but metrics of their own."""
    marked = (kind for kind in KINDS if any(mark in metrics for mark in kind.marks))
    return next(marked, TASK if "gold_nats" in metrics else LANGUAGE)


def measures_of(metrics: Metrics) -> dict[str, Values]:
    """What is compared between runs (see `MEASURES`) -> value by item, for each measure that the suite has."""
    return {measure: read(metrics) for measure, (metric, read) in _MEASURED.items() if metric in metrics}


def _own(metric: str) -> tuple[str, Callable[[Metrics], Values]]:
    return metric, lambda metrics: metrics[metric]


_MEASURED: Mapping[str, tuple[str, Callable[[Metrics], Values]]] = {
    "accuracy": _own("correct"),
    "gold_nats": _own("gold_nats"),
    "cider_d": _own("cider_d"),
    "text_nats": ("num_tokens", lambda metrics: ratio_values(metrics["nats"], metrics["num_tokens"])),
    "chair_s": (
        "num_hallucinated",
        lambda metrics: {item: float(number > 0) for item, number in metrics["num_hallucinated"].items()},
    ),
}
"""Measure -> the metric that a suite with it has, and how it is read."""
