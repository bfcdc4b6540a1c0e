"""What one adaptation run is: model, data, what is trained in each part, the method, the trainer's settings, the
output.

Default parts and learning rates are those of LLaVA-1.5's LoRA script (haotian-liu/LLaVA,
scripts/v1_5/finetune_lora.sh):
a LoRA on the language model at 2e-4, the projector in full at 2e-5, the vision tower frozen.
A key that would have no effect beside the others is an error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from textanchor.bounds import MOST_DRAWN, MOST_EPOCHS, MOST_STEPS, require_range, require_seed
from textanchor.errors import ConfigError
from textanchor.vlm.precision import Precision

PartName = Literal["projector", "language_model", "vision_tower"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)
Train = Literal["full", "lora", "frozen"]
LEARNING_RATES: dict[Train, float] = {"full": 2e-5, "lora": 2e-4}
LORA_RANK = 16


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """How one part of the model is trained."""

    train: Train
    """full: every tensor; lora: low-rank updates of its linears, all else frozen; frozen: nothing."""
    learning_rate: float | None = None
    """Peak learning rate; 2e-5 (full) or 2e-4 (lora) where it is left out."""
    rank: int | None = None
    """Rank of the LoRA update; 16 where it is left out."""
    alpha: float | None = None
    """The LoRA update is scaled by alpha / rank; twice the rank where it is left out."""
    only: Literal["attention"] | None = None
    """attention: of the language model, only the linears of its attention blocks; everything where it is left out."""
    path: str | None = None
    """Name of the part's module, for models in which `find_parts` does not find it."""

    def __post_init__(self) -> None:
        if self.train == "frozen" and self.learning_rate is not None:
            raise ConfigError("learning_rate has no effect with train: frozen; remove it, or train the part")
        if self.train == "frozen" and self.only is not None:
            raise ConfigError("only has no effect with train: frozen; remove it, or train the part")
        if self.train != "lora" and (self.rank is not None or self.alpha is not None):
            raise ConfigError(
                f"rank and alpha have no effect with train: {self.train}; remove them, or set train: lora"
            )
        if self.train != "frozen":
            self._default("learning_rate", LEARNING_RATES[self.train])
        if self.train == "lora":
            self._default("rank", LORA_RANK)
            self._default("alpha", 2.0 * (self.rank or 0))
        for name in ("learning_rate", "rank", "alpha"):
            require_range(name, getattr(self, name), above=0)

    def _default(self, name: str, value: float) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """How each part of the model is trained."""

    projector: PartConfig = field(default_factory=lambda: PartConfig(train="full"))
    """What maps visual features into text space."""
    language_model: PartConfig = field(default_factory=lambda: PartConfig(train="lora"))
    """Embedding, layers and head of the language model; LoRA goes on the linears of its layers."""
    vision_tower: PartConfig = field(default_factory=lambda: PartConfig(train="frozen"))
    """The vision encoder, without a projector that lies inside its module."""

    def __post_init__(self) -> None:
        for name in ("projector", "vision_tower"):
            if getattr(self, name).only is not None:
                raise ConfigError(f"{name}.only: attention is chosen in the language model alone; remove it")

    def trained(self) -> dict[PartName, PartConfig]:
        """The parts that are not frozen."""
        return {name: getattr(self, name) for name in PART_NAMES if getattr(self, name).train != "frozen"}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training conversations come from: a task of ours, or a file."""

    task: str | None = None
    """A task of `textanchor.data.tasks`; its train split is used, drawn with the run's seed."""
    num_images: int | None = None
    """How many conversations of `task` to draw, one for each image."""
    path: Path | None = None
    """LLaVA JSON or JSONL (`conversations`), or Hugging Face chat records (`messages`)."""
    image_folder: Path | None = None
    """Folder that the image paths in `path` are relative to; the file's own folder where it is left out."""
    max_tokens: int | None = None
    """Longest sequence that is accepted, image tokens included; the model's own limit where it is left out."""
    chat_template: Path | None = None
    """File with the chat template to train with, for processors that bring none."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.path is None):
            raise ConfigError("give exactly one of task (one of textanchor's own) and path (a file of conversations)")
        if (self.num_images is None) != (self.task is None):
            raise ConfigError("num_images says how much of task to draw: give both, or neither of them and a path")
        if self.image_folder is not None and self.path is None:
            raise ConfigError("image_folder has no effect without path")
        require_range("num_images", self.num_images, least=1, most=MOST_DRAWN)
        require_range("max_tokens", self.max_tokens, least=1)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the trainer."""

    max_steps: int | None = None
    """Number of optimizer steps; give this or epochs."""
    epochs: float | None = None
    """Number of passes over the data; give this or max_steps."""
    batch_size: int = 4
    """Conversations in one forward pass."""
    accumulation: int = 1
    """Forward passes for one optimizer step; batch_size 4 is the same run as batch_size 1 with accumulation 4."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warmup."""
    weight_decay: float = 0.0
    """AdamW's weight decay; tensors with a hold are never decayed towards 0."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null leaves them alone."""
    seed: int = 0
    """Seed of the data order, of the LoRA initialisation and of the drawn task."""
    precision: Precision = "auto"
    """auto: whichever of the two is faster on the device; weights are float32 in either case, bfloat16 computes the
    forward pass in autocast."""
    cast_once: bool = False
    """Where that is bfloat16, keep a copy of the frozen linears' weights in bfloat16 instead of casting them at every
    step: the same numbers sooner, for half of these weights' memory on top."""
    save_steps: int | None = None
    """Write a checkpoint every so many steps, from which the run can be resumed; null writes none."""
    logging_steps: int = 10
    """Record loss and learning rate every so many steps."""
    report_to: tuple[str, ...] = ()
    """Trackers of the Hugging Face Trainer to log to, such as tensorboard or wandb."""
    cache_features: bool = False
    """Compute the frozen vision tower's features once for each distinct image and keep them in memory."""
    label_only_logits: bool = True
    """Compute logits only where a label is predicted, on every model that can; false computes them everywhere."""

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            raise ConfigError("give exactly one of max_steps and epochs")
        for name in ("max_steps", "batch_size", "accumulation", "save_steps", "logging_steps"):
            require_range(name, getattr(self, name), least=1, most=MOST_STEPS)
        require_range("epochs", self.epochs, above=0, most=MOST_EPOCHS)
        require_range("max_grad_norm", self.max_grad_norm, above=0)
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is a share of the steps, at least 0 and below 1, found {self.warmup}")
        require_range("weight_decay", self.weight_decay, least=0)
        if self.cast_once and self.precision == "float32":
            raise ConfigError("cast_once has no effect with precision: float32; remove it")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """One adaptation run."""

    model: str
    """`embedded`, a folder in Hugging Face format, or a hub id."""
    data: DataConfig
    """What to train on."""
    output: Path
    """Folder for the tuned model and its records; it must not exist yet. Checkpoints go to `<output>.checkpoints`."""
    training: TrainingConfig
    """Settings of the trainer."""
    method: dict[str, Any] = field(default_factory=lambda: {"name": "full"})
    """`name` of one of `textanchor.methods`, beside it that method's own options."""
    parts: PartsConfig | None = None
    """What is trained; the method's own default where it is left out."""
    export: Literal["plain", "peft"] = "plain"
    """plain: the tuned model as Transformers saves any; peft: LoRA, and whole what else was trained, for the base."""

    def __post_init__(self) -> None:
        from textanchor.training.method import load_method  # the methods look at this module's classes

        method = load_method(self.method)
        if self.parts is None:
            object.__setattr__(self, "parts", method.default_parts())
        if method.trains and not self.trained_parts.trained():
            raise ConfigError("projector, language_model and vision_tower are all frozen; train at least one of them")
        method.check_parts(self.trained_parts)
        method.check(self)
        if self.export == "peft":
            self._check_peft(method.keeps_base)
        if self.training.cache_features and self.trained_parts.vision_tower.train != "frozen":
            raise ConfigError(
                "training.cache_features keeps the outputs of a frozen vision tower, but parts.vision_tower.train is "
                f"{self.trained_parts.vision_tower.train}; set one of them to false or frozen"
            )

    def _check_peft(self, keeps_base: bool) -> None:
        trained = self.trained_parts.trained()
        if not keeps_base or not any(part.train == "lora" for part in trained.values()):
            raise ConfigError(
                f"export: peft needs LoRA that starts at zero, which method {self.method['name']} with these parts "
                "does not train; set export: plain"
            )
        if self.trained_parts.language_model.train == "full":
            raise ConfigError(
                "export: peft saves projector and vision tower whole beside LoRA, but not the language model, whose "
                "embedding may be tied to its head; set export: plain, or parts.language_model.train: lora"
            )

    @property
    def trained_parts(self) -> PartsConfig:
        """`parts`, which is never None once the configuration is built."""
        assert self.parts is not None
        return self.parts
