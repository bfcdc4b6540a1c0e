"""One cell: tune the base model as the cell says, score it on the way, and give the record; no weights are written."""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.data.items import open_image
from textanchor.data.tasks import load_items
from textanchor.errors import ModelError
from textanchor.evaluation.suite import measuring
from textanchor.experiment.bench import Bench, Start
from textanchor.experiment.cells import Cell
from textanchor.experiment.code import code_hash
from textanchor.experiment.columns import pack_numbers
from textanchor.experiment.suites import task_columns, text_columns
from textanchor.records import RunRecord
from textanchor.training.audit import TensorAudit
from textanchor.training.curve import CheckpointScorer, StepCallback, log_spaced_steps
from textanchor.training.dataset import read_training_data
from textanchor.training.drift import DriftRecorder
from textanchor.training.geometry_drift import GeometryRecorder
from textanchor.training.method import load_method
from textanchor.training.run import TrainingRun
from textanchor.training.trainable import trained_parameters
from textanchor.vlm.parts import VLMParts

GEOMETRY_TASK = "caption"
"""Drawn scenes on whose images the projector's geometry is recorded."""


def run_cell(cell: Cell, bench: Bench) -> RunRecord:
    """The record of one run; what it holds is told in docs/compare.md. Leaves the bench's model as it was."""
    began, processor_began = time.monotonic(), time.process_time()
    model, processor, model_hash = bench.model(cell)
    start = bench.start(cell)
    before = time.monotonic()
    method = load_method(cell.config.method)
    conversations = read_training_data(cell.config)
    scorer = _Scorer(start, with_text=_trains_language(cell))
    steps = log_spaced_steps(cell.num_steps, cell.evaluation.points)
    recorders = [CheckpointScorer(steps[1:], scorer.score), *_recorders(cell, steps)]
    features = bench.features_for(cell)
    with (
        tempfile.TemporaryDirectory(prefix="textanchor-", dir=bench.scratch) as workspace,
        bench.lent(cell) as sessions,
    ):
        run = TrainingRun(
            cell.config,
            method,
            model,
            processor,
            conversations,
            recorders,
            features,
            Path(workspace),
            None,
            shows_progress=False,
            keep_precision=bench.precisions.get("training"),
            anchors=bench.anchors,
        )
        sessions.append(run.session)
        _train(run, recorders, cell.num_steps)
        audit, projector = run.audit_weights()
        extra: dict[str, Any] = {"audit": _audit_rows(audit, run.session.parts), "projector_audit": projector}
        if cell.wise_ft:
            extra["wise_ft"] = _interpolated(run, cell.wise_ft, recorders[0])
        extra["text_is_identical"] = _check_text(run, start) if not _trains_language(cell) else None
        if start.free:
            with measuring(run.session.model):
                after = start.suites.answer_freely(run.session.model, processor)
            extra["free"] = {"before": start.free, "after": after}
        record = run.record()
    curve = [scorer.before(), *record.extra.pop("curve")]
    return replace(
        record,
        name=cell.name,
        seed=cell.seed,
        hashes={
            **record.hashes,
            "model": model_hash,
            "cell": cell.identity_hash(),
            "code": code_hash(),
            **start.suites.hashes(),
        },
        cost={
            **record.cost,
            "seconds": time.monotonic() - before,
            "seconds_with_start": time.monotonic() - began,
            "processor_seconds": time.process_time() - processor_began,
            "evaluation_seconds": scorer.seconds,
        },
        extra={
            **record.extra,
            "cell": {
                "arm": cell.arm,
                "strength": cell.strength,
                "rate": cell.rate,
                "task": cell.task,
                "new": start.suites.new,
                "retained": list(start.suites.retained),
                "needs": method.needs,
                "trains_language": _trains_language(cell),
            },
            "scoring_precision": start.precision.record(),
            "identity": cell.identity(),
            "items": start.suites.items(),
            "guess_nats": start.suites.guess_nats(),
            "text_tokens": [int(count) for count in start.text["num_tokens"]],
            "curve": curve,
            **extra,
        },
    )


class _Scorer:
    """Scores of the model in training, as entries of the record."""

    def __init__(self, start: Start, *, with_text: bool):
        self.start, self.with_text, self.seconds = start, with_text, 0.0

    def before(self) -> dict[str, Any]:
        """The entry of step 0, which is the base model's."""
        return {"step": 0, "tasks": self.start.tasks, **self._text(self.start.text["nats"])}

    def score(self, model: nn.Module, processor: Any) -> dict[str, Any]:
        """Columns of all tasks and texts."""
        began = time.monotonic()
        suites = self.start.suites
        entry: dict[str, Any] = {"tasks": task_columns(suites.score_tasks(model, processor))}
        if self.with_text:
            entry |= self._text(text_columns(suites.score_text(model, processor))["nats"])
        self.seconds += time.monotonic() - began
        return entry

    def _text(self, nats: Sequence[float]) -> dict[str, str]:
        return {"text_nats": pack_numbers(nats)} if self.with_text else {}


def _train(run: TrainingRun, recorders: Sequence[StepCallback], num_steps: int) -> None:
    """Train and score; where the method changes the weights after the last step, only what it then gives is scored."""
    if run.attachment.finish is None:
        run.train()
        return
    for recorder in recorders:
        recorder.on_steps &= {0}
    run.train()
    for recorder in recorders:
        recorder.entries.append({"step": num_steps, **recorder.measure(num_steps)})


def _trains_language(cell: Cell) -> bool:
    return cell.config.trained_parts.language_model.train != "frozen"


def _recorders(cell: Cell, steps: Sequence[int]) -> list[StepCallback]:
    recorders: list[StepCallback] = [DriftRecorder(steps)]
    if cell.evaluation.geometry_images:
        items = load_items(GEOMETRY_TASK, split="validation", num_items=cell.evaluation.geometry_images)
        images = [open_image(item.image) for item in items if item.image is not None]
        recorders.append(GeometryRecorder(steps, images, num_directions=cell.evaluation.geometry_directions))
    return recorders


def _interpolated(run: TrainingRun, alphas: Sequence[float], scorer: StepCallback) -> list[dict[str, Any]]:
    """Scores at W0 + alpha (W - W0), each from the trained weights, which are put back."""
    with trained_weights_kept(run.session.model) as put_back:
        entries = []
        for alpha in alphas:
            put_back()
            run.session.start.scale_updates(defaultdict(lambda alpha=alpha: alpha))
            entries.append({"alpha": alpha, **scorer.measure(run.trainer.state.global_step)})
        return entries


class trained_weights_kept:
    """Within it what is given can be called to have the trained tensors as they were; at the end they are."""

    def __init__(self, model: nn.Module):
        self.trained = trained_parameters(model)
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.trained.items()}

    def __enter__(self) -> Callable[[], None]:
        return self._put_back

    def __exit__(self, *_: object) -> None:
        self._put_back()

    @torch.no_grad()
    def _put_back(self) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(self.values[name])


def _check_text(run: TrainingRun, start: Start) -> bool:
    """A frozen language model must give bit-identical logits on text: the scores are equal without any tolerance."""
    with measuring(run.session.model):
        now = text_columns(start.suites.score_text(run.session.model, run.processor))
    if now != start.text:
        raise ModelError(
            "the language model was frozen, but its scores on plain text moved: something besides the trained parts "
            "changed, so this run's retention says nothing"
        )
    return True


def _audit_rows(tensors: Sequence[TensorAudit], parts: VLMParts) -> list[dict[str, Any]]:
    """The audit with one row for each part's tensors under one rule, the worst leaks in it."""
    groups: dict[tuple[str, str], list[TensorAudit]] = defaultdict(list)
    for tensor in tensors:
        groups[parts.part_of(tensor.name), tensor.rule].append(tensor)
    return [
        {
            "part": part,
            "rule": rule,
            "tensors": len(found),
            "largest_weight_leak": _largest(t.weight_leak for t in found),
            "largest_leak_over_bound": _largest(
                t.weight_leak / t.weight_leak_bound for t in found if t.weight_leak is not None and t.weight_leak_bound
            ),
            "largest_function_leak": _largest(t.function_leak for t in found),
            "change_norm": math.sqrt(sum(t.change_norm**2 for t in found)),
        }
        for (part, rule), found in groups.items()
    ]


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
