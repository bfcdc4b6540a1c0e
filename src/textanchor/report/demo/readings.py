"""What the pages read from a checked report: scores, whether a change can be told, and figures under one legend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.markers import legend_marker, styles
from textanchor.report.check import Report
from textanchor.report.document import Figure, render_template
from textanchor.report.numbers import Unit, Value


@dataclass(frozen=True)
class Change:
    """A difference to before, written, with a verdict that is only given where an interval supports it."""

    text: str
    arrow: str
    verdict: str
    """"better", "worse", "unclear" (the interval allows no change) or "unjudged" (no interval was measured)."""


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


def render_figures(
    report: Report,
    figures: Iterable[Figure],
    *,
    methods: Iterable[str] | None = None,
    note: str = "",
    line_keys: Sequence[tuple[str, str]] = (),
) -> Markup:
    """The figures under one legend: the methods that occur (default: before and all), and what a kind of line means.

    `line_keys` are (kind of line, meaning); `note` is set under the figures.
    """
    looks = styles(report)
    shown = list(looks) if methods is None else list(methods)
    legend = [(looks[name], legend_marker(looks[name].marker)) for name in shown]
    return render_template("figures.html", figures=list(figures), legend=legend, line_keys=line_keys, note=note)


def without_data(report: Report, key: str, what: str) -> str:
    """A sentence that names the methods whose run has no `key`, empty where all have it."""
    looks = styles(report)
    missing = [looks[name].label for name, run in report["after"].items() if not run.get(key)]
    return f"No {what} in the data for: {', '.join(missing)}." if missing else ""
