"""The whole run: load, set up what is trained, train, audit, export."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import nn
from transformers import TrainerCallback

from textanchor.config import to_dict
from textanchor.data.items import Conversation
from textanchor.errors import ConfigError
from textanchor.files import atomic_directory, require_free_directory, write_json
from textanchor.holds import HoldPlan
from textanchor.holds.store import hash_of_model
from textanchor.records import RunRecord, environment, memory_cost
from textanchor.training.adapter_export import save_adapter_checked
from textanchor.training.audit import Audit, audit_weights
from textanchor.training.checkpoints import CheckpointKeeper, checkpoint_to_resume, checkpoints_kept, workspace_of
from textanchor.training.collate import Collator
from textanchor.training.config import AdaptConfig
from textanchor.training.dataset import (
    EncodedConversations,
    conversations_hash,
    longest_sequence,
    read_training_data,
    use_chat_template,
)
from textanchor.training.export import logits_of, merged, save_checked
from textanchor.training.features import FeatureCache, FeatureStore
from textanchor.training.hf import RunCallback, TokenCounter
from textanchor.training.method import AbstractMethod, load_method
from textanchor.training.session import Session
from textanchor.training.trainable import num_trained, set_up_training
from textanchor.training.trainer import AdaptTrainer, configuration_kept, training_arguments
from textanchor.training.updates import StartWeights
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.loading import load_vlm

NUM_CHECKED = 2
"""Conversations on which the saved model's logits are compared with the trained one's."""


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
) -> AdaptResult:
    """Tune a vision-language model as `config` says and write it with its records to `config.output`.

    A `model` that is given is changed in place, and needs its `processor`; otherwise `config.model` is loaded.
    `callbacks` are any of the Trainer's; a `RunCallback` (CheckpointScorer, DriftRecorder) also enters checkpoints and
    run.json. `features` keeps the frozen tower's outputs from run to run. With `resume`, goes on from the newest
    checkpoint with weights equal bit for bit to those of an uninterrupted run. The checkpoints are removed once the
    output is complete. ConfigError, DataError or ModelError before anything is written; nothing is left in
    `config.output` if the run fails.
    """
    if (model is None) != (processor is None):
        raise ConfigError("adapt takes model and processor together, or neither of them to load config.model")
    if features is not None and not config.training.cache_features:
        raise ConfigError("a FeatureStore has no effect without training.cache_features: true")
    require_free_directory(config.output)
    workspace = workspace_of(config.output)
    checkpoint = checkpoint_to_resume(workspace, resume=resume)
    method = load_method(config.method)
    conversations = method.training_data(read_training_data(config), config.training.seed)
    if model is None:
        model, processor = load_vlm(config.model)
    with checkpoints_kept(workspace):
        run = _Run(config, method, model, processor, conversations, callbacks, features, workspace, checkpoint)
        run.train()
        result = run.finish()
    shutil.rmtree(workspace, ignore_errors=True)  # the output is complete, there is nothing left to resume
    return result


class _Run:
    """One run between setting up and export, with what the steps in between share."""

    def __init__(
        self,
        config: AdaptConfig,
        method: AbstractMethod,
        model: nn.Module,
        processor: Any,
        conversations: Sequence[Conversation],
        callbacks: Sequence[TrainerCallback],
        features: FeatureStore | None,
        workspace: Path,
        checkpoint: Path | None,
    ):
        self.config, self.method, self.processor, self.checkpoint = config, method, processor, checkpoint
        self.began = time.monotonic()
        self.hashes = {"model": tensors_hash(model.state_dict().items()), "data": conversations_hash(conversations)}
        use_chat_template(processor, config.data.chat_template)
        self.arguments = training_arguments(config.training, workspace)
        limit = config.data.max_tokens or longest_sequence(model)
        examples = EncodedConversations(conversations, processor, max_tokens=limit)
        self.collator = Collator(processor.tokenizer.pad_token_id or 0)
        self.checked = self.collator([examples[i] for i in range(min(NUM_CHECKED, len(examples)))])
        self.session = self._session(model.to(self.arguments.device), workspace)
        self.num_trained = num_trained(self.session.parts)
        self.attachment = method.start(self.session)
        callbacks = [*self.attachment.callbacks, *callbacks]
        self.recorded = [callback for callback in callbacks if isinstance(callback, RunCallback)]
        self.tokens = TokenCounter()
        self.keeper = CheckpointKeeper(config, self.hashes, [*self.recorded, self.tokens])
        self.trainer = self._trainer(examples, [*callbacks, self.keeper], features)

    def _session(self, model: nn.Module, workspace: Path) -> Session:
        anchor_hash = hash_of_model(model)
        parts = set_up_training(
            model,
            self.config.trained_parts,
            seed=self.config.training.seed,
            method=self.method,
            processor=self.processor,
        )
        return Session(
            config=self.config,
            processor=self.processor,
            parts=parts,
            model_hash=anchor_hash,
            start=StartWeights(parts),
            workspace=workspace,
            is_resumed=self.checkpoint is not None,
            hashes=self.hashes,
        )

    def _trainer(
        self, examples: EncodedConversations, callbacks: list[TrainerCallback], store: FeatureStore | None
    ) -> AdaptTrainer:
        settings, parts, data = self.config.training, self.session.parts, examples
        cache = None
        if settings.cache_features:
            cache = FeatureCache(parts, store, bfloat16=settings.precision == "bfloat16")
            indexed = cache.index(examples[i] for i in range(len(examples)))
            data = list(track(indexed, "vision tower features", total=len(examples), transient=True))
        return AdaptTrainer(
            self.arguments,
            parts,
            data,
            self.collator,
            rates=self.config.trained_parts,
            label_only_logits=settings.label_only_logits,
            features=cache,
            penalty=self.attachment.penalty,
            batch_penalty=self.attachment.batch_penalty,
            held=self.attachment.held,
            tokens=self.tokens,
            callbacks=callbacks,
        )

    def train(self) -> None:
        """Train to the end, from the checkpoint if there is one; a method that does not train is only recorded."""
        for callback in self.recorded:
            callback.on_run_begin(self.session, self.attachment.plan)
        if not self.method.trains:
            for callback in self.recorded:
                callback.on_train_begin(self.arguments, self.trainer.state, self.trainer.control)
            return
        if self.checkpoint is not None:
            self.keeper.restore_all(self.checkpoint)
        with configuration_kept(self.session.model):
            self.trainer.train(resume_from_checkpoint=None if self.checkpoint is None else str(self.checkpoint))
        # with precision bfloat16 accelerate leaves its autocast around the model's forward, and audits need float32
        self.trainer.accelerator.unwrap_model(self.session.model, keep_fp32_wrapper=False)
        if self.attachment.finish is not None:
            self.attachment.finish()

    def finish(self) -> AdaptResult:
        """Audit the trained weights, merge LoRA, write the output and check it by loading it again."""
        config, parts = self.config, self.session.parts
        tensors, projector = audit_weights(self.session.start, self.attachment)
        logits = logits_of(parts.model, self.checked)
        with atomic_directory(config.output) as folder:
            if config.export == "peft":
                plain, reload = save_adapter_checked(self.session, folder, batch=self.checked, logits=logits)
            else:
                plain = merged(parts.model)
                reload = save_checked(
                    plain,
                    self.processor,
                    folder,
                    trained=[tensor.name for tensor in tensors],
                    batch=self.checked,
                    logits_before_merge=logits,
                )
            audit = Audit(tensors=tensors, projector=projector, **asdict(reload))
            record = self._record(plain)
            write_json(folder / "audit.json", asdict(audit))
            record.save(folder / "run.json")
        return AdaptResult(plain, self.processor, config.output, record, audit, self.attachment.plan)

    def _record(self, tuned: nn.Module) -> RunRecord:
        history = self.trainer.state.log_history
        return RunRecord(
            name=self.config.output.name,
            method=self.config.method["name"],
            seed=self.config.training.seed,
            config=to_dict(self.config),
            **environment(),
            hashes=self.hashes | {"tuned": tensors_hash(tuned.state_dict().items())},
            cost={
                "seconds": time.monotonic() - self.began,
                **memory_cost(),
                "tokens": float(self.tokens.count),
            },
            extra={
                "loss": [
                    {key: entry[key] for key in ("step", "loss", "learning_rate")}
                    for entry in history
                    if "loss" in entry
                ],
                "label_only_logits": self.trainer.label_only_logits,
                "trained_parameters": self.num_trained,
                **{callback.name: callback.record() for callback in self.recorded},
            },
        )
