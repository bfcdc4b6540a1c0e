"""What the cells of a comparison share: the base model in memory, the tower's outputs, the suites, the scores before.

A run changes the model in place; afterwards its trained tensors are put back, and a hash proves that it is the base.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textanchor.errors import ModelError
from textanchor.evaluation.scoring.images import TowerCache
from textanchor.evaluation.suite import EvaluationOptions
from textanchor.experiment.cells import Cell
from textanchor.experiment.suites import Columns, Suites, can_do, task_columns, text_columns
from textanchor.files import sha256_of_json
from textanchor.records import Score
from textanchor.training.features import FeatureStore
from textanchor.training.session import Session
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.names import base_parameters
from textanchor.vlm.precision import ComputePrecision, Format, choose_precision

Loader = Callable[[str], tuple[Any, Any]]


@dataclass(frozen=True)
class Start:
    """The base model's scores, the same for all runs with these suites."""

    suites: Suites
    precision: ComputePrecision
    tasks: Columns
    text: dict[str, list[float]]
    free: Columns


class Bench:
    """One base model at a time, and what was computed of it."""

    def __init__(
        self,
        load: Loader = load_vlm,
        *,
        scratch: Path | None = None,
        precisions: Mapping[str, Format] | None = None,
    ):
        self._load = load
        self._name: str | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._hash = ""
        self._starts: dict[str, Start] = {}
        self._data = ""
        self.features = FeatureStore()
        self.precisions: Mapping[str, Format] = precisions or {}
        """What training and scoring have to keep to where `auto` is asked for: that of earlier records."""
        self.scratch = scratch
        """Folder for what is needed during the comparison; the system's temporary one unless given."""
        self.anchors = None if scratch is None else scratch / "anchors"
        """Where runs of one base keep fitted anchors for one another: on disk, because one may take a gigabyte."""

    def model(self, cell: Cell) -> tuple[Any, Any, str]:
        """The cell's base model, its processor and its hash."""
        name = cell.config.model
        if name != self._name:
            self._name, self._loaded, self._starts = name, None, {}
            self._tower_cache = TowerCache()
            self.features.forget()
        if self._loaded is None:
            self._loaded = self._load(name)
            found = _hash(self._loaded[0])
            if self._starts and found != self._hash:
                raise ModelError(f"{name}: changed on disk while the comparison ran; start it again with another --out")
            self._hash = found
        return *self._loaded, self._hash

    def features_for(self, cell: Cell) -> FeatureStore | None:
        """Where the tower's outputs are kept: those of one task and seed, as memory is not without end."""
        if not cell.config.training.cache_features:
            return None
        data = sha256_of_json([str(cell.config.data), cell.seed])
        if data != self._data:
            self.features.forget()
            self._data = data
        return self.features

    @contextmanager
    def lent(self, cell: Cell) -> Iterator[list[Session]]:
        """Within it the model may be changed by the session that is put in the list; afterwards it is the base again.

        Where it cannot be brought back bit for bit (a method that splits the base weights, a failed run), it is loaded
        again.
        """
        model, _, expected = self.model(cell)
        sessions: list[Session] = []
        try:
            yield sessions
        except BaseException:
            self._loaded = None
            raise
        if not self._is_restored(model, sessions, expected):
            self._loaded = None

    def _is_restored(self, model: Any, sessions: Sequence[Session], expected: str) -> bool:
        for session in sessions:
            now = base_parameters(session.model)
            with torch.no_grad():
                for name, start in session.start.full.items():
                    if name not in now:
                        return False
                    now[name].copy_(start)
            if session.model is not model:
                unload = getattr(session.model, "unload", None)
                if unload is None or unload() is not model:
                    return False
        for parameter in model.parameters():
            parameter.grad = None
        return not hasattr(model, "peft_config") and _hash(model) == expected

    def start(self, cell: Cell) -> Start:
        """Scores of the base model on the cell's suites, computed once."""
        key = sha256_of_json(
            [cell.config.model, cell.suite, cell.retained, cell.candidates, cell.identity()["evaluation"]]
        )
        model, processor, _ = self.model(cell)
        if key not in self._starts:
            config = cell.evaluation
            precision = choose_precision(model, config.precision, keep=self.precisions.get("scoring"))
            options = EvaluationOptions(
                precision=precision.used, tower_cache=self._tower_cache, batch_size=config.batch_size
            )
            suites = Suites.build(cell.suite, cell.candidates, config, options)
            rows = suites.score_tasks(model, processor)
            if cell.retained is None:
                able = [t for t in suites.retained if can_do(rows, t, suites.num_validation[t])]
                suites = suites.keep_only(able)
            self._starts[key] = self._scored(suites, precision, rows, model, processor)
        return self._starts[key]

    def _scored(
        self, suites: Suites, precision: ComputePrecision, rows: Sequence[Score], model: Any, processor: Any
    ) -> Start:
        if not suites.retained:
            raise ModelError(
                f"the base model can do none of the tasks beside {suites.new}, so there is nothing to retain; name "
                "`retained`, or take another base"
            )
        known = {suite.name for suite in suites.tasks}
        tasks = task_columns([row for row in rows if row.suite in known])
        text = text_columns(suites.score_text(model, processor))
        return Start(suites, precision, tasks, text, suites.answer_freely(model, processor))


def _hash(model: Any) -> str:
    return tensors_hash(model.state_dict().items())
