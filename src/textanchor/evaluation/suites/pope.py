"""POPE: yes-or-no questions about objects that are or are not in the image (arXiv 2305.10355)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import nn

from textanchor.data.hallucination import STRATEGIES, Strategy, shared_words
from textanchor.data.items import Item
from textanchor.data.pope import object_items
from textanchor.data.scenes import draw_scene
from textanchor.data.tasks import OBJECT_NAMES, Split, drawn_seeds, require_drawable
from textanchor.evaluation.generation import generate_answers
from textanchor.evaluation.parsing import parse_yes_no, parse_yes_no_strictly
from textanchor.evaluation.scoring import score_candidates
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.records import Score

MAX_NEW_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class PopeSuite(AbstractSuite):
    """Items have the answer yes or no, and an id that begins with their strategy and a slash. Rows for each item:

    - is_yes (gold), said_yes, parsed (the answer could be read), correct; the row of `correct` keeps the answer;
    - strict_said_yes, strict_parsed and strict_correct from the strict parser, where answers are generated;
    - gold_nats, where they are chosen by likelihood, and blind_correct, with `blind`.
    """

    name: str
    items: tuple[Item, ...]
    answered_by: Literal["likelihood", "generation"] = "likelihood"
    """The more likely of "yes" and "no", or a free answer of up to 16 tokens that is parsed."""
    blind: bool = True
    malformed: tuple[str, ...] = ()
    version: ClassVar[str] = "2"

    @property
    def place(self) -> str:
        """One for all questions of POPE."""
        return "POPE"

    @property
    def num_steps(self) -> int:
        return len(self.items) * (2 if self.blind else 1)

    @cached_property
    def data_hash(self) -> str:
        return items_hash(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        return {"answered_by": self.answered_by, "blind": self.blind}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        rows = list(self._rows_of(model, processor, options, prefix="", blind=False))
        if self.blind:
            blind = self._rows_of(model, processor, options, prefix="blind_", blind=True)
            rows += [row for row in blind if row.metric == "blind_correct"]
        return rows

    def _rows_of(
        self, model: nn.Module, processor: Any, options: EvaluationOptions, *, prefix: str, blind: bool
    ) -> Iterator[Score]:
        if self.answered_by == "likelihood":
            scores = score_candidates(model, processor, self.items, blind=blind, options=options)
            answers = [score.best for score in scores]
            nats = [score.nats_of(item.answer) for item, score in zip(self.items, scores, strict=True)]
        else:
            tokens = {"max_new_tokens": MAX_NEW_TOKENS}
            answers = generate_answers(model, processor, self.items, blind=blind, options=options, **tokens)
            nats = None
        for index, (item, answer) in enumerate(zip(self.items, answers, strict=True)):
            values = {"is_yes": float(item.answer == "yes"), **_reading(parse_yes_no(answer), item, "")}
            if nats is not None:
                values["gold_nats"] = nats[index]
            else:
                values |= _reading(parse_yes_no_strictly(answer), item, "strict_")
            for metric, value in values.items():
                raw = answer if metric == "correct" else None
                yield Score(
                    suite=self.name,
                    version=self.version,
                    item_id=item.id,
                    metric=prefix + metric,
                    value=value,
                    answer=raw,
                )


def _reading(predicted: bool | None, item: Item, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}said_yes": float(predicted is True),
        f"{prefix}parsed": float(predicted is not None),
        f"{prefix}correct": float(predicted is (item.answer == "yes")),
    }


def pope_scenes(
    *,
    num_items: int,
    seed: int = 0,
    split: Split = "test",
    strategies: Sequence[Strategy] = STRATEGIES,
    answered_by: Literal["likelihood", "generation"] = "likelihood",
    blind: bool = True,
) -> PopeSuite:
    """About `num_items` questions of each strategy on drawn scenes; absent objects that share the color or the shape
    of present ones are the adversarial ones, because which objects are together is chance in drawn scenes.
    """
    require_drawable(num_items)
    scenes, num_questions = {}, 0
    for scene_seed in drawn_seeds(split, seed):
        if num_questions >= num_items:
            break
        scenes[f"scene-{scene_seed}"] = scene = draw_scene(scene_seed)
        num_questions += 2 * min(3, len(scene.objects))
    images = {image_id: scene.image() for image_id, scene in scenes.items()}
    objects = {image_id: [thing.name for thing in scene.objects] for image_id, scene in scenes.items()}
    items = [
        item
        for strategy in strategies
        for item in object_items(objects, images, strategy, seed=seed, vocabulary=OBJECT_NAMES, affinity=shared_words)
    ]
    return PopeSuite(name="pope_scenes", items=tuple(items), answered_by=answered_by, blind=blind)
