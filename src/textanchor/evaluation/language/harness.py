"""lm-eval as it is called here: which tasks, which items, on which model. Imports lm-eval, so import it late."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import datasets
import datasets.config as datasets_config
import lm_eval.api.task
from huggingface_hub import constants
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM as _HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from textanchor.errors import ConfigError, DataError
from textanchor.evaluation.language.local import FIELDS, Row, default_items, draw, local_definition, local_tasks
from textanchor.vlm.loading import hub_answers

HFLM: Any = _HFLM  # its decorator hides its type
LOGITS_AT_ONCE = 100_000_000
"""Bounds the memory of a batch: 400 MB of float32 logits, a few times over."""


@dataclass(frozen=True)
class ChosenTask:
    """One task of lm-eval with the places of the items that are asked, in the order of the task's documents."""

    name: str
    task: Any
    places: tuple[int, ...]
    item_ids: tuple[str, ...]
    num_available: int

    def documents(self) -> list[dict[str, Any]]:
        """The chosen documents."""
        return [self.task.eval_docs[place] for place in self.places]


def choose_local(name: str, rows: Sequence[Row], *, num_items: int | None, seed: int) -> ChosenTask:
    """The local task with that name on the rows of its file."""
    definition = local_definition(name)
    number = num_items or default_items([definition["output_type"]])
    chosen = [rows[place] for place in draw([row.get("subject") for row in rows], number, seed)]
    fields = [field for field in FIELDS if field in chosen[0]]
    table = datasets.Dataset.from_list([{field: row[field] for field in fields} for row in chosen])
    with quiet():
        task = ConfigurableTask(config={**definition, "custom_dataset": lambda **_: {"test": table}})
    _set_defaults(task)
    return ChosenTask(name, task, tuple(range(len(chosen))), tuple(row["id"] for row in chosen), len(rows))


def choose_standard(name: str, *, num_items: int | None, seed: int) -> list[ChosenTask]:
    """Tasks of lm-eval by name (several where the name is a group) on its own data, from the cache or the hub.

    ConfigError for a name that it does not know; DataError, in seconds, where the data is out of reach.
    """
    with quiet():
        manager = task_manager()
        if name not in manager.all_tasks:
            raise ConfigError(f"lm-eval has no task {name!r}; `lm-eval ls tasks` shows their names")
        with _offline_unless_thehub_answers():
            try:
                tasks: dict[str, Any] = manager.load([name])["tasks"]
                counts = {key: len(task.eval_docs) for key, task in tasks.items()}
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise DataError(
                    f"suite {name!r}: the data of lm-eval's task is neither in the cache "
                    f"({datasets_config.HF_DATASETS_CACHE}) nor could it be downloaded. Give JSONL files of your own "
                    "with --suite language:FOLDER "
                    f"({', '.join(local_tasks())}), or run once where there is a network and copy the cache. "
                    f"It says: {type(error).__name__}: {reason}"
                ) from error
    number = num_items or default_items([task.OUTPUT_TYPE for task in tasks.values()])
    flat = [(key, place) for key, count in counts.items() for place in range(count)]
    places: dict[str, list[int]] = defaultdict(list)
    for index in draw([key for key, _ in flat], number, seed):
        places[flat[index][0]].append(flat[index][1])
    chosen = []
    for key, task in tasks.items():
        _set_defaults(task)
        if key in places:  # an empty list would mean all documents to lm-eval, and others must be sorted
            kept = tuple(sorted(places[key]))
            chosen.append(ChosenTask(key, task, kept, tuple(f"{key}/{place}" for place in kept), counts[key]))
    return chosen


@cache
def task_manager() -> TaskManager:
    """All tasks that lm-eval brings; reading their list takes ten seconds."""
    return TaskManager()


def _set_defaults(task: Any) -> None:
    """As lm-eval's own entry point does: no examples unless the task asks for them, drawn by a fixed seed."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)


@contextmanager
def _offline_unless_thehub_answers() -> Iterator[None]:
    """Without an answer only caches are read: the libraries would retry for minutes."""
    before = constants.HF_HUB_OFFLINE, datasets_config.HF_HUB_OFFLINE
    if not hub_answers():
        constants.HF_HUB_OFFLINE = datasets_config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets_config.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's remarks (which arguments it ignores, what it runs) and bars left out; its errors stay."""
    logger, hidden = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not hidden:
            datasets.enable_progress_bars()


class TextBackbone(HFLM):
    """lm-eval's model around ours: batches that fit the memory, and `advance` in place of its bars."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, advance: Callable[[float], None]):
        with quiet():
            super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self._most_rows, self._advance = batch_size, advance
        self._num_rows, self._vocabulary = 1, model.config.get_text_config().vocab_size

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        longest = max(len(context) + len(continuation) for _, context, continuation in requests)
        self.batch_size_per_gpu = min(self._most_rows, max(1, LOGITS_AT_ONCE // (longest * self._vocabulary)))
        # rows that differ in their last token only are computed once
        self._num_rows = len({(*context, *continuation[:-1]) for _, context, continuation in requests})
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        self.batch_size_per_gpu, self._num_rows = self._most_rows, len(requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits = super()._model_call(inps, *args, **kwargs)
        self._advance(len(inps) / self._num_rows)
        return logits

    def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tokens = super()._model_generate(context, *args, **kwargs)
        self._advance(len(context) / self._num_rows)
        return tokens


def run_tasks(chosen: Sequence[ChosenTask], model: TextBackbone) -> dict[str, list[list[dict[str, Any]]]]:
    """What lm-eval logs: task -> items in their order -> one sample for each answer filter."""
    with quiet():
        result: Any = evaluate(
            lm=model,
            task_dict={"tasks": {entry.name: entry.task for entry in chosen}, "groups": {}, "group_map": {}},
            samples={entry.name: list(entry.places) for entry in chosen},
            bootstrap_iters=0,
        )
    logged: dict[str, list[list[dict[str, Any]]]] = {}
    for entry in chosen:
        by_place: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for sample in result["samples"][entry.name]:
            by_place[sample["doc_id"]].append(sample)
        logged[entry.name] = [by_place[place] for place in entry.places]
    return logged


def gold_nats(prompts: Sequence[str], targets: Sequence[str], model: TextBackbone) -> list[tuple[float, int]]:
    """Cross-entropy of each target after its prompt, summed over its tokens in nats, and their number."""
    pairs = [(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    instances = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    sums = [-log_likelihood for log_likelihood, _ in model.loglikelihood(instances)]
    counts = [len(model.tok_encode(prompt + target)) - len(model.tok_encode(prompt)) for prompt, target in pairs]
    return list(zip(sums, counts, strict=True))
