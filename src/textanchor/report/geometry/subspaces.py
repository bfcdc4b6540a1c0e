"""Who explains whom: energy in each other's leading directions, angles, coverage, intrinsic dimension."""

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.check import Report
from textanchor.report.document import Figure, Page
from textanchor.report.geometry.curves import CONTROL, TEXT, VISUAL, depth_figure, render_measured
from textanchor.report.numbers import EN_DASH, fixed
from textanchor.tables import Table

VISUAL_BY_TEXT = Style("visual_by_text", "Image positions by text", "s-full", "square")
TEXT_BY_VISUAL = Style("text_by_visual", "Text positions by images", "s-app", "disc")
DEPTH_LOOKS = (("s-other-1", "diamond"), ("s-other-2", "triangle"), ("s-other-3", "ring"))


def render(geometry: Report) -> Markup:
    """Energy both ways, angles, coverage both ways, dimension of each."""
    figures = [_energy(geometry), _angles(geometry), _coverage(geometry), _dimension(geometry)]
    note = (
        "Dotted: chance, or random bases. Intervals of shares are 95 % jackknife over images and documents; ranges of "
        "coverage and dimension are those of the whole sample and five subsamples, with no confidence level."
    )
    looks = [VISUAL_BY_TEXT, TEXT_BY_VISUAL, *(look for _, look in _shown_depths(geometry))]
    return render_measured(figures, looks, note=note)


def _energy(geometry: Report) -> Figure:
    rows = geometry["subspaces"]
    k = rows[0]["num_directions"]
    note = (
        f"Share of one modality's energy (unit tokens, centred) in the {k} leading directions of the other. Bases of "
        "shuffled states are in the table."
    )
    return depth_figure(
        "Energy in the other's directions",
        note,
        [(look, {row["depth"]: row[look.key] for row in rows}) for look in (VISUAL_BY_TEXT, TEXT_BY_VISUAL)],
        y=Axis(label="share of energy", kind="share", bounds=(0.0, 1.0)),
        controls=[("Chance (k/D)", {row["depth"]: row["chance"] for row in rows})],
        only_in_table=[
            ("Images by shuffled text", {row["depth"]: row["visual_by_shuffled_text"] for row in rows}),
            ("Text by shuffled images", {row["depth"]: row["text_by_shuffled_visual"] for row in rows}),
        ],
    )


def _angles(geometry: Report) -> Figure:
    rows, shown = geometry["subspaces"], _shown_depths(geometry)
    note = (
        f"Between the {len(rows[0]['angles'])} leading directions of text and of image positions, smallest first; "
        "0 is a shared direction. Dotted: two random subspaces."
    )
    lines = [
        Line(style=CONTROL, points=_numbered(rows[0]["random_angles"]), kind="dotted", marks="none"),
        *(
            Line(
                style=look,
                points=_numbered(row["angles"]),
                notes=tuple(f"{look.label}, angle {i + 1}: {fixed(a, 1)}" for i, a in enumerate(row["angles"])),
            )
            for row, look in shown
        ),
    ]
    title = "Principal angles"
    chart = line_chart(
        lines, title=title, description=note, x=Axis(label="angle"), y=Axis(label="degrees", bounds=(0.0, 90.0))
    )
    header = ["Angle", *(f"Depth {row['depth']}" for row in rows), "Random"]
    body = [
        [str(i + 1), *(fixed(row["angles"][i], 1) for row in rows), fixed(rows[0]["random_angles"][i], 1)]
        for i in range(len(rows[0]["angles"]))
    ]
    return Figure(title=title, note=note, chart=chart, table=Table(header, body))


def _shown_depths(geometry: Report) -> list[tuple[Report, Style]]:
    """Entry, middle and end, each with its look."""
    rows = geometry["subspaces"]
    chosen = [rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    return [
        (row, Style(f"depth {row['depth']}", f"Angles at depth {row['depth']}", css, mark))
        for row, (css, mark) in zip(chosen, DEPTH_LOOKS, strict=False)
    ]


def _numbered(values: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(i + 1), value) for i, value in enumerate(values))


def _coverage(geometry: Report) -> Figure:
    rows = geometry["coverage"]
    note = (
        "Share of one modality's tokens within reach (third neighbour) of the other's; 1 for one and the same source."
    )
    return depth_figure(
        "Coverage",
        note,
        [
            (VISUAL_BY_TEXT, {row["depth"]: row["visual_in_text"] for row in rows}),
            (TEXT_BY_VISUAL, {row["depth"]: row["text_in_visual"] for row in rows}),
        ],
        y=Axis(label="share of tokens covered", kind="share", bounds=(0.0, 1.0)),
    )


def _dimension(geometry: Report) -> Figure:
    rows = geometry["dimension"]
    note = "TwoNN, from the ratio of second to first neighbour distance; an underestimate in many dimensions."
    return depth_figure(
        "Intrinsic dimension",
        note,
        [
            (VISUAL, {row["depth"]: row["visual_dimension"] for row in rows}),
            (TEXT, {row["depth"]: row["text_dimension"] for row in rows}),
        ],
        y=Axis(label="dimension", include=(0.0,)),
    )


PAGE = Page(
    id="subspaces",
    title="Who explains whom",
    lead=f"Leading directions and neighbourhoods of one modality, and what of the other lies in them {EN_DASH} both "
    "ways, because the claim is that the two ways differ.",
    needs=("subspaces",),
    render=render,
)
