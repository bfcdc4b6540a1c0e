"""Summary: the answer in words, the one picture of it, and the few numbers that carry it."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style, legend_marker, styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import change, old_mean, paired_change, score_sets, task_value
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import ABSENT, NATS, PLAIN, SHARE, Unit, Value, percent

CLAIM_MARGIN = 0.10
"""A model must be this much above its own blind baseline before anything is claimed from POPE."""


def render(report: Report) -> Markup:
    """Headline, learning against keeping, scoreboard, and the comparison at equal learning."""
    looks = styles(report)
    return render_template(
        "summary.html",
        report=report,
        verdict=_verdict(report, looks),
        chart=_learning_against_keeping(report, looks),
        looks=[(look, legend_marker(look.marker)) for look in looks.values()],
        rows=_scoreboard(report),
        matched=_matched(report, looks),
    )


def _verdict(report: Report, looks: dict[str, Style]) -> dict[str, str]:
    """Who kept more, in few words; where that is not APP, it is said just as plainly."""
    better = report["headline"]["better"]
    where = " at equal learning" if (report.get("matched") or {}).get("level") is not None else ""
    if better == "app":
        return {"css": "app", "text": f"APP kept more{where}"}
    winner = "No clear difference." if better == "neither" else f"{looks[better].label} kept more{where}."
    return {"css": "even", "text": f"APP was not better. {winner}" if "app" in report["after"] else winner}


def _learning_against_keeping(report: Report, looks: dict[str, Style]) -> Markup | None:
    """A line per method from the model before tuning; right is learned, up is kept. None without old accuracies."""
    lines, told, start = [], [], None
    for name, scores in score_sets(report).items():
        new, old = task_value(scores, report["new_task"], "accuracy"), old_mean(scores, report, "accuracy")
        if new is None or old is None:
            return None
        told.append(f"{looks[name].label}: new task {percent(new.estimate)}, old tasks {percent(old.estimate)}")
        end = (new.estimate, old.estimate)
        start = start or end
        lines += _whiskers(looks[name], new, old)
        lines.append(
            Line(
                style=looks[name],
                points=(end,) if name == "before" else (start, end),
                notes=(told[0], told[-1])[: 1 if name == "before" else 2],
                marks="last",
                end_label=looks[name].label,
            )
        )
    return line_chart(
        lines,
        title="Learned against kept",
        description="; ".join(told),
        x=Axis(label=f"learned: {report['new_task']}, accuracy", kind="share", bounds=(0.0, 1.0)),
        y=Axis(label="kept: old tasks, mean accuracy", kind="share"),
    )


def _whiskers(style: Style, x: Value, y: Value) -> list[Line]:
    lines = []
    if x.low is not None and x.high is not None:
        lines.append(
            Line(style=style, points=((x.low, y.estimate), (x.high, y.estimate)), kind="whisker", marks="none")
        )
    if y.low is not None and y.high is not None:
        lines.append(
            Line(style=style, points=((x.estimate, y.low), (x.estimate, y.high)), kind="whisker", marks="none")
        )
    return lines


def _scoreboard(report: Report) -> list[dict[str, Any]]:
    """Rows of the table: a measure, its value before, and after each method with the change."""
    new = report["new_task"]
    num_old = sum("accuracy" in report["before"]["tasks"][task] for task in report["old_tasks"])
    rows: list[dict[str, Any] | None] = [
        _task_row(report, f"Learned: {new}", "accuracy on the new task", new, "accuracy", SHARE)
    ]
    if num_old:
        rows.append(_task_row(report, "Kept: old tasks", f"accuracy, mean of {num_old}", None, "accuracy", SHARE))
    if report["old_tasks"]:
        hint = "cross-entropy of the right answer, nats; less is better"
        rows.append(_task_row(report, "Kept: old tasks", hint, None, "gold_nats", NATS))
    rows.append(_suite_row(report, "Hallucination: POPE", _pope_hint(report), "pope", "accuracy", SHARE))
    rows.append(
        _suite_row(report, "Text", "cross-entropy, nats per token; less is better", "text", "cross_entropy", NATS)
    )
    return [row for row in rows if row is not None]


def _task_row(report: Report, label: str, hint: str, task: str | None, metric: str, unit: Unit) -> dict[str, Any]:
    """A row of one task, or of the old tasks' mean where `task` is None."""
    cells, before = [], None
    for name, scores in score_sets(report).items():
        value = old_mean(scores, report, metric) if task is None else task_value(scores, task, metric)
        before = value if name == "before" else before
        paired = None if name == "before" else paired_change(scores, task, metric)
        cells.append(_cell(value, before if name != "before" else None, unit, paired))
    return {"label": label, "hint": hint, "cells": cells}


def _suite_row(report: Report, label: str, hint: str, suite: str, metric: str, unit: Unit) -> dict[str, Any] | None:
    """A row of a suite that may be absent from the data: None if no model was scored on it."""
    values = {name: Value.read(scores.get(suite, {}).get(metric)) for name, scores in score_sets(report).items()}
    if not any(values.values()):
        return None
    before = values["before"]
    cells = [_cell(value, before if name != "before" else None, unit, None) for name, value in values.items()]
    return {"label": label, "hint": hint, "cells": cells}


def _cell(value: Value | None, before: Value | None, unit: Unit, paired: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "number": unit.number(value.estimate),
        "interval": unit.interval(value),
        "change": change(before, value, unit, paired),
    }


def _pope_hint(report: Report) -> str:
    pope = report["before"].get("pope")
    accuracy = Value.read(pope["accuracy"]) if pope else None
    if pope is None or accuracy is None or pope["blind_accuracy"] is None:
        return "accuracy; no baseline without the image was measured"
    above = accuracy.estimate - pope["blind_accuracy"]
    hint = f"accuracy; without the image {percent(pope['blind_accuracy'])}"
    if above >= CLAIM_MARGIN:
        return hint
    return f"{hint}; the model is only {SHARE.change(above)} points from that, too little for any claim"


def _matched(report: Report, looks: dict[str, Style]) -> dict[str, Any] | None:
    """The comparison at equal learning as table rows, or which methods never got there."""
    matched = report.get("matched")
    if matched is None:
        return None
    methods = list(report["after"])
    never = [looks[name].label for name in methods if not matched["reached"][name]]
    measures = (
        ("Old tasks, accuracy", "old_accuracy", SHARE),
        ("Old tasks, right answer (nats)", "old_gold_nats", NATS),
        ("Text cross-entropy (nats)", "text_cross_entropy", NATS),
    )
    rows = []
    for label, key, unit in measures:
        values = [(matched["at_level"][name] or {}).get(key) for name in methods]
        if any(value is not None for value in values):
            rows.append({"label": label, "cells": _ranked(values, unit)})
    level = matched["level"]
    return {
        "level": None if level is None else percent(level) if matched["metric"] == "accuracy" else PLAIN.number(level),
        "metric": matched["metric"],
        "never": never,
        "methods": [(looks[name], legend_marker(looks[name].marker)) for name in methods],
        "rows": rows,
    }


def _ranked(values: list[float | None], unit: Unit) -> list[dict[str, Any]]:
    """Each value written, the best marked; none is marked where all are written alike."""
    known = [value for value in values if value is not None]
    best = (max if unit.higher_is_better else min)(known)
    all_alike = len({unit.number(value) for value in known}) == 1
    return [
        {"number": ABSENT if value is None else unit.number(value), "best": value == best and not all_alike}
        for value in values
    ]


PAGE = Page(
    id="summary",
    title="Summary",
    lead="What tuning taught the model, what it cost, and whether holding the anchor made a difference.",
    needs=("headline",),
    render=render,
)
