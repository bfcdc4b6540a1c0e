"""The whole run: load, train, audit, write."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from textanchor.errors import ConfigError, ModelError
from textanchor.files import atomic_directory, write_json
from textanchor.holds import HoldPlan
from textanchor.outputs import claimed, require_room
from textanchor.records import RunRecord
from textanchor.training.adapter_export import save_adapter_checked
from textanchor.training.audit import Audit
from textanchor.training.checkpoints import (
    RECORD,
    checkpoint_to_resume,
    checkpoints_kept,
    precision_of_checkpoint,
    remove_outlived,
    workspace_of,
)
from textanchor.training.config import AdaptConfig
from textanchor.training.dataset import read_training_data
from textanchor.training.export import logits_of, merged, num_bytes, save_checked
from textanchor.training.features import FeatureStore
from textanchor.training.method import load_method
from textanchor.training.run import TrainingRun
from textanchor.training.trainer import rates_told
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.loading import load_vlm


@dataclass(frozen=True)
class AdaptResult:
    """What a run leaves: the tuned plain model in memory, its folder and its records."""

    model: Any
    """The tuned model, LoRA merged, in eval mode."""
    processor: Any
    output: Path
    record: RunRecord
    audit: Audit
    plan: HoldPlan | None
    """What was held; None under methods without holds."""

    def __str__(self) -> str:
        losses = self.record.extra["loss"]
        course = f"loss {losses[0]['loss']:.3f} to {losses[-1]['loss']:.3f}, " if losses else ""
        return (
            f"{self.record.name}: {course}{self.record.cost['seconds']:.0f} s; {self.audit}\nwritten to {self.output}"
        )


def adapt(
    config: AdaptConfig,
    *,
    model: nn.Module | None = None,
    processor: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    features: FeatureStore | None = None,
    resume: bool = False,
    progress: bool = True,
) -> AdaptResult:
    """Tune a vision-language model as `config` says and write it with its records to `config.output`.

    A `model` that is given is changed in place, and needs its `processor`; otherwise `config.model` is loaded.
    `callbacks` are any of the Trainer's; a `RunCallback` (CheckpointScorer, DriftRecorder) also enters checkpoints and
    run.json. `features` keeps the frozen tower's outputs from run to run. With `resume`, goes on from the newest
    checkpoint with weights equal bit for bit to those of an uninterrupted run. The checkpoints are removed once the
    output is complete. `progress` shows the Trainer's bar and log lines. ConfigError, DataError or ModelError before
    anything is written; nothing is left in `config.output` if the run fails.
    """
    if (model is None) != (processor is None):
        raise ConfigError("adapt takes model and processor together, or neither of them to load config.model")
    if features is not None and not config.training.cache_features:
        raise ConfigError("a FeatureStore has no effect without training.cache_features: true")
    workspace = workspace_of(config.output)
    with claimed(config.output):
        remove_outlived(workspace, config.output)
    with atomic_directory(config.output) as folder:
        checkpoint = checkpoint_to_resume(workspace, resume=resume)
        method = load_method(config.method)
        conversations = read_training_data(config)
        if model is None:
            model, processor = load_vlm(config.model)
        if config.export == "plain":
            require_room(config.output, num_bytes(model))
        with checkpoints_kept(workspace):
            run = TrainingRun(
                config,
                method,
                model,
                processor,
                conversations,
                callbacks,
                features,
                workspace,
                checkpoint,
                shows_progress=progress,
                keep_precision=None if checkpoint is None else precision_of_checkpoint(checkpoint),
            )
            run.train()
            result = _written(run, folder)
    shutil.rmtree(workspace, ignore_errors=True)  # the output is complete, there is nothing left to resume
    return result


def _written(run: TrainingRun, folder: Path) -> AdaptResult:
    """Audit the trained weights, merge LoRA, fill the output's folder and check it by loading it again."""
    config, model = run.config, run.session.model
    tensors, projector = run.audit_weights()
    logits = logits_of(model, run.first_batch)
    if run.method.trains and not logits.isfinite().all():
        raise ModelError(
            "the tuned model's logits are NaN or infinite: its last steps were too large; lower the learning rates "
            f"({rates_told(config.trained_parts)}), or raise training.warmup"
        )
    if config.export == "peft":
        plain, reload = save_adapter_checked(run.session, folder, batch=run.first_batch, logits=logits)
    else:
        plain = merged(model)
        reload = save_checked(
            plain,
            run.processor,
            folder,
            trained=[tensor.name for tensor in tensors],
            batch=run.first_batch,
            logits_before_merge=logits,
        )
    audit = Audit(tensors=tensors, projector=projector, **asdict(reload))
    record = run.record()
    record = replace(record, hashes=record.hashes | {"tuned": tensors_hash(plain.state_dict().items())})
    write_json(folder / "audit.json", asdict(audit))
    record.save(folder / RECORD)
    return AdaptResult(plain, run.processor, config.output, record, audit, run.attachment.plan)
