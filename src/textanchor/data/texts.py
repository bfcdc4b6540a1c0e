"""Texts: those of a file, or those that ship, answers by SmolLM2-135M-Instruct (Apache-2.0) to prompts of ours."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textanchor.data.json_rows import read_rows
from textanchor.errors import DataError
from textanchor.files import lines_of, read_text

GENERATED = Path(__file__).with_name("text") / "generated.jsonl"
"""Made by experiments/align_embedded/generate_texts.py; the topics of "train" and "test" are different."""


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """One prompt and the answer to it."""

    id: str
    split: str
    prompt: str
    text: str


def load_texts(split: Literal["train", "test"]) -> list[TextRow]:
    """The shipped rows of a split, in file order."""
    rows = (TextRow(**json.loads(line)) for line in lines_of(read_text(GENERATED)))
    return [row for row in rows if row.split == split]


def read_texts(path: Path | None, num_texts: int | None) -> list[str]:
    """Texts of a .txt file (one on each line), of JSON rows with `text`, or ours; DataError naming file and place."""
    texts = [row.text for row in load_texts("train")] if path is None else list(_texts_of(path))
    if num_texts is not None and len(texts) < num_texts:
        raise DataError(f"{path or 'the shipped texts'}: {len(texts)} texts, fewer than num_texts={num_texts}")
    return texts[:num_texts]


def _texts_of(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        yield from (line for line in lines_of(read_text(path)) if line.strip())
        return
    for place, row in read_rows(path):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{place}: expected a row with `text`, found {', '.join(row) or 'nothing'}")
        yield row["text"]
