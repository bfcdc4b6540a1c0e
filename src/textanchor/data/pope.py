"""POPE's questions as items: made from object lists, or read from files (arXiv 2305.10355).

Files are the authors' own, `{question_id, image, text, label}`, rows of our data format (`textanchor.data.folder`), or
one file of all strategies with a column that names them, as on the Hugging Face hub (`category`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textanchor.data.distinct import DistinctItems
from textanchor.data.hallucination import STRATEGIES, Strategy, ask_about_objects
from textanchor.data.items import ImageSource, Item
from textanchor.data.json_rows import SUFFIXES, noting, read_rows
from textanchor.data.row_images import IMAGE_SUFFIXES, image_names, image_path, name_in
from textanchor.data.scenes import with_article
from textanchor.errors import DataError, shown

YES_NO = ("yes", "no")
UNNAMED = "questions"
"""Strategy of a row where neither its file's name nor its category tells it."""
QUESTION_KEYS = ("text", "question", "query", "prompt")
ANSWER_KEYS = ("label", "answer", "ground_truth", "gt_answer", "gt")
CATEGORY_KEYS = ("category", "strategy", "type", "setting")
IMAGE_KEYS = (
    "image",
    "images",
    "image_source",
    "image_path",
    "image_name",
    "image_file",
    "file_name",
    "filename",
    "img",
)
"""Names of the columns in files of POPE's questions, the authors' first; an image may be named without its suffix."""


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

    A folder's only file with "pope" in its name may hold all strategies. Empty where a folder has none; DataError where
    it has two of one strategy.
    """
    if not path.is_dir():
        return {_strategy(path.stem, UNNAMED): path}
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and "pope" in file.stem.lower())
    found: dict[str, Path] = {}
    for file in files:
        strategy = _strategy(file.stem, UNNAMED)
        if strategy in found:
            kind = strategy if strategy in STRATEGIES else "POPE of no strategy"
            raise DataError(f"{path}: {found[strategy].name} and {file.name} are both {kind}; give one of the files")
        found[strategy] = file
    named = {strategy: found[strategy] for strategy in STRATEGIES if strategy in found}
    return named or found


def _strategy(text: str, otherwise: str) -> str:
    return next((name for name in STRATEGIES if name in text.lower()), otherwise)


def read_questions(file: Path, strategy: str, image_folder: Path, *, problems: list[str] | None = None) -> list[Item]:
    """The questions of a file with their images; what is wrong with a row is raised, or added to the `problems`.

    A row's own category goes before the file's `strategy`.
    """
    items = DistinctItems()
    for number, (place, row) in enumerate(read_rows(file, problems), start=1):
        with noting(problems):
            items.add(place, [_question(place, row, strategy, image_folder, number)])
    return items.all


def _question(place: str, row: dict[str, Any], strategy: str, image_folder: Path, number: int) -> Item:
    question = _first(place, row, QUESTION_KEYS)
    answer = _first(place, row, ANSWER_KEYS).strip(" .!").lower()
    if answer not in YES_NO:
        raise DataError(f"{place}: expected the label yes or no, found {shown(answer)}")
    image = _image(place, row, image_folder)
    category = next((row[key] for key in CATEGORY_KEYS if isinstance(row.get(key), str)), "")
    strategy = _strategy(category, strategy)
    name = next((row[key] for key in ("question_id", "id") if row.get(key) is not None), number)
    return Item(
        id=f"{strategy}/{name}",
        task=f"pope_{strategy}",
        question=question,
        answer=answer,
        choices=YES_NO,
        image=image,
        image_id=name_in(image_folder, image),
    )


def _first(place: str, row: dict[str, Any], keys: Sequence[str]) -> str:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{place}: expected text under {keys[0]!r} or {keys[1]!r}, found {shown(value)}; where a file holds "
            "questions alone, give the authors' own, which have the answers"
        )
    return value.strip()


def _image(place: str, row: dict[str, Any], folder: Path) -> Path:
    names = next((names for key in IMAGE_KEYS if (names := image_names(place, key, row.get(key)))), [])
    if len(names) != 1:
        raise DataError(f"{place}, key 'image': expected the path of one image, found {shown(names)}")
    try:
        return image_path(place, names[0], folder)
    except DataError:
        for suffix in () if Path(names[0]).suffix else IMAGE_SUFFIXES:
            if (folder / f"{names[0]}{suffix}").is_file():
                return image_path(place, f"{names[0]}{suffix}", folder)
        raise
