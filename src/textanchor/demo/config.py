"""What the demo trains and measures, in full and in the smaller sizes that a slow machine gets."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from textanchor.training.config import AdaptConfig, DataConfig, PartConfig, PartsConfig, TrainingConfig

NewTask = Literal["words", "digits"]
OLD_TASKS = ("existence", "shape", "color", "position", "count")
METHODS = ("full", "app")
DEFAULT_MINUTES = 8.0


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

    def cut(self) -> str:
        """What is smaller here than in full, in words; empty where nothing is."""
        full = DemoConfig()
        smaller = [
            f"{getattr(self, f.name)} of {getattr(full, f.name)} {WORDS[f.name]}"
            for f in fields(self)
            if f.name in WORDS and getattr(self, f.name) < getattr(full, f.name)
        ]
        return ", ".join(smaller)


WORDS = {
    "max_steps": "steps",
    "num_points": "points on each curve",
    "small_items": "questions a task on the way",
    "small_texts": "texts on the way",
    "final_items": "questions a task before and after",
    "pope_items": "POPE questions a strategy",
    "num_captions": "captions",
    "num_texts": "texts before and after",
    "num_reference_images": "reference images",
    "num_anchor_texts": "anchor texts",
}
"""Size -> what it counts."""

SIZES: tuple[dict[str, Any], ...] = (
    {},
    {
        "num_points": 4,
        "small_items": 16,
        "small_texts": 4,
        "final_items": 48,
        "pope_items": 40,
        "num_captions": 16,
        "num_texts": 24,
        "num_reference_images": 200,
        "num_anchor_texts": 32,
    },
    {
        "num_points": 4,
        "small_items": 12,
        "small_texts": 4,
        "final_items": 32,
        "pope_items": 30,
        "num_captions": 12,
        "num_texts": 16,
        "num_reference_images": 150,
        "num_anchor_texts": 24,
    },
    {
        "max_steps": 48,
        "num_images": 384,
        "num_points": 3,
        "small_items": 10,
        "small_texts": 3,
        "final_items": 24,
        "pope_items": 20,
        "num_captions": 8,
        "num_texts": 12,
        "num_reference_images": 120,
        "num_anchor_texts": 20,
    },
    {
        "max_steps": 32,
        "num_images": 256,
        "num_points": 2,
        "small_items": 8,
        "small_texts": 2,
        "final_items": 16,
        "pope_items": 12,
        "num_captions": 6,
        "num_texts": 8,
        "num_reference_images": 100,
        "num_anchor_texts": 16,
    },
)
"""What changes in each size, the largest first."""
