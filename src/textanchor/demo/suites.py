"""What the demo asks: a small set at a few steps of each run, a larger one before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from textanchor.demo.config import OLD_TASKS, DemoConfig
from textanchor.evaluation.registry import load_suite
from textanchor.evaluation.results.summary import change, mean_change, mean_over_tasks, summarise
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions
from textanchor.records import Score

METRICS = {"accuracy": "correct", "gold_nats": "gold_nats"}
"""Name in report.json -> metric of the rows."""


@dataclass(frozen=True)
class Suites:
    """The same items for every model that is scored."""

    small: tuple[AbstractSuite, ...]
    final: tuple[AbstractSuite, ...]
    task: str
    options: EvaluationOptions

    @classmethod
    def build(cls, config: DemoConfig, base: nn.Module, options: EvaluationOptions) -> "Suites":
        """`base` is the model before tuning, from which the text suite measures the divergence."""
        seed = config.seed
        small = [
            load_suite(config.task, num_items=2 * config.small_items, seed=seed, split="validation", blind=False),
            *(
                load_suite(task, num_items=config.small_items, seed=seed, split="validation", blind=False)
                for task in OLD_TASKS
            ),
            load_suite("text", num_items=config.small_texts, split="test"),
        ]
        final = [
            *(load_suite(task, num_items=config.final_items, seed=seed) for task in (config.task, *OLD_TASKS)),
            load_suite("pope_scenes", num_items=config.pope_items, seed=seed),
            load_suite("chair_scenes", num_items=config.num_captions, seed=seed),
            load_suite("text", num_items=config.num_texts, base=base),
        ]
        return cls(tuple(small), tuple(final), config.task, options)

    def point(self, model: nn.Module, processor: Any) -> dict[str, Any]:
        """New task, mean over the old ones and text, on the small set: one point of a learning-retention curve."""
        rows = evaluate(model, processor, self.small, options=self.options, progress=False)
        text = summarise(rows)["text"]["cross_entropy"]["estimate"]
        return {"new": _means(rows, (self.task,)), "old": _means(rows, OLD_TASKS), "text_cross_entropy": text}

    def score(self, model: nn.Module, processor: Any, advance: Callable[[int], None]) -> list[Score]:
        """Rows of the larger set; `advance` is told how many items were finished since its last call."""
        options = replace(self.options, advance=advance)
        return evaluate(model, processor, self.final, options=options, progress=False)

    @property
    def num_questions(self) -> int:
        """Number of items of the larger set."""
        return sum(suite.num_steps for suite in self.final)


def _means(rows: Sequence[Score], tasks: Sequence[str]) -> dict[str, float]:
    return {key: mean_over_tasks(rows, tasks, metric).estimate for key, metric in METRICS.items()}


def scores_for_report(rows: Sequence[Score], before: Sequence[Score] | None) -> Mapping[str, Any]:
    """The SCORES object of report.json; with `before`, also the changes since then, paired by item."""
    scores = summarise(rows)
    old: dict[str, Any] = {key: asdict(mean_over_tasks(rows, OLD_TASKS, metric)) for key, metric in METRICS.items()}
    if before is not None:
        old["change"] = {key: asdict(mean_change(before, rows, OLD_TASKS, m)) for key, m in METRICS.items()}
        for task, found in scores["tasks"].items():
            found["change"] = {key: asdict(change(before, rows, task, metric)) for key, metric in METRICS.items()}
    return {**scores, "old_mean": old}
