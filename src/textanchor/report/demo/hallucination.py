"""Hallucination and text: POPE, CHAIR and language before and after, as tables."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.markers import legend_marker, styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import change, score_sets
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import NATS, PLAIN, SHARE, SHARE_LESS_IS_BETTER, Unit, Value

GROUPS: tuple[tuple[str, str, str, tuple[tuple[str, str, Unit | None], ...]], ...] = (
    (
        "pope",
        "POPE: is there a ... in the image?",
        "A model that says yes to everything has a recall of 100% and a yes-ratio of 100%. "
        "What is reached without the image needs no seeing.",
        (
            ("accuracy", "Accuracy", SHARE),
            ("precision", "Precision", SHARE),
            ("recall", "Recall", SHARE),
            ("f1", "F1", SHARE),
            ("yes_ratio", "Yes-ratio of the answers", None),
            ("unparsed", "Answers that are neither yes nor no", SHARE_LESS_IS_BETTER),
            ("blind_accuracy", "Accuracy without the image", None),
        ),
    ),
    (
        "chair",
        "CHAIR: objects named in captions that are not there",
        "Captions that name fewer objects hallucinate less, so recall and length stand beside it.",
        (
            ("chair_i", "Share of mentions hallucinated", SHARE_LESS_IS_BETTER),
            ("chair_s", "Share of captions with at least one", SHARE_LESS_IS_BETTER),
            ("recall", "Recall of the objects present", SHARE),
            ("mean_length", "Mean length in words", None),
        ),
    ),
    (
        "text",
        "Text without images",
        "The language model on plain text. The divergence is how far its predictions moved from the original model's.",
        (
            ("cross_entropy", "Cross-entropy, nats per token", NATS),
            ("kl_to_base", "KL from the original, nats per token", NATS),
        ),
    ),
)
NEUTRAL = {"mean_length": PLAIN}
"""Measures of which more is neither better nor worse get no verdict; shares are written in per cent."""


def render(report: Report) -> Markup:
    """A table per suite that was scored; those that were not are named."""
    looks, sets = styles(report), score_sets(report)
    groups, absent = [], []
    for suite, title, note, measures in GROUPS:
        if not any(suite in scores for scores in sets.values()):
            absent.append(suite.upper() if suite != "text" else "text")
            continue
        rows = [(label, cells) for key, label, unit in measures if any(cells := _cells(sets, suite, key, unit))]
        groups.append({"title": title, "note": note, "rows": rows})
    legend = [(look, legend_marker(look.marker)) for look in looks.values()]
    return render_template("hallucination.html", groups=groups, legend=legend, absent=absent)


def _cells(sets: dict[str, dict[str, Any]], suite: str, key: str, unit: Unit | None) -> list[dict[str, Any] | None]:
    values = {name: Value.read(scores.get(suite, {}).get(key)) for name, scores in sets.items()}
    written = unit or NEUTRAL.get(key, SHARE)
    cells: list[dict[str, Any] | None] = []
    for name, value in values.items():
        if value is None:
            cells.append(None)
            continue
        moved = change(values["before"], value, written) if unit is not None and name != "before" else None
        cells.append({"number": written.number(value.estimate), "interval": written.interval(value), "change": moved})
    return cells


PAGE = Page(
    id="hallucination",
    title="Hallucination and text",
    lead="Whether the model says what is in the picture, and whether it still speaks as it did.",
    needs=(
        "before.pope",
        "before.chair",
        "before.text",
        "after.*.scores.pope",
        "after.*.scores.chair",
        "after.*.scores.text",
    ),
    render=render,
)
