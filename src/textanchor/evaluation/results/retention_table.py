"""retention.json as tables for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from textanchor.tables import MEASURES, Table, verdict


def retention_table(report: Mapping[str, Any]) -> str:
    """Per suite and measure: before, after, forgetting with its interval and a verdict; then what sums it up."""
    first, last = report["runs"][0], report["runs"][-1]
    rows = []
    for name, suite in report["suites"].items():
        label = f"{name} (tuned)" if suite["tuned"] else name
        for measure, values in suite["measures"].items():
            lost = values["forgetting"]
            known = MEASURES[measure]
            cells = (f"{values['before']:.3f}", f"{values['after']:.3f}", _interval(lost), verdict(lost))
            rows.append((label, f"{known.title}, {known.unit}", *cells, str(suite["num_items"])))
            label = ""
    title = f"Retention: {first} to {last}; forgetting is positive where {last} is worse"
    table = Table(("suite", "measure", "before", "after", "forgetting", "", "items"), rows)
    return "\n".join([title, table.aligned(), *_sums(report)])


def _interval(interval: Mapping[str, float]) -> str:
    """Signed estimate and interval."""
    return f"{interval['estimate']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _sums(report: Mapping[str, Any]) -> Iterator[str]:
    for name, suite in report["suites"].items():
        if suite["format_loss"] is not None:
            parts = ", ".join(f"{part} {_interval(value)}" for part, value in suite["format_loss"].items())
            yield f"{name}, lost accuracy: {parts} (total is what a strict reading loses, real what a lenient one does)"
    what = "not tuned on" if report["tuned"] else "evaluated"
    for kind, measures in report["transfer"].items():
        for measure, mean in measures.items():
            yield (
                f"transfer, mean change over {len(mean['suites'])} {kind} suites {what}: {_interval(mean)} "
                f"({MEASURES[measure].title}, {MEASURES[measure].unit})"
            )
    if report["h_mean"] is not None:
        h = report["h_mean"]
        yield f"H-mean {h['value']:.3f} of kept accuracy {h['upstream']:.3f} and tuned accuracy {h['downstream']:.3f}"
    for measure, mean in (report["bwt"] or {}).items():
        yield f"BWT over {len(report['tuned'])} tasks: {_interval(mean)} ({MEASURES[measure].title})"
    if len(report["tuned"]) > 1 and report["bwt"] is None:
        yield "BWT: not computed, it needs a --baseline before and after each tuned task but the last"
    if report["not_compared"]:
        yield f"not in all runs, so not compared: {', '.join(report['not_compared'])}"
    if report["matched"] is not None:
        yield from _matched(report["matched"])


def _matched(matched: Mapping[str, Any]) -> Iterator[str]:
    if matched["level"] is None:
        never = [name for name, reached in matched["reached"].items() if not reached]
        yield f"no comparison at matched learning: {' and '.join(never)} learned nothing, and curves are not extended"
        return
    yield f"where both have learned to accuracy {matched['level']:.3f} (interpolated, without interval):"
    for name, kept in matched["kept"].items():
        told = ", ".join(f"{measure} {value:.3f}" for measure, value in kept.items() if value is not None)
        yield f"  {name}: {told or 'nothing kept was measured'}"
