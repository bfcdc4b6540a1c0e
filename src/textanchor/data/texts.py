"""The text that ships with textanchor: answers written by SmolLM2-135M-Instruct (Apache-2.0) to prompts of ours."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    rows = (TextRow(**json.loads(line)) for line in GENERATED.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row.split == split]
