"""The page of a repair: what was taken back of each part, the learning-retention curve, every tensor."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.document import Section, render_plain, render_tables
from textanchor.report.numbers import ABSENT, compact, duration, fixed, percent
from textanchor.tables import PART_TITLES, Table

RepairJson = dict[str, Any]
"""Content of repair.json, as `RepairReport.to_dict` makes it."""

MOST_SHOWN = 20
"""Longer tables are folded away."""
CURVE = Style("repair", "repair", "s-app", "disc")
CHOSEN = Style("chosen", "chosen", "s-full", "square")


def render_repair(values: RepairJson, parts: Sequence[Sequence[str]]) -> str:
    """The page as one HTML file that loads nothing else; `parts` are rows of part, tensors, change left, rules."""
    sections = [_taken_back(values, parts)]
    if values["sweep"]:
        sections.append(_curve(values))
    sections += [_tensors(values), _record(values)]
    byline = [f"tuned: {values['tuned']}", f"base: {values['base']}", f"strength {values['strength']:g}"]
    return render_plain("What was taken back", byline, sections, data_file="repair.json")


def _taken_back(values: RepairJson, parts: Sequence[Sequence[str]]) -> Section:
    header = ["Part", "Changed tensors", "Change left", "Rules"]
    lead = "The norm of the change that is left, relative to that of tuning. Strength 0 is the tuned model, 1 the plan."
    return Section("parts", "Parts", lead, render_tables([Table(header, parts)]))


def _curve(values: RepairJson) -> Section:
    points = values["sweep"]
    chosen = next(point for point in points if point["strength"] == values["strength"])
    line = Line(
        style=CURVE,
        points=tuple((point["learned"], point["kept"]) for point in points),
        notes=tuple(f"strength {p['strength']:g}: {percent(p['learned'])} and {percent(p['kept'])}" for p in points),
    )
    mark = Line(style=CHOSEN, points=((chosen["learned"], chosen["kept"]),), end_label=f"{chosen['strength']:g}")
    chart = line_chart(
        [line, mark],
        title="Learned against kept",
        description="One point for each strength; the square is the one with the largest H-mean.",
        x=Axis(label="learned: accuracy on the new task", kind="share"),
        y=Axis(label="kept: mean accuracy", kind="share"),
    )
    rows = [[f"{p['strength']:g}", percent(p["learned"]), percent(p["kept"]), fixed(p["h_mean"], 3)] for p in points]
    table = Table(["Strength", "Learned", "Kept", "H-mean"], rows)
    body = Markup("<figure>{}</figure>").format(chart) + render_tables([table])
    lead = (
        "Accuracy on the validation suites at each strength. The strength was chosen on these items, so its scores "
        "flatter it: evaluate the written model on others."
    )
    return Section("curve", "Learning and retention", lead, body)


def _tensors(values: RepairJson) -> Section:
    rows = [
        [
            row["name"],
            PART_TITLES[row["part"]],
            row["rule"] or ABSENT,
            compact(row["change"]),
            percent(row["change_left"] / row["change"]),
        ]
        for row in values["tensors"]
    ]
    changed = [Table(["Tensor", "Part", "Rule", "Change", "Left"], rows, "Tensors that tuning changed")]
    shown, folded = ([], changed) if len(rows) > MOST_SHOWN else (changed, [])
    if values["audit"]:
        leaks = [
            [row["name"], row["rule"], *(_number(row[key]) for key in ("weight_leak", "bound", "saved_leak"))]
            for row in values["audit"]
        ]
        shown = [*shown, Table(["Linear", "Rule", "Weight leak", "Bound", "As saved"], leaks, "Leaks")]
    lead = (
        "A leak is the share of the change that lies in held directions; as saved, after rounding to the type on disk."
        if values["audit"]
        else "The norm of each tensor's change, and the share of it that is left."
    )
    return Section("tensors", "Tensors", lead, render_tables(shown, folded=folded))


def _number(value: float | None) -> str:
    return ABSENT if value is None else compact(value)


def _record(values: RepairJson) -> Section:
    record = values["record"]
    rows = [["way", record["way"]], ["seconds", duration(record["cost"]["seconds"])]]
    rows += [[name, version] for name, version in record["versions"].items()]
    rows.append(["commit", record["commit"] or ABSENT])
    return Section("record", "Record", "How this was made.", render_tables([Table(["What", "Value"], rows)]))
