"""How tokens spread: layerwise curves of anisotropy for text and image positions, and spectra."""

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.check import Report
from textanchor.report.document import Figure, Page
from textanchor.report.geometry.curves import OF_KIND, TEXT, UNTRAINED, VISUAL, Values, depth_figure, render_measured
from textanchor.report.numbers import compact
from textanchor.tables import Table

MEASURES = {
    "participation_ratio": (
        "Participation ratio / width",
        "1 would be equal variance in every direction; the dotted line is what Gaussian tokens of the same number and "
        "norms have.",
    ),
    "mean_cosine": (
        "Mean cosine",
        "Between different tokens. It says how far the mean lies off the origin, not how many directions are used.",
    ),
    "effective_rank": ("Effective rank / width", "Exponential of the entropy of the singular values, over the width."),
    "top_energy": ("Variance in the top tenth of directions", "A tenth of it for an isotropic source."),
}
SPECTRUM_ROWS = 40


def render(geometry: Report) -> Markup:
    """A figure for each measure along depth, then the spectra of the entry, the middle and the end."""
    figures = [_along_depth(geometry, name) for name in MEASURES]
    depths = geometry["depths"]
    figures += [_spectra(geometry, depth) for depth in dict.fromkeys((depths[0], depths[len(depths) // 2], depths[-1]))]
    places = geometry["places"]
    sinks = sum(place["num_sinks"] for place in places.values())
    note = (
        "Lines are of all tokens; points with whiskers are 95 % jackknife intervals over 20 folds of images or "
        f"documents, of a sample. Left out: first tokens, and {sinks:,} states of massive norm over all places."
    )
    return render_measured(figures, [TEXT, VISUAL, UNTRAINED], note=note)


def _along_depth(geometry: Report, measure: str) -> Figure:
    title, note = MEASURES[measure]
    curves: list[tuple[Style, Values]] = []
    plain: list[tuple[Style, Values]] = []
    for kind, look in OF_KIND.items():
        of_kind = _places_of(geometry, kind)
        plain.append((look, {depth: place["measures"][measure] for depth, place in of_kind.items()}))
        sampled = {depth: place["intervals"][measure] for depth, place in of_kind.items() if "intervals" in place}
        curves.append((look, sampled))
    untrained = {row["depth"]: row["measures"][measure] for row in geometry["random_weights"]}
    if untrained:
        curves.append((UNTRAINED, untrained))
    controls = []
    if measure == "participation_ratio":
        nulls = {d: p["gaussian"]["norm_matched"] for d, p in _places_of(geometry, "text").items() if "gaussian" in p}
        controls.append(("Gaussian tokens of the text's norms", nulls))
    return depth_figure(
        title, note, curves, y=Axis(label=title.lower(), include=(0.0,)), plain=plain, controls=controls
    )


def _places_of(geometry: Report, kind: str) -> dict[int, Report]:
    found = {int(name.split()[1]): place for name, place in geometry["places"].items() if name.startswith(f"{kind} ")}
    return dict(sorted(found.items()))


def _spectra(geometry: Report, depth: int) -> Figure:
    title = f"Spectrum at depth {depth}"
    shares = {look: geometry["spectra"][f"{kind} {depth}"] for kind, look in OF_KIND.items()}
    lines = [
        Line(
            style=look,
            points=tuple((i + 1, share) for i, share in enumerate(values) if share > 0),
            kind="thin",
            marks="none",
        )
        for look, values in shares.items()
    ]
    half = {look.label: _directions_for_half(values) for look, values in shares.items()}
    note = "Half of the variance lies in " + " and ".join(
        f"{count} of {len(shares[TEXT])} directions ({label.lower()})" for label, count in half.items()
    )
    chart = line_chart(
        lines,
        title=title,
        description=note,
        x=Axis(label="direction", kind="log"),
        y=Axis(label="share of variance", kind="log"),
    )
    stride = max(1, -(-len(shares[TEXT]) // SPECTRUM_ROWS))
    rows = [
        [str(i + 1), *(compact(values[i]) for values in shares.values())] for i in range(0, len(shares[TEXT]), stride)
    ]
    table = Table(["Direction", *(look.label for look in shares)], rows)
    return Figure(title=title, note=f"{note}.", chart=chart, table=table)


def _directions_for_half(shares: list[float]) -> int:
    total, reached = sum(shares), 0.0
    for i, share in enumerate(shares):
        reached += share
        if reached >= total / 2:
            return i + 1
    return len(shares)


PAGE = Page(
    id="spread",
    title="How tokens spread",
    lead="From what enters the first layer (depth 0) to what leaves the last. Text is run by itself; image positions "
    "are those of the images with a short question after them.",
    needs=("places",),
    render=render,
)
