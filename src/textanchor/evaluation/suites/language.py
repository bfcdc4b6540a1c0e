"""Language tasks through lm-eval (github.com/EleutherAI/lm-evaluation-harness), on the model's text backbone."""

import copy
import importlib
import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from textanchor.errors import DataError, TextanchorError
from textanchor.evaluation.language.local import GENERATES, local_files, read_local_rows
from textanchor.evaluation.language.scores import Values, choice_values, own_metrics
from textanchor.evaluation.results.kinds import LANGUAGE, Kind
from textanchor.evaluation.scoring.prompting import tokenizer_of
from textanchor.evaluation.suite import AbstractSuite, EvaluationOptions, SuiteOptions, measuring
from textanchor.evaluation.suites.folder import accepted
from textanchor.files import sha256_of_json
from textanchor.records import Score
from textanchor.vlm.text_backbone import text_backbone

PROMPT_KEYS = ("description", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "num_fewshot")


@dataclass(frozen=True, kw_only=True)
class LanguageSuite(AbstractSuite):
    """Rows for each item; what the model said is the answer of the row `correct`:

    - multiple choice: correct (lm-eval's acc), correct_normalised (its acc_norm: by characters), gold_nats (cross-
      entropy of the right choice, summed over its tokens), choice_nats (the same, normalised over the choices), chance
      (one over the number of choices), majority_correct (the most frequent place of the right choice is this item's);
    - a generated answer: correct (read leniently), strict_correct (read in the demanded format), gold_nats (cross-
      entropy of the gold solution) and gold_tokens (its length);
    - other tasks: lm-eval's own metrics by their names.
    """

    name: str
    source: str
    """Where the items come from, for people."""
    chosen: tuple[Any, ...] = field(repr=False)
    """`ChosenTask` of `evaluation.language.harness`."""
    malformed: tuple[str, ...] = ()
    """Rows of the user's files that are no items, each with file, line and reason."""
    version: ClassVar[str] = "2"

    @property
    def kind(self) -> Kind:
        return LANGUAGE

    @property
    def num_items(self) -> int:
        return sum(len(entry.places) for entry in self.chosen)

    @property
    def num_available(self) -> int:
        return sum(entry.num_available for entry in self.chosen)

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(item_id for entry in self.chosen for item_id in entry.item_ids)

    @property
    def num_steps(self) -> int:
        return self.num_items

    @cached_property
    def data_hash(self) -> str:
        return sha256_of_json(
            [
                [item_id, {key: repr(value) for key, value in document.items()}]
                for entry in self.chosen
                for item_id, document in zip(entry.item_ids, entry.documents(), strict=True)
            ]
        )

    @property
    def settings(self) -> dict[str, Any]:
        prompts = [[entry.name, *(_stable(entry.task.get_config(key)) for key in PROMPT_KEYS)] for entry in self.chosen]
        return {"prompts": prompts, "lm_eval": importlib.metadata.version("lm_eval")}

    def counts(self) -> str:
        """One line on how many items are asked, of how many, and how often the model runs for one."""
        parts = f" of {len(self.chosen)} tasks" if len(self.chosen) > 1 else ""
        how = "generated answers and gold solutions" if self._generates else "items"
        left_out = f", {len(self.malformed)} malformed rows left out" if self.malformed else ""
        return f"{self.name}: {self.num_items:,} of {self.num_available:,} {how}{parts}, from {self.source}{left_out}"

    @property
    def _generates(self) -> bool:
        return any(entry.task.OUTPUT_TYPE == GENERATES for entry in self.chosen)

    def score(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Score]:
        known = options.known(lambda: self.item_ids)
        if known is None:
            known = self._answered(model, processor, options)
            options.keep(lambda: dict(zip(self.item_ids, known, strict=True)))
        else:
            options.finished(self.num_items)
        return [
            Score(suite=self.name, version=self.version, item_id=item, metric=metric, value=value, answer=answer)
            for item, row in zip(self.item_ids, known, strict=True)
            for metric, (value, answer) in row.items()
        ]

    def _answered(self, model: nn.Module, processor: Any, options: EvaluationOptions) -> list[Values]:
        """Values of every item; the task is the least that is computed at once."""
        harness = lm_eval_harness()
        finished = _Finished(self.num_items, passes=2 if self._generates else 1, options=options)
        with measuring(model):
            backbone = harness.TextBackbone(
                text_backbone(model),
                _copied(tokenizer_of(processor)),
                batch_size=options.batch_size,
                advance=finished.advance,
            )
            logged = harness.run_tasks(self.chosen, backbone)
            values = [pair for entry in self.chosen for pair in _values(harness, entry, logged[entry.name], backbone)]
        finished.complete()
        return _with_majority(values)


def local_suites(path: Path, *, num_items: int | None, seed: int, options: SuiteOptions) -> list[AbstractSuite]:
    """A suite for each task that has a file in the folder `path`, or for the one whose file `path` is.

    `num_items` of each, drawn by `seed` (200, or 32 where answers are generated, unless given); MMLU's subjects come
    equally often. TextanchorError, naming the extra, where lm-eval is not installed.
    """
    harness = lm_eval_harness()
    suites: list[AbstractSuite] = []
    for task, file in local_files(path).items():
        problems: list[str] = []
        rows = read_local_rows(file, task, problems=problems)
        malformed = accepted(file, problems, len(rows), options)
        chosen = harness.choose_local(task, rows, num_items=num_items, seed=seed)
        suites.append(LanguageSuite(name=task, source=str(file), chosen=(chosen,), malformed=malformed))
    return suites


def standard_suites(task: Path, *, num_items: int | None, seed: int, options: SuiteOptions) -> list[AbstractSuite]:
    """One suite: any task or group of lm-eval by name, on its own data from the cache or the hub."""
    chosen = lm_eval_harness().choose_standard(str(task), num_items=num_items, seed=seed)
    return [LanguageSuite(name=str(task), source=f"lm-eval's task {str(task)!r}", chosen=tuple(chosen))]


def lm_eval_harness() -> Any:
    """Our module around lm-eval, loaded when it is needed."""
    try:
        return importlib.import_module("textanchor.evaluation.language.harness")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("textanchor"):
            raise
        raise TextanchorError(
            f"language suites need lm-eval, and {error.name} is not installed: pip install 'textanchor[language]'"
        ) from error


def _values(harness: Any, entry: Any, logged: Sequence[Sequence[Mapping[str, Any]]], backbone: Any) -> Iterator[Values]:
    """Values of every item of a task."""
    for item, samples in zip(entry.item_ids, logged, strict=True):
        if not samples:
            raise DataError(f"lm-eval logged nothing for item {item!r} of {entry.name!r}; is its version supported?")
    solutions: list[Values] = [{}] * len(logged)
    if entry.task.OUTPUT_TYPE == GENERATES:
        solutions = _solution_values(harness, entry, logged, backbone)
    for samples, solution in zip(logged, solutions, strict=True):
        values = own_metrics(samples) | solution
        if entry.task.OUTPUT_TYPE == "multiple_choice":
            values |= _choice_values(entry.task, samples[0])
        elif entry.task.OUTPUT_TYPE.startswith("loglikelihood"):
            values["gold_nats"] = (-_log_likelihood(samples[0]["filtered_resps"][0]), None)
        if not values:
            raise DataError(f"task {entry.name!r}: lm-eval gives no number for single items, so runs cannot be paired")
        yield values


def _choice_values(task: Any, sample: Mapping[str, Any]) -> Values:
    choices = list(task.doc_to_choice(sample["doc"]))
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    gold = choices.index(gold) if gold in choices else gold
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        return {}  # several right answers (TruthfulQA): lm-eval's own metrics remain
    log_likelihoods = [_log_likelihood(response) for response in sample["filtered_resps"][: len(choices)]]
    values = choice_values(log_likelihoods, choices, gold)
    if "acc" in sample:
        values["correct"] = (float(sample["acc"]), values["correct"][1])
    return values


def _log_likelihood(response: Any) -> float:
    return float(response[0] if isinstance(response, list | tuple) else response)


def _solution_values(
    harness: Any, entry: Any, logged: Sequence[Sequence[Mapping[str, Any]]], backbone: Any
) -> list[Values]:
    prompts = [str(samples[0]["arguments"][0][0]) for samples in logged]
    targets = [f"{entry.task.config.target_delimiter}{samples[0]['target']}" for samples in logged]
    return [
        {"gold_nats": (nats, None), "gold_tokens": (float(count), None)}
        for nats, count in harness.gold_nats(prompts, targets, backbone)
    ]


def _with_majority(values: Sequence[Values]) -> list[Values]:
    """The values with majority_correct in place of the place of the right choice."""
    places = Counter(row["gold_place"][0] for row in values if "gold_place" in row)
    majority = places.most_common(1)[0][0] if places else None
    kept = [{metric: value for metric, value in row.items() if metric != "gold_place"} for row in values]
    for row, own in zip(values, kept, strict=True):
        if "gold_place" in row:
            own["majority_correct"] = (float(row["gold_place"][0] == majority), None)
    return kept


def _stable(setting: Any) -> str:
    """The setting as text that is the same in every process."""
    return f"{setting.__module__}.{setting.__qualname__}" if inspect.isfunction(setting) else repr(setting)


def _copied(tokenizer: Any) -> Any:
    """A copy, because lm-eval sets its padding."""
    return copy.deepcopy(tokenizer)


class _Finished:
    """Turns shares of passes over the items into whole items for the progress."""

    def __init__(self, num_items: int, *, passes: int, options: EvaluationOptions):
        self._num_items, self._passes, self._options = num_items, passes, options
        self._share, self._told = 0.0, 0

    def advance(self, share: float) -> None:
        self._share += share / self._passes
        self._tell(min(int(self._share * self._num_items), self._num_items))

    def complete(self) -> None:
        self._tell(self._num_items)

    def _tell(self, total: int) -> None:
        if total > self._told:
            self._options.finished(total - self._told)
            self._told = total
