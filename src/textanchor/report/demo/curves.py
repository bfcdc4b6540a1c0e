"""Learning-retention curves: what each method had lost by the time it had learned as much."""

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Guide, Line, line_chart
from textanchor.report.charts.markers import styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import render_figures, without_data
from textanchor.report.document import Figure, Page
from textanchor.report.numbers import NATS, SHARE, Unit, compact
from textanchor.tables import Table

Point = dict[str, Any]
RETENTION: tuple[tuple[str, str, Unit, str, Callable[[Point], float | None]], ...] = (
    ("Old tasks, accuracy", "Up is kept.", SHARE, "old tasks, mean accuracy", lambda p: p["old"]["accuracy"]),
    (
        "Old tasks, right answer",
        "Down is kept: the cross-entropy of the right answer sees a loss before accuracy does.",
        NATS,
        "old tasks, nats per item",
        lambda p: p["old"]["gold_nats"],
    ),
    (
        "Text",
        "Down is kept: cross-entropy on plain text.",
        NATS,
        "text, nats per token",
        lambda p: p["text_cross_entropy"],
    ),
)


def render(report: Report) -> Markup:
    """One chart per kind of retention against learning, and the training loss."""
    figures = [_retention(report, *measure) for measure in RETENTION]
    figures.append(_loss(report))
    return render_figures(
        report,
        [figure for figure in figures if figure is not None],
        methods=list(report["after"]),
        note=without_data(report, "curve", "curve"),
    )


def _retention(
    report: Report, title: str, note: str, unit: Unit, y_label: str, read: Callable[[Point], float | None]
) -> Figure | None:
    looks = styles(report)
    lines, rows = [], []
    for name, run in report["after"].items():
        points = [
            (p["step"], p["new"]["accuracy"], value) for p in run.get("curve", []) if (value := read(p)) is not None
        ]
        notes = [f"{looks[name].label}, step {s}: learned {SHARE.number(x)}, {unit.number(y)}" for s, x, y in points]
        if points:
            lines.append(Line(style=looks[name], points=tuple((x, y) for _, x, y in points), notes=tuple(notes)))
        rows += [[looks[name].label, str(s), SHARE.number(x), unit.number(y)] for s, x, y in points]
    if not lines:
        return None
    matched = report.get("matched") or {}
    guides = []
    if matched.get("level") is not None and matched["metric"] == "accuracy":
        guides.append(
            Guide(
                "x",
                matched["level"],
                f"reached by {'both' if len(looks) == 3 else 'all'}: {SHARE.number(matched['level'])}",
            )
        )
    chart = line_chart(
        lines,
        title=title,
        description=f"{title} against accuracy on {report['new_task']}. {note}",
        x=Axis(label=f"learned: {report['new_task']}, accuracy", kind="share"),
        y=Axis(label=y_label, kind="share" if unit is SHARE else "linear"),
        guides=guides,
    )
    return Figure(title=title, note=note, chart=chart, table=Table(["Method", "Step", "New task", title], rows))


def _loss(report: Report) -> Figure | None:
    looks = styles(report)
    lines, rows = [], []
    for name, run in report["after"].items():
        points = [(p["step"], p["loss"]) for p in run.get("loss", [])]
        if points:
            notes = tuple(f"{looks[name].label}, step {step}: {compact(loss)}" for step, loss in points)
            lines.append(Line(style=looks[name], points=tuple(points), notes=notes, kind="thin", marks="none"))
        rows += [[looks[name].label, str(step), compact(loss)] for step, loss in points]
    if not lines:
        return None
    chart = line_chart(
        lines,
        title="Training loss",
        description="Training loss of each method over optimizer steps.",
        x=Axis(label="optimizer step"),
        y=Axis(label="training loss, nats per token"),
    )
    return Figure(
        title="Training loss",
        note="On the new task's training data, as the optimizer saw it.",
        chart=chart,
        table=Table(["Method", "Step", "Loss"], rows),
    )


PAGE = Page(
    id="curves",
    title="Learning against keeping, step by step",
    lead=(
        "Each point is a step of training; every curve starts at the same model. Two methods are compared fairly where "
        "they have learned equally much: on a vertical line, not at their ends."
    ),
    needs=("after.*.curve", "after.*.loss"),
    render=render,
)
