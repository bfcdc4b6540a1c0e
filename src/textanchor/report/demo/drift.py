"""Drift: how far each part moved in the protected and in the free directions, and how long tokens grew."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import render_figures, without_data
from textanchor.report.document import Figure, Page
from textanchor.report.numbers import compact, percent
from textanchor.tables import PART_TITLES, Table

KINDS = (("protected", "solid", "protected directions"), ("free", "dashed", "free directions"))


def render(report: Report) -> Markup:
    """A chart per trained part, and one of token norms."""
    parts = dict.fromkeys(
        part for run in report["after"].values() for entry in run.get("drift", []) for part in entry["parts"]
    )
    figures = [_part(report, part) for part in parts]
    norms = _norms(report)
    return render_figures(
        report,
        figures + ([norms] if norms else []),
        methods=list(report["after"]),
        note=without_data(report, "drift", "drift"),
        line_keys=[("solid", "protected directions, image tokens"), ("dashed", "free directions, text tokens")],
    )


def _part(report: Report, part: str) -> Figure:
    looks, name = styles(report), PART_TITLES.get(part, part)
    lines, rows, ends = [], [], []
    for method, run in report["after"].items():
        entries = [(e["step"], e["parts"][part]) for e in run.get("drift", []) if part in e["parts"]]
        if not entries:
            continue
        label = looks[method].label
        for key, kind, words in KINDS:
            notes = tuple(f"{label}, step {step}, {words}: {compact(values[key])}" for step, values in entries)
            points = tuple((step, values[key]) for step, values in entries)
            lines.append(Line(style=looks[method], points=points, notes=notes, kind=kind))
        rows += [
            [label, str(s), compact(v["protected"]), compact(v["free"]), percent(v["relative_norm"])]
            for s, v in entries
        ]
        ends.append(f"{label} {percent(entries[-1][1]['relative_norm'])}")
    note = f"Size of the whole update against that of the weights, at the end: {', '.join(ends)}."
    chart = line_chart(
        lines,
        title=f"Movement of the {name}",
        description=f"Movement of the {name} in protected and free directions over steps. {note}",
        x=Axis(label="optimizer step"),
        y=Axis(label="movement from the start, norm", include=(0.0,)),
    )
    return Figure(
        title=name.capitalize(),
        note=note,
        chart=chart,
        table=Table(["Method", "Step", "Protected", "Free", "Update / weights"], rows),
    )


def _norms(report: Report) -> Figure | None:
    looks = styles(report)
    lines, rows = [], []
    for method, run in report["after"].items():
        entries: list[dict[str, Any]] = run.get("norms", [])
        for key, kind, words in (
            ("visual_token_norm", "solid", "image tokens"),
            ("text_token_norm", "dashed", "text tokens"),
        ):
            notes = tuple(f"{looks[method].label}, step {e['step']}, {words}: {compact(e[key])}" for e in entries)
            if entries:
                lines.append(
                    Line(
                        style=looks[method], points=tuple((e["step"], e[key]) for e in entries), notes=notes, kind=kind
                    )
                )
        rows += [
            [looks[method].label, str(e["step"]), compact(e["visual_token_norm"]), compact(e["text_token_norm"])]
            for e in entries
        ]
    if not lines:
        return None
    chart = line_chart(
        lines,
        title="Token norms",
        description="Mean norm of projected image tokens and of text tokens at the language model's input, over steps.",
        x=Axis(label="optimizer step"),
        y=Axis(label="mean norm of a token", include=(0.0,)),
    )
    return Figure(
        title="Token norms",
        note="Of projected image tokens and of text tokens where the language model takes them in.",
        chart=chart,
        table=Table(["Method", "Step", "Image tokens", "Text tokens"], rows),
    )


PAGE = Page(
    id="drift",
    title="What moved",
    lead=(
        "The update of each trained part, split into the directions that APP protects and the rest. For plain tuning "
        "the same directions are only measured, not held."
    ),
    needs=("after.*.drift", "after.*.norms"),
    render=render,
)
