"""Values by item, as `Score` rows give them, and how they are summed up and written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from textanchor.errors import DataError
from textanchor.records import Score
from textanchor.stats import Interval, bootstrap_interval, ratio_values

Values = Mapping[str, float]
"""Item -> value."""
Metrics = Mapping[str, Values]
"""Metric -> item -> value, of one suite."""
Summary = dict[str, Any]


def metrics_of(scores: Sequence[Score], suite: str) -> dict[str, dict[str, float]]:
    """All metrics of one suite; DataError where an item has one twice."""
    metrics: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.suite == suite:
            values = metrics.setdefault(score.metric, {})
            if score.item_id in values:
                raise DataError(f"suite {suite!r}: item {score.item_id!r} has {score.metric!r} twice; do not mix runs")
            values[score.item_id] = score.value
    return metrics


def values_of(scores: Sequence[Score], suite: str, metric: str) -> dict[str, float]:
    """One metric of one suite by item id; DataError where there is none, or an item has it twice."""
    values = metrics_of([score for score in scores if score.metric == metric], suite)
    if not values:
        raise DataError(f"no scores of {metric!r} in suite {suite!r}; evaluate that suite first")
    return values[metric]


def require_same_version(before: Sequence[Score], after: Sequence[Score], suite: str) -> None:
    """DataError where the rows of the suite are of two versions."""
    versions = {score.version for scores in (before, after) for score in scores if score.suite == suite}
    if len(versions) > 1:
        raise DataError(
            f"suite {suite!r}: versions {' and '.join(sorted(versions))} cannot be compared; evaluate again"
        )


def interval_of(values: Values) -> dict[str, float]:
    """Mean over items with its bootstrap interval."""
    return asdict(bootstrap_interval(list(values.values())))


def per_unit(sums: Values, counts: Values) -> dict[str, float]:
    """Ratio of two sums over items, with the interval of its linearisation (delta method), items being resampled."""
    return interval_of(ratio_values(sums, counts))


def mean_of(values: Values | None) -> float | None:
    """Mean over items; None without values."""
    return None if values is None else sum(values.values()) / len(values)


def written(interval: Mapping[str, float] | None) -> str:
    """Estimate and interval on the terminal."""
    return "-" if interval is None else str(Interval(**interval))


def written_share(value: float | None) -> str:
    """A share on the terminal."""
    return "-" if value is None else f"{value:.3f}"
