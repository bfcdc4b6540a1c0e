"""Numbers that make no sense are refused before anything is drawn, loaded or allocated."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textanchor.analysis.config import MeasureConfig
from textanchor.bounds import LARGEST_SEED, require_range, require_seed
from textanchor.data.captioned import load_captioned
from textanchor.data.tasks import load_items
from textanchor.demo.run import run_demo
from textanchor.errors import ConfigError
from textanchor.evaluation.command import evaluate_named
from textanchor.evaluation.registry import load_suite
from textanchor.experiment.command import compare
from textanchor.experiment.config import EvaluationConfig, MatrixConfig
from textanchor.holds import FilterConfig
from textanchor.repairs.validate import Validation
from textanchor.training.config import DataConfig, TrainingConfig


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "told"),
    [
        ({"least": 1}, (1, 10**9, math.inf), (0, -1, -math.inf, math.nan), "x must be at least 1, found "),
        ({"above": 0}, (1e-300, 5), (0, -0.0, -1, math.nan), "x must be greater than 0, found "),
        ({"most": 20_000}, (-5, 20_000), (20_001, math.inf, math.nan), "x must be at most 20,000, found "),
        ({"least": 0, "most": 1}, (0, 0.5, 1), (-1e-9, 1.1, math.nan), "x must be at "),
    ],
)
def test_ranges(bounds: dict[str, float], inside: Any, outside: Any, told: str) -> None:
    for value in (None, *inside):
        require_range("x", value, **bounds)
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            require_range("x", value, why="mend it", **bounds)
        assert str(caught.value).startswith(told) and str(caught.value).endswith("; mend it")


def test_seeds_are_those_that_numpy_and_the_trainer_take() -> None:
    require_seed(0)
    require_seed(LARGEST_SEED)
    for value in (-1, LARGEST_SEED + 1):
        with pytest.raises(ConfigError, match="seed must be at"):
            require_seed(value)


TOO_MANY = 10**9
MATRIX: dict[str, Any] = {"name": "m", "defaults": {}, "tasks": {"digits": {}}, "arms": {"full": {}}}


@pytest.mark.parametrize(
    "ask",
    [
        lambda out: TrainingConfig(max_steps=TOO_MANY),
        lambda out: TrainingConfig(epochs=TOO_MANY),
        lambda out: TrainingConfig(max_steps=1, accumulation=TOO_MANY),
        lambda out: TrainingConfig(max_steps=1, weight_decay=math.nan),
        lambda out: TrainingConfig(max_steps=1, seed=-1),
        lambda out: DataConfig(task="words", num_images=TOO_MANY),
        lambda out: MeasureConfig(model="embedded", data="scenes", seed=-1),
        lambda out: MeasureConfig(model="embedded", data="scenes", tuning_steps=TOO_MANY),
        lambda out: EvaluationConfig(points=TOO_MANY),
        lambda out: EvaluationConfig(seed=-1),
        lambda out: MatrixConfig(**MATRIX, seeds=(0, -1)),
        lambda out: FilterConfig(mode="inputs", basis="random", num_kept=2, basis_seed=-1),
        lambda out: Validation(learned=("words",), kept=("tasks",), seed=-1),
        lambda out: load_items("color", split="test", num_items=TOO_MANY),
        lambda out: load_captioned("scenes", num_images=TOO_MANY),
        lambda out: load_suite("pope_scenes", num_items=TOO_MANY),
        lambda out: load_suite("chair_scenes", num_items=TOO_MANY),
        lambda out: evaluate_named("embedded", ["color"], seed=-1, out=out),
        lambda out: evaluate_named("embedded", ["color", "digits"], num_items=TOO_MANY, out=out),
        lambda out: run_demo(out, task="digits", seed=-1),
        lambda out: compare("none.yaml", out, max_minutes=math.nan),
    ],
)
def test_every_entry_refuses_it_at_once(ask: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be (at least|at most|greater than)"):
        ask(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
