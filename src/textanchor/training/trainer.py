"""The Hugging Face Trainer with logits only at labels, a learning rate for each part and checkpoints of what is
trained.

Shape legend: B examples, L tokens, K labels in the batch, V vocabulary.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from textanchor.errors import ConfigError, ModelError
from textanchor.outputs import writing
from textanchor.training.collate import Collator
from textanchor.training.config import PART_NAMES, PartsConfig, TrainingConfig
from textanchor.training.features import FeatureCache
from textanchor.training.hf import TokenCounter, checkpoint_folder
from textanchor.training.method import Batch
from textanchor.training.processor_speed import attention_for
from textanchor.training.sequences import IGNORED
from textanchor.training.trainable import trained_parameters
from textanchor.vlm.logits import takes_logits_to_keep
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts

logger = logging.getLogger(__name__)

TRAINED_TENSORS = "trained.safetensors"
"""File of a checkpoint with every trained tensor, by base name."""

WEIGHTS_AND_MOMENTS = 3
"""Size of a checkpoint in sizes of what is trained: the weights, and Adam's two means."""


def training_arguments(config: TrainingConfig, folder: Path, *, bfloat16: bool) -> TrainingArguments:
    """The Trainer's own settings; checkpoints go below `folder`. ConfigError for a tracker that is not installed."""
    missing = [tracker for tracker in config.report_to if tracker not in get_available_reporting_integrations()]
    if missing:
        raise ConfigError(
            f"training.report_to: {missing[0]!r} is not installed here, or the Trainer does not know it; available are "
            f"{', '.join(get_available_reporting_integrations()) or 'none'}"
        )
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=-1 if config.max_steps is None else config.max_steps,
        num_train_epochs=1.0 if config.epochs is None else config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        warmup_steps=config.warmup,  # below 1 it is a share of the steps
        lr_scheduler_type="constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        weight_decay=config.weight_decay,
        max_grad_norm=0.0 if config.max_grad_norm is None else config.max_grad_norm,
        seed=config.seed,
        bf16=bfloat16,
        use_cpu=training_device() == "cpu",
        save_strategy="no" if config.save_steps is None else "steps",
        save_steps=500 if config.save_steps is None else config.save_steps,
        save_total_limit=2,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to) or "none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def training_device() -> str:
    """Kind of the device that the Trainer takes: the GPU where torch can use one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class AdaptTrainer(Trainer):
    """Trains what `trainable.set_up_training` left unfrozen; the loss is the mean over all answer tokens of a step."""

    def __init__(
        self,
        arguments: TrainingArguments,
        parts: VLMParts,
        examples: Any,
        collator: Collator,
        *,
        rates: PartsConfig,
        label_only_logits: bool = True,
        features: FeatureCache | None = None,
        penalty: Callable[[], Tensor | float] | None = None,
        batch_penalty: Callable[[Batch], Tensor] | None = None,
        held: Iterable[str] = (),
        tokens: TokenCounter | None = None,
        callbacks: Iterable[TrainerCallback] = (),
    ):
        """`held` names trained tensors that are never decayed; `features` must have indexed `examples`."""
        super().__init__(parts.model, arguments, collator, examples, callbacks=list(callbacks))
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the labels of the whole step
        self.model_accepts_loss_kwargs = True  # makes the Trainer count those labels
        self.parts, self.rates, self.held = parts, rates, frozenset(held)
        self.features, self.penalty, self.batch_penalty = features, penalty, batch_penalty
        self.label_only_logits = label_only_logits and takes_logits_to_keep(parts.model)
        if label_only_logits and not self.label_only_logits:
            name = type(unwrapped(parts.model)).__name__
            logger.warning(
                "%s takes no logits_to_keep: its logits are computed at every token, not only at labels", name
            )
        self.tokens = tokens or TokenCounter()
        trained = rates.trained()
        self._frozen = [] if "vision_tower" in trained else [parts.module(parts.vision_tower)]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy summed over the batch's labels over the number of labels in the step, plus the penalties."""
        for module in self._frozen:
            module.eval()  # the Trainer calls model.train(): no dropout, no moving statistics in what does not learn
        labels_BL, rest = inputs["labels"], {name: value for name, value in inputs.items() if name != "labels"}

        def forward() -> Tensor:
            fed = nullcontext() if self.features is None else self.features.lookup()
            with fed, attention_for(labels_BL.device, labels_BL.shape[1], bfloat16=self.args.bf16):
                return label_logits(model, rest, labels_BL, only=self.label_only_logits)

        logits_KV = forward()
        targets_K = labels_BL[:, 1:][labels_BL[:, 1:] != IGNORED]
        num_items = len(targets_K) if num_items_in_batch is None else num_items_in_batch
        loss = F.cross_entropy(logits_KV.float(), targets_K, reduction="sum") / num_items
        share = len(targets_K) / num_items  # of the step; the shares add up to 1
        if self.penalty is not None:
            loss = loss + self.penalty() * share
        if self.batch_penalty is not None:
            loss = loss + self.batch_penalty(Batch(logits_KV, forward)) * share
        if not math.isfinite(loss.item()):
            raise ModelError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower the learning rates "
                f"({rates_told(self.rates)}), or raise training.warmup; a resumed run would meet it again"
            )
        self.tokens.count += int(inputs["attention_mask"].sum())
        if not loss.requires_grad:  # texts without an image, and no part that reads them is trained: the gradient is 0
            loss = loss + 0.0 * sum(weight.sum() for weight in trained_parameters(self.parts.model).values())
        return (loss, {"logits": logits_KV}) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer with one group for each part and kind of decay."""
        if self.optimizer is None:
            optimizer_class, keywords = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_class(self._parameter_groups(), **keywords)
        return self.optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        trained, groups = trained_parameters(self.parts.model), []
        for part in PART_NAMES:
            of_part = {name: p for name, p in trained.items() if self.parts.part_of(name) == part}
            # vectors (norm gains, biases) are not decayed, as in the Trainer; held tensors must not be drawn to 0
            decayed = {name for name, p in of_part.items() if p.ndim > 1 and name not in self.held}
            for names, decay in ((decayed, self.args.weight_decay), (of_part.keys() - decayed, 0.0)):
                if names:
                    parameters = [p for name, p in of_part.items() if name in names]
                    rate = getattr(self.rates, part).learning_rate
                    groups.append({"params": parameters, "lr": rate, "weight_decay": decay, "name": part})
        return groups

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        # resumed from the checkpoint of its last step, the Trainer would look at max_steps only after one step more
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*arguments, **options)
            self._require_finite()  # of the last step no loss would tell

    def _require_finite(self) -> None:
        """Raise ModelError where a step has made weights NaN or infinite."""
        for name, parameter in trained_parameters(self.parts.model).items():
            if not parameter.isfinite().all():
                raise ModelError(
                    f"{name}: NaN or infinite after step {self.state.global_step}; lower the learning rates "
                    f"({rates_told(self.rates)}), or raise training.warmup"
                )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        trained = sum(parameter.nbytes for parameter in trained_parameters(self.parts.model).values())
        # torch.save says by RuntimeError that the disk is full
        with writing(
            checkpoint_folder(self.args, self.state), num_bytes=WEIGHTS_AND_MOMENTS * trained, also=(RuntimeError,)
        ):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        self._require_finite()
        tensors = {name: p.detach().cpu().contiguous() for name, p in trained_parameters(self.parts.model).items()}
        save_file(tensors, folder / TRAINED_TENSORS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        file = Path(resume_from_checkpoint) / TRAINED_TENSORS
        saved, trained = load_file(file), trained_parameters(self.parts.model)
        if saved.keys() != trained.keys():
            raise ModelError(
                f"{file}: holds other tensors than this run trains "
                f"({', '.join(sorted(saved.keys() ^ trained.keys())[:3])}, ...); resume with the configuration that "
                "the run was started with"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])


def rates_told(rates: PartsConfig) -> str:
    """The learning rate of each trained part, for errors."""
    return ", ".join(f"{name} {part.learning_rate:g}" for name, part in rates.trained().items())


def label_logits(model: nn.Module, inputs: Mapping[str, Tensor], labels_BL: Tensor, *, only: bool = True) -> Tensor:
    """(K, V) logits that predict the K labels, row by row; with `only`, no others are computed.

    ModelError where a model that takes `logits_to_keep` does not take it as a (B, L) mask.
    """
    is_label_BL = labels_BL != IGNORED
    before_label_BL = torch.zeros_like(is_label_BL)
    before_label_BL[:, :-1] = is_label_BL[:, 1:]
    if not only:
        return model(**inputs).logits[before_label_BL]
    logits_KV = model(**inputs, logits_to_keep=before_label_BL).logits
    if logits_KV.ndim != 2 or len(logits_KV) != int(before_label_BL.sum()):
        raise ModelError(
            f"{type(unwrapped(model)).__name__} did not give one row of logits for each label (shape "
            f"{tuple(logits_KV.shape)}); set training.label_only_logits: false"
        )
    return logits_KV


@contextmanager
def configuration_kept(model: nn.Module) -> Iterator[None]:
    """The Trainer switches the generation cache off in the model's configuration, which would be saved."""
    plain: Any = unwrapped(model)
    config = plain.config
    before = dict(vars(config))
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(before)
