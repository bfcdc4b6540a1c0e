"""What a comparison is: defaults, new tasks, arms with strengths and learning rates, seeds, and what is scored."""

import re
from dataclasses import dataclass, field
from typing import Any

from textanchor.bounds import MOST_DRAWN, require_range, require_seed
from textanchor.errors import ConfigError
from textanchor.vlm.precision import Precision

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*(_[A-Za-z0-9.+-]+)*")
"""Names become parts of file names, which are joined by two underscores."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One new task."""

    set: dict[str, Any] = field(default_factory=dict)
    """What changes in the defaults; `data.task` becomes the task's own name unless it, or `data.path`, is set."""
    suite: str | None = None
    """Task of textanchor's own that learning is scored on; the name of this one where it is left out."""
    retained: tuple[str, ...] | None = None
    """Tasks that are to be kept. All shipped ones that the base model can do where it is left out: those in which its
    accuracy on the validation items is at least ten points above the commonest answer's."""


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One way of tuning."""

    set: dict[str, Any] = field(default_factory=dict)
    """What changes in the configuration: nested keys, or keys with dots. A mapping with `name` (a method) or `train` (a
    part) takes the place of the one that was there; other mappings are merged."""
    strengths: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key with dots -> its values, one run for each; several keys have as many values and move together."""
    learning_rates: tuple[float | dict[str, float], ...] = (1.0,)
    """A factor on the rate of every trained part, or the rate of each trained part by its name."""
    wise_ft: tuple[float, ...] = ()
    """After the last step, also score W0 + alpha (W - W0) at these alphas; they appear as an arm of their own."""

    def __post_init__(self) -> None:
        if len({len(values) for values in self.strengths.values()}) > 1:
            raise ConfigError("strengths: keys that move together need equally many values")
        if any(not values for values in self.strengths.values()) or not self.learning_rates:
            raise ConfigError("strengths and learning_rates need at least one value; leave them out for the default")
        for rate in self.learning_rates:
            for value in rate.values() if isinstance(rate, dict) else [rate]:
                require_range("learning_rates", value, above=0)
        for alpha in self.wise_ft:
            if not 0 < alpha < 1:
                raise ConfigError(f"wise_ft: each alpha must lie between 0 and 1, found {alpha}; both ends are scored")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is scored at step 0 and at log-spaced steps, the last one among them; the same items in every run."""

    validation_items: int = 24
    """Questions of each task to choose configurations on."""
    test_items: int = 24
    """Questions of each task that only the chosen configurations are compared on; other images than the former."""
    new_task_factor: int = 2
    """The new task has so many times as many of both."""
    texts: int = 16
    """Held-out texts."""
    free_items: int = 0
    """Test questions of each task that are also answered freely, before and after, to tell format from ability."""
    geometry_images: int = 16
    """Held-out images on which the projector's geometry is recorded; 0 records none."""
    geometry_directions: int = 32
    """Leading directions of the visual and of the text space whose angles and coupling are recorded."""
    points: int = 6
    """Number of log-spaced steps."""
    precision: Precision = "auto"
    """What the language model computes scores in; auto: whichever is faster, for all runs of a comparison alike."""
    batch_size: int = 24
    """Answers generated side by side, and rows where questions cannot share an image."""
    seed: int = 0
    """Which items are drawn, whatever the seed of the run."""

    def __post_init__(self) -> None:
        for name in (
            "validation_items",
            "test_items",
            "new_task_factor",
            "texts",
            "geometry_directions",
            "points",
            "batch_size",
        ):
            require_range(name, getattr(self, name), least=1, most=MOST_DRAWN)
        for name in ("free_items", "geometry_images"):
            require_range(name, getattr(self, name), least=0, most=MOST_DRAWN)
        require_seed(self.seed)
        if self.free_items > self.test_items:
            raise ConfigError(f"free_items are test items, of which there are {self.test_items}; lower free_items")


@dataclass(frozen=True, kw_only=True)
class MatrixConfig:
    """Every arm at each of its strengths and learning rates, on every task, with every seed."""

    name: str
    defaults: dict[str, Any]
    """What all runs share: keys of an adaptation run (`textanchor adapt`), but for output and training.seed."""
    tasks: dict[str, TaskConfig]
    arms: dict[str, ArmConfig]
    seeds: tuple[int, ...]
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for kind, names in (("name", [self.name]), ("tasks", self.tasks), ("arms", self.arms)):
            if not names:
                raise ConfigError(f"{kind}: give at least one")
            for name in names:
                if not NAME.fullmatch(name):
                    raise ConfigError(
                        f"{kind}: {name!r} must be letters, digits, dots, plus, minus and single underscores, because "
                        "it becomes part of a file name"
                    )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("seeds: give at least one, and each once")
        for seed in self.seeds:
            require_seed(seed, "seeds")
