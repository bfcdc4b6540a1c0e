"""Score the model at a few steps of a run, and record how its weights move."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from textanchor.evaluation.suite import measuring
from textanchor.holds import HoldPlan
from textanchor.training.hf import RunCallback
from textanchor.training.session import Session


def log_spaced_steps(max_steps: int, num: int) -> list[int]:
    """Step 0, then up to `num` distinct steps at equal ratios that end in `max_steps`."""
    spaced = np.geomspace(1, max_steps, num) if num > 1 else [max_steps]
    return [0, *sorted({round(float(step)) for step in spaced})]


class StepCallback(RunCallback):
    """Appends what `measure` gives at the steps of `on_steps`, 0 being before the first one."""

    def __init__(self, on_steps: Iterable[int]):
        self.on_steps = frozenset(on_steps)
        self.entries: list[dict[str, Any]] = []

    def measure(self, step: int) -> dict[str, Any]:
        """One entry, without its step."""
        raise NotImplementedError

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure_at(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure_at(state.global_step)

    def record(self) -> list[dict[str, Any]]:
        """The entries so far."""
        return self.entries

    def restore(self, record: list[dict[str, Any]]) -> None:
        """Go on after the entries of a checkpoint."""
        self.entries = list(record)

    def _measure_at(self, step: int) -> None:
        if step in self.on_steps and all(entry["step"] != step for entry in self.entries):
            self.entries.append({"step": step, **self.measure(step)})


class CheckpointScorer(StepCallback):
    """Calls `score(model, processor)` at some steps, in eval mode and without touching the run's random numbers."""

    name = "curve"

    def __init__(self, on_steps: Sequence[int], score: Callable[[nn.Module, Any], dict[str, Any]]):
        super().__init__(on_steps)
        self.score = score

    def on_run_begin(self, session: Session, plan: HoldPlan | None) -> None:
        self.model, self.processor = session.model, session.processor

    def measure(self, step: int) -> dict[str, Any]:
        """What `score` gives."""
        with measuring(self.model), torch.random.fork_rng():
            return self.score(self.model, self.processor)
