"""Images beside their own captions: prediction both ways, similarity, shared neighbours."""

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.markers import Style
from textanchor.report.check import Report
from textanchor.report.document import Page
from textanchor.report.geometry.curves import depth_figure, render_measured

FROM_TEXT = Style("visual_from_text", "Image from its caption", "s-full", "square")
FROM_VISUAL = Style("text_from_visual", "Caption from its image", "s-app", "disc")
CKA = Style("cka", "Debiased CKA", "s-text", "disc")
NEIGHBORS = Style("neighbors", "Shared neighbours", "s-text", "disc")


def render(geometry: Report) -> Markup:
    """Three figures along depth; every one beside shuffled pairs."""
    rows = geometry["pairs"]
    predictions = {row["depth"]: row["prediction"] for row in rows}
    figures = [
        depth_figure(
            "Prediction",
            "Cross-validated R² of ridge regression between mean states. Dotted: shuffled pairs, images from captions.",
            [
                (look, {depth: found[look.key] for depth, found in predictions.items()})
                for look in (FROM_TEXT, FROM_VISUAL)
            ],
            y=Axis(label="R²", include=(0.0,)),
            controls=[("Shuffled pairs", {d: p["shuffled"]["visual_from_text"] for d, p in predictions.items()})],
        ),
        depth_figure(
            "Similarity of pairs",
            "Debiased linear CKA of mean states; 0 in expectation for unrelated pairs, 1 for a rotated copy.",
            [(CKA, {row["depth"]: row["cka"] for row in rows})],
            y=Axis(label="CKA", include=(0.0,)),
        ),
        depth_figure(
            "Shared neighbours",
            "Share of the ten nearest images that are also nearest by caption, beyond chance. Dotted: shuffled pairs.",
            [(NEIGHBORS, {row["depth"]: row["neighbors_beyond_chance"] for row in rows})],
            y=Axis(label="beyond chance", include=(0.0,)),
            controls=[("Shuffled pairs", {row["depth"]: row["shuffled_beyond_chance"] for row in rows})],
        ),
    ]
    note = f"{rows[0]['num_pairs']} images with captions; each is the mean of its unit tokens, as are its captions."
    return render_measured(figures, [FROM_TEXT, FROM_VISUAL], note=note)


PAGE = Page(
    id="pairs",
    title="Images and their captions",
    lead="Does what lies near an image belong to it? One state for each image, one for its captions.",
    needs=("pairs",),
    render=render,
)
