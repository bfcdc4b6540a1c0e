"""The page of a comparison: curves, arms at equal learning, headroom, and what drift explains."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import OTHER_MARKERS, Style, legend_marker
from textanchor.report.document import Figure, Section, render_plain, render_tables, render_template
from textanchor.report.numbers import ABSENT, EN_DASH, MINUS, NATS, NO_BREAK_SPACE, SHARE, fixed, percent, signed
from textanchor.tables import Table

Summary = dict[str, Any]
"""Content of a comparison's summary.json."""

COLORS = ("s-full", "s-app", "s-other-1", "s-other-2", "s-other-3", "s-other-4")
MARKERS = ("square", "disc", *OTHER_MARKERS)


WORDS = (
    "Needs: what a method asks for beside the training data; compare within one class. Tried: how many configurations "
    "of the arm there are; x2 is one with twice the arm's learning rates. An arm that ends in +wise_ft is interpolated "
    "between the base and the trained weights. Intervals are over seeds and items."
)


def render_compare(summary: Summary) -> str:
    """The whole page; the same summary gives the same bytes."""
    byline = [f"{summary['num_runs']} runs", f"code {summary['code'][:12]}", *summary["models"]]
    return render_plain(f"Comparison {summary['name']}", byline, compare_sections(summary), data_file="summary.json")


def compare_sections(summary: Summary, prefix: str = "") -> list[Section]:
    """A section for each task, and one for what drift explains; `prefix` keeps their anchors apart on one page."""
    sections = [_task(task, found, prefix) for task, found in summary["tasks"].items()]
    return [*sections, _explanation(summary["explanation"], prefix)]


def compare_tables(summary: Summary) -> list[Table]:
    """The main tables of all tasks, under titles that name the task."""
    return [
        replace(table, title=f"{task}: {table.title}")
        for task, found in summary["tasks"].items()
        for table in task_tables(found)
    ]


def task_tables(found: dict[str, Any]) -> list[Table]:
    """The main tables of one task; those that have rows."""
    tables = [headroom_table(found["headroom"])]
    if found["matched"] is not None:
        tables = [matched_table(found["matched"]), pairs_table(found), fronts_table(found["fronts"]), *tables]
    return [table for table in tables if table.rows]


def matched_table(matched: dict[str, Any]) -> Table:
    """Every arm at the level that all reach."""
    header = [
        "Arm",
        "Needs",
        "Tried",
        "Chosen",
        "Seeds",
        "Forgetting, nats",
        "95 %",
        "Points lost",
        "95 %",
        "Text, nats",
    ]
    rows = []
    for row in matched["rows"]:
        nats, points = row["forgetting"], row["points"]
        rows.append(
            [
                row["arm"],
                row["needs"],
                str(row["configurations"]),
                row["configuration"] or "not reached",
                str(row["seeds"]),
                ABSENT if nats is None else NATS.change(nats["estimate"]),
                _span(nats, NATS),
                ABSENT if points is None else SHARE.change(points["estimate"]),
                _span(points, SHARE),
                ABSENT if row["text"] is None else NATS.change(row["text"]),
            ]
        )
    level = matched["level"]
    where = "There is no level that all arms reach." if level is None else f"Every arm at learning {level:.2f} (1: the"
    where += "" if level is None else " largest gain), in its configuration chosen there; above zero is forgotten."
    return Table(header, rows, "arms at equal learning", where)


def pairs_table(found: dict[str, Any]) -> Table:
    """All pairs of arms, paired by seed and item."""
    rows = [
        [
            f"{pair['first']} {MINUS} {pair['second']}",
            "same" if pair["same_needs"] else "differ",
            str(pair["seeds"]),
            fixed(pair["level"], 2),
            NATS.change(pair["estimate"]),
            _span(pair, NATS),
            _verdict(pair),
        ]
        for pair in found["matched"]["pairs"]
    ]
    header = ["Arms", "Needs", "Seeds", "At learning", "Difference, nats", "95 %", "Keeps more"]
    note = (
        "Forgetting of the first less that of the second at the most learning that both reach, paired by seed and "
        "item: below zero the first keeps more."
    )
    return Table(header, rows, "first minus second at equal learning", note)


def fronts_table(fronts: dict[str, Any]) -> Table:
    """The mean over the levels that every arm reaches, and how far each gets."""
    common = fronts["common"]
    span = f"{common[0]:.2f}{EN_DASH}{common[-1]:.2f}" if common else "no level"
    rows = [
        [
            row["arm"],
            row["needs"],
            str(row["configurations"]),
            ABSENT if row["mean"] is None else NATS.change(row["mean"]),
            "below .50" if row["reached_to"] is None else fixed(row["reached_to"], 2),
            *(ABSENT if value is None else NATS.change(value["forgetting"]) for value in row["values"]),
        ]
        for row in fronts["rows"]
    ]
    levels = [fixed(level, 2) for level in fronts["levels"]]
    header = ["Arm", "Needs", "Tried", f"Mean over {span}", "Reaches", *levels]
    note = "Nats forgotten where each share of the largest gain (.50 to .95) is learned, and their mean where all do."
    return Table(header, rows, "retention over learning", note)


def headroom_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What there is to keep."""
    header = ["Arm", "Configuration", "Steps", "Seeds", "Gain, nats", "Accuracy", "Forgetting at 90 %", "95 %"]
    header += ["Points lost", "Of format", "Headroom"]
    written = []
    for row in rows:
        nats, points, accuracy = row["forgetting"], row["points"], row["accuracy"]
        share = None if row["format"] is None else row["format"]["of_format"]
        written.append(
            [
                row["arm"],
                row["configuration"],
                f"{row['steps']:g}",
                str(row["seeds"]),
                fixed(row["gain"], 2),
                ABSENT if accuracy is None else _unbroken(f"{percent(accuracy[0])} → {percent(accuracy[1])}"),
                ABSENT if nats is None else NATS.change(nats["estimate"]),
                _span(nats, NATS),
                ABSENT if points is None else SHARE.change(points["estimate"]),
                ABSENT if share is None else percent(share),
                row["verdict"],
            ]
        )
    note = (
        "What there is to keep: forgetting at 90 % of what a configuration itself learns; headroom "
        "is at least .2 nats or 10 points, at most 20 % of the lost answers being lost to their format."
    )
    return Table(header, written, "headroom", note)


def _task(task: str, found: dict[str, Any], prefix: str) -> Section:
    accuracy = found["start"]["accuracy"]
    start = f"{found['start']['nats']:.2f} nats" + ("" if accuracy is None else f", accuracy {percent(accuracy)}")
    lead = (
        f"New task {found['new']} (before: {start}); retained: {', '.join(found['retained'])}. Forgetting is the rise "
        "of the right answer's cross-entropy, mean over the retained tasks: down is kept. Configurations are chosen on "
        f"{found['num_items']['validation']} validation items and scored on {found['num_items']['test']} others."
    )
    body = Markup("")
    if found["reference"] is None:
        body += Markup("<p>{}</p>").format("Nothing was learned on both splits, so no arms are compared.")
    else:
        body += _figures(task, found)
    tables = render_tables(task_tables(found), folded=[_points_table(found["curves"])], note=_note(found))
    return Section(f"{prefix}{task}", task, lead, body + tables)


def _note(found: dict[str, Any]) -> str:
    counts = {row["arm"]: row["configurations"] for row in found["arms"]}
    told = []
    if len(set(counts.values())) > 1:
        told.append(
            "The arms tried unequal numbers of configurations "
            f"({', '.join(f'{arm} {count}' for arm, count in counts.items())}): more tries choose better."
        )
    if found["fronts"] is not None:
        short = [r["arm"] for r in found["fronts"]["rows"] if r["reached_to"] != found["fronts"]["levels"][-1]]
        if short:
            told.append(f"Not every level was reached by: {', '.join(short)}. Nothing is extrapolated.")
    if found["reference"] is not None:
        reference = found["reference"]
        told.append(
            f"Learning 1 is the largest gain, of {reference['arm']} {reference['configuration']}: "
            f"{reference['gain']['test']:.2f} nats on the test items."
        )
    return " ".join([*told, WORDS])


def _figures(task: str, found: dict[str, Any]) -> Markup:
    arms = [row["arm"] for row in found["arms"]]
    looks = {arm: Style(arm, arm, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, arm in enumerate(arms)}
    figures = [_figure(task, found["curves"], looks, "forgetting", "retained tasks: nats forgotten")]
    if any(point["text"] is not None for curve in found["curves"] for point in curve["points"]):
        figures.append(_figure(task, found["curves"], looks, "text", "plain text: nats per token lost"))
    legend = [(look, legend_marker(look.marker)) for look in looks.values()]
    return render_template("figures.html", figures=figures, legend=legend, line_keys=(), note="")


def _figure(task: str, curves: Sequence[dict[str, Any]], looks: dict[str, Style], key: str, label: str) -> Figure:
    lines, rows = [], []
    for curve in curves:
        points = [(p["learned"], p[key], p["at"]) for p in curve["points"] if p[key] is not None]
        if not points:
            continue
        notes = tuple(
            f"{curve['arm']} {curve['configuration']}, {curve['axis']} {at:g}: {percent(x)}, {NATS.change(y)}"
            for x, y, at in points
        )
        lines.append(Line(style=looks[curve["arm"]], points=tuple((x, y) for x, y, _ in points), notes=notes))
        rows += [[curve["arm"], curve["configuration"], f"{at:g}", percent(x), NATS.change(y)] for x, y, at in points]
    chart = line_chart(
        lines,
        title=f"{task}: {label}",
        description=f"{label} against the share of the largest gain that was learned, one line for each configuration.",
        x=Axis(label=f"learned of {task}: share of the largest gain", kind="linear"),
        y=Axis(label=label),
    )
    header = ["Arm", "Configuration", "At", "Learned", label]
    return Figure(title=label.capitalize(), note="Down is kept.", chart=chart, table=Table(header, rows))


def _points_table(curves: Sequence[dict[str, Any]]) -> Table:
    header = ["Arm", "Configuration", "Axis", "At", "Gain, nats", "Accuracy", "Forgetting", "Points lost", "Text"]
    rows = [
        [
            curve["arm"],
            curve["configuration"],
            curve["axis"],
            f"{p['at']:g}",
            fixed(p["gain"], 3),
            ABSENT if p["accuracy"] is None else percent(p["accuracy"]),
            NATS.change(p["forgetting"]),
            ABSENT if p["points"] is None else SHARE.change(p["points"]),
            ABSENT if p["text"] is None else NATS.change(p["text"]),
        ]
        for curve in curves
        for p in curve["points"]
    ]
    note = "Each configuration at each scored step, or interpolation weight; changes are since step 0."
    return Table(header, rows, "All scored points", note)


def _explanation(found: dict[str, Any], prefix: str) -> Section:
    lead = "Whether the projector's geometry goes with forgetting beyond the update's size and what was learned (C3)."
    if not found["results"]:
        told = f"{found['num_runs']} runs recorded the projector's geometry; at least {found['least_runs']} are needed."
        return Section(f"{prefix}drift", "What drift explains", lead, Markup("<p>{}</p>").format(told))
    rows = [
        [
            r["name"],
            signed(r["value"], 2),
            f"{fixed(r['interval'][0], 2)} to {fixed(r['interval'][1], 2)}",
            r["verdict"],
        ]
        for r in found["results"]
    ]
    header = ["Measure", "Partial rank correlation", "95 %", "Verdict"]
    how = "How each measure of drift goes with forgetting, among runs of equal size of the update and equal learning."
    table = Table(header, rows, note=how)
    note = f"{found['results'][0]['interval_kind']}. {found['results'][0]['caveat']}"
    return Section(f"{prefix}drift", "What drift explains", lead, render_tables([table], note=note))


def _span(value: dict[str, Any] | None, unit: Any) -> str:
    return ABSENT if value is None else _unbroken(f"{unit.change(value['low'])} to {unit.change(value['high'])}")


def _unbroken(text: str) -> str:
    return text.replace(" ", NO_BREAK_SPACE)


def _verdict(pair: dict[str, Any]) -> str:
    if pair["low"] <= 0 <= pair["high"]:
        return "unclear"
    return pair["second"] if pair["estimate"] > 0 else pair["first"]
