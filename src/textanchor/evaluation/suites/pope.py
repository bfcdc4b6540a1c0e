"""POPE: yes-or-no questions about objects that are or are not in the image (arXiv 2305.10355)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import nn

from textanchor.data.hallucination import STRATEGIES, Strategy, shared_words
from textanchor.data.items import Item
from textanchor.data.pope import object_items
from textanchor.data.scenes import draw_scene
from textanchor.data.tasks import OBJECT_NAMES, Split, drawn_seeds, require_drawable
from textanchor.evaluation.results.kinds import POPE, Kind
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.evaluation.scoring.parsing import parse_yes_no, parse_yes_no_as_published, parse_yes_no_strictly
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.records import Score

MAX_NEW_TOKENS = 16

Values = dict[str, tuple[float, str | None]]
"""Value and raw answer by metric."""


@dataclass(frozen=True, kw_only=True)
class PopeSuite(AbstractSuite):
    """Items have the answer yes or no, and an id that begins with their strategy and a slash. Rows for each item:

    - is_yes (gold), said_yes, parsed (the answer could be read), correct; the row of `correct` keeps the answer;
    - gold_nats, where answers are chosen by likelihood, and blind_correct, with `blind`;
    - strict_said_yes, strict_parsed and strict_correct from the strict parser, where answers are generated, and
      published_said_yes and so on as POPE's own script reads them;
    - with `free_answers` those of generated answers beside the chosen ones: free_said_yes, free_strict_said_yes and so
      on, and published_said_yes.
    """

    name: str
    items: tuple[Item, ...]
    answered_by: Literal["likelihood", "generation"] = "likelihood"
    """The more likely of "yes" and "no", or a free answer of up to 16 tokens that is parsed."""
    blind: bool = True
    free_answers: bool = False
    malformed: tuple[str, ...] = ()
    version: ClassVar[str] = "3"

    @property
    def kind(self) -> Kind:
        return POPE

    @property
    def num_steps(self) -> int:
        return len(self.items) * (1 + self.blind + self.free_answers)

    @cached_property
    def data_hash(self) -> str:
        return items_hash(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        return {"answered_by": self.answered_by, "blind": self.blind, "free_answers": self.free_answers}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        rows: list[Values] = [{"is_yes": (float(item.answer == "yes"), None)} for item in self.items]
        for row, values in zip(rows, self._answered(model, processor, options, blind=False), strict=True):
            row |= values
        if self.blind:
            for row, values in zip(rows, self._answered(model, processor, options, blind=True), strict=True):
                row["blind_correct"] = values["correct"]
        if self.free_answers:
            for row, values in zip(rows, self._generated(model, processor, options, blind=False), strict=True):
                row |= {m if m.startswith("published") else f"free_{m}": value for m, value in values.items()}
        return [
            Score(suite=self.name, version=self.version, item_id=item.id, metric=metric, value=value, answer=answer)
            for item, row in zip(self.items, rows, strict=True)
            for metric, (value, answer) in row.items()
        ]

    def _answered(self, model: nn.Module, processor: Any, options: EvaluationOptions, *, blind: bool) -> list[Values]:
        if self.answered_by == "generation":
            return self._generated(model, processor, options, blind=blind)
        scores = score_candidates(model, processor, self.items, blind=blind, options=options)
        return [
            {
                **_reading(parse_yes_no(score.best), item, "", score.best),
                "gold_nats": (score.nats_of(item.answer), None),
            }
            for item, score in zip(self.items, scores, strict=True)
        ]

    def _generated(self, model: nn.Module, processor: Any, options: EvaluationOptions, *, blind: bool) -> list[Values]:
        answers = generate_answers(
            model, processor, self.items, max_new_tokens=MAX_NEW_TOKENS, blind=blind, options=options
        )
        return [
            {
                **_reading(parse_yes_no(answer), item, "", answer),
                **_reading(parse_yes_no_strictly(answer), item, "strict_"),
                **_reading(parse_yes_no_as_published(answer), item, "published_"),
            }
            for item, answer in zip(self.items, answers, strict=True)
        ]


def _reading(predicted: bool | None, item: Item, prefix: str, answer: str | None = None) -> Values:
    return {
        f"{prefix}said_yes": (float(predicted is True), None),
        f"{prefix}parsed": (float(predicted is not None), None),
        f"{prefix}correct": (float(predicted is (item.answer == "yes")), answer),
    }


def pope_scenes(
    *,
    num_items: int,
    seed: int = 0,
    split: Split = "test",
    strategies: Sequence[Strategy] = STRATEGIES,
    answered_by: Literal["likelihood", "generation"] = "likelihood",
    blind: bool = True,
    free_answers: bool = False,
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
    return PopeSuite(
        name="pope_scenes", items=tuple(items), answered_by=answered_by, blind=blind, free_answers=free_answers
    )
