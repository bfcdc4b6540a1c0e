"""Questions about images from a user's folder: one JSON object a line, or conversations.

A row of `data.jsonl` holds `question` and `answer`, and where they apply `id`, `image` (relative to the folder),
`task`, `split`, `choices`, `objects` (all that are in the image) and `captions` (other people's, of the image).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textanchor.data.conversations import conversation, is_conversation
from textanchor.data.items import PLACEHOLDER, Conversation, Item
from textanchor.data.json_rows import data_file, image_path, noting, read_rows, text_of, texts_of
from textanchor.errors import DataError, shown

DEFAULT_TASK = "questions"

Placed = tuple[str, Item]
"""File and line, and the item that is there."""


def read_items(
    path: Path | str, *, split: str = "test", image_folder: Path | None = None, problems: list[str] | None = None
) -> list[Item]:
    """The items of a split (rows that name none belong to every one) of a data file, or of the one in a folder.

    Of a conversation, every answer is an item with the turns before it. What is wrong with a row is a DataError that
    names file and line, or is added to the `problems` where a list of them is given. DataError also where no row is of
    the split.
    """
    file = data_file(Path(path))
    folder = image_folder if image_folder is not None else file.parent
    placed: list[Placed] = []
    other_splits: set[str] = set()
    for number, (place, row) in enumerate(read_rows(file, problems), start=1):
        with noting(problems):
            if is_conversation(row):
                placed += ((place, item) for item in _turns(place, conversation(place, row, folder, number)))
            elif row.get("split", split) == split:
                placed.append((place, _question(place, row, folder, number)))
            else:
                other_splits.add(str(row["split"]))
    if not placed and other_splits:
        raise DataError(f"{file}: no row of the split {split!r}; it has {', '.join(sorted(other_splits))}")
    return _distinct(placed, problems)


def _turns(place: str, talk: Conversation) -> Iterator[Item]:
    """Every question with what was said before it; an image is there from the turn on that shows it."""
    if len(talk.images) > 1:
        raise DataError(f"{place}: {len(talk.images)} images, but a question is scored with one at most; leave it out")
    marked = next((i for i, turn in enumerate(talk.turns) if PLACEHOLDER in turn.question), 0)
    for i, turn in enumerate(talk.turns):
        yield Item(
            id=f"{talk.id}/{i + 1}" if len(talk.turns) > 1 else talk.id,
            task=DEFAULT_TASK,
            question=turn.question,
            answer=turn.answer.strip(),
            image=talk.images[0] if talk.images and i >= marked else None,
            system=talk.system,
            history=talk.turns[:i],
        )


def _question(place: str, row: dict[str, Any], folder: Path, number: int) -> Item:
    question, answer = (text_of(place, row, key) for key in ("question", "answer"))
    choices = texts_of(place, row, "choices")
    if choices and (answer not in choices or len(set(choices)) < len(choices)):
        raise DataError(
            f"{place}, key 'choices': expected different answers with {shown(answer)} among them, found "
            f"{shown(list(choices))}"
        )
    image = None if row.get("image") is None else text_of(place, row, "image", "the path of an image file")
    return Item(
        id=str(row.get("id", f"row-{number}")),
        task=str(row.get("task", DEFAULT_TASK)),
        question=question,
        answer=answer,
        choices=choices,
        image=None if image is None else image_path(place, image, folder),
        image_id=image,
        objects=texts_of(place, row, "objects"),
        references=texts_of(place, row, "captions"),
    )


def _distinct(placed: Iterable[Placed], problems: list[str] | None) -> list[Item]:
    """The items, none with the id of one before it: two models' scores are paired by it."""
    items: dict[str, Item] = {}
    for place, item in placed:
        with noting(problems):
            if item.id in items:
                raise DataError(f"{place}: the id {item.id!r} has been given above; give each row its own")
            items[item.id] = item
    return list(items.values())
