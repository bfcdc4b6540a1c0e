"""Generated captions: how like people's captions they are (CIDEr-D), and which objects they name that are not there.

CHAIR: arXiv 1809.02156; CIDEr-D: `textanchor.evaluation.results.cider`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from textanchor.data.hallucination import ObjectVocabulary
from textanchor.data.items import Item
from textanchor.data.tasks import OBJECT_NAMES, Split, load_items
from textanchor.errors import DataError
from textanchor.evaluation.results.chair import count_mentions
from textanchor.evaluation.results.cider import cider_d
from textanchor.evaluation.results.kinds import CAPTIONS, CHAIR, Kind
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.evaluation.scoring.parsing import without_thoughts
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.files import sha256_of_json
from textanchor.records import Score

MAX_NEW_TOKENS = 64
"""Longer than the longest gold caption of a drawn scene; CHAIR grows with length, so the budget is fixed."""


@dataclass(frozen=True, kw_only=True)
class CaptionSuite(AbstractSuite):
    """Rows for each item:

    - with a vocabulary the fields of `CaptionCounts`, for CHAIR; the row of num_mentions keeps the caption;
    - without one gold_nats, the cross-entropy of the item's own answer, and num_words, whose row keeps the caption;
    - cider_d, where every item has references and there are two items at least.
    """

    name: str
    items: tuple[Item, ...]
    """What to ask for a caption with, and the captions to compare with."""
    vocabulary: ObjectVocabulary | None = None
    """Where it is given, `objects` of each item holds all objects of the image by their name in it."""
    max_new_tokens: int = MAX_NEW_TOKENS
    malformed: tuple[str, ...] = ()
    version: ClassVar[str] = "3"

    @property
    def kind(self) -> Kind:
        return CHAIR if self.vocabulary is not None else CAPTIONS

    @property
    def num_steps(self) -> int:
        return len(self.items) * (1 if self.vocabulary is not None else 2)

    @cached_property
    def data_hash(self) -> str:
        if self.vocabulary is None:
            return items_hash(self.items)
        return sha256_of_json([items_hash(self.items), self.vocabulary.plain()])

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        answers = generate_answers(model, processor, self.items, max_new_tokens=self.max_new_tokens, options=options)
        captions = [without_thoughts(answer) for answer in answers]
        if self.vocabulary is not None:
            counts = zip(captions, (item.objects for item in self.items), strict=True)
            columns = [asdict(count_mentions(caption, objects, self.vocabulary)) for caption, objects in counts]
        else:
            found = score_candidates(model, processor, [_open(item) for item in self.items], options=options)
            nats = [scores.nats_of(item.answer) for item, scores in zip(self.items, found, strict=True)]
            columns = [
                {"gold_nats": own, "num_words": len(caption.split())}
                for own, caption in zip(nats, captions, strict=True)
            ]
        if len(self.items) > 1 and all(item.references for item in self.items):
            likeness = cider_d(captions, [item.references for item in self.items])
            columns = [{**values, "cider_d": own} for values, own in zip(columns, likeness, strict=True)]
        kept = "num_words" if self.vocabulary is None else "num_mentions"
        return [
            Score(
                suite=self.name,
                version=self.version,
                item_id=item.id,
                metric=metric,
                value=float(value),
                answer=answer if metric == kept else None,
            )
            for item, answer, values in zip(self.items, answers, columns, strict=True)
            for metric, value in values.items()
        ]


def _open(item: Item) -> Item:
    if item.choices:
        raise DataError(f"item {item.id}: a caption has no choices; leave them out")
    return item


def chair_scenes(*, num_items: int, seed: int = 0, split: Split = "test") -> CaptionSuite:
    """Captions of drawn scenes; an object is a color and a shape, "red circle"."""
    vocabulary = ObjectVocabulary({name: () for name in OBJECT_NAMES})
    items = load_items("caption", split=split, num_items=num_items, seed=seed)
    return CaptionSuite(name="chair_scenes", items=tuple(items), vocabulary=vocabulary)


def is_captioning(items: Sequence[Item]) -> bool:
    """Whether every image has a reference, in one of its items at least."""
    return all(any(item.references for item in own) for own in _by_image(items))


def one_for_each_image(items: Sequence[Item]) -> list[Item]:
    """The first item of each image, with the references and answers of all of them as its references."""
    return [
        replace(own[0], references=tuple(dict.fromkeys(text for i in own for text in (*i.references, i.answer))))
        for own in _by_image(items)
    ]


def _by_image(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.image_id or item.id, []).append(item)
    return list(groups.values())
