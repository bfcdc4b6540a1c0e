"""How far apart image and text positions lie, along depth and on a map."""

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Guide, Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.check import Report
from textanchor.report.document import Figure, Page
from textanchor.report.geometry.curves import OF_KIND, TEXT, VISUAL, depth_figure, render_measured
from textanchor.report.numbers import compact
from textanchor.tables import Table

GAP = Style("gap", "Difference of the two", "s-text", "disc")
MAP_ROWS = 40
CURVES = {
    "gap": ("Modality gap", "Distance of the means, in mean norms of text.", "gap / text norm"),
    "gap_normalised": (
        "Modality gap of unit tokens",
        "Distance of the means after every token is brought to length 1; at most 2.",
        "gap of unit tokens",
    ),
    "norm_ratio": ("Norm ratio", "Mean norm of image positions over that of text positions.", "image norm / text norm"),
    "frechet": (
        "Fréchet distance",
        "Squared, between Gaussians of the same means and covariances, in squared mean norms of text.",
        "Fréchet distance",
    ),
}


def render(geometry: Report) -> Markup:
    """Four curves along depth, then the maps."""
    figures = []
    for key, (title, note, label) in CURVES.items():
        values = {row["depth"]: row[key] for row in geometry["between"]}
        guides = [Guide("y", 1.0, "equal norms")] if key == "norm_ratio" else []
        axis = Axis(label=label, include=(0.0,))
        figures.append(depth_figure(title, note, [(GAP, values)], y=axis, guides=guides))
    figures += [_map(entry) for entry in geometry["gap_map"]]
    mir = geometry["integration"]
    note = (
        f"Modality Integration Rate over depths {', '.join(map(str, mir['depths']))}: {compact(mir['rate'])} (log10 of "
        "the sum of the Fréchet distances; lower is better integrated; of these depths only, so not comparable with "
        "rates over all layers)."
    )
    return render_measured(figures, [TEXT, VISUAL], note=note)


def _map(entry: Report) -> Figure:
    title = f"Gap map at depth {entry['depth']}"
    note = (
        "Unit tokens on a plane: along the difference of the two means, and along what varies most beside it. The "
        "plane is chosen to show the gap; distances across it are not all distances."
    )
    lines = [Line(style=look, points=tuple(map(tuple, entry[kind])), kind="points") for kind, look in OF_KIND.items()]
    chart = line_chart(
        lines,
        title=title,
        description=note,
        x=Axis(label="along the gap"),
        y=Axis(label="widest direction beside it"),
    )
    rows = [
        [look.label, compact(x), compact(y)]
        for kind, look in OF_KIND.items()
        for x, y in entry[kind][:: max(1, len(entry[kind]) // (MAP_ROWS // 2))]
    ]
    return Figure(title=title, note=note, chart=chart, table=Table(["Token", "Along the gap", "Beside it"], rows))


PAGE = Page(
    id="gap",
    title="The gap",
    lead="Do image positions lie where text lies? Raw distances grow with norms, so both forms are shown.",
    needs=("between",),
    render=render,
)
