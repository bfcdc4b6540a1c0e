"""What the pages read from a checked report: methods with their looks, scores, and whether a change can be told."""

from dataclasses import dataclass
from typing import Any

from textanchor.report.numbers import Unit, Value
from textanchor.report.schema import Report

LABELS = {"before": "Before", "full": "Plain tuning", "app": "APP", "lora": "LoRA", "l2sp": "L2-SP"}
MARKERS = {"before": "ring", "full": "square", "app": "disc"}
OTHER_MARKERS = ("diamond", "triangle", "cross")


@dataclass(frozen=True)
class Style:
    """How one method looks everywhere: its label, its CSS class (color) and its marker (never color alone)."""

    key: str
    label: str
    css: str
    marker: str


@dataclass(frozen=True)
class Change:
    """A difference to before, written, with a verdict that is only given where an interval supports it."""

    text: str
    arrow: str
    verdict: str
    """"better", "worse", "unclear" (the interval allows no change) or "unjudged" (no interval was measured)."""


def styles(report: Report) -> dict[str, Style]:
    """The look of "before" and of each method, in the order of the file."""
    found = {"before": Style("before", LABELS["before"], "s-before", MARKERS["before"])}
    methods: list[str] = list(report.get("after", ()))  # a measurement tunes nothing
    others = [name for name in methods if name not in MARKERS]
    for name in methods:
        if name in MARKERS:
            found[name] = Style(name, LABELS[name], f"s-{name}", MARKERS[name])
        else:
            i = others.index(name)
            marker = OTHER_MARKERS[i % len(OTHER_MARKERS)]
            found[name] = Style(name, LABELS.get(name, name), f"s-other-{i % 4 + 1}", marker)
    return found


def score_sets(report: Report) -> dict[str, dict[str, Any]]:
    """SCORES of "before" and of each method."""
    return {"before": report["before"]} | {name: run["scores"] for name, run in report["after"].items()}


def task_value(scores: dict[str, Any], task: str, metric: str) -> Value | None:
    """A task's score, "accuracy" or "gold_nats"; None where the task has no such score."""
    return Value.read(scores["tasks"][task].get(metric))


def old_mean(scores: dict[str, Any], report: Report, metric: str) -> Value | None:
    """Mean over the old tasks, with an interval only where the file has one (`old_mean`); None without such scores."""
    if "old_mean" in scores:
        return Value.read(scores["old_mean"][metric])
    values = [value.estimate for task in report["old_tasks"] if (value := task_value(scores, task, metric)) is not None]
    return Value(sum(values) / len(values)) if values else None


def change(before: Value | None, after: Value | None, unit: Unit, paired: Any = None) -> Change | None:
    """The change from `before` to `after`, judged by the paired interval, else by whether the two intervals overlap.

    `paired` is the interval of after minus before as JSON. Overlap is the cautious rule for the same items twice.
    """
    if before is None or after is None:
        return None
    difference = after.estimate - before.estimate
    text = unit.change(difference)
    arrow = "▲" if text.startswith("+") else "▼" if text.startswith("\u2212") else "="
    improved = "better" if (difference > 0) == unit.higher_is_better else "worse"
    if paired is not None:
        told = paired["low"] > 0 or paired["high"] < 0
    elif before.low is None or before.high is None or after.low is None or after.high is None:
        return Change(text, arrow, "unjudged")
    else:
        told = before.high < after.low or after.high < before.low
    return Change(text, arrow, improved if told else "unclear")


def paired_change(scores: dict[str, Any], task: str | None, metric: str) -> Any:
    """The paired interval of a task (or, without a task, of the old tasks' mean) as JSON, or None."""
    holder = scores["tasks"][task] if task is not None else scores.get("old_mean", {})
    return holder.get("change", {}).get(metric)
