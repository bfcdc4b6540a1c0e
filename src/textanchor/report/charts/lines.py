"""Line charts: points joined by lines, one look per method, dashed guides, a tooltip on each point."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from textanchor.report.charts.axes import Axis, Scale, fit
from textanchor.report.charts.markers import Style, marker

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 34, 44


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: its look, its points from first to last, what each point's tooltip says."""

    style: Style
    points: tuple[tuple[float, float], ...]
    notes: tuple[str, ...] = ()
    kind: str = "solid"
    """"solid", "dashed", "dotted", "thin" (for many points) or "whisker" (for intervals)."""
    marks: str = "all"
    """Which points carry a marker: "all", "last" or "none"."""
    end_label: str = ""


@dataclass(frozen=True)
class Guide:
    """A dashed line across the plot at one value of one axis."""

    along: str
    """"x" for a vertical line at that x, "y" for a horizontal one."""
    at: float
    label: str


def line_chart(
    lines: Sequence[Line], *, title: str, description: str, x: Axis, y: Axis, guides: Sequence[Guide] = ()
) -> Markup:
    """The chart as one SVG; `title` and `description` are what a screen reader tells. Lines need at least one point."""
    x_scale = fit(x, [px for line in lines for px, _ in line.points] + [g.at for g in guides if g.along == "x"])
    y_scale = fit(y, [py for line in lines for _, py in line.points] + [g.at for g in guides if g.along == "y"])
    parts = [_frame(x_scale, y_scale)]
    parts += [_guide(guide, x_scale, y_scale) for guide in guides]
    parts += [_line(line, x_scale, y_scale) for line in lines]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        WIDTH, HEIGHT, title, description, Markup("").join(parts)
    )


def _x(scale: Scale, value: float) -> float:
    return round(LEFT + scale.position(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(scale: Scale, value: float) -> float:
    return round(HEIGHT - BOTTOM - scale.position(value) * (HEIGHT - TOP - BOTTOM), 1)


def _frame(x_scale: Scale, y_scale: Scale) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value, label in y_scale.ticks():
        y = _y(y_scale, value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, right, y, y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, y + 4, label)
        )
    for value, label in x_scale.ticks():
        x = _x(x_scale, value)
        parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, bottom, bottom + 5))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(x, bottom + 19, label)
        )
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, right, bottom, bottom))
    parts.append(Markup('<text class="name" x="4" y="14">{}</text>').format(f"↑ {y_scale.axis.label}"))
    parts.append(
        Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
            right, HEIGHT - 6, f"{x_scale.axis.label} →"
        )
    )
    return Markup("").join(parts)


def _guide(guide: Guide, x_scale: Scale, y_scale: Scale) -> Markup:
    if guide.along == "x":
        x = _x(x_scale, guide.at)
        ends, anchor = (x, x, TOP, HEIGHT - BOTTOM), "end" if x > WIDTH / 2 else "start"
        text_at = (x + 14 if anchor == "end" else x - 14, TOP - 4)
    else:
        y = _y(y_scale, guide.at)
        ends, anchor, text_at = (LEFT, WIDTH - RIGHT, y, y), "end", (WIDTH - RIGHT, y - 5)
    return Markup(
        '<line class="guide" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="guide-name" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(*ends, *text_at, anchor, guide.label)


def _line(line: Line, x_scale: Scale, y_scale: Scale) -> Markup:
    places = [(_x(x_scale, px), _y(y_scale, py)) for px, py in line.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    parts = [Markup('<path class="line {}" d="{}"/>').format(line.kind, path)]
    marked = {"all": range(len(places)), "last": range(len(places) - 1, len(places)), "none": range(0)}[line.marks]
    parts += [marker(line.style.marker, *places[i], line.notes[i] if line.notes else "") for i in marked]
    if line.end_label:
        parts.append(_end_label(line.end_label, places))
    return Markup('<g class="{}">{}</g>').format(line.style.css, Markup("").join(parts))


def _end_label(label: str, places: list[tuple[float, float]]) -> Markup:
    """The label beside the last point: left of it near the right edge, on the side that the line does not come from."""
    x, y = places[-1]
    comes_from_above = len(places) > 1 and places[-2][1] < y - 1
    dx, anchor = (-9, "end") if x > WIDTH * 0.7 else (9, "start")
    return Markup('<text class="end-label" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        x + dx, y + 19 if comes_from_above else y - 9, anchor, label
    )
