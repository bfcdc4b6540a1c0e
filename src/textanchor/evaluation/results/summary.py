"""From `Score` rows to what a report shows: intervals for each task, POPE, CHAIR and text, and paired changes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from textanchor.errors import DataError
from textanchor.evaluation.results.chair import CaptionCounts, chair_metrics
from textanchor.evaluation.results.language import is_language, language_summary
from textanchor.evaluation.scoring.parsing import pope_metrics
from textanchor.records import Score
from textanchor.stats import (
    Interval,
    bootstrap_interval,
    item_differences,
    mean_over_groups,
    paired_difference,
    ratio_values,
)

Values = Mapping[str, float]
"""Value by item id."""


def values_of(scores: Sequence[Score], suite: str, metric: str) -> dict[str, float]:
    """One metric of one suite by item id; DataError where there is none, or an item has it twice."""
    values: dict[str, float] = {}
    for score in scores:
        if score.suite == suite and score.metric == metric:
            if score.item_id in values:
                raise DataError(f"suite {suite!r}: item {score.item_id!r} has {metric!r} twice; do not mix two runs")
            values[score.item_id] = score.value
    if not values:
        raise DataError(f"no scores of {metric!r} in suite {suite!r}; evaluate that suite first")
    return values


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """The SCORES object of report.json: `tasks` by name; where evaluated also `pope`, `chair`, `text`, `language`."""
    by_suite: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for score in scores:
        if score.metric not in by_suite[score.suite]:
            by_suite[score.suite][score.metric] = values_of(scores, score.suite, score.metric)
    summary: dict[str, Any] = {"tasks": {}}
    for suite, metrics in by_suite.items():
        if kind := next((kind for kind, (mark, _) in SINGLE.items() if mark in metrics), None):
            if kind in summary:
                raise DataError(
                    f"suite {suite!r} is a second one of {kind}, of which a summary tells once; summarise them apart"
                )
            summary[kind] = SINGLE[kind][1](metrics)
        elif is_language(metrics):
            summary.setdefault("language", {})[suite] = language_summary(metrics)
        else:
            summary["tasks"][suite] = _task(metrics)
    return summary


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


def require_same_version(before: Sequence[Score], after: Sequence[Score], suite: str) -> None:
    """DataError where the rows of the suite are of two versions."""
    versions = {score.version for scores in (before, after) for score in scores if score.suite == suite}
    if len(versions) > 1:
        raise DataError(
            f"suite {suite!r}: versions {' and '.join(sorted(versions))} cannot be compared; evaluate again"
        )


def _interval(values: Values) -> dict[str, float]:
    return asdict(bootstrap_interval(list(values.values())))


def _mean(values: Values | None) -> float | None:
    return None if values is None else sum(values.values()) / len(values)


def _task(metrics: Mapping[str, Values]) -> dict[str, Any]:
    summary: dict[str, Any] = {"gold_nats": _interval(metrics["gold_nats"]), "num_items": len(metrics["gold_nats"])}
    if "correct" in metrics:
        summary["accuracy"] = _interval(metrics["correct"])
        summary["accuracy_normalised"] = _interval(metrics["correct_normalised"])
        summary["choice_nats"] = _interval(metrics["choice_nats"])
        summary["majority"] = _mean(metrics["majority_correct"])
    summary["blind"] = _mean(metrics.get("blind_correct"))
    return summary


def _pope(metrics: Mapping[str, Values]) -> dict[str, Any]:
    """All questions together, and those of each strategy, which is what an item id begins with."""
    strategies = dict.fromkeys(item.partition("/")[0] for item in metrics["correct"])
    summary = _pope_part(metrics)
    summary["strategies"] = {
        strategy: _pope_part(
            {m: {i: v for i, v in values.items() if i.startswith(f"{strategy}/")} for m, values in metrics.items()}
        )
        for strategy in strategies
    }
    return summary


def _pope_part(metrics: Mapping[str, Values]) -> dict[str, Any]:
    gold = [metrics["is_yes"][item] == 1 for item in metrics["correct"]]
    summary = asdict(pope_metrics(_predicted(metrics, ""), gold))
    summary["accuracy"] = _interval(metrics["correct"])
    summary["blind_accuracy"] = _mean(metrics.get("blind_correct"))
    for reading in ("strict", "free", "free_strict", "published"):
        if f"{reading}_correct" in metrics:
            summary[reading] = asdict(pope_metrics(_predicted(metrics, f"{reading}_"), gold))
    return summary


def _predicted(metrics: Mapping[str, Values], prefix: str) -> list[bool | None]:
    said, parsed = metrics[f"{prefix}said_yes"], metrics[f"{prefix}parsed"]
    return [said[item] == 1 if parsed[item] == 1 else None for item in metrics["correct"]]


def _chair(metrics: Mapping[str, Values]) -> dict[str, Any]:
    fields = CaptionCounts.__dataclass_fields__
    counts = [CaptionCounts(**{f: int(metrics[f][item]) for f in fields}) for item in metrics["num_mentions"]]
    summary: dict[str, Any] = asdict(chair_metrics(counts))
    summary["chair_s"] = asdict(bootstrap_interval([float(c.num_hallucinated > 0) for c in counts]))
    summary["mean_length"] = asdict(bootstrap_interval([c.num_words for c in counts]))
    summary["num_items"] = len(counts)
    return summary


def _text(metrics: Mapping[str, Values]) -> dict[str, Any]:
    num_tokens = metrics["num_tokens"]
    summary: dict[str, Any] = {
        "cross_entropy": asdict(_per_token(metrics["nats"], num_tokens)),
        "num_tokens": int(sum(num_tokens.values())),
    }
    if "base_kl" in metrics:
        summary["kl_to_base"] = asdict(_per_token(metrics["base_kl"], num_tokens))
    return summary


def _per_token(sums: Values, num_tokens: Values) -> Interval:
    """Ratio of two sums over texts, with the interval of its linearisation (delta method), texts being resampled."""
    return bootstrap_interval(list(ratio_values(sums, num_tokens).values()))


SINGLE: dict[str, tuple[str, Callable[[Mapping[str, Values]], dict[str, Any]]]] = {
    "pope": ("said_yes", _pope),
    "chair": ("num_mentions", _chair),
    "text": ("num_tokens", _text),
}
"""Kinds of which a summary holds one -> the metric that only they have, and what sums them up."""
