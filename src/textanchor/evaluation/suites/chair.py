"""CHAIR on drawn scenes: which objects a generated caption names that are not in the image (arXiv 1809.02156)."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from textanchor.data.hallucination import ObjectVocabulary
from textanchor.data.items import Item
from textanchor.data.tasks import OBJECT_NAMES, Split, load_items
from textanchor.evaluation.chair import count_mentions
from textanchor.evaluation.generation import generate_answers
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.files import sha256_of_json
from textanchor.records import Score

MAX_NEW_TOKENS = 64
"""Longer than the longest gold caption of a drawn scene; CHAIR grows with length, so the budget is fixed."""


@dataclass(frozen=True, kw_only=True)
class ChairSuite(AbstractSuite):
    """Rows for each item: the fields of `CaptionCounts`; the row of num_mentions keeps the caption."""

    name: str
    items: tuple[Item, ...]
    """What to ask for a caption with; `objects` holds all objects of the image by their name in the vocabulary."""
    vocabulary: ObjectVocabulary
    max_new_tokens: int = MAX_NEW_TOKENS
    version: ClassVar[str] = "1"

    @property
    def num_steps(self) -> int:
        return len(self.items)

    @cached_property
    def data_hash(self) -> str:
        synonyms = {name: list(phrases) for name, phrases in self.vocabulary.synonyms.items()}
        return sha256_of_json([items_hash(self.items), synonyms])

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        captions = generate_answers(model, processor, self.items, max_new_tokens=self.max_new_tokens, options=options)
        return [
            Score(
                suite=self.name,
                version=self.version,
                item_id=item.id,
                metric=metric,
                value=float(value),
                answer=caption if metric == "num_mentions" else None,
            )
            for item, caption in zip(self.items, captions, strict=True)
            for metric, value in asdict(count_mentions(caption, item.objects, self.vocabulary)).items()
        ]


def chair_scenes(*, num_items: int, seed: int = 0, split: Split = "test") -> ChairSuite:
    """Captions of drawn scenes; an object is a color and a shape, "red circle"."""
    vocabulary = ObjectVocabulary({name: () for name in OBJECT_NAMES})
    items = load_items("caption", split=split, num_items=num_items, seed=seed)
    return ChairSuite(name="chair_scenes", items=tuple(items), vocabulary=vocabulary)
