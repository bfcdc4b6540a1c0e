"""The strength of a repair, chosen on data: what was learned against what was kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from textanchor.bounds import require_range, require_seed
from textanchor.errors import ConfigError
from textanchor.evaluation.registry import load_suites
from textanchor.evaluation.results.summary import mean_over_tasks
from textanchor.evaluation.run import evaluate
from textanchor.evaluation.suite import AbstractSuite
from textanchor.evaluation.suites.closed import ClosedSuite

ACCURACY = "correct"
DEFAULT_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a repair is judged by: accuracy on suites of the new task, and on suites of what the model had."""

    learned: tuple[str, ...]
    """Suites of the new task: names, groups, or files as `folder:PATH`."""
    kept: tuple[str, ...]
    """Suites of what is to be kept."""
    strengths: tuple[float, ...] = DEFAULT_STRENGTHS
    num_items: int | None = None
    """Items of each suite; its own default where it is left out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.learned or not self.kept:
            raise ConfigError("validation needs suites of the new task (validate) and of what is to be kept (keep)")
        if not self.strengths or not all(0 <= strength <= 1 for strength in self.strengths):
            raise ConfigError(f"strengths must lie between 0 and 1, found {list(self.strengths)}")
        require_range("num_items", self.num_items, least=1)
        require_seed(self.seed)


@dataclass(frozen=True)
class SweepPoint:
    """Scores at one strength; accuracies are means over tasks."""

    strength: float
    learned: float
    kept: float

    @property
    def h_mean(self) -> float:
        """2 U D / (U + D) of what was kept and learned; 0 where both are 0."""
        total = self.learned + self.kept
        return 2 * self.learned * self.kept / total if total else 0.0


def sweep(
    model: nn.Module, processor: Any, validation: Validation, set_strength: Callable[[float], None]
) -> tuple[SweepPoint, ...]:
    """Scores of `model` at each strength, which `set_strength` puts into it."""
    learned = _suites(validation.learned, validation)
    kept = [suite for suite in _suites(validation.kept, validation) if suite.name not in {s.name for s in learned}]
    if not kept:
        raise ConfigError("validation: no suite is left to be kept that is not the new task itself")
    points = []
    for strength in sorted(set(validation.strengths)):
        set_strength(strength)
        scores = evaluate(model, processor, [*learned, *kept])
        means = [
            mean_over_tasks(scores, [suite.name for suite in suites], ACCURACY).estimate for suites in (learned, kept)
        ]
        points.append(SweepPoint(strength, *means))
    return tuple(points)


def best(points: Sequence[SweepPoint]) -> SweepPoint:
    """The point with the largest H-mean; of equal ones the least strength."""
    return max(points, key=lambda point: (point.h_mean, -point.strength))


def _suites(names: Sequence[str], validation: Validation) -> list[AbstractSuite]:
    suites = load_suites(names, num_items=validation.num_items, seed=validation.seed)
    other = next((suite for suite in suites if not isinstance(suite, ClosedSuite)), None)
    if other is not None:
        raise ConfigError(f"validation: suite {other.name!r} has no accuracy of closed answers; give other suites")
    return suites
