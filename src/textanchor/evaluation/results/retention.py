"""What a model kept and what it lost between runs, from their `Score` rows alone (definitions: docs/retention.md).

Forgetting is positive where the later run is worse, in the unit of its measure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textanchor.errors import DataError
from textanchor.evaluation.results.kinds import measures_of
from textanchor.evaluation.results.values import Values, metrics_of, require_same_version
from textanchor.records import Score
from textanchor.stats import (
    Interval,
    bootstrap_interval,
    interpolate_at_level,
    item_differences,
    mean_over_groups,
)
from textanchor.tables import MEASURES

Rows = Sequence[Score]


def item_values(scores: Rows, suite: str) -> dict[str, Values]:
    """Measure -> item -> value, for each measure that the suite has; DataError where an item has a metric twice."""
    return measures_of(metrics_of(scores, suite))


def changes(before: Rows, after: Rows, suite: str) -> dict[str, Interval]:
    """Mean of after - before for each measure of the suite, paired by item."""
    return {m: _interval(differences) for m, differences in _differences(before, after, suite).items()}


def forgetting(before: Rows, after: Rows, suite: str) -> dict[str, Interval]:
    """How much worse the suite has become, for each of its measures, paired by item."""
    return {m: _interval(_worse(m, values)) for m, values in _differences(before, after, suite).items()}


def mean_forgetting(before: Rows, after: Rows, suites: Sequence[str], measure: str) -> Interval:
    """Mean forgetting over suites, each with the same weight."""
    return mean_over_groups(
        [_worse(measure, _of(_differences(before, after, suite), measure, suite)) for suite in suites]
    )


def transfer(before: Rows, after: Rows, suites: Sequence[str], measure: str) -> Interval:
    """Mean change over the suites that were not tuned on, each with the same weight."""
    return mean_over_groups([_of(_differences(before, after, suite), measure, suite) for suite in suites])


def backward_transfer(runs: Sequence[Rows], tasks: Sequence[str], measure: str) -> Interval:
    """BWT = 1/(T-1) sum over i < T of (a[T, i] - a[i, i]), paired by item (Lopez-Paz and Ranzato 2017).

    `runs[i]` are the rows after tuning on `tasks[i]`, in order. Of accuracies, forgetting makes it negative. ValueError
    for fewer than two tasks, or another number of runs.
    """
    if len(tasks) < 2 or len(runs) != len(tasks):
        raise ValueError(f"BWT needs a run after each of at least two tasks, found {len(runs)} and {len(tasks)}")
    return mean_over_groups(
        [_of(_differences(run, runs[-1], task), measure, task) for run, task in zip(runs[:-1], tasks[:-1], strict=True)]
    )


def harmonic_mean(upstream: float, downstream: float) -> float:
    """H-mean 2 U D / (U + D) of accuracy on what was there (U) and on what was tuned (D); 0 where both are 0."""
    return 2 * upstream * downstream / (upstream + downstream) if upstream + downstream > 0 else 0.0


@dataclass(frozen=True)
class FormatLoss:
    """Lost accuracy in two parts: `total` (read strictly) = `real` (read leniently) + `format`; positive = worse."""

    total: Interval
    real: Interval
    format: Interval


def format_loss(before: Rows, after: Rows, suite: str) -> FormatLoss | None:
    """Real loss apart from the loss of the demanded format (strict minus lenient); None where answers were not parsed.

    An answer that is right but in another format counts in `format` only. Where closed questions were also answered
    freely, those answers are read.
    """
    read = {(s.suite, s.metric) for s in before} & {(s.suite, s.metric) for s in after}
    prefix = next((prefix for prefix in ("free_", "") if (suite, f"{prefix}strict_correct") in read), None)
    if prefix is None:
        return None
    require_same_version(before, after, suite)
    strict, lenient = (
        item_differences(_metric(after, suite, metric), _metric(before, suite, metric))
        for metric in (f"{prefix}strict_correct", f"{prefix}correct")
    )
    apart = {item: strict[item] - lenient[item] for item in strict}
    return FormatLoss(_interval(strict), _interval(lenient), _interval(apart))


@dataclass(frozen=True)
class CurvePoint:
    """One run of a learning-retention curve: what it has learned, and measures of what it has kept."""

    learned: float
    kept: Mapping[str, float | None]


@dataclass(frozen=True)
class MatchedLearning:
    """What each method has kept where it has learned as much as the others; None for all where that is nowhere."""

    level: float | None
    reached: dict[str, bool]
    kept: dict[str, dict[str, float | None] | None]


def matched_learning(curves: Mapping[str, Sequence[CurvePoint]]) -> MatchedLearning:
    """Compare curves at the most that all of them learn, linear between their points and never beyond their ends."""
    learned = {name: [point.learned for point in curve] for name, curve in curves.items()}
    level = min(max(values) for values in learned.values())
    start = max(values[0] for values in learned.values())
    if level <= start:
        reached = {name: max(values) > start for name, values in learned.items()}
        return MatchedLearning(None, reached, dict.fromkeys(curves))
    kept = {name: _kept_at(curve, learned[name], level) for name, curve in curves.items()}
    return MatchedLearning(level, dict.fromkeys(curves, True), dict(kept))


def _kept_at(curve: Sequence[CurvePoint], learned: Sequence[float], level: float) -> dict[str, float | None]:
    at_level: dict[str, float | None] = {}
    for measure in curve[0].kept:
        values = [value for point in curve if (value := point.kept[measure]) is not None]
        at_level[measure] = interpolate_at_level(learned, values, level) if len(values) == len(curve) else None
    return at_level


def _metric(scores: Rows, suite: str, metric: str) -> dict[str, float]:
    return {score.item_id: score.value for score in scores if score.suite == suite and score.metric == metric}


def _differences(before: Rows, after: Rows, suite: str) -> dict[str, dict[str, float]]:
    require_same_version(before, after, suite)
    first, second = item_values(before, suite), item_values(after, suite)
    return {measure: item_differences(first[measure], second[measure]) for measure in first if measure in second}


def _of(differences: Mapping[str, dict[str, float]], measure: str, suite: str) -> dict[str, float]:
    if measure not in differences:
        raise DataError(f"suite {suite!r} has no {measure!r} in both runs; leave it out, or evaluate it again")
    return differences[measure]


def _worse(measure: str, differences: Mapping[str, float]) -> dict[str, float]:
    sign = -1 if MEASURES[measure].higher_is_better else 1
    return {item: sign * value for item, value in differences.items()}


def _interval(values: Mapping[str, float]) -> Interval:
    return bootstrap_interval(list(values.values()))
