"""Closed questions about images, answered by the log-likelihood of the candidates; open ones by their gold answer's.

On request the same questions are also answered freely, so that a lost format can be told from a lost ability.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import fmean
from typing import Any, ClassVar, TypeVar

from torch import nn

from textanchor.data.items import Item
from textanchor.data.tasks import Split, load_items
from textanchor.evaluation.scoring.candidates import AnswerScores, score_candidates
from textanchor.evaluation.scoring.generation import generate_answers
from textanchor.evaluation.scoring.parsing import equals_answer, names_answer, parse_choice, parse_choice_strictly
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, items_hash
from textanchor.records import Score

MAX_NEW_TOKENS = 16
"""Of a free answer; the longest choice of a shipped task has eight."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClosedSuite(AbstractSuite):
    """Rows for each item:

    - gold_nats: cross-entropy of the gold answer, summed over its tokens, nats;
    - with choices also choice_nats (the same, normalised over the choices), correct (the most likely choice is gold;
      the row's answer is that choice), correct_normalised (the same by likelihood per token) and majority_correct (see
      `majority_guesses`);
    - with `blind` also blind_gold_nats and blind_correct, of the same question without its image;
    - with `free_answers` also free_correct (the first sentence of the generated answer names the gold answer and no
      other choice; the row keeps the answer), free_strict_correct (it is the gold answer and nothing else) and, with
      choices, free_parsed (it names one choice).
    """

    name: str
    items: tuple[Item, ...]
    blind: bool = True
    free_answers: bool = False
    malformed: tuple[str, ...] = ()
    version: ClassVar[str] = "3"

    @property
    def num_steps(self) -> int:
        return len(self.items) * (1 + self.blind + self.free_answers)

    @cached_property
    def data_hash(self) -> str:
        return items_hash(self.items)

    @property
    def settings(self) -> dict[str, Any]:
        free = {"max_new_tokens": MAX_NEW_TOKENS} if self.free_answers else None
        return {"blind": self.blind, "free_answers": free}

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        return score_closed([self], model, processor, options)[self.name]


def closed_suite(
    task: str, *, num_items: int, seed: int = 0, split: Split = "test", blind: bool = True, free_answers: bool = False
) -> ClosedSuite:
    """The first items of a task of `textanchor.data.tasks`, every kind of question and every answer equally often."""
    items = load_items(task, split=split, num_items=num_items, seed=seed, balanced=True)
    return ClosedSuite(name=task, items=tuple(items), blind=blind, free_answers=free_answers)


def guess_nats(items: Sequence[Item]) -> float | None:
    """Mean choice_nats of an even guess among the choices; None where there are no items, or one has no choices."""
    if not items or not all(item.choices for item in items):
        return None
    return fmean(log(len(item.choices)) for item in items)


def score_closed(
    suites: Sequence[ClosedSuite], model: nn.Module, processor: Any, options: EvaluationOptions
) -> dict[str, list[Score]]:
    """Rows by suite name; scored together, so that suites that ask about the same images share their tokens."""
    seen = _by_suite(suites, score_candidates(model, processor, _items(suites), options=options))
    with_blind = [suite for suite in suites if suite.blind]
    blind = _by_suite(with_blind, score_candidates(model, processor, _items(with_blind), blind=True, options=options))
    with_free = [suite for suite in suites if suite.free_answers]
    free = _by_suite(
        with_free,
        generate_answers(model, processor, _items(with_free), max_new_tokens=MAX_NEW_TOKENS, options=options),
    )
    return {s.name: _rows(s, seen[s.name], blind.get(s.name), free.get(s.name)) for s in suites}


def majority_guesses(items: Sequence[Item]) -> list[str]:
    """What a constant guesser says to each closed item: the choice at the most frequent place of the gold answers.

    Places are alphabetical and counted among the items with as many choices, so that one rule serves a vocabulary in
    any order (its most frequent answer) and choices that are new with every item (chance); "" for open items.
    """
    places = [sorted(item.choices).index(item.answer) if item.choices else 0 for item in items]
    counts: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for item, place in zip(items, places, strict=True):
        counts[len(item.choices)][place] += 1
    likeliest = {size: found.most_common(1)[0][0] for size, found in counts.items()}
    return [sorted(item.choices)[likeliest[len(item.choices)]] if item.choices else "" for item in items]


def _items(suites: Sequence[ClosedSuite]) -> list[Item]:
    return [item for suite in suites for item in suite.items]


def _by_suite(suites: Sequence[ClosedSuite], found: Sequence[T]) -> dict[str, list[T]]:
    left = iter(found)
    return {suite.name: [next(left) for _ in suite.items] for suite in suites}


Values = dict[str, tuple[float, str | None]]
"""Value and raw answer by metric."""


def _rows(
    suite: ClosedSuite,
    seen: Sequence[AnswerScores],
    blind: Sequence[AnswerScores] | None,
    free: Sequence[str] | None,
) -> list[Score]:
    guesses = majority_guesses(suite.items)
    rows: list[Score] = []
    for index, (item, score) in enumerate(zip(suite.items, seen, strict=True)):
        values: Values = {"gold_nats": (score.nats_of(item.answer), None)}
        if item.choices:
            values["choice_nats"] = (score.choice_nats_of(item.answer), None)
            values["correct"] = (float(score.best == item.answer), score.best)
            values["correct_normalised"] = (float(score.best_normalised == item.answer), score.best_normalised)
            values["majority_correct"] = (float(item.answer == guesses[index]), guesses[index])
        if blind is not None:
            values["blind_gold_nats"] = (blind[index].nats_of(item.answer), None)
            if item.choices:
                values["blind_correct"] = (float(blind[index].best == item.answer), blind[index].best)
        if free is not None:
            values |= _free_values(item, free[index])
        rows += [
            Score(suite=suite.name, version=suite.version, item_id=item.id, metric=metric, value=value, answer=answer)
            for metric, (value, answer) in values.items()
        ]
    return rows


def _free_values(item: Item, answer: str) -> Values:
    if not item.choices:
        strict, lenient = equals_answer(answer, item.answer), names_answer(answer, item.answer)
        return {"free_correct": (float(lenient), answer), "free_strict_correct": (float(strict), None)}
    strict, lenient = parse_choice_strictly(answer, item.choices), parse_choice(answer, item.choices)
    return {
        "free_correct": (float(lenient == item.answer), answer),
        "free_strict_correct": (float(strict == item.answer), None),
        "free_parsed": (float(lenient is not None), None),
    }
