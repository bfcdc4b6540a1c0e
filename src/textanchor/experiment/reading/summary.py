"""summary.json and report.html of a comparison: everything that its page shows, from its records alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textanchor.analysis.claims.c3 import LEAST_RUNS, explanation
from textanchor.errors import DataError
from textanchor.experiment.reading.headroom import headroom
from textanchor.experiment.reading.matched import LEVELS, Reference, by_arm, fronts, matched, reference_of
from textanchor.experiment.reading.runs import INTERPOLATED, Curve, curves_of
from textanchor.files import write_json, write_text
from textanchor.records import RunRecord
from textanchor.report.compare import render_compare

SUMMARY, PAGE = "summary.json", "report.html"
GEOMETRY = ("function_drift_normalised", "coupling", "angle_mean", "text_angle_mean")
"""Measures of `GeometryRecorder` that may explain forgetting."""


def write_summary(name: str, records: Sequence[RunRecord], folder: Path) -> dict[str, Any]:
    """Write summary.json and report.html into the folder of a comparison; gives the summary."""
    summary = summarise_runs(name, records)
    write_json(folder / SUMMARY, summary)
    write_text(folder / PAGE, render_compare(summary))
    return summary


def summarise_runs(name: str, records: Sequence[RunRecord]) -> dict[str, Any]:
    """The summary of all records of one comparison; DataError where there are none, or they do not belong together."""
    if not records:
        raise DataError(f"{name}: no finished run, so there is nothing to summarise")
    curves = curves_of(records)
    tasks = dict.fromkeys(curve.task for curve in curves)
    return {
        "name": name,
        "num_runs": len(records),
        "models": sorted({str(record.config["model"]) for record in records}),
        "code": records[0].hashes["code"],
        "commits": sorted({record.commit or "unknown" for record in records}),
        "versions": records[0].versions,
        "hours": sum(record.cost["seconds"] for record in records) / 3600,
        "levels": list(LEVELS),
        "tasks": {task: _task([curve for curve in curves if curve.task == task]) for task in tasks},
        "explanation": _explanation(records),
    }


def _task(curves: Sequence[Curve]) -> dict[str, Any]:
    first, reference = curves[0], reference_of(curves)
    accuracy = first.accuracy("test")
    found: dict[str, Any] = {
        "new": first.new,
        "retained": list(first.retained),
        "num_items": {split: first.lost(split)[1].size for split in ("validation", "test")},
        "start": {
            "nats": float(first.nats[first.new, "test"][:, 0].mean()),
            "accuracy": None if accuracy is None else float(accuracy[0]),
        },
        "arms": [
            {
                "arm": arm,
                "needs": own[0].needs,
                "configurations": len(own),
                "runs": sum(len(curve.seeds) for curve in own),
                "seeds": sorted({seed for curve in own for seed in curve.seeds}),
            }
            for arm, own in by_arm(curves).items()
        ],
        "curves": [_points(curve, reference) for curve in curves],
        "headroom": headroom(curves),
        "reference": None,
        "matched": None,
        "fronts": None,
    }
    if reference is not None:
        found["reference"] = {
            "arm": reference.configuration.arm,
            "configuration": str(reference.configuration),
            "place": reference.place,
            "gain": dict(reference.gain),
        }
        found["matched"] = matched(curves, reference)
        found["fronts"] = fronts(curves, reference)
    return found


def _points(curve: Curve, reference: Reference | None) -> dict[str, Any]:
    gain, lost, accuracy = curve.gain("test"), curve.mean_lost("test"), curve.accuracy("test")
    points = curve.mean_lost("test", "correct") if curve.correct else None
    text = None if curve.text is None else curve.text.mean(axis=0)
    learned = None if reference is None else reference.learned(curve, "test")
    return {
        "arm": curve.configuration.arm,
        "configuration": str(curve.configuration),
        "axis": "alpha" if curve.configuration.arm.endswith(INTERPOLATED) else "step",
        "seeds": len(curve.seeds),
        "points": [
            {
                "at": place,
                "gain": float(gain[i]),
                "learned": None if learned is None else float(learned[i]),
                "accuracy": None if accuracy is None else float(accuracy[i]),
                "forgetting": float(lost[i]),
                "points": None if points is None else float(points[i]),
                "text": None if text is None else float(text[i] - text[0]),
            }
            for i, place in enumerate(curve.places)
        ],
    }


def _explanation(records: Sequence[RunRecord]) -> dict[str, Any]:
    """C3: whether the geometry's drift goes with forgetting beyond size and learning, at the end of all runs."""
    runs = [row for record in records if (row := _last_geometry(record)) is not None]
    found: dict[str, Any] = {"num_runs": len(runs), "least_runs": LEAST_RUNS, "results": [], "without": {}}
    if len(runs) < LEAST_RUNS:
        return found
    for measure in GEOMETRY:
        try:
            found["results"].append(explanation(runs, measure).to_dict())
        except DataError as error:
            found["without"][measure] = str(error)
    return found


def _last_geometry(record: RunRecord) -> dict[str, float] | None:
    """The last entry's measures with size, learning and forgetting of this run; None where a value is missing."""
    entries = record.extra.get("geometry") or []
    if not entries:
        return None
    last = entries[-1]
    curve = curves_of([record])[0]
    values = {measure: last[measure] for measure in GEOMETRY}
    values |= {
        "forgetting": float(curve.mean_lost("test")[-1]),
        "learning": float(curve.gain("test")[-1]),
        "relative_update": last["relative_update"].get("projector"),
    }
    return None if any(value is None for value in values.values()) or not values["relative_update"] else values
