"""Closed questions about images, answered by the log-likelihood of the candidates; open ones by their gold answer's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from textanchor.data.items import Item
from textanchor.data.tasks import Split, load_items
from textanchor.evaluation.scoring import AnswerScores, score_candidates
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.records import Score


@dataclass(frozen=True, kw_only=True)
class ClosedSuite(AbstractSuite):
    """Rows for each item:

    - gold_nats: cross-entropy of the gold answer, summed over its tokens, nats;
    - with choices also choice_nats (the same, normalised over the choices), correct (the most likely choice is gold;
      the row's answer is that choice), correct_normalised (the same by likelihood per token) and majority_correct (the
      most frequent gold answer of the suite is this item's);
    - with `blind` also blind_gold_nats and blind_correct, of the same question without its image.
    """

    name: str
    items: tuple[Item, ...]
    blind: bool = True
    version: ClassVar[str] = "1"

    @property
    def num_steps(self) -> int:
        return len(self.items) * (2 if self.blind else 1)

    @cached_property
    def data_hash(self) -> str:
        return items_hash(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        return {"blind": self.blind}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        return score_closed([self], model, processor, options)[self.name]


def closed_suite(task: str, *, num_items: int, seed: int = 0, split: Split = "test", blind: bool = True) -> ClosedSuite:
    """The first items of a task of `textanchor.data.tasks`."""
    items = load_items(task, split=split, num_items=num_items, seed=seed)
    return ClosedSuite(name=task, items=tuple(items), blind=blind)


def score_closed(
    suites: Sequence[ClosedSuite], model: nn.Module, processor: Any, options: EvaluationOptions
) -> dict[str, list[Score]]:
    """Rows by suite name; scored together, so that suites that ask about the same images share their tokens."""
    seen = _by_suite(suites, score_candidates(model, processor, _items(suites), options=options))
    with_blind = [suite for suite in suites if suite.blind]
    blind = _by_suite(with_blind, score_candidates(model, processor, _items(with_blind), blind=True, options=options))
    return {suite.name: _rows(suite, seen[suite.name], blind.get(suite.name)) for suite in suites}


def _items(suites: Sequence[ClosedSuite]) -> list[Item]:
    return [item for suite in suites for item in suite.items]


def _by_suite(suites: Sequence[ClosedSuite], scores: Sequence[AnswerScores]) -> dict[str, list[AnswerScores]]:
    left = iter(scores)
    return {suite.name: [next(left) for _ in suite.items] for suite in suites}


def _rows(suite: ClosedSuite, seen: Sequence[AnswerScores], blind: Sequence[AnswerScores] | None) -> list[Score]:
    closed = Counter(item.answer for item in suite.items if item.choices)
    majority = closed.most_common(1)[0][0] if closed else None
    rows: list[Score] = []
    for index, (item, score) in enumerate(zip(suite.items, seen, strict=True)):
        values: dict[str, tuple[float, str | None]] = {"gold_nats": (score.nats_of(item.answer), None)}
        if item.choices:
            values["choice_nats"] = (score.choice_nats_of(item.answer), None)
            values["correct"] = (float(score.best == item.answer), score.best)
            values["correct_normalised"] = (float(score.best_normalised == item.answer), score.best_normalised)
            values["majority_correct"] = (float(item.answer == majority), majority)
        if blind is not None:
            values["blind_gold_nats"] = (blind[index].nats_of(item.answer), None)
            if item.choices:
                values["blind_correct"] = (float(blind[index].best == item.answer), blind[index].best)
        rows += [
            Score(suite=suite.name, version=suite.version, item_id=item.id, metric=metric, value=value, answer=answer)
            for metric, (value, answer) in values.items()
        ]
    return rows
