"""What the demo trains and measures; sized for eight minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textanchor.training.config import AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig

NewTask = Literal["words", "digits"]
OLD_TASKS = ("existence", "shape", "color", "position", "count")
METHODS = ("full", "app")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Both methods share everything but the hold: data, order, seed, parts, learning rates and steps."""

    task: NewTask = "digits"
    """What is learned; the alignment of the embedded model has never seen it."""
    seed: int = 0
    num_images: int = 512
    max_steps: int = 64
    batch_size: int = 8
    projector_learning_rate: float = 5e-4
    lora_learning_rate: float = 3e-4
    lora_rank: int = 8
    num_reference_images: int = 300
    """Unlabelled drawn scenes, from which the projector's input directions are taken."""
    num_anchor_texts: int = 40
    """Shipped texts, from which the language model's text-input directions are taken."""
    num_points: int = 5
    """Log-spaced steps at which a run is scored on the small set."""
    small_items: int = 24
    """Questions of each old task, and twice as many of the new one, in the small set."""
    small_texts: int = 8
    final_items: int = 60
    """Questions of each task before and after."""
    pope_items: int = 60
    """POPE questions of each strategy."""
    num_captions: int = 24
    num_texts: int = 40

    def adapt_config(self, name: str, output: Path, *, anchor: Path) -> AdaptConfig:
        """The run called `name`, LLaVA's usual recipe: projector in full, LoRA on the language model."""
        probed = {"task": "caption", "num_images": self.num_reference_images}  # the saved anchor has seen none of them
        app = {"anchor": str(anchor), "reference": probed}  # holds what app holds by default
        method = {"name": name, **(app if name == "app" else {})}
        return AdaptConfig(
            model="embedded",
            data=DataConfig(task=self.task, num_images=self.num_images),
            output=output,
            parts=PartsConfig(
                projector=PartConfig(train="full", learning_rate=self.projector_learning_rate),
                language_model=PartConfig(train="lora", learning_rate=self.lora_learning_rate, rank=self.lora_rank),
            ),
            training=TrainingConfig(
                max_steps=self.max_steps,
                batch_size=self.batch_size,
                scheduler="constant",
                seed=self.seed,
                cast_once=True,
                logging_steps=5,
                cache_features=True,
            ),
            method=method,
        )
