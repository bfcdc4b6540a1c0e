"""Several runs on the same items, first to last, as the content of retention.json (docs/retention.md)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from textanchor import __version__
from textanchor.errors import ConfigError, DataError
from textanchor.evaluation.results.kinds import kind_of
from textanchor.evaluation.results.retention import (
    CurvePoint,
    Rows,
    backward_transfer,
    forgetting,
    format_loss,
    harmonic_mean,
    item_values,
    matched_learning,
    transfer,
)
from textanchor.evaluation.results.values import metrics_of
from textanchor.tables import MEASURES, Table, verdict

FORMAT_VERSION = 1
MEANS = ("accuracy", "gold_nats")
"""Measures that are averaged over suites of one kind."""


@dataclass(frozen=True)
class Run:
    """The rows of one evaluation under the name that people know it by."""

    name: str
    rows: Rows


def retention_report(
    runs: Sequence[Run], *, tuned: Sequence[str] = (), against: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What changed from the first run to the last; `tuned` are the suites that were learned, in their order.

    `against` is the retention.json of another method with the same suites, for the comparison at matched learning.
    ConfigError for a tuned suite that was not evaluated; DataError where runs cannot be paired, or where the curves of
    the two are not of the same suites.
    """
    shared = _shared_suites(runs)
    unknown = [suite for suite in tuned if suite not in shared]
    if unknown:
        raise ConfigError(f"tuned suite {unknown[0]!r} is not in all runs; those are {', '.join(shared) or 'none'}")
    before, after = runs[0].rows, runs[-1].rows
    kinds = {suite: kind_of(metrics_of(after, suite)).name for suite in shared}
    kept = {kind: [s for s in shared if kinds[s] == kind and s not in tuned] for kind in ("task", "language")}
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "textanchor_version": __version__,
        "runs": [run.name for run in runs],
        "tuned": list(tuned),
        "not_compared": sorted({score.suite for run in runs for score in run.rows} - set(shared)),
        "suites": {suite: _suite(before, after, suite, kinds[suite], suite in tuned) for suite in shared},
        "transfer": {kind: _transfer(before, after, suites) for kind, suites in kept.items()},
        "h_mean": _h_mean(after, tuned, kept["task"]),
        "bwt": _bwt(runs, tuned),
        "curve": [_point(run, tuned, kept, shared, kinds) for run in runs] if tuned else [],
    }
    return report | {"matched": None if against is None else _matched(report, against)}


def _shared_suites(runs: Sequence[Run]) -> list[str]:
    shared = list(dict.fromkeys(score.suite for score in runs[-1].rows))
    for run in runs:
        there = {score.suite for score in run.rows}
        shared = [suite for suite in shared if suite in there]
    if not shared:
        raise DataError(
            f"no suite is in all of {', '.join(run.name for run in runs)}; evaluate them on the same suites"
        )
    return shared


def _suite(before: Rows, after: Rows, suite: str, kind: str, tuned: bool) -> dict[str, Any]:
    lost = forgetting(before, after, suite)
    means = [{m: fmean(values.values()) for m, values in item_values(rows, suite).items()} for rows in (before, after)]
    apart = format_loss(before, after, suite)
    return {
        "kind": kind,
        "tuned": tuned,
        "num_items": max((len(values) for values in item_values(after, suite).values()), default=0),
        "measures": {
            measure: {"before": means[0][measure], "after": means[1][measure], "forgetting": asdict(interval)}
            for measure, interval in lost.items()
        },
        "format_loss": None if apart is None else asdict(apart),
    }


def _transfer(before: Rows, after: Rows, suites: Sequence[str]) -> dict[str, Any]:
    """Measure -> mean change over the suites that have it in both runs."""
    found: dict[str, Any] = {}
    for measure in MEANS:
        having = [s for s in suites if all(measure in item_values(rows, s) for rows in (before, after))]
        if having:
            found[measure] = {"suites": having, **asdict(transfer(before, after, having, measure))}
    return found


def _h_mean(after: Rows, tuned: Sequence[str], kept: Sequence[str]) -> dict[str, float] | None:
    upstream, downstream = _mean(after, kept, "accuracy"), _mean(after, tuned, "accuracy")
    if upstream is None or downstream is None:
        return None
    return {"upstream": upstream, "downstream": downstream, "value": harmonic_mean(upstream, downstream)}


def _bwt(runs: Sequence[Run], tuned: Sequence[str]) -> dict[str, Any] | None:
    """Where there is the run before and one after each of several tasks; None otherwise."""
    if len(tuned) < 2 or len(runs) != len(tuned) + 1:
        return None
    rows = [run.rows for run in runs[1:]]
    common = [m for m in MEANS if all(m in item_values(one, task) for one in rows for task in tuned)]
    return {measure: asdict(backward_transfer(rows, tuned, measure)) for measure in common}


def _point(
    run: Run, tuned: Sequence[str], kept: Mapping[str, Sequence[str]], shared: Sequence[str], kinds: Mapping[str, str]
) -> dict[str, Any]:
    """One run of the learning-retention curve; None where there is nothing of a kind."""
    text = [suite for suite in shared if kinds[suite] == "text"]
    return {
        "run": run.name,
        "learned": {measure: _mean(run.rows, tuned, measure) for measure in MEANS},
        "kept": {measure: _mean(run.rows, kept["task"], measure) for measure in MEANS}
        | {f"language_{measure}": _mean(run.rows, kept["language"], measure) for measure in MEANS}
        | {"text_nats": _mean(run.rows, text, "text_nats")},
    }


def _mean(rows: Rows, suites: Sequence[str], measure: str) -> float | None:
    """Mean over the suites that have the measure, each with the same weight."""
    means = [fmean(values[measure].values()) for suite in suites if measure in (values := item_values(rows, suite))]
    return fmean(means) if means else None


def _matched(report: Mapping[str, Any], against: Mapping[str, Any]) -> dict[str, Any]:
    """The two curves where both have learned equally much, by accuracy on the tuned suites."""
    names = report["runs"][-1], against["runs"][-1]
    if names[0] == names[1]:
        raise ConfigError(f"both curves end in a run called {names[0]!r}; rename one output folder")
    if report["tuned"] != against["tuned"] or report["suites"].keys() != against["suites"].keys():
        raise DataError(
            f"{names[1]} was tuned on {against['tuned']} and evaluated on {', '.join(against['suites'])}, "
            f"{names[0]} on {report['tuned']} and {', '.join(report['suites'])}: evaluate both on the same suites"
        )
    curves = {
        name: [CurvePoint(point["learned"]["accuracy"], point["kept"]) for point in one["curve"]]
        for name, one in zip(names, (report, against), strict=True)
    }
    if any(not curve or any(point.learned is None for point in curve) for curve in curves.values()):
        raise DataError("a comparison at matched learning needs --tuned with suites that have an accuracy, in both")
    return {**asdict(matched_learning(curves)), "curves": {names[1]: against["curve"]}}


def retention_table(report: Mapping[str, Any]) -> str:
    """For the terminal: before, after, forgetting and a verdict for each suite and measure; then what sums it up."""
    first, last = report["runs"][0], report["runs"][-1]
    rows = []
    for name, suite in report["suites"].items():
        label = f"{name} (tuned)" if suite["tuned"] else name
        for measure, values in suite["measures"].items():
            lost = values["forgetting"]
            known = MEASURES[measure]
            cells = (f"{values['before']:.3f}", f"{values['after']:.3f}", _signed(lost), verdict(lost))
            rows.append((label, f"{known.title}, {known.unit}", *cells, str(suite["num_items"])))
            label = ""
    title = f"Retention: {first} to {last}; forgetting is positive where {last} is worse"
    table = Table(("suite", "measure", "before", "after", "forgetting", "", "items"), rows)
    return "\n".join([title, table.aligned(), *_sums(report)])


def _signed(interval: Mapping[str, float]) -> str:
    """Signed estimate and interval."""
    return f"{interval['estimate']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _sums(report: Mapping[str, Any]) -> Iterator[str]:
    for name, suite in report["suites"].items():
        if suite["format_loss"] is not None:
            parts = ", ".join(f"{part} {_signed(value)}" for part, value in suite["format_loss"].items())
            yield f"{name}, lost accuracy: {parts} (total is what a strict reading loses, real what a lenient one does)"
    what = "not tuned on" if report["tuned"] else "evaluated"
    for kind, measures in report["transfer"].items():
        for measure, mean in measures.items():
            yield (
                f"transfer, mean change over {len(mean['suites'])} {kind} suites {what}: {_signed(mean)} "
                f"({MEASURES[measure].title}, {MEASURES[measure].unit})"
            )
    if report["h_mean"] is not None:
        h = report["h_mean"]
        yield f"H-mean {h['value']:.3f} of kept accuracy {h['upstream']:.3f} and tuned accuracy {h['downstream']:.3f}"
    for measure, mean in (report["bwt"] or {}).items():
        yield f"BWT over {len(report['tuned'])} tasks: {_signed(mean)} ({MEASURES[measure].title})"
    if len(report["tuned"]) > 1 and report["bwt"] is None:
        yield "BWT: not computed, it needs a --baseline before and after each tuned task but the last"
    if report["not_compared"]:
        yield f"not in all runs, so not compared: {', '.join(report['not_compared'])}"
    if report["matched"] is not None:
        yield from _matched_lines(report["matched"])


def _matched_lines(matched: Mapping[str, Any]) -> Iterator[str]:
    if matched["level"] is None:
        never = [name for name, reached in matched["reached"].items() if not reached]
        yield f"no comparison at matched learning: {' and '.join(never)} learned nothing, and curves are not extended"
        return
    yield f"where both have learned to accuracy {matched['level']:.3f} (interpolated, without interval):"
    for name, kept in matched["kept"].items():
        told = ", ".join(f"{measure} {value:.3f}" for measure, value in kept.items() if value is not None)
        yield f"  {name}: {told or 'nothing kept was measured'}"
