"""From `Score` rows to what a report shows: intervals for each task, POPE, CHAIR and text, and paired changes."""

from collections.abc import Sequence
from typing import Any

from textanchor.errors import DataError
from textanchor.evaluation.results.kinds import KINDS, kind_of
from textanchor.evaluation.results.tasks import free_lines, summarise_free
from textanchor.evaluation.results.values import (
    interval_of,
    metrics_of,
    require_same_version,
    values_of,
    written,
)
from textanchor.records import Score
from textanchor.stats import Interval, item_differences, mean_over_groups, paired_difference


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """The SCORES object of report.json: `tasks` by name; where evaluated also `pope`, `chair`, `text`, `language`."""
    summary: dict[str, Any] = {"tasks": {}}
    for suite in _suites_of(scores):
        metrics = metrics_of(scores, suite)
        kind = kind_of(metrics)
        if not kind.only_one:
            summary.setdefault(kind.key, {})[suite] = kind.summarise(metrics)
        elif kind.key in summary:
            raise DataError(
                f"suite {suite!r} is a second one of {kind.name}, of which a summary tells once; summarise them apart"
            )
        else:
            summary[kind.key] = kind.summarise(metrics)
    return summary


def summarise_generated(scores: Sequence[Score]) -> dict[str, Any]:
    """What is told of generated text: `free_answers` and `captions` by suite, where there are some."""
    metrics = {suite: metrics_of(scores, suite) for suite in _suites_of(scores)}
    free = {suite: summarise_free(own) for suite, own in metrics.items() if "free_correct" in own}
    captions = {suite: {"cider_d": interval_of(own["cider_d"])} for suite, own in metrics.items() if "cider_d" in own}
    return ({"free_answers": free} if free else {}) | ({"captions": captions} if captions else {})


def summary_lines(scores: Sequence[Score]) -> list[str]:
    """Both summaries for the terminal."""
    summary, generated = summarise(scores), summarise_generated(scores)
    told = {kind.key: kind.lines for kind in KINDS}
    lines = [line for key, write in told.items() if summary.get(key) for line in write(summary[key])]
    others = [free_lines(name, free) for name, free in generated.get("free_answers", {}).items()]
    others += [
        f"{name}: CIDEr-D {written(own['cider_d'])} of 10" for name, own in generated.get("captions", {}).items()
    ]
    return [*lines, *(["", *others] if others else [])]


def _suites_of(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(score.suite for score in scores))


def mean_over_tasks(scores: Sequence[Score], tasks: Sequence[str], metric: str) -> Interval:
    """Mean of the tasks' means, each task with the same weight, with its bootstrap interval over items."""
    return mean_over_groups([values_of(scores, task, metric) for task in tasks])


def change(before: Sequence[Score], after: Sequence[Score], suite: str, metric: str) -> Interval:
    """Mean of after - before, paired by item; DataError where the two do not hold the same items and version."""
    require_same_version(before, after, suite)
    return paired_difference(values_of(before, suite, metric), values_of(after, suite, metric))


def mean_change(before: Sequence[Score], after: Sequence[Score], tasks: Sequence[str], metric: str) -> Interval:
    """Change of the mean over tasks, paired by item."""
    for task in tasks:
        require_same_version(before, after, task)
    return mean_over_groups(
        [item_differences(values_of(before, task, metric), values_of(after, task, metric)) for task in tasks]
    )
