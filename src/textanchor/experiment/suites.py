"""What every run of a comparison is asked: the same items, in columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from textanchor.errors import DataError
from textanchor.evaluation.registry import load_suite
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.suite import EvaluationOptions, suite_hash
from textanchor.evaluation.suites.closed import ClosedSuite, guess_nats
from textanchor.evaluation.suites.text import TextSuite
from textanchor.experiment.columns import pack_flags, pack_numbers
from textanchor.experiment.config import EvaluationConfig
from textanchor.records import Score

CAN_DO_MARGIN = 0.1
"""Least accuracy above the commonest answer's for a task that the base model is said to be able to do."""

Columns = dict[str, dict[str, str]]
"""Task -> metric -> packed column."""


@dataclass(frozen=True)
class Suites:
    """The suites of one new task and the tasks beside it; of each task the validation items stand first."""

    new: str
    tasks: tuple[ClosedSuite, ...]
    """The new task first."""
    text: TextSuite
    free: tuple[ClosedSuite, ...]
    num_validation: Mapping[str, int]
    options: EvaluationOptions

    @classmethod
    def build(cls, new: str, others: Sequence[str], config: EvaluationConfig, options: EvaluationOptions) -> "Suites":
        """Draw the items; ConfigError where a task has too few."""
        tasks, free, counts = [], [], {}
        for name in (new, *others):
            factor = config.new_task_factor if name == new else 1
            validation = _closed(name, "validation", factor * config.validation_items, config.seed)
            test = _closed(name, "test", factor * config.test_items, config.seed)
            counts[name] = len(validation.items)
            tasks.append(ClosedSuite(name=name, items=(*validation.items, *test.items), blind=False))
            if config.free_items:
                free.append(
                    ClosedSuite(name=name, items=test.items[: config.free_items], blind=False, free_answers=True)
                )
        text = load_suite("text", num_items=config.texts)
        assert isinstance(text, TextSuite)
        return cls(new, tuple(tasks), text, tuple(free), counts, options)

    def keep_only(self, retained: Sequence[str]) -> "Suites":
        """The new task and these."""
        kept = {self.new, *retained}
        return Suites(
            self.new,
            tuple(suite for suite in self.tasks if suite.name in kept),
            self.text,
            tuple(suite for suite in self.free if suite.name in kept),
            {name: count for name, count in self.num_validation.items() if name in kept},
            self.options,
        )

    @property
    def retained(self) -> tuple[str, ...]:
        """The tasks beside the new one."""
        return tuple(suite.name for suite in self.tasks if suite.name != self.new)

    def hashes(self) -> dict[str, str]:
        """SHA-256 by suite; equal ones hold the same items in the same order."""
        return {suite.name: suite_hash(suite) for suite in (*self.tasks, self.text)}

    def items(self) -> dict[str, dict[str, list[str]]]:
        """Item ids of each task and split, in the order of the columns."""
        found = {}
        for suite in self.tasks:
            ids, count = [item.id for item in suite.items], self.num_validation[suite.name]
            found[suite.name] = {"validation": ids[:count], "test": ids[count:]}
        return found

    def guess_nats(self) -> dict[str, dict[str, float]]:
        """Mean choice_nats of an even guess among the choices of each task and split; without tasks that have none."""
        found: dict[str, dict[str, float]] = {}
        for suite in self.tasks:
            count = self.num_validation[suite.name]
            for split, items in (("validation", suite.items[:count]), ("test", suite.items[count:])):
                if (nats := guess_nats(items)) is not None:
                    found.setdefault(suite.name, {})[split] = nats
        return found

    def score_tasks(self, model: nn.Module, processor: Any) -> list[Score]:
        """Rows of all tasks."""
        return evaluate(model, processor, self.tasks, options=self.options, progress=False)

    def score_text(self, model: nn.Module, processor: Any) -> list[Score]:
        """Rows of the texts."""
        return evaluate(model, processor, [self.text], options=self.options, progress=False)

    def answer_freely(self, model: nn.Module, processor: Any) -> Columns:
        """Whether free answers were right, read strictly and leniently; a part of the test items."""
        rows = evaluate(model, processor, self.free, options=self.options, progress=False) if self.free else []
        return columns_of(rows, {"free_strict_correct": "strict", "free_correct": "lenient"})


def columns_of(rows: Sequence[Score], metrics: Mapping[str, str]) -> Columns:
    """Columns of the metrics (name in the rows -> name of the column) by suite, in the order of the rows."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.metric in metrics:
            values.setdefault(row.suite, {}).setdefault(metrics[row.metric], []).append(row.value)
    return {
        suite: {
            name: pack_numbers(column) if name.endswith("_nats") else pack_flags(column)
            for name, column in found.items()
        }
        for suite, found in values.items()
    }


def task_columns(rows: Sequence[Score]) -> Columns:
    """gold_nats, and choice_nats and correct where there are choices, of each task."""
    return columns_of(rows, {name: name for name in ("gold_nats", "choice_nats", "correct")})


def text_columns(rows: Sequence[Score]) -> dict[str, list[float]]:
    """Nats and number of predicted tokens of each text."""
    return {metric: [row.value for row in rows if row.metric == metric] for metric in ("nats", "num_tokens")}


def can_do(rows: Sequence[Score], task: str, num_validation: int) -> bool:
    """Whether the model is clearly better at the task than its commonest answer, on the validation items."""
    right, common = (
        [row.value for row in rows if row.suite == task and row.metric == metric][:num_validation]
        for metric in ("correct", "majority_correct")
    )
    if not right:
        raise DataError(f"task {task!r} has no choices, so nobody can say whether the model can do it; name `retained`")
    return (sum(right) - sum(common)) / len(right) >= CAN_DO_MARGIN


def _closed(name: str, split: str, num_items: int, seed: int) -> ClosedSuite:
    suite = load_suite(name, num_items=num_items, seed=seed, split=split, blind=False)
    assert isinstance(suite, ClosedSuite)
    return suite
