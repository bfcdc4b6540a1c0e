"""Text-space geometry: the spectrum of text states, and how much of the image tokens lies in its top directions."""

from itertools import accumulate

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style, styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import render_figures
from textanchor.report.document import Figure, Page
from textanchor.report.numbers import compact, percent
from textanchor.tables import Table

TEXT = Style("text", "Text", "s-text", "disc")
RANDOM = Style("random", "Random directions (k/D)", "s-random", "disc")
MAX_TABLE_ROWS = 40


def render(report: Report) -> Markup:
    """The spectrum, and cumulative energy of projected tokens against what random directions would hold."""
    geometry = report["geometry"]
    figures = [_spectrum(geometry["text_spectrum"])] if any(v > 0 for v in geometry["text_spectrum"]) else []
    if geometry["ks"]:
        figures.append(_energy(report))
    return render_figures(
        report, figures, methods=[name for name in styles(report) if name in geometry["projected_energy"]]
    )


def _spectrum(eigenvalues: list[float]) -> Figure:
    points = [(i + 1, value) for i, value in enumerate(eigenvalues) if value > 0]
    half = sum(before < sum(eigenvalues) / 2 for before in accumulate(eigenvalues, initial=0.0))
    note = (
        "Eigenvalues of the text covariance, largest first: "
        f"{half} of {len(eigenvalues)} directions hold half of the variance."
    )
    chart = line_chart(
        [Line(style=TEXT, points=tuple(points), kind="thin", marks="none")],
        title="Spectrum of text space",
        description=note,
        x=Axis(label="direction", kind="log"),
        y=Axis(label="share of variance", kind="log"),
    )
    stride = max(1, -(-len(points) // MAX_TABLE_ROWS))
    table = Table(["Direction", "Share of variance"], [[str(i), compact(value)] for i, value in points[::stride]])
    return Figure(title="Spectrum of text space", note=note, chart=chart, table=table)


def _energy(report: Report) -> Figure:
    geometry, looks = report["geometry"], styles(report)
    ks = geometry["ks"]
    rows = {RANDOM: geometry["random"]} | {
        look: geometry["projected_energy"][name] for name, look in looks.items() if name in geometry["projected_energy"]
    }
    lines = [
        Line(
            style=look,
            points=tuple(zip(ks, energies, strict=True)),
            notes=tuple(f"{look.label}: {percent(e)} in the top {k}" for k, e in zip(ks, energies, strict=True)),
            kind="dotted" if look is RANDOM else "solid",
            marks="none" if look is RANDOM else "all",
        )
        for look, energies in rows.items()
    ]
    note = (
        "Share of the projected image tokens' energy in the top k text directions. Above the dotted line of random "
        "directions (k/D), image tokens prefer where text varies; where a curve leaves that of before, tuning did it."
    )
    chart = line_chart(
        lines,
        title="Where image tokens sit in text space",
        description=note,
        x=Axis(label="top k text directions", kind="log"),
        y=Axis(label="share of the image tokens' energy", kind="share", bounds=(0.0, 1.0)),
    )
    table = Table(
        ["k", *(look.label for look in rows)],
        [[str(k), *(percent(e[i]) for e in rows.values())] for i, k in enumerate(ks)],
    )
    return Figure(title="Where image tokens sit in text space", note=note, chart=chart, table=table)


PAGE = Page(
    id="geometry",
    title="Text-space geometry",
    lead="Text states fill few directions of the space that image tokens are projected into. How do the two relate?",
    needs=("geometry",),
    render=render,
)
