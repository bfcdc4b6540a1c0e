"""Samples: images with the question, the right answer, and what the model said before and after."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.markers import legend_marker, styles
from textanchor.report.check import Report
from textanchor.report.document import Page, render_template


def render(report: Report) -> Markup:
    """A card per sample, the new task's marked as such."""
    return render_template(
        "samples.html", cards=[_card(report, sample) for sample in report["samples"]], new_task=report["new_task"]
    )


def _card(report: Report, sample: dict[str, Any]) -> dict[str, Any]:
    answers = [
        {"look": look, "icon": legend_marker(look.marker), "text": sample[name], "right": _is_right(sample, name)}
        for name, look in styles(report).items()
    ]
    return {"sample": sample, "answers": answers, "is_new": sample["task"] == report["new_task"]}


def _is_right(sample: dict[str, Any], name: str) -> bool | None:
    """The verdict in the data; without the key `right`, whether answer and gold are the same words; None if open."""
    if "right" in sample:
        return None if sample["right"] is None else sample["right"].get(name)
    return _plain(sample[name]) == _plain(sample["gold"])


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .!\n\t").split())


PAGE = Page(
    id="samples",
    title="What it says",
    lead="Images from the held-out sets with the model's own answers before and after tuning.",
    needs=("samples",),
    render=render,
)
