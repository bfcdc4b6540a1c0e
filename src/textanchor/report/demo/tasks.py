"""Learned and kept: each task before and after, with intervals and the marks that say what a number is worth."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis, Scale, fit
from textanchor.report.charts.markers import legend_marker, styles
from textanchor.report.charts.strips import Lane, Reference, strip
from textanchor.report.check import Report
from textanchor.report.demo.readings import change, paired_change, score_sets, task_value
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import ABSENT, NATS, SHARE, Unit, Value
from textanchor.tables import Table

METRICS = (
    ("accuracy", "Accuracy", SHARE, Axis(label="", kind="share", bounds=(0.0, 1.0)), "right is better"),
    (
        "gold_nats",
        "Cross-entropy of the right answer",
        NATS,
        Axis(label="", include=(0.0,)),
        "in nats per item, left is better; the new task has its own axis",
    ),
)


def render(report: Report) -> Markup:
    """A dumbbell chart per metric, the new task first, and everything as a table."""
    looks = styles(report)
    charts = [_chart(report, metric, title, unit, axis, note) for metric, title, unit, axis, note in METRICS]
    legend = [(look, legend_marker(look.marker)) for look in looks.values()]
    return render_template("tasks.html", charts=charts, legend=legend, table=_table(report))


def _chart(report: Report, metric: str, title: str, unit: Unit, axis: Axis, note: str) -> dict[str, Any]:
    """Tasks on one axis where its bounds are fixed; else the new task, which moves most, has an axis of its own."""
    new, old = [report["new_task"]], report["old_tasks"]
    groups = [[*new, *old]] if axis.bounds is not None else [new, old]
    scored = [[task for task in tasks if metric in report["before"]["tasks"][task]] for tasks in groups]
    return {
        "title": title,
        "note": note,
        "groups": [_group(report, tasks, metric, unit, axis) for tasks in scored if tasks],
    }


def _group(report: Report, tasks: list[str], metric: str, unit: Unit, axis: Axis) -> dict[str, Any]:
    values = [task_value(scores, task, metric) for scores in score_sets(report).values() for task in tasks]
    scale = fit(axis, [end for v in values if v for end in (v.estimate, v.low, v.high) if end is not None])
    ticks = [(f"{100 * scale.position(x):.2f}", label) for x, label in scale.ticks()]
    return {"ticks": ticks, "rows": [_row(report, task, metric, unit, scale) for task in tasks]}


def _row(report: Report, task: str, metric: str, unit: Unit, scale: Scale) -> dict[str, Any]:
    looks, sets = styles(report), score_sets(report)
    before = task_value(sets["before"], task, metric)
    lanes, numbers = [], []
    for name, scores in sets.items():
        value = task_value(scores, task, metric)
        if name == "before" or value is None:
            continue
        lanes.append(Lane(looks[name], value))
        numbers.append(
            (looks[name], unit.number(value.estimate), change(before, value, unit, paired_change(scores, task, metric)))
        )
    raw = sets["before"]["tasks"][task]
    references = [
        Reference(kind, label, raw[kind])
        for kind, label in (("blind", "without the image"), ("majority", "commonest answer"))
        if metric == "accuracy" and raw.get(kind) is not None
    ]
    return {
        "task": task,
        "is_new": task == report["new_task"],
        "num_items": raw["num_items"],
        "before": unit.number(before.estimate) if before else ABSENT,
        "numbers": numbers,
        "strip": strip(before, lanes, scale=scale, unit=unit, name=task, references=references),
    }


def _table(report: Report) -> Table:
    """Every number of the page, one row per task and model."""
    looks = styles(report)
    rows = []
    for task in [report["new_task"], *report["old_tasks"]]:
        for name, scores in score_sets(report).items():
            raw = scores["tasks"][task]
            cells = [_with_interval(raw.get(metric), unit) for metric, _, unit, _, _ in METRICS]
            marks = [ABSENT if raw.get(key) is None else SHARE.number(raw[key]) for key in ("blind", "majority")]
            rows.append([task, looks[name].label, *cells, *marks, str(raw["num_items"])])
    header = ["Task", "Model", "Accuracy", "Right answer (nats)", "Without the image", "Commonest answer", "Items"]
    return Table(header, rows)


def _with_interval(raw: Any, unit: Unit) -> str:
    value = Value.read(raw)
    if value is None:
        return ABSENT
    return f"{unit.number(value.estimate)} ({unit.interval(value)})"


PAGE = Page(
    id="tasks",
    title="Learned and kept, task by task",
    lead=(
        "Each row is a task: the ring is the model before tuning, the filled mark is the model after. The grey band "
        "and the whiskers are intervals, so a mark inside the band has moved no more than its own uncertainty."
    ),
    needs=("before.tasks",),
    render=render,
)
