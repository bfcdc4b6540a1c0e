"""Training without an output: set up what is trained, train it as the method says, audit it, record it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from rich.progress import track
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from textanchor.config import to_dict
from textanchor.data.items import Conversation
from textanchor.errors import DataError
from textanchor.records import RunRecord, environment, memory_cost
from textanchor.training.audit import TensorAudit, audit_weights
from textanchor.training.checkpoints import METHOD_FOLDER, CheckpointKeeper
from textanchor.training.collate import Collator
from textanchor.training.config import AdaptConfig
from textanchor.training.dataset import EncodedConversations, conversations_hash, longest_sequence, use_chat_template
from textanchor.training.features import FeatureCache, FeatureStore
from textanchor.training.hf import RunCallback, TokenCounter
from textanchor.training.method import AbstractMethod
from textanchor.training.own_answers import own_answers
from textanchor.training.processor_speed import cast_once
from textanchor.training.session import Session
from textanchor.training.trainable import num_trained, set_up_training
from textanchor.training.trainer import AdaptTrainer, configuration_kept, training_arguments, training_device
from textanchor.training.updates import StartWeights
from textanchor.vlm.hashing import hash_of_model, tensors_hash
from textanchor.vlm.precision import Format, choose_precision

NUM_CHECKED = 2
"""Conversations on which the saved model's logits are compared with the trained one's."""


class TrainingRun:
    """One run from setting up to the trained, audited model in memory; what becomes of the model is the caller's.

    The `model` is changed in place: adapters are put on it and its trained tensors move.
    """

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
        *,
        shows_progress: bool = True,
        keep_precision: Format | None = None,
        anchors: Path | None = None,
    ):
        """`conversations` are the configuration's own; `anchors` is a folder for what equal models' runs may share.

        `keep_precision` is what `training.precision: auto` has to keep to.
        """
        self.config, self.method, self.processor, self.checkpoint = config, method, processor, checkpoint
        self.began, self.shows_progress = time.monotonic(), shows_progress
        use_chat_template(processor, config.data.chat_template)
        self.precision = choose_precision(
            model, config.training.precision, device=training_device(), keep=keep_precision
        )
        self.arguments = training_arguments(config.training, workspace, bfloat16=self.precision.bfloat16)
        model = model.to(self.arguments.device)
        answered = partial(own_answers, model, processor)
        conversations = method.training_data(conversations, config.training.seed, answered)
        self.hashes = {"model": tensors_hash(model.state_dict().items()), "data": conversations_hash(conversations)}
        limit = config.data.max_tokens or longest_sequence(model)
        examples = EncodedConversations(conversations, processor, max_tokens=limit)
        self.collator = Collator(processor.tokenizer.pad_token_id or 0)
        self.first_batch = self.collator([examples[i] for i in range(min(NUM_CHECKED, len(examples)))])
        """The first conversations, to compare the trained model with the written one."""
        self.session = self._session(model, workspace, anchors)
        self.num_trained = num_trained(self.session.parts)
        self.attachment = method.start(self.session)
        callbacks = [*self.attachment.callbacks, *callbacks]
        self.recorded = [callback for callback in callbacks if isinstance(callback, RunCallback)]
        self.tokens = TokenCounter()
        self.keeper = CheckpointKeeper(config, self.hashes, self.precision.used, [*self.recorded, self.tokens])
        self.trainer = self._trainer(examples, [*callbacks, self.keeper], features)

    def _session(self, model: nn.Module, workspace: Path, anchors: Path | None) -> Session:
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
            kept=workspace / METHOD_FOLDER,
            is_resumed=self.checkpoint is not None,
            hashes=self.hashes,
            anchors=anchors,
        )

    def _trainer(
        self, examples: EncodedConversations, callbacks: list[TrainerCallback], store: FeatureStore | None
    ) -> AdaptTrainer:
        settings, parts, data = self.config.training, self.session.parts, examples
        cache = None
        if settings.cache_features:
            cache = FeatureCache(parts, store, self.precision.used)
            indexed = cache.index(examples[i] for i in range(len(examples)))
            what, hidden = "vision tower features", not self.shows_progress
            data = list(track(indexed, what, total=len(examples), transient=True, disable=hidden))
        trainer = AdaptTrainer(
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
        if not self.shows_progress:
            for printing in (ProgressCallback, PrinterCallback):
                trainer.remove_callback(printing)
        return trainer

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
        casting_once = self.precision.bfloat16 and self.config.training.cast_once
        casts = cast_once(self.session.model) if casting_once else nullcontext()
        with configuration_kept(self.session.model), casts, _unpickling_told(self.checkpoint):
            self.trainer.train(resume_from_checkpoint=None if self.checkpoint is None else str(self.checkpoint))
        # in bfloat16 accelerate leaves its autocast around the model's forward, and audits need float32
        self.trainer.accelerator.unwrap_model(self.session.model, keep_fp32_wrapper=False)
        # else a next run of the same model object would not be wrapped, and silently train in float32
        vars(self.session.model).pop("_is_accelerate_prepared", None)
        if self.attachment.finish is not None:
            self.attachment.finish()

    def audit_weights(self) -> tuple[tuple[TensorAudit, ...], dict[str, Any] | None]:
        """A row for each trained tensor, and how the projector's function changed; HoldError for a broken promise."""
        return audit_weights(self.session.start, self.attachment)

    def record(self) -> RunRecord:
        """What was trained, on what, at what cost; its hashes are of the model before the run and of the data."""
        history = self.trainer.state.log_history
        return RunRecord(
            name=self.config.output.name,
            method=self.config.method["name"],
            seed=self.config.training.seed,
            config=to_dict(self.config),
            **environment(),
            hashes=dict(self.hashes),
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
                "precision": self.precision.record(),
                "label_only_logits": self.trainer.label_only_logits,
                "trained_parameters": self.num_trained,
                **{callback.name: callback.record() for callback in self.recorded},
            },
        )


@contextmanager
def _unpickling_told(checkpoint: Path | None) -> Iterator[None]:
    """The Trainer keeps its own state in pickles, and reads them back as tensors and plain values only."""
    try:
        yield
    except UnpicklingError as error:
        raise DataError(
            f"{checkpoint}: optimizer.pt, scheduler.pt or rng_state.pth holds something else than tensors and plain "
            "values; a pickle could run any code, so it is refused. Remove the folder to resume from an earlier "
            "checkpoint, or start anew"
        ) from error
