"""Questions about one drawn shape from the PyPI package easy-vqa (MIT), read from its wheel without installing it."""

import json
from functools import cache
from pathlib import Path
from typing import Literal

from textanchor.data.items import Item
from textanchor.fetch import EASY_VQA, fetch_wheel_member

YES_NO = ("yes", "no")
SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@cache
def _records(part: Literal["train", "test"]) -> tuple[Path, list[tuple[str, str, int]]]:
    folder = fetch_wheel_member(EASY_VQA) / part
    records = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    return folder / "images", [(question, answer, image) for question, answer, image in records]


def num_questions(part: Literal["train", "test"]) -> int:
    """Number of questions in the part."""
    return len(_records(part)[1])


def easy_vqa_item(part: Literal["train", "test"], index: int) -> Item:
    """Question number `index` of the part; the choices are those of the answer's kind."""
    images, records = _records(part)
    question, answer, image = records[index]
    choices = next(kind for kind in (YES_NO, SHAPES, COLORS) if answer in kind)
    return Item(
        id=f"easy-vqa-{part}-{index}",
        task="easy_vqa",
        question=question[0].upper() + question[1:],
        answer=answer,
        choices=choices,
        image=images / f"{image}.png",
        image_id=f"easy-vqa-{part}-{image}",
    )
