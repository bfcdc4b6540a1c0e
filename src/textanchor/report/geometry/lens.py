"""What image tokens read as: the nearest words of three lenses, over all images and in a few of them."""

from markupsafe import Markup

from textanchor.report.check import Report
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import ABSENT, fixed, percent
from textanchor.tables import Table

MEANINGS = {
    "embedding": "nearest row of the input embedding",
    "contextual": "nearest state of a text token at the same depth",
    "logit": "most likely next token by the output head",
}


def render(geometry: Report) -> Markup:
    """A table over all images, then a card for each image of the gallery, if there is one."""
    lens = geometry["lens"]
    table = Table(
        ["Lens", "Depth", "Mean best cosine", "Different words", "Most common word"],
        [
            [
                f"{row['lens']}: {MEANINGS.get(row['lens'], '')}",
                str(row["depth"]),
                fixed(row["mean_best_cosine"], 3) if "mean_best_cosine" in row else ABSENT,
                percent(row["different_words"]),
                percent(row["most_common_word"]),
            ]
            for row in lens["summary"]
        ],
    )
    return render_template("lens.html", table=table, gallery=lens["gallery"])


PAGE = Page(
    id="lens",
    title="What image tokens read as",
    lead="The word that each image token is nearest to, counted over the tokens of an image. Where one word takes most "
    "tokens of every image, the lens reads the modality, not the picture.",
    needs=("lens.summary",),
    render=render,
)
