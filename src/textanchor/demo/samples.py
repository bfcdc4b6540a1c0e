"""A few questions with their images and the answers of every model, for the report."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from textanchor.data.items import Item, open_image
from textanchor.evaluation.suites.closed import ClosedSuite
from textanchor.records import Score

SIDE = 160

Answers = Mapping[str, Mapping[tuple[str, str], str]]
"""Model -> (suite, item id) -> answer."""


def pick_samples(
    suites: Sequence[ClosedSuite], before: Sequence[Score], after: Mapping[str, Sequence[Score]], *, each: int = 2
) -> list[dict[str, Any]]:
    """The `samples` object of report.json: of every suite a few items, those first whose answers or images differ."""
    answers = {"before": _answers(before), **{name: _answers(rows) for name, rows in after.items()}}
    samples: list[dict[str, Any]] = []
    shown: set[str | None] = set()
    for suite in suites:
        told = [item for item in suite.items if (suite.name, item.id) in answers["before"]]
        told.sort(key=lambda item: (item.image_id in shown, _all_agree(suite.name, item, answers)))
        shown |= {item.image_id for item in told[:each]}
        samples += [_sample(suite.name, item, answers) for item in told[:each]]
    return samples


def _answers(rows: Sequence[Score]) -> dict[tuple[str, str], str]:
    return {(row.suite, row.item_id): row.answer for row in rows if row.metric == "correct" and row.answer is not None}


def _all_agree(suite: str, item: Item, answers: Answers) -> bool:
    return len({answered[suite, item.id] for answered in answers.values()}) == 1


def _sample(suite: str, item: Item, answers: Answers) -> dict[str, Any]:
    return {
        "image_png_base64": _png(item),
        "task": item.task,
        "question": item.question,
        "gold": item.answer,
        **{name: answered[suite, item.id] for name, answered in answers.items()},
    }


def _png(item: Item) -> str:
    assert item.image is not None  # every task of the demo shows an image
    buffer = io.BytesIO()
    open_image(item.image).resize((SIDE, SIDE)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
