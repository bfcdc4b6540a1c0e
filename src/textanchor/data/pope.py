"""POPE's questions as items: made from object lists, or read from files (arXiv 2305.10355).

Files are the authors' own, `{question_id, image, text, label}`, or rows of our data format (`textanchor.data.folder`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textanchor.data.hallucination import STRATEGIES, Strategy, ask_about_objects
from textanchor.data.items import ImageSource, Item
from textanchor.data.json_rows import SUFFIXES, image_path, noting, read_rows
from textanchor.data.scenes import with_article
from textanchor.errors import DataError, shown

YES_NO = ("yes", "no")
UNNAMED = "questions"
"""Strategy of a file whose name does not tell it."""


def object_items(
    objects: Mapping[str, Sequence[str]], images: Mapping[str, ImageSource], strategy: Strategy, **how: Any
) -> list[Item]:
    """Questions about images with complete object lists, both by image id; `how` goes to `ask_about_objects`."""
    return [
        Item(
            id=f"{strategy}/{asked.image_id}/{number}",
            task=f"pope_{strategy}",
            question=f"Is there {with_article(asked.object)} in the image?",
            answer=asked.answer,
            choices=YES_NO,
            image=images[asked.image_id],
            image_id=asked.image_id,
            objects=tuple(objects[asked.image_id]),
        )
        for number, asked in enumerate(ask_about_objects(objects, strategy, **how))
    ]


def question_files(path: Path) -> dict[str, Path]:
    """By strategy, the files of a folder whose names hold "pope" and the strategy's name; of a file that file.

    Empty where a folder holds none; DataError where it holds two of one strategy.
    """
    if not path.is_dir():
        return {next((name for name in STRATEGIES if name in path.stem), UNNAMED): path}
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and "pope" in file.stem)
    found: dict[str, Path] = {}
    for strategy in STRATEGIES:
        own = [file for file in files if strategy in file.stem]
        if len(own) > 1:
            raise DataError(f"{path}: {own[0].name} and {own[1].name} are both {strategy}; give one of the files")
        if own:
            found[strategy] = own[0]
    return found


def read_questions(file: Path, strategy: str, image_folder: Path, *, problems: list[str] | None = None) -> list[Item]:
    """The questions of a file with their images; what is wrong with a row is raised, or added to the `problems`."""
    items: dict[str, Item] = {}
    for number, (place, row) in enumerate(read_rows(file, problems), start=1):
        with noting(problems):
            item = _question(place, row, strategy, image_folder, number)
            if item.id in items:
                raise DataError(f"{place}: the question id of {item.id!r} is given above; give each its own")
            items[item.id] = item
    return list(items.values())


def _question(place: str, row: dict[str, Any], strategy: str, image_folder: Path, number: int) -> Item:
    question, image = (_either(place, row, *keys) for keys in (("text", "question"), ("image", "image")))
    answer = _either(place, row, "label", "answer").lower()
    if answer not in YES_NO:
        raise DataError(f"{place}: expected the label yes or no, found {shown(answer)}")
    return Item(
        id=f"{strategy}/{row.get('question_id', row.get('id', number))}",
        task=f"pope_{strategy}",
        question=question,
        answer=answer,
        choices=YES_NO,
        image=image_path(place, image, image_folder),
        image_id=image,
    )


def _either(place: str, row: dict[str, Any], *keys: str) -> str:
    value = next((row[key] for key in keys if key in row), None)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{place}: expected text under {' or '.join(map(repr, dict.fromkeys(keys)))}, found {shown(value)}"
        )
    return value.strip()
