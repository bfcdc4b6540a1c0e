"""Dumbbell strips: before and after each method on one axis, with intervals; as wide as the page, never distorted."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from textanchor.report.charts.axes import Scale
from textanchor.report.charts.markers import Style, marker
from textanchor.report.numbers import Unit, Value

LANE, PADDING = 22, 9
"""Heights in pixels; x positions are per cent of the strip's width."""


@dataclass(frozen=True)
class Lane:
    """One method's result in a strip."""

    style: Style
    value: Value


@dataclass(frozen=True)
class Reference:
    """A value to compare with, drawn as a tick: what is reached without the image, or by the commonest answer."""

    kind: str
    """CSS class: "blind" or "majority"."""
    label: str
    at: float


def strip(
    before: Value | None,
    lanes: Sequence[Lane],
    *,
    scale: Scale,
    unit: Unit,
    name: str,
    references: Sequence[Reference] = (),
) -> Markup:
    """One row: a grey band and line for before, a lane with line, whiskers and marker for each method."""
    height = 2 * PADDING + LANE * max(len(lanes), 1)
    parts = [_vertical("grid", _at(scale, value), 0, height) for value, _ in scale.ticks()]
    told = []
    for reference in references:
        parts.append(_vertical(reference.kind, _at(scale, reference.at), 0, height, reference.label))
        told.append(f"{reference.label} {unit.number(reference.at)}")
    if before is not None:
        parts.append(_before(before, scale, unit, height))
        told.append(_told("before", before, unit))
    for i, lane in enumerate(lanes):
        parts.append(_lane(lane, before, scale, unit, PADDING + LANE * i + LANE / 2))
        told.append(_told(lane.style.label, lane.value, unit))
    return Markup('<svg class="strip" width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, f"{name}: {'; '.join(told)}", Markup("").join(parts)
    )


def _at(scale: Scale, value: float) -> str:
    return f"{100 * scale.position(value):.2f}%"


def _told(label: str, value: Value, unit: Unit) -> str:
    interval = unit.interval(value)
    return f"{label} {unit.number(value.estimate)}" + (f" ({interval})" if interval else "")


def _vertical(css: str, at: str, top: float, bottom: float, note: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(note) if note else ""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}">{}</line>').format(css, at, at, top, bottom, title)


def _before(before: Value, scale: Scale, unit: Unit, height: float) -> Markup:
    parts = []
    if before.low is not None and before.high is not None:
        low, high = scale.position(before.low), scale.position(before.high)
        parts.append(
            Markup('<rect class="band" x="{:.2f}%" width="{:.2f}%" y="0" height="{}"/>').format(
                100 * low, 100 * (high - low), height
            )
        )
    parts.append(_vertical("before-line", _at(scale, before.estimate), 0, height, _told("Before", before, unit)))
    return Markup('<g class="s-before">{}</g>').format(Markup("").join(parts))


def _lane(lane: Lane, before: Value | None, scale: Scale, unit: Unit, y: float) -> Markup:
    parts, at = [], _at(scale, lane.value.estimate)
    if before is not None:
        start = _at(scale, before.estimate)
        parts.append(Markup('<line class="move" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(start, at, y, y))
        parts.append(Markup('<g class="s-before">{}</g>').format(marker("ring", start, y)))
    if lane.value.low is not None and lane.value.high is not None:
        ends = _at(scale, lane.value.low), _at(scale, lane.value.high)
        parts.append(Markup('<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(*ends, y, y))
        parts += [_vertical("whisker", end, y - 4, y + 4) for end in ends]
    parts.append(marker(lane.style.marker, at, y, _told(lane.style.label, lane.value, unit)))
    return Markup('<g class="{}">{}</g>').format(lane.style.css, Markup("").join(parts))
