"""What the sections share: the looks of text and image positions, and curves along depth with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Guide, Line, line_chart
from textanchor.report.charts.markers import Style, legend_marker
from textanchor.report.document import Figure, render_template
from textanchor.report.numbers import EN_DASH, compact
from textanchor.tables import Table

TEXT = Style("text", "Text positions", "s-app", "disc")
VISUAL = Style("visual", "Image positions", "s-full", "square")
UNTRAINED = Style("untrained", "Random weights, text", "s-random", "triangle")
CONTROL = Style("control", "Control", "s-random", "disc")
OF_KIND = {"text": TEXT, "visual": VISUAL}

Values = Mapping[int, Any]
"""Depth -> number, or object with estimate, low and high."""


def depth_figure(
    title: str,
    note: str,
    curves: Sequence[tuple[Style, Values]],
    *,
    y: Axis,
    plain: Sequence[tuple[Style, Values]] = (),
    guides: Sequence[Guide] = (),
    controls: Sequence[tuple[str, Values]] = (),
    only_in_table: Sequence[tuple[str, Values]] = (),
) -> Figure:
    """Curves along depth: `plain` as lines without markers (all depths), `curves` with markers and whiskers.

    `controls` are dotted lines in the look of controls, named in the table; `only_in_table` is not drawn.
    """
    lines = [Line(style=look, points=_points(values), kind="thin", marks="none") for look, values in plain if values]
    lines += [
        Line(style=CONTROL, points=_points(values), kind="dotted", marks="none") for _, values in controls if values
    ]
    for look, values in curves:
        lines += [
            Line(style=look, points=((depth, value["low"]), (depth, value["high"])), kind="whisker", marks="none")
            for depth, value in values.items()
            if isinstance(value, dict)
        ]
        notes = tuple(f"{look.label}, depth {depth}: {written(value)}" for depth, value in values.items())
        kind = "points" if any(look is other for other, _ in plain) else "solid"
        lines.append(Line(style=look, points=_points(values), notes=notes, kind=kind))
    x = Axis(label="depth in the language model")
    chart = line_chart(lines, title=title, description=note, x=x, y=y, guides=guides)
    return Figure(title=title, note=note, chart=chart, table=_table(curves, plain, [*controls, *only_in_table]))


def render_measured(figures: Sequence[Figure], looks: Sequence[Style], *, note: str = "") -> Markup:
    """The figures under a legend of these looks."""
    legend = [(look, legend_marker(look.marker)) for look in looks]
    return render_template("figures.html", figures=figures, legend=legend, line_keys=(), note=note)


def estimate(value: Any) -> float:
    """The number of a bare number or of an interval."""
    return value["estimate"] if isinstance(value, dict) else value


def written(value: Any) -> str:
    """The number, with its interval where it has one."""
    if not isinstance(value, dict):
        return compact(value)
    return f"{compact(value['estimate'])} ({compact(value['low'])}{EN_DASH}{compact(value['high'])})"


def _points(values: Values) -> tuple[tuple[float, float], ...]:
    return tuple((float(depth), estimate(value)) for depth, value in values.items())


def _table(
    curves: Sequence[tuple[Style, Values]],
    plain: Sequence[tuple[Style, Values]],
    controls: Sequence[tuple[str, Values]],
) -> Table:
    columns = [(look.label, values) for look, values in curves]
    columns += [(f"{look.label}, all tokens", values) for look, values in plain]
    columns += list(controls)
    depths = sorted({depth for _, values in columns for depth in values})
    rows = [
        [str(depth), *(written(values[depth]) if depth in values else EN_DASH for _, values in columns)]
        for depth in depths
    ]
    return Table(["Depth", *(label for label, _ in columns)], rows)
