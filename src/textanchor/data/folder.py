"""Questions about images from a user's folder: one JSON object a line, or conversations.

A row of `data.jsonl` holds `question` and `answer`, and where they apply `id`, `image` (relative to the folder),
`task`, `split`, `choices`, `objects` (all that are in the image) and `captions` (other people's, of the image).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textanchor.data.conversations import conversation, is_conversation
from textanchor.data.distinct import DistinctItems
from textanchor.data.hallucination import has_word
from textanchor.data.items import PLACEHOLDER, Conversation, Item
from textanchor.data.json_rows import data_file, id_of, noting, read_rows, text_of, texts_of
from textanchor.data.row_images import (
    marker,
    name_in,
    only_image,
    require_no_image,
    require_none_overlooked,
    shown_images,
)
from textanchor.errors import DataError, shown

DEFAULT_TASK = "questions"


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
    items = DistinctItems()
    other_splits: set[str] = set()
    for number, (place, row) in enumerate(read_rows(file, problems), start=1):
        with noting(problems):
            if row.get("split") not in (None, split):
                other_splits.add(str(row["split"]))
            elif is_conversation(row):
                items.add(place, list(_turns(place, conversation(place, row, folder, number))))
            else:
                items.add(place, [_question(place, row, folder, number)])
    if not items.all and other_splits:
        raise DataError(f"{file}: no row of the split {split!r}; it has {', '.join(sorted(other_splits))}")
    return items.all


def _turns(place: str, talk: Conversation) -> Iterator[Item]:
    """Every question with what was said before it; an image is there from the turn on that shows it."""
    image = only_image(place, talk.images)
    marked = next((i for i, turn in enumerate(talk.turns) if PLACEHOLDER in turn.question), 0)
    for i, turn in enumerate(talk.turns):
        yield Item(
            id=f"{talk.id}/{i + 1}" if len(talk.turns) > 1 else talk.id,
            task=DEFAULT_TASK,
            question=turn.question,
            answer=turn.answer.strip(),
            image=image if i >= marked else None,
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
    for text in choices or (answer,):
        require_no_image(place, f"answer {shown(text)}", text)
    (question,), images = shown_images(place, row, [marker(row, folder)(question)], folder)
    if not images:
        require_none_overlooked(place, row)
    return Item(
        id=id_of(place, row, number),
        task=str(row.get("task", DEFAULT_TASK)),
        question=question,
        answer=answer,
        choices=choices,
        image=only_image(place, images),
        image_id=name_in(folder, images[0]) if images else None,
        objects=_objects(place, row),
        references=texts_of(place, row, "captions"),
    )


def _objects(place: str, row: dict[str, Any]) -> tuple[str, ...]:
    objects = texts_of(place, row, "objects")
    if wordless := [name for name in objects if not has_word(name)]:
        raise DataError(f"{place}, key 'objects': {shown(wordless[0])} has no letter, so no caption can name it")
    return objects
